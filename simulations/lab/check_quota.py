#!/usr/bin/env python3
"""Judges whether a fleet kept its quotas, by nothing but the notes of the hosts' own scripts.

    check_quota.py DIR

DIR/promise.json says what was promised:

    {"groups": {"web": {"quota": 2, "hosts": ["web-1", ...], "wanted": "7"}}}

DIR/HOST/events has a line for each thing that a script did, in the order in which it happened:

    SECONDS GROUP EVENT VERSION

SECONDS are those since the machine started, the same clock for all. A host is down from its first
event of a group until it notes `up` for that group; while it is down for one group it is down for
each group that it is in. At no time may more hosts of a group be down than its quota, and at the end
every host must be up with the wanted version. Shares no code with the fleet and asks it nothing.
Ends with 0 if both hold, with 1 if not, with 2 if the notes cannot be read.
"""

import json
import pathlib
import sys


def spans(lines):
    """The times for which a host was down, and what runs in each group at the end."""
    since, found, last = {}, [], {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 4:
            raise ValueError(f"line {number}: four words are needed: {line!r}")
        at, group, event, version = float(words[0]), *words[1:]
        if event == "up":
            if group in since:
                found.append((since.pop(group), at, group))
            last[group] = version
        else:
            since.setdefault(group, at)
            last[group] = None
    found.extend((start, float("inf"), group) for group, start in since.items())
    return found, last


def most_down(downtimes):
    """How many hosts were down at once at the worst time, and when and which that was.

    One that comes up in the very moment in which another goes down is up: the clock's steps are 10 ms.
    """
    edges = []
    for host, start, end in downtimes:
        edges += [(start, 1, host), (end, 0, host)]
    down, worst, when, which = {}, 0, None, []
    for at, goes_down, host in sorted(edges):
        down[host] = down.get(host, 0) + (1 if goes_down else -1)
        now = sorted(host for host, count in down.items() if count > 0)
        if len(now) > worst:
            worst, when, which = len(now), at, now
    return worst, when, which


def check(promise, notes):
    """All that is wrong, and a line about each group."""
    wrong, told = [], []
    known = {host: spans(lines) for host, lines in notes.items()}
    for name, group in sorted(promise["groups"].items()):
        downtimes, times = [], 0
        for host in group["hosts"]:
            if host not in known:
                wrong.append(f"{name}: {host} has no notes")
                continue
            found, last = known[host]
            downtimes += [(host, start, end) for start, end, _ in found]
            times += sum(1 for *_, of in found if of == name)
            if last.get(name) != group["wanted"]:
                runs = last.get(name)
                wrong.append(f"{name}: {host} ends with {runs}, not with {group['wanted']}")
        worst, when, which = most_down(downtimes)
        if worst > group["quota"]:
            down = ", ".join(which)
            wrong.append(f"{name}: {worst} of {group['quota']} down at {when:.2f}: {down}")
        if times < len(group["hosts"]):
            wrong.append(f"{name}: only {times} disruptions: nothing is shown by that")
        told.append(f"{name}: {times} disruptions, at most {worst} of {group['quota']} down at once")
    return wrong, told


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    place = pathlib.Path(sys.argv[1])
    try:
        promise = json.loads((place / "promise.json").read_text())
        files = sorted(place.glob("*/events"))
        notes = {file.parent.name: file.read_text().splitlines() for file in files}
        wrong, told = check(promise, notes)
    except (OSError, ValueError, KeyError) as error:
        print(f"check_quota: the notes cannot be judged: {error}", file=sys.stderr)
        return 2
    for line in told:
        print(line)
    for line in wrong:
        print(f"BROKEN: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

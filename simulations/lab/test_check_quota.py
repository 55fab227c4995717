#!/usr/bin/env python3
"""The judge must be able to say no: each promise, kept and broken."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

JUDGE = pathlib.Path(__file__).with_name("check_quota.py")
PROMISE = """{"groups": {
  "web": {"quota": 1, "hosts": ["a", "b"], "wanted": "2"},
  "edge": {"quota": 1, "hosts": ["b", "c"], "wanted": "2"}}}"""
KEPT = {
    "a": ["1.00 web ApplicationStop 1", "1.20 web ValidateService 2", "2.00 web up 2"],
    "b": [
        "2.00 web ApplicationStop 1",
        "3.00 web up 2",
        "4.00 edge ApplicationStop 1",
        "5.00 edge up 2",
    ],
    "c": ["3.00 edge ApplicationStop 1", "3.90 edge up 2"],
}


def judge(notes, promise=PROMISE):
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "promise.json").write_text(promise)
        for host, lines in notes.items():
            (place / host).mkdir()
            (place / host / "events").write_text("".join(line + "\n" for line in lines))
        run = subprocess.run([sys.executable, JUDGE, place], capture_output=True, text=True)
        return run.returncode, run.stdout + run.stderr


class Judge(unittest.TestCase):
    def breaks(self, words, **changed):
        code, said = judge({**KEPT, **changed})
        self.assertEqual(code, 1, said)
        self.assertIn(words, said)

    def test_what_is_kept_passes(self):
        code, said = judge(KEPT)
        self.assertEqual(code, 0, said)
        self.assertIn("web: 2 disruptions, at most 1 of 1 down at once", said)

    def test_one_too_many_in_a_group(self):
        late = ["1.00 web ApplicationStop 1", "2.01 web up 2"]
        self.breaks("web: 2 of 1 down at 2.00: a, b", a=late)

    def test_a_host_is_down_for_all_its_groups(self):
        early = ["2.50 edge ApplicationStop 1", "2.90 edge up 2"]
        self.breaks("edge: 2 of 1 down at 2.50: b, c", c=early)

    def test_one_that_never_comes_up_stays_down(self):
        self.breaks("web: 2 of 1 down", a=["1.00 web ApplicationStop 1"])

    def test_the_end_must_be_what_was_wanted(self):
        old = ["1.00 web ApplicationStop 1", "2.00 web up 1"]
        self.breaks("web: a ends with 1, not with 2", a=old)
        stopped = KEPT["c"] + ["9.00 edge ApplicationStop 2"]
        self.breaks("edge: c ends with None, not with 2", c=stopped)

    def test_a_run_that_shows_nothing_is_no_proof(self):
        self.breaks("only 1 disruptions", a=["1.00 web up 2"])

    def test_notes_that_are_missing_or_torn(self):
        code, said = judge({host: KEPT[host] for host in "ab"})
        self.assertEqual(code, 1, said)
        self.assertIn("edge: c has no notes", said)
        code, said = judge({**KEPT, "a": ["1.00 web"]})
        self.assertEqual(code, 2, said)


if __name__ == "__main__":
    unittest.main()

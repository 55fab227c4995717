//! What is shown: the fleet, its hosts, its deployments.

use std::{fmt::Write, time::Duration};

use groundswell_protocol::{
    ids::{ApplicationName, DeploymentId, GroupName, Malformed},
    limits::VOTER_CHANGES_FEW,
};
use groundswell_signer::{group_file, inspect};

use super::{
    Failed, Output,
    deploy::{find_group, list},
    text::{Table, ago, duration, or_dash, short},
};
use crate::control::{
    api::{Doubt, Fleet, Host, HostGroup, Release, Released, Report, Slot, Summary, WriteOff},
    client::Client,
};

pub(super) async fn status(client: &Client, watch: bool, out: Output) -> Result<(), Failed> {
    if !watch {
        let fleet = client.fleet().await?;
        return if out.json { out.json(&fleet) } else { out.line(status_text(&fleet)) };
    }
    loop {
        match client.fleet().await {
            Ok(fleet) if out.json => out.json_line(&fleet)?,
            Ok(fleet) => out.screen(status_text(&fleet))?,
            // A daemon that is restarted comes back.
            Err(error) if !out.json => out.screen(short(&error.to_string()))?,
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

fn status_text(fleet: &Fleet) -> String {
    let mut text = String::new();
    let up = fleet.hosts.iter().filter(|host| host.standing == "reachable").count();
    let leader =
        fleet.leader.as_deref().map_or_else(|| "nobody leads".into(), |l| format!("{l} leads"));
    let (voters, all) = (fleet.voters.len(), fleet.hosts.len());
    line(
        &mut text,
        format!("fleet {}: {up} of {all} hosts up, {voters} voters, {leader}", fleet.name),
    );
    if fleet.root_keys == 1 {
        line(&mut text, "root: 1 of 1: one key says who holds every role");
    }
    if let Some(left @ 0..=VOTER_CHANGES_FEW) = fleet.voter_changes_left {
        line(&mut text, format!("voters can change {left} times more: see `swell voters`"));
    }
    if !fleet.joined {
        let why = fleet.turned_away.as_deref().unwrap_or("nobody has let it in yet");
        line(&mut text, format!("this host has not joined: {why}"));
    }
    seeds_text(&mut text, fleet);
    if !fleet.executor {
        line(&mut text, "swell-exec does not answer on this host: nothing can be deployed to it");
    }
    let mut table = Table::new(&["", "HOST", "STATE", "GROUP", "RELEASE", "DOING", "HEARD"]);
    for host in &fleet.hosts {
        let mark = if host.name == fleet.me { "*" } else { "" };
        let state = match (stands(host), host.healthy) {
            ("reachable", _) if host.drained.is_some() => "drained",
            (_, _) if host.drained.is_some() => "drained, away",
            ("reachable", true) => "up",
            ("reachable", false) if !host.counted => "not counted",
            ("reachable", false) => "unhealthy",
            (other, _) => other,
        };
        let heard = host.heard_seconds_ago.map_or_else(|| "never".into(), duration);
        let first = [mark.to_owned(), host.name.clone(), state.to_owned()];
        if host.groups.is_empty() {
            table.row(first.into_iter().chain([dash(), dash(), dash(), heard]));
            continue;
        }
        for group in &host.groups {
            let rest = [group.group.clone(), release_text(group), doing_text(group), heard.clone()];
            table.row(first.clone().into_iter().chain(rest));
        }
    }
    write!(text, "\n{table}\n").ok();
    if !fleet.groups.is_empty() {
        writeln!(text, "{}", groups_table(fleet)).ok();
    }
    for deployment in &fleet.deployments {
        line(&mut text, summary_text(deployment));
    }
    doubled_text(&mut text, fleet);
    wait_text(&mut text, fleet);
    left_text(&mut text, fleet);
    text
}

/// Who comes where the others are with the next order only.
fn wait_text(text: &mut String, fleet: &Fleet) {
    for group in fleet.groups.iter().filter(|group| !group.wait_for_order.is_empty()) {
        let (name, hosts) = (&group.name, group.wait_for_order.join(", "));
        let good = or_dash(group.last_good.as_deref());
        line(
            text,
            format!("group {name}: not at {good}, and the next order brings them there: {hosts}"),
        );
    }
}

/// Who holds a slot of a deployment that is over, and what somebody may do about it.
fn left_text(text: &mut String, fleet: &Fleet) {
    for Slot { host, token, deployment, .. } in left(fleet) {
        line(
            text,
            format!(
                "{host} holds slot {token} of {deployment}, which is over: it counts as down until it \
                 reports; if it is gone for good, `swell slots release {host}` or `swell hosts remove \
                 {host}`"
            ),
        );
    }
}

fn left(fleet: &Fleet) -> impl Iterator<Item = &Slot> {
    fleet.slots.iter().filter(|slot| slot.is_left && slot.released.is_none())
}

fn groups_table(fleet: &Fleet) -> Table {
    let mut table =
        Table::new(&["GROUP", "APPLICATION", "HOSTS", "DOWN", "CONFIGURATION", "LAST GOOD"]);
    for group in &fleet.groups {
        table.row([
            group.name.clone(),
            group.application.clone(),
            group.hosts.len().to_string(),
            format!("{} of {}", group.down.len(), group.quota),
            match group.frozen {
                Some(_) => format!("{}, frozen", group.configuration),
                None => group.configuration.clone(),
            },
            or_dash(group.last_good.as_deref()),
        ]);
    }
    table
}

pub(super) async fn groups(client: &Client, out: Output) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    if out.json {
        return out.json(&fleet.groups);
    }
    out.line(match fleet.groups.is_empty() {
        true => "there is no deployment group: make one with `swell group apply`".into(),
        false => groups_table(&fleet).to_string(),
    })
}

/// The settings of a group that are in force: for people, as a program reads them, or as their file.
pub(super) async fn group(
    client: &Client,
    name: &GroupName,
    toml: bool,
    out: Output,
) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    let group = find_group(&fleet, name)?;
    if out.json && !toml {
        return out.json(group);
    }
    let older = || {
        let reason = format!("swelld does not say here what the settings of {name} are");
        Failed::with_hint(reason, "update swelld on this host")
    };
    let text = group.settings.as_deref().ok_or_else(older)?;
    if toml {
        return out.line(text);
    }
    let mut settings = group_file::read(&format!("the settings of {name}"), text)?;
    settings.version = group.version;
    out.line(inspect::group(&settings))
}

/// What a host runs, with a mark where it is not the last good release of its group.
fn release_text(group: &HostGroup) -> String {
    let mark = group.runs.as_deref().filter(|runs| *runs != "last good");
    match (&group.release, mark) {
        (Some(release), Some(mark)) => format!("{release} ({mark})"),
        (Some(release), None) => release.clone(),
        (None, mark) => or_dash(mark),
    }
}

/// What a host does, and for how long where that is long.
fn doing_text(group: &HostGroup) -> String {
    let doing = match (group.state.as_str(), &group.event, group.percent) {
        ("no executor", ..) => "swell-exec does not answer".into(),
        (state, Some(event), _) => format!("{state}: {event}"),
        (state, None, Some(percent)) => format!("{state} {percent} %"),
        (state, None, None) => state.to_owned(),
    };
    let rests = matches!(group.state.as_str(), "idle" | "unknown");
    for_long(doing, group.seconds.filter(|_| !rests))
}

fn for_long(doing: String, seconds: Option<u64>) -> String {
    match seconds.filter(|seconds| *seconds >= LONG_SECONDS) {
        Some(seconds) => format!("{doing}, for {}", duration(seconds)),
        None => doing,
    }
}

/// Which seeds a host tries that is connected to nobody, and what came of each.
fn seeds_text(text: &mut String, fleet: &Fleet) {
    let others = fleet.hosts.iter().filter(|host| host.name != fleet.me);
    let alone_for_good = fleet.joined && others.clone().next().is_none();
    if alone_for_good || others.clone().any(|host| host.connected) {
        return;
    }
    if fleet.seeds.is_empty() {
        line(text, "this host is connected to no other, and has no seeds: name one in swelld.toml");
        return;
    }
    line(text, "this host is connected to no other; it looks for the fleet at");
    for seed in &fleet.seeds {
        let came = match (&seed.error, seed.answered) {
            (Some(error), _) => error.clone(),
            (None, true) => "a host of the fleet answered".into(),
            (None, false) => "no answer yet".into(),
        };
        let tried = seed.tried_seconds_ago.map(|ago| format!(" ({} ago)", duration(ago)));
        line(text, format!("  {}: {came}{}", seed.address, tried.unwrap_or_default()));
    }
}

/// One line about a deployment.
pub(super) fn summary_text(summary: &Summary) -> String {
    let Summary { id, group, label, status, succeeded, hosts, .. } = summary;
    let mut text = format!("{id}: {group} to {label}: {status}, {succeeded} of {hosts} hosts");
    if let Some(stage) = &summary.stage {
        text.push_str(&format!(", {stage}"));
    }
    if summary.creator != "operator" {
        text.push_str(&format!(" ({})", summary.creator));
    }
    for more in [&summary.reason, &summary.waiting].into_iter().flatten() {
        text.push_str(&format!("; {more}"));
    }
    text
}

pub(super) async fn deployments(client: &Client, out: Output) -> Result<(), Failed> {
    let all = client.deployments().await?;
    if out.json {
        return out.json(&all);
    }
    let mut table = Table::new(&["ID", "GROUP", "RELEASE", "BY", "STATUS", "HOSTS", "BEGAN"]);
    for summary in &all {
        table.row([
            summary.id.clone(),
            summary.group.clone(),
            summary.label.clone(),
            summary.creator.clone(),
            summary.status.clone(),
            format!("{} of {}", summary.succeeded, summary.hosts),
            ago(summary.created_at),
        ]);
    }
    out.line(table.to_string())
}

pub(super) async fn show(client: &Client, id: &str, out: Output) -> Result<(), Failed> {
    let report = find(client, id).await?;
    if out.json { out.json(&report) } else { out.line(report_text(&report)) }
}

/// The report of a deployment that somebody names.
pub(super) async fn find(client: &Client, id: &str) -> Result<Report, Failed> {
    let id: DeploymentId = id.parse().map_err(|error: Malformed| {
        Failed::with_hint(error.to_string(), "see `swell deployments`")
    })?;
    Ok(client.report(&id.to_string()).await?)
}

/// The whole report of a deployment.
pub(super) fn report_text(report: &Report) -> String {
    let mut text = String::new();
    let summary = &report.summary;
    line(&mut text, summary_text(summary));
    line(&mut text, format!("application    {}", report.application));
    line(&mut text, format!("release        {} ({})", summary.label, report.release));
    if let Some(revision) = &report.revision {
        line(&mut text, format!("revision       {revision}"));
    }
    line(&mut text, format!("order          {}", report.order));
    line(&mut text, format!("configuration  {}", report.configuration));
    if !report.comment.is_empty() {
        line(&mut text, format!("reason         {}", report.comment));
    }
    if let Some(stop) = &report.stopped {
        let reason = Some(&stop.reason).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        line(&mut text, format!("stop ordered   {}{reason}", time(stop.at)));
    }
    if let Some(fallback) = &report.fallback {
        line(&mut text, format!("if it fails    back to {fallback}"));
    }
    if let Some(related) = &report.related {
        line(&mut text, format!("same order     {related}"));
    }
    line(&mut text, format!("began          {}", time(summary.created_at)));
    if let Some(ended) = summary.ended_at {
        let took = duration(ended.saturating_sub(summary.created_at));
        line(&mut text, format!("ended          {}, after {took}", time(ended)));
    }
    let mut table = Table::new(&["HOST", "STATUS", "BEGAN", "TOOK", "DOING"]);
    for target in &report.targets {
        let took =
            target.started_at.zip(target.ended_at).map(|(a, b)| duration(b.saturating_sub(a)));
        let doing = target.doing.clone().map(|doing| for_long(doing, target.doing_seconds));
        let doing = doing.or_else(|| target.reason.clone());
        table.row([
            target.host.clone(),
            target.status.clone(),
            target.started_at.map_or_else(dash, time),
            took.unwrap_or_else(dash),
            or_dash(doing.as_deref()),
        ]);
    }
    write!(text, "\n{table}\n").ok();
    for target in &report.targets {
        let Some(failure) = &target.failure else { continue };
        let restored = if failure.restored {
            "the revision before runs again"
        } else {
            "NOTHING was put back"
        };
        let (host, event, message) = (&target.host, &failure.event, &failure.message);
        line(&mut text, format!("{host}: {event} failed: {message}; {restored}"));
        for log in failure.log.lines() {
            line(&mut text, format!("    {log}"));
        }
        let id = &summary.id;
        line(&mut text, format!("    all of it: swell logs {id} --host {host}"));
    }
    if let Some(held) = held_text(summary) {
        line(&mut text, held);
    }
    text
}

/// How many hosts hold slots of a deployment that is over.
pub(super) fn held_text(summary: &Summary) -> Option<String> {
    match summary.in_progress {
        _ if !summary.is_over() => None,
        0 => None,
        1 => Some("1 host is away and holds its slot still: see `swell slots`".into()),
        hosts => Some(format!("{hosts} hosts are away and hold slots still: see `swell slots`")),
    }
}

pub(super) async fn releases(
    client: &Client,
    application: Option<&ApplicationName>,
    out: Output,
) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    let known = |name: &ApplicationName| {
        fleet.releases.iter().any(|release| release.application == name.as_str())
    };
    if let Some(name) = application.filter(|name| !known(name)) {
        let mut all: Vec<_> = fleet.releases.iter().map(|r| r.application.as_str()).collect();
        all.dedup();
        let hint = format!("there are releases of: {}; push one with `swell push`", list(&all));
        return Err(Failed::with_hint(format!("application {name} has no release"), hint));
    }
    let releases = released(&fleet, application);
    if out.json { out.json(&releases) } else { out.line(releases_text(&releases)) }
}

/// Each release with its groups and hosts, newest first.
fn released(fleet: &Fleet, application: Option<&ApplicationName>) -> Vec<Released> {
    let wanted = |release: &&Release| {
        application.is_none_or(|application| release.application == application.as_str())
    };
    let mut all: Vec<_> = fleet.releases.iter().filter(wanted).map(|r| run_by(fleet, r)).collect();
    // Those of one second, as in a script, by their labels.
    all.sort_by(|a, b| {
        let key = |known: &Released| (known.release.created_at, known.release.label.clone());
        key(b).cmp(&key(a))
    });
    all
}

fn run_by(fleet: &Fleet, release: &Release) -> Released {
    let is_of = |name: &str| {
        let group = fleet.groups.iter().find(|group| group.name == name);
        group.is_some_and(|group| group.application == release.application)
    };
    let runs =
        |group: &HostGroup| group.release.as_ref() == Some(&release.label) && is_of(&group.group);
    let hosts = fleet.hosts.iter().filter(|host| host.groups.iter().any(runs));
    let good =
        fleet.groups.iter().filter(|group| group.last_good_release.as_ref() == Some(&release.id));
    Released {
        release: release.clone(),
        hosts: hosts.map(|host| host.name.clone()).collect(),
        last_good_of: good.map(|group| group.name.clone()).collect(),
    }
}

fn releases_text(releases: &[Released]) -> String {
    if releases.is_empty() {
        return "no release is known: push one with `swell push`".into();
    }
    let mut table = Table::new(&[
        "APPLICATION",
        "LABEL",
        "REVISION",
        "SIGNED",
        "LAST GOOD OF",
        "RUNS ON",
        "ID",
    ]);
    for Released { release, hosts, last_good_of } in releases {
        table.row([
            release.application.clone(),
            release.label.clone(),
            release.revision.chars().take(SHORT_ID_CHARS).collect(),
            time(release.created_at),
            or_dash(Some(&last_good_of.join(", "))),
            hosts_text(hosts),
            release.id.clone(),
        ]);
    }
    table.to_string()
}

/// A few names, or how many there are.
fn hosts_text(hosts: &[String]) -> String {
    match hosts.len() {
        0 => dash(),
        1..=4 => hosts.join(", "),
        count => format!("{count} hosts"),
    }
}

/// How a host stands, for people: of one whose daemon was stopped nobody wonders why it is silent.
/// Its last word comes a moment before the verdict on it.
fn stands(host: &Host) -> &str {
    if host.stopped { "stopped" } else { &host.standing }
}

pub(super) async fn hosts(client: &Client, out: Output) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    if out.json {
        return out.json(&fleet.hosts);
    }
    let mut table = Table::new(&[
        "HOST",
        "STANDING",
        "HEALTHY",
        "HEARD",
        "LABELS",
        "ZONE",
        "VERSION",
        "ADDRESSES",
    ]);
    for host in &fleet.hosts {
        table.row([
            host.name.clone(),
            stands(host).into(),
            match (host.healthy, host.counted) {
                (true, _) => "yes".into(),
                (false, _) if host.drained.is_some() => "drained".into(),
                (false, true) => "no".into(),
                (false, false) => "not counted".into(),
            },
            host.heard_seconds_ago
                .map_or_else(|| "never".into(), |s| format!("{} ago", duration(s))),
            or_dash(Some(&host.labels)),
            or_dash(host.zone.as_deref()),
            or_dash(host.version.as_deref()),
            or_dash(Some(&host.addresses.join(" "))),
        ]);
    }
    let mut text = table.to_string();
    doubled_text(&mut text, &fleet);
    out.line(text)
}

/// Hosts whose key two machines have.
fn doubled_text(text: &mut String, fleet: &Fleet) {
    for host in fleet.hosts.iter().filter(|host| host.doubled) {
        let said = format!(
            "{}: two machines speak with its key, as the copy of a disk does: stop swelld on one of them, and \
             join it anew under a name of its own",
            host.name
        );
        line(text, said);
    }
}

pub(super) async fn slots(client: &Client, out: Output) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    if out.json {
        return out.json(&fleet.slots);
    }
    out.line(slots_text(&fleet))
}

/// Who holds what, since when, and why nothing moves.
fn slots_text(fleet: &Fleet) -> String {
    let mut text = String::new();
    if fleet.slots.is_empty() {
        line(&mut text, "no slot is held: nothing is being disrupted");
    } else {
        let mut table = Table::new(&["SLOT", "HOST", "GROUP", "DEPLOYMENT", "SINCE", "HEARD", ""]);
        for slot in &fleet.slots {
            let heard = slot.silent_seconds;
            let released = slot.released.map(|at| format!("release ordered {}", ago(at)));
            table.row([
                slot.token.to_string(),
                slot.host.clone(),
                slot.group.clone(),
                slot.deployment.clone(),
                ago(slot.since),
                heard.map_or_else(|| "never".into(), |s| format!("{} ago", duration(s))),
                released.unwrap_or_default(),
            ]);
        }
        writeln!(text, "{table}").ok();
    }
    for deployment in fleet.deployments.iter().filter(|d| !d.is_over()) {
        if let Some(waiting) = &deployment.waiting {
            line(&mut text, format!("{} ({}): {waiting}", deployment.id, deployment.group));
        }
    }
    wait_text(&mut text, fleet);
    left_text(&mut text, fleet);
    for write_off in &fleet.written_off {
        let WriteOff { host, token, deployment, since } = write_off;
        let with = match (token, deployment) {
            (Some(token), Some(deployment)) => format!("with slot {token} of {deployment}"),
            _ => "and may hold a slot that was lost with voters".into(),
        };
        let since = ago(*since);
        line(&mut text, format!("{host} was written off {since} {with}; not heard of since"));
    }
    text
}

pub(super) async fn voters(client: &Client, out: Output) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    if out.json {
        return out.json(&fleet.voters);
    }
    let mut table = Table::new(&["VOTER", "STANDING", "ROLE"]);
    for voter in &fleet.voters {
        let role = if voter.leader { "leader" } else { "follower" };
        table.row([voter.name.clone(), voter.standing.clone(), role.into()]);
    }
    let mut text = format!("{table}last entry applied here: {}", fleet.applied);
    if let Some(left) = fleet.voter_changes_left.filter(|left| *left <= VOTER_CHANGES_FEW) {
        text.push('\n');
        text.push_str(&few_changes_text(left));
    }
    if let Some(Doubt { heard, needed }) = &fleet.doubt {
        text.push_str(&format!(
            "\n{} does not vote yet: its machine was started, and {needed} other voters have to say what \
             it may have forgotten; {} did\nif nobody has put its disk back to an older state: \
             swell voters trust-disk",
            fleet.me,
            if heard.is_empty() { "none".into() } else { heard.join(", ") },
        ));
    }
    if let Some(index) = fleet.lacks {
        text.push_str(&format!(
            "\n{} votes only for a leader that has entry {index}: another voter had it when this machine \
             was started\nif no voter has it any more, and nobody has put this disk back to an older state: \
             swell voters trust-disk",
            fleet.me,
        ));
    }
    out.line(text)
}

/// What to do about voters that have changed very often.
fn few_changes_text(left: usize) -> String {
    format!(
        "the voters can change by themselves {left} times more: each change is kept for good, and there is \
         room for so many\nkeep hosts that come and go from voting: approve them with the label \
         voter=never\nwhen none is left, only `swell voters recover` puts another voter in the place of \
         one that is gone"
    )
}

fn time(seconds: u64) -> String {
    groundswell_protocol::time::UnixSeconds(seconds).to_string()
}

fn dash() -> String {
    "-".into()
}

/// Adds one line, whatever `more` quotes.
fn line(text: &mut String, more: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    writeln!(text, "{}", short(&more.to_string())).ok();
}

/// As other short forms of ids.
const SHORT_ID_CHARS: usize = 8;
/// What takes longer is worth a number.
const LONG_SECONDS: u64 = 5;
const WATCH_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_host_is_shown_as_such_before_the_verdict_on_it() {
        let host = |standing: &str, stopped: bool| -> Host {
            let host = serde_json::json!({
                "id": "", "name": "a", "labels": "", "zone": null, "standing": standing,
                "heard_seconds_ago": 0, "healthy": true, "stopped": stopped, "connected": true,
                "version": null, "addresses": [], "groups": [],
            });
            serde_json::from_value(host).unwrap()
        };
        assert_eq!(stands(&host("reachable", true)), "stopped");
        assert_eq!(stands(&host("unreachable", true)), "stopped");
        assert_eq!(stands(&host("suspect", false)), "suspect");
    }

    fn fleet(turned_away: &str) -> Fleet {
        let fleet = serde_json::json!({
            "version": 1, "id": "", "name": "f", "root_threshold": 2, "root_keys": 3, "me": "a",
            "joined": false, "turned_away": turned_away, "executor": true, "leader": null,
            "applied": 0, "hosts": [], "groups": [], "releases": [], "slots": [], "voters": [],
            "deployments": [],
        });
        serde_json::from_value(fleet).unwrap()
    }

    #[test]
    fn what_another_host_said_stays_in_its_line() {
        let before = status_text(&fleet("no")).lines().count();
        let text = status_text(&fleet("\x1b[2J\nroot: 2 of 3\u{202e}"));
        assert!(text.contains("has not joined: \\u{1b}[2J\\nroot: 2 of 3\\u{202e}\n"), "{text}");
        assert_eq!(text.lines().count(), before);
        let long = status_text(&fleet(&"x".repeat(64 << 10)));
        assert!(long.len() < 2000, "{} bytes", long.len());
    }

    #[test]
    fn a_key_that_two_machines_have_is_named() {
        let mut fleet = fleet("no");
        let host = serde_json::json!({
            "id": "", "name": "web-1", "labels": "", "zone": null, "standing": "reachable",
            "heard_seconds_ago": 1, "healthy": true, "connected": true, "version": null,
            "addresses": [], "groups": [],
        });
        fleet.hosts.push(serde_json::from_value(host).unwrap());
        assert!(!status_text(&fleet).contains("two machines"));
        fleet.hosts[0].doubled = true;
        assert!(status_text(&fleet).contains("web-1: two machines speak with its key"));
    }

    #[test]
    fn it_is_said_long_before_the_voters_can_change_no_more() {
        let mut fleet = fleet("no");
        for (left, said) in [(None, false), (Some(257), false), (Some(256), true), (Some(0), true)]
        {
            fleet.voter_changes_left = left;
            assert_eq!(status_text(&fleet).contains("see `swell voters`"), said, "{left:?}");
        }
        let text = few_changes_text(256);
        assert!(text.contains("256 times") && text.contains("voter=never"), "{text}");
    }

    #[test]
    fn a_host_that_has_not_been_counted_is_told_from_one_that_is_not_well() {
        let mut fleet = fleet("no");
        for (counted, state) in [(true, "unhealthy"), (false, "not counted")] {
            let host = serde_json::json!({
                "id": "", "name": "web-1", "labels": "", "zone": null, "standing": "reachable",
                "heard_seconds_ago": 1, "healthy": false, "counted": counted, "connected": true,
                "version": null, "addresses": [], "groups": [],
            });
            fleet.hosts = vec![serde_json::from_value(host).unwrap()];
            assert!(status_text(&fleet).contains(state), "{}", status_text(&fleet));
        }
    }

    #[test]
    fn hosts_that_wait_for_the_next_order_are_named() {
        let mut fleet = fleet("no");
        let group = serde_json::json!({
            "name": "web", "application": "web", "filter": "", "version": 1, "configuration": "OneAtATime",
            "hosts": ["a", "b"], "down": [], "quota": 1, "last_good": "7", "last_good_release": null,
            "sequence": 2, "head": "", "running": null, "catch_up": true, "deploy_to_new_hosts": true,
            "automatic_rollback": true, "failure_budget": null, "settings": null,
            "wait_for_order": ["b"],
        });
        fleet.groups.push(serde_json::from_value(group).unwrap());
        for text in [slots_text(&fleet), status_text(&fleet)] {
            let said = "group web: not at 7, and the next order brings them there: b";
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn slots_say_who_holds_them_and_why_nothing_moves() {
        let mut fleet = fleet("no");
        assert!(slots_text(&fleet).contains("no slot is held"));
        let slot = serde_json::json!({
            "token": 7, "host": "web-2", "deployment": "d-1", "since": 0, "group": "web",
            "silent_seconds": 240, "released": null,
        });
        let mut left = slot.clone();
        left["is_left"] = true.into();
        let waits = "1 of 1 slots held by web-2; web-2 silent for 4 min";
        let summary = serde_json::json!({
            "id": "d-1", "group": "web", "label": "1", "creator": "operator",
            "status": "in progress", "reason": null, "waiting": waits, "succeeded": 0, "failed": 0,
            "in_progress": 1, "hosts": 3, "created_at": 0, "ended_at": null,
        });
        fleet.slots.push(serde_json::from_value(slot).unwrap());
        fleet.deployments.push(serde_json::from_value(summary).unwrap());
        fleet.written_off.push(WriteOff {
            host: "web-3".into(),
            token: Some(5),
            deployment: Some("d-0".into()),
            since: 0,
        });
        let text = slots_text(&fleet);
        assert!(text.contains("web-2  web    d-1") && text.contains("4 min ago"), "{text}");
        assert!(text.contains(&format!("d-1 (web): {waits}")), "{text}");
        assert!(text.contains("web-3 was written off"), "{text}");
        let way_out = "`swell slots release web-2` or `swell hosts remove web-2`";
        assert!(!text.contains(way_out), "its deployment waits for it: {text}");
        fleet.slots = vec![serde_json::from_value(left).unwrap()];
        for text in [slots_text(&fleet), status_text(&fleet)] {
            assert!(
                text.contains("slot 7 of d-1, which is over") && text.contains(way_out),
                "{text}"
            );
        }
    }

    #[test]
    fn what_a_hook_printed_stays_in_its_lines() {
        let report = serde_json::json!({
            "version": 1, "application": "shop", "release": "r", "revision": null, "order": "o",
            "configuration": "OneAtATime", "comment": "a\nb", "fallback": null, "related": null,
            "summary": {
                "id": "d-1", "group": "web", "label": "1", "creator": "operator",
                "status": "failed", "reason": "\x1b]0;x\x07", "waiting": null, "succeeded": 0,
                "failed": 1, "in_progress": 0, "hosts": 1, "created_at": 0, "ended_at": null,
            },
            "targets": [{
                "host": "a", "status": "failed", "doing": null, "percent": 0, "started_at": null,
                "ended_at": null, "reason": null,
                "failure": {
                    "event": "Install\r", "script": "", "code": 0, "message": "m\x1b[A",
                    "log": "one\x1b[2J\ntwo", "restored": true,
                },
            }],
        });
        let text = report_text(&serde_json::from_value(report).unwrap());
        assert!(text.chars().all(|c| c == '\n' || super::super::text::is_harmless(c)), "{text}");
        assert!(text.contains("\n    one\\u{1b}[2J\n    two\n"), "{text}");
    }
}

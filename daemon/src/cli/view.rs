//! What is shown: the fleet, its hosts, its deployments.

use std::{fmt::Write, time::Duration};

use super::{
    Failed, Output,
    text::{Table, ago, duration, or_dash, short},
};
use crate::control::{
    api::{Fleet, Report, Summary, WriteOff},
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
    if !fleet.joined {
        let why = fleet.turned_away.as_deref().unwrap_or("nobody has let it in yet");
        line(&mut text, format!("this host has not joined: {why}"));
    }
    if !fleet.executor {
        line(&mut text, "swell-exec does not answer on this host: nothing can be deployed to it");
    }
    let mut table = Table::new(&["", "HOST", "STATE", "GROUP", "RELEASE", "DOING", "HEARD"]);
    for host in &fleet.hosts {
        let mark = if host.name == fleet.me { "*" } else { "" };
        let state = match (host.standing.as_str(), host.healthy) {
            ("reachable", true) => "up",
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
            let doing = match (&group.event, group.percent) {
                (Some(event), _) => format!("{}: {event}", group.state),
                (None, Some(percent)) => format!("{} {percent} %", group.state),
                (None, None) => group.state.clone(),
            };
            let release = or_dash(group.release.as_deref());
            let rest = [group.group.clone(), release, doing, heard.clone()];
            table.row(first.clone().into_iter().chain(rest));
        }
    }
    write!(text, "\n{table}\n").ok();
    if !fleet.groups.is_empty() {
        let mut table =
            Table::new(&["GROUP", "APPLICATION", "HOSTS", "DOWN", "CONFIGURATION", "LAST GOOD"]);
        for group in &fleet.groups {
            table.row([
                group.name.clone(),
                group.application.clone(),
                group.hosts.len().to_string(),
                format!("{} of {}", group.down.len(), group.quota),
                group.configuration.clone(),
                or_dash(group.last_good.as_deref()),
            ]);
        }
        writeln!(text, "{table}").ok();
    }
    for deployment in &fleet.deployments {
        line(&mut text, summary_text(deployment));
    }
    text
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
    let id: groundswell_protocol::ids::DeploymentId =
        id.parse().map_err(|error: groundswell_protocol::ids::Malformed| {
            Failed::with_hint(error.to_string(), "see `swell deployments`")
        })?;
    let report = client.report(&id.to_string()).await?;
    if out.json { out.json(&report) } else { out.line(report_text(&report)) }
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
        let doing = target.doing.as_deref().or(target.reason.as_deref());
        table.row([
            target.host.clone(),
            target.status.clone(),
            target.started_at.map_or_else(dash, time),
            took.unwrap_or_else(dash),
            or_dash(doing),
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
    }
    text
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
            host.standing.clone(),
            if host.healthy { "yes".into() } else { "no".into() },
            host.heard_seconds_ago
                .map_or_else(|| "never".into(), |s| format!("{} ago", duration(s))),
            or_dash(Some(&host.labels)),
            or_dash(host.zone.as_deref()),
            or_dash(host.version.as_deref()),
            or_dash(Some(&host.addresses.join(" "))),
        ]);
    }
    out.line(table.to_string())
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
    for write_off in &fleet.written_off {
        let WriteOff { host, token, deployment, since } = write_off;
        let since = ago(*since);
        line(
            &mut text,
            format!(
                "{host} was written off {since} with slot {token} of {deployment}; not heard of since"
            ),
        );
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
    out.line(format!("{table}last entry applied here: {}", fleet.applied))
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

const WATCH_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

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
    fn slots_say_who_holds_them_and_why_nothing_moves() {
        let mut fleet = fleet("no");
        assert!(slots_text(&fleet).contains("no slot is held"));
        let slot = serde_json::json!({
            "token": 7, "host": "web-2", "deployment": "d-1", "since": 0, "group": "web",
            "silent_seconds": 240, "released": null,
        });
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
            token: 5,
            deployment: "d-0".into(),
            since: 0,
        });
        let text = slots_text(&fleet);
        assert!(text.contains("web-2  web    d-1") && text.contains("4 min ago"), "{text}");
        assert!(text.contains(&format!("d-1 (web): {waits}")), "{text}");
        assert!(text.contains("web-3 was written off"), "{text}");
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

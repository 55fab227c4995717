//! What an operator would want to read in the journal: one short line for each thing that happened.
//!
//! Lines are drawn from what has changed since the last look at the node, so that nothing has to be
//! told from inside of it. What the ledger went through before this host was up to date is history
//! and gets no lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use groundswell_protocol::{
    execute::{LifecycleEvent, Phase, Report},
    fleet::Standing,
    ids::{DeploymentId, Digest, GroupName, HostId},
    node::Node,
    rollout::{Deployment, Ledger, TargetStatus},
    time::Mono,
    trust::Outcome,
};

use super::views::{name_of, status_name};

/// What was seen last.
#[derive(Default)]
pub(super) struct News {
    /// None until this host is up to date for the first time.
    seen: Option<Seen>,
    next_look_at: Mono,
    unreachable: BTreeMap<HostId, Mono>,
    leader: Option<HostId>,
    /// Lifecycles of this host, by group.
    active: BTreeMap<GroupName, (u64, Option<LifecycleEvent>)>,
    executor: Option<bool>,
}

/// The parts of the ledger that make news.
#[derive(Default)]
struct Seen {
    applied: u64,
    members: BTreeMap<HostId, String>,
    releases: BTreeSet<Digest>,
    /// Version and newest order.
    groups: BTreeMap<GroupName, (u64, u64)>,
    slots: BTreeMap<HostId, (u64, DeploymentId)>,
    deployments: BTreeMap<DeploymentId, &'static str>,
    /// Hosts that had a slot of what is not over, and have given it back.
    done: BTreeMap<DeploymentId, BTreeSet<HostId>>,
}

impl News {
    /// Tells what has changed in the ledger.
    pub(super) fn look(&mut self, now: Mono, node: &Node) {
        let ledger = node.ledger();
        if now < self.next_look_at {
            return;
        }
        let behind = node.consensus().map_or(0, |consensus| consensus.restored_to());
        if ledger.applied_index() < behind || !ledger.is_member(node.me()) {
            return;
        }
        let Some(before) = &self.seen else {
            self.seen = Some(Seen::of(ledger));
            tracing::info!("{} is a member, at entry {}", me(node), ledger.applied_index());
            return;
        };
        if before.applied == ledger.applied_index() {
            return;
        }
        let after = Seen::of(ledger);
        // A look at ten thousand hosts takes a few milliseconds; once a second is enough for those.
        let members = u64::try_from(after.members.len()).unwrap_or(u64::MAX);
        self.next_look_at = now + Duration::from_millis(members / 10);
        let lines = before.changes(&after, ledger);
        for line in lines.iter().take(LINES_MAX) {
            tracing::info!("{line}");
        }
        if let Some(more) = lines.len().checked_sub(LINES_MAX).filter(|more| *more > 0) {
            tracing::info!("and {more} more changes, up to entry {}", after.applied);
        }
        self.seen = Some(after);
    }

    /// Tells who has gone silent, who is back, and who leads.
    pub(super) fn look_round(&mut self, now: Mono, node: &Node) {
        let ledger = node.ledger();
        self.unreachable.retain(|host, _| ledger.is_member(*host));
        for member in ledger.members() {
            let away = self.unreachable.get(&member.host).copied();
            match (node.standing(member.host), away) {
                (Standing::Unreachable { since }, None) => {
                    self.unreachable.insert(member.host, since);
                    let seconds = now.since(since).as_secs();
                    match node.has_left(member.host) {
                        true => tracing::warn!("{} was stopped, and is not back", member.name),
                        false => {
                            tracing::warn!("{} is unreachable: silent for {seconds} s", member.name)
                        }
                    }
                }
                (Standing::Reachable, Some(since)) => {
                    self.unreachable.remove(&member.host);
                    let away = crate::cli::duration(now.since(since).as_secs());
                    tracing::info!("{} is back after {away}", member.name);
                }
                _ => {}
            }
        }
        // Voters tell of their elections themselves.
        if node.consensus().is_none() && node.leader() != self.leader {
            self.leader = node.leader();
            let who = self.leader.map_or_else(|| "nobody".into(), |who| name_of(ledger, who));
            tracing::info!("consensus: {who} leads");
        }
    }

    /// Tells of lifecycle events on this host, and of an executor that went away or came back.
    pub(super) fn reported(&mut self, report: Option<&Report>, ledger: &Ledger) {
        let answers = report.is_some();
        if self.executor.replace(answers) != Some(answers) {
            match report {
                Some(_) => tracing::info!("swell-exec answers"),
                None => {
                    tracing::warn!("swell-exec does not answer: see `systemctl status swell-exec`")
                }
            }
        }
        for group in report.into_iter().flat_map(|report| &report.groups) {
            let name = &group.group;
            let Some(activation) = &group.activation else {
                self.active.remove(name);
                continue;
            };
            let what = || {
                let label = ledger.release(activation.release).map(|release| release.label);
                format!("group {name}: {}", label.map_or_else(String::new, |l| l.to_string()))
            };
            let before = self.active.get(name).filter(|(token, _)| *token == activation.token);
            let known = before.is_some();
            let running = before.and_then(|(_, event)| *event);
            let event = match &activation.phase {
                Phase::Running { event, .. } => Some(*event),
                Phase::Interrupted { .. } | Phase::Ended(_) => None,
            };
            if known && running == event {
                continue;
            }
            if let Some(ended) = running {
                tracing::info!("{}: {ended} ended", what());
            }
            match &activation.phase {
                Phase::Running { event, restoring: false } => {
                    tracing::info!("{}: {event} begins", what());
                }
                Phase::Running { event, restoring: true } => {
                    tracing::info!("{}: {event} begins, to put the revision before back", what());
                }
                Phase::Interrupted { event } => {
                    tracing::warn!("{}: swell-exec was restarted in {event}", what());
                }
                Phase::Ended(outcome) => tell_outcome(&what(), outcome),
            }
            self.active.insert(name.clone(), (activation.token, event));
        }
    }
}

fn me(node: &Node) -> String {
    name_of(node.ledger(), node.me())
}

fn tell_outcome(what: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Succeeded => tracing::info!("{what}: the lifecycle ended well"),
        Outcome::Failed { event, message, restored, .. } => {
            let now = if *restored { "the revision before runs" } else { "NOTHING was put back" };
            let message: String = message.escape_debug().take(300).collect();
            tracing::warn!("{what}: {event} failed: {message}; {now}");
        }
        Outcome::Declined { reason } => tracing::warn!("{what}: declined: {reason}"),
    }
}

impl Seen {
    fn of(ledger: &Ledger) -> Self {
        let groups = ledger.groups().map(|view| {
            let (name, version) = (view.group.name.clone(), view.group.version);
            (name, (version, view.head.0))
        });
        let all = ledger.deployments();
        let deployments = all.iter().map(|d| (d.id, status_name(d)));
        let unfinished = all.iter().filter(|deployment| !deployment.status.is_over());
        Self {
            applied: ledger.applied_index(),
            members: ledger.members().map(|m| (m.host, m.name.to_string())).collect(),
            releases: ledger.release_ids().collect(),
            groups: groups.collect(),
            slots: ledger.slots().map(|slot| (slot.host, (slot.token, slot.deployment))).collect(),
            deployments: deployments.collect(),
            done: unfinished.map(|d| (d.id, done(d).collect())).collect(),
        }
    }

    /// What came between two looks, in the order in which it makes sense.
    fn changes(&self, after: &Self, ledger: &Ledger) -> Vec<String> {
        let mut lines = Vec::new();
        for (host, name) in &after.members {
            match self.members.get(host) {
                None => lines.push(format!("{name} was admitted to the fleet")),
                Some(old) if old != name => lines.push(format!("{old} is named {name} now")),
                Some(_) => {}
            }
        }
        let gone = self.members.iter().filter(|(host, _)| !after.members.contains_key(host));
        lines.extend(gone.map(|(_, name)| format!("{name} was removed from the fleet")));
        for id in after.releases.difference(&self.releases) {
            let Some(release) = ledger.release(*id) else { continue };
            let (application, label) = (release.application, release.label);
            lines.push(format!("release {application} {label} ({}) was taken", id.short()));
        }
        for (name, (version, order)) in &after.groups {
            let (old_version, old_order) = self.groups.get(name).copied().unwrap_or((0, 0));
            if *version != old_version {
                lines.push(format!("group {name} is at version {version}"));
            }
            lines.extend(
                (old_order + 1..=*order).map(|n| format!("group {name}: order {n} was taken")),
            );
        }
        lines.extend(self.returned(after, ledger));
        lines.extend(self.came_and_went(ledger));
        for (host, (token, deployment)) in &after.slots {
            if self.slots.get(host).is_none_or(|(old, _)| old != token) {
                let host = name_of(ledger, *host);
                lines.push(format!("{host} was granted slot {token} for {deployment}"));
            }
        }
        for deployment in ledger.deployments().into_iter().rev() {
            let status = status_name(deployment);
            if self.deployments.get(&deployment.id) != Some(&status) {
                lines.push(deployment_line(deployment, status));
            }
        }
        lines
    }

    fn returned(&self, after: &Self, ledger: &Ledger) -> Vec<String> {
        let gone = self.slots.iter().filter(|(host, (token, _))| {
            after.slots.get(host).is_none_or(|(newer, _)| newer != token)
        });
        let lines = gone.map(|(host, (token, id))| {
            let name = name_of(ledger, *host);
            let status =
                ledger.deployment(*id).and_then(|d| d.targets.get(host)).map(|t| &t.status);
            format!("{name} gave slot {token} of {id} back: {}", how(status))
        });
        lines.collect()
    }

    /// Slots that were granted and given back since the last look: a host that follows hears of entries
    /// twice a second.
    fn came_and_went(&self, ledger: &Ledger) -> Vec<String> {
        let mut lines = Vec::new();
        for deployment in ledger.deployments().into_iter().rev() {
            let is_new = !self.deployments.contains_key(&deployment.id);
            let before = self.done.get(&deployment.id);
            if before.is_none() && !is_new {
                continue;
            }
            let done = done(deployment).filter(|host| before.is_none_or(|b| !b.contains(host)));
            for host in done.filter(|host| !self.slots.contains_key(host)) {
                let (name, id) = (name_of(ledger, host), deployment.id);
                let how = how(deployment.targets.get(&host).map(|target| &target.status));
                lines.push(format!("{name} was granted a slot for {id} and gave it back: {how}"));
            }
        }
        lines
    }
}

/// Hosts that had a slot of a deployment and gave it back.
fn done(deployment: &Deployment) -> impl Iterator<Item = HostId> {
    let had = deployment.targets.iter().filter(|(_, target)| target.started_at.is_some());
    had.filter(|(_, target)| target.status.is_over()).map(|(host, _)| *host)
}

/// What came of a host's part.
fn how(status: Option<&TargetStatus>) -> String {
    match status {
        Some(TargetStatus::Succeeded) => "it succeeded".into(),
        Some(TargetStatus::Failed { event, .. }) => format!("{event} failed"),
        Some(TargetStatus::Skipped { reason }) => reason.clone(),
        Some(TargetStatus::WrittenOff) => "it was written off".into(),
        Some(TargetStatus::Removed) => "it was removed".into(),
        _ => "it goes on later".into(),
    }
}

fn deployment_line(deployment: &Deployment, status: &str) -> String {
    use groundswell_protocol::rollout::DeploymentStatus;
    let Deployment { id, group, label, .. } = deployment;
    let done = deployment.count(|status| *status == TargetStatus::Succeeded);
    let mut line =
        format!("{id}: {group} to {label}: {status}, {done} of {} hosts", deployment.targets.len());
    if let DeploymentStatus::Failed { reason } = &deployment.status {
        line.push_str(&format!("; {reason}"));
    }
    line
}

/// A look at more than this is of a host that was away.
const LINES_MAX: usize = 40;

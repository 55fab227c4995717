//! What is shown of hosts: how they stand, what they do, and why one of them makes no progress.

use std::{collections::BTreeMap, time::Duration};

use groundswell_protocol::{
    fleet::{HostState, Record, Stall, Standing},
    ids::{Digest, HostId},
    rollout::{Deployment, GroupView, HostView, TargetStatus},
};

use super::{
    Engine,
    pace::{Pace, Said},
    views::{name_of, standing},
};
use crate::{cli::duration, control::api};

/// When each release was signed, by its id.
pub(super) type SignedAt = BTreeMap<Digest, u64>;

impl Engine {
    pub(super) fn host(
        &self,
        host: &HostView<'_>,
        groups: &[GroupView<'_>],
        signed_at: &SignedAt,
    ) -> api::Host {
        let (node, ledger) = (&self.node, self.node.ledger());
        let record = node.view().get(host.host);
        let counted = !ledger.is_uncounted(host.host);
        let is_in = groups.iter().filter(|group| group.hosts.binary_search(&host.host).is_ok());
        let mut shown: Vec<_> =
            is_in.map(|group| self.host_group(host.host, group, record, signed_at)).collect();
        // It may still have a part in a group that it has left.
        let left = record.into_iter().flat_map(|record| &record.groups).filter_map(|status| {
            let known = shown.iter().any(|shown| shown.group == status.group.as_str());
            let group = groups.iter().find(|group| group.group.name == status.group);
            group.filter(|_| !known).map(|g| self.host_group(host.host, g, record, signed_at))
        });
        let left: Vec<_> = left.collect();
        shown.extend(left);
        api::Host {
            id: host.host.to_string(),
            name: host.name.to_string(),
            labels: host.labels.to_string(),
            zone: host.zone.map(ToString::to_string),
            standing: standing(node.standing(host.host)),
            heard_seconds_ago: self.silence(host.host),
            healthy: ledger.is_well(host.host),
            stopped: node.has_left(host.host),
            doubled: record.is_some_and(|record| record.doubled),
            drained: ledger.drained_since(host.host).map(|since| since.0),
            drain_sequence: ledger.drain_sequence(host.host),
            counted,
            connected: host.host == node.me() || node.is_connected(host.host),
            version: record.map(|record| record.version.clone()),
            addresses: record.map(|record| record.addresses.clone()).unwrap_or_default(),
            groups: shown,
        }
    }

    fn host_group(
        &self,
        host: HostId,
        group: &GroupView<'_>,
        record: Option<&Record>,
        signed_at: &SignedAt,
    ) -> api::HostGroup {
        let name = &group.group.name;
        let status = record.and_then(|record| record.groups.iter().find(|s| s.group == *name));
        let state = match (record, status) {
            (None, _) => "unknown",
            (Some(_), None) => "no executor",
            (Some(_), Some(status)) => state_name(status.state),
        };
        let (event, percent) = match status.map(|status| status.state) {
            Some(HostState::Running { event, .. }) => (Some(event.to_string()), None),
            Some(HostState::Staging { percent }) => (None, Some(percent)),
            _ => (None, None),
        };
        let release = status.map(|status| status.release.as_ref());
        api::HostGroup {
            group: name.to_string(),
            state: state.into(),
            event,
            percent,
            release: release.flatten().map(|(_, label)| label.to_string()),
            slot: status.and_then(|status| status.token),
            seconds: self.pace.seconds(self.clock.mono(), host, name),
            runs: release
                .map(|release| runs(release.map(|(id, _)| *id), group.last_good, signed_at).into()),
        }
    }

    /// What a host of a deployment does now, as far as it is known here.
    pub(super) fn doing_in(&self, host: HostId, deployment: &Deployment) -> Option<String> {
        match self.node.standing(host) {
            Standing::Unreachable { .. } => {
                return Some(format!("unreachable: {}", self.absence(host)));
            }
            Standing::Unknown => return Some("was never heard of".into()),
            Standing::Reachable | Standing::Suspect { .. } => {}
        }
        let record = self.node.view().get(host)?;
        match Pace::said(record, &deployment.group) {
            Said::Nothing => Some("swell-exec does not answer there".into()),
            Said::State(state, Some(order)) if order == deployment.order => {
                Some(self.doing(host, state, deployment))
            }
            Said::State(..) => None,
        }
    }

    fn doing(&self, host: HostId, state: HostState, deployment: &Deployment) -> String {
        let text = doing(state);
        let is_mine = host == self.node.me() && matches!(state, HostState::Staging { .. });
        let release = self.node.ledger().release(deployment.release).filter(|_| is_mine);
        match release.and_then(|release| self.troubles.get(&release.manifest)) {
            Some(trouble) => format!("{text}: {trouble}"),
            None => text,
        }
    }

    /// Seconds for which a host has done the same in a deployment.
    pub(super) fn doing_seconds(&self, host: HostId, deployment: &Deployment) -> Option<u64> {
        match self.node.standing(host) {
            Standing::Unreachable { .. } | Standing::Unknown => self.silence(host),
            _ => self.pace.seconds(self.clock.mono(), host, &deployment.group),
        }
    }

    /// Why somebody has to look after a host of a deployment that waits for it.
    pub(super) fn stall(&self, host: HostId, deployment: &Deployment) -> Option<Stall> {
        let same_for = self.doing_seconds(host, deployment).unwrap_or(0);
        self.node.stall(host, Duration::from_secs(same_for))
    }

    /// The hosts for which a deployment waits and which make no progress: they are who somebody has to
    /// look after.
    pub(super) fn stalled(&self, deployment: &Deployment, holders_only: bool) -> String {
        let waited_for = deployment.targets.iter().filter(|(_, target)| match target.status {
            TargetStatus::InProgress { .. } => true,
            TargetStatus::Pending => !holders_only,
            _ => false,
        });
        let (mut stalled, mut silent_holder) = (Vec::new(), None);
        for (host, target) in waited_for {
            let name = name_of(self.node.ledger(), *host);
            match self.stall(*host, deployment) {
                Some(Stall::Silent) => {
                    stalled.push(format!("{name} {}", self.absence(*host)));
                    let holds = matches!(target.status, TargetStatus::InProgress { .. });
                    // Of one that the ledger takes for well that is refused.
                    let is_given_up = holds && !self.node.ledger().is_healthy(*host);
                    silent_holder = silent_holder.or_else(|| is_given_up.then_some(name));
                }
                // Who holds a slot is at work, unless it cannot be.
                Some(Stall::Stuck) if !holders_only || self.says_nothing(*host, deployment) => {
                    let seconds = self.doing_seconds(*host, deployment).unwrap_or(0);
                    let doing = self.doing_in(*host, deployment);
                    stalled.extend(
                        doing.map(|doing| format!("{name}: {doing}, for {}", duration(seconds))),
                    );
                }
                _ => {}
            }
        }
        let more = stalled.len().saturating_sub(STALLED_SHOWN);
        stalled.truncate(STALLED_SHOWN);
        let mut text: String = stalled.iter().map(|host| format!("; {host}")).collect();
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        // Nothing else frees a slot. Where the outcome hangs on it, the deployment waits.
        if let Some(name) = silent_holder {
            text.push_str(&format!("; if it is gone for good, `swell slots release {name}`"));
        }
        text
    }

    fn says_nothing(&self, host: HostId, deployment: &Deployment) -> bool {
        let record = self.node.view().get(host);
        record.is_some_and(|record| Pace::said(record, &deployment.group) == Said::Nothing)
    }
}

/// How what a host runs compares to the last good release of its group.
fn runs(release: Option<Digest>, last_good: Option<Digest>, signed_at: &SignedAt) -> &'static str {
    match (release, last_good) {
        (None, _) => "none",
        (Some(release), Some(good)) if release == good => "last good",
        (Some(release), Some(good)) if signed_at.get(&release) > signed_at.get(&good) => "newer",
        (Some(_), Some(_)) => "older",
        (Some(_), None) => "newer",
    }
}

fn state_name(state: HostState) -> &'static str {
    match state {
        HostState::Idle => "idle",
        HostState::Staging { .. } => "staging",
        HostState::Waiting => "waiting",
        HostState::Running { restoring: false, .. } => "running",
        HostState::Running { restoring: true, .. } => "restoring",
        HostState::Watching => "watching",
        HostState::Failed => "failed",
    }
}

fn doing(state: HostState) -> String {
    match state {
        HostState::Staging { percent } => format!("fetching, {percent} %"),
        HostState::Running { event, restoring: true } => format!("restoring ({event})"),
        HostState::Running { event, restoring: false } => event.to_string(),
        HostState::Waiting => "waits for a slot".into(),
        other => state_name(other).into(),
    }
}

/// The others are in the table.
const STALLED_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_compared_with_what_was_good() {
        let [old, good, new] = [1, 2, 3].map(|byte| Digest([byte; 32]));
        let signed_at = SignedAt::from([(old, 10), (good, 20), (new, 30)]);
        for (release, last_good, expected) in [
            (None, Some(good), "none"),
            (None, None, "none"),
            (Some(good), Some(good), "last good"),
            (Some(old), Some(good), "older"),
            (Some(new), Some(good), "newer"),
            (Some(new), None, "newer"),
        ] {
            assert_eq!(runs(release, last_good, &signed_at), expected);
        }
    }
}

//! What the leader proposes of its own accord: slots that may be granted, and hosts' health.

use std::{collections::BTreeMap, time::Duration};

use super::{Node, Output, submission_id};
use crate::{
    consensus::Consensus,
    fleet::Standing,
    ids::HostId,
    limits::RELEASE_HOLD_OFF,
    rollout::{Entry, Passed},
    sabotage::{Defect, planted},
    time::Mono,
};

/// This host's time as leader.
#[derive(Default)]
pub(super) struct Leadership {
    leading: bool,
    /// Since when each member has been one, as far as this leader has seen.
    member_since: BTreeMap<HostId, Mono>,
    /// The index of the ledger at which grants were last looked for.
    granted_at: u64,
    /// Since when a host that counts as unhealthy has looked well again.
    well_since: BTreeMap<HostId, Mono>,
    /// Since when a slot that an operator has released is seen as held still.
    released_since: BTreeMap<(HostId, u64), Mono>,
}

impl Node {
    pub(super) fn is_leading(&self) -> bool {
        self.leadership.leading
    }

    pub(super) fn role_changed(&mut self, leader: Option<HostId>, term: u64, leading: bool) {
        if leading && !self.leadership.leading {
            self.leadership = Leadership { leading, ..Leadership::default() };
            self.feed.proposed.clear();
        }
        self.leadership.leading = leading;
        self.feed_followers(self.ledger.applied_index() + 1);
        let who = leader.map_or_else(|| "nobody".into(), |leader| self.name_of(leader));
        self.out.push(Output::Note(format!("consensus: {who} leads in term {term}")));
    }

    pub(super) fn lead(&mut self) {
        if !self.consensus.as_ref().is_some_and(Consensus::is_leading) {
            self.leadership.leading = false;
            return;
        }
        self.propose_health();
        self.propose_passed();
        self.propose_grants();
    }

    /// Grants what may be granted, as soon as the ledger allows it.
    pub(super) fn propose_grants(&mut self) {
        // Suggestions build on what is applied; they wait until the last ones are.
        let applied = self.ledger.applied_index();
        if !self.leadership.leading
            || !self.feed.proposed.is_empty()
            || self.leadership.granted_at == applied
            || self.leadership.granted_at == u64::MAX
        {
            return;
        }
        self.leadership.granted_at = applied;
        if planted(Defect::GrantedOnce) && self.ledger.slots().count() > 0 {
            self.leadership.granted_at = u64::MAX;
        }
        for grant in self.ledger.next_grants() {
            let entry = Entry::Grant(grant);
            self.propose_checked(submission_id(&entry), entry, None);
        }
    }

    /// Tells the ledger who is down. Getting in is quick, getting out takes a while of health.
    fn propose_health(&mut self) {
        let members: Vec<_> = self.ledger.members().map(|member| member.host).collect();
        for host in members {
            self.leadership.member_since.entry(host).or_insert(self.now);
            let looks_well = self.looks_well(host);
            let counts_as_well = self.ledger.is_healthy(host);
            let settled = if looks_well {
                let since = *self.leadership.well_since.entry(host).or_insert(self.now);
                self.now.since(since) >= WELL_FOR
            } else {
                self.leadership.well_since.remove(&host);
                true
            };
            if looks_well != counts_as_well && settled {
                let entry = Entry::Health { host, healthy: looks_well };
                self.propose_checked(submission_id(&entry), entry, None);
            }
        }
    }

    /// Tells the ledger what time has passed that it waits for.
    ///
    /// Bake times and deadlines go by the wall clock, and so outlast a leader. The hold-off of a slot
    /// keeps a host from acting beside the one that gets it next: it goes by this host's clock that
    /// only counts up, from when this host saw the order applied as leader, so it is never too short.
    fn propose_passed(&mut self) {
        let mut passed = self.ledger.due(self.wall);
        let held = self.ledger.hold_offs();
        self.leadership.released_since.retain(|slot, _| held.contains(slot));
        for (host, token) in held {
            let since = *self.leadership.released_since.entry((host, token)).or_insert(self.now);
            if self.now.since(since) >= RELEASE_HOLD_OFF || planted(Defect::NoHoldOff) {
                passed.push(Passed::HoldOff { host, token });
            }
        }
        for passed in passed {
            let entry = Entry::Passed(passed);
            self.propose_checked(submission_id(&entry), entry, None);
        }
    }

    fn looks_well(&self, host: HostId) -> bool {
        if host == self.me {
            return true;
        }
        match self.standing(host) {
            Standing::Unreachable { .. } => false,
            // A host that was never heard of gets some time to appear.
            Standing::Unknown => {
                let since = self.leadership.member_since.get(&host).copied();
                since.is_none_or(|since| self.now.since(since) < APPEAR_WITHIN)
            }
            // A host without a working revision is down in that group alone, and the ledger knows.
            Standing::Reachable | Standing::Suspect { .. } => true,
        }
    }
}

const WELL_FOR: Duration = Duration::from_secs(1);
const APPEAR_WITHIN: Duration = Duration::from_secs(15);

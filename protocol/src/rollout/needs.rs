//! Which releases a host does not give up, whatever room they take.

use std::collections::BTreeMap;

use super::ledger::Ledger;
use crate::ids::{Digest, HostId};

/// Why a host keeps a release. Of several reasons the first one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A deployment that is not over brings hosts to it, or may bring them back to it.
    InFlight,
    /// It runs on this host, or is the last good one of a group of it.
    Current,
    /// A group of this host would go back to it.
    Previous,
}

impl Need {
    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in flight",
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

impl Ledger {
    /// The releases that a host keeps for what is deployed. It may have been given one that no group of its
    /// own needs, and be the only one that has it, so what is in flight anywhere counts.
    pub fn needs(&self, host: HostId) -> BTreeMap<Digest, Need> {
        let mut needs = BTreeMap::new();
        let mut need = |release: Option<Digest>, why: Need| {
            if let Some(release) = release {
                let known = needs.entry(release).or_insert(why);
                *known = why.min(*known);
            }
        };
        for deployment in self.state.deployments.values().filter(|one| !one.status.is_over()) {
            for release in [Some(deployment.release), deployment.fallback, deployment.previous] {
                need(release, Need::InFlight);
            }
        }
        self.state.slots.values().for_each(|slot| need(Some(slot.grant.release), Need::InFlight));
        for group in self.groups_of(host) {
            need(group.current.get(&host).copied(), Need::Current);
            need(group.last_good, Need::Current);
            let name = &group.group.name;
            need(group.last_good.and_then(|good| self.good_before(name, good)), Need::Previous);
        }
        needs
    }
}

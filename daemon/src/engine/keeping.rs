//! What the store is told of revisions: which ones are needed here, and what people call them.

use std::collections::{BTreeMap, BTreeSet};

use groundswell_protocol::{ids::Digest, rollout::Need, trust::Release};

use super::Engine;
use crate::store::Known;

/// The releases of the ledger, read once each, and when the store was told last.
#[derive(Default)]
pub(super) struct Keeping {
    releases: BTreeMap<Digest, Release>,
    /// The last entry of the ledger, and the executor's report.
    told: Option<(u64, u64)>,
}

impl Engine {
    /// Tells the store what the fleet knows of its revisions, where that may have changed.
    pub(super) fn tell_store(&mut self) {
        let (ledger, executor) = (self.node.ledger(), self.node.executor());
        let now = (ledger.applied_index(), executor.map_or(0, |report| report.version));
        if self.keeping.told.replace(now) == Some(now) {
            return;
        }
        let ids: BTreeSet<_> = ledger.release_ids().collect();
        // The ledger may have forgotten what runs on a host that was written off.
        let needs = self.node.needs();
        self.keeping.releases.retain(|id, _| ids.contains(id) || needs.contains_key(id));
        for id in ids {
            if !self.keeping.releases.contains_key(&id)
                && let Some(release) = ledger.release(id)
            {
                self.keeping.releases.insert(id, release);
            }
        }
        self.store.know(known(&self.keeping.releases, &needs));
    }
}

/// Puts together by revision what is known by release.
fn known(
    releases: &BTreeMap<Digest, Release>,
    needs: &BTreeMap<Digest, Need>,
) -> BTreeMap<Digest, Known> {
    let mut all: BTreeMap<Digest, Known> = BTreeMap::new();
    for (id, release) in releases {
        let known = all.entry(release.manifest).or_default();
        known.need = known.need.into_iter().chain(needs.get(id).copied()).min();
        known.released_at = known.released_at.max(release.created_at);
        known.releases.push(format!("{} {}", release.application, release.label));
    }
    all
}

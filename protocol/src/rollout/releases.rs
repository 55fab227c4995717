//! The releases that the ledger keeps, under the names that people call them by.
//!
//! A fleet that is deployed to for years sees more of them than anybody goes back to. Of each
//! application the newest stay, and whatever a deployment that is kept tells of. One that was
//! forgotten can be pushed once more, like a new one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    kept::Kept,
    ledger::{Judged, Ledger},
    refusal::Refusal,
};
use crate::{
    ids::{ApplicationName, Digest, ReleaseLabel},
    limits::{RELEASES_BYTES_MAX, RELEASES_KEPT_PER_APPLICATION},
    trust::{Release, Signed, Verified},
};

/// A release, as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Released {
    /// What it said when it came. Whoever acts on it reads the signed form.
    content: Release,
    signed: Signed<Release>,
    /// The entry that brought it.
    index: u64,
}

impl Ledger {
    pub(super) fn judge_release(&self, signed: &Signed<Release>) -> Result<Judged, Refusal> {
        let release = self.trust.release(signed).map_err(Refusal::untrusted("release"))?;
        if self.state.releases.contains_key(&release.id()) {
            return Ok(Judged::Nothing);
        }
        let content = release.content();
        if self.find_release(&content.application, &content.label).is_some() {
            return Err(Refusal::LabelTaken(content.label.clone()));
        }
        let needed = self.needed_releases();
        let kept = needed.iter().filter_map(|id| self.signed_release(*id)).map(Signed::size);
        if kept.sum::<usize>() + signed.size() > RELEASES_BYTES_MAX {
            return Err(Refusal::ManyReleases);
        }
        Ok(Judged::Release(release))
    }

    /// Takes a release in. The oldest make way for it.
    pub(super) fn keep_release(&mut self, index: u64, release: &Verified<Release>) {
        let (content, signed) = (release.content().clone(), release.signed().clone());
        let application = content.application.clone();
        let released = Released { content, signed, index };
        self.state.releases.insert(release.id(), Kept::from(released));
        self.forget_releases(&application);
    }

    fn forget_releases(&mut self, application: &ApplicationName) {
        let releases = self.state.releases.iter();
        let mut oldest: Vec<_> = releases
            .map(|(id, known)| {
                (known.index, *id, known.content.application == *application, known.signed.size())
            })
            .collect();
        let mut of_application = oldest.iter().filter(|(_, _, is_its, _)| *is_its).count();
        let mut bytes: usize = oldest.iter().map(|(.., size)| size).sum();
        if of_application <= RELEASES_KEPT_PER_APPLICATION && bytes <= RELEASES_BYTES_MAX {
            return;
        }
        let needed = self.needed_releases();
        oldest.sort_unstable();
        for (_, id, is_its, size) in oldest {
            let excess = is_its && of_application > RELEASES_KEPT_PER_APPLICATION;
            if (excess || bytes > RELEASES_BYTES_MAX) && !needed.contains(&id) {
                self.state.releases.remove(&id);
                bytes -= size;
                of_application -= usize::from(is_its);
            }
        }
    }

    /// Releases that stay: what runs, what hosts may be brought to or back to, and what reports tell of.
    fn needed_releases(&self) -> BTreeSet<Digest> {
        let mut needed = BTreeSet::new();
        for deployment in self.state.deployments.values() {
            needed.insert(deployment.release);
            needed.extend(deployment.fallback.into_iter().chain(deployment.previous));
        }
        needed.extend(self.state.slots.values().map(|slot| slot.grant.release));
        for group in self.state.groups.values() {
            needed.extend(group.current.values().copied().chain(group.last_good));
        }
        needed
    }

    /// A release by its id, if its signatures count today.
    pub fn release(&self, id: Digest) -> Option<Release> {
        let signed = self.signed_release(id)?;
        self.trust().release(signed).ok().map(|release| release.content().clone())
    }

    /// A release by what people call it.
    pub fn find_release(
        &self,
        application: &ApplicationName,
        label: &ReleaseLabel,
    ) -> Option<Digest> {
        self.releases()
            .find(|(_, release)| release.application == *application && release.label == *label)
            .map(|(id, _)| id)
    }

    /// The ids of all releases.
    pub fn release_ids(&self) -> impl Iterator<Item = Digest> {
        self.state.releases.keys().copied()
    }

    /// All releases, as they came: to be shown. What is done with one begins with [`Ledger::release`].
    pub fn releases(&self) -> impl Iterator<Item = (Digest, &Release)> {
        self.state.releases.iter().map(|(id, known)| (*id, &known.content))
    }

    /// A release in its signed form.
    pub fn signed_release(&self, id: Digest) -> Option<&Signed<Release>> {
        self.state.releases.get(&id).map(|known| &known.signed)
    }
}

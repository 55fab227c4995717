//! The releases that the ledger keeps, under the names that people call them by.
//!
//! A fleet that is deployed to for years sees more of them than anybody goes back to. What runs somewhere, or
//! is told of by a deployment that is kept, stays, and of each application the newest others. Their age is
//! what their signer says, so that nobody makes an old one new by handing it in again.

use std::collections::{BTreeMap, BTreeSet};

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
    pub(super) content: Release,
    pub(super) signed: Signed<Release>,
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
        let released = Released { content: content.clone(), signed: signed.clone() };
        if self.excess_with(release.id(), &released).contains(&release.id()) {
            return Err(match self.needed_bytes() + signed.size() > RELEASES_BYTES_MAX {
                true => Refusal::ManyReleases,
                false => Refusal::OldRelease(content.label.clone()),
            });
        }
        Ok(Judged::Release(release))
    }

    /// Takes a release in. The oldest make way for it.
    pub(super) fn keep_release(&mut self, release: &Verified<Release>) {
        let (content, signed) = (release.content().clone(), release.signed().clone());
        let released = Released { content, signed };
        for id in self.excess_with(release.id(), &released) {
            self.state.releases.remove(&id);
        }
        self.state.releases.insert(release.id(), Kept::from(released));
    }

    /// The releases that have to go where one more comes: the oldest of those that nothing needs. It may be among
    /// them.
    fn excess_with(&self, new: Digest, released: &Released) -> Vec<Digest> {
        let needed = self.needed_releases();
        let known = self.state.releases.iter().map(|(id, known)| (*id, &**known));
        let spare = known.filter(|(id, _)| !needed.contains(id)).chain([(new, released)]);
        let mut spare: Vec<_> = spare.map(|(id, one)| (one.content.created_at, id, one)).collect();
        spare.sort_unstable_by_key(|(created_at, id, _)| (*created_at, *id));
        let mut of_application: BTreeMap<_, usize> = BTreeMap::new();
        for (.., one) in &spare {
            *of_application.entry(&one.content.application).or_default() += 1;
        }
        let known: usize = self.state.releases.values().map(|known| known.signed.size()).sum();
        let mut bytes = known + released.signed.size();
        let mut excess = Vec::new();
        for (_, id, one) in spare {
            let Some(count) = of_application.get_mut(&one.content.application) else { continue };
            if *count > RELEASES_KEPT_PER_APPLICATION || bytes > RELEASES_BYTES_MAX {
                *count -= 1;
                bytes -= one.signed.size();
                excess.push(id);
            }
        }
        excess
    }

    /// What the releases take that stay.
    fn needed_bytes(&self) -> usize {
        let needed = self.needed_releases();
        needed.iter().filter_map(|id| self.signed_release(*id)).map(Signed::size).sum()
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

    /// A release by what people call it. One whose key counts no more keeps its label from nobody.
    pub fn find_release(
        &self,
        application: &ApplicationName,
        label: &ReleaseLabel,
    ) -> Option<Digest> {
        let is_it = |(id, release): &(Digest, &Release)| {
            release.application == *application
                && release.label == *label
                && self.release(*id).is_some()
        };
        self.releases().find(is_it).map(|(id, _)| id)
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

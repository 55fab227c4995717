//! What the store keeps when it is full, and what it shows of that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    sync::{Arc, PoisonError},
};

use groundswell_protocol::{
    ids::Digest,
    revision::{Manifest, Sharing, Stored, make_way},
    rollout::Need,
    time::UnixSeconds,
};

use super::{Change, Held, Store, StoreError, length_of};
use crate::control::api;

/// What the fleet knows of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Why it stays here, whatever room it takes.
    pub need: Option<Need>,
    /// When it was released last.
    pub released_at: UnixSeconds,
    /// The releases of it, as people call them.
    pub releases: Vec<String>,
}

/// What the store was told, if it was.
struct Fleet(Option<Arc<BTreeMap<Digest, Known>>>);

impl Fleet {
    fn of(&self, id: &Digest) -> Option<&Known> {
        self.0.as_ref()?.get(id)
    }
}

impl Store {
    /// Takes note of what the fleet knows of revisions. Before the first time none makes way; from then on
    /// those that it does not know go first.
    pub fn know(&self, known: BTreeMap<Digest, Known>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
    }

    fn known(&self) -> Fleet {
        Fleet(self.known.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Makes room for what is missing of a revision, at once: one that does not fit is not begun.
    pub fn make_room_for(&self, id: &Digest, content: &Manifest) -> Result<(), StoreError> {
        let missing = self.missing(content);
        let names: BTreeMap<_, _> =
            content.frames.iter().map(|frame| (frame.hash, u64::from(frame.bytes))).collect();
        let more = missing.iter().filter_map(|name| names.get(name)).sum();
        self.make_room(more, Some(id))
    }

    /// Removes what has to go so that `more` bytes fit. The revision `for_it` stays.
    pub(super) fn make_room(&self, more: u64, for_it: Option<&Digest>) -> Result<(), StoreError> {
        let known = self.known();
        let mut held = self.lock();
        let over = held.bytes.saturating_add(more).saturating_sub(self.bytes_max);
        if over == 0 {
            return Ok(());
        }
        let way =
            make_way(&held.stored(&known, for_it), |name| held.frames.contains_key(name), over);
        let Some(going) = way else {
            let (held, max) = (held.bytes, self.bytes_max);
            return Err(StoreError::LimitReached { held, max, more });
        };
        for id in &going {
            self.evict(&mut held, &known, id);
        }
        drop(held);
        going.into_iter().for_each(|id| self.changed(Change::Evicted(id)));
        Ok(())
    }

    /// The manifest goes first: frames that nothing names are removed at the next start.
    fn evict(&self, held: &mut Held, known: &Fleet, id: &Digest) {
        let Some(content) = held.manifests.remove(id) else { return };
        let name = known.of(id).map(|known| known.releases.join(", ")).unwrap_or_default();
        tracing::info!(revision = id.short(), releases = name, "a revision makes way for another");
        held.bytes = held.bytes.saturating_sub(length_of(&content.to_bytes()));
        let path = self.manifest_path(id);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a manifest cannot be removed");
        }
        let needed = held.named();
        for frame in content.frames.iter().filter(|frame| !needed.contains(&frame.hash)) {
            self.remove_frame_of(held, &frame.hash);
        }
    }

    /// What is here, why, and what it shares.
    pub fn survey(&self) -> api::Store {
        let known = self.known();
        let held = self.lock();
        let contents = held.manifests.values().map(|content| &**content);
        let sharing = Sharing::of(contents, |name| held.frames.contains_key(name));
        let mut revisions: Vec<_> =
            held.manifests.iter().map(|(id, it)| held.shown(&known, *id, it, &sharing)).collect();
        revisions.sort_by(|a, b| (&a.releases, &a.revision).cmp(&(&b.releases, &b.revision)));
        api::Store {
            version: api::VERSION,
            bytes: held.bytes,
            bytes_max: self.bytes_max,
            scrubbed_at: held.scrubbed_at,
            rotten: held.rotten,
            revisions,
        }
    }
}

impl Held {
    /// All revisions, those that are being imported included.
    fn stored(&self, known: &Fleet, for_it: Option<&Digest>) -> Vec<Stored<'_>> {
        let claimed = self.claimed.values().map(|(id, content)| (*id, &**content));
        let all = self.manifests.iter().map(|(id, content)| (*id, &**content)).chain(claimed);
        let is_needed = |id: &Digest| {
            known.0.is_none()
                || known.of(id).is_some_and(|known| known.need.is_some())
                || for_it == Some(id)
                || self.claimed.values().any(|(other, _)| other == id)
        };
        let stored = |(manifest, content): (Digest, _)| Stored {
            manifest,
            content,
            manifest_bytes: length_of(&Manifest::to_bytes(content)),
            is_needed: is_needed(&manifest),
            released_at: known.of(&manifest).map(|known| known.released_at),
        };
        all.map(stored).collect()
    }

    /// Every frame that something here names.
    pub(super) fn named(&self) -> BTreeSet<Digest> {
        let claimed = self.claimed.values().map(|(_, content)| content);
        let all = self.manifests.values().chain(claimed);
        all.flat_map(|content| content.frames.iter().map(|frame| frame.hash)).collect()
    }

    fn shown(
        &self,
        known: &Fleet,
        id: Digest,
        content: &Manifest,
        sharing: &Sharing,
    ) -> api::StoredRevision {
        let frames: BTreeMap<_, _> =
            content.frames.iter().map(|frame| (frame.hash, u64::from(frame.bytes))).collect();
        let lacking = frames.iter().filter(|(name, _)| !self.frames.contains_key(name));
        let (bytes, own) = (sharing.bytes(content), sharing.own_bytes(content));
        let known = known.of(&id).cloned().unwrap_or_default();
        let claimed = self.claimed.values().any(|(other, _)| *other == id);
        let kept = known.need.map(Need::name).or_else(|| claimed.then_some("being imported"));
        api::StoredRevision {
            revision: id.to_string(),
            releases: known.releases,
            bytes,
            bytes_own: own,
            bytes_shared: bytes - own,
            frames: frames.len(),
            frames_lacking: lacking.clone().count(),
            bytes_lacking: lacking.map(|(_, bytes)| bytes).sum(),
            kept: kept.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use groundswell_protocol::revision::Published;

    use super::*;
    use crate::store::tests::revision;

    fn put(store: &Store, published: &Published) -> Result<Digest, StoreError> {
        let id = Manifest::id_of(&published.bytes);
        store.put_manifest(&published.bytes, id)?;
        for (frame, bytes) in &published.frames {
            store.put_frame(frame.hash, bytes)?;
        }
        Ok(id)
    }

    fn known(need: Option<Need>, at: u64) -> Known {
        Known { need, released_at: UnixSeconds(at), releases: vec![format!("shop {at}")] }
    }

    fn on_disk(dir: &std::path::Path) -> u64 {
        let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap());
        files
            .map(|file| match file.metadata().unwrap() {
                metadata if metadata.is_dir() => on_disk(&file.path()),
                metadata => metadata.len(),
            })
            .sum()
    }

    #[test]
    fn it_stays_within_its_limit_and_gives_up_the_oldest_that_nobody_needs() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        let store = Store::open(&dir, 1_000_000).unwrap();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let seen = changes.clone();
        store.on_change(move |change| seen.lock().unwrap().push(change));
        let ids: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .map(|name| revision(&[name, "shared"], 150_000))
            .enumerate()
            .map(|(number, published)| {
                let id = Manifest::id_of(&published.bytes);
                let needs = [Some(Need::Previous), None, None, Some(Need::Current)];
                let mut all = store.known().0.map(|all| (*all).clone()).unwrap_or_default();
                all.insert(id, known(needs[number], 10 - u64::try_from(number).unwrap()));
                store.know(all);
                put(&store, &published).unwrap()
            })
            .collect();
        assert_eq!(store.lock().manifests.len(), 4, "they share half of it");
        let room = usize::try_from(1_000_000 - store.survey().bytes).unwrap();
        let big = revision(&["e"], room + 50_000);
        let mut all = (*store.known().0.unwrap()).clone();
        all.insert(Manifest::id_of(&big.bytes), known(Some(Need::InFlight), 11));
        store.know(all);
        put(&store, &big).unwrap();
        assert_eq!(*changes.lock().unwrap(), [Change::Evicted(ids[2])], "the older one");
        let held = store.survey();
        assert!(held.bytes <= 1_000_000 && held.bytes == on_disk(&dir), "{held:?}");
        assert!(held.revisions.iter().all(|one| one.frames_lacking == 0), "{held:?}");
        let shown = |id: Digest| held.revisions.iter().find(|one| one.revision == id.to_string());
        let current = shown(ids[3]).unwrap();
        assert_eq!(current.kept.as_deref(), Some("current"));
        assert_eq!(current.bytes, current.bytes_own + current.bytes_shared);
        assert!(current.bytes_own > 100_000 && current.bytes_shared > 100_000);
        let reopened = Store::open(&dir, 1_000_000).unwrap().survey();
        assert_eq!((reopened.bytes, reopened.revisions.len()), (held.bytes, 4));
    }

    #[test]
    fn what_does_not_fit_beside_what_is_needed_is_refused_before_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), 500_000).unwrap();
        let (old, new) = (revision(&["a"], 300_000), revision(&["b"], 300_000));
        let id = put(&store, &old).unwrap();
        let other = Manifest::id_of(&new.bytes);
        assert!(store.make_room_for(&other, &new.manifest).is_err(), "nobody said what is needed");
        store.know(BTreeMap::from([(id, known(Some(Need::InFlight), 1))]));
        let before = store.survey();
        let refused = store.make_room_for(&other, &new.manifest);
        assert!(matches!(refused, Err(StoreError::LimitReached { .. })), "{refused:?}");
        assert_eq!(store.survey(), before);
        store.know(BTreeMap::new());
        store.make_room_for(&other, &new.manifest).unwrap();
        assert_eq!(store.survey().revisions, []);
    }
}

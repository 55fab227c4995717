//! Which revisions make way where a host has no room for another one.

use std::collections::{BTreeMap, BTreeSet};

use super::Manifest;
use crate::{ids::Digest, time::UnixSeconds};

/// A revision in a host's store, in full or in part.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The revision.
    pub manifest: Digest,
    /// What it says.
    pub content: &'a Manifest,
    /// How long that is.
    pub manifest_bytes: u64,
    /// It stays, whatever room it takes.
    pub is_needed: bool,
    /// When it was released, if that is known.
    pub released_at: Option<UnixSeconds>,
}

/// How many revisions of a store name each frame that is there.
pub struct Sharing(BTreeMap<Digest, (usize, u32)>);

impl Sharing {
    /// Counts the frames of these revisions; those that are there are `here`.
    pub fn of<'a>(
        stored: impl Iterator<Item = &'a Manifest>,
        here: impl Fn(&Digest) -> bool,
    ) -> Self {
        let mut named: BTreeMap<_, (usize, u32)> = BTreeMap::new();
        for content in stored {
            for (name, bytes) in frames(content).into_iter().filter(|(name, _)| here(name)) {
                let (count, known) = named.entry(name).or_default();
                (*count, *known) = (*count + 1, bytes);
            }
        }
        Self(named)
    }

    /// Bytes of a revision that are there.
    pub fn bytes(&self, content: &Manifest) -> u64 {
        self.sum(content, |_| true)
    }

    /// Bytes that only this revision names.
    pub fn own_bytes(&self, content: &Manifest) -> u64 {
        self.sum(content, |count| count == 1)
    }

    fn sum(&self, content: &Manifest, counts: impl Fn(usize) -> bool) -> u64 {
        let of = |(name, _)| self.0.get(&name).filter(|(count, _)| counts(*count));
        frames(content).into_iter().filter_map(of).map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    /// A revision goes.
    fn remove(&mut self, content: &Manifest) {
        for (name, _) in frames(content) {
            if let Some((count, _)) = self.0.get_mut(&name) {
                *count -= 1;
            }
        }
    }
}

/// The revisions to remove so that `bytes` become free, none of them needed: first those of which nobody
/// knows when they were released, then the oldest. None if even all of them are not enough.
pub fn make_way(
    stored: &[Stored<'_>],
    here: impl Fn(&Digest) -> bool,
    bytes: u64,
) -> Option<Vec<Digest>> {
    let mut sharing = Sharing::of(stored.iter().map(|one| one.content), here);
    let mut idle: Vec<_> = stored.iter().filter(|one| !one.is_needed).collect();
    idle.sort_by_key(|one| (one.released_at, one.manifest));
    let (mut going, mut freed) = (Vec::new(), 0);
    for one in idle {
        if freed >= bytes {
            break;
        }
        freed += one.manifest_bytes + sharing.own_bytes(one.content);
        sharing.remove(one.content);
        going.push(one.manifest);
    }
    (freed >= bytes).then_some(going)
}

/// A manifest may list a frame more than once.
fn frames(content: &Manifest) -> BTreeSet<(Digest, u32)> {
    content.frames.iter().map(|frame| (frame.hash, frame.bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Frame;

    fn content(frames: &[u8]) -> Manifest {
        let frame = |n: &u8| Frame { hash: Digest([*n; 32]), bytes: 100, raw_bytes: 100 };
        Manifest { frames: frames.iter().map(frame).collect(), ..Manifest::default() }
    }

    fn stored(number: u8, content: &Manifest, released_at: u64) -> Stored<'_> {
        Stored {
            manifest: Digest([number; 32]),
            content,
            manifest_bytes: 10,
            is_needed: false,
            released_at: (released_at > 0).then_some(UnixSeconds(released_at)),
        }
    }

    fn way(stored: &[Stored<'_>], bytes: u64) -> Option<Vec<u8>> {
        let going = make_way(stored, |name| name.0[0] != 99, bytes)?;
        Some(going.into_iter().map(|manifest| manifest.0[0]).collect())
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_have_to() {
        let (a, b, c) = (content(&[1]), content(&[2]), content(&[3]));
        let all = [stored(1, &a, 30), stored(2, &b, 0), stored(3, &c, 20)];
        assert_eq!(way(&all, 0), Some(vec![]));
        assert_eq!(way(&all, 1), Some(vec![2]), "nobody knows it");
        assert_eq!(way(&all, 110), Some(vec![2]));
        assert_eq!(way(&all, 111), Some(vec![2, 3]));
        assert_eq!(way(&all, 330), Some(vec![2, 3, 1]));
        assert_eq!(way(&all, 331), None);
    }

    #[test]
    fn what_is_needed_stays_and_so_does_what_it_shares_with_others() {
        let (a, b, c) = (content(&[1, 2]), content(&[2, 3]), content(&[3, 4, 4, 99]));
        let mut all = [stored(1, &a, 1), stored(2, &b, 2), stored(3, &c, 3)];
        all[0].is_needed = true;
        assert_eq!(way(&all, 10), Some(vec![2]));
        assert_eq!(way(&all, 11), Some(vec![2, 3]), "3 is shared with 3, and 2 with 1");
        assert_eq!(way(&all, 220), Some(vec![2, 3]));
        assert_eq!(way(&all, 221), None);
        all[1].is_needed = true;
        all[2].is_needed = true;
        assert_eq!(way(&all, 1), None);
        assert_eq!(way(&all, 0), Some(vec![]));
    }

    #[test]
    fn bytes_are_counted_once_and_only_where_they_are() {
        let (a, b) = (content(&[1, 1, 2, 99]), content(&[2, 3]));
        let sharing = Sharing::of([&a, &b].into_iter(), |name| name.0[0] != 99);
        assert_eq!((sharing.bytes(&a), sharing.own_bytes(&a)), (200, 100));
        assert_eq!((sharing.bytes(&b), sharing.own_bytes(&b)), (200, 100));
    }
}

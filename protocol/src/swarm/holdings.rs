//! What a peer says of revisions that are not open here, as far as it is kept.

use std::collections::BTreeMap;

use crate::{ids::Digest, wire::Holding};

/// The statements of one peer.
#[derive(Debug)]
pub(super) struct Holdings {
    by_manifest: BTreeMap<Digest, Holding>,
    bytes: usize,
    bytes_max: usize,
    /// Something was said that is not here: it can be asked for again.
    overflowed: bool,
}

impl Holdings {
    /// Nothing was said, and so much is kept.
    pub(super) fn within_bytes(bytes_max: usize) -> Self {
        Self { by_manifest: BTreeMap::new(), bytes: 0, bytes_max, overflowed: false }
    }

    /// The same of a peer that was not listened to so far.
    pub(super) fn unheard(bytes_max: usize) -> Self {
        Self { overflowed: true, ..Self::within_bytes(bytes_max) }
    }

    /// The same statements, as far as they fit.
    pub(super) fn within(self, bytes_max: usize) -> Self {
        let mut fitting = Self { overflowed: self.overflowed, ..Self::within_bytes(bytes_max) };
        self.by_manifest.into_values().for_each(|holding| fitting.keep(holding));
        fitting
    }

    /// Keeps what fits, with what was said of it before.
    pub(super) fn keep(&mut self, mut holding: Holding) {
        let before = self.take(holding.manifest);
        let before = before.filter(|before| before.frames.len() == holding.frames.len());
        for (bits, more) in holding.frames.iter_mut().zip(before.iter().flat_map(|b| &b.frames)) {
            *bits |= more;
        }
        if self.bytes + size(&holding) <= self.bytes_max {
            self.bytes += size(&holding);
            self.by_manifest.insert(holding.manifest, holding);
        } else {
            self.overflowed = true;
        }
    }

    /// True if something did not fit since this was asked last.
    pub(super) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// Adds frames to what was said before. Whether they exist is found out by whoever takes it.
    pub(super) fn add(&mut self, manifest: Digest, frames: &[u32]) {
        let Some(holding) = self.by_manifest.get_mut(&manifest) else { return };
        for frame in frames {
            let place = usize::try_from(frame / 8).unwrap_or(usize::MAX);
            if let Some(byte) = holding.frames.get_mut(place) {
                *byte |= 1 << (frame % 8);
            }
        }
    }

    pub(super) fn has(&self, manifest: Digest) -> bool {
        self.by_manifest.contains_key(&manifest)
    }

    pub(super) fn take(&mut self, manifest: Digest) -> Option<Holding> {
        let holding = self.by_manifest.remove(&manifest)?;
        self.bytes -= size(&holding);
        Some(holding)
    }
}

fn size(holding: &Holding) -> usize {
    holding.frames.len() + size_of::<Holding>() * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 16;

    fn holding(number: u8, bytes: usize) -> Holding {
        Holding { manifest: Digest([number; 32]), frames: vec![0; bytes] }
    }

    #[test]
    fn what_a_peer_says_is_kept_up_to_a_limit() {
        let mut holdings = Holdings::within_bytes(MOST);
        let room = MOST - size_of::<Holding>() * 2;
        holdings.keep(holding(1, room));
        assert!(holdings.has(Digest([1; 32])));
        assert!(!holdings.take_overflowed());
        holdings.keep(holding(2, 0));
        assert!(!holdings.has(Digest([2; 32])));
        assert!(holdings.take_overflowed() && !holdings.take_overflowed());
        holdings.keep(holding(1, 1));
        holdings.keep(holding(2, 1));
        assert!(holdings.has(Digest([2; 32])));
        let fewer = holdings.within(size(&holding(1, 0)));
        assert!(!fewer.has(Digest([2; 32])));
        assert!(fewer.within(MOST).take_overflowed(), "it is known that something is missing");
    }

    #[test]
    fn frames_past_the_bitmap_are_not_added() {
        let mut holdings = Holdings::within_bytes(MOST);
        let manifest = Digest([1; 32]);
        holdings.add(manifest, &[1]);
        holdings.keep(holding(1, 1));
        holdings.add(manifest, &[0, 7, 8, u32::MAX]);
        assert_eq!(holdings.take(manifest).unwrap().frames, [0b1000_0001]);
        assert_eq!(holdings.bytes, 0);
    }

    #[test]
    fn statements_that_overtake_each_other_say_the_same() {
        let said = |frames: &[u8]| Holding { manifest: Digest([1; 32]), frames: frames.to_vec() };
        let mut holdings = Holdings::within_bytes(MOST);
        holdings.keep(said(&[0b110]));
        holdings.keep(said(&[0b001]));
        assert_eq!(holdings.take(Digest([1; 32])), Some(said(&[0b111])));
        holdings.keep(said(&[0b110]));
        holdings.keep(said(&[]));
        assert_eq!(holdings.take(Digest([1; 32])), Some(said(&[])), "it was taken back");
    }
}

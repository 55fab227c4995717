//! A set of frames of one revision: what a host holds, lacks or has asked for.

use thiserror::Error;

use crate::{ids::Digest, wire::Holding};

/// Why a peer's statement about what it holds was not used. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HoldingRefused {
    /// It is about another revision.
    #[error("is about revision {}, not {}", .got.short(), .expected.short())]
    OtherRevision {
        /// The revision that is being fetched.
        expected: Digest,
        /// The one it is about.
        got: Digest,
    },
    /// The bitmap is not as long as the revision's frames need.
    #[error("has {got} bytes of bits where the revision's frames need {expected}")]
    Length {
        /// Bytes that it must have.
        expected: usize,
        /// Bytes that it has.
        got: usize,
    },
    /// A bit is set for a frame that the revision does not have.
    #[error("claims a frame past the revision's last one, {last}")]
    Padding {
        /// How many frames the revision has.
        last: u32,
    },
}

/// One bit for each frame of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameSet {
    words: Vec<u64>,
    frames: u32,
}

impl FrameSet {
    pub(super) fn empty(frames: u32) -> Self {
        Self { words: vec![0; index(frames.div_ceil(64))], frames }
    }

    /// Reads the bits of `holding`, which must be about `manifest` and exactly as long as needed.
    pub(super) fn of(
        holding: &Holding,
        manifest: Digest,
        frames: u32,
    ) -> Result<Self, HoldingRefused> {
        if holding.manifest != manifest {
            let (expected, got) = (manifest, holding.manifest);
            return Err(HoldingRefused::OtherRevision { expected, got });
        }
        let (expected, got) = (index(frames.div_ceil(8)), holding.frames.len());
        if got != expected {
            return Err(HoldingRefused::Length { expected, got });
        }
        let mut set = Self::empty(frames);
        for (word, bytes) in set.words.iter_mut().zip(holding.frames.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(padded);
        }
        let used = frames % 64;
        match set.words.last() {
            Some(last) if used != 0 && last >> used != 0 => {
                Err(HoldingRefused::Padding { last: frames })
            }
            _ => Ok(set),
        }
    }

    /// The form in which it is told to others.
    pub(super) fn to_holding(&self, manifest: Digest) -> Holding {
        let mut frames: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        frames.truncate(index(self.frames.div_ceil(8)));
        Holding { manifest, frames }
    }

    /// How many frames the revision has, in the set or not.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn contains(&self, frame: u32) -> bool {
        self.words.get(index(frame / 64)).is_some_and(|word| word >> (frame % 64) & 1 == 1)
    }

    /// Adds a frame of the revision; true if it is new to the set.
    pub(super) fn insert(&mut self, frame: u32) -> bool {
        assert!(frame < self.frames, "only frames of the revision are inserted");
        let word = &mut self.words[index(frame / 64)];
        let before = *word;
        *word |= 1 << (frame % 64);
        *word != before
    }

    pub(super) fn remove(&mut self, frame: u32) {
        if let Some(word) = self.words.get_mut(index(frame / 64)) {
            *word &= !(1 << (frame % 64));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// True if a frame is in both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// The frames in it, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.words).flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(place * 64 + bit)
            })
        })
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("a u32 fits the address space of every supported machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(frames: Vec<u8>) -> Holding {
        Holding { manifest: Digest::ZERO, frames }
    }

    #[test]
    fn a_set_reads_back_from_what_is_told_to_others() {
        for frames in [0, 1, 7, 8, 9, 63, 64, 65, 200] {
            let mut set = FrameSet::empty(frames);
            (0..frames).filter(|frame| frame % 3 == 0).for_each(|frame| {
                assert!(set.insert(frame));
                assert!(!set.insert(frame));
            });
            let told = set.to_holding(Digest::ZERO);
            assert_eq!(FrameSet::of(&told, Digest::ZERO, frames), Ok(set));
        }
    }

    #[test]
    fn the_first_frame_is_the_lowest_bit_of_the_first_byte() {
        let mut set = FrameSet::empty(10);
        set.insert(0);
        set.insert(9);
        assert_eq!(set.to_holding(Digest::ZERO).frames, [0b1, 0b10]);
    }

    #[test]
    fn bitmaps_that_do_not_fit_the_revision_are_refused() {
        let read = |frames| FrameSet::of(&holding(frames), Digest::ZERO, 10);
        assert!(read(vec![0xff, 0b11]).is_ok());
        assert_eq!(read(vec![0xff]), Err(HoldingRefused::Length { expected: 2, got: 1 }));
        assert_eq!(read(vec![0; 3]), Err(HoldingRefused::Length { expected: 2, got: 3 }));
        assert_eq!(read(vec![0xff, 0b111]), Err(HoldingRefused::Padding { last: 10 }));
        let other = Digest([1; 32]);
        let refused = FrameSet::of(&holding(vec![0, 0]), other, 10);
        assert_eq!(
            refused,
            Err(HoldingRefused::OtherRevision { expected: other, got: Digest::ZERO })
        );
    }

    #[test]
    fn a_frame_that_does_not_exist_is_in_no_set() {
        let mut set = FrameSet::empty(64);
        assert!(!set.contains(64));
        assert!(!set.contains(u32::MAX));
        set.remove(u32::MAX);
        assert!(set.is_empty());
    }
}

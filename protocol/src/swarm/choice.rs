//! The policy: which of the frames that a peer could give is asked for next.
//!
//! Random for now. Rarest-first needs no more than a count of holders per frame beside these sets;
//! nothing outside this file would change.

use super::frame_set::FrameSet;

/// Draws in which a common frame is looked for anywhere, before the sets are searched in order.
const DRAWS: u32 = 8;

/// A random frame that is in both sets; every one is as likely as any other while they are common.
pub(super) fn pick(wanted: &FrameSet, held: &FrameSet, dice: &mut Dice) -> Option<u32> {
    let frames = wanted.frames();
    if frames == 0 {
        return None;
    }
    for _ in 0..DRAWS {
        let frame = dice.below(frames);
        if wanted.contains(frame) && held.contains(frame) {
            return Some(frame);
        }
    }
    // Few are left, or the peer has few: the first word at or after a random one that has any.
    let common: Vec<(u32, u64)> = (0..)
        .zip(wanted.words().iter().zip(held.words()))
        .map(|(word, (a, b))| (word, a & b))
        .filter(|(_, bits)| *bits != 0)
        .collect();
    let choices = u32::try_from(common.len()).ok().filter(|choices| *choices > 0)?;
    let (word, bits) = common[usize::try_from(dice.below(choices)).ok()?];
    let mut rest = bits;
    for _ in 0..dice.below(bits.count_ones()) {
        rest &= rest - 1;
    }
    Some(word * 64 + rest.trailing_zeros())
}

/// Numbers that look random and follow from a seed: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.roll() % u64::from(bound)).expect("it is below a u32")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_common_frames_are_picked_and_all_of_them_sometimes() {
        let (mut wanted, mut held) = (FrameSet::empty(1000), FrameSet::empty(1000));
        for frame in [3, 64, 700, 701, 999] {
            wanted.insert(frame);
        }
        for frame in [3, 65, 700, 701, 998] {
            held.insert(frame);
        }
        let mut dice = Dice::new(1);
        let picked: BTreeSet<_> = (0..200).map(|_| pick(&wanted, &held, &mut dice)).collect();
        assert_eq!(picked, BTreeSet::from([Some(3), Some(700), Some(701)]));
    }

    #[test]
    fn nothing_in_common_picks_nothing() {
        let mut dice = Dice::new(1);
        let mut one = FrameSet::empty(10);
        one.insert(4);
        assert_eq!(pick(&one, &FrameSet::empty(10), &mut dice), None);
        assert_eq!(pick(&FrameSet::empty(0), &FrameSet::empty(0), &mut dice), None);
    }

    #[test]
    fn dice_are_splitmix() {
        // The generator's published first outputs for seed 1234567.
        let mut dice = Dice::new(1_234_567);
        assert_eq!(dice.roll(), 6_457_827_717_110_365_317);
        assert_eq!(dice.roll(), 3_203_168_211_198_807_973);
    }
}

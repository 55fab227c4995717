//! The policy: which of the frames that a peer could give is asked for next.
//!
//! The one that fewest peers hold, so that nothing becomes scarce; a random one of those, so that
//! hosts that fetch together soon hold different frames and can serve each other.

use super::frame_set::FrameSet;

/// The frames that are wanted, by how many peers hold them.
#[derive(Debug)]
pub(super) struct Wanted {
    holders: Vec<u8>,
    /// Beyond the last set it does not matter how many hold a frame: there are enough.
    by_holders: [FrameSet; HOLDERS_TOLD_APART],
}

impl Wanted {
    /// Wants nothing of so many frames, which nobody holds.
    pub(super) fn none_of(frames: u32) -> Self {
        let count = usize::try_from(frames).unwrap_or(usize::MAX);
        let by_holders = std::array::from_fn(|_| FrameSet::empty(frames));
        Self { holders: vec![0; count], by_holders }
    }

    pub(super) fn insert(&mut self, frame: u32) {
        let class = self.class(frame);
        self.by_holders[class].insert(frame);
    }

    pub(super) fn remove(&mut self, frame: u32) {
        let class = self.class(frame);
        self.by_holders[class].remove(frame);
    }

    pub(super) fn contains(&self, frame: u32) -> bool {
        self.by_holders[self.class(frame)].contains(frame)
    }

    /// One peer more holds a frame.
    pub(super) fn gained(&mut self, frame: u32) {
        self.count(frame, |holders| holders.saturating_add(1));
    }

    /// One peer less holds a frame.
    pub(super) fn lost(&mut self, frame: u32) {
        self.count(frame, |holders| holders.saturating_sub(1));
    }

    /// True if a set of frames has a wanted one.
    pub(super) fn meets(&self, held: &FrameSet) -> bool {
        self.by_holders.iter().any(|wanted| wanted.meets(held))
    }

    /// A frame that is wanted and held, of those that fewest peers hold a random one.
    pub(super) fn pick(&self, held: &FrameSet, dice: &mut Dice) -> Option<u32> {
        let mut sets = self.by_holders.iter();
        sets.find_map(|wanted| any_common(wanted, held, dice))
    }

    fn count(&mut self, frame: u32, change: impl Fn(u8) -> u8) {
        let before = self.class(frame);
        let Some(holders) = self.holders.get_mut(index(frame)) else { return };
        *holders = change(*holders);
        let after = self.class(frame);
        if before != after && self.by_holders[before].contains(frame) {
            self.by_holders[before].remove(frame);
            self.by_holders[after].insert(frame);
        }
    }

    fn class(&self, frame: u32) -> usize {
        let holders = self.holders.get(index(frame)).copied().unwrap_or_default();
        usize::from(holders).min(HOLDERS_TOLD_APART - 1)
    }
}

/// A random frame that is in both sets.
pub(super) fn any_common(a: &FrameSet, b: &FrameSet, dice: &mut Dice) -> Option<u32> {
    let words = u32::try_from(a.words().len()).ok().filter(|words| *words > 0)?;
    let from = index(dice.below(words));
    let common = |(a, b): (&u64, &u64)| a & b != 0;
    let find = |a: &[u64], b: &[u64]| a.iter().zip(b).position(common);
    let (a, b) = (a.words(), b.words());
    let place = find(&a[from..], &b[from..]).map(|place| from + place);
    let place = place.or_else(|| find(&a[..from], &b[..from]))?;
    let mut rest = a[place] & b[place];
    for _ in 0..dice.below(rest.count_ones()) {
        rest &= rest - 1;
    }
    Some(u32::try_from(place).ok()? * 64 + rest.trailing_zeros())
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

fn index(frame: u32) -> usize {
    usize::try_from(frame).expect("a u32 fits the address space of every supported machine")
}

const HOLDERS_TOLD_APART: usize = 9;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(of: u32, frames: &[u32]) -> FrameSet {
        let mut set = FrameSet::empty(of);
        frames.iter().for_each(|frame| assert!(set.insert(*frame)));
        set
    }

    #[test]
    fn only_common_frames_are_picked_and_all_of_them_sometimes() {
        let mut wanted = Wanted::none_of(1000);
        [3, 64, 700, 701, 999].into_iter().for_each(|frame| wanted.insert(frame));
        let held = set(1000, &[3, 65, 700, 701, 998]);
        let mut dice = Dice::new(1);
        let picked: BTreeSet<_> = (0..200).map(|_| wanted.pick(&held, &mut dice)).collect();
        assert_eq!(picked, BTreeSet::from([Some(3), Some(700), Some(701)]));
    }

    #[test]
    fn what_fewest_hold_comes_first() {
        let mut wanted = Wanted::none_of(100);
        let held = set(100, &[1, 2, 3]);
        [1, 2, 3].into_iter().for_each(|frame| wanted.insert(frame));
        for (frame, holders) in [(1, 3), (2, 1), (3, 300)] {
            (0..holders).for_each(|_| wanted.gained(frame));
        }
        let mut dice = Dice::new(1);
        assert_eq!(wanted.pick(&held, &mut dice), Some(2));
        (0..3).for_each(|_| wanted.gained(2));
        assert_eq!(wanted.pick(&held, &mut dice), Some(1));
        wanted.lost(2);
        wanted.lost(2);
        assert_eq!(wanted.pick(&held, &mut dice), Some(2));
        wanted.remove(2);
        wanted.remove(1);
        assert_eq!(wanted.pick(&held, &mut dice), Some(3));
        assert!(wanted.contains(3) && !wanted.contains(1) && wanted.meets(&held));
    }

    #[test]
    fn nothing_in_common_picks_nothing() {
        let mut dice = Dice::new(1);
        let mut wanted = Wanted::none_of(10);
        wanted.insert(4);
        assert_eq!(wanted.pick(&FrameSet::empty(10), &mut dice), None);
        assert_eq!(Wanted::none_of(0).pick(&FrameSet::empty(0), &mut dice), None);
        wanted.gained(u32::MAX);
        assert!(!wanted.contains(u32::MAX));
    }

    #[test]
    fn dice_are_splitmix() {
        // The generator's published first outputs for seed 1234567.
        let mut dice = Dice::new(1_234_567);
        assert_eq!(dice.roll(), 6_457_827_717_110_365_317);
        assert_eq!(dice.roll(), 3_203_168_211_198_807_973);
    }
}

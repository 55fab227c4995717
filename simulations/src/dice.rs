//! The one source of chance. The same seed gives the same throws, on every machine.

/// A generator of the splitmix family: small, quick, and good enough to shake a protocol.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice for a seed. Neighbouring seeds have nothing in common.
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed ^ 0x6a09_e667_f3bc_c909);
        dice.next();
        dice
    }

    /// Dice of their own for one purpose, so that throws for one do not move those for another.
    #[must_use]
    pub fn fork(&mut self, purpose: u64) -> Self {
        Self::new(self.next() ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.next()
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        debug_assert!(low <= high, "a range has a beginning before its end");
        low + self.next() % (high - low + 1)
    }

    /// An index below `count`, which is not zero.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).unwrap_or(0)
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.next() % 1000 < chance
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// `count` different indices below `of`, or all of them.
    pub fn some(&mut self, count: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<_> = (0..of).collect();
        for place in 0..count.min(of) {
            let other = place + self.index(of - place);
            all.swap(place, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_throws_alike_and_its_neighbour_does_not() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.number()).collect::<Vec<_>>()
        };
        assert_eq!(throws(1), throws(1));
        assert_ne!(throws(1), throws(2));
    }

    #[test]
    fn what_is_picked_is_in_range_and_different() {
        let mut dice = Dice::new(3);
        for _ in 0..100 {
            assert!((3..=5).contains(&dice.between(3, 5)));
            let mut some = dice.some(4, 9);
            some.sort_unstable();
            some.dedup();
            assert_eq!(some.len(), 4);
        }
    }
}

//! So many bytes a second.

use std::time::Duration;

use crate::time::Mono;

/// What may be spent is refilled at a rate, up to a hoard. Whoever still has some may spend more than
/// that, and then waits longer: frames are not cut.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    /// None: as much as there is.
    per_second: Option<u64>,
    hoard: u64,
    left: i128,
    at: Mono,
}

impl Rate {
    /// A rate that hoards what comes in an eighth of a second.
    pub(super) fn new(per_second: Option<u64>) -> Self {
        Self::hoarding(per_second, (per_second.unwrap_or_default() / 8).max(1))
    }

    /// A rate that hoards so many bytes, and has them.
    pub(super) fn hoarding(per_second: Option<u64>, hoard: u64) -> Self {
        let left = if per_second == Some(0) { 0 } else { hoard.into() };
        Self { per_second, hoard, left, at: Mono(0) }
    }

    /// True if something may be spent now.
    pub(super) fn allows(&mut self, now: Mono) -> bool {
        let Some(per_second) = self.per_second else { return true };
        let micros = i128::try_from(now.since(self.at).as_micros()).unwrap_or(i128::MAX);
        let more = micros.saturating_mul(per_second.into()) / 1_000_000;
        if more > 0 {
            self.left = self.left.saturating_add(more).min(self.hoard.into());
            self.at = now;
        }
        self.left > 0
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        if self.per_second.is_some() {
            self.left -= i128::from(bytes);
        }
    }

    /// When something may be spent again. None if it may be now, or never.
    pub(super) fn opens_at(&self) -> Option<Mono> {
        let per_second = self.per_second.filter(|rate| self.left <= 0 && *rate > 0)?;
        let lacking = u64::try_from(1 - self.left).unwrap_or(u64::MAX);
        let micros = lacking.saturating_mul(1_000_000).div_ceil(per_second);
        Some(self.at + Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_is_spent_than_the_rate_allows() {
        let mut rate = Rate::new(Some(1_000_000));
        let (mut now, mut spent) = (Mono(0), 0);
        while now < Mono(10_000_000) {
            if rate.allows(now) {
                rate.spend(70_000);
                spent += 70_000;
            } else {
                now = rate.opens_at().unwrap();
                assert!(rate.clone().allows(now), "it opens when it says");
            }
        }
        assert!((9_900_000..10_300_000).contains(&spent), "{spent} bytes in ten seconds");
    }

    #[test]
    fn without_a_rate_everything_goes() {
        let mut rate = Rate::new(None);
        rate.spend(u64::MAX);
        assert!(rate.allows(Mono(0)));
        assert_eq!(rate.opens_at(), None);
    }

    #[test]
    fn what_was_not_spent_for_long_is_not_all_kept() {
        let mut rate = Rate::new(Some(800));
        assert!(rate.allows(Mono(3_600_000_000)));
        rate.spend(100);
        assert!(!rate.allows(Mono(3_600_000_000)));
    }

    #[test]
    fn a_rate_of_nothing_never_opens_and_the_least_one_does() {
        let mut nothing = Rate::new(Some(0));
        assert!(!nothing.allows(Mono(3_600_000_000)));
        assert_eq!(nothing.opens_at(), None);
        let mut least = Rate::new(Some(1));
        assert!(least.allows(Mono(0)));
        least.spend(2);
        assert!(!least.allows(Mono(1_000_000)));
        assert!(least.allows(least.opens_at().unwrap()));
    }
}

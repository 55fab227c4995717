//! How often a host tells that it gets on, and from when on one does not.

use std::time::Duration;

use crate::limits::{PROGRESS_EVERY_MIN, PROGRESS_PER_SECOND_MAX, STALLED_AFTER};

/// Why a host that is waited for is one that somebody has to look after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Nothing is heard of it.
    Silent,
    /// It says the same again and again.
    Stuck,
}

impl Stall {
    /// Judges a host in a fleet of so many that has been silent for so long, and has said the same for
    /// so long.
    pub fn of(hosts: usize, silent_for: Duration, same_for: Duration) -> Option<Self> {
        if silent_for >= STALLED_AFTER {
            return Some(Self::Silent);
        }
        // One word of it may be on its way while the next is due.
        let gets_on_within = STALLED_AFTER.max(2 * progress_after(hosts));
        (same_for >= gets_on_within).then_some(Self::Stuck)
    }
}

/// When a host of so many says again how far it has got.
pub fn progress_after(hosts: usize) -> Duration {
    let share = Duration::from_secs(1) / PROGRESS_PER_SECOND_MAX;
    PROGRESS_EVERY_MIN.max(share * u32::try_from(hosts).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_fleet_is_told_of_progress_more_rarely() {
        let seconds = |hosts| progress_after(hosts).as_secs();
        assert_eq!([3, 100, 1_000, 10_000].map(seconds), [1, 1, 10, 100]);
    }

    #[test]
    fn a_host_stalls_when_it_is_silent_or_tells_of_no_progress_where_it_should() {
        let just_below = STALLED_AFTER - Duration::from_millis(1);
        for (hosts, silent_for, same_for, expected) in [
            (5, just_below, just_below, None),
            (5, STALLED_AFTER, Duration::ZERO, Some(Stall::Silent)),
            (5, just_below, STALLED_AFTER, Some(Stall::Stuck)),
            (1_000, just_below, Duration::from_secs(19), None),
            (1_000, just_below, Duration::from_secs(20), Some(Stall::Stuck)),
            (1_000, STALLED_AFTER, Duration::ZERO, Some(Stall::Silent)),
        ] {
            let judged = Stall::of(hosts, silent_for, same_for);
            assert_eq!(judged, expected, "{hosts} hosts, {silent_for:?}, {same_for:?}");
        }
    }
}

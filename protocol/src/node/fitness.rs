//! What a host notices of itself and tells the others: whether it would make a good voter, and whether
//! another machine speaks with its key.

use std::{collections::VecDeque, time::Duration};

use crate::{
    limits::{WRITE_SLOW_FROM, WRITES_WATCHED},
    time::Mono,
};

/// What a host has noticed of itself.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    /// Whether each of the last writes was slow.
    writes: VecDeque<bool>,
    slow: usize,
    /// Until when it calls itself unsteady.
    unsteady_until: Mono,
    /// When it has met words of its own that it had not said.
    met_itself: VecDeque<Mono>,
}

impl Fitness {
    /// A write became durable after so long.
    pub(super) fn wrote(&mut self, took: Duration) {
        if self.writes.len() == WRITES_WATCHED {
            self.slow -= usize::from(self.writes.pop_front() == Some(true));
        }
        let is_slow = took > WRITE_SLOW_FROM;
        self.writes.push_back(is_slow);
        self.slow += usize::from(is_slow);
    }

    /// True if this host hears few, or wrongly, `is_muted`, or has a disk of which more than one write in a
    /// hundred is slow; and for a while after.
    pub(super) fn is_unsteady(&mut self, now: Mono, is_muted: bool) -> bool {
        let has_slow_disk = self.slow * 100 > self.writes.len().max(WRITES_WATCHED / 2);
        if is_muted || has_slow_disk {
            self.unsteady_until = now + UNSTEADY_FOR;
        }
        now < self.unsteady_until
    }

    /// A record of this host has come that it does not remember.
    pub(super) fn met_itself(&mut self, now: Mono) {
        if self.met_itself.len() == TIMES_DOUBLED {
            self.met_itself.pop_front();
        }
        self.met_itself.push_back(now);
    }

    /// True if that was so often of late that no disk which was put back explains it.
    pub(super) fn is_doubled(&self, now: Mono) -> bool {
        let all = self.met_itself.len() == TIMES_DOUBLED;
        all && self.met_itself.front().is_some_and(|first| now.since(*first) < DOUBLED_WITHIN)
    }
}

/// One disk that is put back is met once, or twice where an old record was still on its way.
const TIMES_DOUBLED: usize = 3;
const DOUBLED_WITHIN: Duration = Duration::from_secs(600);

/// Nobody is told twice a second that it is well and ill again.
const UNSTEADY_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_meets_itself_three_times_in_ten_minutes_is_doubled() {
        let mut fitness = Fitness::default();
        for minute in [0, 1, 20] {
            assert!(!fitness.is_doubled(Mono(minute * 60_000_000)));
            fitness.met_itself(Mono(minute * 60_000_000));
        }
        assert!(!fitness.is_doubled(Mono(20 * 60_000_000)), "within twenty");
        [21, 22].into_iter().for_each(|minute| fitness.met_itself(Mono(minute * 60_000_000)));
        assert!(fitness.is_doubled(Mono(22 * 60_000_000)));
        assert!(!fitness.is_doubled(Mono(31 * 60_000_000)));
    }

    #[test]
    fn one_slow_write_in_a_hundred_is_none_and_two_are() {
        let (now, fast, slow) = (Mono(0), Duration::from_millis(2), Duration::from_millis(21));
        let mut fitness = Fitness::default();
        fitness.wrote(slow);
        (1..WRITES_WATCHED).for_each(|_| fitness.wrote(fast));
        assert!(!fitness.is_unsteady(now, false));
        fitness.wrote(slow);
        assert!(!fitness.is_unsteady(now, false), "the first one is long ago");
        fitness.wrote(slow);
        assert!(fitness.is_unsteady(now, false));
        (0..WRITES_WATCHED).for_each(|_| fitness.wrote(fast));
        assert!(fitness.is_unsteady(now, false), "for a while after");
        assert!(!fitness.is_unsteady(now + UNSTEADY_FOR, false));
        assert!(fitness.is_unsteady(now + UNSTEADY_FOR, true), "who hears nobody is so as well");
    }
}

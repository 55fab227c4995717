//! When something is said to the ledger again that does not show there yet.
//!
//! What a host asks for or gives back may be lost, and may be handed in as often as it likes. But where nobody
//! leads all hosts of a fleet wait at the same time: each waits longer every time, and another while than
//! the others. Whatever gives hope begins that anew: somebody else leads, or a link to a voter is up.

use std::time::Duration;

use crate::{
    ids::{Digest, HashDomain, HostId},
    limits::{REPEAT_AFTER_MAX, REPEAT_AFTER_MIN},
    time::Mono,
};

/// Something that is said until it shows.
#[derive(Debug)]
pub(super) struct Repeat<T> {
    said: Option<T>,
    /// How often, since there was hope.
    times: u32,
    hopes: u64,
    next_at: Mono,
}

impl<T> Default for Repeat<T> {
    fn default() -> Self {
        Self { said: None, times: 0, hopes: 0, next_at: Mono::default() }
    }
}

impl<T: PartialEq> Repeat<T> {
    /// True if `what` is to be said now, and counts it as said. `hopes` counts what gave `me` hope.
    pub(super) fn is_due(&mut self, now: Mono, me: HostId, hopes: u64, what: T) -> bool {
        if self.said.as_ref() != Some(&what) {
            *self = Self { said: Some(what), times: 0, hopes, next_at: now };
        } else if self.hopes != hopes {
            (self.times, self.hopes) = (0, hopes);
            self.next_at = self.next_at.min(now + share(REPEAT_AFTER_MIN, self.draw(me)));
        }
        if now < self.next_at {
            return false;
        }
        self.next_at = now + repeat_after(self.times, self.draw(me));
        self.times += 1;
        true
    }

    /// It shows: when it is to be said once more, that is something else.
    pub(super) fn shows(&mut self) {
        self.said = None;
    }

    /// True if `what` was said before.
    pub(super) fn has_said(&self, what: &T) -> bool {
        self.said.as_ref() == Some(what)
    }

    /// Different on each host and each time.
    fn draw(&self, me: HostId) -> u16 {
        let parts: [&[u8]; 3] = [&me.0, &self.times.to_be_bytes(), &self.next_at.0.to_be_bytes()];
        let Digest([one, other, ..]) = Digest::of(HashDomain::Ring, &parts);
        u16::from_be_bytes([one, other])
    }
}

/// How long to wait when it was said so many times before: between the least and a bound that doubles, and
/// in the end the longest, give or take half.
fn repeat_after(times: u32, draw: u16) -> Duration {
    let bound = 2_u32.checked_pow(times + 1).map(|factor| REPEAT_AFTER_MIN.saturating_mul(factor));
    match bound.filter(|bound| *bound < REPEAT_AFTER_MAX) {
        Some(bound) => REPEAT_AFTER_MIN + share(bound - REPEAT_AFTER_MIN, draw),
        None => REPEAT_AFTER_MAX / 2 + share(REPEAT_AFTER_MAX, draw),
    }
}

/// A part of `all`, from nothing to all of it.
fn share(all: Duration, draw: u16) -> Duration {
    all * u32::from(draw) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(host: u8, what: impl Fn(u64) -> u32, hopes: impl Fn(u64) -> u64) -> Vec<u64> {
        let (mut repeat, me) = (Repeat::default(), HostId([host; 32]));
        let ticks = (0..600_000).step_by(100);
        let at = |millis: &u64| {
            let now = Mono(millis * 1000);
            repeat.is_due(now, me, hopes(*millis), what(*millis))
        };
        ticks.filter(at).collect()
    }

    #[test]
    fn what_does_not_show_for_ten_minutes_is_said_some_thirty_times() {
        let counts: Vec<_> = (0..100).map(|host| said(host, |_| 1, |_| 0).len()).collect();
        assert!(counts.iter().all(|count| (20..=45).contains(count)), "{counts:?}");
        let average = counts.iter().sum::<usize>() / counts.len();
        assert!((25..=31).contains(&average), "{average} on average");
    }

    #[test]
    fn hosts_that_wait_together_do_not_speak_together() {
        let late = |host| said(host, |_| 1, |_| 0).into_iter().filter(|at| *at >= 60_000);
        let mut per_second = vec![0; 600];
        (0..200).flat_map(late).for_each(|at| per_second[usize::try_from(at / 1000).unwrap()] += 1);
        let most = per_second.iter().max().unwrap();
        assert!(*most <= 25, "{most} of 200 in a second, 7 on average");
    }

    #[test]
    fn the_first_time_is_at_once_and_the_waits_grow_to_half_a_minute() {
        for host in 0..100 {
            let said = said(host, |_| 1, |_| 0);
            let waits: Vec<_> = said.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert_eq!(said[0], 0);
            for (times, wait) in waits.iter().enumerate() {
                let (least, most) = if times < 7 { (200, 400 << times) } else { (15_000, 45_000) };
                assert!((least..=most + 100).contains(wait), "{wait} ms after {times} times");
            }
        }
    }

    #[test]
    fn hope_begins_it_anew_and_so_does_something_else() {
        for host in 0..100 {
            let hopeful = said(host, |_| 1, |millis| millis / 300_000);
            let after = hopeful.iter().find(|at| **at >= 300_000).unwrap();
            assert!(*after <= 300_300, "said {after} ms after the beginning, hope came at 300 s");
            let soon = hopeful.iter().filter(|at| (300_000..310_000).contains(*at)).count();
            assert!(soon >= 4, "{soon} times within ten seconds of it");

            let other = said(host, |millis| u32::from(millis >= 300_000), |_| 0);
            assert!(other.contains(&300_000));
        }
    }

    #[test]
    fn what_has_shown_is_said_at_once_when_it_is_to_be_said_again() {
        let (mut repeat, me) = (Repeat::default(), HostId([1; 32]));
        assert!(repeat.is_due(Mono(0), me, 0, 7));
        assert!(!repeat.is_due(Mono(100_000), me, 0, 7));
        assert!(repeat.has_said(&7));
        repeat.shows();
        assert!(!repeat.has_said(&7));
        assert!(repeat.is_due(Mono(100_000), me, 0, 7));
    }
}

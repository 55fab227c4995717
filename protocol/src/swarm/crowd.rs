//! A small simulation: one host fetches from a crowd in which most lie, stall or are slow.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Ask, Failure, Fetch, choice::Dice};
use crate::{
    ids::{Digest, HostId},
    limits::CALL_TIMEOUT,
    revision::Frame,
    time::Mono,
    wire::Holding,
};

const MANIFEST: Digest = Digest([9; 32]);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Honest,
    /// Takes longer than is patiently waited for.
    Slow,
    /// Gives bytes that are not the frame.
    Lies,
    /// Takes the question and never answers.
    Stalls,
    /// Claims everything and has nothing.
    Boasts,
    Busy,
}

/// What came of one run.
#[derive(Debug, PartialEq)]
struct Course {
    asks: Vec<Ask>,
    ended: Mono,
    duplicates: usize,
}

fn frame(index: u32) -> Frame {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&index.to_be_bytes());
    Frame { hash: Digest(hash), bytes: 1000, raw_bytes: 2000 }
}

fn every(frames: u32) -> Holding {
    let bits = |byte: u32| (0..8).filter(|bit| byte * 8 + bit < frames).map(|bit| 1 << bit).sum();
    Holding { manifest: MANIFEST, frames: (0..frames.div_ceil(8)).map(bits).collect() }
}

/// Runs one fetch to its end, in simulated time.
fn run(frames: u32, manners: &[Manner], seed: u64) -> Course {
    let content: Vec<Frame> = (0..frames).map(frame).collect();
    let mut fetch = Fetch::new(MANIFEST, &content, |_| false, seed);
    let mut world = Dice::new(seed ^ 0xdead);
    let host = |number: usize| HostId([u8::try_from(number).unwrap(); 32]);
    let manners: BTreeMap<HostId, Manner> =
        manners.iter().enumerate().map(|(number, manner)| (host(number), *manner)).collect();
    manners.keys().for_each(|peer| fetch.peer(*peer, &every(frames)).unwrap());
    let mut answers: BTreeMap<(Mono, usize), (Ask, Manner)> = BTreeMap::new();
    let mut course = Course { asks: Vec::new(), ended: Mono(0), duplicates: 0 };
    let mut now = Mono(0);
    while !fetch.is_done() {
        for ask in fetch.next(now) {
            let manner = manners[&ask.peer];
            let millis = match manner {
                Manner::Slow => 2500 + world.below(5000),
                Manner::Stalls => u32::try_from(CALL_TIMEOUT.as_millis()).unwrap(),
                _ => 5 + world.below(50),
            };
            let when = Mono(now.0 + u64::from(millis) * 1000);
            assert!(fetch.holding().frames[ask.index as usize / 8] >> (ask.index % 8) & 1 == 0);
            answers.insert((when, course.asks.len()), (ask, manner));
            course.asks.push(ask);
        }
        fetch.check_invariants();
        let answer = answers.keys().next().map(|(when, _)| *when);
        now = fetch.next_deadline().into_iter().chain(answer).min().expect("it never gets stuck");
        while let Some(entry) = answers.first_entry().filter(|entry| entry.key().0 <= now) {
            let (ask, manner) = entry.remove();
            let done = fetch.progress().frames_done;
            match manner {
                Manner::Honest | Manner::Slow => {
                    fetch.received(now, ask.peer, ask.index, true);
                    course.duplicates += usize::from(fetch.progress().frames_done == done);
                }
                Manner::Lies => fetch.received(now, ask.peer, ask.index, false),
                Manner::Stalls => fetch.failed(now, ask.peer, ask.index, Failure::Timeout),
                Manner::Boasts => fetch.failed(now, ask.peer, ask.index, Failure::Absent),
                Manner::Busy => fetch.failed(now, ask.peer, ask.index, Failure::Busy),
            }
            fetch.check_invariants();
        }
        assert!(now < Mono(600_000_000), "ten minutes are enough for {frames} frames");
    }
    course.ended = now;
    course
}

#[test]
fn nine_of_ten_peers_lie_or_stall_and_the_fetch_ends() {
    use Manner::*;
    let crowd = [Lies, Stalls, Boasts, Busy, Honest, Lies, Stalls, Slow, Boasts, Stalls];
    for seed in 0..20 {
        let course = run(300, &crowd, seed);
        let lied = course.asks.iter().filter(|ask| ask.peer == HostId([0; 32])).count();
        assert!(lied <= 4, "a liar is asked for one window, not {lied} times");
        assert!(course.duplicates <= 12, "{} frames came twice", course.duplicates);
        assert!(course.ended < Mono(40_000_000), "took {:?}", course.ended);
    }
}

#[test]
fn among_honest_peers_nothing_is_asked_twice() {
    for seed in 0..10 {
        let course = run(500, &[Manner::Honest; 6], seed);
        assert_eq!(course.asks.len(), 500);
        assert_eq!(course.duplicates, 0);
        for peer in 0..6 {
            let part = course.asks.iter().filter(|ask| ask.peer == HostId([peer; 32])).count();
            assert!(part > 40, "peer {peer} gave only {part} of 500 frames");
        }
    }
}

#[test]
fn one_slow_peer_alone_is_enough() {
    let course = run(20, &[Manner::Slow], 3);
    assert_eq!(course.duplicates, 0);
}

#[test]
fn the_same_seed_asks_the_same_and_another_does_not() {
    let crowd = [Manner::Honest, Manner::Slow, Manner::Lies, Manner::Honest];
    assert_eq!(run(100, &crowd, 5), run(100, &crowd, 5));
    assert_ne!(run(100, &crowd, 5).asks, run(100, &crowd, 6).asks);
}

proptest! {
    #[test]
    fn no_course_of_events_breaks_the_invariants(
        frames in 0u32..40,
        seed: u64,
        events in prop::collection::vec((0u8..7, 0u8..5, 0u32..44, 0u64..4_000_000), 0..200),
    ) {
        let content: Vec<Frame> = (0..frames).map(frame).collect();
        let mut fetch = Fetch::new(MANIFEST, &content, |hash| hash.0[3] % 5 == 0, seed);
        let mut now = Mono(0);
        for (kind, peer, index, pause) in events {
            let peer = HostId([peer; 32]);
            now = Mono(now.0 + pause);
            match kind {
                0 => fetch.peer(peer, &every(frames)).unwrap(),
                1 => fetch.peer_gone(peer),
                2 => fetch.received(now, peer, index, true),
                3 => fetch.received(now, peer, index, index % 4 == 0),
                4 => fetch.failed(now, peer, index, Failure::Absent),
                5 => fetch.failed(now, peer, index, Failure::Timeout),
                _ => drop(fetch.next(now)),
            }
            fetch.check_invariants();
        }
    }
}

//! A small simulation: one host fetches from a crowd in which most lie, stall or are slow; and hosts
//! to which anything may happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::{Ask, Failure, Output, Rates, Swarm, choice::Dice};
use crate::{
    ids::{Digest, HostId},
    limits::{
        CALL_TIMEOUT, FETCHES_MAX, HOLDINGS_BYTES_PER_SPARE_MAX, SERVES_MAX, SERVES_PER_PEER_MAX,
        SERVES_WAITING_MAX, SWARM_PEERS_MAX, SWARM_REVISION_IDLE_MAX, SWARM_REVISIONS_MAX,
    },
    revision::{Frame, Manifest},
    time::Mono,
    wire::{Holding, Message},
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

fn content(frames: u32) -> Arc<Manifest> {
    let frame = |index: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&index.to_be_bytes());
        Frame { hash: Digest(hash), bytes: 1000, raw_bytes: 2000 }
    };
    Arc::new(Manifest { frames: (0..frames).map(frame).collect(), ..Manifest::default() })
}

fn every(frames: u32) -> Holding {
    let bits = |byte: u32| (0..8).filter(|bit| byte * 8 + bit < frames).map(|bit| 1 << bit).sum();
    Holding { manifest: MANIFEST, frames: (0..frames.div_ceil(8)).map(bits).collect() }
}

fn host(number: usize) -> HostId {
    HostId([u8::try_from(number).unwrap(); 32])
}

/// Runs one fetch to its end, in simulated time.
fn run(frames: u32, manners: &[Manner], seed: u64) -> Course {
    let mut swarm = Swarm::new(Rates::default(), seed);
    let mut world = Dice::new(seed ^ 0xdead);
    let manners: BTreeMap<HostId, Manner> =
        manners.iter().enumerate().map(|(number, manner)| (host(number), *manner)).collect();
    for peer in manners.keys() {
        swarm.peer_up(*peer);
        swarm.holding(*peer, every(frames)).unwrap();
    }
    assert!(swarm.open(Mono(0), MANIFEST, content(frames), |_| false));
    let mut answers: BTreeMap<(Mono, usize), (Ask, Manner)> = BTreeMap::new();
    let mut course = Course { asks: Vec::new(), ended: Mono(0), duplicates: 0 };
    let mut now = Mono(0);
    while !swarm.is_done(MANIFEST) {
        for output in swarm.poll(now) {
            let Output::Ask(ask) = output else { continue };
            let manner = manners[&ask.peer];
            let millis = match manner {
                Manner::Slow => 2500 + world.below(5000),
                Manner::Stalls => u32::try_from(CALL_TIMEOUT.as_millis()).unwrap(),
                _ => 5 + world.below(50),
            };
            let when = Mono(now.0 + u64::from(millis) * 1000);
            assert!(!swarm.has(MANIFEST, ask.index));
            answers.insert((when, course.asks.len()), (ask, manner));
            course.asks.push(ask);
        }
        check(&swarm);
        let answer = answers.keys().next().map(|(when, _)| *when);
        now = swarm.next_deadline().into_iter().chain(answer).min().expect("it never gets stuck");
        while let Some(entry) = answers.first_entry().filter(|entry| entry.key().0 <= now) {
            let (Ask { peer, index, .. }, manner) = entry.remove();
            match manner {
                Manner::Honest | Manner::Slow => {
                    course.duplicates += usize::from(swarm.has(MANIFEST, index));
                    swarm.received(now, peer, MANIFEST, index, true);
                }
                Manner::Lies => swarm.received(now, peer, MANIFEST, index, false),
                Manner::Stalls => swarm.failed(now, peer, MANIFEST, index, Failure::Timeout),
                Manner::Boasts => swarm.failed(now, peer, MANIFEST, index, Failure::Absent),
                Manner::Busy => swarm.failed(now, peer, MANIFEST, index, Failure::Busy),
            }
            check(&swarm);
        }
        assert!(now < Mono(600_000_000), "ten minutes are enough for {frames} frames");
    }
    course.ended = now;
    course
}

/// What must hold whatever happens.
fn check(swarm: &Swarm) {
    swarm.revisions.values().for_each(|revision| revision.fetch.check_invariants());
    let load = swarm.load();
    assert!(load.asks <= FETCHES_MAX, "{load:?}");
    assert!(load.peers <= SWARM_PEERS_MAX, "{load:?}");
    assert!(load.waiting <= SERVES_WAITING_MAX + load.peers * SERVES_PER_PEER_MAX, "{load:?}");
    assert!(load.giving <= 2 * SERVES_MAX, "{load:?}");
    assert!(swarm.revisions.len() <= SWARM_REVISIONS_MAX);
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

#[test]
fn two_revisions_share_what_may_be_under_way() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    swarm.peer_up(host(1));
    for revision in [1, 2] {
        let manifest = Digest([revision; 32]);
        assert!(swarm.open(Mono(0), manifest, content(100), |_| false));
        swarm.holding(host(1), Holding { manifest, ..every(100) }).unwrap();
    }
    let outputs = swarm.poll(Mono(0));
    let asked = |revision| {
        let of = |output: &&Output| matches!(output, Output::Ask(ask) if ask.manifest == revision);
        outputs.iter().filter(of).count()
    };
    assert_eq!(asked(Digest([1; 32])), asked(Digest([2; 32])));
    assert!(asked(Digest([1; 32])) > 0);
}

#[test]
fn the_rate_down_is_kept() {
    let mut swarm = Swarm::new(Rates { down: Some(100_000), up: None }, 1);
    swarm.peer_up(host(1));
    assert!(swarm.open(Mono(0), MANIFEST, content(400), |_| false));
    swarm.holding(host(1), every(400)).unwrap();
    let mut now = Mono(0);
    while !swarm.is_done(MANIFEST) {
        for output in swarm.poll(now) {
            let Output::Ask(ask) = output else { continue };
            swarm.received(now, ask.peer, MANIFEST, ask.index, true);
        }
        now = swarm.next_deadline().unwrap_or(now);
    }
    assert!((3_500_000..4_500_000).contains(&now.0), "400 kB at 100 kB/s took {now:?}");
}

#[test]
fn the_first_host_shows_each_frame_to_one_peer_and_then_everything() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    assert!(swarm.open(Mono(0), MANIFEST, content(40), |_| true));
    swarm.premiere(MANIFEST);
    let mut shown = vec![0; 40];
    for peer in [1, 2, 3].map(host) {
        swarm.peer_up(peer);
        swarm.holding(peer, Holding { frames: vec![0; 5], ..every(40) }).unwrap();
    }
    let (mut now, mut told_everything) = (Mono(0), 0);
    while told_everything < 3 {
        for output in swarm.poll(now) {
            match output {
                Output::Send(peer, Message::HaveMore { frames, .. }) => {
                    for frame in frames {
                        shown[usize::try_from(frame).unwrap()] += 1;
                        swarm.asked(now, peer, MANIFEST, frame).unwrap();
                    }
                }
                Output::Send(_, Message::Have(told)) => {
                    let everything = told[0] == every(40);
                    assert!(everything || told[0].frames == [0; 5]);
                    told_everything += usize::from(everything);
                }
                Output::Give(give) => swarm.given(give.peer, MANIFEST, give.index),
                other => panic!("{other:?}"),
            }
        }
        now = Mono(now.0 + 1000);
        check(&swarm);
    }
    assert_eq!(shown, [1; 40]);
}

#[test]
fn what_peers_say_before_the_manifest_is_here_is_not_lost() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    swarm.peer_up(host(1));
    swarm.holding(host(1), Holding { frames: vec![0], ..every(8) }).unwrap();
    swarm.more(host(1), MANIFEST, &[3]).unwrap();
    assert_eq!(swarm.holders(MANIFEST).collect::<Vec<_>>(), [host(1)]);
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    let asked = swarm.poll(Mono(0)).into_iter().find_map(|output| match output {
        Output::Ask(ask) => Some(ask.index),
        _ => None,
    });
    assert_eq!(asked, Some(3));
}

/// What a peer is told.
fn told(outputs: &[Output], peer: HostId) -> Vec<Message> {
    let to_it = |output: &Output| match output {
        Output::Send(to, message) if *to == peer => Some(message.clone()),
        _ => None,
    };
    outputs.iter().filter_map(to_it).collect()
}

fn asked(outputs: &[Output]) -> Vec<(HostId, u32)> {
    let ask = |output: &Output| match output {
        Output::Ask(ask) => Some((ask.peer, ask.index)),
        _ => None,
    };
    outputs.iter().filter_map(ask).collect()
}

#[test]
fn what_a_peer_says_before_its_link_is_up_is_not_lost() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    swarm.holding(host(1), every(8)).unwrap();
    assert_eq!(asked(&swarm.poll(Mono(0))), []);
    swarm.peer_up(host(1));
    assert_eq!(asked(&swarm.poll(Mono(1))).len(), 4);
}

#[test]
fn who_asks_again_and_again_what_is_here_hears_it_once() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    swarm.peer_up(host(1));
    drop(swarm.poll(Mono(0)));
    for _ in 0..100 {
        swarm.holding(host(1), Holding { manifest: MANIFEST, frames: Vec::new() }).unwrap();
    }
    assert_eq!(told(&swarm.poll(Mono(1)), host(1)).len(), 1);
}

#[test]
fn everybody_hears_at_the_end_that_all_of_it_is_here() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    assert!(swarm.open(Mono(0), MANIFEST, content(2), |_| false));
    (0..=SWARM_PEERS_MAX).for_each(|number| swarm.peer_up(host(number)));
    let spare = host(SWARM_PEERS_MAX);
    let none = Message::Have(vec![Holding { frames: vec![0], ..every(2) }]);
    assert_eq!(told(&swarm.poll(Mono(0)), spare).last(), Some(&none));
    // It claims all of it, and does not have it.
    swarm.holding(host(0), every(2)).unwrap();
    let asks = asked(&swarm.poll(Mono(1)));
    assert_eq!(asks.len(), 2);
    for (peer, index) in asks {
        swarm.received(Mono(2), peer, MANIFEST, index, true);
    }
    let outputs = swarm.poll(Mono(2));
    let all = Message::Have(vec![every(2)]);
    for number in 0..=SWARM_PEERS_MAX {
        assert!(told(&outputs, host(number)).contains(&all), "peer {number}");
    }
}

#[test]
fn a_peer_that_waits_for_a_place_is_served_and_takes_the_next_one() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    (0..=SWARM_PEERS_MAX).for_each(|number| swarm.peer_up(host(number)));
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |hash| hash.0[3] == 0));
    let last = host(SWARM_PEERS_MAX);
    assert_eq!(swarm.asked(Mono(0), last, MANIFEST, 0), Ok(()));
    swarm.holding(last, every(8)).unwrap();
    assert_eq!(asked(&swarm.poll(Mono(0))), []);
    swarm.peer_gone(host(0));
    assert!(asked(&swarm.poll(Mono(1))).iter().all(|(peer, _)| *peer == last));
    assert_eq!(swarm.load().peers, SWARM_PEERS_MAX);
    assert_eq!(swarm.load().asks, 4);
}

#[test]
fn where_no_neighbour_is_of_use_a_spare_link_becomes_one() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    (0..=SWARM_PEERS_MAX).for_each(|number| swarm.peer_up(host(number)));
    swarm.holding(host(SWARM_PEERS_MAX), every(8)).unwrap();
    let mut now = Mono(0);
    while asked(&swarm.poll(now)).is_empty() {
        now = swarm.next_deadline().expect("it looks for another neighbour");
        assert!(now < Mono(10_000_000));
    }
    assert_eq!(swarm.load().peers, SWARM_PEERS_MAX);
}

#[test]
fn a_frame_that_is_not_waited_for_any_more_is_shown_to_another() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    assert!(swarm.open(Mono(0), MANIFEST, content(1), |_| true));
    swarm.premiere(MANIFEST);
    let lacks = Holding { frames: vec![0], ..every(1) };
    for peer in [1, 2].map(host) {
        swarm.peer_up(peer);
        swarm.holding(peer, lacks.clone()).unwrap();
    }
    let more = Message::HaveMore { manifest: MANIFEST, frames: vec![0] };
    let outputs = swarm.poll(Mono(0));
    let (first, other) = match told(&outputs, host(1)).contains(&more) {
        true => (host(1), host(2)),
        false => (host(2), host(1)),
    };
    swarm.asked(Mono(1), first, MANIFEST, 0).unwrap();
    swarm.cancelled(first, MANIFEST, 0);
    let outputs = swarm.poll(Mono(2));
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Refuse(give) if give.peer == first))
    );
    assert!(told(&outputs, other).contains(&more));
}

#[test]
fn only_what_came_here_first_is_shown_to_one_peer_at_a_time() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    assert!(swarm.open(Mono(0), MANIFEST, content(40), |_| true));
    swarm.peer_up(host(1));
    let outputs = swarm.poll(Mono(0));
    assert_eq!(told(&outputs, host(1)).last(), Some(&Message::Have(vec![every(40)])));
}

#[test]
fn a_revision_that_stops_being_fetched_is_given_and_not_asked_for() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    swarm.peer_up(host(1));
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |hash| hash.0[3] == 0));
    swarm.holding(host(1), every(8)).unwrap();
    swarm.stop_fetching(MANIFEST);
    assert_eq!(asked(&swarm.poll(Mono(0))), []);
    assert_eq!(swarm.asked(Mono(0), host(1), MANIFEST, 0), Ok(()));
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |hash| hash.0[3] == 0));
    let outputs = swarm.poll(Mono(1));
    assert!(outputs.iter().any(|output| matches!(output, Output::Give(_))), "it still waits");
    assert!(!asked(&outputs).is_empty(), "what the peer holds is still known");
}

#[test]
fn a_liar_is_not_trusted_again_where_the_fetch_begins_anew() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    swarm.peer_up(host(1));
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    swarm.holding(host(1), every(8)).unwrap();
    let (_, index) = asked(&swarm.poll(Mono(0)))[0];
    swarm.received(Mono(1), host(1), MANIFEST, index, false);
    assert!(swarm.open(Mono(2), MANIFEST, content(8), |_| false));
    swarm.holding(host(1), every(8)).unwrap();
    assert_eq!(asked(&swarm.poll(Mono(2))), []);
}

#[test]
fn a_revision_too_many_takes_the_place_of_one_that_nobody_needs() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    let manifest = |number: usize| Digest([u8::try_from(number).unwrap(); 32]);
    swarm.peer_up(host(1));
    for number in 0..SWARM_REVISIONS_MAX {
        let here = [5, 6].contains(&number);
        assert!(swarm.open(Mono(0), manifest(number), content(1), |_| here));
    }
    let lacks = Holding { manifest: manifest(5), frames: vec![0] };
    swarm.holding(host(1), lacks).unwrap();
    swarm.poll(Mono(0));
    assert!(swarm.open(Mono(1), manifest(100), content(1), |_| false));
    assert!(!swarm.is_open(manifest(6)));
    let can_be_had = Message::Have(vec![Holding { manifest: manifest(6), frames: Vec::new() }]);
    assert!(told(&swarm.poll(Mono(1)), host(1)).contains(&can_be_had));
    swarm.peer_up(host(2));
    assert!(told(&swarm.poll(Mono(1)), host(2)).contains(&can_be_had));
    assert_eq!(swarm.asked(Mono(1), host(1), manifest(5), 0), Ok(()));
    let soon = Mono(0) + SWARM_REVISION_IDLE_MAX;
    assert!(!swarm.open(soon, manifest(101), content(1), |_| false), "it is needed");
    check(&swarm);
    let late = Mono(1) + SWARM_REVISION_IDLE_MAX;
    assert!(swarm.open(late, manifest(101), content(1), |_| false));
    let refused = |output: &Output| matches!(output, Output::Refuse(give) if give.peer == host(1));
    assert!(swarm.poll(late).iter().any(refused), "what it waits for will not come");
    check(&swarm);
}

#[test]
fn a_revision_that_made_way_is_opened_again_where_it_is_lacking_and_there_is_room() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    let manifest = |number: usize| Digest([u8::try_from(number).unwrap(); 32]);
    let open = |outputs: Vec<Output>| {
        let opens = |output: &Output| matches!(output, Output::Open(_));
        outputs.into_iter().filter(opens).collect::<Vec<_>>()
    };
    swarm.peer_up(host(1));
    for number in 0..=SWARM_REVISIONS_MAX {
        assert!(swarm.open(Mono(0), manifest(number), content(9), |_| number < 2));
    }
    drop(swarm.poll(Mono(0)));
    let said = |frames: &[u8]| Holding { manifest: manifest(0), frames: frames.to_vec() };
    swarm.holding(host(1), said(&[0xff, 1])).unwrap();
    swarm.holding(host(1), said(&[])).unwrap();
    assert_eq!(open(swarm.poll(Mono(1))), [], "it lacks none");
    swarm.holding(host(1), said(&[0xff, 0])).unwrap();
    assert_eq!(open(swarm.poll(Mono(2))), [Output::Open(manifest(0))], "1 makes way for it");
    assert_eq!(open(swarm.poll(Mono(2))), []);
    assert!(swarm.open(Mono(2), manifest(0), content(9), |_| true));
    assert!(!swarm.is_open(manifest(1)));
    assert_eq!(swarm.asked(Mono(3), host(1), manifest(1), 0), Err(Failure::Busy));
    assert_eq!(open(swarm.poll(Mono(3))), [], "all others are needed");
    let late = Mono(2) + SWARM_REVISION_IDLE_MAX;
    assert_eq!(open(swarm.poll(late)), [Output::Open(manifest(1))]);
}

#[test]
fn what_is_lost_is_fetched_again_and_what_is_gone_is_not_given() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    swarm.damaged(MANIFEST);
    assert_eq!(swarm.poll(Mono(0)), [], "it was not here");
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| true));
    swarm.peer_up(host(1));
    swarm.holding(host(1), every(8)).unwrap();
    drop(swarm.poll(Mono(0)));
    swarm.damaged(MANIFEST);
    assert!(swarm.poll(Mono(1)).contains(&Output::Open(MANIFEST)));
    assert!(swarm.open(Mono(1), MANIFEST, content(8), |hash| hash.0[3] != 5));
    assert_eq!(asked(&swarm.poll(Mono(1))), [(host(1), 5)]);
    assert_eq!(swarm.asked(Mono(1), host(1), MANIFEST, 5), Err(Failure::Absent));
    assert_eq!(swarm.asked(Mono(1), host(1), MANIFEST, 4), Ok(()));
    swarm.close(MANIFEST);
    let outputs = swarm.poll(Mono(2));
    assert!(told(&outputs, host(1)).contains(&Message::Unwanted { manifest: MANIFEST, index: 5 }));
    assert!(outputs.iter().any(|output| matches!(output, Output::Refuse(_))));
    assert_eq!(swarm.asked(Mono(2), host(1), MANIFEST, 4), Err(Failure::Absent));
    let taken_back = Message::Have(vec![Holding { manifest: MANIFEST, frames: Vec::new() }]);
    assert!(told(&outputs, host(1)).contains(&taken_back));
    // Who holds it is not forgotten.
    assert_eq!(swarm.holders(MANIFEST).collect::<Vec<_>>(), [host(1)]);
    assert!(swarm.open(Mono(3), MANIFEST, content(8), |_| false));
    assert_eq!(asked(&swarm.poll(Mono(3))).len(), 4);
    check(&swarm);
}

#[test]
fn a_link_that_could_not_be_listened_to_says_anew_what_it_holds() {
    let (mut swarm, mut other) = (Swarm::new(Rates::default(), 1), Swarm::new(Rates::default(), 2));
    let last = host(SWARM_PEERS_MAX);
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    (0..=SWARM_PEERS_MAX).for_each(|number| swarm.peer_up(host(number)));
    let long = Holding { manifest: Digest([7; 32]), frames: vec![0; HOLDINGS_BYTES_PER_SPARE_MAX] };
    swarm.holding(last, long).unwrap();
    swarm.holding(last, every(8)).unwrap();
    other.peer_up(host(100));
    assert!(other.open(Mono(0), MANIFEST, content(8), |_| true));
    drop((swarm.poll(Mono(0)), other.poll(Mono(0))));
    other.holding(host(100), Holding { frames: vec![0], ..every(8) }).unwrap();
    drop(other.poll(Mono(0)));
    swarm.links.said(last).unwrap().take(MANIFEST).unwrap();
    swarm.peer_gone(host(0));
    for message in told(&swarm.poll(Mono(1)), last) {
        let Message::Have(holdings) = message else { panic!("{message:?}") };
        holdings.into_iter().for_each(|one| other.holding(host(100), one).unwrap());
    }
    let said = told(&other.poll(Mono(1)), host(100));
    assert_eq!(said, [Message::Have(vec![every(8)])]);
    swarm.holding(last, every(8)).unwrap();
    assert_eq!(asked(&swarm.poll(Mono(2))).len(), 4);
}

#[test]
fn a_neighbour_at_work_on_a_frame_that_takes_long_keeps_its_place() {
    for serves in [false, true] {
        let mut swarm = Swarm::new(Rates::default(), 1);
        assert!(swarm.open(Mono(0), MANIFEST, content(2), |hash| hash.0[3] == 0));
        (0..=SWARM_PEERS_MAX).for_each(|number| swarm.peer_up(host(number)));
        if serves {
            swarm.asked(Mono(0), host(0), MANIFEST, 0).unwrap();
        } else {
            swarm.holding(host(0), every(2)).unwrap();
        }
        let mut now = Mono(0);
        while now < Mono(9_000_000) {
            drop(swarm.poll(now));
            assert!(swarm.links.is_neighbour(host(0)), "{now:?}");
            now = now + Duration::from_millis(500);
        }
        swarm.given(host(0), MANIFEST, 0);
        swarm.failed(now, host(0), MANIFEST, 1, Failure::Timeout);
        while swarm.links.is_neighbour(host(0)) {
            now = now + Duration::from_millis(500);
            drop(swarm.poll(now));
            assert!(now < Mono(60_000_000), "whoever is of no use makes way");
        }
    }
}

#[test]
fn what_is_not_waited_for_any_more_is_told_to_whoever_was_asked() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    swarm.peer_up(host(1));
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    swarm.holding(host(1), every(8)).unwrap();
    let unwanted = |outputs: &[Output]| {
        let index = |message: Message| match message {
            Message::Unwanted { manifest: MANIFEST, index } => Some(index),
            _ => None,
        };
        told(outputs, host(1)).into_iter().filter_map(index).collect::<BTreeSet<_>>()
    };
    let indexes = |asks: &[(HostId, u32)]| asks.iter().map(|(_, index)| *index).collect();
    let first = asked(&swarm.poll(Mono(0)));
    assert!(swarm.open(Mono(1), MANIFEST, content(8), |_| false), "it begins anew");
    let outputs = swarm.poll(Mono(1));
    assert_eq!(unwanted(&outputs), indexes(&first));
    let second = asked(&outputs);
    let (_, bad) = second[0];
    swarm.received(Mono(2), host(1), MANIFEST, bad, false);
    assert_eq!(unwanted(&swarm.poll(Mono(2))), indexes(&second[1..]), "it has lied");
}

#[test]
fn a_host_that_lacks_frames_says_so_to_one_that_gives_them_only_then() {
    let mut swarm = Swarm::new(Rates::default(), 1);
    swarm.peer_up(host(1));
    swarm.holding(host(1), Holding { frames: Vec::new(), ..every(8) }).unwrap();
    assert_eq!(swarm.holders(MANIFEST).collect::<Vec<_>>(), [host(1)], "it has the manifest");
    assert!(swarm.open(Mono(0), MANIFEST, content(8), |_| false));
    let lacks = Message::Have(vec![Holding { frames: vec![0], ..every(8) }]);
    assert_eq!(told(&swarm.poll(Mono(0)), host(1)).last(), Some(&lacks));
    swarm.holding(host(1), every(8)).unwrap();
    assert_eq!(asked(&swarm.poll(Mono(1))).len(), 4);
    swarm.holding(host(1), Holding { frames: Vec::new(), ..every(8) }).unwrap();
    assert_eq!(told(&swarm.poll(Mono(1)), host(1)), [lacks]);
}

proptest! {
    #[test]
    fn no_course_of_events_breaks_the_invariants(
        frames in 0u32..40,
        seed: u64,
        first_has_all: bool,
        rate in prop::option::of(1u64..100_000),
        events in prop::collection::vec((0u8..14, 0usize..40, 0u32..44, 0u64..4_000_000), 0..300),
    ) {
        let mut swarm = Swarm::new(Rates { down: rate, up: rate }, seed);
        let mut now = Mono(0);
        let have = |hash: &Digest| first_has_all || hash.0[3].is_multiple_of(5);
        swarm.open(Mono(0), MANIFEST, content(frames), have);
        swarm.premiere(MANIFEST);
        let mut verified: Vec<_> = (0..frames).map(|index| swarm.has(MANIFEST, index)).collect();
        for (kind, number, index, pause) in events {
            let peer = host(number);
            let place = usize::try_from(index).unwrap();
            now = Mono(now.0 + pause);
            match kind {
                0 => swarm.peer_up(peer),
                1 => swarm.peer_gone(peer),
                2 => drop(swarm.holding(peer, every(frames))),
                3 => drop(swarm.holding(peer, every(index))),
                4 => drop(swarm.more(peer, MANIFEST, &[index, index / 2])),
                5 => {
                    swarm.received(now, peer, MANIFEST, index, true);
                    if let Some(verified) = verified.get_mut(place) {
                        *verified = true;
                    }
                }
                6 => swarm.received(now, peer, MANIFEST, index, false),
                7 => swarm.failed(now, peer, MANIFEST, index, Failure::Absent),
                8 => swarm.failed(now, peer, MANIFEST, index, Failure::Timeout),
                9 => {
                    let asked = swarm.asked(now, peer, MANIFEST, index);
                    prop_assert!(asked.is_err() || verified[place]);
                }
                10 => swarm.cancelled(peer, MANIFEST, index),
                11 => swarm.given(peer, MANIFEST, index),
                _ => {
                    for output in swarm.poll(now) {
                        if let Output::Give(give) = output {
                            prop_assert!(verified[usize::try_from(give.index).unwrap()]);
                        }
                    }
                    prop_assert!(swarm.next_deadline().is_none_or(|at| at > now), "it is done");
                }
            }
            check(&swarm);
            for (index, verified) in (0..).zip(&verified) {
                prop_assert_eq!(swarm.has(MANIFEST, index), *verified);
            }
        }
    }
}

//! One revision on its way to this host.

use std::{collections::BTreeMap, time::Duration};

use super::{
    choice::{self, Dice},
    frame_set::{FrameSet, HoldingRefused},
};
use crate::{
    ids::{Digest, HostId},
    limits::{
        CALL_TIMEOUT, FETCH_OVERDUE_AFTER_MIN, FETCH_REST_MAX, FETCHES_MAX, FETCHES_PER_PEER_MAX,
    },
    revision::Frame,
    time::Mono,
    wire::Holding,
};

/// A frame to be asked of a peer, by `Call::Frame`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whom to ask.
    pub peer: HostId,
    /// The frame's index in the manifest, by which the answer is reported.
    pub index: u32,
    /// The frame's name.
    pub frame: Digest,
}

/// Why a peer did not give a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does not have it, whatever it said before.
    Absent,
    /// It has too much to do.
    Busy,
    /// It did not answer in time.
    Timeout,
    /// The connection broke or the answer made no sense.
    Error,
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames that are here.
    pub frames_done: u32,
    /// Frames of the revision.
    pub frames_total: u32,
    /// Compressed bytes of the frames that are here.
    pub bytes_done: u64,
    /// Compressed bytes of all frames.
    pub bytes_total: u64,
}

/// One revision on its way to this host.
///
/// The caller carries out what [`next`](Self::next) says, reports each answer once by
/// [`received`](Self::received) or [`failed`](Self::failed), and calls `next` again after either
/// and at [`next_deadline`](Self::next_deadline).
#[derive(Debug)]
pub struct Fetch {
    manifest: Digest,
    frames: Vec<(Digest, u32)>,
    /// For a frame that the manifest lists more than once: the index that stands for all.
    twins: BTreeMap<u32, Vec<u32>>,
    here: FrameSet,
    /// Neither here nor asked of anyone who may still give it in time.
    wanted: FrameSet,
    /// Whom each frame was asked of that is neither here nor overdue.
    asked: BTreeMap<u32, HostId>,
    peers: BTreeMap<HostId, Peer>,
    progress: Progress,
    /// How long answers take, as a moving average.
    typical: Option<Duration>,
    /// When `next` was last called: rests that were over by then wake nobody.
    planned_at: Mono,
    dice: Dice,
}

/// What is known of a peer. It outlives the connection: a liar does not wash itself clean by
/// connecting again.
#[derive(Debug)]
struct Peer {
    held: FrameSet,
    /// Asks without an answer, with the time at which they were made. Overdue ones stay: they take
    /// up the peer's window until it answers or the call ends.
    open: BTreeMap<u32, Mono>,
    /// Failures since the last good frame.
    failures: u32,
    /// Not asked before then.
    rests_until: Mono,
    /// It gave a bad frame; nothing more is asked of it for this revision.
    set_aside: bool,
}

impl Fetch {
    /// Begins to fetch the revision `manifest` with its `frames`, of which those that the store
    /// has by `have` count as here. `seed` decides all choices.
    pub fn new(
        manifest: Digest,
        frames: &[Frame],
        have: impl Fn(&Digest) -> bool,
        seed: u64,
    ) -> Self {
        let count = u32::try_from(frames.len()).expect("a manifest's size bounds its frames");
        let bytes_total = frames.iter().map(|frame| u64::from(frame.bytes)).sum();
        let progress = Progress { frames_total: count, bytes_total, ..Progress::default() };
        let mut fetch = Self {
            manifest,
            frames: frames.iter().map(|frame| (frame.hash, frame.bytes)).collect(),
            twins: BTreeMap::new(),
            here: FrameSet::empty(count),
            wanted: FrameSet::empty(count),
            asked: BTreeMap::new(),
            peers: BTreeMap::new(),
            progress,
            typical: None,
            planned_at: Mono::default(),
            dice: Dice::new(seed),
        };
        let mut first_use = BTreeMap::new();
        for (index, frame) in (0..).zip(frames) {
            let first = *first_use.entry(frame.hash).or_insert(index);
            if first != index {
                fetch.twins.entry(first).or_default().push(index);
            } else {
                fetch.wanted.insert(index);
            }
        }
        for (hash, first) in first_use {
            if have(&hash) {
                fetch.here(first);
            }
        }
        fetch
    }

    /// Takes note of what a peer holds. It replaces what the peer said before.
    pub fn peer(&mut self, peer: HostId, holding: &Holding) -> Result<(), HoldingRefused> {
        let held = FrameSet::of(holding, self.manifest, self.progress.frames_total)?;
        match self.peers.get_mut(&peer) {
            Some(known) => known.held = held,
            None => {
                self.peers.insert(peer, Peer::new(held));
            }
        }
        Ok(())
    }

    /// The connection to a peer is gone; what was asked of it is asked of others.
    pub fn peer_gone(&mut self, peer: HostId) {
        let none = FrameSet::empty(self.progress.frames_total);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.held = none;
        }
        self.release_asks(peer);
    }

    /// What to ask of whom now.
    pub fn next(&mut self, now: Mono) -> Vec<Ask> {
        self.planned_at = now;
        self.expire(now);
        let mut asks = Vec::new();
        if self.wanted.is_empty() {
            return asks;
        }
        let mut room = FETCHES_MAX.saturating_sub(self.asked.len());
        let mut order = self.order(now);
        // One frame a round to each, so that the work is spread before anyone's window is full.
        while !order.is_empty() {
            order.retain(|id| {
                let Some(ask) = (room > 0).then(|| self.ask(*id, now)).flatten() else {
                    return false;
                };
                room -= 1;
                asks.push(ask);
                true
            });
        }
        asks
    }

    /// A peer gave a frame. It is `good` if its bytes have the frame's name and are stored.
    pub fn received(&mut self, now: Mono, peer: HostId, index: u32, good: bool) {
        if !good {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.set_aside = true;
            }
            self.release_asks(peer);
            return;
        }
        if let Some(known) = self.peers.get_mut(&peer)
            && let Some(since) = known.open.remove(&index)
        {
            known.failures = 0;
            known.rests_until = now;
            let took = now.since(since);
            self.typical = Some(self.typical.map_or(took, |typical| (typical * 7 + took) / 8));
        }
        self.here(index);
    }

    /// A frame came by another way: it is in the store.
    pub fn here(&mut self, index: u32) {
        if index >= self.progress.frames_total {
            return;
        }
        self.wanted.remove(index);
        self.asked.remove(&index);
        let twins = self.twins.get(&index).map(Vec::as_slice).unwrap_or_default();
        for index in [&[index], twins].concat() {
            if self.here.insert(index) {
                let (_, bytes) = self.frames[usize_of(index)];
                self.progress.frames_done += 1;
                self.progress.bytes_done += u64::from(bytes);
            }
        }
    }

    /// A peer did not give a frame; it is asked of another, or of the same after a rest.
    pub fn failed(&mut self, now: Mono, peer: HostId, index: u32, why: Failure) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.open.remove(&index).is_none() {
            return;
        }
        if why == Failure::Absent {
            known.held.remove(index);
        }
        known.rests_until = now + known.rest_after(why);
        known.failures = known.failures.saturating_add(1);
        self.want_again(peer, index);
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// True once every frame is here.
    pub fn is_done(&self) -> bool {
        self.progress.frames_done == self.progress.frames_total
    }

    /// The revision.
    pub fn manifest(&self) -> Digest {
        self.manifest
    }

    /// The peers that gave a bad frame.
    pub fn set_aside(&self) -> impl Iterator<Item = HostId> {
        self.peers.iter().filter(|(_, peer)| peer.set_aside).map(|(id, _)| *id)
    }

    /// When to call [`next`](Self::next) again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.is_done() {
            return None;
        }
        let overdue_after = self.overdue_after();
        let open = self.peers.iter().flat_map(|(id, peer)| {
            peer.open.iter().map(move |(index, since)| match self.asked.get(index) {
                Some(asked) if asked == id => *since + overdue_after.min(ASK_LIFE),
                _ => *since + ASK_LIFE,
            })
        });
        let rests = self.peers.values().filter(|peer| {
            peer.rests_until > self.planned_at && !peer.set_aside && peer.could_give(&self.wanted)
        });
        open.chain(rests.map(|peer| peer.rests_until)).min()
    }

    /// What this host can already offer to others.
    pub fn holding(&self) -> Holding {
        self.here.to_holding(self.manifest)
    }

    /// Gives up waiting for asks that are overdue, and drops those that will never be answered.
    fn expire(&mut self, now: Mono) {
        let overdue_after = self.overdue_after();
        let mut overdue = Vec::new();
        let mut lost = Vec::new();
        for (id, peer) in &self.peers {
            for (index, since) in &peer.open {
                if now.since(*since) >= ASK_LIFE {
                    lost.push((*id, *index));
                } else if now.since(*since) >= overdue_after {
                    overdue.push((*id, *index));
                }
            }
        }
        for (peer, index) in overdue {
            self.want_again(peer, index);
        }
        for (peer, index) in lost {
            self.failed(now, peer, index, Failure::Timeout);
        }
    }

    /// The peers that may be asked now, in a random turn.
    fn order(&mut self, now: Mono) -> Vec<HostId> {
        let mut order: Vec<HostId> = self
            .peers
            .iter()
            .filter(|(id, peer)| {
                let overdue = peer.open.keys().any(|index| self.asked.get(index) != Some(id));
                !overdue && !peer.set_aside && peer.rests_until <= now
            })
            .map(|(id, _)| *id)
            .collect();
        if let Some(count) = u32::try_from(order.len()).ok().filter(|count| *count > 0) {
            order.rotate_left(usize_of(self.dice.below(count)));
        }
        order
    }

    fn ask(&mut self, id: HostId, now: Mono) -> Option<Ask> {
        let peer = self.peers.get_mut(&id)?;
        if peer.open.len() >= FETCHES_PER_PEER_MAX {
            return None;
        }
        let index = choice::pick(&self.wanted, &peer.held, &mut self.dice)?;
        peer.open.insert(index, now);
        self.wanted.remove(index);
        self.asked.insert(index, id);
        let (frame, _) = self.frames[usize_of(index)];
        Some(Ask { peer: id, index, frame })
    }

    fn release_asks(&mut self, id: HostId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for index in std::mem::take(&mut peer.open).into_keys() {
            self.want_again(id, index);
        }
    }

    /// The frame is wanted again, unless someone else was asked for it meanwhile or it came.
    fn want_again(&mut self, peer: HostId, index: u32) {
        if self.asked.get(&index) == Some(&peer) {
            self.asked.remove(&index);
            self.wanted.insert(index);
        }
    }

    fn overdue_after(&self) -> Duration {
        self.typical.map_or(Duration::ZERO, |typical| typical * 3).max(FETCH_OVERDUE_AFTER_MIN)
    }
}

/// After this long the caller has lost an ask: every call ends before.
const ASK_LIFE: Duration = CALL_TIMEOUT.saturating_mul(2);

impl Peer {
    fn new(held: FrameSet) -> Self {
        Self {
            held,
            open: BTreeMap::new(),
            failures: 0,
            rests_until: Mono::default(),
            set_aside: false,
        }
    }

    /// Doubles with each failure in a row, from a start that depends on how bad it is.
    fn rest_after(&self, why: Failure) -> Duration {
        let first = match why {
            Failure::Absent => Duration::from_millis(50),
            Failure::Busy => Duration::from_millis(200),
            Failure::Error => Duration::from_millis(500),
            Failure::Timeout => Duration::from_secs(2),
        };
        first.saturating_mul(1 << self.failures.min(10)).min(FETCH_REST_MAX)
    }

    fn could_give(&self, wanted: &FrameSet) -> bool {
        self.held.words().iter().zip(wanted.words()).any(|(held, wanted)| held & wanted != 0)
    }
}

fn usize_of(index: u32) -> usize {
    usize::try_from(index).expect("a u32 fits the address space of every supported machine")
}

#[cfg(test)]
impl Fetch {
    /// What must hold after every call.
    pub(super) fn check_invariants(&self) {
        for index in 0..self.progress.frames_total {
            let twin = self.twins.values().any(|twins| twins.contains(&index));
            let places = [
                self.here.contains(index),
                self.wanted.contains(index),
                self.asked.contains_key(&index),
                twin && !self.here.contains(index),
            ];
            let count = places.iter().filter(|here| **here).count();
            assert_eq!(count, 1, "frame {index} is here, wanted, or asked of one peer: {places:?}");
        }
        for (index, id) in &self.asked {
            assert!(self.peers[id].open.contains_key(index), "what is asked is open at the peer");
        }
        assert!(self.peers.values().all(|peer| peer.open.len() <= FETCHES_PER_PEER_MAX));
        let done = (0..self.progress.frames_total).filter(|index| self.here.contains(*index));
        assert_eq!(done.count(), usize_of(self.progress.frames_done));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MANIFEST: Digest = Digest([9; 32]);

    fn frames(count: u8) -> Vec<Frame> {
        let frame = |n| Frame { hash: Digest([n; 32]), bytes: 10, raw_bytes: 20 };
        (0..count).map(frame).collect()
    }

    fn host(number: u8) -> HostId {
        HostId([number; 32])
    }

    fn all(count: u8) -> Holding {
        let mut set = FrameSet::empty(count.into());
        (0..count).for_each(|index| assert!(set.insert(index.into())));
        set.to_holding(MANIFEST)
    }

    fn fetch(count: u8, peers: u8) -> Fetch {
        let mut fetch = Fetch::new(MANIFEST, &frames(count), |_| false, 7);
        (0..peers).for_each(|peer| fetch.peer(host(peer), &all(count)).unwrap());
        fetch
    }

    fn at(millis: u64) -> Mono {
        Mono(millis * 1000)
    }

    #[test]
    fn the_window_of_a_peer_is_filled_and_not_exceeded() {
        let mut fetch = fetch(20, 1);
        assert_eq!(fetch.next(at(0)).len(), FETCHES_PER_PEER_MAX);
        assert_eq!(fetch.next(at(1)), []);
        fetch.check_invariants();
    }

    #[test]
    fn all_windows_together_are_bounded() {
        let peers = u8::try_from(FETCHES_MAX / FETCHES_PER_PEER_MAX).unwrap() + 1;
        let mut fetch = fetch(200, peers);
        let asks = fetch.next(at(0));
        assert_eq!(asks.len(), FETCHES_MAX);
        assert_eq!(fetch.next(at(0)), []);
        let asked: BTreeSet<_> = asks.iter().map(|ask| ask.index).collect();
        assert_eq!(asked.len(), asks.len(), "each frame is asked of one peer");
        let spread: BTreeSet<_> = asks.iter().map(|ask| ask.peer).collect();
        assert_eq!(spread.len(), usize::from(peers), "every peer has a part");
    }

    #[test]
    fn what_is_here_is_never_asked_for() {
        let have = |frame: &Digest| frame.0[0].is_multiple_of(2);
        let mut fetch = Fetch::new(MANIFEST, &frames(6), have, 7);
        let progress = fetch.progress();
        assert_eq!((progress.frames_done, progress.bytes_done), (3, 30));
        assert_eq!(fetch.holding().frames, [0b01_0101]);
        fetch.peer(host(1), &all(6)).unwrap();
        let asks = fetch.next(at(0));
        assert_eq!(asks.len(), 3);
        assert!(asks.iter().all(|ask| ask.index % 2 == 1));
        asks.iter().for_each(|ask| fetch.received(at(5), ask.peer, ask.index, true));
        assert!(fetch.is_done());
        assert_eq!(fetch.next_deadline(), None);
        assert_eq!(fetch.progress().bytes_done, fetch.progress().bytes_total);
    }

    #[test]
    fn a_revision_without_frames_is_done_at_once() {
        let mut fetch = Fetch::new(MANIFEST, &[], |_| false, 7);
        fetch.peer(host(1), &Holding { manifest: MANIFEST, frames: Vec::new() }).unwrap();
        assert!(fetch.is_done());
        assert_eq!(fetch.next(at(0)), []);
    }

    #[test]
    fn a_frame_listed_twice_is_fetched_once() {
        let twice = [frames(2), frames(2)].concat();
        let mut fetch = Fetch::new(MANIFEST, &twice, |_| false, 7);
        let every = Holding { manifest: MANIFEST, frames: vec![0b1111] };
        fetch.peer(host(1), &every).unwrap();
        let asks = fetch.next(at(0));
        assert_eq!(asks.len(), 2);
        for ask in asks {
            fetch.received(at(1), ask.peer, ask.index, true);
            fetch.check_invariants();
        }
        assert!(fetch.is_done());
        assert_eq!(fetch.holding(), every);
    }

    #[test]
    fn a_bad_frame_sets_its_peer_aside_for_good() {
        let mut fetch = fetch(8, 2);
        let asks = fetch.next(at(0));
        let bad = asks.iter().find(|ask| ask.peer == host(1)).unwrap();
        fetch.received(at(1), host(1), bad.index, false);
        fetch.check_invariants();
        fetch.peer_gone(host(1));
        fetch.peer(host(1), &all(8)).unwrap();
        for ask in asks.iter().filter(|ask| ask.peer == host(0)) {
            fetch.received(at(2), host(0), ask.index, true);
        }
        let again = fetch.next(at(100_000));
        assert!(again.iter().any(|ask| ask.index == bad.index));
        assert!(again.iter().all(|ask| ask.peer == host(0)));
        assert_eq!(fetch.set_aside().collect::<Vec<_>>(), [host(1)]);
    }

    #[test]
    fn an_overdue_frame_is_asked_of_another_and_a_late_answer_still_counts() {
        let mut fetch = fetch(1, 1);
        let slow = fetch.next(at(0))[0];
        fetch.peer(host(1), &all(1)).unwrap();
        assert_eq!(fetch.next(at(1999)), []);
        assert_eq!(fetch.next_deadline(), Some(at(2000)));
        let again = fetch.next(at(2000));
        assert_eq!(again.iter().map(|ask| ask.peer).collect::<Vec<_>>(), [host(1)]);
        fetch.check_invariants();
        fetch.received(at(2100), slow.peer, slow.index, true);
        assert!(fetch.is_done());
        fetch.received(at(2200), host(1), 0, true);
        assert_eq!(fetch.progress().frames_done, 1);
        fetch.check_invariants();
    }

    #[test]
    fn slow_answers_from_everyone_raise_what_counts_as_overdue() {
        let mut fetch = fetch(2, 1);
        fetch.next(at(0));
        fetch.received(at(1500), host(0), 0, true);
        fetch.peer(host(1), &all(2)).unwrap();
        assert_eq!(fetch.next(at(4499)), []);
        assert_eq!(fetch.next(at(4500)).len(), 1);
    }

    #[test]
    fn a_peer_with_an_overdue_answer_gets_no_more_to_do() {
        let mut fetch = fetch(8, 1);
        let asks = fetch.next(at(0));
        fetch.received(at(1), host(0), asks[0].index, true);
        fetch.next(at(1));
        assert_eq!(fetch.next(at(5000)), []);
        fetch.check_invariants();
    }

    #[test]
    fn a_peer_rests_longer_after_each_failure() {
        let mut fetch = fetch(1, 1);
        let mut now = at(0);
        let mut rests = Vec::new();
        for _ in 0..4 {
            let ask = fetch.next(now)[0];
            fetch.failed(now, ask.peer, ask.index, Failure::Busy);
            let wake = fetch.next_deadline().unwrap();
            assert_eq!(fetch.next(Mono(wake.0 - 1)), []);
            rests.push(wake.since(now).as_millis());
            now = wake;
        }
        assert_eq!(rests, [200, 400, 800, 1600]);
        (0..40).for_each(|_| {
            let ask = fetch.next(now)[0];
            fetch.failed(now, ask.peer, ask.index, Failure::Timeout);
            let wake = fetch.next_deadline().unwrap();
            assert!(wake.since(now) <= FETCH_REST_MAX);
            now = wake;
        });
    }

    #[test]
    fn a_rest_ends_while_other_answers_are_awaited() {
        let mut fetch = fetch(3, 1);
        let asks = fetch.next(at(0));
        fetch.failed(at(1), host(0), asks[0].index, Failure::Busy);
        assert_eq!(fetch.next(at(1)), []);
        assert_eq!(fetch.next_deadline(), Some(at(201)));
        assert_eq!(fetch.next(at(201)).len(), 1);
        assert!(fetch.next_deadline() > Some(at(201)), "an old rest wakes nobody");
    }

    #[test]
    fn a_frame_that_a_peer_denies_is_not_asked_of_it_again() {
        let mut fetch = fetch(1, 1);
        fetch.next(at(0));
        fetch.failed(at(1), host(0), 0, Failure::Absent);
        assert_eq!(fetch.next(at(1_000_000)), []);
        assert_eq!(fetch.next_deadline(), None);
        fetch.peer(host(0), &all(1)).unwrap();
        assert_eq!(fetch.next(at(1_000_000)).len(), 1);
    }

    #[test]
    fn an_ask_whose_answer_is_never_reported_is_given_up() {
        let mut fetch = fetch(1, 1);
        fetch.next(at(0));
        assert_eq!(fetch.next(at(0) + ASK_LIFE), []);
        let wake = fetch.next_deadline().unwrap();
        assert_eq!(fetch.next(wake).len(), 1);
    }

    #[test]
    fn reports_about_nothing_that_was_asked_change_nothing() {
        let mut fetch = fetch(2, 1);
        fetch.failed(at(1), host(5), 0, Failure::Error);
        fetch.failed(at(1), host(0), 77, Failure::Error);
        fetch.received(at(1), host(5), u32::MAX, true);
        fetch.received(at(1), host(5), 0, false);
        fetch.peer_gone(host(5));
        fetch.check_invariants();
        assert_eq!(fetch.next(at(1)).len(), 2);
    }
}

//! One revision of a host: what of it is here, who holds what, and which frame is asked of whom.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    choice::{Dice, Wanted},
    frame_set::{FrameSet, HoldingRefused},
};
use crate::{
    ids::{Digest, HostId},
    limits::{
        CALL_TIMEOUT, FETCH_OVERDUE_AFTER_FIRST, FETCH_OVERDUE_AFTER_MIN, FETCH_REST_MAX,
        FETCHES_PER_PEER_MAX,
    },
    revision::Manifest,
    time::Mono,
    wire::Holding,
};

/// A frame that is asked of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whom to ask.
    pub peer: HostId,
    /// The revision.
    pub manifest: Digest,
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

/// One revision of this host.
#[derive(Debug)]
pub(super) struct Fetch {
    manifest: Digest,
    content: Arc<Manifest>,
    /// For a frame that the manifest lists more than once: the index that stands for all.
    twins: BTreeMap<u32, Vec<u32>>,
    here: FrameSet,
    /// Neither here nor asked of anyone who may still give it in time.
    wanted: Wanted,
    wanted_count: u32,
    /// Asks without an answer. Overdue ones stay until the peer answers or the call ends.
    open: Vec<Open>,
    peers: BTreeMap<HostId, Peer>,
    progress: Progress,
    /// What was asked of peers and is not waited for any more; they are to be told.
    unwanted: Vec<Ask>,
    /// How long answers take, as a moving average.
    typical: Option<Duration>,
    /// When the first open ask may be overdue, at the earliest.
    expires_at: Option<Mono>,
    /// Nobody could be asked for anything, and until then nothing changes by itself.
    stuck_until: Option<Mono>,
    dice: Dice,
}

#[derive(Debug)]
struct Open {
    peer: HostId,
    index: u32,
    since: Mono,
    /// It is waited for no more, and asked of others as well.
    overdue: bool,
}

/// What is known of a peer. It outlives the connection: a liar does not wash itself clean by
/// connecting again.
#[derive(Debug)]
struct Peer {
    held: FrameSet,
    is_here: bool,
    open: usize,
    overdue: usize,
    /// How long its answers take, as a moving average.
    took: Option<Duration>,
    /// Failures since the last good frame.
    failures: u32,
    /// When the last failure was.
    failed_at: Option<Mono>,
    /// Not asked before then.
    rests_until: Mono,
    /// It gave a bad frame or said what cannot be; nothing more is asked of it for this revision.
    set_aside: bool,
}

impl Fetch {
    /// A revision whose frames count as here if `have` says so. `seed` decides all choices.
    pub(super) fn new(
        manifest: Digest,
        content: Arc<Manifest>,
        have: impl Fn(&Digest) -> bool,
        seed: u64,
    ) -> Self {
        let count = u32::try_from(content.frames.len()).expect("a manifest's size bounds it");
        let bytes_total = content.frames.iter().map(|frame| u64::from(frame.bytes)).sum();
        let mut fetch = Self {
            manifest,
            twins: BTreeMap::new(),
            here: FrameSet::empty(count),
            wanted: Wanted::none_of(count),
            wanted_count: 0,
            open: Vec::new(),
            peers: BTreeMap::new(),
            progress: Progress { frames_total: count, bytes_total, ..Progress::default() },
            unwanted: Vec::new(),
            typical: None,
            expires_at: None,
            stuck_until: None,
            dice: Dice::new(seed),
            content: content.clone(),
        };
        let mut first_use = BTreeMap::new();
        for (index, frame) in (0..).zip(&content.frames) {
            let first = *first_use.entry(frame.hash).or_insert(index);
            if first != index {
                fetch.twins.entry(first).or_default().push(index);
            } else {
                fetch.wanted.insert(index);
                fetch.wanted_count += 1;
            }
        }
        for (hash, first) in first_use {
            if have(&hash) {
                fetch.here(first);
            }
        }
        fetch
    }

    /// Takes note of what a peer holds, beside what it said before. A statement without any bits takes
    /// that back. Whoever says what cannot be is set aside.
    pub(super) fn holding(
        &mut self,
        peer: HostId,
        holding: &Holding,
    ) -> Result<(), HoldingRefused> {
        let total = self.progress.frames_total;
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(total));
        known.is_here = true;
        if known.set_aside {
            return Ok(());
        }
        if holding.frames.is_empty() {
            self.forget_held(peer);
            return Ok(());
        }
        let said = FrameSet::of(holding, self.manifest, total);
        let said = said.inspect_err(|_| self.set_peer_aside(peer))?;
        self.claims(peer, said.iter());
        Ok(())
    }

    /// A peer holds more than it said before. Nothing is believed of one that said nothing yet.
    pub(super) fn more(&mut self, peer: HostId, frames: &[u32]) -> Result<(), HoldingRefused> {
        let is_useful = |known: &&mut Peer| known.is_here && !known.set_aside;
        if self.peers.get_mut(&peer).filter(is_useful).is_none() {
            return Ok(());
        }
        let last = self.progress.frames_total;
        if frames.iter().any(|frame| *frame >= last) {
            self.set_peer_aside(peer);
            return Err(HoldingRefused::Padding { last });
        }
        self.claims(peer, frames.iter().copied());
        Ok(())
    }

    fn claims(&mut self, peer: HostId, frames: impl Iterator<Item = u32>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        for frame in frames {
            if known.held.insert(frame) {
                self.wanted.gained(frame);
                if self.wanted.contains(frame) {
                    self.stuck_until = None;
                }
            }
        }
    }

    /// The connection to a peer is gone; what was asked of it is asked of others.
    pub(super) fn peer_gone(&mut self, peer: HostId) {
        drop(self.release_asks(peer));
        self.forget_held(peer);
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.is_here = false;
        if !known.set_aside {
            self.peers.remove(&peer);
        }
    }

    /// What to ask of whom next, if anyone can be asked for anything. Of `window` frames that may be
    /// under way each peer gets a share.
    pub(super) fn next(&mut self, now: Mono, window: usize) -> Option<Ask> {
        if self.wanted_count == 0 || self.stuck_until.is_some_and(|until| now < until) {
            return None;
        }
        let mut order = self.order(now, window);
        order.sort_unstable();
        for (_, _, _, peer) in order {
            let known = self.peers.get_mut(&peer)?;
            if let Some(index) = self.wanted.pick(&known.held, &mut self.dice) {
                known.open += 1;
                self.unwant(index);
                self.open.push(Open { peer, index, since: now, overdue: false });
                self.expire_by(now + self.overdue_after());
                return Some(self.ask_of(peer, index));
            }
        }
        let rests = self.peers.values().filter(|peer| {
            peer.rests_until > now && !peer.set_aside && self.wanted.meets(&peer.held)
        });
        self.stuck_until = Some(rests.map(|peer| peer.rests_until).min().unwrap_or(NEVER));
        None
    }

    /// Gives up waiting for asks that are overdue, and drops those that will never be answered. Returns
    /// what is waited for no more since this was asked last.
    pub(super) fn expire(&mut self, now: Mono) -> Vec<Ask> {
        self.look_for_overdue(now);
        std::mem::take(&mut self.unwanted)
    }

    fn look_for_overdue(&mut self, now: Mono) {
        if self.stuck_until.is_some_and(|until| until <= now) {
            self.stuck_until = None;
        }
        if self.expires_at.is_none_or(|at| now < at) {
            return;
        }
        let overdue_after = self.overdue_after();
        let (mut overdue, mut lost) = (Vec::new(), Vec::new());
        for open in &mut self.open {
            if now >= open.since + ASK_LIFE {
                lost.push((open.peer, open.index));
            } else if now >= open.since + overdue_after && !open.overdue {
                open.overdue = true;
                overdue.push((open.peer, open.index));
            }
        }
        for (peer, index) in lost {
            self.failed(now, peer, index, Failure::Timeout);
        }
        for (peer, index) in overdue {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.overdue += 1;
            }
            self.want(index);
            self.unwanted.push(self.ask_of(peer, index));
        }
        let ends = self.open.iter().map(|open| {
            open.since + if open.overdue { ASK_LIFE } else { overdue_after.min(ASK_LIFE) }
        });
        self.expires_at = ends.min();
    }

    /// A peer gave a frame. It is `good` if its bytes have the frame's name and are stored, whether it is
    /// still waited for or not; a bad one that was not asked of this peer is nothing. Returns how long a
    /// good one took that came in time from a peer that is not slow.
    pub(super) fn received(
        &mut self,
        now: Mono,
        peer: HostId,
        index: u32,
        good: bool,
    ) -> Option<Duration> {
        let open = self.close(peer, index);
        if !good {
            if !open?.overdue {
                self.want(index);
            }
            self.set_peer_aside(peer);
            return None;
        }
        if index < self.progress.frames_total {
            self.here(index);
        }
        let open = open?;
        let took = now.since(open.since);
        let typical = self.typical.map_or(took, |typical| (typical * 7 + took) / 8);
        let known = self.peers.get_mut(&peer)?;
        known.failures = 0;
        known.rests_until = now;
        known.took = Some(known.took.map_or(took, |before| (before + took) / 2));
        let quick = !open.overdue && !known.is_slow(self.typical);
        // Where nobody was in time yet, what is late says how long it takes here.
        if quick || self.typical.is_none() {
            self.typical = Some(typical);
        }
        quick.then_some(took)
    }

    /// A peer did not give a frame; it is asked of another, or of the same after a rest.
    pub(super) fn failed(&mut self, now: Mono, peer: HostId, index: u32, why: Failure) {
        let Some(open) = self.close(peer, index) else { return };
        if !open.overdue {
            self.want(index);
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        // Who gives up a frame that is waited for no more may hold it all the same.
        if why == Failure::Absent && !open.overdue && known.held.contains(index) {
            known.held.remove(index);
            self.wanted.lost(index);
        }
        // Who was told that the frame is not waited for any more did nothing wrong, and what was asked
        // before a failure was known fails with it.
        let again = known.failed_at.is_some_and(|failed_at| open.since <= failed_at);
        if (!open.overdue || why == Failure::Timeout) && !again {
            known.rests_until = now + known.rest_after(why);
            known.failures = known.failures.saturating_add(1);
            known.failed_at = Some(now);
        }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    pub(super) fn is_done(&self) -> bool {
        self.progress.frames_done == self.progress.frames_total
    }

    pub(super) fn here_set(&self) -> &FrameSet {
        &self.here
    }

    pub(super) fn has(&self, index: u32) -> bool {
        self.here.contains(index)
    }

    pub(super) fn content(&self) -> &Manifest {
        &self.content
    }

    /// A frame that the manifest lists more than once stands at all these indexes.
    pub(super) fn twins(&self, index: u32) -> &[u32] {
        self.twins.get(&index).map(Vec::as_slice).unwrap_or_default()
    }

    /// The peers that are connected and have said what they hold.
    pub(super) fn peers(&self) -> impl Iterator<Item = (HostId, &FrameSet)> {
        let here = self.peers.iter().filter(|(_, peer)| peer.is_here);
        here.map(|(id, peer)| (*id, &peer.held))
    }

    /// What a connected peer has said that it holds.
    pub(super) fn held(&self, peer: HostId) -> Option<&FrameSet> {
        self.peers.get(&peer).filter(|peer| peer.is_here).map(|peer| &peer.held)
    }

    /// The peers that gave a bad frame or said what cannot be.
    pub(super) fn set_aside(&self) -> impl Iterator<Item = HostId> {
        self.peers.iter().filter(|(_, peer)| peer.set_aside).map(|(id, _)| *id)
    }

    /// Asks that are waited for.
    pub(super) fn under_way(&self) -> usize {
        self.waited_for().count()
    }

    /// See [`Self::under_way`].
    pub(super) fn waited_for(&self) -> impl Iterator<Item = Ask> {
        let open = self.open.iter().filter(|open| !open.overdue);
        open.map(|open| self.ask_of(open.peer, open.index))
    }

    /// The peers that are at work on an ask, as far as is known: where nobody has answered yet, those
    /// that are late too.
    pub(super) fn at_work(&self) -> impl Iterator<Item = HostId> {
        let at_work = |open: &&Open| !open.overdue || self.typical.is_none();
        self.open.iter().filter(at_work).map(|open| open.peer)
    }

    /// When to look again if nothing else happens.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let rest = self.stuck_until.filter(|until| *until != NEVER && self.wanted_count > 0);
        rest.into_iter().chain(self.expires_at.filter(|_| !self.open.is_empty())).min()
    }

    /// Whom to ask first: who answers as quickly as others, then who has least to do for this host,
    /// then whoever the dice say.
    fn order(&mut self, now: Mono, window: usize) -> Vec<(bool, usize, u64, HostId)> {
        let (typical, dice) = (self.typical, &mut self.dice);
        let useful = self.peers.values().filter(|peer| peer.is_here && !peer.set_aside).count();
        let share = (2 * window).div_ceil(useful.max(1));
        let share = share.clamp(FETCHES_TO_ONE_OF_MANY, FETCHES_PER_PEER_MAX);
        let slow_after = typical.map_or(Duration::MAX, |typical| typical * SLOW_TIMES);
        let late = self.open.iter().filter(|open| now.since(open.since) > slow_after);
        let late: Vec<_> = late.map(|open| open.peer).collect();
        let may_ask = |(id, peer): (&HostId, &Peer)| {
            let slow = peer.is_slow(typical) || late.contains(id);
            let share = if slow { 1 } else { share };
            let may = !peer.set_aside && peer.overdue == 0 && peer.rests_until <= now;
            (may && peer.open < share).then(|| (slow, peer.open, dice.roll(), *id))
        };
        self.peers.iter().filter_map(may_ask).collect()
    }

    fn ask_of(&self, peer: HostId, index: u32) -> Ask {
        let frame = self.content.frames[usize_of(index)].hash;
        Ask { peer, manifest: self.manifest, index, frame }
    }

    fn find(&self, peer: HostId, index: u32) -> Option<usize> {
        self.open.iter().position(|open| open.index == index && open.peer == peer)
    }

    fn close(&mut self, peer: HostId, index: u32) -> Option<Open> {
        let open = self.open.swap_remove(self.find(peer, index)?);
        self.stuck_until = None;
        if let Some(known) = self.peers.get_mut(&peer) {
            known.open -= 1;
            known.overdue -= usize::from(open.overdue);
        }
        Some(open)
    }

    /// A frame is in the store.
    fn here(&mut self, index: u32) {
        self.unwant(index);
        for index in [&[index], self.twins(index)].concat() {
            if self.here.insert(index) {
                self.progress.frames_done += 1;
                self.progress.bytes_done += u64::from(self.content.frames[usize_of(index)].bytes);
            }
        }
        if self.is_done() {
            // How many hold what matters no more, and takes room.
            self.wanted = Wanted::none_of(0);
        }
    }

    fn want(&mut self, index: u32) {
        let asked = |open: &Open| open.index == index && !open.overdue;
        if !self.here.contains(index)
            && !self.wanted.contains(index)
            && !self.open.iter().any(asked)
        {
            self.wanted.insert(index);
            self.wanted_count += 1;
            self.stuck_until = None;
        }
    }

    fn unwant(&mut self, index: u32) {
        if self.wanted.contains(index) {
            self.wanted.remove(index);
            self.wanted_count -= 1;
        }
    }

    /// Asks what was asked of a peer of others. Returns what was waited for.
    fn release_asks(&mut self, peer: HostId) -> Vec<Ask> {
        let of_peer = self.waited_for().filter(|ask| ask.peer == peer).collect::<Vec<_>>();
        self.open.retain(|open| open.peer != peer);
        of_peer.iter().for_each(|ask| self.want(ask.index));
        if let Some(known) = self.peers.get_mut(&peer) {
            (known.open, known.overdue) = (0, 0);
        }
        of_peer
    }

    /// Nothing more is asked of a peer for this revision, whatever it says.
    pub(super) fn set_peer_aside(&mut self, peer: HostId) {
        let released = self.release_asks(peer);
        self.unwanted.extend(released);
        self.forget_held(peer);
        let total = self.progress.frames_total;
        self.peers
            .entry(peer)
            .or_insert_with(|| Peer { is_here: false, ..Peer::new(total) })
            .set_aside = true;
    }

    /// What a peer holds counts no more.
    fn forget_held(&mut self, peer: HostId) {
        let Some(known) = self.peers.get_mut(&peer).filter(|known| !known.set_aside) else {
            return;
        };
        known.held.iter().for_each(|frame| self.wanted.lost(frame));
        known.held = FrameSet::empty(self.progress.frames_total);
    }

    fn expire_by(&mut self, at: Mono) {
        self.expires_at = Some(self.expires_at.map_or(at, |before| before.min(at)));
    }

    fn overdue_after(&self) -> Duration {
        self.typical.map_or(FETCH_OVERDUE_AFTER_FIRST, |typical| {
            (typical * SLOW_TIMES).max(FETCH_OVERDUE_AFTER_MIN)
        })
    }
}

impl Peer {
    fn new(frames: u32) -> Self {
        Self {
            held: FrameSet::empty(frames),
            is_here: true,
            open: 0,
            overdue: 0,
            took: None,
            failures: 0,
            failed_at: None,
            rests_until: Mono::default(),
            set_aside: false,
        }
    }

    /// Its answers take much longer than those of others: it is asked only for what they lack.
    fn is_slow(&self, typical: Option<Duration>) -> bool {
        let slow = |(took, typical)| took > typical * SLOW_TIMES;
        self.took.zip(typical).is_some_and(slow)
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
}

fn usize_of(index: u32) -> usize {
    usize::try_from(index).expect("a u32 fits the address space of every supported machine")
}

/// After this long the caller has lost an ask: every call ends before.
const ASK_LIFE: Duration = CALL_TIMEOUT.saturating_mul(2);
const NEVER: Mono = Mono(u64::MAX);
/// Frames asked of a peer at a time where many could be asked: the next is on its way when one comes.
const FETCHES_TO_ONE_OF_MANY: usize = 2;
/// So many times the typical time is slow.
const SLOW_TIMES: u32 = 3;

#[cfg(test)]
impl Fetch {
    /// What must hold after every call.
    pub(super) fn check_invariants(&self) {
        let twins: std::collections::BTreeSet<_> = self.twins.values().flatten().collect();
        let mut wanted = 0;
        for index in 0..self.progress.frames_total {
            let asked = |open: &&Open| open.index == index && !open.overdue;
            let asked = self.open.iter().filter(asked).count();
            let is_wanted = self.wanted.contains(index);
            wanted += u32::from(is_wanted);
            if self.here.contains(index) {
                assert!(!is_wanted, "frame {index} is here and wanted");
            } else if !twins.contains(&index) {
                let places = asked + usize::from(is_wanted);
                assert_eq!(places, 1, "frame {index} is wanted, or asked of one peer");
            }
        }
        assert_eq!(wanted, self.wanted_count);
        for (id, peer) in &self.peers {
            let open: Vec<_> = self.open.iter().filter(|open| open.peer == *id).collect();
            assert_eq!(peer.open, open.len());
            assert_eq!(peer.overdue, open.iter().filter(|open| open.overdue).count());
            assert!(peer.open <= FETCHES_PER_PEER_MAX, "{} asks open at a peer", peer.open);
        }
        let done = self.here.iter().count();
        assert_eq!(done, usize_of(self.progress.frames_done));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Frame;

    const MANIFEST: Digest = Digest([9; 32]);
    const WINDOW: usize = 8;

    fn frames(count: u8) -> Vec<Frame> {
        let frame = |n| Frame { hash: Digest([n; 32]), bytes: 10, raw_bytes: 20 };
        (0..count).map(frame).collect()
    }

    fn of(frames: Vec<Frame>, have: impl Fn(&Digest) -> bool) -> Fetch {
        Fetch::new(MANIFEST, Arc::new(Manifest { frames, ..Manifest::default() }), have, 7)
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
        let mut fetch = of(frames(count), |_| false);
        (0..peers).for_each(|peer| fetch.holding(host(peer), &all(count)).unwrap());
        fetch
    }

    fn asks(fetch: &mut Fetch, now: Mono) -> Vec<Ask> {
        let asks: Vec<_> = std::iter::from_fn(|| fetch.next(now, WINDOW)).collect();
        fetch.check_invariants();
        asks
    }

    fn at(millis: u64) -> Mono {
        Mono(millis * 1000)
    }

    #[test]
    fn the_share_of_a_peer_is_bounded_and_all_of_them_get_one() {
        assert_eq!(asks(&mut fetch(40, 1), at(0)).len(), FETCHES_PER_PEER_MAX);
        let many = asks(&mut fetch(200, 20), at(0));
        for peer in 0..20 {
            let part = many.iter().filter(|ask| ask.peer == host(peer)).count();
            assert_eq!(part, FETCHES_TO_ONE_OF_MANY);
        }
    }

    #[test]
    fn what_is_here_is_never_asked_for() {
        let mut fetch = of(frames(6), |frame| frame.0[0].is_multiple_of(2));
        let progress = fetch.progress();
        assert_eq!((progress.frames_done, progress.bytes_done), (3, 30));
        fetch.holding(host(1), &all(6)).unwrap();
        let asks = asks(&mut fetch, at(0));
        assert_eq!(asks.len(), 3);
        assert!(asks.iter().all(|ask| ask.index % 2 == 1));
        for ask in asks {
            fetch.received(at(5), ask.peer, ask.index, true).unwrap();
        }
        assert!(fetch.is_done());
        assert_eq!(fetch.next_deadline(), None);
        assert_eq!(fetch.progress().bytes_done, fetch.progress().bytes_total);
    }

    #[test]
    fn a_revision_without_frames_is_done_at_once() {
        let mut fetch = of(Vec::new(), |_| false);
        fetch.holding(host(1), &Holding { manifest: MANIFEST, frames: Vec::new() }).unwrap();
        assert!(fetch.is_done());
        assert_eq!(fetch.next(at(0), WINDOW), None);
    }

    #[test]
    fn a_frame_listed_twice_is_fetched_once() {
        let mut fetch = of([frames(2), frames(2)].concat(), |_| false);
        let every = Holding { manifest: MANIFEST, frames: vec![0b1111] };
        fetch.holding(host(1), &every).unwrap();
        let asks = asks(&mut fetch, at(0));
        assert_eq!(asks.len(), 2);
        for ask in asks {
            fetch.received(at(1), ask.peer, ask.index, true).unwrap();
            fetch.check_invariants();
        }
        assert!(fetch.is_done());
        assert_eq!(fetch.here_set().to_holding(MANIFEST), every);
    }

    #[test]
    fn a_bad_frame_sets_its_peer_aside_for_good() {
        let mut fetch = fetch(8, 2);
        let first = asks(&mut fetch, at(0));
        let bad = first.iter().find(|ask| ask.peer == host(1)).unwrap();
        fetch.received(at(1), host(1), bad.index, false);
        fetch.check_invariants();
        let others = first.iter().filter(|ask| ask.peer == host(1) && *ask != bad);
        let unwanted = fetch.expire(at(1));
        assert_eq!(unwanted.len(), others.clone().count());
        assert!(!unwanted.is_empty() && others.clone().all(|ask| unwanted.contains(ask)));
        assert_eq!(fetch.expire(at(1)), [], "it hears once that the others are not waited for");
        fetch.peer_gone(host(1));
        fetch.holding(host(1), &all(8)).unwrap();
        for ask in first.iter().filter(|ask| ask.peer == host(0)) {
            fetch.received(at(2), host(0), ask.index, true);
        }
        let again = asks(&mut fetch, at(100_000));
        assert!(again.iter().any(|ask| ask.index == bad.index));
        assert!(again.iter().all(|ask| ask.peer == host(0)));
        assert_eq!(fetch.set_aside().collect::<Vec<_>>(), [host(1)]);
    }

    #[test]
    fn an_overdue_frame_is_asked_of_another_and_a_late_answer_still_counts() {
        let mut fetch = fetch(1, 1);
        let slow = asks(&mut fetch, at(0))[0];
        fetch.holding(host(1), &all(1)).unwrap();
        assert_eq!(fetch.expire(at(1999)), []);
        assert_eq!(fetch.next_deadline(), Some(at(2000)));
        assert_eq!(fetch.expire(at(2000)), [slow]);
        let again = asks(&mut fetch, at(2000));
        assert_eq!(again.iter().map(|ask| ask.peer).collect::<Vec<_>>(), [host(1)]);
        assert_eq!(fetch.received(at(2100), slow.peer, slow.index, true), None);
        assert!(fetch.is_done());
        fetch.received(at(2200), host(1), 0, true);
        assert_eq!(fetch.progress().frames_done, 1);
        fetch.check_invariants();
    }

    #[test]
    fn slow_answers_from_everyone_raise_what_counts_as_overdue() {
        let mut fetch = fetch(2, 1);
        let first = asks(&mut fetch, at(0));
        fetch.received(at(1500), host(0), first[0].index, true);
        assert_eq!(fetch.expire(at(4499)), []);
        assert_eq!(fetch.expire(at(4500)), [first[1]]);
    }

    #[test]
    fn the_only_holder_is_asked_again_for_what_it_was_too_slow_with() {
        let mut fetch = fetch(4, 1);
        let first = asks(&mut fetch, at(0));
        assert_eq!(fetch.expire(at(2000)).len(), 4);
        for ask in &first[2..] {
            fetch.failed(at(2000), ask.peer, ask.index, Failure::Absent);
        }
        for (ask, took) in first[..2].iter().zip([3000, 6000]) {
            fetch.received(at(took), ask.peer, ask.index, true);
        }
        let again = asks(&mut fetch, at(6000));
        assert_eq!(again.len(), 2);
        assert_eq!(fetch.expire(at(14_999)), [], "three times what it took");
        again.iter().for_each(|ask| {
            fetch.received(at(14_999), ask.peer, ask.index, true);
        });
        assert!(fetch.is_done());
    }

    #[test]
    fn a_slow_peer_is_asked_for_one_frame_that_others_have_no_room_for() {
        let mut fetch = fetch(60, 3);
        let first = asks(&mut fetch, at(0));
        for ask in first {
            let took = if ask.peer == host(2) { 400 } else { 20 };
            fetch.received(at(took), ask.peer, ask.index, true);
        }
        let order = asks(&mut fetch, at(500));
        assert_eq!(order.iter().filter(|ask| ask.peer == host(2)).count(), 1);
        assert_eq!(order.last().unwrap().peer, host(2));
    }

    #[test]
    fn a_peer_rests_longer_after_each_failure() {
        let mut fetch = fetch(1, 1);
        let mut now = at(0);
        let mut rests = Vec::new();
        for _ in 0..4 {
            let ask = asks(&mut fetch, now)[0];
            fetch.failed(now, ask.peer, ask.index, Failure::Busy);
            assert_eq!(asks(&mut fetch, now), []);
            let wake = fetch.next_deadline().unwrap();
            assert_eq!(asks(&mut fetch, Mono(wake.0 - 1)), []);
            rests.push(wake.since(now).as_millis());
            now = wake;
        }
        assert_eq!(rests, [200, 400, 800, 1600]);
        for _ in 0..40 {
            let ask = asks(&mut fetch, now)[0];
            fetch.failed(now, ask.peer, ask.index, Failure::Timeout);
            assert_eq!(asks(&mut fetch, now), []);
            let wake = fetch.next_deadline().unwrap();
            assert!(wake.since(now) <= FETCH_REST_MAX);
            now = wake;
        }
    }

    #[test]
    fn a_frame_that_a_peer_denies_is_not_asked_of_it_again() {
        let mut fetch = fetch(1, 1);
        asks(&mut fetch, at(0));
        fetch.failed(at(1), host(0), 0, Failure::Absent);
        assert_eq!(asks(&mut fetch, at(1_000_000)), []);
        assert_eq!(fetch.next_deadline(), None);
        fetch.more(host(0), &[0]).unwrap();
        assert_eq!(asks(&mut fetch, at(1_000_000)).len(), 1);
    }

    #[test]
    fn an_ask_whose_answer_is_never_reported_is_given_up() {
        let mut fetch = fetch(1, 1);
        asks(&mut fetch, at(0));
        assert_eq!(fetch.expire(at(0) + FETCH_OVERDUE_AFTER_FIRST).len(), 1);
        assert_eq!(asks(&mut fetch, at(10_000)), [], "who owes an answer gets no more to do");
        assert_eq!(fetch.expire(at(0) + ASK_LIFE), []);
        assert_eq!(fetch.find(host(0), 0), None);
        assert_eq!(asks(&mut fetch, at(60_000)).len(), 1);
    }

    #[test]
    fn what_is_stored_counts_whether_it_is_waited_for_or_not() {
        let mut fetch = fetch(2, 1);
        let ask = asks(&mut fetch, at(0))[0];
        fetch.peer_gone(ask.peer);
        assert_eq!(fetch.received(at(1), ask.peer, ask.index, true), None);
        fetch.check_invariants();
        assert!(fetch.has(ask.index));
        fetch.holding(host(1), &all(2)).unwrap();
        assert_eq!(asks(&mut fetch, at(2)).len(), 1);
    }

    #[test]
    fn refusals_of_what_was_asked_at_once_are_one_failure() {
        let mut fetch = fetch(8, 1);
        let first = asks(&mut fetch, at(0));
        assert_eq!(first.len(), 8);
        for (ask, millis) in first.iter().zip(1..) {
            fetch.failed(at(millis), ask.peer, ask.index, Failure::Busy);
        }
        assert_eq!(asks(&mut fetch, at(200)), []);
        assert_eq!(fetch.next_deadline(), Some(at(201)));
        let ask = asks(&mut fetch, at(201))[0];
        fetch.failed(at(202), ask.peer, ask.index, Failure::Busy);
        assert_eq!(asks(&mut fetch, at(601)), []);
    }

    #[test]
    fn statements_add_up_and_are_taken_back_without_bits() {
        let mut fetch = fetch(8, 0);
        let said = |frames: &[u8]| Holding { manifest: MANIFEST, frames: frames.to_vec() };
        fetch.holding(host(1), &said(&[0b0101])).unwrap();
        fetch.more(host(1), &[3]).unwrap();
        // It was said before these and comes after them.
        fetch.holding(host(1), &said(&[0b0001])).unwrap();
        assert_eq!(fetch.held(host(1)).unwrap().iter().collect::<Vec<_>>(), [0, 2, 3]);
        fetch.holding(host(1), &said(&[])).unwrap();
        assert_eq!(asks(&mut fetch, at(0)), []);
        fetch.more(host(1), &[3]).unwrap();
        assert_eq!(asks(&mut fetch, at(0)).len(), 1);
    }

    #[test]
    fn whoever_says_what_cannot_be_is_refused_once_and_not_heard_again() {
        let mut fetch = fetch(8, 2);
        assert_eq!(fetch.more(host(0), &[8]), Err(HoldingRefused::Padding { last: 8 }));
        assert_eq!(fetch.more(host(0), &[8]), Ok(()));
        let long = Holding { manifest: MANIFEST, frames: vec![0; 2] };
        assert_eq!(
            fetch.holding(host(1), &long),
            Err(HoldingRefused::Length { expected: 1, got: 2 })
        );
        fetch.holding(host(1), &all(8)).unwrap();
        assert_eq!(asks(&mut fetch, at(0)), []);
    }

    #[test]
    fn what_was_not_asked_for_changes_nothing() {
        let mut fetch = fetch(2, 1);
        fetch.failed(at(1), host(5), 0, Failure::Error);
        fetch.failed(at(1), host(0), 77, Failure::Error);
        fetch.received(at(1), host(5), u32::MAX, true);
        fetch.received(at(1), host(0), 0, false);
        fetch.peer_gone(host(5));
        fetch.more(host(5), &[1]).unwrap();
        fetch.check_invariants();
        assert_eq!((fetch.progress().frames_done, fetch.set_aside().count()), (0, 0));
        assert_eq!(asks(&mut fetch, at(1)).len(), 2);
    }
}

//! What peers are told that this host holds.
//!
//! A host that fetches tells them of each frame soon after it came. One that has everything before
//! anybody else has, the host that was pushed to, would be asked for the same frames by all of them:
//! it shows each frame to one peer first, and everything when all of it was sent once. Every second
//! copy that it sends before that costs all hosts the time of a frame. It waits for the first peer that
//! fetches, and ends at once where nobody fetches any more or nothing goes out.

use std::time::Duration;

use super::{
    choice::{Dice, any_common},
    frame_set::FrameSet,
};
use crate::{
    ids::HostId,
    limits::{
        CALL_TIMEOUT, FRAMES_PER_HAVE_MAX, HAVE_EVERY, PREMIERE_DULL_AFTER, SHOWN_PATIENCE_MAX,
        SHOWN_PATIENCE_MIN, SHOWN_PER_PEER_MAX, SHOWN_PER_PEER_MIN,
    },
    time::Mono,
};

/// What came and was not told yet.
#[derive(Debug, Default)]
pub(super) struct News {
    frames: Vec<u32>,
    /// Nothing is told before.
    tell_at: Mono,
}

impl News {
    pub(super) fn add(&mut self, frame: u32) {
        self.frames.push(frame);
    }

    /// What to tell now. What does not fit into one message is told with the next.
    pub(super) fn tell(&mut self, now: Mono) -> Option<Vec<u32>> {
        if self.frames.is_empty() || now < self.tell_at {
            return None;
        }
        self.tell_at = now + HAVE_EVERY;
        let later = self.frames.split_off(self.frames.len().min(FRAMES_PER_HAVE_MAX));
        Some(std::mem::replace(&mut self.frames, later))
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        (!self.frames.is_empty()).then_some(self.tell_at)
    }

    /// All that is here is told instead.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
    }
}

/// A revision that goes out for the first time.
#[derive(Debug)]
pub(super) struct Premiere {
    /// Neither shown to anyone nor held by anyone else.
    unshown: FrameSet,
    shown: Vec<Shown>,
    /// Peers that let something lie: nothing more is shown to them until they ask for something.
    dull: Vec<HostId>,
    /// How many frames are shown to each at a time.
    each: usize,
    /// How long it takes until a frame that was shown is asked for, as a moving average.
    typical: Option<Duration>,
    /// When a frame last went out, or the first peer came that lacks some.
    moved_at: Option<Mono>,
    /// A frame went out since then.
    moved: bool,
}

/// A frame that one peer is told of.
#[derive(Debug)]
struct Shown {
    frame: u32,
    peer: HostId,
    since: Mono,
    /// When it asked for it.
    asked: Option<Mono>,
}

impl Premiere {
    /// Nobody else has any of the frames.
    pub(super) fn new(here: &FrameSet) -> Self {
        Self {
            unshown: here.clone(),
            shown: Vec::new(),
            dull: Vec::new(),
            each: SHOWN_PER_PEER_MIN,
            typical: None,
            moved_at: None,
            moved: false,
        }
    }

    /// True when everything was sent or is held by another, or when there is nobody to show it to: of
    /// those who came, `lacking` peers lack frames.
    pub(super) fn is_over(&self, now: Mono, lacking: usize) -> bool {
        let dull = |moved_at| lacking == 0 || now >= moved_at + PREMIERE_DULL_AFTER;
        self.shown.is_empty() && self.unshown.is_empty() || self.moved_at.is_some_and(dull)
    }

    /// Shows more to these peers, which lack frames: what each is to be told.
    pub(super) fn show(
        &mut self,
        now: Mono,
        peers: &[HostId],
        dice: &mut Dice,
    ) -> Vec<(HostId, Vec<u32>)> {
        if std::mem::take(&mut self.moved) || self.moved_at.is_none() && !peers.is_empty() {
            self.moved_at = Some(now);
        }
        self.take_back(now);
        if peers.iter().all(|peer| self.dull.contains(peer)) {
            self.dull.clear();
        }
        let mut told = Vec::new();
        for peer in peers.iter().filter(|peer| !self.dull.contains(peer)) {
            let has = self.shown.iter().filter(|shown| shown.peer == *peer).count();
            let more: Vec<u32> = (has..self.each)
                .map_while(|_| {
                    let frame = any_common(&self.unshown, &self.unshown, dice)?;
                    self.unshown.remove(frame);
                    Some(frame)
                })
                .collect();
            let shown = |frame: &u32| Shown { frame: *frame, peer: *peer, since: now, asked: None };
            self.shown.extend(more.iter().map(shown));
            if !more.is_empty() {
                told.push((*peer, more));
            }
        }
        told
    }

    /// What a peer was shown.
    pub(super) fn shown_to(&self, peer: HostId) -> FrameSet {
        let mut frames = FrameSet::empty(self.unshown.frames());
        for shown in self.shown.iter().filter(|shown| shown.peer == peer) {
            frames.insert(shown.frame);
        }
        frames
    }

    /// A peer asks for a frame, while the link up was `idle` or not. An idle one could carry more if
    /// more were shown.
    pub(super) fn asked(&mut self, now: Mono, peer: HostId, frame: u32, idle: bool) {
        self.each = (self.each + usize::from(idle)).min(SHOWN_PER_PEER_MAX);
        self.dull.retain(|dull| *dull != peer);
        let shown = self.shown.iter_mut().find(|shown| shown.frame == frame && shown.peer == peer);
        if let Some(shown) = shown {
            shown.asked = Some(now);
            let took = now.since(shown.since);
            self.typical = Some(self.typical.map_or(took, |typical| (typical * 7 + took) / 8));
        }
    }

    /// A frame was sent, or is held by another.
    pub(super) fn out(&mut self, frame: u32) {
        let shown = self.shown.len();
        self.shown.retain(|shown| shown.frame != frame);
        self.moved |= self.unshown.contains(frame) || self.shown.len() < shown;
        self.unshown.remove(frame);
    }

    /// A peer will not get a frame that it asked for.
    pub(super) fn cancelled(&mut self, peer: HostId, frame: u32) {
        self.take(|shown| shown.peer == peer && shown.frame == frame);
    }

    /// A peer is gone, with what it was shown.
    pub(super) fn peer_gone(&mut self, peer: HostId) {
        self.dull.retain(|dull| *dull != peer);
        let (unshown, of_peer) = (&mut self.unshown, |shown: &mut Shown| shown.peer == peer);
        for shown in self.shown.extract_if(.., of_peer) {
            unshown.insert(shown.frame);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let patience = self.patience();
        let lies = self.shown.iter().map(|shown| shown.lies_at(patience)).min();
        lies.into_iter().chain(self.moved_at.map(|moved_at| moved_at + PREMIERE_DULL_AFTER)).min()
    }

    fn patience(&self) -> Duration {
        let patience = self.typical.map_or(SHOWN_PATIENCE_MAX, |typical| typical * 3);
        patience.clamp(SHOWN_PATIENCE_MIN, SHOWN_PATIENCE_MAX)
    }

    /// What a peer lets lie is for others, and so is what it does not get.
    fn take_back(&mut self, now: Mono) {
        let patience = self.patience();
        self.take(|shown| now >= shown.lies_at(patience));
    }

    /// Takes back what was shown, from peers that are shown nothing else before others.
    fn take(&mut self, which: impl Fn(&Shown) -> bool) {
        for shown in self.shown.extract_if(.., |shown| which(shown)) {
            self.unshown.insert(shown.frame);
            if !self.dull.contains(&shown.peer) {
                self.dull.push(shown.peer);
            }
        }
    }
}

impl Shown {
    /// Whoever asked waits for as long as a call lasts.
    fn lies_at(&self, patience: Duration) -> Mono {
        self.asked.map_or(self.since + patience, |asked| asked + CALL_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(frames: u32) -> FrameSet {
        let mut set = FrameSet::empty(frames);
        (0..frames).for_each(|frame| assert!(set.insert(frame)));
        set
    }

    const PEERS: [HostId; 2] = [HostId([1; 32]), HostId([2; 32])];

    #[test]
    fn each_frame_is_shown_to_one_peer_until_all_were_sent() {
        let (mut premiere, mut dice) = (Premiere::new(&all(100)), Dice::new(1));
        let mut sent = BTreeSet::new();
        let mut now = Mono(0);
        while !premiere.is_over(now, 2) {
            for (peer, frames) in premiere.show(now, &PEERS, &mut dice) {
                assert!(premiere.shown_to(peer).iter().count() <= SHOWN_PER_PEER_MIN);
                for frame in frames {
                    premiere.asked(now, peer, frame, false);
                    assert!(sent.insert(frame), "frame {frame} is shown once");
                }
            }
            let next = PEERS.iter().find_map(|peer| premiere.shown_to(*peer).iter().next());
            premiere.out(next.unwrap());
            now = now + HAVE_EVERY;
        }
        assert_eq!(sent.len(), 100);
    }

    #[test]
    fn what_a_peer_lets_lie_or_leaves_behind_is_shown_to_another() {
        let (mut premiere, mut dice) = (Premiere::new(&all(2)), Dice::new(1));
        let first = premiere.show(Mono(0), &PEERS[..1], &mut dice);
        assert_eq!(first[0].1.len(), 2);
        assert_eq!(premiere.show(Mono(1), &PEERS, &mut dice), []);
        let later = premiere.next_deadline().unwrap();
        let told = premiere.show(later, &PEERS, &mut dice);
        assert_eq!(told.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [PEERS[1]]);
        premiere.peer_gone(PEERS[1]);
        let told = premiere.show(later, &PEERS[..1], &mut dice);
        assert_eq!(told[0].1.len(), 2, "where there is nobody else it is shown again");
    }

    #[test]
    fn what_a_peer_asked_for_and_does_not_get_is_shown_to_another() {
        let (mut premiere, mut dice) = (Premiere::new(&all(2)), Dice::new(1));
        let shown = premiere.show(Mono(0), &PEERS[..1], &mut dice)[0].1.clone();
        shown.iter().for_each(|frame| premiere.asked(Mono(1), PEERS[0], *frame, false));
        assert_eq!(premiere.show(Mono(2), &PEERS, &mut dice), []);
        premiere.cancelled(PEERS[0], shown[0]);
        premiere.cancelled(PEERS[1], shown[1]);
        let told = premiere.show(Mono(2), &PEERS, &mut dice);
        assert_eq!(told, [(PEERS[1], vec![shown[0]])]);
        premiere.asked(Mono(2), PEERS[1], shown[0], false);
        let end = premiere.next_deadline().unwrap();
        assert_eq!(end, Mono(0) + PREMIERE_DULL_AFTER, "nothing goes out");
        let told = premiere.show(Mono(1) + CALL_TIMEOUT, &PEERS, &mut dice);
        assert_eq!(told, [(PEERS[1], vec![shown[1]])]);
    }

    #[test]
    fn it_waits_for_the_first_who_fetches_and_ends_when_it_is_dull() {
        let (mut premiere, mut dice) = (Premiere::new(&all(100)), Dice::new(1));
        let late = Mono(0) + PREMIERE_DULL_AFTER * 100;
        assert_eq!(premiere.show(late, &[], &mut dice), []);
        assert!(!premiere.is_over(late, 0) && premiere.next_deadline().is_none());
        premiere.show(late, &PEERS, &mut dice);
        assert!(!premiere.is_over(late, 2));
        assert!(premiere.is_over(late, 0), "nobody fetches any more");
        let later = late + PREMIERE_DULL_AFTER / 2;
        premiere.out(5);
        premiere.show(later, &PEERS, &mut dice);
        premiere.out(5);
        premiere.show(later + PREMIERE_DULL_AFTER / 2, &PEERS, &mut dice);
        assert!(!premiere.is_over(late + PREMIERE_DULL_AFTER, 2));
        assert!(premiere.is_over(later + PREMIERE_DULL_AFTER, 2), "nothing new went out");
    }

    #[test]
    fn more_is_shown_where_the_link_is_idle() {
        let (mut premiere, mut dice) = (Premiere::new(&all(100)), Dice::new(1));
        premiere.show(Mono(0), &PEERS, &mut dice);
        let frame = premiere.shown_to(PEERS[0]).iter().next().unwrap();
        premiere.asked(Mono(1), PEERS[0], frame, true);
        let told = premiere.show(Mono(1), &PEERS, &mut dice);
        assert!(told.iter().all(|(_, frames)| frames.len() == 1) && told.len() == 2);
        (0..100).for_each(|_| premiere.asked(Mono(1), PEERS[0], frame, true));
        premiere.show(Mono(1), &PEERS, &mut dice);
        assert_eq!(premiere.shown_to(PEERS[1]).iter().count(), SHOWN_PER_PEER_MAX);
    }

    #[test]
    fn what_another_holds_need_not_be_sent_first() {
        let mut premiere = Premiere::new(&all(3));
        premiere.out(1);
        let told = premiere.show(Mono(0), &PEERS[..1], &mut Dice::new(1));
        assert_eq!(told[0].1.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([0, 2]));
        premiere.out(0);
        premiere.out(2);
        assert!(premiere.is_over(Mono(0), 1));
    }

    #[test]
    fn news_are_gathered_for_a_while_and_cut_where_a_message_ends() {
        let mut news = News::default();
        let most = u32::try_from(FRAMES_PER_HAVE_MAX).unwrap();
        news.add(0);
        assert_eq!(news.tell(Mono(1)), Some(vec![0]));
        (0..=most).for_each(|frame| news.add(frame));
        assert_eq!(news.tell(Mono(2)), None);
        let at = news.next_deadline().unwrap();
        assert_eq!(news.tell(at).unwrap().len(), FRAMES_PER_HAVE_MAX);
        assert_eq!(news.tell(at + HAVE_EVERY), Some(vec![most]));
        assert_eq!(news.next_deadline(), None);
    }
}

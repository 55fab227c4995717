//! How revisions move between hosts: what is asked of whom, who is given what, and what peers are told.
//!
//! [`Swarm`] is both sides of a host, for all its revisions. A host hears from its peers which frames
//! they hold and asks for those that it lacks: rarest first (`choice.rs`), each of one peer at a time,
//! as many at once as keep its link busy (`pipeline.rs`). It gives what it has from the first frame on
//! (`serve.rs`). The host that was pushed to shows each frame to one peer first (`showing.rs`). Of many
//! links some take part (`links.rs`). Peers that lie, stall or vanish cost time, never the outcome.

mod backlog;
mod choice;
mod fetch;
mod frame_set;
mod holdings;
mod links;
mod pipeline;
mod rate;
mod serve;
mod showing;
mod turns;

#[cfg(test)]
mod crowd;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::{
    backlog::Backlog,
    fetch::{Ask, Failure, Progress},
    frame_set::HoldingRefused,
    serve::Give,
    turns::Turns,
};
use self::{
    choice::Dice,
    fetch::Fetch,
    links::Links,
    pipeline::Pipeline,
    rate::Rate,
    serve::Serves,
    showing::{News, Premiere},
};
use crate::{
    ids::{Digest, HostId},
    limits::{
        SERVES_WAITING_MAX, SWARM_IDLE_MAX, SWARM_REVISION_IDLE_MAX, SWARM_REVISIONS_MAX,
        SWARM_SHELVED_MAX,
    },
    revision::Manifest,
    time::Mono,
    wire::{Holding, Message},
};

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask a peer for a frame. Report each ask once, by [`Swarm::received`] or [`Swarm::failed`].
    Ask(Ask),
    /// Give a peer a frame that it asked for. Report by [`Swarm::given`] when it is on the wire, or
    /// cannot be given.
    Give(Give),
    /// Tell a peer that it will not get a frame that it asked for: it does not wait for it any more, or it
    /// is not given any more. Nothing is to be reported.
    Refuse(Give),
    /// Tell a peer something.
    Send(HostId, Message),
    /// Open a revision again: a peer lacks some of it and it made way for others, or it is damaged.
    Open(Digest),
}

/// Bytes a second that a host may take and give. None: as many as there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// From peers.
    pub down: Option<u64>,
    /// To peers.
    pub up: Option<u64>,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Frames that were asked for, are waited for and have not come.
    pub asks: usize,
    /// Frames that peers wait for.
    pub waiting: usize,
    /// Frames that are on their way to peers.
    pub giving: usize,
    /// Peers that take part.
    pub peers: usize,
}

/// The swarm as one host sees it.
///
/// The caller tells what happened, and then has [`poll`](Self::poll) say what to do; it polls at
/// [`next_deadline`](Self::next_deadline) as well.
#[derive(Debug)]
pub struct Swarm {
    revisions: BTreeMap<Digest, Revision>,
    /// Revisions that were here in full and made way for others, with how many frames they have.
    shelved: BTreeMap<Digest, usize>,
    /// Those of them that a peer lacks, and those that are damaged.
    recalled: BTreeSet<Digest>,
    links: Links,
    /// When to look for neighbours that are of no use.
    swap_at: Option<Mono>,
    pipeline: Pipeline,
    serves: Serves,
    down: Rate,
    /// Who is to hear all that is here of which revision; once, however often it asks.
    to_tell: BTreeSet<(HostId, Digest)>,
    outputs: Vec<Output>,
    dice: Dice,
}

#[derive(Debug)]
struct Revision {
    fetch: Fetch,
    /// What is missing is asked for.
    fetching: bool,
    news: News,
    premiere: Option<Premiere>,
    /// All that is here is to be told to everybody.
    announce: bool,
    /// When it was opened, or last asked for.
    used_at: Mono,
}

impl Swarm {
    /// A swarm without peers and revisions. `seed` decides all choices.
    pub fn new(rates: Rates, seed: u64) -> Self {
        Self {
            revisions: BTreeMap::new(),
            shelved: BTreeMap::new(),
            recalled: BTreeSet::new(),
            links: Links::default(),
            swap_at: None,
            pipeline: Pipeline::new(),
            serves: Serves::new(Rate::new(rates.up)),
            down: Rate::new(rates.down),
            to_tell: BTreeSet::new(),
            outputs: Vec::new(),
            dice: Dice::new(seed),
        }
    }

    /// Begins to fetch what is missing of a revision and to give what is here, which is what the store
    /// has by `have`. One that is open already is looked at anew. Where as many are open as may be, one
    /// makes way that is here in full and that nobody needs; false if there is none.
    pub fn open(
        &mut self,
        now: Mono,
        manifest: Digest,
        content: Arc<Manifest>,
        have: impl Fn(&Digest) -> bool,
    ) -> bool {
        let before = self.revisions.remove(&manifest).map(|revision| revision.fetch);
        if self.revisions.len() >= SWARM_REVISIONS_MAX && !self.shelve_one(now) {
            return false;
        }
        self.shelved.remove(&manifest);
        self.recalled.remove(&manifest);
        self.outputs.extend(before.iter().flat_map(Fetch::waited_for).map(unwant));
        let mut fetch = Fetch::new(manifest, content, have, self.dice.roll());
        for peer in before.iter().flat_map(Fetch::set_aside) {
            fetch.set_peer_aside(peer);
        }
        for peer in self.links.neighbours().collect::<Vec<_>>() {
            let known = before.as_ref().and_then(|before| before.held(peer));
            let known = known.map(|held| held.to_holding(manifest));
            if let Some(holding) = known.or_else(|| self.links.take(peer, manifest)) {
                // One that cannot be is of no use, now or later.
                drop(fetch.holding(peer, &holding));
            }
        }
        let revision = Revision {
            fetch,
            fetching: true,
            news: News::default(),
            premiere: None,
            announce: true,
            used_at: now,
        };
        self.revisions.insert(manifest, revision);
        true
    }

    /// Nobody else has this revision, which is open and here in full: it came to the fleet here, now.
    pub fn premiere(&mut self, manifest: Digest) {
        let Some(revision) = self.revisions.get_mut(&manifest) else { return };
        if revision.fetch.is_done() {
            revision.premiere = Some(Premiere::new(revision.fetch.here_set()));
            let peers: Vec<_> = revision.fetch.peers().map(|(peer, _)| peer).collect();
            peers.into_iter().for_each(|peer| revision.others_hold(peer));
        }
    }

    /// Something of a revision is not here any more that was. It is opened again, where it takes part and is
    /// not given up, or was here in full and made way for others.
    pub fn damaged(&mut self, manifest: Digest) {
        let takes_part = self.revisions.get(&manifest).is_some_and(|revision| revision.fetching);
        if takes_part || self.shelved.contains_key(&manifest) {
            self.recalled.insert(manifest);
        }
    }

    /// A revision is not here any more, and not to be had.
    pub fn close(&mut self, manifest: Digest) {
        self.shelved.remove(&manifest);
        self.recalled.remove(&manifest);
        if let Some(revision) = self.leave(manifest) {
            self.outputs.extend(revision.fetch.waited_for().map(unwant));
        }
    }

    /// Takes no part in a revision any more. What others hold of it is kept in mind, for when it is opened
    /// again; what was said to be here is taken back.
    fn leave(&mut self, manifest: Digest) -> Option<Revision> {
        let waiting = self.serves.close(manifest);
        self.outputs.extend(waiting.into_iter().map(Output::Refuse));
        let revision = self.revisions.remove(&manifest)?;
        for (peer, held) in revision.fetch.peers() {
            if let Some(said) = self.links.said(peer) {
                said.keep(held.to_holding(manifest));
            }
        }
        for peer in self.links.all() {
            let holding = nothing_of(manifest);
            self.outputs.push(Output::Send(peer, Message::Have(vec![holding])));
        }
        Some(revision)
    }

    /// Asks for no more of a revision until it is opened again, and gives what is here.
    pub fn stop_fetching(&mut self, manifest: Digest) {
        if let Some(revision) = self.revisions.get_mut(&manifest) {
            revision.fetching = false;
        }
    }

    /// A link to a peer is up.
    pub fn peer_up(&mut self, peer: HostId) {
        if !self.links.up(peer) {
            return;
        }
        if !self.shelved.is_empty() {
            let holdings = self.shelved.keys().copied().map(nothing_of).collect();
            self.outputs.push(Output::Send(peer, Message::Have(holdings)));
        }
        self.fill_places();
        if !self.links.is_neighbour(peer) {
            self.tell_all_to(peer);
        }
    }

    /// The last link to a peer is gone.
    pub fn peer_gone(&mut self, peer: HostId) {
        self.serves.peer_gone(peer);
        if self.links.gone(peer) {
            for revision in self.revisions.values_mut() {
                revision.peer_gone(peer);
            }
            self.fill_places();
        }
    }

    /// A peer says what it holds of a revision, beside what it said before.
    pub fn holding(&mut self, peer: HostId, holding: Holding) -> Result<(), HoldingRefused> {
        let manifest = holding.manifest;
        let revision = self.revisions.get_mut(&manifest);
        // Who gives it only where it is lacking hears whether it is, and who has forgotten what it heard
        // hears it anew.
        let has_frames = |revision: &&mut Revision| revision.fetch.progress().frames_total > 0;
        if holding.frames.is_empty() && revision.as_ref().is_some_and(has_frames) {
            self.to_tell.insert((peer, manifest));
        }
        let Some(revision) = revision.filter(|_| self.links.is_neighbour(peer)) else {
            let frames = self.shelved.get(&manifest).copied().unwrap_or_default();
            if !holding.frames.is_empty() && holding.claims() < frames {
                self.recalled.insert(manifest);
            }
            if let Some(said) = self.links.said(peer) {
                said.keep(holding);
            }
            return Ok(());
        };
        let is_first = revision.fetch.held(peer).is_none();
        revision.fetch.holding(peer, &holding)?;
        revision.others_hold(peer);
        if is_first {
            // What came while it was told nothing of the revision it hears now.
            self.to_tell.insert((peer, manifest));
        }
        Ok(())
    }

    /// A peer holds more frames of a revision than it said before.
    pub fn more(
        &mut self,
        peer: HostId,
        manifest: Digest,
        frames: &[u32],
    ) -> Result<(), HoldingRefused> {
        let revision = self.revisions.get_mut(&manifest);
        let Some(revision) = revision.filter(|_| self.links.is_neighbour(peer)) else {
            if let Some(said) = self.links.said(peer) {
                said.add(manifest, frames);
            }
            return Ok(());
        };
        revision.fetch.more(peer, frames)?;
        if let Some(premiere) = &mut revision.premiere {
            frames.iter().for_each(|frame| premiere.out(*frame));
        }
        Ok(())
    }

    /// A peer asks for a frame. What is not to be had, or too much, is refused at once.
    pub fn asked(
        &mut self,
        now: Mono,
        peer: HostId,
        manifest: Digest,
        index: u32,
    ) -> Result<(), Failure> {
        let (waiting, giving) = self.serves.load();
        if !self.links.is_neighbour(peer) && waiting >= SERVES_WAITING_MAX {
            return Err(Failure::Busy);
        }
        if self.shelved.contains_key(&manifest) {
            self.recalled.insert(manifest);
            return Err(Failure::Busy);
        }
        let revision = self.revisions.get_mut(&manifest).ok_or(Failure::Absent)?;
        if !revision.fetch.has(index) {
            return Err(Failure::Absent);
        }
        let place = usize::try_from(index).map_err(|_| Failure::Absent)?;
        let frame = revision.fetch.content().frames.get(place).ok_or(Failure::Absent)?;
        let give = Give { peer, manifest, index, frame: frame.hash };
        let total = revision.fetch.progress().bytes_total;
        let idle = (waiting, giving) == (0, 0);
        if !self.serves.ask(now, give, frame.bytes, total) {
            return Err(Failure::Busy);
        }
        revision.used_at = now;
        self.links.used(peer);
        if let Some(premiere) = &mut revision.premiere {
            premiere.asked(now, peer, index, idle);
        }
        Ok(())
    }

    /// A peer waits for a frame no more.
    pub fn cancelled(&mut self, peer: HostId, manifest: Digest, index: u32) {
        let Some(give) = self.serves.cancel(peer, manifest, index) else { return };
        let revision = self.revisions.get_mut(&manifest);
        if let Some(premiere) = revision.and_then(|revision| revision.premiere.as_mut()) {
            premiere.cancelled(peer, index);
        }
        self.outputs.push(Output::Refuse(give));
    }

    /// A frame is on the wire, or could not be given.
    pub fn given(&mut self, peer: HostId, manifest: Digest, index: u32) {
        self.serves.given(peer, manifest, index);
    }

    /// A peer gave a frame that was asked of it. It is `good` if its bytes have the frame's name and are
    /// stored.
    pub fn received(&mut self, now: Mono, peer: HostId, manifest: Digest, index: u32, good: bool) {
        let full = self.under_way() >= self.pipeline.window();
        let Some(revision) = self.revisions.get_mut(&manifest) else { return };
        let had = revision.fetch.has(index);
        if let Some(took) = revision.fetch.received(now, peer, index, good) {
            self.pipeline.answered(took, full);
        }
        if good {
            self.links.used(peer);
        }
        if !had && revision.fetch.has(index) {
            revision.news.add(index);
            revision.fetch.twins(index).iter().for_each(|twin| revision.news.add(*twin));
            revision.announce |= revision.fetch.is_done();
        }
    }

    /// A peer did not give a frame that was asked of it.
    pub fn failed(&mut self, now: Mono, peer: HostId, manifest: Digest, index: u32, why: Failure) {
        if let Some(revision) = self.revisions.get_mut(&manifest) {
            revision.fetch.failed(now, peer, index, why);
        }
    }

    /// What to do now.
    pub fn poll(&mut self, now: Mono) -> Vec<Output> {
        for revision in self.revisions.values_mut() {
            let unwanted = revision.fetch.expire(now);
            self.outputs.extend(unwanted.into_iter().map(unwant));
        }
        self.swap(now);
        self.recall(now);
        self.give(now);
        self.tell(now);
        self.ask(now);
        std::mem::take(&mut self.outputs)
    }

    /// When to poll again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        let of_revision = |revision: &Revision| {
            let premiere = revision.premiere.as_ref().and_then(Premiere::next_deadline);
            let fetch = revision.fetch.next_deadline();
            fetch.into_iter().chain(premiere).chain(revision.news.next_deadline()).min()
        };
        let revisions = self.revisions.values().filter_map(of_revision);
        let down = self.down.opens_at().filter(|_| self.is_wanting());
        revisions.chain(self.serves.next_deadline()).chain(down).chain(self.swap_at).min()
    }

    /// How far a revision is.
    pub fn progress(&self, manifest: Digest) -> Option<Progress> {
        self.revisions.get(&manifest).map(|revision| revision.fetch.progress())
    }

    /// True if all of a revision is here.
    pub fn is_done(&self, manifest: Digest) -> bool {
        self.revisions.get(&manifest).is_some_and(|revision| revision.fetch.is_done())
    }

    /// True if a frame of a revision is here.
    pub fn has(&self, manifest: Digest, index: u32) -> bool {
        self.revisions.get(&manifest).is_some_and(|revision| revision.fetch.has(index))
    }

    /// Peers that have said something of a revision that is not open: it can be had from them.
    pub fn holders(&self, manifest: Digest) -> impl Iterator<Item = HostId> {
        self.links.holders(manifest)
    }

    /// True if a revision takes part.
    pub fn is_open(&self, manifest: Digest) -> bool {
        self.revisions.contains_key(&manifest)
    }

    /// The peers that gave a bad frame of a revision, or said what cannot be.
    pub fn set_aside(&self, manifest: Digest) -> Vec<HostId> {
        let revision = self.revisions.get(&manifest);
        revision.map(|revision| revision.fetch.set_aside().collect()).unwrap_or_default()
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        let (waiting, giving) = self.serves.load();
        Load { asks: self.under_way(), waiting, giving, peers: self.links.neighbours().count() }
    }

    /// True if something is fetched.
    fn is_wanting(&self) -> bool {
        self.revisions.values().any(Revision::is_wanting)
    }

    /// Closes the revision that was asked for longest ago, of those that are here and that nobody needs.
    /// Peers hear that it can still be had.
    fn shelve_one(&mut self, now: Mono) -> bool {
        let idle = self.revisions.iter().filter(|(_, revision)| revision.is_idle(now));
        let oldest = idle.min_by_key(|(_, revision)| (revision.is_lacking(), revision.used_at));
        let Some(manifest) = oldest.map(|(manifest, _)| *manifest) else { return false };
        let Some(revision) = self.leave(manifest) else { return false };
        if self.shelved.len() < SWARM_SHELVED_MAX && revision.fetch.is_done() {
            self.shelved.insert(manifest, revision.fetch.content().frames.len());
        }
        true
    }

    fn tell_all_to(&mut self, peer: HostId) {
        for (manifest, revision) in &self.revisions {
            let holding = revision.told_to(*manifest, peer);
            self.outputs.push(Output::Send(peer, Message::Have(vec![holding])));
        }
    }

    /// Peers that wait for a place get what is free.
    fn fill_places(&mut self) {
        while let Some(peer) = self.links.admit() {
            let forgotten = self.links.take_forgotten(peer);
            for (manifest, revision) in &mut self.revisions {
                if let Some(holding) = self.links.take(peer, *manifest) {
                    // One that cannot be is of no use, now or later.
                    drop(revision.fetch.holding(peer, &holding));
                    revision.others_hold(peer);
                } else if forgotten {
                    // It says anew what it holds.
                    let nothing = Message::Have(vec![nothing_of(*manifest)]);
                    self.outputs.push(Output::Send(peer, nothing));
                }
            }
            self.tell_all_to(peer);
        }
    }

    /// Neighbours that are of no use make way for peers that may be, while there is something to fetch or
    /// to show.
    fn swap(&mut self, now: Mono) {
        let busy = |revision: &Revision| revision.is_wanting() || revision.premiere.is_some();
        if !self.links.has_spares() || !self.revisions.values().any(busy) {
            self.swap_at = None;
            return;
        }
        let swap_at = *self.swap_at.get_or_insert(now + SWARM_IDLE_MAX);
        if now < swap_at {
            return;
        }
        self.swap_at = Some(now + SWARM_IDLE_MAX);
        let at_work = self.revisions.values().flat_map(|revision| revision.fetch.at_work());
        at_work.chain(self.serves.peers()).for_each(|peer| self.links.used(peer));
        for peer in self.links.idle() {
            for (manifest, revision) in &mut self.revisions {
                if let Some(held) = revision.fetch.held(peer)
                    && let Some(said) = self.links.said(peer)
                {
                    said.keep(held.to_holding(*manifest));
                }
                revision.peer_gone(peer);
            }
            self.links.demote(peer);
            self.fill_places();
        }
    }

    fn under_way(&self) -> usize {
        self.revisions.values().map(|revision| revision.fetch.under_way()).sum()
    }

    /// Has as many revisions opened again as there is room for.
    fn recall(&mut self, now: Mono) {
        if self.recalled.is_empty() {
            return;
        }
        let idle = self.revisions.values().filter(|revision| revision.is_idle(now)).count();
        let mut room = (SWARM_REVISIONS_MAX + idle).saturating_sub(self.revisions.len());
        for manifest in std::mem::take(&mut self.recalled) {
            // One that is open takes no place from others.
            if self.revisions.contains_key(&manifest) {
                self.outputs.push(Output::Open(manifest));
            } else if room > 0 {
                room -= 1;
                self.outputs.push(Output::Open(manifest));
            } else {
                self.recalled.insert(manifest);
            }
        }
    }

    fn give(&mut self, now: Mono) {
        while let Some(give) = self.serves.next(now) {
            let revision = self.revisions.get_mut(&give.manifest);
            if let Some(premiere) = revision.and_then(|revision| revision.premiere.as_mut()) {
                premiere.out(give.index);
            }
            self.outputs.push(Output::Give(give));
        }
    }

    fn tell(&mut self, now: Mono) {
        for (peer, manifest) in std::mem::take(&mut self.to_tell) {
            if let Some(revision) = self.revisions.get(&manifest) {
                let holding = revision.told_to(manifest, peer);
                self.outputs.push(Output::Send(peer, Message::Have(vec![holding])));
            }
        }
        for (manifest, revision) in &mut self.revisions {
            revision.tell(now, *manifest, &self.links, &mut self.dice, &mut self.outputs);
        }
    }

    /// Asks for as much as may be under way. The revision with least under way comes first.
    fn ask(&mut self, now: Mono) {
        let (window, mut open) = (self.pipeline.window(), self.down.allows(now));
        let mut room = window.saturating_sub(self.under_way());
        let mut idle = BTreeSet::new();
        while room > 0 && open {
            let wanting = self
                .revisions
                .iter_mut()
                .filter(|(id, revision)| revision.is_wanting() && !idle.contains(*id));
            let Some((id, revision)) =
                wanting.min_by_key(|(_, revision)| revision.fetch.under_way())
            else {
                return;
            };
            let Some(ask) = revision.fetch.next(now, window) else {
                idle.insert(*id);
                continue;
            };
            let place = usize::try_from(ask.index).unwrap_or(usize::MAX);
            let frame = revision.fetch.content().frames.get(place);
            self.down.spend(frame.map_or(0, |frame| frame.bytes.into()));
            self.outputs.push(Output::Ask(ask));
            open = self.down.allows(now);
            room -= 1;
        }
    }
}

impl Revision {
    /// What a peer that just came is told that this host holds.
    fn told_to(&self, manifest: Digest, peer: HostId) -> Holding {
        match &self.premiere {
            Some(premiere) => premiere.shown_to(peer).to_holding(manifest),
            None => self.fetch.here_set().to_holding(manifest),
        }
    }

    /// Something of it is missing and asked for.
    fn is_wanting(&self) -> bool {
        self.fetching && !self.fetch.is_done()
    }

    /// A neighbour has said that it lacks some of it.
    fn is_lacking(&self) -> bool {
        self.lacking().next().is_some()
    }

    /// It can make way for another.
    fn is_idle(&self, now: Mono) -> bool {
        !self.is_wanting() && (!self.is_lacking() || now >= self.used_at + SWARM_REVISION_IDLE_MAX)
    }

    /// Neighbours that lack some of what is here.
    fn lacking(&self) -> impl Iterator<Item = HostId> {
        let all = self.fetch.here_set();
        self.fetch.peers().filter(move |(_, held)| *held != all).map(|(peer, _)| peer)
    }

    /// A peer is gone, or is a neighbour no more.
    fn peer_gone(&mut self, peer: HostId) {
        self.fetch.peer_gone(peer);
        if let Some(premiere) = &mut self.premiere {
            premiere.peer_gone(peer);
        }
    }

    /// Frames that a peer holds need not be sent first.
    fn others_hold(&mut self, peer: HostId) {
        if let (Some(premiere), Some(held)) = (&mut self.premiere, self.fetch.held(peer)) {
            held.iter().for_each(|frame| premiere.out(frame));
        }
    }

    fn tell(
        &mut self,
        now: Mono,
        manifest: Digest,
        links: &Links,
        dice: &mut Dice,
        out: &mut Vec<Output>,
    ) {
        if std::mem::take(&mut self.announce) {
            self.announce(manifest, links, out);
        }
        let lacking: Vec<_> = self.premiere.iter().flat_map(|_| self.lacking()).collect();
        if let Some(premiere) = &mut self.premiere {
            for (peer, frames) in premiere.show(now, &lacking, dice) {
                out.push(Output::Send(peer, Message::HaveMore { manifest, frames }));
            }
            if premiere.is_over(now, lacking.len()) {
                self.premiere = None;
                self.announce(manifest, links, out);
            }
        }
        let Some(news) = self.news.tell(now) else { return };
        for (peer, held) in self.fetch.peers() {
            // To one that holds it itself it is no news.
            let lacks = |frame: &&u32| !held.contains(**frame);
            let frames: Vec<_> = news.iter().filter(lacks).copied().collect();
            if !frames.is_empty() {
                out.push(Output::Send(peer, Message::HaveMore { manifest, frames }));
            }
        }
    }

    /// Tells everybody all that is here: also those who said that they hold it, for that may be wrong.
    fn announce(&mut self, manifest: Digest, links: &Links, out: &mut Vec<Output>) {
        self.news.clear();
        for peer in links.all() {
            let holding = self.told_to(manifest, peer);
            out.push(Output::Send(peer, Message::Have(vec![holding])));
        }
    }
}

/// What was asked of a peer is not waited for any more.
fn unwant(Ask { peer, manifest, index, .. }: Ask) -> Output {
    Output::Send(peer, Message::Unwanted { manifest, index })
}

/// It is here, and given where it is lacking.
fn nothing_of(manifest: Digest) -> Holding {
    Holding { manifest, frames: Vec::new() }
}

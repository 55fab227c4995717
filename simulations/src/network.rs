//! Virtual links: streams in order that stall and break, and now and then two of them side by side.
//!
//! A stream loses nothing while it lasts: a lost packet shows as delay. What is under way when it
//! breaks may be lost, and either end learns of it at its own time. Over a cut nothing moves: what was
//! sent waits, arrives when the cut ends, or is lost with the stream.

use groundswell_protocol::wire::Message;

use crate::{
    dice::Dice,
    plan::{DelayLaw, Micros},
};

/// One connection between two hosts.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The hosts.
    pub(crate) ends: [usize; 2],
    open: [bool; 2],
    closed: [bool; 2],
    /// When the last message towards either end arrives.
    due: [Micros; 2],
    /// What waits for a cut to end, towards either end.
    held: [Vec<Message>; 2],
}

/// All connections that there ever were, and what is cut.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: usize,
    /// By number.
    pub(crate) streams: Vec<Stream>,
    /// Those that either end still has, by pair.
    pairs: Vec<Vec<usize>>,
    /// How many faults cut the way from one host to another.
    cuts: Vec<u16>,
}

/// A message that was taken, and when it arrives.
pub(crate) struct Sent {
    /// The stream.
    pub(crate) stream: usize,
    /// The end that it goes to.
    pub(crate) towards: usize,
    /// When; none if it waits for a cut to end.
    pub(crate) at: Option<Micros>,
}

impl Network {
    /// No connections.
    pub(crate) fn new(hosts: usize) -> Self {
        let pairs = vec![Vec::new(); hosts * hosts];
        Self { hosts, streams: Vec::new(), pairs, cuts: vec![0; hosts * hosts] }
    }

    fn pair(&self, one: usize, other: usize) -> usize {
        one.min(other) * self.hosts + one.max(other)
    }

    /// True if nothing gets from one host to another.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.hosts + to] > 0
    }

    /// True if something is cut between two hosts.
    pub(crate) fn is_troubled(&self, one: usize, other: usize) -> bool {
        self.is_cut(one, other) || self.is_cut(other, one)
    }

    /// Cuts a way. Returns the streams that will not last.
    pub(crate) fn cut(&mut self, from: usize, to: usize) -> Vec<usize> {
        self.cuts[from * self.hosts + to] += 1;
        self.pairs[self.pair(from, to)].clone()
    }

    /// Ends one fault's cut. Returns what had waited, if nothing else cuts the way.
    pub(crate) fn mend(&mut self, from: usize, to: usize) -> Vec<(usize, usize, Message)> {
        let cuts = &mut self.cuts[from * self.hosts + to];
        *cuts = cuts.saturating_sub(1);
        if *cuts > 0 {
            return Vec::new();
        }
        let mut waited = Vec::new();
        for stream in self.pairs[self.pair(from, to)].clone() {
            let towards = self.streams[stream].side(to);
            let held = std::mem::take(&mut self.streams[stream].held[towards]);
            waited.extend(held.into_iter().map(|message| (stream, towards, message)));
        }
        waited
    }

    /// The streams of a pair that either end still has.
    pub(crate) fn streams_of(&self, one: usize, other: usize) -> &[usize] {
        &self.pairs[self.pair(one, other)]
    }

    /// A new connection.
    pub(crate) fn connect(&mut self, one: usize, other: usize) -> usize {
        self.streams.push(Stream {
            ends: [one, other],
            open: [false; 2],
            closed: [false; 2],
            due: [0; 2],
            held: [Vec::new(), Vec::new()],
        });
        let stream = self.streams.len() - 1;
        let pair = self.pair(one, other);
        self.pairs[pair].push(stream);
        stream
    }

    /// True if both ends have an open stream between them.
    pub(crate) fn is_connected(&self, one: usize, other: usize) -> bool {
        self.pairs[self.pair(one, other)].iter().any(|stream| {
            let stream = &self.streams[*stream];
            !stream.closed[0] && !stream.closed[1]
        })
    }

    /// True if all that is under way between the two arrives by `time`.
    pub(crate) fn is_drained_by(&self, one: usize, other: usize, time: Micros) -> bool {
        let mut streams = self.pairs[self.pair(one, other)].iter();
        streams.all(|stream| self.streams[*stream].due.iter().all(|due| *due <= time))
    }

    /// How many streams `host` has open to `peer`.
    pub(crate) fn open_at(&self, host: usize, peer: usize) -> usize {
        let open = |stream: &&usize| {
            let stream = &self.streams[**stream];
            let side = stream.side(host);
            stream.open[side] && !stream.closed[side]
        };
        self.pairs[self.pair(host, peer)].iter().filter(open).count()
    }

    /// One end learns that a stream is there. False if it is closed already.
    pub(crate) fn open(&mut self, stream: usize, side: usize) -> bool {
        let stream = &mut self.streams[stream];
        let opens = !stream.closed[side] && !stream.open[side];
        stream.open[side] |= opens;
        opens
    }

    /// One end loses a stream. True if it was open there.
    pub(crate) fn close(&mut self, stream: usize, side: usize) -> bool {
        let closing = &mut self.streams[stream];
        let was_open = closing.open[side] && !closing.closed[side];
        closing.closed[side] = true;
        closing.held = [Vec::new(), Vec::new()];
        if closing.closed == [true; 2] {
            let [one, other] = closing.ends;
            let pair = self.pair(one, other);
            self.pairs[pair].retain(|known| *known != stream);
        }
        was_open
    }

    /// True if what arrives at this end of a stream is heard.
    pub(crate) fn hears(&self, stream: usize, side: usize) -> bool {
        !self.streams[stream].closed[side]
    }

    /// Takes a message that leaves `now`; none if the sender has no stream.
    pub(crate) fn send(
        &mut self,
        now: Micros,
        from: usize,
        to: usize,
        message: &Message,
        law: &DelayLaw,
        dice: &mut Dice,
    ) -> Option<Sent> {
        let pair = self.pair(from, to);
        let usable = |stream: &&usize| {
            let stream = &self.streams[**stream];
            let side = stream.side(from);
            stream.open[side] && !stream.closed[side]
        };
        let number = *self.pairs[pair].iter().rev().find(usable)?;
        let cut = self.is_cut(from, to);
        let stream = &mut self.streams[number];
        let towards = stream.side(to);
        if cut || !stream.held[towards].is_empty() {
            stream.held[towards].push(message.clone());
            return Some(Sent { stream: number, towards, at: None });
        }
        let at = self.arrival(now, number, towards, law, dice);
        Some(Sent { stream: number, towards, at: Some(at) })
    }

    /// When a message that is sent now arrives: after all that were sent before it.
    pub(crate) fn arrival(
        &mut self,
        now: Micros,
        stream: usize,
        towards: usize,
        law: &DelayLaw,
        dice: &mut Dice,
    ) -> Micros {
        let due = &mut self.streams[stream].due[towards];
        *due = (now + law.draw(dice)).max(*due + 1);
        *due
    }

    /// A message meets a cut on its way.
    pub(crate) fn hold(&mut self, stream: usize, towards: usize, message: Message) {
        self.streams[stream].held[towards].push(message);
    }
}

impl Stream {
    /// Which end a host is.
    pub(crate) fn side(&self, host: usize) -> usize {
        usize::from(self.ends[1] == host)
    }
}

impl DelayLaw {
    /// How long one message takes.
    pub(crate) fn draw(&self, dice: &mut Dice) -> Micros {
        let throw = dice.number();
        let quick = self.base + throw % (self.spread + 1);
        match (throw >> 40) % 1000 < self.tail_permille {
            true => quick + (throw >> 20) % (self.tail_max + 1),
            false => quick,
        }
    }
}

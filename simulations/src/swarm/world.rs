//! The loop: the next event, the host that it happens to, and what that host does about it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use groundswell_protocol::{
    cbor,
    ids::{Digest, HostId},
    limits::{FETCHES_MAX, SERVES_MAX, SERVES_PER_PEER_MAX, SWARM_PEERS_MAX},
    revision::{Frame, Manifest},
    swarm::{Failure, Give, Output, Rates, Swarm},
    time::Mono,
    wire::{Call, Message},
};

use super::scenarios::{Blow, Scenario};
use crate::{dice::Dice, queue::Queue};

/// A fleet with a release at its first host.
pub(super) struct World {
    hosts: Vec<Host>,
    content: Arc<Manifest>,
    queue: Queue<Event>,
    /// What hosts have said, by the time at which it is heard: all ways are equally long.
    said: VecDeque<Said>,
    half_round_trip: u64,
    blow: Blow,
    struck: Vec<usize>,
    unfinished: usize,
    carriage: Carriage,
    control: u64,
}

struct Host {
    swarm: Swarm,
    peers: Vec<usize>,
    up: Link,
    down: Link,
    alive: bool,
    /// It gives wrong bytes.
    corrupt: bool,
    /// The frames that came with the right bytes, or were there from the start.
    verified: Vec<bool>,
    finished_at: Option<Mono>,
    /// When it is to be polled, as far as that is planned.
    wakes_at: u64,
    given: u64,
    delivered: u64,
    duplicates: u64,
}

/// One direction of a host's link.
#[derive(Clone, Copy)]
struct Link {
    bytes_per_second: u64,
    free_at: u64,
}

impl Link {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: 0 }
    }

    /// Carries bytes that are there at `from`, after all others: when the first and the last of them
    /// leave.
    fn carry(&mut self, from: u64, bytes: u32) -> (u64, u64) {
        let begins = self.free_at.max(from);
        self.free_at = begins + u64::from(bytes) * 1_000_000 / self.bytes_per_second;
        (begins, self.free_at)
    }
}

/// What a host says at one time.
struct Said {
    heard_at: u64,
    from: usize,
    letters: Vec<(usize, Letter)>,
}

enum Event {
    /// The last byte of a frame has left.
    Sent { from: usize, begun: u64, give: Give },
    /// The last byte of a frame has come.
    Came { from: usize, to: usize, index: u32 },
    /// A host's deadline.
    Wake(usize),
    /// Half of the time of one copy is over.
    HalfWay,
    /// Links to a host are gone.
    Gone(usize),
}

enum Letter {
    Message(Message),
    Ask(u32),
    Refused(u32, Failure),
}

/// Lengths of what is said, as the real encoding writes it, with what carries it.
struct Carriage {
    news: u64,
    frame: u64,
    ask: u64,
}

/// What came of it.
pub(super) struct Outcome {
    /// When each host that counts had everything, in order.
    pub(super) finished: Vec<Mono>,
    pub(super) origin_bytes: u64,
    pub(super) delivered: u64,
    pub(super) duplicates: u64,
    pub(super) control: u64,
    pub(super) degree: usize,
}

impl World {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let content = Arc::new(manifest(&mut dice.fork(1)));
        let rate = scenario.mbit * 1_000_000 / 8;
        let graph = graph(scenario.hosts, scenario.degree, &mut dice.fork(2));
        let mut hosts: Vec<Host> = graph
            .into_iter()
            .map(|peers| Host::new(peers, rate, dice.number(), content.frames.len()))
            .collect();
        let struck = match scenario.blow {
            Blow::None => Vec::new(),
            Blow::Killed | Blow::Silent => vec![1, 5, 9],
            Blow::Slow | Blow::Corrupt => vec![5],
        };
        for host in &struck {
            if scenario.blow == Blow::Slow {
                hosts[*host].up = Link::new(rate / 10);
                hosts[*host].down = Link::new(rate / 10);
            }
            hosts[*host].corrupt = scenario.blow == Blow::Corrupt;
        }
        let mut world = Self {
            hosts,
            content,
            queue: Queue::new(),
            said: VecDeque::new(),
            half_round_trip: scenario.round_trip_micros / 2,
            blow: scenario.blow,
            struck,
            unfinished: 0,
            carriage: Carriage::measure(),
            control: 0,
        };
        world.begin(rate);
        world
    }

    fn begin(&mut self, rate: u64) {
        let half = self.revision_bytes() * 1_000_000 / rate / 2;
        self.queue.plan(half, Event::HalfWay);
        for number in 0..self.hosts.len() {
            let content = self.content.clone();
            let host = &mut self.hosts[number];
            if number == 0 {
                host.verified.fill(true);
            }
            host.peers.iter().for_each(|peer| host.swarm.peer_up(host_id(*peer)));
            let opened = host.swarm.open(Mono(0), REVISION, content, |_| number == 0);
            assert!(opened, "one revision is not many");
            if number == 0 {
                host.swarm.premiere(REVISION);
            }
            self.act(number, 0);
        }
        self.unfinished = (1..self.hosts.len()).filter(|host| self.counts(*host)).count();
    }

    /// Runs until every host that counts has everything.
    pub(super) fn run(&mut self) {
        while self.unfinished > 0 {
            let heard_at = self.said.front().map_or(u64::MAX, |said| said.heard_at);
            let now = heard_at.min(self.queue.next_at().unwrap_or(u64::MAX));
            if now > GIVEN_UP_AFTER {
                return;
            }
            if heard_at > now {
                let Some((_, event)) = self.queue.next() else { return };
                self.happen(now, event);
            } else if let Some(Said { from, letters, .. }) = self.said.pop_front() {
                for (to, letter) in letters {
                    if self.hosts[to].alive {
                        self.hear(now, from, to, letter);
                    }
                }
            }
        }
    }

    fn happen(&mut self, now: u64, event: Event) {
        match event {
            Event::Sent { from, begun, give } if self.hosts[from].alive => {
                self.sent(now, from, begun, give);
            }
            Event::Came { from, to, index } if self.hosts[to].alive => {
                self.came(now, from, to, index);
            }
            Event::Wake(host) if self.hosts[host].alive => {
                self.hosts[host].wakes_at = u64::MAX;
                self.act(host, now);
            }
            Event::HalfWay => self.half_way(now),
            Event::Gone(host) => {
                for peer in self.hosts[host].peers.clone() {
                    self.hosts[peer].swarm.peer_gone(host_id(host));
                    self.act(peer, now);
                }
            }
            _ => {}
        }
    }

    fn hear(&mut self, now: u64, from: usize, to: usize, letter: Letter) {
        let (peer, at) = (host_id(from), Mono(now));
        let host = &mut self.hosts[to];
        match letter {
            Letter::Message(Message::Have(holdings)) => {
                for holding in holdings {
                    host.swarm.holding(peer, holding).expect("hosts say what can be");
                }
            }
            Letter::Message(Message::HaveMore { manifest, frames }) => {
                host.swarm.more(peer, manifest, &frames).expect("hosts say what can be");
            }
            Letter::Message(Message::Unwanted { manifest, index }) => {
                host.swarm.cancelled(peer, manifest, index);
            }
            Letter::Message(other) => unreachable!("no swarm says {other:?}"),
            Letter::Ask(index) => {
                if let Err(why) = host.swarm.asked(at, peer, REVISION, index) {
                    self.say(now, to, vec![(from, Letter::Refused(index, why))]);
                }
            }
            Letter::Refused(index, why) => host.swarm.failed(at, peer, REVISION, index, why),
        }
        self.act(to, now);
    }

    fn sent(&mut self, now: u64, from: usize, begun: u64, give: Give) {
        let bytes = self.bytes(give.index);
        self.hosts[from].given += u64::from(bytes);
        self.hosts[from].swarm.given(give.peer, REVISION, give.index);
        let to = number(give.peer);
        let way = self.half_round_trip;
        let (_, through) = self.hosts[to].down.carry(begun + way, bytes);
        self.queue.plan(through.max(now + way), Event::Came { from, to, index: give.index });
        self.act(from, now);
    }

    fn came(&mut self, now: u64, from: usize, to: usize, index: u32) {
        let bytes = u64::from(self.bytes(index));
        let good = !self.hosts[from].corrupt;
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let host = &mut self.hosts[to];
        host.delivered += bytes;
        if host.verified[place] {
            host.duplicates += bytes;
        }
        host.verified[place] |= good;
        host.swarm.received(Mono(now), host_id(from), REVISION, index, good);
        assert!(
            !host.swarm.has(REVISION, index) || host.verified[place],
            "frame {index} is at host {to} with wrong bytes"
        );
        if host.finished_at.is_none() && host.swarm.is_done(REVISION) {
            assert!(host.verified.iter().all(|verified| *verified), "host {to} has all of it");
            host.finished_at = Some(Mono(now));
            if self.counts(to) {
                self.unfinished -= 1;
            }
        }
        self.act(to, now);
    }

    fn half_way(&mut self, now: u64) {
        let after = match self.blow {
            Blow::Killed => self.half_round_trip,
            Blow::Silent => micros(SILENT_MAX),
            Blow::None | Blow::Slow | Blow::Corrupt => return,
        };
        for host in self.struck.clone() {
            self.hosts[host].alive = false;
            self.queue.plan(now + after, Event::Gone(host));
        }
    }

    /// Has a host do what it wants done, and plans when it is to be asked again.
    fn act(&mut self, number_of: usize, now: u64) {
        let outputs = self.hosts[number_of].swarm.poll(Mono(now));
        let mut letters = Vec::new();
        for output in outputs {
            match output {
                Output::Ask(ask) => {
                    let host = &self.hosts[number_of];
                    assert!(!host.swarm.has(REVISION, ask.index), "what is here is not asked for");
                    letters.push((number(ask.peer), Letter::Ask(ask.index)));
                }
                Output::Give(give) => {
                    let bytes = self.bytes(give.index);
                    let host = &mut self.hosts[number_of];
                    let place = usize::try_from(give.index).unwrap_or(usize::MAX);
                    assert!(host.verified[place], "a host gives what it has verified");
                    let (begun, ended) = host.up.carry(now, bytes);
                    self.queue.plan(ended, Event::Sent { from: number_of, begun, give });
                }
                Output::Refuse(Give { peer, index, .. }) => {
                    letters.push((number(peer), Letter::Refused(index, Failure::Busy)));
                }
                Output::Open(_) => unreachable!("one revision makes way for no other"),
                Output::Send(peer, message) => {
                    letters.push((number(peer), Letter::Message(message)));
                }
            }
        }
        self.say(now, number_of, letters);
        let host = &mut self.hosts[number_of];
        host.check();
        if let Some(at) = host.swarm.next_deadline()
            && at.0 < host.wakes_at
        {
            host.wakes_at = at.0.max(now);
            self.queue.plan(host.wakes_at, Event::Wake(number_of));
        }
    }

    fn say(&mut self, now: u64, from: usize, letters: Vec<(usize, Letter)>) {
        if letters.is_empty() {
            return;
        }
        self.control += letters.iter().map(|(_, letter)| self.carriage.of(letter)).sum::<u64>();
        self.said.push_back(Said { heard_at: now + self.half_round_trip, from, letters });
    }

    pub(super) fn outcome(&self) -> Outcome {
        let counting = (1..self.hosts.len()).filter(|host| self.counts(*host));
        let times = counting.map(|host| self.hosts[host].finished_at);
        let mut finished: Vec<_> = times.map(|at| at.unwrap_or(Mono(u64::MAX))).collect();
        finished.sort_unstable();
        Outcome {
            finished,
            origin_bytes: self.hosts[0].given,
            delivered: self.hosts.iter().map(|host| host.delivered).sum(),
            duplicates: self.hosts.iter().map(|host| host.duplicates).sum(),
            control: self.control,
            degree: self.hosts.iter().map(|host| host.peers.len()).max().unwrap_or_default(),
        }
    }

    pub(super) fn revision_bytes(&self) -> u64 {
        self.content.frames.iter().map(|frame| u64::from(frame.bytes)).sum()
    }

    fn bytes(&self, index: u32) -> u32 {
        self.content.frames[usize::try_from(index).unwrap_or(usize::MAX)].bytes
    }

    /// Whether a host is expected to have everything in the end, as quickly as others.
    fn counts(&self, host: usize) -> bool {
        matches!(self.blow, Blow::None | Blow::Corrupt) || !self.struck.contains(&host)
    }
}

impl Host {
    fn new(peers: Vec<usize>, rate: u64, seed: u64, frames: usize) -> Self {
        Self {
            swarm: Swarm::new(Rates::default(), seed),
            peers,
            up: Link::new(rate),
            down: Link::new(rate),
            alive: true,
            corrupt: false,
            verified: vec![false; frames],
            finished_at: None,
            wakes_at: u64::MAX,
            given: 0,
            delivered: 0,
            duplicates: 0,
        }
    }

    /// What must hold after every event.
    fn check(&self) {
        let load = self.swarm.load();
        assert!(load.asks <= FETCHES_MAX, "{load:?}");
        assert!(load.peers <= SWARM_PEERS_MAX, "{load:?}");
        assert!(load.waiting <= load.peers * SERVES_PER_PEER_MAX, "{load:?}");
        assert!(load.giving <= 2 * SERVES_MAX, "{load:?}");
    }
}

impl Carriage {
    fn measure() -> Self {
        let length = |bytes: Vec<u8>| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let news = |frames| {
            let message = Message::HaveMore { manifest: REVISION, frames: vec![1000; frames] };
            length(cbor::encode(&message))
        };
        let ask = length(cbor::encode(&Call::Frame { manifest: REVISION, index: 1000 }));
        Self { news: LAYERS + news(1), frame: news(2) - news(1), ask: LAYERS + ask }
    }

    fn of(&self, letter: &Letter) -> u64 {
        match letter {
            Letter::Message(Message::HaveMore { frames, .. }) => {
                self.news + self.frame * (frames.len() as u64 - 1)
            }
            Letter::Message(Message::Have(holdings)) => {
                self.news + holdings.iter().map(|holding| holding.frames.len() as u64).sum::<u64>()
            }
            Letter::Message(_) | Letter::Ask(_) | Letter::Refused(..) => self.ask,
        }
    }
}

/// About 64 MiB that cannot be compressed, cut as they would be.
fn manifest(dice: &mut Dice) -> Manifest {
    let frame = |index: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let bytes = u32::try_from(dice.between(16 << 10, 112 << 10)).unwrap_or(u32::MAX);
        Frame { hash: Digest(hash), bytes, raw_bytes: bytes }
    };
    Manifest { frames: (0..1024).map(frame).collect(), ..Manifest::default() }
}

/// Who is linked with whom: all with all, or rings through all of them in random orders.
fn graph(hosts: usize, degree: usize, dice: &mut Dice) -> Vec<Vec<usize>> {
    if degree + 1 >= hosts {
        return (0..hosts).map(|me| (0..hosts).filter(|peer| *peer != me).collect()).collect();
    }
    let mut peers = vec![Vec::new(); hosts];
    for _ in 0..degree / 2 {
        let ring = dice.some(hosts, hosts);
        for (place, host) in ring.iter().enumerate() {
            let next = ring[(place + 1) % hosts];
            peers[*host].push(next);
            peers[next].push(*host);
        }
    }
    for peers in &mut peers {
        peers.sort_unstable();
        peers.dedup();
    }
    peers
}

fn host_id(number: usize) -> HostId {
    let number = number as u64;
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..16].copy_from_slice(&number.to_be_bytes());
    HostId(id)
}

fn number(host: HostId) -> usize {
    let number = host.0[8..16].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

const REVISION: Digest = Digest([9; 32]);
/// A frame's length, Yamux's header, Noise's length and tag, and a TCP segment over IPv4 with time
/// stamps.
const LAYERS: u64 = 4 + 12 + 18 + 52;
/// After so much silence the daemon gives up a connection.
const SILENT_MAX: Duration = Duration::from_secs(15);
const GIVEN_UP_AFTER: u64 = 600 * 1_000_000;

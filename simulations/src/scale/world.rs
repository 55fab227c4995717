//! The loop: time, the wires between the hosts, and what is written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use groundswell_protocol::{
    fleet::{Number, Records, Roster, Say, Turn, Version},
    ids::{Digest, HashDomain, HostId},
    time::Mono,
};

use super::{
    bytes::Bytes,
    host::{Absence, Host, Rules, Shared, Statements, Wishes},
};

/// A fleet under virtual time.
pub(super) struct World {
    pub(super) now: Mono,
    pub(super) roster: Roster,
    pub(super) hosts: Vec<Host>,
    pub(super) bytes: Bytes,
    pub(super) dice: Dice,
    /// Of a thousand messages so many are lost.
    pub(super) lost_per_thousand: u64,
    /// Bytes that came to living hosts.
    pub(super) came_bytes: u64,
    /// Of them those of heartbeats, of offers, and of records that were asked for.
    pub(super) heartbeat_bytes: u64,
    pub(super) offer_bytes: u64,
    pub(super) record_bytes: u64,
    /// Arrivals of tracked records: when each was published, and how long each host waited.
    pub(super) tracks: Vec<(Mono, Vec<Duration>)>,
    /// What is due, by the slot of time in which it is.
    queue: BTreeMap<u64, Vec<Event>>,
    pub(super) events: u64,
}

enum Event {
    Offer(Number),
    Listen(Number),
    Letter(Number, Number, Say<Shared>),
    Told(Number, Number, bool),
    /// A connection is made, if the other one lives.
    Dialled(Number, Number),
    /// A host hears of another one that is admitted.
    Admitted(Number),
}

impl World {
    /// A fleet that knows itself: every link that ought to be is up, every view is full.
    pub(super) fn new(hosts: usize, seed: u64, rules: Rules) -> Self {
        let mut dice = Dice(seed);
        let mut roster = Roster::new();
        for number in 0..hosts {
            let parts: [&[u8]; 2] = [&seed.to_be_bytes(), &number.to_be_bytes()];
            let host = HostId(Digest::of(HashDomain::Key, &parts).0);
            roster.seat(host, None).expect("room for the fleet");
        }
        let bytes = Bytes::measure();
        let mut records = Records::new();
        let mut numbers: Vec<_> = roster.iter().collect();
        numbers.sort_unstable();
        for number in &numbers {
            let statements = Statements {
                version: Version { epoch: 1, sequence: 1 },
                accused: Vec::new(),
                bytes: bytes.record,
                urgent: false,
                track: None,
            };
            records.put(&roster, *number, Shared(Rc::new(statements)));
        }
        records.root(&roster);
        let hosts = numbers
            .into_iter()
            .map(|number| Host::new(Mono(0), number, records.clone(), rules, dice.draw()))
            .collect();
        let mut world = Self {
            now: Mono(0),
            roster,
            hosts,
            bytes,
            dice,
            lost_per_thousand: 0,
            came_bytes: 0,
            heartbeat_bytes: 0,
            offer_bytes: 0,
            record_bytes: 0,
            tracks: Vec::new(),
            queue: BTreeMap::new(),
            events: 0,
        };
        world.link_all();
        world
    }

    fn link_all(&mut self) {
        for index in 0..self.hosts.len() {
            let me = self.hosts[index].me;
            for peer in self.roster.neighbours(me, |_| false) {
                self.link_up(me, peer, &mut Wishes::default());
                self.hosts[index].overlay.told(peer, true);
            }
            let offer_in = self.dice.below(200_000);
            self.schedule(Duration::from_micros(offer_in), Event::Offer(me));
            let listen_in = self.dice.below(250_000);
            self.schedule(Duration::from_micros(listen_in), Event::Listen(me));
        }
        // One round of listening settles who is whose neighbour; nothing of it is counted.
        for index in 0..self.hosts.len() {
            let mut wishes = Wishes::default();
            for _ in 0..2 {
                self.hosts[index].listen(self.now, &self.roster, &self.bytes, &mut wishes);
            }
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        let slot = (self.now + after).0 / SLOT_MICROS;
        self.queue.entry(slot).or_default().push(event);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((slot, events)) = self.queue.pop_first() {
            let at = Mono(slot * SLOT_MICROS);
            if at >= end {
                self.queue.insert(slot, events);
                break;
            }
            self.now = self.now.max(at);
            for event in events {
                self.events += 1;
                self.happen(event);
            }
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Offer(number) => {
                if self.postpone_timer(number, Event::Offer(number)) {
                    return;
                }
                let mut wishes = Wishes::default();
                self.hosts[number.index()].offer(self.now, &self.roster, &mut wishes);
                self.carry_out(number, wishes);
                self.schedule(Duration::from_millis(200), Event::Offer(number));
            }
            Event::Listen(number) => {
                if self.postpone_timer(number, Event::Listen(number)) {
                    return;
                }
                self.listen(number);
                self.schedule(Duration::from_millis(250), Event::Listen(number));
            }
            Event::Letter(from, to, said) => self.deliver(from, to, said),
            Event::Admitted(number) => self.hosts[number.index()].roster_changed(self.now),
            Event::Told(from, to, is_neighbour) => {
                self.hosts[to.index()].overlay.told(from, is_neighbour);
            }
            Event::Dialled(from, to) => {
                let both_live = [from, to].iter().all(|host| self.hosts[host.index()].is_alive());
                if both_live && !self.hosts[from.index()].overlay.is_up(to) {
                    for (a, b) in [(from, to), (to, from)] {
                        let mut wishes = Wishes::default();
                        self.link_up(a, b, &mut wishes);
                        self.carry_out(a, wishes);
                    }
                }
            }
        }
    }

    /// True if the host is dead, or frozen and looks at the timer later.
    fn postpone_timer(&mut self, number: Number, event: Event) -> bool {
        let host = &self.hosts[number.index()];
        if !host.is_alive() {
            return true;
        }
        let Some(absence) = host.absence.filter(|a| a.frozen && a.covers(self.now)) else {
            return false;
        };
        self.schedule(absence.until.since(self.now), event);
        true
    }

    fn link_up(&mut self, host: Number, peer: Number, wishes: &mut Wishes) {
        let host = &mut self.hosts[host.index()];
        host.overlay.link_up(peer);
        let (records, letters) = (&mut host.records, &mut wishes.letters);
        host.spread.link_up(self.now, peer, &self.roster, records, letters);
    }

    fn listen(&mut self, number: Number) {
        self.hear_heartbeats(number);
        let host = &mut self.hosts[number.index()];
        let beats = host.beats(self.now) * self.bytes.heartbeat;
        self.heartbeat_bytes += beats as u64;
        self.came_bytes += beats as u64;
        let mut wishes = Wishes::default();
        host.listen(self.now, &self.roster, &self.bytes, &mut wishes);
        if let Some(swim) = &mut host.swim {
            for subject in swim.declared.drain(..) {
                host.called.entry(subject).or_insert(self.now);
            }
        } else {
            for subject in host.verdicts.unreachable(self.now) {
                host.called.entry(subject).or_insert(self.now);
            }
        }
        self.carry_out(number, wishes);
    }

    /// The newest heartbeat of each neighbour that has come so far.
    fn hear_heartbeats(&mut self, number: Number) {
        let host = &self.hosts[number.index()];
        let until = host.absence.filter(|a| a.covers(self.now)).map_or(self.now, |a| a.from);
        let came: Vec<_> = host
            .ears
            .watched()
            .filter(|peer| host.overlay.is_up(*peer))
            .filter_map(|peer| Some((peer, self.newest_heartbeat(peer, number, until)?)))
            .collect();
        for (peer, at) in came {
            self.hosts[number.index()].ears.hear(at, peer);
        }
    }

    fn newest_heartbeat(&self, from: Number, to: Number, until: Mono) -> Option<Mono> {
        let sender = &self.hosts[from.index()];
        let newest = until.0.checked_sub(sender.phase)? / 1_000_000;
        (0..4).find_map(|back| {
            let beat = newest.checked_sub(back)?;
            let sent = Mono(sender.phase + beat * 1_000_000);
            let mixed = mix(beat ^ (from.index() as u64) << 20 ^ (to.index() as u64) << 40);
            let at = sent + Duration::from_micros(DELAY_MIN + mixed % DELAY_RANGE);
            let is_sent = sender.died_at.is_none_or(|died| sent < died)
                && !sender.absence.is_some_and(|a| a.frozen && a.covers(sent));
            let is_lost = (mixed >> 32) % 1000 < self.lost_per_thousand;
            (at <= until && is_sent && !is_lost).then_some(at)
        })
    }

    fn deliver(&mut self, from: Number, to: Number, said: Say<Shared>) {
        let host = &mut self.hosts[to.index()];
        if !host.is_alive() {
            return;
        }
        if let Some(absence) = host.absence.filter(|absence| absence.covers(self.now)) {
            let wait = absence.until.since(self.now);
            return self.schedule(wait, Event::Letter(from, to, said));
        }
        let bytes = self.bytes.of(&said) as u64;
        self.came_bytes += bytes;
        host.traffic[0] += bytes;
        match &said {
            Say::Offer(_) => self.offer_bytes += bytes,
            Say::Give(_) => self.record_bytes += bytes,
            _ => {}
        }
        let mut wishes = Wishes::default();
        host.hear(self.now, &self.roster, &self.bytes, from, said, &mut wishes);
        self.carry_out(to, wishes);
    }

    fn carry_out(&mut self, from: Number, wishes: Wishes) {
        for (to, said) in wishes.letters {
            let host = &mut self.hosts[from.index()];
            host.spoke.insert(to, self.now);
            host.traffic[1] += self.bytes.of(&said) as u64;
            if self.dice.below(1000) >= self.lost_per_thousand {
                let delay = self.dice.delay();
                self.schedule(delay, Event::Letter(from, to, said));
            }
        }
        for turn in wishes.turns {
            match turn {
                // Where others are is in their records.
                Turn::Dial(to) if self.hosts[from.index()].records.get(to).is_none() => {}
                Turn::Dial(to) => {
                    let delay = self.dice.delay() + self.dice.delay();
                    self.schedule(delay, Event::Dialled(from, to));
                }
                Turn::Tell(to, is_neighbour) => {
                    self.came_bytes += self.bytes.neighbour as u64;
                    let delay = self.dice.delay();
                    self.schedule(delay, Event::Told(from, to, is_neighbour));
                }
                Turn::Close(peer) => {
                    for (a, b) in [(from, peer), (peer, from)] {
                        self.hosts[a.index()].overlay.link_down(b);
                        self.hosts[a.index()].spread.link_down(b);
                    }
                }
                Turn::DialSeed | Turn::Gossip(..) => {}
            }
        }
        for track in wishes.arrived {
            let (published_at, waits) = &mut self.tracks[track];
            waits.push(self.now.since(*published_at));
        }
    }

    /// A host's state changes; with `tracked` its way through the fleet is written down.
    pub(super) fn change(&mut self, number: Number, urgent: bool, tracked: bool) {
        let track = tracked.then_some(self.tracks.len());
        if tracked {
            self.tracks.push((self.now, Vec::new()));
        }
        let mut wishes = Wishes::default();
        let host = &mut self.hosts[number.index()];
        host.publish(self.now, &self.roster, &self.bytes, (urgent, track), &mut wishes);
        self.carry_out(number, wishes);
    }

    /// A host joins that knows nobody but `seed`. Others hear from their voters that it is admitted.
    pub(super) fn join(&mut self, seed: Number) -> Number {
        let number = self.hosts.len();
        let parts: [&[u8]; 2] = [b"joins", &number.to_be_bytes()];
        let id = HostId(Digest::of(HashDomain::Key, &parts).0);
        let me = self.roster.seat(id, None).expect("room for another host");
        assert_eq!(me.index(), number, "numbers are places");
        let draw = self.dice.draw();
        self.hosts.push(Host::new(self.now, me, Records::new(), Rules::Ours, draw));
        self.schedule(Duration::from_micros(draw % 200_000), Event::Offer(me));
        self.schedule(Duration::ZERO, Event::Listen(me));
        let way = self.dice.delay() + self.dice.delay();
        self.schedule(way, Event::Dialled(me, seed));
        for other in 0..number {
            let hears_in = Duration::from_micros(self.dice.below(FED_WITHIN_MICROS));
            self.schedule(hears_in, Event::Admitted(self.hosts[other].me));
        }
        self.change(me, false, false);
        me
    }

    /// The power of a host fails.
    pub(super) fn kill(&mut self, number: Number) {
        self.hosts[number.index()].died_at = Some(self.now);
    }

    /// Any living host.
    pub(super) fn any(&mut self) -> Number {
        loop {
            let index = self.dice.below(self.hosts.len() as u64);
            let host = &self.hosts[usize::try_from(index).expect("a small number")];
            if host.is_alive() {
                return host.me;
            }
        }
    }

    /// So many living hosts, each once.
    pub(super) fn some(&mut self, count: u32) -> Vec<Number> {
        let (mut seen, mut chosen) = (BTreeSet::new(), Vec::new());
        while chosen.len() < count as usize && chosen.len() < self.hosts.len() {
            let host = self.any();
            if seen.insert(host) {
                chosen.push(host);
            }
        }
        chosen
    }

    /// A host is overloaded from now on, for a while.
    pub(super) fn overload(&mut self, number: Number, time: Duration, frozen: bool) {
        let absence = Absence { from: self.now, until: self.now + time, frozen };
        self.hosts[number.index()].absence = Some(absence);
    }

    /// The share of living hosts in the largest part that links between the living hold together.
    pub(super) fn connected(&self) -> f64 {
        let mut seen = BTreeSet::new();
        let (mut living, mut largest) = (0, 0);
        for host in self.hosts.iter().filter(|host| host.is_alive()) {
            living += 1;
            let (mut edge, mut part) = (vec![host.me], 0);
            while let Some(number) = edge.pop() {
                if !seen.insert(number) {
                    continue;
                }
                part += 1;
                let links = self.hosts[number.index()].overlay.up();
                edge.extend(links.filter(|peer| self.hosts[peer.index()].is_alive()));
            }
            largest = largest.max(part);
        }
        f64::from(largest) / f64::from(living)
    }
}

impl Absence {
    pub(super) fn covers(&self, at: Mono) -> bool {
        self.from <= at && at < self.until
    }
}

/// Draws that come the same way each time (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(DELAY_MIN + self.below(DELAY_RANGE))
    }
}

fn mix(value: u64) -> u64 {
    let mixed = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const SLOT_MICROS: u64 = 500;
/// Voters tell those who follow them what is new within this.
const FED_WITHIN_MICROS: u64 = 500_000;
/// Half a millisecond to fifty.
const DELAY_MIN: u64 = 500;
const DELAY_RANGE: u64 = 49_500;

//! One host: the state machines of `protocol/fleet`, put together as a whole host does.

use std::{collections::BTreeMap, ops::Deref, rc::Rc, time::Duration};

use groundswell_protocol::{
    fleet::{
        Ears, Inserted, Letter, Needs, Number, Overlay, Records, Roster, Say, Spread, Statement,
        Turn, Verdicts, Version,
    },
    limits::HEARTBEAT_EVERY,
    time::Mono,
};

use super::{bytes::Bytes, eager::Eager, swim::SwimEars};

/// A host's record.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) version: Version,
    pub(super) accused: Vec<(Number, Version)>,
    pub(super) bytes: usize,
    /// It tells of a failure.
    pub(super) urgent: bool,
    /// Where its arrivals are written down.
    pub(super) track: Option<usize>,
}

/// A record that many views share.
#[derive(Clone, Debug)]
pub(super) struct Shared(pub(super) Rc<Statements>);

impl Deref for Shared {
    type Target = Statements;

    fn deref(&self) -> &Statements {
        &self.0
    }
}

impl Statement for Shared {
    fn version(&self) -> Version {
        self.version
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// By which rules hosts spread records and judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// Those of `protocol/`.
    Ours,
    /// Records are pushed to all neighbours.
    Eager,
    /// One observer's word is a verdict.
    Swim,
}

/// A host.
pub(super) struct Host {
    pub(super) me: Number,
    pub(super) records: Records<Shared>,
    pub(super) spread: Spread,
    pub(super) ears: Ears,
    pub(super) verdicts: Verdicts,
    pub(super) overlay: Overlay,
    pub(super) died_at: Option<Mono>,
    /// When its second of heartbeats begins, in microseconds.
    pub(super) phase: u64,
    /// From when to when it takes in nothing, or does nothing at all.
    pub(super) absence: Option<Absence>,
    pub(super) eager: Option<Eager>,
    pub(super) swim: Option<SwimEars>,
    /// Hosts that it has called unreachable, and when for the first time.
    pub(super) called: BTreeMap<Number, Mono>,
    /// When it last sent something to each peer.
    pub(super) spoke: BTreeMap<Number, Mono>,
    /// It publishes nothing.
    pub(super) is_quiet: bool,
    /// Bytes that it was sent and has sent, heartbeats not counted.
    pub(super) traffic: [u64; 2],
    sequence: u64,
    accused: Vec<(Number, Version)>,
    next_refutation_at: Mono,
}

/// A spell in which a host is overloaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    pub(super) from: Mono,
    pub(super) until: Mono,
    /// Its timers stand still as well.
    pub(super) frozen: bool,
}

/// What a host wants done, and what it has noticed.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) letters: Vec<Letter<Shared>>,
    pub(super) turns: Vec<Turn>,
    /// Tracked records that came.
    pub(super) arrived: Vec<usize>,
}

impl Host {
    pub(super) fn new(
        now: Mono,
        me: Number,
        records: Records<Shared>,
        rules: Rules,
        draw: u64,
    ) -> Self {
        Self {
            me,
            records,
            spread: Spread::new(now, draw),
            ears: Ears::new(now),
            verdicts: Verdicts::new(),
            overlay: Overlay::new(now, draw),
            died_at: None,
            phase: draw % 1_000_000,
            absence: None,
            eager: (rules == Rules::Eager).then(Eager::default),
            swim: (rules == Rules::Swim).then(SwimEars::default),
            called: BTreeMap::new(),
            spoke: BTreeMap::new(),
            is_quiet: false,
            traffic: [0; 2],
            sequence: 1,
            accused: Vec::new(),
            next_refutation_at: now,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.died_at.is_none()
    }

    /// How many peers get a heartbeat now, since nothing else was sent to them for long.
    pub(super) fn beats(&mut self, now: Mono) -> usize {
        let mut beats = 0;
        for peer in self.overlay.gossips() {
            let spoke = self.spoke.entry(peer).or_insert(now);
            if now.since(*spoke) >= HEARTBEAT_EVERY {
                *spoke = now;
                beats += 1;
            }
        }
        beats
    }

    /// Signs a new record and spreads it.
    pub(super) fn publish(
        &mut self,
        now: Mono,
        roster: &Roster,
        bytes: &Bytes,
        news: (bool, Option<usize>),
        wishes: &mut Wishes,
    ) {
        self.sequence += 1;
        let (urgent, track) = news;
        let record = Shared(Rc::new(Statements {
            version: Version { epoch: 1, sequence: self.sequence },
            accused: self.accused.clone(),
            bytes: bytes.record + bytes.accusation * self.accused.len(),
            urgent,
            track,
        }));
        self.put(now, roster, self.me, record, None, wishes);
        if self.eager.is_none() {
            self.spread.pass_on(&self.records, &mut wishes.letters);
        }
    }

    /// Takes in a record. True if it accuses this host.
    pub(super) fn put(
        &mut self,
        now: Mono,
        roster: &Roster,
        host: Number,
        record: Shared,
        from: Option<Number>,
        wishes: &mut Wishes,
    ) -> bool {
        let inserted = if let Some(eager) = &mut self.eager {
            eager.put(roster, &mut self.records, &self.overlay, host, &record, from)
        } else {
            // What is urgent comes by many links, and matters once.
            let is_new = self.records.judge(host, record.version()) == Inserted::New;
            let is_awaited = || self.verdicts.is_awaited(&self.records, host, &record.accused);
            let urgent = is_new && (record.urgent || is_awaited());
            let records = &mut self.records;
            self.spread.put(now, roster, records, host, record.clone(), from, urgent)
        };
        if inserted != Inserted::New {
            return false;
        }
        wishes.arrived.extend(record.track);
        self.verdicts.record(host, record.accused.clone(), false);
        self.ears.hear_of(now, host, false, false);
        record.accused.iter().any(|(accused, _)| *accused == self.me)
    }

    pub(super) fn hear(
        &mut self,
        now: Mono,
        roster: &Roster,
        bytes: &Bytes,
        from: Number,
        said: Say<Shared>,
        wishes: &mut Wishes,
    ) {
        self.ears.hear(now, from);
        let Say::Give(given) = said else {
            let (records, letters) = (&mut self.records, &mut wishes.letters);
            return self.spread.hear(now, roster, records, from, said, letters);
        };
        let mut accused = false;
        for (host, record) in given {
            accused |= self.put(now, roster, host, record, Some(from), wishes);
        }
        if self.eager.is_none() {
            self.spread.pass_on(&self.records, &mut wishes.letters);
            self.spread.ask_more(now, from, &mut wishes.letters);
        }
        if accused && now >= self.next_refutation_at {
            self.next_refutation_at = now + REFUTE_EVERY;
            self.publish(now, roster, bytes, (false, None), wishes);
        }
    }

    /// It hears that somebody has joined.
    pub(super) fn roster_changed(&mut self, now: Mono) {
        self.verdicts.roster_changed();
        self.spread.compare_soon(now);
    }

    /// Every 200 ms.
    pub(super) fn offer(&mut self, now: Mono, roster: &Roster, wishes: &mut Wishes) {
        match &mut self.eager {
            Some(eager) => eager.flush(&self.records, &mut wishes.letters),
            None => self.spread.tick(now, roster, &mut self.records, &mut wishes.letters),
        }
    }

    /// Every 250 ms, after the heartbeats of others were told to the ears.
    pub(super) fn listen(
        &mut self,
        now: Mono,
        roster: &Roster,
        bytes: &Bytes,
        wishes: &mut Wishes,
    ) {
        self.ears.tick(now, roster, self.me);
        self.verdicts.tick(now, roster, &self.records);
        let neighbours: Vec<_> = self.ears.watched().collect();
        let needs = Needs { neighbours: &neighbours, others: &[], guests: &[] };
        self.overlay.tick(now, roster, self.me, needs, &mut wishes.turns);
        for turn in &wishes.turns {
            if let Turn::Gossip(peer, gossips) = turn {
                self.spread.set_gossips(*peer, *gossips);
            }
        }
        let accused: Vec<_> = match &mut self.swim {
            Some(swim) => swim.tick(now, &self.ears, &self.records, &neighbours),
            None => self.ears.accused(roster).to_vec(),
        };
        let version = |host| Some((host, self.records.version(host)?));
        let accused: Vec<_> = accused.into_iter().filter_map(version).collect();
        if accused != self.accused && !self.is_quiet {
            self.accused = accused;
            self.publish(now, roster, bytes, (false, None), wishes);
        }
    }
}

const REFUTE_EVERY: Duration = Duration::from_secs(1);

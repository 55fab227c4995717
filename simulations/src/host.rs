//! One virtual host: a mind if it runs, a disk, a clock that is off, an executor.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use groundswell_protocol::{
    consensus::{Assured, HardState, Restored, Snapshot, VoterPolicy, Write},
    ids::HostId,
    node::{Input, LogRecord, Node, Output, Setup},
    rollout::Entry,
    time::{Mono, UnixSeconds},
    trust::{MemberCert, SecretKey, Trust},
};

use crate::{
    executor::Executor,
    plan::{Border, HostPlan, Micros, SECOND},
    world::Event,
};

/// A host.
pub(crate) struct Host {
    /// Its key's public half.
    pub(crate) id: HostId,
    /// What its key is made of.
    pub(crate) seed: [u8; 32],
    /// What was drawn for it.
    pub(crate) plan: HostPlan,
    /// Its mind.
    pub(crate) node: Option<Node>,
    /// Counts the daemon's lives: what was meant for an earlier one is lost.
    pub(crate) life: u32,
    /// Counts the executor's lives.
    pub(crate) executor_life: u32,
    /// True if the executor runs.
    pub(crate) executor_up: bool,
    /// The executor.
    pub(crate) executor: Executor,
    /// A report to the daemon is under way.
    pub(crate) report_due: bool,
    /// What survives.
    pub(crate) disk: Disk,
    /// The disk as it was when somebody took an image of it.
    pub(crate) image: Option<Box<Disk>>,
    /// The same of its executor's.
    pub(crate) executor_image: Option<Executor>,
    /// The disk that an image was put in place of.
    pub(crate) forgotten: Option<Box<Disk>>,
    /// Starts of the machine before that.
    pub(crate) forgotten_at: u64,
    /// Since when its daemon takes no part in consensus, as far as people have looked.
    pub(crate) doubtful_since: Option<Micros>,
    /// Counts the starts of the machine.
    pub(crate) boots: u64,
    /// True once it was switched on for the first time.
    pub(crate) has_joined: bool,
    /// It belongs to the fleet no more, or not yet: it is not switched on.
    pub(crate) gone: bool,
    /// Counts the certificates that it was given.
    pub(crate) incarnation: u64,
    /// True while it has power.
    pub(crate) powered: bool,
    /// Until when it stands still, and whether the executor does too.
    pub(crate) paused: Option<(Micros, bool)>,
    /// Since when it does, or did.
    pub(crate) paused_at: Micros,
    /// What happens to it meanwhile.
    pub(crate) backlog: VecDeque<Event>,
    /// What has come to its daemon, which it takes in together with what comes next.
    pub(crate) waiting: Vec<Input>,
    /// Where its daemon dies next.
    pub(crate) doomed: Option<Doom>,
    /// Nothing can be written down.
    pub(crate) disk_fails: bool,
    /// Nor by its executor.
    pub(crate) executor_disk_fails: bool,
    /// The longest that it takes to write something down.
    pub(crate) disk_takes: Micros,
    /// What it is connected by.
    pub(crate) wire: Wire,
    /// What is being written down, and what the daemon does after that.
    pub(crate) writing: Vec<Output>,
    /// Its word that it will not use a slot, which the daemon that said it has forgotten.
    pub(crate) word: Option<Box<Entry>>,
    /// The number of the last record that an impostor made up.
    pub(crate) forged: u64,
    /// The executor dies with the next slot that it writes down, for so long.
    pub(crate) executor_doomed: Option<Micros>,
    /// How far its wall clock is off, in seconds.
    pub(crate) wall_offset: i64,
    /// The last index that was compared with the truth.
    pub(crate) checked: u64,
    /// The last index that it had applied when it began with what it answers now.
    pub(crate) knew: u64,
    /// The last index that it has taken for committed in this life, and in which generation.
    pub(crate) committed: (u64, u64),
    /// The last generation and term in which it led.
    pub(crate) led: (u64, u64),
    /// The last generation and term in which it asked another voter to lead.
    pub(crate) hands_over_in: Option<(u64, u64)>,
    /// By host, the newest version of its record that the view here has had in this life.
    pub(crate) seen: Vec<(u64, u64)>,
}

/// What a host sends and is sent, beside how long that is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wire {
    /// Bytes a second; none if all that it says fits at any time.
    pub(crate) rate: Option<u64>,
    /// When it is free.
    free_at: Micros,
}

impl Wire {
    /// How long so many bytes take now, those before them included; none if too many wait already.
    pub(crate) fn takes(&mut self, now: Micros, bytes: u64) -> Option<Micros> {
        let Some(rate) = self.rate else { return Some(0) };
        let queued = self.free_at.saturating_sub(now);
        if queued > WIRE_QUEUE_BYTES * SECOND / rate {
            return None;
        }
        let waits = queued + bytes * SECOND / rate;
        self.free_at = now + waits;
        Some(waits)
    }
}

/// What may wait before a narrow wire when more comes. Real links let more wait; these fleets say less as well.
const WIRE_QUEUE_BYTES: u64 = 16 << 10;

/// A border at which a daemon dies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    /// Which.
    pub(crate) border: Border,
    /// How many pass before.
    pub(crate) skip: u32,
    /// How long the daemon is gone.
    pub(crate) down_for: Micros,
}

/// What survives the daemon.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    /// The starts that were counted.
    pub(crate) epoch: u64,
    /// What the voter knows of this disk.
    pub(crate) assured: Option<Assured>,
    /// Consensus.
    pub(crate) hard_state: HardState,
    /// The ledger's snapshot.
    pub(crate) snapshot: Option<Snapshot>,
    /// The log after it.
    pub(crate) log: BTreeMap<u64, LogRecord>,
    /// What the last snapshots replaced, until it was compared with the truth.
    pub(crate) pruned: BTreeMap<u64, LogRecord>,
    /// The certificate.
    pub(crate) cert: Option<MemberCert>,
    /// Where others are.
    pub(crate) known: BTreeMap<HostId, Vec<String>>,
}

/// What a write replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwritten {
    /// Entries that were not committed, as it may.
    Open,
    /// Nothing.
    Nothing,
}

impl Disk {
    /// Makes a step durable. What a snapshot from elsewhere replaces was applied here as far as it is
    /// so, or is the first of its kind.
    pub(crate) fn persist(
        &mut self,
        write: Write,
        is_so: impl Fn(&LogRecord) -> bool,
    ) -> Overwritten {
        let Write { hard_state, snapshot, anew, entries, assured, epoch } = write;
        self.assured = assured.or(self.assured);
        self.epoch = epoch.unwrap_or(self.epoch);
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = snapshot {
            let kept = self.log.split_off(&(snapshot.index + 1));
            let replaced = std::mem::replace(&mut self.log, kept);
            self.pruned.extend(replaced.into_iter().filter(|(_, entry)| !anew || is_so(entry)));
            if anew {
                self.log.clear();
            }
            self.snapshot = Some(snapshot);
        }
        let mut overwritten = Overwritten::Nothing;
        if let Some(first) = entries.first() {
            let replaced = self.log.split_off(&first.index);
            if !replaced.is_empty() {
                overwritten = Overwritten::Open;
            }
        }
        self.log.extend(entries.into_iter().map(|entry| (entry.index, entry)));
        overwritten
    }

    /// The entries from one index to another that are here.
    pub(crate) fn between(&self, first: u64, last: u64) -> Vec<LogRecord> {
        let indices = first..(last + 1).max(first);
        let mut here: BTreeMap<_, _> = self.pruned.range(indices.clone()).collect();
        here.extend(self.log.range(indices));
        here.into_values().cloned().collect()
    }

    /// True if this very entry is or was here.
    pub(crate) fn had(&self, index: u64, data: &[u8]) -> bool {
        self.has(index, data) || self.pruned.get(&index).is_some_and(|own| own.data == data)
    }

    /// True if what was committed at an index is here, as an entry or in the snapshot.
    pub(crate) fn has(&self, index: u64, data: &[u8]) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| snapshot.index >= index)
            || self.log.get(&index).is_some_and(|entry| entry.data == data)
    }
}

impl Host {
    /// Its disk was put back, and nobody has told it yet what it has forgotten.
    pub(crate) fn is_put_back(&self) -> bool {
        let told_at = self.disk.assured.map_or(0, |assured| assured.boot);
        self.forgotten.is_some() && told_at <= self.forgotten_at
    }

    /// A host that was never switched on.
    pub(crate) fn new(id: HostId, seed: [u8; 32], plan: HostPlan, cert: MemberCert) -> Self {
        let is_new = plan.replaces.is_some();
        Self {
            id,
            seed,
            plan,
            node: None,
            life: 0,
            executor_life: 0,
            executor_up: false,
            executor: Executor::default(),
            report_due: false,
            disk: Disk { cert: Some(cert), ..Disk::default() },
            image: None,
            executor_image: None,
            forgotten: None,
            forgotten_at: 0,
            doubtful_since: None,
            boots: 0,
            has_joined: false,
            gone: is_new,
            incarnation: u64::from(is_new),
            powered: false,
            paused: None,
            paused_at: 0,
            backlog: VecDeque::new(),
            waiting: Vec::new(),
            doomed: None,
            disk_fails: false,
            wire: Wire::default(),
            executor_disk_fails: false,
            disk_takes: 0,
            writing: Vec::new(),
            word: None,
            forged: 0,
            executor_doomed: None,
            wall_offset: 0,
            checked: 0,
            knew: 0,
            committed: (0, 0),
            led: (0, 0),
            hands_over_in: None,
            seen: Vec::new(),
        }
    }

    /// The host's own clock, which runs a little too fast or too slow.
    pub(crate) fn mono(&self, now: Micros) -> Mono {
        let drift = i128::from(now) * i128::from(self.plan.clock_ppm) / 1_000_000;
        Mono(1_000_000_000 + u64::try_from(i128::from(now) + drift).unwrap_or(0))
    }

    /// Its wall clock, which may be anywhere.
    pub(crate) fn wall(&self, now: Micros) -> UnixSeconds {
        let seconds = 1_700_000_000 + i64::try_from(now / SECOND).unwrap_or(0) + self.wall_offset;
        UnixSeconds(u64::try_from(seconds).unwrap_or(0))
    }

    /// How long a span of its own clock takes.
    pub(crate) fn span(&self, own: Micros) -> Micros {
        let rate = u64::try_from(1_000_000 + self.plan.clock_ppm).unwrap_or(1_000_000);
        own * 1_000_000 / rate
    }

    /// What a daemon that starts now wakes up with. Counts the start.
    pub(crate) fn wake(
        &mut self,
        trust: &Arc<Trust>,
        address: String,
        every: u64,
        voter_policy: VoterPolicy,
        seeds: Vec<String>,
    ) -> Setup {
        self.disk.epoch += 1;
        let entries: Vec<_> = self.disk.log.values().cloned().collect();
        Setup {
            key: SecretKey::from_seed(&self.seed),
            trust: trust.clone(),
            cert: self.disk.cert.clone().expect("a host has a certificate from the start"),
            epoch: self.disk.epoch,
            boot: self.boots,
            addresses: vec![address],
            seeds,
            known: self.disk.known.clone(),
            restored: Restored {
                hard_state: self.disk.hard_state.clone(),
                snapshot: self.disk.snapshot.clone(),
                entries,
                assured: self.disk.assured,
            },
            snapshot_every_entries: every,
            voter_policy,
            seed: u64::from(self.seed[0]) | u64::from(self.seed[1]) << 8,
            version: "simulated".into(),
        }
    }
}

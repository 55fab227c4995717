//! The loop: takes the next event, feeds the host that it is for, performs what comes of it, and
//! holds the promises against the result.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use groundswell_protocol::{
    cbor,
    consensus::{Consensus, Snapshot, Write},
    execute::{Request, Response},
    fleet::Version,
    ids::{Digest, GroupName, HostId},
    limits::TICK,
    node::{Asked, Input, LogRecord, Node, Output, Progress},
    rollout::{Entry, Ledger, Stamped, sharing},
    trust::{
        Subject, Trust,
        memo::{self, Signatures},
    },
    wire::Message,
};

use crate::{
    coverage::{Coverage, Situation},
    deceiving::Deceiving,
    dice::Dice,
    founding::{enrol, found},
    host::{Doom, Host, Overwritten},
    liveness::Mending,
    network::{Network, Sent},
    people::People,
    plan::{Border, ChoreKind, DelayLaw, Micros, Plan, SECOND},
    queue::Queue,
    recovering::Recovering,
    trace::Trace,
    truth::{Truth, Violation},
};

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A daemon's timer.
    Tick { host: usize, life: u32 },
    /// A message arrives at an end of a stream.
    Arrive { stream: usize, towards: usize, message: Box<Message> },
    /// An end learns that a stream is there.
    Open { stream: usize, side: usize },
    /// An end loses a stream.
    Close { stream: usize, side: usize },
    /// A stream that has been silent for long breaks, unless it moves again.
    Fray { stream: usize },
    /// An attempt to connect arrives.
    Knock { from: usize, life: u32, to: usize },
    /// A request comes to the executor.
    Ask { host: usize, life: u32, asked: Asked, request: Box<Request> },
    /// Its answer comes back.
    Answer { host: usize, life: u32, asked: Asked, answer: Result<Response, String> },
    /// A report comes to the daemon.
    Report { host: usize, life: u32 },
    /// An activation takes its first step.
    Begin { host: usize, life: u32, group: GroupName, due: Micros },
    /// A step of an activation is over.
    StepOver { host: usize, life: u32, group: GroupName },
    /// News of a fetch.
    Fetched { host: usize, life: u32, manifest: Digest, progress: Progress },
    /// A host is switched on, for the first time or again.
    Boot { host: usize },
    /// A daemon is started.
    StartDaemon { host: usize },
    /// A daemon that was told to stop ends.
    Stopped { host: usize, life: u32 },
    /// An executor is started.
    StartExecutor { host: usize },
    /// A host that stood still goes on.
    Resume { host: usize },
    /// A fault begins, by its place in the plan.
    Fault(usize),
    /// It ends.
    Mend(usize),
    /// What a daemon has written down rots.
    Rot { host: usize },
    /// A host has got a slot, or has begun with it.
    Holds { host: usize, begun: bool },
    /// A link that flaps is cut.
    Cut { one: usize, other: usize, lasts: Micros },
    /// It is there again.
    Uncut { one: usize, other: usize },
    /// A person does something, by its place in the plan.
    Chore(usize),
    /// A person does something that came to mind.
    Later(Box<ChoreKind>),
    /// A certificate is handed in until it counts.
    Enrol { host: usize, member: Digest },
    /// The second half of something that a person does.
    Order(Box<crate::people::Intent>),
    /// Operators let the fleet go on without voters that are lost.
    Recover,
    /// Voters are lost.
    Lose,
    /// Voters that are out of reach die.
    Die,
    /// Voters that are lost come back.
    Return,
    /// What the fleet may have lost is handed in again.
    HandInAgain,
    /// The parrot says something again.
    Parrot,
    /// A member makes something up.
    Forge,
    /// So does whoever has a host's key.
    Impostor { host: usize, until: Micros },
    /// A member hands in what another one has signed.
    Carry(Box<Entry>),
    /// Everything is mended.
    Heal,
    /// Is everything well by now?
    Look,
}

/// A run under way.
pub struct World {
    /// What was drawn.
    pub plan: Plan,
    /// True time.
    pub now: Micros,
    /// What happened.
    pub trace: Trace,
    /// What was met.
    pub coverage: Coverage,
    /// How many events there were.
    pub events: u64,
    pub(crate) queue: Queue<Event>,
    pub(crate) dice: Dice,
    pub(crate) hosts: Vec<Host>,
    pub(crate) by_id: HashMap<HostId, usize>,
    pub(crate) network: Network,
    pub(crate) trust: Arc<Trust>,
    pub(crate) truth: Truth,
    pub(crate) people: People,
    pub(crate) violation: Option<Violation>,
    pub(crate) healed: bool,
    pub(crate) is_over: bool,
    pub(crate) mending: Mending,
    /// What the parrot has heard.
    pub(crate) memory: Vec<(Message, bool)>,
    pub(crate) delay: DelayLaw,
    pub(crate) recovering: Recovering,
    pub(crate) deceiving: Deceiving,
    /// By split, what each host said of itself when it began.
    pub(crate) splits: BTreeMap<usize, Vec<Option<Version>>>,
    /// Faults that wait for the next holder.
    pub(crate) doomed_holders: Vec<usize>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The first promise that was broken, and when.
    pub violation: Option<(Micros, Violation)>,
    /// How many events there were.
    pub events: u64,
    /// The hash of all of them.
    pub hash: u64,
    /// How long it took in true time.
    pub lasted: Micros,
}

impl World {
    /// A world before its first event.
    pub fn new(plan: Plan, trace: Trace) -> Self {
        let is_real = plan.seed.is_multiple_of(REAL_SIGNATURES_EVERY);
        memo::remember(if is_real { Signatures::Real } else { Signatures::StandIns });
        sharing::share();
        let mut dice = Dice::new(plan.seed ^ 0xd1ce);
        let (trust, enrolment) = found(&plan);
        let hosts = (0..plan.hosts.len()).map(|index| enrol(&plan, &trust, &enrolment, index));
        let hosts: Vec<_> = hosts.collect();
        let by_id = hosts.iter().enumerate().map(|(index, host)| (host.id, index)).collect();
        let mut world = Self {
            network: Network::new(hosts.len()),
            truth: Truth::new(trust.clone()),
            people: People::new(dice.fork(1)),
            delay: plan.delay.clone(),
            dice,
            now: 0,
            trace,
            coverage: Coverage::default(),
            events: 0,
            queue: Queue::new(),
            hosts,
            by_id,
            trust,
            violation: None,
            healed: false,
            is_over: false,
            mending: Mending::default(),
            memory: Vec::new(),
            recovering: Recovering::default(),
            deceiving: Deceiving::default(),
            splits: BTreeMap::new(),
            doomed_holders: Vec::new(),
            plan,
        };
        if world.plan.is_large {
            world.settle();
        }
        world.plan_all();
        world
    }

    fn plan_all(&mut self) {
        for (host, plan) in self.plan.hosts.iter().enumerate() {
            self.queue.plan(plan.joins_at, Event::Boot { host });
        }
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.queue.plan(fault.at, Event::Fault(index));
        }
        for (index, chore) in self.plan.chores.iter().enumerate() {
            self.queue.plan(chore.at, Event::Chore(index));
        }
        if self.plan.parrot.is_some() {
            self.queue.plan(5 * SECOND, Event::Parrot);
        }
        if self.plan.forger.is_some() {
            self.queue.plan(5 * SECOND, Event::Forge);
        }
        self.queue.plan(self.plan.heal_at, Event::Heal);
    }

    /// Runs to the end, or to the first broken promise.
    pub fn run(&mut self) -> Ended {
        while self.step() {}
        Ended {
            violation: self.violation.clone().map(|violation| (self.now, violation)),
            events: self.events,
            hash: self.trace.hash(),
            lasted: self.now,
        }
    }

    /// Takes the next event; false if the run is over.
    pub(crate) fn step(&mut self) -> bool {
        if self.violation.is_some() || self.is_over {
            return false;
        }
        let Some((at, event)) = self.queue.next() else { return false };
        self.now = self.now.max(at);
        self.truth.now = self.now;
        self.events += 1;
        self.happen(event);
        true
    }

    /// From now on messages take so long.
    pub(crate) fn set_delay(&mut self, delay: DelayLaw) {
        self.delay = delay;
    }

    /// Notes the first broken promise.
    pub(crate) fn hold(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked
            && self.violation.is_none()
        {
            let (promise, what) = (violation.promise, violation.what.clone());
            self.trace.say(self.now, || format!("BROKEN {promise}: {what}"));
            self.violation = Some(violation);
        }
    }

    pub(crate) fn fail(&mut self, promise: &'static str, what: String) {
        self.hold(Err(Violation { promise, what }));
    }

    fn happen(&mut self, event: Event) {
        if let Some(host) = self.stands_still(&event) {
            self.hosts[host].backlog.push_back(event);
            return;
        }
        match event {
            Event::Tick { host, life } => self.tick(host, life),
            Event::Arrive { stream, towards, message } => self.arrive(stream, towards, message),
            Event::Open { stream, side } => self.open(stream, side),
            Event::Close { stream, side } => self.close(stream, side),
            Event::Fray { stream } => self.fray(stream),
            Event::Knock { from, life, to } => self.knock(from, life, to),
            Event::Ask { host, life, asked, request } => self.ask(host, life, asked, &request),
            Event::Answer { host, life, asked, answer } => {
                if self.hosts[host].life == life {
                    self.trace.mix(&[6, host as u64]);
                    self.feed(host, Input::Executed(asked, answer));
                }
            }
            Event::Report { host, life } => self.report(host, life),
            Event::Begin { host, life, group, due } => self.begin(host, life, &group, due),
            Event::StepOver { host, life, group } => self.step_over(host, life, &group),
            Event::Fetched { host, life, manifest, progress } => {
                if self.hosts[host].life == life {
                    self.feed(host, Input::Revision(manifest, progress));
                }
            }
            Event::Boot { host } => self.boot(host),
            Event::StartDaemon { host } => self.start_daemon(host),
            Event::Stopped { host, life } => {
                if self.hosts[host].life == life {
                    self.kill_daemon(host, false);
                }
            }
            Event::StartExecutor { host } => self.start_executor(host),
            Event::Resume { host } => self.resume(host),
            Event::Fault(index) => self.fault(index),
            Event::Mend(index) => self.mend(index),
            Event::Rot { host } => self.rot(host),
            Event::Holds { host, begun } => self.holder_is_hit(host, begun),
            Event::Cut { one, other, lasts } => self.cut_pair(one, other, Some(lasts)),
            Event::Uncut { one, other } => self.cut_pair(one, other, None),
            Event::Chore(index) => self.chore(index),
            Event::Order(intent) => self.intend(&intent),
            Event::Later(kind) => self.do_chore(&kind),
            Event::Enrol { host, member } => self.enrol_again(host, member),
            Event::Recover => self.recover(),
            Event::Lose => self.lose_majority(),
            Event::Die => self.kill_majority(),
            Event::Return => self.give_back_majority(),
            Event::HandInAgain => self.hand_in_again(),
            Event::Parrot => self.parrot(),
            Event::Forge => self.forge(),
            Event::Impostor { host, until } => self.impostor(host, until),
            Event::Carry(entry) => self.carry(*entry),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
        }
    }

    /// The host that an event is for, if that host stands still.
    fn stands_still(&self, event: &Event) -> Option<usize> {
        let (host, of_executor) = match event {
            Event::Tick { host, .. }
            | Event::Answer { host, .. }
            | Event::Report { host, .. }
            | Event::Fetched { host, .. } => (*host, false),
            Event::Ask { host, .. } | Event::Begin { host, .. } | Event::StepOver { host, .. } => {
                (*host, true)
            }
            Event::Arrive { stream, towards, .. } => {
                (self.network.streams[*stream].ends[*towards], false)
            }
            Event::Open { stream, side } | Event::Close { stream, side } => {
                (self.network.streams[*stream].ends[*side], false)
            }
            _ => return None,
        };
        let (_, whole) = self.hosts[host].paused?;
        (whole || !of_executor).then_some(host)
    }

    // --- a daemon ---

    fn tick(&mut self, host: usize, life: u32) {
        if self.hosts[host].life != life || self.hosts[host].node.is_none() {
            return;
        }
        let late = self.sluggish(host);
        let own = u64::try_from(TICK.as_micros()).unwrap_or(0);
        let next = self.now + self.hosts[host].span(own) + late;
        self.queue.plan(next, Event::Tick { host, life });
        self.feed(host, Input::Tick);
    }

    /// Feeds a daemon, performs what it wants, and looks at what it has become.
    pub(crate) fn feed(&mut self, host: usize, input: Input) {
        let (mono, wall) = (self.hosts[host].mono(self.now), self.hosts[host].wall(self.now));
        let waits = matches!(input, Input::Message(..)) && self.dice.permille(WAITS_PERMILLE);
        let target = &mut self.hosts[host];
        let Some(node) = &mut target.node else { return };
        // A daemon that was waiting for its disk takes in together what has come meanwhile; so does one that
        // stands still, whatever people ask it.
        target.waiting.push(input);
        if waits || target.paused.is_some() {
            return;
        }
        let inputs = std::mem::take(&mut target.waiting);
        target.knew = node.ledger().applied_index();
        let deceiving = &self.deceiving;
        let outputs = catch_unwind(AssertUnwindSafe(|| {
            deceiving.handle_all(host, node, (mono, wall), inputs)
        }));
        match outputs {
            Ok(outputs) => self.perform(host, outputs),
            Err(panic) => self.panicked(host, &*panic),
        }
    }

    pub(crate) fn panicked(&mut self, host: usize, panic: &(dyn std::any::Any + Send)) {
        if self.is_in_doubt(host) {
            // The library ends the process where it finds that it was wrong.
            return self.scrap(host);
        }
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        self.fail("F7", format!("host {host} panicked: {}", text.unwrap_or_default()));
    }

    pub(crate) fn perform(&mut self, host: usize, outputs: Vec<Output>) {
        let life = self.hosts[host].life;
        self.trace.mix(&[self.now, host as u64, outputs.len() as u64]);
        let mut wrote = false;
        let mut outputs = outputs.into_iter();
        while let Some(output) = outputs.next() {
            let borders = borders_of(&output);
            if let Some((before, after)) = borders {
                if before == Border::BeforePersist && self.hosts[host].disk_takes > 0 {
                    return self.write_slowly(host, [output].into_iter().chain(outputs).collect());
                }
                if self.dies_at(host, before) {
                    self.note_death(before, wrote);
                    return;
                }
                if before == Border::BeforePersist && self.hosts[host].disk_fails {
                    // What cannot be made durable ends the process: nothing after it may happen.
                    self.coverage.met(Situation::DiskFailed);
                    self.kill_daemon(host, false);
                    self.queue.plan(self.now + 3 * SECOND, Event::StartDaemon { host });
                    return;
                }
                wrote |= before == Border::BeforePersist;
                self.perform_one(host, output);
                if self.dies_at(host, after) {
                    self.note_death(after, wrote);
                    return;
                }
            } else {
                self.perform_one(host, output);
            }
        }
        if self.hosts[host].life == life {
            self.judge(host);
        }
    }

    /// What is to be written down, and all that is to happen after it, waits for the disk; so does
    /// whatever comes meanwhile.
    fn write_slowly(&mut self, host: usize, outputs: Vec<Output>) {
        let target = &mut self.hosts[host];
        let takes = self.dice.between(1_000, target.disk_takes);
        if target.node.as_ref().and_then(Node::consensus).is_some_and(Consensus::is_leading) {
            self.coverage.met(Situation::DiskWasSlow);
        }
        target.writing = outputs;
        if target.paused.is_none() {
            target.paused = Some((self.now + takes, false));
            self.queue.plan(self.now + takes, Event::Resume { host });
        }
    }

    /// What a daemon was writing down is on its disk, and it goes on.
    pub(crate) fn written(&mut self, host: usize) {
        let outputs = std::mem::take(&mut self.hosts[host].writing);
        if !outputs.is_empty() {
            let takes = std::mem::take(&mut self.hosts[host].disk_takes);
            self.perform(host, outputs);
            self.hosts[host].disk_takes = takes;
        }
    }

    fn note_death(&mut self, border: Border, wrote: bool) {
        self.coverage.met(match border {
            Border::BeforePersist => Situation::DaemonDiedBeforePersist,
            Border::AfterPersist => Situation::DaemonDiedBetweenPersistAndSend,
            Border::BeforeSend if wrote => Situation::DaemonDiedBetweenPersistAndSend,
            _ => Situation::DaemonDiedBetweenSends,
        });
    }

    /// True if the daemon has just died, at this border.
    fn dies_at(&mut self, host: usize, border: Border) -> bool {
        let Some(doom) = &mut self.hosts[host].doomed else { return false };
        if doom.border != border {
            return false;
        }
        if doom.skip > 0 {
            doom.skip -= 1;
            return false;
        }
        let Doom { down_for, .. } = *doom;
        self.hosts[host].doomed = None;
        self.trace.say(self.now, || format!("host {host} dies {border:?}"));
        self.kill_daemon(host, false);
        self.queue.plan(self.now + down_for, Event::StartDaemon { host });
        true
    }

    fn perform_one(&mut self, host: usize, output: Output) {
        match output {
            Output::Persist(write) => self.persist(host, write),
            Output::Send(to, message) => self.send(host, to, message),
            Output::Dial(address) => {
                let to = address.strip_prefix("host ").and_then(|to| to.parse().ok());
                if let Some(to) = to.map(|to| self.found_at(to)) {
                    let at = self.now + self.delay.draw(&mut self.dice) + self.sluggish(host);
                    let life = self.hosts[host].life;
                    self.queue.plan(at, Event::Knock { from: host, life, to });
                }
            }
            Output::Execute(asked, request) => {
                self.trace.say(self.now, || format!("host {host} asks {:?}", asked.kind));
                let at = self.now + self.dice.between(50, self.plan.executor_delay_max);
                let life = self.hosts[host].life;
                self.queue.plan(at, Event::Ask { host, life, asked, request });
            }
            Output::TellVoters(lists) => {
                if self.hosts[host].executor_up {
                    let trust = self.trust.clone();
                    self.hosts[host].executor.learn(&trust, &lists);
                    self.report_soon(host);
                }
            }
            Output::Fetch { manifest, .. } => {
                let life = self.hosts[host].life;
                let takes = self.dice.between(10_000, 1_500_000);
                let progress = match self.dice.permille(30) && !self.healed {
                    true => Progress::Troubled("no peer has it".into()),
                    false => Progress::Complete,
                };
                let event = Event::Fetched { host, life, manifest, progress };
                self.queue.plan(self.now + takes, event);
            }
            Output::Submitted(_, outcome) => {
                self.trace.say(self.now, || format!("host {host} answers {outcome:?}"));
            }
            Output::Certificate(cert) => self.hosts[host].disk.cert = Some(cert),
            Output::Known(other, addresses) => {
                let known = &mut self.hosts[host].disk.known;
                match addresses.is_empty() {
                    true => {
                        known.remove(&other);
                        self.view_forgot(host, other);
                    }
                    false => drop(known.insert(other, addresses)),
                }
            }
            Output::Close(peer) => self.part(host, self.by_id[&peer]),
            Output::Roster => {}
            Output::Note(text) => self.trace.say(self.now, || format!("host {host}: {text}")),
        }
    }

    fn persist(&mut self, host: usize, write: Write) {
        if self.is_in_doubt(host) {
            self.hosts[host].disk.persist(write, |_| true);
            return;
        }
        let Write { hard_state, snapshot, anew, assured, epoch, .. } = &write;
        if epoch.is_some() {
            self.coverage.met(match self.hosts[host].forged {
                0 => Situation::OwnRecordMet,
                _ => Situation::KeyStolen,
            });
        }
        if assured.is_some_and(|assured| assured.term > 0) && self.hosts[host].forgotten.is_some() {
            self.coverage.met(Situation::VoterAssured);
        }
        let disk = &self.hosts[host].disk;
        let generation = |snapshot: &Option<Snapshot>| {
            let ledger = snapshot.as_ref().map(|s| Ledger::restore(self.trust.clone(), &s.state));
            ledger.and_then(Result::ok).map_or(0, |l| l.electorate().newest().generation())
        };
        let begins = *anew && generation(snapshot) > generation(&disk.snapshot);
        if let Some(new) = hard_state.as_ref().filter(|_| !begins) {
            let old = &disk.hard_state;
            let (o, n) = ((old.term, old.vote), (new.term, new.vote));
            let goes_back = n.0 < o.0;
            let votes_twice = n.0 == o.0 && o.1 != 0 && n.1 != o.1;
            if new.commit < old.commit {
                let (new, old) = (new.commit, old.commit);
                self.fail("C7", format!("host {host} writes commit index {new} over {old}"));
                return;
            }
            if goes_back || votes_twice {
                self.fail("C7", format!("host {host} writes term and vote {n:?} over {o:?}"));
                return;
            }
        }
        if let (Some(new), Some(old)) = (snapshot, &disk.snapshot)
            && new.index < old.index
        {
            let (new, old) = (new.index, old.index);
            self.fail("C7", format!("host {host} writes snapshot {new} over {old}"));
            return;
        }
        if let Some(snapshot) = snapshot.as_ref().filter(|_| begins) {
            self.note_recovery(snapshot);
        }
        let left = self.is_left(host);
        if left {
            self.truth.turn();
        }
        self.persist_on(host, write, begins);
        if left {
            self.truth.turn();
        }
    }

    /// What a host writes down, beside what is agreed on.
    fn persist_on(&mut self, host: usize, write: Write, begins: bool) {
        let Write { snapshot, entries, .. } = &write;
        if self.plans_to_go(host, entries) {
            self.fail("V2", format!("host {host} leads and plans to be replaced"));
            return;
        }
        let disk = &self.hosts[host].disk;
        for entry in entries {
            let Some(committed) = self.truth.entry(entry.index) else { continue };
            let had = disk.log.get(&entry.index).is_some_and(|old| old.data == committed.data);
            if had && entry.data != committed.data {
                let index = entry.index;
                self.fail("C6", format!("host {host} overwrites the committed entry {index}"));
                return;
            }
        }
        let fresh = snapshot.is_some() && entries.is_empty();
        let behind = snapshot.as_ref().is_some_and(|s| {
            s.index
                > disk
                    .log
                    .keys()
                    .next_back()
                    .copied()
                    .unwrap_or(0)
                    .max(disk.snapshot.as_ref().map_or(0, |s| s.index))
        });
        if fresh && behind {
            let voters = self.truth.ledger.electorate().newest();
            let is_voter = voters.is_voter(self.hosts[host].id);
            if begins && is_voter && disk.hard_state.term > 0 {
                self.coverage.met(Situation::VoterLeftBehind);
            }
            if self.truth.ledger.next_voters().is_some() {
                self.coverage.met(Situation::SnapshotWithVotersPlanned);
            }
            self.coverage.met(match is_voter {
                true => Situation::SnapshotInstalledOnVoter,
                false => Situation::SnapshotInstalledOnFollower,
            });
        }
        let truth = &self.truth;
        let is_so = |entry: &LogRecord| {
            truth.entry(entry.index).is_none_or(|known| known.data == entry.data)
        };
        if self.hosts[host].disk.persist(write, is_so) == Overwritten::Open {
            self.coverage.met(Situation::EntryReplaced);
        }
    }

    /// True if a leader writes down a list of voters of its own making that it is not in.
    fn plans_to_go(&self, host: usize, entries: &[LogRecord]) -> bool {
        let (id, consensus) = (self.hosts[host].id, self.node(host).and_then(Node::consensus));
        let Some(leads) = consensus.filter(|own| own.is_leading()) else { return false };
        let own = entries.iter().filter(|entry| entry.term == leads.term());
        own.filter_map(|entry| Stamped::from_bytes(&entry.data).ok()).any(|own| match own.entry {
            Entry::NextVoters(next) => next.voters.iter().all(|voter| voter.host != id),
            _ => false,
        })
    }

    fn send(&mut self, host: usize, to: HostId, message: Message) {
        let Some(to) = self.by_id.get(&to).copied() else { return };
        if let Message::Receipt(receipt) = &message
            && let Ok(receipt) = receipt.verify_host(self.trust.fleet())
            && let Subject::Slot { .. } = receipt.content().subject
        {
            let content = receipt.content().clone();
            // It may have been given before what came together with its request.
            let (left, knew) = (self.truth.is_left(content.generation), self.hosts[host].knew);
            let checked = self.truth.on(left, |truth| truth.vouches(&content, knew));
            // Whoever went astray vouches for anything. It is one of several.
            if !self.is_in_doubt(host) {
                self.hold(checked);
            }
        }
        if self.plan.parrot == Some(host) {
            self.learn(&message);
        }
        if !self.takes_another_way(host, &message) {
            self.post(host, to, message);
        }
    }

    /// Puts a message on the way.
    pub(crate) fn post(&mut self, host: usize, to: usize, message: Message) {
        let Some(queued) = self.squeeze(host, to, &message) else { return };
        // What waits before a wire, or on a slow host, is late by that alone: it stays in order.
        let leaves = self.now + queued + self.sluggish(host);
        let (law, dice) = (&self.delay, &mut self.dice);
        let sent = self.network.send(leaves, host, to, &message, law, dice);
        if let Some(Sent { stream, towards, at: Some(at) }) = sent {
            self.break_under(host, to, stream, &message);
            let message = Box::new(message);
            self.queue.plan(at, Event::Arrive { stream, towards, message });
        }
    }

    /// Where two connections overlap the one breaks, now and then, over which a voter is told of a snapshot:
    /// neither side sees a link go, and the word is lost.
    fn break_under(&mut self, host: usize, to: usize, stream: usize, message: &Message) {
        let overlap = self.network.streams_of(host, to).len() > 1 && !self.healed;
        if !overlap || !matches!(message, Message::Consensus(_)) {
            return;
        }
        let leads = self.node(host).and_then(Node::consensus);
        let told = leads.is_some_and(|own| own.snapshots_under_way().contains(&self.hosts[to].id));
        if told && self.dice.permille(600) {
            (0..2).for_each(|side| self.queue.plan(self.now, Event::Close { stream, side }));
        }
    }

    /// How long a message waits before narrow wires. Where it does not fit any more the link breaks.
    fn squeeze(&mut self, host: usize, to: usize, message: &Message) -> Option<Micros> {
        let ends = [host, to];
        if ends.iter().all(|end| self.hosts[*end].wire.rate.is_none()) {
            return Some(0);
        }
        let (now, bytes) = (self.now, cbor::encode(message).len() as u64);
        let [out, into] = ends.map(|end| self.hosts[end].wire.takes(now, bytes));
        let Some((out, into)) = out.zip(into) else {
            self.coverage.met(Situation::QueueFull);
            for stream in self.network.streams_of(host, to).to_vec() {
                self.break_stream(stream);
            }
            return None;
        };
        Some(out.max(into))
    }

    pub(crate) fn sluggish(&mut self, host: usize) -> Micros {
        match self.hosts[host].plan.sluggish {
            0 => 0,
            _ if self.healed => 0,
            most => self.dice.between(0, most),
        }
    }
}

/// One seed of so many is run with real signatures.
const REAL_SIGNATURES_EVERY: u64 = 8;
/// How many of a thousand messages wait for the next one, or for the next tick.
const WAITS_PERMILLE: u64 = 60;

/// The borders round an output at which a daemon may die.
fn borders_of(output: &Output) -> Option<(Border, Border)> {
    match output {
        Output::Persist { .. } => Some((Border::BeforePersist, Border::AfterPersist)),
        Output::Send(..) => Some((Border::BeforeSend, Border::AfterSend)),
        Output::Execute(..) => Some((Border::BeforeExecute, Border::AfterExecute)),
        _ => None,
    }
}

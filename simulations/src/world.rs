//! The loop: takes the next event, feeds the host that it is for, performs what comes of it, and
//! holds the promises against the result.

use std::{
    collections::BTreeMap,
    num::NonZeroU8,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use groundswell_protocol::{
    consensus::{Consensus, Snapshot, Write},
    execute::{Request, Response},
    ids::{Digest, FleetName, GroupName, HostId, HostName, LabelText, Labels},
    limits::TICK,
    node::{Asked, Input, LogRecord, Node, Output, Progress},
    rollout::{Entry, Ledger},
    time::UnixSeconds,
    trust::{
        Genesis, Member, MemberCert, Role, Roles, Root, SecretKey, Signed, Signer, Subject, Trust,
        TrustBundle, Voter,
    },
    wire::Message,
};

use crate::{
    coverage::{Coverage, Situation},
    dice::Dice,
    executor::{Answered, Asker, Luck, Progressed, Step},
    host::{Doom, Host, Overwritten},
    liveness::Mending,
    network::Network,
    people::People,
    plan::{Border, DelayLaw, Micros, Plan, SECOND},
    queue::Queue,
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
    Begin { host: usize, life: u32, group: GroupName },
    /// A step of an activation is over.
    StepOver { host: usize, life: u32, group: GroupName },
    /// News of a fetch.
    Fetched { host: usize, life: u32, manifest: Digest, progress: Progress },
    /// A host is switched on, for the first time or again.
    Boot { host: usize },
    /// A daemon is started.
    StartDaemon { host: usize },
    /// An executor is started.
    StartExecutor { host: usize },
    /// A host that stood still goes on.
    Resume { host: usize },
    /// A fault begins, by its place in the plan.
    Fault(usize),
    /// It ends.
    Mend(usize),
    /// A person does something, by its place in the plan.
    Chore(usize),
    /// A person stops what runs in a group of the plan.
    Stop { group: usize },
    /// The second half of something that a person does.
    Order(Box<crate::people::Intent>),
    /// The parrot says something again.
    Parrot,
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
    pub(crate) by_id: BTreeMap<HostId, usize>,
    pub(crate) network: Network,
    pub(crate) trust: Arc<Trust>,
    pub(crate) truth: Truth,
    pub(crate) people: People,
    pub(crate) violation: Option<Violation>,
    pub(crate) healed: bool,
    pub(crate) is_over: bool,
    pub(crate) mending: Mending,
    /// What the parrot has heard.
    memory: Vec<(Message, bool)>,
    delay: DelayLaw,
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
        groundswell_protocol::trust::memo::remember();
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
            plan,
        };
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
        self.queue.plan(self.plan.heal_at, Event::Heal);
    }

    /// Runs to the end, or to the first broken promise.
    pub fn run(&mut self) -> Ended {
        while self.violation.is_none() && !self.is_over {
            let Some((at, event)) = self.queue.next() else { break };
            self.now = self.now.max(at);
            self.events += 1;
            self.happen(event);
        }
        Ended {
            violation: self.violation.clone().map(|violation| (self.now, violation)),
            events: self.events,
            hash: self.trace.hash(),
            lasted: self.now,
        }
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
            Event::Begin { host, life, group } => self.begin(host, life, &group),
            Event::StepOver { host, life, group } => self.step_over(host, life, &group),
            Event::Fetched { host, life, manifest, progress } => {
                if self.hosts[host].life == life {
                    self.feed(host, Input::Revision(manifest, progress));
                }
            }
            Event::Boot { host } => self.boot(host),
            Event::StartDaemon { host } => self.start_daemon(host),
            Event::StartExecutor { host } => self.start_executor(host),
            Event::Resume { host } => self.resume(host),
            Event::Fault(index) => self.fault(index),
            Event::Mend(index) => self.mend(index),
            Event::Chore(index) => self.chore(index),
            Event::Order(intent) => self.intend(&intent),
            Event::Stop { group } => {
                if let Some(desk) = self.desk().filter(|_| !self.healed) {
                    self.stop(desk, group);
                }
            }
            Event::Parrot => self.parrot(),
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
        let Some(node) = &mut self.hosts[host].node else { return };
        let outputs = catch_unwind(AssertUnwindSafe(|| node.handle(mono, wall, input)));
        match outputs {
            Ok(outputs) => self.perform(host, outputs),
            Err(panic) => self.panicked(host, &*panic),
        }
    }

    fn panicked(&mut self, host: usize, panic: &(dyn std::any::Any + Send)) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        self.fail("F7", format!("host {host} panicked: {}", text.unwrap_or_default()));
    }

    fn perform(&mut self, host: usize, outputs: Vec<Output>) {
        let life = self.hosts[host].life;
        self.trace.mix(&[self.now, host as u64, outputs.len() as u64]);
        let mut wrote = false;
        for output in outputs {
            let borders = borders_of(&output);
            if let Some((before, after)) = borders {
                if self.dies_at(host, before) {
                    self.note_death(before, wrote);
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
                if let Some(to) = to {
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
                self.hosts[host].disk.known.insert(other, addresses);
            }
            // What nobody needs stays open here: links are what faults are about.
            Output::Roster | Output::Close(_) => {}
            Output::Note(text) => self.trace.say(self.now, || format!("host {host}: {text}")),
        }
    }

    fn persist(&mut self, host: usize, write: Write) {
        let Write { hard_state, snapshot, anew, entries } = &write;
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

    fn send(&mut self, host: usize, to: HostId, message: Message) {
        let Some(to) = self.by_id.get(&to).copied() else { return };
        if let Message::Receipt(receipt) = &message
            && let Ok(receipt) = receipt.verify_host(self.trust.fleet())
            && let Subject::Slot { .. } = receipt.content().subject
        {
            let content = receipt.content().clone();
            let checked = self.truth.vouches(&content);
            self.hold(checked);
        }
        if self.plan.parrot == Some(host) {
            self.learn(&message);
        }
        self.post(host, to, message);
    }

    /// Puts a message on the way.
    fn post(&mut self, host: usize, to: usize, message: Message) {
        let (law, now) = (&self.delay, self.now);
        let sent = self.network.send(now, host, to, &message, law, &mut self.dice);
        if let Some(sent) = sent
            && let Some(at) = sent.at
        {
            let late = self.sluggish(host);
            let (stream, towards, message) = (sent.stream, sent.towards, Box::new(message));
            // A slow host is slow as a whole: what it says stays in order.
            let at = if late == 0 {
                at
            } else {
                self.network.arrival(
                    at + late,
                    stream,
                    towards,
                    &DelayLaw { base: 0, spread: 0, tail_permille: 0, tail_max: 0 },
                    &mut self.dice,
                )
            };
            self.queue.plan(at, Event::Arrive { stream, towards, message });
        }
    }

    fn sluggish(&mut self, host: usize) -> Micros {
        match self.hosts[host].plan.sluggish {
            0 => 0,
            _ if self.healed => 0,
            most => self.dice.between(0, most),
        }
    }

    /// Holds the promises against a host that has just done something.
    fn judge(&mut self, host: usize) {
        self.judge_applied(host);
        let Some(node) = &self.hosts[host].node else { return };
        let Some(consensus) = node.consensus() else { return };
        let (leads, term) = (consensus.is_leading(), (consensus.generation(), consensus.term()));
        // Whoever heard of a vote relies on it that the voter remembers.
        let (mind, disk) = (consensus.hard_state(), &self.hosts[host].disk.hard_state);
        if (mind.term, mind.vote) != (disk.term, disk.vote) {
            self.fail("C7", format!("host {host} has not written its term and vote"));
            return;
        }
        if leads && self.hosts[host].led != term {
            self.hosts[host].led = term;
            let disk = &self.hosts[host].disk;
            let has = |entry: &groundswell_protocol::consensus::LogEntry| {
                disk.has(entry.index, &entry.data)
            };
            let led = self.truth.leads(self.hosts[host].id, term, has);
            if led == Ok(true) {
                self.trace.say(self.now, || format!("host {host} leads in term {term:?}"));
                self.note_new_leader(host);
            }
            self.hold(led.map(drop));
        }
    }

    fn note_new_leader(&mut self, host: usize) {
        let committed = self.truth.applied();
        let open = self.hosts.iter().flat_map(|host| host.disk.log.range(committed + 1..));
        let is_grant = |data: &[u8]| {
            groundswell_protocol::rollout::Stamped::from_bytes(data)
                .is_ok_and(|stamped| matches!(stamped.entry, Entry::Grant(_)))
        };
        if open.into_iter().any(|(_, entry)| is_grant(&entry.data)) {
            self.coverage.met(Situation::LeaderChangedWithGrantOpen);
        }
        let leads = |other: &Host| {
            other.node.as_ref().and_then(Node::consensus).is_some_and(Consensus::is_leading)
        };
        let others = (0..self.hosts.len()).filter(|other| *other != host);
        if others.into_iter().any(|other| leads(&self.hosts[other])) {
            self.coverage.met(Situation::MinorityLeaderBelieved);
        }
    }

    /// What a host has applied since it was last looked at is what everybody applies.
    fn judge_applied(&mut self, host: usize) {
        let Some(node) = &self.hosts[host].node else { return };
        let (applied, checked) = (node.ledger().applied_index(), self.hosts[host].checked);
        if applied == checked {
            return;
        }
        if applied < checked {
            self.fail("C7", format!("host {host} had applied {checked}, and now {applied}"));
            return;
        }
        for index in checked + 1..=applied {
            let Some(entry) = self.hosts[host].disk.entry(index).cloned() else { continue };
            let voters = self.truth.ledger.electorate().newest();
            let need = voters.majority();
            let hosts = voters.hosts().map(|voter| &self.hosts[self.by_id[&voter]]);
            let copies = hosts.filter(|host| {
                host.disk.has(index, &entry.data)
                    || host.disk.pruned.get(&index).is_some_and(|own| own.data == entry.data)
            });
            let copies = copies.count();
            let fresh = index > self.truth.applied();
            let checked = self.truth.applied_by(&entry, || (copies, need));
            if fresh {
                self.stop_at_grant(&entry.data);
                self.trace.say(self.now, || {
                    format!("committed {index}: {}", committed_text(&entry.data))
                });
            }
            self.hold(checked);
        }
        self.hosts[host].checked = applied;
        self.hosts[host].disk.pruned.clear();
        let Some(node) = &self.hosts[host].node else { return };
        let sampled = applied % 4 == 0 || applied - checked > 1;
        let is_same = match self.truth.hash_at(applied) {
            Some(hash) if sampled => node.ledger().state_hash() == hash,
            Some(_) => true,
            None => false,
        };
        let sound = catch_unwind(AssertUnwindSafe(|| node.check_invariants()));
        if let Err(panic) = sound {
            self.panicked(host, &*panic);
        }
        if !is_same {
            self.fail("C4", format!("host {host} has another state at index {applied}"));
        }
        for situation in self.truth.met() {
            self.coverage.met(situation);
        }
    }

    /// People who wait for the worst moment to stop a deployment.
    fn stop_at_grant(&mut self, data: &[u8]) {
        if !committed_text(data).starts_with("grant") {
            return;
        }
        for group in self.people.stop_now() {
            let at = self.now + self.dice.between(0, 400_000);
            self.queue.plan(at, Event::Stop { group });
        }
    }

    /// A host's view after records came.
    fn judge_view(&mut self, host: usize) {
        let Some(node) = &self.hosts[host].node else { return };
        let mut news = Vec::new();
        let mut checked = Ok(());
        for record in node.view().iter() {
            let version = (record.epoch, record.sequence);
            let seen = self.hosts[host].seen.get(&record.host).copied().unwrap_or_default();
            if version < seen {
                let what = format!("host {host} went back to {version:?} from {seen:?}");
                checked = Err(Violation { promise: "F1", what });
            }
            if version > seen {
                let said = groundswell_protocol::cbor::encode(record);
                news.push((record.host, version, Digest::of_content(&said)));
            }
        }
        let bounded = node.view().iter().count() <= self.hosts.len();
        for (other, version, id) in news {
            self.hosts[host].seen.insert(other, version);
            if checked.is_ok() {
                checked = self.truth.says(other, version, id);
            }
        }
        self.hold(checked);
        if !bounded {
            self.fail("F3", format!("host {host} knows more hosts than there are"));
        }
    }

    // --- links ---

    fn arrive(&mut self, stream: usize, towards: usize, message: Box<Message>) {
        let ends = self.network.streams[stream].ends;
        let (from, to) = (ends[1 - towards], ends[towards]);
        if !self.network.hears(stream, towards) {
            return;
        }
        if self.network.is_cut(from, to) {
            self.network.hold(stream, towards, *message);
            return;
        }
        if self.plan.parrot == Some(to) {
            self.learn(&message);
        }
        let has_records = matches!(*message, Message::Records(_));
        self.trace.mix(&[1, from as u64, to as u64, kind_of(&message)]);
        if self.trace.is_spoken() && !matches!(*message, Message::Heartbeat) {
            self.trace.say(self.now, || format!("{from} -> {to}: {}", describe(&message)));
        }
        let id = self.hosts[from].id;
        self.feed(to, Input::Message(id, *message));
        if has_records {
            self.judge_view(to);
        }
    }

    fn open(&mut self, stream: usize, side: usize) {
        let ends = self.network.streams[stream].ends;
        let (host, peer) = (ends[side], ends[1 - side]);
        if self.hosts[host].node.is_none() || !self.network.open(stream, side) {
            return;
        }
        match self.network.open_at(host, peer) {
            1 => {
                self.trace.mix(&[2, host as u64, peer as u64]);
                self.trace.say(self.now, || format!("host {host}: link to {peer} is up"));
                self.feed(host, Input::LinkUp(self.hosts[peer].id));
            }
            _ => self.coverage.met(Situation::SecondConnection),
        }
    }

    fn close(&mut self, stream: usize, side: usize) {
        let ends = self.network.streams[stream].ends;
        let (host, peer) = (ends[side], ends[1 - side]);
        if self.network.close(stream, side)
            && self.hosts[host].node.is_some()
            && self.network.open_at(host, peer) == 0
        {
            self.trace.mix(&[3, host as u64, peer as u64]);
            self.trace.say(self.now, || format!("host {host}: link to {peer} is down"));
            self.feed(host, Input::LinkDown(self.hosts[peer].id));
        }
    }

    /// Both ends lose a stream, each at its own time.
    pub(crate) fn break_stream(&mut self, stream: usize) {
        for side in 0..2 {
            let at = self.now + self.dice.between(0, 2 * SECOND);
            self.queue.plan(at, Event::Close { stream, side });
        }
    }

    fn fray(&mut self, stream: usize) {
        let [one, other] = self.network.streams[stream].ends;
        let still = |host: usize| self.hosts[host].paused.is_some();
        if self.network.is_troubled(one, other) || still(one) || still(other) {
            self.break_stream(stream);
        }
    }

    fn knock(&mut self, from: usize, life: u32, to: usize) {
        let up = |host: usize| self.hosts[host].node.is_some() && self.hosts[host].paused.is_none();
        let comes = self.hosts[from].life == life && up(from) && up(to);
        if !comes || self.network.is_troubled(from, to) || from == to {
            return;
        }
        let again = self.dice.permille(self.plan.second_connection_permille);
        if self.network.is_connected(from, to) && !again {
            return;
        }
        if !self.admits(to, from) || !self.admits(from, to) {
            return;
        }
        let stream = self.network.connect(from, to);
        for side in 0..2 {
            let at = self.now + self.delay.draw(&mut self.dice);
            self.queue.plan(at, Event::Open { stream, side });
        }
    }

    /// What the gate of a daemon says of a peer. One that is not counted yet is handed on.
    fn admits(&mut self, host: usize, peer: usize) -> bool {
        let id = self.hosts[peer].id;
        let Some(node) = &self.hosts[host].node else { return false };
        let is_young = node.ledger().members().next().is_none();
        if node.ledger().is_member(id) || is_young || self.trust.genesis().names(id) {
            return true;
        }
        if let Some(cert) = self.hosts[peer].disk.cert.clone() {
            self.feed(host, Input::Applicant(cert));
        }
        false
    }

    // --- the parrot ---

    fn learn(&mut self, message: &Message) {
        let worth = matches!(
            message,
            Message::Submit { .. }
                | Message::Records(_)
                | Message::Stop(_)
                | Message::Receipt(_)
                | Message::Consensus(_)
        );
        let late = matches!(message, Message::Submit { .. });
        let room = if late { 400 } else { 100 };
        if worth && self.memory.len() < room && self.dice.permille(300) {
            self.memory.push((message.clone(), late));
        }
    }

    fn parrot(&mut self) {
        let Some(parrot) = self.plan.parrot.filter(|_| !self.healed) else { return };
        let at = self.now + self.dice.between(50_000, 800_000);
        self.queue.plan(at, Event::Parrot);
        if self.memory.is_empty() || self.hosts[parrot].node.is_none() {
            return;
        }
        // Submissions matter most: half of what it says again is one.
        let submissions: Vec<_> =
            (0..self.memory.len()).filter(|index| self.memory[*index].1).collect();
        let index = match submissions.is_empty() || self.dice.permille(500) {
            true => self.dice.index(self.memory.len()),
            false => *self.dice.pick(&submissions),
        };
        let message = self.memory[index].0.clone();
        if let Message::Submit(entry) = &message {
            match **entry {
                Entry::Done(_) => self.coverage.met(Situation::ReplayedDone),
                Entry::Order(_) => self.coverage.met(Situation::ReplayedOrder),
                _ => {}
            }
        }
        let to = match self.dice.permille(500) {
            true => self.dice.index(self.plan.voters),
            false => self.dice.index(self.hosts.len()),
        };
        if to != parrot {
            self.post(parrot, to, message);
        }
    }

    // --- the executor ---

    fn ask(&mut self, host: usize, life: u32, asked: Asked, request: &Request) {
        let at = self.now + self.dice.between(50, self.plan.executor_delay_max);
        if !self.hosts[host].executor_up {
            let answer = Err("swell-exec cannot be reached".into());
            self.queue.plan(at, Event::Answer { host, life, asked, answer });
            return;
        }
        if self.is_stubborn(host, &asked, request) {
            let answer = Ok(Response::Refused { reason: "the order's time is over".into() });
            self.queue.plan(at, Event::Answer { host, life, asked, answer });
            return;
        }
        let stage_fails = matches!(request, Request::Stage(_))
            && !self.healed
            && self.dice.permille(self.plan.stage_fails_permille);
        let target = &mut self.hosts[host];
        let (now, wall) = (target.mono(self.now), target.wall(self.now));
        let asker = Asker { trust: &self.trust, host: target.id, now, wall };
        let answered = target.executor.answer(&asker, request, &mut self.dice, stage_fails);
        let response = match answered {
            Answered::Only(response) => response,
            Answered::Begun(response, group) => {
                let life = self.hosts[host].executor_life;
                let begins = self.now + self.dice.between(10, 300_000);
                self.queue.plan(begins, Event::Begin { host, life, group });
                if let Some(down_for) = self.hosts[host].executor_doomed.take() {
                    self.kill_executor(host);
                    self.queue.plan(self.now + down_for, Event::StartExecutor { host });
                }
                response
            }
        };
        self.note_answer(host, &asked, &response);
        let takes = match request {
            Request::Stage(_) => self.dice.between(1_000, 500_000),
            _ => 0,
        };
        let answer = Ok(response);
        self.queue.plan(at + takes, Event::Answer { host, life, asked, answer });
        self.report_soon(host);
    }

    /// True if the executor of this host will not begin with this release, whoever vouches for it.
    fn is_stubborn(&self, host: usize, asked: &Asked, request: &Request) -> bool {
        let begins = matches!(request, Request::Activate { .. })
            && self.hosts[host].executor.working(&asked.group).is_none()
            && !self.hosts[host].executor.has_begun(&asked.group);
        let throw = u64::from(asked.release.0[1]) << 32 | host as u64;
        begins && !self.healed && Dice::new(throw).permille(self.plan.stubborn_permille)
    }

    fn note_answer(&mut self, host: usize, asked: &Asked, response: &Response) {
        use groundswell_protocol::node::AskedKind;
        self.trace.mix(&[5, host as u64]);
        let Response::Refused { reason } = response else { return };
        self.trace.say(self.now, || format!("host {host}: {:?} refused: {reason}", asked.kind));
        match asked.kind {
            AskedKind::Stage => self.coverage.met(Situation::StageRefused),
            AskedKind::Activate(_)
                if reason.contains("too old") || reason.contains("no number") =>
            {
                self.coverage.met(Situation::ReceiptsTooOld);
            }
            _ => {}
        }
    }

    pub(crate) fn report_soon(&mut self, host: usize) {
        if std::mem::replace(&mut self.hosts[host].report_due, true) {
            return;
        }
        let at = self.now + self.dice.between(50, 50_000);
        let life = self.hosts[host].life;
        self.queue.plan(at, Event::Report { host, life });
    }

    fn report(&mut self, host: usize, life: u32) {
        self.hosts[host].report_due = false;
        if self.hosts[host].life != life {
            // It was meant for the daemon before; this one gets its own.
            if self.hosts[host].node.is_some() {
                self.report_soon(host);
            }
            return;
        }
        let report =
            self.hosts[host].executor_up.then(|| self.hosts[host].executor.report(&self.trust));
        self.feed(host, Input::Executor(report));
    }

    fn begin(&mut self, host: usize, life: u32, group: &GroupName) {
        if self.hosts[host].executor_life != life || !self.hosts[host].executor_up {
            return;
        }
        let Some(activation) = self.hosts[host].executor.working(group) else { return };
        let (token, release) = (activation.token, activation.release);
        let fresh = matches!(activation.step, Step::Forward(0));
        self.trace.mix(&[7, host as u64, token]);
        self.trace.say(self.now, || format!("host {host} acts on slot {token} in {group}"));
        if !fresh {
            self.coverage.met(Situation::InterruptedWentOn);
        }
        let checked = self.truth.disturbs(self.hosts[host].id, token, release);
        self.hold(checked);
        self.next_step(host, life, group.clone());
    }

    fn next_step(&mut self, host: usize, life: u32, group: GroupName) {
        let takes = self.dice.between(1_000, self.plan.step_max);
        self.queue.plan(self.now + takes, Event::StepOver { host, life, group });
    }

    fn step_over(&mut self, host: usize, life: u32, group: &GroupName) {
        if self.hosts[host].executor_life != life || !self.hosts[host].executor_up {
            return;
        }
        let Some(activation) = self.hosts[host].executor.working(group) else { return };
        let luck = self.luck(host, activation.release);
        let progressed = self.hosts[host].executor.advance(group, luck);
        self.trace.mix(&[8, host as u64, progressed as u64]);
        match progressed {
            Progressed::Goes => self.next_step(host, life, group.clone()),
            Progressed::Succeeded | Progressed::Restored | Progressed::Broken => {
                self.trace.say(self.now, || format!("host {host} ends in {group}: {progressed:?}"));
                let works = progressed != Progressed::Broken;
                self.truth.rests(self.hosts[host].id, group, works);
                match progressed {
                    Progressed::Restored => self.coverage.met(Situation::RestoredHost),
                    Progressed::Broken => self.coverage.met(Situation::BrokenHost),
                    _ => {}
                }
            }
        }
        self.report_soon(host);
    }

    /// What a release does on a host: always the same.
    fn luck(&mut self, host: usize, release: Digest) -> Luck {
        let restores = self.healed || !self.dice.permille(self.plan.restore_fails_permille);
        Luck { fails_at: self.people.fails_at(release, host), restores }
    }

    // --- life and death ---

    fn boot(&mut self, host: usize) {
        if self.hosts[host].powered {
            return;
        }
        self.trace.mix(&[9, host as u64]);
        self.hosts[host].powered = true;
        if !std::mem::replace(&mut self.hosts[host].has_joined, true) && self.people.has_deployed()
        {
            self.coverage.met(Situation::LateHostJoined);
        }
        let (one, other) = (self.dice.between(0, SECOND), self.dice.between(0, SECOND));
        self.queue.plan(self.now + one, Event::StartExecutor { host });
        self.queue.plan(self.now + other, Event::StartDaemon { host });
    }

    pub(crate) fn start_daemon(&mut self, host: usize) {
        if !self.hosts[host].powered || self.hosts[host].node.is_some() {
            return;
        }
        let (mono, wall) = (self.hosts[host].mono(self.now), self.hosts[host].wall(self.now));
        let every = self.plan.snapshot_every;
        let seeds = (0..self.plan.voters.min(2)).map(|seed| format!("host {seed}")).collect();
        let (policy, address) = (self.plan.voter_policy, format!("host {host}"));
        let setup = self.hosts[host].wake(&self.trust, address, every, policy, seeds);
        let born = catch_unwind(AssertUnwindSafe(|| Node::new(mono, wall, setup)));
        let (node, outputs) = match born {
            Ok(Ok(born)) => born,
            Ok(Err(error)) => return self.fail("F7", format!("host {host}: {error}")),
            Err(panic) => return self.panicked(host, &*panic),
        };
        self.trace.say(self.now, || format!("host {host} starts"));
        let target = &mut self.hosts[host];
        target.life += 1;
        target.node = Some(node);
        // What it applied before it is compared anew.
        (target.checked, target.led) = (0, (0, 0));
        target.seen.clear();
        target.report_due = false;
        let life = target.life;
        self.perform(host, outputs);
        self.report_soon(host);
        let first = self.now + self.dice.between(0, 100_000);
        self.queue.plan(first, Event::Tick { host, life });
    }

    pub(crate) fn start_executor(&mut self, host: usize) {
        let target = &mut self.hosts[host];
        if target.powered && !target.executor_up {
            target.executor_up = true;
            target.executor_life += 1;
            self.report_soon(host);
        }
    }

    /// The daemon dies. Its peers learn of it at once, unless the whole machine went.
    pub(crate) fn kill_daemon(&mut self, host: usize, silently: bool) {
        if self.hosts[host].node.take().is_none() {
            return;
        }
        self.trace.mix(&[10, host as u64]);
        self.trace.say(self.now, || format!("host {host}: the daemon dies"));
        self.hosts[host].life += 1;
        // What was written and not yet compared is compared when it starts again.
        self.hosts[host].doomed = None;
        for peer in 0..self.hosts.len() {
            for stream in self.network.streams_of(host, peer).to_vec() {
                let side = self.network.streams[stream].side(host);
                self.network.close(stream, side);
                let soon = match silently || self.network.is_cut(host, peer) {
                    true => self.dice.between(3 * SECOND, 18 * SECOND),
                    false => self.dice.between(100, 500_000),
                };
                self.queue.plan(self.now + soon, Event::Close { stream, side: 1 - side });
            }
        }
    }

    pub(crate) fn kill_executor(&mut self, host: usize) {
        let target = &mut self.hosts[host];
        if !std::mem::replace(&mut target.executor_up, false) {
            return;
        }
        target.executor_life += 1;
        let at_work: Vec<_> = target
            .executor
            .journal
            .keys()
            .filter_map(|group| target.executor.working(group).map(|held| held.token))
            .collect();
        target.executor.crash();
        let id = target.id;
        for token in at_work {
            self.coverage.met(match self.truth.is_disturbed_by(id, token) {
                true => Situation::HolderDiedInLifecycle,
                false => Situation::HolderDiedBetweenTokenAndAction,
            });
        }
        self.report_soon(host);
    }
}

/// The borders round an output at which a daemon may die.
fn borders_of(output: &Output) -> Option<(Border, Border)> {
    match output {
        Output::Persist { .. } => Some((Border::BeforePersist, Border::AfterPersist)),
        Output::Send(..) => Some((Border::BeforeSend, Border::AfterSend)),
        Output::Execute(..) => Some((Border::BeforeExecute, Border::AfterExecute)),
        _ => None,
    }
}

/// The key of a role or a host.
pub(crate) fn seed_of(number: usize) -> [u8; 32] {
    let mut seed = [0x5e; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    seed
}

/// The keys of people, which are no host's.
pub(crate) fn person(number: usize) -> SecretKey {
    SecretKey::from_seed(&seed_of(1_000_000 + number))
}

/// Founds the fleet of a plan.
fn found(plan: &Plan) -> (Arc<Trust>, SecretKey) {
    let (root, enrolment) = (person(0), person(3));
    let role = |key: &SecretKey| Role { keys: vec![key.public_key()], threshold: NonZeroU8::MIN };
    let roles = Roles {
        root: role(&root),
        release: role(&person(1)),
        operator: role(&person(2)),
        enrolment: role(&enrolment),
    };
    let name = FleetName::new("simulated").expect("a good name");
    let document = Root { name, roles, version: 1, review_by: UnixSeconds(u64::MAX) };
    let mut voters: Vec<_> = (0..plan.voters)
        .map(|number| Voter {
            host: SecretKey::from_seed(&seed_of(number)).public_key().into(),
            name: HostName::new(format!("h{number}")).expect("a good name"),
        })
        .collect();
    voters.sort();
    let genesis = Genesis { voters, generation: 0 };
    let (fleet, bundle) =
        TrustBundle::found(&document, &genesis, &[&root]).expect("the fleet is well formed");
    let trust = Trust::new(bundle, Some(fleet)).expect("the fleet is well formed");
    (Arc::new(trust), enrolment)
}

/// Makes a host with its certificate.
fn enrol(plan: &Plan, trust: &Trust, enrolment: &SecretKey, index: usize) -> Host {
    let seed = seed_of(index);
    let id = HostId::from(SecretKey::from_seed(&seed).public_key());
    let host = &plan.hosts[index];
    let labels = [("a", host.a), ("b", host.b)];
    let member = Member {
        host: id,
        name: HostName::new(format!("h{index}")).expect("a good name"),
        zone: None,
        labels: labels_of(&labels),
        not_after: UnixSeconds(u64::MAX),
        incarnation: 0,
    };
    let member = Signed::new(&member, trust.fleet(), &[enrolment]).expect("a key in memory signs");
    Host::new(id, seed, host.clone(), MemberCert { token: None, member, receipts: Vec::new() })
}

/// Labels as the protocol has them.
pub(crate) fn labels_of(pairs: &[(&str, u8)]) -> Labels {
    let text = |text: String| LabelText::new(text).expect("a good label");
    let pairs = pairs.iter().map(|(key, value)| (text((*key).into()), text(value.to_string())));
    Labels::new(pairs.collect()).expect("good labels")
}

fn kind_of(message: &Message) -> u64 {
    match message {
        Message::Heartbeat => 0,
        Message::Records(records) => 100 + records.len() as u64,
        Message::Offer(versions) => 1000 + versions.len() as u64,
        Message::RecordTree(_) => 15,
        Message::RecordBuckets(_) => 16,
        Message::Neighbour(_) => 17,
        Message::WantRecords(_) => 3,
        Message::Consensus(bytes) => 10_000 + bytes.len() as u64,
        Message::Submit(_) => 4,
        Message::Submitted { .. } => 5,
        Message::Ledger { first, .. } => 100_000 + first,
        Message::WantLedger { .. } => 6,
        Message::HaveSnapshot { .. } => 7,
        Message::WantSnapshot { .. } => 8,
        Message::Snapshot(_) => 9,
        Message::WantReceipt { .. } => 10,
        Message::WantAdmission { .. } => 11,
        Message::Receipt(_) => 12,
        Message::Stop(_) => 13,
        Message::Have(_) => 14,
        Message::VotersKnown(_) => 18,
        Message::VoterLists(_) => 19,
    }
}

/// A message in a few words.
fn describe(message: &Message) -> String {
    match message {
        Message::Records(records) => format!("{} records", records.len()),
        Message::Consensus(bytes) => format!("consensus, {} bytes", bytes.len()),
        Message::Submit(entry) => format!("submits {}", entry_text(entry)),
        Message::Submitted { outcome, .. } => format!("answers a submission: {outcome:?}"),
        Message::Ledger { first, entries, applied, .. } => {
            format!("ledger from {first}, {} entries of {applied}", entries.len())
        }
        Message::WantReceipt { token, .. } => format!("wants a receipt for slot {token}"),
        Message::Receipt(_) => "receipt".into(),
        Message::Snapshot(part) => format!("part of snapshot {}", part.index),
        other => format!("{other:?}").chars().take(80).collect(),
    }
}

fn committed_text(data: &[u8]) -> String {
    match groundswell_protocol::rollout::Stamped::from_bytes(data) {
        Ok(stamped) => entry_text(&stamped.entry),
        Err(_) => "the mark of a term".into(),
    }
}

/// An entry in a few words.
pub(crate) fn entry_text(entry: &Entry) -> String {
    match entry {
        Entry::Admit(_) => "admit".into(),
        Entry::Group(_) => "group".into(),
        Entry::Release(_) => "release".into(),
        Entry::Order(_) => "order".into(),
        Entry::Want(_) => "want".into(),
        Entry::Grant(grant) => format!("grant to {}", grant.host.short()),
        Entry::Done(done) => match done.unverified_claim() {
            Ok(claim) => claim.split_whitespace().collect::<Vec<_>>().join(" "),
            Err(_) => "done".into(),
        },
        Entry::Remove(_) => "remove".into(),
        Entry::Passed(_) => "time has passed".into(),
        Entry::NextVoters(list) => {
            let voters: Vec<_> = list.voters.iter().map(|voter| voter.name.as_str()).collect();
            format!("next voters, generation {}: {}", list.generation, voters.join(" "))
        }
        Entry::Counted(_) => "counted".into(),
        Entry::Vouch(_) => "a voter signs the next list".into(),
        Entry::Health { host, healthy } => format!("health of {}: {healthy}", host.short()),
    }
}

//! A virtual `swell-exec`: the rules of the real one, with steps that only take time.
//!
//! It believes nobody: every document is verified, receipts must be those of a majority for one entry
//! and for the number that was drawn here, no older than the limit by this host's own clock. What the
//! real one writes down before it acts is in [`Executor::journal`], and survives; what it only
//! remembers does not.

use std::collections::{BTreeMap, BTreeSet};

use groundswell_protocol::{
    execute::{
        ActivationReport, Evidence, GroupReport, LifecycleEvent, Phase, Report, Request, Response,
        Stopped, is_done_with, was_lost,
    },
    ids::{Digest, GroupName, HostId, Nonce, ReleaseLabel},
    limits::RECEIPT_AGE_MAX,
    time::{Mono, UnixSeconds},
    trust::{Action, Electorate, Order, Outcome, Receipt, Signed, Subject, Trust},
};

use crate::dice::Dice;

/// The executor of one host.
#[derive(Debug, Default)]
pub struct Executor {
    /// What is on disk.
    pub journal: BTreeMap<GroupName, GroupState>,
    /// Groups in which a thread is at work.
    running: BTreeSet<GroupName>,
    prepared: Option<Prepared>,
    /// Who votes, as far as it was told. On disk as well.
    electorate: Option<Electorate>,
    version: u64,
    /// Groups whose activation was ended where it stood.
    given_up: Vec<GroupName>,
    /// It took up a chain whose first orders nobody keeps any more.
    has_missed_orders: bool,
}

/// What is written down of one group.
#[derive(Clone, Debug)]
pub struct GroupState {
    sequence: u64,
    head: Digest,
    /// The orders that may be followed, oldest first. To begin with one gives up those before it.
    deploys: Vec<Signed<Order>>,
    stopped: Vec<Stopped>,
    released: Vec<u64>,
    /// The last slot that was used and closed.
    closed: u64,
    current: Option<(Digest, ReleaseLabel)>,
    staged: Vec<Digest>,
    /// The slot in use.
    pub activation: Option<Activation>,
}

impl Default for GroupState {
    fn default() -> Self {
        Self {
            sequence: 0,
            head: Digest::ZERO,
            deploys: Vec::new(),
            stopped: Vec::new(),
            released: Vec::new(),
            closed: 0,
            current: None,
            staged: Vec::new(),
            activation: None,
        }
    }
}

/// A slot in use.
#[derive(Clone, Debug)]
pub struct Activation {
    /// Which slot.
    pub token: u64,
    order: Digest,
    deploy: Signed<Order>,
    /// What it brings.
    pub release: Digest,
    label: ReleaseLabel,
    before: Option<(Digest, ReleaseLabel)>,
    /// How far it is.
    pub step: Step,
}

/// How far an activation is.
#[derive(Clone, Debug)]
pub enum Step {
    /// This event of the new revision, by its place.
    Forward(usize),
    /// This event of the restoration, and the failure that led to it.
    Back(usize, Box<Outcome>),
    /// Over.
    Ended(Outcome),
}

#[derive(Clone, Debug)]
struct Prepared {
    group: GroupName,
    order: Digest,
    release: Digest,
    nonce: Nonce,
    at: Mono,
}

/// Who asks, and by which clock.
pub struct Asker<'a> {
    /// What the host believes.
    pub trust: &'a Trust,
    /// The host.
    pub host: HostId,
    /// Its own clock.
    pub now: Mono,
    /// Its wall clock.
    pub wall: UnixSeconds,
}

/// What became of a request.
pub enum Answered {
    /// That, and nothing more.
    Only(Response),
    /// That, and an activation is at work in this group: its first step follows.
    Begun(Response, GroupName),
}

/// What a release does on this host.
#[derive(Clone, Copy, Debug)]
pub struct Luck {
    /// The event that fails, by its place.
    pub fails_at: Option<usize>,
    /// Whether going back succeeds.
    pub restores: bool,
}

/// What the last step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progressed {
    /// Another one follows.
    Goes,
    /// The new revision runs.
    Succeeded,
    /// It failed, and the old one runs.
    Restored,
    /// Nothing runs.
    Broken,
}

impl Executor {
    /// The process died. What is in the journal stays.
    pub fn crash(&mut self) {
        self.running.clear();
        self.prepared = None;
        self.version = 0;
    }

    /// The process starts, and reads what is in the journal.
    pub fn open(&mut self) {
        for group in self.journal.keys().cloned().collect::<Vec<_>>() {
            self.end_released(&group);
        }
    }

    /// Ends an activation whose slot an operator released and that no thread works on. The host is
    /// left as it is.
    fn end_released(&mut self, group: &GroupName) {
        if self.running.contains(group) {
            return;
        }
        let Some(state) = self.journal.get_mut(group) else { return };
        let released = &state.released;
        let Some(held) = state.activation.as_mut().filter(|a| released.contains(&a.token)) else {
            return;
        };
        let (Step::Forward(at) | Step::Back(at, _)) = held.step else { return };
        held.step = Step::Ended(failure(at));
        state.current = None;
        self.given_up.push(group.clone());
    }

    /// True if no slot is in use here.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.journal.values().all(|state| state.activation.is_none())
    }

    /// What is on its disk.
    pub(crate) fn image(&self) -> Self {
        let (journal, electorate) = (self.journal.clone(), self.electorate.clone());
        Self { journal, electorate, ..Self::default() }
    }

    /// What the host runs, by group.
    pub(crate) fn runs(&self) -> BTreeMap<GroupName, Digest> {
        let runs = self.journal.iter().filter_map(|(group, state)| {
            let (release, _) = state.current.as_ref()?;
            Some((group.clone(), *release))
        });
        runs.collect()
    }

    /// Groups in which the host was left as it was since this was asked last.
    pub fn given_up(&mut self) -> Vec<GroupName> {
        std::mem::take(&mut self.given_up)
    }

    /// True if it took up a chain after a gap since this was asked last.
    pub fn has_missed_orders(&mut self) -> bool {
        std::mem::take(&mut self.has_missed_orders)
    }

    /// Answers a request.
    pub fn answer(
        &mut self,
        asker: &Asker<'_>,
        request: &Request,
        dice: &mut Dice,
        stage_fails: bool,
    ) -> Answered {
        let refused = |reason: String| Answered::Only(Response::Refused { reason });
        match request {
            // Nobody reads what no script has printed.
            Request::Log { .. } => Answered::Only(Response::Log(None)),
            Request::Report { .. } => Answered::Only(Response::Report(self.report(asker.trust))),
            Request::Stage(evidence) => match self.stage(asker, evidence, stage_fails) {
                Ok(()) => Answered::Only(Response::Accepted),
                Err(reason) => refused(reason),
            },
            Request::Prepare { group, order, release } => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&dice.number().to_be_bytes());
                let (nonce, at) = (Nonce(bytes), asker.now);
                let (group, order, release) = (group.clone(), *order, *release);
                self.prepared = Some(Prepared { group, order, release, nonce, at });
                Answered::Only(Response::Prepared { nonce })
            }
            Request::Activate { evidence, token, receipts } => {
                match self.activate(asker, evidence, *token, receipts) {
                    Ok(Some(group)) => Answered::Begun(Response::Accepted, group),
                    Ok(None) => Answered::Only(Response::Accepted),
                    Err(reason) => refused(reason),
                }
            }
            Request::Stop(order) => match self.stop(asker, order) {
                Ok(()) => Answered::Only(Response::Accepted),
                Err(reason) => refused(reason),
            },
            Request::Learn(lists) => {
                self.learn(asker.trust, lists);
                Answered::Only(Response::Accepted)
            }
            Request::GiveUp { group, token } => {
                let state = self.journal.entry(group.clone()).or_default();
                if state.activation.as_ref().is_some_and(|held| held.token == *token) {
                    return refused("something was begun under this slot".into());
                }
                if !state.released.contains(token) {
                    state.released.push(*token);
                }
                self.version += 1;
                Answered::Only(Response::Accepted)
            }
            Request::Returned { group, token } => {
                if let Some(state) = self.journal.get_mut(group)
                    && let Some(held) = state.activation.take_if(|held| held.token == *token)
                {
                    let ended = matches!(held.step, Step::Ended(_));
                    if self.running.contains(group) {
                        state.activation = Some(held);
                    } else if !ended {
                        // Its slot is nobody's any more: the old files come back, and nothing runs.
                        state.current = None;
                        self.given_up.push(group.clone());
                    }
                    if state.activation.is_none() {
                        state.closed = state.closed.max(*token);
                    }
                    self.version += 1;
                }
                Answered::Only(Response::Accepted)
            }
        }
    }

    fn stage(&mut self, asker: &Asker<'_>, evidence: &Evidence, fails: bool) -> Result<(), String> {
        let (group, release, _) = self.judge(asker, evidence, true)?;
        if fails {
            return Err("no space left on device".into());
        }
        let state = self.journal.entry(group).or_default();
        if !state.staged.contains(&release) {
            state.staged.push(release);
        }
        self.version += 1;
        Ok(())
    }

    fn activate(
        &mut self,
        asker: &Asker<'_>,
        evidence: &Evidence,
        token: u64,
        receipts: &[Signed<Receipt>],
    ) -> Result<Option<GroupName>, String> {
        let group = asker.trust.group(&evidence.group).map_err(|error| error.to_string())?;
        let name = group.content().name.clone();
        let state = self.journal.get(&name);
        if state.is_some_and(|state| is_done_with(token, state.closed, &state.released)) {
            return Err("this slot was released, given up or given back".into());
        }
        let held = state.and_then(|state| state.activation.as_ref());
        let begins = match held {
            Some(held) if held.token != token => {
                return Err(format!("slot {} was not given back yet", held.token));
            }
            Some(held) if matches!(held.step, Step::Ended(_)) => return Ok(None),
            Some(_) if self.running.contains(&name) => return Ok(None),
            held => held.is_none(),
        };
        let (name, release, label) = self.judge(asker, evidence, begins)?;
        let (next, skipped) = self.extended(asker, &name, &evidence.orders, begins)?;
        if next.released.contains(&token) {
            return Err("this slot was released, given up or given back".into());
        }
        self.check_receipts(asker, &name, evidence.order, release, token, receipts)?;
        self.prepared = None;
        if skipped {
            self.has_missed_orders = true;
            self.keep(&name, next);
        }
        let state = self.journal.entry(name.clone()).or_default();
        if begins {
            let is_it = |signed: &Signed<Order>| signed.id(asker.trust.fleet()) == evidence.order;
            let at = state.deploys.iter().position(is_it);
            state.deploys.drain(..at.ok_or("a newer order has replaced this one")?);
            state.activation = Some(Activation {
                token,
                order: evidence.order,
                deploy: state.deploys[0].clone(),
                release,
                label,
                before: state.current.clone(),
                step: Step::Forward(0),
            });
        }
        self.running.insert(name.clone());
        self.version += 1;
        Ok(Some(name))
    }

    /// Who votes, after these lists.
    pub fn learn(
        &mut self,
        trust: &Trust,
        lists: &[Signed<groundswell_protocol::trust::VoterList>],
    ) -> &Electorate {
        let electorate = self.electorate.get_or_insert_with(|| Electorate::of(trust));
        if electorate.extend_by(trust, lists) {
            self.version += 1;
        }
        electorate
    }

    /// Takes in the orders, then judges the rest: the group, the release, its name.
    fn judge(
        &mut self,
        asker: &Asker<'_>,
        evidence: &Evidence,
        begins: bool,
    ) -> Result<(GroupName, Digest, ReleaseLabel), String> {
        let trust = asker.trust;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let electorate = self.learn(trust, &evidence.voter_lists);
        let member =
            evidence.cert.verify_though_expired(trust, electorate).map_err(|e| text(&e))?;
        if member.content().host != asker.host {
            return Err("the certificate is another host's".into());
        }
        let group = trust.group(&evidence.group).map_err(|error| text(&error))?;
        let name = group.content().name.clone();
        let (state, skipped) = self.extended(asker, &name, &evidence.orders, begins)?;
        if !skipped {
            // What comes after a gap is written down when it begins.
            self.keep(&name, state.clone());
        }
        if begins && !group.content().filter.matches(&member.content().labels) {
            return Err("this host is not in the group".into());
        }
        let begun = state.activation.as_ref().filter(|_| !begins).map(|held| &held.deploy);
        let known = begun.into_iter().chain(state.deploys.iter().filter(|_| begun.is_none()));
        let signed = known.into_iter().find(|signed| signed.id(trust.fleet()) == evidence.order);
        let signed = signed.ok_or("a newer order has replaced this one")?;
        let order = trust.order(signed).map_err(|error| text(&error))?;
        let (deploy, goes_back) = match &order.content().action {
            Action::Deploy(deploy) => (deploy, false),
            Action::Rollback(deploy) => (deploy, true),
            _ => return Err("the order is no deploy order".into()),
        };
        if deploy.group_version != group.content().version {
            return Err("the order is for another version of the group".into());
        }
        let release = trust.release(&evidence.release).map_err(|error| text(&error))?;
        if release.id() != deploy.release && Some(release.id()) != deploy.fallback {
            return Err("the order names neither this release nor this fallback".into());
        }
        let rollback = release.id() != deploy.release;
        if begins && state.stopped.iter().any(|stop| stop.covers(evidence.order, rollback)) {
            return Err("the order was stopped".into());
        }
        let late = group.content().catch_up || group.content().deploy_to_new_hosts;
        if begins && !rollback && !goes_back && !late {
            let until = order.content().not_after;
            if until.is_some_and(|until| until < asker.wall) {
                return Err("the order's time is over: sign a new one".into());
            }
        }
        if release.content().application != group.content().application {
            return Err("the release is of another application".into());
        }
        Ok((name, release.id(), release.content().label.clone()))
    }

    /// A group's state after these orders, and whether there was a gap before them.
    fn extended(
        &self,
        asker: &Asker<'_>,
        group: &GroupName,
        orders: &[Signed<Order>],
        skips: bool,
    ) -> Result<(GroupState, bool), String> {
        let mut next = self.journal.get(group).cloned().unwrap_or_default();
        let mut skipped =
            self.has_lost_voters() && was_lost(asker.trust, (next.sequence, next.head), orders);
        if skipped && !skips {
            return Ok((next, false));
        }
        if skipped {
            // The orders before were lost, and voters say what came in their place.
            (next.sequence, next.head) = (0, Digest::ZERO);
            next.deploys.clear();
        }
        let before = next.sequence;
        for signed in orders {
            let order = asker.trust.order(signed).map_err(|error| error.to_string())?;
            let content = order.content();
            if content.group != *group {
                return Err("an order is for another group".into());
            }
            if content.sequence <= before {
                continue;
            }
            if skips && next.sequence == before && content.sequence > next.sequence + 1 {
                next.deploys.clear();
                skipped = true;
            } else if next.sequence.checked_add(1) != Some(content.sequence)
                || content.parent != next.head
            {
                return Err(
                    "an order does not follow: it was replayed, forked, or is missing".into()
                );
            }
            (next.sequence, next.head) = (content.sequence, order.id());
            match &content.action {
                Action::Deploy(deploy) if deploy.queue => next.deploys.push(signed.clone()),
                Action::Deploy(_) | Action::Rollback(_) => next.deploys = vec![signed.clone()],
                Action::Stop { order, rollback } => {
                    next.stopped.push(Stopped { order: *order, rollback: *rollback });
                }
                Action::ReleaseSlot { host, token } if *host == asker.host => {
                    next.released.push(*token);
                }
                Action::Pause { .. }
                | Action::Resume { .. }
                | Action::ReleaseSlot { .. }
                | Action::Waive { .. }
                | Action::Freeze
                | Action::Unfreeze => {}
            }
        }
        Ok((next, skipped))
    }

    /// True if operators have let the fleet go on after its voters were lost.
    fn has_lost_voters(&self) -> bool {
        self.electorate.as_ref().is_some_and(Electorate::was_recovered)
    }

    /// Writes a group's state down, if it is news.
    fn keep(&mut self, group: &GroupName, next: GroupState) {
        let known = self.journal.get(group);
        let same = |known: &GroupState| (known.sequence, known.head) == (next.sequence, next.head);
        if known.is_some_and(same) {
            return;
        }
        let mut next = next;
        if known.is_none_or(|known| known.deploys != next.deploys) {
            next.staged.clear();
        }
        self.journal.insert(group.clone(), next);
        self.end_released(group);
        self.version += 1;
    }

    fn check_receipts(
        &self,
        asker: &Asker<'_>,
        group: &GroupName,
        order: Digest,
        release: Digest,
        token: u64,
        receipts: &[Signed<Receipt>],
    ) -> Result<(), String> {
        let prepared = self.prepared.as_ref().ok_or("no number was drawn: prepare first")?;
        if (&prepared.group, prepared.order, prepared.release) != (group, order, release) {
            return Err("the receipts were prepared for something else".into());
        }
        if asker.now.since(prepared.at) > RECEIPT_AGE_MAX {
            return Err("the receipts are too old: prepare again".into());
        }
        let (host, nonce) = (asker.host, prepared.nonce);
        let subject = Subject::Slot { host, nonce, order, release };
        let first = Electorate::of(asker.trust);
        let all = self.electorate.as_ref().unwrap_or(&first).newest();
        let vouched = all.check_receipts(asker.trust.fleet(), &subject, token, receipts);
        vouched.map_err(|error| error.to_string())
    }

    fn stop(&mut self, asker: &Asker<'_>, order: &Signed<Order>) -> Result<(), String> {
        let verified = asker.trust.order(order).map_err(|error| error.to_string())?;
        let group = verified.content().group.clone();
        let state = self.journal.entry(group.clone()).or_default();
        match verified.content().action {
            Action::Stop { order, rollback } => {
                let stop = Stopped { order, rollback };
                if !state.stopped.contains(&stop) {
                    state.stopped.push(stop);
                }
            }
            Action::ReleaseSlot { host, token } if host == asker.host => {
                if !state.released.contains(&token) {
                    state.released.push(token);
                }
            }
            _ => return Err("the order neither stops nor releases anything here".into()),
        }
        self.end_released(&group);
        self.version += 1;
        Ok(())
    }

    /// True if a slot is in use in a group, whether a thread is at work or not.
    pub fn has_begun(&self, group: &GroupName) -> bool {
        self.journal.get(group).is_some_and(|state| state.activation.is_some())
    }

    /// The activation that is at work in a group.
    pub fn working(&self, group: &GroupName) -> Option<&Activation> {
        let state = self.journal.get(group).filter(|_| self.running.contains(group))?;
        state.activation.as_ref()
    }

    /// The present step is over: writes the next one down.
    pub fn advance(&mut self, group: &GroupName, luck: Luck) -> Progressed {
        let Some(state) = self.journal.get_mut(group) else { return Progressed::Goes };
        let Some(held) = &mut state.activation else { return Progressed::Goes };
        self.version += 1;
        let last = LifecycleEvent::IN_PLACE.len() - 1;
        let (step, progressed) = match &held.step {
            Step::Forward(at) if luck.fails_at == Some(*at) => {
                (Step::Back(0, Box::new(failure(*at))), Progressed::Goes)
            }
            Step::Forward(at) if *at < last => (Step::Forward(at + 1), Progressed::Goes),
            Step::Forward(_) => (Step::Ended(Outcome::Succeeded), Progressed::Succeeded),
            Step::Back(0, cause) => (Step::Back(1, cause.clone()), Progressed::Goes),
            Step::Back(_, cause) => {
                let is_restored = luck.restores && held.before.is_some();
                let mut outcome = (**cause).clone();
                if let Outcome::Failed { restored, .. } = &mut outcome {
                    *restored = is_restored;
                }
                let came = if is_restored { Progressed::Restored } else { Progressed::Broken };
                (Step::Ended(outcome), came)
            }
            Step::Ended(_) => return Progressed::Goes,
        };
        held.step = step;
        match progressed {
            Progressed::Succeeded => {
                state.current = Some((held.release, held.label.clone()));
                state.staged.clear();
            }
            Progressed::Restored => state.current = held.before.clone(),
            Progressed::Broken => state.current = None,
            Progressed::Goes => {}
        }
        if matches!(held.step, Step::Ended(_)) {
            self.running.remove(group);
        }
        progressed
    }

    /// What the daemon is told.
    pub fn report(&self, trust: &Trust) -> Report {
        let groups = self.journal.iter().map(|(group, state)| GroupReport {
            group: group.clone(),
            sequence: state.sequence,
            head: state.head,
            current: state.current.clone(),
            staged: state.staged.clone(),
            released: state.released.clone(),
            closed: state.closed,
            stopped: state.stopped.clone(),
            activation: state.activation.as_ref().map(|held| ActivationReport {
                token: held.token,
                order: held.order,
                release: held.release,
                phase: phase(&held.step, self.running.contains(group)),
            }),
        });
        Report {
            version: self.version + 1,
            fleet: Some(trust.fleet()),
            generation: self.electorate.as_ref().map_or(0, |known| known.newest().generation()),
            groups: groups.collect(),
        }
    }
}

fn phase(step: &Step, running: bool) -> Phase {
    let event = |at: &usize| LifecycleEvent::IN_PLACE[*at];
    match step {
        Step::Ended(outcome) => Phase::Ended(outcome.clone()),
        Step::Forward(at) if running => Phase::Running { event: event(at), restoring: false },
        Step::Back(at, _) if running => Phase::Running { event: event(at), restoring: true },
        Step::Forward(at) | Step::Back(at, _) => Phase::Interrupted { event: event(at) },
    }
}

fn failure(at: usize) -> Outcome {
    Outcome::Failed {
        log: "no answer".into(),
        code: 4,
        event: LifecycleEvent::IN_PLACE[at],
        script: "hook.sh".into(),
        message: "exit code 1".into(),
        restored: false,
    }
}

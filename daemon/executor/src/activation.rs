//! The state of the executor, shared by its connections, and the thread that works on an activation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use groundswell_protocol::{
    execute::{ActivationReport, Evidence, GroupReport, Phase, Report, Response, Stopped},
    ids::{DeploymentId, Digest, GroupName, Nonce},
    trust::{Action, Order, Receipt, Signed, VoterList},
};

use nix::fcntl::Flock;

use crate::{
    clock::BootTime,
    config::Config,
    deployment::DeploymentName,
    give_up,
    journal::{self, Activation, End, Failure, GroupState, Standing, Step},
    judge::{self, Belief, Judged, Prepared},
    lifecycle::{self, Work},
    lock::{self, Hold},
    logs, stage,
    unit::Units,
};

/// The executor.
pub(crate) struct Executor {
    config: Config,
    /// None where scripts are processes of this one.
    units: Option<Arc<Units>>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    version: u64,
    belief: Option<Arc<Belief>>,
    groups: BTreeMap<GroupName, GroupState>,
    /// Groups in which a thread is at work.
    running: BTreeSet<GroupName>,
    prepared: Option<Prepared>,
}

/// What a slot is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Begins,
    /// What was begun under it was interrupted.
    GoesOn,
    /// What was begun under it has ended, or is under way.
    Done,
}

impl Inner {
    fn claim(&self, group: &GroupName, token: u64) -> Result<Claim, String> {
        let state = self.groups.get(group);
        if state.is_some_and(|state| state.is_done_with(token)) {
            return Err(RELEASED.into());
        }
        match state.and_then(|state| state.activation.as_ref()) {
            Some(held) if held.token != token => {
                Err(format!("slot {} was not given back yet", held.token))
            }
            Some(held) if matches!(held.step, Step::Ended(_)) || self.running.contains(group) => {
                Ok(Claim::Done)
            }
            Some(_) => Ok(Claim::GoesOn),
            None => Ok(Claim::Begins),
        }
    }
}

const RELEASED: &str = "this slot was released, given up or given back";

impl Executor {
    pub(crate) fn open(config: Config) -> io::Result<Self> {
        let mut groups = journal::read(&config.journal_dir())?;
        groups.values_mut().for_each(GroupState::end_released);
        stage::clear(&config);
        let units = Units::of_this_machine(config.scripts, config.keepers_dir())?;
        let (belief, running) = (Belief::read(&config).ok().map(Arc::new), BTreeSet::new());
        let inner = Inner { version: 1, belief, groups, running, prepared: None };
        Ok(Self { config, units, inner: Mutex::new(inner), changed: Condvar::new() })
    }

    /// The state, once it is newer than `seen` or `patience` is over.
    pub(crate) fn report(&self, seen: u64, patience: Duration) -> Report {
        let until = Instant::now() + patience;
        let mut inner = self.lock();
        while inner.version == seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Report {
            version: inner.version,
            fleet: inner.belief.as_ref().map(|belief| belief.trust.fleet()),
            generation: (inner.belief.as_ref())
                .map_or(0, |belief| belief.electorate.newest().generation()),
            groups: inner.groups.values().map(|group| report_of(group, &inner.running)).collect(),
        }
    }

    pub(crate) fn prepare(&self, group: GroupName, order: Digest, release: Digest) -> Response {
        let mut bytes = [0; 16];
        if let Err(error) = getrandom::fill(&mut bytes) {
            return refused(format!("the system has no randomness: {error}"));
        }
        let (nonce, drawn_at) = (Nonce(bytes), BootTime::now());
        self.lock().prepared = Some(Prepared { group, order, release, nonce, drawn_at });
        Response::Prepared { nonce }
    }

    /// What the scripts of a deployment have written from `offset` on, in whichever group it is.
    pub(crate) fn log(&self, deployment: DeploymentId, offset: u64) -> Response {
        let groups: Vec<_> = self.lock().groups.keys().cloned().collect();
        for group in groups {
            match logs::read(&self.config.script_log(&group, deployment.into()).own, offset) {
                Ok(part) => return Response::Log(Some(part.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return refused(format!("the log cannot be read: {error}")),
            }
        }
        Response::Log(None)
    }

    /// Verifies, and lays the revision out.
    pub(crate) fn stage(&self, evidence: &Evidence) -> Response {
        let judged = match self.judge(evidence, true) {
            Ok((_, judged)) => judged,
            Err(reason) => return refused(reason),
        };
        let group = judged.group.content().name.clone();
        if let Err(reason) = self.lay_out(&judged) {
            return refused(reason);
        }
        let release = judged.release.id();
        self.change(&group, |state| {
            if !state.staged.contains(&release) {
                state.staged.push(release);
            }
        })
    }

    /// Old deployments go first: the room that this one needs may be theirs. And releases that are laid out
    /// and never get their turn would fill the disk.
    fn lay_out(&self, judged: &Judged) -> Result<(), String> {
        let (group, deployment) = (&judged.group.content().name, judged.deployment);
        let is_new = !self.config.deployment_dir(group, deployment).exists();
        self.clear_old(group, usize::from(is_new));
        stage::lay_out(&self.config, &judged.manifest, group, deployment)
    }

    /// Verifies everything, then begins the lifecycle, or goes on with one that was interrupted.
    pub(crate) fn activate(
        self: &Arc<Self>,
        evidence: &Evidence,
        token: u64,
        receipts: &[Signed<Receipt>],
    ) -> Response {
        let group = match self.group_of(evidence) {
            Ok(group) => group,
            Err(reason) => return refused(reason),
        };
        let claim = match self.lock().claim(&group, token) {
            Ok(Claim::Done) => return Response::Accepted,
            Ok(claim) => claim,
            Err(reason) => return refused(reason),
        };
        match self.check_and_begin(evidence, token, receipts, claim) {
            Ok(()) => Response::Accepted,
            Err(reason) => refused(reason),
        }
    }

    fn check_and_begin(
        self: &Arc<Self>,
        evidence: &Evidence,
        token: u64,
        receipts: &[Signed<Receipt>],
        claim: Claim,
    ) -> Result<(), String> {
        let (belief, judged) = self.judge(evidence, claim == Claim::Begins)?;
        let group = judged.group.content().name.clone();
        self.lay_out(&judged)?;
        // Last, since laying out may take longer than receipts are good for.
        let prepared = self.lock().prepared.clone();
        let prepared = prepared.ok_or("no number was drawn for these receipts: prepare first")?;
        judge::check_receipts(&belief, &prepared, &judged, token, receipts)?;
        let mut inner = self.lock();
        // The number is good for one beginning.
        let is_it = |now: &mut Prepared| now.nonce == prepared.nonce;
        inner.prepared.take_if(is_it).ok_or("these receipts were used already: prepare again")?;
        match inner.claim(&group, token)? {
            Claim::Done => return Ok(()),
            now if now != claim => return Err("the slot was given back meanwhile".into()),
            _ => {}
        }
        // Whoever reads in the report that the old voters are heeded no more relies on it likewise.
        let newest = |belief: &Belief| belief.electorate.newest().generation();
        if inner.belief.as_deref().map(newest) != Some(newest(&belief)) {
            return Err("the voters have changed meanwhile: prepare again".into());
        }
        let known = inner.groups.get(&group).cloned();
        let mut state = known.unwrap_or_else(|| GroupState::new(group.clone()));
        if claim == Claim::Begins {
            if judge::extend(&belief, &mut state, &evidence.orders, true)? {
                state.staged.retain(|staged| *staged == judged.release.id());
            }
            if state.is_done_with(token) {
                return Err(RELEASED.into());
            }
            // A stop may have come since the order was judged. Whoever reads it in the report relies
            // on it that nothing begins any more.
            let goes_back = judged.release.id() != judged.deploy.release;
            if state.stopped.iter().any(|stop| stop.covers(judged.order, goes_back)) {
                return Err("the order was stopped".into());
            }
            // Whoever has begun with an order follows none that came before it.
            let is_it = |signed: &Signed<Order>| signed.id(belief.trust.fleet()) == judged.order;
            let at = state.deploys.iter().position(is_it);
            state.deploys.drain(..at.ok_or("a newer order has replaced this one")?);
            state.activation = Some(Activation {
                token,
                order: judged.order,
                deploy: state.deploys[0].clone(),
                release: judged.release.id(),
                deployment: judged.deployment,
                before_current: state.current.clone(),
                before_installed: state.installed.clone(),
                step: Step::Check,
            });
        }
        state
            .write(&self.config.journal_dir())
            .map_err(|error| format!("the journal cannot be written: {error}"))?;
        inner.groups.insert(group.clone(), state);
        inner.running.insert(group.clone());
        drop(inner);
        self.announce();
        let executor = self.clone();
        let thread = thread::Builder::new().spawn(move || executor.work(judged, &prepared));
        thread.map(drop).map_err(|error| {
            self.lock().running.remove(&group);
            self.announce();
            format!("no thread for the lifecycle: {error}")
        })
    }

    /// The thread of one activation.
    fn work(&self, judged: Judged, prepared: &Prepared) {
        let group = judged.group.content().name.clone();
        let held = {
            let inner = self.lock();
            let state = inner.groups.get(&group);
            state.and_then(|state| Some((state.standing(), state.activation.clone()?)))
        };
        let Some((now, activation)) = held else { return };
        let token = activation.token;
        let deployment = judged.into_deployment();
        let units = self.units.as_ref();
        let work = Work::new(&self.config, units, deployment, activation.before(), now);
        let taken = match self.wait_for_others(&group, activation.deployment, prepared) {
            Ok(taken) => taken,
            Err(error) => give_up(&format!("{}: {error}", self.config.lock_file().display())),
        };
        // The journal, too, may have taken longer to be written than receipts are good for.
        let lock = taken.and_then(|lock| prepared.check_age().map(|()| lock));
        let _lock = match lock {
            Ok(lock) => lock,
            Err(reason) => return self.put_off(&group, &reason),
        };
        work.run(activation.step, |standing, step| {
            if let Step::Ended(end) = step {
                report_end(&group, token, end);
            }
            self.note(&group, standing, step);
        });
    }

    /// Keeps out whoever deploys on this host alone, and waits for him as long as the receipts are good.
    fn wait_for_others(
        &self,
        group: &GroupName,
        deployment: DeploymentName,
        prepared: &Prepared,
    ) -> io::Result<Result<Flock<File>, String>> {
        let who = by_fleet(group, deployment);
        let mut told = false;
        loop {
            match lock::try_take(&self.config.lock_file(), Hold::Together, &who)? {
                Ok(lock) => return Ok(Ok(lock)),
                Err(holder) if prepared.check_age().is_err() => {
                    return Ok(Err(format!("{holder} has not ended")));
                }
                Err(holder) if !told => {
                    eprintln!("swell-exec: group {group}: waiting for {holder} to end");
                    told = true;
                }
                Err(_) => thread::sleep(LOOKS_EVERY),
            }
        }
    }

    /// Ends the work of a thread that may not go on. What has disturbed nothing yet has not begun: its slot
    /// can be used with new receipts, given up or released. Anything else was interrupted.
    fn put_off(&self, group: &GroupName, reason: &str) {
        eprintln!("swell-exec: group {group}: not begun: {reason}");
        {
            let mut inner = self.lock();
            inner.running.remove(group);
            let Some(state) = inner.groups.get_mut(group) else { return };
            state.activation.take_if(|held| held.step == Step::Check);
            if let Err(error) = state.write(&self.config.journal_dir()) {
                give_up(&format!("the journal cannot be written: {error}"));
            }
        }
        self.announce();
    }

    /// Writes down, durably, what a group has and which step is next. Without a journal nothing more may
    /// be done here.
    fn note(&self, group: &GroupName, standing: &Standing, step: &Step) {
        {
            let mut inner = self.lock();
            let Some(state) = inner.groups.get_mut(group) else { return };
            let Standing { current, installed, half_installed, .. } = standing.clone();
            (state.current, state.installed) = (current, installed);
            state.half_installed = half_installed;
            if *step == Step::Ended(End::Succeeded) {
                state.staged.clear();
            }
            if let Some(activation) = &mut state.activation {
                activation.step = step.clone();
            }
            if let Err(error) = state.write(&self.config.journal_dir()) {
                give_up(&format!("the journal cannot be written: {error}"));
            }
            if step.has_ended() {
                inner.running.remove(group);
            }
        }
        self.announce();
    }

    /// Notes a stop, with or without the orders before it.
    pub(crate) fn stop(&self, order: &Signed<Order>) -> Response {
        let belief = match self.belief() {
            Ok(belief) => belief,
            Err(reason) => return refused(reason),
        };
        let verified = match belief.trust.order(order) {
            Ok(verified) => verified,
            Err(error) => return refused(format!("the order {error}")),
        };
        let group = verified.content().group.clone();
        match verified.content().action {
            Action::Stop { order, rollback } => self.change(&group, |state| {
                let stop = Stopped { order, rollback };
                if !state.stopped.contains(&stop) {
                    state.stopped.push(stop);
                }
            }),
            Action::ReleaseSlot { host, token } if host == belief.host => {
                self.change(&group, |state| state.release(token))
            }
            _ => refused("the order neither stops nor releases anything here".into()),
        }
    }

    /// Promises to begin nothing under a slot, unless something was.
    pub(crate) fn give_up_slot(&self, group: &GroupName, token: u64) -> Response {
        let has_begun =
            |state: &GroupState| state.activation.as_ref().is_some_and(|held| held.token == token);
        if self.lock().groups.get(group).is_some_and(has_begun) {
            return refused(format!("something was begun under slot {token}"));
        }
        self.change(group, |state| {
            // It may be since then. The report shows that, and no promise.
            if !has_begun(state) {
                state.release(token);
            }
        })
    }

    /// Closes an activation that has ended, or that was interrupted and can never go on because its
    /// slot is nobody's any more.
    pub(crate) fn returned(&self, group: &GroupName, token: u64) -> Response {
        let held = self.lock().groups.get(group).and_then(|state| {
            let held = state.activation.clone().filter(|held| held.token == token)?;
            Some((state.half_installed != Some(held.deployment), held))
        });
        let Some((is_whole, held)) = held else { return Response::Accepted };
        if !held.step.has_ended() {
            return self.abandon(group, token, &held);
        }
        let deployment = held.deployment;
        // Not before the end is in the journal: until then a crash may lead back. And not after the
        // activation is closed: the list would undo this deployment when it is activated again. Where
        // the old files could not be put back, their only copies stay.
        if is_whole
            && let Err(error) = lifecycle::forget(&self.config.deployment_dir(group, deployment))
        {
            return refused(format!("the copies of the old files cannot be removed: {error}"));
        }
        let response = self.change(group, |state| {
            // Another request may have closed it meanwhile, and a new activation have begun.
            let ended = |held: &Activation| held.token == token && held.step.has_ended();
            if state.activation.as_ref().is_some_and(ended) {
                state.close(token);
            }
        });
        self.clear_old(group, 0);
        response
    }

    /// The old files come back and nothing is started: the host is without a working revision until
    /// the next deployment.
    fn abandon(&self, group: &GroupName, token: u64, held: &Activation) -> Response {
        let interrupted = |inner: &Inner| inner.claim(group, token) == Ok(Claim::GoesOn);
        if !interrupted(&self.lock()) {
            return Response::Accepted;
        }
        let who = by_fleet(group, held.deployment);
        let _lock = match lock::try_take(&self.config.lock_file(), Hold::Together, &who) {
            Ok(Ok(lock)) => lock,
            Ok(Err(holder)) => {
                return refused(format!("the old files can be put back when {holder} has ended"));
            }
            Err(error) => {
                return refused(format!("{}: {error}", self.config.lock_file().display()));
            }
        };
        let is_taken_back = |state: &GroupState| state.half_installed == Some(held.deployment);
        let has_run =
            held.step != Step::Check || self.lock().groups.get(group).is_some_and(is_taken_back);
        if let Err(reason) = lifecycle::abandon(&self.config, group, held.deployment, has_run) {
            return refused(reason);
        }
        self.change(group, |state| {
            let same = |now: &Activation| now.token == token && now.step == held.step;
            if state.activation.as_ref().is_some_and(same) {
                (state.current, state.installed) = (None, held.before_installed.clone());
                state.close(token);
            }
        })
    }

    /// Removes old deployments' directories, but for as many as the settings let stay beside those to come.
    fn clear_old(&self, group: &GroupName, to_come: usize) {
        let needed: BTreeSet<PathBuf> = {
            let inner = self.lock();
            let (Some(state), Some(belief)) = (inner.groups.get(group), &inner.belief) else {
                return;
            };
            let held = state.activation.as_ref();
            let before = held.map(|held| [&held.before_current, &held.before_installed]);
            let installed = [&state.current, &state.installed].into_iter();
            let installed = installed.chain(before.into_iter().flatten()).flatten();
            // What the newest orders name may be laid out already, and begin any moment.
            let orders = state.deploys.iter().map(|order| order.id(belief.trust.fleet()));
            let newest =
                orders.flat_map(|id| [false, true].map(|r| DeploymentId::of(id, r).into()));
            installed
                .map(|installed| installed.deployment)
                .chain(held.map(|held| held.deployment))
                .chain(newest)
                .map(|deployment| self.config.deployment_dir(group, deployment))
                .collect()
        };
        let kept = usize::try_from(self.config.revisions_kept).unwrap_or(usize::MAX);
        stage::clear_old(&self.config, group, &needed, kept.saturating_sub(to_come));
    }

    fn belief(&self) -> Result<Arc<Belief>, String> {
        let mut inner = self.lock();
        if let Some(belief) = &inner.belief {
            return Ok(belief.clone());
        }
        let belief = Arc::new(Belief::read(&self.config)?);
        inner.belief = Some(belief.clone());
        Ok(belief)
    }

    fn group_of(&self, evidence: &Evidence) -> Result<GroupName, String> {
        let group = self.belief()?.trust.group(&evidence.group);
        Ok(group.map_err(|error| format!("the group {error}"))?.content().name.clone())
    }

    /// What is believed after these lists of voters.
    fn learn_voters(&self, lists: &[Signed<VoterList>]) -> Result<Arc<Belief>, String> {
        let belief = self.belief()?;
        let mut inner = self.lock();
        // Another request may have brought newer ones meanwhile.
        let belief = inner.belief.clone().unwrap_or(belief);
        let Some(news) = belief.with_voters(&self.config, lists)? else { return Ok(belief) };
        let news = Arc::new(news);
        inner.belief = Some(news.clone());
        inner.version += 1;
        self.changed.notify_all();
        Ok(news)
    }

    /// Heeds no older voters any more.
    pub(crate) fn learn(&self, lists: &[Signed<VoterList>]) -> Response {
        self.learn_voters(lists).map_or_else(refused, |_| Response::Accepted)
    }

    /// Takes in the voters and the orders of the evidence, then judges the rest of it.
    fn judge(&self, evidence: &Evidence, begins: bool) -> Result<(Arc<Belief>, Judged), String> {
        let belief = self.learn_voters(&evidence.voter_lists)?;
        let group = self.group_of(evidence)?;
        let mut inner = self.lock();
        let known = inner.groups.get(&group);
        let mut state = known.cloned().unwrap_or_else(|| GroupState::new(group.clone()));
        let (before, deploys) = (state.sequence, state.deploys.clone());
        let skipped = judge::extend(&belief, &mut state, &evidence.orders, begins)?;
        // What comes after a gap is noted when it begins.
        if !skipped && (state.sequence != before || known.is_none()) {
            // What was staged for another order lies elsewhere.
            if state.deploys != deploys {
                state.staged.clear();
            }
            if !inner.running.contains(&group) {
                state.end_released();
            }
            state
                .write(&self.config.journal_dir())
                .map_err(|error| format!("the journal cannot be written: {error}"))?;
            inner.groups.insert(group.clone(), state.clone());
            inner.version += 1;
            self.changed.notify_all();
        }
        drop(inner);
        let judged = judge::judge(&self.config, &belief, &state, evidence, begins)?;
        Ok((belief, judged))
    }

    /// Changes a group's state, durably.
    fn change(&self, group: &GroupName, change: impl FnOnce(&mut GroupState)) -> Response {
        let mut inner = self.lock();
        let known = inner.groups.get(group).cloned();
        let mut state = known.unwrap_or_else(|| GroupState::new(group.clone()));
        change(&mut state);
        if !inner.running.contains(group) {
            state.end_released();
        }
        if let Err(error) = state.write(&self.config.journal_dir()) {
            return refused(format!("the journal cannot be written: {error}"));
        }
        inner.groups.insert(group.clone(), state);
        drop(inner);
        self.announce();
        Response::Accepted
    }

    fn announce(&self) {
        self.lock().version += 1;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nobody sees it poisoned: a panic ends the process.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the lock says of who has it.
fn by_fleet(group: &GroupName, deployment: DeploymentName) -> String {
    format!("deployment {deployment} of group {group} by its fleet")
}

fn report_end(group: &GroupName, token: u64, end: &End) {
    let text = match end {
        End::Succeeded => "succeeded".to_owned(),
        End::Failed(Failure { event, message, restored, .. }) => {
            format!("failed in {event}: {message}; restored: {restored}")
        }
    };
    eprintln!("swell-exec: group {group}, slot {token}: {text}");
}

fn report_of(state: &GroupState, running: &BTreeSet<GroupName>) -> GroupReport {
    let activation = state.activation.as_ref().map(|activation| {
        let is_running = running.contains(&state.group);
        let restoring = matches!(activation.step, Step::Back(..));
        let phase = match activation.step.event() {
            Err(end) => Phase::Ended(end.outcome()),
            Ok(event) if is_running => Phase::Running { event: event.of_fleet(), restoring },
            Ok(event) => Phase::Interrupted { event: event.of_fleet() },
        };
        ActivationReport {
            token: activation.token,
            order: activation.order,
            release: activation.release,
            phase,
        }
    });
    GroupReport {
        group: state.group.clone(),
        sequence: state.sequence,
        head: state.head,
        current: state.current.as_ref().map(|c| (c.release, c.label.clone())),
        staged: state.staged.clone(),
        stopped: state.stopped.clone(),
        released: state.released.clone(),
        closed: state.closed,
        activation,
    }
}

fn refused(reason: String) -> Response {
    Response::Refused { reason }
}

/// How long a lock is left alone that somebody else has.
const LOOKS_EVERY: Duration = Duration::from_millis(200);

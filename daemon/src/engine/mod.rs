//! The loop that carries the node's answers out: links, disk, executor, store, control socket.
//!
//! One task owns the [`Node`] and feeds it everything in turn, so there are no locks around the
//! state. Outputs are performed in order; what must be durable is on disk before the next one. If it
//! cannot be written the process stops: the kernel may already have dropped it.

mod gate;
mod hosts;
mod keeping;
mod news;
mod pace;
mod seeds;
mod views;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use groundswell_protocol::{
    consensus::VoterPolicy,
    execute::{Report, Request},
    ids::{Digest, HostId},
    limits::{ADDRESSES_MAX, SNAPSHOT_EVERY_ENTRIES, TICK},
    node::{Asked, Input, Node, NotTaken, Output, Progress, Setup},
    trust::{MemberCert, Signed, Trust, VoterList},
    wire::{Call, Message},
};
use libp2p::Multiaddr;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use self::{gate::Gate, keeping::Keeping, news::News, pace::Pace, seeds::Seeds};
use crate::{
    clock::Clock,
    config::Settings,
    control::server::Command,
    executor::Executor,
    home::{Home, HomeError},
    logs::{Logs, Part},
    mesh::{self, Mesh, MeshConfig, MeshError, MeshEvent, ReplyTo},
    state::{State, StateError},
    store::{self, Store},
    transfer::{self, Inbox, TransferInput, Transfers},
};

/// Why the daemon could not start, or had to stop.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The state directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The durable state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store of revisions.
    #[error("the store: {0}")]
    Store(String),
    /// The network.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// A task that everything depends on has ended.
    #[error("the {0} has stopped")]
    Ended(&'static str),
}

impl EngineError {
    /// The exit code that says what kind of trouble it is.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Home(HomeError::NotJoined { .. }) => 4,
            Self::Mesh(_) => 69,
            Self::Home(_) | Self::State(_) | Self::Store(_) | Self::Ended(_) => 74,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Home(error) => Some(error.hint()),
            Self::Mesh(_) => Some("stop the other process or change `listen`".into()),
            Self::State(StateError::Forgotten | StateError::Damaged { .. }) => Some(
                "put a copy of it back and start the machine anew, not the daemon alone: a voter then asks \
                 the others what it may have forgotten. Or remove the whole state directory and join again: \
                 the host then has a new key, and counts as another one"
                    .into(),
            ),
            Self::State(_) | Self::Store(_) | Self::Ended(_) => None,
        }
    }
}

/// Everything that the loop holds.
pub struct Engine {
    node: Node,
    trust: Arc<Trust>,
    clock: Clock,
    home: Home,
    state: State,
    store: Arc<Store>,
    mesh: Mesh,
    gate: Arc<Gate>,
    executor: Executor,
    logs: Logs,
    transfers: Inbox,
    inputs: mpsc::Sender<Input>,
    seeds: Seeds,
    news: News,
    pace: Pace,
    keeping: Keeping,
    /// What the node has said is to be done, in order.
    todo: Vec<Output>,
    /// Why revisions could not be brought here so far.
    troubles: BTreeMap<Digest, String>,
    known: BTreeMap<HostId, Vec<String>>,
    /// There is something in `known` that is not on disk.
    known_changed: bool,
    waiting: BTreeMap<Digest, Vec<views::SubmitReply>>,
}

/// The loop's sources.
struct Sources {
    events: mpsc::Receiver<MeshEvent>,
    commands: mpsc::Receiver<Command>,
    applicants: mpsc::Receiver<MemberCert>,
    reports: mpsc::Receiver<Option<Report>>,
    progress: mpsc::Receiver<(Digest, Progress)>,
    inputs: mpsc::Receiver<Input>,
}

/// Runs the daemon until `stop` says so, or a task ends that it cannot do without. Told to stop it goes on for
/// [`LEAVES_FOR`].
pub async fn run(
    settings: Settings,
    commands: mpsc::Receiver<Command>,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), EngineError> {
    let (mut engine, first, mut sources) = start(&settings, commands).await?;
    let mut end = None;
    engine.todo.extend(first);
    let mut beat = tokio::time::interval(TICK);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut housekeeping = tokio::time::interval(REMEMBER_EVERY);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        engine.perform().await?;
        tokio::select! {
            _ = beat.tick() => engine.tick(),
            _ = look.tick() => engine.look_round(),
            _ = housekeeping.tick() => engine.remember(),
            event = sources.events.recv() => match event {
                Some(event) => engine.mesh_events(event, &mut sources.events),
                None => return Err(EngineError::Ended("network")),
            },
            command = sources.commands.recv() => match command {
                Some(command) => engine.command(command).await?,
                None => return Err(EngineError::Ended("control socket")),
            },
            Some(cert) = sources.applicants.recv() => engine.feed(Input::Applicant(cert)),
            Some(report) = sources.reports.recv() => engine.reported(report),
            Some((manifest, progress)) = sources.progress.recv() => {
                engine.progressed(manifest, progress);
            }
            Some(input) = sources.inputs.recv() => engine.feed(input),
            _ = &mut stop, if end.is_none() => {
                end = Some(tokio::time::Instant::now() + LEAVES_FOR);
                engine.feed(Input::Leave);
            }
            () = at(end) => return Ok(()),
        }
    }
}

/// Waits for a time, or for ever.
async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn start(
    settings: &Settings,
    commands: mpsc::Receiver<Command>,
) -> Result<(Engine, Vec<Output>, Sources), EngineError> {
    let clock = Clock::start();
    let home = Home::new(&settings.state_dir);
    let trust = Arc::new(home.trust()?);
    let cert = home.cert()?;
    let first = home.is_first_start();
    let (state, remembered) = State::start(&home.path("state.log"), first)?;
    if first {
        home.first_start_done()?;
    }
    let store = Store::open(&home.path("store"), settings.store_bytes_max)
        .map_err(|error| EngineError::Store(error.to_string()))?;
    let store = Arc::new(store);

    let (applicants_in, applicants) = mpsc::channel(QUEUE);
    let door = groundswell_protocol::gate::Gate::new(trust.clone());
    let gate = Arc::new(Gate::new(door, clock, cert.clone(), applicants_in));
    let config = MeshConfig {
        key: home.key()?,
        fleet: trust.fleet(),
        epoch: remembered.epoch,
        listen: settings.listen.clone(),
    };
    let (mesh, events, listening) = mesh::start(config, gate.clone()).await?;
    for address in &listening {
        tracing::info!(%address, "listening");
    }

    let (reports_in, reports) = mpsc::channel(QUEUE);
    let executor = Executor::new(settings.executor_socket.clone());
    tokio::spawn(executor.clone().watch(reports_in));
    let (progress_in, progress) = mpsc::channel(QUEUE);
    let transfers =
        Transfers::start(store.clone(), mesh.clone(), clock, progress_in, random_seed());
    if settings.scrub_bytes_per_second > 0 {
        tokio::spawn(store::scrub_slowly(store.clone(), settings.scrub_bytes_per_second));
    }
    let (inputs_in, inputs) = mpsc::channel(QUEUE);

    let (known, seeds) = (home.known(), Seeds::of(&home, settings));
    let setup = Setup {
        key: home.key()?,
        trust: trust.clone(),
        cert,
        epoch: remembered.epoch,
        boot: machine_start(),
        addresses: advertised(settings, listening),
        seeds: seeds.names(),
        known: known.clone(),
        restored: remembered.restored,
        snapshot_every_entries: SNAPSHOT_EVERY_ENTRIES,
        voter_policy: VoterPolicy::after(settings.replace_voter_after),
        seed: random_seed(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let (node, first) = Node::new(clock.mono(), clock.wall(), setup).map_err(|error| {
        let what = "the ledger's snapshot".into();
        StateError::Damaged { what, reason: error.to_string() }
    })?;
    tracing::info!(
        fleet = trust.fleet().short(),
        host = node.me().short(),
        epoch = remembered.epoch,
        voter = node.consensus().is_some(),
        "swelld {} is up",
        env!("CARGO_PKG_VERSION")
    );
    let waiting = BTreeMap::new();
    let logs = Logs::new(executor.clone(), mesh.clone(), node.me());
    let engine = Engine {
        node,
        trust,
        clock,
        home,
        state,
        store,
        mesh,
        gate,
        executor,
        logs,
        transfers,
        seeds,
        news: News::default(),
        pace: Pace::default(),
        keeping: Keeping::default(),
        todo: Vec::new(),
        troubles: BTreeMap::new(),
        known,
        known_changed: false,
        waiting,
        inputs: inputs_in,
    };
    engine.refresh_gate();
    let sources = Sources { events, commands, applicants, reports, progress, inputs };
    Ok((engine, first, sources))
}

impl Engine {
    fn tick(&mut self) {
        self.feed(Input::Tick);
        self.tell_store();
        self.news.look(self.clock.mono(), &self.node);
    }

    /// Notes how long each host has been doing what it does, and tells who went silent.
    fn look_round(&mut self) {
        let (now, ledger) = (self.clock.mono(), self.node.ledger());
        let groups: Vec<_> = ledger.groups().collect();
        for member in ledger.members() {
            let Some(record) = self.node.view().get(member.host) else { continue };
            let is_in =
                groups.iter().filter(|group| group.hosts.binary_search(&member.host).is_ok());
            self.pace.see(now, record, is_in.map(|group| &group.group.name));
        }
        self.pace.keep(|host| ledger.is_member(host));
        self.news.look_round(now, &self.node);
    }

    fn reported(&mut self, report: Option<Report>) {
        // A slot comes before what is done in it.
        self.news.look(self.clock.mono(), &self.node);
        self.news.reported(report.as_ref(), self.node.ledger());
        self.feed(Input::Executor(report));
    }

    fn progressed(&mut self, manifest: Digest, progress: Progress) {
        match &progress {
            Progress::Troubled(reason) => {
                let before = self.troubles.insert(manifest, reason.clone());
                if before.as_ref() != Some(reason) {
                    let revision = manifest.short();
                    tracing::warn!("revision {revision} cannot be brought here yet: {reason}");
                }
            }
            Progress::Complete => drop(self.troubles.remove(&manifest)),
            Progress::Fetching(_) | Progress::Gone => {}
        }
        self.feed(Input::Revision(manifest, progress));
    }

    fn feed(&mut self, input: Input) {
        self.feed_all(vec![input]);
    }

    fn feed_all(&mut self, inputs: Vec<Input>) {
        self.todo.extend(self.node.handle_all(self.clock.mono(), self.clock.wall(), inputs));
    }

    /// Does what there is to do, before anything else is heard.
    async fn perform(&mut self) -> Result<(), EngineError> {
        let mut roster_changed = false;
        let mut outputs = std::mem::take(&mut self.todo).into_iter();
        let mut sends = false;
        while let Some(output) = outputs.next() {
            match output {
                Output::Persist(write) => {
                    // What is to be durable sooner than it must be does no harm: one wait for the disk
                    // is enough for all of it.
                    let (mut writes, mut later) = (vec![write], Vec::new());
                    outputs.for_each(|output| match output {
                        Output::Persist(write) => writes.push(write),
                        other => later.push(other),
                    });
                    // What others need for their part goes off before this thread waits for the disk.
                    if std::mem::take(&mut sends) {
                        tokio::task::yield_now().await;
                    }
                    let began = Instant::now();
                    self.state.persist(writes)?;
                    self.node.wrote(began.elapsed());
                    outputs = later.into_iter();
                }
                Output::Send(to, message) => {
                    self.mesh.send(to, &message);
                    sends = true;
                }
                Output::Dial(address) => self.dial(&address),
                Output::Close(peer) => self.mesh.close(peer),
                Output::Execute(asked, request) => self.execute(asked, *request),
                Output::TellVoters(lists) => self.tell_voters(lists),
                Output::Fetch { manifest, manifest_bytes: bytes, recheck } => {
                    // What it makes way for is needed by an order that has just come.
                    self.tell_store();
                    self.transfer(TransferInput::Fetch { manifest, bytes, recheck });
                }
                Output::Submitted(id, outcome) => self.answer(id, &outcome),
                Output::Certificate(cert) => {
                    self.home.set_cert(&cert)?;
                    self.gate.update(|roster| roster.cert = cert);
                }
                Output::Roster => roster_changed = true,
                Output::Known(host, addresses) => {
                    match addresses.is_empty() {
                        true => drop(self.known.remove(&host)),
                        false => drop(self.known.insert(host, addresses)),
                    }
                    self.known_changed = true;
                }
                Output::Note(text) => tracing::info!("{text}"),
            }
        }
        if roster_changed {
            self.refresh_gate();
        }
        Ok(())
    }

    fn dial(&mut self, address: &str) {
        if let Some(seed) = self.seeds.dialled(address, self.clock.mono()) {
            return self.mesh.dial_seed(seed);
        }
        match address.parse() {
            Ok(address) => self.mesh.dial(address),
            Err(error) => tracing::warn!(%address, %error, "not an address"),
        }
    }

    /// Writes down where other hosts are. It only saves time after a restart, so it is not worth a
    /// write for each change, nor stopping for.
    fn remember(&mut self) {
        if std::mem::take(&mut self.known_changed)
            && let Err(error) = self.home.set_known(&self.known)
        {
            self.known_changed = true;
            tracing::warn!(%error, "the addresses of other hosts could not be written down");
        }
    }

    fn refresh_gate(&self) {
        let members = self.node.ledger().members();
        let admitted = members.map(|member| (member.host, member.id)).collect();
        let refused = self.node.refused_members();
        let electorate = self.node.electorate().clone();
        let removed = self.node.ledger().removed().collect();
        self.gate.update(|roster| {
            let trust = roster.gate.trust.clone();
            let gate =
                groundswell_protocol::gate::Gate { trust, electorate, admitted, refused, removed };
            roster.gate = Arc::new(gate);
        });
    }

    fn execute(&self, asked: Asked, request: Request) {
        let (executor, inputs) = (self.executor.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let answer = executor.ask(&request).await.map_err(|error| error.to_string());
            // The engine outlives its requests; if it is gone so is the process.
            drop(inputs.send(Input::Executed(asked, answer)).await);
        });
    }

    /// The executor's next report shows whether it has heard; until it does, this comes again.
    fn tell_voters(&self, lists: Vec<Signed<VoterList>>) {
        let executor = self.executor.clone();
        tokio::spawn(async move {
            if let Err(error) = executor.ask(&Request::Learn(lists)).await {
                tracing::warn!(%error, "swell-exec was not told who votes");
            }
        });
    }

    fn transfer(&self, input: TransferInput) {
        self.transfers.tell(input);
    }

    /// Passes on what a peer says of frames, which says as well that it is alive.
    fn hear(&self, from: HostId, input: TransferInput) -> Option<Input> {
        if !self.transfers.hear(input) {
            tracing::warn!(peer = from.short(), "a peer says more than this host can follow");
            self.mesh.close(from);
        }
        Some(Input::Message(from, Message::Heartbeat))
    }

    /// Takes in what has come over the links, all at once: while one wait for the disk lasted there may
    /// have come what the next one is enough for.
    fn mesh_events(&mut self, first: MeshEvent, events: &mut mpsc::Receiver<MeshEvent>) {
        let mut inputs = Vec::from_iter(self.mesh_event(first));
        while inputs.len() < INPUTS_AT_ONCE_MAX
            && let Ok(event) = events.try_recv()
        {
            inputs.extend(self.mesh_event(event));
        }
        self.feed_all(inputs);
    }

    fn mesh_event(&mut self, event: MeshEvent) -> Option<Input> {
        match event {
            MeshEvent::Up { peer } => {
                self.transfer(TransferInput::LinkUp(peer));
                Some(Input::LinkUp(peer))
            }
            MeshEvent::Down { peer } => {
                self.transfer(TransferInput::LinkDown(peer));
                Some(Input::LinkDown(peer))
            }
            MeshEvent::Message { from, message: Message::Have(holdings) } => {
                self.hear(from, TransferInput::Have(from, holdings))
            }
            MeshEvent::Message { from, message: Message::HaveMore { manifest, frames } } => {
                self.hear(from, TransferInput::HaveMore(from, manifest, frames))
            }
            MeshEvent::Message { from, message: Message::Unwanted { manifest, index } } => {
                self.hear(from, TransferInput::Unwanted(from, manifest, index))
            }
            MeshEvent::Message { from, message } => Some(Input::Message(from, message)),
            MeshEvent::Call { from, call, reply } => {
                self.asked(from, call, reply);
                None
            }
            MeshEvent::Dialled { asked } => {
                self.seeds.came(&asked, Ok(()));
                None
            }
            MeshEvent::DialFailed { asked, error } => {
                tracing::debug!(address = asked, error, "no connection");
                self.seeds.came(&asked, Err(error));
                None
            }
        }
    }

    /// Answers a peer's question, off this task.
    fn asked(&self, from: HostId, call: Call, reply: ReplyTo) {
        match call {
            Call::Log { deployment, offset } => {
                let is_member = self.node.ledger().is_member(from);
                self.logs.serve(from, is_member, Part { deployment, offset }, reply);
            }
            Call::Frame { manifest, index } => {
                if !self.transfers.hear(TransferInput::Asked(from, manifest, index, reply)) {
                    tracing::debug!(peer = from.short(), "a question too many is not answered");
                }
            }
            Call::Manifest { manifest, offset } => {
                let store = self.store.clone();
                tokio::task::spawn_blocking(move || {
                    reply.send(transfer::manifest_part(&store, &manifest, offset));
                });
            }
        }
    }

    /// Hands an entry in and keeps whoever waits for the answer.
    fn submit(&mut self, entry: groundswell_protocol::rollout::Entry, reply: views::SubmitReply) {
        self.waiting.entry(entry.submission_id()).or_default().push(reply);
        self.feed(Input::Submit(entry));
    }

    fn recover(&mut self, list: Signed<VoterList>, reply: views::SubmitReply) {
        self.waiting.entry(list.id(self.trust.fleet())).or_default().push(reply);
        self.feed(Input::Recover(list));
    }

    async fn trust_disk(&mut self, reply: oneshot::Sender<bool>) -> Result<(), EngineError> {
        let own = self.node.consensus();
        let was_in_doubt =
            own.is_some_and(groundswell_protocol::consensus::Consensus::is_held_back);
        self.feed(Input::TrustDisk);
        self.perform().await?;
        // Whoever asked may have gone away.
        reply.send(was_in_doubt).ok();
        Ok(())
    }

    fn answer(&mut self, id: Digest, outcome: &Result<u64, NotTaken>) {
        for reply in self.waiting.remove(&id).into_iter().flatten() {
            reply.send(outcome);
        }
    }
}

/// Names the start of this machine. Where the kernel does not, each start of the daemon counts as one.
fn machine_start() -> u64 {
    let Ok(id) = std::fs::read("/proc/sys/kernel/random/boot_id") else { return random_seed() };
    let digest = Digest::of_content(&id);
    digest.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where others reach this host: what the settings say, else where it listens. Loopback addresses are
/// told only where there is nothing else.
fn advertised(settings: &Settings, listening: Vec<Multiaddr>) -> Vec<String> {
    use libp2p::multiaddr::Protocol;
    let is_loopback = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    };
    let mut addresses =
        if settings.advertise.is_empty() { listening } else { settings.advertise.clone() };
    if !addresses.iter().all(is_loopback) {
        addresses.retain(|address| !is_loopback(address));
    }
    addresses.iter().take(ADDRESSES_MAX).map(ToString::to_string).collect()
}

fn random_seed() -> u64 {
    let mut seed = [0; 8];
    // Only variety hangs on it: elections that are timed alike are merely slow.
    if getrandom::fill(&mut seed).is_err() {
        seed = std::process::id().to_be_bytes().repeat(2).try_into().unwrap_or_default();
    }
    u64::from_be_bytes(seed)
}

const QUEUE: usize = 256;
/// Judging so many takes a few hundredths of a second, far less than leaders may be silent.
const INPUTS_AT_ONCE_MAX: usize = 128;
/// How long a daemon goes on that was told to stop: its last record is at all its neighbours, and another voter
/// leads.
pub const LEAVES_FOR: std::time::Duration = std::time::Duration::from_millis(500);
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
const REMEMBER_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

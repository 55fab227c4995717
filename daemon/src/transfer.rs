//! Fetching revisions from other hosts, and serving them.
//!
//! [`Transfers`] is one task. It owns the host's [`Swarm`] and tells the engine how far each revision
//! is. Which frame is asked of whom and who is given what next is decided in `protocol::swarm`; here
//! questions become calls and answers become files. Nothing is lost in a crash but the frames that were
//! not synced, and those are fetched again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use groundswell_protocol::{
    ids::{Digest, HostId},
    limits::CALL_BYTES_MAX,
    node::Progress,
    revision::Manifest,
    swarm::{Ask, Backlog, Failure, Give, HoldingRefused, Output, Rates, Swarm, Turns},
    wire::{Call, Holding, Reply},
};
use tokio::sync::mpsc;

use crate::{
    clock::Clock,
    mesh::{Mesh, ReplyTo},
    store::{Change, Store},
};

/// What the task is told.
#[derive(Debug)]
pub enum TransferInput {
    /// Bring a revision here; `bytes` is the length of its manifest.
    Fetch {
        /// The revision.
        manifest: Digest,
        /// The length of its manifest.
        bytes: u64,
        /// Read every frame that is here again first.
        recheck: bool,
    },
    /// A revision was imported on this host.
    Imported(Digest),
    /// A peer says what it holds.
    Have(HostId, Vec<Holding>),
    /// A peer holds more frames of a revision.
    HaveMore(HostId, Digest, Vec<u32>),
    /// A peer asks for a frame of a revision.
    Asked(HostId, Digest, u32, ReplyTo),
    /// A peer waits no more for a frame that it asked for.
    Unwanted(HostId, Digest, u32),
    /// A frame is on the wire to a peer, or cannot be given.
    Given(Give),
    /// A peer's link is up.
    LinkUp(HostId),
    /// A peer is gone.
    LinkDown(HostId),
    /// A manifest was fetched from this peer, or could not be.
    ManifestFetched(Digest, HostId, Result<(), ManifestTrouble>),
    /// Something is not in the store any more.
    Changed(Change),
    /// Every frame of a revision was read again.
    Rechecked(Digest, u64),
    /// A revision that is here in full was made durable, or could not be.
    Synced(Digest, Result<(), String>),
    /// A call for a frame has ended.
    FrameFetched(Ask, Result<(), FrameTrouble>),
}

/// Why a manifest did not come.
#[derive(Debug)]
pub enum ManifestTrouble {
    /// The peer's fault or bad luck; another peer may do better.
    Peer(String),
    /// This host's own store failed.
    Store(String),
}

/// Why a call brought no frame.
#[derive(Debug)]
pub enum FrameTrouble {
    /// The peer's fault or bad luck; another peer may do better.
    Peer(Failure),
    /// The peer sent other bytes than the frame's.
    Lie,
    /// This host's own store failed.
    Store(String),
}

/// Where the task is told things.
#[derive(Clone, Debug)]
pub struct Inbox {
    inputs: mpsc::UnboundedSender<TransferInput>,
    /// What peers have said and the task has not looked at.
    backlog: Arc<Mutex<Backlog>>,
}

impl Inbox {
    fn new() -> (Self, mpsc::UnboundedReceiver<TransferInput>) {
        let (inputs, queue) = mpsc::unbounded_channel();
        (Self { inputs, backlog: Arc::default() }, queue)
    }

    /// Tells it what happens on this host.
    pub fn tell(&self, input: TransferInput) {
        // It ends when the host does.
        drop(self.inputs.send(input));
    }

    /// Tells it what a peer says. False if that peer says more than the task can follow: what is lost
    /// then is said anew where the peer's link begins anew.
    #[must_use]
    pub fn hear(&self, input: TransferInput) -> bool {
        let heard = input.of_peer().is_none_or(|(peer, bytes)| self.backlog().add(peer, bytes));
        if heard {
            self.tell(input);
        }
        heard
    }

    fn taken(&self, input: &TransferInput) {
        if let Some((peer, bytes)) = input.of_peer() {
            self.backlog().remove(peer, bytes);
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // Nothing that panics runs while it is held.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TransferInput {
    /// Which peer has said it, and about how much of memory it has filled with it.
    fn of_peer(&self) -> Option<(HostId, usize)> {
        let (peer, more) = match self {
            Self::Have(peer, holdings) => {
                let bytes = holdings.iter().map(|holding| holding.frames.len());
                (peer, bytes.sum::<usize>() + size_of_val(&holdings[..]))
            }
            Self::HaveMore(peer, _, frames) => (peer, size_of_val(&frames[..])),
            Self::Asked(peer, ..) | Self::Unwanted(peer, ..) => (peer, 0),
            _ => return None,
        };
        Some((*peer, size_of::<Self>() + more))
    }
}

/// Progress of revisions, for the engine.
pub type Reports = mpsc::Sender<(Digest, Progress)>;

/// The task's state.
pub struct Transfers {
    store: Arc<Store>,
    mesh: Mesh,
    clock: Clock,
    reports: Reports,
    inbox: Inbox,
    swarm: Swarm,
    jobs: BTreeMap<Digest, Job>,
    /// Where answers go that peers wait for.
    replies: BTreeMap<(HostId, Digest, u32), ReplyTo>,
}

/// A revision whose manifest is here.
struct Known {
    content: Arc<Manifest>,
    /// The frames that are not.
    missing: BTreeSet<Digest>,
}

impl Known {
    fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// One revision on its way here.
#[derive(Default)]
struct Job {
    /// It was here in full, and some of it was lost.
    mends: bool,
    manifest_bytes: u64,
    manifest_asked: bool,
    /// Whom to ask for the manifest.
    turns: Turns,
    last_percent: Option<u8>,
}

impl Transfers {
    /// Starts the task; it ends when every sender of its inbox is gone.
    pub fn start(
        store: Arc<Store>,
        mesh: Mesh,
        clock: Clock,
        reports: Reports,
        seed: u64,
    ) -> Inbox {
        let (inbox, mut inputs) = Inbox::new();
        let mut transfers = Self::new(store, mesh, clock, reports, inbox.clone(), seed);
        let changes = inbox.clone();
        transfers.store.on_change(move |change| changes.tell(TransferInput::Changed(change)));
        for manifest in transfers.store.manifests() {
            if let Some(known) = transfers.known(&manifest).filter(Known::is_complete) {
                transfers.open(manifest, known);
            }
        }
        tokio::spawn(async move { while transfers.step(&mut inputs).await {} });
        inbox
    }

    fn new(
        store: Arc<Store>,
        mesh: Mesh,
        clock: Clock,
        reports: Reports,
        inbox: Inbox,
        seed: u64,
    ) -> Self {
        let (jobs, replies) = (BTreeMap::new(), BTreeMap::new());
        let swarm = Swarm::new(Rates::default(), seed);
        Self { store, mesh, clock, reports, inbox, swarm, jobs, replies }
    }

    /// Waits for something to happen, and does what is to be done then. False when nothing will.
    async fn step(&mut self, inputs: &mut mpsc::UnboundedReceiver<TransferInput>) -> bool {
        match tokio::time::timeout(self.rest(), inputs.recv()).await {
            Ok(Some(input)) => self.take_all(input, inputs).await,
            Ok(None) => return false,
            Err(_) => {}
        }
        self.advance().await;
        true
    }

    /// How long nothing has to be done if nothing happens.
    fn rest(&self) -> Duration {
        let beat = if self.jobs.is_empty() { IDLE } else { BEAT };
        let deadline = self.swarm.next_deadline();
        deadline.map_or(beat, |at| at.since(self.clock.mono()).min(beat))
    }

    /// Takes in what has come, all at once: what is to be done then is done once.
    async fn take_all(
        &mut self,
        first: TransferInput,
        inputs: &mut mpsc::UnboundedReceiver<TransferInput>,
    ) {
        let (mut next, mut left) = (Some(first), INPUTS_AT_ONCE_MAX);
        while let Some(input) = next {
            self.inbox.taken(&input);
            self.take(input).await;
            left -= 1;
            next = (left > 0).then(|| inputs.try_recv().ok()).flatten();
        }
    }

    async fn take(&mut self, input: TransferInput) {
        match input {
            TransferInput::Fetch { manifest, bytes, recheck: true } => {
                self.recheck(manifest, bytes);
            }
            TransferInput::Fetch { manifest, bytes, recheck: false }
            | TransferInput::Rechecked(manifest, bytes) => self.fetch(manifest, bytes).await,
            TransferInput::Imported(manifest) => {
                self.jobs.remove(&manifest);
                if !self.swarm.is_done(manifest)
                    && let Some(known) = self.known(&manifest)
                    && self.open(manifest, known)
                {
                    self.swarm.premiere(manifest);
                }
                self.complete(manifest);
            }
            TransferInput::Changed(Change::Lost(frame)) => {
                self.store.naming(&frame).into_iter().for_each(|one| self.swarm.damaged(one));
            }
            TransferInput::Changed(Change::Evicted(manifest)) => {
                self.jobs.remove(&manifest);
                self.swarm.close(manifest);
                self.report(manifest, Progress::Gone).await;
            }
            TransferInput::Synced(manifest, outcome) => self.synced(manifest, outcome).await,
            TransferInput::Have(peer, holdings) => {
                for holding in holdings {
                    said(peer, self.swarm.holding(peer, holding));
                }
            }
            TransferInput::HaveMore(peer, manifest, frames) => {
                said(peer, self.swarm.more(peer, manifest, &frames));
            }
            TransferInput::Asked(peer, manifest, index, reply) => {
                self.asked(peer, manifest, index, reply);
            }
            TransferInput::Unwanted(peer, manifest, index) => {
                self.swarm.cancelled(peer, manifest, index);
            }
            TransferInput::Given(give) => self.swarm.given(give.peer, give.manifest, give.index),
            TransferInput::LinkUp(peer) => self.swarm.peer_up(peer),
            TransferInput::LinkDown(peer) => {
                self.swarm.peer_gone(peer);
                self.replies.retain(|(of, ..), _| *of != peer);
            }
            TransferInput::ManifestFetched(manifest, peer, outcome) => {
                self.manifest_fetched(manifest, peer, outcome).await;
            }
            TransferInput::FrameFetched(ask, outcome) => self.frame_fetched(ask, outcome).await,
        }
    }

    /// A peer asks for a frame. It is answered in its turn, or told at once that it will not be.
    fn asked(&mut self, peer: HostId, manifest: Digest, index: u32, reply: ReplyTo) {
        match self.swarm.asked(self.clock.mono(), peer, manifest, index) {
            Ok(()) => drop(self.replies.insert((peer, manifest, index), reply)),
            Err(Failure::Absent) => reply.send(Reply::Absent),
            Err(_) => reply.send(Reply::Busy),
        }
    }

    fn give(&mut self, give: Give) {
        let inbox = self.inbox.clone();
        let Some(reply) = self.replies.remove(&(give.peer, give.manifest, give.index)) else {
            return inbox.tell(TransferInput::Given(give));
        };
        let store = self.store.clone();
        tokio::spawn(async move {
            let frame = tokio::task::spawn_blocking(move || store.frame(&give.frame)).await;
            let found = frame.ok().flatten().map_or(Reply::Absent, Reply::Bytes);
            reply.send_through(found).await;
            inbox.tell(TransferInput::Given(give));
        });
    }

    async fn manifest_fetched(
        &mut self,
        manifest: Digest,
        peer: HostId,
        outcome: Result<(), ManifestTrouble>,
    ) {
        let now = self.clock.mono();
        let Some(job) = self.jobs.get_mut(&manifest) else { return };
        job.manifest_asked = false;
        match outcome {
            Ok(()) => self.open_wanted(manifest, self.known(&manifest)).await,
            Err(ManifestTrouble::Peer(reason)) => {
                tracing::debug!(peer = peer.short(), reason, "a peer gave no manifest");
                job.turns.failed(now, peer);
            }
            // The node asks again after a while: whatever it was may be mended by then.
            Err(ManifestTrouble::Store(reason)) => self.give_up(manifest, reason).await,
        }
    }

    fn recheck(&self, manifest: Digest, bytes: u64) {
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            if let Some(content) = store.manifest(&manifest) {
                store.recheck(&content);
            }
            inbox.tell(TransferInput::Rechecked(manifest, bytes));
        });
    }

    async fn fetch(&mut self, manifest: Digest, manifest_bytes: u64) {
        let mut known = self.known(&manifest);
        if let Some(known) = known.take_if(|known| known.is_complete()) {
            self.open(manifest, known);
            self.complete(manifest);
            return;
        }
        if self.jobs.contains_key(&manifest) {
            return;
        }
        self.jobs.insert(manifest, Job { manifest_bytes, ..Job::default() });
        self.open_wanted(manifest, known).await;
    }

    fn known(&self, manifest: &Digest) -> Option<Known> {
        let content = self.store.manifest(manifest)?;
        let missing = self.store.missing(&content);
        Some(Known { content, missing })
    }

    /// Takes part in the swarm of a revision. False if there are too many.
    fn open(&mut self, manifest: Digest, known: Known) -> bool {
        if known.is_complete() && self.swarm.is_done(manifest) {
            return true;
        }
        let Known { content, missing } = known;
        self.swarm.open(self.clock.mono(), manifest, content, |frame| !missing.contains(frame))
    }

    async fn open_wanted(&mut self, manifest: Digest, known: Option<Known>) {
        let Some(known) = known else { return };
        // Thousands of files may have to go.
        let (store, content) = (self.store.clone(), known.content.clone());
        let room = tokio::task::spawn_blocking(move || store.make_room_for(&manifest, &content));
        let room = room.await.map_err(|died| died.to_string());
        if let Err(error) = room.and_then(|room| room.map_err(|error| error.to_string())) {
            self.give_up(manifest, error).await;
        } else if !self.open(manifest, known) {
            self.give_up(manifest, "as many revisions as may be are on their way".into()).await;
        }
    }

    /// It is not the peers' fault: the fetch ends, and the node begins another after a while. What is here
    /// is still given.
    async fn give_up(&mut self, manifest: Digest, reason: String) {
        if self.jobs.remove(&manifest).is_none() {
            return;
        }
        tracing::error!(revision = manifest.short(), %reason, "a revision is not fetched for now");
        self.swarm.stop_fetching(manifest);
        self.report(manifest, Progress::Troubled(reason)).await;
    }

    /// Does what is to be done now, and ends what is done.
    async fn advance(&mut self) {
        while self.act() {}
        let manifests: Vec<_> = self.jobs.keys().copied().collect();
        for manifest in manifests {
            match self.swarm.progress(manifest) {
                None => self.ask_manifest(manifest),
                Some(_) if self.swarm.is_done(manifest) => {
                    if self.jobs.remove(&manifest).is_some_and(|job| job.mends) {
                        let revision = manifest.short();
                        tracing::info!(revision, "what was damaged of a revision has come again");
                    }
                    self.complete(manifest);
                }
                Some(progress) => {
                    let percent = progress.bytes_done * 100 / progress.bytes_total.max(1);
                    self.report_percent(manifest, u8::try_from(percent).unwrap_or(99)).await;
                }
            }
        }
    }

    /// Does what the swarm wants done. True if it may want more then.
    fn act(&mut self) -> bool {
        let mut opened = false;
        for output in self.swarm.poll(self.clock.mono()) {
            match output {
                Output::Ask(ask) => self.ask_frame(ask),
                Output::Give(give) => self.give(give),
                Output::Refuse(Give { peer, manifest, index, .. }) => {
                    if let Some(reply) = self.replies.remove(&(peer, manifest, index)) {
                        reply.send(Reply::Busy);
                    }
                }
                Output::Send(peer, message) => self.mesh.send(peer, &message),
                Output::Open(manifest) => opened |= self.open_again(manifest),
            }
        }
        opened
    }

    /// Opens a revision that is here, or was until some of it was lost.
    fn open_again(&mut self, manifest: Digest) -> bool {
        let Some(known) = self.known(&manifest) else { return false };
        let mends = !known.is_complete();
        let opened = self.open(manifest, known);
        if opened && mends {
            self.jobs.entry(manifest).or_insert_with(|| Job { mends, ..Job::default() });
        }
        opened
    }

    fn ask_manifest(&mut self, manifest: Digest) {
        let now = self.clock.mono();
        let Some(job) = self.jobs.get_mut(&manifest) else { return };
        if job.manifest_asked {
            return;
        }
        let Some(peer) = job.turns.next(now, self.swarm.holders(manifest)) else { return };
        job.manifest_asked = true;
        let (bytes, mesh, store) = (job.manifest_bytes, self.mesh.clone(), self.store.clone());
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let outcome = fetch_manifest(&mesh, &store, peer, manifest, bytes);
            let outcome = tokio::time::timeout(MANIFEST_PATIENCE, outcome).await;
            let outcome = outcome.unwrap_or_else(|_| {
                Err(ManifestTrouble::Peer("it takes too long over a manifest".into()))
            });
            inbox.tell(TransferInput::ManifestFetched(manifest, peer, outcome));
        });
    }

    fn ask_frame(&self, ask: Ask) {
        let (mesh, store, inbox) = (self.mesh.clone(), self.store.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let outcome = fetch_frame(&mesh, store, &ask).await;
            inbox.tell(TransferInput::FrameFetched(ask, outcome));
        });
    }

    async fn frame_fetched(&mut self, ask: Ask, outcome: Result<(), FrameTrouble>) {
        let (now, Ask { peer, manifest, index, .. }) = (self.clock.mono(), ask);
        match outcome {
            Ok(()) => self.swarm.received(now, peer, manifest, index, true),
            Err(FrameTrouble::Lie) => {
                let before = self.swarm.set_aside(manifest).len();
                self.swarm.received(now, peer, manifest, index, false);
                if self.swarm.set_aside(manifest).len() > before {
                    let peer = peer.short();
                    tracing::warn!(peer, "a peer sent a wrong frame and is set aside");
                }
            }
            Err(FrameTrouble::Peer(why)) => self.swarm.failed(now, peer, manifest, index, why),
            Err(FrameTrouble::Store(reason)) => {
                self.swarm.failed(now, peer, manifest, index, Failure::Error);
                self.give_up(manifest, reason).await;
            }
        }
    }

    /// All of it is here: make it outlive a power cut, off this task.
    fn complete(&self, manifest: Digest) {
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let outcome = store.sync().map_err(|error| error.to_string());
            inbox.tell(TransferInput::Synced(manifest, outcome));
        });
    }

    async fn synced(&mut self, manifest: Digest, outcome: Result<(), String>) {
        if let Err(reason) = outcome {
            self.report(manifest, Progress::Troubled(reason)).await;
            return;
        }
        self.report(manifest, Progress::Complete).await;
    }

    async fn report_percent(&mut self, manifest: Digest, percent: u8) {
        let Some(job) = self.jobs.get_mut(&manifest) else { return };
        if job.last_percent.replace(percent) != Some(percent) {
            self.report(manifest, Progress::Fetching(percent)).await;
        }
    }

    async fn report(&self, manifest: Digest, progress: Progress) {
        // The engine outlives this task; when it is gone nobody wants to know.
        drop(self.reports.send((manifest, progress)).await);
    }
}

/// A peer that says what cannot be is set aside, and is told of once.
fn said(peer: HostId, outcome: Result<(), HoldingRefused>) {
    if let Err(error) = outcome {
        tracing::warn!(peer = peer.short(), %error, "a peer holds what cannot be");
    }
}

/// Fetches a manifest part by part and stores it once its hash is right. Parts that are shorter than
/// they need be would make it a matter of hours.
async fn fetch_manifest(
    mesh: &Mesh,
    store: &Arc<Store>,
    peer: HostId,
    manifest: Digest,
    bytes: u64,
) -> Result<(), ManifestTrouble> {
    let peers = |reason: &str| ManifestTrouble::Peer(reason.into());
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut content = Vec::new();
    while content.len() < bytes {
        let offset = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let reply = mesh.call(peer, Call::Manifest { manifest, offset }).await;
        match reply.map_err(|error| peers(&error.to_string()))? {
            Reply::Bytes(part) if part.len() == MANIFEST_PART_BYTES.min(bytes - content.len()) => {
                content.extend_from_slice(&part);
            }
            Reply::Bytes(_) => return Err(peers("it sent a part of another length")),
            Reply::Absent => return Err(peers("it has no such manifest")),
            Reply::Busy => return Err(peers("it is busy")),
            Reply::Failed(reason) => return Err(peers(&reason)),
        }
    }
    if Manifest::id_of(&content) != manifest {
        return Err(peers("it sent another manifest"));
    }
    let failed = |error: &dyn std::fmt::Display| ManifestTrouble::Store(error.to_string());
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.put_manifest(&content, manifest))
        .await
        .map_err(|error| failed(&error))?
        .map(drop)
        .map_err(|error| failed(&error))
}

async fn fetch_frame(mesh: &Mesh, store: Arc<Store>, ask: &Ask) -> Result<(), FrameTrouble> {
    let Ask { peer, manifest, index, frame } = *ask;
    let reply = mesh.call(peer, Call::Frame { manifest, index }).await;
    let bytes = match reply {
        Ok(Reply::Bytes(bytes)) => bytes,
        Ok(Reply::Absent) => return Err(FrameTrouble::Peer(Failure::Absent)),
        Ok(Reply::Busy) => return Err(FrameTrouble::Peer(Failure::Busy)),
        Ok(Reply::Failed(_)) | Err(_) => return Err(FrameTrouble::Peer(Failure::Error)),
    };
    if Digest::of_content(&bytes) != frame {
        return Err(FrameTrouble::Lie);
    }
    tokio::task::spawn_blocking(move || store.put_frame(frame, &bytes))
        .await
        .map_err(|error| FrameTrouble::Store(error.to_string()))?
        .map(drop)
        .map_err(|error| FrameTrouble::Store(error.to_string()))
}

/// Answers a peer's question for a part of a manifest from the store.
pub fn manifest_part(store: &Store, manifest: &Digest, offset: u64) -> Reply {
    let Some(bytes) = store.manifest_bytes(manifest) else { return Reply::Absent };
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let to = from.saturating_add(MANIFEST_PART_BYTES).min(bytes.len());
    Reply::Bytes(bytes[from..to].to_vec())
}

/// While something is on its way here a manifest may have to be asked for.
const BEAT: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(60);
/// What comes faster than this is looked at together.
const INPUTS_AT_ONCE_MAX: usize = 256;
const MANIFEST_PART_BYTES: usize = CALL_BYTES_MAX / 2;
/// The largest manifest in its parts, over a slow link.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::store::tests::revision;

    const LIAR: HostId = HostId([1; 32]);

    /// The task of a host that fetches a revision, its inputs, and what it reports.
    struct Bench {
        transfers: Transfers,
        inputs: mpsc::UnboundedReceiver<TransferInput>,
        reports: mpsc::Receiver<(Digest, Progress)>,
        manifest: Digest,
        content: Arc<Manifest>,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(&dir.path().join("store"), 1 << 30).unwrap());
            let bytes = revision(&["a"], 1 << 20).bytes;
            let manifest = Manifest::id_of(&bytes);
            let (inbox, inputs) = Inbox::new();
            let (reports_in, reports) = mpsc::channel(100);
            let (mesh, clock) = (Mesh::unconnected(), Clock::start());
            let transfers =
                Transfers::new(store.clone(), mesh, clock, reports_in, inbox.clone(), 1);
            let content = store.put_manifest(&bytes, manifest).unwrap();
            inbox.tell(TransferInput::LinkUp(LIAR));
            let bytes = bytes.len().try_into().unwrap();
            inbox.tell(TransferInput::Fetch { manifest, bytes, recheck: false });
            let mut bench = Self { transfers, inputs, reports, manifest, content, _dir: dir };
            bench.step().await;
            bench
        }

        async fn step(&mut self) {
            assert!(self.transfers.step(&mut self.inputs).await);
        }

        fn frames(&self) -> u32 {
            u32::try_from(self.content.frames.len()).unwrap()
        }

        fn ask(&self, index: u32) -> Ask {
            let frame = self.content.frames[usize::try_from(index).unwrap()].hash;
            Ask { peer: LIAR, manifest: self.manifest, index, frame }
        }
    }

    #[tokio::test]
    async fn what_comes_together_is_acted_on_once() {
        let mut bench = Bench::new().await;
        assert_eq!(bench.reports.recv().await, Some((bench.manifest, Progress::Fetching(0))));
        for index in 0..bench.frames() {
            let came = TransferInput::FrameFetched(bench.ask(index), Ok(()));
            bench.transfers.inbox.tell(came);
        }
        bench.step().await;
        assert!(bench.reports.is_empty(), "nothing is told of the way");
        bench.step().await;
        assert_eq!(bench.reports.recv().await, Some((bench.manifest, Progress::Complete)));
    }

    #[tokio::test]
    async fn whoever_gives_wrong_frames_is_named_once() {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut bench = Bench::new().await;
        let mut bits = vec![0; usize::try_from(bench.frames().div_ceil(8)).unwrap()];
        (0..bench.frames())
            .for_each(|index| bits[usize::try_from(index / 8).unwrap()] |= 1 << (index % 8));
        let all = Holding { manifest: bench.manifest, frames: bits };
        assert!(bench.transfers.inbox.hear(TransferInput::Have(LIAR, vec![all])));
        bench.step().await;
        let asked = u32::try_from(bench.transfers.swarm.load().asks).unwrap();
        assert!(asked > 1);
        let log = Log::default();
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || written.clone()).finish();
        let _log = tracing::subscriber::set_default(subscriber);
        for index in 0..bench.frames() {
            let lie = TransferInput::FrameFetched(bench.ask(index), Err(FrameTrouble::Lie));
            bench.transfers.inbox.tell(lie);
        }
        while !bench.inputs.is_empty() {
            bench.step().await;
        }
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.matches("sent a wrong frame").count(), 1, "{log}");
    }

    #[test]
    fn what_one_peer_says_and_nobody_hears_is_bounded_and_costs_others_nothing() {
        let (inbox, mut queue) = Inbox::new();
        let (floods, talks) = (HostId([1; 32]), HostId([2; 32]));
        let said = |peer| TransferInput::HaveMore(peer, Digest::ZERO, vec![0; 1 << 18]);
        let heard = (0..1000).take_while(|_| inbox.hear(said(floods))).count();
        assert!((4..=8).contains(&heard), "{heard} of a MiB each");
        assert!(inbox.hear(said(talks)));
        inbox.tell(TransferInput::LinkDown(floods));
        while let Ok(input) = queue.try_recv() {
            inbox.taken(&input);
        }
        let heard = (0..1000).take_while(|_| inbox.hear(said(talks))).count();
        assert!((4..=8).contains(&heard), "what was looked at waits no more: {heard}");
    }
}

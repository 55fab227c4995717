//! Fetching revisions from other hosts, and serving them.
//!
//! [`Transfers`] is one task. It owns the running fetches and what the neighbours say they hold; it
//! tells the engine how far each revision is. Which frame is asked of whom is decided in
//! `protocol::swarm`; here questions become calls and answers become files. Nothing is lost in a
//! crash but the frames that were not synced, and those are fetched again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use groundswell_protocol::{
    ids::{Digest, HostId},
    limits::CALL_BYTES_MAX,
    node::Progress,
    revision::Manifest,
    swarm::{Ask, Failure, Fetch, Turns},
    time::Mono,
    wire::{Call, Holding, Message, Reply},
};
use tokio::sync::mpsc;

use crate::{clock::Clock, mesh::Mesh, store::Store};

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
    /// A peer's link is up.
    LinkUp(HostId),
    /// A peer is gone.
    LinkDown(HostId),
    /// A manifest was fetched from this peer, or could not be.
    ManifestFetched(Digest, HostId, Result<(), ManifestTrouble>),
    /// Every frame of a revision was read again.
    Rechecked(Digest, u64),
    /// A revision that is here in full was made durable, or could not be.
    Synced(Digest, Result<(), String>),
    /// A call for a frame has ended.
    FrameFetched(Digest, HostId, u32, Result<(), FrameTrouble>),
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

/// Progress of revisions, for the engine.
pub type Reports = mpsc::Sender<(Digest, Progress)>;

/// The task's state.
pub struct Transfers {
    store: Arc<Store>,
    mesh: Mesh,
    clock: Clock,
    reports: Reports,
    inbox: mpsc::UnboundedSender<TransferInput>,
    links: BTreeSet<HostId>,
    holdings: BTreeMap<HostId, Holdings>,
    jobs: BTreeMap<Digest, Job>,
}

/// What a peer says that it holds, as far as it is kept.
#[derive(Default)]
struct Holdings {
    by_manifest: BTreeMap<Digest, Holding>,
    bytes: usize,
}

impl Holdings {
    /// Keeps what fits. The rest is not asked for at this peer.
    fn keep(&mut self, holding: Holding) {
        let size = |holding: &Holding| holding.frames.len() + size_of::<Holding>() * 2;
        let before = self.by_manifest.remove(&holding.manifest);
        self.bytes -= before.as_ref().map_or(0, size);
        if self.bytes + size(&holding) <= HOLDINGS_BYTES_PER_PEER_MAX {
            self.bytes += size(&holding);
            self.by_manifest.insert(holding.manifest, holding);
        }
    }
}

/// One revision on its way here.
struct Job {
    manifest_bytes: u64,
    manifest_asked: bool,
    /// Whom to ask for the manifest.
    turns: Turns,
    fetch: Option<Fetch>,
    last_percent: Option<u8>,
    announced: u32,
}

impl Transfers {
    /// Starts the task; it ends when every sender of its inbox is gone.
    pub fn start(
        store: Arc<Store>,
        mesh: Mesh,
        clock: Clock,
        reports: Reports,
    ) -> mpsc::UnboundedSender<TransferInput> {
        let (inbox, mut inputs) = mpsc::unbounded_channel();
        let mut transfers = Self {
            store,
            mesh,
            clock,
            reports,
            inbox: inbox.clone(),
            links: BTreeSet::new(),
            holdings: BTreeMap::new(),
            jobs: BTreeMap::new(),
        };
        tokio::spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    input = inputs.recv() => match input {
                        Some(input) => transfers.take(input).await,
                        None => return,
                    },
                    _ = beat.tick(), if !transfers.jobs.is_empty() => transfers.advance().await,
                }
            }
        });
        inbox
    }

    async fn take(&mut self, input: TransferInput) {
        match input {
            TransferInput::Fetch { manifest, bytes, recheck: true } => {
                self.recheck(manifest, bytes);
            }
            TransferInput::Fetch { manifest, bytes, recheck: false }
            | TransferInput::Rechecked(manifest, bytes) => self.fetch(manifest, bytes),
            TransferInput::Imported(manifest) => {
                self.jobs.remove(&manifest);
                self.complete(manifest);
            }
            TransferInput::Synced(manifest, outcome) => self.synced(manifest, outcome).await,
            TransferInput::Have(peer, holdings) => self.have(peer, holdings),
            TransferInput::LinkUp(peer) => {
                self.links.insert(peer);
                self.announce_all_to(peer);
            }
            TransferInput::LinkDown(peer) => {
                self.links.remove(&peer);
                self.holdings.remove(&peer);
                for job in self.jobs.values_mut() {
                    if let Some(fetch) = &mut job.fetch {
                        fetch.peer_gone(peer);
                    }
                }
            }
            TransferInput::ManifestFetched(manifest, peer, outcome) => {
                self.manifest_fetched(manifest, peer, outcome).await;
            }
            TransferInput::FrameFetched(manifest, peer, index, outcome) => {
                self.frame_fetched(manifest, peer, index, outcome).await;
            }
        }
        self.advance().await;
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
            Ok(()) => self.begin_frames(manifest),
            Err(ManifestTrouble::Peer(reason)) => {
                tracing::debug!(peer = peer.short(), reason, "a peer gave no manifest");
                job.turns.failed(now, peer);
            }
            // The node asks again after a while: whatever it was may be mended by then.
            Err(ManifestTrouble::Store(reason)) => {
                self.jobs.remove(&manifest);
                self.report(manifest, Progress::Troubled(reason)).await;
            }
        }
    }

    fn recheck(&self, manifest: Digest, bytes: u64) {
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            if let Some(content) = store.manifest(&manifest) {
                store.recheck(&content);
            }
            drop(inbox.send(TransferInput::Rechecked(manifest, bytes)));
        });
    }

    fn fetch(&mut self, manifest: Digest, manifest_bytes: u64) {
        if self.is_complete(&manifest) {
            self.complete(manifest);
            return;
        }
        self.jobs.entry(manifest).or_insert_with(|| Job {
            manifest_bytes,
            manifest_asked: false,
            turns: Turns::default(),
            fetch: None,
            last_percent: None,
            announced: 0,
        });
        if self.store.manifest(&manifest).is_some() {
            self.begin_frames(manifest);
        }
    }

    fn is_complete(&self, manifest: &Digest) -> bool {
        self.store.manifest(manifest).is_some_and(|m| self.store.missing(&m).is_empty())
    }

    fn have(&mut self, peer: HostId, holdings: Vec<Holding>) {
        let known = self.holdings.entry(peer).or_default();
        for holding in holdings {
            if let Some(fetch) =
                self.jobs.get_mut(&holding.manifest).and_then(|job| job.fetch.as_mut())
            {
                offer(fetch, peer, &holding);
            }
            known.keep(holding);
        }
    }

    /// The manifest is here: plan the frames.
    fn begin_frames(&mut self, manifest: Digest) {
        let Some(content) = self.store.manifest(&manifest) else { return };
        let Some(job) = self.jobs.get_mut(&manifest) else { return };
        if job.fetch.is_some() {
            return;
        }
        let store = &self.store;
        let seed = u64::from_be_bytes([
            manifest.0[0],
            manifest.0[1],
            manifest.0[2],
            manifest.0[3],
            manifest.0[4],
            manifest.0[5],
            manifest.0[6],
            manifest.0[7],
        ]) ^ self.clock.mono().0;
        let mut fetch = Fetch::new(manifest, &content.frames, |frame| store.has_frame(frame), seed);
        for (peer, holdings) in &self.holdings {
            if let Some(holding) = holdings.by_manifest.get(&manifest) {
                offer(&mut fetch, *peer, holding);
            }
        }
        job.fetch = Some(fetch);
    }

    /// Asks for what may be asked for now, and ends what is done.
    async fn advance(&mut self) {
        let now = self.clock.mono();
        let mut done = Vec::new();
        let manifests: Vec<_> = self.jobs.keys().copied().collect();
        for manifest in manifests {
            self.ask_manifest(manifest);
            let asks = self.next_asks(manifest, now);
            for ask in asks {
                self.ask_frame(manifest, ask);
            }
            let Some(fetch) = self.jobs.get(&manifest).and_then(|job| job.fetch.as_ref()) else {
                continue;
            };
            if fetch.is_done() {
                done.push(manifest);
            } else {
                let progress = fetch.progress();
                let percent = progress.bytes_done * 100 / progress.bytes_total.max(1);
                self.report_percent(manifest, u8::try_from(percent).unwrap_or(99)).await;
            }
        }
        for manifest in done {
            self.jobs.remove(&manifest);
            self.complete(manifest);
        }
    }

    fn next_asks(&mut self, manifest: Digest, now: Mono) -> Vec<Ask> {
        let fetch = self.jobs.get_mut(&manifest).and_then(|job| job.fetch.as_mut());
        fetch.map(|fetch| fetch.next(now)).unwrap_or_default()
    }

    fn ask_manifest(&mut self, manifest: Digest) {
        let now = self.clock.mono();
        let Some(job) = self.jobs.get_mut(&manifest) else { return };
        if job.fetch.is_some() || job.manifest_asked {
            return;
        }
        let holds = |(_, held): &(&HostId, &Holdings)| held.by_manifest.contains_key(&manifest);
        let holders = self.holdings.iter().filter(holds).map(|(peer, _)| *peer);
        let Some(peer) = job.turns.next(now, holders.filter(|peer| self.links.contains(peer)))
        else {
            return;
        };
        job.manifest_asked = true;
        let (bytes, mesh, store) = (job.manifest_bytes, self.mesh.clone(), self.store.clone());
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let outcome = fetch_manifest(&mesh, &store, peer, manifest, bytes);
            let outcome = tokio::time::timeout(MANIFEST_PATIENCE, outcome).await;
            let outcome = outcome.unwrap_or_else(|_| {
                Err(ManifestTrouble::Peer("it takes too long over a manifest".into()))
            });
            drop(inbox.send(TransferInput::ManifestFetched(manifest, peer, outcome)));
        });
    }

    fn ask_frame(&self, manifest: Digest, ask: Ask) {
        let (mesh, store, inbox) = (self.mesh.clone(), self.store.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let outcome = fetch_frame(&mesh, store, &ask).await;
            let (peer, index) = (ask.peer, ask.index);
            drop(inbox.send(TransferInput::FrameFetched(manifest, peer, index, outcome)));
        });
    }

    async fn frame_fetched(
        &mut self,
        manifest: Digest,
        peer: HostId,
        index: u32,
        outcome: Result<(), FrameTrouble>,
    ) {
        let now = self.clock.mono();
        let Some(job) = self.jobs.get_mut(&manifest) else { return };
        let Some(fetch) = &mut job.fetch else { return };
        match outcome {
            Ok(()) => {
                fetch.received(now, peer, index, true);
                let done = fetch.progress().frames_done;
                if done >= job.announced + ANNOUNCE_EVERY_FRAMES {
                    job.announced = done;
                    let holding = fetch.holding();
                    self.announce(&holding);
                }
            }
            Err(FrameTrouble::Lie) => {
                tracing::warn!(peer = peer.short(), "a peer sent a wrong frame and is set aside");
                fetch.received(now, peer, index, false);
            }
            Err(FrameTrouble::Peer(failure)) => fetch.failed(now, peer, index, failure),
            // Not the peers' fault: the fetch ends, and the node begins another after a while.
            Err(FrameTrouble::Store(reason)) => {
                tracing::error!(%reason, "a frame could not be stored");
                self.jobs.remove(&manifest);
                self.report(manifest, Progress::Troubled(reason)).await;
            }
        }
    }

    /// All of it is here: make it outlive a power cut, off this task.
    fn complete(&self, manifest: Digest) {
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let outcome = store.sync().map_err(|error| error.to_string());
            drop(inbox.send(TransferInput::Synced(manifest, outcome)));
        });
    }

    async fn synced(&mut self, manifest: Digest, outcome: Result<(), String>) {
        if let Err(reason) = outcome {
            self.report(manifest, Progress::Troubled(reason)).await;
            return;
        }
        if let Some(holding) = self.holding_of(&manifest) {
            self.announce(&holding);
        }
        self.report(manifest, Progress::Complete).await;
    }

    fn holding_of(&self, manifest: &Digest) -> Option<Holding> {
        let content = self.store.manifest(manifest)?;
        let fetch = Fetch::new(*manifest, &content.frames, |f| self.store.has_frame(f), 0);
        Some(fetch.holding())
    }

    fn announce(&self, holding: &Holding) {
        for peer in &self.links {
            self.mesh.send(*peer, &Message::Have(vec![holding.clone()]));
        }
    }

    fn announce_all_to(&self, peer: HostId) {
        for manifest in self.store.manifests() {
            if let Some(holding) = self.holding_of(&manifest) {
                self.mesh.send(peer, &Message::Have(vec![holding]));
            }
        }
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

/// Tells a fetch what a peer holds.
fn offer(fetch: &mut Fetch, peer: HostId, holding: &Holding) {
    if let Err(error) = fetch.peer(peer, holding) {
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
    let frame = ask.frame;
    let reply = mesh.call(ask.peer, Call::Frame { frame }).await;
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

/// Answers a peer's question from the store.
pub fn serve(store: &Store, call: &Call) -> Reply {
    match call {
        Call::Frame { frame } => store.frame(frame).map_or(Reply::Absent, Reply::Bytes),
        Call::Manifest { manifest, offset } => {
            let Some(bytes) = store.manifest_bytes(manifest) else { return Reply::Absent };
            let from = usize::try_from(*offset).unwrap_or(usize::MAX).min(bytes.len());
            let to = from.saturating_add(MANIFEST_PART_BYTES).min(bytes.len());
            Reply::Bytes(bytes[from..to].to_vec())
        }
        // It is in no store.
        Call::Log { .. } => Reply::Absent,
    }
}

const BEAT: Duration = Duration::from_millis(100);
const MANIFEST_PART_BYTES: usize = CALL_BYTES_MAX / 2;
/// The largest manifest in its parts, over a slow link.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(60);
/// Bitmaps of eight million frames: more than any store has.
const HOLDINGS_BYTES_PER_PEER_MAX: usize = 1 << 20;
/// About 16 MiB of raw bytes between two announcements of a fetch under way.
const ANNOUNCE_EVERY_FRAMES: u32 = 64;

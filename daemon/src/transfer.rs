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
    swarm::{Ask, Failure, Fetch},
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
    },
    /// A revision was imported on this host.
    Imported(Digest),
    /// A peer says what it holds.
    Have(HostId, Vec<Holding>),
    /// A peer's link is up.
    LinkUp(HostId),
    /// A peer is gone.
    LinkDown(HostId),
    /// A manifest was fetched, or could not be.
    ManifestFetched(Digest, Result<(), String>),
    /// A call for a frame has ended.
    FrameFetched(Digest, HostId, u32, Result<(), FrameTrouble>),
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
    holdings: BTreeMap<HostId, BTreeMap<Digest, Holding>>,
    jobs: BTreeMap<Digest, Job>,
}

/// One revision on its way here.
struct Job {
    manifest_bytes: u64,
    manifest_asked: bool,
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
            TransferInput::Fetch { manifest, bytes } => self.fetch(manifest, bytes).await,
            TransferInput::Imported(manifest) => {
                self.jobs.remove(&manifest);
                self.complete(manifest).await;
            }
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
            TransferInput::ManifestFetched(manifest, outcome) => {
                if let Some(job) = self.jobs.get_mut(&manifest) {
                    job.manifest_asked = false;
                }
                match outcome {
                    Ok(()) => self.begin_frames(manifest),
                    Err(reason) => self.report(manifest, Progress::Troubled(reason)).await,
                }
            }
            TransferInput::FrameFetched(manifest, peer, index, outcome) => {
                self.frame_fetched(manifest, peer, index, outcome).await;
            }
        }
        self.advance().await;
    }

    async fn fetch(&mut self, manifest: Digest, manifest_bytes: u64) {
        if self.is_complete(&manifest) {
            self.complete(manifest).await;
            return;
        }
        self.jobs.entry(manifest).or_insert(Job {
            manifest_bytes,
            manifest_asked: false,
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
            if known.len() < HOLDINGS_PER_PEER_MAX || known.contains_key(&holding.manifest) {
                known.insert(holding.manifest, holding);
            }
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
            if let Some(holding) = holdings.get(&manifest) {
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
            self.complete(manifest).await;
        }
    }

    fn next_asks(&mut self, manifest: Digest, now: Mono) -> Vec<Ask> {
        let fetch = self.jobs.get_mut(&manifest).and_then(|job| job.fetch.as_mut());
        fetch.map(|fetch| fetch.next(now)).unwrap_or_default()
    }

    fn ask_manifest(&mut self, manifest: Digest) {
        let Some(job) = self.jobs.get_mut(&manifest) else { return };
        if job.fetch.is_some() || job.manifest_asked {
            return;
        }
        let holders: Vec<_> = self
            .holdings
            .iter()
            .filter(|(peer, held)| self.links.contains(peer) && held.contains_key(&manifest))
            .map(|(peer, _)| *peer)
            .collect();
        let turn = usize::try_from(self.clock.mono().0).unwrap_or(0);
        let Some(peer) = holders.get(turn % holders.len().max(1)).copied() else { return };
        job.manifest_asked = true;
        let (bytes, mesh, store) = (job.manifest_bytes, self.mesh.clone(), self.store.clone());
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let outcome = fetch_manifest(&mesh, &store, peer, manifest, bytes).await;
            drop(inbox.send(TransferInput::ManifestFetched(manifest, outcome)));
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
            Err(FrameTrouble::Store(reason)) => {
                fetch.failed(now, peer, index, Failure::Error);
                tracing::error!(%reason, "a frame could not be stored");
                self.report(manifest, Progress::Troubled(reason)).await;
            }
        }
    }

    async fn complete(&mut self, manifest: Digest) {
        let store = self.store.clone();
        let synced = tokio::task::spawn_blocking(move || store.sync()).await;
        if let Ok(Err(error)) = synced {
            self.report(manifest, Progress::Troubled(error.to_string())).await;
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

/// Fetches a manifest part by part and stores it once its hash is right.
async fn fetch_manifest(
    mesh: &Mesh,
    store: &Arc<Store>,
    peer: HostId,
    manifest: Digest,
    bytes: u64,
) -> Result<(), String> {
    let mut content = Vec::new();
    while u64::try_from(content.len()).unwrap_or(u64::MAX) < bytes {
        let offset = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let reply = mesh.call(peer, Call::Manifest { manifest, offset }).await;
        match reply.map_err(|error| error.to_string())? {
            Reply::Bytes(part) if !part.is_empty() => content.extend_from_slice(&part),
            Reply::Bytes(_) | Reply::Absent => return Err("the peer has no such manifest".into()),
            Reply::Busy => tokio::time::sleep(BEAT).await,
        }
    }
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.put_manifest(&content, manifest))
        .await
        .map_err(|error| error.to_string())?
        .map(drop)
        .map_err(|error| error.to_string())
}

async fn fetch_frame(mesh: &Mesh, store: Arc<Store>, ask: &Ask) -> Result<(), FrameTrouble> {
    let frame = ask.frame;
    let reply = mesh.call(ask.peer, Call::Frame { frame }).await;
    let bytes = match reply {
        Ok(Reply::Bytes(bytes)) => bytes,
        Ok(Reply::Absent) => return Err(FrameTrouble::Peer(Failure::Absent)),
        Ok(Reply::Busy) => return Err(FrameTrouble::Peer(Failure::Busy)),
        Err(_) => return Err(FrameTrouble::Peer(Failure::Error)),
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
    }
}

const BEAT: Duration = Duration::from_millis(100);
const MANIFEST_PART_BYTES: usize = CALL_BYTES_MAX / 2;
const HOLDINGS_PER_PEER_MAX: usize = 256;
/// About 16 MiB of raw bytes between two announcements of a fetch under way.
const ANNOUNCE_EVERY_FRAMES: u32 = 64;

//! One long-lived stream each way between two neighbours.
//!
//! Each side opens one stream and only writes to it; it reads from the one that the other side
//! opened. An empty frame keeps an idle stream proved alive. A stream that breaks, stays silent for
//! long or carries anything that is no message ends the whole connection: a peer that talks nonsense
//! is not listened to.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::AsyncWrite;
use groundswell_protocol::{
    cbor,
    ids::HostId,
    limits::{LINK_QUEUE_BYTES_MAX, MESSAGE_BYTES_MAX},
    wire::Message,
};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
        FromSwarm, NetworkBehaviour, SubstreamProtocol, ToSwarm, handler::ConnectionEvent,
    },
};
use tokio::sync::mpsc;

use super::{MeshEvent, frame, host_of};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/groundswell/link/1");
/// Silence after which an empty frame is sent.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(2);
/// Silence after which a connection is given up: seven keepalives.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// With so many bytes at once a write to the stream costs little for each, and Yamux splits longer ones.
const WRITE_BYTES: usize = 16 << 10;

/// Where messages to each peer are put, shared by everyone who sends.
#[derive(Clone, Default)]
pub(super) struct Outboxes(Arc<Mutex<ByPeer>>);

/// The open links of each peer, the newest last.
type ByPeer = BTreeMap<HostId, Vec<(ConnectionId, Outbox)>>;

/// Messages that wait for one connection. The link ends when it is dropped.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

impl Outboxes {
    /// Puts a message to the newest link of a peer. A link whose queue is full is given up: a peer
    /// that takes nothing in for so long needs a fresh start more than old messages.
    pub(super) fn send(&self, to: HostId, bytes: Vec<u8>) {
        let mut all = self.lock();
        let Some(links) = all.get_mut(&to) else { return };
        let Some((_, outbox)) = links.last() else { return };
        let queued = outbox.bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if queued > LINK_QUEUE_BYTES_MAX || outbox.frames.send(bytes).is_err() {
            links.pop();
        }
    }

    fn add(&self, peer: HostId, id: ConnectionId, outbox: Outbox) {
        self.lock().entry(peer).or_default().push((id, outbox));
    }

    fn remove(&self, peer: HostId, id: ConnectionId) {
        let mut all = self.lock();
        if let Some(links) = all.get_mut(&peer) {
            links.retain(|(other, _)| *other != id);
            if links.is_empty() {
                all.remove(&peer);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ByPeer> {
        // Nothing that panics runs while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The links of all peers.
pub(super) struct Links {
    events: mpsc::Sender<MeshEvent>,
    outboxes: Outboxes,
    /// Connections whose link is open, by peer.
    open: BTreeMap<HostId, Vec<ConnectionId>>,
    actions: VecDeque<ToSwarm<MeshEvent, std::convert::Infallible>>,
}

impl Links {
    pub(super) fn new(events: mpsc::Sender<MeshEvent>, outboxes: Outboxes) -> Self {
        Self { events, outboxes, open: BTreeMap::new(), actions: VecDeque::new() }
    }

    fn handler(&self, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        let host = host_of(&peer).ok_or_else(|| {
            ConnectionDenied::new(io::Error::other("the peer's key is no host key"))
        })?;
        Ok(Handler::new(host, self.events.clone()))
    }
}

impl NetworkBehaviour for Links {
    type ConnectionHandler = Handler;
    type ToSwarm = MeshEvent;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let FromSwarm::ConnectionClosed(closed) = event else { return };
        let Some(peer) = host_of(&closed.peer_id) else { return };
        self.outboxes.remove(peer, closed.connection_id);
        if let Some(open) = self.open.get_mut(&peer) {
            open.retain(|id| *id != closed.connection_id);
            if open.is_empty() {
                self.open.remove(&peer);
                self.actions.push_back(ToSwarm::GenerateEvent(MeshEvent::Down { peer }));
            }
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer_id: PeerId,
        connection: ConnectionId,
        event: Report,
    ) {
        let Some(peer) = host_of(&peer_id) else { return };
        match event {
            Report::Open(outbox) => {
                self.outboxes.add(peer, connection, outbox);
                let open = self.open.entry(peer).or_default();
                open.push(connection);
                if open.len() == 1 {
                    self.actions.push_back(ToSwarm::GenerateEvent(MeshEvent::Up { peer }));
                }
            }
            Report::Broken(reason) => {
                let reason: String = reason.escape_debug().take(200).collect();
                tracing::info!(peer = peer.short(), reason, "a connection is given up");
                let connection = CloseConnection::One(connection);
                self.actions.push_back(ToSwarm::CloseConnection { peer_id, connection });
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<MeshEvent, std::convert::Infallible>> {
        // Actions only come from the swarm's own calls, after which it polls again.
        self.actions.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What a handler tells.
#[derive(Debug)]
pub(super) enum Report {
    /// Messages can be sent.
    Open(Outbox),
    /// The connection is of no more use.
    Broken(String),
}

/// The link of one connection.
pub(super) struct Handler {
    peer: HostId,
    events: mpsc::Sender<MeshEvent>,
    asked: bool,
    heard: bool,
    reports: mpsc::UnboundedReceiver<Report>,
    report: mpsc::UnboundedSender<Report>,
}

impl Handler {
    fn new(peer: HostId, events: mpsc::Sender<MeshEvent>) -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        Self { peer, events, asked: false, heard: false, reports, report }
    }

    /// Writes what is put into the outbox, from now on.
    fn speak(&self, stream: Stream) {
        let (frames, queue) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let report = self.report.clone();
        drop(report.send(Report::Open(Outbox { frames, bytes: bytes.clone() })));
        tokio::spawn(async move {
            if let Err(error) = speak(stream, queue, &bytes).await {
                drop(report.send(Report::Broken(error.to_string())));
            }
        });
    }

    /// Passes on what the peer says, from now on.
    fn listen(&mut self, stream: Stream) {
        if std::mem::replace(&mut self.heard, true) {
            drop(self.report.send(Report::Broken("it opened a second link".into())));
            return;
        }
        let (peer, events, report) = (self.peer, self.events.clone(), self.report.clone());
        tokio::spawn(async move {
            if let Err(error) = listen(stream, peer, events).await {
                drop(report.send(Report::Broken(error.to_string())));
            }
        });
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = std::convert::Infallible;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Report>> {
        if !std::mem::replace(&mut self.asked, true) {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        match self.reports.poll_recv(cx) {
            Poll::Ready(Some(report)) => {
                Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report))
            }
            // The handler itself holds a sender.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: std::convert::Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(inbound) => self.listen(inbound.protocol),
            ConnectionEvent::FullyNegotiatedOutbound(outbound) => self.speak(outbound.protocol),
            ConnectionEvent::DialUpgradeError(failed) => {
                drop(self.report.send(Report::Broken(failed.error.to_string())));
            }
            _ => {}
        }
    }
}

async fn speak(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: &AtomicUsize,
) -> io::Result<()> {
    loop {
        let (mut wire, mut taken) = (Vec::new(), 0);
        match tokio::time::timeout(KEEPALIVE_AFTER, queue.recv()).await {
            Ok(Some(bytes)) => {
                taken = bytes.len();
                frame::put(&mut wire, &bytes)?;
            }
            Ok(None) => return Err(io::Error::other("it takes in nothing")),
            Err(_) => frame::put(&mut wire, &[])?,
        }
        // What waits already goes with it.
        while wire.len() < WRITE_BYTES
            && let Ok(bytes) = queue.try_recv()
        {
            taken += bytes.len();
            frame::put(&mut wire, &bytes)?;
        }
        let written = tokio::time::timeout(SILENT_MAX, frame::write(&mut stream, &wire)).await;
        queued.fetch_sub(taken, Ordering::Relaxed);
        written.map_err(|_| io::Error::other("it takes in nothing"))??;
    }
}

async fn listen(
    mut stream: Stream,
    peer: HostId,
    events: mpsc::Sender<MeshEvent>,
) -> io::Result<()> {
    loop {
        let frame = frame::read(&mut stream, MESSAGE_BYTES_MAX);
        let bytes = tokio::time::timeout(SILENT_MAX, frame)
            .await
            .map_err(|_| io::Error::other("it has been silent"))??;
        if bytes.is_empty() {
            continue;
        }
        let message: Message = cbor::decode(&bytes, MESSAGE_BYTES_MAX)
            .map_err(|error| io::Error::other(format!("it sent no message: {error}")))?;
        if events.send(MeshEvent::Message { from: peer, message }).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    /// Keeps each write by itself.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<Vec<u8>>>>);

    impl AsyncWrite for Writes {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_waits_together_is_written_at_once() {
        let (frames, queue) = mpsc::unbounded_channel();
        let long = vec![7; WRITE_BYTES];
        let said = [b"one".to_vec(), b"two".to_vec(), long, b"four".to_vec()];
        let bytes: usize = said.iter().map(Vec::len).sum();
        said.iter().for_each(|one| frames.send(one.clone()).unwrap());
        drop(frames);
        let (writes, queued) = (Writes::default(), AtomicUsize::new(bytes));
        speak(writes.clone(), queue, &queued).await.unwrap_err();
        assert_eq!(queued.into_inner(), 0);
        let writes = writes.0.lock().unwrap().clone();
        assert_eq!(writes.len(), 2, "the last one waits until the long one is written");
        let wire = writes.concat();
        let mut wire = &wire[..];
        for one in &said {
            assert_eq!(frame::read(&mut wire, WRITE_BYTES).await.unwrap(), *one);
        }
        assert!(wire.is_empty());
    }
}

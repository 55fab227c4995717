//! Connections to other hosts: TCP, Noise, admission, Yamux, and two protocols on top.
//!
//! One task owns the libp2p swarm. Below it, [`admission`] exchanges membership certificates inside
//! the transport, so that the swarm never sees a stranger; above it, [`link`] carries messages one
//! way over a long-lived stream and [`call`] asks questions. What comes up is [`MeshEvent`]s.

mod admission;
mod call;
mod frame;
mod link;
mod lookup;

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures::StreamExt;
use groundswell_protocol::{
    cbor,
    gate::Verdict,
    ids::{FleetId, HostId},
    limits::{CALL_TIMEOUT, CALLS_PER_PEER_MAX, HELLO_TIMEOUT, HOSTS_MAX, MESSAGE_BYTES_MAX},
    trust::SecretKey,
    wire::{Call, Hello, Message, Reply, Welcome},
};
use groundswell_signer::seed::Seed;
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport, connection_limits,
    core::upgrade,
    identity,
    multiaddr::Protocol,
    noise,
    request_response::{self, InboundRequestId},
    swarm,
    swarm::{SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use self::{admission::Admission, call::Codec, link::Links, lookup::Lookups};

/// What the mesh needs to know.
pub struct MeshConfig {
    /// The host's key.
    pub key: SecretKey,
    /// Whose hosts may connect.
    pub fleet: FleetId,
    /// Counts the daemon's starts.
    pub epoch: u64,
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
}

/// Judges who may connect. Called from several tasks at once; answers at once.
pub trait Gatekeeper: Send + Sync + 'static {
    /// What this host says of itself, first of all.
    fn hello(&self, epoch: u64) -> Hello;
    /// Judges a peer whose connection proves that it has the key `peer`.
    fn judge(&self, peer: HostId, hello: &Hello) -> Verdict;
    /// A peer has said what it thinks of this host.
    fn outcome_at(&self, peer: HostId, welcome: &Welcome);
}

/// Something that happened.
#[derive(Debug)]
pub enum MeshEvent {
    /// A peer's first link is up.
    Up {
        /// The peer.
        peer: HostId,
    },
    /// The last connection to a peer is gone.
    Down {
        /// The peer.
        peer: HostId,
    },
    /// A message came.
    Message {
        /// Who sent it.
        from: HostId,
        /// What it says.
        message: Message,
    },
    /// A peer asks something.
    Call {
        /// Who asks.
        from: HostId,
        /// What it asks.
        call: Call,
        /// Where the answer goes.
        reply: ReplyTo,
    },
    /// An attempt to connect came to a member of the fleet.
    Dialled {
        /// The address as it was asked for.
        asked: String,
    },
    /// An attempt to connect failed.
    DialFailed {
        /// The address as it was asked for.
        asked: String,
        /// Why.
        error: String,
    },
}

/// Where the answer to a call goes. Dropped unused, it tells the peer nothing, and the call fails.
#[derive(Debug)]
pub struct ReplyTo {
    answer: oneshot::Sender<Reply>,
    through: oneshot::Receiver<std::convert::Infallible>,
}

impl ReplyTo {
    /// Answers.
    pub fn send(self, reply: Reply) {
        // Nobody waits any more if the connection is gone.
        drop(self.answer.send(reply));
    }

    /// Answers, and waits until the answer is on the wire or never will be.
    pub async fn send_through(self, reply: Reply) {
        drop(self.answer.send(reply));
        // Its other end is dropped then.
        drop(self.through.await);
    }
}

/// Why a call brought no answer.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct CallError(String);

/// Why the mesh could not start.
#[derive(Debug, Error)]
pub enum MeshError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// The host's key is not one that libp2p takes.
    #[error("the host's key: {0}")]
    Key(String),
}

/// A handle to the running mesh.
#[derive(Clone)]
pub struct Mesh {
    commands: mpsc::UnboundedSender<Command>,
    outboxes: link::Outboxes,
    lookups: Lookups,
}

#[derive(Debug)]
enum Command {
    Dial { address: Multiaddr, asked: String },
    NotFound { asked: String, error: String },
    Close(HostId),
    Call(HostId, Vec<Multiaddr>, Call, oneshot::Sender<Result<Reply, CallError>>),
    Answer(request_response::ResponseChannel<Reply>, Reply),
}

impl Mesh {
    /// Tries to connect to an address. What comes of it is a [`MeshEvent`].
    pub fn dial(&self, address: Multiaddr) {
        let asked = address.to_string();
        drop(self.commands.send(Command::Dial { address, asked }));
    }

    /// Tries to connect to where a seed is now.
    pub fn dial_seed(&self, seed: Seed) {
        if seed.name().is_none() {
            // An address in this form is one that libp2p reads.
            return if let Ok(address) = seed.to_string().parse() {
                self.dial(address)
            };
        }
        let (commands, lookups) = (self.commands.clone(), self.lookups.clone());
        tokio::spawn(async move {
            let asked = seed.to_string();
            let found = lookups.find(&seed).await.map(|found| found.map(|ip| seed.at(ip).parse()));
            let command = match found {
                Some(Ok(Ok(address))) => Command::Dial { address, asked },
                Some(Ok(Err(error))) => Command::NotFound { asked, error: error.to_string() },
                Some(Err(error)) => Command::NotFound { asked, error },
                None => return,
            };
            drop(commands.send(command));
        });
    }

    /// Closes all connections to a peer.
    pub fn close(&self, peer: HostId) {
        drop(self.commands.send(Command::Close(peer)));
    }

    /// Sends a message over a peer's link. It is lost if there is none.
    pub fn send(&self, to: HostId, message: &Message) {
        let bytes = cbor::encode(message);
        if bytes.len() > MESSAGE_BYTES_MAX {
            tracing::error!(bytes = bytes.len(), "a message is too long and is not sent");
            return;
        }
        self.outboxes.send(to, bytes);
    }

    /// Asks a peer and waits for its answer.
    pub async fn call(&self, peer: HostId, call: Call) -> Result<Reply, CallError> {
        self.call_at(peer, Vec::new(), call).await
    }

    /// The same, of a host that is looked for at these addresses if it is not connected.
    pub async fn call_at(
        &self,
        host: HostId,
        addresses: Vec<Multiaddr>,
        call: Call,
    ) -> Result<Reply, CallError> {
        let (answer, wait) = oneshot::channel();
        drop(self.commands.send(Command::Call(host, addresses, call, answer)));
        wait.await.unwrap_or_else(|_| Err(CallError("the network has stopped".into())))
    }
}

#[cfg(test)]
impl Mesh {
    /// A mesh without a network: nobody is reached.
    pub(crate) fn unconnected() -> Self {
        let (commands, _) = mpsc::unbounded_channel();
        Self { commands, outboxes: link::Outboxes::default(), lookups: Lookups::new() }
    }
}

#[derive(swarm::NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    links: Links,
    calls: request_response::Behaviour<Codec>,
}

/// Binds the addresses and starts the task. Returns the addresses that it really listens on.
pub async fn start(
    config: MeshConfig,
    gate: Arc<dyn Gatekeeper>,
) -> Result<(Mesh, mpsc::Receiver<MeshEvent>, Vec<Multiaddr>), MeshError> {
    let (events_in, events) = mpsc::channel(EVENT_QUEUE);
    let (commands_in, commands) = mpsc::unbounded_channel();
    let outboxes = link::Outboxes::default();
    let mut swarm = build(&config, gate, events_in.clone(), outboxes.clone())?;
    for address in &config.listen {
        swarm.listen_on(address.clone()).map_err(|error| MeshError::Listen {
            address: address.clone(),
            reason: io_reason(error),
        })?;
    }
    let mut task = Task {
        swarm,
        events: events_in,
        commands: commands_in.clone(),
        open: HashMap::new(),
        answering: HashMap::new(),
        dialling: HashMap::new(),
        unreached: HashMap::new(),
        early: Vec::new(),
    };
    let addresses = task.listen_addresses(config.listen.len()).await;
    tokio::spawn(task.run(commands));
    let mesh = Mesh { commands: commands_in, outboxes, lookups: Lookups::new() };
    Ok((mesh, events, addresses))
}

fn build(
    config: &MeshConfig,
    gate: Arc<dyn Gatekeeper>,
    events: mpsc::Sender<MeshEvent>,
    outboxes: link::Outboxes,
) -> Result<Swarm<Behaviour>, MeshError> {
    let key = |error: &dyn std::fmt::Display| MeshError::Key(error.to_string());
    let keypair = identity::Keypair::ed25519_from_bytes(config.key.seed()).map_err(|e| key(&e))?;
    let peer_id = keypair.public().to_peer_id();
    // Hosts of another fleet fail in the handshake, before a byte of theirs is looked at.
    let noise =
        noise::Config::new(&keypair).map_err(|e| key(&e))?.with_prologue(config.fleet.0.to_vec());
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(upgrade::Version::V1)
        .authenticate(Admission::new(noise, gate, config.epoch))
        .multiplex(yamux::Config::default())
        .timeout(HELLO_TIMEOUT)
        .boxed();
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
        .with_max_established(u32::try_from(HOSTS_MAX).ok());
    let calls = request_response::Config::default()
        .with_request_timeout(CALL_TIMEOUT)
        .with_max_concurrent_streams(CALLS_PER_PEER_MAX);
    let protocol = (call::PROTOCOL, request_response::ProtocolSupport::Full);
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        links: Links::new(events, outboxes),
        calls: request_response::Behaviour::with_codec(Codec, [protocol], calls),
    };
    let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
    Ok(Swarm::new(transport, behaviour, peer_id, settings))
}

struct Task {
    swarm: Swarm<Behaviour>,
    events: mpsc::Sender<MeshEvent>,
    commands: mpsc::UnboundedSender<Command>,
    open: HashMap<request_response::OutboundRequestId, oneshot::Sender<Result<Reply, CallError>>>,
    /// Calls of peers whose answers are not on the wire yet.
    answering: HashMap<InboundRequestId, oneshot::Sender<std::convert::Infallible>>,
    /// Attempts to connect that are under way, by the address as it was asked for.
    dialling: HashMap<swarm::ConnectionId, String>,
    /// Why hosts that were to be asked could not be reached.
    unreached: HashMap<PeerId, String>,
    /// What happened while the addresses were not known yet.
    early: Vec<SwarmEvent<BehaviourEvent>>,
}

impl Task {
    /// Waits for the addresses behind each listener: one each for certain, those of all interfaces
    /// where it listens on all.
    async fn listen_addresses(&mut self, listeners: usize) -> Vec<Multiaddr> {
        let mut addresses = Vec::new();
        // From the last address on, so that whoever connects meanwhile does not make it longer.
        let mut until = tokio::time::Instant::now() + LISTEN_WAIT;
        loop {
            match tokio::time::timeout_at(until, self.swarm.select_next_some()).await {
                Ok(SwarmEvent::NewListenAddr { address, .. }) => {
                    addresses.push(address);
                    if addresses.len() >= listeners {
                        until = tokio::time::Instant::now() + INTERFACES_WAIT;
                    }
                }
                // Of strangers' attempts to connect nothing is kept; these come from members.
                Ok(event @ SwarmEvent::Behaviour(_)) => self.early.push(event),
                Ok(_) => {}
                Err(_) => return addresses,
            }
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        for event in std::mem::take(&mut self.early) {
            self.swarm_event(event).await;
        }
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.swarm_event(event).await,
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
            }
            if self.events.is_closed() {
                return;
            }
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Dial { address, asked } => self.dial(address, asked).await,
            Command::NotFound { asked, error } => {
                self.emit(MeshEvent::DialFailed { asked, error }).await;
            }
            Command::Close(peer) => {
                if let Some(peer) = peer_id_of(peer) {
                    // It fails if there is no connection any more, which is what was wanted.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Command::Call(peer, addresses, call, answer) => match peer_id_of(peer) {
                Some(peer) => {
                    self.reach(peer, addresses);
                    let id = self.swarm.behaviour_mut().calls.send_request(&peer, call);
                    self.open.insert(id, answer);
                }
                None => drop(answer.send(Err(CallError("no such peer".into())))),
            },
            Command::Answer(channel, reply) => {
                // It fails if the connection is gone; nobody waits then.
                drop(self.swarm.behaviour_mut().calls.send_response(channel, reply));
            }
        }
    }

    async fn dial(&mut self, address: Multiaddr, asked: String) {
        // From a port of its own: two hosts that dial each other from the ports that they listen on
        // would meet in one connection with two beginners.
        let options = DialOpts::unknown_peer_id().address(address).allocate_new_port().build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.dialling.insert(connection, asked)),
            Err(error) => {
                let error = dial_reason(&asked, &error);
                self.emit(MeshEvent::DialFailed { asked, error }).await;
            }
        }
    }

    /// Begins to connect to a host that is to be asked. The question waits for what comes of it.
    fn reach(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if addresses.is_empty() || self.swarm.is_connected(&peer) {
            return;
        }
        let options = DialOpts::peer_id(peer).addresses(addresses).allocate_new_port().build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%error, "no second attempt to reach a host at once");
        }
    }

    async fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Links(event)) => self.emit(event).await,
            SwarmEvent::Behaviour(BehaviourEvent::Calls(event)) => self.call_event(event).await,
            SwarmEvent::ConnectionEstablished { connection_id, peer_id, .. } => {
                self.unreached.remove(&peer_id);
                if let Some(asked) = self.dialling.remove(&connection_id) {
                    self.emit(MeshEvent::Dialled { asked }).await;
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                if let Some(asked) = self.dialling.remove(&connection_id) {
                    let error = dial_reason(&asked, &error);
                    self.emit(MeshEvent::DialFailed { asked, error }).await;
                } else if let Some(peer) = peer_id {
                    self.unreached.insert(peer, dial_reason("", &error));
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                let reason: String = error_chain(&error);
                tracing::debug!(from = %send_back_addr, reason, "a connection was not admitted");
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listening"),
            _ => {}
        }
    }

    async fn call_event(&mut self, event: request_response::Event<Call, Reply>) {
        use request_response::{Event, Message as Said, OutboundFailure};
        match event {
            Event::Message {
                peer,
                message: Said::Request { request_id, request, channel },
                ..
            } => {
                let Some(from) = host_of(&peer) else { return };
                let (reply, answer) = oneshot::channel();
                let (sent, through) = oneshot::channel();
                self.answering.insert(request_id, sent);
                let commands = self.commands.clone();
                tokio::spawn(async move {
                    if let Ok(reply) = answer.await {
                        drop(commands.send(Command::Answer(channel, reply)));
                    }
                });
                let reply = ReplyTo { answer: reply, through };
                self.emit(MeshEvent::Call { from, call: request, reply }).await;
            }
            Event::Message { message: Said::Response { request_id, response }, .. } => {
                if let Some(answer) = self.open.remove(&request_id) {
                    drop(answer.send(Ok(response)));
                }
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                if let Some(answer) = self.open.remove(&request_id) {
                    let why = match (&error, self.unreached.get(&peer)) {
                        (OutboundFailure::DialFailure, Some(why)) => why.clone(),
                        _ => error.to_string(),
                    };
                    drop(answer.send(Err(CallError(why))));
                }
            }
            Event::InboundFailure { request_id, .. } | Event::ResponseSent { request_id, .. } => {
                self.answering.remove(&request_id);
            }
        }
    }

    async fn emit(&mut self, event: MeshEvent) {
        // When nobody listens the task ends with its next step.
        drop(self.events.send(event).await);
    }
}

/// The host behind a libp2p name: an Ed25519 key, written out.
pub(crate) fn host_of(peer: &PeerId) -> Option<HostId> {
    let key = identity::PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(HostId(key.try_into_ed25519().ok()?.to_bytes()))
}

fn peer_id_of(host: HostId) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(&host.0).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

fn io_reason(error: libp2p::TransportError<io::Error>) -> String {
    match error {
        libp2p::TransportError::Other(error) => error_chain(&error),
        libp2p::TransportError::MultiaddrNotSupported(_) => "not a TCP address".into(),
    }
}

/// Why nobody was reached, in words; with the address, where another one was asked for.
fn dial_reason(asked: &str, error: &swarm::DialError) -> String {
    match error {
        swarm::DialError::LocalPeerId { .. } => "it is this host itself".into(),
        swarm::DialError::Transport(tried) => {
            let reasons = tried.iter().map(|(address, error)| {
                let reason = match error {
                    libp2p::TransportError::Other(error) => last_cause(error),
                    other => other.to_string(),
                };
                let key = |part: &Protocol<'_>| matches!(part, Protocol::P2p(_));
                let address: Multiaddr = address.iter().filter(|part| !key(part)).collect();
                let address = address.to_string();
                if address == asked { reason } else { format!("{address}: {reason}") }
            });
            let reasons: Vec<_> = reasons.collect();
            reasons.join("; ").escape_debug().take(300).collect()
        }
        other => error_chain(other),
    }
}

/// What lies at the bottom of an error: what libp2p wraps round it says nothing to people.
fn last_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text.escape_debug().take(300).collect()
}

const EVENT_QUEUE: usize = 1024;
const PENDING_MAX: u32 = 256;
/// Two hosts may dial each other at once; a third and fourth connection is one being replaced.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
const IDLE: Duration = Duration::from_secs(60);
const LISTEN_WAIT: Duration = Duration::from_secs(2);
const INTERFACES_WAIT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;

//! One member that brings to the voters what many members have signed, and hears what they agree on.
//!
//! Whatever a host tells the ledger is signed by it, so that any member may carry it. This one is
//! connected to all voters over the daemon's own mesh and follows the leader's ledger.

use std::{
    collections::{BTreeSet, VecDeque},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use groundswell_daemon::{
    clock::Clock,
    mesh::{self, Gatekeeper, Mesh, MeshConfig, MeshEvent},
    scratch::{Fleet, ScratchError},
};
use groundswell_protocol::{
    gate::Verdict,
    ids::{HostId, HostName, Labels},
    rollout::{Entry, Stamped},
    time::UnixSeconds,
    trust::{Member, MemberCert, SecretKey, Signed, Signer, Trust},
    wire::{FedEntry, Hello, Message, PROTOCOL, Welcome},
};
use groundswell_signer::{
    fleet::{TRUST_FILE, key_file, load_trust},
    keyfile::{self, KeyRole, Passphrase},
};
use tokio::sync::mpsc;

/// The keys of a scratch fleet.
pub(crate) struct Keys {
    pub(crate) trust: Arc<Trust>,
    pub(crate) release: SecretKey,
    pub(crate) operator: SecretKey,
    enrolment: SecretKey,
}

impl Keys {
    pub(crate) fn load(dir: &Path) -> Result<Self, ScratchError> {
        let error = |error: &dyn std::fmt::Display| ScratchError(error.to_string());
        let key = |role| keyfile::load(&dir.join(key_file(role)), role, &Passphrase::None);
        Ok(Self {
            trust: Arc::new(load_trust(&dir.join(TRUST_FILE)).map_err(|e| error(&e))?),
            release: key(KeyRole::Release).map_err(|e| error(&e))?,
            operator: key(KeyRole::Operator).map_err(|e| error(&e))?,
            enrolment: key(KeyRole::Enrolment).map_err(|e| error(&e))?,
        })
    }

    /// Enrols a key.
    pub(crate) fn enrol(
        &self,
        key: &SecretKey,
        name: &str,
        labels: Labels,
    ) -> Result<MemberCert, ScratchError> {
        let member = Member {
            host: key.public_key().into(),
            name: HostName::new(name).map_err(|error| ScratchError(error.to_string()))?,
            zone: None,
            labels,
            not_after: UnixSeconds(u64::MAX),
            incarnation: 0,
        };
        Ok(MemberCert {
            token: None,
            member: self.sign(&member, &self.enrolment)?,
            receipts: Vec::new(),
        })
    }

    pub(crate) fn sign<T: groundswell_protocol::trust::Document>(
        &self,
        content: &T,
        key: &SecretKey,
    ) -> Result<Signed<T>, ScratchError> {
        Signed::new(content, self.trust.fleet(), &[key])
            .map_err(|error| ScratchError(error.to_string()))
    }
}

/// Lets in whoever the fleet has enrolled.
struct Door {
    trust: Arc<Trust>,
    cert: MemberCert,
}

impl Gatekeeper for Door {
    fn hello(&self, epoch: u64) -> Hello {
        Hello { cert: self.cert.clone(), epoch, protocol: PROTOCOL, voter_lists: Vec::new() }
    }

    fn judge(&self, peer: HostId, hello: &Hello) -> Verdict {
        match hello.cert.verify_signatures(&self.trust) {
            Ok(member) if member.content().host == peer => Verdict::Admit,
            Ok(_) => Verdict::Refuse("the certificate is another host's".into()),
            Err(error) => Verdict::Refuse(error.to_string()),
        }
    }

    fn outcome_at(&self, _: HostId, _: &Welcome) {}
}

/// The member.
pub(crate) struct Carrier {
    mesh: Mesh,
    events: mpsc::Receiver<MeshEvent>,
    pub(crate) voters: Vec<HostId>,
    pub(crate) leader: HostId,
    /// It has found the leader, which stays.
    follows: bool,
    pub(crate) clock: Clock,
    /// All entries so far, from the first on, with the time at which each was seen.
    pub(crate) log: Vec<(Instant, Vec<u8>)>,
    /// Those that nobody has looked at yet.
    unread: VecDeque<(u64, Stamped)>,
    turn: usize,
}

impl Carrier {
    /// Becomes a member and connects to all voters.
    pub(crate) async fn connect(fleet: &Fleet, keys: &Keys) -> Result<Self, ScratchError> {
        let key = SecretKey::from_seed(&[0xca; 32]);
        let cert = keys.enrol(&key, "carrier", Labels::default())?;
        let config = MeshConfig { key, fleet: keys.trust.fleet(), epoch: 1, listen: Vec::new() };
        let door = Door { trust: keys.trust.clone(), cert };
        let (mesh, mut events, _) = mesh::start(config, Arc::new(door))
            .await
            .map_err(|error| ScratchError(error.to_string()))?;
        let voters: Vec<_> = keys.trust.genesis().voters.iter().map(|voter| voter.host).collect();
        let mut up = BTreeSet::new();
        let until = Instant::now() + PATIENCE;
        while up.len() < voters.len() {
            for host in fleet.hosts() {
                let address = host.address().parse();
                mesh.dial(address.map_err(|_| ScratchError("no address".into()))?);
            }
            let wait = tokio::time::sleep(DIAL_EVERY);
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    event = events.recv() => match event {
                        Some(MeshEvent::Up { peer }) => drop(up.insert(peer)),
                        Some(MeshEvent::Down { peer }) => drop(up.remove(&peer)),
                        Some(_) => {}
                        None => return Err(ScratchError("the mesh has stopped".into())),
                    },
                }
                if up.len() == voters.len() {
                    break;
                }
            }
            if Instant::now() > until {
                return Err(ScratchError("the voters do not let the carrier in".into()));
            }
        }
        let leader = voters[0];
        let mut carrier = Self {
            mesh,
            events,
            voters,
            leader,
            follows: false,
            clock: Clock::start(),
            log: Vec::new(),
            unread: VecDeque::new(),
            turn: 0,
        };
        carrier.find_leader(until).await?;
        Ok(carrier)
    }

    /// Asks voters until one knows who leads, and follows that one.
    async fn find_leader(&mut self, until: Instant) -> Result<(), ScratchError> {
        loop {
            let voter = self.leader;
            self.mesh.send(voter, &Message::WantLedger { first: self.next_index(), follows: true });
            match self.hear(Duration::from_secs(1)).await? {
                Some((from, Some(leader))) if from == leader => {
                    (self.leader, self.follows) = (leader, true);
                    return Ok(());
                }
                Some((_, Some(leader))) => self.leader = leader,
                _ if Instant::now() > until => return Err(ScratchError("nobody leads".into())),
                _ => {}
            }
        }
    }

    fn next_index(&self) -> u64 {
        self.log.len() as u64 + 1
    }

    /// Hands something in at the leader.
    pub(crate) fn tell_leader(&self, entry: Entry) {
        self.mesh.send(self.leader, &Message::Submit(Box::new(entry)));
    }

    /// Hands something in at one voter after the other, as hosts do that follow different ones.
    pub(crate) fn tell(&mut self, entry: Entry) {
        self.turn += 1;
        let voter = self.voters[self.turn % self.voters.len()];
        self.mesh.send(voter, &Message::Submit(Box::new(entry)));
    }

    /// Tells every voter something.
    pub(crate) fn tell_all(&self, message: &Message) {
        self.voters.iter().for_each(|voter| self.mesh.send(*voter, message));
    }

    /// The next entry that the leader has applied; none if there is none in time.
    pub(crate) async fn next(
        &mut self,
        wait: Duration,
    ) -> Result<Option<(u64, Stamped)>, ScratchError> {
        let until = Instant::now() + wait;
        loop {
            if let Some(entry) = self.unread.pop_front() {
                return Ok(Some(entry));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.hear(left).await?;
        }
    }

    /// Takes in one message. Of one that tells of the ledger: who sent it, and who leads.
    async fn hear(
        &mut self,
        wait: Duration,
    ) -> Result<Option<(HostId, Option<HostId>)>, ScratchError> {
        let Ok(event) = tokio::time::timeout(wait, self.events.recv()).await else {
            return Ok(None);
        };
        match event {
            None => Err(ScratchError("the mesh has stopped".into())),
            Some(MeshEvent::Down { peer }) => {
                Err(ScratchError(format!("the link to voter {} broke", peer.short())))
            }
            // One that ends before what has come meanwhile answers a question that is old.
            Some(MeshEvent::Message { from, message: Message::HaveSnapshot { index, .. } })
                if from == self.leader && index >= self.next_index() =>
            {
                Err(ScratchError("the carrier fell behind the leader's log".into()))
            }
            Some(MeshEvent::Message {
                from,
                message: Message::Ledger { first, entries, applied, leader },
            }) => {
                if from == self.leader {
                    self.take(first, entries, applied)?;
                    if self.follows && leader.is_some_and(|leader| leader != from) {
                        return Err(ScratchError("another voter leads now".into()));
                    }
                }
                Ok(Some((from, leader)))
            }
            Some(_) => Ok(None),
        }
    }

    fn take(
        &mut self,
        first: u64,
        entries: Vec<FedEntry>,
        applied: u64,
    ) -> Result<(), ScratchError> {
        let now = Instant::now();
        for (index, FedEntry(_, data)) in (first..).zip(entries) {
            if index != self.next_index() {
                continue;
            }
            // A new leader marks its term by an entry without anything in it.
            if let Ok(stamped) = Stamped::from_bytes(&data) {
                self.unread.push_back((index, stamped));
            }
            self.log.push((now, data.to_vec()));
        }
        if applied >= self.next_index() {
            self.mesh.send(
                self.leader,
                &Message::WantLedger { first: self.next_index(), follows: true },
            );
        }
        Ok(())
    }

    /// How long it takes the leader to answer that it has nothing new: over the link, through its
    /// loop, and back. In milliseconds.
    pub(crate) async fn round_trips(&mut self, count: usize) -> Result<Vec<f64>, ScratchError> {
        while self.next(Duration::from_secs(1)).await?.is_some() {}
        let mut times = Vec::new();
        while times.len() < count {
            let begun = Instant::now();
            self.mesh.send(
                self.leader,
                &Message::WantLedger { first: self.next_index(), follows: true },
            );
            while !matches!(self.hear(PATIENCE).await?, Some((from, _)) if from == self.leader) {
                if begun.elapsed() > PATIENCE {
                    return Err(ScratchError("the leader does not answer".into()));
                }
            }
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const DIAL_EVERY: Duration = Duration::from_millis(700);

//! One host's whole mind: membership, fleet state, consensus, and its own part in rollouts.
//!
//! [`Node`] puts the other modules together and is itself pure. The caller feeds [`Input`]s with the
//! time at which they came, and performs the [`Output`]s of each call in order; a `Persist` is
//! durable before the next output is performed, and the process stops if it cannot be. Time passes
//! by [`Input::Tick`], every [`crate::limits::TICK`].
//!
//! Each part has a file of its own: [`feed`] moves the ledger about, [`gossip`] the hosts' records,
//! [`leader`] is what the leader proposes, [`links`] who is connected, [`rollouts`] what this host
//! does in its groups, [`voters`] its part in choosing who decides.

mod feed;
mod fitness;
mod gossip;
mod leader;
mod links;
mod repeats;
mod rollouts;
mod snapshot;
mod voters;

use std::{collections::BTreeMap, sync::Arc};

pub use feed::LogRecord;

use thiserror::Error;

use self::{
    feed::Feed, fitness::Fitness, gossip::Gossip, leader::Leadership, links::Links,
    repeats::Repeat, rollouts::Rollouts, snapshot::Incoming,
};
use crate::{
    cbor::DecodeError,
    consensus::{Assured, Consensus, Restored, VoterPolicy, Write},
    execute,
    fleet::{Record, View},
    ids::{Digest, GroupName, HostId},
    limits::STOPS_KEPT_PER_GROUP,
    rollout::{Entry, Ledger, Need},
    sabotage::{Defect, planted},
    time::{Mono, UnixSeconds},
    trust::{Electorate, MemberCert, Order, SecretKey, Signed, Subject, Trust, VoterList},
    wire::Message,
};

/// What a host is and what it remembered.
pub struct Setup {
    /// The host's key.
    pub key: SecretKey,
    /// What it believes.
    pub trust: Arc<Trust>,
    /// Its certificate.
    pub cert: MemberCert,
    /// Counts the daemon's starts, this one included.
    pub epoch: u64,
    /// Names the start of the machine: the same as long as it runs, and another one each time.
    pub boot: u64,
    /// Where others reach it.
    pub addresses: Vec<String>,
    /// Where to look for others before any record is known.
    pub seeds: Vec<String>,
    /// Addresses of hosts that were known before the restart.
    pub known: BTreeMap<HostId, Vec<String>>,
    /// The ledger's snapshot and log, and the consensus state of a voter.
    pub restored: Restored,
    /// Entries of the log between two snapshots.
    pub snapshot_every_entries: u64,
    /// When voters are replaced, if this host leads.
    pub voter_policy: VoterPolicy,
    /// Draws for everything that wants variety, and nothing that wants secrecy.
    pub seed: u64,
    /// The daemon's version.
    pub version: String,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A tick has passed.
    Tick,
    /// A peer was admitted and its link is up.
    LinkUp(HostId),
    /// The last connection to a peer is gone.
    LinkDown(HostId),
    /// A message came over a peer's link.
    Message(HostId, Message),
    /// A host with a good certificate that nobody has counted yet asks to be admitted.
    Applicant(MemberCert),
    /// Someone on this host wants this in the ledger. The answer is [`Output::Submitted`].
    Submit(Entry),
    /// Operators let the fleet go on with this host's ledger. The answer is [`Output::Submitted`], by
    /// the id of the document.
    Recover(Signed<VoterList>),
    /// Somebody on this host says that its disk was not put back to an older state.
    TrustDisk,
    /// The daemon is about to stop. It goes on for a moment, so that the others hear of it.
    Leave,
    /// The executor's state; none when it cannot be reached.
    Executor(Option<execute::Report>),
    /// The executor answered a request; the error is for when it could not be asked.
    Executed(Asked, Result<execute::Response, String>),
    /// The state of a revision in this host's store.
    Revision(Digest, Progress),
}

/// Which request an answer of the executor belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The group.
    pub group: GroupName,
    /// The deploy order.
    pub order: Digest,
    /// The release.
    pub release: Digest,
    /// The kind of request.
    pub kind: AskedKind,
}

/// The kind of a request to the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedKind {
    /// `Stage`
    Stage,
    /// `Prepare`, for the slot.
    Prepare(u64),
    /// `Activate`, with the slot.
    Activate(u64),
    /// `GiveUp`, of the slot.
    GiveUp(u64),
    /// `Returned`, of the slot.
    Returned(u64),
    /// `Stop`
    Stop,
}

/// Why a submission did not get into the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotTaken {
    /// It was judged, and the ledger is as it was.
    #[error("{0}")]
    Refused(String),
    /// Nobody judged it in time. It may still get in.
    #[error(
        "the voters did not answer, since no majority of them can be reached: see `swell voters`; \
         it may still be taken when they are back"
    )]
    Unanswered,
    /// Too much is under way on this host. It was not passed on.
    #[error("too many submissions are under way on this host: try again in a moment")]
    Busy,
}

/// How much of a revision is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Hundredths of its bytes.
    Fetching(u8),
    /// All of it.
    Complete,
    /// It cannot be had for now; fetching goes on.
    Troubled(String),
    /// It made way for others.
    Gone,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Make this durable before anything that follows.
    Persist(Write),
    /// Send over the peer's link.
    Send(HostId, Message),
    /// Connect to this address.
    Dial(String),
    /// Close all connections to a peer: neither side needs them, or it was removed.
    Close(HostId),
    /// Ask the executor.
    Execute(Asked, Box<execute::Request>),
    /// Tell the executor who votes. Its next report shows whether it has heard.
    TellVoters(Vec<Signed<VoterList>>),
    /// Bring this revision into the store and report on it.
    Fetch {
        /// The revision.
        manifest: Digest,
        /// The length of its manifest.
        manifest_bytes: u64,
        /// Read every frame of it again first: one that is here may have rotted.
        recheck: bool,
    },
    /// The answer to [`Input::Submit`], by the id of the submission.
    Submitted(Digest, Result<u64, NotTaken>),
    /// This host's certificate has become more complete: keep it.
    Certificate(MemberCert),
    /// The roster, or who was refused, has changed: judge new connections by it.
    Roster,
    /// Addresses of another host, to remember over a restart; none of one that is to be forgotten.
    Known(HostId, Vec<String>),
    /// Something that an operator would want to read in the log.
    Note(String),
}

/// A stop that was heard of, in the ledger or not.
struct HeardStop {
    group: GroupName,
    sequence: u64,
    order: Signed<Order>,
}

/// A host's mind. See the module's documentation.
pub struct Node {
    me: HostId,
    key: SecretKey,
    trust: Arc<Trust>,
    /// Who votes. Newer than the ledger, on a host that is behind.
    electorate: Electorate,
    cert: MemberCert,
    member_id: Digest,
    incarnation: u64,
    /// The certificate needs no receipts, or has them. Checking takes several signatures, and is asked
    /// four times a second.
    cert_is_whole: bool,
    epoch: u64,
    version: String,
    addresses: Vec<String>,
    /// The daemon was told to stop.
    is_leaving: bool,
    wall: UnixSeconds,
    now: Mono,
    ledger: Ledger,
    consensus: Option<Consensus>,
    boot: u64,
    /// What is known of the disk, if it is known for this start of the machine.
    assured: Option<Assured>,
    view: View,
    /// Hosts that were admitted since the roster was last brought up to the ledger.
    newcomers: Vec<HostId>,
    /// The ledger was replaced since.
    is_roster_stale: bool,
    gossip: Gossip,
    fitness: Fitness,
    links: Links,
    feed: Feed,
    /// A snapshot of the ledger that is coming in.
    incoming: Option<Incoming>,
    /// Voters that are being brought up to date, and when they last asked for a part.
    outgoing: BTreeMap<HostId, Mono>,
    leadership: Leadership,
    rollouts: Rollouts,
    /// My own record as it was last signed.
    record: Option<Record>,
    /// Receipts for this host's certificate, by voter.
    admissions: BTreeMap<HostId, Signed<crate::trust::Receipt>>,
    /// Stops by the deploy orders that they name, known with or without the ledger.
    /// With true, the stop lets hosts go back under the order.
    stopped: BTreeMap<(Digest, bool), HeardStop>,
    out: Vec<Output>,
    seed: u64,
    /// By the certificate's incarnation, and whether the ledger has it.
    admission: Repeat<(u64, bool)>,
    next_ledger_at: Mono,
    next_vouch_at: Mono,
    next_count_at: Mono,
}

impl Node {
    /// Wakes a host up with what it remembered. The outputs are performed like those of
    /// [`Node::handle`]. The error is for a snapshot on disk that is no ledger.
    pub fn new(
        now: Mono,
        wall: UnixSeconds,
        setup: Setup,
    ) -> Result<(Self, Vec<Output>), DecodeError> {
        let me = HostId::from(crate::trust::Signer::public_key(&setup.key));
        let fleet = setup.trust.fleet();
        let boot = setup.boot;
        let mut restored = setup.restored;
        let mut out = Vec::new();
        if setup.epoch == 1 {
            // Nothing was ever promised.
            restored.assured = Some(Assured::knows_all(boot));
            let write = Write { assured: restored.assured, ..Write::default() };
            out.push(Output::Persist(write));
        }
        let assured = restored.assured.filter(|assured| assured.boot == boot);
        let Restored { snapshot, entries, .. } = restored.clone();
        let ledger = match &snapshot {
            Some(snapshot) => Ledger::restore(setup.trust.clone(), &snapshot.state)?,
            None => Ledger::new(setup.trust.clone()),
        };
        let electorate = ledger.electorate().clone();
        // A generation begins with a snapshot: whoever voted when the log was written does so now.
        let voters = electorate.newest();
        let consensus =
            voters.is_voter(me).then(|| Consensus::new(me, voters, restored, setup.seed, boot));
        let followed = if consensus.is_some() { Vec::new() } else { entries };
        let member = setup.cert.verify_signatures(&setup.trust);
        let cert_is_whole = setup.cert.verify_though_expired(&setup.trust, &electorate).is_ok();
        let mut node = Self {
            me,
            key: setup.key,
            electorate,
            member_id: setup.cert.member.id(fleet),
            incarnation: member.map_or(0, |member| member.content().incarnation),
            cert_is_whole,
            cert: setup.cert,
            epoch: setup.epoch,
            version: setup.version,
            addresses: setup.addresses,
            is_leaving: false,
            wall,
            now,
            ledger,
            consensus,
            boot,
            assured,
            view: View::new(me, fleet),
            newcomers: Vec::new(),
            is_roster_stale: true,
            gossip: Gossip::new(now, setup.seed),
            fitness: Fitness::default(),
            links: Links::new(now, setup.seeds, setup.known, setup.seed),
            feed: Feed::new(setup.snapshot_every_entries, snapshot),
            incoming: None,
            outgoing: BTreeMap::new(),
            leadership: Leadership::new(setup.voter_policy),
            rollouts: Rollouts::default(),
            record: None,
            admissions: BTreeMap::new(),
            stopped: BTreeMap::new(),
            out,
            trust: setup.trust,
            seed: setup.seed,
            admission: Repeat::default(),
            next_ledger_at: now,
            next_vouch_at: now,
            next_count_at: now,
        };
        node.tell_doubt();
        node.apply_followed(followed, false);
        node.sync_roster();
        let out = std::mem::take(&mut node.out);
        Ok((node, out))
    }

    /// Takes in what happened at `now` and says what to do about it.
    pub fn handle(&mut self, now: Mono, wall: UnixSeconds, input: Input) -> Vec<Output> {
        self.handle_all(now, wall, [input])
    }

    /// Takes in all that has happened by `now`, in order. What comes together is agreed on together: a
    /// busy leader waits for its disk and for the others once for all of it.
    pub fn handle_all(
        &mut self,
        now: Mono,
        wall: UnixSeconds,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Vec<Output> {
        self.now = self.now.max(now);
        self.wall = wall;
        let applied = self.ledger.applied_index();
        let (mut moves, mut ticked) = (false, false);
        for input in inputs {
            let is_tick = matches!(input, Input::Tick);
            moves |= may_move_rollouts(&input) && (!is_tick || self.is_rolling_out());
            ticked |= is_tick;
            self.take_in(input);
        }
        self.agree();
        // Most of what comes is gossip, and changes nothing that is looked at here.
        let moves = moves || self.ledger.applied_index() != applied;
        if moves {
            self.roll_out();
            self.agree();
            self.propose_grants();
            self.agree();
        }
        if self.out.iter().any(|output| matches!(output, Output::Roster)) {
            self.sync_roster();
        }
        if moves || ticked {
            self.publish_record();
        }
        std::mem::take(&mut self.out)
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::LinkUp(peer) => self.link_up(peer),
            Input::LinkDown(peer) => self.link_down(peer),
            Input::Message(from, message) => self.message(from, message),
            Input::Applicant(cert) => self.submit(Entry::Admit(Box::new(cert)), false),
            Input::Submit(entry) => {
                self.hand_in(entry);
            }
            Input::Recover(list) => self.recover(&list),
            Input::TrustDisk => self.trust_disk(),
            Input::Leave => self.leave(),
            Input::Executor(report) => self.rollouts.reported(report),
            Input::Executed(asked, answer) => self.executed(asked, answer),
            Input::Revision(manifest, progress) => {
                self.rollouts.revisions.insert(manifest, progress);
            }
        }
    }

    /// Time passes: consensus, failure verdicts, repeats.
    fn tick(&mut self) {
        if let Some(consensus) = &mut self.consensus {
            let outputs = consensus.tick();
            self.consensus_outputs(outputs);
        }
        let has_listened = self.tend_gossip();
        self.tend_links();
        self.tend_feed();
        self.tend_snapshot();
        self.tend_vouching();
        self.tend_counting();
        self.lead(has_listened);
        self.drop_removed();
        if self.now >= self.next_ledger_at {
            self.tend_ledger();
        }
        self.tend_admission();
    }

    /// Parts with hosts that were removed. They have had a moment to hear of it. Whoever keeps the
    /// connection would believe that it is heard, even where operators have let the fleet go on with a ledger
    /// in which it was never removed.
    fn drop_removed(&mut self) {
        let removed: Vec<_> =
            self.links.up().filter(|peer| self.ledger.is_removed(*peer)).collect();
        for peer in removed {
            self.link_down(peer);
            self.out.push(Output::Close(peer));
        }
    }

    fn message(&mut self, from: HostId, message: Message) {
        // Its connection may outlive its membership.
        if self.ledger.is_removed(from) {
            return;
        }
        if let Some(from) = self.view.roster.number(from) {
            self.gossip.ears.hear(self.now, from);
        }
        if let Some(said) = self.read_say(&message) {
            return self.hear_say(from, said);
        }
        match message {
            Message::Heartbeat => {}
            Message::Records(records) => self.records(from, &records),
            Message::Neighbour(is_neighbour) => self.told_neighbour(from, is_neighbour),
            Message::Offer(_)
            | Message::WantRecords(_)
            | Message::RecordTree(_)
            | Message::RecordBuckets(_) => unreachable!("they were read above"),
            Message::Consensus(bytes) => self.consensus_message(from, &bytes),
            Message::Submit(entry) => self.submitted_by(from, *entry),
            Message::Submitted { id, outcome } => self.submission_answered(from, id, outcome),
            Message::Ledger { first, entries, applied, leader } => {
                self.follow(from, first, entries, applied, leader);
            }
            Message::WantLedger { first, follows } => {
                self.serve_ledger(from, first, follows);
            }
            Message::HaveSnapshot { index, term } => self.follow_by_snapshot(from, index, term),
            Message::WantSnapshot { index, offset } => self.serve_snapshot(from, index, offset),
            Message::Snapshot(part) => self.snapshot_part(from, part),
            Message::WantReceipt { token, nonce } => self.give_receipt(from, token, nonce),
            Message::WantAdmission { member } => self.give_admission(from, member),
            Message::Receipt(receipt) => self.receipt(from, &receipt),
            Message::Stop(stop) => self.stop(stop, Some(from)),
            Message::VotersKnown(generation) => self.peer_knows_voters(from, generation),
            Message::VoterLists(lists) => self.voter_lists(from, &lists),
            // Transfers are the caller's: it has the store.
            Message::Have(_) | Message::HaveMore { .. } | Message::Unwanted { .. } => {}
        }
    }

    /// Takes an order to heart at once if it is a stop, and passes it on. Old news ends here, and so
    /// does the flood.
    fn stop(&mut self, stop: Signed<Order>, from: Option<HostId>) {
        let Ok(verified) = self.trust.order(&stop) else { return };
        let crate::trust::Action::Stop { order, rollback } = verified.content().action else {
            return;
        };
        let (group, sequence) = (verified.content().group.clone(), verified.content().sequence);
        let heard = HeardStop { group: group.clone(), sequence, order: stop.clone() };
        if self.stopped.contains_key(&(order, rollback)) || !self.makes_room_for(order, &heard) {
            return;
        }
        self.stopped.insert((order, rollback), heard);
        self.out.push(Output::Note(format!("group {group}: a stop arrived; nothing more begins")));
        let asked = Asked { group, order, release: Digest::ZERO, kind: AskedKind::Stop };
        self.out.push(Output::Execute(asked, Box::new(execute::Request::Stop(stop.clone()))));
        for peer in self.links.up().filter(|peer| Some(*peer) != from).collect::<Vec<_>>() {
            self.send(peer, Message::Stop(stop.clone()));
        }
    }

    /// The stop that is known here, in the ledger or not, and keeps this host from beginning for an
    /// order: with `goes_back`, from going to its fallback.
    fn heeded(&self, order: Digest, goes_back: bool) -> Option<&Signed<Order>> {
        let partly = || self.stopped.get(&(order, true)).filter(|_| !goes_back);
        self.stopped.get(&(order, false)).or_else(partly).map(|heard| &heard.order)
    }

    /// Forgets the oldest stop of a group that has as many as are kept, if nothing goes on that it names. False
    /// if that would be the new one: whoever says old ones again is not answered by everybody each time.
    fn makes_room_for(&mut self, stops: Digest, new: &HeardStop) -> bool {
        let goes_on = |order: Digest| {
            let mut deployments = self.ledger.deployments().into_iter();
            deployments.any(|known| known.order == order && !known.status.is_over())
        };
        let known = self.stopped.iter().filter(|(_, heard)| heard.group == new.group);
        let known: Vec<_> =
            known.map(|((order, of), heard)| (heard.sequence, *order, *of)).collect();
        if known.len() < STOPS_KEPT_PER_GROUP {
            return true;
        }
        let over = known.into_iter().filter(|(_, order, _)| !goes_on(*order));
        let Some((oldest, order, rollback)) = over.min() else { return goes_on(stops) };
        if oldest > new.sequence && !goes_on(stops) {
            return false;
        }
        self.stopped.remove(&(order, rollback));
        true
    }

    /// Somebody on this host hands something in and waits for the answer.
    fn hand_in(&mut self, entry: Entry) {
        if let Entry::Order(order) = &entry {
            if self.ledger.knows_order(order) {
                let replayed = "this order was given before and is a replay: sign a new one".into();
                let id = entry.submission_id();
                self.out.push(Output::Submitted(id, Err(NotTaken::Refused(replayed))));
                return;
            }
            if let Ok(verified) = self.trust.order(order)
                && let Err(refusal) = self.ledger.check_way_back(verified.content())
            {
                let id = entry.submission_id();
                let refused = NotTaken::Refused(refusal.to_string());
                self.out.push(Output::Submitted(id, Err(refused)));
                return;
            }
            // A stop does not wait for the voters.
            self.stop(order.clone(), None);
        }
        self.submit(entry, true);
    }

    fn executed(&mut self, asked: Asked, answer: Result<execute::Response, String>) {
        self.rollouts.answered(self.now, &asked, &answer);
        let reason = match answer {
            Ok(execute::Response::Refused { reason }) => reason,
            Err(error) => error,
            Ok(_) => return,
        };
        let (group, kind) = (&asked.group, asked.kind);
        self.out.push(Output::Note(format!("group {group}: executor, {kind:?}: {reason}")));
    }

    /// Gets this host into the ledger, and the voters' receipts for its certificate. The newest one
    /// counts: a machine that was put back to an image takes over the fleet's copy of it.
    fn tend_admission(&mut self) {
        match self.ledger.certificate(self.me) {
            Some((_, counted)) if counted == self.incarnation => {}
            Some((cert, counted)) if counted > self.incarnation => {
                let cert = cert.clone();
                self.take_certificate(cert, counted);
            }
            _ => {
                if self.is_admission_due(false) {
                    self.submit(Entry::Admit(Box::new(self.cert.clone())), false);
                }
                return;
            }
        }
        if self.cert_is_whole || !self.is_admission_due(true) {
            return;
        }
        let member = self.member_id;
        for voter in self.voters() {
            if voter == self.me {
                if let Some(receipt) = self.sign_admission(member) {
                    self.keep_admission(voter, receipt);
                }
            } else if self.links.is_up(voter) {
                self.send(voter, Message::WantAdmission { member });
            }
        }
    }

    fn is_admission_due(&mut self, is_counted: bool) -> bool {
        let what = (self.incarnation, is_counted);
        self.admission.is_due(self.now, self.me, self.feed.hopes, what)
    }

    /// Goes on with a newer certificate, which the ledger has verified.
    fn take_certificate(&mut self, cert: MemberCert, incarnation: u64) {
        self.member_id = cert.member.id(self.trust.fleet());
        self.incarnation = incarnation;
        self.cert = cert;
        self.admissions.clear();
        self.weigh_certificate();
    }

    /// Keeps this host's certificate if it is whole.
    fn weigh_certificate(&mut self) {
        let whole = self.cert.verify_though_expired(&self.trust, &self.electorate);
        self.cert_is_whole = whole.is_ok();
        if self.cert_is_whole {
            self.out.push(Output::Certificate(self.cert.clone()));
        }
    }

    /// True if the executor takes this host's certificate: no use of its token is still being
    /// counted, and the ledger has no newer one.
    fn cert_is_good(&self) -> bool {
        let counted = self.ledger.certificate(self.me);
        self.cert_is_whole && counted.is_none_or(|(_, counted)| counted <= self.incarnation)
    }

    fn give_admission(&mut self, to: HostId, member: Digest) {
        if let Some(receipt) = self.sign_admission(member) {
            self.send(to, Message::Receipt(receipt));
        }
    }

    /// A voter's receipt for a certificate that its ledger holds.
    pub fn sign_admission(&self, member: Digest) -> Option<Signed<crate::trust::Receipt>> {
        let generation = self.consensus.as_ref()?.generation();
        if self.is_catching_up() || self.vouches_no_more() {
            return None;
        }
        let (index, entry) = self.ledger.admission(member)?;
        let subject = Subject::Admission { member };
        self.sign(&crate::trust::Receipt { entry, index, voter: self.me, subject, generation })
    }

    fn give_receipt(&mut self, to: HostId, token: u64, nonce: crate::ids::Nonce) {
        if let Some(receipt) = self.sign_slot(to, token, nonce) {
            self.send(to, Message::Receipt(receipt));
        }
    }

    /// A voter's receipt for a slot that `host` holds in its ledger.
    fn sign_slot(
        &self,
        host: HostId,
        token: u64,
        nonce: crate::ids::Nonce,
    ) -> Option<Signed<crate::trust::Receipt>> {
        let generation = self.consensus.as_ref()?.generation();
        if self.is_catching_up() || self.vouches_no_more() {
            return None;
        }
        let (holder, subject, entry) = self.ledger.receipt_subject(token, nonce)?;
        if holder != host {
            return None;
        }
        let entry = if planted(Defect::ReceiptOfOtherEntry) { Digest::ZERO } else { entry };
        let (index, voter) = (token, self.me);
        self.sign(&crate::trust::Receipt { entry, index, voter, subject, generation })
    }

    fn receipt(&mut self, from: HostId, receipt: &Signed<crate::trust::Receipt>) {
        let Ok(verified) = receipt.verify_host(self.trust.fleet()) else { return };
        let (content, voters) = (verified.content(), self.electorate.newest());
        let counts = content.voter == from && content.generation == voters.generation();
        if !counts || !voters.is_voter(from) {
            return;
        }
        match &verified.content().subject {
            Subject::Admission { member } if *member == self.member_id => {
                self.keep_admission(from, receipt.clone());
            }
            Subject::Admission { .. } => {}
            Subject::Slot { .. } => self.rollouts.receipt(&verified),
        }
    }

    /// Adds a receipt to this host's certificate: the newest of each voter.
    fn keep_admission(&mut self, voter: HostId, receipt: Signed<crate::trust::Receipt>) {
        if self.admissions.get(&voter) == Some(&receipt) {
            return;
        }
        self.admissions.insert(voter, receipt);
        self.cert.receipts = self.admissions.values().cloned().collect();
        self.weigh_certificate();
    }

    /// Sees to it that this host knows the ledger, and the ledger what this host obeys.
    fn tend_ledger(&mut self) {
        self.next_ledger_at = self.now + feed::LEDGER_AGAIN_EVERY;
        self.ask_ledger_again();
        self.remind_of_stops();
    }

    /// Hands in again what hosts obey and the ledger does not know: until it does, the deployment
    /// waits for hosts that will never ask.
    fn remind_of_stops(&mut self) {
        use crate::rollout::DeploymentStatus;
        let goes_on = |status: &DeploymentStatus| {
            matches!(status, DeploymentStatus::InProgress | DeploymentStatus::Queued)
        };
        let deployments = self.ledger.deployments().into_iter();
        let running = deployments.filter(|d| goes_on(&d.status));
        let stops = running.filter_map(|d| self.heeded(d.order, d.goes_back).cloned());
        let stops: Vec<_> = stops.collect();
        for stop in stops.into_iter().filter(|_| !planted(Defect::StopsNotReminded)) {
            self.submit(Entry::Order(stop), false);
        }
    }

    /// True while this voter has not applied again all that it had applied before its restart. Until
    /// then its ledger may show slots that were given back since, its own among them.
    fn is_catching_up(&self) -> bool {
        let needed = self.consensus.as_ref().map_or(0, Consensus::restored_to);
        self.ledger.applied_index() < needed && !planted(Defect::ActsBeforeItKnows)
    }

    fn sign<T: crate::trust::Document>(&self, content: &T) -> Option<Signed<T>> {
        // A key in memory always signs; what may fail is the content's own check.
        Signed::new(content, self.trust.fleet(), &[&self.key]).ok()
    }

    fn send(&mut self, to: HostId, message: Message) {
        self.links.speak(self.now, to);
        self.out.push(Output::Send(to, message));
    }

    fn name_of(&self, host: HostId) -> String {
        self.ledger.name_of(host).map_or_else(|| host.short(), ToString::to_string)
    }

    /// This host.
    pub fn me(&self) -> HostId {
        self.me
    }

    /// The replicated state, as far as it is known here.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The newest records.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The releases that this host keeps: what the ledger needs here, and what the executor runs or has laid
    /// out, which may be of before.
    pub fn needs(&self) -> BTreeMap<Digest, Need> {
        let mut needs = self.ledger.needs(self.me);
        for group in self.executor().iter().flat_map(|report| &report.groups) {
            let runs = group.current.iter().map(|(release, _)| (*release, Need::Current));
            let staged = group.staged.iter().map(|release| (*release, Need::InFlight));
            for (release, need) in runs.chain(staged) {
                needs.entry(release).or_insert(need);
            }
        }
        needs
    }

    /// What the executor said of itself last.
    pub fn executor(&self) -> Option<&execute::Report> {
        self.rollouts.executor()
    }

    /// True if the executor of this host answers.
    pub fn has_executor(&self) -> bool {
        self.rollouts.has_executor()
    }

    /// The consensus, on a voter.
    pub fn consensus(&self) -> Option<&Consensus> {
        self.consensus.as_ref()
    }

    /// The leader, as far as it is known here: a host that follows goes by what voters say.
    pub fn leader(&self) -> Option<HostId> {
        match &self.consensus {
            Some(consensus) => consensus.leader(),
            None => self.feed.heard_leader,
        }
    }

    /// This host's certificate.
    pub fn cert(&self) -> &MemberCert {
        &self.cert
    }

    /// True if a peer's link is up.
    pub fn is_connected(&self, peer: HostId) -> bool {
        self.links.is_up(peer)
    }

    /// Certificates that the voters refused, by the id of the member document, and why.
    pub fn refused_members(&self) -> BTreeMap<Digest, String> {
        let refused = self.feed.refused_members.iter();
        refused.map(|(member, (reason, _))| (*member, reason.clone())).collect()
    }

    /// Every promise that one host can check about itself. Panics if one is broken.
    pub fn check_invariants(&self) {
        self.ledger.check_invariants();
        assert!(self.feed.is_bounded(), "submissions are bounded");
        assert!(
            self.gossip.spread.is_bounded(&self.view.roster),
            "records on their way are bounded"
        );
    }
}

/// True if an input by itself may be what a rollout or the own record waits for. Others are so only
/// where the ledger has changed; what is paced by time is looked at in each tick.
fn may_move_rollouts(input: &Input) -> bool {
    match input {
        Input::Message(_, message) => matches!(message, Message::Receipt(_) | Message::Stop(_)),
        Input::LinkDown(_) | Input::Applicant(_) | Input::Leave => false,
        Input::Tick
        | Input::LinkUp(_)
        | Input::Submit(_)
        | Input::Recover(_)
        | Input::TrustDisk
        | Input::Executor(_)
        | Input::Executed(..)
        | Input::Revision(..) => true,
    }
}

#[cfg(test)]
mod tests;

//! Whole fleets of nodes in virtual time, with links that never lose and executors that obey.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroU8,
    sync::Arc,
};

use super::*;
use crate::{
    consensus::{Restored, VoterPolicy},
    execute::{
        ActivationReport, GroupReport, LifecycleEvent, Phase, Report, Request, Response, Stopped,
    },
    fleet::{HostState, Standing},
    ids::{
        ApplicationName, FleetName, GroupName, HostName, LabelText, Labels, Nonce, ReleaseLabel,
    },
    limits::{SNAPSHOT_BYTES_MAX, SNAPSHOT_PART_BYTES, TERM_MAX, TICK},
    rollout::{DeploymentConfiguration, DeploymentStatus, MinimumHealthy},
    trust::{
        Action, Deploy, Genesis, Group, Member, Outcome, Receipt, Release, Role, Roles, Root,
        Signer, TrustBundle, Voter,
    },
    wire::SnapshotPart,
};

/// Hosts, wires and a clock.
struct World {
    now: Mono,
    wall: UnixSeconds,
    /// Seconds by which people have set it forwards.
    ahead: u64,
    trust: Arc<Trust>,
    operator: SecretKey,
    releaser: SecretKey,
    hosts: Vec<Host>,
    wire: VecDeque<(usize, usize, Message)>,
    answers: BTreeMap<Digest, Result<u64, NotTaken>>,
    /// Releases whose ValidateService fails.
    bad: BTreeSet<Digest>,
    /// Requests of these kinds do not come to the executors until they are let go.
    held_back: Vec<fn(&Request) -> bool>,
    held: Vec<(usize, Asked, Request)>,
    /// Executors that act on no slot.
    stubborn: BTreeSet<usize>,
    /// A voter that vouches for entries that nobody else knows.
    liar: Option<usize>,
    /// A voter that tells nobody of the ledger.
    silent: Option<usize>,
    /// Entries of the ledger that each host was sent, each as often as it came.
    came: BTreeMap<usize, usize>,
    snapshot_every_entries: u64,
    voter_policy: VoterPolicy,
    /// The most hosts that were ever disturbed at once.
    most_down: usize,
    /// Hosts have links only when they dial. Else everybody is connected to everybody.
    dials: bool,
    links: BTreeSet<(usize, usize)>,
}

/// A host: its mind if it runs, its disk, its executor.
struct Host {
    seed: u8,
    id: HostId,
    node: Option<Node>,
    disk: Disk,
    /// The start of its machine.
    boot: u64,
    /// Of the certificate on its disk.
    incarnation: u64,
    executor: FakeExecutor,
}

#[derive(Clone, Default)]
struct Disk {
    epoch: u64,
    restored: Restored,
}

#[derive(Default)]
struct FakeExecutor {
    report: Report,
    electorate: Option<Electorate>,
    ends_at: Option<Mono>,
    /// Seconds that a lifecycle takes beside the one.
    slow_by: u64,
    dirty: bool,
}

fn role(key: &SecretKey) -> Role {
    Role { keys: vec![key.public_key()], threshold: NonZeroU8::MIN }
}

impl World {
    fn new(hosts: u8, voters: u8) -> Self {
        Self::with(hosts, voters, false)
    }

    fn with(hosts: u8, voters: u8, dials: bool) -> Self {
        let key = |n| SecretKey::from_seed(&[n; 32]);
        let (root, releaser, operator, enrolment) = (key(201), key(202), key(203), key(204));
        let roles = Roles {
            root: role(&root),
            release: role(&releaser),
            operator: role(&operator),
            enrolment: role(&enrolment),
        };
        let name = FleetName::new("test").unwrap();
        let document = Root { name, roles, version: 1, review_by: UnixSeconds(u64::MAX) };
        let host_id = |n: u8| HostId::from(key(n).public_key());
        let host_name = |n: u8| HostName::new(format!("h{n}")).unwrap();
        let mut first: Vec<_> =
            (1..=voters).map(|n| Voter { host: host_id(n), name: host_name(n) }).collect();
        first.sort();
        let genesis = Genesis { voters: first, generation: 0 };
        let (fleet, bundle) = TrustBundle::found(&document, &genesis, &[&root]).unwrap();
        let trust = Arc::new(Trust::new(bundle, Some(fleet)).unwrap());
        let mut world = Self {
            now: Mono(1_000_000_000),
            wall: UnixSeconds(1_700_000_000),
            ahead: 0,
            trust,
            operator,
            releaser,
            hosts: Vec::new(),
            wire: VecDeque::new(),
            answers: BTreeMap::new(),
            bad: BTreeSet::new(),
            held_back: Vec::new(),
            held: Vec::new(),
            stubborn: BTreeSet::new(),
            liar: None,
            silent: None,
            came: BTreeMap::new(),
            snapshot_every_entries: u64::MAX,
            voter_policy: VoterPolicy::default(),
            most_down: 0,
            dials,
            links: BTreeSet::new(),
        };
        for n in 1..=hosts {
            let (id, executor) = (host_id(n), FakeExecutor::default());
            let (node, disk, boot) = (None, Disk::default(), 1);
            world.hosts.push(Host { seed: n, id, node, disk, boot, incarnation: 0, executor });
            world.start(usize::from(n) - 1, &enrolment);
        }
        world
    }

    /// Two hosts have a link from now on.
    fn connect(&mut self, a: usize, b: usize) {
        let both_live = self.hosts[a].node.is_some() && self.hosts[b].node.is_some();
        if a != b && both_live && self.links.insert((a.min(b), a.max(b))) {
            self.feed(a, Input::LinkUp(self.hosts[b].id));
            self.feed(b, Input::LinkUp(self.hosts[a].id));
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            self.wire.retain(|(from, to, _)| (*from, *to) != (a, b) && (*from, *to) != (b, a));
            self.feed(a, Input::LinkDown(self.hosts[b].id));
            self.feed(b, Input::LinkDown(self.hosts[a].id));
        }
    }

    fn links_of(&self, host: usize) -> usize {
        self.links.iter().filter(|(a, b)| *a == host || *b == host).count()
    }

    fn cert(&self, host: usize, enrolment: &SecretKey) -> MemberCert {
        let host = &self.hosts[host];
        let member = Member {
            host: host.id,
            name: HostName::new(format!("h{}", host.seed)).unwrap(),
            zone: None,
            labels: Labels::default(),
            not_after: UnixSeconds(u64::MAX),
            incarnation: host.incarnation,
        };
        let member = Signed::new(&member, self.trust.fleet(), &[enrolment]).unwrap();
        MemberCert { token: None, member, receipts: Vec::new() }
    }

    fn start(&mut self, index: usize, enrolment: &SecretKey) {
        let cert = self.cert(index, enrolment);
        let host = &mut self.hosts[index];
        host.disk.epoch += 1;
        let setup = Setup {
            key: SecretKey::from_seed(&[host.seed; 32]),
            trust: self.trust.clone(),
            cert,
            epoch: host.disk.epoch,
            boot: host.boot,
            addresses: vec![format!("at {}", host.seed)],
            seeds: if self.dials { vec!["at 1".into()] } else { Vec::new() },
            known: BTreeMap::new(),
            restored: host.disk.restored.clone(),
            voter_policy: self.voter_policy,
            snapshot_every_entries: self.snapshot_every_entries,
            seed: u64::from(host.seed),
            version: "test".into(),
        };
        let (node, outputs) = Node::new(self.now, self.wall, setup).unwrap();
        host.node = Some(node);
        host.executor.dirty = true;
        self.perform(index, outputs);
        for other in 0..self.hosts.len() {
            if !self.dials {
                self.connect(index, other);
            }
        }
    }

    fn restart(&mut self, index: usize) {
        self.start(index, &SecretKey::from_seed(&[204; 32]));
    }

    fn kill(&mut self, index: usize) {
        self.hosts[index].node = None;
        for other in 0..self.hosts.len() {
            self.disconnect(index, other);
        }
    }

    fn feed(&mut self, index: usize, input: Input) {
        let Some(node) = &mut self.hosts[index].node else { return };
        let outputs = node.handle(self.now, self.wall, input);
        node.check_invariants();
        self.perform(index, outputs);
    }

    fn perform(&mut self, index: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Persist(write) => {
                    let disk = &mut self.hosts[index].disk;
                    disk.epoch = write.epoch.unwrap_or(disk.epoch);
                    disk.restored.write(write);
                }
                Output::Send(to, mut message) => {
                    if let (Message::Receipt(receipt), true) =
                        (&mut message, self.liar == Some(index))
                    {
                        *receipt = self.lie(index, receipt);
                    }
                    let tells =
                        matches!(message, Message::Ledger { .. } | Message::HaveSnapshot { .. });
                    if tells && self.silent == Some(index) {
                        continue;
                    }
                    if let Some(to) = self.hosts.iter().position(|host| host.id == to) {
                        self.wire.push_back((index, to, message));
                    }
                }
                Output::TellVoters(lists) => {
                    let trust = self.trust.clone();
                    self.hosts[index].executor.learn(&trust, &lists);
                }
                Output::Execute(asked, request) => self.execute(index, asked, *request),
                Output::Fetch { manifest, .. } => {
                    self.feed(index, Input::Revision(manifest, Progress::Complete));
                }
                Output::Submitted(id, outcome) => {
                    self.answers.insert(id, outcome);
                }
                Output::Dial(address) if self.dials => {
                    let at = address.strip_prefix("at ").and_then(|at| at.parse::<usize>().ok());
                    if let Some(at) = at.filter(|at| *at <= self.hosts.len()) {
                        self.connect(index, at - 1);
                    }
                }
                Output::Close(peer) => {
                    let peer = self.hosts.iter().position(|host| host.id == peer);
                    self.disconnect(index, peer.unwrap());
                }
                Output::Dial(_)
                | Output::Certificate(_)
                | Output::Roster
                | Output::Known(..)
                | Output::Note(_) => {}
            }
        }
    }

    fn lie(&self, index: usize, receipt: &Signed<Receipt>) -> Signed<Receipt> {
        let fleet = self.trust.fleet();
        let mut content = receipt.verify_host(fleet).unwrap().content().clone();
        content.entry = Digest([0xff; 32]);
        Signed::new(&content, fleet, &[&SecretKey::from_seed(&[self.hosts[index].seed; 32])])
            .unwrap()
    }

    fn execute(&mut self, index: usize, asked: Asked, request: Request) {
        if self.held_back.iter().any(|holds| holds(&request)) {
            self.held.push((index, asked, request));
            return;
        }
        self.answer(index, asked, request);
    }

    fn answer(&mut self, index: usize, asked: Asked, request: Request) {
        let answer = match &request {
            Request::Activate { .. } if self.stubborn.contains(&index) => {
                Response::Refused { reason: "the order's time is over".into() }
            }
            _ => {
                let (now, trust) = (self.now, self.trust.clone());
                self.hosts[index].executor.answer(now, &trust, &asked, request)
            }
        };
        self.feed(index, Input::Executed(asked, Ok(answer)));
    }

    /// Lets one tick pass: timers, executors, and every message that is under way.
    fn tick(&mut self) {
        self.now = self.now + TICK;
        self.wall = UnixSeconds(1_700_000_000 + self.ahead + self.now.0 / 1_000_000);
        for index in 0..self.hosts.len() {
            self.feed(index, Input::Tick);
            self.hosts[index].executor.advance(self.now, &self.bad);
            if self.hosts[index].node.is_some() && self.hosts[index].executor.dirty {
                self.hosts[index].executor.dirty = false;
                let report = self.hosts[index].executor.report.clone();
                self.feed(index, Input::Executor(Some(report)));
            }
        }
        // Messages beget messages; what is said within a tick is heard within it.
        self.deliver();
        let down = self.hosts.iter().filter(|host| host.executor.ends_at.is_some()).count();
        self.most_down = self.most_down.max(down);
    }

    /// Every message that is under way arrives. Returns how many brought a host entries of the ledger.
    fn deliver(&mut self) -> BTreeMap<usize, usize> {
        let mut fed: BTreeMap<usize, usize> = BTreeMap::new();
        while let Some((from, to, message)) = self.wire.pop_front() {
            if let Message::Ledger { entries, .. } = &message {
                *fed.entry(to).or_default() += 1;
                *self.came.entry(to).or_default() += entries.len();
            }
            self.feed(to, Input::Message(self.hosts[from].id, message));
        }
        fed
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if done(self) {
                return;
            }
            self.tick();
        }
        panic!("five minutes have passed without: {what}");
    }

    fn node(&self, index: usize) -> &Node {
        self.hosts[index].node.as_ref().unwrap()
    }

    fn leader(&self) -> Option<usize> {
        self.hosts.iter().position(|host| host.node.as_ref().is_some_and(Node::is_leading))
    }

    fn submit(&mut self, index: usize, entry: Entry) -> u64 {
        let id = entry.submission_id();
        self.feed(index, Input::Submit(entry));
        self.run_until("an answer to a submission", |world| world.answers.contains_key(&id));
        self.answers.remove(&id).unwrap().unwrap()
    }

    /// A deployment goes through, to all that run.
    fn deploys(&mut self, label: &str) {
        let from = self.first_live();
        let release = self.release(label);
        let order = self.deploy(from, release, None);
        self.run_until("success", |world| world.status(from, order) == DeploymentStatus::Succeeded);
    }

    fn group(&mut self, minimum_healthy: MinimumHealthy) {
        self.group_watched(minimum_healthy, 1);
    }

    fn group_watched(&mut self, minimum_healthy: MinimumHealthy, seconds: u32) {
        self.group_with(minimum_healthy.into(), seconds);
    }

    fn group_with(&mut self, configuration: DeploymentConfiguration, seconds: u32) {
        let group = Group {
            name: GroupName::new("web").unwrap(),
            filter: Labels::default(),
            version: 1,
            catch_up: false,
            application: ApplicationName::new("shop").unwrap(),
            configuration,
            failure_budget: None,
            automatic_rollback: true,
            deploy_to_new_hosts: false,
            minimum_healthy_seconds: seconds,
        };
        let group = Signed::new(&group, self.trust.fleet(), &[&self.operator]).unwrap();
        self.submit(0, Entry::Group(group));
    }

    fn release(&mut self, label: &str) -> Digest {
        let release = self.signed_release(label);
        self.submit(self.first_live(), Entry::Release(release.clone()));
        release.id(self.trust.fleet())
    }

    fn signed_release(&self, label: &str) -> Signed<Release> {
        let release = Release {
            label: ReleaseLabel::new(label).unwrap(),
            parent: None,
            manifest: Digest::of_content(label.as_bytes()),
            created_at: self.wall,
            application: ApplicationName::new("shop").unwrap(),
            architecture: None,
            environments: Vec::new(),
            content_bytes: 0,
            manifest_bytes: 1,
        };
        Signed::new(&release, self.trust.fleet(), &[&self.releaser]).unwrap()
    }

    fn deploy(&mut self, from: usize, release: Digest, fallback: Option<Digest>) -> Digest {
        self.deploy_with(from, release, fallback, None)
    }

    fn deploy_with(
        &mut self,
        from: usize,
        release: Digest,
        fallback: Option<Digest>,
        configuration: Option<DeploymentConfiguration>,
    ) -> Digest {
        let deploy = Deploy { fallback, configuration, ..Deploy::plain(release, 1) };
        let order = self.order(from, Action::Deploy(deploy));
        self.submit(from, Entry::Order(order.clone()));
        order.id(self.trust.fleet())
    }

    fn order(&self, from: usize, action: Action) -> Signed<Order> {
        let group = GroupName::new("web").unwrap();
        let (sequence, parent) = self.node(from).ledger().head(&group);
        let order = Order {
            group,
            action,
            parent,
            reason: String::new(),
            sequence: sequence + 1,
            issued_at: self.wall,
            not_after: None,
        };
        Signed::new(&order, self.trust.fleet(), &[&self.operator]).unwrap()
    }

    fn stop(&mut self, from: usize, deploy: Digest) {
        let order = self.order(from, Action::Stop { order: deploy, rollback: false });
        self.submit(from, Entry::Order(order));
    }

    fn run_for(&mut self, seconds: u64) {
        let end = self.now + std::time::Duration::from_secs(seconds);
        while self.now < end {
            self.tick();
        }
    }

    /// A group that is as large as a group can be.
    fn large_group(&mut self, number: usize) {
        let text = |key: usize, what: &str| {
            LabelText::new(format!("{what}{key:02}{}", "x".repeat(90))).unwrap()
        };
        let labels = (0..crate::limits::LABELS_MAX).map(|n| (text(n, "key"), text(n, "value")));
        let group = Group {
            name: GroupName::new(format!("group-{number}")).unwrap(),
            filter: Labels::new(labels.collect()).unwrap(),
            version: 1,
            catch_up: false,
            application: ApplicationName::new("shop").unwrap(),
            configuration: MinimumHealthy::AllAtOnce.into(),
            failure_budget: None,
            automatic_rollback: true,
            deploy_to_new_hosts: false,
            minimum_healthy_seconds: 1,
        };
        let group = Signed::new(&group, self.trust.fleet(), &[&self.operator]).unwrap();
        self.submit(0, Entry::Group(group));
    }

    fn first_live(&self) -> usize {
        self.hosts.iter().position(|host| host.node.is_some()).unwrap()
    }

    fn state_hashes(&self) -> BTreeSet<Digest> {
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
        nodes.map(|node| node.ledger().state_hash()).collect()
    }

    fn status(&self, from: usize, order: Digest) -> DeploymentStatus {
        let id = crate::ids::DeploymentId::of(order, false);
        self.node(from).ledger().deployment(id).unwrap().status.clone()
    }

    fn running(&self, release: Digest) -> usize {
        let runs = |host: &&Host| {
            let groups = &host.executor.report.groups;
            groups.iter().any(|g| g.current.as_ref().is_some_and(|(r, _)| *r == release))
        };
        self.hosts.iter().filter(runs).count()
    }
}

impl FakeExecutor {
    fn learn(&mut self, trust: &Trust, lists: &[Signed<VoterList>]) -> &crate::trust::Voters {
        let electorate = self.electorate.get_or_insert_with(|| Electorate::of(trust));
        if electorate.extend_by(trust, lists) {
            self.report.version += 1;
            self.report.generation = electorate.newest().generation();
            self.dirty = true;
        }
        electorate.newest()
    }

    fn answer(&mut self, now: Mono, trust: &Trust, asked: &Asked, request: Request) -> Response {
        self.dirty = true;
        self.report.version += 1;
        let voters = match &request {
            Request::Activate { evidence, .. } => {
                Some(self.learn(trust, &evidence.voter_lists).clone())
            }
            _ => None,
        };
        let group = match self.report.groups.iter().position(|g| g.group == asked.group) {
            Some(group) => group,
            None => {
                self.report.groups.push(GroupReport {
                    group: asked.group.clone(),
                    sequence: 0,
                    head: Digest::ZERO,
                    current: None,
                    staged: Vec::new(),
                    stopped: Vec::new(),
                    released: Vec::new(),
                    closed: 0,
                    activation: None,
                });
                self.report.groups.len() - 1
            }
        };
        let group = &mut self.report.groups[group];
        match request {
            Request::Stage(evidence) => {
                group.sequence += u64::try_from(evidence.orders.len()).unwrap();
                group.staged.push(asked.release);
            }
            Request::Prepare { .. } => return Response::Prepared { nonce: Nonce([7; 16]) },
            Request::Activate { .. } if group.is_stopped(asked.order, false) => {
                return Response::Refused { reason: "the order was stopped".into() };
            }
            Request::Activate { token, receipts, .. } => {
                let voters = voters.expect("they were learnt above");
                let contents = receipts
                    .iter()
                    .map(|receipt| receipt.verify_host(trust.fleet()).unwrap().content().clone());
                let entries: Vec<_> = contents
                    .filter(|receipt| receipt.generation == voters.generation())
                    .map(|receipt| receipt.entry)
                    .collect();
                let agree = |entry| entries.iter().filter(|other| *other == entry).count();
                let most = entries.iter().map(agree).max();
                assert!(most >= Some(voters.majority()), "a majority vouches for it");
                let phase = Phase::Running { event: LifecycleEvent::Install, restoring: false };
                let (order, release) = (asked.order, asked.release);
                group.activation = Some(ActivationReport { token, order, release, phase });
                self.ends_at = Some(now + std::time::Duration::from_secs(1 + self.slow_by));
            }
            Request::GiveUp { token, .. } => group.released.push(token),
            Request::Returned { token, .. } => {
                group.activation = None;
                group.closed = token;
            }
            Request::Stop(stop) => match trust.order(&stop).unwrap().content().action {
                Action::Stop { order, rollback } => {
                    group.stopped.push(Stopped { order, rollback });
                }
                Action::ReleaseSlot { token, .. } => group.released.push(token),
                _ => panic!("nothing to heed"),
            },
            Request::Report { .. } | Request::Learn(_) | Request::Log { .. } => {}
        }
        Response::Accepted
    }

    fn advance(&mut self, now: Mono, bad: &BTreeSet<Digest>) {
        if self.ends_at.is_none_or(|at| now < at) {
            return;
        }
        self.ends_at = None;
        self.dirty = true;
        self.report.version += 1;
        for group in &mut self.report.groups {
            let Some(activation) = &mut group.activation else { continue };
            if bad.contains(&activation.release) {
                activation.phase = Phase::Ended(Outcome::Failed {
                    log: "no answer".into(),
                    code: 4,
                    event: LifecycleEvent::ValidateService,
                    script: "validate.sh".into(),
                    message: "exit code 1".into(),
                    restored: group.current.is_some(),
                });
            } else {
                activation.phase = Phase::Ended(Outcome::Succeeded);
                let label = ReleaseLabel::new("x").unwrap();
                group.current = Some((activation.release, label));
            }
        }
    }
}

/// A fleet that has found itself.
fn fleet(hosts: u8, voters: u8) -> World {
    let mut world = World::new(hosts, voters);
    let all = usize::from(hosts);
    world.run_until("a roster that everybody knows", |world| {
        world.leader().is_some()
            && (0..all).all(|i| world.node(i).ledger().members().count() == all)
    });
    world
}

#[test]
fn what_is_agreed_on_in_a_busy_moment_reaches_followers_together() {
    let mut world = World::new(4, 3);
    world.run_until("everybody is a member", |world| world.node(3).ledger().member_count() == 4);
    world.run_for(5);
    let before = world.node(3).ledger().applied_index();
    for number in 0..40 {
        let release = world.signed_release(&format!("1.{number}"));
        world.feed(world.leader().unwrap(), Input::Submit(Entry::Release(release)));
        let fed = world.deliver();
        assert!(number == 0 || !fed.contains_key(&3) || fed[&3] <= 1);
    }
    let fed = world.node(3).ledger().applied_index() - before;
    assert!((1..10).contains(&fed), "the first ones came at once, and {fed} in all");
    world.run_for(1);
    assert_eq!(world.node(3).ledger().applied_index(), before + 40);
}

/// A fleet of five voters and one host that follows, which voter feeds that, and what another entry is.
fn followed() -> (World, usize, impl FnMut(&mut World) -> u64) {
    let mut world = World::new(6, 5);
    world.run_until("everybody is a member", |world| world.node(5).ledger().member_count() == 6);
    world.run_for(5);
    let feeds = world.node(5).feed.source.voter.unwrap();
    let feeds = world.hosts.iter().position(|host| host.id == feeds).unwrap();
    let mut number = 0;
    let next = move |world: &mut World| {
        number += 1;
        let release = world.signed_release(&format!("1.{number}"));
        let leader = world.leader().unwrap();
        world.feed(leader, Input::Submit(Entry::Release(release)));
        world.deliver();
        world.node(leader).ledger().applied_index()
    };
    (world, feeds, next)
}

#[test]
fn one_voter_feeds_a_host_and_the_others_are_asked_whether_there_is_more() {
    let (mut world, _, mut next) = followed();
    let before = world.came[&5];
    for _ in 0..100 {
        next(&mut world);
        world.run_for(1);
    }
    let came = world.came[&5] - before;
    assert!((100..=110).contains(&came), "100 entries took {came}");
}

#[test]
fn a_voter_that_feeds_nobody_makes_way_for_another() {
    let (mut world, feeds, mut next) = followed();
    world.silent = Some(feeds);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let (index, since) = (next(&mut world), world.now);
        world.run_until("it comes", |world| world.node(5).ledger().applied_index() >= index);
        waits.push(world.now.since(since).as_millis());
    }
    assert!(waits.iter().all(|wait| *wait <= 2100), "another voter had it: {waits:?}");
    let (first, rest) = waits.split_at(3);
    assert!(first.iter().sum::<u128>() > 1000, "the silent one was awaited first: {waits:?}");
    assert!(rest.iter().all(|wait| *wait <= 600), "and then no more: {waits:?}");
}

#[test]
fn a_voter_that_is_cut_off_from_the_others_makes_way_for_another() {
    let (mut world, feeds, mut next) = followed();
    for other in (0..5).filter(|other| *other != feeds) {
        world.disconnect(feeds, other);
    }
    world.run_until("another one leads", |world| world.leader().is_some_and(|l| l != feeds));
    let mut waits = Vec::new();
    for _ in 0..12 {
        let (index, since) = (next(&mut world), world.now);
        world.run_until("it comes", |world| world.node(5).ledger().applied_index() >= index);
        waits.push(world.now.since(since).as_millis());
        // It still answers, after whoever has more.
        let (first, applied) = (index + 1, index - 1);
        let answer = Message::Ledger { first, entries: Vec::new(), applied, leader: None };
        world.feed(5, Input::Message(world.hosts[feeds].id, answer));
    }
    assert!(waits[3..].iter().all(|wait| *wait <= 600), "{waits:?}");
}

#[test]
fn without_the_link_to_the_voter_that_feeds_it_a_host_is_fed_by_another() {
    let (mut world, feeds, mut next) = followed();
    world.disconnect(5, feeds);
    // It is asked at once.
    world.deliver();
    for _ in 0..5 {
        let index = next(&mut world);
        for _ in 0..6 {
            world.tick();
        }
        assert!(world.node(5).ledger().applied_index() >= index);
    }
}

#[test]
fn a_voter_that_offers_what_is_no_snapshot_makes_way_for_another() {
    let junk = |total| {
        Message::Snapshot(SnapshotPart {
            index: 1000,
            total,
            offset: 0,
            bytes: vec![7; 100].into(),
        })
    };
    let too_long = SNAPSHOT_BYTES_MAX + 1;
    for part in [junk(100), junk(too_long)] {
        let (mut world, feeds, mut next) = followed();
        let liar = world.hosts[feeds].id;
        let fed_by = |world: &World| world.node(5).feed.source.voter;
        world.silent = Some(feeds);
        let index = next(&mut world);
        let offer = Message::HaveSnapshot { index: 1000, term: 1 };
        world.feed(5, Input::Message(liar, offer));
        world.run_until("another brings it", |world| {
            world.node(5).ledger().applied_index() >= index
        });
        assert_eq!(fed_by(&world), Some(liar), "while it brings a snapshot");
        world.feed(5, Input::Message(liar, part));
        assert!(fed_by(&world).is_some_and(|voter| voter != liar));
    }
}

#[test]
fn whoever_hands_something_in_hears_of_it_at_once() {
    let mut world = World::new(6, 3);
    world.run_until("everybody is a member", |world| {
        (3..6).all(|host| world.node(host).ledger().member_count() == 6)
    });
    world.run_for(5);
    // The second one hands in at a voter that passes it on.
    world.disconnect(4, world.leader().unwrap());
    for number in 0..40 {
        let from = 3 + number % 2;
        let release = world.signed_release(&format!("1.{number}"));
        world.feed(from, Input::Submit(Entry::Release(release)));
        world.deliver();
        let leader = world.node(world.leader().unwrap()).ledger().applied_index();
        assert_eq!(world.node(from).ledger().applied_index(), leader, "entry {number}");
    }
    let (one, other) = (world.node(3).ledger(), world.node(5).ledger());
    assert!(one.applied_index() > other.applied_index() + 30, "the other one waits for the tick");
}

#[test]
fn every_host_lists_every_host() {
    let mut world = fleet(5, 3);
    world.run_until("everybody's record everywhere", |world| {
        (0..5).all(|i| world.node(i).view().iter().count() == 5)
    });
}

#[test]
fn all_at_once_reaches_all() {
    let mut world = fleet(5, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let release = world.release("1.0.0");
    let order = world.deploy(4, release, None);
    world.run_until("success", |world| world.status(4, order) == DeploymentStatus::Succeeded);
    assert_eq!(world.running(release), 5);
}

#[test]
fn one_at_a_time_survives_its_leader() {
    let mut world = fleet(5, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let first = world.release("1.0.0");
    let order = world.deploy(4, first, None);
    world.run_until("1.0.0", |world| world.status(4, order) == DeploymentStatus::Succeeded);
    let second = world.release("1.1.0");
    world.most_down = 0;
    let one_by_one = DeploymentConfiguration::from(MinimumHealthy::OneAtATime);
    let order = world.deploy_with(4, second, Some(first), Some(one_by_one));
    world.run_until("two hosts on 1.1.0", |world| world.running(second) >= 2);
    let leader = world.leader().unwrap();
    world.kill(leader);
    world.run_until("another leader", |world| world.leader().is_some_and(|l| l != leader));
    world.restart(leader);
    world.run_until("1.1.0", |world| world.status(4, order) == DeploymentStatus::Succeeded);
    assert_eq!(world.running(second), 5);
    assert_eq!(world.most_down, 1);
}

#[test]
fn a_bad_release_stops_at_the_first_host() {
    let mut world = fleet(5, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let good = world.release("1.0.0");
    let order = world.deploy(0, good, None);
    world.run_until("1.0.0", |world| world.status(0, order) == DeploymentStatus::Succeeded);
    let bad = world.release("1.1.0");
    world.bad.insert(bad);
    let one_by_one = DeploymentConfiguration::from(MinimumHealthy::OneAtATime);
    let order = world.deploy_with(0, bad, Some(good), Some(one_by_one));
    world.run_until("failure", |world| {
        matches!(world.status(0, order), DeploymentStatus::Failed { .. })
    });
    assert_eq!(world.running(bad), 0);
    assert_eq!(world.running(good), 5);
}

#[test]
fn a_dead_host_is_unreachable_within_fifteen_seconds_and_cleared_when_it_returns() {
    let mut world = fleet(5, 3);
    world.run_until("everybody's record everywhere", |world| {
        (0..5).all(|i| world.node(i).view().iter().count() == 5)
    });
    world.kill(4);
    let (dead, died) = (world.hosts[4].id, world.now);
    let gone = |world: &World| {
        (0..4).all(|i| matches!(world.node(i).standing(dead), Standing::Unreachable { .. }))
    };
    world.run_until("the verdict", gone);
    assert!(world.now.since(died) <= std::time::Duration::from_secs(15));
    world.restart(4);
    world.run_until("the return", |world| {
        (0..4).all(|i| world.node(i).standing(dead) == Standing::Reachable)
    });
}

#[test]
fn a_host_that_is_stopped_says_so_and_a_leader_hands_over_first() {
    let mut world = fleet(5, 3);
    world.run_until("everybody's record everywhere", |world| {
        (0..5).all(|i| world.node(i).view().iter().count() == 5)
    });
    world.run_for(5);
    let leader = world.leader().unwrap();
    let (id, term) = (world.hosts[leader].id, world.node(leader).consensus().unwrap().term());
    world.feed(leader, Input::Leave);
    world.deliver();
    world.run_for(1);
    assert!(world.leader().is_some_and(|now| now != leader), "nobody waits for an election");
    assert_eq!(world.node(leader).consensus().unwrap().term(), term + 1);
    world.kill(leader);
    let others = || (0..5).filter(|other| *other != leader);
    let stands = |world: &World| others().map(|i| world.node(i).standing(id)).collect::<Vec<_>>();
    let is_suspect = |standing: &Standing| matches!(standing, Standing::Suspect { .. });
    assert!(stands(&world).iter().all(is_suspect), "it may be back at once");
    world.run_for(8);
    let is_gone = |standing: &Standing| matches!(standing, Standing::Unreachable { .. });
    assert!(stands(&world).iter().all(is_gone));
    world.run_for(5);
    let accuses = |i: usize| !world.node(i).record.as_ref().unwrap().accused.is_empty();
    assert!(!others().any(accuses), "it has said so itself");
    world.restart(leader);
    world.run_until("the return", |world| {
        stands(world).iter().all(|standing| *standing == Standing::Reachable)
    });
}

#[test]
fn who_was_silent_counts_as_well_after_its_minimum_healthy_time() {
    let mut world = fleet(5, 3);
    world.group_watched(MinimumHealthy::AllAtOnce, 20);
    world.run_until("everybody's record everywhere", |world| {
        (0..5).all(|i| world.node(i).view().iter().count() == 5)
    });
    let dead = world.hosts[4].id;
    let is_well = |world: &World| world.node(0).ledger().is_healthy(dead);
    world.kill(4);
    world.run_until("it counts as down", |world| !is_well(world));
    // Voters that were just started have heard nothing ill of it.
    (0..3).for_each(|voter| world.kill(voter));
    (0..3).for_each(|voter| world.restart(voter));
    world.run_for(300);
    assert!(!is_well(&world), "nothing was heard of it");
    world.restart(4);
    let since = world.now;
    world.run_until("it counts as well", is_well);
    assert!(world.now.since(since) >= std::time::Duration::from_secs(20));
}

#[test]
fn a_host_whose_neighbours_hear_it_is_not_silent_however_old_its_record_is() {
    let mut world = fleet(16, 3);
    let knows = |world: &World, host: usize, other: usize| {
        world.node(host).heard_ago(world.hosts[other].id).is_some()
    };
    world.run_until("everybody is known", |world| (1..16).all(|other| knows(world, 0, other)));
    world.run_for(30);
    let node = world.node(0);
    let watches = |host: &usize| {
        let number = node.view.roster.number(world.hosts[*host].id).unwrap();
        node.gossip.ears.watches(number)
    };
    let far = (3..16).find(|host| !watches(host)).expect("more than are watched");
    let id = world.hosts[far].id;
    let ago = |world: &World| world.node(0).heard_ago(id).unwrap();
    let record = |world: &World| world.now.since(world.node(0).view().heard(id).unwrap());
    assert!(record(&world) > std::time::Duration::from_secs(20), "{:?}", record(&world));
    assert_eq!(ago(&world), std::time::Duration::ZERO);
    world.kill(far);
    world.run_for(30);
    assert!(ago(&world) > std::time::Duration::from_secs(20), "{:?}", ago(&world));
}

#[test]
fn two_machines_with_one_key_are_told_of_everywhere() {
    let mut world = fleet(4, 3);
    let id = world.hosts[3].id;
    let key = SecretKey::from_seed(&[world.hosts[3].seed; 32]);
    let record = |world: &World| world.node(0).view().get(id).unwrap().clone();
    // The copy is a little ahead, or says something else under the same number.
    for ahead in [0, 1, 0] {
        world.run_until("a record", |world| world.node(0).view().get(id).is_some());
        world.run_for(3);
        let mut other = world.node(3).view().get(id).unwrap().clone();
        assert!(!other.doubled);
        (other.sequence, other.signed_at) = (other.sequence + ahead, UnixSeconds(7));
        let signed = Signed::new(&other, world.trust.fleet(), &[&key]).unwrap();
        let from = world.hosts[0].id;
        world.feed(3, Input::Message(from, Message::Records(vec![signed])));
        let epoch = other.epoch;
        world.run_until("it goes on above", |world| record(world).epoch > epoch);
    }
    world.run_until("it says so", |world| record(world).doubled);
}

#[test]
fn a_holder_that_speaks_again_is_not_given_up_before_it_counts_as_well() {
    let mut world = fleet(5, 3);
    // Long after the hold-off.
    world.group_watched(MinimumHealthy::OneAtATime, 300);
    let release = world.release("1.0.0");
    world.held_back.push(|request| matches!(request, Request::Activate { .. }));
    world.deploy(0, release, None);
    world.run_until("a slot", |world| world.node(0).ledger().slots().next().is_some());
    let (id, token) =
        world.node(0).ledger().slots().next().map(|slot| (slot.host, slot.token)).unwrap();
    let holder = world.hosts.iter().position(|host| host.id == id).unwrap();
    let other = usize::from(holder == 0);
    let slot = move |world: &World| world.node(other).ledger().slot_of(id);
    let silent = move |world: &World| world.node(other).ledger().silent_since(id).is_some();
    world.kill(holder);
    world.run_until("it is silent", silent);
    let order = world.order(other, Action::ReleaseSlot { host: id, token });
    world.submit(other, Entry::Order(order));
    world.run_for(10);
    // It is back, and its executor says nothing.
    world.held_back.push(|_| true);
    world.restart(holder);
    world.run_for(90);
    assert!(silent(&world), "it does not count as well yet");
    assert!(slot(&world).is_some());
    world.kill(holder);
    world.run_for(90);
    assert!(slot(&world).is_none(), "it is given up");
}

#[test]
fn a_clock_that_is_set_ends_no_wait() {
    let mut world = fleet(4, 3);
    let deadline = DeploymentConfiguration {
        deployment_deadline_seconds: Some(60),
        ..MinimumHealthy::OneAtATime.into()
    };
    world.group_with(deadline, 1);
    let release = world.release("1.0.0");
    world.held_back.push(|request| matches!(request, Request::Stage(_)));
    let deploy = world.deploy(0, release, None);
    world.run_for(30);
    // Another one leads, and its clock is an hour ahead.
    let leader = world.leader().unwrap();
    world.kill(leader);
    world.ahead = 3600;
    world.run_for(15);
    let host = (leader + 1) % 3;
    assert_eq!(world.status(host, deploy), DeploymentStatus::InProgress);
    world.ahead = 0;
    world.run_for(25);
    let DeploymentStatus::Failed { reason } = world.status(host, deploy) else { panic!() };
    assert!(reason.starts_with("DEADLINE"), "{reason}");
}

#[test]
fn a_late_word_of_a_dead_host_does_not_make_it_count_as_well() {
    let mut world = fleet(5, 3);
    let dead = world.hosts[4].id;
    world.run_until("its record everywhere", |world| {
        (0..5).all(|i| world.node(i).view().get(dead).is_some())
    });
    let mut late = world.node(4).view().get(dead).unwrap().clone();
    world.kill(4);
    let silent_since = |world: &World| world.node(0).ledger().silent_since(dead);
    world.run_until("it counts as down", |world| silent_since(world).is_some());
    // Those that know how it died are gone, and its last word reaches the others only now.
    (0..3).for_each(|voter| world.kill(voter));
    (0..3).for_each(|voter| world.restart(voter));
    world.run_until("a leader", |world| world.leader().is_some());
    late.sequence += 1;
    let key = SecretKey::from_seed(&[world.hosts[4].seed; 32]);
    let signed = Signed::new(&late, world.trust.fleet(), &[&key]).unwrap();
    let from = world.hosts[3].id;
    (0..3).for_each(|voter| {
        let records = Message::Records(vec![signed.clone()]);
        world.feed(voter, Input::Message(from, records));
    });
    world.run_until("that word is written off too", |world| {
        assert!(!world.node(0).ledger().is_healthy(dead), "it is dead");
        silent_since(world) == Some(late.version())
    });
}

#[test]
fn what_the_executor_runs_or_has_laid_out_is_kept_though_no_group_knows_of_it() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::AllAtOnce);
    world.deploys("1.0.0");
    let mut report = world.hosts[0].executor.report.clone();
    let [left, laid_out] = [[8; 32], [9; 32]].map(Digest);
    let group = &mut report.groups[0];
    let runs = group.current.replace((left, ReleaseLabel::new("0.9.0").unwrap())).unwrap().0;
    group.staged.push(laid_out);
    world.feed(0, Input::Executor(Some(report)));
    let needs = world.node(0).needs();
    let expected = [Some(Need::Current), Some(Need::InFlight), Some(Need::Current)];
    assert_eq!([left, laid_out, runs].map(|release| needs.get(&release).copied()), expected);
}

/// A fleet that is too large for a full mesh, and has found its neighbours.
fn ringed(hosts: u8) -> World {
    let mut world = World::with(hosts, 3, true);
    let all = usize::from(hosts);
    world.run_until("everybody's record everywhere", |world| {
        (0..all).all(|i| world.node(i).view().iter().count() == all)
    });
    world
}

#[test]
fn a_larger_fleet_has_few_links_and_knows_everybody() {
    let mut world = ringed(40);
    world.run_for(200);
    for host in 0..40 {
        let voter = world.trust.genesis().names(world.hosts[host].id);
        let links = world.links_of(host);
        assert!(links <= 24 || voter, "host {host} has {links} links");
    }
    world.group(MinimumHealthy::AllAtOnce);
    let release = world.release("1.0.0");
    let order = world.deploy(39, release, None);
    world.run_until("success", |world| world.status(39, order) == DeploymentStatus::Succeeded);
}

#[test]
fn in_a_larger_fleet_too_a_dead_host_is_unreachable_within_fifteen_seconds() {
    let mut world = ringed(30);
    world.run_for(20);
    let dead = (0..30).find(|i| !world.trust.genesis().names(world.hosts[*i].id)).unwrap();
    let (id, died) = (world.hosts[dead].id, world.now);
    world.kill(dead);
    let others = || (0..30).filter(move |i| *i != dead);
    world.run_until("the verdict", |world| {
        others().all(|i| matches!(world.node(i).standing(id), Standing::Unreachable { .. }))
    });
    assert!(world.now.since(died) <= std::time::Duration::from_secs(15));
    world.restart(dead);
    world.run_until("the return", |world| {
        others().all(|i| world.node(i).standing(id) == Standing::Reachable)
    });
}

#[test]
fn a_host_at_rest_signs_its_record_again_within_an_hour_and_a_half() {
    let mut world = fleet(1, 1);
    world.run_for(5);
    let sequence = |world: &World| world.node(0).view().iter().next().unwrap().sequence;
    let before = sequence(&world);
    world.run_for(25 * 60);
    assert_eq!(sequence(&world), before);
    world.run_for(70 * 60);
    assert!((before + 1..=before + 3).contains(&sequence(&world)));
}

#[test]
fn progress_alone_is_told_once_a_second_and_what_comes_of_it_at_once() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let release = world.release("1.0.0");
    let (fetching, manifest) = (world.hosts[2].id, Digest::of_content(b"1.0.0"));
    let gets_on = |world: &mut World, percent| {
        world.feed(2, Input::Revision(manifest, Progress::Fetching(percent)));
    };
    let told = |world: &World| world.node(0).view().get(fetching).unwrap().clone();
    let state = |world: &World| told(world).groups.first().map(|status| status.state);
    gets_on(&mut world, 0);
    world.deploy(0, release, None);
    let begun = Some(HostState::Staging { percent: 0 });
    world.run_until("the beginning", |world| state(world) == begun);
    let before = told(&world).sequence;
    for percent in 1..=50 {
        gets_on(&mut world, percent);
        world.tick();
    }
    let more = told(&world).sequence - before;
    assert!((4..=6).contains(&more), "{more} records in five seconds");
    world.run_for(2);
    assert_eq!(state(&world), Some(HostState::Staging { percent: 50 }));
    world.feed(2, Input::Revision(manifest, Progress::Complete));
    world.run_for(1);
    assert_ne!(state(&world), Some(HostState::Staging { percent: 50 }));
}

#[test]
fn a_host_that_was_started_says_once_that_it_is_back_and_what_it_runs() {
    let mut world = fleet(4, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let release = world.release("1.0.0");
    let order = world.deploy(0, release, None);
    world.run_until("the end", |world| world.status(0, order).is_over());
    let leader = world.leader().unwrap();
    // One that follows, the leader, voters after which nobody leads, and one that asks what it has promised.
    for (which, machine_too) in
        [(&[3][..], false), (&[leader], false), (&[0, 1], false), (&[1], true)]
    {
        which.iter().for_each(|host| world.kill(*host));
        for host in which {
            world.hosts[*host].boot += u64::from(machine_too);
            world.restart(*host);
        }
        world.run_for(5);
        for host in which {
            let id = world.hosts[*host].id;
            let viewer = (0..4).find(|viewer| !which.contains(viewer)).unwrap();
            let told = world.node(viewer).view().get(id).unwrap();
            assert_eq!((told.groups.len(), told.sequence), (1, 1), "{host} of {which:?}");
        }
    }
}

#[test]
fn a_stop_does_not_free_a_slot_that_the_executor_may_be_about_to_use() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    world.held_back.push(|request| matches!(request, Request::Activate { .. } | Request::Stop(_)));
    let order = world.deploy(0, release, None);
    world.run_until("an executor on its way", |world| {
        world.held.iter().any(|(_, _, request)| matches!(request, Request::Activate { .. }))
    });
    world.stop(0, order);
    world.run_for(10);
    assert_eq!(world.node(0).ledger().slots().count(), 1, "nobody said that it never begins");
    // It begins first, and hears of the stop then: what it has begun it ends.
    world.held_back.clear();
    let held = std::mem::take(&mut world.held);
    let (begins, stops): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|(_, _, request)| matches!(request, Request::Activate { .. }));
    for (index, asked, request) in begins.into_iter().chain(stops) {
        world.answer(index, asked, request);
    }
    world.run_until("the end", |world| world.status(0, order) == DeploymentStatus::Stopped);
    assert_eq!(world.running(release), 1);
    assert_eq!(world.most_down, 1);
}

#[test]
fn a_stop_that_is_faster_frees_the_slot_unused() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    world.held_back.push(|request| matches!(request, Request::Activate { .. }));
    let order = world.deploy(0, release, None);
    world.run_until("an executor on its way", |world| !world.held.is_empty());
    world.stop(0, order);
    world.run_until("the end", |world| world.status(0, order) == DeploymentStatus::Stopped);
    world.held_back.clear();
    for (index, asked, request) in std::mem::take(&mut world.held) {
        world.answer(index, asked, request);
    }
    world.run_for(5);
    assert_eq!(world.running(release), 0);
    assert_eq!(world.most_down, 0);
}

#[test]
fn a_slot_that_the_executor_will_not_use_is_given_back() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    world.stubborn.insert(1);
    let order = world.deploy(0, release, None);
    world.run_until("an end", |world| world.status(0, order).is_over());
    assert_eq!(world.running(release), 2);
    let id = crate::ids::DeploymentId::of(order, false);
    let report = world.node(0).ledger().deployment(id).unwrap();
    let skipped = &report.targets[&world.hosts[1].id].status;
    let said = format!("{skipped:?}");
    assert!(said.contains("the order's time is over"), "{said}");
}

#[test]
fn one_voter_that_lies_denies_nobody_a_slot() {
    let mut world = fleet(5, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let release = world.release("1.0.0");
    world.liar = world.hosts.iter().position(|host| world.trust.genesis().names(host.id));
    let order = world.deploy(4, release, None);
    world.run_until("success", |world| world.status(4, order) == DeploymentStatus::Succeeded);
}

#[test]
fn what_is_too_long_or_old_news_gets_no_place_in_the_log() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let leader = world.leader().unwrap();
    let before = world.node(leader).ledger().applied_index();
    let group = world.node(leader).ledger().group(&GroupName::new("web").unwrap()).unwrap();
    let again = Signed::new(group.group, world.trust.fleet(), &[&world.operator]).unwrap();
    assert_eq!(world.submit((leader + 1) % 3, Entry::Group(again)), before);

    let enrolment = SecretKey::from_seed(&[204; 32]);
    let mut cert = world.cert(1, &enrolment);
    let junk = Receipt {
        entry: Digest::ZERO,
        index: 1,
        voter: world.hosts[1].id,
        subject: Subject::Admission { member: Digest::ZERO },
        generation: 0,
    };
    let key = SecretKey::from_seed(&[world.hosts[1].seed; 32]);
    let junk = Signed::new(&junk, world.trust.fleet(), &[&key]).unwrap();
    cert.receipts = vec![junk; 2000];
    let entry = Entry::Admit(Box::new(cert));
    let message = Message::Submit(Box::new(entry));
    let from = world.hosts[1].id;
    world.feed(leader, Input::Message(from, message));
    world.run_for(2);
    assert_eq!(world.node(leader).ledger().applied_index(), before);
    assert!(world.leader().is_some());
}

#[test]
fn whoever_is_far_behind_pulls_a_snapshot() {
    let mut world = World::new(4, 3);
    world.run_until("a roster", |world| {
        (0..4).all(|i| world.node(i).ledger().members().count() == 4)
    });
    let voter = (0..3).find(|index| Some(*index) != world.leader() && *index != 0).unwrap();
    world.kill(3);
    world.kill(voter);
    world.snapshot_every_entries = 30;
    // The others take it up with their next start.
    for index in (0..3).filter(|index| *index != voter) {
        world.kill(index);
        world.restart(index);
    }
    world.run_until("a leader", |world| world.leader().is_some());
    for number in 0..100 {
        world.large_group(number);
    }
    let leader = world.leader().unwrap();
    let snapshot = world.hosts[leader].disk.restored.snapshot.as_ref().unwrap();
    assert!(snapshot.state.len() > 2 * SNAPSHOT_PART_BYTES, "it takes parts");
    world.restart(3);
    world.restart(voter);
    world.run_until("everybody knows the same", |world| {
        world.state_hashes().len() == 1 && world.node(3).ledger().groups().count() == 100
    });
}

#[test]
fn a_host_that_a_voter_has_forgotten_still_follows() {
    let mut world = fleet(4, 3);
    let follower = world.hosts[3].id;
    // Its connections overlapped: the voters lost one and got another, and it saw no change.
    for voter in 0..3 {
        world.feed(voter, Input::LinkDown(follower));
        world.feed(voter, Input::LinkUp(follower));
    }
    world.group(MinimumHealthy::OneAtATime);
    world.run_until("the group is known there", |world| {
        world.node(3).ledger().groups().count() == 1
    });
}

#[test]
fn a_restarted_voter_acts_on_no_slot_that_it_gave_back() {
    let mut world = fleet(1, 1);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    let order = world.deploy(0, release, None);
    world.run_until("success", |world| world.status(0, order) == DeploymentStatus::Succeeded);
    world.run_for(2);
    // How far it had applied is not on its disk: for a moment the slot looks held.
    world.kill(0);
    world.restart(0);
    world.most_down = 0;
    world.run_for(10);
    assert_eq!(world.most_down, 0);
}

#[test]
fn old_stops_are_forgotten_and_not_heard_again_but_for_one_that_is_needed() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    world.held_back.push(|request| matches!(request, Request::Stage(_)));
    let deploy = world.deploy(0, release, None);
    let fleet = world.trust.fleet();
    let stop = |order: Digest, sequence: u64| {
        let stop = Order {
            group: GroupName::new("web").unwrap(),
            action: Action::Stop { order, rollback: false },
            parent: Digest([9; 32]),
            reason: String::new(),
            sequence,
            issued_at: UnixSeconds(0),
            not_after: None,
        };
        Signed::new(&stop, fleet, &[&SecretKey::from_seed(&[203; 32])]).unwrap()
    };
    let all = 2 * u8::try_from(STOPS_KEPT_PER_GROUP).unwrap();
    let node = world.hosts[1].node.as_mut().unwrap();
    for number in 0..all {
        node.stop(stop(Digest([number; 32]), 10 + u64::from(number)), None);
    }
    assert_eq!(node.stopped.len(), STOPS_KEPT_PER_GROUP);
    assert!(node.heeded(Digest([all - 1; 32]), false).is_some());
    // Whoever says an old one again is not answered.
    node.out.clear();
    node.stop(stop(Digest([0; 32]), 10), None);
    assert!(node.out.is_empty() && node.heeded(Digest([0; 32]), false).is_none());
    // An old stop of what goes on is heeded all the same, and stays.
    node.stop(stop(deploy, 3), None);
    for number in 0..all {
        node.stop(stop(Digest([100 + number; 32]), 100 + u64::from(number)), None);
    }
    assert!(node.heeded(deploy, false).is_some());
    assert_eq!(node.stopped.len(), STOPS_KEPT_PER_GROUP);
}

#[test]
fn a_stop_that_another_order_overtook_ends_the_deployment() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    world.held_back.push(|request| matches!(request, Request::Stage(_)));
    let deploy = world.deploy(0, release, None);
    // Two people give orders at once; the second one's does not follow the first's.
    let stray = Order {
        group: GroupName::new("web").unwrap(),
        action: Action::Stop { order: deploy, rollback: false },
        parent: Digest([9; 32]),
        reason: "signed elsewhere".into(),
        sequence: 3,
        issued_at: UnixSeconds(0),
        not_after: None,
    };
    let stray = Signed::new(&stray, world.trust.fleet(), &[&world.operator]).unwrap();
    world.feed(1, Input::Submit(Entry::Order(stray)));
    world.run_until("the end", |world| world.status(0, deploy) == DeploymentStatus::Stopped);
}

mod voters;

#[test]
fn a_voter_with_too_few_others_to_ask_votes_when_somebody_vouches_for_its_disk() {
    let mut world = fleet(4, 3);
    world.run_for(2);
    let (gone, back) = (0, 1);
    world.kill(gone);
    world.kill(back);
    world.hosts[back].boot += 1;
    world.restart(back);
    world.run_for(30);
    assert_eq!(
        world.node(back).in_doubt().map(|(heard, needed)| (heard.len(), needed)),
        Some((1, 2))
    );
    assert_eq!(world.leader(), None, "one of three decides nothing");
    world.feed(back, Input::TrustDisk);
    assert_eq!(world.node(back).in_doubt(), None);
    world.run_until("a leader", |world| world.leader().is_some());
    // It is remembered: as long as the machine runs nobody has to say it again.
    world.kill(back);
    world.restart(back);
    assert_eq!(world.node(back).in_doubt(), None);
}

#[test]
fn a_host_that_was_put_back_goes_on_above_the_records_that_it_has_forgotten() {
    let mut world = fleet(4, 3);
    let image = world.hosts[3].disk.clone();
    for _ in 0..3 {
        world.kill(3);
        world.restart(3);
        world.run_for(2);
    }
    let id = world.hosts[3].id;
    let before = world.node(0).view().get(id).unwrap().epoch;
    world.kill(3);
    world.hosts[3].disk = image;
    world.hosts[3].boot += 1;
    world.restart(3);
    world.run_until("its records count again", |world| {
        let epoch = world.node(0).view().get(id).map(|record| record.epoch);
        epoch > Some(before) && world.node(3).view().get(id).map(|record| record.epoch) == epoch
    });
    assert_eq!(world.hosts[3].disk.epoch, before + 1, "and what it counts from is on its disk");
}

#[test]
fn the_newest_certificate_of_a_host_counts_wherever_it_is() {
    let mut world = fleet(4, 3);
    world.run_until("a leader", |world| world.leader().is_some());
    let id = world.hosts[3].id;
    world.hosts[3].incarnation = 1;
    let newer = world.cert(3, &SecretKey::from_seed(&[204; 32]));
    world.submit(0, Entry::Admit(Box::new(newer.clone())));
    world.run_until("the host has the fleet's copy", |world| *world.node(3).cert() == newer);
    world.hosts[3].incarnation = 2;
    world.kill(3);
    world.restart(3);
    world.run_until("the fleet has the host's copy", |world| {
        world.node(0).ledger().certificate(id).is_some_and(|(_, counted)| counted == 2)
    });
}

#[test]
fn nothing_is_staged_by_a_certificate_that_counts_no_more() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let release = world.release("1.0.0");
    let host = (world.leader().unwrap() + 1) % 3;
    world.hosts[host].incarnation = 1;
    let newer = world.cert(host, &SecretKey::from_seed(&[204; 32]));
    world.run_for(5);
    world.held_back.push(|request| matches!(request, Request::Stage(_)));
    let leader = world.leader().unwrap();
    world.feed(leader, Input::Submit(Entry::Admit(Box::new(newer.clone()))));
    world.deliver();
    let order = world.order(leader, Action::Deploy(Deploy::plain(release, 1)));
    world.feed(leader, Input::Submit(Entry::Order(order)));
    world.deliver();
    let stages = |world: &World| {
        let held = world.held.iter().filter(|(index, ..)| *index == host);
        let certs = held.filter_map(|(.., request)| match request {
            Request::Stage(evidence) => Some(evidence.cert.clone()),
            _ => None,
        });
        certs.collect::<Vec<_>>()
    };
    assert!(world.held.iter().any(|(index, ..)| *index != host), "others are asked at once");
    assert_eq!(stages(&world), [], "its own one is old");
    world.run_until("it has the fleet's copy", |world| !stages(world).is_empty());
    assert_eq!(stages(&world), [newer]);
}

#[test]
fn grants_wait_for_a_leader_that_is_being_called_and_does_not_come() {
    let mut world = fleet(3, 3);
    world.group(MinimumHealthy::AllAtOnce);
    let release = world.release("1.0.0");
    let leader = world.leader().unwrap();
    let heir = (leader + 1) % 3;
    world.held_back.push(|request| matches!(request, Request::Stage(_) | Request::Activate { .. }));
    world.deploy(leader, release, None);
    world.kill(heir);
    world.run_for(1);
    // The leader's own host alone asks for a slot, and asks as its heir is called.
    let own = world.held.iter().position(|(index, ..)| *index == leader).unwrap();
    let (_, asked, request) = world.held.swap_remove(own);
    world.answer(leader, asked, request);
    let report = world.hosts[leader].executor.report.clone();
    world.feed(leader, Input::Executor(Some(report)));
    let heir = world.hosts[heir].id;
    let node = world.hosts[leader].node.as_mut().unwrap();
    let outputs = node.consensus.as_mut().unwrap().hand_over(heir);
    node.consensus_outputs(outputs);
    let before = world.node(leader).ledger().applied_index();
    world.deliver();
    assert_eq!(world.node(leader).ledger().applied_index(), before + 1, "it is in the ledger");
    assert_eq!(world.node(leader).ledger().slots().count(), 0, "nothing is proposed meanwhile");
    world.run_for(4);
    assert_eq!(world.node(leader).ledger().slots().count(), 1);
}

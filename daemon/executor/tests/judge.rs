//! The executor as a process: what it does when everything is signed, and that it does nothing when
//! anything is not. The test speaks for a network daemon that was taken over.

// It reads registers, which are of a machine.
#[cfg(target_arch = "x86_64")]
mod crash;
#[cfg(target_arch = "x86_64")]
#[path = "../../tests/disk/mod.rs"]
mod disk;
#[cfg(target_arch = "x86_64")]
#[path = "../../tests/shown/mod.rs"]
mod shown;

use std::{
    fs,
    io::{Read, Write},
    num::NonZeroU8,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use groundswell_protocol::{
    cbor,
    execute::{Evidence, LifecycleEvent, Phase, Report, Request, Response},
    ids::{
        ApplicationName, DeploymentId, Digest, FleetId, FleetName, GroupName, HostId, HostName,
        Labels, Nonce, ReleaseLabel,
    },
    limits::EXECUTOR_FRAME_BYTES_MAX,
    revision::{AppSpec, EventHooks, FileMapping, Publisher, Script},
    rollout::MinimumHealthy,
    time::UnixSeconds,
    trust::{
        Action, Base, Deploy, Document, Genesis, Group, Member, MemberCert, Order, Outcome,
        Receipt, Release, Role, Roles, Root, SecretKey, Signed, Signer, Subject, Trust,
        TrustBundle, Voter, VoterList,
    },
};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

const RELEASER: u8 = 2;
const OPERATOR: u8 = 3;
const ENROLMENT: u8 = 4;
const ME: u8 = 10;
const TOKEN: u64 = 41;

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn host(number: u8) -> HostId {
    key(number).public_key().into()
}

/// A running executor on a host of a fleet with three voters, and a store with one revision.
struct Bench {
    dir: TempDir,
    child: Child,
    fleet: FleetId,
    release: Release,
    /// The slot that it holds.
    token: AtomicU64,
    /// How what was done under it has ended, once it was said.
    ended: Mutex<Option<Outcome>>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Bench {
    fn new() -> Self {
        Self::on(scratch())
    }

    fn on(dir: TempDir) -> Self {
        let role = |n| Role { keys: vec![key(n).public_key()], threshold: NonZeroU8::MIN };
        let root = Root {
            name: FleetName::new("test").unwrap(),
            roles: Roles {
                root: role(1),
                release: role(RELEASER),
                operator: role(OPERATOR),
                enrolment: role(ENROLMENT),
            },
            version: 1,
            review_by: UnixSeconds(0),
        };
        let mut voters: Vec<_> = (20..23)
            .map(|n| Voter { host: host(n), name: HostName::new(format!("v{n}")).unwrap() })
            .collect();
        voters.sort();
        let genesis = Genesis { voters, generation: 0 };
        let (fleet, bundle) = TrustBundle::found(&root, &genesis, &[&key(1)]).unwrap();
        let state = dir.path().join("state");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("fleet.trust"), bundle.to_bytes()).unwrap();
        fs::write(state.join("host.id"), host(ME).to_string()).unwrap();
        let release = write_store(&dir.path().join("store"), "1", &[]);
        let child = start(dir.path());
        Self { dir, child, fleet, release, token: AtomicU64::new(TOKEN), ended: Mutex::default() }
    }

    fn token(&self) -> u64 {
        self.token.load(Ordering::Relaxed)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sign<T: Document>(&self, content: &T, by: u8) -> Signed<T> {
        Signed::new(content, self.fleet, &[&key(by)]).unwrap()
    }

    fn group(&self) -> Group {
        Group {
            name: GroupName::new("web").unwrap(),
            filter: "role=web".parse().unwrap(),
            version: 1,
            catch_up: false,
            application: ApplicationName::new("shop").unwrap(),
            configuration: MinimumHealthy::OneAtATime.into(),
            failure_budget: None,
            automatic_rollback: true,
            deploy_to_new_hosts: false,
            minimum_healthy_seconds: 0,
        }
    }

    fn order(&self, sequence: u64, parent: Digest, action: Action) -> Order {
        Order {
            group: GroupName::new("web").unwrap(),
            action,
            parent,
            reason: String::new(),
            sequence,
            issued_at: UnixSeconds(0),
            not_after: None,
        }
    }

    fn deploy(&self) -> Order {
        let release = self.sign(&self.release, RELEASER).id(self.fleet);
        let deploy = Deploy::plain(release, 1);
        self.order(1, Digest::ZERO, Action::Deploy(deploy))
    }

    fn cert(&self, of: u8, labels: &str, by: u8) -> MemberCert {
        let member = Member {
            host: host(of),
            name: HostName::new("web-1").unwrap(),
            zone: None,
            labels: labels.parse::<Labels>().unwrap(),
            not_after: UnixSeconds(u64::MAX),
            incarnation: 0,
        };
        MemberCert { token: None, member: self.sign(&member, by), receipts: Vec::new() }
    }

    /// Evidence in which everything is as it should be.
    fn evidence(&self) -> Evidence {
        let order = self.sign(&self.deploy(), OPERATOR);
        Evidence {
            cert: self.cert(ME, "role=web", ENROLMENT),
            group: self.sign(&self.group(), OPERATOR),
            order: order.id(self.fleet),
            orders: vec![order],
            release: self.sign(&self.release, RELEASER),
            voter_lists: Vec::new(),
        }
    }

    /// Evidence for another revision, which follows `evidence`.
    fn publish(&mut self, scripts: &[(LifecycleEvent, &str)], evidence: &Evidence) -> Evidence {
        self.release = write_store(&self.path("store"), "2", scripts);
        let order = Order { sequence: 2, parent: evidence.order, ..self.deploy() };
        let order = self.sign(&order, OPERATOR);
        Evidence { order: order.id(self.fleet), orders: vec![order], ..self.evidence() }
    }

    /// The list of voters after the first one.
    fn voter_list(&self, voters: &[u8], by: &[u8]) -> Signed<VoterList> {
        let keys: Vec<_> = by.iter().map(|n| key(*n)).collect();
        let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        Signed::new(&self.next_voters(voters), self.fleet, &signers).unwrap()
    }

    fn next_voters(&self, voters: &[u8]) -> VoterList {
        let bundle = fs::read(self.path("state/fleet.trust")).unwrap();
        let trust = Trust::new(TrustBundle::from_bytes(&bundle).unwrap(), None).unwrap();
        let name = |n| HostName::new(format!("v{n}")).unwrap();
        let mut voters: Vec<_> =
            voters.iter().map(|n| Voter { host: host(*n), name: name(n) }).collect();
        voters.sort();
        VoterList { base: None, seats: 3, parent: trust.genesis_id(), voters, generation: 1 }
    }

    /// Ends the process without a warning, and starts it again.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = start(self.dir.path());
    }

    /// Activates with all that it takes, and does not wait.
    fn begin(&self, evidence: &Evidence) -> Response {
        let nonce = self.prepare(evidence);
        self.activate(evidence, self.receipts(evidence, nonce, &[20, 21]))
    }

    /// Activates, and closes the activation when it has ended.
    fn run(&self, evidence: &Evidence) -> Outcome {
        assert_eq!(self.begin(evidence), Response::Accepted);
        let outcome = self.outcome();
        assert_eq!(self.give_back(), Response::Accepted);
        outcome
    }

    /// Closes an activation. What comes next has another slot.
    fn give_back(&self) -> Response {
        let token = self.token.fetch_add(1, Ordering::Relaxed);
        self.ask(&Request::Returned { group: GroupName::new("web").unwrap(), token })
    }

    fn phase(&self) -> Phase {
        self.report().groups[0].activation.clone().unwrap().phase
    }

    fn receipt(&self, evidence: &Evidence, voter: u8, nonce: Nonce) -> Receipt {
        let release = evidence.release.id(self.fleet);
        let subject = Subject::Slot { host: host(ME), nonce, order: evidence.order, release };
        let voter = host(voter);
        Receipt { entry: Digest([7; 32]), index: self.token(), voter, subject, generation: 0 }
    }

    fn ask(&self, request: &Request) -> Response {
        let mut stream = UnixStream::connect(self.path("exec.sock")).unwrap();
        let bytes = cbor::encode(request);
        stream.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut bytes).unwrap();
        cbor::decode(&bytes, EXECUTOR_FRAME_BYTES_MAX).unwrap()
    }

    fn prepare(&self, evidence: &Evidence) -> Nonce {
        let request = Request::Prepare {
            group: GroupName::new("web").unwrap(),
            order: evidence.order,
            release: evidence.release.id(self.fleet),
        };
        match self.ask(&request) {
            Response::Prepared { nonce } => nonce,
            other => panic!("{other:?}"),
        }
    }

    fn activate(&self, evidence: &Evidence, receipts: Vec<Signed<Receipt>>) -> Response {
        let evidence = Box::new(evidence.clone());
        self.ask(&Request::Activate { evidence, token: self.token(), receipts })
    }

    fn receipts(&self, evidence: &Evidence, nonce: Nonce, voters: &[u8]) -> Vec<Signed<Receipt>> {
        let sign = |voter: &u8| self.sign(&self.receipt(evidence, *voter, nonce), *voter);
        voters.iter().map(sign).collect()
    }

    fn report(&self) -> Report {
        match self.ask(&Request::Report { seen: 0 }) {
            Response::Report(report) => report,
            other => panic!("{other:?}"),
        }
    }

    fn outcome(&self) -> Outcome {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let report = self.report();
            let activation = report.groups.first().and_then(|group| group.activation.as_ref());
            if let Some(Phase::Ended(outcome)) = activation.map(|a| a.phase.clone()) {
                return outcome;
            }
            assert!(Instant::now() < until, "it did not end: {report:?}");
        }
    }

    /// The directories of the group's deployments.
    fn deployments(&self) -> Vec<PathBuf> {
        let list = fs::read_dir(self.path("root/web")).unwrap();
        list.map(|entry| entry.unwrap().path()).collect()
    }

    /// Nothing was begun and no file is in place.
    fn assert_untouched(&self) {
        let report = self.report();
        assert!(report.groups.iter().all(|group| group.activation.is_none()), "{report:?}");
        assert!(!self.path("live/srv").exists());
    }
}

/// In memory where possible: some tests make changes durable a thousand times.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn refusal(response: Response) -> String {
    match response {
        Response::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn start(dir: &Path) -> Child {
    fs::create_dir_all(dir.join("live")).unwrap();
    let shown = dir.display();
    let settings = format!(
        "state_dir = \"{shown}/state\"\nroot_dir = \"{shown}/root\"\nstore_dir = \"{shown}/store\"\n\
         socket = \"{shown}/exec.sock\"\ndestination_root = \"{shown}/live\"\n{}\n",
        fs::read_to_string(dir.join("more.toml")).unwrap_or_default()
    );
    fs::write(dir.join("swell-exec.toml"), settings).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_swell-exec"))
        .arg("--config")
        .arg(dir.join("swell-exec.toml"))
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(dir.join("exec.sock")).is_err() {
        assert!(Instant::now() < until, "the executor does not listen");
        std::thread::yield_now();
    }
    child
}

/// Writes a revision as `swelld` would, and the release that names it. One script for each event.
fn write_store(dir: &Path, label: &str, scripts: &[(LifecycleEvent, &str)]) -> Release {
    write_store_for(&["/srv/app"], dir, label, scripts)
}

fn write_store_for(
    destinations: &[&str],
    dir: &Path,
    label: &str,
    scripts: &[(LifecycleEvent, &str)],
) -> Release {
    let to = |to: &&str| FileMapping { source: "app".into(), destination: (*to).into() };
    let files = destinations.iter().map(to).collect();
    let script = |event: &LifecycleEvent| Script {
        sudo: false,
        runas: None,
        location: format!("hooks/{event}"),
        timeout_seconds: 60,
    };
    let hooks =
        scripts.iter().map(|(event, _)| EventHooks { event: *event, scripts: vec![script(event)] });
    let spec = AppSpec { files, hooks: hooks.collect(), ..AppSpec::default() };
    let index = if label == "1" { "hello".to_owned() } else { format!("hello {label}") };
    let mut publisher = Publisher::new(spec).unwrap();
    let (mut frames, mut content_bytes) = (Vec::new(), 0);
    let mut file = |publisher: &mut Publisher, path: &str, text: &str| {
        publisher.begin_file(path, 0o755, UnixSeconds(1)).unwrap();
        frames.extend(publisher.write(text.as_bytes()).unwrap());
        frames.extend(publisher.end_file().unwrap());
        content_bytes += u64::try_from(text.len()).unwrap();
    };
    publisher.directory("app").unwrap();
    file(&mut publisher, "app/index.html", &index);
    // What only this revision has.
    publisher.directory(&format!("app/only-{label}")).unwrap();
    file(&mut publisher, &format!("app/only-{label}/data"), label);
    if !scripts.is_empty() {
        publisher.directory("hooks").unwrap();
    }
    // By their names, while an appspec has them by the lifecycle.
    let mut scripts = scripts.to_vec();
    scripts.sort_by_key(|(event, _)| event.to_string());
    for (event, text) in scripts {
        file(&mut publisher, &format!("hooks/{event}"), text);
    }
    let mut published = publisher.finish().unwrap();
    frames.append(&mut published.frames);
    let manifest = groundswell_protocol::revision::Manifest::id_of(&published.bytes);
    fs::create_dir_all(dir.join("manifests")).unwrap();
    fs::write(dir.join("manifests").join(manifest.to_string()), &published.bytes).unwrap();
    for (frame, bytes) in frames {
        let name = frame.hash.to_string();
        fs::create_dir_all(dir.join("frames").join(&name[..2])).unwrap();
        fs::write(dir.join("frames").join(&name[..2]).join(name), bytes).unwrap();
    }
    Release {
        label: ReleaseLabel::new(label).unwrap(),
        parent: None,
        manifest,
        created_at: UnixSeconds(0),
        application: ApplicationName::new("shop").unwrap(),
        architecture: None,
        environments: Vec::new(),
        content_bytes,
        manifest_bytes: u64::try_from(published.bytes.len()).unwrap(),
    }
}

#[test]
fn what_is_signed_by_everybody_is_done() {
    let mut bench = Bench::new();
    let evidence = bench.evidence();
    assert_eq!(bench.ask(&Request::Stage(Box::new(evidence.clone()))), Response::Accepted);
    assert!(!bench.path("live/srv").exists(), "staging touches nothing that lives");
    let nonce = bench.prepare(&evidence);
    let receipts = bench.receipts(&evidence, nonce, &[20, 22]);
    assert_eq!(bench.activate(&evidence, receipts.clone()), Response::Accepted);
    assert_eq!(bench.outcome(), Outcome::Succeeded);
    assert_eq!(fs::read_to_string(bench.path("live/srv/app/index.html")).unwrap(), "hello");
    // It is all still there after a restart, and a slot that was used is not used again.
    bench.restart();
    assert_eq!(bench.outcome(), Outcome::Succeeded);
    assert_eq!(bench.activate(&evidence, receipts), Response::Accepted);
    // What it takes to go back is kept until nothing can lead back any more.
    let undo = bench.deployments().pop().unwrap().join("undo");
    assert!(undo.exists());
    assert_eq!(bench.give_back(), Response::Accepted);
    assert!(!undo.exists());
    assert!(bench.report().groups[0].activation.is_none());
    assert!(bench.report().groups[0].current.is_some());
}

#[test]
fn evidence_with_one_thing_wrong_is_refused() {
    let bench = Bench::new();
    let good = bench.evidence();
    let change = |change: &dyn Fn(&mut Evidence)| {
        let mut evidence = good.clone();
        change(&mut evidence);
        refusal(bench.ask(&Request::Stage(Box::new(evidence))))
    };
    let elsewhere =
        Release { application: ApplicationName::new("x").unwrap(), ..bench.release.clone() };
    let prod = Release {
        environments: vec!["prod".parse().unwrap()],
        label: ReleaseLabel::new("2").unwrap(),
        ..bench.release.clone()
    };
    let deploy_of = |release: &Signed<Release>| {
        let Action::Deploy(deploy) = bench.deploy().action else { unreachable!() };
        let release = release.id(bench.fleet);
        let order = bench.order(1, Digest::ZERO, Action::Deploy(Deploy { release, ..deploy }));
        bench.sign(&order, OPERATOR)
    };
    for (what, evidence, expected) in [
        (
            "the operator signs a release",
            change(&|e| e.release = bench.sign(&bench.release, OPERATOR)),
            "the release is signed by 0 of the 1",
        ),
        (
            "the releaser gives an order",
            change(&|e| e.orders = vec![bench.sign(&bench.deploy(), RELEASER)]),
            "the order is signed by 0 of the 1",
        ),
        (
            "the releaser changes the group",
            change(&|e| e.group = bench.sign(&bench.group(), RELEASER)),
            "the group is signed by 0 of the 1",
        ),
        (
            "a certificate by nobody",
            change(&|e| e.cert = bench.cert(ME, "role=web", OPERATOR)),
            "certificate",
        ),
        (
            "another host's certificate",
            change(&|e| e.cert = bench.cert(11, "role=web", ENROLMENT)),
            "another host's",
        ),
        (
            "a host that is not in the group",
            change(&|e| e.cert = bench.cert(ME, "role=db", ENROLMENT)),
            "is not in group web",
        ),
        (
            "another version of the group",
            change(&|e| e.group = bench.sign(&Group { version: 2, ..bench.group() }, OPERATOR)),
            "for version 1 of the group, not 2",
        ),
        (
            "a release that the order does not name",
            change(&|e| e.release = bench.sign(&prod, RELEASER)),
            "names neither this release",
        ),
        (
            "an order that is not the newest",
            change(&|e| e.order = Digest([3; 32])),
            "a newer order has replaced this one",
        ),
        (
            "an order that follows another one",
            change(&|e| {
                let fork = bench.order(2, Digest([1; 32]), bench.deploy().action);
                e.orders.push(bench.sign(&fork, OPERATOR));
            }),
            "does not follow",
        ),
    ] {
        assert!(evidence.contains(expected), "{what}: {evidence}");
        bench.assert_untouched();
    }
    // An application and an environment that do not fit, on executors that know no order yet.
    for (release, expected) in [
        (elsewhere, "the release is of application x"),
        (prod, "may not run in this host's environment (none)"),
    ] {
        let bench = Bench::new();
        let release = bench.sign(&release, RELEASER);
        let order = deploy_of(&release);
        let order = Signed::from_bytes(&order.to_bytes()).unwrap();
        let id = order.id(bench.fleet);
        let evidence = Evidence { orders: vec![order], order: id, release, ..bench.evidence() };
        let reason = refusal(bench.ask(&Request::Stage(Box::new(evidence))));
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn without_fresh_receipts_of_a_majority_nothing_begins() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let never = bench.activate(&evidence, bench.receipts(&evidence, Nonce([0; 16]), &[20, 21, 22]));
    assert!(refusal(never).contains("prepare first"));
    let nonce = bench.prepare(&evidence);
    let changed = |change: fn(&mut Receipt)| -> Vec<Signed<Receipt>> {
        let sign = |voter: u8| {
            let mut receipt = bench.receipt(&evidence, voter, nonce);
            change(&mut receipt);
            bench.sign(&receipt, voter)
        };
        [20, 21, 22].map(sign).to_vec()
    };
    for (what, receipts) in [
        ("none", Vec::new()),
        ("one of three", bench.receipts(&evidence, nonce, &[20])),
        ("one three times", bench.receipts(&evidence, nonce, &[20, 20, 20])),
        ("of hosts that are no voters", bench.receipts(&evidence, nonce, &[30, 31, 32])),
        ("with another number", bench.receipts(&evidence, Nonce([9; 16]), &[20, 21, 22])),
        ("for another slot", changed(|receipt| receipt.index += 1)),
        ("of another generation", changed(|receipt| receipt.generation = 1)),
        (
            "for another host",
            changed(|receipt| {
                if let Subject::Slot { host, .. } = &mut receipt.subject {
                    *host = HostId([1; 32]);
                }
            }),
        ),
        (
            "for another release",
            changed(|receipt| {
                if let Subject::Slot { release, .. } = &mut receipt.subject {
                    *release = Digest([1; 32]);
                }
            }),
        ),
    ] {
        let reason = refusal(bench.activate(&evidence, receipts));
        assert!(reason.contains("of 2 voters vouch for slot 41"), "{what}: {reason}");
        bench.assert_untouched();
    }
    // Signed by another than the voter that it names.
    let forged = bench.sign(&bench.receipt(&evidence, 21, nonce), 22);
    let receipts = [bench.receipts(&evidence, nonce, &[20]), vec![forged]].concat();
    assert!(refusal(bench.activate(&evidence, receipts)).contains("a receipt"));
    // A number that was drawn later makes the older one worthless.
    let old = bench.receipts(&evidence, nonce, &[20, 21]);
    bench.prepare(&evidence);
    assert!(refusal(bench.activate(&evidence, old)).contains("0 of 2 voters"));
    bench.assert_untouched();
}

#[test]
fn a_voter_that_lies_does_not_spoil_what_the_others_say() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let nonce = bench.prepare(&evidence);
    let other =
        |entry, by| bench.sign(&Receipt { entry, ..bench.receipt(&evidence, by, nonce) }, by);
    let lie = other(Digest([9; 32]), 20);
    let forged = bench.sign(&bench.receipt(&evidence, 20, nonce), 21);
    let entries = [[lie.clone()].as_slice(), &bench.receipts(&evidence, nonce, &[21])].concat();
    let reason = refusal(bench.activate(&evidence, entries));
    assert!(reason.contains("1 of 2 voters"), "two entries are no majority for one: {reason}");
    let honest = bench.receipts(&evidence, nonce, &[21, 22]);
    let receipts = [vec![lie, forged], honest].concat();
    assert_eq!(bench.activate(&evidence, receipts), Response::Accepted);
    assert_eq!(bench.outcome(), Outcome::Succeeded);
}

#[test]
fn voters_that_were_replaced_vouch_for_nothing_any_more() {
    let mut bench = Bench::new();
    let evidence = bench.evidence();
    let list = |by: &[u8]| vec![bench.voter_list(&[20, 21, 30], by)];
    let with = |lists| Evidence { voter_lists: lists, ..evidence.clone() };
    let vouched = |bench: &Bench, evidence: &Evidence, voters: &[u8], generation| {
        let nonce = bench.prepare(evidence);
        let receipt = |voter: &u8| {
            let receipt = bench.receipt(evidence, *voter, nonce);
            bench.sign(&Receipt { generation, ..receipt }, *voter)
        };
        bench.activate(evidence, voters.iter().map(receipt).collect())
    };
    // Those who would vote do not decide that they do, and a minority of the others does not either.
    for forged in [list(&[30]), list(&[20, 30])] {
        let refused = refusal(vouched(&bench, &with(forged), &[20, 30], 1));
        assert!(refused.contains("0 of 2 voters vouch"), "{refused}");
    }
    let new = with(list(&[20, 21]));
    let refused = refusal(vouched(&bench, &new, &[20, 22], 0));
    assert!(refused.contains("0 of 2 voters vouch"), "{refused}");
    // It is remembered, whatever the daemon leaves out afterwards.
    bench.restart();
    assert_eq!(bench.report().generation, 1);
    let refused = refusal(vouched(&bench, &evidence, &[20, 22], 0));
    assert!(refused.contains("0 of 2 voters vouch"), "{refused}");
    let refused = refusal(vouched(&bench, &evidence, &[20, 22], 1));
    assert!(refused.contains("1 of 2 voters vouch"), "{refused}");
    assert_eq!(vouched(&bench, &evidence, &[20, 30], 1), Response::Accepted);
    assert_eq!(bench.outcome(), Outcome::Succeeded);
}

#[test]
fn a_stop_is_heeded_before_its_turn_in_the_chain() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let stop =
        bench.order(2, evidence.order, Action::Stop { order: evidence.order, rollback: false });
    let forged = bench.sign(&stop, RELEASER);
    assert!(refusal(bench.ask(&Request::Stop(forged))).contains("the order is signed by 0"));
    assert_eq!(bench.ask(&Request::Stop(bench.sign(&stop, OPERATOR))), Response::Accepted);
    let nonce = bench.prepare(&evidence);
    let receipts = bench.receipts(&evidence, nonce, &[20, 21, 22]);
    assert!(refusal(bench.activate(&evidence, receipts)).contains("the order was stopped"));
    bench.assert_untouched();
}

#[test]
fn a_slot_that_an_operator_released_is_not_acted_on() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let release = |of, token| {
        let action = Action::ReleaseSlot { host: host(of), token };
        bench.sign(&bench.order(2, evidence.order, action), OPERATOR)
    };
    let other = refusal(bench.ask(&Request::Stop(release(ME + 1, 41))));
    assert!(other.contains("neither stops nor releases"), "{other}");
    assert_eq!(bench.ask(&Request::Stop(release(ME, 41))), Response::Accepted);
    let nonce = bench.prepare(&evidence);
    let receipts = bench.receipts(&evidence, nonce, &[20, 21, 22]);
    let refused = refusal(bench.activate(&evidence, receipts));
    assert!(refused.contains("this slot was released, given up or given back"), "{refused}");
    bench.assert_untouched();
}

#[test]
fn a_slot_that_was_given_up_is_not_acted_on_and_one_in_use_is_not_given_up() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let give_up = || {
        let group = GroupName::new("web").unwrap();
        bench.ask(&Request::GiveUp { group, token: TOKEN })
    };
    assert_eq!(give_up(), Response::Accepted);
    assert_eq!(bench.report().groups[0].released, [TOKEN]);
    assert!(
        refusal(bench.begin(&evidence)).contains("this slot was released, given up or given back")
    );
    bench.assert_untouched();

    let mut bench = Bench::new();
    let evidence = bench.interrupted();
    let group = GroupName::new("web").unwrap();
    let refused = refusal(bench.ask(&Request::GiveUp { group, token: TOKEN }));
    assert!(refused.contains("something was begun under slot"), "{refused}");
    assert_eq!(bench.run(&evidence), Outcome::Succeeded);
}

#[test]
fn a_slot_that_was_given_back_is_not_acted_on_again() {
    let mut bench = Bench::new();
    let evidence = bench.evidence();
    assert_eq!(bench.run(&evidence), Outcome::Succeeded);
    // Voters that go on with an older ledger vouch for it.
    for used in [TOKEN, TOKEN - 1] {
        bench.token.store(used, Ordering::Relaxed);
        let refused = refusal(bench.begin(&evidence));
        assert!(refused.contains("this slot was released, given up or given back"), "{refused}");
        assert!(bench.report().groups[0].is_done_with(used));
        bench.restart();
    }
    bench.token.store(TOKEN + 1, Ordering::Relaxed);
    assert_eq!(bench.run(&evidence), Outcome::Succeeded);
}

#[test]
fn a_stop_with_rollback_ends_the_way_forward_only() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let action = Action::Stop { order: evidence.order, rollback: true };
    let stop = bench.sign(&bench.order(2, evidence.order, action), OPERATOR);
    assert_eq!(bench.ask(&Request::Stop(stop)), Response::Accepted);
    let nonce = bench.prepare(&evidence);
    let receipts = bench.receipts(&evidence, nonce, &[20, 21, 22]);
    assert!(refusal(bench.activate(&evidence, receipts)).contains("the order was stopped"));
    let Response::Report(report) = bench.ask(&Request::Report { seen: 0 }) else { panic!() };
    let group = &report.groups[0];
    assert!(group.is_stopped(evidence.order, false) && !group.is_stopped(evidence.order, true));
}

#[test]
fn an_order_that_waits_leaves_the_one_before_it_to_be_followed() {
    let bench = Bench::new();
    let mut evidence = bench.evidence();
    let Action::Deploy(first) = bench.deploy().action else { panic!() };
    for (queue, accepted) in [(true, true), (false, false)] {
        let parent = evidence.orders.last().unwrap().id(bench.fleet);
        let sequence = u64::try_from(evidence.orders.len()).unwrap() + 1;
        let next = Deploy { queue, ..first.clone() };
        let next = bench.order(sequence, parent, Action::Deploy(next));
        evidence.orders.push(bench.sign(&next, OPERATOR));
        let answer = bench.ask(&Request::Stage(Box::new(evidence.clone())));
        match accepted {
            true => assert_eq!(answer, Response::Accepted),
            false => assert!(refusal(answer).contains("a newer order has replaced this one")),
        }
    }
}

#[test]
fn a_damaged_store_is_found_out() {
    let bench = Bench::new();
    let frames = bench.path("store/frames");
    let dir = fs::read_dir(&frames).unwrap().next().unwrap().unwrap().path();
    let frame = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&frame).unwrap();
    bytes[3] ^= 1;
    fs::write(&frame, &bytes).unwrap();
    let evidence = bench.evidence();
    let reason = refusal(bench.ask(&Request::Stage(Box::new(evidence.clone()))));
    assert!(reason.contains("is damaged"), "{reason}");
    fs::remove_file(&frame).unwrap();
    let reason = refusal(bench.ask(&Request::Stage(Box::new(evidence))));
    assert!(reason.contains("No such file"), "{reason}");
    let staged: Vec<_> = bench.report().groups.into_iter().flat_map(|group| group.staged).collect();
    assert!(staged.is_empty());
}

#[test]
fn garbage_on_the_socket_ends_only_its_connection() {
    let bench = Bench::new();
    for garbage in
        [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x04abcd", b"GET / HTTP/1.1\r\n\r\n", b""]
    {
        let mut stream = UnixStream::connect(bench.path("exec.sock")).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // It answers that this is no request, or hangs up.
        stream.read_to_end(&mut Vec::new()).ok();
    }
    assert_eq!(bench.report().fleet, Some(bench.fleet));
}

#[test]
fn the_revision_before_comes_back_without_the_daemons_store() {
    let mut bench = Bench::new();
    let log = bench.path("log");
    let say = |word: &str| format!("#!/bin/sh\necho {word} >>{}\n", log.display());
    let (stop, start) = (say("stopped"), say("started"));
    bench.release = write_store(
        &bench.path("store"),
        "1",
        &[
            (LifecycleEvent::ApplicationStop, stop.as_str()),
            (LifecycleEvent::ApplicationStart, start.as_str()),
        ],
    );
    let first = bench.evidence();
    assert_eq!(bench.run(&first), Outcome::Succeeded);
    let scripts = [(LifecycleEvent::AfterInstall, "#!/bin/sh\nexit 1\n")];
    let second = bench.publish(&scripts, &first);
    assert_eq!(bench.ask(&Request::Stage(Box::new(second.clone()))), Response::Accepted);
    fs::remove_dir_all(bench.path("store")).unwrap();
    let outcome = bench.run(&second);
    assert!(matches!(outcome, Outcome::Failed { restored: true, .. }), "{outcome:?}");
    assert_eq!(fs::read_to_string(bench.path("live/srv/app/index.html")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(&log).unwrap(), "started\nstopped\nstarted\n");
}

#[test]
fn what_a_script_has_written_is_read_while_it_runs() {
    let mut bench = Bench::new();
    let hold = bench.path("hold");
    fs::write(&hold, "").unwrap();
    let script = format!(
        "#!/bin/sh\necho first\nwhile [ -e {} ]; do sleep 0.02; done\necho second\n",
        hold.display()
    );
    bench.release =
        write_store(&bench.path("store"), "1", &[(LifecycleEvent::AfterInstall, script.as_str())]);
    let evidence = bench.evidence();
    let deployment = DeploymentId::of(evidence.order, false);
    let log = |deployment, offset| match bench.ask(&Request::Log { deployment, offset }) {
        Response::Log(part) => part,
        other => panic!("{other:?}"),
    };
    assert_eq!(log(deployment, 0), None, "nothing was begun");
    assert_eq!(bench.begin(&evidence), Response::Accepted);
    let until = Instant::now() + Duration::from_secs(20);
    let read = loop {
        let part = log(deployment, 0).unwrap_or_default();
        if part.ends_with(b"[stdout]first\n") {
            break part.len();
        }
        assert!(Instant::now() < until, "{part:?}");
    };
    assert!(matches!(bench.phase(), Phase::Running { .. }));
    fs::remove_file(&hold).unwrap();
    assert_eq!(bench.outcome(), Outcome::Succeeded);
    let whole = fs::read(bench.deployments()[0].join("logs/scripts.log")).unwrap();
    assert_eq!(log(deployment, 0).unwrap(), whole);
    assert!(whole.ends_with(b"[stdout]second\n"), "{whole:?}");
    assert_eq!(log(deployment, u64::try_from(read).unwrap()).unwrap(), whole[read..]);
    assert_eq!(log(DeploymentId::of(evidence.order, true), 0), None, "of another deployment");
}

#[test]
fn an_event_that_takes_longer_than_its_group_allows_is_ended_whatever_its_scripts_may() {
    let mut bench = Bench::new();
    let script = "#!/bin/sh\nsleep 600\n";
    bench.release =
        write_store(&bench.path("store"), "1", &[(LifecycleEvent::AfterInstall, script)]);
    let mut group = bench.group();
    group.configuration.event_deadline_seconds = Some(1);
    let evidence = Evidence { group: bench.sign(&group, OPERATOR), ..bench.evidence() };
    let began = Instant::now();
    let Outcome::Failed { event, message, .. } = bench.run(&evidence) else { panic!() };
    assert_eq!(event, LifecycleEvent::AfterInstall);
    assert!(message.contains("timed out after 1 second"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn a_host_keeps_as_many_deployments_as_its_settings_say() {
    for (settings, kept) in [("", 2), ("revisions_kept = 1", 1)] {
        let mut bench = Bench::new();
        fs::write(bench.path("more.toml"), settings).unwrap();
        bench.restart();
        let first = bench.evidence();
        assert_eq!(bench.run(&first), Outcome::Succeeded);
        let second = bench.publish(&[], &first);
        assert_eq!(bench.run(&second), Outcome::Succeeded);
        assert_eq!(bench.deployments().len(), kept);
    }
}

#[test]
fn t31_what_the_settings_of_a_host_forbid_is_never_laid_out() {
    let scripts = &[(LifecycleEvent::AfterInstall, "#!/bin/sh\n")];
    for (settings, problem) in [
        ("allowed_users = [\"app\"]", "script hooks/AfterInstall may not run as root"),
        ("destination_roots = [\"/opt\"]", "nothing may be installed in /srv/app"),
        ("script_seconds_max = 30", "may not run for 60 seconds"),
    ] {
        let mut bench = Bench::new();
        let first = bench.evidence();
        assert_eq!(bench.run(&first), Outcome::Succeeded);
        let second = bench.publish(scripts, &first);
        let before = bench.deployments();
        fs::write(bench.path("more.toml"), settings).unwrap();
        bench.restart();
        let refused = refusal(bench.ask(&Request::Stage(Box::new(second.clone()))));
        assert!(refused.contains(problem), "{refused}");
        assert!(refusal(bench.begin(&second)).contains(problem));
        assert_eq!(bench.deployments(), before);
        fs::remove_file(bench.path("more.toml")).unwrap();
        bench.restart();
        assert_eq!(bench.run(&second), Outcome::Succeeded);
    }
}

#[test]
fn c179_a_script_is_told_which_release_it_is_of() {
    let mut bench = Bench::new();
    let first = bench.evidence();
    assert_eq!(bench.run(&first), Outcome::Succeeded);
    let script = "#!/bin/sh\nenv | grep ^BUNDLE_ | sort >\"${0%/root/*}/live/told\"\n";
    // That of the revision before is told of the new one, too.
    let second = bench.publish(&[(LifecycleEvent::ApplicationStop, script)], &first);
    assert_eq!(bench.run(&second), Outcome::Succeeded);
    assert!(!bench.path("live/told").exists());
    bench.release = write_store(&bench.path("store"), "3", &[]);
    let order = Order { sequence: 3, parent: second.order, ..bench.deploy() };
    let order = bench.sign(&order, OPERATOR);
    let third = Evidence { order: order.id(bench.fleet), orders: vec![order], ..bench.evidence() };
    assert_eq!(bench.run(&third), Outcome::Succeeded);
    let told = fs::read_to_string(bench.path("live/told")).unwrap();
    assert_eq!(told, format!("BUNDLE_ETAG={}\nBUNDLE_VERSION=3\n", bench.release.manifest));
}

#[test]
fn old_deployments_make_room_before_a_new_one_is_laid_out() {
    let mut bench = Bench::new();
    fs::write(bench.path("more.toml"), "revisions_kept = 2").unwrap();
    bench.restart();
    let first = bench.evidence();
    assert_eq!(bench.run(&first), Outcome::Succeeded);
    let old = bench.path("root/web/d-OLD");
    fs::create_dir(&old).unwrap();
    let second = bench.publish(&[], &first);
    fs::remove_dir_all(bench.path("store/frames")).unwrap();
    refusal(bench.ask(&Request::Stage(Box::new(second))));
    assert!(!old.exists());
}

#[test]
fn while_somebody_deploys_on_this_host_alone_nothing_begins() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let path = bench.path("state/lock");
    fs::write(&path, "a deployment by swell local").unwrap();
    let held = Flock::lock(fs::File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap();
    assert_eq!(bench.begin(&evidence), Response::Accepted);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert!(matches!(bench.phase(), Phase::Running { restoring: false, .. }));
        assert!(!bench.path("live/srv").exists());
    }
    drop(held);
    assert_eq!(bench.outcome(), Outcome::Succeeded);
}

#[test]
fn what_has_waited_for_somebody_as_long_as_its_receipts_are_good_has_not_begun() {
    let mut bench = Bench::new();
    let evidence = bench.evidence();
    let path = bench.path("state/lock");
    fs::write(&path, "a deployment by swell local").unwrap();
    let held = Flock::lock(fs::File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap();
    assert_eq!(bench.begin(&evidence), Response::Accepted);
    let until = Instant::now() + Duration::from_secs(60);
    while bench.report().groups[0].activation.is_some() {
        assert!(Instant::now() < until, "it waits for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    bench.restart();
    bench.assert_untouched();
    drop(held);
    assert_eq!(bench.run(&evidence), Outcome::Succeeded);
}

#[test]
fn a_store_full_of_traps_holds_nobody() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let manifest = bench.path("store/manifests").join(bench.release.manifest.to_string());
    fs::remove_file(&manifest).unwrap();
    nix::unistd::mkfifo(&manifest, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reason = refusal(bench.ask(&Request::Stage(Box::new(evidence.clone()))));
    assert!(reason.contains("no regular file"), "{reason}");
    fs::remove_file(&manifest).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &manifest).unwrap();
    let reason = refusal(bench.ask(&Request::Stage(Box::new(evidence))));
    assert!(reason.contains("symbolic link"), "{reason}");
}

/// A script that leaves its number, and waits where it is the first that does.
fn waiting(bench: &Bench) -> String {
    let log = bench.path("log").display().to_string();
    format!(
        "#!/bin/sh\ntest -e {log} || first=1\necho $$ >>{log}\ntest -z \"$first\" || sleep 60\n"
    )
}

impl Bench {
    /// Begins, and dies in the middle of the script.
    fn interrupted(&mut self) -> Evidence {
        let script = waiting(self);
        let scripts = [(LifecycleEvent::BeforeInstall, script.as_str())];
        self.release = write_store(&self.path("store"), "1", &scripts);
        let evidence = self.evidence();
        assert_eq!(self.begin(&evidence), Response::Accepted);
        let until = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(self.path("log")).is_ok_and(|log| log.ends_with('\n')) {
            assert!(Instant::now() < until, "the script does not run");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.restart();
        evidence
    }
}

const INTERRUPTED: Phase = Phase::Interrupted { event: LifecycleEvent::BeforeInstall };

#[test]
fn a_script_that_outlived_its_executor_is_ended_before_it_runs_again() {
    let mut bench = Bench::new();
    let evidence = bench.interrupted();
    let first = fs::read_to_string(bench.path("log")).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", first.trim()));
    let runs = || {
        fs::read_to_string(&stat)
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
    };
    assert!(runs(), "it outlives its executor");
    assert_eq!(bench.run(&evidence), Outcome::Succeeded);
    assert!(!runs(), "two ran at the same time");
    assert_eq!(fs::read_to_string(bench.path("log")).unwrap().lines().count(), 2);
}

#[test]
fn an_interrupted_activation_is_not_forgotten_when_the_journal_cannot_be_written() {
    let mut bench = Bench::new();
    let evidence = bench.interrupted();
    assert_eq!(bench.phase(), INTERRUPTED);
    let in_the_way = bench.path("state/journal/web.state.new");
    fs::create_dir(&in_the_way).unwrap();
    assert!(refusal(bench.begin(&evidence)).contains("the journal cannot be written"));
    assert_eq!(bench.phase(), INTERRUPTED);
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(bench.run(&evidence), Outcome::Succeeded);
}

#[test]
fn a_host_that_was_away_for_long_takes_up_the_chain_when_voters_vouch_for_it() {
    let mut bench = Bench::new();
    let first = bench.evidence();
    assert_eq!(bench.ask(&Request::Stage(Box::new(first.clone()))), Response::Accepted);
    bench.release = write_store(&bench.path("store"), "2", &[]);
    let order = bench.order(u64::MAX - 1, Digest([7; 32]), bench.deploy().action);
    let order = bench.sign(&order, OPERATOR);
    let late = Evidence { order: order.id(bench.fleet), orders: vec![order], ..bench.evidence() };
    let sequence = || bench.report().groups[0].sequence;

    // It may be laid out. One signature of an operator does not end the chain.
    assert_eq!(bench.ask(&Request::Stage(Box::new(late.clone()))), Response::Accepted);
    let nonce = bench.prepare(&late);
    let refused = refusal(bench.activate(&late, bench.receipts(&late, nonce, &[20])));
    assert!(refused.contains("1 of 2 voters vouch"), "{refused}");
    assert_eq!(sequence(), 1);
    assert_eq!(bench.run(&late), Outcome::Succeeded);
    assert_eq!(sequence(), u64::MAX - 1);
    // What came before is over.
    let replaced = refusal(bench.ask(&Request::Stage(Box::new(first))));
    assert!(replaced.contains("a newer order has replaced this one"), "{replaced}");
}

#[test]
fn an_order_that_was_lost_with_its_voters_makes_way_for_what_came_instead() {
    let mut bench = Bench::new();
    let first = bench.evidence();
    assert_eq!(bench.run(&first), Outcome::Succeeded);
    let lost = bench.publish(&[], &first);
    assert_eq!(bench.ask(&Request::Stage(Box::new(lost.clone()))), Response::Accepted);
    // The fleet goes on without it, and with another order in its place.
    bench.release = write_store(&bench.path("store"), "3", &[]);
    let order = Order { sequence: 2, parent: first.order, ..bench.deploy() };
    let order = bench.sign(&order, OPERATOR);
    let orders = vec![first.orders[0].clone(), order.clone()];
    let instead = Evidence { order: order.id(bench.fleet), orders, ..bench.evidence() };
    let replaced = refusal(bench.ask(&Request::Stage(Box::new(instead.clone()))));
    assert!(replaced.contains("a newer order has replaced this one"), "{replaced}");
    let base = Some(Base { index: 1, state: Digest([1; 32]) });
    let generation = 1 << 32;
    let recovery = VoterList { base, generation, ..bench.next_voters(&[20, 21, 22]) };
    let voter_lists = vec![bench.sign(&recovery, OPERATOR)];
    let instead = Evidence { voter_lists, ..instead };
    // It may be laid out; it is followed when the voters vouch for it.
    assert_eq!(bench.ask(&Request::Stage(Box::new(instead.clone()))), Response::Accepted);
    assert_eq!(bench.report().groups[0].head, lost.order);
    let nonce = bench.prepare(&instead);
    let receipt = |voter: u8| {
        let receipt = bench.receipt(&instead, voter, nonce);
        bench.sign(&Receipt { generation, ..receipt }, voter)
    };
    let few = refusal(bench.activate(&instead, vec![receipt(20)]));
    assert!(few.contains("1 of 2 voters vouch"), "{few}");
    assert_eq!(bench.report().groups[0].head, lost.order);
    let nonce = bench.prepare(&instead);
    let receipt = |voter: u8| {
        let receipt = bench.receipt(&instead, voter, nonce);
        bench.sign(&Receipt { generation, ..receipt }, voter)
    };
    let enough = vec![receipt(20), receipt(21)];
    assert_eq!(bench.activate(&instead, enough), Response::Accepted);
    assert_eq!(bench.outcome(), Outcome::Succeeded);
    assert_eq!(bench.report().groups[0].head, instead.order);
}

#[test]
fn a_host_that_comes_late_begins_with_the_first_order_that_is_kept() {
    let bench = Bench::new();
    let order = bench.order(40, Digest([7; 32]), bench.deploy().action);
    let order = bench.sign(&order, OPERATOR);
    let late = Evidence { order: order.id(bench.fleet), orders: vec![order], ..bench.evidence() };
    assert_eq!(bench.run(&late), Outcome::Succeeded);
    assert_eq!(bench.report().groups[0].sequence, 40);
}

#[test]
fn a_slot_that_was_released_after_a_gap_is_not_acted_on() {
    let bench = Bench::new();
    let order = bench.sign(&bench.order(40, Digest([7; 32]), bench.deploy().action), OPERATOR);
    let id = order.id(bench.fleet);
    let release = Action::ReleaseSlot { host: host(ME), token: TOKEN };
    let release = bench.sign(&bench.order(41, id, release), OPERATOR);
    let late = Evidence { order: id, orders: vec![order, release], ..bench.evidence() };
    assert!(refusal(bench.begin(&late)).contains("this slot was released, given up or given back"));
    bench.assert_untouched();
}

#[test]
fn what_was_begun_ends_although_a_newer_order_came() {
    let mut bench = Bench::new();
    let first = bench.interrupted();
    let second = bench.publish(&[], &first);
    assert_eq!(bench.ask(&Request::Stage(Box::new(second.clone()))), Response::Accepted);
    assert_eq!(bench.run(&first), Outcome::Succeeded);
    assert_eq!(bench.run(&second), Outcome::Succeeded);
    assert_eq!(fs::read_to_string(bench.path("live/srv/app/index.html")).unwrap(), "hello 2");
}

#[test]
fn time_ends_what_would_be_new_and_not_the_way_back() {
    let bench = Bench::new();
    // The order's time is over, and so is the certificate's.
    let expired = |order: Order| Order { not_after: Some(UnixSeconds(1)), ..order };
    let member = Member {
        host: host(ME),
        name: HostName::new("web-1").unwrap(),
        zone: None,
        labels: "role=web".parse::<Labels>().unwrap(),
        not_after: UnixSeconds(1),
        incarnation: 0,
    };
    let old_cert =
        MemberCert { token: None, member: bench.sign(&member, ENROLMENT), receipts: Vec::new() };
    let late_cert = Evidence { cert: old_cert.clone(), ..bench.evidence() };
    let said = refusal(bench.begin(&late_cert));
    assert!(
        said.contains("certificate") && said.contains("by this host's clock it is 2"),
        "{said}"
    );
    let order = bench.sign(&expired(bench.deploy()), OPERATOR);
    let late = Evidence { order: order.id(bench.fleet), orders: vec![order], ..bench.evidence() };
    bench.assert_untouched();

    // The same release as the fallback of an order that is over: a host goes back at any time.
    let Action::Deploy(deploy) = bench.deploy().action else { unreachable!() };
    let fallback = Some(deploy.release);
    let action = Action::Deploy(Deploy { release: Digest([9; 32]), fallback, ..deploy });
    let order = bench.sign(&expired(Order { action, ..bench.deploy() }), OPERATOR);
    let back = Evidence {
        cert: old_cert,
        order: order.id(bench.fleet),
        orders: vec![order],
        ..bench.evidence()
    };
    let other = Bench::new();
    let said = refusal(other.begin(&late));
    let window = "the order's time is over: it may begin from 1970-01-01T";
    assert!(said.contains(window) && said.contains(" until 1970-01-01T00:00:01Z"), "{said}");
    assert!(said.contains("by this host's clock it is 2"), "{said}");
    other.assert_untouched();
    let third = Bench::new();
    assert_eq!(third.run(&back), Outcome::Succeeded);
}

#[test]
fn what_was_interrupted_and_has_no_slot_any_more_is_given_up() {
    let mut bench = Bench::new();
    let evidence = bench.interrupted();
    let group = GroupName::new("web").unwrap();
    // Another slot's return closes nothing.
    let other = Request::Returned { group: group.clone(), token: TOKEN + 1 };
    assert_eq!(bench.ask(&other), Response::Accepted);
    assert_eq!(bench.phase(), INTERRUPTED);
    let script = fs::read_to_string(bench.path("log")).unwrap();
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", script.trim()));
        stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
    };
    assert!(runs());
    let returned = Request::Returned { group, token: TOKEN };
    // Not while somebody else changes this host.
    let path = bench.path("state/lock");
    fs::write(&path, "a deployment by swell local").unwrap();
    let held = Flock::lock(fs::File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap();
    let refused = refusal(bench.ask(&returned));
    assert!(refused.contains("when a deployment by swell local has ended"), "{refused}");
    assert!(runs() && bench.phase() == INTERRUPTED);
    drop(held);
    assert_eq!(bench.give_back(), Response::Accepted);
    assert!(!runs(), "its script goes on");
    let report = bench.report();
    assert_eq!((&report.groups[0].activation, &report.groups[0].current), (&None, &None));
    assert!(!bench.path("live/srv").exists());
    assert!(matches!(bench.begin(&evidence), Response::Accepted), "a new slot begins anew");
}

#[test]
fn applications_that_deploy_at_the_same_time_do_not_hear_of_each_other() {
    let bench = Bench::new();
    let meet = bench.path("meet");
    fs::create_dir(&meet).unwrap();
    let meet = meet.display();
    // Nobody goes on before all are there.
    let script = format!(
        "#!/bin/sh\necho I am $DEPLOYMENT_GROUP_NAME\ntouch {meet}/$DEPLOYMENT_GROUP_NAME\n\
         until [ $(ls {meet} | wc -l) = 4 ]; do sleep 0.02; done\n"
    );
    // The last one fails, and only that one.
    let end = "#!/bin/sh\necho $DEPLOYMENT_GROUP_NAME ends\ntest $DEPLOYMENT_GROUP_NAME != d\n";
    let names = ["a", "b", "c", "d"];
    for (name, token) in names.into_iter().zip(TOKEN..) {
        let scripts =
            [(LifecycleEvent::BeforeInstall, &*script), (LifecycleEvent::ApplicationStart, end)];
        let place = format!("/srv/{name}");
        let release = write_store_for(&[&place], &bench.path("store"), name, &scripts);
        let release = bench.sign(&release, RELEASER);
        let group = GroupName::new(name).unwrap();
        let deploy = Deploy::plain(release.id(bench.fleet), 1);
        let order = bench.order(1, Digest::ZERO, Action::Deploy(deploy));
        let order = bench.sign(&Order { group: group.clone(), ..order }, OPERATOR);
        let evidence = Evidence {
            group: bench.sign(&Group { name: group.clone(), ..bench.group() }, OPERATOR),
            order: order.id(bench.fleet),
            orders: vec![order],
            release,
            ..bench.evidence()
        };
        let (order, release) = (evidence.order, evidence.release.id(bench.fleet));
        let prepared = bench.ask(&Request::Prepare { group, order, release });
        let Response::Prepared { nonce } = prepared else { panic!("{prepared:?}") };
        let receipts = [20, 21].map(|voter| {
            let receipt = bench.receipt(&evidence, voter, nonce);
            bench.sign(&Receipt { index: token, ..receipt }, voter)
        });
        let (evidence, receipts) = (Box::new(evidence), receipts.to_vec());
        let begun = bench.ask(&Request::Activate { evidence, token, receipts });
        assert_eq!(begun, Response::Accepted);
    }
    let until = Instant::now() + Duration::from_secs(60);
    let groups = loop {
        let groups = bench.report().groups;
        let ended = groups.iter().filter(|group| {
            (group.activation.as_ref())
                .is_some_and(|activation| matches!(activation.phase, Phase::Ended(_)))
        });
        if ended.count() == names.len() {
            break groups;
        }
        assert!(Instant::now() < until, "they do not end: {groups:?}");
    };
    for (group, token) in groups.into_iter().zip(TOKEN..) {
        let name = group.group.as_str();
        let activation = group.activation.unwrap();
        assert_eq!(activation.token, token);
        let Phase::Ended(outcome) = activation.phase else { unreachable!() };
        assert_eq!(outcome == Outcome::Succeeded, name != "d", "{name}: {outcome:?}");
        let index = fs::read_to_string(bench.path(&format!("live/srv/{name}/index.html")));
        assert_eq!(index.ok(), (name != "d").then(|| format!("hello {name}")));
        let dir = fs::read_dir(bench.path(&format!("root/{name}"))).unwrap().next().unwrap();
        let log = fs::read_to_string(dir.unwrap().path().join("logs/scripts.log")).unwrap();
        let said: Vec<&str> =
            log.lines().filter_map(|line| line.get(20..)?.strip_prefix("[stdout]")).collect();
        assert_eq!(said, [format!("I am {name}"), format!("{name} ends")]);
    }
    // The log of all deployments has the lines of each under its own name.
    let all = bench.path("root/deployment-logs/groundswell-deployments.log");
    let all = fs::read_to_string(all).unwrap();
    assert_eq!(all.lines().filter(|line| line.contains("][stdout]I am ")).count(), names.len());
}

//! The ledger by itself: what it refuses, and that no schedule takes too many hosts down.

use std::{num::NonZeroU8, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    execute::LifecycleEvent,
    fleet::{Record, Version},
    ids::{
        ApplicationName, DeploymentId, Digest, FleetName, GroupName, HostId, HostName, LabelText,
        Labels, ReleaseLabel, ZoneName,
    },
    limits::{ORDERS_BYTES_PER_GROUP_MAX, ORDERS_KEPT_PER_GROUP},
    time::UnixSeconds,
    trust::{
        Action, Deploy, Done, Drain, Genesis, Group, Member, MemberCert, Order, Outcome, Release,
        Removal, Role, Roles, Root, SecretKey, Signed, Signer, Trust, TrustBundle, Voter, Want,
    },
};

mod bare;
mod bounds;
mod choosing;
mod draining;
mod leaving;
mod needs;
mod operating;
#[cfg(feature = "simulation")]
mod sharing;
mod staging;
mod verdicts;
mod waiting;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// A ledger with the keys of everybody who may write to it.
struct Desk {
    ledger: Ledger,
    log: Vec<Vec<u8>>,
    hosts: u8,
    next_label: u32,
    /// The zones of the hosts, by number; those beyond have none.
    zones: Vec<&'static str>,
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn host(number: u8) -> HostId {
    key(100 + number).public_key().into()
}

fn group_name(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn trust(voters: u8) -> Arc<Trust> {
    let role = |number| Role { keys: vec![key(number).public_key()], threshold: NonZeroU8::MIN };
    let root = Root {
        name: FleetName::new("test").unwrap(),
        roles: Roles { root: role(1), release: role(2), operator: role(3), enrolment: role(4) },
        version: 1,
        review_by: UnixSeconds(u64::MAX),
    };
    let voter = |n| Voter { host: host(n), name: HostName::new(format!("h{n}")).unwrap() };
    let mut voters: Vec<_> = (0..voters).map(voter).collect();
    voters.sort();
    let genesis = Genesis { voters, generation: 0 };
    let (fleet, bundle) = TrustBundle::found(&root, &genesis, &[&key(1)]).unwrap();
    Arc::new(Trust::new(bundle, Some(fleet)).unwrap())
}

impl Desk {
    /// A fleet of `hosts`; every second one has the label role=web.
    fn new(hosts: u8) -> Self {
        Self::in_zones(hosts, &[])
    }

    fn in_zones(hosts: u8, zones: &[&'static str]) -> Self {
        Self::founded(hosts, 1, zones)
    }

    /// The first `voters` of the hosts vote.
    fn founded(hosts: u8, voters: u8, zones: &[&'static str]) -> Self {
        let ledger = Ledger::new(trust(voters));
        let zones = zones.to_vec();
        let mut desk = Self { ledger, log: Vec::new(), hosts, next_label: 0, zones };
        for number in 0..hosts {
            desk.admit(number, number, 0).unwrap();
        }
        desk
    }

    /// Makes `number` a member under the name of host `named`.
    fn admit(&mut self, number: u8, named: u8, incarnation: u64) -> Result<bool, Refusal> {
        let labels = if named.is_multiple_of(2) { "role=web" } else { "role=db" };
        self.admit_with(number, named, incarnation, labels)
    }

    fn admit_with(
        &mut self,
        number: u8,
        named: u8,
        incarnation: u64,
        labels: &str,
    ) -> Result<bool, Refusal> {
        let member = Member {
            host: host(number),
            name: HostName::new(format!("h{named}")).unwrap(),
            zone: self.zones.get(usize::from(named)).and_then(|zone| ZoneName::new(*zone).ok()),
            labels: labels.parse().unwrap(),
            not_after: UnixSeconds(u64::MAX),
            incarnation,
        };
        let member = self.sign(&member, 4);
        let cert = MemberCert { token: None, member, receipts: Vec::new() };
        self.apply(Entry::Admit(Box::new(cert)))
    }

    /// Grants the first slot that may be granted; returns the holder's number.
    fn grant_next(&mut self) -> u8 {
        let grant = self.ledger.next_grants().remove(0);
        self.apply(Entry::Grant(grant.clone())).unwrap();
        (0..self.hosts).find(|number| host(*number) == grant.host).unwrap()
    }

    fn sign<T: crate::trust::Document>(&self, content: &T, by: u8) -> Signed<T> {
        Signed::new(content, self.ledger.trust().fleet(), &[&key(by)]).unwrap()
    }

    fn apply(&mut self, entry: Entry) -> Result<bool, Refusal> {
        self.apply_at(NOW, entry)
    }

    fn apply_at(&mut self, at: UnixSeconds, entry: Entry) -> Result<bool, Refusal> {
        let stamped = Stamped { at, entry };
        let bytes = stamped.to_bytes();
        let index = self.ledger.applied_index() + 1;
        let before = self.ledger.snapshot();
        let checked = self.ledger.check(at, &stamped.entry);
        let applied = self.ledger.apply(index, Stamped::hash(&bytes), &stamped);
        assert_eq!(checked.is_ok(), applied.is_ok(), "check and apply agree");
        if applied.is_err() {
            let trust = self.ledger.trust().clone();
            let mut skipped = Ledger::restore(trust, &before).unwrap();
            skipped.skip(index);
            assert_eq!(skipped.state_hash(), self.ledger.state_hash(), "a refusal changes nothing");
        }
        self.log.push(bytes);
        self.ledger.check_invariants();
        applied
    }

    fn group(
        &mut self,
        name: &str,
        filter: &str,
        minimum: MinimumHealthy,
        version: u64,
    ) -> Result<bool, Refusal> {
        let filter = filter.parse::<Labels>().unwrap();
        let configuration = minimum.into();
        let group = Group { filter, configuration, ..group_document(name, version) };
        let group = self.sign(&group, 3);
        self.apply(Entry::Group(group))
    }

    /// Sets a group up, or changes it, as `change` says. It is for every host.
    fn group_with(&mut self, name: &str, change: impl FnOnce(&mut Group)) -> Result<bool, Refusal> {
        let known = self.ledger.group(&group_name(name)).map_or(0, |group| group.group.version);
        let mut group = group_document(name, known + 1);
        change(&mut group);
        let group = self.sign(&group, 3);
        self.apply(Entry::Group(group))
    }

    /// Gives an order and returns its id.
    fn act(&mut self, group: &str, action: Action) -> Result<Digest, Refusal> {
        let order = self.order(group, action);
        self.give(&order)?;
        Ok(self.sign(&order, 3).id(self.ledger.trust().fleet()))
    }

    /// Orders a deployment under `change`d terms.
    fn deploy_with(
        &mut self,
        group: &str,
        release: Digest,
        change: impl FnOnce(&mut Deploy),
    ) -> Result<Digest, Refusal> {
        let version = self.ledger.group(&group_name(group)).unwrap().group.version;
        let mut deploy = Deploy::plain(release, version);
        change(&mut deploy);
        self.act(group, Action::Deploy(deploy))
    }

    /// Lets every host that may go take its turn and succeed, until nobody may.
    fn roll(&mut self) -> Vec<u8> {
        let mut took = Vec::new();
        loop {
            self.want_all();
            if self.ledger.next_grants().is_empty() {
                return took;
            }
            let number = self.grant_next();
            self.done(number, Outcome::Succeeded);
            took.push(number);
        }
    }

    fn status(&self, order: Digest, rollback: bool) -> DeploymentStatus {
        let id = DeploymentId::of(order, rollback);
        self.ledger.deployment(id).unwrap().status.clone()
    }

    fn health(&mut self, number: u8, healthy: bool) {
        self.apply(self.says(number, healthy)).unwrap();
    }

    /// A host is silent, or has said something new.
    fn says(&self, number: u8, healthy: bool) -> Entry {
        let said = self.ledger.silent_since(host(number)).unwrap_or_default();
        match healthy {
            false => Entry::Silent { host: host(number), version: said },
            true => self.heard(number, said.sequence + 1),
        }
    }

    fn heard(&self, number: u8, sequence: u64) -> Entry {
        let record = Record {
            host: host(number),
            epoch: 0,
            groups: Vec::new(),
            accused: Vec::new(),
            version: "1".into(),
            sequence,
            unsteady: false,
            doubled: false,
            leaving: false,
            addresses: Vec::new(),
            signed_at: NOW,
        };
        Entry::Heard(Box::new(self.sign(&record, 100 + number)))
    }

    fn remove(&mut self, number: u8, by: u8) -> Result<bool, Refusal> {
        let name = HostName::new(format!("h{number}")).unwrap();
        let removal = Removal { host: host(number), name, reason: String::new(), issued_at: NOW };
        let removal = self.sign(&removal, by);
        self.apply(Entry::Remove(removal))
    }

    fn release(&mut self, application: &str) -> Digest {
        let release = self.next_release(application, Vec::new());
        self.apply(Entry::Release(release.clone())).unwrap();
        release.id(self.ledger.trust().fleet())
    }

    fn next_release(&mut self, application: &str, environments: Vec<LabelText>) -> Signed<Release> {
        self.next_label += 1;
        let release = Release {
            label: ReleaseLabel::new(self.next_label.to_string()).unwrap(),
            parent: None,
            manifest: Digest([9; 32]),
            created_at: UnixSeconds(NOW.0 + u64::from(self.next_label)),
            application: ApplicationName::new(application).unwrap(),
            architecture: None,
            environments,
            content_bytes: 0,
            manifest_bytes: 1,
        };
        self.sign(&release, 2)
    }

    fn order(&self, group: &str, action: Action) -> Order {
        let (sequence, parent) = self.ledger.head(&group_name(group));
        Order {
            group: group_name(group),
            action,
            parent,
            reason: String::new(),
            sequence: sequence + 1,
            issued_at: NOW,
            not_after: Some(UnixSeconds(NOW.0 + 60)),
        }
    }

    fn deploy_order(&self, group: &str, release: Digest, fallback: Option<Digest>) -> Order {
        let version = self.ledger.group(&group_name(group)).map_or(1, |g| g.group.version);
        self.order(group, Action::Deploy(Deploy { fallback, ..Deploy::plain(release, version) }))
    }

    fn give(&mut self, order: &Order) -> Result<bool, Refusal> {
        let order = self.sign(order, 3);
        self.apply(Entry::Order(order))
    }

    fn deploy(&mut self, group: &str) -> DeploymentId {
        let release = self.release(group);
        let order = self.deploy_order(group, release, None);
        self.give(&order).unwrap();
        DeploymentId::of(self.sign(&order, 3).id(self.ledger.trust().fleet()), false)
    }

    /// Every host asks for a slot in everything that it has a part in.
    fn want_all(&mut self) {
        for number in 0..self.hosts {
            self.want(number);
        }
    }

    fn want(&mut self, number: u8) {
        for assignment in self.ledger.assignments(host(number)) {
            let Some(part) = assignment.deployment else { continue };
            let want = Want { host: host(number), order: part.order, release: part.release };
            let want = self.sign(&want, 100 + number);
            drop(self.apply(Entry::Want(want)));
        }
    }

    fn done(&mut self, number: u8, outcome: Outcome) {
        let Some(slot) = self.ledger.slot_of(host(number)) else { return };
        let done = Done { host: host(number), token: slot.token, outcome };
        let done = self.sign(&done, 100 + number);
        self.apply(Entry::Done(done)).unwrap();
    }

    fn down(&self, group: &str) -> (usize, usize) {
        let view = self.ledger.group(&group_name(group)).unwrap();
        (view.down.len(), view.quota)
    }
}

/// A group for every host, one at a time.
fn group_document(name: &str, version: u64) -> Group {
    Group {
        name: group_name(name),
        filter: Labels::default(),
        version,
        catch_up: false,
        application: ApplicationName::new(name).unwrap(),
        configuration: MinimumHealthy::OneAtATime.into(),
        failure_budget: None,
        automatic_rollback: true,
        deploy_to_new_hosts: false,
        minimum_healthy_seconds: 0,
    }
}

fn failure(restored: bool) -> Outcome {
    Outcome::Failed {
        log: String::new(),
        code: 4,
        event: LifecycleEvent::ValidateService,
        script: "x".into(),
        message: "no".into(),
        restored,
    }
}

#[test]
fn what_was_believed_stands_for_the_same_word_alone() {
    let mut desk = Desk::new(4);
    desk.group("shop", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    let release = desk.release("shop");
    let order = desk.deploy_order("shop", release, None);
    desk.give(&order).unwrap();
    let order = desk.sign(&order, 3).id(desk.ledger.trust().fleet());
    let want = |number, by| desk.sign(&Want { host: host(number), order, release }, by);
    let (good, forged, another) = (want(0, 100), want(0, 101), want(1, 101));
    let fleet = desk.ledger.trust().fleet();
    let verified = good.verify_host(fleet).unwrap();
    assert!(verified.is_of(&good, fleet));
    for other in [&another, &forged, &good.without_signatures()] {
        assert!(!verified.is_of(other, fleet));
    }
    let (_, known) = desk.ledger.check_and_keep(NOW, &Entry::Want(good.clone())).unwrap();
    assert!(known.is_some());
    let index = desk.ledger.applied_index() + 1;
    let mut apply = |index, want: &Signed<Want>| {
        let stamped = Stamped { at: NOW, entry: Entry::Want(want.clone()) };
        desk.ledger.apply_believed(index, Digest::ZERO, &stamped, known.as_ref())
    };
    for (index, other) in (index..).zip([&forged, &good.without_signatures()]) {
        assert!(matches!(apply(index, other), Err(Refusal::Untrusted { .. })));
    }
    assert_eq!(apply(index + 2, &good), Ok(true));
    assert_eq!(apply(index + 3, &another), Ok(true));
    assert_eq!(desk.ledger.next_grants().len(), 2);
}

#[test]
fn orders_are_taken_once_and_in_their_place() {
    let mut desk = Desk::new(4);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let release = desk.release("web");
    let first = desk.deploy_order("web", release, None);
    desk.give(&first).unwrap();
    // The same bytes again change nothing; the same place again is a fork; a gap is a gap.
    assert_eq!(desk.give(&first), Ok(false));
    let fork = Order { reason: "other".into(), ..first.clone() };
    assert!(matches!(desk.give(&fork), Err(Refusal::OutOfOrder { expected: 2, got: 1, .. })));
    let second = desk.deploy_order("web", release, None);
    let gap = Order { sequence: 3, ..second.clone() };
    assert!(matches!(desk.give(&gap), Err(Refusal::OutOfOrder { expected: 2, got: 3, .. })));
    let orphan = Order { parent: Digest([1; 32]), ..second.clone() };
    assert!(matches!(desk.give(&orphan), Err(Refusal::WrongParent { .. })));
    assert!(matches!(desk.give(&second), Err(Refusal::DeploymentRunning(_))));
}

#[test]
fn a_group_keeps_the_orders_that_hosts_may_follow_and_a_few_more() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    for _ in 0..3 * ORDERS_KEPT_PER_GROUP {
        desk.deploy("web");
        desk.roll();
    }
    let release = desk.release("web");
    let running = desk.deploy_with("web", release, |_| {}).unwrap();
    for _ in 0..ORDERS_KEPT_PER_GROUP {
        desk.act("web", Action::Pause { order: running }).unwrap();
        desk.act("web", Action::Resume { order: running }).unwrap();
    }
    let waiting = desk.deploy_with("web", release, |deploy| deploy.queue = true).unwrap();
    // What is begun by another group's order changes nothing here.
    desk.group("db", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.deploy("db");

    let web = group_name("web");
    let (sequence, head) = desk.ledger.head(&web);
    let (fleet, after) = (desk.ledger.trust().fleet(), 2 * ORDERS_KEPT_PER_GROUP + 1);
    let after_head = |known, head| -> Vec<_> {
        let known = desk.ledger.evidence(host(0), &web, running, release, (known, head)).unwrap();
        known.orders.iter().map(|order| order.id(fleet)).collect()
    };
    let all = after_head(0, Digest::ZERO);
    let dropped = sequence - all.len() as u64;
    let ids = |known: u64| {
        let last = known.checked_sub(dropped + 1).and_then(|last| usize::try_from(last).ok());
        after_head(known, last.map_or(Digest::ZERO, |last| all[last]))
    };
    assert_eq!(all.len(), ORDERS_KEPT_PER_GROUP + 1 + after);
    assert_eq!((all[ORDERS_KEPT_PER_GROUP], *all.last().unwrap()), (running, head));
    assert_eq!(waiting, head);
    assert_eq!(ids(sequence - 1), [head]);
    assert!(ids(sequence).is_empty());
    assert_eq!(ids(dropped), all);
    // Whoever follows an order that was lost hears of all that came in its place.
    assert_eq!(after_head(sequence, Digest([7; 32])), all);
    assert_eq!(after_head(sequence + 1, head), all);
}

#[test]
fn orders_of_a_group_take_so_many_bytes_and_no_more() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let kept = |desk: &Desk| -> Vec<_> {
        desk.ledger.state.groups[&group_name("web")].orders.iter().map(Signed::size).collect()
    };
    // At rest: those that nobody follows any more are dropped at once.
    for _ in 0..3 * ORDERS_KEPT_PER_GROUP {
        desk.act("web", Action::Freeze).unwrap();
        desk.act("web", Action::Unfreeze).unwrap();
    }
    assert_eq!(kept(&desk).len(), ORDERS_KEPT_PER_GROUP);
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    let refused = loop {
        desk.act("web", Action::Pause { order }).unwrap();
        if let Err(refused) = desk.act("web", Action::Resume { order }) {
            break refused;
        }
    };
    assert_eq!(refused, Refusal::ManyOrders(group_name("web")));
    let bytes: usize = kept(&desk).iter().sum();
    assert!(bytes.abs_diff(ORDERS_BYTES_PER_GROUP_MAX) < 1024);
    // What ends it is taken, and so is what begins the next one; then there is room again.
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.act("web", Action::Pause { order }).unwrap();
    assert_eq!(kept(&desk).len(), ORDERS_KEPT_PER_GROUP + 2);
}

#[test]
fn what_is_unknown_expired_or_forged_is_refused() {
    let mut desk = Desk::new(3);
    let release = desk.release("web");
    let order = desk.deploy_order("web", release, None);
    assert!(matches!(desk.give(&order), Err(Refusal::UnknownGroup(_))));
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    assert!(matches!(
        desk.group("web", "", MinimumHealthy::AllAtOnce, 3),
        Err(Refusal::GroupVersion { expected: 2, got: 3, .. })
    ));
    let unknown = desk.deploy_order("web", Digest([5; 32]), None);
    assert!(matches!(desk.give(&unknown), Err(Refusal::UnknownRelease(_))));
    let order = desk.deploy_order("web", release, None);
    let signed = desk.sign(&order, 3);
    let late = UnixSeconds(NOW.0 + 61);
    assert!(matches!(desk.apply_at(late, Entry::Order(signed)), Err(Refusal::OrderExpired { .. })));
    let forged = desk.sign(&order, 2);
    assert!(matches!(desk.apply(Entry::Order(forged)), Err(Refusal::Untrusted { .. })));
    desk.group("none", "role=nobody", MinimumHealthy::AllAtOnce, 1).unwrap();
    let other = desk.release("none");
    let order = desk.deploy_order("none", other, None);
    assert!(matches!(desk.give(&order), Err(Refusal::NoHosts(_))));
    // A host speaks for itself alone.
    let id = desk.deploy("web");
    let order = desk.ledger.deployment(id).unwrap().order;
    let release = desk.ledger.deployment(id).unwrap().release;
    let want = Want { host: host(1), order, release };
    let forged = desk.sign(&want, 102);
    assert!(matches!(desk.apply(Entry::Want(forged)), Err(Refusal::Untrusted { .. })));
}

#[test]
fn a_majority_of_the_voters_is_left_alone_whatever_a_group_allows() {
    for (voters, at_once) in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (7, 3)] {
        let mut desk = Desk::founded(9, voters, &[]);
        desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
        let id = desk.deploy("web");
        desk.want_all();
        let others = 9 - usize::from(voters);
        let next = desk.ledger.next_grants();
        assert_eq!(next.len(), others + at_once, "{voters} voters");
        let votes = |number: &u8| *number < voters;
        // They come first: the last of them is what others would wait for in the end.
        let is_voter = |grant: &Grant| (0..voters).any(|number| host(number) == grant.host);
        assert!(next[..at_once].iter().all(is_voter), "{voters} voters");
        let first: Vec<_> = (0..others + at_once).map(|_| desk.grant_next()).collect();
        let mut down: Vec<_> = first.iter().copied().filter(votes).collect();
        down.sort_unstable();
        if voters > 1 {
            let list = desk.ledger.electorate().newest().list().iter();
            let name = |n: &u8| list.clone().find(|v| v.host == host(*n)).unwrap().name.clone();
            let (all, said) = (usize::from(voters), desk.ledger.why_waiting(id));
            let Waiting::Voters { down: names, all: of } = said else { panic!("{said:?}") };
            assert_eq!((names.len(), of), (at_once, all));
            assert!(down.iter().all(|number| names.contains(&name(number))));
        }
        for number in first {
            desk.done(number, Outcome::Succeeded);
        }
        desk.roll();
        assert_eq!(desk.ledger.deployment(id).unwrap().status, DeploymentStatus::Succeeded);
    }
    // One that is out of reach is down as well.
    let mut desk = Desk::founded(4, 3, &[]);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    desk.deploy("web");
    desk.want_all();
    desk.health(1, false);
    let granted: Vec<_> = desk.ledger.next_grants().iter().map(|grant| grant.host).collect();
    assert_eq!(granted, [host(3)]);
}

#[test]
fn hosts_without_a_working_revision_do_not_wait_for_each_other() {
    let mut desk = Desk::new(5);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    desk.deploy("web");
    desk.want_all();
    for grant in desk.ledger.next_grants() {
        desk.apply(Entry::Grant(grant)).unwrap();
    }
    for number in 0..5 {
        desk.done(number, if number < 2 { failure(false) } else { Outcome::Succeeded });
    }
    desk.group("web", "", MinimumHealthy::OneAtATime, 2).unwrap();
    desk.deploy("web");
    desk.want_all();
    let grants = desk.ledger.next_grants();
    assert_eq!(grants.len(), 1, "one at a time");
    let broken = [host(0), host(1)];
    assert!(broken.contains(&grants[0].host), "a host that is down already goes first");
}

#[test]
fn a_host_that_is_broken_in_one_group_costs_only_that_group() {
    let mut desk = Desk::new(3);
    desk.group("a", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    desk.group("b", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    desk.deploy("a");
    desk.want_all();
    for grant in desk.ledger.next_grants() {
        desk.apply(Entry::Grant(grant)).unwrap();
    }
    for number in 0..3 {
        desk.done(number, if number == 0 { failure(false) } else { Outcome::Succeeded });
    }
    let (a, b) = (group_name("a"), group_name("b"));
    assert!(desk.ledger.is_broken_in(&a, host(0)) && !desk.ledger.is_broken_in(&b, host(0)));
    assert_eq!((desk.down("a").0, desk.down("b").0), (1, 0));
    desk.group("b", "", MinimumHealthy::OneAtATime, 2).unwrap();
    // In b all three are well: one at a time means one at a time, the broken one included.
    desk.deploy("b");
    desk.want_all();
    for _ in 0..3 {
        assert_eq!(desk.ledger.next_grants().len(), 1);
        let number = desk.grant_next();
        assert!(desk.ledger.next_grants().is_empty(), "h{number} is down in b");
        desk.done(number, Outcome::Succeeded);
    }
    // A success in b mends nothing in a, where one host at a time would be one too many.
    assert!(desk.ledger.is_broken_in(&a, host(0)));
    desk.group("a", "", MinimumHealthy::OneAtATime, 2).unwrap();
    desk.deploy("a");
    desk.want(1);
    assert!(desk.ledger.next_grants().is_empty());
}

#[test]
fn a_replaced_host_leaves_neither_a_slot_nor_a_part_behind() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let id = desk.deploy("web");
    desk.want_all();
    let holder = desk.grant_next();
    assert!(matches!(desk.admit(9, holder, 0), Err(Refusal::NameTaken { .. })));
    desk.admit(9, holder, 1).unwrap();
    assert!(desk.ledger.slots().next().is_none(), "the machine is another one now");
    assert!(!desk.ledger.is_member(host(holder)));
    for _ in 0..2 {
        let number = desk.grant_next();
        assert_ne!(number, holder);
        desk.done(number, Outcome::Succeeded);
    }
    assert_eq!(desk.ledger.deployment(id).unwrap().status, DeploymentStatus::Succeeded);
}

#[test]
fn an_old_certificate_is_not_taken_again() {
    let mut desk = Desk::new(2);
    desk.admit(0, 4, 1).unwrap();
    assert!(matches!(desk.admit(0, 0, 0), Err(Refusal::NotNewer { incarnation: 1, .. })));
    assert!(matches!(desk.admit(0, 6, 1), Err(Refusal::NotNewer { .. })));
    desk.admit(0, 6, 2).unwrap();
}

#[test]
fn a_rollback_has_no_part_for_a_host_that_was_replaced() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let (good, bad) = (desk.release("web"), desk.release("web"));
    let order = desk.deploy_order("web", bad, Some(good));
    desk.give(&order).unwrap();
    let id = desk.sign(&order, 3).id(desk.ledger.trust().fleet());
    desk.want_all();
    let ran = desk.grant_next();
    desk.done(ran, Outcome::Succeeded);
    desk.admit(9, ran, 1).unwrap();
    let other = desk.grant_next();
    desk.done(other, failure(true));
    assert!(desk.ledger.deployment(DeploymentId::of(id, false)).unwrap().status.is_over());
    assert!(desk.ledger.deployment(DeploymentId::of(id, true)).is_none(), "nobody to bring back");
}

#[test]
fn a_group_keeps_its_hosts_while_a_deployment_runs() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.deploy("web");
    let narrowed = desk.group("web", "role=web", MinimumHealthy::OneAtATime, 2);
    assert!(matches!(narrowed, Err(Refusal::DeploymentRunning(_))));
    desk.group("web", "", MinimumHealthy::HalfAtATime, 2).unwrap();
}

#[test]
fn hosts_that_decline_do_not_make_a_success() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let id = desk.deploy("web");
    desk.want_all();
    for step in 0..3 {
        let number = desk.grant_next();
        let declined = Outcome::Declined { reason: "the order's time is over".into() };
        desk.done(number, if step == 0 { Outcome::Succeeded } else { declined });
    }
    let status = &desk.ledger.deployment(id).unwrap().status;
    assert!(matches!(status, DeploymentStatus::Failed { .. }), "{status:?}");
}

#[test]
fn old_news_is_told_from_news() {
    let mut desk = Desk::new(2);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.deploy("web");
    let assignment = desk.ledger.assignments(host(0)).remove(0);
    let part = assignment.deployment.unwrap();
    let want = Want { host: host(0), order: part.order, release: part.release };
    let want = Entry::Want(desk.sign(&want, 100));
    assert_eq!(desk.ledger.check(NOW, &want), Ok(Effect::Change));
    desk.apply(want.clone()).unwrap();
    assert_eq!(desk.ledger.check(NOW, &want), Ok(Effect::None));
    // Whoever it is that gives back what nobody holds.
    let done = Done { host: host(77), token: 3, outcome: Outcome::Succeeded };
    let done = Entry::Done(desk.sign(&done, 177));
    assert_eq!(desk.ledger.check(NOW, &done), Ok(Effect::None));
}

#[test]
fn groups_of_a_host_are_counted_at_the_limit_and_one_past_it() {
    let mut desk = Desk::new(2);
    for number in 0..crate::limits::GROUPS_PER_HOST_MAX {
        desk.group(&format!("g{number}"), "role=web", MinimumHealthy::OneAtATime, 1).unwrap();
    }
    let one_more = desk.group("more", "role=web", MinimumHealthy::OneAtATime, 1);
    assert!(matches!(one_more, Err(Refusal::TooManyGroups { .. })));
    desk.group("more", "role=db", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.group("g0", "role=web", MinimumHealthy::HalfAtATime, 2).unwrap();
    desk.admit(9, 8, 0).unwrap();
}

#[test]
fn receipts_have_no_place_in_an_entry() {
    let mut desk = Desk::new(1);
    let voter = host(0);
    let receipt = crate::trust::Receipt {
        entry: Digest([1; 32]),
        index: 1,
        voter,
        subject: crate::trust::Subject::Admission { member: Digest([2; 32]) },
        generation: 0,
    };
    let receipt = desk.sign(&receipt, 100);
    let member = Member {
        host: host(5),
        name: HostName::new("h5").unwrap(),
        zone: None,
        labels: Labels::default(),
        not_after: UnixSeconds(u64::MAX),
        incarnation: 0,
    };
    let member = desk.sign(&member, 4);
    let cert = MemberCert { token: None, member, receipts: vec![receipt] };
    assert_eq!(desk.apply(Entry::Admit(Box::new(cert))), Err(Refusal::WithReceipts));
}

#[test]
fn a_slot_is_not_freed_by_its_holders_death() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.deploy("web");
    desk.want_all();
    let grant = desk.ledger.next_grants().remove(0);
    desk.apply(Entry::Grant(grant.clone())).unwrap();
    let number = (0..3).find(|number| host(*number) == grant.host).unwrap();
    desk.health(number, false);
    assert!(desk.ledger.next_grants().is_empty());
    desk.health(number, true);
    assert!(desk.ledger.next_grants().is_empty());
}

#[test]
fn where_fewer_hosts_are_left_than_have_to_be_healthy_the_quota_is_none() {
    let mut desk = Desk::new(9);
    desk.group("web", "", MinimumHealthy::HostCount(6), 1).unwrap();
    desk.deploy("web");
    desk.want_all();
    let at_work = [desk.grant_next(), desk.grant_next(), desk.grant_next()];
    let idle: Vec<_> = (0..9).filter(|number| !at_work.contains(number)).collect();
    for number in &idle[..4] {
        desk.remove(*number, 3).unwrap();
    }
    let running = desk.ledger.group(&group_name("web")).unwrap().running.unwrap();
    let told = desk.ledger.why_waiting(running).to_string();
    assert!(told.starts_with("3 of 0 slots held"), "{told}");
}

#[test]
fn only_a_new_word_of_its_own_shows_that_a_silent_host_is_well() {
    let mut desk = Desk::new(3);
    let version = Version { epoch: 0, sequence: 7 };
    assert_eq!(desk.apply(desk.heard(1, 9)), Ok(false), "nobody has called it silent");
    desk.apply(Entry::Silent { host: host(1), version }).unwrap();
    let old = desk.apply(desk.heard(1, 7));
    assert_eq!(old, Err(Refusal::NotHeard(host(1).short())));
    let Entry::Heard(record) = desk.heard(1, 8) else { unreachable!() };
    let content = record.verify_host(desk.ledger.trust().fleet()).unwrap().content().clone();
    let forged = Entry::Heard(Box::new(desk.sign(&content, 102)));
    assert!(matches!(desk.apply(forged), Err(Refusal::Untrusted { .. })));
    assert!(!desk.ledger.is_healthy(host(1)));
    assert_eq!(desk.apply(desk.heard(1, 8)), Ok(true));
    assert!(desk.ledger.is_healthy(host(1)));
}

#[test]
fn a_word_that_came_late_is_written_off_with_those_before_it() {
    let mut desk = Desk::new(3);
    let silent =
        |sequence| Entry::Silent { host: host(1), version: Version { epoch: 0, sequence } };
    assert_eq!(desk.apply(silent(7)), Ok(true));
    assert_eq!(desk.apply(silent(7)), Ok(false));
    assert_eq!(desk.apply(silent(9)), Ok(true));
    assert_eq!(desk.apply(silent(8)), Ok(false));
    let late = desk.apply(desk.heard(1, 9));
    assert_eq!(late, Err(Refusal::NotHeard(host(1).short())));
    assert_eq!(desk.apply(desk.heard(1, 10)), Ok(true));
}

#[test]
fn a_failure_rolls_back_where_the_release_ran_and_never_a_rollback() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let (good, bad) = (desk.release("web"), desk.release("web"));
    let order = desk.deploy_order("web", bad, Some(good));
    desk.give(&order).unwrap();
    let id = desk.sign(&order, 3).id(desk.ledger.trust().fleet());
    desk.want_all();
    let step = |desk: &mut Desk, outcome: Outcome| {
        let grant = desk.ledger.next_grants().remove(0);
        desk.apply(Entry::Grant(grant.clone())).unwrap();
        let number = (0..3).find(|number| host(*number) == grant.host).unwrap();
        desk.done(number, outcome);
        grant.host
    };
    let ran = step(&mut desk, Outcome::Succeeded);
    step(&mut desk, failure(true));
    let failed = desk.ledger.deployment(DeploymentId::of(id, false)).unwrap();
    assert!(matches!(failed.status, DeploymentStatus::Failed { .. }));
    let rollback = desk.ledger.deployment(DeploymentId::of(id, true)).unwrap();
    assert_eq!(rollback.targets.keys().copied().collect::<Vec<_>>(), [ran]);
    assert_eq!(rollback.release, good);
    desk.want_all();
    step(&mut desk, failure(true));
    assert_eq!(desk.ledger.deployments().len(), 2, "no rollback of a rollback");
    assert!(desk.ledger.deployments().iter().all(|d| d.status.is_over()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Two groups that share hosts, under quotas of their own, and anything that may happen.
    #[test]
    fn no_schedule_takes_more_hosts_down_than_a_group_allows(
        hosts in 3u8..8,
        quotas in (0usize..4, 0usize..4),
        steps in prop::collection::vec((0u8..19, any::<u8>()), 1..80),
    ) {
        let configurations = [
            MinimumHealthy::OneAtATime,
            MinimumHealthy::HalfAtATime,
            MinimumHealthy::HostCount(1),
            MinimumHealthy::FleetPercent(60),
        ];
        let mut desk = Desk::new(hosts);
        desk.group("all", "", configurations[quotas.0], 1).unwrap();
        desk.group("web", "role=web", configurations[quotas.1], 1).unwrap();
        for (step, argument) in steps {
            let number = argument % hosts;
            match step {
                0 => {
                    let group = if argument % 2 == 0 { "all" } else { "web" };
                    let release = desk.release(group);
                    let order = desk.deploy_order(group, release, None);
                    drop(desk.give(&order));
                }
                1..=3 => desk.want(number),
                4..=6 => {
                    let grants = desk.ledger.next_grants();
                    if let Some(grant) = grants.get(usize::from(argument) % grants.len().max(1)) {
                        let free = ["all", "web"].map(|group| {
                            desk.ledger.is_broken_in(&group_name(group), grant.host)
                        });
                        // Each of them may come first.
                        if desk.apply(Entry::Grant(grant.clone())).is_ok() {
                            for (group, free) in ["all", "web"].into_iter().zip(free) {
                                if free {
                                    continue;
                                }
                                let view = desk.ledger.group(&group_name(group)).unwrap();
                                let (down, quota) = desk.down(group);
                                prop_assert!(
                                    !view.hosts.contains(&grant.host) || down <= quota,
                                    "{group}: {down} of {quota}"
                                );
                            }
                        }
                    }
                }
                7 | 8 => desk.done(number, Outcome::Succeeded),
                9 => desk.done(number, failure(argument % 3 != 0)),
                10 => {
                    let healthy = argument % 2 == 0;
                    drop(desk.apply(desk.says(number, healthy)));
                }
                11..=13 => {
                    let group = if argument % 2 == 0 { "all" } else { "web" };
                    let view = desk.ledger.group(&group_name(group)).unwrap();
                    let running = view.running.and_then(|id| desk.ledger.deployment(id));
                    if let Some(order) = running.map(|deployment| deployment.order) {
                        let action = match step {
                            11 => Action::Stop { order, rollback: argument % 3 == 0 },
                            12 => Action::Pause { order },
                            _ => Action::Resume { order },
                        };
                        drop(desk.act(group, action));
                    }
                }
                14 => {
                    let group = if argument % 2 == 0 { "all" } else { "web" };
                    let release = desk.release(group);
                    let version = desk.ledger.group(&group_name(group)).unwrap().group.version;
                    let canary = Canary {
                        hosts: CanaryHosts::Count(1), pause: argument % 3 == 0, bake_seconds: 0,
                    };
                    let mut configuration: DeploymentConfiguration =
                        configurations[usize::from(argument) % 4].into();
                    configuration.canary = Some(canary);
                    let terms = Deploy {
                        queue: true,
                        only_outdated: argument % 5 == 0,
                        configuration: Some(configuration),
                        ..Deploy::plain(release, version)
                    };
                    drop(desk.act(group, Action::Deploy(terms)));
                }
                15 => {
                    let group = if argument % 2 == 0 { "all" } else { "web" };
                    let view = desk.ledger.group(&group_name(group)).unwrap();
                    if let Some(good) = view.last_good {
                        let terms = Deploy::plain(good, view.group.version);
                        drop(desk.act(group, Action::Rollback(terms)));
                    }
                }
                16 => {
                    if let Some(slot) = desk.ledger.slot_of(host(number)) {
                        let group = desk.ledger.deployment(slot.deployment).unwrap().group.clone();
                        let action =
                            Action::ReleaseSlot { host: host(number), token: slot.token };
                        drop(desk.act(group.as_str(), action));
                    }
                }
                17 => {
                    for (over, _) in desk.ledger.waits() {
                        desk.apply(Entry::Passed(over)).unwrap();
                        let Passed::HoldOff { host, .. } = over else { continue };
                        prop_assert!(desk.ledger.slot_of(host).is_none());
                    }
                }
                _ => drop(desk.remove(number, 3)),
            }
        }
        // Whoever applies the same entries, at once or over a snapshot, comes to the same state.
        let mut other = Ledger::new(desk.ledger.trust().clone());
        for (index, bytes) in (1..).zip(&desk.log) {
            let stamped = Stamped::from_bytes(bytes).unwrap();
            drop(other.apply(index, Stamped::hash(bytes), &stamped));
            if index % 7 == 0 {
                other = Ledger::restore(other.trust().clone(), &other.snapshot()).unwrap();
            }
        }
        prop_assert_eq!(other.state_hash(), desk.ledger.state_hash());
    }
}

//! Hosts on which nothing of a group works: they count for nothing, and go first.

use std::collections::BTreeSet;

use super::*;
use crate::{testdata, trust::Counted};

const TABLE: &str = include_str!("../../../testdata/bare.txt");

#[test]
fn bare_hosts_go_in_the_batches_of_the_table() {
    let rows = testdata::rows(TABLE);
    assert!(rows.len() >= 8, "the table was read");
    for (row, [configuration, serve, bare, batches]) in rows {
        let got =
            run(configuration.parse().unwrap(), serve.parse().unwrap(), bare.parse().unwrap());
        assert_eq!(got, batches, "{row}");
    }
}

fn run(minimum: MinimumHealthy, serve: u8, bare: u8) -> String {
    let mut desk = served(serve, |group| group.configuration = MinimumHealthy::AllAtOnce.into());
    desk.join(bare);
    let release = desk.release("web");
    desk.deploy_with("web", release, |deploy| deploy.configuration = Some(minimum.into())).unwrap();
    let mut batches = Vec::new();
    loop {
        desk.want_all();
        let grants = desk.ledger.next_grants();
        if grants.is_empty() {
            return batches.join(",");
        }
        let batch: Vec<_> = grants.iter().map(|_| desk.grant_next()).collect();
        let served = batch.iter().filter(|number| **number < serve).count();
        let parts = [(batch.len() - served, 'b'), (served, 's')];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<_> = parts.map(|(count, what)| format!("{count}{what}")).collect();
        batches.push(parts.join("+"));
        batch.into_iter().for_each(|number| desk.done(number, Outcome::Succeeded));
    }
}

/// A group of so many hosts, on all of which a release runs.
fn served(hosts: u8, change: impl FnOnce(&mut Group)) -> Desk {
    let mut desk = Desk::new(hosts);
    desk.group_with("web", change).unwrap();
    desk.deploy("web");
    assert_eq!(desk.roll().len(), usize::from(hosts));
    desk
}

impl Desk {
    fn join(&mut self, hosts: u8) {
        for _ in 0..hosts {
            let number = self.hosts;
            self.hosts += 1;
            self.admit(number, number, 0).unwrap();
        }
    }
}

#[test]
fn hosts_that_serve_nobody_make_no_room_for_another_group() {
    let mut desk = served(4, |group| group.configuration = MinimumHealthy::HalfAtATime.into());
    desk.join(4);
    assert_eq!(desk.down("web"), (0, 2), "of the four that serve");
    desk.group("agents", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    desk.deploy("agents");
    desk.want_all();
    let grants = desk.ledger.next_grants();
    let serves = |grant: &&Grant| (0..4).any(|number| host(number) == grant.host);
    assert_eq!((grants.len(), grants.iter().filter(serves).count()), (6, 2));
}

#[test]
fn a_host_that_comes_meanwhile_does_not_stop_a_deployment() {
    let mut desk = served(3, |_| {});
    desk.deploy("web");
    desk.join(1);
    assert_eq!(desk.roll().len(), 3);
}

#[test]
fn a_host_comes_to_a_group_of_which_none_may_be_down() {
    let mut desk = served(3, |group| {
        group.deploy_to_new_hosts = true;
        group.configuration = MinimumHealthy::HostCount(2).into();
    });
    desk.group_with("web", |group| {
        group.deploy_to_new_hosts = true;
        group.configuration = MinimumHealthy::HostCount(3).into();
    })
    .unwrap();
    assert_eq!(desk.down("web"), (0, 0));
    desk.join(1);
    assert_eq!(desk.roll(), [3]);
    assert_eq!(desk.down("web"), (0, 1), "now that it serves");
}

#[test]
fn a_bare_host_that_is_away_is_named() {
    let mut desk = served(2, |_| {});
    desk.join(1);
    desk.health(2, false);
    let id = desk.deploy("web");
    desk.want(0);
    desk.want(1);
    assert!(desk.ledger.next_grants().is_empty(), "two of three must be healthy, and are");
    let why = desk.ledger.why_waiting(id).to_string();
    assert!(why.contains("not healthy: h2"), "{why}");
    desk.remove(2, 3).unwrap();
    assert_eq!(desk.roll().len(), 2);
}

#[test]
fn a_broken_host_goes_before_its_turn_where_nobody_else_can() {
    let mut desk = served(4, |_| {});
    let bad = desk.release("web");
    desk.deploy_with("web", bad, |_| {}).unwrap();
    desk.want_all();
    let broken = desk.grant_next();
    desk.done(broken, failure(false));
    let canary = (0..4).find(|number| *number != broken).unwrap();
    let waves = vec![format!("canary={canary}").parse().unwrap()];
    desk.admit_with(canary, canary, 1, &format!("canary={canary}")).unwrap();
    let good = desk.release("web");
    let one = DeploymentConfiguration { waves, ..MinimumHealthy::OneAtATime.into() };
    desk.deploy_with("web", good, |deploy| deploy.configuration = Some(one)).unwrap();
    desk.want_all();
    assert_eq!(desk.grant_next(), broken, "the first wave would wait for it for ever");
    desk.want_all();
    assert!(desk.ledger.next_grants().is_empty());
    desk.done(broken, Outcome::Succeeded);
    assert_eq!(desk.roll()[0], canary);
}

#[test]
fn a_stage_is_waited_for_where_its_hosts_only_are_at_work() {
    let mut desk = served(4, |_| {});
    desk.deploy("web");
    desk.want_all();
    let broken = desk.grant_next();
    desk.done(broken, failure(false));
    let wave = |number: u8| format!("wave={number}");
    for number in 0..4 {
        let its = if number == broken { 2 } else { 1 };
        desk.admit_with(number, number, 1, &wave(its)).unwrap();
    }
    let waves = vec![wave(1).parse().unwrap(), wave(2).parse().unwrap()];
    let minimum = MinimumHealthy::HalfAtATime;
    let configuration = DeploymentConfiguration { waves, ..minimum.into() };
    let release = desk.release("web");
    desk.deploy_with("web", release, |deploy| deploy.configuration = Some(configuration)).unwrap();
    desk.want_all();
    let first = desk.grant_next();
    assert_ne!(first, broken);
    desk.want_all();
    assert!(desk.ledger.next_grants().is_empty(), "of two that may be down one is broken");
    desk.done(first, Outcome::Succeeded);
    assert_eq!(desk.roll().last(), Some(&broken));
}

/// Terms under which hosts with these labels go first, and all others after them.
fn first(labels: &str, minimum: MinimumHealthy) -> DeploymentConfiguration {
    DeploymentConfiguration { waves: vec![labels.parse().unwrap()], ..minimum.into() }
}

#[test]
fn a_bare_host_goes_before_its_turn_where_nobody_else_can() {
    let three = MinimumHealthy::HostCount(3);
    let mut desk = served(3, |group| group.configuration = MinimumHealthy::AllAtOnce.into());
    for number in 0..3 {
        desk.admit_with(number, number, 1, "wave=1").unwrap();
    }
    desk.join(1);
    let release = desk.release("web");
    let order = desk
        .deploy_with("web", release, |d| d.configuration = Some(first("wave=1", three)))
        .unwrap();
    assert_eq!(desk.roll()[0], 3, "of the others none may go before it serves");
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
}

#[test]
fn a_deployment_is_over_where_the_only_host_that_would_make_room_declines() {
    let mut desk = served(3, |group| group.configuration = MinimumHealthy::AllAtOnce.into());
    desk.join(1);
    let (three, release) = (MinimumHealthy::HostCount(3), desk.release("web"));
    let order = desk.deploy_with("web", release, |d| d.configuration = Some(three.into())).unwrap();
    desk.want_all();
    assert_eq!(desk.grant_next(), 3);
    desk.done(3, Outcome::Declined { reason: "another architecture".into() });
    let DeploymentStatus::Failed { reason } = desk.status(order, false) else { panic!() };
    assert!(reason.starts_with("HEALTH_CONSTRAINTS"), "{reason}");
}

#[test]
fn a_deployment_for_some_hosts_ends_where_the_others_grow_too_few() {
    let three = MinimumHealthy::HostCount(3);
    let mut desk = served(4, |group| group.configuration = three.into());
    let release = desk.release("web");
    let stopped = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    // The voter goes first, and cannot be removed.
    let [_, took] = [0; 2].map(|_| {
        let number = desk.grant_next();
        desk.done(number, Outcome::Succeeded);
        number
    });
    desk.act("web", Action::Stop { order: stopped, rollback: false }).unwrap();
    let order = desk.deploy_with("web", release, |deploy| deploy.only_outdated = true).unwrap();
    assert_eq!(desk.ledger.deployment(DeploymentId::of(order, false)).unwrap().beside, 2);
    desk.remove(took, 3).unwrap();
    let over = desk.ledger.deployment(DeploymentId::of(order, false)).unwrap();
    assert_eq!(over.beside, 1);
    assert!(matches!(over.status, DeploymentStatus::Failed { .. }), "{:?}", over.status);
}

#[test]
fn a_host_of_which_voters_have_forgotten_what_it_runs_is_not_bare_and_says_what_it_runs() {
    let mut desk = served(3, |_| {});
    desk.join(2);
    let generation = operating::recover(&mut desk);
    let web = group_name("web");
    let good = desk.ledger.group(&web).unwrap().last_good.unwrap();
    for number in [0, 1, 2] {
        operating::count(&mut desk, number, &[], generation);
    }
    assert_eq!(desk.down("web"), (2, 1), "two have not said what they hold");
    // The word that one of them had taken the release is lost; on the other one nothing ever ran.
    let runs = [(web.clone(), good)].into();
    let counted = Counted { host: host(3), runs, broken: BTreeSet::new(), generation };
    desk.apply(Entry::Counted(desk.sign(&counted, 103))).unwrap();
    operating::count(&mut desk, 4, &[], generation);
    assert_eq!(desk.down("web"), (0, 1));
    let group = &desk.ledger.state.groups[&web];
    assert_eq!(group.current.get(&host(3)), Some(&good));
    assert!(
        group.left.contains(&host(3)) && !group.left.contains(&host(0)),
        "no order, no way back"
    );
    desk.deploy("web");
    desk.want_all();
    assert_eq!(desk.grant_next(), 4, "the bare one goes first");
}

#[test]
fn a_zone_of_which_bare_hosts_go_too_late_is_refused() {
    let mut desk = Desk::in_zones(4, &["a", "b", "b", "a"]);
    desk.hosts = 3;
    desk.group_with("web", |group| group.configuration = MinimumHealthy::AllAtOnce.into()).unwrap();
    desk.remove(3, 3).unwrap();
    desk.deploy("web");
    assert_eq!(desk.roll().len(), 3);
    desk.zones = vec!["a", "b", "b", "x", "a"];
    desk.hosts = 5;
    desk.admit_with(4, 4, 0, "late=yes").unwrap();
    let half = MinimumHealthy::HostCount(1);
    let zones = Zones { bake_seconds: 0, minimum_healthy: half, first_bake_seconds: 0 };
    let zonal = |waves: Vec<Labels>| DeploymentConfiguration {
        waves,
        zones: Some(zones.clone()),
        ..MinimumHealthy::AllAtOnce.into()
    };
    let release = desk.release("web");
    let early = desk.deploy_with("web", release, |d| {
        d.configuration = Some(zonal(vec!["role=web".parse().unwrap()]));
    });
    assert!(matches!(early, Err(Refusal::NoneOfZone { .. })), "the one that serves goes first");
    desk.deploy_with("web", release, |d| d.configuration = Some(zonal(Vec::new()))).unwrap();
    assert_eq!(desk.roll()[0], 4);
}

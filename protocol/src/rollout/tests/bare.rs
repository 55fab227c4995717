//! Hosts on which nothing of a group works: they count for nothing, and go first.

use super::*;

/// A table that a person who reads no Rust can check.
const TABLE: &str = include_str!("../../../testdata/bare.txt");

#[test]
fn bare_hosts_go_in_the_batches_of_the_table() {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> = row.split_whitespace().collect();
        let [configuration, serve, bare, batches] = cells.try_into().unwrap();
        let got =
            run(configuration.parse().unwrap(), serve.parse().unwrap(), bare.parse().unwrap());
        assert_eq!(got, batches, "{row}");
        count += 1;
    }
    assert!(count >= 8, "the table was read");
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

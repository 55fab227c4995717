//! What people read where nothing moves.

use super::*;

fn web(desk: &mut Desk) -> DeploymentId {
    let id = desk.deploy("web");
    desk.want_all();
    id
}

fn why(desk: &Desk, id: DeploymentId) -> String {
    desk.ledger.why_waiting(id).to_string()
}

#[test]
fn another_group_that_is_full_is_named() {
    let mut desk = Desk::new(6);
    desk.group("web", "role=web", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.group("all", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let all = desk.deploy("all");
    desk.want(1);
    assert_eq!(desk.grant_next(), 1);
    let id = web(&mut desk);
    assert_eq!(why(&desk, id), "group all: 1 of 1 slots held by h1");
    assert_eq!(why(&desk, all), "1 of 1 slots held by h1");
}

#[test]
fn a_zone_that_is_full_is_named() {
    let mut desk = Desk::in_zones(4, &["a", "a", "b", "b"]);
    desk.group_with("web", |group| {
        let minimum_healthy = MinimumHealthy::OneAtATime;
        let zones = Zones { bake_seconds: 0, minimum_healthy, first_bake_seconds: 0 };
        group.configuration =
            DeploymentConfiguration { zones: Some(zones), ..MinimumHealthy::AllAtOnce.into() };
    })
    .unwrap();
    let id = web(&mut desk);
    let first = desk.grant_next();
    assert_eq!(why(&desk, id), format!("zone a: 1 of 1 slots held by h{first}"));
}

#[test]
fn why_a_deployment_ends_is_said_while_hosts_are_at_work() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |group| {
        (group.failure_budget, group.configuration) = (Some(0), MinimumHealthy::AllAtOnce.into());
    })
    .unwrap();
    let id = web(&mut desk);
    let [first, second] = [desk.grant_next(), desk.grant_next()];
    desk.done(first, failure(true));
    let budget = "FAILURE_BUDGET: 1 hosts failed, where the group allows 0";
    assert_eq!(why(&desk, id), format!("{budget}; over when it has ended on h{second}"));
    let order = desk.ledger.deployment(id).unwrap().order;
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    assert_eq!(why(&desk, id), format!("it was stopped; over when it has ended on h{second}"));
}

#[test]
fn who_fetches_is_told_beside_who_holds_a_slot() {
    let mut desk = Desk::new(4);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    let id = desk.deploy("web");
    assert_eq!(why(&desk, id), "4 hosts are fetching the revision");
    desk.want(2);
    desk.grant_next();
    assert_eq!(why(&desk, id), "1 of 4 slots held by h2; 3 hosts are fetching the revision");
    desk.done(2, Outcome::Succeeded);
    desk.health(3, false);
    let away = "0 of 4 slots held; not healthy: h3 (`swell hosts remove` what is gone for good)";
    assert_eq!(why(&desk, id), format!("{away}; 2 hosts are fetching the revision"));
}

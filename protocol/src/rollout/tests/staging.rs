//! Canary, waves, zones, and the waits between them.

use std::time::Duration;

use super::*;

fn canary(count: u32, pause: bool, bake_seconds: u32) -> DeploymentConfiguration {
    DeploymentConfiguration {
        canary: Some(Canary { hosts: CanaryHosts::Count(count), pause, bake_seconds }),
        ..MinimumHealthy::AllAtOnce.into()
    }
}

#[test]
fn nobody_follows_the_canary_until_an_operator_says_so() {
    let mut desk = Desk::new(5);
    desk.group_with("web", |group| group.configuration = canary(2, true, 0)).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    assert_eq!(desk.roll().len(), 2, "the canary");
    let id = DeploymentId::of(order, false);
    assert_eq!(desk.ledger.why_waiting(id), Waiting::Canary);
    desk.act("web", Action::Resume { order }).unwrap();
    assert_eq!(desk.roll().len(), 3, "everybody else");
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    let late = desk.act("web", Action::Resume { order });
    assert!(matches!(late, Err(Refusal::NotRunning(_))));
}

#[test]
fn a_canary_that_fails_spares_the_others() {
    let mut desk = Desk::new(5);
    desk.group_with("web", |group| group.configuration = canary(1, true, 0)).unwrap();
    let (good, bad) = (desk.release("web"), desk.release("web"));
    let order = desk.deploy_with("web", bad, |deploy| deploy.fallback = Some(good)).unwrap();
    desk.want_all();
    let number = desk.grant_next();
    desk.done(number, failure(true));
    let DeploymentStatus::Failed { reason } = desk.status(order, false) else { panic!() };
    assert!(reason.starts_with("CANARY_FAILED"), "{reason}");
    assert!(desk.roll().is_empty());
}

#[test]
fn a_canary_that_is_silent_is_passed_over_by_an_operator_alone() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |group| {
        let hosts = CanaryHosts::Labels("role=db".parse().unwrap());
        let canary = Some(Canary { hosts, pause: false, bake_seconds: 60 });
        group.configuration =
            DeploymentConfiguration { canary, ..MinimumHealthy::AllAtOnce.into() };
    })
    .unwrap();
    let release = desk.release("web");
    desk.health(1, false);
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    assert!(desk.roll().is_empty(), "the one canary is away");
    assert!(desk.ledger.waits().is_empty(), "no time passes it over");
    desk.act("web", Action::Resume { order }).unwrap();
    assert_eq!(desk.roll().len(), 2);
}

#[test]
fn a_canary_that_has_not_run_yet_is_not_passed_over() {
    let mut desk = Desk::new(5);
    desk.group_with("web", |group| group.configuration = canary(1, true, 0)).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    let early = desk.act("web", Action::Resume { order });
    assert!(matches!(early, Err(Refusal::CanaryToCome(_))), "it is fetching: {early:?}");
    desk.want_all();
    let early = desk.act("web", Action::Resume { order });
    assert!(matches!(early, Err(Refusal::CanaryToCome(_))), "it waits for a slot: {early:?}");
    // Whoever resumes twice what was paused meanwhile ends the pause, and no more.
    desk.act("web", Action::Pause { order }).unwrap();
    desk.act("web", Action::Resume { order }).unwrap();
    let twice = desk.act("web", Action::Resume { order });
    assert!(matches!(twice, Err(Refusal::CanaryToCome(_))), "{twice:?}");
    assert_eq!(desk.roll().len(), 1, "the canary");
    desk.act("web", Action::Resume { order }).unwrap();
    assert_eq!(desk.roll().len(), 4);
}

#[test]
fn a_wave_that_nobody_is_in_is_a_slip() {
    let mut desk = Desk::new(3);
    let waves = |all: &[&str]| {
        let waves = all.iter().map(|labels| labels.parse().unwrap()).collect();
        DeploymentConfiguration { waves, ..MinimumHealthy::AllAtOnce.into() }
    };
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let refused = desk.deploy_with("web", release, |deploy| {
        deploy.configuration = Some(waves(&["role=db", "role=dbb"]));
    });
    let Err(refusal @ Refusal::NoWave { number: 2, .. }) = refused else { panic!("{refused:?}") };
    assert!(refusal.to_string().contains("wave 2, role=dbb: correct them"), "{refusal}");
    // Whoever was in it may be gone when the turn comes.
    desk.deploy_with("web", release, |_| {}).unwrap();
    let second = desk.deploy_with("web", release, |deploy| {
        (deploy.queue, deploy.configuration) = (true, Some(waves(&["role=db"])));
    });
    desk.admit_with(1, 1, 1, "role=web").unwrap();
    assert_eq!(desk.roll().len(), 3);
    let DeploymentStatus::Failed { reason } = desk.status(second.unwrap(), false) else { panic!() };
    assert!(reason.starts_with("NO_WAVE: no host of group web"), "{reason}");
}

#[test]
fn a_canary_that_nobody_is_lets_nothing_go() {
    let mut desk = Desk::new(3);
    let labelled = |labels: &str| {
        let hosts = CanaryHosts::Labels(labels.parse().unwrap());
        let canary = Some(Canary { hosts, pause: true, bake_seconds: 0 });
        DeploymentConfiguration { canary, ..MinimumHealthy::AllAtOnce.into() }
    };
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let refused = desk.deploy_with("web", release, |deploy| {
        deploy.configuration = Some(labelled("role=dbb"));
    });
    assert!(matches!(refused, Err(Refusal::NoCanary { .. })), "{refused:?}");
    // Whoever was one may be none any more when the turn comes.
    desk.deploy_with("web", release, |_| {}).unwrap();
    let second = desk.deploy_with("web", release, |deploy| {
        (deploy.queue, deploy.configuration) = (true, Some(labelled("role=db")));
    });
    desk.admit_with(1, 1, 1, "role=web").unwrap();
    assert_eq!(desk.roll().len(), 3);
    let DeploymentStatus::Failed { reason } = desk.status(second.unwrap(), false) else { panic!() };
    assert!(reason.starts_with("NO_CANARY: no host of group web"), "{reason}");
    // There is none on the way back.
    let other = desk.release("web");
    let back = desk.act(
        "web",
        Action::Rollback(Deploy {
            configuration: Some(labelled("role=db")),
            ..Deploy::plain(other, 1)
        }),
    );
    back.unwrap();
    assert_eq!(desk.roll().len(), 3);
}

#[test]
fn zones_go_one_after_the_other_and_bake_between() {
    let mut desk = Desk::in_zones(5, &["b", "a", "b", "a", "a"]);
    desk.group_with("web", |group| {
        let minimum_healthy = MinimumHealthy::HostCount(1);
        let zones = Zones { bake_seconds: 60, minimum_healthy, first_bake_seconds: 600 };
        group.configuration =
            DeploymentConfiguration { zones: Some(zones), ..MinimumHealthy::AllAtOnce.into() };
    })
    .unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    assert_eq!(desk.ledger.next_grants().len(), 2, "one host of zone a stays up");
    let mut first = desk.roll();
    first.sort_unstable();
    assert_eq!(first, [1, 3, 4], "zone a");
    let id = DeploymentId::of(order, false);
    let until = UnixSeconds(NOW.0 + 600);
    assert_eq!(desk.ledger.why_waiting(id), Waiting::Baking { after: "zone a".into(), until });
    let bake = Passed::Bake { deployment: id, stage: 0 };
    assert_eq!(desk.ledger.waits(), [(bake, Duration::from_secs(600))]);
    let of_another = Passed::Bake { deployment: id, stage: 1 };
    assert_eq!(desk.apply(Entry::Passed(of_another)), Ok(false));
    // Whatever the clocks of voters say, which people set: the leader measures it.
    assert_eq!(desk.apply_at(UnixSeconds(0), Entry::Passed(bake)), Ok(true));
    assert_eq!(desk.apply_at(until, Entry::Passed(bake)), Ok(false), "once");
    let mut second = desk.roll();
    second.sort_unstable();
    assert_eq!(second, [0, 2], "zone b; after the last one nothing bakes");
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
}

fn with_zone_floor(minimum_healthy: MinimumHealthy) -> DeploymentConfiguration {
    let zones = Some(Zones { bake_seconds: 0, minimum_healthy, first_bake_seconds: 0 });
    DeploymentConfiguration { zones, ..MinimumHealthy::AllAtOnce.into() }
}

#[test]
fn a_floor_that_leaves_nobody_of_a_zone_is_refused() {
    let mut desk = Desk::in_zones(4, &["a", "a", "a", "b"]);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    for floor in [MinimumHealthy::HostCount(1), MinimumHealthy::FleetPercent(99)] {
        let refused = desk.deploy_with("web", release, |deploy| {
            deploy.configuration = Some(with_zone_floor(floor));
        });
        let Err(Refusal::NoneOfZone { zone, .. }) = refused else { panic!("{refused:?}") };
        assert!(zone == "b" || floor == MinimumHealthy::FleetPercent(99), "{zone}");
    }
    let one = desk.deploy_with("web", release, |deploy| {
        deploy.configuration = Some(with_zone_floor(MinimumHealthy::OneAtATime));
    });
    assert_eq!(desk.roll().len(), 4);
    assert_eq!(desk.status(one.unwrap(), false), DeploymentStatus::Succeeded);
}

#[test]
fn a_zone_that_grows_too_small_for_its_floor_is_not_waited_for() {
    let mut desk = Desk::in_zones(5, &["a", "a", "b", "b", "b"]);
    desk.group_with("web", |group| {
        group.configuration = with_zone_floor(MinimumHealthy::HostCount(1));
        group.catch_up = true;
    })
    .unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.remove(1, 3).unwrap();
    assert!(desk.roll().is_empty());
    let DeploymentStatus::Failed { reason } = desk.status(order, false) else { panic!() };
    assert!(
        reason.starts_with("HEALTH_CONSTRAINTS: all hosts that are left, or of their zones"),
        "{reason}"
    );
    // A host of such a zone catches up with nothing.
    let group = |desk: &Desk| desk.ledger.group(&group_name("web")).unwrap().running;
    desk.admit_with(1, 1, 1, "role=web").unwrap_err();
    desk.admit_with(6, 6, 1, "role=web").unwrap();
    desk.health(0, false);
    desk.health(0, true);
    assert_eq!(group(&desk), None);
}

#[test]
fn a_bake_can_be_cut_short() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |group| group.configuration = canary(1, false, 3600)).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    assert_eq!(desk.roll().len(), 1);
    desk.act("web", Action::Resume { order }).unwrap();
    assert_eq!(desk.roll().len(), 2);
}

#[test]
fn a_deployment_that_misses_its_deadline_fails_when_those_at_work_are_done() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |group| {
        group.configuration.deployment_deadline_seconds = Some(100);
    })
    .unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let number = desk.grant_next();
    let deployment = DeploymentId::of(order, false);
    let passed = Passed::Deadline { deployment };
    assert_eq!(desk.ledger.waits(), [(passed, Duration::from_secs(100))]);
    assert_eq!(desk.apply(Entry::Passed(passed)), Ok(true));
    assert_eq!(desk.apply(Entry::Passed(passed)), Ok(false), "once");
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress, "one is at work");
    assert!(desk.ledger.slot_of(host(number)).is_some(), "time frees no slot");
    desk.done(number, Outcome::Succeeded);
    let DeploymentStatus::Failed { reason } = desk.status(order, false) else { panic!() };
    assert!(reason.starts_with("DEADLINE"), "{reason}");
}

//! Deployments that are over while a host that is away holds a slot of them.

use super::*;
use crate::limits::{
    DEPLOYMENTS_HELD_MAX, DEPLOYMENTS_KEPT_PER_GROUP, LOG_TAIL_BYTES_MAX, REPORTS_BYTES_MAX,
};

/// A group of `hosts` of which `quota` may be down.
fn desk(hosts: u8, quota: u32) -> Desk {
    let mut desk = Desk::new(hosts);
    let minimum = MinimumHealthy::HostCount(u32::from(hosts) - quota);
    desk.group_with("web", |group| group.configuration = minimum.into()).unwrap();
    desk
}

/// All others take the release; the last one gets its slot and is not heard of any more.
fn leave_one(desk: &mut Desk, release: Digest, number: u8) -> Digest {
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want(number);
    assert_eq!(desk.grant_next(), number);
    desk.health(number, false);
    desk.roll();
    order
}

#[test]
fn a_deployment_is_over_without_a_holder_that_is_away_and_its_slot_stays_held() {
    let mut desk = desk(4, 2);
    let (old, new) = (desk.release("web"), desk.release("web"));
    let order = leave_one(&mut desk, old, 3);
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    let slot = desk.ledger.slot_of(host(3)).unwrap();
    assert!(slot.is_left);
    assert_eq!(desk.down("web"), (1, 2));
    let next = desk.deploy_with("web", new, |_| {}).unwrap();
    desk.want_all();
    assert_eq!(desk.ledger.next_grants().len(), 1, "the holder counts");
    let other = desk.grant_next();
    let why = desk.ledger.why_waiting(DeploymentId::of(next, false)).to_string();
    assert!(why.contains("`swell slots release h3` or `swell hosts remove h3`"), "{why}");
    desk.done(other, Outcome::Succeeded);
    desk.roll();
    assert_eq!(desk.status(next, false), DeploymentStatus::Succeeded);
    desk.health(3, true);
    desk.done(3, Outcome::Succeeded);
    let first = desk.ledger.deployment(DeploymentId::of(order, false)).unwrap();
    assert_eq!(
        first.targets[&host(3)].status,
        TargetStatus::Succeeded,
        "it is told where it belongs"
    );
    assert_eq!((desk.down("web").0, desk.ledger.slots().count()), (0, 0));
}

#[test]
fn a_holder_that_is_away_is_waited_for_where_the_outcome_hangs_on_it() {
    let mut desk = desk(3, 3);
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let [last, first, second] = [desk.grant_next(), desk.grant_next(), desk.grant_next()];
    desk.health(last, false);
    desk.done(first, failure(true));
    desk.done(second, failure(true));
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress);
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    assert_eq!(desk.status(order, false), DeploymentStatus::Stopped, "nobody waits for it then");
    assert!(desk.ledger.slot_of(host(last)).is_some());
}

#[test]
fn a_deployment_fails_where_a_holder_that_is_away_cannot_save_it() {
    let mut desk = desk(3, 1);
    desk.group_with("web", |group| {
        group.configuration = MinimumHealthy::HostCount(2).into();
        group.version = 2;
    })
    .unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let first = desk.grant_next();
    desk.done(first, Outcome::Declined { reason: "no".into() });
    desk.want_all();
    let second = desk.grant_next();
    desk.done(second, Outcome::Declined { reason: "no".into() });
    desk.want_all();
    let last = desk.grant_next();
    desk.health(last, false);
    let DeploymentStatus::Failed { reason } = desk.status(order, false) else {
        panic!("it goes on")
    };
    assert!(reason.ends_with("1 hold slots and are silent"), "{reason}");
}

#[test]
fn whoever_takes_a_release_late_is_sent_back_after_the_others() {
    let (mut desk, old) = desk_at_rest(3, |group| group.failure_budget = Some(0));
    let new = desk.release("web");
    let order = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
    desk.want_all();
    let [took, fails, late] = [desk.grant_next(), desk.grant_next(), desk.grant_next()];
    desk.done(took, Outcome::Succeeded);
    desk.health(late, false);
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress, "one is at work");
    desk.done(fails, failure(true));
    assert!(matches!(desk.status(order, false), DeploymentStatus::Failed { .. }));
    assert_eq!(desk.status(order, true), DeploymentStatus::InProgress, "the way back has begun");
    desk.health(late, true);
    desk.done(late, Outcome::Succeeded);
    assert_eq!(desk.roll(), [took, late], "one after the other");
    let back = desk.ledger.deployments()[0].clone();
    assert_eq!((back.creator, back.release, back.goes_back), (Creator::CatchUp, old, true));
    assert_eq!(back.targets.keys().collect::<Vec<_>>(), [&host(late)]);
    assert_eq!(desk.roll(), [], "once");
}

#[test]
fn whoever_takes_a_release_late_goes_where_a_newer_order_brings_it() {
    let mut desk = desk(3, 3);
    let (old, new) = (desk.release("web"), desk.release("web"));
    desk.deploy_with("web", old, |_| {}).unwrap();
    desk.roll();
    let order = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
    desk.want_all();
    let late = desk.grant_next();
    desk.health(late, false);
    desk.act("web", Action::Stop { order, rollback: true }).unwrap();
    assert_eq!(desk.status(order, false), DeploymentStatus::Stopped);
    let next = desk.deploy_with("web", new, |_| {}).unwrap();
    desk.health(late, true);
    desk.done(late, Outcome::Succeeded);
    assert_eq!(desk.roll().len(), 3);
    assert_eq!(desk.status(next, false), DeploymentStatus::Succeeded);
    assert_eq!(desk.ledger.deployments()[0].order, next, "nothing follows");
}

/// A group of `hosts` that all run the release that comes back, and nobody is asked to wait for others.
fn desk_at_rest(hosts: u8, change: impl FnOnce(&mut Group)) -> (Desk, Digest) {
    let mut desk = Desk::new(hosts);
    desk.group_with("web", |group| {
        group.configuration = MinimumHealthy::AllAtOnce.into();
        change(group);
    })
    .unwrap();
    let old = desk.release("web");
    desk.deploy_with("web", old, |_| {}).unwrap();
    desk.roll();
    (desk, old)
}

/// Orders a release with a way back; one host gets its slot and is not heard of any more.
fn lose_one(desk: &mut Desk, old: Digest) -> (Digest, u8) {
    let new = desk.release("web");
    let order = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
    desk.want_all();
    let lost = desk.grant_next();
    desk.health(lost, false);
    (order, lost)
}

/// The host that was lost ends what it had begun.
fn returns(desk: &mut Desk, lost: u8) {
    desk.health(lost, true);
    desk.done(lost, Outcome::Succeeded);
}

/// By which order, and to what, hosts were last brought that came late.
fn brought(desk: &Desk) -> (Creator, Digest, Digest) {
    let newest = desk.ledger.deployments()[0];
    (newest.creator, newest.order, newest.release)
}

#[test]
fn no_success_hangs_on_hosts_that_the_release_may_have_killed() {
    for (budget, status) in [
        (Some(0), DeploymentStatus::InProgress),
        (Some(1), DeploymentStatus::InProgress),
        (Some(2), DeploymentStatus::Succeeded),
        (None, DeploymentStatus::Succeeded),
    ] {
        let (mut desk, old) = desk_at_rest(4, |group| {
            group.failure_budget = budget;
            group.configuration = MinimumHealthy::HalfAtATime.into();
        });
        let new = desk.release("web");
        let order = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
        for _ in 0..2 {
            desk.want_all();
            let took = desk.grant_next();
            desk.done(took, Outcome::Succeeded);
        }
        desk.want_all();
        let [one, other] = [desk.grant_next(), desk.grant_next()];
        desk.health(one, false);
        desk.health(other, false);
        assert_eq!(desk.status(order, false), status, "{budget:?}");
        let good = desk.ledger.group(&group_name("web")).unwrap().last_good;
        assert_eq!(good == Some(new), status == DeploymentStatus::Succeeded);
        desk.health(one, true);
        desk.done(one, failure(true));
        let failed = matches!(desk.status(order, false), DeploymentStatus::Failed { .. });
        assert_eq!(failed, budget == Some(0), "{budget:?}");
    }
}

#[test]
fn a_canary_that_may_be_dead_is_waited_for() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| {
        let canary = Canary { hosts: CanaryHosts::Count(2), pause: false, bake_seconds: 0 };
        group.configuration =
            DeploymentConfiguration { canary: Some(canary), ..MinimumHealthy::AllAtOnce.into() };
    })
    .unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let [took, lost] = [desk.grant_next(), desk.grant_next()];
    desk.done(took, Outcome::Succeeded);
    for away in (0..4).filter(|number| *number != took) {
        desk.health(away, false);
    }
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress);
    returns(&mut desk, lost);
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
}

#[test]
fn a_pause_keeps_nobody_waiting_where_all_have_had_their_turn() {
    let (mut desk, old) = desk_at_rest(3, |_| {});
    let (order, lost) = lose_one(&mut desk, old);
    let [one, other] = [desk.grant_next(), desk.grant_next()];
    desk.done(one, Outcome::Succeeded);
    desk.act("web", Action::Pause { order }).unwrap();
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress);
    desk.done(other, Outcome::Succeeded);
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    assert!(desk.ledger.slot_of(host(lost)).is_some());
}

#[test]
fn zones_that_are_shut_end_a_deployment_that_has_enough() {
    let mut desk = Desk::in_zones(5, &["a", "a", "b", "b", "b"]);
    desk.group_with("web", |group| {
        let minimum_healthy = MinimumHealthy::HostCount(1);
        let zones = Zones { minimum_healthy, bake_seconds: 0, first_bake_seconds: 0 };
        group.configuration =
            DeploymentConfiguration { zones: Some(zones), ..MinimumHealthy::AllAtOnce.into() };
    })
    .unwrap();
    let release = desk.release("web");
    desk.health(0, false);
    desk.health(1, false);
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let [one, other] = [desk.grant_next(), desk.grant_next()];
    desk.done(one, Outcome::Succeeded);
    desk.done(other, Outcome::Succeeded);
    let last = desk.grant_next();
    desk.health(0, true);
    desk.remove(1, 3).unwrap();
    desk.done(last, Outcome::Succeeded);
    let DeploymentStatus::Failed { reason } = desk.status(order, false) else {
        panic!("it goes on")
    };
    assert!(reason.contains("or of their zones, must stay healthy"), "{reason}");
}

#[test]
fn whoever_comes_late_goes_where_a_rollback_left_the_others() {
    for is_stopped_before in [false, true] {
        let (mut desk, old) = desk_at_rest(3, |_| {});
        let (order, lost) = lose_one(&mut desk, old);
        if is_stopped_before {
            desk.act("web", Action::Stop { order, rollback: false }).unwrap();
        }
        assert_eq!(desk.ledger.way_back(&group_name("web")), Some(old));
        let back = desk.act("web", Action::Rollback(Deploy::plain(old, 1))).unwrap();
        assert_eq!(desk.status(order, false), DeploymentStatus::Stopped);
        assert_eq!(desk.status(back, false), DeploymentStatus::Succeeded, "nobody has strayed");
        returns(&mut desk, lost);
        assert_eq!(desk.roll(), [lost]);
        assert_eq!(brought(&desk), (Creator::CatchUp, back, old));
    }
}

#[test]
fn whoever_comes_late_goes_where_a_newer_release_is_that_it_has_missed() {
    let (mut desk, old) = desk_at_rest(4, |group| group.failure_budget = Some(1));
    let (order, lost) = lose_one(&mut desk, old);
    desk.act("web", Action::Stop { order, rollback: true }).unwrap();
    let mended = desk.release("web");
    let next = desk.deploy_with("web", mended, |_| {}).unwrap();
    assert_eq!(desk.roll().len(), 3);
    assert_eq!(desk.status(next, false), DeploymentStatus::Succeeded);
    returns(&mut desk, lost);
    assert_eq!(desk.roll(), [lost]);
    assert_eq!(brought(&desk), (Creator::CatchUp, next, mended));
}

#[test]
fn an_order_that_never_acts_leaves_nobody_where_it_came_late() {
    for expires in [true, false] {
        let (mut desk, old) = desk_at_rest(3, |_| {});
        let (order, lost) = lose_one(&mut desk, old);
        let other = desk.release("web");
        let queued = desk.deploy_with("web", other, |deploy| {
            (deploy.queue, deploy.fallback) = (true, Some(old));
        });
        let queued = queued.unwrap();
        if !expires {
            desk.act("web", Action::Stop { order: queued, rollback: false }).unwrap();
        }
        let at = UnixSeconds(NOW.0 + if expires { 100 } else { 0 });
        let stop = desk.order("web", Action::Stop { order, rollback: true });
        let stop = desk.sign(&stop, 3);
        desk.apply_at(at, Entry::Order(stop)).unwrap();
        assert!(desk.ledger.group(&group_name("web")).unwrap().running.is_none());
        returns(&mut desk, lost);
        if expires {
            assert_eq!(desk.roll(), [lost]);
            assert_eq!(brought(&desk), (Creator::CatchUp, queued, old));
            continue;
        }
        assert_eq!(desk.roll(), [], "no host follows what was stopped");
        desk.health(lost, false);
        let next = desk.deploy_with("web", other, |_| {}).unwrap();
        assert_eq!(desk.roll().len(), 2);
        desk.health(lost, true);
        assert_eq!(desk.roll(), [lost], "the next order has a way");
        assert_eq!(brought(&desk), (Creator::CatchUp, next, other));
    }
}

#[test]
fn whoever_holds_a_slot_ends_that_before_it_catches_up_and_does_so_once() {
    for is_undone in [false, true] {
        let (mut desk, old) = desk_at_rest(3, |group| group.catch_up = true);
        let (order, lost) = lose_one(&mut desk, old);
        if is_undone {
            desk.act("web", Action::Stop { order, rollback: true }).unwrap();
        }
        desk.roll();
        let before = desk.ledger.deployments().len();
        desk.health(lost, true);
        assert_eq!(desk.ledger.deployments().len(), before, "it holds a slot");
        desk.done(lost, Outcome::Succeeded);
        assert_eq!(desk.roll(), if is_undone { vec![lost] } else { Vec::new() });
        assert_eq!(desk.ledger.deployments().len(), before + usize::from(is_undone), "once");
    }
}

#[test]
fn whoever_is_brought_late_keeps_no_operator_waiting_and_is_not_forgotten() {
    for is_stopped in [false, true] {
        let (mut desk, old) = desk_at_rest(3, |_| {});
        let (order, lost) = lose_one(&mut desk, old);
        desk.act("web", Action::Stop { order, rollback: true }).unwrap();
        returns(&mut desk, lost);
        assert_eq!(brought(&desk), (Creator::CatchUp, order, old));
        desk.health(lost, false);
        if is_stopped {
            desk.act("web", Action::Stop { order, rollback: false }).unwrap();
            desk.health(lost, true);
            assert_eq!(desk.roll(), [], "an operator has stopped it");
            desk.health(lost, false);
        }
        let next = desk.release("web");
        let newer = desk.deploy_with("web", next, |_| {}).unwrap();
        assert_eq!(desk.roll().len(), 2);
        assert_eq!(desk.status(newer, false), DeploymentStatus::Succeeded);
        desk.health(lost, true);
        assert_eq!(desk.roll(), [lost]);
        assert_eq!(brought(&desk), (Creator::CatchUp, newer, next));
    }
}

#[test]
fn a_group_keeps_its_hosts_while_one_that_is_away_holds_a_slot_of_it() {
    let mut desk = desk(4, 2);
    let release = desk.release("web");
    leave_one(&mut desk, release, 3);
    let narrow = |desk: &mut Desk| {
        desk.group_with("web", |group| {
            (group.version, group.filter) = (2, "role=db".parse().unwrap());
        })
    };
    let refused = narrow(&mut desk).unwrap_err();
    assert!(refused.to_string().contains("h3 holds a slot of it still"), "{refused}");
    desk.remove(3, 3).unwrap();
    narrow(&mut desk).unwrap();
}

#[test]
fn whoever_is_removed_has_no_part_in_what_is_over() {
    let mut desk = desk(4, 2);
    let release = desk.release("web");
    let order = leave_one(&mut desk, release, 3);
    desk.remove(3, 3).unwrap();
    let deployment = desk.ledger.deployment(DeploymentId::of(order, false)).unwrap();
    assert_eq!(deployment.targets[&host(3)].status, TargetStatus::Removed);
}

#[test]
fn so_many_deployments_are_left_with_holders_and_no_more() {
    let hosts = u8::try_from(DEPLOYMENTS_HELD_MAX).unwrap() + 3;
    let mut desk = desk(hosts, u32::from(hosts) - 1);
    for number in 0..hosts - 3 {
        let release = desk.release("web");
        let order = leave_one(&mut desk, release, number);
        assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    }
    let release = desk.release("web");
    let order = leave_one(&mut desk, release, hosts - 3);
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress, "one more waits");
    desk.health(0, true);
    desk.done(0, Outcome::Succeeded);
    desk.health(0, false);
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
}

#[test]
fn what_a_holder_needs_when_it_comes_back_is_kept() {
    let mut desk = desk(3, 2);
    let release = desk.release("web");
    let order = leave_one(&mut desk, release, 2);
    for _ in 0..=DEPLOYMENTS_KEPT_PER_GROUP {
        let release = desk.release("web");
        desk.deploy_with("web", release, |_| {}).unwrap();
        desk.roll();
    }
    let web = group_name("web");
    let known = (1, order);
    let evidence = desk.ledger.evidence(host(2), &web, order, release, known).unwrap();
    assert!(evidence.orders.is_empty(), "it has the order, and goes on with what it began");
    let assignment = &desk.ledger.assignments(host(2))[0];
    assert!(assignment.slot.as_ref().is_some_and(|slot| slot.is_left && slot.order == order));
    desk.done(2, Outcome::Succeeded);
    let release = desk.release("web");
    desk.deploy_with("web", release, |_| {}).unwrap();
    desk.roll();
    let id = DeploymentId::of(order, false);
    assert!(desk.ledger.deployment(id).is_none(), "nobody needs it any more");
}

#[test]
fn reports_that_say_much_are_dropped_before_a_snapshot_gets_too_large() {
    let mut desk = desk(2, 2);
    let long = || match failure(true) {
        Outcome::Failed { code, event, script, message, restored, .. } => {
            let log = "x".repeat(LOG_TAIL_BYTES_MAX);
            Outcome::Failed { log, code, event, script, message, restored }
        }
        other => other,
    };
    let run = |desk: &mut Desk, outcome: &Outcome| {
        let release = desk.release("web");
        let order = desk.deploy_with("web", release, |_| {}).unwrap();
        desk.want_all();
        for number in [desk.grant_next(), desk.grant_next()] {
            desk.done(number, outcome.clone());
        }
        DeploymentId::of(order, false)
    };
    let good = run(&mut desk, &Outcome::Succeeded);
    let bad: Vec<_> = (0..4).map(|_| run(&mut desk, &long())).collect();
    let sizes = |desk: &Desk| {
        let all = bad.iter().filter_map(|id| desk.ledger.deployment(*id));
        all.map(Deployment::report_bytes).collect::<Vec<_>>()
    };
    let size = sizes(&desk)[0];
    assert!((2 * LOG_TAIL_BYTES_MAX..3 * LOG_TAIL_BYTES_MAX).contains(&size), "{size}");
    // As if its hosts were many more.
    let state = &mut *desk.ledger.state;
    let first = state.deployments.get_mut(&bad[0]).unwrap();
    let target = first.targets.values().next().unwrap().clone();
    for number in 0..u32::try_from(REPORTS_BYTES_MAX / LOG_TAIL_BYTES_MAX).unwrap() {
        let mut id = [0xee; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        first.targets.insert(HostId(id), target.clone());
    }
    let last = run(&mut desk, &long());
    let kept: Vec<_> = bad.iter().map(|id| desk.ledger.deployment(*id).is_some()).collect();
    assert_eq!(kept, [false, true, true, true], "the oldest goes, and no more than that");
    assert!(desk.ledger.deployment(good).is_some_and(|d| d.report_bytes() > 0), "the last success");
    assert_eq!(desk.ledger.deployments()[0].id, last);
}

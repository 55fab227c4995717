//! What operators do while deployments run, and what happens of itself afterwards.

use std::collections::BTreeSet;

use super::{voters::VOTER_LISTS_FOR_OPERATORS, *};
use crate::{
    limits::{RELEASE_HOLD_OFF, VOTER_LISTS_MAX},
    trust::{Counted, VoterList},
};

#[test]
fn what_is_paused_gives_no_slots_until_it_is_resumed() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let number = desk.grant_next();
    desk.act("web", Action::Pause { order }).unwrap();
    let again = desk.act("web", Action::Pause { order });
    assert!(matches!(again, Err(Refusal::NothingToPause(_))));
    desk.done(number, Outcome::Succeeded);
    assert!(desk.ledger.next_grants().is_empty());
    assert_eq!(desk.ledger.why_waiting(DeploymentId::of(order, false)), Waiting::Paused);
    desk.act("web", Action::Resume { order }).unwrap();
    let again = desk.act("web", Action::Resume { order });
    assert!(matches!(again, Err(Refusal::NothingToResume(_))));
    assert_eq!(desk.roll().len(), 2);
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
}

#[test]
fn a_rollback_takes_the_place_of_whatever_runs_and_waits() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let (old, new) = (desk.release("web"), desk.release("web"));
    desk.deploy_with("web", old, |_| {}).unwrap();
    desk.roll();
    let nothing = Action::Rollback(Deploy::plain(old, 1));
    assert!(matches!(desk.act("web", nothing.clone()), Err(Refusal::NothingOutdated(_))));
    let running = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
    let queued = desk.deploy_with("web", old, |deploy| deploy.queue = true).unwrap();
    desk.want_all();
    let took = desk.grant_next();
    desk.done(took, Outcome::Succeeded);
    desk.want_all();
    let busy = desk.grant_next();
    let back = desk.act("web", nothing).unwrap();
    assert_eq!(desk.status(queued, false), DeploymentStatus::Stopped);
    assert!(desk.ledger.next_grants().is_empty(), "the one at work ends first");
    assert_eq!(desk.status(back, false), DeploymentStatus::Queued);
    desk.done(busy, Outcome::Succeeded);
    assert_eq!(desk.status(running, false), DeploymentStatus::Stopped);
    assert_eq!(desk.status(back, false), DeploymentStatus::InProgress);
    let mut returned = desk.roll();
    returned.sort_unstable();
    let mut strayed = [took, busy];
    strayed.sort_unstable();
    assert_eq!(returned, strayed, "only where the other release ran");
    assert_eq!(desk.status(back, false), DeploymentStatus::Succeeded);
    assert_eq!(desk.ledger.group(&group_name("web")).unwrap().last_good, Some(old));
}

#[test]
fn a_stop_may_bring_back_those_that_took_the_release() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let (old, new) = (desk.release("web"), desk.release("web"));
    desk.deploy_with("web", old, |_| {}).unwrap();
    desk.roll();
    let order = desk.deploy_with("web", new, |_| {}).unwrap();
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    let order = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
    desk.want_all();
    let took = desk.grant_next();
    desk.done(took, Outcome::Succeeded);
    desk.act("web", Action::Stop { order, rollback: true }).unwrap();
    assert_eq!(desk.status(order, false), DeploymentStatus::Stopped);
    assert_eq!(desk.status(order, true), DeploymentStatus::InProgress);
    assert_eq!(desk.roll(), [took]);
    assert_eq!(desk.status(order, true), DeploymentStatus::Succeeded);
    let late = desk.act("web", Action::Stop { order, rollback: true });
    assert!(matches!(late, Err(Refusal::OverAlready(_))));
}

#[test]
fn a_second_deployment_waits_or_is_refused_as_asked() {
    let mut desk = Desk::new(2);
    desk.group_with("web", |_| {}).unwrap();
    let releases: Vec<_> = (0..4).map(|_| desk.release("web")).collect();
    let first = desk.deploy_with("web", releases[0], |_| {}).unwrap();
    let refused = desk.deploy_with("web", releases[1], |_| {});
    assert!(matches!(refused, Err(Refusal::DeploymentRunning(_))));
    let queued: Vec<_> = releases[1..]
        .iter()
        .map(|release| desk.deploy_with("web", *release, |deploy| deploy.queue = true).unwrap())
        .collect();
    // One that waits can be stopped; the others keep their places.
    desk.act("web", Action::Stop { order: queued[1], rollback: false }).unwrap();
    for (order, expected) in
        [(first, Some(releases[0])), (queued[0], Some(releases[1])), (queued[2], Some(releases[3]))]
    {
        assert_eq!(desk.status(order, false), DeploymentStatus::InProgress);
        for _ in 0..2 {
            desk.want_all();
            let number = desk.grant_next();
            desk.done(number, Outcome::Succeeded);
        }
        assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
        assert_eq!(desk.ledger.group(&group_name("web")).unwrap().last_good, expected);
    }
    assert_eq!(desk.status(queued[1], false), DeploymentStatus::Stopped);
}

#[test]
fn a_queue_is_taken_at_the_limit_and_refused_one_past_it() {
    let mut desk = Desk::new(1);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let mut queue = || desk.deploy_with("web", release, |deploy| deploy.queue = true);
    // The first one does not wait.
    for _ in 0..=crate::limits::QUEUED_DEPLOYMENTS_MAX {
        queue().unwrap();
    }
    assert!(matches!(queue(), Err(Refusal::QueueFull { .. })));
}

#[test]
fn what_is_not_good_any_more_when_its_turn_comes_has_failed_and_says_why() {
    let mut desk = Desk::new(2);
    desk.group_with("web", |_| {}).unwrap();
    let (one, two) = (desk.release("web"), desk.release("web"));
    desk.deploy_with("web", one, |_| {}).unwrap();
    let queued = desk.deploy_with("web", two, |deploy| deploy.queue = true).unwrap();
    desk.group_with("web", |group| group.minimum_healthy_seconds = 5).unwrap();
    desk.roll();
    let DeploymentStatus::Failed { reason } = desk.status(queued, false) else { panic!() };
    assert!(reason.starts_with("GROUP_CHANGED"), "{reason}");
    assert!(desk.ledger.group(&group_name("web")).unwrap().running.is_none());
}

#[test]
fn nobody_goes_back_to_what_failed_while_the_order_waited() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let releases: Vec<_> = (0..3).map(|_| desk.release("web")).collect();
    desk.deploy_with("web", releases[0], |_| {}).unwrap();
    desk.roll();
    let bad = desk.deploy_with("web", releases[1], |_| {}).unwrap();
    let terms = |deploy: &mut Deploy| {
        deploy.queue = true;
        deploy.fallback = Some(releases[1]);
    };
    let next = desk.deploy_with("web", releases[2], terms).unwrap();
    desk.want_all();
    let number = desk.grant_next();
    desk.done(number, failure(true));
    assert!(matches!(desk.status(bad, false), DeploymentStatus::Failed { .. }));
    let next = desk.ledger.deployment(DeploymentId::of(next, false)).unwrap();
    assert_eq!((&next.status, next.fallback), (&DeploymentStatus::InProgress, None));
}

#[test]
fn a_failure_budget_ends_a_deployment_at_the_limit_and_one_past_it() {
    for (failures, over) in [(1, false), (2, true)] {
        let mut desk = Desk::new(6);
        desk.group_with("web", |group| {
            group.configuration = MinimumHealthy::AllAtOnce.into();
            group.failure_budget = Some(1);
        })
        .unwrap();
        let release = desk.release("web");
        let order = desk.deploy_with("web", release, |_| {}).unwrap();
        for _ in 0..failures {
            desk.want_all();
            let number = desk.grant_next();
            desk.done(number, failure(true));
        }
        let status = desk.status(order, false);
        assert_eq!(matches!(status, DeploymentStatus::Failed { .. }), over, "{status:?}");
    }
}

#[test]
fn only_outdated_hosts_are_deployed_to_if_asked() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let took = desk.grant_next();
    desk.done(took, Outcome::Succeeded);
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    desk.deploy_with("web", release, |deploy| deploy.only_outdated = true).unwrap();
    let others = desk.roll();
    assert!(others.len() == 2 && !others.contains(&took), "{others:?}");
    let nothing = desk.deploy_with("web", release, |deploy| deploy.only_outdated = true);
    assert!(matches!(nothing, Err(Refusal::NothingOutdated(_))));
}

#[test]
fn a_released_slot_is_free_after_the_hold_off_and_its_holder_is_written_off() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| group.catch_up = true).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let dead = desk.grant_next();
    desk.health(dead, false);
    let token = desk.ledger.slot_of(host(dead)).unwrap().token;
    let wrong = desk.act("web", Action::ReleaseSlot { host: host(dead), token: token + 1 });
    assert!(matches!(wrong, Err(Refusal::NoSuchSlot(_))));
    let passed = Entry::Passed(Passed::HoldOff { host: host(dead), token });
    assert_eq!(desk.apply(passed.clone()), Ok(false), "nobody ordered it");
    desk.act("web", Action::ReleaseSlot { host: host(dead), token }).unwrap();
    let twice = desk.act("web", Action::ReleaseSlot { host: host(dead), token });
    assert!(matches!(twice, Err(Refusal::ReleasedAlready(_))));
    // Held until the hold-off is over, and nobody vouches for it any more.
    assert!(desk.ledger.slot_of(host(dead)).is_some() && desk.ledger.next_grants().is_empty());
    assert!(desk.ledger.receipt_subject(token, crate::ids::Nonce([0; 16])).is_none());
    assert_eq!(
        desk.ledger.waits(),
        [(Passed::HoldOff { host: host(dead), token }, RELEASE_HOLD_OFF)]
    );
    desk.apply(passed).unwrap();
    assert_eq!(desk.ledger.written_off().next().unwrap().host, host(dead));
    assert_eq!(desk.down("web"), (0, 1), "it counts neither as down nor as a host");
    assert_eq!(desk.roll().len(), 3);
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    // When it is heard of it is down until it is mended, which is what it gets next.
    desk.health(dead, true);
    assert!(desk.ledger.written_off().next().is_none());
    assert_eq!(desk.down("web"), (1, 1));
    assert_eq!(desk.roll(), [dead]);
    assert_eq!(desk.down("web"), (0, 1));
}

#[test]
fn a_host_that_is_given_up_at_work_counts_as_failed() {
    let write_off = |desk: &mut Desk, number: u8| {
        let token = desk.ledger.slot_of(host(number)).unwrap().token;
        desk.act("web", Action::ReleaseSlot { host: host(number), token }).unwrap();
        desk.apply(Entry::Passed(Passed::HoldOff { host: host(number), token })).unwrap();
    };
    let remove = |desk: &mut Desk, number: u8| {
        desk.remove(number, 3).unwrap();
    };
    for (give_up, is_canary) in [
        (&write_off as &dyn Fn(&mut Desk, u8), false),
        (&write_off, true),
        (&remove, false),
        (&remove, true),
    ] {
        let mut desk = Desk::new(6);
        desk.group_with("web", |group| {
            group.filter = "role=web".parse().unwrap();
            let hosts = CanaryHosts::Count(1);
            let canary = Some(Canary { hosts, pause: false, bake_seconds: 0 });
            group.configuration.canary = canary.filter(|_| is_canary);
            group.failure_budget = Some(if is_canary { 9 } else { 0 });
        })
        .unwrap();
        // Not the voter, whose removal is refused.
        desk.admit_with(0, 0, 1, "role=db").unwrap();
        desk.admit_with(1, 1, 1, "role=web").unwrap();
        let release = desk.release("web");
        let order = desk.deploy_with("web", release, |_| {}).unwrap();
        desk.want_all();
        let dead = desk.grant_next();
        desk.health(dead, false);
        give_up(&mut desk, dead);
        let DeploymentStatus::Failed { reason } = desk.status(order, false) else { panic!() };
        let expected = if is_canary { "CANARY_FAILED" } else { "FAILURE_BUDGET: 1 hosts" };
        assert!(reason.starts_with(expected), "{reason}");
        assert!(desk.roll().is_empty(), "the next host is spared");
    }
}

#[test]
fn a_quota_that_is_lowered_while_a_deployment_runs_stops_new_grants() {
    let mut desk = Desk::in_zones(8, &["a", "a", "a", "a", "b", "b", "b", "b"]);
    let floor = |minimum: MinimumHealthy| {
        move |group: &mut Group| group.configuration.minimum_healthy = minimum
    };
    desk.group_with("web", floor(MinimumHealthy::HostCount(5))).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |deploy| {
        deploy.configuration = Some(MinimumHealthy::HalfAtATime.into());
    });
    desk.want_all();
    let first = [desk.grant_next(), desk.grant_next()];
    assert_eq!(desk.down("web"), (2, 4), "as the order has it");
    desk.group_with("web", floor(MinimumHealthy::OneAtATime)).unwrap();
    assert_eq!(desk.down("web"), (2, 1), "nothing that was granted is taken back");
    desk.done(first[0], Outcome::Succeeded);
    assert!(desk.ledger.next_grants().is_empty());
    desk.done(first[1], Outcome::Succeeded);
    assert_eq!(desk.ledger.next_grants().len(), 1);
    desk.group_with("web", floor(MinimumHealthy::AllAtOnce)).unwrap();
    assert_eq!(desk.ledger.next_grants().len(), 4, "no more than the order has it");
    desk.group_with("web", |group| {
        let minimum_healthy = MinimumHealthy::OneAtATime;
        let zones = Zones { bake_seconds: 0, minimum_healthy, first_bake_seconds: 0 };
        group.configuration.zones = Some(zones);
        group.configuration.minimum_healthy = MinimumHealthy::AllAtOnce;
    })
    .unwrap();
    assert_eq!(desk.ledger.next_grants().len(), 2, "one of each zone");
    desk.roll();
    assert_eq!(desk.status(order.unwrap(), false), DeploymentStatus::Succeeded);
}

/// One of two hosts, and the slot that it holds.
fn one_holds() -> (Desk, u8, u64) {
    let mut desk = Desk::new(2);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let holder = desk.grant_next();
    let token = desk.ledger.slot_of(host(holder)).unwrap().token;
    (desk, holder, token)
}

#[test]
fn a_holder_that_is_alive_after_all_gives_its_slot_back_itself() {
    let (mut desk, holder, token) = one_holds();
    desk.health(holder, false);
    desk.act("web", Action::ReleaseSlot { host: host(holder), token }).unwrap();
    desk.done(holder, Outcome::Succeeded);
    assert!(desk.ledger.waits().is_empty() && desk.ledger.written_off().next().is_none());
    assert_eq!(desk.apply(Entry::Passed(Passed::HoldOff { host: host(holder), token })), Ok(false));
}

#[test]
fn the_slot_of_a_holder_that_is_heard_of_is_not_released() {
    let (mut desk, holder, token) = one_holds();
    let release = Action::ReleaseSlot { host: host(holder), token };
    let heard_of = Refusal::HolderHeardOf(format!("h{holder}"));
    assert_eq!(desk.act("web", release.clone()), Err(heard_of));
    // It was silent for a while: what was ordered meanwhile ends when it is heard of.
    desk.health(holder, false);
    desk.act("web", release).unwrap();
    desk.health(holder, true);
    assert!(desk.ledger.waits().is_empty());
    assert_eq!(desk.apply(Entry::Passed(Passed::HoldOff { host: host(holder), token })), Ok(false));
    assert_eq!(desk.down("web"), (1, 1), "it is down until it gives its slot back");
    desk.done(holder, Outcome::Succeeded);
    assert_eq!(desk.roll().len(), 1);
}

#[test]
fn a_removed_host_holds_nothing_counts_nowhere_and_never_comes_back() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    // Host 0 is the voter.
    let holder = loop {
        let number = desk.grant_next();
        if number != 0 {
            break number;
        }
        desk.done(number, Outcome::Succeeded);
    };
    desk.health(holder, false);
    assert!(matches!(desk.remove(holder, 4), Err(Refusal::Untrusted { .. })), "not by enrolment");
    assert!(matches!(desk.remove(0, 3), Err(Refusal::IsVoter { .. })));
    assert_eq!(desk.remove(holder, 3), Ok(true));
    assert_eq!(desk.remove(holder, 3), Ok(false), "a replay changes nothing");
    assert!(desk.ledger.slots().next().is_none());
    desk.roll();
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    assert!(matches!(desk.admit(holder, holder, 5), Err(Refusal::Removed { .. })));
    desk.admit(9, holder, 0).unwrap();
}

#[test]
fn a_voter_is_not_removed_while_another_was_installed_anew_and_votes_no_more() {
    let mut desk = Desk::founded(5, 3, &[]);
    // Its key is out, and another host has to vote in its place first.
    assert_eq!(desk.admit(9, 1, 1), Ok(true));
    assert!(matches!(desk.remove(0, 3), Err(Refusal::IsVoter { .. })));
    assert_eq!(desk.remove(4, 3), Ok(true));
}

#[test]
fn the_old_key_of_a_machine_that_was_installed_anew_never_comes_back() {
    let mut desk = Desk::new(4);
    assert_eq!(desk.admit(9, 1, 1), Ok(true));
    assert!(desk.ledger.is_removed(host(1)));
    // Not even once its name is free.
    assert_eq!(desk.remove(9, 3), Ok(true));
    assert!(matches!(desk.admit(1, 1, 2), Err(Refusal::Removed { .. })));
}

#[test]
fn a_deployment_does_not_wait_for_hosts_that_are_away_and_they_catch_up() {
    for catch_up in [true, false] {
        let mut desk = Desk::new(4);
        desk.group_with("web", |group| {
            group.catch_up = catch_up;
            group.configuration = MinimumHealthy::HalfAtATime.into();
        })
        .unwrap();
        let release = desk.release("web");
        desk.health(2, false);
        let order = desk.deploy_with("web", release, |_| {}).unwrap();
        assert_eq!(desk.roll().len(), 3);
        assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
        desk.health(2, true);
        assert_eq!(desk.roll(), if catch_up { vec![2] } else { Vec::new() });
        let newest = desk.ledger.deployments()[0];
        assert_eq!(newest.creator == Creator::CatchUp, catch_up);
    }
}

#[test]
fn hosts_that_are_away_do_not_fail_a_deployment_that_needs_them() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    for number in [1, 2] {
        desk.health(number, false);
    }
    assert!(desk.roll().is_empty(), "two of three are down already");
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress);
    for number in [1, 2] {
        desk.health(number, true);
    }
    assert_eq!(desk.roll().len(), 3);
}

#[test]
fn new_hosts_get_the_last_good_release_if_the_group_says_so() {
    for wanted in [true, false] {
        let mut desk = Desk::new(2);
        desk.group_with("web", |group| group.deploy_to_new_hosts = wanted).unwrap();
        let release = desk.release("web");
        desk.deploy_with("web", release, |_| {}).unwrap();
        desk.roll();
        desk.hosts = 3;
        desk.admit(2, 2, 0).unwrap();
        assert_eq!(desk.roll(), if wanted { vec![2] } else { Vec::new() });
    }
}

#[test]
fn catching_up_makes_way_for_operators_and_is_not_tried_for_ever() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| {
        group.catch_up = true;
        group.configuration = MinimumHealthy::HalfAtATime.into();
    })
    .unwrap();
    let (one, two) = (desk.release("web"), desk.release("web"));
    desk.health(1, false);
    desk.deploy_with("web", one, |_| {}).unwrap();
    desk.roll();
    desk.health(1, true);
    assert_eq!(desk.ledger.deployments()[0].creator, Creator::CatchUp);
    let order = desk.deploy_with("web", two, |_| {}).unwrap();
    assert_eq!(desk.status(order, false), DeploymentStatus::InProgress);
    desk.health(1, false);
    desk.roll();
    desk.health(1, true);
    desk.want_all();
    let number = desk.grant_next();
    assert_eq!(number, 1);
    desk.done(number, failure(true));
    assert!(desk.roll().is_empty(), "it had its chance");
    assert_eq!(desk.ledger.hosts_that_wait(&group_name("web")), [host(1)]);
    assert!(desk.ledger.group(&group_name("web")).unwrap().running.is_none());
}

#[test]
fn hosts_catch_up_with_an_order_that_names_an_older_version_of_their_group() {
    let mut desk = Desk::new(4);
    let settings = |filter: &str| {
        let filter: Labels = filter.parse().unwrap();
        move |group: &mut Group| {
            (group.catch_up, group.deploy_to_new_hosts, group.filter) = (true, true, filter);
            group.configuration = MinimumHealthy::AllAtOnce.into();
        }
    };
    desk.group_with("web", settings("role=web")).unwrap();
    let release = desk.release("web");
    desk.health(2, false);
    desk.deploy_with("web", release, |_| {}).unwrap();
    assert_eq!(desk.roll(), [0]);
    desk.group_with("web", settings("")).unwrap();
    desk.health(2, true);
    assert_eq!(desk.roll(), [2], "executors take nothing in a group that they are not in");
    let deployment = desk.ledger.deployments()[0];
    assert_eq!(deployment.creator, Creator::CatchUp);
    let evidence = desk.ledger.evidence(
        host(2),
        &group_name("web"),
        deployment.order,
        release,
        (0, Digest::ZERO),
    );
    let group = desk.ledger.trust().group(&evidence.unwrap().group).unwrap();
    assert_eq!(group.content().version, 1, "as the order names it");
    desk.deploy_with("web", release, |deploy| deploy.only_outdated = true).unwrap();
    assert_eq!(desk.roll().len(), 2);
}

#[test]
fn nobody_catches_up_with_what_was_stopped() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| {
        group.catch_up = true;
        group.deploy_to_new_hosts = true;
        group.configuration = MinimumHealthy::HalfAtATime.into();
    })
    .unwrap();
    let (one, two) = (desk.release("web"), desk.release("web"));
    desk.health(1, false);
    desk.deploy_with("web", one, |_| {}).unwrap();
    desk.roll();
    let order = desk.deploy_with("web", two, |deploy| deploy.fallback = Some(one)).unwrap();
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    desk.health(1, true);
    assert!(desk.roll().is_empty(), "the executor would refuse, and an operator said stop");
    assert_eq!(desk.ledger.hosts_that_wait(&group_name("web")), [host(1)], "and it is said");
    desk.deploy_with("web", one, |_| {}).unwrap();
    desk.roll();
    assert!(desk.ledger.hosts_that_wait(&group_name("web")).is_empty());
}

#[test]
fn a_stop_that_asks_for_a_way_back_is_a_stop_where_there_is_none() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    let stop = desk.order("web", Action::Stop { order, rollback: true });
    // Whoever signs it is told, before anybody hears of it.
    assert!(matches!(desk.ledger.check_way_back(&stop), Err(Refusal::NoFallback(_))));
    // Where it was heard of hosts begin nothing more, and the deployment must not wait for them.
    desk.give(&stop).unwrap();
    assert_eq!(desk.status(order, false), DeploymentStatus::Stopped);
    // The same for one that another order overtook.
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    let stop = Action::Stop { order, rollback: true };
    let stray = Order { parent: Digest([9; 32]), ..desk.order("web", stop) };
    desk.give(&stray).unwrap();
    assert_eq!(desk.status(order, false), DeploymentStatus::Stopped);
}

#[test]
fn a_deployment_that_waits_for_hosts_to_stop_catching_up_is_not_overtaken() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| {
        group.catch_up = true;
        group.configuration = MinimumHealthy::HalfAtATime.into();
    })
    .unwrap();
    let releases = [desk.release("web"), desk.release("web"), desk.release("web")];
    desk.health(2, false);
    desk.deploy_with("web", releases[0], |_| {}).unwrap();
    desk.roll();
    desk.health(2, true);
    desk.want_all();
    let number = desk.grant_next();
    let next = desk.deploy_with("web", releases[1], |_| {}).unwrap();
    let other = desk.deploy_with("web", releases[2], |_| {});
    assert_eq!(other, Err(Refusal::DeploymentRunning(DeploymentId::of(next, false))));
    desk.done(number, Outcome::Succeeded);
    desk.roll();
    assert_eq!(desk.status(next, false), DeploymentStatus::Succeeded);
}

#[test]
fn a_stop_that_was_overtaken_ends_whatever_hosts_begin_no_more() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| {
        group.catch_up = true;
        group.configuration = MinimumHealthy::HalfAtATime.into();
    })
    .unwrap();
    let release = desk.release("web");
    desk.health(2, false);
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.roll();
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    desk.health(2, true);
    let running = |desk: &Desk| desk.ledger.group(&group_name("web")).unwrap().running;
    assert!(running(&desk).is_some(), "the host catches up");
    let stop = Action::Stop { order, rollback: false };
    let stray = Order { parent: Digest([9; 32]), ..desk.order("web", stop) };
    desk.give(&stray).unwrap();
    assert_eq!(running(&desk), None, "and does not begin again");
    assert!(!desk.give(&stray).is_ok_and(|changed| changed));
}

#[test]
fn nobody_catches_up_on_a_way_back_that_was_stopped_out_of_turn() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| {
        group.catch_up = true;
        group.configuration = MinimumHealthy::HalfAtATime.into();
    })
    .unwrap();
    let (old, new) = (desk.release("web"), desk.release("web"));
    desk.deploy_with("web", old, |_| {}).unwrap();
    desk.roll();
    let order = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
    desk.want_all();
    let took = desk.grant_next();
    desk.done(took, Outcome::Succeeded);
    desk.act("web", Action::Stop { order, rollback: true }).unwrap();
    assert_eq!(desk.status(order, true), DeploymentStatus::InProgress);
    let stop = Action::Stop { order, rollback: false };
    let stray = Order { parent: Digest([9; 32]), ..desk.order("web", stop) };
    desk.give(&stray).unwrap();
    let running = |desk: &Desk| desk.ledger.group(&group_name("web")).unwrap().running;
    assert_eq!(running(&desk), None, "by the same order nobody begins any more");
    assert!(!desk.give(&stray).is_ok_and(|changed| changed));
    // The next order is another matter.
    desk.deploy_with("web", old, |_| {}).unwrap();
    assert!(running(&desk).is_some());
}

#[test]
fn what_has_ended_is_known_to_be_beyond_a_stop() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let (old, new) = (desk.release("web"), desk.release("web"));
    let first = desk.deploy_with("web", old, |_| {}).unwrap();
    desk.roll();
    let order = desk.deploy_with("web", new, |deploy| deploy.fallback = Some(old)).unwrap();
    let stop = |desk: &Desk, order| desk.order("web", Action::Stop { order, rollback: true });
    let over = |desk: &Desk, order| desk.ledger.over_already(&stop(desk, order)).map(|it| it.id);
    assert_eq!(over(&desk, first), Some(DeploymentId::of(first, false)));
    assert_eq!(over(&desk, order), None, "it runs");
    desk.want_all();
    let took = desk.grant_next();
    desk.done(took, Outcome::Succeeded);
    desk.give(&stop(&desk, order)).unwrap();
    assert_eq!(over(&desk, order), None, "it goes back");
    desk.roll();
    assert_eq!(over(&desk, order), Some(DeploymentId::of(order, true)), "the newest is told of");
    assert_eq!(over(&desk, Digest([9; 32])), None, "nobody knows of such an order");
}

#[test]
fn voters_leave_the_last_lists_of_the_chain_to_operators() {
    let mut desk = Desk::new(2);
    desk.health(0, false);
    let now = desk.ledger.electorate().newest();
    let list = VoterList {
        base: None,
        seats: 1,
        parent: now.id(),
        voters: vec![Voter { host: host(1), name: HostName::new("h1").unwrap() }],
        generation: now.generation() + 1,
    };
    let signed = desk.sign(&list, 1);
    let entry = Entry::NextVoters(list);
    let theirs = VOTER_LISTS_MAX - VOTER_LISTS_FOR_OPERATORS;
    desk.ledger.state.voter_lists = vec![signed; theirs - 1].into();
    assert!(desk.ledger.check(NOW, &entry).is_ok());
    assert_eq!(desk.ledger.voter_changes_left(), 1);
    let one_more = desk.ledger.state.voter_lists[0].clone();
    desk.ledger.state.voter_lists.push(one_more);
    assert!(matches!(desk.ledger.check(NOW, &entry), Err(Refusal::VoterChange(_))));
    assert_eq!(desk.ledger.voter_changes_left(), 0);
    let recovery = desk.ledger.recovery(&[host(1)], Some(1)).unwrap().claim().unwrap();
    let recovery = desk.sign(&recovery, 3);
    desk.ledger.recover(&recovery).unwrap();
}

#[test]
fn who_leaves_a_group_has_no_part_in_what_it_deploys() {
    let mut desk = Desk::new(6);
    desk.group("web", "role=web", MinimumHealthy::OneAtATime, 1).unwrap();
    let id = desk.deploy("web");
    desk.want_all();
    let took = desk.grant_next();
    let status = |desk: &Desk, number| {
        desk.ledger.deployment(id).unwrap().targets[&host(number)].status.clone()
    };
    for number in [0, 2, 4] {
        desk.admit_with(number, number, 1, "role=db").unwrap();
        let is_out = status(&desk, number) == TargetStatus::Removed;
        assert_eq!(is_out, number != took, "who holds a slot for it ends it");
    }
    desk.done(took, Outcome::Succeeded);
    assert_eq!(status(&desk, took), TargetStatus::Succeeded);
    assert_eq!(desk.ledger.deployment(id).unwrap().status, DeploymentStatus::Succeeded);
}

/// Operators let the fleet go on with this ledger, and one voter.
pub(super) fn recover(desk: &mut Desk) -> u64 {
    let list = desk.ledger.recovery(&[host(0)], Some(1)).unwrap().claim().unwrap();
    desk.ledger.recover(&desk.sign(&list, 3)).unwrap();
    list.generation
}

/// A host says what it holds, and runs what the ledger knows of, but for groups in which it is broken.
pub(super) fn count(desk: &mut Desk, number: u8, broken: &[&str], generation: u64) {
    let broken: BTreeSet<_> = broken.iter().map(|group| group_name(group)).collect();
    let runs = desk.ledger.state.groups.iter().filter_map(|(name, group)| {
        let release = group.current.get(&host(number)).filter(|_| !broken.contains(name))?;
        Some((name.clone(), *release))
    });
    let counted = Counted { host: host(number), runs: runs.collect(), broken, generation };
    let counted = desk.sign(&counted, 100 + number);
    desk.apply(Entry::Counted(counted)).unwrap();
}

#[test]
fn a_slot_from_before_a_loss_waits_for_those_who_may_hold_a_lost_one() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.deploy("web");
    desk.want_all();
    let holder = desk.grant_next();
    let token = desk.ledger.slot_of(host(holder)).unwrap().token;
    let is_vouched_for =
        |desk: &Desk| desk.ledger.receipt_subject(token, crate::ids::Nonce([0; 16])).is_some();
    assert!(is_vouched_for(&desk));
    let generation = recover(&mut desk);
    // It may have been given back since then, and another host may have been granted the next one.
    for number in (0..3).filter(|number| *number != holder) {
        assert!(!is_vouched_for(&desk), "the quota is one");
        count(&mut desk, number, &[], generation);
    }
    assert!(is_vouched_for(&desk));
}

#[test]
fn a_host_that_was_written_off_before_a_loss_may_hold_a_lost_slot() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.deploy("web");
    desk.want_all();
    let dead = desk.grant_next();
    let token = desk.ledger.slot_of(host(dead)).unwrap().token;
    desk.health(dead, false);
    desk.act("web", Action::ReleaseSlot { host: host(dead), token }).unwrap();
    desk.apply(Entry::Passed(Passed::HoldOff { host: host(dead), token })).unwrap();
    assert_eq!(desk.down("web"), (0, 1));
    let generation = recover(&mut desk);
    for number in (0..3).filter(|number| *number != dead) {
        count(&mut desk, number, &[], generation);
    }
    assert_eq!(desk.down("web").0, 1, "it may have come back and be at work");
    assert!(desk.ledger.next_grants().is_empty());
    desk.ledger.check_invariants();
}

#[test]
fn a_host_that_a_lost_slot_left_broken_counts_as_broken() {
    let mut desk = Desk::new(3);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.deploy("web");
    desk.roll();
    let generation = recover(&mut desk);
    assert_eq!(desk.down("web").0, 3, "nobody has said yet what it holds");
    for number in 0..3 {
        let broken: &[&str] = if number == 1 { &["web", "nothing"] } else { &[] };
        count(&mut desk, number, broken, generation);
    }
    assert_eq!(desk.down("web").0, 1);
    assert!(desk.ledger.is_broken_in(&group_name("web"), host(1)));
}

#[test]
fn the_way_back_from_a_release_that_runs_everywhere_is_to_the_one_before_it() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let web = group_name("web");
    assert_eq!(desk.ledger.way_back(&web), None);
    let [first, second, third] = [0; 3].map(|_| desk.release("web"));
    desk.deploy_with("web", first, |_| {}).unwrap();
    desk.roll();
    assert_eq!(desk.ledger.way_back(&web), None, "nothing was good before it");
    for release in [second, second] {
        desk.deploy_with("web", release, |_| {}).unwrap();
        desk.roll();
        assert_eq!(desk.ledger.way_back(&web), Some(first), "the new one turned out to be bad");
    }
    let deploying = desk.deploy_with("web", third, |_| {}).unwrap();
    assert_eq!(desk.ledger.way_back(&web), Some(second));
    desk.want_all();
    let took = desk.grant_next();
    desk.done(took, Outcome::Succeeded);
    desk.act("web", Action::Stop { order: deploying, rollback: false }).unwrap();
    assert_eq!(desk.ledger.way_back(&web), Some(second), "one host has strayed");
    // Who has gone back does not come forward again by the same words.
    desk.act("web", Action::Rollback(Deploy::plain(first, 1))).unwrap();
    desk.roll();
    assert_eq!(desk.ledger.way_back(&web), None);
}

#[test]
fn a_host_that_is_gone_after_a_loss_is_waived_and_says_what_it_holds_when_it_is_back() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let waive = |generation| Action::Waive { host: host(2), generation };
    let never = desk.act("web", waive(0));
    assert!(matches!(never, Err(Refusal::NothingToWaive(_))), "nothing was lost");
    let generation = recover(&mut desk);
    for number in [0, 1] {
        count(&mut desk, number, &[], generation);
    }
    assert_eq!(desk.down("web"), (1, 1), "it may hold a slot");
    let lives = desk.act("web", waive(generation)).unwrap_err();
    assert!(lives.to_string().contains("h2 is heard of"), "{lives}");
    desk.health(2, false);
    let other = desk.act("web", waive(generation - 1));
    assert_eq!(other, Err(Refusal::OtherRecovery { expected: generation, got: generation - 1 }));
    let passed = Entry::Passed(Passed::Waiver { host: host(2) });
    assert_eq!(desk.apply(passed.clone()), Ok(false), "nobody has waived it");
    desk.act("web", waive(generation)).unwrap();
    assert!(matches!(desk.act("web", waive(generation)), Err(Refusal::NothingToWaive(_))));
    assert_eq!(desk.down("web"), (1, 1), "the hold-off is not over");
    assert_eq!(desk.ledger.waits(), [(Passed::Waiver { host: host(2) }, RELEASE_HOLD_OFF)]);
    desk.apply(passed).unwrap();
    assert_eq!((desk.down("web"), desk.ledger.waits().len()), ((0, 1), 0));
    let listed: Vec<_> = desk.ledger.written_off().map(|one| (one.host, one.slot)).collect();
    assert_eq!(listed, [(host(2), None)]);
    desk.health(2, true);
    assert_eq!((desk.down("web"), desk.ledger.written_off().count()), ((1, 1), 0));
    count(&mut desk, 2, &[], generation);
    assert_eq!(desk.down("web"), (0, 1));
}

#[test]
fn a_host_that_is_heard_of_in_the_hold_off_is_not_written_off() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let generation = recover(&mut desk);
    desk.health(2, false);
    desk.act("web", Action::Waive { host: host(2), generation }).unwrap();
    desk.health(2, true);
    assert_eq!(desk.apply(Entry::Passed(Passed::Waiver { host: host(2) })), Ok(false));
    assert!(desk.ledger.is_uncounted(host(2)));
}

#[test]
fn a_slot_that_is_known_after_a_loss_is_released_and_not_waived() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let release = desk.release("web");
    desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let holder = desk.grant_next();
    let generation = recover(&mut desk);
    desk.health(holder, false);
    let refused = desk.act("web", Action::Waive { host: host(holder), generation });
    assert!(matches!(refused, Err(Refusal::HoldsKnownSlot(_))), "{refused:?}");
    let token = desk.ledger.slot_of(host(holder)).unwrap().token;
    desk.act("web", Action::ReleaseSlot { host: host(holder), token }).unwrap();
    desk.apply(Entry::Passed(Passed::HoldOff { host: host(holder), token })).unwrap();
    let away = desk.act("web", Action::Waive { host: host(holder), generation });
    assert!(matches!(away, Err(Refusal::NothingToWaive(_))), "{away:?}");
    let others = (0..3).filter(|number| *number != holder);
    others.for_each(|number| count(&mut desk, number, &[], generation));
    assert_eq!(desk.down("web"), (0, 1));
    desk.ledger.check_invariants();
    // Another slot of it may have been lost: that one was known does not tell.
    desk.health(holder, true);
    assert!(desk.ledger.is_uncounted(host(holder)));
}

#[test]
fn nothing_begins_in_a_frozen_group() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |group| {
        (group.catch_up, group.configuration) = (true, MinimumHealthy::HalfAtATime.into());
    })
    .unwrap();
    let (one, two) = (desk.release("web"), desk.release("web"));
    desk.health(3, false);
    desk.deploy_with("web", one, |_| {}).unwrap();
    desk.roll();
    let running = desk.deploy_with("web", two, |_| {}).unwrap();
    let queued = desk.deploy_with("web", one, |deploy| deploy.queue = true).unwrap();
    desk.want_all();
    let first = desk.grant_next();
    desk.act("web", Action::Freeze).unwrap();
    assert!(matches!(desk.act("web", Action::Freeze), Err(Refusal::Frozen { .. })));
    // Who is at work ends it.
    desk.done(first, Outcome::Succeeded);
    assert!(desk.roll().is_empty());
    let why = desk.ledger.why_waiting(DeploymentId::of(running, false)).to_string();
    assert!(why.contains("go on with `swell group unfreeze web`"), "{why}");
    let refused = desk.deploy_with("web", one, |deploy| deploy.queue = true);
    assert!(matches!(refused, Err(Refusal::Frozen { .. })));
    let version = desk.ledger.group(&group_name("web")).unwrap().group.version;
    let back = desk.act("web", Action::Rollback(Deploy::plain(one, version)));
    assert!(matches!(back, Err(Refusal::Frozen { .. })));
    // What runs can be stopped, and what waits for its turn does not get it.
    desk.act("web", Action::Stop { order: running, rollback: false }).unwrap();
    assert_eq!(desk.status(running, false), DeploymentStatus::Stopped);
    desk.health(3, true);
    assert!(desk.roll().is_empty());
    assert_eq!(desk.status(queued, false), DeploymentStatus::Queued);
    desk.act("web", Action::Unfreeze).unwrap();
    assert!(matches!(desk.act("web", Action::Unfreeze), Err(Refusal::NotFrozen(_))));
    assert_eq!(desk.roll().len(), 4);
    assert_eq!(desk.status(queued, false), DeploymentStatus::Succeeded);
}

#[test]
fn a_host_that_is_written_off_is_waited_for_by_no_deployment() {
    let mut desk = Desk::new(4);
    desk.group_with("web", |_| {}).unwrap();
    desk.deploy("web");
    desk.roll();
    let release = desk.release("web");
    let first = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.want_all();
    let dead = desk.grant_next();
    let token = desk.ledger.slot_of(host(dead)).unwrap().token;
    desk.health(dead, false);
    desk.act("web", Action::Stop { order: first, rollback: false }).unwrap();
    let next = desk.deploy_with("web", release, |_| {}).unwrap();
    assert!(desk.roll().is_empty(), "its slot is the only one");
    desk.act("web", Action::ReleaseSlot { host: host(dead), token }).unwrap();
    desk.apply(Entry::Passed(Passed::HoldOff { host: host(dead), token })).unwrap();
    assert_eq!(desk.roll().len(), 3);
    assert_eq!(desk.status(next, false), DeploymentStatus::Succeeded);
}

#[test]
fn time_does_not_end_the_way_back_from_what_was_late() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |group| group.configuration.deployment_deadline_seconds = Some(60))
        .unwrap();
    let (good, late) = (desk.release("web"), desk.release("web"));
    desk.deploy_with("web", good, |_| {}).unwrap();
    desk.roll();
    let order = desk.deploy_with("web", late, |deploy| deploy.fallback = Some(good)).unwrap();
    desk.want_all();
    let took = desk.grant_next();
    desk.done(took, Outcome::Succeeded);
    for (passed, _) in desk.ledger.waits() {
        desk.apply(Entry::Passed(passed)).unwrap();
    }
    assert!(matches!(desk.status(order, false), DeploymentStatus::Failed { .. }));
    assert!(desk.ledger.waits().is_empty(), "it may take its time");
    assert_eq!(desk.roll(), [took]);
    assert_eq!(desk.status(order, true), DeploymentStatus::Succeeded);
}

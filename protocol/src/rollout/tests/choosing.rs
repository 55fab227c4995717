//! Who is next where several may be.

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_batch_takes_hosts_of_zone_after_zone() {
    let zones = ["a", "b", "c", "a", "b", "c", "a", "b", "c"];
    let mut desk = Desk::in_zones(9, &zones);
    desk.group_with("web", |group| group.configuration = MinimumHealthy::HostCount(6).into())
        .unwrap();
    desk.deploy("web");
    desk.want_all();
    let batch: Vec<_> = (0..3).map(|_| desk.grant_next()).collect();
    let zone = |number: &u8| zones[usize::from(*number)];
    assert_eq!(batch.iter().map(zone).collect::<BTreeSet<_>>().len(), 3, "{batch:?}");
    desk.done(batch[1], Outcome::Succeeded);
    let next = desk.grant_next();
    assert_eq!(zone(&next), zone(&batch[1]), "nobody else of that zone is at work");
}

#[test]
fn hosts_that_run_the_release_go_last() {
    let mut desk = Desk::new(6);
    desk.group_with("web", |group| group.configuration = MinimumHealthy::HalfAtATime.into())
        .unwrap();
    let (old, new) = (desk.release("web"), desk.release("web"));
    desk.deploy_with("web", old, |_| {}).unwrap();
    desk.roll();
    let order = desk.deploy_with("web", new, |_| {}).unwrap();
    desk.want_all();
    let took: BTreeSet<_> = (0..3).map(|_| desk.grant_next()).collect();
    took.iter().for_each(|number| desk.done(*number, Outcome::Succeeded));
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    desk.deploy_with("web", new, |_| {}).unwrap();
    let roll = desk.roll();
    assert_eq!(BTreeSet::from_iter(roll[3..].iter().copied()), took, "{roll:?}");
}

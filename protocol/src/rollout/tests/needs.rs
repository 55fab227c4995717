//! Which releases a host keeps.

use std::collections::BTreeMap;

use super::*;
use crate::rollout::Need;

#[test]
fn what_runs_what_was_good_before_and_what_is_under_way_is_needed() {
    let mut desk = Desk::new(3);
    desk.group_with("web", |_| {}).unwrap();
    let [first, second, third, fourth] = [(); 4].map(|()| desk.release("web"));
    let needs = |desk: &Desk| desk.ledger.needs(host(0));
    assert_eq!(needs(&desk), BTreeMap::new(), "nothing is deployed");
    for release in [first, second, third] {
        desk.deploy_with("web", release, |_| {}).unwrap();
        desk.roll();
    }
    let rest = BTreeMap::from([(second, Need::Previous), (third, Need::Current)]);
    assert_eq!(needs(&desk), rest, "the first one may go");
    let order = desk.deploy_with("web", fourth, |deploy| deploy.fallback = Some(first)).unwrap();
    desk.deploy_with("web", second, |deploy| deploy.queue = true).unwrap();
    let all = [first, second, third, fourth].map(|release| (release, Need::InFlight));
    assert_eq!(needs(&desk), BTreeMap::from(all));
    let elsewhere = desk.ledger.needs(host(99));
    assert_eq!(elsewhere, BTreeMap::from(all), "it may be the only one that has it");
    desk.want_all();
    let took = desk.grant_next();
    desk.act("web", Action::Stop { order, rollback: false }).unwrap();
    assert_eq!(needs(&desk)[&fourth], Need::InFlight, "a slot is held for it");
    desk.done(took, Outcome::Succeeded);
    desk.roll();
    let taker = desk.ledger.needs(host(took));
    assert_eq!(taker.get(&third), Some(&Need::Previous));
    assert_eq!(taker.get(&second), Some(&Need::Current));
}

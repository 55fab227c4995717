//! What a ledger keeps for years, and what it refuses so that others can take it over.

use super::*;
use crate::{
    limits::{GROUPS_BYTES_MAX, GROUPS_MAX, RELEASES_BYTES_MAX, RELEASES_KEPT_PER_APPLICATION},
    rollout::kept::Kept,
};

fn kept(desk: &Desk, application: &str) -> usize {
    let of = |release: &Release| release.application.as_str() == application;
    desk.ledger.releases().filter(|(_, release)| of(release)).count()
}

/// Bytes of all releases.
fn bytes(desk: &Desk) -> usize {
    let signed = desk.ledger.release_ids().filter_map(|id| desk.ledger.signed_release(id));
    signed.map(Signed::size).sum()
}

#[test]
fn the_newest_releases_of_an_application_are_kept_and_those_that_are_needed() {
    let mut desk = Desk::new(2);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    let other = desk.release("shop");
    let [first, second] = [(); 2].map(|()| desk.release("web"));
    desk.deploy_with("web", first, |_| {}).unwrap();
    desk.roll();
    while kept(&desk, "web") < RELEASES_KEPT_PER_APPLICATION {
        desk.release("web");
    }
    assert!(desk.ledger.release(second).is_some());
    let newest = desk.release("web");
    assert_eq!(kept(&desk, "web"), RELEASES_KEPT_PER_APPLICATION);
    assert_eq!(desk.ledger.release(second), None, "the oldest makes way");
    for release in [first, other, newest] {
        assert!(desk.ledger.release(release).is_some(), "it runs, is another one's, or is new");
    }
    let unknown = desk.deploy_with("web", second, |_| {}).unwrap_err();
    assert!(matches!(unknown, Refusal::UnknownRelease(_)));
}

#[test]
fn releases_of_all_applications_take_so_many_bytes_and_no_more() {
    let mut desk = Desk::new(2);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    let named = |number: usize| LabelText::new(format!("{number:0>100}")).unwrap();
    let long = desk.next_release("shop", (0..32).map(named).collect());
    desk.apply(Entry::Release(long.clone())).unwrap();
    let first = long.id(desk.ledger.trust().fleet());
    let known = desk.ledger.state.releases[&first].clone();
    let count = RELEASES_BYTES_MAX / long.size();
    for number in 1..=u64::try_from(count).unwrap() {
        let id = Digest::of(crate::ids::HashDomain::Records, &[&number.to_be_bytes()]);
        desk.ledger.state.releases.insert(id, known.clone());
    }
    assert!(bytes(&desk) > RELEASES_BYTES_MAX);
    let newest = desk.next_release("web", Vec::new());
    let judged = desk.ledger.check(NOW, &Entry::Release(newest.clone()));
    assert_eq!(judged, Ok(Effect::Change), "the oldest will make way");
    let stamped = Stamped { at: NOW, entry: Entry::Release(newest.clone()) };
    let index = desk.ledger.applied_index() + 1;
    desk.ledger.apply(index, Stamped::hash(&stamped.to_bytes()), &stamped).unwrap();
    assert!(bytes(&desk) <= RELEASES_BYTES_MAX);
    assert!(bytes(&desk) > RELEASES_BYTES_MAX - long.size(), "no more than has to");
    assert!(desk.ledger.release(newest.id(desk.ledger.trust().fleet())).is_some());
    // Where every one of them is needed none makes way.
    let all: Vec<_> = desk.ledger.release_ids().collect();
    let group = desk.ledger.state.groups.get_mut(&group_name("web")).unwrap();
    for (number, release) in all.into_iter().enumerate() {
        let mut somebody = [0; 32];
        somebody[..8].copy_from_slice(&number.to_be_bytes());
        group.current.insert(HostId(somebody), release);
    }
    let more = desk.next_release("web", (0..32).map(named).collect());
    assert_eq!(desk.ledger.check(NOW, &Entry::Release(more)), Err(Refusal::ManyReleases));
}

#[test]
fn groups_are_counted_at_the_limit_and_one_past_it() {
    let mut desk = Desk::new(2);
    desk.group("web", "role=none", MinimumHealthy::AllAtOnce, 1).unwrap();
    let known = desk.ledger.state.groups[&group_name("web")].clone();
    for number in 2..GROUPS_MAX {
        desk.ledger.state.groups.insert(group_name(&format!("g{number}")), known.clone());
    }
    let mut put = |name, version| {
        let group = group_document(name, version);
        let signed = desk.sign(&group, 3);
        let stamped = Stamped { at: NOW, entry: Entry::Group(signed) };
        let index = desk.ledger.applied_index() + 1;
        desk.ledger.apply(index, Stamped::hash(&stamped.to_bytes()), &stamped)
    };
    assert_eq!(put("last", 1), Ok(true));
    assert_eq!(put("more", 1), Err(Refusal::ManyGroups));
    assert_eq!(put("last", 2), Ok(true), "one that is there can be changed");
}

#[test]
fn groups_with_their_orders_take_so_many_bytes_and_no_more() {
    let mut desk = Desk::new(2);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    let order = desk.order("web", Action::Freeze);
    let signed = desk.sign(&order, 3);
    let add = |version| Entry::Group(desk.sign(&group_document("web", version), 3));
    let (more, longer) = (desk.sign(&group_document("more", 1), 3), add(2));
    let room = |desk: &Desk| {
        let known = desk.ledger.state.groups.values().map(|group| group.bytes());
        GROUPS_BYTES_MAX - known.sum::<usize>()
    };
    let count = (room(&desk) - more.size()) / signed.size();
    let state: &mut Kept<_> = desk.ledger.state.groups.get_mut(&group_name("web")).unwrap();
    state.orders.extend(std::iter::repeat_n(signed.clone(), count));
    let more = Entry::Group(more);
    assert_eq!(desk.ledger.check(NOW, &more), Ok(Effect::Change));
    desk.ledger.state.groups.get_mut(&group_name("web")).unwrap().orders.push(signed);
    assert_eq!(desk.ledger.check(NOW, &more), Err(Refusal::GroupsTakeMuch));
    assert_eq!(desk.ledger.check(NOW, &longer), Ok(Effect::Change), "it gets no longer");
}

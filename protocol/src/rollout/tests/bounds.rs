//! What a ledger keeps for years, and what it refuses so that others can take it over.

use super::*;
use crate::limits::{
    GROUPS_BYTES_MAX, GROUPS_MAX, ORDERS_BYTES_MAX, RELEASES_BYTES_MAX,
    RELEASES_KEPT_PER_APPLICATION,
};

fn kept(desk: &Desk, application: &str) -> usize {
    let of = |release: &Release| release.application.as_str() == application;
    desk.ledger.releases().filter(|(_, release)| of(release)).count()
}

impl Desk {
    /// Somebody runs each of these, in a group that is there.
    fn needs_all(&mut self, releases: &[Digest]) {
        let group = self.ledger.state.groups.get_mut(&group_name("web")).unwrap();
        for (number, release) in releases.iter().enumerate() {
            let mut somebody = [0; 32];
            somebody[..8].copy_from_slice(&number.to_be_bytes());
            group.current.insert(HostId(somebody), *release);
        }
    }
}

/// Bytes of all releases.
fn bytes(desk: &Desk) -> usize {
    let signed = desk.ledger.release_ids().filter_map(|id| desk.ledger.signed_release(id));
    signed.map(Signed::size).sum()
}

#[test]
fn the_newest_releases_of_an_application_are_kept_beside_those_that_are_needed() {
    let mut desk = Desk::new(2);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    let other = desk.release("shop");
    let [first, second] = [(); 2].map(|()| desk.release("web"));
    let forgotten = desk.ledger.signed_release(second).unwrap().clone();
    desk.deploy_with("web", first, |_| {}).unwrap();
    desk.roll();
    while kept(&desk, "web") < 1 + RELEASES_KEPT_PER_APPLICATION {
        desk.release("web");
    }
    assert!(desk.ledger.release(second).is_some());
    let newest = desk.release("web");
    assert_eq!(kept(&desk, "web"), 1 + RELEASES_KEPT_PER_APPLICATION);
    assert_eq!(desk.ledger.release(second), None, "the oldest makes way");
    for release in [first, other, newest] {
        assert!(desk.ledger.release(release).is_some(), "it runs, is another one's, or is new");
    }
    let unknown = desk.deploy_with("web", second, |_| {}).unwrap_err();
    assert!(matches!(unknown, Refusal::UnknownRelease(_)));
    // Handed in again it is as old as it was.
    let again = desk.apply(Entry::Release(forgotten)).unwrap_err();
    assert!(matches!(again, Refusal::OldRelease(_)));
    assert!(desk.ledger.release(newest).is_some());
}

#[test]
fn a_release_is_kept_though_very_many_others_of_its_application_are_needed() {
    let mut desk = Desk::new(2);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    let needed: Vec<_> = (0..RELEASES_KEPT_PER_APPLICATION).map(|_| desk.release("web")).collect();
    desk.needs_all(&needed);
    let (one, two) = (desk.release("web"), desk.release("web"));
    let all = needed.into_iter().chain([one, two]);
    assert!(all.into_iter().all(|release| desk.ledger.release(release).is_some()));
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
        let mut other = known.clone();
        other.content.application = ApplicationName::new(format!("a{}", number % 100)).unwrap();
        desk.ledger.state.releases.insert(id, other);
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
    desk.needs_all(&all);
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
fn groups_take_so_many_bytes_and_no_more() {
    let mut desk = Desk::new(2);
    let long = |name: &str, version| {
        let label = |number: usize| format!("{number:0>100}={number:0>100}");
        let filter: Labels = (0..32).map(label).collect::<Vec<_>>().join(",").parse().unwrap();
        let mut group = Group { filter: filter.clone(), ..group_document(name, version) };
        group.configuration.waves = vec![filter; 4];
        group
    };
    let signed = desk.sign(&long("web", 1), 3);
    desk.apply(Entry::Group(signed.clone())).unwrap();
    let known = desk.ledger.state.groups[&group_name("web")].clone();
    for number in 1..GROUPS_BYTES_MAX / signed.size() {
        desk.ledger.state.groups.insert(group_name(&format!("g{number}")), known.clone());
    }
    let check = |group: &Group| desk.ledger.check(NOW, &Entry::Group(desk.sign(group, 3)));
    assert_eq!(check(&long("web", 2)), Ok(Effect::Change), "it gets no longer");
    assert_eq!(check(&long("more", 1)), Err(Refusal::GroupsTakeMuch));
}

#[test]
fn orders_of_all_groups_take_so_many_bytes_and_no_more() {
    let mut desk = Desk::new(2);
    for name in ["web", "shop"] {
        desk.group(name, "", MinimumHealthy::AllAtOnce, 1).unwrap();
    }
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    desk.act("web", Action::Pause { order }).unwrap();
    let resume = desk.sign(&desk.order("web", Action::Resume { order }), 3);
    let of_all = |desk: &Desk| {
        desk.ledger.state.groups.values().map(|group| group.order_bytes()).sum::<usize>()
    };
    let known = desk.ledger.state.groups[&group_name("web")].orders[0].clone();
    let count = (ORDERS_BYTES_MAX - resume.size() - of_all(&desk)) / known.size();
    let fill = |desk: &mut Desk, count: usize| {
        let state = desk.ledger.state.groups.get_mut(&group_name("shop")).unwrap();
        state.orders.extend(std::iter::repeat_n(known.clone(), count));
    };
    fill(&mut desk, count);
    let resume = Entry::Order(resume);
    assert_eq!(desk.ledger.check(NOW, &resume), Ok(Effect::Change));
    fill(&mut desk, 1);
    assert_eq!(desk.ledger.check(NOW, &resume), Err(Refusal::ManyOrders(group_name("web"))));
    let stop = desk.sign(&desk.order("web", Action::Stop { order, rollback: false }), 3);
    assert_eq!(desk.ledger.check(NOW, &Entry::Order(stop)), Ok(Effect::Change), "it ends one");
}

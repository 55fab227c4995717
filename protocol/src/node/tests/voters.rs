//! Voters come and go while the fleet does its work.

use super::*;
use crate::limits::VOTERS_FOLLOWED;

/// A fleet whose leader does not wait long before it replaces a voter.
fn impatient(hosts: u8, voters: u8) -> World {
    let mut world = fleet(hosts, voters);
    let seconds = std::time::Duration::from_secs;
    world.voter_policy = VoterPolicy {
        silent: seconds(20),
        unfit: seconds(20),
        stable: seconds(5),
        pace: seconds(1),
        zone_pace: seconds(1),
    };
    for host in 0..world.hosts.len() {
        world.kill(host);
        world.restart(host);
    }
    world.run_until("a leader", |world| world.leader().is_some());
    world
}

impl World {
    fn generation(&self, host: usize) -> u64 {
        self.node(host).electorate().newest().generation()
    }

    fn votes(&self, host: usize) -> bool {
        self.node(host).consensus().is_some()
    }

    fn live(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.hosts.len()).filter(|host| self.hosts[*host].node.is_some())
    }

    /// All that run are of this generation, and know the same.
    fn is_settled(&self, generation: u64) -> bool {
        self.live()
            .all(|host| self.generation(host) == generation && !self.node(host).is_left_behind())
            && self.state_hashes().len() == 1
    }

    /// A voter that does not lead.
    fn other_voter(&self) -> usize {
        let leader = self.leader().unwrap();
        self.live().find(|host| *host != leader && self.votes(*host)).unwrap()
    }
}

#[test]
fn a_voter_that_is_gone_is_replaced_and_is_none_when_it_returns() {
    let mut world = impatient(5, 3);
    world.group(MinimumHealthy::HostCount(0));
    let gone = world.other_voter();
    world.kill(gone);
    world.run_until("a new voter", |world| world.is_settled(1));
    let voters = |world: &World| world.live().filter(|host| world.votes(*host)).count();
    assert_eq!(voters(&world), 3);
    world.run_until("a leader", |world| world.leader().is_some());
    world.restart(gone);
    world.run_until("it hears of it", |world| world.is_settled(1));
    assert!(!world.votes(gone));
    world.deploys("1.0.0");
    // All of it outlasts the daemons.
    for host in 0..5 {
        world.kill(host);
    }
    for host in 0..5 {
        world.restart(host);
    }
    world.run_until("a leader", |world| world.leader().is_some() && world.is_settled(1));
    world.deploys("1.0.1");
}

#[test]
fn a_voter_that_slept_through_a_change_goes_on_in_the_new_generation() {
    let mut world = impatient(7, 5);
    world.group(MinimumHealthy::HostCount(0));
    let gone = world.other_voter();
    world.kill(gone);
    world.run_for(15);
    // It is away for less than it takes to be replaced.
    let sleeper = world.other_voter();
    world.kill(sleeper);
    world.run_until("a new voter", |world| world.is_settled(1));
    world.restart(sleeper);
    world.run_until("it hears of it", |world| world.is_settled(1));
    assert!(world.votes(sleeper));
    world.deploys("1.0.0");
}

#[test]
fn voters_who_all_forgot_where_they_begin_hear_it_from_one_that_was_replaced() {
    let mut world = impatient(5, 3);
    world.group(MinimumHealthy::HostCount(0));
    world.run_for(10);
    let images: Vec<_> = world.hosts.iter().map(|host| host.disk.clone()).collect();
    let gone = world.other_voter();
    world.kill(gone);
    world.run_until("a new voter", |world| world.is_settled(1));
    world.restart(gone);
    world.run_until("it hears of it", |world| world.is_settled(1));
    for host in (0..5).filter(|host| *host != gone) {
        world.kill(host);
        world.hosts[host].disk = images[host].clone();
        world.restart(host);
    }
    world.run_until("they hear of it", |world| world.is_settled(1));
    world.run_until("a leader", |world| world.leader().is_some());
    world.deploys("1.0.0");
}

#[test]
fn whoever_is_to_vote_looks_for_all_who_know_where_that_begins_and_others_for_a_few() {
    let mut world = fleet(9, 5);
    let now = world.node(0).electorate().newest();
    let mut voters = now.list().to_vec();
    voters.retain(|voter| voter.host != world.hosts[4].id);
    let name = HostName::new("h6").unwrap();
    voters.push(Voter { host: world.hosts[5].id, name });
    voters.sort();
    let (parent, generation) = (now.id(), now.generation() + 1);
    let list = VoterList { base: None, seats: 5, parent, voters, generation };
    let keys = [0, 1, 2].map(|host: usize| SecretKey::from_seed(&[world.hosts[host].seed; 32]));
    let [a, b, c] = &keys;
    let list = Signed::new(&list, world.trust.fleet(), &[a, b, c]).unwrap();
    let from = world.hosts[0].id;
    for (host, expected) in [(5, 5), (8, VOTERS_FOLLOWED)] {
        let lists = Message::VoterLists(vec![list.clone()]);
        world.feed(host, Input::Message(from, lists));
        let node = world.hosts[host].node.as_mut().unwrap();
        assert!(node.is_left_behind());
        assert_eq!(node.wanted_voters().len(), expected, "host {host}");
    }
}

#[test]
fn the_leader_is_replaced_by_the_one_after_it() {
    let mut world = impatient(4, 3);
    let leader = world.leader().unwrap();
    world.kill(leader);
    world.run_until("a new voter", |world| world.is_settled(1));
    assert_eq!(world.live().filter(|host| world.votes(*host)).count(), 3);
}

#[test]
fn without_another_host_nobody_is_replaced() {
    let mut world = impatient(3, 3);
    let gone = world.other_voter();
    world.kill(gone);
    world.run_for(60);
    assert!(world.is_settled(0));
}

#[test]
fn all_first_voters_are_replaced_one_by_one_and_a_new_host_believes_the_last() {
    let mut world = impatient(7, 3);
    world.group(MinimumHealthy::HostCount(0));
    world.kill(6);
    for generation in 1..=3 {
        let first = |host: &usize| world.trust.genesis().names(world.hosts[*host].id);
        let gone = world.live().find(first).unwrap();
        world.kill(gone);
        world.run_until("a new voter", |world| world.is_settled(generation));
        world.run_until("a leader", |world| world.leader().is_some());
    }
    world.restart(6);
    world.run_until("it believes them", |world| world.is_settled(3));
    world.deploys("1.0.0");
}

/// An operator takes a host out of the fleet.
fn removal(world: &World, gone: usize) -> Entry {
    let removal = crate::trust::Removal {
        host: world.hosts[gone].id,
        name: HostName::new(format!("h{}", world.hosts[gone].seed)).unwrap(),
        reason: "sold".into(),
        issued_at: world.wall,
    };
    Entry::Remove(Signed::new(&removal, world.trust.fleet(), &[&world.operator]).unwrap())
}

#[test]
fn a_removed_voter_is_replaced_at_once() {
    let mut world = impatient(5, 3);
    world.run_for(10);
    let gone = world.other_voter();
    let from = world.leader().unwrap();
    let removal = removal(&world, gone);
    world.submit(from, removal);
    world.run_for(10);
    let others = || (0..5).filter(|host| *host != gone);
    assert!(others().all(|host| world.generation(host) == 1));
    assert_eq!(others().filter(|host| world.votes(*host)).count(), 3);
    assert!(!world.node(from).electorate().newest().is_voter(world.hosts[gone].id));
    // Not only in mind: it would go on talking to hosts that do not listen.
    assert_eq!(world.links_of(gone), 0, "nobody keeps a connection to it");
    let id = world.hosts[gone].id;
    assert!(others().all(|host| world.node(host).view().get(id).is_none()), "nor what it said");
}

#[test]
fn a_host_with_a_slow_disk_votes_only_where_nobody_else_can() {
    let slow = std::time::Duration::from_millis(50);
    for unsteady in [[3, 4, 9], [4, 5, 9], [3, 4, 5]] {
        let mut world = impatient(6, 3);
        for host in unsteady.into_iter().filter(|host| *host < 6) {
            let node = world.hosts[host].node.as_mut().unwrap();
            (0..20).for_each(|_| node.wrote(slow));
        }
        world.run_for(10);
        let gone = world.other_voter();
        let removal = removal(&world, gone);
        world.submit(world.leader().unwrap(), removal);
        world.run_for(10);
        let new: Vec<_> = (3..6).filter(|host| world.votes(*host)).collect();
        let steady: Vec<_> = (3..6).filter(|host| !unsteady.contains(host)).collect();
        assert!(new.len() == 1 && (new == steady || steady.is_empty()), "{new:?}, of {steady:?}");
    }
}

#[test]
fn a_leader_that_may_vote_no_more_lets_another_lead_and_is_replaced() {
    let mut world = impatient(5, 3);
    world.run_for(10);
    let leader = world.leader().unwrap();
    let enrolment = SecretKey::from_seed(&[204; 32]);
    let mut cert = world.cert(leader, &enrolment);
    let mut member = cert.verify_signatures(&world.trust).unwrap().content().clone();
    (member.incarnation, member.labels) = (1, "voter=never".parse().unwrap());
    cert.member = Signed::new(&member, world.trust.fleet(), &[&enrolment]).unwrap();
    world.submit(leader, Entry::Admit(Box::new(cert)));
    world.run_for(2);
    let next = world.leader().unwrap();
    assert_ne!(next, leader, "another one leads");
    assert!(world.votes(leader), "it is not replaced at once");
    world.run_until("a new voter", |world| world.is_settled(1));
    assert!(!world.votes(leader));
}

#[test]
fn whoever_is_left_behind_asks_even_if_its_peers_saw_no_link_go() {
    let mut world = fleet(3, 3);
    let peer = world.hosts[1].id;
    world.feed(0, Input::LinkDown(peer));
    world.wire.clear();
    world.feed(0, Input::LinkUp(peer));
    let asks = |(from, to, message): &(usize, usize, Message)| {
        (*from, *to) == (0, 1) && matches!(message, Message::VotersKnown(0))
    };
    assert!(world.wire.iter().any(asks));
}

#[test]
fn a_voter_is_not_removed_while_another_is_dead() {
    let mut world = impatient(3, 3);
    let gone = world.other_voter();
    world.kill(gone);
    world.run_for(20);
    let other = world.other_voter();
    let entry = removal(&world, other);
    let (id, from) = (entry.submission_id(), world.leader().unwrap());
    world.feed(from, Input::Submit(entry));
    world.run_until("an answer", |world| world.answers.contains_key(&id));
    let refused = world.answers.remove(&id).unwrap().unwrap_err().to_string();
    assert!(refused.contains("too few would be left"), "{refused}");
}

#[test]
fn a_leader_that_plans_at_will_is_not_followed() {
    let world = impatient(6, 3);
    let ledger = world.node(0).ledger();
    let now = ledger.electorate().newest();
    let member = |host: usize| {
        let host = world.hosts[host].id;
        Voter { host, name: ledger.name_of(host).unwrap().clone() }
    };
    let others: Vec<_> = (0..6).filter(|host| !world.votes(*host)).map(member).collect();
    let plan = |goes: usize, comes: &[Voter]| {
        let mut voters = now.list().to_vec();
        voters.drain(..goes);
        voters.extend(comes.iter().cloned());
        voters.sort();
        let (parent, generation) = (now.id(), now.generation() + 1);
        VoterList { base: None, seats: 3, parent, voters, generation }
    };
    let judged = |list: VoterList| {
        let refused = ledger.check(world.wall, &Entry::NextVoters(list)).unwrap_err();
        refused.to_string()
    };
    assert!(judged(plan(1, &others[..1])).contains("who goes is well"));
    assert!(judged(plan(2, &others[..2])).contains("at most one goes"));
    assert!(judged(plan(1, &[])).contains("one voter comes"));
    let stranger = Voter { host: HostId([9; 32]), name: others[0].name.clone() };
    assert!(judged(plan(1, &[stranger])).contains("no member"));
    let late = VoterList { generation: 7, ..plan(1, &others[..1]) };
    assert!(judged(late).contains("does not follow"));
}

#[test]
fn a_term_that_cannot_be_is_taken_from_nobody() {
    let mut world = impatient(5, 3);
    let (voter, follower) = (world.other_voter(), 4);
    let follower = if world.votes(follower) { 3 } else { follower };
    let applied = world.node(follower).ledger().applied_index();
    for term in [0, TERM_MAX + 1] {
        let from = world.hosts[voter].id;
        let message = Message::HaveSnapshot { index: applied + 9, term };
        world.feed(follower, Input::Message(from, message));
        let entries = vec![crate::wire::FedEntry(term, vec![1].into())];
        let (first, leader) = (applied + 1, None);
        let message = Message::Ledger { first, entries, applied: applied + 1, leader };
        world.feed(follower, Input::Message(from, message));
    }
    assert_eq!(world.node(follower).ledger().applied_index(), applied);
    assert!(world.node(follower).incoming.is_none());
    let from = world.hosts[voter].id;
    let message = Message::HaveSnapshot { index: applied + 9, term: TERM_MAX };
    world.feed(follower, Input::Message(from, message));
    assert!(world.node(follower).incoming.is_some(), "the last one that can be");
}

#[test]
fn receipts_of_an_old_generation_count_no_more() {
    let mut world = impatient(5, 3);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    world.held_back.push(|request| matches!(request, Request::Activate { .. }));
    world.deploy(0, release, None);
    world.run_until("an executor on its way", |world| !world.held.is_empty());
    let holder = world.held[0].0;
    let old = world.held.iter().find_map(|(_, _, request)| match request {
        Request::Activate { receipts, .. } => Some(receipts.clone()),
        _ => None,
    });
    let generations = |receipts: &[Signed<Receipt>], world: &World| -> BTreeSet<u64> {
        let fleet = world.trust.fleet();
        let verified = receipts.iter().map(|receipt| receipt.verify_host(fleet).unwrap());
        verified.map(|receipt| receipt.content().generation).collect()
    };
    assert_eq!(generations(&old.unwrap(), &world), BTreeSet::from([0]));
    let may_go = |host: &usize| *host != holder && Some(*host) != world.leader();
    let gone = (0..5).find(|host| world.votes(*host) && may_go(host)).unwrap();
    world.kill(gone);
    world.run_until("a new voter", |world| world.is_settled(1));
    for (host, asked, _) in std::mem::take(&mut world.held) {
        let reason = "the receipts are too old".into();
        world.feed(host, Input::Executed(asked, Ok(Response::Refused { reason })));
    }
    world.run_until("it asks again", |world| !world.held.is_empty());
    for (_, _, request) in &world.held {
        let Request::Activate { receipts, evidence, .. } = request else { continue };
        assert_eq!(generations(receipts, &world), BTreeSet::from([1]));
        assert_eq!(evidence.voter_lists.len(), 1, "so that the executor can tell");
    }
}

impl World {
    /// Operators let the fleet go on with the ledger of `from`, and with these voters.
    fn recover(&mut self, from: usize, voters: &[usize]) -> Result<u64, NotTaken> {
        let voters: Vec<_> = voters.iter().map(|voter| self.hosts[*voter].id).collect();
        let mut list = self.node(from).ledger().recovery(&voters, Some(3)).unwrap();
        list.add_signature(self.trust.fleet(), &self.operator).unwrap();
        let id = list.id(self.trust.fleet());
        self.feed(from, Input::Recover(list));
        self.answers.remove(&id).unwrap()
    }

    fn most_disturbed_at_once(&mut self, until: impl Fn(&Self) -> bool) -> usize {
        self.most_down = 0;
        self.run_until("what is waited for", until);
        self.most_down
    }
}

#[test]
fn a_fleet_that_lost_its_majority_goes_on_by_the_word_of_operators() {
    let mut world = impatient(6, 3);
    world.group(MinimumHealthy::HostCount(0));
    let lost: Vec<_> = (0..6).filter(|host| world.votes(*host)).take(2).collect();
    for host in &lost {
        world.kill(*host);
    }
    world.run_for(60);
    assert!(world.leader().is_none(), "nobody decides anything");
    let (from, others): (usize, Vec<_>) = {
        let mut live: Vec<_> = world.live().collect();
        live.sort_by_key(|host| world.node(*host).ledger().applied_index());
        (live.pop().unwrap(), live)
    };
    world.recover(from, &[from, others[0], others[1]]).unwrap();
    world.run_until("a leader", |world| world.leader().is_some() && world.is_settled(1 << 32));
    world.deploys("1.0.0");
    // Those that were lost come back, and have no say.
    for host in lost {
        world.restart(host);
    }
    world.run_until("they hear of it", |world| world.is_settled(1 << 32));
    assert_eq!(world.live().filter(|host| world.votes(*host)).count(), 3);
    world.deploys("1.0.1");
}

/// Two voters and one host that is none see each other and deploy a release to that host; the others see
/// nothing of it.
fn deploys_out_of_sight(world: &mut World, release: Digest) -> ([usize; 2], usize, Vec<usize>) {
    world.run_until("everybody knows it", |world| {
        (0..6).all(|host| world.node(host).ledger().release(release).is_some())
    });
    let leader = world.leader().unwrap();
    let second = world.other_voter();
    let holder = (0..6).find(|host| !world.votes(*host)).unwrap();
    let side = [leader, second, holder];
    let away: Vec<_> = (0..6).filter(|host| !side.contains(host)).collect();
    // Whoever was told nothing for a while hears of the order before anybody has asked for a slot.
    world.run_for(1);
    world.deploy(leader, release, None);
    world.run_until("it is under way", |world| world.state_hashes().len() == 1);
    for host in &side {
        for other in &away {
            world.disconnect(*host, *other);
        }
    }
    ([leader, second], holder, away)
}

/// The two voters are lost, and the fleet goes on with the newest ledger of those who saw nothing.
fn goes_on_without(world: &mut World, lost: [usize; 2], holder: usize, away: &[usize]) -> usize {
    lost.into_iter().for_each(|voter| world.kill(voter));
    for other in away {
        world.connect(holder, *other);
    }
    let applied = |host: &&usize| world.node(**host).ledger().applied_index();
    let from = *away.iter().max_by_key(applied).unwrap();
    world.recover(from, away).unwrap();
    world.run_until("a leader", |world| world.leader().is_some());
    from
}

#[test]
fn a_host_that_failed_by_a_slot_which_nobody_knows_counts_as_broken() {
    let mut world = impatient(6, 3);
    world.group(MinimumHealthy::HostCount(0));
    let release = world.release("1.0.0");
    world.bad.insert(release);
    let (lost, holder, away) = deploys_out_of_sight(&mut world, release);
    world.run_until("it has failed and said so", |world| {
        let groups = &world.hosts[holder].executor.report.groups;
        groups.first().is_some_and(|group| group.closed > 0 && group.activation.is_none())
    });
    let from = goes_on_without(&mut world, lost, holder, &away);
    let id = world.hosts[holder].id;
    world.run_until("it is counted", |world| !world.node(from).ledger().is_uncounted(id));
    assert!(world.node(from).ledger().is_broken(id));
}

#[test]
fn a_slot_that_was_lost_with_its_voters_still_counts() {
    let mut world = impatient(6, 3);
    world.group(MinimumHealthy::OneAtATime);
    let release = world.release("1.0.0");
    let (lost, holder, away) = deploys_out_of_sight(&mut world, release);
    world.hosts[holder].executor.slow_by = 100;
    world
        .run_until("the holder is at work", |world| world.hosts[holder].executor.ends_at.is_some());
    let from = goes_on_without(&mut world, lost, holder, &away);
    let slot = world.node(from).ledger().slot_of(world.hosts[holder].id);
    assert!(slot.is_none(), "it knows nothing of the slot");
    let done = |world: &World| {
        away.iter().all(|host| world.hosts[*host].executor.report.groups[0].current.is_some())
    };
    // The other two count as down for good: only the quota of the group is of interest here.
    for gone in lost {
        let removal = removal(&world, gone);
        world.submit(from, removal);
    }
    let most = world.most_disturbed_at_once(done);
    assert_eq!(most, 1, "the lost slot counted until its holder said that it is over");
    assert!(world.hosts[holder].executor.ends_at.is_none());
}

#[test]
fn what_operators_did_not_sign_or_signed_for_another_ledger_recovers_nothing() {
    let mut world = impatient(5, 3);
    let from = world.leader().unwrap();
    let me = world.hosts[from].id;
    let kept = world.node(from).ledger().recovery(&[me], None).unwrap();
    assert_eq!(kept.claim().unwrap().seats, 3, "it is to grow to what it was");
    let list = world.node(from).ledger().recovery(&[me], Some(1)).unwrap();
    world.feed(from, Input::Recover(list.clone()));
    let refused = world.answers.remove(&list.id(world.trust.fleet())).unwrap().unwrap_err();
    assert!(refused.to_string().contains("signed by 0 of the 1"), "{refused}");
    let mut late = list;
    late.add_signature(world.trust.fleet(), &world.operator).unwrap();
    world.group(MinimumHealthy::OneAtATime);
    world.feed(from, Input::Recover(late.clone()));
    let refused = world.answers.remove(&late.id(world.trust.fleet())).unwrap().unwrap_err();
    assert!(refused.to_string().contains("has another one"), "{refused}");
    world.run_until("nothing has changed", |world| world.is_settled(0));
}

#[test]
fn the_host_whose_ledger_the_fleet_goes_on_with_is_a_voter() {
    let mut world = impatient(5, 3);
    let from = world.leader().unwrap();
    let others: Vec<_> = (0..5).filter(|host| *host != from).take(3).collect();
    let refused = world.recover(from, &others).unwrap_err();
    assert!(refused.to_string().contains("must be a voter"), "{refused}");
    // Else nobody could take it from there.
    world.run_until("nothing has changed", |world| world.is_settled(0));
}

#[test]
fn what_was_begun_for_a_group_that_was_lost_is_closed() {
    let mut world = impatient(4, 3);
    let ended = Phase::Ended(Outcome::Succeeded);
    let (order, release) = (Digest([1; 32]), Digest([2; 32]));
    let activation = ActivationReport { token: 1, order, release, phase: ended };
    let lost = GroupReport {
        group: GroupName::new("lost").unwrap(),
        sequence: 1,
        head: order,
        current: None,
        staged: Vec::new(),
        stopped: Vec::new(),
        released: Vec::new(),
        closed: 0,
        activation: Some(activation),
    };
    let executor = &mut world.hosts[3].executor;
    executor.report.groups.push(lost);
    executor.dirty = true;
    world.run_until("it is closed", |world| {
        world.hosts[3].executor.report.groups.iter().all(|group| group.activation.is_none())
    });
}

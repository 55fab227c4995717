//! Voters in virtual time: lost frames, crashes that lose what was not persisted, and hostile bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    ids::HostName,
    limits::{TERM_LEAP_MAX, TERM_MAX},
    trust::{SecretKey, Signer, Voter},
};

/// A draw that is the same in every run of a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Clone)]
struct Disk {
    restored: Restored,
}

impl Disk {
    /// One on which nothing is forgotten.
    fn new(boot: u64) -> Self {
        let assured = Some(Assured::knows_all(boot));
        Self { restored: Restored { assured, ..Restored::default() } }
    }
}

struct Cluster {
    voters: Voters,
    nodes: Vec<Option<Consensus>>,
    disks: Vec<Disk>,
    /// Counts the starts of each machine.
    boots: Vec<u64>,
    applied: Vec<Vec<LogEntry>>,
    /// What was ever applied by anybody.
    agreed: Vec<LogEntry>,
    wire: Vec<(u64, usize, HostId, Vec<u8>)>,
    leaders: BTreeMap<u64, usize>,
    now: u64,
    draw: Draw,
    loss_percent: u64,
}

impl Cluster {
    fn new(size: u8, seed: u64) -> Self {
        let id = |n| HostId::from(SecretKey::from_seed(&[n; 32]).public_key());
        let voters = (1..=size)
            .map(|n| Voter { host: id(n), name: HostName::new(format!("h{n}")).unwrap() })
            .collect();
        let mut cluster = Self {
            voters: Voters::first(voters),
            nodes: (0..size).map(|_| None).collect(),
            disks: (0..size).map(|_| Disk::new(1)).collect(),
            boots: vec![1; size.into()],
            applied: vec![Vec::new(); size.into()],
            agreed: Vec::new(),
            wire: Vec::new(),
            leaders: BTreeMap::new(),
            now: 0,
            draw: Draw(seed),
            loss_percent: 0,
        };
        for place in 0..cluster.nodes.len() {
            cluster.start(place);
        }
        cluster
    }

    fn start(&mut self, place: usize) {
        let me = self.voters.list()[place].host;
        let restored = self.disks[place].restored.clone();
        // What was applied before a crash is applied again.
        self.applied[place].clear();
        self.nodes[place] =
            Some(Consensus::new(me, &self.voters, restored, self.draw.0, self.boots[place]));
    }

    fn perform(&mut self, place: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Persist(write) => {
                    let disk = &mut self.disks[place].restored;
                    disk.write(write);
                    let assured = disk.assured.map_or(0, |assured| assured.term);
                    assert!(disk.hard_state.term >= assured, "it may have voted in this term");
                }
                Output::Send { to, message } => {
                    let to = self.voters.list().iter().position(|v| v.host == to).unwrap();
                    let lost = self.draw.below(100) < self.loss_percent;
                    let at = self.now + self.draw.below(3);
                    if !lost {
                        let from = self.voters.list()[place].host;
                        self.wire.push((at, to, from, message));
                    }
                }
                Output::Apply { entries } => self.applied[place].extend(entries),
                Output::Pull { from, index, .. } => {
                    let sender = self.voters.list().iter().position(|v| v.host == from).unwrap();
                    let there = self.disks[sender].restored.snapshot.clone();
                    if let Some(there) = there.filter(|there| there.index == index) {
                        let node = self.nodes[place].as_mut().unwrap();
                        let outputs = node.snapshot_came(from, index, there.state);
                        self.perform(place, outputs);
                    }
                }
                Output::Restore(_) => {}
                Output::Role { term, leading: true, .. } => {
                    let leader = *self.leaders.entry(term).or_insert(place);
                    assert_eq!(leader, place, "one leader in term {term}");
                }
                Output::Role { .. } => {}
            }
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        for place in 0..self.nodes.len() {
            if let Some(node) = &mut self.nodes[place] {
                let outputs = node.tick();
                self.perform(place, outputs);
            }
        }
        let due: Vec<_> = self.wire.extract_if(.., |(at, ..)| *at <= self.now).collect();
        for (_, to, from, message) in due {
            if let Some(node) = &mut self.nodes[to] {
                let outputs = node.hear(from, &message).unwrap();
                self.perform(to, outputs);
            }
        }
        self.check_prefixes();
    }

    fn check_prefixes(&mut self) {
        for applied in &self.applied {
            let common = applied.len().min(self.agreed.len());
            assert_eq!(applied[..common], self.agreed[..common], "the same entries everywhere");
            self.agreed.extend_from_slice(&applied[common..]);
        }
    }

    /// A machine goes off and comes back with an older disk.
    fn put_back(&mut self, place: usize, image: Disk) {
        self.nodes[place] = None;
        self.disks[place] = image;
        self.boots[place] += 1;
        self.start(place);
    }

    fn leader(&self) -> Option<usize> {
        let leads = |node: &Option<Consensus>| node.as_ref().is_some_and(Consensus::is_leading);
        let leading = (0..self.nodes.len()).filter(|place| leads(&self.nodes[*place]));
        leading.max_by_key(|place| self.nodes[*place].as_ref().map(Consensus::term))
    }

    fn propose(&mut self, data: u8) {
        if let Some(leader) = self.leader()
            && self.nodes[leader].as_mut().unwrap().propose(vec![data]).is_ok()
        {
            let outputs = self.nodes[leader].as_mut().unwrap().outputs();
            self.perform(leader, outputs);
        }
    }

    fn chaos(&mut self, ticks: u64) {
        self.loss_percent = self.draw.below(30);
        for _ in 0..ticks {
            let place = usize::try_from(self.draw.below(self.nodes.len() as u64)).unwrap();
            match self.draw.below(60) {
                0 => self.nodes[place] = None,
                1..=3 if self.nodes[place].is_none() => self.start(place),
                4..=12 => self.propose(u8::try_from(self.draw.0 % 251).unwrap()),
                _ => {}
            }
            self.tick();
        }
    }

    fn heal(&mut self) {
        self.loss_percent = 0;
        for place in 0..self.nodes.len() {
            if self.nodes[place].is_none() {
                self.start(place);
            }
        }
        let before = self.applied.iter().map(Vec::len).max().unwrap();
        for _ in 0..300 {
            self.tick();
            self.propose(7);
            if self.applied.iter().all(|applied| applied.len() > before + 3) {
                return;
            }
        }
        panic!("no progress within thirty seconds after everything was well again");
    }
}

#[test]
fn a_single_voter_elects_itself() {
    let mut cluster = Cluster::new(1, 1);
    (0..30).for_each(|_| cluster.tick());
    cluster.propose(9);
    assert_eq!(*cluster.applied[0].last().unwrap().data, [9]);
}

#[test]
fn a_leader_hands_over_without_an_election_timeout() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, seed);
        (0..60).for_each(|_| cluster.tick());
        let leader = cluster.leader().unwrap();
        let heir = (leader + 1) % 3;
        cluster.propose(1);
        let id = cluster.voters.list()[heir].host;
        let outputs = cluster.nodes[leader].as_mut().unwrap().hand_over(id);
        cluster.perform(leader, outputs);
        // Entries, the call, the votes and the first append take three ticks each at most.
        (0..15).for_each(|_| cluster.tick());
        assert_eq!(cluster.leader(), Some(heir));
        cluster.propose(2);
        (0..9).for_each(|_| cluster.tick());
        for applied in &cluster.applied {
            let said = applied.iter().filter(|entry| !entry.data.is_empty());
            let said: Vec<_> = said.map(|entry| entry.data[0]).collect();
            assert_eq!(said, [1, 2]);
        }
        // One that is gone does not take over, and the leader goes on.
        let gone = (heir + 1) % 3;
        cluster.nodes[gone] = None;
        let id = cluster.voters.list()[gone].host;
        let outputs = cluster.nodes[heir].as_mut().unwrap().hand_over(id);
        cluster.perform(heir, outputs);
        (0..30).for_each(|_| cluster.tick());
        cluster.propose(3);
        (0..9).for_each(|_| cluster.tick());
        assert_eq!(cluster.leader(), Some(heir));
        assert_eq!(*cluster.applied[heir].last().unwrap().data, [3]);
    }
}

#[test]
fn only_the_leader_calls_another_voter_to_lead() {
    let mut cluster = Cluster::new(3, 1);
    (0..60).for_each(|_| cluster.tick());
    let leader = cluster.leader().unwrap();
    let (heir, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let term = cluster.nodes[leader].as_ref().unwrap().term();
    for (from, leads) in [(other, leader), (leader, heir)] {
        let (id, to) = (from as u64 + 1, heir as u64 + 1);
        let mut call = eraftpb::Message { from: id, to, term, ..eraftpb::Message::default() };
        call.set_msg_type(MessageType::MsgTimeoutNow);
        let call = wire::encode(call, false, cluster.voters.generation());
        let from = cluster.voters.list()[from].host;
        let outputs = cluster.nodes[heir].as_mut().unwrap().hear(from, &call).unwrap();
        cluster.perform(heir, outputs);
        (0..15).for_each(|_| cluster.tick());
        assert_eq!(cluster.leader(), Some(leads));
    }
}

#[test]
fn voters_agree_through_loss_and_crashes_and_go_on_afterwards() {
    for seed in 0..60 {
        for size in [3, 5] {
            let mut cluster = Cluster::new(size, seed);
            cluster.chaos(600);
            cluster.heal();
        }
    }
}

#[test]
fn a_voter_that_was_put_back_undoes_nothing() {
    let mut forgotten = 0;
    for seed in 0..100 {
        for size in [3, 5] {
            let mut cluster = Cluster::new(size, seed);
            for _ in 0..4 {
                let image = cluster.disks[0].clone();
                cluster.chaos(120);
                let entries = |disk: &Disk| disk.restored.entries.len();
                forgotten += usize::from(entries(&image) < entries(&cluster.disks[0]));
                cluster.put_back(0, image);
                cluster.chaos(120);
            }
            cluster.heal();
        }
    }
    assert!(forgotten > 100, "{forgotten} disks lacked something");
}

#[test]
fn a_machine_that_was_started_votes_when_enough_others_have_answered() {
    let mut cluster = Cluster::new(5, 4);
    (0..40).for_each(|_| cluster.tick());
    let image = cluster.disks[0].clone();
    for gone in [1, 2] {
        cluster.nodes[gone] = None;
    }
    cluster.put_back(0, image);
    (0..100).for_each(|_| cluster.tick());
    let doubt = |cluster: &Cluster| cluster.nodes[0].as_ref().unwrap().in_doubt();
    let (heard, needed) = doubt(&cluster).unwrap();
    assert_eq!((heard.len(), needed), (2, 3));
    assert_eq!(cluster.nodes[0].as_ref().unwrap().restored_to(), u64::MAX, "it knows nothing");
    cluster.start(1);
    (0..100).for_each(|_| cluster.tick());
    assert_eq!(doubt(&cluster), None);
    assert!(cluster.nodes[0].as_ref().unwrap().restored_to() < 1000, "it has caught up");
    // While the machine runs its daemon may be started as often as it likes.
    cluster.nodes[0] = None;
    cluster.start(0);
    assert_eq!(doubt(&cluster), None);
}

#[test]
fn whoever_vouches_for_the_last_start_vouches_for_none_before_it() {
    let mut cluster = Cluster::new(3, 4);
    (0..40).for_each(|_| cluster.tick());
    let image = cluster.disks[0].clone();
    for data in 0..20 {
        cluster.propose(data);
        cluster.tick();
    }
    cluster.put_back(0, image);
    let lacks = |cluster: &Cluster| cluster.nodes[0].as_ref().unwrap().lacks();
    while lacks(&cluster).is_none() {
        cluster.tick();
    }
    // It has heard what it has forgotten, and not got it yet. Now the machine is started once more.
    let lacked = lacks(&cluster);
    let intact = cluster.disks[0].clone();
    cluster.put_back(0, intact);
    let trust = |cluster: &mut Cluster| {
        let outputs = cluster.nodes[0].as_mut().unwrap().trust_disk();
        cluster.perform(0, outputs);
    };
    trust(&mut cluster);
    assert_eq!(cluster.nodes[0].as_ref().unwrap().in_doubt(), None);
    assert_eq!(lacks(&cluster), lacked);
    trust(&mut cluster);
    assert_eq!(lacks(&cluster), None, "somebody says that nobody has that log any more");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut cluster = Cluster::new(5, seed);
        cluster.chaos(400);
        (cluster.applied, cluster.leaders)
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

#[test]
fn a_snapshot_brings_a_voter_up_to_date() {
    let mut cluster = Cluster::new(3, 5);
    (0..40).for_each(|_| cluster.tick());
    let leader = cluster.leader().unwrap();
    let late = (leader + 1) % 3;
    cluster.nodes[late] = None;
    for data in 0..20 {
        cluster.propose(data);
        cluster.tick();
    }
    (0..5).for_each(|_| cluster.tick());
    let index = cluster.applied[leader].last().unwrap().index;
    let node = cluster.nodes[leader].as_mut().unwrap();
    let (snapshot, outputs) = node.compact(index, b"state".to_vec().into());
    cluster.perform(leader, outputs);
    cluster.start(late);
    for _ in 0..60 {
        cluster.now += 1;
        for place in 0..3 {
            if let Some(node) = &mut cluster.nodes[place] {
                let outputs = node.tick();
                cluster.perform(place, outputs);
            }
        }
        for (_, to, from, message) in std::mem::take(&mut cluster.wire) {
            let outputs = cluster.nodes[to].as_mut().unwrap().hear(from, &message).unwrap();
            cluster.perform(to, outputs);
        }
    }
    assert_eq!(cluster.disks[late].restored.snapshot, Some(snapshot));
}

#[test]
fn a_stranger_has_no_voice() {
    let mut cluster = Cluster::new(3, 1);
    let stranger = HostId::from(SecretKey::from_seed(&[99; 32]).public_key());
    let node = cluster.nodes[0].as_mut().unwrap();
    assert_eq!(node.hear(stranger, b"").unwrap_err(), WireError::NotAVoter);
}

fn warm() -> Cluster {
    let mut cluster = Cluster::new(3, 3);
    (0..40).for_each(|_| cluster.tick());
    for data in 0..5 {
        cluster.propose(data);
        cluster.tick();
    }
    cluster
}

/// What is to be sent, by the place of the voter that it goes to.
fn sends(cluster: &Cluster, outputs: &[Output]) -> BTreeMap<usize, Vec<Vec<u8>>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for output in outputs {
        if let Output::Send { to, message } = output {
            let place = cluster.voters.list().iter().position(|voter| voter.host == *to).unwrap();
            all.entry(place).or_default().push(message.clone());
        }
    }
    all
}

/// A leader of five that has just proposed ten entries, its place, and the frame for each of the others.
fn ten_proposed() -> (Cluster, usize, BTreeMap<usize, Vec<u8>>) {
    let mut cluster = Cluster::new(5, 3);
    (0..40).for_each(|_| cluster.tick());
    cluster.wire.clear();
    let leader = cluster.leader().unwrap();
    let node = cluster.nodes[leader].as_mut().unwrap();
    (0..10).for_each(|data| node.propose(vec![data]).unwrap());
    let outputs = node.outputs();
    let sent = sends(&cluster, &outputs);
    assert!(sent.values().all(|frames| frames.len() == 1), "one frame for each of the others");
    assert_eq!(sent.len(), 4);
    let sent = sent.into_iter().map(|(place, frames)| (place, frames[0].clone())).collect();
    cluster.perform(leader, outputs);
    cluster.wire.clear();
    (cluster, leader, sent)
}

impl Cluster {
    /// A voter takes in a frame and carries out all but what is to be sent, which is returned.
    fn take(&mut self, place: usize, from: usize, frame: &[u8]) -> BTreeMap<usize, Vec<Vec<u8>>> {
        let from = self.voters.list()[from].host;
        let outputs = self.nodes[place].as_mut().unwrap().hear(from, frame).unwrap();
        let sent = sends(self, &outputs);
        self.perform_without_wire(place, outputs);
        sent
    }

    /// How far the leader knows a voter to be.
    fn acknowledged(&self, leader: usize, place: usize) -> u64 {
        let raft = &self.nodes[leader].as_ref().unwrap().node.raft;
        raft.prs().get(place as u64 + 1).unwrap().matched
    }

    fn last(&self, place: usize) -> u64 {
        self.nodes[place].as_ref().unwrap().end().index
    }
}

#[test]
fn what_is_proposed_together_takes_one_frame_one_answer_and_one_notice() {
    let (mut cluster, leader, sent) = ten_proposed();
    let mut notices = BTreeMap::new();
    for (place, frame) in &sent {
        let answers = cluster.take(*place, leader, frame);
        assert_eq!(answers.keys().collect::<Vec<_>>(), [&leader]);
        assert_eq!(answers[&leader].len(), 1);
        notices.extend(cluster.take(leader, *place, &answers[&leader][0]));
    }
    assert_eq!(notices.len(), 4);
    for (place, frames) in &notices {
        assert_eq!(frames.len(), 1);
        assert!(cluster.take(*place, leader, &frames[0]).is_empty(), "nobody waits for an answer");
        assert!(cluster.applied[*place].len() > 10);
        assert_eq!(cluster.applied[*place], cluster.applied[leader]);
    }
}

#[test]
fn entries_go_off_before_they_are_written_and_are_applied_before_others_hear_so() {
    let (mut cluster, leader, sent) = ten_proposed();
    let is_sent = |output: &Output| matches!(output, Output::Send { .. });
    let node = cluster.nodes[leader].as_mut().unwrap();
    node.propose(vec![11]).unwrap();
    let outputs = node.outputs();
    let writes = outputs.iter().position(|output| matches!(output, Output::Persist(_))).unwrap();
    assert!(outputs[..writes].iter().all(is_sent) && writes == 4);
    let mut told = Vec::new();
    for (place, frame) in sent.iter().take(2) {
        let answers = cluster.take(*place, leader, frame);
        let from = cluster.voters.list()[*place].host;
        told = cluster.nodes[leader].as_mut().unwrap().hear(from, &answers[&leader][0]).unwrap();
    }
    assert!(matches!(&told[0], Output::Apply { entries } if entries.len() == 10));
    assert!(told[1..].iter().all(is_sent) && told.len() == 5);
}

#[test]
fn what_comes_together_is_answered_together() {
    let (mut cluster, leader, sent) = ten_proposed();
    let from = cluster.voters.list()[leader].host;
    let node = cluster.nodes[leader].as_mut().unwrap();
    node.propose(vec![11]).unwrap();
    let outputs = node.outputs();
    let more = sends(&cluster, &outputs);
    for (place, frame) in &sent {
        let node = cluster.nodes[*place].as_mut().unwrap();
        for frame in [frame, &more[place][0]] {
            assert_eq!(node.receive(from, frame).unwrap().map(|now| now.len()), Some(0));
        }
        // What it knows is what it has written down.
        let ask = wire::encode_word(Word::Ask { boot: 1, term: 1 }, 0);
        assert!(node.receive(from, &ask).unwrap().is_none());
        let outputs = node.outputs();
        let writes = outputs.iter().filter(|output| matches!(output, Output::Persist(_)));
        assert_eq!(writes.count(), 1);
        let answers = sends(&cluster, &outputs);
        assert_eq!(answers[&leader].len(), 1);
        cluster.take(leader, *place, &answers[&leader][0]);
        assert_eq!(cluster.acknowledged(leader, *place), cluster.last(leader));
        let node = cluster.nodes[*place].as_mut().unwrap();
        assert!(node.receive(from, &ask).unwrap().is_some());
    }
}

#[test]
fn what_is_committed_is_not_overwritten_though_it_is_not_written_yet() {
    let mut cluster = warm();
    let (term, last) = (cluster.nodes[0].as_ref().unwrap().term(), cluster.last(0));
    let append = |term, entries| {
        wire::hostile(TO_THE_FIRST, 0, term, 1, last, last + 1, entries, false, 0, 0, None)
    };
    let from = cluster.voters.list()[1].host;
    let node = cluster.nodes[0].as_mut().unwrap();
    let log_term = node.end().term;
    assert_eq!(log_term, 1);
    assert!(node.receive(from, &append(term + 1, vec![(last + 1, term + 1)])).is_ok());
    assert_eq!(node.committed(), last + 1);
    let other = append(term + 2, vec![(last + 1, term + 2)]);
    let refused = node.receive(from, &other).unwrap_err();
    assert_eq!(refused, WireError::Impossible("overwrites what is committed"));
    // What is gone because it is applied may come once more.
    node.outputs();
    node.compact(last + 1, Bytes::new());
    let again = append(term + 2, vec![(last + 1, term + 1), (last + 2, term + 2)]);
    assert!(node.receive(from, &again).is_ok());
}

#[test]
fn who_lacks_what_is_told_to_be_committed_says_so() {
    let (mut cluster, leader, sent) = ten_proposed();
    let late = *sent.keys().last().unwrap();
    let mut notices = BTreeMap::new();
    for (place, frame) in sent.iter().filter(|(place, _)| **place != late) {
        let answers = cluster.take(*place, leader, frame);
        notices.extend(cluster.take(leader, *place, &answers[&leader][0]));
    }
    // Its frame is lost.
    let answers = cluster.take(late, leader, &notices[&late][0]);
    let again = cluster.take(leader, late, &answers[&leader][0]);
    let answers = cluster.take(late, leader, &again[&late][0]);
    cluster.take(leader, late, &answers[&leader][0]);
    assert_eq!(cluster.acknowledged(leader, late), cluster.last(leader));
}

#[test]
fn an_answer_that_was_lost_is_given_again_after_a_sign_of_life() {
    let (mut cluster, leader, sent) = ten_proposed();
    for (place, frame) in &sent {
        // Of all of them.
        cluster.take(*place, leader, frame);
        assert!(cluster.acknowledged(leader, *place) < cluster.last(leader));
    }
    (0..10).for_each(|_| cluster.tick());
    for place in sent.keys() {
        assert_eq!(cluster.acknowledged(leader, *place), cluster.last(leader));
    }
}

#[test]
fn whoever_leads_no_more_is_told_so_whatever_it_tells() {
    let mut cluster = warm();
    let (term, last) = (cluster.nodes[0].as_ref().unwrap().term(), cluster.last(0));
    let committed =
        |term| wire::hostile(TO_THE_FIRST, 9, term, term, last, last, vec![], false, 0, 0, None);
    let old = committed(term);
    for node in &mut cluster.nodes {
        node.as_mut().unwrap().node.raft.become_follower(term + 1, 0);
    }
    let answers = cluster.take(0, 1, &old);
    assert_eq!(answers[&1].len(), 1);
}

#[test]
fn appends_are_put_together_up_to_what_a_message_may_have() {
    let append = |index, entries: u64, bytes| {
        let entry = |place| eraftpb::Entry {
            index: index + place,
            term: 2,
            data: vec![7; bytes].into(),
            ..Default::default()
        };
        let mut message =
            eraftpb::Message { to: 2, term: 2, log_term: 2, index, ..Default::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.set_entries((1..=entries).map(entry).collect::<Vec<_>>().into());
        message
    };
    let lengths = |messages: Vec<eraftpb::Message>| -> Vec<_> {
        joined(messages).iter().map(|message| (message.index, message.entries.len())).collect()
    };
    let half = MESSAGE_BYTES_MAX / 4 - ENTRY_OVERHEAD_BYTES;
    assert_eq!(lengths(vec![append(5, 1, half), append(6, 1, half)]), [(5, 2)]);
    assert_eq!(lengths(vec![append(5, 1, half), append(6, 1, half + 1)]), [(5, 1), (6, 1)]);
    // Not with a gap between them, nor to another voter.
    assert_eq!(lengths(vec![append(5, 1, 1), append(7, 1, 1)]), [(5, 1), (7, 1)]);
    let other = eraftpb::Message { to: 3, ..append(6, 1, 1) };
    assert_eq!(lengths(vec![append(5, 1, 1), other]), [(5, 1), (6, 1)]);
    let newer = eraftpb::Message { log_term: 1, ..append(6, 1, 1) };
    assert_eq!(lengths(vec![append(5, 1, 1), newer]), [(5, 1), (6, 1)]);
}

#[test]
fn a_voter_that_leaps_to_later_terms_makes_none_that_followers_refuse() {
    let mut cluster = warm();
    let from = cluster.voters.list()[1].host;
    let node = cluster.nodes[0].as_mut().unwrap();
    let heartbeat = |term| wire::hostile(TO_THE_FIRST, 5, term, 0, 0, 0, vec![], false, 0, 0, None);
    let too_far = heartbeat(node.term() + TERM_LEAP_MAX + 1);
    assert!(matches!(node.receive(from, &too_far), Err(WireError::Impossible(_))));
    for _ in 0..1000 {
        let leap = node.term() + TERM_LEAP_MAX;
        node.hear(from, &heartbeat(leap)).unwrap();
        assert_eq!(node.term(), leap);
    }
    assert!(node.term() < TERM_MAX / 1000, "{}", node.term());
}

#[test]
fn what_was_said_to_another_or_by_another_is_not_heard() {
    let mut cluster = warm();
    let term = cluster.nodes[0].as_ref().unwrap().term();
    let last = cluster.last(0);
    let heartbeat = wire::hostile(TO_THE_FIRST, 5, term + 1, 0, 0, last, vec![], false, 0, 0, None);
    let other = WireError::Impossible("said by another voter, or to another");
    for (place, from) in [(2, 1), (0, 2)] {
        let from = cluster.voters.list()[from].host;
        let node = cluster.nodes[place].as_mut().unwrap();
        assert_eq!(node.receive(from, &heartbeat).unwrap_err(), other);
        assert_eq!(node.term(), term);
    }
    let from = cluster.voters.list()[1].host;
    let node = cluster.nodes[0].as_mut().unwrap();
    node.receive(from, &heartbeat).unwrap();
    assert_eq!(node.term(), term + 1);
}

#[test]
fn what_no_correct_voter_says_of_its_log_holds_nobody_back() {
    let mut cluster = warm();
    let image = cluster.disks[0].clone();
    cluster.put_back(0, image);
    let boot = cluster.boots[0];
    let from = cluster.voters.list()[1].host;
    let node = cluster.nodes[0].as_mut().unwrap();
    let term = node.term();
    let know = |term, end, index| {
        let end = LogEnd { term: end, index };
        wire::encode_word(Word::Know { boot, term, end, ends: false }, 0)
    };
    let lies = [know(term + TERM_LEAP_MAX, 1, 1), know(term, term + 1, 1), know(term, 1, u64::MAX)];
    for lie in lies {
        assert!(matches!(node.hear(from, &lie), Err(WireError::Impossible(_))));
    }
    let stale = Word::Know { boot: boot - 1, term, end: LogEnd::default(), ends: false };
    assert!(node.hear(from, &wire::encode_word(stale, 0)).unwrap().is_empty());
    assert_eq!(node.in_doubt(), Some((vec![], 2)), "nobody has answered");
    node.hear(from, &know(term, 1, 1)).unwrap();
    assert_eq!(node.in_doubt(), Some((vec![from], 2)));
}

#[test]
fn nothing_is_committed_after_an_entry_that_does_not_exist() {
    let mut cluster = warm();
    let from = cluster.voters.list()[1].host;
    let node = cluster.nodes[0].as_mut().unwrap();
    let (term, next) = (node.term() + 1, node.end().index + 1);
    for append_or_committed in [0, 9] {
        let told = |after, log_term| {
            let (kind, none) = (append_or_committed, vec![]);
            wire::hostile(TO_THE_FIRST, kind, term, log_term, after, after, none, false, 0, 0, None)
        };
        let refused = node.hear(from, &told(next, 0)).unwrap_err();
        assert_eq!(refused, WireError::Impossible("after no entry"));
        // A gap is told of by its term, and asked about.
        node.hear(from, &told(next, term)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_words_of_a_voter_cause_a_panic(
        asks in any::<bool>(),
        own in any::<bool>(),
        term in prop_oneof![0u64..6, any::<u64>()],
        end in prop_oneof![0u64..6, any::<u64>()],
        index in prop_oneof![0u64..12, any::<u64>()],
        ends in any::<bool>(),
    ) {
        let mut cluster = warm();
        let image = cluster.disks[0].clone();
        cluster.put_back(0, image);
        let boot = cluster.boots[0] + u64::from(!own);
        let word = match asks {
            true => Word::Ask { boot, term },
            false => Word::Know { boot, term, end: LogEnd { term: end, index }, ends },
        };
        for (to, from) in [(0, 1), (0, 2), (0, 1), (0, 2), (1, 0)] {
            let from = cluster.voters.list()[from].host;
            let node = cluster.nodes[to].as_mut().unwrap();
            if let Ok(outputs) = node.hear(from, &wire::encode_word(word, 0)) {
                cluster.perform_without_wire(to, outputs);
            }
        }
        for _ in 0..30 {
            let outputs = cluster.nodes[0].as_mut().unwrap().tick();
            cluster.perform_without_wire(0, outputs);
        }
    }

    #[test]
    fn no_bytes_of_a_voter_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut cluster = warm();
        let from = cluster.voters.list()[1].host;
        drop(cluster.nodes[0].as_mut().unwrap().hear(from, &bytes));
    }

    #[test]
    fn no_numbers_of_a_voter_cause_a_panic(
        kind in 0usize..12,
        term in prop_oneof![0u64..6, any::<u64>()],
        log_term in prop_oneof![0u64..6, any::<u64>()],
        index in prop_oneof![0u64..12, any::<u64>()],
        commit in prop_oneof![0u64..12, any::<u64>()],
        entry_terms in proptest::collection::vec(0u64..6, 0..4),
        first in prop_oneof![0u64..12, any::<u64>()],
        reject in any::<bool>(),
        hint in prop_oneof![0u64..12, any::<u64>()],
        requested in prop_oneof![0u64..12, any::<u64>()],
        snapshot in proptest::option::of((prop_oneof![0u64..20, any::<u64>()], 0u64..6)),
        to in 0usize..3,
    ) {
        let mut cluster = warm();
        let entries = entry_terms.into_iter().enumerate()
            .map(|(n, term)| (first.saturating_add(n as u64), term)).collect();
        let way = ((to as u64 + 1) % 3 + 1, to as u64 + 1);
        let frame = wire::hostile(way, kind, term, log_term, index, commit, entries, reject, hint, requested, snapshot);
        let from = cluster.voters.list()[(to + 1) % 3].host;
        let node = cluster.nodes[to].as_mut().unwrap();
        if let Ok(outputs) = node.hear(from, &frame)
            && let Some(Output::Pull { from, index, .. }) = outputs.first()
        {
            drop(node.snapshot_came(*from, *index, Bytes::new()));
        }
        for _ in 0..30 {
            let Some(node) = &mut cluster.nodes[to] else { break };
            let outputs = node.tick();
            cluster.perform_without_wire(to, outputs);
        }
    }
}

impl Consensus {
    /// Takes in a frame and says at once what is to be done.
    fn hear(&mut self, from: HostId, bytes: &[u8]) -> Result<Vec<Output>, WireError> {
        let mut all = Vec::new();
        loop {
            let heard = self.receive(from, bytes)?;
            let is_heard = heard.is_some();
            all.extend(heard.into_iter().flatten());
            all.extend(self.outputs());
            if is_heard {
                return Ok(all);
            }
        }
    }
}

impl Cluster {
    /// Carries out what does not concern others.
    fn perform_without_wire(&mut self, place: usize, outputs: Vec<Output>) {
        let silent = outputs
            .into_iter()
            .filter(|output| !matches!(output, Output::Send { .. } | Output::Role { .. }));
        let silent = silent.collect();
        self.perform(place, silent);
    }
}

/// From the second voter to the first, as frames name them.
const TO_THE_FIRST: (u64, u64) = (2, 1);

//! This host and the voters: which generation is in force, what it signs, when it is one of them.

use std::collections::BTreeSet;

use super::{Node, NotTaken, Output};
use crate::{
    consensus::{Assured, Consensus, Restored, Write},
    execute::Report,
    ids::{GroupName, HostId},
    limits::{GROUPS_PER_HOST_MAX, VOTER_CHANGES_FEW, VOTER_LISTS_PER_MESSAGE_MAX},
    rollout::{Entry, Refusal},
    sabotage::{Defect, planted},
    trust::{Counted, Electorate, Signed, VoterList, Voters},
    wire::Message,
};

impl Node {
    /// All lists of voters that are known here. The newest may be newer than the ledger.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    pub(super) fn voters(&self) -> Vec<HostId> {
        self.electorate.newest().hosts().collect()
    }

    pub(super) fn is_voter(&self, host: HostId) -> bool {
        self.electorate.newest().is_voter(host)
    }

    /// Whose word of the ledger is taken. Where the newest voters begin may be known to none of them, and
    /// only to who agreed on them: until this host has come to it, those count as well.
    pub(super) fn feeders(&self) -> Vec<HostId> {
        let mut feeders = self.voters();
        feeders.extend(self.former_feeders().into_iter().flat_map(Voters::hosts));
        feeders.sort_unstable();
        feeders.dedup();
        feeders
    }

    pub(super) fn is_fed_by(&self, host: HostId) -> bool {
        self.is_voter(host) || self.former_feeders().is_some_and(|former| former.is_voter(host))
    }

    fn former_feeders(&self) -> Option<&Voters> {
        self.electorate.former().filter(|_| self.is_left_behind())
    }

    /// True if others may take the ledger from this host.
    pub(super) fn feeds(&self) -> bool {
        let voted = self.electorate.former().is_some_and(|former| former.is_voter(self.me));
        self.consensus.is_some() || voted
    }

    /// The generation that the ledger has come to.
    pub(super) fn generation(&self) -> u64 {
        self.ledger.electorate().newest().generation()
    }

    /// True if the voters have gone on without this one.
    pub(super) fn is_left_behind(&self) -> bool {
        self.electorate.newest().generation() > self.generation()
    }

    /// True if this host takes the ledger from voters, instead of having it as one of them.
    pub(super) fn follows(&self) -> bool {
        let is_behind = self.is_left_behind() && !planted(Defect::LeftBehindForEver);
        self.consensus.is_none() || is_behind
    }

    /// Begins the generation that the ledger has just come to: every host with the same snapshot, and
    /// its voters with nothing else. All that belongs to the old one is over, and what came in it after
    /// that entry was never agreed on.
    pub(super) fn begin_generation(&mut self) {
        let led = self.leadership.leading;
        let restored = Restored::called(self.ledger.applied_index(), self.ledger.snapshot());
        self.take_up(restored, led);
        self.tell_generation();
    }

    /// A generation has begun here.
    pub(super) fn tell_generation(&mut self) {
        // A voter that was removed is known until others vote.
        self.is_roster_stale = true;
        self.out.push(Output::Roster);
        let voters = self.ledger.electorate().newest();
        let (count, generation) = (voters.list().len(), voters.generation());
        let part = if self.consensus.is_some() { "this host among them" } else { "this host not" };
        let note = format!("voters: generation {generation} begins, {count} hosts, {part}");
        self.out.push(Output::Note(note));
        let left = self.ledger.voter_changes_left();
        if left <= VOTER_CHANGES_FEW {
            let note = format!(
                "voters: they can change by themselves {left} times more: keep hosts that come and go from \
                 voting, by the label voter=never (see `swell voters`)"
            );
            self.out.push(Output::Note(note));
        }
    }

    /// Goes on from a snapshot of another generation, or of the same on a host that follows.
    pub(super) fn take_up(&mut self, mut restored: Restored, led: bool) {
        // What the last log had to have does not matter to this one.
        let holds = self.assured.filter(|assured| !assured.ends);
        self.assured = holds.map(|assured| Assured::knows_all(assured.boot));
        restored.assured = Some(self.assured.unwrap_or_default());
        let Restored { hard_state, snapshot, assured, .. } = restored.clone();
        self.feed.begin_anew(snapshot.clone());
        let anew = !planted(Defect::OldTailKept);
        let hard_state = Some(hard_state);
        let write = Write { hard_state, snapshot, anew, assured, ..Write::default() };
        self.out.push(Output::Persist(write));
        let voters = self.ledger.electorate().newest();
        self.leadership.leading = false;
        self.feed.heard_leader = None;
        self.incoming = None;
        self.outgoing.clear();
        self.consensus = voters.is_voter(self.me).then(|| {
            let mut consensus = Consensus::new(self.me, voters, restored, self.seed, self.boot);
            if led {
                consensus.stand_soon();
            }
            consensus
        });
        if self.consensus.is_none() {
            // Nobody believes what a host says that does not vote.
            self.feed.followers.clear();
        }
        self.tell_doubt();
        let lists = self.ledger.electorate().clone();
        self.learn_electorate(lists);
    }

    /// Which other voters have told this one what it may have promised before its machine was started,
    /// and how many have to; none where nothing is in doubt.
    pub fn in_doubt(&self) -> Option<(Vec<HostId>, usize)> {
        self.consensus.as_ref()?.in_doubt()
    }

    /// The last entry of a log that this voter was told of after its machine was started, and does not
    /// have: it votes only for who has as much. None where it has it.
    pub fn lacks(&self) -> Option<u64> {
        self.consensus.as_ref()?.lacks()
    }

    /// Says that this voter waits for others.
    pub(super) fn tell_doubt(&mut self) {
        let Some((_, needed)) = self.in_doubt() else { return };
        let note = format!(
            "voters: this machine was started anew, and its disk may have been put back: this host votes \
             when {needed} other voters have answered"
        );
        self.out.push(Output::Note(note));
    }

    /// What others have answered, or somebody who knows has said, is written down and holds.
    pub(super) fn is_assured(&mut self, assured: Assured) {
        self.assured = Some(assured);
        self.out.push(Output::Note("voters: this host votes again".into()));
    }

    /// Somebody on this host vouches for its disk.
    pub(super) fn trust_disk(&mut self) {
        if let Some(consensus) = self.consensus.as_mut().filter(|own| own.is_held_back()) {
            let outputs = consensus.trust_disk();
            self.consensus_outputs(outputs);
        }
    }

    /// Takes over lists of voters that were verified, if they are newer, and tells those around.
    pub(super) fn learn_electorate(&mut self, electorate: Electorate) {
        if electorate.newest().generation() <= self.electorate.newest().generation() {
            return;
        }
        self.electorate = electorate;
        // What voters of the last generation vouched for is not worth waiting for.
        self.rollouts.forget_claim();
        if !self.cert_is_whole {
            self.admissions.clear();
        }
        self.out.push(Output::Roster);
        let known = Message::VotersKnown(self.electorate.newest().generation());
        for peer in self.links.up().collect::<Vec<_>>() {
            self.send(peer, known.clone());
        }
    }

    /// Tells a new peer how new the voters are that this host knows, the first ones as well: where a host was
    /// started again before its peer saw the old link go, this is the only greeting.
    pub(super) fn greet_with_voters(&mut self, peer: HostId) {
        self.send(peer, Message::VotersKnown(self.electorate.newest().generation()));
    }

    /// A peer says how new the voters are that it knows.
    pub(super) fn peer_knows_voters(&mut self, from: HostId, generation: u64) {
        let own = self.electorate.newest().generation();
        if generation > own {
            self.send(from, Message::VotersKnown(own));
        } else if generation < own {
            let lists = self.electorate.after(generation);
            let some = lists.iter().take(VOTER_LISTS_PER_MESSAGE_MAX).cloned().collect();
            self.send(from, Message::VoterLists(some));
        }
    }

    /// A peer hands on lists of voters. Each vouches for the next, whoever brings them.
    pub(super) fn voter_lists(&mut self, from: HostId, lists: &[Signed<VoterList>]) {
        let mut electorate = self.electorate.clone();
        if !electorate.extend_by(&self.trust, lists) {
            return;
        }
        self.learn_electorate(electorate);
        // There may be more of them than fit.
        let own = self.electorate.newest().generation();
        if lists.len() == VOTER_LISTS_PER_MESSAGE_MAX {
            self.send(from, Message::VotersKnown(own));
        }
        self.ask_ledger_of_all();
    }

    /// A voter signs the list that is planned, until the ledger shows it.
    pub(super) fn tend_vouching(&mut self) {
        if self.consensus.is_none() || self.is_catching_up() || self.now < self.next_vouch_at {
            return;
        }
        let Some(planned) = self.ledger.next_voters() else { return };
        let electorate = self.ledger.electorate();
        let own = self.me.key();
        let vouched = electorate.vouched(&self.trust, planned);
        if vouched.is_ok_and(|vouched| vouched.signers().contains(&own)) {
            return;
        }
        self.next_vouch_at = self.now + SAY_AGAIN_AFTER;
        let mut vouch = planned.without_signatures();
        // A key in memory always signs.
        if vouch.add_signature(self.trust.fleet(), &self.key).is_ok() {
            self.submit(Entry::Vouch(vouch), false);
        }
    }

    /// Operators say that the fleet goes on with the ledger of this host.
    pub(super) fn recover(&mut self, list: &Signed<VoterList>) {
        let id = list.id(self.trust.fleet());
        // The others are to take the ledger from here.
        let votes = |list: VoterList| list.voters.iter().any(|voter| voter.host == self.me);
        let outcome = match list.claim().is_ok_and(votes) {
            true => self.ledger.recover(list).map(|()| self.ledger.applied_index()),
            false => Err(Refusal::VoterChange("the host whose ledger it is must be a voter")),
        };
        if outcome.is_ok() {
            self.out.push(Output::Roster);
            self.begin_generation();
        }
        let outcome = outcome.map_err(|refusal| NotTaken::Refused(refusal.to_string()));
        self.out.push(Output::Submitted(id, outcome));
    }

    /// After voters were lost: says that no slot is held here which was lost with them. First the
    /// executor must know the new voters, so that it begins nothing by receipts of the old ones; what it
    /// has begun already it ends. Where that has left the host without a working revision is said too.
    pub(super) fn tend_counting(&mut self) {
        let is_asked = self.ledger.is_uncounted(self.me) && !self.is_left_behind();
        if !is_asked || self.is_catching_up() || self.now < self.next_count_at {
            return;
        }
        let Some(report) = self.rollouts.executor() else { return };
        self.next_count_at = self.now + SAY_AGAIN_AFTER;
        let generation = self.generation();
        if report.generation < generation && !planted(Defect::CountedTooSoon) {
            let lists = self.electorate.after(report.generation).iter();
            let lists = lists.take(VOTER_LISTS_PER_MESSAGE_MAX).cloned().collect();
            self.out.push(Output::TellVoters(lists));
            return;
        }
        let held = self.ledger.slot_of(self.me).map(|slot| slot.token);
        let mut begun = report.groups.iter().filter_map(|group| group.activation.as_ref());
        if begun.any(|activation| Some(activation.token) != held) {
            return;
        }
        let broken = Self::groups_without_a_revision(report);
        let runs = report.groups.iter().filter_map(|group| {
            let (release, _) = group.current.as_ref()?;
            let is_own = self.ledger.is_in(self.me, &group.group);
            is_own.then(|| (group.group.clone(), *release))
        });
        let runs = runs.take(GROUPS_PER_HOST_MAX).collect();
        if let Some(counted) = self.sign(&Counted { host: self.me, runs, broken, generation }) {
            self.submit(Entry::Counted(counted), false);
        }
    }

    /// Groups in which this host has used a slot and runs nothing: the word of it may be lost with the voters.
    fn groups_without_a_revision(report: &Report) -> BTreeSet<GroupName> {
        let used = report.groups.iter().filter(|group| group.closed > 0);
        let broken = used.filter(|group| group.current.is_none() && group.activation.is_none());
        broken.map(|group| group.group.clone()).take(GROUPS_PER_HOST_MAX).collect()
    }

    /// Until when this voter gives no receipts: from the plan of a new list on, it is none of the old.
    pub(super) fn vouches_no_more(&self) -> bool {
        let ends = self.ledger.next_voters().is_some() && !planted(Defect::VouchesAfterPlan);
        ends || self.is_left_behind()
    }
}

const SAY_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

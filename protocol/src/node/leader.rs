//! What the leader proposes of its own accord: slots that may be granted, hosts' health, who votes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Node, Output};
use crate::{
    consensus::{Consensus, Prospect, Seat, VoterPolicy, next_list},
    fleet::{Record, Standing, Version},
    ids::{HostId, ZoneName},
    limits::{ACCUSE_AFTER, HEARTBEAT_EVERY, RELEASE_HOLD_OFF, VERDICT_AFTER},
    rollout::{Entry, HostView, Passed},
    sabotage::{Defect, planted},
    time::Mono,
    trust::{Voter, Voters},
};

/// This host's time as leader.
pub(super) struct Leadership {
    pub(super) leading: bool,
    policy: VoterPolicy,
    /// Since when each member has been one, as far as this leader has seen.
    member_since: BTreeMap<HostId, Mono>,
    /// The index of the ledger at which grants were last looked for.
    granted_at: u64,
    /// Since when each host that looks well has done so, without having been started anew.
    well_since: BTreeMap<HostId, (Mono, u64)>,
    /// Since when each host that looks ill has done so.
    ill_since: BTreeMap<HostId, Mono>,
    /// Since when each voter may not vote, by its labels.
    unfit_since: BTreeMap<HostId, Mono>,
    /// When voters were last replaced, and when in each zone.
    replaced_at: Option<Mono>,
    replaced_in: BTreeMap<Option<ZoneName>, Mono>,
    /// How often another voter was asked to lead instead, and when that may be so again.
    handed_over: usize,
    hands_over_at: Mono,
    /// Since when the ledger waits for each time to pass, as this voter has seen.
    waiting_since: BTreeMap<Passed, Mono>,
}

impl Leadership {
    pub(super) fn new(policy: VoterPolicy) -> Self {
        Self {
            leading: false,
            policy,
            member_since: BTreeMap::new(),
            granted_at: 0,
            well_since: BTreeMap::new(),
            ill_since: BTreeMap::new(),
            unfit_since: BTreeMap::new(),
            replaced_at: None,
            replaced_in: BTreeMap::new(),
            handed_over: 0,
            hands_over_at: Mono::default(),
            waiting_since: BTreeMap::new(),
        }
    }

    /// What was seen of hosts, and of bakes and deadlines, counts on; what waits for entries or hold-offs
    /// begins anew.
    fn begin(&mut self) {
        self.granted_at = 0;
        // A majority that does not know of an order vouches for what it ends: a hold-off counts from when this
        // host leads, since a majority follows it.
        self.waiting_since.retain(|passed, _| silent_in(passed).is_none());
    }
}

impl Node {
    pub(super) fn is_leading(&self) -> bool {
        self.leadership.leading
    }

    pub(super) fn role_changed(&mut self, leader: Option<HostId>, term: u64, leading: bool) {
        if leading && !self.leadership.leading {
            self.leadership.begin();
            self.feed.proposed.clear();
            self.feed.open_grants.clear();
        }
        self.leadership.leading = leading;
        self.feed.hopes += 1;
        self.tell_who_leads();
        let who = leader.map_or_else(|| "nobody".into(), |leader| self.name_of(leader));
        self.out.push(Output::Note(format!("consensus: {who} leads in term {term}")));
    }

    /// Time passes for a voter. Hosts are watched as often as verdicts are looked at: `has_listened`.
    pub(super) fn lead(&mut self, has_listened: bool) {
        let Some(consensus) = &self.consensus else { return };
        let leads = consensus.is_leading();
        if has_listened {
            self.watch_hosts();
            self.watch_waits();
        }
        if !leads {
            self.leadership.leading = false;
            return;
        }
        if has_listened {
            self.propose_health();
            self.propose_passed();
        }
        self.propose_voters();
        self.propose_grants();
        self.hand_over();
    }

    /// Grants what may be granted, as soon as the ledger allows it.
    pub(super) fn propose_grants(&mut self) {
        // Suggestions build on what is applied; they wait until the last ones are. For other entries that
        // are under way they do not wait: on a busy leader there are always some, and if one of them
        // makes a grant illegal, it is refused when it is applied.
        let applied = self.ledger.applied_index();
        if !self.leadership.leading
            || !self.feed.open_grants.is_empty()
            || self.leadership.granted_at == applied
            || self.leadership.granted_at == u64::MAX
            || self.consensus.as_ref().is_some_and(Consensus::is_handing_over)
        {
            return;
        }
        self.leadership.granted_at = applied;
        if planted(Defect::GrantedOnce) && self.ledger.slots().count() > 0 {
            self.leadership.granted_at = u64::MAX;
        }
        for grant in self.ledger.next_grants() {
            let entry = Entry::Grant(grant);
            let id = entry.submission_id();
            self.propose_checked(id, entry, None);
            if self.feed.proposed.contains_key(&id) {
                self.feed.open_grants.insert(id);
            }
        }
    }

    /// Every voter keeps the time for which hosts look well or ill: it may lead in a moment.
    fn watch_hosts(&mut self) {
        self.forget_who_is_gone();
        let members: Vec<_> = self.ledger.members().map(|member| member.host).collect();
        for host in members {
            self.leadership.member_since.entry(host).or_insert(self.now);
            // Who was called silent is well from its new word on, however it has looked here.
            if self.looks_well(host) && self.has_new_word(host) {
                self.leadership.ill_since.remove(&host);
                let epoch = self.version_of(host).epoch;
                let well = self.leadership.well_since.entry(host).or_insert((self.now, epoch));
                if well.1 != epoch && !planted(Defect::WellWithoutAWord) {
                    *well = (self.now, epoch);
                }
            } else {
                self.leadership.well_since.remove(&host);
                self.leadership.ill_since.entry(host).or_insert(self.now);
            }
        }
    }

    /// Nothing is remembered of hosts that are in the fleet no more, and decide nothing.
    fn forget_who_is_gone(&mut self) {
        // Every member is among these, and mostly nobody else.
        if self.leadership.member_since.len() <= self.ledger.member_count() {
            return;
        }
        let (ledger, voters) = (&self.ledger, self.ledger.electorate().newest());
        let is_here = |host: &HostId| ledger.is_member(*host) || voters.is_voter(*host);
        let Leadership { member_since, well_since, ill_since, unfit_since, .. } =
            &mut self.leadership;
        well_since.retain(|host, _| is_here(host));
        for since in [member_since, ill_since, unfit_since] {
            since.retain(|host, _| is_here(host));
        }
    }

    /// Tells the ledger who is down. Getting in is quick, getting out takes a while of health.
    fn propose_health(&mut self) {
        let members: Vec<_> = self.ledger.members().map(|member| member.host).collect();
        for host in members {
            let (looks_well, version) = (self.looks_well(host), self.version_of(host));
            let entry = match self.ledger.silent_since(host) {
                None if !looks_well => Some(Entry::Silent { host, version }),
                // What it had said before came late, or nobody knew of it when it was written off.
                Some(known) if !looks_well && known < version => {
                    Some(Entry::Silent { host, version })
                }
                Some(_) if looks_well => self.word_of(host),
                _ => None,
            };
            if let Some(entry) = entry {
                self.propose_checked(entry.submission_id(), entry, None);
            }
        }
    }

    /// The newest record of a host that is known here.
    fn version_of(&self, host: HostId) -> Version {
        self.view.get(host).map(Record::version).unwrap_or_default()
    }

    /// A host's own word that it is there again, once it has been so for as long as its groups want to see a
    /// host well.
    fn word_of(&self, host: HostId) -> Option<Entry> {
        let well_for = self.now.since(self.leadership.well_since.get(&host)?.0);
        let wanted = self.ledger.minimum_healthy_of(host).max(WELL_FOR);
        let is_here = self.standing(host) == Standing::Reachable && well_for >= wanted;
        let record = self.view.verified(host).filter(|_| is_here)?;
        Some(Entry::Heard(Box::new(record.signed().clone())))
    }

    /// True if a host has said something since it was called silent, or was not.
    fn has_new_word(&self, host: HostId) -> bool {
        let silent = self.ledger.silent_since(host);
        silent.is_none_or(|silent| self.version_of(host) > silent)
            || planted(Defect::WellWithoutAWord)
    }

    /// Every voter keeps the time for which the ledger waits: it may lead in a moment. No clock that
    /// people set has a say, so no bake and no hold-off is ever too short. Where the leader was started
    /// meanwhile it waits anew.
    fn watch_waits(&mut self) {
        let waits = self.ledger.waits();
        let waiting = &mut self.leadership.waiting_since;
        if waiting.len() > waits.len() {
            let open: BTreeSet<_> = waits.iter().map(|(passed, _)| *passed).collect();
            waiting.retain(|passed, _| open.contains(passed));
        }
        for (passed, _) in waits {
            let silent = silent_in(&passed);
            // Whoever speaks again counts as well only after a while, and is not given up meanwhile.
            let speaks =
                silent.is_some_and(|host| self.looks_well(host) && self.has_new_word(host));
            let since = self.leadership.waiting_since.entry(passed).or_insert(self.now);
            if speaks {
                *since = self.now;
            }
        }
    }

    /// Tells the ledger what time has passed that it waits for.
    fn propose_passed(&mut self) {
        for (passed, lasts) in self.ledger.waits() {
            let since = self.leadership.waiting_since.get(&passed).copied().unwrap_or(self.now);
            let ends_at_once = planted(Defect::NoHoldOff) && lasts == RELEASE_HOLD_OFF;
            if self.now.since(since) >= lasts || ends_at_once {
                let entry = Entry::Passed(passed);
                self.propose_checked(entry.submission_id(), entry, None);
            }
        }
    }

    /// Has a voter replaced that is gone, or an empty seat filled.
    fn propose_voters(&mut self) {
        let (now, policy) = (self.now, self.leadership.policy);
        let too_soon = self.leadership.replaced_at.is_some_and(|at| now.since(at) < policy.pace);
        if too_soon || self.ledger.next_voters().is_some() {
            return;
        }
        let voters = self.ledger.electorate().newest().clone();
        let seats: Vec<_> = voters.hosts().map(|host| self.seat(host)).collect();
        let is_full = voters.list().len() >= voters.seats();
        if is_full && !seats.iter().any(|seat| seat.must_go) {
            return;
        }
        if self.ledger.voter_changes_left() == 0 {
            // Said once in a while to whoever reads the journal: nothing but people can do anything.
            self.leadership.replaced_at = Some(now + policy.pace * QUIET_PACES);
            let note = "voters: one should be replaced, and they can change by themselves no more: when the \
                        fleet is quiet, let it go on with other voters by `swell voters recover`";
            self.out.push(Output::Note(note.into()));
            return;
        }
        let prospects = self.prospects(&voters);
        let fleet = self.trust.fleet();
        let Some(list) = next_list(fleet, &voters, self.me, &seats, &prospects) else { return };
        let stays = |seat: &&Seat| list.voters.iter().any(|voter| voter.host == seat.host);
        let gone = seats.iter().find(|seat| !stays(seat));
        let zone = gone.map(|gone| gone.zone.clone());
        let entry = Entry::NextVoters(list);
        let id = entry.submission_id();
        self.propose_checked(id, entry, None);
        if self.feed.proposed.contains_key(&id) {
            self.leadership.replaced_at = Some(now);
            self.leadership.replaced_in.extend(zone.map(|zone| (zone, now)));
        }
    }

    /// A leader that is about to stop has no time to lose.
    pub(super) fn hand_over_at_once(&mut self) {
        if self.is_leading() {
            self.leadership.hands_over_at = self.now;
            self.hand_over();
        }
    }

    /// Lets another voter lead where this one may not vote any more, since no leader replaces itself, or is
    /// about to stop.
    fn hand_over(&mut self) {
        let may_vote = self.ledger.may_vote(self.me) || planted(Defect::UnfitLeads);
        if may_vote && !self.is_leaving || self.now < self.leadership.hands_over_at {
            return;
        }
        let may_lead = |host: &HostId| {
            *host != self.me
                && self.ledger.is_member(*host)
                && self.ledger.may_vote(*host)
                && self.looks_well(*host)
                && self.links.is_up(*host)
                && self.heard_ago(*host).is_some_and(|ago| ago < HEARD_WITHIN)
                && !self.has_left(*host)
        };
        let heirs: Vec<_> = self.voters().into_iter().filter(may_lead).collect();
        let turn = self.leadership.handed_over.checked_rem(heirs.len());
        let Some(heir) = turn.map(|turn| heirs[turn]) else { return };
        self.leadership.handed_over += 1;
        self.leadership.hands_over_at = self.now + HAND_OVER_AGAIN_AFTER;
        let name = self.name_of(heir);
        let why = if may_vote { "is about to stop" } else { "may vote no more, by its labels" };
        let note = format!("voters: this host {why}: {name} is to lead");
        self.out.push(Output::Note(note));
        let outputs = self.consensus.as_mut().map(|consensus| consensus.hand_over(heir));
        self.consensus_outputs(outputs.unwrap_or_default());
    }

    /// A voter, and whether it should go.
    fn seat(&mut self, host: HostId) -> Seat {
        let (now, policy) = (self.now, self.leadership.policy);
        let member = self.ledger.member(host);
        let zone = member.as_ref().and_then(|member| member.zone.cloned());
        let is_fit = self.ledger.may_vote(host);
        let is_live = member.is_some() && self.looks_well(host);
        let since = |map: &mut BTreeMap<HostId, Mono>, holds: bool| match holds {
            true => now.since(*map.entry(host).or_insert(now)),
            false => {
                map.remove(&host);
                Duration::ZERO
            }
        };
        let ill_for = since(&mut self.leadership.ill_since, !is_live);
        let unfit_for = since(&mut self.leadership.unfit_since, !is_fit);
        let is_bad = !is_live && (self.ledger.is_removed(host) || ill_for >= policy.silent)
            || !is_fit && unfit_for >= policy.unfit;
        let last = self.leadership.replaced_in.get(&zone);
        let zone_is_cut_off = last.is_some_and(|at| now.since(*at) < policy.zone_pace);
        let must_go = is_bad && (self.ledger.is_removed(host) || !zone_is_cut_off);
        Seat { host, zone, is_live, must_go }
    }

    /// The hosts that could vote: well for long, heard of just now, with nothing else to do, and up to date.
    /// Of those the steady ones, if there are any.
    fn prospects(&self, voters: &Voters) -> Vec<Prospect> {
        let may = |member: &HostView<'_>| {
            let host = member.host;
            let well_for = self.leadership.well_since.get(&host).map(|(at, _)| self.now.since(*at));
            let follower = self.feed.followers.get(&host);
            !voters.is_voter(host)
                && self.ledger.may_vote(host)
                && well_for.is_some_and(|well_for| well_for >= self.leadership.policy.stable)
                && self.links.is_up(host)
                && self.heard_ago(host).is_some_and(|ago| ago < HEARD_WITHIN)
                && follower.is_some_and(|follower| follower.is_up_to_date(self.now))
                && self.ledger.slot_of(host).is_none()
                && !self.ledger.is_uncounted(host)
                && !self.ledger.is_drained(host)
                && self
                    .view
                    .get(host)
                    .is_some_and(|record| versions_fit(&record.version, &self.version))
        };
        let prospect = |member: HostView<'_>| Prospect {
            voter: Voter { host: member.host, name: member.name.clone() },
            zone: member.zone.cloned(),
        };
        let is_steady = |prospect: &Prospect| {
            self.view.get(prospect.voter.host).is_some_and(|record| !record.unsteady)
        };
        let all: Vec<_> = self.ledger.members().filter(may).map(prospect).collect();
        // A voter that is no good one is better than none.
        match all.iter().any(is_steady) {
            true => all.into_iter().filter(is_steady).collect(),
            false => all,
        }
    }

    fn looks_well(&self, host: HostId) -> bool {
        if host == self.me {
            return true;
        }
        match self.standing(host) {
            Standing::Unreachable { .. } => false,
            // A host that was never heard of gets some time to appear.
            Standing::Unknown => {
                let since = self.leadership.member_since.get(&host).copied();
                // Where the leader has just been started it has to hear of all others first.
                let since = since.max(self.gossip.spread.lacked_at());
                since.is_none_or(|since| self.now.since(since) < APPEAR_WITHIN)
            }
            // A host without a working revision is down in that group alone, and the ledger knows.
            Standing::Reachable | Standing::Suspect { .. } => true,
        }
    }
}

/// Whom an operator has given up, of whom the ledger waits for that to count.
fn silent_in(passed: &Passed) -> Option<HostId> {
    match passed {
        Passed::HoldOff { host, .. } | Passed::Waiver { host } => Some(*host),
        Passed::Bake { .. } | Passed::Deadline { .. } => None,
    }
}

/// Voters are of versions that are at most one minor number apart.
fn versions_fit(one: &str, other: &str) -> bool {
    let read = |version: &str| {
        let mut parts = version.split('.').map(str::parse::<u64>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    match (read(one), read(other)) {
        (Some((major, minor)), Some((own_major, own_minor))) => {
            major == own_major && minor.abs_diff(own_minor) <= 1
        }
        _ => one == other,
    }
}

/// A host that has just died looks well for a while: a heartbeat later one may know better.
const HEARD_WITHIN: Duration = HEARTBEAT_EVERY.saturating_mul(2);
/// A new word of a host that has died since is found out in this time: it may have come late, and whoever was
/// just started has heard no accusation yet.
const WELL_FOR: Duration =
    ACCUSE_AFTER.saturating_add(VERDICT_AFTER).saturating_add(Duration::from_secs(1));
/// How many times the pace of changes it takes until somebody is reminded that there are none.
const QUIET_PACES: u32 = 60;
const APPEAR_WITHIN: Duration = Duration::from_secs(15);
/// One that has not taken over within a few elections may not be able to.
const HAND_OVER_AGAIN_AFTER: Duration = Duration::from_secs(10);

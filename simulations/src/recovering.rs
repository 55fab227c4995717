//! The loss of a majority of the voters, and how operators let the fleet go on without it.
//!
//! From then on there are two lines of what was agreed on: the one that the fleet goes on with, and the
//! one that was left. Voters that were lost may have agreed on more than anybody else had heard of, and
//! where they were only cut off they go on. Each host is held against the line that its ledger is of.
//! What is really disturbed is one truth: a host that acts on a slot of the line that was left counts
//! in the other one as well, and must not have said there that it holds none.

use std::collections::{BTreeMap, BTreeSet};

use groundswell_protocol::{
    consensus::{LogEntry, Snapshot},
    ids::{Digest, HostId},
    node::{Input, Node},
    rollout::{Entry, Ledger, Stamped},
    trust::{Electorate, Signed, VoterList},
};

use crate::{
    coverage::Situation,
    dice::Dice,
    founding::person,
    plan::{ChoreKind, FaultKind, Micros, SECOND},
    rules::{Moment, Rules},
    truth::{Checked, Truth, Violation, unless},
    world::{Event, World},
};

/// A line of what was agreed on, with all that is known of it.
pub(crate) struct Line {
    ledger: Ledger,
    log: Vec<LogEntry>,
    committed_in: Vec<(u64, u64)>,
    committed_at: Vec<Micros>,
    leap: Leap,
    states: BTreeMap<u64, Ledger>,
    rules: Rules,
    planned: BTreeMap<u64, u64>,
    leaders: BTreeMap<(u64, u64), HostId>,
}

/// Where the indices of a line leap: after how many entries, and by how much.
#[derive(Clone, Copy, Default)]
pub(crate) struct Leap(Option<(u64, u64)>);

impl Leap {
    /// The index to which so many entries lead.
    pub(crate) fn index(self, entries: usize) -> u64 {
        let entries = entries as u64;
        entries + self.0.filter(|(after, _)| entries >= *after).map_or(0, |(_, by)| by)
    }

    /// The place of the entry at an index, if there can be one.
    pub(crate) fn place(self, index: u64) -> Option<usize> {
        let place = match self.0 {
            Some((after, by)) if index > after => {
                index.checked_sub(by).filter(|entries| *entries > after)?
            }
            _ => index,
        };
        usize::try_from(place.checked_sub(1)?).ok()
    }

    /// The index with which the line goes on.
    fn end(self) -> u64 {
        self.0.map_or(0, |(after, by)| after + by)
    }
}

// --- the truth of two lines ---

impl Truth {
    /// Operators have let the fleet go on with a ledger, whose index is now this one.
    fn recovers(&mut self, list: &Signed<VoterList>, applied: u64) -> Checked {
        let Ok(verified) = self.trust.recovery(list) else {
            return unless(false, "S9", || "a forged list of voters was taken".into());
        };
        let VoterList { base, generation, .. } = verified.content();
        let Some(base) = base else {
            return unless(false, "C9", || "a recovery that names no ledger was taken".into());
        };
        let older = self.ledger.electorate().newest().generation();
        unless(*generation > older, "C10", || format!("generation {generation} follows {older}"))?;
        let mut line = self.again(base.index);
        unless(line.ledger.state_hash() == base.state, "C4", || {
            format!("the fleet goes on with a ledger that was never that of index {}", base.index)
        })?;
        if let Err(refusal) = line.ledger.recover(list) {
            return unless(false, "C9", || format!("a recovery was taken: {refusal}"));
        }
        line.rules.recover(*generation);
        line.leap = Leap(Some((base.index, applied.saturating_sub(base.index))));
        line.states.insert(applied, line.ledger.clone());
        let lost = self.rules.slots.values().any(|token| *token > base.index);
        self.met.extend(lost.then_some(Situation::GrantLost));
        self.abandoned = Some(Box::new(line));
        self.turn();
        self.turned = false;
        Ok(())
    }

    /// The line up to an entry, once more.
    fn again(&self, last: u64) -> Line {
        let count = usize::try_from(last).unwrap_or(usize::MAX).min(self.log.len());
        let mut line = Line {
            ledger: Ledger::new(self.trust.clone()),
            log: self.log[..count].to_vec(),
            committed_in: self.committed_in[..count].to_vec(),
            committed_at: self.committed_at[..count].to_vec(),
            leap: Leap::default(),
            states: self
                .states
                .range(..=last)
                .map(|(index, state)| (*index, state.clone()))
                .collect(),
            rules: Rules::default(),
            planned: self.planned.clone(),
            leaders: BTreeMap::new(),
        };
        for (entry, now) in line.log.iter().zip(&line.committed_at) {
            let Ok(stamped) = Stamped::from_bytes(&entry.data) else {
                line.ledger.skip(entry.index);
                continue;
            };
            let hash = Stamped::hash(&entry.data);
            let changed = line.ledger.apply(entry.index, hash, &stamped).unwrap_or(false);
            let (trust, index, at, now) = (&*self.trust, entry.index, stamped.at, *now);
            let moment = Moment { trust, ledger: &line.ledger, index, at, now };
            // All of it was judged when it was new.
            if changed {
                drop(line.rules.apply(&moment, &stamped.entry));
            }
            drop(line.rules.sync(&moment));
        }
        line
    }

    /// Puts the one line in the place of the other.
    pub(crate) fn turn(&mut self) {
        let Some(other) = &mut self.abandoned else { return };
        std::mem::swap(&mut self.ledger, &mut other.ledger);
        std::mem::swap(&mut self.log, &mut other.log);
        std::mem::swap(&mut self.committed_in, &mut other.committed_in);
        std::mem::swap(&mut self.committed_at, &mut other.committed_at);
        std::mem::swap(&mut self.leap, &mut other.leap);
        std::mem::swap(&mut self.states, &mut other.states);
        std::mem::swap(&mut self.rules, &mut other.rules);
        std::mem::swap(&mut self.planned, &mut other.planned);
        std::mem::swap(&mut self.leaders, &mut other.leaders);
        self.turned = !self.turned;
    }

    /// Looks at something on the line that was left, if `left`.
    pub(crate) fn on<T>(&mut self, left: bool, look: impl FnOnce(&mut Self) -> T) -> T {
        if !left {
            return look(self);
        }
        self.turn();
        let seen = look(self);
        self.turn();
        seen
    }

    /// Looks at something on both lines.
    pub(crate) fn on_both(&mut self, look: impl Fn(&mut Self) -> Checked) -> Checked {
        look(self)?;
        self.on(self.abandoned.is_some(), look)
    }

    /// True if a generation is of the line that was left.
    pub(crate) fn is_left(&self, generation: u64) -> bool {
        self.abandoned.is_some() && generation < self.ledger.electorate().recovered_at()
    }

    /// The rules of the line with which the fleet goes on, and of the other one.
    fn both(&self) -> (&Rules, Option<&Rules>) {
        match &self.abandoned {
            None => (&self.rules, None),
            Some(other) if self.turned => (&other.rules, Some(&self.rules)),
            Some(other) => (&self.rules, Some(&other.rules)),
        }
    }

    /// The generations of this line.
    pub(crate) fn generations(&self) -> impl Iterator<Item = u64> + use<> {
        let electorate: &Electorate = self.ledger.electorate();
        let (count, recovered) = (electorate.after(0).len() as u64, electorate.recovered_at());
        (0..=count).chain(recovered..=recovered + count)
    }

    /// True if a slot counts on this line: what the fleet goes on with must count them all.
    pub(crate) fn is_known(&self, token: u64) -> bool {
        !self.turned || self.rules.grants.contains_key(&token)
    }

    /// True if a host is in the fleet, or was in what was left and has not left it since.
    pub(crate) fn is_somebody(&self, host: HostId) -> bool {
        let (newest, left) = self.both();
        let was = left.is_some_and(|left| left.is_member(host));
        newest.is_member(host) || was && !newest.has_left(host)
    }

    /// True if a slot is held. One that was lost is, as long as its holder has not said that it holds
    /// none; so is that of a holder which was installed anew where it was known.
    pub(crate) fn is_theirs(&self, host: HostId, token: u64) -> Result<bool, Violation> {
        let (newest, left) = self.both();
        let holds = |rules: &Rules| rules.slots.get(&host) == Some(&token);
        if holds(newest) {
            return Ok(true);
        }
        if !left.is_some_and(|left| holds(left) || left.has_left(host)) {
            return Ok(false);
        }
        self.is_waited_for(host, token).map(|()| true)
    }

    fn is_waited_for(&self, host: HostId, token: u64) -> Checked {
        let (newest, _) = self.both();
        unless(newest.is_uncounted(host) || !newest.is_member(host), "S8", || {
            let host = host.short();
            format!("{host} is disturbed under slot {token}, which was lost, and counts as well")
        })
    }

    /// True if a host begins with a slot that is its own on one of the lines; false if it is nobody's
    /// host any more, or not on the line that the slot is of. A member of the other one is waited for.
    pub(crate) fn may_begin(
        &mut self,
        host: HostId,
        token: u64,
        release: Digest,
        is_late: bool,
    ) -> Result<bool, Violation> {
        let here = self.begins(host, token, release, is_late);
        if here == Ok(true) || self.abandoned.is_none() {
            return here;
        }
        match (&here, self.on(true, |truth| truth.begins(host, token, release, is_late))) {
            (_, Ok(true)) => self.is_waited_for(host, token).map(|()| true),
            (Err(_), Ok(false)) => self.is_waited_for(host, token).map(|()| false),
            _ => here,
        }
    }

    /// A host acts on a slot of the other line. In the groups that it is in here there is room for it, as
    /// long as nothing was granted without counting it.
    pub(crate) fn lost_slot_fits(&self, host: HostId) -> Checked {
        if self.turned {
            return Ok(());
        }
        for group in self.rules.groups_of(host) {
            let hosts = self.rules.hosts_of(&group);
            self.quota_holds(&(group, None), &hosts)?;
        }
        Ok(())
    }
}

// --- the world ---

/// The loss of a majority of the voters.
#[derive(Debug, Default)]
pub(crate) struct Recovering {
    /// Hosts that are lost.
    away: BTreeSet<usize>,
    /// Ways that are cut.
    cuts: Vec<(usize, usize)>,
    /// Voters that came back after the fleet had gone on.
    returned: BTreeSet<HostId>,
    /// Whether operators look for the newest of the ledgers that are left.
    newest: bool,
    /// The host that they asked last.
    asked: Option<usize>,
    dice: Option<Dice>,
    /// The fault that waits for its moment.
    waits: Option<usize>,
    /// The host whose slot made it the moment.
    moved: Option<usize>,
}

impl Recovering {
    /// True if a host is lost, and nobody switches it on.
    pub(crate) fn is_away(&self, host: usize) -> bool {
        self.away.contains(&host)
    }

    /// Everything is mended.
    pub(crate) fn end(&mut self) {
        self.away.clear();
        self.cuts.clear();
    }
}

impl World {
    /// True if the ledger of a host is of the line that was left.
    pub(crate) fn is_left(&self, host: usize) -> bool {
        let ledger = self.node(host).map(Node::ledger);
        ledger.is_some_and(|known| self.truth.is_left(known.electorate().newest().generation()))
    }

    /// A majority of the voters will be lost with the next slot that is granted or given back, while the
    /// word of it is on its way.
    pub(crate) fn await_loss(&mut self, fault: usize) {
        self.recovering.waits = Some(fault);
        self.queue.plan(self.now + LOST_WITHIN, Event::Lose);
    }

    /// A slot was granted or given back.
    pub(crate) fn slot_moved(&mut self, host: Option<usize>) {
        if self.recovering.waits.is_some() {
            self.recovering.moved = host;
            self.queue.plan(self.now, Event::Lose);
        }
    }

    /// A majority of the voters is gone, or out of reach for all who are left. Somebody decides after a
    /// while that the fleet goes on without them.
    pub(crate) fn lose_majority(&mut self) {
        let Some(fault) = self.recovering.waits.take() else { return };
        let FaultKind::MajorityLost { cut, newest, recovers_after, draw } =
            self.plan.faults[fault].kind
        else {
            return;
        };
        if self.truth.abandoned.is_some() || self.healed {
            return;
        }
        let mut dice = Dice::new(draw);
        let voters: Vec<_> = self.truth.ledger.electorate().newest().hosts().collect();
        let voters: Vec<_> = voters.iter().map(|voter| self.by_id[voter]).collect();
        let most = voters.len() / 2 + 1;
        let count = if dice.permille(700) { most } else { voters.len() };
        let mut away: BTreeSet<_> =
            dice.some(count, voters.len()).into_iter().map(|place| voters[place]).collect();
        let share = *dice.pick(&[0, 300, 600, 800]);
        for host in 0..self.hosts.len() {
            // Whoever holds a slot is lost with it, mostly.
            let holds = self.truth.ledger.slot_of(self.hosts[host].id).is_some();
            let share = if holds { 800 } else { share };
            // Whoever has just given one back knows better than the ledger with which the others go on.
            let share = if !holds && self.recovering.moved == Some(host) { 200 } else { share };
            if dice.permille(share) && !voters.contains(&host) {
                away.insert(host);
            }
        }
        let is_left = |host: &usize| !away.contains(host) && self.hosts[*host].node.is_some();
        if (0..self.hosts.len()).filter(is_left).count() < 2 {
            return;
        }
        self.trace.say(self.now, || format!("hosts {away:?} are lost, cut off: {cut}"));
        let others: Vec<_> = (0..self.hosts.len()).filter(|host| !away.contains(host)).collect();
        for (one, other) in away.iter().flat_map(|one| others.iter().map(move |o| (*one, *o))) {
            self.recovering.cuts.extend([(one, other), (other, one)]);
        }
        for (from, to) in self.recovering.cuts.clone() {
            self.cut(from, to);
        }
        if !cut {
            // The last that they agree on nobody else hears of.
            let at = self.now + dice.between(0, recovers_after);
            self.queue.plan(at, Event::Die);
        }
        (self.recovering.away, self.recovering.newest) = (away, newest);
        self.recovering.dice = Some(dice);
        self.queue.plan(self.now + recovers_after, Event::Recover);
    }

    /// Those who were out of reach die.
    pub(crate) fn kill_majority(&mut self) {
        for host in self.recovering.away.clone() {
            self.lose_power(host);
        }
    }

    /// Operators name the voters with which the fleet goes on, at a host whose ledger they choose.
    pub(crate) fn recover(&mut self) {
        if self.healed || self.truth.abandoned.is_some() {
            return;
        }
        self.queue.plan(self.now + 2 * SECOND, Event::Recover);
        // Whoever does not wait for an answer, and asks another one, may have two fleets.
        if self.recovering.asked.is_some_and(|host| self.hosts[host].paused.is_some()) {
            return;
        }
        let Some(mut dice) = self.recovering.dice.clone() else { return };
        let is_up = |host: &usize| {
            let up = self.hosts[*host].paused.is_none() && !self.recovering.is_away(*host);
            let ledger = self.node(*host).map(Node::ledger).filter(|_| up);
            // Whom they have removed they do not ask: to all who know of that it is a stranger.
            let id = self.hosts[*host].id;
            ledger.is_some_and(|ledger| ledger.is_member(id)) && !self.people.have_removed(id)
        };
        let up: Vec<_> = (0..self.hosts.len()).filter(is_up).collect();
        if up.is_empty() {
            return;
        }
        let applied = |host: &usize| self.node(*host).map(|node| node.ledger().applied_index());
        let newest = *up.iter().max_by_key(|host| applied(host)).expect("some are up");
        let survivor = if self.recovering.newest { newest } else { *dice.pick(&up) };
        let mut voters = vec![self.hosts[survivor].id];
        let others: Vec<_> = up.iter().copied().filter(|host| *host != survivor).collect();
        let others = dice.some(self.plan.voters - 1, others.len()).into_iter().map(|at| others[at]);
        voters.extend(others.map(|host| self.hosts[host].id));
        if voters.len() > 1 && dice.permille(100) {
            // Somebody forgets the host whose ledger it is, and is told.
            voters.remove(0);
        }
        self.recovering.dice = Some(dice);
        let seats = u8::try_from(self.plan.voters).unwrap_or(1);
        let Some(node) = self.node(survivor) else { return };
        let Ok(mut list) = node.ledger().recovery(&voters, Some(seats)) else { return };
        if list.add_signature(self.trust.fleet(), &person(2)).is_err() {
            return;
        }
        self.recovering.asked = Some(survivor);
        self.trace.mix(&[33, survivor as u64]);
        self.trace.say(self.now, || format!("operators go on with the ledger of host {survivor}"));
        self.feed(survivor, Input::Recover(list));
    }

    /// A host writes a snapshot down: is it the first one of a fleet that goes on?
    pub(crate) fn note_recovery(&mut self, snapshot: &Snapshot) {
        let ledger = Ledger::restore(self.trust.clone(), &snapshot.state).ok();
        let Some(ledger) = ledger.filter(|ledger| {
            let (here, known) = (ledger.electorate(), self.truth.ledger.electorate());
            here.recovered_at() > known.recovered_at()
        }) else {
            return;
        };
        let older = self.truth.ledger.electorate().recovered_at();
        let lists = ledger.electorate().after(older);
        let Some(list) = lists.iter().find(|list| self.trust.recovery(list).is_ok()) else {
            return;
        };
        self.trace.say(self.now, || "the fleet goes on without its lost voters".into());
        let recovered = self.truth.recovers(list, snapshot.index);
        self.hold(recovered);
        for host in (0..self.hosts.len()).filter(|host| self.hosts[*host].incarnation > 0) {
            if let Some(cert) = &self.hosts[host].disk.cert {
                let member = cert.member.id(self.trust.fleet());
                self.queue.plan(self.now + SECOND, Event::Enrol { host, member });
            }
        }
        self.queue.plan(self.now + SECOND, Event::HandInAgain);
        for _ in 0..WAIVERS {
            let at = self.now + self.dice.between(2, 25) * SECOND;
            self.queue.plan(at, Event::Later(Box::new(ChoreKind::Waive)));
        }
    }

    /// Who was removed stays out, though the fleet may have lost the word of it.
    pub(crate) fn hand_in_again(&mut self) {
        self.queue.plan(self.now + 5 * SECOND, Event::HandInAgain);
        for removal in self.people.removals() {
            let Some(desk) = self.desk() else { return };
            self.feed(desk, Input::Submit(Entry::Remove(removal)));
        }
    }

    /// Those who were lost come back as they were.
    pub(crate) fn give_back_majority(&mut self) {
        if self.healed {
            return;
        }
        self.trace.say(self.now, || "those who were lost are back".into());
        for (from, to) in std::mem::take(&mut self.recovering.cuts) {
            self.mend_way(from, to);
        }
        for host in std::mem::take(&mut self.recovering.away) {
            self.queue.plan(self.now, Event::Boot { host });
        }
    }

    /// A host is counted: its executor begins nothing by the word of voters that were lost.
    pub(crate) fn judge_counted(&mut self, data: &[u8]) {
        let Ok(Stamped { entry: Entry::Counted(counted), .. }) = Stamped::from_bytes(data) else {
            return;
        };
        let Ok(counted) = counted.verify_host(self.trust.fleet()) else { return };
        let host = self.by_id[&counted.content().host];
        let knows = self.hosts[host].executor.report(&self.trust).generation;
        if knows < self.truth.ledger.electorate().recovered_at() {
            self.fail("S8", format!("host {host} is counted, and its executor heeds lost voters"));
        }
    }

    /// The index from which on a host's entries are compared with the truth. What it had on the other
    /// line is nobody's business any more.
    pub(crate) fn compared_from(&mut self, host: usize) -> u64 {
        let checked = self.hosts[host].checked;
        let begins = if self.truth.turned { 0 } else { self.truth.leap.end() };
        if checked >= begins {
            return checked;
        }
        self.hosts[host].disk.pruned.retain(|index, _| *index > begins);
        self.note_returned(self.hosts[host].id);
        begins
    }

    fn note_returned(&mut self, host: HostId) {
        let away = &self.hosts[self.by_id[&host]];
        let Some(count) = self.truth.voters_left(host).filter(|_| away.has_joined) else { return };
        self.recovering.returned.insert(host);
        if self.recovering.returned.len() * 2 > count {
            self.coverage.met(Situation::MajorityReturned);
        }
    }

    /// Hosts that have not said what they hold, after everything was mended.
    pub(crate) fn census_missing(&self) -> Option<(&'static str, String)> {
        let ledger = &self.truth.ledger;
        let silent =
            (0..self.hosts.len()).find(|host| ledger.is_uncounted(self.hosts[*host].id))?;
        Some(("L8", format!("host {silent} has not said that it holds no slot that was lost")))
    }
}

/// How often somebody looks for hosts to waive after a recovery.
const WAIVERS: usize = 8;
/// If no slot is granted or given back in this time, a majority is lost all the same.
const LOST_WITHIN: Micros = 8 * SECOND;

impl Truth {
    /// How many voters there were on the line that was left, if a host was one of them.
    fn voters_left(&self, host: HostId) -> Option<usize> {
        let left = self.abandoned.as_ref()?;
        let voters = left.ledger.electorate().newest();
        voters.is_voter(host).then(|| voters.list().len())
    }
}

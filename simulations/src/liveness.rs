//! After everything is mended: does the fleet come to rest, and does it still work?

use groundswell_protocol::{
    consensus::Consensus,
    fleet::{Record, Standing},
    ids::HostId,
    node::{Input, Node},
    rollout::{
        Deployment, DeploymentStatus, Entry, Grant, GroupView, MinimumHealthy, TargetStatus,
    },
    time::UnixSeconds,
};

use crate::{
    coverage::Situation,
    people::Manner,
    plan::{Bad, DelayLaw, Micros, SECOND, Terms},
    world::{Event, World},
};

/// What operators fall back to where a floor is in the way.
fn plain() -> Terms {
    Terms {
        configuration: MinimumHealthy::AllAtOnce.into(),
        failure_budget: None,
        catch_up: false,
        deploy_to_new_hosts: false,
    }
}

/// How far the last part of a run is.
#[derive(Debug, Default)]
pub(crate) struct Mending {
    /// Deadline of the present part.
    by: Option<Micros>,
    /// Orders that were known when that was set, and how often it was for more of them.
    orders: u64,
    extended: u32,
    /// What is asked for now.
    part: Part,
    /// Since when nobody leads though a majority of the voters is there and connected.
    leaderless_since: Option<Micros>,
    /// When somebody may try again.
    again_at: Micros,
    /// Whose whole view is looked at next.
    next_view: usize,
}

/// The last part of a run has parts of its own.
#[derive(Clone, Copy, Debug, Default)]
enum Part {
    /// All that was under way comes to its end.
    #[default]
    Rest,
    /// One host has no power, or its daemon was stopped, and all others are to say so.
    Dead(usize),
    /// It is back.
    Back,
    /// The last deployments are under way.
    Last,
}

/// How long it may take until all others call a dead host unreachable, and until it is well again.
const CALLED_WITHIN: Micros = 20 * SECOND;
const CLEARED_WITHIN: Micros = 40 * SECOND;
/// Ten elections of the longest kind.
const LED_WITHIN: Micros = 20 * SECOND;
/// How late a word may be between voters that are to agree on a leader in that time.
const LATE_WORDS: Micros = 5 * SECOND;
/// Whom three others have to accuse before it is unreachable, beside voters that have to be there.
const HOSTS_MIN: usize = 6;

impl Mending {
    /// True while a host is to stay without power.
    pub(crate) fn is_dead(&self, host: usize) -> bool {
        matches!(self.part, Part::Dead(dead) if dead == host)
    }
}

/// Hosts whose whole view is looked at in a second.
const VIEWS_PER_LOOK: usize = 64;

impl World {
    /// From now on the weather is fine.
    pub(crate) fn quiet(&mut self) {
        let (base, spread, tail_permille, tail_max) = (500, 2_000, 0, 0);
        self.set_delay(DelayLaw { base, spread, tail_permille, tail_max });
    }

    /// Looks round once a second.
    pub(crate) fn look(&mut self) {
        self.queue.plan(self.now + SECOND, Event::Look);
        for host in 0..self.hosts.len() {
            if self.truth.ledger.is_removed(self.hosts[host].id) {
                self.scrap(host);
            }
            self.end_doubt(host);
        }
        // What came is judged when it comes. In a large fleet the whole of a view has its turn now and then.
        for _ in 0..self.hosts.len().min(VIEWS_PER_LOOK) {
            self.mending.next_view = (self.mending.next_view + 1) % self.hosts.len();
            self.judge_whole_view(self.mending.next_view);
        }
        self.look_for_leader();
        // What people had ordered before may be agreed on only now, and takes its time.
        let groups = self.truth.ledger.groups();
        let orders = groups.map(|group| self.truth.ledger.head(&group.group.name).0).sum();
        let more = std::mem::replace(&mut self.mending.orders, orders) != orders;
        // Those who mend what hangs give orders as well, for ever if it hangs for ever.
        if more && self.mending.extended < EXTENDED_MAX {
            self.mending.extended += 1;
            self.mending.by = None;
        }
        if self.mending.by.is_none() {
            let hold_off = if self.truth.ledger.waits().is_empty() { 0 } else { 70 * SECOND };
            let within = match self.mending.part {
                Part::Dead(_) => CALLED_WITHIN,
                Part::Back => CLEARED_WITHIN,
                Part::Rest | Part::Last => 60 * SECOND + hold_off + 3 * self.work_left(),
            };
            self.mending.by = Some(self.now + within);
        }
        let missing = match self.mending.part {
            Part::Rest => self.rest_missing().or_else(|| self.muted()),
            Part::Back => self.rest_missing(),
            Part::Dead(host) => self.not_called(host),
            Part::Last => self.last_missing(),
        };
        match missing {
            None => {
                self.trace.say(self.now, || format!("{:?} is done", self.mending.part));
                self.next_part();
            }
            Some((promise, what)) => {
                if self.mending.by.is_some_and(|by| self.now > by) {
                    self.fail(promise, what);
                }
            }
        }
    }

    /// The next part begins.
    fn next_part(&mut self) {
        self.mending.by = None;
        self.mending.part = match self.mending.part {
            Part::Rest => match self.one_to_die() {
                Some(host) => {
                    match self.dice.permille(400) {
                        true => drop(self.stop_daemon(host)),
                        false => self.lose_power(host),
                    }
                    Part::Dead(host)
                }
                None => Part::Last,
            },
            Part::Dead(host) => {
                if self.hosts[host].powered {
                    self.coverage.met(Situation::StoppedHostCalled);
                }
                self.queue.plan(self.now, Event::Boot { host });
                self.queue.plan(self.now, Event::StartDaemon { host });
                Part::Back
            }
            Part::Back => Part::Last,
            Part::Last => {
                self.compare_states();
                self.is_over = true;
                Part::Last
            }
        };
    }

    /// A host that the others can do without, if there are enough of them: a voter as well.
    fn one_to_die(&mut self) -> Option<usize> {
        let there: Vec<_> = (0..self.hosts.len()).filter(|host| !self.hosts[*host].gone).collect();
        let host = *self.dice.pick(&there);
        let voters = self.truth.ledger.electorate().newest();
        // While one waits for the others to say what it may have forgotten all of those are needed, and while
        // one is about to be replaced: whoever comes may have to ask them all.
        let ledger = &self.truth.ledger;
        let votes = |voter: HostId| {
            let in_doubt =
                self.node(self.by_id[&voter]).is_none_or(|node| node.in_doubt().is_some());
            !in_doubt && ledger.may_vote(voter)
        };
        let all_vote =
            voters.hosts().all(votes) && voters.list().len() >= 3 && ledger.next_voters().is_none();
        let is_needed = voters.is_voter(self.hosts[host].id) && !all_vote;
        (there.len() >= HOSTS_MIN && !is_needed && !self.plan.is_large).then_some(host)
    }

    /// Whoever was late or wrong again and again accuses nobody for a while, and until it does no verdict can
    /// be asked for.
    fn muted(&self) -> Option<(&'static str, String)> {
        let is_muted = |host: &usize| self.node(*host).is_some_and(Node::is_muted);
        let host = (0..self.hosts.len()).find(is_muted)?;
        Some(("L6", format!("host {host} does not trust its ears")))
    }

    /// Who does not call a dead host unreachable yet.
    fn not_called(&self, dead: usize) -> Option<(&'static str, String)> {
        let id = self.hosts[dead].id;
        let calls = |node: &Node| matches!(node.standing(id), Standing::Unreachable { .. });
        let deaf = |host: &usize| self.node(*host).is_some_and(|node| !calls(node));
        if let Some(host) = (0..self.hosts.len()).find(deaf) {
            let standing = self.node(host).map(|node| node.standing(id));
            return Some(("L6", format!("host {dead} is dead, and {host} calls it {standing:?}")));
        }
        // Nobody tells the ledger where voters have just changed, and wait for this very host to say what they
        // may have forgotten.
        let mut voters = (0..self.hosts.len()).filter_map(|host| self.node(host)?.consensus());
        let is_well = self.truth.ledger.is_healthy(id) && voters.any(Consensus::is_leading);
        is_well.then(|| ("L6", format!("host {dead} is dead and counts as well")))
    }

    /// Somebody leads soon where a majority of the voters can agree.
    fn look_for_leader(&mut self) {
        let voters = self.truth.ledger.electorate().newest();
        let of_newest = |host: &usize| {
            let consensus = self.node(*host).and_then(Node::consensus);
            consensus.filter(|c| c.generation() == voters.generation() && !c.is_held_back())
        };
        let voting = voters.hosts().map(|voter| self.by_id[&voter]);
        let voting: Vec<_> = voting.filter(|host| of_newest(host).is_some()).collect();
        let leads = voting.iter().filter_map(of_newest).any(Consensus::is_leading);
        // What waited before a narrow wire arrives late though the wire is wide again, and all that is
        // sent after it.
        let (network, soon) = (&self.network, self.now + LATE_WORDS);
        let is_connected = |one: &usize, other: &usize| {
            one == other
                || network.is_connected(*one, *other) && network.is_drained_by(*one, *other, soon)
        };
        let all = voting.iter().all(|one| voting.iter().all(|other| is_connected(one, other)));
        if leads || !all || voting.len() < voters.majority() {
            self.mending.leaderless_since = None;
            return;
        }
        let since = *self.mending.leaderless_since.get_or_insert(self.now);
        if self.now > since + LED_WITHIN {
            self.fail("L3", format!("nobody has led for {} s", (self.now - since) / SECOND));
        }
    }

    /// Where too few voters are left to be asked, or nobody leads since a log that others were told of is
    /// gone with a disk that was put back, somebody looks at the machine. Of one whose disk was put back
    /// nobody says that it was not.
    fn end_doubt(&mut self, host: usize) {
        let own = self.node(host).and_then(Node::consensus);
        let is_doubtful = own.is_some_and(Consensus::is_held_back);
        let since = match is_doubtful {
            true => *self.hosts[host].doubtful_since.get_or_insert(self.now),
            false => return self.hosts[host].doubtful_since = None,
        };
        let voters = self.truth.ledger.electorate().newest();
        let left = voters.hosts().filter(|voter| !self.hosts[self.by_id[voter]].gone).count();
        let leads = |host: usize| {
            self.node(host).and_then(Node::consensus).is_some_and(Consensus::is_leading)
        };
        let (is_stuck, is_intact) = match self.node(host).and_then(Node::in_doubt) {
            // What it had forgotten before the last start it may know by now.
            Some((_, needed)) => (left <= needed, !self.hosts[host].is_put_back()),
            None => (!(0..self.hosts.len()).any(leads), self.hosts[host].forgotten.is_none()),
        };
        if self.now >= since + 10 * SECOND && is_intact && is_stuck {
            self.feed(host, Input::TrustDisk);
        }
    }

    /// In the end all have applied the same, and all must be in the same state.
    fn compare_states(&mut self) {
        let is_other = |node: &Node| !node.ledger().is_same(&self.truth.ledger);
        let other = (0..self.hosts.len()).find(|host| self.node(*host).is_some_and(is_other));
        if let Some(host) = other {
            self.fail("C4", format!("host {host} ends in another state"));
        }
    }

    /// Time for what is under way: each host once, one after the other, and once more for a rollback. In a
    /// large fleet as many at a time as may be.
    fn work_left(&self) -> Micros {
        let is_large = self.plan.is_large;
        let at_a_time = |quota: usize| if is_large { quota.max(1) } else { 1 };
        let groups = self.truth.ledger.groups();
        let hosts: usize =
            groups.map(|group| group.hosts.len().div_ceil(at_a_time(group.quota))).sum();
        let queued = self.truth.ledger.groups().map(|group| group.queue.len()).sum::<usize>();
        let (hosts, turns) = (hosts as u64, 1 + queued as u64);
        turns * hosts * (8 * SECOND + 8 * self.plan.step_max)
    }

    /// What keeps the fleet from rest.
    fn rest_missing(&mut self) -> Option<(&'static str, String)> {
        if let Some(missing) = self.unequal_ledgers() {
            return Some(missing);
        }
        // Whom people keep is no voter either.
        self.unblock();
        if let Some(missing) = self.lost_voters() {
            return Some(missing);
        }
        if let Some(missing) = self.census_missing() {
            return Some(missing);
        }
        let slots = self.truth.ledger.slots().count();
        if slots > 0 {
            return Some(("L4", format!("{slots} slots are not given back")));
        }
        let running = self.truth.ledger.deployments();
        let running = running.into_iter().find(|deployment| !deployment.status.is_over());
        if let Some(deployment) = running {
            let why = self.stuck(deployment);
            return Some(("L5", format!("deployment {} is not over: {why}", deployment.id)));
        }
        self.unequal_views()
    }

    /// Voters that are gone for good or may vote no more are replaced, if there are other hosts: none but the
    /// only one of a fleet, which nobody else leads. Of three zones none may have a majority, which may be in the
    /// way.
    fn lost_voters(&self) -> Option<(&'static str, String)> {
        let voters = self.truth.ledger.electorate().newest();
        let ledger = &self.truth.ledger;
        let goes = |voter: &HostId| self.hosts[self.by_id[voter]].gone || !ledger.may_vote(*voter);
        let go = voters.hosts().filter(goes).count();
        let others = ledger
            .members()
            .filter(|member| !voters.is_voter(member.host) && ledger.may_vote(member.host));
        let is_needed = (1..voters.list().len()).contains(&go) && !self.plan.zoned;
        (is_needed && others.count() >= go)
            .then(|| ("L7", format!("{go} voters are to go and nobody votes for them")))
    }

    /// A group that is as full as it may be of hosts that a release broke keeps all its other hosts
    /// from every deployment, and those of its neighbours with them. That is what a floor is for:
    /// somebody has to lower it, and to stop what hangs, before anything moves.
    fn unblock(&mut self) {
        if self.now < self.mending.again_at {
            return;
        }
        self.mending.again_at = self.now + 5 * SECOND;
        let hangs = self.mending.by.is_some_and(|by| self.now + self.work_left() > by);
        for host in 0..self.hosts.len() {
            if let Some(desk) = self.desk() {
                self.undrain(desk, host);
            }
        }
        for group in 0..self.plan.groups.len() {
            let name = self.group_name(group);
            let Some(desk) = self.desk() else { continue };
            self.unfreeze(desk, group);
            let Some(known) = self.truth.ledger.group(&name) else { continue };
            let (is_full, runs) = (self.is_full(&known), known.running.is_some());
            let any_broken = known.hosts.iter().any(|host| self.truth.ledger.is_broken(*host));
            let is_empty = known.hosts.is_empty();
            // Of a zone none may be down before bare hosts have had their turn, which comes later.
            let is_refused = hangs && known.group.configuration.zones.is_some();
            let waits = known.running.and_then(|id| self.truth.ledger.deployment(id));
            let canary = |d: &Deployment| d.present_stage().is_some_and(|stage| stage.is_canary);
            let waits = waits.is_some_and(|d| d.paused || d.hold.is_some() || (hangs && canary(d)));
            if waits {
                self.resume_rollout(desk, group);
            }
            if (is_full || is_refused) && !runs && !is_empty {
                self.change_group(desk, group, &plain(), false);
            } else if runs && (any_broken || is_full) && hangs {
                self.stop(desk, group, false);
            }
        }
    }

    /// True if as many hosts of a group, or of a zone of it, may be down as a release has broken there; or none
    /// may, where the floor is as high as the group or the zone, so that no order is taken.
    fn is_full(&self, group: &GroupView<'_>) -> bool {
        let ledger = &self.truth.ledger;
        let is_broken = |host: &&HostId| ledger.is_broken_in(&group.group.name, **host);
        let broken = group.hosts.iter().filter(is_broken).count();
        if (broken > 0 || group.running.is_none()) && group.quota <= broken {
            return true;
        }
        let Some(zones) = &group.group.configuration.zones else { return false };
        let zone = |host: &HostId| ledger.member(*host).and_then(|member| member.zone);
        group.hosts.iter().any(|one| {
            let here = group.hosts.iter().filter(|host| zone(host) == zone(one));
            zones.minimum_healthy.quota(here.clone().count()) <= here.filter(is_broken).count()
        })
    }

    /// What keeps the last deployments from reaching all hosts.
    fn last_missing(&mut self) -> Option<(&'static str, String)> {
        self.unblock();
        let mut first = None;
        for group in 0..self.plan.groups.len() {
            if let Some(missing) = self.last_missing_in(group) {
                first.get_or_insert(missing);
            }
        }
        first.or_else(|| self.unequal_ledgers()).or_else(|| self.unequal_views())
    }

    fn last_missing_in(&mut self, group: usize) -> Option<(&'static str, String)> {
        let name = self.group_name(group);
        let known = self.truth.ledger.group(&name)?;
        if known.hosts.is_empty() {
            return None;
        }
        let done = self.people.last_release(group);
        let deployments = self.truth.ledger.deployments();
        let last = deployments.iter().find(|deployment| Some(deployment.release) == done);
        let what = match last.map(|last| &last.status) {
            Some(DeploymentStatus::Succeeded) => return None,
            Some(DeploymentStatus::Failed { reason }) => format!("failed: {reason}"),
            Some(
                DeploymentStatus::Queued
                | DeploymentStatus::InProgress
                | DeploymentStatus::Stopping,
            ) => {
                let why = last.map(|last| self.stuck(last)).unwrap_or_default();
                format!("hangs: {why}")
            }
            // None was taken yet, or it hung in the way of others and was stopped: once more.
            Some(DeploymentStatus::Stopped) | None => {
                self.deploy_last(group);
                "is not taken".into()
            }
        };
        Some(("L5", format!("the last deployment of {name} {what}")))
    }

    fn deploy_last(&mut self, group: usize) {
        if !self.people.may_try_again(group, self.now) {
            return;
        }
        if let Some(desk) = self.desk() {
            let name = self.group_name(group);
            let known = self.truth.ledger.group(&name);
            let floor = known.map(|known| known.group.configuration.minimum_healthy);
            let configuration = floor.map(Into::into);
            let manner = Manner { configuration, ..Manner::default() };
            let release = self.begin_deploy(desk, group, Bad::Nowhere, false, manner);
            self.people.tried_last(group, release, self.now + 12 * SECOND);
        }
    }

    /// Which hosts a deployment waits for, and what they say of themselves.
    fn stuck(&self, deployment: &Deployment) -> String {
        let ledger = &self.truth.ledger;
        let mut text = format!("{:?}, {}", deployment.status, ledger.why_waiting(deployment.id));
        let grant_to = |host: &HostId| Grant {
            host: *host,
            order: deployment.order,
            release: deployment.release,
        };
        let waits = deployment.targets.iter().find(|(_, t)| t.status == TargetStatus::Waiting);
        if let Some((host, _)) = waits
            && let Err(refusal) = ledger.check(UnixSeconds(0), &Entry::Grant(grant_to(host)))
        {
            text.push_str(&format!(", {refusal}"));
        }
        for (host, target) in &deployment.targets {
            if target.status.is_over() {
                continue;
            }
            let index = self.by_id[host];
            let record = self.node(index).and_then(|node| node.view().get(*host));
            let groups = record.map(|record| &record.groups).into_iter().flatten();
            let said = groups.filter(|status| status.group == deployment.group);
            let said: Vec<_> = said.map(|status| format!("{:?}", status.state)).collect();
            text.push_str(&format!("; host {index} {:?}, says {said:?}", target.status));
        }
        text
    }

    /// What differs from ledger to ledger.
    fn unequal_ledgers(&self) -> Option<(&'static str, String)> {
        let there = (0..self.hosts.len()).filter(|host| !self.hosts[*host].gone);
        let there: Vec<_> = there.collect();
        let nodes: Vec<_> = there.iter().filter_map(|host| self.node(*host)).collect();
        if nodes.len() < there.len() {
            return Some(("L9", "not every host is up".into()));
        }
        let leads = |node: &&Node| node.consensus().is_some_and(Consensus::is_leading);
        let leaders = nodes.iter().copied().filter(|node| leads(node)).count();
        if leaders != 1 {
            return Some(("L3", format!("{leaders} leaders")));
        }
        let applied = self.truth.applied();
        for (host, node) in there.iter().copied().zip(&nodes) {
            let here = node.ledger().applied_index();
            if here != applied {
                return Some(("L9", format!("host {host} has applied {here} of {applied}")));
            }
            if !node.is_heard() {
                return Some(("L1", format!("host {host} has forgotten what it said itself")));
            }
            if !node.ledger().is_member(self.hosts[host].id) {
                return Some(("L9", format!("host {host} is no member")));
            }
        }
        if self.truth.ledger.member_count() != there.len() {
            return Some(("L9", "whoever is gone is still a member".into()));
        }
        None
    }

    /// What differs from view to view. Each is held against every host that it is about, so this is asked
    /// last, when all else is as it should be.
    fn unequal_views(&self) -> Option<(&'static str, String)> {
        let version = |record: &Record| (record.epoch, record.sequence);
        let there = (0..self.hosts.len()).filter(|host| !self.hosts[*host].gone);
        let there: Vec<_> = there.filter_map(|host| Some((host, self.node(host)?))).collect();
        let own = |(host, node): &(usize, &Node)| {
            let id = self.hosts[*host].id;
            (*host, id, node.view().get(id).map(version))
        };
        let own: Vec<_> = there.iter().map(own).collect();
        if let Some((other, ..)) = own.iter().find(|(_, id, _)| !self.truth.ledger.is_healthy(*id))
        {
            return Some(("L6", format!("host {other} counts as unhealthy")));
        }
        for (host, node) in there {
            for (other, id, newest) in &own {
                if node.view().get(*id).map(version) != *newest {
                    return Some(("L1", format!("host {host} has an old record of {other}")));
                }
                let standing = node.standing(*id);
                if !matches!(standing, Standing::Reachable) {
                    return Some(("L6", format!("host {host} calls {other} {standing:?}")));
                }
            }
        }
        None
    }
}
/// Orders that come late, of all that people had given.
const EXTENDED_MAX: u32 = 4;

//! What operators do: groups, releases, orders and stops, signed with what the host that they sit at
//! knows, and handed in there.

use std::collections::BTreeMap;

use groundswell_protocol::{
    consensus::Consensus,
    ids::{ApplicationName, Digest, GroupName, HostId, HostName, Labels, ReleaseLabel},
    node::{Input, Node},
    rollout::{DeploymentConfiguration, Entry, Hold, Stamped, TargetStatus},
    time::UnixSeconds,
    trust::{Action, Deploy, Document, Drain, Group, Order, Release, Removal, Signed},
};

use crate::{
    coverage::Situation,
    dice::Dice,
    execute_steps,
    founding::{certificate, labels_of, person},
    host::{Doom, Host},
    plan::{Bad, Border, ChoreKind, Micros, SECOND, Terms},
    world::{Event, World},
};

/// What operators have in mind and remember.
pub(crate) struct People {
    dice: Dice,
    /// Where each release fails.
    releases: BTreeMap<Digest, Bad>,
    named: u64,
    /// What somebody does as soon as the next host gets its slot.
    waiting: Vec<ChoreKind>,
    /// Somebody waits to stop what the next host begins with.
    stops_at_beginning: bool,
    /// Orders that were given.
    orders: Vec<Signed<Order>>,
    /// Hosts that were removed.
    removals: Vec<(HostId, Signed<Removal>)>,
    drains: Vec<Signed<Drain>>,
    /// The last deployment of each group: its release, and when the next attempt may be made.
    last: BTreeMap<usize, (Digest, Micros)>,
}

/// An order that is given once its release is known.
#[derive(Debug)]
pub(crate) struct Intent {
    /// The group.
    pub(crate) group: usize,
    /// The release.
    pub(crate) release: Digest,
    /// Whether the last good release is named to go back to.
    pub(crate) fallback: bool,
    /// The rest of the order.
    pub(crate) manner: Manner,
}

/// How a deployment is ordered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// In place of the group's configuration.
    pub(crate) configuration: Option<DeploymentConfiguration>,
    /// It may wait for its turn.
    pub(crate) queue: bool,
    /// Hosts that run the release already are left alone.
    pub(crate) only_outdated: bool,
}

impl People {
    /// Nobody has done anything.
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            dice,
            releases: BTreeMap::new(),
            named: 0,
            waiting: Vec::new(),
            stops_at_beginning: false,
            orders: Vec::new(),
            removals: Vec::new(),
            drains: Vec::new(),
            last: BTreeMap::new(),
        }
    }

    /// True once somebody has released something.
    pub(crate) fn has_deployed(&self) -> bool {
        !self.releases.is_empty()
    }

    /// What was to be done when a slot was granted.
    pub(crate) fn grant_came(&mut self) -> Vec<ChoreKind> {
        std::mem::take(&mut self.waiting)
    }

    /// True if somebody has signed that a host is removed, whether the fleet has heard of it or not.
    pub(crate) fn have_removed(&self, host: HostId) -> bool {
        self.removals.iter().any(|(removed, _)| *removed == host)
    }

    /// Hosts that were removed, as it was signed.
    pub(crate) fn removals(&self) -> Vec<Signed<Removal>> {
        self.removals.iter().map(|(_, removal)| removal.clone()).collect()
    }

    /// The release of a group's last deployment, once it was tried.
    pub(crate) fn last_release(&self, group: usize) -> Option<Digest> {
        self.last.get(&group).map(|(release, _)| *release)
    }

    pub(crate) fn may_try_again(&self, group: usize, now: Micros) -> bool {
        self.last.get(&group).is_none_or(|(_, again_at)| now >= *again_at)
    }

    pub(crate) fn tried_last(&mut self, group: usize, release: Option<Digest>, again_at: Micros) {
        if let Some(release) = release {
            self.last.insert(group, (release, again_at));
        }
    }

    /// The step at which a release fails on a host; always the same.
    pub(crate) fn fails_at(&self, release: Digest, host: usize) -> Option<usize> {
        let bad = self.releases.get(&release).copied().unwrap_or(Bad::Nowhere);
        let mut dice = Dice::new(u64::from(release.0[0]) << 32 | host as u64);
        let step = dice.index(execute_steps());
        let fails = match bad {
            Bad::Nowhere => false,
            Bad::Everywhere => true,
            Bad::OneIn(of) => dice.index(of.into()) == 0,
        };
        fails.then_some(step)
    }

    /// Makes a release of an application.
    pub(crate) fn release(&mut self, world_seed: u64, group: usize, bad: Bad) -> Release {
        self.named += 1;
        let label = format!("{}.{}.{bad:?}", self.named, world_seed % 1000);
        let label: String =
            label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
        Release {
            manifest: Digest::of_content(label.as_bytes()),
            label: ReleaseLabel::new(label).expect("a good label"),
            parent: None,
            created_at: UnixSeconds(1_700_000_000),
            application: application(group),
            architecture: None,
            environments: Vec::new(),
            content_bytes: 1,
            manifest_bytes: 1,
        }
    }
}

fn application(group: usize) -> ApplicationName {
    ApplicationName::new(format!("application-{group}")).expect("a good name")
}

impl World {
    /// The name of a group of the plan.
    pub(crate) fn group_name(&self, group: usize) -> GroupName {
        GroupName::new(self.plan.groups[group].name.clone()).expect("a good name")
    }

    /// A host that somebody can sit at.
    pub(crate) fn desk(&mut self) -> Option<usize> {
        let up: Vec<_> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].node.is_some() && self.hosts[*host].paused.is_none())
            .collect();
        (!up.is_empty()).then(|| *self.people.dice.pick(&up))
    }

    /// Does what the plan says.
    pub(crate) fn chore(&mut self, index: usize) {
        let kind = self.plan.chores[index].kind.clone();
        self.trace.mix(&[20, index as u64]);
        self.do_chore(&kind);
    }

    /// Somebody does something, unless everything is over.
    pub(crate) fn do_chore(&mut self, kind: &ChoreKind) {
        let Some(desk) = self.desk().filter(|_| !self.healed) else { return };
        self.trace.say(self.now, || format!("at host {desk}: {kind:?}"));
        match kind {
            ChoreKind::Group { group, terms, widen } => {
                self.change_group(desk, *group, terms, *widen);
            }
            ChoreKind::Deploy { group, bad, fallback, configuration, queue, only_outdated } => {
                let configuration = configuration.as_deref().cloned();
                let (queue, only_outdated) = (*queue, *only_outdated);
                let manner = Manner { configuration, queue, only_outdated };
                self.begin_deploy(desk, *group, *bad, *fallback, manner);
            }
            ChoreKind::Stop { group, rollback } => self.stop(desk, *group, *rollback),
            ChoreKind::Pause { group, lasts } => {
                if let Some(order) = self.running_order(desk, *group) {
                    self.order(desk, self.group_name(*group), Action::Pause { order });
                    let resume = ChoreKind::Resume { group: *group };
                    self.queue.plan(self.now + lasts, Event::Later(Box::new(resume)));
                }
            }
            ChoreKind::Resume { group } => self.resume_rollout(desk, *group),
            ChoreKind::Rollback { group } => self.go_back(desk, *group),
            ChoreKind::Drain { host, lasts } => {
                let undrain = ChoreKind::Undrain { host: *host };
                self.drain(desk, *host, true);
                self.queue.plan(self.now + lasts, Event::Later(Box::new(undrain)));
            }
            ChoreKind::Undrain { host } => self.undrain(desk, *host),
            ChoreKind::Freeze { group, lasts } => {
                self.order(desk, self.group_name(*group), Action::Freeze);
                let unfreeze = ChoreKind::Unfreeze { group: *group };
                self.queue.plan(self.now + lasts, Event::Later(Box::new(unfreeze)));
            }
            ChoreKind::Unfreeze { group } => self.unfreeze(desk, *group),
            ChoreKind::ReleaseSlot { group, stands_still } => {
                self.release_slot(desk, *group, *stands_still);
            }
            ChoreKind::GiveUp { group, holder, token } => {
                self.give_up(desk, *group, *holder, *token);
            }
            ChoreKind::Waive => self.waive(desk),
            ChoreKind::Remove { host } => self.remove(desk, *host),
            ChoreKind::Install { host } => self.install_anew(*host),
            ChoreKind::Relabel { host, a, b } => {
                self.relabel(*host, labels_of(&[("a", *a), ("b", *b)]), true);
            }
            ChoreKind::VoteNoMore { leads } => self.vote_no_more(*leads),
            ChoreKind::GiveAgain => {
                if !self.people.orders.is_empty() {
                    self.coverage.met(Situation::OrderGivenAgain);
                    let order = self.people.dice.pick(&self.people.orders).clone();
                    self.feed(desk, Input::Submit(Entry::Order(order)));
                }
            }
            ChoreKind::StopAtBeginning => self.people.stops_at_beginning = true,
            ChoreKind::AtGrant(kind) => self.people.waiting.push((**kind).clone()),
        }
    }

    /// The order of the deployment that runs in a group, as far as it is known at a desk.
    fn running_order(&self, desk: usize, group: usize) -> Option<Digest> {
        let ledger = self.node(desk)?.ledger();
        let running = ledger.group(&self.group_name(group))?.running?;
        Some(ledger.deployment(running)?.order)
    }

    pub(crate) fn unfreeze(&mut self, desk: usize, group: usize) {
        let name = self.group_name(group);
        if self.truth.ledger.group(&name).is_some_and(|group| group.frozen.is_some()) {
            self.order(desk, name, Action::Unfreeze);
        }
    }

    pub(crate) fn undrain(&mut self, desk: usize, host: usize) {
        if self.truth.ledger.is_drained(self.hosts[host].id) {
            self.drain(desk, host, false);
        }
    }

    /// Signs that a host is drained, or given back. Now and then an old word is handed in once more.
    fn drain(&mut self, desk: usize, host: usize, drained: bool) {
        let id = self.hosts[host].id;
        let Some(node) = self.node(desk) else { return };
        let drain = Drain {
            host: id,
            name: HostName::new(format!("h{host}")).expect("a good name"),
            drained,
            sequence: node.ledger().drain_sequence(id) + 1,
            reason: String::new(),
            issued_at: self.hosts[desk].wall(self.now),
            not_after: None,
        };
        if let Some(signed) = self.sign(&drain, 2) {
            self.people.drains.push(signed.clone());
            self.feed(desk, Input::Submit(Entry::Drain(signed)));
        }
        if self.people.dice.permille(300) {
            let old = self.people.dice.pick(&self.people.drains).clone();
            self.feed(desk, Input::Submit(Entry::Drain(old)));
        }
    }

    /// Lets go on what is paused, waits for somebody to look at its canary, or bakes by a clock that was
    /// far ahead, or waits for a canary that says nothing.
    pub(crate) fn resume_rollout(&mut self, desk: usize, group: usize) {
        let name = self.group_name(group);
        let Some(node) = self.node(desk) else { return };
        let running = node.ledger().group(&name).and_then(|known| known.running);
        let Some(running) = running.and_then(|id| node.ledger().deployment(id)) else { return };
        let now = self.hosts[desk].wall(self.now);
        let far = |until: UnixSeconds| until.0 > now.0 + 60;
        let waits = match running.hold {
            Some(Hold::Canary) => true,
            Some(Hold::Bake { until }) => far(until),
            None => running.paused,
        };
        let canary = running.present_stage().is_some_and(|stage| stage.is_canary);
        let at_work = |status: &TargetStatus| matches!(status, TargetStatus::InProgress { .. });
        let silent = canary && running.count(at_work) == 0;
        if waits || silent || running.paused {
            let order = running.order;
            self.order(desk, name, Action::Resume { order });
        }
    }

    /// Orders the way back to the last good release, or to any other.
    fn go_back(&mut self, desk: usize, group: usize) {
        let name = self.group_name(group);
        let Some(node) = self.node(desk) else { return };
        let Some(known) = node.ledger().group(&name) else { return };
        let fits = node.ledger().releases().filter(|(_, r)| r.application == application(group));
        let any: Vec<_> = fits.map(|(id, _)| id).collect();
        let (version, good) = (known.group.version, known.last_good);
        let strange = !any.is_empty() && self.people.dice.permille(400);
        let meant = if strange { Some(*self.people.dice.pick(&any)) } else { good };
        if let Some(release) = meant {
            self.order(desk, name, Action::Rollback(Deploy::plain(release, version)));
        }
    }

    /// Has an eye on a host that holds a slot of a group. It may be as alive as any other.
    fn release_slot(&mut self, desk: usize, group: usize, stands_still: Option<Micros>) {
        let name = self.group_name(group);
        let Some(node) = self.node(desk) else { return };
        let ledger = node.ledger();
        let of_group = |deployment| ledger.deployment(deployment).is_some_and(|d| d.group == name);
        let slots = ledger.slots().filter(|slot| of_group(slot.deployment));
        let slots: Vec<_> = slots.map(|slot| (slot.host, slot.token)).collect();
        if slots.is_empty() {
            return;
        }
        let at_work =
            slots.iter().filter(|(host, token)| self.truth.is_disturbed_by(*host, *token));
        let at_work: Vec<_> = at_work.copied().collect();
        if stands_still.is_some() && at_work.is_empty() && self.people.dice.permille(900) {
            // Better wait until the holder is in the middle of it.
            let kind = ChoreKind::ReleaseSlot { group, stands_still };
            self.queue.plan(self.now + SECOND / 5, Event::Later(Box::new(kind)));
            return;
        }
        let of = if stands_still.is_some() && !at_work.is_empty() { &at_work } else { &slots };
        let (host, token) = *self.people.dice.pick(of);
        let holder = self.by_id[&host];
        if let Some(lasts) = stands_still.filter(|_| holder != desk) {
            if self.hosts[holder].node.is_some() {
                self.coverage.met(Situation::ReleasedHolderWasAlive);
            }
            self.pause(holder, true, self.now + lasts);
        }
        self.give_up(desk, group, holder, token);
    }

    /// Writes off a host that holds a slot. Few try that before it is silent.
    fn give_up(&mut self, desk: usize, group: usize, holder: usize, token: u64) {
        let host = self.hosts[holder].id;
        let Some(ledger) = self.node(desk).map(Node::ledger) else { return };
        if ledger.slot_of(host).is_none_or(|slot| slot.token != token) {
            return;
        }
        let waits = ledger.is_healthy(host) && self.people.dice.permille(950);
        if waits && !self.healed {
            let kind = ChoreKind::GiveUp { group, holder, token };
            return self.queue.plan(self.now + SECOND, Event::Later(Box::new(kind)));
        }
        self.order(desk, self.group_name(group), Action::ReleaseSlot { host, token });
    }

    /// Writes off a host that has not said what it holds since the voters were lost. Not every operator looks
    /// twice.
    fn waive(&mut self, desk: usize) {
        let Some(node) = self.node(desk) else { return };
        let ledger = node.ledger();
        let recovered_at = ledger.electorate().recovered_at();
        let members: Vec<_> = ledger.members().map(|member| member.host).collect();
        let is_meant = |host: &HostId| ledger.is_uncounted(*host) && !ledger.is_healthy(*host);
        let gone: Vec<_> = members.iter().copied().filter(is_meant).collect();
        let silent: Vec<_> =
            members.iter().copied().filter(|host| ledger.is_uncounted(*host)).collect();
        let careless = self.people.dice.permille(400);
        let of = if careless { silent } else { gone };
        if recovered_at == 0 || of.is_empty() {
            return;
        }
        let host = *self.people.dice.pick(&of);
        let groups = self.truth.rules.groups_of(host);
        let generation = recovered_at - u64::from(self.people.dice.permille(500));
        if let Some(group) = groups.first().cloned() {
            self.order(desk, group, Action::Waive { host, generation });
        }
    }

    /// Removes a host for good. It is switched off some time after it is out.
    fn remove(&mut self, desk: usize, fallback: usize) {
        // Whoever holds a slot just now is removed at the worst moment.
        let replaced = |host: usize| self.plan.hosts.iter().any(|p| p.replaces == Some(host));
        let slots = self.node(desk).into_iter().flat_map(|node| node.ledger().slots());
        let holders = slots.map(|slot| self.by_id[&slot.host]);
        let holders = holders.filter(|host| !replaced(*host));
        let host = holders.filter(|host| self.plan.hosts[*host].replaces.is_none()).last();
        let host = host.unwrap_or(fallback);
        // One of those whose addresses everybody was given stays.
        let is_out = |seed: usize| seed == host || self.people.have_removed(self.hosts[seed].id);
        if self.seeds().contains(&host) && self.seeds().all(is_out) {
            return;
        }
        // With whom they have just gone on they do not remove on the side that was left.
        let voters = self.truth.ledger.electorate().newest();
        // Nor where the ledger, which asks for the others, has not seen yet that one of them is gone.
        let ledger = &self.truth.ledger;
        let is_missed = |voter| self.hosts[self.by_id[&voter]].gone && ledger.is_healthy(voter);
        // Nor where one of them has to be told by all others what it has forgotten.
        let is_told = self.hosts.iter().any(Host::is_put_back);
        let is_needed = self.truth.abandoned.is_some() || voters.hosts().any(is_missed) || is_told;
        if is_needed && voters.is_voter(self.hosts[host].id) {
            return;
        }
        let removal = Removal {
            host: self.hosts[host].id,
            name: HostName::new(format!("h{host}")).expect("a good name"),
            reason: String::new(),
            issued_at: self.hosts[desk].wall(self.now),
        };
        if let Some(signed) = self.sign(&removal, 2) {
            self.people.removals.push((removal.host, signed.clone()));
            self.feed(desk, Input::Submit(Entry::Remove(signed)));
        }
    }

    /// True if a list of voters that was proposed somewhere names a host, and nobody has agreed on that yet.
    fn is_to_vote(&self, host: HostId) -> bool {
        let open = self.truth.applied() + 1..;
        let mut logs = self.hosts.iter().flat_map(|other| other.disk.log.range(open.clone()));
        logs.any(|(_, entry)| match Stamped::from_bytes(&entry.data).map(|stamped| stamped.entry) {
            Ok(Entry::NextVoters(next)) => next.voters.iter().any(|voter| voter.host == host),
            _ => false,
        })
    }

    /// A machine is installed anew: what it was is gone, and what it becomes has another key.
    fn install_anew(&mut self, host: usize) {
        let Some(old) = self.hosts[host].plan.replaces else { return };
        // Where one was put back and has to be told by the rest nobody goes, nor while the voters that are left
        // are being joined by others: any host may be the next of two.
        let voters = self.truth.ledger.electorate().newest();
        let was_lost = self.truth.abandoned.is_some();
        let is_growing = was_lost && voters.list().len() < self.plan.voters;
        let is_doubtful = self.hosts.iter().any(|host| host.forgotten.is_some());
        // Whoever votes is needed since others were lost, or one is gone and not replaced yet.
        let is_out = |voter| self.hosts[self.by_id[&voter]].gone || self.people.have_removed(voter);
        let is_needed = was_lost || voters.hosts().any(is_out);
        let old_id = self.hosts[old].id;
        let votes = is_needed && voters.is_voter(old_id) || self.is_to_vote(old_id);
        if self.hosts[old].gone || !self.hosts[host].gone || votes || is_growing || is_doubtful {
            return;
        }
        self.coverage.met(Situation::HostInstalledAnew);
        if old < self.plan.voters {
            self.coverage.met(Situation::FirstVoterInstalledAnew);
        }
        self.scrap(old);
        // It may have been given other labels since the certificate was made.
        let incarnation = self.hosts[old].incarnation + 1;
        let Host { plan, disk, .. } = &mut self.hosts[host];
        let labels = labels_of(&[("a", plan.a), ("b", plan.b)]);
        let cert = certificate(&self.plan, &self.trust, &person(3), host, labels, incarnation);
        disk.cert = Some(cert);
        (self.hosts[host].incarnation, self.hosts[host].gone) = (incarnation, false);
        let at = self.now + self.people.dice.between(SECOND, 10 * SECOND);
        self.queue.plan(at, Event::Boot { host });
    }

    /// A voter is to vote no more. Its certificate comes to it from the others while it runs.
    fn vote_no_more(&mut self, leads: bool) {
        let voters = self.truth.ledger.electorate().newest().hosts();
        let mut voters: Vec<_> = voters.map(|voter| self.by_id[&voter]).collect();
        if leads {
            voters.retain(|host| {
                self.node(*host).and_then(Node::consensus).is_some_and(Consensus::is_leading)
            });
        }
        if voters.is_empty() {
            return;
        }
        let host = *self.people.dice.pick(&voters);
        let cert = self.hosts[host].disk.cert.as_ref();
        let member = cert.and_then(|cert| cert.verify_signatures(&self.trust).ok());
        let Some(member) = member.filter(|_| self.truth.ledger.may_vote(self.hosts[host].id))
        else {
            return;
        };
        if let Ok(labels) = format!("{},voter=never", member.content().labels).parse() {
            self.relabel(host, labels, false);
        }
    }

    /// Gives a host other labels: a new certificate, with which it starts again if `restarts`.
    fn relabel(&mut self, host: usize, labels: Labels, restarts: bool) {
        if self.hosts[host].gone {
            return;
        }
        self.hosts[host].incarnation += 1;
        let incarnation = self.hosts[host].incarnation;
        let cert = certificate(&self.plan, &self.trust, &person(3), host, labels, incarnation);
        let member = cert.member.id(self.trust.fleet());
        if restarts {
            self.kill_daemon(host, false);
            let at = self.now + self.people.dice.between(100_000, 2 * SECOND);
            self.queue.plan(at, Event::StartDaemon { host });
        }
        self.hosts[host].disk.cert = Some(cert);
        self.enrol_again(host, member);
    }

    /// Hands the newest certificate of a host in until the fleet counts it.
    pub(crate) fn enrol_again(&mut self, host: usize, member: Digest) {
        let id = self.hosts[host].id;
        let Some(cert) = self.hosts[host].disk.cert.clone() else { return };
        let counts = self.truth.ledger.admission(member).is_some();
        let is_newest = cert.member.id(self.trust.fleet()) == member;
        if counts || !is_newest || self.hosts[host].gone {
            return;
        }
        let mut running = self.truth.ledger.deployments().into_iter();
        let busy = running.any(|deployment| {
            let its = deployment.targets.get(&id);
            !deployment.status.is_over() && its.is_some_and(|target| !target.status.is_over())
        });
        if busy {
            self.coverage.met(Situation::MembersChangedInRollout);
        }
        if let Some(desk) = self.desk() {
            self.feed(desk, Input::Submit(Entry::Admit(Box::new(cert))));
        }
        self.queue.plan(self.now + 5 * SECOND, Event::Enrol { host, member });
    }

    pub(crate) fn change_group(&mut self, desk: usize, group: usize, terms: &Terms, widen: bool) {
        let name = self.group_name(group);
        let plan = &self.plan.groups[group];
        let Some(node) = &self.hosts[desk].node else { return };
        let known = node.ledger().group(&name);
        let filter = match &known {
            _ if widen => labels_of(&[]),
            Some(known) => known.group.filter.clone(),
            None => labels_of(&plan.filter),
        };
        if let Some(known) = known.as_ref().filter(|known| known.running.is_some()) {
            self.coverage.met(Situation::GroupChangedInRollout);
            let before = known.group.configuration.minimum_healthy.quota(known.hosts.len());
            if terms.configuration.minimum_healthy.quota(known.hosts.len()) < before {
                self.coverage.met(Situation::QuotaLoweredInRollout);
            }
        }
        let document = Group {
            version: known.map_or(0, |known| known.group.version) + 1,
            name,
            filter,
            application: application(group),
            configuration: terms.configuration.clone(),
            failure_budget: terms.failure_budget,
            automatic_rollback: true,
            catch_up: terms.catch_up,
            deploy_to_new_hosts: terms.deploy_to_new_hosts,
            minimum_healthy_seconds: plan.watch_seconds,
        };
        if let Some(signed) = self.sign(&document, 2) {
            self.feed(desk, Input::Submit(Entry::Group(signed)));
        }
    }

    pub(crate) fn begin_deploy(
        &mut self,
        desk: usize,
        group: usize,
        bad: Bad,
        fallback: bool,
        manner: Manner,
    ) -> Option<Digest> {
        let document = self.people.release(self.plan.seed, group, bad);
        let signed = self.sign(&document, 1)?;
        let release = signed.id(self.trust.fleet());
        self.people.releases.insert(release, bad);
        self.feed(desk, Input::Submit(Entry::Release(signed)));
        let intent = Box::new(Intent { group, release, fallback, manner });
        let at = self.now + self.people.dice.between(300_000, 3 * SECOND);
        self.queue.plan(at, Event::Order(intent));
        Some(release)
    }

    /// Orders the deployment of a release, at a host that may or may not know it.
    pub(crate) fn intend(&mut self, intent: &Intent) {
        let Some(desk) = self.desk() else { return };
        self.trace.mix(&[21, desk as u64]);
        let Some(node) = &self.hosts[desk].node else { return };
        let name = self.group_name(intent.group);
        let Some(known) = node.ledger().group(&name) else { return };
        // Mostly the last good one; now and then somebody remembers another, which may be a bad one.
        let fits = |release: &Digest| {
            let known_there = node.ledger().release(*release);
            known_there.is_some_and(|release| release.application == application(intent.group))
        };
        let any: Vec<_> = self.people.releases.keys().copied().filter(fits).collect();
        let strange = !any.is_empty() && self.people.dice.permille(300);
        let meant = if strange { Some(*self.people.dice.pick(&any)) } else { known.last_good };
        let fallback = meant.filter(|meant| intent.fallback && *meant != intent.release);
        let deploy = Deploy {
            release: intent.release,
            fallback,
            configuration: intent.manner.configuration.clone(),
            queue: intent.manner.queue,
            only_outdated: intent.manner.only_outdated,
            group_version: known.group.version,
            file_exists_behavior: None,
            ignore_application_stop_failures: false,
        };
        self.order(desk, name, Action::Deploy(deploy));
    }

    pub(crate) fn stop(&mut self, desk: usize, group: usize, rollback: bool) {
        let Some(order) = self.running_order(desk, group) else { return };
        let Some(node) = self.node(desk) else { return };
        if node.ledger().slots().any(|slot| slot.order == order) {
            self.coverage.met(Situation::StopRacedGrant);
        }
        if !self.healed && self.people.dice.permille(250) {
            // The host dies while it spreads the word, and the voters hear of it from others.
            self.coverage.met(Situation::StopCutShort);
            let skip = u32::try_from(self.people.dice.between(0, 3)).unwrap_or(0);
            let down_for = self.people.dice.between(SECOND, 20 * SECOND);
            self.hosts[desk].doomed = Some(Doom { border: Border::AfterSend, skip, down_for });
        }
        self.order(desk, self.group_name(group), Action::Stop { order, rollback });
    }

    /// The worst moment for a stop: the executor of a host has begun, and its daemon does not know.
    pub(crate) fn stop_at_beginning(&mut self, host: usize, name: &GroupName) {
        let group = self.plan.groups.iter().position(|group| group.name == name.as_str());
        let Some(group) = group.filter(|_| self.hosts[host].paused.is_none()) else { return };
        if !std::mem::take(&mut self.people.stops_at_beginning) {
            return;
        }
        self.coverage.met(Situation::StopRacedBeginning);
        self.stop(host, group, false);
    }

    fn order(&mut self, desk: usize, group: GroupName, action: Action) {
        let Some(node) = &self.hosts[desk].node else { return };
        let (sequence, parent) = node.ledger().head(&group);
        let forked = !self.healed && self.people.dice.permille(60);
        let short = !self.healed && self.people.dice.permille(100);
        let expires = short.then(|| self.people.dice.between(5, 60));
        let order = Order {
            group,
            action,
            parent: if forked { Digest([7; 32]) } else { parent },
            reason: String::new(),
            // Now and then somebody signs two in advance, and the first one is lost.
            sequence: sequence + if forked { 2 } else { 1 },
            issued_at: self.hosts[desk].wall(self.now),
            not_after: expires
                .map(|seconds| UnixSeconds(self.hosts[desk].wall(self.now).0 + seconds)),
        };
        if forked {
            self.coverage.met(Situation::OrderSkipped);
        }
        self.trace.say(self.now, || {
            format!(
                "at host {desk}: order {} of {}: {:?}",
                order.sequence, order.group, order.action
            )
        });
        if let Some(signed) = self.sign(&order, 2) {
            self.people.orders.push(signed.clone());
            self.feed(desk, Input::Submit(Entry::Order(signed)));
        }
    }

    fn sign<T: Document>(&self, document: &T, role: usize) -> Option<Signed<T>> {
        Signed::new(document, self.trust.fleet(), &[&person(role)]).ok()
    }

    /// What a host knows of the ledger.
    pub(crate) fn node(&self, host: usize) -> Option<&Node> {
        self.hosts[host].node.as_ref()
    }
}

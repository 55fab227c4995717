//! What operators do: groups, releases, orders and stops, signed with what the host that they sit at
//! knows, and handed in there.

use std::collections::{BTreeMap, BTreeSet};

use groundswell_protocol::{
    ids::{ApplicationName, Digest, GroupName, ReleaseLabel},
    node::{Input, Node},
    rollout::{Entry, MinimumHealthy},
    trust::{Action, Deploy, Document, Group, Order, Release, Signed},
};

use crate::{
    coverage::Situation,
    dice::Dice,
    execute_steps,
    plan::{Bad, ChoreKind, Micros, SECOND},
    world::{Event, World, labels_of, person},
};

/// What operators have in mind and remember.
pub(crate) struct People {
    dice: Dice,
    /// Where each release fails.
    releases: BTreeMap<Digest, Bad>,
    named: u64,
    /// Groups in which somebody stops as soon as the next host gets its slot.
    stopping: BTreeSet<usize>,
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
    /// In place of the group's configuration.
    pub(crate) configuration: Option<MinimumHealthy>,
}

impl People {
    /// Nobody has done anything.
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            dice,
            releases: BTreeMap::new(),
            named: 0,
            stopping: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    /// True once somebody has released something.
    pub(crate) fn has_deployed(&self) -> bool {
        !self.releases.is_empty()
    }

    fn waits_to_stop(&mut self, group: usize) {
        self.stopping.insert(group);
    }

    /// Groups in which somebody has waited for a slot to be granted.
    pub(crate) fn stop_now(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.stopping)
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
            created_at: groundswell_protocol::time::UnixSeconds(1_700_000_000),
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
        let kind = self.plan.chores[index].kind;
        let Some(desk) = self.desk().filter(|_| !self.healed) else { return };
        self.trace.mix(&[20, index as u64]);
        self.trace.say(self.now, || format!("at host {desk}: {kind:?}"));
        match kind {
            ChoreKind::Group { group, configuration, widen } => {
                self.change_group(desk, group, configuration, widen);
            }
            ChoreKind::Deploy { group, bad, fallback, configuration } => {
                self.begin_deploy(desk, group, bad, fallback, configuration);
            }
            ChoreKind::Stop { group, at_grant: false } => self.stop(desk, group),
            ChoreKind::Stop { group, at_grant: true } => self.people.waits_to_stop(group),
        }
    }

    pub(crate) fn change_group(
        &mut self,
        desk: usize,
        group: usize,
        configuration: MinimumHealthy,
        widen: bool,
    ) {
        let name = self.group_name(group);
        let plan = &self.plan.groups[group];
        let Some(node) = &self.hosts[desk].node else { return };
        let known = node.ledger().group(&name);
        let filter = match &known {
            _ if widen => labels_of(&[]),
            Some(known) => known.group.filter.clone(),
            None => labels_of(&plan.filter),
        };
        if known.as_ref().is_some_and(|known| known.running.is_some()) {
            self.coverage.met(Situation::GroupChangedInRollout);
        }
        let document = Group {
            version: known.map_or(0, |known| known.group.version) + 1,
            name,
            filter,
            application: application(group),
            configuration: configuration.into(),
            failure_budget: None,
            automatic_rollback: true,
            catch_up: false,
            deploy_to_new_hosts: false,
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
        configuration: Option<MinimumHealthy>,
    ) -> Option<Digest> {
        let document = self.people.release(self.plan.seed, group, bad);
        let signed = self.sign(&document, 1)?;
        let release = signed.id(self.trust.fleet());
        self.people.releases.insert(release, bad);
        self.feed(desk, Input::Submit(Entry::Release(signed)));
        let intent = Box::new(Intent { group, release, fallback, configuration });
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
            configuration: intent.configuration.map(Into::into),
            queue: false,
            only_outdated: false,
            group_version: known.group.version,
            file_exists_behavior: None,
            ignore_application_stop_failures: false,
        };
        self.order(desk, name, Action::Deploy(deploy));
    }

    pub(crate) fn stop(&mut self, desk: usize, group: usize) {
        let name = self.group_name(group);
        let Some(node) = &self.hosts[desk].node else { return };
        let running = node.ledger().group(&name).and_then(|known| known.running);
        let Some(order) = running.and_then(|id| node.ledger().deployment(id)).map(|d| d.order)
        else {
            return;
        };
        if node.ledger().slots().any(|slot| slot.order == order) {
            self.coverage.met(Situation::StopRacedGrant);
        }
        self.order(desk, name, Action::Stop { order, rollback: false });
    }

    fn order(&mut self, desk: usize, group: GroupName, action: Action) {
        let Some(node) = &self.hosts[desk].node else { return };
        let (sequence, parent) = node.ledger().head(&group);
        let forked = !self.healed && self.people.dice.permille(60);
        let order = Order {
            group,
            action,
            parent: if forked { Digest([7; 32]) } else { parent },
            reason: String::new(),
            // Now and then somebody signs two in advance, and the first one is lost.
            sequence: sequence + if forked { 2 } else { 1 },
            issued_at: self.hosts[desk].wall(self.now),
            not_after: None,
        };
        self.trace.say(self.now, || {
            format!(
                "at host {desk}: order {} of {}: {:?}",
                order.sequence, order.group, order.action
            )
        });
        if let Some(signed) = self.sign(&order, 2) {
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

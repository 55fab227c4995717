//! The ledger: the replicated state of the fleet.
//!
//! Entries are judged by [`Ledger::check`] and carried out by [`Ledger::apply`], which judges again
//! with the same code: on the leader before it proposes, and on every host when the entry is
//! committed. No clock is read; the leader's stamp bounds validity and labels events for people.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    deployment::{Creator, Deployment, DeploymentStatus, Target, TargetStatus},
    entry::{Entry, Grant, Stamped},
    refusal::Refusal,
};
use crate::{
    cbor::{self, DecodeError},
    ids::{DeploymentId, Digest, GroupName, HashDomain, HostId, Labels},
    limits::{DEPLOYMENTS_KEPT_PER_GROUP, GROUPS_PER_HOST_MAX, HOSTS_MAX},
    time::UnixSeconds,
    trust::{
        Action, Deploy, Done, Group, Member, MemberCert, Order, Outcome, Release, Signed, Trust,
        Verified, Want,
    },
};

/// The replicated state. Every host that has applied the same entries has the same one.
pub struct Ledger {
    trust: Arc<Trust>,
    pub(super) state: State,
}

/// All of it, in a form that can be written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) applied: u64,
    pub(super) members: BTreeMap<HostId, Membership>,
    /// Hosts that a token which counts its uses has enrolled.
    pub(super) token_uses: BTreeMap<Digest, BTreeSet<HostId>>,
    pub(super) groups: BTreeMap<GroupName, GroupState>,
    pub(super) releases: BTreeMap<Digest, Signed<Release>>,
    pub(super) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(super) slots: BTreeMap<HostId, Slot>,
    /// Hosts that the fleet's records call unhealthy.
    pub(super) unhealthy: BTreeSet<HostId>,
    /// Hosts that their group's last deployment left without a working revision.
    pub(super) broken: BTreeSet<(GroupName, HostId)>,
}

/// A host of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) cert: MemberCert,
    pub(super) member: Member,
    pub(super) id: Digest,
    pub(super) index: u64,
    pub(super) entry: Digest,
}

/// A deployment group and its orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupState {
    pub(super) group: Group,
    pub(super) signed: Signed<Group>,
    pub(super) orders: Vec<Signed<Order>>,
    pub(super) sequence: u64,
    pub(super) head: Digest,
    pub(super) running: Option<DeploymentId>,
    pub(super) last_good: Option<Digest>,
}

/// A slot that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) token: u64,
    pub(super) entry: Digest,
    pub(super) grant: Grant,
    pub(super) deployment: DeploymentId,
    pub(super) since: UnixSeconds,
}

/// What an entry would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is old news: nothing. Such an entry is not worth a place in the log.
    None,
    /// It changes the ledger.
    Change,
}

/// What an entry came to, after it was judged and before it is carried out.
enum Judged {
    Nothing,
    Admit { cert: Box<MemberCert>, member: Verified<Member>, token: Option<Digest> },
    Group(Verified<Group>),
    Release(Verified<Release>),
    Deploy { order: Verified<Order>, deployment: Box<Deployment> },
    Stop { order: Verified<Order>, deployment: Option<DeploymentId> },
    Want { host: HostId, deployment: DeploymentId },
    Grant { grant: Grant, deployment: DeploymentId },
    Done { host: HostId, outcome: Outcome },
    Health { host: HostId, healthy: bool },
}

impl Ledger {
    /// The empty ledger of a fleet.
    pub fn new(trust: Arc<Trust>) -> Self {
        Self { trust, state: State::default() }
    }

    /// Reads a snapshot. It comes from this host's own disk or from a voter.
    pub fn restore(trust: Arc<Trust>, snapshot: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { trust, state: cbor::decode(snapshot, usize::MAX)? })
    }

    /// The whole state, for [`Ledger::restore`].
    pub fn snapshot(&self) -> Vec<u8> {
        cbor::encode(&self.state)
    }

    /// Names the state: hosts that agree on it agree on everything.
    pub fn state_hash(&self) -> Digest {
        Digest::of(HashDomain::Ledger, &[&self.snapshot()])
    }

    /// Whose signatures count.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The index of the last entry that was applied or passed over.
    pub fn applied_index(&self) -> u64 {
        self.state.applied
    }

    /// Passes over an index at which the log has nothing for the ledger.
    pub fn skip(&mut self, index: u64) {
        self.state.applied = self.state.applied.max(index);
    }

    /// What would come of `entry` if it were applied now.
    pub fn check(&self, at: UnixSeconds, entry: &Entry) -> Result<Effect, Refusal> {
        Ok(match self.judge(at, entry)? {
            Judged::Nothing => Effect::None,
            _ => Effect::Change,
        })
    }

    /// Applies the entry at `index`; `hash` is that of its bytes. A refused entry changes nothing
    /// but the index. True if the state has changed.
    pub fn apply(&mut self, index: u64, hash: Digest, stamped: &Stamped) -> Result<bool, Refusal> {
        assert!(index > self.state.applied, "entries are applied in order, each once");
        self.state.applied = index;
        let at = stamped.at;
        match self.judge(at, &stamped.entry)? {
            Judged::Nothing => return Ok(false),
            Judged::Admit { cert, member, token } => {
                self.admit(at, index, hash, *cert, &member, token)
            }
            Judged::Group(group) => self.set_group(&group),
            Judged::Release(release) => {
                self.state.releases.insert(release.id(), release.signed().clone());
            }
            Judged::Deploy { order, mut deployment } => {
                deployment.index = index;
                self.chain(&order);
                self.begin(*deployment);
            }
            Judged::Stop { order, deployment } => {
                self.chain(&order);
                if let Some(deployment) = deployment.and_then(|id| self.deployment_mut(id)) {
                    deployment.status = DeploymentStatus::Stopping;
                }
            }
            Judged::Want { host, deployment } => {
                if let Some(target) = self.target_mut(deployment, host) {
                    target.status = TargetStatus::Waiting;
                }
            }
            Judged::Grant { grant, deployment } => self.grant(index, hash, at, grant, deployment),
            Judged::Done { host, outcome } => self.free(at, host, outcome),
            Judged::Health { host, healthy: true } => drop(self.state.unhealthy.remove(&host)),
            Judged::Health { host, healthy: false } => drop(self.state.unhealthy.insert(host)),
        }
        self.settle(at);
        Ok(true)
    }

    // --- judging ---

    fn judge(&self, at: UnixSeconds, entry: &Entry) -> Result<Judged, Refusal> {
        match entry {
            Entry::Admit(cert) => self.judge_admit(at, cert),
            Entry::Group(group) => self.judge_group(group),
            Entry::Release(release) => self.judge_release(release),
            Entry::Order(order) => self.judge_order(at, order),
            Entry::Want(want) => self.judge_want(want),
            Entry::Grant(grant) => self.judge_grant(grant),
            Entry::Done(done) => self.judge_done(done),
            Entry::Health { host, healthy } => {
                if !self.is_member(*host) {
                    return Err(Refusal::UnknownHost(host.short()));
                }
                if self.state.unhealthy.contains(host) != *healthy {
                    return Ok(Judged::Nothing);
                }
                Ok(Judged::Health { host: *host, healthy: *healthy })
            }
        }
    }

    fn judge_admit(&self, at: UnixSeconds, cert: &MemberCert) -> Result<Judged, Refusal> {
        // Receipts follow from this entry. In it they would be bytes that nobody looks at.
        if !cert.receipts.is_empty() {
            return Err(Refusal::WithReceipts);
        }
        let member = cert.verify_uncounted(&self.trust, at)?;
        let content = member.content();
        let known = self.state.members.get(&content.host);
        if known.is_some_and(|known| known.id == member.id()) {
            return Ok(Judged::Nothing);
        }
        // Whoever has seen an older one of its certificates could give the host its old labels back.
        if let Some(known) = known.filter(|known| known.member.incarnation >= content.incarnation) {
            let (name, incarnation) = (content.name.clone(), known.member.incarnation);
            return Err(Refusal::NotNewer { name, incarnation });
        }
        if known.is_none() && self.state.members.len() >= HOSTS_MAX {
            return Err(Refusal::FleetFull);
        }
        let groups = self.state.groups.values();
        let groups = groups.filter(|group| group.group.filter.matches(&content.labels)).count();
        if groups > GROUPS_PER_HOST_MAX {
            return Err(Refusal::TooManyGroups { host: content.name.clone() });
        }
        let same_name = |other: &&Membership| {
            other.member.name == content.name && other.member.host != content.host
        };
        if let Some(other) = self.state.members.values().find(same_name)
            && other.member.incarnation >= content.incarnation
        {
            return Err(Refusal::NameTaken { name: content.name.clone() });
        }
        let mut counted = None;
        if let Some(signed) = &cert.token {
            let token = signed
                .verify(self.trust.fleet(), self.trust.root().roles.enrolment.key_set())
                .map_err(Refusal::untrusted("join token"))?;
            if token.content().not_after < at {
                return Err(Refusal::TokenExpired { until: token.content().not_after });
            }
            if let Some(uses) = token.content().uses {
                let used = self.state.token_uses.get(&token.id());
                let others = used
                    .map_or(0, |used| used.iter().filter(|host| **host != content.host).count());
                if others >= usize::try_from(uses.get()).unwrap_or(usize::MAX) {
                    return Err(Refusal::TokenUsedUp { uses: uses.get() });
                }
                counted = Some(token.id());
            }
        }
        Ok(Judged::Admit { cert: Box::new(cert.clone()), member, token: counted })
    }

    fn judge_group(&self, signed: &Signed<Group>) -> Result<Judged, Refusal> {
        let group = self.trust.group(signed).map_err(Refusal::untrusted("deployment group"))?;
        let content = group.content();
        let known = self.state.groups.get(&content.name);
        if known.is_some_and(|known| known.group == *content) {
            return Ok(Judged::Nothing);
        }
        let expected = known.map_or(1, |known| known.group.version + 1);
        not_yet(&content.configuration)?;
        let asks = [
            ("catch_up", content.catch_up),
            ("failure_budget", content.failure_budget.is_some()),
            ("deploy_to_new_hosts", content.deploy_to_new_hosts),
        ];
        if let Some((what, _)) = asks.into_iter().find(|(_, asked)| *asked) {
            return Err(Refusal::NotYet(what));
        }
        if content.version != expected {
            let (group, got) = (content.name.clone(), content.version);
            return Err(Refusal::GroupVersion { group, expected, got });
        }
        if let Some(known) = known {
            if known.group.application != content.application {
                return Err(Refusal::OtherApplication(content.name.clone()));
            }
            // A host that left the group in the middle would hold a slot in a group that it is not in.
            if let Some(running) = known.running.filter(|_| known.group.filter != content.filter) {
                return Err(Refusal::DeploymentRunning(running));
            }
        }
        let in_many_others = |host: &HostId| {
            let others = self.groups_of(*host).filter(|other| other.group.name != content.name);
            others.count() >= GROUPS_PER_HOST_MAX
        };
        if let Some(host) = self.hosts_of(&content.filter).find(in_many_others) {
            let host = self.state.members[&host].member.name.clone();
            return Err(Refusal::TooManyGroups { host });
        }
        Ok(Judged::Group(group))
    }

    fn judge_release(&self, signed: &Signed<Release>) -> Result<Judged, Refusal> {
        let release = self.trust.release(signed).map_err(Refusal::untrusted("release"))?;
        if self.state.releases.contains_key(&release.id()) {
            return Ok(Judged::Nothing);
        }
        let content = release.content();
        if self.find_release(&content.application, &content.label).is_some() {
            return Err(Refusal::LabelTaken(content.label.clone()));
        }
        Ok(Judged::Release(release))
    }

    fn judge_order(&self, at: UnixSeconds, signed: &Signed<Order>) -> Result<Judged, Refusal> {
        let order = self.trust.order(signed).map_err(Refusal::untrusted("order"))?;
        let content = order.content();
        let unknown = || Refusal::UnknownGroup(content.group.clone());
        let group = self.state.groups.get(&content.group).ok_or_else(unknown)?;
        if group.head == order.id() {
            return Ok(Judged::Nothing);
        }
        if content.sequence != group.sequence + 1 {
            let (name, expected) = (content.group.clone(), group.sequence + 1);
            return Err(Refusal::OutOfOrder { group: name, expected, got: content.sequence });
        }
        if content.parent != group.head {
            return Err(Refusal::WrongParent { head: group.head.short() });
        }
        match &content.action {
            Action::Deploy(deploy) => {
                if let Some(until) = content.not_after.filter(|until| *until < at) {
                    return Err(Refusal::OrderExpired(until));
                }
                let deployment = Box::new(self.judge_deploy(at, group, &order, deploy)?);
                Ok(Judged::Deploy { order, deployment })
            }
            Action::Stop { order: target, rollback: false } => {
                let started_here =
                    |signed: &&Signed<Order>| signed.id(self.trust.fleet()) == *target;
                if !group.orders.iter().any(|signed| started_here(&signed)) {
                    return Err(Refusal::NothingToStop(target.short()));
                }
                let running = group.running.and_then(|id| self.state.deployments.get(&id));
                let deployment = running.filter(|d| d.order == *target).map(|d| d.id);
                Ok(Judged::Stop { order, deployment })
            }
            _ => Err(Refusal::NotYet("this kind of order")),
        }
    }

    fn judge_deploy(
        &self,
        at: UnixSeconds,
        group: &GroupState,
        order: &Verified<Order>,
        deploy: &Deploy,
    ) -> Result<Deployment, Refusal> {
        let name = &group.group.name;
        if deploy.group_version != group.group.version {
            let (expected, got) = (group.group.version, deploy.group_version);
            return Err(Refusal::GroupVersion { group: name.clone(), expected, got });
        }
        if let Some(running) = group.running {
            return Err(Refusal::DeploymentRunning(running));
        }
        let label = self.release_of(group, deploy.release)?;
        if let Some(fallback) = deploy.fallback {
            self.release_of(group, fallback)?;
        }
        let pending = || Target { status: TargetStatus::Pending, started_at: None, ended_at: None };
        let targets: BTreeMap<_, _> =
            self.hosts_of(&group.group.filter).map(|host| (host, pending())).collect();
        if targets.is_empty() {
            return Err(Refusal::NoHosts(name.clone()));
        }
        let configuration =
            deploy.configuration.clone().unwrap_or_else(|| group.group.configuration.clone());
        if deploy.queue {
            return Err(Refusal::NotYet("queue"));
        }
        if deploy.only_outdated {
            return Err(Refusal::NotYet("only_outdated"));
        }
        not_yet(&configuration)?;
        let (hosts, minimum) =
            (targets.len(), configuration.minimum_healthy.minimum(targets.len()));
        if minimum >= hosts {
            return Err(Refusal::NothingMayBeDown { minimum, hosts });
        }
        Ok(Deployment {
            id: DeploymentId::of(order.id(), false),
            order: order.id(),
            group: name.clone(),
            application: group.group.application.clone(),
            release: deploy.release,
            label,
            previous: group.last_good,
            creator: Creator::Operator,
            reason: order.content().reason.clone(),
            configuration,
            fallback: deploy.fallback,
            group_document: group.signed.clone(),
            status: DeploymentStatus::InProgress,
            created_at: at,
            ended_at: None,
            index: 0,
            targets,
        })
    }

    /// The label of a release that the group may run.
    fn release_of(
        &self,
        group: &GroupState,
        id: Digest,
    ) -> Result<crate::ids::ReleaseLabel, Refusal> {
        let release = self.release(id).ok_or_else(|| Refusal::unknown_release(id))?;
        if release.application != group.group.application {
            return Err(Refusal::OtherApplication(group.group.name.clone()));
        }
        Ok(release.label)
    }

    fn judge_want(&self, signed: &Signed<Want>) -> Result<Judged, Refusal> {
        let want =
            signed.verify_host(self.trust.fleet()).map_err(Refusal::untrusted("slot request"))?;
        let Want { host, order, release } = *want.content();
        if !self.is_member(host) {
            return Err(Refusal::UnknownHost(host.short()));
        }
        let deployment = self.running(order, release).ok_or(Refusal::NoPart)?;
        let target = deployment.targets.get(&host).ok_or(Refusal::NoPart)?;
        match target.status {
            TargetStatus::Pending => Ok(Judged::Want { host, deployment: deployment.id }),
            _ => Ok(Judged::Nothing),
        }
    }

    fn judge_grant(&self, grant: &Grant) -> Result<Judged, Refusal> {
        if !self.is_member(grant.host) {
            return Err(Refusal::UnknownHost(grant.host.short()));
        }
        let deployment = self.running(grant.order, grant.release).ok_or(Refusal::NoPart)?;
        let target = deployment.targets.get(&grant.host).ok_or(Refusal::NoPart)?;
        if let Some(slot) = self.state.slots.get(&grant.host) {
            return Err(Refusal::HoldsSlot(slot.token));
        }
        let startable = deployment.status == DeploymentStatus::InProgress;
        if !startable || target.status != TargetStatus::Waiting {
            return Err(Refusal::NoPart);
        }
        if deployment.capacity() == 0 {
            let quota = deployment.targets.len() - deployment.minimum();
            let group = deployment.group.clone();
            return Err(Refusal::QuotaFull { group, down: quota, quota });
        }
        self.check_quotas(grant.host)?;
        Ok(Judged::Grant { grant: grant.clone(), deployment: deployment.id })
    }

    /// The rule that everything is for: with `host` down, no group of it has more hosts down than
    /// its configuration allows. A group for which the host has no working revision is not asked: the
    /// host is down there for certain, and a slot is the only way out, so two such hosts under a
    /// quota of one must not wait for each other. A host that is merely unreachable may be serving,
    /// and is not taken for down here.
    fn check_quotas(&self, host: HostId) -> Result<(), Refusal> {
        for group in self.groups_of(host) {
            if self.is_broken_in(&group.group.name, host) {
                continue;
            }
            let others = self.down(group).into_iter().filter(|down| *down != host).count();
            let quota = self.quota(group);
            if others + 1 > quota {
                let group = group.group.name.clone();
                return Err(Refusal::QuotaFull { group, down: others, quota });
            }
        }
        Ok(())
    }

    fn judge_done(&self, signed: &Signed<Done>) -> Result<Judged, Refusal> {
        let done =
            signed.verify_host(self.trust.fleet()).map_err(Refusal::untrusted("slot return"))?;
        let Done { host, token, outcome } = done.content();
        // An old token, or one given back already, is old news and changes nothing.
        let held = self.state.slots.get(host).is_some_and(|slot| slot.token == *token);
        if !held {
            return Ok(Judged::Nothing);
        }
        Ok(Judged::Done { host: *host, outcome: outcome.clone() })
    }

    // --- carrying out ---

    fn admit(
        &mut self,
        at: UnixSeconds,
        index: u64,
        entry: Digest,
        cert: MemberCert,
        member: &Verified<Member>,
        token: Option<Digest>,
    ) {
        let content = member.content().clone();
        let host = content.host;
        // A name that comes back with another key and a higher incarnation is the same machine,
        // installed anew: the old key is out.
        let members = self.state.members.values();
        let same_name = members.filter(|known| known.member.name == content.name);
        let replaced = same_name.map(|known| known.member.host).find(|other| *other != host);
        if let Some(replaced) = replaced {
            self.remove(at, replaced);
        }
        if let Some(token) = token {
            self.state.token_uses.entry(token).or_default().insert(host);
        }
        let membership = Membership { cert, member: content, id: member.id(), index, entry };
        self.state.members.insert(host, membership);
    }

    /// Takes a host out of the fleet. Its slot is free, since nothing of it is in a group any more.
    fn remove(&mut self, at: UnixSeconds, host: HostId) {
        self.state.members.remove(&host);
        self.state.slots.remove(&host);
        self.state.unhealthy.remove(&host);
        self.state.broken.retain(|(_, broken)| *broken != host);
        let running = self.state.deployments.values_mut().filter(|d| !d.status.is_over());
        for target in running.filter_map(|deployment| deployment.targets.get_mut(&host)) {
            if !target.status.is_over() {
                let reason = "the host was replaced by another key of its name".into();
                target.status = TargetStatus::Skipped { reason };
                target.ended_at = Some(at);
            }
        }
    }

    fn set_group(&mut self, group: &Verified<Group>) {
        let content = group.content().clone();
        let signed = group.signed().clone();
        match self.state.groups.get_mut(&content.name) {
            Some(known) => (known.group, known.signed) = (content, signed),
            None => {
                let fresh = GroupState {
                    group: content.clone(),
                    signed,
                    orders: Vec::new(),
                    sequence: 0,
                    head: Digest::ZERO,
                    running: None,
                    last_good: None,
                };
                self.state.groups.insert(content.name, fresh);
            }
        }
    }

    fn chain(&mut self, order: &Verified<Order>) {
        if let Some(group) = self.state.groups.get_mut(&order.content().group) {
            group.orders.push(order.signed().clone());
            group.sequence = order.content().sequence;
            group.head = order.id();
        }
    }

    fn begin(&mut self, deployment: Deployment) {
        if let Some(group) = self.state.groups.get_mut(&deployment.group) {
            group.running = Some(deployment.id);
        }
        let group = deployment.group.clone();
        self.state.deployments.insert(deployment.id, deployment);
        self.forget_old(&group);
    }

    /// Keeps the newest reports of a group.
    fn forget_old(&mut self, group: &GroupName) {
        let mut of_group: Vec<_> = self
            .state
            .deployments
            .values()
            .filter(|deployment| deployment.group == *group && deployment.status.is_over())
            .map(|deployment| (deployment.index, deployment.id))
            .collect();
        of_group.sort_unstable();
        let excess = of_group.len().saturating_sub(DEPLOYMENTS_KEPT_PER_GROUP);
        for (_, id) in of_group.into_iter().take(excess) {
            self.state.deployments.remove(&id);
        }
    }

    fn grant(
        &mut self,
        token: u64,
        entry: Digest,
        since: UnixSeconds,
        grant: Grant,
        deployment: DeploymentId,
    ) {
        let host = grant.host;
        if let Some(target) = self.target_mut(deployment, host) {
            target.status = TargetStatus::InProgress { token };
            target.started_at = Some(since);
        }
        self.state.slots.insert(host, Slot { token, entry, grant, deployment, since });
    }

    fn free(&mut self, at: UnixSeconds, host: HostId, outcome: Outcome) {
        let Some(slot) = self.state.slots.remove(&host) else { return };
        let group = self.state.deployments.get(&slot.deployment).map(|d| d.group.clone());
        let status = match outcome {
            Outcome::Succeeded => {
                self.state.broken.retain(|(g, h)| (Some(g), *h) != (group.as_ref(), host));
                TargetStatus::Succeeded
            }
            Outcome::Failed { log, code, event, script, message, restored } => {
                if !restored {
                    self.state.broken.extend(group.map(|group| (group, host)));
                }
                TargetStatus::Failed { event, script, code, message, log, restored }
            }
            Outcome::Declined { reason } => TargetStatus::Skipped { reason },
        };
        if let Some(target) = self.target_mut(slot.deployment, host) {
            target.status = status;
            target.ended_at = Some(at);
        }
    }

    /// Ends deployments whose verdict is in, and begins the rollbacks that follow.
    fn settle(&mut self, at: UnixSeconds) {
        let ended: Vec<_> = self
            .state
            .deployments
            .values()
            .filter_map(|deployment| Some((deployment.id, deployment.verdict()?)))
            .collect();
        for (id, verdict) in ended {
            let Some(deployment) = self.state.deployments.get_mut(&id) else { continue };
            deployment.status = verdict.clone();
            deployment.ended_at = Some(at);
            for target in deployment.targets.values_mut().filter(|t| !t.status.is_over()) {
                let reason = "the deployment ended first".into();
                target.status = TargetStatus::Skipped { reason };
            }
            let (deployment, group) = (deployment.clone(), deployment.group.clone());
            let Some(group) = self.state.groups.get_mut(&group) else { continue };
            group.running = None;
            match verdict {
                DeploymentStatus::Succeeded => group.last_good = Some(deployment.release),
                DeploymentStatus::Failed { .. } => self.roll_back(at, &deployment),
                _ => {}
            }
        }
    }

    /// Brings hosts that took a failed release back to the order's fallback. There is no rollback
    /// of a rollback.
    fn roll_back(&mut self, at: UnixSeconds, failed: &Deployment) {
        let (Creator::Operator, Some(fallback)) = (failed.creator, failed.fallback) else { return };
        let Some(release) = self.release(fallback) else { return };
        let pending = || Target { status: TargetStatus::Pending, started_at: None, ended_at: None };
        let targets: BTreeMap<_, _> = failed
            .targets
            .iter()
            .filter(|(host, target)| {
                target.status == TargetStatus::Succeeded && self.is_member(**host)
            })
            .map(|(host, _)| (*host, pending()))
            .collect();
        if targets.is_empty() {
            return;
        }
        let mut configuration = failed.configuration.clone();
        if configuration.minimum_healthy.quota(targets.len()) == 0 {
            // Fewer hosts than the floor: the group's quota alone decides how many go at once.
            configuration.minimum_healthy = super::MinimumHealthy::AllAtOnce;
        }
        self.begin(Deployment {
            id: DeploymentId::of(failed.order, true),
            release: fallback,
            label: release.label,
            previous: failed.previous,
            creator: Creator::Rollback,
            reason: format!("deployment {} failed", failed.id),
            configuration,
            fallback: None,
            status: DeploymentStatus::InProgress,
            created_at: at,
            ended_at: None,
            index: self.state.applied,
            targets,
            ..failed.clone()
        });
    }

    fn deployment_mut(&mut self, id: DeploymentId) -> Option<&mut Deployment> {
        self.state.deployments.get_mut(&id)
    }

    fn target_mut(&mut self, id: DeploymentId, host: HostId) -> Option<&mut Target> {
        self.deployment_mut(id)?.targets.get_mut(&host)
    }

    // --- what the rules are about ---

    /// The running deployment of an order and a release.
    pub(super) fn running(&self, order: Digest, release: Digest) -> Option<&Deployment> {
        let matches =
            |d: &&Deployment| d.order == order && d.release == release && !d.status.is_over();
        self.state.deployments.values().find(matches)
    }

    /// Members that a filter selects.
    pub(super) fn hosts_of(&self, filter: &Labels) -> impl Iterator<Item = HostId> {
        let members = self.state.members.values();
        members.filter(|known| filter.matches(&known.member.labels)).map(|known| known.member.host)
    }

    pub(super) fn groups_of(&self, host: HostId) -> impl Iterator<Item = &GroupState> {
        let labels = self.state.members.get(&host).map(|known| &known.member.labels);
        self.state
            .groups
            .values()
            .filter(move |group| labels.is_some_and(|labels| group.group.filter.matches(labels)))
    }

    /// Hosts of a group that are down: they hold a slot, whatever for, or are not well.
    pub(super) fn down(&self, group: &GroupState) -> BTreeSet<HostId> {
        self.hosts_of(&group.group.filter)
            .filter(|host| {
                self.state.slots.contains_key(host) || !self.is_well_in(&group.group.name, *host)
            })
            .collect()
    }

    fn is_well_in(&self, group: &GroupName, host: HostId) -> bool {
        !self.state.unhealthy.contains(&host) && !self.is_broken_in(group, host)
    }

    /// True if the group's last deployment left the host without a working revision.
    pub fn is_broken_in(&self, group: &GroupName, host: HostId) -> bool {
        self.state.broken.iter().any(|(g, h)| (g, *h) == (group, host))
    }

    /// How many hosts of a group may be down: by the running deployment's configuration, if any.
    pub(super) fn quota(&self, group: &GroupState) -> usize {
        let running = group.running.and_then(|id| self.state.deployments.get(&id));
        let configuration = match running {
            // A rollback undoes a deployment under the configuration that the operator gave it.
            Some(deployment) => self.configuration_of(deployment),
            None => &group.group.configuration,
        };
        configuration.minimum_healthy.quota(self.hosts_of(&group.group.filter).count())
    }

    fn configuration_of<'a>(
        &'a self,
        deployment: &'a Deployment,
    ) -> &'a super::DeploymentConfiguration {
        let undone = DeploymentId::of(deployment.order, false);
        match (deployment.creator, self.state.deployments.get(&undone)) {
            (Creator::Rollback, Some(undone)) => &undone.configuration,
            _ => &deployment.configuration,
        }
    }

    /// Slots that may all be granted now, in the order in which they should be.
    pub fn next_grants(&self) -> Vec<Grant> {
        let mut trial = Self { trust: self.trust.clone(), state: self.state.clone() };
        let mut waiting: Vec<_> = self.waiting_hosts();
        // Hosts that are down already cost nothing; then an order that is the same on every leader
        // and does not favour the same hosts each time.
        waiting.sort_by_key(|(deployment, host, _)| {
            let id = deployment.to_string();
            let group = self.deployment(*deployment).map(|deployment| &deployment.group);
            let well = group.is_none_or(|group| self.is_well_in(group, *host));
            (well, Digest::of(HashDomain::Entry, &[id.as_bytes(), &host.0]))
        });
        let mut grants = Vec::new();
        for (deployment, host, grant) in waiting {
            if trial.judge_grant(&grant).is_ok() {
                let token = u64::MAX - u64::try_from(grants.len()).unwrap_or(0);
                trial.grant(token, Digest::ZERO, UnixSeconds(0), grant.clone(), deployment);
                debug_assert!(trial.state.slots.contains_key(&host));
                grants.push(grant);
            }
        }
        grants
    }

    fn waiting_hosts(&self) -> Vec<(DeploymentId, HostId, Grant)> {
        let deployments = self.state.deployments.values();
        let running = deployments.filter(|d| d.status == DeploymentStatus::InProgress);
        let mut waiting = Vec::new();
        for deployment in running {
            for (host, target) in &deployment.targets {
                if target.status == TargetStatus::Waiting {
                    let (order, release) = (deployment.order, deployment.release);
                    waiting.push((deployment.id, *host, Grant { host: *host, order, release }));
                }
            }
        }
        waiting
    }

    /// Panics if a promise of the ledger is broken.
    pub fn check_invariants(&self) {
        let mut tokens = BTreeSet::new();
        for (host, slot) in &self.state.slots {
            assert!(tokens.insert(slot.token), "a token is granted once");
            assert!(slot.token <= self.state.applied, "a token is an index of the past");
            let target = self
                .state
                .deployments
                .get(&slot.deployment)
                .and_then(|deployment| deployment.targets.get(host));
            assert!(
                target.is_some_and(|t| t.status == TargetStatus::InProgress { token: slot.token }),
                "a slot belongs to a host that is in progress"
            );
        }
        for deployment in self.state.deployments.values() {
            for (host, target) in &deployment.targets {
                if let TargetStatus::InProgress { token } = target.status {
                    let held = self.state.slots.get(host).map(|slot| slot.token);
                    assert_eq!(held, Some(token), "a host in progress holds its slot");
                }
            }
        }
    }
}

/// Refuses what a configuration may ask for and this version does not carry out yet: nothing that is
/// signed is passed over in silence.
fn not_yet(configuration: &super::DeploymentConfiguration) -> Result<(), Refusal> {
    let asks = [
        ("waves", !configuration.waves.is_empty()),
        ("zones", configuration.zones.is_some()),
        ("canary", configuration.canary.is_some()),
        ("event_deadline_seconds", configuration.event_deadline_seconds.is_some()),
        ("deployment_deadline_seconds", configuration.deployment_deadline_seconds.is_some()),
    ];
    match asks.into_iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(Refusal::NotYet(what)),
        None => Ok(()),
    }
}

//! What the control socket shows, read off the node.

use groundswell_protocol::trust::{Order, Signed};
use groundswell_protocol::{
    fleet::{HostState, Standing},
    ids::{DeploymentId, Digest, HostId},
    node::NotTaken,
    rollout::{
        Creator, Deployment, DeploymentStatus, GroupView, Hold, Ledger, Target, TargetStatus,
        Waiting,
    },
};
use groundswell_signer::group_file;
use libp2p::Multiaddr;
use tokio::sync::oneshot;

use super::{Engine, EngineError, hosts::SignedAt};
use crate::{
    cli::duration,
    control::{
        api,
        server::{Command, LogPart},
    },
    logs::Part,
    store::Import,
    transfer::TransferInput,
};

/// Someone who waits for the outcome of a submission.
pub(super) struct SubmitReply(oneshot::Sender<Result<u64, NotTaken>>);

impl SubmitReply {
    pub(super) fn send(self, outcome: &Result<u64, NotTaken>) {
        // Whoever asked may have given up.
        drop(self.0.send(outcome.clone()));
    }
}

impl Engine {
    pub(super) async fn command(&mut self, command: Command) -> Result<(), EngineError> {
        match command {
            Command::Fleet(reply) => drop(reply.send(self.fleet())),
            Command::Deployments(reply) => {
                let ledger = self.node.ledger();
                let all = ledger.deployments().into_iter().map(|d| self.summary(d)).collect();
                drop(reply.send(all));
            }
            Command::Report(id, reply) => drop(reply.send(self.report(id))),
            Command::Log(id, host, offset, reply) => {
                let log = self.log(id, &host, offset);
                // Whoever asked may have gone away.
                tokio::spawn(async move { drop(reply.send(log.await)) });
            }
            Command::Group(name, reply) => {
                let group = self.node.ledger().group(&name).map(|view| view.group.clone());
                drop(reply.send(group));
            }
            Command::StopsNothing(order, reply) => drop(reply.send(self.stops_nothing(&order))),
            Command::Import(reply) => {
                self.tell_store();
                let import = Import::new(self.store.clone(), self.trust.clone());
                drop(reply.send(import));
            }
            Command::Store(reply) => {
                self.tell_store();
                let store = self.store.clone();
                // Whoever asked may have gone away.
                tokio::task::spawn_blocking(move || drop(reply.send(store.survey())));
            }
            Command::Scrub(reply) => {
                let store = self.store.clone();
                tokio::task::spawn_blocking(move || drop(reply.send(store.scrub())));
            }
            Command::Imported(manifest) => self.transfer(TransferInput::Imported(manifest)),
            Command::PlanRecovery(voters, seats, reply) => {
                let plan = self.node.ledger().recovery(&voters, seats);
                drop(reply.send(plan.map_err(|refusal| refusal.to_string())));
            }
            Command::TrustDisk(reply) => self.trust_disk(reply).await?,
            Command::Recover(list, reply) => self.recover(list, SubmitReply(reply)),
            Command::Submit(entry, reply) => self.submit(*entry, SubmitReply(reply)),
        }
        Ok(())
    }

    fn fleet(&self) -> api::Fleet {
        let (node, ledger, trust) = (&self.node, self.node.ledger(), &self.trust);
        let groups: Vec<_> = ledger.groups().collect();
        let mut releases = Vec::new();
        let mut signed_at = SignedAt::new();
        for (id, content) in ledger.releases() {
            signed_at.insert(id, content.created_at.0);
            releases.push(release(id, content));
        }
        let mut hosts: Vec<_> =
            ledger.members().map(|host| self.host(&host, &groups, &signed_at)).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        releases.sort_by(|a, b| (&a.application, &a.label).cmp(&(&b.application, &b.label)));
        let mut slots: Vec<_> = ledger
            .slots()
            .map(|slot| {
                let deployment = ledger.deployment(slot.deployment);
                api::Slot {
                    token: slot.token,
                    host: name_of(ledger, slot.host),
                    deployment: slot.deployment.to_string(),
                    since: slot.since.0,
                    group: deployment.map(|d| d.group.to_string()).unwrap_or_default(),
                    silent_seconds: self.silence(slot.host),
                    released: slot.released.map(|at| at.0),
                    is_left: slot.is_left,
                }
            })
            .collect();
        slots.sort_by_key(|slot| slot.token);
        let written_off = ledger.written_off().map(|write_off| api::WriteOff {
            host: name_of(ledger, write_off.host),
            token: write_off.slot.map(|(token, _)| token),
            deployment: write_off.slot.map(|(_, deployment)| deployment.to_string()),
            since: write_off.since.0,
        });
        let voters = node.electorate().newest().list().iter().map(|voter| api::Voter {
            name: voter.name.to_string(),
            leader: node.leader() == Some(voter.host),
            standing: standing(node.standing(voter.host)),
        });
        let name = |host| ledger.name_of(host).map_or_else(|| host.short(), ToString::to_string);
        let doubt = node.in_doubt().map(|(heard, needed)| {
            let heard = heard.into_iter().map(name).collect();
            api::Doubt { heard, needed }
        });
        let deployments = ledger.deployments();
        let shown = (0..).zip(&deployments).filter(|(i, d)| *i == 0 || !d.status.is_over());
        let root = &trust.root().roles.root;
        let joined = ledger.is_member(node.me());
        api::Fleet {
            version: api::VERSION,
            id: trust.fleet().to_string(),
            name: trust.root().name.to_string(),
            root_threshold: root.threshold.get(),
            root_keys: root.keys.len(),
            me: name_of(ledger, node.me()),
            joined,
            turned_away: self.gate.read(|roster| roster.turned_away.clone()).filter(|_| !joined),
            executor: node.has_executor(),
            leader: node.leader().map(|leader| name_of(ledger, leader)),
            applied: ledger.applied_index(),
            hosts,
            groups: groups.iter().map(|group| group_of(ledger, group)).collect(),
            releases,
            slots,
            written_off: written_off.collect(),
            voters: voters.collect(),
            doubt,
            lacks: node.lacks(),
            voter_changes_left: Some(ledger.voter_changes_left()),
            recovered_at: Some(ledger.electorate().recovered_at()).filter(|at| *at > 0),
            seeds: self.seeds.views(self.clock.mono()),
            deployments: shown.map(|(_, deployment)| self.summary(deployment)).collect(),
        }
    }

    /// What is to be said of a host that is not heard.
    pub(super) fn absence(&self, host: HostId) -> String {
        let how = if self.node.has_left(host) { "stopped" } else { "silent" };
        format!("{how} for {}", duration(self.silence(host).unwrap_or(0)))
    }

    /// Seconds since anything was heard of a host, if it is another one.
    pub(super) fn silence(&self, host: HostId) -> Option<u64> {
        let ago = self.node.heard_ago(host).map(|ago| ago.as_secs());
        if host == self.node.me() { Some(0) } else { ago }
    }

    fn report(&self, id: DeploymentId) -> Option<api::Report> {
        let ledger = self.node.ledger();
        let deployment = ledger.deployment(id)?;
        let other = DeploymentId::of(deployment.order, deployment.creator == Creator::Operator);
        let mut targets: Vec<_> = deployment
            .targets
            .iter()
            .map(|(host, target)| self.target(*host, target, deployment))
            .collect();
        targets.sort_by(|a, b| a.host.cmp(&b.host));
        let release = ledger.release(deployment.release);
        Some(api::Report {
            version: api::VERSION,
            summary: self.summary(deployment),
            application: deployment.application.to_string(),
            release: deployment.release.to_string(),
            revision: release.map(|release| release.manifest.to_string()),
            order: deployment.order.to_string(),
            configuration: deployment.configuration.to_string(),
            batch: deployment.quota(),
            comment: deployment.reason.clone(),
            stopped: self.stop_of(deployment),
            fallback: deployment.fallback.and_then(|id| label_of(ledger, id)),
            related: ledger
                .deployment(other)
                .filter(|other| other.id != deployment.id)
                .map(|other| other.id.to_string()),
            targets,
        })
    }

    /// A part of what a deployment's scripts have written on one of its hosts.
    fn log(
        &self,
        deployment: DeploymentId,
        name: &str,
        offset: u64,
    ) -> impl Future<Output = LogPart> + use<> {
        let logs = self.logs.clone();
        let found = self.where_to_read(deployment, name);
        // A host that catches up keeps what it does under the deployment that it catches up with.
        let known = self.node.ledger().deployment(deployment);
        let kept = known.map(|known| DeploymentId::of(known.order, known.goes_back));
        let part = Part { deployment: kept.unwrap_or(deployment), offset };
        async move {
            let Some((host, addresses)) = found? else { return Ok(None) };
            logs.read(host, addresses, part).await
        }
    }

    /// The host of this name that has a part in a deployment, and where it may be reached.
    fn where_to_read(
        &self,
        deployment: DeploymentId,
        name: &str,
    ) -> Result<Option<(HostId, Vec<Multiaddr>)>, String> {
        let (node, ledger) = (&self.node, self.node.ledger());
        let targets = ledger.deployment(deployment).map(|deployment| &deployment.targets);
        let mut hosts = targets.into_iter().flat_map(|targets| targets.keys().copied());
        let Some(host) = hosts.find(|host| name_of(ledger, *host) == name) else { return Ok(None) };
        if host == node.me() {
            return Ok(Some((host, Vec::new())));
        }
        if !ledger.is_member(host) {
            return Err("it was removed from the fleet".into());
        }
        if !node.is_connected(host) && matches!(node.standing(host), Standing::Unreachable { .. }) {
            let how = if node.has_left(host) { "stopped" } else { "unreachable" };
            return Err(format!("it is {how}"));
        }
        let known = self.known.get(&host).into_iter().flatten();
        Ok(Some((host, known.filter_map(|address| address.parse().ok()).collect())))
    }

    /// The order that stopped a deployment, if one did.
    fn stop_of(&self, deployment: &Deployment) -> Option<api::Stop> {
        if !matches!(deployment.status, DeploymentStatus::Stopping | DeploymentStatus::Stopped) {
            return None;
        }
        let ledger = self.node.ledger();
        let stop = ledger.stop_of(&deployment.group, deployment.order, deployment.goes_back)?;
        let order = self.trust.order(stop).ok()?;
        let (reason, at) = (order.content().reason.clone(), order.content().issued_at.0);
        Some(api::Stop { reason, at })
    }

    /// How the deployment has ended that a stop names, if all that its order began is over.
    fn stops_nothing(&self, order: &Signed<Order>) -> Option<String> {
        let order = self.trust.order(order).ok()?;
        let ended = self.node.ledger().over_already(order.content())?;
        Some(self.summary(ended).how_it_ended())
    }

    fn summary(&self, deployment: &Deployment) -> api::Summary {
        let count = |wanted: fn(&TargetStatus) -> bool| deployment.count(wanted);
        let reason = match &deployment.status {
            DeploymentStatus::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        let staged = deployment.stages.len() > 1 && !deployment.status.is_over();
        let stage = deployment.present_stage().filter(|_| staged);
        api::Summary {
            id: deployment.id.to_string(),
            group: deployment.group.to_string(),
            label: deployment.label.to_string(),
            creator: creator(deployment.creator).into(),
            status: status_name(deployment).into(),
            reason,
            waiting: self.why_waiting(deployment),
            succeeded: count(|status| *status == TargetStatus::Succeeded),
            failed: count(|status| matches!(status, TargetStatus::Failed { .. })),
            in_progress: count(|status| matches!(status, TargetStatus::InProgress { .. })),
            hosts: deployment.targets.len(),
            created_at: deployment.created_at.0,
            ended_at: deployment.ended_at.map(|at| at.0),
            stage: stage.map(|stage| stage.name.clone()),
        }
    }

    /// What a deployment waits for, and who of those that it waits for makes no progress.
    fn why_waiting(&self, deployment: &Deployment) -> Option<String> {
        let waiting = self.node.ledger().why_waiting(deployment.id);
        let stalled = match waiting {
            Waiting::No => return None,
            Waiting::Quota(_) | Waiting::Voters { .. } | Waiting::Ending { .. } => {
                self.stalled(deployment, true)
            }
            Waiting::Staging { .. } => self.stalled(deployment, false),
            _ => String::new(),
        };
        Some(format!("{waiting}{stalled}"))
    }

    fn target(&self, host: HostId, target: &Target, deployment: &Deployment) -> api::Target {
        let group =
            self.node.view().get(host).and_then(|record| {
                record.groups.iter().find(|group| group.group == deployment.group)
            });
        let mine = group.filter(|group| group.order == Some(deployment.order));
        let state = mine.map(|group| group.state);
        let waits = !target.status.is_over() && !deployment.status.is_over();
        let doing = self.doing_in(host, deployment).filter(|_| waits);
        let (mut reason, mut failure) = (None, None);
        match &target.status {
            TargetStatus::Skipped { reason: why } => reason = Some(why.clone()),
            TargetStatus::Failed { event, script, code, message, log, restored } => {
                failure = Some(api::Failure {
                    event: event.to_string(),
                    script: script.clone(),
                    code: *code,
                    message: message.clone(),
                    log: log.clone(),
                    restored: *restored,
                });
            }
            _ => {}
        }
        api::Target {
            host: name_of(self.node.ledger(), host),
            status: target_status(&target.status).into(),
            doing_seconds: self.doing_seconds(host, deployment).filter(|_| doing.is_some()),
            stalled: doing.is_some() && self.stall(host, deployment).is_some(),
            doing,
            percent: percent(&target.status, state),
            started_at: target.started_at.map(|at| at.0),
            ended_at: target.ended_at.map(|at| at.0),
            reason,
            failure,
        }
    }
}

pub(super) fn name_of(ledger: &Ledger, host: HostId) -> String {
    let voters = ledger.electorate().newest().list();
    let first = || voters.iter().find(|voter| voter.host == host).map(|voter| &voter.name);
    let name = ledger.name_of(host).or_else(first);
    name.map_or_else(|| host.short(), ToString::to_string)
}

fn label_of(ledger: &Ledger, release: Digest) -> Option<String> {
    ledger.release(release).map(|release| release.label.to_string())
}

fn release(id: Digest, release: &groundswell_protocol::trust::Release) -> api::Release {
    api::Release {
        revision: release.manifest.to_string(),
        id: id.to_string(),
        application: release.application.to_string(),
        label: release.label.to_string(),
        content_bytes: release.content_bytes,
        created_at: release.created_at.0,
    }
}

fn group_of(ledger: &Ledger, view: &GroupView<'_>) -> api::Group {
    let names = |hosts: &[HostId]| {
        let mut names: Vec<_> = hosts.iter().map(|host| name_of(ledger, *host)).collect();
        names.sort();
        names
    };
    api::Group {
        name: view.group.name.to_string(),
        application: view.group.application.to_string(),
        filter: view.group.filter.to_string(),
        version: view.group.version,
        configuration: view.group.configuration.to_string(),
        hosts: names(&view.hosts),
        down: names(&view.down),
        quota: view.quota,
        last_good: view.last_good.and_then(|id| label_of(ledger, id)),
        last_good_release: view.last_good.map(|id| id.to_string()),
        way_back: ledger.way_back(&view.group.name).map(|id| id.to_string()),
        sequence: view.head.0,
        head: view.head.1.to_string(),
        running: view.running.map(|id| id.to_string()),
        queue: view.queue.iter().map(ToString::to_string).collect(),
        frozen: view.frozen.map(|since| since.0),
        wait_for_order: names(&ledger.hosts_that_wait(&view.group.name)),
        catch_up: view.group.catch_up,
        deploy_to_new_hosts: view.group.deploy_to_new_hosts,
        automatic_rollback: view.group.automatic_rollback,
        failure_budget: view.group.failure_budget,
        settings: Some(group_file::write(view.group)),
    }
}

/// How far a host is: the lifecycle counts as most of the way.
fn percent(status: &TargetStatus, state: Option<HostState>) -> u8 {
    use groundswell_protocol::execute::LifecycleEvent;
    match (status, state) {
        (status, _) if status.is_over() => 100,
        (_, Some(HostState::Running { event, .. })) => {
            let events = LifecycleEvent::IN_PLACE;
            let done = events.iter().filter(|other| **other < event).count();
            u8::try_from(25 + done * 70 / events.len()).unwrap_or(95)
        }
        (_, Some(HostState::Watching)) => 95,
        (_, Some(HostState::Staging { percent })) => percent / 5,
        (_, Some(HostState::Waiting)) => 20,
        _ => 0,
    }
}

fn creator(creator: Creator) -> &'static str {
    match creator {
        Creator::Operator => "operator",
        Creator::Rollback => "rollback",
        Creator::CatchUp => "catch-up",
    }
}

pub(super) fn status_name(deployment: &Deployment) -> &'static str {
    match (&deployment.status, deployment.hold) {
        (DeploymentStatus::Queued, _) => "queued",
        (DeploymentStatus::InProgress, _) if deployment.paused => "paused",
        (DeploymentStatus::InProgress, None) => "in progress",
        (DeploymentStatus::InProgress, Some(Hold::Canary)) => "paused",
        (DeploymentStatus::InProgress, Some(Hold::Bake { .. })) => "baking",
        (DeploymentStatus::Stopping, _) => "stopping",
        (DeploymentStatus::Succeeded, _) => "succeeded",
        (DeploymentStatus::Failed { .. }, _) => "failed",
        (DeploymentStatus::Stopped, _) => "stopped",
    }
}

fn target_status(status: &TargetStatus) -> &'static str {
    match status {
        TargetStatus::Pending => "pending",
        TargetStatus::Waiting => "waiting",
        TargetStatus::InProgress { .. } => "in progress",
        TargetStatus::Succeeded => "succeeded",
        TargetStatus::Failed { .. } => "failed",
        TargetStatus::Skipped { .. } => "skipped",
        TargetStatus::WrittenOff => "written off",
        TargetStatus::Removed => "removed",
    }
}

pub(super) fn standing(standing: Standing) -> String {
    let name = match standing {
        Standing::Reachable => "reachable",
        Standing::Suspect { .. } => "suspect",
        Standing::Unreachable { .. } => "unreachable",
        Standing::Unknown => "unknown",
    };
    name.into()
}

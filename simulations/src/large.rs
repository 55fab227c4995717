//! Fleets that are larger than any that a seed draws: how they begin, and what people do there, so that
//! a seed comes to its end. A thousand hosts that go one by one take hours, and every change of a host is
//! a thousand messages.

use std::collections::BTreeMap;

use groundswell_protocol::{
    consensus::{HardState, LogEntry, Snapshot},
    ids::HostId,
    rollout::{DeploymentConfiguration, Entry, MinimumHealthy, Stamped},
};

use crate::{
    host::Host,
    plan::{ChoreKind, Micros, Plan, SECOND},
    world::World,
};

/// Makes a plan that was drawn for a fleet of dozens one for a fleet of hundreds: fewer groups, fewer
/// deployments with more hosts at a time, and a shorter life. What breaks, and how, stays as it was drawn.
pub(crate) fn fit(plan: &mut Plan) {
    plan.is_large = true;
    plan.heal_at = plan.heal_at.min(HEALED_AT_MAX);
    plan.groups.truncate(GROUPS_MAX);
    for group in &mut plan.groups {
        hurry(&mut group.terms.configuration);
    }
    plan.step_max = plan.step_max.min(STEP_MAX);
    // A link that stalls for seconds silences a host to whoever listens there. Where every tenth message
    // does, all of a large fleet accuse each other for as long as it lasts, and nothing else happens.
    plan.delay.tail_permille = plan.delay.tail_permille.min(TAIL_PERMILLE_MAX);
    plan.snapshot_every = plan.snapshot_every.max(SNAPSHOT_EVERY_MIN);
    let (heal_at, groups) = (plan.heal_at, plan.groups.len());
    plan.faults.retain(|fault| fault.at < heal_at);
    let mut deployments = vec![0; groups];
    plan.chores.retain_mut(|chore| keeps(&mut chore.kind, &mut deployments) && chore.at < heal_at);
    for host in &mut plan.hosts {
        host.joins_at = host.joins_at.min(heal_at * 9 / 10);
    }
}

impl World {
    /// A large fleet is no new one: whoever is there from the first second on was admitted long ago, and
    /// knows the others. All of them are switched on at once, as after a power cut.
    pub(crate) fn settle(&mut self) {
        let plan = &self.plan;
        let is_old = |host: &usize| {
            let host = &plan.hosts[*host];
            host.joins_at <= SECOND && host.replaces.is_none()
        };
        let old: Vec<_> = (0..plan.hosts.len()).filter(is_old).collect();
        for (place, host) in old.iter().enumerate() {
            let cert = self.hosts[*host].disk.cert.clone().expect("a host has a certificate");
            let entry = Entry::Admit(Box::new(cert));
            let data = Stamped { at: self.hosts[*host].wall(0), entry }.to_bytes();
            let entry = LogEntry { index: place as u64 + 1, term: FOUNDED_IN, data: data.into() };
            let admitted = self.truth.applied_by(&entry, (1, 1));
            self.hold(admitted);
        }
        let index = self.truth.applied();
        let snapshot = Snapshot { index, term: FOUNDED_IN, state: self.truth.ledger.snapshot() };
        let address = |host: &usize| (self.hosts[*host].id, vec![format!("host {host}")]);
        let known: BTreeMap<HostId, Vec<String>> = old.iter().map(address).collect();
        for host in old {
            let Host { id, disk, .. } = &mut self.hosts[host];
            disk.hard_state = HardState { term: FOUNDED_IN, vote: 0, commit: index };
            disk.snapshot = Some(snapshot.clone());
            disk.known = known.clone();
            disk.known.remove(id);
        }
    }
}

/// The term in which the hosts of a large fleet were admitted.
const FOUNDED_IN: u64 = 1;

/// True for what people do in such a fleet as well: nothing in groups that are not there, and few
/// deployments in each that is.
fn keeps(kind: &mut ChoreKind, deployments: &mut [usize]) -> bool {
    match kind {
        ChoreKind::AtGrant(kind) => keeps(kind, deployments),
        ChoreKind::Group { group, terms, .. } => {
            hurry(&mut terms.configuration);
            *group < deployments.len()
        }
        ChoreKind::Deploy { group, configuration, .. } => {
            if let Some(configuration) = configuration {
                hurry(configuration);
            }
            let Some(count) = deployments.get_mut(*group) else { return false };
            *count += 1;
            *count <= DEPLOYMENTS_MAX
        }
        ChoreKind::Stop { group, .. }
        | ChoreKind::Pause { group, .. }
        | ChoreKind::Freeze { group, .. }
        | ChoreKind::Unfreeze { group }
        | ChoreKind::Resume { group }
        | ChoreKind::Rollback { group }
        | ChoreKind::ReleaseSlot { group, .. }
        | ChoreKind::GiveUp { group, .. } => *group < deployments.len(),
        ChoreKind::Remove { .. }
        | ChoreKind::Install { .. }
        | ChoreKind::Relabel { .. }
        | ChoreKind::Drain { .. }
        | ChoreKind::Undrain { .. }
        | ChoreKind::VoteNoMore { .. }
        | ChoreKind::GiveAgain
        | ChoreKind::Waive
        | ChoreKind::StopAtBeginning => true,
    }
}

/// At least a tenth of a group may go at a time.
fn hurry(configuration: &mut DeploymentConfiguration) {
    let floor = |floor: MinimumHealthy| match floor {
        MinimumHealthy::OneAtATime => MinimumHealthy::FleetPercent(90),
        MinimumHealthy::HostCount(_) => MinimumHealthy::FleetPercent(75),
        MinimumHealthy::FleetPercent(percent) => MinimumHealthy::FleetPercent(percent.min(90)),
        MinimumHealthy::HalfAtATime | MinimumHealthy::AllAtOnce => floor,
    };
    configuration.minimum_healthy = floor(configuration.minimum_healthy);
    if let Some(zones) = &mut configuration.zones {
        zones.minimum_healthy = floor(zones.minimum_healthy);
    }
}

const GROUPS_MAX: usize = 2;
const DEPLOYMENTS_MAX: usize = 1;
const HEALED_AT_MAX: Micros = 25 * SECOND;
const TAIL_PERMILLE_MAX: u64 = 1;
const STEP_MAX: Micros = SECOND / 20;
const SNAPSHOT_EVERY_MIN: u64 = 200;

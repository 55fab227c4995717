//! Fleets that are larger than any that a seed draws: what people do there, so that a seed comes to its
//! end. A thousand hosts that go one by one take hours, and every change of a host is a thousand messages.

use groundswell_protocol::rollout::{DeploymentConfiguration, MinimumHealthy};

use crate::plan::{ChoreKind, Micros, Plan, SECOND};

/// Makes a plan that was drawn for a fleet of dozens one for a fleet of hundreds: fewer groups, fewer
/// deployments with more hosts at a time, and a shorter life. What breaks, and how, stays as it was drawn.
pub(crate) fn fit(plan: &mut Plan) {
    plan.heal_at = plan.heal_at.min(HEALED_AT_MAX);
    plan.groups.truncate(GROUPS_MAX);
    for group in &mut plan.groups {
        hurry(&mut group.terms.configuration);
    }
    plan.step_max = plan.step_max.min(STEP_MAX);
    plan.snapshot_every = plan.snapshot_every.max(SNAPSHOT_EVERY_MIN);
    let (heal_at, groups) = (plan.heal_at, plan.groups.len());
    plan.faults.retain(|fault| fault.at < heal_at);
    let mut deployments = vec![0; groups];
    plan.chores.retain_mut(|chore| keeps(&mut chore.kind, &mut deployments) && chore.at < heal_at);
    for host in &mut plan.hosts {
        host.joins_at = host.joins_at.min(heal_at * 9 / 10);
    }
}

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
        | ChoreKind::Resume { group }
        | ChoreKind::Rollback { group }
        | ChoreKind::ReleaseSlot { group, .. } => *group < deployments.len(),
        ChoreKind::Remove { .. }
        | ChoreKind::Install { .. }
        | ChoreKind::Relabel { .. }
        | ChoreKind::GiveAgain => true,
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
const DEPLOYMENTS_MAX: usize = 2;
const HEALED_AT_MAX: Micros = 40 * SECOND;
const STEP_MAX: Micros = SECOND / 20;
const SNAPSHOT_EVERY_MIN: u64 = 200;

//! Signing what a group is and what it does.

use groundswell_protocol::{
    ids::{Digest, FleetId, GroupName},
    time::UnixSeconds,
    trust::{Action, Deploy, Group, Order, Signed, Signer},
};

use crate::SignError;

/// Where an order goes in its group's chain.
#[derive(Clone, Debug)]
pub struct Place {
    /// The group.
    pub group: GroupName,
    /// The sequence of its newest order; 0 before the first.
    pub sequence: u64,
    /// The id of its newest order; zero before the first.
    pub head: Digest,
}

/// Signs an order that follows `place`.
pub fn order(
    fleet: FleetId,
    operator: &dyn Signer,
    place: Place,
    action: Action,
    reason: String,
    now: UnixSeconds,
) -> Result<Signed<Order>, SignError> {
    let order = Order {
        group: place.group,
        action,
        parent: place.head,
        reason,
        sequence: place.sequence + 1,
        issued_at: now,
        not_after: Some(UnixSeconds(now.0.saturating_add(ORDER_SECONDS))),
    };
    Ok(Signed::new(&order, fleet, &[operator])?)
}

/// The plain deploy action: this release, under the group's own configuration.
pub fn deploy(release: Digest, group_version: u64) -> Deploy {
    Deploy {
        release,
        fallback: None,
        configuration: None,
        group_version,
        file_exists_behavior: None,
        ignore_application_stop_failures: false,
    }
}

/// Signs a group's settings.
pub fn group(
    fleet: FleetId,
    operator: &dyn Signer,
    group: &Group,
) -> Result<Signed<Group>, SignError> {
    Ok(Signed::new(group, fleet, &[operator])?)
}

/// An order that nobody began to follow within a week was forgotten somewhere.
const ORDER_SECONDS: u64 = 7 * 86_400;

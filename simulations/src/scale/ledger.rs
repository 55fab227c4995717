//! What a host hears of the ledger while others are deployed to: whole hosts of the other simulator, few
//! of them, at the pace of many.
//!
//! How much one hears hangs on how many entries there are in a second, what each of them is, and how they
//! are sent on. All three are so here; how many hosts the fleet has changes nothing of it.

use groundswell_protocol::{rollout::DeploymentStatus, wire::Message};

use super::bytes::CARRIAGE;
use crate::{
    pace,
    plan::{Plan, SECOND},
    trace::Trace,
    world::World,
};

/// What hosts that have no part in a rollout hear of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// Hosts that are deployed to in a second.
    pub(super) hosts_per_second: f64,
    /// Messages that come to a host in a second.
    pub(super) messages: f64,
    /// Bytes that come to a host in a second.
    pub(super) bytes: f64,
}

/// Deploys to some hosts, and listens at others. The error says what went wrong.
pub(super) fn heard(seed: u64) -> Result<Heard, String> {
    let mut world = World::new(plan(seed), Trace::weighing(is_of_the_ledger));
    let listeners = VOTERS + DEPLOYED..VOTERS + DEPLOYED + LISTENERS;
    let weight = |world: &World| {
        let weights = listeners.clone().map(|host| world.trace.weight_at(host));
        weights.fold((0, 0), |(count, bytes), (one, more)| (count + one, bytes + more))
    };
    let mut began = None;
    while world.step() {
        let Some(deployment) = world.truth.ledger.deployments().pop() else { continue };
        let (since, before) = *began.get_or_insert_with(|| (world.now, weight(&world)));
        match &deployment.status {
            DeploymentStatus::Succeeded => {
                let seconds = (world.now - since) as f64 / SECOND as f64;
                let (messages, bytes) = weight(&world);
                let messages = messages - before.0;
                let bytes = bytes - before.1 + messages * CARRIAGE;
                let each = |sum: usize| sum as f64 / seconds / LISTENERS as f64;
                return Ok(Heard {
                    hosts_per_second: DEPLOYED as f64 / seconds,
                    messages: each(messages),
                    bytes: each(bytes),
                });
            }
            status if status.is_over() => return Err(format!("it ended as {status:?}")),
            _ => {}
        }
    }
    Err(world.violation.map_or_else(|| "it did not end".into(), |broken| broken.what))
}

/// What `scale` does not say itself.
fn is_of_the_ledger(message: &Message) -> bool {
    !matches!(
        message,
        Message::Heartbeat
            | Message::Neighbour(_)
            | Message::Records(_)
            | Message::Offer(_)
            | Message::WantRecords(_)
            | Message::RecordTree(_)
            | Message::RecordBuckets(_)
    )
}

/// Hosts that are deployed to, as quickly as those of a large fleet in a rollout of one hour, and others.
fn plan(seed: u64) -> Plan {
    let mut plan = pace::calm(seed, DEPLOYED, AT_A_TIME);
    let other = plan.hosts[0].clone();
    plan.hosts.iter_mut().for_each(|host| host.a = 1);
    plan.hosts.splice(0..0, vec![other.clone(); VOTERS]);
    plan.hosts.extend(vec![other; LISTENERS]);
    for group in &mut plan.groups {
        group.filter = vec![("a", 1)];
        group.watch_seconds = 1;
    }
    plan
}

const VOTERS: usize = 5;
const DEPLOYED: usize = 120;
const LISTENERS: usize = 20;
/// A host takes four seconds.
const AT_A_TIME: usize = 13;

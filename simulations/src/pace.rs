//! How long a rollout takes where nothing breaks, beside the shortest time that its quota allows.
//!
//! That is one round after the other: as many hosts at a time as may be down, each for as long as it
//! is updated and its health is watched. What is more is what hosts wait for slots, receipts and each
//! other.

use std::time::Duration;

use groundswell_protocol::{
    consensus::VoterPolicy,
    rollout::{DeploymentConfiguration, DeploymentStatus, MinimumHealthy},
};

use crate::{
    plan::{Bad, Chore, ChoreKind, DelayLaw, GroupPlan, HostPlan, Micros, Plan, SECOND, Terms},
    trace::Trace,
    world::World,
};

/// One rollout.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Hosts of the group.
    pub hosts: usize,
    /// How many may be down.
    pub quota: usize,
    /// How long one host is updated, on average, and watched.
    pub host_seconds: f64,
    /// From the first host's first step to the end of the deployment.
    pub took_seconds: f64,
}

impl Pace {
    /// How many times as long it took as it had to.
    pub fn ratio(&self) -> f64 {
        let rounds = self.hosts.div_ceil(self.quota);
        self.took_seconds / (rounds as f64 * self.host_seconds)
    }
}

/// What a rollout may take, in times of the shortest one.
pub const RATIO_MAX: f64 = 1.1;

/// Deploys once to all of `hosts`, of which `quota` may be down, in several fleets, and tells of the middle
/// one: how long the last host takes is luck. The error says what went wrong.
pub fn measure(hosts: usize, quota: usize) -> Result<Pace, String> {
    let paces: Result<Vec<_>, _> =
        (1..=FLEETS).map(|seed| measure_one(seed, hosts, quota)).collect();
    let mut paces = paces?;
    paces.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
    Ok(paces[paces.len() / 2])
}

fn measure_one(seed: u64, hosts: usize, quota: usize) -> Result<Pace, String> {
    let mut world = World::new(calm(seed, hosts, quota), Trace::silent());
    let (mut began, mut last, mut worked) = (None, 0, 0);
    loop {
        let down = world.truth.disturbed_hosts() as Micros;
        if !world.step() || world.now >= LIMIT {
            let broken = world.violation.as_ref().map(|broken| broken.what.clone());
            return Err(broken.unwrap_or_else(|| "it did not end".into()));
        }
        worked += down * (world.now - last);
        last = world.now;
        if began.is_none() && world.truth.disturbed_hosts() > 0 {
            began = Some(world.now);
        }
        let (Some(began), Some(deployment)) = (began, world.truth.ledger.deployments().pop())
        else {
            continue;
        };
        match &deployment.status {
            DeploymentStatus::Succeeded => {
                let seconds = |time: Micros| time as f64 / SECOND as f64;
                let host_seconds = seconds(worked) / hosts as f64 + f64::from(WATCH_SECONDS);
                let took_seconds = seconds(world.now - began);
                return Ok(Pace { hosts, quota, host_seconds, took_seconds });
            }
            status if status.is_over() => return Err(format!("it ended as {status:?}")),
            _ => {}
        }
    }
}

/// A fleet in which nothing breaks, and nobody does anything but to deploy once.
fn calm(seed: u64, hosts: usize, quota: usize) -> Plan {
    let floor = u32::try_from(hosts.saturating_sub(quota)).unwrap_or(u32::MAX);
    let terms = Terms {
        configuration: DeploymentConfiguration::from(MinimumHealthy::HostCount(floor)),
        failure_budget: None,
        catch_up: false,
        deploy_to_new_hosts: false,
    };
    let host = |_| HostPlan {
        joins_at: 0,
        clock_ppm: 0,
        sluggish: 0,
        a: 0,
        b: 0,
        zone: 0,
        replaces: None,
    };
    let set_up = ChoreKind::Group { group: 0, terms: Box::new(terms.clone()), widen: false };
    let deploy = ChoreKind::Deploy {
        group: 0,
        bad: Bad::Nowhere,
        fallback: false,
        configuration: None,
        queue: false,
        only_outdated: false,
    };
    let long = Duration::from_secs(60);
    Plan {
        seed,
        hosts: (0..hosts).map(host).collect(),
        voters: 5,
        is_large: false,
        zoned: false,
        groups: vec![GroupPlan {
            name: "all".into(),
            filter: Vec::new(),
            terms,
            watch_seconds: WATCH_SECONDS,
        }],
        delay: DelayLaw { base: 500, spread: 2_000, tail_permille: 0, tail_max: 0 },
        snapshot_every: 10_000,
        voter_policy: VoterPolicy {
            silent: long,
            unfit: long,
            stable: long,
            pace: long,
            zone_pace: long,
        },
        parrot: None,
        second_connection_permille: 0,
        executor_delay_max: 1_000,
        step_max: SECOND,
        stage_fails_permille: 0,
        stubborn_permille: 0,
        restore_fails_permille: 0,
        chores: vec![
            Chore { at: 20 * SECOND, kind: set_up },
            Chore { at: 25 * SECOND, kind: deploy },
        ],
        faults: Vec::new(),
        heal_at: LIMIT,
        heal_restarts: false,
    }
}

/// An odd number: there is one in the middle.
const FLEETS: u64 = 9;

/// A rollout that is not over by then never will be.
const LIMIT: Micros = 3_600 * SECOND;

/// Health is watched for so long, which is little: the less it is the more weighs all the rest.
const WATCH_SECONDS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_takes_little_more_than_its_rounds() {
        let pace = measure(12, 3).expect("it succeeds");
        assert!(pace.ratio() <= RATIO_MAX, "{pace:?} is {:.3} times as long", pace.ratio());
        // Faster than that is only who has more hosts down than may be.
        assert!(pace.ratio() >= 0.9, "{pace:?} is {:.3} times as long", pace.ratio());
    }
}

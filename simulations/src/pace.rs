//! How long a rollout takes where nothing breaks, beside the shortest time that its quota allows.
//!
//! That is the time of these very updates if each begins at the moment when another one is over: as many
//! at a time as hosts may be down, each for as long as it takes and its health is watched. What is more is
//! what hosts wait for slots, receipts and executors.
//!
//! The time of as many rounds of the average host is told beside it. No order of updates that take
//! differently long comes to that, and the fewer rounds there are the more the last host is luck.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use groundswell_protocol::ids::HostId;

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
    /// The same updates, each as soon as may be.
    pub shortest_seconds: f64,
    /// From the first host's first step to the end of the deployment.
    pub took_seconds: f64,
}

impl Pace {
    /// How many times as long it took as it had to.
    pub fn ratio(&self) -> f64 {
        self.took_seconds / self.shortest_seconds
    }

    /// How many times as long it took as the rounds of an average host.
    pub fn in_rounds(&self) -> f64 {
        let rounds = self.hosts.div_ceil(self.quota);
        self.took_seconds / (rounds as f64 * self.host_seconds)
    }
}

/// What a rollout may take, in times of the shortest one.
pub const RATIO_MAX: f64 = 1.05;

/// Who is updated when.
#[derive(Default)]
struct Updates {
    /// Since when.
    now: Vec<(HostId, Micros)>,
    /// From when to when.
    over: Vec<(Micros, Micros)>,
}

impl Updates {
    /// Takes in who is being disturbed.
    fn see(&mut self, now: Micros, hosts: &[HostId]) {
        let is_over = |(host, _): &mut (HostId, Micros)| !hosts.contains(host);
        self.over.extend(self.now.extract_if(.., is_over).map(|(_, since)| (since, now)));
        for host in hosts {
            if self.now.iter().all(|(known, _)| known != host) {
                self.now.push((*host, now));
            }
        }
    }

    /// How long they take if each begins, in the same order, when another one is over and watched.
    fn shortest(&self, at_a_time: usize) -> Micros {
        let mut updates = self.over.clone();
        updates.sort_unstable();
        let mut free_at: BinaryHeap<_> = vec![Reverse(0); at_a_time].into();
        for (since, until) in updates {
            let Reverse(at) = free_at.pop().unwrap_or_default();
            free_at.push(Reverse(at + until - since + Micros::from(WATCH_SECONDS) * SECOND));
        }
        free_at.into_iter().map(|Reverse(at)| at).max().unwrap_or_default()
    }
}

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
    let mut updates = Updates::default();
    loop {
        if !world.step() || world.now >= LIMIT {
            let broken = world.violation.as_ref().map(|broken| broken.what.clone());
            return Err(broken.unwrap_or_else(|| "it did not end".into()));
        }
        let disturbed: Vec<_> = world.truth.disturbed.keys().copied().collect();
        updates.see(world.now, &disturbed);
        let Some(deployment) = world.truth.ledger.deployments().pop() else { continue };
        match &deployment.status {
            DeploymentStatus::Succeeded => {
                let seconds = |time: Micros| time as f64 / SECOND as f64;
                let worked = updates.over.iter().map(|(since, until)| until - since).sum();
                let began = updates.over.iter().map(|(since, _)| *since).min();
                return Ok(Pace {
                    hosts,
                    quota,
                    host_seconds: seconds(worked) / hosts as f64 + f64::from(WATCH_SECONDS),
                    shortest_seconds: seconds(updates.shortest(quota)),
                    took_seconds: seconds(world.now - began.unwrap_or_default()),
                });
            }
            status if status.is_over() => return Err(format!("it ended as {status:?}")),
            _ => {}
        }
    }
}

/// A fleet in which nothing breaks, and nobody does anything but to deploy once.
pub(crate) fn calm(seed: u64, hosts: usize, quota: usize) -> Plan {
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
        forger: None,
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
        assert!(pace.ratio() >= 1.0, "{pace:?} is {:.3} times as long", pace.ratio());
    }
}

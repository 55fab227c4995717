//! Many seeds over a few threads. Each seed is one thread's from its first event to its last.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    coverage::Coverage,
    plan::Plan,
    trace::Trace,
    world::{Ended, World},
};

/// What a set of runs came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs that ended.
    pub runs: u64,
    /// Events of all of them.
    pub events: u64,
    /// Hours of virtual time.
    pub virtual_seconds: u64,
    /// What they met.
    pub coverage: Coverage,
    /// Seeds with a broken promise, in order.
    pub broken: Vec<(u64, Ended)>,
}

/// One seed, as drawn.
pub fn one(seed: u64, hosts_max: usize) -> (Ended, Coverage) {
    let mut world = World::new(Plan::draw(seed, hosts_max), Trace::silent());
    let ended = world.run();
    (ended, world.coverage)
}

/// Runs `count` seeds from `first` on. Stops early once `broken_max` promises were broken.
pub fn many(
    first: u64,
    count: u64,
    hosts_max: usize,
    jobs: usize,
    broken_max: usize,
    tell: &(dyn Fn(&Tally) + Sync),
) -> Tally {
    let (next, tally) = (AtomicU64::new(first), Mutex::new(Tally::default()));
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let (ended, coverage) = one(seed, hosts_max);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.runs += 1;
                    tally.events += ended.events;
                    tally.virtual_seconds += ended.lasted / crate::plan::SECOND;
                    tally.coverage.add(&coverage);
                    if ended.violation.is_some() {
                        tally.broken.push((seed, ended));
                        tally.broken.sort_by_key(|(seed, _)| *seed);
                        enough.store(tally.broken.len() >= broken_max, Ordering::Relaxed);
                    }
                    tell(&tally);
                }
            });
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

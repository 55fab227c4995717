//! Makes a failing run smaller: which of its faults does it need?

use crate::{
    plan::Plan,
    trace::Trace,
    truth::Violation,
    world::{Ended, World},
};

/// Runs a plan with some of its faults.
pub fn with_faults(plan: &Plan, kept: &[usize], trace: Trace) -> (Ended, World) {
    let mut smaller = plan.clone();
    smaller.faults = kept.iter().map(|index| plan.faults[*index].clone()).collect();
    let mut world = World::new(smaller, trace);
    (world.run(), world)
}

/// Leaves out faults, first many at a time, as long as the same promise stays broken. Runs at most
/// `runs_max` times. Returns the places of those that are needed.
pub fn shrink(plan: &Plan, violation: &Violation, runs_max: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..plan.faults.len()).collect();
    let (mut chunk, mut runs) = (kept.len().div_ceil(2).max(1), 0);
    while !kept.is_empty() && runs < runs_max {
        let mut smaller = false;
        let mut start = 0;
        while start < kept.len() && runs < runs_max {
            let end = (start + chunk).min(kept.len());
            let without: Vec<_> = [&kept[..start], &kept[end..]].concat();
            runs += 1;
            let (ended, _) = with_faults(plan, &without, Trace::silent());
            match ended.violation {
                Some((_, found)) if found.promise == violation.promise => {
                    kept = without;
                    smaller = true;
                }
                _ => start = end,
            }
        }
        if chunk == 1 && !smaller {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    kept
}

//! Ten thousand hosts: the very overlay, spreading, comparison and verdicts of `protocol/`, without
//! the rest of a host.
//!
//! Every host has its own view of every other. Records are shared, so that a view takes eight bytes
//! a record; they are handed in as if they were verified. Links take 0.5 to 50 ms and lose what they
//! are told to lose. Heartbeats are worked out where they are listened for, and not sent one by one.
//! Read [`measures`] first; [`world`] is the loop.

mod bytes;
mod eager;
mod host;
mod ledger;
mod measures;
mod swim;
mod world;

use std::process::ExitCode;

use clap::Args;

/// What to simulate.
#[derive(Clone, Debug, Args)]
pub struct ScaleArguments {
    /// Hosts of the fleet.
    #[arg(long, default_value_t = 10_000)]
    pub hosts: usize,
    /// Where all draws begin.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Measure only what has this word in its name.
    #[arg(long)]
    pub only: Option<String>,
}

/// Runs all measures, prints a table, and fails if a goal is missed.
pub fn run(arguments: &ScaleArguments) -> ExitCode {
    println!("{} hosts, seed {}", arguments.hosts, arguments.seed);
    println!("| what | measured | goal |\n|---|---|---|");
    let mut good = true;
    for (name, measure) in measures::ALL {
        if arguments.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        for measured in measure(arguments) {
            println!("{}", measured.row());
            good &= measured.holds();
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

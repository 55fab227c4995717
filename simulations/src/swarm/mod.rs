//! A release on its way through a fleet: the very swarm of `protocol/` in every host, over links that
//! carry so many bytes a second and take a while.
//!
//! Bytes of frames take their time on the sender's link up and the receiver's link down, one frame
//! after the other on each; questions and news only take the way. All links are up and all hosts know
//! the manifest when it begins. Times are told in S/U: the time that one copy takes over one link. Read
//! [`scenarios`] first; [`world`] is the loop.

mod scenarios;
mod world;

use std::process::ExitCode;

use clap::Args;

/// What to simulate.
#[derive(Clone, Debug, Args)]
pub struct SwarmArguments {
    /// Where all draws begin.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Measure only what has this word in its name.
    #[arg(long)]
    pub only: Option<String>,
}

/// Runs all scenarios, prints a table, and fails if a goal is missed.
pub fn run(arguments: &SwarmArguments) -> ExitCode {
    println!("seed {}", arguments.seed);
    println!("| what | measured | goal |\n|---|---|---|");
    let mut good = true;
    for scenario in scenarios::ALL {
        if arguments.only.as_ref().is_some_and(|only| !scenario.name.contains(only.as_str())) {
            continue;
        }
        for measured in scenario.measure(arguments.seed) {
            println!("{}", measured.row());
            good &= measured.holds();
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

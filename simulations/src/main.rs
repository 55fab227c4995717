//! `groundswell-simulations`: many seeds, one seed again, ten thousand hosts.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use groundswell_protocol::sabotage::{Defect, plant};
use groundswell_simulations::{
    coverage::Situation,
    pace,
    plan::{DRAWN_MAX, Plan, SECOND},
    run::{self, Tally},
    sabotaged,
    scale::{self, ScaleArguments},
    shrink,
    swarm::{self, SwarmArguments},
    trace::Trace,
    truth::Violation,
};

/// Doubts the protocol: whole fleets under virtual time, with everything that can break.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds. Fails if a promise is broken, or if they met too little.
    Run {
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Hosts of the largest fleet.
        #[arg(long, default_value_t = 60)]
        hosts: usize,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Stop after so many broken promises.
        #[arg(long, default_value_t = 1)]
        broken: usize,
    },
    /// Plant one defect after the other. Fails if one is not found.
    Sabotage {
        /// Seeds for each.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// Hosts of the largest fleet.
        #[arg(long, default_value_t = 16)]
        hosts: usize,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Only the defects whose names contain one of these.
        #[arg(long, value_delimiter = ',', default_value = "")]
        only: Vec<String>,
    },
    /// Run one seed again, and say what happens.
    Replay {
        /// Which one.
        seed: u64,
        /// Hosts of the largest fleet, as in the run that found it.
        #[arg(long, default_value_t = 60)]
        hosts: usize,
        /// Only these of its faults, by their places in the plan.
        #[arg(long, value_delimiter = ',')]
        only: Option<Vec<usize>>,
        /// Plant this defect, by its name in the table of `sabotage`.
        #[arg(long)]
        plant: Option<String>,
        /// Print every event.
        #[arg(long)]
        trace: bool,
    },
    /// Deploy where nothing breaks. Fails if it takes much longer than the quota makes it.
    Pace,
    /// Measure the gossip at ten thousand hosts.
    Scale(ScaleArguments),
    /// Measure how a release spreads through fleets of 12 to 10,000 hosts.
    Swarm(SwarmArguments),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    if !matches!(command, Command::Scale(_) | Command::Swarm(_)) {
        // A panic of the code under test is a finding, and is told with its seed.
        std::panic::set_hook(Box::new(|_| {}));
    }
    match command {
        Command::Run { seeds, first, hosts, jobs, broken } => {
            run_many(first, seeds, hosts, jobs, broken)
        }
        Command::Sabotage { seeds, hosts, jobs, only } => sabotage(seeds, hosts, jobs, &only),
        Command::Replay { seed, hosts, only, plant: name, trace } => {
            let defect = name.as_ref().map(|name| Defect::named(name));
            if defect == Some(None) {
                eprintln!("no defect has this name: `sabotage` prints them all");
                return ExitCode::from(64);
            }
            plant(defect.flatten());
            replay(seed, hosts, only, trace)
        }
        Command::Pace => keep_pace(),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::Swarm(arguments) => swarm::run(&arguments),
    }
}

fn run_many(first: u64, seeds: u64, hosts: usize, jobs: usize, broken: usize) -> ExitCode {
    let began = Instant::now();
    let told = Mutex::new(Instant::now());
    let tell = |tally: &Tally| {
        if let Ok(mut told) = told.lock()
            && told.elapsed() > Duration::from_secs(10)
        {
            *told = Instant::now();
            eprintln!("{} of {seeds} seeds, {} broken", tally.runs, tally.broken.len());
        }
    };
    let tally = run::many(first, seeds, hosts, jobs, broken, &tell);
    summarize(&tally, began.elapsed());
    if let Some((seed, ended)) = tally.broken.first()
        && let Some((at, violation)) = &ended.violation
    {
        for (seed, ended) in &tally.broken {
            if let Some((_, violation)) = &ended.violation {
                println!("seed {seed}: {} {}", violation.promise, violation.what);
            }
        }
        explain(*seed, hosts, *at, violation);
        return ExitCode::from(1);
    }
    let missing = tally.coverage.missing();
    // A few large fleets meet few of them, which is what the many small ones are for.
    if !missing.is_empty() && hosts <= DRAWN_MAX {
        println!("these runs prove little; none of them met this:");
        for situation in missing {
            println!("  {}", situation.text());
        }
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

fn sabotage(seeds: u64, hosts: usize, jobs: usize, only: &[String]) -> ExitCode {
    let named = |defect: &&Defect| only.iter().any(|only| defect.name().contains(only));
    let defects: Vec<_> = Defect::ALL.iter().filter(named).copied().collect();
    let (next, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(defect) = defects.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (name, text) = (defect.name(), defect.text());
                    match sabotaged::hunt(*defect, seeds, hosts) {
                        Some(found) => {
                            let (promise, seeds) = (found.violation.promise, found.seeds);
                            println!("{name:24} {seeds:4} seeds  {promise:3}  {text}");
                        }
                        None => {
                            missed.fetch_add(1, Ordering::Relaxed);
                            println!("{name:24} NOT FOUND in {seeds} seeds  {text}");
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner();
    println!("{} of {} planted defects found", defects.len() - missed, defects.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn keep_pace() -> ExitCode {
    let mut good = true;
    println!(
        "| hosts | may be down | a host, s | took, s | times the shortest | times its rounds |\n\
         |---|---|---|---|---|---|"
    );
    for (hosts, quota) in [(12, 1), (30, 5), (60, 6), (60, 12), (60, 20)] {
        match pace::measure(hosts, quota) {
            Ok(pace) => {
                let (one, took, ratio) = (pace.host_seconds, pace.took_seconds, pace.ratio());
                let rounds = pace.in_rounds();
                println!("| {hosts} | {quota} | {one:.2} | {took:.1} | {ratio:.3} | {rounds:.3} |");
                good &= ratio <= pace::RATIO_MAX;
            }
            Err(why) => {
                println!("{hosts} hosts, {quota} at a time: {why}");
                good = false;
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summarize(tally: &Tally, took: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "{} seeds, {} events, {:.1} virtual hours in {seconds:.1} s: {:.0} events/s",
        tally.runs,
        tally.events,
        tally.virtual_seconds as f64 / 3600.0,
        tally.events as f64 / seconds,
    );
    for situation in Situation::ALL {
        println!("{:8}  {}", tally.coverage.count(*situation), situation.text());
    }
}

/// Shrinks a failing run and prints what somebody needs who wants to understand it.
fn explain(seed: u64, hosts: usize, at: u64, violation: &Violation) {
    let seconds = at as f64 / SECOND as f64;
    println!("\nseed {seed} breaks {} after {seconds:.3} s: {}", violation.promise, violation.what);
    let plan = Plan::draw(seed, hosts);
    let kept = shrink::shrink(&plan, violation, 200);
    println!("{} of its {} faults are needed:", kept.len(), plan.faults.len());
    for index in &kept {
        println!("  {index:3}  {}", plan.faults[*index]);
    }
    let (_, world) = shrink::with_faults(&plan, &kept, Trace::spoken(120, false));
    println!("the end of it:");
    for line in world.trace.lines() {
        println!("{line}");
    }
    let only: Vec<_> = kept.iter().map(ToString::to_string).collect();
    println!("\nagain, as it was: groundswell-simulations replay {seed} --hosts {hosts} --trace");
    println!(
        "and in short:     groundswell-simulations replay {seed} --hosts {hosts} --only {} --trace",
        only.join(",")
    );
}

fn replay(seed: u64, hosts: usize, only: Option<Vec<usize>>, trace: bool) -> ExitCode {
    let plan = Plan::draw(seed, hosts);
    let all = 0..plan.faults.len();
    let wanted: Option<BTreeSet<_>> = only.map(|only| only.into_iter().collect());
    let kept: Vec<_> =
        all.filter(|index| wanted.as_ref().is_none_or(|only| only.contains(index))).collect();
    let words = if trace { Trace::spoken(0, true) } else { Trace::silent() };
    let (ended, world) = shrink::with_faults(&plan, &kept, words);
    println!(
        "seed {seed}: {} hosts, {} voters, {} faults, {} events, trace {:016x}",
        plan.hosts.len(),
        plan.voters,
        kept.len(),
        world.events,
        ended.hash,
    );
    match ended.violation {
        None => ExitCode::SUCCESS,
        Some((at, violation)) => {
            let seconds = at as f64 / SECOND as f64;
            println!("breaks {} after {seconds:.3} s: {}", violation.promise, violation.what);
            ExitCode::from(1)
        }
    }
}

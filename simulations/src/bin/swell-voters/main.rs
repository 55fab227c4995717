//! Measures five real voters: how long it takes them to agree, and how many slots they grant a second.
//!
//! The voters are `swelld` processes on this machine, over loopback and on one disk. What asks them is
//! [`carrier`]: a member of the fleet that speaks the real wire and brings what many other members have
//! signed. [`disk`] is what the machine itself takes. The process ends with 1 if a promise does not hold.

mod carrier;
mod disk;
mod load;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use carrier::{Carrier, Keys};
use clap::Parser;
use disk::Disk;
use groundswell_daemon::scratch::{Fleet, Programs, ScratchError};
use load::Load;

/// Measures commit latency and grants per second of five real voters on this machine.
#[derive(Parser)]
struct Arguments {
    /// Entries that are handed in one after the other.
    #[arg(long, default_value_t = 400)]
    entries: usize,
    /// Hosts that ask for slots, all the time.
    #[arg(long, default_value_t = 500)]
    hosts: usize,
    /// Deployment groups that they are in, one each.
    #[arg(long, default_value_t = 5)]
    groups: usize,
    /// Seconds over which grants are counted.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where the fleet lives meanwhile; its voters write there.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("swell-voters: error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<bool, ScratchError> {
    let dir = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let quiet = Disk::measure(dir.path(), 1)?;
    let busy = Disk::measure(dir.path(), VOTERS)?;

    let fleet = start(&dir.path().join("f"))?;
    let keys = Keys::load(&fleet.keys())?;
    let mut carrier = Carrier::connect(&fleet, &keys).await?;
    let mut load = Load::new(keys, arguments.hosts, arguments.groups);
    load.set_up(&mut carrier).await?;

    let round_trips = carrier.round_trips(arguments.entries).await?;
    let commits = load.one_by_one(&mut carrier, arguments.entries).await?;
    let before = cpu_seconds(&fleet)?;
    let begun = Instant::now();
    let granted = load.flood(&mut carrier, Duration::from_secs(arguments.seconds)).await?;
    let cpu = cpu_seconds(&fleet)? - before;
    let cores = cpu / begun.elapsed().as_secs_f64();

    let round_trip = at(&round_trips, 50);
    let (seen, seen_late) = (at(&commits, 50), at(&commits, 99));
    let floor = round_trip + at(&quiet.syncs, 50);
    let commit = seen - round_trip;
    let rate = granted as f64 / arguments.seconds as f64;
    println!("| what | p50 | p99 |\n|---|---|---|");
    let row =
        |what, all: &[f64]| println!("| {what} | {:.2} ms | {:.2} ms |", at(all, 50), at(all, 99));
    row("round trip between two hosts, over their link", &round_trips);
    row("fdatasync of one entry, where the voters' state lies", &quiet.syncs);
    row("the same, while five do it at the same time", &busy.syncs);
    row("from handing an entry in to seeing it applied by the leader", &commits);
    println!(
        "| commit: the same without the way there and back | {commit:.2} ms | {:.2} ms |",
        seen_late - round_trip
    );
    println!();
    println!("| what | measured | promised |\n|---|---|---|");
    println!(
        "| commit, p50 | {:.2} x (round trip + fdatasync) | at most {COMMIT_MAX} x |",
        commit / floor
    );
    println!(
        "| the same, by the disk with five writers | {:.2} x | |",
        commit / (round_trip + at(&busy.syncs, 50))
    );
    println!(
        "| grants per second, {} hosts, {} groups, {} s | {rate:.0} | at least {GRANTS_MIN} |",
        arguments.hosts, arguments.groups, arguments.seconds
    );
    println!("| cores that the voters took for them | {cores:.2} | |");
    Ok(commit <= COMMIT_MAX * floor && rate >= GRANTS_MIN)
}

fn start(dir: &Path) -> Result<Fleet, ScratchError> {
    let mut fleet = Fleet::new(dir, VOTERS, Programs::beside_this()?)?;
    fleet.found_with(VOTERS)?;
    fleet.token("token", "*", "role=voter", VOTERS)?;
    for index in 0..VOTERS {
        fleet.join(index, "token")?;
        fleet.start_daemon(index)?;
    }
    Ok(fleet)
}

/// User and system time of all voters so far.
fn cpu_seconds(fleet: &Fleet) -> Result<f64, ScratchError> {
    let mut ticks = 0.0;
    for id in fleet.hosts().iter().filter_map(|host| host.processes().0) {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields = after_name.split_whitespace().skip(11).take(2);
        ticks += fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// The value below which so many percent lie.
fn at(all: &[f64], percent: usize) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

const VOTERS: usize = 5;
const COMMIT_MAX: f64 = 2.0;
const GRANTS_MIN: f64 = 1000.0;
/// `sysconf(_SC_CLK_TCK)` on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

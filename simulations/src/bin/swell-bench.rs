//! Measures a fleet of the real programs and compares with what is promised.
//!
//! Every number is a median or a maximum over several runs on this machine. The process ends with 1
//! if a promise does not hold.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use groundswell_daemon::scratch::{Fleet, Programs, ScratchError, Shop};

/// Measures what the README promises: five hosts, real processes, this machine.
#[derive(Parser)]
struct Arguments {
    /// How often each thing is done.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds over which idle processes are watched.
    #[arg(long, default_value_t = 20)]
    idle_seconds: u64,
}

/// A number and what it may be at most.
struct Measured {
    what: &'static str,
    got: f64,
    limit: f64,
    unit: &'static str,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(all) => {
            println!("| what | measured | at most |\n|---|---|---|");
            for Measured { what, got, limit, unit } in &all {
                println!("| {what} | {got:.2} {unit} | {limit} {unit} |");
            }
            let broken = all.iter().any(|measured| measured.got > measured.limit);
            if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("swell-bench: error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<Vec<Measured>, ScratchError> {
    let programs = Programs::beside_this()?;
    let dir = tempfile::tempdir()?;
    let mut all = vec![demo(&programs, arguments.runs)?];
    let mut fleet = Fleet::new(&dir.path().join("f"), 5, programs)?;
    fleet.start()?;
    fleet.wait_complete(PATIENCE).await?;
    fleet.apply_group("AllAtOnce", 0)?;
    for version in ["a", "b"] {
        let app = dir.path().join(version);
        write_empty(&app, version)?;
        fleet.push(fleet.last(), &app, version)?;
        let id = fleet.deploy(fleet.last(), version, &[])?;
        fleet.wait_over(fleet.last(), &id, PATIENCE).await?;
    }
    all.push(deploys(&fleet, arguments.runs)?);
    all.push(status(&fleet, arguments.runs * 4)?);
    all.extend(idle(&fleet, arguments.idle_seconds).await?);
    Ok(all)
}

/// The shop without its scripts: hooks are empty, files are there.
fn write_empty(dir: &Path, version: &str) -> Result<(), ScratchError> {
    Shop::new(version).write(dir)?;
    let appspec = "version: 0.0\nos: linux\nfiles:\n  - source: shop\n    destination: /srv/shop\n";
    fs::write(dir.join("appspec.yml"), appspec)?;
    Ok(())
}

fn demo(programs: &Programs, runs: usize) -> Result<Measured, ScratchError> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        let status = Command::new(&programs.swell)
            .arg("demo")
            .env_remove("CARGO")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(ScratchError("a demo failed".into()));
        }
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(Measured { what: "`swell demo`, five hosts", got: median(times), limit: 40.0, unit: "s" })
}

/// From `swell deploy` to its end, to and fro between two revisions that every host has.
fn deploys(fleet: &Fleet, runs: usize) -> Result<Measured, ScratchError> {
    let mut times = Vec::new();
    for run in 0..runs * 2 {
        let version = ["a", "b"][run % 2];
        let begun = Instant::now();
        fleet.swell(fleet.last(), &["deploy", "web", version, "--key", &fleet.operator_key()])?;
        times.push(begun.elapsed().as_secs_f64());
    }
    let what = "`swell deploy`, `AllAtOnce`, revision staged, no hooks, to the last host done";
    Ok(Measured { what, got: median(times), limit: 2.0, unit: "s" })
}

fn status(fleet: &Fleet, runs: usize) -> Result<Measured, ScratchError> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        fleet.swell(0, &["status"])?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(Measured {
        what: "`swell status`, the whole process",
        got: median(times),
        limit: 50.0,
        unit: "ms",
    })
}

/// The largest and busiest process of each kind, while nothing is asked of the fleet.
async fn idle(fleet: &Fleet, seconds: u64) -> Result<Vec<Measured>, ScratchError> {
    let processes: Vec<_> = fleet.hosts().iter().map(|host| host.processes()).collect();
    let daemons: Vec<u32> = processes.iter().filter_map(|(daemon, _)| *daemon).collect();
    let executors: Vec<u32> = processes.iter().filter_map(|(_, executor)| *executor).collect();
    let cpu = |ids: &[u32]| ids.iter().map(|id| cpu_seconds(*id)).collect::<Result<Vec<_>, _>>();
    let (daemons_before, executors_before) = (cpu(&daemons)?, cpu(&executors)?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (daemons_after, executors_after) = (cpu(&daemons)?, cpu(&executors)?);
    #[expect(clippy::cast_precision_loss, reason = "seconds of a benchmark are few")]
    let share = |before: &[f64], after: &[f64]| {
        let used = before.iter().zip(after).map(|(before, after)| after - before);
        used.fold(0.0, f64::max) * 100.0 / seconds as f64
    };
    let largest = |ids: &[u32]| {
        let sizes = ids.iter().map(|id| resident_mib(*id)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, ScratchError>(sizes.into_iter().fold(0.0, f64::max))
    };
    let row = |what, got, limit, unit| Measured { what, got, limit, unit };
    Ok(vec![
        row("resident memory of an idle `swelld`", largest(&daemons)?, 30.0, "MB"),
        row("resident memory of an idle `swell-exec`", largest(&executors)?, 5.0, "MB"),
        row("idle CPU of `swelld`", share(&daemons_before, &daemons_after), 1.0, "% of a core"),
        row(
            "idle CPU of `swell-exec`",
            share(&executors_before, &executors_after),
            1.0,
            "% of a core",
        ),
    ])
}

/// User and system time of a process, from the 14th and 15th field of its `stat`.
fn cpu_seconds(id: u32) -> Result<f64, ScratchError> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> =
        after_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    Ok(fields.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn resident_mib(id: u32) -> Result<f64, ScratchError> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0 / 1_000_000.0)
        .ok_or_else(|| ScratchError(format!("process {id} has no resident memory")))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

const PATIENCE: Duration = Duration::from_secs(60);
/// `sysconf(_SC_CLK_TCK)` on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

//! `swell demo`: a whole fleet on this machine, what it does, and whether it really did.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;

use super::{Ended, Failed, Output, follow};
use crate::{
    control::api::Report,
    scratch::{Event, Fleet, Programs, ScratchError, Shop, downtimes},
};

#[derive(Args)]
pub(super) struct DemoArguments {
    /// How many hosts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=12))]
    hosts: u8,
    /// Leave the fleet running and print how to explore it.
    #[arg(long)]
    keep: bool,
    /// Where the fleet's files go; a new directory below the system's temporary one by default.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl From<ScratchError> for Failed {
    fn from(error: ScratchError) -> Self {
        Self::new(error.0)
    }
}

pub(super) async fn run(arguments: DemoArguments, out: Output) -> Result<Ended, Failed> {
    let programs = Programs::beside_this()?;
    let dir = arguments
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("swell-demo-{}", std::process::id())));
    // A socket's path has at most 107 bytes.
    let longest = dir.join("web-12/control.sock");
    if longest.as_os_str().len() > 107 {
        let hint = "name a shorter one with --dir";
        return Err(Failed::with_hint(format!("{} is too long a path", dir.display()), hint));
    }
    if dir.exists() {
        let hint = "name another one with --dir, or remove it";
        return Err(Failed::with_hint(format!("{} exists already", dir.display()), hint));
    }
    let mut fleet = Fleet::new(&dir, arguments.hosts.into(), programs)?;
    let story = Story { out, begun: Instant::now(), failed: false };
    let told = tokio::select! {
        told = run_story(story, &mut fleet) => told,
        _ = tokio::signal::ctrl_c() => Err(Failed::new("interrupted")),
    };
    let held = match &told {
        Ok(held) => *held,
        Err(_) => false,
    };
    if arguments.keep {
        fleet.release_processes();
        explain(&fleet, out);
    } else {
        drop(fleet);
        // A demonstration that fails leaves its logs.
        if held {
            std::fs::remove_dir_all(&dir)
                .map_err(|error| Failed::new(format!("{}: {error}", dir.display())))?;
        } else {
            tell(out, "logs", &format!("the logs are in {}", dir.display()));
        }
    }
    told.map(|held| if held { Ended::Well } else { Ended::Badly })
}

fn tell(out: Output, event: &str, text: &str) {
    out.tell(&serde_json::json!({"event": event, "text": text}), text);
}

/// What is told, and whether every claim held.
struct Story {
    out: Output,
    begun: Instant,
    failed: bool,
}

impl Story {
    fn say(&self, event: &str, text: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        let line = match event {
            "step" => format!("\n[{at:5.1} s] {text}"),
            "claim" => format!("          ok: {text}"),
            "broken" => format!("      FAILED: {text}"),
            _ => format!("          {text}"),
        };
        let at = (at * 10.0).round() / 10.0;
        self.out.tell(&serde_json::json!({"at": at, "event": event, "text": text}), line);
    }

    fn claim(&mut self, text: &str, holds: Result<String, String>) {
        match holds {
            Ok(more) if more.is_empty() => self.say("claim", text),
            Ok(more) => self.say("claim", &format!("{text} ({more})")),
            Err(why) => {
                self.failed = true;
                self.say("broken", &format!("{text}: {why}"));
            }
        }
    }
}

/// The whole demonstration. True if every claim held.
async fn run_story(mut story: Story, fleet: &mut Fleet) -> Result<bool, Failed> {
    let count = fleet.hosts().len();
    story.say("step", &format!("{count} hosts: keys, a fleet, a token; each joins and starts"));
    fleet.start()?;
    fleet.wait_complete(Duration::from_secs(60)).await?;
    let seen = fleet.wait_for(fleet.last(), "a leader", PATIENCE, |f| f.leader.is_some()).await?;
    let leader = seen.leader.unwrap_or_default();
    story.say(
        "claim",
        &format!("every host lists all {count}; {leader} leads {} voters", seen.voters.len()),
    );
    fleet.apply_group("OneAtATime", 1)?;

    first_release(&mut story, fleet).await?;
    leader_dies(&mut story, fleet).await?;
    bad_release(&mut story, fleet).await?;

    let seconds = story.begun.elapsed().as_secs_f64();
    let verdict = if story.failed { "NOT all claims held" } else { "every claim held" };
    story.say("step", &format!("{verdict}; {seconds:.1} s"));
    Ok(!story.failed)
}

async fn first_release(story: &mut Story, fleet: &Fleet) -> Result<(), Failed> {
    story.say("step", "release 1.0.0: signed, pushed into one host, deployed to all at once");
    release(fleet, &Shop::new("1.0.0"))?;
    let report = deploy(story, fleet, "1.0.0", &["--configuration", "AllAtOnce"]).await?;
    story.claim("the deployment succeeded", verdict(&report, "succeeded"));
    story.claim("1.0.0 runs on every host", all_run(fleet, "1.0.0"));
    Ok(())
}

async fn leader_dies(story: &mut Story, fleet: &mut Fleet) -> Result<(), Failed> {
    story.say(
        "step",
        "release 1.1.0, one host at a time; the consensus leader is killed in the middle",
    );
    release(fleet, &Shop::new("1.1.0"))?;
    let (watcher, begun) = (fleet.last(), now());
    let id = fleet.deploy(watcher, "1.1.0", &[])?;
    let second = |report: &Report| report.summary.succeeded >= 1 && report.summary.in_progress == 1;
    fleet.wait_deployment(watcher, &id, PATIENCE, second).await?;
    let seen = fleet.wait_for(watcher, "a leader", PATIENCE, |f| f.leader.is_some()).await?;
    let old = seen.leader.unwrap_or_default();
    let index = fleet.index_of(&old).ok_or_else(|| Failed::new("the leader is no host"))?;
    fleet.kill_daemon(index);
    let killed = Instant::now();
    story.say("note", &format!("{old}, which led, is killed"));
    let other = fleet
        .wait_for(watcher, "another leader", PATIENCE, |f| {
            f.leader.as_ref().is_some_and(|leader| *leader != old)
        })
        .await?;
    let (new, took) = (other.leader.unwrap_or_default(), killed.elapsed().as_secs_f64());
    story.say("note", &format!("{new} leads after {took:.1} s; {old} is started again"));
    fleet.start_daemon(index)?;
    let report = watch(story, fleet, &id).await?;
    story.claim("the deployment succeeded all the same", verdict(&report, "succeeded"));
    story.claim("1.1.0 runs on every host", all_run(fleet, "1.1.0"));
    story.claim("never were two hosts down at once", one_at_a_time(fleet, begun));
    Ok(())
}

async fn bad_release(story: &mut Story, fleet: &Fleet) -> Result<(), Failed> {
    story.say("step", "release 1.2.0, whose ValidateService fails");
    release(fleet, &Shop { broken: true, ..Shop::new("1.2.0") })?;
    let report = deploy(story, fleet, "1.2.0", &[]).await?;
    story.claim("the deployment failed", verdict(&report, "failed"));
    let failure = report.targets.iter().find_map(|target| {
        let failure = target.failure.as_ref()?;
        let last = failure.log.lines().last().unwrap_or_default();
        Some(format!("{}: {}: {}", target.host, failure.message, last))
    });
    story.say("note", &failure.unwrap_or_else(|| "no host says why".into()));
    let touched = fleet
        .hosts()
        .iter()
        .filter(|host| Event::read(host.dir()).iter().any(|event| event.version == "1.2.0"));
    let touched: Vec<_> = touched.map(|host| host.name.as_str()).collect();
    let one = (touched.len() == 1).then(String::new);
    story.claim(
        "it stopped at the first host",
        one.ok_or_else(|| format!("1.2.0 was on {}", touched.join(", "))),
    );
    story.claim("the group is back on 1.1.0", all_run(fleet, "1.1.0"));
    story.claim("and every host is healthy", all_up(fleet));
    Ok(())
}

fn release(fleet: &Fleet, shop: &Shop) -> Result<(), Failed> {
    let dir = fleet.dir().join(format!("shop-{}", shop.version));
    shop.write(&dir).map_err(|error| Failed::new(format!("{}: {error}", dir.display())))?;
    fleet.push(fleet.last(), &dir, &shop.version)?;
    Ok(())
}

async fn deploy(
    story: &Story,
    fleet: &Fleet,
    label: &str,
    more: &[&str],
) -> Result<Report, Failed> {
    let id = fleet.deploy(fleet.last(), label, more)?;
    watch(story, fleet, &id).await
}

async fn watch(story: &Story, fleet: &Fleet, id: &str) -> Result<Report, Failed> {
    let mut progress = follow::Progress::new(story.out, story.out.json);
    let client = fleet.client(fleet.last());
    let end = follow::to_the_end(&client, id, |report| progress.show(report));
    let report = tokio::time::timeout(DEPLOYMENT_PATIENCE, end)
        .await
        .map_err(|_| Failed::new(format!("{id} did not end in time")))??;
    progress.end();
    Ok(report)
}

fn verdict(report: &Report, expected: &str) -> Result<String, String> {
    let summary = &report.summary;
    if summary.status == expected {
        let took =
            summary.ended_at.unwrap_or(summary.created_at).saturating_sub(summary.created_at);
        Ok(format!("{}, {took} s", summary.id))
    } else {
        Err(super::view::report_text(report))
    }
}

fn all_run(fleet: &Fleet, version: &str) -> Result<String, String> {
    for host in fleet.hosts() {
        let path = Shop::version_file(&host.live());
        let runs = std::fs::read_to_string(&path).unwrap_or_default();
        if runs.trim() != version {
            return Err(format!("{} has '{}' in {}", host.name, runs.trim(), path.display()));
        }
    }
    Ok(String::new())
}

/// Judges by the times that the scripts wrote.
fn one_at_a_time(fleet: &Fleet, begun: f64) -> Result<String, String> {
    let mut times: Vec<(f64, f64, &str)> = Vec::new();
    for host in fleet.hosts() {
        let downtimes = downtimes(&Event::read(host.dir()));
        let downtimes = downtimes.into_iter().filter(|(from, _)| *from >= begun);
        times.extend(downtimes.map(|(from, to)| (from, to, host.name.as_str())));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    if times.len() < fleet.hosts().len() {
        return Err(format!("only {} hosts were ever down", times.len()));
    }
    for pair in times.windows(2) {
        let ((_, until, first), (from, _, second)) = (pair[0], pair[1]);
        if from < until {
            let ms = (until - from) * 1000.0;
            return Err(format!("{second} went down {ms:.0} ms before {first} was up"));
        }
    }
    let order: Vec<_> = times.iter().map(|(_, _, host)| *host).collect();
    Ok(order.join(", then "))
}

fn all_up(fleet: &Fleet) -> Result<String, String> {
    for host in fleet.hosts() {
        let last = downtimes(&Event::read(host.dir())).last().copied();
        if last.is_some_and(|(_, until)| until.is_infinite()) {
            return Err(format!("the shop on {} did not come up", host.name));
        }
    }
    Ok(String::new())
}

fn explain(fleet: &Fleet, out: Output) {
    let swell = fleet.programs().swell.display();
    let socket = fleet.hosts()[fleet.last()].socket().display().to_string();
    let commands = ["status --watch", "deployments", "hosts", "voters"];
    let mut text = format!("\nthe fleet runs on in {}\n", fleet.dir().display());
    for command in commands {
        text.push_str(&format!("  {swell} --socket {socket} {command}\n"));
    }
    text.push_str(&format!("end it with: pkill -f {}", fleet.dir().display()));
    tell(out, "kept", &text);
}

fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

const PATIENCE: Duration = Duration::from_secs(30);
const DEPLOYMENT_PATIENCE: Duration = Duration::from_secs(120);

//! What breaks, in an order that the seed gives, while releases roll.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use groundswell_daemon::{
    control::api,
    scratch::{Fleet, ScratchError},
};
use groundswell_simulations::dice::Dice;

use crate::{
    GROUPS, HOSTS, PATIENCE, app,
    net::{self, Net},
    set_clock,
};

/// Whom it strikes.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Leader,
    /// A host that holds a slot.
    Holder,
    Anyone,
}

/// Which of a host's processes.
#[derive(Clone, Copy, Debug)]
enum Part {
    Daemon,
    Executor,
    Both,
}

/// What is done to it.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// It is cut off, with so many others.
    Cut(usize),
    /// SIGKILL.
    Kill(Part),
    /// SIGSTOP, and SIGCONT when all is mended.
    Pause(Part),
    /// Its wall clock moves by so many seconds.
    Clock(i64),
}

/// The fleet and what is broken in it.
pub(crate) struct Storm {
    fleet: Fleet,
    net: Net,
    dice: Dice,
    begun: Instant,
    /// Hosts that are struck by something that keeps them from answering.
    struck: Vec<usize>,
    version: u32,
    running: Vec<String>,
}

impl Storm {
    pub(crate) fn new(fleet: Fleet, net: Net, seed: u64, begun: Instant) -> Self {
        let (struck, running) = (Vec::new(), Vec::new());
        Self { fleet, net, dice: Dice::new(seed), begun, struck, version: 0, running }
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Every blow once, two at a time, each while some host is disturbed.
    pub(crate) async fn rage(&mut self) -> Result<(), ScratchError> {
        let mut blows = BLOWS.to_vec();
        while !blows.is_empty() {
            self.keep_rolling().await?;
            let before = self.notes();
            self.until("a host is disturbed", |storm| storm.notes() > before).await?;
            for _ in 0..2.min(blows.len()) {
                let (victim, blow) = blows.swap_remove(self.dice.index(blows.len()));
                self.strike(victim, blow).await?;
            }
            // How long it stays broken is the weather's to say.
            let lasts = Duration::from_millis(self.dice.between(300, 6000));
            tokio::time::sleep(lasts).await;
            self.mend()?;
        }
        Ok(())
    }

    async fn strike(&mut self, victim: Victim, blow: Blow) -> Result<(), ScratchError> {
        let host = self.find(victim).await?;
        let name = self.fleet.hosts()[host].name.clone();
        say(self.begun, &format!("{name} ({victim:?}): {blow:?}"));
        match blow {
            Blow::Cut(more) => {
                let mut island = vec![host];
                let others =
                    self.dice.some(HOSTS, HOSTS).into_iter().filter(|other| *other != host);
                island.extend(others.take(more));
                self.net.island(&island)?;
                let outside = (0..HOSTS).find(|other| !island.contains(other)).unwrap_or(0);
                if Net::connects(outside, host)? {
                    return Err(ScratchError(format!(
                        "{name} is cut off and is reached all the same"
                    )));
                }
                self.struck.extend(island);
            }
            Blow::Kill(part) => {
                if !matches!(part, Part::Executor) {
                    self.fleet.kill_daemon(host);
                }
                if !matches!(part, Part::Daemon) {
                    self.fleet.kill_executor(host);
                }
                self.struck.push(host);
            }
            Blow::Pause(part) => {
                self.signal(host, part, "STOP")?;
                self.struck.push(host);
            }
            Blow::Clock(seconds) => set_clock(self.fleet.dir(), host, seconds)?,
        }
        Ok(())
    }

    /// A host of this kind that is not struck yet, if there is one.
    async fn find(&mut self, victim: Victim) -> Result<usize, ScratchError> {
        let seen = self.look().await?;
        let names: Vec<_> = match victim {
            Victim::Leader => seen.leader.into_iter().collect(),
            Victim::Holder => seen.slots.into_iter().map(|slot| slot.host).collect(),
            Victim::Anyone => Vec::new(),
        };
        let found = names.iter().filter_map(|name| self.fleet.index_of(name));
        let found: Vec<_> = found.filter(|host| !self.struck.contains(host)).collect();
        let well: Vec<_> = (0..HOSTS).filter(|host| !self.struck.contains(host)).collect();
        Ok(*self.dice.pick(if found.is_empty() { &well } else { &found }))
    }

    /// The fleet as one host sees it that is not struck.
    async fn look(&self) -> Result<api::Fleet, ScratchError> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            for host in (0..HOSTS).filter(|host| !self.struck.contains(host)) {
                let client = self.fleet.client(host);
                let seen = tokio::time::timeout(Duration::from_secs(2), client.fleet()).await;
                if let Ok(Ok(seen)) = seen {
                    return Ok(seen);
                }
            }
        }
        Err(ScratchError("no host answers".into()))
    }

    fn signal(&self, host: usize, part: Part, signal: &str) -> Result<(), ScratchError> {
        let (daemon, executor) = self.fleet.hosts()[host].processes();
        let ids = match part {
            Part::Daemon => [daemon, None],
            Part::Executor => [None, executor],
            Part::Both => [daemon, executor],
        };
        for id in ids.into_iter().flatten() {
            net::run("kill", &[&format!("-{signal}"), &id.to_string()])?;
        }
        Ok(())
    }

    /// Links and processes come back. Clocks stay as they were set.
    fn mend(&mut self) -> Result<(), ScratchError> {
        self.net.island(&[])?;
        self.struck.clear();
        for host in 0..HOSTS {
            let (daemon, executor) = self.fleet.hosts()[host].processes();
            if daemon.is_none() {
                self.fleet.start_daemon(host)?;
            }
            if executor.is_none() {
                self.fleet.start_executor(host)?;
            }
            self.signal(host, Part::Both, "CONT")?;
        }
        Ok(())
    }

    /// Everything is as it was, clocks included.
    pub(crate) async fn mend_all(&mut self) -> Result<(), ScratchError> {
        self.mend()?;
        self.set_clocks_right()?;
        self.fleet.wait_complete(PATIENCE).await
    }

    fn set_clocks_right(&self) -> Result<(), ScratchError> {
        (0..HOSTS).try_for_each(|host| set_clock(self.fleet.dir(), host, 0))
    }

    /// Gives each group a new release if none is rolling in it.
    async fn keep_rolling(&mut self) -> Result<(), ScratchError> {
        let seen = self.look().await?;
        let rolls = |group: &str| {
            let of = seen.deployments.iter().filter(|deployment| deployment.group == group);
            of.into_iter().any(|deployment| !deployment.is_over())
        };
        if GROUPS.iter().all(|group| rolls(group.name)) {
            return Ok(());
        }
        self.version += 1;
        for group in &GROUPS {
            if !rolls(group.name) {
                self.deploy(group.name).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn deploy_both(&mut self) -> Result<(), ScratchError> {
        self.version += 1;
        self.running.clear();
        for group in &GROUPS {
            let id = self.deploy(group.name).await?;
            self.running.push(id);
        }
        Ok(())
    }

    /// Pushes the newest version to some host and deploys it from there, as people do: they go to
    /// another host if one does not take it.
    async fn deploy(&mut self, group: &str) -> Result<String, ScratchError> {
        let label = self.version.to_string();
        let bundle = self.release(group)?.display().to_string();
        let key = self.fleet.operator_key();
        let deploy = [
            "--json",
            "deploy",
            group,
            &label,
            "--no-wait",
            "--queue",
            "--no-rollback",
            "--key",
            &key,
        ];
        let until = Instant::now() + PATIENCE;
        loop {
            let host = self.dice.index(HOSTS);
            let pushed = self.fleet.swell(host, &["push", &bundle]);
            let said = pushed.and_then(|_| self.fleet.swell(host, &deploy));
            match said {
                Ok(said) => {
                    let said: serde_json::Value = serde_json::from_str(&said)
                        .map_err(|error| ScratchError(format!("{error}: {said}")))?;
                    return Ok(said["deployment"].as_str().unwrap_or_default().to_owned());
                }
                Err(error) if Instant::now() >= until => return Err(error),
                Err(ScratchError(error)) => {
                    let reason =
                        error.lines().find(|line| line.starts_with("swell: ")).unwrap_or(&error);
                    say(self.begun, &format!("on another host then: {reason}"));
                    // Orders are good for some days. Whoever reads this sets the clock.
                    if error.contains("unless that clock is wrong") {
                        self.set_clocks_right()?;
                    }
                }
            }
        }
    }

    fn release(&self, group: &str) -> Result<PathBuf, ScratchError> {
        let label = self.version.to_string();
        let out = self.fleet.dir().join(format!("{group}-{label}.swell"));
        if out.exists() {
            return Ok(out);
        }
        let dir = self.fleet.dir().join(format!("{group}-{label}"));
        app::write(&dir, group, self.version)?;
        let (keys, dir) = (self.fleet.keys().display().to_string(), dir.display().to_string());
        self.fleet.run(
            &self.fleet.programs().swell_sign,
            &[
                "release",
                &dir,
                "--keys",
                &keys,
                "--application",
                group,
                "--label",
                &label,
                "--out",
                &out.display().to_string(),
            ],
        )?;
        Ok(out)
    }

    pub(crate) async fn both_succeed(&self) -> Result<(), ScratchError> {
        for id in &self.running {
            let report = self.fleet.wait_over(self.fleet.last(), id, PATIENCE).await?;
            if report.summary.status != "succeeded" {
                return Err(ScratchError(format!("{id} did not succeed: {report:?}")));
            }
        }
        Ok(())
    }

    /// What still rolls comes to its end; then one more release must succeed in both groups.
    pub(crate) async fn last_release(&mut self) -> Result<u32, ScratchError> {
        let idle = |seen: &api::Fleet| seen.deployments.iter().all(api::Summary::is_over);
        let what = "what rolled in the storm comes to its end";
        let seen = self.fleet.wait_for(self.fleet.last(), what, PATIENCE, idle).await?;
        for deployment in &seen.deployments {
            say(self.begun, &format!("{}: {:?}", deployment.group, deployment.how_it_ended()));
        }
        self.deploy_both().await?;
        self.both_succeed().await?;
        Ok(self.version)
    }

    /// How much the scripts have written down.
    fn notes(&self) -> u64 {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        self.fleet.hosts().iter().map(|host| size(host.dir().join("events"))).sum()
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), ScratchError> {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            if Instant::now() >= end {
                let seen = serde_json::to_string(&self.look().await?).unwrap_or_default();
                return Err(ScratchError(format!("{what}: not in time; seen: {seen}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// Tells what happens, and when.
pub(crate) fn say(begun: Instant, what: &str) {
    println!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
}

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
const BLOWS: [(Victim, Blow); 18] = [
    (Victim::Leader, Blow::Cut(0)),
    (Victim::Leader, Blow::Cut(4)),
    (Victim::Holder, Blow::Cut(0)),
    (Victim::Anyone, Blow::Cut(5)),
    (Victim::Leader, Blow::Kill(Part::Daemon)),
    (Victim::Leader, Blow::Kill(Part::Both)),
    (Victim::Holder, Blow::Kill(Part::Daemon)),
    (Victim::Holder, Blow::Kill(Part::Executor)),
    (Victim::Holder, Blow::Kill(Part::Both)),
    (Victim::Leader, Blow::Pause(Part::Daemon)),
    (Victim::Leader, Blow::Pause(Part::Both)),
    (Victim::Holder, Blow::Pause(Part::Daemon)),
    (Victim::Holder, Blow::Pause(Part::Executor)),
    (Victim::Leader, Blow::Clock(2 * HOUR)),
    (Victim::Leader, Blow::Clock(-2 * HOUR)),
    (Victim::Holder, Blow::Clock(YEAR)),
    (Victim::Holder, Blow::Clock(-YEAR)),
    (Victim::Anyone, Blow::Clock(-HOUR)),
];
const LOOK_EVERY: Duration = Duration::from_millis(20);

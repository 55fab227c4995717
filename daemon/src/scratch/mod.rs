//! A whole fleet as real processes in a scratch directory: for the demo, the tests, the benchmarks.
//!
//! Every host has a directory with its settings, its state, its logs and its live tree. The programs
//! are the ones that are shipped, started as they are in production, without root: each executor
//! calls its host's `live` directory `/`.

mod programs;
mod shop;

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use thiserror::Error;

pub use programs::Programs;
pub use shop::{Event, Shop, downtimes};

use crate::control::{
    api::{self, Report},
    client::Client,
};

/// Why the scratch fleet does not do what it should.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ScratchError(pub String);

impl From<io::Error> for ScratchError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// The fleet. Its processes end when it is dropped.
pub struct Fleet {
    dir: PathBuf,
    programs: Programs,
    hosts: Vec<Host>,
}

/// One host.
pub struct Host {
    /// Its name in the fleet.
    pub name: String,
    dir: PathBuf,
    place: Place,
    daemon: Option<Child>,
    executor: Option<Child>,
}

/// Where a host is, and what its processes are started by.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The address that other hosts dial.
    pub address: String,
    /// A command that runs the words after it, such as one that enters a network namespace first. It
    /// must become the program, so that signals reach it.
    pub launcher: Vec<String>,
    /// What the processes find in their environment.
    pub environment: Vec<(String, String)>,
}

impl Host {
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// What its appspecs call `/`.
    pub fn live(&self) -> PathBuf {
        self.dir.join("live")
    }

    /// A file of settings: `swelld.toml` or `swell-exec.toml`.
    pub fn settings(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The process ids of its daemon and its executor, where they run.
    pub fn processes(&self) -> (Option<u32>, Option<u32>) {
        (self.daemon.as_ref().map(Child::id), self.executor.as_ref().map(Child::id))
    }

    /// The address that other hosts dial.
    pub fn address(&self) -> String {
        self.place.address.clone()
    }
}

impl Fleet {
    /// Lays out `count` hosts named `web-1` and up below `dir`. Nothing runs yet.
    pub fn new(dir: &Path, count: usize, programs: Programs) -> Result<Self, ScratchError> {
        let loopback = |port| format!("/ip4/127.0.0.1/tcp/{port}");
        let place = |port| Place { address: loopback(port), ..Place::default() };
        let places = free_ports(count)?.into_iter().map(place).collect();
        Self::placed(dir, places, programs)
    }

    /// The same, with each host in its place.
    pub fn placed(
        dir: &Path,
        places: Vec<Place>,
        programs: Programs,
    ) -> Result<Self, ScratchError> {
        fs::create_dir_all(dir)?;
        let hosts = places.into_iter().zip(1..).map(|(place, number): (Place, usize)| Host {
            name: format!("web-{number}"),
            dir: dir.join(format!("web-{number}")),
            place,
            daemon: None,
            executor: None,
        });
        let fleet = Self { dir: dir.to_path_buf(), programs, hosts: hosts.collect() };
        for host in &fleet.hosts {
            fleet.write_settings(host)?;
        }
        Ok(fleet)
    }

    fn write_settings(&self, host: &Host) -> Result<(), ScratchError> {
        fs::create_dir_all(host.live())?;
        let dir = host.dir.display();
        let mut daemon = String::new();
        writeln!(daemon, "state_dir = \"{dir}/state\"").ok();
        writeln!(daemon, "control_socket = \"{dir}/control.sock\"").ok();
        writeln!(daemon, "executor_socket = \"{dir}/exec.sock\"").ok();
        writeln!(daemon, "listen = [\"{}\"]", host.address()).ok();
        writeln!(daemon, "log_to = \"stderr\"").ok();
        fs::write(host.settings("swelld.toml"), daemon)?;
        let mut executor = String::new();
        writeln!(executor, "state_dir = \"{dir}/exec\"").ok();
        writeln!(executor, "root_dir = \"{dir}/deployment-root\"").ok();
        writeln!(executor, "store_dir = \"{dir}/state/store\"").ok();
        writeln!(executor, "socket = \"{dir}/exec.sock\"").ok();
        writeln!(executor, "destination_root = \"{dir}/live\"").ok();
        // What is started for a moment leaves nothing in the machine's systemd.
        writeln!(executor, "scripts = \"plain\"").ok();
        fs::write(host.settings("swell-exec.toml"), executor)?;
        Ok(())
    }

    /// Adds a line to the settings of every daemon.
    pub fn set(&self, line: &str) -> Result<(), ScratchError> {
        for host in &self.hosts {
            let path = host.settings("swelld.toml");
            let text = fs::read_to_string(&path)? + line + "\n";
            fs::write(path, text)?;
        }
        Ok(())
    }

    /// Founds the fleet: keys, trust, genesis with the first three hosts as voters, and one join
    /// token for all.
    pub fn found(&self) -> Result<(), ScratchError> {
        self.found_with(if self.hosts.len() >= 3 { 3 } else { 1 })?;
        self.token("token", "*", "role=web", self.hosts.len())
    }

    /// Founds the fleet: keys, trust, genesis with the first `voters` hosts as voters.
    pub fn found_with(&self, voters: usize) -> Result<(), ScratchError> {
        let keys = self.keys().display().to_string();
        let mut init: Vec<String> =
            ["init", &keys, "--name", "scratch", "--no-passphrase"].map(String::from).into();
        for host in &self.hosts[..voters] {
            let settings = host.settings("swelld.toml").display().to_string();
            let key = self.run(&self.programs.swell, &["identity", "--config", &settings])?;
            init.extend(["--voter".into(), format!("{}={}", host.name, key.trim())]);
        }
        let init: Vec<_> = init.iter().map(String::as_str).collect();
        self.run(&self.programs.swell_sign, &init).map(drop)
    }

    /// Makes a join token in the file `name`, for hosts with these labels.
    pub fn token(
        &self,
        name: &str,
        pattern: &str,
        labels: &str,
        uses: usize,
    ) -> Result<(), ScratchError> {
        let (keys, uses) = (self.keys().display().to_string(), uses.to_string());
        let (out, seed) = (self.dir.join(name).display().to_string(), self.hosts[0].address());
        let arguments = [
            "token", "--keys", &keys, "--seed", &seed, "--names", pattern, "--labels", labels,
            "--uses", &uses, "--out", &out,
        ];
        self.run(&self.programs.swell_sign, &arguments).map(drop)
    }

    /// Makes a host a member by the token in the file `name`.
    pub fn join(&self, index: usize, name: &str) -> Result<(), ScratchError> {
        let host = &self.hosts[index];
        let token = self.dir.join(name).display().to_string();
        let settings = host.settings("swelld.toml").display().to_string();
        let executor = host.dir.join("exec").display().to_string();
        let arguments = [
            "join",
            &token,
            "--name",
            &host.name,
            "--config",
            &settings,
            "--executor-state",
            &executor,
        ];
        self.run(&self.programs.swell, &arguments).map(drop)
    }

    /// Founds the fleet, joins all hosts and starts them.
    pub fn start(&mut self) -> Result<(), ScratchError> {
        self.found()?;
        for index in 0..self.hosts.len() {
            self.join(index, "token")?;
        }
        for index in 0..self.hosts.len() {
            self.start_executor(index)?;
            self.start_daemon(index)?;
        }
        Ok(())
    }

    /// Starts a host's daemon.
    pub fn start_daemon(&mut self, index: usize) -> Result<(), ScratchError> {
        let child = self.spawn(&self.programs.swelld, index, "swelld")?;
        self.hosts[index].daemon = Some(child);
        Ok(())
    }

    /// Starts a host's executor.
    pub fn start_executor(&mut self, index: usize) -> Result<(), ScratchError> {
        let child = self.spawn(&self.programs.swell_exec, index, "swell-exec")?;
        self.hosts[index].executor = Some(child);
        Ok(())
    }

    fn spawn(&self, program: &Path, index: usize, name: &str) -> Result<Child, ScratchError> {
        let host = &self.hosts[index];
        let log = File::options().create(true).append(true).open(self.log(index, name))?;
        let mut command = match host.place.launcher.split_first() {
            None => Command::new(program),
            Some((launcher, words)) => {
                let mut command = Command::new(launcher);
                command.args(words).arg(program);
                command
            }
        };
        if name == "swell-exec" {
            // As its unit has it.
            command.env("MALLOC_ARENA_MAX", "1").env("MALLOC_MMAP_THRESHOLD_", "65536");
        }
        let child = command
            .arg("--config")
            .arg(host.settings(&format!("{name}.toml")))
            // What the scripts of the shop write down goes here.
            .env("SWELL_SCRATCH", &host.dir)
            .envs(host.place.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        child.map_err(|error| ScratchError(format!("{}: {error}", program.display())))
    }

    /// Kills a host's daemon with SIGKILL.
    pub fn kill_daemon(&mut self, index: usize) {
        kill(&mut self.hosts[index].daemon);
    }

    /// Kills a host's executor with SIGKILL.
    pub fn kill_executor(&mut self, index: usize) {
        kill(&mut self.hosts[index].executor);
    }

    /// The log of a host's `swelld` or `swell-exec`.
    pub fn log(&self, index: usize, name: &str) -> PathBuf {
        self.hosts[index].dir.join(format!("{name}.log"))
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The index of the host of this name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.name == name)
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the keys are.
    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// The programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The daemon of a host.
    pub fn client(&self, index: usize) -> Client {
        Client::new(&self.hosts[index].socket())
    }

    /// Runs `swell` against a host.
    pub fn swell(&self, index: usize, arguments: &[&str]) -> Result<String, ScratchError> {
        let socket = self.hosts[index].socket().display().to_string();
        let arguments: Vec<_> =
            ["--socket", &socket].into_iter().chain(arguments.iter().copied()).collect();
        self.run(&self.programs.swell, &arguments)
    }

    /// The command line of `swell` for a host, to be typed or spawned.
    pub fn swell_command(&self, index: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.swell);
        command.arg("--socket").arg(self.hosts[index].socket()).args(arguments);
        command
    }

    /// Runs a program; its output if it succeeds, else its errors.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Result<String, ScratchError> {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output =
            output.map_err(|error| ScratchError(format!("{}: {error}", program.display())))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = arguments.join(" ");
        Err(ScratchError(format!("{name} {words}: {}\n{errors}", output.status)))
    }

    /// The options by which `swell` signs with the scratch operator's key.
    pub fn operator_key(&self) -> String {
        self.keys().join("operator.key").display().to_string()
    }

    /// Sets the group `web` up: all hosts, the application `shop`.
    pub fn apply_group(
        &self,
        configuration: &str,
        healthy_seconds: u32,
    ) -> Result<(), ScratchError> {
        let path = self.dir.join("web.toml");
        let text = format!(
            "name = \"web\"\napplication = \"shop\"\nconfiguration = \"{configuration}\"\n\
             minimum_healthy_seconds = {healthy_seconds}\n\n[filter]\nrole = \"web\"\n"
        );
        fs::write(&path, text)?;
        let path = path.display().to_string();
        self.swell(self.last(), &["group", "apply", &path, "--key", &self.operator_key()]).map(drop)
    }

    /// Signs a directory as a release of the shop, and pushes it to one host.
    pub fn push(&self, index: usize, dir: &Path, label: &str) -> Result<PathBuf, ScratchError> {
        let out = self.sign(dir, label)?;
        self.swell(index, &["push", &out.display().to_string()])?;
        Ok(out)
    }

    /// Signs a directory as a release of the shop.
    pub fn sign(&self, dir: &Path, label: &str) -> Result<PathBuf, ScratchError> {
        let out = self.dir.join(format!("shop-{label}.swell"));
        let (keys, dir) = (self.keys().display().to_string(), dir.display().to_string());
        let arguments = [
            "release",
            &dir,
            "--keys",
            &keys,
            "--application",
            "shop",
            "--label",
            label,
            "--out",
            &out.display().to_string(),
        ];
        self.run(&self.programs.swell_sign, &arguments)?;
        Ok(out)
    }

    /// Gives the order to deploy and returns the deployment's id, without waiting for its end.
    pub fn deploy(&self, index: usize, label: &str, more: &[&str]) -> Result<String, ScratchError> {
        let key = self.operator_key();
        let mut arguments = vec!["--json", "deploy", "web", label, "--no-wait", "--key", &key];
        arguments.extend_from_slice(more);
        let answer = self.swell(index, &arguments)?;
        let answer: serde_json::Value =
            serde_json::from_str(&answer).map_err(|error| ScratchError(error.to_string()))?;
        Ok(answer["deployment"].as_str().unwrap_or_default().to_owned())
    }

    /// The last host, which is no voter where there are enough others.
    pub fn last(&self) -> usize {
        self.hosts.len() - 1
    }

    /// Waits until a look at the fleet from one host satisfies `done`.
    pub async fn wait_for(
        &self,
        index: usize,
        what: &str,
        patience: Duration,
        done: impl Fn(&api::Fleet) -> bool,
    ) -> Result<api::Fleet, ScratchError> {
        let until = Instant::now() + patience;
        let client = self.client(index);
        loop {
            let fleet = client.fleet().await;
            if let Ok(fleet) = &fleet
                && done(fleet)
            {
                return Ok(fleet.clone());
            }
            if Instant::now() >= until {
                let seen = match fleet {
                    Ok(fleet) => serde_json::to_string(&fleet).unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                let seconds = patience.as_secs();
                return Err(ScratchError(format!("{what}: not within {seconds} s; seen: {seen}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every running daemon sees every host up and idle, and somebody leads.
    pub async fn wait_complete(&self, patience: Duration) -> Result<(), ScratchError> {
        let count = self.hosts.len();
        for (index, host) in self.hosts.iter().enumerate() {
            if host.daemon.is_none() {
                continue;
            }
            let what = format!("{} sees all {count} hosts", host.name);
            let complete = |fleet: &api::Fleet| {
                let up = fleet.hosts.iter().filter(|host| host.standing == "reachable").count();
                fleet.joined && fleet.executor && fleet.leader.is_some() && up == count
            };
            self.wait_for(index, &what, patience, complete).await?;
        }
        Ok(())
    }

    /// Waits until a deployment satisfies `done`, as one host sees it.
    pub async fn wait_deployment(
        &self,
        index: usize,
        id: &str,
        patience: Duration,
        done: impl Fn(&Report) -> bool,
    ) -> Result<Report, ScratchError> {
        let until = Instant::now() + patience;
        let client = self.client(index);
        loop {
            let report = client.report(id).await;
            if let Ok(report) = &report
                && done(report)
            {
                return Ok(report.clone());
            }
            if Instant::now() >= until {
                let seen = match report {
                    Ok(report) => serde_json::to_string(&report).unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                let seconds = patience.as_secs();
                return Err(ScratchError(format!("{id}: not within {seconds} s; seen: {seen}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a deployment is over.
    pub async fn wait_over(
        &self,
        index: usize,
        id: &str,
        patience: Duration,
    ) -> Result<Report, ScratchError> {
        let over = |report: &Report| report.summary.is_over();
        self.wait_deployment(index, id, patience, over).await
    }

    /// Lets the processes run on after this is dropped.
    pub fn release_processes(&mut self) {
        for host in &mut self.hosts {
            host.daemon = None;
            host.executor = None;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            kill(&mut host.daemon);
            kill(&mut host.executor);
        }
    }
}

fn kill(process: &mut Option<Child>) {
    if let Some(mut child) = process.take() {
        // One that has ended already is as good.
        child.kill().ok();
        child.wait().ok();
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Result<Vec<u16>, ScratchError> {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect::<io::Result<_>>().map_err(Into::into)
}

const LOOK_EVERY: Duration = Duration::from_millis(30);

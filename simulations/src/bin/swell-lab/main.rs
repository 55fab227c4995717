//! Twelve hosts of real processes in a bad week, and a judge who believes nobody.
//!
//! Two deployment groups share four hosts, and releases roll through both while links are cut, processes are
//! killed and stopped, and wall clocks are set. Then everything is mended and one more release must
//! reach every host. Whether the quotas held is judged by `lab/check_quota.py`, from notes that the
//! deployed scripts took: it shares no code with the fleet. The seed says who is struck by what and in
//! which order; real processes do not take the same steps twice.

mod app;
mod net;
mod storm;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use groundswell_daemon::scratch::{Fleet, Programs, ScratchError};

use self::{
    net::Net,
    storm::{Storm, say},
};

/// Proves the quota of two deployment groups on twelve hosts of real processes, whatever breaks.
///
/// Needs Linux, iproute2, util-linux, libfaketime, python3, and root or user namespaces.
#[derive(Parser)]
struct Arguments {
    /// Who is struck by what. Without it, another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the directory with all logs and notes.
    #[arg(long)]
    keep: bool,
}

/// A deployment group of the lab.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    /// The numbers of its first and last host.
    hosts: (usize, usize),
    /// How many of them may be down at once.
    quota: usize,
}

impl Group {
    fn members(&self) -> Vec<String> {
        (self.hosts.0..=self.hosts.1).map(|number| format!("web-{number}")).collect()
    }
}

/// Hosts 5 to 8 are in both.
pub(crate) const GROUPS: [Group; 2] = [
    Group { name: "shop", hosts: (1, 8), quota: 2 },
    Group { name: "edge", hosts: (5, 12), quota: 2 },
];
pub(crate) const HOSTS: usize = 12;
const VOTERS: usize = 5;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What is not built yet is built before this process is cut off from the machine's network.
    if let Err(error) = Programs::beside_this().and_then(|_| net::enter()) {
        return fail(&error);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let run = async {
        tokio::select! {
            done = run(&arguments) => done,
            () = told_to_end() => Err(ScratchError("interrupted".into())),
        }
    };
    match runtime.block_on(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Whoever ends the lab ends the fleet with it.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

fn fail(error: &ScratchError) -> ExitCode {
    eprintln!("swell-lab: error: {error}");
    ExitCode::FAILURE
}

async fn run(arguments: &Arguments) -> Result<(), ScratchError> {
    let seed = arguments.seed.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| u64::from(time.subsec_nanos()))
    });
    println!("seed {seed}: to play it again, `swell-lab --seed {seed}`");
    let dir = tempfile::Builder::new().prefix("swell-lab-").tempdir()?;
    let place = dir.path().to_path_buf();
    let done = lab(&place, seed).await;
    if arguments.keep || done.is_err() {
        println!("all logs and notes are in {}", dir.keep().display());
    }
    done
}

async fn lab(dir: &Path, seed: u64) -> Result<(), ScratchError> {
    let begun = Instant::now();
    let net = Net::build(HOSTS)?;
    let fleet = found(dir).await?;
    let mut storm = Storm::new(fleet, net, seed, begun);
    say(begun, "twelve hosts are up; their clocks can be set, and their links cut");
    for group in &GROUPS {
        set_up(storm.fleet(), group)?;
    }
    // In good weather first: both groups get as far as their quotas allow.
    storm.deploy_both().await?;
    storm.both_succeed().await?;
    say(begun, "the first release is everywhere");
    storm.rage().await?;
    storm.mend_all().await?;
    say(begun, "everything is mended");
    let wanted = storm.last_release().await?;
    say(begun, "the last release is everywhere");
    judge(dir, wanted)
}

/// Starts the fleet. One clock is ahead from the start, to see in its log that clocks can be set.
async fn found(dir: &Path) -> Result<Fleet, ScratchError> {
    let library = net::faketime()?;
    let place = |host: usize| {
        let clock = clock(dir, host);
        let set = [
            ("LD_PRELOAD", library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_NO_CACHE", "1".into()),
        ];
        Net::place(host, set.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let places = (0..HOSTS).map(place).collect();
    let mut fleet = Fleet::placed(dir, places, Programs::beside_this()?)?;
    fleet.found_with(VOTERS)?;
    fleet.token("shop", "*", "shop=yes", HOSTS)?;
    fleet.token("edge", "*", "edge=yes", HOSTS)?;
    fleet.token("both", "*", "shop=yes,edge=yes", HOSTS)?;
    let ahead = HOSTS - 1;
    for host in 0..HOSTS {
        set_clock(dir, host, if host == ahead { DAY_SECONDS } else { 0 })?;
        let is_in = |group: &Group| (group.hosts.0..=group.hosts.1).contains(&(host + 1));
        let token = match (is_in(&GROUPS[0]), is_in(&GROUPS[1])) {
            (true, true) => "both",
            (true, false) => "shop",
            _ => "edge",
        };
        fleet.join(host, token)?;
    }
    for host in 0..HOSTS {
        fleet.start_executor(host)?;
        fleet.start_daemon(host)?;
    }
    fleet.wait_complete(PATIENCE).await?;
    let day = |host: usize| {
        let log = fs::read_to_string(fleet.log(host, "swelld"))?;
        Ok::<_, ScratchError>(log.split('T').next().unwrap_or_default().to_owned())
    };
    if day(ahead)? <= day(0)? {
        let error = "the clock of web-12 was set a day ahead, and its log does not show it";
        return Err(ScratchError(error.into()));
    }
    set_clock(dir, ahead, 0)?;
    Ok(fleet)
}

fn clock(dir: &Path, host: usize) -> PathBuf {
    dir.join(format!("clock-{}", host + 1))
}

/// Sets the wall clock of a host's processes to so many seconds beside the machine's.
pub(crate) fn set_clock(dir: &Path, host: usize, seconds: i64) -> Result<(), ScratchError> {
    let path = clock(dir, host);
    // In one step, since it is read all the time.
    let new = path.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n"))?;
    fs::rename(new, path)?;
    Ok(())
}

fn set_up(fleet: &Fleet, group: &Group) -> Result<(), ScratchError> {
    let Group { name, quota, .. } = group;
    let healthy = group.members().len() - quota;
    let path = fleet.dir().join(format!("{name}.toml"));
    let text = format!(
        "name = \"{name}\"\napplication = \"{name}\"\nconfiguration = \"count:{healthy}\"\n\
         minimum_healthy_seconds = 0\n\n[filter]\n{name} = \"yes\"\n"
    );
    fs::write(&path, text)?;
    let path = path.display().to_string();
    fleet.swell(0, &["group", "apply", &path, "--key", &fleet.operator_key()]).map(drop)
}

/// Lets the judge see the notes. With any quota one lower he must say no: that shows that he sees
/// hosts go down together, and that the quotas were used up.
fn judge(dir: &Path, wanted: u32) -> Result<(), ScratchError> {
    let promise = |lower: Option<&str>| {
        let group = |group: &Group| {
            let quota = group.quota - usize::from(lower == Some(group.name));
            let wanted = wanted.to_string();
            let rules =
                serde_json::json!({"quota": quota, "hosts": group.members(), "wanted": wanted});
            (group.name.to_owned(), rules)
        };
        let groups: serde_json::Map<_, _> = GROUPS.iter().map(group).collect();
        fs::write(dir.join("promise.json"), serde_json::json!({"groups": groups}).to_string())
    };
    for group in &GROUPS {
        promise(Some(group.name))?;
        let (code, said) = ask_judge(dir)?;
        if code != Some(1) || !said.contains("BROKEN") {
            let name = group.name;
            return Err(ScratchError(format!(
                "{name}: with one less allowed, the judge says:\n{said}"
            )));
        }
    }
    promise(None)?;
    let (code, said) = ask_judge(dir)?;
    print!("{said}");
    if code != Some(0) {
        return Err(ScratchError("the judge says no".into()));
    }
    Ok(())
}

fn ask_judge(dir: &Path) -> Result<(Option<i32>, String), ScratchError> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/check_quota.py");
    let output = Command::new("python3").arg(script).arg(dir).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
const DAY_SECONDS: i64 = 86_400;

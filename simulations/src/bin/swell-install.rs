//! Measures how an executor puts a revision in place, against `cp -a` and `tar -x` of the same tree.
//!
//! Every time is a median over several runs on the file system of `--dir`. All three are made durable: what
//! copies is followed by `sync -f`, as the executor does by itself.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use groundswell_protocol::{
    cbor,
    execute::Lifecycle,
    ids::{Digest, GroupName},
    limits::LOCAL_NEWS_BYTES_MAX,
    local::{LocalDeployment, LocalEnd, LocalNews},
    revision::{FileExistsBehavior, Frame, Manifest},
};
use groundswell_signer::{SignError, release};

type Failure = Box<dyn std::error::Error>;

/// Measures an installation: its time, for how long the tree is neither the old nor the new one, and the
/// executor's memory.
#[derive(Parser)]
struct Arguments {
    /// How often each thing is done.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where the trees are; a file system on a disk says more than one in memory.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// The executor. Without it the one beside this program.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Files of 4 KiB in the first tree.
    #[arg(long, default_value_t = 5000)]
    files: u64,
    /// Mebibytes of the large file in the second tree, which has 1,000 of 4 KiB beside it.
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
}

/// One tree in two versions, ready to be deployed to and fro.
struct Tree {
    dir: PathBuf,
    versions: [Digest; 2],
    /// Files that are watched while all are replaced: by their names the first, the last and some between, since
    /// more than one thread puts them in place.
    watched: Vec<PathBuf>,
}

/// Seconds, but for the memory.
#[derive(Default)]
struct Measured {
    lay_out: Vec<f64>,
    install: Vec<f64>,
    gap: Vec<f64>,
    cleared: Vec<f64>,
    copy: Vec<f64>,
    untar: Vec<f64>,
    peak_megabytes: Vec<f64>,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("swell-install: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<bool, Failure> {
    let beside = std::env::current_exe()?.with_file_name("swell-exec");
    let program = arguments.program.clone().unwrap_or(beside);
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    println!(
        "| tree | laid out | installed | of it neither old nor new | old files removed | `cp -a` | `tar -x` | \
         install / cp | install / tar | executor, peak |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut good = true;
    let (files, mebibytes) = (arguments.files, arguments.mebibytes);
    for (name, files, large_bytes) in [
        (format!("{files} files of 4 KiB"), files, None),
        (format!("{mebibytes} MiB and 1000 files of 4 KiB"), 1000, Some(mebibytes << 20)),
    ] {
        let kind = if large_bytes.is_none() { "small" } else { "large" };
        let tree = Tree::new(&dir.path().join(kind), files, large_bytes)?;
        let mut all = Measured::default();
        deploy(&program, &tree, 0, &mut Measured::default())?;
        for run in 1..=arguments.runs {
            deploy(&program, &tree, run % 2, &mut all)?;
            tree.copy(&mut all)?;
        }
        let Measured { lay_out, install, gap, cleared, copy, untar, peak_megabytes } = all;
        let [lay_out, install, gap, cleared, copy, untar, peak] =
            [lay_out, install, gap, cleared, copy, untar, peak_megabytes].map(median);
        println!(
            "| {name} | {lay_out:.2} s | {install:.2} s | {gap:.3} s | {cleared:.2} s | {copy:.2} s | \
             {untar:.2} s | {:.2} | {:.2} | {peak:.1} MB |",
            install / copy,
            install / untar,
        );
        let gap_max = if large_bytes.is_none() { GAP_SECONDS_MAX } else { f64::INFINITY };
        for (what, value, goal) in [
            ("install / cp", install / copy, INSTALL_TO_COPY_MAX),
            ("neither old nor new, in seconds", gap, gap_max),
            ("megabytes", peak, PEAK_MEGABYTES_MAX),
        ] {
            if value > goal {
                eprintln!("swell-install: {name}: {what}: {value:.3}, and the goal is {goal:.3}");
                good = false;
            }
        }
    }
    Ok(good)
}

impl Tree {
    /// Files of 4 KiB, and a large one if its length is given.
    fn new(dir: &Path, files: u64, large_bytes: Option<u64>) -> Result<Self, Failure> {
        let mut versions = Vec::new();
        for version in ["a", "b"] {
            let source = dir.join(version);
            for number in 0..files {
                let above = source.join("tree").join(format!("d{:03}", number % 100));
                fs::create_dir_all(&above)?;
                write_noise(&above.join(format!("f{number:06}")), version, number, 4096)?;
            }
            if let Some(bytes) = large_bytes {
                write_noise(&source.join("tree/large"), version, files, bytes)?;
            }
            let live = dir.join("live");
            let appspec = format!(
                "version: 0.0\nos: linux\nfiles:\n  - source: tree\n    destination: {}\n",
                live.display()
            );
            fs::write(source.join("appspec.yml"), appspec)?;
            versions.push(cut(&source, &dir.join("store").join(version))?);
        }
        let (tree, tar) = (dir.join("a/tree"), dir.join("tree.tar"));
        run(Command::new("tar").arg("-C").arg(tree).arg("-cf").arg(tar).arg("."))?;
        let live = dir.join("live");
        let of = |number: u64| live.join(format!("d{:03}/f{number:06}", number % 100));
        let all: std::collections::BTreeSet<_> = (0..files).map(of).collect();
        let (count, part) = (all.len(), all.len().div_ceil(WATCHED));
        let ends = |index: usize| {
            index.is_multiple_of(part) || (index + 1).is_multiple_of(part) || index + 1 == count
        };
        let watched = all.into_iter().enumerate().filter(|(index, _)| ends(*index));
        Ok(Self {
            dir: dir.to_owned(),
            versions: versions.try_into().map_err(|_| "two versions")?,
            watched: watched.map(|(_, path)| path).collect(),
        })
    }

    /// What others take for the same tree.
    fn copy(&self, all: &mut Measured) -> Result<(), Failure> {
        let to = self.dir.join("other");
        for (times, command) in [
            (&mut all.copy, Command::new("cp").arg("-a").arg(self.dir.join("a/tree")).arg(&to)),
            (
                &mut all.untar,
                Command::new("tar").arg("-C").arg(&to).arg("-xf").arg(self.dir.join("tree.tar")),
            ),
        ] {
            if command.get_program() == "tar" {
                fs::create_dir(&to)?;
            }
            let begun = Instant::now();
            run(command)?;
            run(Command::new("sync").arg("-f").arg(&to))?;
            times.push(begun.elapsed().as_secs_f64());
            fs::remove_dir_all(&to)?;
        }
        Ok(())
    }
}

/// Content that does not compress and is another one in each file and version.
fn write_noise(path: &Path, version: &str, number: u64, bytes: u64) -> Result<(), Failure> {
    let mut state = number.wrapping_mul(0x9e37_79b9) ^ u64::from(version.as_bytes()[0]) << 32;
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for _ in 0..bytes / 8 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&(state ^ (state >> 33)).to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}

/// Makes a revision in a store.
fn cut(source: &Path, store: &Path) -> Result<Digest, Failure> {
    let mut keep = |frame: &Frame, bytes: &[u8]| {
        let name = frame.hash.to_string();
        let dir = store.join("frames").join(&name[..2]);
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join(name), bytes))
            .map_err(|error| SignError::refused(error.to_string()))
    };
    let revision = release::revision(source, None, &[], &mut keep).map_err(|e| e.to_string())?;
    let id = Manifest::id_of(&revision.bytes);
    fs::create_dir_all(store.join("manifests"))?;
    fs::write(store.join("manifests").join(id.to_string()), &revision.bytes)?;
    Ok(id)
}

/// Deploys one version of the tree.
fn deploy(program: &Path, tree: &Tree, version: usize, all: &mut Measured) -> Result<(), Failure> {
    // The executor removes what it has laid out.
    let store = tree.dir.join("incoming");
    let kept = tree.dir.join("store").join(["a", "b"][version]);
    run(Command::new("cp").arg("-al").arg(kept).arg(&store))?;
    let asked = LocalDeployment {
        root: tree.dir.join("root").display().to_string(),
        executor: "/nonexistent".into(),
        store: store.display().to_string(),
        manifest: tree.versions[version],
        group: GroupName::new("web")?,
        group_name: "web".into(),
        application: "web".into(),
        lifecycle: Lifecycle::LoadBalancer,
        events: ["DownloadBundle", "Install"].map(str::to_owned).into(),
        custom: Vec::new(),
        file_exists_behavior: FileExistsBehavior::Disallow,
        ignore_application_stop_failures: false,
        goes_back: true,
        revisions_kept: 2,
    };
    let begun = Instant::now();
    let mut command = Command::new(program);
    let mut child = command.arg("--local").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no input")?.write_all(&cbor::encode(&asked))?;
    let (id, ended) = (child.id(), AtomicBool::new(false));
    let (times, watched) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(id, tree, &ended));
        let times = follow(&mut child);
        ended.store(true, Ordering::Relaxed);
        (times, watcher.join())
    });
    let (times, watched) = (times?, watched.map_err(|_| "nobody watched")?);
    child.wait()?;
    let over = Instant::now();
    let at = |event: &str| times.get(event).copied().ok_or_else(|| format!("there was no {event}"));
    all.lay_out.push((at("begun")? - begun).as_secs_f64());
    all.install.push((at("ended")? - at("Install")?).as_secs_f64());
    all.cleared.push((over - at("ended")?).as_secs_f64());
    all.gap.push(watched.gap.as_secs_f64());
    all.peak_megabytes.push(watched.peak_megabytes);
    Ok(())
}

/// When what began.
fn follow(child: &mut Child) -> Result<BTreeMap<String, Instant>, Failure> {
    let mut stdout = child.stdout.take().ok_or("no output")?;
    let mut times = BTreeMap::new();
    loop {
        let mut length = [0; 4];
        stdout.read_exact(&mut length)?;
        let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        stdout.read_exact(&mut bytes)?;
        let what = match cbor::decode(&bytes, LOCAL_NEWS_BYTES_MAX)? {
            LocalNews::Begun { .. } => "begun".to_owned(),
            LocalNews::Event { name, .. } => name,
            LocalNews::Ended(LocalEnd::Succeeded) => {
                times.insert("ended".to_owned(), Instant::now());
                return Ok(times);
            }
            LocalNews::Ended(end) => return Err(format!("{end:?}").into()),
            LocalNews::Waiting { .. } | LocalNews::TakenBack { .. } => continue,
        };
        times.insert(what, Instant::now());
    }
}

struct Watched {
    gap: Duration,
    peak_megabytes: f64,
}

/// Watches for how long the tree is neither as it was nor replaced as a whole, and the executor's memory.
fn watch(executor: u32, tree: &Tree, ended: &AtomicBool) -> Watched {
    let inode = |path: &PathBuf| fs::symlink_metadata(path).map(|there| there.ino()).ok();
    let before: Vec<_> = tree.watched.iter().map(inode).collect();
    let is_new = |(path, before): (&PathBuf, &Option<u64>)| inode(path) != *before;
    let (mut old_until, mut new_since) = (Instant::now(), None);
    let mut peak_megabytes = 0_f64;
    loop {
        let is_last = ended.load(Ordering::Relaxed);
        peak_megabytes = peak_megabytes.max(peak(executor));
        let look = Instant::now();
        if !tree.watched.iter().zip(&before).any(is_new) {
            old_until = look;
        } else if new_since.is_none() && tree.watched.iter().zip(&before).all(is_new) {
            new_since = Some(Instant::now());
        }
        if is_last {
            // At most it was so long: whoever looks too seldom makes it longer.
            let gap =
                new_since.map_or(Duration::MAX, |new| new.saturating_duration_since(old_until));
            return Watched { gap, peak_megabytes };
        }
        thread::sleep(LOOKS_EVERY);
    }
}

/// The most memory that a process has had so far.
fn peak(id: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0 / 1_000_000.0
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How exact a gap is. Looking without a pause would take a core from what is measured.
const LOOKS_EVERY: Duration = Duration::from_micros(200);
/// About how many parts of a tree are watched, each at both its ends.
const WATCHED: usize = 4;
/// What an installation may take, in terms of a copy.
const INSTALL_TO_COPY_MAX: f64 = 1.2;
/// For how long the small files may be of both versions.
const GAP_SECONDS_MAX: f64 = 0.05;
/// What an executor may have at most.
const PEAK_MEGABYTES_MAX: f64 = 16.0;

//! One script from its start to its end, in whatever process waits for it.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use groundswell_protocol::limits::HOOK_KILL_GRACE;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::logs::ScriptLog;

/// What is to be run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    words: Vec<ByteBuf>,
    /// All of it.
    environment: Vec<(ByteBuf, ByteBuf)>,
    timeout_seconds: u32,
}

/// What became of a script.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Ended {
    Exit(i32),
    Signal(i32),
    TimedOut,
    /// It cannot be told.
    Lost(String),
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Lost("it has neither an exit code nor a signal".into()),
        }
    }
}

impl Task {
    pub(crate) fn new(
        words: Vec<OsString>,
        environment: Vec<(OsString, OsString)>,
        timeout_seconds: u32,
    ) -> Self {
        let bytes = |text: OsString| ByteBuf::from(text.into_vec());
        let pairs = environment.into_iter().map(|(name, value)| (bytes(name), bytes(value)));
        Self {
            environment: pairs.collect(),
            words: words.into_iter().map(bytes).collect(),
            timeout_seconds,
        }
    }

    /// Starts the script once it is on record: if this process dies, the next one can end it.
    pub(crate) fn start(&self, record: &Path) -> io::Result<Child> {
        let mut child = self.command().spawn()?;
        let opened = Leader::of(child.id())
            .ok_or_else(|| io::Error::other("its process is not in /proc"))
            // No power loss must be survived by this: nothing that runs survives one.
            .and_then(|leader| fs::write(record, leader.to_string()))
            .and_then(|()| open_gate(&mut child));
        if let Err(error) = opened {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
        Ok(child)
    }

    /// Starts a script that is on record already.
    pub(crate) fn start_recorded(&self) -> io::Result<Child> {
        let mut child = self.command().spawn()?;
        open_gate(&mut child)?;
        Ok(child)
    }

    fn command(&self) -> Command {
        let text = |bytes| OsStr::from_bytes(bytes);
        let pairs = self.environment.iter().map(|(name, value)| (text(name), text(value)));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GATE, "swell-exec"]).args(self.words.iter().map(|word| text(word)));
        command.env_clear().envs(pairs);
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Waits for the script's main process, which is its end; what it left running keeps running, and
    /// its output is read for as long as there is any.
    pub(crate) fn wait(
        &self,
        mut child: Child,
        members: impl FnOnce(&Child) -> io::Result<Members>,
        log: &ScriptLog,
    ) -> Ended {
        let members = members(&child);
        let outputs = [
            child.stdout.take().map(|out| File::from(OwnedFd::from(out))),
            child.stderr.take().map(|err| File::from(OwnedFd::from(err))),
        ];
        let (closed_in, closed) = mpsc::channel();
        for (output, prefix) in outputs.into_iter().flatten().zip(["[stdout]", "[stderr]"]) {
            let (log, closed_in) = (log.clone(), closed_in.clone());
            thread::spawn(move || {
                copy_lines(output, prefix, &log);
                // Nobody waits for the output of what was left running.
                closed_in.send(()).ok();
            });
        }
        let timeout = Duration::from_secs(self.timeout_seconds.into());
        let (ended_in, ended) = mpsc::channel();
        thread::spawn(move || drop(ended_in.send(child.wait())));
        let ended = match ended.recv_timeout(timeout) {
            Ok(Ok(status)) => status.into(),
            Ok(Err(error)) => Ended::Lost(error.to_string()),
            Err(_) => {
                log.line(&format!("the script has not ended within {} s", self.timeout_seconds));
                match members {
                    Ok(members) => {
                        end_all(&members, &ended);
                        Ended::TimedOut
                    }
                    Err(error) => {
                        Ended::Lost(format!("out of time, and its processes are unknown: {error}"))
                    }
                }
            }
        };
        let until = Instant::now() + OUTPUT_WAIT;
        for _ in 0..2 {
            let left = until.saturating_duration_since(Instant::now());
            if closed.recv_timeout(left).is_err() {
                break;
            }
        }
        ended
    }
}

/// Forgets a script that has ended; it may be forgotten already.
pub(crate) fn forget(record: &Path) -> io::Result<()> {
    match fs::remove_file(record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn open_gate(child: &mut Child) -> io::Result<()> {
    child.stdin.take().map_or(Ok(()), |mut gate| gate.write_all(b"\n"))
}

/// Ends all that belongs to the script: politely, then for certain.
fn end_all(members: &Members, ended: &mpsc::Receiver<io::Result<ExitStatus>>) {
    members.signal(Signal::SIGTERM);
    let until = Instant::now() + HOOK_KILL_GRACE;
    let is_over = ended.recv_timeout(HOOK_KILL_GRACE).is_ok();
    // What ends a little later than the main process ends by itself.
    while is_over && !members.are_gone() && Instant::now() < until {
        thread::sleep(POLL_EVERY);
    }
    members.signal(Signal::SIGKILL);
    if !is_over {
        // Nothing else may begin while it runs.
        drop(ended.recv());
    }
    let until = Instant::now() + HOOK_KILL_GRACE;
    while !members.are_gone() && Instant::now() < until {
        // Those who were forked while the others were ended.
        members.signal(Signal::SIGKILL);
        thread::sleep(POLL_EVERY);
    }
}

/// All processes that belong to a script.
#[derive(Debug)]
pub(crate) enum Members {
    /// A process group.
    Group(Pid),
    /// A control group, by its directory; this process, which waits, is in it too.
    Control(PathBuf),
}

impl Members {
    /// The process group that a child leads.
    pub(crate) fn of_group(child: &Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Self::Group(Pid::from_raw(pid)))
    }

    /// The control group that this process is in.
    pub(crate) fn of_this_control_group() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/self/cgroup")?;
        let dirs = text.lines().filter_map(control_dir);
        let dir = dirs.into_iter().find(|dir| dir.join(PROCESSES).exists());
        dir.map(Self::Control).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no control group of systemd in /sys/fs/cgroup")
        })
    }

    fn signal(&self, signal: Signal) {
        match self {
            // Whoever is gone already is as is wanted.
            Self::Group(group) => drop(killpg(*group, signal)),
            Self::Control(dir) => {
                for pid in others(dir) {
                    kill(pid, signal).ok();
                }
            }
        }
    }

    fn are_gone(&self) -> bool {
        match self {
            Self::Group(group) => killpg(*group, None).is_err(),
            Self::Control(dir) => others(dir).is_empty(),
        }
    }
}

/// Where systemd's control groups are: by themselves, or as one hierarchy of several.
fn control_dir(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (kind, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
    // That of the whole machine is no script's.
    let path = Some(path).filter(|path| !path.is_empty())?;
    match kind {
        "" => Some(Path::new("/sys/fs/cgroup").join(path)),
        "name=systemd" => Some(Path::new("/sys/fs/cgroup/systemd").join(path)),
        _ => None,
    }
}

/// The processes in a control group and in those below it, but for this one.
fn others(dir: &Path) -> Vec<Pid> {
    let this = nix::unistd::getpid();
    let text = fs::read_to_string(dir.join(PROCESSES)).unwrap_or_default();
    let here = text.lines().filter_map(|line| line.parse().ok().map(Pid::from_raw));
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    here.filter(|pid| *pid != this).chain(below.flat_map(|entry| others(&entry.path()))).collect()
}

/// The main process of a script, told apart from all others that have had its number.
#[derive(Debug, PartialEq)]
pub(crate) struct Leader {
    pid: u32,
    /// In ticks since the system started.
    started: String,
    boot: String,
}

impl Leader {
    /// The process with this number, unless it has ended.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before the parenthesis may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let is_over = matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(18)?.to_owned();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        (!is_over).then_some(Self { pid, started, boot })
    }

    /// The process of a record, if it still runs.
    pub(crate) fn of_record(text: &str) -> Option<Self> {
        let pid = text.split(' ').next()?.parse().ok()?;
        Self::of(pid).filter(|leader| leader.to_string() == text)
    }

    /// The process group that it leads.
    pub(crate) fn group(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().map(Pid::from_raw)
    }
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.started, self.boot)
    }
}

/// Logs each line when it is complete, and the beginning of one that takes long: it may be a question, or how
/// far something is.
fn copy_lines(mut output: File, prefix: &'static str, log: &ScriptLog) {
    let (mut held, mut since) = (Vec::new(), Instant::now());
    let mut part = [0; PIECE_BYTES_MAX];
    loop {
        let shown_in = BEGINNING_SHOWN_AFTER.saturating_sub(since.elapsed());
        if !held.is_empty() && !has_more(&output, shown_in) {
            log.output(prefix, &held);
            held.clear();
        }
        let part = match output.read(&mut part) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(length) => &part[..length],
        };
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            if held.is_empty() {
                since = Instant::now();
            }
            held.extend_from_slice(piece);
            // A line without end comes in pieces, so that no script fills this process's memory.
            if piece.ends_with(b"\n") || held.len() >= PIECE_BYTES_MAX {
                log.output(prefix, &held);
                held.clear();
            }
        }
    }
    if !held.is_empty() {
        log.output(prefix, &held);
    }
    log.output_ends(prefix);
}

/// True if there is more to read, or an end, before this time is over.
fn has_more(output: &File, within: Duration) -> bool {
    let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
    let mut asked = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
    // Where it cannot be told, reading says it.
    poll(&mut asked, within).map_or(true, |ready| ready > 0)
}

/// Waits for a line, then becomes the script, or the shell that runs it if it has no first line that
/// names an interpreter. Without the line, nothing has run.
pub(crate) const GATE: &str = "read -r go && exec \"$@\" </dev/null";
const PIECE_BYTES_MAX: usize = 16 << 10;
/// So long a line may take before its beginning is logged.
const BEGINNING_SHOWN_AFTER: Duration = Duration::from_millis(500);
/// A process that is no child of this one does not say when it ends.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(20);
/// How long the output of a script that has ended may still come in.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);
const PROCESSES: &str = "cgroup.procs";

//! Scripts as transient units: PID 1 starts each with a control group of its own and with nothing of
//! this service's sandbox, and what a script leaves running outlives this process.
//!
//! What PID 1 starts is this program once more, as the script's keeper: it connects to the socket that
//! it is told, is told what to run, runs it as the plain runner would, and says what became of it.
//! It stays for as long as anything of the script is there, so that whatever still prints is read and
//! `systemctl status` shows what a deployment has left. Neither the environment nor the command of a
//! script is seen in the unit, which everybody may read.
//!
//! `systemd-run` and `systemctl` speak to PID 1. A library for D-Bus would stay in memory for ever for
//! three calls per script; these are there wherever systemd is, and gone when they are done.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use groundswell_protocol::{cbor, limits::HOOK_KILL_GRACE};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        socket::{getsockopt, sockopt::PeerCredentials},
        wait::wait,
    },
    unistd::geteuid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::{
    config::Runner,
    frame,
    logs::{Places, ScriptLog},
    script::{Ended, Members, Task, forget},
};

/// How scripts become units on this machine.
#[derive(Debug)]
pub(crate) struct Units {
    /// This program.
    program: PathBuf,
    /// For sockets; nobody else may look into it.
    dir: PathBuf,
}

/// What a keeper is told.
#[derive(Serialize, Deserialize)]
struct Errand {
    task: Task,
    log: Places,
    record: PathBuf,
}

/// What a keeper answers.
#[derive(Serialize, Deserialize)]
struct Answer {
    ended: Ended,
    /// The end of what the script wrote.
    tail: ByteBuf,
}

impl Units {
    /// Whether PID 1 is a systemd that this process may ask for units.
    pub(crate) fn are_possible() -> bool {
        geteuid().is_root() && Path::new("/run/systemd/system").is_dir()
    }

    /// Those of this machine, with sockets in `dir`; none where scripts are processes of this one.
    pub(crate) fn of_this_machine(
        runner: Option<Runner>,
        dir: PathBuf,
    ) -> io::Result<Option<Arc<Self>>> {
        let wanted = runner.map_or_else(Self::are_possible, |runner| runner == Runner::Units);
        if !wanted {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self::new(std::env::current_exe()?, dir)?)))
    }

    pub(crate) fn new(program: PathBuf, dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { program, dir })
    }

    /// Runs a script to its end, as a unit that is on record before it begins.
    pub(crate) fn run(
        &self,
        task: Task,
        what: &str,
        record: &Path,
        log: &ScriptLog,
    ) -> io::Result<Ended> {
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(io::Error::other)?;
        let name = format!("{UNIT}{:016x}", u64::from_be_bytes(number));
        let socket = Socket::bind(self.dir.join(&name))?;
        fs::write(record, format!("{UNIT_ON_RECORD}{name}"))?;
        let answer = self.start(&name, what, &socket.path).and_then(|()| {
            let mut stream = socket.accept()?;
            send(&mut stream, &Errand { task, log: log.places(), record: record.to_path_buf() })?;
            Ok(receive::<Answer>(&mut stream))
        });
        if !matches!(answer, Ok(Ok(_))) {
            // Whatever there is of it must not run on beside what comes next.
            stop(&name)?;
        }
        forget(record)?;
        answer.map(|answer| match answer {
            Ok(Answer { ended, tail }) => {
                log.written_elsewhere(&tail);
                ended
            }
            Err(error) => Ended::Lost(format!("unit {name} has ended without an answer: {error}")),
        })
    }

    fn start(&self, name: &str, what: &str, socket: &Path) -> io::Result<()> {
        let grace = format!("--property=TimeoutStopSec={}", HOOK_KILL_GRACE.as_secs());
        let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut command = Command::new("systemd-run");
        command
            .args(["--quiet", "--no-ask-password", "--collect", "--service-type=exec"])
            .arg(format!("--unit={name}.service"))
            // A percent sign would be a specifier.
            .arg(format!("--description=Groundswell: {}", what.replace('%', "%%")))
            .args(["--property=KillMode=control-group", "--property=OOMPolicy=continue"])
            .args([&*grace, "--"])
            .args([self.program.as_os_str(), KEEP.as_ref(), socket.as_os_str()]);
        ask(command, &[0])
    }

    /// Whether a record names a unit, and not a process.
    pub(crate) fn are_named_by(record: &str) -> bool {
        record.starts_with(UNIT_ON_RECORD)
    }

    /// Ends the unit on record and all that is in it, unless its script has ended by itself: then it is
    /// no more on record.
    pub(crate) fn end(record: &str) -> io::Result<()> {
        record.strip_prefix(UNIT_ON_RECORD).map_or(Ok(()), stop)
    }
}

/// Ends a unit: politely, and after the time that it was given for certain.
fn stop(name: &str) -> io::Result<()> {
    let mut command = Command::new("systemctl");
    command.args(["stop", "--quiet", "--no-ask-password", &format!("{name}.service")]);
    // One that is not loaded has ended, or was never there.
    ask(command, &[0, NOT_LOADED])
}

/// Asks PID 1 for something, by a program that ends with one of these codes if it was done. The error has
/// what the program printed.
fn ask(mut command: Command, done: &[i32]) -> io::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output();
    let output =
        output.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    if output.status.code().is_some_and(|code| done.contains(&code)) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{name}: {}: {}", output.status, said.trim())))
}

/// Where a keeper finds whoever wants it. Gone when it is dropped.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn bind(path: PathBuf) -> io::Result<Self> {
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// The keeper. Anybody else who comes is sent away.
    fn accept(&self) -> io::Result<UnixStream> {
        let timeout = PollTimeout::try_from(KEEPER_WAIT).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout)? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the unit did not come"));
        }
        let (stream, _) = self.listener.accept()?;
        let peer = getsockopt(&stream, PeerCredentials)?;
        if peer.uid() == geteuid().as_raw() {
            return Ok(stream);
        }
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One that stays is in nobody's way: each has a name of its own.
        drop(fs::remove_file(&self.path));
    }
}

/// The keeper's whole life.
pub(crate) fn keep(socket: &Path) -> io::Result<()> {
    // Whoever ends the unit ends the script; this process then says what became of it. The script does
    // not inherit it.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).thread_block()?;
    // What the script leaves running becomes a child of this process.
    prctl::set_child_subreaper(true)?;
    let mut stream = UnixStream::connect(socket)?;
    let errand: Errand = receive(&mut stream)?;
    let log = ScriptLog::open(errand.log)?;
    let task = errand.task;
    let ended = match task.start_recorded() {
        Ok(child) => task.wait(child, |_| Members::of_this_control_group(), &log),
        Err(error) => Ended::Lost(error.to_string()),
    };
    // From here on whoever takes over must not end what the script has left running.
    forget(&errand.record)?;
    // If nobody listens any more, the script runs again.
    drop(send(&mut stream, &Answer { ended, tail: ByteBuf::from(log.raw_tail()) }));
    drop(stream);
    reap();
    Ok(())
}

/// Waits until nothing of the script is left.
fn reap() {
    // Interrupted by a signal, it waits on.
    while wait() != Err(Errno::ECHILD) {}
}

fn send<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    frame::write(stream, &cbor::encode(value))
}

fn receive<T: Serialize + DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let bytes = frame::read(stream, FRAME_PATIENCE, ERRAND_BYTES_MAX)?;
    cbor::decode(&bytes, ERRAND_BYTES_MAX).map_err(io::Error::other)
}

/// The first argument of a keeper.
pub(crate) const KEEP: &str = "--keep-script";
/// What units of scripts are called, with a number.
const UNIT: &str = "swell-hook-";
const UNIT_ON_RECORD: &str = "unit ";
/// `systemctl`'s exit code for a unit that is not there.
const NOT_LOADED: i32 = 5;
/// From the start of a keeper to its first word; a machine may be very busy.
const KEEPER_WAIT: Duration = Duration::from_secs(60);
/// From the first byte of what one of the two says to the last.
const FRAME_PATIENCE: Duration = Duration::from_secs(60);
/// An environment and a command line, which Linux bounds to 2 MiB together.
const ERRAND_BYTES_MAX: usize = 4 << 20;

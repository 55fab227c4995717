//! Running one script: its environment, its user, its time, its output.
//!
//! The plain runner, for machines without systemd: a process group of its own, ended as a whole.

use std::{
    fmt, fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use groundswell_protocol::{
    execute::LifecycleEvent,
    ids::{ApplicationName, DeploymentId, GroupName},
    limits::HOOK_KILL_GRACE,
    revision::Script,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User, geteuid},
};

use crate::logs::ScriptLog;

/// What scripts learn from their environment, by AWS's names.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) application: ApplicationName,
    pub(crate) group: GroupName,
    pub(crate) deployment: DeploymentId,
    /// Where the script is on record while it runs, for a process that takes over.
    pub(crate) record: PathBuf,
}

/// Why a script failed, by AWS's codes.
#[derive(Debug)]
pub(crate) struct HookFailed {
    pub(crate) code: u8,
    pub(crate) message: String,
}

const MISSING: u8 = 1;
const NOT_EXECUTABLE: u8 = 2;
const TIMED_OUT: u8 = 3;
const FAILED: u8 = 4;

/// Runs a script of the revision in `archive` to its end.
pub(crate) fn run(
    archive: &Path,
    event: LifecycleEvent,
    script: &Script,
    context: &Context,
    log: &ScriptLog,
) -> Result<(), HookFailed> {
    log.line(&format!("Script - {}", script.location));
    let path = archive.join(&script.location);
    make_executable(&path, log)?;
    let mut command = command(&path, script)?;
    command
        .env("LIFECYCLE_EVENT", event.to_string())
        .env("DEPLOYMENT_ID", context.deployment.to_string())
        .env("APPLICATION_NAME", context.application.as_str())
        .env("DEPLOYMENT_GROUP_NAME", context.group.as_str())
        .env("DEPLOYMENT_GROUP_ID", context.group.as_str())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = start(command, &context.record).map_err(|error| HookFailed {
        code: FAILED,
        message: format!("script {} could not be started: {error}", script.location),
    })?;
    let status = wait(child, script, log);
    // A record of what has ended says nothing.
    fs::remove_file(&context.record).ok();
    let status = status?;
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".into(),
    };
    let user = script.runas.as_ref().map(|user| format!(", run as user {user}"));
    let user = user.unwrap_or_default();
    Err(HookFailed {
        code: FAILED,
        message: format!("script {} failed with {how}{user}", script.location),
    })
}

fn make_executable(path: &Path, log: &ScriptLog) -> Result<(), HookFailed> {
    let metadata = fs::metadata(path).map_err(|error| HookFailed {
        code: MISSING,
        message: format!("script {}: {error}", path.display()),
    })?;
    let mode = metadata.permissions().mode();
    if mode & 0o111 != 0 {
        return Ok(());
    }
    log.line("the script is not executable; it is made so");
    let executable = fs::Permissions::from_mode(mode | 0o111);
    fs::set_permissions(path, executable).map_err(|error| HookFailed {
        code: NOT_EXECUTABLE,
        message: format!("script {} is not executable: {error}", path.display()),
    })
}

/// The command line. The shell that waits at its beginning does not read it: a name with a space is
/// a name with a space.
fn command(path: &Path, script: &Script) -> Result<Command, HookFailed> {
    let me = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let other = script.runas.as_ref().filter(|user| Some(*user) != me.as_ref());
    let mut words: Vec<&std::ffi::OsStr> = ["-c", GATE, "swell-exec"].map(AsRef::as_ref).to_vec();
    if script.sudo {
        words.extend(["sudo".as_ref(), "--".as_ref()] as [&std::ffi::OsStr; 2]);
    }
    let mut home = None;
    if let Some(user) = other {
        let known = User::from_name(user).ok().flatten().ok_or_else(|| HookFailed {
            code: FAILED,
            message: format!("there is no user {user} on this host"),
        })?;
        home = Some((user.clone(), known.dir));
        words.extend(["runuser".as_ref(), "-u".as_ref(), user.as_ref(), "--".as_ref()]
            as [&std::ffi::OsStr; 4]);
    }
    words.push(path.as_os_str());
    let mut command = Command::new("/bin/sh");
    for name in OF_THIS_SERVICE {
        command.env_remove(name);
    }
    command.args(words);
    if let Some((user, dir)) = home {
        command.env("USER", &user).env("LOGNAME", &user).env("HOME", dir);
    }
    Ok(command)
}

/// Waits for a line, then becomes the script, or the shell that runs it if it has no first line that
/// names an interpreter. Without the line, nothing has run.
const GATE: &str = "read -r go && exec \"$@\" </dev/null";

/// Starts the script once it is on record: if this process dies, the next one can end it.
fn start(mut command: Command, record: &Path) -> io::Result<Child> {
    let mut child = command.spawn()?;
    let gate = child.stdin.take();
    let opened = Leader::of(child.id())
        .ok_or_else(|| io::Error::other("its process is not in /proc"))
        // No power loss must be survived by this: nothing that runs survives one.
        .and_then(|leader| fs::write(record, leader.to_string()))
        .and_then(|()| gate.map_or(Ok(()), |mut gate| gate.write_all(b"\n")));
    if let Err(error) = opened {
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    Ok(child)
}

/// The main process of a script, told apart from all others that have had its number.
#[derive(Debug, PartialEq)]
struct Leader {
    pid: u32,
    /// In ticks since the system started.
    started: String,
    boot: String,
}

impl Leader {
    /// The process with this number, unless it has ended.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before the parenthesis may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let is_over = matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(18)?.to_owned();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        (!is_over).then_some(Self { pid, started, boot })
    }

    /// The process of a record, if it still runs.
    fn of_record(text: &str) -> Option<Self> {
        let pid = text.split(' ').next()?.parse().ok()?;
        Self::of(pid).filter(|leader| leader.to_string() == text)
    }
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.started, self.boot)
    }
}

/// Ends the script that is on record, with its process group, if it still runs.
pub(crate) fn end_left_over(record: &Path, log: &ScriptLog) -> io::Result<()> {
    let text = match fs::read_to_string(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let group = Leader::of_record(&text).and_then(|leader| i32::try_from(leader.pid).ok());
    if let Some(group) = group.map(Pid::from_raw) {
        log.line("a script that the last swell-exec has left running is ended");
        killpg(group, Signal::SIGTERM).ok();
        let until = Instant::now() + HOOK_KILL_GRACE;
        while Leader::of_record(&text).is_some() && Instant::now() < until {
            thread::sleep(POLL_EVERY);
        }
        killpg(group, Signal::SIGKILL).ok();
        // To begin again beside it would be worse than to wait.
        while Leader::of_record(&text).is_some() {
            thread::sleep(POLL_EVERY);
        }
    }
    fs::remove_file(record)
}

/// Waits for the script's main process, which is its end; what it left running keeps running.
fn wait(mut child: Child, script: &Script, log: &ScriptLog) -> Result<ExitStatus, HookFailed> {
    let group = i32::try_from(child.id()).map(Pid::from_raw).ok();
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
        child.stderr.take().map(|err| Box::new(err) as Box<dyn Read + Send>),
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
    let timeout = Duration::from_secs(script.timeout_seconds.into());
    let (ended_in, ended) = mpsc::channel();
    thread::spawn(move || drop(ended_in.send(child.wait())));
    let in_time = ended.recv_timeout(timeout);
    let timed_out = in_time.is_err();
    let status = match (in_time, group) {
        (Ok(status), _) => status,
        (Err(_), Some(group)) => {
            log.line(&format!("the script has not ended within {} s", script.timeout_seconds));
            end_group(group, &ended)
        }
        (Err(_), None) => Err(io::Error::other("the script has no process group")),
    };
    let until = Instant::now() + OUTPUT_WAIT;
    for _ in 0..2 {
        let left = until.saturating_duration_since(Instant::now());
        if closed.recv_timeout(left).is_err() {
            break;
        }
    }
    if timed_out {
        return Err(HookFailed {
            code: TIMED_OUT,
            message: format!(
                "script {} timed out after {} seconds",
                script.location, script.timeout_seconds
            ),
        });
    }
    status.map_err(|error| HookFailed { code: FAILED, message: error.to_string() })
}

/// Ends the whole process group: politely, then for certain.
fn end_group(group: Pid, ended: &mpsc::Receiver<io::Result<ExitStatus>>) -> io::Result<ExitStatus> {
    // A group that is gone already is what is wanted.
    killpg(group, Signal::SIGTERM).ok();
    let status = ended.recv_timeout(HOOK_KILL_GRACE);
    killpg(group, Signal::SIGKILL).ok();
    match status {
        Ok(status) => status,
        Err(_) => ended.recv().unwrap_or_else(|_| Err(io::Error::other("the script is lost"))),
    }
}

fn copy_lines(output: impl Read, prefix: &str, log: &ScriptLog) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end is cut, so that no script fills this process's memory.
        match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                log.line(&format!("{prefix}{}", text.trim_end_matches(['\n', '\r'])));
            }
        }
    }
}

/// What systemd tells this service about itself, and how the unit keeps its memory small. A script, and
/// what it starts, are not this service.
const OF_THIS_SERVICE: [&str; 8] = [
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "SYSTEMD_EXEC_PID",
];
const LINE_BYTES_MAX: u64 = 16 << 10;
/// A process that is no child of this one does not say when it ends.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How long the output of a script that has ended may still come in.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use groundswell_protocol::ids::Digest;

    fn try_script(text: &str, mode: u32, timeout_seconds: u32) -> (Result<(), HookFailed>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a script.sh");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let log = ScriptLog::open(&dir.path().join("scripts.log")).unwrap();
        let location = "a script.sh".into();
        let script = Script { sudo: false, runas: None, location, timeout_seconds };
        let context = Context {
            application: ApplicationName::new("shop").unwrap(),
            group: GroupName::new("web").unwrap(),
            deployment: DeploymentId::of(Digest::ZERO, false),
            record: dir.path().join("hook"),
        };
        let result = run(dir.path(), LifecycleEvent::AfterInstall, &script, &context, &log);
        assert!(!context.record.exists(), "what has ended is not on record");
        (result, log.tail())
    }

    #[test]
    fn a_script_sees_its_deployment_and_is_logged() {
        let text = "#!/bin/sh\necho $LIFECYCLE_EVENT $APPLICATION_NAME $DEPLOYMENT_GROUP_NAME\n\
            echo $DEPLOYMENT_ID $DEPLOYMENT_GROUP_ID; pwd; echo oops >&2\n";
        let (result, log) = try_script(text, 0o644, 10);
        result.unwrap();
        assert!(log.contains("[stdout]AfterInstall shop web\n"), "{log}");
        assert!(log.contains("[stdout]d-"), "{log}");
        // The two pipes are read by a thread each: what comes from one keeps its order, and no more.
        assert!(log.contains("[stdout]/\n"), "{log}");
        assert!(log.contains("[stderr]oops\n"), "{log}");
    }

    #[test]
    fn a_script_does_not_inherit_what_concerns_this_service() {
        let location = "run.sh".into();
        let script = Script { sudo: false, runas: None, location, timeout_seconds: 10 };
        let command = command(Path::new("/run.sh"), &script).unwrap();
        let set: Vec<_> = command.get_envs().collect();
        for name in OF_THIS_SERVICE {
            assert!(set.contains(&(name.as_ref(), None)), "{name} is handed on");
        }
    }

    #[test]
    fn failures_have_the_agents_codes() {
        let (result, _) = try_script("#!/bin/sh\nexit 3\n", 0o755, 10);
        let failed = result.unwrap_err();
        assert_eq!(failed.code, FAILED);
        assert!(failed.message.contains("exit code 3"));
        let (result, _) = try_script("#!/bin/sh\nkill -9 $$\n", 0o755, 10);
        assert!(result.unwrap_err().message.contains("signal 9"));
        let (result, _) = try_script("#!/no/such/interpreter\n", 0o755, 10);
        assert_eq!(result.unwrap_err().code, FAILED);
    }

    #[test]
    fn a_script_without_a_first_line_is_run_by_the_shell() {
        let (result, log) = try_script("echo hello\n", 0o755, 10);
        result.unwrap();
        assert!(log.contains("[stdout]hello"), "{log}");
    }

    #[test]
    fn time_ends_the_whole_group() {
        let begun = Instant::now();
        let (result, log) = try_script("#!/bin/sh\nsleep 60 &\nsleep 60\n", 0o755, 1);
        assert_eq!(result.unwrap_err().code, TIMED_OUT);
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(log.contains("has not ended within 1 s"), "{log}");
    }

    #[test]
    fn what_a_script_leaves_running_does_not_hold_it() {
        let begun = Instant::now();
        let (result, _) = try_script("#!/bin/sh\nsleep 20 &\necho done\n", 0o755, 60);
        result.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    /// A script that runs on, as after the death of the process that started it.
    fn left_over(dir: &Path, text: &str) -> (Child, PathBuf) {
        let record = dir.join("hook");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GATE, "test", "/bin/sh", "-c", text]);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = start(command, &record).unwrap();
        (child, record)
    }

    #[test]
    fn a_script_that_was_left_running_is_ended_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(&dir.path().join("scripts.log")).unwrap();
        let (mut child, record) = left_over(dir.path(), "sleep 60 & echo $!; wait");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let descendant: u32 = line.trim().parse().unwrap();
        assert!(Leader::of(descendant).is_some());
        end_left_over(&record, &log).unwrap();
        assert!(Leader::of(child.id()).is_none());
        let until = Instant::now() + Duration::from_secs(10);
        while Leader::of(descendant).is_some() {
            assert!(Instant::now() < until, "the group is still there");
            thread::sleep(POLL_EVERY);
        }
        child.wait().unwrap();
        assert!(!record.exists());
        end_left_over(&record, &log).unwrap();
    }

    #[test]
    fn another_process_with_the_number_on_record_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(&dir.path().join("scripts.log")).unwrap();
        let (mut child, record) = left_over(dir.path(), "sleep 60");
        let leader = Leader::of(child.id()).unwrap();
        for other in [
            Leader { started: "1".into(), ..Leader::of(child.id()).unwrap() },
            Leader { boot: "another".into(), ..leader },
        ] {
            fs::write(&record, other.to_string()).unwrap();
            end_left_over(&record, &log).unwrap();
            assert!(Leader::of(child.id()).is_some());
        }
        fs::write(&record, "").unwrap();
        end_left_over(&record, &log).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_script_whose_executor_dies_before_it_is_on_record_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GATE, "test", "/usr/bin/touch"]).arg(&mark).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdin.take());
        assert!(!child.wait().unwrap().success());
        assert!(!mark.exists());
    }
}

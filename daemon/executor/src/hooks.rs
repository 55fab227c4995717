//! Running one script: its environment, its user, its time, its output.
//!
//! The plain runner, for machines without systemd: a process group of its own, ended as a whole.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
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
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = spawn(command, &path).map_err(|error| HookFailed {
        code: FAILED,
        message: format!("script {} could not be started: {error}", script.location),
    })?;
    let status = wait(child, script, log)?;
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

/// The command line: never through a shell, so a name with a space is a name with a space.
fn command(path: &Path, script: &Script) -> Result<Command, HookFailed> {
    let me = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let other = script.runas.as_ref().filter(|user| Some(*user) != me.as_ref());
    let mut words: Vec<&std::ffi::OsStr> = Vec::new();
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
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    if let Some((user, dir)) = home {
        command.env("USER", &user).env("LOGNAME", &user).env("HOME", dir);
    }
    Ok(command)
}

fn spawn(mut command: Command, path: &Path) -> io::Result<Child> {
    match command.spawn() {
        // A script without a first line that names its interpreter is one for the shell.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
            let mut shell = Command::new("/bin/sh");
            shell.arg(path).current_dir("/").process_group(0);
            shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
            shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            shell.spawn()
        }
        other => other,
    }
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

const LINE_BYTES_MAX: u64 = 16 << 10;
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
        };
        let result = run(dir.path(), LifecycleEvent::AfterInstall, &script, &context, &log);
        (result, log.tail())
    }

    #[test]
    fn a_script_sees_its_deployment_and_is_logged() {
        let text = "#!/bin/sh\necho $LIFECYCLE_EVENT $APPLICATION_NAME $DEPLOYMENT_GROUP_NAME\n\
            echo $DEPLOYMENT_ID $DEPLOYMENT_GROUP_ID; pwd; echo oops >&2\n";
        let (result, log) = try_script(text, 0o644, 10);
        result.unwrap();
        assert!(log.contains("[stdout]AfterInstall shop web\n"), "{log}");
        assert!(log.contains("[stdout]d-") && log.contains(" web\n[stdout]/\n"), "{log}");
        assert!(log.contains("[stderr]oops\n"), "{log}");
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
}

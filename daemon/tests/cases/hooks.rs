//! How scripts run, how they end, and what is told of it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

use super::{
    Host, Run,
    lifecycle::after_mounting,
    read,
    shown::{shown, shown_by_root},
};

/// A bundle whose AfterInstall runs this script, with these keys beside its location.
fn bundle(host: &Host, script: &str, keys: &str) -> PathBuf {
    let keys = keys.split(", ").filter(|key| !key.is_empty()).map(|key| format!("      {key}\n"));
    let keys: String = keys.collect();
    let hooks = format!("hooks:\n  AfterInstall:\n    - location: run.sh\n{keys}");
    host.bundle("one", &hooks, &[("run.sh", script)])
}

fn succeeds(script: &str, keys: &str) -> (Host, Run) {
    let host = Host::new();
    let run = host.succeeds(&bundle(&host, script, keys), &[]);
    (host, run)
}

fn fails(script: &str, keys: &str) -> (Host, Run) {
    let host = Host::new();
    let run = host.fails(&bundle(&host, script, keys), &[]);
    assert_eq!((run.failure("event"), run.failure("script")), ("AfterInstall", "run.sh"));
    (host, run)
}

/// The process whose number a script has written down.
pub(super) fn process(host: &Host, name: &str) -> Pid {
    Pid::from_raw(read(host.live(name)).trim().parse().unwrap())
}

/// Gone, or dead and not yet taken note of by whoever started it.
pub(super) fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Programs that write down how they are called and then become what they are to run.
fn with_recorders(host: &Host, bundle: &Path) -> String {
    let bin = host.path("bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["sudo", "runuser"] {
        let record = host.live("called");
        let text = format!(
            "#!/bin/sh\necho {name} \"$@\" >>{}\nwhile [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\n",
            record.display()
        );
        fs::write(bin.join(name), text).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = host.command(bundle, &[]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let called = fs::read_to_string(host.live("called")).unwrap_or_default();
    fs::remove_file(host.live("called")).ok();
    // The script's own path is that of the deployment.
    let words = called.lines().map(|line| match line.rsplit_once('/') {
        Some((before, name)) => {
            format!("{} {name}", before.rsplit_once(' ').map_or(before, |(words, _)| words))
        }
        None => line.to_owned(),
    });
    words.collect::<Vec<_>>().join("; ")
}

#[test]
fn c025_sudo_is_what_runs_the_script() {
    let host = Host::new();
    let called = with_recorders(&host, &bundle(&host, "#!/bin/sh\n", "sudo: true"));
    assert_eq!(called, "sudo -- run.sh");
}

#[test]
fn c026_scripts_run_in_the_order_of_the_file() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: b.sh\n    - location: a.sh\n";
    let script = |name: &str| format!("#!/bin/sh\necho {name} >>{{live}}/order\n");
    host.succeeds(
        &host.bundle("one", hooks, &[("a.sh", &script("a")), ("b.sh", &script("b"))]),
        &[],
    );
    assert_eq!(read(host.live("order")), "b\na\n");
}

#[test]
fn c028_without_runas_a_script_runs_as_whoever_deploys() {
    let (host, _) = succeeds("#!/bin/sh\nid -u >{live}/user\n", "");
    assert_eq!(read(host.live("user")).trim(), geteuid().to_string());
}

#[test]
fn c036_a_timeout_in_quotes_is_a_number() {
    let (_, run) = fails("#!/bin/sh\nsleep 30\n", "timeout: \"1\"");
    assert_eq!(run.error_code(), 3);
    assert!(run.failure("message").contains("1 seconds"), "{}", run.failure("message"));
}

#[test]
fn c159_a_script_that_is_missing_is_named() {
    let host = Host::new();
    let hooks = "hooks:\n  BeforeInstall:\n    - location: first.sh\n  AfterInstall:\n    \
        - location: run.sh\n";
    let archive = host.path("root/default-local-deployment-group").display().to_string();
    let first = format!("#!/bin/sh\nrm {archive}/$DEPLOYMENT_ID/deployment-archive/run.sh\n");
    let files = [("first.sh", first.as_str()), ("run.sh", "#!/bin/sh\n")];
    let run = host.fails(&host.bundle("one", hooks, &files), &[]);
    assert_eq!((run.error_code(), run.failure("script")), (1, "run.sh"));
    let path = run.dir().join("deployment-archive/run.sh").display().to_string();
    assert!(run.failure("message").contains(&path), "{}", run.failure("message"));
}

#[test]
fn c160_a_script_that_is_not_executable_is_made_so() {
    let host = Host::new();
    let bundle = bundle(&host, "#!/bin/sh\necho ran\n", "");
    fs::set_permissions(bundle.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = host.succeeds(&bundle, &[]);
    assert!(run.log().contains("not executable; it is made so"), "{}", run.log());
    assert!(run.log().contains("[stdout]ran\n"), "{}", run.log());
}

#[test]
fn c161_a_script_that_cannot_be_made_executable_has_a_code_of_its_own() {
    let is_parent = !Path::new("/run/systemd/system").exists();
    if !shown(
        is_parent,
        "a script has the mounts of the whole machine here, not those of the executor",
    ) {
        return;
    }
    let host = Host::new();
    let hooks = "hooks:\n  BeforeInstall:\n    - location: mount.sh\n  AfterInstall:\n    \
        - location: run.sh\n";
    let archive = host.path("root/default-local-deployment-group").display().to_string();
    let mount = format!(
        "#!/bin/sh\ncd {archive}/$DEPLOYMENT_ID\nmount --bind deployment-archive deployment-archive \
         && mount -o remount,bind,ro deployment-archive\n"
    );
    let bundle = host.bundle("one", hooks, &[("mount.sh", &*mount), ("run.sh", "true\n")]);
    let run = after_mounting(&host, "true", &bundle, &[]);
    assert_eq!((run.failure("script"), run.error_code()), ("run.sh", 2), "{}", run.stderr);
    assert!(run.failure("message").contains("run.sh is not executable"), "{}", run.stderr);
}

#[test]
fn c162_the_exit_code_is_told() {
    let (_, run) = fails("#!/bin/sh\necho why >&2\nexit 42\n", "");
    assert_eq!(run.error_code(), 4);
    assert!(run.failure("message").ends_with("exit code 42"), "{}", run.failure("message"));
    assert!(run.failure("tail").contains("[stderr]why\n"), "{}", run.failure("tail"));
}

#[test]
fn c163_the_user_is_told() {
    if !shown_by_root() {
        return;
    }
    let (_, run) = fails("#!/bin/sh\nid -un\nexit 1\n", "runas: daemon");
    assert_eq!(run.error_code(), 4);
    assert!(run.failure("message").contains("run as user daemon"), "{}", run.failure("message"));
    assert!(run.failure("tail").contains("[stdout]daemon\n"), "{}", run.failure("tail"));
}

#[test]
fn c164_a_user_whom_nobody_knows_is_told_by_the_tool() {
    if !shown_by_root() {
        return;
    }
    let (_, run) = fails("#!/bin/sh\n", "runas: no-such-user-here");
    assert_eq!(run.error_code(), 4);
    assert!(run.failure("message").contains("exit code 1"), "{}", run.failure("message"));
    let tail = run.failure("tail");
    assert!(tail.contains("[stderr]") && tail.contains("no-such-user-here"), "{tail}");
}

#[test]
fn c166_sudo_and_runas_make_four_commands() {
    if !shown_by_root() {
        return;
    }
    for (keys, called) in [
        ("", ""),
        ("runas: daemon", "runuser -u daemon -- run.sh"),
        ("sudo: true", "sudo -- run.sh"),
        (
            "sudo: true, runas: daemon",
            "sudo -- runuser -u daemon -- run.sh; runuser -u daemon -- run.sh",
        ),
    ] {
        let host = Host::new();
        assert_eq!(with_recorders(&host, &bundle(&host, "#!/bin/sh\n", keys)), called, "{keys}");
    }
}

/// An application that is told where to look for pressure would heed that of another service.
#[test]
fn what_systemd_has_told_who_deploys_is_no_news_for_a_script() {
    let host = Host::new();
    let bundle = bundle(&host, "#!/bin/sh\nenv >{live}/told\n", "");
    let mut command = host.command(&bundle, &[]);
    let of_service = ["MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "INVOCATION_ID"];
    command.env("OF_A_PERSON", "x").envs(of_service.map(|name| (name, "x")));
    assert_eq!(Run::of(command).code, 0);
    let told = read(host.live("told"));
    assert!(told.contains("OF_A_PERSON=x"), "{told}");
    assert_eq!(of_service.into_iter().find(|name| told.contains(name)), None, "{told}");
}

#[test]
fn whatever_the_umask_nobody_else_writes_where_revisions_are() {
    let host = Host::new();
    let bundle = bundle(&host, "#!/bin/sh\n", "");
    let mut command = Command::new("sh");
    let local = host.command(&bundle, &[]);
    command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(local.get_program());
    command.args(local.get_args());
    let run = Run::of(command);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let mut open = vec![host.path("root")];
    while let Some(dir) = open.pop() {
        let mode = fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "{}", dir.display());
        let all = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
        open.extend(all.filter(|it| it.file_type().unwrap().is_dir()).map(|it| it.path()));
    }
}

#[test]
fn c167_an_interpreter_that_is_not_there_is_told() {
    for script in ["#!/no/such/interpreter\n", "#!/bin/sh\r\necho x\r\n"] {
        let (_, run) = fails(script, "");
        assert_eq!(run.error_code(), 4);
        assert!(run.failure("message").contains("ENOENT"), "{}", run.failure("message"));
    }
}

#[test]
fn c168_the_shell_runs_a_script_that_names_no_interpreter() {
    let (host, _) = succeeds("echo $0 >{live}/ran\n", "");
    assert!(read(host.live("ran")).ends_with("run.sh\n"));
}

#[test]
fn c169_a_script_that_is_killed_has_failed() {
    let (_, run) = fails("#!/bin/sh\nkill -KILL $$\n", "");
    assert_eq!(run.error_code(), 4);
    assert!(run.failure("message").contains("signal 9"), "{}", run.failure("message"));
}

#[test]
fn c170_a_script_out_of_time_is_ended_with_its_group() {
    let script = "#!/bin/sh\necho $$ >{live}/main\nsleep 60 &\necho $! >{live}/child\nwait\n";
    let (host, run) = fails(script, "timeout: 2");
    assert_eq!(run.error_code(), 3);
    assert!(run.failure("message").contains("2 seconds"), "{}", run.failure("message"));
    for name in ["main", "child"] {
        assert!(is_gone(process(&host, name)), "{name}");
    }
}

#[test]
fn c171_a_script_that_will_not_end_is_made_to() {
    let begun = Instant::now();
    let script = "#!/bin/sh\ntrap '' TERM\necho $$ >{live}/main\nwhile :; do sleep 1; done\n";
    let (host, run) = fails(script, "timeout: 2");
    assert_eq!(run.error_code(), 3);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(is_gone(process(&host, "main")));
}

#[test]
fn c174_what_a_script_leaves_in_the_background_lives_on() {
    let begun = Instant::now();
    let script = "#!/bin/sh\nsleep 600 </dev/null >/dev/null 2>&1 &\necho $! >{live}/child\n";
    let (host, _) = succeeds(script, "");
    assert!(begun.elapsed() < Duration::from_secs(60));
    let child = process(&host, "child");
    assert!(!is_gone(child));
    kill(child, Signal::SIGKILL).unwrap();
}

#[test]
fn c177_there_is_nothing_to_read_for_a_script() {
    let (host, _) = succeeds("#!/bin/sh\nread -r x\necho $? >{live}/read\n", "");
    assert_eq!(read(host.live("read")), "1\n");
}

#[test]
fn c180_what_the_environment_says_of_a_deployment_is_overridden() {
    let host = Host::new();
    let bundle = bundle(&host, "#!/bin/sh\necho $DEPLOYMENT_ID $OTHER >{live}/env\n", "");
    let mut command = host.command(&bundle, &[]);
    let output = command.env("DEPLOYMENT_ID", "d-OLD").env("OTHER", "kept").output().unwrap();
    assert!(output.status.success());
    let text = read(host.live("env"));
    assert!(text.starts_with("d-") && text.ends_with("-local kept\n"), "{text}");
}

#[test]
fn c186_a_byte_that_is_no_text_is_kept_and_loses_nothing() {
    let (_host, run) = fails("#!/bin/sh\nprintf 'before \\377 after\\n'\nexit 1\n", "");
    let log = fs::read(run.json["log"].as_str().unwrap()).unwrap();
    let line = b"[stdout]before \xff after\n";
    assert!(log.windows(line.len()).any(|part| part == line));
    assert!(run.failure("tail").contains("before \u{fffd} after"), "{}", run.failure("tail"));
}

#[test]
fn c187_of_a_long_line_the_end_is_told() {
    let script = "#!/bin/sh\nprintf 'x%.0s' $(seq 3000)\necho the end\nexit 1\n";
    let (_, run) = fails(script, "");
    assert!(run.failure("tail").ends_with("xxthe end\n"), "{}", run.failure("tail"));
}

#[test]
fn c200_after_an_event_that_fails_the_next_does_not_run() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: fail.sh\n  ApplicationStart:\n    \
        - location: run.sh\n";
    let files = [("fail.sh", "#!/bin/sh\nexit 1\n"), ("run.sh", "#!/bin/sh\ntouch {live}/ran\n")];
    let bundle = host.bundle("one", hooks, &files);
    host.fails(&bundle, &["--events", "AfterInstall,ApplicationStart"]);
    assert!(!host.live("ran").exists());
}

#[test]
fn a_script_may_be_a_link_or_behind_one() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: link.sh\n    - location: dir/run.sh\n";
    let bundle = host.bundle("one", hooks, &[("bin/run.sh", "#!/bin/sh\necho $0 >>{live}/ran\n")]);
    std::os::unix::fs::symlink("bin/run.sh", bundle.join("link.sh")).unwrap();
    std::os::unix::fs::symlink("bin", bundle.join("dir")).unwrap();
    host.succeeds(&bundle, &[]);
    assert_eq!(read(host.live("ran")).lines().count(), 2);
    fs::remove_file(bundle.join("link.sh")).unwrap();
    std::os::unix::fs::symlink("bin/none.sh", bundle.join("link.sh")).unwrap();
    let text = host.refuses(&bundle, &[]);
    assert!(text.contains("a symbolic link that leads nowhere"), "{text}");
}

#[test]
fn t28_nobody_else_writes_to_a_script_that_will_run_one_day() {
    let host = Host::new();
    let appspec = "files:\n  - source: data\n    destination: {live}/app\n\
        hooks:\n  ApplicationStop:\n    - location: sub/stop.sh\n";
    let files = [("sub/stop.sh", "#!/bin/sh\n"), ("data", "1")];
    let one = host.bundle("one", appspec, &files);
    for (file, mode) in [("sub/stop.sh", 0o777), ("data", 0o666), ("sub", 0o777)] {
        fs::set_permissions(one.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }
    let local = host.command(&one, &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\""]);
    command.arg(local.get_program()).args(local.get_args());
    let run = Run::of(command);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let archive = run.dir().join("deployment-archive");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for path in [run.dir(), archive.clone(), archive.join("sub"), archive.join("sub/stop.sh")] {
        assert_eq!(mode(&path), 0o755, "{}", path.display());
    }
    assert_eq!(mode(&archive.join("data")), 0o644);
    // Where it is installed it is what it was packed as.
    assert_eq!(mode(&host.live("app/data")), 0o666);
}

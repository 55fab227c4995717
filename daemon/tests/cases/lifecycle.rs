//! Which events run, in which order, and from which revision.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, geteuid, mkfifo},
};

use super::{Host, Run, hooks, read, shown::shown};

const SCRIPTABLE: [&str; 9] = [
    "BeforeBlockTraffic",
    "AfterBlockTraffic",
    "ApplicationStop",
    "BeforeInstall",
    "AfterInstall",
    "ApplicationStart",
    "ValidateService",
    "BeforeAllowTraffic",
    "AfterAllowTraffic",
];

/// What a deployment of `name` runs of its own, and of the one before.
fn events(name: &str, before: Option<&str>) -> String {
    let of = |(at, event): (usize, &&str)| match (at < 3, before) {
        (true, None) => None,
        (true, Some(before)) => Some(format!("{event} {before}")),
        (false, _) => Some(format!("{event} {name}")),
    };
    SCRIPTABLE.iter().enumerate().filter_map(of).collect::<Vec<_>>().join(", ")
}

#[test]
fn c188_a_first_deployment_runs_the_six_events_of_the_new_revision() {
    let host = Host::new();
    host.succeeds(&host.tracing("one", &SCRIPTABLE), &[]);
    assert_eq!(host.trace(), events("one", None));
}

#[test]
fn c189_a_second_deployment_runs_all_nine_and_the_first_three_from_the_revision_before() {
    let host = Host::new();
    host.succeeds(&host.tracing("one", &SCRIPTABLE), &[]);
    host.trace();
    host.succeeds(&host.tracing("two", &SCRIPTABLE), &[]);
    assert_eq!(host.trace(), events("two", Some("one")));
}

/// The events of a kind of deployment of `name` to a host that has `one`.
fn trace_of(kind: &str, host: &Host) -> String {
    host.succeeds(&host.tracing("one", &SCRIPTABLE), &[]);
    host.trace();
    host.succeeds(&host.tracing("two", &SCRIPTABLE), &["--lifecycle", kind]);
    host.trace()
}

#[test]
fn each_kind_of_deployment_runs_its_events_from_the_right_revision() {
    let in_place = "ApplicationStop one, BeforeInstall two, AfterInstall two, ApplicationStart two, \
        ValidateService two";
    let replacement = format!("{in_place}, BeforeAllowTraffic two, AfterAllowTraffic two");
    let balanced = format!("BeforeBlockTraffic one, AfterBlockTraffic one, {replacement}");
    for (kind, expected) in [
        ("in-place", in_place),
        ("load-balancer", &balanced),
        ("replacement", &replacement),
        ("original", "BeforeBlockTraffic one, AfterBlockTraffic one"),
    ] {
        assert_eq!(trace_of(kind, &Host::new()), expected, "{kind}");
    }
}

#[test]
fn c194_on_the_way_back_the_last_that_was_installed_allows_the_traffic() {
    let expected = "BeforeAllowTraffic one, AfterAllowTraffic one";
    assert_eq!(trace_of("rollback-original", &Host::new()), expected);
}

#[test]
fn c155_an_event_of_a_revision_that_is_not_there_fails() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: remove.sh\n  ValidateService:\n    \
        - location: fail.sh\n";
    let archive = host.path("root/default-local-deployment-group").display().to_string();
    let remove = format!("#!/bin/sh\nrm -r {archive}/$DEPLOYMENT_ID/deployment-archive\n");
    let run = host.fails(&host.bundle("one", hooks, &[("remove.sh", &*remove), FAIL]), &[]);
    assert_eq!((run.failure("event"), run.error_code()), ("ValidateService", 1));
}

#[test]
fn what_gives_the_traffic_up_on_the_way_back_is_what_came_last_though_it_failed() {
    let host = Host::new();
    host.succeeds(&host.tracing("one", &SCRIPTABLE), &[]);
    let two = host.tracing("two", &SCRIPTABLE);
    let script = read(two.join("trace.sh"));
    let fails = format!("{script}test $LIFECYCLE_EVENT != ValidateService\n");
    fs::write(two.join("trace.sh"), fails).unwrap();
    host.fails(&two, &["--lifecycle", "replacement"]);
    host.trace();
    // What is named on the command line is nobody's business here: it is not laid out.
    let run = host.succeeds(&host.bundle("any", "", &[]), &["--lifecycle", "rollback-replacement"]);
    assert_eq!(host.trace(), "BeforeBlockTraffic two, AfterBlockTraffic two");
    assert!(!run.dir().join("deployment-archive").exists());
    // And what runs is what ran: it is stopped next.
    host.succeeds(&host.tracing("three", &["ValidateService"]), &["--lifecycle", "in-place"]);
    assert_eq!(host.trace(), "ApplicationStop one, ValidateService three");
}

#[test]
fn a_script_that_fails_while_nothing_is_installed_takes_nothing_away() {
    let host = Host::new();
    let files = "files:\n  - source: data\n    destination: {live}/app\n";
    let hooks = "hooks:\n  BeforeBlockTraffic:\n    - location: fail.sh\n";
    host.succeeds(&host.bundle("one", &format!("{files}{hooks}"), &[("data", "1"), FAIL]), &[]);
    let run = host.fails(&host.bundle("two", "", &[]), &["--lifecycle", "original"]);
    assert_eq!((run.failure("event"), run.error_code()), ("BeforeBlockTraffic", 4));
    assert_eq!(run.json["failure"]["restored"], true, "it runs still");
    assert_eq!(read(host.live("app/data")), "1");
}

#[test]
fn c181_an_event_of_the_revision_before_tells_of_the_new_deployment() {
    let host = Host::new();
    let one = host.bundle(
        "one",
        "hooks:\n  ApplicationStop:\n    - location: stop.sh\n",
        &[("stop.sh", "#!/bin/sh\necho stopped by $DEPLOYMENT_ID\n")],
    );
    let first = host.succeeds(&one, &[]);
    let second = host.succeeds(&host.bundle("two", "", &[]), &[]);
    let line = format!("[stdout]stopped by {}\n", second.deployment());
    assert!(second.log().contains(&line), "{}", second.log());
    assert!(!first.log().contains("stopped by"), "{}", first.log());
}

const FAILING_START: &str = "hooks:\n  ApplicationStart:\n    - location: fail.sh\n  \
    ApplicationStop:\n    - location: stop.sh\n";
const FAIL: (&str, &str) = ("fail.sh", "#!/bin/sh\nexit 42\n");

fn stop(name: &str) -> String {
    format!("#!/bin/sh\necho stop {name} $DEPLOYMENT_ID >>{{live}}/trace\n")
}

#[test]
fn c190_a_failed_revision_that_was_left_is_the_one_that_is_stopped_next() {
    let host = Host::new();
    let bundle =
        |name: &str, appspec: &str| host.bundle(name, appspec, &[FAIL, ("stop.sh", &stop(name))]);
    let hooks = "hooks:\n  ApplicationStop:\n    - location: stop.sh\n";
    host.succeeds(&bundle("one", hooks), &[]);
    let run = host.fails(&bundle("two", FAILING_START), &["--leave-failed"]);
    assert_eq!((run.failure("event"), run.error_code()), ("ApplicationStart", 4));
    host.trace();
    host.succeeds(&bundle("three", hooks), &[]);
    assert_eq!(host.trace(), "stop two");
}

#[test]
fn a_failed_revision_is_taken_back_and_the_one_before_is_stopped_next() {
    let host = Host::new();
    let files = "files:\n  - source: data\n    destination: {live}/app\n";
    let bundle = |name: &str, hooks: &str| {
        let appspec = format!("{files}{hooks}");
        host.bundle(name, &appspec, &[FAIL, ("stop.sh", &stop(name)), ("data", name)])
    };
    let hooks = "hooks:\n  ApplicationStop:\n    - location: stop.sh\n";
    host.succeeds(&bundle("one", hooks), &[]);
    let run = host.fails(&bundle("two", FAILING_START), &[]);
    assert_eq!(run.json["failure"]["restored"], true);
    assert_eq!(host.trace(), "stop one, stop two");
    assert_eq!(read(host.live("app/data")), "one");
    host.succeeds(&bundle("three", hooks), &[]);
    assert_eq!(host.trace(), "stop one");
}

#[test]
fn files_that_were_half_installed_go_back_though_a_script_of_the_way_back_fails() {
    let host = Host::new();
    let fails_later = "#!/bin/sh\ntest ! -e {live}/broken\n";
    let hooks = "hooks:\n  BeforeInstall:\n    - location: before.sh\n";
    let files = "files:\n  - source: data\n    destination: {live}/app\n";
    let one = [("data", "one"), ("before.sh", fails_later)];
    host.succeeds(&host.bundle("one", &format!("{files}{hooks}"), &one), &[]);
    // The old file has made room when it turns out that nothing can be made there.
    let files = "files:\n  - source: data\n    destination: /proc/nothing\n";
    let two = [("data", "two"), ("before.sh", "#!/bin/sh\ntouch {live}/broken\n")];
    let run = host.fails(&host.bundle("two", &format!("{files}{hooks}"), &two), &[]);
    assert_eq!(run.failure("event"), "Install");
    assert!(run.failure("message").contains("BeforeInstall"), "{}", run.failure("message"));
    assert_eq!(run.json["failure"]["restored"], false);
    assert_eq!(read(host.live("app/data")), "one");
}

#[test]
fn files_that_could_not_be_put_back_are_put_back_by_the_next_deployment() {
    let host = Host::new();
    host.succeeds(&host.bundle("one", DATA, &[("data", "1")]), &[]);
    let hooks = "hooks:\n  AfterInstall:\n    - location: hide.sh\n";
    let hide = "#!/bin/sh\ncd \"${0%/*}/..\"\nmv saved hidden\nexit 1\n";
    let two = host.bundle("two", &format!("{DATA}{hooks}"), &[("data", "2"), ("hide.sh", hide)]);
    let two = host.fails(&two, &[]);
    assert!(two.failure("message").contains("could not be put back"), "{}", two.stderr);
    let hooks = "hooks:\n  BeforeInstall:\n    - location: see.sh\n";
    let see = "#!/bin/sh\ncp {live}/app/data {live}/seen\n";
    let three = host.bundle("three", &format!("{DATA}{hooks}"), &[("data", "3"), ("see.sh", see)]);
    let run = host.fails(&three, &[]);
    assert!(run.failure("message").contains("has left files half installed"), "{}", run.stderr);
    fs::rename(two.dir().join("hidden"), two.dir().join("saved")).unwrap();
    host.succeeds(&three, &[]);
    assert_eq!((read(host.live("seen")), read(host.live("app/data"))), ("1".into(), "3".into()));
    assert!(!two.dir().join("undo").exists() && !two.dir().join("saved").exists());
}

/// Everything below a directory: kind, rights, owner, time and content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let there = fs::symlink_metadata(&path).unwrap();
        let content = match there.file_type() {
            kind if kind.is_dir() => String::new(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            _ => read(&path),
        };
        if there.is_dir() {
            found.append(&mut tree(&path));
        }
        let of = (there.mode(), there.uid(), there.gid(), there.mtime(), there.mtime_nsec());
        found.insert(path, format!("{of:?} {content}"));
    }
    found
}

/// A host that runs a revision of files, a link and an empty directory, some of which somebody has changed
/// since, and its tree, whose times are old.
fn with_a_tree(hooks: &str, scripts: &[(&str, &str)]) -> (Host, BTreeMap<PathBuf, String>) {
    let host = Host::new();
    let files = "files:\n  - source: app\n    destination: {live}/srv/app\n";
    let own = [("app/data", "1"), ("app/sub/deep/more", "1"), ("app/edited", "1")];
    let files_of_it: Vec<_> = own.iter().chain(scripts).copied().collect();
    let one = host.bundle("one", &format!("{files}{hooks}"), &files_of_it);
    symlink("data", one.join("app/link")).unwrap();
    fs::create_dir(one.join("app/empty")).unwrap();
    host.succeeds(&one, &[]);
    fs::write(host.live("srv/app/edited"), "by hand").unwrap();
    fs::set_permissions(host.live("srv/app/sub"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::set_permissions(host.live("srv/app/data"), fs::Permissions::from_mode(0o600)).unwrap();
    for dir in ["srv/app/sub/deep", "srv/app/sub", "srv/app/empty", "srv/app", "srv"] {
        let old = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(host.live(dir)).unwrap().set_modified(old).unwrap();
    }
    let before = tree(&host.live("srv"));
    (host, before)
}

const VALIDATED: &str = "  ValidateService:\n    - location: fail.sh\n";

#[test]
fn whatever_a_script_has_done_to_the_old_files_is_taken_back() {
    for (event, prepare) in [
        ("BeforeInstall", "true"),
        ("AfterInstall", "true"),
        ("BeforeInstall", IN_ANOTHER_MOUNT),
        ("AfterInstall", IN_ANOTHER_MOUNT),
    ] {
        for does in [
            "rm -rf srv/app/*",
            "rm -rf srv/app",
            "rm -rf srv",
            "mv srv/app bak",
            "find srv/app -type f -delete",
            "chmod -R a+rwx srv",
            "echo 2 >srv/app/data",
            "touch srv/app/sub/deep/more",
            "rm srv/app/link && ln -s sub srv/app/link",
            "rm srv/app/edited && echo 2 >srv/app/edited && rmdir srv/app/empty",
        ] {
            let (host, before) = with_a_tree("", &[]);
            let link = host.live("srv/app/link");
            // The new revision has some of the files, or none.
            for files in ["files:\n  - source: app\n    destination: {live}/srv/app\n", ""] {
                let hooks =
                    format!("{files}hooks:\n  {event}:\n    - location: do.sh\n{VALIDATED}");
                let script = format!("#!/bin/sh\ncd {{live}}\n{does}\nrm -rf bak\n");
                let new = [("do.sh", script.as_str()), FAIL, ("app/data", "2"), ("app/new", "2")];
                let run = after_mounting(&host, prepare, &host.bundle("two", &hooks, &new), &[]);
                assert_eq!(run.code, 1, "{}", run.stderr);
                assert_eq!(run.json["failure"]["restored"], true, "{does}: {}", run.json);
                let (mut before, mut after) = (before.clone(), tree(&host.live("srv")));
                if prepare == IN_ANOTHER_MOUNT {
                    // A link that is copied has a time of its own.
                    for link in [&mut before, &mut after].map(|it| it.get_mut(&link).unwrap()) {
                        *link = link.split_once(") ").unwrap().1.to_owned();
                    }
                }
                assert_eq!(after, before, "{does} in {event}, {prepare}");
                assert!(!run.dir().join("kept").exists() && !run.dir().join("saved").exists());
            }
        }
    }
}

#[test]
fn what_the_application_has_written_meanwhile_stays() {
    for prepare in ["true", IN_ANOTHER_MOUNT] {
        let (host, _) = with_a_tree("", &[]);
        let hooks = format!("hooks:\n  BeforeInstall:\n    - location: do.sh\n{VALIDATED}");
        let script = ("do.sh", "#!/bin/sh\necho ' and more' >>{live}/srv/app/edited\n");
        let two = host.bundle("two", &hooks, &[script, FAIL]);
        let run = after_mounting(&host, prepare, &two, &[]);
        assert_eq!(run.json["failure"]["restored"], true, "{}", run.stderr);
        assert_eq!(read(host.live("srv/app/edited")), "by hand and more\n", "{prepare}");
    }
}

/// Where no second name of what is in place can be in the root directory.
const IN_ANOTHER_MOUNT: &str = "mount --bind $0/live $0/live";

#[test]
fn a_file_in_the_way_that_a_script_removes_comes_back_if_the_revision_fails() {
    let (host, _) = with_a_tree("", &[]);
    fs::create_dir(host.live("app")).unwrap();
    fs::write(host.live("app/data"), "mine").unwrap();
    let hooks = format!("{DATA}hooks:\n  BeforeInstall:\n    - location: do.sh\n{VALIDATED}");
    let script = ("do.sh", "#!/bin/sh\nrm {live}/app/data\n");
    let run = host.fails(&host.bundle("two", &hooks, &[script, FAIL, ("data", "2")]), &[]);
    assert_eq!(run.failure("event"), "ValidateService");
    assert_eq!(read(host.live("app/data")), "mine");
}

#[test]
fn what_cannot_come_back_is_not_said_to_be_back_and_the_next_deployment_says_what_to_do() {
    let (host, before) = with_a_tree("", &[]);
    let hooks = format!("hooks:\n  BeforeInstall:\n    - location: do.sh\n{VALIDATED}");
    let script = ("do.sh", "#!/bin/sh\ncd {live}/srv/app && rm data && mkdir data\n");
    let two = host.bundle("two", &hooks, &[script, FAIL]);
    let run = host.fails(&two, &[]);
    assert_eq!(run.json["failure"]["restored"], false);
    let place = host.live("srv/app/data").display().to_string();
    let problem = format!("{place}: a directory is where a file was: move it away");
    assert!(run.failure("message").contains(&problem), "{}", run.json);
    let next = host.fails(&two, &[]);
    let message = next.failure("message");
    assert!(
        message.contains(&problem) && message.contains("mend that and deploy again"),
        "{message}"
    );
    fs::remove_dir(host.live("srv/app/data")).unwrap();
    let three = host.bundle("three", &format!("hooks:\n{VALIDATED}"), &[FAIL]);
    host.fails(&three, &[]);
    assert_eq!(tree(&host.live("srv")), before);
}

#[test]
fn what_the_archive_has_lost_meanwhile_is_not_said_to_be_back() {
    for does in ["rm", "echo 2 >"] {
        let (host, _) = with_a_tree("", &[]);
        let old = host.deployments("default-local-deployment-group")[0].join("deployment-archive");
        let hooks = format!("hooks:\n  BeforeInstall:\n    - location: do.sh\n{VALIDATED}");
        let script = format!("#!/bin/sh\n{does} {}/app/data\nrm -r {{live}}/srv\n", old.display());
        let run = host.fails(&host.bundle("two", &hooks, &[("do.sh", &script), FAIL]), &[]);
        let message = run.failure("message");
        assert_eq!(run.json["failure"]["restored"], false, "{message}");
        let problem = "app/data is not what it was installed from";
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn what_still_runs_is_neither_installed_nor_started_again() {
    let hooks: String = (SCRIPTABLE.iter())
        .map(|event| format!("  {event}:\n    - location: trace.sh\n"))
        .collect();
    let trace = "#!/bin/sh\necho $LIFECYCLE_EVENT one $DEPLOYMENT_ID >>{live}/trace\n\
        test $LIFECYCLE_EVENT != BeforeInstall || rm -rf {live}/srv/app/*\n\
        test ! -e {live}/fail-$LIFECYCLE_EVENT\n";
    let (host, before) = with_a_tree(&format!("hooks:\n{hooks}"), &[("trace.sh", trace)]);
    host.trace();
    let two = host.bundle("two", "", &[]);
    let routed = "BeforeAllowTraffic one, AfterAllowTraffic one";
    for (fails, kind, expected) in [
        ("BeforeBlockTraffic", "load-balancer", routed.to_owned()),
        ("AfterBlockTraffic", "load-balancer", format!("AfterBlockTraffic one, {routed}")),
        ("ApplicationStop", "in-place", "ApplicationStart one, ValidateService one".to_owned()),
    ] {
        fs::write(host.live(&format!("fail-{fails}")), "").unwrap();
        let run = host.fails(&two, &["--lifecycle", kind]);
        fs::remove_file(host.live(&format!("fail-{fails}"))).unwrap();
        assert_eq!(run.failure("event"), fails);
        assert_eq!(run.json["failure"]["restored"], true, "{}", run.json);
        let trace = host.trace();
        let first = if fails == "AfterBlockTraffic" { "BeforeBlockTraffic" } else { fails };
        assert_eq!(trace, format!("{first} one, {expected}"), "{fails}");
        assert_eq!(tree(&host.live("srv")), before, "{fails}");
    }
}

/// A host on which `one` runs, and has nothing to do but to tell when it is stopped.
fn running() -> Host {
    running_with("ApplicationStop")
}

/// One that tells of this event instead.
fn running_with(event: &str) -> Host {
    let host = Host::new();
    host.succeeds(&host.tracing("one", &[event]), &[]);
    host.trace();
    host
}

/// The deployment has failed by this, and `one` was never told.
fn disturbed_nothing(host: &Host, run: &Run, part: &str) {
    assert_eq!((run.code, run.error_code()), (1, 5), "{}", run.stderr);
    assert_eq!(run.failure("event"), "Install");
    assert!(run.failure("message").contains(part), "{}", run.failure("message"));
    assert_eq!(run.json["failure"]["restored"], true);
    assert_eq!(host.trace(), "");
}

const DATA: &str = "files:\n  - source: data\n    destination: {live}/app\n";
const UNKNOWN_OWNER: &str =
    "permissions:\n  - object: \"{live}/app\"\n    owner: no-such-user-here\n";

#[test]
fn what_cannot_be_installed_is_found_before_anything_is_stopped() {
    let host = running();
    let two = host.bundle("two", &format!("{DATA}{UNKNOWN_OWNER}"), &[("data", "2")]);
    disturbed_nothing(&host, &host.fails(&two, &[]), "there is no user no-such-user-here");
    // What has no scripts to be stopped by would be started again if Install had failed.
    let host = running_with("ApplicationStart");
    let two = host.bundle("two", DATA, &[("data", "2")]);
    fs::create_dir(host.live("app")).unwrap();
    fs::write(host.live("app/data"), "mine").unwrap();
    let run = host.fails(&two, &[]);
    disturbed_nothing(&host, &run, "a file is in the way");
    assert!(!run.log().contains("ApplicationStop"), "{}", run.log());
    host.succeeds(&two, &["-b", "OVERWRITE"]);
}

#[test]
fn what_there_is_no_room_for_is_found_before_anything_is_stopped() {
    let host = running();
    fs::create_dir(host.live("small")).unwrap();
    let two = host.bundle("two", SMALL, &[("data", &"x".repeat(100_000))]);
    let run = on_a_file_system(&host, &two, "size=64k");
    disturbed_nothing(&host, &run, "live/small has no room: 102400 bytes");
}

#[test]
fn what_cannot_be_written_to_is_found_before_anything_is_stopped() {
    let host = running();
    fs::create_dir(host.live("small")).unwrap();
    let two = host.bundle("two", SMALL, &[("data", "2")]);
    let run = on_a_file_system(&host, &two, "ro");
    disturbed_nothing(&host, &run, "live/small is mounted read-only");
}

#[test]
fn room_that_scripts_have_taken_is_missed_before_a_file_is_changed() {
    let host = running();
    fs::create_dir(host.live("small")).unwrap();
    let hooks = "hooks:\n  BeforeInstall:\n    - location: fill.sh\n";
    let fill = ("fill.sh", "#!/bin/sh\nhead -c 50000 /dev/zero >{live}/small/fill\n");
    let files = [("data", &*"x".repeat(20_000)), fill];
    let two = host.bundle("two", &format!("{SMALL}{hooks}"), &files);
    let run = on_a_file_system(&host, &two, "size=64k");
    assert_eq!((run.code, run.failure("event")), (1, "Install"), "{}", run.stderr);
    assert!(run.failure("message").contains("live/small has no room: 20480 bytes"));
}

const SMALL: &str = "files:\n  - source: data\n    destination: {live}/small\n";

#[test]
fn room_for_copies_is_looked_for_where_a_second_name_cannot_be() {
    let host = Host::new();
    for dir in ["live/small", "root"] {
        fs::create_dir(host.path(dir)).unwrap();
    }
    let two = host.bundle("two", SMALL, &[("data", &"x".repeat(100_000))]);
    // One file system in two mounts, with room for the new file and not for a copy of the old one as well.
    let prepare = "mount -t tmpfs -o size=400k none $0/root && mkdir $0/root/app \
        && head -c 100000 /dev/zero >$0/root/app/data && mount --bind $0/root/app $0/live/small";
    let run = after_mounting(&host, prepare, &two, &["-b", "OVERWRITE"]);
    let message = run.failure("message");
    assert!(message.contains("has no room: 204800 bytes are needed"), "{message}");
}

/// Where scripts run before Install, what is in the way is copied before the first of them, and then once more.
#[test]
fn room_for_both_copies_is_looked_for_before_the_first_script() {
    let host = Host::new();
    let hooks = "hooks:\n  BeforeInstall:\n    - location: run.sh\n";
    let run = ("run.sh", "#!/bin/sh\n: >{live}/ran\n");
    let two = host.bundle("two", &format!("{SMALL}{hooks}"), &[("data", "2"), run]);
    let old = "mkdir $0/live/small && head -c 200000 /dev/zero >$0/live/small/data";
    let prepare = format!("mkdir $0/root && mount -t tmpfs -o size=400k none $0/root && {old}");
    let run = after_mounting(&host, &prepare, &two, &["-b", "OVERWRITE"]);
    let message = run.failure("message");
    assert!(message.contains("has no room: 200704 bytes are needed"), "{message}");
    assert!(!host.live("ran").exists());
}

/// Deploys where `live/small` is a file system with these options.
fn on_a_file_system(host: &Host, bundle: &Path, options: &str) -> Run {
    let prepare = format!("mount -t tmpfs -o {options} none $0/live/small");
    after_mounting(host, &prepare, bundle, &[])
}

/// Deploys where these commands, for which `$0` is the host's directory, have mounted something.
pub(super) fn after_mounting(host: &Host, prepare: &str, bundle: &Path, options: &[&str]) -> Run {
    let mut command = Command::new("unshare");
    command.args(if geteuid().is_root() { &["-m"][..] } else { &["-r", "-m"] });
    command.args(["sh", "-c", &format!("{prepare} && exec \"$@\"")]).arg(host.dir.path());
    let local = host.command(bundle, options);
    command.arg(local.get_program()).args(local.get_args());
    Run::of(command)
}

#[test]
fn what_a_script_may_mend_before_the_files_come_is_left_to_it() {
    let host = running();
    let hooks = "hooks:\n  BeforeInstall:\n    - location: mend.sh\n";
    let mend = ("mend.sh", "#!/bin/sh\nrm -f {live}/app/data\n");
    let two = host.bundle("two", &format!("{DATA}{hooks}"), &[("data", "2"), mend]);
    fs::create_dir(host.live("app")).unwrap();
    fs::write(host.live("app/data"), "mine").unwrap();
    host.succeeds(&two, &[]);
    assert_eq!(read(host.live("app/data")), "2");
    let appspec = format!("{DATA}{UNKNOWN_OWNER}{hooks}");
    let run = host.fails(&host.bundle("three", &appspec, &[("data", "3"), mend]), &[]);
    assert_eq!(run.failure("event"), "Install");
    assert!(run.log().contains("this is left to BeforeInstall"), "{}", run.log());
    assert!(host.trace().starts_with("ApplicationStop one"));
}

#[test]
fn what_the_revision_before_may_take_away_is_left_to_it() {
    let host = Host::new();
    let hooks = "hooks:\n  ApplicationStop:\n    - location: stop.sh\n  ApplicationStart:\n    \
        - location: start.sh\n";
    let stop = ("stop.sh", "#!/bin/sh\nrm -f {live}/app/socket\n");
    let start = ("start.sh", "#!/bin/sh\nmkdir -p {live}/app && echo mine >{live}/app/socket\n");
    host.succeeds(&host.bundle("one", hooks, &[stop, start]), &[]);
    let files = "files:\n  - source: socket\n    destination: {live}/app\n";
    let run = host.succeeds(&host.bundle("two", files, &[("socket", "2")]), &[]);
    assert!(run.log().contains("this is left to ApplicationStop"), "{}", run.log());
    assert_eq!(read(host.live("app/socket")), "2");
}

#[test]
fn what_the_revision_before_has_left_in_the_way_is_found_in_install_and_it_runs_again() {
    let host = Host::new();
    let one = host.tracing("one", &["ApplicationStop", "ApplicationStart"]);
    host.succeeds(&one, &[]);
    host.trace();
    fs::create_dir(host.live("app")).unwrap();
    fs::write(host.live("app/data"), "mine").unwrap();
    let run = host.fails(&host.bundle("two", DATA, &[("data", "2")]), &[]);
    assert_eq!(run.failure("event"), "Install");
    assert!(run.failure("message").contains("a file is in the way"), "{}", run.stderr);
    assert_eq!(run.json["failure"]["restored"], true);
    assert_eq!(host.trace(), "ApplicationStop one, ApplicationStart one");
    assert_eq!(read(host.live("app/data")), "mine");
}

#[test]
fn c191_a_broken_application_stop_fails_every_deployment_until_it_is_overridden() {
    let host = Host::new();
    let hooks = "hooks:\n  ApplicationStop:\n    - location: fail.sh\n";
    host.succeeds(&host.bundle("one", hooks, &[FAIL]), &[]);
    let two = host.bundle("two", "", &[]);
    for _ in 0..2 {
        let run = host.fails(&two, &[]);
        assert_eq!((run.failure("event"), run.failure("script")), ("ApplicationStop", "fail.sh"));
        assert!(run.failure("message").contains("ignore"), "{}", run.failure("message"));
    }
    host.succeeds(&two, &["--ignore-application-stop-failures"]);
    host.succeeds(&two, &[]);
}

#[test]
fn c192_a_revision_that_was_removed_by_hand_says_how_to_go_on_without_it() {
    let host = Host::new();
    let one = host.succeeds(&host.tracing("one", &["ApplicationStop"]), &[]);
    fs::remove_dir_all(one.dir()).unwrap();
    let two = host.bundle("two", "", &[]);
    // What would have to run is not known any more.
    let events = "ApplicationStop,DownloadBundle";
    let run = host.fails(&two, &["--events", events]);
    let message = run.failure("message");
    assert_eq!(run.failure("event"), "ApplicationStop");
    let path = one.dir().join("manifest").display().to_string();
    assert!(message.contains(&path) && message.contains("ignore"), "{message}");
    // With all events it is the first one that finds it out.
    let run = host.fails(&two, &[]);
    let message = run.failure("message");
    assert_eq!(run.failure("event"), "BeforeBlockTraffic");
    assert!(
        message.contains(&path) && message.contains("to go on without what it runs"),
        "{message}"
    );
    for options in [&["--events", events][..], &[]] {
        let host = Host::new();
        let one = host.succeeds(&host.tracing("one", &["ApplicationStop"]), &[]);
        fs::remove_dir_all(one.dir()).unwrap();
        let ignoring = [options, &["--ignore-application-stop-failures"]].concat();
        host.succeeds(&host.bundle("two", "", &[]), &ignoring);
    }
}

/// The tail of a failed deployment ends where the error begins.
#[test]
fn what_a_failed_script_has_printed_and_the_error_are_lines_of_their_own() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: fail.sh\n";
    let fail = ("fail.sh", "#!/bin/sh\necho gone wrong\nexit 1\n");
    let bundle = host.bundle("one", hooks, &[fail]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_swell"));
    command.args(["local", "-l"]).arg(&bundle).arg("-c").arg(host.path("agent.yml"));
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let at = lines.iter().position(|line| *line == "[stdout]gone wrong");
    let next = at.and_then(|at| lines.get(at + 1));
    assert!(next.is_some_and(|line| line.starts_with("swell: error: ")), "{said}");
}

#[test]
fn c196_an_event_that_nobody_knows_is_refused() {
    let host = Host::new();
    let hooks = "hooks:\n  NoSuchEvent:\n    - location: fail.sh\n";
    let text = host.refuses(&host.bundle("one", hooks, &[FAIL]), &[]);
    assert!(text.contains("hooks.NoSuchEvent: is no lifecycle event"), "{text}");
}

#[test]
fn c198_a_hook_of_install_is_taken_and_never_runs() {
    let host = Host::new();
    let hooks = "hooks:\n  Install:\n    - location: fail.sh\n";
    host.succeeds(&host.bundle("one", hooks, &[FAIL]), &[]);
}

#[test]
fn c175_after_a_script_that_fails_nothing_more_runs() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: fail.sh\n    - location: stop.sh\n  \
        ValidateService:\n    - location: stop.sh\n";
    let files = [FAIL, ("stop.sh", &*stop("one"))];
    let run = host.fails(&host.bundle("one", hooks, &files), &[]);
    assert_eq!((run.failure("event"), run.failure("script")), ("AfterInstall", "fail.sh"));
    assert_eq!(host.trace(), "");
}

#[test]
fn a_deployment_that_was_interrupted_is_taken_back_by_the_next() {
    let is_parent = !Path::new("/run/systemd/system").exists();
    if !shown(is_parent, "the parent of a script is its keeper here, and not the executor") {
        return;
    }
    let host = Host::new();
    let files = "files:\n  - source: data\n    destination: {live}/app\n";
    host.succeeds(&host.bundle("one", files, &[("data", "1")]), &[]);
    let events = "hooks:\n  AfterInstall:\n    - location: kill.sh\n";
    let script = "#!/bin/sh\necho $$ >{live}/left\nkill -KILL $PPID\nexec sleep 600\n";
    let two =
        host.bundle("two", &format!("{files}{events}"), &[("data", "2"), ("kill.sh", script)]);
    let run = host.deploy(&two, &[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("swell-exec has ended before the deployment"), "{}", run.stderr);
    assert_eq!(read(host.live("app/data")), "2");
    // The file of the first revision is nobody's obstacle: it is back, and the group's.
    let events = "hooks:\n  BeforeInstall:\n    - location: see.sh\n";
    let see = ("see.sh", "#!/bin/sh\ncp {live}/app/data {live}/seen\n");
    let three = host.bundle("three", &format!("{files}{events}"), &[("data", "3"), see]);
    let run = host.succeeds(&three, &[]);
    assert!(run.stderr.contains("was interrupted; its files were taken back"), "{}", run.stderr);
    assert_eq!((read(host.live("seen")), read(host.live("app/data"))), ("1".into(), "3".into()));
    assert!(hooks::is_gone(hooks::process(&host, "left")), "its script was left running");
}

#[test]
fn what_runs_runs_still_after_events_that_were_interrupted() {
    let is_parent = !Path::new("/run/systemd/system").exists();
    if !shown(is_parent, "the parent of a script is its keeper here, and not the executor") {
        return;
    }
    let host = Host::new();
    let hooks = "hooks:\n  BeforeBlockTraffic:\n    - location: kill.sh\n";
    let script = "#!/bin/sh\n[ -e {live}/killed ] && exit 1\n>{live}/killed\nkill -KILL $PPID\n";
    host.succeeds(&host.bundle("one", hooks, &[("kill.sh", script)]), &["--events", "Install"]);
    let original = ["--lifecycle", "original"];
    let run = host.deploy(&host.path("one"), &original);
    assert!(run.stderr.contains("swell-exec has ended before the deployment"), "{}", run.stderr);
    let run = host.fails(&host.path("one"), &original);
    assert_eq!(run.json["failure"]["restored"], true, "{}", run.json);
}

/// Writes the settings of an executor that serves a fleet here, and gives the file.
fn executor_of_fleet(host: &Host) -> String {
    let at = |name: &str| host.path(name).display().to_string();
    let text = format!(
        "state_dir = \"{}\"\nroot_dir = \"{}\"\nstore_dir = \"{}\"\n",
        at("fleet/state"),
        at("fleet/root"),
        at("fleet/store"),
    );
    fs::create_dir_all(host.path("fleet/state")).unwrap();
    fs::write(host.path("swell-exec.toml"), text).unwrap();
    at("swell-exec.toml")
}

#[test]
fn a_deployment_waits_for_the_fleets_to_end() {
    let host = Host::new();
    let settings = executor_of_fleet(&host);
    let options = ["--executor-configuration-file", settings.as_str()];
    let lock = host.path("fleet/state/lock");
    fs::write(&lock, "deployment d-1 of group web by its fleet").unwrap();
    let held = Flock::lock(fs::File::open(&lock).unwrap(), FlockArg::LockShared).unwrap();
    let mut command = host.command(&host.bundle("one", "", &[]), &options);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("waiting for deployment d-1 of group web by its fleet to end"), "{said}");
    drop(held);
    assert!(child.wait().unwrap().success());
    assert!(read(lock).contains("by swell local"));
}

#[test]
fn the_places_of_a_fleet_are_left_alone_though_it_never_deployed() {
    let host = Host::new();
    let settings = executor_of_fleet(&host);
    let bundle = host.bundle("one", "", &[]);
    for root in ["fleet/root", "fleet/state/x", "fleet/store", "fleet"] {
        fs::create_dir_all(host.path(root)).unwrap();
        fs::write(host.path("agent.yml"), format!("root_dir: {}\n", host.path(root).display()))
            .unwrap();
        let text = host.refuses(&bundle, &["--executor-configuration-file", &settings]);
        assert!(text.contains("is where deployments of a fleet are"), "{text}");
    }
    fs::write(host.path("swell-exec.toml"), "root = 1").unwrap();
    let text = host.refuses(&bundle, &["--executor-configuration-file", &settings]);
    assert!(text.contains("swell-exec.toml:1:1: root: unknown field"), "{text}");
}

#[test]
fn who_interrupts_leaves_a_deployment_that_ends_by_itself_and_nothing_behind() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: wait.sh\n";
    let script = "#!/bin/sh\nread -r go <{live}/gate\n";
    let one = host.bundle("one", &format!("{DATA}{hooks}"), &[("data", "1"), ("wait.sh", script)]);
    mkfifo(&host.live("gate"), Mode::S_IRWXU).unwrap();
    // What was left by those who were ended otherwise; one of them is still at work.
    let incoming = host.path("root/deployment-instructions/incoming");
    let [left, busy] = ["left", "busy"].map(|name| incoming.join(name));
    // And a group, whose id can be any.
    let group = host.path("root/incoming-web");
    for dir in [&left, &busy, &group] {
        fs::create_dir_all(dir.join("frames")).unwrap();
    }
    let held = Flock::lock(fs::File::open(&busy).unwrap(), FlockArg::LockShared).unwrap();
    let mut child = host.command(&one, &[]).stdout(Stdio::null()).spawn().unwrap();
    let mut gate = fs::File::options().write(true).open(host.live("gate")).unwrap();
    assert!(!left.exists() && busy.exists() && group.exists());
    drop(held);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(!child.wait().unwrap().success());
    gate.write_all(b"go\n").unwrap();
    // The next one waits for its end, and finds it done.
    let two = host.bundle("two", "", &[]);
    let run = host.succeeds(&two, &["--deployment-group", "other"]);
    assert!(!run.stderr.contains("was interrupted"), "{}", run.stderr);
    let run = host.succeeds(&host.bundle("three", DATA, &[("data", "3")]), &[]);
    assert!(!run.stderr.contains("was interrupted"), "{}", run.stderr);
    assert_eq!(read(host.live("app/data")), "3");
    let left: Vec<_> = fs::read_dir(incoming).unwrap().map(Result::unwrap).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_deployment_waits_for_another_one_to_end() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: wait.sh\n";
    let script = "#!/bin/sh\nread -r go <{live}/gate\necho first >>{live}/order\n";
    let first = host.bundle("one", hooks, &[("wait.sh", script)]);
    let second = "#!/bin/sh\necho second >>{live}/order\n";
    let second = host.bundle("two", hooks, &[("wait.sh", second)]);
    mkfifo(&host.live("gate"), Mode::S_IRWXU).unwrap();
    let mut first = host.command(&first, &[]);
    let mut first = first.stdout(Stdio::null()).spawn().unwrap();
    // Its script has begun once somebody reads here.
    let mut gate = fs::File::options().write(true).open(host.live("gate")).unwrap();
    let mut second = host.command(&second, &["--deployment-group", "other"]);
    let mut second = second.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(second.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let holder = "the deployment of group default-local-deployment-group by swell local, process ";
    assert!(said.contains(&format!("waiting for {holder}")), "{said}");
    gate.write_all(b"go\n").unwrap();
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    assert_eq!(read(host.live("order")), "first\nsecond\n");
}

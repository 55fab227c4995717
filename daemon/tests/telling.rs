//! What people are told, by real fleets of real processes: where a host looks for others, who makes no
//! progress and why, what the journal has, how a command ends.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use groundswell_daemon::{
    control::api,
    scratch::{Event, Fleet, Programs, Shop},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Fleets one after the other: each is a dozen processes.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(120);

fn fleet(dir: &Path, hosts: usize) -> Fleet {
    let programs = Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap());
    Fleet::new(dir, hosts, programs).unwrap()
}

/// A fleet that has found itself, with release 1.0.0 on every host.
async fn running(dir: &Path, hosts: usize) -> Fleet {
    let mut fleet = fleet(dir, hosts);
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.apply_group("OneAtATime", 0).unwrap();
    release(&fleet, "1.0.0");
    let id = fleet.deploy(fleet.last(), "1.0.0", &["--configuration", "AllAtOnce"]).unwrap();
    succeeds(&fleet, &id).await;
    fleet
}

fn release(fleet: &Fleet, version: &str) {
    let dir = fleet.dir().join(format!("shop-{version}"));
    Shop::new(version).write(&dir).unwrap();
    fleet.push(fleet.last(), &dir, version).unwrap();
}

async fn succeeds(fleet: &Fleet, id: &str) {
    let report = fleet.wait_over(0, id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "succeeded", "{report:?}");
}

/// Runs `swell` on the first host; its exit code, its output and its errors.
fn swell(fleet: &Fleet, arguments: &[&str]) -> (i32, String, String) {
    ended(fleet.swell_command(0, arguments).stdin(Stdio::null()).output().unwrap())
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The row of a table that is about a host; this one's own has a star before it.
fn row<'a>(said: &'a str, host: &str) -> &'a str {
    let is_it = |line: &&str| line.trim_start_matches(['*', ' ']).starts_with(host);
    said.lines().find(is_it).unwrap_or_else(|| panic!("no row of {host}: {said}"))
}

/// Joins a host by the token in the file `token`, with more arguments.
fn join(fleet: &Fleet, index: usize, more: &[&str]) {
    let host = &fleet.hosts()[index];
    let [token, settings, executor] =
        [fleet.dir().join("token"), host.settings("swelld.toml"), host.dir().join("exec")]
            .map(|path| path.display().to_string());
    let arguments = ["join", &token, "--name", &host.name, "--config", &settings];
    let rest = [&["--executor-state", &executor], more].concat();
    fleet.run(&fleet.programs().swell, &[&arguments[..], &rest].concat()).unwrap();
}

fn start(fleet: &mut Fleet, index: usize) {
    fleet.start_executor(index).unwrap();
    fleet.start_daemon(index).unwrap();
}

/// Waits until a host's log has a line with all of these words.
async fn logged(fleet: &Fleet, index: usize, words: &[&str]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(fleet.log(index, "swelld")).unwrap();
        if text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
            return;
        }
        assert!(Instant::now() < end, "no line with {words:?} in:\n{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn seeds_may_be_names_and_are_looked_up_when_they_are_dialled() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = fleet(dir.path(), 3);
    fleet.found().unwrap();
    let address = fleet.hosts()[0].address();
    let port = address.rsplit('/').next().unwrap();
    join(&fleet, 0, &[]);
    join(&fleet, 1, &["--seed", &format!("localhost:{port}")]);
    join(&fleet, 2, &["--seed", &format!("/dns4/localhost/tcp/{port}"), "--seed", "127.0.0.1:1"]);
    for index in 0..3 {
        start(&mut fleet, index);
    }
    fleet.wait_complete(PATIENCE).await.unwrap();
    let seeds = fs::read_to_string(fleet.hosts()[1].dir().join("state/seeds")).unwrap();
    assert_eq!(seeds, format!("/dns/localhost/tcp/{port}"), "the name is kept, not an address");
}

#[tokio::test]
async fn a_host_that_finds_nobody_says_where_it_looks_and_what_came_of_it() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = fleet(dir.path(), 3);
    fleet.found().unwrap();
    for index in 0..2 {
        join(&fleet, index, &[]);
        start(&mut fleet, index);
    }
    join(&fleet, 2, &["--seed", "no-such-host.invalid:7717", "--seed", "127.0.0.1:1"]);
    start(&mut fleet, 2);
    let failed = |fleet: &api::Fleet| {
        fleet.seeds.len() == 2 && fleet.seeds.iter().all(|seed| seed.error.is_some())
    };
    fleet.wait_for(2, "both seeds were tried", PATIENCE, failed).await.unwrap();
    let said = fleet.swell(2, &["status"]).unwrap();
    assert!(
        said.contains("this host is connected to no other; it looks for the fleet at"),
        "{said}"
    );
    assert!(said.contains("/ip4/127.0.0.1/tcp/1: Connection refused"), "{said}");
    let name = "/dns/no-such-host.invalid/tcp/7717: the name no-such-host.invalid does not resolve";
    assert!(said.contains(name), "{said}");
    let words = ["no connection to a seed", "no-such-host.invalid", "does not resolve"];
    logged(&fleet, 2, &words).await;
    // A seed in the settings leads it home; what came with the token is tried on.
    fleet.kill_daemon(2);
    let path = fleet.hosts()[2].settings("swelld.toml");
    let address = fleet.hosts()[0].address();
    let port = address.rsplit('/').next().unwrap();
    let more = format!("seeds = [\"localhost:{port}\"]\n");
    fs::write(&path, fs::read_to_string(&path).unwrap() + &more).unwrap();
    fleet.start_daemon(2).unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    let said = fleet.swell(2, &["status"]).unwrap();
    assert!(!said.contains("looks for the fleet"), "{said}");
}

#[tokio::test]
async fn a_stopped_executor_is_named_on_every_host_with_since_when() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 3).await;
    fleet.kill_executor(1);
    let names_it = |fleet: &api::Fleet| {
        let host = fleet.hosts.iter().find(|host| host.name == "web-2").unwrap();
        host.standing == "reachable" && host.groups[0].state == "no executor"
    };
    for index in 0..3 {
        fleet.wait_for(index, "web-2 has no executor", PATIENCE, names_it).await.unwrap();
    }
    logged(&fleet, 1, &["swell-exec does not answer"]).await;
    release(&fleet, "1.1.0");
    let id = fleet.deploy(0, "1.1.0", &[]).unwrap();
    let waits = |report: &api::Report| {
        let waiting = report.summary.waiting.as_deref().unwrap_or_default();
        report.summary.succeeded == 2 && waiting.contains("web-2: swell-exec does not answer there")
    };
    for index in [0, 2] {
        fleet.wait_deployment(index, &id, PATIENCE, waits).await.unwrap();
        let said = fleet.swell(index, &["show", &id]).unwrap();
        let line = row(&said, "web-2");
        assert!(line.contains("swell-exec does not answer there, for "), "{said}");
        let said = fleet.swell(index, &["status"]).unwrap();
        let line = row(&said, "web-2");
        assert!(line.contains("swell-exec does not answer, for "), "{said}");
    }
    fleet.start_executor(1).unwrap();
    succeeds(&fleet, &id).await;
    logged(&fleet, 1, &["swell-exec answers"]).await;
}

#[tokio::test]
async fn the_journal_has_a_line_for_what_operators_want_to_know() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 5).await;
    release(&fleet, "1.1.0");
    let id = fleet.deploy(0, "1.1.0", &[]).unwrap();
    succeeds(&fleet, &id).await;
    // On a voter and on a host that follows.
    for index in [0, 4] {
        for words in [
            &["group web is at version 1"][..],
            &["release shop 1.1.0", "was taken"],
            &["group web: order 2 was taken"],
            &["web-3 was granted slot", &id],
            &["web-3 gave slot", &id, "it succeeded"],
            &["group web: 1.1.0: ValidateService begins"],
            &["group web: 1.1.0: ValidateService ended"],
            &["group web: 1.1.0: the lifecycle ended well"],
            &[&id, "web to 1.1.0: succeeded, 5 of 5 hosts"],
            &["consensus:", "leads"],
        ] {
            logged(&fleet, index, words).await;
        }
    }
    fleet.kill_daemon(3);
    for index in [0, 4] {
        logged(&fleet, index, &["web-4 is unreachable: silent for"]).await;
    }
    fleet.start_daemon(3).unwrap();
    for index in [0, 4] {
        logged(&fleet, index, &["web-4 is back after"]).await;
    }
    // A restart tells nothing of what was told before it.
    let log = fs::read_to_string(fleet.log(3, "swelld")).unwrap();
    assert_eq!(log.matches("web-3 was granted slot").count(), 2, "{log}");
}

#[tokio::test]
async fn a_new_host_is_told_of_by_name() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = fleet(dir.path(), 4);
    fleet.found().unwrap();
    for index in 0..3 {
        fleet.join(index, "token").unwrap();
        start(&mut fleet, index);
    }
    let all_in = |fleet: &api::Fleet| fleet.joined && fleet.hosts.len() == 3;
    fleet.wait_for(0, "three hosts", PATIENCE, all_in).await.unwrap();
    fs::write(
        dir.path().join("web.toml"),
        "name = \"web\"\napplication = \"shop\"\nconfiguration = \"AllAtOnce\"\n\
         minimum_healthy_seconds = 0\ndeploy_to_new_hosts = false\ncatch_up = false\n",
    )
    .unwrap();
    let path = dir.path().join("web.toml").display().to_string();
    fleet.swell(0, &["group", "apply", &path, "--key", &fleet.operator_key()]).unwrap();
    let shop = dir.path().join("shop");
    Shop::new("1.0.0").write(&shop).unwrap();
    fleet.push(0, &shop, "1.0.0").unwrap();
    let id = fleet.deploy(0, "1.0.0", &[]).unwrap();
    succeeds(&fleet, &id).await;
    fleet.join(3, "token").unwrap();
    start(&mut fleet, 3);
    fleet.wait_complete(PATIENCE).await.unwrap();
    logged(&fleet, 0, &["web-4 was admitted to the fleet"]).await;
    // It is idle, and nobody should take it for one that runs the release.
    let idle = |fleet: &api::Fleet| {
        let host = fleet.hosts.iter().find(|host| host.name == "web-4").unwrap();
        host.groups.first().is_some_and(|group| group.state == "idle")
    };
    let seen = fleet.wait_for(0, "an idle host", PATIENCE, idle).await.unwrap();
    let runs = |name: &str| {
        let host = seen.hosts.iter().find(|host| host.name == name).unwrap();
        host.groups[0].runs.clone()
    };
    assert_eq!(runs("web-1").as_deref(), Some("last good"));
    assert_eq!(runs("web-4").as_deref(), Some("none"));
    let said = fleet.swell(0, &["status"]).unwrap();
    let line = row(&said, "web-4");
    assert!(line.split_whitespace().any(|word| word == "none"), "{said}");
}

#[tokio::test]
async fn whoever_stops_or_leaves_a_deployment_is_told_what_becomes_of_it() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    let key = fleet.operator_key();
    release(&fleet, "1.1.0");
    for host in fleet.hosts() {
        fs::write(host.dir().join("hold-BeforeInstall"), "").unwrap();
    }
    let watched = fleet
        .swell_command(0, &["deploy", "web", "1.1.0", "--key", &key])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = || {
        let last = fleet.hosts().iter().filter_map(|host| Event::read(host.dir()).pop());
        last.into_iter().any(|last| last.version == "1.1.0")
    };
    let end = Instant::now() + PATIENCE;
    while !begun() {
        assert!(Instant::now() < end, "nobody began");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kill(Pid::from_raw(i32::try_from(watched.id()).unwrap()), Signal::SIGINT).unwrap();
    let (code, out, errors) = ended(watched.wait_with_output().unwrap());
    assert_eq!(code, 130, "{out}{errors}");
    let id = out.split_whitespace().next().unwrap().to_owned();
    assert!(errors.contains(&format!("{id} goes on without being watched")), "{errors}");
    assert!(errors.contains(&format!("swell show {id}")), "{errors}");
    assert!(errors.contains(&format!("swell stop {id}")), "{errors}");

    let stop = ["stop", &id, "--reason", "the till is closed", "--key", &key];
    assert_eq!(swell(&fleet, &stop).0, 0);
    for host in fleet.hosts() {
        fs::remove_file(host.dir().join("hold-BeforeInstall")).unwrap();
    }
    fleet.wait_over(0, &id, PATIENCE).await.unwrap();
    let said = fleet.swell(0, &["show", &id]).unwrap();
    let line = said.lines().find(|line| line.starts_with("stop ordered")).unwrap();
    assert!(line.ends_with("Z: the till is closed"), "{said}");

    // There is nothing left to stop, by whatever way the order comes.
    let (code, out, errors) = swell(&fleet, &stop);
    assert_eq!((code, out.as_str()), (6, ""), "{errors}");
    let says = format!("{id} (web to 1.1.0) has ended already: it was stopped at ");
    assert!(errors.contains(&says), "{errors}");
    let order = fleet.client(0).report(&id).await.unwrap().order;
    let [state, file] =
        ["state.json", "stop"].map(|name| dir.path().join(name).display().to_string());
    fs::write(&state, fleet.swell(0, &["--json", "status"]).unwrap()).unwrap();
    let keys = fleet.keys().display().to_string();
    let arguments = [
        "order",
        "stop",
        "--keys",
        &keys,
        "--group",
        "web",
        "--fleet-state",
        &state,
        "--order",
        &order,
        "--out",
        &file,
    ];
    fleet.run(&fleet.programs().swell_sign, &arguments).unwrap();
    let before = fleet.client(0).fleet().await.unwrap().groups[0].sequence;
    let (code, _, errors) = swell(&fleet, &["stop", "--order", &file]);
    assert!(code == 6 && errors.contains(&says), "{code}: {errors}");
    let after = fleet.client(0).fleet().await.unwrap().groups[0].sequence;
    assert_eq!(before, after, "the order took no place in the chain");
}

#[tokio::test]
async fn a_host_that_failed_among_many_is_pointed_to_and_marked() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    release(&fleet, "1.1.0");
    fs::write(fleet.hosts()[2].dir().join("broken-1.1.0"), "").unwrap();
    let key = fleet.operator_key();
    let deploy = ["deploy", "web", "1.1.0", "--configuration", "AllAtOnce", "--key", &key];
    let (_, out, errors) = swell(&fleet, &deploy);
    let id = out.split_whitespace().next().unwrap_or_else(|| panic!("no deployment: {errors}"));
    let points = format!("failed on web-3: see `swell show {id}`");
    assert!(out.contains(&points), "{out}{errors}");
    // What it runs is not what the group's last good release is.
    let told = |fleet: &api::Fleet| {
        let runs = fleet.hosts.iter().map(|host| host.groups[0].runs.as_deref());
        runs.eq([Some("last good"), Some("last good"), Some("older")])
    };
    fleet.wait_for(0, "what each host runs", PATIENCE, told).await.unwrap();
    let said = fleet.swell(0, &["status"]).unwrap();
    let line = row(&said, "web-3");
    assert!(line.contains("1.0.0 (older)"), "{said}");
    let said = fleet.swell(0, &["releases", "shop"]).unwrap();
    let line = |label: &str| said.lines().find(|line| line.contains(label)).unwrap();
    assert!(line("1.1.0").contains("web-1, web-2") && line("1.0.0").contains("web-3"), "{said}");
    let json = fleet.swell(0, &["--json", "releases"]).unwrap();
    let releases: Vec<api::Released> = serde_json::from_str(&json).unwrap();
    assert_eq!(releases[0].release.label, "1.1.0", "newest first: {json}");
    assert_eq!(releases[0].last_good_of, ["web"]);
    let revision = &releases[0].release.revision;
    assert!(line("1.1.0").contains(&revision[..8]), "{said}");
    let (code, _, errors) = swell(&fleet, &["releases", "till"]);
    assert!(code == 1 && errors.contains("there are releases of: shop"), "{errors}");
}

#[tokio::test]
async fn a_group_is_signed_anywhere_and_applied_once() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = fleet(dir.path(), 1);
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let [toml, state, keys] = ["web.toml", "state.json", "keys"].map(path);
    let text = "name = \"web\"\napplication = \"shop\"\nconfiguration = \"AllAtOnce\"\n";
    fs::write(&toml, text).unwrap();
    fs::write(&state, fleet.swell(0, &["--json", "status"]).unwrap()).unwrap();
    let sign = |out: &str| {
        let place = ["--keys", &keys, "--fleet-state", &state, "--out", out];
        fleet.run(&fleet.programs().swell_sign, &[&["group", &toml], &place[..]].concat()).unwrap()
    };
    let first = path("first.group");
    assert!(sign(&first).contains("group web version 1"));
    let said = fleet.swell(0, &["group", "apply", &first]).unwrap();
    assert!(said.contains("group web is at version 1"), "{said}");
    let said = fleet.swell(0, &["group", "apply", &first]).unwrap();
    assert!(said.contains("group web is unchanged, at version 1"), "{said}");
    // The same file once more needs no key and changes nothing, in either form.
    let said = fleet.swell(0, &["group", "apply", &toml]).unwrap();
    assert!(said.contains("group web is unchanged, at version 1"), "{said}");
    let said = fleet.swell(0, &["--json", "group", "apply", &toml]).unwrap();
    let applied: api::Applied = serde_json::from_str(&said).unwrap();
    assert!(!applied.changed && applied.version == 1, "{said}");
    // A change is one, and follows what the fleet has.
    fs::write(&toml, text.to_owned() + "failure_budget = 2\n").unwrap();
    fs::write(&state, fleet.swell(0, &["--json", "status"]).unwrap()).unwrap();
    let second = path("second.group");
    assert!(sign(&second).contains("group web version 2"));
    fleet.swell(0, &["group", "apply", &second]).unwrap();
    let seen = fleet.client(0).fleet().await.unwrap();
    assert_eq!((seen.groups[0].version, seen.groups[0].failure_budget), (2, Some(2)));
    let (code, _, errors) = swell(&fleet, &["group", "apply", &first]);
    assert!(code == 1 && errors.contains("is at version 1 where 3 comes next"), "{errors}");
}

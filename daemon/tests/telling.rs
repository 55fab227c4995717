//! What people are told, by real fleets of real processes: where a host looks for others, who makes no
//! progress and why, what the journal has, how a command ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Output, Stdio},
    sync::mpsc,
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
            &["web-3", &id, "it succeeded"],
            &["group web: 1.1.0: ValidateService begins"],
            &["group web: 1.1.0: ValidateService ended"],
            &["group web: 1.1.0: the lifecycle ended well"],
            &[&id, "web to 1.1.0: succeeded, 5 of 5 hosts"],
            &["consensus:", "leads"],
        ] {
            logged(&fleet, index, words).await;
        }
    }
    // Who follows may hear of both at once.
    for words in [&["web-3 was granted slot", &id][..], &["web-3 gave slot", &id]] {
        logged(&fleet, 0, words).await;
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
    let ended = |line: &&str| line.contains("web-3") && line.contains("it succeeded");
    assert_eq!(log.lines().filter(ended).count(), 2, "{log}");
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
    let (code, out, errors) = swell(&fleet, &deploy);
    let id = out.split_whitespace().next().unwrap_or_else(|| panic!("no deployment: {errors}"));
    let points = format!("failed on web-3: see `swell show {id}`");
    assert!(out.contains(&points), "{out}{errors}");
    let said = fleet.swell(0, &["show", id]).unwrap();
    assert!(said.contains(&format!("all of it: swell logs {id} --host web-3")), "{said}");
    // Whoever follows to the end is told how it ended, as whoever deployed it was.
    let (followed, out, errors) = swell(&fleet, &["logs", id, "--follow"]);
    assert_eq!(followed, code, "{errors}");
    assert!(row(&out, "web-3  ValidateService  ").contains("LifecycleEvent"), "{out}");
    assert!(out.contains("[stderr]GET /health: 500"), "{out}");
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

/// The bytes of a deployment's log on a host, as `swell` prints them on another one.
fn log_read(fleet: &Fleet, from: usize, id: &str, host: &str) -> Vec<u8> {
    let said = fleet.swell(from, &["--json", "logs", id, "--host", host]).unwrap();
    let mut bytes = Vec::new();
    for line in said.lines() {
        let line: api::LogLine = serde_json::from_str(line).unwrap();
        assert_eq!((line.deployment.as_str(), line.host.as_str()), (id, host));
        let hex = |digits: String| data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap();
        bytes.extend(line.bytes.map_or_else(|| line.text.into_bytes(), hex));
        bytes.extend(line.ends.then_some(b'\n'));
    }
    bytes
}

fn log_written(fleet: &Fleet, index: usize, id: &str) -> Vec<u8> {
    let dir = fleet.hosts()[index].dir().join("deployment-root/web").join(id);
    fs::read(dir.join("logs/scripts.log")).unwrap()
}

#[tokio::test]
async fn what_scripts_write_is_read_on_other_hosts_while_they_run() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    let shop = dir.path().join("shop-1.1.0");
    Shop::new("1.1.0").write(&shop).unwrap();
    // What would clear the screen and is no text, and a line longer than is handed on in one piece.
    let noise = "printf 'hostile \\033[2J\\377\\n'; head -c 200000 /dev/zero | tr '\\0' x; echo\n";
    let script = shop.join("scripts/hook.sh");
    let text = fs::read_to_string(&script).unwrap();
    fs::write(&script, text.replace("set -eu\n", &format!("set -eu\n{noise}"))).unwrap();
    fleet.push(2, &shop, "1.1.0").unwrap();
    for host in fleet.hosts() {
        fs::write(host.dir().join("hold-BeforeInstall"), "").unwrap();
    }
    let id = fleet.deploy(0, "1.1.0", &[]).unwrap();
    let at_work = |report: &api::Report| report.summary.in_progress == 1;
    let report = fleet.wait_deployment(0, &id, PATIENCE, at_work).await.unwrap();
    let first = report.targets.iter().find(|target| target.status == "in progress").unwrap();
    let first = fleet.index_of(&first.host).unwrap();
    let follow = || {
        let mut command = fleet.swell_command((first + 1) % 3, &["logs", &id, "--follow"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut follower = follow();
    let (lines_in, lines) = mpsc::channel();
    let said = BufReader::new(follower.stdout.take().unwrap());
    std::thread::spawn(move || said.lines().try_for_each(|line| lines_in.send(line.unwrap())));
    let prefix = format!("{}  BeforeInstall     ", fleet.hosts()[first].name);
    let seen = loop {
        let line = lines.recv_timeout(PATIENCE).expect("a line of the script that waits");
        if line.contains("hostile") {
            break line;
        }
    };
    assert!(seen.starts_with(&prefix), "{seen}");
    assert!(seen.ends_with("[stdout]hostile \\u{1b}[2J\\xff"), "{seen}");
    // Whoever has seen enough is not kept.
    let mut impatient = follow();
    BufReader::new(impatient.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    kill(Pid::from_raw(i32::try_from(impatient.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(ended(impatient.wait_with_output().unwrap()).0, 130);
    // The script that has written it waits for this.
    for host in fleet.hosts() {
        fs::remove_file(host.dir().join("hold-BeforeInstall")).unwrap();
    }
    let rest: Vec<_> = lines.iter().collect();
    let (code, _, errors) = ended(follower.wait_with_output().unwrap());
    assert!(code == 0 && errors.contains("succeeded, 3 of 3 hosts"), "{code}: {errors}");
    for (index, host) in fleet.hosts().iter().enumerate() {
        let written = log_written(&fleet, index, &id);
        assert!(written.len() > 800_000, "{} bytes", written.len());
        assert!(log_read(&fleet, (index + 1) % 3, &id, &host.name) == written, "{}", host.name);
        assert!(log_read(&fleet, index, &id, &host.name) == written, "{} itself", host.name);
        let last = format!("{}  ValidateService   ", host.name);
        assert!(rest.iter().any(|line| line.starts_with(&last) && line.ends_with("200 OK")));
        // No line is missing; one that is cut where another host's comes has its host before it again.
        let of_it = rest.iter().filter(|line| line.starts_with(&host.name)).count();
        let lines = written.iter().filter(|byte| **byte == b'\n').count();
        assert!(index == first || of_it >= lines, "{of_it} of {lines} lines of {}", host.name);
    }
    // What is not there is told of as elsewhere.
    let unknown = "d-AAAAAAAAA";
    assert_eq!(swell(&fleet, &["logs", unknown]), swell(&fleet, &["show", unknown]));
    let (code, out, errors) = swell(&fleet, &["logs", &id, "--host", "web-9"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(errors.contains("it is for: web-1, web-2, web-3"), "{errors}");
}

#[tokio::test]
async fn logs_name_who_cannot_be_read_and_are_for_members() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 4).await;
    let id = fleet.client(0).deployments().await.unwrap()[0].id.clone();
    // Just now, before the fleet has found it out, and when it has.
    fleet.kill_daemon(2);
    let names_it = |fleet: &Fleet| {
        let (code, out, errors) = swell(fleet, &["logs", &id]);
        assert!(code == 1 && errors.contains("web-3 was not read to the end: "), "{errors}");
        assert!(errors.contains(&format!("swell logs {id} --host web-3")), "{errors}");
        for host in ["web-1", "web-2", "web-4"] {
            assert!(row(&out, &format!("{host}  ValidateService")).contains("LifecycleEvent"));
        }
        assert!(!out.contains("web-3"), "{out}");
        errors
    };
    names_it(&fleet);
    let standing = |fleet: &api::Fleet, name: &str| {
        fleet.hosts.iter().find(|host| host.name == name).map(|host| host.standing.clone())
    };
    let gone = |fleet: &api::Fleet| standing(fleet, "web-3").as_deref() == Some("unreachable");
    fleet.wait_for(0, "web-3 unreachable", PATIENCE, gone).await.unwrap();
    assert!(names_it(&fleet).contains("it is unreachable"));
    fleet.start_daemon(2).unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    assert!(log_read(&fleet, 0, &id, "web-3") == log_written(&fleet, 2, &id));
    // An executor that is away is somebody else's trouble than a host that is.
    fleet.kill_executor(1);
    let (code, _, errors) = swell(&fleet, &["logs", &id, "--host", "web-2"]);
    assert!(code == 1 && errors.contains("swell-exec at "), "{errors}");

    // Who was removed reads nothing any more, though nobody has told it so.
    assert!(log_read(&fleet, 3, &id, "web-1") == log_written(&fleet, 0, &id));
    let key = fleet.operator_key();
    fleet.swell(0, &["hosts", "remove", "web-4", "--key", &key]).unwrap();
    let gone = |fleet: &api::Fleet| standing(fleet, "web-4").is_none();
    fleet.wait_for(0, "a fleet without web-4", PATIENCE, gone).await.unwrap();
    let arguments = ["logs", &id, "--host", "web-1"];
    let refused = fleet.swell_command(3, &arguments).stdin(Stdio::null()).output().unwrap();
    let (code, out, errors) = ended(refused);
    assert_eq!((code, out.as_str()), (1, ""), "{errors}");
    assert!(errors.contains("web-1 was not read to the end: "), "{errors}");
    // Its connections are closed in a moment, and it is not let in again.
    let why =
        ["whoever asks is no member of the fleet", "the key of web-4 was removed from the fleet"];
    assert!(why.iter().any(|why| errors.contains(why)), "{errors}");
}

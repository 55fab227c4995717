//! Whole fleets of real processes: what must hold when hosts die, releases fail and operators stop.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use groundswell_daemon::scratch::{Event, Fleet, Programs, Shop, downtimes};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Fleets one after the other: each is a dozen processes, and the tests measure time.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(90);

fn programs() -> Programs {
    Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap())
}

/// A fleet that has found itself, with its group and release 1.0.0 on every host.
async fn running(dir: &Path, hosts: usize) -> Fleet {
    let mut fleet = Fleet::new(dir, hosts, programs()).unwrap();
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.apply_group("OneAtATime", 0).unwrap();
    release(&fleet, &Shop::new("1.0.0"));
    let last = fleet.last();
    let id = fleet.deploy(last, "1.0.0", &["--configuration", "AllAtOnce"]).unwrap();
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "succeeded", "{report:?}");
    assert_eq!(versions(&fleet), vec!["1.0.0"; hosts]);
    fleet
}

fn release(fleet: &Fleet, shop: &Shop) -> PathBuf {
    let dir = fleet.dir().join(format!("shop-{}", shop.version));
    shop.write(&dir).unwrap();
    fleet.push(fleet.last(), &dir, &shop.version).unwrap()
}

fn versions(fleet: &Fleet) -> Vec<String> {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    fleet.hosts().iter().map(|host| read(Shop::version_file(&host.live()))).collect()
}

/// Waits for something on this machine, looking often.
async fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_demo_holds_what_it_claims() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_swell"))
        .env_remove("CARGO")
        .args(["--json", "demo", "--dir"])
        .arg(dir.path().join("d"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let claims = events.iter().filter(|event| event["event"] == "claim").count();
    assert_eq!(claims, 10, "{text}");
    assert!(!dir.path().join("d").exists(), "it cleans up");
}

#[tokio::test]
async fn a_host_killed_in_any_lifecycle_event_goes_on_by_itself() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 3).await;
    let victim = 1;
    let events = [
        "ApplicationStop",
        "BeforeInstall",
        "Install",
        "AfterInstall",
        "ApplicationStart",
        "ValidateService",
    ];
    for (number, event) in events.into_iter().enumerate() {
        let version = format!("2.{number}.0");
        let mut shop = Shop::new(&version);
        // Copying this takes long enough to be met in the middle.
        shop.data_bytes = if event == "Install" { 60_000_000 } else { 1000 };
        release(&fleet, &shop);
        let host = fleet.hosts()[victim].dir().to_path_buf();
        let hold = host.join(format!("hold-{event}"));
        std::fs::write(&hold, "").unwrap();
        let last = fleet.last();
        let id = fleet.deploy(last, &version, &[]).unwrap();
        if event == "Install" {
            let shop_dir = fleet.hosts()[victim].live().join("srv/shop");
            until("a file on its way", || {
                std::fs::read_dir(&shop_dir)
                    .unwrap()
                    .flatten()
                    .any(|entry| entry.file_name().to_string_lossy().starts_with(".swell-"))
            })
            .await;
        } else {
            until(event, || Event::read(&host).last().is_some_and(|last| last.name == event)).await;
        }
        fleet.kill_executor(victim);
        fleet.kill_daemon(victim);
        std::fs::remove_file(&hold).unwrap();
        fleet.start_executor(victim).unwrap();
        fleet.start_daemon(victim).unwrap();
        let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
        assert_eq!(report.summary.status, "succeeded", "killed in {event}: {report:?}");
        assert_eq!(versions(&fleet), vec![version; 3], "killed in {event}");
    }
}

#[tokio::test]
async fn either_process_of_a_host_may_die_alone() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 3).await;
    let victim = 1;
    let mut number = 0;
    for event in ["ApplicationStop", "AfterInstall", "ValidateService"] {
        for daemon in [true, false] {
            number += 1;
            let version = format!("3.{number}.0");
            release(&fleet, &Shop::new(&version));
            let host = fleet.hosts()[victim].dir().to_path_buf();
            let hold = host.join(format!("hold-{event}"));
            std::fs::write(&hold, "").unwrap();
            let last = fleet.last();
            let runs = || Event::read(&host).iter().filter(|e| e.name == event).count();
            let before = runs();
            let id = fleet.deploy(last, &version, &[]).unwrap();
            until(event, || runs() > before).await;
            if daemon {
                fleet.kill_daemon(victim);
                fleet.start_daemon(victim).unwrap();
            } else {
                fleet.kill_executor(victim);
                fleet.start_executor(victim).unwrap();
            }
            std::fs::remove_file(&hold).unwrap();
            let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
            let who = if daemon { "swelld" } else { "swell-exec" };
            assert_eq!(report.summary.status, "succeeded", "{who} died in {event}: {report:?}");
            assert_eq!(versions(&fleet), vec![version; 3], "{who} died in {event}");
        }
    }
}

#[tokio::test]
async fn a_host_killed_while_it_goes_back_goes_on_going_back() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 3).await;
    release(&fleet, &Shop { broken: true, ..Shop::new("1.1.0") });
    for host in fleet.hosts() {
        std::fs::write(host.dir().join("hold-ValidateService"), "").unwrap();
    }
    let last = fleet.last();
    let id = fleet.deploy(last, "1.1.0", &[]).unwrap();
    let dirs: Vec<_> = fleet.hosts().iter().map(|host| host.dir().to_path_buf()).collect();
    let in_event = |dir: &PathBuf, name: &str, version: &str| {
        Event::read(dir).last().is_some_and(|e| e.name == name && e.version == version)
    };
    until("a host that validates", || {
        dirs.iter().any(|dir| in_event(dir, "ValidateService", "1.1.0"))
    })
    .await;
    let victim = dirs.iter().position(|dir| in_event(dir, "ValidateService", "1.1.0")).unwrap();
    std::fs::write(dirs[victim].join("hold-ApplicationStart"), "").unwrap();
    for dir in &dirs {
        std::fs::remove_file(dir.join("hold-ValidateService")).unwrap();
    }
    until("a host that goes back", || in_event(&dirs[victim], "ApplicationStart", "1.0.0")).await;
    fleet.kill_executor(victim);
    fleet.kill_daemon(victim);
    std::fs::remove_file(dirs[victim].join("hold-ApplicationStart")).unwrap();
    fleet.start_executor(victim).unwrap();
    fleet.start_daemon(victim).unwrap();
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "failed", "{report:?}");
    let failure = report.targets.iter().find_map(|target| target.failure.as_ref()).unwrap();
    assert!(failure.restored, "{failure:?}");
    assert_eq!(versions(&fleet), vec!["1.0.0"; 3]);
}

#[tokio::test]
async fn a_release_that_fails_late_is_rolled_back_where_it_ran() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    release(&fleet, &Shop::new("1.1.0"));
    // It works on whichever host comes first, and fails on the others.
    for host in fleet.hosts() {
        std::fs::write(host.dir().join("broken-1.1.0"), "").unwrap();
    }
    for host in fleet.hosts() {
        std::fs::write(host.dir().join("hold-ApplicationStop"), "").unwrap();
    }
    let last = fleet.last();
    let id = fleet.deploy(last, "1.1.0", &[]).unwrap();
    let busy = fleet
        .wait_deployment(last, &id, PATIENCE, |report| report.summary.in_progress == 1)
        .await
        .unwrap();
    let first = busy.targets.iter().find(|target| target.status == "in progress").unwrap();
    let first = &fleet.hosts()[fleet.index_of(&first.host).unwrap()];
    std::fs::remove_file(first.dir().join("broken-1.1.0")).unwrap();
    for host in fleet.hosts() {
        std::fs::remove_file(host.dir().join("hold-ApplicationStop")).unwrap();
    }
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "failed", "{report:?}");
    assert_eq!(report.summary.succeeded, 1, "{report:?}");
    let failure = report.targets.iter().find_map(|target| target.failure.as_ref()).unwrap();
    assert_eq!((failure.event.as_str(), failure.code), ("ValidateService", 4));
    assert!(failure.restored && failure.log.contains("500 Internal Server Error"), "{failure:?}");
    let rollback = report.related.expect("a rollback follows");
    let report = fleet.wait_over(last, &rollback, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "succeeded", "{report:?}");
    assert_eq!(report.summary.creator, "rollback");
    assert_eq!(report.summary.hosts, 1, "only where it ran");
    assert_eq!(versions(&fleet), vec!["1.0.0"; 3]);
}

#[tokio::test]
async fn a_stop_lets_nothing_more_begin() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    release(&fleet, &Shop::new("1.1.0"));
    for host in fleet.hosts() {
        std::fs::write(host.dir().join("hold-BeforeInstall"), "").unwrap();
    }
    let last = fleet.last();
    let key = fleet.operator_key();
    let mut deploy =
        fleet.swell_command(last, &["deploy", "web", "1.1.0", "--key", &key]).spawn().unwrap();
    let of_1_1 = |fleet: &groundswell_daemon::control::api::Fleet| {
        fleet.deployments.iter().find(|d| d.label == "1.1.0" && d.in_progress == 1).cloned()
    };
    let looked = fleet.wait_for(last, "a host in progress", PATIENCE, |f| of_1_1(f).is_some());
    let id = of_1_1(&looked.await.unwrap()).unwrap().id;
    until("a host that has begun", || {
        let began = |host: &groundswell_daemon::scratch::Host| {
            let events = Event::read(host.dir());
            events.iter().any(|event| event.name == "BeforeInstall" && event.version == "1.1.0")
        };
        fleet.hosts().iter().any(began)
    })
    .await;
    fleet.swell(0, &["stop", &id, "--key", &key, "--reason", "enough"]).unwrap();
    for host in fleet.hosts() {
        std::fs::remove_file(host.dir().join("hold-BeforeInstall")).unwrap();
    }
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "stopped", "{report:?}");
    let touched = fleet
        .hosts()
        .iter()
        .filter(|host| Event::read(host.dir()).iter().any(|event| event.version == "1.1.0"));
    assert_eq!(touched.count(), 1, "the one that had begun ends; no other begins");
    assert_eq!(deploy.wait().unwrap().code(), Some(5));
}

#[tokio::test]
async fn a_dead_host_is_unreachable_within_fifteen_seconds_and_cleared_when_it_returns() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 5).await;
    fleet.kill_daemon(3);
    let died = Instant::now();
    let standing = |fleet: &groundswell_daemon::control::api::Fleet| {
        fleet.hosts.iter().find(|host| host.name == "web-4").map(|host| host.standing.clone())
    };
    for index in [0, 1, 2, 4] {
        let gone = |fleet: &_| standing(fleet).as_deref() == Some("unreachable");
        fleet.wait_for(index, "the verdict", PATIENCE, gone).await.unwrap();
    }
    let took = died.elapsed();
    assert!(took <= Duration::from_secs(15), "took {took:?}");
    fleet.start_daemon(3).unwrap();
    for index in [0, 1, 2, 4] {
        let back = |fleet: &_| standing(fleet).as_deref() == Some("reachable");
        fleet.wait_for(index, "the return", PATIENCE, back).await.unwrap();
    }
}

#[tokio::test]
async fn a_daemon_that_is_told_to_stop_says_so_and_another_voter_leads() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 5).await;
    let known = fleet.client(4).fleet().await.unwrap();
    let leader = known.leader.unwrap();
    let index = fleet.index_of(&leader).unwrap();
    let others = move || (0..5).filter(move |other| *other != index);
    let pid = fleet.hosts()[index].processes().0.unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
    let told = Instant::now();
    let standing = |fleet: &groundswell_daemon::control::api::Fleet| {
        fleet.hosts.iter().find(|host| host.name == leader).map(|host| host.standing.clone())
    };
    for other in others() {
        let says = |fleet: &groundswell_daemon::control::api::Fleet| {
            let is_shown = fleet.hosts.iter().any(|host| host.name == leader && host.stopped);
            is_shown && fleet.leader.as_ref().is_some_and(|now| *now != leader)
        };
        fleet
            .wait_for(other, "that it was stopped, and another leads", PATIENCE, says)
            .await
            .unwrap();
    }
    let last = others().next_back().unwrap();
    assert!(fleet.swell(last, &["hosts"]).unwrap().contains("stopped"));
    let took = told.elapsed();
    assert!(took <= Duration::from_secs(6), "by silence it takes 8 s: took {took:?}");
    // What is left of it is a process that has ended well.
    fleet.kill_daemon(index);
    fleet.start_daemon(index).unwrap();
    for other in others() {
        let back = |fleet: &_| standing(fleet).as_deref() == Some("reachable");
        fleet.wait_for(other, "the return", PATIENCE, back).await.unwrap();
    }
}

#[tokio::test]
async fn half_at_a_time_takes_no_more_than_half() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 4).await;
    release(&fleet, &Shop::new("1.1.0"));
    let begun =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let last = fleet.last();
    let id = fleet.deploy(last, "1.1.0", &["--configuration", "HalfAtATime"]).unwrap();
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "succeeded", "{report:?}");
    let mut edges = Vec::new();
    for host in fleet.hosts() {
        for (from, to) in downtimes(&Event::read(host.dir())) {
            if from >= begun {
                edges.extend([(from, 1), (to, -1)]);
            }
        }
    }
    edges.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut down, mut most) = (0, 0);
    for (_, step) in edges {
        down += step;
        most = most.max(down);
    }
    assert_eq!(most, 2, "two of four at once, and not fewer");
}

#[tokio::test]
async fn the_signer_may_be_elsewhere() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    release(&fleet, &Shop::new("1.1.0"));
    let state = fleet.dir().join("state.json").display().to_string();
    std::fs::write(&state, fleet.swell(0, &["--json", "status"]).unwrap()).unwrap();
    let bundle = fleet.dir().join("shop-1.1.0.swell").display().to_string();
    let (keys, out) = (fleet.keys().display().to_string(), format!("{state}.order"));
    let sign = |out: &str, reason: &str| {
        fleet.run(
            &fleet.programs().swell_sign,
            &[
                "order",
                "deploy",
                "--keys",
                &keys,
                "--group",
                "web",
                "--release",
                &bundle,
                "--fleet-state",
                &state,
                "--out",
                out,
                "--reason",
                reason,
            ],
        )
    };
    sign(&out, "first").unwrap();
    fleet.swell(1, &["deploy", "--order", &out]).unwrap();
    assert_eq!(versions(&fleet), vec!["1.1.0"; 3]);
    // The same order again is a replay; another one for the same place is a fork.
    let replayed = fleet.swell(1, &["deploy", "--order", &out]).unwrap_err().to_string();
    assert!(replayed.contains("was given before and is a replay"), "{replayed}");
    let fork = format!("{state}.fork");
    // Orders tell seconds only: in the same one, the same words are the same order.
    sign(&fork, "second").unwrap();
    let forked = fleet.swell(1, &["deploy", "--order", &fork]).unwrap_err().to_string();
    assert!(forked.contains("does not follow"), "{forked}");
}

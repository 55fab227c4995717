//! Whole fleets of real processes, steered by an operator: pause, resume, go back, and the ways out of
//! a slot whose holder is dead.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use groundswell_daemon::{
    control::api,
    scratch::{Event, Fleet, Programs, Shop},
};

/// Fleets one after the other: each is a dozen processes.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(120);

/// A fleet that has found itself, with release 1.0.0 on every host.
async fn running(dir: &Path, hosts: usize) -> Fleet {
    let programs = Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap());
    let mut fleet = Fleet::new(dir, hosts, programs).unwrap();
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
    // The first host lives through every test.
    let report = fleet.wait_over(0, id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "succeeded", "{report:?}");
}

fn versions(fleet: &Fleet) -> Vec<String> {
    let live = fleet.hosts().iter().map(|host| Shop::version_file(&host.live()));
    live.map(|path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()).collect()
}

fn hold(fleet: &Fleet, event: &str, held: bool) {
    for host in fleet.hosts() {
        let path = host.dir().join(format!("hold-{event}"));
        if held {
            std::fs::write(path, "").unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Waits until a host is in the middle of its lifecycle for this version.
async fn until_begun(fleet: &Fleet, version: &str) -> usize {
    let end = Instant::now() + PATIENCE;
    loop {
        let begun = fleet.hosts().iter().position(|host| {
            let last = Event::read(host.dir()).pop();
            last.is_some_and(|last| last.version == version && last.name == "BeforeInstall")
        });
        if let Some(index) = begun {
            return index;
        }
        assert!(Instant::now() < end, "nobody began with {version}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn deployment<'a>(fleet: &'a api::Fleet, id: &str) -> Option<&'a api::Summary> {
    fleet.deployments.iter().find(|deployment| deployment.id == id)
}

#[tokio::test]
async fn what_is_paused_goes_on_when_resumed_and_back_when_told_so() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    let (last, key) = (fleet.last(), fleet.operator_key());
    release(&fleet, "1.1.0");
    hold(&fleet, "BeforeInstall", true);
    let id = fleet.deploy(last, "1.1.0", &[]).unwrap();
    until_begun(&fleet, "1.1.0").await;
    fleet.swell(0, &["pause", &id, "--key", &key]).unwrap();
    hold(&fleet, "BeforeInstall", false);
    let done = |report: &api::Report| report.summary.succeeded == 1;
    let report = fleet.wait_deployment(last, &id, PATIENCE, done).await.unwrap();
    assert_eq!(report.summary.status, "paused", "{report:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = fleet.wait_deployment(last, &id, PATIENCE, done).await.unwrap();
    assert_eq!((report.summary.succeeded, report.summary.in_progress), (1, 0), "{report:?}");
    let slots = fleet.swell(0, &["slots"]).unwrap();
    assert!(slots.contains("paused: go on with `swell resume`"), "{slots}");
    // Another one waits for its turn, and is not lost.
    let refused = fleet.deploy(last, "1.0.0", &[]).unwrap_err().to_string();
    assert!(refused.contains("--queue"), "{refused}");
    let queued = fleet.deploy(last, "1.0.0", &["--queue"]).unwrap();
    let seen =
        |fleet: &api::Fleet| deployment(fleet, &queued).is_some_and(|d| d.status == "queued");
    fleet.wait_for(last, "a deployment that waits", PATIENCE, seen).await.unwrap();
    fleet.swell(1, &["resume", &id, "--key", &key]).unwrap();
    succeeds(&fleet, &id).await;
    succeeds(&fleet, &queued).await;
    assert_eq!(versions(&fleet), ["1.0.0"; 3]);
    fleet.swell(0, &["group", "freeze", "web", "--key", &key]).unwrap();
    let refused = fleet.deploy(last, "1.1.0", &["--queue"]).unwrap_err().to_string();
    assert!(refused.contains("`swell group unfreeze web` first"), "{refused}");
    assert!(fleet.swell(0, &["group", "list"]).unwrap().contains("OneAtATime, frozen"));
    fleet.swell(0, &["group", "unfreeze", "web", "--key", &key]).unwrap();
    // An operator goes back in the middle of a deployment: only where it ran.
    hold(&fleet, "BeforeInstall", true);
    let id = fleet.deploy(last, "1.1.0", &[]).unwrap();
    until_begun(&fleet, "1.1.0").await;
    let back = ["--json", "rollback", "web", "1.0.0", "--no-wait", "--key", &key];
    let answer: serde_json::Value =
        serde_json::from_str(&fleet.swell(last, &back).unwrap()).unwrap();
    let back = answer["deployment"].as_str().unwrap().to_owned();
    hold(&fleet, "BeforeInstall", false);
    succeeds(&fleet, &back).await;
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "stopped", "{report:?}");
    let report = fleet.wait_over(last, &back, PATIENCE).await.unwrap();
    assert_eq!(report.summary.hosts, 1, "{report:?}");
    assert_eq!(versions(&fleet), ["1.0.0"; 3]);
}

#[tokio::test]
async fn a_drained_host_counts_as_down_and_catches_up() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 4).await;
    let (last, key) = (fleet.last(), fleet.operator_key());
    let name = fleet.hosts()[last].name.clone();
    fleet.swell(0, &["hosts", "drain", &name, "--key", &key]).unwrap();
    let drained = |fleet: &api::Fleet| {
        let host = fleet.hosts.iter().find(|host| host.name == name).unwrap();
        host.drained.is_some() && !host.healthy && fleet.groups[0].down == [name.clone()]
    };
    fleet.wait_for(1, "a drained host", PATIENCE, drained).await.unwrap();
    let other = fleet.hosts()[0].name.clone();
    let refused = fleet.swell(1, &["hosts", "drain", &other, "--key", &key]);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("has 1 of 1 hosts down already"), "{refused}");
    assert!(fleet.swell(1, &["status"]).unwrap().contains(&format!("{name}  drained")));
    // Under OneAtATime nobody else may go; where two may, the others do, and are not kept waiting.
    release(&fleet, "1.1.0");
    let id = fleet.deploy(0, "1.1.0", &[]).unwrap();
    let why = format!("drained: {name} (`swell hosts undrain`)");
    let waits = |fleet: &api::Fleet| {
        let waiting = deployment(fleet, &id).and_then(|d| d.waiting.clone());
        waiting.is_some_and(|text| text.contains(&why))
    };
    fleet.wait_for(0, "a reason why nothing moves", PATIENCE, waits).await.unwrap();
    fleet.swell(0, &["stop", &id, "--key", &key]).unwrap();
    fleet.wait_over(0, &id, PATIENCE).await.unwrap();
    let id = fleet.deploy(0, "1.1.0", &["--configuration", "AllAtOnce"]).unwrap();
    succeeds(&fleet, &id).await;
    assert_eq!(versions(&fleet), ["1.1.0", "1.1.0", "1.1.0", "1.0.0"]);
    fleet.swell(1, &["hosts", "undrain", &name, "--key", &key]).unwrap();
    let end = Instant::now() + PATIENCE;
    while versions(&fleet) != ["1.1.0"; 4] {
        assert!(Instant::now() < end, "{name} has not caught up: {:?}", versions(&fleet));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_slot_of_a_dead_host_is_free_once_an_operator_says_so() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 5).await;
    let key = fleet.operator_key();
    for (round, version) in ["1.1.0", "1.2.0"].into_iter().enumerate() {
        release(&fleet, version);
        hold(&fleet, "BeforeInstall", true);
        let id = fleet.deploy(0, version, &[]).unwrap();
        // Voters cannot be removed; let them pass.
        let dead = loop {
            let index = until_begun(&fleet, version).await;
            if index >= 3 {
                break index;
            }
            let path = fleet.hosts()[index].dir().join("hold-BeforeInstall");
            std::fs::remove_file(&path).unwrap();
            let name = fleet.hosts()[index].name.clone();
            let over = |report: &api::Report| {
                report.targets.iter().any(|t| t.host == name && t.status == "succeeded")
            };
            fleet.wait_deployment(0, &id, PATIENCE, over).await.unwrap();
            std::fs::write(&path, "").unwrap();
        };
        let name = fleet.hosts()[dead].name.clone();
        fleet.kill_daemon(dead);
        fleet.kill_executor(dead);
        hold(&fleet, "BeforeInstall", false);
        let silent = |fleet: &api::Fleet| {
            let waiting = deployment(fleet, &id).and_then(|d| d.waiting.clone());
            let way_out = format!("`swell slots release {name}`");
            waiting.is_some_and(|text| {
                text.contains(&format!("; {name} silent for ")) && text.contains(&way_out)
            })
        };
        fleet.wait_for(0, "a reason why nothing moves", PATIENCE, silent).await.unwrap();
        if round == 0 {
            let said = fleet.swell(0, &["slots", "release", &name, "--key", &key]).unwrap();
            assert!(said.contains("is free in 60 s"), "{said}");
            succeeds(&fleet, &id).await;
            let slots = fleet.swell(0, &["slots"]).unwrap();
            assert!(slots.contains(&format!("{name} was written off")), "{slots}");
            // It comes back in the middle of what it may not go on with, and is mended.
            fleet.start_executor(dead).unwrap();
            fleet.start_daemon(dead).unwrap();
            let end = Instant::now() + PATIENCE;
            while versions(&fleet)[dead] != version {
                assert!(Instant::now() < end, "{name} has not caught up: {:?}", versions(&fleet));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let idle = |fleet: &api::Fleet| {
                fleet.slots.is_empty()
                    && fleet.written_off.is_empty()
                    && fleet.deployments.iter().all(api::Summary::is_over)
            };
            fleet.wait_for(0, "rest", PATIENCE, idle).await.unwrap();
        } else {
            fleet.swell(0, &["hosts", "remove", &name, "--key", &key]).unwrap();
            succeeds(&fleet, &id).await;
            let gone = |fleet: &api::Fleet| fleet.hosts.iter().all(|host| host.name != name);
            fleet.wait_for(1, "a fleet without it", PATIENCE, gone).await.unwrap();
            // Its key is refused when it comes back.
            fleet.start_executor(dead).unwrap();
            fleet.start_daemon(dead).unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            fleet.wait_for(0, "a fleet without it", PATIENCE, gone).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_gone_is_replaced_and_the_fleet_goes_on_without_the_first_ones() {
    let _turn = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let programs = Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap());
    let mut fleet = Fleet::new(dir.path(), 5, programs).unwrap();
    fleet.set("replace_voter_seconds = 5").unwrap();
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.apply_group("AllAtOnce", 0).unwrap();
    let last = fleet.last();
    // Two of the three that the fleet was founded with die, one after the other.
    for gone in ["web-1", "web-2"] {
        fleet.kill_daemon(fleet.index_of(gone).unwrap());
        let replaced = |status: &api::Fleet| {
            let voters = &status.voters;
            status.leader.is_some()
                && voters.len() == 3
                && voters.iter().all(|voter| voter.name != gone)
        };
        fleet.wait_for(last, "a new voter", PATIENCE, replaced).await.unwrap();
    }
    let dir = fleet.dir().join("shop-1.0.0");
    Shop::new("1.0.0").write(&dir).unwrap();
    fleet.push(last, &dir, "1.0.0").unwrap();
    let id = fleet.deploy(last, "1.0.0", &[]).unwrap();
    // The executors, which nobody told but their daemons, act on the word of the new voters.
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "succeeded", "{report:?}");
    // Those that were away come back as hosts like any other, and catch up.
    for gone in ["web-1", "web-2"] {
        fleet.start_daemon(fleet.index_of(gone).unwrap()).unwrap();
    }
    let all_back = |status: &api::Fleet| {
        let shown = status.hosts.iter().all(|host| host.standing == "reachable");
        shown && status.voters.iter().all(|voter| !["web-1", "web-2"].contains(&&*voter.name))
    };
    for index in 0..5 {
        fleet.wait_for(index, "everybody back", PATIENCE, all_back).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_lost_its_majority_goes_on_when_operators_say_so() {
    let _turn = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = running(dir.path(), 5).await;
    let dead = ["web-2", "web-3"];
    for name in dead {
        fleet.kill_daemon(fleet.index_of(name).unwrap());
    }
    let nobody = |status: &api::Fleet| status.leader.is_none();
    fleet.wait_for(0, "nobody leads", PATIENCE, nobody).await.unwrap();
    // What was not signed, or was signed for another ledger, is refused.
    let list = fleet.dir().join("voters").display().to_string();
    let recover = ["voters", "recover", "--voter", "web-1", "--voter", "web-4", "--voter", "web-5"];
    fleet.swell(0, &[&recover[..], &["--out", &list]].concat()).unwrap();
    let refused = fleet.swell(0, &["order", &list]).unwrap_err().to_string();
    assert!(refused.contains("signed by 0 of the 1"), "{refused}");
    let keys = fleet.keys().display().to_string();
    let signed = format!("{list}.signed");
    let sign = ["voters", &list, "--keys", &keys, "--out", &signed];
    let said = fleet.run(&fleet.programs().swell_sign, &sign).unwrap();
    assert!(said.contains("voters: ") && said.contains("generation: 4294967296"), "{said}");
    fleet.swell(0, &["order", &signed]).unwrap();
    let recovered = |status: &api::Fleet| {
        let mut names: Vec<_> = status.voters.iter().map(|voter| voter.name.as_str()).collect();
        names.sort_unstable();
        status.leader.is_some() && names == ["web-1", "web-4", "web-5"]
    };
    for index in [0, 3, 4] {
        fleet.wait_for(index, "new voters", PATIENCE, recovered).await.unwrap();
    }
    // Whoever has not said what it holds counts as down, and is shown so.
    let waits = |status: &api::Fleet| {
        let is_dead = |host: &api::Host| dead.contains(&host.name.as_str());
        status.hosts.iter().all(|host| host.counted != is_dead(host))
    };
    let status = fleet.wait_for(0, "all others are counted", PATIENCE, waits).await.unwrap();
    assert!(status.hosts.iter().all(|host| host.counted || !host.healthy));
    // Those that were lost come back and follow.
    for name in dead {
        fleet.start_daemon(fleet.index_of(name).unwrap()).unwrap();
    }
    for index in 0..5 {
        fleet.wait_for(index, "new voters everywhere", PATIENCE, recovered).await.unwrap();
    }
    let counted = |status: &api::Fleet| status.hosts.iter().all(|host| host.counted);
    fleet.wait_for(0, "all are counted", PATIENCE, counted).await.unwrap();
    release(&fleet, "2.0.0");
    let id = fleet.deploy(fleet.last(), "2.0.0", &[]).unwrap();
    succeeds(&fleet, &id).await;
    assert_eq!(versions(&fleet), ["2.0.0"; 5]);
}

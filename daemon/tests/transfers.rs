//! Revisions on their way between real hosts: what must hold when hosts die and disks rot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use groundswell_daemon::{
    control::api::StoredRevision,
    scratch::{Fleet, Programs, Shop},
};

/// Fleets one after the other: each is a dozen processes.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(90);
/// On its way long enough to be met in the middle.
const DATA_BYTES: usize = 60_000_000;
const SETTINGS: &str = "scrub_bytes_per_second = 0";

/// A fleet of three that has found itself, with a release at its last host and nowhere else.
async fn pushed(dir: &Path) -> Fleet {
    let programs = Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap());
    let mut fleet = Fleet::new(dir, 3, programs).unwrap();
    // What has rotted is found where a test looks for it, and no sooner.
    fleet.set(SETTINGS).unwrap();
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.apply_group("AllAtOnce", 0).unwrap();
    push(&fleet, "1.0.0");
    fleet
}

/// Releases the shop in a version, with data of its own, and pushes it to the last host.
fn push(fleet: &Fleet, version: &str) {
    let mut shop = Shop::new(version);
    shop.data_bytes = DATA_BYTES;
    let dir = fleet.dir().join(format!("shop-{version}"));
    shop.write(&dir).unwrap();
    fleet.push(fleet.last(), &dir, version).unwrap();
}

/// Flips a bit in every third frame of a host's store, and returns where they are.
fn rot(fleet: &Fleet, host: usize) -> Vec<PathBuf> {
    let rotten: Vec<_> = frames(fleet, host).into_values().step_by(3).collect();
    for path in &rotten {
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    rotten
}

/// The frames in a host's store, by name.
fn frames(fleet: &Fleet, host: usize) -> BTreeMap<String, PathBuf> {
    let dirs = fs::read_dir(fleet.hosts()[host].dir().join("state/store/frames"));
    let files = dirs.into_iter().flatten().flatten().flat_map(|dir| fs::read_dir(dir.path()));
    files
        .flatten()
        .flatten()
        .map(|file| (file.file_name().to_string_lossy().into_owned(), file.path()))
        .collect()
}

fn names(fleet: &Fleet, host: usize) -> BTreeSet<String> {
    frames(fleet, host).into_keys().collect()
}

/// Waits for something on this machine, looking often.
async fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All of it is there, byte for byte.
fn assert_whole(fleet: &Fleet, host: usize, origin: &BTreeMap<String, Vec<u8>>) {
    assert!(contents(fleet, host) == *origin, "host {host} has other frames");
}

fn contents(fleet: &Fleet, host: usize) -> BTreeMap<String, Vec<u8>> {
    let files = frames(fleet, host).into_iter();
    files.filter_map(|(name, path)| Some((name, fs::read(path).ok()?))).collect()
}

#[tokio::test]
async fn a_host_killed_while_it_fetches_goes_on_with_what_it_had() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = pushed(dir.path()).await;
    let (victim, last) = (0, fleet.last());
    let origin = contents(&fleet, last);
    let id = fleet.deploy(last, "1.0.0", &[]).unwrap();
    let mut kept = BTreeMap::new();
    for part in [1, 2, 3] {
        until("frames on their way", || frames(&fleet, victim).len() >= origin.len() * part / 5)
            .await;
        fleet.kill_daemon(victim);
        let had = frames(&fleet, victim);
        assert!(had.len() < origin.len(), "it was killed before all had come");
        for (name, path) in had {
            let inode = fs::metadata(path).unwrap().ino();
            assert_eq!(*kept.entry(name).or_insert(inode), inode, "it was fetched again");
        }
        fleet.start_daemon(victim).unwrap();
    }
    let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    assert_eq!(report.summary.status, "succeeded", "{report:?}");
    for (name, path) in frames(&fleet, victim) {
        let inode = fs::metadata(path).unwrap().ino();
        assert_eq!(kept.remove(&name).unwrap_or(inode), inode, "it was fetched again");
    }
    assert!(kept.is_empty());
    assert_whole(&fleet, victim, &origin);
}

#[tokio::test]
async fn a_host_killed_when_it_has_given_one_copy_is_not_missed() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = pushed(dir.path()).await;
    let last = fleet.last();
    let origin = contents(&fleet, last);
    fleet.deploy(last, "1.0.0", &[]).unwrap();
    until("one copy among the others", || {
        names(&fleet, 0).union(&names(&fleet, 1)).count() == origin.len()
    })
    .await;
    fleet.kill_daemon(last);
    for host in [0, 1] {
        until("what the other host has", || frames(&fleet, host).len() == origin.len()).await;
        assert_whole(&fleet, host, &origin);
    }
}

#[tokio::test]
async fn what_has_rotted_on_one_disk_comes_from_another() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = pushed(dir.path()).await;
    let last = fleet.last();
    let origin = contents(&fleet, last);
    fleet.kill_daemon(0);
    fleet.deploy(last, "1.0.0", &[]).unwrap();
    until("a second copy", || frames(&fleet, 1).len() == origin.len()).await;
    let rotten = rot(&fleet, 1);
    fleet.start_daemon(0).unwrap();
    until("all of it", || frames(&fleet, 0).len() == origin.len()).await;
    assert_whole(&fleet, 0, &origin);
    let still = |path: &&PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        fs::read(path).is_ok_and(|bytes| bytes != origin[&name])
    };
    let found = rotten.len() - rotten.iter().filter(still).count();
    assert!(found > 0, "what had rotted was found when it was asked for");
}

#[tokio::test]
async fn a_scrub_finds_what_has_rotted_and_it_comes_from_another_host() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = pushed(dir.path()).await;
    let last = fleet.last();
    let origin = contents(&fleet, last);
    let id = fleet.deploy(last, "1.0.0", &[]).unwrap();
    fleet.wait_over(last, &id, PATIENCE).await.unwrap();
    for host in [1, 0] {
        let rotten = rot(&fleet, host).len();
        if host == 1 {
            let scrubbed = fleet.client(host).scrub().await.unwrap();
            assert_eq!(scrubbed.rotten, rotten);
            assert_eq!(scrubbed.frames, u64::try_from(origin.len()).unwrap());
        } else {
            fleet.kill_daemon(host);
            let settings = fleet.hosts()[host].settings("swelld.toml");
            let text = fs::read_to_string(&settings).unwrap();
            let quick = text.replace(SETTINGS, "scrub_bytes_per_second = \"60 MB\"");
            fs::write(&settings, quick).unwrap();
            fleet.start_daemon(host).unwrap();
        }
        until("all of it is whole again", || contents(&fleet, host) == origin).await;
    }
    let log = fs::read_to_string(fleet.log(1, "swelld")).unwrap();
    assert!(log.contains("a damaged frame is removed"));
    until("the journal", || {
        let log = fs::read_to_string(fleet.log(1, "swelld")).unwrap();
        log.contains("what was damaged of a revision has come again")
    })
    .await;
    let store = fleet.client(1).store().await.unwrap();
    assert!(store.scrubbed_at.is_some() && store.rotten > 0, "{store:?}");
}

#[tokio::test]
async fn a_store_that_is_full_gives_up_what_nobody_needs() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let programs = Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap());
    let mut fleet = Fleet::new(dir.path(), 3, programs).unwrap();
    fleet.set("store_bytes_max = \"200 MB\"").unwrap();
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.apply_group("AllAtOnce", 0).unwrap();
    let last = fleet.last();
    for version in ["1", "2", "3", "4", "5"] {
        push(&fleet, version);
        if ["1", "2"].contains(&version) {
            let id = fleet.deploy(last, version, &[]).unwrap();
            let report = fleet.wait_over(last, &id, PATIENCE).await.unwrap();
            assert_eq!(report.summary.status, "succeeded", "{report:?}");
        }
        let files = frames(&fleet, last).into_values();
        let bytes: u64 = files.map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(bytes <= 200_000_000, "it has {bytes} bytes");
    }
    let store = fleet.client(last).store().await.unwrap();
    let kept = |one: &StoredRevision| (one.releases.join(", "), one.kept.clone());
    let kept: BTreeMap<_, _> = store.revisions.iter().map(kept).collect();
    let needed = [("shop 1", Some("previous")), ("shop 2", Some("current")), ("shop 5", None)];
    let needed = needed.map(|(release, why)| (release.into(), why.map(Into::into)));
    assert_eq!(kept, BTreeMap::from(needed), "the oldest are not those that nobody needs");
    assert!(store.revisions.iter().all(|one| one.frames_lacking == 0), "{store:?}");
    let back = ["rollback", "web", "--key", &fleet.operator_key()];
    fleet.swell(last, &back).unwrap();
}

#[tokio::test]
async fn a_host_killed_in_the_middle_of_a_push_says_what_it_lacks_and_takes_the_rest() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = pushed(dir.path()).await;
    let last = fleet.last();
    let before = frames(&fleet, last).len();
    let mut shop = Shop::new("2.0.0");
    shop.data_bytes = DATA_BYTES;
    let source = fleet.dir().join("shop-2.0.0");
    shop.write(&source).unwrap();
    let bundle = fleet.sign(&source, "2.0.0").unwrap();
    let bundle = bundle.to_str().unwrap();
    let mut push = fleet.swell_command(last, &["push", bundle]).spawn().unwrap();
    until("frames of it", || frames(&fleet, last).len() > before + 20).await;
    fleet.kill_daemon(last);
    assert!(!push.wait().unwrap().success());
    fleet.start_daemon(last).unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    let store = fleet.client(last).store().await.unwrap();
    let part = store.revisions.iter().find(|one| one.frames_lacking > 0).unwrap();
    assert!(part.bytes > 0 && part.bytes_lacking > 0 && part.releases.is_empty(), "{part:?}");
    let lacking = part.bytes_lacking;
    let pushed = fleet.swell(last, &["push", bundle, "--json"]).unwrap();
    let pushed: serde_json::Value = serde_json::from_str(&pushed).unwrap();
    assert_eq!(pushed["new_bytes"], lacking, "what was here already came once");
    let store = fleet.client(last).store().await.unwrap();
    assert!(store.revisions.iter().all(|one| one.frames_lacking == 0), "{store:?}");
}

//! Revisions on their way between real hosts: what must hold when hosts die and disks rot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use groundswell_daemon::scratch::{Fleet, Programs, Shop};

/// Fleets one after the other: each is a dozen processes.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(90);
/// On its way long enough to be met in the middle.
const DATA_BYTES: usize = 60_000_000;

/// A fleet of three that has found itself, with a release at its last host and nowhere else.
async fn pushed(dir: &Path) -> Fleet {
    let programs = Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap());
    let mut fleet = Fleet::new(dir, 3, programs).unwrap();
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.apply_group("AllAtOnce", 0).unwrap();
    let mut shop = Shop::new("1.0.0");
    shop.data_bytes = DATA_BYTES;
    let dir = fleet.dir().join("shop");
    shop.write(&dir).unwrap();
    fleet.push(fleet.last(), &dir, &shop.version).unwrap();
    fleet
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
    frames(fleet, host).into_iter().map(|(name, path)| (name, fs::read(path).unwrap())).collect()
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
    let rotten: Vec<_> = frames(&fleet, 1).into_values().step_by(3).collect();
    for path in &rotten {
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    fleet.start_daemon(0).unwrap();
    until("all of it", || frames(&fleet, 0).len() == origin.len()).await;
    assert_whole(&fleet, 0, &origin);
    let asked_for = rotten.iter().filter(|path| !path.exists()).count();
    assert!(asked_for > 0, "what had rotted was found when it was asked for");
}

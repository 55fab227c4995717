//! The power fails before each change of the disk: what was not made durable by then is lost, or some of it is.
//!
//! The journal, the revisions and the live tree are each on an ext4 of their own, in files. What is in these files
//! when the executor is about to make a change is what a loss of power leaves of it. A disk may have written more
//! than it was asked to, each in its own time: names without what they are of, since ext4 has room for that looked
//! for last, or all.

use std::{mem, os::unix::fs::PermissionsExt, sync::Arc};

use super::*;
use crate::disk::Disk;

const DISKS: [&str; 3] = ["state", "root", "live"];
const DISK_BYTES: usize = 4 << 20;
const BLOCK_BYTES: usize = 4096;
/// What nobody asks for is not written, and no file's content before its name.
const OPTIONS: &str = "commit=600,noauto_da_alloc";

/// What disks write of their own accord.
#[derive(Clone, Copy, Debug)]
enum Weather {
    /// Nothing.
    Calm,
    /// This one all names at once, the others nothing.
    Names(&'static str),
    /// Each now and then, by this seed, names or all.
    Chance(u64),
}

/// What is asked of a disk before a change.
#[derive(Clone, Copy)]
enum Write {
    Nothing,
    Names,
    All,
}

impl Weather {
    fn next(&mut self, of: &str) -> Write {
        match self {
            Self::Calm => Write::Nothing,
            Self::Names(disk) if *disk == of => Write::Names,
            Self::Names(_) => Write::Nothing,
            Self::Chance(seed) => {
                // Knuth's, of which the upper bits are good.
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match *seed >> 60 {
                    0..4 => Write::Names,
                    4 => Write::All,
                    _ => Write::Nothing,
                }
            }
        }
    }
}

impl Write {
    fn to(self, disk: &Path) {
        let dir = fs::File::open(disk).unwrap();
        match self {
            Self::Nothing => {}
            Self::Names => {
                // What waits in its journal goes with the change of this one.
                fs::set_permissions(disk, fs::Permissions::from_mode(0o755)).unwrap();
                dir.sync_all().unwrap();
            }
            Self::All => nix::unistd::syncfs(&dir).unwrap(),
        }
    }
}

/// All that is on a disk, in which every change of it shows.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let Ok(there) = fs::symlink_metadata(&path) else { continue };
        if there.is_dir() {
            found.append(&mut listing(&path));
        }
        found.push((path, there.ino(), there.ctime(), there.ctime_nsec()));
    }
    found
}

/// The blocks in which a disk differs from what it was at first: which disk, which block, and what is in it.
type Blocks = Vec<(usize, usize, Vec<u8>)>;

/// What is left on the disks, each different state once, and before which change it was seen first.
struct Left {
    first: [Vec<u8>; 3],
    all: BTreeMap<Blocks, usize>,
    changes: usize,
}

impl Left {
    fn new(dir: &Path) -> Self {
        let first = DISKS.map(|disk| fs::read(image(dir, disk)).unwrap());
        Self { first, all: BTreeMap::new(), changes: 0 }
    }

    fn look(&mut self, dir: &Path) {
        let mut blocks = Vec::new();
        for (disk, first) in self.first.iter().enumerate() {
            let now = fs::read(image(dir, DISKS[disk])).unwrap();
            let pairs = now.chunks(BLOCK_BYTES).zip(first.chunks(BLOCK_BYTES)).enumerate();
            let differ = pairs.filter(|(_, (now, first))| now != first);
            blocks.extend(differ.map(|(block, (now, _))| (disk, block, now.to_vec())));
        }
        self.all.entry(blocks).or_insert(self.changes);
        self.changes += 1;
    }

    /// Makes the disks what they were then.
    fn restore(&self, blocks: &Blocks, dir: &Path) {
        let mut images = self.first.clone();
        for (disk, block, bytes) in blocks {
            let from = block * BLOCK_BYTES;
            images[*disk][from..from + bytes.len()].copy_from_slice(bytes);
        }
        for (disk, image_bytes) in DISKS.iter().zip(images) {
            fs::write(image(dir, disk), image_bytes).unwrap();
        }
    }
}

fn image(dir: &Path, disk: &str) -> PathBuf {
    dir.join(format!("{disk}.ext4"))
}

fn make(dir: &Path) -> Option<Vec<Disk>> {
    let make = |disk| {
        let at = dir.join(disk);
        fs::create_dir(&at).unwrap();
        let made = Disk::make("ext4", &image(dir, disk), DISK_BYTES, &at, OPTIONS)?;
        fs::remove_dir(at.join("lost+found")).unwrap();
        Some(made)
    };
    DISKS.into_iter().map(make).collect()
}

impl Bench {
    fn switch_off(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Lets the power fail before each change in this weather. Gives how many different states that left.
fn with_every_loss(way: &Way, mut weather: Weather) -> Option<usize> {
    let dir = scratch();
    // To go after the executor, which has files open there.
    let disks = make(dir.path())?;
    let (mut bench, evidence) = Bench::on(dir).with_first(way);
    let (at, shown) = (bench.dir.path().to_owned(), format!("{weather:?}"));
    DISKS.iter().for_each(|disk| Write::All.to(&at.join(disk)));
    let (old, times_before) = (bench.live(), times(&bench.path("live")));
    let (of, left) = (at.clone(), Arc::new(Mutex::new(Left::new(&at))));
    let (watched, mut last) = (left.clone(), DISKS.map(|disk| listing(&at.join(disk))));
    let tracer = Tracer::watching(&bench.child, Fault::Kill(usize::MAX), move || {
        for (disk, last) in DISKS.iter().zip(&mut last) {
            let now = listing(&of.join(disk));
            // Where nothing is new, nothing can be written.
            if mem::replace(last, now.clone()) != now {
                weather.next(disk).to(&of.join(disk));
            }
        }
        watched.lock().unwrap().look(&of);
    });
    let outcome = bench.try_run(&evidence).unwrap();
    assert_eq!(outcome == Outcome::Succeeded, way.succeeds, "{outcome:?}");
    let new = bench.live();
    assert_eq!(new == old, !way.succeeds, "{new:?}");
    tracer.end(false);
    drop(disks);
    let left = left.lock().unwrap();
    for (blocks, change) in &left.all {
        left.restore(blocks, &at);
        let mount = |disk: &&str| Disk::mount(&image(&at, disk), &at.join(disk), OPTIONS).unwrap();
        let disks: Vec<_> = DISKS.iter().map(mount).collect();
        bench.child = start(&at);
        bench.token.store(TOKEN + 1, Ordering::Relaxed);
        bench.ended = Mutex::default();
        let what = format!("{shown}, change {change} of {}", left.changes);
        bench.finish(&evidence, way, &new, &times_before, &what);
        bench.switch_off();
        drop(disks);
    }
    Some(left.all.len())
}

/// Lets it fail in all weathers.
fn with_every_weather(way: &Way) {
    use Weather::{Calm, Chance, Names};
    for weather in [Names("live"), Calm, Chance(1), Chance(2)] {
        let Some(count) = with_every_loss(way, weather) else { return };
        eprintln!("{weather:?} left {count} different states");
        assert!(count > 20, "{weather:?} left only {count} states");
    }
}

#[test]
fn a_deployment_that_loses_power_at_any_change_of_the_disk_is_finished() {
    with_every_weather(&FORWARD);
}

#[test]
fn a_way_back_that_loses_power_at_any_change_of_the_disk_is_finished() {
    with_every_weather(&BACK);
}

/// Nothing but Install has saved the old files.
#[test]
fn an_undoing_that_loses_power_at_any_change_of_the_disk_is_finished() {
    with_every_weather(&UNDONE);
}

const UNDONE: Way =
    Way { scripts: &[(LifecycleEvent::AfterInstall, "#!/bin/sh\nexit 1\n")], succeeds: false };

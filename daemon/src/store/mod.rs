//! Revisions on disk: manifests and frames, each in a file named by its hash.
//!
//! Every file is written beside, then renamed, so that what has a final name is whole as long as the
//! machine stays up; [`Store::sync`] makes it outlive a power cut. A frame's length is compared with
//! the manifest's before it counts as here, and its hash before it is given away: what a power cut
//! or a bad disk has damaged is fetched again.
//!
//! The executor reads the same files by the same names and verifies them by itself.

mod claim;
mod import;
mod keeping;
mod scrub;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use groundswell_protocol::{
    ids::Digest,
    limits::{FRAME_BYTES_MAX, MANIFEST_BYTES_MAX},
    revision::{Manifest, ManifestRefused},
};
use thiserror::Error;

use claim::Claim;

use crate::clock::Clock;
pub use import::{Import, ImportError, Imported};
pub use keeping::Known;
pub use scrub::scrub_slowly;

/// Why something is not in the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The disk is full.
    #[error(
        "no space left for {}: nothing of this was kept; free some space there and try again",
        path.display()
    )]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The store's own limit.
    #[error(
        "the store has {held} bytes and may have {max}; {more} more do not fit beside what is needed: \
         see `swell store`, and raise store_bytes_max in swelld's settings"
    )]
    LimitReached {
        /// Bytes that it has.
        held: u64,
        /// Bytes that it may have.
        max: u64,
        /// Bytes that were to be added.
        more: u64,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not those that the name stands for.
    #[error("the bytes do not have the hash {expected} that names them")]
    OtherHash {
        /// The name.
        expected: String,
    },
    /// The manifest breaks a rule.
    #[error(transparent)]
    Manifest(#[from] ManifestRefused),
}

impl StoreError {
    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, source },
        }
    }
}

/// The revisions of a host.
pub struct Store {
    dir: PathBuf,
    bytes_max: u64,
    temporary: AtomicU64,
    held: Mutex<Held>,
    /// What the fleet knows of revisions, once it was told. By itself: who tells it does not wait for a disk.
    known: Mutex<Option<Arc<BTreeMap<Digest, Known>>>>,
    on_change: OnceLock<Box<dyn Fn(Change) + Send + Sync>>,
}

/// What is not here any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A frame was damaged.
    Lost(Digest),
    /// A revision made way for another.
    Evicted(Digest),
}

/// What is here. Rebuilt from the directory at start.
#[derive(Default)]
struct Held {
    frames: BTreeMap<Digest, u32>,
    manifests: BTreeMap<Digest, Arc<Manifest>>,
    /// Revisions that are being imported: what they name is not to go.
    claimed: BTreeMap<u64, (Digest, Arc<Manifest>)>,
    /// Those of them that were not here before. They go where no import of them ends well.
    begun: BTreeSet<Digest>,
    bytes: u64,
    /// When all was read last, in seconds since 1970.
    scrubbed_at: Option<u64>,
    /// Frames that were found damaged since the start.
    rotten: u64,
}

impl Store {
    /// Opens or makes the store in `dir`, for at most `bytes_max` bytes. Frames that no manifest
    /// names, left by an import that was cut off, are removed.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        let store = Self {
            dir: dir.to_path_buf(),
            bytes_max,
            temporary: AtomicU64::new(0),
            held: Mutex::default(),
            known: Mutex::default(),
            on_change: OnceLock::new(),
        };
        for name in ["manifests", "frames", "temporary"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(|source| StoreError::io(&path, source))?;
        }
        store.clear_temporary()?;
        store.read_manifests()?;
        store.read_frames()?;
        Ok(store)
    }

    /// Has `tell` hear of what goes, from now on. Only the first one is told.
    pub fn on_change(&self, tell: impl Fn(Change) + Send + Sync + 'static) {
        drop(self.on_change.set(Box::new(tell)));
    }

    fn changed(&self, change: Change) {
        if let Some(tell) = self.on_change.get() {
            tell(change);
        }
    }

    fn clear_temporary(&self) -> Result<(), StoreError> {
        for path in list(&self.dir.join("temporary"))? {
            fs::remove_file(&path).map_err(|source| StoreError::io(&path, source))?;
        }
        Ok(())
    }

    fn read_manifests(&self) -> Result<(), StoreError> {
        for path in list(&self.dir.join("manifests"))? {
            let Some(id) = digest_of(&path) else { continue };
            let bytes = fs::read(&path).map_err(|source| StoreError::io(&path, source))?;
            let manifest = Manifest::from_bytes(&bytes);
            match manifest {
                Ok(manifest) if Manifest::id_of(&bytes) == id => {
                    let mut held = self.lock();
                    held.bytes += length_of(&bytes);
                    held.manifests.insert(id, Arc::new(manifest));
                }
                _ => {
                    tracing::warn!(path = %path.display(), "a damaged manifest is removed");
                    fs::remove_file(&path).map_err(|source| StoreError::io(&path, source))?;
                }
            }
        }
        Ok(())
    }

    fn read_frames(&self) -> Result<(), StoreError> {
        let mut held = self.lock();
        let named: BTreeMap<Digest, u32> = held
            .manifests
            .values()
            .flat_map(|manifest| manifest.frames.iter().map(|frame| (frame.hash, frame.bytes)))
            .collect();
        for dir in list(&self.dir.join("frames"))? {
            for path in list(&dir)? {
                let length = fs::metadata(&path).map_err(|e| StoreError::io(&path, e))?.len();
                let whole = digest_of(&path)
                    .and_then(|id| Some((id, *named.get(&id)?)))
                    .filter(|(_, expected)| u64::from(*expected) == length);
                match whole {
                    Some((id, bytes)) => {
                        held.bytes += length;
                        held.frames.insert(id, bytes);
                    }
                    None => {
                        fs::remove_file(&path).map_err(|source| StoreError::io(&path, source))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps a manifest, after every check.
    pub fn put_manifest(
        &self,
        bytes: &[u8],
        expected: Digest,
    ) -> Result<Arc<Manifest>, StoreError> {
        if Manifest::id_of(bytes) != expected {
            return Err(StoreError::OtherHash { expected: expected.short() });
        }
        if let Some(manifest) = self.manifest(&expected) {
            return Ok(manifest);
        }
        let manifest = Arc::new(Manifest::from_bytes(bytes)?);
        self.make_room(length_of(bytes), Some(&expected))?;
        self.write(&self.manifest_path(&expected), bytes)?;
        let mut held = self.lock();
        // Somebody else may have put it meanwhile.
        if held.manifests.insert(expected, manifest.clone()).is_none() {
            held.bytes += length_of(bytes);
        }
        Ok(manifest)
    }

    /// A manifest that is here.
    pub fn manifest(&self, id: &Digest) -> Option<Arc<Manifest>> {
        self.lock().manifests.get(id).cloned()
    }

    /// A manifest's bytes, if it is here and undamaged.
    pub fn manifest_bytes(&self, id: &Digest) -> Option<Vec<u8>> {
        self.lock().manifests.contains_key(id).then_some(())?;
        let bytes = fs::read(self.manifest_path(id)).ok()?;
        (bytes.len() <= MANIFEST_BYTES_MAX && Manifest::id_of(&bytes) == *id).then_some(bytes)
    }

    /// The manifests that are here.
    pub fn manifests(&self) -> Vec<Digest> {
        self.lock().manifests.keys().copied().collect()
    }

    /// Keeps a frame. Returns false if it was here already.
    pub fn put_frame(&self, expected: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        if bytes.len() > FRAME_BYTES_MAX || Digest::of_content(bytes) != expected {
            return Err(StoreError::OtherHash { expected: expected.short() });
        }
        if self.has_frame(&expected) {
            return Ok(false);
        }
        self.make_room(length_of(bytes), None)?;
        let path = self.frame_path(&expected);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|source| StoreError::io(dir, source))?;
        }
        self.write(&path, bytes)?;
        let mut held = self.lock();
        let new = held.frames.insert(expected, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if new.is_none() {
            held.bytes += length_of(bytes);
        }
        Ok(true)
    }

    /// True if a frame is here.
    pub fn has_frame(&self, id: &Digest) -> bool {
        self.lock().frames.contains_key(id)
    }

    /// A frame's bytes. A damaged one is removed, and is then not here.
    pub fn frame(&self, id: &Digest) -> Option<Vec<u8>> {
        self.has_frame(id).then_some(())?;
        match fs::read(self.frame_path(id)) {
            Ok(bytes) if Digest::of_content(&bytes) == *id => Some(bytes),
            Err(error) if !is_damage(&error) => {
                tracing::warn!(frame = id.short(), %error, "a frame cannot be read now");
                None
            }
            _ => {
                // One that was evicted meanwhile is not damaged.
                if self.remove_frame(id) {
                    tracing::warn!(frame = id.short(), "a damaged frame is removed");
                    self.lock().rotten += 1;
                    self.changed(Change::Lost(*id));
                }
                None
            }
        }
    }

    /// Reads every frame of `manifest` that is here. Damaged ones are removed, and then missing.
    pub fn recheck(&self, manifest: &Manifest) {
        for frame in &manifest.frames {
            drop(self.frame(&frame.hash));
        }
    }

    /// The frames of `manifest` that are not here.
    pub fn missing(&self, manifest: &Manifest) -> BTreeSet<Digest> {
        let held = self.lock();
        let names = manifest.frames.iter().map(|frame| frame.hash);
        names.filter(|name| !held.frames.contains_key(name)).collect()
    }

    /// Makes everything that was put so far outlive a power cut.
    pub fn sync(&self) -> Result<(), StoreError> {
        let io = |source: nix::Error| StoreError::io(&self.dir, source.into());
        let dir = File::open(&self.dir).map_err(|source| StoreError::io(&self.dir, source))?;
        nix::unistd::syncfs(dir).map_err(io)
    }

    /// The revisions that name a frame.
    pub fn naming(&self, frame: &Digest) -> Vec<Digest> {
        let held = self.lock();
        let names = |content: &Manifest| content.frames.iter().any(|one| one.hash == *frame);
        let naming = held.manifests.iter().filter(|(_, content)| names(content));
        naming.map(|(id, _)| *id).collect()
    }

    /// True if it was here.
    fn remove_frame(&self, id: &Digest) -> bool {
        self.remove_frame_of(&mut self.lock(), id)
    }

    fn remove_frame_of(&self, held: &mut Held, id: &Digest) -> bool {
        let Some(bytes) = held.frames.remove(id) else { return false };
        held.bytes = held.bytes.saturating_sub(bytes.into());
        // If it cannot be removed it is overwritten by the next that comes.
        drop(fs::remove_file(self.frame_path(id)));
        true
    }

    /// All that is here was read.
    fn scrubbed(&self) {
        self.lock().scrubbed_at = Some(Clock::start().wall().0);
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let beside = self.dir.join("temporary").join(number.to_string());
        let write = || {
            File::create(&beside)?.write_all(bytes)?;
            fs::rename(&beside, path)
        };
        write().map_err(|source| {
            drop(fs::remove_file(&beside));
            StoreError::io(path, source)
        })
    }

    fn manifest_path(&self, id: &Digest) -> PathBuf {
        self.dir.join("manifests").join(id.to_string())
    }

    fn frame_path(&self, id: &Digest) -> PathBuf {
        let name = id.to_string();
        self.dir.join("frames").join(&name[..2]).join(name)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that panics runs while it is held.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if reading it again would come to the same: it is gone, or the disk has lost it. A process that has too
/// many files open is no reason to throw anything away.
fn is_damage(error: &io::Error) -> bool {
    use nix::errno::Errno::{EBADMSG, EIO, ENOENT, EUCLEAN};
    let errno = error.raw_os_error();
    [EBADMSG, EIO, ENOENT, EUCLEAN].iter().any(|damage| errno == Some(*damage as i32))
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let io = |source| StoreError::io(dir, source);
    fs::read_dir(dir).map_err(io)?.map(|entry| Ok(entry.map_err(io)?.path())).collect()
}

fn digest_of(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use groundswell_protocol::{
        revision::{AppSpec, Published, Publisher},
        time::UnixSeconds,
    };

    use super::*;

    /// A revision of files that have nothing in common, named and filled by `names`.
    pub(crate) fn revision(names: &[&str], file_bytes: usize) -> Published {
        let mut publisher = Publisher::new(AppSpec::default()).unwrap();
        let mut frames = Vec::new();
        for name in names {
            publisher.begin_file(name, 0o644, UnixSeconds(0)).unwrap();
            let parts =
                (0..file_bytes / 32).map(|n| Digest::of_content(format!("{name}{n}").as_bytes()).0);
            frames.extend(publisher.write(&parts.flatten().collect::<Vec<_>>()).unwrap());
            frames.extend(publisher.end_file().unwrap());
        }
        let mut published = publisher.finish().unwrap();
        frames.append(&mut published.frames);
        Published { frames, ..published }
    }

    fn store(bytes_max: u64) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), bytes_max).unwrap();
        (dir, store)
    }

    #[test]
    fn a_frame_is_kept_once_and_only_under_its_own_name() {
        let (_dir, store) = store(1 << 20);
        let id = Digest::of_content(b"frame");
        assert!(store.put_frame(id, b"frame").unwrap());
        assert!(!store.put_frame(id, b"frame").unwrap());
        assert_eq!(store.frame(&id).unwrap(), b"frame");
        let other = store.put_frame(Digest::of_content(b"other"), b"frame");
        assert!(matches!(other, Err(StoreError::OtherHash { .. })));
        store.sync().unwrap();
    }

    #[test]
    fn a_damaged_frame_is_not_given_away() {
        let (_dir, store) = store(1 << 20);
        let id = Digest::of_content(b"frame");
        store.put_frame(id, b"frame").unwrap();
        fs::write(store.frame_path(&id), b"fRame").unwrap();
        assert_eq!(store.frame(&id), None);
        assert!(!store.has_frame(&id));
        assert!(store.put_frame(id, b"frame").unwrap());
    }

    #[test]
    fn a_frame_that_cannot_be_read_just_now_is_kept() {
        let (_dir, store) = store(1 << 20);
        let id = Digest::of_content(b"frame");
        store.put_frame(id, b"frame").unwrap();
        let (path, beside) = (store.frame_path(&id), store.dir.join("beside"));
        fs::rename(&path, &beside).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!((store.frame(&id), store.has_frame(&id)), (None, true));
        assert_eq!(store.scrub().rotten, 0);
        fs::remove_dir(&path).unwrap();
        fs::rename(&beside, &path).unwrap();
        assert_eq!(store.frame(&id).unwrap(), b"frame");
        fs::remove_file(&path).unwrap();
        assert_eq!((store.frame(&id), store.has_frame(&id)), (None, false), "it is gone");
    }

    #[test]
    fn a_full_disk_is_named_and_what_comes_when_there_is_room_is_kept() {
        let (_dir, store) = store(1 << 20);
        let id = Digest::of_content(b"frame");
        let next = store.dir.join("temporary/0");
        std::os::unix::fs::symlink("/dev/full", next).unwrap();
        let full = store.put_frame(id, b"frame").unwrap_err();
        assert!(full.to_string().starts_with("no space left for "), "{full}");
        assert!(!store.has_frame(&id) && !store.frame_path(&id).exists());
        assert_eq!(store.survey().bytes, 0);
        assert!(store.put_frame(id, b"frame").unwrap());
    }

    #[test]
    fn the_limit_is_checked_at_it_and_one_past_it() {
        let (_dir, store) = store(10);
        store.put_frame(Digest::of_content(b"0123456789"), b"0123456789").unwrap();
        let more = store.put_frame(Digest::of_content(b"x"), b"x");
        assert!(matches!(more, Err(StoreError::LimitReached { held: 10, max: 10, more: 1 })));
    }

    #[test]
    fn what_no_manifest_names_is_gone_after_a_restart() {
        let (dir, store) = store(1 << 20);
        let id = Digest::of_content(b"frame");
        store.put_frame(id, b"frame").unwrap();
        let path = store.frame_path(&id);
        drop(store);
        let store = Store::open(&dir.path().join("store"), 1 << 20).unwrap();
        assert!(!store.has_frame(&id) && !path.exists());
        assert_eq!(store.lock().bytes, 0);
    }
}

//! Laying a revision out beside what runs. The live tree is not touched.

use std::{
    collections::BTreeSet,
    fs::{self, File, FileTimes},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use groundswell_protocol::{
    ids::{Digest, GroupName},
    limits::{FRAME_BYTES_MAX, FRAME_RAW_BYTES_MAX},
    revision::{Chunk, Entry, EntryKind, Frame, Manifest, chunk_of},
};

use crate::{
    config::Config,
    deployment::DeploymentName,
    earlier, install,
    journal::{durable, replace_for_now},
    kept,
    layout::ARCHIVE,
    regular,
    space::Needed,
};

/// Writes the revision's files to the deployment's archive, each byte checked, and its manifest
/// beside them. All of it is there, durably, or nothing.
pub(crate) fn lay_out(
    config: &Config,
    manifest: &Manifest,
    group: &GroupName,
    deployment: DeploymentName,
) -> Result<(), String> {
    let archive = config.archive(group, deployment);
    if archive.is_dir() {
        return Ok(());
    }
    // A daemon that is started again asks anew while its last request is still being worked on. The
    // second waits for the first, and finds what it wants done.
    let _one = STAGING.lock().unwrap_or_else(PoisonError::into_inner);
    if archive.is_dir() {
        return Ok(());
    }
    let part = archive.with_extension(PART);
    let work = || -> io::Result<()> {
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        make_directories(manifest, &part)?;
        // A failure to write is told to who has it open by then.
        let dir = File::open(&part)?;
        let shared = earlier::share(config, group, manifest, &part);
        let is_there = |entry: &Entry| {
            entry.kind == EntryKind::Directory || shared.contains(entry.path.as_str())
        };
        let missing: Vec<_> = manifest.entries.iter().filter(|entry| !is_there(entry)).collect();
        let mut needed = Needed::default();
        for entry in &missing {
            let size = if let EntryKind::File { size, .. } = entry.kind { size } else { 0 };
            needed.file(&part, size);
        }
        needed.check().map_err(io::Error::other)?;
        // Made durable with all the rest.
        replace_for_now(&config.own_manifest(group, deployment), &manifest.to_bytes())?;
        let mut frames = Frames { config, manifest, raw: None };
        for entry in missing {
            write_entry(&mut frames, &entry.kind, &part.join(&entry.path))?;
        }
        durable(&part, nix::unistd::syncfs(&dir).map_err(Into::into));
        fs::rename(&part, &archive)?;
        let parent = archive.parent().ok_or(io::ErrorKind::InvalidInput)?;
        durable(&archive, File::open(parent)?.sync_all());
        Ok(())
    };
    work().map_err(|error| {
        // What was half laid out is of no use, and takes space that may be what was missing.
        drop(fs::remove_dir_all(&part));
        format!("the revision cannot be laid out in {}: {error}", archive.display())
    })
}

/// Removes old deployments' directories of a group, so that at most `kept` are there; those that are
/// `needed` stay in any case, and those with the only copies of files that could not be put back.
pub(crate) fn clear_old(
    config: &Config,
    group: &GroupName,
    needed: &BTreeSet<PathBuf>,
    kept: usize,
) {
    let Ok(entries) = fs::read_dir(config.root_dir.join(group.as_str())) else { return };
    let mut old: Vec<_> = entries
        .flatten()
        .filter(|entry| !needed.contains(&entry.path()))
        // A group may have the name of the directory in which the log of all deployments is.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| !install::can_undo(&entry.path()) && !kept::is_needed(&entry.path()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    old.sort();
    let there = needed.iter().filter(|path| path.exists()).count();
    let surplus = (old.len() + there).saturating_sub(kept);
    for (_, path) in old.into_iter().take(surplus) {
        // What cannot be removed now is tried again after the next deployment.
        drop(fs::remove_dir_all(path));
    }
}

/// Removes what was half laid out when the process ended.
pub(crate) fn clear(config: &Config) {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let deployments = list(&config.root_dir).flat_map(|group| list(&group.path()));
    for part in deployments.flat_map(|deployment| list(&deployment.path())) {
        if part.file_name() == Path::new(ARCHIVE).with_extension(PART) {
            // What cannot be removed now is removed when the deployment is laid out again.
            drop(fs::remove_dir_all(part.path()));
        }
    }
}

/// One revision is laid out at a time.
static STAGING: Mutex<()> = Mutex::new(());

const PART: &str = "part";
/// The rights that anything in an archive can have.
const KEPT_MODE: u32 = 0o755;

fn make_directories(manifest: &Manifest, part: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(KEPT_MODE).create(part)?;
    let all = manifest.entries.iter().filter(|entry| entry.kind == EntryKind::Directory);
    // Parents come first.
    all.into_iter()
        .try_for_each(|entry| fs::DirBuilder::new().mode(KEPT_MODE).create(part.join(&entry.path)))
}

fn write_entry(frames: &mut Frames<'_>, kind: &EntryKind, path: &Path) -> io::Result<()> {
    let (hash, chunks) = match kind {
        EntryKind::Directory => return Ok(()),
        EntryKind::Symlink { target } => return symlink(target, path),
        EntryKind::File { hash, chunks, .. } => (hash, chunks),
    };
    let mut file = create(path)?;
    let mut hasher = blake3::Hasher::new();
    for chunk in chunks {
        let bytes = frames.chunk(chunk)?;
        hasher.update(bytes);
        file.write_all(bytes)?;
    }
    if Digest(*hasher.finalize().as_bytes()) != *hash {
        return Err(io::Error::other("a file does not have the hash that it should"));
    }
    end(&file, kind)
}

/// Makes a file of an archive. Nobody else looks into it before it is complete.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Gives a file of an archive, whose content is complete, its mode and its time.
pub(crate) fn end(file: &File, kind: &EntryKind) -> io::Result<()> {
    let EntryKind::File { mode, modified, .. } = kind else { return Ok(()) };
    // What root runs from here one day nobody else writes to, whatever mode it has where it is installed.
    file.set_permissions(fs::Permissions::from_mode(u32::from(*mode) & KEPT_MODE))?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(modified.0);
    file.set_times(FileTimes::new().set_modified(at))
}

/// Frames of the store, the last one kept decompressed: chunks mostly follow each other.
struct Frames<'a> {
    config: &'a Config,
    manifest: &'a Manifest,
    raw: Option<(u32, Vec<u8>)>,
}

impl Frames<'_> {
    fn chunk(&mut self, chunk: &Chunk) -> io::Result<&[u8]> {
        if self.raw.as_ref().is_none_or(|(index, _)| *index != chunk.frame) {
            let index = usize::try_from(chunk.frame).unwrap_or(usize::MAX);
            let frame = self.manifest.frames.get(index);
            let frame = frame.ok_or_else(|| io::Error::other("a chunk is in no frame"))?;
            self.raw = Some((chunk.frame, self.open(frame)?));
        }
        let (_, raw) = self.raw.as_ref().ok_or_else(|| io::Error::other("no frame"))?;
        chunk_of(raw, chunk).map_err(io::Error::other)
    }

    fn open(&self, frame: &Frame) -> io::Result<Vec<u8>> {
        let path = self.config.frame_file(&frame.hash);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("frame {}: {error}", path.display()))
        };
        let bytes = regular::read(&path, FRAME_BYTES_MAX).map_err(named)?;
        if Digest::of_content(&bytes) != frame.hash {
            return Err(io::Error::other(format!("frame {} is damaged", path.display())));
        }
        let raw_bytes = usize::try_from(frame.raw_bytes).unwrap_or(usize::MAX);
        let raw =
            zstd::bulk::decompress(&bytes, raw_bytes.min(FRAME_RAW_BYTES_MAX)).map_err(named)?;
        if raw.len() == raw_bytes {
            return Ok(raw);
        }
        Err(io::Error::other(format!("frame {} has another length", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use groundswell_protocol::{
        ids::DeploymentId,
        revision::{AppSpec, Publisher},
        time::UnixSeconds,
    };

    use super::*;

    const FILES: usize = 200;

    /// A host whose store has one revision.
    fn host(dir: &Path) -> (Config, Manifest) {
        let config = Config {
            root_dir: dir.join("root"),
            store_dir: dir.join("store"),
            ..Config::default()
        };
        let mut publisher = Publisher::new(AppSpec::default()).unwrap();
        let mut frames = Vec::new();
        for number in 0..FILES {
            publisher.begin_file(&format!("f{number:03}"), 0o644, UnixSeconds(1)).unwrap();
            frames.extend(publisher.write(number.to_string().as_bytes()).unwrap());
            frames.extend(publisher.end_file().unwrap());
        }
        let published = publisher.finish().unwrap();
        for (frame, bytes) in frames.into_iter().chain(published.frames) {
            let path = config.frame_file(&frame.hash);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        (config, published.manifest)
    }

    #[test]
    fn requests_for_one_archive_at_the_same_time_make_it_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (config, manifest) = host(dir.path());
        let (group, id) =
            (GroupName::new("web").unwrap(), DeploymentId::of(Digest::ZERO, false).into());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| lay_out(&config, &manifest, &group, id).unwrap());
            }
        });
        let archive = config.archive(&group, id);
        assert_eq!(fs::read_dir(&archive).unwrap().count(), FILES);
        assert_eq!(fs::read_to_string(archive.join("f123")).unwrap(), "123");
        assert_eq!(fs::read(config.own_manifest(&group, id)).unwrap(), manifest.to_bytes());
    }

    #[test]
    fn what_was_half_laid_out_is_removed_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let (config, manifest) = host(dir.path());
        let (group, id) =
            (GroupName::new("web").unwrap(), DeploymentId::of(Digest::ZERO, false).into());
        clear(&config);
        lay_out(&config, &manifest, &group, id).unwrap();
        let half = config
            .archive(&group, DeploymentId::of(Digest::ZERO, true).into())
            .with_extension(PART);
        fs::create_dir_all(half.join("sub")).unwrap();
        clear(&config);
        assert!(!half.exists() && config.archive(&group, id).is_dir());
    }

    #[test]
    fn old_deployments_go_but_for_the_only_copies_of_old_files() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { root_dir: dir.path().join("root"), ..Config::default() };
        let group = GroupName::new("web").unwrap();
        let deployment = |number: u8| {
            let name = DeploymentId::of(Digest([number; 32]), false).into();
            let dir = config.deployment_dir(&group, name);
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        let all: Vec<_> = (0..5).map(deployment).collect();
        fs::write(all[1].join("undo"), "").unwrap();
        fs::write(all[4].join("before"), "").unwrap();
        clear_old(&config, &group, &BTreeSet::from([all[2].clone()]), 1);
        assert!(!all[0].exists() && !all[3].exists());
        assert!(all[1].exists() && all[2].exists() && all[4].exists());
    }

    #[test]
    fn a_frame_that_is_a_pipe_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (config, manifest) = host(dir.path());
        let frame = config.frame_file(&manifest.frames[0].hash);
        fs::remove_file(&frame).unwrap();
        nix::unistd::mkfifo(&frame, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (group, id) =
            (GroupName::new("web").unwrap(), DeploymentId::of(Digest::ZERO, false).into());
        let refused = lay_out(&config, &manifest, &group, id).unwrap_err();
        assert!(refused.contains("no regular file"), "{refused}");
    }
}

//! Files that an earlier deployment of the group has laid out already: the new one shares their blocks.
//!
//! Only where the file system copies what is written to, as btrfs and XFS do. Elsewhere a second name would save as
//! much room, and is not given: a script may write to its revision, and what it wrote would be in that of the
//! other deployment as well, from which the way back takes what a script has removed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    ids::GroupName,
    limits::MANIFEST_BYTES_MAX,
    revision::{EntryKind, Manifest},
};
use rustix::fs::ioctl_ficlone;

use crate::{
    config::Config,
    layout::{ARCHIVE, MANIFEST},
    regular, stage,
};

/// Makes those files of a revision in `part` that a deployment of the group has, too, each byte checked. Gives
/// their paths; to write all others is for the caller.
pub(crate) fn share<'a>(
    config: &Config,
    group: &GroupName,
    manifest: &'a Manifest,
    part: &Path,
) -> BTreeSet<&'a str> {
    let (mut wanted, mut shared) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
    for entry in &manifest.entries {
        // What is empty has no blocks.
        if let EntryKind::File { hash, size: 1.., .. } = &entry.kind {
            wanted.entry(*hash).or_default().push(entry);
        }
    }
    for dir in newest_first(&config.root_dir.join(group.as_str())) {
        let Ok(earlier) = read_manifest(&dir.join(MANIFEST)) else { continue };
        for entry in &earlier.entries {
            let EntryKind::File { hash, .. } = &entry.kind else { continue };
            let Some(same) = wanted.get_mut(hash) else { continue };
            let source = regular::open(&dir.join(ARCHIVE).join(&entry.path));
            let Ok(source) = source else { continue };
            while let Some(new) = same.pop() {
                match clone(&source, &part.join(&new.path), &new.kind) {
                    Ok(true) => _ = shared.insert(new.path.as_str()),
                    // A script has written to it: another deployment may have it as it was.
                    Ok(false) => {
                        same.push(new);
                        break;
                    }
                    // This file system shares nothing, or has no room even for that.
                    Err(_) => return shared,
                }
            }
        }
    }
    shared
}

/// Makes a file of the blocks of another. False if that is not what it was.
fn clone(source: &File, path: &Path, kind: &EntryKind) -> io::Result<bool> {
    // A script may have let it grow: that is not read to its end to say so.
    if source.metadata()?.len() != kind.size() {
        return Ok(false);
    }
    let file = stage::create(path)?;
    let shared = ioctl_ficlone(&file, source);
    let is_same =
        shared.is_ok() && is_whole(&file, kind).unwrap_or(false) && stage::end(&file, kind).is_ok();
    if !is_same {
        fs::remove_file(path)?;
    }
    shared?;
    Ok(is_same)
}

/// True if its content is what it should be.
fn is_whole(file: &File, kind: &EntryKind) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(matches!(kind, EntryKind::File { hash, .. } if hash.0 == *hasher.finalize().as_bytes()))
}

fn newest_first(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries
        .filter_map(|entry| Some((Reverse(entry.metadata().ok()?.modified().ok()?), entry.path())))
        .collect();
    all.sort();
    all.into_iter().map(|(_, path)| path).collect()
}

fn read_manifest(path: &Path) -> io::Result<Manifest> {
    Manifest::from_bytes(&regular::read(path, MANIFEST_BYTES_MAX)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::MetadataExt};

    use groundswell_protocol::{
        ids::{DeploymentId, Digest},
        revision::{AppSpec, Publisher},
        time::UnixSeconds,
    };
    use nix::{sys::statvfs::statvfs, unistd::syncfs};
    use tempfile::TempDir;

    use super::*;
    use crate::{deployment::DeploymentName, disk::Disk};

    const FILE_BYTES: usize = 1 << 20;
    const FILES: u8 = 16;

    /// A host that lays revisions out in `root`.
    struct Host {
        config: Config,
        dir: TempDir,
        group: GroupName,
        deployments: u8,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = Config {
                root_dir: dir.path().join("root"),
                store_dir: dir.path().join("store"),
                ..Config::default()
            };
            fs::create_dir(&config.root_dir).unwrap();
            Self { config, dir, group: GroupName::new("web").unwrap(), deployments: 0 }
        }

        /// Lays out a revision in which each file is made of a number. Gives its archive.
        fn lay_out(&mut self, files: &[(String, u8)]) -> PathBuf {
            let mut publisher = Publisher::new(AppSpec::default()).unwrap();
            let mut frames = Vec::new();
            for (name, number) in files {
                publisher.begin_file(name, 0o644, UnixSeconds(u64::from(*number))).unwrap();
                frames.extend(publisher.write(&content(*number)).unwrap());
                frames.extend(publisher.end_file().unwrap());
            }
            let published = publisher.finish().unwrap();
            for (frame, bytes) in frames.into_iter().chain(published.frames) {
                let path = self.config.frame_file(&frame.hash);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            self.deployments += 1;
            let id: DeploymentName = DeploymentId::of(Digest([self.deployments; 32]), false).into();
            stage::lay_out(&self.config, &published.manifest, &self.group, id).unwrap();
            self.config.archive(&self.group, id)
        }

        /// Bytes that are taken where revisions are laid out.
        fn taken(&self) -> u64 {
            let root = File::open(&self.config.root_dir).unwrap();
            syncfs(&root).unwrap();
            let there = statvfs(&self.config.root_dir).unwrap();
            (there.blocks() - there.blocks_free()) * there.fragment_size()
        }
    }

    /// Bytes that cannot be made fewer.
    fn content(number: u8) -> Vec<u8> {
        let mut bytes = vec![0; FILE_BYTES];
        blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn files(numbers: impl Iterator<Item = u8>) -> Vec<(String, u8)> {
        numbers.enumerate().map(|(at, number)| (format!("f{at:02}"), number)).collect()
    }

    fn assert_is(archive: &Path, files: &[(String, u8)]) {
        for (name, number) in files {
            let path = archive.join(name);
            assert!(fs::read(&path).unwrap() == content(*number), "{name}");
            let there = fs::metadata(&path).unwrap();
            assert_eq!((there.mode() & 0o7777, there.mtime()), (0o644, i64::from(*number)));
            assert_eq!(there.nlink(), 1, "{name}");
        }
    }

    #[test]
    fn a_revision_takes_the_room_of_what_is_new_in_it() {
        let mut host = Host::new();
        let image = host.dir.path().join("image");
        let disk = Disk::make("btrfs", &image, 256 << 20, &host.config.root_dir, "defaults");
        let Some(_disk) = disk else { return };
        let empty = host.taken();
        let first = files(0..FILES);
        let one = host.lay_out(&first);
        let whole = host.taken() - empty;
        assert!(whole >= u64::from(FILES) << 20, "{whole}");
        // One file is new, one was moved, one is there twice.
        let mut second = first.clone();
        second[0].1 = 100;
        second[1].0 = "moved".into();
        second.push(("twice".into(), 5));
        second.sort();
        let two = host.lay_out(&second);
        let new = host.taken() - empty - whole;
        assert!(new < 3 << 20, "{new} bytes are new");
        assert_is(&one, &first);
        assert_is(&two, &second);
        // What a script writes to the one is not in the other, nor in the next.
        fs::write(two.join("f05"), content(77)).unwrap();
        fs::write(two.join("f07"), "written").unwrap();
        fs::remove_file(two.join("f06")).unwrap();
        let three = host.lay_out(&second);
        assert_is(&one, &first);
        assert_is(&three, &second);
        let again = host.taken() - empty - whole - new;
        assert!(again < 3 << 20, "{again} bytes are new");
    }

    #[test]
    fn where_nothing_can_be_shared_a_revision_has_files_of_its_own() {
        let mut host = Host::new();
        let first = files(0..3);
        let one = host.lay_out(&first);
        let two = host.lay_out(&first);
        let inodes = |archive: &Path| -> BTreeMap<_, _> {
            let names = first.iter().map(|(name, _)| name.clone());
            names.map(|name| (fs::metadata(archive.join(&name)).unwrap().ino(), name)).collect()
        };
        assert!(inodes(&one).keys().all(|inode| !inodes(&two).contains_key(inode)));
        assert_is(&one, &first);
        assert_is(&two, &first);
    }
}

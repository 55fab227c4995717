//! Room on the host's file systems, asked for before anything is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::geteuid,
};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// What is going to be written.
#[derive(Default)]
pub(crate) struct Needed<'a> {
    /// By the file system that takes it.
    needs: BTreeMap<u64, Need<'a>>,
    /// Where. One file system may be mounted in several places, in one of them read-only.
    dirs: BTreeSet<&'a Path>,
    /// The last directory that was asked about, and its file system: mostly the next one is the same.
    last: Option<(&'a Path, u64)>,
}

struct Need<'a> {
    at: &'a Path,
    bytes: u64,
    files: u64,
}

impl<'a> Needed<'a> {
    /// One more file of this length, in a directory that need not be there yet.
    pub(crate) fn file(&mut self, dir: &'a Path, bytes: u64) {
        let device = match self.last {
            Some((last, device)) if last.as_os_str() == dir.as_os_str() => device,
            _ => {
                let there = |at: &'a Path| Some((at, fs::metadata(at).ok()?.dev()));
                let Some((at, device)) = dir.ancestors().find_map(there) else { return };
                self.dirs.insert(at);
                self.needs.entry(device).or_insert(Need { at, bytes: 0, files: 0 });
                self.last = Some((dir, device));
                device
            }
        };
        let Some(need) = self.needs.get_mut(&device) else { return };
        need.bytes = need.bytes.saturating_add(bytes.next_multiple_of(BLOCK_BYTES));
        need.files += 1;
    }

    /// Refuses what does not fit, or where nothing can be written. Others may fill a file system all the same
    /// before it is needed.
    pub(crate) fn check(&self) -> Result<(), String> {
        for dir in &self.dirs {
            let shown = dir.display();
            let there = statvfs(*dir).map_err(|error| format!("{shown}: {error}"))?;
            if there.flags().contains(FsFlags::ST_RDONLY) {
                return Err(format!("{shown} is mounted read-only: mount it for writing, too"));
            }
        }
        self.needs.values().try_for_each(|need| {
            let at = need.at.display();
            let (bytes, files) = free(need.at).map_err(|error| format!("{at}: {error}"))?;
            for (what, needed, free) in
                [("bytes", need.bytes, bytes), ("files", need.files, files)]
            {
                if free.is_some_and(|free| free < needed) {
                    let free = free.unwrap_or_default();
                    return Err(format!(
                        "the file system of {at} has no room: {needed} {what} are needed and {free} \
                         are free; make room there"
                    ));
                }
            }
            Ok(())
        })
    }
}

/// What a file is part of: beyond it nothing can have a second name. One file system may be mounted in several
/// places, as systemd does it for whatever a unit may write to; Linux before 5.8 does not tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    device: (u32, u32),
    id: u64,
}

impl Mount {
    /// The mount that a directory is in.
    pub(crate) fn of(dir: &Path) -> io::Result<Self> {
        let there = statx(CWD, dir, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
        let device = (there.stx_dev_major, there.stx_dev_minor);
        Ok(Self { device, id: there.stx_mnt_id })
    }
}

/// How many bytes and files may be made; none where a file system knows no end.
fn free(at: &Path) -> io::Result<(Option<u64>, Option<u64>)> {
    let there = statvfs(at)?;
    let (blocks, files) = match geteuid().is_root() {
        true => (there.blocks_free(), there.files_free()),
        false => (there.blocks_available(), there.files_available()),
    };
    let bytes = blocks.saturating_mul(there.fragment_size());
    Ok(((there.blocks() > 0).then_some(bytes), (there.files() > 0).then_some(files)))
}

/// What a file takes at least, on most file systems.
const BLOCK_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("not/there/yet");
        let mut needed = Needed::default();
        needed.file(&place, 1);
        needed.file(dir.path(), 1);
        assert_eq!(needed.check(), Ok(()));
        needed.file(&place, 1 << 60);
        let refused = needed.check().unwrap_err();
        let shown = format!("the file system of {} has no room", dir.path().display());
        assert!(refused.contains(&shown) && refused.contains("1152921504606855168"), "{refused}");
        // What is not on a disk has no end.
        let mut needed = Needed::default();
        needed.file(Path::new("/proc/self"), 1 << 60);
        assert_eq!(needed.check(), Ok(()));
    }
}

//! What is in place before the first script of a deployment runs, kept until the deployment has ended.
//!
//! What Install saves is what it finds. A script that runs before it may have removed all of that, as many
//! do that make room for what comes, and some remove more than they should. So each file has a second name
//! by then, and each directory is noted; after a failure all of it is looked for, and what is missing is put back.
//!
//! A second name keeps what somebody removes or replaces. What is written into the file itself is in both. Then
//! the revision's archive has it as it was, unless the file had been written to since it was installed:
//! that is the application's own, or a person's, and stays as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use groundswell_protocol::ids::Nonce;
use nix::sys::stat::FileStat;
use serde::{Deserialize, Serialize};

use crate::{
    extended,
    install::{self, Attributes, Belongings, absent_is_none, gone, named},
    journal::{durable, read_sealed, write_sealed},
    place::{Dir, Kind, Parents},
};

/// The list of what was kept; what has second names has them by its order.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// What makes the names of unfinished files unpredictable.
    secret: Nonce,
    files: Vec<KeptFile>,
    /// Parents first.
    directories: Vec<(PathBuf, Attributes)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptFile {
    path: PathBuf,
    was: Was,
    /// The same file in the archive of its revision, if nobody had written to it.
    archived: Option<PathBuf>,
}

/// By what a file is known to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Was {
    device: u64,
    inode: u64,
    content: Content,
    mode: u32,
    owner: u32,
    group: u32,
}

/// By what the content of a file is known to be the same: its length and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content(u64, i64, i64);

impl Was {
    fn of(there: &FileStat) -> Self {
        Self {
            device: there.st_dev,
            inode: there.st_ino,
            content: Content::of(there),
            mode: there.st_mode & 0o7777,
            owner: there.st_uid,
            group: there.st_gid,
        }
    }

    fn is_same_file(&self, now: &Self) -> bool {
        (self.device, self.inode) == (now.device, now.inode)
    }
}

impl Content {
    fn of(there: &FileStat) -> Self {
        Self(u64::try_from(there.st_size).unwrap_or(0), there.st_mtime, there.st_mtime_nsec)
    }
}

/// Keeps what a revision put in place and whatever else is at `places`, in the deployment's directory. The
/// archive of the revision has the files at `archived`, by their places.
pub(crate) fn keep(
    dir: &Path,
    before: &Belongings,
    places: impl Iterator<Item = PathBuf>,
    archived: &BTreeMap<PathBuf, Option<PathBuf>>,
) -> io::Result<()> {
    forget(dir)?;
    let names = dir.join(NAMES);
    fs::DirBuilder::new().mode(0o700).create(&names)?;
    let kept = keep_in(&names, before, places, archived);
    // For all that had to be copied at once.
    let kept = kept.and_then(|kept| {
        durable(&names, nix::unistd::syncfs(File::open(&names)?).map_err(Into::into));
        write_sealed(&dir.join(LIST), &kept)
    });
    kept.inspect_err(|_| drop(fs::remove_dir_all(&names)))
}

fn keep_in(
    names: &Path,
    before: &Belongings,
    places: impl Iterator<Item = PathBuf>,
    archived: &BTreeMap<PathBuf, Option<PathBuf>>,
) -> io::Result<Kept> {
    let names = Dir::open(&fs::canonicalize(names)?)?;
    let (mut parents, mut archives) = (Parents::default(), Parents::default());
    let mut files: Vec<KeptFile> = Vec::new();
    let all: BTreeSet<PathBuf> = before.files().cloned().chain(places).collect();
    for path in all {
        let found = parents.of(&path).and_then(|(dir, name)| {
            let Some(there) = dir.stat(name)? else { return Ok(None) };
            let is_kept = Kind::of(&there) != Kind::Directory
                && dir.copy(name, &names, number(files.len()).as_ref())?;
            Ok(is_kept.then(|| Was::of(&there)))
        });
        let Some(was) = install::absent_is_fine(&path, found)?.flatten() else { continue };
        let archived = archived.get(&path).cloned().flatten().filter(|archived| {
            let there = archives.of(archived).and_then(|(dir, name)| dir.stat(name));
            there.is_ok_and(|there| there.is_some_and(|it| Content::of(&it) == was.content))
        });
        files.push(KeptFile { path, was, archived });
    }
    let places = files.iter().map(|file| &file.path).chain(before.directories());
    let directories = install::around(places.map(PathBuf::as_path), before.directories())?;
    Ok(Kept { secret: install::secret()?, files, directories })
}

/// Puts back what is not there any more, or not as it was. Does nothing if nothing was kept, and can be
/// repeated until it succeeds: then all of it is there.
pub(crate) fn put_back(dir: &Path) -> io::Result<()> {
    let Some(kept): Option<Kept> = absent_is_none(read_sealed(&dir.join(LIST)))? else {
        return forget(dir);
    };
    install::put_around_back(&kept.directories)?;
    let names = Dir::open(&fs::canonicalize(dir.join(NAMES))?)?;
    let mut parents = Parents::default();
    for (file, at) in kept.files.iter().zip(0..) {
        let done = parents.of(&file.path).and_then(|(dir, name)| {
            let beside = install::beside(&file.path, kept.secret);
            file.put_back(&names, number(at).as_ref(), dir, name, &beside)
        });
        named(&file.path, done)?;
    }
    install::put_times_back(&kept.directories)?;
    let directories = kept.directories.iter().map(|(path, _)| path.as_path());
    install::sync(dir, kept.files.iter().map(|file| file.path.as_path()).chain(directories))?;
    forget(dir)
}

impl KeptFile {
    fn put_back(
        &self,
        names: &Dir,
        kept_as: &OsStr,
        dir: &Dir,
        name: &OsStr,
        beside: &OsStr,
    ) -> io::Result<()> {
        let now = dir.stat(name)?.map(|there| Was::of(&there));
        if now == Some(self.was) {
            return Ok(());
        }
        dir.remove(beside)?;
        let second = names.stat(kept_as)?.ok_or(io::ErrorKind::NotFound)?;
        let same = now.filter(|now| now.is_same_file(&self.was));
        let was_written_to = Content::of(&second) != self.was.content
            || same.is_some_and(|now| now.content != self.was.content);
        match &self.archived {
            _ if dir.kind(name)? == Some(Kind::Directory) => {
                let problem = "a directory is where a file was: move it away";
                return Err(io::Error::new(io::ErrorKind::IsADirectory, problem));
            }
            Some(archived) if was_written_to => {
                let (archive, archived) = Dir::of(archived)?;
                archive.duplicate(archived, dir, beside)?;
                let attributes = extended::read(&names.read(kept_as)?.0)?;
                let named = attributes.iter().map(|(name, value)| (name.as_str(), &value[..]));
                extended::write(&dir.read(beside)?.0, named)?;
                dir.rename(beside, name)?;
            }
            _ if same.is_some() => {}
            _ => {
                names.copy(kept_as, dir, beside)?;
                dir.rename(beside, name)?;
                // Where both are names of one file already, renaming leaves both.
                dir.remove(beside)?;
            }
        }
        self.give_rights_back(dir, name)
    }

    fn give_rights_back(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        let Was { mode, owner, group, .. } = self.was;
        if dir.kind(name)? != Some(Kind::Other) {
            return Ok(());
        }
        let (file, there) = dir.read(name)?;
        if (there.uid(), there.gid(), there.mode() & 0o7777) != (owner, group, mode) {
            // The owner first: changing it takes a set-uid bit away.
            fchown(&file, Some(owner), Some(group))?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}

/// True if something is kept in `dir` that was not put back, and may have to be.
pub(crate) fn is_needed(dir: &Path) -> bool {
    dir.join(LIST).exists()
}

/// Drops what is kept.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    if absent_is_none(fs::remove_file(dir.join(LIST)))?.is_some() {
        // A list that came back after a loss of power would miss the files.
        durable(dir, File::open(dir)?.sync_all());
    }
    gone(fs::remove_dir_all(dir.join(NAMES)))
}

fn number(at: usize) -> String {
    at.to_string()
}

const LIST: &str = "before";
const NAMES: &str = "kept";

//! What is in place before the first script of a deployment runs, kept until the deployment has ended.
//!
//! What Install saves is what it finds. A script that runs before it may have removed all of that, as many
//! do that make room for what comes, and some remove more than they should. So each file and directory is noted
//! by then; after a failure all of it is looked for, and what is missing is put back.
//!
//! A file that nobody has written to since it was installed is in the archive of its revision, which stays. Any
//! other has a second name. That keeps what somebody removes or replaces; what is written into the file itself is
//! the application's own, or a person's, and stays as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use groundswell_protocol::ids::Nonce;
use nix::sys::stat::{FileStat, SFlag, fstat};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    extended,
    install::{self, Attributes, Belongings, absent_is_none, gone, named},
    journal::{durable, read_sealed, write_sealed},
    place::{self, Dir, Kind, Parents},
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
    /// None if it has a second name.
    archived: Option<Archived>,
    /// None if it is in the archive, too, or its file system does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<(i64, u32)>,
}

/// The same file in the archive of its revision, if nobody had written to it.
#[derive(Debug, Serialize, Deserialize)]
struct Archived {
    path: PathBuf,
    /// What it had beside, and the archive has not.
    extended: Vec<(String, ByteBuf)>,
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

    fn has_rights_of(&self, other: &Self) -> bool {
        (self.owner, self.group, self.mode) == (other.owner, other.group, other.mode)
    }

    /// First: it takes capabilities and a set-uid bit away.
    fn give_owner(&self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.owner), Some(self.group))
    }

    fn give_mode(&self, file: &File) -> io::Result<()> {
        file.set_permissions(fs::Permissions::from_mode(self.mode))
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
            let there = dir.stat(name)?.filter(|there| Kind::of(there) != Kind::Directory);
            let Some(was) = there.map(|there| Was::of(&there)) else { return Ok(None) };
            let archived = archived.get(&path).and_then(Option::as_ref);
            let archived =
                archived.and_then(|path| Archived::of(path, &mut archives, &was, dir, name));
            let is_kept =
                archived.is_some() || dir.copy(name, &names, number(files.len()).as_ref())?;
            // Where it has a second name, that holds the number as well; a copy does not.
            let born = if archived.is_none() && is_kept { dir.born(name)? } else { None };
            Ok(is_kept.then_some((was, archived, born)))
        });
        if let Some((was, archived, born)) = install::absent_is_fine(&path, found)?.flatten() {
            files.push(KeptFile { path, was, archived, born });
        }
    }
    let places = files.iter().map(|file| &file.path).chain(before.directories());
    let directories = install::around(places.map(PathBuf::as_path), before.directories())?;
    Ok(Kept { secret: install::secret()?, files, directories })
}

/// Copies once more what has been written to since it was copied. Install is about to replace it, and where there is
/// no second name nobody could tell any more whose the file is that comes back.
pub(crate) fn refresh(dir: &Path) -> io::Result<()> {
    let kept: Option<Kept> = absent_is_none(read_sealed(&dir.join(LIST)))?;
    let Some(kept) = kept else { return Ok(()) };
    let at_names = dir.join(NAMES);
    let (names, mut parents) = (Dir::open(&fs::canonicalize(&at_names)?)?, Parents::default());
    let mut is_new = false;
    for (file, at) in kept.files.iter().zip(0..).filter(|(file, _)| file.archived.is_none()) {
        let done = parents
            .of(&file.path)
            .and_then(|(dir, name)| file.refresh(&names, number(at).as_ref(), dir, name));
        is_new |= install::absent_is_fine(&file.path, done)?.unwrap_or(false);
    }
    if is_new {
        durable(&at_names, nix::unistd::syncfs(names.file()?).map_err(Into::into));
    }
    Ok(())
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
    /// True if it has been written to since, and had to be copied.
    fn refresh(&self, names: &Dir, kept_as: &OsStr, dir: &Dir, name: &OsStr) -> io::Result<bool> {
        let Some(there) = dir.stat(name)?.filter(is_regular) else { return Ok(false) };
        let now = Was::of(&there);
        let is_link =
            names.stat(kept_as)?.is_none_or(|kept| self.was.is_same_file(&Was::of(&kept)));
        if is_link || now.content == self.was.content || !self.is(&now, dir, name)? {
            return Ok(false);
        }
        let beside = OsStr::new("new");
        names.remove(beside)?;
        if !dir.duplicate(name, names, beside)? {
            return Ok(false);
        }
        let (copy, _) = names.read(beside)?;
        // It has those of what was copied.
        if !Was::of(&fstat(&copy)?).has_rights_of(&now) {
            return Err(io::Error::other(place::REPLACED));
        }
        if !now.has_rights_of(&self.was) {
            self.was.give_owner(&copy)?;
            self.was.give_mode(&copy)?;
        }
        names.rename(beside, kept_as)?;
        Ok(true)
    }

    /// True if what is at its place is the file itself, whatever was written into it.
    fn is(&self, now: &Was, dir: &Dir, name: &OsStr) -> io::Result<bool> {
        Ok(now.is_same_file(&self.was) && (self.born.is_none() || self.born == dir.born(name)?))
    }

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
        if dir.kind(name)? == Some(Kind::Directory) {
            let problem = "a directory is where a file was: move it away";
            return Err(io::Error::new(io::ErrorKind::IsADirectory, problem));
        }
        let same = match now {
            Some(now) if self.is(&now, dir, name)? => Some(now),
            _ => None,
        };
        let is_as_it_was = same.is_some_and(|now| now.content == self.was.content);
        if is_as_it_was || self.archived.is_none() && same.is_some() {
            return match self.give_rights_back(dir, name)? {
                true => Ok(()),
                false => Err(io::Error::other(place::REPLACED)),
            };
        }
        dir.remove(beside)?;
        match &self.archived {
            Some(archived) => archived.copy(&self.was, dir, beside)?,
            None => {
                // Here nobody else changes what a name is of. A copy has the rights that it was made with.
                self.give_rights_back(names, kept_as)?;
                names.copy(kept_as, dir, beside)?;
            }
        }
        dir.rename(beside, name)?;
        // Where both are names of one file already, renaming leaves both.
        dir.remove(beside)
    }

    /// Gives the file itself its rights back. False if it is another one that has the name by now.
    fn give_rights_back(&self, dir: &Dir, name: &OsStr) -> io::Result<bool> {
        if dir.kind(name)? != Some(Kind::Other) {
            return Ok(true);
        }
        let (file, _) = dir.read(name)?;
        let now = Was::of(&fstat(&file)?);
        if !now.is_same_file(&self.was) {
            return Ok(false);
        }
        if !now.has_rights_of(&self.was) {
            self.was.give_owner(&file)?;
            self.was.give_mode(&file)?;
        }
        Ok(true)
    }
}

impl Archived {
    /// None if the archive has not what is in place, or who deploys may not look into it.
    fn of(path: &Path, archives: &mut Parents, was: &Was, dir: &Dir, name: &OsStr) -> Option<Self> {
        let (archive, file) = archives.of(path).ok()?;
        let there = archive.stat(file).ok()??;
        let extended = extended::read(&dir.read(name).ok()?.0).ok()?.into_iter();
        let extended = extended.map(|(name, value)| (name, ByteBuf::from(value))).collect();
        let is_same = Kind::of(&there) == Kind::Other && Content::of(&there) == was.content;
        is_same.then(|| Self { path: path.to_owned(), extended })
    }

    /// Makes the file anew, and gives it all that it had while it is open: whoever owns the directory may put
    /// something else at its name.
    fn copy(&self, was: &Was, dir: &Dir, beside: &OsStr) -> io::Result<()> {
        let (archive, name) = named(&self.path, Dir::of(&self.path))?;
        let is_whole = |there: FileStat| Content::of(&there) == was.content;
        if !named(&self.path, archive.stat(name))?.is_some_and(is_whole) {
            let shown = self.path.display();
            return Err(io::Error::other(format!("{shown} is not what it was installed from")));
        }
        let (mut source, there) = named(&self.path, archive.read(name))?;
        let mut file = dir.create(beside)?;
        io::copy(&mut source, &mut file)?;
        was.give_owner(&file)?;
        let attributes = self.extended.iter().map(|(name, value)| (name.as_str(), &value[..]));
        extended::write(&file, attributes)?;
        was.give_mode(&file)?;
        file.set_times(fs::FileTimes::new().set_modified(there.modified()?))
    }
}

fn is_regular(there: &FileStat) -> bool {
    SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_with_the_number_of_an_old_one_is_not_taken_for_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, name) = (scratch.path().join("file"), OsStr::new("file"));
        fs::write(&path, "1").unwrap();
        let dir = Dir::open(&fs::canonicalize(scratch.path()).unwrap()).unwrap();
        let was = Was::of(&dir.stat(name).unwrap().unwrap());
        let born = dir.born(name).unwrap();
        let kept = |born| KeptFile { path: path.clone(), was, archived: None, born };
        fs::write(&path, "22").unwrap();
        let now = Was::of(&dir.stat(name).unwrap().unwrap());
        assert!(kept(born).is(&now, &dir, name).unwrap());
        assert!(!kept(Some((1, 0))).is(&now, &dir, name).unwrap());
        // Where nobody knows.
        assert!(kept(None).is(&now, &dir, name).unwrap());
    }

    #[test]
    fn rights_go_to_the_file_that_had_them_and_not_to_what_has_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, name) = (scratch.path().join("file"), OsStr::new("file"));
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&path, "ours").unwrap();
        set(0o4755);
        let dir = Dir::open(&fs::canonicalize(scratch.path()).unwrap()).unwrap();
        let was = Was::of(&dir.stat(name).unwrap().unwrap());
        let kept = KeptFile { path: path.clone(), was, archived: None, born: None };
        set(0o600);
        assert!(kept.give_rights_back(&dir, name).unwrap());
        assert_eq!(mode(), 0o4755);
        fs::rename(&path, scratch.path().join("aside")).unwrap();
        fs::write(&path, "theirs").unwrap();
        set(0o600);
        assert!(!kept.give_rights_back(&dir, name).unwrap());
        assert_eq!(mode(), 0o600);
    }
}

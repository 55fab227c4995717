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
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, PermissionsExt, fchown},
    },
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
    /// What it has beside, by name. None if that could not be seen, or nothing can be there.
    extended: Option<Vec<(String, ByteBuf)>>,
    /// The same file in the archive of its revision, if nobody had written to it. Else it has a second name.
    archived: Option<PathBuf>,
    /// None if it is in the archive, too, or its file system does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<(i64, u32)>,
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
            let extended = extended_of(dir, name);
            let archived = archived.get(&path).and_then(Option::as_ref);
            let archived = archived.filter(|path| {
                extended.is_some() && has(path, &mut archives, was.content).unwrap_or(false)
            });
            let is_kept =
                archived.is_some() || dir.copy(name, &names, number(files.len()).as_ref())?;
            // Where it has a second name, that holds the number as well; a copy does not.
            let born = if archived.is_none() && is_kept { dir.born(name)? } else { None };
            Ok(is_kept.then(|| (was, extended, archived.cloned(), born)))
        });
        let found = install::absent_is_fine(&path, found)?.flatten();
        if let Some((was, extended, archived, born)) = found {
            files.push(KeptFile { path, was, extended, archived, born });
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

/// Copies what [`put_back`] would replace, and tells of each where it was and where it is by now. A host that was
/// interrupted may have run for days since: what people and the application have changed meanwhile is theirs.
pub(crate) fn set_aside(dir: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let kept: Option<Kept> = absent_is_none(read_sealed(&dir.join(LIST)))?;
    let (at_aside, mut parents, mut all) = (dir.join(ASIDE), Parents::default(), Vec::new());
    let mut aside = None;
    for (file, at) in kept.iter().flat_map(|kept| &kept.files).zip(0..) {
        let copied = parents.of(&file.path).and_then(|(dir, name)| {
            if !file.is_changed(dir, name)? {
                return Ok(false);
            }
            if aside.is_none() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&at_aside)?;
                aside = Some(Dir::open(&fs::canonicalize(&at_aside)?)?);
            }
            let Some(aside) = &aside else { return Ok(false) };
            aside.remove(number(at).as_ref())?;
            dir.duplicate(name, aside, number(at).as_ref())
        });
        if install::absent_is_fine(&file.path, copied)?.unwrap_or(false) {
            all.push((file.path.clone(), at_aside.join(number(at))));
        }
    }
    if let Some(aside) = aside {
        durable(&at_aside, nix::unistd::syncfs(aside.file()?).map_err(Into::into));
    }
    Ok(all)
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
        self.give_rights(&copy)?;
        names.rename(beside, kept_as)?;
        Ok(true)
    }

    /// True if what is at its place is the file itself, whatever was written into it.
    fn is(&self, now: &Was, dir: &Dir, name: &OsStr) -> io::Result<bool> {
        Ok(now.is_same_file(&self.was) && (self.born.is_none() || self.born == dir.born(name)?))
    }

    /// True if something else is at its place by now, or something else is in it that would not stay.
    fn is_changed(&self, dir: &Dir, name: &OsStr) -> io::Result<bool> {
        let Some(there) = dir.stat(name)?.filter(|it| Kind::of(it) != Kind::Directory) else {
            return Ok(false);
        };
        let now = Was::of(&there);
        let stays = self.archived.is_none() && self.is(&now, dir, name)?;
        Ok(now.content != self.was.content && !stays)
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
        if now == Some(self.was) && self.has_extended(dir, name) {
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
        if is_as_it_was && self.is_trusted() || self.archived.is_none() && same.is_some() {
            return match self.give_rights_back(dir, name)? {
                true => Ok(()),
                false => Err(io::Error::other(place::REPLACED)),
            };
        }
        dir.remove(beside)?;
        match &self.archived {
            Some(archived) => self.copy(archived, dir, beside)?,
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
        let held = dir.hold(name)?;
        let there = fstat(&held)?;
        let now = Was::of(&there);
        if !now.is_same_file(&self.was) {
            return Ok(false);
        }
        if now.has_rights_of(&self.was) && self.has_extended(dir, name) {
            return Ok(true);
        }
        if !self.is_trusted() {
            let problem = "it ran as another or with more, and others may have written to it since: give \
                it that again, or remove it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        let itself = format!("/proc/self/fd/{}", held.as_raw_fd());
        if is_regular(&there) {
            self.give_rights(&File::open(itself)?)?;
        } else {
            place::give_held(&held, self.was.owner, self.was.group)?;
            if Kind::of(&there) != Kind::Link {
                fs::set_permissions(itself, fs::Permissions::from_mode(self.was.mode))?;
            }
        }
        Ok(true)
    }

    /// True if what is at its place has beside it what the file had.
    fn has_extended(&self, dir: &Dir, name: &OsStr) -> bool {
        self.extended.is_none() || extended_of(dir, name) == self.extended
    }

    /// True if the file itself can be given what it had. What the kernel takes from a program that is written to
    /// is not for its content by now, if others than root could write to it.
    fn is_trusted(&self) -> bool {
        let has_capability = |(name, _): &(String, _)| name == extended::CAPABILITY;
        let is_more = self.was.mode & SET_ID != 0
            || self.extended.as_ref().is_some_and(|all| all.iter().any(has_capability));
        !is_more || place::is_root(self.was.owner) && self.was.mode & 0o022 == 0
    }

    /// Gives an open file what it had beside its content.
    fn give_rights(&self, file: &File) -> io::Result<()> {
        let was = &self.was;
        let has_rights = || Ok::<_, io::Error>(Was::of(&fstat(file)?).has_rights_of(was));
        if !has_rights()? {
            // First: it takes capabilities and a set-uid bit away.
            fchown(file, Some(was.owner), Some(was.group))?;
        }
        if let Some(extended) = &self.extended {
            let extended = extended.iter().map(|(name, value)| (name.as_str(), &value[..]));
            extended::put_back(file, extended)?;
        }
        // Of which lists are part.
        if !has_rights()? {
            file.set_permissions(fs::Permissions::from_mode(was.mode))?;
        }
        Ok(())
    }

    /// Makes the file anew of the one in an archive, and gives it all that it had while it is open: whoever owns the
    /// directory may put something else at its name.
    fn copy(&self, archived: &Path, dir: &Dir, beside: &OsStr) -> io::Result<()> {
        let (archive, name) = named(archived, Dir::of(archived))?;
        let is_whole = |there: FileStat| Content::of(&there) == self.was.content;
        if !named(archived, archive.stat(name))?.is_some_and(is_whole) {
            let shown = archived.display();
            return Err(io::Error::other(format!("{shown} is not what it was installed from")));
        }
        let (mut source, there) = named(archived, archive.read(name))?;
        let mut file = dir.create(beside)?;
        io::copy(&mut source, &mut file)?;
        self.give_rights(&file)?;
        file.set_times(fs::FileTimes::new().set_modified(there.modified()?))
    }
}

/// What a regular file has beside. None if it is none, or who deploys may not look into it.
fn extended_of(dir: &Dir, name: &OsStr) -> Option<Vec<(String, ByteBuf)>> {
    let extended = extended::read(&dir.read(name).ok()?.0).ok()?.into_iter();
    let mut all: Vec<_> = extended.map(|(name, value)| (name, ByteBuf::from(value))).collect();
    all.sort();
    Some(all)
}

/// True if an archive has a file with this content.
fn has(path: &Path, archives: &mut Parents, content: Content) -> io::Result<bool> {
    let (archive, file) = archives.of(path)?;
    let there = archive.stat(file)?;
    Ok(there.is_some_and(|there| is_regular(&there) && Content::of(&there) == content))
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

/// The bits of a mode with which a program runs as its owner, or in its group.
const SET_ID: u32 = 0o6000;
const LIST: &str = "before";
const NAMES: &str = "kept";
/// Goes with the deployment's directory.
const ASIDE: &str = "replaced";

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::fs::{MetadataExt, chown, lchown, symlink},
    };

    use rustix::fs::{XattrFlags, removexattr, setxattr};

    use super::*;
    use crate::shown::shown_by_root;

    #[test]
    fn a_new_file_with_the_number_of_an_old_one_is_not_taken_for_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, name) = (scratch.path().join("file"), OsStr::new("file"));
        fs::write(&path, "1").unwrap();
        let dir = Dir::open(&fs::canonicalize(scratch.path()).unwrap()).unwrap();
        let was = Was::of(&dir.stat(name).unwrap().unwrap());
        let born = dir.born(name).unwrap();
        let kept =
            |born| KeptFile { path: path.clone(), was, extended: None, archived: None, born };
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
        let kept = KeptFile { path: path.clone(), was, extended: None, archived: None, born: None };
        set(0o600);
        assert!(kept.give_rights_back(&dir, name).unwrap());
        assert_eq!(mode(), 0o4755);
        fs::rename(&path, scratch.path().join("aside")).unwrap();
        fs::write(&path, "theirs").unwrap();
        set(0o600);
        assert!(!kept.give_rights_back(&dir, name).unwrap());
        assert_eq!(mode(), 0o600);
    }

    /// What a file has beside its content, and how a script changes that.
    #[test]
    fn what_a_script_has_changed_of_a_file_beside_its_content_comes_back() {
        if !shown_by_root() {
            return;
        }
        let capability = [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat();
        let attribute = |name: &'static str, value: &[u8]| {
            let value = value.to_vec();
            move |path: &Path| setxattr(path, name, &value, XattrFlags::empty()).unwrap()
        };
        let list = |path: &Path| {
            let file = File::open(path).unwrap();
            let acl = crate::acl::Acl::resolve(&["u:12345:rw".into()]).unwrap();
            acl.apply(&file, 0o640, true).unwrap();
        };
        let no_list = |path: &Path| removexattr(path, crate::acl::ACCESS).unwrap();
        let can = attribute(extended::CAPABILITY, &capability);
        let away = |path: &Path| chown(path, Some(12345), None).unwrap();
        let noted = attribute("user.note", b"theirs");
        let nothing = |_: &Path| {};
        type Change<'a> = &'a dyn Fn(&Path);
        let cases: [(Change<'_>, Change<'_>); 5] = [
            (&can, &away),
            (&nothing, &can),
            (&nothing, &list),
            (&list, &no_list),
            (&list, &noted),
        ];
        for (number, (before, script)) in cases.into_iter().enumerate() {
            for is_archived in [false, true] {
                let host = Scratch::new();
                before(&host.file);
                let was = host.beside();
                host.keep(is_archived);
                script(&host.file);
                assert_ne!(host.beside(), was, "{number}");
                put_back(&host.dir).unwrap();
                assert_eq!(host.beside(), was, "{number} {is_archived}");
            }
        }
    }

    #[test]
    fn what_others_may_have_written_to_is_not_given_the_power_of_what_was_there() {
        if !shown_by_root() {
            return;
        }
        for is_archived in [false, true] {
            let host = Scratch::new();
            chown(&host.file, Some(12345), Some(12345)).unwrap();
            fs::set_permissions(&host.file, fs::Permissions::from_mode(0o2755)).unwrap();
            host.keep(is_archived);
            // Of the same length and time, as its owner can make it.
            let time = fs::metadata(&host.file).unwrap().modified().unwrap();
            let mut file = File::options().write(true).open(&host.file).unwrap();
            file.write_all(b"evil").unwrap();
            file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
            fs::set_permissions(&host.file, fs::Permissions::from_mode(0o755)).unwrap();
            let done = put_back(&host.dir);
            let there = fs::metadata(&host.file).unwrap().permissions().mode() & 0o7777;
            let content = fs::read_to_string(&host.file).unwrap();
            match is_archived {
                true => assert_eq!((there, content.as_str()), (0o2755, "ours")),
                false => {
                    assert_eq!((there, content.as_str()), (0o755, "evil"));
                    let problem = done.unwrap_err().to_string();
                    assert!(problem.contains("others may have written to it"), "{problem}");
                }
            }
        }
    }

    #[test]
    fn a_pipe_that_was_used_and_a_link_that_was_given_away_come_back() {
        if !shown_by_root() {
            return;
        }
        let host = Scratch::new();
        fs::remove_file(&host.file).unwrap();
        nix::unistd::mkfifo(&host.file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        host.keep(false);
        fs::set_permissions(&host.file, fs::Permissions::from_mode(0o777)).unwrap();
        let mut pipe = File::options().read(true).write(true).open(&host.file).unwrap();
        pipe.write_all(b"x").unwrap();
        put_back(&host.dir).unwrap();
        let there = fs::metadata(&host.file).unwrap();
        assert_eq!((there.permissions().mode() & 0o7777, there.uid()), (0o700, 0));

        let host = Scratch::new();
        fs::remove_file(&host.file).unwrap();
        symlink("elsewhere", &host.file).unwrap();
        host.keep(false);
        lchown(&host.file, Some(12345), None).unwrap();
        put_back(&host.dir).unwrap();
        assert_eq!(fs::symlink_metadata(&host.file).unwrap().uid(), 0);
    }

    /// A host with one file, which its archive has, too.
    struct Scratch {
        _scratch: tempfile::TempDir,
        file: PathBuf,
        archived: PathBuf,
        dir: PathBuf,
    }

    impl Scratch {
        fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let at = |name: &str| fs::canonicalize(scratch.path()).unwrap().join(name);
            let (file, archived, dir) = (at("file"), at("archived"), at("deployment"));
            fs::create_dir(&dir).unwrap();
            for path in [&file, &archived] {
                fs::write(path, "ours").unwrap();
                let time = std::time::SystemTime::UNIX_EPOCH;
                let file = File::options().write(true).open(path).unwrap();
                file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
            }
            Self { _scratch: scratch, file, archived, dir }
        }

        fn keep(&self, is_archived: bool) {
            let archived = is_archived.then(|| self.archived.clone());
            let archived = BTreeMap::from([(self.file.clone(), archived)]);
            let places = [self.file.clone()].into_iter();
            keep(&self.dir, &Belongings::default(), places, &archived).unwrap();
        }

        /// All that the file has beside its content.
        fn beside(&self) -> (u32, u32, Vec<(String, Vec<u8>)>) {
            let file = File::open(&self.file).unwrap();
            let there = file.metadata().unwrap();
            let mut extended = extended::read(&file).unwrap();
            extended.sort();
            (there.mode(), there.uid(), extended)
        }
    }
}

//! Places in the live tree, of which parts belong to users that must not lead root astray.
//!
//! Whoever owns a directory can put a link, a pipe or another file where one was a moment ago. So a
//! path is resolved once, by [`resolve`], which decides about each link; and what is changed later is
//! changed by [`Dir`], relative to a directory that was reached without following any.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use groundswell_protocol::limits::SYMLINK_HOPS_MAX;
use nix::{
    fcntl::{self, AtFlags, OFlag},
    sys::stat::{self, FileStat, Mode, SFlag},
    unistd::{self, Gid, Uid, UnlinkatFlags},
};

use rustix::{
    fs::{RenameFlags, Statx, StatxFlags, renameat_with, statx},
    io::Errno,
};

use crate::{extended, regular};

/// What there is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Link,
    Other,
}

impl Kind {
    pub(crate) fn of(there: &FileStat) -> Self {
        match SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Self::Directory,
            SFlag::S_IFLNK => Self::Link,
            _ => Self::Other,
        }
    }
}

/// A directory that is held on to. It need not be readable.
#[derive(Debug)]
pub(crate) struct Dir(File);

impl Dir {
    /// Opens a directory. No component of `path` may be a link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut dir = Self(File::open("/")?);
        for component in path.components() {
            dir = match component {
                Component::RootDir => dir,
                Component::Normal(name) => dir.enter(name)?,
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            };
        }
        Ok(dir)
    }

    /// The directory that `path` is in, and its name there.
    pub(crate) fn of(path: &Path) -> io::Result<(Self, &OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((Self::open(parent)?, name))
    }

    /// Opens a directory in this one, or above it.
    pub(crate) fn enter(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self(self.openat(name, OFlag::O_PATH | OFlag::O_DIRECTORY | regular::OPEN)?))
    }

    /// Opens the directory itself, to change its attributes or to make it durable.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.openat(".".as_ref(), OFlag::O_DIRECTORY | regular::OPEN)
    }

    pub(crate) fn kind(&self, name: &OsStr) -> io::Result<Option<Kind>> {
        Ok(self.stat(name)?.map(|there| Kind::of(&there)))
    }

    /// What is known of `name` without following it.
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Option<FileStat>> {
        match stat::fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// When what is at `name` was made: a new file may have the inode number of one that is gone. None where the
    /// file system does not know.
    pub(crate) fn born(&self, name: &OsStr) -> io::Result<Option<(i64, u32)>> {
        let there = statx(&self.0, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME);
        let is_known = |there: &Statx| there.stx_mask & StatxFlags::BTIME.bits() != 0;
        let there = match there {
            Err(Errno::NOSYS) => None,
            there => Some(there?).filter(is_known),
        };
        Ok(there.map(|there| (there.stx_btime.tv_sec, there.stx_btime.tv_nsec)))
    }

    /// What is known of the directory itself, which need not be readable for that.
    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.0.metadata()
    }

    /// Makes a file that was not there.
    pub(crate) fn create(&self, name: &OsStr) -> io::Result<File> {
        step()?;
        self.openat(name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | regular::OPEN)
    }

    pub(crate) fn symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        step()?;
        Ok(unistd::symlinkat(target, &self.0, name)?)
    }

    pub(crate) fn make_dir(&self, name: &OsStr) -> io::Result<Self> {
        step()?;
        stat::mkdirat(&self.0, name, Mode::from_bits_truncate(0o777))?;
        self.enter(name)
    }

    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        step()?;
        Ok(fcntl::renameat(&self.0, from, &self.0, to)?)
    }

    /// Renames to a name that nothing has. If something has it by now, that is an error of this kind.
    pub(crate) fn rename_to_new(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        step()?;
        match renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE) {
            // A file system that does not look and rename at once.
            Err(Errno::INVAL | Errno::NOSYS) => match self.kind(to)? {
                None => Ok(fcntl::renameat(&self.0, from, &self.0, to)?),
                Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
            },
            other => Ok(other?),
        }
    }

    /// Removes what is no directory, if it is there.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        step()?;
        match unistd::unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Err(nix::errno::Errno::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    pub(crate) fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        step()?;
        Ok(unistd::unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Holds on to what is at `name`, whatever it is and without opening it.
    pub(crate) fn hold(&self, name: &OsStr) -> io::Result<File> {
        self.openat(name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
    }

    /// Opens a regular file to read it.
    pub(crate) fn read(&self, name: &OsStr) -> io::Result<(File, fs::Metadata)> {
        regular::check(self.openat(name, regular::OPEN)?)
    }

    /// Gives what is at `name` a second name in `other` where that is possible, else makes a copy
    /// with all its attributes. To make it durable is for the caller, who has more of them. False if nothing is
    /// there, or a directory.
    pub(crate) fn copy(&self, name: &OsStr, other: &Self, to: &OsStr) -> io::Result<bool> {
        step()?;
        match unistd::linkat(&self.0, name, &other.0, to, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(nix::errno::Errno::ENOENT) => Ok(false),
            Err(_) => self.duplicate(name, other, to),
        }
    }

    /// Makes a copy of what is at `name`, with all its attributes. False if nothing is there, or a directory.
    pub(crate) fn duplicate(&self, name: &OsStr, other: &Self, to: &OsStr) -> io::Result<bool> {
        match self.kind(name)? {
            None | Some(Kind::Directory) => return Ok(false),
            Some(Kind::Link) => {
                let there = stat::fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                let target = fcntl::readlinkat(&self.0, name)?;
                other.symlink(to, &target)?;
                other.give_link(to, &target, there.st_uid, there.st_gid)?;
                return Ok(true);
            }
            Some(Kind::Other) => {}
        }
        let (mut source, there) = self.read(name)?;
        let mut file = other.create(to)?;
        io::copy(&mut source, &mut file)?;
        // The owner first: changing it takes a set-uid bit away.
        std::os::unix::fs::fchown(&file, Some(there.uid()), Some(there.gid()))?;
        file.set_permissions(there.permissions())?;
        let attributes = extended::read(&source)?;
        extended::write(&file, attributes.iter().map(|(name, value)| (name.as_str(), &value[..])))?;
        file.set_times(fs::FileTimes::new().set_modified(there.modified()?))?;
        Ok(true)
    }

    /// Gives a link that this process has just made to somebody: what has its name by now may be another's.
    fn give_link(&self, name: &OsStr, target: &OsStr, owner: u32, group: u32) -> io::Result<()> {
        let link = self.hold(name)?;
        let (there, own) = (link.metadata()?, unistd::geteuid().as_raw());
        if !there.is_symlink() || there.uid() != own || fcntl::readlinkat(&link, "")? != target {
            return Err(io::Error::other(REPLACED));
        }
        give_held(&link, owner, group)
    }

    fn openat(&self, name: &OsStr, flags: OFlag) -> io::Result<File> {
        Ok(fcntl::openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }
}

/// Gives what is held to somebody.
pub(crate) fn give_held(held: &File, owner: u32, group: u32) -> io::Result<()> {
    let (owner, group) = (Uid::from_raw(owner), Gid::from_raw(group));
    Ok(unistd::fchownat(held, "", Some(owner), Some(group), AtFlags::AT_EMPTY_PATH)?)
}

/// Of what somebody else has put where this process had something.
pub(crate) const REPLACED: &str = "something else was put there meanwhile";

/// What is at `path`, of which no component above may be a link: behind one, nothing is there.
pub(crate) fn kind(path: &Path) -> io::Result<Option<Kind>> {
    Parents::default().kind(path)
}

/// The directory that the last path was in, held open: most likely it has the next one as well. One that is
/// not there is remembered likewise.
#[derive(Default)]
pub(crate) struct Parents(Option<(PathBuf, Option<Dir>)>);

impl Parents {
    /// The directory that `path` is in, and its name there.
    pub(crate) fn of<'a>(&mut self, path: &'a Path) -> io::Result<(&Dir, &'a OsStr)> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // As text: to compare component by component takes longer than to open a file.
        if self.0.as_ref().is_none_or(|(last, _)| last.as_os_str() != above.as_os_str()) {
            let opened = Dir::open(above);
            let absent = opened.as_ref().is_err_and(is_absent);
            self.0 = Some((above.into(), if absent { None } else { Some(opened?) }));
        }
        let dir = self.0.as_ref().and_then(|(_, dir)| dir.as_ref());
        Ok((dir.ok_or(io::ErrorKind::NotFound)?, name))
    }

    /// What is at `path`.
    pub(crate) fn kind(&mut self, path: &Path) -> io::Result<Option<Kind>> {
        match self.of(path).and_then(|(dir, name)| dir.kind(name)) {
            Err(error) if is_absent(&error) => Ok(None),
            other => other,
        }
    }
}

/// True if a directory above is not there, or is none.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
        || error.raw_os_error() == Some(nix::libc::ELOOP)
}

/// A path without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) path: PathBuf,
    /// How many of its last components are not there.
    pub(crate) missing: usize,
}

/// Resolves the links in the path of a directory, which need not be there. What is `leaving` counts
/// as gone already, and so do links.
///
/// A link is followed if root put it there, or if it is of whoever owns the directory that it leads to.
/// Any other could make root write where its owner may not. That root made a link is not enough: the
/// links of a revision are root's, and whoever owns a directory moves about what is in it.
pub(crate) fn resolve(path: &Path, leaving: &impl Fn(&Path) -> bool) -> Result<Resolved, String> {
    let mut walk = Walk { dir: root()?, path: "/".into(), hops: 0, leaving };
    let names: Vec<_> = path.components().skip(1).map(Component::as_os_str).collect();
    let mut missing = 0;
    for (index, name) in names.iter().enumerate() {
        if !walk.enter(name)? {
            walk.path.extend(&names[index..]);
            missing = names.len() - index;
            break;
        }
    }
    // Lists of paths are kept as text.
    match walk.path.to_str() {
        Some(_) => Ok(Resolved { path: walk.path, missing }),
        None => Err(format!("{} leads to {:?}, which is not UTF-8", path.display(), walk.path)),
    }
}

/// Where what is written to `path` ends up: behind the link that is there, if there is one, and behind
/// those that it leads to. They are followed by the rule of [`resolve`].
pub(crate) fn behind(path: &Path, leaving: &impl Fn(&Path) -> bool) -> Result<PathBuf, String> {
    let named = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let (dir, mut name) = Dir::of(path)
        .map(|(dir, name)| (dir, name.to_owned()))
        .map_err(|error| named(path, error))?;
    let above = path.parent().unwrap_or(path).to_owned();
    let mut walk = Walk { dir, path: above, hops: 0, leaving };
    while walk.dir.kind(&name).map_err(|error| named(path, error))? == Some(Kind::Link) {
        let link = walk.path.join(&name);
        let target = walk.begin(&name, &link)?;
        let text = Path::new(&target.text);
        let last = text.file_name();
        let last = last.ok_or_else(|| format!("{} is a link to no file", link.display()))?;
        walk.go(text.parent().unwrap_or_else(|| Path::new("")), &link)?;
        walk.end(&target, &link)?;
        name = last.to_owned();
    }
    let path = walk.path.join(name);
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(format!("{path:?} is not UTF-8")),
    }
}

/// A link that is being followed.
struct Target {
    owner: u32,
    text: OsString,
    root_put_it_there: bool,
}

struct Walk<'a, F> {
    dir: Dir,
    path: PathBuf,
    hops: u32,
    leaving: &'a F,
}

impl<F: Fn(&Path) -> bool> Walk<'_, F> {
    /// Goes on to the directory of this name; false if it is not there.
    fn enter(&mut self, name: &OsStr) -> Result<bool, String> {
        let next = self.path.join(name);
        let named = |error: io::Error| format!("{}: {error}", next.display());
        match self.dir.kind(name).map_err(named)? {
            None => return Ok(false),
            Some(Kind::Directory) => {
                (self.dir, self.path) = (self.dir.enter(name).map_err(named)?, next);
            }
            Some(_) if (self.leaving)(&next) => return Ok(false),
            Some(Kind::Link) => self.follow(name, &next)?,
            Some(Kind::Other) => {
                return Err(format!("{} is no directory: move it away", next.display()));
            }
        }
        Ok(true)
    }

    fn follow(&mut self, name: &OsStr, link: &Path) -> Result<(), String> {
        let target = self.begin(name, link)?;
        self.go(Path::new(&target.text), link)?;
        self.end(&target, link)
    }

    /// Reads a link in this directory.
    fn begin(&mut self, name: &OsStr, link: &Path) -> Result<Target, String> {
        let named = |error: io::Error| format!("{}: {error}", link.display());
        self.hops += 1;
        if self.hops > SYMLINK_HOPS_MAX {
            return Err(format!("{} is one link too many: they go in circles", link.display()));
        }
        let root_put_it_there = self.only_root_writes_here().map_err(named)?;
        let (owner, text) = self.read_link(name).map_err(named)?;
        Ok(Target { owner, text, root_put_it_there })
    }

    /// Goes where a link leads.
    fn go(&mut self, target: &Path, link: &Path) -> Result<(), String> {
        for component in target.components() {
            match component {
                Component::RootDir => (self.dir, self.path) = (root()?, "/".into()),
                Component::ParentDir => {
                    let above = self.dir.enter("..".as_ref());
                    self.dir = above.map_err(|error| format!("{}: {error}", link.display()))?;
                    self.path.pop();
                }
                Component::Normal(name) if !self.enter(name)? => {
                    return Err(format!("{} is a link to nothing: remove it", link.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Decides about a link, now that it is known where it leads.
    fn end(&self, target: &Target, link: &Path) -> Result<(), String> {
        let there = self.dir.0.metadata().map(|there| there.uid());
        let there = there.map_err(|error| format!("{}: {error}", link.display()))?;
        let owner = target.owner;
        let follow = if is_root(owner) { target.root_put_it_there } else { owner == there };
        if follow {
            return Ok(());
        }
        Err(format!(
            "{} is a link of user {owner} into a directory of user {there}, and others than root may have \
             put it where it is: move it away, or let root own it and the directory that it is in",
            link.display()
        ))
    }

    /// True if nobody else can put a link of root into this directory.
    fn only_root_writes_here(&self) -> io::Result<bool> {
        let here = self.dir.0.metadata()?;
        let (others, sticky) = (here.mode() & 0o022 != 0, here.mode() & 0o1000 != 0);
        Ok(is_root(here.uid()) && (!others || sticky))
    }

    /// The owner and the text of a link: of one and the same, whatever is put in its place.
    fn read_link(&self, name: &OsStr) -> io::Result<(u32, OsString)> {
        let link = self.dir.hold(name)?;
        Ok((link.metadata()?.uid(), fcntl::readlinkat(&link, "")?))
    }
}

/// Root, or whoever this process runs as where it is not root.
pub(crate) fn is_root(owner: u32) -> bool {
    owner == 0 || owner == unistd::geteuid().as_raw()
}

fn root() -> Result<Dir, String> {
    Dir::open(Path::new("/")).map_err(|error| format!("/: {error}"))
}

#[cfg(not(test))]
fn step() -> io::Result<()> {
    Ok(())
}

/// In tests, the process can be made to die before any change to the tree.
#[cfg(test)]
use tests::step;

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        cell::{Cell, RefCell},
        os::unix::fs::{PermissionsExt, lchown, symlink},
        rc::Rc,
    };

    use super::*;
    use crate::shown::shown_by_root;

    type Hook = Box<dyn FnMut() -> io::Result<()>>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    pub(super) fn step() -> io::Result<()> {
        HOOK.with_borrow_mut(|hook| hook.as_mut().map_or(Ok(()), |hook| hook()))
    }

    /// Does something, and before each change to the tree what the hook does.
    pub(crate) fn at_each_step<T>(
        hook: impl FnMut() -> io::Result<()> + 'static,
        work: impl FnOnce() -> T,
    ) -> T {
        HOOK.set(Some(Box::new(hook)));
        let result = work();
        HOOK.set(None);
        result
    }

    /// Does something, of which only this many changes to the tree happen. True if there were no
    /// more.
    pub(crate) fn dying_after<T>(steps: u32, work: impl FnOnce() -> T) -> (T, bool) {
        let left = Rc::new(Cell::new(Some(steps)));
        let counter = left.clone();
        let die = move || {
            counter.set(counter.get().and_then(|left| left.checked_sub(1)));
            counter.get().map(drop).ok_or_else(|| io::Error::other("the process has died"))
        };
        let result = at_each_step(die, work);
        (result, left.get().is_some())
    }

    fn resolved(path: &Path) -> Result<Resolved, String> {
        resolve(path, &|_| false)
    }

    #[test]
    fn links_of_the_administrator_are_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        fs::create_dir_all(at("srv/www")).unwrap();
        symlink(at("srv"), at("var")).unwrap();
        symlink("../var/www/.", at("srv/loop")).unwrap();
        let found = resolved(&at("var/loop/app/static")).unwrap();
        assert_eq!(found, Resolved { path: at("srv/www/app/static"), missing: 2 });
        assert_eq!(resolved(&at("srv")).unwrap(), Resolved { path: at("srv"), missing: 0 });
        // Nothing is reached through a link without it having been resolved.
        assert_eq!(kind(&at("var/www")).unwrap(), None);
        assert_eq!(kind(&at("srv/www")).unwrap(), Some(Kind::Directory));
        assert!(is_absent(&Dir::open(&at("var/www")).unwrap_err()));
        symlink("nothing", at("dangling")).unwrap();
        symlink("circle", at("circle")).unwrap();
        fs::write(at("file"), "").unwrap();
        for (path, expected) in [
            ("dangling/x", "link to nothing"),
            ("circle/x", "in circles"),
            ("file/x", "file is no directory: move it away"),
        ] {
            let refused = resolved(&at(path)).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn a_file_is_where_its_links_lead() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        fs::create_dir_all(at("shared/deep")).unwrap();
        fs::create_dir(at("app")).unwrap();
        fs::write(at("shared/file"), "x").unwrap();
        symlink("deep", at("shared/through")).unwrap();
        symlink("../shared/through/../file", at("app/one")).unwrap();
        symlink(at("app/one"), at("app/two")).unwrap();
        symlink("../shared/new", at("app/dangling")).unwrap();
        symlink("circle", at("app/circle")).unwrap();
        symlink("../none/x", at("app/nowhere")).unwrap();
        let behind = |path: &str| behind(&at(path), &|_| false);
        assert_eq!(behind("app/one"), Ok(at("shared/file")));
        assert_eq!(behind("app/two"), Ok(at("shared/file")));
        assert_eq!(behind("app/dangling"), Ok(at("shared/new")));
        assert_eq!(behind("shared/file"), Ok(at("shared/file")));
        assert!(behind("app/circle").unwrap_err().contains("in circles"));
        assert!(behind("app/nowhere").unwrap_err().contains("link to nothing"));
    }

    #[test]
    fn what_is_leaving_is_not_there() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        fs::create_dir(at("assets")).unwrap();
        symlink("assets", at("static")).unwrap();
        let found = resolve(&at("static/x"), &|path| path == at("static")).unwrap();
        assert_eq!(found, Resolved { path: at("static/x"), missing: 2 });
    }

    #[test]
    fn links_of_users_lead_only_to_what_is_theirs() {
        if !shown_by_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        for name in ["etc", "theirs"] {
            fs::create_dir(at(name)).unwrap();
        }
        let user = Some(12345);
        lchown(at("theirs"), user, user).unwrap();
        for (target, is_followed) in [("theirs", true), ("etc", false)] {
            let link = at(&format!("to-{target}"));
            symlink(target, &link).unwrap();
            lchown(&link, user, user).unwrap();
            let found = resolved(&link);
            assert_eq!(found.is_ok(), is_followed, "{target}: {found:?}");
            let link = at(&format!("file-in-{target}"));
            symlink(format!("{target}/file"), &link).unwrap();
            lchown(&link, user, user).unwrap();
            let found = behind(&link, &|_| false);
            assert_eq!(found.is_ok(), is_followed, "{target}: {found:?}");
        }
        // A link that root made, moved to where it leads elsewhere by whoever owns the directory.
        for (mode, owner, is_followed) in
            [(0o755, 0, true), (0o755, 12345, false), (0o777, 0, false), (0o1777, 0, true)]
        {
            let dir = at(&format!("dir-{mode:o}-{owner}"));
            fs::create_dir(&dir).unwrap();
            symlink("../etc", dir.join("static")).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            lchown(&dir, Some(owner), Some(owner)).unwrap();
            let found = resolved(&dir.join("static"));
            assert_eq!(found.is_ok(), is_followed, "{mode:o} of {owner}: {found:?}");
        }
    }

    #[test]
    fn what_cannot_have_a_second_name_is_copied_with_its_attributes() {
        let here = tempfile::tempdir().unwrap();
        // Another file system, on most machines.
        let there = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let at = |name: &str| here.path().join(name);
        fs::write(at("file"), "content").unwrap();
        symlink("anywhere", at("link")).unwrap();
        if shown_by_root() {
            for name in ["file", "link"] {
                lchown(at(name), Some(123), Some(321)).unwrap();
            }
        }
        fs::set_permissions(at("file"), fs::Permissions::from_mode(0o4751)).unwrap();
        let modified = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        File::options().write(true).open(at("file")).unwrap().set_modified(modified).unwrap();
        let dirs = [&here, &there].map(|dir| Dir::open(dir.path()).unwrap());
        for name in ["file", "link"] {
            dirs[0].copy(name.as_ref(), &dirs[1], "copy".as_ref()).unwrap();
            let copy = there.path().join("copy");
            let [old, new] = [&at(name), &copy].map(|path| fs::symlink_metadata(path).unwrap());
            assert_eq!((old.mode(), old.uid(), old.gid()), (new.mode(), new.uid(), new.gid()));
            if name == "file" {
                assert_eq!(old.modified().unwrap(), new.modified().unwrap());
                assert_eq!(fs::read(&copy).unwrap(), b"content");
            } else {
                assert_eq!(fs::read_link(&copy).unwrap(), Path::new("anywhere"));
            }
            fs::remove_file(&copy).unwrap();
        }
    }
}

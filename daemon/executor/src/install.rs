//! Putting a revision's files in place, and putting the old ones back.
//!
//! Everything that can be known to fail is checked before the live tree is touched. A list of what will be
//! replaced or removed is on disk first, and all that is on it is saved before the first change; so the
//! old tree can be put back after a failure, a crash, or a crash while putting it back.
//!
//! A plan holds paths without links: those that the host has on the way are resolved when it is made,
//! as if what the revision before put there were gone, and none is followed afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use groundswell_protocol::{
    ids::{Digest, Nonce},
    revision::{AppSpec, EntryKind, FileExistsBehavior, Manifest},
};
use nix::{
    errno::Errno,
    sys::{stat::futimens, time::TimeSpec},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    extended,
    journal::{durable, read_sealed, write_sealed, write_sealed_for_now},
    permissions::{self, Created, HandedDown, Rights},
    place::{self, Dir, Kind, Parents, is_absent},
    space::{Mount, Needed},
};

/// What will be done, decided as a whole before anything is.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Files of the revision before that this one does not have.
    removed: Vec<PathBuf>,
    /// Directories of the revision before that this one does not need, children first.
    emptied: Vec<PathBuf>,
    /// To be made, parents first.
    directories: Vec<(PathBuf, Arc<Rights>)>,
    /// There already, and to be as if they were made, parents first.
    renewed: Vec<(PathBuf, Arc<Rights>)>,
    /// By their targets.
    files: BTreeMap<PathBuf, New>,
    belongings: Belongings,
}

/// Why a revision cannot be installed.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// By what is at its places: whoever takes that away mends it.
    InTheWay(String),
    Other(String),
}

impl From<String> for Unfit {
    fn from(problem: String) -> Self {
        Self::Other(problem)
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::InTheWay(problem) | Self::Other(problem)) = self;
        f.write_str(problem)
    }
}

/// A file or a link that will be there.
#[derive(Debug)]
struct New {
    source: Source,
    rights: Arc<Rights>,
    /// Whether its place was free. What has appeared there since is somebody's.
    is_free: bool,
}

#[derive(Debug)]
enum Source {
    File { path: PathBuf, mode: u32, bytes: u64 },
    Link { path: String, target: String },
}

impl Source {
    /// The file, if it is no link.
    fn path(self) -> Option<PathBuf> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Link { .. } => None,
        }
    }
}

/// What a revision put in place. Kept beside it, for the revision that follows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Belongings {
    /// Files and links, sorted.
    files: BTreeSet<PathBuf>,
    /// Directories that it made or took over from the one before, parents first.
    directories: BTreeSet<PathBuf>,
}

impl Belongings {
    /// Reads those of the revision that was installed from `dir`; none if their list is gone.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        absent_is_none(read_sealed(&dir.join(BELONGINGS)))
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter()
    }

    pub(crate) fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.directories.iter()
    }
}

/// How to undo what is being done. On disk before the first change.
#[derive(Debug, Serialize, Deserialize)]
struct Undo {
    /// What makes the names of unfinished files unpredictable.
    secret: Nonce,
    /// Every place where a file is put or removed. What was there is saved under the place's number in
    /// this list.
    files: Vec<PathBuf>,
    /// Everything that is made, parents first.
    directories: Vec<PathBuf>,
    /// Directories that are removed or in which something changes, and all above, parents first.
    #[serde(rename = "emptied")]
    around: Vec<(PathBuf, Attributes)>,
}

/// On disk from the first change to the live tree on: what was there is saved, new files are complete, and take
/// their places.
#[derive(Debug, Serialize, Deserialize)]
struct Placing {
    /// Of each place of the list, whether something was there and was saved.
    saved: Vec<bool>,
    /// Once nothing is left of what was put in place of nothing: whatever is there since is somebody's.
    is_taken_away: bool,
}

/// What a directory is given when it comes back.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    owner: u32,
    group: u32,
    mode: u32,
    /// When something last changed in it. None where that is not put back, and nothing else either as long as
    /// the directory is there: it is only above those that matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modified: Option<(i64, u32)>,
    /// ACLs, the SELinux context and the like, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extended: Vec<(String, ByteBuf)>,
}

/// Lets one group at a time plan and change the live tree. A directory that two groups need and that is
/// missing would else be in the plans of both, and there for the second.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static CHANGING: Mutex<()> = Mutex::new(());
    // Nobody sees it poisoned: a panic ends the process.
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decides what to do. Touches nothing. Destinations are below `root`.
pub(crate) fn plan(
    manifest: &Manifest,
    root: &Path,
    archive: &Path,
    before: &Belongings,
    behavior: FileExistsBehavior,
) -> Result<Plan, Unfit> {
    let archive = &fs::canonicalize(archive).map_err(|error| named_in(archive, &error))?;
    let mut wanted = Wanted::default();
    for mapping in &manifest.spec.files {
        let destination = below(root, &mapping.destination);
        wanted.map(manifest, archive, &mapping.source, &destination)?;
    }
    let places = Places::of(&wanted.directories, before).map_err(Unfit::InTheWay)?;
    let (mut files, mut parents) = (BTreeMap::new(), Parents::default());
    for (name, source) in wanted.files {
        let mut target = places.target(&name)?;
        let mut look = |path: &Path| parents.kind(path).map_err(|error| named_in(path, &error));
        let mut there = look(&target)?;
        let is_file = matches!(source, Source::File { .. });
        let is_anothers = there == Some(Kind::Link) && !before.files.contains(&target);
        if is_file && is_anothers {
            // As AWS's agent does: the link is somebody's, and stays.
            match place::behind(&target, &|path| before.files.contains(path)) {
                Ok(behind) => {
                    let there_behind = look(&behind)?;
                    // Where nothing is behind it, or what the revision before put there, nothing is in the way.
                    let is_free = there_behind.is_none() || before.files.contains(&behind);
                    if is_free || behavior == FileExistsBehavior::Overwrite {
                        (target, there) = (behind, there_behind);
                    }
                }
                Err(problem) if behavior == FileExistsBehavior::Overwrite => {
                    return Err(Unfit::InTheWay(problem));
                }
                // The link itself is in the way.
                Err(_) => {}
            }
        }
        if places.needed.contains(&target) {
            let shown = target.display();
            return Err(format!("files: {shown} would be file and directory").into());
        }
        if !allowed(&target, there, before, behavior).map_err(Unfit::InTheWay)? {
            continue;
        }
        if let Some((other, ..)) = files.insert(target, (name, source, there.is_none())) {
            return Err(format!("files: {} would be made twice", other.display()).into());
        }
    }
    let goes_empty = goes_empty(before);
    let is_renewed = |path: &PathBuf| goes_empty.contains(path);
    let mut made = places.missing.clone();
    made.extend(places.there.into_iter().filter(|(path, _)| is_renewed(path)));
    let rights = rights(&manifest.spec, root, &files, &made)?;
    // Most have the same ones, or none.
    let none = Arc::new(Rights::default());
    let rights = |name: &PathBuf| rights.get(name).unwrap_or(&none).clone();
    let is = |path: &PathBuf, wanted: fn(Kind) -> bool| {
        place::kind(path).map(|kind| kind.is_some_and(wanted)).map_err(|e| named_in(path, &e))
    };
    let mut removed = Vec::new();
    for path in before.files.iter().filter(|path| !files.contains_key(*path)) {
        if is(path, |kind| kind != Kind::Directory)? {
            removed.push(path.clone());
        }
    }
    let (mut kept, mut emptied) = (Vec::new(), Vec::new());
    for path in before.directories.iter().rev() {
        if places.needed.contains(path) {
            kept.push(path.clone());
        } else if is(path, |kind| kind == Kind::Directory)? {
            emptied.push(path.clone());
        }
    }
    let belongings = Belongings {
        files: files.keys().cloned().collect(),
        directories: kept.into_iter().chain(places.missing.keys().cloned()).collect(),
    };
    let made = made.iter().map(|(path, name)| (path.clone(), rights(name)));
    let (directories, renewed) = made.partition(|(path, _)| places.missing.contains_key(path));
    let files = files.into_iter().map(|(path, (name, source, is_free))| {
        (path, New { source, rights: rights(&name), is_free })
    });
    Ok(Plan { removed, emptied, directories, renewed, files: files.collect(), belongings })
}

/// Where the files of a revision go, or went, and which file in its archive each of them is; as far as that
/// can be told without knowing whether it can be installed.
pub(crate) fn targets(
    manifest: &Manifest,
    root: &Path,
    archive: &Path,
    before: &Belongings,
) -> Result<BTreeMap<PathBuf, Option<PathBuf>>, String> {
    let mut wanted = Wanted::default();
    for mapping in &manifest.spec.files {
        let destination = below(root, &mapping.destination);
        wanted.map(manifest, archive, &mapping.source, &destination)?;
    }
    let places = Places::of(&wanted.directories, before)?;
    let is_leaving = |path: &Path| before.files.contains(path);
    let mut targets = BTreeMap::new();
    for (name, source) in wanted.files {
        let (target, source) = (places.target(&name)?, source.path());
        // Who replaces what a link leads to leaves the link.
        let behind = source.as_ref().map(|_| place::behind(&target, &is_leaving));
        if let Some(Ok(behind)) = behind {
            targets.entry(behind).or_insert_with(|| source.clone());
        }
        targets.insert(target, source);
    }
    Ok(targets)
}

/// An absolute path of an appspec, as it is called on this host.
pub(crate) fn below(root: &Path, path: &str) -> PathBuf {
    // Joining an empty path would add a slash, and with it another spelling.
    match path.trim_start_matches('/') {
        "" => root.to_path_buf(),
        relative => root.join(relative),
    }
}

/// What the mappings ask for.
#[derive(Default)]
struct Wanted {
    files: BTreeMap<PathBuf, Source>,
    directories: BTreeSet<PathBuf>,
}

impl Wanted {
    fn map(
        &mut self,
        manifest: &Manifest,
        archive: &Path,
        source: &str,
        destination: &Path,
    ) -> Result<(), String> {
        self.directories.insert(destination.to_path_buf());
        let resolved = manifest.resolve(source);
        let is_directory = source.is_empty()
            || manifest.entry(&resolved).is_some_and(|e| e.kind == EntryKind::Directory);
        if !is_directory {
            let name = source.rsplit('/').next().unwrap_or(source);
            // A link is installed as a link.
            let (path, entry) = match manifest.entry(source) {
                Some(entry) => (source, Some(entry)),
                None => (resolved.as_str(), manifest.entry(&resolved)),
            };
            let entry = entry.ok_or_else(|| format!("{source} is missing"))?;
            return self.put(archive, path, &entry.kind, destination.join(name));
        }
        // Behind a link to a directory is what is meant.
        let source = resolved.as_str();
        for entry in &manifest.entries {
            let below = match source {
                "" => Some(entry.path.as_str()),
                _ => entry.path.strip_prefix(source).and_then(|rest| rest.strip_prefix('/')),
            };
            if let Some(below) = below {
                self.put(archive, &entry.path, &entry.kind, destination.join(below))?;
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        archive: &Path,
        path: &str,
        kind: &EntryKind,
        target: PathBuf,
    ) -> Result<(), String> {
        let source = match kind {
            EntryKind::Directory => {
                self.directories.insert(target);
                return Ok(());
            }
            EntryKind::File { mode, size, .. } => {
                Source::File { path: archive.join(path), mode: u32::from(*mode), bytes: *size }
            }
            EntryKind::Symlink { target } => {
                Source::Link { path: path.to_owned(), target: target.clone() }
            }
        };
        let shown = target.display().to_string();
        let Some(other) = self.files.insert(target, source) else { return Ok(()) };
        let other = match &other {
            Source::File { path, .. } => {
                path.strip_prefix(archive).unwrap_or(path).display().to_string()
            }
            Source::Link { path, .. } => path.clone(),
        };
        Err(format!("files: both {other} and {path} would become {shown}"))
    }
}

/// Where the directories that are asked for are on this host.
#[derive(Default)]
struct Places {
    /// By the paths that the appspec leads to, which may have links in them.
    real: BTreeMap<PathBuf, PathBuf>,
    /// All of them and all above.
    needed: BTreeSet<PathBuf>,
    /// Those that are to be made, each with a path that the appspec leads to.
    missing: BTreeMap<PathBuf, PathBuf>,
    /// Those that the revision before made or took over, likewise.
    there: BTreeMap<PathBuf, PathBuf>,
}

impl Places {
    fn of(wanted: &BTreeSet<PathBuf>, before: &Belongings) -> Result<Self, String> {
        let mut places = Self::default();
        for name in wanted {
            let found = place::resolve(name, &|path| before.files.contains(path))?;
            let mut pairs = found.path.ancestors().zip(name.ancestors());
            let missing = pairs.by_ref().take(found.missing);
            places.missing.extend(missing.map(|(real, name)| (real.into(), name.into())));
            // Behind a link, what is above has other names.
            let alike = |(real, name): &(&Path, &Path)| real.file_name() == name.file_name();
            let (own, above) = (pairs.next(), pairs.take_while(alike));
            let is_before = |(real, _): &(&Path, &Path)| before.directories.contains(*real);
            let there = own.into_iter().chain(above).filter(is_before);
            places.there.extend(there.map(|(real, name)| (real.into(), name.into())));
            for ancestor in found.path.ancestors() {
                if !places.needed.insert(ancestor.into()) {
                    break;
                }
            }
            places.real.insert(name.clone(), found.path);
        }
        Ok(places)
    }

    /// Where a file goes.
    fn target(&self, name: &Path) -> Result<PathBuf, String> {
        let dir = name.parent().and_then(|parent| self.real.get(parent));
        let (dir, name) = dir
            .zip(name.file_name())
            .ok_or_else(|| format!("files: the directory of {} is missing", name.display()))?;
        Ok(dir.join(name))
    }
}

/// Directories of the revision before in which nothing else is. AWS's agent removes them with all that is in
/// them, and they are made again.
fn goes_empty(before: &Belongings) -> BTreeSet<PathBuf> {
    let mut empty = BTreeSet::new();
    // Children first.
    for directory in before.directories.iter().rev() {
        let all = Dir::open(directory).and_then(|_| fs::read_dir(directory)).and_then(|entries| {
            let mut paths = entries.map(|entry| entry.map(|entry| entry.path()));
            paths.try_fold(true, |all, path| {
                let path = path?;
                Ok(all && (before.files.contains(&path) || empty.contains(&path)))
            })
        });
        // What cannot be looked into cannot be removed.
        if all.unwrap_or(false) {
            empty.insert(directory.clone());
        }
    }
    empty
}

/// True if the file is put in place, false if the one that is there is kept.
fn allowed(
    target: &Path,
    there: Option<Kind>,
    before: &Belongings,
    behavior: FileExistsBehavior,
) -> Result<bool, String> {
    let shown = target.display();
    match (there, behavior) {
        (None, _) => Ok(true),
        (Some(Kind::Directory), FileExistsBehavior::Retain) => Ok(can_go(target, before).is_ok()),
        (Some(Kind::Directory), _) => can_go(target, before).map(|()| true),
        _ if before.files.contains(target) => Ok(true),
        (_, FileExistsBehavior::Overwrite) => Ok(true),
        (_, FileExistsBehavior::Retain) => Ok(false),
        (_, FileExistsBehavior::Disallow) => Err(format!(
            "a file is in the way at {shown}, which no deployment of this group put there: move it \
             away, or set file_exists_behavior to OVERWRITE or RETAIN"
        )),
    }
}

/// A directory may make room for a file if all of it belongs to the revision before.
fn can_go(directory: &Path, before: &Belongings) -> Result<(), String> {
    let shown = directory.display();
    if !before.directories.contains(directory) {
        return Err(format!("a directory is in the way at {shown}: move it away"));
    }
    for entry in fs::read_dir(directory).map_err(|error| named_in(directory, &error))? {
        let entry = entry.map_err(|error| named_in(directory, &error))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            can_go(&path, before)?;
        } else if !before.files.contains(&path) {
            return Err(format!(
                "a directory is in the way at {shown}, and {} in it was put there by no deployment \
                 of this group: move it away",
                path.display()
            ));
        }
    }
    Ok(())
}

fn rights(
    spec: &AppSpec,
    root: &Path,
    files: &BTreeMap<PathBuf, (PathBuf, Source, bool)>,
    directories: &BTreeMap<PathBuf, PathBuf>,
) -> Result<BTreeMap<PathBuf, Arc<Rights>>, String> {
    let regular = files.values().filter(|(_, source, _)| matches!(source, Source::File { .. }));
    let files: Vec<&Path> = regular.map(|(name, ..)| name.as_path()).collect();
    let directories: Vec<&Path> = directories.values().map(PathBuf::as_path).collect();
    permissions::resolve(spec, root, &Created { files: &files, directories: &directories })
}

impl Plan {
    /// Where something was when the plan was made.
    fn replaced(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().filter(|(_, new)| !new.is_free).map(|(target, _)| target)
    }

    /// Refuses what there is no room for. New files are completed before old ones go, and old ones are
    /// saved in `dir`.
    pub(crate) fn check_room(&self, dir: &Path) -> Result<(), String> {
        let mut needed = Needed::default();
        for (target, new) in &self.files {
            let above = target.parent().unwrap_or(target);
            match &new.source {
                Source::File { bytes, .. } => needed.file(above, *bytes),
                Source::Link { .. } => needed.file(above, 0),
            }
        }
        for (directory, _) in &self.directories {
            needed.file(directory.parent().unwrap_or(directory), 0);
        }
        // Within one mount they only get a second name.
        let (saves_here, mut above) = (Mount::of(dir).ok(), None);
        for path in self.replaced().chain(&self.removed) {
            let parent = path.parent().unwrap_or(path);
            if above.is_none_or(|(last, _): (&Path, _)| last.as_os_str() != parent.as_os_str()) {
                above = Some((parent, Mount::of(parent).ok()));
            }
            if above.is_some_and(|(_, mount)| mount != saves_here) {
                needed.file(dir, fs::symlink_metadata(path).map_or(0, |there| there.len()));
            }
        }
        needed.check()
    }

    /// Does it. `dir` is the deployment's own directory, where what is replaced is saved. Ends with
    /// [`io::ErrorKind::AlreadyExists`] where something has appeared since the plan was made: undone and
    /// planned anew, it is a file in the way like any other.
    pub(crate) fn carry_out(&self, dir: &Path) -> io::Result<()> {
        write_sealed_for_now(&dir.join(BELONGINGS), &self.belongings)?;
        let undo = self.begin(dir)?;
        let changing = changing(&self.renewed)?;
        // All that takes long comes first, beside what is there: until then the tree is the old one.
        let directories = make_directories(&self.directories, Some(&changing))?;
        let ready = self.make_ready(dir, undo.secret, &changing)?;
        // Renaming can outlive a loss of power that what has the name does not, or what has lost it.
        sync(dir, undo.places())?;
        let saved = ready.iter().map(|ready| ready.is_saved).collect();
        write_sealed(&dir.join(PLACING), &Placing { saved, is_taken_away: false })?;
        // From here on nothing waits for a disk, up to the last rename.
        self.make_room()?;
        renew(&self.renewed)?;
        make_directories(&directories, None)?;
        // The list begins with these files, in this order.
        let files: Vec<_> = self.files.iter().zip(ready).collect();
        in_two(&files, |files| place_some(files, undo.secret))?;
        sync(dir, undo.places())
    }

    /// What goes makes room for what comes: a link or file for a directory, and the reverse.
    fn make_room(&self) -> io::Result<()> {
        let mut parents = Parents::default();
        for path in &self.removed {
            named(path, parents.of(path).and_then(|(dir, name)| dir.remove(name)))?;
        }
        for directory in &self.emptied {
            let done = Dir::of(directory).and_then(|(dir, name)| dir.remove_dir(name));
            // What others have put there keeps it, if nothing needs its place.
            if self.files.contains_key(directory) {
                named(directory, done)?;
            }
        }
        Ok(())
    }

    /// Writes down how to undo what will be done: whatever is done is on a list by then.
    fn begin(&self, dir: &Path) -> io::Result<Undo> {
        if absent_is_none(fs::remove_file(dir.join(PLACING)))?.is_some() {
            // It is not about the new list.
            durable(dir, File::open(dir)?.sync_all());
        }
        gone(fs::remove_dir_all(dir.join(SAVED)))?;
        let files: Vec<_> = self.files.keys().chain(&self.removed).cloned().collect();
        let directories: Vec<_> = self.directories.iter().map(|(path, _)| path.clone()).collect();
        let changed = files.iter().chain(&directories).chain(&self.emptied);
        let renewed = self.renewed.iter().map(|(path, _)| path);
        let around = around(changed.map(PathBuf::as_path), self.emptied.iter().chain(renewed))?;
        let undo = Undo { secret: secret()?, files, directories, around };
        write_sealed(&dir.join(UNDO), &undo)?;
        Ok(undo)
    }

    /// Saves what will be replaced or removed, and completes all files whose directories are there, as they will be.
    fn make_ready(
        &self,
        dir: &Path,
        secret: Nonce,
        changing: &BTreeSet<&Path>,
    ) -> io::Result<Vec<Ready>> {
        let saved_dir = dir.join(SAVED);
        fs::DirBuilder::new().mode(0o700).create(&saved_dir)?;
        let saved_dir = Dir::open(&fs::canonicalize(&saved_dir)?)?;
        let new = self.files.iter().map(|(target, new)| (target, Some(new)));
        let all = new.chain(self.removed.iter().map(|path| (path, None)));
        let all: Vec<_> = (0..).zip(all).collect();
        in_two(&all, |some| make_some_ready(some, &saved_dir, secret, changing))
    }
}

/// A place on the list, before its turn comes.
#[derive(Clone, Copy, Default)]
struct Ready {
    is_saved: bool,
    is_complete: bool,
}

/// Does something to all, in their order, where there are many by two threads with half of them each.
fn in_two<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&[T]) -> io::Result<Vec<R>> + Sync,
) -> io::Result<Vec<R>> {
    if all.len() < MANY {
        return work(all);
    }
    let (mine, others) = all.split_at(all.len() / 2);
    thread::scope(|scope| {
        let spawned = thread::Builder::new().spawn_scoped(scope, || work(others));
        let mine = work(mine);
        // Where no thread can be made one does it all.
        let Ok(others) = spawned else {
            return Ok([mine?, work(others)?].into_iter().flatten().collect());
        };
        let others = others.join().map_err(|_| io::Error::other("a thread has panicked"))?;
        let (mut mine, others) = (mine?, others?);
        mine.extend(others);
        Ok(mine)
    })
}

/// Notes the directories in which something at these places changes, and `others`, each with all above it.
pub(crate) fn around<'a>(
    places: impl Iterator<Item = &'a Path>,
    others: impl IntoIterator<Item = &'a PathBuf>,
) -> io::Result<Vec<(PathBuf, Attributes)>> {
    let mut all: BTreeMap<&Path, bool> = others.into_iter().map(|path| (&**path, true)).collect();
    all.extend(places.filter_map(Path::parent).map(|parent| (parent, true)));
    for path in all.keys().copied().collect::<Vec<_>>() {
        path.ancestors().skip(1).for_each(|above| _ = all.entry(above).or_insert(false));
    }
    // The root has no name, and is always there.
    all.remove(Path::new("/"));
    let mut noted = Vec::new();
    for (path, matters) in all {
        let attributes = Dir::open(path).and_then(|dir| Attributes::of(&dir, matters));
        if let Some(attributes) = absent_is_fine(path, attributes)? {
            noted.push((path.to_path_buf(), attributes));
        }
    }
    Ok(noted)
}

/// Puts directories back, parents first.
pub(crate) fn put_around_back(around: &[(PathBuf, Attributes)]) -> io::Result<()> {
    around.iter().try_for_each(|(path, attributes)| named(path, attributes.put_back(path)))
}

/// Puts the times of directories back. Last, since whatever is changed in one changes its time. One that is not
/// there by now was somebody else's to take away: those that must be there were put back before.
pub(crate) fn put_times_back(around: &[(PathBuf, Attributes)]) -> io::Result<()> {
    around.iter().try_for_each(|(path, attributes)| {
        absent_is_fine(path, attributes.put_time_back(path)).map(drop)
    })
}

pub(crate) fn secret() -> io::Result<Nonce> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    Ok(Nonce(secret))
}

/// True if it is in one of these directories itself.
fn is_in(path: &Path, directories: &BTreeSet<&Path>) -> bool {
    !directories.is_empty() && path.parent().is_some_and(|above| directories.contains(above))
}

/// Makes directories, or before others change those for which nothing has to go before, and gives the rest.
fn make_directories(
    all: &[(PathBuf, Arc<Rights>)],
    changing: Option<&BTreeSet<&Path>>,
) -> io::Result<Vec<(PathBuf, Arc<Rights>)>> {
    let mut later = Vec::new();
    for (directory, rights) in all {
        if let Some(changing) = changing
            && (is_in(directory, changing) || !can_be_made(directory)?)
        {
            later.push((directory.clone(), rights.clone()));
            continue;
        }
        let made = Dir::of(directory).and_then(|(dir, name)| dir.make_dir(name));
        let given = made.and_then(|made| {
            let made = made.file()?;
            rights.apply(&made, made.metadata()?.mode() & 0o7777)
        });
        named(directory, given)?;
    }
    Ok(later)
}

/// Gives directories what they would have if they were made now.
fn renew(all: &[(PathBuf, Arc<Rights>)]) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let mode = 0o777 & !umask()?;
    for (directory, rights) in all {
        let given = Dir::of(directory).and_then(|(above, name)| {
            let file = above.enter(name)?.file()?;
            HandedDown::by(&above)?.renew(&file, rights, mode)
        });
        named(directory, given)?;
    }
    Ok(())
}

/// Those of the directories that hand something else down once they are renewed: what is made in them before
/// would have the rights of another revision.
fn changing(renewed: &[(PathBuf, Arc<Rights>)]) -> io::Result<BTreeSet<&Path>> {
    let mut then: BTreeMap<&Path, HandedDown> = BTreeMap::new();
    let mut changing = BTreeSet::new();
    if renewed.is_empty() {
        return Ok(changing);
    }
    let mode = 0o777 & !umask()?;
    for (directory, rights) in renewed {
        let looked = Dir::of(directory).and_then(|(above, name)| {
            let renewed = directory.parent().and_then(|above| then.get(above));
            let from_above = renewed.cloned().map_or_else(|| HandedDown::by(&above), Ok)?;
            Ok((HandedDown::by(&above.enter(name)?)?, from_above.through(rights, mode)))
        });
        let (now, after) = named(directory, looked)?;
        if now != after {
            changing.insert(directory.as_path());
        }
        then.insert(directory, after);
    }
    Ok(changing)
}

/// What this process takes from the mode of what it makes. To ask the system means to change it, for all threads.
fn umask() -> io::Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok());
    umask.ok_or_else(|| io::Error::other("/proc/self/status tells no umask"))
}

/// True if the directory above is there, and nothing has the name.
fn can_be_made(directory: &Path) -> io::Result<bool> {
    match Dir::of(directory).and_then(|(dir, name)| dir.kind(name)) {
        Err(error) if is_absent(&error) => Ok(false),
        kind => named(directory, kind).map(|kind| kind.is_none()),
    }
}

fn make_some_ready(
    some: &[(u32, (&PathBuf, Option<&New>))],
    saved_dir: &Dir,
    secret: Nonce,
    changing: &BTreeSet<&Path>,
) -> io::Result<Vec<Ready>> {
    let (mut parents, mut completing) = (Parents::default(), Completing::default());
    let make_ready = |(number, (path, new)): &(u32, (&PathBuf, Option<&New>))| {
        let (dir, name) = match parents.of(path) {
            Err(error) if is_absent(&error) => return Ok(Ready::default()),
            found => named(path, found)?,
        };
        // What has appeared in a free place is met when the new file goes there.
        let is_saved = !new.is_some_and(|new| new.is_free) && {
            let copied = dir.copy(name, saved_dir, number.to_string().as_ref());
            absent_is_fine(path, copied)?.unwrap_or(false)
        };
        let is_complete = !is_in(path, changing);
        if let Some(new) = new.filter(|_| is_complete) {
            named(path, completing.complete(dir, &beside(path, secret), new))?;
        }
        Ok(Ready { is_saved, is_complete })
    };
    some.iter().map(make_ready).collect()
}

fn place_some(some: &[((&PathBuf, &New), Ready)], secret: Nonce) -> io::Result<Vec<()>> {
    let (mut parents, mut completing) = (Parents::default(), Completing::default());
    let mut place = |target: &Path, new: &New, ready: Ready| {
        let beside = beside(target, secret);
        let (dir, name) = parents.of(target)?;
        if !ready.is_complete {
            completing.complete(dir, &beside, new)?;
        }
        match ready.is_saved {
            true => dir.rename(&beside, name),
            false => dir.rename_to_new(&beside, name),
        }
    };
    some.iter().map(|((target, new), ready)| named(target, place(target, new, *ready))).collect()
}

/// Completes files under names beside their own.
#[derive(Default)]
struct Completing {
    sources: Parents,
    buffer: Vec<u8>,
}

impl Completing {
    fn complete(&mut self, dir: &Dir, beside: &OsStr, new: &New) -> io::Result<()> {
        let (path, mode) = match &new.source {
            Source::Link { target, .. } => return dir.symlink(beside, target.as_ref()),
            Source::File { path, mode, .. } => (path, *mode),
        };
        let (from, name) = self.sources.of(path)?;
        let (mut source, there) = from.read(name)?;
        let mut file = dir.create(beside)?;
        match usize::try_from(there.len()) {
            // In two calls, where the system's way to copy takes four.
            Ok(bytes) if bytes <= SMALL_BYTES => {
                self.buffer.resize(bytes, 0);
                source.read_exact(&mut self.buffer)?;
                file.write_all(&self.buffer)?;
            }
            _ => drop(io::copy(&mut source, &mut file)?),
        }
        file.set_times(fs::FileTimes::new().set_modified(there.modified()?))?;
        new.rights.apply(&file, mode)
    }
}

impl Undo {
    fn places(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().chain(&self.directories).map(PathBuf::as_path)
    }

    /// Takes away what was put in place of nothing.
    fn take_away(&self, saved: &[bool]) -> io::Result<()> {
        let mut parents = Parents::default();
        for (path, _) in self.files.iter().zip(saved).filter(|(_, is_saved)| !**is_saved) {
            let beside = beside(path, self.secret);
            absent_is_fine(
                path,
                parents.of(path).and_then(|(dir, name)| {
                    // What waits beside has not taken its place: whatever is there is somebody else's. And
                    // a directory is not what was put there: nothing was yet.
                    if dir.kind(&beside)?.is_some() || dir.kind(name)? == Some(Kind::Directory) {
                        return Ok(());
                    }
                    dir.remove(name)
                }),
            )?;
        }
        Ok(())
    }

    /// Clears what has not taken its place, and the directories that were made.
    fn clear(&self) -> io::Result<()> {
        let mut parents = Parents::default();
        for path in &self.files {
            let beside = beside(path, self.secret);
            absent_is_fine(path, parents.of(path).and_then(|(dir, _)| dir.remove(&beside)))?;
        }
        for directory in self.directories.iter().rev() {
            let done = Dir::of(directory).and_then(|(dir, name)| dir.remove_dir(name));
            match absent_is_fine(directory, done) {
                // What others have put there keeps it.
                Err(error) if is_kept(&error) => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Puts back what was there.
    fn put_back(&self, saved: &[bool], saved_dir: &Path) -> io::Result<()> {
        put_around_back(&self.around)?;
        let saved_dir = Dir::open(&fs::canonicalize(saved_dir)?)?;
        let mut parents = Parents::default();
        for ((path, is_saved), number) in self.files.iter().zip(saved).zip(0_u32..) {
            if !is_saved {
                continue;
            }
            let beside = beside(path, self.secret);
            let done = parents.of(path).and_then(|(dir, name)| {
                if !saved_dir.copy(number.to_string().as_ref(), dir, &beside)? {
                    return Err(io::ErrorKind::NotFound.into());
                }
                dir.rename(&beside, name)?;
                // Where both are names of one file already, renaming leaves both.
                dir.remove(&beside)
            });
            named(path, done)?;
        }
        Ok(())
    }
}

impl Attributes {
    fn of(dir: &Dir, matters: bool) -> io::Result<Self> {
        let there = dir.metadata()?;
        let extended = match dir.file().and_then(|file| extended::read(&file)) {
            // Who cannot look into it cannot remove it either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !matters => Vec::new(),
            extended => extended?,
        };
        let time = (there.mtime(), u32::try_from(there.mtime_nsec()).unwrap_or(0));
        Ok(Self {
            owner: there.uid(),
            group: there.gid(),
            mode: there.mode() & 0o7777,
            modified: matters.then_some(time),
            extended: (extended.into_iter())
                .map(|(name, value)| (name, ByteBuf::from(value)))
                .collect(),
        })
    }

    fn put_back(&self, directory: &Path) -> io::Result<()> {
        let (dir, name) = Dir::of(directory)?;
        let made = match dir.kind(name)? {
            Some(Kind::Directory) if self.modified.is_none() => return Ok(()),
            Some(Kind::Directory) => dir.enter(name)?,
            None => dir.make_dir(name)?,
            Some(_) => {
                let problem = "something else is where a directory was: move it away";
                return Err(io::Error::new(io::ErrorKind::NotADirectory, problem));
            }
        };
        let now = Self::of(&made, true)?;
        if (Self { modified: self.modified, ..now }) == *self {
            return Ok(());
        }
        let file = made.file()?;
        fchown(&file, Some(self.owner), Some(self.group))?;
        file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        extended::write(
            &file,
            self.extended.iter().map(|(name, value)| (name.as_str(), &value[..])),
        )
    }

    fn put_time_back(&self, directory: &Path) -> io::Result<()> {
        let Some((seconds, nanoseconds)) = self.modified else { return Ok(()) };
        let file = Dir::open(directory)?.file()?;
        let there = file.metadata()?;
        if (there.mtime(), there.mtime_nsec()) == (seconds, i64::from(nanoseconds)) {
            return Ok(());
        }
        let time = TimeSpec::new(seconds, nanoseconds.into());
        match futimens(&file, &TimeSpec::UTIME_OMIT, &time) {
            // Whoever deploys without being root may write to what is another's.
            Err(Errno::EPERM) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// Puts back what was there before the last plan was carried out in `dir`. Does nothing if none was,
/// and can be repeated until it succeeds.
pub(crate) fn undo(dir: &Path) -> io::Result<()> {
    let read = absent_is_none(read_sealed(&dir.join(UNDO)))
        .and_then(|undo| Ok((undo, absent_is_none(read_sealed(&dir.join(PLACING)))?)));
    let (undo, placing): (Option<Undo>, Option<Placing>) = read.map_err(|error| {
        let what = format!(
            "{error}; the old files are in {}: to go on without them, remove {} and {}",
            dir.join(SAVED).display(),
            dir.join(UNDO).display(),
            dir.join(PLACING).display(),
        );
        io::Error::new(error.kind(), what)
    })?;
    let Some(undo) = undo else { return forget(dir) };
    if let Some(Placing { saved, is_taken_away: false }) = &placing {
        undo.take_away(saved)?;
        // Once those beside are gone nobody could tell any more.
        sync(dir, undo.places())?;
        let placing = Placing { saved: saved.clone(), is_taken_away: true };
        write_sealed(&dir.join(PLACING), &placing)?;
    }
    undo.clear()?;
    if let Some(Placing { saved, .. }) = &placing {
        undo.put_back(saved, &dir.join(SAVED))?;
    }
    put_times_back(&undo.around)?;
    sync(dir, undo.places().chain(undo.around.iter().map(|(path, _)| path.as_path())))?;
    forget(dir)
}

/// True if files are saved in `dir` that were not put back, and may have to be.
pub(crate) fn can_undo(dir: &Path) -> bool {
    dir.join(UNDO).exists()
}

/// Drops what would be needed to undo.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    if absent_is_none(fs::remove_file(dir.join(UNDO)))?.is_some() {
        // A list that came back after a loss of power would miss the copies.
        durable(dir, File::open(dir)?.sync_all());
    }
    gone(fs::remove_file(dir.join(PLACING)))?;
    gone(fs::remove_dir_all(dir.join(SAVED)))
}

/// The name under which a file is completed before it takes its place. Who owns the directory cannot
/// foretell it; whoever reads the undo list can find it again.
pub(crate) fn beside(target: &Path, secret: Nonce) -> OsString {
    // The hash keeps long names within the limit of the file system.
    let path = target.as_os_str().as_encoded_bytes();
    let Digest(hash) = Digest::of_content(&[&secret.0[..], path].concat());
    let [a, b, c, d, e, f, g, h, ..] = hash;
    format!(".swell-{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h])).into()
}

/// Makes what was done in `dir` and at these places durable, on whatever file systems they are.
pub(crate) fn sync<'a>(path: &Path, places: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    let dir = File::open(path)?;
    durable(path, nix::unistd::syncfs(&dir).map_err(Into::into));
    let mut synced = BTreeSet::from([dir.metadata()?.dev()]);
    // As text: it is faster.
    let parents: BTreeSet<_> = places.filter_map(Path::parent).map(Path::as_os_str).collect();
    for place in parents.into_iter().map(Path::new) {
        let Some(dir) =
            place.ancestors().find_map(|above| Dir::open(above).and_then(|dir| dir.file()).ok())
        else {
            continue;
        };
        if synced.insert(dir.metadata()?.dev()) {
            durable(place, nix::unistd::syncfs(&dir).map_err(Into::into));
        }
    }
    Ok(())
}

pub(crate) fn gone(result: io::Result<()>) -> io::Result<()> {
    absent_is_none(result).map(|_| ())
}

pub(crate) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// None where the directory is gone, and nothing can be in it.
pub(crate) fn absent_is_fine<T>(path: &Path, done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if is_absent(&error) => Ok(None),
        other => named(path, other.map(Some)),
    }
}

/// True of a directory that has something in it, or that something is mounted on.
fn is_kept(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy)
}

pub(crate) fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), named_in(path, &error)))
}

fn named_in(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

const UNDO: &str = "undo";
const PLACING: &str = "placing";
const SAVED: &str = "saved";
const BELONGINGS: &str = "belongings";
/// So many files are worked on by two threads. For fewer a second one does not pay.
const MANY: usize = 256;
/// Files up to this length are read as a whole.
const SMALL_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        os::unix::fs::{chown, symlink},
        rc::Rc,
    };

    use groundswell_protocol::{
        revision::{FileMapping, Permission, Publisher},
        time::UnixSeconds,
    };
    use tempfile::TempDir;

    use super::*;
    use crate::{
        place::tests::{at_each_step, dying_after},
        shown::shown_by_root,
    };

    /// A scratch host with an archive for each revision.
    struct Host {
        dir: TempDir,
        count: u32,
    }

    /// Directories end with a slash, links begin with an arrow, files have their content.
    type Tree = BTreeMap<String, String>;

    impl Host {
        fn new() -> Self {
            // In memory where possible: some tests make changes durable a thousand times.
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            fs::create_dir(dir.path().join("live")).unwrap();
            Self { dir, count: 0 }
        }

        fn live(&self) -> PathBuf {
            self.dir.path().join("live")
        }

        fn spec(&self) -> AppSpec {
            let destination = self.live().join("app").display().to_string();
            let mapping = FileMapping { source: "app".into(), destination };
            AppSpec { files: vec![mapping], ..AppSpec::default() }
        }

        /// A revision whose directory `app` goes to `live/app`.
        fn revision(&mut self, files: &[(&str, &str)]) -> (Manifest, PathBuf, PathBuf) {
            self.revision_of(self.spec(), files)
        }

        fn revision_of(
            &mut self,
            spec: AppSpec,
            files: &[(&str, &str)],
        ) -> (Manifest, PathBuf, PathBuf) {
            self.try_revision(spec, files).unwrap()
        }

        /// None if no revision can be so.
        fn try_revision(
            &mut self,
            spec: AppSpec,
            files: &[(&str, &str)],
        ) -> Option<(Manifest, PathBuf, PathBuf)> {
            self.count += 1;
            let dir = self.dir.path().join(format!("d{}", self.count));
            let archive = dir.join("archive");
            fs::create_dir_all(archive.join("app")).unwrap();
            let mut publisher = Publisher::new(spec).unwrap();
            publisher.directory("app").unwrap();
            let mut all: Vec<_> = files.to_vec();
            all.sort_unstable();
            let mut made = BTreeSet::new();
            for (path, content) in all {
                let parents: Vec<_> = Path::new(path).ancestors().skip(1).collect();
                for parent in parents.into_iter().rev().filter(|p| !p.as_os_str().is_empty()) {
                    if made.insert(parent.to_owned()) {
                        fs::create_dir_all(archive.join("app").join(parent)).unwrap();
                        publisher.directory(&format!("app/{}", parent.display())).unwrap();
                    }
                }
                let name = format!("app/{path}");
                if let Some(target) = content.strip_prefix("-> ") {
                    publisher.symlink(&name, target).unwrap();
                    continue;
                }
                fs::write(archive.join("app").join(path), content).unwrap();
                publisher.begin_file(&name, 0o640, UnixSeconds(1000)).unwrap();
                publisher.write(content.as_bytes()).unwrap();
                publisher.end_file().unwrap();
            }
            Some((publisher.finish().ok()?.manifest, archive, dir))
        }

        /// Installs a revision for good.
        fn install(&mut self, files: &[(&str, &str)], before: &Belongings) -> Belongings {
            let (manifest, archive, dir) = self.revision(files);
            let plan = plan(&manifest, Path::new("/"), &archive, before, DISALLOW).unwrap();
            plan.carry_out(&dir).unwrap();
            forget(&dir).unwrap();
            Belongings::read(&dir).unwrap().unwrap()
        }

        fn tree(&self) -> Tree {
            let mut tree = Tree::new();
            let mut open = vec![self.live()];
            while let Some(dir) = open.pop() {
                for entry in fs::read_dir(&dir).unwrap() {
                    let path = entry.unwrap().path();
                    let there = fs::symlink_metadata(&path).unwrap();
                    let name = path.strip_prefix(self.live()).unwrap().display().to_string();
                    if there.is_dir() {
                        let (mode, owner, group) =
                            (there.mode() & 0o7777, there.uid(), there.gid());
                        tree.insert(format!("{name}/"), format!("{mode:o} {owner} {group}"));
                        open.push(path);
                    } else if there.is_symlink() {
                        let target = fs::read_link(&path).unwrap();
                        tree.insert(name, format!("-> {}", target.display()));
                    } else {
                        tree.insert(name, fs::read_to_string(&path).unwrap());
                    }
                }
            }
            tree
        }

        /// What is in `live`, directories left out.
        fn files(&self) -> Vec<(String, String)> {
            self.tree().into_iter().filter(|(name, _)| !name.ends_with('/')).collect()
        }
    }

    fn owned(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(path, content)| (format!("app/{path}"), (*content).to_owned())).collect()
    }

    const DISALLOW: FileExistsBehavior = FileExistsBehavior::Disallow;

    fn none() -> Belongings {
        Belongings::default()
    }

    #[test]
    fn the_new_tree_replaces_the_old_one_and_can_be_undone() {
        let mut host = Host::new();
        let first = host.install(&[("a", "1"), ("b", "1"), ("x/c", "1")], &none());
        let before = host.tree();

        let (new, archive, dir) = host.revision(&[("a", "2"), ("y/d", "2")]);
        let second = plan(&new, Path::new("/"), &archive, &first, DISALLOW).unwrap();
        second.carry_out(&dir).unwrap();
        assert_eq!(host.files(), owned(&[("a", "2"), ("y/d", "2")]));
        assert!(host.tree().contains_key("app/y/") && !host.tree().contains_key("app/x/"));
        let mode = fs::metadata(host.live().join("app/a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);

        undo(&dir).unwrap();
        assert_eq!(host.tree(), before);
        // Again, as after a crash in between: nothing is left to do.
        undo(&dir).unwrap();
        assert_eq!(host.tree(), before);
    }

    #[test]
    fn many_files_are_completed_by_two_threads_and_undone_if_one_fails() {
        let mut host = Host::new();
        let names: Vec<_> =
            (0..MANY + 1).map(|number| format!("d{}/{number}", number % 7)).collect();
        let of = |content| names.iter().map(|name| (name.as_str(), content)).collect::<Vec<_>>();
        let first = host.install(&of("1"), &none());
        let before = host.tree();
        for broken in [0, MANY / 2, MANY] {
            let (manifest, archive, dir) = host.revision(&of("2"));
            let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
            let (name, _) = second.files.iter().nth(broken).unwrap();
            let source =
                archive.join("app").join(name.strip_prefix(host.live().join("app")).unwrap());
            fs::rename(&source, dir.join("away")).unwrap();
            let error = second.carry_out(&dir).unwrap_err();
            assert!(error.to_string().contains(&name.display().to_string()), "{error}");
            undo(&dir).unwrap();
            assert_eq!(host.tree(), before);
            fs::rename(dir.join("away"), &source).unwrap();
            second.carry_out(&dir).unwrap();
            assert!(host.files().iter().all(|(_, content)| content == "2"));
            undo(&dir).unwrap();
            assert_eq!(host.tree(), before);
        }
    }

    #[test]
    fn a_file_in_the_way_is_handled_as_the_settings_say() {
        let mut host = Host::new();
        fs::create_dir(host.live().join("app")).unwrap();
        fs::write(host.live().join("app/a"), "theirs").unwrap();
        let (revision, archive, dir) = host.revision(&[("a", "ours"), ("b", "ours")]);
        let refused =
            plan(&revision, Path::new("/"), &archive, &none(), DISALLOW).unwrap_err().to_string();
        assert!(refused.contains("app/a") && refused.contains("OVERWRITE"), "{refused}");
        assert_eq!(host.tree().get("app/a").unwrap(), "theirs");

        let retain =
            plan(&revision, Path::new("/"), &archive, &none(), FileExistsBehavior::Retain).unwrap();
        retain.carry_out(&dir).unwrap();
        assert_eq!(host.tree().get("app/a").unwrap(), "theirs");
        assert!(!retain.belongings.files.contains(&host.live().join("app/a")));
        undo(&dir).unwrap();

        let overwrite = FileExistsBehavior::Overwrite;
        let overwrite = plan(&revision, Path::new("/"), &archive, &none(), overwrite).unwrap();
        overwrite.carry_out(&dir).unwrap();
        assert_eq!(host.tree().get("app/a").unwrap(), "ours");
        undo(&dir).unwrap();
        assert_eq!(host.tree().get("app/a").unwrap(), "theirs");
        assert!(!host.tree().contains_key("app/b"));
    }

    #[test]
    fn a_directory_in_the_way_is_never_removed() {
        let mut host = Host::new();
        fs::create_dir_all(host.live().join("app/a")).unwrap();
        let (revision, archive, dir) = host.revision(&[("a", "ours")]);
        let retain = FileExistsBehavior::Retain;
        let retained = plan(&revision, Path::new("/"), &archive, &none(), retain).unwrap();
        retained.carry_out(&dir).unwrap();
        assert!(host.live().join("app/a").is_dir() && retained.belongings.files.is_empty());
        for behavior in [DISALLOW, FileExistsBehavior::Overwrite] {
            let refused = plan(&revision, Path::new("/"), &archive, &none(), behavior)
                .unwrap_err()
                .to_string();
            assert!(refused.contains("app/a: move it away"), "{refused}");
        }
    }

    /// Pairs of revisions between which files, links and directories take each other's places.
    const SHAPES: [[&[(&str, &str)]; 2]; 8] = [
        [&[("a", "1"), ("b", "1"), ("c", "1")], &[("a", "2"), ("b", "2"), ("c", "2")]],
        [&[("a", "1"), ("x/y/b", "1")], &[("a", "2"), ("z/c", "2")]],
        [&[("x", "1")], &[("x/a", "2"), ("x/y/b", "2")]],
        [&[("x/a", "1"), ("x/y/b", "1")], &[("x", "2")]],
        [&[("assets/x", "1"), ("static", "-> assets")], &[("static/x", "2"), ("static/y", "2")]],
        [
            &[("assets/x", "1"), ("static", "-> assets")],
            &[("assets/x", "2"), ("static/x", "2"), ("static/z/x", "2")],
        ],
        [&[("static/x", "1"), ("static/y/z", "1")], &[("assets/x", "2"), ("static", "-> assets")]],
        [&[("x", "-> y"), ("y", "1")], &[("x", "2"), ("y", "-> x")]],
    ];

    #[test]
    fn files_links_and_directories_take_each_others_places() {
        for [old, new] in SHAPES {
            let mut host = Host::new();
            let first = host.install(old, &none());
            let before = host.tree();
            let (manifest, archive, dir) = host.revision(new);
            let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
            second.carry_out(&dir).unwrap();
            assert_eq!(host.files(), owned(new));
            undo(&dir).unwrap();
            assert_eq!(host.tree(), before, "{new:?} undone");
            // And back: what the second one left in its list is what it owned.
            second.carry_out(&dir).unwrap();
            forget(&dir).unwrap();
            let second = Belongings::read(&dir).unwrap().unwrap();
            host.install(old, &second);
            assert_eq!(host.tree(), before, "{old:?} again");
        }
    }

    #[test]
    fn an_installation_that_stops_anywhere_is_undone() {
        for [old, new] in SHAPES {
            let mut host = Host::new();
            let first = host.install(old, &none());
            // What a directory was given since comes back, too.
            for (path, mode) in [("app/x", 0o2750), ("app/static", 0o711)] {
                let path = host.live().join(path);
                if fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir()) {
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                    if shown_by_root() {
                        chown(&path, Some(1234), Some(4321)).unwrap();
                        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                    }
                }
            }
            let before = host.tree();
            let (manifest, archive, dir) = host.revision(new);
            let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
            for steps in 0.. {
                let mut more = true;
                for undo_steps in 0.. {
                    let (_, whole) = dying_after(steps, || second.carry_out(&dir));
                    let (_, undone) = dying_after(undo_steps, || undo(&dir));
                    undo(&dir).unwrap();
                    assert_eq!(
                        host.tree(),
                        before,
                        "{new:?} after {steps} steps, undone again after {undo_steps}"
                    );
                    more = !whole;
                    if undone {
                        break;
                    }
                }
                if !more {
                    break;
                }
            }
        }
    }

    /// Somebody puts a file where a new one comes, before each step of an installation that may then be
    /// interrupted, and so may be the way back.
    #[test]
    fn what_appears_in_the_middle_is_never_lost() {
        for name in ["app/b", "app/new/d"] {
            let mut host = Host::new();
            let first = host.install(&[("a", "1"), ("old", "1")], &none());
            let before = host.files();
            let (manifest, archive, dir) = host.revision(&[("a", "2"), ("b", "2"), ("new/d", "2")]);
            let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
            let theirs = host.live().join(name);
            let is_theirs =
                |path: &Path| fs::read_to_string(path).is_ok_and(|text| text == "theirs");
            let mut collisions = 0;
            for race in 0.. {
                let mut races = false;
                for steps in race.. {
                    let (count, path) = (Rc::new(Cell::new(0)), theirs.clone());
                    let counter = count.clone();
                    let hook = move || {
                        if counter.replace(counter.get() + 1) == race {
                            let made = File::create_new(&path);
                            drop(made.and_then(|mut file| file.write_all(b"theirs")));
                        }
                        let dies = counter.get() > steps;
                        if dies { Err(io::Error::other("the process has died")) } else { Ok(()) }
                    };
                    let done = at_each_step(hook, || second.carry_out(&dir));
                    races |= count.get() > race;
                    let has_died = count.get() > steps;
                    let was_first = is_theirs(&theirs);
                    if !has_died {
                        let error = done.err().map(|error| error.kind());
                        let expected = was_first.then_some(io::ErrorKind::AlreadyExists);
                        assert_eq!(error, expected, "{name} before step {race}");
                        collisions += u32::from(was_first);
                    }
                    for undo_steps in 0.. {
                        let (_, undone) = dying_after(undo_steps, || undo(&dir));
                        let what = format!("{name}, {race}, {steps}, {undo_steps}");
                        assert_eq!(is_theirs(&theirs), was_first, "{what}");
                        if undone {
                            break;
                        }
                    }
                    fs::remove_file(&theirs).ok();
                    fs::remove_dir(host.live().join("app/new")).ok();
                    assert_eq!(host.files(), before, "{name}, {race}, {steps}");
                    if !has_died {
                        break;
                    }
                }
                if !races {
                    break;
                }
            }
            assert!(collisions > 3, "{name}: {collisions}");
        }
    }

    #[test]
    fn the_old_tree_is_whole_until_the_new_one_is_complete() {
        let mut host = Host::new();
        let first = host.install(&[("a", "1"), ("x/c", "1")], &none());
        let (manifest, archive, dir) = host.revision(&[("a", "2"), ("x", "2"), ("y/d", "2")]);
        let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
        let temporary = |name: &str| name.rsplit('/').next().unwrap().starts_with(".swell-");
        for steps in 0.. {
            let (_, whole) = dying_after(steps, || second.carry_out(&dir));
            let (files, unfinished): (Vec<_>, Vec<_>) =
                host.files().into_iter().partition(|(name, _)| !temporary(name));
            if files != owned(&[("a", "1"), ("x/c", "1")]) {
                assert_eq!(unfinished.len(), 3, "the first change comes when all is complete");
                assert!(unfinished.iter().all(|(_, content)| content == "2"));
                undo(&dir).unwrap();
                break;
            }
            assert!(!whole);
            undo(&dir).unwrap();
        }
    }

    /// Numbers that look random and are the same for the same seed.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            usize::try_from(self.0 >> 33).unwrap() % end
        }

        fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
            list[self.below(list.len())]
        }
    }

    /// A revision as odd as the rules allow.
    fn odd_files(dice: &mut Dice) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for name in ["-rf", ".h", "a", "sub", "up", "x y", "\u{442}"] {
            match dice.below(5) {
                0 => {}
                1 => files.push((name.into(), dice.of(&["1", "2", ""]).into())),
                2 => {
                    let target = dice.of(&["..", ".", "a", "sub", "../app", "none", "sub/../a"]);
                    // Circles and what leads through a file are refused when it is made.
                    let target = if target == name { ".." } else { target };
                    files.push((name.into(), format!("-> {target}")));
                }
                _ => {
                    files.push((format!("{name}/f"), dice.of(&["3", "4"]).into()));
                    files.push((
                        format!("{name}/l"),
                        format!("-> {}", dice.of(&["..", "f", "../a"])),
                    ));
                }
            }
        }
        files
    }

    /// Everything below a directory, with all that a change would show in.
    fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
        let (mut all, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let there = fs::symlink_metadata(&path).unwrap();
                let content = match there.file_type() {
                    kind if kind.is_dir() => String::new(),
                    kind if kind.is_symlink() => {
                        fs::read_link(&path).unwrap().display().to_string()
                    }
                    _ => fs::read_to_string(&path).unwrap(),
                };
                if there.is_dir() {
                    open.push(path.clone());
                }
                let (mode, owner, inode) = (there.mode(), there.uid(), there.ino());
                all.insert(path, format!("{mode:o} {owner} {inode} {content}"));
            }
        }
        all
    }

    /// Three revisions on each of three hundred hosts, where users have left links to elsewhere.
    #[test]
    fn whatever_a_revision_has_nothing_changes_outside_its_destinations() {
        let as_root = shown_by_root();
        let (mut carried_out, mut refused) = (0, 0);
        for seed in 0..300 {
            let mut dice = Dice(seed);
            let mut host = Host::new();
            let outside = host.dir.path().join("outside");
            for dir in [&outside, &host.live().join("app"), &host.live().join("users")] {
                fs::create_dir_all(dir).unwrap();
                fs::write(dir.join("mine"), "mine").unwrap();
            }
            if as_root {
                for name in ["app/sub", "app/up", "users/away"] {
                    let link = host.live().join(name);
                    if dice.below(3) == 0 {
                        symlink(&outside, &link).unwrap();
                        std::os::unix::fs::lchown(&link, Some(12345), Some(12345)).unwrap();
                    }
                }
            }
            let (before, mut belongings) = (listing(&outside), none());
            for _ in 0..3 {
                let files = odd_files(&mut dice);
                let files: Vec<_> = files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
                let mut spec = host.spec();
                let other = dice.of(&["users", "users/away", "app/sub", "new/deep", "app/up/x"]);
                let destination = host.live().join(other).display().to_string();
                spec.files.push(FileMapping { source: "app".into(), destination });
                let Some((manifest, archive, dir)) = host.try_revision(spec, &files) else {
                    continue;
                };
                let behavior =
                    [DISALLOW, FileExistsBehavior::Overwrite, FileExistsBehavior::Retain];
                let behavior = behavior[dice.below(3)];
                let live = host.tree();
                match plan(&manifest, Path::new("/"), &archive, &belongings, behavior) {
                    Err(_) => refused += 1,
                    Ok(plan) if plan.carry_out(&dir).is_ok() && dice.below(2) == 0 => {
                        forget(&dir).unwrap();
                        belongings = plan.belongings;
                        carried_out += 1;
                    }
                    Ok(_) => {
                        undo(&dir).unwrap();
                        assert_eq!(host.tree(), live, "seed {seed}: undone");
                    }
                }
                assert_eq!(listing(&outside), before, "seed {seed}");
                let inside = |path: &PathBuf| path.starts_with(host.live());
                assert!(belongings.files.iter().all(inside), "seed {seed}: {belongings:?}");
            }
        }
        assert!(carried_out > 100 && refused > 50, "{carried_out} carried out, {refused} refused");
    }

    #[test]
    fn what_others_put_into_a_directory_stays() {
        let mut host = Host::new();
        let first = host.install(&[("x/c", "1")], &none());
        fs::write(host.live().join("app/x/data"), "precious").unwrap();
        let (new, archive, _) = host.revision(&[("x", "2")]);
        let refused =
            plan(&new, Path::new("/"), &archive, &first, DISALLOW).unwrap_err().to_string();
        assert!(refused.contains("app/x/data") && refused.contains("move it away"), "{refused}");
        host.install(&[("a", "2")], &first);
        assert_eq!(host.tree().get("app/x/data").unwrap(), "precious");
    }

    #[test]
    fn a_link_of_the_administrator_is_followed_and_stays() {
        let mut host = Host::new();
        let data = host.live().join("data");
        fs::create_dir_all(host.live().join("app")).unwrap();
        fs::create_dir(&data).unwrap();
        symlink(&data, host.live().join("app/uploads")).unwrap();
        let mut spec = host.spec();
        spec.permissions.push(Permission {
            acls: Vec::new(),
            mode: Some(0o600),
            group: None,
            owner: None,
            except: Vec::new(),
            // By the name that the appspec has for it, as AWS's agent compares them.
            object: host.live().join("app").display().to_string(),
            context: None,
            pattern: "**".into(),
            on_files: true,
            on_directories: false,
        });
        let (manifest, archive, dir) = host.revision_of(spec, &[("uploads/x/a", "1")]);
        let first = plan(&manifest, Path::new("/"), &archive, &none(), DISALLOW).unwrap();
        first.carry_out(&dir).unwrap();
        assert_eq!(fs::read_to_string(data.join("x/a")).unwrap(), "1");
        assert_eq!(fs::metadata(data.join("x/a")).unwrap().mode() & 0o777, 0o600);
        forget(&dir).unwrap();
        host.install(&[("b", "2")], &first.belongings);
        assert!(!data.join("x").exists() && data.is_dir());
        assert!(host.live().join("app/uploads").is_symlink());
    }

    #[test]
    fn whoever_owns_a_directory_cannot_lead_root_out_of_it() {
        let mut host = Host::new();
        let first = host.install(&[("static/x/a", "1")], &none());
        let (manifest, archive, dir) = host.revision(&[("static/x/a", "2"), ("static/x/b", "2")]);
        let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
        // Between the plan and its execution, a link takes the directory's place.
        let (theirs, etc) = (host.live().join("app/static"), host.dir.path().join("etc"));
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("a"), "root's").unwrap();
        fs::rename(theirs.join("x"), theirs.join("moved")).unwrap();
        symlink(&etc, theirs.join("x")).unwrap();
        second.carry_out(&dir).unwrap_err();
        undo(&dir).unwrap();
        assert_eq!(fs::read_to_string(etc.join("a")).unwrap(), "root's");
        assert_eq!(fs::read_dir(&etc).unwrap().count(), 1);
    }

    #[test]
    fn the_names_of_unfinished_files_cannot_be_foretold() {
        let target = Path::new("/srv/app/x");
        let [one, other] = [1, 2].map(|byte| beside(target, Nonce([byte; 16])));
        assert_ne!(one, other);
        assert!(one.to_string_lossy().starts_with(".swell-"));
        // And what has such a name already is not written to.
        let mut host = Host::new();
        let (_, archive, dir) = host.revision(&[("a", "ours")]);
        let victim = dir.join("victim");
        fs::write(&victim, "root's").unwrap();
        symlink(&victim, dir.join("beside")).unwrap();
        let held = Dir::open(&fs::canonicalize(&dir).unwrap()).unwrap();
        let source = Source::File { path: archive.join("app/a"), mode: 0o777, bytes: 4 };
        let new = New { source, rights: Arc::default(), is_free: true };
        let mut completing = Completing::default();
        completing.complete(&held, "beside".as_ref(), &new).unwrap_err();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "root's");
        completing.complete(&held, "another".as_ref(), &new).unwrap();
        assert_eq!(fs::read_to_string(dir.join("another")).unwrap(), "ours");
    }

    #[test]
    fn copies_are_roots_alone_and_go_when_their_list_cannot_be_written() {
        let mut host = Host::new();
        let first = host.install(&[("a", "1")], &none());
        let (manifest, archive, dir) = host.revision(&[("a", "2")]);
        let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
        // In the way of the list.
        fs::create_dir(dir.join(UNDO)).unwrap();
        second.carry_out(&dir).unwrap_err();
        assert!(!dir.join(SAVED).exists());
        assert_eq!(host.files(), owned(&[("a", "1")]));
        fs::remove_dir(dir.join(UNDO)).unwrap();
        let (_, whole) = dying_after(1, || second.carry_out(&dir));
        assert!(!whole);
        assert_eq!(fs::metadata(dir.join(SAVED)).unwrap().mode() & 0o777, 0o700);
        // Left by a process that has ended before there was a list.
        fs::remove_file(dir.join(UNDO)).unwrap();
        undo(&dir).unwrap();
        assert!(!dir.join(SAVED).exists());
    }

    #[test]
    fn a_directory_that_is_gone_before_anything_was_changed_stays_away() {
        let mut host = Host::new();
        let first = host.install(&[("a", "1"), ("x/c", "1"), ("y/c", "1")], &none());
        let (manifest, archive, dir) = host.revision(&[("a", "2"), ("x/c", "2"), ("y/c", "2")]);
        let second = plan(&manifest, Path::new("/"), &archive, &first, DISALLOW).unwrap();
        let (_, whole) = dying_after(3, || second.carry_out(&dir));
        assert!(!whole && can_undo(&dir) && !dir.join(PLACING).exists());
        fs::remove_dir_all(host.live().join("app/x")).unwrap();
        fs::rename(host.live().join("app/y"), host.live().join("moved")).unwrap();
        symlink(host.live().join("moved"), host.live().join("app/y")).unwrap();
        undo(&dir).unwrap();
        assert!(!can_undo(&dir) && !host.live().join("app/x").exists());
        assert_eq!(host.tree().get("moved/c").unwrap(), "1");
    }

    /// Mode, owner and lists of all that is there.
    fn rights_in(host: &Host) -> BTreeMap<String, String> {
        let all = host.tree().into_keys().map(|name| {
            let file = File::open(host.live().join(&name)).unwrap();
            let there = file.metadata().unwrap();
            let mut lists = extended::read(&file).unwrap();
            lists.retain(|(name, _)| !name.starts_with("security."));
            lists.sort();
            let (mode, owner, group) = (there.mode() & 0o7777, there.uid(), there.gid());
            (name, format!("{mode:o} {owner} {group} {lists:?}"))
        });
        all.collect()
    }

    /// The mode and the ACL that a revision gives to directories.
    type Kind = (Option<u16>, &'static [&'static str]);

    #[test]
    fn what_comes_later_has_the_rights_that_it_would_have_had_at_first() {
        let give = |host: &Host, mode: Option<u16>, acls: &[&str]| {
            let permission = Permission {
                acls: acls.iter().map(ToString::to_string).collect(),
                mode,
                group: None,
                owner: None,
                except: Vec::new(),
                object: host.live().display().to_string(),
                context: None,
                pattern: "**".into(),
                on_files: false,
                on_directories: true,
            };
            AppSpec { permissions: vec![permission], ..host.spec() }
        };
        let kinds: [Kind; 5] = [
            (None, &[]),
            (Some(0o2770), &[]),
            (None, &["d:u:12345:rwx"]),
            (Some(0o750), &["u:54321:rx", "d:g:12345:r"]),
            (None, &["u:54321:rx"]),
        ];
        let group = shown_by_root().then_some(4321);
        let above: [(u32, &[&str]); 4] = [
            (0o755, &[]),
            (0o2775, &[]),
            (0o755, &["d:u:123:rwx", "d:o::-"]),
            (0o2755, &["d:u::rwx", "d:g::rx", "d:o::-"]),
        ];
        let files = [("a", "1"), ("x/b", "1"), ("x/y/c", "1")];
        let more = [("a", "2"), ("x/b", "2"), ("x/y/c", "2"), ("x/n/d", "2"), ("x/e", "2")];
        for (mode, acls) in above {
            let host = || {
                let host = Host::new();
                chown(host.live(), None, group).unwrap();
                let live = File::open(host.live()).unwrap();
                let acls: Vec<_> = acls.iter().map(ToString::to_string).collect();
                crate::acl::Acl::resolve(&acls).unwrap().apply(&live, mode, true).unwrap();
                host
            };
            let deploy = |host: &mut Host, kind: Kind, files: &[_], before: &Belongings| {
                let spec = give(host, kind.0, kind.1);
                let (manifest, archive, dir) = host.revision_of(spec, files);
                let plan = plan(&manifest, Path::new("/"), &archive, before, DISALLOW).unwrap();
                let there = (rights_in(host), host.files());
                let changes = !changing(&plan.renewed).unwrap().is_empty();
                plan.carry_out(&dir).unwrap();
                undo(&dir).unwrap();
                assert_eq!((rights_in(host), host.files()), there);
                plan.carry_out(&dir).unwrap();
                forget(&dir).unwrap();
                (plan.belongings, changes)
            };
            for first in kinds {
                for second in kinds {
                    let mut fresh = host();
                    deploy(&mut fresh, second, &more, &none());
                    let mut host = host();
                    let (one, _) = deploy(&mut host, first, &files, &none());
                    let (two, _) = deploy(&mut host, second, &more, &one);
                    let what = format!("{second:?} after {first:?} below {mode:o} {acls:?}");
                    assert_eq!(rights_in(&host), rights_in(&fresh), "{what}");
                    let (_, changes) = deploy(&mut host, second, &more, &two);
                    assert_eq!(rights_in(&host), rights_in(&fresh), "{what}, again");
                    assert!(!changes, "{what}: all can be completed early");
                }
            }
        }
    }

    #[test]
    fn a_damaged_undo_list_is_an_error_that_says_where_the_old_files_are() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(UNDO), "nonsense, and longer than a checksum").unwrap();
        let error = undo(dir.path()).unwrap_err().to_string();
        assert!(error.contains("undo is damaged") && error.contains("saved"), "{error}");
    }
}

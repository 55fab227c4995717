//! Putting a revision's files in place, and putting the old ones back.
//!
//! Everything that can be known to fail is checked before the live tree is touched. What will be
//! replaced or removed is saved first, and a list of it is on disk before the first change; so the
//! old tree can be put back after a failure, a crash, or a crash while putting it back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    cbor,
    revision::{AppSpec, EntryKind, FileExistsBehavior, Manifest},
};
use serde::{Deserialize, Serialize};

use crate::{
    journal::{Installed, JOURNAL_BYTES_MAX, replace},
    permissions::{self, Created, Rights},
};

/// What will be done, decided as a whole before anything is.
#[derive(Debug)]
pub(crate) struct Plan {
    /// To be made, parents first.
    directories: Vec<PathBuf>,
    /// By their targets.
    files: BTreeMap<PathBuf, Source>,
    /// Files of the revision before that this one does not have.
    removed: Vec<PathBuf>,
    /// Directories of the revision before that this one does not need, children first.
    emptied: Vec<PathBuf>,
    /// Directories of the revision before that are still needed.
    kept_directories: Vec<PathBuf>,
    rights: BTreeMap<PathBuf, Rights>,
}

#[derive(Debug)]
enum Source {
    File { path: PathBuf, mode: u32 },
    Link { target: String },
}

/// How to undo what is being done. On disk before the first change.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Undo {
    /// Everything that is put in place.
    files: Vec<PathBuf>,
    /// Everything that is made, parents first.
    directories: Vec<PathBuf>,
    /// What was there: the place, and the number of its copy.
    saved: Vec<(PathBuf, u32)>,
    /// Directories that are removed, parents first, with their modes.
    emptied: Vec<(PathBuf, u32)>,
}

/// Decides what to do. Touches nothing. Destinations are below `root`.
pub(crate) fn plan(
    manifest: &Manifest,
    root: &Path,
    archive: &Path,
    before: Option<&Installed>,
    behavior: FileExistsBehavior,
) -> Result<Plan, String> {
    let mut wanted = Wanted::default();
    for mapping in &manifest.spec.files {
        let destination = below(root, &mapping.destination);
        wanted.map(manifest, archive, &mapping.source, &destination)?;
    }
    let owned: BTreeSet<&Path> =
        before.iter().flat_map(|b| b.files.iter().map(PathBuf::as_path)).collect();
    let mut files = BTreeMap::new();
    for (target, source) in wanted.files {
        if allowed(&target, &owned, behavior)? {
            files.insert(target, source);
        }
    }
    let directories = missing_directories(&wanted.directories, &files)?;
    let old_directories = before.map(|b| b.directories.as_slice()).unwrap_or_default();
    let needed = |directory: &PathBuf| {
        wanted.directories.contains(directory)
            || files.keys().any(|file| file.starts_with(directory))
            || wanted.directories.iter().any(|other| other.starts_with(directory))
    };
    let (kept, emptied): (Vec<_>, Vec<_>) = old_directories.iter().cloned().partition(needed);
    let removed = owned.into_iter().filter(|path| !files.contains_key(*path));
    let removed = removed.map(Path::to_path_buf).collect();
    let rights = rights(&manifest.spec, root, &files, &directories)?;
    let emptied = emptied.into_iter().rev().collect();
    Ok(Plan { directories, files, removed, emptied, kept_directories: kept, rights })
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
        let is_directory = source.is_empty()
            || manifest.entry(source).is_some_and(|e| e.kind == EntryKind::Directory);
        if !is_directory {
            let name = source.rsplit('/').next().unwrap_or(source);
            let entry = manifest.entry(source).ok_or_else(|| format!("{source} is missing"))?;
            return self.put(archive, source, &entry.kind, destination.join(name));
        }
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
            EntryKind::File { mode, .. } => {
                Source::File { path: archive.join(path), mode: u32::from(*mode) }
            }
            EntryKind::Symlink { target } => Source::Link { target: target.clone() },
        };
        let shown = target.display().to_string();
        match self.files.insert(target, source) {
            None => Ok(()),
            Some(Source::File { path: other, .. }) => {
                let other = other.strip_prefix(archive).unwrap_or(&other).display().to_string();
                Err(format!("files: both {other} and {path} would become {shown}"))
            }
            Some(Source::Link { .. }) => Err(format!("files: {shown} would be made twice")),
        }
    }
}

/// True if the file is put in place, false if the one that is there is kept.
fn allowed(
    target: &Path,
    owned: &BTreeSet<&Path>,
    behavior: FileExistsBehavior,
) -> Result<bool, String> {
    let Ok(there) = fs::symlink_metadata(target) else { return Ok(true) };
    let shown = target.display();
    if there.is_dir() {
        return Err(format!("a directory is in the way at {shown}: move it away"));
    }
    match behavior {
        _ if owned.contains(target) => Ok(true),
        FileExistsBehavior::Overwrite => Ok(true),
        FileExistsBehavior::Retain => Ok(false),
        FileExistsBehavior::Disallow => Err(format!(
            "a file is in the way at {shown}, which no deployment of this group put there: move it \
             away, or set file_exists_behavior to OVERWRITE or RETAIN"
        )),
    }
}

/// Directories to be made, parents first: those asked for and all above that are not there.
fn missing_directories(
    wanted: &BTreeSet<PathBuf>,
    files: &BTreeMap<PathBuf, Source>,
) -> Result<Vec<PathBuf>, String> {
    let mut missing = BTreeSet::new();
    for directory in wanted {
        for ancestor in directory.ancestors() {
            if files.contains_key(ancestor) {
                return Err(format!("files: {} would be file and directory", ancestor.display()));
            }
            match fs::metadata(ancestor) {
                Ok(there) if there.is_dir() => break,
                Ok(_) => {
                    return Err(format!("{} is no directory: move it away", ancestor.display()));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing.insert(ancestor.to_path_buf());
                }
                Err(error) => return Err(format!("{}: {error}", ancestor.display())),
            }
        }
    }
    Ok(missing.into_iter().collect())
}

fn rights(
    spec: &AppSpec,
    root: &Path,
    files: &BTreeMap<PathBuf, Source>,
    directories: &[PathBuf],
) -> Result<BTreeMap<PathBuf, Rights>, String> {
    let regular = files.iter().filter(|(_, source)| matches!(source, Source::File { .. }));
    let files: Vec<&Path> = regular.map(|(target, _)| target.as_path()).collect();
    let directories: Vec<&Path> = directories.iter().map(PathBuf::as_path).collect();
    permissions::resolve(spec, root, &Created { files: &files, directories: &directories })
}

impl Plan {
    /// Files and directories that will belong to the revision.
    pub(crate) fn belongings(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut directories: Vec<_> =
            self.kept_directories.iter().chain(&self.directories).cloned().collect();
        directories.sort();
        (self.files.keys().cloned().collect(), directories)
    }

    /// Does it. `dir` is the deployment's own directory, where what is replaced is saved.
    pub(crate) fn carry_out(&self, dir: &Path) -> io::Result<()> {
        let undo = self.save(dir)?;
        replace(&dir.join(UNDO), &cbor::encode(&undo))?;
        for directory in &self.directories {
            named(directory, fs::create_dir(directory))?;
            let rights = self.rights.get(directory).copied().unwrap_or_default();
            named(directory, rights.apply(directory))?;
        }
        for (target, source) in &self.files {
            named(target, self.put(target, source))?;
        }
        for path in &self.removed {
            named(path, gone(fs::remove_file(path)))?;
        }
        for directory in &self.emptied {
            // What others have put there keeps it.
            drop(fs::remove_dir(directory));
        }
        let places = self.files.keys().chain(&self.directories).chain(&self.removed);
        sync(places.map(PathBuf::as_path).chain([dir]))
    }

    /// Saves what will be replaced or removed.
    fn save(&self, dir: &Path) -> io::Result<Undo> {
        let saved_dir = dir.join(SAVED);
        if saved_dir.exists() {
            fs::remove_dir_all(&saved_dir)?;
        }
        fs::create_dir_all(&saved_dir)?;
        let mut saved = Vec::new();
        for (path, number) in self.files.keys().chain(&self.removed).zip(0_u32..) {
            if fs::symlink_metadata(path).is_ok() {
                named(path, copy(path, &saved_dir.join(number.to_string())))?;
                saved.push((path.clone(), number));
            }
        }
        File::open(&saved_dir)?.sync_all()?;
        let mode = |path: &PathBuf| fs::metadata(path).map_or(0o755, |there| there.mode() & 0o7777);
        Ok(Undo {
            files: self.files.keys().cloned().collect(),
            directories: self.directories.clone(),
            saved,
            emptied: self.emptied.iter().rev().map(|path| (path.clone(), mode(path))).collect(),
        })
    }

    fn put(&self, target: &Path, source: &Source) -> io::Result<()> {
        let beside = beside(target);
        drop(fs::remove_file(&beside));
        match source {
            Source::Link { target } => symlink(target, &beside)?,
            Source::File { path, mode } => {
                fs::copy(path, &beside)?;
                let modified = fs::metadata(path)?.modified()?;
                File::options()
                    .write(true)
                    .open(&beside)?
                    .set_times(fs::FileTimes::new().set_modified(modified))?;
                fs::set_permissions(&beside, fs::Permissions::from_mode(*mode))?;
                self.rights.get(target).copied().unwrap_or_default().apply(&beside)?;
            }
        }
        fs::rename(&beside, target)
    }
}

/// Puts back what was there before the last plan was carried out in `dir`. Does nothing if none was,
/// and can be repeated until it succeeds.
pub(crate) fn undo(dir: &Path) -> io::Result<()> {
    let path = dir.join(UNDO);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let undo: Undo = cbor::decode(&bytes, JOURNAL_BYTES_MAX)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    for (directory, mode) in &undo.emptied {
        if !directory.is_dir() {
            named(directory, fs::create_dir(directory))?;
            fs::set_permissions(directory, fs::Permissions::from_mode(*mode))?;
        }
    }
    let saved: BTreeSet<_> = undo.saved.iter().map(|(path, _)| path).collect();
    for (path, number) in &undo.saved {
        let beside = beside(path);
        drop(fs::remove_file(&beside));
        named(path, copy(&dir.join(SAVED).join(number.to_string()), &beside))?;
        named(path, fs::rename(&beside, path))?;
        // Where both are names of one file already, renaming leaves both.
        named(path, gone(fs::remove_file(&beside)))?;
    }
    for path in undo.files.iter().filter(|path| !saved.contains(path)) {
        drop(fs::remove_file(beside(path)));
        named(path, gone(fs::remove_file(path)))?;
    }
    for directory in undo.directories.iter().rev() {
        // What others have put there keeps it.
        drop(fs::remove_dir(directory));
    }
    let places = undo.files.iter().chain(undo.saved.iter().map(|(path, _)| path));
    sync(places.map(PathBuf::as_path).chain([dir]))?;
    forget(dir)
}

/// Drops what would be needed to undo.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    gone(fs::remove_file(dir.join(UNDO)))?;
    gone(fs::remove_dir_all(dir.join(SAVED)))
}

/// A second name for a file where that is possible, else a copy with all its attributes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let there = fs::symlink_metadata(from)?;
    if there.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else {
        fs::copy(from, to)?;
        let times = fs::FileTimes::new().set_modified(there.modified()?);
        let file = File::options().write(true).open(to)?;
        file.set_times(times)?;
        file.sync_all()?;
    }
    lchown(to, Some(there.uid()), Some(there.gid()))?;
    if there.is_symlink() { Ok(()) } else { fs::set_permissions(to, there.permissions()) }
}

/// The name under which a file is completed before it takes its place.
fn beside(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // The hash keeps long names within the limit of the file system.
    let hash = groundswell_protocol::ids::Digest::of_content(name.as_bytes());
    target.with_file_name(format!(".swell-{}", hash.short()))
}

/// Makes what was done below these places durable, on whatever file systems they are.
fn sync<'a>(places: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    let mut synced = BTreeSet::new();
    for place in places {
        let Some(dir) = place.ancestors().find(|ancestor| ancestor.is_dir()) else { continue };
        let dir = File::open(dir)?;
        if synced.insert(dir.metadata()?.dev()) {
            nix::unistd::syncfs(&dir)?;
        }
    }
    Ok(())
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

const UNDO: &str = "undo";
const SAVED: &str = "saved";

#[cfg(test)]
mod tests {
    use groundswell_protocol::{
        ids::{DeploymentId, Digest, ReleaseLabel},
        revision::{FileMapping, Publisher},
        time::UnixSeconds,
    };
    use tempfile::TempDir;

    use super::*;

    /// A scratch host with an archive for each revision.
    struct Host {
        dir: TempDir,
        count: u32,
    }

    type Tree = BTreeMap<String, String>;

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("live")).unwrap();
            Self { dir, count: 0 }
        }

        fn live(&self) -> PathBuf {
            self.dir.path().join("live")
        }

        /// A revision whose directory `app` goes to `live/app`.
        fn revision(&mut self, files: &[(&str, &str)]) -> (Manifest, PathBuf, PathBuf) {
            self.count += 1;
            let dir = self.dir.path().join(format!("d{}", self.count));
            let archive = dir.join("archive");
            fs::create_dir_all(archive.join("app")).unwrap();
            let destination = self.live().join("app").display().to_string();
            let mapping = FileMapping { source: "app".into(), destination };
            let spec = AppSpec { files: vec![mapping], ..AppSpec::default() };
            let mut publisher = Publisher::new(spec).unwrap();
            publisher.directory("app").unwrap();
            let mut all: Vec<_> = files.to_vec();
            all.sort_unstable();
            let mut made = BTreeSet::new();
            for (path, content) in all {
                if let Some((parent, _)) = path.rsplit_once('/')
                    && made.insert(parent.to_owned())
                {
                    fs::create_dir_all(archive.join("app").join(parent)).unwrap();
                    publisher.directory(&format!("app/{parent}")).unwrap();
                }
                fs::write(archive.join("app").join(path), content).unwrap();
                publisher.begin_file(&format!("app/{path}"), 0o640, UnixSeconds(1000)).unwrap();
                publisher.write(content.as_bytes()).unwrap();
                publisher.end_file().unwrap();
            }
            (publisher.finish().unwrap().manifest, archive, dir)
        }

        fn tree(&self) -> Tree {
            let mut tree = Tree::new();
            let mut open = vec![self.live()];
            while let Some(dir) = open.pop() {
                for entry in fs::read_dir(&dir).unwrap() {
                    let path = entry.unwrap().path();
                    let name = path.strip_prefix(self.live()).unwrap().display().to_string();
                    if path.is_dir() {
                        tree.insert(format!("{name}/"), String::new());
                        open.push(path);
                    } else {
                        tree.insert(name, fs::read_to_string(&path).unwrap());
                    }
                }
            }
            tree
        }
    }

    fn installed(plan: &Plan) -> Installed {
        let (files, directories) = plan.belongings();
        Installed {
            release: Digest::ZERO,
            label: ReleaseLabel::new("1").unwrap(),
            manifest: Digest::ZERO,
            deployment: DeploymentId::of(Digest::ZERO, false),
            files,
            directories,
        }
    }

    const DISALLOW: FileExistsBehavior = FileExistsBehavior::Disallow;

    #[test]
    fn the_new_tree_replaces_the_old_one_and_can_be_undone() {
        let mut host = Host::new();
        let (old, archive, dir) = host.revision(&[("a", "1"), ("b", "1"), ("x/c", "1")]);
        let first = plan(&old, Path::new("/"), &archive, None, DISALLOW).unwrap();
        first.carry_out(&dir).unwrap();
        forget(&dir).unwrap();
        let before = host.tree();

        let (new, archive, dir) = host.revision(&[("a", "2"), ("y/d", "2")]);
        let second =
            plan(&new, Path::new("/"), &archive, Some(&installed(&first)), DISALLOW).unwrap();
        second.carry_out(&dir).unwrap();
        let expected: Tree = [("app/", ""), ("app/a", "2"), ("app/y/", ""), ("app/y/d", "2")]
            .map(|(path, content)| (path.to_owned(), content.to_owned()))
            .into();
        assert_eq!(host.tree(), expected);
        let mode = fs::metadata(host.live().join("app/a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);

        undo(&dir).unwrap();
        assert_eq!(host.tree(), before);
        // Again, as after a crash in between: nothing is left to do.
        undo(&dir).unwrap();
        assert_eq!(host.tree(), before);
    }

    #[test]
    fn a_file_in_the_way_is_handled_as_the_settings_say() {
        let mut host = Host::new();
        fs::create_dir(host.live().join("app")).unwrap();
        fs::write(host.live().join("app/a"), "theirs").unwrap();
        let (revision, archive, dir) = host.revision(&[("a", "ours"), ("b", "ours")]);
        let refused = plan(&revision, Path::new("/"), &archive, None, DISALLOW).unwrap_err();
        assert!(refused.contains("app/a") && refused.contains("OVERWRITE"), "{refused}");
        assert_eq!(host.tree().get("app/a").unwrap(), "theirs");

        let retain =
            plan(&revision, Path::new("/"), &archive, None, FileExistsBehavior::Retain).unwrap();
        retain.carry_out(&dir).unwrap();
        assert_eq!(host.tree().get("app/a").unwrap(), "theirs");
        assert!(!installed(&retain).files.contains(&host.live().join("app/a")));
        undo(&dir).unwrap();

        let overwrite =
            plan(&revision, Path::new("/"), &archive, None, FileExistsBehavior::Overwrite).unwrap();
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
        let (revision, archive, _) = host.revision(&[("a", "ours")]);
        for behavior in [DISALLOW, FileExistsBehavior::Overwrite, FileExistsBehavior::Retain] {
            assert!(plan(&revision, Path::new("/"), &archive, None, behavior).is_err());
        }
    }

    #[test]
    fn an_installation_that_stops_anywhere_is_undone() {
        for stop_after in 0..3 {
            let mut host = Host::new();
            let (old, archive, dir) = host.revision(&[("a", "1"), ("b", "1"), ("c", "1")]);
            let first = plan(&old, Path::new("/"), &archive, None, DISALLOW).unwrap();
            first.carry_out(&dir).unwrap();
            forget(&dir).unwrap();
            let before = host.tree();
            let (new, archive, dir) = host.revision(&[("a", "2"), ("b", "2"), ("c", "2")]);
            let second =
                plan(&new, Path::new("/"), &archive, Some(&installed(&first)), DISALLOW).unwrap();
            // A source that is gone makes the copy fail in the middle.
            let missing = ["a", "b", "c"][stop_after];
            fs::remove_file(archive.join("app").join(missing)).unwrap();
            second.carry_out(&dir).unwrap_err();
            undo(&dir).unwrap();
            assert_eq!(host.tree(), before, "stopped at {missing}");
        }
    }

    #[test]
    fn what_others_put_into_a_directory_stays() {
        let mut host = Host::new();
        let (old, archive, dir) = host.revision(&[("x/c", "1")]);
        let first = plan(&old, Path::new("/"), &archive, None, DISALLOW).unwrap();
        first.carry_out(&dir).unwrap();
        fs::write(host.live().join("app/x/data"), "precious").unwrap();
        let (new, archive, dir) = host.revision(&[("a", "2")]);
        let second =
            plan(&new, Path::new("/"), &archive, Some(&installed(&first)), DISALLOW).unwrap();
        second.carry_out(&dir).unwrap();
        assert_eq!(host.tree().get("app/x/data").unwrap(), "precious");
    }
}

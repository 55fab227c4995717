//! What `swell local` is given, as a revision in a store: a manifest and frames by their hashes.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use groundswell_protocol::{
    ids::Digest,
    local::CustomEvent,
    revision::{BUNDLE_MAGIC, BundleError, BundleEvent, BundleReader, Frame, Manifest},
};
use groundswell_signer::{SignError, release};

use super::Failed;

/// What a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Tgz,
    Tar,
    Zip,
    Directory,
    /// What swell-sign release makes. Nobody checks who has signed it.
    Swell,
}

/// A revision that is in the store.
pub(super) struct Made {
    pub(super) manifest: Digest,
    /// What the bundle says that it is of.
    pub(super) application: Option<String>,
    /// The scripts of events that CodeDeploy does not know.
    pub(super) custom: Vec<CustomEvent>,
    pub(super) warnings: Vec<String>,
}

impl Made {
    /// True if the appspec has scripts for an event that CodeDeploy does not know.
    pub(super) fn has(&self, event: &str) -> bool {
        self.custom.iter().any(|own| own.name == event)
    }
}

/// Makes a revision of what is at `location`.
pub(super) fn make(
    location: &Path,
    kind: Option<Kind>,
    appspec: Option<&str>,
    events: &[String],
    store: &Path,
) -> Result<Made, Failed> {
    let kind = kind_of(location, kind)?;
    if kind == Kind::Swell {
        if appspec.is_some() || !events.is_empty() {
            let text = "a .swell file has one appspec, which was read when it was made";
            return Err(Failed::with_hint(text, "give the directory that it was made of"));
        }
        return take(location, store);
    }
    if kind == Kind::Directory {
        return cut(location, appspec, events, store);
    }
    let unpacked = store.join("unpacked");
    unpack(location, kind, &unpacked).map_err(|error| {
        let text = format!("{} cannot be unpacked: {error}", location.display());
        Failed::with_hint(text, "check the file, and that --type says what it is")
    })?;
    let made = cut(&without_wrapper(&unpacked)?, appspec, events, store)?;
    fs::remove_dir_all(&unpacked)?;
    Ok(made)
}

fn kind_of(location: &Path, kind: Option<Kind>) -> Result<Kind, Failed> {
    let shown = location.display();
    let text = location.to_string_lossy();
    if text.contains("://") {
        let text = format!("{} is elsewhere", text.escape_debug());
        return Err(Failed::with_hint(text, "fetch it first: nothing is fetched from here"));
    }
    let there = fs::metadata(location).map_err(|error| {
        let hint = "--bundle-location names a directory, an archive or a .swell file";
        Failed::with_hint(format!("{shown}: {error}"), hint)
    })?;
    let is_swell = || -> io::Result<bool> {
        let mut start = vec![0; BUNDLE_MAGIC.len()];
        Ok(File::open(location)?.read_exact(&mut start).is_ok() && start == BUNDLE_MAGIC)
    };
    match kind {
        None if !there.is_dir() && is_swell()? => Ok(Kind::Swell),
        None | Some(Kind::Directory) if there.is_dir() => Ok(Kind::Directory),
        None | Some(Kind::Directory) => Err(Failed::with_hint(
            format!("{shown} is a file, not a directory"),
            "say with --type what it is: tgz, tar or zip",
        )),
        Some(_) if there.is_dir() => Err(Failed::with_hint(
            format!("{shown} is a directory, not an archive"),
            "leave --type out, or name the archive",
        )),
        Some(kind) => Ok(kind),
    }
}

/// Reads a directory.
fn cut(dir: &Path, appspec: Option<&str>, events: &[String], store: &Path) -> Result<Made, Failed> {
    let mut keep = |frame: &Frame, bytes: &[u8]| {
        keep_frame(store, &frame.hash, bytes).map_err(|error| SignError::refused(error.to_string()))
    };
    let revision = release::revision(dir, appspec, events, &mut keep)?;
    let manifest = keep_manifest(store, &revision.bytes)?;
    let (custom, warnings) = (revision.custom, revision.warnings);
    Ok(Made { manifest, application: None, custom, warnings })
}

/// Reads a `.swell` file. Every byte is checked against its manifest.
fn take(path: &Path, store: &Path) -> Result<Made, Failed> {
    let refused = |error: BundleError| Failed::new(format!("{} {error}", path.display()));
    let mut file = File::open(path)?;
    let mut reader = BundleReader::new();
    let (mut application, mut id, mut frames) = (None, None, Vec::new());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        let mut events = reader.push(&buffer[..read]).map_err(refused)?;
        if let Some(BundleEvent::Release(release)) = events.first() {
            let (claimed, more) = reader.accept_unverified(release).map_err(refused)?;
            application = Some(claimed.to_string());
            events = more;
        }
        for event in events {
            match event {
                BundleEvent::Manifest { bytes, manifest } => {
                    id = Some(keep_manifest(store, &bytes)?);
                    frames = manifest.frames;
                }
                BundleEvent::Frame { index, bytes } => {
                    keep_frame(store, &frames[index].hash, &bytes)?;
                }
                BundleEvent::Release(_) | BundleEvent::End => {}
            }
        }
    }
    reader.finish().map_err(refused)?;
    let manifest = id.ok_or_else(|| refused(BundleError::Failed))?;
    Ok(Made { manifest, application, custom: Vec::new(), warnings: Vec::new() })
}

fn keep_manifest(store: &Path, bytes: &[u8]) -> io::Result<Digest> {
    let id = Manifest::id_of(bytes);
    let dir = store.join("manifests");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(id.to_string()), bytes)?;
    Ok(id)
}

fn keep_frame(store: &Path, hash: &Digest, bytes: &[u8]) -> io::Result<()> {
    let name = hash.to_string();
    let dir = store.join("frames").join(&name[..2]);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

/// Unpacks an archive into a directory that is not there yet. Nothing in it leads out of that.
fn unpack(path: &Path, kind: Kind, dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    let mut file = File::open(path)?;
    match kind {
        Kind::Zip => zip::ZipArchive::new(file)?.extract(dir).map_err(Into::into),
        Kind::Tgz => untar(flate2::read::MultiGzDecoder::new(file), dir),
        _ => {
            // The reader of archives takes an empty file, and one that is no archive for an empty one.
            if file.metadata()?.len() == 0 {
                return Err(io::Error::other("it is empty"));
            }
            file.rewind()?;
            untar(file, dir)
        }
    }
}

fn untar(from: impl Read, dir: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.unpack_in(dir)? {
            let path = entry.path()?.display().to_string();
            return Err(io::Error::other(format!("'{}' leads out of it", path.escape_debug())));
        }
    }
    Ok(())
}

/// The directory itself, or the only one in it if that has an appspec: archives of a repository have one
/// around everything.
fn without_wrapper(dir: &Path) -> io::Result<PathBuf> {
    let list = |dir: &Path| fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>();
    let [only] = &list(dir)?[..] else { return Ok(dir.to_owned()) };
    if !only.file_type()?.is_dir() {
        return Ok(dir.to_owned());
    }
    let is_appspec =
        |name: &std::ffi::OsStr| name.to_string_lossy().to_ascii_lowercase().contains("appspec");
    let wraps = list(&only.path())?.iter().any(|entry| is_appspec(&entry.file_name()));
    Ok(if wraps { only.path() } else { dir.to_owned() })
}

const READ_BYTES: usize = 256 << 10;

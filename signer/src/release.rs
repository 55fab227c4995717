//! From a directory to a signed `.swell` file.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    ids::{ApplicationName, Digest, FleetId, LabelText, ReleaseLabel},
    limits::APPSPEC_BYTES_MAX,
    local::CustomEvent,
    revision::{
        AppSpec, BundleEvent, BundleReader, Frame, Manifest, PathKind, Publisher, bundle_header,
    },
    time::UnixSeconds,
    trust::{Release, Signed, Signer, Trust},
};

use crate::{SignError, beside, dir_of, lint, publish};

/// What the release says beside its content.
#[derive(Clone, Debug)]
pub struct ReleaseTerms {
    /// The application.
    pub application: ApplicationName,
    /// What people call it.
    pub label: ReleaseLabel,
    /// The architecture that it is for; none for any.
    pub architecture: Option<LabelText>,
    /// The environments that it may run in; empty for any.
    pub environments: Vec<LabelText>,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The release's id.
    pub release: Digest,
    /// The revision's id.
    pub manifest: Digest,
    /// Files, directories and links.
    pub entries: usize,
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Bytes of its frames, as they travel.
    pub transfer_bytes: u64,
    /// What is allowed and likely a mistake, with file and place.
    pub warnings: Vec<String>,
}

/// Turns `dir` into a release and writes it to `out`, which must not exist.
pub fn make(
    dir: &Path,
    out: &Path,
    fleet: FleetId,
    signer: &dyn Signer,
    terms: ReleaseTerms,
    now: UnixSeconds,
) -> Result<Made, SignError> {
    if out.exists() {
        return Err(SignError::Exists(out.into()));
    }
    let found = walk(dir)?;
    let AppSpecFile { spec, warnings, .. } = read_appspec(dir, &found, None, &[])?;
    // The manifest comes first in the file and is known last: frames wait in a file without a name.
    let io = SignError::io(out);
    let mut frames = tempfile::tempfile_in(dir_of(out)).map_err(&io)?;
    let mut keep = |_: &Frame, bytes: &[u8]| frames.write_all(bytes).map_err(&io);
    let published = cut(dir, &found, spec, &mut keep)?;
    let mut environments = terms.environments;
    environments.sort();
    environments.dedup();
    let release = Release {
        label: terms.label,
        parent: None,
        manifest: Manifest::id_of(&published.0),
        created_at: now,
        application: terms.application,
        architecture: terms.architecture,
        environments,
        content_bytes: published.1.total_bytes(),
        manifest_bytes: u64::try_from(published.0.len()).unwrap_or(u64::MAX),
    };
    let signed = Signed::new(&release, fleet, &[signer])?;
    let mut file = beside(out, 0o644)?;
    file.write_all(&bundle_header(&signed, &published.0))
        .and_then(|()| frames.rewind())
        .and_then(|()| io::copy(&mut frames, file.as_file_mut()))
        .map_err(&io)?;
    publish(file, out)?;
    Ok(Made {
        release: signed.id(fleet),
        manifest: release.manifest,
        entries: published.1.entries.len(),
        content_bytes: release.content_bytes,
        transfer_bytes: published.1.transfer_bytes(),
        warnings,
    })
}

/// What there is in a directory that is to be released.
pub(crate) struct Found {
    /// As the manifest names it.
    pub(crate) path: String,
    pub(crate) metadata: Metadata,
}

/// Makes every check that [`make`] makes before it signs. Gives what hosts take and what will hurt all
/// the same, with file and place.
pub fn lint(dir: &Path) -> Result<Vec<String>, SignError> {
    let found = walk(dir)?;
    let appspec = read_appspec(dir, &found, None, &[])?;
    let hurts = lint::look(dir, &appspec.spec, &found)?;
    // The manifest's own rules are about every file and link: it is made as for a release, and dropped.
    cut(dir, &found, appspec.spec, &mut |_, _| Ok(()))?;
    let path = appspec.path.display();
    let hurts = hurts.into_iter().map(|text| format!("{path}: {text}"));
    Ok(appspec.warnings.into_iter().chain(hurts).collect())
}

/// A revision that nobody has signed.
#[derive(Debug)]
pub struct Revision {
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest as it is hashed and stored.
    pub bytes: Vec<u8>,
    /// The scripts of events that are not CodeDeploy's.
    pub custom: Vec<CustomEvent>,
    /// What is allowed and likely a mistake, with file and place.
    pub warnings: Vec<String>,
}

/// Takes a frame of a revision in the making.
pub type Keep<'a> = dyn FnMut(&Frame, &[u8]) -> Result<(), SignError> + 'a;

/// Turns `dir` into a revision, by the rules of a release. Its frames are handed to `keep`. The appspec may
/// have another name than the usual one, and events that are not CodeDeploy's.
pub fn revision(
    dir: &Path,
    appspec: Option<&str>,
    events: &[String],
    keep: &mut Keep<'_>,
) -> Result<Revision, SignError> {
    let found = walk(dir)?;
    let AppSpecFile { spec, custom, warnings, .. } = read_appspec(dir, &found, appspec, events)?;
    let (bytes, manifest) = cut(dir, &found, spec, keep)?;
    Ok(Revision { manifest, bytes, custom, warnings })
}

struct AppSpecFile {
    path: PathBuf,
    spec: AppSpec,
    custom: Vec<CustomEvent>,
    warnings: Vec<String>,
}

/// Everything below `dir`, in the order of the manifest: by the bytes of the whole path.
fn walk(dir: &Path) -> Result<Vec<Found>, SignError> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        let here = dir.join(&prefix);
        let io = SignError::io(&here);
        for entry in fs::read_dir(&here).map_err(&io)? {
            let entry = entry.map_err(&io)?;
            let name = entry.file_name().into_string().map_err(|name| {
                let shown = name.to_string_lossy().escape_debug().to_string();
                SignError::refused(format!("the file name '{shown}' is not UTF-8"))
                    .with_hint("rename it")
            })?;
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let metadata = entry.metadata().map_err(&io)?;
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.push(Found { path, metadata });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn read_appspec(
    dir: &Path,
    found: &[Found],
    name: Option<&str>,
    events: &[String],
) -> Result<AppSpecFile, SignError> {
    let names = name.map_or_else(|| vec!["appspec.yml", "appspec.yaml"], |name| vec![name]);
    let name = names.iter().find(|name| dir.join(name).is_file()).ok_or_else(|| {
        let dir = dir.display();
        SignError::refused(format!("{dir} has no {}", names[0]))
            .with_hint("add one at the top of the directory")
    })?;
    let path = dir.join(name);
    let mut bytes = Vec::new();
    let limit = u64::try_from(APPSPEC_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    File::open(&path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(SignError::io(&path))?;
    let kind_of = |path: &str| {
        let kind = |kind: fs::FileType| match kind {
            kind if kind.is_dir() => PathKind::Directory,
            kind if kind.is_symlink() => PathKind::Symlink,
            _ => PathKind::File,
        };
        let at = found.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok();
        let there = at.map(|at| kind(found[at].metadata.file_type()));
        match there {
            // Whether links stay in the revision is asked of all of them, with the manifest.
            None | Some(PathKind::Symlink) => {
                fs::metadata(dir.join(path)).ok().map(|there| kind(there.file_type())).or(there)
            }
            there => there,
        }
    };
    let read = AppSpec::from_yaml_with_events(&bytes, &kind_of, events);
    let (spec, custom, warnings) =
        read.map_err(|error| SignError::refused(format!("{}:{error}", path.display())))?;
    let warnings = warnings.iter().map(|warning| format!("{}:{warning}", path.display())).collect();
    Ok(AppSpecFile { path, spec, custom, warnings })
}

/// Hands the frames of everything in `dir` to `keep`, and gives the manifest and its bytes.
fn cut(
    dir: &Path,
    found: &[Found],
    spec: AppSpec,
    keep: &mut Keep<'_>,
) -> Result<(Vec<u8>, Manifest), SignError> {
    let refused = |error: groundswell_protocol::revision::PublishError| {
        SignError::refused(format!("{}: {error}", dir.display()))
    };
    let mut write =
        |frames: Vec<(Frame, Vec<u8>)>| frames.iter().try_for_each(|(frame, b)| keep(frame, b));
    let mut publisher = Publisher::new(spec).map_err(refused)?;
    let mut buffer = vec![0; 256 << 10];
    for entry in found {
        let path = dir.join(&entry.path);
        let kind = entry.metadata.file_type();
        if kind.is_dir() {
            publisher.directory(&entry.path).map_err(refused)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(SignError::io(&path))?;
            let target = target.to_str().ok_or_else(|| {
                SignError::refused(format!("{}: the link's target is not UTF-8", path.display()))
            })?;
            publisher.symlink(&entry.path, target).map_err(refused)?;
        } else if kind.is_file() {
            let modified = UnixSeconds(u64::try_from(entry.metadata.mtime()).unwrap_or(0));
            publisher.begin_file(&entry.path, entry.metadata.mode(), modified).map_err(refused)?;
            let mut file = File::open(&path).map_err(SignError::io(&path))?;
            loop {
                let read = file.read(&mut buffer).map_err(SignError::io(&path))?;
                if read == 0 {
                    break;
                }
                write(publisher.write(&buffer[..read]).map_err(refused)?)?;
            }
            write(publisher.end_file().map_err(refused)?)?;
        } else {
            return Err(SignError::refused(format!(
                "{} is no file, directory or link",
                path.display()
            ))
            .with_hint("remove it from the revision"));
        }
    }
    let published = publisher.finish().map_err(refused)?;
    write(published.frames)?;
    Ok((published.bytes, published.manifest))
}

/// Reads a whole `.swell` file, checks every byte of it, and gives its release.
pub fn verify_bundle(path: &Path, trust: &Trust) -> Result<(Digest, Release), SignError> {
    let refused =
        |error: &dyn std::fmt::Display| SignError::refused(format!("{} {error}", path.display()));
    let mut file = File::open(path).map_err(SignError::io(path))?;
    let mut reader = BundleReader::new();
    let mut buffer = vec![0; 256 << 10];
    let mut verified = None;
    loop {
        let read = file.read(&mut buffer).map_err(SignError::io(path))?;
        if read == 0 {
            break;
        }
        let mut events = reader.push(&buffer[..read]).map_err(|e| refused(&e))?;
        while let Some(BundleEvent::Release(signed)) = events.first() {
            let release = trust
                .release(signed)
                .map_err(|error| refused(&format!("holds a release that {error}")))?;
            let content = release.content().clone();
            events = reader
                .accept_release(content.manifest, content.manifest_bytes)
                .map_err(|e| refused(&e))?;
            verified = Some((release.id(), content));
        }
    }
    reader.finish().map_err(|e| refused(&e))?;
    verified.ok_or_else(|| refused(&"holds no release"))
}

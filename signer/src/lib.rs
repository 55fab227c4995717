//! What vouches, away from the fleet: keys, releases, orders, enrolment.
//!
//! `swell-sign` is a thin command over these modules; `swell` uses [`keyfile`], [`orders`] and
//! [`group_file`] to sign with the operator key at hand.

#![warn(missing_docs)]

pub mod fleet;
pub mod group_file;
pub mod inspect;
pub mod keyfile;
mod lint;
pub mod orders;
pub mod release;
pub mod seed;
pub mod terminal;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use groundswell_protocol::trust::SignerError;
use tempfile::NamedTempFile;
use thiserror::Error;

/// Why nothing was signed or written.
#[derive(Debug, Error)]
pub enum SignError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there already.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// The content breaks a rule.
    #[error("{reason}")]
    Refused {
        /// The rule.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A key file could not be used.
    #[error(transparent)]
    Key(#[from] keyfile::KeyError),
}

impl SignError {
    /// The content breaks a rule.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), hint: None }
    }

    /// The same, with a next step.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self::Refused { reason: self.to_string(), hint: Some(hint.into()) }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::Exists(_) => Some("choose another place, or move it away first".into()),
            Self::Refused { hint, .. } => hint.clone(),
            Self::Key(error) => error.hint(),
        }
    }

    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists(path.clone()),
            _ => Self::Io { path: path.clone(), source },
        }
    }
}

impl From<SignerError> for SignError {
    fn from(error: SignerError) -> Self {
        Self::refused(error.to_string())
    }
}

/// Writes a new file that only this user may read, durably. An existing one is left alone.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), SignError> {
    write_new(path, bytes, 0o600)
}

/// Writes a new file that everybody may read, durably. An existing one is left alone.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), SignError> {
    write_new(path, bytes, 0o644)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SignError> {
    let mut file = beside(path, mode)?;
    file.write_all(bytes).map_err(SignError::io(path))?;
    publish(file, path)
}

/// A file in the directory of `path`, for what is to be there whole or not at all. It is removed
/// unless it is published.
fn beside(path: &Path, mode: u32) -> Result<NamedTempFile, SignError> {
    tempfile::Builder::new()
        .prefix(".swell-sign-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir_of(path))
        .map_err(|error| SignError::Io { path: path.into(), source: error })
}

/// Gives a finished file its name, durably, unless that name is taken.
fn publish(file: NamedTempFile, path: &Path) -> Result<(), SignError> {
    let io = SignError::io(path);
    file.as_file().sync_all().map_err(&io)?;
    file.persist_noclobber(path).map_err(|refused| io(refused.error))?;
    File::open(dir_of(path)).and_then(|dir| dir.sync_all()).map_err(&io)
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Reads a file of which no more than `bytes_max` bytes can matter; what follows is left out.
pub fn read_start(path: &Path, bytes_max: usize) -> Result<Vec<u8>, SignError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(SignError::io(path))?;
    Ok(bytes)
}

/// Fresh bytes from the system, for keys and salts.
pub fn random<const N: usize>() -> Result<[u8; N], SignError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| SignError::refused(format!("the system has no randomness: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().flatten();
        names.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        // Not finished, as after an error or a full disk.
        beside(&path, 0o600).unwrap().write_all(b"half").unwrap();
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
        write_secret(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(write_secret(&path, b"other"), Err(SignError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("x"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(write_public(&path, b"bytes"), Err(SignError::Exists(_))));
        assert!(!target.exists());
    }
}

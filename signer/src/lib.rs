//! What vouches, away from the fleet: keys, releases, orders, enrolment.
//!
//! `swell-sign` is a thin command over these modules; `swell` uses [`keyfile`] and [`orders`] to sign
//! with the operator key at hand.

#![warn(missing_docs)]

pub mod fleet;
pub mod keyfile;
pub mod orders;
pub mod release;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use groundswell_protocol::trust::SignerError;
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
    #[error("{} exists already and is not overwritten: choose another place", .0.display())]
    Exists(PathBuf),
    /// The content breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// A key file could not be used.
    #[error(transparent)]
    Key(#[from] keyfile::KeyError),
}

impl SignError {
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
        Self::Refused(error.to_string())
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
    let io = SignError::io(path);
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(&io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(&io)
}

/// Fresh bytes from the system, for keys and salts.
pub fn random<const N: usize>() -> Result<[u8; N], SignError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| SignError::Refused(format!("the system has no randomness: {error}")))?;
    Ok(bytes)
}

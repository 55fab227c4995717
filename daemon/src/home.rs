//! The files of a host's state directory: its key, what it believes, and where to begin.
//!
//! `swell join` writes them once; `swelld` reads them at start and keeps the certificate and the
//! known addresses up to date. Each file is replaced whole: written beside, synced, renamed.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    cbor,
    ids::HostId,
    limits::ENVELOPE_BYTES_MAX,
    trust::{MemberCert, SecretKey, Trust, TrustBundle},
};
use thiserror::Error;

/// Why the state directory could not be used.
#[derive(Debug, Error)]
pub enum HomeError {
    /// The host belongs to no fleet yet.
    #[error("{} is missing: this host has not joined a fleet", path.display())]
    NotJoined {
        /// The file that `swell join` writes.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl HomeError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotJoined { .. } => {
                "get a token from `swell-sign token` and run `swell join TOKEN`".into()
            }
            Self::Io { .. } => "check that the directory exists and belongs to this user".into(),
            Self::Damaged { .. } => {
                "restore the file, or remove the directory and join again with a new token".into()
            }
        }
    }
}

/// A host's state directory.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// The directory `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The host's key; made from `seed` if there is none.
    pub fn key_or_create(
        &self,
        seed: impl FnOnce() -> io::Result<[u8; 32]>,
    ) -> Result<SecretKey, HomeError> {
        let path = self.path(KEY);
        if path.exists() {
            return self.key();
        }
        let io = |source| HomeError::Io { path: path.clone(), source };
        fs::create_dir_all(&self.dir).map_err(io)?;
        let key = SecretKey::from_seed(&seed().map_err(io)?);
        let text = data_encoding::HEXLOWER.encode(&key.seed());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        sync_dir(&self.dir).map_err(io)?;
        Ok(key)
    }

    /// The host's key. A key that others may read is refused.
    pub fn key(&self) -> Result<SecretKey, HomeError> {
        let path = self.path(KEY);
        let io = |source| HomeError::Io { path: path.clone(), source };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::NotJoined { path });
            }
            other => other.map_err(io)?,
        };
        let mode = fs::metadata(&path).map_err(io)?.permissions().mode();
        let damaged =
            |reason: &str| HomeError::Damaged { path: path.clone(), reason: reason.into() };
        if mode & 0o077 != 0 {
            return Err(damaged("the host's key can be read by others; chmod 600 it"));
        }
        let seed = data_encoding::HEXLOWER
            .decode(text.trim().as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| damaged("not a host key: 64 hex digits are expected"))?;
        Ok(SecretKey::from_seed(&seed))
    }

    /// What the host believes.
    pub fn trust(&self) -> Result<Trust, HomeError> {
        let (path, bytes) = self.read(TRUST)?;
        TrustBundle::from_bytes(&bytes)
            .and_then(|bundle| Trust::new(bundle, None))
            .map_err(|error| HomeError::Damaged { path, reason: error.to_string() })
    }

    /// The host's certificate.
    pub fn cert(&self) -> Result<MemberCert, HomeError> {
        let (path, bytes) = self.read(CERT)?;
        cbor::decode(&bytes, ENVELOPE_BYTES_MAX)
            .map_err(|error| HomeError::Damaged { path, reason: error.to_string() })
    }

    /// Writes what the host believes.
    pub fn set_trust(&self, bundle: &TrustBundle) -> Result<(), HomeError> {
        self.replace(TRUST, &bundle.to_bytes())
    }

    /// Writes the host's certificate.
    pub fn set_cert(&self, cert: &MemberCert) -> Result<(), HomeError> {
        self.replace(CERT, &cbor::encode(cert))
    }

    /// Addresses to begin with, one a line.
    pub fn seeds(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path(SEEDS)).unwrap_or_default();
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
    }

    /// Writes the addresses to begin with.
    pub fn set_seeds(&self, seeds: &[String]) -> Result<(), HomeError> {
        self.replace(SEEDS, seeds.join("\n").as_bytes())
    }

    /// Addresses of hosts that were known last time. They only save time: a damaged file is empty.
    pub fn known(&self) -> BTreeMap<HostId, Vec<String>> {
        let bytes = fs::read(self.path(KNOWN)).unwrap_or_default();
        cbor::decode(&bytes, ENVELOPE_BYTES_MAX).unwrap_or_default()
    }

    /// Writes the addresses of known hosts.
    pub fn set_known(&self, known: &BTreeMap<HostId, Vec<String>>) -> Result<(), HomeError> {
        self.replace(KNOWN, &cbor::encode(known))
    }

    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), HomeError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(HomeError::NotJoined { path })
            }
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        replace(&self.dir, name, bytes)
            .map_err(|source| HomeError::Io { path: self.path(name), source })
    }
}

/// Replaces `dir/name` whole: after a crash it has the old bytes or the new ones.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let beside = dir.join(format!(".{name}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(name))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

const KEY: &str = "host.key";
const TRUST: &str = "fleet.trust";
const CERT: &str = "member.cert";
const SEEDS: &str = "seeds";
const KNOWN: &str = "known";

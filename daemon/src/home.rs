//! The files of a host's state directory: its key, what it believes, and where to begin.
//!
//! `swell join` writes them once; `swelld` reads them at start and keeps the certificate and the
//! known addresses up to date. Each file is replaced whole: written beside, synced, renamed.
//!
//! The directory belongs to `swelld`, and root works in it too, with `sudo swell join`. Nothing that
//! `swelld` could have put there leads root elsewhere: files are made anew and get their owner by
//! their descriptors, links are not followed, and nothing is done to files that were there before.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    cbor,
    ids::HostId,
    limits::ENVELOPE_BYTES_MAX,
    trust::{MemberCert, SecretKey, Trust, TrustBundle},
};
use nix::{libc, unistd::geteuid};
use tempfile::NamedTempFile;
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
    /// The host's key is not for its user's eyes alone.
    #[error("{}: others can read the host's key", .0.display())]
    Exposed(PathBuf),
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
            Self::Exposed(path) => format!("chmod 600 {}", path.display()),
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
        match self.key() {
            Err(HomeError::NotJoined { .. }) => {}
            known => return known,
        }
        let path = self.path(KEY);
        let io = |source| HomeError::Io { path: path.clone(), source };
        let key = SecretKey::from_seed(&seed().map_err(io)?);
        let text = data_encoding::HEXLOWER.encode(&key.seed());
        let file = beside(&self.dir, text.as_bytes(), 0o600).map_err(io)?;
        // Whoever was faster has the host's key; this one was never used.
        file.persist_noclobber(&path).map_err(|refused| io(refused.error))?;
        sync_dir(&self.dir).map_err(io)?;
        Ok(key)
    }

    /// The host's key. A key that others may read is refused.
    pub fn key(&self) -> Result<SecretKey, HomeError> {
        let (file, bytes) = self.read(KEY)?;
        let path = self.path(KEY);
        let mode =
            file.metadata().map_err(|source| HomeError::Io { path: path.clone(), source })?;
        if mode.permissions().mode() & 0o077 != 0 {
            return Err(HomeError::Exposed(path));
        }
        let seed = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| data_encoding::HEXLOWER.decode(text.trim().as_bytes()).ok())
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| self.damaged(KEY, "not a host key: 64 hex digits are expected"))?;
        Ok(SecretKey::from_seed(&seed))
    }

    /// What the host believes.
    pub fn trust(&self) -> Result<Trust, HomeError> {
        let (_, bytes) = self.read(TRUST)?;
        TrustBundle::from_bytes(&bytes)
            .and_then(|bundle| Trust::new(bundle, None))
            .map_err(|error| self.damaged(TRUST, error.to_string()))
    }

    /// The host's certificate.
    pub fn cert(&self) -> Result<MemberCert, HomeError> {
        let (_, bytes) = self.read(CERT)?;
        cbor::decode(&bytes, ENVELOPE_BYTES_MAX)
            .map_err(|error| self.damaged(CERT, error.to_string()))
    }

    /// Writes what the host believes.
    pub fn set_trust(&self, bundle: &TrustBundle) -> Result<(), HomeError> {
        self.replace(TRUST, &bundle.to_bytes())
    }

    /// Writes the host's certificate.
    pub fn set_cert(&self, cert: &MemberCert) -> Result<(), HomeError> {
        self.replace(CERT, &cbor::encode(cert))
    }

    /// Notes that nothing was promised to anybody yet: the next start is the first one. Does nothing
    /// on a host that is a member already.
    pub fn expect_first_start(&self) -> Result<(), HomeError> {
        match self.cert() {
            Err(HomeError::NotJoined { .. }) => self.replace(FIRST_START, b""),
            other => other.map(drop),
        }
    }

    /// True if the daemon has not run here yet.
    pub fn is_first_start(&self) -> bool {
        self.read(FIRST_START).is_ok()
    }

    /// What the daemon promises from now on it must remember.
    pub fn first_start_done(&self) -> Result<(), HomeError> {
        let path = self.path(FIRST_START);
        fs::remove_file(&path)
            .and_then(|()| sync_dir(&self.dir))
            .map_err(|source| HomeError::Io { path, source })
    }

    /// Addresses to begin with, one a line.
    pub fn seeds(&self) -> Vec<String> {
        let bytes = self.read(SEEDS).map(|(_, bytes)| bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
    }

    /// Writes the addresses to begin with.
    pub fn set_seeds(&self, seeds: &[String]) -> Result<(), HomeError> {
        self.replace(SEEDS, seeds.join("\n").as_bytes())
    }

    /// Addresses of hosts that were known last time. They only save time: a damaged file is empty.
    pub fn known(&self) -> BTreeMap<HostId, Vec<String>> {
        let bytes = self.read(KNOWN).map(|(_, bytes)| bytes).unwrap_or_default();
        cbor::decode(&bytes, bytes.len()).unwrap_or_default()
    }

    /// Writes the addresses of known hosts.
    pub fn set_known(&self, known: &BTreeMap<HostId, Vec<String>>) -> Result<(), HomeError> {
        self.replace(KNOWN, &cbor::encode(known))
    }

    fn read(&self, name: &str) -> Result<(File, Vec<u8>), HomeError> {
        let path = self.path(name);
        // A pipe without a writer must not be waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let mut file = match opened {
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => file,
            Ok(_) => return Err(self.damaged(name, "not a plain file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::NotJoined { path });
            }
            Err(source) => return Err(HomeError::Io { path, source }),
        };
        let mut bytes = Vec::new();
        let read = (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|source| HomeError::Io { path, source })?;
        Ok((file, bytes))
    }

    fn damaged(&self, name: &str, reason: impl Into<String>) -> HomeError {
        HomeError::Damaged { path: self.path(name), reason: reason.into() }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        replace(&self.dir, name, bytes)
            .map_err(|source| HomeError::Io { path: self.path(name), source })
    }
}

/// Replaces `dir/name` whole: after a crash it has the old bytes or the new ones.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = beside(dir, bytes, 0o644)?;
    file.persist(dir.join(name)).map_err(|refused| refused.error)?;
    sync_dir(dir)
}

/// A finished file that waits in `dir` for its name. It is new whatever lies there, and belongs to
/// whom the directory belongs.
fn beside(dir: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    fs::create_dir_all(dir)?;
    let owner = fs::metadata(dir)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)?;
    file.write_all(bytes)?;
    if owner.uid() != geteuid().as_raw() {
        fchown(file.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

const KEY: &str = "host.key";
const TRUST: &str = "fleet.trust";
const CERT: &str = "member.cert";
const SEEDS: &str = "seeds";
const KNOWN: &str = "known";
const FIRST_START: &str = "first-start";
/// Of a longer file only this much is looked at.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn seed() -> io::Result<[u8; 32]> {
        Ok([7; 32])
    }

    #[test]
    fn a_link_in_the_state_directory_leads_nobody_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (state, victim) = (dir.path().join("state"), dir.path().join("victim"));
        fs::create_dir(&state).unwrap();
        fs::write(&victim, "root's own").unwrap();
        for name in [KEY, TRUST, SEEDS, ".seeds.new", ".fleet.trust.new", "x"] {
            symlink(&victim, state.join(name)).unwrap();
        }
        // Someone else's directory, as far as this user can make it so.
        let owner = if geteuid().is_root() { 65_534 } else { geteuid().as_raw() };
        chown(&state, Some(owner), None).unwrap();
        let before = fs::metadata(&victim).unwrap();
        let home = Home::new(&state);

        assert!(matches!(home.key_or_create(seed), Err(HomeError::Io { .. })));
        assert!(matches!(home.trust(), Err(HomeError::Io { .. })));
        assert_eq!(home.seeds(), Vec::<String>::new());
        home.set_seeds(&["/ip4/192.0.2.1/tcp/7717".into()]).unwrap();
        fs::remove_file(state.join(KEY)).unwrap();
        home.key_or_create(seed).unwrap();

        let after = fs::metadata(&victim).unwrap();
        assert_eq!((before.uid(), before.mtime_nsec()), (after.uid(), after.mtime_nsec()));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "root's own");
        for name in [KEY, SEEDS] {
            let made = fs::symlink_metadata(state.join(name)).unwrap();
            assert!(made.is_file() && made.uid() == owner, "{name}: {made:?}");
        }
    }

    #[test]
    fn a_key_is_there_whole_or_not_at_all_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        // Not finished, as after an error or a full disk.
        drop(beside(dir.path(), b"half", 0o600).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let home = Home::new(dir.path());
        let key = home.key_or_create(seed).unwrap();
        let again = home.key_or_create(|| Ok([8; 32])).unwrap();
        assert_eq!(again.seed(), key.seed());
        let path = home.path(KEY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let exposed = home.key_or_create(seed).unwrap_err();
        assert_eq!(exposed.hint(), format!("chmod 600 {}", path.display()));
        // An empty file, as an earlier version could leave, is named and not replaced.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(home.key_or_create(seed), Err(HomeError::Damaged { .. })));
    }

    #[test]
    fn a_pipe_in_place_of_a_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path());
        nix::unistd::mkfifo(&home.path(TRUST), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(home.trust(), Err(HomeError::Damaged { .. })));
    }
}

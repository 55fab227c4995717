//! Keys at rest: a seed under XChaCha20-Poly1305, the key of that from a passphrase by Argon2id.
//!
//! What the file says about itself (role, public key, parameters) is authenticated with the seed, so
//! that a release key cannot be passed off as an operator key.

use std::{
    fs::File,
    io::{self, BufRead, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use data_encoding::HEXLOWER;
use groundswell_protocol::{
    ids::PublicKey,
    trust::{SecretKey, Signer},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{SignError, random};

/// What a key may sign; the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyRole {
    /// Who holds the roles.
    Root,
    /// What content may exist.
    Release,
    /// What a group does now.
    Operator,
    /// Which hosts belong.
    Enrolment,
}

impl KeyRole {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Root, Self::Release, Self::Operator, Self::Enrolment];
}

impl std::fmt::Display for KeyRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Operator => "operator",
            Self::Enrolment => "enrolment",
        })
    }
}

/// Where a passphrase comes from. Never an argument, never the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passphrase {
    /// Asked for on the terminal.
    Terminal,
    /// The first line of a file.
    File(PathBuf),
    /// The key is stored in the clear: for tests and demonstrations.
    None,
}

/// Why a key file could not be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// There is no such file, or it may not be read.
    #[error("cannot read the key file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no key file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It holds a key for something else.
    #[error("{} is the {got} key where the {expected} key is needed", path.display())]
    OtherRole {
        /// The file.
        path: PathBuf,
        /// What was needed.
        expected: KeyRole,
        /// What it is.
        got: KeyRole,
    },
    /// The passphrase is wrong, or the file was altered.
    #[error("{} does not open: the passphrase is wrong, or the file was altered", .0.display())]
    Locked(PathBuf),
    /// The key is in the clear, and not for this user's eyes alone.
    #[error("{} holds its key in the clear, and others can read it", .0.display())]
    Exposed(PathBuf),
    /// There is no such file with a passphrase, or it may not be read.
    #[error("cannot read the passphrase file {}: {source}", path.display())]
    NoPassphraseFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No passphrase could be had.
    #[error("no passphrase: {0}")]
    NoPassphrase(String),
}

impl KeyError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("keys are in the directory that `swell-sign init` made".into())
            }
            Self::Unreadable { .. } | Self::Malformed { .. } => None,
            Self::OtherRole { expected, .. } => Some(format!("give {expected}.key")),
            Self::Locked(_) => {
                Some("try again; if the passphrase is right, restore the file from its copy".into())
            }
            Self::Exposed(path) => Some(format!("chmod 600 {}", path.display())),
            Self::NoPassphraseFile { .. } => {
                Some("--passphrase-file names a file with the passphrase in its first line".into())
            }
            Self::NoPassphrase(_) => {
                Some("type it on a terminal, or name its file with --passphrase-file".into())
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    role: KeyRole,
    public: PublicKey,
    key: Stored,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Stored {
    /// The seed, for whoever asked for no passphrase.
    Plain(String),
    /// The seed under a passphrase.
    Sealed { memory_kib: u32, passes: u32, lanes: u32, salt: String, nonce: String, sealed: String },
}

/// Makes a key, and the text of its file, which is a secret. Nothing is written.
pub fn make(
    role: KeyRole,
    passphrase: &Passphrase,
) -> Result<(SecretKey, Zeroizing<String>), SignError> {
    let seed = Zeroizing::new(random::<32>()?);
    let key = SecretKey::from_seed(&seed);
    let public = key.public_key();
    let stored = match passphrase {
        Passphrase::None => Stored::Plain(HEXLOWER.encode(&*seed)),
        other => seal(&read_passphrase(other, Some(role))?, &seed, role, public)?,
    };
    let file = KeyFile { version: 1, role, public, key: stored };
    let text = serde_json::to_string_pretty(&file)
        .map_err(|error| SignError::refused(error.to_string()))?;
    let mut text = Zeroizing::new(text);
    text.push('\n');
    Ok((key, text))
}

/// Opens a key file, which must hold the key of `role`.
pub fn load(path: &Path, role: KeyRole, passphrase: &Passphrase) -> Result<SecretKey, KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.into(), source };
    let malformed = |reason: String| KeyError::Malformed { path: path.into(), reason };
    let opened = File::open(path).map_err(unreadable)?;
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode();
    let mut text = Zeroizing::new(Vec::new());
    opened.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(unreadable)?;
    let file: KeyFile = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    if file.version != 1 {
        return Err(malformed(format!("it has version {}; this program knows 1", file.version)));
    }
    if file.role != role {
        return Err(KeyError::OtherRole { path: path.into(), expected: role, got: file.role });
    }
    let locked = || KeyError::Locked(path.into());
    let seed = match &file.key {
        Stored::Plain(_) if mode & 0o077 != 0 => return Err(KeyError::Exposed(path.into())),
        Stored::Plain(seed) => Zeroizing::new(bytes::<32>(seed).ok_or_else(locked)?),
        sealed => {
            let passphrase = read_passphrase(passphrase, None)?;
            open(&passphrase, sealed, role, file.public).ok_or_else(locked)?
        }
    };
    // The public half is derived from the seed; the file's copy is only a label, and must be true.
    let key = SecretKey::from_seed(&seed);
    if key.public_key() == file.public { Ok(key) } else { Err(locked()) }
}

fn seal(
    passphrase: &str,
    seed: &[u8; 32],
    role: KeyRole,
    public: PublicKey,
) -> Result<Stored, SignError> {
    let failed = |what: &str| SignError::refused(format!("cannot seal the key: {what}"));
    let (salt, nonce) = (random::<16>()?, random::<24>()?);
    let params = (MEMORY_KIB, PASSES, LANES);
    let key = derive(passphrase, &salt, params).ok_or_else(|| failed("argon2"))?;
    let aad = about(role, public, params);
    let sealed = XChaCha20Poly1305::new((&*key).into())
        .encrypt(&XNonce::from(nonce), Payload { msg: seed, aad: aad.as_bytes() })
        .map_err(|_| failed("encryption"))?;
    Ok(Stored::Sealed {
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: LANES,
        salt: HEXLOWER.encode(&salt),
        nonce: HEXLOWER.encode(&nonce),
        sealed: HEXLOWER.encode(&sealed),
    })
}

fn open(
    passphrase: &str,
    stored: &Stored,
    role: KeyRole,
    public: PublicKey,
) -> Option<Zeroizing<[u8; 32]>> {
    let Stored::Sealed { memory_kib, passes, lanes, salt, nonce, sealed } = stored else {
        return None;
    };
    // A file asks for no more than this program would use, and some room for later versions.
    if *memory_kib > MEMORY_KIB * 16 || *passes > PASSES * 16 || *lanes > 16 {
        return None;
    }
    let params = (*memory_kib, *passes, *lanes);
    let key = derive(passphrase, &bytes::<16>(salt)?, params)?;
    let aad = about(role, public, params);
    let sealed = HEXLOWER.decode(sealed.as_bytes()).ok()?;
    let nonce = XNonce::from(bytes::<24>(nonce)?);
    let seed = XChaCha20Poly1305::new((&*key).into())
        .decrypt(&nonce, Payload { msg: &sealed, aad: aad.as_bytes() })
        .ok()
        .map(Zeroizing::new)?;
    Some(Zeroizing::new(seed.as_slice().try_into().ok()?))
}

fn derive(
    passphrase: &str,
    salt: &[u8],
    (memory, passes, lanes): (u32, u32, u32),
) -> Option<Zeroizing<[u8; 32]>> {
    let params = Params::new(memory, passes, lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .ok()?;
    Some(key)
}

fn about(role: KeyRole, public: PublicKey, (memory, passes, lanes): (u32, u32, u32)) -> String {
    format!("groundswell key file 1, {role}, {public}, argon2id {memory} {passes} {lanes}")
}

/// Gets a passphrase; with `new_for` it is for a new key, and typed twice.
fn read_passphrase(
    from: &Passphrase,
    new_for: Option<KeyRole>,
) -> Result<Zeroizing<String>, KeyError> {
    let none = |error: &dyn std::fmt::Display| KeyError::NoPassphrase(error.to_string());
    let text = match from {
        Passphrase::None => return Err(KeyError::NoPassphrase("the key is sealed".into())),
        Passphrase::File(path) => {
            let unread = |source| KeyError::NoPassphraseFile { path: path.clone(), source };
            let file = File::open(path).map_err(unread)?;
            let mut line = Zeroizing::new(String::new());
            io::BufReader::new(file).read_line(&mut line).map_err(unread)?;
            Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())
        }
        Passphrase::Terminal => {
            let prompt = match new_for {
                Some(role) => format!("New passphrase for the {role} key: "),
                None => "Passphrase: ".into(),
            };
            let first = Zeroizing::new(rpassword::prompt_password(prompt).map_err(|e| none(&e))?);
            if new_for.is_some() {
                let again = rpassword::prompt_password("The same again: ").map_err(|e| none(&e))?;
                if *Zeroizing::new(again) != *first {
                    return Err(KeyError::NoPassphrase("the two differ".into()));
                }
            }
            first
        }
    };
    if text.is_empty() {
        return Err(KeyError::NoPassphrase("it is empty".into()));
    }
    Ok(text)
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

/// RFC 9106's second recommendation: 64 MiB, three passes, four lanes.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// Ten times what a key file has; of a longer file only this much is looked at.
const FILE_BYTES_MAX: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::write_secret;

    fn create(path: &Path, role: KeyRole, passphrase: &Passphrase) -> SecretKey {
        let (key, text) = make(role, passphrase).unwrap();
        write_secret(path, text.as_bytes()).unwrap();
        key
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_and_role_only() {
        let dir = tempfile::tempdir().unwrap();
        let (path, word) = (dir.path().join("operator.key"), dir.path().join("word"));
        fs::write(&word, "correct horse\n").unwrap();
        let word = Passphrase::File(word);
        let key = create(&path, KeyRole::Operator, &word);
        let opened = load(&path, KeyRole::Operator, &word).unwrap();
        assert_eq!(opened.public_key(), key.public_key());

        let wrong = dir.path().join("wrong");
        fs::write(&wrong, "correct house\n").unwrap();
        let refused = load(&path, KeyRole::Operator, &Passphrase::File(wrong));
        assert!(matches!(refused, Err(KeyError::Locked(_))));
        let refused = load(&path, KeyRole::Release, &word);
        assert!(matches!(refused, Err(KeyError::OtherRole { .. })));
        assert!(matches!(
            load(&path, KeyRole::Operator, &Passphrase::None),
            Err(KeyError::NoPassphrase(_))
        ));
        // A file that claims another role does not open: what it says is sealed with the seed.
        let text = fs::read_to_string(&path).unwrap().replace("\"operator\"", "\"release\"");
        fs::write(&path, text).unwrap();
        assert!(matches!(load(&path, KeyRole::Release, &word), Err(KeyError::Locked(_))));
    }

    #[test]
    fn the_file_shows_no_seed_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let (path, word) = (dir.path().join("root.key"), dir.path().join("word"));
        fs::write(&word, "x y z").unwrap();
        let key = create(&path, KeyRole::Root, &Passphrase::File(word));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&HEXLOWER.encode(&key.seed())));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_in_the_clear_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        create(&path, KeyRole::Operator, &Passphrase::None);
        let load = || load(&path, KeyRole::Operator, &Passphrase::Terminal);
        assert!(load().is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = load().unwrap_err();
        assert!(matches!(refused, KeyError::Exposed(_)), "{refused}");
        assert_eq!(refused.hint(), Some(format!("chmod 600 {}", path.display())));
    }

    #[test]
    fn a_sealed_key_may_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (path, word) = (dir.path().join("operator.key"), dir.path().join("word"));
        fs::write(&word, "x y z").unwrap();
        let word = Passphrase::File(word);
        create(&path, KeyRole::Operator, &word);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(&path, KeyRole::Operator, &word).is_ok());
    }

    #[test]
    fn what_is_no_key_file_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        for text in ["", "{}", "hello", "{\"version\":1,\"role\":\"operator\",\"extra\":1}"] {
            fs::write(&path, text).unwrap();
            let refused = load(&path, KeyRole::Operator, &Passphrase::None);
            assert!(matches!(refused, Err(KeyError::Malformed { .. })), "{text}");
        }
    }
}

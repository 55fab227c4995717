//! Founding a fleet and letting hosts in.

use std::{
    collections::BTreeSet,
    fs,
    num::{NonZeroU8, NonZeroU32},
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    ids::{FleetId, FleetName, HostId, HostName, Labels, ZoneName},
    limits::ENVELOPE_BYTES_MAX,
    time::UnixSeconds,
    trust::{
        Document, Enrolment, Genesis, Invitation, Member, MemberCert, Role, Roles, Root, SecretKey,
        Signed, Signer, Token, Trust, TrustBundle, Voter, token_key,
    },
};

use crate::{
    SignError,
    keyfile::{self, KeyRole, Passphrase},
    random, read_start, write_public, write_secret,
};

/// The name of the trust bundle's file.
pub const TRUST_FILE: &str = "fleet.trust";

/// The name of a role's key file.
pub fn key_file(role: KeyRole) -> String {
    format!("{role}.key")
}

/// Makes the four role keys, the first root document and the genesis, in `dir`.
///
/// One key for each role; the root is one of one, and every view of the fleet says so. Everything is
/// checked and made before the first file is written; what an error leaves half written is removed.
pub fn init(
    dir: &Path,
    name: FleetName,
    mut voters: Vec<Voter>,
    passphrase: &Passphrase,
    now: UnixSeconds,
) -> Result<FleetId, SignError> {
    voters.sort();
    check_voters(&voters)?;
    let genesis = Genesis { voters, generation: 0 };
    genesis.check().map_err(|invalid| SignError::refused(invalid.to_string()))?;
    let key_path = |role| dir.join(key_file(role));
    let trust_path = dir.join(TRUST_FILE);
    let mut paths = KeyRole::ALL.map(key_path).into_iter().chain([trust_path.clone()]);
    if let Some(path) = paths.find(|path| path.symlink_metadata().is_ok()) {
        return Err(SignError::Exists(path));
    }
    // In the order of KeyRole::ALL; each may ask for a passphrase.
    let make = |role| keyfile::make(role, passphrase);
    let (root, root_text) = make(KeyRole::Root)?;
    let (release, release_text) = make(KeyRole::Release)?;
    let (operator, operator_text) = make(KeyRole::Operator)?;
    let (enrolment, enrolment_text) = make(KeyRole::Enrolment)?;
    let document = Root {
        name,
        roles: Roles {
            root: role_of(&root),
            release: role_of(&release),
            operator: role_of(&operator),
            enrolment: role_of(&enrolment),
        },
        version: 1,
        review_by: UnixSeconds(now.0.saturating_add(REVIEW_AFTER_SECONDS)),
    };
    let (fleet, bundle) = TrustBundle::found(&document, &genesis, &[&root])?;

    let is_new = !dir.exists();
    fs::create_dir_all(dir).map_err(SignError::io(dir))?;
    let texts = [&root_text, &release_text, &operator_text, &enrolment_text];
    let keys = KeyRole::ALL.into_iter().zip(texts);
    let keys: Vec<_> = keys.map(|(role, text)| (key_path(role), text.as_bytes())).collect();
    let done = write_all(&keys, (&trust_path, &bundle.to_bytes()));
    if done.is_err() && is_new {
        drop(fs::remove_dir(dir));
    }
    done.map(|()| fleet)
}

/// Writes all files, or removes those that were written before the one that failed.
fn write_all(secrets: &[(PathBuf, &[u8])], public: (&Path, &[u8])) -> Result<(), SignError> {
    let mut written = Vec::new();
    let done = secrets
        .iter()
        .try_for_each(|(path, bytes)| write_secret(path, bytes).map(|()| written.push(path)))
        .and_then(|()| write_public(public.0, public.1));
    if done.is_err() {
        written.into_iter().for_each(|path| drop(fs::remove_file(path)));
    }
    done
}

/// The rules of a genesis that a person breaks by a slip, in that person's words.
fn check_voters(voters: &[Voter]) -> Result<(), SignError> {
    // Sorted by key.
    let same_key = voters.windows(2).find(|pair| pair[0].host == pair[1].host);
    if let Some([a, b]) = same_key {
        let reason = format!("the voters {} and {} have the same key", a.name, b.name);
        let hint = "each host has its own: run `swell identity` on each";
        return Err(SignError::refused(reason).with_hint(hint));
    }
    let mut names = BTreeSet::new();
    match voters.iter().find(|voter| !names.insert(&voter.name)) {
        Some(voter) => Err(SignError::refused(format!("two voters are named {}", voter.name))
            .with_hint("a host's name is its own in the fleet: give one of them another")),
        None => Ok(()),
    }
}

fn role_of(key: &SecretKey) -> Role {
    Role { keys: vec![key.public_key()], threshold: NonZeroU8::MIN }
}

/// Reads and checks a trust bundle.
pub fn load_trust(path: &Path) -> Result<Trust, SignError> {
    let bytes = read_start(path, ENVELOPE_BYTES_MAX + 1)?;
    TrustBundle::from_bytes(&bytes)
        .and_then(|bundle| Trust::new(bundle, None))
        .map_err(|error| SignError::refused(format!("{}: {error}", path.display())))
}

/// What a join token allows.
#[derive(Clone, Debug)]
pub struct TokenTerms {
    /// Names that it may give; `*` stands for anything.
    pub name_pattern: String,
    /// Labels of its hosts.
    pub labels: Labels,
    /// Zone of its hosts.
    pub zone: Option<ZoneName>,
    /// How many hosts; none for any number.
    pub uses: Option<NonZeroU32>,
    /// How long it is good for, in seconds.
    pub valid_seconds: u64,
    /// How long its hosts' certificates are good for, in seconds.
    pub member_seconds: u64,
}

/// Makes a join token.
pub fn token(
    trust: &Trust,
    enrolment: &dyn Signer,
    terms: TokenTerms,
    seeds: Vec<String>,
    now: UnixSeconds,
) -> Result<Invitation, SignError> {
    let seed = random::<32>()?;
    let token = Token {
        key: token_key(&seed),
        uses: terms.uses,
        zone: terms.zone,
        labels: terms.labels,
        not_after: UnixSeconds(now.0.saturating_add(terms.valid_seconds)),
        name_pattern: terms.name_pattern,
        member_seconds: terms.member_seconds,
    };
    let token = Signed::new(&token, trust.fleet(), &[enrolment])?;
    let enrolment = Enrolment::Token { seed, token };
    Ok(Invitation { seeds, bundle: trust.bundle().clone(), enrolment })
}

/// What an approved host gets.
#[derive(Clone, Debug)]
pub struct HostTerms {
    /// Its key, as `swell identity` shows it there.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// Its labels.
    pub labels: Labels,
    /// Its zone.
    pub zone: Option<ZoneName>,
    /// How long its certificate is good for, in seconds.
    pub member_seconds: u64,
    /// Above that of the host whose name it takes over; 0 for a new name.
    pub incarnation: u64,
}

/// Approves a host by its fingerprint.
pub fn approve(
    trust: &Trust,
    enrolment: &dyn Signer,
    terms: HostTerms,
    seeds: Vec<String>,
    now: UnixSeconds,
) -> Result<Invitation, SignError> {
    let member = Member {
        host: terms.host,
        name: terms.name,
        zone: terms.zone,
        labels: terms.labels,
        not_after: UnixSeconds(now.0.saturating_add(terms.member_seconds)),
        incarnation: terms.incarnation,
    };
    let member = Signed::new(&member, trust.fleet(), &[enrolment])?;
    let cert = MemberCert { token: None, member, receipts: Vec::new() };
    let enrolment = Enrolment::Approved(cert);
    Ok(Invitation { seeds, bundle: trust.bundle().clone(), enrolment })
}

/// A year after which people are asked to look at the root keys again.
const REVIEW_AFTER_SECONDS: u64 = 365 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(name: &str, seed: u8) -> Voter {
        let host = SecretKey::from_seed(&[seed; 32]).public_key().into();
        Voter { host, name: HostName::new(name).unwrap() }
    }

    fn found(dir: &Path, voters: &[Voter], passphrase: &Passphrase) -> Result<FleetId, SignError> {
        let name = FleetName::new("f").unwrap();
        init(dir, name, voters.to_vec(), passphrase, UnixSeconds(0))
    }

    #[test]
    fn what_init_refuses_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("keys");
        for (voters, message) in [
            (vec![voter("a", 1), voter("b", 1)], "a and b have the same key"),
            (vec![voter("a", 1), voter("a", 2)], "two voters are named a"),
            ((1..200).map(|n| voter(&format!("h{n}"), n)).collect(), "voters, not 199"),
        ] {
            let refused = found(&dir, &voters, &Passphrase::None).unwrap_err().to_string();
            assert!(refused.contains(message) && !dir.exists(), "{refused}");
        }
        let word = Passphrase::File(scratch.path().join("no-such-file"));
        assert!(found(&dir, &[voter("a", 1)], &word).is_err() && !dir.exists());
        // A key from elsewhere is in the way of the third one.
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("operator.key"), "mine").unwrap();
        let refused = found(&dir, &[voter("a", 1)], &Passphrase::None).unwrap_err();
        assert!(matches!(refused, SignError::Exists(_)), "{refused}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing was added");
        fs::remove_file(dir.join("operator.key")).unwrap();
        found(&dir, &[voter("a", 1)], &Passphrase::None).unwrap();
    }
    #[test]
    fn an_error_in_the_middle_takes_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (key, trust) = (dir.path().join("root.key"), dir.path().join(TRUST_FILE));
        fs::write(&trust, "in the way").unwrap();
        let refused = write_all(&[(key.clone(), b"secret")], (&trust, b"public"));
        assert!(matches!(refused, Err(SignError::Exists(_))));
        assert!(!key.exists() && fs::read(&trust).unwrap() == b"in the way");
    }
}

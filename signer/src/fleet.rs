//! Founding a fleet and letting hosts in.

use std::{
    fs,
    num::{NonZeroU8, NonZeroU32},
    path::Path,
};

use groundswell_protocol::{
    ids::{FleetId, FleetName, HostId, HostName, Labels, ZoneName},
    time::UnixSeconds,
    trust::{
        Enrolment, Genesis, Invitation, Member, MemberCert, Role, Roles, Root, SecretKey, Signed,
        Signer, Token, Trust, TrustBundle, Voter, token_key,
    },
};

use crate::{
    SignError,
    keyfile::{self, KeyRole, Passphrase},
    random, write_public,
};

/// The name of the trust bundle's file.
pub const TRUST_FILE: &str = "fleet.trust";

/// The name of a role's key file.
pub fn key_file(role: KeyRole) -> String {
    format!("{role}.key")
}

/// Makes the four role keys, the first root document and the genesis, in `dir`.
///
/// One key for each role; the root is one of one, and every view of the fleet says so.
pub fn init(
    dir: &Path,
    name: FleetName,
    mut voters: Vec<Voter>,
    passphrase: &Passphrase,
    now: UnixSeconds,
) -> Result<FleetId, SignError> {
    fs::create_dir_all(dir).map_err(SignError::io(dir))?;
    let trust_path = dir.join(TRUST_FILE);
    if trust_path.exists() {
        return Err(SignError::Exists(trust_path));
    }
    let create = |role| keyfile::create(&dir.join(key_file(role)), role, passphrase);
    let (root, release) = (create(KeyRole::Root)?, create(KeyRole::Release)?);
    let (operator, enrolment) = (create(KeyRole::Operator)?, create(KeyRole::Enrolment)?);
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
    voters.sort();
    let genesis = Genesis { voters, generation: 0 };
    let (fleet, bundle) = TrustBundle::found(&document, &genesis, &[&root])?;
    write_public(&trust_path, &bundle.to_bytes())?;
    Ok(fleet)
}

fn role_of(key: &SecretKey) -> Role {
    Role { keys: vec![key.public_key()], threshold: NonZeroU8::MIN }
}

/// Reads and checks a trust bundle.
pub fn load_trust(path: &Path) -> Result<Trust, SignError> {
    let bytes = fs::read(path).map_err(SignError::io(path))?;
    TrustBundle::from_bytes(&bytes)
        .and_then(|bundle| Trust::new(bundle, None))
        .map_err(|error| SignError::Refused(format!("{}: {error}", path.display())))
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
        incarnation: 0,
    };
    let member = Signed::new(&member, trust.fleet(), &[enrolment])?;
    let cert = MemberCert { token: None, member, receipts: Vec::new() };
    let enrolment = Enrolment::Approved(cert);
    Ok(Invitation { seeds, bundle: trust.bundle().clone(), enrolment })
}

/// A year after which people are asked to look at the root keys again.
const REVIEW_AFTER_SECONDS: u64 = 365 * 86_400;

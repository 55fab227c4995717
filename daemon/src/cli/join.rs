//! Making this host a member: its key, what it believes, its certificate, where to begin.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use groundswell_protocol::{
    ids::{HostId, HostName},
    limits::ENVELOPE_BYTES_MAX,
    trust::{Enrolment, Invitation, Member, MemberRefused, Signer, Trust},
};
use groundswell_signer::seed::Seed;

use super::{AS_ROOT, Failed, Output};
use crate::{
    config,
    control::api::{Identity, Joined},
    home::{self, Home},
};

#[derive(Args)]
pub(super) struct JoinArguments {
    /// The file with the join token, or - to read it from standard input. It is a secret, and so it
    /// is no argument.
    token: PathBuf,
    /// This host's name in the fleet; needed if the token leaves it open.
    #[arg(long)]
    name: Option<HostName>,
    /// Where a host of the fleet is reached, such as 192.0.2.10:7717 or web-1.example:7717, in place of
    /// what the token says. Give it once for each. A name is looked up at each attempt to connect.
    #[arg(long = "seed", value_name = "ADDRESS")]
    seeds: Vec<Seed>,
    /// The settings of swelld. Without it, /etc/groundswell/swelld.toml if that exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state directory of swell-exec, which is given its own copy of the fleet's trust.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/swell-exec")]
    executor_state: PathBuf,
}

pub(super) fn identity(config: Option<&Path>, out: Output) -> Result<(), Failed> {
    let settings = config::load(config)?;
    let home = Home::new(&settings.state_dir);
    let key = HostId::from(home.key_or_create(fresh_seed)?.public_key());
    if out.json { out.json(&Identity { key: key.to_string() }) } else { out.line(key.to_string()) }
}

pub(super) fn join(arguments: &JoinArguments, out: Output) -> Result<(), Failed> {
    let settings = config::load(arguments.config.as_deref())?;
    let text = read_token(&arguments.token)?;
    let refused = |error: &dyn std::fmt::Display| Failed::NotJoined(error.to_string());
    let invitation = Invitation::from_text(&text).map_err(|e| refused(&e))?;
    let trust = Trust::new(invitation.bundle.clone(), None)
        .map_err(|error| refused(&format!("the token's trust bundle {error}")))?;
    let home = Home::new(&settings.state_dir);
    if let Ok(known) = home.trust()
        && known.fleet() != trust.fleet()
    {
        let dir = settings.state_dir.display();
        let (name, hint) = (&known.root().name, format!("remove {dir} to leave it"));
        return Err(Failed::with_hint(format!("this host is in fleet {name} already"), hint));
    }
    let host = HostId::from(home.key_or_create(fresh_seed)?.public_key());
    let cert = invitation
        .certificate(trust.fleet(), host, arguments.name.clone())
        .map_err(|e| refused(&e))?;
    let member = cert.verify_uncounted(&trust, now()).map_err(|error| match error {
        MemberRefused::Expired { .. } => refused(&by_clock(error.to_string())),
        error => refused(&error),
    })?;
    if member.content().host != host {
        return Err(refused(&"the token approves another host's key; see `swell identity`"));
    }
    if let Enrolment::Token { token, .. } = &invitation.enrolment {
        let enrolment = trust.root().roles.enrolment.key_set();
        let token = token.verify(trust.fleet(), enrolment).map_err(|e| refused(&e))?;
        let until = token.content().not_after;
        if until < now() {
            let text = format!("the token was good until {until}");
            return Err(refused(&by_clock(text)));
        }
    }
    check_name(arguments.name.as_ref(), member.content(), &trust)?;
    // The executor first: a daemon that finds a certificate finds an executor that believes it.
    let executor = &arguments.executor_state;
    let written = home::replace(executor, "fleet.trust", &invitation.bundle.to_bytes())
        .and_then(|()| home::replace(executor, "host.id", host.to_string().as_bytes()));
    written.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => AS_ROOT,
            _ => "--executor-state names the state directory of swell-exec",
        };
        Failed::with_hint(format!("{}: {error}", executor.display()), hint)
    })?;
    home.expect_first_start()?;
    home.set_trust(&invitation.bundle)?;
    let named: Vec<_> = arguments.seeds.iter().map(ToString::to_string).collect();
    home.set_seeds(if named.is_empty() { &invitation.seeds } else { &named })?;
    home.set_cert(&cert)?;
    let (name, fleet) = (&member.content().name, &trust.root().name);
    if out.json {
        let (host, key) = (name.to_string(), host.to_string());
        out.json(&Joined { host, key, fleet: trust.fleet().to_string() })
    } else {
        out.line(format!(
            "{name} may join fleet {fleet} ({})\nnext: systemctl start swell-exec swelld",
            trust.fleet().short()
        ))
    }
}

/// The name that was asked for must be the certificate's, and a voter's that of the genesis.
fn check_name(asked: Option<&HostName>, member: &Member, trust: &Trust) -> Result<(), Failed> {
    let own = &member.name;
    if let Some(name) = asked.filter(|name| *name != own) {
        return Err(Failed::with_hint(
            format!("the certificate approves this host as {own}, not as {name}: its name counts"),
            format!("leave --name out, or have it approved as {name} with `swell-sign host`"),
        ));
    }
    let voter = trust.genesis().voters.iter().find(|voter| voter.host == member.host);
    if let Some(voter) = voter.filter(|voter| voter.name != *own) {
        let name = &voter.name;
        let text = format!("this host's key is that of the voter {name}, not {own}: --name {name}");
        return Err(Failed::NotJoined(text));
    }
    Ok(())
}

fn read_token(path: &Path) -> Result<String, Failed> {
    let mut text = String::new();
    let limit = u64::try_from(ENVELOPE_BYTES_MAX * 2).unwrap_or(u64::MAX);
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => AS_ROOT,
            _ => "name the file that `swell-sign token` wrote, or - for standard input",
        };
        Failed::with_hint(format!("{}: {error}", path.display()), hint)
    })?;
    Ok(text)
}

fn fresh_seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
    Ok(seed)
}

/// Whoever reads that a time is over asks first whose clock says so.
fn by_clock(text: String) -> String {
    format!(
        "{text}, and by this host's clock it is {}: set that if it is wrong, else ask for a new one",
        now()
    )
}

fn now() -> groundswell_protocol::time::UnixSeconds {
    crate::clock::Clock::start().wall()
}

//! swell-sign: keys, releases, orders and enrolment, used away from the fleet.

use std::{
    fmt::Write as _,
    io::Write as _,
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Parser, Subcommand};
use groundswell_protocol::{
    ids::{
        ApplicationName, Digest, FleetName, GroupName, HostId, HostName, LabelText, Labels,
        ReleaseLabel, ZoneName,
    },
    limits::ENVELOPE_BYTES_MAX,
    revision::{BUNDLE_MAGIC, BundleEvent, BundleReader, FileExistsBehavior},
    rollout::MinimumHealthy,
    time::UnixSeconds,
    trust::{
        Action, Deploy, Document, Drain, Enrolment, Group, Invitation, Member, MemberCert, Order,
        Release, Removal, SecretKey, Signed, Token, Trust, TrustBundle, Voter, VoterList,
        token_key,
    },
};
use groundswell_signer::{
    SignError,
    fleet::{self, HostTerms, TRUST_FILE, TokenTerms, key_file},
    group_file, inspect,
    keyfile::{self, KeyRole, Passphrase},
    orders::{self, CanaryArguments, Fallback, FleetState, GroupState},
    read_start,
    release::{self, ReleaseTerms},
    seed::Seed,
    terminal::{plain, plain_lines},
    write_public, write_secret,
};

/// Signs what a Groundswell fleet may run. Keys stay here, away from the fleet.
///
/// Exit codes: 0 done, or the file is good; 1 refused or failed, nothing was written; 2 the command
/// line is wrong.
#[derive(Parser)]
#[command(name = "swell-sign", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Found a fleet: role keys, root document, genesis with the first voters.
    Init(InitArguments),
    /// Make a token with which hosts can join.
    Token(TokenArguments),
    /// Approve one host by the fingerprint that `swell identity` shows on it.
    Host(HostArguments),
    /// Turn a directory with an appspec.yml into a signed .swell file.
    Release(ReleaseArguments),
    /// Make every check of `release` on a directory, sign nothing, and say what hosts would take and what
    /// would hurt all the same.
    Lint {
        /// The directory; its appspec.yml is read.
        dir: PathBuf,
    },
    /// Sign an order for a deployment group, to be handed in elsewhere with `swell`.
    #[command(subcommand)]
    Order(OrderCommand),
    /// Sign the settings of a deployment group, to be handed in elsewhere with `swell group apply`.
    Group(GroupArguments),
    /// Sign the removal of a host from the fleet, for good. To be handed in with `swell order`.
    Remove(RemoveArguments),
    /// Sign that a host is kept for people to work on, or given back: see `swell hosts drain --help`. To be handed in
    /// with `swell order`.
    Drain(DrainArguments),
    /// Sign the list of voters with which a fleet goes on that has lost a majority of them. Made by
    /// `swell voters recover --out`, handed in with `swell order` on the same host.
    Voters(VotersArguments),
    /// Show what a file claims. Nothing is verified.
    Inspect {
        /// A .swell file, trust bundle, join token, order, group, removal or release.
        file: PathBuf,
    },
    /// Check every signature and every byte of a file.
    Verify {
        /// A .swell file, trust bundle, join token, order, group, removal or release.
        file: PathBuf,
        /// What to believe.
        #[arg(long, value_name = "FILE", default_value = TRUST_FILE)]
        trust: PathBuf,
    },
}

/// Where the keys are and how they are opened.
#[derive(Args)]
struct Keys {
    /// The directory that `init` made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    keys: PathBuf,
    #[command(flatten)]
    secret: Secret,
}

#[derive(Args)]
struct Secret {
    /// Read the passphrase from the first line of this file instead of the terminal.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Secret {
    fn passphrase(&self) -> Passphrase {
        self.passphrase_file.clone().map_or(Passphrase::Terminal, Passphrase::File)
    }
}

impl Keys {
    fn trust(&self) -> Result<Trust, SignError> {
        let hint = "name the directory that `swell-sign init` made with --keys";
        fleet::load_trust(&self.keys.join(TRUST_FILE)).map_err(|error| error.with_hint(hint))
    }

    fn load(&self, role: KeyRole) -> Result<SecretKey, SignError> {
        Ok(keyfile::load(&self.keys.join(key_file(role)), role, &self.secret.passphrase())?)
    }
}

#[derive(Args)]
struct InitArguments {
    /// Where keys and the trust bundle are written.
    dir: PathBuf,
    /// The fleet's name.
    #[arg(long)]
    name: FleetName,
    /// A first voter: its name and the key that `swell identity` shows on it. Give three or five;
    /// one will do for a fleet that may stand still when that host does.
    #[arg(long = "voter", value_name = "NAME=KEY", required = true, value_parser = voter)]
    voters: Vec<Voter>,
    /// Store the keys in the clear, for tests and demonstrations.
    #[arg(long, conflicts_with = "passphrase_file")]
    no_passphrase: bool,
    #[command(flatten)]
    secret: Secret,
}

fn voter(text: &str) -> Result<Voter, String> {
    let (name, key) = text.split_once('=').ok_or("NAME=KEY is needed")?;
    let host: HostId = key.parse().map_err(|error| format!("{error}"))?;
    let name = HostName::new(name).map_err(|error| error.to_string())?;
    Ok(Voter { host, name })
}

#[derive(Args)]
struct TokenArguments {
    #[command(flatten)]
    keys: Keys,
    /// Where a host that is up is reached, such as 192.0.2.10:7717 or web-1.example:7717. Several are
    /// better. A name is looked up at each attempt to connect.
    #[arg(long = "seed", value_name = "ADDRESS", required = true, value_parser = seed)]
    seeds: Vec<String>,
    /// Names that hosts may take; * stands for anything.
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    names: String,
    /// Labels of the hosts, as KEY=VALUE joined by commas.
    #[arg(long, default_value = "", hide_default_value = true)]
    labels: Labels,
    /// Zone of the hosts.
    #[arg(long)]
    zone: Option<ZoneName>,
    /// How many hosts may join with it; without this, any number.
    #[arg(long, value_name = "N")]
    uses: Option<NonZeroU32>,
    /// How long it is good for: days, hours, minutes or seconds, as 90d, 12h, 30m or 45s.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = seconds)]
    valid: u64,
    /// How long the certificates of its hosts are good for.
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = seconds)]
    member_valid: u64,
    /// Where to write it, readable by this user only.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct HostArguments {
    #[command(flatten)]
    keys: Keys,
    /// The key that `swell identity` shows on the host.
    key: HostId,
    /// The host's name.
    name: HostName,
    /// Where a host that is up is reached, such as 192.0.2.10:7717 or web-1.example:7717.
    #[arg(long = "seed", value_name = "ADDRESS", required = true, value_parser = seed)]
    seeds: Vec<String>,
    /// Labels of the host, as KEY=VALUE joined by commas.
    #[arg(long, default_value = "", hide_default_value = true)]
    labels: Labels,
    /// Zone of the host.
    #[arg(long)]
    zone: Option<ZoneName>,
    /// How long its certificate is good for.
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = seconds)]
    member_valid: u64,
    /// For a machine that was installed anew: takes the name over from its old key. One more each
    /// time.
    #[arg(long, value_name = "N", default_value_t = 0)]
    incarnation: u64,
    /// Where to write what `swell join` takes on that host.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct ReleaseArguments {
    #[command(flatten)]
    keys: Keys,
    /// The directory; its appspec.yml is read, everything in it is released.
    dir: PathBuf,
    /// The application.
    #[arg(long)]
    application: ApplicationName,
    /// What people will call this release, such as 1.4.2.
    #[arg(long)]
    label: ReleaseLabel,
    /// The machine architecture it is for, such as x86_64; any without this.
    #[arg(long)]
    architecture: Option<LabelText>,
    /// A value of the host label `environment` under which it may run; any without this. Give it
    /// once for each.
    #[arg(long = "environment", value_name = "VALUE")]
    environments: Vec<LabelText>,
    /// Where to write the .swell file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum OrderCommand {
    /// Bring the group to a release.
    Deploy {
        #[command(flatten)]
        place: PlaceArguments,
        /// The release: its id, or its .swell file.
        #[arg(long)]
        release: String,
        /// The release to go back to if the deployment fails: its id, or its .swell file. Without
        /// it, the group's last good one.
        #[arg(long, value_name = "RELEASE")]
        fallback: Option<String>,
        /// Leave hosts as they are if the deployment fails.
        #[arg(long, conflicts_with = "fallback")]
        no_rollback: bool,
        /// Another floor than the group's, for this deployment: AllAtOnce, HalfAtATime, OneAtATime,
        /// count:N or percent:N. Canary, waves, zones and deadlines stay the group's.
        #[arg(long)]
        configuration: Option<MinimumHealthy>,
        #[command(flatten)]
        canary: CanaryArguments,
        /// What to do with files in the way that no revision put there: DISALLOW, OVERWRITE or
        /// RETAIN. What the appspec says wins.
        #[arg(long, value_name = "BEHAVIOR", value_parser = inspect::file_exists_behavior)]
        file_exists_behavior: Option<FileExistsBehavior>,
        /// Go on if the previous revision's ApplicationStop fails.
        #[arg(long)]
        ignore_application_stop_failures: bool,
        /// Wait for the turn if a deployment of the group runs already, instead of being refused.
        #[arg(long)]
        queue: bool,
        /// Leave hosts alone that run the release already.
        #[arg(long)]
        only_outdated: bool,
    },
    /// Bring the group back to a release, on every host that runs another one. What runs is stopped.
    Rollback {
        #[command(flatten)]
        place: PlaceArguments,
        /// The release: its id, or its .swell file. Without it, the group's last good one; where every host
        /// runs that, the one that was good before it.
        #[arg(long)]
        release: Option<String>,
    },
    /// Stop the deployment that an order started.
    Stop {
        #[command(flatten)]
        place: PlaceArguments,
        /// The id of the deploy order, as `swell show` prints it.
        #[arg(long, value_name = "ID")]
        order: Digest,
        /// Then bring the hosts that took the release back to the fallback that the order names.
        #[arg(long)]
        rollback: bool,
    },
    /// Give no more slots for the deployment that an order started, until it is resumed.
    Pause {
        #[command(flatten)]
        place: PlaceArguments,
        /// The id of the deploy order, as `swell show` prints it.
        #[arg(long, value_name = "ID")]
        order: Digest,
    },
    /// Go on with a deployment that is paused, that waits after its canary, or that bakes.
    Resume {
        #[command(flatten)]
        place: PlaceArguments,
        /// The id of the deploy order, as `swell show` prints it.
        #[arg(long, value_name = "ID")]
        order: Digest,
    },
    /// Write off a host that holds a slot of the group and will not come back soon. Only for a host
    /// that is down: see `swell slots release --help`.
    ReleaseSlot {
        #[command(flatten)]
        place: PlaceArguments,
        /// The host's key, as `swell hosts --json` prints it.
        #[arg(long, value_name = "KEY")]
        host: HostId,
        /// The slot, as `swell slots` prints it.
        #[arg(long, value_name = "N")]
        token: u64,
    },
    /// Write off a host of the group that has not said what it holds since the voters were lost, and will
    /// not come back soon. Only for a host that is down: see `swell slots waive --help`.
    Waive {
        #[command(flatten)]
        place: PlaceArguments,
        /// The host's key, as `swell hosts --json` prints it.
        #[arg(long, value_name = "KEY")]
        host: HostId,
        /// The recovery, as `recovered_at` in what `swell status --json` prints.
        #[arg(long, value_name = "GENERATION")]
        recovery: u64,
    },
    /// Let nothing begin in the group: see `swell group freeze --help`.
    Freeze {
        #[command(flatten)]
        place: PlaceArguments,
    },
    /// Let what waits in a frozen group go on.
    Unfreeze {
        #[command(flatten)]
        place: PlaceArguments,
    },
}

#[derive(Args)]
struct GroupArguments {
    #[command(flatten)]
    keys: Keys,
    /// The group's TOML file.
    file: PathBuf,
    /// What `swell status --json` printed: the settings follow the group's version there.
    #[arg(long, value_name = "FILE", required_unless_present = "version")]
    fleet_state: Option<PathBuf>,
    /// The version of the settings: one more than the one that they replace, and 1 for a new group.
    #[arg(long, value_name = "N", conflicts_with = "fleet_state")]
    version: Option<NonZeroU64>,
    /// Where to write the signed group.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct RemoveArguments {
    #[command(flatten)]
    keys: Keys,
    /// The host's key, as `swell hosts --json` prints it.
    key: HostId,
    /// The host's name.
    name: HostName,
    /// Why, for those who ask later.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Where to write the removal.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct DrainArguments {
    #[command(flatten)]
    keys: Keys,
    /// The host's key, as `swell hosts --json` prints it.
    key: HostId,
    /// The host's name.
    name: HostName,
    /// Give it back.
    #[arg(long)]
    undo: bool,
    /// One more than `drain_sequence` in what `swell hosts --json` prints.
    #[arg(long, value_name = "N")]
    sequence: u64,
    /// Why, for those who ask later.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Where to write it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct VotersArguments {
    #[command(flatten)]
    keys: Keys,
    /// The list, with the signatures that it has.
    file: PathBuf,
    /// Where to write it with one more.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Where the order goes.
#[derive(Args)]
struct PlaceArguments {
    #[command(flatten)]
    keys: Keys,
    /// The deployment group.
    #[arg(long)]
    group: GroupName,
    /// What `swell status --json` printed: the order follows the group's newest one there.
    #[arg(long, value_name = "FILE")]
    fleet_state: PathBuf,
    /// Why, for those who read the deployment's report.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Where to write the order.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Init(arguments) => init(&arguments),
        Command::Remove(arguments) => remove(arguments),
        Command::Drain(arguments) => drain(arguments),
        Command::Voters(arguments) => voters(&arguments),
        Command::Token(arguments) => token(arguments),
        Command::Host(arguments) => host(arguments),
        Command::Release(arguments) => make_release(arguments),
        Command::Lint { dir } => lint(&dir),
        Command::Order(command) => order(command),
        Command::Group(arguments) => group(&arguments),
        Command::Inspect { file } => inspect(&file),
        Command::Verify { file, trust } => verify(&file, &trust),
    };
    match done {
        Ok(text) => {
            // Nobody reads any more if the pipe is closed.
            drop(writeln!(std::io::stdout(), "{}", plain_lines(&text)));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("swell-sign: error: {}", plain(&error.to_string()));
            if let Some(hint) = error.hint() {
                eprintln!("swell-sign: hint: {}", plain(&hint));
            }
            ExitCode::FAILURE
        }
    }
}

fn init(arguments: &InitArguments) -> Result<String, SignError> {
    let passphrase =
        if arguments.no_passphrase { Passphrase::None } else { arguments.secret.passphrase() };
    let (dir, name) = (&arguments.dir, arguments.name.clone());
    let id = fleet::init(dir, name, arguments.voters.clone(), &passphrase, now())?;
    let dir = dir.display();
    Ok(format!(
        "fleet {}: {id}\n{} voters; the root is 1 of 1\nkeys and {TRUST_FILE} are in {dir}: keep a \
         copy of root.key in a safe place\nnext: swell-sign token --keys {dir} --seed ADDRESS --out \
         FILE",
        arguments.name,
        arguments.voters.len(),
    ))
}

fn token(arguments: TokenArguments) -> Result<String, SignError> {
    let trust = arguments.keys.trust()?;
    let key = arguments.keys.load(KeyRole::Enrolment)?;
    let terms = TokenTerms {
        name_pattern: arguments.names,
        labels: arguments.labels,
        zone: arguments.zone,
        uses: arguments.uses,
        valid_seconds: arguments.valid,
        member_seconds: arguments.member_valid,
    };
    let invitation = fleet::token(&trust, &key, terms, arguments.seeds, now())?;
    write_secret(&arguments.out, format!("{}\n", invitation.to_text()).as_bytes())?;
    let out = arguments.out.display();
    Ok(format!("{out}: a secret; on each new host: swell join {out} --name NAME"))
}

fn host(arguments: HostArguments) -> Result<String, SignError> {
    let trust = arguments.keys.trust()?;
    let key = arguments.keys.load(KeyRole::Enrolment)?;
    let terms = HostTerms {
        host: arguments.key,
        name: arguments.name,
        labels: arguments.labels,
        zone: arguments.zone,
        member_seconds: arguments.member_valid,
        incarnation: arguments.incarnation,
    };
    let invitation = fleet::approve(&trust, &key, terms, arguments.seeds, now())?;
    write_public(&arguments.out, format!("{}\n", invitation.to_text()).as_bytes())?;
    let out = arguments.out.display();
    Ok(format!("{out}: on that host: swell join {out}"))
}

fn make_release(arguments: ReleaseArguments) -> Result<String, SignError> {
    let trust = arguments.keys.trust()?;
    let key = arguments.keys.load(KeyRole::Release)?;
    let terms = ReleaseTerms {
        application: arguments.application,
        label: arguments.label,
        architecture: arguments.architecture,
        environments: arguments.environments,
    };
    let (dir, out) = (&arguments.dir, &arguments.out);
    let made = release::make(dir, out, trust.fleet(), &key, terms, now())?;
    warn(&made.warnings);
    Ok(format!(
        "{}: release {}\nrevision {}: {} entries, {} bytes, {} to carry\nnext: swell push {0}",
        out.display(),
        made.release,
        made.manifest,
        made.entries,
        made.content_bytes,
        made.transfer_bytes
    ))
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("swell-sign: warning: {}", plain(warning));
    }
}

fn lint(dir: &Path) -> Result<String, SignError> {
    let warnings = release::lint(dir)?;
    warn(&warnings);
    let dir = dir.display();
    Ok(match warnings.len() {
        0 => format!("{dir}: can be released"),
        1 => format!("{dir}: can be released, with 1 warning"),
        count => format!("{dir}: can be released, with {count} warnings"),
    })
}

fn order(command: OrderCommand) -> Result<String, SignError> {
    let place = command.place();
    let (trust, out) = (place.keys.trust()?, place.out.clone());
    let (group, reason) = (place.group(&trust)?, place.reason.clone());
    let (action, more, submit) = match &command {
        OrderCommand::Stop { order, rollback, .. } => {
            let action = Action::Stop { order: *order, rollback: *rollback };
            (action, String::new(), "stop --order")
        }
        OrderCommand::Pause { order, .. } => {
            (Action::Pause { order: *order }, String::new(), "order")
        }
        OrderCommand::Resume { order, .. } => {
            (Action::Resume { order: *order }, String::new(), "order")
        }
        OrderCommand::ReleaseSlot { host, token, .. } => {
            let action = Action::ReleaseSlot { host: *host, token: *token };
            (action, String::new(), "order")
        }
        OrderCommand::Waive { host, recovery, .. } => {
            let action = Action::Waive { host: *host, generation: *recovery };
            (action, String::new(), "order")
        }
        OrderCommand::Freeze { .. } => (Action::Freeze, String::new(), "order"),
        OrderCommand::Unfreeze { .. } => (Action::Unfreeze, String::new(), "order"),
        OrderCommand::Rollback { release, .. } => {
            let release = match release {
                Some(text) => release_id(text, &trust)?,
                None => group.before().map_err(|reason| {
                    SignError::refused(reason).with_hint("name one with --release")
                })?,
            };
            let action = Action::Rollback(Deploy::plain(release, group.version));
            (action, String::new(), "order")
        }
        OrderCommand::Deploy { .. } => {
            let deploy = deploy_terms(&command, &group, &trust)?;
            let more = match deploy.fallback {
                Some(release) => format!("if it fails, back to release {release}\n"),
                None => "if it fails, hosts stay as they are\n".into(),
            };
            (Action::Deploy(deploy), more, "deploy --order")
        }
    };
    let key = command.place().keys.load(KeyRole::Operator)?;
    let signed = orders::order(trust.fleet(), &key, group.place(), action, reason, now())?;
    write_public(&out, &signed.to_bytes())?;
    let (id, out) = (signed.id(trust.fleet()), out.display());
    Ok(format!("{out}: order {id}\n{more}next, on any host: swell {submit} {out}"))
}

fn deploy_terms(
    command: &OrderCommand,
    group: &GroupState,
    trust: &Trust,
) -> Result<Deploy, SignError> {
    let OrderCommand::Deploy {
        release,
        fallback,
        no_rollback,
        configuration,
        canary,
        file_exists_behavior,
        ignore_application_stop_failures,
        queue,
        only_outdated,
        ..
    } = command
    else {
        return Err(SignError::refused("it is no deploy order"));
    };
    let fallback = match fallback {
        _ if *no_rollback => Fallback::Nowhere,
        Some(text) => Fallback::To(release_id(text, trust)?),
        None => Fallback::LastGood,
    };
    let mut deploy = group.deploy(release_id(release, trust)?, fallback);
    deploy.configuration = group.configuration(*configuration, canary.canary())?;
    deploy.file_exists_behavior = *file_exists_behavior;
    deploy.ignore_application_stop_failures = *ignore_application_stop_failures;
    (deploy.queue, deploy.only_outdated) = (*queue, *only_outdated);
    Ok(deploy)
}

fn group(arguments: &GroupArguments) -> Result<String, SignError> {
    let trust = arguments.keys.trust()?;
    let mut group = group_file::load(&arguments.file)?;
    group.version = match (&arguments.version, &arguments.fleet_state) {
        (Some(version), _) => version.get(),
        (None, Some(path)) => {
            let known = fleet_state(path, &trust)?.groups.into_iter();
            known
                .filter(|known| known.name == group.name)
                .map(|known| known.version)
                .max()
                .unwrap_or(0)
                + 1
        }
        (None, None) => 1,
    };
    let key = arguments.keys.load(KeyRole::Operator)?;
    let signed = orders::group(trust.fleet(), &key, &group)?;
    write_public(&arguments.out, &signed.to_bytes())?;
    let (out, Group { name, version, .. }) = (arguments.out.display(), &group);
    Ok(format!("{out}: group {name} version {version}\nnext, on any host: swell group apply {out}"))
}

fn remove(arguments: RemoveArguments) -> Result<String, SignError> {
    let trust = arguments.keys.trust()?;
    let key = arguments.keys.load(KeyRole::Operator)?;
    let RemoveArguments { key: host, name, reason, out, .. } = arguments;
    let removal = Removal { host, name, reason, issued_at: now() };
    let signed = orders::removal(trust.fleet(), &key, &removal)?;
    write_public(&out, &signed.to_bytes())?;
    let out = out.display();
    Ok(format!("{out}: the removal of {}\nnext, on any host: swell order {out}", removal.name))
}

fn drain(arguments: DrainArguments) -> Result<String, SignError> {
    let trust = arguments.keys.trust()?;
    let operator = arguments.keys.load(KeyRole::Operator)?;
    let DrainArguments { key: host, name, undo, sequence, reason, out, .. } = arguments;
    let drain = orders::drain_of(host, name, !undo, sequence, reason, now());
    let signed = orders::drain(trust.fleet(), &operator, &drain)?;
    write_public(&out, &signed.to_bytes())?;
    let (out, name) = (out.display(), drain.name);
    let what = if undo { "is given back" } else { "is drained" };
    Ok(format!("{out}: {name} {what}\nnext, on any host: swell order {out}"))
}

fn voters(arguments: &VotersArguments) -> Result<String, SignError> {
    let file = arguments.file.display();
    let Kind::Voters(mut list) = kind_of(&arguments.file)? else {
        return Err(SignError::refused(format!("{file} is no list of voters")));
    };
    let trust = arguments.keys.trust()?;
    let said = claim(&list, inspect::voters)?;
    orders::voters(trust.fleet(), &arguments.keys.load(KeyRole::Operator)?, &mut list)?;
    write_public(&arguments.out, &list.to_bytes())?;
    let out = arguments.out.display();
    let next = match trust.recovery(&list) {
        Ok(_) => format!("next, on the host where it was made: swell order {out}"),
        Err(error) => format!("next, another operator: swell-sign voters {out}; it {error}"),
    };
    Ok(format!("{said}\n{next}"))
}

impl OrderCommand {
    fn place(&self) -> &PlaceArguments {
        match self {
            Self::Deploy { place, .. }
            | Self::Rollback { place, .. }
            | Self::Stop { place, .. }
            | Self::Pause { place, .. }
            | Self::Resume { place, .. }
            | Self::ReleaseSlot { place, .. }
            | Self::Waive { place, .. }
            | Self::Freeze { place }
            | Self::Unfreeze { place } => place,
        }
    }
}

impl PlaceArguments {
    /// What the fleet's own account of itself says of the group.
    fn group(&self, trust: &Trust) -> Result<GroupState, SignError> {
        let state = fleet_state(&self.fleet_state, trust)?;
        let group = state.groups.into_iter().find(|group| group.name == self.group);
        group.ok_or_else(|| {
            let what = format!("there is no group {}", self.group);
            state_refused(&self.fleet_state, &what)
        })
    }
}

fn fleet_state(path: &Path, trust: &Trust) -> Result<FleetState, SignError> {
    let text = read_start(path, FLEET_STATE_BYTES_MAX)?;
    let state: FleetState =
        serde_json::from_slice(&text).map_err(|error| state_refused(path, &error.to_string()))?;
    if state.id != trust.fleet() {
        return Err(state_refused(path, "it is the state of another fleet"));
    }
    Ok(state)
}

fn state_refused(path: &Path, what: &str) -> SignError {
    SignError::refused(format!("{}: {what}", path.display()))
        .with_hint("write it with `swell status --json` on a host of the fleet")
}

/// The release that is meant by an id or by a file. A label is neither: only the fleet knows labels.
fn release_id(text: &str, trust: &Trust) -> Result<Digest, SignError> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let path = Path::new(text);
    if !path.exists() {
        let reason = format!("'{text}' is neither the id of a release nor a file");
        return Err(SignError::refused(reason).with_hint(
            "name the .swell file, or the id that `swell releases` shows on a host: a label such as \
             1.4.2 is not enough here",
        ));
    }
    Ok(release::verify_bundle(path, trust)?.0)
}

/// What a file can be.
enum Kind {
    /// With its first bytes, in which the release is.
    Bundle(Vec<u8>),
    Invitation(Box<Invitation>),
    Trust(TrustBundle),
    Release(Signed<Release>),
    Order(Signed<Order>),
    Group(Signed<Group>),
    Removal(Signed<Removal>),
    Drain(Signed<Drain>),
    Voters(Signed<VoterList>),
    Cert(Box<MemberCert>),
}

fn kind_of(path: &Path) -> Result<Kind, SignError> {
    let bytes = read_start(path, ENVELOPE_BYTES_MAX * 2)?;
    if bytes.starts_with(BUNDLE_MAGIC) {
        return Ok(Kind::Bundle(bytes));
    }
    if let Ok(text) = std::str::from_utf8(&bytes)
        && let Ok(invitation) = Invitation::from_text(text)
    {
        return Ok(Kind::Invitation(Box::new(invitation)));
    }
    if let Ok(bundle) = TrustBundle::from_bytes(&bytes) {
        return Ok(Kind::Trust(bundle));
    }
    if let Ok(cert) = groundswell_protocol::cbor::decode(&bytes, ENVELOPE_BYTES_MAX) {
        return Ok(Kind::Cert(Box::new(cert)));
    }
    let release = Signed::from_bytes(&bytes).map(Kind::Release);
    let order = || Signed::from_bytes(&bytes).map(Kind::Order);
    let group = || Signed::from_bytes(&bytes).map(Kind::Group);
    let removal = || Signed::from_bytes(&bytes).map(Kind::Removal);
    let drain = || Signed::from_bytes(&bytes).map(Kind::Drain);
    let voters = || Signed::from_bytes(&bytes).map(Kind::Voters);
    let kind = release.or_else(|_| order()).or_else(|_| group()).or_else(|_| removal());
    let kind = kind.or_else(|error| voters().or_else(|_| drain()).map_err(|_| error));
    kind.map_err(|error| {
        let path = path.display();
        SignError::refused(format!("{path} is nothing that this program signs: {error}"))
    })
}

fn inspect(path: &Path) -> Result<String, SignError> {
    let claim = match kind_of(path)? {
        Kind::Bundle(bytes) => {
            let events = BundleReader::new()
                .push(&bytes)
                .map_err(|error| SignError::refused(format!("{} {error}", path.display())))?;
            match events.first() {
                Some(BundleEvent::Release(release)) => {
                    format!("a bundle with a {}", claim(release, inspect::release)?)
                }
                _ => "a bundle that ends before its release".into(),
            }
        }
        Kind::Invitation(invitation) => {
            let what = match &invitation.enrolment {
                Enrolment::Token { token, .. } => {
                    format!("a secret, with a {}", claim(token, inspect::token)?)
                }
                Enrolment::Approved(cert) => {
                    format!("an approved host's {}", claim(&cert.member, inspect::member)?)
                }
            };
            let seeds = invitation.seeds.iter().map(|seed| format!("\n  seed: {}", plain(seed)));
            format!("{what}{}", seeds.collect::<String>())
        }
        Kind::Trust(bundle) => {
            let last = bundle.roots.last().map(|root| claim(root, inspect::root)).transpose()?;
            let (count, last) = (bundle.roots.len(), last.unwrap_or_default());
            let genesis = claim(&bundle.genesis, inspect::genesis)?;
            format!("a trust bundle with {count} root documents, the last a {last}\n{genesis}")
        }
        Kind::Release(release) => claim(&release, inspect::release)?,
        Kind::Order(order) => claim(&order, inspect::order)?,
        Kind::Group(group) => claim(&group, inspect::group)?,
        Kind::Removal(removal) => claim(&removal, inspect::removal)?,
        Kind::Drain(drain) => claim(&drain, inspect::drain)?,
        Kind::Voters(list) => claim(&list, inspect::voters)?,
        Kind::Cert(cert) => claim(&cert.member, inspect::member)?,
    };
    Ok(format!("NOT VERIFIED, only what the file claims:\n{claim}"))
}

fn claim<T: Document>(signed: &Signed<T>, say: fn(&T) -> String) -> Result<String, SignError> {
    signed.unverified_words(say).map_err(|error| SignError::refused(error.to_string()))
}

fn verify(path: &Path, trust: &Path) -> Result<String, SignError> {
    let shown = path.display();
    let refused = |error: &dyn std::fmt::Display| SignError::refused(format!("{shown} {error}"));
    let kind = kind_of(path)?;
    if let Kind::Trust(bundle) = kind {
        let trust = Trust::new(bundle, None).map_err(|error| refused(&error))?;
        return Ok(format!("{shown}: good; fleet {} {}", trust.root().name, trust.fleet()));
    }
    let trust = fleet::load_trust(trust)
        .map_err(|error| error.with_hint("name the fleet's trust bundle with --trust"))?;
    let what = match kind {
        Kind::Trust(_) => String::new(),
        Kind::Bundle(_) => {
            let (id, release) = release::verify_bundle(path, &trust)?;
            format!("release {id}, {} {}", release.application, release.label)
        }
        Kind::Invitation(invitation) => {
            verify_invitation(&invitation, &trust).map_err(|error| match error {
                SignError::Refused { reason, hint } => {
                    SignError::Refused { reason: format!("{shown}: {reason}"), hint }
                }
                other => other,
            })?
        }
        Kind::Release(signed) => {
            format!("release {}", trust.release(&signed).map_err(|e| refused(&e))?.id())
        }
        Kind::Order(signed) => {
            format!("order {}", trust.order(&signed).map_err(|e| refused(&e))?.id())
        }
        Kind::Group(signed) => {
            let group = trust.group(&signed).map_err(|e| refused(&e))?;
            format!("group {} version {}", group.content().name, group.content().version)
        }
        Kind::Removal(signed) => {
            let removal = trust.removal(&signed).map_err(|e| refused(&e))?;
            format!("removal of {}", removal.content().name)
        }
        Kind::Drain(signed) => {
            let drain = trust.drain(&signed).map_err(|e| refused(&e))?;
            format!("drain {} of {}", drain.content().sequence, drain.content().name)
        }
        Kind::Voters(signed) => {
            let list = trust.recovery(&signed).map_err(|e| refused(&e))?;
            format!("list of voters, generation {}", list.content().generation)
        }
        Kind::Cert(cert) => {
            let member = cert.verify_uncounted(&trust, now());
            describe_member(member.map_err(|e| refused(&format!("is refused: {e}")))?.content())
        }
    };
    Ok(format!("{shown}: good; {what}"))
}

/// Checks what a new host would be handed as that host and the fleet would, and says what it allows.
fn verify_invitation(invitation: &Invitation, trust: &Trust) -> Result<String, SignError> {
    let anew = "make a new one with `swell-sign token` or `swell-sign host`";
    let refused = |reason: String| SignError::refused(reason).with_hint(anew);
    let theirs = Trust::new(invitation.bundle.clone(), Some(trust.fleet()))
        .map_err(|error| refused(format!("its trust bundle {error}")))?;
    if theirs.bundle() != trust.bundle() {
        let (got, expected) = (theirs.root().version, trust.root().version);
        return Err(refused(format!(
            "its newest root document is version {got}; that of the fleet is version {expected}"
        )));
    }
    let mut what = match &invitation.enrolment {
        Enrolment::Token { seed, token } => {
            let enrolment = trust.root().roles.enrolment.key_set();
            let token = token.verify(trust.fleet(), enrolment);
            let token = token.map_err(|error| refused(format!("the join token {error}")))?;
            let token = token.content();
            if token_key(seed) != token.key {
                return Err(refused("its secret is not that of its join token".into()));
            }
            if token.not_after < now() {
                return Err(refused(format!("it let hosts join until {}", token.not_after)));
            }
            describe_token(token)
        }
        Enrolment::Approved(cert) => {
            let member = cert.verify_uncounted(trust, now());
            describe_member(member.map_err(|error| refused(error.to_string()))?.content())
        }
    };
    for seed in &invitation.seeds {
        write!(what, "\nseed    {}", plain(seed)).ok();
    }
    Ok(what)
}

fn describe_token(token: &Token) -> String {
    let uses = token.uses.map_or_else(|| "any number".into(), |uses| uses.to_string());
    format!(
        "a join token, which is a secret\nnames   {}\n{}\nhosts   {uses}\njoin    until {}\n\
         member  until {}",
        plain(&token.name_pattern),
        describe_place(&token.labels, token.zone.as_ref()),
        token.not_after,
        UnixSeconds(token.not_after.0.saturating_add(token.member_seconds)),
    )
}

fn describe_member(member: &Member) -> String {
    format!(
        "host {}\nkey     {}\n{}\nmember  until {}",
        member.name,
        member.host,
        describe_place(&member.labels, member.zone.as_ref()),
        member.not_after,
    )
}

fn describe_place(labels: &Labels, zone: Option<&ZoneName>) -> String {
    let labels = Some(labels.to_string()).filter(|labels| !labels.is_empty());
    let (labels, zone) = (labels.unwrap_or_else(none), zone.map_or_else(none, ToString::to_string));
    format!("labels  {labels}\nzone    {zone}")
}

fn none() -> String {
    "none".into()
}

/// Reads where hosts begin to look for others, and writes it as hosts write addresses.
fn seed(text: &str) -> Result<String, String> {
    text.parse::<Seed>().map(|seed| seed.to_string()).map_err(|error| error.to_string())
}

/// Reads `90d`, `12h`, `30m` or `45s`.
fn seconds(text: &str) -> Result<u64, String> {
    let rule = || format!("'{}' is not a time such as 90d, 12h, 30m or 45s", text.escape_debug());
    let unit = text.chars().next_back().ok_or_else(rule)?;
    let factor = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return Err(rule()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| rule())?;
    number.checked_mul(factor).ok_or_else(rule)
}

fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// A fleet of ten thousand hosts describes itself in far less.
const FLEET_STATE_BYTES_MAX: usize = 64 << 20;

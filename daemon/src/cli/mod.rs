//! `swell`: the command that people type.
//!
//! Exit codes: 0 done, or nobody reads on; 1 refused or failed; 2 the command line is wrong; 3 no
//! daemon answers, or not this user; 4 this host has not joined; 5 the deployment was stopped; 6 the
//! deployment has ended already; 64 the configuration is wrong; 130 interrupted, and the deployment
//! goes on.

mod demo;
mod deploy;
mod follow;
mod join;
mod local;
mod logs;
mod operate;
mod store;
mod text;
mod view;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use groundswell_protocol::{
    ids::{ApplicationName, GroupName},
    trust::Action,
};
use groundswell_signer::SignError;
use thiserror::Error;

use crate::{
    config::{self, ConfigError},
    control::client::{Client, ClientError},
    home::HomeError,
};
pub(crate) use text::duration;
use text::{plain_json, plain_lines, short};

/// Deploys to a Groundswell fleet from any of its hosts.
///
/// Exit codes: 0 done, or nobody reads on; 1 refused or failed; 2 the command line is wrong; 3 no
/// daemon answers, or not this user; 4 this host has not joined a fleet; 5 the deployment was
/// stopped; 6 the deployment has ended already; 64 the configuration is wrong; 130 interrupted, and
/// the deployment goes on.
#[derive(Parser)]
#[command(name = "swell", version, max_term_width = 100)]
struct Arguments {
    /// The control socket of the daemon on this host.
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        value_name = "PATH",
        default_value = "/run/swelld/control.sock"
    )]
    socket: PathBuf,
    /// Print JSON, with a documented shape, instead of tables.
    #[arg(long, global = true, help_heading = COMMON)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole fleet on this machine and show what it does. Needs no root and no network.
    Demo(demo::DemoArguments),
    Local(local::LocalArguments),
    /// Show this host's key, for `swell-sign init` and `swell-sign host`; make one if there is none.
    Identity(HostFiles),
    /// Make this host a member of a fleet.
    Join(join::JoinArguments),
    /// Hand a .swell file to the fleet. The release is verified while it is read.
    Push {
        /// The file that `swell-sign release` wrote.
        file: PathBuf,
    },
    /// The releases that the fleet knows, newest first, and what runs them.
    Releases {
        /// Only those of this application.
        application: Option<ApplicationName>,
    },
    /// Deployment groups: which hosts, and how carefully.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Bring a group to a release, and watch it.
    Deploy(deploy::DeployArguments),
    /// The fleet: hosts, groups, what runs and what is under way.
    Status {
        /// Show it anew twice a second until it is interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// All deployments, newest first.
    Deployments,
    /// The report of one deployment: which host, when, and what failed with the end of its log.
    Show {
        /// Its id, such as d-4KX81ZQ0B.
        id: String,
    },
    /// What the scripts of a deployment have written on its hosts, or write while it is followed.
    ///
    /// While it is followed the exit code is that of the deployment: 1 if it failed, 5 if it was stopped. Else
    /// it is 1 if some host could not be read.
    Logs(logs::LogsArguments),
    /// Stop a deployment: nothing more begins; hosts in the middle of their lifecycle end it.
    Stop(operate::StopArguments),
    /// Give no more slots for a deployment until it is resumed. Hosts that have one go on.
    Pause(operate::RunningArguments),
    /// Go on with a deployment that is paused, that waits after its canary, or that bakes.
    Resume(operate::RunningArguments),
    /// Bring a group back to a release, on every host that runs another one. What runs is stopped.
    Rollback(operate::RollbackArguments),
    /// Deploy the group's last good release once more.
    Redeploy(operate::RedeployArguments),
    /// Hand in what was signed elsewhere by `swell-sign`: an order, a removal, a drain, a list of voters.
    Order {
        /// The file that `swell-sign` wrote.
        file: PathBuf,
    },
    /// All hosts, with addresses, labels and when they were last heard of.
    Hosts {
        #[command(subcommand)]
        command: Option<operate::HostsCommand>,
    },
    /// The slots that are held: who may be disrupted right now, since when, and why nothing moves.
    Slots {
        #[command(subcommand)]
        command: Option<operate::SlotsCommand>,
    },
    /// What this host keeps of revisions, why, and what it lacks.
    Store {
        #[command(subcommand)]
        command: Option<store::StoreCommand>,
    },
    /// The voters, and who leads.
    Voters {
        #[command(subcommand)]
        command: Option<operate::VotersCommand>,
    },
}

#[derive(Subcommand)]
enum GroupCommand {
    /// Set a group up, or change it, as its TOML file says.
    Apply(deploy::ApplyArguments),
    /// All groups: how many hosts, how many of them are down, and what they run.
    List,
    /// The settings of a group that are in force.
    Show {
        /// The deployment group.
        group: GroupName,
        /// Print the file that `swell group apply` takes: change it there, and hand it in.
        #[arg(long)]
        toml: bool,
    },
    /// Let nothing begin in a group, whoever orders it: no deployment, no rollback, and nobody catches up. Hosts in
    /// the middle of their lifecycle end it.
    Freeze(operate::FreezeArguments),
    /// Let what waits in a frozen group go on.
    Unfreeze(operate::FreezeArguments),
}

/// Where the files of this host are.
#[derive(Args)]
struct HostFiles {
    /// The settings of swelld. Without it, /etc/groundswell/swelld.toml if that exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("{0}")]
    NotJoined(String),
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    #[error("{reason}")]
    Other { reason: String, hint: Option<String> },
}

impl Failed {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self::Other { reason: reason.into(), hint: None }
    }

    pub(crate) fn with_hint(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Other { reason: reason.into(), hint: Some(hint.into()) }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Client(ClientError::NoDaemon { .. } | ClientError::Forbidden(_)) => 3,
            Self::Client(ClientError::Ended(_)) => 6,
            Self::NotJoined(_) | Self::Home(HomeError::NotJoined { .. }) => 4,
            Self::Config(_) => config::EXIT_CODE,
            _ => 1,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Client(ClientError::NoDaemon { .. }) => Some(
                "start it with `systemctl start swelld`, or name its socket with --socket".into(),
            ),
            Self::Client(ClientError::Forbidden(_)) => {
                Some("use sudo, or join the group that control_group names".into())
            }
            Self::Client(ClientError::Ended(_)) => {
                Some("see `swell deployments`; to go back, use `swell rollback`".into())
            }
            Self::Config(_) => {
                Some("correct the file and check it with `swelld --check-config`".into())
            }
            Self::Home(HomeError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(AS_ROOT.into())
            }
            Self::Home(error) => Some(error.hint()),
            Self::Sign(error) => error.hint(),
            Self::Other { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// The deployment failed, or a claim of the demo did not hold.
    Badly,
    /// The deployment was stopped.
    Stopped,
    /// Nobody waits for the end any more.
    Interrupted,
}

/// Where output goes and in what form.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints lines. Whatever they quote, they move no cursor.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<(), Failed> {
        write(&plain_lines(text.as_ref().trim_end()))
    }

    /// Prints lines on a cleared screen, or below the last ones where there is no terminal.
    pub(crate) fn screen(self, text: impl AsRef<str>) -> Result<(), Failed> {
        let clear = if io::stdout().is_terminal() { CLEAR_SCREEN } else { "" };
        write(&format!("{clear}{}", plain_lines(text.as_ref())))
    }

    /// Prints text that is harmless already, as it is.
    pub(crate) fn text(self, text: &str) -> Result<(), Failed> {
        Ok(io::stdout().write_all(text.as_bytes())?)
    }

    /// Prints a value as JSON.
    pub(crate) fn json(self, value: &impl serde::Serialize) -> Result<(), Failed> {
        write(&plain_json(&serde_json::to_string_pretty(value).map_err(io::Error::from)?))
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json_line(self, value: &impl serde::Serialize) -> Result<(), Failed> {
        write(&plain_json(&serde_json::to_string(value).map_err(io::Error::from)?))
    }

    /// Prints either, from work whose outcome matters more than whether somebody reads on.
    pub(crate) fn tell(self, value: &impl serde::Serialize, text: impl AsRef<str>) {
        drop(if self.json { self.json_line(value) } else { self.line(text) });
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn write(text: &str) -> Result<(), Failed> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// To the upper left corner, and nothing from there on.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failed::new(format!("cannot start: {error}"))),
    };
    match runtime.block_on(run(arguments)) {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Badly) => ExitCode::FAILURE,
        Ok(Ended::Stopped) => ExitCode::from(5),
        // As a shell has it for a process that an interrupt has ended.
        Ok(Ended::Interrupted) => ExitCode::from(130),
        // Whoever read has seen enough, as `head` has after its lines.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failed) => report(&failed),
    }
}

fn report(failed: &Failed) -> ExitCode {
    eprintln!("swell: error: {}", short(&failed.to_string()));
    if let Some(hint) = failed.hint() {
        eprintln!("swell: hint: {}", short(&hint));
    }
    ExitCode::from(failed.code())
}

async fn run(arguments: Arguments) -> Result<Ended, Failed> {
    let (client, out) = (Client::new(&arguments.socket), Output { json: arguments.json });
    match arguments.command {
        Command::Demo(arguments) => return demo::run(arguments, out).await,
        Command::Local(arguments) => return local::run(arguments, out).await,
        Command::Identity(files) => join::identity(files.config.as_deref(), out)?,
        Command::Join(arguments) => join::join(&arguments, out)?,
        Command::Push { file } => push(&client, &file, out).await?,
        Command::Releases { application } => {
            view::releases(&client, application.as_ref(), out).await?;
        }
        Command::Group(GroupCommand::Apply(arguments)) => {
            deploy::apply(&client, &arguments, out).await?;
        }
        Command::Group(GroupCommand::Freeze(arguments)) => {
            let said = "nothing begins there; go on with `swell group unfreeze`";
            operate::steer_group(&client, arguments, Action::Freeze, said, out).await?;
        }
        Command::Group(GroupCommand::Unfreeze(arguments)) => {
            operate::steer_group(&client, arguments, Action::Unfreeze, "it goes on", out).await?;
        }
        Command::Group(GroupCommand::List) => view::groups(&client, out).await?,
        Command::Group(GroupCommand::Show { group, toml }) => {
            view::group(&client, &group, toml, out).await?;
        }
        Command::Deploy(arguments) => return deploy::deploy(&client, arguments, out).await,
        Command::Stop(arguments) => operate::stop(&client, arguments, out).await?,
        Command::Pause(arguments) => operate::pause(&client, arguments, out).await?,
        Command::Resume(arguments) => operate::resume(&client, arguments, out).await?,
        Command::Rollback(arguments) => return operate::rollback(&client, arguments, out).await,
        Command::Redeploy(arguments) => return operate::redeploy(&client, arguments, out).await,
        Command::Order { file } => operate::order(&client, &file, out).await?,
        Command::Status { watch } => view::status(&client, watch, out).await?,
        Command::Deployments => view::deployments(&client, out).await?,
        Command::Show { id } => view::show(&client, &id, out).await?,
        Command::Logs(arguments) => return logs::logs(&client, &arguments, out).await,
        Command::Hosts { command: None } => view::hosts(&client, out).await?,
        Command::Hosts { command: Some(command) } => operate::hosts(&client, command, out).await?,
        Command::Slots { command: None } => view::slots(&client, out).await?,
        Command::Slots { command: Some(command) } => operate::slots(&client, command, out).await?,
        Command::Store { command: None } => return store::show(&client, out).await,
        Command::Store { command: Some(command) } => {
            return store::run(&client, command, out).await;
        }
        Command::Voters { command: None } => view::voters(&client, out).await?,
        Command::Voters { command: Some(command) } => {
            operate::voters(&client, command, out).await?;
        }
    }
    Ok(Ended::Well)
}

async fn push(client: &Client, file: &Path, out: Output) -> Result<(), Failed> {
    use futures::TryStreamExt;
    let opened = tokio::fs::File::open(file).await;
    let opened = opened.map_err(|error| Failed::new(format!("{}: {error}", file.display())))?;
    let length = opened.metadata().await.map_or(0, |metadata| metadata.len());
    let bar = follow::bytes_bar(length, out);
    let seen = bar.clone();
    let stream = tokio_util::io::ReaderStream::with_capacity(opened, PUSH_PART_BYTES)
        .inspect_ok(move |part| seen.inc(u64::try_from(part.len()).unwrap_or(0)));
    let pushed = client.push(stream).await;
    bar.finish_and_clear();
    let pushed = pushed?;
    if out.json {
        return out.json(&pushed);
    }
    out.line(format!(
        "{} {}: release {}\n{} of {} bytes were new here; next: swell deploy GROUP {}",
        pushed.application,
        pushed.label,
        pushed.release,
        pushed.new_bytes,
        pushed.total_bytes,
        pushed.label
    ))
}

/// For what only root may do on a host.
const AS_ROOT: &str = "run it as root, with sudo";
const COMMON: &str = "Options of every command";
const PUSH_PART_BYTES: usize = 256 << 10;

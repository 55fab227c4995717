//! Steering what runs: stop, pause, resume, go back, deploy anew, and the ways out of a stuck slot.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use groundswell_protocol::{
    ids::{DeploymentId, Digest, GroupName, HostId},
    limits::{ENVELOPE_BYTES_MAX, RELEASE_HOLD_OFF},
    trust::{Action, Deploy, Drain, Order, Removal, Signed, VoterList},
};
use groundswell_signer::{
    orders::{self, Fallback},
    read_start,
};

use super::{
    Ended, Failed, Output,
    deploy::{
        self, OperatorKey, find_group, find_release, fleet_id, list, not_understood, now, state,
    },
};
use crate::control::{
    api::{Fleet, RecoveryAsked, Report, Summary},
    client::{Client, ClientError},
};

/// Which deployment, and who says so.
#[derive(Args)]
pub(super) struct RunningArguments {
    /// The deployment; without it, the one that runs in the fleet, if there is only one.
    id: Option<DeploymentId>,
    /// Why, for those who read the chain of orders.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    operator: OperatorKey,
}

#[derive(Args)]
pub(super) struct StopArguments {
    #[command(flatten)]
    running: RunningArguments,
    /// Then bring the hosts that took the release back to the one that the deployment names for the
    /// case that it fails.
    #[arg(long)]
    rollback: bool,
    /// Hand this order in, signed elsewhere by `swell-sign order stop`.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["id", "reason", "rollback", "key", "passphrase_file"]
    )]
    order: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct RollbackArguments {
    /// The deployment group.
    group: GroupName,
    /// The release to go back to: its label, or its id. Without it, the group's last good one; where every
    /// host runs that, the one that was good before it.
    release: Option<String>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Args)]
pub(super) struct RedeployArguments {
    /// The deployment group.
    group: GroupName,
    /// Leave hosts alone that run the release already.
    #[arg(long)]
    only_outdated: bool,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Args)]
struct RunArguments {
    /// Why, for those who read the deployment's report.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// End when the order is accepted instead of watching the deployment.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    operator: OperatorKey,
}

#[derive(Subcommand)]
pub(super) enum VotersCommand {
    /// Let the fleet go on with the ledger of this host, when a majority of its voters is gone for good.
    ///
    /// Run it on the host whose `swell voters` shows the highest last entry. What was agreed on after
    /// that is lost, except that a host which holds a slot counts as down until it has given it back.
    /// While a majority of the voters can come back, do not: whatever they decide meanwhile is lost.
    Recover {
        /// A host that votes from now on. Name one, or better three; others are found for empty seats.
        #[arg(long = "voter", value_name = "NAME", required = true)]
        voters: Vec<String>,
        /// How many voters the fleet should have in the end; without it, as many as it should have had before.
        #[arg(long, value_name = "N")]
        seats: Option<u8>,
        /// Write the list to this file instead, to be signed by `swell-sign voters` and handed in on
        /// this host with `swell order`.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "passphrase_file"])]
        out: Option<PathBuf>,
        #[command(flatten)]
        operator: OperatorKey,
    },
    /// Say that the disk of this host was not put back to an older state.
    ///
    /// A voter whose machine was started asks others what it may have forgotten, and votes when enough of
    /// them have answered. Where they are gone for long, and nobody has restored this machine from an
    /// image or a backup, it need not wait. Of a disk that was put back never say it: what this voter
    /// has forgotten may be what keeps too many hosts from being down.
    TrustDisk,
}

#[derive(Subcommand)]
pub(super) enum SlotsCommand {
    /// Write off a host that holds a slot and will not come back soon. Its slot is free after a
    /// minute; the host counts as no host of its groups until it is heard of.
    ///
    /// Only for a host that is down: one that is paused for longer than that minute, exactly between
    /// its last look at its receipts and its first step, would be disturbed beside the next one.
    Release {
        /// The host.
        host: String,
        /// Why, for those who read the chain of orders.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        operator: OperatorKey,
    },
    /// Write off a host that has not said, since the voters were lost, that it holds no slot which was lost
    /// with them, and will not come back soon. After a minute it is waited for no more; it counts as no
    /// host of its groups until it is heard of, and then as down until it has said what it holds.
    ///
    /// Only for a host that is down: one that is paused for longer than that minute, exactly between
    /// its last look at its receipts and its first step, would be disturbed beside the next one; and so
    /// would one that is cut off together with a majority of the voters that were lost.
    Waive {
        /// The host.
        host: String,
        /// Why, for those who read the chain of orders.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        operator: OperatorKey,
    },
}

#[derive(Args)]
pub(super) struct FreezeArguments {
    /// The deployment group.
    group: GroupName,
    /// Why, for those who read the chain of orders.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    operator: OperatorKey,
}

#[derive(Subcommand)]
pub(super) enum HostsCommand {
    /// Take a host out of the fleet for good: its slot is free, it counts nowhere, and its key is
    /// refused from now on. A machine that comes back joins with a new key.
    Remove {
        /// The host.
        name: String,
        /// Why, for those who ask later.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        operator: OperatorKey,
    },
    /// Keep a host for yourself, to reboot it or to work on it: it counts as down and gets no slot, until it is
    /// undrained.
    ///
    /// What a person does to a host disturbs it as a release does, so it is for the same quotas to allow: refused
    /// while in a group of the host as many are down as may be, or while it holds a slot. No deployment waits
    /// for its turn, but it takes the room of one; it catches up afterwards if its group says so.
    Drain {
        /// The host.
        name: String,
        /// Why, for those who ask later.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        operator: OperatorKey,
    },
    /// Give a drained host back.
    Undrain {
        /// The host.
        name: String,
        /// Why, for those who ask later.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        operator: OperatorKey,
    },
}

pub(super) async fn stop(
    client: &Client,
    arguments: StopArguments,
    out: Output,
) -> Result<(), Failed> {
    let said = "nothing more begins; hosts in the middle of their lifecycle end it";
    if let Some(path) = &arguments.order {
        let signed = deploy::read_order(path, "Stop")?;
        return hand_in(client, &signed, said, out).await;
    }
    let rollback = arguments.rollback;
    let action = |order| Action::Stop { order, rollback };
    steer(client, arguments.running, action, said, out).await
}

pub(super) async fn pause(
    client: &Client,
    arguments: RunningArguments,
    out: Output,
) -> Result<(), Failed> {
    let said = "no more slots are given; go on with `swell resume`";
    steer(client, arguments, |order| Action::Pause { order }, said, out).await
}

pub(super) async fn resume(
    client: &Client,
    arguments: RunningArguments,
    out: Output,
) -> Result<(), Failed> {
    steer(client, arguments, |order| Action::Resume { order }, "it goes on", out).await
}

/// Signs an order about a deployment that runs or waits, and hands it in.
async fn steer(
    client: &Client,
    arguments: RunningArguments,
    action: impl Fn(Digest) -> Action,
    said: &str,
    out: Output,
) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    let id = match arguments.id {
        Some(id) => id.to_string(),
        None => the_running_one(&fleet)?.id.clone(),
    };
    let report = client.report(&id).await?;
    if report.summary.is_over() && !follows(client, &report).await? {
        return Err(ClientError::Ended(report.summary.how_it_ended()).into());
    }
    let group = report.summary.group.parse().map_err(not_understood)?;
    let action = action(report.order.parse().map_err(not_understood)?);
    let signed = sign(&fleet, &group, action, arguments.reason, &arguments.operator)?;
    hand_in(client, &signed, said, out).await
}

/// True if what the deployment's order began goes on, as a rollback does.
async fn follows(client: &Client, report: &Report) -> Result<bool, Failed> {
    let Some(related) = &report.related else { return Ok(false) };
    Ok(!client.report(related).await?.summary.is_over())
}

fn the_running_one(fleet: &Fleet) -> Result<&Summary, Failed> {
    let unfinished = fleet.deployments.iter().filter(|d| !d.is_over() && d.status != "queued");
    match unfinished.collect::<Vec<_>>().as_slice() {
        [one] => Ok(one),
        [] => Err(Failed::new("no deployment is running")),
        several => {
            let ids: Vec<_> = several.iter().map(|d| d.id.as_str()).collect();
            let reason = format!("several deployments run: {}", ids.join(", "));
            Err(Failed::with_hint(reason, "say which one is meant"))
        }
    }
}

fn sign(
    fleet: &Fleet,
    group: &GroupName,
    action: Action,
    reason: String,
    operator: &OperatorKey,
) -> Result<Signed<Order>, Failed> {
    let place = state(find_group(fleet, group)?)?.place();
    let key = operator.load()?;
    Ok(orders::order(fleet_id(fleet)?, &key, place, action, reason, now())?)
}

async fn hand_in(
    client: &Client,
    signed: &Signed<Order>,
    said: &str,
    out: Output,
) -> Result<(), Failed> {
    let accepted = client.order(signed.to_bytes()).await?;
    if out.json { out.json(&accepted) } else { out.line(said) }
}

pub(super) async fn steer_group(
    client: &Client,
    arguments: FreezeArguments,
    action: Action,
    said: &str,
    out: Output,
) -> Result<(), Failed> {
    let FreezeArguments { group, reason, operator } = arguments;
    let signed = sign(&client.fleet().await?, &group, action, reason, &operator)?;
    hand_in(client, &signed, said, out).await
}

pub(super) async fn rollback(
    client: &Client,
    arguments: RollbackArguments,
    out: Output,
) -> Result<Ended, Failed> {
    let fleet = client.fleet().await?;
    let group = find_group(&fleet, &arguments.group)?;
    let release = match &arguments.release {
        Some(release) => find_release(&fleet, group, release)?,
        None => state(group)?.before().map_err(|reason| Failed::with_hint(reason, NAME_ONE))?,
    };
    let terms = Deploy::plain(release, group.version);
    run(client, &fleet, &arguments.group, Action::Rollback(terms), arguments.run, out).await
}

pub(super) async fn redeploy(
    client: &Client,
    arguments: RedeployArguments,
    out: Output,
) -> Result<Ended, Failed> {
    let fleet = client.fleet().await?;
    let group = find_group(&fleet, &arguments.group)?;
    let mut terms = state(group)?.deploy(last_good(group)?, Fallback::Nowhere);
    terms.only_outdated = arguments.only_outdated;
    run(client, &fleet, &arguments.group, Action::Deploy(terms), arguments.run, out).await
}

const NAME_ONE: &str = "name the release: see `swell releases`";

fn last_good(group: &crate::control::api::Group) -> Result<Digest, Failed> {
    let release = group.last_good_release.as_ref().ok_or_else(|| {
        let reason = format!("group {} has no release that was good", group.name);
        Failed::with_hint(reason, "deploy one: see `swell releases`")
    })?;
    release.parse().map_err(not_understood)
}

async fn run(
    client: &Client,
    fleet: &Fleet,
    group: &GroupName,
    action: Action,
    arguments: RunArguments,
    out: Output,
) -> Result<Ended, Failed> {
    let signed = sign(fleet, group, action, arguments.reason, &arguments.operator)?;
    client.order(signed.to_bytes()).await?;
    let id = DeploymentId::of(signed.id(fleet_id(fleet)?), false).to_string();
    deploy::begun(client, &id, arguments.no_wait, out).await
}

pub(super) async fn slots(
    client: &Client,
    command: SlotsCommand,
    out: Output,
) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    let (signed, said) = match command {
        SlotsCommand::Release { host, reason, operator } => {
            release_slot(&fleet, &host, reason, &operator)?
        }
        SlotsCommand::Waive { host, reason, operator } => waive(&fleet, &host, reason, &operator)?,
    };
    hand_in(client, &signed, &said, out).await
}

fn release_slot(
    fleet: &Fleet,
    host: &str,
    reason: String,
    operator: &OperatorKey,
) -> Result<(Signed<Order>, String), Failed> {
    let slot = fleet.slots.iter().find(|slot| slot.host == host).ok_or_else(|| {
        let holders: Vec<_> = fleet.slots.iter().map(|slot| slot.host.as_str()).collect();
        let hint = format!("slots are held by: {}", list(&holders));
        Failed::with_hint(format!("{host} holds no slot"), hint)
    })?;
    let group = slot.group.parse().map_err(not_understood)?;
    let action = Action::ReleaseSlot { host: host_id(fleet, host)?, token: slot.token };
    let signed = sign(fleet, &group, action, reason, operator)?;
    let (token, deployment, seconds) = (slot.token, &slot.deployment, RELEASE_HOLD_OFF.as_secs());
    let then = match slot.is_left {
        true => {
            format!("deployment {deployment} is over, and that changes nothing of how it ended")
        }
        false => format!(
            "{host} counts as failed then, and deployment {deployment} goes on where that is allowed: if \
             it was the release, `swell stop {deployment}` before"
        ),
    };
    let said = format!(
        "slot {token} is free in {seconds} s, unless {host} is heard of before; until {host} is heard of \
         it counts as no host of its groups: make sure that it is off, since a machine that only stood still \
         goes on where it was\n{then}"
    );
    Ok((signed, said))
}

/// The order that a host is not waited for which has not said what it holds. It is one of any group that the
/// host is in.
fn waive(
    fleet: &Fleet,
    host: &str,
    reason: String,
    operator: &OperatorKey,
) -> Result<(Signed<Order>, String), Failed> {
    let id = host_id(fleet, host)?;
    let generation = fleet.recovered_at.ok_or_else(|| {
        let reason = "no voters were lost here: every slot is known";
        Failed::with_hint(reason, "a slot that is held is freed by `swell slots release`")
    })?;
    let group = fleet.groups.iter().find(|group| group.hosts.iter().any(|name| name == host));
    let group = group.ok_or_else(|| {
        let reason = format!("{host} is in no group: nothing waits for it");
        Failed::with_hint(reason, "see `swell hosts`")
    })?;
    let name = group.name.parse().map_err(not_understood)?;
    let signed = sign(fleet, &name, Action::Waive { host: id, generation }, reason, operator)?;
    let seconds = RELEASE_HOLD_OFF.as_secs();
    let said = format!(
        "{host} is waited for no more in {seconds} s, unless it is heard of before; until {host} is heard of \
         it counts as no host of its groups then, and after that as down until it says what it holds"
    );
    Ok((signed, said))
}

pub(super) async fn voters(
    client: &Client,
    command: VotersCommand,
    out: Output,
) -> Result<(), Failed> {
    match command {
        VotersCommand::Recover { voters, seats, out: file, operator } => {
            recover(client, voters, seats, file, &operator, out).await
        }
        VotersCommand::TrustDisk => {
            let trusted = client.trust_disk().await?;
            let said = match trusted.was_in_doubt {
                true => "this host votes again",
                false => "nothing was in doubt: this host votes, or is no voter",
            };
            if out.json { out.json(&trusted) } else { out.line(said) }
        }
    }
}

async fn recover(
    client: &Client,
    voters: Vec<String>,
    seats: Option<u8>,
    file: Option<PathBuf>,
    operator: &OperatorKey,
    out: Output,
) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    let ids: Result<Vec<_>, Failed> = voters.iter().map(|name| host_id(&fleet, name)).collect();
    let voters = ids?.iter().map(ToString::to_string).collect();
    let asked = RecoveryAsked { voters, seats };
    let bytes = client.plan_recovery(&asked).await?;
    if let Some(file) = file {
        groundswell_signer::write_public(&file, &bytes)?;
        let file = file.display();
        return out.line(format!(
            "{file}: the fleet would go on from entry {}\nnext: swell-sign voters {file} --out \
             {file}.signed, then on this host: swell order {file}.signed",
            fleet.applied
        ));
    }
    let mut list = Signed::<VoterList>::from_bytes(&bytes)
        .map_err(|error| Failed::new(format!("swelld's answer {error}")))?;
    orders::voters(fleet_id(&fleet)?, &operator.load()?, &mut list)?;
    let accepted = client.recover(list.to_bytes()).await?;
    let said = "the fleet goes on from here; hosts count as down until they say what they hold";
    if out.json { out.json(&accepted) } else { out.line(said) }
}

pub(super) async fn hosts(
    client: &Client,
    command: HostsCommand,
    out: Output,
) -> Result<(), Failed> {
    let fleet = client.fleet().await?;
    match command {
        HostsCommand::Remove { name, reason, operator } => {
            remove(client, &fleet, name, reason, &operator, out).await
        }
        HostsCommand::Drain { name, reason, operator } => {
            drain(client, &fleet, name, true, reason, &operator, out).await
        }
        HostsCommand::Undrain { name, reason, operator } => {
            drain(client, &fleet, name, false, reason, &operator, out).await
        }
    }
}

async fn drain(
    client: &Client,
    fleet: &Fleet,
    name: String,
    drained: bool,
    reason: String,
    operator: &OperatorKey,
    out: Output,
) -> Result<(), Failed> {
    let host = host_id(fleet, &name)?;
    let known = fleet.hosts.iter().find(|host| host.name == name);
    let sequence = known.map_or(0, |host| host.drain_sequence) + 1;
    if known.is_some_and(|host| host.drained.is_some() == drained) && !out.json {
        // Whoever tries until there is room comes here, too.
        return out.line(format!("{name} is {} drained", if drained { "already" } else { "not" }));
    }
    let name = name.parse().map_err(not_understood)?;
    let drain = orders::drain_of(host, name, drained, sequence, reason, now());
    let signed = orders::drain(fleet_id(fleet)?, &operator.load()?, &drain)?;
    let accepted = client.drain(signed.to_bytes()).await?;
    let name = drain.name;
    let said = match drained {
        true => {
            format!("{name} counts as down and gets no slot until `swell hosts undrain {name}`")
        }
        false => format!("{name} takes part again"),
    };
    if out.json { out.json(&accepted) } else { out.line(said) }
}

async fn remove(
    client: &Client,
    fleet: &Fleet,
    name: String,
    reason: String,
    operator: &OperatorKey,
    out: Output,
) -> Result<(), Failed> {
    let host = host_id(fleet, &name)?;
    let name = name
        .parse()
        .map_err(|error: groundswell_protocol::ids::Malformed| Failed::new(error.to_string()))?;
    let removal = Removal { host, name, reason, issued_at: now() };
    let key = operator.load()?;
    let signed = orders::removal(fleet_id(fleet)?, &key, &removal)?;
    let accepted = client.removal(signed.to_bytes()).await?;
    let said = format!("{} belongs to the fleet no more; its key is refused", removal.name);
    if out.json { out.json(&accepted) } else { out.line(said) }
}

fn host_id(fleet: &Fleet, name: &str) -> Result<HostId, Failed> {
    let host = fleet.hosts.iter().find(|host| host.name == name).ok_or_else(|| {
        Failed::with_hint(format!("there is no host {name} in the fleet"), "see `swell hosts`")
    })?;
    host.id.parse().map_err(not_understood)
}

/// Hands in whatever was signed elsewhere: an order, the removal or the drain of a host, a list of voters.
pub(super) async fn order(client: &Client, path: &Path, out: Output) -> Result<(), Failed> {
    let bytes = read_start(path, ENVELOPE_BYTES_MAX + 1)?;
    let shown = path.display();
    let accepted = match Signed::<Order>::from_bytes(&bytes) {
        Ok(_) => client.order(bytes).await?,
        Err(error) => match Signed::<Removal>::from_bytes(&bytes) {
            Ok(_) => client.removal(bytes).await?,
            Err(_) if Signed::<VoterList>::from_bytes(&bytes).is_ok() => {
                client.recover(bytes).await?
            }
            Err(_) if Signed::<Drain>::from_bytes(&bytes).is_ok() => client.drain(bytes).await?,
            Err(_) => return Err(Failed::new(format!("{shown} {error}"))),
        },
    };
    if out.json { out.json(&accepted) } else { out.line("the fleet follows it") }
}

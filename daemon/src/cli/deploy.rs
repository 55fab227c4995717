//! What changes the fleet: groups, deploy orders, stops. Each is signed here or elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use groundswell_protocol::{
    ids::{ApplicationName, DeploymentId, Digest, FleetId, GroupName, LabelText, Labels},
    limits::ENVELOPE_BYTES_MAX,
    rollout::MinimumHealthy,
    trust::{Action, Group, Order, SecretKey, Signed},
};
use groundswell_signer::{
    keyfile::{self, KeyRole, Passphrase},
    orders::{self, Fallback, GroupState},
    read_start,
};
use serde::Deserialize;

use super::{Ended, Failed, Output, follow, text::plain, view};
use crate::control::{
    api::{self, Fleet},
    client::Client,
};

/// The operator's key.
#[derive(Args)]
pub(super) struct OperatorKey {
    /// The operator key. Without it, ~/.config/groundswell/operator.key, then
    /// /etc/groundswell/operator.key.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Read the passphrase from the first line of this file instead of the terminal.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct ApplyArguments {
    /// The group's TOML file.
    file: PathBuf,
    #[command(flatten)]
    operator: OperatorKey,
}

#[derive(Args)]
pub(super) struct DeployArguments {
    /// The deployment group.
    #[arg(required_unless_present = "order")]
    group: Option<GroupName>,
    /// The release: its label, or its id.
    #[arg(required_unless_present = "order")]
    release: Option<String>,
    /// Hand this order in, signed elsewhere by `swell-sign order deploy`.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "group", "release", "configuration", "fallback", "no_rollback",
        "ignore_application_stop_failures", "reason", "key", "passphrase_file",
    ])]
    order: Option<PathBuf>,
    /// Replaces the group's configuration: AllAtOnce, HalfAtATime, OneAtATime, count:N or percent:N
    /// hosts that stay healthy.
    #[arg(long)]
    configuration: Option<MinimumHealthy>,
    /// The release to go back to if the deployment fails; without it, the group's last good one.
    #[arg(long, value_name = "RELEASE")]
    fallback: Option<String>,
    /// Leave hosts as they are if the deployment fails.
    #[arg(long, conflicts_with = "fallback")]
    no_rollback: bool,
    /// Go on if the previous revision's ApplicationStop fails.
    #[arg(long)]
    ignore_application_stop_failures: bool,
    /// Why, for those who read the deployment's report.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// End when the order is accepted instead of watching the deployment.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    operator: OperatorKey,
}

#[derive(Args)]
pub(super) struct StopArguments {
    /// The deployment; without it, the one that runs in the fleet, if there is only one.
    id: Option<DeploymentId>,
    /// Hand this order in, signed elsewhere by `swell-sign order stop`.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["id", "reason", "key", "passphrase_file"]
    )]
    order: Option<PathBuf>,
    /// Why, for those who read the deployment's report.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    operator: OperatorKey,
}

impl OperatorKey {
    fn load(&self) -> Result<SecretKey, Failed> {
        let home = std::env::home_dir().map(|home| home.join(".config/groundswell/operator.key"));
        let places = home.into_iter().chain(["/etc/groundswell/operator.key".into()]);
        let path = match &self.key {
            Some(path) => path.clone(),
            None => places.clone().find(|path| path.exists()).ok_or_else(|| {
                let places: Vec<_> = places.map(|path| path.display().to_string()).collect();
                let hint = "name it with --key, or have the order signed with `swell-sign order`";
                let reason = format!("there is no operator key at {}", places.join(" or "));
                Failed::with_hint(reason, hint)
            })?,
        };
        let passphrase =
            self.passphrase_file.clone().map_or(Passphrase::Terminal, Passphrase::File);
        let key = keyfile::load(&path, KeyRole::Operator, &passphrase);
        Ok(key.map_err(groundswell_signer::SignError::from)?)
    }
}

/// A group's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    name: GroupName,
    application: ApplicationName,
    #[serde(default)]
    filter: std::collections::BTreeMap<LabelText, LabelText>,
    configuration: toml::Spanned<String>,
    #[serde(default)]
    minimum_healthy_seconds: u32,
}

pub(super) async fn apply(
    client: &Client,
    arguments: &ApplyArguments,
    out: Output,
) -> Result<(), Failed> {
    let path = arguments.file.display();
    let text = fs::read_to_string(&arguments.file)
        .map_err(|error| Failed::new(format!("{path}: {error}")))?;
    let at = |span: Option<std::ops::Range<usize>>| {
        let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
        before.matches('\n').count() + 1
    };
    let file: GroupFile = toml::from_str(&text).map_err(|error| {
        let (line, message) = (at(error.span()), error.message());
        Failed::with_hint(format!("{path}:{line}: {message}"), GROUP_FILE_HINT)
    })?;
    let minimum_healthy: MinimumHealthy =
        file.configuration.get_ref().parse().map_err(|error| {
            let line = at(Some(file.configuration.span()));
            Failed::new(format!("{path}:{line}: configuration: {error}"))
        })?;
    let fleet = client.fleet().await?;
    let known = fleet.groups.iter().find(|group| group.name == file.name.as_str());
    let group = Group {
        name: file.name,
        filter: Labels::new(file.filter.into_iter().collect())
            .map_err(|error| Failed::new(format!("{path}: filter: {error}")))?,
        version: known.map_or(1, |group| group.version + 1),
        catch_up: false,
        application: file.application,
        configuration: minimum_healthy.into(),
        failure_budget: None,
        automatic_rollback: true,
        deploy_to_new_hosts: false,
        minimum_healthy_seconds: file.minimum_healthy_seconds,
    };
    let key = arguments.operator.load()?;
    let signed = orders::group(fleet_id(&fleet)?, &key, &group)?;
    let accepted = client.group(signed.to_bytes()).await?;
    if out.json {
        out.json(&accepted)
    } else {
        out.line(format!("group {} is at version {}", group.name, group.version))
    }
}

pub(super) async fn deploy(
    client: &Client,
    arguments: DeployArguments,
    out: Output,
) -> Result<Ended, Failed> {
    let handed_in = arguments.order.as_deref().map(|path| read_order(path, Kind::Deploy));
    let handed_in = handed_in.transpose()?;
    let fleet = client.fleet().await?;
    let fleet_id = fleet_id(&fleet)?;
    let signed: Signed<Order> = match handed_in {
        Some(signed) => signed,
        None => sign_deploy(&fleet, fleet_id, &arguments)?,
    };
    client.order(signed.to_bytes()).await?;
    let id = DeploymentId::of(signed.id(fleet_id), false).to_string();
    if arguments.no_wait {
        let begun = serde_json::json!({ "deployment": id });
        out.tell(&begun, format!("{id} has begun; watch it with: swell show {id}"));
        return Ok(Ended::Well);
    }
    if !out.json {
        drop(out.line(format!("{id} has begun")));
    }
    watch(client, &id, out).await
}

/// Watches a deployment, and the rollback that follows it if it fails.
async fn watch(client: &Client, id: &str, out: Output) -> Result<Ended, Failed> {
    let mut progress = follow::Progress::new(out, false);
    let report = follow::to_the_end(client, id, |report| progress.show(report)).await?;
    progress.end();
    finish(&report, out);
    let ended = match report.summary.status.as_str() {
        "succeeded" => Ended::Well,
        "stopped" => Ended::Stopped,
        _ => Ended::Badly,
    };
    if let Some(rollback) = report.related.filter(|_| ended == Ended::Badly) {
        let mut progress = follow::Progress::new(out, false);
        let report = follow::to_the_end(client, &rollback, |report| progress.show(report)).await?;
        progress.end();
        finish(&report, out);
    }
    Ok(ended)
}

fn finish(report: &api::Report, out: Output) {
    let text = match report.summary.status.as_str() {
        "failed" => view::report_text(report),
        _ => view::summary_text(&report.summary),
    };
    out.tell(report, text);
}

fn sign_deploy(
    fleet: &Fleet,
    fleet_id: FleetId,
    arguments: &DeployArguments,
) -> Result<Signed<Order>, Failed> {
    let (Some(name), Some(release)) = (&arguments.group, &arguments.release) else {
        return Err(Failed::new("a group and a release are needed"));
    };
    let group = find_group(fleet, name)?;
    let fallback = match &arguments.fallback {
        _ if arguments.no_rollback => Fallback::Nowhere,
        Some(release) => Fallback::To(find_release(fleet, group, release)?),
        None => Fallback::LastGood,
    };
    let state = state(group)?;
    let mut deploy = state.deploy(find_release(fleet, group, release)?, fallback);
    deploy.configuration = arguments.configuration.map(Into::into);
    deploy.ignore_application_stop_failures = arguments.ignore_application_stop_failures;
    let key = arguments.operator.load()?;
    let (place, reason) = (state.place(), arguments.reason.clone());
    Ok(orders::order(fleet_id, &key, place, Action::Deploy(deploy), reason, now())?)
}

pub(super) async fn stop(
    client: &Client,
    arguments: StopArguments,
    out: Output,
) -> Result<(), Failed> {
    let signed: Signed<Order> = match &arguments.order {
        Some(path) => read_order(path, Kind::Stop)?,
        None => {
            let fleet = client.fleet().await?;
            let running: Vec<_> =
                fleet.deployments.iter().filter(|d| d.status == "in progress").collect();
            let id = match (arguments.id, running.as_slice()) {
                (Some(id), _) => id.to_string(),
                (None, [one]) => one.id.clone(),
                (None, []) => return Err(Failed::new("no deployment is running")),
                (None, _) => {
                    let ids: Vec<_> = running.iter().map(|d| d.id.as_str()).collect();
                    let reason = format!("several deployments run: {}", ids.join(", "));
                    return Err(Failed::with_hint(reason, "say which one to stop"));
                }
            };
            let report = client.report(&id).await?;
            let group = report.summary.group.parse().map_err(not_understood)?;
            let order: Digest = report.order.parse().map_err(not_understood)?;
            let place = state(find_group(&fleet, &group)?)?.place();
            let key = arguments.operator.load()?;
            let action = Action::Stop { order, rollback: false };
            let reason = arguments.reason.clone();
            orders::order(fleet_id(&fleet)?, &key, place, action, reason, now())?
        }
    };
    let accepted = client.order(signed.to_bytes()).await?;
    if out.json {
        out.json(&accepted)
    } else {
        out.line("nothing more begins; hosts in the middle of their lifecycle end it")
    }
}

/// What an order that is handed in must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Deploy,
    Stop,
}

/// Reads an order that was signed elsewhere. Every host verifies it; here only a slip is found, before
/// the fleet follows an order that was meant for another command.
fn read_order(path: &Path, expected: Kind) -> Result<Signed<Order>, Failed> {
    let shown = path.display();
    let untrusted = |error| Failed::new(format!("{shown} {error}"));
    let bytes = read_start(path, ENVELOPE_BYTES_MAX + 1)?;
    let order = Signed::from_bytes(&bytes).map_err(untrusted)?;
    let stops = orders::claims_to_stop(&order).map_err(untrusted)?;
    let (kind, does, command) = match stops {
        true => (Kind::Stop, "stops a deployment", "stop"),
        false => (Kind::Deploy, "starts a deployment", "deploy"),
    };
    if kind != expected {
        let hint = format!("hand it in with `swell {command} --order {shown}`");
        return Err(Failed::with_hint(format!("{shown} is an order that {does}"), hint));
    }
    Ok(order)
}

fn find_group<'a>(fleet: &'a Fleet, name: &GroupName) -> Result<&'a api::Group, Failed> {
    fleet.groups.iter().find(|group| group.name == name.as_str()).ok_or_else(|| {
        let known: Vec<_> = fleet.groups.iter().map(|group| group.name.as_str()).collect();
        let hint = format!("known are: {}; make one with `swell group apply`", list(&known));
        Failed::with_hint(format!("there is no deployment group {name}"), hint)
    })
}

fn find_release(fleet: &Fleet, group: &api::Group, text: &str) -> Result<Digest, Failed> {
    let mut own = fleet.releases.iter().filter(|release| release.application == group.application);
    let found = own.clone().find(|release| release.label == text || release.id == text);
    match found {
        Some(release) => release.id.parse().map_err(not_understood),
        None => {
            let known: Vec<_> = own.by_ref().map(|release| release.label.as_str()).collect();
            let hint = format!("known are: {}; push another with `swell push`", list(&known));
            let (text, application) = (plain(text), &group.application);
            Err(Failed::with_hint(format!("{application} has no release {text} here"), hint))
        }
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn state(group: &api::Group) -> Result<GroupState, Failed> {
    let last_good = group.last_good_release.as_ref().map(|id| id.parse());
    Ok(GroupState {
        name: group.name.parse().map_err(not_understood)?,
        version: group.version,
        sequence: group.sequence,
        head: group.head.parse().map_err(not_understood)?,
        last_good_release: last_good.transpose().map_err(not_understood)?,
    })
}

fn fleet_id(fleet: &Fleet) -> Result<FleetId, Failed> {
    fleet.id.parse().map_err(not_understood)
}

fn not_understood(error: groundswell_protocol::ids::Malformed) -> Failed {
    Failed::with_hint(format!("swelld's answer: {error}"), "update the older of swell and swelld")
}

fn now() -> groundswell_protocol::time::UnixSeconds {
    crate::clock::Clock::start().wall()
}

const GROUP_FILE_HINT: &str = "a group's file has name, application, configuration, and if wanted \
    filter and minimum_healthy_seconds";

#[cfg(test)]
mod tests {
    use groundswell_protocol::trust::Signer;
    use groundswell_signer::orders::FleetState;

    use super::*;

    fn group() -> api::Group {
        api::Group {
            name: "web".into(),
            application: "shop".into(),
            filter: String::new(),
            version: 3,
            configuration: "OneAtATime".into(),
            hosts: Vec::new(),
            down: Vec::new(),
            quota: 1,
            last_good: Some("1".into()),
            last_good_release: Some(Digest([1; 32]).to_string()),
            sequence: 7,
            head: Digest([7; 32]).to_string(),
            running: None,
        }
    }

    #[test]
    fn the_signer_reads_of_a_group_what_this_command_knows_of_it() {
        let fleet = serde_json::json!({"id": FleetId([9; 32]), "groups": [group()]});
        let read: FleetState = serde_json::from_value(fleet).unwrap();
        let known = state(&group()).unwrap();
        assert_eq!(format!("{:?}", read.groups), format!("{:?}", [known]));
    }

    #[test]
    fn an_order_for_another_command_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let key = SecretKey::from_seed(&[1; 32]);
        assert!(key.public_key().is_strong());
        let state = state(&group()).unwrap();
        let write = |name: &str, action| {
            let (place, reason) = (state.place(), String::new());
            let order = orders::order(FleetId([9; 32]), &key, place, action, reason, now());
            let path = dir.path().join(name);
            fs::write(&path, order.unwrap().to_bytes()).unwrap();
            path
        };
        let deploy = write("d", Action::Deploy(state.deploy(Digest([2; 32]), Fallback::Nowhere)));
        let stop = write("s", Action::Stop { order: Digest([7; 32]), rollback: false });
        assert!(read_order(&deploy, Kind::Deploy).is_ok() && read_order(&stop, Kind::Stop).is_ok());
        for (path, kind, message, hint) in [
            (&deploy, Kind::Stop, "is an order that starts a deployment", "swell deploy --order"),
            (&stop, Kind::Deploy, "is an order that stops a deployment", "swell stop --order"),
        ] {
            let refused = read_order(path, kind).unwrap_err();
            assert!(refused.to_string().contains(message), "{refused}");
            assert!(refused.hint().unwrap().contains(hint) && refused.code() == 1);
        }
    }
}

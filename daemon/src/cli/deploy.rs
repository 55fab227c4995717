//! What changes the fleet: groups and deploy orders. Each is signed here or elsewhere.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use groundswell_protocol::{
    ids::{DeploymentId, Digest, FleetId, GroupName},
    limits::ENVELOPE_BYTES_MAX,
    revision::FileExistsBehavior,
    rollout::MinimumHealthy,
    trust::{Action, Group, Order, SecretKey, Signed},
};
use groundswell_signer::{
    group_file, inspect,
    keyfile::{self, KeyRole, Passphrase},
    orders::{self, CanaryArguments, Fallback, GroupState},
    read_start,
};

use super::{
    Ended, Failed, Output,
    follow::{self, LOOK_EVERY},
    text::plain,
    view,
};
use crate::control::{
    api::{self, Applied, Fleet},
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
    /// The group's TOML file, or what `swell-sign group` made of it.
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
        "group", "release", "configuration", "canary", "bake", "queue", "only_outdated", "fallback",
        "no_rollback",
        "file_exists_behavior", "ignore_application_stop_failures", "reason", "key", "passphrase_file",
    ])]
    order: Option<PathBuf>,
    /// Another floor than the group's, for this deployment: AllAtOnce, HalfAtATime, OneAtATime, count:N
    /// or percent:N hosts that stay healthy. Canary, waves, zones and deadlines stay the group's.
    #[arg(long)]
    configuration: Option<MinimumHealthy>,
    #[command(flatten)]
    canary: CanaryArguments,
    /// Wait for the turn if a deployment of the group runs already, instead of being refused.
    #[arg(long)]
    queue: bool,
    /// Leave hosts alone that run the release already.
    #[arg(long)]
    only_outdated: bool,
    /// The release to go back to if the deployment fails; without it, the group's last good one.
    #[arg(long, value_name = "RELEASE")]
    fallback: Option<String>,
    /// If the deployment fails, leave the hosts that took the release on it. A host on which it fails
    /// goes back to what it ran in any case.
    #[arg(long, conflicts_with = "fallback")]
    no_rollback: bool,
    /// What to do with files in the way that no revision put there: DISALLOW, OVERWRITE or RETAIN.
    /// What the appspec says wins.
    #[arg(long, value_name = "BEHAVIOR", value_parser = inspect::file_exists_behavior)]
    file_exists_behavior: Option<FileExistsBehavior>,
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

impl OperatorKey {
    pub(super) fn load(&self) -> Result<SecretKey, Failed> {
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

pub(super) async fn apply(
    client: &Client,
    arguments: &ApplyArguments,
    out: Output,
) -> Result<(), Failed> {
    let bytes = read_start(&arguments.file, ENVELOPE_BYTES_MAX + 1)?;
    if let Ok(signed) = Signed::<Group>::from_bytes(&bytes) {
        return apply_signed(client, &arguments.file, &signed, out).await;
    }
    let mut group = group_file::load(&arguments.file)?;
    let fleet = client.fleet().await?;
    let known = client.settings(&group.name).await?;
    group.version = known.as_ref().map_or(1, |known| known.version);
    let changed = known.as_ref() != Some(&group);
    let mut index = fleet.applied;
    if changed {
        group.version += u64::from(known.is_some());
        let key = arguments.operator.load()?;
        let signed = orders::group(fleet_id(&fleet)?, &key, &group)?;
        index = client.group(signed.to_bytes()).await?.index;
    }
    let (group, version) = (group.name.to_string(), group.version);
    applied(&Applied { index, group, version, changed }, out)
}

/// Hands a group in that was signed elsewhere.
async fn apply_signed(
    client: &Client,
    path: &Path,
    signed: &Signed<Group>,
    out: Output,
) -> Result<(), Failed> {
    let wrong = |error: &dyn std::fmt::Display| Failed::new(format!("{} {error}", path.display()));
    let (group, version) = orders::claimed_group(signed).map_err(|error| wrong(&error))?;
    let known = client.settings(&group.parse().map_err(|error| wrong(&error))?).await?;
    let index = client.group(signed.to_bytes()).await?.index;
    // The same version is taken again only if it is the same group.
    let changed = known.is_none_or(|known| known.version != version);
    applied(&Applied { index, group, version, changed }, out)
}

fn applied(applied: &Applied, out: Output) -> Result<(), Failed> {
    if out.json {
        return out.json(applied);
    }
    let Applied { group, version, .. } = applied;
    out.line(match applied.changed {
        true => format!("group {group} is at version {version}"),
        false => format!("group {group} is unchanged, at version {version}: nothing to do"),
    })
}

pub(super) async fn deploy(
    client: &Client,
    arguments: DeployArguments,
    out: Output,
) -> Result<Ended, Failed> {
    let handed_in = arguments.order.as_deref().map(|path| read_order(path, "Deploy"));
    let handed_in = handed_in.transpose()?;
    let fleet = knowing(client, &arguments).await?;
    let fleet_id = fleet_id(&fleet)?;
    let signed: Signed<Order> = match handed_in {
        Some(signed) => signed,
        None => sign_deploy(&fleet, fleet_id, &arguments)?,
    };
    client.order(signed.to_bytes()).await?;
    let id = DeploymentId::of(signed.id(fleet_id), false).to_string();
    begun(client, &id, arguments.no_wait, out).await
}

/// The fleet as this host sees it; after a little while, where it has not heard of what is to be
/// deployed: whoever pushed that at another host a moment ago is ahead of the news.
async fn knowing(client: &Client, arguments: &DeployArguments) -> Result<Fleet, Failed> {
    let (Some(group), Some(release)) = (&arguments.group, &arguments.release) else {
        return Ok(client.fleet().await?);
    };
    let until = Instant::now() + NEWS_AWAITED_MAX;
    loop {
        let fleet = client.fleet().await?;
        let known = find_group(&fleet, group).and_then(|own| find_release(&fleet, own, release));
        if known.is_ok() || Instant::now() >= until {
            return Ok(fleet);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Tells of a deployment whose order was accepted, and watches it unless that is not wanted.
pub(super) async fn begun(
    client: &Client,
    id: &str,
    no_wait: bool,
    out: Output,
) -> Result<Ended, Failed> {
    if no_wait {
        let begun = api::Ordered { deployment: id.to_owned() };
        out.tell(&begun, format!("{id} is ordered; watch it with: swell show {id}"));
        return Ok(Ended::Well);
    }
    if !out.json {
        drop(out.line(format!("{id} is ordered")));
    }
    watch(client, id, out).await
}

/// Watches a deployment, and the rollback that follows it if it fails. An interrupt ends the watching
/// and not the deployment.
async fn watch(client: &Client, id: &str, out: Output) -> Result<Ended, Failed> {
    let Some(report) = watch_one(client, id, out).await? else { return Ok(Ended::Interrupted) };
    let ended = ended(&report);
    if let Some(rollback) = report.related.filter(|_| ended == Ended::Badly)
        && watch_one(client, &rollback, out).await?.is_none()
    {
        return Ok(Ended::Interrupted);
    }
    Ok(ended)
}

/// How a deployment that is over ended for whoever watched it.
pub(super) fn ended(report: &api::Report) -> Ended {
    match report.summary.status.as_str() {
        "succeeded" => Ended::Well,
        "stopped" => Ended::Stopped,
        _ => Ended::Badly,
    }
}

/// Watches one deployment; none if it was interrupted.
async fn watch_one(client: &Client, id: &str, out: Output) -> Result<Option<api::Report>, Failed> {
    let mut progress = follow::Progress::new(out, false);
    let report = tokio::select! {
        report = follow::to_the_end(client, id, |report| progress.show(report)) => Some(report?),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(Failed::Output)?;
            None
        }
    };
    progress.end();
    match &report {
        Some(report) => finish(report, out),
        None => eprintln!(
            "swell: {id} goes on without being watched\nswell: hint: see it with `swell show {id}`, \
             watch it with `swell status --watch`, stop it with `swell stop {id}`"
        ),
    }
    Ok(report)
}

fn finish(report: &api::Report, out: Output) {
    let text = match report.summary.status.as_str() {
        "failed" => view::report_text(report),
        _ => ended_text(report),
    };
    out.tell(report, text);
}

/// How a deployment ended, and where to read on if it did not end well everywhere.
fn ended_text(report: &api::Report) -> String {
    let mut text = view::summary_text(&report.summary);
    let failed = report.targets.iter().filter(|target| target.status == "failed");
    let failed: Vec<_> = failed.map(|target| target.host.as_str()).collect();
    if !failed.is_empty() {
        let (some, id) = (&failed[..failed.len().min(NAMED_MAX)], &report.summary.id);
        let more = failed.len() - some.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text.push_str(&format!("\nfailed on {}{more}: see `swell show {id}`", list(some)));
    }
    if let Some(held) = view::held_text(&report.summary) {
        text.push_str(&format!("\n{held}"));
    }
    text
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
    let in_line = fleet.deployments.iter().find(|d| d.group == group.name && !d.is_over());
    let fallback = match (&arguments.fallback, in_line) {
        _ if arguments.no_rollback => Fallback::Nowhere,
        (Some(release), _) => Fallback::To(find_release(fleet, group, release)?),
        // When its turn comes, the last good release is the one before it in the line. If that fails,
        // the fleet goes back to neither.
        (None, Some(before)) if arguments.queue && group.automatic_rollback => {
            Fallback::To(find_release(fleet, group, &before.label)?)
        }
        (None, _) => Fallback::LastGood,
    };
    let state = state(group)?;
    let mut deploy = state.deploy(find_release(fleet, group, release)?, fallback);
    deploy.queue = arguments.queue;
    deploy.only_outdated = arguments.only_outdated;
    deploy.configuration =
        state.configuration(arguments.configuration, arguments.canary.canary())?;
    deploy.file_exists_behavior = arguments.file_exists_behavior;
    deploy.ignore_application_stop_failures = arguments.ignore_application_stop_failures;
    let key = arguments.operator.load()?;
    let (place, reason) = (state.place(), arguments.reason.clone());
    Ok(orders::order(fleet_id, &key, place, Action::Deploy(deploy), reason, now())?)
}

/// Reads an order that was signed elsewhere, and that asks for what its command is about. Every host
/// verifies it; here only a slip is found, before the fleet follows an order that was meant for another
/// command.
pub(super) fn read_order(path: &Path, expected: &str) -> Result<Signed<Order>, Failed> {
    let shown = path.display();
    let untrusted = |error| Failed::new(format!("{shown} {error}"));
    let bytes = read_start(path, ENVELOPE_BYTES_MAX + 1)?;
    let order = Signed::from_bytes(&bytes).map_err(untrusted)?;
    let claimed = orders::claimed_action(&order).map_err(untrusted)?;
    if claimed != expected {
        let (does, command) = match claimed.as_str() {
            "Deploy" => ("starts a deployment", "deploy --order"),
            "Stop" => ("stops a deployment", "stop --order"),
            _ => ("does something else", "order"),
        };
        let hint = format!("hand it in with `swell {command} {shown}`");
        return Err(Failed::with_hint(format!("{shown} is an order that {does}"), hint));
    }
    Ok(order)
}

pub(super) fn find_group<'a>(fleet: &'a Fleet, name: &GroupName) -> Result<&'a api::Group, Failed> {
    fleet.groups.iter().find(|group| group.name == name.as_str()).ok_or_else(|| {
        let known: Vec<_> = fleet.groups.iter().map(|group| group.name.as_str()).collect();
        let hint = format!("known are: {}; make one with `swell group apply`", list(&known));
        Failed::with_hint(format!("there is no deployment group {name}"), hint)
    })
}

pub(super) fn find_release(
    fleet: &Fleet,
    group: &api::Group,
    text: &str,
) -> Result<Digest, Failed> {
    let mut own = fleet.releases.iter().filter(|release| release.application == group.application);
    let found = own.clone().find(|release| release.label == text || release.id == text);
    match found {
        Some(release) => release.id.parse().map_err(not_understood),
        None => {
            let known: Vec<_> = own.by_ref().map(|release| release.label.as_str()).collect();
            let hint = format!(
                "known are: {}; see `swell releases`, or push another with `swell push`",
                list(&known)
            );
            let (text, application) = (plain(text), &group.application);
            Err(Failed::with_hint(format!("{application} has no release {text} here"), hint))
        }
    }
}

pub(super) fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

pub(super) fn state(group: &api::Group) -> Result<GroupState, Failed> {
    let last_good = group.last_good_release.as_ref().map(|id| id.parse());
    let way_back = group.way_back.as_ref().map(|id| id.parse());
    Ok(GroupState {
        name: group.name.parse().map_err(not_understood)?,
        version: group.version,
        sequence: group.sequence,
        head: group.head.parse().map_err(not_understood)?,
        last_good_release: last_good.transpose().map_err(not_understood)?,
        way_back: way_back.transpose().map_err(not_understood)?,
        automatic_rollback: group.automatic_rollback,
        settings: group.settings.clone(),
    })
}

pub(super) fn fleet_id(fleet: &Fleet) -> Result<FleetId, Failed> {
    fleet.id.parse().map_err(not_understood)
}

pub(super) fn not_understood(error: groundswell_protocol::ids::Malformed) -> Failed {
    Failed::with_hint(format!("swelld's answer: {error}"), "update the older of swell and swelld")
}

pub(super) fn now() -> groundswell_protocol::time::UnixSeconds {
    crate::clock::Clock::start().wall()
}

/// News is everywhere within two seconds in a fleet of ten thousand hosts (simulations/README.md).
const NEWS_AWAITED_MAX: Duration = Duration::from_secs(2);
/// The others are in the report.
const NAMED_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
    };

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
            way_back: Some(Digest([1; 32]).to_string()),
            sequence: 7,
            head: Digest([7; 32]).to_string(),
            running: None,
            queue: Vec::new(),
            frozen: None,
            wait_for_order: Vec::new(),
            catch_up: true,
            deploy_to_new_hosts: true,
            automatic_rollback: true,
            failure_budget: None,
            settings: Some("name = \"web\"\n".into()),
        }
    }

    #[test]
    fn the_signer_reads_of_a_group_what_this_command_knows_of_it() {
        let fleet = serde_json::json!({"id": FleetId([9; 32]), "groups": [group()]});
        let read: FleetState = serde_json::from_value(fleet).unwrap();
        let known = state(&group()).unwrap();
        assert_eq!(format!("{:?}", read.groups), format!("{:?}", [known]));
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: DeployArguments,
    }

    /// A daemon that knows a release from the `news`th question on.
    fn daemon(socket: &Path, news: usize) {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            for (asked, stream) in (1..).zip(listener.incoming()) {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                let release = serde_json::json!({"id": Digest([2; 32]), "application": "shop",
                    "label": "2", "content_bytes": 0, "created_at": 0});
                let releases = if asked >= news { vec![release] } else { Vec::new() };
                let fleet = serde_json::json!({"version": api::VERSION, "id": FleetId([9; 32]),
                    "name": "test", "root_threshold": 1, "root_keys": 1, "me": "a", "joined": true,
                    "turned_away": null, "executor": true, "leader": null, "applied": 1, "hosts": [],
                    "groups": [group()], "releases": releases, "slots": [], "voters": [], "deployments": []});
                let body = fleet.to_string();
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                    .unwrap();
            }
        });
    }

    #[tokio::test]
    async fn what_is_not_known_yet_is_awaited_for_a_moment() {
        use clap::Parser;
        let dir = tempfile::tempdir().unwrap();
        let Line { arguments } = Line::parse_from(["deploy", "web", "2"]);
        let begun = Instant::now();
        for (name, news, known) in [("known", 1, 1), ("soon", 4, 1), ("never", usize::MAX, 0)] {
            let socket = dir.path().join(name);
            daemon(&socket, news);
            let fleet = knowing(&Client::new(&socket), &arguments).await.unwrap();
            assert_eq!(fleet.releases.len(), known, "{name}");
            assert_eq!(begun.elapsed() >= NEWS_AWAITED_MAX, name == "never");
        }
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
        let pause = write("p", Action::Pause { order: Digest([7; 32]) });
        assert!(read_order(&deploy, "Deploy").is_ok() && read_order(&stop, "Stop").is_ok());
        for (path, kind, message, hint) in [
            (&deploy, "Stop", "is an order that starts a deployment", "swell deploy --order"),
            (&stop, "Deploy", "is an order that stops a deployment", "swell stop --order"),
            (&pause, "Deploy", "is an order that does something else", "swell order"),
        ] {
            let refused = read_order(path, kind).unwrap_err();
            assert!(refused.to_string().contains(message), "{refused}");
            assert!(refused.hint().unwrap().contains(hint) && refused.code() == 1);
        }
    }
}

//! What is believed before anything is done: every signature, the order's place, the receipts.
//!
//! Nothing here trusts `swelld`, a peer or a leader. A host runs a release when the release role says
//! that the content may exist, the operator role says that this group moves to it now, enrolment says
//! that this host is in the group, and a majority of voters says that the host may be disrupted.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use groundswell_protocol::{
    execute::{self, Evidence, Lifecycle, LifecycleEvent, Stopped},
    ids::{DeploymentId, Digest, GroupName, HostId, Nonce},
    limits::{MANIFEST_BYTES_MAX, QUEUED_DEPLOYMENTS_MAX, RECEIPT_AGE_MAX},
    revision::Manifest,
    time::UnixSeconds,
    trust::{
        Action, Deploy, Electorate, Group, MemberRefused, Order, Receipt, Release, Signed, Subject,
        Trust, TrustBundle, Verified, VoterList,
    },
};

use crate::{
    clock::BootTime,
    config::Config,
    deployment::{Deployment, DeploymentName, Event},
    journal::{self, GroupState, Installed},
    policy, regular,
};

/// What this host believes. Read from its own state directory, which only root writes.
pub(crate) struct Belief {
    pub(crate) trust: Trust,
    pub(crate) host: HostId,
    /// Who votes. It never goes back: what old voters say, or whoever has their keys, counts no more.
    pub(crate) electorate: Electorate,
}

impl Belief {
    /// Reads it; the message says what is missing.
    pub(crate) fn read(config: &Config) -> Result<Self, String> {
        let hint = "this host has not joined a fleet: run `swell join`";
        let (trust, host) = (config.trust_file(), config.host_file());
        let bytes = fs::read(&trust).map_err(|e| format!("{}: {e}: {hint}", trust.display()))?;
        let text =
            fs::read_to_string(&host).map_err(|e| format!("{}: {e}: {hint}", host.display()))?;
        let trust = TrustBundle::from_bytes(&bytes)
            .and_then(|bundle| Trust::new(bundle, None))
            .map_err(|error| format!("{}: {error}", trust.display()))?;
        let host = text.trim().parse().map_err(|error| format!("{}: {error}", host.display()))?;
        let mut electorate = Electorate::of(&trust);
        let voters = config.voters_file(trust.fleet());
        if voters.exists() {
            let lists: Vec<Signed<VoterList>> =
                journal::read_sealed(&voters).map_err(|error| error.to_string())?;
            for list in &lists {
                let believed = electorate.extend(&trust, list);
                believed.map_err(|error| format!("{}: {error}", voters.display()))?;
            }
        }
        Ok(Self { trust, host, electorate })
    }

    /// Who votes after these lists, if they are news, written down.
    pub(crate) fn with_voters(
        &self,
        config: &Config,
        lists: &[Signed<VoterList>],
    ) -> Result<Option<Self>, String> {
        let mut electorate = self.electorate.clone();
        if !electorate.extend_by(&self.trust, lists) {
            return Ok(None);
        }
        let all = electorate.after(self.trust.genesis().generation).to_vec();
        journal::write_sealed(&config.voters_file(self.trust.fleet()), &all)
            .map_err(|error| format!("the list of voters cannot be written: {error}"))?;
        Ok(Some(Self { trust: self.trust.clone(), host: self.host, electorate }))
    }
}

/// Evidence that was found good.
pub(crate) struct Judged {
    pub(crate) group: Verified<Group>,
    pub(crate) order: Digest,
    pub(crate) deploy: Deploy,
    pub(crate) release: Verified<Release>,
    pub(crate) manifest: Manifest,
    pub(crate) deployment: DeploymentName,
}

impl Judged {
    /// What is to be done, now that it was found good.
    pub(crate) fn into_deployment(self) -> Deployment {
        let (release, group) = (self.release.content(), self.group.content());
        let configuration = self.deploy.configuration.as_ref().unwrap_or(&group.configuration);
        let deadline = configuration.event_deadline_seconds;
        Deployment {
            group: group.name.clone(),
            group_name: group.name.to_string(),
            application: release.application.to_string(),
            installs: Installed {
                release: self.release.id(),
                label: release.label.clone(),
                manifest: release.manifest,
                deployment: self.deployment,
            },
            lifecycle: Lifecycle::InPlace,
            events: LifecycleEvent::IN_PLACE.map(Event::Known).into(),
            custom: BTreeMap::new(),
            file_exists_behavior: self.deploy.file_exists_behavior,
            ignore_application_stop_failures: self.deploy.ignore_application_stop_failures,
            event_deadline: deadline.map(|seconds| Duration::from_secs(seconds.into())),
            goes_back: true,
            manifest: self.manifest,
        }
    }
}

/// Extends the group's chain by `orders`, each the one that follows. All are taken, or none.
///
/// The fleet keeps no order for which a slot can be held no more, so whoever was away for long finds a gap
/// before the first. With `skips` that is passed over, and true comes back: a chain is taken up so when
/// voters vouch for a slot of an order in it, and not before. Else whoever had one signature of an operator
/// could end the chain of a host for good, by an order with the highest of all numbers.
///
/// In the same way a chain is taken up that another one came in the place of, once operators have let the
/// fleet go on after its voters were lost, and orders with them. What was begun is ended all the same.
pub(crate) fn extend(
    belief: &Belief,
    state: &mut GroupState,
    orders: &[Signed<Order>],
    skips: bool,
) -> Result<bool, String> {
    let mut next = state.clone();
    let mut skipped = belief.electorate.was_recovered()
        && execute::was_lost(&belief.trust, (state.sequence, state.head), orders);
    if skipped && !skips {
        return Ok(false);
    }
    if skipped {
        (next.sequence, next.head) = (0, Digest::ZERO);
        next.deploys.clear();
    }
    let before = next.sequence;
    for signed in orders {
        let order = belief.trust.order(signed).map_err(|error| format!("the order {error}"))?;
        let content = order.content();
        if content.group != state.group {
            return Err(format!("an order is for group {}, not {}", content.group, state.group));
        }
        if content.sequence <= before {
            // Known already: the daemon's view of this journal was old.
            continue;
        }
        let is_first = next.sequence == before;
        if skips && is_first && content.sequence > next.sequence.saturating_add(1) {
            next.deploys.clear();
            skipped = true;
        } else if next.sequence.checked_add(1) != Some(content.sequence)
            || content.parent != next.head
        {
            return Err(format!(
                "order {} does not follow order {}: it was replayed, forked, or one is missing",
                content.sequence, next.sequence
            ));
        }
        (next.sequence, next.head) = (content.sequence, order.id());
        heed(belief, &mut next, signed, content);
    }
    let surplus = next.stopped.len().saturating_sub(STOPS_KEPT);
    next.stopped.drain(..surplus);
    *state = next;
    Ok(skipped)
}

/// What an order changes, beside the chain.
fn heed(belief: &Belief, state: &mut GroupState, signed: &Signed<Order>, order: &Order) {
    match &order.action {
        Action::Deploy(deploy) if deploy.queue => {
            state.deploys.push(signed.clone());
            // The ledger takes no more: those before were begun or stopped.
            let surplus = state.deploys.len().saturating_sub(QUEUED_DEPLOYMENTS_MAX + 1);
            state.deploys.drain(..surplus);
        }
        Action::Deploy(_) | Action::Rollback(_) => state.deploys = vec![signed.clone()],
        Action::Stop { order, rollback } => {
            state.stopped.push(Stopped { order: *order, rollback: *rollback });
        }
        // Whether hosts get slots just now is for the voters to say.
        Action::Pause { .. } | Action::Resume { .. } | Action::Freeze | Action::Unfreeze => {}
        Action::ReleaseSlot { host, token } if *host == belief.host => state.release(*token),
        // What is waived is the fleet's waiting. What this host holds it says itself.
        Action::ReleaseSlot { .. } | Action::Waive { .. } => {}
    }
}

/// Judges evidence against the group's chain, which it has extended before.
pub(crate) fn judge(
    config: &Config,
    belief: &Belief,
    state: &GroupState,
    evidence: &Evidence,
    begins: bool,
) -> Result<Judged, String> {
    let trust = &belief.trust;
    let certificate = |error| format!("this host's certificate: {error}");
    let member =
        evidence.cert.verify_though_expired(trust, &belief.electorate).map_err(certificate)?;
    if member.content().host != belief.host {
        return Err("the certificate is another host's".into());
    }
    let group = trust.group(&evidence.group).map_err(|error| format!("the group {error}"))?;
    if group.content().name != state.group {
        return Err(format!("the group is {}, not {}", group.content().name, state.group));
    }
    // What was begun is ended, whatever has become of the host's labels meanwhile.
    if begins && !group.content().filter.matches(&member.content().labels) {
        return Err(format!("this host is not in group {}", state.group));
    }
    let Followed { deploy, issued_at, not_after, goes_back } =
        deploy_order(belief, state, evidence.order, begins)?;
    if deploy.group_version != group.content().version {
        return Err(format!(
            "the order is for version {} of the group, not {}",
            deploy.group_version,
            group.content().version
        ));
    }
    let release =
        trust.release(&evidence.release).map_err(|error| format!("the release {error}"))?;
    let rollback = release.id() != deploy.release;
    if rollback && Some(release.id()) != deploy.fallback {
        return Err("the order names neither this release nor this fallback".into());
    }
    if begins && state.stopped.iter().any(|stop| stop.covers(evidence.order, rollback)) {
        return Err("the order was stopped".into());
    }
    // Time ends what would be new here, and neither what was begun nor the way back.
    if begins && !rollback && !goes_back {
        evidence.cert.verify(trust, &belief.electorate, now()).map_err(|error| match error {
            MemberRefused::Expired { .. } => format!("{}; {}", certificate(error), by_clock(now())),
            error => certificate(error),
        })?;
        // Where the operators want hosts to come late to what the others run, they may.
        let settings = group.content();
        let late = settings.catch_up || settings.deploy_to_new_hosts;
        if let Some(end) = not_after.filter(|end| !late && *end < now()) {
            return Err(format!(
                "the order's time is over: it may begin from {issued_at} until {end}; {}",
                by_clock(now())
            ));
        }
    }
    if begins {
        fits(release.content(), group.content(), member.content())?;
    }
    let deployment = DeploymentId::of(evidence.order, rollback).into();
    let own = config.own_manifest(&state.group, deployment);
    // Once a revision was laid out here, the store of `swelld` is not needed any more.
    let manifest = read_manifest(&own, release.content()).or_else(|_| {
        read_manifest(&config.manifest_file(&release.content().manifest), release.content())
    })?;
    // What was begun before the settings forbade it goes on, and so does the way back.
    if begins {
        policy::check(config, &manifest.spec)?;
    }
    Ok(Judged { group, order: evidence.order, deploy, release, manifest, deployment })
}

/// The order that a host follows.
struct Followed {
    deploy: Deploy,
    /// When it was signed, by the signer's clock.
    issued_at: UnixSeconds,
    /// When its time is over.
    not_after: Option<UnixSeconds>,
    /// It rolls the group back.
    goes_back: bool,
}

/// The order to follow. One that begins is among those that may be followed. One that goes on is the one
/// that was begun, whatever came after it: a slot that is held must come to an end.
fn deploy_order(
    belief: &Belief,
    state: &GroupState,
    id: Digest,
    begins: bool,
) -> Result<Followed, String> {
    let fleet = belief.trust.fleet();
    let begun = state.activation.as_ref().filter(|_| !begins).map(|begun| &begun.deploy);
    if begun.is_none() && state.deploys.is_empty() {
        return Err("no deploy order is known".into());
    }
    let candidates = begun.into_iter().chain(state.deploys.iter().filter(|_| begun.is_none()));
    let signed = candidates.into_iter().find(|signed| signed.id(fleet) == id);
    let signed = signed.ok_or("a newer order has replaced this one")?;
    let order = belief.trust.order(signed).map_err(|error| format!("the order {error}"))?;
    let Order { issued_at, not_after, .. } = *order.content();
    let (deploy, goes_back) = match &order.content().action {
        Action::Deploy(deploy) => (deploy.clone(), false),
        Action::Rollback(deploy) => (deploy.clone(), true),
        _ => return Err("the order is no deploy order".into()),
    };
    Ok(Followed { deploy, issued_at, not_after, goes_back })
}

/// Whoever reads that a time is over asks first whose clock says so.
fn by_clock(now: UnixSeconds) -> String {
    format!("by this host's clock it is {now}: set that if it is wrong, else sign a new one")
}

/// True if the release may run in this group on this host.
fn fits(
    release: &Release,
    group: &Group,
    member: &groundswell_protocol::trust::Member,
) -> Result<(), String> {
    if release.application != group.application {
        return Err(format!(
            "the release is of application {}, the group runs {}",
            release.application, group.application
        ));
    }
    if let Some(architecture) = &release.architecture
        && architecture.as_str() != std::env::consts::ARCH
    {
        let here = std::env::consts::ARCH;
        return Err(format!("the release is for {architecture}, this machine is {here}"));
    }
    let environment = member.labels.get("environment");
    let welcome = release.environments.is_empty()
        || environment.is_some_and(|here| release.environments.contains(here));
    if !welcome {
        let here = environment.map_or("none", |here| here.as_str());
        return Err(format!("the release may not run in this host's environment ({here})"));
    }
    Ok(())
}

fn read_manifest(path: &Path, release: &Release) -> Result<Manifest, String> {
    let bytes = regular::read(path, MANIFEST_BYTES_MAX)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Manifest::of_release(&bytes, release).map_err(|error| error.to_string())
}

/// A number that was drawn for one claim, and when.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) group: GroupName,
    pub(crate) order: Digest,
    pub(crate) release: Digest,
    pub(crate) nonce: Nonce,
    pub(crate) drawn_at: BootTime,
}

impl Prepared {
    /// Refuses what voters said too long ago: they may have thought better of it.
    pub(crate) fn check_age(&self) -> Result<(), String> {
        if self.drawn_at.elapsed() <= RECEIPT_AGE_MAX {
            return Ok(());
        }
        let seconds = RECEIPT_AGE_MAX.as_secs();
        Err(format!("the receipts are older than {seconds} s: prepare again"))
    }
}

/// Believes that a majority of voters lets this host be disrupted, now.
pub(crate) fn check_receipts(
    belief: &Belief,
    prepared: &Prepared,
    judged: &Judged,
    token: u64,
    receipts: &[Signed<Receipt>],
) -> Result<(), String> {
    let release = judged.release.id();
    if (&prepared.group, prepared.order, prepared.release)
        != (&judged.group.content().name, judged.order, release)
    {
        return Err("the receipts were prepared for something else: prepare again".into());
    }
    prepared.check_age()?;
    let (all, fleet) = (belief.electorate.newest(), belief.trust.fleet());
    let subject =
        Subject::Slot { host: belief.host, nonce: prepared.nonce, order: judged.order, release };
    all.check_receipts(fleet, &subject, token, receipts).map_err(|error| error.to_string())
}

pub(crate) fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixSeconds(since.as_secs())
}

/// Stops of orders that are long over are of no interest: only the newest deploy order is followed.
const STOPS_KEPT: usize = 64;

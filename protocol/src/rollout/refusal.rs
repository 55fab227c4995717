//! Why an entry does not become part of the ledger.

use thiserror::Error;

use super::waiting::join;
use crate::{
    ids::{DeploymentId, Digest, GroupName, HostId, HostName, ReleaseLabel},
    limits::{
        GROUPS_BYTES_MAX, GROUPS_MAX, GROUPS_PER_HOST_MAX, HOSTS_MAX, QUEUED_DEPLOYMENTS_MAX,
        RELEASES_BYTES_MAX, RELEASES_KEPT_PER_APPLICATION,
    },
    time::UnixSeconds,
    trust::{MemberRefused, Untrusted, VotersRefused},
};

/// Why an entry was refused. The ledger is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Signatures are missing or wrong, or the content breaks a rule.
    #[error("the {what} {source}")]
    Untrusted {
        /// What was handed in.
        what: &'static str,
        /// What is wrong with it.
        source: Untrusted,
    },
    /// The certificate is not good.
    #[error(transparent)]
    Member(#[from] MemberRefused),
    /// The token has enrolled as many hosts as it may.
    #[error("this join token has been used {uses} times, as often as it may: ask for a new one")]
    TokenUsedUp {
        /// Its limit.
        uses: u32,
    },
    /// The token's time is over.
    #[error("this join token was good until {until}: ask for a new one")]
    TokenExpired {
        /// The end of its time.
        until: UnixSeconds,
    },
    /// Another certificate of the same key is in force, and this one does not say that it is newer.
    #[error(
        "host {name} has a certificate of incarnation {incarnation}: approve the new one with \
         `swell-sign host --incarnation` and a higher number"
    )]
    NotNewer {
        /// The host.
        name: HostName,
        /// Of the certificate in force.
        incarnation: u64,
    },
    /// A certificate that carries receipts already.
    #[error("a certificate is handed in without receipts: they are what comes back")]
    WithReceipts,
    /// No more hosts than this version is built for.
    #[error("the fleet has {HOSTS_MAX} hosts, the most that this version is built for")]
    FleetFull,
    /// A host's record has room for so many groups.
    #[error(
        "host {host} would be in more than {GROUPS_PER_HOST_MAX} groups: narrow the filter or its \
         labels"
    )]
    TooManyGroups {
        /// The host.
        host: HostName,
    },
    /// Another host has the name.
    #[error(
        "the name {name} belongs to another host: choose another name, or approve this one in its \
         place with `swell-sign host --incarnation`"
    )]
    NameTaken {
        /// The name.
        name: HostName,
    },
    /// The host is no member.
    #[error("host {0} is no member of the fleet")]
    UnknownHost(String),
    /// Nothing newer is known of the host than what it said before it was called silent.
    #[error("host {0} has said nothing since it was called unreachable")]
    NotHeard(String),
    /// There is no such group.
    #[error("there is no deployment group '{0}': make it with `swell group apply`")]
    UnknownGroup(GroupName),
    /// There is no such release.
    #[error("release {0} is not known here: push its bundle first")]
    UnknownRelease(String),
    /// Another release of the application has the label.
    #[error("application and label {0} name another release already: choose another label")]
    LabelTaken(ReleaseLabel),
    /// A group's application cannot change.
    #[error("group {0} runs another application: make a group of another name")]
    OtherApplication(GroupName),
    /// Someone else was faster, or this is a replay.
    #[error("group {group} is at version {got} where {expected} comes next: read it and try again")]
    GroupVersion {
        /// The group.
        group: GroupName,
        /// The version that comes next.
        expected: u64,
        /// The version that was handed in.
        got: u64,
    },
    /// A replay, a gap, or two operators at once.
    #[error(
        "order {got} of group {group} does not follow: order {expected} comes next. \
         It was replayed, or somebody else gave an order meanwhile: look and sign a new one"
    )]
    OutOfOrder {
        /// The group.
        group: GroupName,
        /// The sequence that comes next.
        expected: u64,
        /// The sequence that was handed in.
        got: u64,
    },
    /// The right number after another order than the operator knew.
    #[error("the order was signed after another one than {head}: look and sign a new one")]
    WrongParent {
        /// The group's newest order.
        head: String,
    },
    /// The order's time is over.
    #[error(
        "the order may begin from {issued} until {until}, and by the leader's clock it is {at}: sign a \
         new one, unless that clock is wrong"
    )]
    OrderExpired {
        /// When it was signed, by the signer's clock.
        issued: UnixSeconds,
        /// The end of its time.
        until: UnixSeconds,
        /// The leader's clock.
        at: UnixSeconds,
    },
    /// No member matches the group's filter.
    #[error("no host matches the filter of group {0}")]
    NoHosts(GroupName),
    /// Nobody would go before all others.
    #[error(
        "no host of group {group} has the labels of the canary, {labels}: correct them (see `swell \
         hosts`), or deploy with `--canary 1`"
    )]
    NoCanary {
        /// The group.
        group: GroupName,
        /// The labels.
        labels: String,
    },
    /// Nobody would go in a wave, and those that it was meant for with the rest.
    #[error(
        "no host of group {group} has the labels of wave {number}, {labels}: correct them in the group's \
         settings (see `swell hosts`), or leave the wave out"
    )]
    NoWave {
        /// The group.
        group: GroupName,
        /// Which of its waves; the first is 1.
        number: usize,
        /// The labels.
        labels: String,
    },
    /// The floor is as high as the group.
    #[error(
        "HEALTH_CONSTRAINTS_INVALID: {minimum} of {hosts} hosts must stay healthy, \
         so none may be deployed to: lower the minimum"
    )]
    NothingMayBeDown {
        /// The floor.
        minimum: usize,
        /// The group's size.
        hosts: usize,
    },
    /// The floor is as high as a zone.
    #[error(
        "HEALTH_CONSTRAINTS_INVALID: {minimum} of {hosts} hosts in zone {zone} must stay healthy, \
         so none of it may be deployed to: lower the minimum of zones"
    )]
    NoneOfZone {
        /// The zone, or `none`.
        zone: String,
        /// The floor.
        minimum: usize,
        /// The zone's size.
        hosts: usize,
    },
    /// A group deploys one release at a time.
    #[error(
        "deployment {0} of this group runs or has its turn next: wait for it, stop it, or deploy with --queue"
    )]
    DeploymentRunning(DeploymentId),
    /// A host that holds a slot of the group might be in it no more.
    #[error(
        "deployment {deployment} is over and {} holds a slot of it still: the hosts of the group change \
         when that is given back, or freed by `swell slots release` or `swell hosts remove`",
        join(holders)
    )]
    HeldStill {
        /// The deployment.
        deployment: DeploymentId,
        /// The holders.
        holders: Vec<HostName>,
    },
    /// The stop names no deploy order of the group.
    #[error("order {0} is no deploy order of this group")]
    NothingToStop(String),
    /// As many deployments of the group wait as may.
    #[error("{QUEUED_DEPLOYMENTS_MAX} deployments of group {group} wait already: stop one first")]
    QueueFull {
        /// The group.
        group: GroupName,
    },
    /// Every host runs the release.
    #[error(
        "no host of group {0} runs another release: there is nothing to do. To bring it to an older one, \
         name that: see `swell releases`"
    )]
    NothingOutdated(GroupName),
    /// The order's deployment is over, or the order started none.
    #[error("no deployment of order {0} runs or waits in this group: see `swell deployments`")]
    NotRunning(String),
    /// It is too late to stop it and go back.
    #[error("the deployment of order {0} is over: go back with `swell rollback`")]
    OverAlready(String),
    /// There is nothing to go back to.
    #[error(
        "the order of {0} names no release to go back to: stop it without --rollback, then use \
         `swell rollback`"
    )]
    NoFallback(DeploymentId),
    /// Paused or stopping already.
    #[error("deployment {0} is paused or stopping already")]
    NothingToPause(DeploymentId),
    /// It is not waiting for anybody.
    #[error("deployment {0} is neither paused nor waiting between two stages")]
    NothingToResume(DeploymentId),
    /// Nobody knows yet how its canary fares.
    #[error(
        "the canary of deployment {0} has not run yet: wait for it (see `swell show`), or go without \
         it by `swell stop` and a new order"
    )]
    CanaryToCome(DeploymentId),
    /// The slot has been given back, or was never granted.
    #[error("slot {0} is not held in this group: see `swell slots`")]
    NoSuchSlot(u64),
    /// It has said what it holds, is waived already, or is of another group.
    #[error(
        "there is nothing to waive of {0} in this group: it has said what it holds, or it was waived \
         already: see `swell slots`"
    )]
    NothingToWaive(String),
    /// It is so already.
    #[error("{name} is {} drained: see `swell hosts`", if *drained { "already" } else { "not" })]
    NothingToDrain {
        /// The host.
        name: HostName,
        /// As it is, and as it was to be.
        drained: bool,
    },
    /// Somebody else has drained the host, or given it back, since it was signed.
    #[error(
        "the drain of {name} has number {got}, and {expected} comes next: it was replayed, or somebody else was \
         quicker: look at `swell hosts` and sign a new one"
    )]
    DrainOutOfOrder {
        /// The host.
        name: HostName,
        /// Comes next.
        expected: u64,
        /// What was handed in.
        got: u64,
    },
    /// Operators let nothing begin.
    #[error("group {group} is frozen since {since}: `swell group unfreeze {group}` first")]
    Frozen {
        /// The group.
        group: GroupName,
        /// Since when.
        since: UnixSeconds,
    },
    /// Hosts that were away have to read them all before they go on.
    #[error(
        "group {0} was given so many orders since the oldest deployment that its hosts may still follow that \
         no more are taken: wait until that is over or `swell stop` it, and then deploy anew"
    )]
    ManyOrders(GroupName),
    /// As many groups as there may be.
    #[error(
        "the fleet has {GROUPS_MAX} deployment groups, the most that it keeps: give other hosts to one of the \
         same application that is not needed any more"
    )]
    ManyGroups,
    /// Groups would not fit into what hosts that join are given.
    #[error(
        "the fleet's groups take {} MiB, the most that it keeps: no group is added or made longer until others \
         are shorter",
        GROUPS_BYTES_MAX >> 20
    )]
    GroupsTakeMuch,
    /// Nobody would go back to it any more.
    #[error(
        "release {0} is older than the {RELEASES_KEPT_PER_APPLICATION} of its application that the fleet keeps: \
         release its directory anew, under another label"
    )]
    OldRelease(ReleaseLabel),
    /// Releases that are needed would not fit into what hosts that join are given.
    #[error(
        "the releases that are deployed somewhere, or that deployments tell of, take {} MiB, the most that the \
         fleet keeps: shorten what releases say, and deploy anew",
        RELEASES_BYTES_MAX >> 20
    )]
    ManyReleases,
    /// Nobody has frozen it.
    #[error("group {0} is not frozen")]
    NotFrozen(GroupName),
    /// Operators keep the host for themselves.
    #[error("host {0} is drained and gets no slot")]
    Drained(String),
    /// Whoever is there says itself what it holds.
    #[error(
        "{0} is heard of and says itself what it holds: wait for that, see `swell hosts`, or remove it with \
         `swell hosts remove`"
    )]
    HeardOf(String),
    /// Whoever is there ends what it does itself.
    #[error(
        "{0} is heard of and may be in the middle of its lifecycle, which counts while it lasts: `swell stop` \
         its deployment, or look at `swell-exec` there; `swell hosts remove` takes it out for good"
    )]
    HolderHeardOf(String),
    /// What it may hold is known.
    #[error("{0} holds a slot that is known: free it by `swell slots release {0}` first")]
    HoldsKnownSlot(String),
    /// It was signed for another loss of voters.
    #[error(
        "the waiver is for the recovery of generation {got}, and the last one was of {expected}: look and \
         sign a new one"
    )]
    OtherRecovery {
        /// Of the last recovery; 0 if there was none.
        expected: u64,
        /// The one that was signed.
        got: u64,
    },
    /// It is on its way.
    #[error("slot {0} is being released already: it is free after the hold-off")]
    ReleasedAlready(u64),
    /// A removed key is out for good.
    #[error("the key of {name} was removed from the fleet: make a new key on the machine to join")]
    Removed {
        /// The name in its certificate.
        name: HostName,
    },
    /// Without this voter too few would be left to agree on anything.
    #[error(
        "{name} is a voter, and too few would be left without it: wait until another host votes in the \
         place of one that is gone (see `swell voters`), or let more hosts join"
    )]
    IsVoter {
        /// The host.
        name: HostName,
    },
    /// It may hold a slot that was lost with the voters who granted it.
    #[error("host {0} has not said yet what it holds since the voters were lost")]
    Uncounted(String),
    /// The recovery is of another ledger than the one here.
    #[error(
        "the list of voters goes on with the ledger at index {expected}, and this host has another \
         one, at {here}: hand it in where `swell voters recover` was run, or make a new one here"
    )]
    OtherLedger {
        /// Named by the list.
        expected: u64,
        /// The last index that was applied here.
        here: u64,
    },
    /// The list of voters is not believed.
    #[error(transparent)]
    Voters(#[from] VotersRefused),
    /// The voters do not change so.
    #[error("the voters do not change so: {0}")]
    VoterChange(&'static str),
    /// Its stage has not begun, or the deployment is paused, waits or ends.
    #[error(
        "deployment {0} grants the host no slot now: it is paused, waits, or has other hosts first"
    )]
    NotItsTurn(DeploymentId),
    /// A slot now would take too many hosts of a zone down.
    #[error("zone {zone} of group {group} has {down} of {quota} hosts down already")]
    ZoneFull {
        /// The group that says no.
        group: GroupName,
        /// The zone, or `none`.
        zone: String,
        /// Hosts that are down in it.
        down: usize,
        /// How many may be.
        quota: usize,
    },
    /// A slot now would leave too few voters as they are.
    #[error("{} of {all} voters are down already, and {quota} may be", down.len())]
    VotersNeeded {
        /// Those that are down.
        down: Vec<HostId>,
        /// How many there are.
        all: usize,
        /// How many may be down.
        quota: usize,
    },
    /// The host has no part in a running deployment of that order and release.
    #[error("the host has no part in a running deployment of that order")]
    NoPart,
    /// A slot now would take too many hosts down.
    #[error("group {group} has {down} of {quota} hosts down already")]
    QuotaFull {
        /// The group that says no.
        group: GroupName,
        /// Hosts that are down.
        down: usize,
        /// How many may be.
        quota: usize,
    },
    /// The host holds a slot.
    #[error("the host holds slot {0} already")]
    HoldsSlot(u64),
}

impl Refusal {
    pub(super) fn untrusted(what: &'static str) -> impl Fn(Untrusted) -> Self {
        move |source| Self::Untrusted { what, source }
    }

    pub(super) fn unknown_release(id: Digest) -> Self {
        Self::UnknownRelease(id.short())
    }
}

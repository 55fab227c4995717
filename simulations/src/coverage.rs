//! Situations that a set of runs must have met. A simulator that never meets them proves nothing.

use std::collections::BTreeMap;

macro_rules! situations {
    ($($name:ident => $text:literal,)*) => {
        /// Something that must have happened in some run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Situation {
            $(#[doc = $text] $name,)*
        }

        impl Situation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// In words.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

situations! {
    LeaderChangedWithGrantOpen => "the leader changed while a grant was on some disk and not committed",
    HolderDiedBetweenTokenAndAction => "a holder died between the journalled slot and the first step",
    HolderDiedInLifecycle => "a holder died in the middle of a lifecycle",
    InterruptedWentOn => "an interrupted lifecycle was taken up again",
    DaemonDiedBeforePersist => "a daemon died before it wrote what it had decided",
    DaemonDiedBetweenPersistAndSend => "a daemon died between writing and sending",
    DaemonDiedBetweenSends => "a daemon died between two messages of one step",
    StopRacedGrant => "a stop and a slot of the same order were under way at once",
    StopRacedBeginning => "a stop came to a host whose executor had just begun, which its daemon did not know",
    StopCutShort => "a host died while it spread the word of a stop",
    StopFreedSlotUnused => "a slot was given back unused after a stop",
    SnapshotInstalledOnVoter => "a voter took over a snapshot",
    SnapshotInstalledOnFollower => "a host that follows took over a snapshot",
    SplitHealedBothChanged => "a split ended after records changed on both sides",
    MinorityLeaderBelieved => "a leader that was cut off still believed in itself while another led",
    EndedWithoutHolder => "a deployment was over while a host that was away held a slot of it",
    LeftHolderCameBack => "a host gave a slot back whose deployment was over",
    LateHostBrought => "a host took a release late and was brought to where the others are",
    BeganWithLeftHolder => "a deployment began while a host held a slot of an older one",
    RollbackRan => "a rollback deployment ran",
    RollbackSucceeded => "a rollback deployment succeeded",
    DeploymentFailed => "a deployment failed",
    DeploymentStopped => "a deployment was stopped",
    RestoredHost => "a host failed and was restored under its slot",
    BrokenHost => "a host was left without a working revision",
    BrokenHostGranted => "a broken host got a slot though its group was full",
    ReceiptsTooOld => "receipts were refused as too old, or their number was lost",
    StageRefused => "an executor would not stage a release",
    SlotDeclined => "a slot was declined",
    QuotaReached => "as many hosts of a group were down as may be",
    VoterQuotaReached => "as many voters were down as may be",
    TwoGroupsOneHost => "a host in two groups was granted a slot",
    UnreachableCalled => "a host was called unreachable and counted as down",
    UnreachableCleared => "a host that counted as down was cleared",
    DiskWasSlow => "a leader waited for its disk while it had something to write",
    ExecutorDiskFailed => "an executor ended because its disk took nothing",
    VotersInARow => "voters reached their neighbours in a row and no others",
    AppliedAhead => "a voter applied what was not agreed on, and something else was agreed on",
    KeyStolen => "somebody else spoke in the name of a host, which went on above it",
    QuorumLost => "no majority of voters was up",
    LateHostJoined => "a host joined after deployments had begun",
    SecondConnection => "two connections between one pair carried messages at once",
    ReplayedDone => "a return of an old slot came once more",
    OrdersMissed => "a host took up a chain of orders whose beginning nobody keeps",
    ReplayedOrder => "an old order came once more",
    WallJumped => "a wall clock jumped by a year",
    DeclinedLate => "a daemon was started again while its word was on the way that it will not use a slot",
    PausedHolder => "a host stood still while it held a slot",
    PausedForLong => "a host went on that had stood still for ten minutes or more with a slot",
    GroupChangedInRollout => "a group was changed while it deployed",
    ZoneLostPower => "three hosts or more lost power at once",
    TwoDeploymentsAtOnce => "two groups deployed at the same time",
    VoterReplaced => "a voter was replaced",
    LeaderChangedWithVotersPlanned => "the leader changed while the next voters were planned and did not vote yet",
    SnapshotWithVotersPlanned => "a host took over a snapshot while the next voters were planned",
    TwoVotersReplaced => "a second voter was replaced, or more",
    LeaderHandedOver => "a leader that may vote no more handed over",
    OfferedWhatNobodyHas => "a member told another of records that nobody has, again and again",
    Forged => "a member made up what is not for it to say",
    ReceiptsForged => "a voter vouched for a slot in the name of the others",
    LeaderStopped => "somebody stopped the daemon of a leader",
    StoppedHostCalled => "a host whose daemon was stopped was called unreachable by all",
    VoterLeftBehind => "a voter that was away came back to a generation that it knew nothing of",
    GroupFrozen => "an operator froze a group",
    HostDrained => "an operator drained a host",
    DeploymentPaused => "a deployment was paused",
    DeploymentResumed => "a deployment was resumed",
    DeploymentQueued => "a deployment waited for its turn",
    RollbackOrdered => "an operator ordered a rollback",
    StoppedWithRollback => "a deployment was stopped and its hosts sent back",
    CanaryLookedAt => "a deployment waited for somebody to look at its canary",
    CanaryFailed => "a canary failed and the others were spared",
    Baked => "a deployment baked between two stages",
    ZoneQuotaReached => "as many hosts of a zone were down as may be",
    BudgetSpent => "more hosts failed than a group allows",
    DeadlinePassed => "a deployment was not done in time",
    CaughtUp => "hosts caught up with the others",
    QuotaLoweredInRollout => "a group was given a smaller quota while it deployed",
    MembersChangedInRollout => "a host changed its groups while it had a part in a deployment",
    SlotReleased => "an operator released a slot",
    WrittenOff => "a holder was written off",
    WrittenOffAlive => "a holder was written off that stood still in the middle of its lifecycle",
    ReleasedHolderWasAlive => "a slot was released whose holder was alive and stood still",
    HostRemoved => "a host was removed from the fleet",
    FirstVoterRemoved => "a voter was removed that was there from the beginning",
    FirstVoterInstalledAnew => "the machine of such a voter came back with a new identity",
    RemovedHolder => "a host was removed while it was disturbed",
    HostInstalledAnew => "a machine came back with a new identity",
    OrderGivenAgain => "an operator gave an old order once more",
    OrderSkipped => "an operator gave an order whose predecessor was lost",
    LinkFlapped => "a link was cut and mended over and over",
    VotersPartlyConnected => "voters reached one of them and not each other",
    ZoneCutOff => "a zone was cut off",
    LongSplitHealed => "a split ended that had lasted for most of a minute",
    HoursApart => "a split ended that had lasted for more than an hour",
    QueueFull => "a link broke because more was sent than fits through it",
    StartedWithoutSeeds => "a host found others while all were gone whose addresses it was given",
    AllRestarted => "all daemons were started again at once",
    HoldersDiedTogether => "two holders or more lost power together",
    HostWaived => "a host was written off that had not said what it holds since voters were lost",
    WaivedCameBack => "a host that was written off before it had said so was heard of again",
    GrantLost => "a host was granted a slot that the fleet knew nothing of after it was recovered",
    MajorityReturned => "a majority of the voters came back after the fleet had gone on without it",
    CensusWaited => "a group waited for hosts to say what they hold after its voters were lost",
    DiskFailed => "a daemon ended because its disk took nothing",
    VoterPutBack => "a voter came back with an older disk that lacks entries which it had",
    VoterAssured => "a voter with an older disk heard from the others what it may have forgotten",
    MachinePutBack => "a machine came back with an older disk that lacks what it has run since",
    LogRotted => "a voter whose disk had rotted began with an older copy",
    OwnRecordMet => "a host with an older disk met a record of its own",
    EntryReplaced => "an uncommitted entry was replaced on a disk",
}

/// Which situations were met, and in how many runs.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<Situation, u64>);

impl Coverage {
    /// It was met.
    pub fn met(&mut self, situation: Situation) {
        self.0.entry(situation).or_insert(1);
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (situation, count) in &other.0 {
            *self.0.entry(*situation).or_default() += count;
        }
    }

    /// In how many runs it was met.
    pub fn count(&self, situation: Situation) -> u64 {
        self.0.get(&situation).copied().unwrap_or(0)
    }

    /// What no run has met.
    pub fn missing(&self) -> Vec<Situation> {
        Situation::ALL.iter().copied().filter(|one| self.count(*one) == 0).collect()
    }
}

//! Planted defects, by which the simulator shows that it would notice one.
//!
//! Each is a line at the place where the real mistake would be made. Without the feature
//! `simulation` the question [`planted`] has a constant answer and nothing of this is compiled; with it,
//! nothing is planted until a thread asks for it.

macro_rules! defects {
    ($($name:ident => $text:literal,)*) => {
        /// A mistake that somebody could make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $(#[doc = $text] $name,)*
        }

        impl Defect {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it is called.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The one with this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|defect| defect.name() == name)
            }

            /// In words.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

defects! {
    QuotaNotChecked => "the ledger asks for no quota when it grants",
    QuotaOffByOne => "the ledger grants one slot more than the quota",
    QuotaOfTheGroup => "the group's own configuration counts, not the deployment's",
    LoweredWithoutEffect => "a quota that is lowered while a deployment runs does not bound it",
    OneGroupAsked => "the ledger asks only the first group of a host",
    SlotFreedByHealth => "a slot is freed when its holder is called unreachable",
    DeadCountsAsHealthy => "an unreachable host does not count as down",
    BrokenCountsAsHealthy => "a host without a working revision does not count as down",
    FrozenBegins => "what waits in a frozen group begins, and hosts catch up in it",
    FrozenIsGranted => "slots are granted in a frozen group",
    DrainedForTheDeployment => "a host is drained by what a deployment allows that will be over before it is given back",
    DrainReplayed => "an old word drains a host, or gives it back, once more",
    DrainedUnasked => "a host is drained though its groups have no room for that",
    DrainedCountsAsHealthy => "a host that is drained does not count as down",
    DrainedIsGranted => "a host that is drained is granted a slot",
    BareCountsAsHealthy => "a host on which nothing ever ran counts as one that serves",
    HolderCountsAsHealthy => "a host that holds a slot for another group does not count as down",
    DeadHolderAwaited => "a deployment is not over while a host that is away holds a slot of it",
    LeftHolderForgotten => "who holds a slot of a deployment that is over does not count as down",
    HeldGroupMoves => "a group gets other hosts while a slot of a deployment that is over is held",
    SecondSlot => "a host that holds a slot is granted another one",
    OldDoneFrees => "the return of an old slot frees the present one",
    GapInOrders => "an order is taken though the one before it is missing",
    OrderReplayed => "an old order is taken again",
    GrantWhileStopping => "slots are granted after a stop",
    StopWithoutEffect => "a stop is written down and nothing stops",
    GrantWhilePaused => "slots are granted while a deployment is paused",
    HoldSkipped => "the next stage follows though nobody looked and nothing baked",
    PauseWithoutEffect => "a pause is written down and nothing pauses",
    StageNotAwaited => "hosts of a later stage get slots before their turn",
    CanaryIgnored => "a deployment goes on though its canary failed",
    BudgetIgnored => "more hosts may fail than the group allows",
    DeclinedWithoutPromise => "a slot is given back unused with which the executor may still begin",
    VotersNotSpared => "a rollout takes as many voters down as its groups allow",
    ZoneNotAsked => "the floor of a zone does not count",
    QueueOvertaken => "of the deployments that wait the newest begins first",
    TwoDeploymentsOfAGroup => "a deploy order that must not wait is taken while another runs",
    FailureNotCounted => "failed hosts do not count against the budget",
    OneSuccessIsEnough => "a deployment succeeds with its first host",
    DeclinedIsSuccess => "a host that declined its slot counts as a success",
    RollbackOfRollback => "the failure of a rollback starts a rollback",
    SlotFreedOnATimer => "a slot is freed when it was held for long",
    ReceiptsSkipped => "an executor begins though nobody vouches for its slot",
    LeaderReplacesItself => "a leader plans a list of voters without itself",
    NoHoldOff => "a slot that an operator releases is free at once",
    ReleasedVouchedFor => "voters vouch for a slot that an operator has released",
    RemovedReturns => "a key that was removed is admitted again",
    WrongMajority => "half of the voters count as a majority",
    ReceiptOfOtherEntry => "a voter vouches for another entry than it applied",
    ReceiptsNotRefreshed => "a host keeps receipts however old they are",
    ClosedBeginsAgain => "an executor begins anew under a slot that it used before, if voters vouch for it",
    DoneBeforeTheEnd => "a host gives its slot back while the lifecycle runs",
    StopFreesAtOnce => "a host gives its slot back on a stop without asking the executor",
    NobodyWatched => "a host gives its slot back at once, and is not watched",
    RestoredNotWatched => "a host on which the old revision runs again is not watched",
    BrokenReportedRestored => "a host that could not be restored says that it was",
    ActsBeforeItKnows => "a voter that restarted acts on what it has not applied again, and its executor on what it has closed",
    StopsNotReminded => "a stop that hosts obey is handed in once and never again",
    VoteNotWritten => "a voter does not write its vote down",
    EntriesNotWritten => "a voter acknowledges entries that it has not written",
    SentBeforeWritten => "a voter sends before it has written",
    VotesTwice => "a voter votes for whoever asks",
    DiskTrusted => "a voter goes on by a disk that may have been put back",
    StandsForNoLog => "a voter that may have forgotten entries votes for shorter logs",
    OwnRecordNotMet => "a host goes on below a record of its own that it has forgotten",
    SnapshotWithoutSlots => "a snapshot is read without its slots",
    FollowsWithGaps => "a host that follows leaves out what it lacks",
    FollowedNotWritten => "a host that follows writes down every second entry",
    AskedOnce => "a host that follows asks for the ledger once and never again",
    SnapshotToldOnce => "a voter that did not hear of its snapshot is not told again",
    TreeNotHashedAgain => "records that changed look the same to whoever compares",
    ViewGoesBack => "an older record replaces a newer one",
    AnybodyLeads => "what only the leader may say is taken from any member",
    NeverCleared => "a host that was suspected once stays suspected",
    LastWordUnheard => "nobody accuses a host that said it would stop, and nobody calls it unreachable",
    StoppedForGood => "a host that was stopped once stays unreachable when it is started again",
    WellWithoutAWord => "a host that counts as unhealthy is called well though nothing new was heard of it",
    UnhealthyForever => "a host that counts as unhealthy is never called well again",
    ReturnedOnce => "a return of a slot is handed in once and never again",
    GrantedOnce => "the leader looks for grants once in its life",
    VouchesAfterPlan => "a voter vouches in a generation that is about to end",
    OneVouchIsEnough => "a list of voters is in force when one of them has signed",
    OldTailKept => "the log of one generation stays behind the snapshot of the next",
    UnfitLeads => "a leader that may vote no more lets no other lead",
    LeftBehindForEver => "a voter that slept through a change of voters goes on in its generation",
    CensusDropped => "nobody has to say what it holds after voters were lost",
    CensusIgnored => "hosts that have not said what they hold do not count as down",
    AnyWaiverTaken => "a waiver counts that was signed for another recovery",
    LivingHostWaived => "a host is waived that is heard of",
    LivingHolderReleased => "a slot is released whose holder is heard of",
    WaivedStaysCounted => "a host that was waived does not have to say what it holds when it is back",
    CountedTooSoon => "a host says that it holds nothing while its executor heeds the voters that were lost",
    IndicesDoNotLeap => "after voters were lost indices go on where they were",
    CommitsAhead => "a voter takes for agreed on what it alone may have",
    NobodyFed => "a voter gives the ledger to nobody who asks for it",
}

#[cfg(feature = "simulation")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}

/// Plants a defect for this thread, or none. What was planted before.
#[cfg(feature = "simulation")]
pub fn plant(defect: Option<Defect>) -> Option<Defect> {
    PLANTED.replace(defect)
}

/// True if this defect is planted here.
#[cfg(feature = "simulation")]
pub(crate) fn planted(defect: Defect) -> bool {
    PLANTED.get() == Some(defect)
}

/// Nothing is ever planted where people run it.
#[cfg(not(feature = "simulation"))]
pub(crate) const fn planted(_: Defect) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_defect_has_a_name_and_words_of_its_own() {
        let names: BTreeSet<_> = Defect::ALL.iter().map(|defect| defect.name()).collect();
        let texts: BTreeSet<_> = Defect::ALL.iter().map(|defect| defect.text()).collect();
        assert_eq!((names.len(), texts.len()), (Defect::ALL.len(), Defect::ALL.len()));
        assert!(names.iter().all(|name| Defect::named(name).is_some_and(|d| d.name() == *name)));
        assert!(names.len() >= 30, "enough to tell a simulator that sees from one that is blind");
    }
}

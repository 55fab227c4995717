//! What this host does in its groups: stage, ask for a slot, collect receipts, act, give it back.
//!
//! Nothing here is remembered over a restart. Where a rollout stands is read off the ledger, the
//! executor's report and the store each time; the little that is kept paces questions and collects
//! answers. So a daemon that dies at any moment goes on when it is back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Asked, AskedKind, Node, Output, Progress, repeats::Repeat};
use crate::{
    execute::{ActivationReport, GroupReport, LifecycleEvent, Phase, Report, Request, Response},
    fleet::{GroupStatus, HostState},
    ids::{Digest, GroupName, HostId, Nonce},
    limits::{RECEIPT_AGE_MAX, VOTER_LISTS_PER_MESSAGE_MAX},
    rollout::{Assignment, Entry, SlotView},
    sabotage::{Defect, planted},
    time::Mono,
    trust::{Done, Order, Outcome, Receipt, Signed, Subject, Verified, Want, fit_text},
    wire::Message,
};

/// This host's rollouts.
#[derive(Default)]
pub(super) struct Rollouts {
    /// The executor's newest report.
    executor: Option<Arc<Report>>,
    /// Revisions that the store was asked for.
    pub(super) revisions: BTreeMap<Digest, Progress>,
    groups: BTreeMap<GroupName, Rollout>,
    /// Collected receipts, for the one slot that a host can hold.
    claim: Option<Claim>,
    /// When steps were last taken nothing was under way. The passing of time changes nothing then.
    is_at_rest: bool,
}

/// What is kept for one group between two steps.
#[derive(Default)]
struct Rollout {
    status: Option<GroupStatus>,
    /// The question that the executor has not answered yet.
    asking: Option<Asking>,
    /// The release that the executor will not stage, and why.
    unfit: Option<(Digest, Digest, String)>,
    /// Slots that the executor would not act on, and why.
    refused: Option<Refused>,
    /// When the store may be asked again for a revision that it could not bring.
    next_fetch_at: Mono,
    /// The release whose frames were checked anew because the executor could not lay it out.
    rechecked: Option<Digest>,
    recheck: bool,
    /// The slot whose end was seen, and when: health is watched from then on.
    ended: Option<(u64, Mono)>,
    /// The slot that is asked for, by order and release.
    want: Repeat<(Digest, Digest)>,
    /// The slot that is given back.
    done: Repeat<u64>,
    /// When the executor may be asked again after it refused.
    next_ask_at: Mono,
}

/// A question to the executor.
#[derive(Clone, Copy)]
struct Asking {
    kind: AskedKind,
    at: Mono,
    /// The version of its newest report when it was asked.
    seen: u64,
}

/// How often the executor refused to act on a slot.
#[derive(Clone)]
struct Refused {
    token: u64,
    times: u32,
    reason: String,
}

impl Refused {
    /// Once may be a receipt that grew old on the way. Again and again is a reason that stays.
    fn is_final(&self, token: u64) -> bool {
        self.token == token && self.times >= REFUSALS_UNTIL_DECLINED
    }
}

/// Receipts on the way to a majority.
struct Claim {
    token: u64,
    nonce: Nonce,
    since: Mono,
    next_ask_at: Mono,
    /// By voter: the entry that it vouches for, and its receipt.
    receipts: BTreeMap<HostId, (Digest, Signed<Receipt>)>,
}

impl Claim {
    /// How many voters vouch for the same entry. One that lies does not keep the others from
    /// agreeing.
    fn agreeing(&self) -> usize {
        let mut voters: BTreeMap<Digest, usize> = BTreeMap::new();
        for (entry, _) in self.receipts.values() {
            *voters.entry(*entry).or_default() += 1;
        }
        voters.into_values().max().unwrap_or(0)
    }
}

impl Rollouts {
    pub(super) fn statuses(&self) -> impl Iterator<Item = &GroupStatus> {
        self.groups.values().filter_map(|rollout| rollout.status.as_ref())
    }

    /// Notes the executor's state; none when it cannot be reached. What this host does in its groups is
    /// the executor's to say: without it, the fleet is told nothing of them, and reads that.
    pub(super) fn reported(&mut self, report: Option<Report>) {
        self.executor = report.map(Arc::new);
        if self.executor.is_none() {
            self.groups.values_mut().for_each(|rollout| rollout.status = None);
        }
        self.groups.values_mut().for_each(|rollout| rollout.next_ask_at = Mono::default());
    }

    pub(super) fn has_executor(&self) -> bool {
        self.executor.is_some()
    }

    /// What the executor said of itself last.
    pub(super) fn executor(&self) -> Option<&Report> {
        self.executor.as_deref()
    }

    /// Receipts that were collected are worth nothing any more.
    pub(super) fn forget_claim(&mut self) {
        self.claim = None;
    }

    /// Notes an answer of the executor.
    pub(super) fn answered(&mut self, now: Mono, asked: &Asked, answer: &Result<Response, String>) {
        let version = self.executor.as_ref().map_or(0, |report| report.version);
        let rollout = self.groups.entry(asked.group.clone()).or_default();
        let mut reported = false;
        if let Some(asking) = rollout.asking.filter(|asking| asking.kind == asked.kind) {
            rollout.asking = None;
            reported = version != asking.seen;
        }
        match (asked.kind, answer) {
            (AskedKind::Prepare(token), Ok(Response::Prepared { nonce })) => {
                let (since, next_ask_at, receipts) = (now, now, BTreeMap::new());
                let nonce = *nonce;
                self.claim = Some(Claim { token, nonce, since, next_ask_at, receipts });
            }
            // A frame may have rotted since it came: the store looks at them all once more.
            (AskedKind::Stage, Ok(Response::Refused { .. }))
                if rollout.rechecked != Some(asked.release) =>
            {
                rollout.rechecked = Some(asked.release);
                rollout.recheck = true;
            }
            (AskedKind::Stage, Ok(Response::Refused { reason })) => {
                rollout.unfit = Some((asked.order, asked.release, reason.clone()));
            }
            (AskedKind::Activate(token), Ok(Response::Refused { reason })) => {
                if !planted(Defect::ReceiptsNotRefreshed) {
                    self.claim = None;
                }
                rollout.next_ask_at = now + ASK_AGAIN_AFTER;
                let before = rollout.refused.take().filter(|refused| refused.token == token);
                let times = before.map_or(1, |refused| refused.times + 1);
                rollout.refused = Some(Refused { token, times, reason: reason.clone() });
            }
            // What was accepted shows in a report, and only then is it clear what is next. The
            // report may have been faster than the answer.
            (_, Ok(Response::Accepted)) if reported => {}
            (_, Ok(Response::Accepted | Response::Refused { .. }) | Err(_)) => {
                rollout.next_ask_at = now + ASK_AGAIN_AFTER;
            }
            _ => {}
        }
    }

    /// Notes a voter's receipt, if it is for the present claim.
    pub(super) fn receipt(&mut self, receipt: &Verified<Receipt>) {
        let content = receipt.content();
        let Subject::Slot { nonce, .. } = content.subject else { return };
        if let Some(claim) = &mut self.claim
            && (claim.token, claim.nonce) == (content.index, nonce)
        {
            claim.receipts.insert(content.voter, (content.entry, receipt.signed().clone()));
        }
    }
}

impl Node {
    /// True if a rollout of this host waits for something that time alone may bring.
    pub(super) fn is_rolling_out(&self) -> bool {
        !self.rollouts.is_at_rest
    }

    /// Takes the next step in each group of this host.
    pub(super) fn roll_out(&mut self) {
        let executor = self.rollouts.executor.clone().filter(|_| !self.is_catching_up());
        let Some(executor) = executor else {
            self.rollouts.is_at_rest = true;
            return;
        };
        let report = |group: &GroupName| executor.groups.iter().find(|one| one.group == *group);
        let assignments = self.ledger.assignments(self.me);
        let is_at_rest = |assignment: &Assignment| {
            let report = report(&assignment.group);
            let acts = report.is_some_and(|report| report.activation.is_some());
            assignment.slot.is_none() && assignment.deployment.is_none() && !acts
        };
        let is_here =
            |report: &&GroupReport| assignments.iter().any(|one| one.group == report.group);
        let strays: Vec<_> = executor.groups.iter().filter(|report| !is_here(report)).collect();
        self.rollouts.is_at_rest = assignments.iter().all(is_at_rest)
            && strays.iter().all(|report| report.activation.is_none());
        for stray in strays {
            self.close_stray(stray);
        }
        // A group that the host has left is nothing that others should hear of.
        for (group, rollout) in &mut self.rollouts.groups {
            if !assignments.iter().any(|assignment| assignment.group == *group) {
                rollout.status = None;
            }
        }
        for assignment in assignments {
            let report = report(&assignment.group);
            let state = self.step(&assignment, report);
            let status = GroupStatus {
                group: assignment.group.clone(),
                order: assignment.deployment.as_ref().map(|deployment| deployment.order),
                state,
                token: self.ledger.slot_of(self.me).map(|slot| slot.token),
                release: report.and_then(|report| report.current.clone()),
            };
            self.rollouts.groups.entry(assignment.group).or_default().status = Some(status);
        }
    }

    /// Closes what was begun for a group in which this host has no part any more, and no slot: the group,
    /// or the host's labels, may have been lost with the voters who knew of them.
    fn close_stray(&mut self, report: &GroupReport) {
        let Some(activation) = &report.activation else { return };
        let ActivationReport { token, order, release, phase } = activation;
        if !matches!(phase, Phase::Running { .. }) && self.is_not_held(*token) {
            self.close_activation(&report.group, *token, *order, *release);
        }
    }

    /// One group's next step; returns what the fleet is told of it.
    fn step(&mut self, assignment: &Assignment, report: Option<&GroupReport>) -> HostState {
        if let Some(activation) = report.and_then(|report| report.activation.as_ref()) {
            return self.step_active(assignment, report, activation);
        }
        if let Some(slot) = &assignment.slot {
            return self.step_granted(assignment, report, slot);
        }
        let broken = self.ledger.is_broken_in(&assignment.group, self.me);
        let rest = if broken { HostState::Failed } else { HostState::Idle };
        let Some(deployment) = &assignment.deployment else { return rest };
        let heeded = self.heeded(deployment.order, deployment.goes_back);
        if deployment.stopped || heeded.is_some() {
            return rest;
        }
        self.step_waiting(assignment, report, deployment.order, deployment.release)
    }

    /// The executor has an activation that is not closed.
    fn step_active(
        &mut self,
        assignment: &Assignment,
        report: Option<&GroupReport>,
        activation: &ActivationReport,
    ) -> HostState {
        let ActivationReport { token, order, release, phase } = activation;
        let group = &assignment.group;
        match phase {
            Phase::Running { event, restoring } => {
                if planted(Defect::DoneBeforeTheEnd) {
                    self.give_back(group, *token, Outcome::Succeeded);
                }
                HostState::Running { event: *event, restoring: *restoring }
            }
            Phase::Interrupted { .. } if self.is_released(group, *token) => {
                self.heed_release(group, report, *token);
                HostState::Failed
            }
            // The slot went away meanwhile: the host was removed and came back, or an operator took it.
            Phase::Interrupted { .. } if self.is_not_held(*token) => {
                self.close_activation(group, *token, *order, *release);
                HostState::Failed
            }
            Phase::Interrupted { event } => {
                self.claim_slot(group, report, *token, *order, *release);
                HostState::Running { event: *event, restoring: false }
            }
            Phase::Ended(outcome) => {
                if self.is_not_held(*token) {
                    self.close_activation(group, *token, *order, *release);
                    return HostState::Idle;
                }
                self.step_ended(assignment, *token, outcome)
            }
        }
    }

    /// True if this host's slot is not this one, as a ledger says that knows of it.
    fn is_not_held(&self, token: u64) -> bool {
        let held = self.ledger.slot_of(self.me).is_some_and(|slot| slot.token == token);
        !held && self.ledger.is_member(self.me) && self.ledger.applied_index() >= token
    }

    fn close_activation(&mut self, group: &GroupName, token: u64, order: Digest, release: Digest) {
        let (group, kind) = (group.clone(), AskedKind::Returned(token));
        let request = Request::Returned { group: group.clone(), token };
        self.ask_executor(Asked { group, order, release, kind }, request);
    }

    /// The lifecycle is over: watch the host's health, be it with the new revision or the old one again, then
    /// give the slot back. A host that is broken stays down with or without a slot.
    fn step_ended(&mut self, assignment: &Assignment, token: u64, outcome: &Outcome) -> HostState {
        let now = self.now;
        let rollout = self.rollouts.groups.entry(assignment.group.clone()).or_default();
        let since = match rollout.ended {
            Some((ended, since)) if ended == token => since,
            _ => {
                rollout.ended = Some((token, now));
                now
            }
        };
        let watch = Duration::from_secs(assignment.minimum_healthy_seconds.into());
        let works = match outcome {
            Outcome::Succeeded => true,
            Outcome::Failed { restored, .. } => *restored && !planted(Defect::RestoredNotWatched),
            Outcome::Declined { .. } => false,
        };
        if works && now.since(since) < watch && !planted(Defect::NobodyWatched) {
            return HostState::Watching;
        }
        let mut said = outcome.clone();
        if let Outcome::Failed { restored, .. } = &mut said {
            *restored |= planted(Defect::BrokenReportedRestored);
        }
        self.give_back(&assignment.group, token, said);
        match outcome {
            Outcome::Failed { restored: false, .. } => HostState::Failed,
            _ => HostState::Watching,
        }
    }

    /// True if an operator has released a slot of this host: nobody vouches for it any more.
    fn is_released(&self, group: &GroupName, token: u64) -> bool {
        let held = self.ledger.slot_of(self.me).filter(|slot| slot.token == token);
        let gone = self.ledger.applied_index() >= token;
        held.map_or(gone, |slot| slot.released.is_some())
            && self.ledger.release_of_slot(group, token).is_some()
    }

    /// Tells the executor that it must not act on a slot any more; true once it says that it never
    /// will.
    fn heed_release(
        &mut self,
        group: &GroupName,
        report: Option<&GroupReport>,
        token: u64,
    ) -> bool {
        if report.is_some_and(|report| report.is_done_with(token)) {
            return true;
        }
        if let Some(release) = self.ledger.release_of_slot(group, token).cloned() {
            let (group, kind) = (group.clone(), AskedKind::Stop);
            let asked = Asked { group, order: Digest::ZERO, release: Digest::ZERO, kind };
            self.ask_executor(asked, Request::Stop(release));
        }
        false
    }

    /// The ledger gave this host a slot that the executor has not used yet.
    fn step_granted(
        &mut self,
        assignment: &Assignment,
        report: Option<&GroupReport>,
        slot: &SlotView,
    ) -> HostState {
        let group = &assignment.group;
        let SlotView { token, order, release, .. } = *slot;
        self.rollouts.groups.entry(group.clone()).or_default().want.shows();
        if slot.released.is_some() {
            if self.heed_release(group, report, token) {
                let reason = "an operator released the slot before it was used".into();
                self.give_back(group, token, Outcome::Declined { reason });
            }
            return HostState::Waiting;
        }
        if let Some(stop) = self.stop_of(assignment, slot) {
            self.step_stopped(group, report, slot, stop);
            return HostState::Waiting;
        }
        if slot.is_left {
            let reason = "the deployment was over before it began here".into();
            self.give_back_unused(group, report, token, Outcome::Declined { reason });
            return HostState::Waiting;
        }
        if let Some(outcome) = self.unusable(group, report, slot) {
            self.give_back_unused(group, report, token, outcome);
            return HostState::Waiting;
        }
        if !report.is_some_and(|report| report.staged.contains(&release)) {
            return self.stage(assignment, report, order, release);
        }
        self.claim_slot(group, report, token, order, release);
        HostState::Waiting
    }

    /// What comes of a slot that the executor will not use.
    fn unusable(
        &self,
        group: &GroupName,
        report: Option<&GroupReport>,
        slot: &SlotView,
    ) -> Option<Outcome> {
        let rollout = self.rollouts.groups.get(group);
        let refused = rollout.and_then(|rollout| rollout.refused.as_ref());
        if let Some(refused) = refused.filter(|refused| refused.is_final(slot.token)) {
            return Some(Outcome::Declined { reason: fit_text(refused.reason.clone()) });
        }
        let unfit = rollout.and_then(|rollout| rollout.unfit.as_ref());
        let unfit = unfit.filter(|(o, r, _)| (*o, *r) == (slot.order, slot.release));
        if let Some((_, _, reason)) = unfit {
            return Some(Outcome::Failed {
                log: String::new(),
                code: 5,
                event: LifecycleEvent::DownloadBundle,
                script: String::new(),
                message: fit_text(reason.clone()),
                restored: report.is_some_and(|report| report.current.is_some()),
            });
        }
        // The daemon that knew why is gone, or the ledger that knew how it ended.
        let is_done = report.is_some_and(|report| report.is_done_with(slot.token));
        is_done.then(|| Outcome::Declined { reason: "this host had given it back before".into() })
    }

    /// Gives back a slot that the executor has promised never to use. Without that it might begin, by
    /// the word of a daemon that has started anew and does not know what the last one said, and the slot
    /// would be freed under it.
    fn give_back_unused(
        &mut self,
        group: &GroupName,
        report: Option<&GroupReport>,
        token: u64,
        outcome: Outcome,
    ) {
        let is_done = report.is_some_and(|report| report.is_done_with(token));
        if is_done || planted(Defect::DeclinedWithoutPromise) {
            self.give_back(group, token, outcome);
            return;
        }
        let (group, kind) = (group.clone(), AskedKind::GiveUp(token));
        let request = Request::GiveUp { group: group.clone(), token };
        let asked = Asked { group, order: Digest::ZERO, release: Digest::ZERO, kind };
        self.ask_executor(asked, request);
    }

    /// The stop of an order, as far as one is known here: by itself, or in the ledger.
    fn stop_of(&self, assignment: &Assignment, slot: &SlotView) -> Option<Signed<Order>> {
        let SlotView { order, goes_back, .. } = *slot;
        if let Some(stop) = self.heeded(order, goes_back) {
            return Some(stop.clone());
        }
        let stopped = assignment.deployment.as_ref().filter(|part| part.order == order)?.stopped;
        let find = || self.ledger.stop_of(&assignment.group, order, goes_back).cloned();
        stopped.then(find).flatten()
    }

    /// A stop came while this host holds a slot that the executor does not use, as far as is known:
    /// it may be about to begin. Only when it says that it never will is the slot given back.
    fn step_stopped(
        &mut self,
        group: &GroupName,
        report: Option<&GroupReport>,
        slot: &SlotView,
        stop: Signed<Order>,
    ) {
        let SlotView { token, order, goes_back, .. } = *slot;
        let never_begins = report.is_some_and(|report| report.is_stopped(order, goes_back));
        if never_begins || planted(Defect::StopFreesAtOnce) {
            let reason = "stopped before it began".into();
            self.give_back(group, token, Outcome::Declined { reason });
            return;
        }
        let (group, release, kind) = (group.clone(), Digest::ZERO, AskedKind::Stop);
        self.ask_executor(Asked { group, order, release, kind }, Request::Stop(stop));
    }

    /// A deployment runs and this host has no slot: stage, then ask for one.
    fn step_waiting(
        &mut self,
        assignment: &Assignment,
        report: Option<&GroupReport>,
        order: Digest,
        release: Digest,
    ) -> HostState {
        let group = &assignment.group;
        let unfit = self.rollouts.groups.get(group).and_then(|rollout| rollout.unfit.as_ref());
        let unfit = unfit.is_some_and(|(o, r, _)| (*o, *r) == (order, release));
        let staged = report.is_some_and(|report| report.staged.contains(&release));
        if !staged && !unfit {
            return self.stage(assignment, report, order, release);
        }
        let wanted = assignment.deployment.as_ref().is_some_and(|deployment| deployment.wanted);
        let (now, me, hopes) = (self.now, self.me, self.feed.hopes);
        let rollout = self.rollouts.groups.entry(group.clone()).or_default();
        if wanted {
            rollout.want.shows();
        } else if rollout.want.is_due(now, me, hopes, (order, release))
            && let Some(want) = self.sign(&Want { host: me, order, release })
        {
            self.submit(Entry::Want(want), false);
        }
        HostState::Waiting
    }

    /// Brings the revision into the store, then lets the executor lay it out.
    fn stage(
        &mut self,
        assignment: &Assignment,
        report: Option<&GroupReport>,
        order: Digest,
        release: Digest,
    ) -> HostState {
        let Some(content) = self.ledger.release(release) else { return HostState::Idle };
        let (manifest, manifest_bytes) = (content.manifest, content.manifest_bytes);
        let now = self.now;
        let rollout = self.rollouts.groups.entry(assignment.group.clone()).or_default();
        let recheck = std::mem::take(&mut rollout.recheck);
        match self.rollouts.revisions.get(&manifest) {
            Some(Progress::Complete) if !recheck => {}
            Some(Progress::Fetching(percent)) => return HostState::Staging { percent: *percent },
            Some(Progress::Troubled(_)) if now < rollout.next_fetch_at => {
                return HostState::Staging { percent: 0 };
            }
            Some(Progress::Complete | Progress::Troubled(_) | Progress::Gone) | None => {
                rollout.next_fetch_at = now + FETCH_AGAIN_AFTER;
                self.rollouts.revisions.insert(manifest, Progress::Fetching(0));
                self.out.push(Output::Fetch { manifest, manifest_bytes, recheck });
                return HostState::Staging { percent: 0 };
            }
        }
        let kind = AskedKind::Stage;
        let asked = Asked { group: assignment.group.clone(), order, release, kind };
        if let Some(evidence) = self.evidence(&assignment.group, report, order, release) {
            self.ask_executor(asked, Request::Stage(Box::new(evidence)));
        }
        HostState::Staging { percent: 100 }
    }

    /// Gets receipts for a slot from a majority of voters and sets the executor to work with them.
    fn claim_slot(
        &mut self,
        group: &GroupName,
        report: Option<&GroupReport>,
        token: u64,
        order: Digest,
        release: Digest,
    ) {
        let now = self.now;
        let kept = planted(Defect::ReceiptsNotRefreshed);
        let stale = |claim: &Claim| now.since(claim.since) >= RECEIPT_AGE_MAX / 2 && !kept;
        if self.rollouts.claim.as_ref().is_none_or(|claim| claim.token != token || stale(claim)) {
            let kind = AskedKind::Prepare(token);
            let asked = Asked { group: group.clone(), order, release, kind };
            self.ask_executor(asked, Request::Prepare { group: group.clone(), order, release });
            return;
        }
        self.ask_for_receipts(token);
        let Some(claim) = &self.rollouts.claim else { return };
        let is_vouched_for = claim.agreeing() >= self.electorate.newest().majority();
        if !is_vouched_for && !planted(Defect::ReceiptsSkipped) {
            return;
        }
        let receipts = claim.receipts.values().map(|(_, receipt)| receipt.clone()).collect();
        if let Some(evidence) = self.evidence(group, report, order, release) {
            let kind = AskedKind::Activate(token);
            let asked = Asked { group: group.clone(), order, release, kind };
            let evidence = Box::new(evidence);
            self.ask_executor(asked, Request::Activate { evidence, token, receipts });
        }
    }

    fn ask_for_receipts(&mut self, token: u64) {
        let now = self.now;
        let Some(claim) = &mut self.rollouts.claim else { return };
        if now < claim.next_ask_at {
            return;
        }
        claim.next_ask_at = now + RECEIPT_AGAIN_AFTER;
        let nonce = claim.nonce;
        let have: Vec<_> = claim.receipts.keys().copied().collect();
        for voter in self.voters() {
            if have.contains(&voter) {
                continue;
            }
            if voter == self.me {
                if let Some(receipt) = self.sign_slot(self.me, token, nonce) {
                    self.receipt(self.me, &receipt);
                }
            } else if self.links.is_up(voter) {
                self.send(voter, Message::WantReceipt { token, nonce });
            }
        }
    }

    fn evidence(
        &self,
        group: &GroupName,
        report: Option<&GroupReport>,
        order: Digest,
        release: Digest,
    ) -> Option<crate::execute::Evidence> {
        if !self.cert_is_good() {
            return None;
        }
        let after = report.map_or((0, Digest::ZERO), |report| (report.sequence, report.head));
        let mut evidence = self.ledger.evidence(self.me, group, order, release, after)?;
        // The ledger's copy has no receipts; this one has.
        evidence.cert = self.cert.clone();
        let generation = self.rollouts.executor.as_ref().map_or(0, |report| report.generation);
        let lists = self.electorate.after(generation).iter().take(VOTER_LISTS_PER_MESSAGE_MAX);
        evidence.voter_lists = lists.cloned().collect();
        Some(evidence)
    }

    fn give_back(&mut self, group: &GroupName, token: u64, outcome: Outcome) {
        let (now, me, hopes) = (self.now, self.me, self.feed.hopes);
        let rollout = self.rollouts.groups.entry(group.clone()).or_default();
        let is_silent = planted(Defect::ReturnedOnce) && rollout.done.has_said(&token);
        if is_silent || !rollout.done.is_due(now, me, hopes, token) {
            return;
        }
        if let Some(done) = self.sign(&Done { host: me, token, outcome }) {
            self.submit(Entry::Done(done), false);
        }
    }

    /// Asks the executor one thing at a time for each group.
    fn ask_executor(&mut self, asked: Asked, request: Request) {
        let seen = self.rollouts.executor.as_ref().map_or(0, |report| report.version);
        let rollout = self.rollouts.groups.entry(asked.group.clone()).or_default();
        let waits =
            rollout.asking.is_some_and(|asking| self.now.since(asking.at) < ANSWER_LOST_AFTER);
        if waits || self.now < rollout.next_ask_at {
            return;
        }
        rollout.asking = Some(Asking { kind: asked.kind, at: self.now, seen });
        self.out.push(Output::Execute(asked, Box::new(request)));
    }
}

/// A voter that has not applied the grant yet will have in a moment.
const RECEIPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
const REFUSALS_UNTIL_DECLINED: u32 = 5;
/// The disk may have room again, or a peer may have come.
const FETCH_AGAIN_AFTER: Duration = Duration::from_secs(5);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Laying out a large revision takes a while; a dead executor is noticed by its closed socket.
const ANSWER_LOST_AFTER: Duration = Duration::from_secs(600);

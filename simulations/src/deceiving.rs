//! A library that commits wrongly on one voter: it takes for agreed on what it alone may have.
//!
//! It votes, leads and feeds hosts as before. Nothing is promised of its ledger from then on, nor of those
//! that it tells wrong things; what is promised is that no host is down too many for that, since a host is
//! disturbed only where a majority of the voters vouches for one and the same entry.

use std::collections::BTreeSet;

use groundswell_protocol::{
    node::{Input, LogRecord, Node, Output},
    sabotage::{Defect, plant},
    time::{Mono, UnixSeconds},
    wire::Message,
};

use crate::{coverage::Situation, world::World};

/// Who is wrong about what was agreed on.
#[derive(Debug, Default)]
pub(crate) struct Deceiving {
    /// The voter whose library is wrong.
    voter: Option<usize>,
    /// Whoever has another ledger than was agreed on. That is for good.
    astray: BTreeSet<usize>,
    /// Whoever was told something by one of those, or is that voter, until it is known to be so.
    misled: BTreeSet<usize>,
}

impl Deceiving {
    /// From now on this voter is wrong.
    pub(crate) fn begin(&mut self, voter: usize) {
        self.voter = Some(voter);
        self.misled.insert(voter);
    }

    /// True if there is such a voter: a fleet with it does not get well by itself.
    pub(crate) fn has_begun(&self) -> bool {
        self.voter.is_some()
    }

    /// Lets a host take in what came.
    pub(crate) fn handle_all(
        &self,
        host: usize,
        node: &mut Node,
        (mono, wall): (Mono, UnixSeconds),
        inputs: Vec<Input>,
    ) -> Vec<Output> {
        if self.voter != Some(host) {
            return node.handle_all(mono, wall, inputs);
        }
        let before = plant(Some(Defect::CommitsAhead));
        if before.is_some() {
            // What is looked for is planted on all hosts, or they would differ for that alone.
            plant(before);
        }
        let outputs = node.handle_all(mono, wall, inputs);
        plant(before);
        outputs
    }
}

impl World {
    /// True if nothing that a host has applied is taken for agreed on by itself.
    pub(crate) fn is_in_doubt(&self, host: usize) -> bool {
        self.deceiving.misled.contains(&host) || self.deceiving.astray.contains(&host)
    }

    /// A host is told something. Voters take from each other only what their library makes of it.
    pub(crate) fn note_told(&mut self, from: usize, to: usize, message: &Message) {
        let tells = matches!(message, Message::Ledger { .. } | Message::Snapshot(_));
        if tells
            && self.is_in_doubt(from)
            && self.node(to).is_none_or(|node| node.consensus().is_none())
        {
            self.deceiving.misled.insert(to);
        }
    }

    /// True if a host that was in doubt is like all others again: its ledger is as was agreed on, and so are
    /// the entries that it would read again.
    pub(crate) fn is_cleared(&mut self, host: usize) -> bool {
        let Some(node) = self.node(host) else { return false };
        let applied = node.ledger().applied_index();
        let Some(truth) = self.truth.ledger_at(applied) else { return false };
        if !node.ledger().is_same(truth) {
            self.coverage.met(Situation::AppliedAhead);
            self.deceiving.astray.insert(host);
        }
        // Those that changed nothing may be others all the same.
        let is_agreed = |(index, entry): (&u64, &LogRecord)| {
            *index > applied
                || self.truth.entry(*index).is_none_or(|agreed| agreed.data == entry.data)
        };
        let read_again = self.hosts[host].disk.log.iter().all(is_agreed);
        if self.deceiving.voter == Some(host)
            || self.deceiving.astray.contains(&host)
            || !read_again
        {
            return false;
        }
        self.hosts[host].checked = applied;
        self.deceiving.misled.remove(&host)
    }
}

//! Hosts, daemons and executors begin and end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use groundswell_protocol::{
    consensus::Consensus,
    node::{Input, Node},
};

use crate::{
    coverage::Situation,
    plan::{Micros, SECOND},
    world::{Event, World},
};

impl World {
    pub(crate) fn boot(&mut self, host: usize) {
        // What the plan would have switched on again later is on since everything was mended.
        let away = self.recovering.is_away(host) || self.mending.is_dead(host);
        let away = away || self.hosts[host].gone;
        if self.hosts[host].powered || away {
            return;
        }
        self.trace.mix(&[9, host as u64]);
        self.hosts[host].powered = true;
        self.hosts[host].boots += 1;
        if !std::mem::replace(&mut self.hosts[host].has_joined, true) && self.people.has_deployed()
        {
            self.coverage.met(Situation::LateHostJoined);
        }
        let (one, other) = (self.dice.between(0, SECOND), self.dice.between(0, SECOND));
        self.queue.plan(self.now + one, Event::StartExecutor { host });
        self.queue.plan(self.now + other, Event::StartDaemon { host });
    }

    pub(crate) fn start_daemon(&mut self, host: usize) {
        let is_kept_off = !self.hosts[host].powered || self.mending.is_dead(host);
        if is_kept_off || self.hosts[host].node.is_some() {
            return;
        }
        let (mono, wall) = (self.hosts[host].mono(self.now), self.hosts[host].wall(self.now));
        let every = self.plan.snapshot_every;
        let seeds = self.seeds().map(|seed| format!("host {seed}")).collect();
        let (policy, address) = (self.plan.voter_policy, format!("host {host}"));
        let setup = self.hosts[host].wake(&self.trust, address, every, policy, seeds);
        let born = catch_unwind(AssertUnwindSafe(|| Node::new(mono, wall, setup)));
        let (node, outputs) = match born {
            Ok(Ok(born)) => born,
            Ok(Err(error)) => return self.fail("F7", format!("host {host}: {error}")),
            Err(panic) => return self.panicked(host, &*panic),
        };
        self.trace.say(self.now, || format!("host {host} starts"));
        let target = &mut self.hosts[host];
        target.life += 1;
        target.node = Some(node);
        // What it applied before it is compared anew.
        (target.checked, target.led, target.committed) = (0, (0, 0), (0, 0));
        target.seen.clear();
        target.report_due = false;
        let life = target.life;
        self.perform(host, outputs);
        self.report_soon(host);
        let first = self.now + self.dice.between(0, 100_000);
        self.queue.plan(first, Event::Tick { host, life });
    }

    /// The hosts whose addresses everybody is given.
    pub(crate) fn seeds(&self) -> std::ops::Range<usize> {
        0..self.plan.voters.min(2)
    }

    /// The host that is reached at an address: a machine keeps its own when it is installed anew.
    pub(crate) fn found_at(&self, address: usize) -> usize {
        let is_it = |host: &usize| {
            self.plan.hosts[*host].replaces == Some(address) && !self.hosts[*host].gone
        };
        (0..self.hosts.len()).find(is_it).unwrap_or(address)
    }

    pub(crate) fn start_executor(&mut self, host: usize) {
        let target = &mut self.hosts[host];
        if target.powered && !target.executor_up {
            target.executor_up = true;
            target.executor_life += 1;
            target.executor.open();
            self.note_given_up(host);
            self.report_soon(host);
        }
    }

    /// The daemon dies, or somebody stops it. By when it has ended.
    pub(crate) fn end_daemon(&mut self, host: usize) -> Micros {
        if self.dice.permille(500) {
            return self.stop_daemon(host);
        }
        self.kill_daemon(host, false);
        self.now
    }

    /// Somebody stops the daemon. It tells the others, and ends a moment later: by when.
    pub(crate) fn stop_daemon(&mut self, host: usize) -> Micros {
        self.trace.say(self.now, || format!("host {host}: the daemon is told to stop"));
        if self.node(host).and_then(Node::consensus).is_some_and(Consensus::is_leading) {
            self.coverage.met(Situation::LeaderStopped);
        }
        let (life, ends) = (self.hosts[host].life, self.now + self.dice.between(0, SECOND / 3));
        self.queue.plan(ends, Event::Stopped { host, life });
        self.feed(host, Input::Leave);
        ends
    }

    /// The daemon dies. Its peers learn of it at once, unless the whole machine went.
    pub(crate) fn kill_daemon(&mut self, host: usize, silently: bool) {
        if self.hosts[host].node.take().is_none() {
            return;
        }
        self.trace.mix(&[10, host as u64]);
        self.trace.say(self.now, || format!("host {host}: the daemon dies"));
        self.hosts[host].life += 1;
        self.hosts[host].waiting.clear();
        self.hosts[host].writing.clear();
        // What was written and not yet compared is compared when it starts again.
        self.hosts[host].doomed = None;
        for peer in 0..self.hosts.len() {
            for stream in self.network.streams_of(host, peer).to_vec() {
                let side = self.network.streams[stream].side(host);
                self.network.close(stream, side);
                let soon = match silently || self.network.is_cut(host, peer) {
                    true => self.dice.between(3 * SECOND, 18 * SECOND),
                    false => self.dice.between(100, 500_000),
                };
                self.queue.plan(self.now + soon, Event::Close { stream, side: 1 - side });
            }
        }
    }

    pub(crate) fn kill_executor(&mut self, host: usize) {
        let target = &mut self.hosts[host];
        if !std::mem::replace(&mut target.executor_up, false) {
            return;
        }
        target.executor_life += 1;
        let at_work: Vec<_> = target
            .executor
            .journal
            .keys()
            .filter_map(|group| target.executor.working(group).map(|held| held.token))
            .collect();
        target.executor.crash();
        let id = target.id;
        for token in at_work {
            self.coverage.met(match self.truth.is_disturbed_by(id, token) {
                true => Situation::HolderDiedInLifecycle,
                false => Situation::HolderDiedBetweenTokenAndAction,
            });
        }
        self.report_soon(host);
    }
}

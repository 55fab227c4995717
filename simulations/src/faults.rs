//! What breaks, and how it is mended.

use groundswell_protocol::{fleet::Version, ids::HostId};

use crate::{
    coverage::Situation,
    executor::Executor,
    host::{Disk, Doom, Host},
    plan::{FaultKind, Micros, SECOND},
    world::{Event, World},
};

const HOUR: Micros = 3600 * SECOND;

impl World {
    /// A fault of the plan begins.
    pub(crate) fn fault(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let fault = self.plan.faults[index].clone();
        self.trace.mix(&[30, index as u64]);
        self.trace.say(self.now, || format!("fault {index}: {fault}"));
        let until = self.now + fault.lasts;
        match fault.kind {
            FaultKind::KillDaemon(host) => {
                let ended = self.end_daemon(host);
                self.queue.plan(until.max(ended + 1), Event::StartDaemon { host });
            }
            FaultKind::KillAt { host, border, skip } => {
                let down_for = fault.lasts.min(20 * SECOND);
                self.hosts[host].doomed = Some(Doom { border, skip, down_for });
            }
            FaultKind::KillExecutor(host) => {
                self.kill_executor(host);
                self.queue.plan(until, Event::StartExecutor { host });
            }
            FaultKind::KillAtToken(host) => {
                self.hosts[host].executor_doomed = Some(fault.lasts.min(20 * SECOND));
            }
            FaultKind::PowerLoss(hosts) => {
                if hosts.len() >= 3 {
                    self.coverage.met(Situation::ZoneLostPower);
                }
                for host in hosts {
                    self.lose_power(host);
                    self.queue.plan(until, Event::Boot { host });
                }
            }
            FaultKind::Pause { host, whole } => self.pause(host, whole, until),
            FaultKind::WallJump(host, seconds) => {
                if seconds.abs() > 1_000_000 {
                    self.coverage.met(Situation::WallJumped);
                }
                self.hosts[host].wall_offset += seconds;
            }
            FaultKind::Break(one, other) => {
                for stream in self.network.streams_of(one, other).to_vec() {
                    self.break_stream(stream);
                }
            }
            FaultKind::RestartAll => {
                self.coverage.met(Situation::AllRestarted);
                for host in 0..self.hosts.len() {
                    let at = self.end_daemon(host) + self.dice.between(200_000, 3 * SECOND);
                    self.queue.plan(at, Event::StartDaemon { host });
                }
            }
            FaultKind::HoldersDie => {
                let slots = self.truth.ledger.slots().map(|slot| self.by_id[&slot.host]);
                let holders: Vec<_> = slots.collect();
                if holders.len() >= 2 {
                    self.coverage.met(Situation::HoldersDiedTogether);
                }
                for host in holders {
                    self.lose_power(host);
                    self.queue.plan(until, Event::Boot { host });
                }
            }
            FaultKind::HolderDies { .. } | FaultKind::HolderPauses { .. } => {
                self.doomed_holders.push(index);
            }
            FaultKind::PutBack { host, whole } => {
                // Careful people stop a daemon before they take an image of its disk.
                if self.dice.permille(500) {
                    self.kill_daemon(host, false);
                    self.queue.plan(self.now + SECOND, Event::StartDaemon { host });
                }
                self.hosts[host].image = Some(Box::new(self.hosts[host].disk.clone()));
                self.hosts[host].executor_image =
                    whole.then(|| self.executor_image(host)).flatten();
                self.queue.plan(until, Event::Mend(index));
            }
            FaultKind::Rot(host) => {
                self.hosts[host].image = Some(Box::new(self.hosts[host].disk.clone()));
                self.queue.plan(self.now + fault.lasts / 2, Event::Rot { host });
                self.queue.plan(until, Event::Mend(index));
            }
            FaultKind::Narrow { host, rate } => {
                self.hosts[host].wire.rate = Some(rate);
                self.queue.plan(until, Event::Mend(index));
            }
            FaultKind::SeedsGone => self.seeds_gone(until),
            FaultKind::DiskFails(host) => {
                self.hosts[host].disk_fails = true;
                self.queue.plan(until, Event::Mend(index));
            }
            FaultKind::ExecutorDiskFails(host) => {
                self.hosts[host].executor_disk_fails = true;
                self.queue.plan(until, Event::Mend(index));
            }
            FaultKind::SlowDisk { host, takes } => {
                self.hosts[host].disk_takes = takes;
                self.queue.plan(until, Event::Mend(index));
            }
            FaultKind::Deceived(voter) => self.deceiving.begin(voter),
            FaultKind::Impostor(host) => self.impostor(host, until),
            FaultKind::MajorityLost { .. } => {
                self.await_loss(index);
                self.queue.plan(until, Event::Return);
            }
            FaultKind::Flap { one, other, times } => {
                self.flap(index, one, other, times);
            }
            FaultKind::OneWay(..)
            | FaultKind::Split(_)
            | FaultKind::Pair(..)
            | FaultKind::Star(_)
            | FaultKind::Chain(_)
            | FaultKind::ZoneCut(_) => {
                match fault.kind {
                    FaultKind::Chain(_) if self.plan.voters > 2 => {
                        self.coverage.met(Situation::VotersInARow);
                    }
                    FaultKind::Star(_) if self.plan.voters > 2 => {
                        self.coverage.met(Situation::VotersPartlyConnected);
                    }
                    FaultKind::ZoneCut(_) if !self.ways(&fault.kind).is_empty() => {
                        self.coverage.met(Situation::ZoneCutOff);
                    }
                    FaultKind::Split(_) => drop(self.splits.insert(index, self.said_by_all())),
                    _ => {}
                }
                for (from, to) in self.ways(&fault.kind) {
                    self.cut(from, to);
                }
                self.queue.plan(until, Event::Mend(index));
            }
        }
        self.note_quorum();
    }

    /// A cut of the plan ends.
    pub(crate) fn mend(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let fault = self.plan.faults[index].clone();
        let kind = fault.kind;
        self.trace.say(self.now, || format!("fault {index} is over"));
        match kind {
            FaultKind::DiskFails(host) => self.hosts[host].disk_fails = false,
            FaultKind::ExecutorDiskFails(host) => self.hosts[host].executor_disk_fails = false,
            FaultKind::SlowDisk { host, .. } => self.hosts[host].disk_takes = 0,
            FaultKind::PutBack { host, .. } => drop(self.put_back(host)),
            FaultKind::Rot(host) => self.mend_rot(host),
            FaultKind::Narrow { host, .. } => self.hosts[host].wire.rate = None,
            _ => {}
        }
        if fault.lasts >= HOUR && matches!(kind, FaultKind::Split(_)) {
            self.coverage.met(Situation::HoursApart);
        }
        if fault.lasts > 40 * SECOND && matches!(kind, FaultKind::Split(_) | FaultKind::ZoneCut(_))
        {
            self.coverage.met(Situation::LongSplitHealed);
        }
        if let FaultKind::Split(apart) = &kind {
            let (before, now) =
                (self.splits.remove(&index).unwrap_or_default(), self.said_by_all());
            let changed = |host: &usize| before.get(*host) != now.get(*host);
            let changed: Vec<_> = (0..self.hosts.len()).filter(changed).collect();
            let within = changed.iter().filter(|host| apart.contains(host)).count();
            if (1..changed.len()).contains(&within) {
                self.coverage.met(Situation::SplitHealedBothChanged);
            }
        }
        for (from, to) in self.ways(&kind) {
            self.mend_way(from, to);
        }
    }

    /// What each host says of itself, by the number of its record.
    fn said_by_all(&self) -> Vec<Option<Version>> {
        let own = |host: &Host| Some(host.node.as_ref()?.view().get(host.id)?.version());
        self.hosts.iter().map(own).collect()
    }

    /// A host has got a slot, or has begun with it: some lose power then, and some stand still.
    pub(crate) fn holder_is_hit(&mut self, host: usize, has_begun: bool) {
        let is_meant = |fault: &usize| match self.plan.faults[*fault].kind {
            FaultKind::HolderDies { begun } | FaultKind::HolderPauses { begun } => {
                begun == has_begun
            }
            _ => false,
        };
        let place = self.doomed_holders.iter().position(is_meant);
        let Some(place) = place.filter(|_| !self.healed) else { return };
        let fault = self.plan.faults[self.doomed_holders.swap_remove(place)].clone();
        self.trace.say(self.now, || format!("host {host} is hit with its slot: {:?}", fault.kind));
        let until = self.now + fault.lasts;
        if let FaultKind::HolderPauses { .. } = fault.kind {
            return self.pause(host, true, until);
        }
        self.lose_power(host);
        self.queue.plan(until, Event::Boot { host });
    }

    /// The seeds lose power, and everybody else is started again soon after.
    fn seeds_gone(&mut self, until: Micros) {
        for host in 0..self.hosts.len() {
            if self.seeds().contains(&host) {
                self.lose_power(host);
                self.queue.plan(until, Event::Boot { host });
            } else {
                self.kill_daemon(host, false);
                let at = self.now + self.dice.between(200_000, 3 * SECOND);
                self.queue.plan(at, Event::StartDaemon { host });
            }
        }
    }

    /// A bit has flipped in what the daemon wrote down: it names it and ends, as often as it is started.
    pub(crate) fn rot(&mut self, host: usize) {
        if !self.healed {
            self.kill_daemon(host, false);
            self.hosts[host].disk_fails = true;
            self.queue.plan(self.now + SECOND, Event::StartDaemon { host });
        }
    }

    /// Somebody puts a copy of it back and starts the machine anew, as the daemon has told them to. Where
    /// others would be too few to tell the host the rest, the copy is of just now.
    fn mend_rot(&mut self, host: usize) {
        self.hosts[host].disk_fails = false;
        self.queue.plan(self.now + SECOND, Event::StartDaemon { host });
        let votes = self.truth.ledger.electorate().newest().is_voter(self.hosts[host].id);
        if self.put_back(host) && votes {
            self.coverage.met(Situation::LogRotted);
        }
    }

    /// What an executor has on its disk, if the host has no slot.
    fn executor_image(&self, host: usize) -> Option<Executor> {
        let Host { id, executor, .. } = &self.hosts[host];
        let is_free = self.truth.ledger.slot_of(*id).is_none() && executor.is_at_rest();
        is_free.then(|| executor.image())
    }

    /// The executor's disk becomes what it was, and with it what the host runs. Nobody tells the ledger.
    fn put_executor_back(&mut self, host: usize) {
        let Some(image) = self.hosts[host].executor_image.take() else { return };
        let Some(now) = self.executor_image(host) else { return };
        if now.runs() != image.runs() {
            self.coverage.met(Situation::MachinePutBack);
        }
        self.trace.say(self.now, || format!("host {host}: so does its executor"));
        self.truth.runs_again(self.hosts[host].id, &image.runs());
        self.hosts[host].executor = image;
    }

    /// A machine is switched off, and comes back with the image of its daemon's disk that was taken
    /// before, and with that of its executor's, if there is one. False if that is not done.
    fn put_back(&mut self, host: usize) -> bool {
        let Some(image) = self.hosts[host].image.take() else { return false };
        // With a voter that is gone, or that was removed and has no successor yet, too few would be left to
        // tell it what it has forgotten.
        let ledger = &self.truth.ledger;
        let voters = ledger.electorate().newest();
        let is_away =
            |voter: HostId| self.hosts[self.by_id[&voter]].gone || self.people.have_removed(voter);
        let is_last = voters.is_voter(self.hosts[host].id) && voters.hosts().any(is_away);
        if self.hosts[host].gone || !self.hosts[host].powered || is_last {
            return false;
        }
        self.lose_power(host);
        self.put_executor_back(host);
        let target = &mut self.hosts[host];
        let forgotten = std::mem::replace(&mut target.disk, *image);
        let end = |disk: &Disk| disk.log.keys().next_back().copied();
        let (votes, lacks) = {
            let voters = self.truth.ledger.electorate().newest();
            (voters.is_voter(target.id), end(&forgotten) > end(&target.disk))
        };
        if votes && lacks {
            self.coverage.met(Situation::VoterPutBack);
        }
        self.truth.forgets(target.id, forgotten.epoch);
        target.forgotten = Some(Box::new(forgotten));
        target.forgotten_at = target.boots;
        let again = self.now + self.dice.between(SECOND, 10 * SECOND);
        self.queue.plan(again, Event::Boot { host });
        true
    }

    /// Cuts and mends a link, over and over.
    fn flap(&mut self, index: usize, one: usize, other: usize, times: u32) {
        if one == other {
            return;
        }
        self.coverage.met(Situation::LinkFlapped);
        let span = (self.plan.faults[index].lasts / u64::from(2 * times)).max(1_000);
        for time in 0..times {
            let at = self.now + 2 * u64::from(time) * span;
            self.queue.plan(at, Event::Cut { one, other, lasts: span });
        }
    }

    /// One cut of a link that flaps.
    pub(crate) fn cut_pair(&mut self, one: usize, other: usize, lasts: Option<Micros>) {
        if self.healed {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            match lasts {
                Some(_) => self.cut(from, to),
                None => self.mend_way(from, to),
            }
        }
        if let Some(lasts) = lasts {
            self.queue.plan(self.now + lasts, Event::Uncut { one, other });
        }
    }

    /// The ways that a fault cuts.
    fn ways(&self, kind: &FaultKind) -> Vec<(usize, usize)> {
        let all = 0..self.hosts.len();
        match kind {
            FaultKind::OneWay(from, to) => {
                let ways = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
                ways.filter(|(from, to)| from != to).collect()
            }
            FaultKind::Pair(one, other) if one != other => {
                vec![(*one, *other), (*other, *one)]
            }
            FaultKind::Star(center) => {
                let voters = 0..self.plan.voters;
                let ways = voters.clone().flat_map(|from| voters.clone().map(move |to| (from, to)));
                ways.filter(|(from, to)| from != to && from != center && to != center).collect()
            }
            FaultKind::Chain(order) => {
                let far = |one: usize, other: usize| one.abs_diff(other) > 1;
                let places = 0..order.len();
                let ways = places.clone().flat_map(|one| places.clone().map(move |to| (one, to)));
                let ways = ways.filter(|(one, other)| far(*one, *other));
                ways.map(|(one, other)| (order[one], order[other])).collect()
            }
            FaultKind::ZoneCut(zone) => {
                let inside = |host: &usize| self.hosts[*host].plan.zone == *zone;
                self.ways(&FaultKind::Split(all.filter(inside).collect()))
            }
            FaultKind::Split(side) => {
                let others: Vec<_> = all.filter(|host| !side.contains(host)).collect();
                let across =
                    side.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
                across.flat_map(|(one, other)| [(one, other), (other, one)]).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        for stream in self.network.cut(from, to) {
            let at = self.now + self.dice.between(3 * SECOND, 18 * SECOND);
            self.queue.plan(at, Event::Fray { stream });
        }
    }

    pub(crate) fn mend_way(&mut self, from: usize, to: usize) {
        let law = self.plan.delay.clone();
        for (stream, towards, message) in self.network.mend(from, to) {
            let at = self.network.arrival(self.now, stream, towards, &law, &mut self.dice);
            let message = Box::new(message);
            self.queue.plan(at, Event::Arrive { stream, towards, message });
        }
    }

    /// A host is switched off for good.
    pub(crate) fn scrap(&mut self, host: usize) {
        if !std::mem::replace(&mut self.hosts[host].gone, true) {
            self.lose_power(host);
        }
    }

    pub(crate) fn lose_power(&mut self, host: usize) {
        self.kill_daemon(host, true);
        self.kill_executor(host);
        self.hosts[host].powered = false;
        self.hosts[host].paused = None;
        self.hosts[host].backlog.clear();
    }

    pub(crate) fn pause(&mut self, host: usize, whole: bool, until: Micros) {
        if self.hosts[host].paused.is_some() || !self.hosts[host].powered {
            return;
        }
        let id = self.hosts[host].id;
        if self.truth.ledger.slot_of(id).is_some() {
            self.coverage.met(Situation::PausedHolder);
        }
        self.hosts[host].paused = Some((until, whole));
        self.hosts[host].paused_at = self.now;
        self.queue.plan(until, Event::Resume { host });
        for peer in 0..self.hosts.len() {
            for stream in self.network.streams_of(host, peer).to_vec() {
                let at = self.now + self.dice.between(14 * SECOND, 17 * SECOND);
                self.queue.plan(at, Event::Fray { stream });
            }
        }
    }

    /// A host goes on where it stood. What came meanwhile comes now.
    pub(crate) fn resume(&mut self, host: usize) {
        if self.hosts[host].paused.is_none_or(|(until, _)| until > self.now) {
            return;
        }
        self.trace.mix(&[31, host as u64]);
        self.trace.say(self.now, || format!("host {host} goes on"));
        let is_long = self.now >= self.hosts[host].paused_at + 600 * SECOND;
        if is_long && self.truth.ledger.slot_of(self.hosts[host].id).is_some() {
            self.coverage.met(Situation::PausedForLong);
        }
        self.hosts[host].paused = None;
        self.written(host);
        for event in std::mem::take(&mut self.hosts[host].backlog) {
            self.queue.plan(self.now, event);
        }
    }

    fn note_quorum(&mut self) {
        let voters = self.truth.ledger.electorate().newest();
        let is_up = |voter: &HostId| self.hosts[self.by_id[voter]].node.is_some();
        let up = voters.hosts().filter(is_up).count();
        if up < voters.majority() && self.truth.applied() > 0 {
            self.coverage.met(Situation::QuorumLost);
        }
    }

    /// Everything is mended: no more faults, a quiet network, every host up.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        // Whoever has applied what was not agreed on is right again only on another disk.
        self.is_over = self.deceiving.has_begun();
        self.recovering.end();
        self.trace.mix(&[32]);
        self.trace.say(self.now, || "everything is mended".into());
        self.quiet();
        for host in 0..self.hosts.len() {
            self.hosts[host].disk_takes = 0;
            if self.hosts[host].paused.is_some() {
                self.hosts[host].paused = Some((self.now, true));
                self.resume(host);
            }
            if self.truth.ledger.is_removed(self.hosts[host].id) {
                self.scrap(host);
            }
            if self.hosts[host].gone {
                continue;
            }
            self.hosts[host].doomed = None;
            self.hosts[host].executor_doomed = None;
            self.hosts[host].disk_fails = false;
            self.hosts[host].wire.rate = None;
            self.hosts[host].executor_disk_fails = false;
            self.hosts[host].wall_offset = 0;
            if self.plan.heal_restarts {
                self.kill_daemon(host, false);
            }
            self.queue.plan(self.now, Event::Boot { host });
            self.queue.plan(self.now + SECOND, Event::StartDaemon { host });
            self.queue.plan(self.now + SECOND, Event::StartExecutor { host });
        }
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                while self.network.is_cut(from, to) {
                    self.mend_way(from, to);
                }
            }
        }
        self.queue.plan(self.now + 2 * SECOND, Event::Look);
    }
}

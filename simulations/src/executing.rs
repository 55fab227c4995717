//! Questions to executors and what comes of them: the steps in which a host is disturbed.

use groundswell_protocol::{
    execute::{Request, Response},
    ids::{Digest, GroupName},
    node::{Asked, Input},
};

use crate::{
    coverage::Situation,
    dice::Dice,
    executor::{Answered, Asker, Luck, Progressed, Step},
    plan::{Micros, SECOND},
    world::{Event, World},
};

impl World {
    pub(crate) fn ask(&mut self, host: usize, life: u32, asked: Asked, request: &Request) {
        let at = self.now + self.dice.between(50, self.plan.executor_delay_max);
        if !self.hosts[host].executor_up {
            let answer = Err("swell-exec cannot be reached".into());
            self.queue.plan(at, Event::Answer { host, life, asked, answer });
            return;
        }
        if self.hosts[host].executor_disk_fails {
            self.executor_ends(host);
            let answer = Err("swell-exec has ended".into());
            self.queue.plan(at, Event::Answer { host, life, asked, answer });
            return;
        }
        if self.is_stubborn(host, &asked, request) {
            let answer = Ok(Response::Refused { reason: "the order's time is over".into() });
            self.queue.plan(at, Event::Answer { host, life, asked, answer });
            return;
        }
        let stage_fails = matches!(request, Request::Stage(_))
            && !self.healed
            && self.dice.permille(self.plan.stage_fails_permille);
        let target = &mut self.hosts[host];
        let (now, wall) = (target.mono(self.now), target.wall(self.now));
        let asker = Asker { trust: &self.trust, host: target.id, now, wall };
        let answered = target.executor.answer(&asker, request, &mut self.dice, stage_fails);
        let mut begun = None;
        let response = match answered {
            Answered::Only(response) => response,
            Answered::Begun(response, group) => {
                begun = Some(group.clone());
                let life = self.hosts[host].executor_life;
                let due = self.now + self.dice.between(10, 300_000);
                self.queue.plan(due, Event::Begin { host, life, group, due });
                if let Some(down_for) = self.hosts[host].executor_doomed.take() {
                    self.kill_executor(host);
                    self.queue.plan(self.now + down_for, Event::StartExecutor { host });
                }
                response
            }
        };
        self.note_given_up(host);
        if self.hosts[host].executor.has_missed_orders() {
            self.coverage.met(Situation::OrdersMissed);
        }
        self.note_answer(host, &asked, &response);
        let takes = match request {
            Request::Stage(_) => self.dice.between(1_000, 500_000),
            _ => 0,
        };
        let answer = Ok(response);
        self.queue.plan(at + takes, Event::Answer { host, life, asked, answer });
        self.report_soon(host);
        if let Some(group) = begun.filter(|_| !self.healed) {
            self.stop_at_beginning(host, &group);
        }
    }

    /// What cannot be made durable ends the executor, as often as it is started.
    fn executor_ends(&mut self, host: usize) {
        self.coverage.met(Situation::ExecutorDiskFailed);
        self.kill_executor(host);
        self.queue.plan(self.now + 3 * SECOND, Event::StartExecutor { host });
    }

    /// True if the executor of this host will not begin with this release, whoever vouches for it, until
    /// the daemon is started again.
    pub(crate) fn is_stubborn(&self, host: usize, asked: &Asked, request: &Request) -> bool {
        let begins = matches!(request, Request::Activate { .. })
            && self.hosts[host].executor.working(&asked.group).is_none()
            && !self.hosts[host].executor.has_begun(&asked.group);
        let life = u64::from(self.hosts[host].life);
        let throw = u64::from(asked.release.0[1]) << 32 | life << 16 | host as u64;
        begins && !self.healed && Dice::new(throw).permille(self.plan.stubborn_permille)
    }

    /// Notes where an executor left a host as it was, in the middle.
    pub(crate) fn note_given_up(&mut self, host: usize) {
        for group in self.hosts[host].executor.given_up() {
            self.trace.say(self.now, || format!("host {host} is left as it is in {group}"));
            self.truth.rests(self.hosts[host].id, &group, false);
        }
    }

    pub(crate) fn note_answer(&mut self, host: usize, asked: &Asked, response: &Response) {
        use groundswell_protocol::node::AskedKind;
        self.trace.mix(&[5, host as u64]);
        let Response::Refused { reason } = response else { return };
        self.trace.say(self.now, || format!("host {host}: {:?} refused: {reason}", asked.kind));
        match asked.kind {
            AskedKind::Stage => self.coverage.met(Situation::StageRefused),
            AskedKind::Activate(_)
                if reason.contains("too old") || reason.contains("no number") =>
            {
                self.coverage.met(Situation::ReceiptsTooOld);
            }
            _ => {}
        }
    }

    pub(crate) fn report_soon(&mut self, host: usize) {
        if std::mem::replace(&mut self.hosts[host].report_due, true) {
            return;
        }
        let at = self.now + self.dice.between(50, 50_000);
        let life = self.hosts[host].life;
        self.queue.plan(at, Event::Report { host, life });
    }

    pub(crate) fn report(&mut self, host: usize, life: u32) {
        self.hosts[host].report_due = false;
        if self.hosts[host].life != life {
            // It was meant for the daemon before; this one gets its own.
            if self.hosts[host].node.is_some() {
                self.report_soon(host);
            }
            return;
        }
        let report =
            self.hosts[host].executor_up.then(|| self.hosts[host].executor.report(&self.trust));
        self.feed(host, Input::Executor(report));
    }

    pub(crate) fn begin(&mut self, host: usize, life: u32, group: &GroupName, due: Micros) {
        if self.hosts[host].executor_life != life || !self.hosts[host].executor_up {
            return;
        }
        let Some(activation) = self.hosts[host].executor.working(group) else { return };
        let (token, release) = (activation.token, activation.release);
        let fresh = matches!(activation.step, Step::Forward(0));
        self.trace.mix(&[7, host as u64, token]);
        self.trace.say(self.now, || format!("host {host} acts on slot {token} in {group}"));
        if !fresh {
            self.coverage.met(Situation::InterruptedWentOn);
        }
        self.bring_word(host);
        let is_late = self.now > due + LATE;
        let checked = self.truth.disturbs(self.hosts[host].id, token, release, is_late);
        self.hold(checked);
        self.next_step(host, life, group.clone());
        self.queue.plan(self.now, Event::Holds { host, begun: true });
    }

    pub(crate) fn next_step(&mut self, host: usize, life: u32, group: GroupName) {
        let slot = self.truth.ledger.slot_of(self.hosts[host].id);
        // Whoever comes back to a deployment that is over may take longer than the fleet needs to hear of it.
        let lingers = !self.healed && slot.is_some_and(|slot| slot.is_left);
        let takes = match lingers && self.dice.permille(300) {
            true => self.dice.between(5 * SECOND, 20 * SECOND),
            false => self.dice.between(1_000, self.plan.step_max),
        };
        self.queue.plan(self.now + takes, Event::StepOver { host, life, group });
    }

    pub(crate) fn step_over(&mut self, host: usize, life: u32, group: &GroupName) {
        if self.hosts[host].executor_life != life || !self.hosts[host].executor_up {
            return;
        }
        if self.hosts[host].executor_disk_fails {
            return self.executor_ends(host);
        }
        let Some(activation) = self.hosts[host].executor.working(group) else { return };
        let luck = self.luck(host, activation.release);
        let progressed = self.hosts[host].executor.advance(group, luck);
        self.trace.mix(&[8, host as u64, progressed as u64]);
        match progressed {
            Progressed::Goes => self.next_step(host, life, group.clone()),
            Progressed::Succeeded | Progressed::Restored | Progressed::Broken => {
                self.trace.say(self.now, || format!("host {host} ends in {group}: {progressed:?}"));
                let works = progressed != Progressed::Broken;
                self.truth.rests(self.hosts[host].id, group, works);
                match progressed {
                    Progressed::Restored => self.coverage.met(Situation::RestoredHost),
                    Progressed::Broken => self.coverage.met(Situation::BrokenHost),
                    _ => {}
                }
            }
        }
        self.report_soon(host);
    }

    /// What a release does on a host: always the same.
    pub(crate) fn luck(&mut self, host: usize, release: Digest) -> Luck {
        let restores = self.healed || !self.dice.permille(self.plan.restore_fails_permille);
        Luck { fails_at: self.people.fails_at(release, host), restores }
    }
}

/// What a host had checked longer ago than this may have been taken from it since.
const LATE: Micros = 50 * SECOND;

//! Which hosts are silent: every host accuses those it does not hear; enough accusers make a verdict.
//!
//! One host's word is not enough, because it may itself be the one that is cut off. Accusations
//! travel in records; the verdict follows from the records that are here and from how long they have
//! been. It stops grants and shows on screens. It never frees a slot.

use std::{collections::BTreeMap, time::Duration};

use super::{
    record::Accusation,
    view::{View, version_of},
};
use crate::{
    ids::HostId,
    limits::{ACCUSATIONS_MAX, ACCUSE_AFTER, ACCUSERS_ENOUGH, VERDICT_AFTER, VERDICT_ALONE_AFTER},
    time::Mono,
};

/// How a host stands in the eyes of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody, or nobody for long, has found it silent.
    Reachable,
    /// Some hosts find it silent, since this time.
    Suspect {
        /// When the first accusation was known here.
        since: Mono,
    },
    /// Enough hosts have found it silent for long enough.
    Unreachable {
        /// When the first accusation was known here.
        since: Mono,
    },
    /// It was never heard of.
    Unknown,
}

/// One host's ears.
#[derive(Debug)]
pub struct Detector {
    me: HostId,
    last_tick: Mono,
    /// When each neighbour was last heard, directly or by a new record.
    heard: BTreeMap<HostId, Mono>,
    /// Peers whose link broke of late, and when: one that comes and goes counts once.
    lost: BTreeMap<HostId, Mono>,
    accused: Vec<Accusation>,
    suspects: BTreeMap<HostId, Suspicion>,
}

/// How long accusations against a host have stood.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Mono,
    /// Since when the accusers have been enough.
    enough_since: Option<Mono>,
}

impl Detector {
    /// The ears of `me`, which starts to listen at `now`.
    pub fn new(me: HostId, now: Mono) -> Self {
        Self {
            me,
            last_tick: now,
            heard: BTreeMap::new(),
            lost: BTreeMap::new(),
            accused: Vec::new(),
            suspects: BTreeMap::new(),
        }
    }

    /// Something came over the link of `peer`.
    pub fn hear(&mut self, now: Mono, peer: HostId) {
        self.heard.insert(peer, now);
    }

    /// The last connection to `peer` broke.
    pub fn link_down(&mut self, now: Mono, peer: HostId) {
        self.lost.insert(peer, now);
    }

    /// Listens round: `neighbours` are the hosts that ought to be heard. Called every quarter of a
    /// second.
    pub fn tick(&mut self, now: Mono, view: &View, neighbours: &[HostId]) {
        self.excuse_own_absence(now, neighbours);
        self.lost.retain(|_, at| now.since(*at) < LOST_WITHIN);
        self.accused =
            if self.is_muted(neighbours) { Vec::new() } else { self.silent(now, view, neighbours) };
        self.suspects = neighbours
            .iter()
            .filter_map(|host| Some((*host, self.suspicion(now, *host, view, neighbours)?)))
            .collect();
    }

    /// Time in which this host itself did not run is not silence of the others.
    fn excuse_own_absence(&mut self, now: Mono, neighbours: &[HostId]) {
        let late = now.since(self.last_tick).saturating_sub(LATE_AFTER);
        self.last_tick = now;
        if !late.is_zero() {
            self.heard.values_mut().for_each(|at| *at = (*at + late).min(now));
        }
        self.heard.retain(|host, _| neighbours.contains(host));
        for host in neighbours {
            self.heard.entry(*host).or_insert(now);
        }
    }

    /// True if this host lost so many links at once that the fault is likely its own.
    fn is_muted(&self, neighbours: &[HostId]) -> bool {
        self.lost.len() >= ACCUSERS_ENOUGH && self.lost.len() * 2 > neighbours.len()
    }

    fn silent(&self, now: Mono, view: &View, neighbours: &[HostId]) -> Vec<Accusation> {
        let mut accused: Vec<_> = neighbours
            .iter()
            .filter_map(|host| {
                let record = view.get(*host)?;
                // A record that came by another way is a sign of life as well.
                let heard = self.heard.get(host).copied().max(view.heard(*host))?;
                (now.since(heard) >= ACCUSE_AFTER).then_some(Accusation {
                    host: *host,
                    epoch: record.epoch,
                    sequence: record.sequence,
                })
            })
            .collect();
        accused.sort();
        accused.truncate(ACCUSATIONS_MAX);
        accused
    }

    fn suspicion(
        &self,
        now: Mono,
        host: HostId,
        view: &View,
        neighbours: &[HostId],
    ) -> Option<Suspicion> {
        let current = version_of(view.get(host)?);
        // Of the very record that is here: what accuses versions that do not exist is a lie, which no
        // newer record could ever refute.
        let accuses = |list: &[Accusation]| {
            list.iter().any(|a| a.host == host && (a.epoch, a.sequence) == current)
        };
        let is_mute = |other: &HostId| self.accused.iter().any(|a| a.host == *other);
        let judges = neighbours.iter().filter(|other| **other != host && !is_mute(other));
        let (mut asked, mut accusers) = (1, usize::from(accuses(&self.accused)));
        for judge in judges {
            let Some(record) = view.get(*judge) else { continue };
            asked += 1;
            accusers += usize::from(accuses(&record.accused));
        }
        if accusers == 0 {
            return None;
        }
        let before = self.suspects.get(&host);
        let since = before.map_or(now, |before| before.since);
        let enough = accusers >= ACCUSERS_ENOUGH.min(asked);
        let enough_since =
            enough.then(|| before.and_then(|before| before.enough_since).unwrap_or(now));
        Some(Suspicion { since, enough_since })
    }

    /// The hosts that this one finds silent, for its record.
    pub fn accused(&self) -> Vec<Accusation> {
        self.accused.clone()
    }

    /// When a neighbour was last heard over its link.
    pub fn last_heard(&self, host: HostId) -> Option<Mono> {
        self.heard.get(&host).copied()
    }

    /// True if somebody's record accuses this very host in its present version: a new record is due.
    pub fn accused_me(&self, view: &View) -> bool {
        let Some(current) = view.get(self.me).map(version_of) else { return false };
        view.iter().any(|record| {
            record.accused.iter().any(|a| a.host == self.me && (a.epoch, a.sequence) == current)
        })
    }

    /// How a host stands at `now`.
    pub fn verdict(&self, now: Mono, host: HostId, view: &View) -> Standing {
        if host == self.me {
            return Standing::Reachable;
        }
        if view.get(host).is_none() {
            return Standing::Unknown;
        }
        let Some(Suspicion { since, enough_since }) = self.suspects.get(&host) else {
            return Standing::Reachable;
        };
        let enough = enough_since.is_some_and(|at| now.since(at) >= VERDICT_AFTER);
        if enough || now.since(*since) >= VERDICT_ALONE_AFTER {
            Standing::Unreachable { since: *since }
        } else {
            Standing::Suspect { since: *since }
        }
    }
}

/// Time over which broken links are counted.
const LOST_WITHIN: Duration = Duration::from_secs(10);
/// A tick that is later than this tells of this host's own absence.
const LATE_AFTER: Duration = Duration::from_millis(750);

#[cfg(test)]
mod tests {
    use super::{
        super::view::tests::{FLEET, host, record},
        *,
    };

    const STEP: Duration = Duration::from_millis(250);

    /// Host 1 listens to hosts 2 to `hosts`; each accuser's record says that host 2 is silent.
    struct Ears {
        detector: Detector,
        view: View,
        now: Mono,
        neighbours: Vec<HostId>,
    }

    impl Ears {
        fn new(hosts: u8) -> Self {
            let mut view = View::new(host(1), FLEET);
            for number in 1..=hosts {
                view.insert(Mono(0), &record(number, (1, 1), &[]), |_| true).unwrap();
            }
            let neighbours = (2..=hosts).map(host).collect();
            let detector = Detector::new(host(1), Mono(0));
            Self { detector, view, now: Mono(0), neighbours }
        }

        fn run(&mut self, time: Duration, silent: &[u8]) {
            let end = self.now + time;
            while self.now < end {
                self.now = self.now + STEP;
                for peer in &self.neighbours {
                    if !silent.iter().any(|number| host(*number) == *peer) {
                        self.detector.hear(self.now, *peer);
                    }
                }
                self.detector.tick(self.now, &self.view, &self.neighbours);
            }
        }

        fn accuse(&mut self, by: u8, sequence: u64) {
            let accusation = Accusation { host: host(2), epoch: 1, sequence };
            let signed = record(by, (1, sequence + 1), &[accusation]);
            self.view.insert(self.now, &signed, |_| true).unwrap();
        }

        fn standing(&self) -> Standing {
            self.detector.verdict(self.now, host(2), &self.view)
        }
    }

    #[test]
    fn three_accusers_for_five_seconds_make_a_verdict() {
        let mut ears = Ears::new(6);
        ears.run(ACCUSE_AFTER + STEP, &[2]);
        assert_eq!(ears.detector.accused().len(), 1);
        ears.accuse(3, 1);
        ears.run(VERDICT_AFTER * 2, &[2]);
        assert!(matches!(ears.standing(), Standing::Suspect { .. }), "two are not enough");
        ears.accuse(4, 1);
        ears.run(VERDICT_AFTER, &[2]);
        assert!(matches!(ears.standing(), Standing::Suspect { .. }), "three, not for long");
        ears.run(STEP * 2, &[2]);
        assert!(matches!(ears.standing(), Standing::Unreachable { .. }));
    }

    #[test]
    fn a_newer_record_clears_the_host() {
        let mut ears = Ears::new(5);
        ears.run(ACCUSE_AFTER + STEP, &[2]);
        ears.accuse(3, 1);
        ears.accuse(4, 1);
        ears.run(VERDICT_AFTER + STEP, &[2]);
        assert!(matches!(ears.standing(), Standing::Unreachable { .. }));
        ears.view.insert(ears.now, &record(2, (2, 1), &[]), |_| true).unwrap();
        ears.run(STEP, &[]);
        assert_eq!(ears.standing(), Standing::Reachable);
    }

    #[test]
    fn one_accuser_alone_needs_long() {
        let mut ears = Ears::new(6);
        ears.run(ACCUSE_AFTER + STEP * 2, &[2]);
        ears.run(VERDICT_ALONE_AFTER - STEP * 2, &[2]);
        assert!(matches!(ears.standing(), Standing::Suspect { .. }));
        ears.run(STEP * 2, &[2]);
        assert!(matches!(ears.standing(), Standing::Unreachable { .. }));
    }

    #[test]
    fn where_there_are_only_two_hosts_one_is_enough() {
        let mut ears = Ears::new(2);
        ears.run(ACCUSE_AFTER + VERDICT_AFTER + STEP * 2, &[2]);
        assert!(matches!(ears.standing(), Standing::Unreachable { .. }));
    }

    #[test]
    fn a_host_that_lost_most_links_accuses_nobody_for_a_while() {
        let mut ears = Ears::new(5);
        for number in [2, 3, 4] {
            ears.detector.link_down(ears.now, host(number));
        }
        ears.run(Duration::from_secs(9), &[2, 3, 4]);
        assert!(ears.detector.accused().is_empty());
        ears.run(Duration::from_secs(2), &[2, 3, 4]);
        assert_eq!(ears.detector.accused().len(), 3);
    }

    #[test]
    fn a_host_that_slept_accuses_nobody() {
        let mut ears = Ears::new(5);
        ears.run(Duration::from_secs(1), &[]);
        ears.now = ears.now + Duration::from_secs(60);
        ears.detector.tick(ears.now, &ears.view, &ears.neighbours);
        assert!(ears.detector.accused().is_empty());
    }

    #[test]
    fn accusations_of_records_that_do_not_exist_count_for_nothing() {
        let mut ears = Ears::new(6);
        for by in [3, 4, 5, 6] {
            let lie = Accusation { host: host(2), epoch: u64::MAX, sequence: u64::MAX };
            let me = Accusation { host: host(1), epoch: u64::MAX, sequence: u64::MAX };
            ears.view.insert(ears.now, &record(by, (1, 2), &[lie, me]), |_| true).unwrap();
        }
        ears.run(VERDICT_ALONE_AFTER * 2, &[]);
        assert_eq!(ears.standing(), Standing::Reachable);
        assert!(!ears.detector.accused_me(&ears.view), "nothing could ever refute that");
    }

    #[test]
    fn a_peer_that_comes_and_goes_mutes_nobody() {
        let mut ears = Ears::new(5);
        for _ in 0..10 {
            ears.detector.link_down(ears.now, host(2));
        }
        ears.run(ACCUSE_AFTER + STEP, &[2]);
        assert_eq!(ears.detector.accused().len(), 1);
    }

    #[test]
    fn an_accused_host_is_told_to_speak_up() {
        let mut ears = Ears::new(3);
        let accusation = Accusation { host: host(1), epoch: 1, sequence: 1 };
        assert!(!ears.detector.accused_me(&ears.view));
        ears.view.insert(Mono(0), &record(3, (1, 2), &[accusation]), |_| true).unwrap();
        assert!(ears.detector.accused_me(&ears.view));
        ears.view.insert(Mono(0), &record(1, (1, 2), &[]), |_| true).unwrap();
        assert!(!ears.detector.accused_me(&ears.view));
    }

    #[test]
    fn accusations_are_bounded() {
        let many = u8::try_from(ACCUSATIONS_MAX + 3).unwrap();
        let mut ears = Ears::new(many);
        let silent: Vec<u8> = (2..=many).collect();
        ears.run(ACCUSE_AFTER + STEP, &silent);
        assert_eq!(ears.detector.accused().len(), ACCUSATIONS_MAX);
    }
}

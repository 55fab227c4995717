//! Who is unreachable: a pure function of the records, and of how long it has been so here.
//!
//! One host's word is not enough, because it may itself be the one that is cut off. Accusations
//! travel in the accusers' own records. Those of a host's neighbours on the rings count, which
//! everybody works out from the roster; of a neighbour that is itself accused, so do those of the
//! next one. A host that says that its daemon stops needs no accuser. A record that is newer than the
//! accused one, or than that last word, clears its host at once.
//!
//! A verdict stops grants and shows on screens. It never frees a slot.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    bits::Bits,
    records::{Records, Statement, Version},
    roster::{Number, Roster},
};
use crate::{
    limits::{ACCUSE_AFTER, ACCUSERS_ENOUGH, VERDICT_AFTER, VERDICT_ALONE_AFTER},
    sabotage::{Defect, planted},
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

/// How many neighbours accuse a host, and how many it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Neighbours whose newest record accuses the host's newest record.
    pub accusers: usize,
    /// Accusers that are enough: three, or all neighbours that nobody accuses if those are fewer. None of a
    /// host that says itself that it goes.
    pub enough: usize,
}

/// All accusations in the records that are here.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// By accused host: who accuses which version of its record.
    charges: BTreeMap<Number, Vec<(Number, Version)>>,
    /// Who is in there: of most hosts that is all that is asked.
    charged: Bits,
    /// By accuser: whom.
    accused_by: BTreeMap<Number, Vec<Number>>,
    suspects: BTreeMap<Number, Suspicion>,
    /// Hosts whose last word is that their daemon stops.
    leaving: Bits,
    /// Hosts that were accused when it was last counted.
    counted: BTreeSet<Number>,
    /// Hosts whose record has changed since then, or what is said of it.
    touched: BTreeSet<Number>,
    /// Everybody's neighbours may have changed since then.
    is_stale: bool,
}

/// How long accusations against a host have stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspicion {
    since: Mono,
    /// Since when the accusers have been enough.
    enough_since: Option<Mono>,
}

impl Verdicts {
    /// Nobody is accused.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new record of a host is here, and accuses these. With `leaves`, its daemon stops.
    pub fn record(&mut self, by: Number, accused: Vec<(Number, Version)>, leaves: bool) {
        if !planted(Defect::NeverCleared) {
            self.suspects.remove(&by);
        }
        let has_turned = match leaves {
            true => self.leaving.set(by),
            false if planted(Defect::StoppedForGood) => self.leaving.has(by),
            false => self.leaving.clear(by),
        };
        if self.charged.has(by) || leaves || has_turned {
            self.touched.insert(by);
        }
        self.touched.extend(accused.iter().map(|(host, _)| *host));
        for host in self.accused_by.remove(&by).unwrap_or_default() {
            self.touched.insert(host);
            if let Some(charges) = self.charges.get_mut(&host) {
                charges.retain(|(accuser, _)| *accuser != by);
                if charges.is_empty() {
                    self.charges.remove(&host);
                    self.charged.clear(host);
                }
            }
        }
        for (host, version) in &accused {
            self.charged.set(*host);
            self.charges.entry(*host).or_default().push((by, *version));
        }
        if !accused.is_empty() {
            self.accused_by.insert(by, accused.into_iter().map(|(host, _)| host).collect());
        }
    }

    /// The roster has changed, and with it who is whose neighbour.
    pub fn roster_changed(&mut self) {
        self.is_stale = true;
    }

    /// Counts again whom a change concerns. Called every quarter of a second.
    pub fn tick<S: Statement>(&mut self, now: Mono, roster: &Roster, records: &Records<S>) {
        for host in self.take_touched(roster, records) {
            let Some(Count { accusers, enough }) = self.count(roster, records, host) else {
                if !planted(Defect::NeverCleared) {
                    self.suspects.remove(&host);
                }
                continue;
            };
            let before = self.suspects.get(&host);
            let since = before.map_or(now, |before| before.since);
            // Who goes by himself gets as long to be back as whoever is found silent.
            let from = if enough == 0 { now + ACCUSE_AFTER } else { now };
            let enough_since = (accusers >= enough)
                .then(|| before.and_then(|before| before.enough_since).unwrap_or(from));
            self.suspects.insert(host, Suspicion { since, enough_since });
        }
    }

    /// Whose accusers have to be counted: of whom something new was said, and whoever looks past a
    /// host, or no more, since that is accused now, or no more.
    fn take_touched<S: Statement>(
        &mut self,
        roster: &Roster,
        records: &Records<S>,
    ) -> BTreeSet<Number> {
        let mut touched = std::mem::take(&mut self.touched);
        let turned = |host: &Number| self.is_accused(records, *host) != self.counted.contains(host);
        let turned: Vec<_> = touched.iter().filter(|host| turned(host)).copied().collect();
        if std::mem::take(&mut self.is_stale) {
            touched.extend(self.charges.keys().chain(self.suspects.keys()));
        } else {
            let (before, after) = (&self.counted, |host| self.is_accused(records, host));
            for host in &turned {
                let near =
                    roster.neighbours(*host, |other| before.contains(&other) || after(other));
                touched.extend(near.iter().filter(|other| self.charged.has(**other)));
            }
        }
        for host in turned {
            if !self.counted.remove(&host) {
                self.counted.insert(host);
            }
        }
        touched
    }

    /// Counts a host's accusers. None if no neighbour accuses it. Equal rosters and equal records
    /// give equal counts.
    pub fn count<S: Statement>(
        &self,
        roster: &Roster,
        records: &Records<S>,
        host: Number,
    ) -> Option<Count> {
        let current = records.version(host)?;
        if self.leaving.has(host) {
            return Some(Count { accusers: 0, enough: 0 });
        }
        let charges = self.charges.get(&host)?;
        // Of the very record that is here: what accuses versions that do not exist is a lie, which
        // no newer record could ever refute.
        if charges.iter().all(|(_, version)| *version != current) {
            return None;
        }
        let is_accused = |other| self.is_accused(records, other);
        let neighbours = roster.neighbours(host, is_accused);
        let is_neighbour = |by: &Number| neighbours.binary_search(by).is_ok();
        let accusers =
            charges.iter().filter(|(by, version)| *version == current && is_neighbour(by)).count();
        // Who is accused is asked as well, but not waited for: it may be as lost as the host. That a
        // liar accuses all the others does not help him, since they answer within a second.
        let heard = neighbours.iter().filter(|other| !is_accused(**other)).count();
        let enough = ACCUSERS_ENOUGH.min(heard).max(1);
        (accusers > 0).then_some(Count { accusers, enough })
    }

    /// True if any record here accuses a host's newest record, or that one says that its daemon stops.
    pub fn is_accused<S: Statement>(&self, records: &Records<S>, host: Number) -> bool {
        let leaves = self.leaving.has(host);
        if !self.charged.has(host) && !leaves {
            return false;
        }
        let (current, charges) = (records.version(host), self.charges.get(&host));
        if leaves {
            return current.is_some();
        }
        charges.is_some_and(|charges| charges.iter().any(|(_, of)| Some(*of) == current))
    }

    /// True if a new record of a host is what a verdict waits for: one of the first accusations of
    /// somebody, or the answer to one. Asked before it is taken in.
    pub fn is_awaited<S: Statement>(
        &self,
        records: &Records<S>,
        by: Number,
        accused: &[(Number, Version)],
    ) -> bool {
        let is_first = |(host, version): &(Number, Version)| {
            let charges = self.charges.get(host).map_or(&[][..], Vec::as_slice);
            let same = charges.iter().filter(|(other, of)| of == version && *other != by);
            let repeated = charges.contains(&(by, *version));
            !repeated && same.count() < ACCUSERS_ENOUGH
        };
        accused.iter().any(is_first) || self.is_accused(records, by)
    }

    /// The hosts that are unreachable at `now`.
    pub fn unreachable(&self, now: Mono) -> impl Iterator<Item = Number> {
        let suspects = self.suspects.keys().copied();
        suspects
            .filter(move |host| matches!(self.standing(now, *host), Standing::Unreachable { .. }))
    }

    /// How a host of which there is a record stands at `now`.
    pub fn standing(&self, now: Mono, host: Number) -> Standing {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{
        super::{
            records::tests::Note,
            roster::tests::{number, roster},
        },
        *,
    };

    const STEP: Duration = Duration::from_millis(250);

    /// What one host knows of accusations.
    struct Court {
        roster: Roster,
        records: Records<Note>,
        verdicts: Verdicts,
        now: Mono,
        sequences: Vec<u64>,
    }

    impl Court {
        fn new(hosts: usize) -> Self {
            let mut court = Self {
                roster: roster(hosts, 1),
                records: Records::new(),
                verdicts: Verdicts::new(),
                now: Mono(0),
                sequences: vec![0; hosts],
            };
            (0..hosts).for_each(|host| court.say(host, &[]));
            court
        }

        /// A new record of a host comes, and accuses the newest records of these.
        fn say(&mut self, by: usize, accused: &[usize]) {
            let versions = accused.iter().map(|host| (*host, self.sequences[*host])).collect();
            self.say_of(by, versions);
        }

        fn say_of(&mut self, by: usize, accused: Vec<(usize, u64)>) {
            self.sequences[by] += 1;
            self.records.put(&self.roster, number(by), Note(self.sequences[by]));
            let version = |sequence| Version { epoch: 1, sequence };
            let accused = accused.into_iter().map(|(host, seq)| (number(host), version(seq)));
            self.verdicts.record(number(by), accused.collect(), false);
        }

        /// A host says that its daemon stops.
        fn leave(&mut self, host: usize) {
            self.sequences[host] += 1;
            self.records.put(&self.roster, number(host), Note(self.sequences[host]));
            self.verdicts.record(number(host), Vec::new(), true);
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now = self.now + STEP;
                self.verdicts.tick(self.now, &self.roster, &self.records);
            }
        }

        fn standing(&self, host: usize) -> Standing {
            self.verdicts.standing(self.now, number(host))
        }

        fn is_unreachable(&self, host: usize) -> bool {
            matches!(self.standing(host), Standing::Unreachable { .. })
        }

        fn neighbours(&self, host: usize) -> Vec<usize> {
            let all = self.roster.neighbours(number(host), |_| false);
            all.into_iter().map(Number::index).collect()
        }
    }

    #[test]
    fn three_accusers_for_five_seconds_make_a_verdict() {
        let mut court = Court::new(6);
        court.say(1, &[0]);
        court.say(2, &[0]);
        court.run(VERDICT_AFTER * 2);
        assert!(matches!(court.standing(0), Standing::Suspect { .. }), "two are not enough");
        court.say(3, &[0]);
        court.run(VERDICT_AFTER);
        assert!(matches!(court.standing(0), Standing::Suspect { .. }), "three, not for long");
        court.run(STEP * 2);
        assert!(court.is_unreachable(0));
    }

    #[test]
    fn a_newer_record_clears_a_host_at_once() {
        let mut court = Court::new(6);
        (1..4).for_each(|by| court.say(by, &[0]));
        court.run(VERDICT_AFTER + STEP);
        assert!(court.is_unreachable(0));
        court.say(0, &[]);
        assert_eq!(court.standing(0), Standing::Reachable);
        court.run(VERDICT_ALONE_AFTER * 2);
        assert_eq!(court.standing(0), Standing::Reachable, "the accusations are of an old record");
    }

    #[test]
    fn a_host_that_says_that_it_goes_needs_no_accuser_and_is_back_with_its_next_word() {
        let mut court = Court::new(6);
        court.leave(0);
        court.run(STEP);
        assert!(matches!(court.standing(0), Standing::Suspect { .. }), "it may be back at once");
        court.run(ACCUSE_AFTER + VERDICT_AFTER - STEP);
        assert!(matches!(court.standing(0), Standing::Suspect { .. }), "as long as in silence");
        court.run(STEP * 2);
        assert!(court.is_unreachable(0));
        // Accusations beside it change nothing, and neither do those that are taken back.
        court.say(1, &[0]);
        court.say(1, &[]);
        court.run(STEP * 2);
        assert!(court.is_unreachable(0));
        court.say(0, &[]);
        assert_eq!(court.standing(0), Standing::Reachable);
        court.run(VERDICT_ALONE_AFTER * 2);
        assert_eq!(court.standing(0), Standing::Reachable);
    }

    #[test]
    fn whose_neighbours_have_stopped_is_watched_by_those_behind_them() {
        let mut court = Court::new(300);
        let gone = court.neighbours(0);
        gone.iter().for_each(|host| court.leave(*host));
        let is_gone = |host: Number| gone.contains(&host.index());
        let next = court.roster.neighbours(number(0), is_gone);
        let next = next.into_iter().filter(|host| !is_gone(*host)).map(Number::index);
        next.take(3).for_each(|by| court.say(by, &[0]));
        court.run(VERDICT_AFTER + STEP);
        assert!(court.is_unreachable(0));
    }

    #[test]
    fn one_accuser_alone_needs_long() {
        let mut court = Court::new(6);
        court.say(1, &[0]);
        court.run(VERDICT_ALONE_AFTER);
        assert!(matches!(court.standing(0), Standing::Suspect { .. }));
        court.run(STEP * 2);
        assert!(court.is_unreachable(0));
    }

    #[test]
    fn where_fewer_are_left_all_of_them_are_enough() {
        let mut court = Court::new(2);
        court.say(1, &[0]);
        court.run(VERDICT_AFTER + STEP);
        assert!(court.is_unreachable(0));
        // Three of five are lost at once.
        let mut court = Court::new(5);
        court.say(0, &[2, 3, 4]);
        court.say(1, &[2, 3, 4]);
        court.run(VERDICT_AFTER + STEP);
        assert!((2..5).all(|host| court.is_unreachable(host)));
    }

    #[test]
    fn beyond_the_mesh_only_neighbours_count() {
        let mut court = Court::new(100);
        let neighbours = court.neighbours(0);
        let strangers: Vec<_> = (1..100).filter(|host| !neighbours.contains(host)).collect();
        strangers.iter().for_each(|by| court.say(*by, &[0]));
        court.run(VERDICT_ALONE_AFTER * 2);
        assert_eq!(court.standing(0), Standing::Reachable);
        neighbours.iter().take(3).for_each(|by| court.say(*by, &[0]));
        court.run(VERDICT_AFTER + STEP);
        assert!(court.is_unreachable(0));
    }

    #[test]
    fn a_host_that_is_lost_with_all_its_neighbours_is_noticed_by_theirs() {
        let mut court = Court::new(300);
        let mut lost = court.neighbours(0);
        lost.push(0);
        // Whoever is next to a lost host looks past it, and finds host 0 among the lost.
        for by in (0..300).filter(|host| !lost.contains(host)) {
            let is_lost = |host: Number| lost.contains(&host.index());
            let watched = court.roster.neighbours(number(by), is_lost);
            let accused: Vec<_> =
                watched.into_iter().filter(|host| is_lost(*host)).map(Number::index).collect();
            if !accused.is_empty() {
                court.say(by, &accused);
            }
        }
        court.run(VERDICT_AFTER + STEP);
        assert!(lost.iter().all(|host| court.is_unreachable(*host)));
    }

    #[test]
    fn accusations_of_records_that_do_not_exist_count_for_nothing() {
        let mut court = Court::new(6);
        (1..6).for_each(|by| court.say_of(by, vec![(0, u64::MAX)]));
        court.run(VERDICT_ALONE_AFTER * 2);
        assert_eq!(court.standing(0), Standing::Reachable);
        assert!(!court.verdicts.is_accused(&court.records, number(0)), "nothing could refute it");
    }

    #[test]
    fn one_liar_neither_makes_a_verdict_nor_prevents_one() {
        let mut court = Court::new(8);
        let all: Vec<_> = (0..7).collect();
        // It accuses everybody each second; everybody but host 0, which is dead, answers.
        for round in 0..20 {
            court.say(7, &all);
            court.run(STEP);
            let silent: &[usize] = if round == 0 { &[] } else { &[0] };
            (1..7).for_each(|by| court.say(by, silent));
            court.run(STEP * 3);
        }
        assert!(court.is_unreachable(0));
        assert!((1..7).all(|host| court.standing(host) == Standing::Reachable));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn counting_whom_a_change_concerns_is_counting_everybody(
            said in prop::collection::vec((0usize..60, prop::collection::vec(0usize..60, 0..9)), 0..90),
        ) {
            let mut court = Court::new(60);
            for (by, accused) in said {
                court.say(by, &accused);
                court.run(STEP);
                let mut anew = court.verdicts.clone();
                anew.roster_changed();
                anew.tick(court.now, &court.roster, &court.records);
                prop_assert_eq!(&anew.suspects, &court.verdicts.suspects);
            }
        }

        #[test]
        fn equal_records_give_equal_counts(
            said in prop::collection::vec((0usize..30, prop::collection::vec(0usize..30, 0..6)), 0..60),
        ) {
            // One host hears everything as it is said, another gets the last word of each, in the
            // order of hosts.
            let mut here = Court::new(30);
            let mut last: Vec<Vec<(usize, u64)>> = vec![Vec::new(); 30];
            for (by, accused) in said {
                let mut accused = accused;
                accused.sort_unstable();
                accused.dedup();
                last[by] = accused.iter().map(|host| (*host, here.sequences[*host])).collect();
                here.say(by, &accused);
            }
            let mut there = Court::new(30);
            for (by, accused) in last.into_iter().enumerate() {
                there.sequences[by] = here.sequences[by] - 1;
                there.say_of(by, accused);
            }
            for host in 0..30 {
                let count = |court: &Court| {
                    court.verdicts.count(&court.roster, &court.records, number(host))
                };
                prop_assert_eq!(count(&here), count(&there));
            }
        }
    }
}

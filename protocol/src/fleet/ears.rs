//! What one host hears: which of its neighbours are silent, and whether it may itself be the sick one.
//!
//! A host listens to its neighbours on the rings, and past a silent one to the next, so that every
//! host that is lost has somebody who notices even when its neighbours are lost with it. Whoever
//! cannot hear most of his neighbours, wakes up late, or was wrong of late trusts his ears less, and
//! accuses late or nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::roster::{Number, Roster};
use crate::{
    limits::{ACCUSE_AFTER, ACCUSERS_ENOUGH, HEALTH_MAX, HEALTH_MENDS_EVERY, HEALTH_MUTED_FROM},
    time::Mono,
};

/// One host's ears.
#[derive(Clone, Debug)]
pub struct Ears {
    last_tick: Mono,
    /// When each host that is listened to was last heard, directly or by a new record.
    heard: BTreeMap<Number, Mono>,
    /// Hosts that fell silent or whose link broke of late, and when: one that comes and goes counts
    /// once.
    lost: BTreeMap<Number, Mono>,
    /// Those that have been silent for long, sorted.
    silent: Vec<Number>,
    /// Those that have said themselves that they stop: they are not lost.
    leaving: BTreeSet<Number>,
    /// How little these ears are to be trusted: 0 is well. Silence is borne this many times longer.
    sickness: u32,
    next_mending_at: Mono,
    next_blame_at: Mono,
    /// The roster by which it was last worked out who is listened to.
    generation: Option<u64>,
}

impl Ears {
    /// Ears that begin to listen at `now`.
    pub fn new(now: Mono) -> Self {
        Self {
            last_tick: now,
            heard: BTreeMap::new(),
            lost: BTreeMap::new(),
            silent: Vec::new(),
            leaving: BTreeSet::new(),
            sickness: 0,
            next_mending_at: now + HEALTH_MENDS_EVERY,
            next_blame_at: now,
            generation: None,
        }
    }

    /// Something came over the link of `peer`.
    pub fn hear(&mut self, now: Mono, peer: Number) {
        if let Some(heard) = self.heard.get_mut(&peer) {
            *heard = now.max(*heard);
        }
    }

    /// A new record of a host came by whatever way: a sign of life as well, or its last one if it `leaves`. If
    /// it was accused here and has not been started anew, the accusation was wrong.
    pub fn hear_of(&mut self, now: Mono, host: Number, restarted: bool, leaves: bool) {
        match leaves {
            true => self.leaving.insert(host),
            false => self.leaving.remove(&host),
        };
        if !restarted && !leaves && self.silent.contains(&host) && now >= self.next_blame_at {
            self.next_blame_at = now + BLAME_EVERY;
            self.sicken(now);
        }
        self.hear(now, host);
    }

    /// The last connection to `peer` broke.
    pub fn link_down(&mut self, now: Mono, peer: Number) {
        if self.heard.contains_key(&peer) && !self.leaving.contains(&peer) {
            self.lost.insert(peer, now);
        }
    }

    /// Listens round. Called every quarter of a second.
    pub fn tick(&mut self, now: Mono, roster: &Roster, me: Number) {
        self.excuse_own_absence(now);
        if now >= self.next_mending_at {
            self.next_mending_at = now + HEALTH_MENDS_EVERY;
            self.sickness = self.sickness.saturating_sub(1);
        }
        let patience = ACCUSE_AFTER * (self.sickness + 1);
        let is_silent =
            |host| self.heard.get(&host).is_some_and(|heard| now.since(*heard) >= patience);
        // As a rule everybody is heard, and nobody else is to be listened to.
        let unchanged = self.generation == Some(roster.generation()) && self.silent.is_empty();
        if !unchanged || self.heard.keys().any(|host| is_silent(*host)) {
            let watched = roster.neighbours(me, is_silent);
            self.generation = Some(roster.generation());
            self.listen_to(now, &watched, patience);
        }
        let heard = &self.heard;
        self.lost.retain(|host, at| now.since(*at) < LOST_WITHIN && heard.contains_key(host));
    }

    fn listen_to(&mut self, now: Mono, watched: &[Number], patience: Duration) {
        let is_silent = |host: &&Number| {
            self.heard.get(host).is_some_and(|heard| now.since(*heard) >= patience)
        };
        let silent: Vec<_> = watched.iter().filter(is_silent).copied().collect();
        for host in &silent {
            if self.silent.binary_search(host).is_err() && !self.leaving.contains(host) {
                self.lost.insert(*host, now);
            }
        }
        self.silent = silent;
        self.heard.retain(|host, _| watched.binary_search(host).is_ok());
        for host in watched {
            self.heard.entry(*host).or_insert(now);
        }
    }

    /// Time in which this host itself did not run is not silence of the others.
    fn excuse_own_absence(&mut self, now: Mono) {
        let late = now.since(self.last_tick).saturating_sub(LATE_AFTER);
        self.last_tick = now;
        if !late.is_zero() {
            self.heard.values_mut().for_each(|at| *at = (*at + late).min(now));
            self.sicken(now);
        }
    }

    fn sicken(&mut self, now: Mono) {
        self.sickness = (self.sickness + 1).min(HEALTH_MAX);
        self.next_mending_at = now + HEALTH_MENDS_EVERY;
    }

    /// True if the fault is likely this host's own: it was wrong or late again and again, it lost
    /// most of its neighbours at once, or it finds few that it hears at all.
    pub fn is_muted(&self, roster: &Roster) -> bool {
        let at_once = self.lost.len() >= ACCUSERS_ENOUGH && self.lost.len() * 2 > self.heard.len();
        let deaf = !roster.is_full_mesh() && self.heard.len() - self.silent.len() < HEARD_MIN;
        self.sickness >= HEALTH_MUTED_FROM || at_once || deaf
    }

    /// The hosts that this one accuses.
    pub fn accused(&self, roster: &Roster) -> &[Number] {
        if self.is_muted(roster) { &[] } else { &self.silent }
    }

    /// The hosts that this one listens to, and wants to be connected to.
    pub fn watched(&self) -> impl Iterator<Item = Number> {
        self.heard.keys().copied()
    }

    /// True if this host listens to another.
    pub fn watches(&self, host: Number) -> bool {
        self.heard.contains_key(&host)
    }

    /// True if a host that is listened to has been silent for long.
    pub fn is_silent(&self, host: Number) -> bool {
        self.silent.binary_search(&host).is_ok()
    }

    /// When a host that is listened to was last heard.
    pub fn last_heard(&self, host: Number) -> Option<Mono> {
        self.heard.get(&host).copied()
    }
}

/// Time over which lost neighbours are counted.
const LOST_WITHIN: Duration = Duration::from_secs(10);
/// A tick that is later than this tells of this host's own absence.
const LATE_AFTER: Duration = Duration::from_millis(750);
/// Whoever goes round the rings and hears nobody, or only one, is cut off himself. In a full mesh
/// the last survivor still says that the others are gone.
const HEARD_MIN: usize = 2;
/// Many accusations that were wrong for one reason count once.
const BLAME_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::{super::roster::tests::roster, *};

    const STEP: Duration = Duration::from_millis(250);

    /// A host that hears all but some.
    struct Listener {
        ears: Ears,
        roster: Roster,
        me: Number,
        now: Mono,
    }

    impl Listener {
        fn new(hosts: usize) -> Self {
            let roster = roster(hosts, 1);
            let me = roster.iter().next().unwrap();
            Self { ears: Ears::new(Mono(0)), roster, me, now: Mono(0) }
        }

        fn run(&mut self, time: Duration, is_dead: impl Fn(Number) -> bool) {
            let end = self.now + time;
            while self.now < end {
                self.now = self.now + STEP;
                for host in self.ears.watched().collect::<Vec<_>>() {
                    if !is_dead(host) {
                        self.ears.hear(self.now, host);
                    }
                }
                self.ears.tick(self.now, &self.roster, self.me);
            }
        }

        fn accused(&self) -> usize {
            self.ears.accused(&self.roster).len()
        }

        fn some(&self, count: usize) -> Vec<Number> {
            self.roster.neighbours(self.me, |_| false).into_iter().take(count).collect()
        }
    }

    #[test]
    fn a_silent_neighbour_is_accused_after_a_while() {
        let mut listener = Listener::new(6);
        listener.run(STEP, |_| false);
        let dead = listener.some(1);
        listener.run(ACCUSE_AFTER - STEP, |host| dead.contains(&host));
        assert_eq!(listener.accused(), 0);
        listener.run(STEP * 2, |host| dead.contains(&host));
        assert_eq!(listener.ears.accused(&listener.roster), dead);
    }

    #[test]
    fn neighbours_that_stop_are_not_lost_and_were_accused_rightly() {
        let mut listener = Listener::new(6);
        listener.run(STEP, |_| false);
        let (gone, dead) = (listener.some(4), listener.some(5)[4]);
        for host in &gone {
            listener.ears.hear_of(listener.now, *host, false, true);
            listener.ears.link_down(listener.now, *host);
        }
        listener.run(ACCUSE_AFTER + STEP, |host| gone.contains(&host) || host == dead);
        assert!(!listener.ears.is_muted(&listener.roster));
        assert!(listener.ears.accused(&listener.roster).contains(&dead));
        // Their last word may come late.
        listener.ears.hear_of(listener.now, gone[0], false, true);
        assert_eq!(listener.ears.sickness, 0);
    }

    #[test]
    fn whoever_lost_most_neighbours_accuses_nobody_for_a_while() {
        let mut listener = Listener::new(5);
        listener.run(STEP, |_| false);
        let dead = listener.some(3);
        for host in &dead {
            listener.ears.link_down(listener.now, *host);
        }
        listener.run(Duration::from_secs(9), |host| dead.contains(&host));
        assert_eq!(listener.accused(), 0);
        listener.run(Duration::from_secs(5), |host| dead.contains(&host));
        assert_eq!(listener.accused(), 3);
    }

    #[test]
    fn whoever_slept_accuses_nobody() {
        let mut listener = Listener::new(5);
        listener.run(Duration::from_secs(1), |_| false);
        listener.now = listener.now + Duration::from_secs(60);
        listener.ears.tick(listener.now, &listener.roster, listener.me);
        assert_eq!(listener.accused(), 0);
    }

    #[test]
    fn a_peer_that_comes_and_goes_mutes_nobody() {
        let mut listener = Listener::new(5);
        listener.run(STEP, |_| false);
        let dead = listener.some(1);
        for _ in 0..10 {
            listener.ears.link_down(listener.now, dead[0]);
        }
        listener.run(ACCUSE_AFTER + STEP, |host| dead.contains(&host));
        assert_eq!(listener.accused(), 1);
    }

    #[test]
    fn whoever_was_wrong_again_and_again_is_muted_until_it_mends() {
        let mut listener = Listener::new(6);
        listener.run(STEP, |_| false);
        let subject = listener.some(1);
        for _ in 0..HEALTH_MUTED_FROM {
            let patience = ACCUSE_AFTER * (listener.ears.sickness + 1);
            listener.run(patience + STEP, |host| subject.contains(&host));
            assert_eq!(listener.accused(), 1, "{:?}", listener.ears);
            listener.ears.hear_of(listener.now, subject[0], false, false);
        }
        listener.run(HEALTH_MENDS_EVERY - STEP * 2, |host| subject.contains(&host));
        assert_eq!(listener.accused(), 0);
        listener.run(HEALTH_MENDS_EVERY * 3, |host| subject.contains(&host));
        assert_eq!(listener.accused(), 1);
    }

    #[test]
    fn past_a_silent_neighbour_one_listens_to_the_next() {
        let mut listener = Listener::new(200);
        listener.run(STEP, |_| false);
        let natural = listener.roster.neighbours(listener.me, |_| false);
        let dead = &natural[..3];
        listener.run(ACCUSE_AFTER * 4, |host| dead.contains(&host));
        assert_eq!(listener.ears.accused(&listener.roster), dead);
        let heard = listener.ears.watched().filter(|host| !dead.contains(host)).count();
        assert!(heard >= 8, "{heard} are heard");
        assert!(listener.ears.watched().count() > natural.len());
    }

    #[test]
    fn the_deaf_accuse_nobody_however_long_it_lasts() {
        let mut listener = Listener::new(200);
        listener.run(Duration::from_secs(1), |_| false);
        listener.run(Duration::from_secs(300), |_| true);
        assert_eq!(listener.accused(), 0);
    }
}

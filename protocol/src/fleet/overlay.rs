//! Which links a host keeps: to its neighbours on the rings, to whom it needs besides, and for a
//! while to anybody who comes.
//!
//! Neighbours that do not answer are dialled again and again, so that partitions end by themselves;
//! past them [`super::Ears`] look for the next. Now and then some host that is no neighbour is
//! dialled as well. A link that neither side needs is closed after a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::roster::{Number, Roster};
use crate::{
    limits::{
        DIAL_BACKOFF_MAX, DIAL_BACKOFF_MIN, EXPLORE_EVERY, GOSSIP_GUESTS_MAX, LINK_UNUSED_MAX,
    },
    time::Mono,
};

/// Something to do about links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Try to reach a host.
    Dial(Number),
    /// Try to reach one of the seeds: others may be found there that the roster does not know.
    DialSeed,
    /// Close the link to a host.
    Close(Number),
    /// Tell a peer whether it is counted as a neighbour here.
    Tell(Number, bool),
    /// Records begin or cease to be offered to a peer.
    Gossip(Number, bool),
}

/// Whom a host needs links to.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// Its neighbours: sorted.
    pub neighbours: &'a [Number],
    /// Others that it wants to be connected to: sorted.
    pub others: &'a [Number],
    /// Peers that need this host for more than gossip: sorted.
    pub guests: &'a [Number],
}

/// A host's links.
#[derive(Clone, Debug)]
pub struct Overlay {
    links: BTreeMap<Number, Link>,
    tries: BTreeMap<Number, Try>,
    /// Peers that said that this host is their neighbour before the link was known to be up: the two
    /// directions of a link open one after the other.
    early: BTreeSet<Number>,
    next_explore_at: Mono,
    draws: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The peer was told that it is a neighbour.
    told: bool,
    /// When it is told again: it may have been started anew without the link breaking here.
    tell_again_at: Mono,
    /// The peer says that this host is its neighbour.
    is_guest: bool,
    gossips: bool,
    unused_since: Option<Mono>,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    next_at: Mono,
    backoff: Duration,
}

impl Overlay {
    /// No links. `draw` is where its random choices begin.
    pub fn new(now: Mono, draw: u64) -> Self {
        let every = u64::try_from(EXPLORE_EVERY.as_micros()).unwrap_or(1);
        let first = Duration::from_micros(draw % every);
        let (links, tries, early) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { links, tries, early, next_explore_at: now + first, draws: draw }
    }

    /// A link is up.
    pub fn link_up(&mut self, peer: Number) {
        let is_guest = self.early.remove(&peer);
        self.links.insert(peer, Link { is_guest, ..Link::default() });
        self.tries.remove(&peer);
    }

    /// The last connection to a peer is gone.
    pub fn link_down(&mut self, peer: Number) {
        self.links.remove(&peer);
        self.early.remove(&peer);
        self.tries.remove(&peer);
    }

    /// A peer says whether it counts this host as a neighbour. One too many is not believed: it
    /// has others.
    pub fn told(&mut self, peer: Number, is_neighbour: bool) {
        let guests = self.links.values().filter(|link| link.is_guest).count();
        if let Some(link) = self.links.get_mut(&peer) {
            link.is_guest = is_neighbour && (link.is_guest || guests < GOSSIP_GUESTS_MAX);
        } else if !is_neighbour {
            self.early.remove(&peer);
        } else if self.early.len() + guests < GOSSIP_GUESTS_MAX {
            self.early.insert(peer);
        }
    }

    /// Where a host was reached before is no use any more, or there is a new address: begin anew.
    pub fn try_anew(&mut self, host: Number) {
        self.tries.remove(&host);
    }

    /// True if a host that is wanted did not answer a few times.
    pub fn is_failing(&self, host: Number) -> bool {
        self.tries.get(&host).is_some_and(|attempt| attempt.backoff >= FAILING_FROM)
    }

    /// True if a link is up.
    pub fn is_up(&self, peer: Number) -> bool {
        self.links.contains_key(&peer)
    }

    /// Peers with a link.
    pub fn up(&self) -> impl Iterator<Item = Number> {
        self.links.keys().copied()
    }

    /// Peers that are told of changes.
    pub fn gossips(&self) -> impl Iterator<Item = Number> {
        self.links.iter().filter(|(_, link)| link.gossips).map(|(peer, _)| *peer)
    }

    /// Time has passed.
    pub fn tick(
        &mut self,
        now: Mono,
        roster: &Roster,
        me: Number,
        needs: Needs<'_>,
        out: &mut Vec<Turn>,
    ) {
        self.tend_links(now, needs, out);
        let wanted = needs.neighbours.iter().chain(needs.others);
        for host in wanted.clone().filter(|host| **host != me) {
            self.dial(now, roster, me, *host, out);
        }
        let is_wanted = |host: &Number| {
            needs.neighbours.binary_search(host).is_ok() || needs.others.binary_search(host).is_ok()
        };
        self.tries.retain(|host, _| is_wanted(host));
        if now >= self.next_explore_at {
            self.next_explore_at = now + EXPLORE_EVERY;
            out.push(Turn::DialSeed);
            let stranger = roster.any(self.draw());
            out.extend(stranger.filter(|host| *host != me && !self.is_up(*host)).map(Turn::Dial));
        }
    }

    fn tend_links(&mut self, now: Mono, needs: Needs<'_>, out: &mut Vec<Turn>) {
        for (peer, link) in &mut self.links {
            let is_neighbour = needs.neighbours.binary_search(peer).is_ok();
            let again = is_neighbour && now >= link.tell_again_at;
            if link.told != is_neighbour || again {
                link.told = is_neighbour;
                link.tell_again_at = now + TELL_AGAIN_AFTER;
                out.push(Turn::Tell(*peer, is_neighbour));
            }
            let gossips = is_neighbour || link.is_guest;
            if link.gossips != gossips {
                link.gossips = gossips;
                out.push(Turn::Gossip(*peer, gossips));
            }
            let is_needed = gossips
                || needs.others.binary_search(peer).is_ok()
                || needs.guests.binary_search(peer).is_ok();
            if is_needed {
                link.unused_since = None;
            } else if now.since(*link.unused_since.get_or_insert(now)) >= LINK_UNUSED_MAX {
                // Once more only after as long: closing takes a moment.
                link.unused_since = Some(now);
                out.push(Turn::Close(*peer));
            }
        }
    }

    fn dial(&mut self, now: Mono, roster: &Roster, me: Number, host: Number, out: &mut Vec<Turn>) {
        if self.is_up(host) {
            return;
        }
        let attempt = self.tries.entry(host).or_insert_with(|| {
            // Of two hosts that see each other for the first time one begins, so that their
            // connections do not cross; the other one follows if nothing came of it.
            let polite = roster.host(host) < roster.host(me);
            let next_at = if polite { now + POLITE_WAIT } else { now };
            Try { next_at, backoff: DIAL_BACKOFF_MIN }
        });
        if now >= attempt.next_at {
            attempt.next_at = now + attempt.backoff;
            attempt.backoff = (attempt.backoff * 2).min(DIAL_BACKOFF_MAX);
            out.push(Turn::Dial(host));
        }
    }

    /// A number that is as good as random where nobody tries to guess it (splitmix64).
    fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.draws ^ (self.draws >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

const TELL_AGAIN_AFTER: Duration = Duration::from_secs(30);
const POLITE_WAIT: Duration = Duration::from_millis(1500);
/// Three attempts over a second and a half were in vain.
const FAILING_FROM: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::{super::roster::tests::roster, *};

    struct Host {
        overlay: Overlay,
        roster: Roster,
        me: Number,
        now: Mono,
    }

    impl Host {
        fn new(hosts: usize) -> Self {
            let roster = roster(hosts, 1);
            let me = roster.iter().next().unwrap();
            Self { overlay: Overlay::new(Mono(0), 7), roster, me, now: Mono(0) }
        }

        fn natural(&self) -> Vec<Number> {
            self.roster.neighbours(self.me, |_| false)
        }

        /// Lets time pass and answers what was done, and when.
        fn run(&mut self, time: Duration, guests: &[Number]) -> Vec<(Mono, Turn)> {
            let neighbours = self.natural();
            let (end, mut done) = (self.now + time, Vec::new());
            while self.now < end {
                self.now = self.now + Duration::from_millis(250);
                let needs = Needs { neighbours: &neighbours, others: &[], guests };
                let mut out = Vec::new();
                self.overlay.tick(self.now, &self.roster, self.me, needs, &mut out);
                done.extend(out.into_iter().map(|turn| (self.now, turn)));
            }
            done
        }

        fn stranger(&self) -> Number {
            let natural = self.natural();
            self.roster.iter().find(|host| *host != self.me && !natural.contains(host)).unwrap()
        }
    }

    #[test]
    fn neighbours_are_dialled_until_they_answer_and_ever_more_rarely() {
        let mut host = Host::new(100);
        let natural = host.natural();
        let done = host.run(Duration::from_secs(120), &[]);
        for neighbour in &natural {
            let dials = done.iter().filter(|(_, turn)| *turn == Turn::Dial(*neighbour)).count();
            assert!((10..=14).contains(&dials), "{dials} dials");
        }
        natural.iter().for_each(|peer| host.overlay.link_up(*peer));
        let done = host.run(Duration::from_secs(20), &[]);
        let told = done.iter().filter(|(_, turn)| matches!(turn, Turn::Tell(_, true))).count();
        assert_eq!(told, natural.len());
        assert!(
            !done
                .iter()
                .any(|(_, turn)| { matches!(turn, Turn::Dial(host) if natural.contains(host)) })
        );
    }

    #[test]
    fn now_and_then_some_host_and_a_seed_are_dialled() {
        let mut host = Host::new(100);
        host.natural().iter().for_each(|peer| host.overlay.link_up(*peer));
        let done = host.run(EXPLORE_EVERY * 10, &[]);
        assert_eq!(done.iter().filter(|(_, turn)| *turn == Turn::DialSeed).count(), 10);
        let dials = done.iter().filter(|(_, turn)| matches!(turn, Turn::Dial(_))).count();
        assert!((5..=10).contains(&dials), "{dials} dials");
    }

    #[test]
    fn a_link_that_nobody_needs_is_closed_after_a_while() {
        let mut host = Host::new(100);
        let stranger = host.stranger();
        host.overlay.link_up(stranger);
        let closes = |done: &[(Mono, Turn)]| done.iter().any(|(_, t)| *t == Turn::Close(stranger));
        assert!(!closes(&host.run(LINK_UNUSED_MAX, &[])));
        assert!(closes(&host.run(Duration::from_secs(1), &[])));
        assert!(!closes(&host.run(LINK_UNUSED_MAX * 2, &[stranger])), "it follows this host");
        host.overlay.told(stranger, true);
        assert!(!closes(&host.run(LINK_UNUSED_MAX * 2, &[])), "this host is its neighbour");
        assert!(host.overlay.gossips().any(|peer| peer == stranger));
    }

    #[test]
    fn what_is_said_before_the_link_is_up_counts() {
        let mut host = Host::new(100);
        let stranger = host.stranger();
        host.overlay.told(stranger, true);
        host.overlay.link_up(stranger);
        host.run(Duration::from_secs(1), &[]);
        assert!(host.overlay.gossips().any(|peer| peer == stranger));
        host.overlay.link_down(stranger);
        host.overlay.link_up(stranger);
        host.run(Duration::from_secs(1), &[]);
        assert!(!host.overlay.gossips().any(|peer| peer == stranger), "of the link before");
        host.roster.iter().for_each(|peer| host.overlay.told(peer, true));
        assert!(host.overlay.early.len() <= GOSSIP_GUESTS_MAX);
    }

    #[test]
    fn no_more_guests_are_taken_than_there_is_room_for() {
        let mut host = Host::new(200);
        let natural = host.natural();
        let strangers: Vec<_> =
            host.roster.iter().filter(|peer| *peer != host.me && !natural.contains(peer)).collect();
        for stranger in &strangers[..=GOSSIP_GUESTS_MAX] {
            host.overlay.link_up(*stranger);
            host.overlay.told(*stranger, true);
        }
        host.run(Duration::from_secs(1), &[]);
        assert_eq!(host.overlay.gossips().count(), GOSSIP_GUESTS_MAX);
        host.overlay.told(strangers[0], false);
        host.overlay.told(strangers[GOSSIP_GUESTS_MAX], true);
        host.run(Duration::from_secs(1), &[]);
        let guests: Vec<_> = host.overlay.gossips().collect();
        assert!(!guests.contains(&strangers[0]));
        assert!(guests.contains(&strangers[GOSSIP_GUESTS_MAX]));
    }
}

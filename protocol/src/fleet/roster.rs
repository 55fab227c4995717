//! Who belongs to the fleet, and where each host sits on five rings.
//!
//! Each ring orders the hosts by a hash of its number and the host's id, so whoever has the roster
//! knows every host's neighbours. Two rings go round the whole fleet; three stay within a zone, so
//! that most traffic does as well. Where there is one zone, all five are global.
//!
//! Hosts get dense [`Number`]s in the order in which they were first named here. Everything that is
//! kept per host is an array over them: at ten thousand hosts that is what makes the daemon light.
//! Numbers never leave this host; on the wire a host is a [`ShortId`].

use std::{
    collections::BTreeMap,
    hash::{BuildHasherDefault, Hasher},
    sync::OnceLock,
};

use crate::{
    ids::{Digest, HashDomain, HostId, ShortId, ZoneName},
    limits::{FULL_MESH_HOSTS_MAX, HOSTS_MAX},
};

/// Names a host on this host, and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(u16);

impl Number {
    /// The place in an array over hosts.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    fn new(index: usize) -> Option<Self> {
        u16::try_from(index).ok().map(Self)
    }
}

/// The way round a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the successors.
    Up,
    /// To the predecessors.
    Down,
}

/// All hosts that were ever named here; the members among them sit on the rings.
#[derive(Clone, Debug)]
pub struct Roster {
    hosts: Vec<Seat>,
    numbers: Lookup<HostId>,
    shorts: Lookup<ShortId>,
    zones: BTreeMap<Option<ZoneName>, u16>,
    rings: [BTreeMap<Place, Number>; RINGS],
    /// The same, to go round: worked out when it is needed after a change.
    rounds: OnceLock<Rounds>,
    /// The numbers in each bucket of the comparison, sorted by host.
    buckets: Vec<Vec<Number>>,
    generation: u64,
}

/// Looked up with everything that comes, and never gone through: a hash map has no order that all share.
/// Its hash is no secret, but for each name that is to collide an attacker needs one more certificate.
#[expect(
    clippy::disallowed_types,
    reason = "nobody goes through it, and its hash is always the same"
)]
type Lookup<K> = std::collections::HashMap<K, Number, BuildHasherDefault<Head>>;

/// Hashes a key or its short form to its first bytes: they are as good as drawn.
#[derive(Default)]
struct Head(u64);

impl Hasher for Head {
    fn write(&mut self, bytes: &[u8]) {
        let head = bytes.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        self.0 = (self.0 ^ head).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    host: HostId,
    bucket: u8,
    /// The zone of a member.
    zone: Option<u16>,
    /// Its place on each ring, but for the zone.
    hashes: [u64; RINGS],
}

impl Seat {
    fn new(host: HostId) -> Self {
        let hash = |ring: u8| {
            let hash = Digest::of(HashDomain::Ring, &[&[ring], &host.0]);
            hash.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        let bucket = Digest::of(HashDomain::Ring, &[b"bucket", &host.0]).0[0];
        Self {
            host,
            bucket,
            zone: None,
            hashes: std::array::from_fn(|ring| hash(RING_NAMES[ring])),
        }
    }

    /// Where it sits on a ring. Whoever is no member sits nowhere: in a zone that is empty.
    fn place(&self, ring: usize) -> Place {
        let zone = self.zone.map_or(u16::MAX, |zone| if ring < GLOBAL_RINGS { 0 } else { zone });
        (zone, self.hashes[ring], self.host)
    }
}

/// Where a host sits on a ring: behind its zone, by its hash. The id decides between equal hashes,
/// so that everybody has the same order.
type Place = (u16, u64, HostId);

/// The rings as lists.
#[derive(Clone, Debug)]
struct Rounds {
    /// All members on each ring, one zone behind the other.
    order: [Vec<Number>; RINGS],
    /// By number: where a member stands on each ring.
    stands: Vec<Option<[Stand; RINGS]>>,
}

/// Where a member stands on a ring: at `at` in its order, of which the part from `first` to before `end`
/// is the ring that goes round.
#[derive(Clone, Copy, Debug, Default)]
struct Stand {
    first: u16,
    at: u16,
    end: u16,
}

impl Rounds {
    fn of(rings: &[BTreeMap<Place, Number>; RINGS], hosts: usize) -> Self {
        let order: [Vec<Number>; RINGS] =
            std::array::from_fn(|ring| rings[ring].values().copied().collect());
        let mut stands: Vec<Option<[Stand; RINGS]>> = vec![None; hosts];
        for (ring, places) in rings.iter().enumerate() {
            let zones: Vec<_> = places.keys().map(|(zone, ..)| *zone).collect();
            let place = |at| u16::try_from(at).unwrap_or(u16::MAX);
            let mut first = 0;
            for zone in zones.chunk_by(|one, next| one == next) {
                let end = first + zone.len();
                for (at, number) in (first..end).zip(&order[ring][first..end]) {
                    let stands = stands[number.index()].get_or_insert_with(Default::default);
                    stands[ring] = Stand { first: place(first), at: place(at), end: place(end) };
                }
                first = end;
            }
        }
        Self { order, stands }
    }
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            numbers: Lookup::default(),
            shorts: Lookup::default(),
            zones: BTreeMap::new(),
            rings: std::array::from_fn(|_| BTreeMap::new()),
            rounds: OnceLock::new(),
            buckets: vec![Vec::new(); BUCKETS],
            generation: 0,
        }
    }
}

impl Roster {
    /// A roster on which nobody is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a host a number, whether it is a member or not. None if there is no room: numbers are
    /// not used twice, so the hosts that come and go while the daemon runs are bounded as well.
    pub fn know(&mut self, host: HostId) -> Option<Number> {
        if let Some(number) = self.numbers.get(&host) {
            return Some(*number);
        }
        let number = Number::new(self.hosts.len())?;
        let seat = Seat::new(host);
        let bucket = seat.bucket;
        self.hosts.push(seat);
        self.numbers.insert(host, number);
        // Two keys with one short id take 2^32 tries to find. The second one is left out of digests
        // and hurts nobody but its owner.
        self.shorts.entry(ShortId::of(host)).or_insert(number);
        let bucket = &mut self.buckets[usize::from(bucket)];
        let place = bucket.partition_point(|other| self.hosts[other.index()].host < host);
        bucket.insert(place, number);
        Some(number)
    }

    /// Makes a host a member: it takes its places on the rings.
    pub fn seat(&mut self, host: HostId, zone: Option<&ZoneName>) -> Option<Number> {
        let number = self.know(host)?;
        let next = u16::try_from(self.zones.len()).ok()?;
        let zone = *self.zones.entry(zone.cloned()).or_insert(next);
        if self.hosts[number.index()].zone == Some(zone) {
            return Some(number);
        }
        self.unseat(host);
        if self.members() >= HOSTS_MAX {
            return None;
        }
        self.generation += 1;
        self.rounds.take();
        self.hosts[number.index()].zone = Some(zone);
        for ring in 0..RINGS {
            self.rings[ring].insert(self.hosts[number.index()].place(ring), number);
        }
        Some(number)
    }

    /// Takes a host off the rings. It keeps its number.
    pub fn unseat(&mut self, host: HostId) {
        let Some(number) = self.number(host) else { return };
        let seat = &mut self.hosts[number.index()];
        if seat.zone.is_none() {
            return;
        }
        self.generation += 1;
        self.rounds.take();
        for ring in 0..RINGS {
            self.rings[ring].remove(&seat.place(ring));
        }
        seat.zone = None;
    }

    /// Changes whenever a member comes or goes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many numbers were given out.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// True if nobody was ever named.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.rings[0].len()
    }

    /// All members, in the order of the first ring.
    pub fn iter(&self) -> impl Iterator<Item = Number> {
        self.rings[0].values().copied()
    }

    /// A member that draws by this number.
    pub fn any(&self, draw: u64) -> Option<Number> {
        let next = self.rings[0].range((0, draw, HostId([0; 32]))..).next();
        next.or_else(|| self.rings[0].first_key_value()).map(|(_, number)| *number)
    }

    /// A host's number.
    pub fn number(&self, host: HostId) -> Option<Number> {
        self.numbers.get(&host).copied()
    }

    /// The number behind a name on the wire.
    pub fn by_short(&self, short: ShortId) -> Option<Number> {
        self.shorts.get(&short).copied()
    }

    /// The host behind a number.
    pub fn host(&self, number: Number) -> HostId {
        self.hosts[number.index()].host
    }

    /// A host's name on the wire.
    pub fn short(&self, number: Number) -> ShortId {
        ShortId::of(self.host(number))
    }

    /// True if the host sits on the rings.
    pub fn is_member(&self, number: Number) -> bool {
        self.hosts[number.index()].zone.is_some()
    }

    /// In which bucket of the comparison a host is.
    pub fn bucket_of(&self, number: Number) -> u8 {
        self.hosts[number.index()].bucket
    }

    /// The hosts in a bucket, sorted by id: the same order everywhere.
    pub fn bucket(&self, bucket: u8) -> &[Number] {
        &self.buckets[usize::from(bucket)]
    }

    /// True if the fleet is so small that everybody is everybody's neighbour.
    pub fn is_full_mesh(&self) -> bool {
        self.members() <= FULL_MESH_HOSTS_MAX
    }

    /// The members round a ring from a host on, until it would be the host itself.
    pub fn walk(&self, ring: usize, from: Number, way: Way) -> impl Iterator<Item = Number> {
        let rounds = self.rounds.get_or_init(|| Rounds::of(&self.rings, self.hosts.len()));
        let stand = rounds.stands.get(from.index()).copied().flatten();
        let Stand { first, at, end } = stand.map_or_else(Stand::default, |stands| stands[ring]);
        let [first, at, end] = [first, at, end].map(usize::from);
        let (order, round) = (&rounds.order[ring], end - first);
        (1..round).map(move |steps| match way {
            Way::Up => order[first + (at - first + steps) % round],
            Way::Down => order[first + (at - first + round - steps) % round],
        })
    }

    /// A host's neighbours, sorted: on each ring and either way all hosts up to and including the
    /// first that `is_passed` does not pass over. In a full mesh all members.
    pub fn neighbours(&self, host: Number, is_passed: impl Fn(Number) -> bool) -> Vec<Number> {
        let mut found: Vec<_> = if self.is_full_mesh() {
            self.iter().filter(|other| *other != host).collect()
        } else {
            let mut found = Vec::with_capacity(2 * RINGS);
            for ring in 0..RINGS {
                for way in [Way::Up, Way::Down] {
                    for other in self.walk(ring, host, way).take(WALK_MAX) {
                        found.push(other);
                        if !is_passed(other) {
                            break;
                        }
                    }
                }
            }
            found
        };
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Rings that a host sits on.
pub const RINGS: usize = 5;
const RING_NAMES: [u8; RINGS] = [0, 1, 2, 3, 4];
/// How many of them go round the whole fleet: two of them keep it connected when half of it is lost.
const GLOBAL_RINGS: usize = 2;
/// Buckets of the comparison of two views: forty hosts in each at ten thousand.
pub const BUCKETS: usize = 256;
/// How many hosts a walk passes over. When half of the fleet is gone, a run of 32 lost hosts on one
/// ring has a chance of one in four thousand million.
const WALK_MAX: usize = 32;

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(in crate::fleet) fn host(number: usize) -> HostId {
        HostId(Digest::of(HashDomain::Key, &[&number.to_be_bytes()]).0)
    }

    pub(in crate::fleet) fn number(index: usize) -> Number {
        Number::new(index).unwrap()
    }

    pub(in crate::fleet) fn roster(hosts: usize, zones: usize) -> Roster {
        let mut roster = Roster::new();
        for number in 0..hosts {
            let zone = ZoneName::new(format!("z{}", number % zones)).unwrap();
            roster.seat(host(number), Some(&zone)).unwrap();
        }
        roster
    }

    /// How many living hosts one of them reaches over links between the living.
    fn reached(roster: &Roster, is_dead: impl Fn(Number) -> bool + Copy) -> usize {
        let first = roster.iter().find(|host| !is_dead(*host)).unwrap();
        let (mut seen, mut edge) = (BTreeSet::from([first]), vec![first]);
        while let Some(host) = edge.pop() {
            for other in roster.neighbours(host, |_| false) {
                if !is_dead(other) && seen.insert(other) {
                    edge.push(other);
                }
            }
        }
        seen.len()
    }

    #[test]
    fn up_to_twelve_hosts_are_a_full_mesh_and_thirteen_are_not() {
        let mesh = roster(FULL_MESH_HOSTS_MAX, 1);
        assert!(mesh.iter().all(|host| mesh.neighbours(host, |_| false).len() == 11));
        let rings = roster(FULL_MESH_HOSTS_MAX + 1, 1);
        assert!(rings.iter().all(|host| rings.neighbours(host, |_| false).len() <= 10));
    }

    #[test]
    fn neighbours_are_mutual() {
        for (hosts, zones) in [(5, 1), (40, 1), (300, 3), (60, 50)] {
            let roster = roster(hosts, zones);
            for host in roster.iter() {
                for other in roster.neighbours(host, |_| false) {
                    assert!(roster.neighbours(other, |_| false).contains(&host));
                }
            }
        }
    }

    #[test]
    fn three_rings_stay_within_a_zone() {
        let roster = roster(300, 3);
        let zone = |host: Number| roster.hosts[host.index()].zone;
        for host in roster.iter() {
            for ring in 0..RINGS {
                let mut round = roster.walk(ring, host, Way::Up);
                let local = round.all(|other| zone(other) == zone(host));
                assert_eq!(local, ring >= GLOBAL_RINGS);
            }
        }
    }

    #[test]
    fn both_ways_round_a_ring_pass_everybody_once() {
        let roster = roster(50, 1);
        let host = roster.iter().nth(20).unwrap();
        let up: Vec<_> = roster.walk(2, host, Way::Up).collect();
        let mut down: Vec<_> = roster.walk(2, host, Way::Down).collect();
        down.reverse();
        assert_eq!(up, down);
        assert_eq!(up.iter().collect::<BTreeSet<_>>().len(), 49);
        assert!(!up.contains(&host));
    }

    #[test]
    fn half_of_the_hosts_may_be_lost_and_the_rest_hangs_together() {
        for zones in [1, 4] {
            let roster = roster(1000, zones);
            assert_eq!(reached(&roster, |_| false), 1000);
            let is_dead = |host: Number| (host.index() / zones).is_multiple_of(2);
            let living = roster.iter().filter(|host| !is_dead(*host)).count();
            assert!(reached(&roster, is_dead) * 1000 >= living * 990, "{zones} zones");
        }
    }

    #[test]
    fn a_silent_neighbour_is_passed_over_for_the_next() {
        let roster = roster(100, 1);
        let host = roster.iter().next().unwrap();
        let next: Vec<_> = roster.walk(0, host, Way::Up).take(2).collect();
        let beyond = roster.neighbours(host, |other| other == next[0]);
        assert!(beyond.contains(&next[0]) && beyond.contains(&next[1]));
        let everybody = roster.neighbours(host, |_| true);
        assert!(everybody.len() <= 2 * RINGS * WALK_MAX);
    }

    #[test]
    fn whoever_leaves_keeps_the_number_and_no_place() {
        let mut roster = roster(20, 2);
        let number = roster.number(host(3)).unwrap();
        roster.unseat(host(3));
        assert_eq!(roster.members(), 19);
        assert_eq!(roster.neighbours(number, |_| false), []);
        assert!(roster.iter().all(|other| !roster.neighbours(other, |_| false).contains(&number)));
        assert_eq!(roster.seat(host(3), None), Some(number));
        assert_eq!(roster.by_short(ShortId::of(host(3))), Some(number));
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut roster = roster(HOSTS_MAX, 1);
        assert_eq!(roster.members(), HOSTS_MAX);
        assert_eq!(roster.seat(host(HOSTS_MAX), None), None);
        for number in HOSTS_MAX..=usize::from(u16::MAX) {
            assert!(roster.know(host(number)).is_some());
        }
        assert_eq!(roster.know(host(usize::from(u16::MAX) + 1)), None);
        assert!(roster.know(host(0)).is_some());
    }
}

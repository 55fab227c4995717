//! What is measured, each in a fleet of its own.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use groundswell_protocol::{fleet::Number, time::Mono};

use super::{ScaleArguments, host::Rules, ledger, world::World};
use crate::measured::{
    Goal::{self, AtLeast, AtMost, None as NoGoal},
    Measured,
};

type Measure = fn(&ScaleArguments) -> Vec<Measured>;

/// All measures, by name.
pub(super) const ALL: [(&str, Measure); 8] = [
    ("urgent", urgent),
    ("normal", normal),
    ("rollout", rollout),
    ("power", power),
    ("sick", sick),
    ("half", half),
    ("join", join),
    ("storm", storm),
];

fn measured(what: &str, got: f64, goal: Goal, unit: &'static str) -> Measured {
    Measured { what: what.into(), got, goal, unit }
}

/// What could not be measured misses any goal.
fn failed(what: &str) -> Measured {
    measured(what, f64::INFINITY, AtMost(0.0), "")
}

/// Failures that everybody is told of at once.
fn urgent(arguments: &ScaleArguments) -> Vec<Measured> {
    let mut world = World::new(arguments.hosts, arguments.seed, Rules::Ours);
    world.lost_per_thousand = 50;
    for host in world.some(40) {
        world.change(host, true, true);
        world.run(Duration::from_millis(250));
    }
    world.run(Duration::from_secs(15));
    let waits = waits(&world);
    let ticks = |percent| quantile(&waits, percent).as_secs_f64() / 0.2;
    vec![
        measured("urgent record to all, 5 % loss, p50", ticks(50), NoGoal, "ticks"),
        measured("urgent record to all, 5 % loss, p99", ticks(99), AtMost(3.0), "ticks"),
        measured("urgent record, last host", ticks(100), NoGoal, "ticks"),
    ]
}

/// Changes at the pace of a rollout, and the same pushed to everybody.
fn normal(arguments: &ScaleArguments) -> Vec<Measured> {
    let (ours, bytes) = spread(arguments, Rules::Ours);
    let (_, eager) = spread(arguments, Rules::Eager);
    let seconds = |percent| quantile(&ours, percent).as_secs_f64();
    vec![
        measured("normal record to all, 5 % loss, p50", seconds(50), NoGoal, "s"),
        measured("normal record to all, 5 % loss, p99", seconds(99), AtMost(2.0), "s"),
        measured("normal record, last host", seconds(100), NoGoal, "s"),
        measured("bytes per host and record", bytes, NoGoal, "B"),
        measured("the same, pushed to all neighbours", eager, NoGoal, "B"),
        measured("bytes relative to eager push", bytes / eager, AtMost(0.35), ""),
    ]
}

/// Waits of all hosts for all changes, and bytes per host and change.
fn spread(arguments: &ScaleArguments, rules: Rules) -> (Vec<Duration>, f64) {
    let mut world = World::new(arguments.hosts, arguments.seed, rules);
    world.lost_per_thousand = 50;
    world.run(Duration::from_secs(1));
    let before = world.came_bytes;
    let changes = changes_in(arguments, Duration::from_secs(10));
    for host in world.some(changes) {
        world.change(host, false, true);
        world.run(Duration::from_secs(10) / changes);
    }
    world.run(Duration::from_secs(12));
    let deliveries = f64::from(changes) * world.hosts.len() as f64;
    (waits(&world), (world.came_bytes - before) as f64 / deliveries)
}

/// Six changes of each host within an hour, and the hourly signature of all.
fn changes_in(arguments: &ScaleArguments, time: Duration) -> u32 {
    let per_hour = arguments.hosts.saturating_mul(7);
    let changes = per_hour
        .saturating_mul(usize::try_from(time.as_secs()).unwrap_or(usize::MAX))
        .div_ceil(3600)
        .max(1);
    u32::try_from(changes).unwrap_or(u32::MAX)
}

/// A part of a rollout of one hour, with everything that hosts say to each other; and the same fleet
/// at rest.
fn rollout(arguments: &ScaleArguments) -> Vec<Measured> {
    let mut world = World::new(arguments.hosts, arguments.seed, Rules::Ours);
    world.lost_per_thousand = 1;
    world.run(Duration::from_secs(1));
    let hosts = world.hosts.len() as f64;
    let links: usize = world.hosts.iter().map(|host| host.overlay.gossips().count()).sum();
    let resting = Instant::now();
    world.run(PART);
    let at_rest = PART.as_secs_f64() / resting.elapsed().as_secs_f64();
    let counters = |world: &World| {
        let World { came_bytes, heartbeat_bytes, offer_bytes, record_bytes, events, .. } = world;
        [*came_bytes, *heartbeat_bytes, *offer_bytes, *record_bytes, *events].map(|n| n as f64)
    };
    let (before, began) = (counters(&world), Instant::now());
    let changes = changes_in(arguments, PART);
    for host in world.some(changes) {
        world.change(host, false, false);
        world.run(PART / changes);
    }
    let (after, took) = (counters(&world), began.elapsed().as_secs_f64());
    let rate =
        |counter: usize| (after[counter] - before[counter]) / hosts / PART.as_secs_f64() / 1024.0;
    let events = (after[4] - before[4]) / took;
    let heard = match ledger::heard(arguments.seed) {
        Ok(heard) => heard,
        Err(error) => return vec![failed(&format!("the ledger's rollout: {error}"))],
    };
    let ledger = heard.bytes / 1024.0;
    vec![
        measured("links of a host", links as f64 / hosts, NoGoal, ""),
        measured("inbound in a rollout of one hour", rate(0) + ledger, AtMost(16.0), "KB/s"),
        measured("of that the ledger, in a rollout of few hosts", ledger, NoGoal, "KB/s"),
        measured("messages that bring it", heard.messages, NoGoal, "a second"),
        measured(
            "hosts that are deployed to there",
            heard.hosts_per_second,
            AtLeast(hosts / 3600.0),
            "a second",
        ),
        measured("of that records", rate(3), NoGoal, "KB/s"),
        measured("of that offers", rate(2), NoGoal, "KB/s"),
        measured("of that heartbeats", rate(1), NoGoal, "KB/s"),
        measured("a record", world.bytes.record as f64, NoGoal, "B"),
        measured("virtual seconds per second, at rest", at_rest, AtLeast(3.0), ""),
        measured("virtual seconds per second, in a rollout", PART.as_secs_f64() / took, NoGoal, ""),
        measured("events per second, heartbeats not counted", events, NoGoal, ""),
    ]
}

/// How long the rollout is watched: two comparisons of each host.
const PART: Duration = Duration::from_secs(20);

/// Some hosts lose their power, one after the other; everybody else comes to know.
fn power(arguments: &ScaleArguments) -> Vec<Measured> {
    let mut world = World::new(arguments.hosts, arguments.seed, Rules::Ours);
    world.lost_per_thousand = 10;
    world.run(Duration::from_secs(2));
    let mut dead = Vec::new();
    for _ in 0..10 {
        let host = world.any();
        world.kill(host);
        dead.push(host);
        world.run(Duration::from_millis(730));
    }
    world.run(Duration::from_secs(20));
    let mut waits = Vec::new();
    for host in &dead {
        let died = world.hosts[host.index()].died_at.unwrap_or(Mono(0));
        for other in world.hosts.iter().filter(|other| other.is_alive()) {
            let at = other.called.get(host);
            waits.push(at.map_or(Duration::from_secs(3600), |at| at.since(died)));
        }
    }
    waits.sort_unstable();
    let called = world.hosts.iter().flat_map(|host| host.called.keys());
    let wrong = called.filter(|host| !dead.contains(host)).count();
    let seconds = |percent| quantile(&waits, percent).as_secs_f64();
    vec![
        measured("power loss to unreachable everywhere, p50", seconds(50), AtMost(10.0), "s"),
        measured("power loss to unreachable everywhere, p99", seconds(99), AtMost(12.0), "s"),
        measured("the last host to know", seconds(100), NoGoal, "s"),
        measured("healthy hosts called unreachable meanwhile", wrong as f64, AtMost(0.0), ""),
    ]
}

/// One of a hundred hosts is overloaded: for seconds it takes nothing in, or stands still.
fn sick(arguments: &ScaleArguments) -> Vec<Measured> {
    let ours = overloaded(arguments, Rules::Ours);
    let swim = overloaded(arguments, Rules::Swim);
    // As many as are overloaded, or the comparison says little.
    let enough = (arguments.hosts / 100) as f64;
    vec![
        measured("healthy called unreachable, 1 % overloaded", ours, NoGoal, ""),
        measured("the same by one observer's word", swim, AtLeast(enough), ""),
        measured("relative to one observer's word", ours / swim.max(1.0), AtMost(0.02), ""),
    ]
}

/// How many healthy hosts were called unreachable by anybody while the others were overloaded, once each.
fn overloaded(arguments: &ScaleArguments, rules: Rules) -> f64 {
    let mut world = World::new(arguments.hosts, arguments.seed, rules);
    world.lost_per_thousand = 10;
    let sick = world.some(u32::try_from(arguments.hosts.div_ceil(100)).unwrap_or(u32::MAX));
    for host in &sick {
        let seconds = 4 + world.dice.below(9);
        let frozen = world.dice.below(2) == 0;
        world.overload(*host, Duration::from_secs(seconds), frozen);
    }
    world.run(OVERLOADED_FOR);
    let called = world.hosts.iter().flat_map(|host| host.called.keys());
    let wrong: BTreeSet<_> = called.filter(|host| !sick.contains(host)).collect();
    wrong.len() as f64
}

/// The overload lasts twelve seconds at most, and the word of one accuser alone counts after thirty.
const OVERLOADED_FOR: Duration = Duration::from_secs(45);

/// Half of the hosts lose their power at once. Nobody spreads anything here: only the overlay is
/// looked at.
fn half(arguments: &ScaleArguments) -> Vec<Measured> {
    let mut world = World::new(arguments.hosts, arguments.seed, Rules::Ours);
    // By then hosts have the links to some that are no neighbours which they always have.
    world.run(Duration::from_secs(45));
    let mut alive: Vec<_> = world.hosts.iter().map(|host| host.me).collect();
    for _ in 0..alive.len() / 2 {
        let bound = alive.len() as u64;
        let index = usize::try_from(world.dice.below(bound)).unwrap_or(0);
        let host = alive.swap_remove(index);
        world.kill(host);
    }
    for host in &mut world.hosts {
        host.is_quiet = true;
    }
    let at_once = world.connected();
    let mut seconds = 0.0;
    while world.connected() < 1.0 && seconds < 120.0 {
        world.run(Duration::from_secs(1));
        seconds += 1.0;
    }
    vec![
        measured("half lost: survivors connected at once", at_once * 100.0, AtLeast(99.9), "%"),
        measured("half lost: all survivors connected", seconds, AtMost(60.0), "s"),
    ]
}

/// One host joins that knows nobody.
fn join(arguments: &ScaleArguments) -> Vec<Measured> {
    let mut joining = Joining::new(arguments, 1);
    joining.join();
    joining.run_until_known();
    let [got, _] = joining.traffic(joining.joined[0]);
    vec![
        measured("a host joins: it knows everybody", joining.knows[0], AtMost(60.0), "s"),
        measured("a host joins: those who were there know it", joining.known[0], AtMost(10.0), "s"),
        measured("bytes that come to it", got as f64 / 1024.0, NoGoal, "KB"),
        measured("bytes of whoever gives most", joining.most_given() as f64 / 1024.0, NoGoal, "KB"),
        measured("most that comes to a host in a second", joining.peaks[0], AtMost(HOST_KB), "KB"),
        measured("most that a host sends in a second", joining.peaks[1], AtMost(HOST_KB), "KB"),
    ]
}

/// One in twenty hosts joins within ten seconds.
fn storm(arguments: &ScaleArguments) -> Vec<Measured> {
    let joiners = (arguments.hosts / 20).max(1);
    let mut joining = Joining::new(arguments, joiners);
    for _ in 0..joiners {
        joining.join();
        joining.run(Duration::from_secs(10) / u32::try_from(joiners).unwrap_or(u32::MAX));
    }
    joining.run_until_known();
    let sorted = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds
    };
    let (known, knows) = (sorted(joining.known.clone()), sorted(joining.knows.clone()));
    let at = |seconds: &[f64], percent: usize| seconds[(seconds.len() - 1) * percent / 100];
    vec![
        measured("one in twenty joins: it knows everybody, p50", at(&knows, 50), NoGoal, "s"),
        measured("one in twenty joins: it knows everybody, p99", at(&knows, 99), AtMost(60.0), "s"),
        measured(
            "one in twenty joins: those who were there know it, p50",
            at(&known, 50),
            NoGoal,
            "s",
        ),
        measured(
            "one in twenty joins: those who were there know it, p99",
            at(&known, 99),
            AtMost(10.0),
            "s",
        ),
        measured("bytes of whoever gives most", joining.most_given() as f64 / 1024.0, NoGoal, "KB"),
        measured("most that comes to a host in a second", joining.peaks[0], AtMost(HOST_KB), "KB"),
        measured("most that a host sends in a second", joining.peaks[1], AtMost(HOST_KB), "KB"),
    ]
}

/// What a host may be sent in a second, and may send.
const HOST_KB: f64 = 256.0;
/// Hosts whose addresses are given to those who join.
const SEEDS: usize = 3;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A fleet that others join.
struct Joining {
    world: World,
    seeds: Vec<Number>,
    joined: Vec<Number>,
    /// When each of them began, and the seconds after which it knew all who were there before, and
    /// these knew it.
    began: Vec<Mono>,
    knows: Vec<f64>,
    known: Vec<f64>,
    /// The most that any host was sent, and has sent, in a second; in KB.
    peaks: [f64; 2],
    before: Vec<[u64; 2]>,
    looked_at: Mono,
    /// What each had sent when it began.
    given_before: Vec<u64>,
}

impl Joining {
    fn new(arguments: &ScaleArguments, joiners: usize) -> Self {
        let mut world = World::new(arguments.hosts - joiners, arguments.seed, Rules::Ours);
        world.run(Duration::from_secs(2));
        let seeds = world.some(u32::try_from(SEEDS).unwrap_or(1));
        let before: Vec<_> = world.hosts.iter().map(|host| host.traffic).collect();
        let given_before = before.iter().map(|[_, sent]| *sent).collect();
        let (joined, began, peaks, looked_at) = (Vec::new(), Vec::new(), [0.0; 2], world.now);
        let (knows, known) = (Vec::new(), Vec::new());
        Self { world, seeds, joined, began, knows, known, peaks, before, looked_at, given_before }
    }

    fn join(&mut self) {
        let seed = self.seeds[self.joined.len() % self.seeds.len()];
        self.joined.push(self.world.join(seed));
        self.began.push(self.world.now);
        self.knows.push(f64::INFINITY);
        self.known.push(f64::INFINITY);
    }

    /// Lets time pass, and looks at what hosts have sent and who knows everybody.
    fn run(&mut self, time: Duration) {
        self.world.run(time);
        let (now, there) = (self.world.now, self.given_before.len());
        let hosts = &self.world.hosts;
        for (place, host) in self.joined.iter().enumerate() {
            let seconds = now.since(self.began[place]).as_secs_f64();
            if self.knows[place].is_infinite() && hosts[host.index()].records.len() >= there {
                self.knows[place] = seconds;
            }
            let knows_it = |other: &super::host::Host| other.records.get(*host).is_some();
            if self.known[place].is_infinite() && hosts[..there].iter().all(knows_it) {
                self.known[place] = seconds;
            }
        }
        if now.since(self.looked_at) < Duration::from_secs(1) {
            return;
        }
        let seconds = now.since(self.looked_at).as_secs_f64();
        let traffic: Vec<_> = self.world.hosts.iter().map(|host| host.traffic).collect();
        self.before.resize(traffic.len(), [0; 2]);
        for (now, before) in traffic.iter().zip(&self.before) {
            for (way, peak) in self.peaks.iter_mut().enumerate() {
                *peak = peak.max((now[way] - before[way]) as f64 / 1024.0 / seconds);
            }
        }
        (self.before, self.looked_at) = (traffic, now);
    }

    fn run_until_known(&mut self) {
        let end = self.world.now + Duration::from_secs(120);
        let all = |joining: &Self| {
            joining.knows.iter().chain(&joining.known).all(|seconds| seconds.is_finite())
        };
        while !all(self) && self.world.now < end {
            self.run(LOOK_EVERY);
        }
    }

    fn traffic(&self, host: Number) -> [u64; 2] {
        self.world.hosts[host.index()].traffic
    }

    fn most_given(&self) -> u64 {
        let before = self.given_before.iter().copied().chain(std::iter::repeat(0));
        let given = self.world.hosts.iter().zip(before);
        given.map(|(host, before)| host.traffic[1] - before).max().unwrap_or(0)
    }
}

fn waits(world: &World) -> Vec<Duration> {
    let hosts = world.hosts.len();
    let mut waits = Vec::new();
    for (_, track) in &world.tracks {
        waits.extend_from_slice(track);
        // Whoever never got it has waited for ever.
        waits.resize(waits.len() + hosts - track.len().min(hosts), Duration::from_secs(3600));
    }
    waits.sort_unstable();
    waits
}

/// The value that so many of a hundred are not above.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

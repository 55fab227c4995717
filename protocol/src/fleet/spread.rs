//! How records spread: neighbours tell each other what has changed, and ask for what they lack.
//!
//! For each neighbour there is one mark per host whose record it may lack. Every [`SPREAD_EVERY`] the
//! newest marks of every other one become an offer of a few bytes each; the record itself crosses a link only when it
//! is asked for, so a host gets it about once and not ten times. What is urgent is pushed at once; where
//! much is, the rest waits for the next tick and goes together.
//! Only the newest version of a host is ever under way, so nothing is longer than the roster.
//!
//! What gets lost on the way is found by comparing trees with one neighbour after the other. Whoever lacks most
//! of what there is asks for it with a [`Survey`] first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    marks::Marks,
    records::{Differences, Inserted, Records, Statement, TreeNode, Version},
    roster::{BUCKETS, Number, Roster},
    survey::Survey,
    told::Told,
};
use crate::{
    limits::{
        ASK_AGAIN_AFTER, ASKS_PER_LINK_MAX, ASKS_PER_TICK, BURST_BYTES, HOST_BYTES_PER_SECOND,
        LINK_BYTES_PER_SECOND, RECONCILE_EVERY, RECORDS_PER_MESSAGE_MAX, SPREAD_EVERY,
        SPREADS_PER_SECOND, URGENT_EVERY,
    },
    time::Mono,
};

/// What one host says to another about records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say<S> {
    /// These versions are here.
    Offer(Vec<(Number, Version)>),
    /// The records of these hosts are wanted.
    Ask(Vec<Number>),
    /// Records that were asked for, or are urgent.
    Give(Vec<(Number, S)>),
    /// Nodes of the tree as they are here, where it may differ.
    Nodes(Vec<TreeNode>),
    /// All versions that are here of the hosts in each bucket.
    Buckets(Vec<(u8, Vec<(Number, Version)>)>),
}

/// Something to send.
pub type Letter<S> = (Number, Say<S>);

/// The records on their way to and from one host.
#[derive(Clone, Debug)]
pub struct Spread {
    links: BTreeMap<Number, Link>,
    told: Told,
    wanted: BTreeMap<Number, Want>,
    /// When a host's record was last pushed; kept for as long as it matters.
    urgent: BTreeMap<Number, Mono>,
    next_at: Mono,
    /// Whether the links in even or in odd places have their turn.
    turn: usize,
    next_compare_at: Mono,
    last_compared: Option<Number>,
    survey: Option<Survey>,
    /// When this host last lacked what a survey, or a comparison that was put off for one, may bring.
    lacked_at: Option<Mono>,
    /// How many hosts were known when it last began with one.
    surveyed: usize,
    /// Peers with whom nothing was compared, for the survey's sake, since their link is up.
    uncompared: BTreeSet<Number>,
    /// Records that may be asked for until the next tick, and which link asked first at the last one.
    asks_left: usize,
    asked_first: usize,
    /// Bytes that were sent on all links together, less what time has made up for.
    spent: usize,
}

/// What is under way on one link.
#[derive(Clone, Debug, Default)]
struct Link {
    /// Hosts whose record the peer has asked for, or is to have at once.
    owed: Marks,
    /// Something that is owed is urgent.
    is_pressed: bool,
    /// Something was pushed since the last tick.
    has_pushed: bool,
    /// Hosts whose record may be asked for here once fewer are under way.
    later: Marks,
    /// How many are under way.
    asked: usize,
    /// Bytes of records that may be sent now.
    credit: usize,
}

/// A record that is said to exist and is not here.
#[derive(Clone, Debug, Default)]
struct Want {
    asked: Option<(Number, Mono)>,
    /// Who has said to have which version, each peer once. All are newer than what is here.
    offers: Vec<(Number, Version)>,
    /// Who was asked and gave nothing new: such a peer is asked again where nobody else is left.
    in_vain: Vec<Number>,
}

impl Want {
    fn offer(&mut self, from: Number, version: Version) {
        match self.offers.iter_mut().find(|(peer, _)| *peer == from) {
            Some((_, offered)) => *offered = version.max(*offered),
            None => self.offers.push((from, version)),
        }
    }

    /// Whom to ask next: whoever has the newest, of those that were not asked in vain.
    fn next(&self) -> Option<Number> {
        let best = |(peer, version): &&(Number, Version)| (!self.in_vain.contains(peer), *version);
        self.offers.iter().max_by_key(best).map(|(peer, _)| *peer)
    }

    fn forget(&mut self, peer: Number) {
        self.offers.retain(|(other, _)| *other != peer);
    }
}

impl Spread {
    /// Nothing under way. `draw` spreads the hosts of a fleet over time.
    pub fn new(now: Mono, draw: u64) -> Self {
        let within = |every: Duration| {
            let micros = u64::try_from(every.as_micros()).unwrap_or(1);
            now + Duration::from_micros(draw % micros)
        };
        Self {
            links: BTreeMap::new(),
            told: Told::default(),
            wanted: BTreeMap::new(),
            urgent: BTreeMap::new(),
            next_at: within(SPREAD_EVERY),
            turn: 0,
            next_compare_at: within(RECONCILE_EVERY),
            last_compared: None,
            survey: None,
            lacked_at: None,
            surveyed: 0,
            uncompared: BTreeSet::new(),
            asks_left: ASKS_PER_TICK,
            asked_first: 0,
            spent: 0,
        }
    }

    /// A link is up: the two hosts compare what they have, whether they are neighbours or not. Whoever
    /// lacks most of it does so later.
    pub fn link_up<S: Statement>(
        &mut self,
        now: Mono,
        peer: Number,
        roster: &Roster,
        records: &mut Records<S>,
        out: &mut Vec<Letter<S>>,
    ) {
        self.told.leave(peer);
        self.links.insert(peer, Link { credit: BURST_BYTES, ..Link::default() });
        self.survey_if_due(now, roster, records);
        if self.survey.is_none() {
            return out.push((peer, Say::Nodes(vec![records.root(roster)])));
        }
        self.uncompared.insert(peer);
        // It is to be known itself at once, whatever else it knows by now.
        let here = (0..=u8::MAX).flat_map(|bucket| records.bucket(roster, bucket));
        out.push((peer, Say::Offer(here.take(OFFERS_MAX).collect())));
    }

    /// A link is gone, and all that was under way on it.
    pub fn link_down(&mut self, peer: Number) {
        self.told.leave(peer);
        self.links.remove(&peer);
        self.uncompared.remove(&peer);
        for want in self.wanted.values_mut() {
            want.forget(peer);
            want.in_vain.retain(|other| *other != peer);
            want.asked = want.asked.filter(|(asked, _)| *asked != peer);
        }
        self.ask_others();
    }

    /// Says whether a peer is told of changes: if one of the two counts the other as its neighbour.
    pub fn set_gossips(&mut self, peer: Number, gossips: bool) {
        if !gossips {
            self.told.leave(peer);
        } else if self.links.contains_key(&peer) {
            self.told.join(peer);
        }
    }

    /// Compares with a neighbour soon: there may be much to learn.
    pub fn compare_soon(&mut self, now: Mono) {
        self.next_compare_at = self.next_compare_at.min(now + SPREAD_EVERY);
    }

    /// Takes in a record that was verified, and sees to it that the neighbours hear of it, with
    /// [`Spread::pass_on`] if it is urgent. `from` is none for one's own.
    #[expect(
        clippy::too_many_arguments,
        reason = "the store is handed in, and is not the spread's"
    )]
    pub fn put<S: Statement>(
        &mut self,
        now: Mono,
        roster: &Roster,
        records: &mut Records<S>,
        host: Number,
        record: S,
        from: Option<Number>,
        urgent: bool,
    ) -> Inserted {
        let (version, bytes) = (record.version(), record.bytes());
        let inserted = records.put(roster, host, record);
        if let Some(from) = from
            && inserted != Inserted::Old
        {
            self.has(from, host);
        }
        let had_it = self.came(host, version);
        if inserted != Inserted::New {
            return inserted;
        }
        let mut lacking = self.told.but(|peer| Some(peer) == from || had_it.contains(&peer));
        if urgent && self.may_push(now, host) {
            for (peer, link) in &mut self.links {
                let bit = lacking & self.told.bit(*peer);
                // What the link cannot carry now is offered: most of it comes by another one before.
                if bit != 0 && (link.owed.count + 1) * bytes <= link.credit {
                    link.owed.set(host);
                    link.is_pressed = true;
                    lacking &= !bit;
                }
            }
        }
        self.told.set(host, lacking);
        inserted
    }

    /// A peer has the newest record of a host that is here.
    fn has(&mut self, peer: Number, host: Number) {
        self.told.clear(host, self.told.bit(peer));
        if let Some(link) = self.links.get_mut(&peer) {
            link.owed.clear(host);
        }
    }

    /// Passes on what was taken in and is urgent, once between two ticks on each link.
    pub fn pass_on<S: Statement>(&mut self, records: &Records<S>, out: &mut Vec<Letter<S>>) {
        for (peer, link) in &mut self.links {
            if link.is_pressed && !link.has_pushed {
                link.has_pushed = true;
                self.spent += link.pay(*peer, left(self.spent), &mut self.told, records, out);
            }
        }
    }

    /// Whoever calls every record of his urgent is not pushed about for it.
    fn may_push(&mut self, now: Mono, host: Number) -> bool {
        let last = self.urgent.get(&host);
        let may = last.is_none_or(|at| now.since(*at) >= URGENT_EVERY);
        if may {
            self.urgent.insert(host, now);
        }
        may
    }

    /// A version of a host's record is here. Returns who has it as well.
    fn came(&mut self, host: Number, version: Version) -> Vec<Number> {
        let Some(want) = self.wanted.get_mut(&host) else { return Vec::new() };
        let had_it = want.offers.iter().filter(|(_, offered)| *offered == version);
        let had_it = had_it.map(|(peer, _)| *peer).collect();
        want.offers.retain(|(_, offered)| *offered > version);
        // Whoever was asked, and has offered nothing newer, owes nothing more.
        let owes = |asked: Number| want.offers.iter().any(|(peer, _)| *peer == asked);
        if let Some((peer, _)) = want.asked.take_if(|(peer, _)| !owes(*peer))
            && let Some(link) = self.links.get_mut(&peer)
        {
            link.asked = link.asked.saturating_sub(1);
        }
        self.ask_for(host);
        had_it
    }

    /// Takes in what a peer says. Records are the caller's: it verifies them and calls
    /// [`Spread::put`], and when it is done with them [`Spread::pass_on`] and [`Spread::ask_more`].
    pub fn hear<S: Statement>(
        &mut self,
        now: Mono,
        roster: &Roster,
        records: &mut Records<S>,
        from: Number,
        said: Say<S>,
        out: &mut Vec<Letter<S>>,
    ) {
        if !self.links.contains_key(&from) {
            return;
        }
        match said {
            Say::Offer(versions) => {
                for (host, version) in versions.into_iter().take(roster.len()) {
                    self.offered(records, from, host, version);
                }
                self.ask_more(now, from, out);
            }
            Say::Ask(hosts) => {
                if let Some(link) = self.links.get_mut(&from) {
                    hosts.into_iter().for_each(|host| link.owed.set(host));
                    self.spent += link.pay(from, left(self.spent), &mut self.told, records, out);
                }
            }
            Say::Give(_) => self.ask_more(now, from, out),
            // The survey finds out what that comparison would.
            Say::Nodes(_) if self.survey.is_some() => {}
            Say::Nodes(nodes) => {
                let Differences { nodes, buckets } = records.compare(roster, &nodes);
                if !nodes.is_empty() {
                    out.push((from, Say::Nodes(nodes)));
                }
                let here = |bucket| (bucket, records.bucket(roster, bucket));
                let buckets: Vec<_> = buckets.into_iter().map(here).collect();
                if !buckets.is_empty() {
                    out.push((from, Say::Buckets(buckets)));
                }
            }
            Say::Buckets(buckets) => {
                let mut newer = Vec::new();
                for (bucket, versions) in buckets.into_iter().take(BUCKETS) {
                    newer.extend(self.compared(roster, records, from, bucket, &versions));
                }
                self.offer_what_differs(from, newer, out);
                self.ask_more(now, from, out);
            }
        }
    }

    /// A peer has this version of a host's record.
    fn offered<S: Statement>(
        &mut self,
        records: &Records<S>,
        from: Number,
        host: Number,
        version: Version,
    ) {
        let here = records.version(host);
        if here.is_some_and(|here| here >= version) {
            if here == Some(version) {
                self.has(from, host);
            } else {
                self.told.set(host, self.told.bit(from));
            }
            return;
        }
        let Some(link) = self.links.get_mut(&from) else { return };
        self.told.clear(host, self.told.bit(from));
        let want = self.wanted.entry(host).or_default();
        want.offer(from, version);
        let is_vain = |peer: &Number| want.in_vain.contains(peer);
        match want.asked {
            None => link.later.set(host),
            // Whoever promises what it does not have keeps nobody else from being asked.
            Some((asked, _)) if is_vain(&asked) && !is_vain(&from) => {
                want.asked = None;
                link.later.set(host);
                if let Some(link) = self.links.get_mut(&asked) {
                    link.asked = link.asked.saturating_sub(1);
                }
            }
            Some(_) => {}
        }
    }

    /// A peer has exactly these versions in a bucket: it is asked for what is newer there. Returns what is
    /// newer here.
    fn compared<S: Statement>(
        &mut self,
        roster: &Roster,
        records: &Records<S>,
        from: Number,
        bucket: u8,
        theirs: &[(Number, Version)],
    ) -> Vec<(Number, Version)> {
        let theirs: BTreeMap<_, _> = theirs.iter().take(roster.len()).copied().collect();
        let mut newer = records.bucket(roster, bucket);
        newer.retain(|(host, here)| theirs.get(host).is_none_or(|there| there < here));
        for (host, version) in theirs {
            if records.version(host).is_none_or(|here| here < version) {
                self.offered(records, from, host, version);
            }
        }
        newer
    }

    /// Offers what a comparison has found, as far as credit goes: the next one finds the rest.
    fn offer_what_differs<S>(
        &mut self,
        peer: Number,
        mut newer: Vec<(Number, Version)>,
        out: &mut Vec<Letter<S>>,
    ) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        newer.truncate(link.credit.min(left(self.spent)) / VERSION_BYTES);
        link.credit -= newer.len() * VERSION_BYTES;
        self.spent += newer.len() * VERSION_BYTES;
        let bit = self.told.bit(peer);
        newer.iter().for_each(|(host, _)| self.told.clear(*host, bit));
        if !newer.is_empty() {
            out.push((peer, Say::Offer(newer)));
        }
    }

    /// Asks a peer for what waits, as far as not too much is under way.
    pub fn ask_more<S>(&mut self, now: Mono, peer: Number, out: &mut Vec<Letter<S>>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let mut hosts = Vec::new();
        while link.asked < ASKS_PER_LINK_MAX
            && self.asks_left > 0
            && let Some(host) = link.later.pop()
        {
            let Some(want) = self.wanted.get_mut(&host).filter(|want| want.asked.is_none()) else {
                continue;
            };
            if want.in_vain.contains(&peer) && want.next() != Some(peer) {
                continue;
            }
            want.asked = Some((peer, now));
            link.asked += 1;
            self.asks_left -= 1;
            hosts.push(host);
        }
        if !hosts.is_empty() {
            out.push((peer, Say::Ask(hosts)));
        }
    }

    /// What was asked of nobody, or in vain, waits for another peer that has it.
    fn ask_others(&mut self) {
        let waiting = self.wanted.iter().filter(|(_, want)| want.asked.is_none());
        let waiting: Vec<_> = waiting.map(|(host, _)| *host).collect();
        waiting.into_iter().for_each(|host| self.ask_for(host));
    }

    /// A record waits for whoever has it and was not asked in vain, or else for who was; where nobody has it, it
    /// is wanted no more.
    fn ask_for(&mut self, host: Number) {
        let Some(want) = self.wanted.get(&host).filter(|want| want.asked.is_none()) else { return };
        let Some(next) = want.next() else { return drop(self.wanted.remove(&host)) };
        for (peer, _) in &want.offers {
            if (*peer == next || !want.in_vain.contains(peer))
                && let Some(link) = self.links.get_mut(peer)
            {
                link.later.set(host);
            }
        }
    }

    /// When this host last lacked most of what others know, and went through it; none if it never has.
    pub fn lacked_at(&self) -> Option<Mono> {
        self.lacked_at
    }

    /// When [`Spread::tick`] is due.
    pub fn next_at(&self) -> Mono {
        self.next_at
    }

    /// Time has passed: offers, what is owed, what did not come, and a comparison now and then.
    pub fn tick<S: Statement>(
        &mut self,
        now: Mono,
        roster: &Roster,
        records: &mut Records<S>,
        out: &mut Vec<Letter<S>>,
    ) {
        if now < self.next_at {
            return;
        }
        self.next_at = (self.next_at + SPREAD_EVERY).max(now);
        self.urgent.retain(|_, at| now.since(*at) < URGENT_EVERY);
        self.give_up_waiting(now);
        let waiting = !self.wanted.is_empty();
        self.asks_left = ASKS_PER_TICK;
        self.spent = self.spent.saturating_sub(HOST_CREDIT);
        // Half of the links now, the others with the next tick: by then most of their peers have
        // offered the same themselves, and what is left comes in fewer messages.
        self.turn = 1 - self.turn;
        let owing = self.links.values().filter(|link| link.owed.count > 0).count();
        let share = left(self.spent) / owing.max(1);
        for (place, (peer, link)) in self.links.iter_mut().enumerate() {
            link.credit = (link.credit + CREDIT).min(BURST_BYTES);
            link.has_pushed = false;
            self.spent += link.pay(*peer, share, &mut self.told, records, out);
            if place % 2 == self.turn {
                let most = OFFERS_MAX.min(left(self.spent) / VERSION_BYTES);
                self.spent += VERSION_BYTES * self.told.offer(*peer, most, records, out);
            }
        }
        self.told.tidy();
        if waiting {
            // Each time another one is the first: there may be more to ask than may come.
            let mut peers: Vec<_> = self.links.keys().copied().collect();
            let first = self.asked_first % peers.len().max(1);
            peers.rotate_left(first);
            self.asked_first = self.asked_first.wrapping_add(1);
            peers.into_iter().for_each(|peer| self.ask_more(now, peer, out));
        }
        self.survey_if_due(now, roster, records);
        self.survey.take_if(|survey| survey.takes_too_long(now));
        if self.survey.is_some() || !self.uncompared.is_empty() {
            self.lacked_at = Some(now);
        }
        if self.survey.is_some() {
            return self.survey(now, roster, records, out);
        }
        if now >= self.next_compare_at || !self.uncompared.is_empty() {
            self.next_compare_at = now + RECONCILE_EVERY;
            if let Some(peer) = self.next_to_compare() {
                out.push((peer, Say::Nodes(vec![records.root(roster)])));
            }
        }
    }

    fn survey_if_due<S: Statement>(&mut self, now: Mono, roster: &Roster, records: &Records<S>) {
        if self.survey.is_none() && Survey::is_due(roster, records, self.surveyed) {
            self.survey = Some(Survey::new(now));
            self.surveyed = roster.len();
            self.uncompared.extend(self.links.keys());
        }
    }

    /// Asks about the next hosts, unless more is known of already than may be asked for. What did not
    /// come by the end is found by the comparisons that were put off.
    fn survey<S: Statement>(
        &mut self,
        now: Mono,
        roster: &Roster,
        records: &Records<S>,
        out: &mut Vec<Letter<S>>,
    ) {
        let Some(survey) = &mut self.survey else { return };
        if self.wanted.len() > ASKS_PER_TICK {
            return;
        }
        let mut peers: Vec<_> = self.links.keys().copied().collect();
        if !survey.asks_anybody(now) || peers.iter().any(|peer| self.told.bit(*peer) != 0) {
            peers.retain(|peer| self.told.bit(*peer) != 0);
        }
        let asks = survey.step(roster, records, &peers);
        out.extend(asks.into_iter().map(|(peer, buckets)| (peer, Say::Buckets(buckets))));
        if survey.is_over() {
            self.survey = None;
        }
    }

    fn give_up_waiting(&mut self, now: Mono) {
        let mut late = false;
        for want in self.wanted.values_mut() {
            let Some((peer, at)) = want.asked else { continue };
            if now.since(at) < ASK_AGAIN_AFTER {
                continue;
            }
            late = true;
            want.asked = None;
            want.forget(peer);
            if !want.in_vain.contains(&peer) {
                want.in_vain.push(peer);
            }
            if let Some(link) = self.links.get_mut(&peer) {
                link.asked = link.asked.saturating_sub(1);
            }
        }
        if late {
            self.ask_others();
        }
    }

    /// Whoever was put off, then one neighbour after the other; where there is none, whoever is connected.
    fn next_to_compare(&mut self) -> Option<Number> {
        if let Some(peer) = self.uncompared.pop_first() {
            return Some(peer);
        }
        let after = |last: Option<Number>, only_gossip: bool| {
            let fits = |peer: &Number| !only_gossip || self.told.bit(*peer) != 0;
            let mut rest = self.links.keys().copied().filter(fits);
            rest.find(|peer| last.is_none_or(|last| *peer > last))
        };
        let last = self.last_compared;
        let next = after(last, true).or_else(|| after(None, true)).or_else(|| after(last, false));
        self.last_compared = next.or_else(|| after(None, false));
        self.last_compared
    }

    /// True if nothing is longer than it may be.
    pub fn is_bounded(&self, roster: &Roster) -> bool {
        let hosts = roster.len();
        let link = |link: &Link| {
            link.asked <= ASKS_PER_LINK_MAX
                && [&link.owed, &link.later].iter().all(|marks| marks.is_bounded(hosts))
        };
        self.wanted.len() <= hosts
            && self.urgent.len() <= hosts
            && self.told.is_bounded(hosts)
            && self.links.values().all(link)
            && self
                .wanted
                .values()
                .all(|want| want.offers.len().max(want.in_vain.len()) <= self.links.len())
    }
}

impl Link {
    /// Sends what is owed, as far as the link's credit and the host's, `most`, go. Returns how many bytes.
    fn pay<S: Statement>(
        &mut self,
        peer: Number,
        most: usize,
        told: &mut Told,
        records: &Records<S>,
        out: &mut Vec<Letter<S>>,
    ) -> usize {
        self.is_pressed = false;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while self.credit > 0
            && bytes < most
            && let Some(host) = self.owed.pop()
        {
            let Some(record) = records.get(host) else { continue };
            self.credit = self.credit.saturating_sub(record.bytes());
            bytes += record.bytes();
            told.clear(host, told.bit(peer));
            batch.push((host, record.clone()));
            if batch.len() == RECORDS_PER_MESSAGE_MAX {
                out.push((peer, Say::Give(std::mem::take(&mut batch))));
            }
        }
        if !batch.is_empty() {
            out.push((peer, Say::Give(batch)));
        }
        bytes
    }
}

/// Bytes that may be sent now on all links together.
fn left(spent: usize) -> usize {
    BURST_BYTES.saturating_sub(spent)
}

/// Bytes of records that a link may send more with each tick.
const CREDIT: usize = LINK_BYTES_PER_SECOND / SPREADS_PER_SECOND;
/// The same for all links together: with what may be sent at once no more in a second than a host may.
const HOST_CREDIT: usize = (HOST_BYTES_PER_SECOND - BURST_BYTES) / SPREADS_PER_SECOND;
/// A host and a version on the wire.
const VERSION_BYTES: usize = 15;
/// Versions in one offer: what half of a tick's credit holds.
const OFFERS_MAX: usize = CREDIT / 2 / VERSION_BYTES;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{records::tests::Note, roster::tests::roster},
        *,
    };

    const HOSTS: usize = 300;

    /// A few hosts, each with a link to each, and what is under way between them.
    struct Mesh {
        roster: Roster,
        hosts: Vec<(Spread, Records<Note>)>,
        /// From, to, what.
        wire: Vec<(usize, usize, Say<Note>)>,
        now: Mono,
        /// Of so many messages one is lost.
        loses: Option<usize>,
        sent: usize,
        bodies: usize,
    }

    impl Mesh {
        fn new(hosts: usize, gossips: bool) -> Self {
            // Fewer than are worth a survey.
            Self::of(hosts, gossips, HOSTS)
        }

        fn of(hosts: usize, gossips: bool, hosts_known: usize) -> Self {
            // Their numbers are their places.
            let roster = roster(hosts_known, 1);
            // Their first comparisons come after five seconds.
            let draw = |host: usize| 5_000_000 + u64::try_from(host).unwrap();
            let hosts = (0..hosts).map(|host| (Spread::new(Mono(0), draw(host)), Records::new()));
            let mut mesh = Self {
                roster,
                hosts: hosts.collect(),
                wire: Vec::new(),
                now: Mono(0),
                loses: None,
                sent: 0,
                bodies: 0,
            };
            for a in 0..mesh.hosts.len() {
                for b in (0..mesh.hosts.len()).filter(|b| *b != a) {
                    mesh.act(a, |spread, roster, records, now, out| {
                        spread.link_up(now, number(b), roster, records, out);
                        spread.set_gossips(number(b), gossips);
                    });
                }
            }
            mesh
        }

        fn act(
            &mut self,
            host: usize,
            act: impl FnOnce(&mut Spread, &Roster, &mut Records<Note>, Mono, &mut Vec<Letter<Note>>),
        ) {
            let (spread, records) = &mut self.hosts[host];
            let mut out = Vec::new();
            act(spread, &self.roster, records, self.now, &mut out);
            assert!(spread.is_bounded(&self.roster));
            for (to, said) in out {
                self.sent += 1;
                if let Say::Give(given) = &said {
                    assert!(given.len() <= RECORDS_PER_MESSAGE_MAX);
                    self.bodies += given.len();
                }
                if to.index() < self.hosts.len()
                    && self.loses.is_none_or(|one_of| !self.sent.is_multiple_of(one_of))
                {
                    self.wire.push((host, to.index(), said));
                }
            }
        }

        fn put(&mut self, at: usize, host: usize, sequence: u64, urgent: bool) {
            self.act(at, |spread, roster, records, now, out| {
                let record = Note(sequence);
                spread.put(now, roster, records, number(host), record, None, urgent);
                spread.pass_on(records, out);
            });
        }

        fn deliver(&mut self) {
            while !self.wire.is_empty() {
                for (from, to, said) in std::mem::take(&mut self.wire) {
                    self.hear(from, to, said);
                }
            }
        }

        fn hear(&mut self, from: usize, to: usize, said: Say<Note>) {
            self.act(to, |spread, roster, records, now, out| {
                if let Say::Give(given) = said {
                    for (host, record) in given {
                        let from = Some(number(from));
                        spread.put(now, roster, records, host, record, from, false);
                    }
                    spread.pass_on(records, out);
                    spread.ask_more(now, number(from), out);
                } else {
                    spread.hear(now, roster, records, number(from), said, out);
                }
            });
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now = self.now + Duration::from_millis(100);
                for host in 0..self.hosts.len() {
                    self.act(host, |spread, roster, records, now, out| {
                        spread.tick(now, roster, records, out);
                    });
                }
                self.deliver();
            }
        }

        fn agree(&self) -> bool {
            let all = |host: &(Spread, Records<Note>)| {
                let numbers = 0..self.roster.len();
                numbers.map(|n| host.1.get(number(n)).copied()).collect::<Vec<_>>()
            };
            self.hosts.iter().all(|host| all(host) == all(&self.hosts[0]))
        }
    }

    fn number(index: usize) -> Number {
        super::super::roster::tests::number(index)
    }

    #[test]
    fn a_change_reaches_all_within_a_second_and_each_gets_it_once() {
        let mut mesh = Mesh::new(8, true);
        mesh.deliver();
        mesh.put(0, 0, 1, false);
        mesh.run(SPREAD_EVERY * 4);
        assert!(mesh.agree());
        assert!(mesh.hosts[7].1.get(number(0)).is_some());
        assert_eq!(mesh.bodies, 7);
    }

    #[test]
    fn what_is_urgent_is_pushed_at_once_but_not_again_and_again() {
        let mut mesh = Mesh::new(3, true);
        mesh.deliver();
        mesh.put(0, 0, 1, true);
        mesh.deliver();
        assert!(mesh.agree() && mesh.bodies >= 2);
        let before = mesh.bodies;
        mesh.put(0, 0, 2, true);
        mesh.deliver();
        assert_eq!(mesh.bodies, before, "it waits for its offer");
        mesh.run(SPREAD_EVERY * 3);
        assert!(mesh.agree());
        mesh.run(URGENT_EVERY * 2);
        mesh.put(0, 0, 3, true);
        mesh.deliver();
        assert!(mesh.agree());
    }

    #[test]
    fn where_much_is_urgent_it_goes_together_at_the_next_tick() {
        let mut mesh = Mesh::new(2, true);
        mesh.deliver();
        (0..100).for_each(|host| mesh.put(0, host, 1, true));
        assert_eq!(mesh.wire.len(), 1, "the first one goes at once");
        mesh.deliver();
        mesh.hear(1, 0, Say::Offer(vec![(number(50), Version { epoch: 1, sequence: 1 })]));
        mesh.run(SPREAD_EVERY);
        assert_eq!(mesh.hosts[1].1.len(), 99, "what the peer has is not said to it");
        assert_eq!(mesh.bodies, 99);
    }

    #[test]
    fn no_more_is_pushed_than_a_link_carries() {
        let mut mesh = Mesh::new(2, true);
        mesh.deliver();
        // The records of a fleet, once each: more than a burst.
        let bytes = Note(1).bytes() * mesh.roster.len();
        assert!(bytes > BURST_BYTES / 4, "{bytes}");
        mesh.hosts[0].0.links.get_mut(&number(1)).unwrap().credit = bytes / 4;
        (0..mesh.roster.len()).for_each(|host| mesh.put(0, host, 1, true));
        let link = &mesh.hosts[0].0.links[&number(1)];
        let pushed = mesh.bodies + link.owed.count;
        assert!(pushed <= mesh.roster.len() / 4, "{pushed}");
        assert_eq!(pushed + mesh.hosts[0].0.told.count, mesh.roster.len(), "the rest is offered");
    }

    #[test]
    fn only_the_newest_version_is_offered() {
        let mut mesh = Mesh::new(2, true);
        mesh.deliver();
        (1..=50).for_each(|sequence| mesh.put(0, 0, sequence, false));
        mesh.run(SPREAD_EVERY * 3);
        assert!(mesh.agree());
        assert_eq!(mesh.bodies, 1);
    }

    #[test]
    fn whoever_joins_gets_everything_a_window_at_a_time() {
        let mut mesh = Mesh::new(2, false);
        mesh.wire.clear();
        (0..HOSTS).for_each(|host| mesh.put(0, host, 1, false));
        mesh.act(1, |spread, roster, records, now, out| {
            spread.link_up(now, number(0), roster, records, out);
        });
        mesh.deliver();
        assert!(mesh.bodies > 0 && mesh.hosts[1].1.len() >= ASKS_PER_LINK_MAX);
        mesh.run(Duration::from_secs(2));
        assert!(mesh.agree());
        assert_eq!(mesh.bodies, HOSTS);
    }

    /// A host that joins a fleet of a thousand, of which it has links to three, all neighbours.
    fn joining() -> Mesh {
        let mut mesh = Mesh::of(4, true, 1000);
        mesh.wire.clear();
        for at in 0..3 {
            mesh.act(at, |spread, roster, records, _, _| {
                for host in roster.iter() {
                    records.put(roster, host, Note(1));
                }
                (spread.survey, spread.surveyed) = (None, roster.len());
                spread.lacked_at = None;
                spread.uncompared.clear();
            });
        }
        (mesh.sent, mesh.bodies) = (0, 0);
        mesh
    }

    #[test]
    fn a_newcomer_gets_everything_once_from_all_its_neighbours_and_no_faster_than_it_may() {
        let mut mesh = joining();
        let mut gave = [0; 3];
        while mesh.hosts[3].1.len() < 1000 {
            let before = mesh.bodies;
            mesh.now = mesh.now + SPREAD_EVERY;
            (0..4).for_each(|host| {
                mesh.act(host, |spread, roster, records, now, out| {
                    spread.tick(now, roster, records, out);
                });
            });
            while !mesh.wire.is_empty() {
                for (from, to, said) in std::mem::take(&mut mesh.wire) {
                    if let Say::Give(given) = &said {
                        gave[from] += given.len();
                    }
                    mesh.hear(from, to, said);
                }
            }
            assert!(mesh.bodies - before <= ASKS_PER_TICK);
            assert!(mesh.now < Mono(10_000_000), "{} came", mesh.hosts[3].1.len());
        }
        assert_eq!(mesh.bodies, 1000);
        assert!(gave.iter().all(|gave| *gave > 250), "{gave:?}");
        mesh.run(SPREAD_EVERY * 5);
        let Spread { survey, uncompared, lacked_at, .. } = &mesh.hosts[3].0;
        assert!(survey.is_none() && uncompared.is_empty());
        assert!(lacked_at.is_some_and(|at| at < mesh.now), "it knows that it lacked most");
        assert_eq!(mesh.hosts[0].0.lacked_at, None);
    }

    #[test]
    fn whoever_offers_what_does_not_exist_holds_up_no_survey_for_ever() {
        let mut mesh = joining();
        let never = Version { epoch: u64::MAX, sequence: u64::MAX };
        let all: Vec<_> = (0..1000).map(|host| (number(host), never)).collect();
        for _ in 0..130 {
            mesh.hear(0, 3, Say::Offer(all.clone()));
            mesh.run(Duration::from_secs(1));
        }
        assert!(mesh.hosts[3].0.survey.is_none() && mesh.hosts[3].0.uncompared.is_empty());
    }

    #[test]
    fn what_a_newcomer_asked_of_somebody_who_is_gone_comes_by_the_comparisons_after() {
        let mut mesh = joining();
        mesh.run(SPREAD_EVERY * 2);
        (0..4).for_each(|host| mesh.hosts[host].0.link_down(number(0)));
        mesh.hosts[0].0.links.clear();
        mesh.run(Duration::from_secs(5));
        assert_eq!(mesh.hosts[3].1.len(), 1000);
    }

    #[test]
    fn who_joins_is_known_at_once_to_all_that_it_has_links_to() {
        let mut mesh = joining();
        mesh.put(3, 999, 2, false);
        mesh.act(3, |spread, roster, records, now, out| {
            spread.link_up(now, number(1), roster, records, out);
        });
        mesh.deliver();
        assert_eq!(mesh.hosts[1].1.get(number(999)), Some(&Note(2)));
    }

    #[test]
    fn where_nobody_is_a_neighbour_a_newcomer_asks_anybody_after_a_while() {
        let mut mesh = joining();
        (0..3).for_each(|peer| mesh.hosts[3].0.set_gossips(number(peer), false));
        mesh.run(Duration::from_secs(1));
        assert_eq!(mesh.hosts[3].1.len(), 0);
        mesh.run(Duration::from_secs(6));
        assert_eq!(mesh.hosts[3].1.len(), 1000);
    }

    #[test]
    fn of_whom_nobody_has_heard_anything_is_asked_for_once() {
        let mut mesh = Mesh::of(2, true, 1000);
        mesh.run(Duration::from_secs(5));
        assert!(mesh.hosts.iter().all(|(spread, _)| spread.survey.is_none()));
        assert!(mesh.hosts.iter().all(|(spread, _)| spread.surveyed == 1000));
    }

    #[test]
    fn a_host_sends_so_many_bytes_and_no_more_on_all_links() {
        let mut mesh = Mesh::new(20, true);
        mesh.deliver();
        (0..HOSTS).for_each(|host| mesh.put(0, host, 1, false));
        mesh.wire.clear();
        let before = mesh.bodies;
        for asker in 1..20 {
            mesh.hear(asker, 0, Say::Ask((0..HOSTS).map(number).collect()));
        }
        assert_eq!(mesh.bodies - before, BURST_BYTES.div_ceil(300));
        for _ in 0..5 {
            mesh.now = mesh.now + SPREAD_EVERY;
            mesh.act(0, |spread, roster, records, now, out| {
                spread.tick(now, roster, records, out);
            });
        }
        assert!((mesh.bodies - before) * 300 <= HOST_BYTES_PER_SECOND + 20 * 300);
        // The first one has got all that could be sent at once.
        let links = mesh.hosts[0].0.links.values().skip(1);
        let owed: Vec<_> = links.map(|link| link.owed.count).collect();
        let [least, most] = [owed.iter().min(), owed.iter().max()].map(|count| *count.unwrap());
        assert!(most < HOSTS && most - least <= 5, "{owed:?}: all get their share");
    }

    #[test]
    fn a_link_carries_so_many_bytes_and_no_more() {
        let mut mesh = Mesh::new(2, false);
        mesh.deliver();
        let burst = BURST_BYTES / 300 + 1;
        (0..HOSTS).for_each(|host| mesh.put(0, host, 1, false));
        let mut given = 0;
        // It asks for all of them again and again.
        for _ in 0..10 {
            mesh.hear(1, 0, Say::Ask((0..HOSTS).map(number).collect()));
            given = mesh.bodies;
            mesh.wire.clear();
        }
        assert_eq!(given, burst);
        mesh.act(0, |spread, roster, records, _, out| {
            spread.tick(Mono(1_000_000), roster, records, out);
        });
        assert!(mesh.bodies <= burst + CREDIT / 300 + 1);
    }

    #[test]
    fn what_does_not_come_is_asked_of_another() {
        let mut mesh = Mesh::new(3, true);
        mesh.deliver();
        (1..3).for_each(|at| mesh.put(at, 0, 5, false));
        let version = Version { epoch: 1, sequence: 5 };
        mesh.hear(1, 0, Say::Offer(vec![(number(0), version)]));
        mesh.hear(2, 0, Say::Offer(vec![(number(0), version)]));
        assert!(matches!(mesh.wire[..], [(0, 1, Say::Ask(_))]));
        mesh.wire.clear();
        mesh.hosts[0].0.link_down(number(1));
        mesh.run(SPREAD_EVERY * 3);
        assert_eq!(mesh.hosts[0].1.get(number(0)), Some(&Note(5)));
    }

    #[test]
    fn whoever_offers_what_does_not_exist_keeps_no_record_from_coming() {
        let mut mesh = Mesh::new(2, true);
        mesh.deliver();
        // Whatever is asked of it, it says nothing.
        let liar = number(7);
        mesh.act(1, |spread, roster, records, now, out| {
            spread.link_up(now, liar, roster, records, out);
        });
        for sequence in 1..20 {
            mesh.put(0, 0, sequence, false);
            for _ in 0..10 {
                let newest = Version { epoch: u64::MAX, sequence };
                let offer = Say::Offer(vec![(number(0), newest)]);
                mesh.act(1, |spread, roster, records, now, out| {
                    spread.hear(now, roster, records, liar, offer, out);
                });
                mesh.run(Duration::from_millis(100));
            }
            assert_eq!(mesh.hosts[1].1.get(number(0)), Some(&Note(sequence)));
        }
    }

    #[test]
    fn an_offer_of_what_does_not_exist_is_forgotten() {
        let mut mesh = Mesh::new(2, true);
        mesh.deliver();
        let version = Version { epoch: u64::MAX, sequence: u64::MAX };
        mesh.hear(1, 0, Say::Offer((0..HOSTS).map(|host| (number(host), version)).collect()));
        let rounds = HOSTS.div_ceil(ASKS_PER_LINK_MAX) + 1;
        mesh.run(ASK_AGAIN_AFTER * u32::try_from(rounds).unwrap());
        assert!(mesh.hosts[0].0.wanted.is_empty());
    }

    fn said() -> impl Strategy<Value = Say<Note>> {
        let host = || (0..HOSTS).prop_map(number);
        let version =
            || (0u64..4, 0u64..4).prop_map(|(epoch, sequence)| Version { epoch, sequence });
        let versions = move || prop::collection::vec((host(), version()), 0..40);
        let node = (any::<u16>(), any::<u8>())
            .prop_map(|(place, byte)| TreeNode { place: place % 300, hash: [byte; 16] });
        prop_oneof![
            versions().prop_map(Say::Offer),
            prop::collection::vec(host(), 0..40).prop_map(Say::Ask),
            prop::collection::vec((host(), (0u64..6).prop_map(Note)), 0..40).prop_map(Say::Give),
            prop::collection::vec(node, 0..40).prop_map(Say::Nodes),
            prop::collection::vec((any::<u8>(), versions()), 0..4).prop_map(Say::Buckets),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_two_that_exchange_end_equal(
            here in prop::collection::vec((0..HOSTS, 1u64..5), 0..200),
            there in prop::collection::vec((0..HOSTS, 1u64..5), 0..200),
        ) {
            let mut mesh = Mesh::new(2, false);
            mesh.wire.clear();
            here.into_iter().for_each(|(host, sequence)| mesh.put(0, host, sequence, false));
            there.into_iter().for_each(|(host, sequence)| mesh.put(1, host, sequence, false));
            mesh.act(0, |spread, roster, records, now, out| {
                spread.link_up(now, number(1), roster, records, out);
            });
            mesh.run(Duration::from_secs(3));
            prop_assert!(mesh.agree());
        }

        #[test]
        fn what_gets_lost_is_found_again(
            changes in prop::collection::vec((0usize..4, 0usize..60, 1u64..9), 1..60),
            one_of in 2usize..6,
        ) {
            let mut mesh = Mesh::new(4, true);
            mesh.loses = Some(one_of);
            for (at, host, sequence) in changes {
                mesh.put(at, host, sequence, sequence == 3);
                mesh.run(Duration::from_millis(100));
            }
            mesh.loses = None;
            mesh.run(RECONCILE_EVERY * 4);
            prop_assert!(mesh.agree());
        }

        #[test]
        fn no_sequence_of_messages_makes_it_grow_or_panic(
            messages in prop::collection::vec((1usize..4, said()), 0..60),
        ) {
            let mut mesh = Mesh::new(4, true);
            mesh.wire.clear();
            for (from, said) in messages {
                // Boundedness is checked after every act.
                mesh.hear(from, 0, said);
                mesh.wire.clear();
            }
            mesh.run(Duration::from_secs(3));
        }
    }
}

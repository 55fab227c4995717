//! Hosts that deploy all the time, without daemons of their own.
//!
//! Each has its key, its certificate and its record. It asks for a slot as soon as its group has an
//! order, gives it back as soon as it has it, and says both again if the ledger does not show it. When
//! all hosts of a group are done, the operator orders the other release.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use groundswell_daemon::scratch::ScratchError;
use groundswell_protocol::{
    fleet::Record,
    ids::{ApplicationName, Digest, GroupName, HostId, LabelText, Labels, ReleaseLabel},
    limits::RECORDS_PER_MESSAGE_MAX,
    rollout::{DeploymentConfiguration, Entry, Grant, Ledger, MinimumHealthy, Stamped},
    time::UnixSeconds,
    trust::{
        Action, Deploy, Done, Group, Order, Outcome, Release, SecretKey, Signed, Signer, Want,
    },
    wire::Message,
};

use crate::carrier::{Carrier, Keys, PATIENCE};

/// All hosts and groups.
pub(crate) struct Load {
    keys: Keys,
    hosts: BTreeMap<HostId, Host>,
    groups: Vec<Deploying>,
    releases: Vec<Signed<Release>>,
}

struct Host {
    key: SecretKey,
    group: usize,
    wants: Wants,
    again_at: Instant,
}

/// What a host still has to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    Slot,
    ToGiveBack(u64),
}

struct Deploying {
    name: GroupName,
    sequence: u64,
    head: Digest,
    /// The deploy order in force, and its release.
    order: Digest,
    release: Digest,
    left: usize,
}

impl Load {
    pub(crate) fn new(keys: Keys, hosts: usize, groups: usize) -> Self {
        let host = |number: usize| {
            let mut seed = [7; 32];
            seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let key = SecretKey::from_seed(&seed);
            let group = number % groups;
            let host = Host { key, group, wants: Wants::Nothing, again_at: Instant::now() };
            (HostId::from(host.key.public_key()), host)
        };
        let hosts = (0..hosts).map(host).collect();
        Self {
            keys,
            hosts,
            groups: (0..groups).map(Deploying::new).collect(),
            releases: Vec::new(),
        }
    }

    /// Makes members, records, groups and releases, and gives each group its first order. It is paused:
    /// hosts may ask, and nobody is granted anything yet.
    pub(crate) async fn set_up(&mut self, carrier: &mut Carrier) -> Result<(), ScratchError> {
        for (number, host) in self.hosts.values().enumerate() {
            let labels = labels(host.group)?;
            let cert = self.keys.enrol(&host.key, &format!("load-{number}"), labels)?;
            self.agree(carrier, Entry::Admit(Box::new(cert))).await?;
        }
        self.tell_records(carrier)?;
        for number in 0..2 {
            let release = release(&self.keys, number)?;
            self.agree(carrier, Entry::Release(release.clone())).await?;
            self.releases.push(release);
        }
        for number in 0..self.groups.len() {
            let group = group(&self.groups[number].name, number)?;
            let group = self.keys.sign(&group, &self.keys.operator)?;
            self.agree(carrier, Entry::Group(group)).await?;
            let deploy = self.next_deploy(carrier, number)?;
            self.agree(carrier, Entry::Order(deploy)).await?;
            let order = self.groups[number].order;
            let pause = self.order(carrier, number, Action::Pause { order })?;
            self.agree(carrier, Entry::Order(pause)).await?;
        }
        Ok(())
    }

    /// Hands something in and waits until the ledger shows it.
    async fn agree(&self, carrier: &mut Carrier, entry: Entry) -> Result<(), ScratchError> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            carrier.tell_leader(entry.clone());
            while let Some((_, stamped)) = carrier.next(Duration::from_secs(1)).await? {
                if stamped.entry == entry {
                    return Ok(());
                }
            }
        }
        Err(ScratchError(format!("not agreed on: {entry:?}")))
    }

    /// Every host says once that it is there.
    fn tell_records(&self, carrier: &Carrier) -> Result<(), ScratchError> {
        let record = |(host, load): (&HostId, &Host)| {
            let record = Record {
                host: *host,
                epoch: 1,
                groups: Vec::new(),
                accused: Vec::new(),
                version: env!("CARGO_PKG_VERSION").into(),
                unsteady: false,
                doubled: false,
                leaving: false,
                sequence: 1,
                addresses: Vec::new(),
                signed_at: carrier.clock.wall(),
            };
            self.keys.sign(&record, &load.key)
        };
        let records: Vec<_> = self.hosts.iter().map(record).collect::<Result<_, _>>()?;
        for some in records.chunks(RECORDS_PER_MESSAGE_MAX) {
            carrier.tell_all(&Message::Records(some.to_vec()));
        }
        Ok(())
    }

    fn order(
        &mut self,
        carrier: &Carrier,
        number: usize,
        action: Action,
    ) -> Result<Signed<Order>, ScratchError> {
        let group = &mut self.groups[number];
        let order = Order {
            group: group.name.clone(),
            action,
            parent: group.head,
            reason: String::new(),
            sequence: group.sequence + 1,
            issued_at: carrier.clock.wall(),
            not_after: None,
        };
        let signed = self.keys.sign(&order, &self.keys.operator)?;
        group.sequence += 1;
        group.head = signed.id(self.keys.trust.fleet());
        Ok(signed)
    }

    /// The order to bring a group to the release that it does not run.
    fn next_deploy(
        &mut self,
        carrier: &Carrier,
        number: usize,
    ) -> Result<Signed<Order>, ScratchError> {
        let fleet = self.keys.trust.fleet();
        let release = self.releases.iter().map(|release| release.id(fleet));
        let last = self.groups[number].release;
        let release = release.into_iter().find(|release| *release != last).unwrap_or(last);
        let order = self.order(carrier, number, Action::Deploy(Deploy::plain(release, 1)))?;
        let left = self.hosts.values().filter(|host| host.group == number).count();
        let group = &mut self.groups[number];
        (group.order, group.release, group.left) = (group.head, release, left);
        Ok(order)
    }

    /// Hands in one request for a slot after the other; how long each takes until the leader has
    /// applied it and says so, in milliseconds.
    pub(crate) async fn one_by_one(
        &mut self,
        carrier: &mut Carrier,
        count: usize,
    ) -> Result<Vec<f64>, ScratchError> {
        let hosts: Vec<_> = self.hosts.keys().copied().take(count).collect();
        if hosts.len() < count {
            return Err(ScratchError("each entry needs a host of its own: more --hosts".into()));
        }
        let mut times = Vec::new();
        for host in hosts {
            let entry = self.say(host, Wants::Slot)?;
            let begun = Instant::now();
            carrier.tell_leader(entry.clone());
            loop {
                match carrier.next(PATIENCE).await? {
                    Some((_, stamped)) if stamped.entry == entry => break,
                    Some(_) => {}
                    None => return Err(ScratchError("a request for a slot was lost".into())),
                }
            }
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    }

    /// Lets all groups deploy for so long, and counts what was granted after the first seconds.
    pub(crate) async fn flood(
        &mut self,
        carrier: &mut Carrier,
        lasts: Duration,
    ) -> Result<usize, ScratchError> {
        for number in 0..self.groups.len() {
            let order = self.groups[number].order;
            let resume = self.order(carrier, number, Action::Resume { order })?;
            carrier.tell_leader(Entry::Order(resume));
            self.all_want(carrier, number)?;
        }
        let from = Instant::now() + WARM_UP;
        let until = from + lasts;
        let mut again_at = Instant::now() + AGAIN_AFTER;
        while Instant::now() < until {
            if let Some((index, stamped)) = carrier.next(Duration::from_millis(50)).await? {
                self.applied(carrier, index, &stamped)?;
            }
            if Instant::now() >= again_at {
                again_at = Instant::now() + AGAIN_AFTER;
                self.say_again(carrier)?;
            }
        }
        self.count(carrier, from, until)
    }

    fn all_want(&mut self, carrier: &mut Carrier, group: usize) -> Result<(), ScratchError> {
        let hosts = self.hosts.iter().filter(|(_, host)| host.group == group);
        for host in hosts.map(|(host, _)| *host).collect::<Vec<_>>() {
            self.want(carrier, host, Wants::Slot)?;
        }
        Ok(())
    }

    fn want(
        &mut self,
        carrier: &mut Carrier,
        id: HostId,
        wants: Wants,
    ) -> Result<(), ScratchError> {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.wants = wants;
            host.again_at = Instant::now() + AGAIN_AFTER;
        }
        carrier.tell(self.say(id, wants)?);
        Ok(())
    }

    fn say_again(&mut self, carrier: &mut Carrier) -> Result<(), ScratchError> {
        let now = Instant::now();
        let late = |host: &Host| host.wants != Wants::Nothing && host.again_at <= now;
        let late: Vec<_> = self
            .hosts
            .iter()
            .filter(|(_, host)| late(host))
            .map(|(id, host)| (*id, host.wants))
            .collect();
        for (host, wants) in late {
            self.want(carrier, host, wants)?;
        }
        Ok(())
    }

    /// What a host hands in for what it wants.
    fn say(&self, id: HostId, wants: Wants) -> Result<Entry, ScratchError> {
        let host = &self.hosts[&id];
        let group = &self.groups[host.group];
        Ok(match wants {
            Wants::ToGiveBack(token) => {
                let done = Done { host: id, token, outcome: Outcome::Succeeded };
                Entry::Done(self.keys.sign(&done, &host.key)?)
            }
            Wants::Slot | Wants::Nothing => {
                let want = Want { host: id, order: group.order, release: group.release };
                Entry::Want(self.keys.sign(&want, &host.key)?)
            }
        })
    }

    /// The leader has applied an entry: what its host, or the operator, does next.
    fn applied(
        &mut self,
        carrier: &mut Carrier,
        index: u64,
        stamped: &Stamped,
    ) -> Result<(), ScratchError> {
        match &stamped.entry {
            Entry::Grant(Grant { host, .. }) if self.hosts.contains_key(host) => {
                self.want(carrier, *host, Wants::ToGiveBack(index))
            }
            Entry::Done(done) => {
                let Ok(done) = done.verify_host(self.keys.trust.fleet()) else { return Ok(()) };
                let Done { host, token, .. } = done.content();
                let Some(known) = self.hosts.get_mut(host) else { return Ok(()) };
                if known.wants == Wants::ToGiveBack(*token) {
                    known.wants = Wants::Nothing;
                    let number = known.group;
                    self.groups[number].left -= 1;
                    if self.groups[number].left == 0 {
                        let deploy = self.next_deploy(carrier, number)?;
                        carrier.tell_leader(Entry::Order(deploy));
                    }
                }
                Ok(())
            }
            Entry::Order(order) => {
                let id = order.id(self.keys.trust.fleet());
                match self.groups.iter().position(|group| group.order == id) {
                    Some(number) => self.all_want(carrier, number),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Applies the whole log once more, and counts the slots that it really granted in a span of time.
    /// No group may ever have had more of them than its configuration allows.
    fn count(
        &self,
        carrier: &Carrier,
        from: Instant,
        until: Instant,
    ) -> Result<usize, ScratchError> {
        let mut ledger = Ledger::new(self.keys.trust.clone());
        let size = self.hosts.len().div_ceil(self.groups.len());
        let (mut granted, mut held) = (0, BTreeMap::new());
        for (index, (seen, data)) in (1..).zip(&carrier.log) {
            let Ok(stamped) = Stamped::from_bytes(data) else {
                ledger.skip(index);
                continue;
            };
            let changed = ledger.apply(index, Stamped::hash(data), &stamped) == Ok(true);
            match &stamped.entry {
                Entry::Grant(grant) if changed => {
                    granted += usize::from((from..until).contains(seen));
                    held.insert(grant.host, self.hosts[&grant.host].group);
                    let group = self.hosts[&grant.host].group;
                    let down = held.values().filter(|held| **held == group).count();
                    if down > size / 2 {
                        return Err(ScratchError(format!(
                            "{down} hosts of a group are down at {index}"
                        )));
                    }
                }
                Entry::Done(done) if changed => {
                    if let Ok(done) = done.verify_host(self.keys.trust.fleet()) {
                        held.remove(&done.content().host);
                    }
                }
                _ => {}
            }
        }
        Ok(granted)
    }
}

impl Deploying {
    fn new(number: usize) -> Self {
        let name = GroupName::new(format!("load-{number}")).expect("a short name of letters");
        Self {
            name,
            sequence: 0,
            head: Digest::ZERO,
            order: Digest::ZERO,
            release: Digest::ZERO,
            left: 0,
        }
    }
}

fn labels(group: usize) -> Result<Labels, ScratchError> {
    let text = |text: String| LabelText::new(text).map_err(|error| ScratchError(error.to_string()));
    let pair = (text("load".into())?, text(group.to_string())?);
    Labels::new(vec![pair]).map_err(|error| ScratchError(error.to_string()))
}

fn group(name: &GroupName, number: usize) -> Result<Group, ScratchError> {
    Ok(Group {
        name: name.clone(),
        filter: labels(number)?,
        version: 1,
        catch_up: false,
        application: application()?,
        configuration: DeploymentConfiguration::from(MinimumHealthy::HalfAtATime),
        failure_budget: None,
        automatic_rollback: false,
        deploy_to_new_hosts: false,
        minimum_healthy_seconds: 0,
    })
}

fn release(keys: &Keys, number: u8) -> Result<Signed<Release>, ScratchError> {
    let release = Release {
        label: ReleaseLabel::new(format!("{number}"))
            .map_err(|error| ScratchError(error.to_string()))?,
        parent: None,
        manifest: Digest([number; 32]),
        created_at: UnixSeconds(0),
        application: application()?,
        architecture: None,
        environments: Vec::new(),
        content_bytes: 1,
        manifest_bytes: 1,
    };
    keys.sign(&release, &keys.release)
}

fn application() -> Result<ApplicationName, ScratchError> {
    ApplicationName::new("load").map_err(|error| ScratchError(error.to_string()))
}

/// As often as a host says again what the ledger does not show.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
const WARM_UP: Duration = Duration::from_secs(3);

//! What each host does in its groups, and since when, as this host sees it: a host that has done the
//! same for a while is who somebody has to look after.

use std::collections::BTreeMap;

use groundswell_protocol::{
    fleet::{HostState, Record},
    ids::{Digest, GroupName, HostId},
    time::Mono,
};

/// What a host says of itself in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Its record has nothing on a group that it is in: its daemon cannot reach `swell-exec`, or has
    /// only just started.
    Nothing,
    /// It does this, for the deploy order.
    State(HostState, Option<Digest>),
}

/// Since when each host says what it says.
#[derive(Default)]
pub(super) struct Pace(BTreeMap<HostId, BTreeMap<GroupName, (Said, Mono)>>);

impl Pace {
    /// What a record says of a group.
    pub(super) fn said(record: &Record, group: &GroupName) -> Said {
        let status = record.groups.iter().find(|status| status.group == *group);
        status.map_or(Said::Nothing, |status| Said::State(status.state, status.order))
    }

    /// Takes in the newest record of a host that is in these groups.
    pub(super) fn see<'a>(
        &mut self,
        now: Mono,
        record: &Record,
        groups: impl Iterator<Item = &'a GroupName>,
    ) {
        let host = self.0.entry(record.host).or_default();
        for group in groups {
            let said = Self::said(record, group);
            match host.get_mut(group) {
                Some((known, _)) if *known == said => {}
                Some(known) => *known = (said, now),
                None => drop(host.insert(group.clone(), (said, now))),
            }
        }
    }

    /// Forgets hosts that belong to the fleet no more.
    pub(super) fn keep(&mut self, is_member: impl Fn(HostId) -> bool) {
        self.0.retain(|host, _| is_member(*host));
    }

    /// Seconds for which a host has said the same of a group.
    pub(super) fn seconds(&self, now: Mono, host: HostId, group: &GroupName) -> Option<u64> {
        let (_, since) = self.0.get(&host)?.get(group)?;
        Some(now.since(*since).as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use groundswell_protocol::{fleet::GroupStatus, time::UnixSeconds};

    use super::*;

    #[test]
    fn time_counts_from_the_last_change() {
        let group = GroupName::new("web").unwrap();
        let (host, start) = (HostId([1; 32]), Mono(0));
        let record = |state: Option<HostState>| Record {
            host,
            epoch: 1,
            groups: state
                .map(|state| GroupStatus {
                    group: GroupName::new("web").unwrap(),
                    order: None,
                    state,
                    token: None,
                    release: None,
                })
                .into_iter()
                .collect(),
            accused: Vec::new(),
            version: String::new(),
            unsteady: false,
            doubled: false,
            leaving: false,
            sequence: 1,
            addresses: Vec::new(),
            signed_at: UnixSeconds(0),
        };
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        let mut see = |at: u64, state| {
            pace.see(after(at), &record(state), [&group].into_iter());
            pace.seconds(after(at + 7), host, &group)
        };
        assert_eq!(see(0, Some(HostState::Staging { percent: 1 })), Some(7));
        assert_eq!(see(10, Some(HostState::Staging { percent: 1 })), Some(17));
        assert_eq!(see(20, Some(HostState::Staging { percent: 2 })), Some(7), "it moves");
        assert_eq!(see(30, None), Some(7), "it says nothing any more");
        assert_eq!(see(60, None), Some(37));
        pace.keep(|_| false);
        assert_eq!(pace.seconds(start, host, &group), None);
    }
}

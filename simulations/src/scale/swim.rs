//! The yardstick for verdicts: the rules of SWIM, by which one observer's word is enough.
//!
//! Who is silent as long as with us is suspected, and told so; whose answer does not come to the
//! observer's own ears in as long as with us is dead for everybody. No observer doubts himself.

use std::collections::BTreeMap;

use groundswell_protocol::{
    fleet::{Ears, Number, Records, Version},
    limits::{ACCUSE_AFTER, VERDICT_AFTER},
    time::Mono,
};

use super::host::Shared;

/// One observer.
#[derive(Debug, Default)]
pub(super) struct SwimEars {
    suspects: BTreeMap<Number, (Version, Mono)>,
    /// Those that it has declared dead since this was last looked at.
    pub(super) declared: Vec<Number>,
}

impl SwimEars {
    /// Returns those that it suspects.
    pub(super) fn tick(
        &mut self,
        now: Mono,
        ears: &Ears,
        records: &Records<Shared>,
        neighbours: &[Number],
    ) -> Vec<Number> {
        let heard = |host| ears.last_heard(host).unwrap_or(now);
        let is_silent = |host| now.since(heard(host)) >= ACCUSE_AFTER;
        let is_current = |host, version| records.version(host) == Some(version);
        self.suspects.retain(|host, (version, _)| is_silent(*host) && is_current(*host, *version));
        for host in neighbours {
            if let (true, Some(version)) = (is_silent(*host), records.version(*host)) {
                self.suspects.entry(*host).or_insert((version, now));
            }
        }
        let due = |(_, since): &(Version, Mono)| now.since(*since) >= VERDICT_AFTER;
        self.declared.extend(self.suspects.iter().filter(|(_, s)| due(s)).map(|(host, _)| *host));
        self.suspects.keys().copied().collect()
    }
}

//! The yardstick for bytes: what is new is pushed to all neighbours, every 200 ms.

use std::collections::{BTreeMap, BTreeSet};

use groundswell_protocol::fleet::{
    Inserted, Letter, Number, Overlay, Records, Roster, Say, Statement,
};

use super::host::Shared;

/// What each neighbour is to get with the next push.
#[derive(Debug, Default)]
pub(super) struct Eager {
    queues: BTreeMap<Number, BTreeSet<Number>>,
}

impl Eager {
    pub(super) fn put(
        &mut self,
        roster: &Roster,
        records: &mut Records<Shared>,
        overlay: &Overlay,
        host: Number,
        record: &Shared,
        from: Option<Number>,
    ) -> Inserted {
        let inserted = records.put(roster, host, record.clone());
        if inserted == Inserted::New {
            for peer in overlay.gossips() {
                self.queues.entry(peer).or_default().insert(host);
            }
        }
        // Whoever sent it has it.
        if let Some(queue) = from.and_then(|from| self.queues.get_mut(&from))
            && records.version(host) == Some(record.version())
        {
            queue.remove(&host);
        }
        inserted
    }

    pub(super) fn flush(&mut self, records: &Records<Shared>, out: &mut Vec<Letter<Shared>>) {
        for (peer, queue) in &mut self.queues {
            let given: Vec<_> = std::mem::take(queue)
                .into_iter()
                .filter_map(|host| Some((host, records.get(host)?.clone())))
                .collect();
            if !given.is_empty() {
                out.push((*peer, Say::Give(given)));
            }
        }
    }
}

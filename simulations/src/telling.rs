//! Events in a few words, for people, and in a few numbers, for the hash of a run.

use groundswell_protocol::{rollout::Entry, wire::Message};

pub(crate) fn kind_of(message: &Message) -> u64 {
    match message {
        Message::Heartbeat => 0,
        Message::Records(records) => 100 + records.len() as u64,
        Message::Offer(versions) => 1000 + versions.len() as u64,
        Message::RecordTree(_) => 15,
        Message::RecordBuckets(_) => 16,
        Message::Neighbour(_) => 17,
        Message::WantRecords(_) => 3,
        Message::Consensus(bytes) => 10_000 + bytes.len() as u64,
        Message::Submit(_) => 4,
        Message::Submitted { .. } => 5,
        Message::Ledger { first, .. } => 100_000 + first,
        Message::WantLedger { .. } => 6,
        Message::HaveSnapshot { .. } => 7,
        Message::WantSnapshot { .. } => 8,
        Message::Snapshot(_) => 9,
        Message::WantReceipt { .. } => 10,
        Message::WantAdmission { .. } => 11,
        Message::Receipt(_) => 12,
        Message::Stop(_) => 13,
        Message::Have(_) => 14,
        Message::VotersKnown(_) => 18,
        Message::VoterLists(_) => 19,
        Message::HaveMore { .. } => 20,
        Message::Unwanted { .. } => 21,
    }
}

/// A message in a few words.
pub(crate) fn describe(message: &Message) -> String {
    match message {
        Message::Records(records) => format!("{} records", records.len()),
        Message::Consensus(bytes) => format!("consensus, {} bytes", bytes.len()),
        Message::Submit(entry) => format!("submits {}", entry_text(entry)),
        Message::Submitted { outcome, .. } => format!("answers a submission: {outcome:?}"),
        Message::Ledger { first, entries, applied, .. } => {
            format!("ledger from {first}, {} entries of {applied}", entries.len())
        }
        Message::WantReceipt { token, .. } => format!("wants a receipt for slot {token}"),
        Message::Receipt(_) => "receipt".into(),
        Message::Snapshot(part) => format!("part of snapshot {}", part.index),
        other => format!("{other:?}").chars().take(80).collect(),
    }
}

pub(crate) fn committed_text(data: &[u8]) -> String {
    match groundswell_protocol::rollout::Stamped::from_bytes(data) {
        Ok(stamped) => entry_text(&stamped.entry),
        Err(_) => "the mark of a term".into(),
    }
}

/// An entry in a few words.
pub(crate) fn entry_text(entry: &Entry) -> String {
    match entry {
        Entry::Admit(_) => "admit".into(),
        Entry::Group(_) => "group".into(),
        Entry::Release(_) => "release".into(),
        Entry::Order(_) => "order".into(),
        Entry::Want(_) => "want".into(),
        Entry::Grant(grant) => format!("grant to {}", grant.host.short()),
        Entry::Done(done) => match done.unverified_claim() {
            Ok(claim) => claim.split_whitespace().collect::<Vec<_>>().join(" "),
            Err(_) => "done".into(),
        },
        Entry::Remove(_) => "remove".into(),
        Entry::Drain(drain) => match drain.unverified_words(|drain| drain.drained.to_string()) {
            Ok(drained) => format!("drained: {drained}"),
            Err(_) => "a drain of nobody".into(),
        },
        Entry::Passed(_) => "time has passed".into(),
        Entry::NextVoters(list) => {
            let voters: Vec<_> = list.voters.iter().map(|voter| voter.name.as_str()).collect();
            format!("next voters, generation {}: {}", list.generation, voters.join(" "))
        }
        Entry::Counted(_) => "counted".into(),
        Entry::Vouch(_) => "a voter signs the next list".into(),
        Entry::Silent { host, .. } => format!("{} is silent", host.short()),
        Entry::Heard(record) => match record.unverified_words(|record| record.host.short()) {
            Ok(host) => format!("{host} is heard of"),
            Err(_) => "a record of nobody".into(),
        },
    }
}

//! The newest record of every host, and a tree of hashes over them to compare two hosts by.
//!
//! The tree has a fan-out of 16 and two levels below its root; a leaf hashes which versions of the
//! hosts in one bucket are here. Two hosts that send each other what differs, level by level, find
//! ten scattered changes among ten thousand records in three round trips and a few kilobytes.

use std::mem::size_of;

use serde::{Deserialize, Serialize};

use super::roster::{BUCKETS, Number, Roster};
use crate::{
    ids::{Digest, HashDomain},
    sabotage::{Defect, planted},
};

/// What decides which of two records of a host is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// Counts the daemon's starts.
    pub epoch: u64,
    /// Counts the host's records since its start.
    pub sequence: u64,
}

/// A record as it is kept: cheap to copy, verified by whoever hands it in.
pub trait Statement: Clone {
    /// How new it is.
    fn version(&self) -> Version;
    /// Its length on the wire.
    fn bytes(&self) -> usize;
}

/// What became of a record that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It replaced an older one, or is the first of its host: pass it on.
    New,
    /// It is the one that was here.
    Same,
    /// A newer one was here.
    Old,
}

/// The newest record of every host.
#[derive(Clone, Debug)]
pub struct Records<S> {
    held: Vec<Option<S>>,
    count: usize,
    hashes: Box<[NodeHash; NODES]>,
    /// Buckets that have changed since their leaf was hashed.
    stale: [u64; BUCKETS / 64],
}

/// A node of the tree: its place and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeNode {
    /// 0 is the root, then come its children level by level.
    pub place: u16,
    /// What is below it.
    pub hash: NodeHash,
}

/// Half a BLAKE3 hash. Whoever finds two lists that collide has hidden a change between two hosts
/// that would have heard of it on ten other links.
pub type NodeHash = [u8; 16];

/// Where the comparison goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Nodes whose children differ: these, as they are here.
    pub nodes: Vec<TreeNode>,
    /// Buckets that differ.
    pub buckets: Vec<u8>,
}

impl<S: Statement> Default for Records<S> {
    fn default() -> Self {
        let hashes = Box::new([[0; size_of::<NodeHash>()]; NODES]);
        Self { held: Vec::new(), count: 0, hashes, stale: [u64::MAX; BUCKETS / 64] }
    }
}

impl<S: Statement> Records<S> {
    /// No records.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host's newest record.
    pub fn get(&self, host: Number) -> Option<&S> {
        self.held.get(host.index())?.as_ref()
    }

    /// How new a host's record is.
    pub fn version(&self, host: Number) -> Option<Version> {
        self.get(host).map(S::version)
    }

    /// How many hosts have one.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, in the order of numbers.
    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.held.iter().flatten()
    }

    /// What would become of a record of this version.
    pub fn judge(&self, host: Number, version: Version) -> Inserted {
        match self.version(host) {
            Some(held) if held == version => Inserted::Same,
            Some(held) if held > version && !planted(Defect::ViewGoesBack) => Inserted::Old,
            _ => Inserted::New,
        }
    }

    /// Keeps a record if it is the newest of its host.
    pub fn put(&mut self, roster: &Roster, host: Number, record: S) -> Inserted {
        let inserted = self.judge(host, record.version());
        if inserted == Inserted::New {
            if self.held.len() <= host.index() {
                self.held.resize(roster.len().max(host.index() + 1), None);
            }
            let place = &mut self.held[host.index()];
            self.count += usize::from(place.is_none());
            *place = Some(record);
            self.touch(roster, host);
        }
        inserted
    }

    /// Forgets a host.
    pub fn forget(&mut self, roster: &Roster, host: Number) {
        if self.held.get_mut(host.index()).and_then(Option::take).is_some() {
            self.count -= 1;
            self.touch(roster, host);
        }
    }

    /// What was hashed of a host's bucket holds no more.
    fn touch(&mut self, roster: &Roster, host: Number) {
        let bucket = usize::from(roster.bucket_of(host));
        if !planted(Defect::TreeNotHashedAgain) {
            self.stale[bucket / 64] |= 1 << (bucket % 64);
        }
    }

    /// The versions that are here of the hosts in a bucket.
    pub fn bucket(&self, roster: &Roster, bucket: u8) -> Vec<(Number, Version)> {
        let hosts = roster.bucket(bucket).iter();
        hosts.filter_map(|host| Some((*host, self.version(*host)?))).collect()
    }

    /// The root of the tree: equal here and there if, and only if, all records are.
    pub fn root(&mut self, roster: &Roster) -> TreeNode {
        self.refresh(roster);
        TreeNode { place: 0, hash: self.hashes[0] }
    }

    /// Compares with what a peer has. What is no node of the tree is passed over.
    pub fn compare(&mut self, roster: &Roster, theirs: &[TreeNode]) -> Differences {
        self.refresh(roster);
        let mut found = Differences::default();
        for node in theirs.iter().take(NODES) {
            let place = usize::from(node.place);
            if self.hashes.get(place).is_none_or(|hash| *hash == node.hash) {
                continue;
            }
            match place.checked_sub(FIRST_LEAF).map(u8::try_from) {
                Some(Ok(bucket)) => found.buckets.push(bucket),
                _ => found.nodes.extend(children(place).map(|child| TreeNode {
                    place: u16::try_from(child).unwrap_or(u16::MAX),
                    hash: self.hashes[child],
                })),
            }
        }
        // However often a peer names one node.
        found.nodes.sort_unstable_by_key(|node| node.place);
        found.nodes.dedup();
        found.buckets.sort_unstable();
        found.buckets.dedup();
        found
    }

    /// Hashes again what has changed.
    fn refresh(&mut self, roster: &Roster) {
        let mut parents = 0u16;
        for bucket in 0..=u8::MAX {
            let (word, bit) = (usize::from(bucket) / 64, usize::from(bucket) % 64);
            if self.stale[word] & (1 << bit) == 0 {
                continue;
            }
            self.hashes[FIRST_LEAF + usize::from(bucket)] = self.hash_bucket(roster, bucket);
            parents |= 1 << (usize::from(bucket) / FAN_OUT);
        }
        if parents == 0 {
            return;
        }
        self.stale = [0; BUCKETS / 64];
        for parent in (0..FAN_OUT).filter(|parent| parents & (1 << parent) != 0) {
            self.hash_children(1 + parent);
        }
        self.hash_children(0);
    }

    fn hash_bucket(&self, roster: &Roster, bucket: u8) -> NodeHash {
        let mut bytes = Vec::new();
        for (host, version) in self.bucket(roster, bucket) {
            bytes.extend_from_slice(&roster.host(host).0);
            bytes.extend_from_slice(&version.epoch.to_be_bytes());
            bytes.extend_from_slice(&version.sequence.to_be_bytes());
        }
        half(&[&bytes])
    }

    fn hash_children(&mut self, parent: usize) {
        let parts: Vec<&[u8]> = children(parent).map(|child| &self.hashes[child][..]).collect();
        self.hashes[parent] = half(&parts);
    }
}

fn half(parts: &[&[u8]]) -> NodeHash {
    Digest::of(HashDomain::Records, parts).0.first_chunk().copied().unwrap_or_default()
}

fn children(place: usize) -> std::ops::Range<usize> {
    place * FAN_OUT + 1..(place + 1) * FAN_OUT + 1
}

const FAN_OUT: usize = 16;
/// The place of the first bucket's leaf, behind the root and its children.
const FIRST_LEAF: usize = 1 + FAN_OUT;
/// Nodes of the tree.
pub const NODES: usize = FIRST_LEAF + BUCKETS;

#[cfg(test)]
pub(super) mod tests {
    use super::{super::roster::tests::roster, *};

    /// A record of which only the version matters.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::fleet) struct Note(pub(in crate::fleet) u64);

    impl Statement for Note {
        fn version(&self) -> Version {
            Version { epoch: 1, sequence: self.0 }
        }

        fn bytes(&self) -> usize {
            300
        }
    }

    fn filled(roster: &Roster) -> Records<Note> {
        let mut records = Records::new();
        for host in roster.iter() {
            assert_eq!(records.put(roster, host, Note(1)), Inserted::New);
        }
        records
    }

    #[test]
    fn only_what_is_newer_is_kept() {
        let roster = roster(1, 1);
        let host = roster.iter().next().unwrap();
        let mut records = Records::new();
        assert_eq!(records.put(&roster, host, Note(5)), Inserted::New);
        assert_eq!(records.put(&roster, host, Note(4)), Inserted::Old);
        assert_eq!(records.put(&roster, host, Note(5)), Inserted::Same);
        assert_eq!(records.put(&roster, host, Note(6)), Inserted::New);
        assert_eq!((records.len(), records.get(host)), (1, Some(&Note(6))));
    }

    #[test]
    fn who_is_forgotten_leaves_no_trace() {
        let roster = roster(50, 1);
        let host = roster.iter().nth(7).unwrap();
        let (mut here, mut there) = (Records::new(), filled(&roster));
        for other in roster.iter().filter(|other| *other != host) {
            here.put(&roster, other, Note(1));
        }
        assert_ne!(here.root(&roster), there.root(&roster));
        there.forget(&roster, host);
        there.forget(&roster, host);
        assert_eq!((there.len(), there.get(host)), (49, None));
        assert_eq!(here.root(&roster), there.root(&roster));
    }

    #[test]
    fn equal_records_have_one_root_however_they_came() {
        let (here, mut there) = (roster(50, 1), Roster::new());
        // The other host got to know them in another order.
        for host in here.iter().map(|number| here.host(number)) {
            there.seat(host, None).unwrap();
        }
        let (mut a, mut b) = (filled(&here), filled(&there));
        assert_eq!(a.root(&here), b.root(&there));
        let host = here.iter().nth(7).unwrap();
        a.put(&here, host, Note(2));
        assert_ne!(a.root(&here), b.root(&there));
        b.put(&there, there.number(here.host(host)).unwrap(), Note(2));
        assert_eq!(a.root(&here), b.root(&there));
    }

    #[test]
    fn the_tree_is_walked_down_to_the_bucket_that_differs() {
        let roster = roster(500, 1);
        let (mut here, mut there) = (filled(&roster), filled(&roster));
        let changed = roster.iter().nth(123).unwrap();
        there.put(&roster, changed, Note(9));
        let children = here.compare(&roster, &[there.root(&roster)]);
        assert_eq!(children.nodes.len(), FAN_OUT);
        let leaves = there.compare(&roster, &children.nodes);
        assert_eq!(leaves.nodes.len(), FAN_OUT);
        let end = here.compare(&roster, &leaves.nodes);
        assert_eq!(end.buckets, [roster.bucket_of(changed)]);
        assert!(end.nodes.is_empty());
    }

    #[test]
    fn what_is_no_node_is_passed_over_and_repeats_count_once() {
        let roster = roster(20, 1);
        let mut records = filled(&roster);
        let node = |place| TreeNode { place, hash: [7; 16] };
        let beyond = u16::try_from(NODES).unwrap();
        assert_eq!(
            records.compare(&roster, &[node(beyond), node(u16::MAX)]),
            Differences::default()
        );
        let many = vec![node(0); NODES * 2];
        assert_eq!(records.compare(&roster, &many).nodes.len(), FAN_OUT);
        let last = records.compare(&roster, &[node(beyond - 1)]);
        assert_eq!(last.buckets, [u8::MAX]);
    }
}

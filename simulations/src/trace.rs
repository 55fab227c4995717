//! What has happened: a hash of all of it, the words for the last part of it, and how much was said.

use std::collections::{BTreeMap, VecDeque};

use groundswell_protocol::{cbor, wire::Message};

use crate::plan::{Micros, SECOND};

/// The record of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    /// Lines, if somebody wants to read them.
    lines: Option<VecDeque<String>>,
    kept: usize,
    print: bool,
    /// Which messages are weighed, and how many have come to each host, with how many bytes.
    weighs: Option<fn(&Message) -> bool>,
    weights: BTreeMap<usize, (usize, usize)>,
}

impl Trace {
    /// A hash and no words: what most runs need.
    pub fn silent() -> Self {
        let (hash, weights) = (0xcbf2_9ce4_8422_2325, BTreeMap::new());
        Self { hash, lines: None, kept: 0, print: false, weighs: None, weights }
    }

    /// A hash and no words, and how much of some kind came to each host.
    pub fn weighing(which: fn(&Message) -> bool) -> Self {
        Self { weighs: Some(which), ..Self::silent() }
    }

    /// A message comes to a host.
    pub fn weigh(&mut self, host: usize, message: &Message) {
        if self.weighs.is_some_and(|weighs| weighs(message)) {
            let (count, bytes) = self.weights.entry(host).or_default();
            *count += 1;
            *bytes += cbor::encode(message).len();
        }
    }

    /// How many messages have come to a host of those that are weighed, and how many bytes.
    pub fn weight_at(&self, host: usize) -> (usize, usize) {
        self.weights.get(&host).copied().unwrap_or_default()
    }

    /// Keeps the last `kept` lines, or prints them all.
    pub fn spoken(kept: usize, print: bool) -> Self {
        Self { lines: Some(VecDeque::new()), kept, print, ..Self::silent() }
    }

    /// Adds numbers to the hash: FNV, eight bytes at a time.
    pub fn mix(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// Adds a line, which is only written if somebody reads it.
    pub fn say(&mut self, at: Micros, line: impl FnOnce() -> String) {
        let Some(lines) = &mut self.lines else { return };
        let line = format!("{:4}.{:06}  {}", at / SECOND, at % SECOND, line());
        if self.print {
            println!("{line}");
            return;
        }
        if lines.len() >= self.kept {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// True if somebody reads it.
    pub fn is_spoken(&self) -> bool {
        self.lines.is_some()
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines that are kept.
    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter().flatten()
    }
}

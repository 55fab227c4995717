//! What has happened: a hash of all of it, and the words for the last part of it.

use std::collections::VecDeque;

use crate::plan::{Micros, SECOND};

/// The record of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    /// Lines, if somebody wants to read them.
    lines: Option<VecDeque<String>>,
    kept: usize,
    print: bool,
}

impl Trace {
    /// A hash and no words: what most runs need.
    pub fn silent() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: None, kept: 0, print: false }
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

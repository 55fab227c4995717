//! A voter whose disk may be older than what it has promised.
//!
//! A machine that is restored from an image comes back with a disk that was good once: votes and
//! acknowledgements that it has given since are gone, and nothing on it shows that. A voter that went on
//! by it could elect a leader that lacks what was agreed on. So after each start of its machine a voter
//! takes no part until others have told it what it may have promised; a disk goes back only while the
//! machine is off.
//!
//! It asks twice. First, what terms there are. Then it asks everybody to come to a new term: who has
//! answered hears no leader of an older one, so what old acknowledgements of this voter still count for
//! is in the answers or will never be agreed on. It goes on in a term far above, in which it has
//! promised nothing, and stands for the longest log among the answers as if it were its own: it votes
//! for nobody whose log is shorter, and for itself only when it has as much. With the answers of so many
//! that every majority which it may have been part of has one of them, that is all it can have forgotten.
//!
//! That holds for the generation in which it has asked. If nobody there knew of a next one, it has no
//! part in one yet; else it asks there again.
//!
//! Not covered: several voters that are put back at the same time, a machine that is put back with its
//! memory or to before its daemon's first start, a disk that is put back under a running machine, and one
//! that is put back to before operators recovered the fleet while it hears only those who were lost. A
//! fleet of one voter has nobody to ask.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a voter has found out about its own disk. It is kept there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assured {
    /// The start of the machine for which it holds.
    pub boot: u64,
    /// All that this voter may have forgotten was in older terms.
    pub term: u64,
    /// The log that it stands for while its own ends before.
    pub end: LogEnd,
    /// The generation was about to end when others were asked: in the next one they are asked again.
    pub ends: bool,
}

impl Assured {
    /// Nothing was promised before this start of the machine, or nothing of it is forgotten.
    pub fn knows_all(boot: u64) -> Self {
        Self { boot, ..Self::default() }
    }
}

/// Where a log ends. Of two, the greater one has all that was agreed on, if one of them has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogEnd {
    /// The term of the last entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What voters say about what one of them may have forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// "My machine was started: come to this term, and say where your log ends."
    Ask { boot: u64, term: u64 },
    /// "After that start I am in this term, and here my log ends."
    Know { boot: u64, term: u64, end: LogEnd, ends: bool },
}

/// A voter that has not heard enough yet.
#[derive(Debug)]
pub(super) struct Doubt {
    /// So many others have to answer.
    needed: usize,
    /// The term to which it asks everybody to come, once it knows one that is high enough.
    target: Option<u64>,
    answers: BTreeMap<u64, (u64, LogEnd)>,
    /// Somebody knew of a next generation.
    ends: bool,
    asks_in_ticks: u32,
}

impl Doubt {
    /// A voter of so many. None where there is nobody to ask.
    pub(super) fn among(voters: usize) -> Option<Self> {
        let majority = voters / 2 + 1;
        let needed = (voters - majority + 1).min(voters - 1);
        (needed > 0).then(|| Self {
            needed,
            target: None,
            answers: BTreeMap::new(),
            ends: false,
            asks_in_ticks: 0,
        })
    }

    /// Who has answered, and how many have to.
    pub(super) fn progress(&self) -> (impl Iterator<Item = u64>, usize) {
        (self.answers.keys().copied(), self.needed)
    }

    /// A tick has passed. True if it is time to ask once more those who have not answered.
    pub(super) fn tick(&mut self) -> bool {
        let asks = self.asks_in_ticks == 0;
        self.asks_in_ticks = if asks { ASK_EVERY_TICKS } else { self.asks_in_ticks } - 1;
        asks
    }

    pub(super) fn is_open(&self, voter: u64) -> bool {
        !self.answers.contains_key(&voter)
    }

    /// The term to which others are to come; that of this voter is `own`.
    pub(super) fn term(&self, own: u64) -> u64 {
        self.target.unwrap_or(own)
    }

    /// Takes in an answer. With the last one that was needed it says how to go on: first in which term
    /// to ask again, then what is so.
    pub(super) fn hear(
        &mut self,
        from: u64,
        own: u64,
        (term, end, ends): (u64, LogEnd, bool),
    ) -> Option<Heard> {
        if self.target.is_some_and(|target| term < target) {
            return None;
        }
        self.ends |= ends;
        self.answers.insert(from, (term, end));
        if self.answers.len() < self.needed {
            return None;
        }
        let highest = self.answers.values().map(|(term, _)| *term).chain([own]).max()?;
        if self.target.is_some() {
            let end = self.answers.values().map(|(_, end)| *end).max()?;
            return Some(Heard::Enough { term: highest + TERMS_LEFT_OUT, end, ends: self.ends });
        }
        self.target = Some(highest + 1);
        self.answers.clear();
        self.asks_in_ticks = 0;
        Some(Heard::Terms)
    }
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The terms are known: all are asked again.
    Terms,
    /// This is all that can have been forgotten.
    Enough { term: u64, end: LogEnd, ends: bool },
}

/// A vote that was given and is still on its way was given in one of these terms above those that the
/// others know. Only candidates raise terms, and voters that ask, each by one: a few would do.
const TERMS_LEFT_OUT: u64 = 1024;
/// Answers may be lost.
const ASK_EVERY_TICKS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn end(term: u64, index: u64) -> LogEnd {
        LogEnd { term, index }
    }

    #[test]
    fn so_many_are_asked_that_every_majority_has_one_of_them() {
        let needed = |voters| Doubt::among(voters).map_or(0, |doubt| doubt.needed);
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(needed), [0, 1, 2, 2, 3, 3, 4]);
        for voters in 2..=7 {
            let others_in_a_majority = voters / 2;
            assert!(needed(voters) + others_in_a_majority > voters - 1);
        }
    }

    #[test]
    fn the_second_answers_count_and_only_in_the_new_term() {
        let mut doubt = Doubt::among(5).unwrap();
        assert_eq!(doubt.term(7), 7);
        assert_eq!(doubt.hear(2, 7, (9, end(9, 4), false)), None);
        assert_eq!(doubt.hear(2, 7, (9, end(9, 4), false)), None, "one is one");
        assert_eq!(doubt.hear(3, 7, (8, end(8, 9), false)), None);
        assert_eq!(doubt.hear(4, 7, (3, end(3, 3), false)), Some(Heard::Terms));
        let term = 10;
        assert_eq!(doubt.term(7), term);
        assert_eq!(doubt.hear(2, 7, (9, end(9, 4), false)), None, "an old answer");
        assert_eq!(doubt.hear(2, 7, (term, end(9, 4), false)), None);
        assert_eq!(doubt.hear(3, 7, (term, end(8, 9), false)), None);
        let heard = Heard::Enough { term: 11 + TERMS_LEFT_OUT, end: end(9, 4), ends: true };
        assert_eq!(doubt.hear(5, 7, (term + 1, end(3, 3), true)), Some(heard));
    }
}

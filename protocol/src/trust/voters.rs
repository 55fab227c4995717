//! Who votes: the first voters of the genesis, and the lists that have followed it.
//!
//! A list is signed by a majority of the voters that it follows, so whoever believes one list can tell
//! the next from a forgery, without asking anybody. Where too many of them are gone, operators sign a
//! list that follows nobody: it names the ledger that the fleet goes on with. Each list is a generation:
//! receipts, and frames between voters, name the generation that they are of, and count in that one
//! alone. So a voter that was replaced, or that has not heard yet, has no part in what the new voters
//! decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU8,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    documents::{Document, Invalid, Receipt, Subject, Voter, check_voters},
    envelope::{Signed, Untrusted, Verified},
    keys::KeySet,
    root::Trust,
};
use crate::{
    ids::{Digest, FleetId, HostId, PublicKey},
    limits::{DOCUMENT_BYTES_MAX, VOTER_LISTS_MAX, VOTERS_MAX},
    sabotage::{Defect, planted},
};

/// "These hosts vote from now on." Signed by a majority of the voters before them, or by operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterList {
    /// None if the voters before them agree. Operators, who cannot ask them, say with which ledger the
    /// fleet goes on.
    pub base: Option<Base>,
    /// How many voters the fleet should have: missing ones are found by themselves.
    pub seats: u8,
    /// The id of the list that it follows; of the genesis, for the first.
    pub parent: Digest,
    /// One to seven hosts, sorted by id.
    pub voters: Vec<Voter>,
    /// One more than that of the list that it follows; signed by operators, the first number of a
    /// range that the voters before them never come to.
    pub generation: u64,
}

/// A ledger, as a host has it that outlived the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The last index that was applied.
    pub index: u64,
    /// The hash of its state.
    pub state: Digest,
}

impl VoterList {
    /// The generation that operators begin after `generation`.
    pub fn generation_after_loss(generation: u64) -> u64 {
        (generation / GENERATIONS_PER_LOSS).saturating_add(1).saturating_mul(GENERATIONS_PER_LOSS)
    }
}

/// Voters change by themselves less often than once a minute; after a loss counting begins in the next
/// range, so that whatever the lost majority still does among itself stays below it.
const GENERATIONS_PER_LOSS: u64 = 1 << 32;

impl Document for VoterList {
    const CONTEXT: &'static str = "voters/1";
    const NAME: &'static str = "list of voters";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        check_voters(Self::NAME, &self.voters)?;
        let after_loss = self.generation >= GENERATIONS_PER_LOSS
            && self.generation.is_multiple_of(GENERATIONS_PER_LOSS);
        Invalid::unless(after_loss == self.base.is_some(), || {
            "a list of voters names a ledger exactly if it begins a range of generations".into()
        })?;
        let seats = usize::from(self.seats);
        Invalid::unless((self.voters.len()..=VOTERS_MAX).contains(&seats), || {
            format!("a list of {} voters has at most {VOTERS_MAX} seats", self.voters.len())
        })
    }
}

/// The voters of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    id: Digest,
    seats: usize,
    list: Vec<Voter>,
    generation: u64,
}

/// Too few voters say that a slot was granted.
#[derive(Debug, Error)]
#[error(
    "{have} of {need} voters vouch for slot {token}{}",
    .bad.as_ref().map_or_else(String::new, |bad| format!("; a receipt {bad}"))
)]
pub struct NotVouched {
    /// Voters that name one and the same entry.
    pub have: usize,
    /// A majority of them.
    pub need: usize,
    /// The slot.
    pub token: u64,
    /// What was wrong with a receipt that does not count.
    pub bad: Option<Untrusted>,
}

impl Voters {
    /// Voters as a genesis names them, without one.
    #[cfg(test)]
    pub(crate) fn first(mut list: Vec<Voter>) -> Self {
        list.sort();
        Self { id: Digest::ZERO, seats: list.len(), list, generation: 0 }
    }

    /// Names the document that says so.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// Which generation it is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many voters there should be.
    pub fn seats(&self) -> usize {
        self.seats
    }

    /// The voters, sorted by id.
    pub fn list(&self) -> &[Voter] {
        &self.list
    }

    /// Their keys, sorted.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.list.iter().map(|voter| voter.host)
    }

    /// How many of them make a majority.
    pub fn majority(&self) -> usize {
        self.list.len() / 2 + usize::from(!planted(Defect::WrongMajority))
    }

    /// How many of them may be down while the others decide. Where none can be spared it is one: of one
    /// voter or two nothing could be updated else.
    pub fn to_spare(&self) -> usize {
        (self.list.len() - self.majority()).max(1)
    }

    /// Believes that a slot was granted if a majority of them has seen it in one and the same entry, at the
    /// index that is its token. What a lying voter says, in whatever place of the list, counts only for the
    /// entry that it names; of a longer list than there are voters the rest is not looked at.
    pub fn check_receipts(
        &self,
        fleet: FleetId,
        slot: &Subject,
        token: u64,
        receipts: &[Signed<Receipt>],
    ) -> Result<(), NotVouched> {
        let (mut voters, mut bad) = (BTreeMap::<Digest, BTreeSet<HostId>>::new(), None);
        for receipt in receipts.iter().take(VOTERS_MAX) {
            let receipt = match receipt.verify_host(fleet) {
                Ok(receipt) => receipt,
                Err(untrusted) => {
                    bad = Some(untrusted);
                    continue;
                }
            };
            let content = receipt.content();
            if content.subject == *slot
                && content.index == token
                && content.generation == self.generation()
                && self.is_voter(content.voter)
            {
                voters.entry(content.entry).or_default().insert(content.voter);
            }
        }
        let have = voters.values().map(BTreeSet::len).max().unwrap_or(0);
        match have >= self.majority() || planted(Defect::ReceiptsSkipped) {
            true => Ok(()),
            false => Err(NotVouched { have, need: self.majority(), token, bad }),
        }
    }

    /// True if `host` is one of them.
    pub fn is_voter(&self, host: HostId) -> bool {
        self.list.iter().any(|voter| voter.host == host)
    }

    /// The signatures by which the next list is believed.
    fn verify(
        &self,
        trust: &Trust,
        next: &Signed<VoterList>,
        threshold: usize,
    ) -> Result<Verified<VoterList>, Untrusted> {
        let keys: Vec<PublicKey> = self.hosts().map(|host| host.key()).collect();
        let threshold = u8::try_from(threshold.max(1)).ok().and_then(NonZeroU8::new);
        let threshold = threshold.expect("a list has between one voter and seven");
        next.verify(trust.fleet(), KeySet { keys: &keys, threshold })
    }
}

/// Why a list of voters was not believed. The one in force stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VotersRefused {
    /// It is signed neither by the voters before it nor, where it may be, by operators.
    #[error("the list of voters {0}")]
    Untrusted(#[from] Untrusted),
    /// It does not follow the newest list that is known here.
    #[error("the list of voters does not follow generation {0}: one is missing, or it is a fork")]
    DoesNotFollow(u64),
    /// The chain is as long as it may be.
    #[error("there were {VOTER_LISTS_MAX} lists of voters: the chain cannot grow")]
    TooMany,
}

/// All lists of voters that are believed here, the genesis first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate {
    lists: Vec<Voters>,
    signed: Vec<Signed<VoterList>>,
}

impl Electorate {
    /// The first voters alone.
    pub fn of(trust: &Trust) -> Self {
        let (id, genesis) = (trust.genesis_id(), trust.genesis());
        let (list, generation) = (genesis.voters.clone(), genesis.generation);
        let first = Voters { id, seats: list.len(), list, generation };
        Self { lists: vec![first], signed: Vec::new() }
    }

    /// The voters of the newest generation.
    pub fn newest(&self) -> &Voters {
        self.lists.last().expect("the genesis is always there")
    }

    /// The voters who agreed on the newest. None where nobody did: in the first generation, and where
    /// operators have named them.
    pub fn former(&self) -> Option<&Voters> {
        let is_agreed = self.newest().generation > self.recovered_at();
        self.lists.iter().nth_back(1).filter(|_| is_agreed)
    }

    /// True if operators have named voters after a majority was lost.
    pub fn was_recovered(&self) -> bool {
        self.recovered_at() > 0
    }

    /// The generation that they named last; 0 if they never did.
    pub fn recovered_at(&self) -> u64 {
        self.newest().generation / GENERATIONS_PER_LOSS * GENERATIONS_PER_LOSS
    }

    /// The voters of a generation, if it is known.
    pub fn of_generation(&self, generation: u64) -> Option<&Voters> {
        self.lists.iter().find(|voters| voters.generation == generation)
    }

    /// True if the document with this id is one of the lists.
    pub fn knows(&self, id: Digest) -> bool {
        self.lists.iter().any(|known| known.id == id)
    }

    /// The lists that came after a generation, for whoever knows no newer one.
    pub fn after(&self, generation: u64) -> &[Signed<VoterList>] {
        let later = self.lists[1..].iter().take_while(|voters| voters.generation <= generation);
        &self.signed[later.count()..]
    }

    /// Believes the list that follows. True if it is news.
    pub fn extend(
        &mut self,
        trust: &Trust,
        next: &Signed<VoterList>,
    ) -> Result<bool, VotersRefused> {
        let id = next.id(trust.fleet());
        if self.knows(id) {
            return Ok(false);
        }
        let newest = self.newest();
        let by_operators = next.claim()?.base.is_some();
        let verified = match by_operators {
            true => trust.recovery(next)?,
            false if planted(Defect::OneVouchIsEnough) => newest.verify(trust, next, 1)?,
            false => newest.verify(trust, next, newest.majority())?,
        };
        let VoterList { seats, parent, voters, generation, .. } = verified.content().clone();
        let follows = match by_operators {
            true => generation > newest.generation,
            false => (parent, generation) == (newest.id, newest.generation.saturating_add(1)),
        };
        if !follows {
            return Err(VotersRefused::DoesNotFollow(newest.generation));
        }
        if self.signed.len() >= VOTER_LISTS_MAX {
            return Err(VotersRefused::TooMany);
        }
        self.lists.push(Voters { id, seats: seats.into(), list: voters, generation });
        self.signed.push(next.clone());
        Ok(true)
    }

    /// Believes as many of these as follow, in order. True if any is news.
    pub fn extend_by(&mut self, trust: &Trust, lists: &[Signed<VoterList>]) -> bool {
        let mut news = false;
        for list in lists {
            match self.extend(trust, list) {
                Ok(is_news) => news |= is_news,
                Err(_) => break,
            }
        }
        news
    }

    /// A list that at least one of the voters in force has signed.
    pub fn vouched(
        &self,
        trust: &Trust,
        next: &Signed<VoterList>,
    ) -> Result<Verified<VoterList>, Untrusted> {
        self.newest().verify(trust, next, 1)
    }
}

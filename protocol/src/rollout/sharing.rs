//! For the simulator alone: hosts that have applied the same entries hold one state, which was worked
//! out once.
//!
//! In one thread a thousand virtual hosts apply the same log. What an entry makes of a state follows
//! from the two alone, so the first host works it out and the others take what it has come to. That it
//! does follow is checked: now and then it is worked out once more and compared. Only the newest entries
//! are remembered; a host that is further behind works alone until it has caught up.
//!
//! Hosts that went astray, by a planted defect or a real one, have another state before the entry, and
//! share nothing with the others.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    entry::Stamped,
    kept::Kept,
    ledger::{Believed, Ledger, State},
    read::Read,
    refusal::Refusal,
};
use crate::{cbor::DecodeError, ids::Digest, places::Places, trust::Trust};

thread_local! {
    static SHARED: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

/// What this thread remembers.
struct Shared {
    /// By index. More than one where hosts went astray.
    steps: BTreeMap<u64, Vec<Step>>,
    taken: u64,
    /// States and how they were written down.
    written: VecDeque<(Kept<State>, Bytes)>,
    /// What was written down, and what was read from it.
    read: VecDeque<(Bytes, Ledger)>,
    /// Entries that were read, by the place of their bytes. What is kept keeps the bytes.
    entries: Places<(Bytes, Arc<Read>)>,
    /// The state that was found sound last.
    sound: Option<Kept<State>>,
}

/// What an entry made of a state.
struct Step {
    before: Kept<State>,
    entry: Digest,
    after: Ledger,
    outcome: Result<bool, Refusal>,
}

/// From now on the ledgers of this thread share what they can. What was shared before is forgotten.
pub fn share() {
    SHARED.set(Some(Shared {
        steps: BTreeMap::new(),
        taken: 0,
        written: VecDeque::new(),
        read: VecDeque::new(),
        entries: Places::new(),
        sound: None,
    }));
}

/// [`Ledger::apply_believed`], worked out once for all that come to it with the same state.
pub(super) fn apply(
    ledger: &mut Ledger,
    index: u64,
    entry: Digest,
    stamped: &Stamped,
    believed: Option<&Believed>,
) -> Result<bool, Refusal> {
    if SHARED.with_borrow(Option::is_none) {
        return ledger.apply_anew(index, entry, stamped, believed);
    }
    let known = SHARED.with_borrow_mut(|shared| shared.as_mut()?.known(ledger, index, entry));
    if let Some((after, outcome, is_checked)) = known {
        if is_checked {
            let again = ledger.apply_anew(index, entry, stamped, None);
            let same = again == outcome && ledger.state == after.state;
            assert!(same, "one entry makes one thing of one state");
        }
        *ledger = after;
        return outcome;
    }
    let before = ledger.state.clone();
    let outcome = ledger.apply_anew(index, entry, stamped, believed);
    SHARED.with_borrow_mut(|shared| {
        if let Some(shared) = shared {
            let step = Step { before, entry, after: ledger.clone(), outcome: outcome.clone() };
            shared.remember(index, step, ledger);
        }
    });
    outcome
}

/// [`Ledger::snapshot`], written once for all that have the same state.
pub(super) fn snapshot(ledger: &Ledger) -> Bytes {
    let known = SHARED.with_borrow(|shared| {
        let written = &shared.as_ref()?.written;
        written.iter().find(|(state, _)| state.is(&ledger.state)).map(|(_, bytes)| bytes.clone())
    });
    known.unwrap_or_else(|| {
        let bytes = ledger.snapshot_anew();
        SHARED.with_borrow_mut(|shared| {
            if let Some(shared) = shared {
                push(&mut shared.written, (ledger.state.clone(), bytes.clone()));
            }
        });
        bytes
    })
}

/// [`Ledger::restore`], read once for all that read the same. Whoever reads a state that others hold
/// still goes on with theirs.
pub(super) fn restore(trust: Arc<Trust>, bytes: &[u8]) -> Result<Ledger, DecodeError> {
    let known = SHARED.with_borrow(|shared| {
        let read = &shared.as_ref()?.read;
        let is_it = |(known, ledger): &&(Bytes, Ledger)| {
            Arc::ptr_eq(&ledger.trust, &trust) && known == bytes
        };
        read.iter().find(is_it).map(|(_, ledger)| ledger.clone())
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let mut ledger = Ledger::restore_anew(trust, bytes)?;
    SHARED.with_borrow_mut(|shared| {
        let Some(shared) = shared else { return };
        if let Some((state, _)) = shared.written.iter().find(|(_, written)| written == bytes)
            && *state == ledger.state
        {
            ledger.state = state.clone();
        }
        push(&mut shared.read, (Bytes::copy_from_slice(bytes), ledger.clone()));
    });
    Ok(ledger)
}

/// [`Read::of`], once for all that hold the same bytes.
pub(super) fn read(
    bytes: &Bytes,
    read: impl FnOnce(&Bytes) -> Option<Arc<Read>>,
) -> Option<Arc<Read>> {
    let place = bytes.as_ptr() as usize;
    let known = SHARED.with_borrow(|shared| {
        let (known, read) = shared.as_ref()?.entries.get(place)?;
        (known.len() == bytes.len()).then(|| read.clone())
    });
    if known.is_some() {
        return known;
    }
    let fresh = read(bytes)?;
    SHARED.with_borrow_mut(|shared| {
        if let Some(shared) = shared {
            shared.entries.put(place, (bytes.clone(), fresh.clone()));
        }
    });
    Some(fresh)
}

/// True the first time that a state is to be checked, of those that come one after the other.
pub(super) fn is_to_be_checked(ledger: &Ledger) -> bool {
    SHARED.with_borrow_mut(|shared| {
        let Some(shared) = shared else { return true };
        let is_known = shared.sound.as_ref().is_some_and(|state| state.is(&ledger.state));
        shared.sound = Some(ledger.state.clone());
        !is_known
    })
}

impl Shared {
    /// What is known of an entry, and whether it is to be worked out once more.
    fn known(
        &mut self,
        ledger: &Ledger,
        index: u64,
        entry: Digest,
    ) -> Option<(Ledger, Result<bool, Refusal>, bool)> {
        let steps = self.steps.get(&index)?;
        let step = steps.iter().find(|step| {
            step.entry == entry
                && step.before.is(&ledger.state)
                && Arc::ptr_eq(&step.after.trust, &ledger.trust)
        })?;
        self.taken += 1;
        let is_checked = self.taken.is_multiple_of(CHECKED_EVERY);
        Some((step.after.clone(), step.outcome.clone(), is_checked))
    }

    /// Remembers a step. A host that has come to the state of others in its own way goes on with theirs.
    fn remember(&mut self, index: u64, step: Step, ledger: &mut Ledger) {
        let steps = self.steps.entry(index).or_default();
        let same = steps.iter().find(|other| other.after.state == ledger.state);
        if let Some(other) = same.filter(|other| Arc::ptr_eq(&other.after.trust, &ledger.trust)) {
            *ledger = other.after.clone();
        }
        if steps.len() < STATES_PER_ENTRY_MAX {
            steps.push(Step { after: ledger.clone(), ..step });
        }
        while self.steps.len() > ENTRIES_MAX {
            self.steps.pop_first();
        }
    }
}

fn push<T>(list: &mut VecDeque<T>, one: T) {
    if list.len() >= SNAPSHOTS_MAX {
        list.pop_front();
    }
    list.push_back(one);
}

/// One of so many that were taken from others is worked out once more.
const CHECKED_EVERY: u64 = 64;
/// Entries that are remembered.
const ENTRIES_MAX: usize = 1024;
const STATES_PER_ENTRY_MAX: usize = 8;
const SNAPSHOTS_MAX: usize = 16;

//! What is still to happen, in the order of time; what is due at one time, in the order of planning.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use crate::plan::Micros;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// What is due in the present span of time or was before it. A small heap stays near the processor.
    soon: BinaryHeap<Reverse<Due>>,
    /// What is due later, by its span.
    later: BTreeMap<Micros, Vec<Reverse<Due>>>,
    /// The present span.
    span: Micros,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    planned: u64,
}

/// Time, number and place: the events themselves do not move about in the heap.
type Due = (Micros, u64, usize);

/// The length of a span.
const SPAN: Micros = 1 << 16;

impl<E> Queue<E> {
    /// Nothing to come.
    pub(crate) fn new() -> Self {
        Self {
            soon: BinaryHeap::new(),
            later: BTreeMap::new(),
            span: 0,
            events: Vec::new(),
            free: Vec::new(),
            planned: 0,
        }
    }

    /// Plans an event.
    pub(crate) fn plan(&mut self, at: Micros, event: E) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.planned += 1;
        let due = Reverse((at, self.planned, place));
        if at / SPAN <= self.span {
            self.soon.push(due);
        } else {
            self.later.entry(at / SPAN).or_default().push(due);
        }
    }

    /// When the next event is.
    pub(crate) fn next_at(&self) -> Option<Micros> {
        let soon = self.soon.peek().map(|Reverse((at, ..))| *at);
        let later = || self.later.first_key_value()?.1.iter().map(|Reverse((at, ..))| *at).min();
        soon.or_else(later)
    }

    /// The next event, and when it is.
    pub(crate) fn next(&mut self) -> Option<(Micros, E)> {
        if self.soon.is_empty()
            && let Some((span, due)) = self.later.pop_first()
        {
            (self.span, self.soon) = (span, due.into());
        }
        let Reverse((at, _, place)) = self.soon.pop()?;
        self.free.push(place);
        self.events[place].take().map(|event| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_they_were_planned() {
        let mut queue = Queue::new();
        for (at, name) in [(5, "c"), (1, "a"), (9 * SPAN, "h"), (5, "d"), (2, "b"), (SPAN, "e")] {
            queue.plan(at, name);
        }
        let mut order: Vec<_> = (0..5).filter_map(|_| queue.next()).map(|(_, name)| name).collect();
        // Late, at once and again in another span.
        for (at, name) in [(9 * SPAN - 1, "g"), (9 * SPAN, "i"), (3, "f")] {
            queue.plan(at, name);
        }
        while let Some(next) = queue.next_at() {
            let (at, name) = queue.next().unwrap();
            assert_eq!(at, next);
            order.push(name);
        }
        assert_eq!(order, ["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    }
}

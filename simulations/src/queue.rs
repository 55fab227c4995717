//! What is still to happen, in the order of time; what is due at one time, in the order of planning.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::plan::Micros;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// Time, number and place: the events themselves do not move about in the heap.
    heap: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    planned: u64,
}

impl<E> Queue<E> {
    /// Nothing to come.
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), planned: 0 }
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
        self.heap.push(Reverse((at, self.planned, place)));
    }

    /// The next event, and when it is.
    pub(crate) fn next(&mut self) -> Option<(Micros, E)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
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
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (2, "b")] {
            queue.plan(at, name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).map(|(_, name)| name).collect();
        assert_eq!(order, ["a", "b", "c", "d"]);
    }
}

//! Sets of hosts that give back first what was put in last.

use super::{bits::Bits, roster::Number};

/// A set of hosts that gives back first what was put in last.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    bits: Bits,
    pub(super) count: usize,
    /// What was put in, in this order. What is no longer marked is passed over.
    order: Vec<Number>,
}

impl Marks {
    pub(super) fn set(&mut self, host: Number) {
        if !self.bits.set(host) {
            return;
        }
        self.count += 1;
        self.order.push(host);
        if self.order.len() > 2 * self.count + MARKS_SLACK {
            self.compact();
        }
    }

    pub(super) fn clear(&mut self, host: Number) -> bool {
        // As a rule there is nothing, and nothing has to be looked at.
        let was = self.count > 0 && self.bits.clear(host);
        self.count -= usize::from(was);
        was
    }

    pub(super) fn pop(&mut self) -> Option<Number> {
        loop {
            let host = self.order.pop()?;
            if self.clear(host) {
                return Some(host);
            }
        }
    }

    /// Forgets what is no longer marked, and all but the last place of what is.
    fn compact(&mut self) {
        let order = std::mem::take(&mut self.order);
        let mut kept = Vec::with_capacity(self.count);
        for host in order.into_iter().rev() {
            if self.clear(host) {
                kept.push(host);
            }
        }
        kept.into_iter().rev().for_each(|host| self.set(host));
    }

    pub(super) fn is_bounded(&self, hosts: usize) -> bool {
        self.count <= hosts && self.order.len() <= 2 * hosts + MARKS_SLACK + 1
    }
}

/// Places in the order of a set that may be out of date.
pub(super) const MARKS_SLACK: usize = 64;

#[cfg(test)]
mod tests {
    use super::{super::roster::tests::number, *};

    #[test]
    fn marks_give_back_the_newest_first_and_each_once() {
        let mut marks = Marks::default();
        for host in [3, 1, 2, 1] {
            marks.set(number(host));
        }
        assert!(marks.clear(number(2)) && !marks.clear(number(2)));
        assert_eq!(marks.pop(), Some(number(1)));
        assert_eq!(marks.pop(), Some(number(3)));
        assert_eq!(marks.pop(), None);
        for turn in 0..10_000 {
            marks.set(number(turn % 5));
            marks.clear(number(turn % 5));
        }
        assert!(marks.order.len() <= MARKS_SLACK + 2);
    }
}

//! A set of hosts, a bit for each: to ask it touches one word, wherever the hosts in it are.

use super::roster::Number;

/// Hosts by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// Puts a host in. True if it was not there.
    pub(super) fn set(&mut self, host: Number) -> bool {
        let (word, bit) = place(host);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Takes it out. True if it was there.
    pub(super) fn clear(&mut self, host: Number) -> bool {
        let was_there = self.has(host);
        if was_there {
            let (word, bit) = place(host);
            self.0[word] &= !bit;
        }
        was_there
    }

    /// True if it is there.
    pub(super) fn has(&self, host: Number) -> bool {
        let (word, bit) = place(host);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }
}

fn place(host: Number) -> (usize, u64) {
    (host.index() / 64, 1 << (host.index() % 64))
}

#[cfg(test)]
mod tests {
    use super::{super::roster::tests::number, *};

    #[test]
    fn a_host_is_there_from_when_it_is_put_in_until_it_is_taken_out() {
        let mut bits = Bits::default();
        assert!(bits.set(number(70)) && !bits.set(number(70)) && bits.set(number(3)));
        let all: Vec<_> = (0..200).filter(|host| bits.has(number(*host))).collect();
        assert_eq!(all, [3, 70]);
        assert!(bits.clear(number(70)) && !bits.clear(number(70)) && !bits.clear(number(500)));
        assert!(!bits.has(number(70)) && bits.has(number(3)));
    }
}

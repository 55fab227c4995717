//! Reading what the scripts of a deployment write, from any host of the fleet.
//!
//! The log is a file of the executor on the host where they run, and the only buffer there is: whoever
//! wants more of it asks for the bytes from an offset on. Between two questions nobody keeps anything for
//! a reader, so one that is slow, or gone, costs nothing. [`Readers`] is the side of the host that is asked.

use std::collections::BTreeMap;

use crate::{
    ids::HostId,
    limits::{LOG_READS_MAX, LOG_READS_PER_PEER_MAX},
};

/// Who reads a log of this host at the moment.
#[derive(Debug, Default)]
pub struct Readers(BTreeMap<HostId, usize>);

/// Why nothing is read for somebody. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is no member of the fleet, or not any more.
    Stranger,
    /// It reads enough already, or all together do. It may ask again.
    Busy,
}

impl Readers {
    /// Somebody asks for a part of a log. Unless it is denied, [`Readers::end`] follows.
    pub fn begin(&mut self, reader: HostId, is_member: bool) -> Result<(), Denied> {
        if !is_member {
            return Err(Denied::Stranger);
        }
        let own = self.0.get(&reader).copied().unwrap_or(0);
        if own >= LOG_READS_PER_PEER_MAX || self.0.values().sum::<usize>() >= LOG_READS_MAX {
            return Err(Denied::Busy);
        }
        self.0.insert(reader, own + 1);
        Ok(())
    }

    /// It was answered.
    pub fn end(&mut self, reader: HostId) {
        if let Some(own) = self.0.get_mut(&reader) {
            *own -= 1;
            self.0.retain(|_, own| *own > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_as_much_at_a_time_as_they_may_and_no_more() {
        let host = |number| HostId([number; 32]);
        let mut readers = Readers::default();
        assert_eq!(readers.begin(host(1), false), Err(Denied::Stranger));
        for _ in 0..LOG_READS_PER_PEER_MAX {
            assert_eq!(readers.begin(host(1), true), Ok(()));
        }
        assert_eq!(readers.begin(host(1), true), Err(Denied::Busy));
        let others = u8::try_from(LOG_READS_MAX - LOG_READS_PER_PEER_MAX).unwrap();
        for number in 2..2 + others {
            assert_eq!(readers.begin(host(number), true), Ok(()), "{number}");
        }
        assert_eq!(readers.begin(host(100), true), Err(Denied::Busy));
        readers.end(host(1));
        assert_eq!(readers.begin(host(1), false), Err(Denied::Stranger));
        assert_eq!(readers.begin(host(100), true), Ok(()));
        assert_eq!(readers.begin(host(1), true), Err(Denied::Busy), "all together read enough");
        readers.end(host(200));
        assert_eq!(readers.begin(host(101), true), Err(Denied::Busy), "nobody has ended");
    }
}

//! The two clocks that are handed to the protocol.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use groundswell_protocol::time::{Mono, UnixSeconds};

/// Readings of this process's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A monotonic clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the start, on the monotonic clock.
    pub fn mono(&self) -> Mono {
        // One hour is added so that subtracting a bound never meets the clock's zero.
        Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
            + std::time::Duration::from_secs(3600)
    }

    /// Wall-clock time; a label, never an order of events.
    pub fn wall(&self) -> UnixSeconds {
        UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

//! The two clocks that are handed to the protocol.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use groundswell_protocol::time::{Mono, UnixSeconds};
use nix::time::{ClockId, clock_gettime};

/// Readings of this process's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Duration,
}

impl Clock {
    /// A monotonic clock that starts now.
    pub fn start() -> Self {
        Self { start: since_boot() }
    }

    /// Time since the start, on the clock that only counts up and goes on while the machine sleeps: who
    /// wakes after an hour has heard nothing of the others for an hour.
    pub fn mono(&self) -> Mono {
        let elapsed = since_boot().saturating_sub(self.start);
        // One hour is added so that subtracting a bound never meets the clock's zero.
        Mono(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)) + Duration::from_secs(3600)
    }

    /// Wall-clock time; a label, never an order of events.
    pub fn wall(&self) -> UnixSeconds {
        UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock").into()
}

#[cfg(test)]
mod tests {
    use std::{env, ffi::OsStr, process::Command};

    use super::*;

    const ASLEEP: &str = "SWELL_TEST_ASLEEP";

    /// In a namespace of its own the machine seems to have slept for a day: one clock is a day ahead of the
    /// other.
    #[test]
    fn it_goes_on_while_the_machine_sleeps() {
        if env::var_os(ASLEEP).is_some() {
            let awake = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
            let clock = Clock { start: awake.into() };
            assert!(clock.mono() >= Mono::default() + Duration::from_secs(86_400));
            return;
        }
        let asleep = |program: &OsStr, arguments: &[&str]| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--time", "--boottime", "86400", "--"]);
            command.arg(program).args(arguments).env(ASLEEP, "1").output()
        };
        if !asleep("true".as_ref(), &[]).is_ok_and(|made| made.status.success()) {
            eprintln!("not shown: this machine makes no namespaces");
            return;
        }
        let this = env::current_exe().unwrap();
        let slept = asleep(this.as_ref(), &["it_goes_on_while_the_machine_sleeps"]).unwrap();
        assert!(slept.status.success(), "{slept:?}");
        // A filter that names no test lets all of none pass.
        assert!(String::from_utf8_lossy(&slept.stdout).contains("1 passed"), "{slept:?}");
    }
}

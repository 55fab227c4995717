//! The clock that receipts grow old by.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::give_up;

/// A reading of the clock that only counts up and goes on while the machine sleeps. `Instant` stands still
/// then: a host that wakes after an hour would take receipts for fresh that voters gave an hour ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootTime(Duration);

impl BootTime {
    pub(crate) fn now() -> Self {
        match clock_gettime(ClockId::CLOCK_BOOTTIME) {
            Ok(time) => Self(time.into()),
            Err(error) => give_up(&format!("the clock since the machine was started: {error}")),
        }
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::{env, ffi::OsStr, process::Command};

    use super::*;
    use crate::shown::shown;

    const ASLEEP: &str = "SWELL_TEST_ASLEEP";

    /// In a namespace of its own the machine seems to have slept for a day: one clock is a day ahead of the
    /// other.
    #[test]
    fn it_goes_on_while_the_machine_sleeps() {
        if env::var_os(ASLEEP).is_some() {
            let awake = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
            assert!(BootTime::now().0 >= Duration::from(awake) + Duration::from_secs(86_400));
            return;
        }
        let asleep = |program: &OsStr, arguments: &[&str]| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--time", "--boottime", "86400", "--"]);
            command.arg(program).args(arguments).env(ASLEEP, "1").output()
        };
        let possible = asleep("true".as_ref(), &[]).is_ok_and(|made| made.status.success());
        if !shown(possible, "this machine makes no namespaces") {
            return;
        }
        let this = env::current_exe().unwrap();
        let slept = asleep(this.as_ref(), &["it_goes_on_while_the_machine_sleeps"]).unwrap();
        assert!(slept.status.success(), "{slept:?}");
        // A filter that names no test lets all of none pass.
        assert!(String::from_utf8_lossy(&slept.stdout).contains("1 passed"), "{slept:?}");
    }
}

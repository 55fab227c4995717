//! The application that is deployed in demonstrations and tests, and the notes that it takes.
//!
//! Each of its scripts writes down when it began and ended, so that what a deployment did can be
//! judged by what happened on the hosts and not by what the fleet says about itself.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// How a version of the shop behaves.
#[derive(Clone, Debug)]
pub struct Shop {
    /// Its version.
    pub version: String,
    /// Seconds that starting takes, as `sleep` reads them.
    pub start_seconds: String,
    /// True if its health check fails.
    pub broken: bool,
    /// Bytes of data that it carries, different for each version.
    pub data_bytes: usize,
}

impl Shop {
    /// A version that works.
    pub fn new(version: &str) -> Self {
        Self {
            version: version.into(),
            start_seconds: "0.2".into(),
            broken: false,
            data_bytes: 300_000,
        }
    }

    /// Writes the directory that is released.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir.join("scripts"))?;
        fs::create_dir_all(dir.join("shop"))?;
        fs::write(dir.join("appspec.yml"), APPSPEC)?;
        fs::write(dir.join("shop/version"), format!("{}\n", self.version))?;
        fs::write(dir.join("shop/start_seconds"), format!("{}\n", self.start_seconds))?;
        if self.broken {
            fs::write(dir.join("shop/broken"), "")?;
        }
        fs::write(dir.join("shop/data"), self.data())?;
        let script = dir.join("scripts/hook.sh");
        fs::write(&script, HOOK)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
    }

    /// Bytes that do not compress and differ from version to version.
    fn data(&self) -> Vec<u8> {
        let mut data = vec![0; self.data_bytes];
        blake3::Hasher::new().update(self.version.as_bytes()).finalize_xof().fill(&mut data);
        data
    }

    /// Where its version is, below a host's live tree.
    pub fn version_file(live: &Path) -> PathBuf {
        live.join("srv/shop/version")
    }
}

/// A note of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, in seconds since 1970, by the machine's clock.
    pub at: f64,
    /// `ApplicationStop` and so on when it begins, or `up` when the shop is healthy again.
    pub name: String,
    /// The version whose script it is.
    pub version: String,
}

impl Event {
    /// All notes of a host, in order.
    pub fn read(host_dir: &Path) -> Vec<Self> {
        let text = fs::read_to_string(host_dir.join("events")).unwrap_or_default();
        let events = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let at = words.next()?.parse().ok()?;
            let (name, version) = (words.next()?.to_owned(), words.next()?.to_owned());
            Some(Self { at, name, version })
        });
        events.collect()
    }
}

/// The times during which a host's shop was disturbed, of which the last may still go on.
pub fn downtimes(events: &[Event]) -> Vec<(f64, f64)> {
    let mut downtimes = Vec::new();
    let mut since = None;
    for event in events {
        if event.name == "up" {
            downtimes.extend(since.take().map(|since| (since, event.at)));
        } else {
            since.get_or_insert(event.at);
        }
    }
    downtimes.extend(since.map(|since| (since, f64::INFINITY)));
    downtimes
}

const APPSPEC: &str = "\
version: 0.0
os: linux
files:
  - source: shop
    destination: /srv/shop
hooks:
  ApplicationStop:
    - location: scripts/hook.sh
      timeout: 60
  BeforeInstall:
    - location: scripts/hook.sh
      timeout: 60
  AfterInstall:
    - location: scripts/hook.sh
      timeout: 60
  ApplicationStart:
    - location: scripts/hook.sh
      timeout: 60
  ValidateService:
    - location: scripts/hook.sh
      timeout: 60
";

const HOOK: &str = r#"#!/bin/sh
# Each event is noted with its time. A file named hold-EVENT keeps it waiting.
set -eu
shop=$(dirname "$0")/../shop
version=$(cat "$shop/version")
note() { echo "$(date +%s.%N) $1 $version" >> "$SWELL_SCRATCH/events"; }
note "$LIFECYCLE_EVENT"
while [ -e "$SWELL_SCRATCH/hold-$LIFECYCLE_EVENT" ]; do sleep 0.02; done
case $LIFECYCLE_EVENT in
ApplicationStop) echo "shop $version goes down" ;;
ApplicationStart) sleep "$(cat "$shop/start_seconds")"; echo "shop $version comes up" ;;
ValidateService)
    # A version that is broken everywhere, or on this host alone.
    if [ -e "$shop/broken" ] || [ -e "$SWELL_SCRATCH/broken-$version" ]; then
        echo "GET /health: 500 Internal Server Error" >&2
        exit 1
    fi
    echo "GET /health: 200 OK"
    note up
    ;;
esac
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downtimes_run_from_the_first_event_until_it_is_up() {
        let event = |at: f64, name: &str| Event { at, name: name.into(), version: "1".into() };
        let events = [
            event(1.0, "ApplicationStop"),
            event(2.0, "BeforeInstall"),
            event(3.0, "up"),
            event(5.0, "ApplicationStop"),
        ];
        assert_eq!(downtimes(&events), [(1.0, 3.0), (5.0, f64::INFINITY)]);
    }
}

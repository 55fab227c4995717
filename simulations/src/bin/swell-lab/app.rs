//! What is deployed: an application whose scripts note when it goes down and comes up.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

/// Writes the directory of a version of a group's application.
pub(crate) fn write(dir: &Path, group: &str, version: u32) -> io::Result<()> {
    fs::create_dir_all(dir.join("scripts"))?;
    fs::create_dir_all(dir.join("app"))?;
    let mut appspec = format!(
        "version: 0.0\nos: linux\nfiles:\n  - source: app\n    destination: /srv/{group}\nhooks:\n"
    );
    for event in EVENTS {
        appspec += &format!("  {event}:\n    - location: scripts/hook.sh\n      timeout: 60\n");
    }
    fs::write(dir.join("appspec.yml"), appspec)?;
    fs::write(dir.join("app/version"), format!("{version}\n"))?;
    let script = dir.join("scripts/hook.sh");
    fs::write(&script, HOOK)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
}

const EVENTS: [&str; 5] =
    ["ApplicationStop", "BeforeInstall", "AfterInstall", "ApplicationStart", "ValidateService"];

/// The time is the kernel's own, in seconds since the machine started: no clock that is set moves it.
const HOOK: &str = r#"#!/bin/sh
set -eu
version=$(cat "$(dirname "$0")/../app/version")
note() {
    read -r now _ < /proc/uptime
    echo "$now $DEPLOYMENT_GROUP_NAME $1 $version" >> "$SWELL_SCRATCH/events"
}
note "$LIFECYCLE_EVENT"
case $LIFECYCLE_EVENT in
ApplicationStart) sleep 0.4 ;;
ValidateService) note up ;;
esac
"#;

//! What the administrator of a host lets its fleet do, whatever operators have signed.
//!
//! A deployment that would do more is refused before anything of it is laid out. Whoever deploys on this host alone
//! is asked nothing: that person could do it by hand.

use std::path::Path;

use groundswell_protocol::revision::{AppSpec, Permission, Script};

use crate::config::Config;

/// Refuses what the host's settings do not allow.
pub(crate) fn check(config: &Config, spec: &AppSpec) -> Result<(), String> {
    let scripts = spec.hooks.iter().flat_map(|hooks| &hooks.scripts);
    for script in scripts {
        check_script(config, script).map_err(|problem| {
            let location = &script.location;
            format!("this host's settings forbid it: script {location} {problem}")
        })?;
    }
    for permission in &spec.permissions {
        check_permission(config, permission)?;
    }
    let Some(roots) = &config.destination_roots else { return Ok(()) };
    for mapping in &spec.files {
        let destination = Path::new(&mapping.destination);
        if !roots.iter().any(|root| destination.starts_with(root)) {
            return Err(format!(
                "this host's settings forbid it: nothing may be installed in {}; destination_roots does not \
                 have it",
                destination.display()
            ));
        }
    }
    Ok(())
}

fn check_script(config: &Config, script: &Script) -> Result<(), String> {
    let user = script.runas.as_deref().unwrap_or(ROOT);
    if !is_allowed(config, user) {
        return Err(format!("may not run as {user}; allowed_users does not have that user"));
    }
    // Who may become another user may become any.
    if script.sudo && !is_allowed(config, ROOT) {
        return Err("may not use sudo; allowed_users does not have root".into());
    }
    match config.script_seconds_max {
        Some(max) if script.timeout_seconds > max => Err(format!(
            "may not run for {} seconds; script_seconds_max is {max}",
            script.timeout_seconds
        )),
        _ => Ok(()),
    }
}

/// A program that runs as root whoever starts it would make whoever may start it root. Where an owner or a group
/// is given, no file has such a bit, and to a directory it means something else.
fn check_permission(config: &Config, permission: &Permission) -> Result<(), String> {
    let is_roots = permission.owner.is_none() && permission.group.is_none();
    match permission.mode {
        Some(mode)
            if mode & SET_ID != 0
                && permission.on_files
                && is_roots
                && !is_allowed(config, ROOT) =>
        {
            Err(format!(
                "this host's settings forbid it: permissions of {}: mode {mode:o} would make programs that run \
                 as root, and allowed_users does not have root; give an owner, or set the mode on directories \
                 alone",
                permission.object
            ))
        }
        _ => Ok(()),
    }
}

fn is_allowed(config: &Config, name: &str) -> bool {
    config.allowed_users.as_ref().is_none_or(|users| users.iter().any(|user| user == name))
}

const ROOT: &str = "root";
/// The bits of a mode with which a program runs as its owner, or in its group.
const SET_ID: u16 = 0o6000;

#[cfg(test)]
mod tests {
    use groundswell_protocol::{
        execute::LifecycleEvent,
        revision::{EventHooks, FileMapping},
    };

    use super::*;

    fn check(
        settings: &str,
        user: Option<&str>,
        sudo: bool,
        destination: &str,
    ) -> Result<(), String> {
        let config: Config = toml::from_str(settings).unwrap();
        let script = Script {
            sudo,
            runas: user.map(Into::into),
            location: "run.sh".into(),
            timeout_seconds: 300,
        };
        let event = LifecycleEvent::AfterInstall;
        super::check(
            &config,
            &AppSpec {
                hooks: vec![EventHooks { event, scripts: vec![script] }],
                files: vec![FileMapping { source: String::new(), destination: destination.into() }],
                ..AppSpec::default()
            },
        )
    }

    #[test]
    fn t31_a_host_caps_users_places_and_times() {
        let users = "allowed_users = [\"app\"]";
        let places = "destination_roots = [\"/srv\", \"/opt/app\"]";
        for (settings, user, sudo, destination, problem) in [
            ("", None, true, "/etc", None),
            (users, Some("app"), false, "/etc", None),
            (users, None, false, "/etc", Some("may not run as root")),
            (users, Some("root"), false, "/etc", Some("may not run as root")),
            (users, Some("app"), true, "/etc", Some("may not use sudo")),
            (places, None, false, "/srv", None),
            (places, None, false, "/opt/app/x", None),
            (places, None, false, "/opt/apple", Some("nothing may be installed in /opt/apple")),
            (places, None, false, "/etc", Some("nothing may be installed in /etc")),
            ("script_seconds_max = 300", None, false, "/etc", None),
            ("script_seconds_max = 299", None, false, "/etc", Some("may not run for 300 seconds")),
        ] {
            let done = check(settings, user, sudo, destination);
            let said = done.err();
            assert_eq!(said.is_some(), problem.is_some(), "{settings}: {said:?}");
            assert!(said.unwrap_or_default().contains(problem.unwrap_or_default()), "{settings}");
        }
    }

    #[test]
    fn t31_where_scripts_may_not_be_root_no_program_of_root_comes_either() {
        let check = |settings: &str, mode, owner: Option<&str>, group: Option<&str>, on_files| {
            let permission = Permission {
                acls: Vec::new(),
                mode: Some(mode),
                group: group.map(Into::into),
                owner: owner.map(Into::into),
                except: Vec::new(),
                object: "/srv/app".into(),
                context: None,
                pattern: "**".into(),
                on_files,
                on_directories: true,
            };
            let config: Config = toml::from_str(settings).unwrap();
            super::check(&config, &AppSpec { permissions: vec![permission], ..AppSpec::default() })
        };
        let users = "allowed_users = [\"app\"]";
        for (settings, mode, owner, group, on_files, is_refused) in [
            ("", 0o4755, None, None, true, false),
            ("allowed_users = [\"root\"]", 0o4755, None, None, true, false),
            (users, 0o755, None, None, true, false),
            (users, 0o4755, None, None, true, true),
            (users, 0o2755, None, None, true, true),
            (users, 0o6711, None, None, true, true),
            // To give a file away takes the bits from it.
            (users, 0o4755, Some("app"), None, true, false),
            (users, 0o2755, None, Some("app"), true, false),
            (users, 0o2775, None, None, false, false),
        ] {
            let said = check(settings, mode, owner, group, on_files).err();
            assert_eq!(said.is_some(), is_refused, "{settings} {mode:o} {owner:?}: {said:?}");
            let said = said.unwrap_or_default();
            let expected = format!("permissions of /srv/app: mode {mode:o} would make programs");
            assert!(!is_refused || said.contains(&expected), "{said}");
        }
    }
}

//! What the administrator of a host lets its fleet do, whatever operators have signed.
//!
//! A deployment that would do more is refused before anything of it is laid out. Whoever deploys on this host alone
//! is asked nothing: that person could do it by hand.

use std::path::Path;

use groundswell_protocol::revision::{AppSpec, Script};

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
    let is_allowed = |name: &str| {
        config.allowed_users.as_ref().is_none_or(|users| users.iter().any(|user| user == name))
    };
    if !is_allowed(user) {
        return Err(format!("may not run as {user}; allowed_users does not have that user"));
    }
    // Who may become another user may become any.
    if script.sudo && !is_allowed(ROOT) {
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

const ROOT: &str = "root";

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
}

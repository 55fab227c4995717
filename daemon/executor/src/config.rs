//! The settings of the executor, read once, before anything is opened.

use std::{
    fs,
    path::{Path, PathBuf},
};

use groundswell_protocol::limits::REVISIONS_KEPT_MAX;
use serde::Deserialize;

/// What runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The trust bundle, the host's id and the journal. This process alone writes here, but for `lock`, which
    /// `swell local` takes while it deploys.
    pub(crate) state_dir: PathBuf,
    /// Revisions, laid out as AWS's agent does.
    pub(crate) root_dir: PathBuf,
    /// The store of `swelld`, read by hash.
    pub(crate) store_dir: PathBuf,
    /// Where `swelld` asks.
    pub(crate) socket: PathBuf,
    /// The Unix group of `swelld`, of whose members only the user who owns the store may ask, beside root.
    pub(crate) socket_group: Option<String>,
    /// What appspecs call `/`; elsewhere only where several hosts share a machine.
    pub(crate) destination_root: PathBuf,
    /// How many deployments of a group stay laid out, the newest included. What is installed stays beside.
    pub(crate) revisions_kept: u32,
    /// How scripts are started; by what this machine runs if it is not said.
    pub(crate) scripts: Option<Runner>,
    /// As whom the scripts of a fleet may run; as anybody if it is not said.
    pub(crate) allowed_users: Option<Vec<String>>,
    /// Below which directories a fleet may install; below any if it is not said.
    pub(crate) destination_roots: Option<Vec<PathBuf>>,
    /// How long a script of a fleet may ask to run; as long as an appspec may say if it is not said.
    pub(crate) script_seconds_max: Option<u32>,
}

/// How scripts are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Runner {
    /// By systemd, each as a unit of its own.
    Units,
    /// By this process, each as a process group.
    Plain,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/swell-exec".into(),
            root_dir: "/opt/groundswell".into(),
            store_dir: "/var/lib/swelld/store".into(),
            socket: "/run/swell-exec/exec.sock".into(),
            socket_group: None,
            destination_root: "/".into(),
            // As many as AWS's agent keeps.
            revisions_kept: 5,
            scripts: None,
            allowed_users: None,
            destination_roots: None,
            script_seconds_max: None,
        }
    }
}

/// Reads the settings; the message names file, line and key.
pub(crate) fn load(path: &Path) -> Result<Config, String> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read the settings {shown}: {error}"))?;
    let config: Config = toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or(&text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let key = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
        let key = key.map(|(key, _)| format!("{}: ", key.trim().escape_debug()));
        format!("{shown}:{line}:{column}: {}{}", key.unwrap_or_default(), error.message())
    })?;
    let wrong = |key: &str, problem: String| {
        let key_of = |line: &str| line.split('=').next().unwrap_or_default().trim() == key;
        let line = text.lines().position(key_of);
        Err(format!("{shown}:{}:1: {key}: {problem}", line.map_or(1, |line| line + 1)))
    };
    if !(1..=REVISIONS_KEPT_MAX).contains(&config.revisions_kept) {
        let kept = config.revisions_kept;
        return wrong("revisions_kept", format!("{kept} is not from 1 to {REVISIONS_KEPT_MAX}"));
    }
    let roots = config.destination_roots.iter().flatten();
    for (key, value) in [
        ("state_dir", &config.state_dir),
        ("root_dir", &config.root_dir),
        ("store_dir", &config.store_dir),
        ("socket", &config.socket),
        ("destination_root", &config.destination_root),
    ]
    .into_iter()
    .chain(roots.map(|root| ("destination_roots", root)))
    {
        if !value.is_absolute() {
            return wrong(key, format!("'{}' is not absolute", value.display()));
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swell-exec.toml");
        fs::write(&path, text).unwrap();
        load(&path).unwrap_err().replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn a_bad_setting_is_refused_with_line_and_key() {
        assert!(refusal("\nroot = \"/x\"").starts_with("swell-exec.toml:2:1: root: unknown field"));
        assert!(refusal("socket = 3").starts_with("swell-exec.toml:1:10: socket: invalid type"));
        assert_eq!(
            refusal("\nroot_dir = \"x\""),
            "swell-exec.toml:2:1: root_dir: 'x' is not absolute"
        );
    }

    #[test]
    fn t31_a_list_of_places_has_absolute_paths_and_is_told_from_one_place() {
        assert_eq!(
            refusal("destination_root = \"/x\"\ndestination_roots = [\"/srv\", \"opt\"]"),
            "swell-exec.toml:2:1: destination_roots: 'opt' is not absolute"
        );
        let both = "destination_roots = [\"/srv\"]\ndestination_root = \"x\"";
        assert_eq!(refusal(both), "swell-exec.toml:2:1: destination_root: 'x' is not absolute");
    }

    #[test]
    fn a_host_keeps_from_one_deployment_to_a_hundred() {
        assert_eq!(Config::default().revisions_kept, 5);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swell-exec.toml");
        for kept in [1, REVISIONS_KEPT_MAX] {
            fs::write(&path, format!("revisions_kept = {kept}")).unwrap();
            assert_eq!(load(&path).unwrap().revisions_kept, kept);
        }
        for kept in [0, REVISIONS_KEPT_MAX + 1] {
            assert_eq!(
                refusal(&format!("\nrevisions_kept = {kept}")),
                format!("swell-exec.toml:2:1: revisions_kept: {kept} is not from 1 to 100")
            );
        }
        assert!(refusal("revisions_kept = -1").contains("1:18: revisions_kept: invalid value"));
    }
}

//! The settings of AWS's agent, as far as they mean something here.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::Failed;

/// Where deployments are, and how many.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) root: PathBuf,
    pub(super) revisions_kept: u32,
}

/// The file's keys begin with a colon, or do not. Those of a service that is not there mean nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    #[serde(alias = ":root_dir")]
    root_dir: Option<PathBuf>,
    #[serde(alias = ":max_revisions")]
    max_revisions: Option<u32>,
}

impl Settings {
    /// Reads the file, if one is named.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, Failed> {
        let Some(path) = path else { return Self::of(Keys::default()) };
        let refused = |error: &dyn std::fmt::Display| {
            Failed::with_hint(
                format!("the agent configuration {}: {error}", path.display()),
                "name a settings file of AWS's agent, or leave --agent-configuration-file out",
            )
        };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|error| refused(&error))?;
        let keys =
            serde_saphyr::from_str::<Option<Keys>>(&text).map_err(|error| refused(&error))?;
        Self::of(keys.unwrap_or_default()).map_err(|error| refused(&error))
    }

    fn of(keys: Keys) -> Result<Self, Failed> {
        let settings = Self {
            root: keys.root_dir.unwrap_or_else(|| "/opt/groundswell-local".into()),
            // As many as AWS's agent keeps.
            revisions_kept: keys.max_revisions.unwrap_or(5),
        };
        if !settings.root.is_absolute() {
            return Err(Failed::new(format!(
                "root_dir: {} is not absolute",
                settings.root.display()
            )));
        }
        if settings.revisions_kept == 0 {
            return Err(Failed::new("max_revisions: is at least 1, not 0"));
        }
        Ok(settings)
    }
}

/// The file that AWS ships has less than a thousandth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Settings::load(Some(file.path())).map_err(|failed| failed.to_string())
    }

    #[test]
    fn keys_of_the_agent_are_read_with_and_without_colons() {
        let usual = Settings { root: "/opt/groundswell-local".into(), revisions_kept: 5 };
        assert_eq!(load("---\n"), Ok(usual));
        let own = Settings { root: "/srv/x".into(), revisions_kept: 2 };
        let text =
            "---\n:program_name: agent\n:root_dir: '/srv/x'\n:max_revisions: 2\n:verbose: false\n";
        assert_eq!(load(text).as_ref(), Ok(&own));
        assert_eq!(load(&text.replace("\n:", "\n")), Ok(own));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        for (text, part) in [
            (":root_dir: x", "is not absolute"),
            (":max_revisions: 0", "at least 1"),
            (":max_revisions: many", "max_revisions"),
            ("- a", "agent configuration"),
        ] {
            let refused = load(text).unwrap_err();
            assert!(refused.contains(part) && refused.contains("agent configuration"), "{refused}");
        }
        let failed = Settings::load(Some(Path::new("/no/such/file"))).unwrap_err().to_string();
        assert!(failed.contains("/no/such/file: No such file"), "{failed}");
    }
}

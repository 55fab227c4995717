//! The typed form of an `appspec.yml`.

use serde::{Deserialize, Serialize};

use crate::execute::LifecycleEvent;

/// What to do with a file that is in the way of one to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileExistsBehavior {
    /// Fail the deployment. The default.
    Disallow,
    /// Replace it.
    Overwrite,
    /// Keep it.
    Retain,
}

/// An application specification: which files go where, with what rights, and which scripts run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// In the order of the file.
    pub files: Vec<FileMapping>,
    /// One element per event that has scripts, in the order of the lifecycle.
    pub hooks: Vec<EventHooks>,
    /// In the order of the file.
    pub permissions: Vec<Permission>,
    /// Wins over the order's setting.
    pub file_exists_behavior: Option<FileExistsBehavior>,
}

/// A part of the revision and the directory that it goes into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMapping {
    /// A path in the revision without a leading slash; empty for the whole revision.
    pub source: String,
    /// An absolute path of a directory on the host.
    pub destination: String,
}

/// The scripts of one lifecycle event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventHooks {
    /// The event.
    pub event: LifecycleEvent,
    /// In the order in which they run.
    pub scripts: Vec<Script>,
}

/// A script of a lifecycle event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Run through `sudo`.
    pub sudo: bool,
    /// The user to run as; the executor's own if none.
    pub runas: Option<String>,
    /// A path in the revision, without a leading slash.
    pub location: String,
    /// Seconds after which the script is ended and has failed.
    pub timeout_seconds: u32,
}

/// Rights for files and directories that the deployment creates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// ACL entries as they were written; [`AclEntry`](super::AclEntry) reads them.
    pub acls: Vec<String>,
    /// The mode's twelve bits.
    pub mode: Option<u16>,
    /// A group's name.
    pub group: Option<String>,
    /// A user's name.
    pub owner: Option<String>,
    /// Patterns of names that are left alone.
    pub except: Vec<String>,
    /// The directory or file that it is about.
    pub object: String,
    /// The SELinux context.
    pub context: Option<SelinuxContext>,
    /// `**` for everything below the object, else a pattern of names directly in it.
    pub pattern: String,
    /// True if it applies to files.
    pub on_files: bool,
    /// True if it applies to directories.
    pub on_directories: bool,
}

/// An SELinux context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxContext {
    /// The type.
    pub kind: String,
    /// The SELinux user.
    pub user: Option<String>,
    /// Sensitivity and categories, normalised.
    pub range: Option<String>,
}

impl AppSpec {
    /// The scripts of `event`, in order.
    pub fn scripts(&self, event: LifecycleEvent) -> &[Script] {
        self.hooks.iter().find(|hooks| hooks.event == event).map_or(&[], |hooks| &hooks.scripts)
    }
}

impl Permission {
    /// True if it is about what is at `below` when its object is a directory: a path that starts there.
    /// The object itself is never meant; patterns other than `**` and exceptions are about what is
    /// directly in it.
    pub fn covers(&self, below: &str) -> bool {
        let direct = !below.is_empty() && !below.contains('/');
        let fits = match self.pattern.as_str() {
            "**" => !below.is_empty(),
            pattern => direct && matches(pattern, below),
        };
        fits && !(direct && self.except.iter().any(|except| matches(except, below)))
    }
}

/// A whole name against a pattern in which `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // The first place where a part fits leaves the most for those after it.
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_runs() {
        for (pattern, name, good) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abd", false),
            ("a*b*c", "axxbyyc", true),
            ("*b*", "abc", true),
            ("**x", "aax", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(matches(pattern, name), good, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_with_many_stars_take_no_time() {
        let (pattern, name) = ("*a".repeat(100) + "b", "a".repeat(255));
        assert!(!matches(&pattern, &name));
    }
}

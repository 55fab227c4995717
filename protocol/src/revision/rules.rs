//! What a typed appspec may say. A host asks again what the signer asked when it read the YAML.

use std::time::Duration;

use thiserror::Error;

use super::{
    access::{AclEntry, check_account, check_label, normalise_range},
    appspec::{AppSpec, EventHooks, FileMapping, Permission, Script, SelinuxContext},
    paths::{check_absolute, check_relative, shown},
};
use crate::limits::{
    ACL_ENTRIES_MAX, EXCEPT_PATTERNS_MAX, FILE_MAPPINGS_MAX, HOOK_SCRIPTS_MAX, HOOK_TIMEOUT_MAX,
    PATH_COMPONENT_BYTES_MAX, PERMISSIONS_MAX,
};

/// What there is at a path of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link that leads nowhere.
    Symlink,
}

/// A rule that a typed appspec breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key}: {problem}")]
pub struct SpecRefused {
    /// The path of the key, such as `hooks.AfterInstall[0].location`.
    pub key: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl AppSpec {
    /// Checks every rule; `kind_of` tells what the revision has at a path, links followed.
    pub fn check(&self, kind_of: &dyn Fn(&str) -> Option<PathKind>) -> Result<(), SpecRefused> {
        self.check_counts()?;
        if !self.hooks.is_sorted_by(|a, b| a.event < b.event) {
            return Err(refused("hooks", "events are in the lifecycle's order, each once"));
        }
        for hooks in &self.hooks {
            hooks.check(kind_of)?;
        }
        for (i, mapping) in self.files.iter().enumerate() {
            mapping.check(kind_of).map_err(|refused| refused.within(&format!("files[{i}]")))?;
        }
        for (i, permission) in self.permissions.iter().enumerate() {
            permission.check().map_err(|refused| refused.within(&format!("permissions[{i}]")))?;
        }
        Ok(())
    }

    pub(super) fn check_counts(&self) -> Result<(), SpecRefused> {
        check_count("files", self.files.len(), FILE_MAPPINGS_MAX)?;
        check_count("permissions", self.permissions.len(), PERMISSIONS_MAX)?;
        let scripts = self.hooks.iter().map(|hooks| hooks.scripts.len()).sum();
        check_count("hooks", scripts, HOOK_SCRIPTS_MAX)
    }
}

impl EventHooks {
    fn check(&self, kind_of: &dyn Fn(&str) -> Option<PathKind>) -> Result<(), SpecRefused> {
        let key = format!("hooks.{}", self.event);
        if !self.event.is_scriptable() {
            return Err(refused(&key, "no scripts run in this event; remove it"));
        }
        if self.scripts.is_empty() {
            return Err(refused(&key, "an event without scripts is left out"));
        }
        for (i, script) in self.scripts.iter().enumerate() {
            script.check(kind_of).map_err(|refused| refused.within(&format!("{key}[{i}]")))?;
        }
        Ok(())
    }
}

impl Script {
    pub(super) fn check(
        &self,
        kind_of: &dyn Fn(&str) -> Option<PathKind>,
    ) -> Result<(), SpecRefused> {
        let location =
            |problem: String| refused("location", format!("'{}' {problem}", shown(&self.location)));
        check_relative(&self.location).map_err(location)?;
        match kind_of(&self.location) {
            Some(PathKind::File) => {}
            Some(PathKind::Directory) => {
                return Err(location("is a directory; name a script in it".into()));
            }
            Some(PathKind::Symlink) => {
                return Err(location("is a symbolic link that leads nowhere; mend it".into()));
            }
            None => {
                let hint = "is not in the revision; add the script or correct the path";
                return Err(location(hint.into()));
            }
        }
        if let Some(user) = &self.runas {
            check_account(user).map_err(|problem| refused("runas", problem))?;
        }
        let timeout = Duration::from_secs(u64::from(self.timeout_seconds));
        if timeout.is_zero() || timeout > HOOK_TIMEOUT_MAX {
            return Err(refused(
                "timeout",
                format!(
                    "is 1 to {} seconds, not {}",
                    HOOK_TIMEOUT_MAX.as_secs(),
                    self.timeout_seconds
                ),
            ));
        }
        Ok(())
    }
}

impl FileMapping {
    pub(super) fn check(
        &self,
        kind_of: &dyn Fn(&str) -> Option<PathKind>,
    ) -> Result<(), SpecRefused> {
        let source =
            |problem: &str| refused("source", format!("'{}' {problem}", shown(&self.source)));
        if !self.source.is_empty() {
            check_relative(&self.source).map_err(|problem| source(&problem))?;
            if kind_of(&self.source).is_none() {
                return Err(source("is not in the revision; add it or correct the path"));
            }
        }
        check_absolute(&self.destination).map_err(|problem| {
            refused("destination", format!("'{}' {problem}", shown(&self.destination)))
        })
    }
}

impl Permission {
    pub(super) fn check(&self) -> Result<(), SpecRefused> {
        check_absolute(&self.object)
            .map_err(|problem| refused("object", format!("'{}' {problem}", shown(&self.object))))?;
        check_pattern(&self.pattern).map_err(|problem| refused("pattern", problem))?;
        check_count("except", self.except.len(), EXCEPT_PATTERNS_MAX)?;
        for (i, pattern) in self.except.iter().enumerate() {
            check_pattern(pattern).map_err(|problem| refused(&format!("except[{i}]"), problem))?;
        }
        if self.mode.is_some_and(|mode| mode > 0o7777) {
            return Err(refused("mode", "has at most four octal digits"));
        }
        for (key, name) in [("owner", &self.owner), ("group", &self.group)] {
            if let Some(name) = name {
                check_account(name).map_err(|problem| refused(key, problem))?;
            }
        }
        check_count("acls", self.acls.len(), ACL_ENTRIES_MAX)?;
        for (i, acl) in self.acls.iter().enumerate() {
            AclEntry::parse(acl).map_err(|problem| refused(&format!("acls[{i}]"), problem))?;
        }
        match &self.context {
            Some(context) => context.check().map_err(|refused| refused.within("context")),
            None => Ok(()),
        }
    }
}

impl SelinuxContext {
    fn check(&self) -> Result<(), SpecRefused> {
        check_label(&self.kind).map_err(|problem| refused("type", problem))?;
        if let Some(user) = &self.user {
            check_label(user).map_err(|problem| refused("name", problem))?;
        }
        if let Some(range) = &self.range {
            let form = normalise_range(range).map_err(|problem| refused("range", problem))?;
            if form != *range {
                return Err(refused("range", format!("is written '{form}'")));
            }
        }
        Ok(())
    }
}

impl SpecRefused {
    fn within(self, outer: &str) -> Self {
        Self { key: format!("{outer}.{}", self.key), problem: self.problem }
    }
}

fn refused(key: &str, problem: impl Into<String>) -> SpecRefused {
    SpecRefused { key: key.into(), problem: problem.into() }
}

fn check_count(key: &str, got: usize, max: usize) -> Result<(), SpecRefused> {
    if got > max {
        return Err(refused(key, format!("has {got} elements; at most {max} are allowed")));
    }
    Ok(())
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern.len() > PATH_COMPONENT_BYTES_MAX || pattern.chars().any(char::is_control) {
        return Err(format!(
            "'{}' is not a pattern of names: at most {PATH_COMPONENT_BYTES_MAX} bytes and no \
             control characters",
            shown(pattern)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::LifecycleEvent;

    fn script() -> Script {
        Script { sudo: false, runas: None, location: "run.sh".into(), timeout_seconds: 60 }
    }

    fn hooks(event: LifecycleEvent, count: usize) -> EventHooks {
        EventHooks { event, scripts: vec![script(); count] }
    }

    fn mapping() -> FileMapping {
        FileMapping { source: "web".into(), destination: "/srv/web".into() }
    }

    fn permission() -> Permission {
        Permission {
            acls: vec!["u:bob:7".into()],
            mode: Some(0o7777),
            group: Some("web".into()),
            owner: None,
            except: vec!["*.log".into()],
            object: "/srv/web".into(),
            context: None,
            pattern: "**".into(),
            on_files: true,
            on_directories: true,
        }
    }

    fn judge(spec: &AppSpec) -> Result<(), String> {
        let kind_of = |path: &str| match path {
            "run.sh" => Some(PathKind::File),
            "web" => Some(PathKind::Directory),
            "link" => Some(PathKind::Symlink),
            _ => None,
        };
        spec.check(&kind_of).map_err(|refused| refused.to_string())
    }

    fn judge_script(change: impl FnOnce(&mut Script)) -> Result<(), String> {
        let mut spec =
            AppSpec { hooks: vec![hooks(LifecycleEvent::AfterInstall, 1)], ..AppSpec::default() };
        change(&mut spec.hooks[0].scripts[0]);
        judge(&spec)
    }

    fn judge_permission(change: impl FnOnce(&mut Permission)) -> Result<(), String> {
        let mut spec = AppSpec { permissions: vec![permission()], ..AppSpec::default() };
        change(&mut spec.permissions[0]);
        judge(&spec)
    }

    #[test]
    fn scripts_are_files_of_the_revision_with_a_bounded_timeout() {
        assert_eq!(judge_script(|_| ()), Ok(()));
        for bad in ["web", "link", "missing", "../run.sh", "/run.sh", "", "./run.sh"] {
            let problem = judge_script(|script| script.location = bad.into()).unwrap_err();
            assert!(problem.starts_with("hooks.AfterInstall[0].location: "), "{problem}");
        }
        let longest = u32::try_from(HOOK_TIMEOUT_MAX.as_secs()).unwrap();
        assert!(judge_script(|script| script.timeout_seconds = longest).is_ok());
        for bad in [0, longest + 1, u32::MAX] {
            assert!(judge_script(|script| script.timeout_seconds = bad).is_err());
        }
        assert!(judge_script(|script| script.runas = Some("-c".into())).is_err());
    }

    #[test]
    fn events_come_in_order_each_once_and_only_where_scripts_run() {
        use LifecycleEvent::{AfterInstall, ApplicationStart, ApplicationStop, Install};
        let judge_events = |events: &[(LifecycleEvent, usize)]| {
            let hooks = events.iter().map(|(event, count)| hooks(*event, *count)).collect();
            judge(&AppSpec { hooks, ..AppSpec::default() })
        };
        assert!(judge_events(&[(ApplicationStop, 1), (AfterInstall, 2)]).is_ok());
        assert!(judge_events(&[(AfterInstall, 1), (ApplicationStop, 1)]).is_err());
        assert!(judge_events(&[(AfterInstall, 1), (AfterInstall, 1)]).is_err());
        assert!(judge_events(&[(Install, 1)]).is_err());
        assert!(judge_events(&[(AfterInstall, 0)]).is_err());
        assert!(judge_events(&[(AfterInstall, 60), (ApplicationStart, 4)]).is_ok());
        assert!(judge_events(&[(AfterInstall, 60), (ApplicationStart, 5)]).is_err());
    }

    #[test]
    fn mappings_go_from_the_revision_to_an_absolute_place() {
        let judge_mapping = |source: &str, destination: &str| {
            let mapping = FileMapping { source: source.into(), destination: destination.into() };
            judge(&AppSpec { files: vec![mapping], ..AppSpec::default() })
        };
        assert!(judge_mapping("", "/").is_ok());
        assert!(judge_mapping("web", "/srv").is_ok());
        for bad in ["missing", "..", "/web", "web/", "."] {
            assert!(judge_mapping(bad, "/srv").is_err(), "{bad}");
        }
        for bad in ["", "srv", "/srv/../etc", "/srv/", "~/x"] {
            assert!(judge_mapping("web", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn permissions_are_checked_field_by_field() {
        assert_eq!(judge_permission(|_| ()), Ok(()));
        assert!(judge_permission(|p| p.mode = Some(0o10000)).is_err());
        assert!(judge_permission(|p| p.object = "srv".into()).is_err());
        assert!(judge_permission(|p| p.owner = Some("a:b".into())).is_err());
        assert!(judge_permission(|p| p.pattern = "a\n".into()).is_err());
        assert!(judge_permission(|p| p.acls.push("u::7".into())).is_err());
        let context = |range: &str| {
            judge_permission(|p| {
                p.context = Some(SelinuxContext {
                    kind: "etc_t".into(),
                    user: None,
                    range: Some(range.into()),
                });
            })
        };
        assert!(context("s0:c1.c3").is_ok());
        assert!(context("s0:c1,c2,c3").is_err());
    }

    #[test]
    fn counts_are_checked_at_the_limit_and_one_past_it() {
        let files = |count| judge(&AppSpec { files: vec![mapping(); count], ..AppSpec::default() });
        assert!(files(FILE_MAPPINGS_MAX).is_ok());
        assert!(files(FILE_MAPPINGS_MAX + 1).is_err());
        let permissions = |count| {
            judge(&AppSpec { permissions: vec![permission(); count], ..AppSpec::default() })
        };
        assert!(permissions(PERMISSIONS_MAX).is_ok());
        assert!(permissions(PERMISSIONS_MAX + 1).is_err());
        let acls = |count| judge_permission(|p| p.acls = vec!["bob:7".into(); count]);
        assert!(acls(ACL_ENTRIES_MAX).is_ok());
        assert!(acls(ACL_ENTRIES_MAX + 1).is_err());
        let except = |count| judge_permission(|p| p.except = vec!["a".into(); count]);
        assert!(except(EXCEPT_PATTERNS_MAX).is_ok());
        assert!(except(EXCEPT_PATTERNS_MAX + 1).is_err());
        let pattern = |bytes| judge_permission(|p| p.pattern = "a".repeat(bytes));
        assert!(pattern(PATH_COMPONENT_BYTES_MAX).is_ok());
        assert!(pattern(PATH_COMPONENT_BYTES_MAX + 1).is_err());
    }
}

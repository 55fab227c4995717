//! Owner, group and mode of what a deployment creates, by the appspec's `permissions`.
//!
//! The rules are those of AWS's agent, with two defects mended: names are resolved before anything is
//! touched, and the owner is set before the mode, so that a set-uid bit is not lost.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use groundswell_protocol::revision::{AppSpec, Permission};
use nix::unistd::{Group, User};

use crate::install::below;

/// What one file or directory is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<u32>,
}

impl Rights {
    pub(crate) fn all(owner: u32, group: u32, mode: u32) -> Self {
        Self { owner: Some(owner), group: Some(group), mode: Some(mode) }
    }

    /// Gives them to an open file or directory: what has its name by now may be another's.
    pub(crate) fn apply(self, file: &File) -> io::Result<()> {
        if self.owner.is_some() || self.group.is_some() {
            fchown(file, self.owner, self.group)?;
        }
        match self.mode {
            Some(mode) => file.set_permissions(fs::Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }
}

/// What is created: files and directories by their targets.
pub(crate) struct Created<'a> {
    pub(crate) files: &'a [&'a Path],
    pub(crate) directories: &'a [&'a Path],
}

/// Resolves all permissions for what is created; nothing is touched yet.
pub(crate) fn resolve(
    spec: &AppSpec,
    root: &Path,
    created: &Created<'_>,
) -> Result<BTreeMap<PathBuf, Rights>, String> {
    let mut all = BTreeMap::new();
    for permission in &spec.permissions {
        let rights = rights_of(permission)?;
        for target in targets(permission, &below(root, &permission.object), created)? {
            if all.insert(target.to_path_buf(), rights).is_some() {
                let (target, object) = (target.display(), &permission.object);
                return Err(format!("permissions: {target} is set twice, last by object {object}"));
            }
        }
    }
    Ok(all)
}

fn rights_of(permission: &Permission) -> Result<Rights, String> {
    let object = &permission.object;
    if !permission.acls.is_empty() || permission.context.is_some() {
        return Err(format!(
            "permissions of {object}: acls and context are not applied by this version; remove them"
        ));
    }
    let owner = permission.owner.as_ref().map(|name| match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(format!("permissions of {object}: there is no user {name} on this host")),
    });
    let group = permission.group.as_ref().map(|name| match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(format!("permissions of {object}: there is no group {name} on this host")),
    });
    Ok(Rights {
        owner: owner.transpose()?,
        group: group.transpose()?,
        mode: permission.mode.map(u32::from),
    })
}

fn targets<'a>(
    permission: &Permission,
    object: &Path,
    created: &Created<'a>,
) -> Result<Vec<&'a Path>, String> {
    if let Some(file) = created.files.iter().find(|file| **file == object) {
        if permission.pattern != "**" || !permission.except.is_empty() {
            return Err(format!(
                "permissions of {}: it is a file, which takes no pattern and no except",
                permission.object
            ));
        }
        return Ok(if permission.on_files { vec![*file] } else { Vec::new() });
    }
    let lists =
        [(permission.on_files, created.files), (permission.on_directories, created.directories)];
    let wanted = lists.into_iter().filter(|(on, _)| *on).flat_map(|(_, list)| list.iter());
    Ok(wanted.copied().filter(|path| is_meant(permission, object, path)).collect())
}

fn is_meant(permission: &Permission, object: &Path, path: &Path) -> bool {
    path.strip_prefix(object)
        .ok()
        .and_then(Path::to_str)
        .is_some_and(|below| permission.covers(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(object: &str, pattern: &str, except: &[&str]) -> Permission {
        Permission {
            acls: Vec::new(),
            mode: Some(0o640),
            group: None,
            owner: None,
            except: except.iter().map(ToString::to_string).collect(),
            object: object.into(),
            context: None,
            pattern: pattern.into(),
            on_files: true,
            on_directories: true,
        }
    }

    fn hit(permission: Permission) -> Vec<String> {
        let files = ["/srv/a.sh", "/srv/b.txt", "/srv/sub/c.sh"].map(Path::new);
        let directories = ["/srv", "/srv/sub"].map(Path::new);
        let created = Created { files: &files, directories: &directories };
        let spec = AppSpec { permissions: vec![permission], ..AppSpec::default() };
        let rights = resolve(&spec, Path::new("/"), &created).unwrap();
        rights.keys().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn patterns_are_the_agents() {
        let all = ["/srv/a.sh", "/srv/b.txt", "/srv/sub", "/srv/sub/c.sh"];
        assert_eq!(hit(permission("/srv", "**", &[])), all);
        assert_eq!(hit(permission("/srv", "*.sh", &[])), ["/srv/a.sh"]);
        assert_eq!(hit(permission("/srv", "*", &["b*"])), ["/srv/a.sh", "/srv/sub"]);
        assert_eq!(
            hit(permission("/srv", "**", &["sub"])),
            ["/srv/a.sh", "/srv/b.txt", "/srv/sub/c.sh"]
        );
        assert_eq!(hit(permission("/srv/a.sh", "**", &[])), ["/srv/a.sh"]);
        assert_eq!(hit(permission("/elsewhere", "**", &[])), Vec::<String>::new());
    }

    #[test]
    fn unknown_names_are_refused_before_anything_is_touched() {
        let created = Created { files: &[], directories: &[] };
        for change in [
            |p: &mut Permission| p.owner = Some("no-such-user-here".into()),
            |p: &mut Permission| p.group = Some("no-such-group-here".into()),
            |p: &mut Permission| p.acls = vec!["u:x:7".into()],
        ] {
            let mut permission = permission("/srv", "**", &[]);
            change(&mut permission);
            let spec = AppSpec { permissions: vec![permission], ..AppSpec::default() };
            assert!(resolve(&spec, Path::new("/"), &created).is_err());
        }
    }
}

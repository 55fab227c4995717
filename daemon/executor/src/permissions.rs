//! Owner, group, mode, ACL and SELinux context of what a deployment creates, by the appspec's
//! `permissions`.
//!
//! The rules and what comes of them are those of AWS's agent, but names are resolved before anything is
//! touched. The agent sets the owner last, which takes a set-uid bit away; here that bit is never there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use groundswell_protocol::revision::{AppSpec, Permission, SelinuxContext};
use nix::unistd::{Group, User, getegid, geteuid};

use crate::{
    acl::{self, Acl},
    extended,
    install::below,
    label,
    place::Dir,
};

/// What one file or directory is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<u32>,
    acl: Option<Acl>,
    context: Option<SelinuxContext>,
}

impl Rights {
    /// Gives them to an open file or directory: what has its name by now may be another's. `mode` is for
    /// what is asked for no other. A new file is its maker's alone until one call gives it that, or the list in
    /// its place: nobody can open it in between who cannot in the end.
    pub(crate) fn apply(&self, file: &File, mode: u32) -> io::Result<()> {
        let is_given = self.owner.is_some() || self.group.is_some();
        if is_given {
            fchown(file, self.owner, self.group)?;
        }
        let mode = self.mode.unwrap_or(mode);
        let loses = is_given && !file.metadata()?.is_dir();
        let mode = if loses { without_set_id(mode) } else { mode };
        match &self.acl {
            Some(acl) => acl.apply(file, mode, self.mode.is_some())?,
            None => file.set_permissions(fs::Permissions::from_mode(mode))?,
        }
        self.context.as_ref().map_or(Ok(()), |context| label::apply(context, file))
    }
}

/// What a directory gives to whatever is made in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandedDown {
    group: Option<u32>,
    /// Its default ACL.
    list: Option<Vec<u8>>,
}

impl HandedDown {
    pub(crate) fn by(dir: &Dir) -> io::Result<Self> {
        let there = dir.metadata()?;
        let list = match dir.file() {
            // It is above what is looked for, and whoever deploys is not root.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            file => extended::value(&file?, acl::DEFAULT)?,
        };
        Ok(Self { group: (there.mode() & SET_GROUP != 0).then(|| there.gid()), list })
    }

    /// What a directory hands down that is made with this and gets these rights. `mode` is that of one that gets
    /// none.
    pub(crate) fn through(&self, rights: &Rights, mode: u32) -> Self {
        let mode = rights.mode.unwrap_or_else(|| self.mode(mode));
        let own = rights.group.or(self.group).unwrap_or_else(|| getegid().as_raw());
        let list = self.list.as_deref();
        let list = match &rights.acl {
            Some(acl) => acl.handed_down(list, mode, rights.mode.is_some()),
            None => self.list.clone(),
        };
        // A list takes no such bit away.
        let stays = rights.acl.is_some() && self.group.is_some();
        Self { group: (stays || mode & SET_GROUP != 0).then_some(own), list }
    }

    /// Gives a directory what it would have if it were made now, and these rights.
    pub(crate) fn renew(&self, file: &File, rights: &Rights, mode: u32) -> io::Result<()> {
        let owner = geteuid().as_raw();
        let group = self.group.unwrap_or_else(|| getegid().as_raw());
        let there = file.metadata()?;
        if (there.uid(), there.gid()) != (owner, group) {
            fchown(file, Some(owner), Some(group))?;
        }
        let list = self.list.iter().map(Vec::as_slice);
        extended::write(file, list.flat_map(|list| [(acl::ACCESS, list), (acl::DEFAULT, list)]))?;
        let mode = self.mode(mode);
        // A list takes no bit away that it does not know. Nor is it open to others meanwhile.
        let bits = file.metadata()?.mode() & 0o777 | mode & SET_GROUP;
        file.set_permissions(fs::Permissions::from_mode(bits))?;
        rights.apply(file, mode)
    }

    /// With a list the umask has no say.
    fn mode(&self, mode: u32) -> u32 {
        let mode = self.list.as_deref().map_or(mode, acl::mode_of);
        if self.group.is_some() { mode | SET_GROUP } else { mode }
    }
}

/// The bit of a directory that hands its group down.
const SET_GROUP: u32 = 0o2000;

/// The mode that is left when a file gets an owner. Without the group's right to execute it, the bit that
/// would set the group means something else.
fn without_set_id(mode: u32) -> u32 {
    mode & !0o4000 & if mode & 0o010 == 0 { !0 } else { !0o2000 }
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
) -> Result<BTreeMap<PathBuf, Arc<Rights>>, String> {
    let mut all = BTreeMap::new();
    for permission in &spec.permissions {
        let rights = Arc::new(rights_of(permission)?);
        for target in targets(permission, &below(root, &permission.object), created)? {
            let is_default = rights.acl.as_ref().is_some_and(Acl::has_default);
            if is_default && created.files.contains(&target) {
                let (target, object) = (target.display(), &permission.object);
                return Err(format!(
                    "permissions of {object}: {target} is a file, and default ACL entries are for \
                     directories"
                ));
            }
            if all.insert(target.to_path_buf(), rights.clone()).is_some() {
                let (target, object) = (target.display(), &permission.object);
                return Err(format!("permissions: {target} is set twice, last by object {object}"));
            }
        }
    }
    Ok(all)
}

fn rights_of(permission: &Permission) -> Result<Rights, String> {
    let object = &permission.object;
    let named = |problem: String| format!("permissions of {object}: {problem}");
    let acl = match permission.acls.as_slice() {
        [] => None,
        entries => Some(Acl::resolve(entries).map_err(named)?),
    };
    if permission.context.is_some() && !label::is_possible() {
        return Err(named("this host does not run SELinux: remove the context".into()));
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
        acl,
        context: permission.context.clone(),
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
            |p: &mut Permission| p.acls = vec!["u:no-such-user-here:7".into()],
        ] {
            let mut permission = permission("/srv", "**", &[]);
            change(&mut permission);
            let spec = AppSpec { permissions: vec![permission], ..AppSpec::default() };
            assert!(resolve(&spec, Path::new("/"), &created).is_err());
        }
    }

    #[test]
    fn default_entries_are_for_directories() {
        let (files, directories) = ([Path::new("/srv/a")], [Path::new("/srv/sub")]);
        let created = Created { files: &files, directories: &directories };
        let mut permission = permission("/srv", "**", &[]);
        permission.acls = vec!["d:u::7".into()];
        let judge = |permission: &Permission| {
            let spec = AppSpec { permissions: vec![permission.clone()], ..AppSpec::default() };
            resolve(&spec, Path::new("/"), &created)
        };
        let refused = judge(&permission).unwrap_err();
        assert!(refused.contains("/srv/a is a file"), "{refused}");
        permission.on_files = false;
        assert!(judge(&permission).is_ok());
    }

    #[test]
    fn a_new_file_has_the_mode_that_was_asked_for_or_its_own() {
        let list = Acl::resolve(&["u:12345:r".into()]).unwrap();
        for (given, acl, expected) in [
            (None, None, 0o2755),
            (Some(0o600), None, 0o600),
            // The bits of the group are the mask then.
            (None, Some(list.clone()), 0o2755),
            (Some(0o640), Some(list), 0o640),
        ] {
            let file = tempfile::tempfile().unwrap();
            let rights = Rights { mode: given, acl, ..Rights::default() };
            rights.apply(&file, 0o2755).unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, expected);
        }
    }

    #[test]
    fn a_file_is_open_to_nobody_before_its_list_is_set() {
        // The kernel takes no list that names this user: only what comes before the list is done.
        let list = Acl::resolve(&["u:4294967295:r".into()]).unwrap();
        for mode in [0o644, 0o6755] {
            for given in [None, Some(mode)] {
                let file = tempfile::tempfile().unwrap();
                // As it is made.
                file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
                let rights = Rights { mode: given, acl: Some(list.clone()), ..Rights::default() };
                assert!(rights.apply(&file, mode).is_err());
                assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
            }
        }
    }

    #[test]
    fn an_owner_takes_the_bits_that_make_a_file_run_as_another() {
        for (mode, left) in [(0o4755, 0o755), (0o2755, 0o755), (0o2745, 0o2745), (0o1644, 0o1644)] {
            assert_eq!(without_set_id(mode), left, "{mode:o}");
        }
    }
}

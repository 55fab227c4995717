//! Access control lists, in the form in which Linux keeps them beside a file.
//!
//! What an appspec asks for replaces the whole list, as `setfacl --set` would: owner, group and others
//! are those of the mode, and a list that names somebody and has no mask gets the group's rights for one.
//! Where a file has a list already, from the directory above, the group's bits of its mode are the mask, and
//! the group's rights are in the list.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
};

use groundswell_protocol::revision::{AclEntry, AclSubject};
use nix::unistd::{Group, User};
use rustix::{
    fs::{XattrFlags, fsetxattr},
    io::Errno,
};

use crate::extended;

/// What a `permissions` entry asks for, with accounts looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acl {
    access: BTreeMap<Tag, u16>,
    default: BTreeMap<Tag, u16>,
}

/// Whom an entry is about, in the order in which the kernel wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Other,
}

impl Acl {
    /// Looks the accounts up. The message names the entry and the account.
    pub(crate) fn resolve(entries: &[String]) -> Result<Self, String> {
        let mut acl = Self::default();
        for text in entries {
            let entry = AclEntry::parse(text)?;
            let tag = Tag::of(&entry.subject).map_err(|problem| format!("'{text}': {problem}"))?;
            let list = if entry.is_default { &mut acl.default } else { &mut acl.access };
            list.insert(tag, u16::from(entry.rights.0));
        }
        Ok(acl)
    }

    /// True if it has entries for what will be made in a directory.
    pub(crate) fn has_default(&self) -> bool {
        !self.default.is_empty()
    }

    /// The list for what will be made in a directory of this mode, which has this for its group.
    fn default_list(&self, mode: u32, group: Option<u16>) -> Option<Vec<u8>> {
        self.has_default().then(|| encode(&complete(&self.default, mode, group)))
    }

    /// The list for what will be made in a directory that it is given to as [`Self::apply`] does, and that has
    /// this list from the one above.
    pub(crate) fn handed_down(
        &self,
        inherited: Option<&[u8]>,
        mode: u32,
        was_asked_for: bool,
    ) -> Option<Vec<u8>> {
        let group = inherited.filter(|_| !was_asked_for).and_then(owning_group);
        self.default_list(mode, group)
    }

    /// Gives it to an open file or directory, in place of the list and the mode that are there; what it does
    /// not say is that of `mode`. One that was asked for is about the group, whatever the list there says.
    pub(crate) fn apply(&self, file: &File, mode: u32, was_asked_for: bool) -> io::Result<()> {
        let list = extended::value(file, ACCESS)?;
        let group = if was_asked_for { None } else { list.and_then(|list| owning_group(&list)) };
        let named = |what: &str, error: Errno| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("the {what} cannot be set: {error}"))
        };
        let access = encode(&complete(&self.access, mode, group));
        fsetxattr(file, ACCESS, &access, XattrFlags::empty()).map_err(|e| named("ACL", e))?;
        if mode & 0o7000 != 0 {
            let bits = file.metadata()?.permissions().mode() & 0o777 | mode & 0o7000;
            file.set_permissions(fs::Permissions::from_mode(bits))?;
        }
        if let Some(default) = self.default_list(mode, group) {
            return fsetxattr(file, DEFAULT, &default, XattrFlags::empty())
                .map_err(|error| named("default ACL", error));
        }
        // What a directory has from the one above it is replaced with the rest.
        extended::remove(file, DEFAULT).map_err(|error| named("default ACL", error))
    }
}

impl Tag {
    fn of(subject: &AclSubject) -> Result<Self, String> {
        Ok(match subject {
            AclSubject::Owner => Self::Owner,
            AclSubject::User(name) => Self::User(
                number_of(name, User::from_name(name).map(|user| user.map(|u| u.uid.as_raw())))
                    .ok_or_else(|| format!("there is no user {name} on this host"))?,
            ),
            AclSubject::OwningGroup => Self::OwningGroup,
            AclSubject::Group(name) => Self::Group(
                number_of(name, Group::from_name(name).map(|group| group.map(|g| g.gid.as_raw())))
                    .ok_or_else(|| format!("there is no group {name} on this host"))?,
            ),
            AclSubject::Mask => Self::Mask,
            AclSubject::Other => Self::Other,
        })
    }

    fn number_and_id(self) -> (u16, u32) {
        const NOBODY: u32 = u32::MAX;
        match self {
            Self::Owner => (0x01, NOBODY),
            Self::User(id) => (0x02, id),
            Self::OwningGroup => (0x04, NOBODY),
            Self::Group(id) => (0x08, id),
            Self::Mask => (0x10, NOBODY),
            Self::Other => (0x20, NOBODY),
        }
    }
}

/// The id of an account, which may be written as a number where no account has it for a name.
fn number_of(name: &str, found: nix::Result<Option<u32>>) -> Option<u32> {
    found.ok().flatten().or_else(|| name.parse().ok())
}

/// The list with all that it must have. The owning group's rights are those of `group`, or of the mode.
fn complete(given: &BTreeMap<Tag, u16>, mode: u32, group: Option<u16>) -> BTreeMap<Tag, u16> {
    let bits = |shift: u32| u16::try_from(mode >> shift & 0o7).unwrap_or(0);
    let mut list = given.clone();
    if list.keys().any(|tag| matches!(tag, Tag::User(_) | Tag::Group(_))) {
        list.entry(Tag::Mask).or_insert_with(|| bits(3));
    }
    // Without a mask nothing else keeps the group within what it could do before.
    let bound = if list.contains_key(&Tag::Mask) { 0o7 } else { bits(3) };
    let group = group.unwrap_or_else(|| bits(3)) & bound;
    for (tag, bits) in [(Tag::Owner, bits(6)), (Tag::OwningGroup, group), (Tag::Other, bits(0))] {
        list.entry(tag).or_insert(bits);
    }
    list
}

/// The rights of the owning group in a list.
fn owning_group(list: &[u8]) -> Option<u16> {
    rights_of(list, Tag::OwningGroup)
}

/// The bits of a mode that has this list: the mask stands for the group.
pub(crate) fn mode_of(list: &[u8]) -> u32 {
    let of = |tag| rights_of(list, tag).map(u32::from);
    let group = of(Tag::Mask).or_else(|| of(Tag::OwningGroup));
    let [owner, group, other] =
        [of(Tag::Owner), group, of(Tag::Other)].map(Option::unwrap_or_default);
    owner << 6 | group << 3 | other
}

fn rights_of(list: &[u8], tag: Tag) -> Option<u16> {
    let (wanted, _) = tag.number_and_id();
    let entries = list.get(4..).unwrap_or_default().chunks_exact(8);
    let mut entries = entries.map(|entry| {
        let short = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        (short(0), short(2))
    });
    entries.find(|(number, _)| *number == wanted).map(|(_, rights)| rights)
}

/// As the kernel keeps it: a version, then what it is about, the rights and the id of each entry.
fn encode(list: &BTreeMap<Tag, u16>) -> Vec<u8> {
    const VERSION: u32 = 2;
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, rights) in list {
        let (number, id) = tag.number_and_id();
        bytes.extend(number.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

pub(crate) const ACCESS: &str = "system.posix_acl_access";
pub(crate) const DEFAULT: &str = "system.posix_acl_default";

#[cfg(test)]
mod tests {
    use rustix::fs::fgetxattr;

    use super::*;

    fn list(file: &File, name: &str) -> Option<Vec<(u16, u16, u32)>> {
        let mut bytes = [0; 1024];
        let length = fgetxattr(file, name, &mut bytes[..]).ok()?;
        let entries = bytes[4..length].chunks(8).map(|entry| {
            let short = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            (short(0), short(2), u32::from_le_bytes(entry[4..].try_into().unwrap()))
        });
        Some(entries.collect())
    }

    fn apply(entries: &[&str], mode: u32, file: &File) {
        let entries: Vec<_> = entries.iter().map(ToString::to_string).collect();
        file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        Acl::resolve(&entries).unwrap().apply(file, mode, true).unwrap();
    }

    const ANY: u32 = u32::MAX;

    #[test]
    fn a_list_gets_what_it_lacks_from_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::open(dir.path()).unwrap();
        apply(&["u:12345:rwx", "d:u:12345:rwx"], 0o421, &file);
        let expected =
            vec![(1, 4, ANY), (2, 7, 12345), (4, 2, ANY), (0x10, 2, ANY), (0x20, 1, ANY)];
        assert_eq!(list(&file, ACCESS).as_ref(), Some(&expected));
        assert_eq!(list(&file, DEFAULT), Some(expected));
        // A mask is the group's rights only where none is given.
        apply(&["g:54321:r", "m::7"], 0o640, &file);
        let expected =
            vec![(1, 6, ANY), (4, 4, ANY), (8, 4, 54321), (0x10, 7, ANY), (0x20, 0, ANY)];
        assert_eq!(list(&file, ACCESS), Some(expected));
        assert_eq!(list(&file, DEFAULT), None);
    }

    #[test]
    fn the_bits_of_a_file_with_a_list_are_its_mask_and_not_the_groups_rights() {
        let dir = tempfile::tempdir().unwrap();
        apply(&["d:u:12345:rwx"], 0o775, &File::open(dir.path()).unwrap());
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
        let give = |entry: &str, mode_was_asked_for| {
            let acl = Acl::resolve(&[entry.to_owned()]).unwrap();
            acl.apply(&file, 0o644, mode_was_asked_for).unwrap();
            list(&file, ACCESS).unwrap()
        };
        // As getfacl shows it then: group::rwx, of which r-- is effective by the mask.
        let all = |group, mask| {
            vec![(1, 6, ANY), (2, 6, 54321), (4, group, ANY), (0x10, mask, ANY), (0x20, 4, ANY)]
        };
        assert_eq!(give("u:54321:rw", false), all(7, 4));
        assert_eq!(give("u:54321:rw", true), all(4, 4));
        // Without anybody who is named there is no mask, and the group can do no more for it.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
        Acl::default().apply(&file, 0o644, false).unwrap();
        assert_eq!(list(&file, ACCESS), None, "it is no more than the mode says");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn accounts_that_are_not_there_are_named() {
        for (entry, part) in [
            ("u:no-such-user-here:7", "no user no-such-user-here"),
            ("g:no-such-group-here:7", "no group no-such-group-here"),
        ] {
            let refused = Acl::resolve(&[entry.to_owned()]).unwrap_err();
            assert!(refused.contains(part) && refused.contains(entry), "{refused}");
        }
    }
}

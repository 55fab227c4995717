//! Extended attributes: what a file has beside its mode and owner, such as ACLs and capabilities. They are
//! carried along where a file is saved and put back.

use std::{fs::File, io};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr},
    io::Errno,
};

use crate::acl;

/// All attributes of an open file or directory; none where its file system knows none.
pub(crate) fn read(file: &File) -> io::Result<Vec<(String, Vec<u8>)>> {
    let names = match sized(|buffer| flistxattr(file, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut attributes = Vec::new();
    for name in names {
        let name = String::from_utf8_lossy(name).into_owned();
        match sized(|buffer| fgetxattr(file, name.as_str(), buffer)) {
            // Gone by now, or not for this process to see.
            Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
            value => attributes.push((name, value?)),
        }
    }
    Ok(attributes)
}

/// One attribute, if the file has it.
pub(crate) fn value(file: &File, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    match sized(|buffer| fgetxattr(file, name, buffer)) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        value => value.map(Some),
    }
}

/// Gives attributes to an open file or directory. One that it has already is not set again: what only the
/// system may set, it has set. ACLs that it has from the directory above and that are not named go.
pub(crate) fn write<'a>(
    file: &File,
    attributes: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> io::Result<()> {
    let mut inherited = vec![acl::ACCESS, acl::DEFAULT];
    for (name, value) in attributes {
        inherited.retain(|other| *other != name);
        if sized(|buffer| fgetxattr(file, name, buffer)).is_ok_and(|now| now == value) {
            continue;
        }
        fsetxattr(file, name, value, XattrFlags::empty()).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("the attribute {name} cannot be set: {error}"))
        })?;
    }
    inherited.into_iter().try_for_each(|name| Ok(remove(file, name)?))
}

/// Gives a file or directory these attributes and takes from it those that somebody else has given it since. What
/// only the system gives is left to it.
pub(crate) fn put_back<'a>(
    file: &File,
    attributes: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
) -> io::Result<()> {
    write(file, attributes.clone())?;
    let is_given = |name: &str| name.starts_with("user.") || name == CAPABILITY;
    let added = |name: &str| is_given(name) && attributes.clone().all(|(own, _)| own != name);
    let now = read(file)?.into_iter().map(|(name, _)| name);
    now.filter(|name| added(name)).try_for_each(|name| Ok(remove(file, &name)?))
}

/// Takes an attribute from an open file or directory, if it has it and can have it.
pub(crate) fn remove(file: &File, name: &str) -> Result<(), Errno> {
    match fremovexattr(file, name) {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a call writes into a buffer that is large enough for whatever the kernel has.
fn sized(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; ATTRIBUTE_BYTES_MAX];
    let length = call(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// What a program may do whoever starts it.
pub(crate) const CAPABILITY: &str = "security.capability";
/// Linux lets no name list and no value be longer.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn what_is_put_back_has_its_own_attributes_and_none_of_the_directory_above() {
        let dir = tempfile::tempdir().unwrap();
        let above = File::open(dir.path()).unwrap();
        acl::Acl::resolve(&["d:u:12345:rwx".into()]).unwrap().apply(&above, 0o755, true).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        let names = || {
            let all = read(&file).unwrap().into_iter().map(|(name, _)| name);
            all.filter(|name| !name.starts_with("security.")).collect::<Vec<_>>()
        };
        assert_eq!(names(), [acl::ACCESS], "it has an ACL from above");
        file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        write(&file, [("user.note", &b"kept"[..])].into_iter()).unwrap();
        assert_eq!(names(), ["user.note"]);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }
}

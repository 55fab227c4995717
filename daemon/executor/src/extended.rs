//! Extended attributes: what a file has beside its mode and owner, such as ACLs and capabilities. They are
//! carried along where a file is saved and put back.

use std::{fs::File, io};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr},
    io::Errno,
};

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

/// Gives attributes to an open file or directory. One that it has already is not set again: what only the
/// system may set, it has set.
pub(crate) fn write<'a>(
    file: &File,
    attributes: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> io::Result<()> {
    for (name, value) in attributes {
        if sized(|buffer| fgetxattr(file, name, buffer)).is_ok_and(|now| now == value) {
            continue;
        }
        fsetxattr(file, name, value, XattrFlags::empty()).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("the attribute {name} cannot be set: {error}"))
        })?;
    }
    Ok(())
}

/// What a call writes into a buffer that is large enough for whatever the kernel has.
fn sized(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; ATTRIBUTE_BYTES_MAX];
    let length = call(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Linux lets no name list and no value be longer.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;

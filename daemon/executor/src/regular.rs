//! Reading files that somebody else may have put there: regular ones, of bounded size, or not at all.
//!
//! The store belongs to `swelld`, and parts of the live tree to the application's user. What is
//! expected there as a file may be a link to a device, a pipe that nobody writes to, or a file
//! that grows while it is read. None of these may hold this process or fill its memory.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::fcntl::OFlag;

/// How to open what should be a regular file: without following a link and without waiting.
pub(crate) const OPEN: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// Opens a regular file to read it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    check(File::options().read(true).custom_flags(OPEN.bits()).open(path)?).map(|(file, _)| file)
}

/// Reads a regular file of at most `bytes_max` bytes.
pub(crate) fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Gives an open file back if it is a regular one, with what is known of it.
pub(crate) fn check(file: File) -> io::Result<(File, Metadata)> {
    let there = file.metadata()?;
    if there.is_file() {
        return Ok((file, there));
    }
    Err(io::Error::other("it is no regular file"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        assert_eq!(read(&at("file"), 5).unwrap(), b"12345");
        assert!(read(&at("file"), 4).unwrap_err().to_string().contains("more than 4 bytes"));
        // Each of these would hold a careless reader for ever, or fill its memory.
        mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        symlink("file", at("link")).unwrap();
        for (path, expected) in [
            (at("pipe"), "no regular file"),
            (at("zero"), "symbolic link"),
            (at("link"), "symbolic link"),
            ("/dev/zero".into(), "no regular file"),
            (dir.path().into(), "no regular file"),
        ] {
            let error = read(&path, 5).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", path.display());
        }
        assert_eq!(read(&at("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

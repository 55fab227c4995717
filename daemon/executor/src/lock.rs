//! The lock of what is deployed: the groups of a fleet hold it together, whoever deploys on this host alone
//! holds it for itself. Its text says who has it.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::regular;

/// Whether others may hold it at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hold {
    Alone,
    Together,
}

/// A lock that is held, or who holds it.
pub(crate) type Taken = Result<Flock<File>, String>;

/// Takes the lock if nobody is in the way. It is let go with the process, however that ends.
pub(crate) fn try_take(path: &Path, hold: Hold, who: &str) -> io::Result<Taken> {
    let kind = match hold {
        Hold::Alone => FlockArg::LockExclusiveNonblock,
        Hold::Together => FlockArg::LockSharedNonblock,
    };
    match Flock::lock(open(path)?, kind) {
        Ok(lock) => sign(lock, who).map(Ok),
        Err((file, Errno::EWOULDBLOCK)) => Ok(Err(holder(file)?)),
        Err((_, error)) => Err(error.into()),
    }
}

/// Takes the lock for itself, and waits for whoever has it, of whom `waiting` is told.
pub(crate) fn take_alone(
    path: &Path,
    who: &str,
    waiting: impl FnOnce(String),
) -> io::Result<Flock<File>> {
    match try_take(path, Hold::Alone, who)? {
        Ok(lock) => Ok(lock),
        Err(holder) => {
            waiting(holder);
            let lock = Flock::lock(open(path)?, FlockArg::LockExclusive);
            sign(lock.map_err(|(_, error)| error)?, who)
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    options.custom_flags(regular::OPEN.bits()).open(path)
}

fn sign(mut lock: Flock<File>, who: &str) -> io::Result<Flock<File>> {
    lock.set_len(0)?;
    lock.write_all(who.as_bytes())?;
    Ok(lock)
}

fn holder(mut file: File) -> io::Result<String> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(HOLDER_BYTES_MAX).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).escape_debug().to_string();
    // It was taken and is not signed yet.
    Ok(if text.is_empty() { "another deployment".into() } else { text })
}

const HOLDER_BYTES_MAX: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_keeps_all_others_out_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let take = |hold, who| try_take(&path, hold, who).unwrap();
        let (web, db) = (take(Hold::Together, "group web"), take(Hold::Together, "db"));
        assert!(web.is_ok() && db.is_ok());
        assert_eq!(take(Hold::Alone, "me").unwrap_err(), "db");
        drop((web, db));
        let alone = take(Hold::Alone, "a long name").unwrap();
        assert_eq!(take(Hold::Together, "db").unwrap_err(), "a long name");
        assert_eq!(take(Hold::Alone, "me").unwrap_err(), "a long name");
        drop(alone);
        drop(take_alone(&path, "me", |holder| panic!("{holder}")).unwrap());
        assert!(take(Hold::Together, "db").is_ok());
    }
}

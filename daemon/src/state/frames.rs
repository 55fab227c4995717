//! A file to which one value after the other is added, each durable with one wait for the disk.
//!
//! A frame is written at once and in one piece, so at most the last one can be torn. The file has room
//! ahead that is written already: making a frame durable changes nothing but its own bytes. Where the
//! room ends and a frame begins is known by checksums under a key that is drawn for each file: a peer
//! chooses what is in a frame, and must not choose what looks like one.
//!
//! A file is replaced whole, never shortened: what was in it once cannot be taken for what is.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// An open file.
pub(super) struct Frames {
    path: PathBuf,
    file: File,
    key: [u8; 32],
    /// Where the next frame goes, and its number.
    end: u64,
    next: u64,
    /// Up to here the file has bytes.
    room: u64,
}

/// Why a file could not be read.
pub(super) enum ReadError {
    /// The system refuses.
    Io(io::Error),
    /// It is not what was written.
    Damaged(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Frames {
    /// Puts a file with one frame where `path` says, in place of the one that may be there.
    pub(super) fn create(path: &Path, body: &[u8]) -> io::Result<Self> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let mut new = tempfile::Builder::new()
            .prefix(BESIDE)
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(dir)?;
        lock(new.as_file())?;
        new.write_all(MAGIC)?;
        new.write_all(&key)?;
        let (file, end) = (new.as_file().try_clone()?, HEAD_BYTES);
        let mut frames = Self { path: path.into(), file, key, end, next: 0, room: end };
        frames.write(body)?;
        new.persist(path).map_err(|refused| refused.error)?;
        File::open(dir)?.sync_all()?;
        Ok(frames)
    }

    /// Opens a file and hands each frame to `see`, in order.
    pub(super) fn open(
        path: &Path,
        mut see: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<Self, ReadError> {
        clear_beside(path)?;
        let file = File::options().read(true).write(true).open(path)?;
        lock(&file)?;
        let room = file.metadata()?.len();
        let mut head = [0; 2 * MAGIC.len()];
        if room < HEAD_BYTES {
            return Err(ReadError::Damaged(format!("it has {room} bytes, less than its head")));
        }
        file.read_exact_at(&mut head, 0)?;
        let (magic, key) = head.split_at(MAGIC.len());
        let key = key.try_into().unwrap_or_default();
        if magic != MAGIC {
            return Err(ReadError::Damaged("it does not begin as such a file does".into()));
        }
        let mut frames = Self { path: path.into(), file, key, end: HEAD_BYTES, next: 0, room };
        while let Some(body) = frames.read()? {
            see(&body).map_err(ReadError::Damaged)?;
            frames.end += frame_bytes(body.len());
            frames.next += 1;
        }
        // The first one was whole before the file had its name.
        if frames.next == 0 {
            return Err(ReadError::Damaged("its first frame is not whole".into()));
        }
        frames.check_rest()?;
        // What a process wrote that was killed before it waited for the disk is read all the same.
        frames.file.sync_data()?;
        Ok(frames)
    }

    /// The frame at the end, if there is a whole one.
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let Some((number, length, sum)) = self.head_at(self.end)? else { return Ok(None) };
        if number != self.next || self.end + frame_bytes(length) > self.room {
            return Ok(None);
        }
        let mut body = vec![0; length];
        self.file.read_exact_at(&mut body, self.end + FRAME_HEAD_BYTES as u64)?;
        Ok((*blake3::keyed_hash(&self.key, &body).as_bytes() == sum).then_some(body))
    }

    /// After the last whole frame there may be a torn one, which nobody relies on. A later one means
    /// that the disk has lost what it had.
    fn check_rest(&self) -> Result<(), ReadError> {
        let mut at = self.end + FRAME_HEAD_BYTES as u64;
        while at + FRAME_HEAD_BYTES as u64 <= self.room {
            if self.head_at(at)?.is_some_and(|(number, ..)| number > self.next) {
                let (frame, at) = (self.next, self.end);
                return Err(ReadError::Damaged(format!("frame {frame} at byte {at} is not whole")));
            }
            at += FRAME_HEAD_BYTES as u64;
        }
        Ok(())
    }

    /// Number, length and checksum of the frame whose head is here, if one is.
    fn head_at(&self, at: u64) -> io::Result<Option<(u64, usize, [u8; 32])>> {
        let mut head = [0; FRAME_HEAD_BYTES];
        if at + FRAME_HEAD_BYTES as u64 > self.room {
            return Ok(None);
        }
        self.file.read_exact_at(&mut head, at)?;
        let (said, check) = head.split_at(FRAME_HEAD_BYTES - CHECK_BYTES);
        // Most of what is looked at is room.
        if said[..12] == [0; 12] && *check == [0; CHECK_BYTES] {
            return Ok(None);
        }
        let good = blake3::keyed_hash(&self.key, said).as_bytes()[..CHECK_BYTES] == *check;
        let number = said[..8].try_into().map(u64::from_be_bytes).unwrap_or(0);
        let length = said[8..12].try_into().map(u32::from_be_bytes).unwrap_or(0);
        let sum = said[12..44].try_into().unwrap_or_default();
        Ok(good.then_some((number, usize::try_from(length).unwrap_or(usize::MAX), sum)))
    }

    /// Adds a frame. It is durable when this returns; if it returns an error nobody knows, and the
    /// process ends.
    pub(super) fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let too_long = || io::Error::other("what must be written down is too long");
        let length = u32::try_from(body.len()).map_err(|_| too_long())?;
        let mut frame = Vec::with_capacity(body.len() + 2 * FRAME_HEAD_BYTES);
        frame.extend_from_slice(&self.next.to_be_bytes());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(blake3::keyed_hash(&self.key, body).as_bytes());
        frame.resize(FRAME_HEAD_BYTES - CHECK_BYTES, 0);
        let check = blake3::keyed_hash(&self.key, &frame);
        frame.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        frame.extend_from_slice(body);
        let bytes = frame_bytes(body.len());
        frame.resize(FRAME_HEAD_BYTES + body.len().next_multiple_of(FRAME_HEAD_BYTES), 0);
        if self.end + bytes > self.room {
            let room = self.end + bytes + ROOM_BYTES;
            let more = usize::try_from(room - self.room).map_err(|_| too_long())?;
            self.file.write_all_at(&vec![0; more], self.room)?;
            self.room = room;
        }
        self.file.write_all_at(&frame, self.end)?;
        self.file.sync_data()?;
        self.end += bytes;
        self.next += 1;
        Ok(())
    }

    /// Reads everything once more.
    pub(super) fn read_again(
        &self,
        mut see: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), ReadError> {
        let file = self.file.try_clone()?;
        let (path, key, room) = (self.path.clone(), self.key, self.room);
        let mut again = Self { path, file, key, end: HEAD_BYTES, next: 0, room };
        while again.next < self.next {
            let lost = || ReadError::Damaged(format!("frame {} is not whole", again.next));
            let body = again.read()?.ok_or_else(lost)?;
            see(&body).map_err(ReadError::Damaged)?;
            again.end += frame_bytes(body.len());
            again.next += 1;
        }
        Ok(())
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Two daemons that write into one file would each believe what the other has promised.
fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => io::Error::other("another process uses it"),
    })
}

/// Removes files that were to be put in place when the daemon died.
fn clear_beside(path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(BESIDE) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn frame_bytes(body: usize) -> u64 {
    (FRAME_HEAD_BYTES + body.next_multiple_of(FRAME_HEAD_BYTES)) as u64
}

/// What the name of a file begins with that is to be put in place.
const BESIDE: &str = ".state-";
const MAGIC: &[u8; 32] = b"groundswell state, one frame on ";
/// Magic and key.
const HEAD_BYTES: u64 = 64;
/// A frame's head, and what frames are aligned to: a head never lies in two sectors of the disk.
const FRAME_HEAD_BYTES: usize = 64;
const CHECK_BYTES: usize = 16;
/// Written ahead at a time: a few thousand entries.
const ROOM_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
        let mut all = Vec::new();
        let opened = Frames::open(path, |body| {
            all.push(body.to_vec());
            Ok(())
        });
        match opened {
            Ok(_) => Ok(all),
            Err(ReadError::Damaged(reason)) => Err(reason),
            Err(ReadError::Io(error)) => panic!("{error}"),
        }
    }

    /// Three frames of several lengths, and where each begins.
    fn three(path: &Path) -> ([Vec<u8>; 3], [u64; 4]) {
        let bodies = [vec![1; 1], vec![2; 64], vec![3; 1000]];
        let mut frames = Frames::create(path, &bodies[0]).unwrap();
        let mut at = [HEAD_BYTES, frames.end, 0, 0];
        for (number, body) in (1..).zip(&bodies[1..]) {
            frames.write(body).unwrap();
            at[number + 1] = frames.end;
        }
        (bodies, at)
    }

    #[test]
    fn frames_are_read_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let (bodies, _) = three(&path);
        assert_eq!(read(&path).unwrap(), bodies);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // It goes on where it ended, also past its room.
        let mut frames = Frames::open(&path, |_| Ok(())).ok().unwrap();
        let long = vec![4; 3 << 20];
        frames.write(&long).unwrap();
        frames.write(b"last").unwrap();
        drop(frames);
        assert_eq!(read(&path).unwrap()[3..], [long, b"last".to_vec()]);
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let frames = Frames::create(&path, b"one").unwrap();
        let second = Frames::open(&path, |_| Ok(()));
        assert!(
            matches!(second, Err(ReadError::Io(error)) if error.to_string().contains("uses it"))
        );
        // The one that takes its place is locked as well.
        let replaced = Frames::create(&path, b"two").unwrap();
        drop(frames);
        assert!(matches!(Frames::open(&path, |_| Ok(())), Err(ReadError::Io(_))));
        drop(replaced);
        assert_eq!(read(&path).unwrap(), [b"two"]);
    }

    #[test]
    fn a_last_frame_that_is_torn_anywhere_was_never_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let (bodies, at) = three(&path);
        let whole = fs::read(&path).unwrap();
        let [.., last, end] = at.map(|at| usize::try_from(at).unwrap());
        // Any of its sectors may be the one that did not make it.
        for lost in (last..end).step_by(64) {
            let mut torn = whole.clone();
            torn[lost..end.min(lost + 64)].fill(0);
            fs::write(&path, &torn).unwrap();
            let kept = if torn == whole { &bodies[..] } else { &bodies[..2] };
            assert_eq!(read(&path).unwrap(), kept, "{lost}");
            let mut frames = Frames::open(&path, |_| Ok(())).ok().unwrap();
            frames.write(b"next").unwrap();
            drop(frames);
            assert_eq!(read(&path).unwrap().last().unwrap(), b"next", "{lost}");
        }
        // Or the end of the file.
        for length in last..end {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(&path).unwrap(), bodies[..2], "{length}");
        }
    }

    #[test]
    fn a_bit_that_flips_before_the_last_frame_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let (bodies, at) = three(&path);
        let whole = fs::read(&path).unwrap();
        let [_, _, last, _] = at.map(|at| usize::try_from(at).unwrap());
        for index in 0..last {
            let mut bad = whole.clone();
            bad[index] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            match read(&path) {
                Err(reason) => assert!(reason.contains("not"), "{index}: {reason}"),
                // Between a frame's end and the next one nobody looks.
                Ok(read) => assert_eq!(read, bodies, "{index}"),
            }
        }
    }

    #[test]
    fn what_a_peer_has_put_into_a_frame_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("f"), dir.path().join("g"));
        three(&other);
        // The bytes of frames of another file, in a frame that is torn.
        let foreign = fs::read(&other).unwrap();
        let mut frames = Frames::create(&path, b"first").unwrap();
        let torn = frames.end;
        frames.write(&foreign[..4096]).unwrap();
        drop(frames);
        let mut bytes = fs::read(&path).unwrap();
        bytes[usize::try_from(torn).unwrap()] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap(), [b"first"]);
    }
}

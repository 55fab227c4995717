//! From files to a manifest and frames, one file after the other, in constant memory.
//!
//! Contents are cut where the content says so (FastCDC), so that a later revision shares the chunks
//! that did not change. Equal chunks are kept once. Large chunks become a frame each; small ones,
//! and small files, are joined to runs so that a frame is worth a request. Where a run ends depends
//! on its chunks too: after a file that was added or changed, runs soon fall into step with those of
//! the revision before.
//!
//! The same input gives the same bytes, as long as the version of zstd is the same.

use std::collections::BTreeMap;

use fastcdc::v2020;
use thiserror::Error;

use super::{
    appspec::AppSpec,
    manifest::{Chunk, Entry, EntryKind, Frame, Manifest, ManifestRefused},
    paths::{check_relative, check_target, shown},
};
use crate::{
    ids::Digest,
    limits::{
        CHUNK_BYTES_AVG, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, FILE_TIME_SECONDS_MAX, FRAME_BYTES_MAX,
        FRAME_RAW_BYTES_MAX, MANIFEST_BYTES_MAX, REVISION_BYTES_MAX, REVISION_ENTRIES_MAX,
    },
    time::UnixSeconds,
};

/// zstd's own default: level 3 compresses faster than disks write.
const COMPRESSION_LEVEL: i32 = 3;
/// Chunks from this size on are a frame of their own.
const LARGE_CHUNK_BYTES: usize = CHUNK_BYTES_AVG as usize;
/// Runs from this size on end after the next chunk whose hash starts with three zero bits.
const RUN_BYTES_MIN: usize = 64 << 10;
/// What is read ahead. A cut looks at one chunk's length, so that any size from there on gives the
/// same chunks; a larger one moves fewer bytes about.
const WINDOW_BYTES: usize = 4 * CHUNK_MAX;
const CHUNK_MAX: usize = CHUNK_BYTES_MAX as usize;

/// Why a directory cannot become a revision.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// A path or a link that no revision may have.
    #[error("'{path}' {problem}")]
    Entry {
        /// The path, escaped.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Too much of something.
    #[error("the revision has more than {max} {what}; leave out what hosts do not need")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// The compressor failed.
    #[error("cannot compress: {0}")]
    Compress(String),
    /// All entries are fine and the whole is not.
    #[error("the revision cannot be published: {0}")]
    Refused(#[from] ManifestRefused),
}

/// A revision, once every entry was given.
#[derive(Debug)]
pub struct Published {
    /// The manifest as it is hashed, stored and sent.
    pub bytes: Vec<u8>,
    /// What it says.
    pub manifest: Manifest,
    /// The frames that were not handed out before.
    pub frames: Vec<(Frame, Vec<u8>)>,
}

/// Turns entries, given in the order of their paths, into a manifest and frames.
///
/// Calls hand out frames as they are completed. Written one after the other they are the frames of
/// the manifest, in its order.
pub struct Publisher {
    manifest: Manifest,
    /// Where each chunk is, by its hash.
    known: BTreeMap<Digest, (u32, u32)>,
    /// Raw bytes of the frame that is being filled; its index is the number of finished frames.
    run: Vec<u8>,
    file: Option<OpenFile>,
    content_bytes: u64,
    compressor: zstd::bulk::Compressor<'static>,
}

struct OpenFile {
    path: String,
    mode: u16,
    modified: UnixSeconds,
    hasher: blake3::Hasher,
    size: u64,
    chunks: Vec<Chunk>,
    /// Bytes that were not cut yet.
    window: Vec<u8>,
}

impl Publisher {
    /// Starts a revision with this appspec.
    pub fn new(spec: AppSpec) -> Result<Self, PublishError> {
        let compressor = zstd::bulk::Compressor::new(COMPRESSION_LEVEL)
            .map_err(|error| PublishError::Compress(error.to_string()))?;
        Ok(Self {
            manifest: Manifest { spec, ..Manifest::default() },
            known: BTreeMap::new(),
            run: Vec::new(),
            file: None,
            content_bytes: 0,
            compressor,
        })
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> Result<(), PublishError> {
        self.check_next(path)?;
        self.add(path.to_owned(), EntryKind::Directory);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), PublishError> {
        self.check_next(path)?;
        check_target(target).map_err(|problem| {
            entry_error(path, format!("is a link whose target '{}' {problem}", shown(target)))
        })?;
        self.add(path.to_owned(), EntryKind::Symlink { target: target.to_owned() });
        Ok(())
    }

    /// Begins a file. Of `mode` the lower nine bits are kept: nothing is published set-uid.
    pub fn begin_file(
        &mut self,
        path: &str,
        mode: u32,
        modified: UnixSeconds,
    ) -> Result<(), PublishError> {
        self.check_next(path)?;
        self.file = Some(OpenFile {
            path: path.to_owned(),
            mode: u16::try_from(mode & 0o777).expect("nine bits fit"),
            modified: modified.min(UnixSeconds(FILE_TIME_SECONDS_MAX)),
            hasher: blake3::Hasher::new(),
            size: 0,
            chunks: Vec::new(),
            window: Vec::new(),
        });
        Ok(())
    }

    /// Adds bytes to the file that was begun.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<Vec<(Frame, Vec<u8>)>, PublishError> {
        let mut file = self.file.take().expect("write follows begin_file");
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.content_bytes = self.content_bytes.saturating_add(length);
        if self.content_bytes > REVISION_BYTES_MAX {
            return Err(PublishError::TooMany { what: "bytes", max: REVISION_BYTES_MAX });
        }
        file.size += length;
        file.hasher.update(bytes);
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let room = WINDOW_BYTES - file.window.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            file.window.extend_from_slice(now);
            bytes = later;
            self.cut(&mut file, CHUNK_MAX, &mut frames)?;
        }
        self.file = Some(file);
        Ok(frames)
    }

    /// Ends the file that was begun.
    pub fn end_file(&mut self) -> Result<Vec<(Frame, Vec<u8>)>, PublishError> {
        let mut file = self.file.take().expect("end_file follows begin_file");
        let mut frames = Vec::new();
        self.cut(&mut file, 1, &mut frames)?;
        let kind = EntryKind::File {
            hash: Digest(*file.hasher.finalize().as_bytes()),
            mode: file.mode,
            size: file.size,
            chunks: file.chunks,
            modified: file.modified,
        };
        self.add(file.path, kind);
        Ok(frames)
    }

    /// Ends the revision and checks it as a host will.
    pub fn finish(mut self) -> Result<Published, PublishError> {
        assert!(self.file.is_none(), "a file was begun and not ended");
        let mut frames = Vec::new();
        self.end_run(&mut frames)?;
        self.manifest.check()?;
        let bytes = self.manifest.to_bytes();
        if bytes.len() > MANIFEST_BYTES_MAX {
            let max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
            return Err(PublishError::TooMany { what: "bytes of manifest", max });
        }
        Ok(Published { bytes, manifest: self.manifest, frames })
    }

    fn check_next(&self, path: &str) -> Result<(), PublishError> {
        assert!(self.file.is_none(), "a file was begun and not ended");
        check_relative(path).map_err(|problem| entry_error(path, problem))?;
        if let Some(last) = self.manifest.entries.last()
            && last.path.as_str() >= path
        {
            let last = shown(&last.path);
            return Err(entry_error(path, format!("must not come after '{last}'; sort by bytes")));
        }
        if self.manifest.entries.len() >= REVISION_ENTRIES_MAX {
            let max = u64::try_from(REVISION_ENTRIES_MAX).unwrap_or(u64::MAX);
            return Err(PublishError::TooMany { what: "files and directories", max });
        }
        Ok(())
    }

    fn add(&mut self, path: String, kind: EntryKind) {
        self.manifest.entries.push(Entry { kind, path });
    }

    /// Cuts chunks off the file's window while it has at least `least` bytes.
    fn cut(
        &mut self,
        file: &mut OpenFile,
        least: usize,
        frames: &mut Vec<(Frame, Vec<u8>)>,
    ) -> Result<(), PublishError> {
        let mut start = 0;
        while file.window.len() - start >= least {
            let rest = &file.window[start..];
            let bytes = &rest[..cut_point(rest)];
            file.chunks.push(self.place(bytes, frames)?);
            start += bytes.len();
        }
        file.window.drain(..start);
        Ok(())
    }

    /// Finds a chunk among those before it, or puts it into the current or the next frame.
    fn place(
        &mut self,
        bytes: &[u8],
        frames: &mut Vec<(Frame, Vec<u8>)>,
    ) -> Result<Chunk, PublishError> {
        let (hash, raw_bytes) = (Digest::of_content(bytes), length32(bytes));
        if let Some(&(frame, offset)) = self.known.get(&hash) {
            return Ok(Chunk { hash, frame, offset, raw_bytes });
        }
        let large = bytes.len() >= LARGE_CHUNK_BYTES;
        if large || self.run.len() + bytes.len() > FRAME_RAW_BYTES_MAX {
            self.end_run(frames)?;
        }
        let frame = u32::try_from(self.manifest.frames.len())
            .expect("a revision within its limit has far fewer frames");
        let offset = length32(&self.run);
        self.known.insert(hash, (frame, offset));
        self.run.extend_from_slice(bytes);
        if large || self.run.len() >= RUN_BYTES_MIN && hash.0[0] < 0x20 {
            self.end_run(frames)?;
        }
        Ok(Chunk { hash, frame, offset, raw_bytes })
    }

    fn end_run(&mut self, frames: &mut Vec<(Frame, Vec<u8>)>) -> Result<(), PublishError> {
        if self.run.is_empty() {
            return Ok(());
        }
        let bytes = self
            .compressor
            .compress(&self.run)
            .map_err(|error| PublishError::Compress(error.to_string()))?;
        assert!(bytes.len() <= FRAME_BYTES_MAX, "zstd's bound for a frame's raw bytes holds");
        let frame = Frame {
            hash: Digest::of_content(&bytes),
            bytes: length32(&bytes),
            raw_bytes: length32(&self.run),
        };
        self.run.clear();
        self.manifest.frames.push(frame.clone());
        frames.push((frame, bytes));
        Ok(())
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (entries, frames) = (self.manifest.entries.len(), self.manifest.frames.len());
        write!(f, "Publisher({entries} entries, {frames} frames)")
    }
}

/// Where the first chunk of `bytes` ends. Looks at no more than the largest chunk's length.
fn cut_point(bytes: &[u8]) -> usize {
    let window = &bytes[..bytes.len().min(CHUNK_MAX)];
    let [min, avg, max] = [CHUNK_BYTES_MIN, CHUNK_BYTES_AVG, CHUNK_BYTES_MAX]
        .map(|size| usize::try_from(size).expect("chunk sizes fit into memory"));
    let (_, end) = v2020::FastCDC::new(window, min, avg, max).cut(0, window.len());
    end
}

fn entry_error(path: &str, problem: String) -> PublishError {
    PublishError::Entry { path: shown(path), problem }
}

fn length32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("frames and chunks are below 4 GiB")
}

//! The manifest: every byte of a revision, by name and by hash.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    appspec::AppSpec,
    check, links,
    rules::{PathKind, SpecRefused},
};
use crate::{
    cbor::{self, DecodeError},
    ids::{Digest, HashDomain},
    limits::MANIFEST_BYTES_MAX,
    time::UnixSeconds,
    trust::Release,
};

/// The content of a revision. Its hash is the revision's id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What to do with the files.
    pub spec: AppSpec,
    /// Signed patches against files of earlier revisions, sorted by file, base and place; taken only
    /// where a host has the base.
    pub deltas: Vec<Delta>,
    /// The units of transfer, in the order of first use.
    pub frames: Vec<Frame>,
    /// Files, directories and symlinks, sorted by path, each path once, parents before children.
    pub entries: Vec<Entry>,
}

/// A file, directory or symlink of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its path in the revision: components joined by `/`, none of them empty, `.` or `..`.
    pub path: String,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// BLAKE3 of the content.
        hash: Digest,
        /// The lower nine permission bits.
        mode: u16,
        /// Length in bytes.
        size: u64,
        /// The content, in order.
        chunks: Vec<Chunk>,
        /// When it was last changed.
        modified: UnixSeconds,
    },
    /// A symbolic link that does not leave the revision.
    Symlink {
        /// Where it points, relative to its own directory.
        target: String,
    },
}

/// A piece of a file and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// BLAKE3 of the raw bytes.
    pub hash: Digest,
    /// Index into the manifest's frames.
    pub frame: u32,
    /// Where the raw bytes start in the decompressed frame.
    pub offset: u32,
    /// Length of the raw bytes.
    pub raw_bytes: u32,
}

/// A unit of transfer: one chunk, or a run of small ones, compressed once by the publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// BLAKE3 of the compressed bytes: the frame's name.
    pub hash: Digest,
    /// Length of the compressed bytes.
    pub bytes: u32,
    /// Length of the raw bytes.
    pub raw_bytes: u32,
}

/// A patch that makes a part of one file out of a part of another. The patches from one base to one
/// file make all of it, so that a file of any size is made in bounded memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// BLAKE3 of the whole file that must be there.
    pub base: Digest,
    /// BLAKE3 of the whole file that it makes a part of.
    pub file: Digest,
    /// The patch, in units of transfer.
    pub frames: Vec<Frame>,
    /// Length of the base's part, which decoding refers to.
    pub base_bytes: u64,
    /// Length of the part that it makes.
    pub file_bytes: u64,
    /// The window that decoding needs, as a power of two.
    pub window_log: u8,
    /// Where the base's part begins.
    pub base_offset: u64,
    /// Where the part that it makes begins.
    pub file_offset: u64,
}

/// Why a manifest was not accepted. The publisher broke a rule, or the bytes are not what it wrote.
/// Paths are shown escaped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestRefused {
    /// Not the one form of a manifest.
    #[error("manifest: {0}")]
    Malformed(#[from] DecodeError),
    /// Not the manifest that the release names.
    #[error("the manifest's {what} is {got}, and the release names {expected}; fetch it again")]
    OtherThanReleased {
        /// What differs.
        what: &'static str,
        /// What the release says.
        expected: String,
        /// What the manifest has.
        got: String,
    },
    /// More of something than is allowed.
    #[error("the revision has {got} {what}; at most {max} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: u64,
        /// How much there is, or as much as was counted.
        got: u64,
    },
    /// An entry breaks a rule.
    #[error("'{path}' {problem}")]
    Entry {
        /// The path, escaped.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A frame breaks a rule.
    #[error("frame {index} {problem}")]
    Frame {
        /// Its index.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A patch breaks a rule.
    #[error("delta {index} {problem}")]
    Delta {
        /// Its index.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The typed appspec breaks a rule.
    #[error("appspec: {0}")]
    Spec(#[from] SpecRefused),
}

impl Manifest {
    /// Reads a manifest and checks every rule. The caller compares its hash with a release's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestRefused> {
        let manifest: Self = cbor::decode(bytes, MANIFEST_BYTES_MAX)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads the manifest that `release` vouches for: same hash, same lengths, every rule kept.
    pub fn of_release(bytes: &[u8], release: &Release) -> Result<Self, ManifestRefused> {
        let same = |what, expected: String, got: String| {
            if expected == got {
                return Ok(());
            }
            Err(ManifestRefused::OtherThanReleased { what, expected, got })
        };
        same("length", release.manifest_bytes.to_string(), bytes.len().to_string())?;
        same("hash", release.manifest.to_string(), Self::id_of(bytes).to_string())?;
        let manifest = Self::from_bytes(bytes)?;
        let total = manifest.total_bytes().to_string();
        same("total of file sizes", release.content_bytes.to_string(), total)?;
        Ok(manifest)
    }

    /// Checks every rule that can be checked without the frames.
    pub fn check(&self) -> Result<(), ManifestRefused> {
        check::check(self)
    }

    /// The bytes that are hashed, stored and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// The revision's id, from the manifest's bytes.
    pub fn id_of(bytes: &[u8]) -> Digest {
        Digest::of(HashDomain::Manifest, &[bytes])
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.kind.size()))
    }

    /// Compressed bytes of all frames together: what a host without any of them must fetch.
    pub fn transfer_bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.bytes)).sum()
    }

    /// The entry at `path`.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        let found = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
        found.ok().map(|index| &self.entries[index])
    }

    /// The path in this revision that `path` leads to when the links on its way are followed. The same path
    /// where that leads nowhere.
    pub fn resolve(&self, path: &str) -> String {
        let is_direct =
            self.entry(path).is_some_and(|e| !matches!(e.kind, EntryKind::Symlink { .. }));
        let resolved = if is_direct { None } else { links::resolve(&self.entries, path) };
        let resolved = resolved.filter(|resolved| self.entry(resolved).is_some());
        resolved.unwrap_or_else(|| path.to_owned())
    }

    /// What there is at `path`. Links are followed: one that leads nowhere is what there is.
    pub fn kind_of(&self, path: &str) -> Option<PathKind> {
        self.entry(&self.resolve(path)).map(|entry| match entry.kind {
            EntryKind::Directory => PathKind::Directory,
            EntryKind::File { .. } => PathKind::File,
            EntryKind::Symlink { .. } => PathKind::Symlink,
        })
    }
}

impl EntryKind {
    /// The size of a file; nothing else has one.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Directory | Self::Symlink { .. } => 0,
        }
    }

    /// The chunks of a file; nothing else has any.
    pub fn chunks(&self) -> &[Chunk] {
        match self {
            Self::File { chunks, .. } => chunks,
            Self::Directory | Self::Symlink { .. } => &[],
        }
    }
}

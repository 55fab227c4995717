//! The manifest: every byte of a revision, by name and by hash.

use serde::{Deserialize, Serialize};

use super::appspec::AppSpec;
use crate::{
    cbor,
    ids::{Digest, HashDomain},
    time::UnixSeconds,
};

/// The content of a revision. Its hash is the revision's id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What to do with the files.
    pub spec: AppSpec,
    /// Signed patches against files of earlier revisions; taken only where a host has the base.
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

/// A patch that makes one file out of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// BLAKE3 of the file that must be there.
    pub base: Digest,
    /// BLAKE3 of the file that it makes.
    pub file: Digest,
    /// The patch, in units of transfer.
    pub frames: Vec<Frame>,
    /// Length of the base file.
    pub base_bytes: u64,
    /// The window that decoding needs, as a power of two.
    pub window_log: u8,
}

impl Manifest {
    /// The bytes that are hashed, stored and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// The revision's id, from the manifest's bytes.
    pub fn id_of(bytes: &[u8]) -> Digest {
        Digest::of(HashDomain::Manifest, &[bytes])
    }
}

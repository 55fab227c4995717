//! Laying a revision out beside what runs. The live tree is not touched.

use std::{
    fs::{self, File, FileTimes},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
    time::{Duration, SystemTime},
};

use groundswell_protocol::{
    ids::Digest,
    limits::{FRAME_BYTES_MAX, FRAME_RAW_BYTES_MAX},
    revision::{Chunk, EntryKind, Frame, Manifest, chunk_of},
};

use crate::config::Config;

/// Writes the revision's files to `archive`, each byte checked. All of it is there, durably, or
/// nothing.
pub(crate) fn lay_out(config: &Config, manifest: &Manifest, archive: &Path) -> Result<(), String> {
    if archive.is_dir() {
        return Ok(());
    }
    let part = archive.with_extension("part");
    let work = || -> io::Result<()> {
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(&part)?;
        let mut frames = Frames { config, manifest, raw: None };
        for entry in &manifest.entries {
            write_entry(&mut frames, &entry.kind, &part.join(&entry.path))?;
        }
        let dir = File::open(&part)?;
        nix::unistd::syncfs(&dir)?;
        fs::rename(&part, archive)?;
        archive.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    work().map_err(|error| {
        // What was half laid out is of no use, and takes space that may be what was missing.
        drop(fs::remove_dir_all(&part));
        format!("the revision cannot be laid out in {}: {error}", archive.display())
    })
}

fn write_entry(frames: &mut Frames<'_>, kind: &EntryKind, path: &Path) -> io::Result<()> {
    match kind {
        EntryKind::Directory => fs::create_dir(path),
        EntryKind::Symlink { target } => symlink(target, path),
        EntryKind::File { hash, mode, chunks, modified, .. } => {
            let mut options = File::options();
            let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
            let mut hasher = blake3::Hasher::new();
            for chunk in chunks {
                let bytes = frames.chunk(chunk)?;
                hasher.update(bytes);
                file.write_all(bytes)?;
            }
            if Digest(*hasher.finalize().as_bytes()) != *hash {
                return Err(io::Error::other("a file does not have the hash that it should"));
            }
            // A script that its owner may read is one that it may run; hosts check no more.
            file.set_permissions(fs::Permissions::from_mode(u32::from(*mode)))?;
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(modified.0);
            file.set_times(FileTimes::new().set_modified(at))
        }
    }
}

/// Frames of the store, the last one kept decompressed: chunks mostly follow each other.
struct Frames<'a> {
    config: &'a Config,
    manifest: &'a Manifest,
    raw: Option<(u32, Vec<u8>)>,
}

impl Frames<'_> {
    fn chunk(&mut self, chunk: &Chunk) -> io::Result<&[u8]> {
        if self.raw.as_ref().is_none_or(|(index, _)| *index != chunk.frame) {
            let index = usize::try_from(chunk.frame).unwrap_or(usize::MAX);
            let frame = self.manifest.frames.get(index);
            let frame = frame.ok_or_else(|| io::Error::other("a chunk is in no frame"))?;
            self.raw = Some((chunk.frame, self.open(frame)?));
        }
        let (_, raw) = self.raw.as_ref().ok_or_else(|| io::Error::other("no frame"))?;
        chunk_of(raw, chunk).map_err(io::Error::other)
    }

    fn open(&self, frame: &Frame) -> io::Result<Vec<u8>> {
        let path = self.config.frame_file(&frame.hash);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("frame {}: {error}", path.display()))
        };
        let length = fs::metadata(&path).map_err(named)?.len();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::other(format!("frame {} is too long", path.display())));
        }
        let bytes = fs::read(&path).map_err(named)?;
        if Digest::of_content(&bytes) != frame.hash {
            return Err(io::Error::other(format!("frame {} is damaged", path.display())));
        }
        let raw_bytes = usize::try_from(frame.raw_bytes).unwrap_or(usize::MAX);
        let raw =
            zstd::bulk::decompress(&bytes, raw_bytes.min(FRAME_RAW_BYTES_MAX)).map_err(named)?;
        if raw.len() == raw_bytes {
            return Ok(raw);
        }
        Err(io::Error::other(format!("frame {} has another length", path.display())))
    }
}

//! The rules that a manifest must keep, whoever signed it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    links,
    manifest::{Chunk, Delta, Entry, EntryKind, Frame, Manifest, ManifestRefused},
    paths::{check_relative, check_target, parent, shown},
};
use crate::{
    ids::Digest,
    limits::{
        CHUNK_BYTES_MAX, FILE_TIME_SECONDS_MAX, FRAME_BYTES_MAX, FRAME_RAW_BYTES_MAX,
        REVISION_BYTES_MAX, REVISION_ENTRIES_MAX,
    },
    time::UnixSeconds,
};

/// Windows that a patch may ask of the decoder: zstd's own bounds for what it does unasked.
const WINDOW_LOGS: std::ops::RangeInclusive<u8> = 10..=27;

pub(super) fn check(manifest: &Manifest) -> Result<(), ManifestRefused> {
    if manifest.entries.len() > REVISION_ENTRIES_MAX {
        return Err(ManifestRefused::TooMany {
            what: "entries",
            max: u64_of(REVISION_ENTRIES_MAX),
            got: u64_of(manifest.entries.len()),
        });
    }
    check_frames(&manifest.frames)?;
    check_entries(manifest)?;
    check_content(manifest)?;
    links::check(&manifest.entries).map_err(|(entry, problem)| entry.refused(problem))?;
    check_deltas(manifest)?;
    Ok(manifest.spec.check(&|path| manifest.kind_of(path))?)
}

fn check_frames(frames: &[Frame]) -> Result<(), ManifestRefused> {
    let mut seen = BTreeSet::new();
    for (index, frame) in frames.iter().enumerate() {
        let refused = |problem| ManifestRefused::Frame { index, problem };
        check_frame(frame).map_err(refused)?;
        if !seen.insert(frame.hash) {
            return Err(refused("is listed twice".into()));
        }
    }
    Ok(())
}

fn check_frame(frame: &Frame) -> Result<(), String> {
    let within = |got: u32, max: usize| got > 0 && u64::from(got) <= u64_of(max);
    if !within(frame.bytes, FRAME_BYTES_MAX) {
        return Err(format!("has 1 to {FRAME_BYTES_MAX} bytes, not {}", frame.bytes));
    }
    if !within(frame.raw_bytes, FRAME_RAW_BYTES_MAX) {
        return Err(format!("has 1 to {FRAME_RAW_BYTES_MAX} raw bytes, not {}", frame.raw_bytes));
    }
    Ok(())
}

/// Paths, their order, their parents, and what can be said about an entry by itself.
fn check_entries(manifest: &Manifest) -> Result<(), ManifestRefused> {
    let entries = &manifest.entries;
    for (index, entry) in entries.iter().enumerate() {
        check_relative(&entry.path).map_err(|problem| entry.refused(problem))?;
        if index > 0 && entries[index - 1].path >= entry.path {
            let before = shown(&entries[index - 1].path);
            return Err(entry.refused(format!("must not come after '{before}'")));
        }
        // Only what comes before was seen to be in order; the parent is there or nowhere.
        if let Some(parent) = parent(&entry.path) {
            let found = entries[..index].binary_search_by(|other| other.path.as_str().cmp(parent));
            let kind = found.ok().map(|at| &entries[at].kind);
            if !matches!(kind, Some(EntryKind::Directory)) {
                let parent = shown(parent);
                return Err(entry.refused(format!("lies in '{parent}', which is no directory")));
            }
        }
        match &entry.kind {
            EntryKind::Directory => Ok(()),
            EntryKind::Symlink { target } => check_target(target)
                .map_err(|problem| format!("is a link whose target '{}' {problem}", shown(target))),
            EntryKind::File { mode, modified, .. } => check_attributes(*mode, *modified),
        }
        .map_err(|problem| entry.refused(problem))?;
    }
    Ok(())
}

fn check_attributes(mode: u16, modified: UnixSeconds) -> Result<(), String> {
    if mode & !0o777 != 0 {
        return Err(format!("has the mode {mode:o}; only the lower nine bits are allowed"));
    }
    if modified.0 > FILE_TIME_SECONDS_MAX {
        return Err("was changed after the year 9999".into());
    }
    Ok(())
}

/// Chunks against their files and frames. Frames are numbered in the order of their first use,
/// which makes "all are used" one comparison.
fn check_content(manifest: &Manifest) -> Result<(), ManifestRefused> {
    let (mut total, mut frames_used) = (0_u64, 0_usize);
    for entry in &manifest.entries {
        let EntryKind::File { hash, size, chunks, .. } = &entry.kind else { continue };
        total = total.saturating_add(*size);
        if total > REVISION_BYTES_MAX {
            let (what, max) = ("bytes", REVISION_BYTES_MAX);
            return Err(ManifestRefused::TooMany { what, max, got: total });
        }
        let mut sum = 0_u64;
        for (index, chunk) in chunks.iter().enumerate() {
            check_chunk(chunk, &manifest.frames, &mut frames_used)
                .map_err(|problem| entry.refused(format!("has a chunk {index} that {problem}")))?;
            sum = sum.saturating_add(u64::from(chunk.raw_bytes));
        }
        if sum != *size {
            let problem = format!("has {size} bytes and chunks of {sum} bytes together");
            return Err(entry.refused(problem));
        }
        let whole = match chunks.as_slice() {
            [] => Some(Digest::of_content(b"")),
            [one] => Some(one.hash),
            _ => None,
        };
        if whole.is_some_and(|whole| whole != *hash) {
            return Err(entry.refused("has another hash than its only content".into()));
        }
    }
    if frames_used < manifest.frames.len() {
        let problem = "is used by no file".into();
        return Err(ManifestRefused::Frame { index: frames_used, problem });
    }
    Ok(())
}

fn check_chunk(chunk: &Chunk, frames: &[Frame], frames_used: &mut usize) -> Result<(), String> {
    if !(1..=CHUNK_BYTES_MAX).contains(&chunk.raw_bytes) {
        return Err(format!("has 1 to {CHUNK_BYTES_MAX} raw bytes, not {}", chunk.raw_bytes));
    }
    let index = usize::try_from(chunk.frame).unwrap_or(usize::MAX);
    let Some(frame) = frames.get(index) else {
        return Err(format!("is in frame {index} of {}", frames.len()));
    };
    if index > *frames_used {
        return Err(format!("is in frame {index} before frame {frames_used} was used"));
    }
    *frames_used = (*frames_used).max(index + 1);
    let end = u64::from(chunk.offset) + u64::from(chunk.raw_bytes);
    if end > u64::from(frame.raw_bytes) {
        return Err(format!("ends at {end} of the {} bytes of its frame", frame.raw_bytes));
    }
    Ok(())
}

/// The patches of one file and base follow each other and make the whole file.
fn check_deltas(manifest: &Manifest) -> Result<(), ManifestRefused> {
    let sizes: BTreeMap<&Digest, u64> = manifest
        .entries
        .iter()
        .filter_map(|entry| Some((entry.file_hash()?, entry.kind.size())))
        .collect();
    let key = |delta: &'_ Delta| (delta.file, delta.base);
    for (index, delta) in manifest.deltas.iter().enumerate() {
        let refused = |problem: String| ManifestRefused::Delta { index, problem };
        let size = sizes.get(&delta.file).copied();
        let size =
            size.ok_or_else(|| refused("makes a file that the revision does not have".into()))?;
        check_delta(delta).map_err(refused)?;
        let before = index.checked_sub(1).map(|before| &manifest.deltas[before]);
        let expected = match before {
            Some(before) if key(before) == key(delta) => before.file_offset + before.file_bytes,
            Some(before) if key(before) > key(delta) => {
                return Err(refused("is not in the order of file and base".into()));
            }
            _ => 0,
        };
        if delta.file_offset != expected {
            let got = delta.file_offset;
            return Err(refused(format!("begins at {got} where {expected} comes next")));
        }
        let end = delta.file_offset.saturating_add(delta.file_bytes);
        let goes_on = manifest.deltas.get(index + 1).is_some_and(|next| key(next) == key(delta));
        if end > size || (end < size && !goes_on) {
            return Err(refused(format!("ends at {end} of the {size} bytes of its file")));
        }
    }
    Ok(())
}

fn check_delta(delta: &Delta) -> Result<(), String> {
    if delta.base == delta.file {
        return Err("makes a file out of itself".into());
    }
    if delta.base_offset.saturating_add(delta.base_bytes) > REVISION_BYTES_MAX {
        return Err(format!("has a base of more than {REVISION_BYTES_MAX} bytes"));
    }
    if delta.file_bytes == 0 {
        return Err("makes nothing".into());
    }
    if !WINDOW_LOGS.contains(&delta.window_log) {
        return Err(format!("has the window 2^{}; 2^10 to 2^27 are allowed", delta.window_log));
    }
    if delta.frames.is_empty() {
        return Err("has no frames".into());
    }
    for (at, frame) in delta.frames.iter().enumerate() {
        check_frame(frame).map_err(|problem| format!("has a frame {at} that {problem}"))?;
    }
    Ok(())
}

impl Entry {
    fn refused(&self, problem: String) -> ManifestRefused {
        ManifestRefused::Entry { path: shown(&self.path), problem }
    }

    fn file_hash(&self) -> Option<&Digest> {
        match &self.kind {
            EntryKind::File { hash, .. } => Some(hash),
            EntryKind::Directory | EntryKind::Symlink { .. } => None,
        }
    }
}

fn u64_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

//! From decompressed frames back to the pieces of files.

use thiserror::Error;

use super::manifest::Chunk;
use crate::ids::Digest;

/// A chunk is not where the manifest says it is. The frame or the disk below it is at fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChunkRefused {
    /// The frame ends before the chunk does.
    #[error(
        "frame {frame} has {got} raw bytes where the manifest has a chunk that ends at {end}; \
         fetch the frame again"
    )]
    TooShort {
        /// Index of the frame.
        frame: u32,
        /// Where the chunk ends.
        end: u64,
        /// Length of the decompressed frame.
        got: usize,
    },
    /// The bytes are not those that the publisher hashed.
    #[error(
        "the chunk at byte {offset} of frame {frame} does not have the hash that the manifest \
         names; fetch the frame again"
    )]
    OtherHash {
        /// Index of the frame.
        frame: u32,
        /// Where the chunk starts.
        offset: u32,
    },
}

/// The bytes of `chunk` in its decompressed frame, checked against its hash.
pub fn chunk_of<'a>(frame_raw: &'a [u8], chunk: &Chunk) -> Result<&'a [u8], ChunkRefused> {
    let end = u64::from(chunk.offset) + u64::from(chunk.raw_bytes);
    let range = usize::try_from(chunk.offset).ok().zip(usize::try_from(end).ok());
    let bytes = range.and_then(|(start, end)| frame_raw.get(start..end));
    let Some(bytes) = bytes else {
        return Err(ChunkRefused::TooShort { frame: chunk.frame, end, got: frame_raw.len() });
    };
    if Digest::of_content(bytes) != chunk.hash {
        return Err(ChunkRefused::OtherHash { frame: chunk.frame, offset: chunk.offset });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_found_or_refused() {
        let raw = b"0123456789";
        let chunk = Chunk { hash: Digest::of_content(b"345"), frame: 0, offset: 3, raw_bytes: 3 };
        assert_eq!(chunk_of(raw, &chunk).unwrap(), b"345");
        assert_eq!(
            chunk_of(b"0123x56789", &chunk),
            Err(ChunkRefused::OtherHash { frame: 0, offset: 3 })
        );
        assert_eq!(
            chunk_of(&raw[..5], &chunk),
            Err(ChunkRefused::TooShort { frame: 0, end: 6, got: 5 })
        );
        let far = Chunk { offset: u32::MAX, raw_bytes: u32::MAX, ..chunk };
        assert!(matches!(chunk_of(raw, &far), Err(ChunkRefused::TooShort { .. })));
    }
}

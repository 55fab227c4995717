//! The one way from bytes to values: deterministic CBOR, decoded strictly.
//!
//! Every value that crosses a process or a signature is written by [`encode`] and read by
//! [`decode`]. The decoder caps length and depth and then re-encodes what it read: bytes that are
//! not exactly what [`encode`] would write are refused. That one rule removes duplicate keys, long
//! integer forms, tags, indefinite lengths, trailing bytes and unknown fields together.

use std::io::{self, Write};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::limits::CBOR_DEPTH_MAX;

/// Why bytes were not accepted as a value. Nothing was kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More bytes than this kind of value may have.
    #[error("{got} bytes where at most {max} are allowed")]
    TooLong {
        /// The limit, in bytes.
        max: usize,
        /// The length of the input, in bytes.
        got: usize,
    },
    /// Not CBOR, nested too deeply, or not a value of the expected type.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A value of the right type, but not in its one deterministic form.
    #[error("not in deterministic form")]
    NotCanonical,
}

/// Writes `value` in its one deterministic form.
///
/// Struct fields come out in the order of their declaration; signed types declare them by length,
/// then alphabet, which is the order of RFC 8949 section 4.2.1.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to a Vec cannot fail, and no protocol type has a serializer that returns an error.
    ciborium::into_writer(value, &mut bytes).expect("protocol types always serialise");
    bytes
}

/// Reads a value of at most `bytes_max` bytes from exactly `bytes`.
pub fn decode<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLong { max: bytes_max, got: bytes.len() });
    }
    let value: T = ciborium::de::from_reader_with_recursion_limit(bytes, CBOR_DEPTH_MAX)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    // As it is written, it is compared: what came may be large enough without a copy.
    let mut left = Expected(bytes);
    match ciborium::into_writer(&value, &mut left) {
        Ok(()) if left.0.is_empty() => Ok(value),
        _ => Err(DecodeError::NotCanonical),
    }
}

/// Takes what was expected, and nothing else.
struct Expected<'a>(&'a [u8]);

impl Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pair {
        a: u32,
        b: Option<String>,
    }

    #[test]
    fn what_is_encoded_decodes() {
        let pair = Pair { a: 7, b: Some("x".into()) };
        assert_eq!(decode::<Pair>(&encode(&pair), 64).unwrap(), pair);
    }

    #[test]
    fn other_forms_of_the_same_value_are_refused() {
        // {"a": 7, "b": null} in order; keys swapped; 7 in two bytes; tagged; one byte too many.
        let good = [0xa2, 0x61, b'a', 0x07, 0x61, b'b', 0xf6];
        assert!(decode::<Pair>(&good, 64).is_ok());
        for bad in [
            &[0xa2, 0x61, b'b', 0xf6, 0x61, b'a', 0x07][..],
            &[0xa2, 0x61, b'a', 0x18, 0x07, 0x61, b'b', 0xf6],
            &[0xc1, 0xa2, 0x61, b'a', 0x07, 0x61, b'b', 0xf6],
            &[0xa2, 0x61, b'a', 0x07, 0x61, b'b', 0xf6, 0x00],
            &[0xa3, 0x61, b'a', 0x07, 0x61, b'b', 0xf6, 0x61, b'c', 0x01],
            &[0xbf, 0x61, b'a', 0x07, 0x61, b'b', 0xf6, 0xff],
        ] {
            assert!(decode::<Pair>(bad, 64).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn length_is_checked_at_the_limit_and_one_past_it() {
        let bytes = encode(&"abc".to_string());
        assert!(decode::<String>(&bytes, bytes.len()).is_ok());
        assert_eq!(
            decode::<String>(&bytes, bytes.len() - 1),
            Err(DecodeError::TooLong { max: 3, got: 4 })
        );
    }

    #[test]
    fn depth_is_bounded() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Nest(Vec<Self>);
        let nested = |depth: usize| {
            let mut bytes = vec![0x81; depth];
            bytes.push(0x80);
            bytes
        };
        assert!(decode::<Nest>(&nested(CBOR_DEPTH_MAX / 2 - 1), 1 << 20).is_ok());
        assert!(decode::<Nest>(&nested(CBOR_DEPTH_MAX + 1), 1 << 20).is_err());
        assert!(decode::<Nest>(&nested(100_000), 1 << 20).is_err());
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        let bytes = [0x5b, 0x40, 0, 0, 0, 0, 0, 0, 0];
        assert!(decode::<serde_bytes::ByteBuf>(&bytes, 1 << 20).is_err());
    }
}

//! Values on a stream: a length of four bytes in network order, then so many bytes of CBOR.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use groundswell_protocol::cbor;
use serde::{Serialize, de::DeserializeOwned};

/// Adds a frame to what is to be written.
pub(super) fn put(wire: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| invalid("a frame of 4 GiB".into()))?;
    wire.reserve(bytes.len() + 4);
    wire.extend_from_slice(&length.to_be_bytes());
    wire.extend_from_slice(bytes);
    Ok(())
}

/// Writes frames. Each write to a stream is encrypted, sent and woken up for by itself, so there is one
/// for all of them.
pub(super) async fn write(io: &mut (impl AsyncWrite + Unpin), wire: &[u8]) -> io::Result<()> {
    io.write_all(wire).await?;
    io.flush().await
}

/// Reads one frame of at most `bytes_max` bytes. Memory grows as the bytes arrive, not by what the
/// length claims.
pub(super) async fn read(
    io: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(invalid(format!("a frame of {length} bytes; at most {bytes_max} are allowed")));
    }
    let mut bytes = Vec::with_capacity(length.min(64 << 10));
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    io.take(limit).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Writes a value as one frame.
pub(super) async fn write_value<T: Serialize>(
    io: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> io::Result<()> {
    let mut wire = Vec::new();
    put(&mut wire, &cbor::encode(value))?;
    write(io, &wire).await
}

/// Reads a value of at most `bytes_max` bytes from one frame.
pub(super) async fn read_value<T: Serialize + DeserializeOwned>(
    io: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<T> {
    let bytes = read(io, bytes_max).await?;
    cbor::decode(&bytes, bytes_max).map_err(|error| invalid(error.to_string()))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

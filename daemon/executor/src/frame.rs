//! Frames on a stream: a length of four bytes, the most significant first, and so many bytes.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// Writes one frame.
pub(crate) fn write(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(bytes)
}

/// Reads one frame of at most `bytes_max`. Its first byte may be long in coming; the others have
/// `patience` together, so that half a frame does not hold a connection for ever.
pub(crate) fn read(
    stream: &mut UnixStream,
    patience: Duration,
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.set_read_timeout(None)?;
    stream.read_exact(&mut length[..1])?;
    let until = Instant::now() + patience;
    read_exact_until(stream, &mut length[1..], until)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    read_exact_until(stream, &mut bytes, until)?;
    Ok(bytes)
}

fn read_exact_until(
    stream: &mut UnixStream,
    mut buffer: &mut [u8],
    until: Instant,
) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn half_a_frame_is_not_waited_for_and_a_slow_first_byte_is() {
        const SHORT: Duration = Duration::from_millis(200);
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let reader = thread::spawn(move || [(); 2].map(|()| read(&mut here, SHORT, 4)));
        thread::sleep(SHORT * 2);
        there.write_all(&[0, 0, 0, 2, 7, 7]).unwrap();
        // Byte by byte: none is late, but together they are.
        for byte in [0, 0, 0, 4, 1, 2, 3] {
            there.write_all(&[byte]).ok();
            thread::sleep(SHORT / 4);
        }
        let [whole, half] = reader.join().unwrap();
        assert_eq!(whole.unwrap(), [7, 7]);
        let kind = half.unwrap_err().kind();
        assert!(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{kind}");
    }

    #[test]
    fn a_frame_is_as_long_as_it_may_be_and_no_longer() {
        for (bytes_max, fits) in [(3, true), (2, false)] {
            let (mut here, mut there) = UnixStream::pair().unwrap();
            write(&mut there, &[1, 2, 3]).unwrap();
            let frame = read(&mut here, Duration::from_secs(60), bytes_max);
            assert_eq!(frame.is_ok_and(|frame| frame == [1, 2, 3]), fits);
        }
    }
}

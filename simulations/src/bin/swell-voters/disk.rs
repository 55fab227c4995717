//! What the disk takes to make a few bytes durable.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, thread, time::Instant};

/// Times of `fdatasync`.
pub(crate) struct Disk {
    /// In milliseconds.
    pub(crate) syncs: Vec<f64>,
}

impl Disk {
    /// Writes the bytes of an entry into files that have room for them, and waits for the disk each
    /// time: `writers` at once, each in its own file.
    pub(crate) fn measure(dir: &Path, writers: usize) -> io::Result<Self> {
        let all: io::Result<Vec<Vec<f64>>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..writers)
                .map(|number| scope.spawn(move || write(&dir.join(format!("sync-{number}")))))
                .collect();
            let ended = writers.into_iter().map(|writer| writer.join());
            ended
                .map(|times| times.unwrap_or_else(|_| Err(io::Error::other("a writer died"))))
                .collect()
        });
        Ok(Self { syncs: all?.into_iter().flatten().collect() })
    }
}

fn write(path: &Path) -> io::Result<Vec<f64>> {
    let file = File::create(path)?;
    file.write_all_at(&vec![0; WRITES * ENTRY_BYTES], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for number in 0..WRITES {
        let begun = Instant::now();
        file.write_all_at(&[1; ENTRY_BYTES], (number * ENTRY_BYTES) as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    std::fs::remove_file(path)?;
    Ok(times)
}

const WRITES: usize = 500;
/// A request for a slot with its signature and what a log needs round it.
const ENTRY_BYTES: usize = 512;

//! Reading what is kept, to find what has rotted.
//!
//! What is rotten is removed, which others hear as [`Change::Lost`]: it comes from another host again.

use std::{fs::File, ops::Bound, sync::Arc, time::Duration};

use groundswell_protocol::ids::Digest;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::Store;
use crate::control::api;

impl Store {
    /// Reads all that is here.
    pub fn scrub(&self) -> api::Scrubbed {
        let mut scrubbed = api::Scrubbed::default();
        let mut last = None;
        while let Some((frame, bytes)) = self.frame_after(last) {
            self.read_from_disk(&frame);
            scrubbed.rotten += usize::from(!self.has_frame(&frame));
            scrubbed.frames += 1;
            scrubbed.bytes += u64::from(bytes);
            last = Some(frame);
        }
        scrubbed.rotten += self.mend_manifests();
        self.scrubbed();
        scrubbed
    }

    fn frame_after(&self, last: Option<Digest>) -> Option<(Digest, u32)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.lock().frames.range((from, Bound::Unbounded)).next().map(|(id, bytes)| (*id, *bytes))
    }

    /// Reads a frame from the disk. What the system has in memory of it would tell of no rot.
    fn read_from_disk(&self, frame: &Digest) {
        if let Ok(file) = File::open(self.frame_path(frame))
            && let Err(error) = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        {
            tracing::debug!(%error, "what is in memory of a file is not given up");
        }
        drop(self.frame(frame));
    }

    /// How many were damaged.
    fn mend_manifests(&self) -> usize {
        self.manifests().iter().filter(|manifest| self.mend_manifest(manifest)).count()
    }

    /// Writes a manifest anew whose file is damaged; true if it was. What it says is known.
    fn mend_manifest(&self, id: &Digest) -> bool {
        if self.manifest_bytes(id).is_some() {
            return false;
        }
        let Some(content) = self.manifest(id) else { return false };
        tracing::warn!(revision = id.short(), "a damaged manifest is written anew");
        if let Err(error) = self.write(&self.manifest_path(id), &content.to_bytes()) {
            tracing::warn!(%error, "it could not be");
        }
        true
    }
}

/// Reads all that is here again and again, so slowly that nobody is hurt by it.
pub async fn scrub_slowly(store: Arc<Store>, bytes_per_second: u64) {
    let mut last = None;
    loop {
        let (read, from) = (store.clone(), last);
        let next = tokio::task::spawn_blocking(move || {
            let next = read.frame_after(from);
            if let Some((frame, _)) = next {
                read.read_from_disk(&frame);
            } else {
                read.mend_manifests();
                read.scrubbed();
            }
            next
        });
        let next = next.await.ok().flatten();
        last = next.map(|(frame, _)| frame);
        let micros = next.map(|(_, bytes)| u64::from(bytes) * 1_000_000 / bytes_per_second);
        tokio::time::sleep(micros.map_or(BETWEEN_ROUNDS, Duration::from_micros)).await;
    }
}

/// What came meanwhile was verified when it came.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::{fs, sync::Mutex};

    use groundswell_protocol::revision::Manifest;

    use super::*;
    use crate::store::{Change, tests::revision};

    /// A store with one revision, two of whose frames and its manifest have rotted.
    fn rotten(dir: &std::path::Path) -> (Arc<Store>, Vec<Digest>) {
        let store = Arc::new(Store::open(dir, 1 << 30).unwrap());
        let published = revision(&["a"], 2_000_000);
        let id = Manifest::id_of(&published.bytes);
        store.put_manifest(&published.bytes, id).unwrap();
        for (frame, bytes) in &published.frames {
            store.put_frame(frame.hash, bytes).unwrap();
        }
        let mut lost = vec![published.frames[1].0.hash, published.frames[3].0.hash];
        lost.sort();
        let paths = lost.iter().map(|frame| store.frame_path(frame));
        for path in paths.chain([store.manifest_path(&id)]) {
            let mut bytes = fs::read(&path).unwrap();
            bytes[7] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        (store, lost)
    }

    #[test]
    fn what_has_rotted_is_found_and_told_and_a_manifest_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let (store, lost) = rotten(dir.path());
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = told.clone();
        store.on_change(move |change| hears.lock().unwrap().push(change));
        let frames = u64::try_from(store.survey().revisions[0].frames).unwrap();
        let scrubbed = store.scrub();
        assert_eq!((scrubbed.frames, scrubbed.rotten), (frames, 3));
        let lost: Vec<_> = lost.into_iter().map(Change::Lost).collect();
        assert_eq!(*told.lock().unwrap(), lost);
        let after = store.survey();
        assert_eq!((after.revisions[0].frames_lacking, after.rotten), (2, 2));
        assert!(after.scrubbed_at.is_some());
        assert_eq!(store.scrub().rotten, 0);
        assert_eq!(Store::open(dir.path(), 1 << 30).unwrap().manifests(), store.manifests());
    }

    #[tokio::test]
    async fn a_slow_scrub_keeps_its_rate_and_finds_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = rotten(dir.path());
        let (begun, bytes) = (std::time::Instant::now(), store.survey().bytes);
        let task = tokio::spawn(scrub_slowly(store.clone(), 4_000_000));
        while store.survey().scrubbed_at.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        task.abort();
        let took = begun.elapsed().as_secs_f64();
        let least = f64::from(u32::try_from(bytes).unwrap()) / 4_000_000.0 * 0.9;
        assert!(took >= least, "{bytes} bytes in {took} s");
        assert_eq!(store.survey().rotten, 2);
    }
}

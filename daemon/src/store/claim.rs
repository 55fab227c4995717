//! What is being imported, so that imports of the same content do not take each other's frames away.

use std::{fs, sync::Arc};

use groundswell_protocol::{ids::Digest, revision::Manifest};

use super::{Change, Store, StoreError, length_of};

/// One revision on its way in. Dropped before it is kept, it takes out of the store what neither a
/// manifest that is here nor another claim names.
pub(super) struct Claim {
    store: Arc<Store>,
    number: u64,
    manifest: Digest,
    kept: bool,
}

impl Claim {
    pub(super) fn new(store: Arc<Store>, manifest: Digest, content: Arc<Manifest>) -> Self {
        let mut held = store.lock();
        let number = held.claimed.last_key_value().map_or(0, |(last, _)| last + 1);
        held.claimed.insert(number, (manifest, content));
        drop(held);
        Self { store, number, manifest, kept: false }
    }

    /// Stores the manifest, which makes the revision known.
    pub(super) fn store(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let is_new = self.store.manifest(&self.manifest).is_none();
        self.store.put_manifest(bytes, self.manifest)?;
        if is_new {
            self.store.lock().begun.insert(self.manifest);
        }
        Ok(())
    }

    /// The revision is here, durably.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Takes the revision out again, unless it was here before or is claimed by another.
    pub(super) fn discard(mut self) -> Result<(), StoreError> {
        self.kept = false;
        self.withdraw()
    }

    fn withdraw(&mut self) -> Result<(), StoreError> {
        let mut held = self.store.lock();
        let Some((_, content)) = held.claimed.remove(&self.number) else { return Ok(()) };
        if self.kept {
            held.begun.remove(&self.manifest);
        }
        if self.kept || held.claimed.values().any(|(other, _)| *other == self.manifest) {
            return Ok(());
        }
        let stored = held.begun.remove(&self.manifest);
        if stored && held.manifests.remove(&self.manifest).is_some() {
            held.bytes = held.bytes.saturating_sub(length_of(&content.to_bytes()));
        }
        let needed = held.named();
        drop(held);
        let path = self.store.manifest_path(&self.manifest);
        if stored {
            fs::remove_file(&path).map_err(|error| StoreError::io(&path, error))?;
        }
        for frame in content.frames.iter().filter(|frame| !needed.contains(&frame.hash)) {
            self.store.remove_frame(&frame.hash);
        }
        if stored {
            // Somebody may be fetching it, and build on what the import brought.
            self.store.changed(Change::Evicted(self.manifest));
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.withdraw() {
            tracing::warn!(%error, "what was imported in part could not be removed");
        }
    }
}

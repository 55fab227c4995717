//! A `.swell` file on its way into the store, as a stream, at constant memory.

use std::sync::Arc;

use groundswell_protocol::{
    revision::{BundleError, BundleEvent, BundleReader, Manifest},
    trust::{Release, Signed, Trust, Untrusted, Verified},
};
use thiserror::Error;

use super::{Claim, Store, StoreError};

/// Why a bundle was not imported. Nothing of it was kept.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The file is damaged, cut short, or no bundle.
    #[error("the bundle {0}")]
    Bundle(#[from] BundleError),
    /// Nobody whom this fleet trusts has released it.
    #[error("the bundle's release {0}")]
    Untrusted(#[from] Untrusted),
    /// The manifest is not what the release says.
    #[error("the bundle: {0}")]
    Manifest(#[from] groundswell_protocol::revision::ManifestRefused),
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Frames went while it was imported: the disk damages what it keeps.
    #[error("{0} frames of the revision were damaged on this host's disk; push it again")]
    Rotten(usize),
}

/// What was imported. As long as this is held nobody else's failure takes any of it away.
pub struct Imported {
    /// The release.
    pub release: Verified<Release>,
    /// Bytes of frames that were not here before.
    pub new_bytes: u64,
    /// Bytes of all its frames.
    pub total_bytes: u64,
    claim: Claim,
}

impl Imported {
    /// Takes the revision out of the store again, if this import brought it: the fleet does not want
    /// it.
    pub fn discard(self) -> Result<(), StoreError> {
        self.claim.discard()
    }
}

/// One import. Dropped before it is finished, it takes back what it has stored.
pub struct Import {
    store: Arc<Store>,
    trust: Arc<Trust>,
    reader: BundleReader,
    release: Option<Verified<Release>>,
    manifest: Option<Arc<Manifest>>,
    claim: Option<Claim>,
    new_bytes: u64,
}

impl Import {
    /// Begins to import what [`Import::push`] brings.
    pub fn new(store: Arc<Store>, trust: Arc<Trust>) -> Self {
        Self {
            store,
            trust,
            reader: BundleReader::new(),
            release: None,
            manifest: None,
            claim: None,
            new_bytes: 0,
        }
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        let mut events = self.reader.push(bytes)?;
        while let Some(next) = self.take(std::mem::take(&mut events))? {
            events = next;
        }
        Ok(())
    }

    /// Works through events; a verified release makes the reader go on with more.
    fn take(&mut self, events: Vec<BundleEvent>) -> Result<Option<Vec<BundleEvent>>, ImportError> {
        for event in events {
            match event {
                BundleEvent::Release(signed) => return self.take_release(&signed).map(Some),
                BundleEvent::Manifest { bytes, .. } => {
                    let Some(release) = &self.release else { continue };
                    let manifest = Arc::new(Manifest::of_release(&bytes, release.content())?);
                    let id = release.content().manifest;
                    let mut claim = Claim::new(self.store.clone(), id, manifest.clone());
                    self.store.make_room_for(&id, &manifest)?;
                    claim.store(&bytes)?;
                    self.claim = Some(claim);
                    self.manifest = Some(manifest);
                }
                BundleEvent::Frame { index, bytes } => self.take_frame(index, &bytes)?,
                BundleEvent::End => {}
            }
        }
        Ok(None)
    }

    fn take_release(&mut self, signed: &Signed<Release>) -> Result<Vec<BundleEvent>, ImportError> {
        let release = self.trust.release(signed)?;
        let (manifest, bytes) = (release.content().manifest, release.content().manifest_bytes);
        self.release = Some(release);
        Ok(self.reader.accept_release(manifest, bytes)?)
    }

    fn take_frame(&mut self, index: usize, bytes: &[u8]) -> Result<(), ImportError> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        let hash = manifest.frames[index].hash;
        if self.store.put_frame(hash, bytes)? {
            self.new_bytes += u64::from(manifest.frames[index].bytes);
        }
        Ok(())
    }

    /// Ends the import: everything is here, and durable.
    pub fn finish(mut self) -> Result<Imported, ImportError> {
        std::mem::take(&mut self.reader).finish()?;
        let (Some(release), Some(manifest), Some(mut claim)) =
            (self.release.take(), self.manifest.take(), self.claim.take())
        else {
            return Err(BundleError::Failed.into());
        };
        let missing = self.store.missing(&manifest).len();
        if missing > 0 {
            return Err(ImportError::Rotten(missing));
        }
        self.store.sync()?;
        claim.keep();
        let total_bytes = manifest.transfer_bytes();
        Ok(Imported { release, new_bytes: self.new_bytes, total_bytes, claim })
    }
}

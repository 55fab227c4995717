//! What a release consists of: a typed manifest plus content in chunks.
//!
//! A directory with an `appspec.yml` is turned into a [`Manifest`] and compressed frames by the
//! signer; YAML is read there and nowhere else. Hosts see only the manifest, which is bounded and
//! checked, and frames, which are named by their hashes. [`BundleReader`] takes both out of one
//! file.

mod access;
mod appspec;
mod assemble;
mod bundle;
mod check;
mod eviction;
mod links;
mod manifest;
mod paths;
mod rules;

#[cfg(feature = "publish")]
mod publish;
#[cfg(feature = "publish")]
mod yaml;

pub use access::{AclEntry, AclRights, AclSubject};
pub use appspec::{
    AppSpec, EventHooks, FileExistsBehavior, FileMapping, Permission, Script, SelinuxContext,
};
pub use assemble::{ChunkRefused, chunk_of};
pub use bundle::{BUNDLE_MAGIC, BundleError, BundleEvent, BundleReader, bundle_header};
pub use eviction::{Sharing, Stored, make_way};
pub use manifest::{Chunk, Delta, Entry, EntryKind, Frame, Manifest, ManifestRefused};
pub use rules::{PathKind, SpecRefused};

#[cfg(feature = "publish")]
pub use publish::{PublishError, Published, Publisher};
#[cfg(feature = "publish")]
pub use yaml::{AppSpecError, Place, Warning};

#[cfg(all(test, feature = "publish"))]
mod hostile;
#[cfg(all(test, feature = "publish"))]
mod tests;

//! What a release consists of: a typed manifest plus content in chunks.
//!
//! A directory with an `appspec.yml` is turned into a [`Manifest`] and compressed frames by the
//! signer; YAML is read there and nowhere else. Hosts see only the manifest, which is bounded and
//! checked, and frames, which are named by their hashes.

mod appspec;
mod manifest;

pub use appspec::{
    AppSpec, EventHooks, FileExistsBehavior, FileMapping, Permission, Script, SelinuxContext,
};
pub use manifest::{Chunk, Delta, Entry, EntryKind, Frame, Manifest};

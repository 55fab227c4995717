//! An entry as those who apply it read it.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::{Entry, Stamped};
use crate::ids::{Digest, HostId};

/// An entry that was read, and its names.
pub(crate) struct Read {
    pub(crate) stamped: Stamped,
    /// [`Stamped::hash`]
    pub(crate) hash: Digest,
    /// [`Entry::submission_id`]
    pub(crate) id: Digest,
    /// The host that it says belongs to the fleet.
    pub(crate) admits: Option<HostId>,
}

impl Read {
    /// Reads the bytes of an entry; none if they are none.
    pub(crate) fn of(bytes: &Bytes) -> Option<Arc<Self>> {
        #[cfg(feature = "simulation")]
        return super::sharing::read(bytes, Self::of_anew);
        #[cfg(not(feature = "simulation"))]
        Self::of_anew(bytes)
    }

    fn of_anew(bytes: &Bytes) -> Option<Arc<Self>> {
        let stamped = Stamped::from_bytes(bytes).ok()?;
        let id = stamped.entry.submission_id();
        let admits = match &stamped.entry {
            Entry::Admit(cert) => cert.member.claim().ok().map(|member| member.host),
            _ => None,
        };
        Some(Arc::new(Self { stamped, hash: Stamped::hash(bytes), id, admits }))
    }
}

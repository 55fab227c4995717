//! What every host knows of every other: signed records, and the verdict on silent hosts.

mod record;

pub use record::{Accusation, GroupStatus, HostState, Record};

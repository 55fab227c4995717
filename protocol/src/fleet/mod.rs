//! What every host knows of every other: signed records, and the verdict on silent hosts.

mod detector;
mod overlay;
mod record;
mod roster;
mod view;

pub use detector::{Detector, Standing};
pub use overlay::{Needs, Overlay, Turn};
pub use record::{Accusation, GroupStatus, HostState, Record};
pub use roster::{BUCKETS, Number, RINGS, Roster, Way};
pub use view::{Inserted, RecordRefused, View};

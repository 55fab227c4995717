//! What every host knows of every other: signed records, how they spread, and who is silent.
//!
//! [`Roster`] says who is whose neighbour, [`Overlay`] keeps the links to them, [`Spread`] moves
//! [`Records`] over those links, [`Ears`] notice silence and [`Verdicts`] judge by what the records
//! of many ears say. Each is a state machine of its own, and so the simulator runs ten thousand of
//! them without the rest of a host.

mod bits;
mod ears;
mod marks;
mod overlay;
mod pace;
mod record;
mod records;
mod roster;
mod spread;
mod survey;
mod told;
mod verdict;
mod view;

pub use ears::Ears;
pub use overlay::{Needs, Overlay, Turn};
pub use pace::{Stall, progress_after};
pub use record::{Accusation, GroupStatus, HostState, Record};
pub use records::{Differences, Inserted, NODES, NodeHash, Records, Statement, TreeNode, Version};
pub use roster::{BUCKETS, Number, RINGS, Roster, Way};
pub use spread::{Letter, Say, Spread};
pub use verdict::{Count, Standing, Verdicts};
pub use view::{Held, RecordRefused, View};

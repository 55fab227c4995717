//! What runs on a host of the fleet: everything that `protocol` decides is done here.
//!
//! [`engine`] is the loop that carries out what the node decides. Around it: [`mesh`] connects
//! hosts, [`store`] and [`transfer`] hold and fetch revisions, [`state`] and [`home`] are what is on
//! disk, [`executor`] is the line to the process that changes the host, [`logs`] what its scripts have
//! written, [`control`] the line to people, [`journal`] what they can read afterwards. [`cli`] is `swell`; [`scratch`] starts whole
//! fleets for demonstrations and tests.

pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod engine;
pub mod executor;
pub mod home;
pub mod journal;
pub mod logs;
pub mod mesh;
pub mod scratch;
pub mod state;
pub mod store;
pub mod transfer;

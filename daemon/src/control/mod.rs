//! The control socket: HTTP and JSON on a Unix socket, between `swell` and the daemon of its host.
//!
//! The socket's permissions say who may use it, and using it gives little: everything that changes
//! the fleet carries a signature that every host checks by itself.

pub mod api;
pub mod client;
pub mod server;

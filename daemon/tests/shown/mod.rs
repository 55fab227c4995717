//! What a test says where the machine does not let it show what it is for.

use std::{
    io::{self, Write},
    thread,
};

use nix::unistd::geteuid;

/// Passes on what must be so for a test to show anything. If it is not, people are told, past the harness,
/// which keeps to itself what a test prints that passes.
pub(crate) fn shown(possible: bool, why_not: &str) -> bool {
    if !possible {
        let test = thread::current();
        let test = test.name().unwrap_or("a test");
        // What `eprintln!` prints, the harness keeps.
        let mut stderr = io::stderr().lock();
        writeln!(stderr, "NOT SHOWN: {test}: {why_not}").unwrap();
    }
    possible
}

/// The same, where it must be root that runs the test.
pub(crate) fn shown_by_root() -> bool {
    shown(geteuid().is_root(), "only root can do what it is about")
}

//! swell: the command that people type; see [`groundswell_daemon::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    groundswell_daemon::cli::main()
}

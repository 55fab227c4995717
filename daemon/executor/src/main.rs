//! swell-exec: the small root process that verifies again and changes the host.
//!
//! It has no network and no async. `swelld` asks over a Unix socket; what it asks is a closed set,
//! and every signature in it is checked here again, by this process's own trust state. Read
//! [`judge`] for what is believed, [`lifecycle`] for what is done, [`install`] for how files change.

mod acl;
mod activation;
mod clock;
mod config;
mod deployment;
#[cfg(test)]
#[path = "../../tests/disk/mod.rs"]
mod disk;
mod earlier;
mod extended;
mod frame;
mod hooks;
mod install;
mod journal;
mod judge;
mod kept;
mod label;
mod layout;
mod lifecycle;
mod local;
mod lock;
mod logs;
mod permissions;
mod place;
mod policy;
mod regular;
mod script;
mod server;
#[cfg(test)]
#[path = "../../tests/shown/mod.rs"]
mod shown;
mod space;
mod stage;
mod unit;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    end_on_panic();
    let path = match arguments() {
        Ok(Asked::Serve(path)) => path,
        Ok(Asked::Keep(socket)) => return keep(&socket),
        Ok(Asked::Local) => return local::run(),
        Ok(Asked::Nothing) => return ExitCode::SUCCESS,
        Err(message) => return fail(2, &message, "see swell-exec --help"),
    };
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(message) => return fail(64, &message, "correct the file; nothing was opened"),
    };
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(server::Failed { code, message, hint }) => fail(code, &message, hint),
    }
}

/// Runs one script, for the executor that waits at a socket. What went wrong is in the unit's journal.
fn keep(socket: &Path) -> ExitCode {
    match unit::keep(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = "swell-exec starts this for its scripts; it tells what became of them";
            fail(74, &format!("the keeper of a script at {}: {error}", socket.display()), hint)
        }
    }
}

/// Ends the process from any thread: what is on disk says where to go on.
fn give_up(reason: &str) -> ! {
    fail(74, reason, "mend the disk and start it again: it goes on where the journal says");
    #[expect(clippy::exit, reason = "a thread that cannot write the journal must end the process")]
    std::process::exit(74)
}

/// Makes a panic in any thread end the process. A thread that is gone would leave its group running
/// for ever; a process that is gone is started again, and its journal says where to go on.
fn end_on_panic() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        show(panic);
        fail(70, "this is a defect of swell-exec", "report it; when started again, it goes on");
        #[expect(clippy::exit, reason = "no thread may go on without the one that panics")]
        std::process::exit(70)
    }));
}

/// What this program was started for.
enum Asked {
    /// To serve, with these settings.
    Serve(PathBuf),
    /// To keep a script.
    Keep(PathBuf),
    /// To carry out one deployment of this host alone.
    Local,
    /// To print, which is done.
    Nothing,
}

/// There is one argument for people, the settings' path: a parser would be larger than what it parses.
fn arguments() -> Result<Asked, String> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(first) = arguments.next() else {
        return Ok(Asked::Serve("/etc/groundswell/swell-exec.toml".into()));
    };
    match (first.to_str(), arguments.next(), arguments.next()) {
        (Some("--help" | "-h"), ..) => {
            println!(
                "The executor of a Groundswell host: verifies orders again and changes the host.\n\n\
                 Usage: swell-exec [--config FILE]\n\n\
                 Exit codes: 0 stopped by a signal; 64 the configuration is wrong, nothing was \
                 opened;\n69 the socket is in use; 70 a defect; 74 reading or writing failed."
            );
            Ok(Asked::Nothing)
        }
        (Some("--version" | "-V"), ..) => {
            println!("swell-exec {}", env!("CARGO_PKG_VERSION"));
            Ok(Asked::Nothing)
        }
        (Some("--config"), Some(path), None) => Ok(Asked::Serve(path.into())),
        (Some(local::LOCAL), None, None) => Ok(Asked::Local),
        (Some(unit::KEEP), Some(socket), None) => Ok(Asked::Keep(socket.into())),
        _ => Err(format!("unexpected argument '{}'", first.to_string_lossy().escape_debug())),
    }
}

fn fail(code: u8, message: &str, hint: &str) -> ExitCode {
    eprintln!("swell-exec: error: {message}");
    eprintln!("swell-exec: hint: {hint}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    /// Runs in a process of its own, for the test below.
    #[test]
    #[ignore = "ends its process"]
    fn panics_in_a_thread() {
        super::end_on_panic();
        thread::spawn(|| panic!("planted"));
        thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a_panic_in_any_thread_ends_the_process_and_says_so() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "tests::panics_in_a_thread"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(70), "{text}");
        assert!(text.contains("planted") && text.contains("a defect of swell-exec"), "{text}");
    }
}

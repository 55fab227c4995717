//! swelld: the unprivileged daemon of a host.
//!
//! A summary of its life: read the settings, open the control socket, join the mesh, run. What it
//! decides is in `groundswell_protocol`; what it does is in [`groundswell_daemon::engine`].

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use groundswell_daemon::{
    config::{self, Settings},
    control::server,
    engine, journal,
};
use tokio::sync::{mpsc, oneshot};

/// The daemon of a Groundswell host: keeps the fleet's state, moves revisions, asks for slots.
///
/// Exit codes: 0 stopped by a signal; 4 this host has not joined a fleet; 64 the configuration is
/// wrong, nothing was opened; 69 a port or socket is in use; 74 reading or writing failed.
#[derive(Parser)]
#[command(name = "swelld", version)]
struct Arguments {
    /// The configuration file.
    ///
    /// Without it, /etc/groundswell/swelld.toml if that exists, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the configuration, say whether it is good, and end.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = match config::load(arguments.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            let hint = "correct the file and check it with `swelld --check-config`";
            return fail(config::EXIT_CODE, &error.to_string(), Some(hint));
        }
    };
    if arguments.check_config {
        println!("the settings are good");
        return ExitCode::SUCCESS;
    }
    if let Err(error) = journal::start(&settings) {
        return fail(74, &format!("the journal: {error}"), None);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One for all that is short: each message would wake the others, to find nothing to do. What takes
        // long has threads of its own.
        .worker_threads(1)
        .max_blocking_threads(8)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(settings)),
        Err(error) => fail(74, &format!("cannot start threads: {error}"), None),
    }
}

async fn run(settings: Settings) -> ExitCode {
    let (commands_in, commands) = mpsc::channel(64);
    let listener = match server::bind(&settings.control_socket, settings.control_group.as_ref()) {
        Ok(listener) => listener,
        Err(error) => return fail(69, &error.to_string(), Some(&error.hint())),
    };
    tokio::spawn(server::serve(listener, commands_in));
    // On the thread of the network: between two threads each message would be handed over by a wake-up.
    let (stop_in, stop) = oneshot::channel();
    let mut engine = tokio::spawn(engine::run(settings, commands, stop));
    let ended = tokio::select! {
        ended = &mut engine => ended,
        () = stop_signal() => {
            tracing::info!("stopped by a signal");
            // It fails if the engine has just ended, which is seen below.
            let _ = stop_in.send(());
            match tokio::time::timeout(2 * engine::LEAVES_FOR, engine).await {
                Ok(ended) => ended,
                // It may wait for its disk, or has not begun. What is on disk is whole at any time.
                Err(_) => return ExitCode::SUCCESS,
            }
        }
    };
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(error.exit_code(), &error.to_string(), error.hint().as_deref()),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

fn fail(code: u8, error: &str, hint: Option<&str>) -> ExitCode {
    eprintln!("swelld: error: {error}");
    if let Some(hint) = hint {
        eprintln!("swelld: hint: {hint}");
    }
    ExitCode::from(code)
}

//! The socket: one thread for each connection, few connections, short frames.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use groundswell_protocol::{
    cbor,
    execute::{Request, Response},
    limits::EXECUTOR_FRAME_BYTES_MAX,
};

use crate::{activation::Executor, config::Config};

/// Why the process ends.
pub(crate) struct Failed {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

/// Serves until the process is ended.
pub(crate) fn run(config: Config) -> Result<(), Failed> {
    let listener = bind(&config)?;
    let executor = Executor::open(config).map_err(|error| Failed {
        code: 74,
        message: format!("the journal: {error}"),
        hint: "restore the file, or remove it if the host is to begin anew",
    })?;
    let executor = Arc::new(executor);
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (executor, open) = (executor.clone(), open.clone());
        let thread = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
            // A connection that breaks or talks nonsense ends; the next one starts anew.
            drop(serve(stream, &executor));
            open.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = thread {
            eprintln!("swell-exec: warning: no thread for a connection: {error}");
        }
    }
    Ok(())
}

fn bind(config: &Config) -> Result<UnixListener, Failed> {
    let path = &config.socket;
    let failed = |error: io::Error| Failed {
        code: 74,
        message: format!("the socket {}: {error}", path.display()),
        hint: "check that its directory exists and belongs to this user",
    };
    match UnixStream::connect(path) {
        Ok(_) => {
            return Err(Failed {
                code: 69,
                message: format!("the socket {} is in use", path.display()),
                hint: "another swell-exec runs here; stop it",
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(path).map_err(failed)?,
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    open_to_group(path, config.socket_group.as_deref()).map_err(failed)?;
    Ok(listener)
}

fn open_to_group(path: &Path, group: Option<&str>) -> io::Result<()> {
    let Some(name) = group else {
        return fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    };
    let found = nix::unistd::Group::from_name(name)?;
    let found =
        found.ok_or_else(|| io::Error::other(format!("there is no Unix group '{name}'")))?;
    nix::unistd::chown(path, None, Some(found.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
}

fn serve(mut stream: UnixStream, executor: &Arc<Executor>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > EXECUTOR_FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes)?;
        let response = match cbor::decode(&bytes, EXECUTOR_FRAME_BYTES_MAX) {
            Ok(request) => answer(executor, request),
            Err(error) => Response::Refused { reason: format!("this is no request: {error}") },
        };
        let bytes = cbor::encode(&response);
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&bytes)?;
    }
}

fn answer(executor: &Arc<Executor>, request: Request) -> Response {
    match request {
        Request::Report { seen } => Response::Report(executor.report(seen, REPORT_PATIENCE)),
        Request::Stage(evidence) => executor.stage(&evidence),
        Request::Prepare { group, order, release } => executor.prepare(group, order, release),
        Request::Activate { evidence, token, receipts } => {
            executor.activate(&evidence, token, &receipts)
        }
        Request::Stop(order) => executor.stop(&order),
        Request::Returned { group, token } => executor.returned(&group, token),
    }
}

/// One daemon keeps one connection for reports and opens a few for requests.
const CONNECTIONS_MAX: usize = 32;
const THREAD_STACK_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
const REPORT_PATIENCE: Duration = Duration::from_secs(10);

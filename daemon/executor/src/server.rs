//! The socket: one thread for each connection, few connections, short frames.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
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
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};

use crate::{activation::Executor, config::Config, frame};

/// Why the process ends.
pub(crate) struct Failed {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

/// Serves until the process is ended.
pub(crate) fn run(config: Config) -> Result<(), Failed> {
    let listener = bind(&config)?;
    // Whoever deploys on this host alone sees by it that this root is taken.
    let logs = config.all_logs_dir();
    fs::create_dir_all(&logs).map_err(|error| Failed {
        code: 74,
        message: format!("{}: {error}", logs.display()),
        hint: "scripts are logged there, below root_dir of the settings: make it a directory that can be written to",
    })?;
    let peers = Peers::of(&config);
    let executor = Executor::open(config).map_err(|error| Failed {
        code: 74,
        message: format!("the journal: {error}"),
        hint: "put back a good copy of the file, or remove it: the host then begins anew in the group",
    })?;
    let executor = Arc::new(executor);
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if !peers.may_ask(&stream) {
            continue;
        }
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
        // A socket that nobody listens at was left by a process that was killed.
        Err(_) if fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() => {
            fs::remove_file(path).map_err(failed)?;
        }
        Err(_) => {
            return Err(Failed {
                code: 74,
                message: format!("{} is there and is no socket", path.display()),
                hint: "move it away, or name another socket in the settings",
            });
        }
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

/// Who may ask, whatever the mode of the socket lets through: root, this process's user, and `swelld`, whose
/// store this process reads.
struct Peers {
    store_dir: PathBuf,
}

impl Peers {
    fn of(config: &Config) -> Self {
        Self { store_dir: config.store_dir.clone() }
    }

    fn may_ask(&self, stream: &UnixStream) -> bool {
        getsockopt(stream, PeerCredentials).is_ok_and(|peer| self.has(peer.uid()))
    }

    /// The daemon may have made its store a moment ago, and the administrator may have put a link in its place. One
    /// that the daemon makes lets nobody in whom it could not speak for.
    fn has(&self, user: u32) -> bool {
        let daemon = || fs::metadata(&self.store_dir).map(|store| store.uid());
        user == 0 || user == geteuid().as_raw() || daemon().is_ok_and(|daemon| user == daemon)
    }
}

fn serve(mut stream: UnixStream, executor: &Arc<Executor>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    loop {
        let bytes = frame::read(&mut stream, PATIENCE, EXECUTOR_FRAME_BYTES_MAX)?;
        let response = match cbor::decode(&bytes, EXECUTOR_FRAME_BYTES_MAX) {
            Ok(request) => answer(executor, request),
            Err(error) => Response::Refused { reason: format!("this is no request: {error}") },
        };
        frame::write(&mut stream, &cbor::encode(&response))?;
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
        Request::Learn(lists) => executor.learn(&lists),
        Request::GiveUp { group, token } => executor.give_up_slot(&group, token),
        Request::Returned { group, token } => executor.returned(&group, token),
        Request::Log { deployment, offset } => executor.log(deployment, offset),
    }
}

/// One daemon keeps one connection for reports and opens a few for requests.
const CONNECTIONS_MAX: usize = 32;
const THREAD_STACK_BYTES: usize = 1 << 20;
/// How long the rest of a frame, or the taking of an answer, may be in coming.
const PATIENCE: Duration = Duration::from_secs(30);
const REPORT_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;
    use crate::shown::shown_by_root;

    #[test]
    fn t32_root_and_whose_the_store_is_may_ask_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers { store_dir: dir.path().join("store") };
        let own = geteuid().as_raw();
        // As long as there is no store.
        assert!(peers.has(0) && peers.has(own) && !peers.has(own + 12345));
        fs::create_dir(&peers.store_dir).unwrap();
        if shown_by_root() {
            lchown(&peers.store_dir, Some(12345), Some(1)).unwrap();
            assert!(peers.has(0) && peers.has(12345) && !peers.has(1));
            let linked = Peers { store_dir: dir.path().join("link") };
            symlink(&peers.store_dir, &linked.store_dir).unwrap();
            assert!(linked.has(12345) && !linked.has(1));
        }
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(peers.may_ask(&one));
    }

    #[test]
    fn only_a_socket_is_removed_to_make_room_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { socket: dir.path().join("exec.sock"), ..Config::default() };
        fs::write(&config.socket, "precious").unwrap();
        let failed = bind(&config).err().unwrap();
        assert_eq!((failed.code, failed.message.contains("is no socket")), (74, true));
        assert_eq!(fs::read_to_string(&config.socket).unwrap(), "precious");
        fs::remove_file(&config.socket).unwrap();
        drop(bind(&config).ok().unwrap());
        // It is left behind, as by a process that was killed.
        assert!(config.socket.exists());
        assert_eq!(bind(&config).err().map(|failed| failed.message), None);
    }
}

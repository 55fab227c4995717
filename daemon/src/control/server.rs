//! The daemon's side of the control socket.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    body::{Body, BodyDataStream, Bytes},
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt;
use groundswell_protocol::{
    ids::{DeploymentId, Digest, GroupName, HostId},
    limits::ENVELOPE_BYTES_MAX,
    node::NotTaken,
    rollout::Entry,
    trust::{Group as GroupSettings, Order, Signed, VoterList},
};
use nix::unistd::Group;
use thiserror::Error;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};

use super::api;
use crate::store::{Import, ImportError, Imported, StoreError};

/// What the control socket asks of the engine.
pub enum Command {
    /// The fleet.
    Fleet(oneshot::Sender<api::Fleet>),
    /// All deployments, newest first.
    Deployments(oneshot::Sender<Vec<api::Summary>>),
    /// One deployment.
    Report(DeploymentId, oneshot::Sender<Option<api::Report>>),
    /// What a deployment's scripts have written on one of its hosts, from an offset on.
    Log(DeploymentId, String, u64, oneshot::Sender<LogPart>),
    /// The settings of a group, as they were signed.
    Group(GroupName, oneshot::Sender<Option<GroupSettings>>),
    /// How the deployment has ended that this order would stop.
    StopsNothing(Signed<Order>, oneshot::Sender<Option<String>>),
    /// What is in the store.
    Store(oneshot::Sender<api::Store>),
    /// Read all that is in the store.
    Scrub(oneshot::Sender<api::Scrubbed>),
    /// Begin an import.
    Import(oneshot::Sender<Import>),
    /// A revision was imported.
    Imported(Digest),
    /// The list by which operators would let the fleet go on with this host's ledger, unsigned: these
    /// voters, of so many that there should be.
    PlanRecovery(Vec<HostId>, Option<u8>, oneshot::Sender<Result<Signed<VoterList>, String>>),
    /// Go on with this host's ledger.
    Recover(Signed<VoterList>, oneshot::Sender<Result<u64, NotTaken>>),
    /// The disk of this host was not put back. The answer is whether that was in doubt.
    TrustDisk(oneshot::Sender<bool>),
    /// Put this into the ledger.
    Submit(Box<Entry>, oneshot::Sender<Result<u64, NotTaken>>),
}

/// A part of a log; none where there is no such log. The error says why it cannot be had.
pub type LogPart = Result<Option<Vec<u8>>, String>;

/// Why the socket could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error("the control socket {} is in use: another swelld runs here", .0.display())]
    InUse(PathBuf),
    /// Something else is in its place.
    #[error("{} is there and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// Only a member of a group may give something to it.
    #[error("the control socket {} cannot be given to the group {group}: swelld is not in it", path.display())]
    NotInGroup {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: String,
    },
    /// The system refuses.
    #[error("the control socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::InUse(_) => "stop it, or give this one another control_socket".into(),
            Self::NoSocket(_) => "move it away, or name another control_socket".into(),
            Self::NotInGroup { group, .. } => format!(
                "add `SupplementaryGroups={group}` below [Service] with `systemctl edit swelld`, or \
                 change control_group"
            ),
            Self::Io { .. } => "check that its directory exists and belongs to this user".into(),
        }
    }
}

/// Opens the socket at `path` for this user, root and the members of `group`.
pub fn bind(path: &Path, group: Option<&Group>) -> Result<UnixListener, BindError> {
    let io = |source| BindError::Io { path: path.into(), source };
    // A socket that nobody answers on was left by a daemon that died.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(BindError::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) if fs::symlink_metadata(path).map_err(io)?.file_type().is_socket() => {
            fs::remove_file(path).map_err(io)?;
        }
        Err(_) => return Err(BindError::NoSocket(path.into())),
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(io)?;
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    // The group first: a moment later its members may, and nobody else's ever could.
    if let Some(Group { name, gid, .. }) = group {
        lchown(path, None, Some(gid.as_raw())).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                BindError::NotInGroup { path: path.into(), group: name.clone() }
            }
            _ => io(error),
        })?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io)?;
    Ok(listener)
}

/// Serves until the engine is gone.
pub async fn serve(listener: UnixListener, engine: mpsc::Sender<Command>) {
    let router = Router::new()
        .route("/v1/fleet", get(fleet))
        .route("/v1/deployments", get(deployments))
        .route("/v1/deployments/{id}", get(report))
        .route("/v1/deployments/{id}/logs/{host}/{offset}", get(log))
        .route("/v1/releases", post(push).layer(DefaultBodyLimit::disable()))
        .route("/v1/store", get(store))
        .route("/v1/store/scrub", post(scrub))
        .route("/v1/groups", post(group))
        .route("/v1/groups/{name}", get(settings))
        .route("/v1/orders", post(order))
        .route("/v1/removals", post(removal))
        .route("/v1/drains", post(drain))
        .route("/v1/voters", post(recover))
        .route("/v1/voters/recovery", post(plan_recovery))
        .route("/v1/voters/disk", post(trust_disk))
        .layer(DefaultBodyLimit::max(ENVELOPE_BYTES_MAX))
        .with_state(engine);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the control socket has stopped");
    }
}

type Engine = State<mpsc::Sender<Command>>;

async fn fleet(State(engine): Engine) -> Result<Json<api::Fleet>, Failed> {
    ask(&engine, Command::Fleet).await.map(Json)
}

async fn deployments(State(engine): Engine) -> Result<Json<Vec<api::Summary>>, Failed> {
    ask(&engine, Command::Deployments).await.map(Json)
}

async fn report(
    State(engine): Engine,
    UrlPath(id): UrlPath<String>,
) -> Result<Json<api::Report>, Failed> {
    let id = id.parse().map_err(malformed)?;
    let report = ask(&engine, |reply| Command::Report(id, reply)).await?;
    report.map(Json).ok_or_else(|| {
        let text = format!("there is no deployment {id}: see `swell deployments`");
        Failed(StatusCode::NOT_FOUND, text)
    })
}

/// Bytes as they were written, as many as one answer carries.
async fn log(
    State(engine): Engine,
    UrlPath((id, host, offset)): UrlPath<(String, String, u64)>,
) -> Result<Bytes, Failed> {
    let id = id.parse().map_err(malformed)?;
    let part = ask(&engine, |reply| Command::Log(id, host.clone(), offset, reply)).await?;
    match part {
        Ok(Some(bytes)) => Ok(bytes.into()),
        Ok(None) => Err(Failed(StatusCode::NOT_FOUND, format!("{host} has no log of {id}"))),
        Err(reason) => Err(Failed(StatusCode::BAD_GATEWAY, reason)),
    }
}

async fn settings(
    State(engine): Engine,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Option<GroupSettings>>, Failed> {
    let name = name.parse().map_err(malformed)?;
    ask(&engine, |reply| Command::Group(name, reply)).await.map(Json)
}

async fn store(State(engine): Engine) -> Result<Json<api::Store>, Failed> {
    ask(&engine, Command::Store).await.map(Json)
}

async fn scrub(State(engine): Engine) -> Result<Json<api::Scrubbed>, Failed> {
    ask(&engine, Command::Scrub).await.map(Json)
}

async fn push(State(engine): Engine, body: Body) -> Result<Json<api::Pushed>, Failed> {
    let import = ask(&engine, Command::Import).await?;
    let mut parts = body.into_data_stream();
    let imported = match import_all(import, &mut parts).await {
        Ok(imported) => imported,
        Err(failed) => {
            // Whoever is still sending would find a broken pipe in place of the reason.
            let rest = async { while parts.next().await.is_some() {} };
            drop(tokio::time::timeout(REST_PATIENCE, rest).await);
            return Err(failed);
        }
    };
    let release = imported.release.content();
    let pushed = api::Pushed {
        release: imported.release.id().to_string(),
        application: release.application.to_string(),
        label: release.label.to_string(),
        new_bytes: imported.new_bytes,
        total_bytes: imported.total_bytes,
    };
    let manifest = release.manifest;
    let entry = Entry::Release(imported.release.signed().clone());
    match submit(&engine, entry).await {
        Ok(_) => {
            tell(&engine, Command::Imported(manifest)).await?;
            Ok(Json(pushed))
        }
        // A release that the fleet does not take has no place in the store. Where the voters did not
        // answer it may still come to be one.
        Err(refused) if refused.0 == StatusCode::CONFLICT => {
            off_the_loop(move || imported.discard().map_err(ImportError::from)).await?;
            Err(refused)
        }
        Err(unanswered) => {
            tell(&engine, Command::Imported(manifest)).await?;
            Err(unanswered)
        }
    }
}

async fn import_all(mut import: Import, parts: &mut BodyDataStream) -> Result<Imported, Failed> {
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| Failed(StatusCode::BAD_REQUEST, error.to_string()))?;
        import = off_the_loop(move || {
            import.push(&part)?;
            Ok(import)
        })
        .await?;
    }
    off_the_loop(move || import.finish()).await
}

/// Hashing and disks take time that other requests should not wait for.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, Failed> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?.map_err(
        |error| {
            let status = match &error {
                ImportError::Store(
                    StoreError::DiskFull { .. } | StoreError::LimitReached { .. },
                ) => StatusCode::INSUFFICIENT_STORAGE,
                ImportError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_REQUEST,
            };
            Failed(status, error.to_string())
        },
    )
}

async fn group(State(engine): Engine, body: Bytes) -> Result<Json<api::Accepted>, Failed> {
    let signed = Signed::from_bytes(&body).map_err(bad)?;
    submit(&engine, Entry::Group(signed)).await
}

async fn order(State(engine): Engine, body: Bytes) -> Result<Json<api::Accepted>, Failed> {
    let signed: Signed<Order> = Signed::from_bytes(&body).map_err(bad)?;
    // A stop that comes too late would take its place in the chain and change nothing.
    let over = ask(&engine, |reply| Command::StopsNothing(signed.clone(), reply)).await?;
    if let Some(ended) = over {
        return Err(Failed(StatusCode::GONE, ended));
    }
    submit(&engine, Entry::Order(signed)).await
}

async fn removal(State(engine): Engine, body: Bytes) -> Result<Json<api::Accepted>, Failed> {
    let signed = Signed::from_bytes(&body).map_err(bad)?;
    submit(&engine, Entry::Remove(signed)).await
}

async fn drain(State(engine): Engine, body: Bytes) -> Result<Json<api::Accepted>, Failed> {
    let signed = Signed::from_bytes(&body).map_err(bad)?;
    submit(&engine, Entry::Drain(signed)).await
}

/// The list as it is handed to those who sign it.
async fn plan_recovery(
    State(engine): Engine,
    Json(asked): Json<api::RecoveryAsked>,
) -> Result<Bytes, Failed> {
    let voters: Result<Vec<HostId>, _> = asked.voters.iter().map(|voter| voter.parse()).collect();
    let voters = voters.map_err(malformed)?;
    let list = ask(&engine, |reply| Command::PlanRecovery(voters, asked.seats, reply)).await?;
    list.map(|list| list.to_bytes().into()).map_err(|reason| Failed(StatusCode::CONFLICT, reason))
}

async fn recover(State(engine): Engine, body: Bytes) -> Result<Json<api::Accepted>, Failed> {
    let signed = Signed::from_bytes(&body).map_err(bad)?;
    taken(ask(&engine, |reply| Command::Recover(signed, reply)).await?)
}

async fn trust_disk(State(engine): Engine) -> Result<Json<api::DiskTrusted>, Failed> {
    Ok(Json(api::DiskTrusted { was_in_doubt: ask(&engine, Command::TrustDisk).await? }))
}

fn malformed(error: groundswell_protocol::ids::Malformed) -> Failed {
    Failed(StatusCode::BAD_REQUEST, error.to_string())
}

fn bad(error: groundswell_protocol::trust::Untrusted) -> Failed {
    Failed(StatusCode::BAD_REQUEST, format!("what was handed in {error}"))
}

async fn submit(
    engine: &mpsc::Sender<Command>,
    entry: Entry,
) -> Result<Json<api::Accepted>, Failed> {
    taken(ask(engine, |reply| Command::Submit(Box::new(entry), reply)).await?)
}

fn taken(outcome: Result<u64, NotTaken>) -> Result<Json<api::Accepted>, Failed> {
    let index = outcome.map_err(|not_taken| {
        let status = match not_taken {
            NotTaken::Refused(_) => StatusCode::CONFLICT,
            NotTaken::Unanswered => StatusCode::GATEWAY_TIMEOUT,
            NotTaken::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failed(status, not_taken.to_string())
    })?;
    Ok(Json(api::Accepted { index }))
}

async fn ask<T>(
    engine: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Failed> {
    let (reply, answer) = oneshot::channel();
    tell(engine, command(reply)).await?;
    answer.await.map_err(|_| Failed::stopping())
}

async fn tell(engine: &mpsc::Sender<Command>, command: Command) -> Result<(), Failed> {
    engine.send(command).await.map_err(|_| Failed::stopping())
}

/// An error with its status.
struct Failed(StatusCode, String);

impl Failed {
    fn stopping() -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "swelld is stopping; try again".into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(api::Refused { error: self.1 })).into_response()
    }
}

/// What is left of a bundle that was refused comes at the speed of a local socket.
const REST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use nix::unistd::{Gid, Uid, getegid, geteuid, setfsuid};
    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_or_for_a_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        let listener = bind(&path, None).unwrap();
        assert_eq!(mode(), 0o600);
        assert!(matches!(bind(&path, None), Err(BindError::InUse(_))));
        // Left behind, as by a daemon that was killed.
        drop(listener);
        let group = Group::from_gid(getegid()).unwrap().unwrap();
        drop(bind(&path, Some(&group)).unwrap());
        assert_eq!(mode(), 0o660);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, None), Err(BindError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_group_that_the_daemon_is_not_in_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let runtime = Handle::current();
        if geteuid().is_root() {
            chown(dir.path(), Some(NOBODY), None).unwrap();
        }
        let bound = std::thread::spawn(move || {
            let _context = runtime.enter();
            // For this thread's use of files, root becomes someone without privileges.
            if geteuid().is_root() {
                setfsuid(Uid::from_raw(NOBODY));
            }
            let foreign = Group { gid: Gid::from_raw(54_321), ..group() };
            bind(&path, Some(&foreign))
        });
        let refused = bound.join().unwrap().unwrap_err();
        assert!(matches!(refused, BindError::NotInGroup { .. }), "{refused}");
        assert!(refused.hint().contains("SupplementaryGroups=deployers"), "{}", refused.hint());
    }

    fn group() -> Group {
        Group { name: "deployers".into(), ..Group::from_gid(getegid()).unwrap().unwrap() }
    }

    const NOBODY: u32 = 65_534;
}

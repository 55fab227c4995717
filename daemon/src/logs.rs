//! What the scripts of a deployment have written, read on this host or on another one.
//!
//! Nothing is kept here between two questions. A host that is not linked to the one it asks connects to
//! it for that; like every link that neither side needs, this one is closed after a while.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use groundswell_protocol::{
    execute::{Request, Response},
    ids::{DeploymentId, HostId},
    limits::CALL_TIMEOUT,
    logs::{Denied, Readers},
    wire::{Call, Reply},
};
use libp2p::Multiaddr;

use crate::{
    executor::Executor,
    mesh::{CallError, Mesh, ReplyTo},
};

/// A part of a deployment's log, as long as the limits allow.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The first byte that is wanted.
    pub offset: u64,
}

/// Where logs are read.
#[derive(Clone)]
pub struct Logs {
    executor: Executor,
    mesh: Mesh,
    readers: Arc<Mutex<Readers>>,
}

/// A read that is under way.
struct Turn<'a>(&'a Mutex<Readers>, HostId);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(self.0).end(self.1);
    }
}

impl Logs {
    /// Logs of this host's executor, and those that other hosts have.
    pub fn new(executor: Executor, mesh: Mesh) -> Self {
        Self { executor, mesh, readers: Arc::default() }
    }

    /// Reads on another host, which may be reached at these addresses if it is not linked.
    pub async fn there(
        &self,
        host: HostId,
        addresses: Vec<Multiaddr>,
        Part { deployment, offset }: Part,
    ) -> Result<Reply, CallError> {
        let asked = self.mesh.call_at(host, addresses, Call::Log { deployment, offset });
        tokio::time::timeout(CALL_TIMEOUT, asked).await.unwrap_or_else(|_| Err(CallError::late()))
    }

    /// Answers a host. A stranger is told nothing.
    pub fn serve(&self, reader: HostId, is_member: bool, part: Part, reply: ReplyTo) {
        let logs = self.clone();
        tokio::spawn(async move {
            match logs.here(reader, is_member, part).await {
                Ok(answer) => reply.send(answer),
                Err(Denied::Busy) => reply.send(Reply::Busy),
                Err(Denied::Stranger) => {
                    tracing::warn!(peer = reader.short(), "no member of the fleet asks for a log");
                }
            }
        });
    }

    /// Reads on this host, for one of the fleet.
    pub async fn here(
        &self,
        reader: HostId,
        is_member: bool,
        Part { deployment, offset }: Part,
    ) -> Result<Reply, Denied> {
        lock(&self.readers).begin(reader, is_member)?;
        let _turn = Turn(&self.readers, reader);
        let request = Request::Log { deployment, offset };
        let answer = tokio::time::timeout(EXECUTOR_PATIENCE, self.executor.ask(&request)).await;
        Ok(match answer {
            Ok(Ok(Response::Log(Some(part)))) => Reply::Bytes(part.into()),
            Ok(Ok(Response::Log(None))) => Reply::Absent,
            Ok(Ok(Response::Refused { reason })) => Reply::Failed(reason),
            Ok(Ok(other)) => Reply::Failed(format!("swell-exec answered {other:?}")),
            Ok(Err(error)) => Reply::Failed(error.to_string()),
            Err(_) => Reply::Failed("swell-exec does not answer".into()),
        })
    }
}

fn lock(readers: &Mutex<Readers>) -> std::sync::MutexGuard<'_, Readers> {
    // Nothing that panics runs while it is held.
    readers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The other side gives up soon after.
const EXECUTOR_PATIENCE: Duration = Duration::from_secs(8);

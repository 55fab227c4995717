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
    mesh::{Mesh, ReplyTo},
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
    me: HostId,
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
    pub fn new(executor: Executor, mesh: Mesh, me: HostId) -> Self {
        Self { executor, mesh, me, readers: Arc::default() }
    }

    /// Reads on a host, which may be reached at these addresses if it is not linked; none if it has no
    /// such log.
    pub async fn read(
        &self,
        host: HostId,
        addresses: Vec<Multiaddr>,
        part: Part,
    ) -> Result<Option<Vec<u8>>, String> {
        let reply = if host == self.me {
            self.here(host, true, part).await.unwrap_or(Reply::Busy)
        } else {
            self.there(host, addresses, part).await?
        };
        match reply {
            Reply::Bytes(bytes) => Ok(Some(bytes)),
            Reply::Absent => Ok(None),
            Reply::Busy => Err("it answers as many others as it may".into()),
            Reply::Failed(reason) => Err(reason),
        }
    }

    async fn there(
        &self,
        host: HostId,
        addresses: Vec<Multiaddr>,
        Part { deployment, offset }: Part,
    ) -> Result<Reply, String> {
        let asked = self.mesh.call_at(host, addresses, Call::Log { deployment, offset });
        match tokio::time::timeout(CALL_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|error| format!("no answer: {error}")),
            Err(_) => Err(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
        }
    }

    /// Answers a host. A stranger hears nothing but why.
    pub fn serve(&self, reader: HostId, is_member: bool, part: Part, reply: ReplyTo) {
        let logs = self.clone();
        tokio::spawn(async move {
            reply.send(match logs.here(reader, is_member, part).await {
                Ok(answer) => answer,
                Err(Denied::Busy) => Reply::Busy,
                Err(Denied::Stranger) => {
                    Reply::Failed("whoever asks is no member of the fleet".into())
                }
            });
        });
    }

    async fn here(
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

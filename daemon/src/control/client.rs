//! The side of the control socket that `swell` is on.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
};

use futures::Stream;
use groundswell_protocol::{ids::GroupName, trust::Group};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Frame},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use super::api;

/// Why the daemon gave no good answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no swelld answers at {}: {source}", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This user may not.
    #[error("this user may not use {}", .0.display())]
    Forbidden(PathBuf),
    /// The daemon, or the fleet, said no.
    #[error("{reason}")]
    Refused {
        /// True if there is no such thing.
        unknown: bool,
        /// Why.
        reason: String,
    },
    /// What was to be steered is over.
    #[error("{0}")]
    Ended(String),
    /// The connection broke, or the answer is not understood.
    #[error("talking to swelld at {}: {reason}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// The daemon behind a control socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

type AnyBody = BoxBody<Bytes, io::Error>;

impl Client {
    /// The daemon at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The fleet.
    pub async fn fleet(&self) -> Result<api::Fleet, ClientError> {
        self.get("/v1/fleet").await
    }

    /// All deployments, newest first.
    pub async fn deployments(&self) -> Result<Vec<api::Summary>, ClientError> {
        self.get("/v1/deployments").await
    }

    /// One deployment.
    pub async fn report(&self, id: &str) -> Result<api::Report, ClientError> {
        // An id is checked where it is read; anything else would not be a path.
        self.get(&format!("/v1/deployments/{id}")).await
    }

    /// What the scripts of a deployment have written on one of its hosts, from `offset` on, as much as one
    /// answer carries.
    pub async fn log(&self, id: &str, host: &str, offset: u64) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/deployments/{id}/logs/{host}/{offset}");
        Ok(self.ask(Method::GET, &path, whole(Vec::new())).await?.to_vec())
    }

    /// The settings of a group, as they were signed; none if there is no such group.
    pub async fn settings(&self, name: &GroupName) -> Result<Option<Group>, ClientError> {
        self.get(&format!("/v1/groups/{name}")).await
    }

    /// Hands in a signed group.
    pub async fn group(&self, signed: Vec<u8>) -> Result<api::Accepted, ClientError> {
        self.post("/v1/groups", whole(signed)).await
    }

    /// Hands in a signed order.
    pub async fn order(&self, signed: Vec<u8>) -> Result<api::Accepted, ClientError> {
        self.post("/v1/orders", whole(signed)).await
    }

    /// Hands in the signed removal of a host.
    pub async fn removal(&self, signed: Vec<u8>) -> Result<api::Accepted, ClientError> {
        self.post("/v1/removals", whole(signed)).await
    }

    /// Hands in that a host is drained or given back.
    pub async fn drain(&self, signed: Vec<u8>) -> Result<api::Accepted, ClientError> {
        self.post("/v1/drains", whole(signed)).await
    }

    /// The list by which operators would let the fleet go on with this host's ledger, unsigned.
    pub async fn plan_recovery(&self, asked: &api::RecoveryAsked) -> Result<Vec<u8>, ClientError> {
        let body = serde_json::to_vec(asked).map_err(|error| self.broken(&error))?;
        let bytes = self.ask(Method::POST, "/v1/voters/recovery", whole(body)).await?;
        Ok(bytes.to_vec())
    }

    /// Hands in that list, signed.
    pub async fn recover(&self, signed: Vec<u8>) -> Result<api::Accepted, ClientError> {
        self.post("/v1/voters", whole(signed)).await
    }

    /// Says that the disk of this host was not put back.
    pub async fn trust_disk(&self) -> Result<api::DiskTrusted, ClientError> {
        self.post("/v1/voters/disk", whole(Vec::new())).await
    }

    /// What is in the store.
    pub async fn store(&self) -> Result<api::Store, ClientError> {
        self.get("/v1/store").await
    }

    /// Has all that is in the store read. That takes as long as its disk needs.
    pub async fn scrub(&self) -> Result<api::Scrubbed, ClientError> {
        self.post("/v1/store/scrub", whole(Vec::new())).await
    }

    /// Pushes a bundle, read as a stream.
    pub async fn push(
        &self,
        bundle: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Result<api::Pushed, ClientError> {
        use futures::StreamExt;
        let frames: Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync>> =
            Box::pin(bundle.map(|part| part.map(Frame::data)));
        self.post("/v1/releases", BodyExt::boxed(StreamBody::new(frames))).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&self.ask(Method::GET, path, whole(Vec::new())).await?)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: AnyBody) -> Result<T, ClientError> {
        self.read(&self.ask(Method::POST, path, body).await?)
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer).map_err(|error| self.broken(&error))
    }

    /// The answer to a request, if it is a good one.
    async fn ask(&self, method: Method, path: &str, body: AnyBody) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                return ClientError::Forbidden(self.socket.clone());
            }
            ClientError::NoDaemon { path: self.socket.clone(), source }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "swelld")
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(|error| self.broken(error.as_ref()))?.to_bytes();
        if status == StatusCode::OK {
            return Ok(bytes);
        }
        let refused: Result<api::Refused, _> = serde_json::from_slice(&bytes);
        let reason = refused.map_or_else(|_| format!("swelld answered {status}"), |r| r.error);
        if status == StatusCode::GONE {
            return Err(ClientError::Ended(reason));
        }
        Err(ClientError::Refused { unknown: status == StatusCode::NOT_FOUND, reason })
    }

    fn broken(&self, error: &dyn std::error::Error) -> ClientError {
        let mut reason = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            reason = format!("{reason}: {source}");
            next = source.source();
        }
        ClientError::Broken { path: self.socket.clone(), reason }
    }
}

/// What a daemon tells of ten thousand hosts takes a tenth of it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

fn whole(bytes: Vec<u8>) -> AnyBody {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}

//! The line to the executor: one connection for each request, one that waits for its reports.

use std::{io, path::PathBuf, time::Duration};

use groundswell_protocol::{
    cbor,
    execute::{Report, Request, Response},
    limits::EXECUTOR_FRAME_BYTES_MAX,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};

/// Why the executor gave no answer.
#[derive(Debug, Error)]
pub enum ExecutorError {
    /// It cannot be reached, or it hung up.
    #[error("swell-exec at {}: {source}", path.display())]
    Io {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It said something that is no answer.
    #[error("swell-exec at {} does not speak this protocol: {reason}", path.display())]
    Protocol {
        /// Its socket.
        path: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// Where the executor listens.
#[derive(Clone, Debug)]
pub struct Executor {
    socket: PathBuf,
}

impl Executor {
    /// The executor at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks once, over a connection of its own, and waits as long as the executor takes.
    pub async fn ask(&self, request: &Request) -> Result<Response, ExecutorError> {
        let io = |source| ExecutorError::Io { path: self.socket.clone(), source };
        let mut stream = UnixStream::connect(&self.socket).await.map_err(io)?;
        self.exchange(&mut stream, request).await
    }

    async fn exchange(
        &self,
        stream: &mut UnixStream,
        request: &Request,
    ) -> Result<Response, ExecutorError> {
        let io = |source| ExecutorError::Io { path: self.socket.clone(), source };
        let protocol = |reason| ExecutorError::Protocol { path: self.socket.clone(), reason };
        let bytes = cbor::encode(request);
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|_| bytes.len() <= EXECUTOR_FRAME_BYTES_MAX)
            .ok_or_else(|| protocol("the request is too long for one frame".into()))?;
        stream.write_all(&length.to_be_bytes()).await.map_err(io)?;
        stream.write_all(&bytes).await.map_err(io)?;
        let length = stream.read_u32().await.map_err(io)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > EXECUTOR_FRAME_BYTES_MAX {
            return Err(protocol(format!("an answer of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.map_err(io)?;
        cbor::decode(&bytes, EXECUTOR_FRAME_BYTES_MAX).map_err(|error| protocol(error.to_string()))
    }

    /// Sends each new report, and nothing while the executor is away, until nobody listens.
    pub async fn watch(self, reports: mpsc::Sender<Option<Report>>) {
        loop {
            let error = match self.watch_connection(&reports).await {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::debug!(%error, "the executor is away");
            if reports.send(None).await.is_err() {
                return;
            }
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }

    async fn watch_connection(
        &self,
        reports: &mpsc::Sender<Option<Report>>,
    ) -> Result<(), ExecutorError> {
        let io = |source| ExecutorError::Io { path: self.socket.clone(), source };
        let mut stream = UnixStream::connect(&self.socket).await.map_err(io)?;
        let mut seen = 0;
        loop {
            let request = Request::Report { seen };
            // It answers within ten seconds, if only that nothing is new.
            let answer = self.exchange(&mut stream, &request);
            let answer = tokio::time::timeout(REPORT_WITHIN, answer).await;
            match answer.map_err(|late| io(io::Error::new(io::ErrorKind::TimedOut, late)))?? {
                Response::Report(report) if report.version == seen => {}
                Response::Report(report) => {
                    seen = report.version;
                    if reports.send(Some(report)).await.is_err() {
                        return Ok(());
                    }
                }
                other => {
                    let reason = format!("{other:?} is no answer to a request for a report");
                    return Err(ExecutorError::Protocol { path: self.socket.clone(), reason });
                }
            }
        }
    }
}

const REPORT_WITHIN: Duration = Duration::from_secs(20);
const RECONNECT_EVERY: Duration = Duration::from_millis(200);

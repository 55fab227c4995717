//! Admission: certificates are exchanged after encryption and before multiplexing.
//!
//! Both sides say [`Hello`], judge the other's, and say [`Welcome`]. The transport yields a
//! connection only if both admit, so nothing above ever hears a stranger.

use std::{future::Future, io, pin::Pin, sync::Arc};

use futures::{AsyncRead, AsyncWrite};
use groundswell_protocol::{
    gate::Verdict,
    limits::HELLO_BYTES_MAX,
    wire::{Hello, Welcome},
};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    noise,
};
use thiserror::Error;

use super::{Gatekeeper, frame, host_of};

/// Why a connection was not admitted.
#[derive(Debug, Error)]
pub(super) enum NotAdmitted {
    /// The other side is no Groundswell host of this fleet, or the line is bad.
    #[error("no secure channel, or another fleet: {0}")]
    Noise(#[from] noise::Error),
    /// It hung up or sent something that is no certificate.
    #[error("admission: {0}")]
    Io(#[from] io::Error),
    /// Its key is not of the kind that hosts have.
    #[error("the peer's key is no host key")]
    NoHostKey,
    /// This host does not want it.
    #[error("refused here: {0}")]
    RefusedHere(String),
    /// It does not want this host.
    #[error("refused there: {0}")]
    RefusedThere(String),
    /// A token's uses are still being counted.
    #[error("waits to be counted by the voters")]
    Pending,
}

/// Noise, then the exchange of certificates.
#[derive(Clone)]
pub(super) struct Admission {
    noise: noise::Config,
    gate: Arc<dyn Gatekeeper>,
    epoch: u64,
}

impl Admission {
    pub(super) fn new(noise: noise::Config, gate: Arc<dyn Gatekeeper>, epoch: u64) -> Self {
        Self { noise, gate, epoch }
    }

    async fn exchange<S>(self, peer: PeerId, mut io: S) -> Result<(PeerId, S), NotAdmitted>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = host_of(&peer).ok_or(NotAdmitted::NoHostKey)?;
        let mine = self.gate.hello(self.epoch);
        frame::write_value(&mut io, &mine).await?;
        let theirs: Hello = frame::read_value(&mut io, HELLO_BYTES_MAX).await?;
        let (welcome, verdict) = match self.gate.judge(host, &theirs) {
            Verdict::Admit | Verdict::AdmitAndApply => (Welcome::Admitted, Ok(())),
            Verdict::Pending => (Welcome::Pending, Err(NotAdmitted::Pending)),
            Verdict::Refuse(reason) => {
                (Welcome::Refused(reason.clone()), Err(NotAdmitted::RefusedHere(reason)))
            }
        };
        frame::write_value(&mut io, &welcome).await?;
        let said: Welcome = frame::read_value(&mut io, HELLO_BYTES_MAX).await?;
        // What a stranger thinks of this host is of no interest.
        verdict?;
        self.gate.outcome_at(host, &said);
        match said {
            Welcome::Admitted => Ok((peer, io)),
            Welcome::Pending => Err(NotAdmitted::Pending),
            Welcome::Refused(reason) => {
                let reason = reason.escape_debug().take(200).collect();
                Err(NotAdmitted::RefusedThere(reason))
            }
        }
    }
}

impl UpgradeInfo for Admission {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/groundswell/admission/1")
    }
}

type Admitted<S> = Pin<Box<dyn Future<Output = Result<(PeerId, S), NotAdmitted>> + Send>>;

impl<S> InboundConnectionUpgrade<S> for Admission
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<S>);
    type Error = NotAdmitted;
    type Future = Admitted<noise::Output<S>>;

    fn upgrade_inbound(self, socket: S, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let (peer, io) = self.noise.clone().upgrade_inbound(socket, "/noise").await?;
            self.exchange(peer, io).await
        })
    }
}

impl<S> OutboundConnectionUpgrade<S> for Admission
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<S>);
    type Error = NotAdmitted;
    type Future = Admitted<noise::Output<S>>;

    fn upgrade_outbound(self, socket: S, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let (peer, io) = self.noise.clone().upgrade_outbound(socket, "/noise").await?;
            self.exchange(peer, io).await
        })
    }
}

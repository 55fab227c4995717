//! Questions and answers: one stream each, one frame each way.

use std::io;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use groundswell_protocol::{
    limits::CALL_BYTES_MAX,
    wire::{Call, Reply},
};
use libp2p::{StreamProtocol, request_response};

use super::frame;

pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/groundswell/call/1");

#[derive(Clone, Debug)]
pub(super) struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Call;
    type Response = Reply;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Call>
    where
        T: AsyncRead + Unpin + Send,
    {
        frame::read_value(io, REQUEST_BYTES_MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Reply>
    where
        T: AsyncRead + Unpin + Send,
    {
        frame::read_value(io, CALL_BYTES_MAX).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        call: Call,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frame::write_value(io, &call).await?;
        io.close().await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        reply: Reply,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frame::write_value(io, &reply).await?;
        io.close().await
    }
}

/// A question names a hash and an offset.
const REQUEST_BYTES_MAX: usize = 1024;

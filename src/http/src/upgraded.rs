//! A connection that speaks HTTP no more, as a runtime's byte stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read as _, Write as _};
use hyper::upgrade::Upgraded;
use quorate_runtime::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What hyper gives back after an upgrade, for a protocol that is written for [`AsyncRead`] + [`AsyncWrite`]: the other way round
/// than [`HyperStream`](crate::HyperStream), which lies below it.
#[derive(Debug)]
pub struct UpgradedStream(Upgraded);

impl UpgradedStream {
    /// Goes on with `upgraded`.
    pub fn new(upgraded: Upgraded) -> Self {
        Self(upgraded)
    }
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut unfilled = hyper::rt::ReadBuf::new(buffer.initialize_unfilled());
        ready!(Pin::new(&mut self.0).poll_read(context, unfilled.unfilled()))?;
        let read = unfilled.filled().len();
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

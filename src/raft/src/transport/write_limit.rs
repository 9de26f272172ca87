//! A limit on how long a write may wait, for connections of the peer listener.
//!
//! A peer that stopped reading without a word would hold its stream, and what waits for it, until TCP gives up after many
//! minutes. etcd's peer listener gives every write 5 s, if nothing else is said; so does this. (Its limit on reads is of no use here: HTTP keeps a read
//! open while a stream is written. Idle connections are the server's to end.)

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_runtime::io::{AsyncRead, AsyncWrite, ReadBuf};
use quorate_runtime::{BoxFuture, Rt};

/// A stream on which a write, flush or shutdown that waits for too long fails.
pub struct WriteLimit<S> {
    stream: S,
    rt: Rt,
    limit: Duration,
    /// Runs while a write waits.
    timer: Option<BoxFuture<'static, ()>>,
}

impl<S> WriteLimit<S> {
    /// No write of `stream` waits longer than `limit`.
    pub fn new(rt: Rt, stream: S, limit: Duration) -> Self {
        Self { stream, rt, limit, timer: None }
    }

    /// Passes `result` on, unless the write has waited for too long.
    fn limited<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.timer = None;
            return result;
        }
        let timer = self.timer.get_or_insert_with(|| self.rt.sleep(self.limit));
        match timer.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.timer = None;
                let text = format!("the other side took nothing for {:?}", self.limit);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteLimit<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, data);
        self.limited(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limited(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.limited(result, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limited(result, context)
    }
}

impl<S> std::fmt::Debug for WriteLimit<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteLimit").finish_non_exhaustive()
    }
}

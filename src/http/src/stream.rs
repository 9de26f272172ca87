//! A runtime's byte stream as hyper wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use quorate_runtime::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Adapts an [`AsyncRead`] + [`AsyncWrite`] stream to hyper's traits.
///
/// Bytes are read straight into hyper's buffer. hyper flushes at every poll, whether it wrote or not; such an empty flush
/// ends here, because below it may cost a message (a simulated network sends one).
#[derive(Debug)]
pub struct HyperStream<S> {
    inner: S,
    written_since_flush: bool,
}

impl<S> HyperStream<S> {
    /// Adapts `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, written_since_flush: false }
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for HyperStream<S> {
    #[allow(unsafe_code)]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = {
            // SAFETY: `ReadBuf::uninit` hands out the memory as uninitialised and can only write to it, never
            // de-initialise it.
            let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer))?;
            buffer.filled().len()
        };
        // SAFETY: `filled()` of the buffer over this very memory says that its first `filled` bytes were written.
        unsafe { cursor.advance(filled) };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for HyperStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, data))?;
        self.written_since_flush = true;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written_since_flush {
            ready!(Pin::new(&mut self.inner).poll_flush(context))?;
            self.written_since_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices))?;
        self.written_since_flush = true;
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::task::Waker;

    use hyper::rt::{Read as _, Write as _};

    use super::*;

    /// Reads give `abc`; writes and flushes are counted.
    #[derive(Default)]
    struct Counting {
        writes: usize,
        flushes: usize,
    }

    impl AsyncRead for Counting {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buffer.put_slice(b"abc");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_flush_with_nothing_written_does_not_reach_the_stream() {
        let mut context = Context::from_waker(Waker::noop());
        let mut stream = HyperStream::new(Counting::default());
        assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());
        assert_eq!(stream.inner.flushes, 0);
        assert!(Pin::new(&mut stream).poll_write(&mut context, b"x").is_ready());
        assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());
        assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());
        assert_eq!((stream.inner.writes, stream.inner.flushes), (1, 1));
    }

    #[test]
    fn bytes_are_read_into_the_callers_buffer_after_what_is_there() {
        let mut context = Context::from_waker(Waker::noop());
        let mut stream = HyperStream::new(Counting::default());
        let mut memory = [MaybeUninit::uninit(); 8];
        let mut buffer = hyper::rt::ReadBuf::uninit(&mut memory);
        for _ in 0..2 {
            assert!(Pin::new(&mut stream).poll_read(&mut context, buffer.unfilled()).is_ready());
        }
        assert_eq!(buffer.filled(), b"abcabc");
    }
}

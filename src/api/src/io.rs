//! A runtime byte stream as hyper wants to see it.
//!
//! Reads go straight into hyper's own buffer. A flush with nothing written since the last one is answered here: hyper
//! flushes whenever it is polled, and a simulated stream sends a segment for every flush, so that two idle ends would keep
//! each other awake for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use quorate_runtime::io::{AsyncRead, AsyncWrite, ReadBuf};
use quorate_runtime::net::BoxStream;

/// A [`BoxStream`] with hyper's I/O traits.
pub struct HyperStream {
    stream: BoxStream,
    /// Something was written that no completed flush has pushed out yet.
    unflushed: bool,
}

impl HyperStream {
    /// Wraps a connected stream.
    pub fn new(stream: BoxStream) -> Self {
        Self { stream, unflushed: false }
    }
}

impl hyper::rt::Read for HyperStream {
    #[allow(unsafe_code)]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: the slice is only handed on as a `ReadBuf`, which never un-initialises a byte; and the cursor is advanced
        // by exactly the bytes that this `ReadBuf`, still the same one, says were filled and so initialised.
        unsafe {
            let slice = cursor.as_mut();
            let start = slice.as_ptr();
            let mut buffer = ReadBuf::uninit(slice);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            assert!(buffer.filled().as_ptr() == start.cast(), "a stream replaced the buffer that it was to read into");
            let filled = buffer.filled().len();
            cursor.advance(filled);
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for HyperStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, data))?;
        self.unflushed = true;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.unflushed = true;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

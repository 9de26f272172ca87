//! A server's connection whose clients may send a URL where an authority belongs, and are understood all the same.
//!
//! [`AuthorityFilter`] lies between a stream and the HTTP parser, follows the frames that come in
//! ([`FrameWalker`](crate::frames::FrameWalker)) and repairs their header blocks in place
//! ([`BlockWalker`](crate::header_block::BlockWalker), which says what is repaired and why). What is written passes through.
//!
//! When a read ends within the first bytes of an `:authority`, those bytes are held back until the rest of them is there.
//! Nobody waits for them: they belong to a frame that is not complete, and the parser does nothing with a part of a frame.
//! At the end of the stream they are delivered as they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use quorate_runtime::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frames::{FrameWalker, Step};
use crate::header_block::{BlockWalker, PREFIX_BYTES_MAX};

/// Repairs the authorities in what is read from a stream, which is a server's end of a new connection.
///
/// HTTP/1 passes as it is; so does everything but the authorities.
#[derive(Debug)]
pub struct AuthorityFilter<S> {
    inner: S,
    repair: AuthorityRepair,
    held: Held,
}

impl<S> AuthorityFilter<S> {
    /// Filters what is read from `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, repair: AuthorityRepair::new(), held: Held::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityFilter<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, repair, held } = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if held.walked > 0 {
                held.deliver(buffer);
                return Poll::Ready(Ok(()));
            }
            if held.length > 0 {
                // Rare, and a few bytes: they are completed where they are.
                let mut rest = ReadBuf::new(&mut held.bytes[held.length..]);
                ready!(Pin::new(&mut *inner).poll_read(context, &mut rest))?;
                let read = rest.filled().len();
                held.length += read;
                held.walked = if read > 0 { repair.walk(&mut held.bytes[..held.length]) } else { held.length };
                continue;
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *inner).poll_read(context, buffer))?;
            let read = &mut buffer.filled_mut()[before..];
            let walked = repair.walk(read);
            held.hold(&read[walked..]);
            let ended = read.is_empty();
            buffer.set_filled(before + walked);
            if walked > 0 || ended {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityFilter<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
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
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }
}

/// Bytes read and not yet delivered.
#[derive(Debug, Default)]
struct Held {
    bytes: [u8; PREFIX_BYTES_MAX],
    length: usize,
    /// So many of them, the first ones, the walk is done with.
    walked: usize,
}

impl Held {
    fn hold(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.length = bytes.len();
    }

    /// Moves as many of the walked bytes to `buffer` as it has room for.
    fn deliver(&mut self, buffer: &mut ReadBuf<'_>) {
        let delivered = self.walked.min(buffer.remaining());
        buffer.put_slice(&self.bytes[..delivered]);
        self.bytes.copy_within(delivered..self.length, 0);
        self.length -= delivered;
        self.walked -= delivered;
    }
}

/// The walk over one connection: frames, and the blocks in them.
#[derive(Debug)]
struct AuthorityRepair {
    frames: FrameWalker,
    block: BlockWalker,
}

impl AuthorityRepair {
    fn new() -> Self {
        Self { frames: FrameWalker::new(), block: BlockWalker::new() }
    }

    /// Goes over `bytes`, the next of the connection, and repairs them. Returns how many are done with; the others, fewer
    /// than [`PREFIX_BYTES_MAX`], must be shown again together with what follows.
    fn walk(&mut self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.frames.step(&bytes[done..]) {
                Step::Passed(passed) => done += passed,
                Step::Block { begins, in_frame } => {
                    if begins {
                        self.block = BlockWalker::new();
                    }
                    let end = bytes.len().min(done + in_frame);
                    let passed = self.block.walk(&mut bytes[done..end], in_frame);
                    self.frames.pass_block(passed);
                    done += passed;
                    if done < end {
                        break;
                    }
                }
            }
        }
        done
    }
}

#[cfg(test)]
mod tests;

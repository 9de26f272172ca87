//! A server's connection that ends when its client pings too often.
//!
//! A client may ask by pings whether its connection still lives. Each costs the server a wake-up and an answer, so one that pings
//! all the time is told so (GOAWAY, `ENHANCE_YOUR_CALM`, `too_many_pings`) and cut off: gRPC clients know that answer and ping
//! half as often from then on. hyper answers pings by itself and tells nobody; so [`PingLimit`] lies between a stream and the HTTP
//! parser, and follows the frames of both directions.
//!
//! The rules are those of gRPC's Go server (`internal/transport/http2_server.go`, `handlePing`): a ping counts as a strike if the
//! one before it came less than the least gap ago, or less than [`IDLE_GAP`] if no call is in flight; headers or
//! data for the client take all strikes back, and the first ping after them counts as none; more than [`STRIKES_MAX`] end the
//! connection.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quorate_runtime::clock::MonoTime;
use quorate_runtime::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frames::{FRAME_HEADER_BYTES, HEADERS, PREFACE};

/// Least time between two pings while there is no call.
const IDLE_GAP: Duration = Duration::from_secs(2 * 60 * 60);

/// So many strikes are forgiven.
const STRIKES_MAX: u32 = 2;

const DATA: u8 = 0x0;
const RST_STREAM: u8 = 0x3;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const FLAG_END_STREAM: u8 = 0x1;
const FLAG_ACK: u8 = 0x1;
const ENHANCE_YOUR_CALM: u32 = 0xb;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// Ends a connection whose client pings too often. HTTP/1 passes as it is.
pub struct PingLimit<S> {
    inner: S,
    now: Box<dyn Fn() -> MonoTime + Send>,
    /// Least time between two pings while calls are in flight.
    least_gap: Duration,
    opening: Opening,
    received: FrameHeaders,
    sent: FrameHeaders,
    calls: Calls,
    strikes: Strikes,
    /// What is left to be written of the last frame, once there were too many.
    farewell: Option<Vec<u8>>,
}

impl<S> PingLimit<S> {
    /// Limits the pings of `inner`, a server's end of a new connection: `least_gap` must lie between two of them while calls are
    /// in flight. `now` reads the monotonic clock.
    pub fn new(inner: S, least_gap: Duration, now: impl Fn() -> MonoTime + Send + 'static) -> Self {
        Self {
            inner,
            now: Box::new(now),
            least_gap,
            opening: Opening::Preface { seen: 0 },
            received: FrameHeaders::default(),
            sent: FrameHeaders::default(),
            calls: Calls::default(),
            strikes: Strikes::default(),
            farewell: None,
        }
    }

    /// Follows what the client has sent.
    fn receive(&mut self, bytes: &[u8]) {
        let bytes = self.opening.pass(bytes);
        let (calls, strikes, now, least_gap) = (&mut self.calls, &mut self.strikes, &self.now, self.least_gap);
        self.received.walk(bytes, |frame| match frame.kind {
            HEADERS => calls.begin(frame.stream),
            RST_STREAM => calls.end(frame.stream),
            PING if frame.flags & FLAG_ACK == 0 => {
                let gap = if calls.in_flight.is_empty() { IDLE_GAP } else { least_gap };
                strikes.ping(now(), gap);
            }
            _ => {}
        });
        if self.strikes.are_too_many() && self.farewell.is_none() {
            // Between two frames the client can be told why.
            let whole = self.sent.is_between_frames();
            self.farewell = Some(if whole { farewell(self.calls.newest) } else { Vec::new() });
        }
    }

    /// Follows what was sent to the client.
    fn send(&mut self, bytes: &[u8]) {
        if !matches!(self.opening, Opening::Http2) {
            return;
        }
        let (calls, strikes) = (&mut self.calls, &mut self.strikes);
        self.sent.walk(bytes, |frame| match frame.kind {
            DATA | HEADERS => {
                strikes.take_back();
                if frame.flags & FLAG_END_STREAM != 0 {
                    calls.end(frame.stream);
                }
            }
            RST_STREAM => calls.end(frame.stream),
            _ => {}
        });
    }
}

impl<S: AsyncWrite + Unpin> PingLimit<S> {
    /// Writes what is left to be said; then the connection has failed.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, farewell, .. } = self;
        let left = farewell.as_mut().expect("there were too many");
        while !left.is_empty() {
            let written = ready!(Pin::new(&mut *inner).poll_write(context, left))?;
            if written == 0 {
                break;
            }
            left.drain(..written);
        }
        ready!(Pin::new(&mut *inner).poll_flush(context))?;
        Poll::Ready(Err(io::Error::other("got too many pings from the client")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for PingLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.farewell.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
            self.receive(&buffer.filled()[before..]);
        }
        match self.farewell {
            Some(_) => self.poll_farewell(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PingLimit<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, data))?;
        self.send(&data[..written]);
        Poll::Ready(Ok(written))
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
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices))?;
        let mut left = written;
        for slice in slices {
            let part = left.min(slice.len());
            self.send(&slice[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }
}

/// GOAWAY: calls up to `newest` may have been answered.
fn farewell(newest: u32) -> Vec<u8> {
    let payload_bytes = (4 + 4 + TOO_MANY_PINGS.len()) as u8;
    let mut frame = vec![0, 0, payload_bytes, GOAWAY, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&newest.to_be_bytes());
    frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend_from_slice(TOO_MANY_PINGS);
    frame
}

/// Whether the connection speaks HTTP/2.
enum Opening {
    /// So many bytes of the preface have come.
    Preface {
        seen: usize,
    },
    Http2,
    Other,
}

impl Opening {
    /// The frames in `bytes`, the next of the connection.
    fn pass<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Http2 => bytes,
            Self::Other => &[],
            Self::Preface { seen } => {
                let passed = bytes.len().min(PREFACE.len() - *seen);
                let (preface, frames) = bytes.split_at(passed);
                if preface != &PREFACE[*seen..*seen + passed] {
                    *self = Self::Other;
                    return &[];
                }
                *seen += passed;
                if *seen == PREFACE.len() {
                    *self = Self::Http2;
                }
                frames
            }
        }
    }
}

/// The calls of a connection.
#[derive(Default)]
struct Calls {
    /// The streams of those in flight.
    in_flight: BTreeSet<u32>,
    /// The stream of the newest one.
    newest: u32,
}

impl Calls {
    /// Headers have come: those of a new call, or the trailers of an old one.
    fn begin(&mut self, stream: u32) {
        if stream > self.newest {
            self.newest = stream;
            self.in_flight.insert(stream);
        }
    }

    fn end(&mut self, stream: u32) {
        self.in_flight.remove(&stream);
    }
}

/// Pings that came too soon.
#[derive(Default)]
struct Strikes {
    last_at: Option<MonoTime>,
    count: u32,
    /// Something was sent since the last ping.
    are_taken_back: bool,
}

impl Strikes {
    fn ping(&mut self, now: MonoTime, gap: Duration) {
        if std::mem::take(&mut self.are_taken_back) {
            self.count = 0;
        } else if self.last_at.is_some_and(|last_at| now < last_at + gap) {
            self.count += 1;
        }
        self.last_at = Some(now);
    }

    fn take_back(&mut self) {
        self.are_taken_back = true;
    }

    fn are_too_many(&self) -> bool {
        self.count > STRIKES_MAX
    }
}

/// What stands at the head of a frame (RFC 9113, section 4.1), its length left out.
#[derive(Clone, Copy)]
struct FrameHead {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the heads of the frames in one direction of a connection, however its bytes are divided.
#[derive(Default)]
struct FrameHeaders {
    header: [u8; FRAME_HEADER_BYTES],
    seen: usize,
    /// Bytes of the frame that are still to come.
    payload_left: usize,
}

impl FrameHeaders {
    /// Goes over `bytes`, the next of the direction, and shows each frame that begins.
    fn walk(&mut self, mut bytes: &[u8], mut show: impl FnMut(FrameHead)) {
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.payload_left);
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(FRAME_HEADER_BYTES - self.seen);
            self.header[self.seen..self.seen + taken].copy_from_slice(&bytes[..taken]);
            self.seen += taken;
            bytes = &bytes[taken..];
            if self.seen == FRAME_HEADER_BYTES {
                let [high, middle, low, kind, flags, stream @ ..] = self.header;
                self.seen = 0;
                self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
                // The highest bit is reserved.
                show(FrameHead { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) });
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.seen == 0 && self.payload_left == 0
    }
}

#[cfg(test)]
mod tests;

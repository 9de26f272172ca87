//! Whole connections: what a client sends, when, and what the server writes meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::*;

const PING_FRAME: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";
const PING_ACK: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0pingping";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The other end: what is left to be read, and what was written.
#[derive(Default)]
struct Wire {
    to_read: VecDeque<u8>,
    written: Vec<u8>,
    /// Most bytes that one call moves.
    piece_bytes: usize,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.piece_bytes.min(self.to_read.len()).min(buffer.remaining());
        let piece: Vec<u8> = self.to_read.drain(..length).collect();
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let length = self.piece_bytes.min(data.len());
        self.written.extend_from_slice(&data[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection of which a test plays both ends.
struct Connection {
    limit: PingLimit<Wire>,
    now: Arc<Mutex<MonoTime>>,
}

impl Connection {
    /// `least_gap` is 5 s. So many bytes come at once.
    fn new(piece_bytes: usize) -> Self {
        let now = Arc::new(Mutex::new(MonoTime::from_nanos(0)));
        let clock = Arc::clone(&now);
        let wire = Wire { piece_bytes, ..Wire::default() };
        Self { limit: PingLimit::new(wire, Duration::from_secs(5), move || *clock.lock().unwrap()), now }
    }

    fn wait(&self, duration: Duration) {
        let mut now = self.now.lock().unwrap();
        *now = *now + duration;
    }

    /// The client sends; the parser reads all of it. False if the connection ends.
    fn receive(&mut self, bytes: &[u8]) -> bool {
        self.limit.inner.to_read.extend(bytes);
        let mut context = Context::from_waker(Waker::noop());
        while !self.limit.inner.to_read.is_empty() {
            let mut buffer = [0; 1000];
            match Pin::new(&mut self.limit).poll_read(&mut context, &mut ReadBuf::new(&mut buffer)) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    assert_eq!(error.to_string(), "got too many pings from the client");
                    return false;
                }
                Poll::Pending => panic!("nothing here waits"),
            }
        }
        true
    }

    /// The parser writes.
    fn send(&mut self, mut bytes: &[u8]) {
        let mut context = Context::from_waker(Waker::noop());
        while !bytes.is_empty() {
            let Poll::Ready(Ok(written)) = Pin::new(&mut self.limit).poll_write(&mut context, bytes) else {
                panic!("nothing here waits")
            };
            bytes = &bytes[written..];
        }
    }

    /// A client that has said hello; with a call in flight if `calls`.
    fn opened(piece_bytes: usize, calls: bool) -> Self {
        let mut connection = Self::new(piece_bytes);
        assert!(connection.receive(&[PREFACE, SETTINGS].concat()));
        connection.send(SETTINGS);
        if calls {
            assert!(connection.receive(&frame(HEADERS, 0x4, 1, b"block")));
        }
        connection
    }

    /// After how many pings, `gap` apart, each answered, it ends; `None` if not within twenty.
    fn ends_after(&mut self, gap: Duration) -> Option<u32> {
        (1..=20).find(|_| {
            self.wait(gap);
            let goes_on = self.receive(PING_FRAME);
            if goes_on {
                self.send(PING_ACK);
            }
            !goes_on
        })
    }
}

#[test]
fn who_pings_too_often_is_told_so_and_cut_off_however_the_bytes_come() {
    for piece_bytes in [1, 2, 7, 9, 10, 1000] {
        let mut connection = Connection::opened(piece_bytes, true);
        connection.limit.inner.written.clear();
        assert_eq!(connection.ends_after(Duration::from_secs(4)), Some(4), "the first and three more");
        let written = &connection.limit.inner.written;
        let goaway = [&[0, 0, 22, 7, 0, 0, 0, 0, 0], &[0, 0, 0, 1][..], &[0, 0, 0, 0xb], b"too_many_pings"].concat();
        assert_eq!(written[3 * PING_ACK.len()..], goaway, "after the answers to the others");
        assert!(!connection.receive(PING_FRAME), "it stays so");
    }
}

#[test]
fn pings_far_enough_apart_are_welcome_while_there_is_a_call() {
    assert_eq!(Connection::opened(100, true).ends_after(Duration::from_secs(5)), None);
}

#[test]
fn without_a_call_two_hours_must_lie_between_pings() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert_eq!(Connection::opened(100, false).ends_after(hours(1)), Some(4));
    assert_eq!(Connection::opened(100, false).ends_after(hours(2)), None);
    type Ends = (&'static str, fn(&mut Connection));
    let ends: [Ends; 3] = [
        ("answered", |connection| connection.send(&frame(HEADERS, 0x5, 1, b"trailers"))),
        ("given up", |connection| assert!(connection.receive(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])))),
        ("refused", |connection| connection.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]))),
    ];
    for (how, end) in ends {
        let mut connection = Connection::opened(100, true);
        end(&mut connection);
        let ended = connection.ends_after(hours(1)).unwrap_or_else(|| panic!("the call was {how}"));
        assert!(ended <= 5, "{how}: {ended}");
    }
}

#[test]
fn what_is_sent_takes_the_strikes_back() {
    let mut connection = Connection::opened(100, true);
    for round in 0..10 {
        assert!(connection.receive(&PING_FRAME.repeat(3)), "round {round}");
        connection.send(&frame(DATA, 0, 1, b"an event"));
    }
    // The first one after an answer counts as none, whenever it comes; three that come too soon do.
    assert!(!connection.receive(&PING_FRAME.repeat(4)));
}

#[test]
fn answers_to_our_own_pings_and_http1_pass() {
    let mut connection = Connection::opened(100, true);
    assert!(connection.receive(&PING_ACK.repeat(20)));
    let mut http1 = Connection::new(100);
    assert!(http1.receive(b"PRI / HTTP/1.1\r\n\r\n"));
    http1.send(b"HTTP/1.1 404 Not Found\r\n\r\n");
    assert!(http1.receive(&PING_FRAME.repeat(20)));
}

#[test]
fn in_the_middle_of_a_frame_nothing_else_is_written() {
    let mut connection = Connection::opened(100, true);
    connection.send(&frame(DATA, 0, 1, b"an event")[..12]);
    let written = connection.limit.inner.written.len();
    assert!(!connection.receive(&PING_FRAME.repeat(5)));
    assert_eq!(connection.limit.inner.written.len(), written);
}

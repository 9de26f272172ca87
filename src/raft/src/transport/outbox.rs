//! What waits to be written to one stream that a peer dialed.
//!
//! The peer reads; we write, into the body of the answer to its GET. Between [`Outbox::push`], called from the raft loop, and
//! [`StreamBody`], polled by the connection, lies this queue. It exists only while a body is attached: without one, messages
//! go another way, and when a body goes what is queued goes with it, for Raft is told and sends again what still matters.
//!
//! At most one body is attached. A peer that dials again gets the new one, and the old one ends. A body that has taken
//! nothing for [`PeerLimits::write`](super::PeerLimits::write) although messages wait is given up: its connection is stuck.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use quorate_proto::raftpb;
use quorate_runtime::BoxFuture;
use quorate_runtime::clock::MonoTime;

use super::codec::{Encoder, StreamKind};
use super::peer::Peer;
use super::{LINK_HEARTBEAT_INTERVAL, STREAM_QUEUE_MESSAGES};

/// Messages that are written at once, if so many wait.
const BATCH_MESSAGES: usize = 2048;
/// A batch ends when it has grown this large.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes of messages that wait for one peer, over all its queues.
#[derive(Debug)]
pub struct Budget {
    used_bytes: AtomicUsize,
    max_bytes: usize,
}

impl Budget {
    /// A budget of `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { used_bytes: AtomicUsize::new(0), max_bytes }
    }

    /// Takes `bytes`, unless that is more than is left. A message that is larger than the whole budget may go alone.
    fn take(&self, bytes: usize) -> bool {
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used == 0 || used.saturating_add(bytes) <= self.max_bytes).then(|| used.saturating_add(bytes))
            })
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// About what a message takes in memory and on the wire.
fn weight_bytes(message: &raftpb::Message) -> usize {
    let entries: usize = message.entries.iter().map(|entry| 64 + entry.data.as_ref().map_or(0, Bytes::len)).sum();
    128 + entries + message.context.as_ref().map_or(0, Bytes::len)
}

/// A queue of messages, bounded in number and, with others, in bytes.
#[derive(Debug)]
pub struct MessageQueue {
    messages: VecDeque<(raftpb::Message, usize)>,
    messages_max: usize,
    budget: Arc<Budget>,
}

impl MessageQueue {
    /// An empty queue.
    pub fn new(messages_max: usize, budget: Arc<Budget>) -> Self {
        Self { messages: VecDeque::new(), messages_max, budget }
    }

    /// Appends `message`; false, and nothing done, if there is no room.
    pub fn push(&mut self, message: raftpb::Message) -> bool {
        let weight = weight_bytes(&message);
        if self.messages.len() >= self.messages_max || !self.budget.take(weight) {
            return false;
        }
        self.messages.push_back((message, weight));
        true
    }

    /// The oldest message, and its weight in bytes.
    pub fn pop(&mut self) -> Option<(raftpb::Message, usize)> {
        let (message, weight) = self.messages.pop_front()?;
        self.budget.give_back(weight);
        Some((message, weight))
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Drops what waits; how much that was.
    pub fn clear(&mut self) -> usize {
        let dropped = self.messages.len();
        while self.pop().is_some() {}
        dropped
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What became of a message.
#[derive(Debug, PartialEq)]
pub enum Pushed {
    /// It will be written. Wake the writer after the batch: [`Outbox::wake`].
    Queued,
    /// No room; it is dropped.
    Full,
    /// Nobody reads this stream; the message goes another way.
    NotAttached(raftpb::Message),
    /// The reader was stuck and has just been given up, with what waited for it; the message goes another way.
    Stuck(raftpb::Message),
}

/// The queue before one stream.
#[derive(Debug)]
pub struct Outbox {
    /// How long a message may wait for who reads.
    write_limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Which body is attached, if one is; each gets a number of its own.
    attached: Option<u64>,
    last_attached: u64,
    closed: bool,
    queue: MessageQueue,
    /// Since when the oldest message waits.
    waiting_since: Option<MonoTime>,
    waker: Option<Waker>,
    wake_due: bool,
}

impl Outbox {
    /// Nobody attached.
    pub fn new(budget: Arc<Budget>, write_limit: Duration) -> Self {
        Self {
            write_limit,
            state: Mutex::new(State {
                attached: None,
                last_attached: 0,
                closed: false,
                queue: MessageQueue::new(STREAM_QUEUE_MESSAGES, budget),
                waiting_since: None,
                waker: None,
                wake_due: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `message` if a body is attached.
    pub fn push(&self, message: raftpb::Message, now: MonoTime) -> Pushed {
        let mut state = self.state();
        if state.attached.is_none() {
            return Pushed::NotAttached(message);
        }
        if state.waiting_since.is_some_and(|since| now.since(since) >= self.write_limit) {
            let waker = state.release();
            drop(state);
            wake(waker);
            return Pushed::Stuck(message);
        }
        if !state.queue.push(message) {
            return Pushed::Full;
        }
        state.waiting_since.get_or_insert(now);
        state.wake_due = true;
        Pushed::Queued
    }

    /// Wakes the writer if something was queued since the last call.
    pub fn wake(&self) {
        let mut state = self.state();
        let waker = if std::mem::take(&mut state.wake_due) { state.waker.take() } else { None };
        drop(state);
        wake(waker);
    }

    /// Attaches a new body, instead of the one before. Nothing if the peer is gone. The flag says if one was replaced.
    fn attach(&self) -> Option<(u64, bool)> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let replaced = state.attached.is_some();
        let waker = state.release();
        state.last_attached += 1;
        state.attached = Some(state.last_attached);
        let number = state.last_attached;
        drop(state);
        wake(waker);
        Some((number, replaced))
    }

    /// The body `number` is gone. True if it was still attached.
    fn detach(&self, number: u64) -> bool {
        let mut state = self.state();
        let was_attached = state.attached == Some(number);
        if was_attached {
            // Its waker needs no call: it is the one that is gone.
            state.release();
        }
        was_attached
    }

    /// True while a body is attached.
    pub fn is_attached(&self) -> bool {
        self.state().attached.is_some()
    }

    /// Ends the attached body, and lets no other attach.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let waker = state.release();
        drop(state);
        wake(waker);
    }

    /// Moves what waits for body `number`, as much as is written at once, into `batch`.
    fn poll_batch(
        &self,
        number: u64,
        now: MonoTime,
        context: &mut Context<'_>,
        batch: &mut Vec<raftpb::Message>,
    ) -> Batch {
        let mut state = self.state();
        if state.attached != Some(number) {
            return Batch::Ended;
        }
        let mut bytes = 0;
        while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some((message, weight)) = state.queue.pop() else { break };
            bytes += weight;
            batch.push(message);
        }
        if batch.is_empty() {
            state.waker = Some(context.waker().clone());
            return Batch::Nothing;
        }
        // The reader makes progress; what is left waits anew.
        state.waiting_since = (!state.queue.is_empty()).then_some(now);
        Batch::Some { bytes }
    }
}

impl State {
    /// Lets the attached body go and drops what waited for it. The waker, to be called, is how it learns.
    fn release(&mut self) -> Option<Waker> {
        self.attached = None;
        self.queue.clear();
        self.waiting_since = None;
        self.wake_due = false;
        self.waker.take()
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[derive(Debug, PartialEq)]
enum Batch {
    /// Another body is attached, or none may be any more.
    Ended,
    /// The waker will be called.
    Nothing,
    Some {
        bytes: usize,
    },
}

/// The body of the answer to a peer's GET: an endless row of frames, until the peer dials again or is removed.
pub struct StreamBody {
    peer: Arc<Peer>,
    kind: StreamKind,
    number: u64,
    encoder: Encoder,
    heartbeat: BoxFuture<'static, ()>,
    /// Kept for its memory.
    batch: Vec<raftpb::Message>,
}

impl StreamBody {
    /// Attaches a body to `peer`'s stream of that kind. Nothing if the peer was removed meanwhile.
    pub fn attach(peer: Arc<Peer>, kind: StreamKind) -> Option<Self> {
        let (number, replaced) = peer.outbox(kind).attach()?;
        if replaced {
            tracing::info!(peer = %peer.id(), stream = kind.name(), "the peer dialed again; its old stream is closed");
            peer.report_unreachable();
        }
        tracing::info!(peer = %peer.id(), stream = kind.name(), "the peer reads our stream");
        peer.activate();
        let heartbeat = peer.rt().sleep(LINK_HEARTBEAT_INTERVAL);
        Some(Self { kind, number, encoder: Encoder::new(kind), heartbeat, batch: Vec::new(), peer })
    }

    /// The next bytes to write; `None` for the end.
    pub fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut out = BytesMut::new();
        if self.heartbeat.as_mut().poll(context).is_ready() {
            self.encoder.link_heartbeat(&mut out);
            self.heartbeat = self.peer.rt().sleep(LINK_HEARTBEAT_INTERVAL);
        }
        let now = self.peer.rt().mono_now();
        match self.peer.outbox(self.kind).poll_batch(self.number, now, context, &mut self.batch) {
            Batch::Ended => return Poll::Ready(None),
            // With bytes to give, the timer that was just made is polled next time.
            Batch::Nothing if out.is_empty() => return Poll::Pending,
            Batch::Nothing => {}
            Batch::Some { bytes } => {
                out.reserve(bytes);
                for message in self.batch.drain(..) {
                    self.encoder.message(&message, &mut out);
                }
            }
        }
        self.peer.count_sent(out.len());
        Poll::Ready(Some(out.freeze()))
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.poll_bytes(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        // Still attached: the connection broke under it. What it had taken may be lost, even if nothing waits now.
        if self.peer.outbox(self.kind).detach(self.number) {
            self.peer.deactivate(self.kind.name(), "write", "the connection is gone");
            self.peer.report_unreachable();
        }
    }
}

impl std::fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamBody")
            .field("peer", &self.peer.id())
            .field("kind", &self.kind)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

//! Sending a database: one POST, read from disk as it goes.
//!
//! The body is the raft message in the form of a [`message`](super::codec::message) frame, and then the database file, to
//! the end of the body. Each chunk is pulled on a worker thread when the connection has room for it, so that a slow peer
//! costs no memory. Whatever happens, Raft hears of the end ([`Inbox::snapshot_sent`](super::Inbox::snapshot_sent)): a
//! follower whose snapshot is under way gets nothing else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_proto::raftpb;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::spawn::{Worker, WorkerGone, run_on};
use quorate_runtime::{BoxFuture, Rt, select};

use super::SnapshotWay;
use super::body::RequestBody;
use super::codec::message::MessageEncoder;
use super::connection::{CallError, Connection};
use super::peer::Peer;
use super::pipeline::check_answer;

/// Longest time in which the peer takes no chunk.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Longest time between the last chunk and the answer: meanwhile the peer syncs the file.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// The database of a snapshot, chunk by chunk.
pub trait SnapshotBody: Send + 'static {
    /// The next chunk, or `None` at the end. Called on a worker thread: may read from disk. An error cuts the transfer, and the
    /// peer throws away what it has.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>>;
}

/// Reports the end of a transfer exactly once, also if the task that makes it is dropped.
pub struct Report {
    peer: Arc<Peer>,
    begun_at: MonoTime,
    reported: bool,
}

impl Report {
    /// For a transfer that begins.
    pub fn new(peer: Arc<Peer>) -> Self {
        let begun_at = peer.rt().mono_now();
        peer.core().inbox.transfer_begins(SnapshotWay::Sent, peer.id());
        Self { peer, begun_at, reported: false }
    }

    fn done(mut self, ok: bool) {
        self.tell(ok);
    }

    fn tell(&mut self, ok: bool) {
        self.reported = true;
        let (inbox, id) = (&self.peer.core().inbox, self.peer.id());
        inbox.transfer_ends(SnapshotWay::Sent, id, ok, self.peer.rt().mono_now() - self.begun_at);
        inbox.snapshot_sent(id, ok);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.reported {
            self.tell(false);
        }
    }
}

/// Sends one snapshot.
pub async fn send(report: Report, message: raftpb::Message, body: Box<dyn SnapshotBody>) {
    let peer = report.peer.clone();
    let index = index_of(&message);
    tracing::info!(peer = %peer.id(), index, "sending a database snapshot");
    let started = peer.rt().mono_now();
    match post(&peer, &message, body).await {
        Ok(sent_bytes) => {
            let took_ms = peer.rt().mono_now().since(started).as_millis();
            tracing::info!(peer = %peer.id(), index, bytes = sent_bytes, took_ms, "sent a database snapshot");
            peer.activate();
            report.done(true);
        }
        Err(error) => {
            tracing::warn!(peer = %peer.id(), index, %error, "failed to send a database snapshot");
            peer.deactivate("snapshot", "post", error);
            peer.count_send_failure();
            peer.report_unreachable();
            report.done(false);
        }
    }
}

fn index_of(message: &raftpb::Message) -> u64 {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.map_or(0, raftpb::SnapshotMetadata::index)
}

async fn post(peer: &Peer, message: &raftpb::Message, body: Box<dyn SnapshotBody>) -> Result<u64, CallError> {
    let core = peer.core();
    let url = peer.urls.pick().map_err(CallError::Unusable)?;
    let progress = Arc::new(Progress::new(peer.rt().clone()));
    let result = async {
        let mut connection = Connection::dial(peer.rt(), url.clone(), core.dial_limit()).await?;
        let mut head = BytesMut::new();
        MessageEncoder.message(message, &mut head);
        let upload = Upload {
            head: Some(head.freeze()),
            pull: Pull::Idle(body),
            worker: core.worker().clone(),
            progress: progress.clone(),
        };
        let body = RequestBody::Upload(Box::new(upload));
        let request = core.headers.post(&url, super::PATH_SNAPSHOT, "application/octet-stream", body);
        let answer = select! {
            biased;
            answer = connection.call_patiently(request) => answer?,
            limit = progress.stalled() => return Err(CallError::Timeout(limit)),
        };
        check_answer(peer, &mut connection, answer).await
    }
    .await;
    let sent_bytes = progress.sent_bytes.load(Ordering::Relaxed);
    peer.count_sent(usize::try_from(sent_bytes).unwrap_or(usize::MAX));
    if result.is_err() {
        peer.urls.failed(&url);
    }
    result.map(|()| sent_bytes)
}

/// How far an upload is.
struct Progress {
    rt: Rt,
    /// When the connection last took a chunk, in nanoseconds of the monotonic clock.
    at_ns: AtomicU64,
    complete: AtomicBool,
    sent_bytes: AtomicU64,
}

impl Progress {
    fn new(rt: Rt) -> Self {
        let at_ns = AtomicU64::new(rt.mono_now().as_nanos());
        Self { rt, at_ns, complete: AtomicBool::new(false), sent_bytes: AtomicU64::new(0) }
    }

    fn step(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.at_ns.store(self.rt.mono_now().as_nanos(), Ordering::Relaxed);
    }

    fn limit(&self) -> Duration {
        if self.complete.load(Ordering::Relaxed) { ANSWER_LIMIT } else { STALL_LIMIT }
    }

    /// Completes when nothing has happened for too long.
    async fn stalled(&self) -> Duration {
        loop {
            let deadline = MonoTime::from_nanos(self.at_ns.load(Ordering::Relaxed)) + self.limit();
            if self.rt.mono_now() >= deadline {
                return self.limit();
            }
            self.rt.sleep_until(deadline).await;
        }
    }
}

/// The body of the request.
pub struct Upload {
    head: Option<Bytes>,
    pull: Pull,
    worker: Arc<dyn Worker>,
    progress: Arc<Progress>,
}

type Pulled = Result<(Box<dyn SnapshotBody>, io::Result<Option<Bytes>>), WorkerGone>;

enum Pull {
    Idle(Box<dyn SnapshotBody>),
    Running(BoxFuture<'static, Pulled>),
    Done,
}

impl Upload {
    /// The next chunk; an error if reading it failed.
    pub fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(head) = self.head.take() {
            self.progress.step(head.len());
            return Poll::Ready(Some(Ok(head)));
        }
        loop {
            match std::mem::replace(&mut self.pull, Pull::Done) {
                Pull::Done => return Poll::Ready(None),
                Pull::Idle(mut body) => {
                    let worker = self.worker.clone();
                    self.pull = Pull::Running(Box::pin(async move {
                        run_on(&*worker, move || {
                            let chunk = body.next_chunk();
                            (body, chunk)
                        })
                        .await
                    }));
                }
                Pull::Running(mut running) => {
                    let Poll::Ready(pulled) = running.as_mut().poll(context) else {
                        self.pull = Pull::Running(running);
                        return Poll::Pending;
                    };
                    let (body, chunk) = match pulled {
                        Ok(pulled) => pulled,
                        Err(WorkerGone) => return Poll::Ready(Some(Err(io::Error::other("the member is going down")))),
                    };
                    match chunk {
                        Err(error) => return Poll::Ready(Some(Err(error))),
                        Ok(None) => {
                            self.progress.step(0);
                            self.progress.complete.store(true, Ordering::Relaxed);
                            return Poll::Ready(None);
                        }
                        Ok(Some(chunk)) => {
                            self.pull = Pull::Idle(body);
                            // An empty chunk would end the body.
                            if !chunk.is_empty() {
                                self.progress.step(chunk.len());
                                return Poll::Ready(Some(Ok(chunk)));
                            }
                        }
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}

//! Messages between members, as etcd's rafthttp carries them.
//!
//! Between two members there are four long streams: each dials two at the other, and *the dialer reads*. So a message to a
//! peer goes into the body of an answer that the peer asked for. Follow one:
//!
//! 1. The raft loop calls [`Transport::send`] with what one `Ready` wants sent. Each message goes into the queue of its way
//!    (`peer`): the stream `msgapp` for appends, the stream `message` for the rest, or, while the peer reads neither, a POST
//!    (`pipeline`). Nothing waits: a full queue drops the message and Raft is told that the peer is unreachable.
//! 2. Each stream that got something is woken once. Its body (`outbox`) takes the batch and encodes it ([`codec`]) into one
//!    buffer, which the connection writes.
//! 3. At the other end a task (`reader`) that has dialed (`connection`) decodes frames and hands the messages to
//!    [`Inbox::deliver`].
//!
//! Snapshots go by themselves (`snapshot_send`, `snapshot_receive`). A `probe` measures each member. `handler` is the
//! door: everything that a peer asks of us. An embedder may carry messages itself, instead of streams (`frames`).
//!
//! A stream with nothing to say sends a link heartbeat every 5 s / 3, so silence for 5 s means that it is dead. Whatever is
//! wrong with a stream or a post, it ends, Raft is told, and the way is tried again: Raft needs no message to arrive.
//!
//! Every task belongs to one peer and ends with it. All time and all bytes come through the runtime, so the same code runs
//! over sockets and in the simulation.

mod body;
pub mod codec;
mod connection;
mod frames;
mod handler;
mod headers;
mod outbox;
mod patience;
mod peer;
mod pipeline;
mod probe;
mod reader;
mod snapshot_receive;
mod snapshot_send;
mod url;
mod write_limit;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use quorate_proto::raftpb;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::spawn::Worker;
use quorate_runtime::sync::watch;
use quorate_runtime::{BoxFuture, Rt, select};
use quorate_types::{ClusterId, MemberId};

pub use body::{RequestBody, ResponseBody};
pub use connection::{CallError, Connection};
pub use frames::{Carrier, Frame, Refusal};
pub use headers::Version;
pub use peer::PeerStatus;
pub use snapshot_receive::{remove_unfinished, snapshot_path};
pub use snapshot_send::SnapshotBody;
pub use url::PeerUrl;
pub use write_limit::WriteLimit;

use codec::StreamKind;
use headers::OwnHeaders;
use peer::Peer;

/// The least of [`PeerLimits`] (etcd `server/etcdserver/api/rafthttp/peer.go`).
pub const PEER_LIMIT_MIN: Duration = Duration::from_secs(5);
/// Time between link heartbeats. Whoever has longer limits still talks to members that may not.
const LINK_HEARTBEAT_INTERVAL: Duration = PEER_LIMIT_MIN.checked_div(3).expect("three is not zero");
/// Time between the beginnings of two dials of one stream.
const REDIAL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a post connection is kept without use: less than [`PEER_LIMIT_MIN`], after which the peer's listener ends it.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// Time to connect, beside the election timeout.
const DIAL_LIMIT: Duration = Duration::from_secs(1);
/// Messages that wait for one stream.
const STREAM_QUEUE_MESSAGES: usize = 4096;
/// Senders that we do not know as members but remember, to answer them.
const REMOTES_MAX: usize = 64;

const PATH_POST: &str = "/raft";
const PATH_SNAPSHOT: &str = "/raft/snapshot";
const PATH_STREAM: &str = "/raft/stream";
const PATH_PROBING: &str = "/raft/probing";

/// What a transport is started with.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Who we are.
    pub id: MemberId,
    /// Our cluster.
    pub cluster_id: ClusterId,
    /// Our own advertised peer URLs; peers that do not know us answer there.
    pub peer_urls: Vec<String>,
    /// The etcd release that we claim to be, as `3.7.1`.
    pub server_version: &'static str,
    /// A dial may take this long, and a second.
    pub election_timeout: Duration,
    /// Where received databases go.
    pub snapshot_dir: PathBuf,
    /// Bounds.
    pub limits: TransportLimits,
}

/// What waits for a peer at most, if nothing else is said, in bytes.
pub(crate) const QUEUED_BYTES_DEFAULT: u64 = 64 << 20;

/// How long a peer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Longest silence of a stream, and longest wait for an answer.
    pub read: Duration,
    /// Longest wait of a write to a peer that does not read.
    pub write: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self { read: PEER_LIMIT_MIN, write: PEER_LIMIT_MIN }
    }
}

/// How much a peer may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    /// Bounds on what is read.
    pub codec: codec::Limits,
    /// Bytes of messages that wait for one peer.
    pub queued_bytes_max: usize,
    /// Waits.
    pub wait: PeerLimits,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            codec: codec::Limits::default(),
            queued_bytes_max: QUEUED_BYTES_DEFAULT as usize,
            wait: PeerLimits::default(),
        }
    }
}

/// Raft's queue has no room; the message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Raft's queue is full")]
pub struct Full;

/// A snapshot whose database has arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedSnapshot {
    /// The `MsgSnap`; it has a snapshot with metadata.
    pub message: raftpb::Message,
    /// The database: a bbolt file, synced. It is the receiver's now, to use and to remove.
    pub file: PathBuf,
    /// The file's length.
    pub size_bytes: u64,
    /// What it took to write it; nothing if it was there already.
    pub saved: Option<SavedIn>,
}

/// How long it took to write a file that came from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedIn {
    /// From the first byte until it had its name.
    pub total: Duration,
    /// The last sync of it.
    pub sync: Duration,
}

/// The way that a snapshot takes between two members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotWay {
    /// From here to a peer.
    Sent,
    /// From a peer to here.
    Received,
}

/// What the transport tells the member. Called on reactors, without any lock held; no call may block.
pub trait Inbox: Send + Sync + 'static {
    /// A message for Raft. Its sender is whoever it says: nothing but the cluster was checked.
    fn deliver(&self, message: raftpb::Message) -> Result<(), Full>;

    /// A snapshot. `Ok` means that Raft has the message; an error is answered to the sender, who tries again later.
    fn deliver_snapshot(&self, received: ReceivedSnapshot) -> BoxFuture<'static, Result<(), String>>;

    /// A message to `peer` was lost, or may have been.
    fn unreachable(&self, peer: MemberId);

    /// A transfer that [`Transport::send_snapshot`] began has ended. Called once for each, on every path.
    fn snapshot_sent(&self, peer: MemberId, ok: bool);

    /// The database of a snapshot is on its way between here and `peer`, for whoever counts.
    fn transfer_begins(&self, way: SnapshotWay, peer: MemberId);

    /// A transfer that began has ended after `took`; well, if it `arrived`.
    fn transfer_ends(&self, way: SnapshotWay, peer: MemberId, arrived: bool, took: Duration);

    /// `by` says that we were removed from the cluster. May be called many times.
    fn removed(&self, by: MemberId);

    /// Probing looked at `peer`, which has answered before: `smoothed` is the smoothed time of a round trip.
    fn probed(&self, peer: MemberId, smoothed: Duration);

    /// Was `id` removed from the cluster for good?
    fn is_removed(&self, id: MemberId) -> bool;
}

/// What every part of the transport needs.
struct Core {
    rt: Rt,
    config: TransportConfig,
    headers: OwnHeaders,
    own_urls: Arc<[String]>,
    inbox: Arc<dyn Inbox>,
    /// Takes messages instead of streams and posts.
    carrier: Option<Arc<dyn Carrier>>,
    worker: OnceLock<Arc<dyn Worker>>,
    /// Snapshots under way to us.
    transfers: AtomicUsize,
    /// Names temporary files.
    received_count: AtomicU64,
}

impl Core {
    fn dial_limit(&self) -> Duration {
        DIAL_LIMIT + self.config.election_timeout
    }

    fn read_limit(&self) -> Duration {
        self.config.limits.wait.read
    }

    /// Where snapshots are read and written. Most members never need it.
    fn worker(&self) -> &Arc<dyn Worker> {
        self.worker.get_or_init(|| self.rt.background_worker("peer-snapshot"))
    }

    /// Hands a message to Raft. Those that a member only ever sends to itself are dropped, as etcd does; a snapshot is of no
    /// use without its database, which comes with it another way.
    fn deliver(&self, message: raftpb::Message) -> Result<(), &'static str> {
        if is_local(&message) {
            tracing::debug!(message_type = message.r#type.unwrap_or(0), "dropped a message that no member sends");
            return Ok(());
        }
        if message.r#type() == raftpb::MessageType::MsgSnap {
            return Err("a snapshot came without its database");
        }
        self.inbox.deliver(message).map_err(|Full| "Raft's queue is full")
    }

    /// A posted message must come from a member that was not removed, and be for us.
    fn check_addressed(&self, message: &raftpb::Message) -> Result<(), String> {
        let (from, to) = (MemberId(message.from()), MemberId(message.to()));
        if self.inbox.is_removed(from) {
            return Err(format!("its sender {from} was removed from the cluster"));
        }
        if to != self.config.id {
            return Err(format!("it is for {to}, and this is {}", self.config.id));
        }
        Ok(())
    }
}

fn is_local(message: &raftpb::Message) -> bool {
    use raftpb::MessageType as Type;
    let Ok(message_type) = Type::try_from(message.r#type.unwrap_or(0)) else { return true };
    matches!(
        message_type,
        Type::MsgHup
            | Type::MsgBeat
            | Type::MsgUnreachable
            | Type::MsgSnapStatus
            | Type::MsgCheckQuorum
            | Type::MsgStorageAppend
            | Type::MsgStorageAppendResp
            | Type::MsgStorageApply
            | Type::MsgStorageApplyResp
    )
}

/// The transport of one member.
pub struct Transport {
    core: Arc<Core>,
    peers: Mutex<Peers>,
}

#[derive(Default)]
struct Peers {
    stopped: bool,
    by_id: BTreeMap<MemberId, Handle>,
}

/// A peer and the end of its tasks.
struct Handle {
    peer: Arc<Peer>,
    /// True, or dropped: its tasks end.
    stop: watch::Sender<bool>,
    /// We were told of it; otherwise it is a remote.
    is_member: bool,
}

impl Handle {
    fn start(core: &Arc<Core>, id: MemberId, urls: &[String]) -> Self {
        let handle =
            Self { peer: Arc::new(Peer::new(core.clone(), id, urls)), stop: watch::channel(false).0, is_member: false };
        if core.carrier.is_none() {
            for _ in 0..pipeline::WORKERS {
                handle.spawn(pipeline::work(handle.peer.clone()));
            }
        }
        handle
    }

    fn become_member(&mut self) {
        self.is_member = true;
        if self.peer.core().carrier.is_some() {
            self.spawn(frames::keep_in_touch(self.peer.clone()));
        } else {
            for kind in [StreamKind::MsgApp, StreamKind::Message] {
                self.spawn(reader::read(self.peer.clone(), kind));
            }
        }
        self.spawn(probe::probe(self.peer.clone()));
    }

    /// Runs `task` until this handle is dropped.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn_until(self.peer.rt(), self.stop.subscribe(), task);
    }
}

/// Runs `task` until `stop` is true, or its sender is gone.
fn spawn_until(rt: &Rt, mut stop: watch::Receiver<bool>, task: impl Future<Output = ()> + Send + 'static) {
    rt.spawn(Box::pin(async move {
        select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = task => {}
        }
    }));
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.peer.close();
        self.stop.send_replace(true);
    }
}

impl Transport {
    /// A transport without peers.
    pub fn new(rt: Rt, config: TransportConfig, inbox: Arc<dyn Inbox>) -> Arc<Self> {
        Self::with_carrier(rt, config, inbox, None)
    }

    /// The same; what it sends goes through `carrier`, if there is one.
    pub fn with_carrier(
        rt: Rt,
        config: TransportConfig,
        inbox: Arc<dyn Inbox>,
        carrier: Option<Arc<dyn Carrier>>,
    ) -> Arc<Self> {
        let headers = OwnHeaders::new(&config);
        let own_urls = config.peer_urls.clone().into();
        let core = Core {
            rt,
            config,
            headers,
            own_urls,
            inbox,
            carrier,
            worker: OnceLock::new(),
            transfers: AtomicUsize::new(0),
            received_count: AtomicU64::new(0),
        };
        Arc::new(Self { core: Arc::new(core), peers: Mutex::default() })
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another member: its streams are dialed, it is probed, and it may read ours. Does nothing if it is known already, or is
    /// ourselves. The tasks run on the calling reactor.
    pub fn add_peer(&self, id: MemberId, urls: Vec<String>) {
        let mut peers = self.peers();
        if peers.stopped || id == self.core.config.id {
            return;
        }
        let handle = peers.by_id.entry(id).or_insert_with(|| Handle::start(&self.core, id, &urls));
        if !handle.is_member {
            // If it was a remote, the member list knows better where it is.
            handle.peer.urls.update(&urls);
            handle.become_member();
            tracing::info!(peer = %id, ?urls, "added a peer");
        }
    }

    /// A sender that is no member that we know: it can be posted to.
    fn add_remote(&self, id: MemberId, urls: Vec<String>) {
        if id == self.core.config.id || id == MemberId(0) || self.core.inbox.is_removed(id) {
            return;
        }
        let mut peers = self.peers();
        if peers.stopped || peers.by_id.contains_key(&id) {
            return;
        }
        if peers.by_id.values().filter(|handle| !handle.is_member).count() >= REMOTES_MAX {
            tracing::warn!(from = %id, "an unknown sender is not remembered: there are too many");
            return;
        }
        tracing::info!(from = %id, ?urls, "an unknown member sends to us; it can be answered at its URLs");
        peers.by_id.insert(id, Handle::start(&self.core, id, &urls));
    }

    /// A peer is reached at other URLs now. Streams that run go on; an unknown peer is ignored.
    pub fn update_peer(&self, id: MemberId, urls: Vec<String>) {
        if let Some(handle) = self.peers().by_id.get(&id) {
            handle.peer.urls.update(&urls);
            tracing::info!(peer = %id, ?urls, "updated a peer");
        }
    }

    /// A peer is no member any more: its streams end, what waits for it is dropped. Fine if it is unknown.
    pub fn remove_peer(&self, id: MemberId) {
        let removed = self.peers().by_id.remove(&id);
        if removed.is_some() {
            tracing::info!(peer = %id, "removed a peer");
        }
    }

    fn peer(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.peers().by_id.get(&id).map(|handle| handle.peer.clone())
    }

    fn member(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.peers().by_id.get(&id).filter(|handle| handle.is_member).map(|handle| handle.peer.clone())
    }

    fn is_stopped(&self) -> bool {
        self.peers().stopped
    }

    /// Sends each message to whom it says, in order for one way to one peer. Never blocks: what finds no room is dropped, and
    /// [`Inbox::unreachable`] is called before this returns. Messages to nobody, or to unknown members, are dropped silently.
    /// A `MsgSnap` does not belong here: it is dropped and reported as failed; see [`Transport::send_snapshot`].
    pub fn send(&self, messages: Vec<raftpb::Message>) {
        let now = self.core.rt.mono_now();
        let mut lost = BTreeSet::new();
        let mut misplaced = Vec::new();
        {
            let peers = self.peers();
            let mut carried: BTreeMap<MemberId, Vec<raftpb::Message>> = BTreeMap::new();
            for message in messages {
                let to = MemberId(message.to());
                let Some(handle) = peers.by_id.get(&to) else { continue };
                if message.r#type() == raftpb::MessageType::MsgSnap {
                    misplaced.push(to);
                } else if self.core.carrier.is_some() {
                    carried.entry(to).or_default().push(message);
                } else if !handle.peer.push(message, now) {
                    lost.insert(to);
                }
            }
            lost.extend(
                carried
                    .into_iter()
                    .filter_map(|(to, messages)| (!frames::send(&peers.by_id[&to].peer, messages)).then_some(to)),
            );
            // Also those that got nothing: there is nothing to wake then.
            peers.by_id.values().for_each(|handle| handle.peer.wake());
        }
        for peer in lost {
            tracing::debug!(%peer, "messages were dropped: the peer does not take them fast enough");
            self.core.inbox.unreachable(peer);
        }
        for peer in misplaced {
            tracing::error!(%peer, "a snapshot without its database was dropped");
            self.core.inbox.snapshot_sent(peer, false);
        }
    }

    /// Sends a snapshot (a `MsgSnap` with metadata) and its database to whom it says. Each pull of `body` runs on a worker.
    /// [`Inbox::snapshot_sent`] tells the end, also if there is no such peer or it is removed meanwhile.
    pub fn send_snapshot(&self, message: raftpb::Message, body: Box<dyn SnapshotBody>) {
        let to = MemberId(message.to());
        let found = {
            let peers = self.peers();
            let member = peers.by_id.get(&to).filter(|handle| handle.is_member);
            member.map(|handle| (handle.peer.clone(), handle.stop.subscribe()))
        };
        match found {
            Some((peer, stop)) => {
                let report = snapshot_send::Report::new(peer);
                spawn_until(&self.core.rt, stop, snapshot_send::send(report, message, body));
            }
            None => {
                tracing::warn!(peer = %to, "a snapshot was not sent: the peer is unknown");
                self.core.inbox.snapshot_sent(to, false);
            }
        }
    }

    /// Answers a request under `/raft` (any other path gets 404). The peer listener's HTTP/1.1 server calls this; it should
    /// read through nothing, write through [`WriteLimit`], end connections that are idle for [`PeerLimits::read`], and add no `Date`.
    pub async fn handle<B>(self: &Arc<Self>, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
    {
        handler::handle(self, request).await
    }

    /// Since when a member has been reached without a failure; `None` if the last attempt failed or it is unknown.
    pub fn active_since(&self, id: MemberId) -> Option<MonoTime> {
        self.member(id).and_then(|peer| peer.active_since())
    }

    /// What is known of each peer, in order of id.
    pub fn status(&self) -> BTreeMap<MemberId, PeerStatus> {
        let peers: Vec<_> = {
            let peers = self.peers();
            peers.by_id.iter().map(|(id, handle)| (*id, handle.peer.clone(), handle.is_member)).collect()
        };
        peers.into_iter().map(|(id, peer, is_member)| (id, peer.status(is_member))).collect()
    }

    /// Ends all streams and tasks, for good. Transfers under way are reported as failed.
    pub fn stop(&self) {
        let handles = {
            let mut peers = self.peers();
            peers.stopped = true;
            std::mem::take(&mut peers.by_id)
        };
        drop(handles);
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("id", &self.core.config.id).finish_non_exhaustive()
    }
}

//! Between the member and the transport: what peers send, what is sent to them, and who they are.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::raftpb;
use quorate_raft::transport::{Full, Inbox, ReceivedSnapshot, SnapshotBody, SnapshotWay, Transport};
use quorate_runtime::disk;
use quorate_runtime::spawn::{self, Worker};
use quorate_runtime::sync::mpsc;
use quorate_runtime::{BoxFuture, Rt};
use quorate_store::{Member as Peer, Reader, SnapshotExport, StoreOptions};
use quorate_types::MemberId;

use crate::config::MemberConfig;
use crate::incoming::{self, Incoming};
use crate::metrics::{Metrics, SnapshotTimer};

/// Messages that may wait for the raft loop (etcd `server/etcdserver/api/rafthttp/peer.go`).
pub const INBOX_MESSAGES: usize = 4096;

/// How long a removed member keeps the streams that it has.
const REMOVED_LINGERS_FOR: Duration = Duration::from_millis(500);

/// What the transport reports to the raft loop.
#[derive(Clone, Copy, Debug)]
pub enum PeerReport {
    /// A message to this peer was lost.
    Unreachable(MemberId),
    /// A snapshot that was sent has arrived, or has not.
    SnapshotSent {
        /// To whom.
        peer: MemberId,
        /// Whether it arrived.
        arrived: bool,
    },
    /// A peer says that we were removed from the cluster.
    Removed {
        /// Who says so.
        by: MemberId,
    },
}

/// The member's side of the transport.
pub struct PeerInbox {
    pub rt: Rt,
    pub config: MemberConfig,
    pub store_options: StoreOptions,
    /// Bounded: what does not fit is dropped, and Raft sends it again.
    pub messages: mpsc::Sender<raftpb::Message>,
    /// Reports, which must not be lost.
    pub reports: mpsc::UnboundedSender<PeerReport>,
    pub reader: Reader,
    /// Who is out of the cluster before that is applied: see `bootstrap::alone`.
    pub dropped: Vec<MemberId>,
    pub incoming: Arc<Incoming>,
    pub worker: Arc<dyn Worker>,
    pub metrics: Metrics,
}

impl Inbox for PeerInbox {
    fn deliver(&self, message: raftpb::Message) -> Result<(), Full> {
        self.messages.try_send(message).map_err(|_full_or_gone| Full)
    }

    fn deliver_snapshot(&self, received: ReceivedSnapshot) -> BoxFuture<'static, Result<(), String>> {
        let (rt, snap_dir, options) = (self.rt.clone(), self.config.snap_dir(), self.store_options.clone());
        let (messages, incoming, worker) =
            (self.messages.clone(), Arc::clone(&self.incoming), Arc::clone(&self.worker));
        let metrics = self.metrics.clone();
        let taking = async move {
            let index = incoming::index_of(&received.message);
            if index.0 == 0 || !incoming.begin(index) {
                // Behind a snapshot of the same name that is being built from just now.
                worker.submit(Box::new(move || {
                    // It is gone already if that was the same file.
                    let _ = disk::remove_gently(&*rt, &received.file);
                    Box::new(|| {})
                }));
                return Err("another snapshot is being taken in, or it stands at no entry".to_owned());
            }
            tracing::info!(
                index = index.0,
                size_bytes = received.size_bytes,
                "received a snapshot; building the database"
            );
            if let Some(saved) = received.saved {
                metrics.database.saved(saved);
            }
            let message = received.message.clone();
            let built = spawn::run_on(&*worker, move || incoming::build(&rt, &snap_dir, &received, &options)).await;
            let sent = match built {
                Ok(Ok(())) => messages.send(message).await.map_err(|_gone| "the member stops".to_owned()),
                Ok(Err(reason)) => Err(reason),
                Err(spawn::WorkerGone) => Err("the member stops".to_owned()),
            };
            if sent.is_err() {
                incoming.end();
            }
            sent
        };
        // In a task of its own: a sender that hangs up must not leave it half done, or no other would ever be taken in.
        let taken = spawn::spawn_with_result(&*self.rt, taking);
        Box::pin(async move { taken.await.unwrap_or_else(|_dropped| Err("the member stops".to_owned())) })
    }

    fn unreachable(&self, peer: MemberId) {
        // The raft loop goes only when the member stops; the same below.
        let _ = self.reports.send(PeerReport::Unreachable(peer));
    }

    fn snapshot_sent(&self, peer: MemberId, ok: bool) {
        let _ = self.reports.send(PeerReport::SnapshotSent { peer, arrived: ok });
    }

    fn transfer_begins(&self, way: SnapshotWay, peer: MemberId) {
        self.metrics.snapshot_transfers.begin(way, peer);
    }

    fn transfer_ends(&self, way: SnapshotWay, peer: MemberId, arrived: bool, took: Duration) {
        self.metrics.snapshot_transfers.end(way, peer, arrived, took);
    }

    fn removed(&self, by: MemberId) {
        let _ = self.reports.send(PeerReport::Removed { by });
    }

    fn probed(&self, peer: MemberId, smoothed: Duration) {
        self.metrics.observe_round_trip(peer, smoothed);
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.dropped.contains(&id) || self.reader.view().removed().binary_search(&id).is_ok()
    }
}

/// Keeps the transport's peers those of the membership.
///
/// One that was removed keeps its streams for a moment: in them may be what tells it that its last entries are committed, its
/// own removal among them, and so who waits there for an answer gets it.
pub struct Peers {
    rt: Rt,
    transport: Arc<Transport>,
    own: MemberId,
    known: BTreeMap<MemberId, Vec<String>>,
    /// Peers that a joiner was told of, until its own log says who they are.
    told: BTreeMap<MemberId, Vec<String>>,
    /// Not to be known again, whatever a membership that is not up to date says.
    dropped: Vec<MemberId>,
}

impl Peers {
    /// `told` can be reached from now on; `dropped` never.
    pub fn new(rt: Rt, transport: Arc<Transport>, own: MemberId, told: Vec<Peer>, dropped: Vec<MemberId>) -> Self {
        let told: BTreeMap<_, _> = told.into_iter().map(|peer| (peer.id, peer.peer_urls)).collect();
        for (id, urls) in &told {
            transport.add_peer(*id, urls.clone());
        }
        Self { rt, transport, own, known: BTreeMap::new(), told, dropped }
    }

    /// From now on `members` are the cluster, and `removed` never again.
    pub fn follow(&mut self, members: &[Peer], removed: &[MemberId]) {
        let gone: Vec<MemberId> =
            self.known.keys().copied().filter(|id| members.iter().all(|member| member.id != *id)).collect();
        for id in gone {
            self.known.remove(&id);
            let (rt, transport) = (self.rt.clone(), Arc::clone(&self.transport));
            self.rt.spawn(Box::pin(async move {
                rt.sleep(REMOVED_LINGERS_FOR).await;
                // An id that was removed never returns.
                transport.remove_peer(id);
            }));
        }
        let wanted = |member: &&Peer| member.id != self.own && !self.dropped.contains(&member.id);
        for member in members.iter().filter(wanted) {
            // A joiner's log begins before those that it was told of: they stay until it says that they went.
            let told = self.told.remove(&member.id);
            match self.known.get(&member.id).or(told.as_ref()) {
                Some(urls) if *urls == member.peer_urls => {}
                Some(_) => self.transport.update_peer(member.id, member.peer_urls.clone()),
                None => self.transport.add_peer(member.id, member.peer_urls.clone()),
            }
            self.known.insert(member.id, member.peer_urls.clone());
        }
        for (id, _) in self.told.extract_if(.., |id, _| removed.binary_search(id).is_ok()) {
            self.transport.remove_peer(id);
        }
    }
}

/// Makes and sends the snapshots that the raft loop asks for.
pub struct SnapshotSender {
    pub rt: Rt,
    pub reader: Reader,
    pub transport: Arc<Transport>,
    pub worker: Arc<dyn Worker>,
    pub reports: mpsc::UnboundedSender<PeerReport>,
    pub metrics: Metrics,
}

impl SnapshotSender {
    /// Sends the newest view as the body of `message`, whose position becomes the view's: it may be later than Raft knew.
    pub fn send(&self, mut message: raftpb::Message) {
        let view = self.reader.view();
        let peer = MemberId(message.to());
        let (worker, transport, reports) =
            (Arc::clone(&self.worker), Arc::clone(&self.transport), self.reports.clone());
        let timer = self.metrics.database.snapshot_begins(&self.rt);
        self.rt.spawn(Box::pin(async move {
            let made = spawn::run_on(&*worker, move || {
                let (source, members) = (view.snapshot_source(), view.membership_v2_json());
                drop(view);
                source.export().map(|export| (export, members))
            });
            match made.await {
                Ok(Ok((export, data))) => {
                    let metadata = raftpb::SnapshotMetadata {
                        conf_state: Some(export.conf_state().clone()),
                        index: Some(export.index().0),
                        term: Some(export.term().0),
                    };
                    tracing::info!(peer = %peer, index = export.index().0, size_bytes = export.len_bytes(), "sending a snapshot");
                    message.snapshot = Some(raftpb::Snapshot { data: Some(data.into()), metadata: Some(metadata) });
                    transport.send_snapshot(message, Box::new(Body { export, _timer: timer }));
                }
                Ok(Err(error)) => {
                    tracing::warn!(peer = %peer, error = %error, "could not make a snapshot");
                    let _ = reports.send(PeerReport::SnapshotSent { peer, arrived: false });
                }
                // The member stops.
                Err(spawn::WorkerGone) => {}
            }
        }));
    }
}

struct Body {
    export: SnapshotExport,
    _timer: SnapshotTimer,
}

impl SnapshotBody for Body {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.export.next_chunk().map_err(|error| io::Error::other(error.to_string()))
    }
}

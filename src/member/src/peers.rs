//! Between the member and the transport: what peers send, what is sent to them, and who they are.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::raftpb;
use quorate_raft::transport::{Full, Inbox, ReceivedSnapshot, SnapshotBody, Transport};
use quorate_runtime::spawn::{self, Worker};
use quorate_runtime::sync::mpsc;
use quorate_runtime::{BoxFuture, Rt};
use quorate_store::{Member as Peer, Reader, SnapshotExport, StoreOptions};
use quorate_types::MemberId;

use crate::config::MemberConfig;
use crate::incoming::{self, Incoming};
use crate::shared::{StopReason, Stopping};

/// Messages that may wait for the raft loop (etcd `server/etcdserver/api/rafthttp/peer.go`).
pub const INBOX_MESSAGES: usize = 4096;

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
    pub incoming: Arc<Incoming>,
    pub worker: Arc<dyn Worker>,
    pub stopping: Arc<Stopping>,
}

impl Inbox for PeerInbox {
    fn deliver(&self, message: raftpb::Message) -> Result<(), Full> {
        self.messages.try_send(message).map_err(|_full_or_gone| Full)
    }

    fn deliver_snapshot(&self, received: ReceivedSnapshot) -> BoxFuture<'static, Result<(), String>> {
        let (rt, snap_dir, options) = (self.rt.clone(), self.config.snap_dir(), self.store_options.clone());
        let (messages, incoming, worker) =
            (self.messages.clone(), Arc::clone(&self.incoming), Arc::clone(&self.worker));
        let taking = async move {
            let index = incoming::index_of(&received.message);
            if index.0 == 0 || !incoming.begin(index) {
                // Behind a snapshot of the same name that is being built from just now.
                worker.submit(Box::new(move || {
                    // It is gone already if that was the same file.
                    let _ = rt.remove_file(&received.file);
                    Box::new(|| {})
                }));
                return Err("another snapshot is being taken in, or it stands at no entry".to_owned());
            }
            tracing::info!(
                index = index.0,
                size_bytes = received.size_bytes,
                "received a snapshot; building the database"
            );
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

    fn removed(&self, by: MemberId) {
        if !self.stopping.is_asked() {
            tracing::error!(by = %by, "this member has been permanently removed from the cluster");
            self.stopping.ask(StopReason::Removed);
        }
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.reader.view().removed().binary_search(&id).is_ok()
    }
}

/// Keeps the transport's peers those of the membership.
pub struct Peers {
    pub transport: Arc<Transport>,
    own: MemberId,
    known: BTreeMap<MemberId, Vec<String>>,
}

impl Peers {
    /// Nobody yet.
    pub fn new(transport: Arc<Transport>, own: MemberId) -> Self {
        Self { transport, own, known: BTreeMap::new() }
    }

    /// From now on `members` are the cluster.
    pub fn follow(&mut self, members: &[Peer]) {
        let gone: Vec<MemberId> =
            self.known.keys().copied().filter(|id| members.iter().all(|member| member.id != *id)).collect();
        for id in gone {
            self.known.remove(&id);
            self.transport.remove_peer(id);
        }
        for member in members.iter().filter(|member| member.id != self.own) {
            match self.known.get(&member.id) {
                Some(urls) if *urls == member.peer_urls => continue,
                Some(_) => self.transport.update_peer(member.id, member.peer_urls.clone()),
                None => self.transport.add_peer(member.id, member.peer_urls.clone()),
            }
            self.known.insert(member.id, member.peer_urls.clone());
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
}

impl SnapshotSender {
    /// Sends the newest view as the body of `message`, whose position becomes the view's: it may be later than Raft knew.
    pub fn send(&self, mut message: raftpb::Message) {
        let view = self.reader.view();
        let peer = MemberId(message.to());
        let (worker, transport, reports) =
            (Arc::clone(&self.worker), Arc::clone(&self.transport), self.reports.clone());
        self.rt.spawn(Box::pin(async move {
            let made = spawn::run_on(&*worker, move || view.snapshot().map(|export| (export, view.membership_v2_json())));
            match made.await {
                Ok(Ok((export, data))) => {
                    let metadata = raftpb::SnapshotMetadata {
                        conf_state: Some(export.conf_state().clone()),
                        index: Some(export.index().0),
                        term: Some(export.term().0),
                    };
                    tracing::info!(peer = %peer, index = export.index().0, size_bytes = export.len_bytes(), "sending a snapshot");
                    message.snapshot = Some(raftpb::Snapshot { data: Some(data.into()), metadata: Some(metadata) });
                    transport.send_snapshot(message, Box::new(Body(export)));
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

struct Body(SnapshotExport);

impl SnapshotBody for Body {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next_chunk().map_err(|error| io::Error::other(error.to_string()))
    }
}

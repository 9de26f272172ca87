//! A running member: one Raft node, one store, and the two loops between them.
//!
//! Follow a Put from the socket to disk and back:
//!
//! 1. The API decodes and checks it, and calls [`Member::propose`] in the connection's task. There the request gets an id that
//!    is unique in the cluster, is encoded once, and goes into the queue of the raft loop with a reply channel.
//! 2. The raft loop (`raft_loop`) takes everything that gathered in its queue and proposes it as one message. Raft hands out
//!    the entries; the log writes them, and syncs once, on a worker thread.
//! 3. When the write is durable, Raft commits. The entries go to the apply loop (`apply_loop`), which decodes each, applies it
//!    to the store in memory, publishes one view for the whole batch, and then wakes whoever waits for an entry of it.
//! 4. The connection's task gets the response and writes it out. Some hundred milliseconds later the store's rows go to the
//!    database in one large transaction; after that the log up to there may be released.
//!
//! Who watches is told by the hubs of `watches`, which the apply loop rings when a batch is visible and which then read by
//! themselves what is new.
//!
//! A linearizable read calls [`Member::linearize`], then reads [`Member::view`] in the connection's own task.
//!
//! After a crash, `bootstrap` opens the database, sees how far it got, and replays the log from there.

mod apply_loop;
mod auto_compaction;
mod bootstrap;
mod cluster_version;
mod config;
mod corruption;
mod data_dir;
mod defragment;
mod disk_room;
mod downgrade;
mod gates;
mod held;
mod human_bytes;
pub mod ids;
mod incoming;
mod late_heartbeats;
mod leadership;
mod leases;
mod log_read;
mod log_stall;
mod log_write;
mod membership;
mod metrics;
pub mod peer_http;
mod peers;
mod publish;
mod raft_loop;
mod save;
mod shared;
mod testify;
mod timed_out;
pub mod trace;
mod waiting;
mod watches;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{AlarmRequest, AlarmType, InternalRaftRequest, RequestHeader};
use quorate_raft::transport::{Carrier, Transport, TransportConfig, TransportLimits};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::spawn::{self, Worker, WorkerGone};
use quorate_runtime::sync::{mpsc, oneshot, watch};
use quorate_runtime::{Rt, clock};
use quorate_store::{HashKv, ReadError, Reader, Response, View};
use quorate_types::{ClusterId, Error, MemberId, Revision, Term};

pub use auto_compaction::{AutoCompaction, REVISION_INTERVAL};
pub use bootstrap::StartError;
pub use config::{ClusterState, MemberConfig};
pub use data_dir::DataDirError;
pub use defragment::DefragmentError;
pub use leases::{PeerAnswer as LeasePeerAnswer, TimeToLive};
pub use membership::promotion::refusal_text;
pub use metrics::{Metrics, Operation, RequestTimes};
pub use quorate_raft::transport::{PEER_LIMIT_MIN, PeerLimits};
pub use save::{Piece as SnapshotPiece, SavedSnapshot};
pub use shared::{RaftStatus, StopReason};
pub use watches::WatchStream;

use apply_loop::ApplyLoop;
use defragment::Defragmentations;
use incoming::Incoming;
use leases::{LeaderLines, Lessor};
use membership::follow::Following;
use metrics::AlarmMetrics;
use peers::{INBOX_MESSAGES, PeerInbox, Peers, SnapshotSender};
use raft_loop::{RaftLimits, RaftLoop};
use shared::{
    Answered, Payload, Proposal, Published, RaftQuestion, Reader as WaitingReader, StateQuestion, Stopping, Waiter,
};
use watches::Watches;

/// The etcd release that this member claims to be.
pub const SERVER_VERSION: &str = "3.7.1";

/// The cluster version that goes with it.
pub const CLUSTER_VERSION: &str = "3.7.0";

/// Requests that may wait for the raft loop; more callers wait for a place.
const PROPOSAL_QUEUE: usize = 8192;

/// A handle on a running member, cheap to clone.
#[derive(Clone)]
pub struct Member {
    inner: Arc<Inner>,
}

struct Inner {
    rt: Rt,
    config: MemberConfig,
    id: MemberId,
    cluster_id: ClusterId,
    reader: Reader,
    request_ids: ids::RequestIds,
    proposals: mpsc::Sender<Proposal>,
    reads: mpsc::UnboundedSender<WaitingReader>,
    questions: mpsc::UnboundedSender<RaftQuestion>,
    published: Arc<Published>,
    transport: Arc<Transport>,
    stopping: Arc<Stopping>,
    compacted: watch::Receiver<Revision>,
    ready: watch::Receiver<bool>,
    metrics: Metrics,
    /// Where rows are hashed: that reads all of them.
    hash_worker: Arc<dyn Worker>,
    watches: Watches,
    lessor: Arc<Lessor>,
    leader_lines: LeaderLines,
    state_questions: mpsc::UnboundedSender<StateQuestion>,
}

impl Member {
    /// Founds or recovers the member, or has it join a cluster, and starts its loops, on the reactor that calls this. Returns
    /// once they run; a leader may come later (see [`Member::ready`]).
    pub async fn start(rt: Rt, config: MemberConfig) -> Result<Member, StartError> {
        Self::start_with_carrier(rt, config, None).await
    }

    /// The same; messages to other members go through `carrier`, if there is one, instead of streams of bytes.
    pub async fn start_with_carrier(
        rt: Rt,
        config: MemberConfig,
        carrier: Option<Arc<dyn Carrier>>,
    ) -> Result<Member, StartError> {
        let wal_worker = rt.worker("wal");
        let flush_worker = rt.worker("flush");
        let plan = bootstrap::plan(&rt, &config, &*flush_worker).await?;
        let booted = {
            let (rt, config) = (rt.clone(), config.clone());
            // Opening reads and writes files: on a worker, like everything else that does.
            quorate_runtime::spawn::run_on(&*flush_worker, move || bootstrap::boot(&rt, &config, plan)).await
        };
        let booted = booted.unwrap_or_else(|_gone| unreachable!("the worker lives in this function"))?;
        let hash_worker = rt.background_worker("hash");
        let metrics = Metrics::new();
        let view = booted.store.reader().view();
        // A new member has nothing to compare.
        if config.initial_corrupt_check && view.applied().0.0 > 0 {
            let own_hash = hash_on(&rt, &hash_worker, &metrics, Arc::clone(&view), Revision(0)).await?;
            let limit = config.request_timeout();
            corruption::initial_check(&rt, (booted.id, booted.cluster_id), &view, &own_hash, limit)
                .await
                .map_err(StartError::Inconsistent)?;
        }

        let (proposals, proposals_in) = mpsc::channel(PROPOSAL_QUEUE);
        let (reads, reads_in) = mpsc::unbounded_channel();
        let (questions, questions_in) = mpsc::unbounded_channel();
        let (to_apply, apply_in) = mpsc::unbounded_channel();
        let (to_raft, raft_in) = mpsc::unbounded_channel();
        let (state_questions, state_questions_in) = mpsc::unbounded_channel();
        let (compacted_out, compacted) = watch::channel(booted.store.reader().view().compact_revision());
        let (ready_out, ready) = watch::channel(false);
        let published = Arc::new(Published::default());
        let stopping = Arc::new(Stopping::default());
        metrics.set_identity(&booted.id.to_string(), SERVER_VERSION);
        metrics.quota_bytes.set(config.quota_bytes.unwrap_or(0) as f64);
        let applied = booted.store.applied();
        let store_options = bootstrap::store_options(&config);
        let incoming = Arc::new(Incoming::default());
        let background = rt.background_worker("snapshot");
        let (peer_messages_in, peer_messages) = mpsc::channel(INBOX_MESSAGES);
        let (peer_reports_in, peer_reports) = mpsc::unbounded_channel();
        let inbox = PeerInbox {
            rt: rt.clone(),
            config: config.clone(),
            store_options: store_options.clone(),
            messages: peer_messages_in,
            reports: peer_reports_in.clone(),
            reader: booted.store.reader(),
            incoming: Arc::clone(&incoming),
            worker: Arc::clone(&background),
            dropped: booted.dropped.clone(),
            metrics: metrics.clone(),
        };
        let transport_config = TransportConfig {
            id: booted.id,
            cluster_id: booted.cluster_id,
            peer_urls: config.advertise_peer_urls.clone(),
            server_version: SERVER_VERSION,
            election_timeout: Duration::from_millis(config.election_ms),
            snapshot_dir: config.snap_dir(),
            limits: TransportLimits { wait: config.peer_limits, ..TransportLimits::default() },
        };
        let transport = Transport::with_carrier(rt.clone(), transport_config, Arc::new(inbox), carrier);
        metrics.watch_peers(booted.id, Arc::downgrade(&transport));
        let watches = Watches::new(&rt, config.watch_limits, &metrics);
        let lessor = Lessor::new(config.lease_checkpoint_interval);
        published.applied.store(applied.0.0, Ordering::Release);

        let member = Member {
            inner: Arc::new(Inner {
                id: booted.id,
                cluster_id: booted.cluster_id,
                reader: booted.store.reader(),
                request_ids: ids::RequestIds::new(booted.id, rt.wall_now()),
                proposals,
                reads,
                questions,
                published: Arc::clone(&published),
                transport: Arc::clone(&transport),
                stopping: Arc::clone(&stopping),
                compacted,
                ready,
                metrics: metrics.clone(),
                hash_worker,
                watches: watches.clone(),
                lessor: Arc::clone(&lessor),
                leader_lines: LeaderLines::default(),
                state_questions,
                rt: rt.clone(),
                config,
            }),
        };
        let config = member.config();
        let raft_loop = RaftLoop {
            rt: rt.clone(),
            id: booted.id,
            node: booted.node,
            wal: booted.wal,
            wal_dir: config.wal_path(),
            wal_worker,
            limits: RaftLimits {
                heartbeat: Duration::from_millis(config.heartbeat_ms),
                election: Duration::from_millis(config.election_ms),
                snapshot_count: config.snapshot_count,
                catchup_entries: config.snapshot_catchup_entries,
                log_memory_bytes: config.log_memory_bytes,
                request_timeout: config.request_timeout(),
            },
            marked: booted.marked,
            applied,
            proposals: proposals_in,
            reads: reads_in,
            questions: questions_in,
            from_apply: raft_in,
            peer_messages,
            peer_reports,
            transport: Arc::clone(&transport),
            snapshots: SnapshotSender {
                rt: rt.clone(),
                reader: booted.store.reader(),
                transport: Arc::clone(&transport),
                worker: Arc::clone(&background),
                reports: peer_reports_in,
                metrics: metrics.clone(),
            },
            incoming,
            to_apply,
            published: Arc::clone(&published),
            stopping: Arc::clone(&stopping),
            metrics: metrics.clone(),
        };
        let following = Following::begin(booted.id, booted.cluster_id, metrics.clone(), &booted.store.reader().view());
        let apply_loop = ApplyLoop {
            rt: rt.clone(),
            store: booted.store,
            inbox: apply_in,
            questions: state_questions_in,
            to_raft,
            worker: flush_worker,
            published,
            stopping: Arc::clone(&stopping),
            alarms: AlarmMetrics::register(metrics.registry()),
            metrics,
            compacted: compacted_out,
            member: member.clone(),
            peers: Peers::new(rt.clone(), Arc::clone(&transport), booted.id, booted.others, booted.dropped),
            following,
            store_options,
            replaced: Vec::new(),
            defragmentations: Defragmentations::default(),
            background,
            watches: watches.clone(),
            lessor,
            lease_changes: Vec::new(),
            membership_changed: false,
        };
        let lock = booted.lock;
        // A task each: what wakes one does not poll the other.
        let raft_ended = shared::spawn_stopping_on_panic(&rt, "raft loop", &stopping, raft_loop.run());
        let apply_ended = shared::spawn_stopping_on_panic(&rt, "apply loop", &stopping, apply_loop.run());
        rt.spawn(Box::pin(async move {
            quorate_runtime::join!(raft_ended, apply_ended);
            transport.stop();
            // Another process may take the directory only now that nothing of ours can write to it.
            drop(lock);
            stopping.set_ended();
        }));
        watches.drive(&rt, &member);
        rt.spawn(Box::pin(publish::publish(member.clone(), ready_out)));
        rt.spawn(Box::pin(cluster_version::watch_over(member.clone())));
        rt.spawn(Box::pin(waiting::tell(member.clone())));
        rt.spawn(Box::pin(corruption::watch(member.clone())));
        rt.spawn(Box::pin(disk_room::watch(member.clone())));
        rt.spawn(Box::pin(leases::revoke_ended(member.clone())));
        rt.spawn(Box::pin(auto_compaction::run(member.clone())));
        if let Some(threshold_bytes) = member.config().bootstrap_defrag_threshold_bytes {
            rt.spawn(Box::pin(defragment::at_start(member.clone(), threshold_bytes)));
        }
        Ok(member)
    }

    /// Waits until the member is part of a working cluster: it has applied its own name. Returns at once when it stops.
    pub async fn ready(&self) {
        let mut ready = self.inner.ready.clone();
        // An error means that publishing ended because the member stops.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Puts `request` into the log and waits until it is applied here and visible in [`Member::view`]. Its header gets an id.
    ///
    /// # Errors
    /// What applying answered; or, with an unknown outcome, one of the three timeouts or `Stopped`; or, with nothing done,
    /// `ContextDeadlineExceeded` (nobody led in the time of a request), `RequestTooLarge` or `TooManyRequests`.
    pub async fn propose(&self, request: InternalRaftRequest) -> Result<Response, Error> {
        self.propose_in(None, request).await
    }

    /// The same; in `only_in`, if that is a term, and nowhere but here: `NotLeader` says that nothing was done, because this member
    /// does not lead in it.
    async fn propose_in(&self, only_in: Option<Term>, mut request: InternalRaftRequest) -> Result<Response, Error> {
        let inner = &*self.inner;
        let (operation, begun_at) = (Operation::of(&request), inner.rt.mono_now());
        let Answered { result, apply_began_at } = match self.propose_uncounted(only_in, &mut request, begun_at).await {
            Ok(answered) => answered,
            Err(error) => error.into(),
        };
        let result = result.map_err(|error| match error {
            Error::Timeout => self.why_timed_out(begun_at),
            error => error,
        });
        let now = inner.rt.mono_now();
        inner.metrics.times.answered(operation, result.is_ok(), now - begun_at);
        if let Some(apply_began_at) = apply_began_at
            && now - begun_at > trace::LONG
        {
            trace::tell_of_write(&inner.rt, &request, result.as_ref().ok(), [begun_at, apply_began_at, now]);
        }
        result
    }

    async fn propose_uncounted(
        &self,
        only_in: Option<Term>,
        request: &mut InternalRaftRequest,
        begun_at: MonoTime,
    ) -> Result<Answered, Error> {
        let inner = &*self.inner;
        let request_id = inner.request_ids.next();
        request.header.get_or_insert_with(RequestHeader::default).id = request_id;
        let data = Bytes::from(request.encode_to_vec());
        if data.len() > inner.config.max_request_bytes {
            return Err(Error::RequestTooLarge);
        }
        let status = inner.published.status();
        if status.committed.0 > status.applied.0 + inner.config.apply_gap_max(request) {
            return Err(Error::TooManyRequests);
        }
        self.submit(request_id, only_in, begun_at, Payload::Request(data)).await
    }

    /// Hands a proposal to the raft loop and waits for what comes of it.
    async fn submit(
        &self,
        request_id: u64,
        only_in: Option<Term>,
        begun_at: MonoTime,
        payload: Payload,
    ) -> Result<Answered, Error> {
        let inner = &*self.inner;
        if inner.published.removed.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        let (reply, answer) = oneshot::channel();
        let deadline = begun_at + inner.config.request_timeout();
        let waiter = Waiter { request_id, deadline, only_in, reactor: inner.rt.current_reactor(), reply };
        if inner.proposals.send(Proposal { payload, waiter }).await.is_err() {
            return Err(Error::Stopped);
        }
        Ok(answer.await.unwrap_or(Error::Stopped.into()))
    }

    fn ask_raft(&self, question: RaftQuestion) -> Result<(), Error> {
        self.inner.questions.send(question).map_err(|_gone| Error::Stopped)
    }

    /// After this, [`Member::view`] shows every write that was acknowledged, anywhere, before the call.
    pub async fn linearize(&self) -> Result<(), Error> {
        self.linearize_telling(None).await
    }

    /// The same. `confirmed` hears when a quorum has said who leads, which may be long before all is applied.
    async fn linearize_telling(&self, confirmed: Option<oneshot::Sender<()>>) -> Result<(), Error> {
        let inner = &*self.inner;
        if inner.published.reads_need_no_round.load(Ordering::Acquire) {
            return Ok(());
        }
        if inner.published.removed.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        let (applied, answer) = oneshot::channel();
        if inner.reads.send(WaitingReader { confirmed, applied }).is_err() {
            return Err(Error::Stopped);
        }
        match clock::timeout(&*inner.rt, inner.config.request_timeout(), answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_gone)) => Err(Error::Stopped),
            Err(clock::Elapsed) => {
                // etcd gives a read up as failed when its leader goes. Here it waits for the next one, so it has failed only
                // if none came.
                match inner.published.status().leader {
                    Some(_) => inner.metrics.slow_read_indexes.inc(),
                    None => inner.metrics.read_indexes_failed.inc(),
                }
                Err(Error::Timeout)
            }
        }
    }

    /// Waits until everything below `revision` is physically gone.
    pub async fn compacted(&self, revision: Revision) -> Result<(), Error> {
        let mut compacted = self.inner.compacted.clone();
        match compacted.wait_for(|done| *done >= revision).await {
            Ok(_) => Ok(()),
            Err(_gone) => Err(Error::Stopped),
        }
    }

    /// The hash over the rows up to `revision` (0: the newest), as [`View::hash_kv`] has it.
    pub async fn hash_kv(&self, revision: Revision) -> Result<HashKv, ReadError> {
        let inner = &*self.inner;
        hash_on(&inner.rt, &inner.hash_worker, &inner.metrics, self.view(), revision).await
    }

    /// The hash over everything, as [`View::hash`] has it, and the revision of what was hashed.
    pub async fn hash(&self) -> Result<(u32, Revision), ReadError> {
        let (rt, metrics, view) = (self.inner.rt.clone(), self.inner.metrics.clone(), self.view());
        let hashed = spawn::run_on(&*self.inner.hash_worker, move || {
            let begun_at = rt.mono_now();
            let hash = view.hash()?;
            metrics.keys.hashed(rt.mono_now() - begun_at);
            Ok((hash, view.revision()))
        });
        // The worker goes only when the process does.
        hashed.await.unwrap_or_else(|WorkerGone| Err(Error::Stopped.into()))
    }

    /// Puts an alarm into the log, soon, and does not wait for it.
    fn raise_alarm(&self, kind: AlarmType, accused: MemberId) {
        let member = self.clone();
        let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: accused.0, alarm: kind as i32 };
        self.inner.rt.spawn(Box::pin(async move {
            let request = InternalRaftRequest { alarm: Some(alarm), ..InternalRaftRequest::default() };
            if let Err(error) = member.propose(request).await {
                tracing::warn!(alarm = kind.as_str_name(), error = %error, "could not raise an alarm");
            }
        }));
    }

    /// The newest consistent view of the store.
    pub fn view(&self) -> Arc<View> {
        self.inner.reader.view()
    }

    /// A stream of watches, on the reactor that calls this.
    pub fn open_watch_stream(&self) -> WatchStream {
        self.inner.watches.open(&self.inner.rt, self.inner.reader.clone())
    }

    /// Whether a request fits the quota, asked before it is proposed.
    pub fn check_quota(&self, request: &InternalRaftRequest) -> bool {
        self.inner.reader.check_quota(request)
    }

    /// What carries messages between this member and its peers: its peer port hands requests under `/raft` to it.
    pub fn transport(&self) -> &Arc<Transport> {
        &self.inner.transport
    }

    /// This member.
    pub fn id(&self) -> MemberId {
        self.inner.id
    }

    /// Its cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.inner.cluster_id
    }

    /// What Raft knows now.
    pub fn raft_status(&self) -> RaftStatus {
        self.inner.published.status()
    }

    /// What it was started with.
    pub fn config(&self) -> &MemberConfig {
        &self.inner.config
    }

    /// The runtime that it runs on.
    pub fn runtime(&self) -> &Rt {
        &self.inner.rt
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Asks the member to stop: what is acknowledged is on disk already; what is applied is flushed.
    pub fn stop(&self) {
        self.inner.stopping.ask(StopReason::Asked);
    }

    /// Stops the member because it found damage while answering a read: it must not go on.
    pub fn fail(&self, reason: String) {
        tracing::error!(reason, "this member stops");
        self.inner.stopping.ask(StopReason::Failed(reason));
    }

    /// True once the member is stopping.
    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.is_asked()
    }

    /// Waits until the member begins to stop.
    pub async fn stopping(&self) {
        self.inner.stopping.asked().await;
    }

    /// Waits until its removal from the cluster was applied: it stops in a moment, and cannot serve clients any more.
    pub async fn leaving(&self) {
        self.inner.stopping.leaving().await;
    }

    /// Waits until its loops have ended and its files are closed.
    pub async fn stopped(&self) -> StopReason {
        self.inner.stopping.ended().await
    }
}

/// Hashing reads rows from the disk: on a worker, like everything else that does.
async fn hash_on(
    rt: &Rt,
    worker: &Arc<dyn Worker>,
    metrics: &Metrics,
    view: Arc<View>,
    revision: Revision,
) -> Result<HashKv, ReadError> {
    let (rt, metrics) = (rt.clone(), metrics.clone());
    let hashed = spawn::run_on(&**worker, move || {
        let begun_at = rt.mono_now();
        let hash = view.hash_kv(revision)?;
        if view.compaction_hash(revision).is_none() {
            metrics.keys.revision_hashed(rt.mono_now() - begun_at);
        }
        Ok(hash)
    });
    // The worker goes only when the process does.
    hashed.await.unwrap_or_else(|WorkerGone| Err(Error::Stopped.into()))
}

//! The raft loop: proposals become log entries, entries become durable, durable entries become committed.
//!
//! It owns the Raft node, and the log while no write is under way. One batch of the log is written at a time, on the log's
//! worker; meanwhile new proposals gather in the queue. So the batch grows with the load by itself: when a write comes back,
//! everything that gathered goes into the next, as one proposal, one write, one sync.
//!
//! The order when a write comes back: tell Raft, hand what is committed to the apply loop, start the next write, and only then
//! yield, so that the disk is busy while entries are applied.
//!
//! What a leader sends, it sends before its own disk is asked; what a follower answers waits for the write that it speaks of.
//! One thing nobody tells before his disk has it: that a change of members is committed.
//! A snapshot that Raft takes is part of the write too: first its mark in the log, then the database's switch, and only then
//! is it durable.
//!
//! What Raft cannot take just now is held, not refused (`held`). Members change one at a time: the leader holds a change, also
//! one that another member passed on, until the one before is applied. A leader that is to be removed first hands its lead to
//! another, and passes the change on to it: so nothing that is under way is lost with it ([`leaving`]).

mod leaving;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_proto::{raftpb, walpb};
use quorate_raft::log::Position;
use quorate_raft::node::{Committed, Node, NodeStatus, Work};
use quorate_raft::read_index::ReadQueue;
use quorate_raft::transport::Transport;
use quorate_raft::wal::{Batch, Wal};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::spawn::{self, Worker};
use quorate_runtime::sync::{mpsc, oneshot};
use quorate_runtime::{BoxFuture, Rt, bug, select, witness};
use quorate_types::{Error, LogIndex, MemberId, Term};

use self::leaving::{Leaving, hand_over_first};
use crate::held::{self, Change, Held};
use crate::incoming::{self, Incoming};
use crate::late_heartbeats::LateHeartbeats;
use crate::log_read::LogRead;
use crate::log_stall::LogStall;
use crate::log_write::{self, LastWrite, Log, NextWrite, WriteDone};
use crate::metrics::Metrics;
use crate::peers::{PeerReport, SnapshotSender};
use crate::shared::{FromApply, Proposal, Published, RaftQuestion, Reader, StopReason, Stopping, ToApply};
use crate::testify::testify;

/// A write of one entry is made on the spot, without the hand-over to the log's thread and back, if the last one took no
/// longer: with a single client there is nothing else to do meanwhile.
const SHORT_WRITE: Duration = Duration::from_micros(400);

/// Applied entries are announced in any number; this many are taken at once.
const MESSAGES_PER_TURN: usize = 64;

/// Entries that a snapshot's receiver needs next are kept for so long after it has arrived (etcd
/// `server/etcdserver/snapshot_merge.go`).
const KEEP_AFTER_SNAPSHOT: Duration = Duration::from_secs(30);

/// A commit index that nothing else carries to the log's file is written after so long without a write. Then a process that is
/// killed has it, and `--force-new-cluster` keeps all that was acknowledged.
const COMMIT_WRITTEN_AFTER: Duration = Duration::from_millis(5);

/// What limits the loop.
#[derive(Clone, Debug)]
pub struct RaftLimits {
    /// A tick.
    pub heartbeat: Duration,
    /// Least time without a word of the leader after which others stand for election.
    pub election: Duration,
    /// Entries between two marks in the log.
    pub snapshot_count: u64,
    /// Entries kept below the mark for followers that are behind.
    pub catchup_entries: u64,
    /// Bytes of them kept in memory; the others are in the log's files only.
    pub log_memory_bytes: usize,
    /// How long whoever proposes something waits for it.
    pub request_timeout: Duration,
}

/// Everything the loop needs.
pub struct RaftLoop {
    pub rt: Rt,
    pub id: MemberId,
    pub node: Node,
    pub wal: Box<Wal>,
    pub wal_dir: PathBuf,
    pub wal_worker: Arc<dyn Worker>,
    pub limits: RaftLimits,
    /// The newest mark in the log.
    pub marked: LogIndex,
    pub applied: (LogIndex, Term),
    pub proposals: mpsc::Receiver<Proposal>,
    pub reads: mpsc::UnboundedReceiver<Reader>,
    pub questions: mpsc::UnboundedReceiver<RaftQuestion>,
    pub from_apply: mpsc::UnboundedReceiver<FromApply>,
    pub peer_messages: mpsc::Receiver<raftpb::Message>,
    pub peer_reports: mpsc::UnboundedReceiver<PeerReport>,
    pub transport: Arc<Transport>,
    pub snapshots: SnapshotSender,
    pub incoming: Arc<Incoming>,
    pub to_apply: mpsc::UnboundedSender<ToApply>,
    pub published: Arc<Published>,
    pub stopping: Arc<Stopping>,
    pub metrics: Metrics,
}

/// What waits until the log has the commit index that it speaks of: see `Work::commits_change`.
struct Confirming {
    /// Durable with this work.
    number: u64,
    messages: Vec<raftpb::Message>,
    committed: Vec<Committed>,
}

/// The loop while it runs.
struct Running {
    rt: Rt,
    id: MemberId,
    node: Node,
    log: Option<Log>,
    wal_worker: Arc<dyn Worker>,
    limits: RaftLimits,
    next_write: NextWrite,
    last_write: LastWrite,
    stall: LogStall,
    heartbeats: LateHeartbeats,
    writes_count: u64,
    /// `writes_count` when the last wait for a quiet moment began.
    writes_before_quiet: u64,
    confirming: Option<Confirming>,
    marked: LogIndex,
    applied: (LogIndex, Term),
    held: Held,
    reads: ReadQueue<Reader>,
    read_contexts: u64,
    transport: Arc<Transport>,
    snapshots: SnapshotSender,
    incoming: Arc<Incoming>,
    /// While there are snapshots under way, and for a while after, no entries are forgotten.
    snapshots_under_way: usize,
    keep_entries_until: MonoTime,
    /// Our own removal, which the apply loop wants to apply.
    leaving: Option<Leaving>,
    /// When the next word of our removal is one too many: see `on_removed`.
    removal_doubted_at: Option<MonoTime>,
    /// Up to here everything was committed when the configuration was last changed, if in this run.
    configured_at: LogIndex,
    status: NodeStatus,
    to_apply: mpsc::UnboundedSender<ToApply>,
    published: Arc<Published>,
    stopping: Arc<Stopping>,
    metrics: Metrics,
}

impl RaftLoop {
    /// Runs until asked to stop, or until the log fails.
    pub async fn run(self) {
        let RaftLoop {
            mut proposals,
            reads: mut new_reads,
            mut questions,
            mut from_apply,
            mut peer_messages,
            mut peer_reports,
            ..
        } = self;
        let mut running = Running {
            status: self.node.status(),
            rt: self.rt,
            id: self.id,
            node: self.node,
            log: Some(Log::Idle(self.wal)),
            wal_worker: self.wal_worker,
            heartbeats: LateHeartbeats::new(self.limits.heartbeat),
            limits: self.limits,
            next_write: NextWrite::default(),
            last_write: LastWrite { entries: 0, took: Duration::MAX },
            stall: LogStall::default(),
            writes_count: 0,
            writes_before_quiet: 0,
            confirming: None,
            marked: self.marked,
            applied: self.applied,
            held: Held::default(),
            reads: ReadQueue::default(),
            read_contexts: 0,
            transport: self.transport,
            snapshots: self.snapshots,
            incoming: self.incoming,
            snapshots_under_way: 0,
            keep_entries_until: MonoTime::from_nanos(0),
            leaving: None,
            removal_doubted_at: None,
            configured_at: LogIndex(0),
            to_apply: self.to_apply,
            published: self.published,
            stopping: Arc::clone(&self.stopping),
            metrics: self.metrics,
        };
        let mut log_read = LogRead::new(&running.rt, &self.wal_dir);
        let stop = self.stopping.asked();
        quorate_runtime::pin!(stop);
        let mut next_tick = running.rt.mono_now() + running.limits.heartbeat;
        let mut tick = running.rt.sleep_until(next_tick);
        let mut quiet: Option<BoxFuture<'static, ()>> = None;
        let mut applied_messages = Vec::with_capacity(MESSAGES_PER_TURN);
        let mut messages = Vec::with_capacity(MESSAGES_PER_TURN);
        running.publish();
        running.node.campaign_if_alone();
        running.work_off();
        loop {
            let log_is_idle = matches!(running.log, Some(Log::Idle(_)));
            select! {
                biased;
                () = &mut stop => break,
                done = running.write_done(), if !log_is_idle => {
                    if !running.on_write_done(done) {
                        return;
                    }
                    running.take_proposals(&mut proposals);
                }
                count = from_apply.recv_many(&mut applied_messages, MESSAGES_PER_TURN) => {
                    if count == 0 {
                        break;
                    }
                    running.on_apply_messages(&mut applied_messages);
                }
                count = peer_messages.recv_many(&mut messages, MESSAGES_PER_TURN) => {
                    if count == 0 {
                        break;
                    }
                    running.on_peer_messages(&mut messages);
                }
                Some(report) = peer_reports.recv() => running.on_peer_report(report),
                () = &mut tick => {
                    running.on_tick(&mut proposals);
                    next_tick = next_tick.max(running.rt.mono_now()) + running.limits.heartbeat;
                    tick = running.rt.sleep_until(next_tick);
                }
                Some(read) = new_reads.recv() => {
                    running.reads.push(read);
                    while let Ok(read) = new_reads.try_recv() {
                        running.reads.push(read);
                    }
                }
                Some(question) = questions.recv() => running.on_question(question),
                read = log_read.done() => log_read.finish(read, &mut running.node),
                () = async { quiet.as_mut().expect("guarded").as_mut().await }, if quiet.is_some() => {
                    quiet = None;
                    running.write_commit_if_quiet();
                }
                // While a write is under way proposals gather in their queue: they are the next batch.
                Some(proposal) = proposals.recv(), if log_is_idle && running.status.takes_proposals => {
                    running.held.hold(proposal);
                    running.take_proposals(&mut proposals);
                }
            }
            running.work_off();
            log_read.start(&mut running.node);
            if quiet.is_none() && running.has_commit_to_write() {
                running.writes_before_quiet = running.writes_count;
                quiet = Some(running.rt.sleep(COMMIT_WRITTEN_AFTER));
            }
        }
        running.write_last().await;
    }
}

impl Running {
    async fn write_done(&mut self) -> Result<WriteDone, spawn::WorkerGone> {
        match self.log.as_mut().expect("never left empty") {
            Log::Writing(write) => write.await,
            Log::Idle(_) => std::future::pending().await,
        }
    }

    /// Returns false if the member cannot go on.
    fn on_write_done(&mut self, done: Result<WriteDone, spawn::WorkerGone>) -> bool {
        let Ok(WriteDone { wal, result, number, cost, syncs, messages, installed }) = done else {
            self.stopping.ask(StopReason::Failed("the log's worker ended".to_owned()));
            return false;
        };
        self.log = Some(Log::Idle(wal));
        self.stall.end();
        self.metrics.log.observe(&cost);
        if syncs {
            self.last_write.took = cost.writing + cost.syncing;
        }
        if let Err(error) = result {
            // What a failed sync left on disk is unknown, and a second sync may lie. Stop rather than guess.
            tracing::error!(error = %error, "the log failed; this member stops");
            self.stopping.ask(StopReason::Failed(error.to_string()));
            return false;
        }
        self.node.on_persisted(number);
        self.send(messages);
        if let Some(confirmed) = self.confirming.take_if(|confirming| confirming.number <= number) {
            self.send(confirmed.messages);
            self.hand_to_apply(confirmed.committed);
        }
        if let Some((index, term)) = installed {
            self.incoming.end();
            self.node.on_applied(index);
            self.applied = (index, term);
            self.marked = index;
        }
        if !self.next_write.is_due() && self.next_write.number > number {
            // What came meanwhile asks for no write.
            self.node.on_persisted(self.next_write.number);
            let messages = std::mem::take(&mut self.next_write.messages);
            self.send(messages);
        }
        true
    }

    fn on_peer_messages(&mut self, messages: &mut Vec<raftpb::Message>) {
        for message in messages.drain(..) {
            if message.r#type() == raftpb::MessageType::MsgSnap {
                self.on_snapshot(message);
                continue;
            }
            if message.r#type() == raftpb::MessageType::MsgProp {
                self.on_forwarded(message);
            } else {
                self.step(message);
            }
        }
    }

    /// Another member passes on what it was asked for.
    fn on_forwarded(&mut self, message: raftpb::Message) {
        if self.node.takes_proposals() && !held::changes_members(&message) {
            if bug!("forwarded-twice") {
                self.step(message.clone());
            }
            self.step(message);
        } else {
            // Its proposer waits as long as ours do.
            self.held.hold_forwarded(message, self.rt.mono_now() + self.limits.request_timeout);
        }
    }

    fn step(&mut self, message: raftpb::Message) {
        let from = MemberId(message.from());
        if let Err(error) = self.node.step(message) {
            tracing::warn!(from = %from, error = %error, "dropped a peer's message");
        }
    }

    fn on_question(&mut self, question: RaftQuestion) {
        match question {
            // Who asked may have gone away.
            RaftQuestion::Progress(reply) => drop(reply.send(self.node.progress())),
            RaftQuestion::TransferLeader(to) if self.status.is_leader => self.node.transfer_leader(to),
            RaftQuestion::TransferLeader(_) => {}
        }
    }

    fn on_peer_report(&mut self, report: PeerReport) {
        match report {
            PeerReport::Unreachable(peer) => self.node.on_unreachable(peer),
            PeerReport::SnapshotSent { peer, arrived } => {
                self.node.on_snapshot_sent(peer, arrived);
                self.snapshots_under_way -= 1;
                self.keep_entries_until = self.rt.mono_now() + KEEP_AFTER_SNAPSHOT;
            }
            PeerReport::Removed { by } => self.on_removed(by),
        }
    }

    /// A snapshot whose database is built. If Raft does not want it any more, the database is of no use.
    fn on_snapshot(&mut self, message: raftpb::Message) {
        let index = incoming::index_of(&message);
        let stepped = self.node.step(message);
        while let Some(work) = self.node.take_work() {
            self.take(work);
        }
        if self.next_write.install.as_ref().is_none_or(|metadata| metadata.index() != index.0) {
            tracing::info!(index = index.0, refused = ?stepped.err(), "a snapshot is not needed any more");
            self.incoming.end();
        }
    }

    /// Sends messages; snapshots go another way than all others.
    fn send(&mut self, mut messages: Vec<raftpb::Message>) {
        for snapshot in messages.extract_if(.., |message| message.r#type() == raftpb::MessageType::MsgSnap) {
            self.snapshots_under_way += 1;
            self.snapshots.send(snapshot);
        }
        messages.iter().for_each(testify);
        self.heartbeats.watch(&*self.rt, &messages, &self.metrics.heartbeat_failures);
        if !messages.is_empty() {
            self.transport.send(messages);
        }
    }

    fn on_apply_messages(&mut self, messages: &mut Vec<FromApply>) {
        for message in messages.drain(..) {
            match message {
                FromApply::Applied { index, term } => {
                    if index > self.applied.0 {
                        self.node.on_applied(index);
                        self.applied = (index, term);
                    }
                }
                FromApply::ConfChange { change, reply } => self.on_conf_change(change, reply),
                FromApply::Durable { index, conf_state } => self.on_durable(index, conf_state),
            }
        }
        // The first entry of a founder's log makes it a voter: it need not wait for a tick to lead.
        self.node.campaign_if_alone();
    }

    /// The database holds everything up to `index`: mark the log there once in a while, so that what is below may go.
    fn on_durable(&mut self, index: LogIndex, conf_state: raftpb::ConfState) {
        let index = if bug!("log-marked-past-the-database") { self.applied.0 } else { index };
        if let Some(term) = self.node.term_of(index) {
            self.node.offer_snapshot(Position { index: index.0, term: term.0 }, &conf_state);
        }
        self.node.shrink_to(self.limits.log_memory_bytes, index);
        if self.snapshots_under_way == 0 && self.rt.mono_now() >= self.keep_entries_until {
            let keep_from = LogIndex(index.0.saturating_sub(self.limits.catchup_entries));
            let needed_from = if bug!("log-marked-past-the-database") { index } else { self.marked };
            self.node.release_to(keep_from.min(needed_from));
        }
        if index.0 < self.marked.0 + self.limits.snapshot_count {
            return;
        }
        let Some(term) = self.node.term_of(index) else { return };
        self.marked = index;
        self.next_write.mark =
            Some(walpb::Snapshot { index: Some(index.0), term: Some(term.0), conf_state: Some(conf_state) });
        self.next_write.release_to = self.node.oldest();
    }

    fn on_tick(&mut self, proposals: &mut mpsc::Receiver<Proposal>) {
        self.node.tick();
        self.node.campaign_if_alone();
        self.stall.hand_over_if_stalled(&mut self.node, self.id, self.rt.mono_now(), self.limits.election);
        if !self.status.takes_proposals {
            self.hold_proposals(proposals);
            if self.published.removed.load(Ordering::Acquire) {
                self.held.fail_all(Error::Stopped);
            }
        }
        let failed = self.held.expire(self.rt.mono_now());
        self.metrics.proposals_failed.inc_by(failed as u64);
        // The apply loop goes only when the member stops.
        let _ = self.to_apply.send(ToApply::Tick);
    }

    fn hold_proposals(&mut self, proposals: &mut mpsc::Receiver<Proposal>) {
        while self.held.has_room()
            && let Ok(proposal) = proposals.try_recv()
        {
            self.held.hold(proposal);
        }
    }

    /// Proposes what is held and what waits in the queue, as one batch.
    fn take_proposals(&mut self, proposals: &mut mpsc::Receiver<Proposal>) {
        if self.status.takes_proposals {
            self.hold_proposals(proposals);
            self.propose_held();
        }
    }

    /// Proposes all that Raft takes now; the rest stays held.
    fn propose_held(&mut self) {
        self.held.refuse_other_terms(self.node.leads_in());
        if !self.node.takes_proposals() {
            return;
        }
        while let Some(message) = self.held.take_forwarded() {
            self.step(message);
        }
        if self.held.requests().len() > 0 && self.node.propose(self.held.requests()) {
            let waiters = self.held.take_waiters();
            let _ = self.to_apply.send(ToApply::Proposed(waiters));
        }
        self.propose_changes();
    }

    fn propose_changes(&mut self) {
        while self.node.takes_proposals()
            && !self.node.is_changing()
            && let Some(next) = self.held.next_change()
        {
            if hand_over_first(&mut self.node, self.id, next) {
                return;
            }
            match self.held.take_change() {
                Some(Change::Ours(change, waiter)) => {
                    let taken = self.node.propose_conf_change(&change);
                    debug_assert!(taken, "Raft said that it takes proposals");
                    let _ = self.to_apply.send(ToApply::Proposed(vec![waiter]));
                }
                Some(Change::Forwarded(message)) => self.step(*message),
                None => unreachable!("there is a next one"),
            }
        }
    }

    /// Proposes what was held, asks for reads, takes all work that Raft has, starts the next write.
    fn work_off(&mut self) {
        self.leave_if_possible();
        self.propose_held();
        self.ask_for_reads();
        while let Some(work) = self.node.take_work() {
            self.take(work);
        }
        self.refresh_status();
        let applied = if bug!("read-before-applied") { LogIndex(u64::MAX) } else { self.applied.0 };
        for reader in self.reads.take_ready(applied) {
            // A reader that went away does not mind.
            let _ = reader.applied.send(());
        }
        self.start_write_if_due();
    }

    fn ask_for_reads(&mut self) {
        let now = self.rt.mono_now();
        if self.status.leader.is_some() && self.reads.wants_to_ask(now) {
            self.read_contexts += u64::from(!bug!("read-context-used-again"));
            // Unique in the cluster: the member's low bits and a count of this run.
            let context = self.id.0 << 40 | self.read_contexts;
            self.reads.ask(context, now);
            let is_fresh = self.status.is_leader && !self.status.has_committed_in_term;
            if (self.status.is_leader && bug!("read-without-quorum")) || (is_fresh && bug!("read-before-own-term")) {
                self.reads.on_confirmed(context, self.status.committed);
            }
            self.node.read_index(context);
        }
    }

    fn take(&mut self, work: Work) {
        for (context, index) in work.reads {
            let Some(readers) = self.reads.on_confirmed(context, index) else {
                self.metrics.slow_read_indexes.inc();
                continue;
            };
            for confirmed in readers.iter_mut().filter_map(|reader| reader.confirmed.take()) {
                // As below.
                let _ = confirmed.send(());
            }
        }
        if work.commits_change {
            let confirming = self.confirming.get_or_insert_with(|| Confirming {
                number: work.number,
                messages: Vec::new(),
                committed: Vec::new(),
            });
            confirming.number = work.number;
        }
        match &mut self.confirming {
            Some(confirming) => {
                confirming.messages.extend(work.messages);
                confirming.committed.extend(work.committed);
            }
            None => {
                self.send(work.messages);
                self.hand_to_apply(work.committed);
            }
        }
        let next = &mut self.next_write;
        if let Some(snapshot) = work.snapshot {
            // Whatever was to be written before it, it replaces.
            next.entries.clear();
            next.mark = None;
            next.install = Some(snapshot);
        }
        let writes_nothing = work.entries.is_empty() && !work.must_sync;
        if work.hard_state.is_some() {
            next.hard_state = work.hard_state;
        }
        if let Some(first) = work.entries.first() {
            // A new leader may replace entries that are not even written yet.
            next.entries.retain(|entry| entry.index() < first.index() || bug!("replaced-entries-written-too"));
        }
        next.entries.extend(work.entries);
        next.must_sync |= work.must_sync;
        next.number = work.number;
        if bug!("follower-answers-before-its-disk") {
            self.send(work.messages_when_durable);
        } else {
            self.next_write.messages.extend(work.messages_when_durable);
        }
        let next = &mut self.next_write;
        // Work that needs no sync counts as durable, unless earlier work is still on its way: Raft wants it in order.
        if writes_nothing && !next.is_due() && matches!(self.log, Some(Log::Idle(_))) {
            let messages = std::mem::take(&mut next.messages);
            self.node.on_persisted(work.number);
            self.send(messages);
        }
    }

    fn hand_to_apply(&self, committed: Vec<Committed>) {
        if !committed.is_empty() {
            // The apply loop goes only when the member stops.
            let _ = self.to_apply.send(ToApply::Committed(committed));
        }
    }

    /// Nothing is to be written but a commit index.
    fn has_commit_to_write(&self) -> bool {
        matches!(self.log, Some(Log::Idle(_))) && self.next_write.hard_state.is_some()
    }

    fn write_commit_if_quiet(&mut self) {
        if self.has_commit_to_write() && self.writes_count == self.writes_before_quiet {
            self.start_write();
        }
    }

    fn start_write_if_due(&mut self) {
        if self.next_write.is_due() {
            self.start_write();
        }
    }

    fn start_write(&mut self) {
        let mut wal = match self.log.take().expect("never left empty") {
            Log::Idle(wal) => wal,
            writing @ Log::Writing(_) => {
                self.log = Some(writing);
                return;
            }
        };
        let mut next = std::mem::take(&mut self.next_write);
        let (number, messages) = (next.number, std::mem::take(&mut next.messages));
        if bug!("own-disk-counted-before-its-sync") {
            self.node.on_persisted(number);
        }
        let worker = Arc::clone(&self.wal_worker);
        // Two in a row: under load a single entry is the beginning of the next large batch.
        let is_short = next.entries.len() == 1 && self.last_write.entries == 1 && self.last_write.took < SHORT_WRITE;
        if next.is_due() {
            // A commit index alone says nothing of the load.
            self.last_write.entries = next.entries.len();
        }
        self.writes_count += 1;
        let syncs = next.syncs();
        let installed = next.install.as_ref().map(|metadata| (LogIndex(metadata.index()), Term(metadata.term())));
        let job = move || {
            let result = log_write::write(&mut wal, next);
            let cost = wal.take_cost();
            WriteDone { wal, result, number, cost, syncs, messages, installed }
        };
        let to_apply = self.to_apply.clone();
        self.stall.begin(self.rt.mono_now());
        self.log = Some(Log::Writing(Box::pin(async move {
            let done =
                if is_short { spawn::run_short_on(&*worker, job).await } else { spawn::run_on(&*worker, job).await }?;
            if let (Some((index, _)), Ok(())) = (done.installed, &done.result) {
                let (reply, switched) = oneshot::channel();
                let _ = to_apply.send(ToApply::Install { index, reply });
                // An error means that the store failed, and the member stops.
                switched.await.map_err(|_gone| spawn::WorkerGone)?;
            }
            Ok(done)
        })));
    }

    /// On a clean stop the commit index goes to disk too, for those who read the log with other tools.
    async fn write_last(mut self) {
        if let Some(Log::Writing(_)) = self.log {
            let done = self.write_done().await;
            if !self.on_write_done(done) {
                return;
            }
        }
        if let Some(Log::Idle(mut wal)) = self.log.take()
            && let Some(hard_state) = self.next_write.hard_state.take()
        {
            let batch = Batch {
                hard_state: Some(hard_state),
                entries: std::mem::take(&mut self.next_write.entries),
                sync: true,
            };
            let written = spawn::run_on(&*self.wal_worker, move || wal.append(&batch)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(error = %error, "the last write of the log failed");
            }
        }
    }

    /// Publishes what others want to know of Raft.
    fn refresh_status(&mut self) {
        let status = self.node.status();
        // After the first applied entry of our own term nothing of an earlier term can be missing, and alone nobody else can have
        // written since. A voter who has just left may have answered what was committed before that, and what we have not shown
        // yet. So may a learner who has applied his promotion before we have: then he is a voter, and we do not know it.
        let has_applied_in_term = self.applied.1 == status.term;
        let shows_all = self.applied.0 >= self.configured_at;
        let no_round = status.is_leader && status.is_alone && has_applied_in_term && shows_all;
        self.published.reads_need_no_round.store(no_round, Ordering::Release);
        if status == self.status {
            return;
        }
        let before = std::mem::replace(&mut self.status, status);
        if status.is_leader {
            witness::leads(self.id.0, status.term.0);
        }
        let leader_is_new = before.leader != status.leader;
        if leader_is_new || (!before.has_committed_in_term && status.has_committed_in_term) {
            self.reads.ask_again();
        }
        if leader_is_new {
            self.heartbeats.forget();
        }
        if leader_is_new && let Some(leader) = status.leader {
            self.metrics.leader_changes.inc();
            self.published.leader_elected_at_ns.store(self.rt.mono_now().as_nanos(), Ordering::Release);
            tracing::info!(member_id = %self.id, leader = %leader, term = status.term.0, "raft elected a leader");
        }
        if status.is_leader && status.has_committed_in_term && !(before.is_leader && before.has_committed_in_term) {
            self.published.tell_version_news();
        }
        self.publish();
    }

    fn publish(&self) {
        let status = self.status;
        self.published.is_learner.store(status.is_learner, Ordering::Release);
        self.published.term.store(status.term.0, Ordering::Release);
        self.published.leader.store(status.leader.map_or(0, |id| id.0), Ordering::Release);
        self.published.leads_in.store(if status.is_leader { status.term.0 } else { 0 }, Ordering::Release);
        self.published.committed.store(status.committed.0, Ordering::Release);
        self.metrics.has_leader.set(i64::from(status.leader.is_some()));
        self.metrics.is_leader.set(i64::from(status.is_leader));
        self.metrics.is_learner.set(i64::from(status.is_learner));
        self.metrics.proposals_committed.set(status.committed.0 as i64);
    }
}

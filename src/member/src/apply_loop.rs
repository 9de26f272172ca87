//! The apply loop: committed entries become state, waiters get answers, rows go to disk.
//!
//! It owns the store. For each batch of committed entries it applies them in order, publishes one view, and only then wakes
//! everybody whose entry was in the batch: who got an answer can read what was answered. Answers of one batch are sent before
//! the loop yields, so that each connection writes once.
//!
//! Applying is cut into slices of about a millisecond; between slices other tasks of the reactor run, so that a delete of a
//! million keys costs no leadership. When too many rows wait for the disk, applying waits for a flush, entries pile up between
//! committed and applied, and proposals are refused with `too many requests`.
//!
//! The store hands out one job at a time (a flush, a slice of compaction), which runs on the flush worker.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use quorate_proto::etcdserverpb::{AlarmType, InternalRaftRequest};
use quorate_raft::node::{Committed, Payload};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::spawn::{self, Worker};
use quorate_runtime::sync::{mpsc, watch};
use quorate_runtime::{BoxFuture, Rt, bug, mark, select, witness};
use quorate_store::{
    Command, Compacted, Defragmented, Finished, Job, JobOutcome, Outcome, Progress, Response, Store, StoreError,
    StoreOptions,
};
use quorate_types::{Error, GoDuration, LogIndex, Revision};

use crate::defragment::Defragmentations;
use crate::disk_room;
use crate::gates::Gates;
use crate::human_bytes::HumanBytes;
use crate::incoming::{self, Replaced};
use crate::leases::{self, Lessor};
use crate::membership::follow::Following;
use crate::metrics::{AlarmMetrics, Metrics, Operation};
use crate::peers::Peers;
use crate::shared::{Answered, FromApply, Published, StateQuestion, StopReason, Stopping, ToApply, Waiter};
use crate::watches::Watches;
use crate::{CLUSTER_VERSION, Member};

/// Applying longer than this at a stretch lets other tasks run first.
const SLICE: Duration = Duration::from_millis(1);

/// A removed member serves its peers for so long after it has applied its removal.
const REMOVED_STOPS_AFTER: Duration = Duration::from_secs(1);

/// Messages taken from the raft loop at once.
const MESSAGES_PER_TURN: usize = 64;

/// Everything the loop needs.
pub struct ApplyLoop {
    pub rt: Rt,
    pub store: Store,
    pub inbox: mpsc::UnboundedReceiver<ToApply>,
    pub questions: mpsc::UnboundedReceiver<StateQuestion>,
    pub to_raft: mpsc::UnboundedSender<FromApply>,
    pub worker: Arc<dyn Worker>,
    pub published: Arc<Published>,
    pub stopping: Arc<Stopping>,
    pub metrics: Metrics,
    pub alarms: AlarmMetrics,
    pub compacted: watch::Sender<Revision>,
    /// For what applying itself has to propose.
    pub member: Member,
    /// These two follow whenever the membership changes.
    pub peers: Peers,
    pub following: Following,
    pub store_options: StoreOptions,
    /// Databases that snapshots and copies have replaced, while views of them are still read.
    pub replaced: Vec<Replaced>,
    pub defragmentations: Defragmentations,
    /// For what may take long and hurries nobody.
    pub background: Arc<dyn Worker>,
    /// Rung whenever the store has changed.
    pub watches: Watches,
    /// Told what happened to leases.
    pub lessor: Arc<Lessor>,
    /// What entries since the last view may have done to leases.
    pub lease_changes: Vec<leases::Change>,
    /// Some entry since the last view was about members, or the version that they speak.
    pub membership_changed: bool,
}

/// Waiters by request id, and the answers that are due once the view is published.
struct Waiters {
    by_request: BTreeMap<u64, Waiter>,
    due: Gates,
}

impl Waiters {
    fn new(rt: &Rt) -> Self {
        Self { by_request: BTreeMap::new(), due: Gates::open(rt) }
    }

    fn add(&mut self, waiters: Vec<Waiter>) {
        for waiter in waiters {
            self.by_request.insert(waiter.request_id, waiter);
        }
    }

    fn answer_later(&mut self, request_id: u64, answered: Answered) {
        if let Some(Waiter { reactor, reply, .. }) = self.by_request.remove(&request_id) {
            self.due.keep(reactor, reply, answered);
        }
    }

    fn send_due(&mut self) {
        self.due.send_all();
    }

    fn expire(&mut self, now: MonoTime) -> usize {
        let expired = self.by_request.extract_if(.., |_id, waiter| waiter.deadline <= now);
        let mut count = 0;
        for (_id, waiter) in expired {
            self.due.keep(waiter.reactor, waiter.reply, Error::Timeout.into());
            count += 1;
        }
        self.due.send_all();
        count
    }

    fn fail_all(&mut self) {
        for (_id, waiter) in std::mem::take(&mut self.by_request) {
            self.due.keep(waiter.reactor, waiter.reply, Error::Stopped.into());
        }
        self.due.send_all();
    }
}

type RunningJob = BoxFuture<'static, Result<JobDone, spawn::WorkerGone>>;

/// A job that was run.
struct JobDone {
    outcome: JobOutcome,
    took: Duration,
    /// It wrote to the database.
    writes: bool,
    /// It was a slice of a compaction.
    compacts: bool,
}

impl JobDone {
    /// Runs `job`. Blocking.
    fn of(job: Job, rt: &Rt) -> Self {
        let (writes, compacts) = (job.writes_row_bytes().is_some(), job.compacts());
        let start = rt.mono_now();
        let outcome = job.run(&**rt);
        Self { outcome, took: rt.mono_now() - start, writes, compacts }
    }
}

impl ApplyLoop {
    /// Runs until asked to stop, or until the store fails.
    pub async fn run(mut self) {
        let mut waiters = Waiters::new(&self.rt);
        self.follow_membership();
        if let Err(error) = self.turns(&mut waiters).await {
            tracing::error!(error = %error, "the store failed; this member stops");
            self.stopping.ask(StopReason::Failed(error.to_string()));
        }
        waiters.send_due();
        waiters.fail_all();
    }

    async fn turns(&mut self, waiters: &mut Waiters) -> Result<(), StoreError> {
        let mut messages = Vec::with_capacity(MESSAGES_PER_TURN);
        let mut backlog: VecDeque<Committed> = VecDeque::new();
        let mut job: Option<RunningJob> = None;
        let mut timer: Option<(MonoTime, BoxFuture<'static, ()>)> = None;
        let stopping = Arc::clone(&self.stopping);
        let stop = stopping.asked();
        quorate_runtime::pin!(stop);
        loop {
            if job.is_none() {
                self.defragmentations.begin(&mut self.store, self.rt.mono_now());
                job = self.start_job();
            }
            self.set_timer(&mut timer, job.is_some());
            let can_apply = !self.store.pending_full();
            select! {
                biased;
                finished = async { job.as_mut().expect("guarded").await }, if job.is_some() => {
                    job = None;
                    // The worker goes only when the process does.
                    let Ok(done) = finished else { return Ok(()) };
                    self.finish_job(done)?;
                }
                () = &mut stop => break,
                _ = std::future::ready(()), if can_apply && !backlog.is_empty() => {
                    self.apply_slice(&mut backlog, waiters).await?;
                }
                count = self.inbox.recv_many(&mut messages, MESSAGES_PER_TURN), if backlog.is_empty() => {
                    if count == 0 {
                        break;
                    }
                    for message in messages.drain(..) {
                        match message {
                            ToApply::Proposed(new) => waiters.add(new),
                            ToApply::Committed(entries) => backlog.extend(entries),
                            ToApply::Tick => self.tick(waiters),
                            ToApply::Install { index, reply } => {
                                // What was committed before it is part of it.
                                backlog.clear();
                                if let Some(running) = job.take() {
                                    let Ok(done) = running.await else { return Ok(()) };
                                    self.finish_job(done)?;
                                }
                                self.install(index).await?;
                                // The raft loop goes only when the member stops.
                                let _ = reply.send(());
                            }
                        }
                    }
                    // The waiters that were just added are those of later entries: nothing else is to be read first.
                    if !self.store.pending_full() {
                        self.apply_slice(&mut backlog, waiters).await?;
                    }
                }
                Some(question) = self.questions.recv() => self.answer(question),
                () = async { timer.as_mut().expect("guarded").1.as_mut().await }, if timer.is_some() => timer = None,
            }
        }
        if let Some(running) = job {
            let Ok(done) = running.await else { return Ok(()) };
            self.finish_job(done)?;
        }
        self.store.give_up_defragmentation();
        self.flush_last().await
    }

    /// Goes on from the database that was built from a snapshot. Readers see the new state at once, and as a whole.
    async fn install(&mut self, index: LogIndex) -> Result<(), StoreError> {
        let (rt, config, options) = (self.rt.clone(), self.member.config().clone(), self.store_options.clone());
        self.metrics.snapshot_applies.set(1);
        let opened = spawn::run_on(&*self.worker, move || {
            let path = config.database_path();
            let old_file = incoming::switch(&rt, &config, index).map_err(|source| StoreError::Io {
                file: path.clone(),
                action: "installing a snapshot",
                source,
            })?;
            Ok((Store::open(&rt, &path, options)?, old_file))
        });
        // The worker goes only when the process does.
        let Ok(opened) = opened.await else { return std::future::pending().await };
        let (successor, old_file) = opened?;
        self.replaced.push(Replaced::new(self.store.succeed_with(successor), old_file));
        self.defragmentations.overtaken();
        self.watches.ring();
        let view = self.store.reader().view();
        self.follow_membership();
        self.published.applied.store(index.0, Ordering::Release);
        self.metrics.snapshot_applies.set(0);
        mark!("snapshot_installed");
        tracing::info!(index = index.0, revision = view.revision().0, "installed a snapshot");
        Ok(())
    }

    /// On a clean stop everything applied goes to disk, so that the next start replays nothing.
    async fn flush_last(&mut self) -> Result<(), StoreError> {
        while self.store.durable_index() < self.store.applied().0 {
            let Some(at) = self.store.next_job_at() else { return Ok(()) };
            // Waiting for the flush interval would only delay the stop.
            let now = at.max(self.rt.mono_now());
            let Some(job) = self.store.take_job(now) else { return Ok(()) };
            let rt = Arc::clone(&self.rt);
            let Ok(done) = spawn::run_on(&*self.worker, move || JobDone::of(job, &rt)).await else { return Ok(()) };
            self.finish_job(done)?;
        }
        Ok(())
    }

    fn start_job(&mut self) -> Option<RunningJob> {
        let now = self.rt.mono_now();
        self.store.next_job_at().filter(|at| *at <= now || self.store.pending_full())?;
        let walks = self.store.index_walks();
        let job = self.store.take_job(now);
        if self.store.index_walks() > walks {
            self.metrics.keys.index_compacted(self.rt.mono_now() - now);
        }
        let job = job?;
        let (worker, rt) = (Arc::clone(&self.worker), Arc::clone(&self.rt));
        let (stopping, snap_dir) = (Arc::clone(&self.stopping), self.member.config().snap_dir());
        Some(Box::pin(async move {
            if let Some(row_bytes) = job.writes_row_bytes() {
                // The last one fails rather than keep the member from stopping.
                select! {
                    biased;
                    () = stopping.asked() => {}
                    () = disk_room::wait_for_room(&rt, &worker, &snap_dir, row_bytes) => {}
                }
            }
            spawn::run_on(&*worker, move || JobDone::of(job, &rt)).await
        }))
    }

    fn set_timer(&self, timer: &mut Option<(MonoTime, BoxFuture<'static, ()>)>, job_is_out: bool) {
        let wanted = if job_is_out { None } else { self.store.next_job_at() };
        let set = timer.as_ref().map(|(at, _)| *at);
        match wanted {
            // A timer that rings too early only looks again.
            Some(at) if set.is_none_or(|set| set > at) => *timer = Some((at, self.rt.sleep_until(at))),
            _ => {}
        }
    }

    fn finish_job(&mut self, done: JobDone) -> Result<(), StoreError> {
        let JobDone { outcome, took, writes, compacts } = done;
        let finished = self.store.finish_job(outcome, self.rt.mono_now())?;
        if writes {
            self.metrics.database.committed(took);
        }
        if compacts {
            self.metrics.keys.compaction_batch(took);
        }
        for event in finished {
            match event {
                Finished::Flushed { index, conf_state } => {
                    // The raft loop goes only when the member stops.
                    let _ = self.to_raft.send(FromApply::Durable { index, conf_state });
                }
                Finished::Compacted(compacted) => {
                    self.tell_compacted(&compacted);
                    self.compacted.send_if_modified(|last| {
                        let is_later = compacted.revision > *last;
                        *last = compacted.revision.max(*last);
                        is_later
                    });
                }
            }
        }
        if let Some(ended) = self.store.defragmented() {
            self.end_defragmentation(ended);
        }
        Ok(())
    }

    fn tell_compacted(&self, compacted: &Compacted) {
        let view = self.store.reader().view();
        tracing::info!(
            compact_revision = compacted.revision.0,
            took = %GoDuration::from(compacted.took),
            number_of_keys_compacted = compacted.rows,
            hash = compacted.hash,
            current_db_size_bytes = view.db_size_bytes(),
            current_db_size = %HumanBytes(view.db_size_bytes()),
            current_db_size_in_use_bytes = view.db_size_in_use_bytes(),
            current_db_size_in_use = %HumanBytes(view.db_size_in_use_bytes()),
            "finished scheduled compaction"
        );
        self.metrics.keys.compacted(compacted, self.rt.wall_now().unix_secs());
    }

    fn end_defragmentation(&mut self, ended: Result<Defragmented, StoreError>) {
        if let Err(damage @ StoreError::Damaged { .. }) = &ended {
            self.member.fail(format!("a defragmentation found damage: {damage}"));
        }
        let ended = self.defragmentations.end(ended, &self.store, self.rt.mono_now());
        if let Some((Defragmented { retired, old_file }, took)) = ended {
            self.replaced.push(Replaced::new(retired, Some(old_file)));
            self.metrics.database.defragmented(took);
        }
    }

    /// Applies entries for about [`SLICE`]; then publishes, and answers.
    async fn apply_slice(
        &mut self,
        backlog: &mut VecDeque<Committed>,
        waiters: &mut Waiters,
    ) -> Result<(), StoreError> {
        let start = self.rt.mono_now();
        let mut now = start;
        while let Some(entry) = backlog.pop_front() {
            match self.apply(entry, now, waiters).await? {
                Some(applied_at) => now = applied_at,
                None => {
                    backlog.clear();
                    break;
                }
            }
            if self.store.pending_full() || now - start >= SLICE {
                break;
            }
        }
        self.store.publish();
        self.metrics.keys.count(self.store.take_operations());
        self.watches.ring();
        self.follow_leases();
        if std::mem::take(&mut self.membership_changed) {
            self.follow_membership();
        }
        waiters.send_due();
        let (index, term) = self.store.applied();
        self.published.applied.store(index.0, Ordering::Release);
        self.metrics.proposals_applied.set(index.0 as i64);
        let _ = self.to_raft.send(FromApply::Applied { index, term });
        if !backlog.is_empty() {
            self.rt.yield_now().await;
        }
        Ok(())
    }

    /// Applies an entry, from `start` on, and says when that was done; `None`, with the entry not applied, if the member stops
    /// first.
    async fn apply(
        &mut self,
        entry: Committed,
        start: MonoTime,
        waiters: &mut Waiters,
    ) -> Result<Option<MonoTime>, StoreError> {
        let (index, term) = (entry.index, entry.term);
        witness::applies(self.member.id().0, index.0, term.0, &entry.payload);
        if index <= self.store.applied().0 {
            // The database was ahead of where the log was replayed from.
            return Ok(Some(start));
        }
        let noted = witness::note(|| (self.store.revision(), entry.payload.clone()));
        let (request_id, command) = match entry.payload {
            Payload::Empty => (0, Command::Empty),
            Payload::Request(data) => {
                let (id, mut command) = self.decode(index, data);
                if bug!("unwatched-compaction-skipped") && !waiters.by_request.contains_key(&id) && compacts(&command) {
                    command = Command::Empty;
                }
                self.membership_changed |= concerns_members(&command);
                (id, command)
            }
            Payload::ConfChange(change) => {
                let Some(changed) = self.conf_change(change).await else { return Ok(None) };
                self.membership_changed = true;
                changed
            }
        };
        let lease_change = leases::Change::of(&command);
        let operation = operation(&command);
        let mut progress = self.store.start(index, term, command)?;
        let Outcome { result, over_quota } = loop {
            match progress {
                Progress::Done(outcome) => break outcome,
                Progress::More => {
                    self.rt.yield_now().await;
                    progress = self.store.resume()?;
                }
            }
        };
        if let Some((before, Payload::Request(request))) = noted
            && self.store.revision() != before
        {
            witness::makes(self.member.id().0, self.store.revision().0, &request);
        }
        let now = self.rt.mono_now();
        if let Some(operation) = operation {
            let (times, took) = (&self.metrics.times, now - start);
            times.applied(operation, matches!(&result, Ok(_) | Err(Error::Compacted)), took);
            times.warn_if_slow(operation, took, self.member.config().warning_apply_duration, request_id);
        }
        self.count(&result);
        self.lease_changes.extend(lease_change.filter(|change| change.may_have_happened(&result)));
        if over_quota {
            self.member.raise_alarm(AlarmType::Nospace, self.member.id());
        }
        waiters.answer_later(request_id, Answered { result, apply_began_at: Some(start) });
        Ok(Some(now))
    }

    fn decode(&self, index: LogIndex, data: bytes::Bytes) -> (u64, Command) {
        match InternalRaftRequest::decode(data) {
            Ok(request) => {
                let id = request.header.as_ref().map_or(request.id, |header| header.id);
                (id, Command::Request(Box::new(request)))
            }
            Err(error) => {
                // Every member finds the same bytes, and all of them skip the entry alike.
                tracing::warn!(index = index.0, error = %error, "an entry holds no request that this version reads; skipped");
                (0, Command::Empty)
            }
        }
    }

    /// Membership decides first; Raft takes only what membership accepts. `None` if the raft loop ends before it has.
    async fn conf_change(&self, change: quorate_proto::raftpb::ConfChange) -> Option<(u64, Command)> {
        let id = change.id.unwrap_or(0);
        if let Err(error) = self.store.check_conf_change(&change) {
            tracing::warn!(conf_change = id, %error, "validation on configuration change failed");
            mark!("membership_change_refused");
            return Some((id, Command::RefusedConfChange(error)));
        }
        let (reply, answer) = quorate_runtime::sync::oneshot::channel();
        let _ = self.to_raft.send(FromApply::ConfChange { change: change.clone(), reply });
        let conf_state = answer.await.ok()?;
        Some((id, Command::ConfChange { change, conf_state }))
    }

    /// The lessor hears what happened to leases before anybody else does, and begins to count with the first entry of a term in
    /// which this member leads.
    fn follow_leases(&mut self) {
        let (_, term) = self.store.applied();
        let leads_in = self.published.leads_in().filter(|leads_in| *leads_in == term);
        let extension = Duration::from_millis(self.member.config().election_ms);
        let view = || self.store.reader().view();
        self.lessor.follow(&mut self.lease_changes, leads_in, extension, leases::now(&self.rt), view);
    }

    fn answer(&mut self, question: StateQuestion) {
        match question {
            // Who asked may have gone away.
            StateQuestion::LeaseKeys { id, reply } => drop(reply.send(self.store.lease_keys(id))),
            StateQuestion::Defragment { reply } => self.defragmentations.want(reply),
        }
    }

    fn follow_membership(&mut self) {
        let view = self.store.reader().view();
        self.peers.follow(view.members(), view.removed());
        if self.following.look(&view) {
            self.published.tell_version_news();
        }
        if let Some(version) = self.following.too_new() {
            let reason = format!(
                "invalid downgrade; server version is lower than determined cluster version: this is {CLUSTER_VERSION}, the \
                 cluster speaks {version}. Run a newer version on this data directory"
            );
            tracing::error!(reason, "this member stops");
            self.stopping.ask(StopReason::Failed(reason));
        }
        let own = self.member.id();
        if view.removed().binary_search(&own).is_ok() && !self.stopping.is_asked() && self.stopping.set_leaving() {
            tracing::info!(local_member_id = %own, "this member was removed from the cluster; it stops in a moment");
            // The others should still hear that it has applied this (etcd `server/etcdserver/server.go`).
            let (rt, stopping) = (self.rt.clone(), Arc::clone(&self.stopping));
            self.rt.spawn(Box::pin(async move {
                rt.sleep(REMOVED_STOPS_AFTER).await;
                stopping.ask_removed();
            }));
        }
    }

    fn count(&self, result: &Result<Response, Error>) {
        match result {
            Ok(Response::LeaseGrant(granted)) => {
                self.metrics.leases_granted.inc();
                self.metrics.lease_ttl_secs.observe(granted.ttl as f64);
            }
            Ok(Response::LeaseRevoke(_)) => self.metrics.leases_revoked.inc(),
            _ => {}
        }
    }

    fn tick(&mut self, waiters: &mut Waiters) {
        for unread in self.replaced.extract_if(.., |replaced| !replaced.is_read()) {
            self.background.submit(Box::new(move || {
                unread.close();
                Box::new(|| {})
            }));
        }
        let failed = waiters.expire(self.rt.mono_now());
        self.metrics.proposals_failed.inc_by(failed as u64);
        let replaced_reads: usize = self.replaced.iter().map(Replaced::open_reads).sum();
        let open_reads = self.store.open_reads() + replaced_reads;
        self.metrics.database.open_reads.set(i64::try_from(open_reads).unwrap_or(i64::MAX));
        self.metrics.database.defrag_inflight.set(self.defragmentations.is_active().into());
        self.metrics.proposals_pending.set(waiters.by_request.len() as i64);
        let reader = self.store.reader();
        let view = reader.view();
        self.metrics.keys.look(&view);
        self.alarms.look(view.alarms());
        self.metrics.db_total_bytes.set(view.db_size_bytes() as f64);
        self.metrics.db_in_use_bytes.set(view.db_size_in_use_bytes() as f64);
    }
}

/// What a request in the log does.
fn operation(command: &Command) -> Option<Operation> {
    match command {
        Command::Request(request) => Some(Operation::of(request)),
        _ => None,
    }
}

fn compacts(command: &Command) -> bool {
    matches!(command, Command::Request(request) if request.compaction.is_some())
}

/// True for the normal entries that change the membership: a member's name and URLs, and the cluster's version.
fn concerns_members(command: &Command) -> bool {
    match command {
        Command::Request(request) => request.cluster_member_attr_set.is_some() || request.cluster_version_set.is_some(),
        _ => false,
    }
}

//! The writer: takes entries one by one, shows readers the result, and hands jobs to the disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::raftpb;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::disk::{Disk, File};
use quorate_runtime::{Rt, bug};
use quorate_types::{Error, LeaseId, LogIndex, Revision, Term};

use crate::apply::{self, Command, Long, Progress, Start};
use crate::backend::OpenDatabase;
use crate::defragment::Copying;
use crate::error::{FileName, StoreError};
use crate::flush::{Committed, CommittedKind, Done, Flush, Job, JobOutcome, Replacement, Work};
use crate::format::StateRecord;
use crate::hash_kv::{Asker, CompactionHash, Hashing};
use crate::membership::Membership;
use crate::mvcc::compact::Compaction;
use crate::open;
use crate::operations::Operations;
use crate::publish::Published;
use crate::row_cache::RowCache;
use crate::state::{Pending, State};
use crate::sync::Arc;
use crate::view::{Reader, View};

/// Limits and intervals of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// The size in bytes that the store may not reach; `None` is no limit.
    pub quota_bytes: Option<u64>,
    /// Time from the end of one flush to the start of the next.
    pub flush_interval: Duration,
    /// Bytes of rows that may wait for the disk; see [`Store::pending_full`].
    pub pending_bytes_max: usize,
    /// Memory for rows and pages read from the database.
    pub cache_bytes: usize,
    /// Rows that one compaction job deletes.
    pub compaction_batch_rows: usize,
    /// Time from the end of one compaction job to the start of the next.
    pub compaction_interval: Duration,
    /// Bytes of rows that one job of a defragmentation copies.
    pub defragment_slice_bytes: u64,
    /// Learners that the cluster may have; equal on all members.
    pub max_learners: usize,
    /// The shortest lease, in seconds; equal on all members.
    pub lease_ttl_min_secs: i64,
    /// Syncs are skipped: a crash may lose or damage everything.
    pub unsafe_no_fsync: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            quota_bytes: Some(2 << 30),
            flush_interval: Duration::from_millis(100),
            pending_bytes_max: 64 << 20,
            cache_bytes: 64 << 20,
            compaction_batch_rows: 1000,
            compaction_interval: Duration::from_millis(10),
            defragment_slice_bytes: if cfg!(test) { 300 } else { 8 << 20 },
            max_learners: 1,
            lease_ttl_min_secs: 2,
            unsafe_no_fsync: false,
        }
    }
}

/// The replicated state and its database. One task owns it; others read through [`Reader`]s.
pub struct Store {
    options: StoreOptions,
    pub(crate) published: Arc<Published<State, View>>,
    /// The size that quotas are about, for readers.
    db_size_bytes: Arc<AtomicU64>,
    /// The last complete entry.
    applied: (LogIndex, Term),
    /// The entry that is under way, with its index and term.
    under_way: Option<(LogIndex, Term, Box<Long>)>,
    pub(crate) database: Arc<OpenDatabase>,
    cache: Arc<RowCache>,
    file: FileName,
    /// What the file says: the state as of the last flush.
    durable: StateRecord,
    jobs: Jobs,
    /// Something failed, and the state in memory may be half of something.
    poisoned: bool,
}

/// A database that another has replaced. Dropping it closes it, which writes, and ends the reads that still go on.
pub struct Retired {
    database: Arc<OpenDatabase>,
}

impl Retired {
    /// A view of it is still held. Once this is false it stays so: views are only copied from views.
    pub fn is_read(&self) -> bool {
        self.open_reads() > 0
    }

    /// The read transactions that are open on it.
    pub fn open_reads(&self) -> usize {
        self.database.open_reads()
    }
}

/// What a defragmentation has brought about.
pub struct Defragmented {
    /// The database before it, which older views still read.
    pub retired: Retired,
    /// Its file, which has no name any more.
    pub old_file: Box<dyn File>,
}

/// Which jobs there are to do, and when.
struct Jobs {
    out: Option<JobKind>,
    last: JobKind,
    /// Rows in the flush that is out.
    sealed: Pending,
    flush_at: MonoTime,
    compact_at: MonoTime,
    compaction: Option<Compaction>,
    /// How often compactions have walked a part of the index.
    index_walks: u64,
    /// The hash that comes before the compaction's first deletion.
    hashing: Option<Box<Hashing>>,
    copy: Copy,
}

/// Where a defragmentation is.
enum Copy {
    /// Nobody wants one.
    Unwanted,
    Begun(Box<Copying>),
    /// A slice is out.
    Out,
    /// Nobody has asked yet how it went.
    Ended(Result<Defragmented, StoreError>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobKind {
    Flush,
    Compact,
    Copy,
}

/// What a finished job has brought about.
#[derive(Clone, Debug, PartialEq)]
pub enum Finished {
    /// The database has gone forward; after a crash the log is needed from the next entry on.
    Flushed {
        /// The last entry in it.
        index: LogIndex,
        /// The configuration at that entry: what belongs into a mark in the log, unlike the newest configuration.
        conf_state: raftpb::ConfState,
    },
    /// Every row that a compaction dooms is deleted.
    Compacted(Compacted),
}

/// A compaction that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// What was compacted at.
    pub revision: Revision,
    /// Rows that were deleted.
    pub rows: u64,
    /// From its first job to its last, pauses and other jobs between them included.
    pub took: Duration,
    /// The hash of what it was about, if that is known.
    pub hash: Option<u32>,
}

impl Store {
    /// Makes a database file with an empty state: no entry applied, revision 1. Nothing may be at `path`.
    pub fn create(rt: &Rt, path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        Self::create_on(&**rt, path, options)
    }

    /// Opens a database file and reads back the state as of its last flush.
    pub fn open(rt: &Rt, path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        Self::open_on(&**rt, path, options)
    }

    pub(crate) fn create_on(disk: &(dyn Disk + '_), path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        open::create(disk, path, &options)?;
        Self::open_on(disk, path, options)
    }

    pub(crate) fn open_on(disk: &(dyn Disk + '_), path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        let open::Opened { database, cache, file, record, state } = open::open(disk, path, &options)?;
        let start = MonoTime::from_nanos(0);
        Ok(Self {
            options,
            db_size_bytes: Arc::new(AtomicU64::new(state.db_size_bytes())),
            applied: (state.applied_index, state.applied_term),
            published: Arc::new(Published::new(state, View::of)),
            under_way: None,
            database,
            cache,
            file,
            durable: record,
            jobs: Jobs {
                out: None,
                last: JobKind::Compact,
                sealed: Pending::default(),
                flush_at: start,
                compact_at: start,
                compaction: None,
                index_walks: 0,
                hashing: None,
                copy: Copy::Unwanted,
            },
            poisoned: false,
        })
    }

    /// Makes `successor`, just opened, the state from now on: all readers of this store see its views from here. What is
    /// returned is the old database, which older views still read.
    ///
    /// # Panics
    /// If a job is out: its result belongs to the old state.
    pub fn succeed_with(&mut self, successor: Store) -> Retired {
        assert!(self.jobs.out.is_none(), "a job is out");
        let (published, db_size_bytes) = (Arc::clone(&self.published), Arc::clone(&self.db_size_bytes));
        let old = std::mem::replace(self, successor);
        // Readers hold the old store's; it goes on with the successor's state.
        std::mem::swap(&mut *published.lock(), &mut *self.published.lock());
        self.published = published;
        self.db_size_bytes = db_size_bytes;
        self.publish();
        Retired { database: old.database }
    }

    /// A handle for readers.
    pub fn reader(&self) -> Reader {
        Reader {
            published: self.published.clone(),
            quota_bytes: self.options.quota_bytes,
            db_size_bytes: self.db_size_bytes.clone(),
        }
    }

    /// The last entry applied in memory.
    pub fn applied(&self) -> (LogIndex, Term) {
        self.applied
    }

    /// The newest revision, which readers may not see, yet.
    pub fn revision(&self) -> Revision {
        Revision(self.published.lock().revision)
    }

    /// The last entry that the database holds durably. After a restart this is what is applied.
    pub fn durable_index(&self) -> LogIndex {
        self.durable.applied_index
    }

    /// The read transactions of the database that views, and what was made of them, hold open.
    pub fn open_reads(&self) -> usize {
        self.database.open_reads()
    }

    /// What entries have done since this was last asked.
    pub fn take_operations(&mut self) -> Operations {
        std::mem::take(&mut self.published.lock().operations)
    }

    /// How often compactions have walked a part of the index so far: no entry can be applied meanwhile.
    pub fn index_walks(&self) -> u64 {
        self.jobs.index_walks
    }

    /// Raft's configuration after the last entry.
    pub fn conf_state(&self) -> Arc<raftpb::ConfState> {
        self.published.lock().conf_state.clone()
    }

    /// The members after the last entry, to try changes on.
    pub fn membership(&self) -> Membership {
        Membership::clone(&self.published.lock().membership)
    }

    /// The keys on a lease after the last entry, in byte order; none, if there is no such lease.
    pub fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.published.lock().leases.keys(id).map(Bytes::copy_from_slice).collect()
    }

    /// Whether a change of members may be made; to be asked when its entry is reached, before raft makes it.
    pub fn check_conf_change(&self, change: &raftpb::ConfChange) -> Result<(), Error> {
        self.published.lock().membership.check(change, self.options.max_learners)
    }

    /// Applies the next entry, or begins to. An error is fatal: the store refuses everything from then on.
    pub fn start(&mut self, index: LogIndex, term: Term, command: Command) -> Result<Progress, StoreError> {
        self.check_poison()?;
        assert_eq!(index, self.applied.0.next(), "entries are applied in order, none twice");
        assert!(term >= self.applied.1, "terms never go back");
        assert!(self.under_way.is_none(), "one entry at a time");
        let mut state = self.published.lock();
        let show = |state: &State| drop(self.published.show(state));
        match apply::start(&mut state, &self.options, command, &show) {
            Ok(Start::Done(outcome)) => {
                self.applied = state.complete(index, term);
                Ok(Progress::Done(outcome))
            }
            Ok(Start::Long(long)) => {
                self.under_way = Some((index, term, long));
                Ok(Progress::More)
            }
            Err(error) => {
                self.poisoned = true;
                Err(error)
            }
        }
    }

    /// Goes on with the entry that answered [`Progress::More`].
    pub fn resume(&mut self) -> Result<Progress, StoreError> {
        self.check_poison()?;
        let (index, term, mut long) = self.under_way.take().expect("an entry is under way");
        let mut state = self.published.lock();
        match apply::resume(&mut state, &mut long) {
            Ok(Some(outcome)) => {
                self.applied = state.complete(index, term);
                Ok(Progress::Done(outcome))
            }
            Ok(None) => {
                self.under_way = Some((index, term, long));
                Ok(Progress::More)
            }
            Err(error) => {
                self.poisoned = true;
                Err(error)
            }
        }
    }

    /// Shows readers the state after the last entry. Once a batch of entries is applied, before anybody who waits for one of
    /// them is woken.
    pub fn publish(&mut self) {
        assert!(self.under_way.is_none(), "nothing of an entry is seen before it is complete");
        if !self.poisoned {
            let state = self.published.lock();
            self.db_size_bytes.store(state.db_size_bytes(), Ordering::Relaxed);
            self.published.announce(&state);
        }
    }

    /// Bytes of rows that wait for the disk.
    pub fn pending_bytes(&self) -> usize {
        let pending = self.published.lock().pending;
        usize::try_from(pending.row_bytes + self.jobs.sealed.row_bytes).unwrap_or(usize::MAX)
    }

    /// True if no more entries may be applied before a flush has finished.
    pub fn pending_full(&self) -> bool {
        self.pending_bytes() >= self.options.pending_bytes_max
    }

    /// When to call [`Store::take_job`] next. `None` while a job is out, an entry is under way, or there is nothing to do.
    pub fn next_job_at(&self) -> Option<MonoTime> {
        [self.flush_due_at(), self.compaction_due_at(), self.copy_due_at()].into_iter().flatten().min()
    }

    fn may_begin_job(&self) -> bool {
        self.jobs.out.is_none() && self.under_way.is_none() && !self.poisoned
    }

    fn flush_due_at(&self) -> Option<MonoTime> {
        if !self.may_begin_job() || self.applied.0 == self.durable.applied_index {
            return None;
        }
        // Half full is time enough: the other half fills while the flush runs.
        let at_once = self.pending_bytes() >= self.options.pending_bytes_max / 2;
        Some(if at_once { MonoTime::from_nanos(0) } else { self.jobs.flush_at })
    }

    fn compaction_due_at(&self) -> Option<MonoTime> {
        // The scheduled mark is durable, and with it every row up to it.
        let unfinished = self.durable.compact_finished < self.durable.compact_scheduled;
        // A copy has no room for what goes.
        let may_delete = !matches!(self.jobs.copy, Copy::Begun(_));
        (self.may_begin_job() && unfinished && may_delete).then_some(self.jobs.compact_at)
    }

    fn copy_due_at(&self) -> Option<MonoTime> {
        (self.may_begin_job() && matches!(self.jobs.copy, Copy::Begun(_))).then_some(MonoTime::from_nanos(0))
    }

    /// Begins to defragment the database: the next jobs do it, one by one. What comes of it is told by
    /// [`Store::defragmented`].
    ///
    /// # Panics
    /// If one is under way.
    pub fn defragment(&mut self) {
        assert!(matches!(self.jobs.copy, Copy::Unwanted), "one defragmentation at a time");
        self.jobs.copy = Copy::Begun(Box::new(Copying::new(
            open::backend_options(&self.options),
            self.options.defragment_slice_bytes,
        )));
    }

    /// True from when one was asked for until somebody has asked what it came to.
    pub fn is_defragmenting(&self) -> bool {
        !matches!(self.jobs.copy, Copy::Unwanted)
    }

    /// What the defragmentation that was asked for has come to, once it has ended. An error says why it was given up; the
    /// database is as it was.
    pub fn defragmented(&mut self) -> Option<Result<Defragmented, StoreError>> {
        match std::mem::replace(&mut self.jobs.copy, Copy::Unwanted) {
            Copy::Ended(ended) => Some(ended),
            going_on => {
                self.jobs.copy = going_on;
                None
            }
        }
    }

    /// Gives a defragmentation up. Its unfinished file stays until the store is opened again.
    ///
    /// # Panics
    /// If a job is out.
    pub fn give_up_defragmentation(&mut self) {
        assert!(self.jobs.out.is_none(), "a job is out");
        self.jobs.copy = Copy::Unwanted;
    }

    /// The job that is due, if any. Run it where blocking is allowed, then call [`Store::finish_job`].
    pub fn take_job(&mut self, now: MonoTime) -> Option<Job> {
        let is_due = |at: Option<MonoTime>| at.is_some_and(|at| at <= now);
        let other = if is_due(self.copy_due_at()) {
            Some(JobKind::Copy)
        } else {
            is_due(self.compaction_due_at()).then_some(JobKind::Compact)
        };
        let kind = match (is_due(self.flush_due_at()), other) {
            (false, None) => return None,
            (true, None) => JobKind::Flush,
            (false, Some(other)) => other,
            // In turns, so that neither starves the other.
            (true, Some(other)) if self.jobs.last == JobKind::Flush => other,
            (true, Some(_)) => JobKind::Flush,
        };
        let work = match kind {
            JobKind::Flush => self.flush(),
            JobKind::Compact => self.compaction_slice(now)?,
            JobKind::Copy => self.copy_slice(),
        };
        self.jobs.out = Some(kind);
        self.jobs.last = kind;
        Some(Job { database: self.database.clone(), cache: self.cache.clone(), file: self.file.clone(), work })
    }

    fn flush(&mut self) -> Work {
        let mut state = self.published.lock();
        let sealed = std::mem::take(&mut state.pending);
        let ahead = u64::from(bug!("applied-index-ahead-of-the-rows"));
        let record = StateRecord {
            applied_index: LogIndex(ahead + state.applied_index.0 - u64::from(bug!("applied-index-behind-the-rows"))),
            applied_term: state.applied_term,
            revision: state.revision,
            compact_scheduled: state.compacted,
            compact_finished: self.durable.compact_finished,
            row_count: self.durable.row_count + sealed.rows,
            row_bytes: self.durable.row_bytes + sealed.row_bytes,
            row_bytes_high: state.row_bytes_high,
        };
        assert_eq!(record.row_bytes, state.row_bytes, "all rows are durable or in this flush");
        let row_bytes = sealed.row_bytes;
        self.jobs.sealed = sealed;
        Work::Flush(Box::new(Flush {
            rows: state.rows.seal(),
            row_bytes,
            record,
            conf_state: state.conf_state.clone(),
            membership: state.membership.clone(),
            alarms: state.alarms.clone(),
            leases: state.leases.take_dirty(),
        }))
    }

    fn copy_slice(&mut self) -> Work {
        let Copy::Begun(copying) = std::mem::replace(&mut self.jobs.copy, Copy::Out) else {
            unreachable!("only a copy that has begun is due")
        };
        Work::Copy { copying, record: self.durable }
    }

    fn compaction_slice(&mut self, now: MonoTime) -> Option<Work> {
        let at = self.durable.compact_scheduled;
        if self.jobs.compaction.is_none() {
            self.jobs.hashing = self.compaction_hashing(at);
        }
        if let Some(hashing) = self.jobs.hashing.take() {
            self.jobs.compaction.get_or_insert_with(|| Compaction::new(at, now));
            return Some(Work::Hash(hashing));
        }
        let compaction = self.jobs.compaction.get_or_insert_with(|| Compaction::new(at, now));
        let batch_rows = self.options.compaction_batch_rows;
        self.jobs.index_walks += u64::from(compaction.walks_next(batch_rows));
        match compaction.next_slice(&mut self.published.lock().index, batch_rows) {
            Some(slice) => Some(Work::Compact { slice, before: self.durable }),
            None => {
                // Many keys were looked at for nothing: that is a slice of work too.
                self.jobs.compact_at = now + self.options.compaction_interval;
                None
            }
        }
    }

    /// The hash that a compaction at `at` leaves. It covers all that was written since the compaction before, so that one
    /// has to be complete; and it must be known which one that was, which it is not after a restart, or if the next is
    /// already applied. Then there is none, as in etcd after a compaction that was interrupted.
    fn compaction_hashing(&self, at: i64) -> Option<Box<Hashing>> {
        let state = self.published.lock();
        let before = state.compacted_before.filter(|_| state.compacted == at)?;
        (before == self.durable.compact_finished)
            .then(|| Box::new(Hashing::new(&state.index, &state.rows.durable_only(), Asker::Compaction, before, at)))
    }

    fn remember_hash(&self, hash: CompactionHash) {
        const KEPT: usize = 10;
        let mut state = self.published.lock();
        let hashes = Arc::make_mut(&mut state.compaction_hashes);
        hashes.push(hash);
        hashes.sort_unstable_by_key(|hash| hash.hash_revision);
        hashes.drain(..hashes.len().saturating_sub(KEPT));
    }

    /// Takes note of what a job has done, and lets readers read it from the database. An error is fatal.
    pub fn finish_job(&mut self, outcome: JobOutcome, now: MonoTime) -> Result<Vec<Finished>, StoreError> {
        self.check_poison()?;
        let out = self.jobs.out.take().expect("a job is out");
        let done = match outcome.result {
            Ok(done) => done,
            Err(error) => {
                self.poisoned = true;
                return Err(error);
            }
        };
        let finished = match done {
            Done::Committed(committed) => self.finish_commit(*committed, out, now),
            Done::Hashed { hashing, hash } => {
                assert_eq!(out, JobKind::Compact, "the outcome belongs to the job that was taken");
                self.jobs.compact_at = now + self.options.compaction_interval;
                match hash {
                    Some(hash) => self.remember_hash(hash),
                    None => self.jobs.hashing = Some(hashing),
                }
                Vec::new()
            }
            Done::Copied(copying) => {
                self.jobs.copy = Copy::Begun(copying);
                Vec::new()
            }
            Done::NotCopied(error) => {
                self.jobs.copy = Copy::Ended(Err(error));
                Vec::new()
            }
            Done::Replaced(replacement) => {
                self.finish_copy(*replacement);
                Vec::new()
            }
        };
        let state = self.published.lock();
        self.db_size_bytes.store(state.db_size_bytes(), Ordering::Relaxed);
        if let Some(view) = self.published.shown() {
            self.published.replace(if self.under_way.is_none() && view.applied() == self.applied {
                // What compaction gave back shows, and the old index goes.
                View::of(&state)
            } else {
                // Nothing of entries that are not published yet may show.
                view.on_rows(state.rows.clone(), state.compaction_hashes.clone())
            });
        }
        drop(state);
        Ok(finished)
    }

    fn finish_commit(&mut self, committed: Committed, out: JobKind, now: MonoTime) -> Vec<Finished> {
        let Committed { record, durable, kind } = committed;
        let durable = Arc::new(durable);
        let mut finished = Vec::new();
        match kind {
            CommittedKind::Flushed { conf_state } => {
                assert_eq!(out, JobKind::Flush, "the outcome belongs to the job that was taken");
                self.jobs.sealed = Pending::default();
                self.jobs.flush_at = now + self.options.flush_interval;
                self.published.lock().rows.flushed(durable);
                let conf_state = Arc::unwrap_or_clone(conf_state);
                finished.push(Finished::Flushed { index: record.applied_index, conf_state });
            }
            CommittedKind::Compacted { finished: through } => {
                assert_eq!(out, JobKind::Compact, "the outcome belongs to the job that was taken");
                self.jobs.compact_at = now + self.options.compaction_interval;
                let mut state = self.published.lock();
                state.row_bytes -= self.durable.row_bytes - record.row_bytes;
                state.rows.replace_durable(durable);
                let compaction = self.jobs.compaction.as_mut().expect("its slice was out");
                compaction.rows += self.durable.row_count - record.row_count;
                if let Some(revision) = through {
                    let revision = Revision(revision);
                    let hash = state.compaction_hashes.iter().find(|stored| stored.hash_revision == revision);
                    let (rows, took) = (compaction.rows, now - compaction.begun_at);
                    let hash = hash.map(|stored| stored.hash);
                    self.jobs.compaction = None;
                    finished.push(Finished::Compacted(Compacted { revision, rows, took, hash }));
                }
            }
        }
        self.durable = record;
        finished
    }

    /// Goes on with the copy. Rows that are pending are in neither file yet.
    fn finish_copy(&mut self, replacement: Replacement) {
        let Replacement { database, record, durable, old_file } = replacement;
        let old = std::mem::replace(&mut self.database, Arc::new(database));
        self.durable = record;
        let mut state = self.published.lock();
        state.rows.replace_durable(Arc::new(durable));
        if !bug!("defragmentation-frees-nothing") {
            state.row_bytes_high = state.row_bytes;
        }
        drop(state);
        self.jobs.copy = Copy::Ended(Ok(Defragmented { retired: Retired { database: old }, old_file }));
    }

    fn check_poison(&self) -> Result<(), StoreError> {
        if self.poisoned { Err(StoreError::Poisoned) } else { Ok(()) }
    }
}

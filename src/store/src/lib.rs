//! The replicated state machine. (Signatures; the bodies follow in the next commits.)
#![allow(unused_variables, dead_code, missing_docs, clippy::unimplemented)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::etcdserverpb::{
    AlarmMember, AlarmResponse, CompactionResponse, DeleteRangeResponse, InternalRaftRequest, LeaseGrantResponse,
    LeaseRevokeResponse, PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use quorate_proto::raftpb;
use quorate_runtime::Rt;
use quorate_runtime::clock::MonoTime;
use quorate_types::{Error, LeaseId, LogIndex, MemberId, Revision, Term};

/// Limits and intervals of one store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bytes of rows beyond which writes are refused; `None` is no limit.
    pub quota_bytes: Option<u64>,
    pub flush_interval: Duration,
    pub pending_bytes_max: usize,
    pub cache_bytes: usize,
    pub compaction_batch_rows: usize,
    pub compaction_interval: Duration,
    pub max_learners: usize,
    pub lease_ttl_min_secs: i64,
    pub unsafe_no_fsync: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        unimplemented!()
    }
}

/// The disk failed, or what it holds is damaged. The store must be dropped; nothing more may be answered from it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{file}: damaged: {what}", file = file.display())]
    Damaged { file: PathBuf, what: String },
    #[error("{file}: {source}", file = file.display())]
    Io { file: PathBuf, source: std::io::Error },
}

/// A member of the cluster, as the state machine knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    pub peer_urls: Vec<String>,
    pub is_learner: bool,
    pub name: String,
    pub client_urls: Vec<String>,
}

pub struct Store;

impl Store {
    pub fn create(rt: &Rt, path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        unimplemented!()
    }
    pub fn open(rt: &Rt, path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        unimplemented!()
    }
    pub fn reader(&self) -> Reader {
        unimplemented!()
    }
    pub fn applied(&self) -> (LogIndex, Term) {
        unimplemented!()
    }
    pub fn durable_index(&self) -> LogIndex {
        unimplemented!()
    }
    pub fn conf_state(&self) -> &raftpb::ConfState {
        unimplemented!()
    }
    pub fn check_conf_change(&self, change: &raftpb::ConfChange) -> Result<(), Error> {
        unimplemented!()
    }
    /// An error is fatal (damage, or the disk): drop the store, stop the member.
    pub fn start(&mut self, index: LogIndex, term: Term, command: Command) -> Result<Progress, StoreError> {
        unimplemented!()
    }
    /// Goes on after [`Progress::More`].
    pub fn resume(&mut self) -> Result<Progress, StoreError> {
        unimplemented!()
    }
    pub fn publish(&mut self) {
        unimplemented!()
    }
    pub fn pending_bytes(&self) -> usize {
        unimplemented!()
    }
    pub fn pending_full(&self) -> bool {
        unimplemented!()
    }
    pub fn next_job_at(&self) -> Option<MonoTime> {
        unimplemented!()
    }
    pub fn take_job(&mut self, now: MonoTime) -> Option<Job> {
        unimplemented!()
    }
    pub fn finish_job(&mut self, outcome: JobOutcome, now: MonoTime) -> Result<Vec<Finished>, StoreError> {
        unimplemented!()
    }
}

/// What one log entry asks for.
pub enum Command {
    Empty,
    Request(Box<InternalRaftRequest>),
    ConfChange { change: raftpb::ConfChange, conf_state: raftpb::ConfState },
    RefusedConfChange,
}

pub enum Progress {
    Done(Outcome),
    More,
}

#[derive(Debug)]
pub struct Outcome {
    pub result: Result<Response, Error>,
    pub over_quota: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Empty,
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compaction(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    Alarm(AlarmResponse),
}

pub struct Job;
pub struct JobOutcome;

impl Job {
    pub fn run(self) -> JobOutcome {
        unimplemented!()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    Flushed(LogIndex),
    Compacted(Revision),
}

#[derive(Clone)]
pub struct Reader;

impl Reader {
    pub fn view(&self) -> Arc<View> {
        unimplemented!()
    }
}

pub struct View;

impl View {
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }
    /// -1 if never compacted, as etcd counts.
    pub fn compact_revision(&self) -> Revision {
        unimplemented!()
    }
    pub fn applied(&self) -> (LogIndex, Term) {
        unimplemented!()
    }
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ReadError> {
        unimplemented!()
    }
    /// `request` must be read-only (see [`is_read_only`]).
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
        unimplemented!()
    }
    pub fn lease_exists(&self, id: LeaseId) -> bool {
        unimplemented!()
    }
    pub fn members(&self) -> &[Member] {
        unimplemented!()
    }
    pub fn removed(&self) -> &[MemberId] {
        unimplemented!()
    }
    pub fn cluster_version(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn alarms(&self) -> &[AlarmMember] {
        unimplemented!()
    }
    pub fn db_size_bytes(&self) -> u64 {
        unimplemented!()
    }
    pub fn db_size_in_use_bytes(&self) -> u64 {
        unimplemented!()
    }
    pub fn check_quota(&self, request: &InternalRaftRequest) -> bool {
        unimplemented!()
    }
}

/// True if a transaction holds only ranges, so that it needs no log entry.
pub fn is_read_only(request: &TxnRequest) -> bool {
    unimplemented!()
}

#[derive(Debug)]
pub enum ReadError {
    Refused(Error),
    Damaged(StoreError),
}

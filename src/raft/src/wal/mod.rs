//! stub
#![allow(missing_docs, unused_variables)]
use quorate_proto::{raftpb, walpb};
use quorate_types::*;
use std::path::*;
#[derive(Debug, Clone, thiserror::Error)] #[error("x")] pub struct WalError;
pub struct WalOptions { pub segment_bytes: u64, pub unsafe_no_fsync: bool }
pub struct Wal;
pub struct Batch { pub hard_state: Option<raftpb::HardState>, pub entries: Vec<raftpb::Entry>, pub sync: bool }
#[derive(Clone, Copy)] pub struct SnapshotMark { pub index: LogIndex, pub term: Term }
pub struct TornTail { pub file: PathBuf, pub offset_bytes: u64, pub lost_bytes: u64 }
pub struct Recovered { pub metadata: walpb::Metadata, pub hard_state: raftpb::HardState, pub entries: Vec<raftpb::Entry>, pub base: SnapshotMark, pub torn: Option<TornTail>, pub snapshots: Vec<walpb::Snapshot> }
impl Wal {
  pub fn create(rt: quorate_runtime::Rt, dir: &Path, metadata: walpb::Metadata, options: WalOptions) -> Result<Wal, WalError> { todo!() }
  pub fn open(rt: quorate_runtime::Rt, dir: &Path, ci: LogIndex, options: WalOptions) -> Result<(Wal, Recovered), WalError> { todo!() }
  pub fn append(&mut self, batch: &Batch) -> Result<(), WalError> { todo!() }
  pub fn mark_snapshot(&mut self, mark: walpb::Snapshot) -> Result<(), WalError> { todo!() }
  pub fn release_below(&mut self, i: LogIndex) -> Result<(), WalError> { todo!() }
}

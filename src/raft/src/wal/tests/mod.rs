//! Tests of the log on a disk in memory.

mod cases;
mod entries;
mod fixtures;
mod golden;
mod properties;

use std::path::Path;

use bytes::Bytes;
use quorate_proto::{raftpb, walpb};
use quorate_types::LogIndex;

use super::test_disk::TestDisk;
use super::{Batch, Recovered, SnapshotMark, Wal, WalError, WalOptions};

const DIR: &str = "/data/member/wal";

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn metadata() -> walpb::Metadata {
    walpb::Metadata { node_id: Some(0x8e9e_05c5_2164_694d), cluster_id: Some(0xcdf8_181e_1404_8d4b) }
}

fn small() -> WalOptions {
    WalOptions { segment_bytes: 4096, unsafe_no_fsync: false }
}

fn create(disk: &TestDisk, options: WalOptions) -> Wal {
    Wal::create(disk.rt(), dir(), metadata(), options).expect("a new log")
}

fn open(disk: &TestDisk, options: WalOptions) -> Result<(Wal, Recovered), WalError> {
    Wal::open(disk.rt(), dir(), SnapshotMark::START, LogIndex(0), options)
}

fn entry(index: u64, term: u64, data: impl Into<Bytes>) -> raftpb::Entry {
    raftpb::Entry { r#type: Some(0), term: Some(term), index: Some(index), data: Some(data.into()) }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> raftpb::HardState {
    raftpb::HardState { term: Some(term), vote: Some(vote), commit: Some(commit) }
}

fn mark(index: u64, term: u64) -> walpb::Snapshot {
    let conf_state = raftpb::ConfState { voters: vec![1], ..Default::default() };
    walpb::Snapshot { index: Some(index), term: Some(term), conf_state: Some(conf_state) }
}

fn from(index: u64, term: u64) -> SnapshotMark {
    SnapshotMark::of(&mark(index, term))
}

/// Appends entries `indices` of `term`, synced, with the hard state of that term.
fn append(wal: &mut Wal, term: u64, indices: std::ops::RangeInclusive<u64>) {
    let commit = indices.start() - 1;
    let entries = indices.map(|index| entry(index, term, format!("value {index} of term {term}"))).collect();
    wal.append(&Batch { hard_state: Some(hard_state(term, 1, commit)), entries, sync: true }).expect("an append");
}

fn indices(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(raftpb::Entry::index).collect()
}

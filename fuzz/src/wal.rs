//! Opening a write-ahead log from any bytes.
//!
//! Half of the inputs are the segments themselves; the others change a valid log: bits, zeroed ranges, truncation, bytes copied
//! elsewhere, whole segments exchanged. Opening must end in a log or in an error, and allocate no more than the files justify.
//! A log that opens is whole: its entries are consecutive, it can be appended to, and opened again it says the same.

use std::path::{Path, PathBuf};

use quorate_proto::{raftpb, walpb};
use quorate_raft::wal::test_disk::TestDisk;
use quorate_raft::wal::{Batch, Recovered, SnapshotMark, Wal, WalOptions, newest_mark, read_all};
use quorate_types::LogIndex;

use crate::allocation::largest_during;
use crate::source::Source;

const DIR: &str = "/wal";

/// Windows and buffers; everything else is bounded by the files.
const FIXED_BYTES: usize = 2 << 20;

const OPTIONS: WalOptions = WalOptions { segment_bytes: 2048, unsafe_no_fsync: false };

/// One input.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let disk = TestDisk::default();
    if source.byte().is_multiple_of(2) {
        arbitrary_segments(&disk, &mut source)
    } else {
        changed_log(&disk, &mut source)
    }

    let files_bytes: usize =
        disk.paths().iter().filter_map(|path| disk.contents(path)).map(|contents| contents.len()).sum();
    let (_, largest_bytes) = largest_during(|| {
        let _ = read_all(&disk.rt(), Path::new(DIR));
        let mark = newest_mark(&disk.rt(), Path::new(DIR), LogIndex(u64::MAX)).ok().flatten();
        for from in [Some(SnapshotMark::START), mark].into_iter().flatten() {
            check_open(&disk, from);
        }
    });
    // An entry as a struct takes more than its shortest record does.
    let limit_bytes = FIXED_BYTES + 16 * files_bytes;
    assert!(largest_bytes <= limit_bytes, "{largest_bytes} bytes allocated at once for files of {files_bytes} bytes");
}

fn check_open(disk: &TestDisk, from: SnapshotMark) {
    let Ok((mut wal, recovered)) = Wal::open(disk.rt(), Path::new(DIR), from, LogIndex(0), OPTIONS) else { return };
    let first = from.index.0 + 1;
    assert!(recovered.entries.iter().map(raftpb::Entry::index).eq(first..first + recovered.entries.len() as u64));
    let again = reopened(disk, wal, from);
    assert_eq!(again, Recovered { torn: None, ..recovered.clone() });

    wal = Wal::open(disk.rt(), Path::new(DIR), from, LogIndex(0), OPTIONS).expect("it opened twice").0;
    let index = first + recovered.entries.len() as u64;
    let term = recovered.hard_state.term().max(1);
    let hard_state = raftpb::HardState { term: Some(term), ..recovered.hard_state };
    let appended = entry(index, term, b"appended");
    wal.append(&Batch { hard_state: Some(hard_state), entries: vec![appended.clone()], sync: true })
        .expect("a healthy disk");
    assert_eq!(reopened(disk, wal, from).entries.last(), Some(&appended));
}

fn reopened(disk: &TestDisk, wal: Wal, from: SnapshotMark) -> Recovered {
    drop(wal);
    Wal::open(disk.rt(), Path::new(DIR), from, LogIndex(0), OPTIONS).expect("what opened once opens again").1
}

fn arbitrary_segments(disk: &TestDisk, source: &mut Source<'_>) {
    for seq in 0..1 + source.byte() % 3 {
        let index = source.byte() % 4;
        let len_bytes = source.number() % 2048;
        let mut contents = source.bytes(len_bytes).to_vec();
        // Lengths that fit are rare among random bytes: help.
        for _ in 0..source.byte() % 8 {
            let at = source.below(contents.len() / 8) * 8;
            if let Some(place) = contents.get_mut(at..at + 8) {
                place.copy_from_slice(&u64::from(source.byte()).to_le_bytes());
                place[7] = source.byte() & 0x87;
            }
        }
        disk.put(&segment_path(u64::from(seq), u64::from(index)), contents);
    }
}

fn changed_log(disk: &TestDisk, source: &mut Source<'_>) {
    write_log(disk, source);
    let paths = disk.paths();
    while !source.is_empty() {
        let path = &paths[source.below(paths.len())];
        let Some(mut contents) = disk.contents(path) else { continue };
        let start = source.below(contents.len());
        let end = (start + source.below(600)).min(contents.len());
        match source.byte() % 8 {
            0..=2 if !contents.is_empty() => contents[start] ^= 1 << (source.byte() % 8),
            3 => contents[start..end].fill(0),
            4 => contents.truncate(start),
            5 => contents.copy_within(start..end, 0),
            6 => {
                let inserted = source.bytes(end - start).to_vec();
                contents.splice(start..start, inserted);
            }
            7 => {
                let other = disk.contents(&paths[source.below(paths.len())]).unwrap_or_default();
                contents.truncate(start);
                contents.extend_from_slice(other.get(start..).unwrap_or_default());
            }
            _ => {}
        }
        disk.put(path, contents);
    }
}

/// A valid log of a few segments.
fn write_log(disk: &TestDisk, source: &mut Source<'_>) {
    let metadata = walpb::Metadata { node_id: Some(1), cluster_id: Some(2) };
    let mut wal = Wal::create(disk.rt(), Path::new(DIR), metadata, OPTIONS).expect("a healthy disk");
    let mut next = 1;
    for _ in 0..1 + source.byte() % 16 {
        let entries: Vec<_> = (0..u64::from(source.byte() % 4))
            .map(|offset| {
                let data_bytes = usize::from(source.byte());
                entry(next + offset, 1, source.bytes(data_bytes))
            })
            .collect();
        let hard_state = Some(raftpb::HardState { term: Some(1), vote: Some(1), commit: Some(next - 1) });
        next += entries.len() as u64;
        wal.append(&Batch { hard_state, entries, sync: source.byte() < 200 }).expect("a healthy disk");
        if source.byte() < 30 {
            let conf_state = Some(raftpb::ConfState { voters: vec![1], ..Default::default() });
            let mark = walpb::Snapshot { index: Some(next - 1), term: Some(u64::from(next > 1)), conf_state };
            wal.mark_snapshot(mark).expect("a healthy disk");
        }
    }
}

fn entry(index: u64, term: u64, data: &[u8]) -> raftpb::Entry {
    raftpb::Entry { r#type: Some(0), term: Some(term), index: Some(index), data: Some(data.to_vec().into()) }
}

fn segment_path(seq: u64, index: u64) -> PathBuf {
    Path::new(DIR).join(format!("{seq:016x}-{index:016x}.wal"))
}

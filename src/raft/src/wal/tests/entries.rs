//! Old entries, read back while the log is being written.

use proptest::prelude::*;

use super::super::EntryReader;
use super::super::test_disk::TestDisk;
use super::*;
use crate::log::{Position, Wanted};

/// What the log says of `low..high`.
fn wanted(model: &[raftpb::Entry], low: u64, high: u64) -> Wanted {
    let mut terms: Vec<Position> = Vec::new();
    for entry in &model[low as usize - 1..high as usize - 1] {
        if terms.last().is_none_or(|run| run.term != entry.term()) {
            terms.push(Position { index: entry.index(), term: entry.term() });
        }
    }
    Wanted { low: LogIndex(low), high: LogIndex(high), terms }
}

fn ten_and_reader() -> (TestDisk, Wal, EntryReader) {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=10);
    let reader = EntryReader::new(disk.rt(), dir());
    (disk, wal, reader)
}

fn in_term_one(low: u64, high: u64) -> Wanted {
    Wanted { low: LogIndex(low), high: LogIndex(high), terms: vec![Position { index: low, term: 1 }] }
}

#[test]
fn a_small_budget_still_gives_one_entry() {
    let (_disk, _wal, mut reader) = ten_and_reader();
    let read = reader.read(&in_term_one(3, 11), 0).unwrap();
    assert_eq!(read.iter().map(raftpb::Entry::index).collect::<Vec<_>>(), [3]);
}

#[test]
fn what_was_released_or_never_written_is_an_error() {
    let (_disk, mut wal, mut reader) = ten_and_reader();
    let error = reader.read(&in_term_one(9, 12), usize::MAX).unwrap_err();
    assert!(error.to_string().contains("entry 11 of term 1 is not before the end of the log"), "{error}");
    while wal.segment_count() < 3 {
        let next = wal.last_index().next().0;
        append(&mut wal, 1, next..=next + 9);
    }
    wal.mark_snapshot(mark(wal.last_index().0, 1)).unwrap();
    wal.release_below(wal.last_index()).unwrap();
    let error = reader.read(&in_term_one(3, 5), usize::MAX).unwrap_err();
    assert!(matches!(error, WalError::StartsLater { .. }), "{error}");
}

#[test]
fn damage_is_an_error() {
    let (disk, _wal, mut reader) = ten_and_reader();
    let path = disk.paths().into_iter().find(|path| path.extension().is_some_and(|end| end == "wal")).unwrap();
    let bytes = disk.contents(&path).unwrap();
    let at = bytes.windows(7).position(|window| window == b"value 6").unwrap();
    disk.flip_bit(&path, at, 0);
    assert_eq!(reader.read(&in_term_one(3, 6), usize::MAX).unwrap().len(), 3);
    let error = reader.read(&in_term_one(3, 8), usize::MAX).unwrap_err();
    assert!(error.to_string().contains("crc mismatch"), "{error}");
}

#[derive(Clone, Debug)]
enum Action {
    /// Entries of these sizes, after taking back up to `rewind` in a new term.
    Append { sizes: Vec<usize>, rewind: u64 },
    /// A follower that goes on where it was, or one that begins at some part of the log.
    Read { begin_percent: Option<u64>, entries_max: u64, bytes_max: usize },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let append = (proptest::collection::vec(0_usize..900, 1..6), prop_oneof![4 => Just(0_u64), 1 => 1_u64..8])
        .prop_map(|(sizes, rewind)| Action::Append { sizes, rewind });
    let read = (proptest::option::weighted(0.3, 0_u64..100), 1_u64..30, 0_usize..4000)
        .prop_map(|(begin_percent, entries_max, bytes_max)| Action::Read { begin_percent, entries_max, bytes_max });
    proptest::collection::vec(prop_oneof![append, read], 1..80)
}

proptest! {
    #[test]
    fn what_is_read_is_what_the_log_says(actions in actions()) {
        let disk = TestDisk::default();
        let mut wal = create(&disk, small());
        let mut reader = EntryReader::new(disk.rt(), dir());
        let (mut model, mut term, mut next) = (Vec::<raftpb::Entry>::new(), 1, 1);
        for action in actions {
            match action {
                Action::Append { sizes, rewind } => {
                    if rewind > 0 {
                        term += 1;
                        model.truncate(model.len().saturating_sub(rewind as usize));
                    }
                    let first = model.len() as u64 + 1;
                    let entries: Vec<_> =
                        (first..).zip(sizes).map(|(index, size)| entry(index, term, vec![index as u8; size])).collect();
                    model.extend(entries.iter().cloned());
                    wal.append(&Batch { hard_state: Some(hard_state(term, 1, 0)), entries, sync: true }).unwrap();
                }
                Action::Read { begin_percent, entries_max, bytes_max } => {
                    let last = model.len() as u64;
                    if let Some(percent) = begin_percent {
                        next = last * percent / 100 + 1;
                    }
                    if next > last {
                        continue;
                    }
                    let high = (next + entries_max).min(last + 1);
                    let read = reader.read(&wanted(&model, next, high), bytes_max).unwrap();
                    prop_assert!(!read.is_empty() && read.len() as u64 <= high - next);
                    prop_assert_eq!(&read[..], &model[next as usize - 1..][..read.len()]);
                    let all_but_last: usize = read[..read.len() - 1].iter().map(prost::Message::encoded_len).sum();
                    prop_assert!(read.len() == 1 || all_but_last < bytes_max);
                    prop_assert!(next + read.len() as u64 == high || bytes_max < 4000);
                    next += read.len() as u64;
                }
            }
        }
    }
}

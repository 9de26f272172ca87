//! Single situations, each named by what must hold.

use quorate_proto::raftpb;
use quorate_types::LogIndex;

use super::super::record::OVERHEAD_BYTES_MAX;
use super::super::test_disk::{Dice, TestDisk, Torn};
use super::super::{WriteCost, newest_mark, read_all};
use super::*;

fn segments(disk: &TestDisk) -> Vec<String> {
    let names = disk.paths().into_iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".wal")).collect()
}

fn tail_path(disk: &TestDisk) -> std::path::PathBuf {
    dir().join(segments(disk).last().unwrap())
}

#[test]
fn what_was_appended_comes_back_with_the_same_bytes() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    let entries = vec![
        entry(1, 1, "a"),
        // etcd 3.4 writes zero fields, 3.7 and raft's empty entry leave them out: presence is data too.
        raftpb::Entry { r#type: None, term: Some(1), index: Some(2), data: None },
        raftpb::Entry { r#type: Some(1), term: Some(1), index: Some(3), data: Some(Bytes::new()) },
        entry(4, 1, vec![0; 1500]),
    ];
    wal.append(&Batch { hard_state: Some(hard_state(1, 7, 2)), entries: entries.clone(), sync: true }).unwrap();
    drop(wal);

    let (wal, recovered) = open(&disk, small()).unwrap();
    assert_eq!(recovered.entries, entries);
    assert_eq!(recovered.hard_state, hard_state(1, 7, 2));
    assert_eq!(recovered.metadata, metadata());
    assert_eq!(recovered.torn, None);
    assert_eq!(wal.last_index(), LogIndex(4));
    assert_eq!(wal.durable(), wal.end());
}

#[test]
fn one_batch_is_one_write_and_one_sync() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, WalOptions { segment_bytes: 1 << 20, unsafe_no_fsync: false });
    let (changes, syncs) = (disk.changes(), disk.syncs());
    append(&mut wal, 1, 1..=100);
    assert_eq!((disk.changes() - changes, disk.syncs() - syncs), (2, 1));
    wal.append(&Batch { hard_state: Some(hard_state(1, 1, 100)), ..Batch::default() }).unwrap();
    assert_eq!((disk.changes() - changes, disk.syncs() - syncs), (3, 1));
    assert!(wal.durable() < wal.end());
    wal.append(&Batch { sync: true, ..Batch::default() }).unwrap();
    assert_eq!(wal.durable(), wal.end());
}

#[test]
fn what_appending_costs_is_told_once() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    let header_bytes = wal.end().offset_bytes;
    let told = |cost: WriteCost| (cost.written_bytes, cost.writes, cost.syncs);
    assert_eq!(told(wal.take_cost()), (header_bytes, 0, 0));
    append(&mut wal, 1, 1..=3);
    wal.append(&Batch { hard_state: Some(hard_state(1, 1, 3)), ..Batch::default() }).unwrap();
    assert_eq!(told(wal.take_cost()), (wal.end().offset_bytes - header_bytes, 2, 1));
    // Synced already, and then a mark.
    append(&mut wal, 1, 4..=4);
    wal.append(&Batch { sync: true, ..Batch::default() }).unwrap();
    wal.mark_snapshot(mark(4, 1)).unwrap();
    assert_eq!((wal.take_cost().writes, wal.take_cost().syncs), (2, 0), "told once");
    // A cut syncs what it ends, and writes a header.
    let before = segments(&disk).len();
    wal.append(&Batch { hard_state: None, entries: vec![entry(5, 1, vec![7; 4000])], sync: true }).unwrap();
    assert_eq!(segments(&disk).len(), before + 1);
    let cost = wal.take_cost();
    assert_eq!((cost.writes, cost.syncs, cost.written_bytes), (1, 2, wal.end().offset_bytes));
}

#[test]
fn no_sync_at_all_if_told_so() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, WalOptions { unsafe_no_fsync: true, ..small() });
    for index in 1..=100 {
        append(&mut wal, 1, index..=index);
    }
    assert!(wal.segment_count() > 1);
    assert_eq!(disk.syncs(), 0);
    drop(wal);
    let (_, recovered) = open(&disk, small()).unwrap();
    assert_eq!(indices(&recovered), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_later_leader_overwrites_the_tail() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=5);
    append(&mut wal, 2, 3..=3);
    drop(wal);
    let (mut wal, recovered) = open(&disk, small()).unwrap();
    assert_eq!(indices(&recovered), [1, 2, 3]);
    assert_eq!(recovered.entries[2].term(), 2);
    append(&mut wal, 2, 4..=4);
}

#[test]
fn segments_are_cut_chained_and_released() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    for index in 1..=200 {
        append(&mut wal, 1, index..=index);
    }
    let count = wal.segment_count();
    assert!(count > 3, "{count} segments");
    assert!(segments(&disk)[..count - 1].iter().all(|name| disk.contents(&dir().join(name)).unwrap().len() <= 4096));

    wal.release_below(LogIndex(150)).unwrap();
    assert_eq!(wal.segment_count(), count, "nothing is released without a mark to start from");
    wal.mark_snapshot(mark(120, 1)).unwrap();
    wal.release_below(LogIndex(110)).unwrap();
    assert_eq!(wal.segment_count(), count, "the mark is beyond what may go");
    wal.release_below(LogIndex(150)).unwrap();
    assert!(wal.segment_count() < count);
    assert_eq!(segments(&disk).len(), wal.segment_count());
    append(&mut wal, 1, 201..=201);
    drop(wal);

    assert_eq!(newest_mark(&disk.rt(), dir(), LogIndex(150)).unwrap(), Some(from(120, 1)));
    assert_eq!(newest_mark(&disk.rt(), dir(), LogIndex(119)).unwrap(), None);
    let (_, recovered) = Wal::open(disk.rt(), dir(), from(120, 1), LogIndex(150), small()).unwrap();
    assert_eq!(indices(&recovered), (121..=201).collect::<Vec<_>>());
    assert!(matches!(open(&disk, small()), Err(WalError::StartsLater { .. })));
    let listed = read_all(&disk.rt(), dir()).unwrap();
    assert!(indices(&listed)[0] <= 121 && indices(&listed).last() == Some(&201));
}

#[test]
fn the_next_segment_can_come_late_or_not_at_all() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    disk.hold_reports(true);
    for index in 1..=100 {
        append(&mut wal, 1, index..=index);
        if index == 60 {
            disk.deliver_reports();
        }
    }
    let count = wal.segment_count();
    assert!(count > 2);
    drop(wal);
    let (wal, recovered) = open(&disk, small()).unwrap();
    assert_eq!(recovered.entries.len(), 100);
    assert_eq!(wal.segment_count(), count);
    assert!(disk.paths().iter().all(|path| path.extension().unwrap() == "wal"), "what was prepared is gone");
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=1);
    for index in [2, 3] {
        let entries = vec![entry(index, 1, vec![7; 100_000])];
        wal.append(&Batch { hard_state: None, entries, sync: true }).unwrap();
    }
    append(&mut wal, 1, 4..=4);
    assert_eq!(wal.segment_count(), 4);
    drop(wal);
    assert_eq!(indices(&open(&disk, small()).unwrap().1), [1, 2, 3, 4]);
}

#[test]
fn after_a_failed_change_every_call_fails_with_the_first_error() {
    for changes in 0..2 {
        let disk = TestDisk::default();
        let mut wal = create(&disk, small());
        disk.fail_after(changes);
        let batch = Batch { hard_state: Some(hard_state(1, 1, 0)), entries: vec![entry(1, 1, "x")], sync: true };
        let first = wal.append(&batch).unwrap_err().to_string();
        assert!(first.contains(["append to", "sync"][changes as usize]), "{first}");
        disk.crash(&mut Dice::new(1), Torn::OldOrNew);
        let changes = disk.changes();
        assert_eq!(wal.append(&Batch::default()).unwrap_err().to_string(), first);
        assert_eq!(wal.mark_snapshot(mark(1, 1)).unwrap_err().to_string(), first);
        assert_eq!(wal.release_below(LogIndex(1)).unwrap_err().to_string(), first);
        assert_eq!(disk.changes(), changes, "a failed sync is not tried again");
    }
}

#[test]
#[should_panic(expected = "entry 3 does not follow 1")]
fn a_gap_is_not_written() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=1);
    append(&mut wal, 1, 3..=3);
}

#[test]
fn an_entry_that_could_not_be_read_back_is_refused_and_changes_nothing() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    let changes = disk.changes();
    let entries = vec![entry(1, 1, vec![0; (1 << 30) - OVERHEAD_BYTES_MAX])];
    let refused = wal.append(&Batch { hard_state: Some(hard_state(1, 1, 0)), entries, sync: true });
    assert!(matches!(refused, Err(WalError::TooLarge { index: LogIndex(1), .. })));
    assert_eq!(disk.changes(), changes);
    append(&mut wal, 1, 1..=1);
}

#[test]
fn one_process_at_a_time_and_one_log_a_directory() {
    let disk = TestDisk::default();
    let wal = create(&disk, small());
    assert!(matches!(open(&disk, small()), Err(WalError::Locked { .. })));
    drop(wal);
    assert!(matches!(Wal::create(disk.rt(), dir(), metadata(), small()), Err(WalError::Exists { .. })));
    let nowhere = std::path::Path::new("/elsewhere");
    let missing = Wal::open(disk.rt(), nowhere, SnapshotMark::START, LogIndex(0), small());
    assert!(matches!(missing, Err(WalError::NotFound { .. })));
}

#[test]
fn a_torn_batch_is_cut_copied_aside_and_written_over() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=3);
    let end = wal.end();
    append(&mut wal, 1, 4..=4);
    drop(wal);
    // The last batch lost its first entry's first bytes; its state record is whole, but does not prove anything about it.
    let path = tail_path(&disk);
    disk.flip_bit(&path, end.offset_bytes as usize + 20, 3);
    let damaged = disk.contents(&path).unwrap();

    assert!(read_all(&disk.rt(), dir()).unwrap().torn.is_some());
    assert_eq!(disk.contents(&path).unwrap(), damaged, "reading changes nothing");
    let (mut wal, recovered) = open(&disk, small()).unwrap();
    assert_eq!(indices(&recovered), [1, 2, 3]);
    let torn = recovered.torn.unwrap();
    assert_eq!((&torn.file, torn.offset_bytes), (&path, end.offset_bytes));
    assert!(torn.lost_bytes > 40);
    let copy = disk.contents(&path.with_extension("wal.broken")).unwrap();
    assert_eq!(copy[..], damaged[..copy.len()]);
    assert!(disk.contents(&path).unwrap()[end.offset_bytes as usize..].iter().all(|byte| *byte == 0));
    append(&mut wal, 1, 4..=6);
    drop(wal);
    let (_, recovered) = open(&disk, small()).unwrap();
    assert_eq!((indices(&recovered), recovered.torn), (vec![1, 2, 3, 4, 5, 6], None));
}

#[test]
fn a_lost_state_record_does_not_leave_an_entry_of_a_term_never_heard_of() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=1);
    append(&mut wal, 5, 2..=2);
    let end = wal.end();
    drop(wal);
    disk.flip_bit(&tail_path(&disk), end.offset_bytes as usize - 10, 0);
    let (_, recovered) = open(&disk, small()).unwrap();
    assert_eq!(indices(&recovered), [1, 2]);
    assert_eq!(recovered.hard_state, hard_state(5, 0, 0));
}

#[test]
fn damage_before_a_later_batch_is_refused_and_nothing_overwritten() {
    // A batch of one state record alone is enough to prove it.
    for later in [
        Batch { hard_state: Some(hard_state(2, 9, 3)), ..Batch::default() },
        Batch { entries: vec![entry(4, 1, "later")], ..Batch::default() },
    ] {
        let disk = TestDisk::default();
        let mut wal = create(&disk, small());
        append(&mut wal, 1, 1..=3);
        let end = wal.end();
        wal.append(&later).unwrap();
        drop(wal);
        let path = tail_path(&disk);
        disk.flip_bit(&path, end.offset_bytes as usize - 12, 0);
        let (paths, contents) = (disk.paths(), disk.contents(&path));
        let error = open(&disk, small()).err().unwrap();
        let WalError::Damaged { file, offset_bytes, reason } = &error else { panic!("{error}") };
        assert_eq!(*file, path);
        assert!(*offset_bytes < end.offset_bytes && reason.contains("crc mismatch"), "{error}");
        assert!(error.to_string().contains("Nothing was changed. Restore this member"), "{error}");
        assert_eq!((disk.paths(), disk.contents(&path)), (paths, contents));
        assert!(read_all(&disk.rt(), dir()).is_err());
    }
}

#[test]
fn zeros_where_durable_batches_were_are_damage() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=1);
    let start = wal.end().offset_bytes as usize;
    append(&mut wal, 1, 2..=20);
    let end = wal.end().offset_bytes as usize;
    append(&mut wal, 1, 21..=21);
    drop(wal);
    let path = tail_path(&disk);
    let mut contents = disk.contents(&path).unwrap();
    contents[start..end].fill(0);
    disk.put(&path, contents);
    assert!(
        matches!(open(&disk, small()), Err(WalError::Damaged { offset_bytes, .. }) if offset_bytes == start as u64)
    );
}

#[test]
fn a_log_that_ends_before_what_the_storage_has_is_damaged() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=3);
    drop(wal);
    let short = Wal::open(disk.rt(), dir(), SnapshotMark::START, LogIndex(4), small());
    let error = short.err().unwrap().to_string();
    assert!(error.contains("ends here with entry 3, but the storage holds entries up to 4"), "{error}");
    assert!(Wal::open(disk.rt(), dir(), SnapshotMark::START, LogIndex(3), small()).is_ok());
}

#[test]
fn anything_wrong_in_a_segment_that_is_not_the_last_is_damage() {
    let pristine = TestDisk::default();
    let mut wal = create(&pristine, small());
    for index in 1..=150 {
        append(&mut wal, 1, index..=index);
    }
    drop(wal);
    let names = segments(&pristine);
    let second = dir().join(&names[1]);
    let contents = pristine.contents(&second).unwrap();

    let with = |change: &dyn Fn(&TestDisk)| {
        let disk = TestDisk::default();
        for path in pristine.paths() {
            disk.put(&path, pristine.contents(&path).unwrap());
        }
        change(&disk);
        open(&disk, small()).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let error = with(&|disk| disk.put(&second, contents[..contents.len() - 40].to_vec()));
    assert!(error.contains("no torn write: a later segment follows") || error.contains("crc mismatch"), "{error}");
    let error = with(&|disk| disk.put(&second, contents[..contents.len() - 112].to_vec()));
    assert!(error.contains("Restore this member"), "{error}");
    let error = with(&|disk| disk.put(&second, Vec::new()));
    assert!(error.contains("header is missing"), "{error}");
    let error = with(&|disk| disk.delete(&second));
    assert!(error.contains("segment 0000000000000001 is not in"), "{error}");
    let error = with(&|disk| disk.put(&dir().join("0000000000000001-0000000000000001.wal"), contents.clone()));
    assert!(error.contains("segment 0000000000000002 is not in"), "{error}");
    let error = with(&|disk| disk.flip_bit(&second, 9, 0));
    assert!(error.contains("does not begin with a crc record") || error.contains("header"), "{error}");
    // The first segment's bytes in the second one's place: right by themselves, wrong chain.
    let first = pristine.contents(&dir().join(&names[0])).unwrap();
    let error = with(&|disk| disk.put(&second, first.clone()));
    assert!(error.contains("begins with chain 00000000"), "{error}");
}

#[test]
fn segments_of_another_member_are_refused() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=3);
    drop(wal);
    // A chain continued with other metadata: only a tool can produce it.
    let recovered = read_all(&disk.rt(), dir()).unwrap();
    let mut encoder = super::super::record::Encoder::new(0);
    encoder.push_chain();
    encoder.push(super::super::record::Kind::Metadata, &recovered.metadata);
    let foreign = walpb::Metadata { node_id: Some(1), cluster_id: Some(2) };
    encoder.push(super::super::record::Kind::Metadata, &foreign);
    disk.put(&tail_path(&disk), encoder.bytes().to_vec());
    assert!(matches!(open(&disk, small()), Err(WalError::MetadataMismatch { .. })));
}

#[test]
fn marks_must_be_there_with_their_term() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=5);
    wal.mark_snapshot(mark(4, 1)).unwrap();
    drop(wal);
    let open = |mark| Wal::open(disk.rt(), dir(), mark, LogIndex(0), small()).map(|(_, recovered)| indices(&recovered));
    assert!(matches!(open(from(3, 1)), Err(WalError::MarkNotFound { .. })));
    assert!(matches!(open(from(4, 2)), Err(WalError::MarkMismatch { .. })));
    assert_eq!(open(from(4, 1)).unwrap(), [5]);
    assert_eq!(open(SnapshotMark::START).unwrap(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_snapshot_from_a_leader_replaces_the_log() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=9);
    wal.mark_snapshot(mark(7, 3)).unwrap();
    append(&mut wal, 3, 8..=8);
    wal.mark_snapshot(mark(7, 3)).unwrap();
    drop(wal);
    let open = |mark| Wal::open(disk.rt(), dir(), mark, LogIndex(0), small());
    let (_, recovered) = open(from(7, 3)).unwrap();
    assert_eq!(recovered.entries.iter().map(|entry| (entry.index(), entry.term())).collect::<Vec<_>>(), [(8, 3)]);
    assert!(matches!(open(SnapshotMark::START), Err(WalError::IndexGap { .. })), "7 is not what was there before");

    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=2);
    wal.mark_snapshot(mark(100, 3)).unwrap();
    append(&mut wal, 3, 101..=102);
    drop(wal);
    let (mut wal, recovered) = Wal::open(disk.rt(), dir(), from(100, 3), LogIndex(100), small()).unwrap();
    assert_eq!((indices(&recovered), wal.last_index()), (vec![101, 102], LogIndex(102)));
    wal.mark_snapshot(mark(102, 3)).unwrap();
    append(&mut wal, 3, 103..=103);
    drop(wal);
    let (_, recovered) = Wal::open(disk.rt(), dir(), from(102, 3), LogIndex(102), small()).unwrap();
    assert_eq!(indices(&recovered), [103], "an older jump of the log is no gap for a reader beyond it");
}

#[test]
fn a_marked_log_continues_where_the_snapshot_was_never_installed() {
    let disk = TestDisk::default();
    let mut wal = create(&disk, small());
    append(&mut wal, 1, 1..=9);
    wal.mark_snapshot(mark(50, 3)).unwrap();
    drop(wal);
    let (mut wal, recovered) = open(&disk, small()).unwrap();
    assert_eq!(recovered.entries.len(), 9);
    append(&mut wal, 1, 10..=10);
    drop(wal);
    assert_eq!(open(&disk, small()).unwrap().1.entries.len(), 10);
}

/// Every bit of a log of all kinds of records, one after the other. The checksums do not cover everything (the type of a record,
/// the frame): what they leave open must show otherwise.
#[test]
fn no_single_bit_can_lie() {
    let pristine = TestDisk::default();
    let mut wal = create(&pristine, WalOptions { segment_bytes: 512, unsafe_no_fsync: false });
    let empty = raftpb::Entry { r#type: Some(0), term: Some(1), index: Some(1), data: None };
    wal.append(&Batch { hard_state: Some(hard_state(1, 0, 0)), entries: vec![empty], sync: true }).unwrap();
    wal.append(&Batch { hard_state: Some(hard_state(1, 1, 1)), ..Batch::default() }).unwrap();
    wal.mark_snapshot(mark(1, 1)).unwrap();
    append(&mut wal, 2, 2..=3);
    append(&mut wal, 2, 4..=4);
    assert_eq!(wal.segment_count(), 2);
    let watched = wal.end();
    wal.append(&Batch { hard_state: Some(hard_state(3, 0, 4)), sync: true, ..Batch::default() }).unwrap();
    drop(wal);
    let is = open(&pristine, small()).unwrap().1;

    let mut refused = 0;
    for (path, end) in
        [(segments(&pristine)[0].clone(), usize::MAX), (segments(&pristine)[1].clone(), watched.offset_bytes as usize)]
    {
        let path = dir().join(path);
        for byte in 0..end.min(pristine.contents(&path).unwrap().len()) {
            for bit in 0..8 {
                let disk = TestDisk::default();
                for path in pristine.paths() {
                    disk.put(&path, pristine.contents(&path).unwrap());
                }
                disk.flip_bit(&path, byte, bit);
                match open(&disk, small()) {
                    Ok((_, recovered)) => assert_eq!(recovered, is, "bit {bit} of byte {byte} of {}", path.display()),
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(refused > 4000, "only {refused} bits were missed");
}

#[test]
fn a_log_that_begins_with_a_batch_is_never_there_without_it() {
    let first = Batch {
        hard_state: Some(hard_state(1, 0, 3)),
        entries: (1..=3).map(|index| entry(index, 1, "founder")).collect(),
        sync: true,
    };
    let make = |disk: &TestDisk| Wal::create_with(disk.rt(), dir(), metadata(), &first, small());
    let whole = TestDisk::default();
    let mut wal = make(&whole).unwrap();
    assert_eq!((wal.last_index(), wal.durable()), (LogIndex(3), wal.end()));
    wal.append(&Batch { hard_state: None, entries: vec![entry(4, 1, "next")], sync: true }).unwrap();
    drop(wal);
    let (_, recovered) = open(&whole, small()).unwrap();
    assert_eq!((indices(&recovered), recovered.hard_state), (vec![1, 2, 3, 4], hard_state(1, 0, 3)));
    assert_eq!(recovered.metadata, metadata());

    // Cut off after each change and sync.
    let (changes, mut found_without, mut found_whole) = (whole.changes(), 0, 0);
    for after in 0..changes {
        let disk = TestDisk::default();
        disk.fail_after(after);
        let created = make(&disk).map(drop);
        disk.crash(&mut Dice::new(after), Torn::Garbage);
        if matches!(read_all(&disk.rt(), dir()), Err(WalError::NotFound { .. })) {
            assert!(created.is_err(), "a log that was made is gone");
            found_without += 1;
            continue;
        }
        let (_, recovered) = open(&disk, small()).unwrap();
        assert_eq!((indices(&recovered), recovered.hard_state), (vec![1, 2, 3], hard_state(1, 0, 3)));
        found_whole += 1;
    }
    assert!(found_without > 0 && found_whole > 0, "{found_without} without, {found_whole} whole");
}

#[test]
fn damage_in_the_first_batch_is_no_torn_write() {
    let first = Batch { hard_state: Some(hard_state(1, 0, 1)), entries: vec![entry(1, 1, "founder")], sync: true };
    let disk = TestDisk::default();
    let wal = Wal::create_with(disk.rt(), dir(), metadata(), &first, small()).unwrap();
    drop(wal);
    let path = tail_path(&disk);
    let contents = disk.contents(&path).unwrap();
    let at = contents.windows(7).position(|window| window == b"founder").unwrap();
    disk.flip_bit(&path, at, 0);
    let error = open(&disk, small()).err().unwrap().to_string();
    assert!(error.contains("had been durable"), "{error}");
}

//! Damage: whatever byte of the file changes, nothing wrong is ever answered, and what is refused says why.

use std::path::Path;

use quorate_proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
};
use quorate_runtime::disk::Disk;
use quorate_types::LogIndex;

use super::disk::{Dice, MemoryDisk};
use super::{Bench, FILE, entry};
use crate::{ReadError, Store, StoreError, StoreOptions};

/// A store with some of everything in its file, and nothing pending.
fn filled() -> Bench {
    let mut bench = Bench::new(StoreOptions::default());
    bench.apply(entry(|request| request.lease_grant = Some(LeaseGrantRequest { id: 7, ttl: 60 })));
    bench.apply(entry(|request| {
        request.alarm = Some(AlarmRequest { action: 1, member_id: 5, alarm: 9 });
    }));
    for number in 0..60u8 {
        let put = PutRequest {
            key: format!("key-{:02}", number % 20).into(),
            value: vec![number; 50].into(),
            lease: if number == 50 { 7 } else { 0 },
            ..PutRequest::default()
        };
        bench.apply(entry(|request| request.put = Some(put)));
    }
    bench.apply(entry(|request| {
        request.compaction = Some(CompactionRequest { revision: 30, physical: true });
    }));
    bench.run_jobs().expect("a healthy disk");
    bench
}

fn everything(revision: i64) -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..RangeRequest::default() }
}

/// All that can be read of a store.
fn read_all(store: &Store) -> Result<Vec<RangeResponse>, StoreError> {
    let view = store.reader().view();
    let mut answers = Vec::new();
    for revision in view.compact_revision().0..=view.revision().0 {
        answers.push(view.range(&everything(revision)).map_err(|error| match error {
            ReadError::Damaged(error) | ReadError::Closed(error) => error,
            ReadError::Refused(error) => panic!("{error}"),
        })?);
    }
    Ok(answers)
}

/// The file, closed properly.
fn closed(bench: Bench) -> (MemoryDisk, StoreOptions) {
    let Bench { disk, options, store, .. } = bench;
    drop(store);
    (disk, options)
}

#[test]
fn no_flipped_byte_is_ever_answered() {
    let bench = filled();
    let truth = read_all(&bench.store).expect("undamaged");
    let (disk, options) = closed(bench);
    let image = disk.contents(Path::new(FILE));
    let interesting: Vec<usize> = image
        .chunks(512)
        .enumerate()
        .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
        .flat_map(|(sector, _)| sector * 512..(sector + 1) * 512)
        .collect();
    let mut dice = Dice(11);
    let (mut refused_open, mut refused_read, mut harmless) = (0, 0, 0);
    for _ in 0..1500 {
        disk.set_contents(Path::new(FILE), image.clone());
        let offset = interesting[dice.below(interesting.len() as u64) as usize];
        disk.flip(Path::new(FILE), offset, 1 << dice.below(8));
        match Store::open_on(&disk, Path::new(FILE), options.clone()) {
            Err(error) => {
                assert!(error.to_string().starts_with(FILE), "{error}");
                refused_open += 1;
            }
            Ok(store) => match read_all(&store) {
                Err(error) => {
                    assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
                    assert!(error.to_string().contains("row "), "{error}");
                    refused_read += 1;
                }
                Ok(answers) => {
                    assert!(answers == truth, "byte {offset}");
                    assert_eq!(store.applied().0, LogIndex(63));
                    harmless += 1;
                }
            },
        }
    }
    assert!(refused_open > 30 && refused_read > 30, "{refused_open} {refused_read} {harmless}");
}

#[test]
fn a_damaged_value_is_named_and_its_neighbours_stay_readable() {
    let bench = filled();
    let (disk, options) = closed(bench);
    let image = disk.contents(Path::new(FILE));
    let needle = [59u8; 50];
    let places: Vec<usize> =
        (0..image.len() - needle.len()).filter(|at| image[*at..*at + needle.len()] == needle).collect();
    assert!(!places.is_empty());
    for place in places {
        disk.flip(Path::new(FILE), place + 3, 0x10);
    }
    let store = Store::open_on(&disk, Path::new(FILE), options).expect("values are not read at start");
    let view = store.reader().view();
    let get = |key: &'static str| view.range(&RangeRequest { key: key.into(), ..RangeRequest::default() });
    assert_eq!(get("key-18").expect("undamaged").kvs.len(), 1);
    let Err(ReadError::Damaged(error)) = get("key-19") else { panic!("a damaged value was answered") };
    let text = error.to_string();
    assert!(text.starts_with("member/snap/db: damaged: table key, row 61.0: checksum mismatch."), "{text}");
    assert!(text.contains("Nothing was changed or repaired."), "{text}");
}

#[test]
fn files_that_are_no_database_are_refused_and_left_alone() {
    for (contents, what) in [
        (Vec::new(), "the file is empty"),
        (b"no database at all".repeat(1000), "damaged"),
        (filled_image()[..5000].to_vec(), "damaged"),
    ] {
        let (disk, options) = closed(filled());
        disk.set_contents(Path::new(FILE), contents.clone());
        let Err(error) = Store::open_on(&disk, Path::new(FILE), options) else { panic!("opened") };
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().contains("restore this member from a snapshot"), "{error}");
        assert!(disk.contents(Path::new(FILE)) == contents, "nothing is written over a damaged file");
    }
}

fn filled_image() -> Vec<u8> {
    closed(filled()).0.contents(Path::new(FILE))
}

#[test]
fn an_existing_file_is_never_created_over() {
    let (disk, options) = closed(filled());
    let before = disk.contents(Path::new(FILE));
    assert!(matches!(Store::create_on(&disk, Path::new(FILE), options), Err(StoreError::Io { .. })));
    assert!(disk.contents(Path::new(FILE)) == before);
}

#[test]
fn a_crash_while_creating_leaves_all_or_nothing() {
    let mut seen = [false; 2];
    for operations in 0..200 {
        for seed in 0..3 {
            let disk = MemoryDisk::default();
            disk.fail_after(operations);
            let created = Store::create_on(&disk, Path::new(FILE), StoreOptions::default());
            let whole = created.is_ok();
            disk.fail_after(0);
            drop(created);
            disk.power_cycle(&mut Dice(seed));
            let exists = disk.exists(Path::new(FILE)).expect("power is back");
            assert!(exists || !whole, "created, and lost");
            seen[usize::from(exists)] = true;
            let store = if exists {
                Store::open_on(&disk, Path::new(FILE), StoreOptions::default()).expect("a whole file")
            } else {
                Store::create_on(&disk, Path::new(FILE), StoreOptions::default()).expect("another attempt")
            };
            assert_eq!(store.applied().0, LogIndex(0));
            if whole {
                return assert_eq!(seen, [true, true]);
            }
        }
    }
    panic!("creating a file takes more than 200 operations");
}

#[test]
fn after_a_failed_flush_the_store_refuses_everything() {
    let mut bench = filled();
    bench.apply(entry(|request| {
        request.put = Some(PutRequest { key: "x".into(), value: "y".into(), ..PutRequest::default() });
    }));
    bench.disk.fail_after(2);
    let Err(StoreError::Io { .. }) = bench.run_jobs() else { panic!("the disk has failed") };
    assert_eq!(bench.store.next_job_at(), None);
    let next = bench.store.applied().0.next();
    let term = bench.store.applied().1;
    assert!(matches!(bench.store.start(next, term, crate::Command::Empty), Err(StoreError::Poisoned)));
    // What was published can still be read, from memory or not at all.
    let view = bench.store.reader().view();
    let get = RangeRequest { key: "x".into(), ..RangeRequest::default() };
    assert_eq!(view.range(&get).expect("pending").kvs.len(), 1);
}

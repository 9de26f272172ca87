//! The database gets a new file while entries come, jobs run, and the power goes.

use std::path::Path;

use quorate_proto::etcdserverpb::{CompactionRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse};
use quorate_runtime::disk::{Disk as _, OpenMode};
use quorate_types::LeaseId;

use super::disk::{Dice, MemoryDisk};
use super::{Bench, FILE, entry};
use crate::{Defragmented, Finished, Job, Store, StoreError, StoreOptions, View};

const VALUE_BYTES: usize = 100;
/// What an empty store says of its size.
const EMPTY_BYTES: u64 = 16 << 10;

fn put(bench: &mut Bench, key: &str, lease: i64) {
    let put = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: vec![b'v'; VALUE_BYTES].into(),
        lease,
        ..PutRequest::default()
    };
    let outcome = bench.apply(entry(|request| request.put = Some(put)));
    assert!(outcome.result.is_ok(), "{outcome:?}");
}

fn all(view: &View) -> RangeResponse {
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() };
    view.range(&all).expect("an undamaged store")
}

/// Ten keys, each written five times; all but the newest are compacted. One lease.
fn used() -> Bench {
    let mut bench = Bench::new(StoreOptions { cache_bytes: 0, ..StoreOptions::default() });
    bench.apply(entry(|request| request.lease_grant = Some(LeaseGrantRequest { id: 7, ttl: 60 })));
    for number in 0..50 {
        put(&mut bench, &format!("key {}", number % 10), if number == 49 { 7 } else { 0 });
    }
    bench.run_jobs().expect("a healthy disk");
    compact(&mut bench, 51);
    bench.run_jobs().expect("a healthy disk");
    bench
}

fn compact(bench: &mut Bench, revision: i64) {
    bench.apply(entry(|request| request.compaction = Some(CompactionRequest { revision, physical: false })));
}

fn take_job(bench: &mut Bench) -> Option<Job> {
    let at = bench.store.next_job_at()?;
    bench.now = bench.now.max(at);
    bench.store.take_job(bench.now)
}

fn run(bench: &mut Bench, job: Job) -> Result<Vec<Finished>, StoreError> {
    let outcome = job.run(&bench.disk);
    bench.store.finish_job(outcome, bench.now)
}

fn defragment(bench: &mut Bench) -> Defragmented {
    bench.store.defragment();
    bench.run_jobs().expect("a healthy disk");
    bench.store.defragmented().expect("it has ended").expect("a healthy disk")
}

fn names(disk: &MemoryDisk) -> Vec<String> {
    disk.list_dir(Path::new(FILE).parent().unwrap()).unwrap()
}

#[test]
fn what_compaction_has_freed_is_given_back() {
    let mut bench = used();
    let reader = bench.store.reader();
    let before = reader.view();
    assert!(before.db_size_bytes() > before.db_size_in_use_bytes());
    let file_bytes = |bench: &Bench| bench.disk.open(Path::new(FILE), OpenMode::ReadOnly).unwrap().len_bytes();
    let answer = all(&before);

    let Defragmented { retired, old_file } = defragment(&mut bench);
    let after = reader.view();
    assert_eq!(after.db_size_bytes(), after.db_size_in_use_bytes());
    assert_eq!(after.db_size_in_use_bytes(), before.db_size_in_use_bytes());
    assert!(file_bytes(&bench).unwrap() <= old_file.len_bytes().unwrap());
    assert_eq!((all(&after), all(&before)), (answer.clone(), answer.clone()));
    assert!(retired.is_read(), "the older view reads it");
    drop(before);
    assert!(!retired.is_read());
    drop((retired, old_file));

    put(&mut bench, "later", 0);
    bench.run_jobs().expect("a healthy disk");
    drop((reader, after));
    let bench = bench.reopen().expect("an undamaged file");
    let view = bench.store.reader().view();
    assert_eq!(all(&view).kvs.len(), 11);
    assert!(view.lease_exists(LeaseId(7)));
    assert_eq!(view.db_size_bytes(), view.db_size_in_use_bytes());
    assert_eq!(names(&bench.disk), ["db"]);
}

#[test]
fn entries_go_on_meanwhile_and_no_compaction_deletes_what_is_copied() {
    let mut bench = used();
    bench.store.defragment();
    let (mut slices, mut flushed) = (0, false);
    while let Some(job) = take_job(&mut bench) {
        if slices < 3 {
            // Behind the part that is copied, and within it.
            put(&mut bench, "later", 7);
            put(&mut bench, "key 1", 0);
            let revision = bench.store.reader().view().revision().0;
            compact(&mut bench, revision);
        }
        slices += 1;
        let finished = run(&mut bench, job).expect("a healthy disk");
        let is_copying = bench.store.is_defragmenting() && bench.store.defragmented().is_none();
        flushed |= is_copying && finished.iter().any(|event| matches!(event, Finished::Flushed { .. }));
        let compacted = finished.iter().any(|event| matches!(event, Finished::Compacted(_)));
        assert!(!(compacted && is_copying));
    }
    assert!(flushed && slices > 5, "{slices} jobs");
    let view = bench.store.reader().view();
    let (expected, in_use_bytes) = (all(&view), view.db_size_in_use_bytes());
    drop(view);
    assert_eq!(expected.kvs.len(), 11);
    assert!(in_use_bytes < EMPTY_BYTES + 12 * 170, "{in_use_bytes} bytes: the compactions went on in the copy");
    let bench = bench.reopen().expect("an undamaged file");
    let view = bench.store.reader().view();
    assert_eq!(all(&view), expected);
    assert_eq!(view.db_size_in_use_bytes(), in_use_bytes);
}

#[test]
fn a_power_cut_at_any_moment_leaves_one_file_with_everything() {
    let (mut given_up, mut replaced) = (0, 0);
    for operations in 0.. {
        let mut bench = used();
        let expected = all(&bench.store.reader().view());
        let size_bytes = bench.store.reader().view().db_size_bytes();
        bench.store.defragment();
        bench.disk.fail_after(operations);
        let ended = bench.run_jobs().map(|_| bench.store.defragmented());
        let is_whole = matches!(ended, Ok(Some(Ok(_))));
        drop(ended);
        let Bench { disk, options, store, .. } = bench;
        disk.fail_after(0);
        drop(store);
        disk.power_cycle(&mut Dice(operations));
        let store = Store::open_on(&disk, Path::new(FILE), options).expect("a crash damages nothing");
        let view = store.reader().view();
        assert_eq!(all(&view), expected, "after {operations} operations");
        assert!(view.lease_exists(LeaseId(7)));
        assert_eq!(names(&disk), ["db"], "after {operations} operations");
        if view.db_size_bytes() < size_bytes {
            replaced += 1
        } else {
            given_up += 1
        }
        if is_whole {
            break;
        }
    }
    assert!(given_up > 20 && replaced > 0, "{given_up} times the old file, {replaced} times the new one");
}

#[test]
fn a_disk_that_fails_ends_it_and_nothing_has_changed() {
    let mut bench = used();
    let expected = all(&bench.store.reader().view());
    bench.store.defragment();
    let job = take_job(&mut bench).expect("a slice is due");
    bench.disk.fail_after(0);
    assert_eq!(run(&mut bench, job).expect("the store goes on"), []);
    let error = bench.store.defragmented().expect("it was given up").err().expect("it failed");
    assert!(matches!(error, StoreError::Io { .. } | StoreError::Database { .. }), "{error}");
    assert_eq!(all(&bench.store.reader().view()), expected);
}

#[test]
fn damage_is_not_copied() {
    let mut bench = used();
    let mut contents = bench.disk.contents(Path::new(FILE));
    // Every value, also in pages that are free.
    for position in 0..contents.len() - VALUE_BYTES {
        if contents[position..position + VALUE_BYTES] == [b'v'; VALUE_BYTES] {
            contents[position] = b'w';
        }
    }
    bench.disk.set_contents(Path::new(FILE), contents);
    bench = bench.reopen().expect("values are not read at the start");
    bench.store.defragment();
    bench.run_jobs().expect("the store goes on");
    let error = bench.store.defragmented().expect("it was given up").err().expect("it found the damage");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(names(&bench.disk), ["db"]);
}

//! HashKV against known answers.
//!
//! They are etcd's own: its `mvcc` package (go.etcd.io/etcd/server/v3 at v3.7.3) went through the same script, in a program
//! that printed what `HashStorage().HashByRev` said, and after each compaction what `HashStorage().Hashes` had:
//!
//! ```go
//! s := mvcc.NewStore(zap.NewNop(), backend.NewDefaultBackend(zap.NewNop(), path), lessor, mvcc.StoreConfig{})
//! hash, current, err := s.HashStorage().HashByRev(revision)
//! ```

use quorate_proto::etcdserverpb::*;
use quorate_types::{Error, Revision};

use super::{Bench, entry};
use crate::{CompactionHash, HashKv, ReadError, StoreOptions};

/// `op` lines are entries. `hash R = H at C of N`: HashKV(R) is H, computed with compact revision C, at current revision N.
/// `left`: the newest hash that a compaction has left.
const SCRIPT: &str = "
grant 7
put a 1
put b 2
put a 3
del a
put a 4 7
txn put:c:x put:d:y del:b
put e
del c e
put long LONG
hash 0 = 786959715 at -1 of 10
hash 5 = 1346927904 at -1 of 10
hash 1 = 1084519789 at -1 of 10
compact 3
left 1827592406 from -1 to 3
hash 2 = compacted
hash 3 = 1827592406 at -1 of 10
hash 4 = 1107643163 at 3 of 10
hash 5 = 4041628511 at 3 of 10
hash 6 = 4007443289 at 3 of 10
hash 7 = 2310657273 at 3 of 10
hash 8 = 989537954 at 3 of 10
hash 9 = 3594711782 at 3 of 10
hash 10 = 1984238494 at 3 of 10
hash 11 = future
put b again
del a
put f 1
del f
compact 13
left 605092185 from 3 to 13
hash 12 = compacted
hash 13 = 605092185 at 3 of 14
hash 14 = 1716169929 at 13 of 14
hash 15 = future
del long
put f 2
compact 15
left 844373793 from 13 to 15
hash 14 = compacted
hash 15 = 844373793 at 13 of 16
hash 16 = 2498142167 at 15 of 16
del e
del b
del f
compact 18
left 2471319330 from 15 to 18
hash 17 = compacted
hash 18 = 2471319330 at 15 of 19
hash 19 = 523865475 at 18 of 19
put x y
compact 19
left 1569598481 from 18 to 19
hash 18 = 2471319330 at 15 of 20
hash 19 = 1569598481 at 18 of 20
hash 20 = 3512201010 at 19 of 20
";

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn put(words: &[&str]) -> PutRequest {
    let value = match words.get(1) {
        Some(&"LONG") => "long ".repeat(2000),
        value => value.copied().unwrap_or_default().to_owned(),
    };
    PutRequest {
        key: words[0].to_owned().into(),
        value: value.into(),
        lease: words.get(2).map_or(0, |lease| number(lease)),
        ..PutRequest::default()
    }
}

fn delete(words: &[&str]) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: words[0].to_owned().into(),
        range_end: words.get(1).copied().unwrap_or_default().to_owned().into(),
        ..DeleteRangeRequest::default()
    }
}

fn txn(words: &[&str]) -> TxnRequest {
    let op = |word: &&str| {
        let words: Vec<_> = word.split(':').collect();
        let request = match words[0] {
            "put" => request_op::Request::RequestPut(put(&words[1..])),
            _ => request_op::Request::RequestDeleteRange(delete(&words[1..])),
        };
        RequestOp { request: Some(request) }
    };
    TxnRequest { success: words.iter().map(op).collect(), ..TxnRequest::default() }
}

fn ask(bench: &Bench, revision: i64) -> String {
    match bench.store.reader().view().hash_kv(Revision(revision)) {
        Ok(HashKv { hash, hash_revision, compact_revision, current_revision }) => {
            assert_eq!(hash_revision.0, if revision == 0 { current_revision.0 } else { revision });
            format!("{hash} at {compact_revision} of {current_revision}")
        }
        Err(ReadError::Refused(Error::Compacted)) => "compacted".into(),
        Err(ReadError::Refused(Error::FutureRev)) => "future".into(),
        Err(error) => panic!("{error}"),
    }
}

/// Runs the script; `jobs` says when rows get into the database and out of it.
fn run(mut jobs: impl FnMut(&mut Bench)) {
    let mut bench = Bench::new(StoreOptions { compaction_batch_rows: 2, ..StoreOptions::default() });
    for line in SCRIPT.lines().filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split(' ').collect();
        let outcome = match words[0] {
            "grant" => bench.apply(entry(|request| {
                request.lease_grant = Some(LeaseGrantRequest { id: number(words[1]), ttl: 60 });
            })),
            "put" => bench.apply(entry(|request| request.put = Some(put(&words[1..])))),
            "del" => bench.apply(entry(|request| request.delete_range = Some(delete(&words[1..])))),
            "txn" => bench.apply(entry(|request| request.txn = Some(txn(&words[1..])))),
            "compact" => {
                let outcome = bench.apply(entry(|request| {
                    request.compaction = Some(CompactionRequest { revision: number(words[1]), physical: true });
                }));
                bench.run_jobs().expect("a healthy disk");
                outcome
            }
            "left" => {
                let left = CompactionHash {
                    hash: number(words[1]),
                    compact_revision: Revision(number(words[3])),
                    hash_revision: Revision(number(words[5])),
                };
                assert_eq!(bench.store.reader().view().compaction_hashes().last(), Some(&left), "{line}");
                continue;
            }
            _ => {
                let (_, expected) = line.split_once(" = ").expect("an answer");
                assert_eq!(ask(&bench, number(words[1])), expected, "{line}");
                continue;
            }
        };
        outcome.result.unwrap_or_else(|error| panic!("{line}: {error}"));
        jobs(&mut bench);
    }
}

#[test]
fn hashes_are_those_of_etcd() {
    run(|_| {});
}

#[test]
fn they_are_the_same_wherever_rows_are() {
    run(|bench| drop(bench.run_jobs().expect("a healthy disk")));
    let mut writes = 0;
    run(|bench| {
        writes += 1;
        // One generation sealed, another one growing.
        if writes % 3 == 0 {
            bench.now = bench.store.next_job_at().unwrap_or(bench.now).max(bench.now);
            if let Some(job) = bench.store.take_job(bench.now) {
                bench.store.finish_job(job.run(&bench.disk), bench.now).expect("a healthy disk");
            }
        }
    });
}

fn compacted_at(bench: &mut Bench, revision: i64) {
    bench
        .apply(entry(|request| request.compaction = Some(CompactionRequest { revision, physical: false })))
        .result
        .expect("between the last compaction and now");
}

fn written(count: usize) -> Bench {
    let mut bench = Bench::new(StoreOptions { compaction_batch_rows: 2, ..StoreOptions::default() });
    for number in 0..count {
        bench.apply(entry(|request| request.put = Some(put(&["k", &number.to_string()]))));
    }
    bench
}

/// Asked just before it is compacted, a revision has the hash that the compaction leaves.
#[test]
fn a_compaction_leaves_the_hash_that_could_be_asked_for_before() {
    let mut bench = written(40);
    for revision in [5, 6, 20, 41] {
        let before = bench.store.reader().view().hash_kv(Revision(revision)).expect("kept");
        compacted_at(&mut bench, revision);
        bench.run_jobs().expect("a healthy disk");
        assert_eq!(bench.store.reader().view().hash_kv(Revision(revision)).expect("left"), before);
    }
}

#[test]
fn the_ten_newest_are_kept() {
    let mut bench = written(40);
    for revision in 2..=20 {
        compacted_at(&mut bench, revision);
        bench.run_jobs().expect("a healthy disk");
    }
    let view = bench.store.reader().view();
    assert!(view.compaction_hashes().iter().map(|left| left.hash_revision.0).eq(11..=20));
}

/// Its hash would not cover what the one before has not got to yet.
#[test]
fn a_compaction_that_overtakes_another_leaves_none() {
    let mut bench = written(40);
    compacted_at(&mut bench, 5);
    compacted_at(&mut bench, 10);
    bench.run_jobs().expect("a healthy disk");
    let left = |bench: &Bench| bench.store.reader().view().compaction_hashes().len();
    // The first one was never carried out by itself; the second began when the one before the first was complete, but it
    // is not known that nothing of the first had been deleted.
    assert_eq!(left(&bench), 0);
    let mut bench = bench.reopen().expect("an undamaged file");
    compacted_at(&mut bench, 15);
    bench.run_jobs().expect("a healthy disk");
    assert_eq!(left(&bench), 1, "the one before is complete, and known");
}

//! What the store hands out for whoever counts: operations, compactions, open reads.

use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::*;
use quorate_types::Revision;

use super::{Bench, entry};
use crate::{Command, Finished, Operations, StoreOptions};

fn put(key: &'static str, value: &'static str, lease: i64) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() }
}

fn puts(key: &'static str, value: &'static str, lease: i64) -> Command {
    entry(|request| request.put = Some(put(key, value, lease)))
}

fn txn(operations: Vec<Request>) -> TxnRequest {
    let success = operations.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

fn range(key: &'static str) -> Request {
    Request::RequestRange(RangeRequest { key: key.into(), ..RangeRequest::default() })
}

#[test]
fn operations_are_counted_one_by_one_and_what_does_several_as_a_transaction() {
    let mut bench = Bench::new(StoreOptions::default());
    let mut done = |command| {
        let outcome = bench.apply(command);
        (bench.store.take_operations(), outcome.result.is_ok())
    };
    let put_one = Operations { puts: 1, put_bytes: 5, ..Operations::default() };
    assert_eq!(done(puts("ab", "123", 0)), (put_one, true));
    assert_eq!(done(Command::Empty), (Operations::default(), true), "each is told once");
    assert_eq!(done(puts("ab", "123", 7)), (Operations::default(), false), "there is no such lease");
    assert_eq!(
        done(entry(|request| request.txn = Some(txn(vec![Request::RequestPut(put("ab", "123", 0))])))),
        (put_one, true)
    );

    let nested = txn(vec![Request::RequestPut(put("c", "", 0)), range("c")]);
    let delete = DeleteRangeRequest { key: "a".into(), range_end: "b".into(), ..DeleteRangeRequest::default() };
    let outer = txn(vec![range("ab"), Request::RequestTxn(nested), Request::RequestDeleteRange(delete)]);
    let expected = Operations { ranges: 2, puts: 1, put_bytes: 1, deletes: 1, txns: 1 };
    assert_eq!(done(entry(|request| request.txn = Some(outer))), (expected, true));

    let grant = LeaseGrantRequest { id: 7, ttl: 60 };
    assert_eq!(done(entry(|request| request.lease_grant = Some(grant))), (Operations::default(), true));
    done(puts("x", "", 7));
    done(puts("y", "", 7));
    let revoke = LeaseRevokeRequest { id: 7 };
    let expected = Operations { deletes: 2, txns: 1, ..Operations::default() };
    assert_eq!(done(entry(|request| request.lease_revoke = Some(revoke))), (expected, true));
}

#[test]
fn a_compaction_tells_what_it_removed_and_how_long_it_took() {
    let mut bench = Bench::new(StoreOptions { compaction_batch_rows: 2, ..StoreOptions::default() });
    for value in ["1", "2", "3", "4", "5", "6"] {
        bench.apply(puts("k", value, 0));
    }
    let compaction = CompactionRequest { revision: 7, physical: false };
    bench.apply(entry(|request| request.compaction = Some(compaction)));
    let began_at = bench.now;
    let finished = bench.run_jobs().expect("a healthy disk");
    let Some(Finished::Compacted(compacted)) = finished.last() else { panic!("{finished:?}") };
    assert_eq!((compacted.revision, compacted.rows), (Revision(7), 5));
    let hash = bench.store.reader().view().hash_kv(Revision(7)).expect("it is known").hash;
    assert_eq!(compacted.hash, Some(hash));
    // Three batches, with a pause between each two.
    assert!(compacted.took >= 2 * StoreOptions::default().compaction_interval, "{:?}", compacted.took);
    assert!(compacted.took <= bench.now - began_at);
    assert!(bench.store.index_walks() >= 1, "{}", bench.store.index_walks());
}

#[test]
fn reads_are_open_for_as_long_as_somebody_holds_what_they_see() {
    let mut bench = Bench::new(StoreOptions::default());
    let newest = bench.store.open_reads();
    let held = bench.store.reader().view();
    assert_eq!(bench.store.open_reads(), newest, "the same as the store's own");
    bench.apply(puts("k", "v", 0));
    bench.run_jobs().expect("a healthy disk");
    assert_eq!(bench.store.open_reads(), newest + 1);
    drop(held);
    assert_eq!(bench.store.open_reads(), newest);
    assert_eq!(bench.store.reader().view().key_count(), 1);
}

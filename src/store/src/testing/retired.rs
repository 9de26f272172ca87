//! Views that outlive their database's reign.

use std::path::Path;

use quorate_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RangeRequest};

use super::Bench;
use crate::{Command, ReadError, Store, StoreOptions, View};

/// A store with one row, which is not pending.
fn one_row(value: &'static str) -> Bench {
    let mut bench = Bench::new(StoreOptions { cache_bytes: 0, ..StoreOptions::default() });
    let put = PutRequest { key: "k".into(), value: value.into(), ..PutRequest::default() };
    bench.apply(Command::Request(Box::new(InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() })));
    bench.run_jobs().expect("a healthy disk");
    bench
}

fn read(view: &View) -> Result<usize, ReadError> {
    view.range(&RangeRequest { key: "k".into(), ..RangeRequest::default() }).map(|response| response.kvs.len())
}

#[test]
fn a_view_of_a_replaced_database_is_read_to_its_end() {
    let (mut bench, successor) = (one_row("old"), one_row("new"));
    let reader = bench.store.reader();
    let old = reader.view();
    let retired = bench.store.succeed_with(successor.store);
    assert!(retired.is_read());
    assert_eq!((read(&old).unwrap(), read(&reader.view()).unwrap()), (1, 1));
    drop(old);
    assert!(!retired.is_read(), "the new views are not of the old database");
}

#[test]
fn reading_after_the_store_has_ended_is_no_damage() {
    let Bench { disk, options, store, .. } = one_row("value");
    drop(store);
    // Opened anew, so that few caches have the row.
    let open = || Store::open_on(&disk, Path::new(super::FILE), options.clone()).expect("nothing is wrong with it");
    let store = open();
    let view = store.reader().view();
    drop(store);
    // Pages that are still in memory can be read.
    match read(&view) {
        Ok(rows) => assert_eq!(rows, 1),
        Err(ReadError::Closed(error)) => assert!(error.to_string().contains("closed"), "{error}"),
        Err(other) => panic!("a closed database was taken for something else: {other}"),
    }
    drop(view);
    assert_eq!(read(&open().reader().view()).unwrap(), 1);
}

//! What is written reads back.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Buckets, Image, plan, read, written};
use crate::format::{BRANCH, HEADER_BYTES, Header, LEAF};
use crate::{PAGE_BYTES, Plan, Planner, Reader, WriteError, Writer};

fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), len)
}

/// Short, about a page, or several pages; filled cheaply.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let filled = |len: std::ops::Range<usize>| (any::<u8>(), len).prop_map(|(byte, len)| vec![byte; len]);
    prop_oneof![8 => bytes(0..40), 2 => filled(300..700), 1 => filled(3000..9000)]
}

fn buckets() -> impl Strategy<Value = Buckets> {
    let keys = prop_oneof![4 => bytes(1..20), 1 => bytes(200..600)];
    let pairs = prop::collection::btree_map(keys, value(), 0..60);
    prop::collection::btree_map(bytes(1..30), pairs, 0..8).prop_map(|buckets| {
        buckets.into_iter().map(|(name, pairs): (_, BTreeMap<_, _>)| (name, pairs.into_iter().collect())).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200, rng_seed: RngSeed::Fixed(5), failure_persistence: None, ..Default::default()
    })]
    #[test]
    fn what_is_written_reads_back(buckets in buckets(), page_bits in 9..17u32) {
        let file = written(&buckets, 1 << page_bits);
        prop_assert_eq!(file.len() % (1 << page_bits), 0);
        prop_assert_eq!(read(file).expect("a whole file"), buckets);
    }
}

fn numbered(count: u64, value_len: usize) -> Buckets {
    let pair = |number: u64| (number.to_be_bytes().to_vec(), vec![number as u8; value_len]);
    vec![(b"numbers".to_vec(), (0..count).map(pair).collect())]
}

/// The flags of the page at the head of each run, in order.
fn kinds(file: &[u8], page_bytes: usize) -> Vec<u16> {
    let mut kinds = Vec::new();
    let mut page = 2;
    while page * page_bytes < file.len() {
        let bytes: &[u8; HEADER_BYTES] = file[page * page_bytes..].first_chunk().expect("whole pages");
        let header = Header::read(bytes);
        assert_eq!(header.id, page as u64);
        kinds.push(header.flags);
        page += 1 + header.overflow as usize;
    }
    kinds
}

#[test]
fn a_large_bucket_is_a_tree_of_three_levels_or_more() {
    for (page_bytes, count) in [(512, 5_000), (PAGE_BYTES, 60_000)] {
        let buckets = numbered(count, 60);
        let file = written(&buckets, page_bytes);
        let kinds = kinds(&file, page_bytes);
        let branches = kinds.iter().filter(|kind| **kind == BRANCH).count();
        let leaves = kinds.iter().filter(|kind| **kind == LEAF).count();
        assert!(branches > 2 && leaves > 100 * branches / 100, "{branches} branches, {leaves} leaves");
        assert_eq!(kinds.last(), Some(&LEAF), "the names of the buckets stand last");
        assert_eq!(kinds[kinds.len() - 2], BRANCH, "and the root of the bucket before them");
        assert_eq!(read(file).expect("a whole file"), buckets);
    }
}

#[test]
fn no_buckets_empty_buckets_and_values_of_megabytes() {
    let empty = |name: &[u8]| (name.to_vec(), Vec::new());
    let large = |len: usize| (b"k".to_vec(), (0..len).map(|at| (at % 251) as u8).collect());
    for buckets in [
        Vec::new(),
        vec![empty(b"a")],
        vec![empty(b"a"), empty(b"b"), (b"c".to_vec(), vec![large(3_000_000)]), empty(b"d")],
        vec![(b"a".to_vec(), vec![large(PAGE_BYTES - 33)])],
        vec![(b"a".to_vec(), vec![large(PAGE_BYTES - 32)])],
        vec![(
            b"a".to_vec(),
            vec![(vec![1; 32 << 10], vec![]), (vec![2; 32 << 10], vec![]), (vec![3; 32 << 10], vec![])],
        )],
    ] {
        assert_eq!(read(written(&buckets, PAGE_BYTES)).expect("a whole file"), buckets);
    }
}

#[test]
fn a_bucket_is_found_by_name() {
    let file = written(&vec![(b"a".to_vec(), vec![(b"k".to_vec(), b"v".to_vec())]), (b"b".to_vec(), vec![])], 1024);
    let reader = Reader::open(Box::new(Image(file)), Path::new("f")).expect("a whole file");
    assert_eq!(reader.page_bytes(), 1024);
    assert_eq!(reader.bucket(b"a").expect("bucket a").entries().count(), 1);
    assert_eq!(reader.bucket(b"b").expect("bucket b").entries().count(), 0);
    assert!(reader.bucket(b"c").is_none());
}

fn one_bucket() -> (Plan, Writer) {
    let plan = plan(&vec![(b"m".to_vec(), vec![(b"k".to_vec(), b"v".to_vec())])], PAGE_BYTES);
    let mut writer = Writer::new(plan);
    writer.bucket(b"m").expect("the first bucket");
    (plan, writer)
}

#[test]
fn what_cannot_be_in_a_file_is_refused() {
    let (_, mut writer) = one_bucket();
    writer.pair(b"k", b"v").expect("the first key");
    for key in [b"k", b"j"] {
        let error = writer.pair(key, b"v").expect_err("not above k");
        assert_eq!(error, WriteError::Order { bucket: "\"m\"".into(), key: format!("\"{}\"", key.escape_ascii()) });
    }
    assert_eq!(writer.pair(b"", b"v"), Err(WriteError::Size { key_bytes: 0, value_bytes: 1 }));
    let long = vec![b'x'; (32 << 10) + 1];
    assert_eq!(writer.pair(&long, b""), Err(WriteError::Size { key_bytes: long.len(), value_bytes: 0 }));
    assert!(matches!(writer.bucket(b"a"), Err(WriteError::Order { .. })));
}

#[test]
fn a_second_pass_that_differs_is_noticed() {
    let (plan, mut writer) = one_bucket();
    writer.pair(b"k", &[7; 5000]).expect("a pair");
    let error = writer.finish().expect_err("longer than planned");
    assert!(matches!(error, WriteError::Differs { planned_pages: 4, pages: 5, .. }), "{error} {plan:?}");
}

#[test]
#[should_panic(expected = "pages of 1000 bytes")]
fn a_page_size_that_bbolt_would_not_have_is_refused() {
    Planner::new(1000);
}

use quorate_proto::etcdserverpb::Compare;
use tonic::Code;

use super::*;

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn get(key: &'static str) -> RequestOp {
    op(Op::RequestRange(RangeRequest { key: key.into(), ..Default::default() }))
}

fn set(key: &'static str) -> RequestOp {
    op(Op::RequestPut(PutRequest { key: key.into(), ..Default::default() }))
}

fn del(key: &'static str, range_end: &'static str) -> RequestOp {
    op(Op::RequestDeleteRange(DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false }))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Op::RequestTxn(TxnRequest { compare: vec![], success, failure }))
}

fn checked(success: Vec<RequestOp>) -> Result<(), Error> {
    txn(&TxnRequest { success, ..Default::default() }, 128)
}

#[test]
fn ranges() {
    let request = |key: &'static str, sort_order, sort_target| RangeRequest {
        key: key.into(),
        sort_order,
        sort_target,
        ..Default::default()
    };
    for (request, expected) in [
        (request("k", 0, 0), Ok(())),
        (request("k", 2, 4), Ok(())),
        (request("", 0, 0), Err(Error::EmptyKey)),
        (request("", 9, 0), Err(Error::EmptyKey)),
        (request("k", 3, 0), Err(Error::InvalidSortOption)),
        (request("k", -1, 0), Err(Error::InvalidSortOption)),
        (request("k", 0, 5), Err(Error::InvalidSortOption)),
    ] {
        assert_eq!(range(&request), expected, "{request:?}");
    }
}

#[test]
fn streamed_ranges() {
    let plain = RangeRequest { key: "k".into(), ..Default::default() };
    let sorted = |order: SortOrder, target: SortTarget| RangeRequest {
        sort_order: order as i32,
        sort_target: target as i32,
        ..plain.clone()
    };
    let order_text = Err((Code::Unimplemented, "RangeStream does not support custom sort orders"));
    let filter_text = Err((Code::Unimplemented, "RangeStream does not support revision filters"));
    for (request, expected) in [
        (plain.clone(), Ok(())),
        (sorted(SortOrder::Ascend, SortTarget::Key), Ok(())),
        (sorted(SortOrder::None, SortTarget::Mod), Ok(())),
        (sorted(SortOrder::Descend, SortTarget::Key), order_text),
        (sorted(SortOrder::Ascend, SortTarget::Value), order_text),
        (RangeRequest { min_mod_revision: 1, ..plain.clone() }, filter_text),
        (RangeRequest { max_mod_revision: -1, ..plain.clone() }, filter_text),
        (RangeRequest { min_create_revision: 1, ..plain.clone() }, filter_text),
        (RangeRequest { max_create_revision: 1, ..plain.clone() }, filter_text),
        (RangeRequest::default(), Err((Code::InvalidArgument, "etcdserver: key is not provided"))),
    ] {
        let found = range_stream(&request);
        assert_eq!(
            found.as_ref().map_err(|status| (status.code(), status.message())).copied(),
            expected,
            "{request:?}"
        );
    }
}

#[test]
fn puts() {
    let request = PutRequest { key: "k".into(), ..Default::default() };
    for (request, expected) in [
        (PutRequest { value: "v".into(), lease: 7, ..request.clone() }, Ok(())),
        (PutRequest { key: "".into(), ignore_value: true, value: "v".into(), ..request.clone() }, Err(Error::EmptyKey)),
        (PutRequest { ignore_value: true, value: "v".into(), ..request.clone() }, Err(Error::ValueProvided)),
        (PutRequest { ignore_lease: true, lease: 7, ..request.clone() }, Err(Error::LeaseProvided)),
        (PutRequest { ignore_value: true, ignore_lease: true, ..request.clone() }, Ok(())),
        (
            PutRequest { ignore_value: true, value: "v".into(), ignore_lease: true, lease: 7, ..request.clone() },
            Err(Error::ValueProvided),
        ),
    ] {
        assert_eq!(put(&request), expected, "{request:?}");
    }
}

#[test]
fn deletes() {
    assert_eq!(delete_range(&DeleteRangeRequest { key: "k".into(), ..Default::default() }), Ok(()));
    assert_eq!(delete_range(&DeleteRangeRequest { range_end: "k".into(), ..Default::default() }), Err(Error::EmptyKey));
}

#[test]
fn operations_of_a_transaction_are_checked_one_by_one() {
    let bad_sort = op(Op::RequestRange(RangeRequest { key: "k".into(), sort_order: 7, ..Default::default() }));
    let bad_put =
        op(Op::RequestPut(PutRequest { key: "k".into(), value: "v".into(), ignore_value: true, ..Default::default() }));
    for (ops, expected) in [
        (vec![], Ok(())),
        (vec![get("a"), set("a"), get("a")], Ok(())),
        (vec![get("")], Err(Error::EmptyKey)),
        (vec![set("")], Err(Error::EmptyKey)),
        (vec![del("", "")], Err(Error::EmptyKey)),
        (vec![nested(vec![set("")], vec![])], Err(Error::EmptyKey)),
        (vec![nested(vec![], vec![bad_put.clone()])], Err(Error::ValueProvided)),
        (vec![bad_put], Err(Error::ValueProvided)),
        (vec![bad_sort], Err(Error::InvalidSortOption)),
        (vec![RequestOp { request: None }], Err(Error::KeyNotFound)),
        // The first wrong operation is what is told, and single operations come before overlaps.
        (vec![set("a"), set("a"), RequestOp { request: None }], Err(Error::KeyNotFound)),
    ] {
        let request = TxnRequest { success: ops.clone(), ..Default::default() };
        assert_eq!(txn(&request, 128), expected, "then: {ops:?}");
        let request = TxnRequest { failure: ops.clone(), ..Default::default() };
        assert_eq!(txn(&request, 128), expected, "else: {ops:?}");
    }
    let request = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
    assert_eq!(txn(&request, 128), Err(Error::EmptyKey));
}

#[test]
fn the_longest_list_counts_and_nested_transactions_share_what_is_left() {
    let compare = Compare { key: "k".into(), ..Default::default() };
    let request = |compares, thens: usize, elses: usize| TxnRequest {
        compare: vec![compare.clone(); compares],
        success: vec![get("k"); thens],
        failure: vec![get("k"); elses],
    };
    for (compares, thens, elses, expected) in [
        (4, 4, 4, Ok(())),
        (5, 0, 0, Err(Error::TooManyOps)),
        (0, 5, 0, Err(Error::TooManyOps)),
        (0, 0, 5, Err(Error::TooManyOps)),
    ] {
        assert_eq!(txn(&request(compares, thens, elses), 4), expected);
    }
    let parent =
        |children| TxnRequest { success: vec![nested(vec![get("k"); children], vec![])], ..Default::default() };
    assert_eq!(txn(&parent(3), 4), Ok(()));
    assert_eq!(txn(&parent(4), 4), Err(Error::TooManyOps));
    // Too many is told before what is wrong with one of them.
    let mut request = request(0, 5, 0);
    request.success[0].request = None;
    assert_eq!(txn(&request, 4), Err(Error::TooManyOps));
}

#[test]
fn nesting_ends_well_before_what_the_log_could_no_longer_hold() {
    use prost::Message as _;
    let deep = |levels: usize| {
        let leaf = TxnRequest { success: vec![set("k")], ..Default::default() };
        (1..levels).fold(leaf, |child, _| TxnRequest { success: vec![op(Op::RequestTxn(child))], ..Default::default() })
    };
    assert_eq!(txn(&deep(TXN_DEPTH_MAX), 1000), Ok(()));
    assert_eq!(txn(&deep(TXN_DEPTH_MAX + 1), 1000), Err(Error::TooManyOps));
    let entry =
        quorate_proto::etcdserverpb::InternalRaftRequest { txn: Some(deep(TXN_DEPTH_MAX)), ..Default::default() };
    let encoded = entry.encode_to_vec();
    assert!(quorate_proto::etcdserverpb::InternalRaftRequest::decode(encoded.as_slice()).is_ok());
}

#[test]
fn a_key_is_changed_once() {
    let duplicate = Err(Error::DuplicateKey);
    for (ops, expected) in [
        (vec![set("a"), set("b")], Ok(())),
        (vec![set("a"), set("a")], duplicate),
        (vec![set("a"), del("a", "")], duplicate),
        (vec![del("a", ""), set("a")], duplicate),
        (vec![set("b"), del("a", "c")], duplicate),
        (vec![set("c"), del("a", "c")], Ok(())),
        (vec![set("a\0"), del("a", "")], Ok(())),
        // Deletes may overlap each other.
        (vec![del("a", "c"), del("b", "d"), del("b", "")], Ok(())),
        (vec![del("a", "c"), del("b", "d"), set("cc")], duplicate),
        (vec![del("a", "b"), del("c", "d"), set("b")], Ok(())),
        (vec![del("c", "d"), del("a", "c"), set("bb")], duplicate),
        // An empty range deletes nothing.
        (vec![del("c", "a"), set("b")], Ok(())),
        // From a key on: etcd takes the zero byte for an ordinary end.
        (vec![del("a", "\0"), set("b")], Ok(())),
        // The branches of one nested transaction exclude each other, but not what is around it.
        (vec![nested(vec![set("a")], vec![set("a")])], Ok(())),
        (vec![nested(vec![set("a"), set("a")], vec![])], duplicate),
        (vec![nested(vec![], vec![set("a"), del("a", "")])], duplicate),
        (vec![nested(vec![set("a")], vec![del("a", "")])], Ok(())),
        (vec![set("a"), nested(vec![set("a")], vec![])], duplicate),
        (vec![nested(vec![], vec![set("a")]), set("a")], duplicate),
        (vec![nested(vec![set("a")], vec![]), nested(vec![], vec![set("a")])], duplicate),
        (vec![nested(vec![set("a")], vec![set("a")]), nested(vec![set("b")], vec![])], Ok(())),
        (vec![del("a", "c"), nested(vec![set("b")], vec![])], duplicate),
        (vec![set("b"), nested(vec![del("a", "c")], vec![])], duplicate),
        (vec![nested(vec![], vec![del("a", "c")]), nested(vec![set("b")], vec![])], duplicate),
        // etcd does not look back from a nested delete to an earlier nested put.
        (vec![nested(vec![set("b")], vec![]), nested(vec![del("a", "c")], vec![])], Ok(())),
        (vec![nested(vec![nested(vec![set("a")], vec![])], vec![]), set("a")], duplicate),
    ] {
        assert_eq!(checked(ops.clone()), expected, "{ops:?}");
    }
}

#[test]
fn overlaps_are_found_in_reasonable_time() {
    // An operator may allow long transactions: comparing each put with each delete would take minutes.
    let ops: Vec<RequestOp> = (0..100_000)
        .map(|number| {
            let key = format!("{:08}", number * 2 + number % 2);
            if number % 2 == 0 {
                op(Op::RequestDeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() }))
            } else {
                op(Op::RequestPut(PutRequest { key: key.into(), ..Default::default() }))
            }
        })
        .collect();
    assert_eq!(overlaps(&ops), Ok(()));
}

#[test]
fn serializable_only_if_every_operation_is() {
    let serializable = op(Op::RequestRange(RangeRequest { key: "k".into(), serializable: true, ..Default::default() }));
    let request = |success: Vec<RequestOp>, failure: Vec<RequestOp>| TxnRequest { compare: vec![], success, failure };
    assert!(is_serializable(&request(vec![serializable.clone()], vec![serializable.clone()])));
    assert!(!is_serializable(&request(vec![serializable.clone(), get("k")], vec![])));
    assert!(!is_serializable(&request(vec![], vec![get("k")])));
    assert!(!is_serializable(&request(vec![serializable, set("k")], vec![])));
    assert!(is_serializable(&request(vec![], vec![])));
}

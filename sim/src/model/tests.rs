use super::*;
use crate::checkers::doctored::{everything, put_op};

fn put(model: &mut Model, key: &str, value: &str) -> i64 {
    let request = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    model.execute(&Request::Put(request)).unwrap().revision()
}

fn range(model: &mut Model, request: pb::RangeRequest) -> pb::RangeResponse {
    match model.execute(&Request::Range(request)) {
        Ok(Answer::Range(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

fn names(answer: &pb::RangeResponse) -> Vec<String> {
    let rows = answer.kvs.iter().map(|row| KeyValue::decode(row.clone()).unwrap());
    rows.map(|row| String::from_utf8(row.key.to_vec()).unwrap()).collect()
}

fn three() -> Model {
    let mut model = Model::new();
    assert_eq!(put(&mut model, "a", "3"), 2);
    assert_eq!(put(&mut model, "b", "2"), 3);
    assert_eq!(put(&mut model, "c", "1"), 4);
    assert_eq!(put(&mut model, "a", "4"), 5);
    model
}

#[test]
fn versions_and_revisions_count_as_etcd_counts() {
    let mut model = three();
    let answer = range(&mut model, pb::RangeRequest { key: "a".into(), ..Default::default() });
    let row = KeyValue::decode(answer.kvs[0].clone()).unwrap();
    assert_eq!((row.create_revision, row.mod_revision, row.version), (2, 5, 2));
    let delete = pb::DeleteRangeRequest { key: "a".into(), prev_kv: true, ..Default::default() };
    let Ok(Answer::Delete(deleted)) = model.execute(&Request::Delete(delete.clone())) else { panic!() };
    assert_eq!((deleted.deleted, deleted.prev_kvs.len(), deleted.header.unwrap().revision), (1, 1, 6));
    let Ok(Answer::Delete(nothing)) = model.execute(&Request::Delete(delete)) else { panic!() };
    assert_eq!((nothing.deleted, nothing.header.unwrap().revision), (0, 6), "deleting nothing makes no revision");
    put(&mut model, "a", "5");
    let answer = range(&mut model, pb::RangeRequest { key: "a".into(), ..Default::default() });
    let row = KeyValue::decode(answer.kvs[0].clone()).unwrap();
    assert_eq!((row.create_revision, row.version), (7, 1), "a key that was deleted begins anew");
}

#[test]
fn ranges_follow_etcds_options() {
    let mut model = three();
    let limited = range(&mut model, pb::RangeRequest { limit: 2, ..everything() });
    assert_eq!((names(&limited), limited.more, limited.count), (vec!["a".into(), "b".into()], true, 3));
    let down = range(&mut model, pb::RangeRequest { sort_order: 2, ..everything() });
    assert_eq!(names(&down), ["c", "b", "a"]);
    let by_value = range(&mut model, pb::RangeRequest { sort_target: 4, sort_order: 1, limit: 1, ..everything() });
    assert_eq!((names(&by_value), by_value.more), (vec!["c".into()], true), "sorted before it is limited");
    let no_order = range(&mut model, pb::RangeRequest { sort_target: 4, limit: 1, ..everything() });
    assert_eq!((names(&no_order), no_order.more), (vec!["b".into()], true), "read up to the limit, then sorted");
    let filtered = range(&mut model, pb::RangeRequest { min_mod_revision: 4, max_create_revision: 3, ..everything() });
    assert_eq!((names(&filtered), filtered.count), (vec!["a".into()], 3), "the count is before the filters");
    let old = range(&mut model, pb::RangeRequest { revision: 3, ..everything() });
    assert_eq!((names(&old), old.header.unwrap().revision), (vec!["a".into(), "b".into()], 5));
    let count = range(&mut model, pb::RangeRequest { count_only: true, limit: 1, ..everything() });
    assert_eq!((count.count, count.kvs.len(), count.more), (3, 0, false));
    let keys = range(&mut model, pb::RangeRequest { keys_only: true, ..everything() });
    assert!(keys.kvs.iter().all(|row| KeyValue::decode(row.clone()).unwrap().value.is_empty()));
    let future = model.execute(&Request::Range(pb::RangeRequest { revision: 6, ..everything() }));
    assert_eq!(future, Err(Error::FutureRev));
}

#[test]
fn a_nested_transaction_is_judged_on_the_state_before_and_is_one_revision() {
    let mut model = three();
    let inner = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: "new".into(),
            target: CompareTarget::Version as i32,
            target_union: Some(TargetUnion::Version(0)),
            ..Default::default()
        }],
        success: vec![put_op("inner", "x")],
        failure: vec![put_op("wrong", "x")],
    };
    let read = request_op::Request::RequestRange(everything());
    let outer = pb::TxnRequest {
        success: vec![
            put_op("new", "x"),
            pb::RequestOp { request: Some(request_op::Request::RequestTxn(inner)) },
            pb::RequestOp { request: Some(read) },
        ],
        ..Default::default()
    };
    let Ok(Answer::Txn(answer)) = model.execute(&Request::Txn(outer)) else { panic!() };
    assert_eq!((answer.header.unwrap().revision, model.revision()), (6, 6));
    let Some(response_op::Response::ResponseTxn(inner)) = &answer.responses[1].response else { panic!() };
    assert!(inner.succeeded, "`new` did not exist before");
    let Some(response_op::Response::ResponseRange(seen)) = &answer.responses[2].response else { panic!() };
    assert_eq!(names(seen), ["a", "b", "c", "inner", "new"]);
    assert_eq!(model.changes_of(6).len(), 2);
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let mut model = three();
    let mut late_error = put_op("z", "");
    if let Some(request_op::Request::RequestPut(put)) = &mut late_error.request {
        put.ignore_value = true;
    }
    let txn = pb::TxnRequest { success: vec![put_op("a", "9"), late_error], ..Default::default() };
    assert_eq!(model.execute(&Request::Txn(txn)), Err(Error::KeyNotFound));
    assert_eq!(model.revision(), 5);
    let twice = pb::TxnRequest { success: vec![put_op("a", "1"), put_op("a", "2")], ..Default::default() };
    assert_eq!(model.execute(&Request::Txn(twice)), Err(Error::DuplicateKey));
    let delete = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: false };
    let delete = pb::RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) };
    let both = pb::TxnRequest { success: vec![put_op("a", "1"), delete], ..Default::default() };
    let mut other = model.clone();
    assert!(other.execute(&Request::Txn(both)).is_ok(), "etcd does not see this overlap");
    assert_eq!(
        other.changes_of(6).iter().filter(|(_, row)| row.is_some()).count(),
        0,
        "and deletes what it has just put"
    );
    let shown = other.effect(5, &vec![("new".into(), None), ("b".into(), None)]);
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["b"], "a key that was not there before is not missed");
    let many = pb::TxnRequest { success: vec![put_op("a", "1"); MAX_TXN_OPS + 1], ..Default::default() };
    assert_eq!(model.execute(&Request::Txn(many)), Err(Error::TooManyOps));
}

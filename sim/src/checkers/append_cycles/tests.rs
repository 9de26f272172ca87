//! A true history, and one falsified for each anomaly.

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::mvccpb::KeyValue;

use super::*;
use crate::checkers::doctored::{Story, everything};
use crate::history::{Answer, Operation, Outcome, Request};
use crate::lists::{decode, encode};
use crate::world::clock::SimTime;

/// A piece of a transaction: what it makes of a list, or what it sees of it (nothing: there is no such key).
enum Piece {
    Append(&'static str, &'static str),
    Read(&'static str, &'static str),
}

use Piece::{Append, Read};

fn value(list: &str) -> Bytes {
    encode(&list.split(' ').collect::<Vec<_>>())
}

fn request(pieces: &[Piece]) -> Request {
    let op = |piece: &Piece| match *piece {
        Append(key, list) => {
            Op::RequestPut(pb::PutRequest { key: key.into(), value: value(list), ..Default::default() })
        }
        Read(key, _) => Op::RequestRange(pb::RangeRequest { key: key.into(), ..Default::default() }),
    };
    let success = pieces.iter().map(|piece| pb::RequestOp { request: Some(op(piece)) }).collect();
    Request::Txn(pb::TxnRequest { success, ..Default::default() })
}

/// A transaction from one millisecond to another, with its answer. It does everything at revision 1: nobody looks at that.
fn txn(start_ms: u64, end_ms: u64, pieces: &[Piece]) -> Operation {
    let response = |piece: &Piece| match *piece {
        Append(..) => Response::ResponsePut(pb::PutResponse::default()),
        Read(_, "") => Response::ResponseRange(pb::RangeResponse::default()),
        Read(key, list) => {
            let row = KeyValue { key: key.into(), value: value(list), ..Default::default() };
            Response::ResponseRange(pb::RangeResponse { kvs: vec![row.encode_to_vec().into()], ..Default::default() })
        }
    };
    let responses = pieces.iter().map(|piece| pb::ResponseOp { response: Some(response(piece)) }).collect();
    let answer = Answer::Txn(pb::TxnResponse { succeeded: true, responses, ..Default::default() });
    let at = |ms: u64| SimTime::from_nanos(ms * 1_000_000);
    let (start, end) = (at(start_ms), at(end_ms));
    Operation { client: 1, start, end, request: request(pieces), outcome: Outcome::Answered(answer) }
}

/// All at the same time.
fn at_once(transactions: &[&[Piece]]) -> Vec<Operation> {
    transactions.iter().map(|pieces| txn(0, 100, pieces)).collect()
}

fn verdict(operations: Vec<Operation>) -> Result<(), String> {
    AppendCycles.check(&Case::of(&Evidence { operations, ..Evidence::default() }))
}

fn must_say(operations: Vec<Operation>, what: &str) {
    let said = verdict(operations).expect_err("it is wrong");
    assert!(said.contains(what), "{said}");
}

#[test]
fn a_true_history_passes_and_no_revision_is_looked_at() {
    assert_eq!(verdict(Vec::new()), Ok(()));
    let operations = vec![
        txn(0, 1, &[Read("l000", ""), Read("l001", "")]),
        txn(2, 3, &[Append("l000", "a"), Read("l001", "")]),
        txn(4, 9, &[Append("l000", "a b"), Append("l001", "c"), Read("l000", "a b")]),
        txn(5, 8, &[Read("l000", "a"), Read("l001", "")]),
        txn(10, 11, &[Read("l000", "a b"), Read("l001", "c")]),
    ];
    assert_eq!(verdict(operations), Ok(()));
}

#[test]
fn a_true_history_of_the_model_passes_even_if_lists_are_deleted() {
    let mut story = Story::default();
    let mut list: Vec<String> = Vec::new();
    for number in 0..40 {
        list.push(format!("c7.{number}/0"));
        let put = pb::PutRequest { key: "l003".into(), value: encode(&list), ..Default::default() };
        let success = vec![pb::RequestOp { request: Some(Op::RequestPut(put)) }];
        story.call(Request::Txn(pb::TxnRequest { success, ..Default::default() }));
        if number % 5 == 0 {
            story.read_all();
        }
        if number == 22 {
            story.forget_last();
        }
        if number == 30 {
            story.delete("l003").read_all();
            list.clear();
        }
        story.put("k001", "something else");
    }
    let evidence = story.evidence();
    assert_eq!(AppendCycles.check(&Case::of(&evidence)), Ok(()));
    assert_eq!(decode(&encode(&list)).unwrap().len(), 9);
}

#[test]
fn elements_that_vanish_double_swap_or_come_from_nowhere_are_reported() {
    let base: [&[Piece]; 2] = [&[Append("l000", "a")], &[Append("l000", "a b")]];
    let with = |list| at_once(&[base[0], base[1], &[Read("l000", list)]]);
    assert_eq!(verdict(with("a b")), Ok(()));
    must_say(with("b"), "nobody wrote this list");
    must_say(with("b a"), "nobody wrote this list");
    must_say(with("a b b"), "twice");
    must_say(with("a x"), "nobody ever appended");
    must_say(at_once(&[base[0], base[1], &[Read("l001", "a"), Append("l001", "z")]]), "nobody ever appended");
    let mut torn = with("a b");
    if let Outcome::Answered(Answer::Txn(answer)) = &mut torn[2].outcome {
        let row = KeyValue { key: "l000".into(), value: "[a b".into(), ..Default::default() };
        let kvs = vec![row.encode_to_vec().into()];
        answer.responses[0].response = Some(Response::ResponseRange(pb::RangeResponse { kvs, ..Default::default() }));
    }
    must_say(torn, "holds no list");
}

#[test]
fn a_lost_update_is_reported_though_nobody_reads_it() {
    let lost = at_once(&[&[Append("l000", "a")], &[Append("l000", "a b")], &[Append("l000", "a c")]]);
    must_say(lost, "contradict each other");
    let first = at_once(&[&[Append("l000", "a")], &[Append("l000", "b")]]);
    must_say(first, "contradict each other");
}

#[test]
fn an_aborted_read_is_reported() {
    let mut operations = at_once(&[&[Append("l000", "a")], &[Read("l000", "a")]]);
    operations[0].outcome = Outcome::Refused { code: 9, message: "no".to_owned() };
    must_say(operations.clone(), "G1a");
    operations[0] = at_once(&[&[Append("l000", "a")]]).remove(0);
    if let Outcome::Answered(Answer::Txn(answer)) = &mut operations[0].outcome {
        (answer.succeeded, answer.responses) = (false, Vec::new());
    }
    must_say(operations, "G1a");
}

#[test]
fn an_unknown_append_happened_whole_or_not_at_all() {
    let mut operations = at_once(&[
        &[Append("l000", "a"), Append("l001", "b")],
        &[Append("l002", "never"), Read("l001", "")],
        &[Read("l000", "a")],
    ]);
    operations[0].outcome = Outcome::Unknown;
    operations[1].outcome = Outcome::Unknown;
    assert_eq!(verdict(operations.clone()), Ok(()));
    operations.push(txn(150, 160, &[Read("l001", ""), Read("l002", "")]));
    // It may happen after it was asked for at any time, but what was seen of it had happened.
    must_say(operations, "real time is violated");
}

#[test]
fn each_cycle_has_its_name() {
    let g0 = at_once(&[&[Append("l000", "a"), Append("l001", "x y")], &[Append("l000", "a b"), Append("l001", "x")]]);
    must_say(g0, "G0");
    let g1c = at_once(&[&[Append("l000", "a"), Read("l001", "x")], &[Append("l001", "x"), Read("l000", "a")]]);
    must_say(g1c, "G1c");
    let g_single = at_once(&[&[Append("l000", "a"), Append("l001", "x")], &[Read("l000", "a"), Read("l001", "")]]);
    must_say(g_single, "G-single");
    let g2 = at_once(&[&[Append("l000", "a"), Read("l001", "")], &[Append("l001", "x"), Read("l000", "")]]);
    must_say(g2, "G2");
}

#[test]
fn the_shortest_cycle_is_told() {
    // Three operations in a circle, and two of them in a smaller one.
    let operations = at_once(&[
        &[Append("l000", "a"), Read("l002", "z"), Read("l001", "x")],
        &[Append("l001", "x"), Read("l000", "a")],
        &[Append("l002", "z"), Read("l001", "x")],
        &[Append("l003", "q")],
    ]);
    must_say(operations, "a cycle of 2 operations");
}

#[test]
fn real_time_is_demanded_of_what_must_be_linearizable() {
    let stale = |serializable| {
        let mut read = txn(20, 30, &[Read("l000", "a")]);
        if let Request::Txn(txn) = &mut read.request
            && let Some(Op::RequestRange(range)) = &mut txn.success[0].request
        {
            range.serializable = serializable;
        }
        vec![txn(0, 1, &[Append("l000", "a")]), txn(2, 3, &[Append("l000", "a b")]), read]
    };
    must_say(stale(false), "real time is violated");
    assert_eq!(verdict(stale(true)), Ok(()));
    // But nobody sees what was not yet asked for.
    let mut early = stale(true);
    (early[2].start, early[2].end) = (SimTime::default(), SimTime::default());
    early[0].start = SimTime::from_nanos(5);
    must_say(early, "real time is violated");
}

#[test]
fn a_list_that_an_answered_range_lacks_is_missed() {
    let read_all = |answer: pb::RangeResponse| Operation {
        request: Request::Range(everything()),
        outcome: Outcome::Answered(Answer::Range(answer)),
        ..txn(20, 30, &[])
    };
    let mut operations: Vec<Operation> = [("l000", "a"), ("l001", "b"), ("l002", "c"), ("l005", "d"), ("l007", "e")]
        .map(|(key, list)| txn(0, 10, &[Append(key, list)]))
        .to_vec();
    let row = |key: &'static str, list| {
        Bytes::from(KeyValue { key: key.into(), value: value(list), ..Default::default() }.encode_to_vec())
    };
    let mut kvs = vec![row("l000", "a"), row("l001", "b"), row("l002", "c"), row("l005", "d"), row("l007", "e")];
    operations.push(read_all(pb::RangeResponse { kvs: kvs.clone(), ..Default::default() }));
    assert_eq!(verdict(operations.clone()), Ok(()));
    for missing in 0..kvs.len() {
        let taken = kvs.remove(missing);
        operations.pop();
        operations.push(read_all(pb::RangeResponse { kvs: kvs.clone(), ..Default::default() }));
        must_say(operations.clone(), "real time is violated");
        // Who may have deleted it is an excuse.
        let mut excused = operations.clone();
        excused.push(Operation {
            request: Request::Delete(pb::DeleteRangeRequest { key: "l".into(), range_end: "m".into(), prev_kv: false }),
            outcome: Outcome::Unknown,
            ..txn(0, 0, &[])
        });
        assert_eq!(verdict(excused), Ok(()));
        kvs.insert(missing, taken);
    }
}

#[test]
fn a_long_history_is_judged_quickly() {
    let mut operations = Vec::new();
    for key in 0..200_u64 {
        let name = crate::lists::key_name(key);
        let mut list = Vec::new();
        for number in 0..50 {
            list.push(format!("{key}.{number}"));
            let at_ms = (key * 50 + number) * 3;
            let mut operation = txn(at_ms, at_ms + 2, &[]);
            let put = pb::PutRequest { key: name.clone(), value: encode(&list), ..Default::default() };
            let read = pb::RangeRequest { key: "l".into(), range_end: "m".into(), ..Default::default() };
            let ops = [Op::RequestPut(put), Op::RequestRange(pb::RangeRequest { count_only: true, ..read })];
            let success = ops.map(|op| pb::RequestOp { request: Some(op) }).to_vec();
            operation.request = Request::Txn(pb::TxnRequest { success, ..Default::default() });
            operations.push(operation);
        }
    }
    assert_eq!(verdict(operations.clone()), Ok(()));
    let late = operations.len() - 1;
    (operations[0].start, operations[0].end) = (operations[late].start, operations[late].end.plus_nanos(9));
    (operations[late].start, operations[late].end) = (SimTime::default(), SimTime::from_nanos(1));
    must_say(operations, "real time is violated");
}

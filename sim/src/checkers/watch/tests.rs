//! True watches of a true history, and each falsified in one way.

use bytes::Bytes;
use prost::Message;
use quorate_proto::mvccpb::KeyValue;

use super::*;
use crate::checkers::doctored::{Story, put_op};
use crate::history::{Outcome, Request};
use crate::model::contains;

/// Revisions 2 to 8: a=1, b=2, (a=x/0, c=x/1), b deleted, c=3, a=4, a and c deleted.
fn story() -> Story {
    let mut story = Story::default();
    story.put("a", "1").put("b", "2").put_both("a", "c", "x").delete("b").put("c", "3").put("a", "4");
    story.call(Request::Delete(pb::DeleteRangeRequest { key: "a".into(), range_end: "d".into(), prev_kv: false }));
    story
}

fn everything() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { range_end: ZERO_END, start_revision: 1, prev_kv: true, ..Default::default() }
}

const ZERO_END: Bytes = Bytes::from_static(b"\0");

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: 1, member_id: 2, raft_term: 3, revision })
}

fn created(revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { header: header(revision), watch_id: 5, created: true, ..Default::default() }
}

fn progress(revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { header: header(revision), watch_id: 5, ..Default::default() }
}

fn canceled(compact_revision: i64, reason: &str) -> pb::WatchResponse {
    let cancel_reason = reason.to_owned();
    pb::WatchResponse {
        watch_id: 5,
        canceled: true,
        compact_revision,
        cancel_reason,
        header: header(0),
        ..Default::default()
    }
}

/// A watch that is told the truth, one response a revision, as soon as each was made.
fn told(evidence: &Evidence, request: pb::WatchCreateRequest) -> Watch {
    let first = request.start_revision;
    let case = Case::of(evidence);
    let replay = &case.truth().unwrap().replay;
    let mut responses = vec![(SimTime::default(), created(1))];
    for (revision, made) in replay.from(first) {
        let event = |(key, row): &(Bytes, Option<KeyValue>)| {
            let tombstone = KeyValue { key: key.clone(), mod_revision: revision, ..Default::default() };
            let row = row.as_ref();
            let is_new = row.is_some_and(|row| row.version == 1);
            let before = replay.model.at(key, revision - 1).filter(|_| request.prev_kv && !is_new);
            Event {
                r#type: i32::from(row.is_none()),
                kv: row.unwrap_or(&tombstone).encode_to_vec().into(),
                prev_kv: before.map(|row| row.encode_to_vec().into()).unwrap_or_default(),
            }
        };
        let (key, end) = (if request.key.is_empty() { ZERO_END } else { request.key.clone() }, &request.range_end);
        let changes = made.changes.iter().filter(|(name, row)| {
            let filter = i32::from(row.is_none());
            contains(&key, end, name) && !request.filters.contains(&filter)
        });
        let events: Vec<Event> = changes.map(event).collect();
        if !events.is_empty() {
            responses.push((made.effective_end(), pb::WatchResponse { events, ..progress(revision) }));
        }
    }
    Watch {
        client: 1,
        stream: 9,
        request,
        start: SimTime::default(),
        responses,
        cancel_asked: None,
        end: SimTime::NEVER,
    }
}

fn verdict(evidence: &Evidence, watch: Watch) -> Result<(), String> {
    Watches.check(&Case::of(&Evidence { watches: vec![watch], ..evidence.clone() }))
}

/// Falsifies a true watch of everything; it must be noticed in these words.
fn must_say(what: &str, falsify: impl FnOnce(&mut Watch)) {
    let evidence = story().evidence();
    let mut watch = told(&evidence, everything());
    assert_eq!(verdict(&evidence, watch.clone()), Ok(()));
    falsify(&mut watch);
    let said = verdict(&evidence, watch).expect_err(what);
    assert!(said.contains(what), "{said}");
}

fn change_row(event: &mut Event, change: impl FnOnce(&mut KeyValue)) {
    let mut row = KeyValue::decode(event.kv.clone()).unwrap();
    change(&mut row);
    event.kv = row.encode_to_vec().into();
}

#[test]
fn true_watches_of_every_shape_pass() {
    let evidence = story().evidence();
    let all = everything();
    let shapes = [
        all.clone(),
        pb::WatchCreateRequest { prev_kv: false, ..all.clone() },
        pb::WatchCreateRequest { key: "a".into(), range_end: Bytes::new(), ..all.clone() },
        pb::WatchCreateRequest { key: "a".into(), range_end: "c".into(), start_revision: 4, ..all.clone() },
        pb::WatchCreateRequest { start_revision: 6, ..all.clone() },
        pb::WatchCreateRequest { start_revision: i64::MAX - 2, ..all.clone() },
        pb::WatchCreateRequest { filters: vec![0], ..all.clone() },
        pb::WatchCreateRequest { filters: vec![1], ..all.clone() },
        pb::WatchCreateRequest { filters: vec![0, 1], ..all.clone() },
        pb::WatchCreateRequest { key: "b".into(), ..all.clone() },
    ];
    for request in shapes {
        assert_eq!(verdict(&evidence, told(&evidence, request)), Ok(()));
    }
    // Several revisions in one response, and progress between responses, also for the whole stream.
    let mut merged = told(&evidence, all);
    let (_, second) = merged.responses.remove(2);
    let at = SimTime::from_nanos(1_000_000_000);
    let (first_at, first) = &mut merged.responses[1];
    first.events.extend(second.events);
    (*first_at, first.header) = (at, header(3));
    merged.responses.insert(2, (at, pb::WatchResponse { watch_id: -1, ..progress(3) }));
    assert_eq!(verdict(&evidence, merged), Ok(()));
}

#[test]
fn events_missing_twice_swapped_or_torn_apart_are_reported() {
    must_say("but not of revision 4", |watch| {
        watch.responses.remove(3);
    });
    must_say("told of revision 4 again", |watch| {
        let again = watch.responses[3].clone();
        watch.responses.insert(4, again);
    });
    must_say("but not of revision 4", |watch| watch.responses.swap(3, 4));
    must_say("told of 1 changes", |watch| {
        watch.responses[3].1.events.pop();
    });
    must_say("told of 1 changes", |watch| {
        let mut rest = watch.responses[3].clone();
        rest.1.events.remove(0);
        watch.responses[3].1.events.truncate(1);
        watch.responses.insert(4, rest);
    });
    must_say("by client", |watch| watch.responses[3].1.events.reverse());
}

#[test]
fn wrong_rows_are_reported() {
    must_say("told Told", |watch| change_row(&mut watch.responses[1].1.events[0], |row| row.value = "2".into()));
    must_say("told Told", |watch| change_row(&mut watch.responses[1].1.events[0], |row| row.lease = 2));
    must_say("told Told", |watch| change_row(&mut watch.responses[4].1.events[0], |row| row.value = "2".into()));
    must_say("told Told", |watch| watch.responses[4].1.events[0].r#type = 0);
    must_say("does not decode", |watch| watch.responses[4].1.events[0].kv = "\u{1}".into());
    must_say("a wrong prev_kv", |watch| watch.responses[3].1.events[0].prev_kv = Bytes::new());
    must_say("a wrong prev_kv", |watch| {
        watch.responses[3].1.events[0].prev_kv = watch.responses[2].1.events[0].kv.clone();
    });
    must_say("a wrong prev_kv", |watch| {
        watch.responses[3].1.events[1].prev_kv = watch.responses[2].1.events[0].kv.clone();
    });
    must_say("a wrong prev_kv", |watch| watch.request.prev_kv = false);
}

#[test]
fn what_never_happened_is_reported() {
    must_say("told of revision 9, but the last is 8", |watch| {
        let mut more = watch.responses[7].clone();
        more.1.header = header(9);
        change_row(&mut more.1.events[0], |row| row.mod_revision = 9);
        watch.responses.push(more);
    });
    must_say("where nothing was to be told", |watch| {
        let again = watch.responses[7].clone();
        watch.responses.push(again);
    });
    must_say("told of the future: revision 3 rests on 3, made later by client 7", |watch| {
        watch.responses[2].0 = SimTime::default()
    });
    // Of a write that was never committed.
    let mut story = story();
    story.put("z", "lost");
    let whole = story.evidence();
    let watch = told(&whole, everything());
    assert_eq!(verdict(&whole, watch.clone()), Ok(()));
    story.last().outcome = Outcome::Unknown;
    assert!(verdict(&story.evidence(), watch).unwrap_err().contains("told of revision 9, but the last is 8"));
}

#[test]
fn the_order_within_a_revision_of_unknown_maker_is_free() {
    let mut story = story();
    story.put_both("q", "p", "y");
    let mut evidence = story.evidence();
    let backwards = told(&evidence, everything());
    story.forget_last();
    evidence = story.evidence();
    assert_eq!(verdict(&evidence, told(&evidence, everything())), Ok(()));
    assert_eq!(verdict(&evidence, backwards), Ok(()));
}

#[test]
fn filters_bounds_and_start_are_held() {
    must_say("told of 2 changes", |watch| watch.request.range_end = Bytes::from("c"));
    must_say("where nothing was to be told", |watch| watch.request.filters = vec![0, 1]);
    must_say("though it is not for it", |watch| watch.request.filters = vec![0]);
    must_say("again, or late,", |watch| watch.request.start_revision = 4);
}

#[test]
fn a_watch_from_now_begins_somewhere_and_then_misses_nothing() {
    let evidence = story().evidence();
    let from = |first: i64, created_at: i64| {
        let mut watch = told(&evidence, pb::WatchCreateRequest { start_revision: first, ..everything() });
        watch.request.start_revision = 0;
        watch.responses[0] = (SimTime::from_nanos(1_000_000_000), created(created_at));
        watch
    };
    assert_eq!(verdict(&evidence, from(5, 4)), Ok(()));
    assert_eq!(verdict(&evidence, from(5, 6)), Ok(()), "what came while it was created may be told");
    assert!(verdict(&evidence, from(5, 3)).unwrap_err().contains("but not of revision 4"));
    let mut gap = from(4, 6);
    gap.responses.remove(2);
    assert!(verdict(&evidence, gap).unwrap_err().contains("but not of revision 5"));
}

#[test]
fn progress_is_true() {
    must_say("progress at revision 4, but it was not told of revision 4", |watch| {
        let at = watch.responses[3].0;
        watch.responses.insert(3, (at, progress(4)));
    });
    must_say("the revision went back", |watch| {
        let at = watch.responses[3].0;
        watch.responses.insert(3, (at, progress(2)));
    });
    must_say("progress below the start", |watch| {
        watch.request.start_revision = 7;
        watch.responses.drain(1..);
        watch.responses.push((SimTime::from_nanos(1_000_000_000), progress(6)));
    });
    must_say("told of revision 9", |watch| watch.responses.push((SimTime::NEVER, progress(9))));
}

#[test]
fn fragments_are_put_together() {
    let fragments = |watch: &mut Watch| {
        let mut rest = watch.responses[3].clone();
        rest.1.events.remove(0);
        watch.responses[3].1.events.truncate(1);
        watch.responses[3].1.fragment = true;
        watch.responses.insert(4, rest);
    };
    let evidence = story().evidence();
    let mut watch = told(&evidence, pb::WatchCreateRequest { fragment: true, ..everything() });
    fragments(&mut watch);
    assert_eq!(verdict(&evidence, watch.clone()), Ok(()));
    let at = watch.responses[4].0;
    watch.responses.insert(4, (at, progress(4)));
    assert!(verdict(&evidence, watch).unwrap_err().contains("between fragments"));
    must_say("a fragment that nobody asked for", fragments);
}

#[test]
fn headers_and_ids_are_the_watchs_own() {
    must_say("newer than its header", |watch| watch.responses[3].1.header = header(3));
    must_say("without a header", |watch| watch.responses[3].1.header = None);
    must_say("not filled", |watch| watch.responses[3].1.header.as_mut().unwrap().raft_term = 0);
    must_say("a response of another watch", |watch| watch.responses[3].1.watch_id = 6);
    must_say("another id than was asked for", |watch| watch.request.watch_id = 6);
    must_say("a response before it was created", |watch| {
        watch.responses.remove(0);
    });
    must_say("created twice", |watch| {
        let again = watch.responses[0].clone();
        watch.responses.insert(1, again);
    });
}

#[test]
fn a_cancellation_has_a_reason() {
    let late = SimTime::from_nanos(1_000_000_000);
    must_say("cancelled without a reason", |watch| watch.responses.push((late, canceled(0, ""))));
    must_say("cancelled without a reason", |watch| {
        watch.cancel_asked = Some(SimTime::NEVER);
        watch.responses.push((late, canceled(0, "")));
    });
    must_say("a response after the end", |watch| {
        watch.cancel_asked = Some(SimTime::default());
        watch.responses.insert(3, (late, canceled(0, "")));
    });
    must_say("nobody has compacted at 4", |watch| watch.responses.push((late, canceled(4, ""))));
    let evidence = story().evidence();
    let mut watch = told(&evidence, everything());
    watch.cancel_asked = Some(SimTime::default());
    watch.responses.push((late, canceled(0, "")));
    assert_eq!(verdict(&evidence, watch), Ok(()));
}

#[test]
fn a_compacted_watch_is_cancelled_only_if_it_needs_what_is_gone() {
    let mut story = story();
    story.compact(6);
    let evidence = story.evidence();
    let late = SimTime::from_nanos(1_000_000_000);
    let stopped_after = |responses: usize| {
        let mut watch = told(&evidence, everything());
        watch.responses.truncate(responses + 1);
        watch.responses.push((late, canceled(6, "")));
        verdict(&evidence, watch)
    };
    assert_eq!(stopped_after(0), Ok(()));
    assert_eq!(stopped_after(3), Ok(()), "revision 5 is gone");
    assert!(stopped_after(4).unwrap_err().contains("needs nothing below"), "revision 6 is still there");
    let mut early = told(&evidence, everything());
    early.responses.truncate(1);
    early.responses.push((SimTime::default(), canceled(6, "")));
    assert!(verdict(&evidence, early).unwrap_err().contains("nobody has compacted"));
    must_say("a compacted watch goes on", |watch| watch.responses[3].1.compact_revision = 6);
    // A previous row that is compacted may be missing, but not be another one.
    let mut watch = told(&evidence, everything());
    for (at, response) in &mut watch.responses[1..] {
        *at = late;
        response.events.iter_mut().for_each(|event| event.prev_kv = Bytes::new());
    }
    assert!(verdict(&evidence, watch.clone()).unwrap_err().contains("a wrong prev_kv"), "revision 6 is readable");
    watch.responses.truncate(5);
    assert_eq!(verdict(&evidence, watch), Ok(()));
}

#[test]
fn what_was_overwritten_in_the_compacted_revision_itself_may_be_gone() {
    let mut story = story();
    story.call(Request::Txn(pb::TxnRequest { success: put_and_deleted("b", "9"), ..Default::default() }));
    let without_the_put = |story: &Story| {
        let evidence = story.evidence();
        let mut watch = told(&evidence, everything());
        let (at, last) = watch.responses.last_mut().unwrap();
        *at = SimTime::from_nanos(1_000_000_000);
        assert_eq!(last.events.len(), 2);
        last.events.remove(0);
        verdict(&evidence, watch)
    };
    assert!(without_the_put(&story).unwrap_err().contains("told of 1 changes"));
    story.compact(8);
    assert!(without_the_put(&story).unwrap_err().contains("told of 1 changes"), "it is not of the compacted revision");
    story.compact(9);
    assert_eq!(without_the_put(&story), Ok(()));
}

/// The branch of a transaction that puts `key` and then deletes it, which nesting makes possible.
fn delete_op(key: &str) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) }
}

fn put_and_deleted(key: &str, value: &str) -> Vec<pb::RequestOp> {
    let nested = |success| {
        let txn = pb::TxnRequest { success, ..Default::default() };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(txn)) }
    };
    vec![nested(vec![put_op(key, value)]), nested(vec![delete_op(key)])]
}

#[test]
fn a_key_that_changes_twice_in_a_revision_is_told_of_twice_also_if_the_answer_never_came() {
    for answered in [true, false] {
        let mut story = story();
        let success = [put_and_deleted("n", "t/0"), put_and_deleted("b", "t/1"), vec![put_op("c", "t/2")]].concat();
        story.put("b", "5").call(Request::Txn(pb::TxnRequest { success, ..Default::default() }));
        if !answered {
            story.forget_last();
        }
        let evidence = story.read_all().evidence();
        let watch = told(&evidence, everything());
        let events = &watch.responses.last().unwrap().1.events;
        assert_eq!(events.iter().map(|event| event.r#type).collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
        assert_eq!(verdict(&evidence, watch.clone()), Ok(()));
        for event in 0..5 {
            let mut less = watch.clone();
            less.responses.last_mut().unwrap().1.events.remove(event);
            assert!(verdict(&evidence, less).unwrap_err().contains("told of 4 changes"));
        }
        let mut swapped = watch;
        swapped.responses.last_mut().unwrap().1.events.swap(0, 1);
        assert!(verdict(&evidence, swapped).unwrap_err().contains("told Told"));
    }
}

#[test]
fn of_two_possible_orders_the_one_that_was_told_is_right() {
    let mut story = story();
    story.put("b", "5").put("c", "6");
    let alone = pb::DeleteRangeRequest { key: "b".into(), ..Default::default() };
    let success = put_and_deleted("b", "t/0");
    // Both asked to delete b, one of them in a roundabout way; one of the two has done it, and nobody heard which.
    story.call(Request::Txn(pb::TxnRequest { success, ..Default::default() })).forget_last();
    let by_txn = story.evidence();
    let mut asked = by_txn.clone();
    let mut other = by_txn.operations.last().unwrap().clone();
    other.request = Request::Delete(alone);
    asked.operations.push(other);
    for told_events in [1, 2] {
        let mut watch = told(&by_txn, everything());
        let (at, last) = watch.responses.last_mut().unwrap();
        *at = SimTime::from_nanos(1_000_000_000);
        last.events.drain(..2 - told_events);
        assert_eq!(verdict(&asked, watch.clone()), Ok(()), "{told_events}");
        assert_eq!(verdict(&by_txn, watch).is_ok(), told_events == 2);
    }
}

#[test]
fn what_must_be_refused_is_refused() {
    let evidence = story().evidence();
    let asked = |request: pb::WatchCreateRequest, reason: &str| {
        let mut watch = told(&evidence, everything());
        watch.request = request;
        let refusal = pb::WatchResponse { created: true, watch_id: -1, ..canceled(0, reason) };
        watch.responses = vec![(SimTime::default(), refusal)];
        watch
    };
    let negative = pb::WatchCreateRequest { start_revision: -1, ..everything() };
    let nothing = pb::WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..everything() };
    assert_eq!(verdict(&evidence, asked(negative.clone(), Error::Compacted.message())), Ok(()));
    assert_eq!(verdict(&evidence, asked(nothing.clone(), EMPTY_RANGE)), Ok(()));
    for (request, reason) in [(everything(), EMPTY_RANGE), (negative.clone(), "no"), (nothing.clone(), DUPLICATE_ID)] {
        assert!(verdict(&evidence, asked(request, reason)).unwrap_err().contains("without a reason"));
    }
    for request in [negative, nothing] {
        let mut watch = asked(request, "");
        watch.responses = vec![(SimTime::default(), created(1))];
        assert!(verdict(&evidence, watch).unwrap_err().contains("it must be refused"));
    }
    // An id may be used once on a stream.
    let mut first = told(&evidence, pb::WatchCreateRequest { watch_id: 5, ..everything() });
    let mut second = asked(pb::WatchCreateRequest { watch_id: 5, ..everything() }, DUPLICATE_ID);
    let both = |first: &Watch, second: &Watch| {
        Watches.check(&Case::of(&Evidence { watches: vec![first.clone(), second.clone()], ..evidence.clone() }))
    };
    assert_eq!(both(&first, &second), Ok(()));
    second.stream += 1;
    assert!(both(&first, &second).unwrap_err().contains("without a reason"));
    first.stream += 1;
    assert_eq!(both(&first, &second), Ok(()));
}

#[test]
fn after_the_healing_everything_is_told_in_time() {
    let second = |number: u64| SimTime::from_nanos(number * 1_000_000_000);
    let mut evidence = story().evidence();
    (evidence.healed_at, evidence.recovery_limit_ns) = (second(10), 5_000_000_000);
    let mut watch = told(&evidence, everything());
    assert_eq!(verdict(&evidence, watch.clone()), Ok(()));
    watch.responses[7].0 = second(14);
    assert_eq!(verdict(&evidence, watch.clone()), Ok(()));
    watch.responses[7].0 = second(16);
    assert!(verdict(&evidence, watch.clone()).unwrap_err().contains("not told by 15.000000s of revision 8"));
    watch.responses.pop();
    assert!(verdict(&evidence, watch.clone()).unwrap_err().contains("not told by 15.000000s of revision 8"));
    watch.end = second(15);
    assert_eq!(verdict(&evidence, watch.clone()), Ok(()), "nobody listened any more");
    watch.end = second(16);
    watch.responses.clear();
    assert!(verdict(&evidence, watch.clone()).unwrap_err().contains("not created by"));
    watch.responses = vec![(second(1), created(8))];
    watch.request.start_revision = 0;
    assert_eq!(verdict(&evidence, watch), Ok(()), "it began after all of them");
}

#[test]
fn a_transaction_that_deletes_what_it_puts_tells_both() {
    let mut story = Story::default();
    story.put("a", "1");
    let delete = pb::DeleteRangeRequest { key: "\0".into(), range_end: ZERO_END, prev_kv: false };
    let delete = pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) };
    story.call(Request::Txn(pb::TxnRequest { success: vec![put_op("b", "2"), delete], ..Default::default() }));
    let evidence = story.evidence();
    let mut watch = told(&evidence, everything());
    assert_eq!(watch.responses[2].1.events.len(), 3, "b is put, a and b are deleted");
    assert_eq!(verdict(&evidence, watch.clone()), Ok(()));
    watch.responses[2].1.events.remove(0);
    assert!(verdict(&evidence, watch).unwrap_err().contains("told of 2 changes"));
}

#[test]
fn of_two_that_may_have_made_a_revision_it_was_the_one_of_which_a_watch_was_told() {
    let mut story = story();
    story.put("a", "there").delete("a").forget_last().put("n", "after");
    let evidence = story.evidence();
    let of_n = pb::WatchCreateRequest { key: "n".into(), start_revision: 1, ..Default::default() };
    let watch = told(&evidence, of_n);
    // Another one that nobody heard of again leaves the same behind, and would have told the watch of more.
    let success = [put_and_deleted("n", "t/0"), vec![delete_op("a")]].concat();
    let mut both = evidence;
    let deletion = both.operations.iter().position(|operation| operation.outcome == Outcome::Unknown).unwrap();
    let other = Request::Txn(pb::TxnRequest { success, ..Default::default() });
    both.operations.insert(deletion, crate::history::Operation { request: other, ..both.operations[deletion].clone() });
    assert_eq!(verdict(&both, watch.clone()), Ok(()));
    // What was told before the stream broke may be a part.
    let mut broken = watch;
    broken.responses.pop();
    assert_eq!(verdict(&both, broken), Ok(()));
}

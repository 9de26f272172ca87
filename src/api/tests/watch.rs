//! Watch streams over a real member: what clients see, answer by answer.

mod served;

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_client::{Connection, WatchStream};
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, ResponseHeader, TxnRequest, WatchCreateRequest,
    WatchResponse,
};
use quorate_proto::mvccpb::event::EventType;
use quorate_proto::mvccpb::{Event, KeyValue};
use quorate_runtime::clock;
use quorate_types::Error;
use tonic::{Code, Status};

use served::{Served, plain, with_member};

impl Served {
    async fn put(&self, key: &str, value: impl Into<Bytes>) -> i64 {
        let request = PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() };
        self.kv().put(request).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn open(&self) -> Watcher<'_> {
        Watcher { served: self, stream: WatchStream::open(&self.connection, false).await.unwrap() }
    }

    fn answer(&self, watch_id: i64, revision: i64) -> WatchResponse {
        let header = ResponseHeader {
            cluster_id: self.member.cluster_id().0,
            member_id: self.member.id().0,
            revision,
            raft_term: self.member.raft_status().term.0,
        };
        WatchResponse { header: Some(header), watch_id, ..Default::default() }
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.member.metrics().registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }
}

/// A stream under test.
struct Watcher<'a> {
    served: &'a Served,
    stream: WatchStream,
}

impl Watcher<'_> {
    /// The next answer, which has to come soon.
    async fn next(&mut self) -> WatchResponse {
        let next = clock::timeout(&*self.served.rt, Duration::from_secs(10), self.stream.next()).await;
        next.expect("an answer in time").unwrap().expect("the stream goes on")
    }

    /// How the stream ends, after any answers.
    async fn end(mut self) -> Status {
        let ended = clock::timeout(&*self.served.rt, Duration::from_secs(10), async {
            loop {
                match self.stream.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the stream ended well"),
                    Err(status) => return status,
                }
            }
        });
        ended.await.expect("an end in time")
    }

    /// Nothing comes for a while.
    async fn expect_silence(&mut self) {
        let next = clock::timeout(&*self.served.rt, Duration::from_millis(100), self.stream.next()).await;
        assert!(next.is_err(), "{next:?}");
    }

    async fn expect_created(&mut self, watch_id: i64, revision: i64) {
        let expected = WatchResponse { created: true, ..self.served.answer(watch_id, revision) };
        assert_eq!(self.next().await, expected);
    }
}

fn on(key: &'static str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), ..Default::default() }
}

fn all() -> WatchCreateRequest {
    WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

fn kv(key: &'static str, value: &'static str, (create_revision, mod_revision, version): (i64, i64, i64)) -> Bytes {
    let kv = KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease: 0 };
    kv.encode_to_vec().into()
}

fn put_event(key: &'static str, value: &'static str, numbers: (i64, i64, i64)) -> Event {
    Event { r#type: EventType::Put as i32, kv: kv(key, value, numbers), ..Default::default() }
}

fn delete_event(key: &'static str, revision: i64) -> Event {
    Event { r#type: EventType::Delete as i32, kv: kv(key, "", (0, revision, 0)), ..Default::default() }
}

#[test]
fn a_watch_tells_what_happens() {
    with_member(plain, 2, async |served| {
        let mut watcher = served.open().await;
        watcher.stream.create(on("a"));
        watcher.expect_created(0, 1).await;
        watcher.stream.create(WatchCreateRequest { prev_kv: true, ..all() });
        watcher.expect_created(1, 1).await;
        served.put("a", "1").await;
        for watch_id in [0, 1] {
            let events = vec![put_event("a", "1", (2, 2, 1))];
            assert_eq!(watcher.next().await, WatchResponse { events, ..served.answer(watch_id, 2) });
        }
        let delete = DeleteRangeRequest { key: "a".into(), ..Default::default() };
        let put = PutRequest { key: "b".into(), value: "2".into(), ..Default::default() };
        let success = [Op::RequestDeleteRange(delete), Op::RequestPut(put)];
        let success = success.map(|op| RequestOp { request: Some(op) }).to_vec();
        served.kv().txn(TxnRequest { success, ..Default::default() }).await.unwrap();
        let events = vec![delete_event("a", 3)];
        assert_eq!(watcher.next().await, WatchResponse { events, ..served.answer(0, 3) });
        let deleted = Event { prev_kv: kv("a", "1", (2, 2, 1)), ..delete_event("a", 3) };
        let events = vec![deleted, put_event("b", "2", (3, 3, 1))];
        assert_eq!(watcher.next().await, WatchResponse { events, ..served.answer(1, 3) });

        watcher.stream.cancel(0);
        assert_eq!(watcher.next().await, WatchResponse { canceled: true, ..served.answer(0, 3) });
        watcher.stream.cancel(17);
        watcher.stream.request_progress();
        assert_eq!(watcher.next().await, served.answer(-1, 3));
        served.put("a", "4").await;
        let events = vec![put_event("a", "4", (4, 4, 1))];
        assert_eq!(watcher.next().await, WatchResponse { events, ..served.answer(1, 4) });
        watcher.expect_silence().await;
    });
}

#[test]
fn refusals_leave_the_stream_open() {
    with_member(plain, 2, async |served| {
        let mut watcher = served.open().await;
        // Nothing watched: nothing to tell.
        watcher.stream.request_progress();
        watcher.stream.create(WatchCreateRequest { watch_id: 5, ..on("a") });
        watcher.expect_created(5, 1).await;
        let refused = [
            (WatchCreateRequest { watch_id: 5, ..on("a") }, "mvcc: duplicate watch ID provided on the WatchStream"),
            (WatchCreateRequest { range_end: "a".into(), ..on("b") }, "mvcc: watcher range is empty"),
            (
                WatchCreateRequest { start_revision: -1, ..on("b") },
                "etcdserver: mvcc: required revision has been compacted",
            ),
        ];
        for (request, reason) in refused {
            watcher.stream.create(request);
            let cancel_reason = reason.to_owned();
            let expected = WatchResponse { created: true, canceled: true, cancel_reason, ..served.answer(-1, 1) };
            assert_eq!(watcher.next().await, expected);
        }
        served.put("a", "1").await;
        assert_eq!(watcher.next().await.watch_id, 5);
    });
}

#[test]
fn history_comes_a_thousand_revisions_at_a_time_until_it_is_compacted() {
    with_member(plain, 2, async |served| {
        for number in 0..2100 {
            served.put("a", number.to_string()).await;
        }
        let mut watcher = served.open().await;
        watcher.stream.create(WatchCreateRequest { start_revision: 2, ..on("a") });
        watcher.expect_created(0, 2101).await;
        let mut next = 2;
        for count in [1000, 1000, 100] {
            let answer = watcher.next().await;
            assert_eq!((answer.header.unwrap().revision, answer.events.len()), (2101, count));
            for event in &answer.events {
                let told = KeyValue::decode(event.kv.clone()).unwrap();
                assert_eq!((told.mod_revision, told.version), (next, next - 1));
                next += 1;
            }
        }
        served.kv().compact(CompactionRequest { revision: 2000, physical: true }).await.unwrap();
        watcher.stream.create(WatchCreateRequest { start_revision: 1999, ..on("a") });
        watcher.expect_created(1, 2101).await;
        let expected = WatchResponse { canceled: true, compact_revision: 2000, ..served.answer(1, 0) };
        assert_eq!(watcher.next().await, expected);
        watcher.stream.create(WatchCreateRequest { start_revision: 2000, ..on("a") });
        watcher.expect_created(2, 2101).await;
        assert_eq!(watcher.next().await.events.len(), 102);
        // The first watch goes on.
        served.put("a", "x").await;
        assert_eq!(watcher.next().await.watch_id, 0);
    });
}

#[test]
fn large_answers_come_in_fragments_to_those_who_take_them() {
    with_member(
        |config, _| config.max_request_bytes = 100_000,
        2,
        async |served| {
            // Events of about 90 kB; a fragment stays below 100,000 + 524,288 bytes.
            let value = "x".repeat(90_000);
            for _ in 0..20 {
                served.put("a", value.clone()).await;
            }
            let mut watcher = served.open().await;
            watcher.stream.create(WatchCreateRequest { start_revision: 2, fragment: true, ..on("a") });
            watcher.stream.create(WatchCreateRequest { start_revision: 2, ..on("a") });
            watcher.expect_created(0, 21).await;
            watcher.expect_created(1, 21).await;
            let mut whole = Vec::new();
            let mut pieces = Vec::new();
            while whole.len() + pieces.iter().map(|(_, events)| events).sum::<usize>() < 40 {
                let answer = watcher.next().await;
                assert_eq!(answer.header.unwrap().revision, 21);
                if answer.watch_id == 1 {
                    assert!(!answer.fragment);
                    whole.extend(answer.events);
                } else {
                    assert!(answer.encoded_len() < 624_288);
                    pieces.push((answer.fragment, answer.events.len()));
                }
            }
            assert_eq!(whole.len(), 20);
            assert_eq!(pieces, [(true, 6), (true, 6), (true, 6), (false, 2)]);
        },
    );
}

#[test]
fn quiet_watches_are_told_how_far_they_are() {
    let interval = Duration::from_millis(200);
    with_member(
        |_, options| options.watch_progress_interval = interval,
        2,
        async |served| {
            let mut watcher = served.open().await;
            watcher.stream.create(WatchCreateRequest { progress_notify: true, ..on("a") });
            watcher.stream.create(on("a"));
            watcher.expect_created(0, 1).await;
            watcher.expect_created(1, 1).await;
            served.put("b", "").await;
            assert_eq!(watcher.next().await, served.answer(0, 2));
            let start = served.rt.mono_now();
            assert_eq!(watcher.next().await, served.answer(0, 2));
            let took = served.rt.mono_now() - start;
            assert!(took > interval / 2 && took < interval * 5, "{took:?}");
        },
    );
}

#[test]
fn who_wants_a_leader_is_told_that_there_is_none_and_a_server_that_drains_ends_all() {
    with_member(plain, 2, async |served| {
        let mut plain = served.open().await;
        plain.stream.create(on("a"));
        plain.expect_created(0, 1).await;
        let leading = WatchStream::open(&served.connection, true).await.unwrap();
        leading.create(on("a"));
        let mut leading = Watcher { served, stream: leading };
        leading.expect_created(0, 1).await;
        served.service.drain();
        for watcher in [plain, leading] {
            let status = watcher.end().await;
            assert_eq!((status.code(), status.message()), (Code::Unavailable, Error::Stopped.message()));
        }
    });
}

#[test]
fn metrics_count_streams_watchers_and_events() {
    with_member(plain, 2, async |served| {
        let mut watcher = served.open().await;
        watcher.stream.create(on("a"));
        watcher.stream.create(on("a"));
        watcher.expect_created(0, 1).await;
        watcher.expect_created(1, 1).await;
        served.put("a", "1").await;
        watcher.next().await;
        watcher.next().await;
        assert_eq!(served.metric("etcd_debugging_mvcc_watch_stream_total"), 1.0);
        assert_eq!(served.metric("etcd_debugging_mvcc_watcher_total"), 2.0);
        assert_eq!(served.metric("etcd_debugging_mvcc_slow_watcher_total"), 0.0);
        assert_eq!(served.metric("etcd_debugging_mvcc_pending_events_total"), 0.0);
        assert_eq!(served.metric("etcd_debugging_mvcc_events_total"), 2.0);
        drop(watcher);
        let start = served.rt.mono_now();
        while served.metric("etcd_debugging_mvcc_watch_stream_total") > 0.0 {
            assert!(served.rt.mono_now() - start < Duration::from_secs(10), "the stream ends with its client");
            served.rt.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(served.metric("etcd_debugging_mvcc_watcher_total"), 0.0);
    });
}

/// 10,000 watchers on 100 streams of ten connections, on several reactors; a reader that does not read is in nobody's way.
#[test]
fn ten_thousand_watchers_are_told_in_order() {
    const CONNECTIONS: usize = 10;
    const STREAMS: usize = 10;
    const WATCHERS: usize = 100;
    const EVENTS: i64 = 20;
    with_member(plain, 3, async |served| {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = Connection::connect(&served.rt, served.address.clone()).await.unwrap();
            for _ in 0..STREAMS {
                let stream = WatchStream::open(&connection, false).await.unwrap();
                for _ in 0..WATCHERS {
                    stream.create(all());
                }
                streams.push(Watcher { served, stream });
            }
        }
        for watcher in &mut streams {
            for watch_id in 0..WATCHERS {
                watcher.expect_created(watch_id as i64, 1).await;
            }
        }
        assert_eq!(served.metric("etcd_debugging_mvcc_watcher_total"), 10_000.0);
        let mut silent = streams.pop().unwrap();
        for _ in 0..EVENTS {
            served.put("k", vec![b'x'; 1000]).await;
        }
        let read_all = async |watcher: &mut Watcher<'_>| {
            let mut next = vec![2; WATCHERS];
            while next.iter().any(|next| *next < EVENTS + 2) {
                let answer = watcher.next().await;
                for event in answer.events {
                    let revision = KeyValue::decode(event.kv).unwrap().mod_revision;
                    assert_eq!(revision, next[answer.watch_id as usize]);
                    next[answer.watch_id as usize] += 1;
                }
            }
        };
        for watcher in &mut streams {
            read_all(watcher).await;
        }
        read_all(&mut silent).await;
        assert_eq!(served.metric("etcd_debugging_mvcc_slow_watcher_total"), 0.0);
    });
}

//! The whole API over a real member on real files: what clients see, call by call.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;
use quorate_api::{Api, ApiOptions, ApiService, serve};
use quorate_client::Connection;
use quorate_member::{Member, MemberConfig};
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::{
    AlarmRequest, AlarmType, AuthStatusRequest, CompactionRequest, DeleteRangeRequest, MemberListRequest, PutRequest,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, StatusRequest, TxnRequest,
};
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::Rt;
use quorate_runtime::io::{AsyncReadExt, AsyncWriteExt};
use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime::sync::watch;
use quorate_runtime_tokio::TokioRuntime;
use quorate_types::Error;
use tonic::{Code, Status};
use tower_service::Service;

const QUOTA_BYTES: u64 = 1 << 20;

struct Served {
    rt: Rt,
    member: Member,
    address: SocketAddr,
    connection: Connection,
    shutdown: watch::Sender<bool>,
}

/// Starts a member with a small quota behind a port, gives it to `test`, and stops it.
fn with_member(change: impl FnOnce(&mut MemberConfig), test: impl AsyncFnOnce(&Served)) {
    let dir = tempfile::tempdir().unwrap();
    TokioRuntime::run(2, async |rt| {
        let mut config =
            MemberConfig::single("m1", &dir.path().join("m1.etcd"), "http://127.0.0.1:2380", "http://127.0.0.1:2379");
        config.quota_bytes = Some(QUOTA_BYTES);
        change(&mut config);
        let member = Member::start(rt.clone(), config).await.unwrap();
        member.ready().await;
        let any_port = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = rt.listen(any_port, ListenOptions::default()).await.unwrap();
        let Address::Tcp(address) = listener.local_address() else { panic!("a TCP address") };
        let (shutdown, asked) = watch::channel(false);
        let service = quorate_api::service(rt.clone(), member.clone(), ApiOptions::default());
        rt.spawn(Box::pin(serve(rt.clone(), listener, service, asked)));
        let connection = Connection::connect(&rt, Address::Tcp(address)).await.unwrap();
        let served = Served { rt, member, address, connection, shutdown };
        test(&served).await;
        served.shutdown.send_replace(true);
        served.member.stop();
        served.member.stopped().await;
    });
}

impl Served {
    fn kv(&self) -> KvClient<Connection> {
        KvClient::with_origin(self.connection.clone(), self.connection.origin()).max_decoding_message_size(64 << 20)
    }

    fn maintenance(&self) -> MaintenanceClient<Connection> {
        MaintenanceClient::with_origin(self.connection.clone(), self.connection.origin())
    }

    async fn put(&self, key: &str, value: impl Into<Bytes>) -> i64 {
        let request = PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() };
        self.kv().put(request).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn get(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.kv().range(request).await.map(tonic::Response::into_inner)
    }

    /// One HTTP/1.1 request: status line, headers in lower case, body.
    async fn http(&self, method: &str, path: &str) -> (String, String, String) {
        let mut stream = self.rt.connect(Address::Tcp(self.address)).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        (status.to_owned(), headers.to_ascii_lowercase(), body.to_owned())
    }

    fn assert_header(&self, header: Option<ResponseHeader>, revision: i64) {
        let expected = ResponseHeader {
            cluster_id: self.member.cluster_id().0,
            member_id: self.member.id().0,
            revision,
            raft_term: self.member.raft_status().term.0,
        };
        assert_eq!(header, Some(expected));
    }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, error: Error) {
    let status = result.unwrap_err();
    assert_eq!((status.code() as i32, status.message()), (error.code() as i32, error.message()));
}

fn key_values(response: &RangeResponse) -> Vec<KeyValue> {
    response.kvs.iter().map(|row| KeyValue::decode(row.clone()).unwrap()).collect()
}

fn all_keys() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

fn one(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn set(key: &'static str) -> RequestOp {
    op(Op::RequestPut(PutRequest { key: key.into(), ..Default::default() }))
}

#[test]
fn writes_and_reads_with_their_headers() {
    with_member(
        |_| {},
        async |served| {
            let mut kv = served.kv();
            let answer = kv.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await.unwrap();
            served.assert_header(answer.into_inner().header, 2);
            let answer = served.get(one("a")).await.unwrap();
            served.assert_header(answer.header, 2);
            assert_eq!((answer.count, answer.more), (1, false));
            let expected = KeyValue {
                key: "a".into(),
                value: "1".into(),
                create_revision: 2,
                mod_revision: 2,
                version: 1,
                lease: 0,
            };
            assert_eq!(key_values(&answer), [expected]);

            let request = TxnRequest { success: vec![set("b"), set("c")], ..Default::default() };
            let answer = kv.txn(request).await.unwrap().into_inner();
            served.assert_header(answer.header, 3);
            assert!(answer.succeeded);
            // A transaction that only reads makes no revision.
            let request = TxnRequest { success: vec![op(Op::RequestRange(all_keys()))], ..Default::default() };
            let answer = kv.txn(request).await.unwrap().into_inner();
            served.assert_header(answer.header, 3);

            let request = DeleteRangeRequest { key: "b".into(), range_end: "z".into(), prev_kv: true };
            let answer = kv.delete_range(request).await.unwrap().into_inner();
            served.assert_header(answer.header, 4);
            assert_eq!((answer.deleted, answer.prev_kvs.len()), (2, 2));

            let answer = kv.compact(CompactionRequest { revision: 3, physical: true }).await.unwrap().into_inner();
            served.assert_header(answer.header, 4);
        },
    );
}

#[test]
fn bad_requests_get_etcds_errors_and_change_nothing() {
    with_member(
        |_| {},
        async |served| {
            served.put("k", "1").await;
            served.put("k", "2").await;
            let mut kv = served.kv();
            kv.compact(CompactionRequest { revision: 3, physical: false }).await.unwrap();

            assert_refused(served.get(one("")).await, Error::EmptyKey);
            assert_refused(served.get(RangeRequest { revision: 2, ..one("k") }).await, Error::Compacted);
            assert_refused(served.get(RangeRequest { revision: 4, ..one("k") }).await, Error::FutureRev);
            assert_refused(served.get(RangeRequest { sort_target: 9, ..one("k") }).await, Error::InvalidSortOption);
            let put = |change: fn(&mut PutRequest)| {
                let mut request = PutRequest { key: "k".into(), ..Default::default() };
                change(&mut request);
                request
            };
            assert_refused(kv.put(PutRequest::default()).await, Error::EmptyKey);
            assert_refused(kv.put(put(|put| put.lease = 99)).await, Error::LeaseNotFound);
            let absent = put(|put| (put.key, put.ignore_value) = ("absent".into(), true));
            assert_refused(kv.put(absent).await, Error::KeyNotFound);
            assert_refused(kv.delete_range(DeleteRangeRequest::default()).await, Error::EmptyKey);
            let twice = TxnRequest { success: vec![set("k"), set("k")], ..Default::default() };
            assert_refused(kv.txn(twice).await, Error::DuplicateKey);
            let many = TxnRequest { failure: vec![op(Op::RequestRange(one("k"))); 129], ..Default::default() };
            assert_refused(kv.txn(many).await, Error::TooManyOps);
            let late = RangeRequest { revision: 99, ..one("k") };
            let late = TxnRequest { success: vec![op(Op::RequestRange(late)), set("x")], ..Default::default() };
            assert_refused(kv.txn(late).await, Error::FutureRev);
            assert_refused(kv.compact(CompactionRequest { revision: 3, physical: false }).await, Error::Compacted);
            assert_refused(kv.compact(CompactionRequest { revision: 9, physical: true }).await, Error::FutureRev);

            let answer = served.get(all_keys()).await.unwrap();
            served.assert_header(answer.header, 3);
            assert_eq!(answer.count, 1);
        },
    );
}

#[test]
fn requests_beyond_the_limits_are_refused_by_two_gates() {
    with_member(
        |config| (config.max_request_bytes, config.quota_bytes) = (100_000, Some(1 << 30)),
        async |served| {
            let put =
                |bytes: usize| PutRequest { key: "k".into(), value: vec![b'x'; bytes].into(), ..Default::default() };
            let mut kv = served.kv();
            kv.put(put(99_900)).await.unwrap();
            assert_refused(kv.put(put(100_000)).await, Error::RequestTooLarge);
            assert_refused(kv.put(put(624_280)).await, Error::RequestTooLarge);
            let status = kv.put(put(700_000)).await.unwrap_err();
            let expected = "grpc: received message larger than max (700007 vs. 624288)";
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, expected));
            // The connection lives on.
            served.assert_header(kv.put(put(1)).await.unwrap().into_inner().header, 3);
        },
    );
}

#[test]
fn a_full_database_raises_the_alarm_and_says_so_everywhere() {
    with_member(
        |_| {},
        async |served| {
            let mut kv = served.kv();
            let mut maintenance = served.maintenance();
            for number in 0..9 {
                served.put(&format!("k{number}"), vec![b'x'; 100_000]).await;
            }
            let big = PutRequest { key: "big".into(), value: vec![b'x'; 200_000].into(), ..Default::default() };
            assert_refused(kv.put(big.clone()).await, Error::NoSpace);
            // The quota is looked at first.
            assert_refused(kv.put(PutRequest { key: Bytes::new(), ..big }).await, Error::NoSpace);
            // By the alarm, also what would fit.
            assert_refused(kv.put(PutRequest { key: "s".into(), ..Default::default() }).await, Error::NoSpace);
            served.get(one("k1")).await.unwrap();
            kv.delete_range(DeleteRangeRequest { key: "k1".into(), ..Default::default() }).await.unwrap();

            let id = served.member.id().0;
            let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
            assert_eq!(status.errors, [format!("memberID:{id} alarm:NOSPACE")]);
            let (line, headers, body) = served.http("GET", "/health").await;
            assert_eq!(line, "HTTP/1.1 503 Service Unavailable");
            assert!(headers.contains("x-content-type-options: nosniff"), "{headers}");
            assert_eq!(body, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n");
            let (line, _, body) = served.http("GET", "/health?exclude=NOSPACE").await;
            assert_eq!((&*line, &*body), ("HTTP/1.1 200 OK", r#"{"health":"true","reason":""}"#));

            let alarm = |action: AlarmAction, member_id, alarm: AlarmType| AlarmRequest {
                action: action as i32,
                member_id,
                alarm: alarm as i32,
            };
            let listed = maintenance.alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await.unwrap().into_inner();
            served.assert_header(listed.header, 11);
            assert_eq!(listed.alarms.len(), 1);
            assert_eq!((listed.alarms[0].member_id, listed.alarms[0].alarm()), (id, AlarmType::Nospace));
            maintenance.alarm(alarm(AlarmAction::Deactivate, id, AlarmType::Nospace)).await.unwrap();
            kv.put(PutRequest { key: "s".into(), ..Default::default() }).await.unwrap();
            let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
            assert!(status.errors.is_empty(), "{:?}", status.errors);
        },
    );
}

#[test]
fn a_streamed_range_adds_up_to_the_range() {
    with_member(
        |config| (config.max_request_bytes, config.quota_bytes) = (10_000, Some(1 << 30)),
        async |served| {
            for number in 0..500 {
                served.put(&format!("k{number:04}"), vec![b'x'; 100]).await;
            }
            served.put("l", "after the prefix").await;
            let prefix = RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
            let requests = [
                prefix.clone(),
                all_keys(),
                one("k0007"),
                one("absent"),
                RangeRequest { limit: 7, ..prefix.clone() },
                RangeRequest { limit: 77, keys_only: true, ..prefix.clone() },
                RangeRequest { limit: 500, ..prefix.clone() },
                RangeRequest { limit: 501, ..prefix.clone() },
                RangeRequest { revision: 100, ..prefix.clone() },
                RangeRequest { revision: 100, limit: 20, serializable: true, ..prefix.clone() },
                RangeRequest { count_only: true, ..prefix.clone() },
            ];
            for request in requests {
                let whole = served.get(request.clone()).await.unwrap();
                let mut stream = served.kv().range_stream(request.clone()).await.unwrap().into_inner();
                let mut joined = RangeResponse::default();
                let mut pieces = 0;
                while let Some(piece) = stream.message().await.unwrap() {
                    let piece = piece.range_response.unwrap();
                    assert_eq!(joined.header, None, "only the last piece has a header");
                    if pieces == 0 {
                        assert!(piece.kvs.len() <= 10, "the first piece is small");
                    }
                    pieces += 1;
                    joined.kvs.extend(piece.kvs);
                    (joined.header, joined.count, joined.more) = (piece.header, piece.count, piece.more);
                }
                assert_eq!(joined, whole, "{request:?}");
                assert_eq!(pieces > 1, whole.kvs.len() > 10, "{request:?}");
            }
            let descending = RangeRequest { sort_order: 2, ..prefix.clone() };
            let status = served.kv().range_stream(descending).await.unwrap_err();
            let expected = "RangeStream does not support custom sort orders";
            assert_eq!((status.code(), status.message()), (Code::Unimplemented, expected));
            let future = RangeRequest { revision: 10_000, ..prefix };
            let mut stream = served.kv().range_stream(future).await.unwrap().into_inner();
            assert_refused(stream.message().await, Error::FutureRev);
        },
    );
}

#[test]
fn status_and_members() {
    with_member(
        |_| {},
        async |served| {
            served.put("k", "v").await;
            let status = served.maintenance().status(StatusRequest {}).await.unwrap().into_inner();
            let id = served.member.id().0;
            served.assert_header(status.header, 2);
            assert_eq!((&*status.version, status.leader, status.is_learner), ("3.7.1", id, false));
            assert_eq!(status.raft_term, served.member.raft_status().term.0);
            assert!(status.raft_index >= 3 && status.raft_applied_index >= 3, "{status:?}");
            assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0, "{status:?}");
            assert_eq!(status.db_size_quota, QUOTA_BYTES as i64);
            assert_eq!((status.errors.len(), status.downgrade_info.unwrap().enabled), (0, false));

            let mut cluster = ClusterClient::with_origin(served.connection.clone(), served.connection.origin());
            let list = cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
            served.assert_header(list.header, 0);
            let [member] = &list.members[..] else { panic!("one member: {:?}", list.members) };
            assert_eq!((member.id, &*member.name, member.is_learner), (id, "m1", false));
            assert_eq!(member.peer_ur_ls, ["http://127.0.0.1:2380"]);
            assert_eq!(member.client_ur_ls, ["http://127.0.0.1:2379"]);
        },
    );
}

#[test]
fn what_is_not_there_yet_is_unimplemented() {
    with_member(
        |_| {},
        async |served| {
            let mut auth = AuthClient::with_origin(served.connection.clone(), served.connection.origin());
            let status = auth.auth_status(AuthStatusRequest {}).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::Unimplemented, "unknown service etcdserverpb.Auth"));
        },
    );
}

#[test]
fn plain_http() {
    with_member(
        |_| {},
        async |served| {
            served.put("k", "v").await;
            let (line, headers, body) = served.http("GET", "/version").await;
            assert_eq!(line, "HTTP/1.1 200 OK");
            assert!(headers.contains("content-type: application/json"), "{headers}");
            let cluster = served.member.view().cluster_version().map(str::to_owned);
            let (cluster, storage) = cluster.as_deref().map_or(("not_decided", "unknown"), |found| (found, found));
            let expected = format!(r#"{{"etcdserver":"3.7.1","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
            assert_eq!(body, expected);

            for path in ["/health", "/health?serializable=true"] {
                let (line, headers, body) = served.http("GET", path).await;
                assert_eq!((&*line, &*body), ("HTTP/1.1 200 OK", r#"{"health":"true","reason":""}"#));
                assert!(headers.contains("content-type: text/plain; charset=utf-8"), "{headers}");
            }
            for path in ["/version", "/health"] {
                let (line, headers, body) = served.http("POST", path).await;
                assert_eq!((&*line, &*body), ("HTTP/1.1 405 Method Not Allowed", "Method Not Allowed\n"));
                assert!(headers.contains("allow: get"), "{headers}");
            }
            let (line, headers, body) = served.http("GET", "/nothing").await;
            assert_eq!((&*line, &*body), ("HTTP/1.1 404 Not Found", "404 page not found\n"));
            assert!(headers.contains("content-type: text/plain; charset=utf-8"), "{headers}");

            let (line, headers, body) = served.http("GET", "/metrics").await;
            assert_eq!(line, "HTTP/1.1 200 OK");
            assert!(headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{headers}");
            let put = r#"{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
            for expected in [
                &*format!("grpc_server_handled_total{put} 1\n"),
                "etcd_server_has_leader 1\n",
                "etcd_server_health_success 2\n",
                "etcd_server_health_failures 0\n",
            ] {
                assert!(body.contains(expected), "{expected} in {body}");
            }
        },
    );
}

/// A Range as one HTTP request, straight into the service.
async fn call(
    service: &mut ApiService,
    request: &RangeRequest,
    headers: &[(&str, &[u8])],
) -> Result<RangeResponse, Status> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(request.encoded_len() as u32);
    request.encode(&mut framed).unwrap();
    let mut http = http::Request::post("/etcdserverpb.KV/Range").header("content-type", "application/grpc");
    for (name, value) in headers {
        http = http.header(*name, http::HeaderValue::from_bytes(value).unwrap());
    }
    let response = service.call(http.body(Full::new(framed.freeze())).unwrap()).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Err(status);
    }
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    Ok(RangeResponse::decode(body.to_bytes().slice(5..)).unwrap())
}

#[test]
fn request_metadata() {
    with_member(
        |_| {},
        async |served| {
            let api = Api::new(served.rt.clone(), served.member.clone(), ApiOptions::default());
            let mut service = ApiService::new(api);
            let request = one("k");
            let good: [&[(&str, &[u8])]; 3] =
                [&[], &[("hasleader", b"true")], &[("client-api-version", "3.7.ü".as_bytes())]];
            for headers in good {
                assert_eq!(call(&mut service, &request, headers).await.unwrap().count, 0);
            }
            let bad_version: &[(&str, &[u8])] = &[("client-api-version", b"\xff")];
            assert_refused(call(&mut service, &request, bad_version).await, Error::InvalidClientApiVersion);
            let status = call(&mut service, &request, &[("grpc-encoding", b"gzip")]).await.unwrap_err();
            let expected = "grpc: Decompressor is not installed for grpc-encoding \"gzip\"";
            assert_eq!((status.code(), status.message()), (Code::Unimplemented, expected));
        },
    );
}

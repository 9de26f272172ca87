//! Transports of several members over real sockets on this machine.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use prost::Message as _;
use quorate_http::{HyperStream, Timer};
use quorate_proto::raftpb::{self, MessageType};
use quorate_raft::transport::{
    Full as QueueFull, Inbox, READ_LIMIT, ReceivedSnapshot, SnapshotBody, Transport, TransportConfig, TransportLimits,
    WriteLimit, remove_unfinished,
};
use quorate_runtime::clock::timeout;
use quorate_runtime::disk::read_file;
use quorate_runtime::io::{AsyncReadExt as _, AsyncWriteExt as _};
use quorate_runtime::net::{Address, BoxStream, ListenOptions};
use quorate_runtime::sync::{Notify, watch};
use quorate_runtime::{BoxFuture, Rt, select};
use quorate_runtime_tokio::TokioRuntime;
use quorate_types::{ClusterId, MemberId};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const CLUSTER: ClusterId = ClusterId(0x2d02_5cca_6233_67cb);

/// What a member was told.
#[derive(Default)]
struct Told {
    messages: Vec<raftpb::Message>,
    snapshots: Vec<ReceivedSnapshot>,
    unreachable: Vec<MemberId>,
    sent: Vec<(MemberId, bool)>,
    removed_by: Vec<MemberId>,
}

#[derive(Default)]
struct Recorder {
    told: Mutex<Told>,
    changed: Notify,
    removed: Mutex<BTreeSet<MemberId>>,
    is_full: std::sync::atomic::AtomicBool,
}

impl Recorder {
    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap());
        self.changed.notify_waiters();
    }
}

impl Inbox for Recorder {
    fn deliver(&self, message: raftpb::Message) -> Result<(), QueueFull> {
        if self.is_full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(QueueFull);
        }
        self.tell(|told| told.messages.push(message));
        Ok(())
    }

    fn deliver_snapshot(&self, received: ReceivedSnapshot) -> BoxFuture<'static, Result<(), String>> {
        self.tell(|told| told.snapshots.push(received));
        Box::pin(async { Ok(()) })
    }

    fn unreachable(&self, peer: MemberId) {
        self.tell(|told| told.unreachable.push(peer));
    }

    fn snapshot_sent(&self, peer: MemberId, ok: bool) {
        self.tell(|told| told.sent.push((peer, ok)));
    }

    fn removed(&self, by: MemberId) {
        self.tell(|told| told.removed_by.push(by));
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.removed.lock().unwrap().contains(&id)
    }
}

/// A listener, a transport, and what it was told.
struct Member {
    rt: Rt,
    id: MemberId,
    url: String,
    recorder: Arc<Recorder>,
    transport: Arc<Transport>,
    dir: tempfile::TempDir,
    /// Dropped: the listener closes and its connections are cut.
    serving: Option<watch::Sender<()>>,
}

impl Member {
    async fn start(rt: &Rt, id: u64) -> Member {
        Self::start_in(rt, id, CLUSTER).await
    }

    async fn start_in(rt: &Rt, id: u64, cluster_id: ClusterId) -> Member {
        let id = MemberId(id);
        let dir = tempfile::tempdir().unwrap();
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        let url = format!("http://{}", listener.local_address());
        drop(listener);
        let recorder = Arc::new(Recorder::default());
        let config = TransportConfig {
            id,
            cluster_id,
            peer_urls: vec![url.clone()],
            server_version: "3.7.1",
            election_timeout: Duration::from_secs(1),
            snapshot_dir: dir.path().join("snap"),
            limits: TransportLimits::default(),
        };
        let transport = Transport::new(rt.clone(), config, recorder.clone());
        let mut member = Member { rt: rt.clone(), id, url, recorder, transport, dir, serving: None };
        member.serve().await;
        member
    }

    /// Listens (again) where it always does.
    async fn serve(&mut self) {
        let address = Address::Tcp(self.url.strip_prefix("http://").unwrap().parse().unwrap());
        let mut listener = self.rt.listen(address, ListenOptions::default()).await.unwrap();
        let (serving, serves) = watch::channel(());
        self.serving = Some(serving);
        let (rt, transport) = (self.rt.clone(), self.transport.clone());
        self.rt.spawn(Box::pin(async move {
            let mut ends = serves.clone();
            loop {
                let incoming = select! {
                    _ = ends.changed() => return,
                    incoming = listener.accept() => incoming.unwrap(),
                };
                let stream = incoming.into_stream().unwrap();
                rt.spawn(Box::pin(serve_connection(rt.clone(), stream, transport.clone(), serves.clone())));
            }
        }));
    }

    fn knows(&self, other: &Member) {
        self.transport.add_peer(other.id, vec![other.url.clone()]);
    }

    /// Waits until what the member was told satisfies `wanted`.
    async fn until<T>(&self, what: &str, mut wanted: impl FnMut(&mut Told) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.recorder.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = wanted(&mut self.recorder.told.lock().unwrap()) {
                    return found;
                }
                changed.await;
            }
        };
        timeout(&*self.rt, PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{} was never told: {what}", self.id))
    }

    /// Waits until `peer` reads both our streams.
    async fn until_read_by(&self, peer: &Member) {
        self.until_status(|status| status.get(&peer.id).is_some_and(|peer| peer.reads_messages && peer.reads_appends))
            .await;
    }

    async fn until_status(
        &self,
        wanted: impl Fn(&std::collections::BTreeMap<MemberId, quorate_raft::transport::PeerStatus>) -> bool,
    ) {
        let waiting = async {
            while !wanted(&self.transport.status()) {
                self.rt.sleep(Duration::from_millis(5)).await;
            }
        };
        let result = timeout(&*self.rt, PATIENCE, waiting).await;
        assert!(result.is_ok(), "{} has {:?}", self.id, self.transport.status());
    }

    fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.recorder.told.lock().unwrap())
    }
}

async fn serve_connection(rt: Rt, stream: BoxStream, transport: Arc<Transport>, mut ends: watch::Receiver<()>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let transport = transport.clone();
        async move { Ok::<_, std::convert::Infallible>(transport.handle(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(Timer::new(rt.clone()))
        .header_read_timeout(READ_LIMIT)
        .auto_date_header(false)
        .serve_connection(HyperStream::new(WriteLimit::new(rt, stream)), service);
    select! {
        _ = connection => {}
        _ = ends.changed() => {}
    }
}

fn heartbeat(from: &Member, to: &Member, commit: u64) -> raftpb::Message {
    raftpb::Message {
        r#type: Some(MessageType::MsgHeartbeat as i32),
        from: Some(from.id.0),
        to: Some(to.id.0),
        term: Some(2),
        commit: Some(commit),
        ..Default::default()
    }
}

fn append(from: &Member, to: &Member, index: u64, data: &Bytes) -> raftpb::Message {
    let entry = raftpb::Entry { r#type: None, term: Some(2), index: Some(index + 1), data: Some(data.clone()) };
    raftpb::Message {
        r#type: Some(MessageType::MsgApp as i32),
        log_term: Some(2),
        index: Some(index),
        entries: vec![entry],
        ..heartbeat(from, to, index)
    }
}

fn snapshot(from: &Member, to: &Member, index: u64) -> raftpb::Message {
    let conf_state = raftpb::ConfState { voters: vec![from.id.0, to.id.0], ..Default::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(conf_state), index: Some(index), term: Some(2) };
    raftpb::Message {
        r#type: Some(MessageType::MsgSnap as i32),
        commit: None,
        snapshot: Some(raftpb::Snapshot { data: Some(Bytes::from_static(b"{}")), metadata: Some(metadata) }),
        ..heartbeat(from, to, 0)
    }
}

async fn pair(rt: &Rt) -> (Member, Member) {
    let (one, two) = (Member::start(rt, 1).await, Member::start(rt, 0xabc).await);
    one.knows(&two);
    two.knows(&one);
    one.until_read_by(&two).await;
    two.until_read_by(&one).await;
    (one, two)
}

#[test]
fn messages_of_both_streams_arrive_in_order_and_whole() {
    TokioRuntime::run(2, |rt| async move {
        let (one, two) = pair(&rt).await;
        let data = Bytes::from(vec![7; 1000]);
        let appends: Vec<_> = (1..=3000).map(|index| append(&one, &two, index, &data)).collect();
        let answers: Vec<_> = (1..=3000).map(|commit| heartbeat(&two, &one, commit)).collect();
        for (appends, answers) in appends.chunks(100).zip(answers.chunks(100)) {
            one.transport.send(appends.to_vec());
            two.transport.send(answers.to_vec());
        }
        let arrived = two.until("3000 appends", |told| {
            (told.messages.len() >= appends.len()).then(|| std::mem::take(&mut told.messages))
        });
        assert_eq!(arrived.await, appends);
        let arrived = one.until("3000 heartbeats", |told| {
            (told.messages.len() >= answers.len()).then(|| std::mem::take(&mut told.messages))
        });
        assert_eq!(arrived.await, answers);
        assert!(one.transport.active_since(two.id).is_some());
        let status = &one.transport.status()[&two.id];
        assert!(status.sent_bytes > 3_000_000 && status.received_bytes > 30_000, "{status:?}");
        assert_eq!((one.told(|told| told.unreachable.len()), two.told(|told| told.unreachable.len())), (0, 0));
    });
}

#[test]
fn a_large_entry_arrives_whole() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let data: Bytes = (0..20_000_000u32).map(|at| (at % 251) as u8).collect();
        let message = append(&one, &two, 5, &data);
        one.transport.send(vec![message.clone()]);
        let arrived = two.until("the entry", |told| told.messages.pop()).await;
        assert!(arrived == message);
    });
}

#[test]
fn nobody_and_strangers_get_nothing() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let to = |id| raftpb::Message { to: id, ..heartbeat(&one, &two, 1) };
        one.transport.send(vec![to(None), to(Some(0)), to(Some(99)), to(Some(two.id.0))]);
        two.until("its heartbeat", |told| told.messages.pop()).await;
        one.transport
            .send_snapshot(raftpb::Message { to: Some(99), ..snapshot(&one, &two, 1) }, Box::new(Chunks(vec![])));
        assert_eq!(one.told(|told| (told.unreachable.len(), told.sent.clone())), (0, vec![(MemberId(99), false)]));
    });
}

#[test]
fn a_member_that_is_known_one_way_is_answered_by_post() {
    TokioRuntime::run(1, |rt| async move {
        let (leader, joiner) = (Member::start(&rt, 1).await, Member::start(&rt, 2).await);
        // The joiner knows nobody: its answers to the leader's dials are 404, and the leader posts.
        leader.knows(&joiner);
        let sent = append(&leader, &joiner, 7, &Bytes::from_static(b"data"));
        leader.transport.send(vec![sent.clone()]);
        assert_eq!(joiner.until("the post", |told| told.messages.pop()).await, sent);
        let status = joiner.transport.status();
        assert!(!status[&leader.id].is_member);
        assert_eq!(joiner.transport.active_since(leader.id), None);
        let answers: Vec<_> = (1..=20).map(|commit| heartbeat(&joiner, &leader, commit)).collect();
        joiner.transport.send(answers.clone());
        let arrived =
            leader.until("20 answers", |told| (told.messages.len() == 20).then(|| std::mem::take(&mut told.messages)));
        let mut arrived = arrived.await;
        // Posts may overtake each other.
        arrived.sort_by_key(raftpb::Message::commit);
        assert_eq!(arrived, answers);

        // Then it learns who the leader is, and streams take over.
        joiner.knows(&leader);
        joiner.until_read_by(&leader).await;
        leader.until_read_by(&joiner).await;
        assert!(joiner.transport.status()[&leader.id].is_member);
        joiner.transport.send(vec![answers[0].clone()]);
        leader.until("an answer by stream", |told| told.messages.pop()).await;
    });
}

#[test]
fn a_peer_whose_listener_died_is_reported_and_found_again() {
    TokioRuntime::run(1, |rt| async move {
        let (one, mut two) = pair(&rt).await;
        two.serving = None;
        // Its own dials live on; those to it broke, and what it reads goes with them: it dials from another side.
        one.until_status(|status| status[&two.id].active_since.is_none()).await;
        assert!(one.told(|told| told.unreachable.is_empty()), "nothing was lost");
        two.transport.stop();
        one.until_status(|status| !status[&two.id].reads_messages).await;
        one.transport.send(vec![heartbeat(&one, &two, 1)]);
        one.until_status(|status| status[&two.id].send_failures == 1).await;
        assert!(one.told(|told| told.unreachable.contains(&two.id)));

        let again = TransportConfig {
            id: two.id,
            cluster_id: CLUSTER,
            peer_urls: vec![two.url.clone()],
            server_version: "3.7.1",
            election_timeout: Duration::from_secs(1),
            snapshot_dir: two.dir.path().to_path_buf(),
            limits: TransportLimits::default(),
        };
        two.transport = Transport::new(rt.clone(), again, two.recorder.clone());
        two.serve().await;
        two.knows(&one);
        one.until_read_by(&two).await;
        one.transport.send(vec![heartbeat(&one, &two, 2)]);
        let arrived = two.until("a heartbeat", |told| told.messages.pop()).await;
        assert_eq!(arrived.commit(), 2);
        one.until_status(|status| status[&two.id].active_since.is_some() && status[&two.id].disconnects > 0).await;
    });
}

/// A request as etcd 3.7 sends it, with changes.
fn request(method: Method, path: &str, from: &Member, to: &Member, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "peer")
        .header("X-Server-From", from.id.to_string())
        .header("X-Server-Version", "3.7.1")
        .header("X-Min-Cluster-Version", "3.0.0")
        .header("X-Etcd-Cluster-Id", CLUSTER.to_string())
        .header("X-Peerurls", &from.url)
        .header("X-Raft-To", to.id.to_string())
        .body(Full::new(body.into()))
        .unwrap()
}

async fn dial(rt: &Rt, to: &Member) -> BoxStream {
    rt.connect(Address::Tcp(to.url.strip_prefix("http://").unwrap().parse().unwrap())).await.unwrap()
}

async fn ask(rt: &Rt, to: &Member, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(HyperStream::new(dial(rt, to).await)).await.unwrap();
    rt.spawn(Box::pin(async move {
        let _ = connection.await;
    }));
    let answer = timeout(&**rt, PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    // The connection lives as long as its sender.
    let (head, body) = answer.into_parts();
    let rt = rt.clone();
    let held = rt.clone();
    rt.spawn(Box::pin(async move {
        held.sleep(PATIENCE).await;
        drop(sender);
    }));
    Response::from_parts(head, body)
}

async fn text(answer: Response<Incoming>) -> (StatusCode, HeaderMap, String) {
    let (head, body) = answer.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (head.status, head.headers, text)
}

#[test]
fn streams_are_checked_in_etcds_order() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let stranger = Member::start(&rt, 3).await;
        let gone = Member::start(&rt, 4).await;
        one.recorder.removed.lock().unwrap().insert(gone.id);
        let own = "/raft/stream/message/abc";
        let get = |path: &str, change: &dyn Fn(&mut HeaderMap)| {
            let mut request = request(Method::GET, path, &two, &one, "");
            change(request.headers_mut());
            request
        };
        let set = |name: &'static str, value: &'static str| {
            move |headers: &mut HeaderMap| {
                headers.insert(name, value.parse().unwrap());
            }
        };
        let unset = |name: &'static str| {
            move |headers: &mut HeaderMap| {
                headers.remove(name);
            }
        };
        let unchanged = |_: &mut HeaderMap| {};
        for (request, status, body) in [
            (get(own, &set("x-server-version", "2.3.8")), 412, "incompatible version\n"),
            (get(own, &unset("x-server-version")), 412, "incompatible version\n"),
            (get(own, &set("x-server-version", "new")), 412, "incompatible version\n"),
            (get(own, &set("x-min-cluster-version", "3.8.0")), 412, "incompatible version\n"),
            (get(own, &set("x-etcd-cluster-id", "1")), 412, "cluster ID mismatch\n"),
            (get(own, &unset("x-etcd-cluster-id")), 412, "cluster ID mismatch\n"),
            (get("/raft/stream/nothing/abc", &unchanged), 404, "invalid path\n"),
            (get("/raft/stream/message/a/bc", &unchanged), 404, "invalid path\n"),
            (get("/raft/stream/message/xyz", &unchanged), 404, "invalid from\n"),
            (get("/raft/stream/msgapp/4", &unchanged), 410, "removed member\n"),
            (get("/raft/stream/msgapp/3", &unset("x-peerurls")), 404, "error sender not found\n"),
            (get(own, &set("x-raft-to", "2")), 412, "to field mismatch\n"),
            (get(own, &unset("x-raft-to")), 412, "to field mismatch\n"),
        ] {
            let (got, headers, text) = text(ask(&rt, &one, request).await).await;
            assert_eq!((got.as_u16(), text.as_str()), (status, body));
            assert_eq!(headers["x-server-version"], "3.7.1");
            assert_eq!(headers["x-etcd-cluster-id"], "2d025cca623367cb");
            assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        }
        let (status, headers, body) = text(ask(&rt, &one, request(Method::POST, own, &two, &one, "")).await).await;
        assert_eq!((status.as_u16(), headers["allow"].as_bytes(), &*body), (405, &b"GET"[..], "Method Not Allowed\n"));
        assert!(headers.get("x-server-version").is_none());
        // A newer release that still works with 3.0 is welcome.
        let newer = ask(&rt, &one, get(own, &set("x-server-version", "3.9.0"))).await;
        assert_eq!(
            (newer.status(), newer.headers()["transfer-encoding"].as_bytes()),
            (StatusCode::OK, &b"chunked"[..])
        );
        drop(stranger);
    });
}

#[test]
fn posts_are_checked_and_refused_as_etcd_does() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let post = |message: &raftpb::Message| request(Method::POST, "/raft", &two, &one, message.encode_to_vec());
        let good = heartbeat(&two, &one, 1);
        let (status, headers, body) = text(ask(&rt, &one, post(&good)).await).await;
        assert_eq!((status, body.as_str()), (StatusCode::NO_CONTENT, ""));
        assert_eq!(headers["x-etcd-cluster-id"], "2d025cca623367cb");
        assert!(headers.get("x-server-version").is_none());
        assert_eq!(one.until("the message", |told| told.messages.pop()).await, good);

        one.recorder.removed.lock().unwrap().insert(MemberId(9));
        let other_cluster = {
            let mut request = post(&good);
            request.headers_mut().insert("x-etcd-cluster-id", "2d025cca623367c".parse().unwrap());
            request
        };
        for (request, status, body) in [
            (other_cluster, 412, "cluster ID mismatch\n"),
            (request(Method::POST, "/raft", &two, &one, "\x0b"), 400, "error unmarshalling raft message\n"),
            (post(&raftpb::Message { from: Some(9), ..good.clone() }), 500, "error processing raft message\n"),
            (post(&raftpb::Message { to: Some(9), ..good.clone() }), 500, "error processing raft message\n"),
            (post(&snapshot(&two, &one, 3)), 500, "error processing raft message\n"),
            (request(Method::GET, "/raft", &two, &one, ""), 405, "Method Not Allowed\n"),
            (request(Method::GET, "/raft/snapshot", &two, &one, ""), 405, "Method Not Allowed\n"),
            (request(Method::GET, "/raft/else", &two, &one, ""), 404, "404 page not found\n"),
        ] {
            let (got, _, text) = text(ask(&rt, &one, request).await).await;
            assert_eq!((got.as_u16(), text.as_str()), (status, body));
        }
        // What only a member itself may say to its Raft is taken, and goes nowhere.
        let (status, ..) = text(ask(&rt, &one, post(&raftpb::Message { r#type: Some(0), ..good.clone() })).await).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert!(one.told(|told| told.messages.is_empty()));
        one.recorder.is_full.store(true, std::sync::atomic::Ordering::Relaxed);
        let (status, ..) = text(ask(&rt, &one, post(&good)).await).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    });
}

#[test]
fn probing_tells_the_time() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let (status, headers, body) =
            text(ask(&rt, &one, request(Method::GET, "/raft/probing", &two, &one, "")).await).await;
        assert_eq!((status, headers["content-type"].as_bytes()), (StatusCode::OK, &b"text/plain; charset=utf-8"[..]));
        assert!(body.starts_with("{\"OK\":true,\"Now\":\"2") && body.ends_with("Z\"}\n"), "{body}");
        one.until_status(|status| status[&two.id].probe_ok).await;
        let status = &one.transport.status()[&two.id];
        assert!(status.round_trip.is_some_and(|time| time < Duration::from_secs(5)), "{status:?}");
        assert!(status.clock_difference_ns.is_some_and(|difference| difference.abs() < 1_000_000_000), "{status:?}");
    });
}

#[test]
fn a_second_stream_of_a_kind_replaces_the_first() {
    TokioRuntime::run(1, |rt| async move {
        // Two is known to one, but reads nothing by itself.
        let (one, two) = (Member::start(&rt, 1).await, Member::start(&rt, 0xabc).await);
        one.knows(&two);
        let get = || request(Method::GET, "/raft/stream/message/abc", &two, &one, "");
        let mut first = ask(&rt, &one, get()).await.into_body();
        one.transport.send(vec![heartbeat(&one, &two, 1)]);
        let frame = first.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(raftpb::Message::decode(frame.slice(8..)).unwrap().commit(), 1);
        assert_eq!(frame[..8], (frame.len() as u64 - 8).to_be_bytes());

        let mut second = ask(&rt, &one, get()).await.into_body();
        assert!(first.frame().await.is_none(), "the first ends as it should");
        one.transport.send(vec![heartbeat(&one, &two, 2)]);
        let frame = second.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(raftpb::Message::decode(frame.slice(8..)).unwrap().commit(), 2);
        let quiet = second.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&quiet[..], [0, 0, 0, 0, 0, 0, 0, 2, 8, 8]);

        one.transport.remove_peer(two.id);
        assert!(second.frame().await.is_none());
        let (status, _, body) = text(ask(&rt, &one, get()).await).await;
        assert_eq!((status, body.as_str()), (StatusCode::NOT_FOUND, "error sender not found\n"));
    });
}

#[test]
fn a_removed_member_is_told_so() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        one.recorder.removed.lock().unwrap().insert(two.id);
        one.transport.remove_peer(two.id);
        assert_eq!(two.until("that it was removed", |told| told.removed_by.pop()).await, one.id);
        assert!(one.told(|told| told.removed_by.is_empty()));
    });
}

#[test]
fn members_of_two_clusters_do_not_talk() {
    TokioRuntime::run(1, |rt| async move {
        let one = Member::start(&rt, 1).await;
        let other = Member::start_in(&rt, 2, ClusterId(7)).await;
        one.knows(&other);
        other.knows(&one);
        one.transport.send(vec![heartbeat(&one, &other, 1)]);
        assert_eq!(one.until("that the message was lost", |told| told.unreachable.pop()).await, other.id);
        rt.sleep(Duration::from_millis(300)).await;
        assert!(!one.transport.status()[&other.id].reads_messages);
        assert!(other.told(|told| told.messages.is_empty()));
    });
}

#[test]
fn a_stream_of_garbage_ends_and_is_dialed_again() {
    TokioRuntime::run(1, |rt| async move {
        let one = Member::start(&rt, 1).await;
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        one.transport.add_peer(MemberId(5), vec![format!("http://{}", listener.local_address())]);
        let mut dials = Vec::new();
        while dials.len() < 6 {
            let mut stream = timeout(&*rt, PATIENCE, listener.accept()).await.unwrap().unwrap().into_stream().unwrap();
            dials.push(rt.mono_now());
            rt.spawn(Box::pin(async move {
                let mut head = [0; 2000];
                let _ = stream.read(&mut head).await;
                let answer = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
                // A frame of more bytes than there are.
                let _ = stream.write_all(b"9\r\n\x02\xff\xff\xff\xff\xff\xff\xff\xff\r\n").await;
                let _ = stream.read(&mut head).await;
            }));
        }
        // Two streams, three dials each: at least two pauses.
        assert!(dials[5].since(dials[0]) >= Duration::from_millis(190));
        assert!(one.told(|told| told.messages.is_empty()));
    });
}

#[test]
fn a_silent_stream_is_given_up_and_dialed_again() {
    TokioRuntime::run(1, |rt| async move {
        let one = Member::start(&rt, 1).await;
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        one.transport.add_peer(MemberId(5), vec![format!("http://{}", listener.local_address())]);
        let mut held = Vec::new();
        let mut accepted_at = Vec::new();
        // Both streams, each twice (and a probe).
        while accepted_at.len() < 5 {
            let mut stream = timeout(&*rt, PATIENCE, listener.accept()).await.unwrap().unwrap().into_stream().unwrap();
            accepted_at.push(rt.mono_now());
            let answer = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            held.push(stream);
        }
        let again_after = accepted_at[3].since(accepted_at[0]);
        assert!(again_after >= READ_LIMIT && again_after < 2 * READ_LIMIT, "{again_after:?}");
        assert!(one.transport.status()[&MemberId(5)].disconnects > 0);
    });
}

#[test]
fn a_peer_that_reads_nothing_costs_bounded_memory_and_is_reported() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = (Member::start(&rt, 1).await, Member::start(&rt, 0xabc).await);
        one.knows(&two);
        let mut stuck = dial(&rt, &one).await;
        let head = format!(
            "GET /raft/stream/msgapp/abc HTTP/1.1\r\nHost: peer\r\nX-Server-From: abc\r\nX-Server-Version: 3.7.1\r\n\
             X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-Id: {CLUSTER}\r\nX-Raft-To: 1\r\n\r\n"
        );
        stuck.write_all(head.as_bytes()).await.unwrap();
        one.until_status(|status| status[&two.id].reads_appends).await;
        let data = Bytes::from(vec![1; 1 << 20]);
        // 300 MiB, of which 64 may wait.
        for index in 0..300 {
            one.transport.send(vec![append(&one, &two, index, &data)]);
            rt.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(one.until("that messages were dropped", |told| told.unreachable.pop()).await, two.id);
        let dropped = one.transport.status()[&two.id].send_failures;
        assert!((100..300).contains(&dropped), "{dropped}");
        // The write limit cuts the connection, and appends go by post again.
        one.until_status(|status| !status[&two.id].reads_appends).await;
        one.transport.send(vec![append(&one, &two, 1, &Bytes::from_static(b"x"))]);
        two.until("an append by post", |told| told.messages.pop()).await;
    });
}

/// A body that is in memory; a `None` is a failing disk.
struct Chunks(Vec<Option<Bytes>>);

impl SnapshotBody for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        match self.0.is_empty() {
            true => Ok(None),
            false => self.0.remove(0).map(Some).ok_or_else(|| io::Error::other("the disk is gone")),
        }
    }
}

fn snapshot_chunks() -> Vec<Option<Bytes>> {
    (0..50u8).map(|nth| Some((0..1 << 20).map(|at: u32| (at % 241) as u8 ^ nth).collect())).collect()
}

fn files(rt: &Rt, member: &Member) -> Vec<String> {
    rt.list_dir(&member.dir.path().join("snap")).unwrap_or_default()
}

#[test]
fn a_snapshot_arrives_byte_for_byte() {
    TokioRuntime::run(2, |rt| async move {
        let (one, two) = pair(&rt).await;
        let sent = snapshot(&one, &two, 0x1234);
        one.transport.send_snapshot(sent.clone(), Box::new(Chunks(snapshot_chunks())));
        let received = two.until("the snapshot", |told| told.snapshots.pop()).await;
        assert_eq!(received.message, sent);
        assert_eq!(received.file, two.dir.path().join("snap").join("0000000000001234.snap.db"));
        let contents = read_file(&*rt, &received.file).unwrap();
        assert_eq!(contents.len() as u64, received.size_bytes);
        let expected: Vec<u8> = snapshot_chunks().into_iter().flatten().flatten().collect();
        assert!(contents == expected);
        assert_eq!(one.until("that it was sent", |told| told.sent.pop()).await, (two.id, true));
        assert_eq!(files(&rt, &two), ["0000000000001234.snap.db"]);

        // The same once more: what is there is kept.
        one.transport.send_snapshot(sent.clone(), Box::new(Chunks(vec![Some(Bytes::from_static(b"other"))])));
        let again = two.until("the snapshot", |told| told.snapshots.pop()).await;
        assert_eq!((again.file, again.size_bytes), (received.file, 50 << 20));
        assert_eq!(one.until("that it was sent", |told| told.sent.pop()).await, (two.id, true));
    });
}

#[test]
fn a_snapshot_that_is_cut_leaves_nothing() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        // The sender's disk fails in the middle.
        let mut chunks = snapshot_chunks();
        chunks[20] = None;
        one.transport.send_snapshot(snapshot(&one, &two, 7), Box::new(Chunks(chunks)));
        assert_eq!(one.until("that it failed", |told| told.sent.pop()).await, (two.id, false));

        // The connection breaks inside a chunk, and between two.
        for tail in ["5\r\nabcde\r\n8\r\nabc", "5\r\nabcde\r\n"] {
            let message = snapshot(&one, &two, 8).encode_to_vec();
            let mut stream = dial(&rt, &two).await;
            let head = format!(
                "POST /raft/snapshot HTTP/1.1\r\nHost: peer\r\nX-Server-From: 1\r\nX-Server-Version: 3.7.1\r\n\
                 X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-Id: {CLUSTER}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                message.len() + 8
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&(message.len() as u64).to_be_bytes()).await.unwrap();
            stream.write_all(&message).await.unwrap();
            stream.write_all(format!("\r\n{tail}").as_bytes()).await.unwrap();
            let waiting = async {
                while files(&rt, &two).is_empty() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(&*rt, PATIENCE, waiting).await.unwrap();
            drop(stream);
            let waiting = async {
                while !files(&rt, &two).is_empty() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(&*rt, PATIENCE, waiting).await.unwrap();
        }
        assert!(two.told(|told| told.snapshots.is_empty()));

        // The receiver goes away; the sender is told.
        let started = Arc::new(Notify::new());
        one.transport.send_snapshot(snapshot(&one, &two, 9), Box::new(Endless(started.clone())));
        started.notified().await;
        one.transport.remove_peer(two.id);
        assert_eq!(one.until("that it failed", |told| told.sent.pop()).await, (two.id, false));
    });
}

/// A body without end.
struct Endless(Arc<Notify>);

impl SnapshotBody for Endless {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.0.notify_one();
        Ok(Some(Bytes::from_static(&[0; 4096])))
    }
}

#[test]
fn snapshots_that_make_no_sense_are_refused() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let framed = |message: &raftpb::Message| {
            let encoded = message.encode_to_vec();
            [&(encoded.len() as u64).to_be_bytes()[..], &encoded, b"database"].concat()
        };
        let good = snapshot(&two, &one, 3);
        let unmarked = raftpb::Message { snapshot: Some(raftpb::Snapshot::default()), ..good.clone() };
        let misled = raftpb::Message { to: Some(77), ..good.clone() };
        for (body, status, start) in [
            (vec![0; 4], 400, "failed to decode raft message ("),
            (((64u64 << 20) + 1).to_be_bytes().to_vec(), 400, "failed to decode raft message ("),
            (framed(&good)[..30].to_vec(), 400, "failed to decode raft message ("),
            (framed(&heartbeat(&two, &one, 1)), 400, "wrong raft message type\n"),
            (framed(&unmarked), 400, "failed to decode raft message ("),
            (framed(&misled), 500, "failed to process raft message ("),
        ] {
            let (got, headers, text) =
                text(ask(&rt, &one, request(Method::POST, "/raft/snapshot", &two, &one, body)).await).await;
            assert_eq!(got.as_u16(), status, "{text}");
            assert!(text.starts_with(start), "{text}");
            assert_eq!(headers["x-etcd-cluster-id"], "2d025cca623367cb");
        }
        assert!(one.told(|told| told.snapshots.is_empty()));
        let (status, ..) =
            text(ask(&rt, &one, request(Method::POST, "/raft/snapshot", &two, &one, framed(&good))).await).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        let received = one.until("the snapshot", |told| told.snapshots.pop()).await;
        assert_eq!(read_file(&*rt, &received.file).unwrap(), b"database");
    });
}

#[test]
fn what_a_crash_left_is_removed_at_the_next_start() {
    TokioRuntime::run(1, |rt| async move {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0000000000000007-0.snap.db.tmp", "0000000000000003.snap.db", "db"] {
            rt.open(&dir.path().join(name), quorate_runtime::disk::OpenMode::CreateNew).unwrap();
        }
        assert_eq!(remove_unfinished(&*rt, dir.path()).unwrap(), 1);
        assert_eq!(rt.list_dir(dir.path()).unwrap(), ["0000000000000003.snap.db", "db"]);
        assert_eq!(remove_unfinished(&*rt, Path::new("/nonexistent")).unwrap(), 0);
    });
}

#[test]
fn nothing_is_left_after_stop() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        one.transport.stop();
        two.until_status(|status| !status[&one.id].reads_messages && !status[&one.id].reads_appends).await;
        one.transport.send(vec![heartbeat(&one, &two, 1)]);
        one.knows(&two);
        assert!(one.transport.status().is_empty());
        let recorder = Arc::downgrade(&one.recorder);
        let Member { transport, recorder: strong, serving, .. } = one;
        drop((transport, strong, serving));
        let waiting = async {
            while recorder.strong_count() > 0 {
                rt.sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(&*rt, PATIENCE, waiting).await.expect("tasks hold what they were given");
    });
}

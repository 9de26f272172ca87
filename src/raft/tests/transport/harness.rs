//! A member of these tests: a listener, a transport, and what it was told.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use quorate_http::{HyperStream, Timer};
use quorate_proto::raftpb::{self, MessageType};
use quorate_raft::transport::{
    Full as QueueFull, Inbox, PEER_LIMIT_MIN, ReceivedSnapshot, SnapshotBody, SnapshotWay, Transport, TransportConfig,
    TransportLimits, WriteLimit,
};
use quorate_runtime::clock::timeout;
use quorate_runtime::net::{Address, BoxStream, ListenOptions};
use quorate_runtime::sync::{Notify, watch};
use quorate_runtime::{BoxFuture, Rt, select};
use quorate_types::{ClusterId, MemberId};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const CLUSTER: ClusterId = ClusterId(0x2d02_5cca_6233_67cb);

/// What a member was told.
#[derive(Default)]
pub struct Told {
    pub messages: Vec<raftpb::Message>,
    pub snapshots: Vec<ReceivedSnapshot>,
    pub unreachable: Vec<MemberId>,
    pub sent: Vec<(MemberId, bool)>,
    pub transfers_begun: Vec<(SnapshotWay, MemberId)>,
    pub transfers_ended: Vec<(SnapshotWay, MemberId, bool)>,
    pub removed_by: Vec<MemberId>,
    pub probed: Vec<(MemberId, Duration)>,
}

#[derive(Default)]
pub struct Recorder {
    pub told: Mutex<Told>,
    pub changed: Notify,
    pub removed: Mutex<BTreeSet<MemberId>>,
    pub is_full: std::sync::atomic::AtomicBool,
}

impl Recorder {
    pub fn tell(&self, change: impl FnOnce(&mut Told)) {
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

    fn transfer_begins(&self, way: SnapshotWay, peer: MemberId) {
        self.tell(|told| told.transfers_begun.push((way, peer)));
    }

    fn transfer_ends(&self, way: SnapshotWay, peer: MemberId, arrived: bool, _took: Duration) {
        self.tell(|told| told.transfers_ended.push((way, peer, arrived)));
    }

    fn removed(&self, by: MemberId) {
        self.tell(|told| told.removed_by.push(by));
    }

    fn probed(&self, peer: MemberId, smoothed: Duration) {
        self.tell(|told| told.probed.push((peer, smoothed)));
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.removed.lock().unwrap().contains(&id)
    }
}

/// A listener, a transport, and what it was told.
pub struct Member {
    pub rt: Rt,
    pub id: MemberId,
    pub url: String,
    pub recorder: Arc<Recorder>,
    pub transport: Arc<Transport>,
    pub dir: tempfile::TempDir,
    /// Dropped: the listener closes and its connections are cut.
    pub serving: Option<watch::Sender<()>>,
}

impl Member {
    pub async fn start(rt: &Rt, id: u64) -> Member {
        Self::start_in(rt, id, CLUSTER).await
    }

    pub async fn start_in(rt: &Rt, id: u64, cluster_id: ClusterId) -> Member {
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
    pub async fn serve(&mut self) {
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

    pub fn knows(&self, other: &Member) {
        self.transport.add_peer(other.id, vec![other.url.clone()]);
    }

    /// Waits until what the member was told satisfies `wanted`.
    pub async fn until<T>(&self, what: &str, mut wanted: impl FnMut(&mut Told) -> Option<T>) -> T {
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
    pub async fn until_read_by(&self, peer: &Member) {
        self.until_status(|status| status.get(&peer.id).is_some_and(|peer| peer.reads_messages && peer.reads_appends))
            .await;
    }

    pub async fn until_status(
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

    pub fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.recorder.told.lock().unwrap())
    }
}

pub async fn serve_connection(rt: Rt, stream: BoxStream, transport: Arc<Transport>, mut ends: watch::Receiver<()>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let transport = transport.clone();
        async move { Ok::<_, std::convert::Infallible>(transport.handle(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(Timer::new(rt.clone()))
        .header_read_timeout(PEER_LIMIT_MIN)
        .auto_date_header(false)
        .serve_connection(HyperStream::new(WriteLimit::new(rt, stream, PEER_LIMIT_MIN)), service);
    select! {
        _ = connection => {}
        _ = ends.changed() => {}
    }
}

pub fn heartbeat(from: &Member, to: &Member, commit: u64) -> raftpb::Message {
    raftpb::Message {
        r#type: Some(MessageType::MsgHeartbeat as i32),
        from: Some(from.id.0),
        to: Some(to.id.0),
        term: Some(2),
        commit: Some(commit),
        ..Default::default()
    }
}

pub fn append(from: &Member, to: &Member, index: u64, data: &Bytes) -> raftpb::Message {
    let entry = raftpb::Entry { r#type: None, term: Some(2), index: Some(index + 1), data: Some(data.clone()) };
    raftpb::Message {
        r#type: Some(MessageType::MsgApp as i32),
        log_term: Some(2),
        index: Some(index),
        entries: vec![entry],
        ..heartbeat(from, to, index)
    }
}

pub fn snapshot(from: &Member, to: &Member, index: u64) -> raftpb::Message {
    let conf_state = raftpb::ConfState { voters: vec![from.id.0, to.id.0], ..Default::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(conf_state), index: Some(index), term: Some(2) };
    raftpb::Message {
        r#type: Some(MessageType::MsgSnap as i32),
        commit: None,
        snapshot: Some(raftpb::Snapshot { data: Some(Bytes::from_static(b"{}")), metadata: Some(metadata) }),
        ..heartbeat(from, to, 0)
    }
}

pub async fn pair(rt: &Rt) -> (Member, Member) {
    let (one, two) = (Member::start(rt, 1).await, Member::start(rt, 0xabc).await);
    one.knows(&two);
    two.knows(&one);
    one.until_read_by(&two).await;
    two.until_read_by(&one).await;
    (one, two)
}

/// A request as etcd 3.7 sends it, with changes.
pub fn request(method: Method, path: &str, from: &Member, to: &Member, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
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

pub async fn dial(rt: &Rt, to: &Member) -> BoxStream {
    rt.connect(Address::Tcp(to.url.strip_prefix("http://").unwrap().parse().unwrap())).await.unwrap()
}

pub async fn ask(rt: &Rt, to: &Member, request: Request<Full<Bytes>>) -> Response<Incoming> {
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

pub async fn text(answer: Response<Incoming>) -> (StatusCode, HeaderMap, String) {
    let (head, body) = answer.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (head.status, head.headers, text)
}

/// A snapshot's body in pieces; `None` is an error.
pub struct Chunks(pub Vec<Option<Bytes>>);

impl SnapshotBody for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        match self.0.is_empty() {
            true => Ok(None),
            false => self.0.remove(0).map(Some).ok_or_else(|| io::Error::other("the disk is gone")),
        }
    }
}

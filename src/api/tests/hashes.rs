//! Members that compare their rows, over real peer ports: equal ones are left in peace, one that answers with another hash gets
//! a CORRUPT alarm, or does not start.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use quorate_api::{ApiBody, ApiOptions, PeerBody, PeerPort, serve};
use quorate_member::{Member, MemberConfig, peer_http};
use quorate_proto::etcdserverpb::{AlarmMember, AlarmType, CompactionRequest, InternalRaftRequest, PutRequest};
use quorate_runtime::net::{Address, ListenOptions, Listener};
use quorate_runtime::sync::watch;
use quorate_runtime::{BoxFuture, Rt, clock};
use quorate_runtime_tokio::TokioRuntime;
use quorate_types::{Error, Revision};
use tower_service::Service;

const SOON: Duration = Duration::from_secs(20);

/// A peer port that can be made to lie about its hash.
#[derive(Clone)]
struct Liar {
    port: PeerPort,
    lies: Arc<AtomicBool>,
}

impl Service<Request<Incoming>> for Liar {
    type Response = Response<PeerBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Incoming>>::poll_ready(&mut self.port, context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let is_hash = request.uri().path() == "/members/hashkv";
        let answer = self.port.call(request);
        if !is_hash || !self.lies.load(Ordering::Relaxed) {
            return answer;
        }
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            let mut told: serde_json::Value = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap();
            let hash = told["hash"].as_u64().unwrap_or(0);
            told["hash"] = (hash ^ 1).into();
            Ok(Response::from_parts(head, PeerBody::Api(ApiBody::Plain(Bytes::from(told.to_string())))))
        })
    }
}

/// Two members, each behind a port that may lie.
struct Pair {
    rt: Rt,
    configs: Vec<MemberConfig>,
    members: Vec<Member>,
    lies: Vec<Arc<AtomicBool>>,
    shutdown: watch::Sender<bool>,
}

impl Pair {
    async fn start(rt: &Rt, dir: &Path, change: impl Fn(&mut MemberConfig)) -> Self {
        let any_port = || Address::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listeners: Vec<Box<dyn Listener>> = Vec::new();
        for _ in 0..2 {
            listeners.push(rt.listen(any_port(), ListenOptions::default()).await.unwrap());
        }
        let urls: Vec<_> = listeners.iter().map(|listener| format!("http://{}", listener.local_address())).collect();
        let founders: Vec<_> =
            urls.iter().zip(1..).map(|(url, number)| (format!("m{number}"), vec![url.clone()])).collect();
        let (shutdown, asked) = watch::channel(false);
        let mut pair = Pair { rt: rt.clone(), configs: Vec::new(), members: Vec::new(), lies: Vec::new(), shutdown };
        for (listener, (name, urls)) in listeners.into_iter().zip(&founders) {
            let mut config = MemberConfig::single(name, &dir.join(name), &urls[0], "http://127.0.0.1:2379");
            config.initial_cluster.clone_from(&founders);
            config.heartbeat_ms = 20;
            config.election_ms = 200;
            change(&mut config);
            let member = Member::start(rt.clone(), config.clone()).await.unwrap();
            let api = quorate_api::service(rt.clone(), member.clone(), ApiOptions::default());
            let liar = Liar { port: PeerPort::new(api, member.clone()), lies: Arc::default() };
            pair.lies.push(Arc::clone(&liar.lies));
            rt.spawn(Box::pin(serve(rt.clone(), listener, liar, asked.clone())));
            pair.configs.push(config);
            pair.members.push(member);
        }
        for member in &pair.members {
            clock::timeout(&**rt, SOON, member.ready()).await.expect("both are part of the cluster soon");
        }
        pair
    }

    fn lie(&self) {
        self.lies.iter().for_each(|lies| lies.store(true, Ordering::Relaxed));
    }

    async fn put(&self, key: &'static str) -> Result<(), Error> {
        let put = PutRequest { key: Bytes::from_static(key.as_bytes()), ..PutRequest::default() };
        let request = InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() };
        self.members[0].propose(request).await.map(drop)
    }

    async fn compact(&self, revision: i64) {
        let compaction = CompactionRequest { revision, physical: true };
        let request = InternalRaftRequest { compaction: Some(compaction), ..InternalRaftRequest::default() };
        self.members[0].propose(request).await.unwrap();
    }

    /// Waits for an alarm; the alarms that stand then.
    async fn alarm(&self) -> Vec<AlarmMember> {
        for _ in 0..200 {
            let alarms = self.members[0].view().alarms().to_vec();
            if !alarms.is_empty() {
                return alarms;
            }
            self.rt.sleep(SOON / 200).await;
        }
        panic!("no alarm within {SOON:?}");
    }

    async fn stop(self) {
        self.shutdown.send_replace(true);
        for member in &self.members {
            member.stop();
        }
        for member in &self.members {
            member.stopped().await;
        }
    }
}

fn with_pair(change: impl Fn(&mut MemberConfig), test: impl AsyncFnOnce(Pair)) {
    let dir = tempfile::tempdir().unwrap();
    TokioRuntime::run(1, async |rt| {
        let pair = Pair::start(&rt, dir.path(), change).await;
        test(pair).await;
    });
}

#[test]
fn the_peer_port_tells_its_hash_as_etcd_does() {
    with_pair(
        |_| {},
        async |pair| {
            for key in ["a", "b", "a"] {
                pair.put(key).await.unwrap();
            }
            let ask = async |cluster: &str, body: &'static str| {
                let headers = HeaderMap::from_iter([("x-etcd-cluster-id".parse().unwrap(), cluster.parse().unwrap())]);
                let (url, body) = (&pair.configs[0].advertise_peer_urls[0], Bytes::from_static(body.as_bytes()));
                let answer =
                    peer_http::call(&pair.rt, url, Method::GET, "/members/hashkv", headers, body, SOON).await.unwrap();
                (answer.0, String::from_utf8(answer.2.to_vec()).unwrap())
            };
            let cluster = pair.members[0].cluster_id().to_string();
            let hash = pair.members[0].hash_kv(Revision(3)).await.unwrap().hash;
            let expected =
                format!(r#"{{"header":{{"revision":4}},"hash":{hash},"compact_revision":-1,"hash_revision":3}}"#);
            assert_eq!(ask(&cluster, r#"{"revision":3}"#).await, (StatusCode::OK, expected));
            let bad = |text: &str| (StatusCode::BAD_REQUEST, format!("{text}\n"));
            let future = bad("mvcc: required revision is a future revision");
            assert_eq!(ask(&cluster, r#"{"revision":5}"#).await, future);
            assert_eq!(ask(&cluster, "nonsense").await, bad("error unmarshalling request"));
            let stranger = (StatusCode::PRECONDITION_FAILED, "cluster ID mismatch\n".to_owned());
            assert_eq!(ask("abc", r#"{"revision":3}"#).await, stranger);
            pair.compact(3).await;
            assert_eq!(ask(&cluster, r#"{"revision":2}"#).await, bad("mvcc: required revision has been compacted"));
            pair.stop().await;
        },
    );
}

#[test]
fn another_hash_at_the_newest_revision_raises_the_alarm_and_stops_writes() {
    with_pair(
        |config| config.corrupt_check_time = Some(Duration::from_millis(100)),
        async |pair| {
            pair.put("a").await.unwrap();
            // Some comparisons of equals.
            pair.rt.sleep(Duration::from_millis(500)).await;
            assert_eq!(pair.members[0].view().alarms(), []);
            let leader = pair.members[0].raft_status().leader.unwrap();
            pair.lie();
            let [alarm] = pair.alarm().await[..] else { panic!("one alarm") };
            assert_eq!(alarm.alarm, AlarmType::Corrupt as i32);
            assert!(pair.members.iter().any(|member| member.id().0 == alarm.member_id && member.id() != leader));
            assert_eq!(pair.put("b").await, Err(Error::Corrupt));
            pair.stop().await;
        },
    );
}

#[test]
fn another_hash_at_a_compaction_raises_the_alarm_for_all_where_there_is_no_majority() {
    with_pair(
        |config| config.compact_hash_check_time = Some(Duration::from_millis(100)),
        async |pair| {
            for key in ["a", "b", "a"] {
                pair.put(key).await.unwrap();
            }
            pair.compact(3).await;
            pair.rt.sleep(Duration::from_millis(500)).await;
            assert_eq!(pair.members[0].view().alarms(), []);
            pair.lie();
            // What was found equal is not compared again.
            pair.rt.sleep(Duration::from_millis(300)).await;
            assert_eq!(pair.members[0].view().alarms(), []);
            pair.compact(4).await;
            assert_eq!(pair.alarm().await, [AlarmMember { member_id: 0, alarm: AlarmType::Corrupt as i32 }]);
            pair.stop().await;
        },
    );
}

#[test]
fn a_member_that_differs_from_the_others_does_not_start() {
    with_pair(
        |_| {},
        async |pair| {
            pair.put("a").await.unwrap();
            let mut config = pair.configs[0].clone();
            config.initial_corrupt_check = true;
            let restart = async || {
                let started = Member::start(pair.rt.clone(), config.clone()).await;
                let Ok(member) = started else { return started.map(drop).map_err(|error| error.to_string()) };
                member.stop();
                member.stopped().await;
                Ok(())
            };
            pair.members[0].stop();
            pair.members[0].stopped().await;
            assert_eq!(restart().await, Ok(()));
            pair.lie();
            let refusal = restart().await.expect_err("it differs from the other");
            assert!(refusal.contains("found data inconsistency with peers"), "{refusal}");
            pair.stop().await;
        },
    );
}

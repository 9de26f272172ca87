//! What a member without data asks of the others before it founds or joins, and what it makes of their answers.

#![allow(clippy::disallowed_methods, reason = "tests look at real files")]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use quorate_member::{ClusterState, Member, MemberConfig, StopReason};
use quorate_runtime::Rt;
use quorate_runtime::io::{AsyncReadExt as _, AsyncWriteExt as _};
use quorate_runtime::net::{Address, BoxStream, ListenOptions};
use quorate_runtime_tokio::TokioRuntime;

const CLUSTER: &str = "2d025cca623367cb";

/// What somebody on a peer port answers.
#[derive(Clone)]
struct Answers {
    cluster: Option<&'static str>,
    members: String,
    version: &'static str,
    downgrade: &'static str,
}

impl Answers {
    /// A member of [`CLUSTER`], of version 3.7.0, that knows `members`.
    fn with(members: String) -> Self {
        Self {
            cluster: Some(CLUSTER),
            members,
            version: r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#,
            downgrade: "false",
        }
    }
}

/// A peer port that answers what it is told to.
struct Port {
    url: String,
    answers: Arc<Mutex<Option<Answers>>>,
    asked: Arc<AtomicUsize>,
}

impl Port {
    async fn open(rt: &Rt) -> Port {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        let port = Port {
            url: format!("http://{}", listener.local_address()),
            answers: Arc::default(),
            asked: Arc::default(),
        };
        let (answers, asked, rt_inside) = (Arc::clone(&port.answers), Arc::clone(&port.asked), rt.clone());
        rt.spawn(Box::pin(async move {
            loop {
                let stream = listener.accept().await.unwrap().into_stream().unwrap();
                rt_inside.spawn(Box::pin(answer(stream, Arc::clone(&answers), Arc::clone(&asked))));
            }
        }));
        port
    }

    fn answers(&self, answers: Answers) {
        *self.answers.lock().unwrap() = Some(answers);
    }
}

async fn answer(mut stream: BoxStream, answers: Arc<Mutex<Option<Answers>>>, asked: Arc<AtomicUsize>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        if stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let answers = answers.lock().unwrap().clone();
    // As long as it was told nothing, it hangs.
    let Some(answers) = answers else { return std::future::pending().await };
    let request = String::from_utf8(request).unwrap();
    let (status, body) = match request.split(' ').nth(1).unwrap() {
        "/members" => {
            asked.fetch_add(1, Ordering::Relaxed);
            ("200 OK", answers.members)
        }
        "/version" => ("200 OK", answers.version.to_owned()),
        "/downgrade/enabled" => ("200 OK", answers.downgrade.to_owned()),
        _ => ("404 Not Found", "404 page not found\n".to_owned()),
    };
    let cluster = answers.cluster.map_or(String::new(), |cluster| format!("X-Etcd-Cluster-Id: {cluster}\r\n"));
    let text = format!("HTTP/1.1 {status}\r\n{cluster}Content-Length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(text.as_bytes()).await;
}

fn shown(id: u64, url: &str, more: &str) -> String {
    format!(r#"{{"id":{id},"peerURLs":["{url}"]{more}}}"#)
}

/// `m1` at its own URL, with `others` as m2, m3, ….
fn config(dir: &Path, others: &[&Port]) -> MemberConfig {
    let own = "http://127.0.0.1:22001";
    let mut config = MemberConfig::single("m1", &dir.join("m1.etcd"), own, "http://127.0.0.1:22000");
    let others = others.iter().zip(2..).map(|(port, number)| (format!("m{number}"), vec![port.url.clone()]));
    config.initial_cluster.extend(others);
    config
}

fn joining(dir: &Path, others: &[&Port]) -> MemberConfig {
    MemberConfig { initial_cluster_state: ClusterState::Existing, ..config(dir, others) }
}

/// The text of the refusal, which must leave nothing behind.
async fn refusal(rt: &Rt, config: MemberConfig) -> String {
    let dir = config.data_dir.clone();
    let error = match Member::start(rt.clone(), config).await {
        Ok(_) => panic!("started where it must refuse"),
        Err(error) => error.to_string(),
    };
    assert!(!dir.exists(), "a refused start created {}", dir.display());
    error
}

fn with_ports(count: usize, test: impl AsyncFnOnce(Rt, &Path, &[&Port])) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let mut ports = Vec::new();
        for _ in 0..count {
            ports.push(Port::open(&rt).await);
        }
        let ports: Vec<&Port> = ports.iter().collect();
        test(rt, &path, &ports).await;
    });
}

const OWN: &str = "http://127.0.0.1:22001";

/// The first that is asked lags behind: it still has a member at our URL that was removed long ago.
#[test]
fn a_joiner_believes_no_member_that_lags_behind() {
    with_ports(2, async |rt, dir, ports| {
        let (early, late) = if ports[0].url < ports[1].url { (ports[0], ports[1]) } else { (ports[1], ports[0]) };
        let others = [shown(11, &ports[0].url, ""), shown(10, &ports[1].url, "")].join(",");
        early.answers(Answers::with(format!("[{others},{}]", shown(8, OWN, r#","name":"m1""#))));
        late.answers(Answers::with(format!("[{others},{}]", shown(9, OWN, ""))));
        let member = Member::start(rt.clone(), joining(dir, ports)).await.unwrap();
        assert_eq!(member.id().0, 9);
        member.stop();
        member.stopped().await;
    });
}

#[test]
fn a_joiner_is_who_the_cluster_says_and_starts_with_nothing() {
    with_ports(2, async |rt, dir, ports| {
        let list = |order: [usize; 3]| {
            let all = [shown(11, &ports[0].url, r#","name":"x""#), shown(9, OWN, ""), shown(10, &ports[1].url, "")];
            format!("[{}]\n", order.map(|at| all[at].clone()).join(","))
        };
        // One of the two knows nothing of us yet.
        let (early, late) = if ports[0].url < ports[1].url { (ports[0], ports[1]) } else { (ports[1], ports[0]) };
        early.answers(Answers::with(format!("[{}]", shown(11, &ports[0].url, ""))));
        late.answers(Answers::with(list([0, 1, 2])));
        let member = Member::start(rt.clone(), joining(dir, ports)).await.unwrap();
        assert_eq!((member.id().0, member.cluster_id().to_string()), (9, CLUSTER.to_owned()));
        assert_eq!((early.asked.load(Ordering::Relaxed), late.asked.load(Ordering::Relaxed)), (1, 1));
        assert!(member.view().members().is_empty());
        // It knows where to find them.
        let peers: Vec<u64> = member.transport().status().keys().map(|id| id.0).collect();
        assert_eq!(peers, [10, 11]);
        member.stop();
        assert_eq!(member.stopped().await, StopReason::Asked);
        drop(member);

        let log = quorate_raft::wal::read_all(&rt, &joining(dir, ports).wal_path()).unwrap();
        assert_eq!((log.metadata.node_id, log.metadata.cluster_id), (Some(9), Some(0x2d02_5cca_6233_67cb)));
        assert!(log.entries.is_empty());

        // From now on the flags do not matter, and nobody is asked.
        let other = MemberConfig { initial_cluster: Vec::new(), ..config(dir, ports) };
        let member = Member::start(rt.clone(), other).await.unwrap();
        assert_eq!(member.id().0, 9);
        assert_eq!(late.asked.load(Ordering::Relaxed), 1);
        member.stop();
        member.stopped().await;
    });
}

#[test]
fn joining_is_refused_in_etcds_words() {
    with_ports(1, async |rt, dir, ports| {
        let port = ports[0];
        let join = || joining(dir, ports);
        let fine = format!("[{},{}]", shown(11, &port.url, ""), shown(9, OWN, ""));
        let answer = |members: &str| port.answers(Answers::with(members.to_owned()));

        let stranger = MemberConfig { name: "m9".to_owned(), ..join() };
        assert_eq!(
            refusal(&rt, stranger).await,
            "couldn't find local name \"m9\" in the initial cluster configuration"
        );

        let mut twice = join();
        twice.initial_cluster.push(("m3".to_owned(), vec![port.url.clone()]));
        assert_eq!(
            refusal(&rt, twice).await,
            format!("initial cluster m1={OWN},m2={0},m3={0} has duplicate url", port.url)
        );

        let nobody =
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs";
        for garbage in ["", "{", "[]", r#"[{"id":"x"}]"#] {
            answer(garbage);
            assert_eq!(refusal(&rt, join()).await, nobody, "{garbage}");
        }
        port.answers(Answers { cluster: None, ..Answers::with(fine.clone()) });
        assert_eq!(refusal(&rt, join()).await, nobody);
        let mut alone = join();
        alone.initial_cluster.truncate(1);
        assert_eq!(refusal(&rt, alone).await, nobody);

        answer(&format!("[{}]", shown(11, &port.url, r#","name":"m2","clientURLs":["http://c:1"]"#)));
        assert_eq!(
            refusal(&rt, join()).await,
            format!(
                "error validating peerURLs {{ClusterID:{CLUSTER} Members:[&{{ID:b RaftAttributes:{{PeerURLs:[{}] \
                 IsLearner:false}} Attributes:{{Name:m2 ClientURLs:[http://c:1]}}}}] RemovedMemberIDs:[]}}: member count is \
                 unequal",
                port.url
            )
        );
        answer(&format!("[{},{}]", shown(11, &port.url, ""), shown(9, "http://127.0.0.1:1", "")));
        let error = refusal(&rt, join()).await;
        assert!(
            error.contains(
                "PeerURLs: no match found for existing member (9, [http://127.0.0.1:1]), last resolver error"
            ),
            "{error}"
        );

        answer(&format!("[{},{}]", shown(11, &port.url, ""), shown(9, OWN, r#","name":"m1""#)));
        assert_eq!(refusal(&rt, join()).await, "member 9 has already been bootstrapped");

        for (version, downgrade) in [
            (r#"{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}"#, "false"),
            (r#"{"etcdserver":"3.5.1","etcdcluster":"3.5.0"}"#, "false"),
            (r#"{"etcdserver":"3.8.0","etcdcluster":"3.8.0"}"#, "false"),
            (r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided"}"#, "false"),
            (r#"{"etcdserver":"3.6.1","etcdcluster":"3.6.0"}"#, "true"),
            ("no json", "false"),
        ] {
            port.answers(Answers { version, downgrade, ..Answers::with(fine.clone()) });
            assert_eq!(refusal(&rt, join()).await, "incompatible with current running cluster", "{version}");
        }

        let learner = r#","isLearner":true"#;
        answer(&format!("[{},{}]", shown(11, &port.url, learner), shown(9, OWN, learner)));
        assert_eq!(refusal(&rt, join()).await, "membership: too many learner members in cluster");

        // And what is fine is fine, in 3.6 and by a name in another spelling, too.
        let spelled = port.url.replace("127.0.0.1", "localhost");
        let mut join = join();
        join.initial_cluster[1].1 = vec![spelled];
        let version = r#"{"etcdserver":"3.6.1","etcdcluster":"3.6.0"}"#;
        port.answers(Answers { version, ..Answers::with(fine) });
        let error = refusal(&rt, join.clone()).await;
        // As in etcd, `localhost` is never looked up.
        assert!(error.contains("no match found"), "{error}");
        join.initial_cluster[1].1 = vec![port.url.clone()];
        let member = Member::start(rt.clone(), join).await.unwrap();
        member.stop();
        member.stopped().await;
    });
}

#[test]
fn who_has_been_running_before_founds_nothing() {
    with_ports(2, async |rt, dir, ports| {
        let own = quorate_member::ids::founding_member_id(&[OWN.to_owned()], "etcd-cluster");
        // One hangs; the other knows us as one that has started.
        let client_urls = r#","name":"m1","clientURLs":["http://127.0.0.1:22000"]"#;
        ports[1].answers(Answers::with(format!("[{}]", shown(own.0, OWN, client_urls))));
        assert_eq!(refusal(&rt, config(dir, ports)).await, format!("member {own} has already been bootstrapped"));
        // As one that has not: then this is its first start.
        ports[1].answers(Answers::with(format!("[{}]", shown(own.0, OWN, ""))));
        let member = Member::start(rt.clone(), config(dir, ports)).await.unwrap();
        assert_eq!(member.id(), own);
        member.stop();
        member.stopped().await;
    });
}

#[test]
fn what_is_advertised_must_be_what_is_listed() {
    with_ports(0, async |rt, dir, _| {
        let with = |listed: &[&str], advertised: &[&str]| {
            let texts = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
            MemberConfig {
                initial_cluster: vec![("m1".to_owned(), texts(listed))],
                advertise_peer_urls: texts(advertised),
                ..config(dir, &[])
            }
        };
        assert_eq!(
            refusal(&rt, with(&["http://127.0.0.1:3"], &["http://127.0.0.1:2"])).await,
            "--initial-cluster has m1=http://127.0.0.1:3 but missing from \
             --initial-advertise-peer-urls=http://127.0.0.1:2 (resolved urls: \"http://127.0.0.1:2\" != \
             \"http://127.0.0.1:3\")"
        );
        assert_eq!(
            refusal(&rt, with(&["http://127.0.0.1:2"], &["http://127.0.0.1:2", "http://127.0.0.1:3"])).await,
            "--initial-advertise-peer-urls has http://127.0.0.1:3 but missing from \
             --initial-cluster=m1=http://127.0.0.1:2,m1=http://127.0.0.1:3"
        );
        assert_eq!(
            refusal(&rt, with(&["http://127.0.0.1:2", "http://127.0.0.1:2"], &["http://127.0.0.1:2"; 2])).await,
            "initial cluster m1=http://127.0.0.1:2,m1=http://127.0.0.1:2 has duplicate url"
        );
        // The same place in another spelling.
        let member =
            Member::start(rt.clone(), with(&["http://[::1]:3"], &["http://[0:0:0:0:0:0:0:1]:3"])).await.unwrap();
        member.stop();
        member.stopped().await;
    });
}

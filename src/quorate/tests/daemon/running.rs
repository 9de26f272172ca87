//! A member from its start to its end.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::Value;

use super::process::{Daemon, quorate, run};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Flags of a member on free ports.
const FREE_PORTS: [&str; 5] = [
    "--name=n1",
    "--listen-client-urls=http://127.0.0.1:0",
    "--advertise-client-urls=http://127.0.0.1:2379",
    "--listen-peer-urls=http://127.0.0.1:0",
    "--data-dir=data",
];

fn start(dir: &Path) -> Daemon {
    Daemon::start(quorate(dir).args(FREE_PORTS))
}

/// Waits until it serves clients; their address.
fn serving(daemon: &mut Daemon) -> String {
    daemon.wait_for("ready to serve client requests");
    let line = daemon.wait_for("serving client traffic insecurely; this is strongly discouraged!");
    assert_eq!(line["traffic"], "grpc+http");
    line["address"].as_str().unwrap().to_owned()
}

fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// No healthy run has such lines.
fn assert_healthy(log: &[Value]) {
    for line in log {
        assert!(!matches!(line["level"].as_str(), Some("error" | "panic" | "fatal")), "{line}");
    }
}

#[test]
fn a_member_serves_tells_its_supervisor_and_dies_of_the_signal_it_got() {
    let dir = tempfile::tempdir().unwrap();
    let notify = dir.path().join("notify");
    let supervisor = UnixDatagram::bind(&notify).unwrap();
    supervisor.set_read_timeout(Some(super::process::PATIENCE)).unwrap();

    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).env("NOTIFY_SOCKET", &notify));
    let peer = daemon.wait_for("serving peer traffic")["address"].as_str().unwrap().to_owned();
    let client = serving(&mut daemon);
    daemon.wait_for("successfully notified init daemon");
    let mut message = [0; 64];
    let len = supervisor.recv(&mut message).unwrap();
    assert_eq!(message[..len].trim_ascii_end(), b"READY=1");

    let (head, body) = get(&client, "/version");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let version: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&version["etcdserver"], &version["etcdcluster"]), (&"3.7.1".into(), &"3.7.0".into()));
    assert_eq!(serde_json::from_str::<Value>(&get(&client, "/health").1).unwrap()["health"], "true");

    let (head, body) = get(&peer, "/members");
    assert!(head.to_ascii_lowercase().contains("x-etcd-cluster-id: "), "{head}");
    let members: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(members[0]["name"], "n1");
    assert_eq!(members[0]["peerURLs"][0], "http://localhost:2380");
    assert_eq!(members[0]["clientURLs"][0], "http://127.0.0.1:2379");
    assert!(get(&peer, "/version").0.starts_with("HTTP/1.1 200"));
    assert!(get(&peer, "/v2/keys").0.starts_with("HTTP/1.1 404"));

    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("data/member"), mode("data/member/wal")), (0o700, 0o700, 0o700));

    daemon.signal("-TERM");
    let (how, log) = daemon.wait();
    assert_eq!(how, Err(SIGTERM), "{log:#?}");
    assert_healthy(&log);
    let messages: Vec<&str> = log.iter().map(|line| line["msg"].as_str().unwrap()).collect();
    let at =
        |message| messages.iter().position(|m| *m == message).unwrap_or_else(|| panic!("no {message}: {messages:?}"));
    let order = [
        "Running: ",
        "Initialize and start etcd server",
        "configuring peer listeners",
        "configuring client listeners",
        "starting an etcd server",
        "now serving peer/client/metrics",
        "ready to serve client requests",
        "notifying init daemon",
        "received signal; shutting down",
        "closing etcd server",
        "closed etcd server",
    ];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{messages:?}");
    assert_eq!(log[at("received signal; shutting down")]["signal"], "terminated");
    let started = &log[at("starting an etcd server")];
    assert_eq!((&started["etcd-version"], &started["snapshot-catchup-entries"]), (&"3.7.1".into(), &5000.into()));
}

#[test]
fn a_member_goes_on_with_its_data_and_ignores_the_founding_flags_then() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = start(dir.path());
    let id = first.wait_for("now serving peer/client/metrics")["local-member-id"].clone();
    serving(&mut first);
    first.signal("-INT");
    let (how, log) = first.wait();
    assert_eq!(how, Err(SIGINT));
    assert_healthy(&log);

    let mut command = quorate(dir.path());
    let mut again = Daemon::start(command.args(FREE_PORTS).arg("--initial-cluster=other=http://10.0.0.1:2380"));
    again.wait_for("server has already been initialized");
    assert_eq!(again.wait_for("now serving peer/client/metrics")["local-member-id"], id);
    serving(&mut again);
    again.signal("-TERM");
    let (how, log) = again.wait();
    assert_eq!(how, Err(SIGTERM));
    assert_healthy(&log);
}

#[test]
fn a_second_process_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path());
    serving(&mut daemon);

    let said = run(quorate(dir.path()).args(FREE_PORTS));
    assert_eq!(said.status.code(), Some(1));
    let line = said.line("discovery failed");
    assert_eq!(line["level"], "fatal");
    assert!(line["error"].as_str().unwrap().contains("locked by another process"), "{line}");

    daemon.signal("-TERM");
    assert_healthy(&daemon.wait().1);
}

#[test]
fn a_taken_port_ends_the_start_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _holder = std::net::TcpListener::bind(taken).unwrap();
    for flag in ["--listen-client-urls", "--listen-peer-urls"] {
        let said = run(quorate(dir.path()).args(FREE_PORTS).arg(format!("{flag}=http://{taken}")));
        assert_eq!(said.status.code(), Some(1));
        let error = said.line("discovery failed")["error"].as_str().unwrap().to_owned();
        assert_eq!(error, format!("listen tcp {taken}: bind: address already in use"));
        assert!(!dir.path().join("data").exists());
    }
}

#[test]
fn logs_go_to_a_file_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).arg("--log-outputs=log.json,stderr"));
    serving(&mut daemon);
    daemon.signal("-TERM");
    let (_, log) = daemon.wait();
    let file = fs::read_to_string(dir.path().join("log.json")).unwrap();
    assert_eq!(file.lines().map(super::process::parse).collect::<Vec<_>>(), log);
}

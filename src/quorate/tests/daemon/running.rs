//! A member from its start to its end.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use serde_json::Value;

use super::process::{Daemon, FREE_PORTS, get, quorate, run, send, send_for_bytes, serving, start};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

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
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
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

/// The first of three founders; the others are nobody.
const FIRST_OF_THREE: &str = "--initial-cluster=n1=http://localhost:2380,n2=http://127.0.0.1:1,n3=http://127.0.0.1:2";

#[test]
fn a_lone_first_member_of_three_waits_and_can_be_made_a_cluster_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Daemon::start(quorate(dir.path()).args(FREE_PORTS).arg(FIRST_OF_THREE));
    let waits =
        first.wait_for("waiting for other members: the cluster serves once a majority of its voters is connected");
    assert_eq!((&waits["connected-voters"], &waits["needed-voters"]), (&1.into(), &2.into()));
    let mut missing: Vec<_> = waits["missing-peer-urls"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    missing.sort_unstable();
    assert_eq!(missing, ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    first.signal("-TERM");
    let (how, log) = first.wait();
    assert_eq!(how, Err(SIGTERM));
    assert_healthy(&log);
    assert!(log.iter().all(|line| line["msg"] != "ready to serve client requests"));

    let mut alone = Daemon::start(quorate(dir.path()).args(FREE_PORTS).arg("--force-new-cluster"));
    let peer = alone.wait_for("serving peer traffic")["address"].as_str().unwrap().to_owned();
    serving(&mut alone);
    let members: Value = serde_json::from_str(&get(&peer, "/members").1).unwrap();
    assert_eq!((members.as_array().unwrap().len(), &members[0]["name"]), (1, &"n1".into()));
    alone.signal("-TERM");
    let (how, log) = alone.wait();
    assert_eq!(how, Err(SIGTERM));
    assert_healthy(&log);
    let forced = log.iter().find(|line| line["msg"] == "forcing restart member").unwrap();
    assert_eq!((&forced["wal-commit-index"], &forced["commit-index"]), (&3.into(), &5.into()));
}

#[test]
fn a_cluster_that_nobody_runs_cannot_be_joined() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(quorate(dir.path()).args(FREE_PORTS).arg(FIRST_OF_THREE).arg("--initial-cluster-state=existing"));
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(
        said.line("discovery failed")["error"],
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
    );
    assert!(!dir.path().join("data").exists());
}

#[test]
fn who_looks_after_it_sees_what_it_does_and_may_ask_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path());
    let client = serving(&mut daemon);

    let variables: Value = serde_json::from_str(&get(&client, "/debug/vars").1).unwrap();
    assert!(variables["cmdline"].as_array().unwrap().iter().any(|word| word == "--name=n1"), "{variables}");
    assert_eq!(variables["raft.status"]["raftState"], "StateLeader");
    assert!(variables["file_descriptor_limit"].is_u64() && variables["memstats"]["Sys"].is_u64(), "{variables}");
    let metrics = get(&client, "/metrics").1;
    for name in [
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "os_fd_limit ",
        "go_goroutines ",
        "etcd_server_has_leader 1",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name}");
    }
    let described: Value = serde_json::from_str(&get(&client, "/openapi.json").1).unwrap();
    assert!(described["paths"]["/v3/kv/range"]["post"].is_object());

    let level = |level: &str| send(&client, "PUT", "/config/local/log", level);
    assert!(level(r#"{"Level":"DEBUG"}"#).0.starts_with("HTTP/1.1 204"));
    assert_eq!(get(&client, "/livez").1, "ok\n");
    daemon.wait_for("Health check OK");
    assert!(level(r#"{"Level":"ERROR"}"#).0.starts_with("HTTP/1.1 204"));
    assert_eq!(level(r#"{"Level":"LOUD"}"#).1, r#"{"message":"Invalid log level LOUD"}"#);
    assert_eq!(level("LOUD").1, r#"{"message":"Invalid json body"}"#);
    assert!(get(&client, "/config/local/log").0.starts_with("HTTP/1.1 405"));

    daemon.signal("-INT");
    let (how, log) = daemon.wait();
    assert_eq!(how, Err(SIGINT), "{log:#?}");
    let changes = log.iter().filter(|line| line["msg"] == "the log's level was changed");
    assert_eq!(changes.map(|line| line["least"].as_str().unwrap()).collect::<Vec<_>>(), ["debug", "error"]);
    assert!(log.iter().all(|line| line["msg"] != "closed etcd server"), "nothing but errors is shown any more");
}

#[test]
fn a_file_takes_the_place_of_flags_and_variables() {
    let dir = tempfile::tempdir().unwrap();
    let file = "name: from-file\ndata-dir: data\nlisten-client-urls: http://127.0.0.1:0\nlisten-peer-urls: http://127.0.0.1:0\n\
                max-txn-ops: 7\ncorrupt-check-time: 60000000000\nlisten-metric-urls: http://127.0.0.1:0\n";
    fs::write(dir.path().join("conf.yaml"), file).unwrap();
    let mut command = quorate(dir.path());
    command.args(["--config-file=conf.yaml", "--name=flag", "--max-txn-ops=9"]).env("ETCD_MAX_TXN_OPS", "8");
    let mut daemon = Daemon::start(&mut command);
    let loaded = daemon.wait_for(
        "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
    );
    assert_eq!(loaded["path"], "conf.yaml");
    let unknown = daemon.wait_for("the configuration file has a key that nobody knows; it says nothing");
    assert_eq!((&unknown["key"], &unknown["nearest"]), (&"listen-metric-urls".into(), &"listen-metrics-urls".into()));
    let started = daemon.wait_for("starting an etcd server");
    assert_eq!((&started["name"], &started["max-txn-ops"]), (&"from-file".into(), &7.into()));
    serving(&mut daemon);
    daemon.signal("-TERM");
    assert_eq!(daemon.wait().0, Err(SIGTERM));
}

#[test]
fn a_file_that_cannot_be_used_ends_the_start_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("wrong.yaml"), "name: x\nheartbeat-interval: fast\n").unwrap();
    for (path, why) in [
        ("wrong.yaml", "wrong.yaml: heartbeat-interval: cannot unmarshal \"fast\" into a whole number"),
        ("nothing.yaml", "open nothing.yaml: No such file or directory (os error 2)"),
    ] {
        for command in [
            quorate(dir.path()).arg(format!("--config-file={path}")),
            quorate(dir.path()).env("ETCD_CONFIG_FILE", path),
        ] {
            let said = run(command);
            assert_eq!(said.status.code(), Some(1));
            assert_eq!(said.line("failed to verify flags")["error"], why);
        }
    }
    assert!(!dir.path().join("default.etcd").exists());
}

#[test]
fn calls_that_take_long_are_told_of_without_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).arg("--warning-unary-request-duration=1ns"));
    let client = serving(&mut daemon);
    // "foo" and "secret".
    let (head, _) = send(&client, "POST", "/v3/kv/put", r#"{"key":"Zm9v","value":"c2VjcmV0"}"#);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let line = daemon.wait_for("request stats");
    assert_eq!((&line["level"], &line["response type"]), (&"warn".into(), &"/etcdserverpb.KV/Put".into()));
    assert_eq!(line["request content"], r#"key:"foo" value_size:6"#);
    assert_eq!((&line["request count"], &line["request size"]), (&1.into(), &13.into()));
    assert!(line["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert!(line["start time"].as_str().unwrap().starts_with("20"), "{line}");
    daemon.signal("-INT");
    assert_eq!(daemon.wait().0, Err(SIGINT));
}

#[test]
fn what_takes_long_to_apply_is_told_of_and_latencies_are_shown_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--warning-apply-duration=1ns", "--metrics=extensive"];
    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).args(flags));
    let client = serving(&mut daemon);
    let (head, _) = send(&client, "POST", "/v3/kv/range", r#"{"key":"Zm9v"}"#);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let metrics = get(&client, "/metrics").1;
    for line in [
        "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Range\"} 1",
        "etcd_server_range_duration_seconds_count{success=\"true\"} 1",
        "etcd_server_apply_duration_seconds_count{op=\"ClusterMemberAttrSet\",success=\"true\",version=\"v3\"} 1",
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"} 1",
        "grpc_server_handling_seconds_count{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in\n{metrics}");
    }
    daemon.signal("-INT");
    let (how, log) = daemon.wait();
    assert_eq!(how, Err(SIGINT));
    let slow: Vec<_> = log.iter().filter(|line| line["msg"] == "apply request took too long").collect();
    assert!(slow.iter().any(|line| line["prefix"] == "read-only range " && line["request"] == "Range"), "{slow:#?}");
    assert!(slow.iter().all(|line| line["level"] == "warn" && line["expected-duration"] == "1ns"), "{slow:#?}");
}

/// What we may, a daemon that we start may.
fn may_lock_all_memory() -> bool {
    const CAP_IPC_LOCK: u64 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim().to_owned();
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap();
    u64::from_str_radix(&capabilities, 16).unwrap() >> CAP_IPC_LOCK & 1 == 1 || limit.trim().starts_with("unlimited")
}

#[test]
fn memory_is_locked_when_asked_or_the_start_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).arg("--memory-mlock"));
    if may_lock_all_memory() {
        serving(&mut daemon);
        assert_ne!(daemon.status("VmLck"), "0 kB");
        daemon.signal("-INT");
        assert_eq!(daemon.wait().0, Err(SIGINT));
    } else {
        let (how, log) = daemon.wait();
        let told = log.iter().any(|line| line["error"].as_str().is_some_and(|error| error.contains("LimitMEMLOCK")));
        assert!(how == Ok(1) && told, "{log:#?}");
    }
}

#[test]
fn a_rotated_log_is_one_file_until_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        ["--log-outputs=log.json,stderr", "--enable-log-rotation", r#"--log-rotation-config-json={"maxsize": 1}"#];
    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).args(flags));
    serving(&mut daemon);
    daemon.signal("-TERM");
    let (_, log) = daemon.wait();
    let file = fs::read_to_string(dir.path().join("log.json")).unwrap();
    assert_eq!(file.lines().map(super::process::parse).collect::<Vec<_>>(), log);
}

/// A profile as text, with what is none of it in between.
fn unpacked(profile: &[u8]) -> String {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(profile).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn profiles_tell_who_works_and_who_holds_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).arg("--enable-pprof"));
    daemon.wait_for("pprof is enabled");
    let client = serving(&mut daemon);
    let ask = |path: &str| send_for_bytes(&client, "GET", &format!("/debug/pprof/{path}"), "");
    let (busy, second) = std::thread::scope(|scope| {
        let busy = scope.spawn(|| ask("profile?seconds=3"));
        std::thread::sleep(std::time::Duration::from_secs(1));
        let second = ask("profile?seconds=1");
        // Something to see.
        while !busy.is_finished() {
            send(&client, "POST", "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
        }
        (busy.join().unwrap(), second)
    });
    assert!(busy.0.starts_with("HTTP/1.1 200"), "{}", busy.0);
    let profile = unpacked(&busy.1);
    assert!(profile.contains("nanoseconds") && profile.contains("quorate/main.rs:"), "{profile}");
    assert!(second.0.starts_with("HTTP/1.1 500"), "{}", second.0);
    assert_eq!(second.1, b"Could not enable CPU profiling: cpu profiling already in use\n");

    let (head, heap) = ask("heap");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let heap = unpacked(&heap);
    assert!(heap.contains("inuse_space") && heap.contains("quorate/main.rs:"), "{heap}");
    let (_, cmdline) = ask("cmdline");
    assert!(cmdline.ends_with(b"\0--enable-pprof"));
    assert!(ask("").1.starts_with(b"<!DOCTYPE html>"));
    assert_eq!(ask("symbol?0x1").1, b"num_symbols: 1\n");
    assert!(ask("goroutine").0.starts_with("HTTP/1.1 404"));
    daemon.signal("-TERM");
    assert_healthy(&daemon.wait().1);
}

#[test]
fn profiles_are_for_who_asks_for_them_or_debugs() {
    for (flag, status) in [("--log-level=debug", "200"), ("--enable-pprof=false", "404")] {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).arg(flag));
        let client = serving(&mut daemon);
        for path in ["/debug/pprof/", "/debug/pprof/heap", "/debug/requests"] {
            let (head, _) = send_for_bytes(&client, "GET", path, "");
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{flag} {path}: {head}");
        }
    }
}

//! The program as a whole, on its own reference servers.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quorate-bench"))
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start(kind: &str, dir: &Path) -> Server {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let child = program().args(["server", kind, "--listen", &endpoint, "--data-dir"]).arg(dir).spawn().unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(&endpoint).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "{kind} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Server { child, endpoint }
    }

    fn bench(&self, line: &str) -> Value {
        let pid = self.child.id().to_string();
        let args = line.split(' ').chain(["--json", "--endpoints", &self.endpoint, "--server-pid", &pid]);
        json(program().args(args).output().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_workload_runs_and_counts_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::start("floor", dir.path());
    for workload in ["put", "get", "serializable-get", "scan", "cas", "txn"] {
        let measured = floor.bench(&format!("{workload} --total 500 --clients 20 --connections 3 --threads 2"));
        assert_eq!(measured["workload"], workload);
        assert_eq!(measured["operations"], 500, "{measured}");
        assert_eq!(measured["refused"], serde_json::json!({}));
        let latency = |name: &str| measured["latency"][name].as_f64().unwrap();
        assert!(
            0.0 < latency("p50_us") && latency("p50_us") <= latency("p99_us") && latency("p99_us") <= latency("max_us")
        );
        assert!(measured["server"]["anonymous_peak_bytes"].as_u64().unwrap() > 0);
    }
    for batch in [1, 7] {
        let measured = floor.bench(&format!("load --key-count 1000 --order random --batch {batch}"));
        assert_eq!(measured["operations"], 1000);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let echo = Server::start("echo", dir.path());
    let measured = echo.bench("get --rate 500 --duration 1s --warmup 100ms --clients 20");
    let per_second = measured["per_second"].as_f64().unwrap();
    assert!((450.0..=550.0).contains(&per_second), "{measured}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let output = program().args(["put", "--endpoints", &endpoint]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("cannot connect to {endpoint}")), "{said}");
}

#[test]
fn servers_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let line = "compare --json --servers echo,floor --rounds 2 --duration 200ms --warmup 50ms --key-count 500 --memory-key-count 0";
    let compared = json(
        program()
            .args(line.split(' '))
            .args(["--base-port", &port, "--dir"])
            .arg(dir.path())
            .stderr(Stdio::inherit())
            .output()
            .unwrap(),
    );
    // put, get, serializable-get, put-one-client: on two servers, in two rounds.
    assert_eq!(compared["samples"].as_array().unwrap().len(), 16);
    assert_eq!(compared["medians"]["runs"].as_array().unwrap().len(), 8);
    assert_eq!(compared["marks"], serde_json::json!([]), "without quorate there is nothing to judge");
}

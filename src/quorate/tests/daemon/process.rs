//! Starts the daemon, reads what it says, and talks to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a daemon that ended by itself said.
pub struct Said {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Lines of the log.
    pub fn log(&self) -> Vec<Value> {
        self.stderr.lines().map(parse).collect()
    }

    /// The log line with that message.
    pub fn line(&self, message: &str) -> Value {
        let found = self.log().into_iter().find(|line| line["msg"] == message);
        found.unwrap_or_else(|| panic!("no line {message:?} in\n{}", self.stderr))
    }
}

/// One line of the log: a JSON object with zap's four keys.
pub fn parse(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    for key in ["level", "ts", "caller", "msg"] {
        assert!(value[key].is_string(), "no {key} in {line:?}");
    }
    value
}

/// The daemon, with no `ETCD_*` variable of the machine, to be run in `dir`.
pub fn quorate(dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") || name == "NOTIFY_SOCKET" {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, which must come by itself.
pub fn run(command: &mut Command) -> Said {
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Said { status: child.wait().unwrap(), stdout: reader.join().unwrap(), stderr }
}

/// A daemon that runs.
pub struct Daemon {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
    /// What was read of the log.
    pub log: Vec<Value>,
}

impl Daemon {
    pub fn start(command: &mut Command) -> Daemon {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Daemon { child, lines, log: Vec::new() }
    }

    /// Reads the log up to the line with that message.
    pub fn wait_for(&mut self, message: &str) -> Value {
        let start = Instant::now();
        for line in self.lines.by_ref() {
            let line = parse(&line.unwrap());
            self.log.push(line.clone());
            if line["msg"] == message {
                return line;
            }
            assert!(start.elapsed() < PATIENCE, "no line {message:?}");
        }
        panic!("the daemon ended without {message:?}: {:#?}", self.log);
    }

    /// What the system tells of the process in a line of its status.
    pub fn status(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Reads the rest of the log; the signal that killed the process, or its exit code.
    pub fn wait(mut self) -> (Result<i32, i32>, Vec<Value>) {
        for line in self.lines.by_ref() {
            self.log.push(parse(&line.unwrap()));
        }
        let status = self.child.wait().unwrap();
        let how = match status.signal() {
            Some(signal) => Err(signal),
            None => Ok(status.code().unwrap()),
        };
        (how, std::mem::take(&mut self.log))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed must not leave a process behind; one that has ended cannot be killed again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Flags of a member on free ports.
pub const FREE_PORTS: [&str; 5] = [
    "--name=n1",
    "--listen-client-urls=http://127.0.0.1:0",
    "--advertise-client-urls=http://127.0.0.1:2379",
    "--listen-peer-urls=http://127.0.0.1:0",
    "--data-dir=data",
];

/// A member in `dir`, on free ports.
pub fn start(dir: &std::path::Path) -> Daemon {
    Daemon::start(quorate(dir).args(FREE_PORTS))
}

/// Waits until it serves clients; their address.
pub fn serving(daemon: &mut Daemon) -> String {
    daemon.wait_for("ready to serve client requests");
    let line = daemon.wait_for("serving client traffic insecurely; this is strongly discouraged!");
    assert_eq!(line["traffic"], "grpc+http");
    line["address"].as_str().unwrap().to_owned()
}

/// Asks one who serves; head and body of the answer.
pub fn get(address: &str, path: &str) -> (String, String) {
    send(address, "GET", path, "")
}

/// Sends a request to one who serves; head and body of the answer.
pub fn send(address: &str, method: &str, path: &str, body: &str) -> (String, String) {
    let (head, body) = send_for_bytes(address, method, path, body);
    (head, String::from_utf8(body).unwrap())
}

/// The same where the body is no text.
pub fn send_for_bytes(address: &str, method: &str, path: &str, body: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap(), body)
}

//! Servers under measurement: started on an empty directory, known ready by an answer, stopped whatever happens.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use prost::Message as _;
use quorate_proto::etcdserverpb::{RangeRequest, RangeResponse};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::Options;
use crate::generator::grpc::{Channel, KvMethod};
use crate::interrupt;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// Room for everything that is written in a round.
const QUOTA_BYTES: &str = "--quota-backend-bytes=8589934592";

/// A server that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// What this is all about.
    Quorate,
    /// Answers at once.
    Echo,
    /// Answers when it is on disk.
    Floor,
    /// Debian's etcd.
    Etcd,
}

impl ServerKind {
    /// By its name on the command line.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        [Self::Quorate, Self::Echo, Self::Floor, Self::Etcd]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| anyhow!("no server is called {name}"))
    }

    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quorate => "quorate",
            Self::Echo => "echo",
            Self::Floor => "floor",
            Self::Etcd => "etcd",
        }
    }

    /// True if it keeps what is put.
    pub fn stores(self) -> bool {
        matches!(self, Self::Quorate | Self::Etcd)
    }

    fn command(self, options: &Options, data_dir: &Path) -> anyhow::Result<Command> {
        let client = options.address();
        let mut command = match self {
            Self::Quorate => Command::new(&options.quorate),
            Self::Etcd => Command::new(&options.etcd),
            Self::Echo | Self::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["server", self.name(), "--listen", &client.to_string(), "--data-dir"]).arg(data_dir);
                return Ok(command);
            }
        };
        let client = format!("http://{client}");
        let peer = format!("http://{}:{}", Ipv4Addr::LOCALHOST, options.base_port + 1);
        command.args(["--name", "bench", "--data-dir"]).arg(data_dir);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("bench={peer}"), QUOTA_BYTES, "--log-level=error"]);
        if self == Self::Etcd {
            // 3.4 knows log levels only in this logger.
            command.arg("--logger=zap");
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        Ok(command)
    }
}

/// A server that runs. Dropping it kills it.
pub struct Server {
    kind: ServerKind,
    child: Child,
    address: SocketAddr,
    output: PathBuf,
    /// From the start of the process to the first answer.
    pub ready_after: Duration,
}

impl Server {
    /// Starts `kind` on an empty directory.
    pub fn start_empty(kind: ServerKind, options: &Options) -> anyhow::Result<Server> {
        let data_dir = options.data_dir(kind);
        match fs::remove_dir_all(&data_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", data_dir.display()));
            }
            _ => {}
        }
        Self::start(kind, options, None)
    }

    /// Starts `kind` on what is there; `key`, if given, must be found.
    pub fn start(kind: ServerKind, options: &Options, key: Option<&str>) -> anyhow::Result<Server> {
        fs::create_dir_all(&options.dir)?;
        let output = options.dir.join(format!("{}.log", kind.name()));
        let log = File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        let mut command = kind.command(options, &options.data_dir(kind))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {} ({})", kind.name(), command.get_program().to_string_lossy()))?;
        let mut server = Server { kind, child, address: options.address(), output, ready_after: Duration::ZERO };
        server.wait_until_ready(started, key)?;
        server.ready_after = started.elapsed();
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self, started: Instant, key: Option<&str>) -> anyhow::Result<()> {
        let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        loop {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at its start ({status}); its output is in {}", self.kind.name(), self.output.display());
            }
            let answer =
                reactor.block_on(async { tokio::time::timeout(Duration::from_secs(5), self.first_get(key)).await });
            match answer {
                Ok(Ok(Some(()))) => return Ok(()),
                Ok(Ok(None)) => bail!("{} does not have the key {key:?} that it had acknowledged", self.kind.name()),
                _ if started.elapsed() > PATIENCE => {
                    bail!("{} does not answer; its output is in {}", self.kind.name(), self.output.display());
                }
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// A linearizable get; `None` if the key is not there.
    async fn first_get(&self, key: Option<&str>) -> anyhow::Result<Option<()>> {
        let mut channel = Channel::connect(self.address).await?;
        let request = RangeRequest { key: key.unwrap_or("ready?").to_owned().into(), ..Default::default() };
        let answer = RangeResponse::decode(channel.call(KvMethod::Range, &request).await?)?;
        Ok((key.is_none() || !answer.kvs.is_empty()).then_some(()))
    }

    /// Stops it as an operator would, and waits for its end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop {}", self.kind.name()))?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            interrupt::check()?;
            if asked.elapsed() > PATIENCE {
                bail!("{} does not stop; its output is in {}", self.kind.name(), self.output.display());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

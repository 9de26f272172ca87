//! Servers under measurement: started on an empty directory, known ready by an answer, stopped whatever happens.

use std::fs::{self, File};
use std::net::SocketAddr;
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
use crate::generator::grpc::{Channel, Rpc};
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

    /// The command of one member, by its number.
    fn command(self, options: &Options, data_dir: &Path, member: usize) -> anyhow::Result<Command> {
        let addresses = options.addresses(self);
        let client = addresses[member];
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
        let peer = |client: &SocketAddr| format!("http://{}:{}", client.ip(), client.port() + 1);
        let name = |member: usize| format!("bench{member}");
        let founders: Vec<_> =
            addresses.iter().enumerate().map(|(member, client)| format!("{}={}", name(member), peer(client))).collect();
        let peer = peer(&addresses[member]);
        command.args(["--name", &name(member), "--data-dir"]).arg(data_dir.join(name(member)));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &founders.join(","), QUOTA_BYTES, "--log-level=error"]);
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

    /// Starts one member.
    fn spawn(self, options: &Options, member: usize, log: &File) -> anyhow::Result<Child> {
        self.start(self.command(options, &options.data_dir(self), member)?, log)
    }

    /// Starts one member that has the processor only when nobody else wants it.
    fn spawn_nicely(self, options: &Options, member: usize, log: &File) -> anyhow::Result<Child> {
        let command = self.command(options, &options.data_dir(self), member)?;
        let mut nice = Command::new("nice");
        nice.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => nice.env(name, value),
                None => nice.env_remove(name),
            };
        }
        self.start(nice, log)
    }

    fn start(self, mut command: Command, log: &File) -> anyhow::Result<Child> {
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        command
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name(), command.get_program().to_string_lossy()))
    }
}

/// A server that runs: one process, or one for each member. Dropping it kills it.
pub struct Server {
    kind: ServerKind,
    children: Vec<Child>,
    /// Where clients connect, in order of the members.
    pub addresses: Vec<SocketAddr>,
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
        let addresses = options.addresses(kind);
        let started = Instant::now();
        let mut server = Server { kind, children: Vec::new(), addresses, output, ready_after: Duration::ZERO };
        for member in 0..server.addresses.len() {
            server.children.push(kind.spawn(options, member, &log)?);
        }
        server.wait_until_ready(started, key)?;
        server.ready_after = started.elapsed();
        Ok(server)
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Ends one member as a power failure would, and leaves its place empty.
    pub fn kill_member(&mut self, member: usize) -> anyhow::Result<()> {
        self.children[member].kill().context("cannot kill a member")?;
        self.children[member].wait()?;
        Ok(())
    }

    /// Starts a member that was killed, as if it had a machine of its own: it has the processor only when nobody else wants it.
    /// Returns at once.
    pub fn restart_elsewhere(&mut self, member: usize, options: &Options) -> anyhow::Result<()> {
        let log = File::options().append(true).open(&self.output)?;
        self.children[member] = self.kind.spawn_nicely(options, member, &log)?;
        Ok(())
    }

    fn wait_until_ready(&mut self, started: Instant, key: Option<&str>) -> anyhow::Result<()> {
        let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        loop {
            interrupt::check()?;
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    let (name, output) = (self.kind.name(), self.output.display());
                    bail!("{name} ended at its start ({status}); its output is in {output}");
                }
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

    /// A linearizable get from each member; `None` if the key is not there.
    async fn first_get(&self, key: Option<&str>) -> anyhow::Result<Option<()>> {
        let mut found = true;
        for address in &self.addresses {
            let mut channel = Channel::connect(*address).await?;
            let request = RangeRequest { key: key.unwrap_or("ready?").to_owned().into(), ..Default::default() };
            let answer = RangeResponse::decode(channel.call(Rpc::Range, &request).await?)?;
            found &= key.is_none() || !answer.kvs.is_empty();
        }
        Ok(found.then_some(()))
    }

    /// Stops it as an operator would, and waits for its end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        for child in &self.children {
            kill_process(Pid::from_child(child), Signal::TERM)
                .with_context(|| format!("cannot stop {}", self.kind.name()))?;
        }
        let asked = Instant::now();
        for child in &mut self.children {
            while child.try_wait()?.is_none() {
                interrupt::check()?;
                if asked.elapsed() > PATIENCE {
                    bail!("{} does not stop; its output is in {}", self.kind.name(), self.output.display());
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

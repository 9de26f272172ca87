//! Servers against each other, in alternating rounds.
//!
//! Figures differ by a factor of two between machines, and between hours on one machine; ratios taken minutes apart hold. So
//! each round measures every server, each alone on the machine but for the generator, on an empty directory of one disk; the
//! order turns with the rounds; and what is printed are the medians of all rounds and quorate's ratios to the others.
//!
//! A round of one server: start, load the keys, then one workload after the other. Servers that store also get a *memory
//! round*: load many keys, stop, start again; its figures are the highest memory of both processes and how long it took from
//! the start of the process to the first linearizable get.
//!
//! With several members each server that stores is a cluster on this machine. Connections go to its members in turn, and only
//! puts and gets are measured.
//!
//! Keys are loaded with plain puts, because large transactions would be unfair to etcd 3.4: it keeps the last 100,000
//! entries in memory, however large they are, and each of its reads copies a buffer that has the length of its largest
//! batch so far (reads after a load in transactions of 100 puts were measured at half the speed).

pub mod marks;
mod medians;
pub mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use self::marks::Mark;
use self::medians::Medians;
use self::server::Server;
pub use self::server::ServerKind;
use crate::generator::workload::{KeyOrder, KeySpace, Workload};
use crate::generator::{self, Extent, Plan};
use crate::interrupt;
use crate::process::{Memory, Watch};
use crate::report::{self, Measured};

/// Keys in one answer of the scan.
const SCAN_LIMIT: i64 = 100;

/// A restarted server's memory is watched for so long after its first answer.
const AFTER_RESTART: Duration = Duration::from_millis(500);

/// What to compare, and how.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Options {
    pub quorate: PathBuf,
    pub etcd: PathBuf,
    pub servers: Vec<ServerKind>,
    /// All data directories and outputs are here.
    pub dir: PathBuf,
    pub base_port: u16,
    /// Of each server that stores.
    pub members: usize,
    pub rounds: usize,
    pub measure: Duration,
    pub warm_up: Duration,
    pub clients: usize,
    pub connections: usize,
    pub key_count: u64,
    pub value_bytes: usize,
    /// 0: no memory rounds.
    pub memory_key_count: u64,
    pub memory_rounds: usize,
    /// A missed mark is an error.
    pub check: bool,
    pub json: bool,
}

impl Options {
    /// Where the members of a server listen for clients; each has the next port for its peers.
    fn addresses(&self, server: ServerKind) -> Vec<SocketAddr> {
        let members = if server.stores() { self.members } else { 1 };
        (0..members as u16).map(|member| (Ipv4Addr::LOCALHOST, self.base_port + 2 * member).into()).collect()
    }

    fn data_dir(&self, server: ServerKind) -> PathBuf {
        self.dir.join(format!("{}.data", server.name()))
    }
}

/// One workload on one server in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    server: ServerKind,
    round: usize,
    #[serde(flatten)]
    run: Measured,
}

/// One memory round of one server.
#[derive(Clone, Debug, Serialize)]
pub struct MemorySample {
    server: ServerKind,
    round: usize,
    key_count: u64,
    /// Highest of the process that loaded and of the one that started again.
    #[serde(flatten)]
    memory: Memory,
    load_per_second: f64,
    restart_secs: f64,
}

/// Everything, as printed in JSON.
#[derive(Serialize)]
struct Comparison {
    cores: usize,
    marks: Vec<Mark>,
    medians: Medians,
    samples: Vec<Sample>,
    memory_samples: Vec<MemorySample>,
}

/// Measures, prints, judges.
pub fn run(options: &Options) -> anyhow::Result<()> {
    interrupt::note_signals()?;
    let mut samples = Vec::new();
    let mut memory_samples = Vec::new();
    for round in 0..options.rounds.max(options.memory_rounds) {
        let mut order = options.servers.clone();
        let turn = round % order.len().max(1);
        order.rotate_left(turn);
        for server in order {
            if round < options.rounds {
                note(options, &format!("round {} of {}: {}", round + 1, options.rounds, server.name()));
                let runs = measure(server, options).with_context(|| format!("measuring {}", server.name()))?;
                samples.extend(runs.into_iter().map(|run| Sample { server, round, run }));
            }
            if round < options.memory_rounds && options.memory_key_count > 0 && server.stores() {
                note(options, &format!("memory round {} of {}: {}", round + 1, options.memory_rounds, server.name()));
                let sample = measure_memory(server, round, options);
                memory_samples.push(sample.with_context(|| format!("measuring the memory of {}", server.name()))?);
            }
        }
    }
    let medians = Medians::of_samples(&samples, &memory_samples);
    let marks = if options.members > 1 { marks::cluster_marks(&medians) } else { marks::marks(&medians) };
    let missed = marks.iter().filter(|mark| !mark.passed).count();
    if options.json {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let comparison = Comparison { cores, marks, medians, samples, memory_samples };
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print(&medians, &marks);
    }
    ensure!(!options.check || missed == 0, "{missed} marks missed");
    Ok(())
}

fn note(options: &Options, text: &str) {
    if !options.json {
        eprintln!("{text}");
    }
}

/// All workloads on a server that starts empty.
fn measure(kind: ServerKind, options: &Options) -> anyhow::Result<Vec<Measured>> {
    let server = Server::start_empty(kind, options)?;
    let load = load_plan(&server, options, options.key_count);
    all_accepted(&generator::run(&load)?)?;
    let mut runs = Vec::new();
    let mut one = |name: &str, workload: Workload, clients: usize| -> anyhow::Result<()> {
        let extent = Extent::Time { warm_up: options.warm_up, measure: options.measure };
        let connections = options.connections.min(clients);
        let mut run = generator::run(&Plan { workload, extent, clients, connections, ..load.clone() })?;
        run.workload = name.to_owned();
        runs.push(run);
        Ok(())
    };
    one("put", Workload::Put, options.clients)?;
    one("get", Workload::Get, options.clients)?;
    if options.members > 1 {
        return server.stop().map(|()| runs);
    }
    one("serializable-get", Workload::SerializableGet, options.clients)?;
    if kind.stores() {
        one("scan", Workload::Scan { limit: SCAN_LIMIT }, options.clients)?;
        one("cas", Workload::CompareAndPut, options.clients)?;
        one("txn", Workload::Txn, options.clients)?;
    }
    one("put-one-client", Workload::Put, 1)?;
    server.stop()?;
    Ok(runs)
}

/// Loads many keys, stops, starts again.
fn measure_memory(kind: ServerKind, round: usize, options: &Options) -> anyhow::Result<MemorySample> {
    let key_count = options.memory_key_count;
    let server = Server::start_empty(kind, options)?;
    let plan = load_plan(&server, options, key_count);
    let load = generator::run(&plan)?;
    all_accepted(&load)?;
    server.stop()?;

    let last = plan.keys.name(key_count - 1);
    let server = Server::start(kind, options, Some(&last))?;
    let mut watch = Watch::start(&server.pids())?;
    let ready = Instant::now();
    while ready.elapsed() < AFTER_RESTART {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(20));
        watch.sample()?;
    }
    let (_, after_restart) = watch.finish()?;
    let restart_secs = server.ready_after.as_secs_f64();
    server.stop()?;
    let while_loading = load.server.context("the load had a server to watch")?.memory;
    Ok(MemorySample {
        server: kind,
        round,
        key_count,
        memory: while_loading.max(after_restart),
        load_per_second: load.per_second,
        restart_secs,
    })
}

fn load_plan(server: &Server, options: &Options, count: u64) -> Plan {
    Plan {
        endpoints: server.addresses.clone(),
        workload: Workload::Load { batch: 1, order: KeyOrder::Random },
        keys: KeySpace { prefix: "bench/".to_owned(), count },
        value_bytes: options.value_bytes,
        clients: options.clients,
        connections: options.connections,
        threads: 1,
        rate_hz: None,
        extent: Extent::Operations(count),
        seed: 1,
        server_pids: server.pids(),
        progress: !options.json,
    }
}

/// Fails if anything of a load was refused.
pub fn all_accepted(load: &Measured) -> anyhow::Result<()> {
    ensure!(load.refused.is_empty(), "the server refused to be filled: {:?}", load.refused);
    Ok(())
}

fn print(medians: &Medians, marks: &[Mark]) {
    let mut table = report::new_table();
    table.set_header([
        "medians",
        "ops/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "server CPU µs/op",
        "generator CPU µs/op",
        "refused",
    ]);
    let mut runs: Vec<_> = medians.runs.iter().collect();
    // Workloads together, servers beside each other.
    let position = |workload: &str| medians.runs.iter().position(|run| run.workload == workload);
    runs.sort_by_key(|run| (position(&run.workload), run.server));
    for run in runs {
        table.add_row([
            format!("{} {}", run.workload, run.server.name()),
            format!("{:.0}", run.per_second),
            format!("{:.0}", run.p50_us),
            format!("{:.0}", run.p99_us),
            format!("{:.0}", run.p999_us),
            run.server_cpu_us_per_op.map(|cpu| format!("{cpu:.1}")).unwrap_or_default(),
            format!("{:.1}", run.generator_cpu_us_per_op),
            run.refused.to_string(),
        ]);
    }
    report::numbers_to_the_right(&mut table);
    println!("{table}");

    if !medians.memory.is_empty() {
        let mut table = report::new_table();
        table.set_header(["memory", "anonymous peak MiB", "resident peak MiB", "load keys/s", "restart ms"]);
        for memory in &medians.memory {
            table.add_row([
                memory.server.name().to_owned(),
                format!("{:.0}", memory.anonymous_peak_bytes / f64::from(1 << 20)),
                format!("{:.0}", memory.resident_peak_bytes / f64::from(1 << 20)),
                format!("{:.0}", memory.load_per_second),
                format!("{:.0}", memory.restart_secs * 1e3),
            ]);
        }
        report::numbers_to_the_right(&mut table);
        println!("{table}");
    }

    if !marks.is_empty() {
        println!("{}", marks::table(marks, "other"));
    }
}

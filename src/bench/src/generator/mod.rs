//! The load generator: many clients on few connections on few threads, and what they saw.
//!
//! 1. [`run`] starts `threads` reactors, each a single-threaded event loop with its share of the connections, and on them
//!    one task for each client. Nothing else is ever spawned: a call runs in its client's task.
//! 2. When all are connected the clients start together. After the warm-up the measurement begins: latencies of operations
//!    that *end* inside it are recorded, one histogram a reactor. The monitor, on the calling thread, moves the phases on,
//!    watches the server process and draws the progress bar.
//! 3. Each client ends with the operation that it is in. A call without an answer [`STOP_GRACE`] later is an error.
//!
//! An operation that the server refuses is counted by its error and the client goes on; a broken connection ends the run
//! with an error, because what remained would be another benchmark.

pub mod grpc;
mod pace;
pub mod workload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use hdrhistogram::Histogram;

use self::grpc::{CallError, Channel};
use self::pace::{FineTimer, Pace};
use self::workload::{Client, KeySpace, Workload};
use crate::interrupt;
use crate::process::{self, Watch};
use crate::progress::Progress;
use crate::report::{Latency, Measured, ServerUse};

/// How often the monitor looks.
const MONITOR_INTERVAL: Duration = Duration::from_millis(20);

/// How long calls in flight may take to end after the last one was started.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Longer latencies count as this long.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

/// Everything about a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Servers; connections go to them in turn.
    pub endpoints: Vec<SocketAddr>,
    /// What the clients do.
    pub workload: Workload,
    /// On which keys.
    pub keys: KeySpace,
    /// Length of the values put.
    pub value_bytes: usize,
    /// How many operations are in flight at most.
    pub clients: usize,
    /// On how many HTTP/2 connections; no more than clients.
    pub connections: usize,
    /// On how many reactors; no more than connections.
    pub threads: usize,
    /// Operations a second in an open loop; `None` for a closed loop.
    pub rate_hz: Option<f64>,
    /// When it ends.
    pub extent: Extent,
    /// The clients' choices follow from it.
    pub seed: u64,
    /// The servers' processes, to report what they used together.
    pub server_pids: Vec<u32>,
    /// Show a progress bar, if stderr is a terminal.
    pub progress: bool,
}

/// How long a run is.
#[derive(Clone, Debug)]
pub enum Extent {
    /// Measures for `measure`, after `warm_up`.
    Time {
        /// Load before the measurement.
        warm_up: Duration,
        /// The measurement.
        measure: Duration,
    },
    /// Measures until `done`.
    Until {
        /// Set by somebody else.
        done: Arc<AtomicBool>,
    },
    /// So many operations, all of them measured.
    Operations(u64),
}

/// What a run is doing; only goes up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    WarmUp,
    Measure,
    Stop,
}

/// What the reactors of one run share.
struct Run {
    plan: Plan,
    phase: AtomicU8,
    /// The number of the next operation.
    next_turn: AtomicU64,
    /// Set when all reactors are connected.
    pace: OnceLock<Pace>,
    connected: Barrier,
}

impl Run {
    fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// The next operation's number, unless the run is over.
    fn take_turn(&self) -> Option<u64> {
        if self.is_in(Phase::Stop) {
            return None;
        }
        let turn = self.next_turn.fetch_add(1, Ordering::Relaxed);
        match self.plan.extent {
            Extent::Operations(total) if turn >= total => None,
            _ => Some(turn),
        }
    }
}

/// What the clients of one reactor saw.
struct Seen {
    latencies_nanos: Histogram<u64>,
    refused: BTreeMap<String, u64>,
    conflicts: u64,
}

/// A reactor as the monitor knows it.
struct Lane {
    seen: Arc<Mutex<Seen>>,
    /// Operations that ended, in any phase.
    ended: Arc<AtomicU64>,
    /// Ends with when its last client ended.
    thread: thread::JoinHandle<anyhow::Result<Instant>>,
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `plan` and waits for its end.
pub fn run(plan: &Plan) -> anyhow::Result<Measured> {
    ensure!(!plan.endpoints.is_empty(), "no endpoint to connect to");
    ensure!(
        plan.clients >= 1 && plan.connections >= 1 && plan.threads >= 1,
        "clients, connections, threads: at least 1"
    );
    ensure!(plan.keys.count >= 1, "the key space has no key");
    let connections = plan.connections.min(plan.clients);
    let threads = plan.threads.min(connections);
    let run = Arc::new(Run {
        plan: plan.clone(),
        phase: AtomicU8::new(match plan.extent {
            Extent::Time { .. } => Phase::WarmUp as u8,
            Extent::Until { .. } | Extent::Operations(_) => Phase::Measure as u8,
        }),
        next_turn: AtomicU64::new(0),
        pace: OnceLock::new(),
        connected: Barrier::new(threads + 1),
    });
    let mut lanes = Vec::with_capacity(threads);
    for number in 0..threads {
        // Connection c serves the clients c, c + connections, ...; and lives on reactor c % threads.
        let connections_here: Vec<Vec<usize>> = (number..connections)
            .step_by(threads)
            .map(|connection| (connection..plan.clients).step_by(connections).collect())
            .collect();
        lanes.push(Lane::start(run.clone(), number, threads, connections_here)?);
    }
    // A reactor that cannot connect passes the barrier too, and ends.
    run.connected.wait();
    let Observed { begin, end, server, generator_cpu } = monitor(&run, &lanes)?;
    let mut last_ended = begin;
    let mut latencies = new_histogram();
    let mut refused = BTreeMap::new();
    let mut conflicts = 0;
    for lane in lanes {
        let ended = lane.thread.join().map_err(|_| anyhow!("a generator thread panicked"))??;
        last_ended = last_ended.max(ended);
        let seen = lock(&lane.seen);
        latencies.add(&seen.latencies_nanos).context("merging histograms of one range")?;
        for (error, count) in &seen.refused {
            *refused.entry(error.clone()).or_default() += count;
        }
        conflicts += seen.conflicts;
    }
    let elapsed = match plan.extent {
        Extent::Time { .. } | Extent::Until { .. } => end - begin,
        Extent::Operations(_) => last_ended - begin,
    };
    let operations = if plan.workload.is_load() { plan.keys.count } else { latencies.len() };
    let per_operation_micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / (operations.max(1) as f64);
    Ok(Measured {
        workload: plan.workload.name().to_owned(),
        clients: plan.clients,
        connections,
        rate_hz: plan.rate_hz,
        elapsed_secs: elapsed.as_secs_f64(),
        operations,
        per_second: operations as f64 / elapsed.as_secs_f64(),
        latency: Latency::of(&latencies),
        refused,
        conflicts,
        generator_cpu_us_per_op: per_operation_micros(generator_cpu),
        server: server.map(|(cpu, memory)| ServerUse {
            cpu_us_per_op: per_operation_micros(cpu),
            cpu_secs: cpu.as_secs_f64(),
            memory,
        }),
    })
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).expect("1 to 600e9 with 3 digits is a valid range")
}

impl Lane {
    fn start(run: Arc<Run>, number: usize, lanes: usize, connections: Vec<Vec<usize>>) -> anyhow::Result<Lane> {
        let seen =
            Arc::new(Mutex::new(Seen { latencies_nanos: new_histogram(), refused: BTreeMap::new(), conflicts: 0 }));
        let ended = Arc::new(AtomicU64::new(0));
        let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = work(run, seen.clone(), ended.clone(), number, lanes, connections);
        let thread = thread::Builder::new().name(format!("clients-{number}")).spawn(move || reactor.block_on(work))?;
        Ok(Lane { seen, ended, thread })
    }
}

/// One reactor: connects, starts its clients, waits for them.
async fn work(
    run: Arc<Run>,
    seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicU64>,
    number: usize,
    lanes: usize,
    connections: Vec<Vec<usize>>,
) -> anyhow::Result<Instant> {
    let mut clients = Vec::new();
    let connected = async {
        for (index, client_numbers) in connections.into_iter().enumerate() {
            let connection_number = number + index * lanes;
            let channel = Channel::connect(run.plan.endpoints[connection_number % run.plan.endpoints.len()]).await?;
            for client_number in client_numbers {
                let Plan { workload, keys, value_bytes, seed, .. } = &run.plan;
                let stream = u64::try_from(client_number)?;
                clients.push(Client::new(*workload, keys.clone(), *value_bytes, *seed, stream, channel.clone()));
            }
        }
        anyhow::Ok(())
    }
    .await;
    run.connected.wait();
    connected?;
    // The pace is set right after the barrier opens.
    let pace = loop {
        match run.pace.get() {
            Some(pace) => break *pace,
            None => tokio::task::yield_now().await,
        }
    };
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(live(run.clone(), seen.clone(), ended.clone(), pace, client)))
        .collect();
    for task in tasks {
        if let Err(error) = task.await.context("a client panicked")? {
            run.enter(Phase::Stop);
            return Err(error);
        }
    }
    Ok(Instant::now())
}

/// A client's life.
async fn live(
    run: Arc<Run>,
    seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicU64>,
    pace: Pace,
    mut client: Client,
) -> anyhow::Result<()> {
    let mut timer = FineTimer::new()?;
    while let Some(turn) = run.take_turn() {
        let start = match pace.due(turn) {
            Some(due) => {
                timer.sleep_until(due).await?;
                due
            }
            None => Instant::now(),
        };
        let result = client.operate(turn).await;
        let latency = start.elapsed();
        ended.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(()) if run.is_in(Phase::Measure) => {
                lock(&seen).latencies_nanos.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
            }
            Ok(()) => {}
            Err(error @ CallError::Refused { .. }) => {
                *lock(&seen).refused.entry(error.to_string()).or_default() += 1;
            }
            Err(error @ CallError::Broken(_)) => return Err(error.into()),
        }
    }
    lock(&seen).conflicts += client.conflicts;
    Ok(())
}

/// What the monitor measured.
struct Observed {
    begin: Instant,
    end: Instant,
    /// The server's CPU time between the two, and its memory.
    server: Option<(Duration, process::Memory)>,
    /// This process's CPU time between the two.
    generator_cpu: Duration,
}

/// Starts the clients and takes the run through its phases.
fn monitor(run: &Run, lanes: &[Lane]) -> anyhow::Result<Observed> {
    let plan = &run.plan;
    let progress = Progress::new(plan.progress, plan.workload.name(), plan.extent.clone());
    let started = Instant::now();
    let look = || -> anyhow::Result<()> {
        thread::sleep(MONITOR_INTERVAL);
        interrupt::check()?;
        progress.show(started.elapsed(), lanes.iter().map(|lane| lane.ended.load(Ordering::Relaxed)).sum());
        Ok(())
    };
    let all_ended = || lanes.iter().all(|lane| lane.thread.is_finished());
    let watched = Some(plan.server_pids.as_slice()).filter(|pids| !pids.is_empty());
    let watch_server = || watched.map(Watch::start).transpose();

    let (mut server, generator, begin);
    match plan.extent {
        Extent::Time { warm_up, .. } => {
            run.pace.get_or_init(|| Pace::new(Instant::now(), plan.rate_hz));
            while started.elapsed() < warm_up && !all_ended() {
                look()?;
            }
            server = watch_server()?;
            generator = Watch::start(&[std::process::id()])?;
            begin = Instant::now();
            run.enter(Phase::Measure);
        }
        Extent::Until { .. } | Extent::Operations(_) => {
            server = watch_server()?;
            generator = Watch::start(&[std::process::id()])?;
            begin = Instant::now();
            run.pace.get_or_init(|| Pace::new(begin, plan.rate_hz));
        }
    }
    let measuring = || match &plan.extent {
        Extent::Time { measure, .. } => begin.elapsed() < *measure,
        Extent::Until { done } => !done.load(Ordering::Relaxed),
        Extent::Operations(_) => true,
    };
    while measuring() && !all_ended() {
        look()?;
        if let Some(server) = &mut server {
            server.sample()?;
        }
    }
    let end = Instant::now();
    run.enter(Phase::Stop);
    let server = server.map(Watch::finish).transpose()?;
    let generator_cpu = generator.finish()?.0;
    progress.finish();
    while !all_ended() {
        interrupt::check()?;
        if end.elapsed() > STOP_GRACE {
            bail!("calls still had no answer {} s after the last one was sent", STOP_GRACE.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Observed { begin, end, server, generator_cpu })
}

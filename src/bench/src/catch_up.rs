//! A follower that was away comes back: how long until it knows all, and what that costs those who are served meanwhile.
//!
//! Three members on this machine. They are filled; the leader's highest rate of puts is measured, then its latency at half that
//! rate while all is quiet. A follower is killed, and the other two take in so many entries that the begin of what it lacks is
//! in no log any more: it needs a snapshot. Then it is started, and from that moment until it has caught up the leader's latency
//! and memory are measured again, at the same rate.
//!
//! What is measured is what a leader and its clients pay. So the one that comes back gets the processor only when nobody else
//! wants it, as if it had a machine of its own; the disk it shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use prost::Message as _;
use quorate_proto::etcdserverpb::{StatusRequest, StatusResponse};
use serde::Serialize;

use crate::compare::marks::{self, Mark};
use crate::compare::server::Server;
use crate::compare::{self, ServerKind};
use crate::generator::grpc::{Channel, Rpc};
use crate::generator::workload::{KeyOrder, KeySpace, Workload};
use crate::generator::{self, Extent, Plan};
use crate::interrupt;
use crate::report::{self, Measured};

/// Puts in one request while the members are filled.
const FILL_BATCH: u64 = 100;

/// Keys and length of the values of what the follower misses: they cost entries, and few bytes.
const MISSED_KEYS: u64 = 1000;
const MISSED_VALUE_BYTES: usize = 16;

/// A follower has caught up when it lacks no more entries than this; under load there are always some.
const CAUGHT_UP_ENTRIES: u64 = 1000;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members, their keys, the load, the length of a measurement. `rounds` and memory rounds are not used.
    pub servers: compare::Options,
    /// How many entries the follower misses.
    pub behind: u64,
}

/// What came of it, for one kind of server.
#[derive(Debug, Serialize)]
struct Outcome {
    server: ServerKind,
    highest: Measured,
    quiet: Measured,
    catching_up: Measured,
    caught_up_secs: f64,
    missed_entries: u64,
    marks: Vec<Mark>,
}

/// Measures, prints, judges.
pub fn run(options: &Options) -> anyhow::Result<()> {
    interrupt::note_signals()?;
    let mut missed = 0;
    for kind in &options.servers.servers {
        let outcome = measure(*kind, options).with_context(|| format!("measuring {}", kind.name()))?;
        if *kind == ServerKind::Quorate {
            missed += outcome.marks.iter().filter(|mark| !mark.passed).count();
        }
        if options.servers.json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            print(&outcome);
        }
    }
    ensure!(!options.servers.check || missed == 0, "{missed} marks missed");
    Ok(())
}

fn measure(kind: ServerKind, options: &Options) -> anyhow::Result<Outcome> {
    let note = |text: String| {
        if !options.servers.json {
            eprintln!("{}: {text}", kind.name());
        }
    };
    let setting = &options.servers;
    let mut server = Server::start_empty(kind, setting)?;
    let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let leader = reactor.block_on(leader(&server.addresses))?;
    let plan = Plan {
        endpoints: vec![server.addresses[leader]],
        workload: Workload::Put,
        keys: KeySpace { prefix: "bench/".to_owned(), count: setting.key_count },
        value_bytes: setting.value_bytes,
        clients: setting.clients,
        connections: setting.connections,
        threads: 1,
        rate_hz: None,
        extent: Extent::Time { warm_up: setting.warm_up, measure: setting.measure },
        seed: 1,
        server_pids: vec![server.pids()[leader]],
        progress: !setting.json,
    };

    note(format!("filling with {} keys of {} bytes", setting.key_count, setting.value_bytes));
    let fill = Plan {
        workload: Workload::Load { batch: FILL_BATCH, order: KeyOrder::Random },
        extent: Extent::Operations(setting.key_count.div_ceil(FILL_BATCH)),
        ..plan.clone()
    };
    compare::all_accepted(&generator::run(&fill)?)?;
    note("the leader's highest rate, then half of it".to_owned());
    let mut highest = generator::run(&plan)?;
    highest.workload = "put, as fast as it goes".to_owned();
    let half = Plan { rate_hz: Some(highest.per_second / 2.0), ..plan.clone() };
    let mut quiet = generator::run(&half)?;
    quiet.workload = "put at half the rate, quiet".to_owned();

    let follower = (leader + 1) % server.addresses.len();
    server.kill_member(follower)?;
    note(format!("a follower is gone; {} entries without it", options.behind));
    let missed = Plan {
        keys: KeySpace { prefix: "missed/".to_owned(), count: MISSED_KEYS },
        value_bytes: MISSED_VALUE_BYTES,
        extent: Extent::Operations(options.behind),
        ..plan.clone()
    };
    compare::all_accepted(&generator::run(&missed)?)?;

    note("it comes back".to_owned());
    let done = Arc::new(AtomicBool::new(false));
    let addresses = (server.addresses[leader], server.addresses[follower]);
    server.restart_elsewhere(follower, setting)?;
    let started = Instant::now();
    let watching = thread::Builder::new().name("catch-up".to_owned()).spawn({
        let done = Arc::clone(&done);
        move || {
            let found = reactor.block_on(until_caught_up(addresses, started, &done));
            done.store(true, Ordering::Relaxed);
            found
        }
    })?;
    let meanwhile = generator::run(&Plan { extent: Extent::Until { done: Arc::clone(&done) }, ..half });
    // Without a load there is nothing to be learnt any more.
    done.store(true, Ordering::Relaxed);
    let caught_up = watching.join().map_err(|_panic| anyhow!("the thread that watches the follower panicked"))?;
    let (mut catching_up, caught_up) = (meanwhile?, caught_up?);
    catching_up.workload = "put at half the rate, catching up".to_owned();
    server.stop()?;

    let memory = |run: &Measured| run.server.as_ref().map_or(0.0, |server| server.memory.anonymous_peak_bytes as f64);
    let marks = marks::catch_up_marks(
        (quiet.latency.p99_us, catching_up.latency.p99_us),
        (memory(&quiet), memory(&catching_up)),
    );
    Ok(Outcome {
        server: kind,
        highest,
        quiet,
        catching_up,
        caught_up_secs: caught_up.as_secs_f64(),
        missed_entries: options.behind,
        marks,
    })
}

async fn status(address: SocketAddr) -> anyhow::Result<StatusResponse> {
    let asking = async {
        let mut channel = Channel::connect(address).await?;
        Ok(StatusResponse::decode(channel.call(Rpc::Status, &StatusRequest::default()).await?)?)
    };
    tokio::time::timeout(Duration::from_secs(5), asking).await.context("no answer for 5 s")?
}

/// Which of the members leads.
async fn leader(addresses: &[SocketAddr]) -> anyhow::Result<usize> {
    for (member, address) in addresses.iter().enumerate() {
        let status = status(*address).await?;
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(member);
        }
    }
    bail!("no member says that it leads")
}

/// How long it took since `started`. Ends early if it is `abandoned`.
async fn until_caught_up(
    (leader, follower): (SocketAddr, SocketAddr),
    started: Instant,
    abandoned: &AtomicBool,
) -> anyhow::Result<Duration> {
    while started.elapsed() < PATIENCE {
        interrupt::check()?;
        ensure!(!abandoned.load(Ordering::Relaxed), "the load ended before the follower had caught up");
        let wanted = status(leader).await?.raft_index;
        // It does not answer while it is starting.
        if status(follower).await.is_ok_and(|status| status.raft_applied_index + CAUGHT_UP_ENTRIES >= wanted) {
            return Ok(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the follower has not caught up within {} s", PATIENCE.as_secs())
}

fn print(outcome: &Outcome) {
    let name = outcome.server.name();
    println!("{}", report::table([&outcome.highest, &outcome.quiet, &outcome.catching_up].map(|run| (name, run))));
    println!("{name}: {} entries behind, caught up after {:.1} s", outcome.missed_entries, outcome.caught_up_secs);
    if outcome.server == ServerKind::Quorate {
        println!("{}", marks::table(&outcome.marks, "quiet"));
    }
}

//! One run from one seed; many runs.
//!
//! A run: draw the plan → start the members → let clients and faults play until the time and the operations are there → stop
//! the faults and put everything right → every client calls until it was served → explain what is left, read the final state →
//! judge. The same (binary, seed, options) gives the same [`Report`], trace hash included.

pub mod coverage;
mod log;
mod panics;
mod plan;
mod report;
pub mod soak;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_runtime::{bug, mark, witness};

use crate::checkers::{self, Evidence, MemberHash, Violation};
use crate::faults::membership::Operator;
use crate::faults::{Stage, membership};
use crate::history::{Answer, Outcome, Recorder};
use crate::workloads::{Client, Knowledge, tap};
use crate::world::clock::{self, SimTime};
use crate::world::cluster::{Cluster, client_machine, client_runtime};
use crate::world::disk::{Death, DiskCounters, DiskKnobs};
use crate::world::net::NetKnobs;
use crate::world::{World, lock};

pub use log::LogCollector;
pub use plan::{Options, Plan};
pub use report::Report;

/// Runs `body` in a fresh world, on an operating system thread of its own (madsim keeps its state per thread, and so do the
/// standard library's hash maps). Panics of `body` are panics of the caller.
pub fn in_world<T, F>(seed: u64, body: impl FnOnce(Arc<World>) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let thread = std::thread::spawn(move || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async move { body(World::new(seed)).await })
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A healed cluster must serve every client within this.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// The machine of the operator who looks after the members when all is over.
const AUDITING_OPERATOR: u64 = 51;

/// Machines beside those of the founders, on which members may be added.
const SPARE_MACHINES: u64 = 2;

/// A run that has not got its operations after so many times its planned length is not live.
const OVERTIME: u64 = 5;

/// Runs one seed. A panic inside becomes a violation of the report.
pub fn run(options: &Options) -> Report {
    let log = LogCollector::default();
    let world_slot: Arc<Mutex<Option<Arc<World>>>> = Arc::default();
    let (thread_options, thread_log, thread_slot) = (options.clone(), log.clone(), Arc::clone(&world_slot));
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let thread = std::thread::spawn(move || {
        let _logging = tracing::subscriber::set_default(thread_log);
        panics::collect_here();
        let seed = thread_options.seed;
        let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        let world_slot = thread_slot;
        runtime.block_on(async move {
            let world = World::new(seed);
            *lock(&world_slot) = Some(Arc::clone(&world));
            if thread_options.keep_trace {
                world.trace.keep_lines();
            }
            let report = play(&thread_options, Arc::clone(&world)).await;
            Report { panics: panics::collected(), trace_lines: world.trace.lines(), ..report }
        })
    });
    let mut report = match thread.join() {
        Ok(report) => report,
        Err(panic) => Report {
            violations: vec![Violation { checker: "no_panic", what: panics::text(&*panic) }],
            story: lock(&world_slot).as_ref().map(|world| world.story()).unwrap_or_default(),
            ..Report::default()
        },
    };
    report.seed = options.seed;
    report.replay_command = options.replay_command();
    report.log_counts = log.counts();
    if !report.violations.is_empty() {
        report.log_lines = log.lines();
    }
    report
}

async fn play(options: &Options, world: Arc<World>) -> Report {
    let plan = Plan::draw(options);
    bug::switch_to(options.bug);

    let cluster = Cluster::new(&world, plan.members, SPARE_MACHINES, &plan.limits);
    for machine in &cluster.machines {
        cluster.start(machine);
    }
    let client_count = plan.clients.len() as u64;
    // One more client explains and reads at the end.
    let auditor_number = client_count;
    let machines = (0..client_count).map(client_machine).collect();
    let stage = Stage::new(Arc::clone(&world), Arc::clone(&cluster), machines);
    let recorder = Recorder::new(world.trace.clone());
    let knowledge = Arc::new(Mutex::new(Knowledge::new(options.flip_value)));
    let new_client = |number| {
        let rt = client_runtime(&world, number);
        let (stage, recorder, knowledge) = (Arc::clone(&stage), recorder.clone(), Arc::clone(&knowledge));
        Client::new(number, rt, stage, recorder, knowledge, plan.client_options.clone())
    };

    let workloads: Vec<_> = plan.clients.iter().map(|workload| workload.name()).collect();
    let mut playing = Vec::new();
    for (number, workload) in plan.clients.into_iter().enumerate() {
        let mut client = new_client(number as u64);
        let node = world.new_node(&format!("workload {number}"));
        playing.push(node.spawn(async move {
            workload.run(&mut client).await;
            client
        }));
    }
    let changes_members = plan.faults.iter().any(|fault| fault.name() == membership::NAME);
    let mut striking = Vec::new();
    for fault in plan.faults {
        let (stage, dice) = (Arc::clone(&stage), world.dice(&format!("fault {}", fault.name())));
        let node = world.new_node(fault.name());
        striking.push(node.spawn(async move { fault.run(&stage, dice).await }));
    }

    let wanted = Duration::from_secs(options.seconds);
    loop {
        clock::sleep(Duration::from_secs(1)).await;
        let played = clock::now().since(SimTime::default());
        let eventful = is_eventful(options, &stage) || played >= 2 * wanted;
        let enough = played >= wanted && recorder.answered() >= options.operations && eventful;
        if enough || played >= wanted * OVERTIME as u32 || !cluster.complaints().is_empty() {
            break;
        }
    }
    let acked = recorder.answered();
    stage.end();
    for strike in striking {
        strike.await.expect("a fault runs to its end");
    }
    heal(&world, &cluster);
    let healed_at = clock::now();
    world.tell("all faults are over");
    let mut operator = Operator::new(&stage, AUDITING_OPERATOR, world.dice("operator at the end"));

    // A member that is known to be broken need not be waited for.
    let patience = if cluster.complaints().is_empty() { RECOVERY_LIMIT } else { Duration::from_secs(1) };
    let deadline = healed_at.plus_nanos(patience.as_nanos() as u64);
    let unsettled = changes_members && by(deadline, operator.settle()).await.is_none();
    let mut clients = Vec::new();
    for client in playing {
        // A client that waits for a connection notices the end only when it gets one.
        let Some(ended) = by(deadline, client).await else { continue };
        let mut client = ended.expect("a client runs to its end");
        by(deadline, farewell(&mut client)).await;
        clients.push(client);
    }
    let mut auditor = new_client(auditor_number);
    by(deadline, audit(&mut auditor)).await;
    let hashes = by(deadline, hashes(&cluster)).await;
    let client_numbers = (0..client_count).chain([auditor_number]).collect();

    for machine in &cluster.machines {
        cluster.stop(machine).await;
    }
    let evidence = Evidence {
        operations: recorder.operations(),
        taps: recorder.taps(),
        crashes: cluster.crashes(),
        healed_at,
        recovery_limit_ns: RECOVERY_LIMIT.as_nanos() as u64,
        clients: client_numbers,
        complaints: cluster.complaints(),
        contradictions: witness::take(),
        // One that is known to be broken was not waited for.
        straggling: hashes.is_none() && cluster.complaints().is_empty(),
        hashes: hashes.unwrap_or_default(),
        unsettled,
    };
    let mut violations = checkers::judge(&evidence);
    // A run that a broken member cut short has more to say than that.
    if acked < options.operations && evidence.complaints.is_empty() {
        let what = format!("only {acked} operations were answered in {healed_at}");
        violations.push(Violation { checker: "vacuity", what });
    }
    if !is_eventful(options, &stage) && evidence.complaints.is_empty() {
        let what = "no member came or went, or no snapshot was installed".to_owned();
        violations.push(Violation { checker: "vacuity", what });
    }
    let mut disk = DiskCounters::default();
    for machine in &cluster.machines {
        disk += machine.disk.counters();
    }
    drop((clients, auditor));
    world.shut_down().await;
    Report {
        seconds: healed_at.as_nanos() as f64 / 1e9,
        acked,
        unknown: evidence.operations.iter().filter(|operation| operation.outcome == Outcome::Unknown).count() as u64,
        refused: evidence
            .operations
            .iter()
            .filter(|operation| matches!(operation.outcome, Outcome::Refused { .. }))
            .count() as u64,
        disk,
        net: world.net.counters(),
        strikes: stage.strike_counts(),
        pairs: coverage::of(&stage.strikes(), &evidence.operations, &workloads),
        hash: world.trace.hash(),
        events: world.trace.events(),
        marks: mark::take(),
        bug_reached: bug::reached(),
        violations,
        story: world.story(),
        ..Report::default()
    }
}

/// True if there happened what this run was for.
fn is_eventful(options: &Options, stage: &Stage) -> bool {
    !options.membership || (mark::count("snapshot_installed") > 0 && stage.has_struck("member_added"))
}

/// Puts everything right and lets every member run.
fn heal(world: &World, cluster: &Arc<Cluster>) {
    world.net.mend_all();
    world.net.tune(|knobs| *knobs = NetKnobs::default());
    for machine in &cluster.machines {
        machine.disk.tune(|knobs| *knobs = DiskKnobs::default());
        cluster.resume(machine);
        if machine.disk.is_fuse_blown() {
            cluster.kill(machine, Death::PowerFailure);
        }
        cluster.start(machine);
    }
}

/// What `work` gives if it is done by `deadline`; it is dropped where it stands if not.
async fn by<T>(deadline: SimTime, work: impl Future<Output = T>) -> Option<T> {
    quorate_runtime::select! {
        biased;
        result = work => Some(result),
        () = clock::sleep_until(deadline) => None,
    }
}

/// What all members hold once they have applied equally much; waits for that for ever if need be.
async fn hashes(cluster: &Cluster) -> Vec<MemberHash> {
    loop {
        let views: Vec<_> =
            cluster.members().iter().map(|machine| Some((machine.name.clone(), machine.member()?.view()))).collect();
        let revision = views.first().and_then(|first| Some(first.as_ref()?.1.revision()));
        let (Some(views), Some(revision)) = (views.into_iter().collect::<Option<Vec<_>>>(), revision) else {
            clock::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if views.iter().all(|(_, view)| view.revision() == revision) {
            let hash = |(name, view): (String, Arc<quorate_store::View>)| {
                let hash = view.hash_kv(revision).ok()?;
                Some(MemberHash {
                    member: name,
                    revision: revision.0,
                    compact_revision: hash.compact_revision.0,
                    hash: hash.hash,
                })
            };
            return views.into_iter().filter_map(hash).collect();
        }
        clock::sleep(Duration::from_millis(100)).await;
    }
}

/// Calls until one put and one read were answered, for ever if need be.
async fn farewell(client: &mut Client) {
    let (mut wrote, mut read) = (false, false);
    while !(wrote && read) {
        let key = client.key();
        wrote |= matches!(client.put(key.clone()).await, Outcome::Answered(_));
        read |= matches!(client.read(key, bytes::Bytes::new()).await, Outcome::Answered(_));
    }
}

/// Explains every revision and reads the final state, linearizable and serializable; tries for ever if need be.
async fn audit(client: &mut Client) {
    farewell(client).await;
    loop {
        let everything = bytes::Bytes::from_static(b"\0");
        let Outcome::Answered(Answer::Range(last)) = client.read(everything.clone(), everything.clone()).await else {
            continue;
        };
        let revision = last.header.map_or(0, |header| header.revision);
        if tap::explain(client, revision).await {
            let range = quorate_proto::etcdserverpb::RangeRequest {
                key: everything.clone(),
                range_end: everything,
                serializable: true,
                ..Default::default()
            };
            client.call(crate::history::Request::Range(range)).await;
            return;
        }
    }
}

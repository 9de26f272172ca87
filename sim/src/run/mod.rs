//! One run from one seed; many runs.
//!
//! A run: draw the plan → start the members → let clients and faults play until the time and the operations are there → stop
//! the faults and put everything right → every client calls until it was served → explain what is left, read the final state →
//! judge. The same (binary, seed, options) gives the same [`Report`], trace hash included.

pub mod coverage;
pub mod demands;
mod log;
mod panics;
mod plan;
mod report;
pub mod shrink;
pub mod soak;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_runtime::{bug, mark, witness};

use crate::checkers::{self, Evidence, MemberHash, Violation};
use crate::faults::membership::Operator;
use crate::faults::{Stage, membership};
use crate::history::{Answer, Outcome, Recorder};
use crate::scenario::play::Player;
use crate::scenario::{self, Caller};
use crate::workloads::{Client, Knowledge, quota, tap};
use crate::world::clock::{self, ClockErrors, SimTime};
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

/// The machine of the operator of a scenario.
const SCENARIO_OPERATOR: u64 = 52;

/// A run that has not got its operations after so many times its planned length is not live.
const OVERTIME: u64 = 10;

/// Runs one seed. A panic inside becomes a violation of the report.
pub fn run(options: &Options) -> Report {
    #[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "outside the simulated world")]
    let begin = std::time::Instant::now();
    let log = LogCollector::default();
    let world_slot: Arc<Mutex<Option<Arc<World>>>> = Arc::default();
    let (thread_options, thread_log, thread_slot) = (options.clone(), log.clone(), Arc::clone(&world_slot));
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let thread = std::thread::spawn(move || {
        let log = thread_log.clone();
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
            let report = play(&thread_options, Arc::clone(&world), &log).await;
            Report { panics: panics::collected(), trace_lines: world.trace.lines(), ..report }
        })
    });
    let mut report = match thread.join() {
        Ok(report) => report,
        Err(panic) => {
            let world = lock(&world_slot);
            let story = world.as_ref().map(|world| world.story()).unwrap_or_default();
            Report {
                seconds: story.last().map_or(0.0, |(at, _)| at.as_nanos() as f64 / 1e9),
                violations: vec![Violation { checker: NO_PANIC, what: panics::text(&*panic) }],
                deeds: world.as_ref().map(|world| world.deeds()).unwrap_or_default(),
                story,
                ..Report::default()
            }
        }
    };
    report.took = begin.elapsed();
    report.seed = options.seed;
    report.replay_command = options.replay_command();
    report.log_counts = log.counts();
    if !report.violations.is_empty() {
        report.log_lines = log.lines();
    }
    report
}

async fn play(options: &Options, world: Arc<World>, log: &LogCollector) -> Report {
    let plan = Plan::draw(options);
    let leaves_alarms_to_clients = options.scenario.is_none() && plan.leaves_alarms_to_clients();
    bug::switch_to(options.bug);

    let cluster = Cluster::new(&world, plan.members, plan.spares, &plan.limits);
    for machine in cluster.machines.iter().filter(|_| plan.starts) {
        cluster.start(machine);
    }
    let client_count = plan.clients.len() as u64;
    // One more client explains and reads at the end.
    let auditor_number = client_count;
    let machines = (0..client_count).map(client_machine).collect();
    let recorder = Recorder::new(world.trace.clone());
    let stage = Stage::new(Arc::clone(&world), Arc::clone(&cluster), machines, recorder.clone());
    let knowledge = Arc::new(Mutex::new(Knowledge::new(options.flip_value)));
    let client_of = |number, recorder: &Recorder| {
        let rt = client_runtime(&world, number);
        let (stage, recorder, knowledge) = (Arc::clone(&stage), recorder.clone(), Arc::clone(&knowledge));
        Client::new(number, rt, stage, recorder, knowledge, plan.client_options.clone())
    };
    let new_client = |number| client_of(number, &recorder);

    let workloads: Vec<_> = plan.clients.iter().map(|client| client.as_ref().map(|workload| workload.name())).collect();
    let mut playing = Vec::new();
    let there = |(number, client): (usize, Option<_>)| Some((number, client?));
    for (number, workload) in plan.clients.into_iter().enumerate().filter_map(there) {
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

    let mut scenario_outcome = scenario::play::Outcome::default();
    match &options.scenario {
        Some(scenario) => {
            let unrecorded = Recorder::new(world.trace.clone());
            let (client, outsider) = (new_client(client_count + 1), client_of(client_count + 2, &unrecorded));
            let caller = Caller::new(&stage, client_runtime(&world, SCENARIO_OPERATOR), client, outsider);
            let player = Player::new(&stage, log.clone(), world.dice("scenario"), caller);
            quorate_runtime::select! {
                biased;
                outcome = player.play(&scenario.lines) => scenario_outcome = outcome,
                // A member that did what it must not ends the run; what the scenario waits for may never come then.
                () = complained(&cluster) => {}
            }
        }
        None => play_long_enough(options, &stage, &recorder).await,
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
    let unsettled = changes_members && by(deadline, operator.settle(options.membership)).await.is_none();
    let mut clients = Vec::new();
    let mut auditor = new_client(auditor_number);
    let ending = Box::pin(async {
        for client in playing {
            // A client that waits for a connection notices the end only when it gets one.
            let Some(ended) = by(deadline, client).await else { continue };
            let mut client = ended.expect("a client runs to its end");
            by(deadline, farewell(&mut client)).await;
            clients.push(client);
        }
        by(deadline, audit(&mut auditor)).await.unwrap_or(healed_at)
    });
    let mut keeper = workloads.contains(&Some(quota::NAME)).then(|| new_client(client_count + 3));
    let keeping = async {
        match &mut keeper {
            Some(keeper) => quota::keep_room(keeper).await,
            None => std::future::pending().await,
        }
    };
    let audited_at = quorate_runtime::select! {
        biased;
        audited_at = ending => audited_at,
        () = keeping => unreachable!("room is kept for ever"),
    };
    let hashes = by(deadline, hashes(&cluster)).await;
    let numbered = workloads.iter().zip(0..).filter(|(workload, _)| workload.is_some());
    let client_numbers = numbered.map(|(_, number)| number).chain([auditor_number]).collect();

    for machine in &cluster.machines {
        cluster.stop(machine).await;
    }
    let evidence = Evidence {
        operations: recorder.operations(),
        watches: recorder.watches(),
        leases: recorder.leases(),
        locks: recorder.locks(),
        elections: recorder.elections(),
        observations: recorder.observations(),
        alarms: recorder.alarms(),
        leaves_alarms_to_clients,
        election_timeout_ms: plan.limits.settings.election_ms,
        committed: witness::requests(),
        kept: plan.limits.settings.auto_compaction,
        auto_compactions: log.auto_compactions().into_iter().filter(|by| by.at <= audited_at).collect(),
        losses: recorder.losses(),
        clocks: cluster.machines.iter().fold(ClockErrors::default(), |worst, machine| worst.or(machine.clock.errors())),
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
    if let Some(what) = scenario_outcome.failure {
        // What the scenario demands comes first: the rest may be what follows from it.
        violations.insert(0, Violation { checker: EXPECT, what });
    }
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
    drop((clients, auditor, keeper));
    world.shut_down().await;
    Report {
        depth: Some(plan.limits.depth),
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
        deeds: world.deeds(),
        pairs: coverage::of(&stage.strikes(), evidence.calls(), &workloads),
        hash: world.trace.hash(),
        events: world.trace.events(),
        marks: mark::take(),
        bug_reached: bug::reached(),
        violations,
        story: world.story(),
        ..Report::default()
    }
}

async fn complained(cluster: &Cluster) {
    while cluster.complaints().is_empty() {
        clock::sleep(Duration::from_millis(100)).await;
    }
}

/// Until time, operations and events are there that this run wants, or cannot be had.
async fn play_long_enough(options: &Options, stage: &Stage, recorder: &Recorder) {
    let wanted = Duration::from_secs(options.seconds);
    loop {
        clock::sleep(Duration::from_secs(1)).await;
        let played = clock::now().since(SimTime::default());
        let eventful = is_eventful(options, stage) || played >= 2 * wanted;
        let enough = played >= wanted && recorder.answered() >= options.operations && eventful;
        if enough || played >= wanted * OVERTIME as u32 || !stage.cluster.complaints().is_empty() {
            return;
        }
    }
}

/// Who speaks when a line of a scenario is not as it has to be.
pub const EXPECT: &str = "expect";

/// Who speaks when something panicked: an assertion of the product, most likely.
pub const NO_PANIC: &str = "no_panic";

/// True if there happened what this run was for.
fn is_eventful(options: &Options, stage: &Stage) -> bool {
    !options.membership || (mark::count("snapshot_installed") > 0 && stage.has_struck("member_added"))
}

/// Puts everything right and lets every member run.
fn heal(world: &World, cluster: &Arc<Cluster>) {
    world.wakes.be_idle();
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

/// Explains every revision and reads the final state, linearizable and serializable; tries for ever if need be. Leases may end
/// meanwhile: it is done when the newest revision that any of its answers can have told of is explained. Returns a moment before
/// which nothing newer was made.
async fn audit(client: &mut Client) -> SimTime {
    farewell(client).await;
    let mut explained = 0;
    loop {
        let (everything, asked_at) = (bytes::Bytes::from_static(b"\0"), clock::now());
        let Outcome::Answered(Answer::Range(last)) = client.read(everything.clone(), everything.clone()).await else {
            continue;
        };
        let revision = last.header.map_or(0, |header| header.revision);
        if revision == explained {
            return asked_at;
        }
        if tap::explain(client, revision).await {
            explained = revision;
            let range = quorate_proto::etcdserverpb::RangeRequest {
                key: everything.clone(),
                range_end: everything,
                serializable: true,
                ..Default::default()
            };
            client.call(crate::history::Request::Range(range)).await;
        }
    }
}

//! What a seed decides before the run begins (swarm): which faults and workloads there are, how strong, and how small the
//! member's limits.

use std::sync::Arc;
use std::time::Duration;

use quorate_member::{AutoCompaction, MemberConfig};
use quorate_store::watch::WatchLimits;

use crate::faults::{self, Fault, full_disk, membership, quorum_lost};
use crate::scenario::{self, Scenario};
use crate::workloads::{self, ClientOptions, Workload};
use crate::world::cluster::{Depth, Limits};
use crate::world::dice::Dice;

/// What whoever starts a run may decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// Simulated time with clients and faults, at least.
    pub seconds: u64,
    /// Acknowledged operations, at least.
    pub operations: u64,
    /// How many members, if not as the seed decides.
    pub members: Option<u64>,
    /// How many clients, if not as the seed decides.
    pub clients: Option<u64>,
    /// How often all of them together call, if nothing makes them wait and if not as the seed decides.
    pub calls_per_second: Option<u64>,
    /// How much is real, if not as the seed decides.
    pub depth: Option<Depth>,
    /// The only fault, if the seed does not decide which there are.
    pub fault: Option<&'static str>,
    /// Members come and go in this run, and some get a snapshot.
    pub membership: bool,
    /// Runs members that never wait for the disk: a known bug, which must be found.
    pub unsafe_no_fsync: bool,
    /// Flips one bit of this value (counted over all clients' values, from 1): the trace hash must change.
    pub flip_value: Option<u64>,
    /// Keeps a line for each event of the trace in the report.
    pub keep_trace: bool,
    /// The seeded bug that is switched on: see [`crate::bugs`].
    pub bug: Option<&'static str>,
    /// What is played instead of what the seed draws.
    pub scenario: Option<Arc<Scenario>>,
}

impl Options {
    /// The default run of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            seconds: 60,
            operations: 1000,
            members: None,
            clients: None,
            calls_per_second: None,
            depth: None,
            fault: None,
            membership: false,
            unsafe_no_fsync: false,
            flip_value: None,
            keep_trace: false,
            bug: None,
            scenario: None,
        }
    }

    /// The run of a scenario.
    pub fn of_scenario(scenario: Arc<Scenario>, seed: u64) -> Self {
        Self { seconds: 0, operations: 0, scenario: Some(scenario), ..Self::new(seed) }
    }

    /// The command line that replays it.
    pub fn replay_command(&self) -> String {
        let program = "cargo run --release -p quorate-sim --features sim --";
        if let Some(scenario) = &self.scenario {
            let bug = self.bug.map_or_else(String::new, |bug| format!(" --bug {bug}"));
            return format!("{program} scenario {} --seed {}{bug}", scenario.path, self.seed);
        }
        let defaults = Self::new(self.seed);
        let mut command = format!("{program} run --seed {}", self.seed);
        if self.seconds != defaults.seconds {
            command += &format!(" --seconds {}", self.seconds);
        }
        if self.operations != defaults.operations {
            command += &format!(" --operations {}", self.operations);
        }
        if let Some(members) = self.members {
            command += &format!(" --members {members}");
        }
        if let Some(clients) = self.clients {
            command += &format!(" --clients {clients}");
        }
        if let Some(calls_per_second) = self.calls_per_second {
            command += &format!(" --rate {calls_per_second}");
        }
        if let Some(depth) = self.depth {
            command += &format!(" --depth {depth}");
        }
        if let Some(fault) = self.fault {
            command += &format!(" --fault {fault}");
        }
        if self.membership {
            command += " --membership";
        }
        if self.unsafe_no_fsync {
            command += " --unsafe-no-fsync";
        }
        if let Some(flip_value) = self.flip_value {
            command += &format!(" --flip-value {flip_value}");
        }
        if let Some(bug) = self.bug {
            command += &format!(" --bug {bug}");
        }
        command
    }
}

/// What the seed decided.
pub struct Plan {
    /// How many members found the cluster.
    pub members: u64,
    /// Workload of each client by number; `None` if there is no such client.
    pub clients: Vec<Option<Box<dyn Workload>>>,
    /// How clients behave.
    pub client_options: ClientOptions,
    /// Faults that happen.
    pub faults: Vec<Box<dyn Fault>>,
    /// The members' settings.
    pub limits: Limits,
    /// Machines beside the founders', on which members may be added.
    pub spares: u64,
    /// The founders are started at the beginning.
    pub starts: bool,
}

/// Machines beside the founders' where no scenario says how many.
const SPARE_MACHINES: u64 = 2;

impl Plan {
    /// Draws the plan of a run.
    pub fn draw(options: &Options) -> Self {
        let mut dice = Dice::new(options.seed, "plan");
        if let Some(scenario) = &options.scenario {
            return Self::of_scenario(scenario, options.seed);
        }
        // There are always writers: the first client plays registers.
        let mut names = vec![workloads::ALL[0].0];
        let drawn = dice.between(2, 6);
        for _ in 0..options.clients.map_or(drawn, |clients| clients.max(1) - 1) {
            names.push(dice.pick(workloads::ALL).0);
        }
        let has_quota = names.contains(&workloads::quota::NAME);
        let clients = named_clients(options.seed, names.into_iter().map(Some));
        let drawn = dice.between(25, 60);
        let calls_per_second = options.calls_per_second.unwrap_or(drawn).max(1);
        let client_options = ClientOptions {
            think: Duration::from_micros(clients.len() as u64 * 1_000_000 / calls_per_second),
            timeout: Duration::from_millis(dice.between(800, 8000)),
            keys: dice.magnitude(3, 100),
            padding_bytes_max: *dice.pick(&[100, 2000, 40_000]),
        };
        let mut faults: Vec<Box<dyn Fault>> = Vec::new();
        for (name, make) in faults::ALL {
            // There is always some crash in a run; the rest is drawn.
            let wanted = dice.percent(50) || (*name == "crash_in_call" && dice.percent(80));
            let drawn = make(&mut dice);
            if wanted || (options.membership && *name == membership::NAME) {
                faults.push(drawn);
            }
        }
        // Whoever changes the members step by step would be at odds with who starts a new cluster.
        if faults.iter().any(|fault| fault.name() == membership::NAME) {
            faults.retain(|fault| fault.name() != quorum_lost::NAME);
        }
        if let Some(only) = options.fault {
            faults = faults::ALL.iter().filter(|(name, _)| *name == only).map(|(_, make)| make(&mut dice)).collect();
        } else if !faults.iter().any(|fault| ["kill", "crash_in_call"].contains(&fault.name())) {
            let (_, make) = faults::ALL.iter().find(|(name, _)| *name == "crash_in_call").expect("it is in the list");
            faults.push(make(&mut dice));
        }
        // Drawn apart, so that the rest of the plan is the same in both.
        let drawn = *Dice::new(options.seed, "depth").pick(&[Depth::Full, Depth::Core]);
        let depth = options.depth.unwrap_or(drawn);
        let mut limits = Limits {
            depth,
            reactors: dice.between(1, 3) as usize,
            busy_percent: *dice.pick(&[0, 0, 0, 0, 1, 10, 10, 30]),
            settings: draw_settings(options, depth, &mut dice),
        };
        if has_quota {
            limits.settings.quota_bytes = Some(workloads::quota::draw_bytes(&mut dice));
        }
        let members = options.members.unwrap_or(*dice.pick(&[1, 1, 3, 3, 3, 5]));
        Self { members, clients, client_options, faults, limits, spares: SPARE_MACHINES, starts: true }
    }

    /// True if nobody but clients takes alarms back: members do it for disks that were full, and for whoever was removed.
    pub fn leaves_alarms_to_clients(&self) -> bool {
        let takes_back = [full_disk::NAME, membership::NAME, quorum_lost::NAME];
        !self.faults.iter().any(|fault| takes_back.contains(&fault.name()))
    }

    /// A scenario leaves the odds of its workloads to the seed.
    fn of_scenario(scenario: &Scenario, seed: u64) -> Self {
        let load = &scenario.load;
        let mut settings = scenario::options::defaults();
        scenario.settings.iter().for_each(|setting| setting.apply(&mut settings));
        let client_options = ClientOptions {
            think: load.think,
            timeout: load.timeout.unwrap_or(settings.request_timeout() + Duration::from_secs(1)),
            keys: load.keys,
            padding_bytes_max: load.padding_bytes_max,
        };
        Self {
            members: scenario.founders,
            clients: named_clients(seed, load.clients.iter().copied()),
            client_options,
            faults: Vec::new(),
            limits: Limits {
                depth: scenario.depth,
                reactors: scenario.reactors,
                busy_percent: scenario.busy_percent,
                settings,
            },
            spares: scenario.spares,
            starts: scenario.starts,
        }
    }
}

/// Workloads of these names. The odds of each are its own, whatever others there are.
fn named_clients(seed: u64, names: impl Iterator<Item = Option<&'static str>>) -> Vec<Option<Box<dyn Workload>>> {
    let make = |(number, name): (usize, Option<&str>)| {
        let (_, make) = workloads::ALL.iter().find(|(known, _)| Some(*known) == name)?;
        Some(make(&mut Dice::new(seed, &format!("workload {number}"))))
    };
    names.enumerate().map(make).collect()
}

/// Small limits, so that what is rare in production happens all the time. Each is drawn on its own. In core depth nothing makes
/// the member commit to its database with every write: that costs more than all the rest, and full depth has it.
fn draw_settings(options: &Options, depth: Depth, dice: &mut Dice) -> MemberConfig {
    let defaults = scenario::options::defaults();
    let often = depth == Depth::Full;
    let heartbeat_ms = *dice.pick(if often { &[10, 50, 100] } else { &[50, 100, 100] });
    MemberConfig {
        heartbeat_ms,
        election_ms: heartbeat_ms * *dice.pick(&[5, 10]),
        pre_vote: dice.percent(80),
        snapshot_count: *dice.pick(if options.membership { &[3, 3, 50] } else { &[3, 50, 1000, 10_000] }),
        snapshot_catchup_entries: *dice.pick(if options.membership { &[0, 10] } else { &[0, 10, 5000] }),
        flush_interval: Duration::from_millis(*dice.pick(if often {
            &[1, 20, 100, 100, 1000, 1000]
        } else {
            &[2000, 5000, 20_000]
        })),
        pending_bytes_max: *dice.pick(if often { &[8 << 10, 256 << 10, 64 << 20] } else { &[256 << 10, 64 << 20] }),
        cache_bytes: *dice.pick(&[64 << 10, 1 << 20, 64 << 20]),
        wal_segment_bytes: *dice.pick(&[4 << 10, 32 << 10, 1 << 20, 4_000_000]),
        log_memory_bytes: *dice.pick(&[256, 4 << 10, 64 << 20]),
        compaction_batch_rows: *dice.pick(if often { &[1, 10, 1000] } else { &[300, 1000] }),
        compaction_interval: Duration::from_millis(*dice.pick(if often { &[1, 10, 200] } else { &[10, 200] })),
        defragment_slice_bytes: *dice.pick(if often { &[300, 8 << 10, 8 << 20] } else { &[64 << 10, 8 << 20] }),
        watch_limits: draw_watch_limits(dice),
        auto_compaction: draw_auto_compaction(dice),
        lease_checkpoint_interval: dice.percent(50).then(|| Duration::from_millis(dice.between(500, 5000))),
        inflight_bytes_max: *dice.pick(&[10 << 10, 1 << 20, defaults.inflight_bytes_max]),
        unsafe_no_fsync: options.unsafe_no_fsync,
        ..defaults
    }
}

/// Most plans have those of production: small ones cost a run much of its speed.
fn draw_watch_limits(dice: &mut Dice) -> WatchLimits {
    if dice.percent(75) {
        return WatchLimits::default();
    }
    let mut up_to = |max: u64| dice.magnitude(1, max) as usize;
    WatchLimits {
        stream_answers_max: up_to(1000),
        stream_bytes_max: up_to(1 << 20),
        held_bytes_max: up_to(1 << 20),
        answer_revisions_max: up_to(1000),
        answer_bytes_max: up_to(1 << 20),
        cursor_watchers_max: up_to(500),
        step_rows_max: up_to(2000),
        step_bytes_max: up_to(1 << 20),
        step_told_max: up_to(10_000),
    }
}

fn draw_auto_compaction(dice: &mut Dice) -> Option<AutoCompaction> {
    let interval = Duration::from_millis(dice.between(200, 5000));
    match dice.below(10) {
        0 => Some(AutoCompaction::Periodic(Duration::from_millis(dice.between(1000, 15_000)))),
        // Often so few that whoever is a moment late comes too late.
        1 | 2 => {
            let kept = if dice.percent(50) { 1 } else { dice.magnitude(1, 500) as i64 };
            Some(AutoCompaction::Revision { kept, interval })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_function_of_the_seed_and_seeds_differ() {
        let shape = |seed| {
            let plan = Plan::draw(&Options::new(seed));
            let clients: Vec<_> = plan.clients.iter().flatten().map(|workload| workload.name()).collect();
            let faults: Vec<_> = plan.faults.iter().map(|fault| fault.name()).collect();
            (clients, faults, format!("{:?} {:?}", plan.limits, plan.client_options))
        };
        assert_eq!(shape(5), shape(5));
        let distinct: std::collections::BTreeSet<_> = (0..50).map(shape).collect();
        assert_eq!(distinct.len(), 50);
    }

    #[test]
    fn every_fault_and_workload_is_drawn_and_every_plan_crashes() {
        let (mut faults, mut clients) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for seed in 0..100 {
            let plan = Plan::draw(&Options::new(seed));
            assert!(plan.faults.iter().any(|fault| ["kill", "crash_in_call"].contains(&fault.name())));
            assert!(
                plan.faults
                    .iter()
                    .filter(|fault| [membership::NAME, quorum_lost::NAME].contains(&fault.name()))
                    .count()
                    < 2
            );
            faults.extend(plan.faults.iter().map(|fault| fault.name()));
            clients.extend(plan.clients.iter().flatten().map(|workload| workload.name()));
        }
        assert_eq!(faults.len(), crate::faults::ALL.len());
        assert_eq!(clients.len(), crate::workloads::ALL.len());
    }
}

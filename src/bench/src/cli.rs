//! The command line.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::catch_up;
use crate::compare;
use crate::generator::workload::{KeyOrder, KeySpace, Workload};
use crate::generator::{Extent, Plan};
use crate::server::Kind;

/// What to do.
pub enum Task {
    /// Put load on a server.
    Run {
        /// The load.
        plan: Plan,
        /// Print JSON.
        json: bool,
    },
    /// Be a reference server.
    Serve {
        /// Which one.
        kind: Kind,
        /// Where.
        listen: SocketAddr,
        /// Where the floor keeps its log.
        data_dir: PathBuf,
        /// How many event loops; 0 for one a core.
        reactors: usize,
    },
    /// Measure several servers against each other.
    Compare(compare::Options),
    /// Measure what a follower that comes back costs.
    CatchUp(catch_up::Options),
}

const WORKLOADS: [(&str, &str); 6] = [
    ("put", "Put random keys of the key space"),
    ("get", "Get random keys, linearizable"),
    ("serializable-get", "Get random keys, serializable"),
    ("scan", "Get the first --limit keys under the prefix, with their total count"),
    ("cas", "Update random keys: get, then put in a transaction if the mod revision is still the same"),
    ("txn", "Put random keys in transactions without comparisons"),
];

/// The program's commands.
pub fn command() -> Command {
    let mut command = Command::new("quorate-bench")
        .about("Measures etcd v3 servers: throughput, latency, CPU time and memory")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    for (name, about) in WORKLOADS {
        let mut workload = Command::new(name).about(about).args(load_args()).args(run_args());
        if name == "scan" {
            workload = workload.arg(number("limit", "KEYS", "100", "Keys in one answer"));
        }
        command = command.subcommand(workload);
    }
    command
        .subcommand(
            Command::new("load")
                .about("Put every key of the key space once")
                .args(load_args())
                .arg(
                    Arg::new("order")
                        .long("order")
                        .value_parser(["sequential", "random"])
                        .default_value("sequential")
                        .help("In which order the keys come"),
                )
                .arg(number("batch", "PUTS", "100", "Puts in one transaction; 1 sends plain puts")),
        )
        .subcommand(server_command())
        .subcommand(compare_command())
        .subcommand(catch_up_command())
}

fn server_command() -> Command {
    Command::new("server")
        .about("Be a reference server: what remains when there is no store")
        .arg(
            Arg::new("kind")
                .required(true)
                .value_parser(["echo", "floor"])
                .help("echo answers at once; floor after its batch is in a log, with one fdatasync a batch"),
        )
        .arg(text("listen", "ADDRESS", "127.0.0.1:2379", "Where to listen"))
        .arg(text("data-dir", "DIR", "quorate-bench.floor", "Where floor keeps its log; created if missing"))
        .arg(number("reactors", "N", "0", "Event loops; 0 for one a core"))
}

fn compare_command() -> Command {
    Command::new("compare")
        .about("Measure quorate, the reference servers and etcd in turn, and print ratios and marks")
        .args(server_args("quorate,echo,floor,etcd"))
        .args(measure_args("5s", "100000", "256"))
        .arg(number("members", "N", "1", "Members of quorate and of etcd, all on this machine"))
        .arg(number("rounds", "N", "5", "How often each server is measured"))
        .arg(number("memory-key-count", "N", "1000000", "Keys of the memory and restart measurement; 0 leaves it out"))
        .arg(number("memory-rounds", "N", "5", "How often memory and restart are measured"))
        .arg(flag("quick", "A smoke test: one round of half-second measurements, 20,000 keys for memory"))
}

fn catch_up_command() -> Command {
    Command::new("catch-up")
        .about("Measure three members while one of them, which was away, catches up")
        .args(server_args("quorate"))
        .args(measure_args("20s", "1000000", "1024"))
        .arg(number("behind", "ENTRIES", "1000000", "Entries of the log that it misses"))
}

/// Which servers, and where.
fn server_args(servers: &'static str) -> Vec<Arg> {
    vec![
        Arg::new("quorate")
            .long("quorate")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .help("The quorate to measure [default: the one beside this program]"),
        Arg::new("etcd")
            .long("etcd")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .default_value("/usr/bin/etcd")
            .help("The etcd to measure"),
        Arg::new("servers")
            .long("servers")
            .value_name("NAMES")
            .value_delimiter(',')
            .value_parser(["quorate", "echo", "floor", "etcd"])
            .default_value(servers)
            .help("Which servers take part"),
        text("dir", "DIR", "target/bench", "Where the servers keep their data, all on one disk; emptied"),
        number(
            "base-port",
            "PORT",
            "17300",
            "The servers listen on this port of 127.0.0.1, and on the next (two for each member)",
        ),
        flag("check", "Fail if a mark is missed"),
        flag("json", "Print JSON instead of tables"),
    ]
}

/// What is measured of each.
fn measure_args(duration: &'static str, key_count: &'static str, value_bytes: &'static str) -> Vec<Arg> {
    vec![
        text("duration", "TIME", duration, "Length of each measurement"),
        text("warmup", "TIME", "1s", "Load before each measurement"),
        number("clients", "N", "100", "Clients"),
        number("connections", "N", "10", "Connections of all clients together"),
        number("key-count", "N", key_count, "Keys"),
        number("value-bytes", "BYTES", value_bytes, "Length of values"),
    ]
}

fn load_args() -> Vec<Arg> {
    vec![
        Arg::new("endpoints")
            .long("endpoints")
            .value_name("ADDRESSES")
            .value_delimiter(',')
            .default_value("127.0.0.1:2379")
            .help("Servers, plain TCP; connections go to them in turn"),
        number("clients", "N", "100", "Clients: operations in flight at most"),
        number("connections", "N", "10", "Connections of all clients together"),
        number("threads", "N", "1", "Threads of the generator"),
        number("key-count", "N", "100000", "Keys of the key space"),
        text("key-prefix", "TEXT", "bench/", "What all keys begin with"),
        number("value-bytes", "BYTES", "256", "Length of values"),
        number("seed", "N", "1", "Random choices follow from it"),
        Arg::new("server-pid")
            .long("server-pid")
            .value_name("PID")
            .value_parser(value_parser!(u32))
            .value_delimiter(',')
            .help("The servers' processes, to report their CPU time and memory"),
        flag("json", "Print JSON instead of a table"),
    ]
}

fn run_args() -> Vec<Arg> {
    vec![
        Arg::new("rate")
            .long("rate")
            .value_name("HZ")
            .value_parser(value_parser!(f64))
            .help("Open loop: operations a second, latencies from when each was due [default: closed loop]"),
        text("duration", "TIME", "10s", "Length of the measurement (500ms, 10s, 2m)"),
        text("warmup", "TIME", "1s", "Load before the measurement"),
        Arg::new("total")
            .long("total")
            .value_name("N")
            .value_parser(value_parser!(u64))
            .conflicts_with("duration")
            .conflicts_with("warmup")
            .help("Measure so many operations, instead of a time"),
    ]
}

fn text(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).default_value(default).help(help)
}

fn number(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Arg {
    text(name, value, default, help).value_parser(value_parser!(u64))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// What the command line asks for.
pub fn task(matches: &ArgMatches) -> anyhow::Result<Task> {
    let (name, matches) = matches.subcommand().context("no command given")?;
    match name {
        "server" => Ok(Task::Serve {
            kind: match get::<String>(matches, "kind")?.as_str() {
                "echo" => Kind::Echo,
                _ => Kind::Floor,
            },
            listen: resolve(get::<String>(matches, "listen")?)?,
            data_dir: get::<String>(matches, "data-dir")?.into(),
            reactors: size(matches, "reactors")?,
        }),
        "compare" => Ok(Task::Compare(compare_options(matches)?)),
        "catch-up" => {
            let servers = compare::Options { members: 3, ..measured_servers(matches)? };
            ensure!(servers.servers.iter().all(|server| server.stores()), "--servers: quorate or etcd");
            Ok(Task::CatchUp(catch_up::Options { servers, behind: *get::<u64>(matches, "behind")? }))
        }
        "load" => {
            let batch = (*get::<u64>(matches, "batch")?).max(1);
            let order = match get::<String>(matches, "order")?.as_str() {
                "random" => KeyOrder::Random,
                _ => KeyOrder::Sequential,
            };
            let requests = get::<u64>(matches, "key-count")?.div_ceil(batch);
            run(matches, Workload::Load { batch, order }, Extent::Operations(requests), None)
        }
        _ => {
            let workload = match name {
                "get" => Workload::Get,
                "serializable-get" => Workload::SerializableGet,
                "scan" => Workload::Scan { limit: i64::try_from(*get::<u64>(matches, "limit")?)? },
                "cas" => Workload::CompareAndPut,
                "txn" => Workload::Txn,
                _ => Workload::Put,
            };
            let extent = match matches.get_one::<u64>("total") {
                Some(total) => Extent::Operations(*total),
                None => Extent::Time { warm_up: duration(matches, "warmup")?, measure: duration(matches, "duration")? },
            };
            let rate_hz = matches.get_one::<f64>("rate").copied();
            if rate_hz.is_some_and(|rate_hz| !rate_hz.is_finite() || rate_hz <= 0.0) {
                return Err(anyhow!("--rate: operations a second, above 0"));
            }
            run(matches, workload, extent, rate_hz)
        }
    }
}

fn run(matches: &ArgMatches, workload: Workload, extent: Extent, rate_hz: Option<f64>) -> anyhow::Result<Task> {
    let endpoints = matches.get_many::<String>("endpoints").context("no --endpoints")?;
    let json = matches.get_flag("json");
    let plan = Plan {
        endpoints: endpoints.map(|endpoint| resolve(endpoint)).collect::<anyhow::Result<_>>()?,
        workload,
        keys: KeySpace {
            prefix: get::<String>(matches, "key-prefix")?.clone(),
            count: *get::<u64>(matches, "key-count")?,
        },
        value_bytes: size(matches, "value-bytes")?,
        clients: size(matches, "clients")?,
        connections: size(matches, "connections")?,
        threads: size(matches, "threads")?,
        rate_hz,
        extent,
        seed: *get::<u64>(matches, "seed")?,
        server_pids: matches.get_many::<u32>("server-pid").unwrap_or_default().copied().collect(),
        progress: !json,
    };
    Ok(Task::Run { plan, json })
}

fn measured_servers(matches: &ArgMatches) -> anyhow::Result<compare::Options> {
    let beside = std::env::current_exe()?.with_file_name("quorate");
    let servers = matches.get_many::<String>("servers").context("no --servers")?;
    Ok(compare::Options {
        quorate: matches.get_one::<PathBuf>("quorate").cloned().unwrap_or(beside),
        etcd: get::<PathBuf>(matches, "etcd")?.clone(),
        servers: servers.map(|name| compare::ServerKind::named(name)).collect::<anyhow::Result<_>>()?,
        dir: get::<String>(matches, "dir")?.into(),
        base_port: u16::try_from(*get::<u64>(matches, "base-port")?)?,
        members: 1,
        rounds: 1,
        measure: duration(matches, "duration")?,
        warm_up: duration(matches, "warmup")?,
        clients: size(matches, "clients")?,
        connections: size(matches, "connections")?,
        key_count: *get::<u64>(matches, "key-count")?,
        value_bytes: size(matches, "value-bytes")?,
        memory_key_count: 0,
        memory_rounds: 0,
        check: matches.get_flag("check"),
        json: matches.get_flag("json"),
    })
}

fn compare_options(matches: &ArgMatches) -> anyhow::Result<compare::Options> {
    let mut options = compare::Options {
        members: size(matches, "members")?,
        rounds: size(matches, "rounds")?,
        memory_key_count: *get::<u64>(matches, "memory-key-count")?,
        memory_rounds: size(matches, "memory-rounds")?,
        ..measured_servers(matches)?
    };
    if options.members > 1 {
        // What keeps nothing has no members, and memory and restart are one member's.
        options.servers.retain(|server| server.stores());
        options.memory_rounds = 0;
    }
    if matches.get_flag("quick") {
        options.rounds = 1;
        options.memory_rounds = options.memory_rounds.min(1);
        options.measure = Duration::from_millis(500);
        options.warm_up = Duration::from_millis(200);
        options.key_count = options.key_count.min(20_000);
        options.memory_key_count = options.memory_key_count.min(20_000);
    }
    Ok(options)
}

fn get<'a, T: Clone + Send + Sync + 'static>(matches: &'a ArgMatches, name: &str) -> anyhow::Result<&'a T> {
    matches.get_one::<T>(name).ok_or_else(|| anyhow!("no --{name} given"))
}

fn size(matches: &ArgMatches, name: &str) -> anyhow::Result<usize> {
    Ok(usize::try_from(*get::<u64>(matches, name)?)?)
}

fn duration(matches: &ArgMatches, name: &str) -> anyhow::Result<Duration> {
    let text = get::<String>(matches, name)?;
    parse_duration(text).ok_or_else(|| anyhow!("--{name} {text}: not a time; write it as 500ms, 10s or 2m"))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, secs) = if let Some(digits) = text.strip_suffix("ms") {
        (digits, 1e-3)
    } else if let Some(digits) = text.strip_suffix('m') {
        (digits, 60.0)
    } else {
        (text.strip_suffix('s').unwrap_or(text), 1.0)
    };
    Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * secs).ok()
}

fn resolve(endpoint: &str) -> anyhow::Result<SocketAddr> {
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    address
        .to_socket_addrs()
        .with_context(|| format!("{endpoint}: not an address; write it as host:port (plain TCP, no TLS)"))?
        // A server that listens on localhost listens on IPv4.
        .min_by_key(|address| !address.is_ipv4())
        .ok_or_else(|| anyhow!("{endpoint}: the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn a_plan_comes_from_the_command_line() {
        let line =
            "quorate-bench put --endpoints http://127.0.0.1:1,127.0.0.1:2 --clients 7 --rate 100 --duration 1500ms";
        let matches = command().try_get_matches_from(line.split(' ')).unwrap();
        let Ok(Task::Run { plan, json: false }) = task(&matches) else { panic!("not a run") };
        assert_eq!(plan.endpoints.len(), 2);
        assert_eq!((plan.clients, plan.connections, plan.rate_hz), (7, 10, Some(100.0)));
        assert!(matches!(plan.extent, Extent::Time { measure, .. } if measure == Duration::from_millis(1500)));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("-1s"), None);
        assert_eq!(parse_duration("soon"), None);
    }
}

//! The daemon `quorate`: one member of a cluster, started as etcd is.
//!
//! The way from the command line to a serving member:
//!
//! 1. [`flags`]: the command line by Go's rules, then `ETCD_*` variables, or a configuration file instead, give settings.
//! 2. [`log`]: the log starts as the settings say.
//! 3. [`config`]: etcd's checks; what this version does not have is refused.
//! 4. [`data_dir`]: a look at the directory; etcd's own is refused and left as it is.
//! 5. [`run`]: listeners, the member, its services, until a signal or a failure.
//!
//! Exit status, as etcd's: 2 for a wrong flag, 1 for a wrong configuration or a member that cannot go on, killed by the
//! signal after a clean stop.

#[cfg(feature = "jemalloc")]
mod allocator;
mod config;
mod data_dir;
mod descriptors;
mod flags;
mod go;
mod go_runtime;
mod log;
mod memory;
mod process;
#[cfg(feature = "profile")]
mod profile;
mod run;
mod server_metrics;
mod signals;
mod urls;
mod version;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use flags::environment::{self, Conflict};
use flags::{Asked, Refused, Settings};
use log::{Log, LogConfig, fatal};
use quorate_api::{Process, Profiler};
use quorate_runtime_tokio::{RuntimeOptions, TokioRuntime};
use run::Ending;

fn main() {
    // What is written here goes straight out: the log, if it was running, has been closed and written when this returns.
    match daemon() {
        Ending::Status(status) => std::process::exit(status),
        Ending::Signal(signal) => signal.die(),
    }
}

fn daemon() -> Ending {
    let words = match words() {
        Ok(words) => words,
        Err(sentence) => return wrong_usage(&sentence),
    };
    if let Some(command @ ("gateway" | "grpc-proxy")) = words.get(1).map(String::as_str) {
        eprintln!("quorate {command}: this version has no such command; it runs members only");
        return Ending::Status(1);
    }
    match flags::read(words.get(1..).unwrap_or_default()) {
        Ok(Asked::Help) => {
            eprintln!("{}", flags::USAGE);
            println!("{}", flags::help());
            Ending::Status(0)
        }
        Ok(Asked::Version) => {
            print!("{}", version::lines());
            Ending::Status(0)
        }
        Err(Refused::Usage(sentence)) => wrong_usage(&sentence),
        Err(Refused::Leftover(sentence)) => {
            let _log = start_log(LogConfig::default());
            refuse(&words, &sentence)
        }
        Ok(Asked::Run(settings)) => member(&words, settings),
    }
}

/// The command line. Go would take any bytes; no setting makes sense with bytes that are no text.
fn words() -> Result<Vec<String>, String> {
    std::env::args_os()
        .map(|word| {
            word.into_string().map_err(|word| format!("argument is not valid UTF-8: {}", word.to_string_lossy()))
        })
        .collect()
}

fn wrong_usage(sentence: &str) -> Ending {
    eprintln!("{sentence}\n{}", flags::USAGE);
    Ending::Status(2)
}

/// A log, at any cost: without one nobody learns what is wrong.
fn start_log(config: LogConfig) -> Option<Log> {
    Log::start(config).map_err(|error| eprintln!("cannot start the log: {error}")).ok()
}

fn refuse(words: &[String], error: &str) -> Ending {
    tracing::info!(args = ?words, "Running: ");
    tracing::warn!(error, "failed to verify flags");
    if error == config::ADVERTISE_REQUIRED {
        tracing::warn!(error, "advertise client URLs are not set");
    }
    Ending::Status(1)
}

/// The file that takes the place of flags and variables.
fn config_file(settings: &Settings, variables: &BTreeMap<String, String>) -> Option<String> {
    let given = Some(settings.text("config-file").to_owned()).filter(|path| !path.is_empty());
    given.or_else(|| variables.get("ETCD_CONFIG_FILE").filter(|path| !path.is_empty()).cloned())
}

fn member(words: &[String], mut settings: Settings) -> Ending {
    // Variables that are no text cannot be ours.
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let file = config_file(&settings, &variables);
    let (notices, outcome, loaded) = match file.as_deref().map(flags::file::load) {
        None => {
            let (notices, outcome) = environment::apply(&mut settings, &variables);
            (notices, outcome, None)
        }
        Some(Ok(loaded)) => {
            settings.clone_from(&loaded.settings);
            (Vec::new(), Ok(()), Some(loaded))
        }
        Some(Err(why)) => (Vec::new(), Err(Conflict::Invalid(why)), None),
    };

    let log_config = LogConfig::from_settings(&settings);
    let shown = log_config.as_ref().cloned().unwrap_or_default();
    let (log, log_error) = match Log::start(shown) {
        Ok(log) => (Some(log), log_config.err()),
        Err(error) => (start_log(LogConfig::default()), Some(error)),
    };
    notices.iter().for_each(environment::Notice::log);
    if let (Some(path), Some(loaded)) = (&file, &loaded) {
        loaded.log(path);
    }
    let ending = match (outcome, log_error) {
        (Err(Conflict::Shadowed { name }), _) => {
            fatal!(environment_variable = name, "{}", environment::SHADOWED);
            Ending::Status(1)
        }
        (Err(Conflict::Invalid(error)), _) | (Ok(()), Some(error)) => refuse(words, &error),
        (Ok(()), None) => match config::build(&settings, config::route_address) {
            Ok(mut config) => {
                tracing::info!(args = ?words, "Running: ");
                config.api.process = process(words, log.as_ref(), config.has_profiles);
                start(config)
            }
            Err(error) => refuse(words, &error),
        },
    };
    // Writes what is queued.
    drop(log);
    ending
}

/// What the API may tell of this process, and set.
fn process(words: &[String], log: Option<&Log>, has_profiles: bool) -> Process {
    let command_line = words.to_vec();
    Process {
        variables: Some(Arc::new(move || process::variables(&command_line))),
        set_log_level: log.map(Log::level_setter),
        profiler: has_profiles.then(profiler).flatten(),
        command_line: words.to_vec(),
    }
}

#[cfg(feature = "profile")]
fn profiler() -> Option<Arc<dyn Profiler>> {
    Some(profile::start())
}

#[cfg(not(feature = "profile"))]
fn profiler() -> Option<Arc<dyn Profiler>> {
    tracing::warn!("this program was built without profiles (feature profile)");
    None
}

fn start(config: config::Config) -> Ending {
    if let Err(limit) = descriptors::raise_limit() {
        let recommended_limit = descriptors::NEEDED;
        fatal!(limit, recommended_limit, "file descriptor limit of etcd process is too low; please set higher");
        return Ending::Status(1);
    }
    let found = match data_dir::inspect(config.data_dir(), config.member.wal_dir.as_deref()) {
        Ok(found) => found,
        Err(refused) => {
            fatal!(error = refused.why, data_dir = %config.data_dir().display(), "cannot use the data directory");
            return Ending::Status(1);
        }
    };
    let message = match found {
        data_dir::Found::Empty => "Initialize and start etcd server",
        data_dir::Found::Member => "server has already been initialized",
    };
    tracing::info!(data_dir = %config.data_dir().display(), dir_type = found.name(), "{message}");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let options = RuntimeOptions { reactors: cores + 1, source: config.connects_from };
    match TokioRuntime::try_run(options, |rt| run::run(rt, config, found)) {
        Ok(ending) => ending,
        Err(error) => {
            fatal!(%error, "cannot start the runtime");
            Ending::Status(1)
        }
    }
}

//! `quorate-bench`: load on any etcd v3 server, and what it did to it.
//!
//! - `put`, `get`, `serializable-get`, `scan`, `cas`, `txn`: one workload on a running server; `load` fills it first.
//! - `server echo`, `server floor`: reference servers, the price of the wire and of the disk alone.
//! - `catch-up`: what a follower that was away costs the leader's clients when it comes back.
//! - `compare`: quorate, the references and etcd in alternating rounds, with ratios and marks.
//!
//! The [`generator`] makes the load, [`process`] sees what the server used, [`report`] shows it.

mod catch_up;
mod cli;
mod compare;
mod generator;
mod interrupt;
mod process;
mod progress;
mod report;
mod server;

use std::process::ExitCode;

use anyhow::ensure;

use crate::cli::Task;
use crate::interrupt::Interrupted;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    match cli::task(&matches).and_then(perform) {
        Ok(()) => ExitCode::SUCCESS,
        // As a shell reports a program that Ctrl-C ended.
        Err(error) if error.is::<Interrupted>() => ExitCode::from(130),
        Err(error) => {
            eprintln!("quorate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Run { plan, json } => {
            let measured = generator::run(&plan)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&measured)?);
            } else {
                println!("{}", report::table([("", &measured)]));
                for (error, count) in &measured.refused {
                    eprintln!("refused {count} times: {error}");
                }
            }
            let refused: u64 = measured.refused.values().sum();
            ensure!(!plan.workload.is_load() || refused == 0, "the server refused {refused} requests of the load");
            Ok(())
        }
        Task::Serve { kind, listen, data_dir, reactors } => server::run(kind, listen, &data_dir, reactors),
        Task::Compare(options) => compare::run(&options),
        Task::CatchUp(options) => catch_up::run(&options),
    }
}

//! Fuzz targets by name, run without coverage guidance: every push runs all of them some thousand times from one seed.
//!
//! ```text
//! quorate-fuzz smoke                                       every target, a few thousand iterations, a fixed seed
//! quorate-fuzz run wal --seed 7 --iterations 1000000       one target for as long as one likes
//! quorate-fuzz run wal --seed 7 --first 4711 --iterations 1    one failing iteration again
//! ```
//!
//! A target is a function of bytes: it takes what it wants from the front (sizes, choices, contents), and panics if what it
//! tests misbehaves. Iteration n of a seed always gets the same bytes.

mod allocation;
mod bolt;
mod peer;
mod source;
mod wal;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::{Context as _, anyhow};
use clap::{Arg, ArgMatches, Command, value_parser};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Something to throw bytes at.
struct Target {
    name: &'static str,
    about: &'static str,
    run: fn(&[u8]),
    /// No input is longer.
    input_bytes_max: usize,
    /// How often in a smoke run.
    smoke_iterations: u64,
}

/// Every target there is.
const TARGETS: &[Target] = &[
    Target {
        name: "bolt",
        about: "bbolt files of arbitrary pages, and valid ones with changes: reading ends, in order, within the file's memory",
        run: bolt::run,
        input_bytes_max: 4096,
        smoke_iterations: 5000,
    },
    Target {
        name: "wal",
        about: "segments of arbitrary bytes, and valid logs with changes: opening never panics, never allocates absurdly",
        run: wal::run,
        input_bytes_max: 4096,
        smoke_iterations: 5000,
    },
    Target {
        name: "peer",
        about: "streams between members, arbitrary or changed: reading never panics, never allocates absurdly",
        run: peer::run,
        input_bytes_max: 2048,
        smoke_iterations: 20_000,
    },
];

const SMOKE_SEED: u64 = 1;

fn main() -> anyhow::Result<()> {
    match cli().get_matches().subcommand() {
        Some(("run", args)) => run_one(args),
        Some(("list", _)) => list(),
        _ => smoke(),
    }
}

fn cli() -> Command {
    let number = |name| Arg::new(name).long(name).value_parser(value_parser!(u64));
    Command::new("quorate-fuzz")
        .about("Throws bytes at what reads bytes")
        .subcommand_required(true)
        .subcommand(Command::new("smoke").about("Runs every target a few thousand times, always with the same inputs"))
        .subcommand(Command::new("list").about("Lists the targets"))
        .subcommand(
            Command::new("run")
                .about("Runs one target")
                .arg(Arg::new("name").required(true).value_parser(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>()))
                .arg(number("seed").default_value("1").help("Which inputs"))
                .arg(number("first").default_value("0").help("The first iteration"))
                .arg(number("iterations").default_value("100000").help("How many")),
        )
}

fn list() -> anyhow::Result<()> {
    for target in TARGETS {
        writeln!(std::io::stdout(), "{:12} {}", target.name, target.about)?;
    }
    Ok(())
}

fn smoke() -> anyhow::Result<()> {
    TARGETS.iter().try_for_each(|target| iterate(target, SMOKE_SEED, 0, target.smoke_iterations))
}

fn run_one(args: &ArgMatches) -> anyhow::Result<()> {
    let name: &String = args.get_one("name").context("which target?")?;
    let target = TARGETS.iter().find(|target| target.name == name).ok_or_else(|| anyhow!("no target {name}"))?;
    let number = |name| args.get_one::<u64>(name).copied().with_context(|| format!("--{name} is missing"));
    iterate(target, number("seed")?, number("first")?, number("iterations")?)
}

fn iterate(target: &Target, seed: u64, first: u64, iterations: u64) -> anyhow::Result<()> {
    let mut input = Vec::new();
    for iteration in first..first.saturating_add(iterations) {
        fill_input(&mut input, target, seed, iteration);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            let mut stderr = std::io::stderr();
            writeln!(stderr, "FAIL target={} seed={seed} iteration={iteration}", target.name)?;
            writeln!(
                stderr,
                "replay: quorate-fuzz run {} --seed {seed} --first {iteration} --iterations 1",
                target.name
            )?;
            resume_unwind(panic);
        }
    }
    writeln!(std::io::stdout(), "ok target={} seed={seed} iterations={iterations}", target.name)?;
    Ok(())
}

/// The bytes of one iteration. Short inputs are as likely as long ones.
fn fill_input(input: &mut Vec<u8>, target: &Target, seed: u64, iteration: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ iteration.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let len_bytes = rng.next_u64() as usize % (target.input_bytes_max + 1);
    input.resize(len_bytes, 0);
    rng.fill_bytes(input);
}

//! `quorate-sim`: runs the simulator on one seed or on many; plays scenarios; hunts seeded bugs; judges what was recorded of
//! real processes.

mod files;
mod interrupt;

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use quorate_sim::history::Outcome;
use quorate_sim::run::shrink::{Shrunk, shrink};
use quorate_sim::run::soak::soak;
use quorate_sim::run::{Options, Report, demands, run};
use quorate_sim::scenario::Scenario;
use quorate_sim::world::cluster::Depth;
use quorate_sim::{bugs, checkers, faults, recorded};

/// Where no bar can be drawn, a line tells the progress of a soak after so many seeds.
const SEEDS_A_LINE: u64 = 100;

fn command() -> Command {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).help(help).value_name("N").value_parser(value_parser!(u64))
    };
    let bug = |help: &'static str| {
        Arg::new("bug")
            .long("bug")
            .help(help)
            .value_name("NAME")
            .value_parser(PossibleValuesParser::new(bugs::ALL.iter().map(|bug| bug.name)))
    };
    let common =
        |command: Command| {
            command
                .arg(number("seconds", "Simulated seconds with clients and faults, at least").default_value("60"))
                .arg(number("operations", "Acknowledged operations, at least").default_value("1000"))
                .arg(
                    Arg::new("unsafe-no-fsync")
                        .long("unsafe-no-fsync")
                        .action(ArgAction::SetTrue)
                        .help("Run members that never wait for the disk; the simulator must find the loss"),
                )
                .arg(
                    Arg::new("membership")
                        .long("membership")
                        .action(ArgAction::SetTrue)
                        .help("Members come and go in each run, and some get a snapshot"),
                )
                .arg(number("members", "How many members [default: as the seed decides]"))
                .arg(number("clients", "How many clients [default: as the seed decides]"))
                .arg(number("rate", "Calls a second, of all clients [default: as the seed decides]"))
                .arg(Arg::new("depth").long("depth").value_name("DEPTH").value_parser(["full", "core"]).help(
                    "Bytes on streams, or calls and messages handed over as they are [default: as the seed decides]",
                ))
                .arg(
                    Arg::new("fault")
                        .long("fault")
                        .value_name("NAME")
                        .value_parser(PossibleValuesParser::new(faults::ALL.iter().map(|(name, _)| *name)))
                        .help("Only this fault [default: as the seed decides]"),
                )
                .arg(number("flip-value", "Flip a bit of this value; the trace hash must change"))
                .arg(bug("The seeded bug that is switched on"))
        };
    let reducing = |command: Command| {
        command
            .arg(
                number("reduce-runs", "A failing run is cut down in at most so many runs; 0: not at all")
                    .default_value("400"),
            )
            .arg(
                Arg::new("save")
                    .long("save")
                    .value_name("FILE")
                    .help("Write what a failing run was cut down to, as a scenario"),
            )
    };
    Command::new("quorate-sim")
        .about("Runs Quorate's member in a deterministic simulation")
        .subcommand_required(true)
        .subcommand(
            reducing(common(
                Command::new("run").about("Runs one seed and prints its summary; its story, if something is wrong"),
            ))
            .arg(number("seed", "The seed").required(true))
            .arg(Arg::new("story").long("story").action(ArgAction::SetTrue).help("Print the story in any case"))
            .arg(number("repeat", "Run it so often, to compare the hashes").default_value("1"))
            .arg(
                Arg::new("trace")
                    .long("trace")
                    .value_name("FILE")
                    .help("Write a line for each event to FILE.1, FILE.2, … of each repetition"),
            )
            .arg(Arg::new("plan").long("plan").action(ArgAction::SetTrue).help("Print what the seed decided first")),
        )
        .subcommand(
            reducing(common(Command::new("soak").about("Runs many seeds; cuts the first that fails down")))
                .arg(number("seeds", "How many [default: 200, or as many as there is time for]"))
                .arg(number("minutes", "No run begins after so many minutes"))
                .arg(number("first", "The first seed").default_value("0"))
                .arg(number("jobs", "Runs at the same time").default_value("2")),
        )
        .subcommand(
            Command::new("bugs")
                .about("Switches each seeded bug on, and tells after how many seeds it was caught")
                .arg(bug("Only this one"))
                .arg(
                    Arg::new("scenarios")
                        .long("scenarios")
                        .value_name("DIR")
                        .default_value("scenarios")
                        .help("Where the scenarios are in which some bugs are hunted"),
                )
                .arg(number("seeds", "How many seeds each, at most").default_value("2000"))
                .arg(number("jobs", "Runs at the same time").default_value("2")),
        )
        .subcommand(
            Command::new("scenario")
                .about("Plays scenario files: an incident each, on many seeds; then with the bugs that they name")
                .arg(
                    Arg::new("files")
                        .value_name("FILE")
                        .required(true)
                        .action(ArgAction::Append)
                        .help("Files, or directories of *.scenario"),
                )
                .arg(number("seed", "The first seed [default: as the file says, or 0]"))
                .arg(number("seeds", "How many").default_value("1"))
                .arg(number("jobs", "Runs at the same time").default_value("2"))
                .arg(bug("Only with this bug, which need not be found").conflicts_with("bug-seeds"))
                .arg(
                    number(
                        "bug-seeds",
                        "Play it with each of its bugs on so many seeds at most, until that is noticed",
                    )
                    .default_value("0"),
                )
                .arg(Arg::new("story").long("story").action(ArgAction::SetTrue).help("Print the story in any case")),
        )
        .subcommand(
            Command::new("check-history")
                .about("Judges a history recorded of real processes (the form: sim/src/recorded.rs)")
                .arg(Arg::new("file").value_name("FILE").required(true).help("The history, one JSON object a line")),
        )
}

fn options(matches: &ArgMatches, seed: u64) -> Options {
    Options {
        seed,
        seconds: *matches.get_one("seconds").expect("it has a default"),
        operations: *matches.get_one("operations").expect("it has a default"),
        membership: matches.get_flag("membership"),
        unsafe_no_fsync: matches.get_flag("unsafe-no-fsync"),
        members: matches.get_one("members").copied(),
        clients: matches.get_one("clients").copied(),
        calls_per_second: matches.get_one("rate").copied(),
        depth: matches.get_one::<String>("depth").and_then(|name| Depth::named(name)),
        flip_value: matches.get_one("flip-value").copied(),
        fault: matches.get_one::<String>("fault").and_then(|name| faults::named(name)),
        keep_trace: false,
        bug: chosen_bug(matches),
        scenario: None,
    }
}

fn chosen_bug(matches: &ArgMatches) -> Option<&'static str> {
    matches.get_one::<String>("bug").and_then(|name| bugs::named(name)).map(|bug| bug.name)
}

fn main() -> ExitCode {
    match command().get_matches().subcommand() {
        Some(("run", matches)) => run_one(matches),
        Some(("soak", matches)) => run_many(matches),
        Some(("bugs", matches)) => hunt_bugs(matches),
        Some(("scenario", matches)) => play_scenarios(matches),
        Some(("check-history", matches)) => check_history(matches),
        _ => unreachable!("clap demands a subcommand"),
    }
}

fn run_one(matches: &ArgMatches) -> ExitCode {
    let options = options(matches, *matches.get_one("seed").expect("it is required"));
    if matches.get_flag("plan") {
        let plan = quorate_sim::run::Plan::draw(&options);
        let clients: Vec<_> = plan.clients.iter().flatten().map(|workload| workload.name()).collect();
        println!("clients {clients:?}\n{:#?}\n{:#?}", plan.client_options, plan.limits);
    }
    let repeat: u64 = *matches.get_one("repeat").expect("it has a default");
    let trace: Option<&String> = matches.get_one("trace");
    let mut good = true;
    for repetition in 1..=repeat {
        let report = run(&Options { keep_trace: trace.is_some(), ..options.clone() });
        print!("{report}");
        if matches.get_flag("story") {
            for (at, sentence) in &report.story {
                println!("   {at} {sentence}");
            }
            for line in &report.log_lines {
                println!("   {line}");
            }
            println!("{:#?}\n{:#?}\nevents {}\n{:#?}", report.disk, report.net, report.events, report.log_counts);
        }
        if let Some(trace) = trace {
            #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
            let written = std::fs::write(format!("{trace}.{repetition}"), report.trace_lines.join("\n"));
            if let Err(error) = written {
                eprintln!("cannot write {trace}.{repetition}: {error}");
                return ExitCode::FAILURE;
            }
        }
        if good && !report.is_good() {
            good = false;
            reduce(&options, &report, matches);
        }
    }
    exit_code(good)
}

/// Cuts a failing run down, and tells what is left.
fn reduce(options: &Options, report: &Report, matches: &ArgMatches) {
    let runs_max: u64 = *matches.get_one("reduce-runs").expect("it has a default");
    if runs_max == 0 {
        return;
    }
    let style = ProgressStyle::with_template("{elapsed_precise} cutting it down: run {pos} of {len}, {msg} lines");
    let bar = ProgressBar::new(runs_max).with_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(250));
    let shrunk = shrink(options, report, runs_max, |lines| {
        bar.inc(1);
        bar.set_message(lines.to_string());
    });
    bar.finish_and_clear();
    let Some(Shrunk { scenario, report: left, tried }) = shrunk else {
        println!("It does not fail when all that was done is done again: a moment decides that no line tells.");
        return;
    };
    println!(
        "-- cut down in {tried} runs, from {} lines to {}\n{scenario}\n-- what happens then\n{left}",
        report.deeds.len(),
        scenario.lines.len()
    );
    match matches.get_one::<String>("save") {
        None => println!("To keep it: add --save scenarios/NAME.scenario, and say in it what it is about."),
        Some(file) =>
        {
            #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
            match std::fs::write(file, scenario.to_string()) {
                Ok(()) => println!("It is in {file}; say there what it is about."),
                Err(error) => eprintln!("cannot write {file}: {error}"),
            }
        }
    }
}

fn run_many(matches: &ArgMatches) -> ExitCode {
    let minutes: Option<u64> = matches.get_one("minutes").copied();
    let count: Option<u64> = matches.get_one("seeds").copied().or(minutes.is_none().then_some(200));
    let first: u64 = *matches.get_one("first").expect("it has a default");
    let jobs: u64 = *matches.get_one("jobs").expect("it has a default");
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:40} {pos}/{len} seeds, {per_sec}, {msg}");
    // Not a terminal: the bar draws nothing.
    let bar = count.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let bar = bar.with_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(250));
    let stop = match interrupt::flag() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("cannot listen for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let seeds = first..count.map_or(u64::MAX, |count| first + count);
    let tally = soak(seeds, jobs as usize, &options(matches, first), |report| {
        if !report.is_good() {
            bar.suspend(|| println!("{report}"));
        }
        bar.inc(1);
        if bar.is_hidden() && bar.position().is_multiple_of(SEEDS_A_LINE) {
            eprintln!("{} seeds in {:.0} s", bar.position(), bar.elapsed().as_secs_f64());
        }
        let time_is_up = minutes.is_some_and(|minutes| bar.elapsed() >= Duration::from_secs(60 * minutes));
        match time_is_up || stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let elapsed = bar.elapsed();
    bar.finish_and_clear();
    if stop.load(Ordering::Relaxed) {
        println!("Interrupted: this is what there is so far.");
    }
    print!("{}", tally.table());
    for (depth, speed) in tally.speeds() {
        println!("simulated seconds a second of one core, depth {depth}  {speed:.0}");
    }
    println!("seeds a second  {:.2}", tally.runs as f64 / elapsed.as_secs_f64());
    // A sweep with one fault shows what that one can, and half a sweep half.
    let is_whole = !matches.contains_id("fault") && !stop.load(Ordering::Relaxed);
    let unmet = if is_whole { demands::unmet(&tally) } else { Vec::new() };
    unmet.iter().for_each(|what| println!("NOT SHOWN: {what}"));
    if let Some(failed) = tally.failed.first().filter(|_| !stop.load(Ordering::Relaxed)) {
        reduce(&options(matches, failed.seed), failed, matches);
    }
    exit_code(tally.failed.is_empty() && unmet.is_empty())
}

/// Prints a row for each bug as it is caught, or not.
fn hunt_bugs(matches: &ArgMatches) -> ExitCode {
    let seeds: u64 = *matches.get_one("seeds").expect("it has a default");
    let jobs: u64 = *matches.get_one("jobs").expect("it has a default");
    let only: Option<&String> = matches.get_one("bug");
    let directory: &String = matches.get_one("scenarios").expect("it has a default");
    let scenarios: Vec<_> = match files::read_all([directory.as_str()].into_iter()) {
        Ok(scenarios) => scenarios.into_iter().map(Arc::new).collect(),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut good = true;
    println!("| bug | source | what | caught by | seeds | seconds |\n|---|---|---|---|---|---|");
    for bug in bugs::ALL.iter().filter(|bug| only.is_none_or(|only| only == bug.name)) {
        let style = ProgressStyle::with_template("{elapsed_precise} {msg}, seed {pos}");
        // Not a terminal: it draws nothing.
        let bar = ProgressBar::no_length().with_style(style.expect("the template is right")).with_message(bug.name);
        bar.enable_steady_tick(Duration::from_millis(250));
        let named = |scenario: &Arc<Scenario>| {
            Some((Arc::clone(scenario), scenario.bugs.iter().find(|seeded| seeded.name == bug.name)?.clone()))
        };
        let scenario = scenarios.iter().find_map(named);
        let hunt = match &scenario {
            Some((scenario, seeded)) => bugs::hunt_in(scenario, seeded, seeds, jobs as usize, |_| bar.inc(1)),
            None => bugs::hunt(bug, seeds, jobs as usize, |_| bar.inc(1)),
        };
        let elapsed = bar.elapsed();
        bar.finish_and_clear();
        let caught_by = match &hunt.caught {
            Some(_) => match &scenario {
                Some((scenario, seeded)) => format!("{}, in *{}*", seeded.caught_by, scenario.title),
                None => bug.checker.to_owned(),
            },
            None if hunt.reached == 0 => "**not reached**".to_owned(),
            None => format!("**not caught** by {}", bug.checker),
        };
        println!(
            "| `{}` | {} | {} | {caught_by} | {} | {:.0} |",
            bug.name,
            bug.source,
            bug.what,
            hunt.seeds,
            elapsed.as_secs_f64()
        );
        good &= hunt.caught.is_some();
    }
    exit_code(good)
}

/// Plays files one after the other, and prints a row for each.
fn play_scenarios(matches: &ArgMatches) -> ExitCode {
    let number = |name: &str| *matches.get_one::<u64>(name).expect("it has a default");
    let (seeds, jobs) = (number("seeds"), number("jobs") as usize);
    let files = matches.get_many::<String>("files").expect("it is required").map(String::as_str);
    let scenarios = match files::read_all(files) {
        Ok(scenarios) => scenarios,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut good = true;
    println!("| scenario | source | whole | seeds | passed | simulated s | bug | caught by | at seed |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for scenario in scenarios.into_iter().map(Arc::new) {
        let first = matches.get_one("seed").copied().unwrap_or(scenario.seed);
        let options = Options { bug: chosen_bug(matches), ..Options::of_scenario(Arc::clone(&scenario), first) };
        let bar = ProgressBar::new(seeds).with_message(scenario.path.clone());
        let tally = soak(first..first + seeds, jobs, &options, |report| {
            if !report.is_good() || matches.get_flag("story") {
                bar.suspend(|| print!("{report}"));
            }
            if report.is_good() && matches.get_flag("story") {
                report.story.iter().for_each(|(at, sentence)| println!("   {at} {sentence}"));
            }
            bar.inc(1);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        good &= tally.failed.is_empty();
        let hunted = if number("bug-seeds") > 0 { &scenario.bugs[..] } else { &[] };
        let mut hunts = hunted.iter().map(|bug| {
            let hunt = bugs::hunt_in(&scenario, bug, number("bug-seeds"), jobs, |_| {});
            good &= hunt.caught.is_some();
            match hunt.caught {
                Some(report) => format!("{} | {} | {}", bug.name, bug.caught_by, report.seed),
                None => format!("{} | **not caught** by {} | ", bug.name, bug.caught_by),
            }
        });
        println!(
            "| {} | {} | {} | {seeds} | {} | {:.0} | {} |",
            scenario.title,
            scenario.source.lines().next().unwrap_or_default(),
            if scenario.is_partial() { "partial" } else { "yes" },
            seeds - tally.failed.len() as u64,
            tally.seconds,
            hunts.next().unwrap_or_else(|| "| | ".to_owned()),
        );
        // A row for each further bug.
        hunts.for_each(|hunt| println!("| | | | | | | {hunt} |"));
    }
    exit_code(good)
}

/// Prints what the history holds, as one JSON object, and what the checkers find, a paragraph each.
fn check_history(matches: &ArgMatches) -> ExitCode {
    let file: &String = matches.get_one("file").expect("it is required");
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let read = std::fs::read(file).map_err(|error| error.to_string());
    let evidence = match read.and_then(|text| recorded::read(&text)) {
        Ok(evidence) => evidence,
        Err(error) => {
            eprintln!("cannot read {file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let operations = &evidence.operations;
    let count = |of: fn(&Outcome) -> bool| operations.iter().filter(|operation| of(&operation.outcome)).count();
    let counts = serde_json::json!({
        "operations": operations.len(),
        "answered": count(|outcome| matches!(outcome, Outcome::Answered(_))),
        "refused": count(|outcome| matches!(outcome, Outcome::Refused { .. })),
        "unknown": count(|outcome| *outcome == Outcome::Unknown),
        "writes": operations.iter().filter(|operation| operation.written_revision().is_some()).count(),
        "taps": evidence.taps.len(),
        "crashes": evidence.crashes.len(),
        "hashes": evidence.hashes.len(),
    });
    println!("{counts}");
    let violations = checkers::judge(&evidence);
    for violation in &violations {
        println!("{}: {}", violation.checker, violation.what);
    }
    exit_code(violations.is_empty())
}

/// 0: nothing found; 1: a checker found something. (2 is clap's, for a wrong command line.)
fn exit_code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

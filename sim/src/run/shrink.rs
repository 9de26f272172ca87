//! A failing run, cut down to what it takes.
//!
//! A run that fails is told as a scenario: its cluster, its load, and everything that was done to the world and its members, each
//! with its time ([`told`]). If that still fails, lines, clients, members and settings are taken away as long as it does, and time
//! after the last line and between lines is shortened. What is left has as much to do with the failure as can be found out by
//! trying, and is saved as a file: a bare seed means another run when the code changes.
//!
//! Lines go by delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002): halves, then
//! quarters, and so on, each left out in turn. Without its fellows a line may fall on another moment of the scheduler, so a candidate may
//! fail on a few other seeds of the schedule, too.

use std::sync::Arc;
use std::time::Duration;

use super::{Options, Plan, Report, run};
use crate::scenario::{Deed, Line, Load, Scenario, Setting, When};
use crate::world::clock::SimTime;

/// A candidate is tried with the run's own seed and so many after it.
const SEEDS_TRIED: u64 = 2;

/// The whole run as a scenario is worth some more.
const SEEDS_TRIED_FIRST: u64 = 12;

/// What a run was cut down to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// It fails like the run.
    pub scenario: Arc<Scenario>,
    /// How it fails.
    pub report: Report,
    /// Runs that it took.
    pub tried: u64,
}

/// Cuts `failed` down, which `options` gave, in at most `runs_max` runs. `None` if what was done, done again, does not fail: then
/// the failure depends on a moment that no line tells. `on_run` hears of each run: how many lines there are now.
pub fn shrink(options: &Options, failed: &Report, runs_max: u64, on_run: impl Fn(usize)) -> Option<Shrunk> {
    let mut shrinker = Shrinker { options, wanted: failed, runs_left: runs_max, best: None, on_run };
    if !shrinker.fails(told(options, failed), SEEDS_TRIED_FIRST) {
        return None;
    }
    // What goes away in one round may let other things go in the next.
    loop {
        let before = shrinker.best_scenario().clone();
        shrinker.drop_lines();
        shrinker.drop_clients();
        shrinker.drop_members();
        shrinker.drop_settings();
        shrinker.shorten();
        if *shrinker.best_scenario() == before || shrinker.runs_left == 0 {
            break;
        }
    }
    let tried = runs_max - shrinker.runs_left;
    let (scenario, report) = shrinker.best?;
    Some(Shrunk { scenario, report, tried })
}

/// A run as a scenario.
pub fn told(options: &Options, report: &Report) -> Scenario {
    let plan = Plan::draw(options);
    let client = &plan.client_options;
    let mut lines: Vec<_> = report.deeds.iter().map(|(at, deed)| line_at(*at, deed.clone())).collect();
    lines.push(line_at(SimTime::from_nanos((report.seconds * 1e9) as u64), Deed::Wait));
    lines.sort_by_key(|line| match line.when {
        When::At(at, _) | When::After(at, _) => at,
    });
    let violation = report.violations.first();
    let scenario = Scenario {
        path: format!("seed-{}.scenario", options.seed),
        title: format!("Seed {} finds {}", options.seed, violation.map_or("nothing", |violation| violation.checker)),
        source: "found by the simulator".to_owned(),
        then: violation.map_or_else(|| "nothing".to_owned(), |violation| first_line(&violation.what)),
        founders: plan.members,
        spares: plan.spares,
        starts: plan.starts,
        settings: Setting::of(&plan.limits.settings),
        reactors: plan.limits.reactors,
        busy_percent: plan.limits.busy_percent,
        depth: plan.limits.depth,
        load: Load {
            clients: plan.clients.iter().map(|client| client.as_ref().map(|workload| workload.name())).collect(),
            think: client.think,
            keys: client.keys,
            timeout: Some(client.timeout),
            padding_bytes_max: client.padding_bytes_max,
        },
        seed: options.seed,
        bugs: Vec::new(),
        lines,
    };
    numbered(scenario)
}

fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("it does not say what").chars().take(200).collect()
}

fn line_at(at: SimTime, deed: Deed) -> Line {
    let at = Duration::from_nanos(at.as_nanos());
    Line { number: 0, when: When::At(at, at), maybe: false, needs: None, deed }
}

/// With the line numbers that it has when it is written.
fn numbered(scenario: Scenario) -> Scenario {
    match crate::scenario::parse(&scenario.path, &scenario.to_string()) {
        Ok(read) => read,
        Err(trouble) => unreachable!("what is written is read: {trouble}\n{scenario}"),
    }
}

struct Shrinker<'a, F> {
    options: &'a Options,
    wanted: &'a Report,
    runs_left: u64,
    best: Option<(Arc<Scenario>, Report)>,
    on_run: F,
}

impl<F: Fn(usize)> Shrinker<'_, F> {
    fn best_scenario(&self) -> &Scenario {
        &self.best.as_ref().expect("the whole run fails").0
    }

    /// True if the candidate fails like the run, with one of `seeds` seeds; then it is the best so far.
    fn fails(&mut self, candidate: Scenario, seeds: u64) -> bool {
        for seed in candidate.seed..candidate.seed + seeds {
            if self.runs_left == 0 {
                return false;
            }
            self.runs_left -= 1;
            (self.on_run)(candidate.lines.len());
            let scenario = Arc::new(numbered(Scenario { seed, ..candidate.clone() }));
            let options = Options { bug: self.options.bug, ..Options::of_scenario(Arc::clone(&scenario), seed) };
            let report = run(&options);
            let checkers =
                |report: &Report| -> Vec<_> { report.violations.iter().map(|found| found.checker).collect() };
            let wanted = checkers(self.wanted);
            if checkers(&report).iter().any(|checker| wanted.first() == Some(checker)) {
                self.best = Some((scenario, report));
                return true;
            }
        }
        false
    }

    /// Tries what `change` makes of the best so far.
    fn try_change(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut candidate = self.best_scenario().clone();
        change(&mut candidate);
        candidate != *self.best_scenario() && self.fails(candidate, SEEDS_TRIED)
    }

    fn drop_lines(&mut self) {
        let mut parts = 2;
        loop {
            let count = self.best_scenario().lines.len();
            let size = count.div_ceil(parts).max(1);
            let mut start = 0;
            let mut dropped = false;
            while start < self.best_scenario().lines.len() {
                let end = (start + size).min(self.best_scenario().lines.len());
                if self.try_change(|scenario| drop(scenario.lines.drain(start..end))) {
                    dropped = true;
                } else {
                    start = end;
                }
            }
            if size == 1 || count == 0 || self.runs_left == 0 {
                return;
            }
            if !dropped {
                parts *= 2;
            }
        }
    }

    fn drop_clients(&mut self) {
        for client in 0..self.best_scenario().load.clients.len() {
            self.try_change(|scenario| scenario.load.clients[client] = None);
        }
        let last = self.best_scenario().load.clients.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.try_change(|scenario| scenario.load.clients.truncate(last));
    }

    /// Fewer founders; spare machines come after them, and keep their numbers.
    fn drop_members(&mut self) {
        for founders in [1, 3] {
            if founders < self.best_scenario().founders && self.try_change(|scenario| scenario.founders = founders) {
                break;
            }
        }
        self.try_change(|scenario| scenario.spares = 0);
    }

    fn drop_settings(&mut self) {
        let mut index = 0;
        while index < self.best_scenario().settings.len() {
            if !self.try_change(|scenario| drop(scenario.settings.remove(index))) {
                index += 1;
            }
        }
    }

    /// Lets less time pass: first at the end, then before each line.
    fn shorten(&mut self) {
        for index in (0..self.best_scenario().lines.len()).rev() {
            for divisor in [8, 2] {
                let shortened = self.try_change(|scenario| {
                    let at = |line: &Line| match line.when {
                        When::At(at, _) => Some(at),
                        When::After(..) => None,
                    };
                    let before =
                        index.checked_sub(1).and_then(|before| at(&scenario.lines[before])).unwrap_or_default();
                    let Some(now) = at(&scenario.lines[index]) else { return };
                    let saved = now.saturating_sub(before) * (divisor - 1) / divisor;
                    for line in &mut scenario.lines[index..] {
                        if let When::At(from, to) = &mut line.when {
                            (*from, *to) = (from.saturating_sub(saved), to.saturating_sub(saved));
                        }
                    }
                });
                if shortened {
                    break;
                }
            }
        }
    }
}

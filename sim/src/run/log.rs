//! What members log during a run: the last lines for the story of a failure, and how many there were of each level.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::history::compaction::AutoCompaction;
use crate::world::cluster::machine_name;
use crate::world::net::MachineId;
use crate::world::{clock, lock, whose};

/// Lines kept for a report.
const KEPT_LINES: usize = 5000;

/// Collects the events of our own crates on the thread that it is the default of.
#[derive(Clone, Default)]
pub struct LogCollector {
    state: Arc<Mutex<Collected>>,
}

#[derive(Default)]
struct Collected {
    lines: VecDeque<(Option<MachineId>, String)>,
    /// There were more than are kept.
    has_dropped: bool,
    counts: BTreeMap<String, u64>,
    auto_compactions: Vec<AutoCompaction>,
}

/// How the line begins that a member logs before it compacts by itself.
const AUTO_COMPACTION: &str = "starting auto ";

impl LogCollector {
    /// The last lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        let name = |machine: Option<MachineId>| machine.map_or_else(String::new, machine_name);
        lock(&self.state).lines.iter().map(|(machine, line)| format!("{} {line}", name(*machine))).collect()
    }

    /// Whether a line of `machine` has `words`; `None` if none of those has that are kept, and others were not.
    pub fn has(&self, machine: MachineId, words: &str) -> Option<bool> {
        let state = lock(&self.state);
        let found = state.lines.iter().any(|(whose, line)| *whose == Some(machine) && line.contains(words));
        (found || !state.has_dropped).then_some(found)
    }

    /// Every compaction that a member has begun by itself, in order.
    pub fn auto_compactions(&self) -> Vec<AutoCompaction> {
        lock(&self.state).auto_compactions.clone()
    }

    /// How often each message came, by level and text.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.state).counts.clone()
    }
}

/// The message without its ids, numbers and times: what differs each time would be counted as one each.
fn without_figures(message: &str) -> String {
    let words = message.split(' ').map(|word| if word.contains(|c: char| c.is_ascii_digit()) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && metadata.target().starts_with("quorate") && *metadata.level() <= Level::INFO
}

impl Subscriber for LogCollector {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_ours(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata)
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level();
        let mut state = lock(&self.state);
        *state.counts.entry(format!("{level} {}", without_figures(&line.message))).or_default() += 1;
        if let Some(revision) = line.revision.filter(|_| line.message.starts_with(AUTO_COMPACTION)) {
            state.auto_compactions.push(AutoCompaction { at: clock::now(), revision });
        }
        if state.lines.len() == KEPT_LINES {
            state.lines.pop_front();
            state.has_dropped = true;
        }
        let line = format!("{} {level} {}{}", clock::now(), line.message, line.fields);
        state.lines.push_back((whose::machine(), line));
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
    revision: Option<i64>,
}

impl Visit for Line {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "revision" {
            self.revision = Some(value);
        }
        self.record_debug(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_in_figures_are_one() {
        let warning = "the clock difference against peer 1a47c656d06a789e is too high [26.4s > 1s]";
        assert_eq!(without_figures(warning), "the clock difference against peer … is too high … > …");
        assert_eq!(without_figures("repaired WAL"), "repaired WAL");
    }
}

//! From words and variables to settings.
//!
//! 1. [`go_rules`] reads the command line by Go's rules and puts it into clap's strictest form.
//! 2. A clap command made from the [`table`] parses each value ([`value`]), shows help, and will make completions.
//! 3. [`environment`] fills in what `ETCD_*` variables say; where there is a configuration [`file`](mod@file), it alone counts.
//! 4. Out come [`Settings`]: a value for every flag of the table, and who gave it.
//!
//! A mistake on the command line ends the program with Go's sentence, the usage text and status 2, as in etcd.

pub mod environment;
pub mod file;
pub mod go_rules;
pub mod table;
pub mod value;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Write as _;

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command};
use quorate_types::{GoDuration, Quoted};

use crate::urls::Url;
use go_rules::Stop;
use table::{Flag, GROUPS, HIDDEN_HEADING};
use value::{FEATURE_GATES, Gate, Kind, Value};

/// What a command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// Run with these settings.
    Run(Settings),
    /// Show the usage on stderr and the flags on stdout.
    Help,
    /// Show the version.
    Version,
}

/// A command line that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// A wrong flag: the sentence and the usage text go to stderr, status 2.
    Usage(String),
    /// A word that is no flag: logged, status 1.
    Leftover(String),
}

/// Who gave a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: the table.
    Default,
    /// The command line.
    CommandLine,
    /// A variable.
    Environment,
    /// The configuration file.
    File,
}

/// A value for every flag of the table.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

/// Reads a command line (without the program's name).
pub fn read(arguments: &[String]) -> Result<Asked, Refused> {
    let normal = go_rules::normalise(arguments, |name| table::find(name).map(|flag| flag.kind));
    let matches = command().try_get_matches_from(&normal.words).map_err(|error| {
        // All that is left to clap is a value's parser, whose error is Go's whole sentence.
        Refused::Usage(error.source().map_or_else(|| error.to_string(), ToString::to_string))
    })?;
    match normal.stopped {
        Some(Stop::Help) => return Ok(Asked::Help),
        Some(Stop::Wrong(sentence)) => return Err(Refused::Usage(sentence)),
        None => {}
    }
    if let Some(word) = normal.rest.first() {
        return Err(Refused::Leftover(format!("{} is not a valid flag", Quoted(word))));
    }

    let mut settings = Settings::defaults();
    for flag in table::all() {
        if matches.value_source(flag.name) != Some(ValueSource::CommandLine) {
            continue;
        }
        // The last one wins, unless it says nothing.
        let mut given = matches.get_many::<Value>(flag.name).into_iter().flatten();
        let last = given.rfind(|value| **value != Value::Nothing).cloned().unwrap_or(Value::Nothing);
        settings.set(flag, last, Origin::CommandLine);
    }
    if settings.bool("version") { Ok(Asked::Version) } else { Ok(Asked::Run(settings)) }
}

/// The clap command of the table.
pub fn command() -> Command {
    let mut command = Command::new("quorate")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .infer_long_args(false);
    for group in GROUPS {
        for flag in group.flags {
            command = command.arg(
                Arg::new(flag.name)
                    .long(flag.name)
                    .action(ArgAction::Append)
                    .num_args(1)
                    .require_equals(true)
                    .default_value(flag.default)
                    .help(flag.help)
                    .help_heading(group.heading)
                    .hide(group.heading == HIDDEN_HEADING)
                    .value_parser(parser(flag)),
            );
        }
    }
    command
}

fn parser(flag: &'static Flag) -> ValueParser {
    ValueParser::from(move |text: &str| {
        flag.kind.parse(text).map_err(|why| match flag.kind {
            Kind::Bool => format!("invalid boolean value {} for -{}: {why}", Quoted(text), flag.name),
            _ => format!("invalid value {} for flag -{}: {why}", Quoted(text), flag.name),
        })
    })
}

/// What stands on stderr after a mistake, and before the list of flags.
pub const USAGE: &str = "\
Usage:

  quorate [flags]
    Start a member.

  quorate --version
    Show the version.

  quorate -h | --help
    Show this text and all flags.

Each flag may also be given as a variable, --some-flag as ETCD_SOME_FLAG, or all of them in a file, which --config-file
names: then nothing else counts.
";

/// The list of flags, by group.
pub fn help() -> String {
    let command = command();
    let mut text = String::new();
    for group in GROUPS.iter().filter(|group| group.heading != HIDDEN_HEADING) {
        let _ = writeln!(text, "\n{}:", group.heading);
        for arg in command.get_arguments().filter(|arg| arg.get_help_heading() == Some(group.heading)) {
            let default = arg.get_default_values().first().map(|value| value.to_string_lossy()).unwrap_or_default();
            let _ = writeln!(text, "  --{} '{default}'", arg.get_id());
            let _ = writeln!(text, "    {}", arg.get_help().map(ToString::to_string).unwrap_or_default());
        }
    }
    text
}

impl Settings {
    /// The table's defaults.
    pub fn defaults() -> Settings {
        let values = table::all().map(|flag| (flag.name, (default_value(flag), Origin::Default))).collect();
        Settings { values }
    }

    /// Sets `flag`. A value that says nothing leaves the value, but the flag counts as given.
    pub fn set(&mut self, flag: &Flag, value: Value, origin: Origin) {
        let (old, old_origin) = self.values.get_mut(flag.name).expect("every flag of the table has a value");
        if value != Value::Nothing {
            *old = value;
        }
        *old_origin = origin;
    }

    /// True if someone gave the flag.
    pub fn is_given(&self, name: &str) -> bool {
        self.origin(name) != Origin::Default
    }

    /// Who gave it.
    pub fn origin(&self, name: &str) -> Origin {
        self.get(name).1
    }

    /// True if the value is not the table's, whoever gave it.
    pub fn differs(&self, flag: &Flag) -> bool {
        self.get(flag.name).0 != default_value(flag)
    }

    /// A text.
    pub fn text(&self, name: &str) -> &str {
        match &self.get(name).0 {
            Value::Text(text) => text,
            other => wrong_kind(name, other),
        }
    }

    /// A boolean.
    pub fn bool(&self, name: &str) -> bool {
        match &self.get(name).0 {
            Value::Bool(on) => *on,
            other => wrong_kind(name, other),
        }
    }

    /// An unsigned number.
    pub fn uint(&self, name: &str) -> u64 {
        match &self.get(name).0 {
            Value::Uint(number) => *number,
            other => wrong_kind(name, other),
        }
    }

    /// A signed number.
    pub fn int(&self, name: &str) -> i64 {
        match &self.get(name).0 {
            Value::Int(number) => *number,
            other => wrong_kind(name, other),
        }
    }

    /// A length of time.
    pub fn duration(&self, name: &str) -> GoDuration {
        match &self.get(name).0 {
            Value::Duration(duration) => *duration,
            other => wrong_kind(name, other),
        }
    }

    /// URLs.
    pub fn urls(&self, name: &str) -> &[Url] {
        match &self.get(name).0 {
            Value::Urls(urls) => urls,
            other => wrong_kind(name, other),
        }
    }

    /// Words.
    pub fn words(&self, name: &str) -> &[String] {
        match &self.get(name).0 {
            Value::Words(words) => words,
            other => wrong_kind(name, other),
        }
    }

    /// Whether a feature gate is open.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn gate(&self, name: &str) -> bool {
        let mut all = self.all_gates();
        all.find(|(gate, _)| gate.name == name).unwrap_or_else(|| panic!("there is no feature gate {name}")).1
    }

    /// The feature gates that differ from their defaults.
    fn gates(&self) -> &[(&'static str, bool)] {
        match &self.get("feature-gates").0 {
            Value::Gates(gates) => gates,
            other => wrong_kind("feature-gates", other),
        }
    }

    /// Every feature gate, and whether it is open.
    pub fn all_gates(&self) -> impl Iterator<Item = (Gate, bool)> {
        let given = |gate: &Gate| self.gates().iter().find(|(name, _)| *name == gate.name).map(|(_, on)| *on);
        FEATURE_GATES.into_iter().map(move |gate| (gate, given(&gate).unwrap_or(gate.default)))
    }

    fn get(&self, name: &str) -> &(Value, Origin) {
        self.values.get(name).unwrap_or_else(|| panic!("--{name} is not in the table"))
    }
}

fn default_value(flag: &Flag) -> Value {
    match (flag.kind, flag.default) {
        (Kind::Urls, "") => Value::Urls(Vec::new()),
        (Kind::Words, "") => Value::Words(Vec::new()),
        (kind, text) => kind.parse(text).expect("a test parses every default"),
    }
}

fn wrong_kind(name: &str, value: &Value) -> ! {
    panic!("--{name} holds {value:?}: it was asked for as something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(|word| (*word).to_owned()).collect()
    }

    fn settings(line: &[&str]) -> Settings {
        match read(&words(line)) {
            Ok(Asked::Run(settings)) => settings,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn refused(line: &[&str]) -> Refused {
        match read(&words(line)) {
            Err(refused) => refused,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn the_last_value_of_a_flag_wins() {
        let given = settings(&["-name", "a", "--pre-vote=false", "--name=b", "-pre-vote", "--snapshot-count=0x10"]);
        assert_eq!((given.text("name"), given.bool("pre-vote"), given.uint("snapshot-count")), ("b", true, 16));
        assert!(given.is_given("name") && !given.is_given("data-dir"));
        assert_eq!(given.uint("heartbeat-interval"), 100);
    }

    #[test]
    fn every_occurrence_is_checked_and_the_first_mistake_is_reported() {
        assert_eq!(
            refused(&["--max-txn-ops=x", "--max-txn-ops=1"]),
            Refused::Usage("invalid value \"x\" for flag -max-txn-ops: parse error".into())
        );
        assert_eq!(
            refused(&["--pre-vote=xx", "--zz"]),
            Refused::Usage("invalid boolean value \"xx\" for -pre-vote: parse error".into())
        );
        assert_eq!(
            refused(&["--initial-cluster-state=bad", "-h"]),
            Refused::Usage("invalid value \"bad\" for flag -initial-cluster-state: invalid value".into())
        );
        assert_eq!(
            refused(&["--v2-deprecation=not-yet"]),
            Refused::Usage("invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"".into())
        );
        assert_eq!(refused(&["--discover", "x"]), Refused::Usage("flag provided but not defined: -discover".into()));
        assert_eq!(refused(&["--name"]), Refused::Usage("flag needs an argument: -name".into()));
    }

    #[test]
    fn words_behind_the_flags_are_refused_before_anything_else_is_done() {
        assert_eq!(refused(&["--version", "extra"]), Refused::Leftover("\"extra\" is not a valid flag".into()));
        assert_eq!(refused(&["extra", "--zz"]), Refused::Leftover("\"extra\" is not a valid flag".into()));
    }

    #[test]
    fn help_and_version() {
        assert!(matches!(read(&words(&["--name=x", "-h", "--zz"])), Ok(Asked::Help)));
        assert!(matches!(read(&words(&["--version"])), Ok(Asked::Version)));
        assert!(matches!(read(&words(&["--version", "--version=false"])), Ok(Asked::Run(_))));
        let help = help();
        assert!(help.contains("\nMember:\n  --name 'default'\n    Name of this member"), "{help}");
        assert!(help.contains("  --listen-client-urls 'http://localhost:2379'\n"));
        assert!(!help.contains("cluster-active-size"));
    }

    #[test]
    fn an_empty_list_of_urls_keeps_what_was_there_but_counts_as_given() {
        let given = settings(&["--listen-client-urls="]);
        assert!(given.is_given("listen-client-urls"));
        assert_eq!(given.urls("listen-client-urls")[0].as_str(), "http://localhost:2379");
        let given = settings(&["--listen-peer-urls=http://127.0.0.1:1", "--listen-peer-urls="]);
        assert_eq!(given.urls("listen-peer-urls")[0].as_str(), "http://127.0.0.1:1");
    }

    #[test]
    fn names_of_old_are_taken_and_empty_values_are_values() {
        let given = settings(&["--snapshot", "-vv", "--force=anything", "--data-dir=", "--wal-dir", ""]);
        assert!(given.is_given("snapshot") && given.is_given("data-dir"));
        assert_eq!((given.text("data-dir"), given.text("wal-dir")), ("", ""));
    }
}

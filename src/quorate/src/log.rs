//! The log: one JSON object a line, in the shape of etcd's (zap's).
//!
//! ```text
//! {"level":"info","ts":"2026-11-21T00:18:00.505000Z","caller":"quorate/run.rs:80","msg":"ready to serve client requests"}
//! ```
//!
//! `level`, `ts`, `caller` and `msg` come first, then the event's fields in their order; an underscore in a field's name shows
//! as a dash, as in etcd's. A debug value that is a JSON array is written as one, so a list of URLs needs no special type. No
//! line ever has colour, also on a terminal.
//!
//! Lines are made by the thread that logs and written by a thread of their own, so that a slow terminal never holds up a
//! member; if that thread falls too far behind, lines are dropped, and the last line says how many. Dropping the [`Log`]
//! writes what is queued.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::{fs, panic};

use jiff::Zoned;
use quorate_api::SetLogLevel;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::flags::Settings;
use crate::go;

mod journal;
mod rotation;

use journal::Journal;
use rotation::{RotatingFile, RotationConfig};

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 16 * 1024;

/// The target of events that end the program; they are shown with this level.
pub const FATAL: &str = "fatal";
/// The target of panics.
const PANIC: &str = "panic";
/// The output that is systemd's journal.
const JOURNAL: &str = "systemd/journal";
/// The field whose value, a JSON object, is spread into the line: a way around tracing's limit of 32 fields.
const SPREAD: &str = "spread";

/// Logs what ends the program.
macro_rules! fatal {
    ($($event:tt)*) => { tracing::error!(target: $crate::log::FATAL, $($event)*) };
}
pub(crate) use fatal;

/// How grave an event is: zap's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For developers.
    Debug,
    /// Normal life.
    Info,
    /// Worth a look.
    Warn,
    /// Something failed.
    Error,
    /// A bug broke something.
    Panic,
    /// The program ends.
    Fatal,
}

impl Severity {
    fn parse(text: &str) -> Option<Self> {
        // zap takes lower and upper case, and nothing for info.
        Some(match text {
            "debug" | "DEBUG" => Severity::Debug,
            "info" | "INFO" | "" => Severity::Info,
            "warn" | "WARN" | "warning" | "WARNING" => Severity::Warn,
            "error" | "ERROR" => Severity::Error,
            "panic" | "PANIC" | "dpanic" | "DPANIC" => Severity::Panic,
            "fatal" | "FATAL" => Severity::Fatal,
            _ => return None,
        })
    }

    fn of(metadata: &Metadata<'_>) -> Self {
        match (metadata.target(), *metadata.level()) {
            (FATAL, _) => Severity::Fatal,
            (PANIC, _) => Severity::Panic,
            (_, Level::ERROR) => Severity::Error,
            (_, Level::WARN) => Severity::Warn,
            (_, Level::INFO) => Severity::Info,
            (_, Level::DEBUG | Level::TRACE) => Severity::Debug,
        }
    }

    /// As it stands in a line.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Debug => "debug",
            Severity::Info => "info",
            Severity::Warn => "warn",
            Severity::Error => "error",
            Severity::Panic => "panic",
            Severity::Fatal => "fatal",
        }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    /// For eyes: parts separated by tabs, fields as JSON at the end.
    Console,
}

/// What to log, how, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    least: Severity,
    form: Form,
    /// Sorted, each once.
    outputs: Vec<String>,
    /// The file among them is put aside when it is full.
    rotation: Option<RotationConfig>,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { least: Severity::Info, form: Form::Json, outputs: vec!["stderr".into()], rotation: None }
    }
}

impl LogConfig {
    /// What the flags say. Errors are etcd's texts where it has them.
    pub fn from_settings(settings: &Settings) -> Result<LogConfig, String> {
        match settings.text("logger") {
            "zap" => {}
            "capnslog" => return Err("--logger=capnslog is removed in v3.5".into()),
            other => return Err(format!("unknown logger option {other:?}")),
        }
        let level = settings.text("log-level");
        let Some(least) = Severity::parse(level) else {
            return Err(format!(
                "unrecognized level: {level:?}: --log-level takes debug, info, warn, error, panic or fatal"
            ));
        };
        let form = match settings.text("log-format") {
            "json" | "" => Form::Json,
            "console" => Form::Console,
            other => return Err(format!("unknown log format: {other}, supported values json, console")),
        };
        let given = settings.words("log-outputs");
        if given.len() > 1 && given.iter().any(|output| output == "default") {
            return Err("multi logoutput for \"default\" is not supported yet".into());
        }
        let mut outputs: Vec<String> =
            given.iter().map(|output| if output == "default" { "stderr" } else { output }.to_owned()).collect();
        if outputs.iter().any(|output| output == "/dev/null") {
            outputs = vec!["/dev/null".into()];
        }
        let rotation = match settings.bool("enable-log-rotation") {
            false => None,
            true => {
                let files = outputs.iter().filter(|output| !matches!(output.as_str(), "stderr" | "stdout")).count();
                if files > 1 || (files == 0 && outputs.len() == 1) {
                    return Err(
                        "--log-outputs requires a single file path when --log-rotate-config-json is defined".into()
                    );
                }
                Some(RotationConfig::parse(settings.text("log-rotation-config-json"))?)
            }
        };
        if given.len() > 1 && given.iter().any(|output| output == JOURNAL) {
            let shown: Vec<String> = given.iter().map(|output| format!("{output:?}")).collect();
            return Err(format!(
                "running with systemd/journal but other '--log-outputs' values ([{}]) are configured with 'default'; override \
                 'default' value with something else",
                shown.join(" ")
            ));
        }
        Ok(LogConfig { least, form, outputs, rotation })
    }
}

/// The least severity that is shown; it may change while the log runs.
#[derive(Debug)]
struct Least(AtomicU8);

impl Least {
    fn new(least: Severity) -> Self {
        Self(AtomicU8::new(least as u8))
    }

    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        let severity = Severity::of(metadata);
        let target = metadata.target();
        let is_ours = target.starts_with("quorate") || matches!(target, FATAL | PANIC | "raft");
        // What libraries say about themselves helps nobody below a warning.
        severity as u8 >= self.0.load(Ordering::Relaxed) && (is_ours || severity >= Severity::Warn)
    }

    /// False if there is no such level.
    fn set(&self, level: &str) -> bool {
        // Nothing is a level for a flag, and none for who sets one.
        let Some(severity) = Severity::parse(level).filter(|_| !level.is_empty()) else { return false };
        let set = || {
            self.0.store(severity as u8, Ordering::Relaxed);
            // Each place that logs has noted whether it is wanted.
            tracing::callsite::rebuild_interest_cache();
        };
        // Said while it is shown.
        let is_quieter = severity as u8 > self.0.load(Ordering::Relaxed);
        if !is_quieter {
            set();
        }
        tracing::warn!(least = severity.name(), "the log's level was changed");
        if is_quieter {
            set();
        }
        true
    }
}

/// The running log.
pub struct Log {
    dropped: ErrorCounter,
    least: Arc<Least>,
    _guard: WorkerGuard,
}

impl Log {
    /// Opens the outputs and takes the process's events and panics from now on.
    pub fn start(config: LogConfig) -> Result<Log, String> {
        let outputs = Outputs::open(&config)?;
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(QUEUE_LINES)
            .lossy(true)
            .thread_name("log")
            .finish(outputs);
        let dropped = writer.error_counter();
        let form = config.form;
        let least = Arc::new(Least::new(config.least));
        let shown = Arc::clone(&least);
        let lines = tracing_subscriber::fmt::layer().event_format(Lines { form }).with_ansi(false).with_writer(writer);
        tracing_subscriber::registry()
            .with(filter_fn(move |metadata| shown.shows(metadata)))
            .with(lines)
            .try_init()
            .map_err(|error| format!("the log is already running: {error}"))?;
        panic::set_hook(Box::new(log_panic));
        Ok(Log { dropped, least, _guard: guard })
    }

    /// Sets the least level that is shown.
    pub fn level_setter(&self) -> SetLogLevel {
        let least = Arc::clone(&self.least);
        Arc::new(move |level| least.set(level))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let dropped = self.dropped.dropped_lines();
        if dropped > 0 {
            tracing::warn!(lines = dropped, "the log's outputs were too slow: lines were dropped");
        }
    }
}

fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic");
    let at = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let stacktrace = std::backtrace::Backtrace::capture();
    let stacktrace = match stacktrace.status() {
        std::backtrace::BacktraceStatus::Captured => stacktrace.to_string(),
        _ => "set RUST_BACKTRACE=1 to see it".to_owned(),
    };
    tracing::error!(target: PANIC, at, thread = thread.name().unwrap_or("unnamed"), stacktrace, "{text}");
}

/// All outputs as one.
struct Outputs(Vec<Box<dyn Write + Send>>);

impl Outputs {
    fn open(config: &LogConfig) -> Result<Outputs, String> {
        let open_file = |path: &str| -> io::Result<Box<dyn Write + Send>> {
            Ok(match &config.rotation {
                Some(rotation) if path != "/dev/null" => {
                    Box::new(RotatingFile::open(Path::new(path), rotation.clone())?)
                }
                _ => Box::new(fs::OpenOptions::new().append(true).create(true).open(path)?),
            })
        };
        let open = |name: &String| -> Result<Box<dyn Write + Send>, String> {
            match name.as_str() {
                "stderr" => Ok(Box::new(io::stderr())),
                "stdout" => Ok(Box::new(io::stdout())),
                JOURNAL => match Journal::open(Path::new(journal::SOCKET), &program()) {
                    Ok(journal) => Ok(Box::new(journal)),
                    Err(error) => {
                        let (socket, error) = (journal::SOCKET, go::error::text(&error));
                        Err(format!("can't find journal (dial unixgram {socket}: connect: {error})"))
                    }
                },
                path => open_file(path).map_err(|error| format!("--log-outputs: cannot open {path:?}: {error}")),
            }
        };
        Ok(Outputs(config.outputs.iter().map(open).collect::<Result<_, _>>()?))
    }
}

/// How this program was called.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    Path::new(&path).file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl Write for Outputs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A failing output must not silence the others, and nobody is left to tell.
        for output in &mut self.0 {
            let _ = output.write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        for output in &mut self.0 {
            let _ = output.flush();
        }
        Ok(())
    }
}

/// Makes lines of events.
struct Lines {
    form: Form,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::new(self.form);
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = Severity::of(metadata).name();
        let ts = timestamp(&Zoned::now());
        let caller = Caller { file: metadata.file().unwrap_or("?"), line: metadata.line().unwrap_or(0) };
        let Fields { message, rest, .. } = fields;
        match self.form {
            Form::Json => {
                let message = json(&message);
                writeln!(line, r#"{{"level":"{level}","ts":"{ts}","caller":"{caller}","msg":{message}{rest}}}"#)
            }
            Form::Console => {
                write!(line, "{ts}\t{level}\t{caller}\t{}", message.replace('\n', "\\n"))?;
                match rest.strip_prefix(", ") {
                    Some(fields) => writeln!(line, "\t{{{fields}}}"),
                    None => writeln!(line),
                }
            }
        }
    }
}

/// RFC 3339 with six digits; the zone as `Z` or `+0200`.
fn timestamp(now: &Zoned) -> String {
    let zone = if now.offset().is_zero() { "Z" } else { "%z" };
    now.strftime(&format!("%Y-%m-%dT%H:%M:%S%.6f{zone}")).to_string()
}

/// The last two parts of a source file's path that say something (`src` does not), and the line.
struct Caller<'a> {
    file: &'a str,
    line: u32,
}

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Path::new(self.file).components().rev().filter_map(|part| part.as_os_str().to_str());
        let file = parts.next().unwrap_or("?");
        match parts.find(|part| *part != "src") {
            Some(dir) => write!(f, "{dir}/{file}:{}", self.line),
            None => write!(f, "{file}:{}", self.line),
        }
    }
}

/// Collects an event's fields as JSON.
struct Fields {
    form: Form,
    message: String,
    /// Each with a separator in front.
    rest: String,
}

impl Fields {
    fn new(form: Form) -> Self {
        Fields { form, message: String::new(), rest: String::new() }
    }

    fn push(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let (comma, colon) = match self.form {
            Form::Json => (",", ":"),
            Form::Console => (", ", ": "),
        };
        let name = json(&name.replace('_', "-"));
        let _ = write!(self.rest, "{comma}{name}{colon}{value}");
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            SPREAD => self.rest.push_str(&text),
            name => match json_array(&text) {
                Some(array) => self.push(name, format_args!("{array}")),
                None => self.push(name, format_args!("{}", json(&text))),
            },
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.push(name, format_args!("{}", json(value))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field.name(), format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field.name(), format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field.name(), format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field.name(), format_args!("{}", serde_json::Value::from(value)));
    }
}

/// The text as JSON, if it is an array of JSON: Rust shows a list of plain texts and numbers so.
fn json_array(text: &str) -> Option<serde_json::Value> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten().filter(serde_json::Value::is_array)
}

/// Fields for the `spread` of an event: any number, in their order.
#[derive(Default)]
pub struct Spread(Vec<(&'static str, serde_json::Value)>);

impl Spread {
    /// Adds a field.
    pub fn with(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }
}

/// What [`Fields`] appends as it is. Without spaces also on a console: nobody reads fifty fields by eye.
impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| write!(f, ",{}:{value}", json(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::flags::{self, Asked};

    fn config(line: &[&str]) -> Result<LogConfig, String> {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        match flags::read(&words) {
            Ok(Asked::Run(settings)) => LogConfig::from_settings(&settings),
            other => panic!("{other:?}"),
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(line: &[&str], events: impl FnOnce()) -> String {
        let config = config(line).unwrap();
        let shared = Shared::default();
        let writer = shared.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines { form: config.form })
            .with_writer(move || writer.clone());
        let least = Least::new(config.least);
        let subscriber =
            tracing_subscriber::registry().with(filter_fn(move |metadata| least.shows(metadata))).with(lines);
        tracing::subscriber::with_default(subscriber, events);
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object_with_its_fields_in_order() {
        let urls = vec!["http://a:1".to_owned(), "http://b:1".to_owned()];
        let text = logged(&[], || {
            tracing::info!(name = "n\"1\n", local_member_id = %"8e9e", urls = ?urls, count = 3_u64, on = true, "ready\tnow");
        });
        assert_eq!(text.matches('\n').count(), 1);
        let (head, fields) = text.split_once(r#","msg":"#).unwrap();
        assert_eq!(
            fields,
            "\"ready\\tnow\",\"name\":\"n\\\"1\\n\",\"local-member-id\":\"8e9e\",\"urls\":[\"http://a:1\",\"http://b:1\"],\"count\":3,\"on\":true}\n"
        );
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "info");
        assert!(line["caller"].as_str().unwrap().starts_with("quorate/log.rs:"), "{head}");
        assert!(head.starts_with(r#"{"level":"info","ts":"2"#), "{head}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn levels_are_zaps() {
        let events = || {
            tracing::debug!("d");
            tracing::info!("i");
            tracing::warn!("w");
            tracing::error!("e");
            fatal!("f");
            tracing::info!(target: "h2", "library");
        };
        let shown = |level: &str| -> String {
            let text = logged(&["--log-level", level], events);
            text.lines()
                .map(|line| {
                    serde_json::from_str::<serde_json::Value>(line).unwrap()["msg"].as_str().unwrap().to_owned()
                })
                .collect()
        };
        for (level, messages) in
            [("debug", "diwef"), ("info", "iwef"), ("warn", "wef"), ("error", "ef"), ("panic", "f"), ("fatal", "f")]
        {
            assert_eq!(shown(level), messages, "{level}");
        }
        assert!(logged(&[], || fatal!(error = %"x", "end")).contains(r#"{"level":"fatal","#));
    }

    #[test]
    fn the_console_form_is_for_eyes() {
        let text = logged(&["--log-format=console"], || tracing::warn!(a = 1_u64, b = "x", "hello"));
        let parts: Vec<&str> = text.trim_end().split('\t').collect();
        assert_eq!((parts[1], parts[3], parts[4]), ("warn", "hello", r#"{"a": 1, "b": "x"}"#));
    }

    #[test]
    fn any_number_of_fields_can_be_spread() {
        let text = logged(&[], || {
            tracing::info!(spread = ?Spread::default().with("etcd-version", "3.7.1").with("list", vec!["a"]).with("n", 1), "start");
        });
        assert!(text.ends_with("\"msg\":\"start\",\"etcd-version\":\"3.7.1\",\"list\":[\"a\"],\"n\":1}\n"), "{text}");
    }

    #[test]
    fn time_has_six_digits_and_zone() {
        let at = |time: &str, hours: i8| {
            let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(hours));
            timestamp(&time.parse::<jiff::Timestamp>().unwrap().to_zoned(zone))
        };
        assert_eq!(at("2026-11-21T00:18:00.505Z", 0), "2026-11-21T00:18:00.505000Z");
        assert_eq!(at("2026-11-21T00:18:00.0000019Z", 2), "2026-11-21T02:18:00.000001+0200");
        assert_eq!(at("2026-11-21T00:18:00Z", -5), "2026-11-20T19:18:00.000000-0500");
    }

    #[test]
    fn callers_are_two_parts() {
        let caller = |file| Caller { file, line: 7 }.to_string();
        assert_eq!(caller("src/member/src/raft_loop.rs"), "member/raft_loop.rs:7");
        assert_eq!(caller("src/store/src/mvcc/index.rs"), "mvcc/index.rs:7");
        assert_eq!(caller("main.rs"), "main.rs:7");
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(config(&[]), Ok(LogConfig::default()));
        let outputs = |given: &str| config(&["--log-outputs", given]).map(|config| config.outputs);
        assert_eq!(outputs("stdout,stderr,stdout"), Ok(vec!["stderr".into(), "stdout".into()]));
        assert_eq!(outputs("/tmp/x,/dev/null"), Ok(vec!["/dev/null".into()]));
        assert!(outputs("default,stderr").unwrap_err().contains("multi logoutput"));
        assert_eq!(outputs("systemd/journal"), Ok(vec!["systemd/journal".into()]));
        assert!(outputs("systemd/journal,stderr").unwrap_err().contains("values ([\"stderr\" \"systemd/journal\"])"));
        assert!(outputs("systemd/journal,default").unwrap_err().contains("multi logoutput"));
        assert!(config(&["--log-level=loud"]).unwrap_err().contains("\"loud\""));
        assert_eq!(
            config(&["--log-format=xml"]),
            Err("unknown log format: xml, supported values json, console".to_owned())
        );
        assert_eq!(config(&["--logger=capnslog"]), Err("--logger=capnslog is removed in v3.5".to_owned()));
    }

    #[test]
    fn rotation_is_of_one_file() {
        let rotating = |outputs: &str| config(&["--enable-log-rotation", "--log-outputs", outputs]);
        assert_eq!(rotating("/tmp/x").unwrap().rotation, Some(RotationConfig::parse("{\"maxsize\": 100}").unwrap()));
        assert!(rotating("stderr,/tmp/x").unwrap().rotation.is_some());
        let refused = "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        assert_eq!(rotating("stderr"), Err(refused.to_owned()));
        assert_eq!(rotating("/tmp/x,/tmp/y"), Err(refused.to_owned()));
        let bad = config(&["--enable-log-rotation", "--log-outputs=/tmp/x", "--log-rotation-config-json={maxsize}"]);
        assert!(bad.unwrap_err().contains("improperly formatted"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let outputs = vec!["/nonexistent/dir/log".to_owned()];
        let error = Outputs::open(&LogConfig { outputs, ..LogConfig::default() }).err().unwrap();
        assert!(error.contains("/nonexistent/dir/log"), "{error}");
    }
}

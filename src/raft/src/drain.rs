//! raft-rs logs through slog; this passes its lines to `tracing`.

use std::fmt::{self, Write as _};

use slog::{Drain, Key, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// A slog logger whose lines become `tracing` events. Raft's own `info` is for developers: it goes to `debug`.
pub fn logger() -> Logger {
    Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if record.level().is_at_least(Level::Warning) || tracing::enabled!(target: "raft", tracing::Level::DEBUG) {
            let mut fields = Fields::default();
            // Collecting into a string cannot fail; a value that refuses to print is left out.
            let _ = slog::KV::serialize(&record.kv(), record, &mut fields);
            let _ = slog::KV::serialize(values, record, &mut fields);
            let Fields(details) = fields;
            match record.level() {
                Level::Critical | Level::Error => tracing::error!(target: "raft", details, "{}", record.msg()),
                Level::Warning => tracing::warn!(target: "raft", details, "{}", record.msg()),
                Level::Info | Level::Debug | Level::Trace => {
                    tracing::debug!(target: "raft", details, "{}", record.msg());
                }
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Fields(String);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let separator = if self.0.is_empty() { "" } else { " " };
        write!(self.0, "{separator}{key}={value}").map_err(slog::Error::from)
    }
}

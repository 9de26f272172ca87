//! What was measured, as a table for people and as JSON for programs.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process::Memory;

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The workload's name.
    pub workload: String,
    /// Operations in flight at most.
    pub clients: usize,
    /// HTTP/2 connections.
    pub connections: usize,
    /// Operations a second asked for; none in a closed loop.
    pub rate_hz: Option<f64>,
    /// Length of the measurement in seconds.
    pub elapsed_secs: f64,
    /// Operations that succeeded; for a load, keys.
    pub operations: u64,
    /// Operations a second.
    pub per_second: f64,
    /// Latencies of those operations (of a load's requests). In an open loop, from the time when each was due.
    pub latency: Latency,
    /// Refusals by the server, by error.
    pub refused: BTreeMap<String, u64>,
    /// Compare-and-puts that had to start again.
    pub conflicts: u64,
    /// CPU time of this program for one operation, in microseconds.
    pub generator_cpu_us_per_op: f64,
    /// What the server process used, if it was named.
    pub server: Option<ServerUse>,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub min_us: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// Of a histogram of nanoseconds; all zero if it is empty.
    pub fn of(nanos: &Histogram<u64>) -> Self {
        let at = |quantile: f64| nanos.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            min_us: nanos.min() as f64 / 1e3,
            mean_us: nanos.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: nanos.max() as f64 / 1e3,
        }
    }
}

/// What the server process used during the measurement.
#[derive(Clone, Debug, Serialize)]
pub struct ServerUse {
    /// CPU time for one operation, in microseconds.
    pub cpu_us_per_op: f64,
    /// CPU time in seconds.
    pub cpu_secs: f64,
    /// Memory.
    #[serde(flatten)]
    pub memory: Memory,
}

/// Runs, one a row. A name in front of the workload where several servers were measured.
pub fn table<'a>(runs: impl IntoIterator<Item = (&'a str, &'a Measured)>) -> String {
    let mut table = new_table();
    table.set_header([
        "workload",
        "ops/s",
        "p50 µs",
        "p90 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
        "refused",
        "server CPU µs/op",
        "generator CPU µs/op",
        "anon peak MiB",
    ]);
    for (server, run) in runs {
        let name = if server.is_empty() { run.workload.clone() } else { format!("{server} {}", run.workload) };
        let latency = &run.latency;
        let server_use = |show: &dyn Fn(&ServerUse) -> String| run.server.as_ref().map(show).unwrap_or_default();
        table.add_row([
            name,
            format!("{:.0}", run.per_second),
            format!("{:.0}", latency.p50_us),
            format!("{:.0}", latency.p90_us),
            format!("{:.0}", latency.p99_us),
            format!("{:.0}", latency.p999_us),
            format!("{:.0}", latency.max_us),
            run.refused.values().sum::<u64>().to_string(),
            server_use(&|server| format!("{:.1}", server.cpu_us_per_op)),
            format!("{:.1}", run.generator_cpu_us_per_op),
            server_use(&|server| format!("{:.0}", mebibytes(server.memory.anonymous_peak_bytes))),
        ]);
    }
    numbers_to_the_right(&mut table);
    table.to_string()
}

/// A table in etcdctl's frame.
pub fn new_table() -> Table {
    const FRAME: TableStyle = presets::ASCII_FULL_CONDENSED.header_separator(LineStyle::new('+', '-', '+', '+'));
    let mut table = Table::new();
    table.load_style(FRAME);
    table
}

/// All columns but the first hold numbers.
pub fn numbers_to_the_right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// Bytes as MiB.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

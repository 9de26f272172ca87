//! The marks that quorate is measured by, and whether it makes them.

use comfy_table::Table;
use serde::Serialize;

use super::medians::Medians;
use super::server::ServerKind::{Echo, Etcd, Floor, Quorate};
use crate::report;

/// One mark.
#[derive(Clone, Debug, Serialize)]
pub struct Mark {
    /// What is demanded.
    pub name: &'static str,
    /// Quorate's own figure.
    pub quorate: f64,
    /// The figure that it is compared with.
    pub other: f64,
    /// What quorate's figure must reach (or stay below).
    pub limit: f64,
    /// Quorate's figure divided by the other, or minus it.
    pub measured: f64,
    /// True if the mark is made.
    pub passed: bool,
}

/// How quorate's figure has to lie to another.
enum Demand {
    /// At least so many times the other.
    TimesAtLeast(f64),
    /// At most so many times the other.
    TimesAtMost(f64),
    /// At most so much more than the other.
    MoreAtMost(f64),
}
use Demand::{MoreAtMost, TimesAtLeast, TimesAtMost};

/// All marks for which both sides were measured.
pub fn marks(medians: &Medians) -> Vec<Mark> {
    let rate = |server, workload| medians.of(server, workload).map(|run| run.per_second);
    let put_cpu = |server| medians.of(server, "put").and_then(|run| run.server_cpu_us_per_op);
    let one_put = |server| medians.of(server, "put-one-client").map(|run| run.p50_us);
    let memory = |server| medians.memory_of(server).map(|memory| memory.anonymous_peak_bytes);
    let restart = |server| medians.memory_of(server).map(|memory| memory.restart_secs);
    [
        mark("puts/s ≥ 0.75 × floor", rate(Quorate, "put"), rate(Floor, "put"), TimesAtLeast(0.75)),
        mark("puts/s ≥ 1.3 × etcd", rate(Quorate, "put"), rate(Etcd, "put"), TimesAtLeast(1.3)),
        mark("server CPU per put ≤ floor + 13 µs", put_cpu(Quorate), put_cpu(Floor), MoreAtMost(13.0)),
        mark("linearizable gets/s ≥ 0.75 × echo", rate(Quorate, "get"), rate(Echo, "get"), TimesAtLeast(0.75)),
        mark("linearizable gets/s ≥ 2.5 × etcd", rate(Quorate, "get"), rate(Etcd, "get"), TimesAtLeast(2.5)),
        mark("compare-and-puts/s ≥ 4 × etcd", rate(Quorate, "cas"), rate(Etcd, "cas"), TimesAtLeast(4.0)),
        mark("limited scans/s ≥ 20 × etcd", rate(Quorate, "scan"), rate(Etcd, "scan"), TimesAtLeast(20.0)),
        mark("one client's put p50 ≤ floor + 50 µs", one_put(Quorate), one_put(Floor), MoreAtMost(50.0)),
        mark("one client's put p50 ≤ 0.85 × etcd", one_put(Quorate), one_put(Etcd), TimesAtMost(0.85)),
        mark("peak memory ≤ 0.6 × etcd", memory(Quorate), memory(Etcd), TimesAtMost(0.6)),
        mark("restart ≤ 0.6 × etcd", restart(Quorate), restart(Etcd), TimesAtMost(0.6)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Those for clusters.
pub fn cluster_marks(medians: &Medians) -> Vec<Mark> {
    let rate = |server, workload| medians.of(server, workload).map(|run| run.per_second);
    let put_cpu = |server| medians.of(server, "put").and_then(|run| run.server_cpu_us_per_op);
    [
        mark("puts/s ≥ 2.2 × etcd", rate(Quorate, "put"), rate(Etcd, "put"), TimesAtLeast(2.2)),
        mark("CPU of all members per put ≤ 0.45 × etcd", put_cpu(Quorate), put_cpu(Etcd), TimesAtMost(0.45)),
        mark("linearizable gets/s ≥ 2.5 × etcd", rate(Quorate, "get"), rate(Etcd, "get"), TimesAtLeast(2.5)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a follower that catches up may cost the leader's clients: p99 of puts in µs and the leader's memory in bytes, each
/// while all is quiet and meanwhile.
pub fn catch_up_marks(p99_us: (f64, f64), memory_bytes: (f64, f64)) -> Vec<Mark> {
    [
        mark("p99 of the leader's puts ≤ 3 × quiet", Some(p99_us.1), Some(p99_us.0), TimesAtMost(3.0)),
        mark("the leader's memory ≤ quiet + 100 MB", Some(memory_bytes.1), Some(memory_bytes.0), MoreAtMost(100e6)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A table of marks; `other` is what they are compared with.
pub fn table(marks: &[Mark], other: &str) -> Table {
    let mut table = report::new_table();
    table.set_header(["mark", "quorate", other, "measured", "limit", ""]);
    for mark in marks {
        table.add_row([
            mark.name.to_owned(),
            figure(mark.quorate),
            figure(mark.other),
            figure(mark.measured),
            figure(mark.limit),
            if mark.passed { "pass" } else { "FAIL" }.to_owned(),
        ]);
    }
    report::numbers_to_the_right(&mut table);
    table
}

/// Rates and bytes whole, small figures with digits.
fn figure(value: f64) -> String {
    if value.abs() > f64::from(1 << 24) {
        format!("{:.0} MiB", value / f64::from(1 << 20))
    } else if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn mark(name: &'static str, quorate: Option<f64>, other: Option<f64>, demand: Demand) -> Option<Mark> {
    let (quorate, other) = (quorate?, other?);
    let (measured, limit, passed) = match demand {
        TimesAtLeast(limit) => (quorate / other, limit, quorate >= limit * other),
        TimesAtMost(limit) => (quorate / other, limit, quorate <= limit * other),
        MoreAtMost(limit) => (quorate - other, limit, quorate <= other + limit),
    };
    Some(Mark { name, quorate, other, limit, measured, passed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_made_or_missed() {
        let made = |demand| mark("", Some(80.0), Some(100.0), demand).unwrap().passed;
        assert!(made(TimesAtLeast(0.75)) && !made(TimesAtLeast(0.9)));
        assert!(made(TimesAtMost(0.85)) && !made(TimesAtMost(0.6)));
        assert!(made(MoreAtMost(0.0)) && !made(MoreAtMost(-30.0)));
        assert!(mark("", Some(1.0), None, MoreAtMost(1.0)).is_none());
    }
}

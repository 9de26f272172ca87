//! Many rounds as one: of each figure the median.

use serde::Serialize;

use super::server::ServerKind;
use super::{MemorySample, Sample};
use crate::report::Measured;

/// Medians of all rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Medians {
    /// One for each server and workload, in the order of the first round.
    pub runs: Vec<RunMedian>,
    /// One for each server that stores.
    pub memory: Vec<MemoryMedian>,
}

/// One workload on one server.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct RunMedian {
    pub server: ServerKind,
    pub workload: String,
    pub rounds: usize,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub server_cpu_us_per_op: Option<f64>,
    pub generator_cpu_us_per_op: f64,
    /// All rounds together.
    pub refused: u64,
}

/// Memory and restart of one server.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct MemoryMedian {
    pub server: ServerKind,
    pub rounds: usize,
    pub anonymous_peak_bytes: f64,
    pub resident_peak_bytes: f64,
    pub load_per_second: f64,
    pub restart_secs: f64,
}

impl Medians {
    /// Of all samples.
    pub fn of_samples(runs: &[Sample], memory: &[MemorySample]) -> Medians {
        let mut medians = Medians::default();
        for Sample { server, run, .. } in runs {
            if medians.of(*server, &run.workload).is_none() {
                let same = |sample: &&Sample| sample.server == *server && sample.run.workload == run.workload;
                let same: Vec<&Measured> = runs.iter().filter(same).map(|sample| &sample.run).collect();
                medians.runs.push(RunMedian::of(*server, &same));
            }
        }
        for MemorySample { server, .. } in memory {
            if medians.memory_of(*server).is_none() {
                let same: Vec<&MemorySample> = memory.iter().filter(|sample| sample.server == *server).collect();
                medians.memory.push(MemoryMedian::of(*server, &same));
            }
        }
        medians
    }

    /// One workload on one server, if it was measured.
    pub fn of(&self, server: ServerKind, workload: &str) -> Option<&RunMedian> {
        self.runs.iter().find(|run| run.server == server && run.workload == workload)
    }

    /// Memory and restart of one server, if measured.
    pub fn memory_of(&self, server: ServerKind) -> Option<&MemoryMedian> {
        self.memory.iter().find(|memory| memory.server == server)
    }
}

impl RunMedian {
    fn of(server: ServerKind, runs: &[&Measured]) -> RunMedian {
        let over = |figure: &dyn Fn(&Measured) -> f64| median(runs.iter().map(|run| figure(run)));
        let server_cpu: Option<Vec<f64>> =
            runs.iter().map(|run| run.server.as_ref().map(|server| server.cpu_us_per_op)).collect();
        RunMedian {
            server,
            workload: runs.first().map(|run| run.workload.clone()).unwrap_or_default(),
            rounds: runs.len(),
            per_second: over(&|run| run.per_second),
            p50_us: over(&|run| run.latency.p50_us),
            p99_us: over(&|run| run.latency.p99_us),
            p999_us: over(&|run| run.latency.p999_us),
            server_cpu_us_per_op: server_cpu.map(median),
            generator_cpu_us_per_op: over(&|run| run.generator_cpu_us_per_op),
            refused: runs.iter().flat_map(|run| run.refused.values()).sum(),
        }
    }
}

impl MemoryMedian {
    fn of(server: ServerKind, samples: &[&MemorySample]) -> MemoryMedian {
        let over = |figure: &dyn Fn(&MemorySample) -> f64| median(samples.iter().map(|sample| figure(sample)));
        MemoryMedian {
            server,
            rounds: samples.len(),
            anonymous_peak_bytes: over(&|sample| sample.memory.anonymous_peak_bytes as f64),
            resident_peak_bytes: over(&|sample| sample.memory.resident_peak_bytes as f64),
            load_per_second: over(&|sample| sample.load_per_second),
            restart_secs: over(&|sample| sample.restart_secs),
        }
    }
}

/// The middle value; of an even number of values the mean of the middle two; of none, not a number.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([5.0, 1.0, 100.0]), 5.0);
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), 3.0);
        assert!(median([]).is_nan());
    }
}

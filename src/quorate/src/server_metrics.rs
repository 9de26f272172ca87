//! Metrics that this program adds to those of the member and of its API: what the process costs, which feature gates are open
//! (etcd `server/etcdserver/metrics.go`), and what stands where Go would show itself.

use prometheus::{IntGaugeVec, Opts, Registry};

use crate::flags::value::Gate;
use crate::go_runtime;
use crate::process::ProcessMetrics;
use crate::version;

/// All of them.
pub fn registry(gates: &[(Gate, bool)]) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessMetrics::new()?))?;
    go_runtime::register(&registry)?;
    let features = vector(&registry, "etcd_server_feature_enabled", "Feature gates: 1 is open.", &["name", "stage"])?;
    for (gate, is_open) in gates {
        features.with_label_values(&[gate.name, gate.stage]).set(i64::from(*is_open));
    }
    let go = vector(&registry, "etcd_server_go_version", "The Go that this was built with.", &["server_go_version"])?;
    go.with_label_values(&[version::GO_VERSION]).set(1);
    Ok(registry)
}

fn vector(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    let vector = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(vector.clone()))?;
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::value::FEATURE_GATES;

    #[test]
    fn every_gate_is_shown_with_its_stage_and_nothing_is_named_twice() {
        let gates: Vec<_> = FEATURE_GATES.into_iter().map(|gate| (gate, gate.name == "LeaseCheckpoint")).collect();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry(&gates).unwrap().gather()).unwrap();
        for line in [
            "etcd_server_feature_enabled{name=\"LeaseCheckpoint\",stage=\"ALPHA\"} 1",
            "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 0",
            "# TYPE go_gc_duration_seconds summary",
            "go_gc_duration_seconds{quantile=\"0.25\"} 0",
            "go_gc_duration_seconds_count 0",
            "go_gc_gogc_percent 100",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.starts_with("etcd_server_feature_enabled{")).count(), 11);
    }
}

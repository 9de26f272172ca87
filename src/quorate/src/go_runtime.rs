//! What etcd's Go runtime shows of itself. There is none here, but dashboards read these names: they are there, and say nothing.
//!
//! Those for which this process has an answer are in `process`.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily, MetricType, Quantile, Summary};
use prometheus::{Counter, Gauge, Registry};

/// Gauges that stand still.
const GAUGES: [(&str, f64); 19] = [
    // Go's own defaults.
    ("go_gc_gogc_percent", 100.0),
    ("go_gc_gomemlimit_bytes", i64::MAX as f64),
    ("go_memstats_buck_hash_sys_bytes", 0.0),
    ("go_memstats_gc_sys_bytes", 0.0),
    ("go_memstats_heap_alloc_bytes", 0.0),
    ("go_memstats_heap_idle_bytes", 0.0),
    ("go_memstats_heap_inuse_bytes", 0.0),
    ("go_memstats_heap_objects", 0.0),
    ("go_memstats_heap_released_bytes", 0.0),
    ("go_memstats_heap_sys_bytes", 0.0),
    ("go_memstats_last_gc_time_seconds", 0.0),
    ("go_memstats_mcache_inuse_bytes", 0.0),
    ("go_memstats_mcache_sys_bytes", 0.0),
    ("go_memstats_mspan_inuse_bytes", 0.0),
    ("go_memstats_mspan_sys_bytes", 0.0),
    ("go_memstats_next_gc_bytes", 0.0),
    ("go_memstats_other_sys_bytes", 0.0),
    ("go_memstats_stack_inuse_bytes", 0.0),
    ("go_memstats_stack_sys_bytes", 0.0),
];

/// Counters that stand still.
const COUNTERS: [&str; 3] = ["go_memstats_alloc_bytes_total", "go_memstats_frees_total", "go_memstats_mallocs_total"];

const HELP: &str = "Of the Go runtime; there is none.";

/// Registers all of them.
pub fn register(registry: &Registry) -> prometheus::Result<()> {
    for (name, value) in GAUGES {
        let gauge = Gauge::new(name, HELP)?;
        gauge.set(value);
        registry.register(Box::new(gauge))?;
    }
    for name in COUNTERS {
        registry.register(Box::new(Counter::new(name, HELP)?))?;
    }
    registry.register(Box::new(Pauses::new()?))
}

/// Pauses for the collection of garbage: none.
struct Pauses(Desc);

impl Pauses {
    const NAME: &str = "go_gc_duration_seconds";

    fn new() -> prometheus::Result<Self> {
        Desc::new(Self::NAME.to_owned(), HELP.to_owned(), Vec::new(), Default::default()).map(Self)
    }
}

impl Collector for Pauses {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let quantile = |quantile| {
            let mut none = Quantile::default();
            none.set_quantile(quantile);
            none
        };
        let mut summary = Summary::default();
        summary.set_quantile([0.0, 0.25, 0.5, 0.75, 1.0].map(quantile).to_vec());
        let mut metric = Metric::default();
        metric.set_summary(summary);
        let mut family = MetricFamily::default();
        family.set_name(Self::NAME.to_owned());
        family.set_help(HELP.to_owned());
        family.set_field_type(MetricType::SUMMARY);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

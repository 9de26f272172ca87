//! What this process costs the machine: metrics under the names that every dashboard knows, and the variables of `/debug/vars`.
//!
//! Read from `/proc` when somebody asks, and nothing where there is none.

use std::{fs, thread};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, MetricFamily, MetricType};
use prometheus::{Gauge, Opts};
use rustix::process::{Resource, getrlimit};
use serde_json::{Map, Value, json};

use crate::version;

/// Metrics of this process.
pub struct ProcessMetrics(Vec<Shown>);

/// What is shown of the usage.
struct Shown {
    gauge: Gauge,
    value: fn(&Usage) -> f64,
    /// It only rises. The system counts, so it is set all the same.
    is_counter: bool,
}

/// What the system tells.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_seconds: f64,
    /// Since the epoch.
    start_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    virtual_bytes_max: f64,
    files_open: f64,
    files_max: f64,
    threads: f64,
    received_bytes: f64,
    sent_bytes: f64,
}

impl Usage {
    /// Now.
    fn read() -> Usage {
        let mut usage = Usage {
            virtual_bytes_max: limit(Resource::As),
            files_max: limit(Resource::Nofile),
            files_open: fs::read_dir("/proc/self/fd").map_or(0.0, |files| files.count() as f64),
            ..Usage::default()
        };
        let ticks_a_second = rustix::param::clock_ticks_per_second() as f64;
        let page_bytes = rustix::param::page_size() as f64;
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            let number = |field: usize| stat_field(&stat, field);
            usage.cpu_seconds = (number(14) + number(15)) / ticks_a_second;
            usage.start_seconds = boot_seconds() + number(22) / ticks_a_second;
            usage.threads = number(20);
            usage.virtual_bytes = number(23);
            usage.resident_bytes = number(24) * page_bytes;
        }
        if let Ok(devices) = fs::read_to_string("/proc/self/net/dev") {
            (usage.received_bytes, usage.sent_bytes) = network_bytes(&devices);
        }
        usage
    }
}

/// Field `number`, from 1, of `/proc/PID/stat`. The second one is a name in parentheses and may hold anything.
fn stat_field(stat: &str, number: usize) -> f64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_ascii_whitespace().nth(number.saturating_sub(3)).and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// Received and sent by all devices but the loopback.
fn network_bytes(devices: &str) -> (f64, f64) {
    let mut bytes = (0.0, 0.0);
    for (name, counters) in devices.lines().filter_map(|line| line.split_once(':')) {
        let counters: Vec<f64> = counters.split_ascii_whitespace().filter_map(|text| text.parse().ok()).collect();
        if let ([received, ..], Some(sent)) = (counters.as_slice(), counters.get(8))
            && name.trim() != "lo"
        {
            bytes = (bytes.0 + received, bytes.1 + sent);
        }
    }
    bytes
}

/// When the system started, in seconds since the epoch.
fn boot_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
}

/// As the library of etcd shows no limit.
fn limit(resource: Resource) -> f64 {
    getrlimit(resource).current.map_or(u64::MAX as f64, |limit| limit as f64)
}

impl ProcessMetrics {
    /// For a registry.
    pub fn new() -> prometheus::Result<Self> {
        let mut all = Vec::new();
        let mut show = |name: &str, help: &str, value: fn(&Usage) -> f64| -> prometheus::Result<()> {
            let gauge = Gauge::with_opts(Opts::new(name, help))?;
            all.push(Shown { gauge, value, is_counter: name.ends_with("_total") });
            Ok(())
        };
        show("process_cpu_seconds_total", "User and system time of the processor, in seconds.", |usage| {
            usage.cpu_seconds
        })?;
        show("process_start_time_seconds", "Start time of the process since unix epoch.", |usage| usage.start_seconds)?;
        show("process_resident_memory_bytes", "Resident memory size.", |usage| usage.resident_bytes)?;
        show("process_virtual_memory_bytes", "Virtual memory size.", |usage| usage.virtual_bytes)?;
        show("process_virtual_memory_max_bytes", "Most virtual memory that there may be.", |usage| {
            usage.virtual_bytes_max
        })?;
        show("process_open_fds", "Number of open file descriptors.", |usage| usage.files_open)?;
        show("process_max_fds", "Most open file descriptors that there may be.", |usage| usage.files_max)?;
        show("process_network_receive_bytes_total", "Bytes that came in over the network.", |usage| {
            usage.received_bytes
        })?;
        show("process_network_transmit_bytes_total", "Bytes that went out over the network.", |usage| {
            usage.sent_bytes
        })?;
        show("os_fd_used", "The number of used file descriptors.", |usage| usage.files_open)?;
        show("os_fd_limit", "The file descriptor limit.", |usage| usage.files_max)?;
        // Dashboards of etcd read these, and mean Go.
        show("go_threads", "Number of threads of the system.", |usage| usage.threads)?;
        show("go_goroutines", "Number of goroutines; there are none.", |_| 0.0)?;
        show("go_sched_gomaxprocs_threads", "Number of processors.", |_| {
            thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
        })?;
        show("go_memstats_sys_bytes", "Bytes that the system has given.", |usage| usage.resident_bytes)?;
        show("go_memstats_alloc_bytes", "Bytes in use.", |usage| usage.resident_bytes)?;
        let go_info = Opts::new("go_info", "The Go that this was built with; there is none.");
        let gauge = Gauge::with_opts(go_info.const_label("version", version::GO_VERSION))?;
        all.push(Shown { gauge, value: |_| 1.0, is_counter: false });
        Ok(Self(all))
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.0.iter().flat_map(|shown| shown.gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let usage = Usage::read();
        let families = self.0.iter().flat_map(|Shown { gauge, value, is_counter }| {
            gauge.set(value(&usage));
            let families = gauge.collect();
            if *is_counter { as_counters(families) } else { families }
        });
        families.collect()
    }
}

fn as_counters(mut families: Vec<MetricFamily>) -> Vec<MetricFamily> {
    for family in &mut families {
        family.set_field_type(MetricType::COUNTER);
        for metric in family.mut_metric() {
            let mut counter = Counter::default();
            counter.set_value(metric.get_gauge().get_value());
            metric.set_counter(counter);
        }
    }
    families
}

/// The variables of `/debug/vars` that are this process's.
pub fn variables(command_line: &[String]) -> Map<String, Value> {
    let usage = Usage::read();
    let memory = json!({ "Sys": usage.resident_bytes as u64, "Alloc": usage.resident_bytes as u64 });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Map::from_iter([
        ("cmdline".to_owned(), Value::from(command_line.to_vec())),
        ("file_descriptor_limit".to_owned(), Value::from(files)),
        ("memstats".to_owned(), memory),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::read();
        assert!(usage.resident_bytes > 1e6 && usage.virtual_bytes >= usage.resident_bytes, "{usage:?}");
        assert!(usage.files_open >= 3.0 && usage.files_max >= usage.files_open, "{usage:?}");
        assert!(usage.start_seconds > 1.6e9 && usage.threads >= 1.0, "{usage:?}");
    }

    #[test]
    fn names_with_spaces_and_parentheses_are_passed_over() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 5 6 0 0 20 0 3 0 999 4096 2";
        assert_eq!([14, 15, 20, 22, 23, 24].map(|field| stat_field(stat, field)), [5.0, 6.0, 3.0, 999.0, 4096.0, 2.0]);
        assert_eq!(stat_field("", 14), 0.0);
    }

    #[test]
    fn the_loopback_is_no_network() {
        let devices = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 70 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n";
        assert_eq!(network_bytes(devices), (70.0, 9.0));
    }

    #[test]
    fn all_names_are_there_with_their_types() {
        let registry = prometheus::Registry::new();
        registry.register(Box::new(ProcessMetrics::new().unwrap())).unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "# TYPE process_cpu_seconds_total counter",
            "# TYPE process_resident_memory_bytes gauge",
            "# TYPE process_network_receive_bytes_total counter",
            "go_goroutines 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}

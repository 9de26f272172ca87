//! What the API counts. Every handle is made once; a call only adds to counters.
//!
//! The names are those of etcd and of the gRPC library under it. Calls that never became a request (unknown method, too
//! large, not protobuf) are not counted, as there.

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use quorate_runtime::Rt;
use quorate_runtime::clock::MonoTime;
use tonic::Code;

use crate::call_counters::{BY_METHOD, CallCounters};
use crate::method::{Kind, Method};
use crate::recent_calls::{RecentCalls, Traced};

/// The API's counters.
pub struct Metrics {
    calls: CallCounters,
    /// How long calls of each method took, if anybody wants to know.
    seconds: Option<Vec<Histogram>>,
    /// Whose clock measures how long calls take, if anybody wants to know.
    clock: Option<Rt>,
    /// Keeps the last calls, if anybody wants to see them.
    recent: Option<Arc<RecentCalls>>,
    clients: ClientVersions,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    pub(crate) health_success: IntCounter,
    pub(crate) health_failures: IntCounter,
    pub(crate) probes: ProbeMetrics,
    pub(crate) scrapes: ScrapeMetrics,
    pub(crate) watch: WatchMetrics,
    /// Messages of keep-alive streams that could not be received.
    pub(crate) lease_receive_failures: IntCounter,
}

/// What `/livez` and `/readyz` have found.
pub struct ProbeMetrics {
    /// The last result of each check: 1 if it was good.
    last: IntGaugeVec,
    total: IntCounterVec,
}

impl ProbeMetrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let last = IntGaugeVec::new(
            Opts::new("etcd_server_healthcheck", "The result of each kind of healthcheck."),
            &["type", "name"],
        )?;
        let total = IntCounterVec::new(
            Opts::new("etcd_server_healthchecks_total", "The total number of each kind of healthcheck."),
            &["type", "name", "status"],
        )?;
        registry.register(Box::new(last.clone()))?;
        registry.register(Box::new(total.clone()))?;
        Ok(Self { last, total })
    }

    /// The check `name` of `probe` was run.
    pub(crate) fn count(&self, probe: &str, name: &str, is_good: bool) {
        self.last.with_label_values(&[probe, name]).set(i64::from(is_good));
        self.total.with_label_values(&[probe, name, if is_good { "success" } else { "error" }]).inc();
    }
}

/// Who asks for the metrics. The names are those of Prometheus' library for Go.
pub struct ScrapeMetrics {
    /// Under way now.
    in_flight: IntGauge,
    good: IntCounter,
    failed: IntCounter,
}

impl ScrapeMetrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let in_flight = IntGauge::new("promhttp_metric_handler_requests_in_flight", "Scrapes that are being served.")?;
        let by_code = IntCounterVec::new(
            Opts::new("promhttp_metric_handler_requests_total", "Scrapes that were served, by status."),
            &["code"],
        )?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(by_code.clone()))?;
        let [good, failed, _refused] = ["200", "500", "503"].map(|code| by_code.with_label_values(&[code]));
        Ok(Self { in_flight, good, failed })
    }

    /// Counts a scrape that `serve` answers, or fails to. What it shows does not have it among those that are done.
    pub(crate) fn count<T, E>(&self, serve: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.in_flight.inc();
        let served = serve();
        self.in_flight.dec();
        match &served {
            Ok(_) => self.good.inc(),
            Err(_) => self.failed.inc(),
        }
        served
    }
}

/// How long it takes to make the answers of watch streams, and what went wrong there.
pub struct WatchMetrics {
    /// An answer with events.
    pub(crate) answer_seconds: Histogram,
    /// The same for each event in it.
    pub(crate) event_seconds: Histogram,
    /// An answer without.
    pub(crate) control_seconds: Histogram,
    /// Telling all watches of a stream how far they are.
    pub(crate) progress_seconds: Histogram,
    /// Requests that could not be received.
    pub(crate) receive_failures: IntCounter,
}

impl WatchMetrics {
    fn register(registry: &Registry, failures: &IntCounterVec) -> prometheus::Result<Self> {
        let seconds = |what: &str, help: &str| -> prometheus::Result<Histogram> {
            let name = format!("etcd_debugging_server_watch_send_loop_{what}_seconds");
            let buckets = prometheus::exponential_buckets(0.001, 2.0, 14)?;
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        Ok(Self {
            answer_seconds: seconds("watch_stream_duration", "Time to send an answer with events.")?,
            event_seconds: seconds("watch_stream_duration_per_event", "The same, for each event.")?,
            control_seconds: seconds("control_stream_duration", "Time to send an answer without events.")?,
            progress_seconds: seconds("progress_duration", "Time to look who is told of progress.")?,
            receive_failures: failures.with_label_values(&["receive", "watch"]),
        })
    }
}

/// Which versions of the API clients say that they speak, in the header `client-api-version`.
struct ClientVersions {
    requests: IntCounterVec,
    /// In the order in which they were first named: a call looks at one or two, and waits for nobody.
    known: [OnceLock<ClientVersion>; ClientVersions::MOST],
    /// Of those who name none, or one more.
    unknown: OnceLock<[IntCounter; 2]>,
}

struct ClientVersion {
    name: String,
    /// Of calls of one message each way, and of others.
    counters: [IntCounter; 2],
}

impl ClientVersions {
    const HEADER: HeaderName = HeaderName::from_static("client-api-version");
    const UNKNOWN: &str = "unknown";
    /// Beyond so many whoever names another one counts as unknown: the label is the client's to choose, the memory is ours.
    const MOST: usize = 50;
    const LONGEST_BYTES: usize = 32;

    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("etcd_server_client_requests_total", "Requests by the version that clients speak."),
            &["type", "client_api_version"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self { requests, known: [const { OnceLock::new() }; Self::MOST], unknown: OnceLock::new() })
    }

    fn count(&self, kind: Kind, headers: &HeaderMap) {
        let named = headers.get(Self::HEADER).and_then(|version| version.to_str().ok());
        let named = named.filter(|version| version.len() <= Self::LONGEST_BYTES && *version != Self::UNKNOWN);
        let counters = named.and_then(|version| self.of(version));
        let counters = counters.unwrap_or_else(|| self.unknown.get_or_init(|| self.counters(Self::UNKNOWN)));
        counters[usize::from(kind != Kind::Unary)].inc();
    }

    /// The counters of `version`; `None` if there is no room for it.
    fn of(&self, version: &str) -> Option<&[IntCounter; 2]> {
        let made = || ClientVersion { name: version.to_owned(), counters: self.counters(version) };
        // The first free place is taken, by whoever is first.
        let at_places = self.known.iter().map(|place| place.get_or_init(made));
        at_places.into_iter().find(|known| known.name == version).map(|known| &known.counters)
    }

    fn counters(&self, version: &str) -> [IntCounter; 2] {
        ["unary", "stream"].map(|kind| self.requests.with_label_values(&[kind, version]))
    }
}

impl Metrics {
    /// All counters, registered with `registry`, all methods and codes preset to 0. With a `clock`, how long calls take, too.
    ///
    /// # Errors
    /// If `registry` has one of them already.
    pub fn register(
        registry: &Registry,
        clock: Option<Rt>,
        recent: Option<Arc<RecentCalls>>,
    ) -> prometheus::Result<Self> {
        let seconds = match clock {
            Some(_) => {
                let opts = HistogramOpts::new(
                    "grpc_server_handling_seconds",
                    "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
                );
                let seconds = HistogramVec::new(opts, &BY_METHOD)?;
                registry.register(Box::new(seconds.clone()))?;
                Some(seconds)
            }
            None => None,
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let stream_failures = IntCounterVec::new(
            Opts::new("etcd_network_server_stream_failures_total", "Streams between server and clients that failed."),
            &["Type", "API"],
        )?;
        registry.register(Box::new(stream_failures.clone()))?;
        let seconds = seconds.map(|seconds| {
            let of =
                |method: &Method| seconds.with_label_values(&[method.kind().label(), method.service(), method.name()]);
            Method::ALL.iter().map(of).collect()
        });
        Ok(Self {
            calls: CallCounters::register(registry)?,
            seconds,
            clock,
            recent,
            clients: ClientVersions::register(registry)?,
            received_bytes: counter(
                "etcd_network_client_grpc_received_bytes_total",
                "The total number of bytes received from grpc clients.",
            )?,
            sent_bytes: counter(
                "etcd_network_client_grpc_sent_bytes_total",
                "The total number of bytes sent to grpc clients.",
            )?,
            health_success: counter("etcd_server_health_success", "The total number of successful health checks")?,
            health_failures: counter("etcd_server_health_failures", "The total number of failed health checks")?,
            probes: ProbeMetrics::register(registry)?,
            scrapes: ScrapeMetrics::register(registry)?,
            watch: WatchMetrics::register(registry, &stream_failures)?,
            lease_receive_failures: stream_failures.with_label_values(&["receive", "lease-keepalive"]),
        })
    }

    /// A call of `method` began with a message of `received_bytes`.
    pub fn begin(self: &Arc<Self>, method: Method, headers: &HeaderMap, received_bytes: usize) -> Running {
        let running = self.begin_stream(method, headers);
        running.received_counter().add(received_bytes);
        running
    }

    /// A call of `method` began, whose messages come later.
    pub fn begin_stream(self: &Arc<Self>, method: Method, headers: &HeaderMap) -> Running {
        self.calls.of(method).start();
        self.clients.count(method.kind(), headers);
        let begun_at = self.clock.as_ref().map(|clock| clock.mono_now());
        let traced = self.recent.as_ref().map(|recent| recent.begin(method));
        Running { metrics: self.clone(), method, begun_at, traced, finished: false }
    }
}

/// A call that goes on. Dropped without having finished, it was cancelled by its client.
pub struct Running {
    metrics: Arc<Metrics>,
    method: Method,
    /// If somebody wants to know how long it takes.
    begun_at: Option<MonoTime>,
    traced: Option<Traced>,
    finished: bool,
}

impl Running {
    /// For whoever receives the messages of this call.
    pub fn received_counter(&self) -> Received {
        Received { metrics: self.metrics.clone(), method: self.method }
    }

    /// A message of `bytes` went out.
    pub fn sent(&self, bytes: usize) {
        self.sent_many(1, bytes);
    }

    /// That many messages went out, of `bytes` together.
    pub fn sent_many(&self, messages: u64, bytes: usize) {
        self.metrics.calls.of(self.method).send(messages);
        self.metrics.sent_bytes.inc_by(bytes as u64);
    }

    /// The call ended with `code`. Only the first ending counts.
    pub fn finish(&mut self, code: Code) {
        if !self.finished {
            self.finished = true;
            let metrics = &self.metrics;
            metrics.calls.of(self.method).handle(code);
            if let Some(traced) = self.traced.take() {
                traced.end(code);
            }
            if let (Some(seconds), Some(clock), Some(begun_at)) = (&metrics.seconds, &metrics.clock, self.begun_at) {
                seconds[self.method as usize].observe((clock.mono_now() - begun_at).as_secs_f64());
            }
        }
    }
}

/// Counts what comes in.
pub struct Received {
    metrics: Arc<Metrics>,
    method: Method,
}

impl Received {
    /// A message of `bytes` came in.
    pub fn add(&self, bytes: usize) {
        self.metrics.calls.of(self.method).receive();
        self.metrics.received_bytes.inc_by(bytes as u64);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call_counters::CODE_NAMES;

    fn value(registry: &Registry, line: &str) -> Option<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ').map(str::to_owned))
    }

    #[test]
    fn all_methods_and_codes_are_there_from_the_start() {
        let registry = Registry::new();
        Metrics::register(&registry, None, None).unwrap();
        for method in Method::ALL {
            let labels = format!(
                "grpc_method=\"{}\",grpc_service=\"{}\",grpc_type=\"{}\"",
                method.name(),
                method.service(),
                method.kind().label()
            );
            assert_eq!(value(&registry, &format!("grpc_server_started_total{{{labels}}}")).as_deref(), Some("0"));
            for code in CODE_NAMES {
                let line = format!("grpc_server_handled_total{{grpc_code=\"{code}\",{labels}}}");
                assert_eq!(value(&registry, &line).as_deref(), Some("0"), "{line}");
            }
        }
    }

    #[test]
    fn a_call_is_counted_once_with_how_it_ended() {
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::register(&registry, None, None).unwrap());
        let headers = HeaderMap::new();
        let mut fine = metrics.begin(Method::Put, &headers, 100);
        fine.sent(30);
        fine.finish(Code::Ok);
        drop(fine);
        drop(metrics.begin(Method::Put, &headers, 10));
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        let read = |line: &str| value(&registry, line).unwrap();
        assert_eq!(read(&format!("grpc_server_started_total{{{labels}}}")), "2");
        assert_eq!(read(&format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}}")), "1");
        assert_eq!(read(&format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}}}")), "1");
        assert_eq!(read("etcd_network_client_grpc_received_bytes_total"), "110");
        assert_eq!(read("etcd_network_client_grpc_sent_bytes_total"), "30");
        assert_eq!(value(&registry, &format!("grpc_server_handling_seconds_count{{{labels}}}")), None);
    }

    #[test]
    fn clients_are_counted_by_their_version_and_not_more_of_them_than_there_is_room_for() {
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::register(&registry, None, None).unwrap());
        let count = |method, version: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ClientVersions::HEADER, version.parse().unwrap());
            drop(metrics.begin_stream(method, &headers));
        };
        count(Method::Put, "3.7");
        count(Method::Range, "3.7");
        count(Method::Watch, "3.7");
        drop(metrics.begin_stream(Method::Put, &HeaderMap::new()));
        count(Method::Put, &"x".repeat(33));
        let read = |version: &str, kind: &str| {
            let labels = format!("client_api_version=\"{version}\",type=\"{kind}\"");
            value(&registry, &format!("etcd_server_client_requests_total{{{labels}}}")).unwrap()
        };
        assert_eq!((read("3.7", "unary"), read("3.7", "stream")), ("2".to_owned(), "1".to_owned()));
        assert_eq!(read("unknown", "unary"), "2");
        (0..100).for_each(|number| count(Method::Put, &format!("4.{number}")));
        assert_eq!(read("unknown", "unary"), "53", "with one there was room for 49 more");
        count(Method::Put, "3.7");
        assert_eq!(read("3.7", "unary"), "3");
    }

    #[test]
    fn who_wants_to_know_is_told_how_long_calls_take() {
        let registry = Registry::new();
        let rt = quorate_runtime_tokio::TokioRuntime::run(1, async |rt| rt);
        let metrics = Arc::new(Metrics::register(&registry, Some(rt), None).unwrap());
        drop(metrics.begin(Method::Put, &HeaderMap::new(), 100));
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        let count = value(&registry, &format!("grpc_server_handling_seconds_count{{{labels}}}"));
        assert_eq!(count.as_deref(), Some("1"));
        let labels = labels.replace("Put", "Range");
        let count = value(&registry, &format!("grpc_server_handling_seconds_count{{{labels}}}"));
        assert_eq!(count.as_deref(), Some("0"), "preset");
    }
}

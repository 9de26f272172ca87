//! How many calls of each method there were, and how they ended: plain numbers. The metrics are made of them when somebody asks.
//!
//! They are many (each method with each of gRPC's codes), and most stay 0 for ever: as series of the metrics' library they would
//! cost a member more memory and time at its start than all others together.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Opts, Registry};
use tonic::Code;

use crate::method::Method;

/// gRPC's codes by number, as the metrics name them.
pub const CODE_NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

const STARTED: (&str, &str) = ("grpc_server_started_total", "Total number of RPCs started on the server.");
const RECEIVED: (&str, &str) =
    ("grpc_server_msg_received_total", "Total number of RPC stream messages received on the server.");
const SENT: (&str, &str) = ("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server.");
const HANDLED: (&str, &str) =
    ("grpc_server_handled_total", "Total number of RPCs completed on the server, regardless of success or failure.");

/// The labels of each; [`HANDLED`] has [`CODE`], too.
pub const BY_METHOD: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
const CODE: &str = "grpc_code";

/// Of one method.
#[derive(Default)]
pub struct MethodCalls {
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; CODE_NAMES.len()],
}

/// Of every method.
pub struct CallCounters(Arc<[MethodCalls; Method::ALL.len()]>);

impl CallCounters {
    /// All 0, and shown by `registry`.
    ///
    /// # Errors
    /// If `registry` has one of them already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let methods = Arc::new(array::from_fn(|_| MethodCalls::default()));
        let desc = |(name, help): (&str, &str), labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Opts::new(name, help).variable_labels(labels).describe()
        };
        let by_code = [&BY_METHOD[..], &[CODE]].concat();
        let descriptions = [
            desc(STARTED, &BY_METHOD)?,
            desc(RECEIVED, &BY_METHOD)?,
            desc(SENT, &BY_METHOD)?,
            desc(HANDLED, &by_code)?,
        ];
        registry.register(Box::new(Shown { methods: Arc::clone(&methods), descriptions }))?;
        Ok(Self(methods))
    }

    /// Those of `method`.
    pub fn of(&self, method: Method) -> &MethodCalls {
        &self.0[method as usize]
    }
}

impl MethodCalls {
    /// A call began.
    pub fn start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// A message came in.
    pub fn receive(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// That many messages went out.
    pub fn send(&self, messages: u64) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// A call ended.
    pub fn handle(&self, code: Code) {
        self.handled[code as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// What the registry has of them.
struct Shown {
    methods: Arc<[MethodCalls; Method::ALL.len()]>,
    descriptions: [Desc; 4],
}

impl Collector for Shown {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let each = || Method::ALL.iter().zip(self.methods.iter());
        let by_method = |about, number: fn(&MethodCalls) -> &AtomicU64| {
            family(about, each().map(|(method, calls)| metric(*method, None, number(calls))).collect())
        };
        let handled = each().flat_map(|(method, calls)| {
            CODE_NAMES.iter().zip(&calls.handled).map(|(code, number)| metric(*method, Some(code), number))
        });
        vec![
            by_method(STARTED, |calls| &calls.started),
            by_method(RECEIVED, |calls| &calls.received),
            by_method(SENT, |calls| &calls.sent),
            family(HANDLED, handled.collect()),
        ]
    }
}

fn family((name, help): (&str, &str), metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::COUNTER);
    family.set_metric(metrics);
    family
}

/// One number, with its labels by their names, as the library has them.
fn metric(method: Method, code: Option<&str>, number: &AtomicU64) -> Metric {
    let by_method = BY_METHOD.into_iter().zip([method.kind().label(), method.service(), method.name()]);
    let mut labels: Vec<_> = by_method.chain(code.map(|code| (CODE, code))).collect();
    labels.sort_unstable();
    let pair = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let mut counter = Counter::default();
    counter.set_value(number.load(Ordering::Relaxed) as f64);
    let mut metric = Metric::from_label(labels.into_iter().map(pair).collect());
    metric.set_counter(counter);
    metric
}

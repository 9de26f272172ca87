//! `/debug/requests`: the calls that go on, and the last that have ended, by service and by how long they took (Go's
//! `golang.org/x/net/trace`, with which etcd serves the page while its log shows the level debug).
//!
//! A call that ended lies in every column whose length it has reached, and among the errors if it failed; each column keeps its last
//! ten. What was asked is not shown.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use quorate_runtime::Rt;
use quorate_runtime::clock::{MonoTime, WallTime};
use tonic::Code;

use crate::body::ApiBody;
use crate::method::Method;
use crate::plain;

/// Where it is.
pub const PATH: &str = "/debug/requests";

/// Calls in a column.
const KEPT: usize = 10;

/// The columns of calls that have ended: their names and the least time that they took, in milliseconds.
const LENGTHS: [(&str, u64); 8] = [
    ("≥0s", 0),
    ("≥0.05s", 50),
    ("≥0.1s", 100),
    ("≥0.2s", 200),
    ("≥0.5s", 500),
    ("≥1s", 1000),
    ("≥10s", 10_000),
    ("≥100s", 100_000),
];

/// The column after them.
const ERRORS: &str = "errors";

/// See the module.
pub struct RecentCalls {
    rt: Rt,
    families: Mutex<BTreeMap<&'static str, Family>>,
}

/// The calls of one service.
#[derive(Default)]
struct Family {
    begun: u64,
    /// By the order in which they began.
    active: BTreeMap<u64, Call>,
    ended: [VecDeque<(Call, Duration, Code)>; LENGTHS.len() + 1],
}

#[derive(Clone, Copy)]
struct Call {
    method: Method,
    begun_at: MonoTime,
    begun_wall: WallTime,
}

/// A call that goes on. Somebody says how it ended.
pub struct Traced {
    calls: Arc<RecentCalls>,
    method: Method,
    number: u64,
}

impl RecentCalls {
    /// None so far.
    pub fn new(rt: Rt) -> Arc<Self> {
        Arc::new(Self { rt, families: Mutex::default() })
    }

    /// A call begins.
    pub fn begin(self: &Arc<Self>, method: Method) -> Traced {
        let call = Call { method, begun_at: self.rt.mono_now(), begun_wall: self.rt.wall_now() };
        let number = self.with(|families| {
            let family = families.entry(method.service()).or_default();
            family.begun += 1;
            family.active.insert(family.begun, call);
            family.begun
        });
        Traced { calls: Arc::clone(self), method, number }
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<&'static str, Family>) -> T) -> T {
        work(&mut self.families.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers who asks for the page.
    pub fn answer(&self, uri: &Uri) -> Response<ApiBody> {
        let wanted = plain::query(uri, "fam").next().zip(plain::query(uri, "b").next());
        let column = wanted.and_then(|(family, column)| Some((family, column.parse::<i64>().ok()?)));
        plain::respond(StatusCode::OK, plain::HTML, Bytes::from(self.page(column)))
    }

    /// The table of all services; below it the calls of one column of one of them, -1 being those that go on.
    fn page(&self, wanted: Option<(String, i64)>) -> String {
        let now = self.rt.mono_now();
        let mut text = format!(
            "<!DOCTYPE html>\n<html><head><title>{PATH}</title><style>td, th {{ padding: 0 1em; text-align: left }} \
             .number {{ text-align: right }}</style></head><body>\n<h1>{PATH}</h1>\n<table>\n"
        );
        self.with(|families| {
            for (service, family) in families.iter() {
                family.row(service, &mut text);
            }
            text.push_str("</table>\n");
            if let Some((name, column)) = wanted
                && let Some((service, family)) = families.iter().find(|(service, _)| family_name(service) == name)
            {
                family.calls(service, column, now, &mut text);
            }
        });
        text.push_str("</body></html>\n");
        text
    }
}

impl Traced {
    /// It ended with `code`.
    pub fn end(self, code: Code) {
        let now = self.calls.rt.mono_now();
        self.calls.with(|families| {
            let family = families.entry(self.method.service()).or_default();
            let Some(call) = family.active.remove(&self.number) else { return };
            let took = now - call.begun_at;
            let reached = LENGTHS.iter().map(|(_, least_ms)| took >= Duration::from_millis(*least_ms));
            for (column, _) in
                family.ended.iter_mut().zip(reached.chain([code != Code::Ok])).filter(|(_, is_its)| *is_its)
            {
                if column.len() == KEPT {
                    column.pop_back();
                }
                column.push_front((call, took, code));
            }
        });
    }
}

/// As Go's gRPC server names it.
fn family_name(service: &str) -> String {
    format!("grpc.Recv.{service}")
}

impl Family {
    /// Writing to a text cannot fail, here and below.
    fn row(&self, service: &str, text: &mut String) {
        let family = family_name(service);
        text.push_str("<tr>");
        let mut cell = |name: &str, column: i64, is_empty: bool| {
            let _ = match is_empty {
                true => write!(text, "<td>[{name}]</td>"),
                false => write!(text, "<td><a href=\"?fam={family}&amp;b={column}\">[{name}]</a></td>"),
            };
        };
        cell(&family, 0, true);
        cell(&format!("{} active", self.active.len()), -1, self.active.is_empty());
        let names = LENGTHS.iter().map(|(name, _)| *name).chain([ERRORS]);
        for ((name, ended), column) in names.zip(&self.ended).zip(0..) {
            cell(name, column, ended.is_empty());
        }
        text.push_str("</tr>\n");
    }

    fn calls(&self, service: &str, column: i64, now: MonoTime, text: &mut String) {
        let _ = write!(
            text,
            "<hr>\n<h3>Family: {}</h3>\n<table>\n<tr><th>When</th><th>Elapsed (s)</th><th></th><th></th></tr>\n",
            family_name(service)
        );
        let mut line = |call: &Call, took: Duration, how: &str| {
            let begun = jiff::Timestamp::from_nanosecond(call.begun_wall.unix_nanos().into());
            let begun = begun.map(|at| format!("{at:.6}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "<tr><td>{begun}</td><td class=\"number\">{:.6}</td><td>/{}/{}</td><td>{how}</td></tr>",
                took.as_secs_f64(),
                call.method.service(),
                call.method.name()
            );
        };
        match usize::try_from(column) {
            Err(_negative) => self.active.values().rev().for_each(|call| line(call, now - call.begun_at, "")),
            Ok(column) => {
                let ended = self.ended.get(column).into_iter().flatten();
                ended.for_each(|(call, took, code)| line(call, *took, &format!("{code:?}")));
            }
        }
        text.push_str("</table>\n");
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use quorate_runtime_tokio::TokioRuntime;

    use super::*;

    #[test]
    fn calls_that_go_on_and_that_have_ended_are_shown() {
        TokioRuntime::run(1, async |rt| {
            let calls = RecentCalls::new(rt.clone());
            let watch = calls.begin(Method::Watch);
            for code in [Code::Ok; 12].into_iter().chain([Code::Unavailable]) {
                calls.begin(Method::Put).end(code);
            }
            let show = async |path: &str| {
                let answer = calls.answer(&path.parse().unwrap());
                assert_eq!(answer.status(), StatusCode::OK);
                String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
            };
            let all = show(PATH).await;
            assert!(all.contains("[grpc.Recv.etcdserverpb.KV]") && all.contains("[0 active]"), "{all}");
            assert!(all.contains("<a href=\"?fam=grpc.Recv.etcdserverpb.Watch&amp;b=-1\">[1 active]</a>"), "{all}");
            let active = show("/debug/requests?fam=grpc.Recv.etcdserverpb.Watch&b=-1").await;
            assert!(active.contains("/etcdserverpb.Watch/Watch"), "{active}");
            let ended = show("/debug/requests?fam=grpc.Recv.etcdserverpb.KV&b=0").await;
            assert_eq!(ended.matches("/etcdserverpb.KV/Put").count(), KEPT, "{ended}");
            let failed = show("/debug/requests?fam=grpc.Recv.etcdserverpb.KV&b=8").await;
            assert_eq!((failed.matches("/etcdserverpb.KV/Put").count(), failed.matches("Unavailable").count()), (1, 1));
            watch.end(Code::Cancelled);
            assert!(!show(PATH).await.contains("[1 active]"));
        });
    }
}

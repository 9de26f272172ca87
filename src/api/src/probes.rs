//! `/livez` and `/readyz`: does this process live, and may it be sent requests. Each is a list of checks with names, which may be
//! asked one by one (etcd `server/etcdserver/api/etcdhttp/health.go`, Kubernetes KEP 2331).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response, StatusCode, Uri};
use quorate_proto::etcdserverpb::AlarmType;

use crate::body::ApiBody;
use crate::health;
use crate::plain::{self, query};
use crate::service::Api;

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, api: &Api) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                let is_corrupt = |alarm: i32| alarm == AlarmType::Corrupt as i32;
                let raised = api.member.view().alarms().iter().any(|raised| is_corrupt(raised.alarm));
                if raised { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Check::SerializableRead => read(api, true).await,
            Check::LinearizableRead => read(api, false).await,
            Check::NonLearner if api.member.raft_status().is_learner => Err("not supported for learner".to_owned()),
            Check::NonLearner => Ok(()),
        }
    }
}

async fn read(api: &Api, serializable: bool) -> Result<(), String> {
    health::read(api, serializable).await.map_err(|status| status.message().to_owned())
}

/// A probe and its checks.
struct Probe {
    name: &'static str,
    checks: &'static [Check],
}

const PROBES: [Probe; 2] = [
    Probe { name: "livez", checks: &[Check::SerializableRead] },
    Probe {
        name: "readyz",
        checks: &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner],
    },
];

/// Answers, if `uri` is a probe's or a check's.
pub async fn answer(api: &Api, method: &Method, uri: &Uri) -> Option<Response<ApiBody>> {
    let mut parts = uri.path().strip_prefix('/')?.split('/');
    let (name, check, None) = (parts.next()?, parts.next(), parts.next()) else { return None };
    let probe = PROBES.iter().find(|probe| probe.name == name)?;
    let checks: Vec<Check> = match check {
        Some(asked) => vec![*probe.checks.iter().find(|check| check.name() == asked)?],
        None => probe.checks.to_vec(),
    };
    if method != Method::GET {
        return Some(plain::refuse_method("GET"));
    }
    let checks = if check.is_none() { without_excluded(checks, uri) } else { checks };
    Some(run(api, probe.name, &checks, uri).await)
}

fn without_excluded(checks: Vec<Check>, uri: &Uri) -> Vec<Check> {
    let mut excluded: BTreeSet<String> = query(uri, "exclude").collect();
    let left = checks.into_iter().filter(|check| !excluded.remove(check.name())).collect();
    if !excluded.is_empty() {
        // Checks come and go with versions: a name that is not there fails nobody.
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        tracing::warn!(missing_health_checks = names.join(","), "some health checks cannot be excluded");
    }
    left
}

async fn run(api: &Api, probe: &'static str, checks: &[Check], uri: &Uri) -> Response<ApiBody> {
    let (mut told, mut is_good) = (String::new(), true);
    for check in checks {
        let result = check.run(api).await;
        api.metrics.probes.count(probe, check.name(), result.is_ok());
        // Writing to a text cannot fail.
        let _ = match result {
            Ok(()) => writeln!(told, "[+]{} ok", check.name()),
            Err(why) => {
                is_good = false;
                writeln!(told, "[-]{} failed: {why}", check.name())
            }
        };
    }
    if !is_good {
        tracing::error!(path = uri.path(), reason = told, status_code = 503, "Health check error");
        return plain::error(StatusCode::SERVICE_UNAVAILABLE, &told);
    }
    tracing::debug!(path = uri.path(), reason = told, status_code = 200, "Health check OK");
    if !plain::has_query(uri, "verbose") {
        told.clear();
    }
    told.push_str("ok\n");
    let mut response = plain::respond(StatusCode::OK, plain::TEXT, Bytes::from(told));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_checks_are_left_out_and_unknown_names_are_passed_over() {
        let uri: Uri = "/readyz?exclude=non_learner&exclude=nothing".parse().unwrap();
        assert_eq!(without_excluded(vec![Check::DataCorruption, Check::NonLearner], &uri), [Check::DataCorruption]);
    }
}

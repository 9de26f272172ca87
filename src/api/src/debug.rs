//! `/debug/vars`, and the log's level at run time: what an operator looks at when something is strange.

use std::fmt::{self, Display};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::body::ApiBody;
use crate::plain;
use crate::pprof::Profiler;
use crate::service::Api;

/// Where the log's level is set; etcd has had it up to 3.4.
pub const LOG_LEVEL: &str = "/config/local/log";

/// Nobody needs more to name a level.
const LEVEL_BYTES_MAX: usize = 4 << 10;

const VARS_CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// Variables of a process: a name and a value each.
pub type TellVariables = Arc<dyn Fn() -> Map<String, Value> + Send + Sync>;

/// Sets the least level that is logged; false if there is no such level.
pub type SetLogLevel = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the process around the member can tell and do. Without one there is nothing to tell.
#[derive(Clone, Default)]
pub struct Process {
    /// For `/debug/vars`.
    pub variables: Option<TellVariables>,
    /// For who wants to see more, or less.
    pub set_log_level: Option<SetLogLevel>,
    /// For `/debug/pprof/`.
    pub profiler: Option<Arc<dyn Profiler>>,
    /// How it was started.
    pub command_line: Vec<String>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// Answers `/debug/vars`.
pub fn variables(api: &Api) -> Response<ApiBody> {
    let mut variables = api.process.variables.as_ref().map(|tell| tell()).unwrap_or_default();
    variables.insert("raft.status".to_owned(), raft_status(api));
    plain::respond(StatusCode::OK, VARS_CONTENT_TYPE, Bytes::from(Value::from(variables).to_string()))
}

/// As etcd's raft shows itself, without what only its loop knows.
fn raft_status(api: &Api) -> Value {
    let (id, raft) = (api.member.id(), api.member.raft_status());
    let is_leader = raft.leader == Some(id);
    json!({
        "id": id.to_string(),
        "term": raft.term.0,
        "commit": raft.committed.0,
        "lead": raft.leader.map_or_else(|| "0".to_owned(), |leader| leader.to_string()),
        "raftState": if is_leader { "StateLeader" } else { "StateFollower" },
        "applied": raft.applied.0,
    })
}

/// What is asked for; Go takes any case of the name.
#[derive(Deserialize)]
struct Wanted {
    #[serde(rename = "Level", alias = "level")]
    level: String,
}

/// Sets the log's level.
pub async fn set_log_level<B>(api: &Api, method: &Method, body: B) -> Response<ApiBody>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let Some(set) = &api.process.set_log_level else {
        return plain::error(StatusCode::NOT_FOUND, "404 page not found");
    };
    if method != Method::PUT {
        return plain::refuse_method("PUT");
    }
    let refuse = |message: String| {
        plain::respond(StatusCode::BAD_REQUEST, plain::JSON, Bytes::from(json!({ "message": message }).to_string()))
    };
    let limited = Limited::new(Box::pin(body).map_err(|error| error.to_string()), LEVEL_BYTES_MAX);
    let wanted = match limited.collect().await {
        Ok(text) => serde_json::from_slice::<Wanted>(&text.to_bytes()).ok(),
        Err(_) => None,
    };
    let Some(Wanted { level }) = wanted else { return refuse("Invalid json body".to_owned()) };
    if !set(&level) {
        return refuse(format!("Invalid log level {level}"));
    }
    let mut response = Response::new(ApiBody::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

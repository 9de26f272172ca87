//! One question to another member's peer port, and its answer.
//!
//! Raft's messages have their streams (`quorate_raft::transport`). What members ask each other beside that, seldom and one
//! thing at a time, is plain HTTP on the same port: who is in the cluster, which version somebody runs, the hash of its keys,
//! a promotion that only the leader can make. Each question dials, asks, reads the whole answer and hangs up.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use quorate_raft::transport::{CallError, Connection, PeerUrl, RequestBody};
use quorate_runtime::{Rt, clock};

/// Longest answer that is read. The list of a thousand members is a tenth of it.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}{path}: {cause}")]
pub struct PeerHttpError {
    /// How it was asked.
    pub method: Method,
    /// Where it was asked.
    pub url: String,
    /// What was asked for.
    pub path: String,
    /// What went wrong.
    pub cause: Cause,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Nobody is there, or the connection broke, or it took too long.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The path has characters that no URL has.
    #[error("the path cannot be used: {0}")]
    Path(#[from] http::uri::InvalidUri),
    /// More than anybody should answer.
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    AnswerTooLong,
}

/// Sends `body` to `path` (with its query) at the peer URL `url` and reads the whole answer, whatever its status. All of it
/// together takes at most `limit`.
pub async fn call(
    rt: &Rt,
    url: &str,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
    limit: Duration,
) -> Result<(StatusCode, HeaderMap, Bytes), PeerHttpError> {
    let asking = ask(rt, url, &method, path, headers, body, limit);
    let result = clock::timeout(&**rt, limit, asking).await;
    result.unwrap_or(Err(Cause::Call(CallError::Timeout(limit)))).map_err(|cause| PeerHttpError {
        method,
        url: url.to_owned(),
        path: path.to_owned(),
        cause,
    })
}

async fn ask(
    rt: &Rt,
    url: &str,
    method: &Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
    limit: Duration,
) -> Result<(StatusCode, HeaderMap, Bytes), Cause> {
    let url = Arc::new(PeerUrl::parse(url).map_err(CallError::Unusable)?);
    let body = if body.is_empty() { RequestBody::Empty } else { RequestBody::Whole(body) };
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = path.parse()?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(HOST, url.host_header());
    let mut connection = Connection::dial(rt, url, limit).await?;
    let (head, mut body) = connection.call_patiently(request).await?.into_parts();
    let reading = async {
        let mut answer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(CallError::Http)?.into_data() else { continue };
            if answer.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(Cause::AnswerTooLong);
            }
            answer.extend_from_slice(&data);
        }
        Ok(answer.freeze())
    };
    let answer = connection.drive(reading).await?;
    Ok((head.status, head.headers, answer))
}

//! One question to another member's peer port, and its answer.
//!
//! Raft's messages have their streams (`quorate_raft::transport`). What members ask each other beside that, seldom and one
//! thing at a time, is plain HTTP on the same port: who is in the cluster, which version somebody runs, the hash of its keys,
//! a promotion that only the leader can make. Each question dials, asks, reads the whole answer and hangs up ([`call`]); who asks
//! often keeps the line open ([`Line`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
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
    let asking = async {
        // A path that nobody can be asked for need not be dialed for.
        let path: Uri = path.parse()?;
        Line::dial(rt, url, limit).await?.ask(&method, &path, headers, body).await
    };
    let result = clock::timeout(&**rt, limit, asking).await;
    result.unwrap_or(Err(Cause::Call(CallError::Timeout(limit)))).map_err(|cause| PeerHttpError {
        method,
        url: url.to_owned(),
        path: path.to_owned(),
        cause,
    })
}

/// A connection to a peer port, for one question after another.
pub struct Line {
    connection: Connection,
}

impl Line {
    /// Dials the peer URL `url`, for at most `limit`.
    pub async fn dial(rt: &Rt, url: &str, limit: Duration) -> Result<Self, Cause> {
        let url = Arc::new(PeerUrl::parse(url).map_err(CallError::Unusable)?);
        Ok(Self { connection: Connection::dial(rt, url, limit).await? })
    }

    /// Where to.
    pub fn url(&self) -> &str {
        self.connection.url().as_str()
    }

    /// True if another question can be asked; waits for what is left of the last one.
    pub async fn ready(&mut self) -> bool {
        self.connection.ready().await
    }

    /// Asks, and reads the whole answer.
    pub async fn ask(
        &mut self,
        method: &Method,
        path: &Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Cause> {
        let mut request = Request::new(if body.is_empty() { RequestBody::Empty } else { RequestBody::Whole(body) });
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.clone();
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.connection.url().host_header());
        let (head, mut body) = self.connection.call_patiently(request).await?.into_parts();
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
        let answer = self.connection.drive(reading).await?;
        Ok((head.status, head.headers, answer))
    }
}

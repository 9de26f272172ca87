//! Open connections to the leader's peer port: renewals come many at a time, and each would dial one of its own.
//!
//! At most [`LINES_MAX`] are in use at once; who finds none waits for one, in turn. A line is kept when its question was
//! answered. What is kept leads to one address alone: to the one that was asked last.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use quorate_raft::transport::CallError;
use quorate_runtime::sync::Semaphore;
use quorate_runtime::{Rt, clock};

use crate::peer_http::{Cause, Line};

/// Lines in use at once.
const LINES_MAX: usize = 64;

/// See the module.
pub struct LeaderLines {
    permits: Semaphore,
    idle: Mutex<Vec<Line>>,
}

impl Default for LeaderLines {
    fn default() -> Self {
        Self { permits: Semaphore::new(LINES_MAX), idle: Mutex::default() }
    }
}

impl LeaderLines {
    /// Posts `question`, in protobuf, to `path` at the peer URL `url`. Returns the status and the text of the answer. All of it
    /// together takes at most `limit`.
    pub async fn ask(
        &self,
        rt: &Rt,
        url: &str,
        path: &'static str,
        question: Bytes,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), Cause> {
        let asking = async {
            let _permit = self.permits.acquire().await.expect("nobody closes it");
            let mut line = match self.take_idle(url).await {
                Some(line) => line,
                None => Line::dial(rt, url, limit).await?,
            };
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
            let path = Uri::from_static(path);
            let (status, _, answer) = line.ask(&Method::POST, &path, headers, question).await?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            Ok((status, answer))
        };
        clock::timeout(&**rt, limit, asking).await.unwrap_or(Err(Cause::Call(CallError::Timeout(limit))))
    }

    /// The line used last that still works; those to other addresses are hung up.
    async fn take_idle(&self, url: &str) -> Option<Line> {
        loop {
            let mut line = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.retain(|line| line.url() == url);
                idle.pop()?
            };
            if line.ready().await {
                return Some(line);
            }
        }
    }
}

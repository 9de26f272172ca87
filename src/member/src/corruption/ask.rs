//! One member asks another for the hash of its rows: `GET /members/hashkv` with a JSON body (etcd
//! `server/etcdserver/corrupt.go`, `HashByRev`), and what the answering side makes of the question.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use quorate_runtime::Rt;
use quorate_store::View;
use quorate_types::{ClusterId, Error, MemberId, Revision};
use serde::Deserialize;

use crate::peer_http;

const PATH: &str = "/members/hashkv";
const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// What a member says of its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Answer {
    header: Header,
    pub hash: u32,
    /// The compacted revision that the hash was made with.
    pub compact_revision: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Header {
    revision: i64,
}

impl Answer {
    #[cfg(test)]
    pub fn new(revision: i64, hash: u32, compact_revision: i64) -> Self {
        Self { header: Header { revision }, hash, compact_revision }
    }

    /// The member's own newest revision.
    pub fn current_revision(&self) -> i64 {
        self.header.revision
    }
}

/// Why there is no hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// It has compacted that revision.
    Compacted,
    /// It has not reached that revision.
    FutureRevision,
    /// It belongs to another cluster.
    ClusterIdMismatch,
    /// It was not to be reached, or made no sense.
    Failed(String),
}

/// A member to ask.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: MemberId,
    pub urls: Vec<String>,
}

/// A member, and what came of asking it.
#[derive(Clone, Debug)]
pub struct PeerHash {
    pub id: MemberId,
    pub urls: Vec<String>,
    pub answer: Result<Answer, AskError>,
}

/// Everyone but ourselves.
pub fn peers_of(view: &View, own: MemberId) -> Vec<Asked> {
    let others = view.members().iter().filter(|member| member.id != own && !member.peer_urls.is_empty());
    others.map(|member| Asked { id: member.id, urls: member.peer_urls.clone() }).collect()
}

/// Asks each for the hash at `revision`, for at most `limit` per URL; the first URL that answers counts.
pub async fn ask_all(
    rt: &Rt,
    cluster: ClusterId,
    peers: &[Asked],
    revision: Revision,
    limit: Duration,
) -> Vec<PeerHash> {
    let mut answers = Vec::with_capacity(peers.len());
    for peer in peers {
        let mut answer = Err(AskError::Failed("it has no URL".to_owned()));
        for url in &peer.urls {
            answer = ask(rt, cluster, url, revision, limit).await;
            match &answer {
                Ok(_) => break,
                Err(error) => tracing::warn!(
                    requested_revision = revision.0,
                    remote_peer_endpoint = url,
                    error = ?error,
                    "failed hash kv request"
                ),
            }
        }
        answers.push(PeerHash { id: peer.id, urls: peer.urls.clone(), answer });
    }
    answers
}

async fn ask(rt: &Rt, cluster: ClusterId, url: &str, revision: Revision, limit: Duration) -> Result<Answer, AskError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let cluster = HeaderValue::from_str(&cluster.to_string()).expect("hexadecimal digits");
    headers.insert(CLUSTER_ID, cluster);
    let body = Bytes::from(serde_json::json!({ "revision": revision.0 }).to_string());
    let (status, _, body) = peer_http::call(rt, url, Method::GET, PATH, headers, body, limit)
        .await
        .map_err(|error| AskError::Failed(error.to_string()))?;
    understand(status, &body)
}

/// The errors travel as texts.
fn understand(status: StatusCode, body: &[u8]) -> Result<Answer, AskError> {
    let text = String::from_utf8_lossy(body);
    let says = |error: Error| text.contains(error.message().trim_start_matches("etcdserver: "));
    match status {
        StatusCode::OK => {
            serde_json::from_slice(body).map_err(|error| AskError::Failed(format!("unreadable answer: {error}")))
        }
        StatusCode::BAD_REQUEST if says(Error::Compacted) => Err(AskError::Compacted),
        StatusCode::BAD_REQUEST if says(Error::FutureRev) => Err(AskError::FutureRevision),
        StatusCode::PRECONDITION_FAILED if text.contains("cluster ID mismatch") => Err(AskError::ClusterIdMismatch),
        _ => Err(AskError::Failed(format!("unknown error: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_etcd_are_understood() {
        let body = br#"{"header":{"revision":23},"hash":1010568719,"compact_revision":17,"hash_revision":23}"#;
        assert_eq!(understand(StatusCode::OK, body), Ok(Answer::new(23, 1_010_568_719, 17)));
        // Go leaves zeros out.
        assert_eq!(understand(StatusCode::OK, br#"{"header":{"revision":1}}"#), Ok(Answer::new(1, 0, 0)));
        assert!(matches!(understand(StatusCode::OK, b"no JSON"), Err(AskError::Failed(_))));
        let bad = |text: &str| understand(StatusCode::BAD_REQUEST, text.as_bytes());
        assert_eq!(bad("mvcc: required revision has been compacted\n"), Err(AskError::Compacted));
        assert_eq!(bad("mvcc: required revision is a future revision\n"), Err(AskError::FutureRevision));
        assert!(matches!(bad("error unmarshalling request\n"), Err(AskError::Failed(_))));
        assert_eq!(
            understand(StatusCode::PRECONDITION_FAILED, b"cluster ID mismatch\n"),
            Err(AskError::ClusterIdMismatch)
        );
    }
}

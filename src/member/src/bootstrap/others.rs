//! Asking the members of a running cluster: who they are, and which version they speak.
//!
//! Source: etcd `server/etcdserver/cluster_util.go`. These questions carry no headers of Raft's: whoever asks has no identity
//! yet.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use quorate_runtime::Rt;
use quorate_store::Member;
use quorate_types::{ClusterId, MemberId};
use serde::Deserialize;

use crate::peer_http;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// A cluster as one of its members knows it.
#[derive(Debug)]
pub struct Cluster {
    pub id: ClusterId,
    /// Ascending by id; at least one.
    pub members: Vec<Member>,
}

impl Cluster {
    /// The member with that id.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// As Go prints etcd's structure with field names, which is how etcd shows it in errors.
impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> = self
            .members
            .iter()
            .map(|member| {
                format!(
                    "&{{ID:{} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
                    member.id,
                    member.peer_urls.join(" "),
                    member.is_learner,
                    member.name,
                    member.client_urls.join(" ")
                )
            })
            .collect();
        write!(f, "{{ClusterID:{} Members:[{}] RemovedMemberIDs:[]}}", self.id, members.join(" "))
    }
}

async fn get(rt: &Rt, url: &str, path: &str, limit: Duration) -> Result<(StatusCode, HeaderMap, Bytes), String> {
    let answer = peer_http::call(rt, url, Method::GET, path, HeaderMap::new(), Bytes::new(), limit).await;
    answer.map_err(|error| error.to_string())
}

/// `GET /members`. The error says who gave which answer.
pub async fn members(rt: &Rt, url: &str, limit: Duration) -> Result<Cluster, String> {
    let (status, headers, body) = get(rt, url, "/members", limit).await?;
    let strange = |why: &str| format!("GET {url}/members: {why} (status {status})");
    let mut members: Vec<Member> = serde_json::from_slice(&body)
        .map_err(|error| strange(&format!("the answer is no list of members: {error}")))?;
    let id = headers.get(CLUSTER_ID).and_then(|id| u64::from_str_radix(id.to_str().ok()?, 16).ok());
    let id = ClusterId(id.ok_or_else(|| strange("the answer names no cluster"))?);
    members.sort_by_key(|member| member.id);
    members.dedup_by_key(|member| member.id);
    if members.is_empty() {
        return Err(strange("it knows no member"));
    }
    Ok(Cluster { id, members })
}

#[derive(Deserialize)]
struct Versions {
    #[serde(rename = "etcdcluster", default)]
    cluster: String,
}

/// The cluster version of `GET /version` at the first of `member`'s URLs that answers; `None` (and a warning) if none does.
pub async fn cluster_version(rt: &Rt, member: &Member, limit: Duration) -> Option<String> {
    first_answer(rt, member, "/version", limit, |body| {
        serde_json::from_slice::<Versions>(body).map(|versions| versions.cluster).map_err(|error| error.to_string())
    })
    .await
}

/// Whether the cluster is being downgraded, as `member` knows it; `None` (and a warning) if it does not say.
pub async fn is_downgrading(rt: &Rt, member: &Member, limit: Duration) -> Option<bool> {
    first_answer(rt, member, "/downgrade/enabled", limit, |body| match body.trim_ascii() {
        b"true" => Ok(true),
        b"false" => Ok(false),
        other => Err(format!("neither true nor false: {}", String::from_utf8_lossy(other))),
    })
    .await
}

async fn first_answer<T>(
    rt: &Rt,
    member: &Member,
    path: &str,
    limit: Duration,
    read: impl Fn(&[u8]) -> Result<T, String>,
) -> Option<T> {
    for url in &member.peer_urls {
        let answer = match get(rt, url, path, limit).await {
            Ok((_, _, body)) => read(&body),
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => return Some(answer),
            Err(error) => {
                let address = format!("{url}{path}");
                tracing::warn!(address, remote_member_id = %member.id, error, "failed to reach the peer URL");
            }
        }
    }
    None
}

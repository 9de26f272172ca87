//! The version that all members speak.
//!
//! It is the lowest of their servers', without the patch number, and stands in the log. The leader asks every member (`GET
//! /version` at its peer port) when it begins to lead, when the members change, and every four seconds. While some member does
//! not answer, nothing is decided; only a cluster that has no version at all gets the oldest one, so that it can begin. From
//! then on the version rises: what is in the log under a version must be read by all who speak it. It goes down by one minor
//! version where an operator has asked for that (`downgrade`), so that members of the older one can take the others' places.
//!
//! Source: etcd `server/etcdserver/version/monitor.go`, `server.go` (`monitorClusterVersions`).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use quorate_proto::etcdserverpb::InternalRaftRequest;
use quorate_proto::membershippb::ClusterVersionSetRequest;
use quorate_runtime::{clock, select};
use quorate_store::Member as Peer;
use quorate_types::Error;
use serde::Deserialize;

use crate::{CLUSTER_VERSION, Member, SERVER_VERSION, peer_http};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(4);

/// A member that answers later counts as silent.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What a new cluster speaks while some member is silent.
const OLDEST: Version = Version { major: 3, minor: 0 };

/// A version of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u64,
    minor: u64,
}

impl fmt::Display for Version {
    /// As etcd's log lines and metrics show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Reads `3.7.1`, `v3.8.0-rc.0`; the patch must be there, and does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let core = text.split(['-', '+']).next()?;
        let mut numbers = core.split('.').map(|part| part.parse::<u64>().ok().filter(|_| !part.starts_with('+')));
        let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(Self { major, minor })
    }

    /// The release after this one.
    pub fn next_minor(self) -> Self {
        Self { major: self.major, minor: self.minor + 1 }
    }

    /// The version that this program speaks.
    pub fn own() -> Self {
        Self::parse(CLUSTER_VERSION).expect("a constant of this crate")
    }

    /// As it is written to the log.
    pub fn in_the_log(self) -> String {
        format!("{}.{}.0", self.major, self.minor)
    }
}

/// The cluster's next version, if it is to change. `lowest` is unknown while some member is silent; `down_to` is where an
/// operator wants it.
fn decide(current: Option<Version>, lowest: Option<Version>, down_to: Option<Version>) -> Option<Version> {
    match (current, lowest, down_to) {
        (None, lowest, _) => Some(lowest.unwrap_or(OLDEST)),
        (Some(_), None, _) => None,
        (Some(current), Some(lowest), Some(target)) => {
            // Every member, as it is now, has to understand what is in the log then.
            (target.next_minor() == current && target.next_minor() == lowest).then_some(target)
        }
        (Some(current), Some(lowest), None) => (current.major == lowest.major && current < lowest).then_some(lowest),
    }
}

/// Runs as long as the member.
pub async fn watch_over(member: Member) {
    let rt = member.runtime().clone();
    let mut news = member.inner.published.version_news.subscribe();
    loop {
        select! {
            biased;
            () = member.stopping() => return,
            // The sender lives in the member.
            _ = clock::timeout(&*rt, LOOK_INTERVAL, news.changed()) => {}
        }
        if member.raft_status().leader == Some(member.id()) {
            select! {
                biased;
                () = member.stopping() => return,
                () = look(&member) => {}
            }
        }
    }
}

async fn look(member: &Member) {
    let view = member.view();
    let current = view.cluster_version().and_then(Version::parse);
    let lowest = lowest(member, view.members()).await;
    let down_to = view.downgrade_target().and_then(Version::parse);
    let Some(version) = decide(current, lowest, down_to) else { return };
    match current {
        None => tracing::info!(cluster_version = %version, "setting up initial cluster version using v3 API"),
        Some(from) => tracing::info!(%from, to = %version, "updating cluster version using v3 API"),
    }
    let request = InternalRaftRequest {
        cluster_version_set: Some(ClusterVersionSetRequest { ver: version.in_the_log() }),
        ..InternalRaftRequest::default()
    };
    match member.propose(request).await {
        Ok(_) => tracing::info!(cluster_version = %version, "cluster version is updated"),
        Err(Error::Stopped) => tracing::warn!("aborting cluster version update; server is stopped"),
        // The next look comes to the same result.
        Err(error) => tracing::warn!(%error, "failed to update cluster version"),
    }
}

/// The lowest version of all members' servers; `None` if one does not tell.
async fn lowest(member: &Member, peers: &[Peer]) -> Option<Version> {
    let asking = peers.iter().map(async |peer| match peer.id == member.id() {
        true => Version::parse(SERVER_VERSION),
        false => version_of(member, peer).await,
    });
    join_all(asking).await.into_iter().collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// What `/version` answers; there is more in it.
#[derive(Deserialize)]
struct Answer {
    etcdserver: String,
}

async fn version_of(member: &Member, peer: &Peer) -> Option<Version> {
    for url in &peer.peer_urls {
        match ask(member, url).await {
            Ok(version) => {
                let parsed = Version::parse(&version);
                match parsed {
                    None => tracing::warn!(
                        remote_member_id = %peer.id,
                        remote_member_version = version,
                        "failed to parse server version of remote member"
                    ),
                    Some(parsed) if parsed > Version::own() => tracing::warn!(
                        local_member_version = SERVER_VERSION,
                        remote_member_id = %peer.id,
                        remote_member_version = version,
                        "leader found higher-versioned member"
                    ),
                    Some(_) => {}
                }
                return parsed;
            }
            Err(error) => {
                tracing::warn!(address = url, remote_member_id = %peer.id, error, "failed to reach the peer URL");
            }
        }
    }
    tracing::warn!(remote_member_id = %peer.id, "failed to get version");
    None
}

async fn ask(member: &Member, url: &str) -> Result<String, String> {
    let rt = member.runtime();
    let answer = peer_http::call(rt, url, Method::GET, "/version", HeaderMap::new(), Bytes::new(), ANSWER_LIMIT).await;
    let (status, _, body) = answer.map_err(|error| error.to_string())?;
    if status != StatusCode::OK {
        return Err(format!("it answers with status {status}"));
    }
    serde_json::from_slice(&body).map(|answer: Answer| answer.etcdserver).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<Version> {
        Version::parse(text)
    }

    #[test]
    fn versions_are_read_strictly() {
        assert_eq!(version("3.7.1"), Some(Version { major: 3, minor: 7 }));
        assert_eq!(version("v3.8.0-rc.0+git").unwrap().to_string(), "3.8");
        assert_eq!(version("3.10.0").unwrap().in_the_log(), "3.10.0");
        assert!(version("3.10.0") > version("3.9.9"));
        for wrong in ["", "3", "3.7", "3.7.1.2", "3.x.1", "3.7.+1", "not_decided"] {
            assert_eq!(version(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_version_is_the_lowest_and_only_rises() {
        let decided =
            |current: &str, lowest: &str| decide(version(current), version(lowest), None).map(Version::in_the_log);
        assert_eq!(decided("", "3.7.1").as_deref(), Some("3.7.0"));
        assert_eq!(decided("", "3.6.12").as_deref(), Some("3.6.0"));
        // Somebody is silent: a new cluster begins all the same, another one stays as it is.
        assert_eq!(decided("", "").as_deref(), Some("3.0.0"));
        assert_eq!(decided("3.6.0", ""), None);
        assert_eq!(decided("3.0.0", "3.7.1").as_deref(), Some("3.7.0"));
        assert_eq!(decided("3.6.0", "3.7.1").as_deref(), Some("3.7.0"));
        assert_eq!(decided("3.7.0", "3.7.1"), None);
        assert_eq!(decided("3.7.0", "3.6.1"), None);
        assert_eq!(decided("3.7.0", "4.0.0"), None);
    }

    #[test]
    fn an_operator_can_have_it_go_down_by_one() {
        let decided = |current: &str, lowest: &str, target: &str| {
            decide(version(current), version(lowest), version(target)).map(Version::in_the_log)
        };
        assert_eq!(decided("3.7.0", "3.7.1", "3.6.0").as_deref(), Some("3.6.0"));
        // Done; some members are of the older version already.
        assert_eq!(decided("3.6.0", "3.7.1", "3.6.0"), None);
        assert_eq!(decided("3.6.0", "3.6.4", "3.6.0"), None);
        // Somebody is silent, or too old, or it would be two steps.
        assert_eq!(decided("3.7.0", "", "3.6.0"), None);
        assert_eq!(decided("3.7.0", "3.6.0", "3.6.0"), None);
        assert_eq!(decided("3.7.0", "3.7.0", "3.5.0"), None);
    }
}

//! Founding a cluster: who its members are, and how its log begins.
//!
//! Every founder derives the same ids from the same flags and writes the same entries into its own log, exactly as etcd does:
//! one ConfChange AddNode per member at index 1..N, term 1, ascending id, context the member's JSON; HardState term 1,
//! commit N. Nothing is exchanged for that.
//!
//! So an empty directory under the flags of a member that has been running (its disk was lost, or it is a copy) would bring
//! back a voter that has forgotten its votes and what it acknowledged. The others know its client URLs by then; they are asked
//! first, and if one of them does, this start is refused. Nobody answering is no reason to wait: at a founding nobody is there.

use std::time::Duration;

use futures_util::future::join_all;
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_raft::wal::Batch;
use quorate_runtime::{Rt, bug};
use quorate_types::{ClusterId, MemberId};
use serde::Serialize;

use super::{StartError, already_bootstrapped, initial_cluster, others};
use crate::config::MemberConfig;
use crate::ids;

/// How long each of the others may take to answer (etcd `server/config/config.go`, `BootstrapTimeoutEffective`).
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// A cluster to be founded.
pub struct Founding {
    pub own: MemberId,
    pub cluster_id: ClusterId,
    /// Ascending by id.
    members: Vec<Founder>,
}

/// The JSON that etcd puts into a founding ConfChange (etcd `server/etcdserver/api/membership/member.go`).
#[derive(Serialize)]
struct Founder {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    name: String,
}

/// Checks the flags, and asks the others.
pub async fn plan(rt: &Rt, config: &MemberConfig) -> Result<Founding, StartError> {
    initial_cluster::check_advertised(rt, config).await?;
    let founding = Founding::of(config)?;
    let own = founding.own;

    // All at once, unlike etcd: those that hang cost a second together, not each.
    let asked = initial_cluster::urls_of_others(config).into_iter().map(|url| others::members(rt, url, ASK_LIMIT));
    for answer in join_all(asked).await {
        match answer {
            Ok(cluster)
                if cluster.get(own).is_some_and(|member| !member.client_urls.is_empty())
                    && !bug!("empty-directory-taken-back") =>
            {
                return Err(already_bootstrapped(own));
            }
            Ok(_) => {}
            Err(reason) => tracing::debug!(reason, "asked a member whether this one has been running before"),
        }
    }
    Ok(founding)
}

impl Founding {
    /// What the flags say.
    pub fn of(config: &MemberConfig) -> Result<Self, StartError> {
        initial_cluster::check_no_duplicates(config)?;
        let token = &config.initial_cluster_token;
        let own = ids::founding_member_id(initial_cluster::own_urls(config)?, token);
        let mut members: Vec<Founder> = config
            .initial_cluster
            .iter()
            .map(|(name, peer_urls)| Founder {
                id: ids::founding_member_id(peer_urls, token).0,
                peer_urls: peer_urls.clone(),
                name: name.clone(),
            })
            .collect();
        members.sort_unstable_by_key(|member| member.id);
        let ids: Vec<MemberId> = members.iter().map(|member| MemberId(member.id)).collect();
        Ok(Self { own, cluster_id: ids::cluster_id(&ids), members })
    }

    /// How the log begins.
    pub fn batch(&self) -> Batch {
        let entries: Vec<raftpb::Entry> = self
            .members
            .iter()
            .filter(|member| member.id == self.own.0 || !bug!("founder-counts-itself-only"))
            .zip(1..)
            .map(|(member, index)| {
                let change = raftpb::ConfChange {
                    id: None,
                    r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
                    node_id: Some(member.id),
                    context: Some(serde_json::to_vec(member).expect("plain text and numbers").into()),
                };
                raftpb::Entry {
                    r#type: Some(raftpb::EntryType::EntryConfChange as i32),
                    term: Some(1),
                    index: Some(index),
                    data: Some(change.encode_to_vec().into()),
                }
            })
            .collect();
        let hard_state = raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(entries.len() as u64) };
        Batch { hard_state: Some(hard_state), entries, sync: true }
    }
}

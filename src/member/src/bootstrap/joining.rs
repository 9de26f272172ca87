//! Joining a running cluster (`--initial-cluster-state existing`).
//!
//! An operator has added this member to the cluster by its peer URLs, so the cluster knows it by an id of its own making. The
//! others are asked in turn for the list of members; each member of `--initial-cluster` is matched with one of that list by
//! its URLs, and that is how this member learns who it is. It takes part only if it speaks the cluster's version.
//!
//! Then it starts with an empty log, no configuration, and the cluster's id: everything else comes from the leader. Until the
//! log arrives, the list says where the others are.
//!
//! A member that the cluster knows by name has been running before. An empty directory under its id would bring back a voter
//! that forgot its votes and what it acknowledged; it is refused, unless one of the others knows that the member with these URLs
//! was removed, and a new one added.
//!
//! Source: etcd `server/etcdserver/bootstrap.go` (`bootstrapExistingClusterNoWAL`), `cluster_util.go`,
//! `api/membership/cluster.go` (`ValidateClusterAndAssignIDs`). Unlike etcd, a list that does not match is not the last word:
//! a follower that lags behind knows less than others, so they are asked, too. And 3.6 is the oldest cluster to join, not
//! 3.0: older members keep their own names in entries that 3.7 cannot read, and stop at ours.

use std::time::Duration;

use futures_util::future::join_all;
use quorate_raft::transport::Version;
use quorate_runtime::{Rt, bug};
use quorate_store::Member;
use quorate_types::{ClusterId, MemberId};

use super::others::{self, Cluster};
use super::peer_urls::{self, RESOLVE_LIMIT};
use super::{StartError, already_bootstrapped, initial_cluster};
use crate::config::MemberConfig;
use crate::{CLUSTER_VERSION, ids};

/// How long each of the others may take to list the members.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// The oldest cluster that this version works in.
const OLDEST_CLUSTER: Version = Version::new(3, 6);

/// A cluster to be joined.
pub struct Joining {
    pub own: MemberId,
    pub cluster_id: ClusterId,
    /// Who was there when we asked.
    pub others: Vec<Member>,
}

/// Checks the flags, asks the others.
pub async fn plan(rt: &Rt, config: &MemberConfig) -> Result<Joining, StartError> {
    initial_cluster::own_urls(config)?;
    initial_cluster::check_no_duplicates(config)?;
    let (cluster, own) = find_cluster(rt, config).await?;
    let others: Vec<Member> = cluster.members.iter().filter(|member| member.id != own).cloned().collect();
    if !is_compatible(rt, config, &others).await {
        return Err(StartError::Incompatible);
    }
    if cluster.members.iter().filter(|member| member.is_learner).count() > config.max_learners {
        return Err(StartError::TooManyLearners);
    }
    Ok(Joining { own, cluster_id: cluster.id, others })
}

/// The first list of members that the flags agree with, and who we are in it.
async fn find_cluster(rt: &Rt, config: &MemberConfig) -> Result<(Cluster, MemberId), StartError> {
    let deadline = rt.mono_now() + RESOLVE_LIMIT;
    let mut mismatch = None;
    for url in initial_cluster::urls_of_others(config) {
        match others::members(rt, url, ASK_LIMIT).await {
            Ok(cluster) => match find_own(rt, config, &cluster, deadline).await {
                Ok(own) if has_been_running(&cluster, own) => {
                    tracing::warn!(address = url, cluster = %cluster, %own, "who has this member's URLs has been running");
                    mismatch.get_or_insert(already_bootstrapped(own));
                }
                Ok(own) => return Ok((cluster, own)),
                Err(why) => {
                    tracing::warn!(address = url, cluster = %cluster, reason = why, "the members do not match --initial-cluster");
                    mismatch.get_or_insert(StartError::MembersDiffer { cluster: cluster.to_string(), why });
                }
            },
            Err(error) => tracing::warn!(address = format!("{url}/members"), error, "failed to get cluster response"),
        }
    }
    let nobody = "could not retrieve cluster information from the given URLs";
    Err(mismatch.unwrap_or_else(|| StartError::NoClusterInfo(nobody.to_owned())))
}

fn has_been_running(cluster: &Cluster, own: MemberId) -> bool {
    let ran = cluster.get(own).is_some_and(|member| !member.name.is_empty() || !member.client_urls.is_empty());
    ran && !bug!("empty-directory-taken-back")
}

/// Matches every member of the cluster with one of the flags; our id. The error is etcd's reason.
async fn find_own(
    rt: &Rt,
    config: &MemberConfig,
    cluster: &Cluster,
    deadline: quorate_runtime::clock::MonoTime,
) -> Result<MemberId, String> {
    let mut listed: Vec<&(String, Vec<String>)> = config.initial_cluster.iter().collect();
    if listed.len() != cluster.members.len() {
        return Err("member count is unequal".to_owned());
    }
    listed.sort_by_key(|(_, urls)| ids::founding_member_id(urls, &config.initial_cluster_token));
    let mut own = None;
    for member in &cluster.members {
        let (mut found, mut last_error) = (None, String::new());
        for (place, (_, urls)) in listed.iter().enumerate() {
            match peer_urls::compare(rt, &member.peer_urls, urls, deadline).await {
                Ok(()) => {
                    found = Some(place);
                    break;
                }
                Err(error) => last_error = error,
            }
        }
        let Some(place) = found else {
            return Err(format!(
                "PeerURLs: no match found for existing member ({}, [{}]), last resolver error ({last_error})",
                member.id,
                member.peer_urls.join(" ")
            ));
        };
        let (name, _) = listed.remove(place);
        if *name == config.name {
            own = Some(member.id);
        }
    }
    Ok(own.expect("as many members as names, and each name was taken once"))
}

/// At least one of the others says which version the cluster has, and all that say so have one that we speak.
async fn is_compatible(rt: &Rt, config: &MemberConfig, others: &[Member]) -> bool {
    let limit = config.request_timeout();
    let asked = others.iter().map(|member| others::cluster_version(rt, member, limit));
    let answers = join_all(asked).await;
    let own = Version::parse(CLUSTER_VERSION).expect("our own constant");
    let (mut oldest, mut newest) = (OLDEST_CLUSTER, own);
    if ask_about_downgrade(rt, others, limit).await {
        // Whoever joins now must already be what the others are to become.
        (oldest, newest) = (own, own.next_minor());
    }
    let mut is_known = false;
    for (member, version) in others.iter().zip(answers).filter_map(|(member, text)| Some((member, text?))) {
        let remote_member_id = member.id;
        let Some(parsed) = Version::parse(&version) else {
            tracing::warn!(
                %remote_member_id,
                remote_member_cluster_version = version,
                "failed to parse cluster version of remote member"
            );
            continue;
        };
        if parsed < oldest {
            tracing::warn!(
                %remote_member_id,
                remote_member_cluster_version = version,
                minimum_cluster_version_supported = %oldest,
                "cluster version of remote member is not compatible; too low"
            );
            return false;
        }
        if parsed > newest {
            tracing::warn!(
                %remote_member_id,
                remote_member_cluster_version = version,
                maximum_cluster_version_supported = %newest,
                "cluster version of remote member is not compatible; too high"
            );
            return false;
        }
        is_known = true;
    }
    is_known
}

/// The answer of the first that gives one: all give the same.
async fn ask_about_downgrade(rt: &Rt, others: &[Member], limit: Duration) -> bool {
    for member in others {
        if let Some(answer) = others::is_downgrading(rt, member, limit).await {
            return answer;
        }
    }
    false
}

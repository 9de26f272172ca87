//! What `--initial-cluster` says, and the checks that need nobody else.
//!
//! Source: etcd `server/config/config.go` (`VerifyBootstrap`, `VerifyJoinExisting`). The sentences are etcd's.

use std::collections::BTreeSet;

use quorate_runtime::Rt;

use super::StartError;
use super::peer_urls::{self, RESOLVE_LIMIT};
use crate::config::MemberConfig;

/// The URLs of this member in the list.
pub fn own_urls(config: &MemberConfig) -> Result<&[String], StartError> {
    let own = config.initial_cluster.iter().find(|(name, _)| *name == config.name);
    own.map(|(_, urls)| urls.as_slice()).ok_or_else(|| StartError::NameNotFound { name: config.name.clone() })
}

/// One URL leads to one member.
pub fn check_no_duplicates(config: &MemberConfig) -> Result<(), StartError> {
    let mut seen = BTreeSet::new();
    let is_unique = config.initial_cluster.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url));
    if is_unique { Ok(()) } else { Err(StartError::DuplicateUrl { cluster: text(config) }) }
}

/// What others are told of this member is what the list says of it.
pub async fn check_advertised(rt: &Rt, config: &MemberConfig) -> Result<(), StartError> {
    let listed = own_urls(config)?;
    let advertised = &config.advertise_peer_urls;
    let deadline = rt.mono_now() + RESOLVE_LIMIT;
    let Err(why) = peer_urls::compare(rt, advertised, listed, deadline).await else { return Ok(()) };
    let mut given = advertised.clone();
    given.sort_unstable();
    let given = given.join(",");
    let own = |urls: &[String]| {
        let mut urls: Vec<String> = urls.iter().map(|url| format!("{}={url}", config.name)).collect();
        urls.sort_unstable();
        urls.join(",")
    };
    let missing: Vec<String> = listed.iter().filter(|url| !advertised.contains(url)).cloned().collect();
    let unlisted: Vec<&str> = advertised.iter().filter(|url| !listed.contains(url)).map(String::as_str).collect();
    let sentence = if !missing.is_empty() {
        format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={given} ({why})",
            own(&missing)
        )
    } else if !unlisted.is_empty() {
        format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            unlisted.join(","),
            own(advertised)
        )
    } else {
        format!("failed to resolve {given} to match --initial-cluster={} ({why})", own(advertised))
    };
    Err(StartError::PeerUrlsDiffer(sentence))
}

/// The peer URLs of all others, in the order in which they are asked.
pub fn urls_of_others(config: &MemberConfig) -> Vec<&str> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    let mut urls: Vec<&str> = others.flat_map(|(_, urls)| urls).map(String::as_str).collect();
    urls.sort_unstable();
    urls
}

/// The list as etcd shows it: `name=url` pairs, sorted.
fn text(config: &MemberConfig) -> String {
    let pairs = config.initial_cluster.iter().flat_map(|(name, urls)| urls.iter().map(move |url| (name, url)));
    let mut pairs: Vec<String> = pairs.map(|(name, url)| format!("{name}={url}")).collect();
    pairs.sort_unstable();
    pairs.join(",")
}

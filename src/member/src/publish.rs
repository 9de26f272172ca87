//! What a member tells the cluster about itself once it runs: its name and client URLs.
//!
//! They travel as a normal entry. A member counts as started once its name is in the membership, and is ready to serve when the
//! cluster's version is known, too (`cluster_version`).
//!
//! Source: etcd `server/etcdserver/server.go` (`publishV3`).

use std::time::Duration;

use quorate_proto::etcdserverpb::InternalRaftRequest;
use quorate_proto::membershippb;
use quorate_runtime::select;
use quorate_runtime::sync::watch;

use crate::Member;

/// Pause before trying again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Runs until the member may serve, then sets `ready`.
pub async fn publish(member: Member, ready: watch::Sender<bool>) {
    let config = member.config();
    let attributes = membershippb::ClusterMemberAttrSetRequest {
        member_id: member.id().0,
        member_attributes: Some(membershippb::Attributes {
            name: config.name.clone(),
            client_urls: config.advertise_client_urls.clone(),
        }),
    };
    let request = InternalRaftRequest { cluster_member_attr_set: Some(attributes), ..InternalRaftRequest::default() };
    if !propose_until_applied(&member, &request).await {
        return;
    }
    tracing::info!(
        local_member_id = %member.id(),
        cluster_id = %member.cluster_id(),
        name = config.name,
        "published local member to cluster through raft"
    );
    let mut news = member.inner.published.version_news.subscribe();
    while member.view().cluster_version().is_none() {
        select! {
            biased;
            () = member.stopping() => return,
            // The sender lives in the member.
            _ = news.changed() => {}
        }
    }
    ready.send_replace(true);
}

/// False if the member stops before it worked.
async fn propose_until_applied(member: &Member, request: &InternalRaftRequest) -> bool {
    loop {
        match member.propose(request.clone()).await {
            Ok(_) => return true,
            Err(error) if !member.is_stopping() => {
                tracing::warn!(error = %error, "could not publish yet; trying again");
                member.runtime().sleep(RETRY_AFTER).await;
            }
            Err(_) => return false,
        }
    }
}

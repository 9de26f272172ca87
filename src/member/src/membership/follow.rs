//! What each member tells its operators when the membership changes: etcd's log lines, and its metrics.
//!
//! Changes are found by comparing with what was seen last, so those that came inside a snapshot are told as well.

use quorate_store::{Member, View};
use quorate_types::{ClusterId, MemberId};

use crate::cluster_version::Version;
use crate::metrics::Metrics;

/// The membership as it was seen last.
pub struct Following {
    own: MemberId,
    cluster_id: ClusterId,
    metrics: Metrics,
    members: Vec<Member>,
    version: Option<Version>,
}

impl Following {
    /// Begins with what the database held at the start.
    pub fn begin(own: MemberId, cluster_id: ClusterId, metrics: Metrics, view: &View) -> Self {
        let version = view.cluster_version().and_then(Version::parse);
        let following = Self { own, cluster_id, metrics, members: view.members().to_vec(), version };
        for member in &following.members {
            tracing::info!(
                %cluster_id,
                local_member_id = %own,
                recovered_remote_peer_id = %member.id,
                recovered_remote_peer_urls = ?member.peer_urls,
                recovered_remote_peer_is_learner = member.is_learner,
                "recovered/added member from store"
            );
            following.metrics.set_known(own, member.id, true);
        }
        view.removed().iter().for_each(|id| following.metrics.set_known(own, *id, false));
        if let Some(version) = version {
            tracing::info!(cluster_version = %version, "set cluster version from store");
            following.metrics.set_cluster_version(&version.to_string());
        }
        following
    }

    /// Tells what is new. True if something is.
    pub fn look(&mut self, view: &View) -> bool {
        let before = std::mem::replace(&mut self.members, view.members().to_vec());
        let mut is_new = before != self.members;
        let find = |members: &[Member], id| members.iter().find(|member| member.id == id).cloned();
        for member in &before {
            match find(&self.members, member.id) {
                None => self.tell_removed(member),
                Some(now) => self.tell_changed(member, &now),
            }
        }
        for member in self.members.iter().filter(|member| find(&before, member.id).is_none()) {
            self.tell_added(member);
        }
        let version = view.cluster_version().and_then(Version::parse);
        if version != self.version
            && let Some(version) = version
        {
            self.tell_version(version);
            is_new = true;
        }
        is_new
    }

    /// The cluster's version, if it is one that this program does not speak.
    pub fn too_new(&self) -> Option<Version> {
        self.version.filter(|version| *version > Version::own())
    }

    fn tell_added(&self, member: &Member) {
        tracing::info!(
            cluster_id = %self.cluster_id,
            local_member_id = %self.own,
            added_peer_id = %member.id,
            added_peer_peer_urls = ?member.peer_urls,
            added_peer_is_learner = member.is_learner,
            "added member"
        );
        self.metrics.set_known(self.own, member.id, true);
    }

    fn tell_removed(&self, member: &Member) {
        tracing::info!(
            cluster_id = %self.cluster_id,
            local_member_id = %self.own,
            removed_remote_peer_id = %member.id,
            removed_remote_peer_urls = ?member.peer_urls,
            removed_remote_peer_is_learner = member.is_learner,
            "removed member"
        );
        self.metrics.set_known(self.own, member.id, false);
    }

    fn tell_changed(&self, before: &Member, now: &Member) {
        if before.is_learner && !now.is_learner {
            tracing::info!(
                cluster_id = %self.cluster_id,
                local_member_id = %self.own,
                promoted_member_id = %now.id,
                "promote member"
            );
        }
        if before.peer_urls != now.peer_urls {
            tracing::info!(
                cluster_id = %self.cluster_id,
                local_member_id = %self.own,
                updated_remote_peer_id = %now.id,
                updated_remote_peer_urls = ?now.peer_urls,
                updated_remote_peer_is_learner = now.is_learner,
                "updated member"
            );
        }
    }

    fn tell_version(&mut self, version: Version) {
        match self.version.replace(version) {
            None => tracing::info!(
                cluster_id = %self.cluster_id,
                local_member_id = %self.own,
                cluster_version = %version,
                "set initial cluster version"
            ),
            Some(from) => tracing::info!(
                cluster_id = %self.cluster_id,
                local_member_id = %self.own,
                %from,
                to = %version,
                "updated cluster version"
            ),
        }
        self.metrics.set_cluster_version(&version.to_string());
        tracing::info!(cluster_version = %version, "enabled capabilities for version");
    }
}

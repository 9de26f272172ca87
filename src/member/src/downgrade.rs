//! A downgrade, as an operator asks for it: the cluster shall speak the version before its own, so that members of that version can
//! take the others' places one by one. What was asked for stands in the log; the leader then lowers the cluster's version
//! ([`crate::cluster_version`]).
//!
//! Source: etcd `server/etcdserver/version/version.go`, `v3_server.go`.

use quorate_proto::etcdserverpb::InternalRaftRequest;
use quorate_proto::membershippb::DowngradeInfoSetRequest;
use quorate_types::Error;

use crate::Member;
use crate::cluster_version::Version;

impl Member {
    /// The version that the cluster speaks, as `major.minor`, once that is known.
    pub fn cluster_version(&self) -> Option<String> {
        self.view().cluster_version().and_then(Version::parse).map(|version| version.to_string())
    }

    /// Whether the cluster may go down to that version.
    ///
    /// # Errors
    /// `WrongDowngradeVersionFormat`, `ClusterVersionUnavailable`, `InvalidDowngradeTargetVersion`, `DowngradeInProcess`; and
    /// those of a linearizable read.
    pub async fn check_downgrade(&self, to: &str) -> Result<(), Error> {
        self.downgrade_target(to).await.map(drop)
    }

    /// Has the cluster go down to that version.
    ///
    /// # Errors
    /// As [`Member::check_downgrade`], and those of a proposal.
    pub async fn enable_downgrade(&self, to: &str) -> Result<(), Error> {
        let target = self.downgrade_target(to).await?;
        self.set_downgrade(DowngradeInfoSetRequest { enabled: true, ver: target.in_the_log() }).await
    }

    /// Ends a downgrade: the cluster's version rises to what all members speak.
    ///
    /// # Errors
    /// `NoInflightDowngrade`; those of a linearizable read, and of a proposal.
    pub async fn cancel_downgrade(&self) -> Result<(), Error> {
        self.linearize().await?;
        if self.view().downgrade_target().is_none() {
            return Err(Error::NoInflightDowngrade);
        }
        self.set_downgrade(DowngradeInfoSetRequest { enabled: false, ver: String::new() }).await
    }

    async fn downgrade_target(&self, to: &str) -> Result<Version, Error> {
        let target = parse(to).ok_or(Error::WrongDowngradeVersionFormat)?;
        self.view().cluster_version().ok_or(Error::ClusterVersionUnavailable)?;
        self.linearize().await?;
        let view = self.view();
        let current = view.cluster_version().and_then(Version::parse).ok_or(Error::ClusterVersionUnavailable)?;
        if target.next_minor() != current {
            return Err(Error::InvalidDowngradeTargetVersion);
        }
        if view.downgrade_target().is_some() {
            return Err(Error::DowngradeInProcess);
        }
        Ok(target)
    }

    async fn set_downgrade(&self, request: DowngradeInfoSetRequest) -> Result<(), Error> {
        let request = InternalRaftRequest { downgrade_info_set: Some(request), ..InternalRaftRequest::default() };
        self.propose(request).await.map(drop)
    }
}

/// `3.6.0`, and `3.6` too.
fn parse(text: &str) -> Option<Version> {
    let is_plain = !text.starts_with('v');
    let parsed = Version::parse(text).or_else(|| Version::parse(&format!("{text}.0")));
    parsed.filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_may_be_left_out() {
        for text in ["3.6", "3.6.0", "3.6.9", "3.6.0-rc.1"] {
            assert_eq!(parse(text), Version::parse("3.6.0"), "{text}");
        }
        for text in ["", "3", "v3.6", "v3.6.0", "3.x", "3.6.0.0", "three"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

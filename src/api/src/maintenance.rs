//! What an operator asks of one member: its status, the cluster's alarms, hashes, a denser database, an older version. A
//! snapshot is in [`crate::snapshot`].

use std::sync::Arc;

use quorate_member::{DefragmentError, SERVER_VERSION};
use quorate_proto::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeInfo, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, InternalRaftRequest,
    MoveLeaderRequest, MoveLeaderResponse, ResponseHeader, StatusRequest, StatusResponse,
};
use quorate_store::Response;
use quorate_types::{Error, MemberId, Revision};
use tonic::Status;

use crate::errors::status;
use crate::grpc_health::Unwell;
use crate::kv::unexpected;
use crate::plain::storage_version;
use crate::service::Api;

impl Api {
    /// Maintenance.Status. Answered by every member for itself, also by a learner or without a leader.
    pub async fn status(self: Arc<Self>, _: StatusRequest) -> Result<StatusResponse, Status> {
        let raft = self.member.raft_status();
        let view = self.member.view();
        let mut header = Some(ResponseHeader { revision: view.revision().0, ..Default::default() });
        self.fill(&mut header);
        let leaderless = raft.leader.is_none().then(|| Error::NoLeader.message().to_owned());
        let errors = leaderless.into_iter().chain(view.alarms().iter().map(alarm_text)).collect();
        Ok(StatusResponse {
            header,
            version: SERVER_VERSION.to_owned(),
            db_size: clamped(view.db_size_bytes()),
            leader: raft.leader.map_or(0, |leader| leader.0),
            raft_index: raft.committed.0,
            raft_term: raft.term.0,
            raft_applied_index: raft.applied.0,
            errors,
            db_size_in_use: clamped(view.db_size_in_use_bytes()),
            is_learner: raft.is_learner,
            storage_version: storage_version(view.cluster_version()).unwrap_or_default().to_owned(),
            // etcd shows the flag's value, which is negative where there is no quota.
            db_size_quota: self.member.config().quota_bytes.map_or(-1, clamped),
            downgrade_info: Some(DowngradeInfo {
                enabled: view.downgrade_target().is_some(),
                target_version: view.downgrade_target().unwrap_or_default().to_owned(),
            }),
        })
    }

    /// Maintenance.MoveLeader. Its answer has no header.
    pub async fn move_leader(self: Arc<Self>, request: MoveLeaderRequest) -> Result<MoveLeaderResponse, Status> {
        self.member.move_leader(MemberId(request.target_id)).await.map_err(status)?;
        Ok(MoveLeaderResponse::default())
    }

    /// Maintenance.Alarm. Also a question travels through the log, as in etcd.
    pub async fn alarm(self: Arc<Self>, request: AlarmRequest) -> Result<AlarmResponse, Status> {
        match self.propose(InternalRaftRequest { alarm: Some(request), ..Default::default() }).await? {
            Response::Alarm(mut response) => {
                self.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected("alarm request", &other)),
        }
    }

    /// Maintenance.HashKV: by which members, and operators, find out that members differ. This member alone answers.
    pub async fn hash_kv(self: Arc<Self>, request: HashKvRequest) -> Result<HashKvResponse, Status> {
        let hashed = self.member.hash_kv(Revision(request.revision)).await;
        let hashed = hashed.map_err(|failure| self.read_failed(failure))?;
        let mut header = Some(ResponseHeader { revision: hashed.current_revision.0, ..Default::default() });
        self.fill(&mut header);
        Ok(HashKvResponse {
            header,
            hash: hashed.hash,
            compact_revision: hashed.compact_revision.0,
            hash_revision: hashed.hash_revision.0,
        })
    }

    /// Maintenance.Hash: over the whole state, for tests.
    pub async fn hash(self: Arc<Self>, _: HashRequest) -> Result<HashResponse, Status> {
        let (hash, revision) = self.member.hash().await.map_err(|failure| self.read_failed(failure))?;
        let mut header = Some(ResponseHeader { revision: revision.0, ..Default::default() });
        self.fill(&mut header);
        Ok(HashResponse { header, hash })
    }

    /// Maintenance.Defragment. Its answer has no header.
    pub async fn defragment(self: Arc<Self>, _: DefragmentRequest) -> Result<DefragmentResponse, Status> {
        tracing::info!("starting defragment");
        let unwell = self.unwell_in_defragmentation.then(|| Unwell::begin(&self.unwell));
        let done = self.member.defragment().await;
        drop(unwell);
        match done {
            Ok(()) => {
                tracing::info!("finished defragment");
                Ok(DefragmentResponse::default())
            }
            Err(error) => {
                tracing::warn!(%error, "failed to defragment");
                Err(match error {
                    DefragmentError::Refused(error) => status(error),
                    DefragmentError::Failed(text) => Status::unknown(&*text),
                })
            }
        }
    }

    /// Maintenance.Downgrade.
    pub async fn downgrade(self: Arc<Self>, request: DowngradeRequest) -> Result<DowngradeResponse, Status> {
        let done = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => self.member.check_downgrade(&request.version).await,
            Ok(DowngradeAction::Enable) => self.member.enable_downgrade(&request.version).await,
            Ok(DowngradeAction::Cancel) => match self.member.cancel_downgrade().await {
                // etcd says that all is well, and tells its log.
                Err(error @ Error::NoInflightDowngrade) => {
                    tracing::warn!(%error, "failed to cancel downgrade");
                    Ok(())
                }
                done => done,
            },
            Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "reject downgrade request");
            return Err(status(error));
        }
        let mut header = None;
        self.fill(&mut header);
        Ok(DowngradeResponse { header, version: self.member.cluster_version().unwrap_or_default() })
    }
}

/// An alarm as protobuf prints it.
fn alarm_text(raised: &AlarmMember) -> String {
    format!("memberID:{} alarm:{}", raised.member_id, raised.alarm().as_str_name())
}

fn clamped(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use quorate_proto::etcdserverpb::AlarmType;

    use super::*;

    #[test]
    fn alarms_are_told_as_etcd_prints_them() {
        let raised = AlarmMember { member_id: 10501334649042878790, alarm: AlarmType::Nospace as i32 };
        assert_eq!(alarm_text(&raised), "memberID:10501334649042878790 alarm:NOSPACE");
    }
}

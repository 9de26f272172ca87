//! Who the members are, and changing it.
//!
//! Every answer tells all members, sorted by id. Headers have no revision.

use std::sync::Arc;

use quorate_proto::etcdserverpb::{
    self, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    ResponseHeader,
};
use quorate_store::Member;
use quorate_types::{Error, MemberId, Url};
use tonic::Status;

use crate::errors::status;
use crate::service::Api;

impl Api {
    /// Cluster.MemberAdd.
    pub async fn member_add(self: Arc<Self>, request: MemberAddRequest) -> Result<MemberAddResponse, Status> {
        let urls = Url::parse_all(&request.peer_ur_ls).map_err(|why| {
            tracing::debug!(peer_urls = ?request.peer_ur_ls, why, "the URLs of a new member are refused");
            status(Error::MemberBadUrls)
        })?;
        let peer_urls = urls.iter().map(Url::to_string).collect();
        let (member, members) = self.member.add_member(peer_urls, request.is_learner).await.map_err(status)?;
        let (header, members) = (self.cluster_header(), on_the_wire(&members));
        Ok(MemberAddResponse { header, member: Some(one_on_the_wire(&member)), members })
    }

    /// Cluster.MemberRemove.
    pub async fn member_remove(self: Arc<Self>, request: MemberRemoveRequest) -> Result<MemberRemoveResponse, Status> {
        let members = self.member.remove_member(MemberId(request.id)).await.map_err(status)?;
        Ok(MemberRemoveResponse { header: self.cluster_header(), members: on_the_wire(&members) })
    }

    /// Cluster.MemberUpdate. etcd takes the URLs as they are.
    pub async fn member_update(self: Arc<Self>, request: MemberUpdateRequest) -> Result<MemberUpdateResponse, Status> {
        let updated = self.member.update_member(MemberId(request.id), request.peer_ur_ls).await;
        let members = updated.map_err(status)?;
        Ok(MemberUpdateResponse { header: self.cluster_header(), members: on_the_wire(&members) })
    }

    /// Cluster.MemberPromote.
    pub async fn member_promote(
        self: Arc<Self>,
        request: MemberPromoteRequest,
    ) -> Result<MemberPromoteResponse, Status> {
        let members = self.member.promote_member(MemberId(request.id)).await.map_err(status)?;
        Ok(MemberPromoteResponse { header: self.cluster_header(), members: on_the_wire(&members) })
    }

    /// Cluster.MemberList.
    pub async fn member_list(self: Arc<Self>, request: MemberListRequest) -> Result<MemberListResponse, Status> {
        if request.linearizable {
            self.member.linearize().await.map_err(status)?;
        }
        let members = on_the_wire(self.member.view().members());
        Ok(MemberListResponse { header: self.cluster_header(), members })
    }

    fn cluster_header(&self) -> Option<ResponseHeader> {
        let mut header = ResponseHeader::default();
        self.fill_without_revision(&mut header);
        Some(header)
    }
}

fn on_the_wire(members: &[Member]) -> Vec<etcdserverpb::Member> {
    members.iter().map(one_on_the_wire).collect()
}

fn one_on_the_wire(member: &Member) -> etcdserverpb::Member {
    etcdserverpb::Member {
        id: member.id.0,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

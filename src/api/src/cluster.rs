//! Who the members are.

use std::sync::Arc;

use quorate_proto::etcdserverpb::{self, MemberListRequest, MemberListResponse, ResponseHeader};
use quorate_store::Member;
use tonic::Status;

use crate::errors::status;
use crate::service::Api;

impl Api {
    /// Cluster.MemberList, sorted by id. Its header has no revision.
    pub async fn member_list(self: Arc<Self>, request: MemberListRequest) -> Result<MemberListResponse, Status> {
        if request.linearizable {
            self.member.linearize().await.map_err(status)?;
        }
        let mut header = ResponseHeader::default();
        self.fill_without_revision(&mut header);
        let members = self.member.view().members().iter().map(on_the_wire).collect();
        Ok(MemberListResponse { header: Some(header), members })
    }
}

fn on_the_wire(member: &Member) -> etcdserverpb::Member {
    etcdserverpb::Member {
        id: member.id.0,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

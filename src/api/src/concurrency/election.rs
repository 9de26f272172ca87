//! The Election service.
//!
//! A campaign puts its key with the candidate's value, and is answered when the key is the first of its queue: its owner leads
//! until it resigns or its lease ends. A proclamation changes the value. Who observes is told of each leader and each value.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use quorate_proto::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader, TxnRequest};
use quorate_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use quorate_runtime::{BoxFuture, bug};
use quorate_types::Error;
use tonic::Status;

use super::{
    Follow, Place, Seen, Watched, created_at, decode, delete_if_created_at, first_of, get, prefix_end, put_op,
    queue_key, queue_prefix, range_op, read_in, revision_of, told, unexpected_part,
};
use crate::body::{Chunk, Messages};
use crate::grpc;
use crate::service::Api;

const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const MISSING_LEADER_KEY: &str = "\"leader\" field must be provided";

impl Api {
    /// Election.Campaign: answers once the caller leads. A lease of 0 gets the caller a new one of 60 seconds.
    ///
    /// # Errors
    /// That of the transaction or read that failed, as `Unknown`.
    pub async fn campaign(self: Arc<Self>, request: CampaignRequest) -> Result<CampaignResponse, Status> {
        let lease = self.session(request.lease).await?;
        let prefix = queue_prefix(&request.name);
        let key = queue_key(&prefix, lease);
        let put = PutRequest { key: key.clone(), value: request.value.clone(), lease, ..Default::default() };
        let queue = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put_op(put.clone())],
            failure: vec![range_op(get(&key))],
        };
        let queued = Arc::clone(&self).txn(queue).await.map_err(told)?;
        let (create_revision, has_value) = match queued.succeeded {
            true => (revision_of(queued.header.as_ref()), true),
            false => {
                let mine = read_in(&queued.responses, 0)?.pop().ok_or_else(|| unexpected_part(None))?;
                (mine.create_revision, mine.value == request.value)
            }
        };
        let place = Place::new(&self, key.clone(), create_revision);
        // As in etcd the answer tells of the revision at which the campaign began.
        let header = queued.header;
        if !has_value {
            self.put_as_leader(put, create_revision).await?;
        }
        if !bug!("campaign-won-at-once")
            && let Err(status) = self.wait_for_turn(&prefix, create_revision).await
        {
            // Whoever is still there may campaign again, from the same place.
            place.keep();
            return Err(told(status));
        }
        place.keep();
        let leader = LeaderKey { name: request.name, key, rev: create_revision, lease };
        Ok(CampaignResponse { header, leader: Some(leader) })
    }

    /// Election.Proclaim: a new value for who leads.
    ///
    /// # Errors
    /// If the caller does not lead any more, or does not say as what.
    pub async fn proclaim(self: Arc<Self>, request: ProclaimRequest) -> Result<ProclaimResponse, Status> {
        let leader = request.leader.ok_or_else(|| Status::unknown(MISSING_LEADER_KEY))?;
        let lease = self.session(leader.lease).await?;
        let put = PutRequest { key: leader.key, value: request.value, lease, ..Default::default() };
        Ok(ProclaimResponse { header: self.put_as_leader(put, leader.rev).await? })
    }

    /// Puts a value if the key is still the one that was created at `create_revision`.
    async fn put_as_leader(
        self: &Arc<Self>,
        put: PutRequest,
        create_revision: i64,
    ) -> Result<Option<ResponseHeader>, Status> {
        let guarded = TxnRequest {
            compare: vec![created_at(&put.key, create_revision)],
            success: vec![put_op(put)],
            failure: Vec::new(),
        };
        let answer = Arc::clone(self).txn(guarded).await.map_err(told)?;
        if answer.succeeded { Ok(answer.header) } else { Err(Status::unknown(NOT_LEADER)) }
    }

    /// Election.Leader: who leads, and what it proclaims.
    ///
    /// # Errors
    /// If nobody leads.
    pub async fn leader(self: Arc<Self>, request: LeaderRequest) -> Result<LeaderResponse, Status> {
        let serializable = bug!("leader-told-from-an-old-state");
        let first = RangeRequest { serializable, ..first_of(&queue_prefix(&request.name)) };
        let mut first = self.range(first).await.map_err(told)?;
        let kv = first.kvs.pop().ok_or_else(|| Status::unknown(NO_LEADER))?;
        Ok(LeaderResponse { header: first.header, kv })
    }

    /// Election.Resign. Who does not lead any more resigns in vain, which is no error.
    ///
    /// # Errors
    /// If the caller does not say as what.
    pub async fn resign(self: Arc<Self>, request: ResignRequest) -> Result<ResignResponse, Status> {
        let leader = request.leader.ok_or_else(|| Status::unknown(MISSING_LEADER_KEY))?;
        self.session(leader.lease).await?;
        let answer = Arc::clone(&self).txn(delete_if_created_at(&leader.key, leader.rev)).await.map_err(told)?;
        Ok(ResignResponse { header: answer.header })
    }

    /// Election.Observe: who leads, and what it proclaims, from now on.
    pub fn observe(self: Arc<Self>, request: LeaderRequest) -> Result<Messages, Status> {
        let observer =
            Observer { end: self.end_of_waiting(), prefix: queue_prefix(&request.name), leader: None, api: self };
        Ok(Box::pin(stream::try_unfold(observer, |mut observer| async move {
            let answer = observer.next().await?;
            Ok(Some((Chunk::message(grpc::encode(&answer)?), observer)))
        })))
    }
}

/// A call of Observe.
struct Observer {
    api: Arc<Api>,
    prefix: Bytes,
    /// The leader's key is watched; `None` when somebody else has to be found.
    leader: Option<Follow>,
    /// Completes when the server ends the call.
    end: BoxFuture<'static, Error>,
}

impl Observer {
    /// What is told next.
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            let Some(leader) = &mut self.leader else {
                let (revision, kv) = self.find().await?;
                let key = decode(&kv)?.key;
                let next = if bug!("observer-begins-one-late") { revision + 2 } else { revision + 1 };
                self.leader = Some(Follow::begin(&self.api, key.into(), next)?);
                return Ok(self.answer(revision, kv));
            };
            match leader.next(&mut self.end).await? {
                Seen::Put { revision, kv, .. } => return Ok(self.answer(revision, kv)),
                Seen::Deleted | Seen::Compacted => self.leader = None,
            }
        }
    }

    /// Waits for a leader: its key, and the revision that is told with it.
    async fn find(&mut self) -> Result<(i64, Bytes), Status> {
        loop {
            let mut first = Arc::clone(&self.api).range(first_of(&self.prefix)).await.map_err(told)?;
            let revision = revision_of(first.header.as_ref());
            if let Some(kv) = first.kvs.pop() {
                return Ok((revision, kv));
            }
            let queue = Watched { key: self.prefix.clone(), range_end: prefix_end(&self.prefix) };
            let mut candidates = Follow::begin(&self.api, queue, revision)?;
            loop {
                match candidates.next(&mut self.end).await? {
                    Seen::Put { mod_revision, kv, .. } => return Ok((mod_revision, kv)),
                    Seen::Deleted => {}
                    Seen::Compacted => break,
                }
            }
        }
    }

    fn answer(&self, revision: i64, kv: Bytes) -> LeaderResponse {
        let mut header = ResponseHeader { revision, ..Default::default() };
        self.api.fill_without_revision(&mut header);
        LeaderResponse { header: Some(header), kv }
    }
}

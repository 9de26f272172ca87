//! The Lease service.
//!
//! Grants and revocations are entries of the log. Renewals and times to live are the leader's to tell: the member asks it, or
//! is it ([`quorate_member::Member::renew_lease`]).
//!
//! A keep-alive stream answers each of its messages, in order, with the time that the lease was given, or 0 if there is no such
//! lease. Messages that have come in together are renewed together, so that a client with many leases waits for one quorum.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::{FutureExt as _, stream};
use http_body::Body;
use quorate_proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
};
use quorate_runtime::{BoxFuture, select};
use quorate_store::Response;
use quorate_types::{Error, LeaseId};
use tonic::{Code, Status};

use crate::body::{Chunk, Messages};
use crate::errors::status;
use crate::grpc;
use crate::kv::unexpected;
use crate::leader_watch::LeaderLost;
use crate::service::{Api, Incoming, end_of_stream};

/// Messages of a stream that are renewed together.
const RENEWALS_PER_TURN: usize = 1024;

/// Messages of a stream that are kept while others are renewed; no more are read then.
const WAITING_MAX: usize = 64 << 10;

impl Api {
    /// Lease.LeaseGrant. An id of 0 leaves the choice to us.
    pub async fn lease_grant(self: Arc<Self>, mut request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        if request.id == 0 {
            request.id = self.member.new_lease_id().0;
        }
        let request = InternalRaftRequest { lease_grant: Some(request), ..Default::default() };
        self.check_quota(&request).await?;
        match self.propose(request).await? {
            Response::LeaseGrant(mut response) => {
                self.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected("grant", &other)),
        }
    }

    /// Lease.LeaseRevoke.
    pub async fn lease_revoke(self: Arc<Self>, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse, Status> {
        let request = InternalRaftRequest { lease_revoke: Some(request), ..Default::default() };
        match self.propose(request).await? {
            Response::LeaseRevoke(mut response) => {
                self.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected("revocation", &other)),
        }
    }

    /// Lease.LeaseTimeToLive. A lease that is not there has -1 second.
    pub async fn lease_time_to_live(
        self: Arc<Self>,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Status> {
        let mut response = LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() };
        match self.member.lease_time_to_live(LeaseId(request.id), request.keys).await {
            Ok(left) => {
                response.ttl = left.left_secs;
                response.granted_ttl = left.granted_secs;
                response.keys = left.keys;
            }
            Err(Error::LeaseNotFound) => {}
            Err(error) => return Err(status(error)),
        }
        self.fill(&mut response.header);
        Ok(response)
    }

    /// Lease.LeaseLeases: as this member knows them.
    pub async fn lease_leases(self: Arc<Self>, _: LeaseLeasesRequest) -> Result<LeaseLeasesResponse, Status> {
        let leases = self.member.leases().into_iter().map(|id| LeaseStatus { id: id.0 }).collect();
        let mut response = LeaseLeasesResponse { header: None, leases };
        self.fill(&mut response.header);
        Ok(response)
    }

    /// One message of Lease.LeaseKeepAlive.
    pub async fn keep_alive_once(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
        // As in etcd the header is older than the renewal.
        let mut header = Some(ResponseHeader::default());
        self.fill(&mut header);
        let ttl = match self.member.renew_lease(LeaseId(request.id)).await {
            Ok(ttl_secs) => ttl_secs,
            Err(Error::LeaseNotFound) => 0,
            Err(error) => return Err(status(error)),
        };
        Ok(LeaseKeepAliveResponse { header, id: request.id, ttl })
    }

    /// Lease.LeaseKeepAlive.
    pub(crate) fn lease_keep_alive<B>(self: Arc<Self>, incoming: Incoming<B>, leader_lost: LeaderLost) -> Messages
    where
        B: Body<Data = Bytes, Error: Display> + Send + 'static,
    {
        let end = end_of_stream(&self, leader_lost);
        let call = KeepAlive { api: self, incoming, waiting: VecDeque::new(), is_over: false, failure: None, end };
        Box::pin(stream::try_unfold(call, |mut call| async move { Ok(call.next().await?.map(|chunk| (chunk, call))) }))
    }
}

/// A call of many messages.
struct KeepAlive<B> {
    api: Arc<Api>,
    incoming: Incoming<B>,
    /// Received, and not yet renewed.
    waiting: VecDeque<LeaseKeepAliveRequest>,
    /// The client has sent its last.
    is_over: bool,
    /// How the call ends, once all that was received before is answered.
    failure: Option<Status>,
    /// Completes when the server ends the call.
    end: BoxFuture<'static, Error>,
}

impl<B> KeepAlive<B>
where
    B: Body<Data = Bytes, Error: Display>,
{
    /// The answers to what comes next; `None` at the end.
    async fn next(&mut self) -> Result<Option<Chunk>, Status> {
        while self.waiting.is_empty() {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.is_over {
                return Ok(None);
            }
            select! {
                biased;
                error = &mut self.end => return Err(status(error)),
                request = self.incoming.next() => self.take(request),
            }
        }
        while self.can_take()
            && let Some(request) = self.incoming.next().now_or_never()
        {
            self.take(request);
        }
        let batch = self.waiting.drain(..self.waiting.len().min(RENEWALS_PER_TURN)).collect();
        let answers = self.renew(batch).await?;
        let (mut data, mut messages) = (BytesMut::new(), 0);
        for answer in answers {
            match answer.and_then(|answer| grpc::append(&mut data, &answer)) {
                Ok(()) => messages += 1,
                Err(status) if messages == 0 => return Err(status),
                Err(status) => {
                    // Nothing after it is answered.
                    self.waiting.clear();
                    self.failure = Some(status);
                    break;
                }
            }
        }
        Ok(Some(Chunk { data: data.freeze(), messages }))
    }

    /// Renews. What comes meanwhile is read: a client may send as much as it likes before it reads an answer.
    async fn renew(
        &mut self,
        batch: Vec<LeaseKeepAliveRequest>,
    ) -> Result<Vec<Result<LeaseKeepAliveResponse, Status>>, Status> {
        let api = Arc::clone(&self.api);
        let renewing = join_all(batch.into_iter().map(|request| api.keep_alive_once(request)));
        quorate_runtime::pin!(renewing);
        loop {
            select! {
                biased;
                error = &mut self.end => return Err(status(error)),
                answers = &mut renewing => return Ok(answers),
                request = self.incoming.next(), if self.can_take() => self.take(request),
            }
        }
    }

    fn can_take(&self) -> bool {
        !self.is_over && self.failure.is_none() && self.waiting.len() < WAITING_MAX
    }

    fn take(&mut self, request: Result<Option<LeaseKeepAliveRequest>, Status>) {
        match request {
            Ok(Some(request)) => self.waiting.push_back(request),
            Ok(None) => self.is_over = true,
            Err(status) => {
                // That the client is gone is no failure.
                if status.code() != Code::Cancelled {
                    tracing::warn!(error = %status, "failed to receive lease keepalive request from gRPC stream");
                    self.api.metrics.lease_receive_failures.inc();
                }
                self.failure = Some(status);
            }
        }
    }
}

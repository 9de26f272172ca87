//! A client's way to one member: gRPC over a simulated stream (*full* depth), or a call of the service itself (*core* depth).
//!
//! In core depth the request travels as a value: it takes the link's latency there and back, waits while the link is cut, gets
//! lost when the link breaks a connection, and dies with the member's process, in which the handler runs.

use std::sync::Arc;

use quorate_api::Api;
use quorate_client::{Connection, KeepAliveStream};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3lockpb::lock_client::LockClient;
use quorate_runtime::sync::oneshot;
use quorate_runtime::{BoxFuture, Rt};
use tonic::Status;

use crate::history::election::{ElectionAnswer, ElectionRequest};
use crate::history::lease::{LeaseAnswer, LeaseRequest};
use crate::history::lock::{LockAnswer, LockRequest};
use crate::history::{Answer, Request};
use crate::world::cluster::{Depth, MemberMachine, Server};
use crate::world::net::{MachineId, SimNet};

/// A connection, or what stands for it.
#[derive(Clone)]
pub enum Link {
    /// A connection over which gRPC is spoken.
    Grpc(Connection, Box<KvClient<Connection>>),
    /// The way of calls that are handed over as they are.
    Direct(DirectLink),
}

/// See [`Link::Direct`].
#[derive(Clone)]
pub struct DirectLink {
    net: Arc<SimNet>,
    from: MachineId,
    to: Arc<MemberMachine>,
    /// The process that it leads to.
    process: u64,
}

impl Link {
    /// From the process `rt` on the machine `from` to a member; none if nobody serves there.
    pub async fn open(rt: &Rt, net: &Arc<SimNet>, from: MachineId, to: &Arc<MemberMachine>) -> Option<Self> {
        match to.depth() {
            Depth::Full => {
                let connection = Connection::connect(rt, to.client_address()).await.ok()?;
                let kv = KvClient::with_origin(connection.clone(), connection.origin());
                Some(Self::Grpc(connection, Box::new(kv)))
            }
            Depth::Core => {
                if !net.travel(from, to.machine).await {
                    // A machine without power does not even refuse.
                    return std::future::pending().await;
                }
                let process = to.server().map(|server| server.process);
                net.travel(to.machine, from).await;
                Some(Self::Direct(DirectLink { net: Arc::clone(net), from, to: Arc::clone(to), process: process? }))
            }
        }
    }

    /// True if it is known to be of no more use.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Grpc(connection, _) => connection.is_closed(),
            Self::Direct(link) => link.server().is_none(),
        }
    }

    /// A connection to the same member, for what travels as bytes in either depth: streams.
    pub async fn connection(&self, rt: &Rt) -> Option<Connection> {
        match self {
            Self::Grpc(connection, _) => Some(connection.clone()),
            Self::Direct(link) => Connection::connect(rt, link.to.client_address()).await.ok(),
        }
    }

    /// Calls. Without an answer the outcome is unknown, unless the status is one that promises otherwise.
    pub async fn call(&mut self, request: Request) -> Result<Answer, Status> {
        match self {
            Self::Grpc(_, kv) => Ok(match request {
                Request::Range(range) => Answer::Range(kv.range(range).await?.into_inner()),
                Request::Put(put) => Answer::Put(kv.put(put).await?.into_inner()),
                Request::Delete(delete) => Answer::Delete(kv.delete_range(delete).await?.into_inner()),
                Request::Txn(txn) => Answer::Txn(kv.txn(txn).await?.into_inner()),
                Request::Compact(compact) => Answer::Compact(kv.compact(compact).await?.into_inner()),
            }),
            Self::Direct(link) => link.call(|api| Box::pin(handle(api, request))).await,
        }
    }

    /// The same for the lease service. A keep-alive is a stream of one message.
    pub async fn lease(&mut self, request: LeaseRequest) -> Result<LeaseAnswer, Status> {
        let connection = match self {
            Self::Grpc(connection, _) => connection,
            Self::Direct(link) => return link.call(|api| Box::pin(handle_lease(api, request))).await,
        };
        let mut client = LeaseClient::with_origin(connection.clone(), connection.origin());
        Ok(match request {
            LeaseRequest::Grant(grant) => LeaseAnswer::Grant(client.lease_grant(grant).await?.into_inner()),
            LeaseRequest::Revoke(revoke) => LeaseAnswer::Revoke(client.lease_revoke(revoke).await?.into_inner()),
            LeaseRequest::TimeToLive(question) => {
                LeaseAnswer::TimeToLive(client.lease_time_to_live(question).await?.into_inner())
            }
            LeaseRequest::Leases(question) => LeaseAnswer::Leases(client.lease_leases(question).await?.into_inner()),
            LeaseRequest::KeepAlive(renewal) => {
                let mut stream = KeepAliveStream::open(connection).await?;
                stream.renew(renewal.id);
                let broken = || Status::unavailable("the stream ended without an answer");
                LeaseAnswer::KeepAlive(stream.next().await?.ok_or_else(broken)?)
            }
        })
    }

    /// The same for the lock service.
    pub async fn lock(&mut self, request: LockRequest) -> Result<LockAnswer, Status> {
        let connection = match self {
            Self::Grpc(connection, _) => connection,
            Self::Direct(link) => return link.call(|api| Box::pin(handle_lock(api, request))).await,
        };
        let mut client = LockClient::with_origin(connection.clone(), connection.origin());
        Ok(match request {
            LockRequest::Lock(lock) => LockAnswer::Lock(client.lock(lock).await?.into_inner()),
            LockRequest::Unlock(unlock) => LockAnswer::Unlock(client.unlock(unlock).await?.into_inner()),
        })
    }

    /// The same for the election service.
    pub async fn elect(&mut self, request: ElectionRequest) -> Result<ElectionAnswer, Status> {
        let connection = match self {
            Self::Grpc(connection, _) => connection,
            Self::Direct(link) => return link.call(|api| Box::pin(handle_election(api, request))).await,
        };
        let mut client = ElectionClient::with_origin(connection.clone(), connection.origin());
        Ok(match request {
            ElectionRequest::Campaign(asked) => ElectionAnswer::Campaign(client.campaign(asked).await?.into_inner()),
            ElectionRequest::Proclaim(asked) => ElectionAnswer::Proclaim(client.proclaim(asked).await?.into_inner()),
            ElectionRequest::Leader(asked) => ElectionAnswer::Leader(client.leader(asked).await?.into_inner()),
            ElectionRequest::Resign(asked) => ElectionAnswer::Resign(client.resign(asked).await?.into_inner()),
        })
    }

    /// The same for alarms.
    pub async fn alarm(&mut self, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
        let connection = match self {
            Self::Grpc(connection, _) => connection,
            Self::Direct(link) => return link.call(|api| Box::pin(handle_alarm(api, request))).await,
        };
        let mut client = MaintenanceClient::with_origin(connection.clone(), connection.origin());
        Ok(client.alarm(request).await?.into_inner())
    }

    /// A range through RangeStream, put together again. A call that is handed over as it is has no pieces.
    pub async fn stream(&mut self, range: pb::RangeRequest) -> Result<Answer, Status> {
        let kv = match self {
            Self::Grpc(_, kv) => kv,
            Self::Direct(link) => return link.call(|api| Box::pin(handle(api, Request::Range(range)))).await,
        };
        let mut chunks = kv.range_stream(range).await?.into_inner();
        let mut whole = pb::RangeResponse::default();
        while let Some(chunk) = chunks.message().await? {
            let Some(chunk) = chunk.range_response else { continue };
            whole.kvs.extend(chunk.kvs);
            whole.header = chunk.header.or(whole.header);
            whole.more |= chunk.more;
            whole.count = whole.count.max(chunk.count);
        }
        Ok(Answer::Range(whole))
    }
}

impl DirectLink {
    /// Who serves, if it is still the process that the link leads to.
    fn server(&self) -> Option<Server> {
        self.to.server().filter(|server| server.process == self.process)
    }

    async fn call<A: Send + 'static>(
        &self,
        handle: impl FnOnce(Arc<Api>) -> BoxFuture<'static, Result<A, Status>>,
    ) -> Result<A, Status> {
        let broken = || Status::unavailable("the connection broke");
        if !self.net.travel(self.from, self.to.machine).await {
            return Err(broken());
        }
        let Some(server) = self.server() else { return Err(broken()) };
        let (reply, answer) = oneshot::channel();
        let handling = handle(server.api);
        server.rt.spawn(Box::pin(async move {
            // Who asked may have given up.
            let _ = reply.send(handling.await);
        }));
        let Ok(answer) = answer.await else { return Err(broken()) };
        match self.net.travel(self.to.machine, self.from).await {
            true => answer,
            false => Err(broken()),
        }
    }
}

async fn handle(api: Arc<Api>, request: Request) -> Result<Answer, Status> {
    api.admit_call(matches!(&request, Request::Range(range) if range.serializable))?;
    Ok(match request {
        Request::Range(range) => Answer::Range(api.range(range).await?),
        Request::Put(put) => Answer::Put(api.put(put).await?),
        Request::Delete(delete) => Answer::Delete(api.delete_range(delete).await?),
        Request::Txn(txn) => Answer::Txn(api.txn(txn).await?),
        Request::Compact(compact) => Answer::Compact(api.compact(compact).await?),
    })
}

async fn handle_lease(api: Arc<Api>, request: LeaseRequest) -> Result<LeaseAnswer, Status> {
    api.admit_call(false)?;
    Ok(match request {
        LeaseRequest::Grant(grant) => LeaseAnswer::Grant(api.lease_grant(grant).await?),
        LeaseRequest::Revoke(revoke) => LeaseAnswer::Revoke(api.lease_revoke(revoke).await?),
        LeaseRequest::TimeToLive(question) => LeaseAnswer::TimeToLive(api.lease_time_to_live(question).await?),
        LeaseRequest::Leases(question) => LeaseAnswer::Leases(api.lease_leases(question).await?),
        LeaseRequest::KeepAlive(renewal) => LeaseAnswer::KeepAlive(api.keep_alive_once(renewal).await?),
    })
}

async fn handle_lock(api: Arc<Api>, request: LockRequest) -> Result<LockAnswer, Status> {
    api.admit_call(false)?;
    Ok(match request {
        LockRequest::Lock(lock) => LockAnswer::Lock(api.lock(lock).await?),
        LockRequest::Unlock(unlock) => LockAnswer::Unlock(api.unlock(unlock).await?),
    })
}

async fn handle_alarm(api: Arc<Api>, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
    api.admit_call(false)?;
    api.alarm(request).await
}

async fn handle_election(api: Arc<Api>, request: ElectionRequest) -> Result<ElectionAnswer, Status> {
    api.admit_call(false)?;
    Ok(match request {
        ElectionRequest::Campaign(asked) => ElectionAnswer::Campaign(api.campaign(asked).await?),
        ElectionRequest::Proclaim(asked) => ElectionAnswer::Proclaim(api.proclaim(asked).await?),
        ElectionRequest::Leader(asked) => ElectionAnswer::Leader(api.leader(asked).await?),
        ElectionRequest::Resign(asked) => ElectionAnswer::Resign(api.resign(asked).await?),
    })
}

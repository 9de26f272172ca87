//! Reference servers: what a KV server costs when there is nothing behind it.
//!
//! *echo* answers every request at once: HTTP/2, gRPC and protobuf, and no more. No server that is served this way can be
//! faster, so reads are compared with it.
//!
//! *floor* also makes each write durable: one thread appends what has arrived to a log and syncs it, and all of a batch are
//! answered when their batch is on disk. There is no consensus and no store. Writes are compared with it.
//!
//! Both stand on the very same serving code and runtime as quorate.

mod log;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use prost::Message as _;
use quorate_proto::etcdserverpb::kv_server::{Kv, KvServer};
use quorate_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    request_op, response_op,
};
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::Rt;
use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime::sync::watch;
use quorate_runtime_tokio::TokioRuntime;
use tonic::{Request, Response, Status};

use self::log::Log;
use crate::interrupt;

/// Length of the value that a range answers.
const VALUE_BYTES: usize = 256;

/// How often signals are looked at.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Which reference server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers at once.
    Echo,
    /// Answers a write when it is on disk.
    Floor,
}

/// Serves on `listen` until a signal asks to stop.
pub fn run(kind: Kind, listen: SocketAddr, data_dir: &Path, reactors: usize) -> anyhow::Result<()> {
    interrupt::note_signals()?;
    TokioRuntime::run(reactors, |rt| async move {
        let log = match kind {
            Kind::Echo => None,
            Kind::Floor => {
                Some(Log::start(&rt, data_dir).with_context(|| format!("no log in {}", data_dir.display()))?)
            }
        };
        serve(&rt, listen, Answers::new(log)).await
    })
}

async fn serve(rt: &Rt, listen: SocketAddr, answers: Answers) -> anyhow::Result<()> {
    let listener = rt
        .listen(Address::Tcp(listen), ListenOptions::default())
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let (stop, stopping) = watch::channel(false);
    let signals = rt.clone();
    rt.spawn(Box::pin(async move {
        while interrupt::check().is_ok() {
            signals.sleep(SIGNAL_INTERVAL).await;
        }
        stop.send_replace(true);
    }));
    quorate_api::serve(rt.clone(), listener, KvServer::new(answers), stopping).await;
    Ok(())
}

/// The KV service of both servers.
#[derive(Clone)]
struct Answers {
    /// Writes wait for it.
    log: Option<Log>,
    revision: Arc<AtomicI64>,
    /// The one row that every range finds, encoded.
    row: Bytes,
}

impl Answers {
    fn new(log: Option<Log>) -> Self {
        let row = KeyValue {
            key: Bytes::from_static(b"bench/000000000000"),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            value: Bytes::from(vec![b'v'; VALUE_BYTES]),
            ..Default::default()
        };
        Self { log, revision: Arc::new(AtomicI64::new(1)), row: row.encode_to_vec().into() }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: 1,
            member_id: 1,
            revision: self.revision.load(Ordering::Relaxed),
            raft_term: 1,
        })
    }

    /// Makes `writes` durable, if this server does, and counts a revision.
    async fn write(&self, writes: Vec<PutRequest>) -> Result<(), Status> {
        if let Some(log) = &self.log {
            log.append(writes).await.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        self.revision.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn found(&self) -> RangeResponse {
        RangeResponse { header: self.header(), kvs: vec![self.row.clone()], more: false, count: 1 }
    }
}

#[tonic::async_trait]
impl Kv for Answers {
    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        Ok(Response::new(self.found()))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.write(vec![request.into_inner()]).await?;
        Ok(Response::new(PutResponse { header: self.header(), prev_kv: Bytes::new() }))
    }

    /// The comparisons hold, whatever they are.
    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let operations = request.into_inner().success;
        let responses = operations.iter().map(|operation| self.operate(operation)).collect::<Result<_, _>>()?;
        let writes: Vec<PutRequest> = operations.into_iter().filter_map(into_put).collect();
        if !writes.is_empty() {
            self.write(writes).await?;
        }
        Ok(Response::new(TxnResponse { header: self.header(), succeeded: true, responses }))
    }

    type RangeStreamStream = futures_util::stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(no_part_of_any_workload("RangeStream"))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(no_part_of_any_workload("DeleteRange"))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Err(no_part_of_any_workload("Compact"))
    }
}

impl Answers {
    fn operate(&self, operation: &RequestOp) -> Result<ResponseOp, Status> {
        let response = match &operation.request {
            Some(request_op::Request::RequestRange(_)) => response_op::Response::ResponseRange(self.found()),
            Some(request_op::Request::RequestPut(_)) => response_op::Response::ResponsePut(PutResponse::default()),
            _ => return Err(no_part_of_any_workload("this operation in a Txn")),
        };
        Ok(ResponseOp { response: Some(response) })
    }
}

fn into_put(operation: RequestOp) -> Option<PutRequest> {
    match operation.request {
        Some(request_op::Request::RequestPut(put)) => Some(put),
        _ => None,
    }
}

fn no_part_of_any_workload(what: &str) -> Status {
    Status::unimplemented(format!("a reference server of quorate-bench does not know {what}"))
}

//! A connection over real sockets, against a server made for each test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future;
use hyper_util::service::TowerToHyperService;
use quorate_client::{ConnectError, Connection};
use quorate_http::{Executor, HyperStream};
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::kv_server::{Kv, KvServer};
use quorate_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use quorate_runtime::clock::timeout;
use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime::sync::oneshot;
use quorate_runtime::{Rt, select};
use quorate_runtime_tokio::TokioRuntime;
use tonic::{Code, Request, Response, Status};

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts puts; never answers the key `hang`; answers ranges with one value of as many bytes as `limit` says.
#[derive(Clone, Default)]
struct Server {
    puts: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Kv for Server {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let len = usize::try_from(request.into_inner().limit).expect("a length");
        Ok(Response::new(RangeResponse { kvs: vec![vec![7; len].into()], ..Default::default() }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        if request.into_inner().key == "hang" {
            future::pending::<()>().await;
        }
        let revision = i64::try_from(self.puts.fetch_add(1, Ordering::Relaxed)).expect("a small count");
        let header = Some(ResponseHeader { revision, ..Default::default() });
        Ok(Response::new(PutResponse { header, ..Default::default() }))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(Status::failed_precondition("as the server words it"))
    }

    type RangeStreamStream = futures_util::stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// Serves one connection until the sender is used or dropped; then cuts it off.
async fn server(rt: &Rt) -> (Address, oneshot::Sender<()>) {
    let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
    let address = listener.local_address();
    let (cut, mut to_cut) = oneshot::channel();
    let on = rt.clone();
    rt.spawn(Box::pin(async move {
        let stream = listener.accept().await.unwrap().into_stream().unwrap();
        let service = TowerToHyperService::new(KvServer::new(Server::default()));
        let connection = hyper::server::conn::http2::Builder::new(Executor::new(on))
            .serve_connection(HyperStream::new(stream), service);
        select! {
            _ = connection => {}
            _ = &mut to_cut => {}
        }
    }));
    (address, cut)
}

fn put(key: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: "value".into(), ..Default::default() }
}

#[test]
fn many_calls_at_once_on_one_connection() {
    TokioRuntime::run(1, |rt| async move {
        let (address, _cut) = server(&rt).await;
        let connection = Connection::connect(&rt, address).await.unwrap();
        let calls = (0..300).map(|_| {
            let mut kv = KvClient::with_origin(connection.clone(), connection.origin());
            async move { kv.put(put("key")).await.unwrap().into_inner().header.unwrap().revision }
        });
        let mut revisions = timeout(&*rt, PATIENCE, future::join_all(calls)).await.unwrap();
        revisions.sort_unstable();
        assert_eq!(revisions, (0..300).collect::<Vec<i64>>());
        assert!(!connection.is_closed());
    });
}

#[test]
fn a_large_answer_arrives_whole() {
    TokioRuntime::run(1, |rt| async move {
        let (address, _cut) = server(&rt).await;
        let connection = Connection::connect(&rt, address).await.unwrap();
        let mut kv = KvClient::with_origin(connection.clone(), connection.origin()).max_decoding_message_size(1 << 30);
        let request = RangeRequest { key: "key".into(), limit: 50 << 20, ..Default::default() };
        let answer = timeout(&*rt, PATIENCE, kv.range(request)).await.unwrap().unwrap();
        assert_eq!(answer.into_inner().kvs[0].len(), 50 << 20);
    });
}

#[test]
fn the_servers_error_is_told_as_it_is() {
    TokioRuntime::run(1, |rt| async move {
        let (address, _cut) = server(&rt).await;
        let connection = Connection::connect(&rt, address).await.unwrap();
        let mut kv = KvClient::with_origin(connection.clone(), connection.origin());
        let error = timeout(&*rt, PATIENCE, kv.txn(TxnRequest::default())).await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "as the server words it"));
    });
}

#[test]
fn when_the_connection_breaks_calls_are_unavailable() {
    TokioRuntime::run(1, |rt| async move {
        let (address, cut) = server(&rt).await;
        let connection = Connection::connect(&rt, address).await.unwrap();
        let mut kv = KvClient::with_origin(connection.clone(), connection.origin());
        kv.put(put("key")).await.unwrap();
        let mut hanging = kv.clone();
        let (result, ()) = timeout(&*rt, PATIENCE, async {
            future::join(hanging.put(put("hang")), async {
                rt.sleep(Duration::from_millis(50)).await;
                cut.send(()).unwrap();
            })
            .await
        })
        .await
        .unwrap();
        let error = result.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        timeout(&*rt, PATIENCE, connection.closed()).await.unwrap();
        assert!(connection.is_closed());
        let error = timeout(&*rt, PATIENCE, kv.put(put("key"))).await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    });
}

#[test]
fn nobody_listens() {
    TokioRuntime::run(1, |rt| async move {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let address = rt.listen(any, ListenOptions::default()).await.unwrap().local_address();
        let error = Connection::connect(&rt, address.clone()).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Network { .. }));
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    });
}

#[test]
fn the_connection_ends_with_its_last_user() {
    TokioRuntime::run(1, |rt| async move {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        let connecting = Connection::connect(&rt, listener.local_address());
        let (connection, accepted) = future::join(connecting, listener.accept()).await;
        let stream = accepted.unwrap().into_stream().unwrap();
        let service = TowerToHyperService::new(KvServer::new(Server::default()));
        let served = hyper::server::conn::http2::Builder::new(Executor::new(rt.clone()))
            .serve_connection(HyperStream::new(stream), service);
        drop(connection.unwrap());
        // In order, or with an error because the server still had settings to send.
        let _either = timeout(&*rt, PATIENCE, served).await.expect("the server sees the end");
    });
}

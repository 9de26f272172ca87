//! The server over real sockets, with a service that answers at once: both protocols on one port, broken clients, and how it
//! ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_api::{ServerOptions, serve_each};
use quorate_client::Connection;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::kv_server::{Kv, KvServer};
use quorate_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use quorate_runtime::io::{AsyncReadExt, AsyncWriteExt};
use quorate_runtime::net::{Address, BoxStream, ListenOptions};
use quorate_runtime::spawn::spawn_with_result;
use quorate_runtime::sync::{oneshot, watch};
use quorate_runtime::{Rt, clock};
use quorate_runtime_tokio::TokioRuntime;
use tonic::{Code, Request, Response, Status};

/// Answers a put with its own value, a delete with the number of puts so far, a compaction only once `slow` says go.
#[derive(Default)]
struct Simple {
    puts: AtomicUsize,
    slow: watch::Sender<bool>,
}

#[tonic::async_trait]
impl Kv for Simple {
    type RangeStreamStream = futures_util::stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        Err(Status::out_of_range("no such thing"))
    }

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Ok(Response::new(futures_util::stream::empty()))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(PutResponse { prev_kv: request.into_inner().value, ..Default::default() }))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        let deleted = self.puts.load(Ordering::Relaxed) as i64;
        Ok(Response::new(DeleteRangeResponse { deleted, ..Default::default() }))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(TxnResponse { succeeded: true, ..Default::default() }))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let mut slow = self.slow.subscribe();
        // An error means that the test is over.
        let _ = slow.wait_for(|go| *go).await;
        Ok(Response::new(CompactionResponse::default()))
    }
}

struct Running {
    address: SocketAddr,
    simple: Arc<Simple>,
    shutdown: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
}

impl Running {
    async fn start(rt: &Rt, grace: Duration) -> Self {
        let any_port = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = rt.listen(any_port, ListenOptions::default()).await.unwrap();
        let Address::Tcp(address) = listener.local_address() else { panic!("a TCP address") };
        let simple = Arc::new(Simple::default());
        let (shutdown, asked) = watch::channel(false);
        let service = KvServer::from_arc(simple.clone());
        let options = ServerOptions { grace, ..Default::default() };
        let make = move |_: &Address| service.clone();
        let ended = spawn_with_result(&**rt, serve_each(rt.clone(), listener, make, asked, options));
        Self { address, simple, shutdown, ended }
    }

    async fn stream(&self, rt: &Rt) -> BoxStream {
        rt.connect(Address::Tcp(self.address)).await.unwrap()
    }

    async fn client(&self, rt: &Rt) -> KvClient<Connection> {
        let connection = Connection::connect(rt, Address::Tcp(self.address)).await.unwrap();
        let origin = connection.origin();
        KvClient::with_origin(connection, origin)
    }
}

fn put(value: &str) -> PutRequest {
    PutRequest { key: "k".into(), value: value.to_owned().into(), ..Default::default() }
}

async fn within<T>(rt: &Rt, limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    clock::timeout(&**rt, limit, work).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn many_connections_are_served_on_several_reactors() {
    TokioRuntime::run(2, async |rt| {
        let running = Running::start(&rt, SOON).await;
        let clients = (0..5).map(|number| {
            let rt = rt.clone();
            let running = &running;
            async move {
                let client = running.client(&rt).await;
                let calls = (0..100).map(|call| {
                    let mut client = client.clone();
                    async move {
                        let value = format!("{number}/{call}");
                        let answer = client.put(put(&value)).await.unwrap().into_inner();
                        assert_eq!(answer.prev_kv, value);
                    }
                });
                futures_util::future::join_all(calls).await;
            }
        });
        within(&rt, SOON, "500 puts", futures_util::future::join_all(clients)).await;
        let mut client = running.client(&rt).await;
        let deleted = client.delete_range(DeleteRangeRequest::default()).await.unwrap().into_inner().deleted;
        assert_eq!(deleted, 500);
        let status = client.range(RangeRequest::default()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::OutOfRange, "no such thing"));
    });
}

#[test]
fn a_value_larger_than_every_window_arrives() {
    TokioRuntime::run(1, async |rt| {
        let running = Running::start(&rt, SOON).await;
        let mut client = running.client(&rt).await;
        let value = "x".repeat(3 << 20);
        let answer = within(&rt, SOON, "3 MiB there and back", client.put(put(&value))).await.unwrap();
        assert_eq!(answer.into_inner().prev_kv, value);
    });
}

#[test]
fn http1_is_spoken_on_the_same_port_without_a_date() {
    TokioRuntime::run(1, async |rt| {
        let running = Running::start(&rt, SOON).await;
        let mut stream = running.stream(&rt).await;
        // Two requests on one connection, the second in pieces.
        for pieces in [&["GET /x HTTP/1.1\r\nhost: h\r\n\r\n"][..], &["GE", "T /x HTTP/1.1\r\n", "host: h\r\n\r\n"]] {
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                rt.sleep(Duration::from_millis(5)).await;
            }
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(within(&rt, SOON, "an answer", stream.read_u8()).await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            // tonic's answer to what it does not know.
            assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
            assert!(head.contains("grpc-status: 12\r\n"), "{head}");
            assert!(!head.contains("\r\ndate:"), "{head}");
        }
    });
}

#[test]
fn a_client_that_talks_nonsense_hurts_only_itself() {
    TokioRuntime::run(1, async |rt| {
        let running = Running::start(&rt, SOON).await;
        let mut good = running.client(&rt).await;
        good.put(put("1")).await.unwrap();
        for nonsense in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"PRI * HTTP/2.0\r\n\r\nxx\r\n\r\n",
            b"\r\n\r\n\r\n\0\0\0\0",
        ] {
            let mut stream = running.stream(&rt).await;
            stream.write_all(nonsense).await.unwrap();
            let mut answer = Vec::new();
            // The server may close or reset; either way it ends.
            let _ = within(&rt, SOON, "the end of a bad connection", stream.read_to_end(&mut answer)).await;
            good.put(put("2")).await.unwrap();
        }
    });
}

#[test]
fn a_url_for_an_authority_is_taken_as_etcd_takes_it() {
    /// A put of nothing, as HEADERS and DATA; `authority` is that header field, encoded.
    fn request(stream: u8, authority: &[u8]) -> Vec<u8> {
        let method_and_scheme: &[u8] = b"\x83\x86";
        let path: &[u8] = b"\x04\x14/etcdserverpb.KV/Put";
        let content_type: &[u8] = b"\x0f\x10\x10application/grpc";
        let te: &[u8] = b"\x00\x02te\x08trailers";
        let block = [method_and_scheme, path, authority, content_type, te].concat();
        let headers: &[u8] = &[0, 0, block.len() as u8, 0x1, 0x4, 0, 0, 0, stream];
        let data: &[u8] = &[0, 0, 5, 0x0, 0x1, 0, 0, 0, stream, 0, 0, 0, 0, 0];
        [headers, &block, data].concat()
    }
    let authorities: [&[u8]; 5] = [
        // Into the dynamic table and out of it, in the Huffman code, as etcdctl 3.4 sends it.
        b"\x41\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x34\x00\x3c\xdf",
        b"\xbe",
        b"\x01\x15http://127.0.0.1:2379",
        b"\x01\x12https://[::1]:2379",
        b"\x01\x0elocalhost:2379",
    ];
    TokioRuntime::run(1, async |rt| {
        let running = Running::start(&rt, SOON).await;
        let mut stream = running.stream(&rt).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        for (number, authority) in authorities.iter().enumerate() {
            let id = 2 * number as u8 + 1;
            let request = request(id, authority);
            // In two pieces, the first of which ends within the first authority's scheme.
            for piece in [&request[..40], &request[40..]] {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
                rt.sleep(Duration::from_millis(5)).await;
            }
            loop {
                let mut head = [0; 9];
                within(&rt, SOON, "a frame", stream.read_exact(&mut head)).await.unwrap();
                let [high, middle, low, kind, flags, .., stream_id] = head;
                let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
                within(&rt, SOON, "its payload", stream.read_exact(&mut payload)).await.unwrap();
                assert!(![0x3, 0x7].contains(&kind), "request {number} is refused: {head:x?} {payload:x?}");
                // HEADERS that end the stream: the trailers.
                if (kind, flags & 0x1, stream_id) == (0x1, 0x1, id) {
                    break;
                }
            }
            assert_eq!(running.simple.puts.load(Ordering::Relaxed), number + 1);
        }
    });
}

#[test]
fn shutdown_lets_requests_in_flight_finish() {
    TokioRuntime::run(1, async |rt| {
        let running = Running::start(&rt, SOON).await;
        let silent = running.stream(&rt).await;
        let mut client = running.client(&rt).await;
        client.put(put("1")).await.unwrap();
        let mut slow_client = client.clone();
        let slow = spawn_with_result(&*rt, async move { slow_client.compact(CompactionRequest::default()).await });
        rt.sleep(Duration::from_millis(50)).await;

        running.shutdown.send_replace(true);
        rt.sleep(Duration::from_millis(50)).await;
        assert!(rt.connect(Address::Tcp(running.address)).await.is_err(), "the port is closed at once");
        let mut ended = running.ended;
        assert!(ended.try_recv().is_err(), "one request still goes on");

        running.simple.slow.send_replace(true);
        within(&rt, SOON, "the slow answer", slow).await.unwrap().unwrap();
        within(&rt, SOON, "the end of the server", ended).await.unwrap();
        drop(silent);
    });
}

#[test]
fn shutdown_cuts_off_what_does_not_finish_in_time() {
    TokioRuntime::run(2, async |rt| {
        let running = Running::start(&rt, Duration::from_millis(100)).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = running.client(&rt).await;
            clients.push(spawn_with_result(&*rt, async move { client.compact(CompactionRequest::default()).await }));
        }
        rt.sleep(Duration::from_millis(50)).await;
        running.shutdown.send_replace(true);
        within(&rt, SOON, "the end of the server", running.ended).await.unwrap();
        for client in clients {
            let status = within(&rt, SOON, "the cut off call", client).await.unwrap().unwrap_err();
            assert_ne!(status.code(), Code::Ok);
        }
    });
}

#[test]
fn a_server_whose_owner_is_gone_ends() {
    TokioRuntime::run(1, async |rt| {
        let Running { shutdown, ended, .. } = Running::start(&rt, SOON).await;
        drop(shutdown);
        within(&rt, SOON, "the end of the server", ended).await.unwrap();
    });
}

#[test]
fn who_pings_all_the_time_is_told_to_be_calm_and_cut_off() {
    TokioRuntime::run(1, async |rt| {
        let running = Running::start(&rt, SOON).await;
        let mut client = running.client(&rt).await;
        client.put(put("before")).await.unwrap();
        let mut stream = running.stream(&rt).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut received = Vec::new();
        for number in 0..10 {
            if stream.write_all(b"\0\0\x08\x06\0\0\0\0\0pingping").await.is_err() {
                assert!(number > 3, "cut off after {number} pings");
                break;
            }
            rt.sleep(Duration::from_millis(20)).await;
        }
        // The server may have closed with pings unread, which ends the stream with an error.
        let _ = within(&rt, SOON, "the end", stream.read_to_end(&mut received)).await;
        let text = String::from_utf8_lossy(&received);
        assert!(text.contains("too_many_pings"), "{text:?}");
        assert_eq!(text.matches("pingping").count(), 3, "three were answered");
        client.put(put("after")).await.unwrap();
    });
}

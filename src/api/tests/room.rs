//! Large messages wait for room; small ones do not.

mod served;

use std::convert::Infallible;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use prost::Message;
use quorate_api::{ApiBody, ApiOptions, ApiService};
use quorate_client::Connection;
use quorate_member::MemberConfig;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, request_op};
use quorate_runtime::clock;
use quorate_types::Error;
use served::{Served, plain, with_member};
use tonic::Status;
use tower_service::Service;

const VALUE_BYTES: usize = 100 << 10;
/// Beside one small one, which comes first.
const VALUES: usize = 6;

fn narrow(config: &mut MemberConfig, _: &mut ApiOptions) {
    // Who waits for room waits for the time of a request, which is five seconds more than two of these.
    config.election_ms = 500;
    config.inflight_bytes_max = 1 << 20;
}

fn framed(request: &impl Message) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(request.encoded_len() as u32);
    request.encode(&mut framed).unwrap();
    framed.freeze()
}

/// The answer, on its way for as long as it is kept.
async fn call<B>(mut service: ApiService, path: &str, body: B) -> Result<http::Response<ApiBody>, Status>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let http = http::Request::post(path).header("content-type", "application/grpc");
    let response = service.call(http.body(body).unwrap()).await.unwrap();
    match Status::from_header_map(response.headers()) {
        Some(status) => Err(status),
        None => Ok(response),
    }
}

async fn range(service: &ApiService, limit: i64) -> Result<http::Response<ApiBody>, Status> {
    let request = RangeRequest { key: "a".into(), range_end: "b".into(), limit, ..Default::default() };
    call(service.clone(), "/etcdserverpb.KV/Range", Full::new(framed(&request))).await
}

async fn rows(response: http::Response<ApiBody>) -> usize {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    RangeResponse::decode(body.slice(5..)).unwrap().kvs.len()
}

fn put(key: &str, value_bytes: usize) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: vec![b'v'; value_bytes].into(), ..Default::default() }
}

async fn fill(served: &Served) {
    served.kv().put(put("a", 10)).await.unwrap();
    for number in 0..VALUES {
        served.kv().put(put(&format!("a{number}"), VALUE_BYTES)).await.unwrap();
    }
}

/// True if it is still waiting after a while.
async fn waits<T>(served: &Served, work: impl Future<Output = T> + Unpin) -> bool {
    clock::timeout(&*served.rt, Duration::from_millis(200), work).await.is_err()
}

#[test]
fn a_large_answer_waits_until_those_before_it_have_left() {
    with_member(narrow, 1, async |served| {
        fill(served).await;
        let service = &served.service;
        let first = range(service, 0).await.unwrap();
        let mut second = Box::pin(range(service, 0));
        assert!(waits(served, &mut second).await);
        // Who asks for little need not wait for who asks for much.
        let little = RangeRequest { key: "a".into(), ..Default::default() };
        assert_eq!(served.kv().range(little).await.unwrap().into_inner().kvs.len(), 1);
        assert_eq!(rows(first).await, 1 + VALUES);
        assert_eq!(rows(second.await.unwrap()).await, 1 + VALUES);
    });
}

#[test]
fn there_is_room_for_many() {
    with_member(plain, 1, async |served| {
        fill(served).await;
        let mut leaving = Vec::new();
        for _ in 0..100 {
            leaving.push(range(&served.service, 0).await.unwrap());
        }
        let other = Connection::connect(&served.rt, served.address.clone()).await.unwrap();
        let mut kv = KvClient::with_origin(other.clone(), other.origin());
        let all = RangeRequest { key: "a".into(), range_end: "b".into(), ..Default::default() };
        assert_eq!(kv.range(all).await.unwrap().into_inner().kvs.len(), 1 + VALUES);
    });
}

#[test]
fn an_answer_that_nobody_takes_keeps_others_waiting_only_for_the_time_of_a_request() {
    with_member(narrow, 1, async |served| {
        fill(served).await;
        let first = range(&served.service, 0).await.unwrap();
        let Err(refused) = range(&served.service, 0).await else { panic!("there was room") };
        assert_eq!(refused.message(), Error::TooManyRequests.message());
        drop(first);
        assert_eq!(rows(range(&served.service, 0).await.unwrap()).await, 1 + VALUES);
    });
}

#[test]
fn an_answer_larger_than_all_room_is_given_alone() {
    let tight = |config: &mut MemberConfig, options: &mut ApiOptions| {
        narrow(config, options);
        config.inflight_bytes_max = 200 << 10;
    };
    with_member(tight, 1, async |served| {
        fill(served).await;
        let first = range(&served.service, 0).await.unwrap();
        let mut second = Box::pin(range(&served.service, 2));
        assert!(waits(served, &mut second).await);
        assert_eq!(rows(first).await, 1 + VALUES);
        assert_eq!(rows(second.await.unwrap()).await, 2);
    });
}

#[test]
fn a_transaction_that_reads_much_waits_as_well() {
    with_member(narrow, 1, async |served| {
        fill(served).await;
        let all = RangeRequest { key: "a".into(), range_end: "b".into(), ..Default::default() };
        let op = RequestOp { request: Some(request_op::Request::RequestRange(all)) };
        let reading = framed(&TxnRequest { success: vec![op], ..Default::default() });
        let first = range(&served.service, 0).await.unwrap();
        let mut second = Box::pin(call(served.service.clone(), "/etcdserverpb.KV/Txn", Full::new(reading)));
        assert!(waits(served, &mut second).await);
        drop(first);
        second.await.unwrap();
    });
}

#[test]
fn a_large_request_waits_until_those_before_it_are_answered() {
    with_member(narrow, 1, async |served| {
        // It announces much, and sends no more than its beginning.
        let begun = framed(&put("k", 700 << 10)).slice(..1000);
        let begun = stream::once(async { Ok::<_, Infallible>(Frame::data(begun)) }).chain(stream::pending());
        let mut first = Box::pin(call(served.service.clone(), "/etcdserverpb.KV/Put", StreamBody::new(begun)));
        assert!(waits(served, &mut first).await);
        let large = || Full::new(framed(&put("k", 600 << 10)));
        let mut second = Box::pin(call(served.service.clone(), "/etcdserverpb.KV/Put", large()));
        assert!(waits(served, &mut second).await);
        served.kv().put(put("k", 10)).await.expect("a small one is not counted");
        drop(first);
        second.await.unwrap();
        call(served.service.clone(), "/etcdserverpb.KV/Put", large()).await.expect("what was answered takes no room");
    });
}

#[test]
fn what_was_written_is_answered_without_room() {
    with_member(narrow, 1, async |served| {
        fill(served).await;
        let _taken = range(&served.service, 0).await.unwrap();
        // With the other one there is not room for this answer.
        let before = PutRequest { prev_kv: true, ..put("large", 10) };
        served.kv().put(put("large", 600 << 10)).await.unwrap();
        let answer = served.kv().put(before).await.unwrap().into_inner();
        assert!(answer.prev_kv.len() > 600 << 10);
    });
}

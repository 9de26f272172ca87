//! gRPC's framing of messages, and how a unary call is read and answered.
//!
//! A message travels as a flag byte (compressed or not), four bytes of length, and itself. The length is checked before the
//! message is received, so that one beyond the limit costs nothing and is refused in etcd's words. The usual message is one
//! HTTP/2 frame and is decoded where it lies; one that comes in pieces is joined once.
//!
//! The server part of tonic is not used: it refuses large messages in other words, copies each message, and takes two 8 KiB
//! buffers and four boxes a call. Statuses and the texts of protocol errors are those of grpc-go, since etcd's clients may
//! compare them.

use std::fmt::Display;
use std::pin::{Pin, pin};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;
use quorate_types::Error;
use tonic::Status;

use crate::body::ApiBody;
use crate::errors;
use crate::room::{Hold, Room};

/// Flag and length ahead of each message.
pub const PREFIX_BYTES: usize = 5;

/// Memory set aside for a message that only its prefix has announced; more follows as the bytes arrive.
const RESERVE_BYTES_MAX: usize = 64 << 10;

pub const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// True if a request's headers say gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && matches!(value.get(16), None | Some(b'+' | b';'))
    })
}

/// Refuses encodings; this server knows none.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(&GRPC_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" || encoding.is_empty() => Ok(()),
        Some(encoding) => Err(Status::unimplemented(format!(
            "grpc: Decompressor is not installed for grpc-encoding \"{}\"",
            String::from_utf8_lossy(encoding.as_bytes())
        ))),
    }
}

/// The messages of a call that has many.
pub struct Requests<B> {
    body: Pin<Box<B>>,
    limit_bytes: usize,
    /// Received, and not yet taken.
    buffer: BytesMut,
}

impl<B> Requests<B>
where
    B: Body<Data = Bytes, Error: Display>,
{
    /// The messages in `body`.
    pub fn new(body: B, limit_bytes: usize) -> Self {
        Self { body: Box::pin(body), limit_bytes, buffer: BytesMut::new() }
    }

    /// The next message, without its prefix; `None` once the client has sent its last. Nothing is lost if this is dropped before
    /// it completes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(total) = total_bytes(&self.buffer, self.limit_bytes)? {
                if self.buffer.len() >= total {
                    let mut message = self.buffer.split_to(total);
                    message.advance(PREFIX_BYTES);
                    return Ok(Some(message.freeze()));
                }
                self.buffer.reserve((total - self.buffer.len()).min(RESERVE_BYTES_MAX));
            }
            match next_data(&mut self.body.as_mut()).await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("unexpected EOF")),
            }
        }
    }
}

/// Receives the one message of a unary or server-streaming call, without its prefix, once there is room for it, which
/// it keeps. What a client sends after the message is not looked at.
pub async fn receive<B>(body: B, limit_bytes: usize, room: &Room) -> Result<(Bytes, Hold), Status>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let mut body = pin!(body);
    let missing =
        || Status::internal("cardinality violation: received no request message from non-client-streaming RPC");
    let first = next_data(&mut body).await?.ok_or_else(missing)?;
    if let Some(total) = total_bytes(&first, limit_bytes)?
        && first.len() >= total
    {
        let hold = room.reserve(total).await?;
        return Ok((first.slice(PREFIX_BYTES..total), hold));
    }
    let mut joined = BytesMut::from(first);
    let mut hold = None;
    loop {
        if let Some(total) = total_bytes(&joined, limit_bytes)? {
            let hold_of_all = match hold.take() {
                Some(hold) => hold,
                None => room.reserve(total).await?,
            };
            if joined.len() >= total {
                joined.truncate(total);
                joined.advance(PREFIX_BYTES);
                return Ok((joined.freeze(), hold_of_all));
            }
            hold = Some(hold_of_all);
            joined.reserve((total - joined.len()).min(RESERVE_BYTES_MAX));
        }
        let more = next_data(&mut body).await?.ok_or_else(|| Status::internal("unexpected EOF"))?;
        joined.extend_from_slice(&more);
    }
}

/// The next bytes; `None` at the end.
async fn next_data<B>(body: &mut Pin<&mut B>) -> Result<Option<Bytes>, Status>
where
    B: Body<Data = Bytes, Error: Display>,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::cancelled(format!("the request broke off: {error}")))?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Bytes of prefix and message together; `None` while the prefix is incomplete.
fn total_bytes(received: &[u8], limit_bytes: usize) -> Result<Option<usize>, Status> {
    let Some(prefix) = received.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let [flag, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit_bytes {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({length} vs. {limit_bytes})"
        )));
    }
    match flag {
        0 => Ok(Some(PREFIX_BYTES + length)),
        1 => Err(Status::internal("grpc: compressed flag set with identity or empty encoding")),
        other => Err(Status::internal(format!("grpc: received unexpected payload format {other}"))),
    }
}

/// How long the message is that one's own answers begin with, prefix included; `None` while the prefix is incomplete.
pub fn framed_bytes(answers: &[u8]) -> Option<usize> {
    let [_, length @ ..] = *answers.first_chunk::<PREFIX_BYTES>()?;
    Some(PREFIX_BYTES + u32::from_be_bytes(length) as usize)
}

/// Decodes a request; what is not one is refused as grpc-go refuses it. The decoder gives up at 100 nested messages: only
/// transactions in transactions get there, and those are refused as any that are too deep.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        let text = error.to_string();
        if text.ends_with("recursion limit reached") {
            return errors::status(Error::TooManyOps);
        }
        Status::internal(format!("grpc: error unmarshalling request: {text}"))
    })
}

/// Encodes a message with its prefix, in one allocation.
pub fn encode(message: &impl Message) -> Result<Bytes, Status> {
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    append(&mut buffer, message)?;
    Ok(buffer.freeze())
}

/// Encodes a message with its prefix behind what `buffer` holds. A refusal leaves that as it is.
pub fn append(buffer: &mut BytesMut, message: &impl Message) -> Result<(), Status> {
    let length = message.encoded_len();
    let announced = u32::try_from(length).ok().filter(|length| *length <= i32::MAX as u32).ok_or_else(|| {
        Status::resource_exhausted(format!("grpc: trying to send message larger than max ({length} vs. {})", i32::MAX))
    })?;
    let end = buffer.len() + PREFIX_BYTES + length;
    buffer.reserve(PREFIX_BYTES + length);
    buffer.put_u8(0);
    buffer.put_u32(announced);
    message.encode_raw(buffer);
    assert!(buffer.len() == end, "a message is as long as it said");
    Ok(())
}

/// An answer that has a body of messages.
pub fn answer(body: ApiBody) -> Response<ApiBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    response
}

/// An answer that is nothing but an error.
pub fn refuse(status: Status) -> Response<ApiBody> {
    status.into_http()
}

/// gRPC is always POST.
pub fn refuse_method(method: &http::Method) -> Response<ApiBody> {
    let mut response =
        refuse(Status::internal(format!("Received a HEADERS frame with :method \"{method}\" which should be POST")));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// Where nothing but gRPC is served.
pub fn refuse_content_type(headers: &HeaderMap) -> Response<ApiBody> {
    let given = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    let mut response = refuse(Status::internal(format!("invalid gRPC request content-type \"{given}\"")));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Nobody here has that path.
pub fn refuse_path(path: &str, knows_service: impl Fn(&str) -> bool) -> Response<ApiBody> {
    let text = match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        None => format!("malformed method name: \"{path}\""),
        Some((service, method)) if knows_service(service) => format!("unknown method {method} for service {service}"),
        Some((service, _)) => format!("unknown service {service}"),
    };
    refuse(Status::unimplemented(text))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use quorate_proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
    use quorate_runtime_tokio::TokioRuntime;
    use tonic::Code;

    use super::*;

    const LIMIT: usize = 1000;

    fn received(pieces: Vec<Vec<u8>>) -> Result<Bytes, Status> {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        TokioRuntime::run(1, async |rt| {
            let room = Room::new(rt, LIMIT, Duration::ZERO);
            let receiving = receive(StreamBody::new(stream::iter(frames)), LIMIT, &room);
            receiving.now_or_never().expect("all frames are there").map(|(message, _hold)| message)
        })
    }

    fn framed(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend(length.to_be_bytes());
        bytes.extend(message);
        bytes
    }

    #[test]
    fn a_message_is_the_same_however_it_is_cut() {
        let whole = framed(0, 6, b"sesame");
        assert_eq!(received(vec![whole.clone()]).unwrap(), "sesame");
        for cut in 0..whole.len() {
            let (left, right) = whole.split_at(cut);
            assert_eq!(received(vec![left.to_vec(), right.to_vec()]).unwrap(), "sesame", "cut at {cut}");
        }
        assert_eq!(received(whole.iter().map(|byte| vec![*byte]).collect()).unwrap(), "sesame");
        assert_eq!(received(vec![framed(0, 0, b"")]).unwrap(), "");
    }

    #[test]
    fn what_follows_the_message_is_not_part_of_it() {
        let mut two = framed(0, 6, b"sesame");
        two.extend(framed(0, 4, b"open"));
        assert_eq!(received(vec![two.clone()]).unwrap(), "sesame");
        assert_eq!(received(vec![two[..3].to_vec(), two[3..].to_vec()]).unwrap(), "sesame");
    }

    #[test]
    fn a_row_of_messages_is_the_same_however_it_is_cut() {
        let mut all = framed(0, 6, b"sesame");
        all.extend(framed(0, 0, b""));
        all.extend(framed(0, 4, b"open"));
        for cut in 0..=all.len() {
            let (left, right) = all.split_at(cut);
            let frames = [left, right].map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))));
            let mut requests = Requests::new(StreamBody::new(stream::iter(frames)), LIMIT);
            let mut next = || requests.next().now_or_never().expect("all frames are there").unwrap();
            assert_eq!(
                (next().unwrap(), next().unwrap(), next().unwrap(), next()),
                ("sesame".into(), "".into(), "open".into(), None)
            );
        }
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 9, 1])))];
        let mut requests = Requests::new(StreamBody::new(stream::iter(frames)), LIMIT);
        assert_eq!(requests.next().now_or_never().unwrap().unwrap_err().message(), "unexpected EOF");
    }

    #[test]
    fn bad_framing_is_refused_in_grpc_gos_words() {
        let cases: [(Vec<Vec<u8>>, Code, &str); 6] = [
            (
                vec![],
                Code::Internal,
                "cardinality violation: received no request message from non-client-streaming RPC",
            ),
            (vec![vec![0, 0]], Code::Internal, "unexpected EOF"),
            (vec![framed(0, 7, b"sesame")], Code::Internal, "unexpected EOF"),
            (
                vec![framed(0, 1001, b"only the length counts")],
                Code::ResourceExhausted,
                "grpc: received message larger than max (1001 vs. 1000)",
            ),
            (
                vec![framed(1, 6, b"sesame")],
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ),
            (vec![framed(7, 6, b"sesame")], Code::Internal, "grpc: received unexpected payload format 7"),
        ];
        for (pieces, code, text) in cases {
            let status = received(pieces).unwrap_err();
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[test]
    fn a_request_of_exactly_the_limit_is_taken() {
        assert_eq!(received(vec![framed(0, 1000, &[b'x'; 1000])]).unwrap().len(), 1000);
    }

    #[test]
    fn garbage_is_not_a_request() {
        let status = decode::<RangeRequest>(Bytes::from_static(b"\xff\xff\xff")).unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with("grpc: error unmarshalling request: "), "{status}");
    }

    #[test]
    fn transactions_nested_beyond_the_decoder_are_too_many_operations() {
        let nest = |child| TxnRequest {
            success: vec![RequestOp { request: Some(request_op::Request::RequestTxn(child)) }],
            ..Default::default()
        };
        let deep = (0..80).fold(TxnRequest::default(), |child, _| nest(child));
        let status = decode::<TxnRequest>(deep.encode_to_vec().into()).unwrap_err();
        assert_eq!(status.message(), Error::TooManyOps.message());
    }

    #[test]
    fn an_encoded_message_reads_back() {
        let request = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let message = received(vec![encode(&request).unwrap().to_vec()]).unwrap();
        assert_eq!(decode::<PutRequest>(message).unwrap(), request);
    }

    #[test]
    fn paths_that_nobody_has_are_named() {
        let knows = |service: &str| service == "etcdserverpb.KV";
        for (path, text) in [
            ("/etcdserverpb.KV/Drop", "unknown method Drop for service etcdserverpb.KV"),
            ("/etcdserverpb.Auth/AuthStatus", "unknown service etcdserverpb.Auth"),
            ("/nothing", "malformed method name: \"/nothing\""),
        ] {
            let response = refuse_path(path, knows);
            assert_eq!(response.status(), StatusCode::OK);
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!((status.code(), status.message()), (Code::Unimplemented, text));
        }
    }

    #[test]
    fn content_types_of_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}

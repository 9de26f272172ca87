//! Calls of many messages over JSON: objects, one after the other, become gRPC's frames; frames become lines.
//!
//! The first line decides the answer's status, so the answer begins when there is one (grpc-gateway, `runtime/handler.go`).

use std::fmt::Display;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::json;
use tonic::{Code, Status};

use super::json::{self, Types};
use super::{came_over_grpc, http_status};
use crate::body::ApiBody;
use crate::grpc;
use crate::plain::{self, JSON};

/// Why a client's messages came to an end, if they were not JSON: better than what the call makes of that.
pub type Failure = Arc<OnceLock<Status>>;

/// Frames of gRPC, as a body.
type Frames = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, String>> + Send>>>;

/// The JSON objects of `body` as gRPC's frames. What is none ends them, and is told in [`Failure`].
pub fn frames<B>(body: B, types: Types, limit_bytes: usize) -> (Frames, Failure)
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    let failure = Failure::default();
    let reader = Reader {
        body: Box::pin(body),
        buffer: BytesMut::new(),
        scan: Scan::default(),
        is_over: false,
        limit_bytes,
        types,
        failure: Arc::clone(&failure),
    };
    let frames = stream::try_unfold(reader, |mut reader| async move {
        match reader.next().await {
            Ok(frame) => Ok(frame.map(|frame| (Frame::data(frame), reader))),
            Err(status) => {
                let told = status.to_string();
                // Only one end comes first.
                let _ = reader.failure.set(status);
                Err(told)
            }
        }
    });
    (StreamBody::new(Box::pin(frames)), failure)
}

struct Reader<B> {
    body: Pin<Box<B>>,
    /// Received, and not yet taken.
    buffer: BytesMut,
    scan: Scan,
    is_over: bool,
    limit_bytes: usize,
    types: Types,
    failure: Failure,
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes, Error: Display>,
{
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(end) = self.scan.end_of_value(&self.buffer) {
                let value = self.buffer.split_to(end);
                self.scan = Scan::default();
                return self.types.frame(&value).map(Some);
            }
            if self.is_over {
                if self.buffer.iter().all(u8::is_ascii_whitespace) {
                    return Ok(None);
                }
                // What is incomplete is refused in the parser's words.
                return self.types.frame(&std::mem::take(&mut self.buffer)).map(Some);
            }
            if self.buffer.len() > self.limit_bytes {
                return Err(Status::resource_exhausted(format!("an object is larger than {} bytes", self.limit_bytes)));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Status::cancelled(format!("the request broke off: {error}"))),
                None => self.is_over = true,
            }
        }
    }
}

/// Looks for the end of a JSON object, however it comes in pieces.
#[derive(Debug, Default)]
struct Scan {
    seen: usize,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Scan {
    /// How many of the bytes are the first object, with what is before it. What is no object ends at its first byte, for the parser
    /// to refuse it.
    fn end_of_value(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(&byte) = bytes.get(self.seen) {
            self.seen += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' if self.depth > 0 => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' => return Some(self.seen),
                byte if self.depth == 0 && !byte.is_ascii_whitespace() => return Some(self.seen),
                _ => {}
            }
        }
        None
    }
}

/// The answers of a call as lines.
pub async fn answer(response: Response<ApiBody>, types: Types, failure: Failure) -> Response<ApiBody> {
    let refused = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok);
    let mut answers = Answers { body: response.into_body(), buffer: BytesMut::new(), types, failure, refused };
    let first = answers.next().await;
    if first.is_none() {
        // grpc-gateway says nothing at all then.
        return Response::new(ApiBody::Empty);
    }
    let (status, is_over) = match &first {
        Some(Err(status)) => (http_status(status.code()), true),
        Some(Ok(_)) | None => (StatusCode::OK, false),
    };
    let rest = stream::unfold((answers, is_over), |(mut answers, is_over)| async move {
        if is_over {
            return None;
        }
        let answer = answers.next().await?;
        let is_over = answer.is_err();
        Some((line(answer), (answers, is_over)))
    });
    let lines = stream::iter(first.map(line)).chain(rest);
    let mut response = plain::respond(status, JSON, Bytes::new());
    *response.body_mut() = ApiBody::Lines(Box::pin(lines));
    if status == StatusCode::OK { came_over_grpc(response) } else { response }
}

fn line(answer: Result<Vec<u8>, Status>) -> Bytes {
    let mut line = BytesMut::new();
    match answer {
        Ok(message) => {
            line.extend_from_slice(br#"{"result":"#);
            line.extend_from_slice(&message);
            line.extend_from_slice(b"}\n");
        }
        Err(status) => line.extend_from_slice(format!("{}\n", json!({ "error": json::error(&status) })).as_bytes()),
    }
    line.freeze()
}

struct Answers {
    body: ApiBody,
    /// Received, and not yet told.
    buffer: BytesMut,
    types: Types,
    failure: Failure,
    /// The call was refused before its first message.
    refused: Option<Status>,
}

impl Answers {
    /// The next one as JSON; none after a good end.
    async fn next(&mut self) -> Option<Result<Vec<u8>, Status>> {
        if let Some(status) = self.refused.take() {
            return Some(Err(status));
        }
        loop {
            if let Some(message) = self.take_message() {
                return Some(self.types.show(message));
            }
            let Ok(frame) = self.body.frame().await?;
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let ended = Status::from_header_map(&trailers).filter(|status| status.code() != Code::Ok)?;
                    return Some(Err(self.failure.get().cloned().unwrap_or(ended)));
                }
            }
        }
    }

    fn take_message(&mut self) -> Option<Bytes> {
        let total = grpc::framed_bytes(&self.buffer).filter(|total| *total <= self.buffer.len())?;
        let mut message = self.buffer.split_to(total);
        message.advance(grpc::PREFIX_BYTES);
        Some(message.freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::FutureExt as _;
    use prost::Message as _;
    use quorate_proto::etcdserverpb::LeaseKeepAliveRequest;

    use super::*;
    use crate::method::Method;

    /// The ids that are asked for in `text`, however it is cut, and how it ends.
    fn ids(text: &str, piece_bytes: usize) -> (Vec<i64>, Option<Code>) {
        let pieces: Vec<_> = text.as_bytes().chunks(piece_bytes).map(Bytes::copy_from_slice).collect();
        let body =
            StreamBody::new(stream::iter(pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)))));
        let (mut frames, failure) = frames(body, Types::of(Method::LeaseKeepAlive), 1000);
        let mut ids = Vec::new();
        while let Some(Ok(frame)) = frames.frame().now_or_never().expect("all is there") {
            let framed = frame.into_data().unwrap();
            ids.push(LeaseKeepAliveRequest::decode(&framed[grpc::PREFIX_BYTES..]).unwrap().id);
        }
        (ids, failure.get().map(Status::code))
    }

    #[test]
    fn objects_are_found_however_they_come() {
        let text = "\n{\"ID\":\"1\"} {\"ID\":2,\"x\":\"}\\\"{\"}{\"ID\":3,\"y\":[{},{}]}\n ";
        for piece_bytes in 1..=text.len() {
            assert_eq!(ids(text, piece_bytes), (vec![1, 2, 3], None), "{piece_bytes}");
        }
        assert_eq!(ids("", 1), (vec![], None));
    }

    #[test]
    fn what_is_no_object_ends_the_call() {
        for text in ["{\"ID\":1}x", "{\"ID\":1}{\"ID\":", "{\"ID\":1}7", "{\"ID\":1}]"] {
            for piece_bytes in 1..=text.len() {
                assert_eq!(ids(text, piece_bytes), (vec![1], Some(Code::InvalidArgument)), "{text} {piece_bytes}");
            }
        }
        let long = format!("{{\"x\":\"{}\"}}", "y".repeat(2000));
        assert_eq!(ids(&long, 10), (vec![], Some(Code::ResourceExhausted)));
    }
}

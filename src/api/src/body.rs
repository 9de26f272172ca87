//! What an answer's body can be.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use crate::grpc::PREFIX_BYTES;
use crate::metrics::Running;

/// Encoded messages of a streaming call; an error ends the call.
pub type Messages = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

/// Lines of a plain HTTP answer.
pub type Lines = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// A part of a streaming call's answers: one message with its gRPC prefix, several, or a piece of a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What goes out.
    pub data: Bytes,
    /// How many messages begin in it.
    pub messages: u64,
}

impl Chunk {
    /// One whole message, with its prefix.
    pub fn message(data: Bytes) -> Self {
        Self { data, messages: 1 }
    }
}

/// The body of an answer.
#[derive(Default)]
pub enum ApiBody {
    /// Nothing, or nothing more.
    #[default]
    Empty,
    /// All of a plain HTTP answer.
    Plain(Bytes),
    /// The one message of a unary call, with its prefix; then the trailer that says it went well.
    Message(Bytes),
    /// That trailer is still to come.
    WentWell,
    /// Messages as they become ready; then a trailer with the outcome.
    Stream(StreamBody),
    /// A plain HTTP answer that comes in lines.
    Lines(Lines),
}

/// The answers of a streaming call, and its entry in the metrics.
pub struct StreamBody {
    messages: Messages,
    running: Running,
}

impl ApiBody {
    /// The answers of a streaming call, counted by `running`.
    pub fn stream(messages: Messages, running: Running) -> Self {
        Self::Stream(StreamBody { messages, running })
    }
}

impl StreamBody {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, HeaderMap>> {
        Poll::Ready(match ready!(self.messages.as_mut().poll_next(context)) {
            Some(Ok(Chunk { data, messages })) => {
                let prefixes = usize::try_from(messages).unwrap_or(usize::MAX).saturating_mul(PREFIX_BYTES);
                self.running.sent_many(messages, data.len().saturating_sub(prefixes));
                Ok(data)
            }
            Some(Err(status)) => {
                self.running.finish(status.code());
                Err(trailers_of(&status))
            }
            None => {
                self.running.finish(Code::Ok);
                Err(went_well())
            }
        })
    }
}

impl Body for ApiBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let (frame, next) = match std::mem::take(this) {
            ApiBody::Empty => return Poll::Ready(None),
            ApiBody::Plain(text) => (Frame::data(text), ApiBody::Empty),
            ApiBody::Message(message) => (Frame::data(message), ApiBody::WentWell),
            ApiBody::WentWell => (Frame::trailers(went_well()), ApiBody::Empty),
            ApiBody::Stream(mut stream) => match stream.poll_next(context) {
                Poll::Ready(Ok(message)) => (Frame::data(message), ApiBody::Stream(stream)),
                Poll::Ready(Err(trailers)) => (Frame::trailers(trailers), ApiBody::Empty),
                Poll::Pending => {
                    *this = ApiBody::Stream(stream);
                    return Poll::Pending;
                }
            },
            ApiBody::Lines(mut lines) => match lines.as_mut().poll_next(context) {
                Poll::Ready(Some(line)) => (Frame::data(line), ApiBody::Lines(lines)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    *this = ApiBody::Lines(lines);
                    return Poll::Pending;
                }
            },
        };
        *this = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ApiBody::Empty => true,
            ApiBody::Plain(text) => text.is_empty(),
            ApiBody::Message(_) | ApiBody::WentWell | ApiBody::Stream(_) | ApiBody::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // hyper makes a content-length of an exact size.
            ApiBody::Plain(text) => SizeHint::with_exact(text.len() as u64),
            ApiBody::Empty => SizeHint::with_exact(0),
            ApiBody::Message(_) | ApiBody::WentWell | ApiBody::Stream(_) | ApiBody::Lines(_) => SizeHint::default(),
        }
    }
}

fn went_well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

fn trailers_of(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        // Only metadata can be impossible as a header, and ours has none; the code alone always fits.
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}

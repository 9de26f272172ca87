//! A stream of watches on one connection.
//!
//! What is asked goes out at once and what the server answers comes in order; which answer belongs to which request is the
//! caller's to know (`created` answers come in the order of the requests). Nothing is asked again when the connection breaks:
//! whoever watches knows the last revision that it was told, and opens another stream from the next one.

use futures_util::stream;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use quorate_runtime::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use crate::Connection;

/// One revision may be large, and is one answer unless fragments are asked for.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// The stream. Dropping it ends its watches.
#[derive(Debug)]
pub struct WatchStream {
    requests: mpsc::UnboundedSender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl WatchStream {
    /// Opens a stream. With `require_leader` the server ends it when it has no leader for some time.
    ///
    /// # Errors
    /// What the server said, or `Unavailable` if the connection is broken.
    pub async fn open(connection: &Connection, require_leader: bool) -> Result<Self, Status> {
        let (requests, asked) = mpsc::unbounded_channel();
        let asked = stream::unfold(asked, |mut asked| async { asked.recv().await.map(|request| (request, asked)) });
        let mut request = Request::new(asked);
        if require_leader {
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        let mut client = WatchClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let answers = client.watch(request).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Asks for a watch.
    pub fn create(&self, request: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(request));
    }

    /// Ends a watch.
    pub fn cancel(&self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    /// Asks how far all watches are.
    pub fn request_progress(&self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    fn ask(&self, request: RequestUnion) {
        // Fails only when the stream has ended, which the next answer tells.
        let _ = self.requests.send(WatchRequest { request_union: Some(request) });
    }

    /// The next answer; `None` at the end of the stream.
    ///
    /// # Errors
    /// Why the stream ended.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        self.answers.message().await
    }
}

//! A keep-alive stream on one connection: each message renews a lease, and is answered in order.

use futures_util::stream;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use quorate_runtime::sync::mpsc;
use tonic::{Status, Streaming};

use crate::Connection;

/// The stream. Its end ends no lease.
#[derive(Debug)]
pub struct KeepAliveStream {
    requests: mpsc::UnboundedSender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAliveStream {
    /// Opens a stream.
    ///
    /// # Errors
    /// What the server said, or `Unavailable` if the connection is broken.
    pub async fn open(connection: &Connection) -> Result<Self, Status> {
        let (requests, asked) = mpsc::unbounded_channel();
        let asked = stream::unfold(asked, |mut asked| async { asked.recv().await.map(|request| (request, asked)) });
        let mut client = LeaseClient::with_origin(connection.clone(), connection.origin());
        let answers = client.lease_keep_alive(asked).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Asks for a lease to be renewed.
    pub fn renew(&self, id: i64) {
        // Fails only when the stream has ended, which the next answer tells.
        let _ = self.requests.send(LeaseKeepAliveRequest { id });
    }

    /// The next answer: a TTL of 0 says that there is no such lease. `None` at the end of the stream.
    ///
    /// # Errors
    /// Why the stream ended.
    pub async fn next(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Status> {
        self.answers.message().await
    }
}

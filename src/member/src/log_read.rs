//! Entries that a follower needs and that only the log's files have: read in the background, one chunk at a time.

use std::path::Path;
use std::sync::Arc;

use quorate_proto::raftpb;
use quorate_raft::log::Wanted;
use quorate_raft::node::Node;
use quorate_raft::wal::{EntryReader, WalError};
use quorate_runtime::spawn::{self, Worker};
use quorate_runtime::{BoxFuture, Rt};

/// Bytes of entries in a chunk: several messages.
const CHUNK_BYTES: usize = 2 << 20;

/// A chunk that was read, or could not be.
pub struct Read {
    reader: EntryReader,
    wanted: Wanted,
    result: Result<Vec<raftpb::Entry>, WalError>,
}

/// The reader: here, or away reading.
pub struct LogRead {
    worker: Arc<dyn Worker>,
    idle: Option<EntryReader>,
    reading: Option<BoxFuture<'static, Result<Read, spawn::WorkerGone>>>,
}

impl LogRead {
    /// Reads the log in `dir`.
    pub fn new(rt: &Rt, dir: &Path) -> Self {
        Self { worker: rt.background_worker("log-read"), idle: Some(EntryReader::new(rt.clone(), dir)), reading: None }
    }

    /// Begins to read what the node wants, if it wants something and nothing is being read.
    pub fn start(&mut self, node: &mut Node) {
        if self.idle.is_none() {
            return;
        }
        let Some(wanted) = node.next_wanted() else { return };
        let mut reader = self.idle.take().expect("looked");
        let worker = Arc::clone(&self.worker);
        self.reading = Some(Box::pin(async move {
            spawn::run_on(&*worker, move || {
                let result = reader.read(&wanted, CHUNK_BYTES);
                Read { reader, wanted, result }
            })
            .await
        }));
    }

    /// Waits for the chunk that is being read; for ever if there is none.
    pub async fn done(&mut self) -> Read {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        match read {
            Ok(read) => read,
            // The process ends.
            Err(spawn::WorkerGone) => std::future::pending().await,
        }
    }

    /// Gives the node what was read.
    pub fn finish(&mut self, read: Read, node: &mut Node) {
        let Read { reader, wanted, result } = read;
        self.idle = Some(reader);
        let is_wanted = wanted.low > node.oldest();
        let entries = result
            .inspect_err(|error| {
                if !is_wanted {
                    // The log has let go of it meanwhile.
                    return;
                }
                tracing::error!(
                    first_index = wanted.low.0,
                    error = %error,
                    "old entries cannot be read back from the log; followers that need them get a snapshot"
                );
            })
            .ok();
        if let Err(error) = node.on_read(&wanted, entries) {
            tracing::error!(error = %error, "an entry of the log is not one; followers that need it get a snapshot");
        }
    }
}

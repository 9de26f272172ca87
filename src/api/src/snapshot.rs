//! Maintenance.Snapshot: the state as etcd's database file, in messages of 32 KiB, and at the end one with its SHA-256.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/maintenance.go`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use quorate_member::{SavedSnapshot, SnapshotPiece};
use quorate_proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use quorate_runtime::clock::MonoTime;
use tonic::Status;

use crate::body::{Chunk, Messages};
use crate::grpc;
use crate::plain::storage_version;
use crate::service::Api;

/// Bytes of the file in one message, as from etcd.
const BLOB_BYTES: usize = 32 << 10;

/// What is still to be sent.
enum Sending {
    Nothing,
    /// It is not read yet.
    All(Arc<Api>),
    Part(Box<Part>),
}

struct Part {
    api: Arc<Api>,
    saved: SavedSnapshot,
    version: String,
    /// Of the piece that was read last.
    data: Bytes,
    remaining_bytes: u64,
    begun_at: MonoTime,
}

impl Api {
    /// Maintenance.Snapshot. Also a learner answers it.
    pub fn snapshot(self: Arc<Self>, _: SnapshotRequest) -> Result<Messages, Status> {
        Ok(Box::pin(stream::try_unfold(Sending::All(self), |sending| async move {
            let part = match sending {
                Sending::Nothing => return Ok(None),
                Sending::All(api) => Part::begin(api).await?,
                Sending::Part(part) => *part,
            };
            let (response, rest) = part.next().await?;
            Ok(Some((Chunk::message(grpc::encode(&response)?), rest)))
        })))
    }
}

impl Part {
    async fn begin(api: Arc<Api>) -> Result<Self, Status> {
        let begun_at = api.rt.mono_now();
        let saved = api.member.save().await.map_err(|failure| api.read_failed(failure))?;
        let version = storage_version(saved.cluster_version.as_deref()).unwrap_or_default().to_owned();
        let remaining_bytes = saved.len_bytes;
        tracing::info!(total_bytes = remaining_bytes, storage_version = version, "sending database snapshot to client");
        Ok(Self { api, saved, version, data: Bytes::new(), remaining_bytes, begun_at })
    }

    async fn next(mut self) -> Result<(SnapshotResponse, Sending), Status> {
        if self.data.is_empty() {
            match self.saved.next().await {
                Some(Ok(SnapshotPiece::Data(data))) => self.data = data,
                Some(Ok(SnapshotPiece::Digest(digest))) => return Ok((self.end(digest), Sending::Nothing)),
                Some(Err(failure)) => return Err(self.api.read_failed(failure)),
                None => {
                    return Err(Status::deadline_exceeded(
                        "the snapshot was given up: too little of it was taken too long",
                    ));
                }
            }
        }
        let blob = self.data.split_to(self.data.len().min(BLOB_BYTES));
        self.remaining_bytes -= blob.len() as u64;
        let response = SnapshotResponse {
            remaining_bytes: self.remaining_bytes,
            blob,
            version: self.version.clone(),
            header: None,
        };
        Ok((response, Sending::Part(Box::new(self))))
    }

    fn end(self, digest: Bytes) -> SnapshotResponse {
        assert_eq!(self.remaining_bytes, 0, "the file is as long as it was said to be");
        let took_ms = (self.api.rt.mono_now() - self.begun_at).as_millis();
        tracing::info!(
            total_bytes = self.saved.len_bytes,
            took_ms,
            storage_version = self.version,
            "successfully sent database snapshot to client"
        );
        SnapshotResponse { remaining_bytes: 0, blob: digest, version: self.version, header: None }
    }
}

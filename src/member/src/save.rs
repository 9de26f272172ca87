//! A snapshot for an operator: the whole state as etcd's database file, piece by piece, and its SHA-256 at the end.
//!
//! It is made of one view. A task of its own reads a piece from the disk when the last but one was taken, so that a slow client
//! costs no memory. A client that takes nothing for [`STALL_LIMIT`] gets no more: the view keeps old pages of the database.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_runtime::spawn::{self, Worker, WorkerGone};
use quorate_runtime::sync::mpsc;
use quorate_runtime::{Rt, clock, select};
use quorate_store::{ReadError, SnapshotExport};
use quorate_types::Error;
use sha2::{Digest as _, Sha256};

use crate::Member;

/// Longest time in which the client takes no piece.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// Pieces that are read before they are wanted.
const PIECES_AHEAD: usize = 2;

/// A snapshot on its way out.
pub struct SavedSnapshot {
    /// Length of the file.
    pub len_bytes: u64,
    /// The version that the cluster speaks, once that is known.
    pub cluster_version: Option<String>,
    pieces: mpsc::Receiver<Result<Piece, ReadError>>,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes of the file.
    Data(Bytes),
    /// The SHA-256 of the whole file. Nothing comes after it.
    Digest(Bytes),
}

impl SavedSnapshot {
    /// The next piece; `None` after the last, or if the client took too long.
    pub async fn next(&mut self) -> Option<Result<Piece, ReadError>> {
        self.pieces.recv().await
    }
}

impl Member {
    /// The state after the newest entry that is applied here, as a snapshot. Reads every row once before it returns.
    ///
    /// # Errors
    /// `Stopped`, or what the disk says.
    pub async fn save(&self) -> Result<SavedSnapshot, ReadError> {
        let rt = self.runtime().clone();
        let timer = self.metrics().database.snapshot_begins(&rt);
        let view = self.view();
        let worker = rt.background_worker("save");
        let cluster_version = view.cluster_version().map(str::to_owned);
        let made = spawn::run_on(&*worker, move || {
            let source = view.snapshot_source();
            // Who writes would have to copy whatever it changes in the index that the view holds.
            drop(view);
            Ok(source.export()?)
        })
        .await;
        // The worker goes only when the process does.
        let export = made.unwrap_or_else(|WorkerGone| Err(ReadError::from(Error::Stopped)))?;
        let len_bytes = export.len_bytes();
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let member = self.clone();
        self.runtime().spawn(Box::pin(async move {
            select! {
                biased;
                () = member.stopping() => drop(sender.try_send(Err(Error::Stopped.into()))),
                () = send(&rt, &worker, export, &sender) => {}
            }
            drop(timer);
        }));
        Ok(SavedSnapshot { len_bytes, cluster_version, pieces })
    }
}

async fn send(
    rt: &Rt,
    worker: &Arc<dyn Worker>,
    export: SnapshotExport,
    pieces: &mpsc::Sender<Result<Piece, ReadError>>,
) {
    let mut reading = Some((export, Sha256::new()));
    while let Some((mut export, mut digest)) = reading.take() {
        let read = spawn::run_on(&**worker, move || {
            let chunk = export.next_chunk()?;
            if let Some(chunk) = &chunk {
                digest.update(chunk);
            }
            Ok::<_, ReadError>((export, digest, chunk))
        });
        let Ok(read) = read.await else { return };
        let piece = match read {
            Ok((export, digest, Some(chunk))) => {
                reading = Some((export, digest));
                Ok(Piece::Data(chunk))
            }
            Ok((_, digest, None)) => Ok(Piece::Digest(Bytes::copy_from_slice(&digest.finalize()))),
            Err(error) => Err(error),
        };
        match clock::timeout(&**rt, STALL_LIMIT, pieces.send(piece)).await {
            Ok(Ok(())) => {}
            // The client went away.
            Ok(Err(_gone)) => return,
            Err(clock::Elapsed) => {
                tracing::warn!(
                    limit_secs = STALL_LIMIT.as_secs(),
                    "a client takes nothing more of its snapshot; given up"
                );
                return;
            }
        }
    }
}

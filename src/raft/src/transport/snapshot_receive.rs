//! Receiving a database: a POST whose body is the raft message, and then the file.
//!
//! The file goes to `<snapshot dir>/<index, 16 hex digits>.snap.db`, by way of a temporary name beside it. Only a body that
//! came to its proper end (the final chunk of HTTP is the only mark of it) gets the real name: synced, renamed, the directory
//! synced. Then the member is given message and file. Whatever else happens, the temporary file is removed; what a crash
//! leaves behind is for [`remove_unfinished`] at the next start. A file of that index that is there already is whole, and is
//! kept: the new bytes are read and dropped.
//!
//! All disk work is done on a worker thread, in chunks; one chunk of each transfer is in memory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt as _;
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_runtime::Rt;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::disk::{Disk, File, OpenMode};
use quorate_runtime::spawn::run_on;
use quorate_types::{LogIndex, MemberId};

use super::codec::{Arrived, CodecError, Limits, decode_message};
use super::patience::Patience;
use super::{Core, ReceivedSnapshot, SavedIn, SnapshotWay};

/// The message part of an upload (etcd `server/etcdserver/api/rafthttp/http.go`).
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes that go to disk at once.
const CHUNK_BYTES: usize = 1 << 20;
/// After so many bytes the file is synced.
const SYNC_BYTES: u64 = 4 << 20;
/// Transfers at once; Raft needs one.
const TRANSFERS_MAX: usize = 4;

const SUFFIX: &str = ".snap.db";
const TEMPORARY_SUFFIX: &str = ".snap.db.tmp";

/// Where the received database of the snapshot at `index` lies.
pub fn snapshot_path(dir: &Path, index: LogIndex) -> PathBuf {
    dir.join(format!("{:016x}{SUFFIX}", index.0))
}

/// Removes what transfers that were cut by a crash left in `dir`; returns how many files. To be called at start, before
/// anything is served. A missing directory is fine.
pub fn remove_unfinished(disk: &(impl Disk + ?Sized), dir: &Path) -> io::Result<usize> {
    let names = match disk.list_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        names => names?,
    };
    let mut removed = 0;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
        disk.remove_file(&dir.join(name))?;
        removed += 1;
    }
    Ok(removed)
}

/// A transfer was not taken: what to answer.
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// One line.
    pub text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: String) -> Self {
        Self { status, text }
    }

    fn decode(reason: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("failed to decode raft message ({reason})"))
    }

    fn save(reason: impl fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to save KV snapshot ({reason})"))
    }

    fn process(reason: impl fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to process raft message ({reason})"))
    }
}

/// Receives one snapshot and hands it to the member.
pub async fn receive<B>(core: &Arc<Core>, body: B) -> Result<(), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let _place = Place::take(core).ok_or_else(|| Refusal::save("too many snapshots are being received"))?;
    let mut input =
        Input { body, arrived: Arrived::default(), patience: Patience::new(core.rt.clone(), core.read_limit()) };
    let message = input.message().await?;
    if message.r#type() != raftpb::MessageType::MsgSnap {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "wrong raft message type".to_owned()));
    }
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let index = metadata.map(raftpb::SnapshotMetadata::index).ok_or_else(|| Refusal::decode("it has no snapshot"))?;
    core.check_addressed(&message).map_err(Refusal::process)?;

    let from = message.from();
    let message_bytes = message.encoded_len();
    tracing::info!(from = format!("{from:x}"), index, message_bytes, "receiving a database snapshot");
    let arriving = Arriving::begin(core, MemberId(from));
    let (file, size_bytes, saved) = match save(core, LogIndex(index), &mut input).await {
        Ok(saved) => saved,
        Err(error) => {
            tracing::warn!(from = format!("{from:x}"), index, %error, "failed to receive a database snapshot");
            return Err(Refusal::save(error));
        }
    };
    let took_ms = core.rt.mono_now().since(arriving.begun_at).as_millis();
    tracing::info!(from = format!("{from:x}"), index, size_bytes, took_ms, "received a database snapshot");
    core.inbox
        .deliver_snapshot(ReceivedSnapshot { message, file, size_bytes, saved })
        .await
        .map_err(Refusal::process)?;
    arriving.arrived();
    Ok(())
}

/// Tells of a transfer once it has ended, also if its task is dropped.
struct Arriving<'a> {
    core: &'a Core,
    from: MemberId,
    begun_at: MonoTime,
    has_arrived: bool,
}

impl<'a> Arriving<'a> {
    fn begin(core: &'a Core, from: MemberId) -> Self {
        core.inbox.transfer_begins(SnapshotWay::Received, from);
        Self { core, from, begun_at: core.rt.mono_now(), has_arrived: false }
    }

    fn arrived(mut self) {
        self.has_arrived = true;
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let took = self.core.rt.mono_now() - self.begun_at;
        self.core.inbox.transfer_ends(SnapshotWay::Received, self.from, self.has_arrived, took);
    }
}

/// One of the few transfers that may run.
struct Place<'a>(&'a Core);

impl<'a> Place<'a> {
    fn take(core: &'a Core) -> Option<Self> {
        let taken = core.transfers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |transfers| {
            (transfers < TRANSFERS_MAX).then_some(transfers + 1)
        });
        taken.is_ok().then(|| Self(core))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.transfers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body that is being read.
struct Input<B> {
    body: B,
    arrived: Arrived,
    patience: Patience,
}

impl<B> Input<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// Reads on; false at the proper end of the body.
    async fn more(&mut self) -> io::Result<bool> {
        match self.patience.wait(self.body.frame()).await {
            Err(_) => {
                let text = format!("nothing came for {:?}", self.patience.limit());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
            Ok(None) => Ok(false),
            Ok(Some(Err(error))) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string())),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.arrived.push(data);
                }
                Ok(true)
            }
        }
    }

    async fn message(&mut self) -> Result<raftpb::Message, Refusal> {
        let size = loop {
            if let Some(size) = self.arrived.take_u64() {
                break size;
            }
            self.must_have_more().await?;
        };
        let size_bytes = usize::try_from(size).ok().filter(|size| *size <= MESSAGE_BYTES_MAX).ok_or_else(|| {
            Refusal::decode(CodecError::FrameTooLarge { size_bytes: size, limit_bytes: MESSAGE_BYTES_MAX })
        })?;
        let encoded = loop {
            if let Some(encoded) = self.arrived.take(size_bytes) {
                break encoded;
            }
            self.must_have_more().await?;
        };
        decode_message(encoded, &Limits::default()).map_err(Refusal::decode)
    }

    async fn must_have_more(&mut self) -> Result<(), Refusal> {
        match self.more().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::decode(CodecError::Cut)),
            Err(error) => Err(Refusal::decode(error)),
        }
    }

    /// The next chunk of the file; `None` at the end.
    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        while self.arrived.len_bytes() < CHUNK_BYTES {
            if !self.more().await? {
                break;
            }
        }
        let mut chunk = BytesMut::with_capacity(self.arrived.len_bytes());
        while let Some(piece) = self.arrived.take_piece() {
            chunk.extend_from_slice(&piece);
        }
        Ok((!chunk.is_empty()).then(|| chunk.freeze()))
    }
}

/// Writes the rest of the body to the file of snapshot `index`; the path, the length in bytes, and what it took.
async fn save<B>(core: &Arc<Core>, index: LogIndex, input: &mut Input<B>) -> io::Result<(PathBuf, u64, Option<SavedIn>)>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let begun_at = core.rt.mono_now();
    let dir = core.config.snapshot_dir.clone();
    let path = snapshot_path(&dir, index);
    let number = core.received_count.fetch_add(1, Ordering::Relaxed);
    let temporary = dir.join(format!("{:016x}-{number}{TEMPORARY_SUFFIX}", index.0));
    let (found, opened) = {
        let (rt, path, temporary) = (core.rt.clone(), path.clone(), temporary.clone());
        on_worker(core, move || {
            rt.create_dir_all(&dir)?;
            match rt.open(&path, OpenMode::ReadOnly) {
                Ok(found) => return Ok((Some(found.len_bytes()?), None)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let file = rt.open(&temporary, OpenMode::OpenOrCreate)?;
            // A crash may have left one of that name.
            file.set_len(0)?;
            Ok((None, Some(Arc::<dyn File>::from(file))))
        })
        .await?
    };
    let Some(file) = opened else {
        let size_bytes = found.unwrap_or(0);
        tracing::info!(
            index = index.0,
            size_bytes,
            "this database snapshot is there already; the new bytes are dropped"
        );
        while input.chunk().await?.is_some() {}
        return Ok((path, size_bytes, None));
    };

    // From here on the temporary file goes unless it gets its name.
    let unfinished = Unfinished { core: core.clone(), path: Some(temporary.clone()) };
    let mut size_bytes = 0;
    while let Some(chunk) = input.chunk().await? {
        let (file, offset) = (file.clone(), size_bytes);
        size_bytes += chunk.len() as u64;
        // One sync at the end would keep the disk from everybody else for as long as the whole file takes.
        let syncs = size_bytes / SYNC_BYTES > offset / SYNC_BYTES;
        on_worker(core, move || {
            file.write_all_at(&chunk, offset)?;
            if syncs { file.sync_data() } else { Ok(()) }
        })
        .await?;
    }
    let (rt, target) = (core.rt.clone(), path.clone());
    let sync = on_worker(core, move || finish(&rt, &*file, &temporary, &target)).await?;
    unfinished.keep();
    Ok((path, size_bytes, Some(SavedIn { total: core.rt.mono_now() - begun_at, sync })))
}

/// Makes it durable under its name; how long the sync of it took.
fn finish(rt: &Rt, file: &dyn File, temporary: &Path, path: &Path) -> io::Result<Duration> {
    let begun_at = rt.mono_now();
    file.sync_all()?;
    let sync = rt.mono_now() - begun_at;
    rt.rename(temporary, path)?;
    rt.sync_dir(&quorate_runtime::disk::parent_dir(path)).inspect_err(|_| {
        // The next transfer would take a file of that name for durable. If it cannot be removed either, the error says enough.
        let _ = rt.remove_file(path);
    })?;
    Ok(sync)
}

async fn on_worker<T: Send + 'static>(
    core: &Core,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let gone = || io::Error::other("the member is going down");
    run_on(&**core.worker(), job).await.unwrap_or_else(|_| Err(gone()))
}

/// A temporary file; removed when dropped, which is also what happens when the connection breaks.
struct Unfinished {
    core: Arc<Core>,
    path: Option<PathBuf>,
}

impl Unfinished {
    fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let rt = self.core.rt.clone();
        self.core.worker().submit(Box::new(move || {
            // After a rename whose directory could not be synced it is not there any more.
            if let Err(error) = rt.remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "an unfinished snapshot could not be removed");
            }
            Box::new(|| {})
        }));
    }
}

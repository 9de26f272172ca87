//! floor's log: one thread, one write and one `fdatasync` for all that has arrived.
//!
//! 1. A put's task queues its record and waits.
//! 2. The batcher, one task, takes all that is queued, and gives it to the log thread as one buffer.
//! 3. The log thread writes the buffer behind the last one and syncs. Meanwhile the next batch gathers.
//! 4. The batcher tells the gate of each reactor which of its tasks may answer: one message a reactor and batch, because
//!    waking a task on another reactor costs a system call, on the same one next to nothing.
//!
//! The file is filled with zeros before the first batch, so that a sync writes no metadata, and is used as a ring: nobody
//! ever reads it.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use quorate_proto::etcdserverpb::PutRequest;
use quorate_runtime::disk::{File, OpenMode};
use quorate_runtime::spawn::{Worker, run_on};
use quorate_runtime::sync::{mpsc, oneshot};
use quorate_runtime::{Rt, disk};

/// Length of the file; as a segment of the real log.
const LOG_BYTES: u64 = 64_000_000;

/// Puts in one batch.
const BATCH_PUTS_MAX: usize = 4096;

/// The log is gone: a write or a sync failed, or the server is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("floor's log has ended; its first error is on stderr")]
pub struct LogEnded;

/// A handle on the log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    rt: Rt,
    queue: mpsc::UnboundedSender<Record>,
}

struct Record {
    puts: Vec<PutRequest>,
    gate: Gate,
    durable: oneshot::Sender<()>,
}

/// Wakes tasks of one reactor.
type Gate = mpsc::UnboundedSender<Vec<oneshot::Sender<()>>>;

thread_local! {
    /// This reactor's gate, opened by the first put on it.
    static GATE: RefCell<Option<Gate>> = const { RefCell::new(None) };
}

impl Log {
    /// Creates the log in `dir` and starts its batcher on this reactor. Blocks until the file is filled.
    pub fn start(rt: &Rt, dir: &Path) -> io::Result<Log> {
        rt.create_dir_all(dir)?;
        let path = dir.join("floor.log");
        let file = rt.open(&path, OpenMode::OpenOrCreate)?;
        let zeros = vec![0; 1_000_000];
        for offset in (0..LOG_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        rt.sync_dir(&disk::parent_dir(&path))?;
        let (queue, records) = mpsc::unbounded_channel();
        let worker = rt.worker("floor-log");
        rt.spawn(Box::pin(batch_records(records, Ring { file: file.into(), end: 0 }, worker)));
        Ok(Log { rt: rt.clone(), queue })
    }

    /// Returns once `puts` are on disk.
    pub async fn append(&self, puts: Vec<PutRequest>) -> Result<(), LogEnded> {
        let (durable, waiting) = oneshot::channel();
        self.queue.send(Record { puts, gate: self.gate(), durable }).map_err(|_| LogEnded)?;
        waiting.await.map_err(|_| LogEnded)
    }

    fn gate(&self) -> Gate {
        GATE.with_borrow_mut(|gate| gate.get_or_insert_with(|| self.open_gate()).clone())
    }

    fn open_gate(&self) -> Gate {
        let (gate, mut durable) = mpsc::unbounded_channel::<Vec<oneshot::Sender<()>>>();
        self.rt.spawn(Box::pin(async move {
            while let Some(batch) = durable.recv().await {
                for waiting in batch {
                    // A client that went away does not want its answer.
                    let _ = waiting.send(());
                }
            }
        }));
        gate
    }
}

async fn batch_records(mut records: mpsc::UnboundedReceiver<Record>, mut ring: Ring, worker: Arc<dyn Worker>) {
    let mut batch = Vec::new();
    let mut buffer = Vec::new();
    let mut gates: Vec<(Gate, Vec<oneshot::Sender<()>>)> = Vec::new();
    while records.recv_many(&mut batch, BATCH_PUTS_MAX).await > 0 {
        for Record { puts, gate, durable } in batch.drain(..) {
            for put in &puts {
                encode(put, &mut buffer);
            }
            match gates.iter_mut().find(|(known, _)| known.same_channel(&gate)) {
                Some((_, waiting)) => waiting.push(durable),
                None => gates.push((gate, vec![durable])),
            }
        }
        let job = move || {
            let written = ring.append(&buffer);
            buffer.clear();
            (ring, buffer, written)
        };
        let Ok((ring_back, buffer_back, written)) = run_on(&*worker, job).await else { return };
        (ring, buffer) = (ring_back, buffer_back);
        if let Err(error) = written {
            eprintln!("floor: the log cannot be written: {error}");
            return;
        }
        for (gate, waiting) in &mut gates {
            // Fails only when the reactor is gone, and its tasks with it.
            let _ = gate.send(std::mem::take(waiting));
        }
    }
}

/// A record: length, checksum, the request.
fn encode(put: &PutRequest, buffer: &mut Vec<u8>) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 8]);
    put.encode_raw(buffer);
    let (head, body) = buffer[start..].split_at_mut(8);
    let len = u32::try_from(body.len()).expect("requests are far smaller than 4 GiB");
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
}

/// The file, and where the last record ends.
struct Ring {
    file: Arc<dyn File>,
    end: u64,
}

impl Ring {
    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let len = u64::try_from(records.len()).expect("a length in memory fits");
        assert!(len <= LOG_BYTES, "a batch of {len} bytes does not fit into the log");
        if self.end + len > LOG_BYTES {
            self.end = 0;
        }
        self.file.write_all_at(records, self.end)?;
        self.file.sync_data()?;
        self.end += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_runtime_tokio::TokioRuntime;

    use super::*;

    #[test]
    fn what_was_answered_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        TokioRuntime::run(1, |rt| async move {
            let log = Log::start(&rt, dir.path()).unwrap();
            for key in ["first", "second"] {
                let put = PutRequest { key: key.into(), value: Bytes::from_static(b"value"), ..Default::default() };
                log.append(vec![put]).await.unwrap();
            }
            let contents = disk::read_file(&*rt, &dir.path().join("floor.log")).unwrap();
            assert_eq!(contents.len() as u64, LOG_BYTES);
            let mut rest = &contents[..];
            for key in ["first", "second"] {
                let len = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
                let body = &rest[8..8 + len];
                assert_eq!(u32::from_le_bytes(rest[4..8].try_into().unwrap()), crc32c::crc32c(body));
                assert_eq!(PutRequest::decode(body).unwrap().key, key);
                rest = &rest[8 + len..];
            }
            assert!(rest.iter().all(|byte| *byte == 0));
        });
    }

    #[test]
    fn a_full_file_starts_again() {
        let dir = tempfile::tempdir().unwrap();
        TokioRuntime::run(1, |rt| async move {
            let file = rt.open(&dir.path().join("ring"), OpenMode::CreateNew).unwrap();
            let mut ring = Ring { file: file.into(), end: LOG_BYTES - 10 };
            ring.append(&[1; 10]).unwrap();
            assert_eq!(ring.end, LOG_BYTES);
            ring.append(&[2; 20]).unwrap();
            assert_eq!(ring.end, 20);
            assert_eq!(ring.file.len_bytes().unwrap(), LOG_BYTES);
        });
    }
}

//! The stream `msgapp` (etcd's version 2): appends, without what both ends can count.
//!
//! All numbers are u64, big-endian; the first byte of a frame says which:
//!
//! - `00`: link heartbeat; nothing follows.
//! - `01` entries: their count; for each its size and its bytes; then the commit index. The message around them is left out:
//!   its sender and receiver are the stream's two ends, and its terms and index are where the frames before have led.
//! - `02` full: size, message.
//!
//! The state is a term and an index, (0, 0) on a fresh connection. A full frame sets both: to the message's term, and to its
//! last entry's index (its own index, if it has none). An `01` adds its entries to the index. So a leader that streams on
//! sends `01`, also for a commit index alone; what begins anew (a term, a probe, a resend) is `02`. The state belongs to the
//! connection: it follows every frame, whatever Raft thinks of the message, and nothing that travels another way.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_types::MemberId;

use super::{Arrived, CodecError, Frame, Limits, checked_size, decode_message};

const LINK_HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const FULL: u8 = 2;

/// Where the frames so far have led.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    /// After a full frame.
    fn after(message: &raftpb::Message) -> Self {
        let index = message.entries.last().map_or(message.index(), raftpb::Entry::index);
        Self { term: message.term(), index }
    }
}

/// Writes frames.
#[derive(Debug, Default)]
pub struct MsgAppEncoder {
    position: Position,
}

impl MsgAppEncoder {
    /// Appends one message.
    pub fn message(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        if self.continues(message) { self.entries(message, out) } else { self.full(message, out) }
    }

    /// Appends a link heartbeat.
    pub fn link_heartbeat(&self, out: &mut BytesMut) {
        out.put_u8(LINK_HEARTBEAT);
    }

    /// May the reader rebuild `message` from its entries and commit index alone?
    fn continues(&self, message: &raftpb::Message) -> bool {
        message.r#type() == raftpb::MessageType::MsgApp
            && message.index() == self.position.index
            && message.log_term() == self.position.term
            && message.log_term() == message.term()
            && message.context.is_none()
            && message.snapshot.is_none()
            && !message.reject()
            && message.reject_hint() == 0
            && message.vote() == 0
            && message.index().checked_add(message.entries.len() as u64).is_some()
    }

    fn entries(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        let entries_bytes: usize = message.entries.iter().map(|entry| 8 + entry.encoded_len()).sum();
        out.reserve(1 + 8 + entries_bytes + 8);
        out.put_u8(ENTRIES);
        out.put_u64(message.entries.len() as u64);
        for entry in &message.entries {
            out.put_u64(entry.encoded_len() as u64);
            entry.encode(out).expect("a buffer that grows has room");
        }
        out.put_u64(message.commit());
        self.position.index += message.entries.len() as u64;
    }

    fn full(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        let len_bytes = message.encoded_len();
        out.reserve(1 + 8 + len_bytes);
        out.put_u8(FULL);
        out.put_u64(len_bytes as u64);
        message.encode(out).expect("a buffer that grows has room");
        self.position = Position::after(message);
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct MsgAppDecoder {
    local: MemberId,
    remote: MemberId,
    limits: Limits,
    position: Position,
    arrived: Arrived,
    awaited: Awaited,
    /// Of the frame of entries that is being read: what has come of it.
    entries: Vec<raftpb::Entry>,
    entries_bytes: u64,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Type,
    FullSize,
    Full { size_bytes: usize },
    Count,
    EntrySize { missing: u64 },
    Entry { missing: u64, size_bytes: usize },
    Commit,
}

impl MsgAppDecoder {
    /// A decoder at the beginning of a stream from `remote`, who sends to `local`.
    pub fn new(local: MemberId, remote: MemberId, limits: Limits) -> Self {
        Self {
            local,
            remote,
            limits,
            position: Position::default(),
            arrived: Arrived::default(),
            awaited: Awaited::Type,
            entries: Vec::new(),
            entries_bytes: 0,
        }
    }

    /// Takes what arrived.
    pub fn push(&mut self, bytes: Bytes) {
        self.arrived.push(bytes);
    }

    /// True if no frame has begun.
    pub fn is_between_frames(&self) -> bool {
        self.awaited == Awaited::Type && self.arrived.len_bytes() == 0
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CodecError> {
        loop {
            self.awaited = match self.awaited {
                Awaited::Type => match self.arrived.take_u8() {
                    None => return Ok(None),
                    Some(LINK_HEARTBEAT) => return Ok(Some(Frame::LinkHeartbeat)),
                    Some(ENTRIES) => Awaited::Count,
                    Some(FULL) => Awaited::FullSize,
                    Some(other) => return Err(CodecError::UnknownFrame(other)),
                },
                Awaited::FullSize => {
                    let Some(size_bytes) = self.arrived.take_u64() else { return Ok(None) };
                    Awaited::Full { size_bytes: checked_size(size_bytes, &self.limits)? }
                }
                Awaited::Full { size_bytes } => {
                    let Some(encoded) = self.arrived.take(size_bytes) else { return Ok(None) };
                    self.awaited = Awaited::Type;
                    let message = decode_message(encoded, &self.limits)?;
                    self.position = Position::after(&message);
                    return Ok(Some(Frame::Message(message)));
                }
                Awaited::Count => {
                    let Some(count) = self.arrived.take_u64() else { return Ok(None) };
                    if count > self.limits.entries_max as u64 {
                        return Err(CodecError::TooManyEntries { count, limit: self.limits.entries_max });
                    }
                    self.entries_bytes = 0;
                    next_entry(count)
                }
                Awaited::EntrySize { missing } => {
                    let Some(size_bytes) = self.arrived.take_u64() else { return Ok(None) };
                    self.entries_bytes = self.entries_bytes.saturating_add(size_bytes);
                    checked_size(self.entries_bytes, &self.limits)?;
                    Awaited::Entry { missing, size_bytes: checked_size(size_bytes, &self.limits)? }
                }
                Awaited::Entry { missing, size_bytes } => {
                    let Some(encoded) = self.arrived.take(size_bytes) else { return Ok(None) };
                    let entry = raftpb::Entry::decode(encoded)
                        .map_err(|error| CodecError::Garbage(format!("an entry: {error}")))?;
                    self.entries.push(entry);
                    next_entry(missing - 1)
                }
                Awaited::Commit => {
                    let Some(commit) = self.arrived.take_u64() else { return Ok(None) };
                    self.awaited = Awaited::Type;
                    return self.rebuild(commit).map(|message| Some(Frame::Message(message)));
                }
            }
        }
    }

    fn rebuild(&mut self, commit: u64) -> Result<raftpb::Message, CodecError> {
        let before = self.position;
        let entries = std::mem::take(&mut self.entries);
        self.position.index = before.index.checked_add(entries.len() as u64).ok_or(CodecError::IndexOverflow)?;
        Ok(raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgApp as i32),
            to: Some(self.local.0),
            from: Some(self.remote.0),
            term: Some(before.term),
            log_term: Some(before.term),
            index: Some(before.index),
            entries,
            commit: Some(commit),
            ..Default::default()
        })
    }
}

/// What follows when `missing` entries have not come yet.
fn next_entry(missing: u64) -> Awaited {
    if missing == 0 { Awaited::Commit } else { Awaited::EntrySize { missing } }
}

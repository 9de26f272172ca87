//! The two frame formats that raft messages have on a stream between members.
//!
//! Both are a sequence of frames without anything in between; a frame may begin and end anywhere in what the connection
//! hands over. [`message`] can carry every message; [`msgapp`] carries appends, and leaves out what both ends can count.
//! Encoders append to a buffer; decoders are fed what arrived ([`Decoder::push`]) and asked for frames ([`Decoder::next_frame`]).
//! No decoder allocates by a number that a peer wrote: sizes and counts are refused above [`Limits`], and below them memory
//! follows what really arrived. What a decoder refuses ends the stream; there is no way to find the next frame after it.

pub mod message;
pub mod msgapp;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_types::MemberId;

use message::{MessageDecoder, MessageEncoder};
use msgapp::{MsgAppDecoder, MsgAppEncoder};

/// Which of a peer's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamKind {
    /// Carries every message.
    Message,
    /// Carries appends.
    MsgApp,
}

impl StreamKind {
    /// Its name in paths.
    pub const fn name(self) -> &'static str {
        match self {
            StreamKind::Message => "message",
            StreamKind::MsgApp => "msgapp",
        }
    }
}

/// What a decoder refuses above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame. Must exceed the largest request that any member accepts, with some hundred bytes to spare.
    pub frame_bytes_max: usize,
    /// Entries of one message. etcd fills a message with entries up to 1 MiB, and none is shorter than 4 bytes.
    pub entries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes_max: 64 << 20, entries_max: 1 << 18 }
    }
}

/// What arrived is not what a member sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A size above the limit.
    #[error("a frame of {size_bytes} bytes is above the limit of {limit_bytes}")]
    FrameTooLarge {
        /// What the frame says, as far as it was read.
        size_bytes: u64,
        /// [`Limits::frame_bytes_max`].
        limit_bytes: usize,
    },
    /// More entries than one message may have.
    #[error("a message of {count} entries is above the limit of {limit}")]
    TooManyEntries {
        /// What the frame says.
        count: u64,
        /// [`Limits::entries_max`].
        limit: usize,
    },
    /// A msgapp frame that is none of the three.
    #[error("no frame begins with byte {0:#04x}")]
    UnknownFrame(u8),
    /// The bytes of a message or an entry make no sense.
    #[error("not a raft message: {0}")]
    Garbage(String),
    /// The log index that both ends count went past the largest number.
    #[error("the entries of this stream count past the largest log index")]
    IndexOverflow,
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
}

/// One frame.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly all frames are messages, and each is taken apart at once")]
pub enum Frame {
    /// Nothing but "I am here"; Raft never sees it.
    LinkHeartbeat,
    /// A message for Raft.
    Message(raftpb::Message),
}

/// Writes frames of either kind; holds what a connection's frames so far mean for the next.
#[derive(Debug)]
pub enum Encoder {
    /// See [`message`].
    Message(MessageEncoder),
    /// See [`msgapp`].
    MsgApp(MsgAppEncoder),
}

impl Encoder {
    /// For a connection that has carried nothing yet.
    pub fn new(kind: StreamKind) -> Self {
        match kind {
            StreamKind::Message => Encoder::Message(MessageEncoder),
            StreamKind::MsgApp => Encoder::MsgApp(MsgAppEncoder::default()),
        }
    }

    /// Appends one message.
    pub fn message(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        match self {
            Encoder::Message(encoder) => encoder.message(message, out),
            Encoder::MsgApp(encoder) => encoder.message(message, out),
        }
    }

    /// Appends a link heartbeat.
    pub fn link_heartbeat(&self, out: &mut BytesMut) {
        match self {
            Encoder::Message(encoder) => encoder.link_heartbeat(out),
            Encoder::MsgApp(encoder) => encoder.link_heartbeat(out),
        }
    }
}

/// Reads frames of either kind.
#[derive(Debug)]
pub enum Decoder {
    /// See [`message`].
    Message(MessageDecoder),
    /// See [`msgapp`].
    MsgApp(MsgAppDecoder),
}

impl Decoder {
    /// For a connection that has carried nothing yet. `local` and `remote` are what [`msgapp`] leaves out.
    pub fn new(kind: StreamKind, local: MemberId, remote: MemberId, limits: Limits) -> Self {
        match kind {
            StreamKind::Message => Decoder::Message(MessageDecoder::new(limits)),
            StreamKind::MsgApp => Decoder::MsgApp(MsgAppDecoder::new(local, remote, limits)),
        }
    }

    /// Takes what arrived.
    pub fn push(&mut self, bytes: Bytes) {
        match self {
            Decoder::Message(decoder) => decoder.push(bytes),
            Decoder::MsgApp(decoder) => decoder.push(bytes),
        }
    }

    /// The next whole frame, or nothing until more arrives. After an error the stream is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CodecError> {
        match self {
            Decoder::Message(decoder) => decoder.next_frame(),
            Decoder::MsgApp(decoder) => decoder.next_frame(),
        }
    }

    /// The stream ended: may it, here?
    pub fn finish(&self) -> Result<(), CodecError> {
        let between_frames = match self {
            Decoder::Message(decoder) => decoder.is_between_frames(),
            Decoder::MsgApp(decoder) => decoder.is_between_frames(),
        };
        if between_frames { Ok(()) } else { Err(CodecError::Cut) }
    }
}

/// Bytes that arrived and were not taken yet, in the pieces they came in.
#[derive(Debug, Default)]
pub struct Arrived {
    pieces: VecDeque<Bytes>,
    len_bytes: usize,
}

impl Arrived {
    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len_bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// How much is there.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Takes a big-endian number of 8 bytes, if that much is there.
    pub fn take_u64(&mut self) -> Option<u64> {
        let mut number = [0; 8];
        self.take_into(&mut number).then(|| u64::from_be_bytes(number))
    }

    /// Takes one byte.
    pub fn take_u8(&mut self) -> Option<u8> {
        let mut byte = [0; 1];
        self.take_into(&mut byte).then_some(byte[0])
    }

    /// Takes `len_bytes`, copied into memory of exactly that size: what Raft keeps must not pin a connection's buffers.
    pub fn take(&mut self, len_bytes: usize) -> Option<Bytes> {
        if self.len_bytes < len_bytes {
            return None;
        }
        let mut taken = vec![0; len_bytes];
        let whole = self.take_into(&mut taken);
        debug_assert!(whole);
        Some(taken.into())
    }

    /// Takes the first piece as it is.
    pub fn take_piece(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.len_bytes -= piece.len();
        Some(piece)
    }

    fn take_into(&mut self, mut target: &mut [u8]) -> bool {
        if self.len_bytes < target.len() {
            return false;
        }
        self.len_bytes -= target.len();
        while !target.is_empty() {
            let piece = self.pieces.front_mut().expect("the length counts the pieces");
            let taken = piece.len().min(target.len());
            let (now, later) = target.split_at_mut(taken);
            piece.copy_to_slice(now);
            target = later;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        true
    }
}

/// A size that a peer wrote, if it is allowed.
fn checked_size(size_bytes: u64, limits: &Limits) -> Result<usize, CodecError> {
    match usize::try_from(size_bytes) {
        Ok(size) if size <= limits.frame_bytes_max => Ok(size),
        _ => Err(CodecError::FrameTooLarge { size_bytes, limit_bytes: limits.frame_bytes_max }),
    }
}

/// Decodes a message, having counted its entries first: an empty one is two bytes on the wire, but fifty in memory.
pub fn decode_message(encoded: Bytes, limits: &Limits) -> Result<raftpb::Message, CodecError> {
    let count = count_entries(&encoded)?;
    if count > limits.entries_max {
        return Err(CodecError::TooManyEntries { count: count as u64, limit: limits.entries_max });
    }
    raftpb::Message::decode(encoded).map_err(|error| CodecError::Garbage(error.to_string()))
}

/// How often the field `entries` occurs in an encoded message.
fn count_entries(mut encoded: &[u8]) -> Result<usize, CodecError> {
    const ENTRIES_FIELD: u64 = 7;
    let mut count = 0;
    while !encoded.is_empty() {
        let key = take_varint(&mut encoded)?;
        let value_bytes = match key & 7 {
            0 => {
                take_varint(&mut encoded)?;
                0
            }
            1 => 8,
            2 => {
                count += usize::from(key >> 3 == ENTRIES_FIELD);
                take_varint(&mut encoded)?
            }
            5 => 4,
            wire_type => return Err(CodecError::Garbage(format!("a field of wire type {wire_type}"))),
        };
        encoded = usize::try_from(value_bytes)
            .ok()
            .and_then(|value_bytes| encoded.get(value_bytes..))
            .ok_or_else(|| CodecError::Garbage("a field is longer than the message".to_owned()))?;
    }
    Ok(count)
}

fn take_varint(encoded: &mut &[u8]) -> Result<u64, CodecError> {
    prost::encoding::decode_varint(encoded).map_err(|error| CodecError::Garbage(error.to_string()))
}

/// A link heartbeat has the form of a heartbeat from nobody to nobody; which zeros are written differs between releases.
fn into_frame(message: raftpb::Message) -> Frame {
    let is_link_heartbeat = message.r#type() == raftpb::MessageType::MsgHeartbeat
        && message.from.unwrap_or(0) == 0
        && message.to.unwrap_or(0) == 0;
    if is_link_heartbeat { Frame::LinkHeartbeat } else { Frame::Message(message) }
}

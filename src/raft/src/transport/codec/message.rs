//! The stream `message`: each frame is a length (u64, big-endian) and an encoded message.
//!
//! A link heartbeat is a heartbeat message with neither sender nor receiver. Raft's snapshots travel in the same form, as the
//! head of their upload.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use quorate_proto::raftpb;

use super::{Arrived, CodecError, Frame, Limits, checked_size, decode_message, into_frame};

/// A link heartbeat as etcd 3.7 writes it: two bytes, the type alone.
const LINK_HEARTBEAT: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 2, 8, 8];

/// Writes frames. There is no state: every frame stands for itself.
#[derive(Debug)]
pub struct MessageEncoder;

impl MessageEncoder {
    /// Appends one message.
    pub fn message(&self, message: &raftpb::Message, out: &mut BytesMut) {
        let len_bytes = message.encoded_len();
        out.reserve(8 + len_bytes);
        out.put_u64(len_bytes as u64);
        message.encode(out).expect("a buffer that grows has room");
    }

    /// Appends a link heartbeat.
    pub fn link_heartbeat(&self, out: &mut BytesMut) {
        out.extend_from_slice(LINK_HEARTBEAT);
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct MessageDecoder {
    limits: Limits,
    arrived: Arrived,
    /// The size of the frame whose payload is awaited.
    size_bytes: Option<usize>,
}

impl MessageDecoder {
    /// A decoder at the beginning of a stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, arrived: Arrived::default(), size_bytes: None }
    }

    /// Takes what arrived.
    pub fn push(&mut self, bytes: Bytes) {
        self.arrived.push(bytes);
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CodecError> {
        let size_bytes = match self.size_bytes {
            Some(size_bytes) => size_bytes,
            None => {
                let Some(size_bytes) = self.arrived.take_u64() else { return Ok(None) };
                *self.size_bytes.insert(checked_size(size_bytes, &self.limits)?)
            }
        };
        let Some(encoded) = self.arrived.take(size_bytes) else { return Ok(None) };
        self.size_bytes = None;
        Ok(Some(into_frame(decode_message(encoded, &self.limits)?)))
    }

    /// True if no frame has begun.
    pub fn is_between_frames(&self) -> bool {
        self.size_bytes.is_none() && self.arrived.len_bytes() == 0
    }
}

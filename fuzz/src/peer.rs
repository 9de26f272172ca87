//! What arrives on a stream between members.
//!
//! Half of the inputs are arbitrary bytes; the others are a valid stream with changes. However they are cut into pieces, the
//! decoder must give the same frames and the same verdict, never panic, and allocate no more than the bytes justify.

use bytes::{Bytes, BytesMut};
use quorate_proto::raftpb;
use quorate_raft::transport::codec::{CodecError, Decoder, Encoder, Frame, Limits, StreamKind};
use quorate_types::MemberId;

use crate::allocation::largest_during;
use crate::source::Source;

const LIMITS: Limits = Limits { frame_bytes_max: 1 << 20, entries_max: 1024 };

/// Buffers that do not depend on the input.
const FIXED_BYTES: usize = 64 << 10;

/// One input.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let kind = if source.byte().is_multiple_of(2) { StreamKind::Message } else { StreamKind::MsgApp };
    let stream = if source.byte().is_multiple_of(2) { arbitrary(&mut source) } else { changed(kind, &mut source) };
    let piece_bytes = 1 + stream.len() / 7;
    let (outcome, largest_bytes) = largest_during(|| decode(kind, &stream, piece_bytes));
    // An entry as a struct takes more than its shortest form does.
    let limit_bytes = FIXED_BYTES + 64 * stream.len();
    assert!(largest_bytes <= limit_bytes, "{largest_bytes} bytes allocated at once for {} bytes", stream.len());
    assert_eq!(outcome, decode(kind, &stream, 1));
    assert_eq!(outcome, decode(kind, &stream, stream.len().max(1)));
}

fn decode(kind: StreamKind, stream: &[u8], piece_bytes: usize) -> (Vec<Frame>, Result<(), CodecError>) {
    let mut decoder = Decoder::new(kind, MemberId(1), MemberId(2), LIMITS);
    let mut frames = Vec::new();
    for piece in stream.chunks(piece_bytes) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    let end = decoder.finish();
    (frames, end)
}

/// Bytes, among which small numbers of eight bytes stand, as sizes and counts do.
fn arbitrary(source: &mut Source<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !source.is_empty() {
        match source.byte() % 3 {
            0 => stream.push(source.byte() % 4),
            1 => stream.extend(u64::from(source.byte() % 64).to_be_bytes()),
            _ => {
                let len_bytes = usize::from(source.byte() % 64);
                stream.extend(source.bytes(len_bytes));
            }
        }
    }
    stream
}

fn changed(kind: StreamKind, source: &mut Source<'_>) -> Vec<u8> {
    let mut encoder = Encoder::new(kind);
    let mut stream = BytesMut::new();
    let mut index = 0;
    for _ in 0..1 + source.byte() % 12 {
        let message = message(source, &mut index);
        encoder.message(&message, &mut stream);
        if source.byte() < 30 {
            encoder.link_heartbeat(&mut stream);
        }
    }
    let mut stream = stream.to_vec();
    while !source.is_empty() {
        let start = source.below(stream.len());
        let end = (start + source.below(40)).min(stream.len());
        match source.byte() % 16 {
            0..=1 if !stream.is_empty() => stream[start] ^= 1 << (source.byte() % 8),
            2 => stream.truncate(start),
            3 => stream.copy_within(start..end, 0),
            4 => {
                stream.drain(start..end);
            }
            _ => {}
        }
    }
    stream
}

/// A message as Raft sends it; appends mostly follow each other.
fn message(source: &mut Source<'_>, index: &mut u64) -> raftpb::Message {
    let entries: Vec<_> = (1..=u64::from(source.byte() % 4))
        .map(|nth| {
            let data_bytes = usize::from(source.byte() % 32);
            let data = Some(Bytes::copy_from_slice(source.bytes(data_bytes)));
            raftpb::Entry { r#type: None, term: Some(1), index: Some(*index + nth), data }
        })
        .collect();
    let message_type = if source.byte() < 200 { 3 } else { i32::from(source.byte()) };
    let message = raftpb::Message {
        r#type: Some(message_type),
        from: Some(2),
        to: Some(1),
        term: Some(1),
        log_term: Some(1),
        index: Some(*index),
        commit: Some(*index),
        ..Default::default()
    };
    *index += entries.len() as u64;
    raftpb::Message { entries, ..message }
}

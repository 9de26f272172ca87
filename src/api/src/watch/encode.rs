//! Answers of a watch stream as bytes.
//!
//! A message is its small fields (header, id, flags), then its events. Of an event only tags and lengths are written here: the
//! key-values are the bytes that were encoded when the write was applied, the same for all watchers and never copied when they
//! are large. Small answers are put together, so that a hundred of them are one frame of HTTP/2.
//!
//! A large answer to a client that takes fragments is cut as etcd cuts it: each piece smaller than the largest request with its
//! overhead, or a single event.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use quorate_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use quorate_store::watch::{Answer, Event, Refusal};
use quorate_types::Error;

use crate::body::Chunk;
use crate::grpc::PREFIX_BYTES;

/// Answers are put together up to here.
const CHUNK_BYTES: usize = 16 << 10;

/// A key-value from this size on is sent from where it lies.
const SHARED_BYTES_MIN: usize = 4 << 10;

/// The id of an answer that is about no watch, or about all.
const NO_WATCH: i64 = -1;

const EVENTS_TAG: u8 = 11 << 3 | 2;
const TYPE_TAG: u8 = 1 << 3;
const TYPE_DELETE: u8 = 1;
const KV_TAG: u8 = 2 << 3 | 2;
const PREV_KV_TAG: u8 = 3 << 3 | 2;

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
}

/// Answers in, bytes out.
pub struct Encoder {
    /// A fragment stays below.
    fragment_bytes_max: usize,
    ready: VecDeque<Chunk>,
    /// The chunk that is being filled.
    open: BytesMut,
    open_messages: u64,
}

impl Encoder {
    pub fn new(fragment_bytes_max: usize) -> Self {
        Self { fragment_bytes_max, ready: VecDeque::new(), open: BytesMut::new(), open_messages: 0 }
    }

    /// What goes out next, of all that was pushed before the last flush.
    pub fn next(&mut self) -> Option<Chunk> {
        self.ready.pop_front()
    }

    /// Nothing more comes for the moment.
    pub fn flush(&mut self) {
        if !self.open.is_empty() {
            let messages = std::mem::take(&mut self.open_messages);
            self.ready.push_back(Chunk { data: self.open.split().freeze(), messages });
        }
    }

    /// Encodes an answer.
    pub fn push(&mut self, answer: &Answer, identity: Identity) {
        let (head, with_previous) = head(answer, identity);
        let Answer::Events { events, fragment, .. } = answer else { return self.message(&head, &[], false) };
        let events: Vec<&Event> = events.iter().collect();
        if !*fragment {
            return self.message(&head, &events, with_previous);
        }
        let sizes: Vec<usize> = events.iter().map(|event| field_bytes(event_bytes(event, with_previous))).collect();
        let pieces = pieces(&head, &sizes, self.fragment_bytes_max);
        let last = pieces.len() - 1;
        for (number, piece) in pieces.into_iter().enumerate() {
            let head = WatchResponse { fragment: number < last, ..head.clone() };
            self.message(&head, &events[piece], with_previous);
        }
    }

    fn message(&mut self, head: &WatchResponse, events: &[&Event], with_previous: bool) {
        let head_bytes = head.encoded_len();
        let bytes =
            head_bytes + events.iter().map(|event| field_bytes(event_bytes(event, with_previous))).sum::<usize>();
        if !self.open.is_empty() && self.open.len() + PREFIX_BYTES + bytes > CHUNK_BYTES {
            self.flush();
        }
        self.open.reserve(PREFIX_BYTES + bytes.min(CHUNK_BYTES));
        self.open_messages += 1;
        self.open.put_u8(0);
        // A client takes no message of 2 GiB, and HTTP/2 carries none of 4: a revision that large reaches nobody.
        self.open.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
        head.encode_raw(&mut self.open);
        for event in events {
            self.open.put_u8(EVENTS_TAG);
            encode_varint(event_bytes(event, with_previous) as u64, &mut self.open);
            if event.is_delete() {
                self.open.put_slice(&[TYPE_TAG, TYPE_DELETE]);
            }
            self.key_value(KV_TAG, event.kv());
            if with_previous && !event.prev_kv().is_empty() {
                self.key_value(PREV_KV_TAG, event.prev_kv());
            }
            if self.open.len() >= CHUNK_BYTES {
                self.flush();
            }
        }
    }

    fn key_value(&mut self, tag: u8, encoded: &Bytes) {
        self.open.put_u8(tag);
        encode_varint(encoded.len() as u64, &mut self.open);
        if encoded.len() >= SHARED_BYTES_MIN {
            self.flush();
            self.ready.push_back(Chunk { data: encoded.clone(), messages: 0 });
        } else {
            self.open.put_slice(encoded);
        }
    }
}

/// Bytes of a field of bytes whose number is below 16, tag and length included.
fn field_bytes(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn event_bytes(event: &Event, with_previous: bool) -> usize {
    let previous = if with_previous && !event.prev_kv().is_empty() { field_bytes(event.prev_kv().len()) } else { 0 };
    (if event.is_delete() { 2 } else { 0 }) + field_bytes(event.kv().len()) + previous
}

/// The fields ahead of the events, and whether these tell what was there before.
fn head(answer: &Answer, identity: Identity) -> (WatchResponse, bool) {
    let Identity { cluster_id, member_id, raft_term } = identity;
    let of = |watch_id, revision| WatchResponse {
        header: Some(ResponseHeader { cluster_id, member_id, revision, raft_term }),
        watch_id,
        ..WatchResponse::default()
    };
    let head = match *answer {
        Answer::Created { watch_id, revision } => WatchResponse { created: true, ..of(watch_id, revision) },
        Answer::Refused { reason, revision } => WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: reason_text(reason).to_owned(),
            ..of(NO_WATCH, revision)
        },
        Answer::Canceled { watch_id, revision } => WatchResponse { canceled: true, ..of(watch_id, revision) },
        // Without a revision, as etcd's.
        Answer::Compacted { watch_id, compact_revision } => {
            WatchResponse { canceled: true, compact_revision, ..of(watch_id, 0) }
        }
        Answer::Progress { watch_id, revision } => of(watch_id.unwrap_or(NO_WATCH), revision),
        Answer::Events { watch_id, revision, with_previous, .. } => return (of(watch_id, revision), with_previous),
    };
    (head, false)
}

/// etcd's words (`server/storage/mvcc/watcher.go`).
fn reason_text(reason: Refusal) -> &'static str {
    match reason {
        Refusal::NegativeRevision => Error::Compacted.message(),
        Refusal::EmptyRange => "mvcc: watcher range is empty",
        Refusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
    }
}

/// Which events go into which piece (etcd `server/etcdserver/api/v3rpc/watch.go`, `sendFragments`). `sizes` are those of the
/// events with their tags.
fn pieces(head: &WatchResponse, sizes: &[usize], bytes_max: usize) -> Vec<Range<usize>> {
    if head.encoded_len() + sizes.iter().sum::<usize>() < bytes_max || sizes.len() < 2 {
        return std::iter::once(0..sizes.len()).collect();
    }
    let head_bytes = WatchResponse { fragment: true, ..head.clone() }.encoded_len();
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < sizes.len() {
        let mut bytes = head_bytes + sizes[start];
        let mut end = start + 1;
        while end < sizes.len() && bytes + sizes[end] < bytes_max {
            bytes += sizes[end];
            end += 1;
        }
        pieces.push(start..end);
        start = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stay_below_the_limit_unless_one_event_does_not() {
        // 2 bytes of header, 2 for the flag.
        let head = WatchResponse { header: Some(ResponseHeader::default()), ..WatchResponse::default() };
        assert_eq!(head.encoded_len(), 2);
        type Bounds = &'static [(usize, usize)];
        let cases: [(&[usize], Bounds); 7] = [
            (&[], &[(0, 0)]),
            (&[500], &[(0, 1)]),
            (&[40, 57], &[(0, 2)]),
            (&[40, 58], &[(0, 1), (1, 2)]),
            (&[500, 1, 1], &[(0, 1), (1, 3)]),
            (&[30, 30, 30, 30], &[(0, 3), (3, 4)]),
            (&[30, 30, 36, 30], &[(0, 2), (2, 4)]),
        ];
        for (sizes, expected) in cases {
            let cut: Vec<_> = pieces(&head, sizes, 100).into_iter().map(|piece| (piece.start, piece.end)).collect();
            assert_eq!(cut, expected, "{sizes:?}");
        }
    }

    #[test]
    fn refusals_in_etcds_words() {
        let identity = Identity { cluster_id: 1, member_id: 2, raft_term: 3 };
        for (reason, text) in [
            (Refusal::NegativeRevision, "etcdserver: mvcc: required revision has been compacted"),
            (Refusal::EmptyRange, "mvcc: watcher range is empty"),
            (Refusal::DuplicateId, "mvcc: duplicate watch ID provided on the WatchStream"),
        ] {
            let mut encoder = Encoder::new(100);
            encoder.push(&Answer::Refused { reason, revision: 7 }, identity);
            encoder.flush();
            let chunk = encoder.next().unwrap();
            let expected = WatchResponse {
                header: Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 7, raft_term: 3 }),
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: text.into(),
                ..WatchResponse::default()
            };
            assert_eq!(chunk.data[5..], expected.encode_to_vec());
            assert_eq!((chunk.messages, encoder.next()), (1, None));
        }
    }

    #[test]
    fn small_answers_travel_together() {
        let identity = Identity { cluster_id: 1, member_id: 2, raft_term: 3 };
        let mut encoder = Encoder::new(100);
        for revision in 1..=3000 {
            encoder.push(&Answer::Progress { watch_id: None, revision }, identity);
        }
        encoder.flush();
        let chunks: Vec<Chunk> = std::iter::from_fn(|| encoder.next()).collect();
        assert_eq!(chunks.iter().map(|chunk| chunk.messages).sum::<u64>(), 3000);
        assert!(chunks.iter().all(|chunk| chunk.data.len() <= CHUNK_BYTES));
        assert!(chunks.len() < 10, "{} chunks", chunks.len());
    }
}

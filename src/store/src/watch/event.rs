//! What watchers are told: events, made once and shared by all who want them.
//!
//! The key-value of an event is the encoded row itself, or for a delete that row with the revision behind it; nothing is decoded
//! and encoded again. All events that a hub has made and somebody still holds are weighed together, which bounds what slow
//! readers may keep in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::encode_varint;

/// `mod_revision` of a `KeyValue`.
const MOD_REVISION_TAG: u8 = 3 << 3;

/// What an event costs beside its bytes.
const EVENT_OVERHEAD_BYTES: usize = 96;

/// One write, as a watcher sees it.
#[derive(Debug)]
pub struct Event {
    revision: i64,
    is_delete: bool,
    kv: Bytes,
    /// Empty if there was none, or if it is compacted, or if nobody wanted it when the event was made.
    prev_kv: Bytes,
    held: Held,
}

/// The bytes of all events that are held.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<AtomicUsize>);

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Event {
    /// The event of a row; `prev_kv` is empty if there is none.
    pub(super) fn new(revision: i64, is_delete: bool, encoded: Bytes, prev_kv: Bytes, held: &Held) -> Self {
        let kv = if is_delete { with_revision(&encoded, revision) } else { encoded };
        let event = Self { revision, is_delete, kv, prev_kv, held: held.clone() };
        held.0.fetch_add(event.weight_bytes(), Ordering::Relaxed);
        event
    }

    fn weight_bytes(&self) -> usize {
        self.kv.len() + self.prev_kv.len() + EVENT_OVERHEAD_BYTES
    }

    /// The revision of the write.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The key was deleted.
    pub fn is_delete(&self) -> bool {
        self.is_delete
    }

    /// The key-value, encoded; of a delete the key and the revision alone.
    pub fn kv(&self) -> &Bytes {
        &self.kv
    }

    /// What the key had before, encoded; empty if that is nothing or not known.
    pub fn prev_kv(&self) -> &Bytes {
        &self.prev_kv
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.weight_bytes(), Ordering::Relaxed);
    }
}

/// The row of a deleted key holds the key; the event tells the revision, too.
fn with_revision(encoded: &Bytes, revision: i64) -> Bytes {
    let mut kv = BytesMut::with_capacity(encoded.len() + 11);
    kv.put_slice(encoded);
    kv.put_u8(MOD_REVISION_TAG);
    encode_varint(revision as u64, &mut kv);
    kv.freeze()
}

/// Some events in order, shared by those who get the same.
#[derive(Clone, Debug)]
pub struct Events(Arc<[Arc<Event>]>);

impl Events {
    pub(super) fn new(events: impl Into<Arc<[Arc<Event>]>>) -> Self {
        Self(events.into())
    }

    /// The bytes that these events have on the wire, about.
    pub(super) fn bytes(&self, with_previous: bool) -> usize {
        self.iter().map(|event| event.kv.len() + if with_previous { event.prev_kv.len() } else { 0 }).sum()
    }

    /// Those that pass; itself if all do.
    pub(super) fn filtered(self, passes: impl Fn(&Event) -> bool) -> Self {
        if self.iter().all(&passes) {
            return self;
        }
        Self(self.0.iter().filter(|event| passes(event)).cloned().collect())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of writing.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().map(|event| &**event)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use quorate_proto::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn what_is_held_is_weighed_and_a_delete_tells_its_revision() {
        let held = Held::default();
        let row = Bytes::from(KeyValue { key: "k".into(), ..Default::default() }.encode_to_vec());
        let event = Event::new(300, true, row, Bytes::new(), &held);
        assert_eq!(
            KeyValue::decode(event.kv().clone()).unwrap(),
            KeyValue { key: "k".into(), mod_revision: 300, ..Default::default() }
        );
        assert_eq!(held.bytes(), event.kv().len() + EVENT_OVERHEAD_BYTES);
        let shared = Arc::new(event);
        let (one, other) = (Events::new([shared.clone()]), Events::new([shared]));
        drop(one);
        assert!(held.bytes() > 0);
        drop(other);
        assert_eq!(held.bytes(), 0);
    }
}

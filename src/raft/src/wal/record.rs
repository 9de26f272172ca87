//! A record in its frame, as bytes.
//!
//! ```text
//! 8 bytes   length field, little-endian: low 56 bits = bytes of the record; top byte = 0x80 | padding, or 0 without padding
//! n bytes   walpb.Record: 08 type, 10 crc, 1a length data   (no third field without data)
//! 0–7 zeros padding, so that each frame begins at a multiple of 8 and its length field lies in one sector
//! ```
//!
//! The crc is a chain: CRC-32C over the data of this record, continued from the crc of the record before it. A crc record
//! has no data, it only states the chain. The chain does not cover type and frame; what that leaves open is closed by
//! checking the shape of the data (see [`has_shape`]), so that a record whose type byte has rotted is not taken for another.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;

/// Bytes of the length field.
pub(super) const FRAME_BYTES: usize = 8;

/// No record is larger. Far above any request that is accepted, far below what a rotten length field can say.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 30;

/// More than frame, fields and padding add to the data of a record.
pub(super) const OVERHEAD_BYTES_MAX: usize = FRAME_BYTES + 2 + 6 + 11 + 7;

const CRC_VARINT_BYTES_MAX: usize = 5;

/// What a record's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// [`quorate_proto::walpb::Metadata`].
    Metadata = 1,
    /// [`quorate_proto::raftpb::Entry`].
    Entry = 2,
    /// [`quorate_proto::walpb::State`].
    State = 3,
    /// Nothing: the record's crc states the chain.
    Crc = 4,
    /// [`quorate_proto::walpb::Snapshot`].
    Snapshot = 5,
}

impl Kind {
    fn from_number(number: u64) -> Option<Self> {
        [Kind::Metadata, Kind::Entry, Kind::State, Kind::Crc, Kind::Snapshot]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }
}

/// How long a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Without frame and padding; never 0, never above [`RECORD_BYTES_MAX`].
    pub(super) record_bytes: usize,
}

impl Frame {
    fn padding_bytes(self) -> usize {
        self.record_bytes.wrapping_neg() % 8
    }

    /// Length field, record and padding.
    pub(super) fn total_bytes(self) -> usize {
        FRAME_BYTES + self.record_bytes + self.padding_bytes()
    }

    fn length_field(self) -> u64 {
        let top = match self.padding_bytes() {
            0 => 0,
            padding => 0x80 | padding as u64,
        };
        top << 56 | self.record_bytes as u64
    }

    /// `None` if no record has this length field.
    pub(super) fn parse(length_field: u64) -> Option<Frame> {
        let record_bytes = length_field & (u64::MAX >> 8);
        if record_bytes == 0 || record_bytes > RECORD_BYTES_MAX {
            return None;
        }
        let frame = Frame { record_bytes: usize::try_from(record_bytes).ok()? };
        (frame.length_field() == length_field).then_some(frame)
    }
}

/// A record as it stands in the file; whether its crc is right is for the reader to say, who knows the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Option<Kind>,
    pub(super) crc: u32,
    pub(super) data: Bytes,
}

impl Record {
    /// Reads the record (without frame and padding); the data is a slice of `bytes`. `None` if it is not one: etcd writes
    /// exactly these fields in this order, so anything else is damage. A kind without a name is still a record, whose crc
    /// can tell damage from a version that knows more.
    pub(super) fn parse(bytes: &Bytes) -> Option<Record> {
        let mut rest = &bytes[..];
        let kind = Kind::from_number(field(&mut rest, 0x08)?);
        let crc = u32::try_from(field(&mut rest, 0x10)?).ok()?;
        let data = match rest {
            [] => Bytes::new(),
            _ => {
                let data_bytes = field(&mut rest, 0x1a)?;
                (data_bytes == rest.len() as u64).then(|| bytes.slice_ref(rest))?
            }
        };
        (kind != Some(Kind::Crc) || data.is_empty()).then_some(Record { kind, crc, data })
    }
}

fn field(rest: &mut &[u8], tag: u8) -> Option<u64> {
    if rest.first() != Some(&tag) {
        return None;
    }
    rest.advance(1);
    take_varint(rest)
}

/// Takes a base-128 number off the front.
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (position, byte) in rest.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if position == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * position);
        if byte & 0x80 == 0 {
            rest.advance(position + 1);
            return Some(value);
        }
    }
    None
}

fn varint_bytes(value: u64) -> usize {
    prost::length_delimiter_len(value as usize)
}

/// How a protobuf field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Varint = 0,
    Bytes = 2,
    Fixed32 = 5,
}

/// True if `message` has only fields of `known` (ascending), each at most once and in that order, as every version of etcd
/// writes them. An entry read as a state, or the reverse, fails this.
pub(super) fn has_shape(message: &[u8], known: &[(u64, Wire)]) -> bool {
    let mut rest = message;
    let mut known = known.iter();
    while !rest.is_empty() {
        let Some(tag) = take_varint(&mut rest) else { return false };
        let Some((_, wire)) = known.find(|(number, wire)| number << 3 | *wire as u64 == tag) else { return false };
        let value_bytes = match wire {
            Wire::Varint => match take_varint(&mut rest) {
                Some(_) => 0,
                None => return false,
            },
            Wire::Bytes => match take_varint(&mut rest) {
                Some(value_bytes) => value_bytes,
                None => return false,
            },
            Wire::Fixed32 => 4,
        };
        match usize::try_from(value_bytes) {
            Ok(value_bytes) if value_bytes <= rest.len() => rest.advance(value_bytes),
            _ => return false,
        }
    }
    true
}

/// Encodes records one after the other into one buffer, which is kept from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
    chain: u32,
}

impl Encoder {
    /// The next record continues `chain`.
    pub(super) fn new(chain: u32) -> Self {
        Self { buffer: Vec::new(), chain }
    }

    /// The crc of the last record.
    pub(super) fn chain(&self) -> u32 {
        self.chain
    }

    /// Frames pushed since [`Encoder::clear`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Forgets the frames, keeps the chain, and gives back what an unusually large batch took.
    pub(super) fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 4 << 20;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES_MAX);
    }

    /// A record whose data is `message`, encoded in place.
    pub(super) fn push(&mut self, kind: Kind, message: &impl Message) {
        self.push_with(kind, message.encoded_len(), |buffer| message.encode(buffer).expect("a vector grows"));
    }

    /// A record whose data is `data`.
    pub(super) fn push_bytes(&mut self, kind: Kind, data: &[u8]) {
        self.push_with(kind, data.len(), |buffer| buffer.extend_from_slice(data));
    }

    /// A record that states the chain.
    pub(super) fn push_chain(&mut self) {
        self.push_with(Kind::Crc, 0, |_| ());
    }

    fn push_with(&mut self, kind: Kind, data_bytes: usize, write_data: impl FnOnce(&mut Vec<u8>)) {
        // The crc stands before the data and its length varies, so the data is written where it belongs if the crc takes
        // five bytes, and moved down in the one case in sixteen where it takes fewer.
        let data_field_bytes = if data_bytes == 0 { 0 } else { 1 + varint_bytes(data_bytes as u64) };
        let fields_bytes_max = 2 + 1 + CRC_VARINT_BYTES_MAX + data_field_bytes;
        let frame_at = self.buffer.len();
        let data_at = frame_at + FRAME_BYTES + fields_bytes_max;
        self.buffer.resize(data_at, 0);
        write_data(&mut self.buffer);
        assert_eq!(self.buffer.len(), data_at + data_bytes, "a message is as long as it says");
        self.chain = crc32c::crc32c_append(self.chain, &self.buffer[data_at..]);

        let slack_bytes = CRC_VARINT_BYTES_MAX - varint_bytes(u64::from(self.chain));
        if slack_bytes > 0 {
            self.buffer.copy_within(data_at.., data_at - slack_bytes);
            self.buffer.truncate(data_at + data_bytes - slack_bytes);
        }
        let frame = Frame { record_bytes: fields_bytes_max - slack_bytes + data_bytes };
        assert!(frame.record_bytes as u64 <= RECORD_BYTES_MAX, "checked before a batch is encoded");

        let mut header = &mut self.buffer[frame_at..data_at - slack_bytes];
        header.put_u64_le(frame.length_field());
        header.put_slice(&[0x08, kind as u8, 0x10]);
        put_varint(&mut header, u64::from(self.chain));
        if data_bytes > 0 {
            header.put_u8(0x1a);
            put_varint(&mut header, data_bytes as u64);
        }
        assert!(header.is_empty(), "header fields fill the space left for them");
        self.buffer.resize(frame_at + frame.total_bytes(), 0);
    }
}

fn put_varint(target: &mut &mut [u8], mut value: u64) {
    while value >= 0x80 {
        target.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    target.put_u8(value as u8);
}

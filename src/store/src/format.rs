//! Bytes at rest: how a row, its narrow twin, a lease and the records of the meta table look in the database.
//!
//! Whatever is stored begins with a CRC-32C (little-endian) over its table's name, its key and the rest of its value: the
//! database itself does not check what it reads. Numbers in keys are big-endian, so that byte order is number order.
//!
//! | table | key | value |
//! |---|---|---|
//! | `key` | main i64, sub u32 | crc, flags, encoded `mvccpb.KeyValue` |
//! | `narrow` | main i64, sub u32 | crc, flags, varint create revision, varint version, varint lease, key |
//! | `lease` | id u64 | crc, encoded `leasepb.Lease` |
//! | `meta` | `state` | crc, [`StateRecord`] |
//! | `meta` | `conf_state` | crc, encoded `raftpb.ConfState` |
//! | `meta` | `membership` | crc, JSON of members, removed ids and cluster version |
//! | `meta` | `alarms` | crc, encoded `AlarmResponse` |
//!
//! A tombstone's flags have bit 0 set; its `KeyValue` and its narrow row hold the key alone.

use prost::encoding::{decode_varint, encode_varint};
use quorate_types::{LeaseId, LogIndex, Term};

use crate::mvcc::encode::Fields;
use crate::mvcc::revision::RowRevision;
use crate::pending::Row;

pub(crate) const KEY_TABLE: &str = "key";
pub(crate) const NARROW_TABLE: &str = "narrow";
pub(crate) const LEASE_TABLE: &str = "lease";
pub(crate) const META_TABLE: &str = "meta";

pub(crate) const STATE: &str = "state";
pub(crate) const CONF_STATE: &str = "conf_state";
pub(crate) const MEMBERSHIP: &str = "membership";
pub(crate) const ALARMS: &str = "alarms";

/// The version of all this; raised when the layout changes.
pub(crate) const FORMAT: u32 = 1;

const CRC_BYTES: usize = 4;
const TOMBSTONE: u8 = 1;

/// What a row weighs beside its encoded value, in the sizes shown to operators: what etcd's file spends on it (a leaf
/// element and a revision key), so that quotas mean the same here.
pub(crate) const ROW_OVERHEAD_BYTES: u64 = 16 + 17;

/// The key of a row, in both tables.
pub(crate) type RowKey = [u8; 12];

pub(crate) fn row_key(revision: RowRevision) -> RowKey {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[8..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

pub(crate) fn row_revision(key: &RowKey) -> RowRevision {
    let [m0, m1, m2, m3, m4, m5, m6, m7, s0, s1, s2, s3] = *key;
    RowRevision::new(i64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]), u32::from_be_bytes([s0, s1, s2, s3]))
}

fn crc(table: &str, key: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(table.as_bytes()), key), rest)
}

/// Puts the checksum of `value[4..]` into its first four bytes.
fn seal(table: &str, key: &[u8], value: &mut [u8]) {
    let sum = crc(table, key, &value[CRC_BYTES..]);
    value[..CRC_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// The value without its checksum; `None` if the checksum does not match.
fn open<'a>(table: &str, key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, rest) = value.split_first_chunk::<CRC_BYTES>()?;
    (u32::from_le_bytes(*sum) == crc(table, key, rest)).then_some(rest)
}

/// A checked value of any table but `key` and `narrow`.
pub(crate) fn sealed(table: &str, key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = vec![0; CRC_BYTES + payload.len()];
    value[CRC_BYTES..].copy_from_slice(payload);
    seal(table, key, &mut value);
    value
}

/// What [`sealed`] was given; `None` if damaged.
pub(crate) fn opened<'a>(table: &str, key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    open(table, key, value)
}

/// Length of a row's value in the table `key`.
pub(crate) fn row_value_len(row: &Row) -> usize {
    CRC_BYTES + 1 + row.encoded.len()
}

/// Writes a row's value in the table `key`; `value` has [`row_value_len`] bytes.
pub(crate) fn write_row(row: &Row, key: &RowKey, value: &mut [u8]) {
    value[CRC_BYTES] = if row.tombstone { TOMBSTONE } else { 0 };
    value[CRC_BYTES + 1..].copy_from_slice(&row.encoded);
    seal(KEY_TABLE, key, value);
}

/// Flag and encoded `KeyValue` of a row read back; `None` if damaged.
pub(crate) fn read_row<'a>(key: &RowKey, value: &'a [u8]) -> Option<(bool, &'a [u8])> {
    match open(KEY_TABLE, key, value)?.split_first()? {
        (0, encoded) => Some((false, encoded)),
        (&TOMBSTONE, encoded) => Some((true, encoded)),
        _ => None,
    }
}

/// Whether a value of the table `key`, not checked, calls itself a tombstone.
pub(crate) fn says_tombstone(value: &[u8]) -> bool {
    value.get(CRC_BYTES) == Some(&TOMBSTONE)
}

/// Length of the encoded `KeyValue` in a value of the table `key`.
pub(crate) fn encoded_len(value: &[u8]) -> usize {
    value.len().saturating_sub(CRC_BYTES + 1)
}

/// What a narrow row tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Narrow<'a> {
    pub(crate) key: &'a [u8],
    /// `None` is a tombstone.
    pub(crate) live: Option<NarrowLive>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NarrowLive {
    pub(crate) create: i64,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

/// Writes the narrow twin of a row into `value` (cleared first), from the fields of its encoded form.
pub(crate) fn write_narrow(row: &Row, fields: &Fields<'_>, key: &RowKey, value: &mut Vec<u8>) {
    value.clear();
    value.extend_from_slice(&[0; CRC_BYTES]);
    value.push(if row.tombstone { TOMBSTONE } else { 0 });
    if !row.tombstone {
        for number in [fields.create_revision, fields.version, fields.lease] {
            encode_varint(number as u64, value);
        }
    }
    value.extend_from_slice(fields.key);
    seal(NARROW_TABLE, key, value);
}

/// Reads it back; `None` if damaged.
pub(crate) fn read_narrow<'a>(key: &RowKey, value: &'a [u8]) -> Option<Narrow<'a>> {
    let (flags, mut rest) = open(NARROW_TABLE, key, value)?.split_first()?;
    let live = match *flags {
        TOMBSTONE => None,
        0 => {
            let mut number = || decode_varint(&mut rest).ok().map(|number| number as i64);
            Some(NarrowLive { create: number()?, version: number()?, lease: LeaseId(number()?) })
        }
        _ => return None,
    };
    Some(Narrow { key: rest, live })
}

/// The numbers that every transaction writes: which entries the rest of the file contains, and what it should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateRecord {
    pub(crate) applied_index: LogIndex,
    pub(crate) applied_term: Term,
    /// The current revision: stored, because survivors of a compaction do not tell it.
    pub(crate) revision: i64,
    /// Logically compacted up to here; -1 is never.
    pub(crate) compact_scheduled: i64,
    /// Physically compacted up to here; -1 is never.
    pub(crate) compact_finished: i64,
    /// How many rows each of the tables `key` and `narrow` holds.
    pub(crate) row_count: u64,
    /// Their weight: encoded values and [`ROW_OVERHEAD_BYTES`] each.
    pub(crate) row_bytes: u64,
    /// The largest weight since the file was last defragmented.
    pub(crate) row_bytes_high: u64,
}

impl StateRecord {
    /// An empty store: no entry applied, revision 1.
    pub(crate) const EMPTY: Self = Self {
        applied_index: LogIndex(0),
        applied_term: Term(0),
        revision: 1,
        compact_scheduled: -1,
        compact_finished: -1,
        row_count: 0,
        row_bytes: 0,
        row_bytes_high: 0,
    };

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(68);
        payload.extend_from_slice(&FORMAT.to_be_bytes());
        for number in [
            self.applied_index.0,
            self.applied_term.0,
            self.revision as u64,
            self.compact_scheduled as u64,
            self.compact_finished as u64,
            self.row_count,
            self.row_bytes,
            self.row_bytes_high,
        ] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        payload
    }

    /// The format number, and the record if that is [`FORMAT`].
    pub(crate) fn decode(payload: &[u8]) -> Option<(u32, Option<Self>)> {
        let (format, rest) = payload.split_first_chunk()?;
        let format = u32::from_be_bytes(*format);
        if format != FORMAT {
            return Some((format, None));
        }
        let (chunks, []) = rest.as_chunks::<8>() else { return None };
        let mut numbers = chunks.iter().map(|chunk| u64::from_be_bytes(*chunk));
        let mut next = || numbers.next();
        let record = Self {
            applied_index: LogIndex(next()?),
            applied_term: Term(next()?),
            revision: next()? as i64,
            compact_scheduled: next()? as i64,
            compact_finished: next()? as i64,
            row_count: next()?,
            row_bytes: next()?,
            row_bytes_high: next()?,
        };
        numbers.next().is_none().then_some((format, Some(record)))
    }
}

//! `mvccpb.KeyValue` by hand: encoded once when a write is applied, read without being decoded.
//!
//! The bytes are etcd's exactly (proto3, fields in order, zero fields absent), because hashes over rows are compared
//! between members.

use bytes::Bytes;
use prost::encoding::{WireType, decode_varint, encode_varint, encoded_len_varint};

const KEY: u8 = 1 << 3 | WireType::LengthDelimited as u8;
const CREATE_REVISION: u8 = 2 << 3 | WireType::Varint as u8;
const MOD_REVISION: u8 = 3 << 3 | WireType::Varint as u8;
const VERSION: u8 = 4 << 3 | WireType::Varint as u8;
const VALUE: u8 = 5 << 3 | WireType::LengthDelimited as u8;
const LEASE: u8 = 6 << 3 | WireType::Varint as u8;

/// A `KeyValue` that borrows its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) version: i64,
    pub(crate) value: &'a [u8],
    pub(crate) lease: i64,
}

fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + encoded_len_varint(bytes.len() as u64) + bytes.len() }
}

fn number_len(number: i64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number as u64) }
}

fn put_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(tag);
        encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

fn put_number(tag: u8, number: i64, out: &mut Vec<u8>) {
    if number != 0 {
        out.push(tag);
        encode_varint(number as u64, out);
    }
}

impl<'a> Fields<'a> {
    /// Length of the message.
    pub(crate) fn encoded_len(&self) -> usize {
        bytes_len(self.key)
            + number_len(self.create_revision)
            + number_len(self.mod_revision)
            + number_len(self.version)
            + bytes_len(self.value)
            + number_len(self.lease)
    }

    /// The message, in memory of exactly its size.
    pub(crate) fn encode(&self) -> Bytes {
        let len = self.encoded_len();
        let mut out = Vec::with_capacity(len);
        put_bytes(KEY, self.key, &mut out);
        put_number(CREATE_REVISION, self.create_revision, &mut out);
        put_number(MOD_REVISION, self.mod_revision, &mut out);
        put_number(VERSION, self.version, &mut out);
        put_bytes(VALUE, self.value, &mut out);
        put_number(LEASE, self.lease, &mut out);
        assert_eq!(out.len(), len, "the length was counted as it is written");
        Bytes::from(out)
    }

    /// Reads a stored row. `None` if it is not a `KeyValue` of known fields.
    pub(crate) fn parse(encoded: &'a [u8]) -> Option<Self> {
        let mut fields = Self::default();
        let mut rest = encoded;
        while let Some((tag, after)) = rest.split_first() {
            rest = after;
            let number = decode_varint(&mut rest).ok()?;
            match *tag {
                KEY | VALUE => {
                    let (bytes, after) = rest.split_at_checked(usize::try_from(number).ok()?)?;
                    rest = after;
                    *(if *tag == KEY { &mut fields.key } else { &mut fields.value }) = bytes;
                }
                CREATE_REVISION => fields.create_revision = number as i64,
                MOD_REVISION => fields.mod_revision = number as i64,
                VERSION => fields.version = number as i64,
                LEASE => fields.lease = number as i64,
                _ => return None,
            }
        }
        Some(fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use quorate_proto::mvccpb::KeyValue;

    use super::*;

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![Just(0), 1..300i64, any::<i64>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..Default::default() })]
        #[test]
        fn encodes_as_the_generated_code_does(
            key in prop::collection::vec(any::<u8>(), 0..200),
            value in prop::collection::vec(any::<u8>(), 0..200),
            create_revision in number(), mod_revision in number(), version in number(), lease in number(),
        ) {
            let generated = KeyValue {
                key: key.clone().into(), create_revision, mod_revision, version, value: value.clone().into(), lease,
            };
            let fields = Fields { key: &key, create_revision, mod_revision, version, value: &value, lease };
            let encoded = fields.encode();
            prop_assert_eq!(&encoded[..], &generated.encode_to_vec()[..]);
            prop_assert_eq!(Fields::parse(&encoded), Some(fields));
        }
    }
}

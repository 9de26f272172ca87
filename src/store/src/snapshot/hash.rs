//! etcd's hash over a whole database file: a CRC-32C over each bucket's name and its pairs, in their order.
//!
//! What may differ between members that hold the same is left out: the position in the log, and the version of the layout
//! (etcd `server/storage/schema/bucket.go`, `DefaultIgnores`).

use super::{BUCKETS, CONSISTENT_INDEX, KEY, META, STORAGE_VERSION, SmallState, SnapshotRowKey, TERM};
use crate::error::StoreError;
use crate::rows::Rows;

const LEFT_OUT: [&str; 3] = [CONSISTENT_INDEX, TERM, STORAGE_VERSION];

/// Reads every row.
pub(crate) fn hash(small: &SmallState, rows: &Rows) -> Result<u32, StoreError> {
    let mut hash = 0;
    let mut add = |bytes: &[u8]| hash = crc32c::crc32c_append(hash, bytes);
    for name in BUCKETS {
        add(name.as_bytes());
        for (key, value) in small.pairs(name, rows.compact_finished()) {
            if name == META && LEFT_OUT.iter().any(|left_out| left_out.as_bytes() == key) {
                continue;
            }
            add(&key);
            add(&value);
        }
        if name == KEY {
            let mut scan = rows.scan(small.revision)?;
            let mut row = |row: crate::row_scan::ScannedRow<'_>| {
                add(SnapshotRowKey::new(row.revision, row.tombstone).bytes());
                add(row.encoded);
            };
            while scan.next(&mut row)?.is_some() {}
        }
    }
    Ok(hash)
}

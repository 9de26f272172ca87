//! A range's answer: filters, order, limit, and what is left out.

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::mvccpb::KeyValue;

use super::{Execution, encoded, header};

impl Execution<'_> {
    pub(super) fn range(&self, range: &pb::RangeRequest) -> pb::RangeResponse {
        let at = (range.revision > 0).then_some(range.revision);
        let mut rows = self.select(&range.key, &range.range_end, at);
        // The count is of the whole range, before filters and limit.
        let count = rows.len() as i64;
        if range.count_only {
            return pb::RangeResponse { header: header(self.revision_now()), kvs: Vec::new(), more: false, count };
        }
        rows.retain(|row| passes(range, row));
        sort(range, &mut rows);
        let limit = usize::try_from(range.limit).unwrap_or(0);
        let more = limit > 0 && rows.len() > limit;
        if more {
            rows.truncate(limit);
        }
        for row in &mut rows {
            if range.keys_only {
                row.value.clear();
                // etcd 3.7 answers from its index then, which knows no leases; only sorting by value reads the rows.
                if range.sort_target() != SortTarget::Value {
                    row.lease = 0;
                }
            }
        }
        pb::RangeResponse { header: header(self.revision_now()), kvs: rows.iter().map(encoded).collect(), more, count }
    }
}

fn passes(range: &pb::RangeRequest, row: &KeyValue) -> bool {
    let within = |at: i64, low: i64, high: i64| (low == 0 || at >= low) && (high == 0 || at <= high);
    within(row.mod_revision, range.min_mod_revision, range.max_mod_revision)
        && within(row.create_revision, range.min_create_revision, range.max_create_revision)
}

/// Rows come in key order. Without an order, a target other than the key sorts upwards. Equals stay in key order, upwards and
/// downwards (etcd leaves that open).
fn sort(range: &pb::RangeRequest, rows: &mut [KeyValue]) {
    let compare = |left: &KeyValue, right: &KeyValue| match range.sort_target() {
        SortTarget::Key => left.key.cmp(&right.key),
        SortTarget::Version => left.version.cmp(&right.version),
        SortTarget::Create => left.create_revision.cmp(&right.create_revision),
        SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
        SortTarget::Value => left.value.cmp(&right.value),
    };
    if range.sort_order() == SortOrder::Descend {
        rows.sort_by(|left, right| compare(right, left));
    } else {
        rows.sort_by(compare);
    }
}

//! Ranges: which keys, at which revision, filtered, sorted, cut.
//!
//! The order of steps is etcd's, because it shows. Keys come in byte order from the index. Unless a sort order or a filter
//! is asked for, no more than the limit (and one, to know whether there is more) are taken. Then filters, then the sort,
//! then the cut. `count` is the number of keys in the range at that revision, whatever filters and limit say.
//!
//! Two of etcd's habits that surprise: a target other than the key with no order sorts ascending, but only what the limit
//! has let through in key order; and keys alone come without their lease, unless the target is the value.
//!
//! Rows are answered as they are stored, encoded. At the current revision the index knows everything but value and row, so
//! counts walk nothing, filters drop keys before their rows are read, and keys alone never touch the database.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use quorate_runtime::bug;
use quorate_types::{Error, Revision};

use super::Snapshot;
use super::encode::Fields;
use super::index::{KeyRange, Version};
use super::revision::RowRevision;
use crate::error::{ReadError, StoreError};

/// Answers a range. The header holds the current revision alone.
pub(crate) fn range(snapshot: &Snapshot<'_>, request: &RangeRequest) -> Result<RangeResponse, ReadError> {
    if request.revision > snapshot.revision {
        return Err(Error::FutureRev.into());
    }
    let at = if request.revision <= 0 { snapshot.revision } else { request.revision };
    if at < snapshot.compacted {
        return Err(Error::Compacted.into());
    }
    let keys = KeyRange::from_request(&request.key, &request.range_end);
    let newest = at == snapshot.revision;
    let mut response = RangeResponse { header: header(snapshot.revision), kvs: Vec::new(), more: false, count: 0 };
    if request.count_only {
        let count = if newest { snapshot.index.count(&keys) } else { snapshot.index.count_at(&keys, Revision(at)) };
        response.count = count as i64;
        return Ok(response);
    }

    let plan = Plan::of(request);
    let mut taken = Taken { snapshot, plan: &plan, kvs: Vec::new(), failed: None, is_cut: false };
    if let (true, Some(key)) = (newest, keys.as_single()) {
        if let Some(version) = snapshot.index.get(key) {
            response.count = 1;
            let _ = taken.newest(key, &version);
        }
    } else if newest {
        let count = snapshot.index.count(&keys);
        response.count = count as i64;
        if request.limit > 0 && bug!("limited-range-counts-what-it-returns") {
            response.count = response.count.min(request.limit);
        }
        taken.kvs.reserve(plan.take_max.min(count as usize).min(RESERVED_ROWS));
        snapshot.index.scan(&keys, |key, version| taken.newest(key, version));
    } else {
        let mut count = 0;
        snapshot.index.scan_at(&keys, Revision(at), |_, row| {
            count += 1;
            if taken.kvs.len() < plan.take_max { taken.older(row) } else { ControlFlow::Continue(()) }
        });
        response.count = count;
    }
    let Taken { mut kvs, failed, .. } = taken;
    if let Some(failed) = failed {
        return Err(failed.into());
    }

    plan.sort(&mut kvs);
    if plan.strip_after_sort {
        kvs.iter_mut().for_each(|kv| *kv = without_value(kv, true));
    }
    if let Ok(limit) = usize::try_from(request.limit)
        && limit > 0
        && kvs.len() > limit
    {
        kvs.truncate(limit);
        response.more = true;
    }
    response.kvs = kvs;
    Ok(response)
}

/// Whether a range within a transaction may be made, asked before anything is written.
pub(crate) fn check_revision(snapshot: &Snapshot<'_>, request: &RangeRequest) -> Result<(), Error> {
    match request.revision {
        0 => Ok(()),
        at if at > snapshot.revision => Err(Error::FutureRev),
        // Without the exception for negative numbers: here they lie below what is compacted.
        at if at < snapshot.compacted => Err(Error::Compacted),
        _ => Ok(()),
    }
}

/// A header that holds a revision and nothing else; the API adds the rest.
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// No answer is made room for beyond this many rows in advance.
const RESERVED_ROWS: usize = 10_000;

/// What to take, and what to make of it.
struct Plan {
    take_max: usize,
    filter: Option<Filter>,
    sort: Option<(SortTarget, SortOrder)>,
    /// Only keys are wanted, and values are not needed for the sort.
    keys_alone: bool,
    /// Only keys are wanted, but the sort needs values.
    strip_after_sort: bool,
}

/// Inclusive bounds; 0 is no bound.
struct Filter {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filter {
    fn passes_mod(&self, revision: i64) -> bool {
        (self.min_mod == 0 || revision >= self.min_mod) && (self.max_mod == 0 || revision <= self.max_mod)
    }

    fn passes_create(&self, revision: i64) -> bool {
        (self.min_create == 0 || revision >= self.min_create) && (self.max_create == 0 || revision <= self.max_create)
    }
}

impl Plan {
    fn of(request: &RangeRequest) -> Self {
        // Unknown numbers are refused long before; taking them for the default keeps all members alike should one come.
        let order = SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None);
        let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
        let natural = order == SortOrder::None || (target == SortTarget::Key && order == SortOrder::Ascend);
        let has_filter = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let take_max = match usize::try_from(request.limit) {
            Ok(limit) if limit > 0 && natural && !has_filter => limit.saturating_add(1),
            _ => usize::MAX,
        };
        Self {
            take_max,
            filter: has_filter.then_some(Filter {
                min_mod: request.min_mod_revision,
                max_mod: request.max_mod_revision,
                min_create: request.min_create_revision,
                max_create: request.max_create_revision,
            }),
            sort: match (target, order) {
                (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
                (target, SortOrder::None) => Some((target, SortOrder::Ascend)),
                (target, order) => Some((target, order)),
            },
            keys_alone: request.keys_only && target != SortTarget::Value,
            strip_after_sort: request.keys_only && target == SortTarget::Value,
        }
    }

    fn sort(&self, kvs: &mut [Bytes]) {
        let Some((target, order)) = self.sort else { return };
        if target == SortTarget::Key {
            // They are in key order already.
            return kvs.reverse();
        }
        let number = |kv: &Bytes| {
            let fields = stored(kv);
            match target {
                SortTarget::Version => fields.version,
                SortTarget::Create => fields.create_revision,
                SortTarget::Mod => fields.mod_revision,
                SortTarget::Key | SortTarget::Value => 0,
            }
        };
        // The sort is stable both ways: equals stay in key order.
        let directed = |ordering: Ordering| if order == SortOrder::Descend { ordering.reverse() } else { ordering };
        if target == SortTarget::Value {
            kvs.sort_by(|a, b| directed(stored(a).value.cmp(stored(b).value)));
        } else {
            kvs.sort_by(|a, b| directed(number(a).cmp(&number(b))));
        }
    }
}

/// Rows taken so far.
struct Taken<'a> {
    snapshot: &'a Snapshot<'a>,
    plan: &'a Plan,
    kvs: Vec<Bytes>,
    failed: Option<StoreError>,
    /// There was too little room: nobody will have this answer.
    is_cut: bool,
}

impl Taken<'_> {
    /// Takes a key in its newest state.
    fn newest(&mut self, key: &[u8], version: &Version) -> ControlFlow<()> {
        if let Some(filter) = &self.plan.filter
            && !(filter.passes_mod(version.row.main) && filter.passes_create(version.create))
        {
            return ControlFlow::Continue(());
        }
        if self.plan.keys_alone {
            let fields = Fields {
                key,
                create_revision: version.create,
                mod_revision: version.row.main,
                version: version.version,
                ..Fields::default()
            };
            return self.take(fields.encode());
        }
        match self.snapshot.rows.get(version.row) {
            Ok(kv) => self.take(kv),
            Err(error) => self.fail(error),
        }
    }

    /// Takes a key in an older state.
    fn older(&mut self, row: RowRevision) -> ControlFlow<()> {
        if let Some(filter) = &self.plan.filter
            && !filter.passes_mod(row.main)
        {
            return ControlFlow::Continue(());
        }
        let kv = match self.snapshot.rows.get(row) {
            Ok(kv) => kv,
            Err(error) => return self.fail(error),
        };
        if let Some(filter) = &self.plan.filter
            && !filter.passes_create(stored(&kv).create_revision)
        {
            return ControlFlow::Continue(());
        }
        let kv = if self.plan.keys_alone { without_value(&kv, false) } else { kv };
        // At an older revision the walk goes on, to count.
        let _ = self.take(kv);
        if self.is_cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn take(&mut self, kv: Bytes) -> ControlFlow<()> {
        self.is_cut = !self.snapshot.take_room(kv.len());
        if self.is_cut {
            return ControlFlow::Break(());
        }
        self.kvs.push(kv);
        if self.kvs.len() < self.plan.take_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn fail(&mut self, error: StoreError) -> ControlFlow<()> {
        self.failed = Some(error);
        ControlFlow::Break(())
    }
}

/// The fields of a row. It was encoded here, and checked when it was read back.
pub(crate) fn stored(kv: &Bytes) -> Fields<'_> {
    Fields::parse(kv).expect("a row that passed its checksum is a KeyValue")
}

fn without_value(kv: &Bytes, keep_lease: bool) -> Bytes {
    let fields = stored(kv);
    Fields { value: &[], lease: if keep_lease { fields.lease } else { 0 }, ..fields }.encode()
}

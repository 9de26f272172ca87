//! Transactions: compare, then do one of two lists of operations, which may hold transactions again.
//!
//! 1. **Compare.** All comparisons, those of the nested transactions on the way included, look at the state before the
//!    entry. That fixes the path: which branch, at each level.
//! 2. **Check.** The operations along the path, and only those, are checked against that same state: a range's revision, a
//!    put's lease and flags. A failure refuses the whole and changes nothing.
//! 3. **Execute.** Operations run in order, see what earlier ones wrote, and share one revision. Nothing is refused any
//!    more. Execution can stop after any number of rows and go on later ([`Execution`]).

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::vec;

use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::etcdserverpb::{
    Compare, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use quorate_types::Error;

use super::Snapshot;
use super::index::{KeyRange, Version};
use super::range::{check_revision, header, range, stored};
use super::write::{Delete, Writes, check_put, needs_previous};
use crate::error::{ReadError, StoreError};
use crate::state::State;

/// True if a transaction holds nothing but ranges: it needs no log entry.
///
/// A nested transaction makes it false whatever that holds, as in etcd.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Which branch is taken: of the transaction itself first, then of each nested one on the way, in order.
pub(crate) struct Path(vec::IntoIter<bool>);

impl Path {
    /// Compares.
    pub(crate) fn of(snapshot: &Snapshot<'_>, request: &TxnRequest) -> Result<Self, StoreError> {
        let mut taken = Vec::with_capacity(1);
        Self::append(snapshot, request, &mut taken)?;
        Ok(Self(taken.into_iter()))
    }

    fn append(snapshot: &Snapshot<'_>, request: &TxnRequest, taken: &mut Vec<bool>) -> Result<(), StoreError> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !holds(snapshot, compare)? {
                succeeded = false;
                break;
            }
        }
        taken.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                Self::append(snapshot, nested, taken)?;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> bool {
        self.0.next().expect("the path has a place for each transaction on the way")
    }

    /// The same path from its start again.
    fn again(&self) -> Self {
        Self(self.0.as_slice().to_vec().into_iter())
    }
}

/// Whether a comparison holds: for every key of its range, or for a missing key if there is none.
fn holds(snapshot: &Snapshot<'_>, compare: &Compare) -> Result<bool, StoreError> {
    let keys = KeyRange::from_request(&compare.key, &compare.range_end);
    let mut found = false;
    let mut all = true;
    let mut failed = None;
    let mut visit = |version: &Version| {
        found = true;
        match key_holds(snapshot, compare, version) {
            Ok(holds) => all = holds,
            Err(error) => failed = Some(error),
        }
        if all && failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match keys.as_single() {
        Some(key) => {
            if let Some(version) = snapshot.index.get(key) {
                let _ = visit(&version);
            }
        }
        None => snapshot.index.scan(&keys, |_, version| visit(version)),
    }
    match failed {
        Some(error) => Err(error),
        None if found => Ok(all),
        None => Ok(missing_holds(compare)),
    }
}

fn key_holds(snapshot: &Snapshot<'_>, compare: &Compare, version: &Version) -> Result<bool, StoreError> {
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let kv = snapshot.rows.get(version.row)?;
            stored(&kv).value.cmp(wanted_value(compare))
        }
        Ok(CompareTarget::Version) => version.version.cmp(&wanted_number(compare)),
        Ok(CompareTarget::Create) => version.create.cmp(&wanted_number(compare)),
        Ok(CompareTarget::Mod) => version.row.main.cmp(&wanted_number(compare)),
        Ok(CompareTarget::Lease) => version.lease.0.cmp(&wanted_number(compare)),
        Err(_) => Ordering::Equal,
    };
    Ok(result_holds(compare, ordering))
}

/// A missing key has 0 for every number, and no value, which differs from every value and from itself.
fn missing_holds(compare: &Compare) -> bool {
    match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => false,
        Ok(_) => result_holds(compare, 0.cmp(&wanted_number(compare))),
        Err(_) => result_holds(compare, Ordering::Equal),
    }
}

fn result_holds(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

/// The number compared with: that of the comparison's own target; one meant for another target counts as 0.
fn wanted_number(compare: &Compare) -> i64 {
    match (CompareTarget::try_from(compare.target), &compare.target_union) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(number)))
        | (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(number)))
        | (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(number)))
        | (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(number))) => *number,
        _ => 0,
    }
}

fn wanted_value(compare: &Compare) -> &[u8] {
    match &compare.target_union {
        Some(TargetUnion::Value(value)) => value,
        _ => &[],
    }
}

/// Checks the operations on the path of a transaction that writes.
pub(crate) fn check(state: &State, request: &TxnRequest, path: &Path) -> Result<(), Error> {
    check_along(state, request, &mut path.again())
}

fn check_along(state: &State, request: &TxnRequest, path: &mut Path) -> Result<(), Error> {
    for op in if path.next() { &request.success } else { &request.failure } {
        match &op.request {
            Some(Request::RequestRange(range)) => check_revision(&state.snapshot(), range)?,
            Some(Request::RequestPut(put)) => check_put(state, put)?,
            Some(Request::RequestTxn(nested)) => check_along(state, nested, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// Answers a transaction that holds nothing but ranges.
pub(crate) fn read(snapshot: &Snapshot<'_>, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
    assert!(is_read_only(request), "a transaction that writes goes through the log");
    let succeeded = Path::of(snapshot, request)?.next();
    let ranges =
        if succeeded { &request.success } else { &request.failure }.iter().filter_map(|op| match &op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        });
    for request in ranges.clone() {
        check_revision(snapshot, request)?;
    }
    let responses = ranges
        .map(|request| Ok(ResponseOp { response: Some(Response::ResponseRange(range(snapshot, request)?)) }))
        .collect::<Result<_, ReadError>>()?;
    Ok(TxnResponse { header: header(snapshot.revision), succeeded, responses })
}

/// One level of a transaction: what is still to do, what was answered.
struct Level {
    ops: vec::IntoIter<RequestOp>,
    response: TxnResponse,
}

/// The third step, resumable.
pub(crate) struct Execution {
    path: Path,
    /// The transaction and the nested ones that are under way, innermost last.
    levels: Vec<Level>,
    /// The delete that was interrupted.
    delete: Option<Delete>,
}

impl Execution {
    pub(crate) fn new(request: TxnRequest, path: Path) -> Self {
        let mut execution = Self { path, levels: Vec::with_capacity(1), delete: None };
        execution.enter(request);
        execution
    }

    /// Asked before the first step. False for puts alone that read nothing, and for ranges alone that write nothing.
    pub(crate) fn may_stop_halfway(&self) -> bool {
        let ops = self.levels.iter().flat_map(|level| level.ops.as_slice()).filter_map(|op| op.request.as_ref());
        let (mut reads, mut writes) = (false, false);
        for op in ops {
            let (op_reads, op_writes) = match op {
                Request::RequestRange(_) => (true, false),
                Request::RequestPut(put) => (needs_previous(put), true),
                Request::RequestDeleteRange(_) | Request::RequestTxn(_) => (true, true),
            };
            reads |= op_reads;
            writes |= op_writes;
        }
        reads && writes
    }

    fn enter(&mut self, request: TxnRequest) {
        let succeeded = self.path.next();
        let ops = if succeeded { request.success } else { request.failure };
        let responses = Vec::with_capacity(ops.len());
        // A nested answer's header stays empty; the outermost one's revision is filled in at the end.
        let header = Some(ResponseHeader::default());
        self.levels.push(Level { ops: ops.into_iter(), response: TxnResponse { header, succeeded, responses } });
    }

    /// Executes until the budget of rows is spent; the answer once all is done.
    pub(crate) fn step(
        &mut self,
        state: &mut State,
        writes: &mut Writes,
        budget_rows: &mut usize,
    ) -> Result<Option<TxnResponse>, StoreError> {
        loop {
            let response = if let Some(delete) = &mut self.delete {
                match delete.step(state, writes, budget_rows)? {
                    Some(response) => {
                        self.delete = None;
                        Some(Response::ResponseDeleteRange(response))
                    }
                    None => return Ok(None),
                }
            } else {
                let level = self.levels.last_mut().expect("a transaction is under way until it is answered");
                match level.ops.next().map(|op| op.request) {
                    Some(Some(Request::RequestRange(request))) => {
                        writes.done.ranges += 1;
                        Some(Response::ResponseRange(execute_range(state, writes, &request)?))
                    }
                    Some(Some(Request::RequestPut(request))) => {
                        *budget_rows = budget_rows.saturating_sub(1);
                        Some(Response::ResponsePut(writes.put(state, &request)?))
                    }
                    Some(Some(Request::RequestDeleteRange(request))) => {
                        self.delete = Some(Delete::new(request));
                        continue;
                    }
                    Some(Some(Request::RequestTxn(request))) => {
                        self.enter(request);
                        continue;
                    }
                    Some(None) => None,
                    None => {
                        let mut done = self.levels.pop().map(|level| level.response).unwrap_or_default();
                        if self.levels.is_empty() {
                            done.header = header(writes.revision());
                            return Ok(Some(done));
                        }
                        Some(Response::ResponseTxn(done))
                    }
                }
            };
            let level = self.levels.last_mut().expect("an answered operation belongs to a transaction");
            level.response.responses.push(ResponseOp { response });
        }
    }
}

fn execute_range(state: &State, writes: &Writes, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
    match range(&writes.snapshot(state), request) {
        Ok(response) => Ok(response),
        Err(ReadError::Damaged(error) | ReadError::Closed(error)) => Err(error),
        Err(ReadError::Refused(error)) => unreachable!("the range was checked before: {error}"),
    }
}

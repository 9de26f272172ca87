//! The only door: how one log entry changes the state.
//!
//! An entry's effect depends on the state and the entry alone, on no clock, no randomness, no setting that may differ
//! between members (etcd has three exceptions, and so have we: the lease minimum and the learner limit, which operators must
//! keep equal, and the quota, which only reports). An entry that is refused changes nothing but the applied index. Nothing
//! here panics on what an entry says: what etcd's members would die of is refused, on all members alike.
//!
//! The order of refusals is etcd's: CORRUPT alarm, NOSPACE alarm, then the request's own. The quota speaks last: what does
//! not fit is written all the same, so that members stay equal, and then answered as an error.

use quorate_proto::etcdserverpb::{
    AlarmResponse, AlarmType, CompactionResponse, DeleteRangeResponse, InternalRaftRequest, LeaseGrantResponse,
    LeaseRevokeResponse, PutResponse, TxnResponse,
};
use quorate_proto::membershippb::DowngradeInfoSetRequest;
use quorate_proto::raftpb::{ConfChange, ConfState};
use quorate_runtime::bug;
use quorate_types::{Error, LeaseId, Revision};

use crate::StoreOptions;
use crate::error::StoreError;
use crate::membership::{Downgrade, Member};
use crate::mvcc::range::header;
use crate::mvcc::txn::{self, Execution, Path};
use crate::mvcc::write::{Delete, SLICE_ROWS, Writes, check_put};
use crate::quota;
use crate::state::State;
use crate::sync::Arc;

/// What one log entry asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Nothing: a new leader's first entry, or a conf change that raft refused. Only the applied index moves.
    Empty,
    /// A normal entry.
    Request(Box<InternalRaftRequest>),
    /// A change of the cluster's members that raft has made, and raft's configuration after it.
    ConfChange {
        /// The change, its context etcd's JSON.
        change: ConfChange,
        /// Stored with the next flush.
        conf_state: ConfState,
    },
    /// A change of members that [`Store::check_conf_change`](crate::Store::check_conf_change) refused with this error, which
    /// is the answer. Only the applied index moves.
    RefusedConfChange(Error),
}

/// How far an entry has got.
#[derive(Debug, PartialEq)]
pub enum Progress {
    /// It is applied.
    Done(Outcome),
    /// It is long: let others run, then call [`Store::resume`](crate::Store::resume).
    More,
}

/// What became of an entry.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The answer. Headers hold the revision alone.
    pub result: Result<Response, Error>,
    /// It was applied although it does not fit the quota: this member has to propose a NOSPACE alarm.
    pub over_quota: bool,
}

/// What is answered to whoever proposed an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// It is done, and there is nothing to say.
    Empty,
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
    /// To a compaction, once it is logically done.
    Compaction(CompactionResponse),
    /// To a grant.
    LeaseGrant(LeaseGrantResponse),
    /// To a revocation.
    LeaseRevoke(LeaseRevokeResponse),
    /// To an alarm request.
    Alarm(AlarmResponse),
    /// To a change of members: who they are now, ordered by id.
    Members(Vec<Member>),
}

/// An entry that writes, and may take more than one slice.
pub(crate) struct Long {
    writes: Writes,
    work: Work,
    /// The quota's verdict, taken before the first write.
    fits: bool,
}

enum Work {
    Delete(Delete),
    Txn(Execution),
    Revoke(LeaseId),
}

impl Work {
    /// True unless all of it is done in one step that cannot fail once something was written.
    fn may_stop_halfway(&self) -> bool {
        match self {
            Self::Delete(delete) => delete.may_stop_halfway(),
            Self::Txn(execution) => execution.may_stop_halfway(),
            Self::Revoke(_) => true,
        }
    }
}

/// What the start of an entry comes to.
pub(crate) enum Start {
    Done(Outcome),
    Long(Box<Long>),
}

impl Start {
    fn answer(result: Result<Response, Error>) -> Self {
        Self::Done(Outcome { result, over_quota: false })
    }
}

/// Applies an entry, or the beginning of a long one. The applied index is the caller's to move. Before the first change of what
/// may stop in the middle, because it is long or because a read fails, `show` gets the state.
pub(crate) fn start(
    state: &mut State,
    options: &StoreOptions,
    command: Command,
    show: &dyn Fn(&State),
) -> Result<Start, StoreError> {
    match command {
        Command::Empty => Ok(Start::answer(Ok(Response::Empty))),
        Command::RefusedConfChange(error) => Ok(Start::answer(Err(error))),
        Command::ConfChange { change, conf_state } => {
            state.conf_state = Arc::new(conf_state);
            let membership = Arc::make_mut(&mut state.membership);
            let result = membership.apply(&change, options.max_learners);
            Ok(Start::answer(result.map(|()| Response::Members(membership.members().to_vec()))))
        }
        Command::Request(request) => {
            if let Some(error) = refusal_by_alarm(state, &request) {
                return Ok(Start::answer(Err(error)));
            }
            let fits = quota::fits(options.quota_bytes, state.db_size_bytes(), quota::cost_bytes(&request));
            let mut start = start_request(state, options, *request, fits, show)?;
            if let Start::Done(outcome) = &mut start {
                judge(outcome, fits);
            }
            Ok(start)
        }
    }
}

/// Goes on with a long entry; the outcome once it is complete.
pub(crate) fn resume(state: &mut State, long: &mut Long) -> Result<Option<Outcome>, StoreError> {
    let mut budget_rows = SLICE_ROWS;
    let Long { writes, work, fits } = long;
    let response = match work {
        Work::Delete(delete) => delete.step(state, writes, &mut budget_rows)?.map(Response::DeleteRange),
        Work::Txn(execution) => execution.step(state, writes, &mut budget_rows)?.map(Response::Txn),
        Work::Revoke(id) => writes.delete_attached(state, *id, &mut budget_rows).then(|| {
            state.leases.revoke(*id);
            Response::LeaseRevoke(LeaseRevokeResponse { header: header(writes.revision()) })
        }),
    };
    Ok(response.map(|response| {
        writes.finish(state);
        let mut outcome = Outcome { result: Ok(response), over_quota: false };
        judge(&mut outcome, *fits);
        outcome
    }))
}

/// Says that there was no space to one who did get it.
fn judge(outcome: &mut Outcome, fits: bool) {
    if outcome.result.is_ok() && !fits {
        *outcome = Outcome { result: Err(Error::NoSpace), over_quota: true };
    }
}

fn refusal_by_alarm(state: &State, request: &InternalRaftRequest) -> Option<Error> {
    let touches_keys_or_leases = request.range.is_some()
        || request.put.is_some()
        || request.delete_range.is_some()
        || request.txn.is_some()
        || request.compaction.is_some()
        || request.lease_grant.is_some()
        || request.lease_revoke.is_some();
    if touches_keys_or_leases && state.alarms.stands(AlarmType::Corrupt) {
        return Some(Error::Corrupt);
    }
    // What costs nothing, such as a transaction without puts, may still be done.
    let is_full = state.alarms.stands(AlarmType::Nospace) && !bug!("no-space-stops-nobody");
    if is_full && quota::cost_bytes(request) > 0 {
        return Some(Error::NoSpace);
    }
    None
}

fn start_request(
    state: &mut State,
    options: &StoreOptions,
    request: InternalRaftRequest,
    fits: bool,
    show: &dyn Fn(&State),
) -> Result<Start, StoreError> {
    let result = if let Some(put) = &request.put {
        match check_put(state, put) {
            Ok(()) => {
                let mut writes = Writes::begin(state);
                let response = writes.put(state, put)?;
                writes.finish(state);
                Ok(Response::Put(response))
            }
            Err(error) => Err(error),
        }
    } else if let Some(txn) = request.txn {
        let path = Path::of(&state.snapshot(), &txn)?;
        match txn::check(state, &txn, &path) {
            Ok(()) => return start_long(state, Work::Txn(Execution::new(txn, path)), fits, show),
            Err(error) => Err(error),
        }
    } else if let Some(delete) = request.delete_range {
        return start_long(state, Work::Delete(Delete::new(delete)), fits, show);
    } else if let Some(compaction) = request.compaction {
        compact(state, Revision(compaction.revision)).map(Response::Compaction)
    } else if let Some(grant) = request.lease_grant {
        let ttl = state.leases.grant(LeaseId(grant.id), grant.ttl, options.lease_ttl_min_secs);
        ttl.map(|ttl| {
            let header = header(state.revision);
            Response::LeaseGrant(LeaseGrantResponse { header, id: grant.id, ttl, error: String::new() })
        })
    } else if let Some(revoke) = request.lease_revoke {
        if state.leases.exists(LeaseId(revoke.id)) {
            return start_long(state, Work::Revoke(LeaseId(revoke.id)), fits, show);
        }
        Err(Error::LeaseNotFound)
    } else if let Some(checkpoint) = request.lease_checkpoint {
        for checkpoint in checkpoint.checkpoints {
            state.leases.checkpoint(LeaseId(checkpoint.id), checkpoint.remaining_ttl);
        }
        Ok(Response::Empty)
    } else if let Some(alarm) = request.alarm {
        let alarms = state.alarms.apply(&alarm);
        Ok(Response::Alarm(AlarmResponse { header: header(state.revision), alarms }))
    } else if let Some(attributes) = request.cluster_member_attr_set {
        Arc::make_mut(&mut state.membership).set_attributes(&attributes).map(|()| Response::Empty)
    } else if let Some(version) = request.cluster_version_set {
        Arc::make_mut(&mut state.membership).set_cluster_version(&version.ver).map(|()| Response::Empty)
    } else if let Some(DowngradeInfoSetRequest { enabled, ver }) = request.downgrade_info_set {
        let downgrade = Downgrade { target_version: ver, enabled };
        Arc::make_mut(&mut state.membership).set_downgrade(downgrade).map(|()| Response::Empty)
    } else {
        without_handler(&request)
    };
    Ok(Start::answer(result))
}

fn start_long(state: &mut State, work: Work, fits: bool, show: &dyn Fn(&State)) -> Result<Start, StoreError> {
    if work.may_stop_halfway() {
        show(state);
    }
    let mut long = Long { writes: Writes::begin(state), work, fits };
    Ok(match resume(state, &mut long)? {
        Some(outcome) => Start::Done(outcome),
        None => Start::Long(Box::new(long)),
    })
}

/// Moves the bound below which nothing can be read; the rows go later.
fn compact(state: &mut State, at: Revision) -> Result<CompactionResponse, Error> {
    if at.0 <= state.compacted {
        return Err(Error::Compacted);
    }
    if at.0 > state.revision {
        return Err(Error::FutureRev);
    }
    state.compacted_before = Some(state.compacted);
    state.compacted = at.0;
    Ok(CompactionResponse { header: header(state.revision) })
}

/// Requests that change nothing, and those of features that this version does not have.
///
/// The latter are refused as an etcd whose auth store is empty refuses them, where it does; else as not capable.
fn without_handler(request: &InternalRaftRequest) -> Result<Response, Error> {
    let reads = request.range.is_some()
        || request.auth_status.is_some()
        || request.auth_user_get.is_some()
        || request.auth_role_get.is_some();
    if reads || request.downgrade_version_test.is_some() {
        // Reads once went through the log; they are answered where they were asked, or not at all.
        Ok(Response::Empty)
    } else if request.authenticate.is_some() {
        Err(Error::AuthNotEnabled)
    } else if request.auth_enable.is_some() {
        Err(Error::RootUserNotExist)
    } else if request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
    {
        Err(Error::UserNotFound)
    } else if request.auth_role_delete.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
    {
        Err(Error::RoleNotFound)
    } else {
        Err(Error::NotCapable)
    }
}

//! Revisions that nobody claims and nobody could read: a member compacted by itself before the harness looked.
//!
//! Members tell which request made a revision as they apply it ([`Evidence::committed`]). What it changed is for the model to say;
//! so a store that applies it otherwise still contradicts what is read later.

use prost::Message as _;
use quorate_proto::etcdserverpb::InternalRaftRequest;

use super::Evidence;
use crate::history::{Request, RevisionDiff};
use crate::model::Model;

/// What `revision` has changed, by the request that made it. `model` is the state before.
pub(super) fn diff(model: &Model, revision: i64, evidence: &Evidence) -> Result<RevisionDiff, String> {
    let unread = || format!("nobody claims revision {revision}, and it was not read before it was compacted");
    // The state before it has to be read, too.
    let may_be_hidden = evidence.auto_compactions.iter().any(|compaction| compaction.revision >= revision);
    let encoded = evidence.committed.get(&revision).filter(|_| may_be_hidden).ok_or_else(unread)?;
    let committed = InternalRaftRequest::decode(&encoded[..])
        .map_err(|error| format!("the request that made revision {revision} does not decode: {error}"))?;
    if let Some(revocation) = committed.lease_revoke {
        let keys = model.keys_of_lease(revocation.id, revision - 1);
        return Ok(keys.into_iter().map(|key| (key, None)).collect());
    }
    let request = match (committed.put, committed.delete_range, committed.txn) {
        (Some(put), _, _) => Request::Put(put),
        (_, Some(delete), _) => Request::Delete(delete),
        (_, _, Some(txn)) => Request::Txn(txn),
        _ => return Err(format!("revision {revision} was made by a request that changes nothing")),
    };
    let (_, changes) = model.try_at(&request, revision - 1);
    Ok(model.effect(revision - 1, &changes))
}

//! The Lock service.
//!
//! A Lock puts its key, or finds it there already, waits until it is the first of its queue, and looks whether its lease has
//! lasted so long. The answer's revision is one at which the caller owned the lock.

use std::sync::Arc;

use quorate_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
use quorate_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use quorate_runtime::bug;
use tonic::Status;

use super::{
    Place, created_at, first_of, get, key_values, put_op, queue_key, queue_prefix, range_op, read_in, revision_of,
    told, unexpected_part,
};
use crate::service::Api;

/// What etcd says to who has lost his lease while he waited.
const SESSION_EXPIRED: &str = "mutex: session is expired";

impl Api {
    /// Lock.Lock: answers once the caller owns the lock, for as long as its lease lives and it does not unlock. A lease of 0
    /// gets the caller a new one of 60 seconds. Who owns the lock already by that lease is answered at once.
    ///
    /// # Errors
    /// That of the transaction or read that failed, as `Unknown`; and if the lease has ended meanwhile.
    pub async fn lock(self: Arc<Self>, request: LockRequest) -> Result<LockResponse, Status> {
        let lease = self.session(request.lease).await?;
        let prefix = queue_prefix(&request.name);
        let key = queue_key(&prefix, lease);
        let queue = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![
                put_op(PutRequest { key: key.clone(), lease, ..Default::default() }),
                range_op(first_of(&prefix)),
            ],
            failure: vec![range_op(get(&key)), range_op(first_of(&prefix))],
        };
        let queued = Arc::clone(&self).txn(queue).await.map_err(told)?;
        let create_revision = match queued.succeeded {
            true => revision_of(queued.header.as_ref()),
            false => read_in(&queued.responses, 0)?.pop().ok_or_else(|| unexpected_part(None))?.create_revision,
        };
        let owner = read_in(&queued.responses, 1)?.pop();
        if owner.is_none_or(|owner| owner.create_revision == create_revision) {
            return Ok(LockResponse { header: queued.header, key });
        }
        let place = Place::new(&self, key.clone(), create_revision);
        if !bug!("lock-given-at-once") {
            self.wait_for_turn(&prefix, create_revision).await.map_err(told)?;
        }
        let mine = Arc::clone(&self).range(get(&key)).await.map_err(told)?;
        let is_there = !key_values(&mine)?.is_empty();
        if !is_there && !bug!("lock-given-to-who-lost-its-lease") {
            return Err(Status::unknown(SESSION_EXPIRED));
        }
        place.keep();
        Ok(LockResponse { header: mine.header, key })
    }

    /// Lock.Unlock: deletes the key that Lock has answered. A key that is not there is no error.
    ///
    /// # Errors
    /// That of the deletion, as `Unknown`.
    pub async fn unlock(self: Arc<Self>, request: UnlockRequest) -> Result<UnlockResponse, Status> {
        let delete = DeleteRangeRequest { key: request.key, ..Default::default() };
        let deleted = self.delete_range(delete).await.map_err(told)?;
        Ok(UnlockResponse { header: deleted.header })
    }
}

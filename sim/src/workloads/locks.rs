//! Locks: waited for, held while something is written under them, given back, or lost with their lease.
//!
//! A client queues under a lease of its own; what it writes as the owner is guarded by its key in the lock's queue, as etcd
//! advises. It lets leases end, unlocks what it does not own any more, and goes away while it waits.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::CompareResult;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::v3lockpb::{LockRequest as Lock, UnlockRequest as Unlock};
use quorate_runtime::BoxFuture;

use super::{Client, Workload};
use crate::history::lease::{LeaseAnswer, LeaseRequest};
use crate::history::lock::{LockAnswer, LockRequest};
use crate::history::{Outcome, Request, queue};
use crate::world::clock;
use crate::world::dice::Dice;

/// See the module.
pub struct Locks {
    /// So many locks exist.
    names: u64,
    /// Longest time that is asked for a lease, in seconds.
    ttl_max_secs: u64,
    /// How long it waits for a lock at most.
    patience_max_ms: u64,
    /// Most writes of an owner.
    writes_max: u64,
    /// Odds, in percent, that an owner does not unlock and does not renew.
    forgets: u64,
    /// Odds, in percent, that somebody asks again for what he may own already.
    asks_again: u64,
}

impl Locks {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            names: dice.between(1, 3),
            ttl_max_secs: dice.between(1, 10),
            patience_max_ms: dice.between(500, 10_000),
            writes_max: dice.between(1, 8),
            forgets: dice.below(25),
            asks_again: dice.below(30),
        }
    }
}

impl Workload for Locks {
    fn name(&self) -> &'static str {
        "locks"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut lease = None;
            while client.goes_on() {
                lease = self.turn(client, lease).await;
                client.think().await;
            }
        })
    }
}

impl Locks {
    /// One lock, from asking for it to giving it back. Returns the lease if it may still live.
    async fn turn(&self, client: &mut Client, lease: Option<i64>) -> Option<i64> {
        let lease = match lease {
            Some(lease) => lease,
            None => client.grant(self.ttl_max_secs).await?,
        };
        let name: Bytes = format!("lock{}", client.dice.below(self.names)).into();
        let patience = Duration::from_millis(client.dice.between(100, self.patience_max_ms));
        let asked = LockRequest::Lock(Lock { name, lease });
        let Outcome::Answered(LockAnswer::Lock(owned)) = client.lock(asked.clone(), patience).await else {
            // It may stand in the queue; whoever has lost his lease is told so.
            let has_lost_it = ["lease not found", "expired"].iter().any(|what| client.last_error.contains(what));
            return (!has_lost_it && client.dice.percent(70)).then_some(lease);
        };
        let forgets = client.dice.percent(self.forgets);
        let writes = client.dice.between(1, self.writes_max);
        for _ in 0..writes {
            if client.dice.percent(self.asks_again) {
                client.lock(asked.clone(), patience).await;
            }
            write_as_owner(client, &owned.key).await;
            if !forgets && client.dice.percent(50) {
                client.lease(LeaseRequest::KeepAlive(pb::LeaseKeepAliveRequest { id: lease })).await;
            }
            client.think().await;
        }
        if forgets {
            if client.dice.percent(30) {
                client.lease(LeaseRequest::Revoke(pb::LeaseRevokeRequest { id: lease })).await;
            }
            return None;
        }
        client.unlock(owned.key).await;
        Some(lease)
    }
}

/// A put that happens only as long as the owner's key is there.
async fn write_as_owner(client: &mut Client, owned: &Bytes) {
    let mark = client.mark();
    let (key, value) = (client.key(), client.value(&mark, 0));
    let is_owner = queue::created(owned, CompareResult::Greater, 0);
    let put = pb::RequestOp { request: Some(Op::RequestPut(pb::PutRequest { key, value, ..Default::default() })) };
    let guarded = pb::TxnRequest { compare: vec![is_owner], success: vec![put], failure: Vec::new() };
    client.call(Request::Txn(guarded)).await;
}

impl Client {
    /// A lease for its queues of `ttl_max_secs` or less, whose id the member chooses; none if there was no answer.
    pub(super) async fn grant(&mut self, ttl_max_secs: u64) -> Option<i64> {
        let ttl = self.dice.between(1, ttl_max_secs) as i64;
        match self.lease(LeaseRequest::Grant(pb::LeaseGrantRequest { ttl, id: 0 })).await {
            Outcome::Answered(LeaseAnswer::Grant(granted)) => Some(granted.id),
            _ => {
                let pause_ms = self.dice.between(10, 200);
                clock::sleep(Duration::from_millis(pause_ms)).await;
                None
            }
        }
    }

    async fn unlock(&mut self, key: Bytes) {
        let patience = self.options.timeout;
        self.lock(LockRequest::Unlock(Unlock { key }), patience).await;
    }
}

//! Leases: granted for some seconds, given keys, kept alive or left to die, revoked, and asked about.
//!
//! A client has a few leases of its own, and now and then speaks of another's, or of one that never was. It renews by calls of
//! one message, and by streams on which several are under way.

use std::time::Duration;

use quorate_client::KeepAliveStream;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_runtime::BoxFuture;

use super::{Client, Workload};
use crate::history::lease::{LeaseAnswer, LeaseRequest};
use crate::history::{Outcome, Request};
use crate::world::clock;
use crate::world::dice::Dice;

/// Ids that clients choose themselves are below this, so that they meet.
const CHOSEN_IDS: u64 = 40;

/// See the module. Percentages of the actions; the rest are renewals.
pub struct Leases {
    /// Most leases that a client has.
    leases_max: u64,
    /// Longest time that is asked for, in seconds.
    ttl_max_secs: u64,
    grants: u64,
    puts: u64,
    revokes: u64,
    questions: u64,
    /// Odds, in percent, that it lets all its leases alone for a while.
    rests: u64,
    /// Odds, in percent, that a renewal goes over a stream.
    streams: u64,
}

impl Leases {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            leases_max: dice.magnitude(1, 20),
            ttl_max_secs: dice.between(1, 12),
            grants: dice.between(5, 25),
            puts: dice.between(10, 40),
            revokes: dice.below(10),
            questions: dice.below(15),
            rests: dice.below(6),
            streams: dice.below(100),
        }
    }
}

impl Workload for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut held = Vec::new();
            while client.goes_on() {
                self.step(client, &mut held).await;
                client.think().await;
            }
        })
    }
}

impl Leases {
    async fn step(&self, client: &mut Client, held: &mut Vec<i64>) {
        let mut drawn = client.dice.below(100);
        let mut chosen = |percent: u64| {
            let chosen = drawn < percent;
            drawn = drawn.wrapping_sub(percent);
            chosen
        };
        if held.is_empty() || (chosen(self.grants) && (held.len() as u64) < self.leases_max) {
            self.grant(client, held).await;
        } else if chosen(self.puts) {
            attach(client, held).await;
        } else if chosen(self.revokes) {
            let id = some_lease(client, held);
            let revoked = client.lease(LeaseRequest::Revoke(pb::LeaseRevokeRequest { id })).await;
            if !matches!(revoked, Outcome::Unknown) {
                held.retain(|other| *other != id);
            }
        } else if chosen(self.questions) {
            if client.dice.percent(20) {
                client.lease(LeaseRequest::Leases(pb::LeaseLeasesRequest {})).await;
            } else {
                let (id, keys) = (some_lease(client, held), client.dice.percent(50));
                client.lease(LeaseRequest::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys })).await;
            }
        } else if chosen(self.rests) {
            if client.dice.percent(50) {
                renew_too_late(client, held).await;
            } else {
                let pause_ms = client.dice.between(500, 1500 * self.ttl_max_secs);
                clock::sleep(Duration::from_millis(pause_ms)).await;
            }
        } else if client.dice.percent(self.streams) {
            renew_all(client, held).await;
        } else {
            let id = some_lease(client, held);
            renew(client, held, id).await;
        }
    }

    async fn grant(&self, client: &mut Client, held: &mut Vec<i64>) {
        let id = if client.dice.percent(30) { 1 + client.dice.below(CHOSEN_IDS) as i64 } else { 0 };
        // Less than a member grants is raised.
        let ttl = client.dice.between(0, self.ttl_max_secs) as i64;
        let granted = client.lease(LeaseRequest::Grant(pb::LeaseGrantRequest { ttl, id })).await;
        if let Outcome::Answered(LeaseAnswer::Grant(granted)) = granted {
            held.push(granted.id);
        }
    }
}

/// Mostly one of its own.
fn some_lease(client: &mut Client, held: &[i64]) -> i64 {
    if held.is_empty() || client.dice.percent(5) {
        return 1 + client.dice.below(CHOSEN_IDS) as i64;
    }
    *client.dice.pick(held)
}

/// Gives a lease a key, or some in one transaction.
async fn attach(client: &mut Client, held: &[i64]) {
    let lease = some_lease(client, held);
    let mark = client.mark();
    let count = if client.dice.percent(70) { 1 } else { client.dice.between(2, 5) };
    let mut puts = Vec::new();
    for part in 0..count {
        let key = client.key();
        if puts.iter().any(|put: &pb::PutRequest| put.key == key) {
            continue;
        }
        let value = client.value(&mark, part);
        puts.push(pb::PutRequest { key, value, lease, ..Default::default() });
    }
    if puts.len() == 1 {
        client.call(Request::Put(puts.remove(0))).await;
    } else {
        let success = puts.into_iter().map(|put| pb::RequestOp { request: Some(Op::RequestPut(put)) }).collect();
        client.call(Request::Txn(pb::TxnRequest { success, ..Default::default() })).await;
    }
}

/// Renews a lease, and for how many seconds it lives from now, if it does.
async fn renew(client: &mut Client, held: &mut Vec<i64>, id: i64) -> Option<u64> {
    let renewed = client.lease(LeaseRequest::KeepAlive(pb::LeaseKeepAliveRequest { id })).await;
    forget_dead(held, id, &renewed);
    match renewed {
        Outcome::Answered(LeaseAnswer::KeepAlive(answer)) => u64::try_from(answer.ttl).ok().filter(|ttl| *ttl > 0),
        _ => None,
    }
}

/// Renews a lease, stalls for its whole time, and comes back when it has just ended, or is about to: its revocation may be on its
/// way.
async fn renew_too_late(client: &mut Client, held: &mut Vec<i64>) {
    let id = some_lease(client, held);
    let Some(ttl_secs) = renew(client, held, id).await else { return };
    let late_ms = client.dice.below(800);
    clock::sleep(Duration::from_secs(ttl_secs) + Duration::from_millis(late_ms)).await;
    renew(client, held, id).await;
}

/// Renews what it has on one stream, each before the answer to the one before it has come.
async fn renew_all(client: &mut Client, held: &mut Vec<i64>) {
    let Some(mut stream) = client.keep_alive_stream().await else { return };
    let turns = client.dice.between(1, 4);
    for _ in 0..turns {
        for (id, renewed) in renew_on(client, &mut stream, &held.clone()).await {
            forget_dead(held, id, &renewed);
            if renewed == Outcome::Unknown {
                return;
            }
        }
        client.think().await;
    }
}

async fn renew_on(client: &mut Client, stream: &mut KeepAliveStream, ids: &[i64]) -> Vec<(i64, Outcome<LeaseAnswer>)> {
    let asked: Vec<_> = ids.iter().map(|&id| (id, client.begin_keep_alive(stream, id))).collect();
    let mut renewed = Vec::new();
    let mut is_broken = false;
    for (id, ticket) in asked {
        let outcome = client.end_keep_alive(stream, ticket, is_broken).await;
        is_broken |= outcome == Outcome::Unknown;
        renewed.push((id, outcome));
    }
    renewed
}

/// What is gone is not renewed again.
fn forget_dead(held: &mut Vec<i64>, id: i64, renewed: &Outcome<LeaseAnswer>) {
    if matches!(renewed, Outcome::Answered(LeaseAnswer::KeepAlive(answer)) if answer.ttl == 0) {
        held.retain(|other| *other != id);
    }
}

//! Locks and elections over a real member: what becomes of calls that wait when their client or their server goes away.

mod served;

use std::time::Duration;

use quorate_client::Connection;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, RangeRequest};
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3electionpb::{CampaignRequest, LeaderRequest};
use quorate_proto::v3lockpb::LockRequest;
use quorate_proto::v3lockpb::lock_client::LockClient;
use quorate_runtime::clock;
use quorate_types::Error;
use tonic::Code;

use served::{Served, plain, with_member};

impl Served {
    fn locks(&self) -> LockClient<Connection> {
        LockClient::with_origin(self.connection.clone(), self.connection.origin())
    }

    fn elections(&self) -> ElectionClient<Connection> {
        ElectionClient::with_origin(self.connection.clone(), self.connection.origin())
    }

    async fn grant(&self, id: i64) {
        let mut leases = LeaseClient::with_origin(self.connection.clone(), self.connection.origin());
        leases.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await.unwrap();
    }

    /// Waits until so many keys are in a queue.
    async fn expect_queued(&self, queue: &str, count: i64) {
        let (key, range_end) = (format!("{queue}/").into(), format!("{queue}0").into());
        let all = RangeRequest { key, range_end, count_only: true, ..Default::default() };
        let settled = clock::timeout(&*self.rt, Duration::from_secs(10), async {
            while self.kv().range(all.clone()).await.unwrap().into_inner().count != count {
                self.rt.sleep(Duration::from_millis(5)).await;
            }
        });
        settled.await.unwrap_or_else(|_| panic!("{count} keys are wanted in {queue}"));
    }
}

fn ask(lease: i64) -> LockRequest {
    LockRequest { name: "door".into(), lease }
}

#[test]
fn who_goes_away_while_it_waits_takes_its_key_with_it() {
    with_member(plain, 2, async |served| {
        served.grant(1).await;
        served.grant(2).await;
        let owned = served.locks().lock(ask(1)).await.unwrap().into_inner();
        assert_eq!(owned.key, "door/1");
        let other = Connection::connect(&served.rt, served.address.clone()).await.unwrap();
        let mut locks = LockClient::with_origin(other.clone(), other.origin());
        let waiting = clock::timeout(&*served.rt, Duration::from_millis(200), locks.lock(ask(2))).await;
        assert!(waiting.is_err(), "the lock is taken");
        drop((locks, other));
        served.expect_queued("door", 1).await;
    });
}

#[test]
fn a_server_that_drains_ends_what_waits() {
    with_member(plain, 2, async |served| {
        served.grant(1).await;
        served.grant(2).await;
        served.locks().lock(ask(1)).await.unwrap();
        let mut leaders = served.elections().observe(LeaderRequest { name: "post".into() }).await.unwrap().into_inner();
        let campaign = CampaignRequest { name: "post".into(), lease: 1, value: "a".into() };
        served.elections().campaign(campaign).await.unwrap();
        leaders.message().await.unwrap().expect("somebody leads");

        let (mut locks, drain) = (served.locks(), async {
            served.expect_queued("door", 2).await;
            served.service.drain();
        });
        let (waited, ()) = quorate_runtime::join!(locks.lock(ask(2)), drain);
        // As what has passed through a client, from etcd, too.
        let status = waited.expect_err("it does not own the lock");
        assert_eq!((status.code(), status.message()), (Code::Unknown, Error::Stopped.message()));
        let status = leaders.message().await.expect_err("the stream ends");
        assert_eq!((status.code(), status.message()), (Code::Unavailable, Error::Stopped.message()));
        served.expect_queued("door", 1).await;
    });
}

//! Workers of a shop that elect one of them and take turns, with the Rust client `etcd-client`: `quorate-interop-rust ENDPOINT...`
//!
//! Locks and elections are those of the server: this client calls its services `Lock` and `Election`.

mod checks;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, LockOptions, ProclaimOptions, PutOptions, ResignOptions,
    Txn, TxnOp, TxnOpResponse,
};
use tokio::time::{sleep, timeout};

use checks::{check, fail, have_leader_killed, persist, say, wait_until};
use workers::{Audit, Orders, keep_alive};

const TTL_SECS: i64 = 5;
const COUNTS_MIN: u64 = 50;
/// For what must not be had: a lock, an election.
const IN_VAIN: Duration = Duration::from_secs(1);

const PREFIX: &str = "shop/";
const CONFIG: &str = "shop/config";
const ORDERS: &str = "shop/orders";
const KEPT: &str = "shop/workers/1";
const FORSAKEN: &str = "shop/workers/2";
const LOCK: &str = "stocktaking";
const ELECTION: &str = "dispatcher";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    let client = Client::connect(&endpoints, None).await?;
    let other = Client::connect(&endpoints, None).await?;

    let audit = Arc::new(Audit::default());
    configure(&client, &audit).await?;

    // Two workers; the second is forsaken.
    let kept = client.lease_client().grant(TTL_SECS, None).await?.id();
    let forsaken = client.lease_client().grant(TTL_SECS, None).await?.id();
    let rival = client.lease_client().grant(TTL_SECS, None).await?.id();
    client.kv_client().put(KEPT, "busy", Some(PutOptions::new().with_lease(kept))).await?;
    client.kv_client().put(FORSAKEN, "busy", Some(PutOptions::new().with_lease(forsaken))).await?;
    let registered = row(&client, KEPT).await.expect("it was just put");
    let renewals = [keep_alive(client.clone(), kept), keep_alive(other.clone(), rival)];

    let lock = client.lock_client().lock(LOCK, Some(LockOptions::new().with_lease(kept))).await?;
    let lock_key = String::from_utf8_lossy(lock.key()).into_owned();
    let held = row(&client, &lock_key).await.expect("the lock's key is there");
    check("the lock belongs to its holder's lease", held.lease(), kept);
    check("only one has it", try_lock(&other, rival).await, false);
    check("who gave up does not wait any longer", is_alone(&client, LOCK).await, true);

    let campaign = client.election_client().campaign(ELECTION, "worker 1", kept).await?;
    let elected = campaign.leader().expect("who was elected is told its key").clone();
    check("the first to campaign is elected", elected_value(&other).await, "worker 1".to_owned());
    check("and nobody else meanwhile", try_campaign(&other, rival).await, false);

    let orders = Arc::new(Orders::default());
    let counting = orders.start(client.clone());
    wait_until("orders are counted", || orders.count() >= 20).await;
    have_leader_killed().await;
    let counted = orders.count();
    wait_until("orders are counted on", || orders.count() >= counted + COUNTS_MIN).await;
    wait_until("the forsaken worker is gone at last", || audit.of(FORSAKEN).contains(&None)).await;
    orders.stop();
    counting.await.expect("the counter ends without a panic");

    judge_orders(&client, &orders, &audit).await;
    let events = [audit.of(CONFIG).len(), audit.of(KEPT).len(), audit.of(FORSAKEN).len()];
    check("the watch has seen the other events, too", events, [2, 1, 2]);
    check("no renewal has ended", renewals.each_ref().map(|renewal| renewal.is_finished()), [false, false]);
    check(
        "the worker that was kept alive is still the first",
        origin(&row(&client, KEPT).await),
        origin(&Some(registered)),
    );
    let remaining = persist(async || client.lease_client().time_to_live(kept, None).await).await.ttl();
    check("its lease has time to live", (1..=TTL_SECS).contains(&remaining), true);
    check("the lock's holder holds what it took", origin(&row(&client, &lock_key).await), origin(&Some(held)));
    check("nobody else gets it even now", try_lock(&other, rival).await, false);
    check("the elected is still elected", elected_value(&other).await, "worker 1".to_owned());
    check("nobody else is", try_campaign(&other, rival).await, false);

    let proclaim = ProclaimOptions::new().with_leader(elected.clone());
    persist(async || client.election_client().proclaim("worker 1, about to go", Some(proclaim.clone())).await).await;
    check("what it proclaims is heard", elected_value(&other).await, "worker 1, about to go".to_owned());
    let resign = ResignOptions::new().with_leader(elected);
    tokio::join!(
        persist(async || other.election_client().campaign(ELECTION, "worker 2", rival).await),
        persist(async || client.election_client().resign(Some(resign.clone())).await),
    );
    check("who waited is elected in its place", elected_value(&client).await, "worker 2".to_owned());
    persist(async || client.lock_client().unlock(lock_key.as_str()).await).await;
    check("the lock is free for others", try_lock(&other, rival).await, true);
    renewals.iter().for_each(|renewal| renewal.abort());
    persist(async || client.lease_client().revoke(kept).await).await;
    check("a worker that ends well is gone at once", row(&client, KEPT).await.is_none(), true);
    say("end");
    Ok(())
}

/// Configuration that is replaced only by who read it last; the audit begins with it.
async fn configure(client: &Client, audit: &Arc<Audit>) -> Result<(), Error> {
    let start = client.kv_client().put(CONFIG, "v1", None).await?.header().expect("answers have a header").revision();
    audit.start(client.clone(), start);
    let replace = Txn::new()
        .when([Compare::mod_revision(CONFIG, CompareOp::Equal, start)])
        .and_then([TxnOp::put(CONFIG, "v2", None)])
        .or_else([TxnOp::get(CONFIG, None)]);
    check(
        "configuration is replaced by who read it last",
        client.kv_client().txn(replace.clone()).await?.succeeded(),
        true,
    );
    let refused = client.kv_client().txn(replace).await?;
    check("and not by who read it before that", refused.succeeded(), false);
    match refused.op_responses().first() {
        Some(TxnOpResponse::Get(found)) => check("who is told what it is now", found.kvs()[0].value(), b"v2"),
        other => fail("who is told what it is now", &format!("{other:?}")),
    }
    Ok(())
}

async fn judge_orders(client: &Client, orders: &Orders, audit: &Audit) {
    let last = orders.count();
    let found = row(client, ORDERS).await.expect("orders were counted");
    check(
        "each order counts once",
        (found.value_str().unwrap_or(""), found.version()),
        (last.to_string().as_str(), last as i64),
    );
    wait_until("the watch has seen the last one", || audit.of(ORDERS).len() as u64 >= last).await;
    let expected: Vec<_> = (1..=last).map(|number| Some(number.to_string())).collect();
    check("and every one before it, in order", audit.of(ORDERS), expected);
    let changes = audit.changes();
    check("each event once, as revisions rise", changes.is_sorted_by(|one, next| one.revision < next.revision), true);
    let mut acknowledged = orders.acknowledged();
    for change in changes.iter().filter(|change| change.key == ORDERS) {
        let number = change.value.as_deref().unwrap_or("").parse().unwrap_or(0);
        if acknowledged.get(&number) == Some(&change.revision) {
            acknowledged.remove(&number);
        }
    }
    check("at the revision that was acknowledged", acknowledged.into_iter().collect(), Vec::new());
}

async fn row(client: &Client, key: &str) -> Option<KeyValue> {
    persist(async || client.kv_client().get(key, None).await).await.take_kvs().pop()
}

/// What stays the same as long as a key was neither deleted nor made anew.
fn origin(row: &Option<KeyValue>) -> Option<(i64, i64)> {
    row.as_ref().map(|row| (row.create_revision(), row.lease()))
}

/// Whether the lock has no other key than its holder's: the server takes a waiter's away soon after its call has ended.
async fn is_alone(client: &Client, name: &str) -> bool {
    let options = GetOptions::new().with_prefix().with_count_only();
    for _ in 0..100 {
        if persist(async || client.kv_client().get(format!("{name}/"), Some(options.clone())).await).await.count() == 1
        {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

async fn try_lock(client: &Client, lease: i64) -> bool {
    let options = LockOptions::new().with_lease(lease);
    soon(async || client.lock_client().lock(LOCK, Some(options.clone())).await).await
}

async fn try_campaign(client: &Client, lease: i64) -> bool {
    soon(async || client.election_client().campaign(ELECTION, "worker 2", lease).await).await
}

/// Whether what others want, too, could be had soon. The client tells of a connection that failed long ago when it is asked next:
/// that is no answer.
async fn soon<T>(call: impl AsyncFn() -> Result<T, Error>) -> bool {
    timeout(IN_VAIN, persist(call)).await.is_ok()
}

async fn elected_value(client: &Client) -> String {
    let answer = persist(async || client.election_client().leader(ELECTION).await).await;
    answer.kv().and_then(|row| row.value_str().ok()).unwrap_or("nobody").to_owned()
}

//! What goes on all the time: orders are counted, leases renewed, changes watched. The client neither opens a stream again that
//! ended nor repeats a call; whoever uses it does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, Error, EventType, Txn, TxnOp, WatchOptions};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::checks::{fail, in_time, is_unreachable};
use crate::{ORDERS, PREFIX, TTL_SECS};

const COUNT_EVERY: Duration = Duration::from_millis(20);
const RENEW_EVERY: Duration = Duration::from_millis(TTL_SECS as u64 * 1000 / 4);
const PAUSE: Duration = Duration::from_millis(100);

/// Counts, one up at a time.
#[derive(Default)]
pub struct Orders {
    counted: Mutex<Counted>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Counted {
    count: u64,
    /// The revision of each whose outcome was told.
    acknowledged: BTreeMap<u64, i64>,
}

impl Orders {
    pub fn start(self: &Arc<Self>, client: Client) -> JoinHandle<()> {
        let orders = Arc::clone(self);
        tokio::spawn(async move {
            while !orders.stop.load(Ordering::Relaxed) {
                orders.step(&client).await;
                sleep(COUNT_EVERY).await;
            }
        })
    }

    /// An increment of unknown outcome is looked up before it is tried again, so that none counts twice.
    async fn step(&self, client: &Client) {
        let (old, new) = (self.count(), self.count() + 1);
        let expected = match old {
            0 => Compare::version(ORDERS, CompareOp::Equal, 0),
            _ => Compare::value(ORDERS, CompareOp::Equal, old.to_string()),
        };
        let txn = Txn::new().when([expected]).and_then([TxnOp::put(ORDERS, new.to_string(), None)]);
        match in_time(client.kv_client().txn(txn)).await {
            Ok(answer) if answer.succeeded() => {
                let mut counted = self.counted.lock().unwrap();
                counted.count = new;
                counted.acknowledged.insert(new, answer.header().expect("answers have a header").revision());
            }
            Ok(_) => fail("orders are counted", &format!("{old} is not what was counted last")),
            Err(error) if is_unreachable(&error) => self.look_up(client).await,
            Err(error) => fail("orders are counted", &error.to_string()),
        }
    }

    async fn look_up(&self, client: &Client) {
        while !self.stop.load(Ordering::Relaxed) {
            match in_time(client.kv_client().get(ORDERS, None)).await {
                Ok(answer) => {
                    let found =
                        answer.kvs().first().map_or(0, |row| row.value_str().unwrap_or("").parse().unwrap_or(0));
                    let old = std::mem::replace(&mut self.counted.lock().unwrap().count, found);
                    if found != old && found != old + 1 {
                        fail("orders are counted", &format!("{found} after {old}"));
                    }
                    return;
                }
                Err(error) if is_unreachable(&error) => sleep(PAUSE).await,
                Err(error) => return fail("orders are counted", &error.to_string()),
            }
        }
    }

    pub fn count(&self) -> u64 {
        self.counted.lock().unwrap().count
    }

    pub fn acknowledged(&self) -> BTreeMap<u64, i64> {
        self.counted.lock().unwrap().acknowledged.clone()
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Renews a lease until it is aborted. A lease that ended is a failed check.
pub fn keep_alive(client: Client, lease: i64) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match renew(&client, lease).await {
                Err(error) if !is_unreachable(&error) => return fail("a lease is kept alive", &error.to_string()),
                _ => sleep(PAUSE).await,
            }
        }
    })
}

/// Returns when the stream ends.
async fn renew(client: &Client, lease: i64) -> Result<(), Error> {
    let (mut keeper, mut answers) = in_time(client.lease_client().keep_alive(lease)).await?;
    loop {
        sleep(RENEW_EVERY).await;
        if keeper.keep_alive().await.is_err() {
            return Ok(());
        }
        match in_time(answers.message()).await? {
            Some(answer) if answer.ttl() <= 0 => return Err(Error::LeaseKeepAliveError("it ended".into())),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Change {
    pub revision: i64,
    pub key: String,
    /// None for a key that is gone.
    pub value: Option<String>,
}

/// Every change of the shop, in the order in which the watch told it.
#[derive(Default)]
pub struct Audit {
    changes: Mutex<Vec<Change>>,
}

impl Audit {
    pub fn start(self: &Arc<Self>, client: Client, revision: i64) {
        let audit = Arc::clone(self);
        tokio::spawn(async move {
            let mut next_revision = revision;
            loop {
                match audit.watch(&client, &mut next_revision).await {
                    Err(error) if !is_unreachable(&error) => return fail("the watch goes on", &error.to_string()),
                    _ => sleep(PAUSE).await,
                }
            }
        });
    }

    /// Returns when the stream ends; `next_revision` is then where to go on.
    async fn watch(&self, client: &Client, next_revision: &mut i64) -> Result<(), Error> {
        let options = WatchOptions::new().with_prefix().with_start_revision(*next_revision);
        let mut stream = in_time(client.watch_client().watch(PREFIX, Some(options))).await?;
        while let Some(answer) = stream.message().await? {
            if answer.canceled() {
                return Err(Error::WatchError(answer.cancel_reason().into()));
            }
            for event in answer.events() {
                let row = event.kv().expect("an event has a row");
                let value = (event.event_type() == EventType::Put).then(|| row.value_str().unwrap_or("?").to_owned());
                let change =
                    Change { revision: row.mod_revision(), key: row.key_str().unwrap_or("?").to_owned(), value };
                *next_revision = change.revision + 1;
                self.changes.lock().unwrap().push(change);
            }
        }
        Ok(())
    }

    pub fn changes(&self) -> Vec<Change> {
        self.changes.lock().unwrap().clone()
    }

    pub fn of(&self, key: &str) -> Vec<Option<String>> {
        self.changes().into_iter().filter(|change| change.key == key).map(|change| change.value).collect()
    }
}

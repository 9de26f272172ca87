//! The quota: the plan of this workload has one that is soon used up, and then nobody may write. It is the operator, who sees the
//! alarm, and makes room as etcd's documentation says: compacts, defragments each member, takes the alarms back.
//!
//! When the run is over somebody goes on with that ([`keep_room`]), so that everybody is served again: a cluster in which what an
//! operator does makes no room serves nobody who writes, and the run fails.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::AlarmType;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_runtime::BoxFuture;

use super::client::within;
use super::{Client, Workload, tap};
use crate::history::{Outcome, Request};
use crate::world::clock;
use crate::world::dice::Dice;

/// Its name in the list.
pub const NAME: &str = "quota";

/// How long a member may take to copy its database.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks when the run is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// A quota for a plan with this workload.
pub fn draw_bytes(dice: &mut Dice) -> u64 {
    *dice.pick(&[40 << 10, 60 << 10, 100 << 10])
}

/// See the module.
pub struct Quota {
    /// Odds, in percent, that it looks whether there is an alarm; else it puts.
    looks: u64,
}

impl Quota {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { looks: dice.between(5, 40) }
    }
}

impl Workload for Quota {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                if client.dice.percent(self.looks) {
                    make_room(client).await;
                } else {
                    let key = client.key();
                    client.put(key).await;
                }
                client.think().await;
            }
        })
    }
}

/// Makes room whenever there is none, for ever.
pub async fn keep_room(client: &mut Client) {
    loop {
        make_room(client).await;
        clock::sleep(LOOK_INTERVAL).await;
    }
}

/// If there is an alarm, does what takes it away, as far as it can.
async fn make_room(client: &mut Client) {
    let Outcome::Answered(list) = client.alarm(pb::AlarmRequest::default()).await else { return };
    let no_space: Vec<_> = list.alarms.into_iter().filter(|alarm| alarm.alarm == AlarmType::Nospace as i32).collect();
    if no_space.is_empty() {
        return;
    }
    // What lives may be too much by itself.
    if client.dice.percent(30) {
        let (key, range_end) = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));
        client.call(Request::Delete(pb::DeleteRangeRequest { key, range_end, ..Default::default() })).await;
    }
    let newest = client.newest_revision();
    if newest > 0 && tap::explain(client, newest).await {
        client.compact(newest, true).await;
    }
    for address in client.addresses() {
        let Some(connection) = client.connection_to(address).await else { continue };
        let mut maintenance = MaintenanceClient::with_origin(connection.clone(), connection.origin());
        // Who does not do it raises the alarm again.
        let _ = within(PATIENCE, maintenance.defragment(pb::DefragmentRequest {})).await;
    }
    for pb::AlarmMember { member_id, alarm } in no_space {
        client.alarm(pb::AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm }).await;
    }
}

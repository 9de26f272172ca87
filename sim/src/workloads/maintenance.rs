//! Maintenance: databases are defragmented, snapshots saved, hashes computed, while others write.
//!
//! A saved snapshot is a read of everything as of one revision, made by one member for itself, and is recorded as one: so the
//! checkers demand of it what they demand of a serializable range. That it is whole (sizes, digest, a readable file) is looked
//! at here, and else is a complaint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_bolt::Reader;
use quorate_bolt::testing::Image;
use quorate_client::Connection;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::BoxFuture;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::client::within;
use super::{Client, Workload};
use crate::history::{Answer, Request};
use crate::world::clock;
use crate::world::dice::Dice;

/// Bytes of a row's key in the snapshot file; a tombstone's has one more.
const ROW_KEY_BYTES: usize = 17;

/// How long one of its calls may take: they read or write everything.
const PATIENCE: Duration = Duration::from_secs(20);

/// How soon somebody who insists asks again.
const AGAIN: Duration = Duration::from_millis(5);

/// See the module. Percentages of the actions; the rest are puts.
pub struct Maintenance {
    defragments: u64,
    insists: u64,
    saves: u64,
    questions: u64,
    /// Odds, in percent, that it takes its time over a piece of a snapshot.
    dawdles: u64,
}

impl Maintenance {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            defragments: dice.between(1, 15),
            insists: *dice.pick(&[0, 5, 30]),
            saves: dice.between(1, 10),
            questions: dice.below(5),
            dawdles: *dice.pick(&[0, 0, 10]),
        }
    }
}

impl Workload for Maintenance {
    fn name(&self) -> &'static str {
        "maintenance"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                self.step(client).await;
                client.think().await;
            }
        })
    }
}

impl Maintenance {
    async fn step(&self, client: &mut Client) {
        let drawn = client.dice.below(100);
        if drawn < self.defragments {
            ask(client, async |maintenance| maintenance.defragment(pb::DefragmentRequest {}).await.map(drop)).await;
        } else if drawn < self.defragments + self.insists {
            insist(client).await;
        } else if drawn < self.defragments + self.insists + self.questions {
            ask(client, async |maintenance| maintenance.hash(pb::HashRequest {}).await.map(drop)).await;
        } else if drawn < self.defragments + self.insists + self.questions + self.saves {
            self.save(client).await;
        } else {
            let key = client.key();
            client.put(key).await;
        }
    }

    async fn save(&self, client: &mut Client) {
        let Some(connection) = client.connection().await else { return };
        let ticket = client.begin(Request::Range(everything()));
        let saving = self.receive(client, &connection);
        let Some(Ok(file)) = within(PATIENCE, saving).await else {
            client.finish(ticket, None);
            return;
        };
        match file.and_then(state) {
            Ok(answer) => {
                client.finish(ticket, Some(Ok(Answer::Range(answer))));
            }
            Err(what) => {
                client.complain(format!("client {} got a snapshot that is not whole: {what}", client.number));
                client.finish(ticket, None);
            }
        }
    }

    /// The file, or what is wrong with how it came.
    async fn receive(&self, client: &mut Client, connection: &Connection) -> Result<Result<Vec<u8>, String>, Status> {
        let mut maintenance = MaintenanceClient::with_origin(connection.clone(), connection.origin());
        let mut messages = maintenance.snapshot(pb::SnapshotRequest {}).await?.into_inner();
        let (mut file, mut remaining_bytes, mut digest) = (Vec::new(), None, None);
        while let Some(message) = messages.message().await? {
            if digest.is_some() {
                return Ok(Err("something comes after the digest".to_owned()));
            }
            if remaining_bytes == Some(0) {
                digest = Some(message.blob);
                continue;
            }
            let announced = message.remaining_bytes + message.blob.len() as u64;
            if remaining_bytes.is_some_and(|remaining| remaining != announced) {
                return Ok(Err(format!("{announced} bytes were to come, after {remaining_bytes:?}")));
            }
            remaining_bytes = Some(message.remaining_bytes);
            file.extend_from_slice(&message.blob);
            if client.dice.percent(self.dawdles) {
                let pause_ms = client.dice.between(10, 500);
                clock::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
        Ok(match digest {
            None => Err("it ends without a digest".to_owned()),
            Some(digest) if digest != Sha256::digest(&file)[..] => Err("it has another digest than it says".to_owned()),
            Some(_) => Ok(file),
        })
    }
}

/// Somebody believes that this helps a member that is far behind: defragments it again and again until it has caught up.
async fn insist(client: &mut Client) {
    let Some(address) = client.address_of_one_far_behind() else { return };
    let until = clock::now().plus_nanos(PATIENCE.as_nanos() as u64);
    while client.goes_on() && clock::now() < until && client.is_far_behind(&address) {
        if let Some(connection) = client.connection_to(address.clone()).await {
            let mut maintenance = MaintenanceClient::with_origin(connection.clone(), connection.origin());
            while let Some(Ok(_)) = within(PATIENCE, maintenance.defragment(pb::DefragmentRequest {})).await
                && client.is_far_behind(&address)
            {}
        }
        clock::sleep(AGAIN).await;
    }
}

/// A call whose answer says nothing that could be checked.
/// Of any member, also of one that cannot serve now: maintenance is done to each.
async fn ask(client: &mut Client, call: impl AsyncFnOnce(&mut MaintenanceClient<Connection>) -> Result<(), Status>) {
    if let Some(connection) = client.connection_to_any().await {
        let mut maintenance = MaintenanceClient::with_origin(connection.clone(), connection.origin());
        // Members die meanwhile.
        let _ = within(PATIENCE, call(&mut maintenance)).await;
    }
}

fn everything() -> pb::RangeRequest {
    let zero = Bytes::from_static(b"\0");
    pb::RangeRequest { key: zero.clone(), range_end: zero, serializable: true, ..Default::default() }
}

/// What a range over everything would have answered in the state that the file holds.
fn state(file: Vec<u8>) -> Result<pb::RangeResponse, String> {
    let reader = Reader::open(Box::new(Image(file)), Path::new("snapshot")).map_err(|error| error.to_string())?;
    let pairs = |bucket: &str| {
        let bucket = reader.bucket(bucket.as_bytes()).ok_or_else(|| format!("no bucket {bucket}"))?;
        bucket.entries().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
    };
    let mut alive = BTreeMap::new();
    let mut revision = 1;
    for (key, row) in pairs("key")? {
        let main = key.first_chunk().ok_or("a row without a revision")?;
        revision = revision.max(i64::from_be_bytes(*main));
        let name = KeyValue::decode(row.clone()).map_err(|error| error.to_string())?.key;
        match key.len() {
            ROW_KEY_BYTES => alive.insert(name, row),
            _ => alive.remove(&name),
        };
    }
    for (key, value) in pairs("meta")? {
        if key == "scheduledCompactRev" {
            revision = revision.max(i64::from_be_bytes(*value.first_chunk().ok_or("a compaction without a revision")?));
        }
    }
    // Whose it is does not stand in the file.
    let header = pb::ResponseHeader { cluster_id: 1, member_id: 1, raft_term: 1, revision };
    let kvs: Vec<Bytes> = alive.into_values().collect();
    Ok(pb::RangeResponse { header: Some(header), count: kvs.len() as i64, kvs, more: false })
}

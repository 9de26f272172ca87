//! The calls of a timeline: a client's puts and gets, an operator's changes of members.
//!
//! Calls at a machine that is no member any more are not recorded: what is told there is another history.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_client::{Connection, WatchStream};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::mvccpb::event::EventType;
use quorate_runtime::Rt;

use super::Call;
use crate::faults::Stage;
use crate::history::lease::{LeaseAnswer, LeaseRequest};
use crate::history::{Answer, Outcome, Request};
use crate::workloads::Client;
use crate::world::clock;
use crate::world::cluster::MemberMachine;
use crate::world::net::MachineId;

/// A call that has to work is tried again for so long.
const TRIED_FOR: Duration = Duration::from_secs(30);

/// Pause before it is.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What stands between a value as the scenario has it and what makes it unique.
const UNIQUE: &str = " #";

/// Makes the calls.
pub struct Caller {
    stage: Arc<Stage>,
    rt: Rt,
    /// Its calls are recorded.
    client: Client,
    /// Its calls are not.
    outsider: Client,
}

impl Caller {
    /// Calls from the machine of `rt`, or as one of the two clients.
    pub fn new(stage: &Arc<Stage>, rt: Rt, client: Client, outsider: Client) -> Self {
        Self { stage: Arc::clone(stage), rt, client, outsider }
    }

    /// Makes the call at the member `at`, or at any. `about` is the machine that a change of members is about. The error says why
    /// it failed; if it `must_work`, it is tried again for a while first.
    pub async fn call(
        &mut self,
        call: &Call,
        about: Option<MachineId>,
        at: Option<MachineId>,
        must_work: bool,
    ) -> Result<(), String> {
        let deadline = clock::now().plus_nanos(TRIED_FOR.as_nanos() as u64);
        loop {
            let limit = self.client.options.timeout;
            let trying = quorate_runtime::select! {
                biased;
                tried = self.attempt(call, about, at) => tried,
                () = clock::sleep(limit) => Err("no answer in time".to_owned()),
            };
            match trying {
                Err(_) if must_work && clock::now() < deadline => clock::sleep(RETRY_AFTER).await,
                result => return result,
            }
        }
    }

    async fn attempt(&mut self, call: &Call, about: Option<MachineId>, at: Option<MachineId>) -> Result<(), String> {
        let about = about.map(|machine| Arc::clone(self.stage.cluster.machine(machine)));
        match call {
            Call::Put(key, value) => {
                let mark = self.client.mark();
                let value = format!("{value}{UNIQUE}{mark}").into();
                let put = pb::PutRequest { key: Bytes::from(key.clone()), value, ..Default::default() };
                self.kv(Request::Put(put), at).await.map(drop)
            }
            Call::PutMany(count) => {
                for _ in 0..*count {
                    let key = self.client.key();
                    let mark = self.client.mark();
                    let value = self.client.value(&mark, 0);
                    self.kv(Request::Put(pb::PutRequest { key, value, ..Default::default() }), at).await?;
                }
                Ok(())
            }
            Call::Grant(count, secs) => {
                for _ in 0..*count {
                    self.grant(*secs, at).await?;
                }
                Ok(())
            }
            Call::Get { key, local, is } => {
                let range =
                    pb::RangeRequest { key: Bytes::from(key.clone()), serializable: *local, ..Default::default() };
                let Answer::Range(answer) = self.kv(Request::Range(range), at).await? else {
                    unreachable!("a range answers a range")
                };
                let row = answer.kvs.first().map(|row| KeyValue::decode(row.clone())).transpose();
                let row = row.map_err(|error| format!("the answer holds no row: {error}"))?;
                let found = row.map(|row| bare(&row.value));
                match is {
                    Some(wanted) if *wanted != found => {
                        Err(format!("it is {}", found.as_deref().unwrap_or("not there")))
                    }
                    _ => Ok(()),
                }
            }
            Call::Delete(key) => {
                let delete = pb::DeleteRangeRequest { key: Bytes::from(key.clone()), ..Default::default() };
                self.kv(Request::Delete(delete), at).await.map(drop)
            }
            Call::Compact => {
                let revision = self.client.newest_revision();
                let compact = pb::CompactionRequest { revision, physical: true };
                self.kv(Request::Compact(compact), at).await.map(drop)
            }
            Call::Add(_, is_learner) => self.add(&about.expect("it is about a member"), *is_learner, at).await,
            Call::Remove(_) => self.remove(&about.expect("it is about a member"), at).await,
            Call::Promote(_) => {
                let id = self.id_of(&about.expect("it is about a member"), at).await?;
                let mut cluster = self.cluster(at).await?;
                answered(cluster.member_promote(pb::MemberPromoteRequest { id }).await).map(drop)
            }
            Call::MoveLeader(_) => {
                let about = about.expect("it is about a member");
                let target_id = self.id_of(&about, at).await?;
                if self.leads(&about) {
                    return Ok(());
                }
                let leader = self.stage.cluster.machines.iter().find(|machine| self.leads(machine));
                let leader = leader.map(|machine| machine.machine).ok_or("nobody leads")?;
                let connection = self.connect(Some(leader)).await?;
                let mut maintenance = MaintenanceClient::with_origin(connection.clone(), connection.origin());
                answered(maintenance.move_leader(pb::MoveLeaderRequest { target_id }).await).map(drop)
            }
            Call::Start(..) => unreachable!("the player starts members"),
        }
    }

    /// A lease, and a put of a key of its own that is attached to it.
    async fn grant(&mut self, secs: u64, at: Option<MachineId>) -> Result<(), String> {
        let client = self.client_for(at);
        let ttl = i64::try_from(secs).unwrap_or(i64::MAX);
        let request = LeaseRequest::Grant(pb::LeaseGrantRequest { ttl, id: 0 });
        let lease = match client.lease(request).await {
            Outcome::Answered(LeaseAnswer::Grant(granted)) => granted.id,
            _ => return Err(client.last_error.clone()),
        };
        let mark = client.mark();
        let (key, value) = (format!("leased/{lease:x}").into(), client.value(&mark, 0));
        self.kv(Request::Put(pb::PutRequest { key, value, lease, ..Default::default() }), at).await.map(drop)
    }

    /// What a watch at that member tells of everything from a revision up to now: revisions, and values without what makes them
    /// unique; `None` for a deletion.
    pub async fn watch(
        &mut self,
        key: Option<&str>,
        from: i64,
        at: MachineId,
    ) -> Result<Vec<(i64, Option<String>)>, String> {
        let limit = self.client.options.timeout;
        quorate_runtime::select! {
            biased;
            told = self.watch_until_now(key, from, at) => told,
            () = clock::sleep(limit) => Err("a watch does not come to its end in time".to_owned()),
        }
    }

    async fn watch_until_now(
        &mut self,
        key: Option<&str>,
        start_revision: i64,
        at: MachineId,
    ) -> Result<Vec<(i64, Option<String>)>, String> {
        let zero = Bytes::from_static(b"\0");
        let (key, range_end) = match key {
            Some(key) => (Bytes::from(key.to_owned()), Bytes::new()),
            None => (zero.clone(), zero),
        };
        let connection = self.connect(Some(at)).await?;
        let failed = |status: tonic::Status| status.message().to_owned();
        let mut stream = WatchStream::open(&connection, false).await.map_err(failed)?;
        stream.create(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() });
        let mut told = Vec::new();
        loop {
            // It is not answered before the watch has caught up.
            stream.request_progress();
            let next = quorate_runtime::select! {
                biased;
                next = stream.next() => Some(next),
                () = clock::sleep(RETRY_AFTER) => None,
            };
            let Some(next) = next else { continue };
            let response = next.map_err(failed)?.ok_or("the stream of watches ended")?;
            if response.canceled {
                let (reason, compacted) = (response.cancel_reason, response.compact_revision);
                return Err(format!("the watch was cancelled {reason:?}, compacted up to {compacted}"));
            }
            if !response.created && response.events.is_empty() {
                return Ok(told);
            }
            for event in response.events {
                let row = KeyValue::decode(event.kv).map_err(|error| format!("an event holds no row: {error}"))?;
                let is_put = event.r#type == EventType::Put as i32;
                told.push((row.mod_revision, is_put.then(|| bare(&row.value))));
            }
        }
    }

    /// Who calls there.
    fn client_for(&mut self, at: Option<MachineId>) -> &mut Client {
        let machine = at.map(|machine| self.stage.cluster.machine(machine));
        let client = match machine {
            Some(machine) if machine.is_spare() => &mut self.outsider,
            _ => &mut self.client,
        };
        client.pin(machine.map(|machine| machine.client_address()));
        client
    }

    async fn kv(&mut self, request: Request, at: Option<MachineId>) -> Result<Answer, String> {
        let client = self.client_for(at);
        match client.call(request).await {
            Outcome::Answered(answer) => Ok(answer),
            Outcome::Refused { message, .. } => Err(message),
            Outcome::Unknown => Err(client.last_error.clone()),
        }
    }

    async fn add(
        &mut self,
        machine: &Arc<MemberMachine>,
        is_learner: bool,
        at: Option<MachineId>,
    ) -> Result<(), String> {
        let mut members = self.list(at).await?;
        // An answer that was lost.
        let is_there = members.iter().any(|member| member.peer_ur_ls.contains(&machine.peer_url));
        if !is_there {
            let request = pb::MemberAddRequest { peer_ur_ls: vec![machine.peer_url.clone()], is_learner };
            let mut cluster = self.cluster(at).await?;
            members = answered(cluster.member_add(request).await)?.members;
        }
        self.stage.cluster.assign(machine, members.into_iter().map(|member| member.peer_ur_ls).collect());
        Ok(())
    }

    async fn remove(&mut self, machine: &Arc<MemberMachine>, at: Option<MachineId>) -> Result<(), String> {
        // An answer that was lost: it is gone.
        if let Some(id) = self.find(machine, at).await? {
            let mut cluster = self.cluster(at).await?;
            answered(cluster.member_remove(pb::MemberRemoveRequest { id }).await)?;
        }
        self.stage.cluster.retire(machine);
        Ok(())
    }

    fn leads(&self, machine: &MemberMachine) -> bool {
        machine.member().is_some_and(|member| member.raft_status().leader == Some(member.id()))
    }

    async fn id_of(&mut self, machine: &MemberMachine, at: Option<MachineId>) -> Result<u64, String> {
        self.find(machine, at).await?.ok_or_else(|| format!("{} is no member", machine.name))
    }

    async fn find(&mut self, machine: &MemberMachine, at: Option<MachineId>) -> Result<Option<u64>, String> {
        let members = self.list(at).await?;
        let member = members.iter().find(|member| member.peer_ur_ls.contains(&machine.peer_url));
        Ok(member.map(|member| member.id))
    }

    async fn list(&mut self, at: Option<MachineId>) -> Result<Vec<pb::Member>, String> {
        let mut cluster = self.cluster(at).await?;
        Ok(answered(cluster.member_list(pb::MemberListRequest { linearizable: true }).await)?.members)
    }

    async fn cluster(&mut self, at: Option<MachineId>) -> Result<ClusterClient<Connection>, String> {
        let connection = self.connect(at).await?;
        Ok(ClusterClient::with_origin(connection.clone(), connection.origin()))
    }

    /// A connection to the member `at`, or to a drawn one.
    async fn connect(&mut self, at: Option<MachineId>) -> Result<Connection, String> {
        let machine = match at {
            Some(machine) => Arc::clone(self.stage.cluster.machine(machine)),
            None => Arc::clone(self.client.dice.pick(&self.stage.cluster.members())),
        };
        quorate_runtime::select! {
            biased;
            connected = Connection::connect(&self.rt, machine.client_address()) => connected.map_err(|error| error.to_string()),
            () = clock::sleep(Duration::from_secs(1)) => Err("no connection in time".to_owned()),
        }
    }
}

fn answered<T>(result: Result<tonic::Response<T>, tonic::Status>) -> Result<T, String> {
    result.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

/// A value as the scenario has it.
fn bare(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.split(UNIQUE).next().unwrap_or_default().to_owned()
}

//! A disk that is nearly full: the cluster refuses what grows and serves everything else, and goes on by itself when there is
//! room. Then one that is full at once: the member still answers reads.
#![cfg(feature = "sim")]

use std::sync::Arc;
use std::time::Duration;

use quorate_client::Connection;
use quorate_member::MemberConfig;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use quorate_sim::run::in_world;
use quorate_sim::world::World;
use quorate_sim::world::clock;
use quorate_sim::world::cluster::{Cluster, Depth, Limits, MemberMachine, client_runtime};
use quorate_sim::world::disk::Death;
use tonic::Status;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// A cluster of three, and a client of its first member.
struct Setting {
    cluster: Arc<Cluster>,
    kv: KvClient<Connection>,
}

impl Setting {
    async fn new(world: &Arc<World>) -> Self {
        let settings = MemberConfig {
            wal_segment_bytes: 64 << 10,
            pending_bytes_max: 64 << 10,
            ..MemberConfig::single("m", std::path::Path::new("/"), "http://0:1", "http://0:2")
        };
        let cluster = Cluster::new(world, 3, 0, &Limits { depth: Depth::Full, reactors: 1, busy_percent: 0, settings });
        for machine in &cluster.machines {
            cluster.start(machine);
        }
        let rt = client_runtime(world, 0);
        let connection = loop {
            match Connection::connect(&rt, cluster.machines[0].client_address()).await {
                Ok(connection) => break connection,
                Err(_starting) => clock::sleep(Duration::from_millis(100)).await,
            }
        };
        Self { kv: KvClient::with_origin(connection.clone(), connection.origin()), cluster }
    }

    async fn put(&mut self, key: &'static str, value: &'static str) -> Result<(), Status> {
        let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.kv.put(request).await.map(drop)
    }

    async fn get(&mut self, key: &'static str, serializable: bool) -> Result<i64, Status> {
        let request = RangeRequest { key: key.into(), serializable, ..Default::default() };
        Ok(self.kv.range(request).await?.into_inner().count)
    }

    async fn delete(&mut self, key: &'static str) -> Result<i64, Status> {
        let request = DeleteRangeRequest { key: key.into(), ..Default::default() };
        Ok(self.kv.delete_range(request).await?.into_inner().deleted)
    }
}

fn leave_room(machine: &MemberMachine, bytes: u64) {
    let capacity_bytes = machine.disk.used_bytes() + bytes;
    machine.disk.tune(|knobs| knobs.capacity_bytes = Some(capacity_bytes));
}

async fn a_while() {
    clock::sleep(Duration::from_secs(4)).await;
}

#[test]
fn a_nearly_full_disk_stops_growth_and_nothing_else_until_there_is_room() {
    in_world(1, |world| async move {
        let mut setting = Setting::new(&world).await;
        setting.put("kept", "1").await.unwrap();
        setting.put("doomed", "1").await.unwrap();
        // Not the member that is asked.
        let full = Arc::clone(&setting.cluster.machines[2]);
        leave_room(&full, 100 << 10);
        a_while().await;
        assert_eq!(setting.put("more", "1").await.unwrap_err().message(), NO_SPACE);
        assert_eq!(setting.get("kept", false).await.unwrap(), 1);
        assert_eq!(setting.delete("doomed").await.unwrap(), 1);

        // It remembers why over a restart. More room than the reserve is not yet enough to go on.
        setting.cluster.kill(&full, Death::PowerFailure);
        setting.cluster.start(&full);
        leave_room(&full, 200 << 10);
        a_while().await;
        assert_eq!(setting.put("more", "1").await.unwrap_err().message(), NO_SPACE);

        full.disk.tune(|knobs| knobs.capacity_bytes = None);
        a_while().await;
        setting.put("more", "1").await.unwrap();
        assert_eq!(setting.cluster.complaints(), Vec::<String>::new());
        drop(setting);
        world.shut_down().await;
    });
}

#[test]
fn a_disk_that_is_full_at_once_leaves_the_member_readable() {
    in_world(2, |world| async move {
        let mut setting = Setting::new(&world).await;
        setting.put("kept", "1").await.unwrap();
        for machine in &setting.cluster.machines {
            leave_room(machine, 1);
        }
        // In the log there is room that was taken ahead; in the database there is none.
        setting.put("late", "1").await.unwrap();
        a_while().await;
        assert_eq!(setting.put("more", "1").await.unwrap_err().message(), NO_SPACE);
        for serializable in [true, false] {
            assert_eq!(setting.get("kept", serializable).await.unwrap(), 1);
            assert_eq!(setting.get("late", serializable).await.unwrap(), 1);
        }
        for machine in &setting.cluster.machines {
            machine.disk.tune(|knobs| knobs.capacity_bytes = None);
        }
        a_while().await;
        setting.put("more", "1").await.unwrap();
        for machine in &setting.cluster.machines {
            setting.cluster.kill(machine, Death::PowerFailure);
            setting.cluster.start(machine);
        }
        assert_eq!(setting.cluster.complaints(), Vec::<String>::new());
        drop(setting);
        world.shut_down().await;
    });
}

/// The alarm takes effect where it was asked for only after that member has died, come back to a disk with room, and looked.
#[test]
fn an_alarm_that_arrives_late_is_taken_back_too() {
    in_world(3, |world| async move {
        let mut setting = Setting::new(&world).await;
        setting.put("kept", "1").await.unwrap();
        let machines = setting.cluster.machines.clone();
        let leader = machines[0].member().unwrap().raft_status().leader;
        let led_by = |machine: &&Arc<MemberMachine>| machine.member().map(|member| member.id()) == leader;
        let full = Arc::clone(machines.iter().find(|machine| !led_by(machine)).unwrap());
        let other = Arc::clone(machines.iter().find(|machine| led_by(machine)).unwrap());
        leave_room(&full, 100 << 10);
        while other.member().unwrap().view().alarms().is_empty() {
            clock::sleep(Duration::from_micros(50)).await;
        }
        setting.cluster.kill(&full, Death::PowerFailure);
        for machine in machines.iter().filter(|machine| machine.machine != full.machine) {
            world.net.cut(machine.machine, full.machine);
            world.net.cut(full.machine, machine.machine);
        }
        full.disk.tune(|knobs| knobs.capacity_bytes = None);
        setting.cluster.start(&full);
        a_while().await;
        assert!(full.member().unwrap().view().alarms().is_empty(), "it cannot know of the alarm yet");

        world.net.mend_all();
        clock::sleep(Duration::from_secs(10)).await;
        assert!(other.member().unwrap().view().alarms().is_empty());
        drop((machines, full, other, setting));
        world.shut_down().await;
    });
}

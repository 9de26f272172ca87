//! A leader that found its own removal in its log, waits until another member could take over, and is asked to stop meanwhile.
#![cfg(feature = "sim")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_client::Connection;
use quorate_member::{Member, MemberConfig};
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{MemberRemoveRequest, PutRequest};
use quorate_runtime::Rt;
use quorate_sim::run::in_world;
use quorate_sim::world::World;
use quorate_sim::world::clock;
use quorate_sim::world::cluster::{Cluster, Depth, Limits, MemberMachine, client_runtime};
use quorate_sim::world::disk::Death;

/// Waits for it, for ten simulated seconds. False if it did not come.
async fn comes(mut is_true: impl FnMut() -> bool) -> bool {
    for _ in 0..2000 {
        if is_true() {
            return true;
        }
        clock::sleep(Duration::from_millis(5)).await;
    }
    false
}

fn started(machine: &MemberMachine) -> Member {
    machine.member().expect("it runs")
}

fn leads(machine: &MemberMachine) -> bool {
    machine.member().is_some_and(|member| member.raft_status().leader == Some(member.id()))
}

async fn connect(rt: &Rt, machine: &MemberMachine) -> Connection {
    Connection::connect(rt, machine.client_address()).await.expect("it listens")
}

/// The times must meet: some seed does it.
#[test]
fn a_leader_that_waits_to_leave_stops_when_asked() {
    assert!((1..=40).any(|seed| in_world(seed, stop_while_waiting)), "no leader ever waited to leave");
}

/// Two voters remain of three. The one whose removal is in both logs leads, has committed it, and goes on getting puts, which
/// the other lacks. False if it does not come to that.
async fn stop_while_waiting(world: Arc<World>) -> bool {
    let settings = MemberConfig {
        heartbeat_ms: 100,
        election_ms: 1000,
        strict_reconfig_check: false,
        ..MemberConfig::single("m", Path::new("/"), "http://0:1", "http://0:2")
    };
    let cluster = Cluster::new(&world, 3, 0, &Limits { depth: Depth::Full, reactors: 1, busy_percent: 0, settings });
    for machine in &cluster.machines {
        cluster.start(machine);
    }
    assert!(comes(|| cluster.machines.iter().any(|machine| leads(machine))).await);
    clock::sleep(Duration::from_secs(2)).await;
    let (old_leader, others): (Vec<_>, Vec<_>) = cluster.machines.iter().cloned().partition(|machine| leads(machine));
    let [old_leader] = &old_leader[..] else { panic!("one leads") };
    let [leaver, stayer] = &others[..] else { panic!("two follow") };

    // The removal reaches the leaver's log; nobody hears that it did.
    let rt = client_runtime(&world, 0);
    let (client, id) = (connect(&rt, old_leader).await, started(leaver).id().0);
    for (from, to) in [(old_leader, stayer), (stayer, old_leader), (leaver, old_leader)] {
        world.net.cut(from.machine, to.machine);
    }
    let asking = world.new_node("operator").spawn(async move {
        let mut members = ClusterClient::with_origin(client.clone(), client.origin());
        drop(members.member_remove(MemberRemoveRequest { id }).await);
    });
    clock::sleep(Duration::from_millis(300)).await;
    cluster.kill(old_leader, Death::Kill);
    asking.await.unwrap();
    world.net.mend_all();
    world.net.tune(|knobs| knobs.latency.base_ns = 100_000_000);

    if !comes(|| leads(leaver)).await {
        return false;
    }
    let connection = connect(&rt, leaver).await;
    let writers = world.new_node("writers");
    let each_writer = writers.clone();
    writers.spawn(async move {
        loop {
            let mut kv = KvClient::with_origin(connection.clone(), connection.origin());
            each_writer.spawn(async move {
                let request = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
                drop(kv.put(request).await);
            });
            clock::sleep(Duration::from_millis(10)).await;
        }
    });
    let waits_to_leave = || {
        let status = started(leaver).raft_status();
        status.applied < status.committed
    };
    if !comes(|| waits_to_leave() && started(leaver).view().members().len() == 3).await {
        return false;
    }
    clock::sleep(Duration::from_millis(20)).await;
    if !(waits_to_leave() && leads(leaver)) {
        return false;
    }
    assert!(cluster.stop(leaver).await);
    assert_eq!(cluster.complaints(), Vec::<String>::new());
    drop((others, cluster));
    world.shut_down().await;
    true
}

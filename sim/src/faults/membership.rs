//! Members come and go: an operator adds voters and learners, promotes, removes, and replaces members whose disks he throws
//! away.
//!
//! Budget: one change at a time, as an operator makes it who looks at the list of members before and after, and goes on
//! although answers get lost. A machine whose member is removed gets an empty disk before it is used again. The cluster itself
//! refuses what would cost it the quorum. Every acknowledged write must be there afterwards, on the members that are there
//! then, and members that were removed must have no say.

use std::sync::Arc;
use std::time::Duration;

use quorate_client::Connection;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_runtime::{BoxFuture, Rt, mark};
use quorate_types::MemberId;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::scenario::{Call, Deed, Wanted, Who};
use crate::workloads::alarms;
use crate::world::clock;
use crate::world::cluster::{MemberMachine, client_runtime};
use crate::world::dice::Dice;
use crate::world::disk::Death;

/// The fault's name.
pub const NAME: &str = "membership";

/// What it counts as strikes.
pub const STRIKES: &[&str] = &["member_added", "member_promoted", "member_removed"];

/// The machine of the operator of this fault.
const OPERATOR: u64 = 50;

/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// A member that was added in peace has its snapshot after this, if it needs one.
const JOINS_WITHIN: Duration = Duration::from_secs(2);

/// Pause before asking again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// See the module.
pub struct Membership {
    every: Duration,
    /// Percent of additions that begin as a learner.
    learners: u64,
    /// Percent of removals that are followed by a new member on the same machine.
    replaces: u64,
    /// A removed member's process may go on for so long before somebody switches it off.
    lingers_ms_max: u64,
}

impl Membership {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 3, 15),
            learners: *dice.pick(&[0, 50, 100]),
            replaces: *dice.pick(&[0, 50, 100]),
            lingers_ms_max: *dice.pick(&[1, 2000, 20_000]),
        }
    }
}

impl Fault for Membership {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut operator = Operator::new(stage, OPERATOR, dice);
            while stage.pause(interval(&mut operator.dice, self.every)).await {
                if !operator.look().await {
                    continue;
                }
                let spare = stage.cluster.machines.iter().filter(|machine| machine.is_spare()).count();
                let members = stage.cluster.members().len();
                if spare > 0 && (members < 2 || operator.dice.percent(50)) {
                    let machine = operator.pick(true);
                    operator.add(&machine, self.learners).await;
                } else if members > 1 {
                    let machine = operator.pick(false);
                    let lingers_ms = operator.dice.magnitude(1, self.lingers_ms_max);
                    let removed = operator.remove(&machine, Duration::from_millis(lingers_ms)).await;
                    if removed && operator.dice.percent(self.replaces) {
                        operator.add(&machine, self.learners).await;
                    }
                }
            }
        })
    }
}

/// Who changes the membership.
pub struct Operator {
    stage: Arc<Stage>,
    dice: Dice,
    rt: Rt,
    /// Why the last call failed; the story need not be told it twice.
    last_refusal: String,
}

impl Operator {
    /// An operator on a machine of his own, counted as a client's.
    pub fn new(stage: &Arc<Stage>, machine: u64, dice: Dice) -> Self {
        Self { stage: Arc::clone(stage), dice, rt: client_runtime(&stage.world, machine), last_refusal: String::new() }
    }

    /// After the chaos: brings machines and membership together, promotes who is still a learner; for ever if need be. If the run
    /// `wants_snapshot`, some new member gets one, now if it was not before.
    pub async fn settle(&mut self, wants_snapshot: bool) {
        self.change_in_peace(wants_snapshot).await;
        loop {
            self.reconcile();
            let Some(list) = self.list().await else { continue };
            for machine in self.stage.cluster.members() {
                if !list.iter().any(|member| member.peer_ur_ls.contains(&machine.peer_url)) {
                    self.stage.cluster.retire(&machine);
                    self.stage.cluster.kill(&machine, Death::Kill);
                }
            }
            if let Some(learner) = list.iter().find(|member| member.is_learner) {
                if !self.promote(learner.id).await {
                    clock::sleep(RETRY_AFTER).await;
                }
            } else if self.disarm_of_others(&list).await {
                return;
            }
        }
    }

    /// Some chaos never lets a cluster be whole for the five seconds that a change takes, or until its log is long enough for a
    /// snapshot; then members are added afterwards.
    async fn change_in_peace(&mut self, wants_snapshot: bool) {
        let stage = Arc::clone(&self.stage);
        let is_missing =
            || !stage.has_struck("member_added") || (wants_snapshot && mark::count("snapshot_installed") == 0);
        if is_missing() {
            stage.strike("change_made_in_peace");
        }
        while is_missing() {
            if !self.look().await {
                continue;
            }
            if stage.cluster.machines.iter().any(|machine| machine.is_spare()) {
                let machine = self.pick(true);
                self.add(&machine, 50).await;
                clock::sleep(JOINS_WITHIN).await;
            } else {
                let machine = self.pick(false);
                self.remove(&machine, Duration::ZERO).await;
            }
        }
    }

    /// Takes back the alarms of those who are members no more: nobody else will. True if there is none left.
    async fn disarm_of_others(&mut self, list: &[pb::Member]) -> bool {
        let mut request = pb::AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
        let asked = request;
        let Some(raised) = self.call(|connection| async move { maintenance(connection).alarm(asked).await }).await
        else {
            return false;
        };
        // A workload looks after its own.
        let is_made_up = |alarm: &pb::AlarmMember| alarms::ACCUSED.contains(&alarm.member_id);
        let is_stranger =
            |alarm: &&pb::AlarmMember| list.iter().all(|member| member.id != alarm.member_id) && !is_made_up(alarm);
        let Some(stranger) = raised.alarms.iter().find(is_stranger) else { return true };
        request.action = AlarmAction::Deactivate.into();
        (request.member_id, request.alarm) = (stranger.member_id, stranger.alarm);
        self.call(|connection| async move { maintenance(connection).alarm(request).await }).await;
        false
    }

    /// Sees to what an answer that got lost has left behind; then knows the list. False if it cannot be had now.
    async fn look(&mut self) -> bool {
        self.reconcile();
        let Some(list) = self.list().await else { return false };
        for machine in self.stage.cluster.members() {
            if !list.iter().any(|member| member.peer_ur_ls.contains(&machine.peer_url)) {
                self.stage.cluster.retire(&machine);
            }
        }
        if let Some(learner) = list.iter().find(|member| member.is_learner)
            && self.dice.percent(70)
        {
            self.promote(learner.id).await;
        }
        true
    }

    /// A member that was added although its operator never heard of it waits for its machine, and may cost the quorum until then.
    fn reconcile(&self) {
        for (machine, members) in self.stage.cluster.awaited() {
            self.stage.strike("member_added");
            self.stage.cluster.enlist(&machine, members);
        }
    }

    fn pick(&mut self, spare: bool) -> Arc<MemberMachine> {
        let all = self.stage.cluster.machines.iter().filter(|machine| machine.is_spare() == spare);
        let all: Vec<_> = all.cloned().collect();
        Arc::clone(self.dice.pick(&all))
    }

    async fn add(&mut self, machine: &Arc<MemberMachine>, learners: u64) {
        let is_learner = self.dice.percent(learners);
        self.note(Call::Add(Who::Machine(machine.machine), is_learner));
        let request = pb::MemberAddRequest { peer_ur_ls: vec![machine.peer_url.clone()], is_learner };
        let answered = self.call(|connection| async move { cluster(connection).member_add(request).await }).await;
        // Without an answer, whoever looks next finds out.
        let Some(answer) = answered else { return };
        let members: Vec<_> = answer.members.into_iter().map(|member| member.peer_ur_ls).collect();
        if machine.is_among(&members) {
            self.stage.strike("member_added");
            self.stage.world.note(Deed::Act(Action::Start(Who::Machine(machine.machine))));
            self.stage.cluster.enlist(machine, members);
        }
    }

    /// True if it is gone for sure.
    async fn remove(&mut self, machine: &Arc<MemberMachine>, lingers: Duration) -> bool {
        let find = |members: &[pb::Member]| {
            members.iter().find(|member| member.peer_ur_ls.contains(&machine.peer_url)).map(|member| member.id)
        };
        let Some(id) = self.list().await.as_deref().and_then(find) else { return false };
        self.note(Call::Remove(Who::Machine(machine.machine)));
        let request = pb::MemberRemoveRequest { id };
        self.call(|connection| async move { cluster(connection).member_remove(request).await }).await;
        let is_gone = self.list().await.is_some_and(|members| find(&members).is_none());
        if is_gone {
            self.stage.strike("member_removed");
            self.stage.cluster.retire(machine);
            self.stage.pause(lingers).await;
            self.stage.act(&Action::Kill(machine.machine));
            if self.dice.percent(30) {
                // By mistake, with all that it knew. It must not get anywhere.
                self.stage.world.note(Deed::Act(Action::Start(Who::Machine(machine.machine))));
                self.stage.cluster.start_with(machine, Vec::new(), false);
                self.stage.pause(lingers).await;
                self.stage.act(&Action::Kill(machine.machine));
            }
        }
        is_gone
    }

    fn note(&self, call: Call) {
        self.stage.world.note(Deed::Call { call, at: None, wanted: Wanted::Anything });
    }

    async fn promote(&mut self, id: u64) -> bool {
        let learner = self.stage.cluster.machines.iter().find(|machine| machine.last_member() == Some(MemberId(id)));
        if let Some(machine) = learner {
            self.note(Call::Promote(Who::Machine(machine.machine)));
        }
        let request = pb::MemberPromoteRequest { id };
        let promoted =
            self.call(|connection| async move { cluster(connection).member_promote(request).await }).await.is_some();
        if promoted {
            self.stage.strike("member_promoted");
        }
        promoted
    }

    /// The members, as all have agreed on.
    async fn list(&mut self) -> Option<Vec<pb::Member>> {
        let request = pb::MemberListRequest { linearizable: true };
        Some(self.call(|connection| async move { cluster(connection).member_list(request).await }).await?.members)
    }

    /// Asks some member. `None` if it refused, or did not answer in time.
    async fn call<T, F>(&mut self, ask: impl FnOnce(Connection) -> F) -> Option<T>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let members = self.stage.cluster.members();
        let address = self.dice.pick(&members).client_address();
        let asking = async {
            let connection = Connection::connect(&self.rt, address).await.map_err(|error| error.to_string())?;
            ask(connection).await.map_err(|status| status.to_string())
        };
        let answered = quorate_runtime::select! {
            biased;
            answered = asking => answered,
            () = clock::sleep(PATIENCE) => Err("no answer".to_owned()),
        };
        match answered {
            Ok(answer) => Some(answer.into_inner()),
            Err(why) => {
                if why != self.last_refusal {
                    self.stage.world.tell(format!("the operator is not served: {why}"));
                    self.last_refusal = why;
                }
                clock::sleep(RETRY_AFTER).await;
                None
            }
        }
    }
}

fn cluster(connection: Connection) -> ClusterClient<Connection> {
    ClusterClient::with_origin(connection.clone(), connection.origin())
}

fn maintenance(connection: Connection) -> MaintenanceClient<Connection> {
    MaintenanceClient::with_origin(connection.clone(), connection.origin())
}

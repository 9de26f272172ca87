//! A majority is gone for ever, with its disks. An operator starts the survivor with `--force-new-cluster`, and it goes on alone.
//!
//! Budget: once a run, if there are at least three members. Only what the survivor does not hold may be missing afterwards: it is
//! declared as lost, and the checkers do not ask for it. All that the survivor holds must be there, and nobody else may be a
//! member. Other faults go on meanwhile, so the survivor may die half way; the operator tries again.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::{BoxFuture, witness};

use super::{Fault, Stage};
use crate::actions::Action;
use crate::history::DeclaredLoss;
use crate::scenario::{Call, Deed, Setting, Wanted, Who};
use crate::world::clock;
use crate::world::cluster::{FORCE_NEW_CLUSTER, MemberMachine};
use crate::world::dice::Dice;
use crate::world::disk::Death;

/// The fault's name.
pub const NAME: &str = "quorum_lost";

/// Percent of the plans with this fault in which it happens: afterwards there is one member only.
const HAPPENS_PERCENT: u64 = 25;

/// The operator tries again if the survivor does not serve after so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// So often he tries when no other fault strikes any more. Then the survivor is broken.
const TRIES_IN_PEACE: u64 = 3;

/// How often the operator looks.
const LOOKS_EVERY: Duration = Duration::from_millis(5);

/// See the module.
pub struct QuorumLost {
    /// When, if it happens at all.
    after: Option<Duration>,
    /// How long the survivor waits alone.
    waits_ms_max: u64,
}

impl QuorumLost {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let (happens, after_ms) = (dice.percent(HAPPENS_PERCENT), dice.between(5000, 50_000));
        Self { after: happens.then_some(Duration::from_millis(after_ms)), waits_ms_max: *dice.pick(&[10, 1000, 5000]) }
    }

    async fn strike(&self, stage: &Arc<Stage>, dice: &mut Dice) {
        let members = stage.cluster.members();
        if members.len() < 3 {
            return;
        }
        let survivor = dice.pick(&members);
        for lost in members.iter().filter(|member| member.machine != survivor.machine) {
            stage.cluster.wipe(lost, Death::PowerFailure);
            stage.cluster.retire(lost);
            stage.world.note(Deed::Lose(Who::Machine(lost.machine)));
        }
        stage.pause(Duration::from_millis(dice.between(1, self.waits_ms_max))).await;
        // By now whoever works waits for the majority.
        stage.strike(NAME);
        let Some(kept) = force(stage, survivor).await else { return };
        // What others have applied there is not what the survivor goes on with.
        witness::forget();
        stage.recorder.declare_lost(kept);
        let others = survivor.member().map_or(0, |member| member.view().members().len().saturating_sub(1));
        if others > 0 {
            stage.cluster.complain(format!("{} was to go on alone, and has {others} other members", survivor.name));
        }
        stage.world.note(Deed::DeclareLost(Who::Machine(survivor.machine)));
    }
}

/// Makes `survivor` a cluster of its own, also if the stage ends meanwhile: nobody else could serve. Returns what it has kept;
/// nothing if it cannot go on, which is a complaint.
async fn force(stage: &Arc<Stage>, survivor: &Arc<MemberMachine>) -> Option<DeclaredLoss> {
    let flag = Setting { name: FORCE_NEW_CLUSTER, value: "true".to_owned() };
    let mut tries_in_peace = 0;
    while tries_in_peace < TRIES_IN_PEACE {
        tries_in_peace += u64::from(stage.is_over());
        stage.act(&Action::Kill(survivor.machine));
        let who = Who::Machine(survivor.machine);
        let call = Call::Start(who, vec![flag.clone()]);
        stage.world.note(Deed::Call { call, at: None, wanted: Wanted::Anything });
        stage.cluster.start_with(survivor, vec![flag.clone()], false);
        let gives_up = clock::now().plus_nanos(PATIENCE.as_nanos() as u64);
        while clock::now() < gives_up {
            if let Some(kept) = survivor.kept_when_forced() {
                return Some(kept);
            }
            if !stage.cluster.complaints().is_empty() {
                return None;
            }
            clock::sleep(LOOKS_EVERY).await;
        }
    }
    stage.cluster.complain(format!("{} could not be made a cluster of its own", survivor.name));
    None
}

impl Fault for QuorumLost {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(after) = self.after
                && stage.pause(after).await
            {
                self.strike(stage, &mut dice).await;
            }
        })
    }
}

//! Alarms: raised, asked for and taken back by hand, and puts that they must refuse meanwhile.
//!
//! They are raised in the names of members that do not exist, so that nobody but this workload touches them: members look after
//! their own. In the end they are taken back, whoever has raised them, until none can be on its way any more: a cluster with
//! an alarm serves nobody who writes.

use std::time::Duration;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::AlarmType;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_runtime::BoxFuture;
use quorate_types::Error;

use super::{Client, Workload};
use crate::history::Outcome;
use crate::world::clock::{self, SimTime};
use crate::world::dice::Dice;

/// In whose names they are raised.
pub const ACCUSED: [u64; 2] = [0xa1a1, 0xa1a2];

/// How soon they are taken back again in the end.
const AGAIN: Duration = Duration::from_millis(500);

/// See the module. Percentages of the actions; the rest are puts.
pub struct Alarms {
    raises: u64,
    asks: u64,
    /// Odds, in percent, that who was refused takes alarms back before the next action.
    takes_back: u64,
}

impl Alarms {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { raises: dice.between(1, 6), asks: dice.between(5, 30), takes_back: dice.between(20, 80) }
    }
}

impl Workload for Alarms {
    fn name(&self) -> &'static str {
        "alarms"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // Until then an alarm may come into force whose fate we do not know.
            let mut unsure_until = SimTime::default();
            while client.goes_on() {
                self.step(client, &mut unsure_until).await;
                client.think().await;
            }
            while !take_all_back(client).await || clock::now() < unsure_until {
                clock::sleep(AGAIN).await;
            }
        })
    }
}

impl Alarms {
    async fn step(&self, client: &mut Client, unsure_until: &mut SimTime) {
        let drawn = client.dice.below(100);
        if drawn < self.raises {
            let accused = *client.dice.pick(&ACCUSED);
            if client.alarm(request(AlarmAction::Activate, accused)).await == Outcome::Unknown {
                *unsure_until = clock::now().plus_nanos(client.proposals_live().as_nanos() as u64);
            }
        } else if drawn < self.raises + self.asks {
            client.alarm(pb::AlarmRequest::default()).await;
        } else {
            let key = client.key();
            let was_refused = !matches!(client.put(key).await, Outcome::Answered(_));
            let has_no_space = was_refused && client.last_error == Error::NoSpace.message();
            if has_no_space && client.dice.percent(self.takes_back) {
                take_all_back(client).await;
            }
        }
    }
}

fn request(action: AlarmAction, member_id: u64) -> pb::AlarmRequest {
    pb::AlarmRequest { action: action.into(), member_id, alarm: AlarmType::Nospace.into() }
}

/// True if each was answered.
async fn take_all_back(client: &mut Client) -> bool {
    let mut all = true;
    for accused in ACCUSED {
        all &= matches!(client.alarm(request(AlarmAction::Deactivate, accused)).await, Outcome::Answered(_));
    }
    all
}

//! Alarms: what members have told the cluster to stop for.
//!
//! A member raises an alarm by an entry in the log, for itself or for another; an operator takes it back the same way.
//! While any NOSPACE alarm stands, whatever grows the store is refused; while any CORRUPT alarm stands, keys are neither
//! changed nor leases touched. Ids are not checked, and a kind that this version does not know is kept like the others.

use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};

use crate::sync::Arc;

/// The alarms that stand, ordered by member and kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Alarms {
    raised: Arc<Vec<AlarmMember>>,
}

fn order(alarm: &AlarmMember) -> (u64, i32) {
    (alarm.member_id, alarm.alarm)
}

impl Alarms {
    /// As they were stored.
    pub(crate) fn restore(mut raised: Vec<AlarmMember>) -> Self {
        raised.sort_unstable_by_key(order);
        Self { raised: Arc::new(raised) }
    }

    pub(crate) fn all(&self) -> &[AlarmMember] {
        &self.raised
    }

    /// True if any member has raised an alarm of that kind.
    pub(crate) fn stands(&self, kind: AlarmType) -> bool {
        self.raised.iter().any(|alarm| alarm.alarm == kind as i32)
    }

    /// Applies a request; answers what etcd answers: the alarms asked for, or the one that was raised or taken back.
    pub(crate) fn apply(&mut self, request: &AlarmRequest) -> Vec<AlarmMember> {
        let named = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self
                .raised
                .iter()
                .filter(|alarm| request.alarm == AlarmType::None as i32 || alarm.alarm == request.alarm)
                .copied()
                .collect(),
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if let Err(place) = self.raised.binary_search_by_key(&order(&named), order) {
                    Arc::make_mut(&mut self.raised).insert(place, named);
                }
                vec![named]
            }
            Ok(AlarmAction::Deactivate) => match self.raised.binary_search_by_key(&order(&named), order) {
                Ok(place) => vec![Arc::make_mut(&mut self.raised).remove(place)],
                Err(_) => Vec::new(),
            },
            Ok(AlarmAction::Activate) | Err(_) => Vec::new(),
        }
    }
}

//! An alarm stands from the moment it was raised until it is taken back, for everybody: it is in every list, and while one for
//! NOSPACE stands no put is answered.
//!
//! Raising and taking back go through the log, and so do puts and questions. So who begins after an alarm was raised finds it,
//! unless somebody may have taken it back since; who begins after it was taken back does not find it, unless somebody may have
//! raised it again. Members raise their own when they like, so of those only this is demanded: where nobody but clients takes
//! alarms back, one that somebody has seen stands until one of them has.

use std::collections::BTreeMap;

use quorate_proto::etcdserverpb::AlarmType;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;

use super::{Case, Checker};
use crate::history::alarm::AlarmCall;
use crate::history::{Operation, Outcome, Request};
use crate::world::clock::SimTime;

/// See the module.
pub struct Alarms;

/// Whose alarm, and of which kind.
type Name = (u64, i32);

impl Checker for Alarms {
    fn name(&self) -> &'static str {
        "alarms"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let mut changes: BTreeMap<Name, Changes> = BTreeMap::new();
        for call in &case.evidence.alarms {
            let of_name = || (call.request.member_id, call.request.alarm);
            match call.request.action() {
                _ if matches!(call.outcome, Outcome::Refused { .. }) => {}
                AlarmAction::Activate => changes.entry(of_name()).or_default().raised.push(call),
                AlarmAction::Deactivate => changes.entry(of_name()).or_default().taken_back.push(call),
                AlarmAction::Get => {}
            }
        }
        changes.retain(|_, changes| !changes.raised.is_empty());
        if case.evidence.leaves_alarms_to_clients {
            add_members_own(&case.evidence.alarms, &mut changes);
        }
        for call in &case.evidence.alarms {
            let (Some(answer), AlarmAction::Get) = (call.answer(), call.request.action()) else { continue };
            let is_asked_for = |name: &Name| [AlarmType::None as i32, name.1].contains(&call.request.alarm);
            for (name, changes) in changes.iter().filter(|(name, _)| is_asked_for(name)) {
                let stands = answer.alarms.iter().any(|alarm| (alarm.member_id, alarm.alarm) == *name);
                changes
                    .judge(stands, call.start, call.end)
                    .map_err(|what| format!("{what}; yet {}", call.describe()))?;
            }
        }
        let of_space = || changes.iter().filter(|(name, _)| name.1 == AlarmType::Nospace as i32);
        for put in case.evidence.operations.iter().filter(|operation| is_answered_put(operation)) {
            for (_, changes) in of_space() {
                changes.judge(false, put.start, put.end).map_err(|what| format!("{what}; yet {}", put.describe()))?;
            }
        }
        Ok(())
    }
}

/// Alarms that no client raised. Whoever saw one is as good as who raised it.
fn add_members_own<'a>(calls: &'a [AlarmCall], changes: &mut BTreeMap<Name, Changes<'a>>) {
    let mut own: BTreeMap<Name, Changes> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.request.action() == AlarmAction::Get) {
        for alarm in call.answer().into_iter().flat_map(|answer| &answer.alarms) {
            let name = (alarm.member_id, alarm.alarm);
            if !changes.contains_key(&name) {
                own.entry(name).or_default().raised.push(call);
            }
        }
    }
    for call in calls.iter().filter(|call| call.request.action() == AlarmAction::Deactivate) {
        if let Some(changes) = own.get_mut(&(call.request.member_id, call.request.alarm))
            && !matches!(call.outcome, Outcome::Refused { .. })
        {
            changes.taken_back.push(call);
        }
    }
    changes.extend(own);
}

fn is_answered_put(operation: &Operation) -> bool {
    matches!((&operation.request, &operation.outcome), (Request::Put(_), Outcome::Answered(_)))
}

/// What was done to one alarm, and not refused.
#[derive(Default)]
struct Changes<'a> {
    raised: Vec<&'a AlarmCall>,
    taken_back: Vec<&'a AlarmCall>,
}

impl Changes<'_> {
    /// Somebody found between `start` and `end` that the alarm `stands`, or that it does not.
    fn judge(&self, stands: bool, start: SimTime, end: SimTime) -> Result<(), String> {
        let (same, opposite) = if stands { (&self.raised, &self.taken_back) } else { (&self.taken_back, &self.raised) };
        // Whether what was found may have been made between `since` and when it was found.
        let may_be = |since: SimTime| same.iter().any(|call| call.start <= end && call.effective_end() >= since);
        if stands && !may_be(SimTime::default()) {
            return Err("nobody had raised the alarm".to_owned());
        }
        let contradicts = |call: &&&AlarmCall| call.effective_end() < start && !may_be(call.start);
        match opposite.iter().find(contradicts) {
            None => Ok(()),
            Some(call) if stands => Err(format!("nobody has raised the alarm again since {}", call.describe())),
            Some(call) => Err(format!("nobody has taken the alarm back since {}", call.describe())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Evidence;
    use super::super::doctored::*;
    use super::*;
    use crate::checkers;

    const ONE: u64 = 1;
    const OTHER: u64 = 2;

    /// Two alarms stand, one after the other is taken back; then keys are put again.
    fn story() -> Story {
        let mut story = Story::default();
        story.put("k", "1").list_alarms(&[]).raise(ONE).list_alarms(&[ONE]).raise(OTHER).list_alarms(&[ONE, OTHER]);
        story.take_back(ONE).list_alarms(&[OTHER]).take_back(OTHER).list_alarms(&[]).put("k", "2").read_all();
        story
    }

    fn judged(story: &Story) -> Result<(), String> {
        Alarms.check(&Case::of(&story.evidence()))
    }

    #[test]
    fn a_true_story_passes_every_checker() {
        assert_eq!(checkers::judge(&story().evidence()), []);
    }

    #[test]
    fn a_put_that_is_answered_while_an_alarm_stands_is_reported() {
        let mut story = Story::default();
        story.raise(ONE).raise(OTHER).take_back(ONE).put("k", "1");
        let said = judged(&story).unwrap_err();
        assert!(said.contains("nobody has taken the alarm back since") && said.contains("Put"), "{said}");
        // Who takes it back may have done so before he heard of it.
        story.take_back(OTHER);
        story.alarms.last_mut().unwrap().start = SimTime::default();
        assert_eq!(judged(&story), Ok(()));
    }

    #[test]
    fn lists_that_lack_an_alarm_or_have_one_too_many_are_reported() {
        let lacking = |list: &[u64]| {
            let mut story = Story::default();
            story.raise(ONE).raise(OTHER).take_back(OTHER).list_alarms(list);
            judged(&story)
        };
        assert_eq!(lacking(&[ONE]), Ok(()));
        assert!(lacking(&[]).unwrap_err().contains("nobody has taken the alarm back since"));
        assert!(lacking(&[ONE, OTHER]).unwrap_err().contains("nobody has raised the alarm again since"));
        let mut early = Story::default();
        early.list_alarms(&[ONE]).raise(ONE);
        assert!(judged(&early).unwrap_err().contains("nobody had raised the alarm"));
    }

    #[test]
    fn a_members_own_alarm_that_was_seen_stands_until_a_client_takes_it_back() {
        let mut story = Story::default();
        story.list_alarms(&[]).list_alarms(&[ONE]).put("k", "1");
        assert_eq!(judged(&story), Ok(()), "the member may have taken it back");
        let judged = |story: &Story| {
            let evidence = Evidence { leaves_alarms_to_clients: true, ..story.evidence() };
            Alarms.check(&Case::of(&evidence))
        };
        let said = judged(&story).unwrap_err();
        assert!(said.contains("nobody has taken the alarm back since") && said.contains("Put"), "{said}");
        let mut story = Story::default();
        story.list_alarms(&[ONE]).list_alarms(&[]);
        assert!(judged(&story).is_err());
        let mut story = Story::default();
        story.list_alarms(&[ONE]).take_back(ONE).put("k", "1").list_alarms(&[ONE]).list_alarms(&[ONE]);
        assert_eq!(judged(&story), Ok(()), "it may raise it again");
    }

    #[test]
    fn what_nobody_knows_explains_either() {
        let mut story = Story::default();
        story.raise(ONE).take_back(ONE).list_alarms(&[]).list_alarms(&[ONE]);
        assert!(judged(&story).is_err());
        story.alarms[0].outcome = Outcome::Unknown;
        assert_eq!(judged(&story), Ok(()), "it may have been raised after it was taken back");
        story.alarms[0].outcome = Outcome::Refused { code: 14, message: "no".to_owned() };
        assert_eq!(judged(&story), Ok(()), "then nobody raised it, and members may do as they like");
    }
}

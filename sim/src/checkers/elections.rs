//! An election has one leader at a time, by revisions: whose key was created first of all that are there.
//!
//! A Campaign is answered when every key before its own has gone; when its own lease ends meanwhile, etcd does not tell. A
//! Proclaim puts its value at the revision that it tells, and a Leader reads at one. Who observes is told of each leader that
//! it finds and of every value which that one proclaims, in order. A refusal (nobody leads, or not by that key) was true at some
//! moment of its call.

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::v3electionpb::{CampaignRequest, CampaignResponse, LeaderKey};

use super::case::Truth;
use super::{Case, Checker, Evidence};
use crate::history::election::{
    ElectionAnswer, ElectionCall, ElectionRequest, NO_LEADER, NOT_LEADER, Observation, revision,
};
use crate::history::{Outcome, queue};
use crate::world::clock::SimTime;

/// See the module.
pub struct Elections;

impl Checker for Elections {
    fn name(&self) -> &'static str {
        "elections"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        if evidence.elections.is_empty() && evidence.observations.is_empty() {
            return Ok(());
        }
        let Ok(truth) = case.truth() else { return Ok(()) };
        let judge = Judge { evidence, truth };
        for call in &evidence.elections {
            judge.call(call).map_err(|what| format!("{what}: {}", call.describe()))?;
        }
        for observation in &evidence.observations {
            judge.observation(observation).map_err(|what| format!("{what}: {observation:?}"))?;
        }
        Ok(())
    }
}

struct Judge<'a> {
    evidence: &'a Evidence,
    truth: &'a Truth<'a>,
}

impl Judge<'_> {
    fn call(&self, call: &ElectionCall) -> Result<(), String> {
        match &call.outcome {
            Outcome::Answered(answer) => {
                self.truth.check_told(answer.revision(), call.start, call.end)?;
                self.answered(call, &call.request, answer)
            }
            Outcome::Refused { message, .. } => self.refused(call, message),
            Outcome::Unknown => Ok(()),
        }
    }

    fn answered(&self, call: &ElectionCall, asked: &ElectionRequest, answer: &ElectionAnswer) -> Result<(), String> {
        let at = answer.revision();
        match (asked, answer) {
            (ElectionRequest::Campaign(asked), ElectionAnswer::Campaign(answer)) => self.won(call, asked, answer, at),
            (ElectionRequest::Proclaim(asked), ElectionAnswer::Proclaim(_)) => {
                let leader = asked.leader.as_ref().ok_or("it did not say as what, and was answered")?;
                let is_proclaimed = |row: &KeyValue| {
                    row.mod_revision == at && row.value == asked.value && row.create_revision == leader.rev
                };
                match self.truth.replay.model.at(&leader.key, at).filter(is_proclaimed) {
                    Some(_) => Ok(()),
                    None => Err(format!("the value was not put at revision {at}")),
                }
            }
            (ElectionRequest::Leader(asked), ElectionAnswer::Leader(answer)) => {
                let told = decode(&answer.kv)?;
                match self.first_of(&asked.name, at) {
                    Some(first) if first == told => Ok(()),
                    other => Err(format!("at revision {at} the leader is {other:?}")),
                }
            }
            (ElectionRequest::Resign(asked), ElectionAnswer::Resign(_)) => {
                let leader = asked.leader.as_ref().ok_or("it did not say as what, and was answered")?;
                if self.holds(leader, at) { Err(format!("the key is there at revision {at}")) } else { Ok(()) }
            }
            _ => Err("an answer to another call".to_owned()),
        }
    }

    /// A campaign that was answered at `call.end`, in which the key stood in the queue at revision `at`.
    fn won(
        &self,
        call: &ElectionCall,
        asked: &CampaignRequest,
        answer: &CampaignResponse,
        at: i64,
    ) -> Result<(), String> {
        let leader = answer.leader.as_ref().ok_or("nobody leads")?;
        let key = queue::key(&asked.name, asked.lease);
        if (&leader.name, &leader.key, leader.lease) != (&asked.name, &key, asked.lease) {
            return Err("somebody else leads".to_owned());
        }
        let mine = self.truth.replay.model.at(&key, at).filter(|row| row.create_revision == leader.rev);
        if mine.is_none_or(|row| row.lease != asked.lease) {
            return Err(format!("its key is not there at revision {at}"));
        }
        let turn = self.turn(&asked.name, leader.rev).ok_or("its turn never came")?;
        if self.truth.existence.begun(turn) > call.end {
            return Err(format!("its turn came at revision {turn}, which was made later"));
        }
        Ok(())
    }

    /// The first revision at which no key of the election is older than the one created at `created`.
    fn turn(&self, name: &[u8], created: i64) -> Option<i64> {
        let prefix = queue::prefix(name);
        let rows = self.truth.replay.model.rows_at(created, |key| key.starts_with(&prefix));
        let older = rows.into_iter().filter(|row| row.create_revision < created);
        let mut older: Vec<Bytes> = older.map(|row| row.key).collect();
        if older.is_empty() {
            return Some(created);
        }
        for (revision, made) in self.truth.replay.from(created + 1) {
            older.retain(|key| !made.changes.iter().any(|(changed, row)| changed == key && row.is_none()));
            if older.is_empty() {
                return Some(revision);
            }
        }
        None
    }

    fn refused(&self, call: &ElectionCall, message: &str) -> Result<(), String> {
        let mut window = self.truth.existence.window(call.start, call.end);
        let was_so = match &call.request {
            ElectionRequest::Leader(asked) if message == NO_LEADER => {
                window.any(|revision| self.first_of(&asked.name, revision).is_none())
            }
            ElectionRequest::Proclaim(asked) if message == NOT_LEADER => {
                let leader = asked.leader.as_ref();
                leader.is_none_or(|leader| window.any(|revision| !self.holds(leader, revision)))
            }
            _ => true,
        };
        if was_so { Ok(()) } else { Err("refused, and it was not so at any moment of the call".to_owned()) }
    }

    fn observation(&self, observation: &Observation) -> Result<(), String> {
        let mut before: Option<KeyValue> = None;
        for (number, (at, response)) in observation.told.iter().enumerate() {
            let told = decode(&response.kv)?;
            let header = revision(response.header.as_ref());
            // What comes first is as new as any read, unless it was waited for; the rest comes as it happens.
            let is_read = number == 0 && header > told.mod_revision;
            let since = if is_read { observation.start } else { SimTime::default() };
            self.truth.check_told(header, since, *at)?;
            if header < told.mod_revision {
                return Err(format!("told at revision {header} of a later one, {told:?}"));
            }
            if self.truth.replay.model.at(&told.key, told.mod_revision).as_ref() != Some(&told) {
                return Err(format!("there was no such value, {told:?}"));
            }
            let first = self.first_of(&observation.name, told.mod_revision);
            let was_leader_then = first.is_some_and(|first| first.key == told.key);
            let was_leader_later = self.first_of(&observation.name, header).is_some_and(|first| first == told);
            if !was_leader_then && !was_leader_later {
                return Err(format!("it does not lead, {told:?}"));
            }
            if let Some(before) = &before {
                self.follows(before, &told)?;
            }
            before = Some(told);
        }
        Ok(())
    }

    /// Whether `told` may be the next after `before`.
    fn follows(&self, before: &KeyValue, told: &KeyValue) -> Result<(), String> {
        if told.create_revision < before.create_revision {
            return Err(format!("an older leader was told after a newer one, {told:?}"));
        }
        if told.create_revision > before.create_revision {
            return Ok(());
        }
        // After a gap in the history it looks again, and may find the same.
        let looked_again = self.evidence.compactions().any(|compaction| compaction.revision > before.mod_revision);
        match told.version - before.version {
            1 => Ok(()),
            0.. if looked_again => Ok(()),
            _ => Err(format!("version {} of a value follows version {}, {told:?}", told.version, before.version)),
        }
    }

    /// The key of an election that was created first of those that are there at `revision`.
    fn first_of(&self, name: &[u8], revision: i64) -> Option<KeyValue> {
        let prefix = queue::prefix(name);
        let rows = self.truth.replay.model.rows_at(revision, |key| key.starts_with(&prefix));
        rows.into_iter().min_by_key(|row| row.create_revision)
    }

    fn holds(&self, leader: &LeaderKey, revision: i64) -> bool {
        self.truth.replay.model.at(&leader.key, revision).is_some_and(|row| row.create_revision == leader.rev)
    }
}

fn decode(row: &Bytes) -> Result<KeyValue, String> {
    KeyValue::decode(row.clone()).map_err(|error| format!("a row does not decode: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::doctored::*;
    use super::*;
    use crate::checkers;

    const ONE: i64 = LEASES[0];
    const OTHER: i64 = LEASES[1];

    /// Nobody leads; one does, proclaims and resigns; then the other does.
    fn story() -> Story {
        let mut story = Story::default();
        story.grant(ONE, 10).grant(OTHER, 10).leader("post");
        story.campaign("post", ONE, "a").leader("post").observe("post").told("post").put("k", "1");
        story.proclaim(ONE, "b").told("post").leader("post").put("k", "2").resign(ONE).leader("post");
        story.campaign("post", OTHER, "c").told("post").leader("post").read_all();
        story
    }

    fn must_say(what: &str, falsify: impl FnOnce(&mut Story)) {
        let mut story = story();
        falsify(&mut story);
        let said = Elections.check(&Case::of(&story.evidence())).expect_err(what);
        assert!(said.contains(what), "{said}");
    }

    fn header_of(answer: &mut ElectionAnswer) -> &mut quorate_proto::etcdserverpb::ResponseHeader {
        let header = match answer {
            ElectionAnswer::Campaign(answer) => &mut answer.header,
            ElectionAnswer::Proclaim(answer) => &mut answer.header,
            ElectionAnswer::Leader(answer) => &mut answer.header,
            ElectionAnswer::Resign(answer) => &mut answer.header,
        };
        header.as_mut().expect("answers have headers")
    }

    fn answer_of(story: &mut Story, number: usize) -> &mut ElectionAnswer {
        let Outcome::Answered(answer) = &mut story.elections[number].outcome else {
            panic!("call {number} was refused")
        };
        answer
    }

    /// Where the calls of the story are.
    const CAMPAIGN: usize = 1;
    const LEADER: usize = 2;
    const PROCLAIM: usize = 3;
    const RESIGN: usize = 5;
    const NOBODY: usize = 6;

    #[test]
    fn a_true_story_passes_every_checker() {
        assert_eq!(checkers::judge(&story().evidence()), []);
    }

    #[test]
    fn two_leaders_are_reported() {
        let mut story = Story::default();
        story.grant(ONE, 10).grant(OTHER, 10).campaign("post", ONE, "a").campaign("post", OTHER, "b");
        let judged = |story: &Story| Elections.check(&Case::of(&story.evidence()));
        assert!(judged(&story).unwrap_err().contains("its turn never came"));
        story.put("k", "1").resign(ONE);
        assert!(judged(&story).unwrap_err().contains("its turn came at revision 5, which was made later"));
        story.elections[1].end = story.elections[2].end;
        assert_eq!(judged(&story), Ok(()));
        // Whose own key is gone by then is not told so.
        story.end_lease(OTHER);
        assert_eq!(judged(&story), Ok(()));
    }

    #[test]
    fn who_is_told_to_lead_by_another_key_or_in_vain_is_reported() {
        must_say("somebody else leads", |story| {
            let ElectionAnswer::Campaign(answer) = answer_of(story, CAMPAIGN) else { panic!("not a campaign") };
            answer.leader.as_mut().unwrap().lease = OTHER;
        });
        must_say("its key is not there at revision 2", |story| {
            let ElectionAnswer::Campaign(answer) = answer_of(story, CAMPAIGN) else { panic!("not a campaign") };
            answer.leader.as_mut().unwrap().rev += 1;
        });
    }

    #[test]
    fn proclamations_and_resignations_that_were_not_made_are_reported() {
        must_say("the value was not put at revision 3", |story| {
            header_of(answer_of(story, PROCLAIM)).revision -= 1;
            story.elections[PROCLAIM].start = SimTime::default();
        });
        must_say("the key is there at revision 5", |story| {
            header_of(answer_of(story, RESIGN)).revision -= 1;
        });
    }

    #[test]
    fn leaders_that_are_none_and_stale_ones_are_reported() {
        must_say("at revision 4 the leader is", |story| {
            let before = answer_of(story, LEADER).clone();
            let ElectionAnswer::Leader(before) = before else { panic!("not a leader") };
            let ElectionAnswer::Leader(later) = answer_of(story, LEADER + 2) else { panic!("not a leader") };
            later.kv = before.kv;
        });
        must_say("a stale answer", |story| {
            let before = answer_of(story, LEADER).clone();
            *answer_of(story, LEADER + 2) = before;
        });
        must_say("it was not so at any moment of the call", |story| {
            story.elections[LEADER].outcome = story.elections[NOBODY].outcome.clone();
        });
        must_say("it was not so at any moment of the call", |story| {
            let refused = Outcome::Refused { code: 2, message: NOT_LEADER.to_owned() };
            story.elections.push(ElectionCall { outcome: refused, ..story.elections[PROCLAIM].clone() });
        });
    }

    #[test]
    fn observers_that_are_told_nonsense_are_reported() {
        let told = |story: &mut Story, number: usize| story.observations[0].told[number].clone();
        must_say("version 2 of a value follows version 2", |story| {
            let again = told(story, 1);
            story.observations[0].told.insert(1, again);
        });
        must_say("an older leader", |story| {
            let (at, _) = told(story, 2);
            let (_, mut older) = told(story, 0);
            older.header.as_mut().unwrap().revision = 6;
            story.observations[0].told.push((at, older));
        });
        must_say("there was no such value", |story| {
            let told = &mut story.observations[0].told[1].1;
            let mut row = decode(&told.kv).unwrap();
            row.value = "x".into();
            told.kv = row.encode_to_vec().into();
        });
        must_say("told at revision 3 of a later one", |story| {
            story.observations[0].told[1].1.header.as_mut().unwrap().revision = 3;
        });
        must_say("a stale answer", |story| {
            let late = Observation { start: SimTime::from_nanos(1_000_000_000), ..story.observations[0].clone() };
            story.observations.push(Observation { told: late.told[..1].to_vec(), ..late });
            story.observations[1].told[0].1.header.as_mut().unwrap().revision = 3;
        });
        // It begins to listen one revision late.
        let mut story = Story::default();
        story.grant(ONE, 10).campaign("post", ONE, "a").observe("post").told("post");
        story.proclaim(ONE, "b").proclaim(ONE, "c").told("post");
        let said = Elections.check(&Case::of(&story.evidence())).unwrap_err();
        assert!(said.contains("version 3 of a value follows version 1"), "{said}");
        story.compact(3);
        assert_eq!(Elections.check(&Case::of(&story.evidence())), Ok(()), "what it missed may be compacted");
    }

    #[test]
    fn whoever_may_have_ended_it_first_counts() {
        let mut story = Story::default();
        story.grant(ONE, 1).campaign("post", ONE, "a").wait_ms(3000).end_lease(ONE).proclaim(ONE, "b");
        story.elections[1].outcome = Outcome::Refused { code: 2, message: NOT_LEADER.to_owned() };
        // It resigns in vain; by what it did it could have been what ended its leadership.
        story.resign(ONE).read_all();
        assert_eq!(checkers::judge(&story.evidence()), []);
    }

    #[test]
    fn what_the_service_writes_needs_somebody_who_asked() {
        let mut story = story();
        story.elections.remove(PROCLAIM);
        let found = checkers::judge(&story.evidence());
        assert!(found[0].what.contains("no write that anybody asked for made revision 4"), "{found:?}");
    }
}

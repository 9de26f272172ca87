//! A lock has one owner at a time, by the only measure that can be trusted: revisions.
//!
//! Who asks for a lock puts a key of its own, attached to its lease; the key with the lowest create revision owns the lock,
//! until it is deleted, by an Unlock or with the lease. So a Lock that is answered must tell a revision at which its key is
//! there, under its lease, and no other key of the lock is older; an Unlock one at which the key is gone. Real time must agree
//! with both. That two owners never have the lock at one revision follows, and that the second comes after the end of the
//! first, which needs a reason: the replay looks for its maker, and `leases` judges when a lease may end. Writes that are
//! guarded by the owner's create revision are transactions like all others.

use super::case::Truth;
use super::{Case, Checker};
use crate::history::lock::{LockAnswer, LockCall, LockRequest};
use crate::history::queue;

/// See the module.
pub struct Locks;

impl Checker for Locks {
    fn name(&self) -> &'static str {
        "locks"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        if evidence.locks.is_empty() {
            return Ok(());
        }
        let Ok(truth) = case.truth() else { return Ok(()) };
        for call in &evidence.locks {
            check(call, truth).map_err(|what| format!("{what}: {}", call.describe()))?;
        }
        Ok(())
    }
}

fn check(call: &LockCall, truth: &Truth) -> Result<(), String> {
    let Some(answer) = call.answer() else { return Ok(()) };
    let revision = answer.revision();
    truth.check_told(revision, call.start, call.end)?;
    let key = call.key();
    let mine = truth.replay.model.at(&key, revision);
    match (&call.request, answer) {
        (LockRequest::Lock(asked), LockAnswer::Lock(answer)) => {
            if answer.key != key {
                return Err(format!("it owns another key than {key:?}"));
            }
            let Some(mine) = mine.filter(|row| row.lease == asked.lease) else {
                return Err(format!("its key is not there at revision {revision}"));
            };
            let prefix = queue::prefix(&asked.name);
            let rivals = truth.replay.model.rows_at(revision, |key| key.starts_with(&prefix));
            match rivals.iter().find(|rival| rival.create_revision < mine.create_revision) {
                Some(owner) => Err(format!("at revision {revision} another one owns the lock, {owner:?}")),
                None => Ok(()),
            }
        }
        (LockRequest::Unlock(_), LockAnswer::Unlock(_)) => match mine {
            Some(row) => Err(format!("unlocked, and the key is there at revision {revision}, {row:?}")),
            None => Ok(()),
        },
        _ => Err("an answer to another call".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::doctored::*;
    use super::*;
    use crate::checkers;
    use crate::history::Outcome;
    use crate::world::clock::SimTime;

    const ONE: i64 = LEASES[0];
    const OTHER: i64 = LEASES[1];

    /// One client has the lock, unlocks, and the other gets it, until its lease ends; then the first again.
    fn story() -> Story {
        let mut story = Story::default();
        story.grant(ONE, 10).grant(OTHER, 10);
        story.lock("door", ONE).put("k", "1").unlock("door", ONE).lock("door", OTHER).wait_ms(11_000).read_all();
        story.end_lease(OTHER).lock("door", ONE).read_all();
        story
    }

    fn verdict(story: &Story) -> Result<(), String> {
        Locks.check(&Case::of(&story.evidence()))
    }

    fn must_say(what: &str, falsify: impl FnOnce(&mut Vec<LockCall>)) {
        let mut story = story();
        falsify(&mut story.locks);
        let said = verdict(&story).expect_err(what);
        assert!(said.contains(what), "{said}");
    }

    fn answer_lock(call: &mut LockCall, change: impl FnOnce(&mut quorate_proto::v3lockpb::LockResponse)) {
        let Outcome::Answered(LockAnswer::Lock(answer)) = &mut call.outcome else { panic!("not a lock") };
        change(answer);
    }

    #[test]
    fn a_true_story_passes_every_checker() {
        assert_eq!(checkers::judge(&story().evidence()), []);
    }

    #[test]
    fn two_owners_are_reported() {
        let mut story = Story::default();
        story.grant(ONE, 10).grant(OTHER, 10).lock("door", ONE).lock("doors", OTHER);
        assert_eq!(verdict(&story), Ok(()), "another lock");
        story.lock("door", OTHER);
        assert!(verdict(&story).unwrap_err().contains("another one owns the lock"));
        // It waits, and is answered when the first is gone.
        story.unlock("door", ONE);
        let header = story.header();
        answer_lock(&mut story.locks[2], |answer| answer.header = header);
        story.locks[2].end = story.locks[3].end;
        assert_eq!(verdict(&story), Ok(()));
    }

    #[test]
    fn an_owner_whose_key_is_gone_is_reported() {
        must_say("its key is not there", |locks| {
            answer_lock(&mut locks[2], |answer| answer.header.as_mut().unwrap().revision += 1);
            locks[2].end = SimTime::NEVER;
        });
        must_say("it owns another key", |locks| {
            answer_lock(&mut locks[0], |answer| answer.key = Bytes::from("door/1"))
        });
    }

    #[test]
    fn stale_and_early_answers_are_reported() {
        must_say("told of revision 99", |locks| {
            answer_lock(&mut locks[0], |answer| answer.header.as_mut().unwrap().revision = 99);
        });
        must_say("told of the future", |locks| {
            answer_lock(&mut locks[0], |answer| answer.header.as_mut().unwrap().revision = 3);
            locks[0].end = locks[0].start;
        });
        // Who asks again for what he owns is answered at once, but not from the past.
        must_say("a stale answer: revision 3 was there before", |locks| {
            let (start, end) = (SimTime::from_nanos(8_000_000), SimTime::from_nanos(9_000_000));
            locks.push(LockCall { start, end, ..locks[0].clone() });
        });
    }

    #[test]
    fn an_unlock_that_leaves_the_key_is_reported() {
        must_say("unlocked, and the key is there", |locks| {
            let Outcome::Answered(LockAnswer::Unlock(answer)) = &mut locks[1].outcome else { panic!("not an unlock") };
            answer.header.as_mut().unwrap().revision -= 1;
        });
    }

    #[test]
    fn what_the_service_writes_needs_somebody_who_asked() {
        let mut story = story();
        story.locks.remove(0);
        let found = checkers::judge(&story.evidence());
        assert!(found[0].what.contains("no write that anybody asked for made revision 2"), "{found:?}");
    }
}

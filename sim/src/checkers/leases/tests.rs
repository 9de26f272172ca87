//! True stories of leases, and each falsified in one way.

use super::*;
use crate::checkers::doctored::*;
use crate::checkers::{self, Violation};
use crate::history::Request;
use crate::world::clock::ClockErrors;

const ONE: i64 = LEASES[0];
const OTHER: i64 = LEASES[1];

/// One is granted for 10 s, has two keys, is renewed after 6 s, and ends after 17 s. The other is revoked.
fn story() -> Story {
    let mut story = Story::default();
    story.grant(ONE, 10).grant(OTHER, 3).put_with_lease("a", ONE).put_with_lease("b", ONE).put("c", "1");
    story.put_with_lease("d", OTHER).time_to_live(ONE, 9, 10, &["a", "b"]).list_leases(&[ONE, OTHER]);
    story.revoke(OTHER).keep_alive(OTHER, 0).time_to_live(OTHER, -1, 0, &[]);
    story.wait_ms(6000).keep_alive(ONE, 10).wait_ms(10_500).end_lease(ONE).read_all().keep_alive(ONE, 0);
    story
}

/// Which call of the lease service in `story` renews the first lease.
const RENEWED: usize = 7;

fn verdict(evidence: &Evidence) -> Result<(), String> {
    Leases.check(&Case::of(evidence))
}

fn must_say(what: &str, falsify: impl FnOnce(&mut Story)) {
    let mut story = story();
    falsify(&mut story);
    let said = verdict(&story.evidence()).expect_err(what);
    assert!(said.contains(what), "{said}");
}

fn refuse(call: &mut LeaseCall, error: Error) {
    call.outcome = Outcome::Refused { code: error.code() as i32, message: error.message().to_owned() };
}

fn ms(number: u64) -> SimTime {
    SimTime::from_nanos(number * 1_000_000)
}

#[test]
fn a_true_story_passes_every_checker() {
    assert_eq!(checkers::judge(&story().evidence()), []);
    assert!(matches!(story().leases[RENEWED].answer(), Some(LeaseAnswer::KeepAlive(answer)) if answer.ttl == 10));
}

#[test]
fn a_lease_that_ends_early_is_reported_unless_a_clock_excuses_it() {
    let early = |waited_ms: u64, clocks: ClockErrors| {
        let mut story = Story::default();
        story.grant(ONE, 10).put_with_lease("a", ONE).wait_ms(6000).keep_alive(ONE, 10);
        story.wait_ms(waited_ms).end_lease(ONE).read_all();
        verdict(&Evidence { clocks, ..story.evidence() })
    };
    let right = ClockErrors::default();
    assert_eq!(early(10_000, right), Ok(()));
    assert!(early(9_000, right).unwrap_err().contains("ended early"));
    assert!(early(100, right).unwrap_err().contains("ended early"), "before the first TTL is over, too");
    let fast = ClockErrors { rate_ppm_max: 200_000, leapt: false };
    assert_eq!(early(9_000, fast), Ok(()));
    assert!(early(8_000, fast).unwrap_err().contains("ended early"));
    assert_eq!(early(0, ClockErrors { leapt: true, ..right }), Ok(()));
}

#[test]
fn a_revoke_of_unknown_outcome_may_have_ended_it() {
    let mut story = Story::default();
    story.grant(ONE, 10).put_with_lease("a", ONE).revoke(ONE).read_all();
    assert_eq!(verdict(&story.evidence()), Ok(()));
    story.leases[1].outcome = Outcome::Unknown;
    assert_eq!(verdict(&story.evidence()), Ok(()));
    let late = story.leases.remove(1);
    assert!(verdict(&story.evidence()).unwrap_err().contains("ended early"));
    story.leases.push(LeaseCall { start: ms(50_000), end: ms(50_001), ..late });
    assert!(verdict(&story.evidence()).unwrap_err().contains("ended early"), "it came later");
}

#[test]
fn keys_that_go_one_by_one_are_reported_by_the_replay() {
    let mut story = Story::default();
    story.grant(ONE, 1).put_with_lease("a", ONE).put_with_lease("b", ONE).wait_ms(2000);
    story.happens([("a".into(), None)].into()).happens([("b".into(), None)].into()).read_all();
    let found = checkers::judge(&story.evidence());
    let [Violation { checker: "linearizable", what }] = &found[..] else { panic!("{found:?}") };
    assert!(what.contains("no write that anybody asked for made revision 4"), "{what}");
    // The same with a key too many.
    let mut story = Story::default();
    story.grant(ONE, 1).put_with_lease("a", ONE).put("b", "1").wait_ms(2000);
    story.happens([("a".into(), None), ("b".into(), None)].into()).read_all();
    assert!(checkers::judge(&story.evidence()).iter().any(|violation| violation.checker == "linearizable"));
}

#[test]
fn a_lease_ends_once() {
    let mut story = Story::default();
    story.grant(ONE, 1).put_with_lease("a", ONE).wait_ms(2000).end_lease(ONE).put_with_lease("a", ONE);
    let attached = verdict(&story.evidence()).unwrap_err();
    assert!(attached.contains("after its end"), "{attached}");
    story.end_lease(ONE).read_all();
    let found = checkers::judge(&story.evidence());
    assert!(found[0].what.contains("no write that anybody asked for made revision 5"), "{found:?}");
    // Granted again, it may.
    story.leases.push(LeaseCall { start: ms(2000), end: ms(2001), ..story.leases[0].clone() });
    assert_eq!(checkers::judge(&story.evidence()), []);
}

#[test]
fn what_uses_a_dead_lease_is_reported() {
    must_say("lives on after its end, at revision", |story| {
        story.keep_alive(ONE, 10);
    });
    must_say("lives on after its end, by client", |story| {
        let renewal = LeaseCall { start: story.leases[6].start, end: story.leases[6].end, ..story.leases[7].clone() };
        let mut renewal = renewal;
        renewal.request = LeaseRequest::KeepAlive(pb::LeaseKeepAliveRequest { id: OTHER });
        if let Outcome::Answered(LeaseAnswer::KeepAlive(answer)) = &mut renewal.outcome {
            (answer.id, answer.ttl) = (OTHER, 3);
        }
        story.leases.push(renewal);
    });
    must_say("lives on after its end, by client", |story| {
        story.revoke(OTHER);
    });
    must_say("nobody was granted this lease", |story| {
        story.keep_alive(5, 10);
    });
    must_say("attached to lease 113 after its end", |story| {
        story.put_with_lease("z", OTHER);
    });
    must_say("attached to lease 112 before its grant", |story| {
        let late = story.leases.remove(0);
        story.leases.push(LeaseCall { start: ms(60_000), end: ms(60_001), ..late });
        story.leases.retain(|call| call.lease() != Some(ONE) || matches!(call.request, LeaseRequest::Grant(_)));
        story.leases.retain(|call| !matches!(call.request, LeaseRequest::Leases(_)));
    });
}

#[test]
fn a_living_lease_is_found() {
    must_say("not found though it must be there", |story| {
        refuse(&mut story.leases[RENEWED], Error::LeaseNotFound);
    });
    must_say("not found though it must be there", |story| {
        let at = &mut story.leases[RENEWED];
        if let Outcome::Answered(LeaseAnswer::KeepAlive(answer)) = &mut at.outcome {
            answer.ttl = 0;
        }
    });
    // With the renewal gone the end was early enough to explain it.
    let mut story = story();
    story.leases.remove(RENEWED);
    assert_eq!(verdict(&story.evidence()), Ok(()));
    let refused_put = |waited_ms: u64| {
        let mut story = Story::default();
        story.grant(ONE, 10).wait_ms(waited_ms).put_with_lease("a", ONE);
        story.last().outcome = Outcome::Refused { code: 5, message: Error::LeaseNotFound.message().to_owned() };
        story.evidence()
    };
    assert!(verdict(&refused_put(5000)).unwrap_err().contains("not found though it must be there"));
    assert_eq!(checkers::judge(&refused_put(10_000)), []);
}

#[test]
fn wrong_answers_are_reported() {
    fn doctor(call: &mut LeaseCall, change: impl FnOnce(&mut LeaseAnswer)) {
        let Outcome::Answered(answer) = &mut call.outcome else { panic!("it was answered") };
        change(answer);
    }
    must_say("another lease than was asked for", |story| {
        doctor(&mut story.leases[0], |answer| {
            *answer = LeaseAnswer::Grant(pb::LeaseGrantResponse {
                header: story_header(),
                id: ONE,
                ttl: 9,
                ..Default::default()
            })
        });
    });
    must_say("a header is not filled", |story| {
        doctor(&mut story.leases[0], |answer| {
            *answer = LeaseAnswer::Grant(pb::LeaseGrantResponse { id: ONE, ttl: 10, ..Default::default() })
        });
    });
    must_say("was never attached", |story| {
        story.time_to_live(ONE, 5, 10, &["a", "c"]);
    });
    must_say("another TTL than was granted", |story| {
        story.time_to_live(ONE, 5, 11, &["a"]);
    });
    let mut extended = story();
    extended.time_to_live(ONE, 10 + 1, 10, &[]);
    assert_eq!(verdict(&extended.evidence()), Ok(()));
    must_say("a TTL that cannot be", |story| {
        story.time_to_live(ONE, 10 + 1 + 1, 10, &[]);
    });
    must_say("a TTL that cannot be", |story| {
        story.time_to_live(ONE, -12, 10, &[]);
    });
    must_say("nobody was granted lease 5", |story| {
        story.list_leases(&[ONE, 5]);
    });
    must_say("renewed for another time", |story| {
        doctor(&mut story.leases[RENEWED], |answer| {
            if let LeaseAnswer::KeepAlive(answer) = answer {
                answer.ttl = 9;
            }
        });
    });
    must_say("it still has the keys", |story| {
        doctor(&mut story.leases[4], |answer| {
            if let LeaseAnswer::Revoke(answer) = answer {
                answer.header.as_mut().unwrap().revision -= 1;
            }
        });
    });
    must_say("a lease exists that nobody else has asked for", |story| {
        story.grant(5, 10);
        refuse(story.leases.last_mut().unwrap(), Error::LeaseExist);
    });
    must_say("granted twice", |story| {
        story.grant(OTHER, 10);
        story.leases.retain(|call| !matches!(call.request, LeaseRequest::Revoke(_)));
        let again = story.leases.last_mut().unwrap();
        (again.start, again.end) = (ms(1000), ms(1001));
    });
}

fn story_header() -> Option<pb::ResponseHeader> {
    Story::default().header()
}

#[test]
fn who_was_not_answered_may_have_been_granted_one_lease() {
    let listed = |ids: &[i64]| {
        let mut story = story();
        story.grant(0, 5);
        story.leases.last_mut().unwrap().outcome = Outcome::Unknown;
        story.list_leases(ids);
        verdict(&story.evidence())
    };
    assert_eq!(listed(&[ONE, 5]), Ok(()));
    assert!(listed(&[ONE, 5, 6]).unwrap_err().contains("nobody was granted lease 6"));
}

#[test]
fn a_lease_that_outlives_its_ttl_after_the_healing_is_reported() {
    let judged = |seen_ms: u64| {
        let mut story = Story::default();
        story.grant(ONE, 10).put_with_lease("a", ONE).keep_alive(ONE, 10);
        story.wait_ms(seen_ms).read_all();
        Evidence { healed_at: ms(1000), recovery_limit_ns: 5_000_000_000, ..story.evidence() }
    };
    // A leader by 6 s, 10 s to live, 5 s to end it.
    assert_eq!(verdict(&judged(20_000)), Ok(()));
    assert!(verdict(&judged(21_500)).unwrap_err().contains("should have ended by 21.000000s"));
    let slow = ClockErrors { rate_ppm_max: 200_000, leapt: false };
    assert_eq!(verdict(&Evidence { clocks: slow, ..judged(23_000) }), Ok(()));
    assert!(verdict(&Evidence { clocks: slow, ..judged(24_000) }).unwrap_err().contains("should have ended"));
    // Without keys TimeToLive tells it; a read of an old state does not.
    let mut story = Story::default();
    story.grant(ONE, 10).wait_ms(22_000).time_to_live(ONE, 1, 10, &[]);
    let told = Evidence { healed_at: ms(1000), recovery_limit_ns: 5_000_000_000, ..story.evidence() };
    assert!(verdict(&told).unwrap_err().contains("should have ended"));
    let mut old = judged(30_000);
    if let Request::Range(range) = &mut old.operations.last_mut().unwrap().request {
        range.serializable = true;
    }
    assert_eq!(verdict(&old), Ok(()));
    // A keep-alive that nobody answered may have renewed it.
    let mut lost = judged(21_500);
    let renewal = LeaseCall { start: ms(9000), end: ms(10_000), outcome: Outcome::Unknown, ..lost.leases[1].clone() };
    lost.leases.push(renewal);
    assert_eq!(verdict(&lost), Ok(()));
}

//! What must not be asked of a cluster that is not well: etcd's rules of `--strict-reconfig-check`.
//!
//! They look ahead: after the change there must be a quorum of members that have once started, and for the last five seconds
//! this member must have been in touch with so many that the change cannot cost the quorum. They are the asked member's own
//! view, and so only a guard against mistakes; nothing that has to be true rests on them.
//!
//! Source: etcd `server/etcdserver/server.go` (`mayAddMember`, `mayRemoveMember`, `mayPromoteMember`), `util.go`,
//! `api/membership/cluster.go` (`IsReadyTo…`).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_runtime::bug;
use quorate_store::Member;
use quorate_types::{Error, MemberId};

/// Who was reached without a failure for longer than this counts as well.
const HEALTHY_FOR: Duration = Duration::from_secs(5);

/// The members, as one of them sees them.
#[derive(Debug)]
pub struct Standing {
    /// Who looks.
    pub own: MemberId,
    /// All.
    pub members: Vec<Member>,
    /// For how long each has been reached; who is missing is not reached at present.
    pub reached: BTreeMap<MemberId, Duration>,
}

impl Standing {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        voters(&self.members)
    }

    /// How many voters are well, this member included.
    fn connected(&self) -> usize {
        let is_well = |id| self.reached.get(&id).is_some_and(|reached_for| *reached_for > HEALTHY_FOR);
        self.voters().filter(|voter| voter.id == self.own || is_well(voter.id)).count()
    }
}

fn voters(members: &[Member]) -> impl Iterator<Item = &Member> {
    members.iter().filter(|member| !member.is_learner)
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// A member has a name from its first start on.
fn count_started<'a>(members: impl Iterator<Item = &'a Member>) -> usize {
    members.filter(|member| !member.name.is_empty()).count()
}

/// May `new` join?
pub fn may_add(standing: &Standing, new: &Member) -> Result<(), Error> {
    let voters = standing.voters().count() - usize::from(bug!("quorum-before-the-addition"));
    let started = count_started(standing.voters());
    // The second of two may always come: a cluster that was restored from a backup grows that way.
    let is_second = started == 1 && voters == 1;
    if !new.is_learner && !is_second && started < quorum(voters + 1) {
        tracing::warn!(
            local_member_id = %standing.own,
            requested_member_add = ?new.peer_urls,
            number_of_started_member = started,
            quorum = quorum(voters + 1),
            "rejecting member add request; not enough healthy members"
        );
        return Err(Error::MemberNotEnoughStarted);
    }
    // The new one counts as absent.
    if voters > 1 && standing.connected() < quorum(voters + 1) {
        tracing::warn!(
            local_member_id = %standing.own,
            requested_member_add = ?new.peer_urls,
            active_peers = standing.connected(),
            "rejecting member add request; local member has not been connected to majority peers, reconfigure breaks active \
             quorum"
        );
        return Err(Error::Unhealthy);
    }
    Ok(())
}

/// May the member `id` be removed?
pub fn may_remove(standing: &Standing, id: MemberId) -> Result<(), Error> {
    if standing.members.iter().any(|member| member.id == id && member.is_learner) {
        return Ok(());
    }
    let rest = standing.voters().filter(|voter| voter.id != id).count();
    let started = count_started(standing.voters().filter(|voter| voter.id != id));
    if started < quorum(rest) {
        tracing::warn!(
            local_member_id = %standing.own,
            requested_member_remove_id = %id,
            number_of_started_member = started,
            quorum = quorum(rest),
            "rejecting member remove request; not enough healthy members"
        );
        return Err(Error::MemberNotEnoughStarted);
    }
    if id != standing.own && !standing.reached.contains_key(&id) {
        // Who is down is no part of the quorum that lives.
        return Ok(());
    }
    let voters = standing.voters().count();
    let active = standing.connected();
    if active.saturating_sub(1) < 1 + voters.saturating_sub(1) / 2 {
        tracing::warn!(
            local_member_id = %standing.own,
            requested_member_remove = %id,
            active_peers = active,
            "rejecting member remove request; local member has not been connected to all peers, reconfigure breaks active \
             quorum"
        );
        return Err(Error::Unhealthy);
    }
    Ok(())
}

/// May the learner `id` vote?
pub fn may_promote(members: &[Member], id: MemberId) -> Result<(), Error> {
    // It counts as a voter that has started.
    let will_vote = voters(members).count() + 1;
    let started = count_started(voters(members)) + 1;
    if started < quorum(will_vote) {
        tracing::warn!(
            requested_member_promote_id = %id,
            number_of_started_member = started,
            quorum = quorum(will_vote),
            "rejecting member promote request; not enough healthy members"
        );
        return Err(Error::MemberNotEnoughStarted);
    }
    Ok(())
}

/// Whatever the flags say: a cluster needs a voter. Without one it could never change again.
pub fn keeps_a_voter(members: &[Member], removed: MemberId) -> Result<(), Error> {
    let is_voter = voters(members).any(|voter| voter.id == removed);
    if is_voter && voters(members).count() == 1 {
        tracing::warn!(requested_member_remove_id = %removed, "rejecting member remove request; it is the only voter");
        return Err(Error::MemberNotEnoughStarted);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MemberId = MemberId(1);

    /// A cluster in a line: each member is `v`oter or `l`earner; in capitals it has started. The first is the own one. Of the
    /// others, `reached` says for how many seconds each has been reached, with `-` for not at all.
    fn standing(line: &str, reached: &str) -> Standing {
        let members: Vec<Member> = line
            .chars()
            .zip(1..)
            .map(|(kind, id)| Member {
                id: MemberId(id),
                peer_urls: vec![format!("http://m{id}:2380")],
                is_learner: kind.eq_ignore_ascii_case(&'l'),
                name: if kind.is_ascii_uppercase() { format!("m{id}") } else { String::new() },
                client_urls: Vec::new(),
            })
            .collect();
        let seconds = reached.chars().zip(2..).filter_map(|(seconds, id)| Some((id, seconds.to_digit(10)?)));
        let reached = seconds.map(|(id, seconds)| (MemberId(id), Duration::from_millis(u64::from(seconds) * 1000)));
        Standing { own: OWN, members, reached: reached.collect() }
    }

    fn new(is_learner: bool) -> Member {
        Member { id: MemberId(99), peer_urls: vec![], is_learner, name: String::new(), client_urls: vec![] }
    }

    #[test]
    fn a_voter_is_added_only_if_a_quorum_has_started_and_is_in_touch() {
        use Error::{MemberNotEnoughStarted, Unhealthy};
        for (line, reached, expected) in [
            // One member grows to two, and to three only once the second has started.
            ("V", "", Ok(())),
            ("Vv", "-", Err(MemberNotEnoughStarted)),
            ("VV", "9", Ok(())),
            // Just come back is not well; the limit itself is not enough.
            ("VV", "-", Err(Unhealthy)),
            ("VV", "4", Err(Unhealthy)),
            ("VV", "5", Err(Unhealthy)),
            // Of four, three are the quorum.
            ("VVV", "99", Ok(())),
            ("VVV", "9-", Err(Unhealthy)),
            ("VVv", "9-", Err(MemberNotEnoughStarted)),
            // Of five, three are enough.
            ("VVVV", "99-", Ok(())),
            ("VVVV", "9--", Err(Unhealthy)),
            ("VVVv", "99-", Ok(())),
            // A learner counts for nothing.
            ("VL", "-", Ok(())),
            ("Vl", "-", Ok(())),
            ("VvL", "-9", Err(MemberNotEnoughStarted)),
        ] {
            assert_eq!(may_add(&standing(line, reached), &new(false)), expected, "{line} {reached}");
        }
    }

    #[test]
    fn a_learner_may_come_before_the_voters_have_started_but_needs_a_quorum_in_touch() {
        assert_eq!(may_add(&standing("VVv", "99"), &new(true)), Ok(()));
        assert_eq!(may_add(&standing("V", ""), &new(true)), Ok(()));
        assert_eq!(may_add(&standing("Vv", "-"), &new(true)), Err(Error::Unhealthy));
        assert_eq!(may_add(&standing("VVV", "9-"), &new(true)), Err(Error::Unhealthy));
    }

    #[test]
    fn a_voter_is_removed_only_if_the_rest_is_a_quorum() {
        use Error::{MemberNotEnoughStarted, Unhealthy};
        for (line, reached, removed, expected) in [
            ("VVV", "99", 3, Ok(())),
            ("VVV", "99", 1, Ok(())),
            // Who is down may go; who is there may not while another is down.
            ("VVV", "9-", 3, Ok(())),
            ("VVV", "9-", 2, Err(Unhealthy)),
            ("VVV", "9-", 1, Err(Unhealthy)),
            ("VVV", "94", 2, Err(Unhealthy)),
            // One that never started is no loss, and the others must have started.
            ("VVv", "9-", 3, Ok(())),
            ("VVv", "9-", 2, Err(MemberNotEnoughStarted)),
            ("VV", "9", 2, Ok(())),
            ("VV", "4", 2, Err(Unhealthy)),
            ("VV", "-", 2, Ok(())),
            ("Vv", "-", 2, Ok(())),
            ("Vv", "-", 1, Err(MemberNotEnoughStarted)),
            ("V", "", 1, Err(MemberNotEnoughStarted)),
            // Learners go at any time.
            ("Vl", "-", 2, Ok(())),
            ("VVL", "--", 3, Ok(())),
            // Nobody knows it: the log answers that, once the cluster is well.
            ("VVV", "99", 7, Ok(())),
        ] {
            assert_eq!(may_remove(&standing(line, reached), MemberId(removed)), expected, "{line} {reached} {removed}");
        }
    }

    #[test]
    fn a_learner_votes_only_if_a_quorum_of_voters_has_started() {
        for (line, expected) in [
            ("VL", Ok(())),
            ("Vl", Ok(())),
            ("VvL", Ok(())),
            ("VvvL", Err(Error::MemberNotEnoughStarted)),
            ("VVvL", Ok(())),
        ] {
            let standing = standing(line, "");
            assert_eq!(may_promote(&standing.members, MemberId(line.len() as u64)), expected, "{line}");
        }
    }

    #[test]
    fn the_last_voter_stays_whatever_the_flags_say() {
        let members = |line| standing(line, "").members;
        assert_eq!(keeps_a_voter(&members("VL"), OWN), Err(Error::MemberNotEnoughStarted));
        assert_eq!(keeps_a_voter(&members("VL"), MemberId(2)), Ok(()));
        assert_eq!(keeps_a_voter(&members("VV"), OWN), Ok(()));
        assert_eq!(keeps_a_voter(&members("V"), MemberId(9)), Ok(()));
    }
}

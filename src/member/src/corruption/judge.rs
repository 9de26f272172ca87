//! What hashes mean: who is to be accused of holding other data than the rest. No I/O, no clock.

use std::collections::BTreeMap;

use quorate_store::{CompactionHash, HashKv};
use quorate_types::MemberId;

use super::ask::PeerHash;

/// Nobody in particular: the whole cluster.
const EVERYBODY: MemberId = MemberId(0);

/// Something that cannot be if all members hold the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Who is taken to be wrong.
    pub accused: MemberId,
    /// etcd's sentence for it.
    pub what: &'static str,
}

/// The result of a comparison at the newest revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// How many others answered.
    pub peers_compared: usize,
    /// In the order of members.
    pub findings: Vec<Finding>,
}

/// A leader has hashed its newest revision (`first`), then asked the others for that revision, then waited until all that was
/// committed meanwhile was applied, and hashed again (`second`). So no follower can know more than `second` does.
pub fn newest(own: MemberId, first: &HashKv, second: &HashKv, peers: &[PeerHash]) -> Findings {
    let mut findings = Vec::new();
    let mut find = |accused, what| findings.push(Finding { accused, what });
    let is_same_question =
        (first.hash_revision, first.compact_revision) == (second.hash_revision, second.compact_revision);
    if is_same_question && first.hash != second.hash {
        find(own, "found hash mismatch");
    }
    let mut peers_compared = 0;
    for peer in peers {
        let Ok(answer) = &peer.answer else { continue };
        peers_compared += 1;
        if answer.current_revision() > second.current_revision.0 {
            find(peer.id, "revision from follower must be less than or equal to leader's");
        }
        if answer.compact_revision > second.compact_revision.0 {
            find(peer.id, "compact revision from follower must be less than or equal to leader's");
        }
        if answer.compact_revision == first.compact_revision.0 && answer.hash != first.hash {
            find(peer.id, "same compact revision then hashes must match");
        }
    }
    Findings { peers_compared, findings }
}

/// The result of a comparison at a compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nobody to compare with.
    Alone,
    /// Everybody has the same.
    Agree,
    /// Those who could be compared have the same.
    Incomplete {
        /// How many could not.
        skipped: usize,
    },
    /// There are different hashes.
    Differ {
        /// The minority; the whole cluster, as member 0, where no hash has a majority.
        accused: Vec<MemberId>,
        /// Who has which hash.
        groups: BTreeMap<u32, Vec<MemberId>>,
    },
}

/// A leader has the hash `own` from a compaction, and has asked the others for that revision. Hashes can be compared where
/// they were made with the same earlier compaction.
pub fn compaction(leader: MemberId, own: &CompactionHash, peers: &[PeerHash]) -> Verdict {
    if peers.is_empty() {
        return Verdict::Alone;
    }
    let mut groups = BTreeMap::from([(own.hash, vec![leader])]);
    let mut skipped = 0;
    for peer in peers {
        match &peer.answer {
            Ok(answer) if answer.compact_revision == own.compact_revision.0 => {
                groups.entry(answer.hash).or_default().push(peer.id);
            }
            _ => skipped += 1,
        }
    }
    if groups.len() == 1 {
        return if skipped == 0 { Verdict::Agree } else { Verdict::Incomplete { skipped } };
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let accused = match groups.values().position(|members| members.len() >= quorum) {
        Some(right) => groups
            .values()
            .enumerate()
            .filter(|(place, _)| *place != right)
            .flat_map(|(_, members)| members.iter().copied())
            .collect(),
        None => vec![EVERYBODY],
    };
    Verdict::Differ { accused, groups }
}

#[cfg(test)]
mod tests {
    use quorate_types::Revision;

    use super::super::ask::{Answer, AskError};
    use super::*;

    const LEADER: MemberId = MemberId(1);

    fn hash(revision: i64, hash: u32, compacted: i64) -> HashKv {
        HashKv {
            hash,
            hash_revision: Revision(revision),
            compact_revision: Revision(compacted),
            current_revision: Revision(revision),
        }
    }

    fn peer(id: u64, revision: i64, hash: u32, compacted: i64) -> PeerHash {
        PeerHash { id: MemberId(id), urls: Vec::new(), answer: Ok(Answer::new(revision, hash, compacted)) }
    }

    fn silent(id: u64) -> PeerHash {
        PeerHash { id: MemberId(id), urls: Vec::new(), answer: Err(AskError::FutureRevision) }
    }

    fn accused(first: &HashKv, second: &HashKv, peers: &[PeerHash]) -> Vec<u64> {
        newest(LEADER, first, second, peers).findings.iter().map(|finding| finding.accused.0).collect()
    }

    #[test]
    fn equal_members_are_not_accused_while_writes_go_on() {
        let (first, second) = (hash(10, 7, 3), hash(14, 9, 12));
        // One is behind in compacting, one is ahead of the first hash, one does not answer.
        let peers = [peer(2, 10, 7, 3), peer(3, 14, 8, 12), silent(4), peer(5, 12, 6, -1)];
        assert_eq!(newest(LEADER, &first, &second, &peers), Findings { peers_compared: 3, findings: Vec::new() });
    }

    #[test]
    fn a_follower_that_knows_more_or_other_things_is_accused() {
        let (first, second) = (hash(10, 7, 3), hash(11, 9, 3));
        assert_eq!(accused(&first, &second, &[peer(2, 12, 7, 3)]), [2]);
        assert_eq!(accused(&first, &second, &[peer(2, 10, 7, 4)]), [2]);
        assert_eq!(accused(&first, &second, &[peer(2, 10, 8, 3), peer(3, 10, 7, 3)]), [2]);
    }

    #[test]
    fn a_leader_whose_own_hash_changes_accuses_itself_first() {
        assert_eq!(accused(&hash(10, 7, 3), &hash(10, 8, 3), &[peer(2, 10, 9, 3)]), [1, 2]);
        // Compacted meanwhile: another question.
        assert_eq!(accused(&hash(10, 7, 3), &hash(10, 8, 5), &[]), [0_u64; 0]);
    }

    fn own() -> CompactionHash {
        CompactionHash { hash: 7, hash_revision: Revision(10), compact_revision: Revision(3) }
    }

    #[test]
    fn the_minority_is_accused() {
        assert_eq!(compaction(LEADER, &own(), &[]), Verdict::Alone);
        assert_eq!(compaction(LEADER, &own(), &[peer(2, 12, 7, 3), peer(3, 12, 7, 3)]), Verdict::Agree);
        let guilty = |peers: &[PeerHash]| match compaction(LEADER, &own(), peers) {
            Verdict::Differ { accused, .. } => accused.iter().map(|id| id.0).collect::<Vec<_>>(),
            other => panic!("they differ, yet: {other:?}"),
        };
        assert_eq!(guilty(&[peer(2, 12, 7, 3), peer(3, 12, 8, 3)]), [3]);
        // The leader may be the one.
        assert_eq!(guilty(&[peer(2, 12, 8, 3), peer(3, 12, 8, 3)]), [1]);
        // A member that is not there still counts for what a majority is: two of four are none, three are.
        assert_eq!(guilty(&[peer(2, 12, 7, 3), peer(3, 12, 8, 3), silent(4)]), [0]);
        assert_eq!(guilty(&[peer(2, 12, 7, 3), peer(3, 12, 8, 3), peer(4, 12, 7, 3)]), [3]);
        assert_eq!(guilty(&[peer(2, 12, 8, 3)]), [0]);
    }

    #[test]
    fn who_cannot_be_compared_is_not_accused() {
        assert_eq!(
            compaction(LEADER, &own(), &[peer(2, 12, 7, 3), peer(3, 12, 8, 4), silent(4)]),
            Verdict::Incomplete { skipped: 2 }
        );
    }
}

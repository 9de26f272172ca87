//! When everything is healed and quiet, all members hold the same rows: the same hash at the same revision.

use super::{Case, Checker};

/// See the module.
pub struct EqualHashes;

impl Checker for EqualHashes {
    fn name(&self) -> &'static str {
        "equal_hashes"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        let Some(first) = evidence.hashes.first() else { return Ok(()) };
        let comparable = evidence.hashes.iter().filter(|hash| hash.compact_revision == first.compact_revision);
        match comparable.into_iter().find(|hash| (hash.revision, hash.hash) != (first.revision, first.hash)) {
            None => Ok(()),
            Some(other) => Err(format!("members differ: {first:?}, but {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Evidence;
    use super::*;
    use crate::checkers::MemberHash;

    fn hash(member: &str, compact_revision: i64, hash: u32) -> MemberHash {
        MemberHash { member: member.to_owned(), revision: 9, compact_revision, hash }
    }

    fn verdict(hashes: Vec<MemberHash>) -> Result<(), String> {
        EqualHashes.check(&Case::of(&Evidence { hashes, ..Evidence::default() }))
    }

    #[test]
    fn one_different_row_is_found_and_a_compaction_under_way_is_not_a_difference() {
        assert_eq!(verdict(vec![]), Ok(()));
        assert_eq!(verdict(vec![hash("m1", 3, 7), hash("m2", 3, 7), hash("m3", 2, 8)]), Ok(()));
        let found = verdict(vec![hash("m1", 3, 7), hash("m2", 3, 8)]).unwrap_err();
        assert!(found.contains("m1") && found.contains("m2"), "{found}");
    }
}

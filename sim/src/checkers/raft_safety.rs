//! Raft's safety properties, as members saw them at every step: a term has one leader, an index one entry.

use super::{Case, Checker};

/// See the module.
pub struct RaftSafety;

impl Checker for RaftSafety {
    fn name(&self) -> &'static str {
        "raft_safety"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        match evidence.contradictions.as_slice() {
            [] => Ok(()),
            [first] => Err(first.clone()),
            [first, rest @ ..] => Err(format!("{first}; and {} more", rest.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Evidence;
    use super::*;

    #[test]
    fn one_contradiction_is_enough() {
        let mut evidence = Evidence::default();
        assert_eq!(RaftSafety.check(&Case::of(&evidence)), Ok(()));
        evidence.contradictions.push("1 and 2 both lead in term 7".to_owned());
        assert_eq!(RaftSafety.check(&Case::of(&evidence)), Err("1 and 2 both lead in term 7".to_owned()));
        evidence.contradictions.push("and in term 8".to_owned());
        assert_eq!(RaftSafety.check(&Case::of(&evidence)), Err("1 and 2 both lead in term 7; and 1 more".to_owned()));
    }
}

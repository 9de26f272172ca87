//! A member starts after every crash and ends only when asked or killed, unless its disk failed it.

use super::{Case, Checker};

/// See the module.
pub struct MemberHealth;

impl Checker for MemberHealth {
    fn name(&self) -> &'static str {
        "member_health"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        match evidence.complaints.as_slice() {
            [] => Ok(()),
            complaints => Err(complaints.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Evidence;
    use super::*;

    #[test]
    fn one_complaint_is_enough() {
        let mut evidence = Evidence::default();
        assert_eq!(MemberHealth.check(&Case::of(&evidence)), Ok(()));
        evidence.complaints.push("m1 stopped by itself: no idea".to_owned());
        assert!(MemberHealth.check(&Case::of(&evidence)).unwrap_err().contains("no idea"));
    }
}

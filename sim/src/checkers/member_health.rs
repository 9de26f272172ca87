//! A member starts after every crash and ends only when asked or killed, unless its disk failed it.

use super::{Checker, Evidence};

/// See the module.
pub struct MemberHealth;

impl Checker for MemberHealth {
    fn name(&self) -> &'static str {
        "member_health"
    }

    fn check(&self, evidence: &Evidence) -> Result<(), String> {
        match evidence.complaints.as_slice() {
            [] => Ok(()),
            complaints => Err(complaints.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_complaint_is_enough() {
        let mut evidence = Evidence::default();
        assert_eq!(MemberHealth.check(&evidence), Ok(()));
        evidence.complaints.push("m1 stopped by itself: no idea".to_owned());
        assert!(MemberHealth.check(&evidence).unwrap_err().contains("no idea"));
    }
}

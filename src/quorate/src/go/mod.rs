//! How Go writes and reads numbers, and tells errors.
//!
//! etcd's flags, error texts and log lines are made by Go's standard library, and operators' scripts match them. So these are
//! Go's rules to the letter, not what Rust would choose.

pub mod error;
pub mod number;

//! How Go writes and reads numbers.
//!
//! etcd's flags, error texts and log lines are made by Go's standard library, and operators' scripts match them. So these are
//! Go's rules to the letter, not what Rust would choose.

pub mod number;

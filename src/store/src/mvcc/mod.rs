//! The key space with its history: every write makes a row under a new revision, and old rows stay until compacted.

pub mod index;
pub mod revision;

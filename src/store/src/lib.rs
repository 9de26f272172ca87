//! The replicated state machine: the key space with its history, and what else the log decides.

pub mod mvcc;

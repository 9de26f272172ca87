//! The consensus log: how it is kept on disk, and agreed on.

pub mod wal;

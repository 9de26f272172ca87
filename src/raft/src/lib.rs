//! Raft: the durable log, and the driver over raft-rs.
//!
//! One entry's way: [`node`] takes a proposal into raft-rs and hands out an entry to persist; [`wal`] writes it, in etcd's own
//! file format, and syncs; the node hears that it is durable, commits it, and hands it out to be applied. [`log`] is the part
//! of the log in memory that raft-rs reads; [`read_index`] is the waiting room of linearizable reads; [`wire`] translates
//! between raft-rs's types and etcd's bytes, here and nowhere else; [`transport`] carries messages between members, as etcd's
//! rafthttp does.
//!
//! Nothing here knows what an entry means.

mod drain;
pub mod log;
pub mod node;
pub mod read_index;
pub mod transport;
pub mod wal;
pub mod wire;

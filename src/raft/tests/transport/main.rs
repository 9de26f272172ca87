//! Transports of several members over real sockets on this machine.

mod answers;
mod frames;
mod harness;
mod snapshots;
mod streams;

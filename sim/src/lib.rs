//! The deterministic simulator: the real member, with its gRPC server, its log and its database, in a world made of one
//! seed.
//!
//! One *run* is a pure function of (binary, seed, options). It builds a [`world`] (clock, disk, network, machines), starts
//! members and clients in it, lets [`workloads`] talk to them while [`faults`] happen, heals everything, and then asks every
//! one of the [`checkers`] whether what the clients were told can be true. [`model`] is the slow twin of the store that the
//! checkers replay against. [`run`] draws the options from the seed, prints the summary, repeats, soaks. [`bugs`] are known
//! wrong decisions, to measure all that by.
//!
//! Workloads, faults and checkers are three flat lists: one file an item, a small trait and a registry each, none of them
//! knows the others. What a fault does to the world it says in [`actions`]; a [`scenario`] is a file that says what happens when.
#![cfg(feature = "sim")]

#[cfg(not(madsim))]
compile_error!(
    "the simulator needs `--cfg madsim`, which .cargo/config.toml sets; an exported RUSTFLAGS hides that file: unset it, \
     or add `--cfg madsim` to it"
);

pub mod actions;
pub mod bugs;
pub mod checkers;
pub mod faults;
pub mod history;
mod lists;
pub mod model;
pub mod recorded;
pub mod run;
pub mod scenario;
pub mod workloads;
pub mod world;

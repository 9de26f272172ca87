//! What clients do while faults happen. One file a workload; [`ALL`] is the list.
//!
//! A workload is a loop of one client until the stage is over: think, call, remember. It never judges: every call is recorded,
//! and the checkers judge the record. Values are unique, so that what is seen can be traced to who wrote it.

pub mod alarms;
mod batches;
mod client;
mod compaction;
mod elections;
mod leases;
mod link;
mod lists;
mod locks;
mod maintenance;
pub mod quota;
mod ranges;
mod refusals;
mod register;
pub mod tap;
mod txns;
mod watch;

use quorate_runtime::BoxFuture;

use crate::world::dice::Dice;

pub use client::{Client, ClientOptions, Knowledge};

/// What one client does.
pub trait Workload: Send + Sync {
    /// Its name, as in a report.
    fn name(&self) -> &'static str;

    /// Calls until `client.goes_on()` is false.
    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()>;
}

/// Makes a workload with drawn odds.
pub type Make = fn(&mut Dice) -> Box<dyn Workload>;

/// Every workload, by name.
pub const ALL: &[(&str, Make)] = &[
    ("register", |dice| Box::new(register::Register::draw(dice))),
    ("ranges", |dice| Box::new(ranges::Ranges::draw(dice))),
    ("txns", |dice| Box::new(txns::Txns::draw(dice))),
    ("batches", |dice| Box::new(batches::Batches::draw(dice))),
    ("compaction", |dice| Box::new(compaction::Compaction::draw(dice))),
    ("refusals", |_| Box::new(refusals::Refusals)),
    ("watch", |dice| Box::new(watch::Watch::draw(dice))),
    ("lists", |dice| Box::new(lists::Lists::draw(dice))),
    ("leases", |dice| Box::new(leases::Leases::draw(dice))),
    ("maintenance", |dice| Box::new(maintenance::Maintenance::draw(dice))),
    ("elections", |dice| Box::new(elections::Elections::draw(dice))),
    ("locks", |dice| Box::new(locks::Locks::draw(dice))),
    ("alarms", |dice| Box::new(alarms::Alarms::draw(dice))),
    (quota::NAME, |dice| Box::new(quota::Quota::draw(dice))),
];

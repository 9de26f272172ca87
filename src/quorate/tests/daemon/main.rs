//! The daemon as operators meet it: a real process, its words, its log, its metrics and its status.

mod command_line;
mod defragment;
mod metrics;
mod process;
mod running;

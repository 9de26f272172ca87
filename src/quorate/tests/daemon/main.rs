//! The daemon as operators meet it: a real process, its words, its log and its status.

mod command_line;
mod process;
mod running;

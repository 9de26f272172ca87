//! The hub on a real store: exact answers, and whatever clients do against a naive history.

mod golden;
mod load;
mod twin;

//! What readers and the writer share, and nothing else does: a swapped pointer and cells that are written once.
//!
//! The tests in `tests/view_shuttle.rs` put instrumented twins in this place.

pub(crate) use std::sync::{Arc, OnceLock};

pub(crate) use arc_swap::ArcSwap;

//! What readers and the writer share, and nothing else does: a lock, a swapped pointer, a flag, and cells that are written once.
//!
//! The tests in `tests/view_shuttle.rs` put instrumented twins in this place.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub(crate) use arc_swap::ArcSwapOption;

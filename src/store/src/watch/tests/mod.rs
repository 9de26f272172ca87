//! The hub on a real store: exact answers, and whatever clients do against a naive history.

mod golden;
mod load;
mod twin;

use super::WatchLimits;

/// Steps so small that what needs several of them is a few rows.
fn small_steps() -> WatchLimits {
    WatchLimits { cursor_watchers_max: 4, step_rows_max: 7, step_told_max: 20, ..WatchLimits::default() }
}

//! The progress bar: on stderr, and only if that is a terminal.

use std::cell::Cell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::generator::Extent;

/// Shows how far a run is.
pub struct Progress {
    bar: ProgressBar,
    extent: Extent,
    last: Cell<(Duration, u64)>,
}

impl Progress {
    /// A bar for a run of `extent`; hidden unless `wanted`.
    pub fn new(wanted: bool, name: &str, extent: Extent) -> Self {
        let (length, unit) = match &extent {
            Extent::Time { warm_up, measure } => (Some(millis(*warm_up + *measure)), "{elapsed}/{eta} left"),
            Extent::Until { .. } => (None, "{elapsed}"),
            Extent::Operations(total) => (Some(*total), "{human_pos}/{human_len} requests, {eta} left"),
        };
        // indicatif hides a bar on what is no terminal by itself.
        let target = if wanted { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(&format!("{{prefix:16}} [{{bar:40}}] {unit}, {{msg}}"))
            .expect("the template above is valid");
        let bar = ProgressBar::with_draw_target(length, target).with_style(style.progress_chars("=> "));
        bar.set_prefix(name.to_owned());
        Self { bar, extent, last: Cell::new((Duration::ZERO, 0)) }
    }

    /// Moves the bar: time since the run began, operations ended since then.
    pub fn show(&self, elapsed: Duration, operations: u64) {
        let (last_elapsed, last_operations) = self.last.get();
        let since = elapsed.saturating_sub(last_elapsed);
        if since < Duration::from_millis(200) {
            return;
        }
        self.last.set((elapsed, operations));
        let per_second = (operations - last_operations) as f64 / since.as_secs_f64();
        self.bar.set_message(format!("{per_second:.0}/s"));
        self.bar.set_position(match self.extent {
            Extent::Time { .. } | Extent::Until { .. } => millis(elapsed),
            Extent::Operations(_) => operations,
        });
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

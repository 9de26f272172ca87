//! Time from the kernel: `CLOCK_MONOTONIC` through [`Instant`], civil time through [`SystemTime`].
//!
//! Sleeping has tokio's granularity: it never wakes early, and up to about a millisecond late.

use std::time::{Duration, Instant, SystemTime};

use quorate_runtime::BoxFuture;
use quorate_runtime::clock::{Clock, MonoTime, WallTime};

use crate::TokioRuntime;

/// A deadline further away than this is "never": the kernel's clock need not be able to express it.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Clock for TokioRuntime {
    fn mono_now(&self) -> MonoTime {
        MonoTime::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall_now(&self) -> WallTime {
        // A clock set before 1970 shows as 1970: wall time is only shown, never decides.
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WallTime::from_unix_nanos(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, deadline: MonoTime) -> BoxFuture<'static, ()> {
        let at: Instant = self.started + Duration::from_nanos(deadline.as_nanos()).min(FOREVER);
        // The timer is made at the first poll, so it belongs to the reactor that waits, whoever asked for it.
        Box::pin(async move { tokio::time::sleep_until(at.into()).await })
    }
}

//! Time, as two clocks that must not be mixed up.
//!
//! [`MonoTime`] only goes forward (at a rate that may be wrong, and with leaps after a suspend): timeouts, lease expiry and
//! measuring use it. [`WallTime`] is what people read; it may jump either way, so it may be shown and compared between
//! members as a hint, and never decides anything.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::BoxFuture;

/// A point on this process's monotonic clock: nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoTime {
    nanos: u64,
}

impl MonoTime {
    /// The point `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: MonoTime) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl Add<Duration> for MonoTime {
    type Output = MonoTime;

    fn add(self, duration: Duration) -> MonoTime {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        MonoTime { nanos: self.nanos.saturating_add(nanos) }
    }
}

impl Sub<MonoTime> for MonoTime {
    type Output = Duration;

    fn sub(self, earlier: MonoTime) -> Duration {
        self.since(earlier)
    }
}

/// A point in civil time: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime {
    unix_nanos: u64,
}

impl WallTime {
    /// The point `unix_nanos` nanoseconds after the Unix epoch.
    pub const fn from_unix_nanos(unix_nanos: u64) -> Self {
        Self { unix_nanos }
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn unix_nanos(self) -> u64 {
        self.unix_nanos
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> u64 {
        self.unix_nanos / 1_000_000
    }

    /// Whole seconds since the Unix epoch.
    pub const fn unix_secs(self) -> u64 {
        self.unix_nanos / 1_000_000_000
    }
}

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.unix_secs(), self.unix_nanos % 1_000_000_000)
    }
}

/// Both clocks, and waiting on the monotonic one.
pub trait Clock {
    /// Now, on the monotonic clock.
    fn mono_now(&self) -> MonoTime;

    /// Now, in civil time.
    fn wall_now(&self) -> WallTime;

    /// Completes once the monotonic clock has reached `deadline`.
    fn sleep_until(&self, deadline: MonoTime) -> BoxFuture<'static, ()>;

    /// Completes after `duration` on the monotonic clock.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.mono_now() + duration)
    }
}

/// The work did not finish in time; it was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Runs `work` for at most `limit`; drops it when time is up.
pub async fn timeout<T>(
    clock: &(impl Clock + ?Sized),
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let sleep = clock.sleep(limit);
    tokio::select! {
        biased;
        result = work => Ok(result),
        () = sleep => Err(Elapsed),
    }
}

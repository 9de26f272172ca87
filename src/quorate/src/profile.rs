//! Profiles of this process (`--enable-pprof`): what its processors do, and who has allocated what it holds.
//!
//! - Processors: a timer's signal interrupts whoever runs, a hundred times a second of processor time, and the stack is noted.
//!   Nothing of it costs anything before a profile is asked for.
//! - Memory: jemalloc notes the stack of an allocation about every 512 KiB, from [`start`] on.
//!
//! Both are stacks of addresses with a weight; [`stacks`] makes profiles of them.

mod heap;
mod stacks;

use std::sync::Arc;

use pprof::protos::Profile;
use pprof::{Error, ProfilerGuard, ProfilerGuardBuilder};
use quorate_api::{CpuSamples, Profiler};
use stacks::Stacks;

/// Samples a second of processor time: as Go's.
const SAMPLES_A_SECOND: i32 = 100;
const SAMPLE_NANOS: i64 = 1_000_000_000 / SAMPLES_A_SECOND as i64;

/// Functions of jemalloc, by their files: they are innermost in every stack of the heap's.
const ALLOCATOR: &str = ".*/tikv-jemalloc-sys-.*";

/// Takes profiles. From now on allocations are sampled.
pub fn start() -> Arc<dyn Profiler> {
    if let Err(error) = heap::start() {
        tracing::warn!(error, "the heap cannot be profiled");
    }
    Arc::new(Profiles)
}

struct Profiles;

impl Profiler for Profiles {
    fn start_cpu(&self) -> Result<Box<dyn CpuSamples>, String> {
        match ProfilerGuardBuilder::default().frequency(SAMPLES_A_SECOND).build() {
            Ok(guard) => Ok(Box::new(Samples(guard))),
            Err(Error::Running) => Err("cpu profiling already in use".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn heap(&self) -> Result<Vec<u8>, String> {
        let held = heap::held()?;
        let mut stacks = Stacks::new(Profile::default(), &[("inuse_space", "bytes")]);
        stacks.leave_out(ALLOCATOR);
        for (addresses, bytes) in held {
            stacks.add(addresses.into_iter(), &[bytes]);
        }
        stacks.finish().map_err(|error| error.to_string())
    }

    fn function(&self, address: usize) -> Option<String> {
        stacks::function(address)
    }
}

/// Samples that are being taken.
struct Samples(ProfilerGuard<'static>);

impl CpuSamples for Samples {
    fn finish(self: Box<Self>) -> Result<Vec<u8>, String> {
        let report = self.0.report().build_unresolved().map_err(|error| error.to_string())?;
        // To name functions may take a while, and is not to be in the way of the next profile.
        drop(self);
        let since_epoch = report.timing.start_time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let profile = Profile {
            time_nanos: since_epoch.as_nanos() as i64,
            duration_nanos: report.timing.duration.as_nanos() as i64,
            period: SAMPLE_NANOS,
            ..Profile::default()
        };
        let mut stacks = Stacks::new(profile, &[("samples", "count"), ("cpu", "nanoseconds")]);
        for (stack, count) in &report.data {
            let count = *count as i64;
            stacks.add(stack.frames.iter().map(|frame| frame.ip), &[count, count * SAMPLE_NANOS]);
        }
        stacks.finish().map_err(|error| error.to_string())
    }
}

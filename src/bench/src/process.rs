//! What a process uses, as the kernel counts it (`/proc`, Linux).

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Serialize;

/// Memory of a process, highest values seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Highest anonymous memory in bytes: heap and stacks. Files mapped into memory are not in it, so a database that the
    /// kernel caches counts neither where it is mapped (bbolt) nor where it is read (redb).
    pub anonymous_peak_bytes: u64,
    /// Highest resident memory in bytes since the process began, mapped files included.
    pub resident_peak_bytes: u64,
}

impl Memory {
    /// Both together, each.
    fn plus(self, other: Memory) -> Memory {
        Memory {
            anonymous_peak_bytes: self.anonymous_peak_bytes + other.anonymous_peak_bytes,
            resident_peak_bytes: self.resident_peak_bytes + other.resident_peak_bytes,
        }
    }

    /// The higher of both, each.
    pub fn max(self, other: Memory) -> Memory {
        Memory {
            anonymous_peak_bytes: self.anonymous_peak_bytes.max(other.anonymous_peak_bytes),
            resident_peak_bytes: self.resident_peak_bytes.max(other.resident_peak_bytes),
        }
    }
}

/// Processes under watch, taken together.
pub struct Watch {
    pids: Vec<u32>,
    cpu_at_start: Duration,
    memory: Memory,
}

impl Watch {
    /// Starts to count.
    pub fn start(pids: &[u32]) -> anyhow::Result<Watch> {
        let mut watch = Watch { pids: pids.to_vec(), cpu_at_start: cpu_times(pids)?, memory: Memory::default() };
        watch.sample()?;
        Ok(watch)
    }

    /// Looks at the memory; the kernel keeps no peak of anonymous memory, so look often.
    pub fn sample(&mut self) -> anyhow::Result<()> {
        let mut sum = Memory::default();
        for pid in &self.pids {
            sum = sum.plus(memory(*pid)?);
        }
        self.memory = self.memory.max(sum);
        Ok(())
    }

    /// CPU time used since the start, user and system; highest memory seen.
    pub fn finish(mut self) -> anyhow::Result<(Duration, Memory)> {
        self.sample()?;
        Ok((cpu_times(&self.pids)?.saturating_sub(self.cpu_at_start), self.memory))
    }
}

fn cpu_times(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| cpu_time(*pid)).sum()
}

/// CPU time of all threads so far, user and system, ended threads included.
fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = read(pid, "stat")?;
    // The second field is the program's name in parentheses, which may hold anything; utime and stime are the 14th and 15th.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks =
        |index: usize| after_name.split_ascii_whitespace().nth(index - 3).and_then(|ticks| ticks.parse::<u64>().ok());
    let ticks = ticks(14)
        .zip(ticks(15))
        .map(|(user, system)| user + system)
        .ok_or_else(|| anyhow!("/proc/{pid}/stat is not as expected"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = read(pid, "status")?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| anyhow!("/proc/{pid}/status has no {name}: has the process ended?"))
    };
    Ok(Memory { anonymous_peak_bytes: bytes("RssAnon")?, resident_peak_bytes: bytes("VmHWM")? })
}

fn read(pid: u32, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}: is the server process still there?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let watch = Watch::start(&[std::process::id()]).unwrap();
        let mut sum = 0u64;
        let block = vec![1u8; 32 << 20];
        let before = std::time::Instant::now();
        while before.elapsed() < Duration::from_millis(60) {
            sum += block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        let (cpu, memory) = watch.finish().unwrap();
        assert!(sum > 0);
        assert!(cpu >= Duration::from_millis(20), "{cpu:?}");
        assert!(memory.anonymous_peak_bytes >= 32 << 20, "{memory:?}");
        assert!(memory.resident_peak_bytes >= memory.anonymous_peak_bytes);
    }
}

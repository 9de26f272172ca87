//! Memory that is never swapped out (`--memory-mlock`).
//!
//! etcd locks the pages of its database file, which it maps. Here nothing is mapped: what must not wait for a disk is the index
//! and the caches, so the whole process is locked, page by page as it is first touched.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

/// Locks what the process has and will have.
pub fn lock() -> Result<(), String> {
    let wanted = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(wanted).map_err(|error| {
        let allowed = match getrlimit(Resource::Memlock).current {
            Some(bytes) => format!("this process may lock {bytes} bytes"),
            None => "the limit is not the reason".to_owned(),
        };
        format!(
            "--memory-mlock: cannot lock the memory: {error}; {allowed}: raise the limit (LimitMEMLOCK=infinity, ulimit -l \
             unlimited), or start without the flag"
        )
    })
}

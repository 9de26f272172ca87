//! The limit of open files.
//!
//! Most systems give a process a low limit that it may raise itself, for the sake of programs that cannot count further. Go's
//! programs raise it when they start, so operators of etcd never had to; each connection needs one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Without so many a member cannot live (etcd `server/embed/etcd.go`).
pub const NEEDED: u64 = 150;

/// Raises this process's limit as far as it may. The error is the limit, if that is too low to live.
pub fn raise_limit() -> Result<(), u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // A system that refuses leaves the lower limit, which may do.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    match getrlimit(Resource::Nofile).current {
        Some(files) if files <= NEEDED => Err(files),
        _ => Ok(()),
    }
}

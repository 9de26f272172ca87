//! The allocator: rows are made on one thread, kept, and freed on another, and jemalloc is the fastest for that.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads before `main`: that its heap may be profiled has to be said so early. Nothing is sampled before
/// [`profile::start`](crate::profile::start) says so.
// SAFETY: this is jemalloc's own name for it, prefixed as this build's are; there it is a `const char *` to a text that ends with
// a zero byte, as this is. Nothing ever writes to either.
#[cfg(feature = "profile")]
#[allow(unsafe_code)]
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8; 28] = b"prof:true,prof_active:false\0";

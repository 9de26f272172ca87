//! Watches how much is allocated at once: a length read from a damaged file must not decide it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static WATCHED: Watched = Watched;

struct Watched;

impl Watched {
    fn note(size_bytes: usize) {
        LARGEST_BYTES.fetch_max(size_bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; noting a size neither allocates nor panics.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::note(new_size);
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The largest single allocation while `work` ran, in bytes.
pub fn largest_during<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LARGEST_BYTES.store(0, Ordering::Relaxed);
    let result = work();
    (result, LARGEST_BYTES.load(Ordering::Relaxed))
}

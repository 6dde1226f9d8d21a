//! An allocator that refuses what no input of a fuzzer's size may ask for.
//!
//! libFuzzer's own `-malloc_limit_mb` needs a sanitizer; this does without. A limit that is reached ends
//! the process, which the fuzzer reports with the input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest single allocation. The library for Parquet reserves what a page claims to be, up to 2 GiB, and
/// uses of it what there is; what is used is bounded by `-rss_limit_mb`.
const MOST_AT_ONCE: usize = 1 << 31;
/// The most that may be allocated at a time.
const MOST: usize = 5 << 29;

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn take(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > MOST_AT_ONCE || live > MOST {
        // Printing allocates.
        LIVE.store(0, Ordering::Relaxed);
        eprintln!(
            "allocation of {bytes} bytes ({live} in all)\n{}",
            std::backtrace::Backtrace::force_capture()
        );
        std::process::abort();
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = LIVE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| {
            Some(live.saturating_sub(layout.size()))
        });
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = LIVE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| {
            Some(live.saturating_sub(layout.size()))
        });
        take(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

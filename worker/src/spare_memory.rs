//! Gives memory that is free back to the system once files were read.
//!
//! The C library's allocator keeps what was freed for what is asked for next: a worker that once read a file of large
//! values would take as much memory for good, which operators see and other programs lack. Must never be in the way of
//! work: nothing is given back while files are read, nor more than once a second.

use std::time::Duration;

use crate::read::MemoryBudget;

/// How long no file must have been read; and how often to look.
const SETTLED: Duration = Duration::from_millis(100);
/// The time between two rounds, at least.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub(crate) async fn give_back(memory: MemoryBudget) -> ! {
    loop {
        memory.reserved().await;
        loop {
            tokio::time::sleep(SETTLED).await;
            if memory.used() == 0 {
                break;
            }
        }
        // It walks through all that was allocated.
        let _ = tokio::task::spawn_blocking(trim).await;
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    #[expect(
        unsafe_code,
        reason = "a call into the C library, which takes a number and may be made by any thread"
    )]
    // SAFETY: malloc_trim(3) touches free memory only, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators give memory back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

//! Gives memory that is free back to the system.
//!
//! The C library's allocator keeps what was freed for what is asked for next: a worker that once read a file of large
//! values would take as much memory for good, which operators see and other programs lack. Large blocks are given back
//! as they are freed, the rest once files were read. Must never be in the way of work: while files are read the rest
//! stays, and it is not given back more than once a second.

use std::time::Duration;

use crate::read::MemoryBudget;

/// How long no file must have been read; and how often to look.
const SETTLED: Duration = Duration::from_millis(100);
/// The time between two rounds, at least.
const PAUSE: Duration = Duration::from_secs(1);

/// Blocks of this size and more are no part of what the allocator keeps, bytes. It would raise the bound by itself with
/// each block that is freed; then batches of 8 MiB lie scattered over what it keeps for each thread, several times what
/// is in use. Much less costs time: the system clears what it hands out.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK: libc::c_int = 2 << 20;
/// What the allocator may keep at the end of each of its heaps, bytes. Without it, a bound of its own for large blocks
/// makes it give back and ask again all the time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 << 20;
/// Where operators set the allocator up themselves.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SET_BY: [&str; 2] = ["GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_"];

/// Sets the allocator of this process up.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn set_up_allocator() {
    if SET_BY.iter().any(|variable| std::env::var_os(variable).is_some()) {
        return;
    }
    for (parameter, bytes) in [(libc::M_MMAP_THRESHOLD, LARGE_BLOCK), (libc::M_TRIM_THRESHOLD, KEPT)] {
        #[expect(
            unsafe_code,
            reason = "a call into the C library, which takes numbers and may be made by any thread"
        )]
        // SAFETY: mallopt(3) sets a number, which the allocator reads when it is asked for memory.
        let set = unsafe { libc::mallopt(parameter, bytes) };
        if set == 0 {
            tracing::debug!(parameter, bytes, "the allocator does not take a setting");
        }
    }
}

/// Other allocators do without.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn set_up_allocator() {}

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

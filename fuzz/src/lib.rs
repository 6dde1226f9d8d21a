//! What the fuzz targets share: how a target runs, options and columns made of a few bytes, and the
//! decoders driven as a worker drives them.
//!
//! An input of a decoder's target is [`KNOBS`] bytes that choose options, then the file. A target fails
//! by a panic that reaches it (panics of libraries that the decoders guard do not), by a broken property,
//! by memory above the limits of [`memory`], or by the fuzzer's time-out.

pub mod columnar;
pub mod knobs;
pub mod memory;
pub mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once};

/// How many bytes at the start of an input choose options.
pub const KNOBS: usize = 32;

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs one input. Panics that the code under test catches itself are no failures, so the fuzzer's own
/// hook, which ends the process at once, is replaced.
pub fn run(body: impl FnOnce()) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let trace = std::backtrace::Backtrace::capture();
            if let Ok(mut last) = LAST_PANIC.lock() {
                *last = format!("{panic}\n{trace}");
            }
        }));
    });
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        eprintln!("{}", LAST_PANIC.lock().map(|last| last.clone()).unwrap_or_default());
        std::process::abort();
    }
}

/// The bytes that choose options, and the rest.
pub fn split(input: &[u8]) -> (&[u8], &[u8]) {
    input.split_at(input.len().min(KNOBS))
}

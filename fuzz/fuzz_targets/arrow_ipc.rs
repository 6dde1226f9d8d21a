//! Arrow IPC files and streams: whatever is in them, an error or rows.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| stevedore_fuzz::columnar::arrow_ipc(input)));

//! JSON files (arrays, values one after the other): the rows do not depend on how the bytes come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stevedore_common::file_format::FormatKind;

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| stevedore_fuzz::text::target(FormatKind::Json, input)));

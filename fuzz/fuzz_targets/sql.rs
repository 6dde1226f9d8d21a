//! Statements: any text is answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stevedore_sql::script::{completeness, split_script};

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| {
    let text = String::from_utf8_lossy(input);
    let _ = stevedore_sql::parse(&text);
    let _ = stevedore_sql::parse_script(&text);
    let _ = split_script(&text);
    let _ = completeness(&text);
    let _ = stevedore_sql::mask_secrets(&text);
}));

//! JSON: what is JSON to another parser is JSON to us and means the same; its canonical form is canonical.
#![no_main]

use arrow::array::StringArray;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use stevedore_decode::variant::scan::{elements, members};
use stevedore_decode::variant::{MAX_NESTING, PathStep, canonical_into, compare, get_path, parse_json};

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| {
    // The scanners are lenient: they see text that nobody checked.
    let lossy = String::from_utf8_lossy(input);
    let _ = elements(&lossy).count();
    let _ = members(&lossy).count();
    let steps = [PathStep::Field("a".into()), PathStep::Index(0)];
    for length in 0..=steps.len() {
        let _ = get_path(&StringArray::from(vec![&*lossy]), &steps[..length]);
    }
    let _ = compare(&lossy, "{\"a\":[1,2.5,null]}");
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut canonical = String::new();
    let ours = canonical_into(text, MAX_NESTING, &mut canonical);
    let (array, rejected) = parse_json(&StringArray::from(vec![text]));
    assert_eq!((rejected.is_empty(), ours.is_ok()), (ours.is_ok(), array.null_count() == 0));
    let theirs = serde_json::from_str::<Value>(text);
    if let Err(error) = ours {
        assert!(canonical.is_empty());
        // They count nesting otherwise, by one.
        assert!(theirs.is_err() || error.reason.contains("nest"), "{text:?}: {error}");
        return;
    }
    let mut again = String::new();
    assert!(canonical_into(&canonical, MAX_NESTING, &mut again).is_ok());
    assert_eq!(again, canonical);
    // They refuse numbers beyond a double, and lone surrogates.
    if let Ok(theirs) = theirs {
        assert_eq!(serde_json::from_str::<Value>(&canonical).ok(), Some(theirs), "{text:?}");
    }
}));

use arrow::array::Array;

//! A whole record as a VARIANT: keys sorted at every level, of equal keys the last, no white space.
//!
//! Strings and numbers stay as written, but for fields that NULL_IF makes NULL. Recursion is as deep as the record is nested, which the scanner
//! has limited before.

use std::collections::BTreeMap;

use crate::json::scan::{for_each_element, for_each_entry};
use crate::json::unescape::unescape;
use crate::parse::Reason;

/// Appends the record with its keys sorted, and NULL for its own fields whose text `is_null`, as if they were
/// columns. The text was validated.
///
/// # Errors
/// A key that is half of a surrogate pair.
pub(super) fn write_record(
    raw: &[u8],
    is_null: impl Fn(&[u8]) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let mut content = Vec::new();
    let write = |value: &[u8], out: &mut Vec<u8>| {
        if let [b'"', text @ .., b'"'] = value {
            content.clear();
            if unescape(text, &mut content).is_ok() && is_null(&content) {
                out.extend_from_slice(b"null");
                return Ok(());
            }
        }
        write_sorted(value, out)
    };
    write_object(raw, write, out)
}

/// Appends an object with its keys sorted and its values as `write` has them.
fn write_object(
    raw: &[u8],
    mut write: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), Reason>,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let mut entries: BTreeMap<Vec<u8>, (&[u8], &[u8])> = BTreeMap::new();
    let mut bad = None;
    for_each_entry(raw, |key, value| {
        let mut name = Vec::with_capacity(key.len());
        match unescape(key, &mut name) {
            Ok(()) => drop(entries.insert(name, (key, value))),
            Err(reason) => bad = Some(reason),
        }
    })
    .map_err(|_| BROKEN)?;
    if let Some(reason) = bad {
        return Err(reason);
    }
    out.push(b'{');
    for (i, (key, value)) in entries.into_values().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(key);
        out.extend_from_slice(b"\":");
        write(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

const BROKEN: Reason = "invalid JSON";

/// Appends the value with its keys sorted.
pub(super) fn write_sorted(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    match raw.first() {
        Some(b'{') => write_object(raw, write_sorted, out)?,
        Some(b'[') => {
            out.push(b'[');
            let mut first = true;
            for_each_element(raw, |element| {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                write_sorted(element, out)
            })
            .map_err(|_| BROKEN)??;
            out.push(b']');
        }
        _ => out.extend_from_slice(raw),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_level() {
        let mut out = Vec::new();
        write_sorted(br#"{"b": [1, {"y":1.50, "x" :"a b"}], "a": {}, "b2":null, "a":[ ]}"#, &mut out)
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":[],"b":[1,{"x":"a b","y":1.50}],"b2":null}"#);
    }
    #[test]
    fn null_if_is_about_the_fields_of_the_record() {
        let mut out = Vec::new();
        let record = br#"{"b": "N\u0041", "a": ["NA", {"k":"NA"}], "c":"NAN", "d": "\ud800"}"#;
        write_record(record, |text| text == b"NA", &mut out).unwrap();
        let expected = r#"{"a":["NA",{"k":"NA"}],"b":null,"c":"NAN","d":"\ud800"}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

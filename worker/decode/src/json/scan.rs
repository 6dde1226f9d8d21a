//! Where a JSON value ends, with its grammar checked (RFC 8259).
//!
//! The bytes may go on after the value. UTF-8 is not checked here. Nesting is kept in a bit stack, so
//! depth costs no recursion.

use crate::bits::json_string_stop;
use crate::parse::Reason;

/// What is wrong, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonError {
    pub(crate) at: usize,
    pub(crate) reason: Reason,
}

/// Nesting beyond this is refused whatever the settings say.
const DEEPEST: usize = 1024;
const UNEXPECTED_END: Reason = "unexpected end of JSON";

#[inline(always)]
fn error<T>(at: usize, reason: Reason) -> Result<T, JsonError> {
    Err(JsonError { at, reason })
}

/// The first byte that is not JSON white space.
#[inline(always)]
pub(crate) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && matches!(bytes[at], b' ' | b'\t' | b'\n' | b'\r') {
        at += 1;
    }
    at
}

/// The end of the value that begins at `at` (no white space before it), and whether it is a string that
/// holds an escape.
#[inline(always)]
pub(crate) fn skip_value(bytes: &[u8], at: usize, max_nesting: usize) -> Result<(usize, bool), JsonError> {
    match bytes.get(at) {
        Some(b'"') => skip_string(bytes, at + 1),
        Some(b'-' | b'0'..=b'9') => Ok((skip_number(bytes, at)?, false)),
        Some(b'{' | b'[') => Ok((skip_nested(bytes, at, max_nesting)?, false)),
        _ => Ok((skip_word(bytes, at)?, false)),
    }
}

/// The end (after the closing quote) of a string whose content begins at `at`, and whether it has escapes.
#[inline(always)]
pub(crate) fn skip_string(bytes: &[u8], at: usize) -> Result<(usize, bool), JsonError> {
    let stop = json_string_stop(bytes, at);
    if bytes.get(stop) == Some(&b'"') {
        Ok((stop + 1, false))
    } else {
        Ok((skip_escapes(bytes, stop)?, true))
    }
}

fn skip_escapes(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    loop {
        match bytes.get(at) {
            None => return error(at, "unclosed string"),
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u') => {
                    match bytes.get(at + 2..at + 6) {
                        Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {}
                        _ => return error(at, "invalid \\u escape"),
                    }
                    at += 6;
                }
                None => return error(at, "unclosed string"),
                Some(_) => return error(at, "invalid escape"),
            },
            Some(b'\n') => return error(at, "unclosed string"),
            Some(_) => return error(at, "control character in a string"),
        }
        at = json_string_stop(bytes, at);
    }
}

#[inline(always)]
fn skip_digits(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at].wrapping_sub(b'0') <= 9 {
        at += 1;
    }
    at
}

#[inline(always)]
fn skip_number(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let start = at + usize::from(bytes[at] == b'-');
    let mut end = skip_digits(bytes, start);
    if end == start || (end > start + 1 && bytes[start] == b'0') {
        return error(at, "invalid number");
    }
    if bytes.get(end) == Some(&b'.') {
        let fraction = end + 1;
        end = skip_digits(bytes, fraction);
        if end == fraction {
            return error(at, "invalid number");
        }
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let mut exponent = end + 1;
        exponent += usize::from(matches!(bytes.get(exponent), Some(b'+' | b'-')));
        end = skip_digits(bytes, exponent);
        if end == exponent {
            return error(at, "invalid number");
        }
    }
    Ok(end)
}

#[inline(always)]
fn skip_word(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.starts_with(b"true") || rest.starts_with(b"null") {
        Ok(at + 4)
    } else if rest.starts_with(b"false") {
        Ok(at + 5)
    } else {
        error(at, if rest.is_empty() { UNEXPECTED_END } else { "expected a value" })
    }
}

fn skip_key(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    if bytes.get(at) != Some(&b'"') {
        return error(at, if at >= bytes.len() { UNEXPECTED_END } else { "expected a field name in quotes" });
    }
    let (end, _) = skip_string(bytes, at + 1)?;
    let colon = skip_space(bytes, end);
    if bytes.get(colon) != Some(&b':') {
        return error(colon, if colon >= bytes.len() { UNEXPECTED_END } else { "expected ':'" });
    }
    Ok(skip_space(bytes, colon + 1))
}

fn skip_nested(bytes: &[u8], start: usize, max_nesting: usize) -> Result<usize, JsonError> {
    let max = max_nesting.min(DEEPEST);
    let mut objects = [0u64; DEEPEST / 64];
    let mut depth = 0usize;
    let mut at = start;
    loop {
        let open = bytes.get(at).copied();
        if let Some(open @ (b'{' | b'[')) = open {
            if depth == max {
                return error(at, "nested too deeply");
            }
            let object = open == b'{';
            let (word, bit) = (depth / 64, 1u64 << (depth % 64));
            if object {
                objects[word] |= bit;
            } else {
                objects[word] &= !bit;
            }
            depth += 1;
            at = skip_space(bytes, at + 1);
            let close = if object { b'}' } else { b']' };
            if bytes.get(at) != Some(&close) {
                if object {
                    at = skip_key(bytes, at)?;
                }
                continue;
            }
            at += 1;
            depth -= 1;
        } else {
            at = match open {
                Some(b'"') => skip_string(bytes, at + 1)?.0,
                Some(b'-' | b'0'..=b'9') => skip_number(bytes, at)?,
                _ => skip_word(bytes, at)?,
            };
        }
        loop {
            if depth == 0 {
                return Ok(at);
            }
            at = skip_space(bytes, at);
            let object = objects[(depth - 1) / 64] >> ((depth - 1) % 64) & 1 == 1;
            match (object, bytes.get(at)) {
                (_, Some(b',')) => {
                    at = skip_space(bytes, at + 1);
                    if object {
                        at = skip_key(bytes, at)?;
                    }
                    break;
                }
                (true, Some(b'}')) | (false, Some(b']')) => {
                    at += 1;
                    depth -= 1;
                }
                (_, None) => return error(at, UNEXPECTED_END),
                (true, _) => return error(at, "expected ',' or '}'"),
                (false, _) => return error(at, "expected ',' or ']'"),
            }
        }
    }
}

/// Checks that the text is one JSON value, white space around it allowed.
pub(crate) fn validate(text: &[u8], max_nesting: usize) -> Result<(), JsonError> {
    let (end, _) = skip_value(text, skip_space(text, 0), max_nesting)?;
    let end = skip_space(text, end);
    if end == text.len() { Ok(()) } else { error(end, "unexpected text after the JSON value") }
}

/// Walks an array that was validated: calls `element` with each element's text.
pub(crate) fn for_each_element<'a, E>(
    raw: &'a [u8],
    mut element: impl FnMut(&'a [u8]) -> Result<(), E>,
) -> Result<Result<(), E>, JsonError> {
    let mut at = skip_space(raw, 1);
    if raw.get(at) == Some(&b']') {
        return Ok(Ok(()));
    }
    loop {
        let (end, _) = skip_value(raw, at, DEEPEST)?;
        if let Err(e) = element(&raw[at..end]) {
            return Ok(Err(e));
        }
        at = skip_space(raw, end);
        if raw.get(at) != Some(&b',') {
            return Ok(Ok(()));
        }
        at = skip_space(raw, at + 1);
    }
}

/// Walks an object that was validated: calls `entry` with each key (content of its quotes, still escaped)
/// and value.
pub(crate) fn for_each_entry<'a>(
    raw: &'a [u8],
    mut entry: impl FnMut(&'a [u8], &'a [u8]),
) -> Result<(), JsonError> {
    let mut at = skip_space(raw, 1);
    if raw.get(at) == Some(&b'}') {
        return Ok(());
    }
    loop {
        let (key_end, _) = skip_string(raw, at + 1)?;
        let value = skip_key(raw, at)?;
        let (end, _) = skip_value(raw, value, DEEPEST)?;
        entry(&raw[at + 1..key_end - 1], &raw[value..end]);
        at = skip_space(raw, end);
        if raw.get(at) != Some(&b',') {
            return Ok(());
        }
        at = skip_space(raw, at + 1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn valid_and_invalid_texts() {
        for text in [
            "null",
            " true ",
            "false",
            "0",
            "-0.5e+10",
            "1E2",
            "\"\"",
            "\"a\\u00e9\\n\\/\"",
            "[]",
            "{}",
            "[ ]",
            "{ }",
            "[1,[2,{\"a\":[]}],\"x\"]",
            "{\"a\" : {\"b\":1} , \"c\":null}",
            "\"größer\"",
        ] {
            assert_eq!(validate(text.as_bytes(), 8), Ok(()), "{text}");
        }
        for text in [
            "",
            " ",
            "nul",
            "True",
            "01",
            "-",
            "1.",
            ".5",
            "+1",
            "1e",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"a\nb\"",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[",
            "{",
            "[}",
            "{]",
            "1 2",
            "NaN",
            "\"\\",
            "[1]]",
        ] {
            assert!(validate(text.as_bytes(), 8).is_err(), "{text}");
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nesting_is_limited_without_recursion() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(validate(nested(128).as_bytes(), 128), Ok(()));
        let error = validate(nested(129).as_bytes(), 128).unwrap_err();
        assert_eq!((error.at, error.reason), (128, "nested too deeply"));
        assert!(validate("[".repeat(10_000_000).as_bytes(), usize::MAX).is_err());
    }

    proptest! {
        #[test]
        fn it_agrees_with_serde_json(text in r#"([\[\]{},:" \\u0aeE.+-]|"a"|true|null|1|\{"k":){0,12}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            // Numbers beyond f64 are errors there, and lone surrogates; neither can occur here but 1e999.
            if theirs || !text.contains(['e', 'E', 'u']) {
                prop_assert_eq!(validate(text.as_bytes(), 128).is_ok(), theirs, "{}", text);
            }
        }

        #[test]
        fn any_bytes_are_an_answer(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = validate(&text, 128);
        }
    }
}

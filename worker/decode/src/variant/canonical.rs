//! Validates JSON text and writes it in canonical form in one pass; objects whose keys are not in
//! order are put in order when they close.

use std::fmt;
use std::ops::Range;

use arrow::array::{Array, StringArray, StringBuilder};

use super::scan;

/// Deepest nesting of arrays and objects, unless the caller says otherwise.
pub const MAX_NESTING: usize = 128;

/// Why text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub reason: &'static str,
    /// The byte at which it shows, from 0.
    pub offset: usize,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid JSON: {} at byte {}", self.reason, self.offset + 1)
    }
}

/// Appends the canonical form of `text` to `out`; on an error `out` is as it was.
///
/// # Errors
/// Where `text` is not one JSON value (RFC 8259), or nests deeper than `max_nesting`.
pub fn canonical_into(text: &str, max_nesting: usize, out: &mut String) -> Result<(), JsonError> {
    let start = out.len();
    let mut parser = Parser { text, bytes: text.as_bytes(), i: 0, depth: max_nesting, members: Vec::new() };
    let result = parser.document(out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Text to VARIANT: canonical JSON, NULL for NULL and for what is not JSON; the rejected rows come
/// with the reason, in order.
pub fn parse_json(array: &StringArray) -> (StringArray, Vec<(usize, JsonError)>) {
    let mut builder = StringBuilder::with_capacity(array.len(), array.value_data().len());
    let mut rejected = Vec::new();
    let mut buffer = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            builder.append_null();
            continue;
        }
        buffer.clear();
        match canonical_into(array.value(row), MAX_NESTING, &mut buffer) {
            Ok(()) => builder.append_value(&buffer),
            Err(error) => {
                builder.append_null();
                rejected.push((row, error));
            }
        }
    }
    (builder.finish(), rejected)
}

/// Appends `text` as a JSON string, quotes included.
pub fn push_escaped(text: &str, out: &mut String) {
    out.push('"');
    let bytes = text.as_bytes();
    let mut done = 0;
    for (i, &b) in bytes.iter().enumerate() {
        if b >= 0x20 && b != b'"' && b != b'\\' {
            continue;
        }
        out.push_str(&text[done..i]);
        done = i + 1;
        match b {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(b >> 4)]));
                out.push(char::from(HEX[usize::from(b & 15)]));
            }
        }
    }
    out.push_str(&text[done..]);
    out.push('"');
}

/// The written key and the written `"key":value` of a member.
struct Member {
    key: Range<usize>,
    whole: Range<usize>,
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    i: usize,
    depth: usize,
    /// The members of all open objects, innermost last.
    members: Vec<Member>,
}

impl Parser<'_> {
    fn error<T>(&self, reason: &'static str) -> Result<T, JsonError> {
        Err(JsonError { reason, offset: self.i.min(self.bytes.len()) })
    }

    fn skip_space(&mut self) {
        self.i = scan::skip_space(self.bytes, self.i);
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.i).copied()
    }

    fn document(&mut self, out: &mut String) -> Result<(), JsonError> {
        self.skip_space();
        if self.i == self.bytes.len() {
            return self.error("the text is empty");
        }
        self.value(out)?;
        self.skip_space();
        if self.i < self.bytes.len() {
            return self.error("unexpected text after the value");
        }
        Ok(())
    }

    fn value(&mut self, out: &mut String) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string(out),
            Some(b'{') => self.nested(out, Self::object),
            Some(b'[') => self.nested(out, Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(out),
            Some(b't') => self.word("true", out),
            Some(b'f') => self.word("false", out),
            Some(b'n') => self.word("null", out),
            Some(_) => self.error("expected a value"),
            None => self.error("the text ends where a value is expected"),
        }
    }

    fn nested(
        &mut self,
        out: &mut String,
        parse: fn(&mut Self, &mut String) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        if self.depth == 0 {
            return self.error("nested too deeply");
        }
        self.depth -= 1;
        parse(self, out)?;
        self.depth += 1;
        Ok(())
    }

    fn word(&mut self, word: &str, out: &mut String) -> Result<(), JsonError> {
        if !self.bytes[self.i..].starts_with(word.as_bytes()) {
            return self.error("expected a value");
        }
        self.i += word.len();
        if self.peek().is_some_and(|b| b.is_ascii_alphanumeric()) {
            return self.error("expected a value");
        }
        out.push_str(word);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.i;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.i += 1;
        }
        if self.i == start { self.error("expected a digit") } else { Ok(()) }
    }

    fn number(&mut self, out: &mut String) -> Result<(), JsonError> {
        let start = self.i;
        if self.peek() == Some(b'-') {
            self.i += 1;
        }
        if self.peek() == Some(b'0') {
            self.i += 1;
            if self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return self.error("a number starts with 0");
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.i += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.i += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.i += 1;
            }
            self.digits()?;
        }
        out.push_str(&self.text[start..self.i]);
        Ok(())
    }

    fn string(&mut self, out: &mut String) -> Result<(), JsonError> {
        let start = self.i;
        let mut i = start + 1;
        loop {
            match self.bytes.get(i) {
                None => {
                    self.i = start;
                    return self.error("a string is not closed");
                }
                Some(b'"') => {
                    out.push_str(&self.text[start..=i]);
                    self.i = i + 1;
                    return Ok(());
                }
                Some(b'\\') => return self.escaped_string(out),
                Some(b) if *b < 0x20 => {
                    self.i = i;
                    return self.error("a control character in a string is not escaped");
                }
                Some(_) => i += 1,
            }
        }
    }

    /// A string with escapes: resolved, then written with the shortest escapes, so that equal strings
    /// have equal text.
    fn escaped_string(&mut self, out: &mut String) -> Result<(), JsonError> {
        let start = self.i;
        let mut resolved = String::new();
        let mut done = start + 1;
        self.i = done;
        loop {
            match self.peek() {
                None => {
                    self.i = start;
                    return self.error("a string is not closed");
                }
                Some(b'"') => {
                    resolved.push_str(&self.text[done..self.i]);
                    self.i += 1;
                    push_escaped(&resolved, out);
                    return Ok(());
                }
                Some(b'\\') => {
                    resolved.push_str(&self.text[done..self.i]);
                    let Some((c, used)) = scan::escape_at(&self.text[self.i..]) else {
                        return self.error("an escape is not valid");
                    };
                    resolved.push(c);
                    self.i += used;
                    done = self.i;
                }
                Some(b) if b < 0x20 => {
                    return self.error("a control character in a string is not escaped");
                }
                Some(_) => self.i += 1,
            }
        }
    }

    fn array(&mut self, out: &mut String) -> Result<(), JsonError> {
        self.i += 1;
        out.push('[');
        self.skip_space();
        if self.peek() == Some(b']') {
            self.i += 1;
            out.push(']');
            return Ok(());
        }
        loop {
            self.skip_space();
            self.value(out)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => out.push(','),
                Some(b']') => {
                    self.i += 1;
                    out.push(']');
                    return Ok(());
                }
                Some(_) => return self.error("expected ',' or ']'"),
                None => return self.error("an array is not closed"),
            }
            self.i += 1;
        }
    }

    fn object(&mut self, out: &mut String) -> Result<(), JsonError> {
        self.i += 1;
        out.push('{');
        let base = self.members.len();
        let content = out.len();
        let mut sorted = true;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.i += 1;
            out.push('}');
            return Ok(());
        }
        loop {
            self.skip_space();
            match self.peek() {
                Some(b'"') => {}
                Some(_) => return self.error("expected a key in quotes"),
                None => return self.error("an object is not closed"),
            }
            let start = out.len();
            self.string(out)?;
            let key = start + 1..out.len() - 1;
            if let Some(last) = self.members[base..].last() {
                sorted = sorted && out[last.key.clone()] < out[key.clone()];
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.error("expected ':'");
            }
            self.i += 1;
            out.push(':');
            self.skip_space();
            self.value(out)?;
            self.members.push(Member { key, whole: start..out.len() });
            self.skip_space();
            match self.peek() {
                Some(b',') => out.push(','),
                Some(b'}') => {
                    self.i += 1;
                    break;
                }
                Some(_) => return self.error("expected ',' or '}'"),
                None => return self.error("an object is not closed"),
            }
            self.i += 1;
        }
        if !sorted {
            sort_members(&mut self.members[base..], content, out);
        }
        self.members.truncate(base);
        out.push('}');
        Ok(())
    }
}

/// Rewrites `out[content..]`, the members of one object, by key; of equal keys the last one stays.
fn sort_members(members: &mut [Member], content: usize, out: &mut String) {
    members.sort_by(|a, b| out[a.key.clone()].cmp(&out[b.key.clone()]));
    let mut sorted = String::with_capacity(out.len() - content);
    for (i, member) in members.iter().enumerate() {
        let replaced =
            members.get(i + 1).is_some_and(|next| out[next.key.clone()] == out[member.key.clone()]);
        if replaced {
            continue;
        }
        if !sorted.is_empty() {
            sorted.push(',');
        }
        sorted.push_str(&out[member.whole.clone()]);
    }
    out.truncate(content);
    out.push_str(&sorted);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn canonical(text: &str) -> Result<String, String> {
        let mut out = String::new();
        canonical_into(text, 4, &mut out).map(|()| out).map_err(|e| e.to_string())
    }

    #[test]
    fn canonical_json_is_compact_sorted_and_minimally_escaped() {
        for (text, expected) in [
            (" 1 ", "1"),
            ("-0.50e+3", "-0.50e+3"),
            ("12345678901234567890123", "12345678901234567890123"),
            (r#" { "b" : 1 , "a" : [ 1 , 2 ] } "#, r#"{"a":[1,2],"b":1}"#),
            (r#"{"a":1,"c":{"z":1,"y":2},"b":2,"a":3}"#, r#"{"a":3,"b":2,"c":{"y":2,"z":1}}"#),
            (
                r#"{"b":{"d":1,"c":[{"f":1,"e":2}]},"a":null}"#,
                r#"{"a":null,"b":{"c":[{"e":2,"f":1}],"d":1}}"#,
            ),
            (r#""\u0041\/\u00e9\u001f""#, r#""A/é\u001f""#),
            ("[ ]", "[]"),
            ("{\n}", "{}"),
            ("[true,false,null]", "[true,false,null]"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
            assert_eq!(canonical(expected).as_deref(), Ok(expected), "canonical text stays");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (text, expected) in [
            ("", "the text is empty at byte 1"),
            ("nul", "expected a value at byte 1"),
            ("truex", "expected a value"),
            ("01", "starts with 0"),
            ("1.", "expected a digit at byte 3"),
            ("-", "expected a digit"),
            ("1e", "expected a digit"),
            ("[1,]", "expected a value at byte 4"),
            ("[1", "an array is not closed"),
            ("{\"a\":1", "an object is not closed"),
            ("{a:1}", "expected a key in quotes"),
            ("{\"a\" 1}", "expected ':'"),
            ("\"abc", "a string is not closed at byte 1"),
            ("\"a\\x\"", "an escape is not valid"),
            ("\"\\ud800\"", "an escape is not valid"),
            ("\"a\nb\"", "control character"),
            ("1 2", "unexpected text after the value at byte 3"),
            ("[[[[[1]]]]]", "nested too deeply"),
            ("NaN", "expected a value"),
        ] {
            let error = canonical(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(canonical("[[[[1]]]]").is_ok());
    }

    #[test]
    fn a_failed_value_leaves_no_trace() {
        let mut out = String::from("kept");
        assert!(canonical_into("[1,", 9, &mut out).is_err());
        assert_eq!(out, "kept");
    }

    #[test]
    fn rejected_rows_are_null_and_named() {
        let (values, rejected) =
            parse_json(&StringArray::from(vec![Some("[1]"), None, Some("x"), Some("{}")]));
        assert_eq!(values, StringArray::from(vec![Some("[1]"), None, None, Some("{}")]));
        assert_eq!(rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [2]);
    }
}

//! Walking over JSON text that is believed to be valid: where values end, elements, members, strings.
//!
//! Everything is bounds-checked and ends on text that is not JSON after all; what it then yields is
//! unspecified but harmless.

use std::borrow::Cow;

/// What a JSON value is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// The kind of a value; `None` where it starts like no JSON value.
pub fn kind(text: &str) -> Option<Kind> {
    match text.as_bytes().get(skip_space(text.as_bytes(), 0))? {
        b'n' => Some(Kind::Null),
        b't' | b'f' => Some(Kind::Bool),
        b'-' | b'0'..=b'9' => Some(Kind::Number),
        b'"' => Some(Kind::String),
        b'[' => Some(Kind::Array),
        b'{' => Some(Kind::Object),
        _ => None,
    }
}

/// The first position from `i` that holds no JSON white space.
#[inline]
pub fn skip_space(bytes: &[u8], mut i: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(i) {
        i += 1;
    }
    i
}

/// The position after the string whose opening quote is at `i`.
pub fn skip_string(bytes: &[u8], i: usize) -> usize {
    let mut i = i + 1;
    while i < bytes.len() {
        match memchr::memchr2(b'"', b'\\', &bytes[i..]) {
            None => return bytes.len(),
            Some(n) if bytes[i + n] == b'"' => return i + n + 1,
            Some(n) => i += n + 2,
        }
    }
    bytes.len()
}

/// The position after the value that starts at `i`.
pub fn skip_value(bytes: &[u8], i: usize) -> usize {
    match bytes.get(i) {
        Some(b'"') => skip_string(bytes, i),
        Some(b'{' | b'[') => {
            let mut depth = 0usize;
            let mut i = i;
            while let Some(b) = bytes.get(i) {
                match b {
                    b'"' => {
                        i = skip_string(bytes, i);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return i + 1;
                        }
                    }
                    _ => {}
                }
                i += 1;
            }
            bytes.len()
        }
        _ => {
            let mut i = i;
            while bytes
                .get(i)
                .is_some_and(|b| !matches!(b, b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r'))
            {
                i += 1;
            }
            i
        }
    }
}

/// The elements of an array, as the text of each; none for other values.
pub fn elements(text: &str) -> Elements<'_> {
    Elements(Cursor::open(text, b'['))
}

/// The members of an object: the key between its quotes, still escaped, and the text of the value;
/// none for other values.
pub fn members(text: &str) -> Members<'_> {
    Members(Cursor::open(text, b'{'))
}

struct Cursor<'a> {
    text: &'a str,
    i: usize,
}

impl<'a> Cursor<'a> {
    fn open(text: &'a str, bracket: u8) -> Self {
        let i = skip_space(text.as_bytes(), 0);
        let i = if text.as_bytes().get(i) == Some(&bracket) { i + 1 } else { text.len() };
        Self { text, i }
    }

    /// Steps to the next item of a comma-separated list.
    fn next_start(&mut self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut i = skip_space(bytes, self.i);
        if bytes.get(i) == Some(&b',') {
            i = skip_space(bytes, i + 1);
        }
        match bytes.get(i) {
            None | Some(b']' | b'}' | b':') => {
                self.i = bytes.len();
                None
            }
            Some(_) => Some(i),
        }
    }

    fn value_at(&mut self, start: usize) -> Option<&'a str> {
        let end = skip_value(self.text.as_bytes(), start);
        if end <= start {
            self.i = self.text.len();
            return None;
        }
        self.i = end;
        self.text.get(start..end)
    }
}

/// See [`elements`].
pub struct Elements<'a>(Cursor<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let start = self.0.next_start()?;
        self.0.value_at(start)
    }
}

/// See [`members`].
pub struct Members<'a>(Cursor<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.0.next_start()?;
        let bytes = self.0.text.as_bytes();
        let end = skip_string(bytes, start);
        let key = self.0.text.get(start + 1..end.checked_sub(1)?)?;
        let colon = skip_space(bytes, end);
        if bytes.get(colon) != Some(&b':') {
            self.0.i = bytes.len();
            return None;
        }
        Some((key, self.0.value_at(skip_space(bytes, colon + 1))?))
    }
}

/// The text of a string value without its quotes and escapes; `None` for other values.
pub fn string_of(value: &str) -> Option<Cow<'_, str>> {
    let value = value.trim_matches([' ', '\t', '\n', '\r']);
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    Some(unescape(inner))
}

/// Resolves the escapes of what stands between the quotes of a JSON string. A `\u` escape that is no
/// character becomes U+FFFD.
pub fn unescape(raw: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw.as_bytes()).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let (c, used) = escape_at(&rest[at..]).unwrap_or(('\u{fffd}', 1));
        out.push(c);
        rest = rest.get(at + used..).unwrap_or("");
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character of the escape that `text` starts with and the length of the escape (surrogate pairs
/// count as one); `None` where it is not valid.
pub fn escape_at(text: &str) -> Option<(char, usize)> {
    let bytes = text.as_bytes();
    let simple = match bytes.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = |at: usize| -> Option<u32> {
                let digits = text.get(at..at + 4)?;
                if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                u32::from_str_radix(digits, 16).ok()
            };
            let first = unit(2)?;
            if !(0xd800..0xdc00).contains(&first) {
                return Some((char::from_u32(first)?, 6));
            }
            if text.get(6..8)? != "\\u" {
                return None;
            }
            let second = unit(8)?;
            if !(0xdc00..0xe000).contains(&second) {
                return None;
            }
            let c = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Some((char::from_u32(c)?, 12));
        }
        _ => return None,
    };
    Some((simple, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_members_are_found_without_a_tree() {
        let found: Vec<&str> = elements(r#" [1, "a,]", [2,3] , {"x":[}]"#).collect();
        assert_eq!(&found[..3], ["1", r#""a,]""#, "[2,3]"]);
        let found: Vec<_> = members(r#"{"a":1, "b\"" : {"c":"}"}, "d":null}"#).collect();
        assert_eq!(found, [("a", "1"), (r#"b\""#, r#"{"c":"}"}"#), ("d", "null")]);
        assert_eq!(elements("{}").count() + members("[1]").count() + elements("[ ]").count(), 0);
    }

    #[test]
    fn text_that_is_no_json_ends() {
        for text in
            ["", "[", "[,", "[1", "{\"a", "{\"a\"", "{\"a\":", "{:1}", "[\"\\", "[[[", "]", "{1:2}", "[:"]
        {
            let _ = (elements(text).count(), members(text).count(), kind(text), string_of(text));
        }
    }

    #[test]
    fn escapes_become_characters() {
        for (raw, expected) in [
            ("plain", "plain"),
            (r#"a\n\t\"\\\/\b\f\r"#, "a\n\t\"\\/\u{8}\u{c}\r"),
            (r"\u00e9\u0041", "éA"),
            (r"\ud83d\ude00!", "😀!"),
            (r"\ud83d!", "\u{fffd}ud83d!"),
        ] {
            assert_eq!(unescape(raw), expected);
        }
    }
}

//! The content of a JSON string without its escapes.

use crate::parse::Reason;

/// Appends the content (without quotes, validated by the scanner) with its escapes resolved.
///
/// # Errors
/// Where a `\u` escape is half of a surrogate pair: such a string has no UTF-8 form.
pub(crate) fn unescape(content: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut rest = content;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let (plain, length) = match rest.get(at + 1) {
            Some(b'b') => (8, 2),
            Some(b'f') => (12, 2),
            Some(b'n') => (b'\n', 2),
            Some(b'r') => (b'\r', 2),
            Some(b't') => (b'\t', 2),
            Some(b'u') => {
                let (c, length) = code_point(&rest[at..])?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[at + length..];
                continue;
            }
            Some(other) => (*other, 2),
            None => return Err("unclosed string"),
        };
        out.push(plain);
        rest = &rest[at + length..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

fn unit(text: &[u8]) -> Option<u32> {
    match text {
        [b'\\', b'u', digits @ ..] => {
            let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
            u32::from_str_radix(digits, 16).ok()
        }
        _ => None,
    }
}

fn code_point(text: &[u8]) -> Result<(char, usize), Reason> {
    const LONE: Reason = "half of a surrogate pair in a \\u escape";
    let first = unit(text).ok_or("invalid \\u escape")?;
    if !(0xd800..0xe000).contains(&first) {
        return char::from_u32(first).map(|c| (c, 6)).ok_or(LONE);
    }
    let second = text.get(6..).and_then(unit).ok_or(LONE)?;
    if first >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
        return Err(LONE);
    }
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).map(|c| (c, 12)).ok_or(LONE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn escapes_resolve_and_lone_surrogates_do_not() {
        let text = |content: &str| {
            let mut out = Vec::new();
            unescape(content.as_bytes(), &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(text(r#"a\"\\\/\b\f\n\r\tz"#).unwrap(), "a\"\\/\u{8}\u{c}\n\r\tz");
        assert_eq!(text(r"\u00e9\u20AC\ud83d\ude00!").unwrap(), "é€😀!");
        for bad in [r"\ud83d", r"\ude00\ud83d", r"\ud83dx", r"\ud83d\n", r"\ud83d\u0041"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }
}

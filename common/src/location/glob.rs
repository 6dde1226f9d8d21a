//! The globs of HTTP URLs: `{a,b,c}` and `[1-3]`, expanded to explicit names.
//!
//! There is no listing over HTTP, so a glob is only a short way to write several names. The number of
//! names is limited and counted before any is made.

use std::collections::HashSet;

use crate::error::{Error, Result};

/// A piece of a pattern: the texts that may stand there.
type Piece = Vec<String>;

/// Whether a path holds a glob. A query is opaque.
pub(super) fn is_pattern(path: &str) -> bool {
    path.split('?').next().unwrap_or(path).contains(['{', '['])
}

/// All names of a pattern, each once, the rightmost glob varying fastest.
pub(super) fn expand(pattern: &str, limit: usize) -> Result<Vec<String>> {
    let (path, query) = match pattern.find('?') {
        Some(at) => pattern.split_at(at),
        None => (pattern, ""),
    };
    let pieces = pieces(path, limit)?;
    let count = pieces.iter().try_fold(1usize, |count, piece| count.checked_mul(piece.len()));
    if count.is_none_or(|count| count > limit) {
        return Err(Error::exhausted(format!("the globs stand for more than {limit} names")));
    }
    let mut names = vec![String::new()];
    for piece in pieces {
        names =
            names.iter().flat_map(|name| piece.iter().map(move |choice| format!("{name}{choice}"))).collect();
    }
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    for name in &mut names {
        name.push_str(query);
    }
    Ok(names)
}

fn pieces(path: &str, limit: usize) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = path;
    while let Some(open) = rest.find(['{', '[']) {
        if open > 0 {
            pieces.push(vec![rest[..open].to_owned()]);
        }
        let closing = if rest[open..].starts_with('{') { '}' } else { ']' };
        let body = &rest[open + 1..];
        let Some(close) = body.find(closing) else {
            return Err(Error::invalid(format!("a '{}' is not closed", &rest[open..=open])));
        };
        let (inside, after) = (&body[..close], &body[close + 1..]);
        if inside.contains(['{', '[']) {
            return Err(Error::not_supported("globs inside globs"));
        }
        pieces.push(if closing == '}' { choices(inside)? } else { range(inside, limit)? });
        rest = after;
    }
    if rest.contains(['}', ']']) {
        return Err(Error::invalid("a glob is closed that was never opened"));
    }
    pieces.push(vec![rest.to_owned()]);
    Ok(pieces)
}

fn choices(inside: &str) -> Result<Piece> {
    if inside.is_empty() {
        return Err(Error::invalid("'{}' names nothing").hint("write {a,b}"));
    }
    Ok(inside.split(',').map(str::to_owned).collect())
}

/// `1-3`, `01-12` (padded as the first bound is), `a-f`.
fn range(inside: &str, limit: usize) -> Result<Piece> {
    let wrong =
        || Error::invalid(format!("'[{inside}]' is not a range")).hint("write [1-3], [01-12] or [a-f]");
    let (from, to) = inside.split_once('-').ok_or_else(wrong)?;
    let is_number =
        |text: &str| !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    if is_number(from) && is_number(to) {
        let width = if from.starts_with('0') { from.len() } else { 0 };
        let from: u64 = from.parse().map_err(|_| wrong())?;
        let to: u64 = to.parse().map_err(|_| wrong())?;
        if from > to {
            return Err(wrong());
        }
        if to - from >= limit as u64 {
            return Err(Error::exhausted(format!("'[{inside}]' stands for more than {limit} names")));
        }
        return Ok((from..=to).map(|n| format!("{n:0width$}")).collect());
    }
    match (from.as_bytes(), to.as_bytes()) {
        ([a], [b]) if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() && a <= b => {
            Ok((*a..=*b).map(|c| char::from(c).to_string()).collect())
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn globs_expand_in_order() {
        for (pattern, names) in [
            ("x.csv", vec!["x.csv"]),
            ("d/x{6,7,8}.csv", vec!["d/x6.csv", "d/x7.csv", "d/x8.csv"]),
            ("{a,b}[1-2]", vec!["a1", "a2", "b1", "b2"]),
            ("[09-11]", vec!["09", "10", "11"]),
            ("[a-c]?q={x}", vec!["a?q={x}", "b?q={x}", "c?q={x}"]),
            ("x{,.gz}", vec!["x", "x.gz"]),
            ("{b,a,b}[1-2]", vec!["b1", "b2", "a1", "a2"]),
        ] {
            assert_eq!(expand(pattern, 100).unwrap(), names, "{pattern}");
        }
    }

    #[test]
    fn malformed_and_huge_globs_are_errors() {
        for pattern in ["{a", "[1-", "a}", "[1]", "[3-1]", "{}", "{a,[1-2]}", "[a-Z]", "[--]", "[1-2-3]"] {
            assert!(expand(pattern, 100).is_err(), "{pattern}");
        }
        for pattern in ["[1-101]", "[0-999999999999999999]", "[1-11][1-10]"] {
            assert!(expand(pattern, 100).unwrap_err().to_string().contains("more than 100"), "{pattern}");
        }
    }
}

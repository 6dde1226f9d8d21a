//! Paths as text: `a.b[0]`, `a:b`, `["a"]["b"]`, `$.a[0]`.

use arrow::array::StringArray;
use stevedore_common::{Error, Result};
use stevedore_decode::variant::PathStep;

use crate::query::functions::call::{Call, Column};

/// The paths of an argument; the last one is kept, since mostly there is but one.
pub(super) struct Paths<'a> {
    column: Column<'a, StringArray>,
    name: &'a str,
    text: Option<&'a str>,
    steps: Vec<PathStep>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(call: &'a Call<'_>, index: usize) -> Result<Self> {
        Ok(Self { column: call.text(index)?, name: call.name, text: None, steps: Vec::new() })
    }

    pub(super) fn at(&mut self, row: usize) -> Result<&[PathStep]> {
        let text = self.column.at(row);
        if self.text != Some(text) {
            self.steps = parse(self.name, text)?;
            self.text = Some(text);
        }
        Ok(&self.steps)
    }
}

fn parse(name: &str, text: &str) -> Result<Vec<PathStep>> {
    let wrong = || {
        Error::invalid(format!("{name}: '{text}' is no path"))
            .hint("a path looks like a.b[0], [\"a\"][\"b\"] or $.a[0]")
    };
    let trimmed = text.trim();
    let mut rest = trimmed.strip_prefix('$').unwrap_or(trimmed);
    let mut steps = Vec::new();
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("[*]") || rest.starts_with(".*") || rest.starts_with("..") || first == '?' {
            return Err(Error::not_supported_yet(format!("wildcards and filters in the path '{text}'")));
        }
        match first {
            '[' => {
                let (step, after) = bracket(rest).ok_or_else(wrong)?;
                steps.push(step);
                rest = after;
            }
            '.' | ':' if !steps.is_empty() || trimmed.starts_with('$') => {
                let (step, after) = member(&rest[1..]).ok_or_else(wrong)?;
                steps.push(step);
                rest = after;
            }
            _ if steps.is_empty() && rest.len() == trimmed.len() => {
                let (step, after) = member(rest).ok_or_else(wrong)?;
                steps.push(step);
                rest = after;
            }
            _ => return Err(wrong()),
        }
    }
    Ok(steps)
}

/// A name, in double quotes or not.
fn member(text: &str) -> Option<(PathStep, &str)> {
    if text.starts_with('"') {
        let (name, rest) = quoted(text)?;
        return Some((PathStep::Field(name), rest));
    }
    let end = text.find(['.', ':', '[']).unwrap_or(text.len());
    (end > 0).then(|| (PathStep::Field(text[..end].to_owned()), &text[end..]))
}

/// `[0]`, `["a"]`, `['a']`.
fn bracket(text: &str) -> Option<(PathStep, &str)> {
    let inner = text.strip_prefix('[')?;
    if inner.starts_with(['"', '\'']) {
        let (name, rest) = quoted(inner)?;
        return Some((PathStep::Field(name), rest.strip_prefix(']')?));
    }
    let (digits, rest) = inner.split_once(']')?;
    Some((PathStep::Index(digits.trim().parse().ok()?), rest))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next()?;
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            c if c == quote => return Some((name, &text[at + 1..])),
            c => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn paths_are_read_in_every_spelling() {
        let field = |name: &str| PathStep::Field(name.to_owned());
        for (text, expected) in [
            ("a", vec![field("a")]),
            ("a.b[0]", vec![field("a"), field("b"), PathStep::Index(0)]),
            ("a:b", vec![field("a"), field("b")]),
            ("[\"a\"]['b c'][12]", vec![field("a"), field("b c"), PathStep::Index(12)]),
            ("$.a.\"x.y\"", vec![field("a"), field("x.y")]),
            ("$[1]", vec![PathStep::Index(1)]),
            ("$", vec![]),
        ] {
            assert_eq!(parse("get_path", text).unwrap(), expected, "{text}");
        }
        for text in ["a..b", "[", "[x]", "a[1", ".a", "[\"a]", "$.", "[*]", "a.*"] {
            assert!(parse("get_path", text).is_err(), "{text}");
        }
    }
}

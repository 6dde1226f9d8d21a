//! Functions of text. Positions and lengths count characters, from 1.

use std::fmt::Write as _;

use arrow::array::{ArrayRef, ListBuilder, StringBuilder};
use arrow::datatypes::Float64Type;
use glob::Pattern;
use regex::{Regex, RegexBuilder};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::call::Call;
use super::definition::{Definition, Inputs, Kind};

/// The longest text that `space` makes.
const MAX_SPACE: i64 = 1_000_000;

pub(super) fn definitions() -> Vec<Definition> {
    use Kind::{Float, Int, Text};
    let text = |_: &Inputs<'_>| Ok(SqlType::String);
    let number = |_: &Inputs<'_>| Ok(SqlType::UInt64);
    vec![
        Definition::new("concat", &[Text], text, concat).repeats(),
        Definition::new("split", &[Text, Text], |_| Ok(SqlType::Array(Box::new(SqlType::String))), split),
        Definition::new("locate", &[Text, Text, Int], number, locate).optional(1),
        Definition::new(
            "strcmp",
            &[Text, Text],
            |_| Ok(SqlType::Int8),
            |call| {
                let (a, b) = (call.text(0)?, call.text(1)?);
                call.integers(|row| Ok(Some(a.at(row).cmp(b.at(row)) as i64)))
            },
        ),
        // As MySQL: the bytes of the first character as one number.
        Definition::new("ord", &[Text], number, |call| {
            let source = call.text(0)?;
            call.integers(|row| {
                let text = source.at(row);
                let first = text.chars().next().map_or(0, char::len_utf8);
                Ok(Some(text.bytes().take(first).fold(0, |value, byte| value << 8 | i64::from(byte))))
            })
        }),
        Definition::new("unicode", &[Text], number, |call| {
            let source = call.text(0)?;
            call.integers(|row| Ok(Some(source.at(row).chars().next().map_or(0, |c| u32::from(c).into()))))
        }),
        Definition::new("bin", &[Int], text, |call| {
            let source = call.int(0)?;
            call.texts(|row, out| Ok(write!(out, "{:b}", source.at(row)).is_ok()))
        }),
        Definition::new("oct", &[Int], text, |call| {
            let source = call.int(0)?;
            call.texts(|row, out| Ok(write!(out, "{:o}", source.at(row)).is_ok()))
        }),
        Definition::new("soundex", &[Text], text, |call| {
            let source = call.text(0)?;
            call.texts(|row, out| {
                soundex(source.at(row), out);
                Ok(true)
            })
        }),
        Definition::new("insert", &[Text, Int, Int, Text], text, insert),
        Definition::new("quote", &[Text], text, |call| {
            let source = call.text(0)?;
            call.texts(|row, out| {
                source.at(row).chars().for_each(|c| quote(c, out));
                Ok(true)
            })
        }),
        Definition::new("space", &[Int], text, |call| {
            let source = call.int(0)?;
            call.texts(|row, out| match source.at(row) {
                count @ 0..=MAX_SPACE => {
                    out.extend(std::iter::repeat_n(' ', count as usize));
                    Ok(true)
                }
                count => Err(call.wrong(count, format_args!("the length is not in 0 to {MAX_SPACE}"))),
            })
        }),
        Definition::new("char", &[Int], text, |call| {
            let codes = (0..call.count()).map(|index| call.int(index)).collect::<Result<Vec<_>>>()?;
            call.texts(|row, out| {
                for code in &codes {
                    let code = code.at(row);
                    let c = u32::try_from(code).ok().and_then(char::from_u32);
                    out.push(c.ok_or_else(|| call.wrong(code, "no character has this code"))?);
                }
                Ok(true)
            })
        })
        .repeats(),
        Definition::new("regexp_substr", &[Text, Text, Int, Int, Text], text, regexp_substr).optional(3),
        Definition::new("humanize_size", &[Float], text, |call| {
            humanize(call, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
        }),
        Definition::new("humanize_number", &[Float], text, |call| {
            humanize(call, 1000.0, &["", "thousand", "million", "billion", "trillion", "quadrillion"])
        }),
        Definition::new("substr", &[Text, Int, Int], text, substr).or(&["substring", "mid"]).optional(1),
        Definition::new(
            "jaro_winkler",
            &[Text, Text],
            |_| Ok(SqlType::Float64),
            |call| {
                let (a, b) = (call.text(0)?, call.text(1)?);
                call.values::<Float64Type>(|row| Ok(Some(strsim::jaro_winkler(a.at(row), b.at(row)))))
            },
        ),
        Definition::new(
            "glob",
            &[Text, Text],
            |_| Ok(SqlType::Boolean),
            |call| {
                let (source, patterns) = (call.text(0)?, call.text(1)?);
                let mut known: Option<(String, Pattern)> = None;
                call.booleans(|row| {
                    let (value, text) = (source.at(row), patterns.at(row));
                    let compile = |text: &str| {
                        Pattern::new(text)
                            .map_err(|e| call.wrong(text, format_args!("no pattern: {}", e.msg)))
                    };
                    Ok(Some(cached(&mut known, text, compile)?.matches(value)))
                })
            },
        ),
    ]
}

/// What was made of a text, made once while the text stays the same.
fn cached<'k, T>(
    known: &'k mut Option<(String, T)>,
    text: &str,
    make: impl FnOnce(&str) -> Result<T>,
) -> Result<&'k T> {
    let stale = known.as_ref().is_none_or(|(last, _)| last != text);
    if stale {
        *known = Some((text.to_owned(), make(text)?));
    }
    known.as_ref().map(|(_, made)| made).ok_or_else(|| Error::internal("what was made has gone"))
}

fn concat(call: &Call<'_>) -> Result<ArrayRef> {
    let parts = (0..call.count()).map(|index| call.text(index)).collect::<Result<Vec<_>>>()?;
    call.texts(|row, out| {
        parts.iter().for_each(|part| out.push_str(part.at(row)));
        Ok(true)
    })
}

fn split(call: &Call<'_>) -> Result<ArrayRef> {
    let (source, separators) = (call.text(0)?, call.text(1)?);
    let element = SqlType::String.to_field("element", true);
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(element);
    for row in 0..call.rows() {
        let (Some(text), Some(separator)) = (source.get(row), separators.get(row)) else {
            builder.append_null();
            continue;
        };
        if separator.is_empty() {
            builder.values().append_value(text);
        } else {
            text.split(separator).for_each(|part| builder.values().append_value(part));
        }
        builder.append(true);
    }
    Ok(std::sync::Arc::new(builder.finish()))
}

/// The byte at which the n-th character begins (from 1); the end for one that is not there.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character.saturating_sub(1)).map_or(text.len(), |(at, _)| at)
}

fn locate(call: &Call<'_>) -> Result<ArrayRef> {
    let (wanted, source, from) = (call.text(0)?, call.text(1)?, call.optional_int(2)?);
    call.integers(|row| {
        let (wanted, text) = (wanted.at(row), source.at(row));
        let from = from.as_ref().map_or(1, |from| from.at(row));
        let Some(skipped) = usize::try_from(from).ok().filter(|from| *from > 0) else { return Ok(Some(0)) };
        if skipped > text.chars().count() + 1 {
            return Ok(Some(0));
        }
        let start = byte_of(text, skipped);
        let found = text[start..].find(wanted);
        Ok(Some(found.map_or(0, |at| from + text[start..start + at].chars().count() as i64)))
    })
}

fn insert(call: &Call<'_>) -> Result<ArrayRef> {
    let (source, positions, lengths, new) = (call.text(0)?, call.int(1)?, call.int(2)?, call.text(3)?);
    call.texts(|row, out| {
        let text = source.at(row);
        let count = text.chars().count();
        match usize::try_from(positions.at(row)) {
            Ok(position) if (1..=count).contains(&position) => {
                let start = byte_of(text, position);
                // A length that is negative, or too long, reaches the end.
                let length = usize::try_from(lengths.at(row)).unwrap_or(usize::MAX);
                let end = byte_of(text, position.saturating_add(length));
                out.push_str(&text[..start]);
                out.push_str(new.at(row));
                out.push_str(&text[end..]);
            }
            _ => out.push_str(text),
        }
        Ok(true)
    })
}

/// A position that is negative counts from the end; 0 is none.
fn substr(call: &Call<'_>) -> Result<ArrayRef> {
    let (source, positions, lengths) = (call.text(0)?, call.int(1)?, call.optional_int(2)?);
    call.texts(|row, out| {
        let text = source.at(row);
        let start = match positions.at(row) {
            0 => return Ok(true),
            position @ 1.. => byte_of(text, usize::try_from(position).unwrap_or(usize::MAX)),
            position => {
                let back = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
                match text.char_indices().rev().nth(back - 1) {
                    Some((at, _)) => at,
                    None => return Ok(true),
                }
            }
        };
        let rest = &text[start..];
        let end = match lengths.as_ref().map(|lengths| lengths.at(row)) {
            None => rest.len(),
            Some(length) if length <= 0 => 0,
            Some(length) => byte_of(rest, usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1)),
        };
        out.push_str(&rest[..end]);
        Ok(true)
    })
}

fn quote(c: char, out: &mut String) {
    let escaped = match c {
        '\0' => '0',
        '\u{8}' => 'b',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        '\\' | '\'' | '"' => c,
        _ => return out.push(c),
    };
    out.push('\\');
    out.push(escaped);
}

/// As MySQL: as long as the text asks for, and of four characters at least.
fn soundex(text: &str, out: &mut String) {
    let code = |c: char| match c.to_ascii_uppercase() {
        'B' | 'F' | 'P' | 'V' => Some('1'),
        'C' | 'G' | 'J' | 'K' | 'Q' | 'S' | 'X' | 'Z' => Some('2'),
        'D' | 'T' => Some('3'),
        'L' => Some('4'),
        'M' | 'N' => Some('5'),
        'R' => Some('6'),
        _ => None,
    };
    let mut last = None;
    let mut length = 0;
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        if length == 0 {
            out.extend(c.to_uppercase());
            length = 1;
            last = code(c);
            continue;
        }
        let digit = code(c);
        if let Some(digit) = digit
            && last != Some(digit)
        {
            out.push(digit);
            length += 1;
        }
        // H and W do not part equal codes, vowels do not either in this dialect.
        if digit.is_some() {
            last = digit;
        }
    }
    if length > 0 {
        out.extend(std::iter::repeat_n('0', 4usize.saturating_sub(length)));
    }
}

fn regexp_substr(call: &Call<'_>) -> Result<ArrayRef> {
    let (source, patterns) = (call.text(0)?, call.text(1)?);
    let (from, occurrence, flags) = (call.optional_int(2)?, call.optional_int(3)?, call.optional_text(4)?);
    let flags = flags.map(|flags| flags.at(0)).unwrap_or_default();
    let mut known: Option<(String, Regex)> = None;
    call.texts(|row, out| {
        let (text, pattern) = (source.at(row), patterns.at(row));
        let count = |column: &Option<_>, what: &str| {
            let column: &Option<super::call::Column<'_, arrow::array::Int64Array>> = column;
            let value = column.as_ref().map_or(1, |column| column.at(row));
            usize::try_from(value)
                .ok()
                .filter(|value| *value > 0)
                .ok_or_else(|| call.wrong(text, format_args!("the {what} {value} is not positive")))
        };
        let start = byte_of(text, count(&from, "position")?);
        let regex = cached(&mut known, pattern, |pattern| compile(call, pattern, flags))?;
        match regex.find_iter(&text[start..]).nth(count(&occurrence, "occurrence")? - 1) {
            Some(found) => {
                out.push_str(found.as_str());
                Ok(true)
            }
            None => Ok(false),
        }
    })
}

/// Flags as MySQL: c and i for case, m for lines, n for a dot that is any character.
fn compile(call: &Call<'_>, pattern: &str, flags: &str) -> Result<Regex> {
    let mut builder = RegexBuilder::new(pattern);
    for flag in flags.chars() {
        match flag {
            'c' => builder.case_insensitive(false),
            'i' => builder.case_insensitive(true),
            'm' => builder.multi_line(true),
            'n' => builder.dot_matches_new_line(true),
            'u' => &mut builder,
            other => {
                return Err(Error::invalid(format!("'{other}' is no match type of {}", call.name))
                    .hint("match types are c, i, m, n, u"));
            }
        };
    }
    builder.build().map_err(|_| call.wrong(pattern, "no regular expression"))
}

/// `976.56 KiB`: two places at most.
fn humanize(call: &Call<'_>, step: f64, units: &[&str]) -> Result<ArrayRef> {
    let source = call.float(0)?;
    call.texts(|row, out| {
        let value = source.at(row);
        let mut scaled = value.abs();
        let mut unit = 0;
        while scaled >= step && unit + 1 < units.len() {
            scaled /= step;
            unit += 1;
        }
        let rounded = (scaled * 100.0).round() / 100.0;
        let sign = if value < 0.0 { "-" } else { "" };
        let space = if units[unit].is_empty() { "" } else { " " };
        Ok(write!(out, "{sign}{rounded}{space}{}", units[unit]).is_ok())
    })
}

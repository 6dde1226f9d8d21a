//! What may stand between the name of a relation and its alias: `AT (…)` of a table, `WITH …` of a stream.

use stevedore_common::{Error, Result};

use super::render_constant;
use crate::ast::{StreamOptions, TimeTravel};
use crate::lexer::{Tok, Token};

/// A suffix, where it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Where the last token before it stands: line, column.
    pub(super) after: (u64, u64),
    /// Where it stands itself.
    pub(super) place: (u32, u32),
    pub(super) suffix: Suffix,
}

/// A suffix.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Suffix {
    At(TimeTravel),
    With(StreamOptions),
}

impl Suffix {
    /// As messages call it.
    pub(super) fn shown(&self) -> &'static str {
        match self {
            Self::At(_) => "AT (…)",
            Self::With(_) => "WITH …",
        }
    }
}

fn fail<T>(error: Error, at: Option<&Token>) -> Result<T> {
    Err(match at {
        Some(token) => error.at(token.line, token.column),
        None => error,
    })
}

fn word_of(token: Option<&Token>) -> Option<String> {
    match token.map(|token| &token.tok) {
        Some(Tok::Word(word) | Tok::Quoted(word)) => Some(word.to_ascii_uppercase()),
        _ => None,
    }
}

/// The tokens up to the parenthesis that closes; `tokens` begins behind the one that opens.
pub(crate) fn inside<'a>(tokens: &'a [Token], what: &str, opened: Option<&Token>) -> Result<&'a [Token]> {
    let mut depth = 0usize;
    let end = tokens.iter().position(|token| {
        depth += usize::from(token.is_sym("("));
        if token.is_sym(")") && depth == 0 {
            return true;
        }
        depth -= usize::from(token.is_sym(")"));
        false
    });
    match end.and_then(|end| tokens.get(..end)) {
        Some(inside) => Ok(inside),
        None => fail(Error::invalid(format!("{what} is not closed: ')' is missing")), opened),
    }
}

/// What `key => value` inside of `AT (…)` says.
pub(crate) fn time_travel(text: &str, key: Option<&Token>, value: &[Token]) -> Result<TimeTravel> {
    const EXAMPLES: &str = "write AT (SNAPSHOT => '<id>') or AT (TIMESTAMP => '<time>'::TIMESTAMP)";
    let name = word_of(key).unwrap_or_default();
    match name.as_str() {
        "SNAPSHOT" => match value {
            [Token { tok: Tok::Str(id) | Tok::Number(id), .. }] => Ok(TimeTravel::Snapshot(id.clone())),
            _ => {
                let error = Error::invalid("AT (SNAPSHOT => …) takes the id of a snapshot as a string");
                let hint = "SELECT * FROM system.snapshots('<table>') lists them";
                fail(error.hint(hint), value.first().or(key))
            }
        },
        "TIMESTAMP" if value.is_empty() => {
            fail(Error::invalid("AT (TIMESTAMP => …) names no time").hint(EXAMPLES), key)
        }
        "TIMESTAMP" => Ok(TimeTravel::Timestamp(render_constant(text, value, "AT (TIMESTAMP => …)")?)),
        "STREAM" | "OFFSET" | "TAG" | "BRANCH" | "STATEMENT" => {
            fail(Error::not_supported(format!("AT ({name} => …)")).hint(EXAMPLES), key)
        }
        _ => fail(Error::invalid(format!("AT has no argument {name}")).hint(EXAMPLES), key),
    }
}

/// Whether `WITH`, which stands before these tokens, says how a stream is read.
pub(super) fn reads_stream(after_with: &[Token]) -> bool {
    match after_with {
        [first, ..] if first.is_word("CONSUME") => true,
        [open, key, equals, ..] => {
            open.is_sym("(")
                && (key.is_word("CONSUME") || key.is_word("MAX_BATCH_SIZE"))
                && equals.is_sym("=")
        }
        _ => false,
    }
}

/// What `WITH …` behind a stream says, and of how many tokens behind WITH it is made.
pub(super) fn stream_options(after_with: &[Token]) -> Result<(StreamOptions, usize)> {
    if after_with.first().is_some_and(|token| token.is_word("CONSUME")) {
        return Ok((StreamOptions { consume: true, max_batch_size: None }, 1));
    }
    let inside = inside(after_with.get(1..).unwrap_or(&[]), "WITH (…)", after_with.first())?;
    let (mut consume, mut max_batch_size) = (None, None);
    for option in inside.split(|token| token.is_sym(",")) {
        let [key, equals, value] = option else {
            let error = Error::invalid("WITH (…) takes CONSUME = TRUE | FALSE and MAX_BATCH_SIZE = <rows>");
            return fail(error, option.first().or(after_with.first()));
        };
        if !equals.is_sym("=") {
            return fail(Error::invalid("expected '=' between an option and its value"), Some(equals));
        }
        let twice = match word_of(Some(key)).unwrap_or_default().as_str() {
            "CONSUME" => {
                let on = match word_of(Some(value)).as_deref() {
                    Some("TRUE") => true,
                    Some("FALSE") => false,
                    _ => return fail(Error::invalid("CONSUME is TRUE or FALSE"), Some(value)),
                };
                consume.replace(on).is_some()
            }
            "MAX_BATCH_SIZE" => {
                let rows = match &value.tok {
                    Tok::Number(rows) => rows.parse().ok().filter(|rows| *rows > 0),
                    _ => None,
                };
                let Some(rows) = rows else {
                    let error = Error::invalid("MAX_BATCH_SIZE is a number of rows, at least 1");
                    return fail(error, Some(value));
                };
                max_batch_size.replace(rows).is_some()
            }
            other => {
                let error = Error::invalid(format!("a stream is not read with {other}"));
                return fail(error.hint("known are CONSUME and MAX_BATCH_SIZE"), Some(key));
            }
        };
        if twice {
            return fail(Error::invalid("an option of WITH (…) is given twice"), Some(key));
        }
    }
    Ok((StreamOptions { consume: consume.unwrap_or(false), max_batch_size }, inside.len() + 2))
}

//! The fields of one CSV or TSV column: NULLs, empty fields, quotes and escapes resolved.
//!
//! Most fields are a slice of the block; only those with quotes or escapes inside are rewritten.

use stevedore_common::file_format::{EmptyFieldAs, FileFormat};

use super::dialect::Dialect;
use super::tokens::{MISSING, Tokens};
use crate::parse::columns::{Cell, Cells};

/// What fields mean, from the options of the format.
#[derive(Debug, Clone)]
pub(crate) struct FieldRules {
    null_display: Vec<u8>,
    allow_quoted_nulls: bool,
    empty: EmptyFieldAs,
    quoted_empty: EmptyFieldAs,
}

impl FieldRules {
    /// The rules of a format.
    pub(crate) fn new(format: &FileFormat) -> Self {
        Self {
            null_display: format.null_display.as_bytes().to_vec(),
            allow_quoted_nulls: format.allow_quoted_nulls,
            empty: format.empty_field_as,
            quoted_empty: format.quoted_empty_field_as,
        }
    }
}

/// One column of a run of records.
pub(crate) struct CsvCells<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) tokens: &'a Tokens,
    pub(crate) dialect: &'a Dialect,
    pub(crate) rules: &'a FieldRules,
    pub(crate) position: usize,
    /// Whether '' is a value of the type.
    pub(crate) is_string: bool,
}

impl CsvCells<'_> {
    #[inline(always)]
    fn empty(&self, meaning: EmptyFieldAs) -> Cell<'static> {
        match meaning {
            EmptyFieldAs::String if self.is_string => Cell::Text(b""),
            EmptyFieldAs::FieldDefault => Cell::Default,
            EmptyFieldAs::String | EmptyFieldAs::Null => Cell::Null,
        }
    }

    #[inline(always)]
    fn is_null(&self, text: &[u8]) -> bool {
        text.len() == self.rules.null_display.len() && text == self.rules.null_display
    }

    #[inline]
    fn quoted<'s>(&'s self, field: &'s [u8], quote: u8, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        let mut content = match field {
            [_, content @ .., last] if *last == quote && self.is_plain(content, quote) => content,
            _ => {
                scratch.clear();
                self.unquote(&field[1..], quote, scratch);
                scratch
            }
        };
        if self.dialect.trim {
            content = content.trim_ascii();
        }
        if self.rules.allow_quoted_nulls && self.is_null(content) {
            Cell::Null
        } else if content.is_empty() {
            self.empty(self.rules.quoted_empty)
        } else {
            Cell::Text(content)
        }
    }

    #[inline(always)]
    fn is_plain(&self, content: &[u8], quote: u8) -> bool {
        match self.dialect.escape {
            Some(escape) => memchr::memchr2(quote, escape, content).is_none(),
            None => memchr::memchr(quote, content).is_none(),
        }
    }

    /// Resolves doubled quotes and escapes up to the closing quote; what follows it stays as it is.
    fn unquote(&self, mut rest: &[u8], quote: u8, out: &mut Vec<u8>) {
        loop {
            let found = match self.dialect.escape {
                Some(escape) => memchr::memchr2(quote, escape, rest),
                None => memchr::memchr(quote, rest),
            };
            let Some(at) = found else {
                out.extend_from_slice(rest);
                return;
            };
            out.extend_from_slice(&rest[..at]);
            match rest.get(at + 1) {
                Some(next) if rest[at] != quote || *next == quote => {
                    out.push(*next);
                    rest = &rest[at + 2..];
                }
                _ => {
                    out.extend_from_slice(&rest[at + 1..]);
                    return;
                }
            }
        }
    }

    /// Resolves the escapes of TSV; a backslash before anything else stays.
    #[cold]
    fn unescape<'s>(&self, mut rest: &[u8], scratch: &'s mut Vec<u8>) -> &'s [u8] {
        scratch.clear();
        while let Some(at) = memchr::memchr(b'\\', rest) {
            scratch.extend_from_slice(&rest[..at]);
            let Some(next) = rest.get(at + 1) else {
                rest = &rest[at..];
                break;
            };
            match next {
                b'b' => scratch.push(8),
                b'f' => scratch.push(12),
                b'r' => scratch.push(b'\r'),
                b'n' => scratch.push(b'\n'),
                b't' => scratch.push(b'\t'),
                b'0' => scratch.push(0),
                b'\\' | b'\'' => scratch.push(*next),
                _ if *next == self.dialect.delimiter[0] || *next == self.dialect.record_end => {
                    scratch.push(*next);
                }
                _ => scratch.extend_from_slice(&[b'\\', *next]),
            }
            rest = &rest[at + 2..];
        }
        scratch.extend_from_slice(rest);
        scratch
    }
}

impl Cells for CsvCells<'_> {
    const JSON_IS_VALID: bool = false;

    #[inline(always)]
    fn rows(&self) -> usize {
        self.tokens.rows()
    }

    #[inline(always)]
    fn text<'s>(&'s self, row: usize, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        let (start, end) = self.tokens.field(row, self.position, self.dialect.delimiter.len());
        if end == MISSING {
            // A record may be shorter than the table where the options allow it.
            return Cell::Default;
        }
        let mut field = &self.bytes[start..end as usize];
        if self.dialect.trim {
            field = field.trim_ascii();
        }
        if let Some(quote) = self.dialect.quote
            && field.first() == Some(&quote)
        {
            return self.quoted(field, quote, scratch);
        }
        if self.is_null(field) {
            Cell::Null
        } else if field.is_empty() {
            self.empty(self.rules.empty)
        } else if self.dialect.backslash && self.tokens.some_escapes && field.contains(&b'\\') {
            Cell::Text(self.unescape(field, scratch))
        } else {
            Cell::Text(field)
        }
    }

    #[inline(always)]
    fn json<'s>(&'s self, row: usize, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        self.text(row, scratch)
    }
}

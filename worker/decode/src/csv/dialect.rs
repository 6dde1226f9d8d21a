//! What the bytes of a CSV or TSV file mean, and the exact walk over one record.
//!
//! The rules, in one place:
//! - A record ends at the record delimiter outside of quotes. `\n` also takes a `\r` before it.
//! - A quote opens a quoted field only where a field begins (after white space too, under TRIM_SPACE);
//!   elsewhere it is a character like others. Inside, two quotes are one, and ESCAPE makes the next byte
//!   literal. After the closing quote, bytes up to the delimiter belong to the field as they are.
//! - TSV has no quotes; a backslash makes the next byte part of the field.
//! - CSV lines that are empty are no records; in TSV an empty line is a record of one empty field.
//! - A physical line ends at each last byte of the record delimiter, wherever it stands.

use memchr::{memchr, memchr2, memchr3};
use stevedore_common::file_format::{FileFormat, FormatKind};

/// What a record delimiter has before its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarriageReturn {
    /// Nothing: the delimiter is one byte.
    None,
    /// Perhaps a `\r` (`\n`).
    Optional,
    /// A `\r` (`\r\n`); without it the byte is data.
    Required,
}

/// The bytes with a meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: Vec<u8>,
    pub(crate) record_end: u8,
    pub(crate) carriage_return: CarriageReturn,
    /// CSV.
    pub(crate) quote: Option<u8>,
    /// CSV, inside quotes.
    pub(crate) escape: Option<u8>,
    /// TSV.
    pub(crate) backslash: bool,
    pub(crate) trim: bool,
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At a record delimiter.
    Delimiter,
    /// At the end of the bytes.
    Bytes,
    /// At the end of the bytes, inside quotes; the field began at this offset.
    Quoted(usize),
}

/// One record that was walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where the next record begins.
    pub(crate) next: usize,
    pub(crate) ending: Ending,
    /// Line ends within the record, the one that ends it not counted.
    pub(crate) inner_lines: u64,
}

impl Dialect {
    /// The meaning that a format gives.
    pub(crate) fn new(format: &FileFormat) -> Self {
        let csv = format.kind == FormatKind::Csv;
        let record = format.record_delimiter.as_bytes();
        // The format was validated: one byte or `\r\n`.
        let record_end = record.last().copied().unwrap_or(b'\n');
        let ascii = |c: char| u8::try_from(c).ok().filter(u8::is_ascii);
        Self {
            delimiter: format.field_delimiter.as_bytes().to_vec(),
            record_end,
            carriage_return: match record {
                b"\r\n" => CarriageReturn::Required,
                b"\n" => CarriageReturn::Optional,
                _ => CarriageReturn::None,
            },
            quote: ascii(format.quote).filter(|_| csv),
            escape: format.escape.and_then(ascii).filter(|_| csv),
            backslash: !csv,
            trim: format.trim_space,
        }
    }

    /// NDJSON for the block cutter: a record is a line.
    pub(crate) fn lines() -> Self {
        Self {
            delimiter: b"\n".to_vec(),
            record_end: b'\n',
            carriage_return: CarriageReturn::Optional,
            quote: None,
            escape: None,
            backslash: false,
            trim: false,
        }
    }

    /// White space that TRIM_SPACE takes off, where it is not a delimiter.
    fn is_space_at(&self, bytes: &[u8], at: usize) -> bool {
        bytes[at].is_ascii_whitespace()
            && bytes[at] != self.record_end
            && !bytes[at..].starts_with(&self.delimiter)
    }

    /// The end of a field that ends the record at a record delimiter's last byte.
    #[inline(always)]
    pub(crate) fn field_end(&self, bytes: &[u8], field_start: usize, record_end: usize) -> usize {
        match self.carriage_return {
            CarriageReturn::None => record_end,
            CarriageReturn::Required => record_end - 1,
            CarriageReturn::Optional => {
                record_end - usize::from(record_end > field_start && bytes[record_end - 1] == b'\r')
            }
        }
    }

    /// How many line ends the bytes hold.
    pub(crate) fn count_lines(&self, bytes: &[u8]) -> u64 {
        memchr::memchr_iter(self.record_end, bytes).count() as u64
    }

    /// Walks the record that begins at `start` and calls `field` with the end of each field. The next
    /// field begins a delimiter's length later.
    pub(crate) fn walk(&self, bytes: &[u8], start: usize, mut field: impl FnMut(usize)) -> Record {
        let mut inner_lines = 0;
        let mut field_start = start;
        let delimiter = self.delimiter[0];
        loop {
            let mut from = field_start;
            if let Some(quote) = self.quote {
                let mut open = field_start;
                while self.trim && open < bytes.len() && self.is_space_at(bytes, open) {
                    open += 1;
                }
                if bytes.get(open) == Some(&quote) {
                    let Some(close) = self.closing_quote(bytes, open + 1, quote) else {
                        field(bytes.len());
                        inner_lines += self.count_lines(&bytes[open..]);
                        return Record { next: bytes.len(), ending: Ending::Quoted(open), inner_lines };
                    };
                    inner_lines += self.count_lines(&bytes[open..close]);
                    from = close;
                }
            }
            loop {
                let rest = &bytes[from..];
                let found = if self.backslash {
                    memchr3(delimiter, self.record_end, b'\\', rest)
                } else {
                    memchr2(delimiter, self.record_end, rest)
                };
                let Some(at) = found.map(|at| from + at) else {
                    field(bytes.len());
                    return Record { next: bytes.len(), ending: Ending::Bytes, inner_lines };
                };
                if bytes[at] == self.record_end {
                    if self.carriage_return == CarriageReturn::Required
                        && (at == field_start || bytes[at - 1] != b'\r')
                    {
                        inner_lines += 1;
                        from = at + 1;
                        continue;
                    }
                    field(self.field_end(bytes, field_start, at));
                    return Record { next: at + 1, ending: Ending::Delimiter, inner_lines };
                }
                if self.backslash && bytes[at] == b'\\' {
                    inner_lines += u64::from(bytes.get(at + 1) == Some(&self.record_end));
                    from = (at + 2).min(bytes.len());
                } else if bytes[at..].starts_with(&self.delimiter) {
                    field(at);
                    field_start = at + self.delimiter.len();
                    break;
                } else {
                    from = at + 1;
                }
            }
        }
    }

    /// The offset after the closing quote of a field whose content begins at `at`.
    fn closing_quote(&self, bytes: &[u8], mut at: usize, quote: u8) -> Option<usize> {
        loop {
            let rest = bytes.get(at..)?;
            let found = match self.escape {
                Some(escape) => memchr2(quote, escape, rest),
                None => memchr(quote, rest),
            };
            at += found?;
            if bytes[at] == quote && bytes.get(at + 1) != Some(&quote) {
                return Some(at + 1);
            }
            // A doubled quote, or an escape and what it escapes.
            at += 2;
        }
    }
}

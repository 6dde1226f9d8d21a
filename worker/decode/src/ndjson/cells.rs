//! The values of one field over a run of records.

use super::records::{Records, Span};
use super::whole_row::write_sorted;
use crate::json::unescape::unescape;
use crate::parse::columns::{Cell, Cells};

/// One column of a run of records.
pub(crate) struct JsonCells<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) records: &'a Records<'a>,
    /// `None`: the whole row.
    pub(crate) slot: Option<usize>,
    pub(crate) null_if: &'a [String],
    pub(crate) missing_is_default: bool,
    pub(crate) null_is_default: bool,
}

impl JsonCells<'_> {
    #[inline(always)]
    fn missing(&self) -> Cell<'static> {
        if self.missing_is_default { Cell::Default } else { Cell::Null }
    }

    #[inline(always)]
    fn null(&self) -> Cell<'static> {
        if self.null_is_default { Cell::Default } else { Cell::Null }
    }

    fn is_null(&self, text: &[u8]) -> bool {
        self.null_if.iter().any(|null| null.as_bytes() == text)
    }

    fn whole_row<'s>(&'s self, row: usize, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        let Some(span) = self.records.record(row) else { return Cell::Null };
        let record = self.bytes[span.start..span.end].trim_ascii();
        scratch.clear();
        match write_sorted(record, scratch) {
            Ok(()) => Cell::Text(scratch),
            Err(reason) => Cell::Bad(record, reason),
        }
    }

    #[inline(always)]
    fn content<'s>(&'s self, span: Span, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        let content = &self.bytes[span.start + 1..span.end - 1];
        if !span.escapes {
            return Cell::Text(content);
        }
        scratch.clear();
        match unescape(content, scratch) {
            Ok(()) => Cell::Text(scratch),
            Err(reason) => Cell::Bad(content, reason),
        }
    }
}

impl Cells for JsonCells<'_> {
    const JSON_IS_VALID: bool = true;

    #[inline(always)]
    fn rows(&self) -> usize {
        self.records.rows()
    }

    #[inline(always)]
    fn text<'s>(&'s self, row: usize, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        let Some(slot) = self.slot else { return self.whole_row(row, scratch) };
        let Some(span) = self.records.value(row, slot) else { return self.missing() };
        match self.bytes[span.start] {
            b'"' => match self.content(span, scratch) {
                Cell::Text(text) if !self.null_if.is_empty() && self.is_null(text) => Cell::Null,
                cell => cell,
            },
            b'n' => self.null(),
            _ => Cell::Text(&self.bytes[span.start..span.end]),
        }
    }

    #[inline(always)]
    fn json<'s>(&'s self, row: usize, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        let Some(slot) = self.slot else { return self.whole_row(row, scratch) };
        let Some(span) = self.records.value(row, slot) else { return self.missing() };
        match self.bytes[span.start] {
            b'n' => return self.null(),
            b'"' if !self.null_if.is_empty() => {
                if let Cell::Text(text) = self.content(span, scratch)
                    && self.is_null(text)
                {
                    return Cell::Null;
                }
            }
            _ => {}
        }
        Cell::Text(&self.bytes[span.start..span.end])
    }
}

//! The values of one field over a run of records.

use stevedore_common::types::SqlType;

use super::records::{Records, Span};
use super::whole_row::{write_record, write_sorted};
use crate::json::unescape::unescape;
use crate::parse::Reason;
use crate::parse::columns::{Cell, Cells};

/// What a sample of the records showed a field to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampled {
    WholeNumbers,
    Numbers,
    Booleans,
}

impl Sampled {
    /// What a type says that a sample gave; `None`: any value goes with it.
    pub(crate) fn of_type(ty: &SqlType) -> Option<Self> {
        match ty {
            SqlType::Int64 | SqlType::Decimal(_, 0) => Some(Self::WholeNumbers),
            SqlType::Float64 => Some(Self::Numbers),
            SqlType::Boolean => Some(Self::Booleans),
            _ => None,
        }
    }

    /// Whether the value, as written, is of the kind. Numbers are valid JSON by now.
    fn holds(self, value: &[u8]) -> bool {
        let is_number = matches!(value.first(), Some(b'-' | b'0'..=b'9'));
        match self {
            Self::WholeNumbers => is_number && is_whole(value),
            Self::Numbers => is_number,
            Self::Booleans => matches!(value.first(), Some(b't' | b'f')),
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::WholeNumbers => {
                "the records that its type was taken from have whole numbers only; $1, the whole row, has each value as it \
                 is, to be cast to another type"
            }
            Self::Numbers => {
                "the records that its type was taken from have numbers only; $1, the whole row, has each value as it is, \
                 to be cast to another type"
            }
            Self::Booleans => {
                "the records that its type was taken from have booleans only; $1, the whole row, has each value as it is, \
                 to be cast to another type"
            }
        }
    }
}

/// Whether a JSON number has no fraction: `2`, `2.0` and `2e1`, not `2.5`.
fn is_whole(number: &[u8]) -> bool {
    if !number.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return true;
    }
    std::str::from_utf8(number)
        .ok()
        .and_then(|text| text.parse::<f64>().ok())
        .is_some_and(|n| n.fract() == 0.0)
}

/// One column of a run of records.
pub(crate) struct JsonCells<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) records: &'a Records<'a>,
    /// `None`: the whole row.
    pub(crate) slot: Option<usize>,
    pub(crate) null_if: &'a [String],
    pub(crate) missing_is_default: bool,
    pub(crate) null_is_default: bool,
    /// What the values must be besides being of the column's type.
    pub(crate) sampled: Option<Sampled>,
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
        let written = match self.null_if {
            [] => write_sorted(record, scratch),
            _ => write_record(record, |text| self.is_null(text), scratch),
        };
        match written {
            Ok(()) => Cell::Text(scratch),
            Err(reason) => Cell::Bad(record, reason),
        }
    }

    #[inline(never)]
    fn of_sampled<'s>(&'s self, span: Span, sampled: Sampled, scratch: &'s mut Vec<u8>) -> Cell<'s> {
        let value = &self.bytes[span.start..span.end];
        if value[0] == b'"'
            && !self.null_if.is_empty()
            && let Cell::Text(text) = self.content(span, scratch)
            && self.is_null(text)
        {
            return Cell::Null;
        }
        if sampled.holds(value) { Cell::Text(value) } else { Cell::Bad(value, sampled.reason()) }
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
        if let Some(sampled) = self.sampled
            && self.bytes[span.start] != b'n'
        {
            return self.of_sampled(span, sampled, scratch);
        }
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

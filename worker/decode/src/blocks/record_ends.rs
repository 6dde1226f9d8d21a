//! Where the last whole record of a text ends.
//!
//! Comes in: text that begins with a record and grows at its end. Goes out: the end of the last record that
//! is whole. What was looked at is not looked at again. NDJSON and TSV are searched backwards, so this costs
//! next to nothing. CSV needs to know what is inside quotes, from the start: 64 bytes at a time with a
//! prefix xor over the quote mask, as the tokeniser does; records with unusual quoting are walked.

use crate::bits::{chunk_at, prefix_xor};
use crate::csv::dialect::{CarriageReturn, Dialect, Ending};

/// The search through one text.
#[derive(Debug)]
pub(super) struct RecordEnds {
    /// The last record end found, as an offset after it; 0 for none.
    pub(super) last_end: usize,
    /// How far the text has been looked at.
    scanned: usize,
    in_quotes: bool,
    /// A record that must be walked is walked again when the text is this long.
    walk_at: usize,
    record_bytes: usize,
}

impl RecordEnds {
    /// Records may have so many bytes.
    pub(super) fn new(record_bytes: usize) -> Self {
        Self { last_end: 0, scanned: 0, in_quotes: false, walk_at: 0, record_bytes }
    }

    /// Begins with a new text.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.record_bytes);
    }

    /// The text now begins after the last record end.
    pub(super) fn cut(&mut self) {
        self.scanned = self.scanned.saturating_sub(self.last_end);
        self.walk_at = 0;
        self.last_end = 0;
    }

    /// As [`RecordEnds::scan`], for a text that nothing follows, or nothing that may be waited for.
    pub(super) fn scan_all(&mut self, dialect: &Dialect, text: &[u8]) {
        self.walk_at = 0;
        self.scan(dialect, text);
        self.walk_at = 0;
        self.walk_records(dialect, text);
    }

    /// Looks for record ends in what has come since the last time.
    pub(super) fn scan(&mut self, dialect: &Dialect, text: &[u8]) {
        if dialect.quote.is_none() {
            let mut end = text.len();
            while let Some(at) = memchr::memrchr(dialect.record_end, &text[self.scanned..end]) {
                let at = self.scanned + at;
                if ends_record(dialect, text, at) {
                    self.last_end = at + 1;
                    break;
                }
                end = at;
            }
            self.scanned = text.len();
        } else if dialect.delimiter.len() == 1 {
            self.scan_quotes(dialect, text);
        } else {
            self.walk_records(dialect, text);
        }
    }

    /// Walks whole records from the last record end.
    fn walk_records(&mut self, dialect: &Dialect, text: &[u8]) {
        if text.len() < self.walk_at {
            return;
        }
        loop {
            let record = dialect.walk(text, self.last_end, |_| ());
            if record.ending != Ending::Delimiter {
                self.walk_later(text);
                return;
            }
            self.last_end = record.next;
        }
    }

    fn scan_quotes(&mut self, dialect: &Dialect, text: &[u8]) {
        if text.len() < self.walk_at {
            return;
        }
        let Some(quote) = dialect.quote else { return };
        let (delimiter, record_end) = (dialect.delimiter[0], dialect.record_end);
        let required = dialect.carriage_return == CarriageReturn::Required;
        // A part of a chunk is left until there is more, so that nothing is looked at twice.
        while self.scanned + 64 <= text.len() {
            let base = self.scanned;
            let (chunk, _) = chunk_at(text, base);
            let quotes = chunk.eq(quote);
            let mut ends = chunk.eq(record_end);
            let before = base.checked_sub(1).map(|at| text[at]);
            if required {
                ends &= chunk.eq(b'\r') << 1 | u64::from(before == Some(b'\r'));
            }
            let mut unusual = 0;
            if quotes != 0 || self.in_quotes {
                let inside = prefix_xor(quotes) ^ u64::from(self.in_quotes).wrapping_neg();
                let separators = chunk.eq(delimiter) | ends;
                let first = match before {
                    None => true,
                    Some(byte) if byte == record_end => {
                        !required || base.checked_sub(2).is_some_and(|at| text[at] == b'\r')
                    }
                    Some(byte) => byte == delimiter || byte == quote,
                };
                unusual = quotes & inside & !(separators << 1 | quotes << 1 | u64::from(first));
                if let Some(escape) = dialect.escape {
                    unusual |= chunk.eq(escape) & inside;
                }
                ends &= !inside;
                if unusual != 0 {
                    ends &= (unusual & unusual.wrapping_neg()) - 1;
                } else {
                    self.in_quotes = inside >> 63 == 1;
                }
            }
            if ends != 0 {
                self.last_end = base + 64 - ends.leading_zeros() as usize;
            }
            if unusual == 0 {
                self.scanned = base + 64;
                continue;
            }
            let record = dialect.walk(text, self.last_end, |_| ());
            self.in_quotes = false;
            if record.ending != Ending::Delimiter {
                self.scanned = self.last_end;
                self.walk_later(text);
                return;
            }
            self.last_end = record.next;
            self.scanned = record.next;
        }
    }

    /// A record that has no end yet is walked again when there is twice as much of it, which keeps the
    /// cost linear, or as much as a record may have.
    fn walk_later(&mut self, text: &[u8]) {
        let bytes = text.len() - self.last_end;
        self.walk_at = self.last_end + (2 * bytes).min(self.record_bytes);
    }
}

/// Whether the record end byte at `at` is one, for formats without quotes.
pub(super) fn ends_record(dialect: &Dialect, text: &[u8], at: usize) -> bool {
    let before = &text[..at];
    if dialect.carriage_return == CarriageReturn::Required && !before.ends_with(b"\r") {
        return false;
    }
    let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
    !dialect.backslash || backslashes % 2 == 0
}

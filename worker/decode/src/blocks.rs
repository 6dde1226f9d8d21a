//! Cutting a stream of text into blocks of whole records that decode independently of each other.
//!
//! Comes in: decompressed UTF-8 in pieces of any size. Goes out: [`TextBlock`]s of about `block_bytes`
//! that know the physical line of their first record. The number of a block's first *record* is not known
//! here: quoted line ends make it costly, and the decoder counts records anyway, so the caller adds it up
//! in file order ([`crate::text::RowNumbering`]).
//!
//! NDJSON and TSV are cut at the last record end of the buffer, searched backwards, so cutting costs next
//! to nothing. CSV needs to know what is inside quotes, from the start: 64 bytes at a time with a prefix
//! xor over the quote mask, as the tokeniser does; records with unusual quoting are walked. Line ends are
//! counted once, when a block leaves.
//!
//! It holds one block and one record at most; a record above `max_record_bytes` is an error of the file.

use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::{Error, Result};

use crate::bits::{chunk_at, prefix_xor};
use crate::charset::BOM;
use crate::csv::dialect::{CarriageReturn, Dialect, Ending};
use crate::limits::TextLimits;

/// Whole records, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextBlock {
    /// The records; the last one of a file may have no delimiter.
    pub bytes: Vec<u8>,
    /// The physical line of the first record, from 1 within the file (or part).
    pub first_line: u64,
    /// The physical line that its last byte is in.
    pub last_line: u64,
    /// Bytes of input as stored that the block stands for, as counted by [`BlockCutter::count_input`].
    pub input_bytes: u64,
    /// JSON: where the elements begin and end in `bytes`. Other formats have none: their records end
    /// where their delimiters do.
    pub elements: Option<Vec<(u32, u32)>>,
}

/// The physical line that the last of `bytes` is in, when the line ends in them lead up to `line`.
pub(crate) fn last_line(line: u64, bytes: &[u8], line_end: u8) -> u64 {
    line - 1 + u64::from(bytes.last().is_some_and(|byte| *byte != line_end))
}

/// How many bytes before a part's start are read to see whether a line end there is escaped (TSV).
const LOOK_BACK: u64 = 4096;
/// Blocks beyond this gain nothing, and offsets within a block are 32 bits.
pub(crate) const LARGEST_BLOCK: usize = 1 << 28;
/// Input is taken in pieces of this size, so that blocks stay near their size.
pub(crate) const PIECE: usize = 64 << 10;

/// Cuts blocks. See the module.
#[derive(Debug)]
pub struct BlockCutter {
    dialect: Dialect,
    limits: TextLimits,
    skip: u64,
    buffer: Vec<u8>,
    /// The line of the buffer's first byte.
    line: u64,
    /// How far the buffer has been looked at.
    scanned: usize,
    /// The last record end found, as an offset after it; 0 for none.
    last_end: usize,
    in_quotes: bool,
    /// A record that must be walked is walked again when the buffer is this long.
    walk_at: usize,
    input_bytes: u64,
    part: Option<Part>,
}

/// A range of a file whose records are read.
#[derive(Debug)]
struct Part {
    /// The offset in the file of the buffer's first byte.
    buffer_at: u64,
    start: u64,
    end: u64,
    found_start: bool,
    found_end: bool,
}

impl BlockCutter {
    /// For a whole file (or stream).
    pub fn new(format: &FileFormat, limits: TextLimits) -> Self {
        let dialect = match format.kind {
            FormatKind::Csv | FormatKind::Tsv => Dialect::new(format),
            _ => Dialect::lines(),
        };
        Self {
            dialect,
            limits: TextLimits { block_bytes: limits.block_bytes.clamp(1, LARGEST_BLOCK), ..limits },
            skip: if format.kind == FormatKind::Ndjson { 0 } else { format.skip_header },
            buffer: Vec::new(),
            line: 1,
            scanned: 0,
            last_end: 0,
            in_quotes: false,
            walk_at: 0,
            input_bytes: 0,
            part: None,
        }
    }

    /// Whether files of a format, uncompressed and in UTF-8, can be read in parts.
    pub fn is_splittable(format: &FileFormat) -> bool {
        matches!(format.kind, FormatKind::Ndjson | FormatKind::Tsv)
    }

    /// For the records that begin in `[start, end)` of a file. A byte order mark is skipped. Bytes are to be pushed from
    /// [`BlockCutter::read_from`] on until [`BlockCutter::is_done`]. The parts of a file, together, have
    /// each record once. Lines count from the part's first record.
    ///
    /// # Errors
    /// Unsupported for formats that are not [splittable](BlockCutter::is_splittable).
    pub fn for_range(format: &FileFormat, limits: TextLimits, start: u64, end: u64) -> Result<Self> {
        if !Self::is_splittable(format) {
            return Err(Error::not_supported(format!("reading a {} file in parts", format.kind)));
        }
        let mut cutter = Self::new(format, limits);
        if start > 0 {
            cutter.skip = 0;
        }
        let look_back = if cutter.dialect.backslash { LOOK_BACK } else { 1 };
        cutter.part = Some(Part {
            buffer_at: start.saturating_sub(look_back),
            start,
            end,
            found_start: false,
            found_end: start >= end,
        });
        Ok(cutter)
    }

    /// The offset in the file of the first byte to push.
    pub fn read_from(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.buffer_at)
    }

    /// Whether a part has all its bytes; more are ignored.
    pub fn is_done(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.found_end)
    }

    /// Counts bytes of input as stored; the next block stands for them.
    pub fn count_input(&mut self, bytes: u64) {
        self.input_bytes += bytes;
    }

    /// Takes bytes and hands out the blocks that they complete.
    ///
    /// # Errors
    /// A record above the limit, and the errors of `each`.
    pub fn push(&mut self, data: &[u8], each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        for piece in data.chunks(PIECE) {
            if self.is_done() {
                return Ok(());
            }
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(self.limits.block_bytes + PIECE);
            }
            self.buffer.extend_from_slice(piece);
            self.find_part(false)?;
            if self.part.as_ref().is_some_and(|part| !part.found_start) {
                continue;
            }
            if self.skip > 0 {
                self.skip_records(false);
            }
            if self.skip == 0 && self.buffer.len() >= self.limits.block_bytes {
                self.scan();
                if self.last_end > 0 {
                    each(self.cut())?;
                }
            }
            self.check_record()?;
        }
        Ok(())
    }

    /// Ends the stream and hands out the rest.
    ///
    /// # Errors
    /// As [`BlockCutter::push`].
    pub fn finish(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        self.find_part(true)?;
        if self.skip > 0 {
            self.skip_records(true);
        }
        if !self.buffer.is_empty() || self.input_bytes > 0 {
            self.last_end = self.buffer.len();
            each(self.cut())?;
        }
        Ok(())
    }

    /// Hands out the whole records that are held: nothing follows them, since the stream is damaged there.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn rescue(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        if self.skip == 0 && self.part.is_none() {
            self.walk_at = 0;
            self.scan();
            self.walk_at = 0;
            self.walk_records();
            if self.last_end > 0 {
                each(self.cut())?;
            }
        }
        Ok(())
    }

    fn cut(&mut self) -> TextBlock {
        let mut rest = Vec::with_capacity(self.limits.block_bytes + PIECE);
        rest.extend_from_slice(&self.buffer[self.last_end..]);
        let mut bytes = std::mem::replace(&mut self.buffer, rest);
        bytes.truncate(self.last_end);
        let first_line = self.line;
        self.line += self.dialect.count_lines(&bytes);
        let last_line = last_line(self.line, &bytes, self.dialect.record_end);
        if let Some(part) = &mut self.part {
            part.buffer_at += self.last_end as u64;
        }
        self.scanned = self.scanned.saturating_sub(self.last_end);
        self.walk_at = 0;
        self.last_end = 0;
        let input_bytes = std::mem::take(&mut self.input_bytes);
        TextBlock { bytes, first_line, last_line, input_bytes, elements: None }
    }

    fn check_record(&self) -> Result<()> {
        let bytes = self.buffer.len() - self.last_end;
        let limit = self.limits.record_bytes();
        if bytes <= limit.max(self.limits.block_bytes + PIECE) {
            return Ok(());
        }
        let line = self.line + self.dialect.count_lines(&self.buffer[..self.last_end]);
        let mut error = Error::exhausted(format!(
            "the record that begins in line {line} is larger than {limit} bytes (limit max_record_bytes)"
        ));
        error = match self.dialect.walk(&self.buffer, self.last_end, |_| ()).ending {
            Ending::Quoted(open) => {
                let line = line + self.dialect.count_lines(&self.buffer[self.last_end..open]);
                error.hint(format!("the quoted field that begins in line {line} may lack its closing quote"))
            }
            _ => error.hint("check RECORD_DELIMITER, or raise max_record_bytes"),
        };
        Err(error)
    }

    fn skip_records(&mut self, at_end: bool) {
        let mut at = 0;
        while self.skip > 0 && at < self.buffer.len() {
            let (mut fields, mut last) = (0, at);
            let record = self.dialect.walk(&self.buffer, at, |end| {
                fields += 1;
                last = end;
            });
            if record.ending != Ending::Delimiter && !at_end {
                break;
            }
            self.line += record.inner_lines + u64::from(record.ending == Ending::Delimiter);
            let blank = fields == 1 && last == at && !self.dialect.backslash;
            self.skip -= u64::from(!blank);
            at = record.next;
        }
        self.buffer.drain(..at);
        if let Some(part) = &mut self.part {
            part.buffer_at += at as u64;
        }
    }

    /// Looks for record ends in what has come since the last time.
    fn scan(&mut self) {
        if self.dialect.quote.is_none() {
            let mut end = self.buffer.len();
            while let Some(at) = memchr::memrchr(self.dialect.record_end, &self.buffer[self.scanned..end]) {
                let at = self.scanned + at;
                if self.ends_record(at) {
                    self.last_end = at + 1;
                    break;
                }
                end = at;
            }
            self.scanned = self.buffer.len();
        } else if self.dialect.delimiter.len() == 1 {
            self.scan_quotes();
        } else {
            self.walk_records();
        }
    }

    /// Whether the record end byte at `at` is one, for formats without quotes.
    fn ends_record(&self, at: usize) -> bool {
        let before = &self.buffer[..at];
        if self.dialect.carriage_return == CarriageReturn::Required && !before.ends_with(b"\r") {
            return false;
        }
        let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
        !self.dialect.backslash || backslashes % 2 == 0
    }

    /// Walks whole records from the last record end.
    fn walk_records(&mut self) {
        if self.buffer.len() < self.walk_at {
            return;
        }
        loop {
            let record = self.dialect.walk(&self.buffer, self.last_end, |_| ());
            if record.ending != Ending::Delimiter {
                self.walk_later();
                return;
            }
            self.last_end = record.next;
        }
    }

    fn scan_quotes(&mut self) {
        if self.buffer.len() < self.walk_at {
            return;
        }
        let Some(quote) = self.dialect.quote else { return };
        let (delimiter, record_end) = (self.dialect.delimiter[0], self.dialect.record_end);
        let required = self.dialect.carriage_return == CarriageReturn::Required;
        // A part of a chunk is left until there is more, so that nothing is looked at twice.
        while self.scanned + 64 <= self.buffer.len() {
            let base = self.scanned;
            let (chunk, _) = chunk_at(&self.buffer, base);
            let quotes = chunk.eq(quote);
            let mut ends = chunk.eq(record_end);
            let before = base.checked_sub(1).map(|at| self.buffer[at]);
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
                        !required || base.checked_sub(2).is_some_and(|at| self.buffer[at] == b'\r')
                    }
                    Some(byte) => byte == delimiter || byte == quote,
                };
                unusual = quotes & inside & !(separators << 1 | quotes << 1 | u64::from(first));
                if let Some(escape) = self.dialect.escape {
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
            let record = self.dialect.walk(&self.buffer, self.last_end, |_| ());
            self.in_quotes = false;
            if record.ending != Ending::Delimiter {
                self.scanned = self.last_end;
                self.walk_later();
                return;
            }
            self.last_end = record.next;
            self.scanned = record.next;
        }
    }

    /// A record that has no end yet is walked again when there is twice as much of it, which keeps the
    /// cost linear, or as much as a record may have.
    fn walk_later(&mut self) {
        let bytes = self.buffer.len() - self.last_end;
        self.walk_at = self.last_end + (2 * bytes).min(self.limits.record_bytes());
    }

    /// Finds the bounds of a part in the buffer: drops what is before it and after it.
    fn find_part(&mut self, at_end: bool) -> Result<()> {
        let Some(part) = &self.part else { return Ok(()) };
        if !part.found_start && part.start == 0 {
            if self.buffer.len() < BOM.len() && !at_end {
                return Ok(());
            }
            let bom = if self.buffer.starts_with(BOM) { BOM.len() } else { 0 };
            self.buffer.drain(..bom);
            if let Some(part) = &mut self.part {
                // The mark belongs to the first record: no later part sees a record begin after it.
                part.end = part.end.max(bom as u64 + 1);
                part.buffer_at = bom as u64;
                part.found_start = true;
            }
        } else if !part.found_start {
            match self.boundary(part.start)? {
                Some(at) => {
                    self.buffer.drain(..at);
                    if let Some(part) = &mut self.part {
                        part.buffer_at += at as u64;
                        part.found_start = true;
                        part.found_end = part.buffer_at >= part.end;
                        if part.found_end {
                            self.buffer.clear();
                        }
                    }
                }
                None => {
                    if at_end {
                        self.buffer.clear();
                    } else {
                        self.forget_head()?;
                    }
                    return Ok(());
                }
            }
        }
        let Some(part) = &self.part else { return Ok(()) };
        if !part.found_end
            && part.buffer_at + self.buffer.len() as u64 >= part.end
            && let Some(at) = self.boundary(part.end)?
        {
            self.buffer.truncate(at);
            if let Some(part) = &mut self.part {
                part.found_end = true;
            }
        }
        Ok(())
    }

    /// While a part's first record has not begun, what is before it need not be kept, but for the bytes
    /// that may escape the next line end.
    fn forget_head(&mut self) -> Result<()> {
        let run = self.buffer.iter().rev().take_while(|byte| matches!(byte, b'\\' | b'\r' | b'\n')).count();
        let keep = (run + 1).min(self.buffer.len());
        let Some(part) = &mut self.part else { return Ok(()) };
        let end = part.buffer_at + self.buffer.len() as u64;
        if end < part.start || self.buffer.len() < 2 * PIECE {
            return Ok(());
        }
        let drop = self.buffer.len() - keep;
        self.buffer.drain(..drop);
        part.buffer_at += drop as u64;
        Ok(())
    }

    /// The offset in the buffer of the first record that begins at or after `position` of the file.
    fn boundary(&self, position: u64) -> Result<Option<usize>> {
        let Some(part) = &self.part else { return Ok(None) };
        if position <= part.buffer_at && part.found_start {
            return Ok(Some(0));
        }
        // A record begins at `position` if the byte before is a record's end.
        let mut from = usize::try_from((position - 1).saturating_sub(part.buffer_at)).unwrap_or(usize::MAX);
        while let Some(rest) = self.buffer.get(from..)
            && let Some(at) = memchr::memchr(self.dialect.record_end, rest)
        {
            let at = from + at;
            let backslashes = self.buffer[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
            if self.dialect.backslash && backslashes == at && part.buffer_at > 0 && !part.found_start {
                return Err(Error::bad_data(format!(
                    "the file cannot be read in parts: a run of {backslashes} backslashes ends at byte {}",
                    part.buffer_at + at as u64
                )));
            }
            if self.ends_record(at) {
                return Ok(Some(at + 1));
            }
            from = at + 1;
        }
        Ok(None)
    }
}

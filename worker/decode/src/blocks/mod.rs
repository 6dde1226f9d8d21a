//! Cutting a stream of text into blocks of whole records that decode independently of each other.
//!
//! Comes in: decompressed UTF-8 in pieces of any size. Goes out: [`TextBlock`]s of about `block_bytes`
//! that know the physical line of their first record. The number of a block's first *record* is not known
//! here: quoted line ends make it costly, and the decoder counts records anyway, so the caller adds it up
//! in file order ([`crate::text::RowNumbering`]).
//!
//! Bytes that can be shared are cut where they are ([`BlockCutter::push_shared`]): only a record that goes
//! on in the next bytes is copied. Other bytes are gathered until they make a block. Where records end is
//! found by `record_ends`; line ends are counted once, when a block leaves.
//!
//! It holds one block and one record at most; a record above `max_record_bytes` is an error of the file.

mod record_ends;

use bytes::Bytes;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::{Error, Result};

use crate::charset::BOM;
use crate::csv::dialect::{Dialect, Ending};
use crate::limits::TextLimits;

use record_ends::{RecordEnds, ends_record};

/// Whole records, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextBlock {
    /// The records; the last one of a file may have no delimiter.
    pub bytes: Bytes,
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

impl TextBlock {
    /// The records from `position` on, which is in physical line `line` and has `input_bytes` of the input behind
    /// it; `elements` are those of them that JSON has. `None`: there are none.
    pub(crate) fn rest(
        &self,
        position: usize,
        line: u64,
        input_bytes: u64,
        elements: Option<&[(u32, u32)]>,
    ) -> Option<Self> {
        if position >= self.bytes.len() || elements.is_some_and(<[_]>::is_empty) {
            return None;
        }
        let before = u32::try_from(position).unwrap_or(u32::MAX);
        Some(Self {
            bytes: self.bytes.slice(position..),
            first_line: line,
            last_line: self.last_line,
            input_bytes,
            elements: elements
                .map(|elements| elements.iter().map(|(start, end)| (start - before, end - before)).collect()),
        })
    }
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
/// The first piece in which the rest of a record is looked for.
const FIRST_PIECE: usize = 1 << 10;

/// Cuts blocks. See the module.
#[derive(Debug)]
pub struct BlockCutter {
    dialect: Dialect,
    limits: TextLimits,
    skip: u64,
    buffer: Vec<u8>,
    /// The line of the buffer's first byte.
    line: u64,
    /// Record ends in the buffer.
    ends: RecordEnds,
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
            ends: RecordEnds::new(limits.record_bytes()),
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
            if self.gather(piece)? && self.buffer.len() >= self.limits.block_bytes {
                self.ends.scan(&self.dialect, &self.buffer);
                if self.ends.last_end > 0 {
                    each(self.cut())?;
                }
            }
            self.check_record(&self.buffer)?;
        }
        Ok(())
    }

    /// As [`BlockCutter::push`], for bytes that can be shared: blocks are parts of them where they can be.
    ///
    /// # Errors
    /// As there.
    pub fn push_shared(&mut self, data: &Bytes, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        let (mut at, mut step) = (0, FIRST_PIECE);
        while at < data.len() && !self.is_done() {
            let sharable = self.sharable(data.len() - at);
            if sharable > 0 && self.buffer.is_empty() {
                self.cut_shared(data.slice(at..at + sharable), each)?;
                at += sharable;
                continue;
            }
            // The record that is held goes on: its end is looked for in larger and larger pieces.
            let piece = &data[at..data.len().min(at + step)];
            at += piece.len();
            step = (2 * step).min(PIECE);
            if self.gather(piece)? && (sharable > 0 || self.buffer.len() >= self.limits.block_bytes) {
                self.ends.scan(&self.dialect, &self.buffer);
                if self.ends.last_end > 0 {
                    let after = self.buffer.len() - self.ends.last_end;
                    each(self.cut())?;
                    if sharable > 0 && after <= at && !self.is_done() {
                        // What follows the record is all in `data`.
                        at -= after;
                        self.buffer.clear();
                        self.ends.restart();
                    }
                }
            }
            self.check_record(&self.buffer)?;
        }
        Ok(())
    }

    /// Ends the stream with its last bytes. A stream that has no others is one block if it fits one.
    ///
    /// # Errors
    /// As [`BlockCutter::push`].
    pub fn finish_with(&mut self, data: &Bytes, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        if !self.buffer.is_empty() || self.part.is_some() || data.len() > self.limits.block_bytes {
            self.push_shared(data, each)?;
            return self.finish(each);
        }
        let skipped = self.skip_records(data, true);
        if skipped < data.len() || self.input_bytes > 0 {
            each(self.block(data.slice(skipped..)))?;
        }
        Ok(())
    }

    /// Ends the stream and hands out the rest.
    ///
    /// # Errors
    /// As [`BlockCutter::push`].
    pub fn finish(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        self.find_part(true)?;
        self.skip_held(true);
        if !self.buffer.is_empty() || self.input_bytes > 0 {
            self.ends.last_end = self.buffer.len();
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
            self.ends.scan_all(&self.dialect, &self.buffer);
            if self.ends.last_end > 0 {
                each(self.cut())?;
            }
        }
        Ok(())
    }

    /// Holds more bytes; answers whether records are wanted of what is held.
    fn gather(&mut self, piece: &[u8]) -> Result<bool> {
        self.buffer.extend_from_slice(piece);
        self.find_part(false)?;
        if self.part.as_ref().is_some_and(|part| !part.found_start) {
            return Ok(false);
        }
        self.skip_held(false);
        Ok(self.skip == 0)
    }

    /// How many of the next bytes may be cut where they are: those that are not skipped and are within the
    /// part.
    fn sharable(&self, bytes: usize) -> usize {
        match &self.part {
            _ if self.skip > 0 => 0,
            None => bytes,
            Some(part) if !part.found_start => 0,
            Some(part) => {
                let before_end = part.end.saturating_sub(part.buffer_at + self.buffer.len() as u64 + 1);
                usize::try_from(before_end).unwrap_or(usize::MAX).min(bytes)
            }
        }
    }

    /// Cuts text that begins with a record; what is left of its last one is held.
    fn cut_shared(&mut self, mut text: Bytes, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        while !text.is_empty() {
            // Blocks of like size, so that the last one is not a small rest.
            let most = self.limits.block_bytes;
            let blocks = ((text.len() + most / 2) / most).max(1);
            let mut window = text.len().div_ceil(blocks);
            loop {
                if window == text.len() {
                    self.ends.scan_all(&self.dialect, &text);
                } else {
                    self.ends.scan(&self.dialect, &text[..window]);
                }
                if self.ends.last_end > 0 || window == text.len() {
                    break;
                }
                self.check_record(&text[..window])?;
                window = (2 * window).min(text.len());
            }
            let end = self.ends.last_end;
            self.ends.restart();
            if end == 0 {
                break;
            }
            let block = self.block(text.split_to(end));
            each(block)?;
        }
        self.buffer.extend_from_slice(&text);
        self.check_record(&text)
    }

    /// Cuts what is held at the last record end.
    fn cut(&mut self) -> TextBlock {
        let rest = &self.buffer[self.ends.last_end..];
        let is_full = self.buffer.len() >= self.limits.block_bytes;
        let mut next = Vec::with_capacity(if is_full { self.limits.block_bytes + PIECE } else { rest.len() });
        next.extend_from_slice(rest);
        let mut bytes = std::mem::replace(&mut self.buffer, next);
        bytes.truncate(self.ends.last_end);
        self.ends.cut();
        self.block(Bytes::from(bytes))
    }

    /// The next bytes as a block.
    fn block(&mut self, bytes: Bytes) -> TextBlock {
        let first_line = self.line;
        self.line += self.dialect.count_lines(&bytes);
        let last_line = last_line(self.line, &bytes, self.dialect.record_end);
        if let Some(part) = &mut self.part {
            part.buffer_at += bytes.len() as u64;
        }
        let input_bytes = std::mem::take(&mut self.input_bytes);
        TextBlock { bytes, first_line, last_line, input_bytes, elements: None }
    }

    /// Checks the record that has no end yet of `text`, whose first byte is in the current line.
    fn check_record(&self, text: &[u8]) -> Result<()> {
        let unfinished = self.ends.last_end;
        let limit = self.limits.record_bytes();
        let is_before_part = self.part.as_ref().is_some_and(|part| !part.found_start);
        if is_before_part || text.len() - unfinished <= limit.max(self.limits.block_bytes + PIECE) {
            return Ok(());
        }
        let line = self.line + self.dialect.count_lines(&text[..unfinished]);
        let mut error = Error::exhausted(format!(
            "the record that begins in line {line} is larger than {limit} bytes (limit max_record_bytes)"
        ));
        error = match self.dialect.walk(text, unfinished, |_| ()).ending {
            Ending::Quoted(open) => {
                let line = line + self.dialect.count_lines(&text[unfinished..open]);
                error.hint(format!("the quoted field that begins in line {line} may lack its closing quote"))
            }
            _ => error.hint("check RECORD_DELIMITER, or raise max_record_bytes"),
        };
        Err(error)
    }

    /// Skips the records at the top that are held.
    fn skip_held(&mut self, at_end: bool) {
        if self.skip == 0 {
            return;
        }
        let text = std::mem::take(&mut self.buffer);
        let skipped = self.skip_records(&text, at_end);
        self.buffer = text;
        self.buffer.drain(..skipped);
        if let Some(part) = &mut self.part {
            part.buffer_at += skipped as u64;
        }
    }

    /// Skips records of text; answers how many bytes.
    fn skip_records(&mut self, text: &[u8], at_end: bool) -> usize {
        let mut at = 0;
        while self.skip > 0 && at < text.len() {
            let (mut fields, mut last) = (0, at);
            let record = self.dialect.walk(text, at, |end| {
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
        at
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
            if ends_record(&self.dialect, &self.buffer, at) {
                return Ok(Some(at + 1));
            }
            from = at + 1;
        }
        Ok(None)
    }
}

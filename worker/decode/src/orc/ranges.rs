//! Byte ranges of a file in memory, as a reader for the library; and a reader that only notes what the
//! library asks for.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use orc_rust::reader::ChunkReader;

/// Ranges of a file that were fetched. Reading anything else is an error, except what is `unread`.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    file_size: u64,
    /// In order, not overlapping.
    chunks: Vec<(u64, Bytes)>,
    /// A part that the library asks for and never looks at: it is given nothing.
    unread: Range<u64>,
}

impl Fetched {
    /// Takes the ranges as fetched, whatever their order.
    pub(super) fn new(file_size: u64, fetched: Vec<(u64, Bytes)>, unread: Range<u64>) -> Self {
        let mut chunks = fetched;
        chunks.sort_by_key(|(start, _)| *start);
        Self { file_size, chunks, unread }
    }

    fn find(&self, start: u64, length: u64) -> Result<Bytes> {
        let after = self.chunks.partition_point(|(first, _)| *first <= start);
        let found = after.checked_sub(1).and_then(|i| self.chunks.get(i)).and_then(|(first, bytes)| {
            let from = usize::try_from(start - first).ok()?;
            let to = from.checked_add(usize::try_from(length).ok()?)?;
            (to <= bytes.len()).then(|| bytes.slice(from..to))
        });
        found.ok_or_else(|| {
            Error::new(ErrorKind::UnexpectedEof, format!("{length} bytes from byte {start} on lie outside"))
        })
    }
}

impl ChunkReader for Fetched {
    type T = Reader<Bytes>;

    fn len(&self) -> u64 {
        self.file_size
    }

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let after = self.chunks.partition_point(|(first, _)| *first <= start);
        let length = after.checked_sub(1).and_then(|i| self.chunks.get(i));
        let length = length.map_or(0, |(first, bytes)| (first + bytes.len() as u64).saturating_sub(start));
        Ok(self.find(start, length)?.reader())
    }

    fn get_bytes(&self, start: u64, length: u64) -> Result<Bytes> {
        // Ranges of the index may have any length; nothing is read of it.
        if length == 0 || self.unread.contains(&start) {
            return Ok(Bytes::new());
        }
        self.find(start, length)
    }
}

/// Has the footer of a stripe, and notes the streams that are asked for.
#[derive(Debug)]
pub(super) struct Noted {
    footer: Fetched,
    footer_range: Range<u64>,
    streams: std::cell::RefCell<Vec<Range<u64>>>,
}

impl Noted {
    pub(super) fn new(file_size: u64, footer_range: Range<u64>, footer: Bytes) -> Self {
        let fetched = vec![(footer_range.start, footer)];
        let footer = Fetched::new(file_size, fetched, 0..0);
        Self { footer, footer_range, streams: std::cell::RefCell::default() }
    }

    pub(super) fn streams(self) -> Vec<Range<u64>> {
        self.streams.into_inner()
    }
}

impl ChunkReader for Noted {
    type T = Reader<Bytes>;

    fn len(&self) -> u64 {
        self.footer.len()
    }

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.footer.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: u64) -> Result<Bytes> {
        if start == self.footer_range.start {
            return self.footer.get_bytes(start, length);
        }
        if let Some(end) = start.checked_add(length) {
            self.streams.borrow_mut().push(start..end);
        }
        Ok(Bytes::new())
    }
}

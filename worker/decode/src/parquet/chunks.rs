//! The byte ranges of a file that were fetched, as a reader for the library.

use std::ops::Range;

use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::{Buf, Bytes, buf::Reader};

/// Ranges of a file in memory. Reading anything else is an error.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    /// In order, not overlapping.
    chunks: Vec<(u64, Bytes)>,
}

impl Chunks {
    /// Takes the ranges as fetched, whatever their order.
    pub(super) fn new(fetched: Vec<(Range<u64>, Bytes)>) -> Self {
        let mut chunks: Vec<(u64, Bytes)> =
            fetched.into_iter().map(|(range, bytes)| (range.start, bytes)).collect();
        chunks.sort_by_key(|(start, _)| *start);
        Self { chunks }
    }

    /// What is there from a position on.
    fn from(&self, start: u64) -> Result<Bytes> {
        let after = self.chunks.partition_point(|(first, _)| *first <= start);
        let found = after.checked_sub(1).and_then(|i| self.chunks.get(i)).and_then(|(first, bytes)| {
            let skip = usize::try_from(start - first).ok()?;
            (skip <= bytes.len()).then(|| bytes.slice(skip..))
        });
        found.ok_or_else(|| ParquetError::EOF(format!("byte {start} lies outside of the column's range")))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.chunks.last().map_or(0, |(start, bytes)| start + bytes.len() as u64)
    }
}

impl ChunkReader for Chunks {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!(
                "{length} bytes from byte {start} on lie outside of the column's range"
            )));
        }
        Ok(bytes.slice(..length))
    }
}

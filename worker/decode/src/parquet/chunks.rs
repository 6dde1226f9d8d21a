//! The bytes of a row group, as a reader for the library: ranges that were fetched, or, where a row group is
//! too large to be held, windows that are fetched as they are needed.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::{Buf, Bytes, buf::Reader};
use stevedore_common::error::{Error, Result as OurResult};

use super::page_headers::{self, PageHeader, PageLimits};

/// What is fetched at a time for all columns of a row group together, and for one.
const WINDOWS_BYTES: u64 = 64 << 20;
const WINDOW_BYTES: Range<u64> = 256 << 10..4 << 20;
/// No header of a dictionary takes more.
const LARGEST_HEADER: u64 = 4 << 10;

/// Reads ranges of a file; blocks until they are there.
pub trait BlockingRanges: Send + Sync {
    /// The bytes of a range.
    ///
    /// # Errors
    /// What the store says.
    fn read(&self, range: Range<u64>) -> OurResult<Bytes>;
}

/// The bytes of a row group. Reading anything else is an error. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupBytes(Place);

#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<Vec<(u64, Bytes)>>),
    Store(Arc<Windows>),
}

impl GroupBytes {
    /// Takes the ranges as fetched, whatever their order.
    pub fn fetched(fetched: Vec<(Range<u64>, Bytes)>) -> Self {
        let mut chunks: Vec<(u64, Bytes)> =
            fetched.into_iter().map(|(range, bytes)| (range.start, bytes)).collect();
        chunks.sort_by_key(|(start, _)| *start);
        Self(Place::Memory(Arc::new(chunks)))
    }

    /// Reads the columns that lie in these ranges as they are needed.
    pub(super) fn in_store(mut columns: Vec<Range<u64>>, store: Arc<dyn BlockingRanges>) -> Self {
        columns.sort_by_key(|column| column.start);
        let window = WINDOWS_BYTES / (columns.len() as u64).max(1);
        let windows = columns.iter().map(|_| Mutex::default()).collect();
        let window = window.clamp(WINDOW_BYTES.start, WINDOW_BYTES.end);
        Self(Place::Store(Arc::new(Windows { store, columns, windows, window, failure: Mutex::default() })))
    }

    /// What the store said, if it failed: an error of the library is none of the file then.
    pub(super) fn failure(&self) -> Option<Error> {
        match &self.0 {
            Place::Memory(_) => None,
            Place::Store(windows) => windows.failure.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }

    /// Refuses pages of a chunk that claim to hold more than they can, or to be larger than `largest` bytes. Chunks
    /// that are read in windows are too large to be looked at twice, but for their first page, the dictionary.
    ///
    /// # Errors
    /// What is wrong with a page.
    pub(super) fn check_pages(
        &self,
        chunk: &ColumnChunkMetaData,
        largest: usize,
    ) -> std::result::Result<(), String> {
        let (start, length) = chunk.byte_range();
        let limits = PageLimits::of(chunk, largest);
        let checked = match &self.0 {
            Place::Memory(_) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                self.get_bytes(start, length).map(|bytes| page_headers::check(&bytes, limits))
            }
            Place::Store(_) => {
                let least = usize::try_from(length.min(LARGEST_HEADER)).unwrap_or(usize::MAX);
                self.from(start, least).map(|bytes| PageHeader::first(&bytes, limits).map(drop))
            }
        };
        // Reading it says what is missing.
        checked.unwrap_or(Ok(()))
    }

    /// What is there from a position on: at least so many bytes.
    fn from(&self, start: u64, least: usize) -> Result<Bytes> {
        let outside = || {
            ParquetError::EOF(format!("{least} bytes from byte {start} on lie outside of the column's range"))
        };
        let chunks = match &self.0 {
            Place::Memory(chunks) => chunks,
            Place::Store(windows) => return windows.from(start, least).ok_or_else(outside),
        };
        let after = chunks.partition_point(|(first, _)| *first <= start);
        // Ranges that were joined over a gap may hold one that was fetched by itself.
        let found = chunks[..after].iter().rev().find_map(|(first, bytes)| {
            let skip = usize::try_from(start - first).ok()?;
            let rest = bytes.len().checked_sub(skip)?;
            (rest >= least.max(1)).then(|| bytes.slice(skip..))
        });
        found.ok_or_else(outside)
    }
}

/// Windows of a file, one for each column, since columns are read in order.
struct Windows {
    store: Arc<dyn BlockingRanges>,
    /// In order of their starts.
    columns: Vec<Range<u64>>,
    windows: Vec<Mutex<(u64, Bytes)>>,
    window: u64,
    failure: Mutex<Option<Error>>,
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Windows({} columns)", self.columns.len())
    }
}

impl Windows {
    fn from(&self, start: u64, least: usize) -> Option<Bytes> {
        let column = self.columns.partition_point(|column| column.start <= start).checked_sub(1)?;
        let end = self.columns.get(column)?.end;
        let wanted = start.checked_add(least.max(1) as u64).filter(|wanted| *wanted <= end)?;
        let mut window = self.windows.get(column)?.lock().unwrap_or_else(PoisonError::into_inner);
        let held = window.0..window.0 + window.1.len() as u64;
        if !(held.contains(&start) && wanted <= held.end) {
            // The old window goes first.
            *window = (start, Bytes::new());
            match self.store.read(start..wanted.max(end.min(start.saturating_add(self.window)))) {
                Ok(bytes) => window.1 = bytes,
                Err(error) => {
                    self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return None;
                }
            }
        }
        let skip = usize::try_from(start - window.0).ok()?;
        (window.1.len() >= skip.checked_add(least.max(1))?).then(|| window.1.slice(skip..))
    }
}

impl Length for GroupBytes {
    fn len(&self) -> u64 {
        match &self.0 {
            Place::Memory(chunks) => chunks.last().map_or(0, |(start, bytes)| start + bytes.len() as u64),
            Place::Store(windows) => windows.columns.last().map_or(0, |column| column.end),
        }
    }
}

impl ChunkReader for GroupBytes {
    type T = ChunkRead;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(match &self.0 {
            Place::Memory(_) => ChunkRead(Source::Memory(self.from(start, 0)?.reader())),
            Place::Store(windows) => ChunkRead(Source::Store(Arc::clone(windows), start)),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        Ok(self.from(start, length)?.slice(..length))
    }
}

/// Reads on from a position.
pub struct ChunkRead(Source);

enum Source {
    Memory(Reader<Bytes>),
    Store(Arc<Windows>, u64),
}

impl Read for ChunkRead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.0 {
            Source::Memory(bytes) => bytes.read(buffer),
            Source::Store(windows, position) => {
                let Some(bytes) = windows.from(*position, 1) else { return Ok(0) };
                let length = bytes.len().min(buffer.len());
                buffer[..length].copy_from_slice(&bytes[..length]);
                *position += length as u64;
                Ok(length)
            }
        }
    }
}

//! How much memory the rows of a batch take, and batches of fewer rows where they would take too much.
//!
//! A few bytes of a file may be rows of any size: a text stands once in a dictionary and in all rows, or is given as
//! the one before and a little more. So the pages are weighed as they come, by what is in them and not by what the
//! footer says, before the library makes values of them. Where a batch would take more than [`BATCH_BYTES`], the
//! library stops at the page, and the batch is read again as one of fewer rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection, RowSelector};
use ::parquet::basic::{Encoding, Type};
use ::parquet::column::page::Page;
use ::parquet::errors::{ParquetError, Result};
use ::parquet::schema::types::ColumnDescriptor;
use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use super::chunks::GroupBytes;
use super::file::ParquetFile;
use super::page_index::PageIndex;
use super::reader::{Reading, rows_of};
use super::value_counts::{delta_lengths, page_encoding, values_of};
use crate::spec::DecodeSpec;

pub(super) const BATCH_BYTES: u64 = DecodeSpec::BATCH_BYTES as u64;
/// By how much batches that take more become shorter.
const SHORTER: usize = 8;
/// The fewest rows of the first batch, whatever the footer says that they take.
const FIRST_ROWS: u64 = 64;

/// What the pages of all leaves take that the batch under way is made of.
#[derive(Debug)]
pub(super) struct BatchMeter {
    /// Rows of a batch.
    rows: u64,
    /// What the batch may take with the pages that it has seen.
    bytes: AtomicU64,
    /// What any batch may take with the pages that are under way.
    held: AtomicU64,
    is_full: AtomicBool,
    leaves: u64,
}

impl BatchMeter {
    fn new(rows: usize, leaves: usize) -> Arc<Self> {
        let is_full = AtomicBool::new(false);
        let (bytes, held) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { rows: rows as u64, bytes, held, is_full, leaves: leaves.max(1) as u64 })
    }

    /// Begins a batch, which may have values of the pages under way; answers whether there is room for it.
    fn begin(&self) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        self.bytes.store(held, Ordering::Relaxed);
        held <= BATCH_BYTES || self.rows == 1
    }

    /// Takes note of a page: what a batch may take of it, and what one may have taken of the page before it.
    fn add(&self, bytes: u64, before: u64) -> Result<()> {
        let held = self.held.load(Ordering::Relaxed).saturating_sub(before).saturating_add(bytes);
        self.held.store(held, Ordering::Relaxed);
        let all = self.bytes.load(Ordering::Relaxed).saturating_add(bytes);
        self.bytes.store(all, Ordering::Relaxed);
        if all <= BATCH_BYTES || self.rows == 1 {
            return Ok(());
        }
        self.is_full.store(true, Ordering::Relaxed);
        Err(ParquetError::General(format!("{} rows take more than {BATCH_BYTES} bytes", self.rows)))
    }

    /// What makes no difference, of one leaf.
    fn little(&self) -> u64 {
        BATCH_BYTES / 8 / self.leaves
    }
}

/// What the pages of one leaf take.
#[derive(Debug)]
pub(super) struct LeafWeight {
    meter: Arc<BatchMeter>,
    /// Bytes of a value without those that it points to.
    entry: u64,
    /// Whether values have bytes of their own.
    is_text: bool,
    /// The longest value of the dictionary.
    longest: u64,
    /// What a batch may take of the page under way.
    page: u64,
}

impl LeafWeight {
    pub(super) fn new(meter: Arc<BatchMeter>, column: &ColumnDescriptor) -> Self {
        let (entry, is_text) = match column.physical_type() {
            Type::BOOLEAN => (1, false),
            Type::INT32 | Type::FLOAT => (4, false),
            Type::INT64 | Type::DOUBLE | Type::INT96 => (8, false),
            Type::BYTE_ARRAY => (4, true),
            Type::FIXED_LEN_BYTE_ARRAY => (u64::from(column.type_length().unsigned_abs()), false),
        };
        Self { meter, entry, is_text, longest: 0, page: 0 }
    }

    /// Takes note of a page that the library is about to decode.
    ///
    /// # Errors
    /// Where the batch takes too much with it.
    pub(super) fn add(&mut self, page: &Page, column: &ColumnDescriptor) -> Result<()> {
        let values = u64::from(page.num_values());
        if page.is_dictionary_page() {
            self.longest = if self.is_text { longest_plain(page.buffer()) } else { 0 };
            return Ok(());
        }
        let greatest = column.max_rep_level();
        let taken = if greatest == 0 { values.min(self.meter.rows) } else { values };
        let mut bytes = self.bytes(page, column, taken);
        if greatest > 0
            && bytes > self.meter.little()
            && let Some(rows) = rows_of(page, greatest).filter(|rows| *rows > self.meter.rows)
        {
            // How many of the values a row has is not known: as many as all rows of the page have in the mean.
            bytes = self.bytes(page, column, (values / rows + 1).saturating_mul(self.meter.rows));
        }
        self.meter.add(bytes, std::mem::replace(&mut self.page, bytes))
    }

    /// What so many values of a page take at the most.
    fn bytes(&self, page: &Page, column: &ColumnDescriptor, taken: u64) -> u64 {
        let text = if self.is_text { self.text(page, column, taken) } else { 0 };
        taken.saturating_mul(self.entry).saturating_add(text)
    }

    /// What the bytes of so many values of a page take at the most.
    fn text(&self, page: &Page, column: &ColumnDescriptor, taken: u64) -> u64 {
        let page_bytes = page.buffer().len() as u64;
        match page_encoding(page) {
            Some(Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY) => taken.saturating_mul(self.longest),
            Some(Encoding::DELTA_BYTE_ARRAY) => {
                let longest = values_of(page, column).and_then(delta_lengths).unwrap_or(page_bytes);
                taken.saturating_mul(longest)
            }
            _ if page_bytes <= self.meter.little() => page_bytes,
            Some(Encoding::PLAIN) => match values_of(page, column) {
                Some(values) => taken.saturating_mul(longest_plain(values)).min(page_bytes),
                None => page_bytes,
            },
            _ => page_bytes,
        }
    }
}

/// The longest of values that follow each other, each behind its length.
fn longest_plain(mut values: &[u8]) -> u64 {
    let mut longest = 0;
    while let Some((length, rest)) = values.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        let Some(rest) = rest.get(length as usize..) else { break };
        longest = longest.max(length);
        values = rest;
    }
    u64::from(longest)
}

/// The batches of some columns of a row group.
pub(super) struct GroupReader {
    reader: ParquetRecordBatchReader,
    meter: Arc<BatchMeter>,
    columns: Vec<usize>,
    row_group: usize,
    bytes: GroupBytes,
    rows: Option<RowSelection>,
    index: Option<PageIndex>,
    batch_rows: usize,
    /// Rows given so far.
    done: usize,
    /// Rows of the row group.
    all: usize,
}

impl GroupReader {
    /// Reads some columns, in the order of the file.
    pub(super) fn new(file: &ParquetFile, reading: &Reading<'_>, columns: &[usize]) -> Result<Self> {
        let group = file.metadata.row_groups().get(reading.row_group);
        let all = group.map_or(0, |group| usize::try_from(group.num_rows()).unwrap_or_default());
        let leaves: Vec<usize> =
            columns.iter().filter_map(|column| file.leaves.get(*column)).cloned().flatten().collect();
        let chunks = leaves.iter().filter_map(|leaf| group?.columns().get(*leaf));
        let bytes: u64 =
            chunks.map(|chunk| chunk.uncompressed_size().unsigned_abs()).fold(0, u64::saturating_add);
        let fit = BATCH_BYTES / (bytes / all.max(1) as u64).max(1);
        let most = file.columns.spec.batch_rows.max(1);
        let batch_rows = usize::try_from(fit.max(FIRST_ROWS)).unwrap_or(most).min(most);
        let meter = BatchMeter::new(batch_rows, leaves.len());
        Ok(Self {
            reader: file.reader(reading, columns, batch_rows, &meter)?,
            meter,
            columns: columns.to_vec(),
            row_group: reading.row_group,
            bytes: reading.bytes.clone(),
            rows: reading.rows.clone(),
            index: reading.index.cloned(),
            batch_rows,
            done: 0,
            all,
        })
    }

    /// The next batch of the file that the reader was made for.
    pub(super) fn next(&mut self, file: &ParquetFile) -> Option<Result<RecordBatch, ArrowError>> {
        loop {
            if self.meter.begin() {
                match self.reader.next() {
                    Some(Err(_)) if self.meter.is_full.load(Ordering::Relaxed) => {}
                    Some(Ok(batch)) => {
                        self.done += batch.num_rows();
                        return Some(Ok(batch));
                    }
                    other => return other,
                }
            }
            if let Err(error) = self.shorten(file) {
                return Some(Err(error.into()));
            }
        }
    }

    /// Begins again, behind the rows that were given, with shorter batches.
    fn shorten(&mut self, file: &ParquetFile) -> Result<()> {
        self.batch_rows = (self.batch_rows / SHORTER).max(1);
        self.meter =
            BatchMeter::new(self.batch_rows, usize::try_from(self.meter.leaves).unwrap_or(usize::MAX));
        let all = self.rows.as_ref().map_or(self.all, RowSelection::row_count);
        let left = vec![RowSelector::skip(self.done), RowSelector::select(all.saturating_sub(self.done))];
        let rows = match (&self.rows, self.done) {
            (rows, 0) => rows.clone(),
            (Some(rows), _) => Some(rows.and_then(&RowSelection::from(left))),
            (None, _) => Some(RowSelection::from(left)),
        };
        let reading =
            Reading { row_group: self.row_group, bytes: &self.bytes, rows, index: self.index.as_ref() };
        self.reader = file.reader(&reading, &self.columns, self.batch_rows, &self.meter)?;
        Ok(())
    }
}

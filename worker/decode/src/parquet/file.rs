//! A file and what is wanted of it: columns matched to fields, row groups chosen, ranges to fetch.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ArrowReaderMetadata;
use ::parquet::file::metadata::ParquetMetaData;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use stevedore_common::error::{Error, Result};

use super::chunks::{BlockingRanges, GroupBytes};
use super::columns::resolve;
use super::row_group::RowGroupDecoder;
use crate::columnar::{ColumnPlan, FileColumn};
use crate::spec::DecodeSpec;

/// A file that is about to be decoded. Cheap to share: everything in it is immutable.
pub struct ParquetFile {
    pub(super) metadata: Arc<ParquetMetaData>,
    pub(super) reader: ArrowReaderMetadata,
    pub(super) columns: ColumnPlan,
    /// The leaf columns that each column consists of.
    pub(super) leaves: Vec<Range<usize>>,
}

/// One row group to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroupTask {
    /// Its number within the file, from 0.
    pub row_group: usize,
    /// How many rows it has.
    pub rows: u64,
    /// The number of its first row within the file, from 0.
    pub first_row: u64,
    /// The bytes that are needed, in file order, neighbours joined; empty where no column is.
    pub byte_ranges: Vec<Range<u64>>,
}

impl RowGroupTask {
    /// How many bytes are to be fetched.
    pub fn input_bytes(&self) -> u64 {
        self.byte_ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// What was fetched for it, checked.
    ///
    /// # Errors
    /// Where a range is missing or short.
    pub fn fetched(&self, fetched: Vec<Bytes>) -> Result<GroupBytes> {
        if fetched.len() != self.byte_ranges.len() {
            return Err(Error::internal(format!(
                "row group {} needs {} ranges, {} were fetched",
                self.row_group + 1,
                self.byte_ranges.len(),
                fetched.len()
            )));
        }
        for (range, bytes) in self.byte_ranges.iter().zip(&fetched) {
            if bytes.len() as u64 != range.end - range.start {
                return Err(Error::bad_data(format!(
                    "the file is cut off: of the bytes {} to {} only {} are there",
                    range.start,
                    range.end,
                    bytes.len()
                )));
            }
        }
        Ok(GroupBytes::fetched(self.byte_ranges.iter().cloned().zip(fetched).collect()))
    }
}

/// Gaps up to this size are fetched along with their neighbours: a request costs more.
const JOIN_GAP: u64 = 64 * 1024;

impl ParquetFile {
    /// Matches the columns of a spec to a file.
    ///
    /// # Errors
    /// A wanted column is missing (MISSING_FIELD_AS = ERROR), ambiguous, of a type that the dialect
    /// does not know, or never casts to the type wanted; a damaged schema.
    pub fn open(metadata: Arc<ParquetMetaData>, spec: &DecodeSpec) -> Result<Self> {
        let (reader, columns) = resolve(&metadata, &spec.format)?;
        let (columns, leaves) = columns.into_iter().unzip();
        Ok(Self { metadata, reader, columns: ColumnPlan::new(columns, spec)?, leaves })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    /// The columns of the file.
    pub fn columns(&self) -> &[FileColumn] {
        &self.columns.columns
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Arc<ParquetMetaData> {
        &self.metadata
    }

    /// The row groups to decode: all of them, or those whose first byte lies in `range`, so that ranges
    /// which cover a file cover each row group once.
    pub fn plan(&self, range: Option<Range<u64>>) -> Vec<RowGroupTask> {
        let mut tasks = Vec::new();
        let mut first_row = 0;
        for (number, group) in self.metadata.row_groups().iter().enumerate() {
            let rows = group.num_rows().unsigned_abs();
            let starts = group.columns().iter().map(|column| column.byte_range().0);
            let wanted = match &range {
                None => true,
                Some(range) => starts.min().is_some_and(|start| range.contains(&start)),
            };
            if wanted {
                let byte_ranges = self.byte_ranges(number, &self.columns.read);
                tasks.push(RowGroupTask { row_group: number, rows, first_row, byte_ranges });
            }
            first_row += rows;
        }
        tasks
    }

    /// The bytes of some columns of a row group, in file order, neighbours joined.
    pub(super) fn byte_ranges(&self, row_group: usize, columns: &[usize]) -> Vec<Range<u64>> {
        let chunks =
            self.metadata.row_groups().get(row_group).map(|group| group.columns()).unwrap_or_default();
        let leaves = columns.iter().filter_map(|column| self.leaves.get(*column)).cloned().flatten();
        let mut ranges: Vec<Range<u64>> = leaves
            .filter_map(|leaf| chunks.get(leaf))
            .map(|chunk| {
                let (start, length) = chunk.byte_range();
                start..start + length
            })
            .collect();
        join(&mut ranges);
        ranges
    }

    /// Decodes a row group whose bytes were fetched: one buffer for each of the task's ranges.
    ///
    /// # Errors
    /// Where a range is missing or short, or the row group is damaged.
    pub fn decode_row_group(
        self: &Arc<Self>,
        task: &RowGroupTask,
        fetched: Vec<Bytes>,
    ) -> Result<RowGroupDecoder> {
        self.decode_group(task, task.fetched(fetched)?)
    }

    /// As [`ParquetFile::decode_row_group`].
    ///
    /// # Errors
    /// Where the row group is damaged.
    pub fn decode_group(self: &Arc<Self>, task: &RowGroupTask, bytes: GroupBytes) -> Result<RowGroupDecoder> {
        RowGroupDecoder::new(self.clone(), task.clone(), bytes, None, None)
    }

    /// The bytes of a row group that is too large to be held: they are read as they are needed, more than once
    /// where they are used more than once.
    pub fn in_store(&self, task: &RowGroupTask, store: Arc<dyn BlockingRanges>) -> GroupBytes {
        let leaves = self.leaves_read();
        let group = self.metadata.row_groups().get(task.row_group);
        let chunks = leaves.filter_map(|leaf| group?.columns().get(leaf));
        let ranges = chunks.map(|chunk| {
            let (start, length) = chunk.byte_range();
            start..start + length
        });
        GroupBytes::in_store(ranges.collect(), store)
    }

    /// The leaf columns to read.
    pub(super) fn leaves_read(&self) -> impl Iterator<Item = usize> {
        self.columns.read.iter().filter_map(|column| self.leaves.get(*column)).cloned().flatten()
    }
}

/// Joins neighbours.
pub(super) fn join(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let close = next.start <= last.end.saturating_add(JOIN_GAP);
        if close {
            last.end = last.end.max(next.end);
        }
        close
    });
}

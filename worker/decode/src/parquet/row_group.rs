//! Decodes the row groups: batches from the library, columns cast, rows rejected.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use ::parquet::file::reader::ChunkReader;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use bytes::Bytes;
use stevedore_common::error::{Error, Result};

use super::chunks::Chunks;
use super::file::{ParquetFile, RowGroupTask};
use super::page_sizes;
use crate::columnar::guarded;
use crate::spec::DecodedBatch;

/// The batches of one row group, in order. After an error it yields nothing more.
pub struct RowGroupDecoder {
    file: Arc<ParquetFile>,
    task: RowGroupTask,
    /// `None` where no column is read: rows are only counted.
    reader: Option<ParquetRecordBatchReader>,
    /// Rows yielded so far, rejected ones included.
    done: u64,
    failed: bool,
}

impl RowGroupDecoder {
    pub(super) fn new(
        file: Arc<ParquetFile>,
        task: RowGroupTask,
        chunks: Vec<(Range<u64>, Bytes)>,
    ) -> Result<Self> {
        let reader = if file.columns.read.is_empty() {
            None
        } else {
            let chunks = Chunks::new(chunks);
            check_pages(&file, &task, &chunks)?;
            let reader = guarded(
                || part(&task),
                || {
                    ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, file.reader.clone())
                        .with_row_groups(vec![task.row_group])
                        .with_projection(file.projection())
                        .with_batch_size(file.columns.spec.batch_rows.max(1))
                        .build()
                        .map_err(|error| damaged(&task, &error))
                },
            )?;
            Some(reader)
        };
        Ok(Self { file, task, reader, done: 0, failed: false })
    }

    fn next_columns(&mut self) -> Result<Option<RecordBatch>> {
        let left = self.task.rows - self.done;
        match &mut self.reader {
            None if left == 0 => Ok(None),
            None => {
                let rows = left.min(self.file.columns.spec.batch_rows.max(1) as u64) as usize;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let empty = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options);
                empty.map(Some).map_err(|error| Error::internal(error.to_string()))
            }
            Some(reader) => {
                let task = &self.task;
                let batch = guarded(
                    || part(task),
                    || reader.next().transpose().map_err(|error| damaged(task, &error)),
                )?;
                match &batch {
                    None if left > 0 => Err(Error::bad_data(format!(
                        "{} is damaged (it has {} rows, its footer claims {})",
                        part(&self.task),
                        self.done,
                        self.task.rows
                    ))),
                    Some(batch) if batch.num_rows() as u64 > left => Err(Error::bad_data(format!(
                        "{} is damaged (it has more than the {} rows that its footer claims)",
                        part(&self.task),
                        self.task.rows
                    ))),
                    _ => Ok(batch),
                }
            }
        }
    }

    fn decode(&mut self, batch: &RecordBatch) -> Result<DecodedBatch> {
        let rows = batch.num_rows() as u64;
        let first_row = self.task.first_row + self.done;
        let decoded = self.file.columns.decode(batch, first_row, self.share_of(rows))?;
        self.done += rows;
        Ok(decoded)
    }

    /// The part of the row group's bytes that the next `rows` rows stand for; the parts add up.
    fn share_of(&self, rows: u64) -> u64 {
        let total = u128::from(self.task.input_bytes());
        let upto = |row: u64| total * u128::from(row) / u128::from(self.task.rows.max(1));
        (upto(self.done + rows) - upto(self.done)) as u64
    }
}

impl Iterator for RowGroupDecoder {
    type Item = Result<DecodedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = match self.next_columns() {
            Ok(None) => return None,
            Ok(Some(batch)) => self.decode(&batch),
            Err(error) => Err(error),
        };
        self.failed = result.is_err();
        Some(result)
    }
}

/// Refuses pages that claim to be larger than they can be.
fn check_pages(file: &ParquetFile, task: &RowGroupTask, chunks: &Chunks) -> Result<()> {
    let Some(group) = file.metadata.row_groups().get(task.row_group) else { return Ok(()) };
    for leaf in file.columns.read.iter().flat_map(|i| file.leaves[*i].clone()) {
        let Some(column) = group.columns().get(leaf) else { continue };
        let (start, length) = column.byte_range();
        let Ok(bytes) = chunks.get_bytes(start, length as usize) else { continue };
        page_sizes::check(&bytes, column.compression()).map_err(|what| damaged(task, &what))?;
    }
    Ok(())
}

fn part(task: &RowGroupTask) -> String {
    format!("row group {} of the Parquet file", task.row_group + 1)
}

fn damaged(task: &RowGroupTask, error: &dyn std::fmt::Display) -> Error {
    Error::bad_data(format!("{} is damaged: {error}", part(task)))
}

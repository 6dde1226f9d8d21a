//! Decodes the row groups: batches from the library, columns cast, rows rejected.

use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use stevedore_common::error::{Error, Result};

use super::chunks::GroupBytes;
use super::file::{ParquetFile, RowGroupTask};
use super::filter::SelectedRows;
use crate::columnar::guarded;
use crate::spec::DecodedBatch;

/// The batches of one row group, in order. After an error it yields nothing more.
pub struct RowGroupDecoder {
    file: Arc<ParquetFile>,
    task: RowGroupTask,
    bytes: GroupBytes,
    /// `None` where no column is read: rows are only counted.
    reader: Option<ParquetRecordBatchReader>,
    /// The numbers of the rows to come within the row group.
    numbers: Box<dyn Iterator<Item = u64> + Send>,
    /// How many rows are read.
    rows: u64,
    /// Rows yielded so far, rejected ones included.
    done: u64,
    failed: bool,
}

impl RowGroupDecoder {
    pub(super) fn new(
        file: Arc<ParquetFile>,
        task: RowGroupTask,
        bytes: GroupBytes,
        selected: Option<SelectedRows>,
    ) -> Result<Self> {
        let reader = if file.columns.read.is_empty() {
            None
        } else {
            check_pages(&file, &task, &bytes)?;
            let reader = guarded(
                || part(&task),
                || {
                    let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(
                        bytes.clone(),
                        file.reader.clone(),
                    )
                    .with_row_groups(vec![task.row_group])
                    .with_projection(file.projection())
                    .with_batch_size(file.columns.spec.batch_rows.max(1));
                    if let Some(selected) = &selected {
                        reader = reader.with_row_selection(selected.selection());
                    }
                    reader.build().map_err(|error| bytes.failure().unwrap_or_else(|| damaged(&task, &error)))
                },
            )?;
            Some(reader)
        };
        let rows = selected.as_ref().map_or(task.rows, |selected| selected.count);
        let numbers: Box<dyn Iterator<Item = u64> + Send> = match selected {
            Some(selected) => Box::new(selected.numbers()),
            None => Box::new(0..task.rows),
        };
        Ok(Self { file, task, bytes, reader, numbers, rows, done: 0, failed: false })
    }

    fn next_columns(&mut self) -> Result<Option<RecordBatch>> {
        let left = self.rows - self.done;
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
                        self.rows
                    ))),
                    Some(batch) if batch.num_rows() as u64 > left => Err(Error::bad_data(format!(
                        "{} is damaged (it has more than the {} rows that its footer claims)",
                        part(&self.task),
                        self.rows
                    ))),
                    _ => Ok(batch),
                }
            }
        }
    }

    fn decode(&mut self, batch: &RecordBatch) -> Result<DecodedBatch> {
        let rows = batch.num_rows() as u64;
        let first = self.task.first_row;
        let numbers = self.numbers.by_ref().take(batch.num_rows()).map(|row| first + row).collect();
        let decoded = self.file.columns.decode_rows(batch, numbers, self.share_of(rows))?;
        self.done += rows;
        Ok(decoded)
    }

    /// The part of the bytes read that the next `rows` rows stand for; the parts add up.
    fn share_of(&self, rows: u64) -> u64 {
        let total = u128::from(self.task.input_bytes());
        let upto = |row: u64| total * u128::from(row) / u128::from(self.rows.max(1));
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
            // Where the store failed, the file is not to blame.
            Err(error) => Err(self.bytes.failure().unwrap_or(error)),
        };
        self.failed = result.is_err();
        Some(result)
    }
}

/// Refuses pages that claim to be larger than they can be.
fn check_pages(file: &ParquetFile, task: &RowGroupTask, bytes: &GroupBytes) -> Result<()> {
    let Some(group) = file.metadata.row_groups().get(task.row_group) else { return Ok(()) };
    let leaves = file.columns.read.iter().flat_map(|i| file.leaves[*i].clone());
    leaves
        .filter_map(|leaf| group.columns().get(leaf))
        .try_for_each(|chunk| bytes.check_pages(chunk).map_err(|what| damaged(task, &what)))
}

fn part(task: &RowGroupTask) -> String {
    format!("row group {} of the Parquet file", task.row_group + 1)
}

fn damaged(task: &RowGroupTask, error: &dyn std::fmt::Display) -> Error {
    Error::bad_data(format!("{} is damaged: {error}", part(task)))
}

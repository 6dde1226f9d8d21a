//! Decodes the row groups: batches from the library, columns cast, rows rejected.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use stevedore_common::error::{Error, Result};

use super::batch_memory::GroupReader;
use super::chunks::GroupBytes;
use super::file::{ParquetFile, RowGroupTask};
use super::filter::SelectedRows;
use super::page_index::PageIndex;
use super::reader::Reading;
use crate::columnar::{PartRows, guarded};
use crate::spec::DecodedBatch;

/// The batches of one row group, in order. After an error it yields nothing more.
pub struct RowGroupDecoder {
    file: Arc<ParquetFile>,
    task: RowGroupTask,
    bytes: GroupBytes,
    /// `None` where no column is read: rows are only counted.
    reader: Option<GroupReader>,
    /// Which of the rows that the library gives are wanted; `None`: all of them.
    wanted: Option<Wanted>,
    /// The numbers of the rows to come within the row group.
    numbers: Box<dyn Iterator<Item = u64> + Send>,
    rows: PartRows,
    failed: bool,
}

/// Which rows are wanted of those that are decoded.
struct Wanted {
    rows: BooleanBuffer,
    /// Rows decoded so far.
    read: usize,
}

impl Wanted {
    /// The wanted rows of the next batch.
    fn of(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let end = self.read + batch.num_rows();
        if end > self.rows.len() {
            return Err(Error::internal(format!("{end} rows were decoded of {}", self.rows.len())));
        }
        let mask = self.rows.slice(self.read, batch.num_rows());
        self.read = end;
        filter_record_batch(batch, &BooleanArray::new(mask, None))
            .map_err(|error| Error::internal(error.to_string()))
    }
}

impl RowGroupDecoder {
    pub(super) fn new(
        file: Arc<ParquetFile>,
        task: RowGroupTask,
        bytes: GroupBytes,
        selected: Option<SelectedRows>,
        index: Option<&PageIndex>,
    ) -> Result<Self> {
        let rows = selected.as_ref().map_or(task.rows, |selected| selected.count);
        let rows = PartRows::new(rows, task.input_bytes());
        let numbers: Box<dyn Iterator<Item = u64> + Send> = match &selected {
            Some(selected) => Box::new(selected.numbers()),
            None => Box::new(0..task.rows),
        };
        let (selection, wanted) = match selected.map(SelectedRows::into_read) {
            Some((selection, wanted)) => (Some(selection), wanted),
            None => (None, None),
        };
        let reader = if file.columns.read.is_empty() {
            None
        } else {
            let reading = Reading { row_group: task.row_group, bytes: &bytes, rows: selection, index };
            let reader = guarded(
                || part(&task),
                || {
                    let reader = GroupReader::new(&file, &reading, &file.columns.read);
                    reader.map_err(|error| bytes.failure().unwrap_or_else(|| damaged(&task, &error)))
                },
            )?;
            Some(reader)
        };
        let wanted = wanted.map(|wanted| Wanted { rows: wanted, read: 0 });
        Ok(Self { file, task, bytes, reader, wanted, numbers, rows, failed: false })
    }

    fn next_columns(&mut self) -> Result<Option<RecordBatch>> {
        let left = self.rows.left();
        match &mut self.reader {
            None => self.rows.count(self.file.columns.spec.batch_rows),
            Some(reader) => {
                let (task, file) = (&self.task, &self.file);
                let mut next = || {
                    guarded(
                        || part(task),
                        || reader.next(file).transpose().map_err(|error| damaged(task, &error)),
                    )
                };
                let batch = match &mut self.wanted {
                    None => next()?,
                    Some(wanted) => loop {
                        let Some(batch) = next()? else { break None };
                        let batch = wanted.of(&batch)?;
                        if batch.num_rows() > 0 {
                            break Some(batch);
                        }
                    },
                };
                match &batch {
                    None if left > 0 => Err(Error::bad_data(format!(
                        "{} is damaged (it has {} rows, its footer claims {})",
                        part(&self.task),
                        self.rows.done(),
                        self.rows.all()
                    ))),
                    Some(batch) if batch.num_rows() as u64 > left => Err(Error::bad_data(format!(
                        "{} is damaged (it has more than the {} rows that its footer claims)",
                        part(&self.task),
                        self.rows.all()
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
        let decoded = self.file.columns.decode_rows(batch, numbers, self.rows.share_of(rows))?;
        self.rows.advance(rows);
        Ok(decoded)
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

fn part(task: &RowGroupTask) -> String {
    format!("row group {} of the Parquet file", task.row_group + 1)
}

fn damaged(task: &RowGroupTask, error: &dyn std::fmt::Display) -> Error {
    Error::bad_data(format!("{} is damaged: {error}", part(task)))
}

//! Decodes the row groups: batches from the library, columns cast, rows rejected.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

use super::chunks::Chunks;
use super::file::{Output, ParquetFile, RowGroupTask, Source, is_text};
use super::guarded;
use crate::cast::{self, CastContext};
use crate::errors;
use crate::spec::{DecodedBatch, RowError};
use crate::variant;

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

/// A rejected value: its row in the batch, its column, the message.
type Rejected = (usize, usize, String);

impl RowGroupDecoder {
    pub(super) fn new(
        file: Arc<ParquetFile>,
        task: RowGroupTask,
        chunks: Vec<(Range<u64>, Bytes)>,
    ) -> Result<Self> {
        let reader = if file.read.is_empty() {
            None
        } else {
            let reader = guarded(
                || part(&task),
                || {
                    ParquetRecordBatchReaderBuilder::new_with_metadata(
                        Chunks::new(chunks),
                        file.reader.clone(),
                    )
                    .with_row_groups(vec![task.row_group])
                    .with_projection(file.projection())
                    .with_batch_size(file.spec.batch_rows.max(1))
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
                let rows = left.min(self.file.spec.batch_rows.max(1) as u64) as usize;
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
        let rows = batch.num_rows();
        let mut rejected: Vec<Rejected> = Vec::new();
        let mut columns = Vec::with_capacity(self.file.outputs.len());
        let mut defaulted = Vec::with_capacity(self.file.outputs.len());
        for (index, output) in self.file.outputs.iter().enumerate() {
            let first = rejected.len();
            let values = self.column(batch, index, output, &mut rejected)?;
            let default = matches!(output.source, Source::Missing) && output.column.has_default;
            if !output.column.nullable && !default && values.logical_null_count() > 0 {
                let known: Vec<usize> = rejected[first..].iter().map(|(row, _, _)| *row).collect();
                let nulls = values.logical_nulls();
                for row in (0..rows).filter(|row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(*row))) {
                    if known.binary_search(&row).is_err() {
                        let message = errors::null_value(index + 1, &output.column.name, &output.ty);
                        rejected.push((row, index, message));
                    }
                }
            }
            columns.push(values);
            defaulted.push(default.then(|| BooleanArray::from(vec![true; rows])));
        }
        let first_row = self.task.first_row + self.done;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let mut batch = RecordBatch::try_new_with_options(self.file.schema().clone(), columns, &options)
            .map_err(|error| Error::internal(format!("columns do not fit their schema: {error}")))?;
        let numbers = first_row..first_row + rows as u64;
        let mut row_numbers: Vec<u64> = numbers.collect();
        let mut errors = Vec::new();
        if !rejected.is_empty() {
            rejected.sort_by_key(|(row, column, _)| (*row, *column));
            rejected.dedup_by_key(|(row, _, _)| *row);
            let mut good = vec![true; rows];
            for (row, _, message) in rejected {
                good[row] = false;
                let number = first_row + row as u64;
                errors.push(RowError { line: number + 1, row: number, message });
            }
            row_numbers.retain(|number| good[(number - first_row) as usize]);
            let good = BooleanArray::from(good);
            let filtered = |error| Error::internal(format!("rows cannot be filtered: {error}"));
            batch = compute::filter_record_batch(&batch, &good).map_err(filtered)?;
            for mask in defaulted.iter_mut().flatten() {
                *mask = BooleanArray::from(vec![true; batch.num_rows()]);
            }
        }
        let lines = row_numbers.iter().map(|number| number + 1).collect();
        let input_bytes = self.share_of(rows as u64);
        self.done += rows as u64;
        Ok(DecodedBatch { batch, row_numbers, lines, defaulted, errors, input_bytes })
    }

    /// The part of the row group's bytes that the next `rows` rows stand for; the parts add up.
    fn share_of(&self, rows: u64) -> u64 {
        let total = u128::from(self.task.input_bytes());
        let upto = |row: u64| total * u128::from(row) / u128::from(self.task.rows.max(1));
        (upto(self.done + rows) - upto(self.done)) as u64
    }

    /// The array of a column of the file within a batch.
    fn source(&self, batch: &RecordBatch, column: usize) -> Result<(ArrayRef, Field)> {
        let position = self.file.read.binary_search(&column);
        let array = position.ok().and_then(|position| batch.columns().get(position));
        let array = array.ok_or_else(|| Error::internal("a column was not read"))?;
        let column = &self.file.columns[column];
        let mut field = column.source_field();
        let mut array = match &column.physical {
            Some(physical) => compute::cast(array, physical)
                .map_err(|error| Error::bad_data(format!("column '{}': {error}", column.name)))?,
            None => array.clone(),
        };
        let null_if = &self.file.spec.format.null_if;
        if !null_if.is_empty() && is_text(field.data_type()) {
            array = nulls_for(&array, null_if)?;
            field = Field::new(field.name(), DataType::Utf8, true);
        }
        Ok((array, field))
    }

    fn column(
        &self,
        batch: &RecordBatch,
        index: usize,
        output: &Output,
        rejected: &mut Vec<Rejected>,
    ) -> Result<ArrayRef> {
        let options = &self.file.spec.cast;
        let mut convert = |array: &ArrayRef, from: &Field, ty: &SqlType, name: &str| -> Result<ArrayRef> {
            let context = CastContext { column_number: index + 1, column_name: name.to_owned() };
            let result = cast::cast(array, from, ty, options, &context)?;
            let messages = result.rejects.map(|rejects| rejects.messages).unwrap_or_default();
            rejected.extend(messages.into_iter().map(|(row, message)| (row, index, message)));
            Ok(result.values)
        };
        match &output.source {
            Source::Missing => Ok(new_null_array(&output.ty.to_arrow(), batch.num_rows())),
            Source::Column(column) => {
                let (array, from) = self.source(batch, *column)?;
                convert(&array, &from, &output.ty, &output.column.name)
            }
            Source::WholeRow => {
                let mut fields = Vec::with_capacity(self.file.columns.len());
                let mut columns = Vec::with_capacity(self.file.columns.len());
                for (number, column) in self.file.columns.iter().enumerate() {
                    let ty = column.natural_type()?;
                    let (array, from) = self.source(batch, number)?;
                    columns.push(convert(&array, &from, &ty, &column.name)?);
                    fields.push(ty.to_field(&column.name, true));
                }
                let options_rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let whole =
                    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options_rows)
                        .map_err(|error| {
                            Error::internal(format!("columns do not fit their schema: {error}"))
                        })?;
                let json: ArrayRef = Arc::new(variant::rows_to_json(&whole, options)?);
                let from = SqlType::Variant.to_field("", true);
                let values = convert(&json, &from, &output.ty, &output.column.name)?;
                // Several columns of the file may have rejected one row.
                rejected.sort_by_key(|(row, column, _)| (*column, *row));
                Ok(values)
            }
        }
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

fn part(task: &RowGroupTask) -> String {
    format!("row group {} of the Parquet file", task.row_group + 1)
}

fn damaged(task: &RowGroupTask, error: &dyn std::fmt::Display) -> Error {
    Error::bad_data(format!("{} is damaged: {error}", part(task)))
}

/// NULL_IF: the strings of the list become NULL.
fn nulls_for(array: &ArrayRef, null_if: &[String]) -> Result<ArrayRef> {
    let text = compute::cast(array, &DataType::Utf8)
        .map_err(|error| Error::bad_data(format!("values cannot be read as text: {error}")))?;
    let strings = text.as_string::<i32>();
    let listed = |text: &str| null_if.iter().any(|null| null == text);
    let kept = BooleanBuffer::collect_bool(strings.len(), |row| !listed(strings.value(row)));
    if kept.count_set_bits() == strings.len() {
        return Ok(text);
    }
    let (offsets, values, nulls) = strings.clone().into_parts();
    let nulls = NullBuffer::union(nulls.as_ref(), Some(&NullBuffer::new(kept)));
    Ok(Arc::new(arrow::array::StringArray::new(offsets, values, nulls)))
}

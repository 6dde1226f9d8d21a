//! From a batch of a file's columns to output columns: casts, NULL_IF, NOT NULL, rejected rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema};
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

use super::layout::settle;
use super::plan::{ColumnPlan, Output, Source, is_text};
use crate::cast::{self, CastContext};
use crate::errors;
use crate::spec::{DecodedBatch, RowError};
use crate::variant;

/// A rejected value: its row in the batch, its column, the message.
type Rejected = (usize, usize, String);

impl ColumnPlan {
    /// The rows of a batch that holds the columns of [`ColumnPlan::read`]; `first_row` is the number of
    /// the first of them within the file, `input_bytes` what they took there.
    ///
    /// # Errors
    /// Never for a value.
    pub(crate) fn decode(
        &self,
        batch: &RecordBatch,
        first_row: u64,
        input_bytes: u64,
    ) -> Result<DecodedBatch> {
        self.decode_rows(batch, (first_row..first_row + batch.num_rows() as u64).collect(), input_bytes)
    }

    /// As [`ColumnPlan::decode`], of rows with these numbers within the file.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn decode_rows(
        &self,
        batch: &RecordBatch,
        mut row_numbers: Vec<u64>,
        input_bytes: u64,
    ) -> Result<DecodedBatch> {
        let rows = batch.num_rows();
        let mut rejected: Vec<Rejected> = Vec::new();
        let mut columns = Vec::with_capacity(self.outputs.len());
        let mut defaulted = Vec::with_capacity(self.outputs.len());
        for (index, output) in self.outputs.iter().enumerate() {
            let first = rejected.len();
            let values = self.column(batch, index, output, &mut rejected)?;
            let default = matches!(output.source, Source::Missing) && output.column.has_default;
            if !output.column.nullable && !default && values.logical_null_count() > 0 {
                let known: Vec<usize> = rejected[first..].iter().map(|(row, _, _)| *row).collect();
                let nulls = values.logical_nulls();
                for row in (0..rows).filter(|row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(*row))) {
                    if known.binary_search(&row).is_err() {
                        let message =
                            errors::null_value(self.spec.number(index), &output.column.name, &output.ty);
                        rejected.push((row, index, message));
                    }
                }
            }
            columns.push(values);
            defaulted.push(default.then(|| BooleanArray::from(vec![true; rows])));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let mut batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| Error::internal(format!("columns do not fit their schema: {error}")))?;
        let mut errors = Vec::new();
        if !rejected.is_empty() {
            rejected.sort_by_key(|(row, column, _)| (*row, *column));
            rejected.dedup_by_key(|(row, _, _)| *row);
            let mut good = vec![true; rows];
            for (row, _, message) in rejected {
                good[row] = false;
                let number = row_numbers.get(row).copied().unwrap_or_default();
                errors.push(RowError { line: number + 1, row: number, message });
            }
            let mut rows = good.iter();
            row_numbers.retain(|_| rows.next().is_some_and(|good| *good));
            let good = BooleanArray::from(good);
            let filtered = |error| Error::internal(format!("rows cannot be filtered: {error}"));
            batch = compute::filter_record_batch(&batch, &good).map_err(filtered)?;
            for mask in defaulted.iter_mut().flatten() {
                *mask = BooleanArray::from(vec![true; batch.num_rows()]);
            }
        }
        let lines = row_numbers.iter().map(|number| number + 1).collect();
        Ok(DecodedBatch { batch, row_numbers, lines, defaulted, errors, input_bytes })
    }

    /// The array of a column of the file within a batch.
    fn source(&self, batch: &RecordBatch, column: usize) -> Result<(ArrayRef, Field)> {
        let position = self.read.binary_search(&column);
        let array = position.ok().and_then(|position| batch.columns().get(position));
        self.settled(array.ok_or_else(|| Error::internal("a column was not read"))?, column)
    }

    /// An array of a column of the file as casts take it.
    fn settled(&self, array: &ArrayRef, column: usize) -> Result<(ArrayRef, Field)> {
        let column = &self.columns[column];
        let mut field = column.source.clone();
        let mut array = match &column.physical {
            Some(physical) => compute::cast(array, physical)
                .map_err(|error| Error::bad_data(format!("column '{}': {error}", column.name)))?,
            None => match &column.raw {
                Some(raw) => settle(array, raw, &self.spec.cast)
                    .map_err(|error| error.context(format!("column '{}'", column.name)))?,
                None => array.clone(),
            },
        };
        let null_if = &self.spec.format.null_if;
        if !null_if.is_empty() && is_text(field.data_type()) {
            array = nulls_for(&array, null_if)?;
            field = Field::new(field.name(), DataType::Utf8, true);
        }
        Ok((array, field))
    }

    /// The values of an output for those of its column in the file; `None` where a row of them is bad.
    ///
    /// # Errors
    /// As [`ColumnPlan::decode`].
    pub(crate) fn good_values(
        &self,
        array: &ArrayRef,
        column: usize,
        output: usize,
    ) -> Result<Option<ArrayRef>> {
        let output = &self.outputs[output];
        let (array, from) = self.settled(array, column)?;
        let context = CastContext { column_number: 0, column_name: String::new() };
        let cast = cast::cast(&array, &from, &output.ty, &self.spec.cast, &context)?;
        let refused = !output.column.nullable && cast.values.logical_null_count() > 0;
        Ok((cast.rejects.is_none() && !refused).then_some(cast.values))
    }

    fn column(
        &self,
        batch: &RecordBatch,
        index: usize,
        output: &Output,
        rejected: &mut Vec<Rejected>,
    ) -> Result<ArrayRef> {
        let options = &self.spec.cast;
        let mut convert = |array: &ArrayRef, from: &Field, ty: &SqlType, name: &str| -> Result<ArrayRef> {
            let context =
                CastContext { column_number: self.spec.number(index), column_name: name.to_owned() };
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
                let mut fields = Vec::with_capacity(self.columns.len());
                let mut columns = Vec::with_capacity(self.columns.len());
                for (number, column) in self.columns.iter().enumerate() {
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

//! The last step of every query: results in the natural Arrow types of the dialect.
//!
//! Comes in: whatever type an expression has in DataFusion (string views, nanoseconds without a zone,
//! dictionaries, nulls). Goes out: exactly what `SqlType::to_arrow` says, with the `arrow.json`
//! extension on VARIANT. Types that the dialect lacks (intervals) come out as text.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::storage_types::convert;

/// The field of a result.
pub(crate) fn natural_field(field: &Field) -> Field {
    match SqlType::from_arrow_field(field) {
        Ok(ty) => ty.to_field(field.name(), field.is_nullable()),
        Err(_) => Field::new(field.name(), DataType::Utf8, field.is_nullable()),
    }
}

/// The schema of a result.
pub(crate) fn natural_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| natural_field(field)).collect::<Vec<_>>()))
}

/// Brings a batch into a schema that [`natural_schema`] made.
pub(crate) fn natural_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| natural_array(column, field.data_type()))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| Error::internal(format!("a result does not have its own schema: {e}")))
}

pub(crate) fn natural_array(array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    if *target == DataType::Utf8 && !array.data_type().is_nested() {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        return cast_with_options(array, target, &options).map_err(|e| Error::invalid(e.to_string()));
    }
    convert(array, target)
}

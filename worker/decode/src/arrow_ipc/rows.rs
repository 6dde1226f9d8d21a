//! A file or stream and what is wanted of it; record batches decoded.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::read_record_batch;
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

use super::body::{check_claims, unpack, wanted_buffers};
use super::file::batch;
use super::message::{BatchMessage, damaged, parse};
use super::weight::{may_grow, rows_within};
use crate::columnar::{ColumnPlan, FileColumn, HeldRows, columns_in_sql, guarded};
use crate::spec::{DecodeSpec, DecodedBatch};

/// Values that are stored once and stand in many rows are written out in batches of about this size.
const BATCH_BYTES: u64 = 64 << 20;

/// The columns of a schema, their types and whether they may be NULL.
///
/// # Errors
/// Names the column that the dialect has no type for.
pub fn schema_columns(schema: &Schema) -> Result<Vec<(String, SqlType, bool)>> {
    columns_in_sql(&columns(schema))
}

fn columns(schema: &Schema) -> Vec<FileColumn> {
    schema.fields().iter().map(|field| FileColumn::foreign(field.as_ref().clone())).collect()
}

/// A file or stream that is about to be decoded. Cheap to share: everything in it is immutable.
pub struct ArrowFile {
    schema: SchemaRef,
    columns: ColumnPlan,
    limit: u64,
    /// Whether values of the columns that are read may stand in many rows and be stored once.
    may_grow: bool,
}

impl ArrowFile {
    /// Matches the columns of a spec to a schema. A record batch may take `limit` bytes in memory.
    ///
    /// # Errors
    /// A wanted column is missing (MISSING_FIELD_AS = ERROR), ambiguous, of a type that the dialect does not
    /// know, or never casts to the type wanted.
    pub fn open(schema: &SchemaRef, spec: &DecodeSpec, limit: u64) -> Result<Self> {
        let columns = ColumnPlan::new(columns(schema), spec)?;
        let may_grow = columns.read.iter().any(|column| may_grow(schema.field(*column).data_type()));
        Ok(Self { schema: Arc::clone(schema), columns, limit, may_grow })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    /// Decodes a record batch.
    pub fn decode(self: &Arc<Self>, message: BatchMessage) -> BatchDecoder {
        let rows = HeldRows::new(message.first_row, message.rows, message.input_bytes);
        BatchDecoder { file: Arc::clone(self), message, rows }
    }

    /// The columns that are read of a record batch.
    fn rows(&self, message: &BatchMessage) -> Result<RecordBatch> {
        let part = batch(message.number);
        let read = &self.columns.read;
        if read.is_empty() {
            check_claims(&message.metadata, &message.body, self.limit, &part)?;
            let rows = usize::try_from(message.rows).map_err(|_| damaged(&part, "its rows"))?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            return RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)
                .map_err(|error| Error::internal(error.to_string()));
        }
        let wanted = {
            let parsed = parse(&message.metadata, &part)?;
            let header = parsed.header_as_record_batch().ok_or_else(|| damaged(&part, "it has no header"))?;
            wanted_buffers(&header, &self.schema, read, parsed.version())
        };
        let limit = self.limit.saturating_sub(message.dictionaries.bytes());
        let unpacked = unpack(&message.metadata, message.body.clone(), Some(&wanted), limit, &part)?;
        let parsed = parse(&unpacked.metadata, &part)?;
        let header = parsed.header_as_record_batch().ok_or_else(|| damaged(&part, "it has no header"))?;
        let (schema, arrays) = (Arc::clone(&self.schema), &message.dictionaries.arrays);
        let rows = guarded(
            || part.clone(),
            || {
                read_record_batch(&unpacked.body, header, schema, arrays, Some(read), &parsed.version())
                    .map_err(|error| damaged(&part, error))
            },
        )?;
        if rows.num_rows() as u64 != message.rows {
            return Err(damaged(&part, "it has fewer rows than it claims"));
        }
        Ok(rows)
    }
}

/// The batches of one record batch, in order. After an error it yields nothing more.
pub struct BatchDecoder {
    file: Arc<ArrowFile>,
    message: BatchMessage,
    rows: HeldRows,
}

impl Iterator for BatchDecoder {
    type Item = Result<DecodedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { file, message, rows } = self;
        let number = message.number;
        let read = || {
            let all = file.rows(message)?;
            message.body.clear();
            Ok(all)
        };
        let most = |all: &RecordBatch, first, rows| {
            if file.may_grow { rows_within(all, first, rows, BATCH_BYTES) } else { rows }
        };
        rows.next(&file.columns, || batch(number), read, most)
    }
}

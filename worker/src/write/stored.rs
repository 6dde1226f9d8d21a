//! Encodes columns of row groups whose other columns are taken as they are stored.
//!
//! Comes in: the values of one column, batch by batch, on the thread that decodes them. Goes out: the
//! column's chunks as this table stores them. Must never hold more than the sample and the encoded pages.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{SchemaDescriptor, Type};
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{ColumnEncoder, ColumnEncoders, EncodedColumn};

use super::encode;
use super::file_writer::{is_compatible, properties};
use super::sample::leaf_encodings;

/// The columns of a table.
pub(super) struct TableEncoders {
    pub(super) storage_schema: SchemaRef,
    pub(super) parquet_schema: SchemaDescriptor,
    pub(super) leaves_per_column: Vec<usize>,
    pub(super) compatible_encodings: bool,
}

impl ColumnEncoders for TableEncoders {
    fn allow(&self, encoding: Encoding) -> bool {
        !self.compatible_encodings || is_compatible(encoding)
    }

    fn allow_version_2(&self) -> bool {
        !self.compatible_encodings
    }

    fn begin(&self, column: usize, sample: &[ArrayRef]) -> Result<Box<dyn ColumnEncoder>> {
        let failed = |error: ParquetError| Error::internal(format!("encoding a column as Parquet: {error}"));
        let missing = || Error::internal(format!("the table has no column {column}"));
        let field = self.storage_schema.fields().get(column).ok_or_else(missing)?.clone();
        let first: usize = self.leaves_per_column[..column].iter().sum();
        let leaves = self.parquet_schema.columns().iter().skip(first).take(self.leaves_per_column[column]);
        let encodings = match sample.is_empty() {
            true => Vec::new(),
            false => leaf_encodings(&alone(sample)?, 0),
        };
        let properties =
            Arc::new(properties(&self.storage_schema, leaves.zip(encodings), self.compatible_encodings)?);
        // A file of this column alone gives the writers of its leaves; nothing is written to it.
        let root = self.parquet_schema.root_schema();
        let parquet_field = root.get_fields().get(column).ok_or_else(missing)?.clone();
        let root =
            Type::group_type_builder(root.name()).with_fields(vec![parquet_field]).build().map_err(failed)?;
        let file = SerializedFileWriter::new(std::io::sink(), Arc::new(root), properties).map_err(failed)?;
        let schema = Arc::new(Schema::new(vec![field.clone()]));
        let writers =
            ArrowRowGroupWriterFactory::new(&file, schema).create_column_writers(0).map_err(failed)?;
        Ok(Box::new(StoredColumnEncoder(encode::ColumnEncoder::new(field, writers))))
    }
}

/// Batches of one column.
fn alone(sample: &[ArrayRef]) -> Result<Vec<RecordBatch>> {
    let batches = sample.iter().map(|array| {
        let schema = Schema::new(vec![Field::new("", array.data_type().clone(), true)]);
        Ok(RecordBatch::try_new(Arc::new(schema), vec![array.clone()])?)
    });
    batches.collect()
}

struct StoredColumnEncoder(encode::ColumnEncoder);

impl ColumnEncoder for StoredColumnEncoder {
    fn encode(&mut self, values: &ArrayRef) -> Result<()> {
        self.0.encode(values)
    }

    fn finish(self: Box<Self>) -> Result<EncodedColumn> {
        let (chunks, nans) = self.0.finish()?;
        let nans: HashMap<i32, u64> = nans.into_counts();
        Ok(EncodedColumn { chunks, nans })
    }
}

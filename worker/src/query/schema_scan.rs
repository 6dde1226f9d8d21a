//! What files are like, as a relation: `infer_schema` and `inspect_parquet`.
//!
//! Comes in: files, and what is asked about them. Goes out: a provider with the columns of the table
//! function, so that WHERE, ORDER BY and CREATE TABLE AS work on it as on any table. Planning reads
//! nothing; the files are looked at when the rows are wanted, on the I/O runtime, and no more once the
//! stream is dropped.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::{SchemaQuestion, SchemaScan, StageScan};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::error::{from_datafusion, to_datafusion};
use super::stage_scan::StageReader;
use crate::infer::{InferredColumn, ParquetFacts};

/// The columns of `infer_schema`.
static COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("column_name", DataType::Utf8, true),
        Field::new("type", DataType::Utf8, true),
        Field::new("nullable", DataType::Boolean, true),
        Field::new("filenames", DataType::Utf8, true),
        Field::new("order_id", DataType::Int64, true),
    ]))
});

/// The columns of `inspect_parquet`.
static FACTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        Field::new("created_by", DataType::Utf8, true),
        number("num_columns"),
        number("num_rows"),
        number("num_row_groups"),
        number("serialized_size"),
        number("max_row_groups_size_compressed"),
        number("max_row_groups_size_uncompressed"),
    ]))
});

/// The relation of a question about files.
///
/// # Errors
/// Internal, for a message that asks nothing known.
pub(crate) fn provider(
    scan: SchemaScan,
    reader: Arc<dyn StageReader>,
    io: Handle,
) -> Result<Arc<dyn TableProvider>> {
    let question = scan.question();
    let schema = match question {
        SchemaQuestion::InferSchema => Arc::clone(&COLUMNS),
        SchemaQuestion::InspectParquet => Arc::clone(&FACTS),
        SchemaQuestion::Unspecified => {
            return Err(Error::internal("a relation asks something unknown about files"));
        }
    };
    let max_records = usize::try_from(scan.max_records_per_file).unwrap_or(usize::MAX).max(1);
    let files = scan.scan.ok_or_else(|| Error::internal("a question about files came without the files"))?;
    let answer =
        Answer { files: Arc::new(files), question, max_records, schema: Arc::clone(&schema), reader, io };
    let table = StreamingTable::try_new(schema, vec![Arc::new(answer)]).map_err(|e| from_datafusion(&e))?;
    Ok(Arc::new(table))
}

/// The rows, made when they are wanted.
struct Answer {
    files: Arc<StageScan>,
    question: SchemaQuestion,
    max_records: usize,
    schema: SchemaRef,
    reader: Arc<dyn StageReader>,
    io: Handle,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} files)", self.question.as_str_name(), self.files.files.len())
    }
}

impl PartitionStream for Answer {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (files, reader) = (Arc::clone(&self.files), Arc::clone(&self.reader));
        let (question, max_records) = (self.question, self.max_records);
        let task = AbortOnDropHandle::new(self.io.spawn(async move {
            match question {
                SchemaQuestion::InspectParquet => facts_batch(&reader.inspect_parquet(&files).await?),
                _ => columns_batch(&reader.describe(&files, max_records).await?),
            }
        }));
        let batch = async move {
            let batch = match task.await {
                Ok(batch) => batch,
                Err(e) => Err(Error::internal(format!("looking at files failed: {e}"))),
            };
            batch.map_err(to_datafusion)
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream::once(batch)))
    }
}

fn columns_batch(columns: &[InferredColumn]) -> Result<RecordBatch> {
    let texts = |text: &dyn Fn(&InferredColumn) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(columns.iter().map(text)))
    };
    let arrays: Vec<ArrayRef> = vec![
        texts(&|column| column.name.clone()),
        texts(&|column| column.ty.to_string()),
        Arc::new(BooleanArray::from_iter(columns.iter().map(|column| Some(column.nullable)))),
        texts(&|column| column.filenames.clone()),
        Arc::new(Int64Array::from_iter_values((0..).take(columns.len()))),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&COLUMNS), arrays)?)
}

fn facts_batch(facts: &[ParquetFacts]) -> Result<RecordBatch> {
    let numbers = |number: &dyn Fn(&ParquetFacts) -> u64| -> ArrayRef {
        let number = |facts| i64::try_from(number(facts)).unwrap_or(i64::MAX);
        Arc::new(Int64Array::from_iter_values(facts.iter().map(number)))
    };
    let created_by: StringArray = facts.iter().map(|facts| facts.created_by.as_deref()).collect();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(created_by),
        numbers(&|facts| facts.num_columns),
        numbers(&|facts| facts.num_rows),
        numbers(&|facts| facts.num_row_groups),
        numbers(&|facts| facts.serialized_size),
        numbers(&|facts| facts.max_row_groups_size_compressed),
        numbers(&|facts| facts.max_row_groups_size_uncompressed),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&FACTS), arrays)?)
}

//! From decoded rows to rows of the table: the SELECT of a COPY, casts into the target's types, defaults,
//! NOT NULL.
//!
//! Owns: what to ask of the decoder (only the columns that are used, straight in their final type where
//! that is the same), the evaluation of expressions on batches, the finding of the rows that fail.
//! Comes in: the source of a COPY and the table. Goes out: batches with every column of the table, in
//! order, and the rejected rows with line and message. Must never fail a batch because of a row, nor
//! aggregate, join or sort: the coordinator refuses those, and so does compilation here.

mod compile;
mod defaults;
mod evaluate;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use stevedore_common::file_format::FileFormat;
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{ColumnDefaults, LEAST_ROWS, RowFilter, StoredLayout, StoredTarget};
use stevedore_decode::spec::{CastOptions, DecodeSpec, DecodedBatch, RowError};

use crate::query::stage_scan::{Metadata, StageFile};
pub(crate) use compile::target_columns;
pub use defaults::DefaultValue;

/// What a transform is compiled from.
#[derive(Debug, Clone, Copy)]
pub struct TransformRequest<'a> {
    /// The format of the files.
    pub format: &'a FileFormat,
    /// COLUMN_MATCH_MODE = CASE_SENSITIVE.
    pub case_sensitive: bool,
    /// Rendered `SELECT … FROM "<relation>" [WHERE …]`; empty: columns match by name or position.
    pub sql: &'a str,
    /// The name of the relation in it.
    pub relation: &'a str,
    /// The columns of the files, for formats whose files say them (Parquet, ORC, Avro) and where `sql` is
    /// not empty. Columns of NDJSON are VARIANT there.
    pub source_columns: &'a [(String, SqlType)],
    /// The table.
    pub table: &'a TableSchema,
    /// The table's columns that the source's columns go to, in order; empty: all.
    pub field_ids: &'a [i32],
    /// Settings of the statement.
    pub settings: &'a HashMap<String, String>,
    /// DISABLE_VARIANT_CHECK.
    pub disable_variant_check: bool,
    /// The table takes new columns, and has those that are known of.
    pub evolves: bool,
}

/// A compiled transform. Cheap to share between the batches of a slice.
#[derive(Debug)]
pub struct Transform {
    spec: DecodeSpec,
    /// Appended to the decoded columns, in order.
    metadata: Vec<Metadata>,
    /// The schema of the decoded columns and the metadata ones, as expressions see it.
    input: SchemaRef,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// What the decoder can do of the filter.
    row_filter: Option<Arc<dyn RowFilter>>,
    /// One for each column of the table.
    outputs: Vec<Output>,
    schema: SchemaRef,
    cast: CastOptions,
    scan_start_us: i64,
}

/// How a column of the table is made.
#[derive(Debug)]
struct Output {
    column: Column,
    /// Its number in messages, from 1.
    number: usize,
    source: OutputSource,
    default: Option<DefaultValue>,
}

#[derive(Debug)]
enum OutputSource {
    /// An expression over the input; `direct` where it is a column as decoded, which may ask for the default.
    Expression { expr: Arc<dyn PhysicalExpr>, direct: Option<usize> },
    /// No source column goes there.
    Default,
}

/// Rows ready for the writer.
#[derive(Debug, Clone)]
pub struct LoadedBatch {
    /// The good rows: every column of the table, in order.
    pub batch: RecordBatch,
    /// The rejected rows of the decoder and of the transform, by row.
    pub errors: Vec<RowError>,
    /// As [`DecodedBatch::input_bytes`].
    pub input_bytes: u64,
}

impl Transform {
    /// What to ask of the decoder.
    pub fn spec(&self) -> &DecodeSpec {
        &self.spec
    }

    /// The same with batches of so many decoded rows, if they were larger.
    #[must_use]
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.spec.batch_rows = self.spec.batch_rows.min(rows.max(1));
        self
    }

    /// The schema of the batches: every column of the table, with field ids.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Which rows the decoder may leave out. The filter is evaluated on the others all the same.
    pub fn row_filter(&self) -> Option<&Arc<dyn RowFilter>> {
        self.row_filter.as_ref()
    }

    /// Where each column of the table is a decoded column of its type or a default, and no row is dropped:
    /// which is which, so that row groups may be taken column by column.
    pub fn stored_target(transform: &Arc<Self>, layout: Arc<StoredLayout>) -> Option<StoredTarget> {
        if transform.filter.is_some() || !transform.metadata.is_empty() {
            return None;
        }
        let columns = transform.outputs.iter().map(|output| match &output.source {
            OutputSource::Default => Some(None),
            OutputSource::Expression { expr, .. } => {
                let column = expr.as_any().downcast_ref::<PhysicalColumn>()?.index();
                let decoded = transform.spec.columns.get(column)?.ty.as_ref()?;
                (*decoded == output.column.ty).then_some(Some(column))
            }
        });
        let columns = columns.collect::<Option<_>>()?;
        let defaults = Arc::clone(transform) as Arc<dyn ColumnDefaults>;
        Some(StoredTarget { layout, columns, defaults, least_rows: LEAST_ROWS })
    }

    /// Makes table rows of decoded ones. CPU work.
    ///
    /// # Errors
    /// Only where the batch is not what [`Transform::spec`] asks for, or memory runs out; bad rows are in
    /// the answer.
    pub fn apply(&self, decoded: DecodedBatch, file: &StageFile) -> Result<LoadedBatch> {
        evaluate::apply(self, decoded, file)
    }
}

impl ColumnDefaults for Transform {
    fn values(&self, column: usize, rows: usize) -> Result<ArrayRef> {
        let output = self
            .outputs
            .get(column)
            .ok_or_else(|| Error::internal(format!("the table has no column {column}")))?;
        evaluate::default_values(output, rows)
    }
}

#[cfg(test)]
mod tests;

//! The table that a DELETE, UPDATE or MERGE INTO changes, its rows numbered.
//!
//! Comes in: a snapshot of a table, or a share of its files. Goes out: a relation with two more columns: the
//! place of each row's file among those files, and the place of the row among the live rows of its file. The
//! same scan of the same snapshot gives the same numbers, whatever filters leave out files: each file is read
//! from its beginning to its end by one stream, and no filter goes down into it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};

use super::error::to_datafusion;
use super::table_scan::{FileScan, IcebergTable};

/// The column with the place of a row's file.
const FILE: &str = "__target_file";
/// The column with the place of a row in its file.
const ROW: &str = "__target_row";
/// How many such columns follow those of the table.
pub(crate) const NUMBERS: usize = 2;

/// A table with numbered rows.
#[derive(Debug)]
pub(crate) struct NumberedTable {
    table: IcebergTable,
    schema: SchemaRef,
    /// Places of the files that are read; empty: all.
    only: Vec<u32>,
}

impl NumberedTable {
    pub(crate) fn new(table: IcebergTable, only: Vec<u32>) -> Self {
        let mut fields: Vec<Arc<Field>> = table.schema().fields().iter().cloned().collect();
        fields.extend([FILE, ROW].map(|name| Arc::new(Field::new(name, DataType::Int64, false))));
        Self { schema: Arc::new(Schema::new(fields)), table, only }
    }
}

#[async_trait]
impl TableProvider for NumberedTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let width = self.schema.fields().len() - NUMBERS;
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..width + NUMBERS).collect());
        let read: Vec<usize> = wanted.iter().copied().filter(|index| *index < width).collect();
        let files = self.table.scan_each(state, &read, filters, &self.only).await.map_err(to_datafusion)?;
        // What is asked for, from the columns read and the two numbers after them.
        let mut place = 0..;
        let output = wanted.iter().map(|index| match index.checked_sub(width) {
            Some(number) => read.len() + number,
            None => place.next().unwrap_or(0),
        });
        let schema = Arc::new(self.schema.project(&wanted)?);
        let threads = state.config().target_partitions().clamp(1, files.len().max(1));
        let mut partitions: Vec<Vec<FileScan>> = (0..threads).map(|_| Vec::new()).collect();
        for (turn, file) in files.into_iter().enumerate() {
            if let Some(partition) = partitions.get_mut(turn % threads) {
                partition.push(file);
            }
        }
        Ok(Arc::new(NumberedScanExec::new(partitions, output.collect(), schema)))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Reads files one after the other, and numbers their rows. Has no children, so that no optimizer splits or
/// filters what it reads.
#[derive(Debug)]
struct NumberedScanExec {
    partitions: Vec<Vec<FileScan>>,
    /// Places of the output's columns.
    output: Arc<Vec<usize>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl NumberedScanExec {
    fn new(partitions: Vec<Vec<FileScan>>, output: Vec<usize>, schema: SchemaRef) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { partitions, output: Arc::new(output), schema, properties }
    }
}

impl DisplayAs for NumberedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "NumberedScanExec: files={}", self.partitions.iter().map(Vec::len).sum::<usize>())
    }
}

impl ExecutionPlan for NumberedScanExec {
    fn name(&self) -> &str {
        "NumberedScanExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        match children.is_empty() {
            true => Ok(self),
            false => Err(DataFusionError::Internal("NumberedScanExec has no input".into())),
        }
    }

    /// The rows, so that a join keeps the smaller side in memory.
    fn partition_statistics(&self, partition: Option<usize>) -> DfResult<Statistics> {
        let rows = |files: &Vec<FileScan>| files.iter().map(|file| file.rows).sum::<u64>();
        let rows = match partition {
            Some(partition) => self.partitions.get(partition).map_or(0, rows),
            None => self.partitions.iter().map(rows).sum(),
        };
        let num_rows = Precision::Inexact(usize::try_from(rows).unwrap_or(usize::MAX));
        Ok(Statistics { num_rows, ..Statistics::new_unknown(&self.schema) })
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let files = self.partitions.get(partition).cloned().unwrap_or_default();
        let (output, schema) = (Arc::clone(&self.output), Arc::clone(&self.schema));
        let streams = futures::stream::iter(files).map(move |file| {
            let (output, schema) = (Arc::clone(&output), Arc::clone(&schema));
            let mut next = 0;
            let rows = file.plan.execute(0, Arc::clone(&context))?;
            Ok::<_, DataFusionError>(
                rows.map(move |batch| numbered(&batch?, file.place, &mut next, &output, &schema)),
            )
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), streams.try_flatten())))
    }
}

fn numbered(
    batch: &RecordBatch,
    file: u32,
    next: &mut i64,
    output: &[usize],
    schema: &SchemaRef,
) -> DfResult<RecordBatch> {
    let rows = batch.num_rows();
    let first = *next;
    *next += rows as i64;
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(i64::from(file), rows)));
    columns.push(Arc::new(Int64Array::from_iter_values(first..*next)));
    let columns = output.iter().filter_map(|place| columns.get(*place).cloned()).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

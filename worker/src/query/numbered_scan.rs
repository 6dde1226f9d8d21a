//! A table whose rows say which they are, for DELETE, UPDATE and MERGE INTO, and for streams.
//!
//! Comes in: files of a table: a snapshot of it, a share of one, or what changed. Goes out: a relation with more
//! columns: the place of each row's file among those files and the row's position in it; which row it is across
//! rewrites (`stevedore_common::row_lineage`), from the file's own columns or, where they say nothing, from the file.
//! The same scan of the same files gives the same numbers, whatever filters leave out files: each file is read from
//! its beginning to its end by one stream, and no filter goes down into it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::compute::{filter_record_batch, kernels::zip::zip};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
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
use stevedore_common::row_lineage;

use super::deletes;
use super::error::to_datafusion;
use super::origins::{Origins, unique_part};
use super::table_scan::{FileScan, FileTotals, IcebergTable};

/// A column that follows those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    /// The place of the row's file.
    File,
    /// Its position there.
    Row,
    /// The file that it was first written to, by its number in [`Origins`].
    Origin,
    /// Its position there.
    OriginRow,
    /// The sequence number with which it was inserted.
    Added,
    /// The sequence number with which it last changed.
    Updated,
    /// Origin and position as a text.
    RowId,
}

impl Number {
    /// Those of every table, in their order.
    pub(crate) const ALL: [Self; 6] =
        [Self::File, Self::Row, Self::Origin, Self::OriginRow, Self::Added, Self::Updated];

    /// The name of the column.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::File => "__target_file",
            Self::Row => "__target_row",
            Self::Origin => "__target_origin",
            Self::OriginRow => "__target_origin_row",
            Self::Added => "__target_added",
            Self::Updated => "__target_updated",
            Self::RowId => "__target_row_id",
        }
    }

    fn field(self) -> Field {
        let data_type = if self == Self::RowId { DataType::Utf8 } else { DataType::Int64 };
        Field::new(self.name(), data_type, false)
    }

    fn needs_lineage(self) -> bool {
        !matches!(self, Self::File | Self::Row)
    }
}

/// A table with numbered rows.
#[derive(Debug)]
pub(crate) struct NumberedTable {
    table: IcebergTable,
    numbers: Vec<Number>,
    schema: SchemaRef,
    /// Places of the files that are read; empty: all.
    only: Vec<u32>,
    origins: Arc<Origins>,
}

impl NumberedTable {
    /// A table, or some of its files.
    pub(crate) fn new(table: IcebergTable, only: Vec<u32>, origins: Arc<Origins>) -> Self {
        Self::with_numbers(table, Number::ALL.to_vec(), only, origins)
    }

    /// With [`Number::RowId`] as well.
    pub(crate) fn with_row_ids(table: IcebergTable, origins: Arc<Origins>) -> Self {
        let numbers = Number::ALL.into_iter().chain([Number::RowId]).collect();
        Self::with_numbers(table, numbers, Vec::new(), origins)
    }

    fn with_numbers(
        table: IcebergTable,
        numbers: Vec<Number>,
        only: Vec<u32>,
        origins: Arc<Origins>,
    ) -> Self {
        let mut fields: Vec<Arc<Field>> = table.schema().fields().iter().cloned().collect();
        fields.extend(numbers.iter().map(|number| Arc::new(number.field())));
        Self { schema: Arc::new(Schema::new(fields)), table, numbers, only, origins }
    }

    /// The filters over columns of the table alone: what the manifests know of.
    fn of_table(&self, filters: &[Expr]) -> Vec<Expr> {
        let table = self.table.schema();
        let known =
            |filter: &&Expr| filter.column_refs().iter().all(|column| table.index_of(column.name()).is_ok());
        filters.iter().filter(known).cloned().collect()
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
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let width = self.schema.fields().len() - self.numbers.len();
        let wanted: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let filters = self.of_table(filters);
        if self.only.is_empty() && wanted.iter().all(|index| *index < width) {
            // Nobody asks which rows they are.
            return self.table.scan(state, Some(&wanted), &filters, limit).await;
        }
        let mut read: Vec<usize> = wanted.iter().copied().filter(|index| *index < width).collect();
        let of_table = read.len();
        let mut place = 0..;
        let output: Vec<Output> = wanted
            .iter()
            .map(|index| match index.checked_sub(width).and_then(|number| self.numbers.get(number)) {
                Some(number) => Output::Number(*number),
                None => Output::Read(place.next().unwrap_or(0)),
            })
            .collect();
        let lineage =
            output.iter().any(|output| matches!(output, Output::Number(number) if number.needs_lineage()));
        if lineage {
            read.extend(self.table.lineage_columns());
        }
        let scanned = self.table.scan_each(state, &read, &filters, &self.only).await;
        let (files, passed) = scanned.map_err(to_datafusion)?;
        let numbering = Numbering {
            output,
            lineage: lineage.then_some(of_table),
            schema: Arc::new(self.schema.project(&wanted)?),
            origins: Arc::clone(&self.origins),
        };
        let threads = state.config().target_partitions().clamp(1, files.len().max(1));
        let mut partitions: Vec<Vec<FileScan>> = (0..threads).map(|_| Vec::new()).collect();
        for (turn, file) in files.into_iter().enumerate() {
            if let Some(partition) = partitions.get_mut(turn % threads) {
                partition.push(file);
            }
        }
        Ok(Arc::new(NumberedScanExec::new(partitions, passed, numbering)))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// A column of the output.
#[derive(Debug, Clone, Copy)]
enum Output {
    /// A column that was read.
    Read(usize),
    Number(Number),
}

/// How batches of files become numbered ones.
#[derive(Debug)]
struct Numbering {
    output: Vec<Output>,
    /// Where the columns of lineage begin among those that were read, if they were.
    lineage: Option<usize>,
    schema: SchemaRef,
    origins: Arc<Origins>,
}

/// Reads files one after the other, and numbers their rows. Has no children, so that no optimizer splits or
/// filters what it reads.
#[derive(Debug)]
struct NumberedScanExec {
    partitions: Vec<Vec<FileScan>>,
    /// Files that hold no row that the filters let through.
    passed: FileTotals,
    numbering: Arc<Numbering>,
    properties: Arc<PlanProperties>,
}

impl NumberedScanExec {
    fn new(partitions: Vec<Vec<FileScan>>, passed: FileTotals, numbering: Numbering) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&numbering.schema)),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { partitions, passed, numbering: Arc::new(numbering), properties }
    }
}

impl DisplayAs for NumberedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let read = self.partitions.iter().flatten().fold(FileTotals::default(), |mut read, file| {
            read.count(file.rows, file.bytes);
            read
        });
        write!(f, "NumberedScanExec: files=[{read}], pruned=[{}]", self.passed)
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

    /// Rows and bytes, so that a join keeps the smaller side in memory.
    fn partition_statistics(&self, partition: Option<usize>) -> DfResult<Statistics> {
        let Numbering { output, schema, .. } = self.numbering.as_ref();
        let numbers = output.iter().filter(|output| matches!(output, Output::Number(_))).count() as u64;
        let read = |file: &FileScan| {
            let known = file.plan.partition_statistics(None).ok();
            known.and_then(|known| known.total_byte_size.get_value().copied()).unwrap_or(0) as u64
        };
        let count = |files: &Vec<FileScan>| {
            let rows = files.iter().map(|file| file.rows).sum::<u64>();
            (rows, rows * numbers * 8 + files.iter().map(read).sum::<u64>())
        };
        let (rows, bytes) = match partition {
            Some(partition) => self.partitions.get(partition).map_or((0, 0), count),
            None => self.partitions.iter().map(count).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1)),
        };
        let inexact = |n: u64| Precision::Inexact(usize::try_from(n).unwrap_or(usize::MAX));
        let unknown = Statistics::new_unknown(schema);
        Ok(Statistics { num_rows: inexact(rows), total_byte_size: inexact(bytes), ..unknown })
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let files = self.partitions.get(partition).cloned().unwrap_or_default();
        let numbering = Arc::clone(&self.numbering);
        let streams = futures::stream::iter(files).map(move |file| {
            let numbering = Arc::clone(&numbering);
            let rows = file.plan.execute(0, Arc::clone(&context))?;
            let mut positions = Positions { gone: Arc::clone(&file.gone), passed: 0, next: 0 };
            Ok::<_, DataFusionError>(rows.map(move |batch| numbering.number(&batch?, &file, &mut positions)))
        });
        let schema = Arc::clone(&self.numbering.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, streams.try_flatten())))
    }
}

/// The positions of the rows of a file that are not gone, in order.
struct Positions {
    /// Those that are, ascending.
    gone: Arc<Vec<u64>>,
    passed: usize,
    next: u64,
}

impl Positions {
    fn take(&mut self, rows: usize) -> Int64Array {
        let next = |_| {
            while self.gone.get(self.passed).is_some_and(|gone| *gone <= self.next) {
                self.next = self.next.max(self.gone[self.passed] + 1);
                self.passed += 1;
            }
            self.next += 1;
            self.next as i64 - 1
        };
        Int64Array::from_iter_values((0..rows).map(next))
    }
}

/// Which rows those of a batch are.
struct Lineage {
    origins: Int64Array,
    rows: Int64Array,
    added: Int64Array,
    updated: Int64Array,
}

impl Numbering {
    fn number(
        &self,
        batch: &RecordBatch,
        file: &FileScan,
        positions: &mut Positions,
    ) -> DfResult<RecordBatch> {
        let rows = batch.num_rows();
        let positions = positions.take(rows);
        let lineage = match self.lineage {
            Some(first) => Some(self.lineage(batch, first, file, &positions)?),
            None => None,
        };
        let missing = || DataFusionError::Internal("the lineage of rows was not read".into());
        let column = |output: &Output| -> DfResult<ArrayRef> {
            let number = match output {
                Output::Read(index) => return Ok(Arc::clone(batch.column(*index))),
                Output::Number(number) => number,
            };
            let lineage = || lineage.as_ref().ok_or_else(missing);
            Ok(match number {
                Number::File => Arc::new(Int64Array::from_value(i64::from(file.place), rows)),
                Number::Row => Arc::new(positions.clone()),
                Number::Origin => Arc::new(lineage()?.origins.clone()),
                Number::OriginRow => Arc::new(lineage()?.rows.clone()),
                Number::Added => Arc::new(lineage()?.added.clone()),
                Number::Updated => Arc::new(lineage()?.updated.clone()),
                Number::RowId => self.row_ids(lineage()?),
            })
        };
        let columns = self.output.iter().map(column).collect::<DfResult<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let numbered = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        if file.keys.is_empty() {
            return Ok(numbered);
        }
        let keep = deletes::remaining(batch, &file.keys).map_err(to_datafusion)?;
        Ok(filter_record_batch(&numbered, &keep)?)
    }

    fn lineage(
        &self,
        batch: &RecordBatch,
        first: usize,
        file: &FileScan,
        positions: &Int64Array,
    ) -> DfResult<Lineage> {
        let rows = batch.num_rows();
        let or_else = |index: usize, otherwise: &Int64Array| -> DfResult<Int64Array> {
            let column = batch.column(first + index);
            Ok(match column.null_count() {
                0 => column.as_primitive::<Int64Type>().clone(),
                nulls if nulls == rows => otherwise.clone(),
                _ => zip(&arrow::compute::is_not_null(column)?, column, otherwise)?
                    .as_primitive::<Int64Type>()
                    .clone(),
            })
        };
        let own = self.origins.number(row_lineage::origin_name(&file.table_location, &file.location));
        let names = batch.column(first).as_string::<i32>();
        let origins = if names.null_count() == rows {
            Int64Array::from_value(own, rows)
        } else {
            // Rows that came from one file mostly stand together.
            let mut last: Option<(&str, i64)> = None;
            let mut numbers = Vec::with_capacity(rows);
            for name in names {
                numbers.push(match (name, last) {
                    (None, _) => own,
                    (Some(name), Some((known, number))) if name == known => number,
                    (Some(name), _) => {
                        let number = self.origins.number(name);
                        last = Some((name, number));
                        number
                    }
                });
            }
            Int64Array::from(numbers)
        };
        let sequence = Int64Array::from_value(file.sequence, rows);
        Ok(Lineage {
            origins,
            rows: or_else(1, positions)?,
            added: or_else(2, &sequence)?,
            updated: or_else(3, &sequence)?,
        })
    }

    fn row_ids(&self, lineage: &Lineage) -> ArrayRef {
        use std::fmt::Write;
        let mut ids = StringBuilder::with_capacity(lineage.rows.len(), lineage.rows.len() * 40);
        let mut last: Option<(i64, Arc<str>)> = None;
        for (origin, row) in lineage.origins.values().iter().zip(lineage.rows.values()) {
            if last.as_ref().is_none_or(|(known, _)| known != origin) {
                last = self.origins.name(*origin).map(|name| (*origin, name));
            }
            let name = last.as_ref().map_or("", |(_, name)| unique_part(name));
            // A builder of text takes what is written; it cannot fail.
            let _ = write!(ids, "{name}:{row:x}");
            ids.append_value("");
        }
        Arc::new(ids.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_step_over_the_rows_that_are_gone() {
        let mut positions = Positions { gone: Arc::new(vec![0, 1, 4, 5, 8]), passed: 0, next: 0 };
        assert_eq!(positions.take(3).values(), &[2, 3, 6]);
        assert_eq!(positions.take(2).values(), &[7, 9]);
    }
}

//! The rows of the files that went, without those that only moved: the older half of what a stream compares.
//!
//! Comes in: numbered rows of the files that only the earlier snapshot has, and of those that stand for them in the
//! later one. Goes out: the former that are gone or have other values now, with a column that says which. Which rows
//! the later files hold is read first and kept as sets of positions, by the file that each row was first written
//! to: a bit a row at most, within the memory of queries. More than that fails the query.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::numbered_scan::{Number, NumberedTable};
use super::row_set::RowSet;

/// The column that says whether a row is there with other values; else it is gone.
pub(super) const IS_UPDATED: &str = "__target_is_updated";

/// The rows of `old` that are not, or are others, in `new`.
#[derive(Debug)]
pub(super) struct ComparedTable {
    old: NumberedTable,
    new: NumberedTable,
    /// Rows that last changed with a later sequence number have other values.
    since: i64,
    schema: SchemaRef,
}

impl ComparedTable {
    pub(super) fn new(old: NumberedTable, new: NumberedTable, since: i64) -> Self {
        let flag = Arc::new(Field::new(IS_UPDATED, DataType::Boolean, false));
        let fields: Vec<_> = old.schema().fields().iter().cloned().chain([flag]).collect();
        Self { old, new, since, schema: Arc::new(Schema::new(fields)) }
    }
}

#[async_trait]
impl TableProvider for ComparedTable {
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
        let flag = self.schema.fields().len() - 1;
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..=flag).collect());
        let mut read: Vec<usize> = wanted.iter().copied().filter(|index| *index != flag).collect();
        let mut place = 0..;
        let output = wanted.iter().map(|index| (*index != flag).then(|| place.next().unwrap_or(0))).collect();
        let mut key = |number: Number| -> DfResult<usize> {
            let index = self.schema.index_of(number.name())?;
            Ok(read.iter().position(|known| *known == index).unwrap_or_else(|| {
                read.push(index);
                read.len() - 1
            }))
        };
        let keys = [key(Number::Origin)?, key(Number::OriginRow)?];
        let old = self.old.scan(state, Some(&read), filters, None).await?;
        let numbers = [Number::Origin, Number::OriginRow, Number::Updated]
            .iter()
            .map(|number| self.new.schema().index_of(number.name()))
            .collect::<Result<Vec<_>, _>>()?;
        // Whatever filters say of the rows that went, any row may stand for them.
        let new = self.new.scan(state, Some(&numbers), &[], None).await?;
        let schema = Arc::new(self.schema.project(&wanted)?);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(old.properties().output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Arc::new(ComparedScanExec {
            old,
            new,
            since: self.since,
            standing: Arc::default(),
            output,
            keys,
            schema,
            properties,
        }))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Has no children, so that no optimizer splits what it reads, as [`NumberedTable`]'s.
struct ComparedScanExec {
    old: Arc<dyn ExecutionPlan>,
    new: Arc<dyn ExecutionPlan>,
    since: i64,
    /// What the later files hold, once it is known.
    standing: Arc<OnceCell<Arc<Standing>>>,
    /// Columns of what is read; `None` is [`IS_UPDATED`].
    output: Vec<Option<usize>>,
    /// Where the origin of a row and its position there are.
    keys: [usize; 2],
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for ComparedScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as(DisplayFormatType::Default, f)
    }
}

impl DisplayAs for ComparedScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ComparedScanExec: old=[")?;
        self.old.fmt_as(format, f)?;
        write!(f, "], new=[")?;
        self.new.fmt_as(format, f)?;
        write!(f, "]")
    }
}

impl ExecutionPlan for ComparedScanExec {
    fn name(&self) -> &str {
        "ComparedScanExec"
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
            false => Err(DataFusionError::Internal("ComparedScanExec has no input".into())),
        }
    }

    /// Those that are read, at most.
    fn partition_statistics(&self, partition: Option<usize>) -> DfResult<Statistics> {
        let Statistics { num_rows, total_byte_size, .. } =
            self.old.partition_statistics(partition)?.to_inexact();
        Ok(Statistics { num_rows, total_byte_size, ..Statistics::new_unknown(&self.schema) })
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let rows = self.old.execute(partition, Arc::clone(&context))?;
        let (new, since, standing) = (Arc::clone(&self.new), self.since, Arc::clone(&self.standing));
        let (output, keys, schema) = (self.output.clone(), self.keys, Arc::clone(&self.schema));
        let compared = async move {
            let standing = standing.get_or_try_init(|| Standing::read(&new, since, context)).await?;
            let standing = Arc::clone(standing);
            Ok::<_, DataFusionError>(
                rows.map(move |batch| standing.compare(&batch?, keys, &output, &schema))
                    .try_filter(|batch| std::future::ready(batch.num_rows() > 0)),
            )
        };
        let stream = futures::stream::once(compared).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream)))
    }
}

/// Rows of one origin.
#[derive(Debug, Default)]
struct Rows {
    as_they_were: RowSet,
    updated: RowSet,
}

/// Which rows files hold, by origin.
#[derive(Debug)]
struct Standing {
    origins: HashMap<i64, Rows>,
    bytes: u64,
    memory: MemoryReservation,
}

impl Standing {
    /// Reads the numbers of all rows.
    async fn read(
        files: &Arc<dyn ExecutionPlan>,
        since: i64,
        context: Arc<TaskContext>,
    ) -> DfResult<Arc<Self>> {
        let memory =
            MemoryConsumer::new("rows of a stream that are compared").register(context.memory_pool());
        let standing = Arc::new(Mutex::new(Self { origins: HashMap::new(), bytes: 0, memory }));
        let mut readers = JoinSet::new();
        for partition in 0..files.properties().output_partitioning().partition_count() {
            let mut rows = files.execute(partition, Arc::clone(&context))?;
            let standing = Arc::clone(&standing);
            readers.spawn(async move {
                while let Some(batch) = rows.next().await {
                    standing.lock().add(&batch?, since)?;
                }
                Ok::<_, DataFusionError>(())
            });
        }
        while let Some(read) = readers.join_next().await {
            read.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??;
        }
        drop(readers);
        let standing = Arc::into_inner(standing)
            .ok_or_else(|| DataFusionError::Internal("the rows of a stream are still being read".into()))?;
        Ok(Arc::new(standing.into_inner()))
    }

    /// Adds a batch of origins, positions and when the rows last changed.
    fn add(&mut self, batch: &RecordBatch, since: i64) -> DfResult<()> {
        let [origins, rows, updated] =
            [0, 1, 2].map(|index| batch.column(index).as_primitive::<Int64Type>().values());
        let mut first = 0;
        while first < batch.num_rows() {
            let (origin, row, is_updated) = (origins[first], rows[first], updated[first] > since);
            // Rows that came from one file mostly stand together there.
            let goes_on = |next: &usize| {
                origins[*next] == origin
                    && rows[*next] == row + (*next - first) as i64
                    && (updated[*next] > since) == is_updated
            };
            let count = 1 + (first + 1..batch.num_rows()).take_while(goes_on).count();
            let known = self.origins.entry(origin).or_default();
            let set = if is_updated { &mut known.updated } else { &mut known.as_they_were };
            let before = set.bytes();
            let row = row.max(0).cast_unsigned();
            set.insert_range(row..row + count as u64);
            self.bytes += set.bytes() - before;
            first += count;
        }
        self.memory.try_resize(usize::try_from(self.bytes).unwrap_or(usize::MAX))
    }

    /// The rows of a batch that are gone or have other values now.
    fn compare(
        &self,
        batch: &RecordBatch,
        keys: [usize; 2],
        output: &[Option<usize>],
        schema: &SchemaRef,
    ) -> DfResult<RecordBatch> {
        let [origins, rows]: [&Int64Array; 2] = keys.map(|key| batch.column(key).as_primitive());
        let (mut changed, mut updated) = (Vec::new(), Vec::new());
        let mut last: Option<(i64, Option<&Rows>)> = None;
        for (origin, row) in origins.values().iter().zip(rows.values()) {
            let known = match last {
                Some((known, rows)) if known == *origin => rows,
                _ => self.origins.get(origin),
            };
            last = Some((*origin, known));
            let is_in = |set: fn(&Rows) -> &RowSet| {
                known.is_some_and(|known| set(known).contains(row.cast_unsigned()))
            };
            changed.push(!is_in(|rows| &rows.as_they_were));
            updated.push(is_in(|rows| &rows.updated));
        }
        let updated: ArrayRef = Arc::new(BooleanArray::from(updated));
        let columns = output.iter().map(|column| match column {
            Some(index) => Arc::clone(batch.column(*index)),
            None => Arc::clone(&updated),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let all = RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)?;
        Ok(filter_record_batch(&all, &BooleanArray::from(changed))?)
    }
}

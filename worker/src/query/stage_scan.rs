//! Stage files as relations: previews, and INSERT … SELECT from a stage.
//!
//! Comes in: a stage scan and the names that the statement mentions. Goes out: a plan that reads the
//! files, a group of them per core, and decodes only the columns that the query uses. CSV and TSV have
//! the columns `$1` … `$n` (as many as are mentioned); the other formats those of their files, and `$1`
//! for the whole row. `metadata$…` columns are there when they are mentioned. A LIMIT stops reading: the
//! stream is dropped. A WHERE on Parquet files goes down to the decoder. The first bad row fails the query with its file and line.
//! The columns of Parquet, ORC, Avro and Arrow files are those of the first file, and a file whose values would change as
//! such fails the query, or, where MISSING_FIELD_AS is set, those of all files merged.
//! So does a value that does not fit the type that a sample gave its column.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use stevedore_common::file_format::{FileFormat, FormatKind, MissingFieldAs};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::RowFilter;
use stevedore_decode::spec::{
    CastOptions, ColumnSource, DecodeSpec, DecodedBatch, ExpectedColumns, OutputColumn,
};
use stevedore_proto::v1::StageScan;
use tokio::runtime::Handle;

use super::error::to_datafusion;
use super::names::RelationColumns;
use super::relations::Mentions;
use super::row_filter::row_filter;
use super::spelling::planned_names;
use crate::infer::{InferredColumn, ParquetFacts};

/// The largest `$n` of a CSV or TSV file.
pub(crate) const MAX_POSITION: usize = 10_000;
/// Columns that a * stands for, at most: planning takes the square of their number.
const MOST_SHOWN: usize = 10_000;
/// The whole row of a named format.
pub(crate) const WHOLE_ROW: &str = "$1";

/// A file that a batch comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageFile {
    /// Relative to the stage: what users see.
    pub name: String,
    /// Milliseconds since 1970.
    pub last_modified_ms: i64,
}

/// Some rows of a stage file.
#[derive(Debug, Clone)]
pub struct StageBatch {
    /// The file.
    pub file: Arc<StageFile>,
    /// Its rows, and those that were rejected.
    pub rows: DecodedBatch,
}

/// The rows of stage files, in their order.
pub type Batches = BoxStream<'static, Result<StageBatch>>;

/// Reads stage files; what `read` does, seen from a query.
#[async_trait]
pub trait StageReader: Send + Sync + 'static {
    /// The columns of the files by name (not asked for CSV and TSV): of JSON from a sample, else those of the first
    /// file or, where MISSING_FIELD_AS is not ERROR, of all.
    ///
    /// # Errors
    /// Where no file can be read, or their schemas do not go together.
    async fn infer(&self, scan: &StageScan) -> Result<Vec<(String, SqlType)>>;

    /// The columns of the files, merged; of text files from the first `max_records` of each.
    ///
    /// # Errors
    /// Where a file cannot be read.
    async fn describe(&self, scan: &StageScan, max_records: usize) -> Result<Vec<InferredColumn>>;

    /// What the footers of Parquet files say.
    ///
    /// # Errors
    /// Where a file cannot be read or is no Parquet file.
    async fn inspect_parquet(&self, scan: &StageScan) -> Result<Vec<ParquetFacts>>;

    /// The rows of the files, in their order, of Parquet files only those that pass the filter, as far as
    /// that is possible. Dropping the stream stops the reads.
    fn read(&self, scan: StageScan, spec: DecodeSpec, filter: Option<Arc<dyn RowFilter>>) -> Batches;
}

/// A column that says where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metadata {
    Filename,
    RowNumber,
    LastModified,
    StartScanTime,
}

impl Metadata {
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("metadata$filename", Self::Filename),
        ("metadata$file_row_number", Self::RowNumber),
        ("metadata$file_last_modified", Self::LastModified),
        ("metadata$start_scan_time", Self::StartScanTime),
    ];

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, metadata)| *metadata)
    }

    pub(crate) fn sql_type(self) -> SqlType {
        match self {
            Self::Filename => SqlType::String,
            Self::RowNumber => SqlType::Int64,
            Self::LastModified | Self::StartScanTime => SqlType::Timestamp,
        }
    }

    /// The values for some rows.
    pub(crate) fn values(self, file: &StageFile, rows: &[u64], scan_start_us: i64) -> ArrayRef {
        let times = |us: i64| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_value(us, rows.len()).with_timezone("UTC"))
        };
        match self {
            Self::Filename => {
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(file.name.as_str(), rows.len())))
            }
            Self::RowNumber => Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| i64::try_from(*row).unwrap_or(i64::MAX)),
            )),
            // Not every store tells it.
            Self::LastModified if file.last_modified_ms == 0 => {
                let times = TimestampMicrosecondArray::new_null(rows.len());
                Arc::new(times.with_timezone("UTC"))
            }
            Self::LastModified => times(file.last_modified_ms.saturating_mul(1000)),
            Self::StartScanTime => times(scan_start_us),
        }
    }
}

/// The format of a stage scan.
///
/// # Errors
/// Internal, where the message holds none.
pub(crate) fn file_format(scan: &StageScan) -> Result<FileFormat> {
    serde_json::from_str(&scan.file_format)
        .map_err(|e| Error::internal(format!("the file format of a stage cannot be read: {e}")))
}

/// Whether columns are found by place rather than by name.
pub(crate) fn is_positional(kind: FormatKind) -> bool {
    matches!(kind, FormatKind::Csv | FormatKind::Tsv)
}

/// The n of `$n`.
pub(crate) fn position(name: &str) -> Option<usize> {
    let digits = name.strip_prefix('$')?;
    digits.parse().ok().filter(|n| (1..=MAX_POSITION).contains(n))
}

/// What a column of the relation is made of.
#[derive(Debug, Clone)]
enum Source {
    Decoded(Box<OutputColumn>),
    Metadata(Metadata),
}

/// A stage, or some files of it.
pub struct StageTable {
    scan: StageScan,
    format: FileFormat,
    cast: CastOptions,
    /// What the columns of each file are held against.
    expected: Option<Arc<ExpectedColumns>>,
    schema: SchemaRef,
    sources: Vec<Source>,
    reader: Arc<dyn StageReader>,
    scan_start_us: i64,
    io: Handle,
}

impl fmt::Debug for StageTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StageTable({} files, {})", self.scan.files.len(), self.format.kind)
    }
}

impl StageTable {
    /// Finds the columns of the files.
    pub(crate) async fn open(
        scan: StageScan,
        cast: CastOptions,
        mentions: &Mentions,
        reader: Arc<dyn StageReader>,
        io: Handle,
    ) -> Result<(Self, RelationColumns)> {
        let format = file_format(&scan)?;
        let mut columns = RelationColumns::default();
        let mut fields = Vec::new();
        let mut sources = Vec::new();
        let mut expected = None;
        let mut add = |name: String, ty: SqlType, source: Source, hidden: bool| {
            if hidden {
                columns.hidden.insert(name.clone());
            }
            columns.columns.push(name.clone());
            fields.push(ty.to_field(&name, true));
            sources.push(source);
        };
        let decoded = |name: &str, ty: Option<SqlType>, source: ColumnSource| {
            Source::Decoded(Box::new(OutputColumn {
                name: name.to_owned(),
                ty,
                source,
                nullable: true,
                has_default: false,
            }))
        };
        if is_positional(format.kind) {
            let last = mentions.names.iter().filter_map(|name| position(name)).max().unwrap_or(0);
            for n in 1..=last {
                let name = format!("${n}");
                let source = decoded(&name, Some(SqlType::String), ColumnSource::Position(n - 1));
                add(name, SqlType::String, source, false);
            }
            columns.star_refused = Some("CSV and TSV files have no named columns");
        } else {
            let named = mentions.star
                || mentions.names.iter().any(|name| name != WHOLE_ROW && Metadata::of_name(name).is_none());
            if named && !scan.files.is_empty() {
                let found = reader.infer(&scan).await?;
                if mentions.star && found.len() > MOST_SHOWN {
                    let files: Vec<&str> = scan.files.iter().take(1).map(|file| file.name.as_str()).collect();
                    return Err(Error::exhausted(format!(
                        "file '{}' has {} columns; * shows {MOST_SHOWN} at most",
                        files.concat(),
                        found.len()
                    ))
                    .hint("name the columns, or take $1, the whole row"));
                }
                // Where columns are not merged, those of the first file hold for all.
                let first = scan.files.iter().find(|file| file.size > 0);
                if let Some(first) = first
                    && format.kind.says_columns()
                    && format.missing_field_as == MissingFieldAs::Error
                {
                    let names = || found.iter().map(|(name, _)| name.clone()).collect();
                    let all = mentions.star.then(names);
                    expected = Some(Arc::new(ExpectedColumns::Shared { of: first.name.clone(), all }));
                }
                let planned = planned_names(found.iter().map(|(name, _)| name.as_str()));
                for ((name, ty), planned) in found.into_iter().zip(planned) {
                    let source = decoded(&name, Some(ty.clone()), ColumnSource::Name(name.clone()));
                    add(planned, ty, source, false);
                }
            }
            if mentions.names.contains(WHOLE_ROW) {
                let source = decoded(WHOLE_ROW, Some(SqlType::Variant), ColumnSource::WholeRow);
                add(WHOLE_ROW.to_owned(), SqlType::Variant, source, true);
            }
        }
        for (name, metadata) in Metadata::ALL {
            if mentions.names.iter().any(|mentioned| mentioned.eq_ignore_ascii_case(name)) {
                add(name.to_owned(), metadata.sql_type(), Source::Metadata(metadata), true);
            }
        }
        // A preview shows the rows that lack a field, unless the format says that they are errors.
        let mut format = format;
        let says = |option: &str| format.explicit.iter().any(|set| set == option);
        if format.kind.is_json() && !says("MISSING_FIELD_AS") {
            format.missing_field_as = MissingFieldAs::Null;
        }
        let table = Self {
            scan,
            format,
            cast,
            expected,
            schema: Arc::new(Schema::new(fields)),
            sources,
            reader,
            scan_start_us: chrono::Utc::now().timestamp_micros(),
            io,
        };
        Ok((table, columns))
    }

    /// The planned names of the columns and how the files spell them.
    pub(crate) fn spelling(&self) -> Vec<(String, String)> {
        let spelt = self.sources.iter().zip(self.schema.fields()).map(|(source, field)| match source {
            Source::Decoded(column) => column.name.clone(),
            Source::Metadata(_) => field.name().clone(),
        });
        self.schema.fields().iter().map(|field| field.name().clone()).zip(spelt).collect()
    }
}

#[async_trait]
impl TableProvider for StageTable {
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
        let wanted: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&wanted)?);
        if self.scan.files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let sources: Vec<Source> =
            wanted.iter().filter_map(|index| self.sources.get(*index)).cloned().collect();
        let filter = self.filter(state, filters, &sources, &schema);
        let columns = sources
            .iter()
            .filter_map(|source| match source {
                Source::Decoded(column) => Some(column.as_ref().clone()),
                Source::Metadata(_) => None,
            })
            .collect();
        let mut spec = DecodeSpec::new(self.format.clone(), columns);
        spec.case_sensitive = self.scan.case_sensitive;
        spec.cast = self.cast.clone();
        spec.expected.clone_from(&self.expected);
        spec.sampled = self.format.kind.is_json();
        if let Some(limit) = limit {
            spec.batch_rows = spec.batch_rows.min(limit.max(1));
        }
        // A small LIMIT is better served by one reader than by one per core.
        let partitions = if limit.is_some() { 1 } else { state.config().target_partitions() };
        let groups = spread(&self.scan, partitions);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(StageExec {
            groups,
            begun: Mutex::default(),
            spec,
            filter,
            sources,
            schema,
            reader: Arc::clone(&self.reader),
            scan_start_us: self.scan_start_us,
            io: self.io.clone(),
            properties: Arc::new(properties),
        }))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let pushdown = match self.format.kind {
            FormatKind::Parquet => TableProviderFilterPushDown::Inexact,
            _ => TableProviderFilterPushDown::Unsupported,
        };
        Ok(vec![pushdown; filters.len()])
    }
}

impl StageTable {
    /// What the decoder can do of the filters, which are evaluated again above the scan.
    fn filter(
        &self,
        state: &dyn Session,
        filters: &[Expr],
        sources: &[Source],
        schema: &SchemaRef,
    ) -> Option<Arc<dyn RowFilter>> {
        let condition = conjunction(filters.iter().cloned())?;
        let columns = DFSchema::try_from(Arc::clone(schema)).ok()?;
        let condition = state.create_physical_expr(condition, &columns).ok()?;
        let mut decoded = 0..;
        let decoded: Vec<Option<usize>> = sources
            .iter()
            .map(|source| match source {
                Source::Decoded(_) => decoded.next(),
                Source::Metadata(_) => None,
            })
            .collect();
        row_filter(&condition, schema, &decoded)
    }
}

/// Cuts the files into runs of similar size, in order, so that one partition keeps the files' order.
fn spread(scan: &StageScan, partitions: usize) -> Vec<StageScan> {
    let total: u64 = scan.files.iter().map(|file| file.size + 1).sum();
    let share = total.div_ceil(partitions.max(1) as u64).max(1);
    let mut groups: Vec<StageScan> = Vec::new();
    let mut used = share;
    for file in &scan.files {
        if used >= share {
            groups.push(StageScan { files: Vec::new(), ..scan.clone() });
            used = 0;
        }
        if let Some(group) = groups.last_mut() {
            group.files.push(file.clone());
        }
        used += file.size + 1;
    }
    groups
}

pub(super) struct StageExec {
    groups: Vec<StageScan>,
    /// The first partition, where its first rows were read already.
    begun: Mutex<Option<Batches>>,
    spec: DecodeSpec,
    filter: Option<Arc<dyn RowFilter>>,
    sources: Vec<Source>,
    schema: SchemaRef,
    reader: Arc<dyn StageReader>,
    scan_start_us: i64,
    io: Handle,
    properties: Arc<PlanProperties>,
}

impl StageExec {
    /// What a row takes, in bytes, going by the first that are read. They are kept for [`ExecutionPlan::execute`].
    pub(super) async fn row_bytes(&self) -> usize {
        let Some(scan) = self.groups.first() else { return 0 };
        let mut batches = self.read(scan.clone()).fuse();
        let first = batches.next().await;
        let taken = first.as_ref().and_then(|batch| batch.as_ref().ok()).map_or(0, |batch| {
            // What a batch keeps beyond its values is not of its rows.
            let columns = batch.rows.batch.columns().iter();
            let bytes =
                columns.filter_map(|column| column.to_data().get_slice_memory_size().ok()).sum::<usize>();
            bytes / batch.rows.batch.num_rows().max(1)
        });
        *self.begun.lock() = Some(stream::iter(first).chain(batches).boxed());
        taken
    }

    /// Reads are set up on the I/O runtime, which their stores belong to.
    fn read(&self, scan: StageScan) -> Batches {
        let _entered = self.io.enter();
        self.reader.read(scan, self.spec.clone(), self.filter.clone())
    }
}

impl fmt::Debug for StageExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StageExec({} groups of files)", self.groups.len())
    }
}

impl DisplayAs for StageExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let files: usize = self.groups.iter().map(|group| group.files.len()).sum();
        let columns: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "StageExec: format={}, files={files}, columns=[{}]{}",
            self.spec.format.kind,
            columns.join(", "),
            if self.filter.is_some() { ", filtered" } else { "" }
        )
    }
}

impl ExecutionPlan for StageExec {
    fn name(&self) -> &str {
        "StageExec"
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
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let scan =
            self.groups.get(partition).cloned().ok_or_else(|| {
                DataFusionError::Internal(format!("a stage scan has no partition {partition}"))
            })?;
        let (sources, schema) = (self.sources.clone(), Arc::clone(&self.schema));
        let (start, by_element) = (self.scan_start_us, self.spec.format.kind == FormatKind::Json);
        let begun = if partition == 0 { self.begun.lock().take() } else { None };
        let stream = begun.unwrap_or_else(|| self.read(scan));
        let stream = stream.map(move |batch| {
            batch
                .and_then(|batch| assemble(&batch, &sources, &schema, start, by_element))
                .map_err(to_datafusion)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream)))
    }
}

fn assemble(
    batch: &StageBatch,
    sources: &[Source],
    schema: &SchemaRef,
    scan_start_us: i64,
    by_element: bool,
) -> Result<RecordBatch> {
    if let Some(error) = batch.rows.errors.first() {
        let mut error = error.clone();
        if by_element {
            error.name_element();
        }
        return Err(Error::bad_data(format!(
            "file '{}', line {}: {}",
            batch.file.name, error.line, error.message
        )));
    }
    let mut decoded = batch.rows.batch.columns().iter();
    let columns = sources
        .iter()
        .zip(schema.fields())
        .map(|(source, field)| match source {
            Source::Metadata(metadata) => {
                Ok(metadata.values(&batch.file, &batch.rows.row_numbers, scan_start_us))
            }
            Source::Decoded(_) => {
                let column = decoded.next().ok_or_else(|| Error::internal("a decoder left a column out"))?;
                if column.data_type() == field.data_type() || *field.data_type() == DataType::Null {
                    return Ok(Arc::clone(column));
                }
                super::storage_types::convert(column, field.data_type())
            }
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.rows.row_numbers.len()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| Error::internal(format!("a stage file's batch does not fit its schema: {e}")))
}

#[cfg(test)]
#[path = "stage_scan_tests.rs"]
mod tests;

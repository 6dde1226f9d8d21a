//! Iceberg tables as relations.
//!
//! Comes in: a metadata location and a snapshot. Goes out: a plan over the snapshot's Parquet files:
//! those that the filters can match by partition and statistics, spread over the cores, columns found
//! by field id, storage types turned into SQL types, deleted rows left out. Row groups and pages are
//! pruned by DataFusion. Without deletes and filters the row count is exact, so that `count(*)` reads no
//! file. Must never decode on the I/O threads, nor do I/O on the CPU ones: readers here hand their
//! requests to the I/O runtime.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{ColumnarValue, Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column as ColumnExpr, lit};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::union::UnionExec;
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::io::{FileIO, FileRead};
use iceberg::spec::{
    DataFileFormat, Datum, Literal, PrimitiveLiteral, PrimitiveType, SnapshotRef, TableMetadata, Transform, Type,
};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use stevedore_common::schema::{FIELD_ID, TableSchema};
use stevedore_common::{Error, Result};
use tokio::runtime::Handle;

use super::deletes::{self, Applicable, EqualityDeleteExec};
use super::error::{from_datafusion, to_datafusion};
use super::manifests::{MetadataCache, TableFile};
use super::spelling::planned_names;
use super::storage_types;

/// The object store that DataFusion is told of; our readers never ask it for anything.
pub(crate) const STORE_URL: &str = "stevedore://files";
/// Bytes read at the end of a file to get its footer in one request, mostly.
const FOOTER_BYTES: usize = 64 << 10;

/// A snapshot of a table.
#[derive(Debug)]
pub struct IcebergTable {
    files: ParquetFiles,
    metadata: Arc<TableMetadata>,
    snapshot: Option<SnapshotRef>,
    columns: TableSchema,
    schema: SchemaRef,
    cache: Arc<MetadataCache>,
}

impl IcebergTable {
    /// Reads the metadata of a table; `snapshot_id` 0 is the current snapshot.
    ///
    /// # Errors
    /// Where the metadata cannot be read, the snapshot is gone, or a column has a type that the dialect lacks.
    pub(crate) async fn open(
        file_io: FileIO,
        metadata_location: &str,
        snapshot_id: i64,
        cache: Arc<MetadataCache>,
        io: Handle,
    ) -> Result<Self> {
        let metadata = cache.table(&file_io, metadata_location).await?;
        let snapshot = match snapshot_id {
            0 => metadata.current_snapshot().cloned(),
            id => Some(metadata.snapshot_by_id(id).cloned().ok_or_else(|| {
                Error::not_found(format!("snapshot {id} of the table does not exist"))
                    .hint("it may have been expired")
            })?),
        };
        let columns = TableSchema::from_metadata(&metadata)?;
        let planned = planned_names(columns.columns.iter().map(|column| column.name.as_str()));
        let fields: Vec<Field> = columns
            .columns
            .iter()
            .zip(&planned)
            .map(|(column, name)| column.ty.to_field(name, column.nullable))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { files: ParquetFiles { file_io, io }, metadata, snapshot, columns, schema, cache })
    }

    /// The planned names of the columns and how the table spells them.
    pub(crate) fn spelling(&self) -> Vec<(String, String)> {
        let planned = self.schema.fields().iter().map(|field| field.name().clone());
        planned.zip(self.columns.columns.iter().map(|column| column.name.clone())).collect()
    }

    /// Reads as an empty table.
    pub(crate) fn forget_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// The files that the filters may match.
    fn prune(&self, state: &dyn Session, filters: &[Expr], files: Vec<TableFile>) -> Vec<TableFile> {
        let Some(filter) = conjunction(filters.iter().cloned()) else { return files };
        let keep = || -> DfResult<Vec<bool>> {
            let df_schema = DFSchema::try_from(Arc::clone(&self.schema))?;
            let predicate = state.create_physical_expr(filter, &df_schema)?;
            let pruning = PruningPredicate::try_new(predicate, Arc::clone(&self.schema))?;
            pruning.prune(&Bounds { table: self, files: &files })
        };
        match keep() {
            Ok(keep) => files.into_iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect(),
            Err(error) => {
                tracing::debug!(%error, "filters do not prune files");
                files
            }
        }
    }

    fn scan_config(
        &self,
        groups: Vec<FileGroup>,
        locations: Vec<String>,
        projection: Option<Vec<usize>>,
        limit: Option<usize>,
        statistics: Statistics,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let factory = Arc::new(ReaderFactory { files: self.files.clone(), locations });
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_metadata_size_hint(FOOTER_BYTES)
            .with_parquet_file_reader_factory(factory);
        let adapter = FieldIdAdapterFactory {
            columns: self
                .schema
                .fields()
                .iter()
                .zip(&self.columns.columns)
                .map(|(field, column)| (field.name().clone(), (column.id, column.name.clone())))
                .collect(),
        };
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection)?
            .with_limit(limit)
            .with_expr_adapter(Some(Arc::new(adapter)))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    async fn plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let Some(snapshot) = &self.snapshot else {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&wanted)?))));
        };
        let all = {
            let (cache, files) = (Arc::clone(&self.cache), self.files.clone());
            let (metadata, snapshot) = (Arc::clone(&self.metadata), Arc::clone(snapshot));
            self.files
                .on_io(async move { cache.files(&files.file_io, &metadata, &snapshot).await })
                .await?
        };
        let total = all.data.len();
        let data = self.prune(state, filters, all.data);
        tracing::debug!(files = total, read = data.len(), "planned a table scan");

        // Files by the equality deletes that apply to them: mostly one group, without any.
        let mut groups: BTreeMap<Vec<usize>, Vec<(TableFile, Applicable)>> = BTreeMap::new();
        for file in data {
            if file.entry.data_file().file_format() != DataFileFormat::Parquet {
                return Err(Error::not_supported(format!(
                    "the data file '{}' of format {}",
                    file.entry.data_file().file_path(),
                    file.entry.data_file().file_format()
                )));
            }
            let applicable = deletes::applicable(&file, &all.deletes, &self.metadata);
            groups.entry(applicable.equality.clone()).or_default().push((file, applicable));
        }
        let mut plans = Vec::new();
        for (equality, files) in groups {
            let equality: Vec<&TableFile> = equality.iter().filter_map(|i| all.deletes.get(*i)).collect();
            plans.push(self.plan_group(state, &wanted, limit, files, &all.deletes, &equality).await?);
        }
        if plans.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&wanted)?))));
        }
        UnionExec::try_new(plans).map_err(|e| from_datafusion(&e))
    }

    async fn plan_group(
        &self,
        state: &dyn Session,
        wanted: &[usize],
        limit: Option<usize>,
        files: Vec<(TableFile, Applicable)>,
        all_deletes: &[TableFile],
        equality: &[&TableFile],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let positional: HashSet<usize> =
            files.iter().flat_map(|(_, applicable)| applicable.position.iter().copied()).collect();
        let positional: Vec<&TableFile> = positional.iter().filter_map(|i| all_deletes.get(*i)).collect();
        let gone = deletes::positions(&self.files, &positional).await?;

        let mut partitioned = Vec::with_capacity(files.len());
        let mut locations = Vec::with_capacity(files.len());
        let mut rows = 0usize;
        for (index, (file, _)) in files.iter().enumerate() {
            let data_file = file.entry.data_file();
            let mut part = PartitionedFile::new(index.to_string(), data_file.file_size_in_bytes());
            let mut live = usize::try_from(data_file.record_count()).unwrap_or(usize::MAX);
            if let Some(deleted) = gone.get(data_file.file_path()).filter(|deleted| !deleted.is_empty()) {
                let plan = deletes::access_plan(&self.files, file, deleted).await?;
                part = part.with_extensions(Arc::new(plan));
                live = live.saturating_sub(deleted.len());
            }
            rows = rows.saturating_add(live);
            locations.push(data_file.file_path().to_owned());
            partitioned.push(part);
        }
        let untouched = gone.is_empty() && equality.is_empty();
        let statistics = Statistics {
            num_rows: if equality.is_empty() { Precision::Exact(rows) } else { Precision::Inexact(rows) },
            total_byte_size: Precision::Absent,
            column_statistics: self.column_statistics(&files, untouched),
        };
        let groups = spread(partitioned, state.config().target_partitions());
        let error = |e: DataFusionError| from_datafusion(&e);
        if equality.is_empty() {
            let plan =
                self.scan_config(groups, locations, Some(wanted.to_vec()), limit, statistics).map_err(error)?;
            return Ok(plan);
        }
        let by_id: BTreeMap<i32, (String, DataType)> = self
            .columns
            .columns
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| (column.id, (field.name().clone(), field.data_type().clone())))
            .collect();
        let sets = deletes::key_sets(&self.files, equality, &by_id).await?;
        let mut read = wanted.to_vec();
        for name in sets.iter().flat_map(|set| &set.columns) {
            let index = self.schema.index_of(name)?;
            if !read.contains(&index) {
                read.push(index);
            }
        }
        let scan = self.scan_config(groups, locations, Some(read), None, statistics).map_err(error)?;
        let plan = EqualityDeleteExec::try_new(scan, Arc::new(sets), wanted.len()).map_err(error)?;
        Ok(Arc::new(plan))
    }

    fn column_statistics(&self, files: &[(TableFile, Applicable)], exact: bool) -> Vec<ColumnStatistics> {
        self.columns
            .columns
            .iter()
            .map(|column| {
                let nulls: Option<u64> = files
                    .iter()
                    .map(|(file, _)| file.entry.data_file().null_value_counts().get(&column.id).copied())
                    .sum();
                let null_count = match nulls.and_then(|nulls| usize::try_from(nulls).ok()) {
                    Some(nulls) if exact => Precision::Exact(nulls),
                    Some(nulls) => Precision::Inexact(nulls),
                    None => Precision::Absent,
                };
                ColumnStatistics { null_count, ..ColumnStatistics::new_unknown() }
            })
            .collect()
    }
}

/// Spreads files over at most `partitions` groups of similar size. Large files are split further by
/// DataFusion, at row groups.
fn spread(mut files: Vec<PartitionedFile>, partitions: usize) -> Vec<FileGroup> {
    files.sort_by_key(|file| std::cmp::Reverse(file.object_meta.size));
    let count = partitions.clamp(1, files.len().max(1));
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); count];
    for file in files {
        if let Some(smallest) = groups.iter_mut().min_by_key(|(size, _)| *size) {
            smallest.0 += file.object_meta.size;
            smallest.1.push(file);
        }
    }
    groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect()
}

#[async_trait]
impl TableProvider for IcebergTable {
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
        self.plan(state, projection, filters, limit).await.map_err(to_datafusion)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// What the manifests know of files, for pruning. Iceberg's bounds need not be tight, only true.
struct Bounds<'a> {
    table: &'a IcebergTable,
    files: &'a [TableFile],
}

impl Bounds<'_> {
    fn column(&self, column: &Column) -> Option<(i32, &DataType)> {
        let index = self.table.schema.index_of(column.name()).ok()?;
        Some((self.table.columns.columns.get(index)?.id, self.table.schema.field(index).data_type()))
    }

    fn bounds(&self, column: &Column, upper: bool) -> Option<ArrayRef> {
        let (id, data_type) = self.column(column)?;
        let null = ScalarValue::try_from(data_type).ok()?;
        let values = self.files.iter().map(|file| {
            let data_file = file.entry.data_file();
            let bounds = if upper { data_file.upper_bounds() } else { data_file.lower_bounds() };
            // Bounds leave NaN out, and NaN is larger than every number to DataFusion.
            let may_hold_nan = data_type.is_floating()
                && data_file.nan_value_counts().get(&id).is_none_or(|count| *count > 0);
            bounds
                .get(&id)
                .filter(|_| !may_hold_nan)
                .and_then(datum_value)
                .or_else(|| self.table.partition_value(file, id))
                .and_then(|value| value.cast_to(data_type).ok())
                .unwrap_or_else(|| null.clone())
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (id, _) = self.column(column)?;
        let counts = self.files.iter().map(|file| file.entry.data_file().null_value_counts().get(&id).copied());
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self, _: &Column) -> Option<ArrayRef> {
        let counts = self.files.iter().map(|file| Some(file.entry.data_file().record_count()));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

impl IcebergTable {
    /// The one value that a column has in a file of an identity partition.
    fn partition_value(&self, file: &TableFile, field_id: i32) -> Option<ScalarValue> {
        let spec = self.metadata.partition_spec_by_id(file.spec_id)?;
        let index = spec
            .fields()
            .iter()
            .position(|field| field.source_id == field_id && field.transform == Transform::Identity)?;
        let Type::Primitive(ty) = self.metadata.current_schema().field_by_id(field_id)?.field_type.as_ref()
        else {
            return None;
        };
        match file.entry.data_file().partition().fields().get(index)? {
            Some(Literal::Primitive(value)) => literal_value(ty, value),
            _ => None,
        }
    }
}

fn datum_value(datum: &Datum) -> Option<ScalarValue> {
    literal_value(datum.data_type(), datum.literal())
}

fn literal_value(ty: &PrimitiveType, value: &PrimitiveLiteral) -> Option<ScalarValue> {
    let utc: Option<Arc<str>> = Some(Arc::from("UTC"));
    Some(match (ty, value) {
        (PrimitiveType::Boolean, PrimitiveLiteral::Boolean(v)) => ScalarValue::Boolean(Some(*v)),
        (PrimitiveType::Date, PrimitiveLiteral::Int(v)) => ScalarValue::Date32(Some(*v)),
        (PrimitiveType::Int, PrimitiveLiteral::Int(v)) => ScalarValue::Int32(Some(*v)),
        (PrimitiveType::Timestamp | PrimitiveType::Timestamptz, PrimitiveLiteral::Long(v)) => {
            ScalarValue::TimestampMicrosecond(Some(*v), utc)
        }
        (PrimitiveType::Long, PrimitiveLiteral::Long(v)) => ScalarValue::Int64(Some(*v)),
        (PrimitiveType::Float, PrimitiveLiteral::Float(v)) => ScalarValue::Float32(Some(v.0)),
        (PrimitiveType::Double, PrimitiveLiteral::Double(v)) => ScalarValue::Float64(Some(v.0)),
        (PrimitiveType::String, PrimitiveLiteral::String(v)) => ScalarValue::Utf8(Some(v.clone())),
        (PrimitiveType::Binary | PrimitiveType::Fixed(_), PrimitiveLiteral::Binary(v)) => {
            ScalarValue::Binary(Some(v.clone()))
        }
        (PrimitiveType::Decimal { precision, scale }, PrimitiveLiteral::Int128(v)) => {
            ScalarValue::Decimal128(Some(*v), u8::try_from(*precision).ok()?, i8::try_from(*scale).ok()?)
        }
        _ => return None,
    })
}

/// Opens Parquet files of a table's store for reading on the I/O runtime.
#[derive(Debug, Clone)]
pub(crate) struct ParquetFiles {
    file_io: FileIO,
    io: Handle,
}

impl ParquetFiles {
    pub(crate) fn open(&self, location: &str, size: u64) -> Result<TableFileReader> {
        let input = self.file_io.new_input(location)?;
        Ok(TableFileReader { input: Arc::new(input), reader: None, size, io: self.io.clone() })
    }

    async fn on_io<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.io.spawn(task).await {
            Ok(result) => result,
            Err(e) => Err(Error::internal(format!("a read failed: {e}"))),
        }
    }
}

/// Reads ranges of one file.
pub(crate) struct TableFileReader {
    input: Arc<iceberg::io::InputFile>,
    reader: Option<Arc<dyn FileRead>>,
    size: u64,
    io: Handle,
}

impl TableFileReader {
    async fn read(&mut self, ranges: Vec<Range<u64>>) -> parquet::errors::Result<Vec<Bytes>> {
        let (input, reader) = (Arc::clone(&self.input), self.reader.clone());
        let task = self.io.spawn(async move {
            let reader = match reader {
                Some(reader) => reader,
                None => Arc::from(input.reader().await?),
            };
            let reads = ranges.into_iter().map(|range| {
                let reader = Arc::clone(&reader);
                async move { reader.read(range).await }
            });
            let bytes = futures::future::try_join_all(reads).await?;
            Ok::<_, iceberg::Error>((reader, bytes))
        });
        let (reader, bytes) = task
            .await
            .map_err(|e| parquet::errors::ParquetError::External(Box::new(e)))?
            .map_err(|e| parquet::errors::ParquetError::External(Box::new(read_error(&self.input, e))))?;
        self.reader = Some(reader);
        Ok(bytes)
    }
}

fn read_error(input: &iceberg::io::InputFile, error: iceberg::Error) -> Error {
    Error::from(error).context(format!("reading '{}'", input.location()))
}

impl AsyncFileReader for TableFileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { Ok(self.read(vec![range]).await?.pop().unwrap_or_default()) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            // One request for ranges that almost touch.
            let merged = merge_ranges(&ranges, 1 << 20);
            let bytes = self.read(merged.clone()).await?;
            Ok(ranges
                .iter()
                .map(|range| {
                    let at = merged.partition_point(|whole| whole.start <= range.start).saturating_sub(1);
                    match (merged.get(at), bytes.get(at)) {
                        (Some(whole), Some(bytes)) => {
                            let start = ((range.start - whole.start) as usize).min(bytes.len());
                            let end = ((range.end - whole.start) as usize).min(bytes.len());
                            bytes.slice(start..end)
                        }
                        _ => Bytes::new(),
                    }
                })
                .collect())
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let column = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::column_index_policy);
            let offset = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::offset_index_policy);
            let size = self.size;
            let metadata = ParquetMetaDataReader::new()
                .with_column_index_policy(column)
                .with_offset_index_policy(offset)
                .with_prefetch_hint(Some(FOOTER_BYTES))
                .load_and_finish(self, size)
                .await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

/// Joins ranges with gaps of at most `gap` bytes.
fn merge_ranges(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Finds the reader of a planned file, whose path is its place in `locations`.
#[derive(Debug)]
struct ReaderFactory {
    files: ParquetFiles,
    locations: Vec<String>,
}

impl ParquetFileReaderFactory for ReaderFactory {
    fn create_reader(
        &self,
        _: usize,
        file: PartitionedFile,
        _: Option<usize>,
        _: &ExecutionPlanMetricsSet,
    ) -> DfResult<Box<dyn AsyncFileReader + Send>> {
        let location =
            file.path().as_ref().parse::<usize>().ok().and_then(|index| self.locations.get(index)).ok_or_else(
                || DataFusionError::Internal(format!("'{}' is no file of this scan", file.path())),
            )?;
        Ok(Box::new(self.files.open(location, file.object_meta.size).map_err(to_datafusion)?))
    }
}

/// The column of a field id in a file's schema.
pub(crate) fn field_of_id(schema: &Schema, id: i32) -> Option<usize> {
    schema.fields().iter().position(|field| field_id(field) == Some(id))
}

fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(FIELD_ID)?.parse().ok()
}

/// Finds a table's columns in a file by field id (by name in files that have none) and turns storage
/// types into SQL types. Columns that the file lacks are NULL.
#[derive(Debug)]
struct FieldIdAdapterFactory {
    /// By planned name: field id, and the name in the table.
    columns: HashMap<String, (i32, String)>,
}

impl PhysicalExprAdapterFactory for FieldIdAdapterFactory {
    fn create(
        &self,
        logical_file_schema: SchemaRef,
        physical_file_schema: SchemaRef,
    ) -> DfResult<Arc<dyn PhysicalExprAdapter>> {
        let has_ids = physical_file_schema.fields().iter().any(|field| field_id(field).is_some());
        let columns = logical_file_schema
            .fields()
            .iter()
            .map(|field| {
                let index = match self.columns.get(field.name()) {
                    Some((id, _)) if has_ids => field_of_id(&physical_file_schema, *id),
                    Some((_, name)) => physical_file_schema.index_of(name).ok(),
                    None => None,
                };
                (field.name().clone(), (Arc::clone(field), index))
            })
            .collect();
        Ok(Arc::new(FieldIdAdapter { columns, physical: physical_file_schema }))
    }
}

#[derive(Debug)]
struct FieldIdAdapter {
    columns: HashMap<String, (FieldRef, Option<usize>)>,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for FieldIdAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> DfResult<Arc<dyn PhysicalExpr>> {
        // Down, and never into what was put in: a file's column may have the name of another column.
        expr.transform_down(|expr| {
            let Some(column) = expr.as_any().downcast_ref::<ColumnExpr>() else {
                return Ok(Transformed::no(expr));
            };
            let Some((field, index)) = self.columns.get(column.name()) else {
                return Ok(Transformed::no(expr));
            };
            let Some(index) = *index else {
                let null = ScalarValue::try_from(field.data_type())?;
                return Ok(Transformed::new(lit(null), true, datafusion::common::tree_node::TreeNodeRecursion::Jump));
            };
            let source = self.physical.field(index);
            let column: Arc<dyn PhysicalExpr> = Arc::new(ColumnExpr::new(source.name(), index));
            let adapted: Arc<dyn PhysicalExpr> = if source.data_type() == field.data_type() {
                column
            } else if storage_types::is_plain_cast(source.data_type(), field.data_type()) {
                Arc::new(CastExpr::new(column, field.data_type().clone(), None))
            } else {
                Arc::new(StorageCast { input: column, field: Arc::clone(field) })
            };
            Ok(Transformed::new(adapted, true, datafusion::common::tree_node::TreeNodeRecursion::Jump))
        })
        .data()
    }
}

/// A conversion that Arrow's cast does not do as we need it (vectors, structs by name).
#[derive(Debug)]
struct StorageCast {
    input: Arc<dyn PhysicalExpr>,
    field: FieldRef,
}

// Written out: deriving moves the trait object.
impl PartialEq for StorageCast {
    fn eq(&self, other: &Self) -> bool {
        self.input.eq(&other.input) && self.field == other.field
    }
}

impl Eq for StorageCast {}

impl Hash for StorageCast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.field.hash(state);
    }
}

impl fmt::Display for StorageCast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stored({})", self.input)
    }
}

impl PhysicalExpr for StorageCast {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn data_type(&self, _: &Schema) -> DfResult<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> DfResult<bool> {
        Ok(true)
    }

    fn return_field(&self, _: &Schema) -> DfResult<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        let array = self.input.evaluate(batch)?.into_array(batch.num_rows())?;
        let converted = storage_types::convert(&array, self.field.data_type()).map_err(to_datafusion)?;
        Ok(ColumnarValue::Array(converted))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DfResult<Arc<dyn PhysicalExpr>> {
        match children.pop() {
            Some(input) => Ok(Arc::new(Self { input, field: Arc::clone(&self.field) })),
            None => Err(DataFusionError::Internal("a stored column has one input".into())),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[path = "table_scan_tests.rs"]
mod tests;

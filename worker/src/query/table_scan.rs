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
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, DataFileFormat, Datum, Literal, NestedField, PrimitiveLiteral, PrimitiveType, SnapshotRef,
    TableMetadata, Transform, Type,
};
use stevedore_common::row_lineage;
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, Result};
use tokio::runtime::Handle;

use super::deletes::{self, Applicable, EqualityDeleteExec, KeySet};
use super::error::{from_datafusion, to_datafusion};
use super::field_ids::FieldIdAdapterFactory;
use super::manifests::{MetadataCache, SnapshotFiles, TableFile};
use super::spelling::planned_names;
use super::table_files::{FOOTER_BYTES, ParquetFiles, ReaderFactory};

/// The object store that DataFusion is told of; our readers never ask it for anything.
pub(crate) const STORE_URL: &str = "stevedore://files";
/// How much larger values of no fixed size are decoded than stored, about: what documents are compressed by.
const PACKED: u64 = 8;

/// A snapshot of a table, or some files of it.
#[derive(Debug, Clone)]
pub struct IcebergTable {
    files: ParquetFiles,
    metadata: Arc<TableMetadata>,
    contents: Contents,
    columns: TableSchema,
    schema: SchemaRef,
    /// The columns, then those of row lineage.
    stored: SchemaRef,
    cache: Arc<MetadataCache>,
    /// Which share of the data files is read, of how many.
    part: Option<(usize, usize)>,
}

/// Which files are read.
#[derive(Debug, Clone)]
enum Contents {
    Nothing,
    Snapshot(SnapshotRef),
    Files(Arc<SnapshotFiles>),
}

impl IcebergTable {
    /// Reads the metadata of a table; `snapshot_id` 0 is the current snapshot. Another one has the columns that
    /// the table had then.
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
        let columns = match &snapshot {
            Some(snapshot) if snapshot_id != 0 => {
                let schema = snapshot
                    .schema(&metadata)
                    .map_err(|e| Error::internal(format!("the schema of snapshot {snapshot_id}: {e}")))?;
                TableSchema::from_iceberg(&schema, metadata.properties())?
            }
            _ => TableSchema::from_metadata(&metadata)?,
        };
        let planned = planned_names(columns.columns.iter().map(|column| column.name.as_str()));
        let fields: Vec<Field> = columns
            .columns
            .iter()
            .zip(&planned)
            .map(|(column, name)| column.ty.to_field(name, column.nullable))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let lineage = row_lineage::COLUMNS.iter().map(|(name, _, ty)| {
            let data_type = if *ty == PrimitiveType::String { DataType::Utf8 } else { DataType::Int64 };
            Arc::new(Field::new(hidden(name), data_type, true))
        });
        let stored = schema.fields().iter().cloned().chain(lineage).collect::<Vec<_>>();
        Ok(Self {
            files: ParquetFiles { file_io, io },
            metadata,
            contents: snapshot.map_or(Contents::Nothing, Contents::Snapshot),
            columns,
            schema,
            stored: Arc::new(Schema::new(stored)),
            cache,
            part: None,
        })
    }

    /// The planned names of the columns and how the table spells them.
    pub(crate) fn spelling(&self) -> Vec<(String, String)> {
        let planned = self.schema.fields().iter().map(|field| field.name().clone());
        planned.zip(self.columns.columns.iter().map(|column| column.name.clone())).collect()
    }

    /// Reads as an empty table.
    pub(crate) fn forget_snapshot(&mut self) {
        self.contents = Contents::Nothing;
    }

    /// The table as if it had these files.
    pub(crate) fn with_files(&self, files: SnapshotFiles) -> Self {
        Self { contents: Contents::Files(Arc::new(files)), ..self.clone() }
    }

    /// The places of the columns of row lineage, for `scan_each`.
    pub(crate) fn lineage_columns(&self) -> std::ops::Range<usize> {
        self.schema.fields().len()..self.stored.fields().len()
    }

    /// Reads only a share of the data files. All shares together are all files, each once, whichever worker reads
    /// which of them.
    pub(crate) fn take_part(&mut self, part: usize, parts: usize) {
        self.part = Some((part, parts));
    }

    /// The files of this share: the large ones dealt first, so that the shares are alike.
    fn share(&self, mut files: Vec<TableFile>) -> Vec<TableFile> {
        let Some((part, parts)) = self.part else { return files };
        files.sort_by(|a, b| {
            let (a, b) = (a.entry.data_file(), b.entry.data_file());
            b.file_size_in_bytes().cmp(&a.file_size_in_bytes()).then_with(|| a.file_path().cmp(b.file_path()))
        });
        files.into_iter().skip(part).step_by(parts.max(1)).collect()
    }

    /// The files that the filters may match.
    fn prune(&self, state: &dyn Session, filters: &[Expr], files: Vec<TableFile>) -> Vec<TableFile> {
        let keep = self.may_match(state, filters, &files);
        files.into_iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect()
    }

    /// Whether the filters may match rows of each file.
    fn may_match(&self, state: &dyn Session, filters: &[Expr], files: &[TableFile]) -> Vec<bool> {
        let all = || vec![true; files.len()];
        let Some(filter) = conjunction(filters.iter().cloned()) else { return all() };
        let keep = || -> DfResult<Vec<bool>> {
            let df_schema = DFSchema::try_from(Arc::clone(&self.schema))?;
            let predicate = state.create_physical_expr(filter, &df_schema)?;
            let pruning = PruningPredicate::try_new(predicate, Arc::clone(&self.schema))?;
            pruning.prune(&Bounds { table: self, files })
        };
        match keep() {
            Ok(keep) => keep,
            Err(error) => {
                tracing::debug!(%error, "filters do not prune files");
                all()
            }
        }
    }

    /// The live files.
    async fn live_files(&self) -> Result<SnapshotFiles> {
        let snapshot = match &self.contents {
            Contents::Nothing => return Ok(SnapshotFiles::default()),
            Contents::Files(files) => return Ok(files.as_ref().clone()),
            Contents::Snapshot(snapshot) => Arc::clone(snapshot),
        };
        let (cache, files) = (Arc::clone(&self.cache), self.files.clone());
        let metadata = Arc::clone(&self.metadata);
        self.files.on_io(async move { cache.files(&files.file_io, &metadata, &snapshot).await }).await
    }

    /// The data files of this share in their order, by which `scan_each` names them.
    pub(crate) async fn file_list(&self) -> Result<Vec<DataFileFacts>> {
        let all = self.live_files().await?;
        let facts = |file: TableFile| {
            let applicable = deletes::applicable(&file, &all.deletes, &self.metadata);
            let data_file = file.entry.data_file();
            DataFileFacts {
                location: data_file.file_path().to_owned(),
                rows: data_file.record_count(),
                has_deletes: applicable != Applicable::default(),
            }
        };
        Ok(self.share(all.data).into_iter().map(facts).collect())
    }

    /// A plan for each file of this share that the filters may match, of one partition, which gives its rows in the
    /// order of the file. `wanted` are places of columns, those of row lineage too; `only` names the files by their
    /// places, ascending; none: all.
    pub(crate) async fn scan_each(
        &self,
        state: &dyn Session,
        wanted: &[usize],
        filters: &[Expr],
        only: &[u32],
    ) -> Result<(Vec<FileScan>, FileTotals)> {
        let all = self.live_files().await?;
        let files = self.share(all.data);
        let keep = self.may_match(state, filters, &files);
        let (mut scans, mut passed) = (Vec::new(), FileTotals::default());
        for ((place, file), keep) in (0u32..).zip(files).zip(keep) {
            if !only.is_empty() && only.binary_search(&place).is_err() {
                continue;
            }
            if !keep {
                let file = file.entry.data_file();
                passed.count(file.record_count(), file.file_size_in_bytes());
                continue;
            }
            check_format(&file)?;
            let applicable = deletes::applicable(&file, &all.deletes, &self.metadata);
            let equality: Vec<&TableFile> =
                applicable.equality.iter().filter_map(|i| all.deletes.get(*i)).collect();
            let group = vec![(file.clone(), applicable)];
            let scan = self.scan_group(state, wanted, None, group, &all.deletes, &equality).await?;
            let GroupScan { plan, mut gone, keys } = scan;
            let data_file = file.entry.data_file();
            scans.push(FileScan {
                place,
                location: data_file.file_path().to_owned(),
                table_location: self.metadata.location().into(),
                sequence: file.sequence,
                rows: data_file.record_count(),
                bytes: data_file.file_size_in_bytes(),
                plan,
                gone: Arc::new(gone.remove(data_file.file_path()).unwrap_or_default()),
                keys: Arc::new(keys),
            });
        }
        Ok((scans, passed))
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
        let lineage = projection.iter().flatten().any(|index| self.lineage_columns().contains(index));
        let schema = if lineage { &self.stored } else { &self.schema };
        let mut statistics = statistics;
        statistics.column_statistics.resize_with(schema.fields().len(), ColumnStatistics::new_unknown);
        let source = ParquetSource::new(Arc::clone(schema))
            .with_metadata_size_hint(FOOTER_BYTES)
            .with_parquet_file_reader_factory(factory);
        let columns = self.columns.columns.iter().map(|column| (column.id, Some(column.name.clone())));
        let lineage = row_lineage::COLUMNS.iter().map(|(_, id, _)| (*id, None));
        let names = self.stored.fields().iter().map(|field| field.name().clone());
        let adapter = FieldIdAdapterFactory { columns: names.zip(columns.chain(lineage)).collect() };
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
        let all = self.live_files().await?;
        let total = all.data.len();
        let data = self.prune(state, filters, self.share(all.data));
        tracing::debug!(files = total, read = data.len(), "planned a table scan");

        // Files by the equality deletes that apply to them: mostly one group, without any.
        let mut groups: BTreeMap<Vec<usize>, Vec<(TableFile, Applicable)>> = BTreeMap::new();
        for file in data {
            check_format(&file)?;
            let applicable = deletes::applicable(&file, &all.deletes, &self.metadata);
            groups.entry(applicable.equality.clone()).or_default().push((file, applicable));
        }
        let mut plans = Vec::new();
        for (equality, files) in groups {
            let equality: Vec<&TableFile> = equality.iter().filter_map(|i| all.deletes.get(*i)).collect();
            let scan = self.scan_group(state, &wanted, limit, files, &all.deletes, &equality).await?;
            plans.push(scan.without_deleted(wanted.len()).map_err(|e| from_datafusion(&e))?);
        }
        if plans.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&wanted)?))));
        }
        UnionExec::try_new(plans).map_err(|e| from_datafusion(&e))
    }

    /// Reads the columns of files that the same equality deletes apply to, then those of their keys.
    async fn scan_group(
        &self,
        state: &dyn Session,
        wanted: &[usize],
        limit: Option<usize>,
        files: Vec<(TableFile, Applicable)>,
        all_deletes: &[TableFile],
        equality: &[&TableFile],
    ) -> Result<GroupScan> {
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
            total_byte_size: Precision::Inexact(self.decoded_bytes(wanted, &files, rows)),
            column_statistics: self.column_statistics(&files, untouched),
        };
        let groups = spread(partitioned, state.config().target_partitions());
        let error = |e: DataFusionError| from_datafusion(&e);
        if equality.is_empty() {
            let plan = self
                .scan_config(groups, locations, Some(wanted.to_vec()), limit, statistics)
                .map_err(error)?;
            return Ok(GroupScan { plan, gone, keys: Vec::new() });
        }
        let by_id: BTreeMap<i32, (String, DataType)> = self
            .columns
            .columns
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| (column.id, (field.name().clone(), field.data_type().clone())))
            .collect();
        let keys = deletes::key_sets(&self.files, equality, &by_id).await?;
        let mut read = wanted.to_vec();
        for name in keys.iter().flat_map(|set| &set.columns) {
            let index = self.schema.index_of(name)?;
            if !read.contains(&index) {
                read.push(index);
            }
        }
        let plan = self.scan_config(groups, locations, Some(read), None, statistics).map_err(error)?;
        Ok(GroupScan { plan, gone, keys })
    }

    /// What some columns of files take once they are decoded, in bytes; a guess from what they take as stored.
    fn decoded_bytes(&self, wanted: &[usize], files: &[(TableFile, Applicable)], rows: usize) -> usize {
        // Not every engine says what columns take.
        let share = |file: &DataFile| file.file_size_in_bytes() / self.columns.columns.len().max(1) as u64;
        let stored = |ids: &[i32], file: &DataFile| -> u64 {
            let sizes = file.column_sizes();
            if sizes.is_empty() { share(file) } else { ids.iter().filter_map(|id| sizes.get(id)).sum() }
        };
        let of_column = |index: &usize| {
            let field = self.stored.field(*index);
            let fixed = rows.saturating_mul(field.data_type().primitive_width().unwrap_or(0));
            let Some(column) = self.columns.columns.get(*index).filter(|_| fixed == 0) else { return fixed };
            let mut leaves = Vec::new();
            if let Some(field) = self.metadata.current_schema().field_by_id(column.id) {
                leaf_ids(field, &mut leaves);
            }
            let stored: u64 = files.iter().map(|(file, _)| stored(&leaves, file.entry.data_file())).sum();
            usize::try_from(stored.saturating_mul(PACKED)).unwrap_or(usize::MAX)
        };
        wanted.iter().map(of_column).fold(0, usize::saturating_add)
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

/// The ids of the columns of a Parquet file that a field is stored in.
fn leaf_ids(field: &NestedField, ids: &mut Vec<i32>) {
    match field.field_type.as_ref() {
        Type::Primitive(_) => ids.push(field.id),
        Type::Struct(fields) => fields.fields().iter().for_each(|field| leaf_ids(field, ids)),
        Type::List(list) => leaf_ids(&list.element_field, ids),
        Type::Map(map) => {
            leaf_ids(&map.key_field, ids);
            leaf_ids(&map.value_field, ids);
        }
    }
}

/// A data file of a table.
#[derive(Debug, Clone)]
pub(crate) struct DataFileFacts {
    /// Where it is.
    pub(crate) location: String,
    /// Its rows, those that were deleted beside it too.
    pub(crate) rows: u64,
    /// Whether some may have been.
    pub(crate) has_deletes: bool,
}

/// Files of a table, for people to read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FileTotals {
    files: u64,
    rows: u64,
    bytes: u64,
}

impl FileTotals {
    pub(crate) fn count(&mut self, rows: u64, bytes: u64) {
        self.files += 1;
        self.rows = self.rows.saturating_add(rows);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl std::fmt::Display for FileTotals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files, {} rows, {} bytes", self.files, self.rows, self.bytes)
    }
}

/// The scan of one data file.
#[derive(Debug, Clone)]
pub(crate) struct FileScan {
    /// Its place in the share.
    pub(crate) place: u32,
    pub(crate) location: String,
    pub(crate) table_location: Arc<str>,
    /// Its data sequence number.
    pub(crate) sequence: i64,
    /// Its rows and bytes.
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Gives the columns that were asked for, then those of keys, of the rows that are not gone by position.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// The positions of the others, ascending.
    pub(crate) gone: Arc<Vec<u64>>,
    /// Keys whose rows are gone too.
    pub(crate) keys: Arc<Vec<KeySet>>,
}

/// A scan of some files, of which rows that are gone by equality are still to be left out.
struct GroupScan {
    plan: Arc<dyn ExecutionPlan>,
    /// By file: the positions of rows that the scan leaves out.
    gone: HashMap<String, Vec<u64>>,
    keys: Vec<KeySet>,
}

impl GroupScan {
    /// The live rows; `width` columns were asked for.
    fn without_deleted(self, width: usize) -> DfResult<Arc<dyn ExecutionPlan>> {
        if self.keys.is_empty() {
            return Ok(self.plan);
        }
        Ok(Arc::new(EqualityDeleteExec::try_new(self.plan, Arc::new(self.keys), width)?))
    }
}

/// The name of a column that nobody can write.
fn hidden(name: &str) -> String {
    format!("\u{0}{name}")
}

fn check_format(file: &TableFile) -> Result<()> {
    let data_file = file.entry.data_file();
    if data_file.file_format() == DataFileFormat::Parquet {
        return Ok(());
    }
    let (path, format) = (data_file.file_path(), data_file.file_format());
    Err(Error::not_supported(format!("the data file '{path}' of format {format}")))
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
        let counts =
            self.files.iter().map(|file| file.entry.data_file().null_value_counts().get(&id).copied());
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

#[cfg(test)]
#[path = "table_scan_tests.rs"]
mod tests;

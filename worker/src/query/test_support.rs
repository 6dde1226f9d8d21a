//! What the tests of queries and transforms share: an engine in a folder of its own, Iceberg tables
//! written with iceberg's own writers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::TryStreamExt;
use iceberg::TableCreation;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, ManifestListWriter, ManifestWriterBuilder,
    Operation, PartitionSpec, Snapshot, Summary, TableMetadata, TableMetadataBuilder,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use stevedore_common::Result;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::schema::{Column, FIELD_ID, TableSchema};
use stevedore_common::storage::{Store, Stores, Warehouse};
use stevedore_common::types::SqlType;
use stevedore_proto::v1::{FileTask, QuerySpec, Relation, StageScan, StorageAccess, TableScan, relation};

use super::session::{EngineConfig, QueryEngine};
use crate::read::WorkerResources;
use crate::slice::StageFiles;

pub(crate) struct Fixture {
    pub(crate) engine: QueryEngine,
    pub(crate) warehouse: Warehouse,
    _dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_memory(256 << 20)
    }

    /// Queries have so much memory.
    pub(crate) fn with_memory(memory_bytes: usize) -> Self {
        let stores = Arc::new(Stores::default());
        let resources = WorkerResources::new(2, 256 << 20).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("warehouse");
        let warehouse =
            Warehouse::open(root.to_str().unwrap(), Default::default(), Default::default()).unwrap();
        let engine = QueryEngine::new(EngineConfig {
            cores: 2,
            memory_bytes,
            spill_dir: dir.path().join("spill"),
            spill_bytes: 1 << 30,
            stages: Arc::new(StageFiles::new(Arc::clone(&stores), resources)),
            stores,
        })
        .unwrap();
        Self { engine, warehouse, _dir: dir }
    }

    pub(crate) fn access(&self) -> StorageAccess {
        let spec = self.warehouse.spec();
        StorageAccess {
            root: spec.root.to_string(),
            allowed_fs_roots: spec
                .policy
                .allowed_fs_roots
                .iter()
                .map(|root| root.to_str().unwrap().to_owned())
                .collect(),
            ..StorageAccess::default()
        }
    }

    pub(crate) fn table(&self, name: &str, metadata_location: &str) -> Relation {
        Relation {
            name: name.to_owned(),
            relation: Some(relation::Relation::Table(TableScan {
                metadata_location: metadata_location.to_owned(),
                warehouse: Some(self.access()),
                ..TableScan::default()
            })),
        }
    }

    pub(crate) async fn run(&self, sql: &str, relations: Vec<Relation>) -> Result<Vec<RecordBatch>> {
        let spec = QuerySpec { sql: sql.to_owned(), relations, ..QuerySpec::default() };
        self.engine.query(&spec).await?.try_collect().await
    }

    /// The rows as text, cells joined by `|`, NULL as `∅`.
    pub(crate) async fn rows(&self, sql: &str, relations: Vec<Relation>) -> Vec<String> {
        let batches = self.run(sql, relations).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        text_rows(&batches)
    }

    pub(crate) async fn error(&self, sql: &str, relations: Vec<Relation>) -> String {
        match self.run(sql, relations).await {
            Ok(batches) => panic!("{sql} gave {:?}", text_rows(&batches)),
            Err(error) => error.to_string(),
        }
    }
}

pub(crate) fn text_rows(batches: &[RecordBatch]) -> Vec<String> {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    let options = FormatOptions::default().with_null("∅");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(cells.join("|"));
        }
    }
    rows
}

pub(crate) fn ipc(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

/// A relation of rows sent along; columns are (name, type, values).
pub(crate) fn rows_relation(name: &str, columns: Vec<(&str, &str, ArrayRef)>) -> Relation {
    let fields: Vec<Field> =
        columns.iter().map(|(name, ty, _)| SqlType::parse(ty).unwrap().to_field(name, true)).collect();
    let arrays = columns.into_iter().map(|(_, _, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    Relation { name: name.to_owned(), relation: Some(relation::Relation::Rows(ipc(&batch))) }
}

pub(crate) fn column(name: &str, ty: &str) -> Column {
    Column {
        id: 0,
        name: name.to_owned(),
        ty: SqlType::parse(ty).unwrap(),
        nullable: true,
        default: None,
        comment: None,
    }
}

/// Writes a file, which the task is to read.
pub(crate) async fn put(store: &Store, index: u32, path: &str, content: impl Into<Bytes>) -> FileTask {
    store.put(path, content.into()).await.unwrap();
    let version = store.head(path).await.unwrap().version;
    FileTask {
        file: index,
        path: path.into(),
        name: path.into(),
        size: version.size,
        etag: version.etag.unwrap_or_default(),
        version: version.version.unwrap_or_default(),
        last_modified_ms: version.last_modified_ms,
        parts: 1,
        ..FileTask::default()
    }
}

/// Writes files below the warehouse and makes a relation of them.
pub(crate) async fn stage(fixture: &Fixture, kind: FormatKind, files: &[(&str, Vec<u8>)]) -> Relation {
    let mut tasks = Vec::new();
    for (index, (name, bytes)) in (0..).zip(files) {
        let path = format!("stage/{name}");
        let task = put(fixture.warehouse.store(), index, &path, bytes.clone()).await;
        tasks.push(FileTask { name: (*name).to_owned(), ..task });
    }
    let scan = StageScan {
        storage: Some(fixture.access()),
        file_format: serde_json::to_string(&FileFormat::defaults(kind)).unwrap(),
        files: tasks,
        case_sensitive: false,
    };
    Relation { name: "__rel_0".into(), relation: Some(relation::Relation::Stage(scan)) }
}

pub(crate) fn text(name: &'static str, content: &str) -> (&'static str, Vec<u8>) {
    (name, content.as_bytes().to_vec())
}

/// Builds an Iceberg table file by file.
pub(crate) struct TestTable<'f> {
    fixture: &'f Fixture,
    pub(crate) metadata: TableMetadata,
    location: String,
    files: usize,
    /// Manifest entries of the snapshots so far: (file, sequence number).
    data: Vec<(DataFile, i64)>,
    deletes: Vec<(DataFile, i64)>,
    sequence: i64,
}

impl<'f> TestTable<'f> {
    pub(crate) fn create(fixture: &'f Fixture, name: &str, columns: Vec<Column>) -> Self {
        let (schema, properties) = TableSchema { columns }.to_new_iceberg().unwrap();
        let location = fixture.warehouse.store().uri(name);
        let creation = TableCreation::builder()
            .name(name.to_owned())
            .location(location.clone())
            .schema(schema)
            .properties(properties)
            .build();
        let metadata = TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
        Self { fixture, metadata, location, files: 0, data: Vec::new(), deletes: Vec::new(), sequence: 0 }
    }

    async fn write_parquet(&mut self, batch: &RecordBatch, row_group_rows: usize) -> (String, u64) {
        self.files += 1;
        let path = format!("{}/data/{}.parquet", self.location, self.files);
        let properties =
            WriterProperties::builder().set_max_row_group_row_count(Some(row_group_rows)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        let size = bytes.len() as u64;
        self.fixture.warehouse.file_io().new_output(&path).unwrap().write(bytes.into()).await.unwrap();
        (path, size)
    }

    /// Adds a data file; columns are (field id, name in the file, values). Bounds come as given.
    pub(crate) async fn add(
        &mut self,
        columns: Vec<(i32, &str, ArrayRef)>,
        bounds: Vec<(i32, iceberg::spec::Datum, iceberg::spec::Datum)>,
    ) -> String {
        let rows = columns[0].2.len() as u64;
        let nulls = columns.iter().map(|(id, _, array)| (*id, array.null_count() as u64)).collect();
        let batch = parquet_batch(columns);
        let (path, size) = self.write_parquet(&batch, 4).await;
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::Data)
            .file_path(path.clone())
            .file_format(DataFileFormat::Parquet)
            .record_count(rows)
            .file_size_in_bytes(size)
            .null_value_counts(nulls)
            .lower_bounds(bounds.iter().map(|(id, low, _)| (*id, low.clone())).collect())
            .upper_bounds(bounds.iter().map(|(id, _, high)| (*id, high.clone())).collect())
            .partition_spec_id(0);
        self.sequence += 1;
        self.data.push((builder.build().unwrap(), self.sequence));
        path
    }

    pub(crate) async fn delete_positions(&mut self, path: &str, positions: &[i64]) {
        let paths: ArrayRef = Arc::new(arrow::array::StringArray::from(vec![path; positions.len()]));
        let positions: ArrayRef = Arc::new(arrow::array::Int64Array::from(positions.to_vec()));
        let batch =
            parquet_batch(vec![(2_147_483_546, "file_path", paths), (2_147_483_545, "pos", positions)]);
        self.add_delete(&batch, DataContentType::PositionDeletes, None).await;
    }

    pub(crate) async fn delete_keys(&mut self, id: i32, name: &str, keys: ArrayRef) {
        let batch = parquet_batch(vec![(id, name, keys)]);
        self.add_delete(&batch, DataContentType::EqualityDeletes, Some(vec![id])).await;
    }

    async fn add_delete(&mut self, batch: &RecordBatch, content: DataContentType, ids: Option<Vec<i32>>) {
        let (path, size) = self.write_parquet(batch, 1000).await;
        let mut builder = DataFileBuilder::default();
        builder
            .content(content)
            .file_path(path)
            .file_format(DataFileFormat::Parquet)
            .record_count(batch.num_rows() as u64)
            .file_size_in_bytes(size)
            .equality_ids(ids)
            .partition_spec_id(0);
        self.sequence += 1;
        self.deletes.push((builder.build().unwrap(), self.sequence));
    }

    pub(crate) fn map_metadata(&mut self, f: impl FnOnce(TableMetadataBuilder) -> TableMetadataBuilder) {
        let builder = self.metadata.clone().into_builder(None);
        self.metadata = f(builder).build().unwrap().metadata;
    }

    /// Writes manifests, snapshot and metadata; answers the metadata location.
    pub(crate) async fn commit(mut self) -> String {
        let io = self.fixture.warehouse.file_io();
        if self.sequence > 0 {
            let snapshot_id = 77;
            let mut manifests = Vec::new();
            for (name, files, deletes) in [("data", &self.data, false), ("deletes", &self.deletes, true)] {
                if files.is_empty() {
                    continue;
                }
                let output = io.new_output(format!("{}/metadata/{name}.avro", self.location)).unwrap();
                let builder = ManifestWriterBuilder::new(
                    output,
                    Some(snapshot_id),
                    self.metadata.current_schema().clone(),
                    PartitionSpec::unpartition_spec(),
                );
                let mut writer = if deletes { builder.build_v2_deletes() } else { builder.build_v2_data() };
                for (file, sequence) in files {
                    writer.add_existing_file(file.clone(), snapshot_id, *sequence, Some(*sequence)).unwrap();
                }
                manifests.push(writer.write_manifest_file().await.unwrap());
            }
            for manifest in &mut manifests {
                manifest.sequence_number = self.sequence;
                manifest.min_sequence_number = 1;
            }
            let list = format!("{}/metadata/list.avro", self.location);
            let writer = io.new_output(&list).unwrap().writer().await.unwrap();
            let mut writer = ManifestListWriter::v2(writer, snapshot_id, None, self.sequence);
            writer.add_manifests(manifests.into_iter()).unwrap();
            writer.close().await.unwrap();
            let snapshot = Snapshot::builder()
                .with_snapshot_id(snapshot_id)
                .with_sequence_number(self.sequence)
                .with_timestamp_ms(chrono::Utc::now().timestamp_millis())
                .with_manifest_list(list)
                .with_summary(Summary { operation: Operation::Append, additional_properties: HashMap::new() })
                .with_schema_id(self.metadata.current_schema_id())
                .build();
            self.map_metadata(|builder| builder.set_branch_snapshot(snapshot, "main").unwrap());
        }
        let path = format!("{}/metadata/v1.metadata.json", self.location);
        let json = serde_json::to_vec(&self.metadata).unwrap();
        io.new_output(&path).unwrap().write(json.into()).await.unwrap();
        path
    }
}

fn parquet_batch(columns: Vec<(i32, &str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(id, name, array)| {
            Field::new(*name, array.data_type().clone(), true)
                .with_metadata([(FIELD_ID.to_owned(), id.to_string())].into())
        })
        .collect();
    let arrays = columns.into_iter().map(|(_, _, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

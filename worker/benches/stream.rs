//! What it costs to plan and read a stream over a table of many files and over one of few, with three new files
//! each: the first time, when no manifest is known, and again. Only the new files exist: whoever opens another one
//! fails.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use futures::TryStreamExt;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Operation, UnboundPartitionSpec,
};
use parquet::arrow::ArrowWriter;
use stevedore_common::schema::{Column, FIELD_ID, TableSchema};
use stevedore_common::storage::{Stores, Warehouse};
use stevedore_common::types::SqlType;
use stevedore_proto::v1::{QuerySpec, Relation, StorageAccess, StreamScan, relation};
use stevedore_worker::query::{EngineConfig, QueryEngine};
use stevedore_worker::read::WorkerResources;
use stevedore_worker::slice::StageFiles;

#[allow(dead_code)]
#[path = "../src/query/test_history.rs"]
mod test_history;

use test_history::History;

const FILES_PER_COMMIT: usize = 2000;
const NEW_FILES: usize = 3;
const ROWS: i64 = 100;

struct Bench {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn engine(&self) -> QueryEngine {
        let stores = Arc::new(Stores::default());
        let resources = WorkerResources::new(2, 64 << 20).unwrap();
        let config = EngineConfig {
            cores: 2,
            memory_bytes: 64 << 20,
            spill_dir: self.folder.path().join("spill"),
            spill_bytes: 1 << 20,
            stages: Arc::new(StageFiles::new(Arc::clone(&stores), resources)),
            stores,
        };
        self.runtime.block_on(async { QueryEngine::new(config).unwrap() })
    }

    /// A table of so many files and three new ones: what a stream reads of it.
    fn stream(&self, name: &str, files: usize) -> QuerySpec {
        let root = self.folder.path().canonicalize().unwrap();
        let warehouse =
            Warehouse::open(root.to_str().unwrap(), Default::default(), Default::default()).unwrap();
        let io = warehouse.file_io();
        let location = format!("file://{}/{name}", root.display());
        let columns = [("id", "BIGINT"), ("name", "VARCHAR")].map(|(name, ty)| Column {
            id: 0,
            name: name.to_owned(),
            ty: SqlType::parse(ty).unwrap(),
            nullable: true,
            default: None,
            comment: None,
        });
        let (schema, properties) = TableSchema { columns: columns.into() }.to_new_iceberg().unwrap();
        let properties = properties.into_iter().collect();
        let spec = UnboundPartitionSpec::default();
        let mut history = History::create(io.clone(), location.clone(), schema, properties, spec);
        self.runtime.block_on(async {
            let mut from_snapshot = 0;
            let numbers: Vec<usize> = (0..files).collect();
            for numbers in numbers.chunks(FILES_PER_COMMIT) {
                let old = numbers.iter().map(|n| data_file(&format!("{location}/data/{n}.parquet"), 1000));
                from_snapshot = history.commit(Operation::Append, old.collect(), &[], &[]).await;
            }
            for n in 0..NEW_FILES {
                let path = format!("{location}/data/new-{n}.parquet");
                let bytes = parquet();
                let added = data_file(&path, bytes.len() as u64);
                io.new_output(&path).unwrap().write(bytes.into()).await.unwrap();
                history.commit(Operation::Append, vec![added], &[], &[]).await;
            }
            let scan = StreamScan {
                to_snapshot: history.metadata.current_snapshot_id().unwrap(),
                metadata_location: history.metadata_location().await,
                warehouse: Some(StorageAccess {
                    root: format!("fs://{}/", root.display()),
                    allowed_fs_roots: vec![root.display().to_string()],
                    ..StorageAccess::default()
                }),
                from_snapshot,
                append_only: false,
            };
            QuerySpec {
                sql: "SELECT * FROM s".to_owned(),
                relations: vec![Relation {
                    name: "s".to_owned(),
                    relation: Some(relation::Relation::Stream(scan)),
                }],
                settings: HashMap::new(),
                ..QuerySpec::default()
            }
        })
    }

    fn read(&self, engine: &QueryEngine, spec: &QuerySpec) {
        let rows = self.runtime.block_on(async {
            let batches: Vec<RecordBatch> = engine.query(spec).await.unwrap().try_collect().await.unwrap();
            batches.iter().map(RecordBatch::num_rows).sum::<usize>()
        });
        assert_eq!(rows, NEW_FILES * ROWS as usize);
    }
}

fn data_file(path: &str, bytes: u64) -> DataFile {
    let counts: HashMap<i32, u64> = [(1, ROWS as u64), (2, ROWS as u64)].into();
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(path.to_owned())
        .file_format(DataFileFormat::Parquet)
        .record_count(ROWS as u64)
        .file_size_in_bytes(bytes)
        .column_sizes(counts.clone())
        .value_counts(counts)
        .null_value_counts([(1, 0), (2, 0)].into())
        .lower_bounds([(1, Datum::long(0)), (2, Datum::string("name 0"))].into())
        .upper_bounds([(1, Datum::long(ROWS)), (2, Datum::string("name 99"))].into())
        .partition_spec_id(0)
        .build()
        .unwrap()
}

fn parquet() -> Vec<u8> {
    let field = |id: i32, name: &str, ty| {
        Field::new(name, ty, true).with_metadata([(FIELD_ID.to_owned(), id.to_string())].into())
    };
    let schema = Schema::new(vec![field(1, "id", DataType::Int64), field(2, "name", DataType::Utf8)]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..ROWS)),
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|n| format!("name {n}")))),
    ];
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn streams(criterion: &mut Criterion) {
    let bench = Bench {
        folder: tempfile::tempdir().unwrap(),
        runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    };
    let mut group = criterion.benchmark_group("three new files");
    group.sample_size(30);
    for files in [10, 10_000] {
        let spec = bench.stream(&format!("t{files}"), files);
        group.bench_function(BenchmarkId::new("first read", files), |b| {
            b.iter_batched(|| bench.engine(), |engine| bench.read(&engine, &spec), BatchSize::PerIteration);
        });
        let engine = bench.engine();
        group
            .bench_function(BenchmarkId::new("read again", files), |b| b.iter(|| bench.read(&engine, &spec)));
    }
    group.finish();
}

criterion_group!(benches, streams);
criterion_main!(benches);

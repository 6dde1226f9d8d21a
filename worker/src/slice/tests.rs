#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Slices end to end on a local folder: files and queries in, Parquet and reports out.

mod skip_file;
mod streams;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::schema::Column;
use stevedore_common::types::SqlType;
use stevedore_proto::v1::{
    CopyCheck, CopyCheckKind, CopySource, ErrorMode, FileOutcome, FileTask, OnError, QuerySpec, StageScan,
    StorageAccess,
};

use super::*;
use crate::query::EngineConfig;
use crate::query::stage_scan::StageReader;

struct Fixture {
    folder: tempfile::TempDir,
    runner: SliceRunner,
    columns: Vec<Column>,
}

fn column(name: &str, ty: &str, default: Option<&str>) -> Column {
    Column {
        id: 0,
        name: name.to_owned(),
        ty: SqlType::parse(ty).unwrap(),
        nullable: name != "id",
        default: default.map(str::to_owned),
        comment: None,
    }
}

fn query_engine(
    memory_bytes: usize,
    spill_dir: PathBuf,
    stores: Arc<Stores>,
    stages: Arc<dyn StageReader>,
) -> QueryEngine {
    let config = EngineConfig { cores: 2, memory_bytes, spill_dir, spill_bytes: 1 << 20, stores, stages };
    QueryEngine::new(config).unwrap()
}

impl Fixture {
    fn new() -> Self {
        Self::with_memory(64 << 20)
    }

    fn with_memory(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("in")).unwrap();
        std::fs::create_dir_all(folder.path().join("table/data")).unwrap();
        let stores = Arc::new(Stores::default());
        let resources = WorkerResources::new(2, bytes).unwrap();
        let stages = Arc::new(StageFiles::new(stores.clone(), resources.clone()));
        let spill = folder.path().join("spill");
        let engine = query_engine(64 << 20, spill, stores.clone(), stages.clone());
        let runner = SliceRunner {
            engine: Arc::new(engine),
            stores,
            resources,
            encoders: Encoders::new(2, 64 << 20),
            stages,
            inbox: Arc::default(),
            lanes: LaneResources::new(2, folder.path().join("spill")),
            token: FlightToken::default(),
        };
        let columns = vec![
            column("id", "TINYINT", None),
            column("name", "VARCHAR", None),
            column("more", "BIGINT UNSIGNED", Some("40 + 2")),
        ];
        Self { folder, runner, columns }
    }

    /// Queries have so much memory from here on.
    fn limit_queries(&mut self, memory_bytes: usize) {
        let spill = self.path().join("spill");
        let SliceRunner { stores, stages, .. } = &self.runner;
        let engine = query_engine(memory_bytes, spill, stores.clone(), stages.clone());
        self.runner.engine = Arc::new(engine);
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn access(&self, folder: &str) -> StorageAccess {
        StorageAccess {
            root: format!("fs://{}/{folder}/", self.path().canonicalize().unwrap().display()),
            allowed_fs_roots: vec![self.path().canonicalize().unwrap().display().to_string()],
            ..StorageAccess::default()
        }
    }

    fn target(&self, field_ids: &[i32]) -> TableTarget {
        let table = TableSchema { columns: self.columns.clone() };
        let (schema, properties) = table.to_new_iceberg().unwrap();
        TableTarget {
            name: "default.t".into(),
            iceberg_schema: serde_json::to_string(&schema).unwrap(),
            partition_spec: serde_json::to_string(&PartitionSpec::unpartition_spec()).unwrap(),
            properties: properties.into_iter().collect(),
            data_location: format!("file://{}/table/data", self.path().canonicalize().unwrap().display()),
            warehouse: Some(self.access("table")),
            field_ids: field_ids.to_vec(),
            ..TableTarget::default()
        }
    }

    fn file(&self, number: u32, name: &str, content: impl AsRef<[u8]>) -> FileTask {
        let path = self.path().join("in").join(name);
        std::fs::write(&path, content).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let modified = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        FileTask {
            file: number,
            path: name.to_owned(),
            name: name.to_owned(),
            size: metadata.len(),
            last_modified_ms: modified.as_millis() as i64,
            parts: 1,
            ..FileTask::default()
        }
    }

    fn copy(&self, files: Vec<FileTask>, transform: &str, mode: ErrorMode) -> SliceSpec {
        let scan = StageScan {
            storage: Some(self.access("in")),
            file_format: serde_json::to_string(&FileFormat::defaults(FormatKind::Csv)).unwrap(),
            files,
            case_sensitive: false,
        };
        let source = CopySource {
            scan: Some(scan),
            transform: transform.to_owned(),
            relation: "s1".into(),
            on_error: Some(OnError { mode: mode.into(), limit: 0 }),
            disable_variant_check: false,
            evolves: false,
        };
        self.spec(Source::Copy(source), &[1, 2])
    }

    fn insert(&self, sql: &str, field_ids: &[i32]) -> SliceSpec {
        self.spec(Source::Query(QuerySpec { sql: sql.to_owned(), ..QuerySpec::default() }), field_ids)
    }

    fn spec(&self, source: Source, field_ids: &[i32]) -> SliceSpec {
        let job_id = stevedore_common::ids::JobId::generate().to_string();
        SliceSpec {
            slice: Some(SliceRef { job_id, slice: 0, attempt: 1 }),
            target: Some(self.target(field_ids)),
            source: Some(source),
            settings: HashMap::new(),
            ..SliceSpec::default()
        }
    }

    async fn run(&self, spec: SliceSpec) -> Result<SliceReport, SliceFailure> {
        self.runner.run(spec, Arc::default(), CancellationToken::new()).await
    }

    fn data_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path().join("table/data")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// All rows of all data files, each as `a|b|c`, sorted.
    fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for path in self.data_files() {
            let file = std::fs::File::open(path).unwrap();
            let batches: Vec<RecordBatch> = ParquetRecordBatchReaderBuilder::try_new(file)
                .unwrap()
                .build()
                .unwrap()
                .map(|b| b.unwrap())
                .collect();
            for batch in batches {
                for row in 0..batch.num_rows() {
                    let texts: Vec<String> =
                        batch.columns().iter().map(|c: &ArrayRef| text(c, row)).collect();
                    rows.push(texts.join("|"));
                }
            }
        }
        rows.sort();
        rows
    }
}

fn text(array: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string()
}

#[tokio::test]
async fn files_are_loaded_with_defaults_and_reported_each() {
    let fixture = Fixture::new();
    let files = vec![
        fixture.file(3, "a.csv", "1,one\n2,\\N\n"),
        fixture.file(4, "empty.csv", ""),
        fixture.file(7, "b.csv", "3,three\n"),
    ];
    let report = fixture.run(fixture.copy(files, "", ErrorMode::Abort)).await.unwrap();
    assert_eq!(fixture.rows(), ["1|one|42", "2|NULL|42", "3|three|42"]);
    let outcomes: Vec<(u32, FileOutcome, u64)> =
        report.files.iter().map(|file| (file.file, file.outcome(), file.rows)).collect();
    assert_eq!(
        outcomes,
        [(3, FileOutcome::Loaded, 2), (4, FileOutcome::Empty, 0), (7, FileOutcome::Loaded, 1)]
    );
    assert_eq!(report.data_files.len(), 1);
    assert_eq!((report.totals.files, report.totals.rows, report.totals.input_bytes), (3, 3, 19));
}

#[tokio::test]
async fn the_first_bad_row_aborts_and_leaves_no_file() {
    let fixture = Fixture::new();
    let files = vec![fixture.file(0, "a.csv", "1,one\n2,two\n300,many\nx,bad\n")];
    let failure = fixture.run(fixture.copy(files, "", ErrorMode::Abort)).await.unwrap_err();
    let message = failure.error.to_string();
    assert!(failure.permanent);
    assert!(message.starts_with("file 'a.csv', line 3: ") && message.contains("300"), "{message}");
    assert_eq!(failure.file.unwrap().first_error_line, 3);
    assert!(fixture.data_files().is_empty());
}

#[tokio::test]
async fn continue_drops_bad_rows_and_counts_them_by_file() {
    let fixture = Fixture::new();
    let files = vec![
        fixture.file(0, "a.csv", "1,one\nx,bad\n\\N,null\n4,four\n"),
        fixture.file(1, "gone.csv", "5,five\n"),
        fixture.file(2, "b.csv", "6,six\n"),
    ];
    std::fs::remove_file(fixture.path().join("in/gone.csv")).unwrap();
    let report = fixture.run(fixture.copy(files, "", ErrorMode::Continue)).await.unwrap();
    assert_eq!(fixture.rows(), ["1|one|42", "4|four|42", "6|six|42"]);
    let [a, gone, b] = &report.files[..] else { panic!("{report:?}") };
    assert_eq!((a.rows, a.errors, a.first_error_line), (2, 2, 2));
    assert!(a.first_error.contains("column 1 (id TINYINT)"), "{}", a.first_error);
    assert_eq!((gone.outcome(), gone.rows, gone.errors), (FileOutcome::LeftOut, 0, 1));
    assert_eq!((b.outcome(), b.errors), (FileOutcome::Loaded, 0));
    assert_eq!(report.totals.errors, 3);
}

#[tokio::test]
async fn a_select_transforms_the_rows() {
    let fixture = Fixture::new();
    let files = vec![fixture.file(0, "a.csv", "1,one\n2,two\n3,three\n")];
    let sql = r#"SELECT CAST("$1" AS INT) * 10, upper("$2") FROM "s1" WHERE "$2" <> 'two'"#;
    let report = fixture.run(fixture.copy(files, sql, ErrorMode::Abort)).await.unwrap();
    assert_eq!(fixture.rows(), ["10|ONE|42", "30|THREE|42"]);
    assert_eq!(report.files[0].rows, 2);
}

#[tokio::test]
async fn a_query_fills_the_table_by_position() {
    let fixture = Fixture::new();
    let spec = fixture.insert("SELECT * FROM (VALUES ('a', 1), ('b', NULL))", &[2, 1]);
    let failure = fixture.run(spec).await.unwrap_err();
    assert!(failure.permanent);
    assert!(failure.error.to_string().contains("row 2 of the query"), "{}", failure.error);
    assert!(fixture.data_files().is_empty());

    let report =
        fixture.run(fixture.insert("SELECT * FROM (VALUES ('a', 1), ('b', 2))", &[2, 1])).await.unwrap();
    assert_eq!(fixture.rows(), ["1|a|42", "2|b|42"]);
    assert_eq!((report.files.len(), report.totals.rows), (0, 2));

    let failure = fixture.run(fixture.insert("SELECT 1", &[2, 1])).await.unwrap_err();
    assert!(
        failure.error.to_string().contains("1 columns for 2 columns of table 'default.t'"),
        "{}",
        failure.error
    );
}

#[tokio::test]
async fn a_cancelled_slice_leaves_no_file() {
    let fixture = Fixture::new();
    let files = vec![fixture.file(0, "a.csv", "1,one\n")];
    let cancel = CancellationToken::new();
    cancel.cancel();
    let spec = fixture.copy(files, "", ErrorMode::Abort);
    let failure = fixture.runner.run(spec, Arc::default(), cancel).await.unwrap_err();
    assert_eq!(failure.error.kind(), ErrorKind::Cancelled);
    assert!(!failure.permanent);
    assert!(fixture.data_files().is_empty());
}

/// The rows that a check answers, each as `a|b|c`; the last one may be the error that ended them.
async fn checked(fixture: &Fixture, kind: CopyCheckKind, rows: u64, files: Vec<FileTask>) -> Vec<String> {
    let spec = fixture.copy(files, "", ErrorMode::Abort);
    let Some(Source::Copy(copy)) = spec.source else { unreachable!() };
    let target = TableTarget { warehouse: None, data_location: String::new(), ..fixture.target(&[1, 2]) };
    let check = CopyCheck {
        copy: Some(copy),
        target: Some(target),
        kind: kind.into(),
        rows,
        max_records_per_file: 10,
        max_records: 0,
    };
    let announced = SliceRunner::check_schema(&check).unwrap();
    let (schema, mut stream) = fixture.runner.check(&check, &HashMap::new()).await.unwrap();
    assert_eq!(schema, announced);
    let mut answer = Vec::new();
    while let Some(batch) = stream.next().await {
        match batch {
            Ok(batch) => {
                assert_eq!(batch.schema(), schema);
                answer.extend((0..batch.num_rows()).map(|row| {
                    let texts: Vec<String> = batch.columns().iter().map(|c| text(c, row)).collect();
                    texts.join("|")
                }));
            }
            Err(error) => answer.push(error.to_string()),
        }
    }
    answer
}

#[tokio::test]
async fn a_check_answers_errors_rows_and_columns_and_writes_nothing() {
    let fixture = Fixture::new();
    let files = || {
        vec![
            fixture.file(0, "a.csv", "1,one\n2,two\nx,three\n,four\n5,five\n"),
            fixture.file(1, "b.csv", "6,six\n700,seven\n"),
        ]
    };
    assert_eq!(
        checked(&fixture, CopyCheckKind::CheckErrors, 0, files()).await,
        [
            "a.csv|3|3|id|x|invalid digit",
            "a.csv|4|4|id|NULL|NULL is not allowed",
            "b.csv|2|2|id|700|out of range"
        ]
    );
    // As many rows as are wanted, however it goes on; defaults are filled in.
    assert_eq!(checked(&fixture, CopyCheckKind::CheckRows, 2, files()).await, ["1|one|42", "2|two|42"]);
    let three = checked(&fixture, CopyCheckKind::CheckRows, 3, files()).await;
    assert_eq!(three.len(), 1, "{three:?}");
    assert!(three[0].starts_with("file 'a.csv', line 3: invalid value 'x' for column 1"), "{three:?}");
    let good = || vec![fixture.file(0, "c.csv", "1,one\n2,two\n"), fixture.file(1, "d.csv", "3,three\n")];
    let all = ["1|one|42", "2|two|42", "3|three|42"];
    assert_eq!(checked(&fixture, CopyCheckKind::CheckRows, 0, good()).await, all);
    assert_eq!(checked(&fixture, CopyCheckKind::CheckRows, 3, good()).await, all);
    assert_eq!(
        checked(&fixture, CopyCheckKind::CheckColumns, 0, good()).await,
        [
            "id|TINYINT|$1|BIGINT|cast|NULL",
            "name|VARCHAR|$2|VARCHAR|same|NULL",
            "more|BIGINT UNSIGNED|40 + 2|NULL|default|NULL"
        ]
    );
    assert!(fixture.data_files().is_empty());
}

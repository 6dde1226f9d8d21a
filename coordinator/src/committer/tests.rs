#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Versions on a local folder, read back through iceberg's own scan planning.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::TryStreamExt;
use iceberg::TableIdent;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, Datum, FormatVersion, Literal, Operation, Struct,
    TableMetadata, Transform, serialize_data_file_to_json,
};
use iceberg::table::Table;
use stevedore_common::ErrorKind;
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::types::SqlType;

use super::manifests::SMALL_MANIFESTS_MAX;
use super::*;

struct Warehouse {
    folder: tempfile::TempDir,
    committer: Committer,
}

fn column(name: &str, ty: &str) -> Column {
    Column {
        id: 0,
        name: name.to_owned(),
        ty: SqlType::parse(ty).unwrap(),
        nullable: true,
        default: None,
        comment: None,
    }
}

impl Warehouse {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), committer: Committer::new(FileIO::new_with_fs()) }
    }

    async fn create(&self, partition_by: Vec<PartitionField>) -> Created {
        let mut with_default = column("d", "MAP(VARCHAR, TUPLE(x INT, y VARIANT))");
        with_default.default = Some("NULL".into());
        let new = NewTable {
            location: format!("{}/t", self.folder.path().display()),
            schema: TableSchema {
                columns: vec![
                    column("id", "BIGINT UNSIGNED"),
                    with_default,
                    column("v", "VECTOR(3)"),
                    column("s", "VARCHAR"),
                ],
            },
            partition_by,
            properties: HashMap::from([("comment".to_owned(), "hello".to_owned())]),
        };
        self.committer.create_table(&new).await.unwrap()
    }

    async fn planned(&self, location: &str) -> Vec<(String, u64)> {
        let metadata = self.committer.load(location).await.unwrap();
        let table = Table::builder()
            .file_io(self.committer.file_io().clone())
            .metadata(metadata)
            .metadata_location(location.to_owned())
            .identifier(TableIdent::from_strs(["d", "t"]).unwrap())
            .runtime(iceberg::Runtime::try_current().unwrap())
            .build()
            .unwrap();
        let scan = table.scan().build().unwrap();
        let mut files: Vec<(String, u64)> = scan
            .plan_files()
            .await
            .unwrap()
            .map_ok(|task| {
                (task.data_file_path.rsplit('/').next().unwrap().to_owned(), task.record_count.unwrap())
            })
            .try_collect()
            .await
            .unwrap();
        files.sort();
        files
    }
}

fn data_file(metadata: &TableMetadata, name: &str, rows: u64, partition: Option<&str>) -> String {
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(format!("{}/data/{name}", metadata.location()))
        .file_format(DataFileFormat::Parquet)
        .record_count(rows)
        .file_size_in_bytes(rows * 10)
        .partition_spec_id(metadata.default_partition_spec_id())
        .lower_bounds(HashMap::from([(4, Datum::string("a"))]))
        .upper_bounds(HashMap::from([(4, Datum::string("z"))]))
        .partition(match partition {
            Some(value) => Struct::from_iter([Some(Literal::string(value))]),
            None => Struct::empty(),
        });
    serialize_data_file_to_json(
        builder.build().unwrap(),
        metadata.default_partition_type(),
        FormatVersion::V2,
    )
    .unwrap()
}

fn append(metadata: &TableMetadata, job: &str, files: Vec<String>) -> Append {
    Append {
        data_files: files,
        schema_id: metadata.current_schema_id(),
        spec_id: metadata.default_partition_spec_id(),
        job_id: job.to_owned(),
        commit_id: format!("{job}-1"),
        now_ms: 1,
        summary: BTreeMap::from([("stevedore.statement".to_owned(), "COPY".to_owned())]),
        evolution: None,
    }
}

fn file(name: &str, rows: u64) -> (String, u64) {
    (name.to_owned(), rows)
}

#[tokio::test]
async fn a_created_table_keeps_its_exact_columns() {
    let warehouse = Warehouse::new();
    let created = warehouse.create(vec![]).await;
    let read = warehouse.committer.load(&created.metadata_location).await.unwrap();
    assert_eq!(TableSchema::from_metadata(&read).unwrap(), created.schema);
    let types: Vec<String> = created.schema.columns.iter().map(|c| c.ty.to_string()).collect();
    assert_eq!(types, ["BIGINT UNSIGNED", "MAP(VARCHAR, TUPLE(x INT, y VARIANT))", "VECTOR(3)", "VARCHAR"]);
    assert_eq!(created.schema.columns[1].default.as_deref(), Some("NULL"));
    assert_eq!(read.properties()["comment"], "hello");
    assert!(created.metadata_location.contains("/t/metadata/00000-"), "{}", created.metadata_location);
    assert_eq!(warehouse.planned(&created.metadata_location).await, []);
}

#[tokio::test]
async fn appends_add_up_and_a_lost_race_is_rebased() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let metadata = &created.metadata;
    let ours = append(metadata, "job-1", vec![data_file(metadata, "a.parquet", 3, None)]);
    let theirs = append(metadata, "job-2", vec![data_file(metadata, "b.parquet", 4, None)]);

    let lost = committer.append(&created.metadata_location, &ours).await.unwrap();
    let won = committer.append(&created.metadata_location, &theirs).await.unwrap();
    let rebased = committer.append(&won.metadata_location, &ours).await.unwrap();

    assert_eq!(warehouse.planned(&won.metadata_location).await, [file("b.parquet", 4)]);
    assert_eq!(
        warehouse.planned(&rebased.metadata_location).await,
        [file("a.parquet", 3), file("b.parquet", 4)]
    );
    assert_eq!((rebased.rows_total, rebased.bytes_total), (7, 70));

    let read = committer.load(&rebased.metadata_location).await.unwrap();
    let snapshot = find_commit(&read, "job-1").unwrap();
    assert_eq!(Some(snapshot.snapshot_id()), rebased.snapshot_id);
    assert_eq!(snapshot.parent_snapshot_id(), won.snapshot_id);
    assert_eq!(snapshot.sequence_number(), 2);
    assert!(snapshot.timestamp_ms() >= created.metadata.last_updated_ms());
    let summary = &snapshot.summary().additional_properties;
    for (key, value) in [
        ("added-data-files", "1"),
        ("added-records", "3"),
        ("total-data-files", "2"),
        ("total-records", "7"),
        ("total-files-size", "70"),
        (JOB_ID, "job-1"),
        (COMMIT_ID, "job-1-1"),
        ("stevedore.statement", "COPY"),
    ] {
        assert_eq!(summary[key], value, "{key}");
    }
    assert_eq!(read.metadata_log().len(), 2);
    assert!(find_commit(&read, "job-3").is_none());

    committer.discard(&lost).await;
    for location in &lost.written {
        assert!(!committer.file_io().exists(location).await.unwrap(), "{location}");
    }
    assert_eq!(warehouse.planned(&rebased.metadata_location).await.len(), 2);
}

#[tokio::test]
async fn truncate_and_overwrite_leave_only_what_they_bring() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let metadata = &created.metadata;
    let files = vec![data_file(metadata, "a.parquet", 3, None), data_file(metadata, "b.parquet", 4, None)];
    let full = committer.append(&created.metadata_location, &append(metadata, "job-1", files)).await.unwrap();

    let empty = committer.truncate(&full.metadata_location, "job-2", "c", 1).await.unwrap();
    assert_eq!(warehouse.planned(&empty.metadata_location).await, []);
    assert_eq!((empty.rows_total, empty.bytes_total), (0, 0));
    let read = committer.load(&empty.metadata_location).await.unwrap();
    let summary = read.current_snapshot().unwrap().summary();
    assert_eq!(summary.operation, Operation::Delete);
    assert_eq!(summary.additional_properties["deleted-records"], "7");

    let again = append(metadata, "job-3", vec![data_file(metadata, "c.parquet", 5, None)]);
    let refilled = committer.append(&empty.metadata_location, &again).await.unwrap();
    assert_eq!(warehouse.planned(&refilled.metadata_location).await, [file("c.parquet", 5)]);

    let replacing = append(metadata, "job-4", vec![data_file(metadata, "d.parquet", 6, None)]);
    let replaced = committer.overwrite(&refilled.metadata_location, &replacing).await.unwrap();
    assert_eq!(warehouse.planned(&replaced.metadata_location).await, [file("d.parquet", 6)]);
    assert_eq!(replaced.rows_total, 6);
    let read = committer.load(&replaced.metadata_location).await.unwrap();
    assert_eq!(read.current_snapshot().unwrap().summary().operation, Operation::Overwrite);
}

#[tokio::test]
async fn files_are_replaced_by_others_unless_they_changed_since_they_were_read() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let metadata = &created.metadata;
    let files = |names: &[(&str, u64)]| -> Vec<String> {
        names.iter().map(|(name, rows)| data_file(metadata, name, *rows, None)).collect()
    };
    let at = |name: &str| format!("{}/data/{name}", metadata.location());
    let first = append(metadata, "job-1", files(&[("a", 3), ("b", 4), ("c", 5)]));
    let first = committer.append(&created.metadata_location, &first).await.unwrap();
    let base = first.snapshot_id;
    // Others add a file meanwhile: that is no conflict.
    let added = append(metadata, "job-2", files(&[("d", 6)]));
    let added = committer.append(&first.metadata_location, &added).await.unwrap();

    let change = append(metadata, "job-3", files(&[("b2", 2)]));
    let changed =
        committer.rewrite(&added.metadata_location, &change, &[at("a"), at("b")], base).await.unwrap();
    let expected = [file("b2", 2), file("c", 5), file("d", 6)];
    assert_eq!(warehouse.planned(&changed.metadata_location).await, expected);
    assert_eq!((changed.rows_total, changed.bytes_total), (13, 130));
    let read = committer.load(&changed.metadata_location).await.unwrap();
    let summary = read.current_snapshot().unwrap().summary();
    assert_eq!(summary.operation, Operation::Overwrite);
    for (key, value) in [("deleted-data-files", "2"), ("deleted-records", "7"), ("added-records", "2")] {
        assert_eq!(summary.additional_properties[key], value, "{key}");
    }
    // What stays keeps its history.
    let manifests = committer.live_manifests(&read).await.unwrap();
    assert_eq!(manifests.len(), 3);
    let mut entries = Vec::new();
    for manifest in &manifests {
        let manifest = committer.load_manifest(manifest).await.unwrap();
        entries.extend(manifest.entries().iter().filter(|entry| entry.is_alive()).cloned());
    }
    let c = entries.iter().find(|entry| entry.file_path() == at("c")).unwrap();
    assert_eq!((c.sequence_number(), c.snapshot_id()), (Some(1), base));

    // What was read is gone by now, or the snapshot is: nothing is prepared.
    let late = append(metadata, "job-4", files(&[("b3", 1)]));
    for (removed, base) in [(vec![at("c"), at("b")], base), (vec![at("c")], Some(1))] {
        let error = committer.rewrite(&changed.metadata_location, &late, &removed, base).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    assert_eq!(warehouse.planned(&changed.metadata_location).await, expected);

    // No file comes in the place of one that lost all its rows; and a change of nothing takes nothing away.
    let nothing = append(metadata, "job-5", Vec::new());
    let base = changed.snapshot_id;
    let deleted = committer.rewrite(&changed.metadata_location, &nothing, &[at("d")], base).await.unwrap();
    assert_eq!(warehouse.planned(&deleted.metadata_location).await, [file("b2", 2), file("c", 5)]);
    let read = committer.load(&deleted.metadata_location).await.unwrap();
    assert_eq!(read.current_snapshot().unwrap().summary().operation, Operation::Delete);
    let same = committer.rewrite(&deleted.metadata_location, &nothing, &[], base).await.unwrap();
    assert_eq!(warehouse.planned(&same.metadata_location).await, [file("b2", 2), file("c", 5)]);
}

#[tokio::test]
async fn small_manifests_are_merged_and_their_files_keep_their_history() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let mut location = created.metadata_location.clone();
    let commits = SMALL_MANIFESTS_MAX + 2;
    for n in 0..commits {
        let files = vec![data_file(&created.metadata, &format!("{n:03}.parquet"), 1, None)];
        let append = append(&created.metadata, &format!("job-{n}"), files);
        location = committer.append(&location, &append).await.unwrap().metadata_location;
    }
    let metadata = committer.load(&location).await.unwrap();
    let manifests = committer.live_manifests(&metadata).await.unwrap();
    assert_eq!(manifests.len(), 2);
    let merged = committer.load_manifest(&manifests[1]).await.unwrap();
    let sequences: HashSet<Option<i64>> = merged.entries().iter().map(|e| e.sequence_number()).collect();
    assert_eq!(sequences.len(), commits - 1);
    assert_eq!(warehouse.planned(&location).await.len(), commits);
    assert_eq!(metadata.metadata_log().len(), 100);
}

#[tokio::test]
async fn partition_values_survive_the_commit() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created =
        warehouse.create(vec![PartitionField { column: "S".into(), transform: Transform::Identity }]).await;
    let metadata = &created.metadata;
    let files =
        vec![data_file(metadata, "x.parquet", 1, Some("x")), data_file(metadata, "y.parquet", 2, Some("y"))];
    let prepared =
        committer.append(&created.metadata_location, &append(metadata, "job", files)).await.unwrap();
    let read = committer.load(&prepared.metadata_location).await.unwrap();
    let summary = &read.current_snapshot().unwrap().summary().additional_properties;
    assert_eq!(summary["changed-partition-count"], "2");
    let manifests = committer.live_manifests(&read).await.unwrap();
    let manifest = committer.load_manifest(&manifests[0]).await.unwrap();
    assert_eq!(
        manifest.entries()[0].data_file().partition(),
        &Struct::from_iter([Some(Literal::string("x"))])
    );
}

#[tokio::test]
async fn columns_change_and_files_of_the_old_ones_still_fit() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let mut new = column("added", "TINYINT");
    new.default = Some("7".into());
    let altered = committer.add_columns(&created.metadata_location, &[new.clone()], 0).await.unwrap();
    let again = committer.add_columns(&altered.metadata_location, &[new.clone()], 0).await.unwrap_err();
    assert!(again.to_string().contains("column 'added' exists already"), "{again}");
    let renamed = committer.rename_column(&altered.metadata_location, "S", "text").await.unwrap();
    let dropped = committer.drop_column(&renamed.metadata_location, "v").await.unwrap();
    let read = committer.load(&dropped.metadata_location).await.unwrap();
    let schema = TableSchema::from_metadata(&read).unwrap();
    let names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["id", "d", "text", "added"]);
    assert_eq!(
        (schema.columns[3].ty.to_string(), schema.columns[3].default.as_deref()),
        ("TINYINT".into(), Some("7"))
    );

    let old = append(&created.metadata, "job", vec![data_file(&created.metadata, "a.parquet", 3, None)]);
    let prepared = committer.append(&dropped.metadata_location, &old).await.unwrap();
    assert_eq!(warehouse.planned(&prepared.metadata_location).await, [file("a.parquet", 3)]);
}

#[tokio::test]
async fn new_columns_commit_together_with_rows() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let reserved = |id: i32, name: &str, ty: &str| Column { id, ..column(name, ty) };
    let mut rows = append(&created.metadata, "job", vec![data_file(&created.metadata, "a.parquet", 1, None)]);
    rows.evolution = Some(Evolution { columns: vec![reserved(50, "extra", "VARIANT")] });
    let prepared = committer.append(&created.metadata_location, &rows).await.unwrap();
    let read = committer.load(&prepared.metadata_location).await.unwrap();
    let schema = TableSchema::from_metadata(&read).unwrap();
    assert_eq!(schema.columns.last().unwrap().ty, SqlType::Variant);
    assert_eq!(read.current_snapshot().unwrap().schema_id(), Some(read.current_schema_id()));

    assert_eq!(schema.columns.last().unwrap().id, 50);
    assert_eq!(
        (prepared.base_schema_id, prepared.last_column_id),
        (created.metadata.current_schema_id(), 50)
    );

    // On a version that another load made with the same column there is nothing to add.
    let again = committer.append(&prepared.metadata_location, &rows).await.unwrap();
    assert_eq!((again.base_schema_id, again.schema_id), (prepared.schema_id, prepared.schema_id));
    assert_eq!(warehouse.planned(&again.metadata_location).await.len(), 2);

    // Beside a column of another name it is added as well, under its own id.
    let other =
        committer.add_columns(&created.metadata_location, &[column("theirs", "INT")], 50).await.unwrap();
    let beside = committer.append(&other.metadata_location, &rows).await.unwrap();
    let schema =
        TableSchema::from_metadata(&committer.load(&beside.metadata_location).await.unwrap()).unwrap();
    let last: Vec<_> = schema.columns.iter().rev().take(2).map(|c| (c.name.as_str(), c.id)).collect();
    assert_eq!(last, [("extra", 50), ("theirs", 51)]);
}

#[tokio::test]
async fn new_columns_that_no_longer_fit_are_a_conflict() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let at = &created.metadata_location;
    let mut rows = append(&created.metadata, "job", vec![data_file(&created.metadata, "a.parquet", 1, None)]);
    rows.evolution = Some(Evolution { columns: vec![Column { id: 50, ..column("extra", "INT") }] });
    let refused = async |location: &str, why: &str| {
        let error = committer.append(location, &rows).await.unwrap_err();
        assert_eq!(error.kind(), stevedore_common::ErrorKind::Conflict);
        assert!(error.to_string().contains(why), "{error}");
    };
    // The name is taken, in whatever case, under another id.
    let taken = committer.add_columns(at, &[column("EXTRA", "INT")], 50).await.unwrap();
    refused(&taken.metadata_location, "column 'EXTRA' was added").await;
    // It was there under its id and is dropped: its old values must not come back.
    let there = committer.append(at, &rows).await.unwrap();
    let dropped = committer.drop_column(&there.metadata_location, "extra").await.unwrap();
    refused(&dropped.metadata_location, "column 'extra' was dropped").await;
    // Renamed and widened it is the same column.
    let renamed = committer.rename_column(&there.metadata_location, "extra", "more").await.unwrap();
    committer.append(&renamed.metadata_location, &rows).await.unwrap();
}

#[tokio::test]
async fn reserved_ids_are_not_handed_out_by_alter_table() {
    let warehouse = Warehouse::new();
    let committer = &warehouse.committer;
    let created = warehouse.create(vec![]).await;
    let added =
        committer.add_columns(&created.metadata_location, &[column("a", "ARRAY(INT)")], 90).await.unwrap();
    let schema =
        TableSchema::from_metadata(&committer.load(&added.metadata_location).await.unwrap()).unwrap();
    assert_eq!((schema.columns.last().unwrap().id, added.last_column_id), (91, 92));
}

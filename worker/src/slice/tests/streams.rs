//! Statements on a table, and what a stream on it reads: rows are followed over every rewrite.

use iceberg::spec::{DataFile, NestedField, Operation, PrimitiveType, Type, UnboundPartitionSpec};
use iceberg::spec::{Transform, deserialize_data_file_from_json};
use stevedore_common::row_lineage::{JOB_ID, ROW_LINEAGE};
use stevedore_common::storage::Warehouse;
use stevedore_proto::v1::{MutationSource, Relation, StreamScan, TableScan, relation};

use super::*;
use crate::query::test_history::History;
use crate::query::test_support::text_rows;

/// How our own jobs sign what they rewrite.
const OURS: &[(&str, &str)] = &[(JOB_ID, "j"), (ROW_LINEAGE, "true")];

struct Table {
    fixture: Fixture,
    history: History,
}

impl Table {
    fn new() -> Self {
        Self::partitioned(UnboundPartitionSpec::default())
    }

    /// A table t (id TINYINT NOT NULL, name VARCHAR).
    fn partitioned(spec: UnboundPartitionSpec) -> Self {
        let mut fixture = Fixture::new();
        fixture.columns.truncate(2);
        let root = fixture.path().canonicalize().unwrap();
        let warehouse = Warehouse::open(root.to_str().unwrap(), Default::default(), Default::default());
        let (schema, properties) = TableSchema { columns: fixture.columns.clone() }.to_new_iceberg().unwrap();
        let location = format!("file://{}/table", root.display());
        let io = warehouse.unwrap().file_io();
        let history = History::create(io, location, schema, properties.into_iter().collect(), spec);
        Self { fixture, history }
    }

    fn spec(&self, source: Source) -> SliceSpec {
        let mut spec = self.fixture.spec(source, &[]);
        let target = spec.target.as_mut().unwrap();
        let metadata = &self.history.metadata;
        target.iceberg_schema = serde_json::to_string(metadata.current_schema()).unwrap();
        target.partition_spec = serde_json::to_string(metadata.default_partition_spec()).unwrap();
        target.properties = metadata.properties().clone();
        spec
    }

    fn data_files(&self, report: &SliceReport) -> (Vec<DataFile>, Vec<String>) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let metadata = &self.history.metadata;
        let spec = metadata.default_partition_spec();
        for json in &report.data_files {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            match value.get("removed") {
                Some(path) => removed.push(path.as_str().unwrap().to_owned()),
                None => added.push(
                    deserialize_data_file_from_json(
                        json,
                        spec.spec_id(),
                        metadata.default_partition_type(),
                        metadata.current_schema(),
                    )
                    .unwrap(),
                ),
            }
        }
        (added, removed)
    }

    /// INSERT INTO t SELECT …; answers the snapshot.
    async fn insert(&mut self, sql: &str) -> i64 {
        let (added, _) = self.run(Source::Query(QuerySpec { sql: sql.into(), ..QuerySpec::default() })).await;
        self.history.commit(Operation::Append, added, &[], &[(JOB_ID, "j")]).await
    }

    async fn run(&self, source: Source) -> (Vec<DataFile>, Vec<String>) {
        let report = self.fixture.run(self.spec(source)).await.unwrap();
        self.data_files(&report)
    }

    fn scan(&self, metadata_location: String) -> TableScan {
        let warehouse = Some(self.fixture.access("table"));
        TableScan { metadata_location, warehouse, ..TableScan::default() }
    }

    /// A statement that changes rows, with the columns that follow the numbers of its rows.
    async fn mutate(&mut self, columns: &str, from: &str) -> i64 {
        let location = self.history.metadata_location().await;
        let scan = TableScan { numbered: true, ..self.scan(location) };
        let relation = Relation { name: "__rel_0".into(), relation: Some(relation::Relation::Table(scan)) };
        let sql = format!("SELECT t.__target_file, t.__target_row, {columns} FROM {from}");
        let changes = QuerySpec { sql, relations: vec![relation], ..QuerySpec::default() };
        let source = MutationSource { changes: Some(changes), target: "__rel_0".into() };
        let (added, removed) = self.run(Source::Mutation(source)).await;
        let operation = match (removed.is_empty(), added.is_empty()) {
            (true, _) => Operation::Append,
            (false, true) => Operation::Delete,
            (false, false) => Operation::Overwrite,
        };
        self.history.commit(operation, added, &removed, OURS).await
    }

    async fn update(&mut self, name: &str, filter: &str) -> i64 {
        let columns = format!("1, {LINEAGE}, t.id, {name}");
        self.mutate(&columns, &format!("\"__rel_0\" t WHERE {filter}")).await
    }

    async fn delete(&mut self, filter: &str) -> i64 {
        self.mutate("2", &format!("\"__rel_0\" t WHERE {filter}")).await
    }

    async fn query(&mut self, sql: &str, relation: relation::Relation) -> Result<Vec<RecordBatch>> {
        let relations = vec![Relation { name: "s".into(), relation: Some(relation) }];
        let spec = QuerySpec { sql: sql.into(), relations, ..QuerySpec::default() };
        let stream = self.fixture.runner.engine.query(&spec).await?;
        stream.collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn select(&mut self, sql: &str) -> Vec<String> {
        let location = self.history.metadata_location().await;
        let scan = relation::Relation::Table(self.scan(location));
        text_rows(&self.query(sql, scan).await.unwrap())
    }

    async fn try_changes(&mut self, sql: &str, from: i64, append_only: bool) -> Result<Vec<String>> {
        let scan = StreamScan {
            metadata_location: self.history.metadata_location().await,
            warehouse: Some(self.fixture.access("table")),
            from_snapshot: from,
            to_snapshot: self.history.metadata.current_snapshot_id().unwrap_or_default(),
            append_only,
        };
        let batches = self.query(sql, relation::Relation::Stream(scan)).await?;
        Ok(text_rows(&batches))
    }

    /// The net changes since a snapshot, as `id|name|action|is_update`.
    async fn changes(&mut self, from: i64) -> Vec<String> {
        self.try_changes(SORTED, from, false).await.unwrap()
    }

    /// The rows inserted since a snapshot, as `id|name`.
    async fn inserted(&mut self, from: i64) -> Vec<String> {
        let rows = self.try_changes(SORTED, from, true).await.unwrap();
        let rows = rows.iter().map(|row| row.strip_suffix("|INSERT|false").unwrap().to_owned());
        rows.collect()
    }

    /// Which rows a stream from the beginning says that there are, as `id|row id`.
    async fn row_ids(&mut self) -> Vec<String> {
        self.try_changes("SELECT id, change$row_id FROM s ORDER BY id", 0, false).await.unwrap()
    }
}

const LINEAGE: &str = "t.__target_origin, t.__target_origin_row, t.__target_added";
const SORTED: &str = "SELECT id, name, change$action, change$is_update FROM s ORDER BY id, change$action";
const THREE: &str = "SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, 'c')) v(id, name)";

#[tokio::test]
async fn what_happens_to_a_row_is_told_as_one_net_change() {
    let mut table = Table::new();
    let before = table.insert(THREE).await;
    assert_eq!(table.changes(0).await, ["1|a|INSERT|false", "2|b|INSERT|false", "3|c|INSERT|false"]);
    assert!(table.changes(before).await.is_empty());

    // An update twice is one update, from the oldest values to the newest; the rest of the file only moved.
    table.update("'x'", "t.id = 2").await;
    let between = table.update("'y'", "t.id = 2").await;
    assert_eq!(table.changes(before).await, ["2|b|DELETE|true", "2|y|INSERT|true"]);
    // Inserted and then updated is inserted; updated and then deleted is deleted; inserted and deleted is nothing.
    table.insert("SELECT 4, 'd' UNION ALL SELECT 5, 'e'").await;
    table.update("'dd'", "t.id = 4").await;
    table.delete("t.id IN (2, 5)").await;
    assert_eq!(table.changes(before).await, ["2|b|DELETE|false", "4|dd|INSERT|false"]);
    assert_eq!(table.changes(between).await, ["2|y|DELETE|false", "4|dd|INSERT|false"]);
    assert_eq!(table.changes(0).await, ["1|a|INSERT|false", "3|c|INSERT|false", "4|dd|INSERT|false"]);
    // An update that sets what was there is an update as well.
    let after = table.update("t.name", "t.id = 1").await;
    assert!(table.changes(after).await.is_empty());
    assert_eq!(table.changes(between).await[..2], ["1|a|DELETE|true", "1|a|INSERT|true"]);
    table.delete("true").await;
    assert_eq!(table.changes(after).await, ["1|a|DELETE|false", "3|c|DELETE|false", "4|dd|DELETE|false"]);
    assert_eq!(table.changes(before).await[..2], ["1|a|DELETE|false", "2|b|DELETE|false"]);
}

#[tokio::test]
async fn appended_rows_are_told_once_with_the_values_that_they_have_by_now() {
    let mut table = Table::new();
    let first = table.insert(THREE).await;
    let second = table.insert("SELECT 4, 'd' UNION ALL SELECT 5, 'e'").await;
    // A file of old and new rows.
    table.update("'x'", "true").await;
    table.insert("SELECT 6, 'f'").await;
    table.delete("t.id = 5").await;
    let all = ["1|x", "2|x", "3|x", "4|x", "6|f"];
    assert_eq!(table.inserted(0).await, all);
    assert_eq!(table.inserted(first).await, all[3..]);
    assert_eq!(table.inserted(second).await, all[4..]);
}

#[tokio::test]
async fn a_merge_tells_new_rows_from_changed_ones() {
    let mut table = Table::new();
    let before = table.insert(THREE).await;
    let ids = table.row_ids().await;
    let columns = format!(
        "CASE WHEN t.__target_file IS NULL THEN 3 WHEN v.name = '-' THEN 2 ELSE 1 END, {LINEAGE}, v.id, v.name"
    );
    let source = "(VALUES (2, 'B'), (3, '-'), (7, 'G'), (8, 'H')) v(id, name)";
    let merged = table.mutate(&columns, &format!("{source} LEFT JOIN \"__rel_0\" t ON t.id = v.id")).await;
    let expected =
        ["2|b|DELETE|true", "2|B|INSERT|true", "3|c|DELETE|false", "7|G|INSERT|false", "8|H|INSERT|false"];
    assert_eq!(table.changes(before).await, expected);
    assert_eq!(table.inserted(before).await, ["7|G", "8|H"]);
    // New rows are rows of the file that they were written to, whatever else is in it.
    let after = table.row_ids().await;
    assert_eq!(after[..2], ids[..2]);
    assert_ne!(after[2].split_once(':').unwrap().0, after[3]);
    table.update("'again'", "t.id = 8").await;
    assert_eq!(table.changes(merged).await, ["8|H|DELETE|true", "8|again|INSERT|true"]);
    assert_eq!(table.row_ids().await, after);
    assert_eq!(table.inserted(before).await, ["7|G", "8|again"]);
}

#[tokio::test]
async fn a_row_keeps_its_id_over_every_rewrite() {
    let mut table = Table::new();
    let before = table.insert(THREE).await;
    table.insert("SELECT 4, 'd'").await;
    let ids = table.row_ids().await;
    let files: std::collections::HashSet<&str> =
        ids.iter().map(|id| id.split(['|', ':']).nth(1).unwrap()).collect();
    assert_eq!(files.len(), 2, "{ids:?}");
    assert!(ids[0].ends_with(":0") && ids[2].ends_with(":2") && ids[3].ends_with(":0"), "{ids:?}");
    // Each rewrite puts rows elsewhere.
    table.delete("t.id = 1").await;
    table.update("'x'", "t.id > 2").await;
    table.update("'y'", "t.id = 3").await;
    table.update("'z'", "t.id = 2").await;
    assert_eq!(table.row_ids().await, ids[1..]);
    // Both halves of an update are the same row.
    let halves = "SELECT change$row_id FROM s WHERE change$is_update GROUP BY 1 HAVING count(*) = 2";
    assert_eq!(table.try_changes(halves, before, false).await.unwrap().len(), 2);
    // The rows that stay are written with where they come from, new values without when they changed.
    let [file] = &table.history.files()[..] else { panic!("one file") };
    assert!(file.contains("/table/data/"));
    let select = table.select("SELECT * FROM s ORDER BY id").await;
    assert_eq!(select, ["2|z", "3|y", "4|x"]);
}

#[tokio::test]
async fn filters_do_not_tear_updates_apart() {
    let mut table = Table::new();
    let before = table.insert(THREE).await;
    table.update("'x'", "t.id = 2").await;
    table.insert("SELECT 9, 'n'").await;
    let changes = async |table: &mut Table, sql: &str| table.try_changes(sql, before, false).await.unwrap();
    // The old values do not match: what is left is half of an update still.
    let new = changes(&mut table, "SELECT change$is_update, name FROM s WHERE name = 'x'").await;
    assert_eq!(new, ["true|x"]);
    let old = changes(&mut table, "SELECT change$action, change$is_update FROM s WHERE name = 'b'").await;
    assert_eq!(old, ["DELETE|true"]);
    assert_eq!(changes(&mut table, "SELECT count(*) FROM s").await, ["3"]);
    assert_eq!(changes(&mut table, "SELECT count(*) FROM s WHERE change$action = 'INSERT'").await, ["2"]);
    assert_eq!(changes(&mut table, "SELECT id FROM s WHERE NOT change$is_update").await, ["9"]);
    let joined = "SELECT a.name, b.name FROM s a JOIN s b ON a.change$row_id = b.change$row_id \
                  WHERE a.change$action = 'DELETE' AND b.change$action = 'INSERT'";
    assert_eq!(changes(&mut table, joined).await, ["b|x"]);
    // In any case, and in the order of the table.
    let star = changes(&mut table, "SELECT * FROM s WHERE ID = 9 AND CHANGE$ACTION = 'INSERT'").await;
    assert!(star[0].starts_with("9|n|INSERT|false|"), "{star:?}");
}

#[tokio::test]
async fn rows_are_compared_in_a_bit_each_and_not_beyond_the_memory_of_queries() {
    const ROWS: usize = 20_000;
    let mut table = Table::new();
    let sql = format!("SELECT value % 100, 'n' || value FROM range({ROWS})");
    let before = table.insert(&sql).await;
    // Every other row changes: no two that stand together are alike.
    table.update("'x'", "t.__target_row % 2 = 0").await;
    table.delete("t.__target_row % 10 = 5").await;
    let sums = "SELECT change$action, change$is_update, count(*), count(DISTINCT change$row_id), \
                sum(CASE WHEN name = 'x' THEN 1 ELSE 0 END) FROM s GROUP BY 1, 2 ORDER BY 1, 2";
    // The new values stand first: half of the rows that are deleted have changed before.
    let expected = ["DELETE|false|2000|2000|0", "DELETE|true|9000|9000|0", "INSERT|true|9000|9000|9000"];
    assert_eq!(table.try_changes(sums, before, false).await.unwrap(), expected);
    // A table of the keys would take a megabyte, as a bit each they are 17 kB.
    table.fixture.limit_queries(100_000);
    let counts = "SELECT count(*) FROM s WHERE change$action = 'DELETE'";
    assert_eq!(table.try_changes(counts, before, false).await.unwrap(), ["11000"]);
    table.fixture.limit_queries(8 << 10);
    let error = table.try_changes(counts, before, false).await.unwrap_err();
    assert_eq!(error.kind(), stevedore_common::ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("rows of a stream that are compared"), "{error}");
    // What failed holds nothing.
    assert_eq!(table.select("SELECT count(*) FROM s").await, ["18000"]);
    table.insert("SELECT 1, 'new'").await;
    let appended = table.try_changes("SELECT count(*) FROM s", before, true).await.unwrap();
    assert_eq!(appended, ["1"]);
}

#[tokio::test]
async fn emptied_and_overwritten_tables_are_told_row_by_row() {
    let mut table = Table::new();
    let before = table.insert(THREE).await;
    let (added, _) =
        table.run(Source::Query(QuerySpec { sql: "SELECT 1, 'new'".into(), ..QuerySpec::default() })).await;
    let files = table.history.files();
    let overwritten = table.history.commit(Operation::Overwrite, added, &files, OURS).await;
    let mut expected = vec!["1|a|DELETE|false", "1|new|INSERT|false", "2|b|DELETE|false", "3|c|DELETE|false"];
    assert_eq!(table.changes(before).await, expected);
    assert_eq!(table.inserted(before).await, ["1|new"]);
    let files = table.history.files();
    table.history.commit(Operation::Delete, Vec::new(), &files, OURS).await;
    expected.remove(1);
    assert_eq!(table.changes(before).await, expected);
    assert_eq!(table.changes(overwritten).await, ["1|new|DELETE|false"]);
    assert!(table.changes(0).await.is_empty());
}

#[tokio::test]
async fn columns_are_those_of_now() {
    let mut table = Table::new();
    let before = table.insert(THREE).await;
    table.update("'x'", "t.id = 1").await;
    table.history.change(|builder| {
        let schema = iceberg::spec::Schema::builder()
            .with_schema_id(1)
            .with_fields(vec![
                NestedField::required(1, "id", Type::Primitive(PrimitiveType::Int)).into(),
                NestedField::optional(2, "Title", Type::Primitive(PrimitiveType::String)).into(),
                NestedField::optional(3, "change$action", Type::Primitive(PrimitiveType::String)).into(),
            ])
            .build()
            .unwrap();
        builder.add_schema(schema).unwrap().set_current_schema(-1).unwrap()
    });
    let columns = format!("1, {LINEAGE}, t.id, 'y', 'own'");
    table.mutate(&columns, "\"__rel_0\" t WHERE t.id = 3").await;
    // A column of the table wins over one of the stream that has its name.
    let sql = "SELECT id, title, change$action, change$is_update FROM s ORDER BY id, title";
    let rows = table.try_changes(sql, before, false).await.unwrap();
    assert_eq!(rows, ["1|a|NULL|true", "1|x|NULL|true", "3|c|NULL|true", "3|y|own|true"].map(nulls));
}

fn nulls(row: &str) -> String {
    row.replace("NULL", "∅")
}

#[tokio::test]
async fn partitions_and_tables_without_rows_work_too() {
    let spec =
        UnboundPartitionSpec::builder().add_partition_field(2, "name", Transform::Identity).unwrap().build();
    let mut table = Table::partitioned(spec);
    assert!(table.changes(0).await.is_empty());
    let before = table.insert(THREE).await;
    let ids = table.row_ids().await;
    assert_eq!(table.history.files().len(), 3);
    // Into other partitions, and together with other rows.
    table.update("'b'", "t.id IN (1, 3)").await;
    let expected = ["1|a|DELETE|true", "1|b|INSERT|true", "3|b|INSERT|true", "3|c|DELETE|true"];
    let mut changes = table.changes(before).await;
    changes.sort();
    assert_eq!(changes, expected);
    table.update("concat(t.name, t.id)", "t.id < 3").await;
    assert_eq!(table.row_ids().await, ids);
    assert_eq!(table.select("SELECT * FROM s ORDER BY id").await, ["1|b1", "2|b2", "3|b"]);
}

#[tokio::test]
async fn what_cannot_be_told_is_refused() {
    let mut table = Table::new();
    let before = table.insert(THREE).await;
    let files = table.history.files();
    let (added, _) =
        table.run(Source::Query(QuerySpec { sql: "SELECT 1, 'new'".into(), ..QuerySpec::default() })).await;
    let after = table.history.commit(Operation::Overwrite, added, &files, &[]).await;
    let error = table.try_changes(SORTED, before, false).await.unwrap_err().to_string();
    assert!(error.contains(&format!("snapshot {after} (overwrite) was made by a writer that")), "{error}");
    assert!(table.try_changes(SORTED, before, true).await.is_err());
    assert_eq!(table.changes(0).await, ["1|new|INSERT|false"]);
    assert!(table.changes(after).await.is_empty());
    table.insert(THREE).await;
    table.history.change(|builder| builder.remove_snapshots(&[after]));
    let error = table.try_changes(SORTED, after, false).await.unwrap_err().to_string();
    assert!(error.contains(&format!("snapshot {after} of the table is gone")), "{error}");
}

#[tokio::test]
async fn rewritten_files_say_which_rows_they_hold_and_nobody_else_sees_it() {
    let mut table = Table::new();
    table.insert(THREE).await;
    let [first] = &table.history.files()[..] else { panic!("one file") };
    let first = first.rsplit('/').next().unwrap().to_owned();
    table.update("'x'", "t.id = 2").await;
    let rows = table.fixture.rows();
    let rewritten: Vec<&String> = rows.iter().filter(|row| row.contains(&first)).collect();
    let expected =
        [format!("1|a|{first}|0|1|1"), format!("2|x|{first}|1|1|NULL"), format!("3|c|{first}|2|1|1")];
    assert_eq!(rewritten, expected.iter().collect::<Vec<_>>());
    assert_eq!(table.select("SELECT * FROM s ORDER BY id").await, ["1|a", "2|x", "3|c"]);
    // Nothing of it is in the manifests.
    for file in table.history.data_files() {
        assert!(file.column_sizes().keys().all(|id| *id < 3), "{:?}", file.column_sizes());
        assert!(file.null_value_counts().keys().chain(file.upper_bounds().keys()).all(|id| *id < 3));
    }
}

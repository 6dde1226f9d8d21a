#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int32Array, Int64Array, ListArray, StringArray};
use arrow::datatypes::Float32Type;
use iceberg::spec::{Datum, NestedField, PrimitiveType, Schema as IcebergSchema, Type};
use stevedore_proto::v1::relation;

use crate::query::test_support::{Fixture, TestTable, column};

fn ints(values: &[i32]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

#[tokio::test]
async fn a_table_reads_in_its_sql_types() {
    let fixture = Fixture::new();
    let mut table = TestTable::create(
        &fixture,
        "types",
        vec![
            column("Tiny", "TINYINT"),
            column("big", "BIGINT UNSIGNED"),
            column("e", "VECTOR(2)"),
            column("v", "VARIANT"),
        ],
    );
    let big = Decimal128Array::from(vec![i128::from(u64::MAX), 1]).with_precision_and_scale(20, 0).unwrap();
    let vectors =
        ListArray::from_iter_primitive::<Float32Type, _, _>(vec![Some(vec![Some(1.0), Some(2.0)]), None]);
    table
        .add(
            vec![
                (1, "Tiny", ints(&[1, -5])),
                (2, "big", Arc::new(big)),
                (3, "e", Arc::new(vectors)),
                (4, "v", texts(&["{\"a\":1}", "[]"])),
            ],
            vec![],
        )
        .await;
    let location = table.commit().await;
    let relation = || vec![fixture.table("__rel_0", &location)];
    assert_eq!(
        fixture.rows("SELECT * FROM \"__rel_0\" ORDER BY tiny", relation()).await,
        ["-5|1|∅|[]", "1|18446744073709551615|[1.0, 2.0]|{\"a\":1}"]
    );
    assert_eq!(
        fixture
            .rows(
                "SELECT tiny FROM \"__rel_0\" WHERE __variant_get(v, '[\"a\"]') = 1 AND BIG > 5",
                relation()
            )
            .await,
        ["1"]
    );
    assert_eq!(
        fixture.rows("SELECT l2_distance(e, '[1,2]') FROM \"__rel_0\" WHERE tiny = 1", relation()).await,
        ["0.0"]
    );
}

#[tokio::test]
async fn an_empty_table_has_no_rows() {
    let fixture = Fixture::new();
    let location = TestTable::create(&fixture, "empty", vec![column("a", "INT")]).commit().await;
    let relation = || vec![fixture.table("__rel_0", &location)];
    assert!(fixture.rows("SELECT * FROM \"__rel_0\"", relation()).await.is_empty());
    assert_eq!(fixture.rows("SELECT count(*) FROM \"__rel_0\"", relation()).await, ["0"]);
}

#[tokio::test]
async fn counting_reads_no_data_file_and_pruning_skips_them() {
    let fixture = Fixture::new();
    let mut table = TestTable::create(&fixture, "pruned", vec![column("a", "INT"), column("s", "VARCHAR")]);
    let gone = table
        .add(
            vec![(1, "a", ints(&[1, 2])), (2, "s", texts(&["a", "b"]))],
            vec![(1, Datum::int(1), Datum::int(2))],
        )
        .await;
    table
        .add(
            vec![(1, "a", ints(&[10, 20, 30])), (2, "s", texts(&["x", "y", "z"]))],
            vec![(1, Datum::int(10), Datum::int(30))],
        )
        .await;
    let location = table.commit().await;
    // Whoever opens the first file fails.
    fixture.warehouse.file_io().delete(&gone).await.unwrap();
    let relation = || vec![fixture.table("__rel_0", &location)];
    assert_eq!(fixture.rows("SELECT count(*) FROM \"__rel_0\"", relation()).await, ["5"]);
    assert_eq!(
        fixture.rows("SELECT s FROM \"__rel_0\" WHERE a >= 20 ORDER BY a", relation()).await,
        ["y", "z"]
    );
    assert_eq!(
        fixture
            .rows("SELECT s FROM \"__rel_0\" WHERE __cast(a, 'BIGINT') > __cast('25', 'BIGINT')", relation())
            .await,
        ["z"]
    );
    let error = fixture.error("SELECT s FROM \"__rel_0\"", relation()).await;
    assert!(error.contains("1.parquet"), "{error}");
}

#[tokio::test]
async fn columns_are_found_by_field_id() {
    let fixture = Fixture::new();
    let mut table = TestTable::create(&fixture, "evolved", vec![column("a", "INT"), column("b", "VARCHAR")]);
    table.add(vec![(1, "a", ints(&[1])), (2, "b", texts(&["old"]))], vec![]).await;
    // a was renamed to b, b dropped, c added, and a new a came in.
    table.map_metadata(|builder| {
        let schema = IcebergSchema::builder()
            .with_schema_id(1)
            .with_fields(vec![
                NestedField::optional(1, "b", Type::Primitive(PrimitiveType::Int)).into(),
                NestedField::optional(3, "c", Type::Primitive(PrimitiveType::Long)).into(),
                NestedField::optional(4, "a", Type::Primitive(PrimitiveType::String)).into(),
            ])
            .build()
            .unwrap();
        builder
            .add_schema(schema)
            .unwrap()
            .set_current_schema(-1)
            .unwrap()
            .remove_properties(&["stevedore.field.1.type".to_owned(), "stevedore.field.2.type".to_owned()])
            .unwrap()
    });
    table
        .add(
            vec![
                (1, "b", ints(&[2])),
                (3, "c", Arc::new(Int64Array::from(vec![7])) as ArrayRef),
                (4, "a", texts(&["new"])),
            ],
            vec![],
        )
        .await;
    let location = table.commit().await;
    assert_eq!(
        fixture
            .rows("SELECT b, c, a FROM \"__rel_0\" ORDER BY b", vec![fixture.table("__rel_0", &location)])
            .await,
        ["1|∅|∅", "2|7|new"]
    );
    assert_eq!(
        fixture
            .rows(
                "SELECT b FROM \"__rel_0\" WHERE a IS NULL AND b < 5",
                vec![fixture.table("__rel_0", &location)]
            )
            .await,
        ["1"]
    );
}

#[tokio::test]
async fn rows_deleted_by_position_are_gone() {
    let fixture = Fixture::new();
    let mut table = TestTable::create(&fixture, "positions", vec![column("a", "INT")]);
    let file = table.add(vec![(1, "a", ints(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))], vec![]).await;
    table.add(vec![(1, "a", ints(&[100]))], vec![]).await;
    table.delete_positions(&file, &[1, 4, 5, 6, 7]).await;
    table.delete_positions(&file, &[1, 9]).await;
    let location = table.commit().await;
    let relation = || vec![fixture.table("__rel_0", &location)];
    assert_eq!(
        fixture.rows("SELECT a FROM \"__rel_0\" ORDER BY a", relation()).await,
        ["0", "2", "3", "8", "100"]
    );
    assert_eq!(fixture.rows("SELECT count(*) FROM \"__rel_0\"", relation()).await, ["5"]);
    assert_eq!(
        fixture.rows("SELECT a FROM \"__rel_0\" WHERE a > 2 ORDER BY a", relation()).await,
        ["3", "8", "100"]
    );
}

#[tokio::test]
async fn rows_deleted_by_equality_are_gone_from_older_files_only() {
    let fixture = Fixture::new();
    let mut table = TestTable::create(&fixture, "keys", vec![column("a", "TINYINT"), column("s", "VARCHAR")]);
    table.add(vec![(1, "a", ints(&[1, 2, 3])), (2, "s", texts(&["x", "y", "z"]))], vec![]).await;
    table.delete_keys(1, "a", ints(&[2, 3])).await;
    table.add(vec![(1, "a", ints(&[3, 4])), (2, "s", texts(&["again", "w"]))], vec![]).await;
    let location = table.commit().await;
    let relation = || vec![fixture.table("__rel_0", &location)];
    assert_eq!(fixture.rows("SELECT s FROM \"__rel_0\" ORDER BY s", relation()).await, ["again", "w", "x"]);
    assert_eq!(fixture.rows("SELECT count(*) FROM \"__rel_0\"", relation()).await, ["3"]);
}

#[tokio::test]
async fn the_shares_of_a_table_are_all_its_rows_each_once() {
    let fixture = Fixture::new();
    let mut table = TestTable::create(&fixture, "shared", vec![column("a", "INT")]);
    for n in 0..7 {
        table.add(vec![(1, "a", ints(&[10 * n, 10 * n + 1]))], vec![]).await;
    }
    let location = table.commit().await;
    let mut all = Vec::new();
    for part in 0..3 {
        let mut relation = fixture.table("__rel_0", &location);
        if let Some(stevedore_proto::v1::relation::Relation::Table(scan)) = &mut relation.relation {
            (scan.part, scan.parts) = (part, 3);
        }
        let rows = fixture.rows("SELECT a FROM \"__rel_0\"", vec![relation]).await;
        assert!(rows.len() == 4 || rows.len() == 6, "{rows:?}");
        all.extend(rows);
    }
    all.sort_by_key(|row| row.parse::<i32>().unwrap());
    let expected: Vec<String> =
        (0..7).flat_map(|n| [(10 * n).to_string(), (10 * n + 1).to_string()]).collect();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn numbered_rows_have_the_same_numbers_whatever_is_read_of_them() {
    let fixture = Fixture::new();
    let mut table = TestTable::create(&fixture, "numbered", vec![column("a", "INT"), column("s", "VARCHAR")]);
    let bounds = |first: i32, last: i32| vec![(1, Datum::int(first), Datum::int(last))];
    let texts = || texts(&["p", "q", "r", "s"]);
    let file = table.add(vec![(1, "a", ints(&[1, 2, 3, 4])), (2, "s", texts())], bounds(1, 4)).await;
    table.add(vec![(1, "a", ints(&[11, 12, 13, 14])), (2, "s", texts())], bounds(11, 14)).await;
    // The second row of the first file is gone; the others keep their positions.
    table.delete_positions(&file, &[1]).await;
    let location = table.commit().await;
    let numbered = |files: &[u32]| {
        let mut relation = fixture.table("__rel_0", &location);
        if let Some(relation::Relation::Table(scan)) = &mut relation.relation {
            (scan.numbered, scan.files) = (true, files.to_vec());
        }
        vec![relation]
    };
    let all = "SELECT a, __target_row, s FROM \"__rel_0\" ORDER BY a";
    let expected = ["1|0|p", "3|2|r", "4|3|s", "11|0|p", "12|1|q", "13|2|r", "14|3|s"];
    assert_eq!(fixture.rows(all, numbered(&[])).await, expected);
    // Files are told apart, and named by their places.
    let places =
        fixture.rows("SELECT DISTINCT __target_file FROM \"__rel_0\" WHERE a > 10", numbered(&[])).await;
    let second: u32 = places[0].parse().unwrap();
    assert_eq!((places.len(), second < 2), (1, true));
    assert_eq!(fixture.rows(all, numbered(&[second])).await, expected[3..]);
    assert_eq!(fixture.rows(all, numbered(&[1 - second])).await, expected[..3]);
    // No filter goes down into a file, and no column of it is needed.
    let filtered = "SELECT __target_row FROM \"__rel_0\" WHERE s = 's' AND a IN (4, 14) ORDER BY 1";
    assert_eq!(fixture.rows(filtered, numbered(&[])).await, ["3", "3"]);
    let counted = "SELECT __target_file, count(*), max(__target_row) FROM \"__rel_0\" GROUP BY 1 ORDER BY 2";
    let counts = [format!("{}|3|3", 1 - second), format!("{second}|4|3")];
    assert_eq!(fixture.rows(counted, numbered(&[])).await, counts);
    assert_eq!(fixture.rows("SELECT count(*) FROM \"__rel_0\"", numbered(&[])).await, ["7"]);
    // In joins as well, whichever side is kept in memory.
    let joined =
        "SELECT t.a, t.__target_row FROM \"__rel_0\" t JOIN (VALUES (13), (3)) v(k) ON v.k = t.a ORDER BY 1";
    assert_eq!(fixture.rows(joined, numbered(&[])).await, ["3|2", "13|2"]);
    // Rows that go by their keys leave the positions of the others alone as well.
    let mut table = TestTable::create(&fixture, "keys", vec![column("a", "INT"), column("s", "VARCHAR")]);
    let file = table.add(vec![(1, "a", ints(&[1, 2, 3, 4, 5])), (2, "s", ints_as_texts(5))], vec![]).await;
    table.delete_positions(&file, &[0]).await;
    table.delete_keys(1, "a", ints(&[3])).await;
    let location = table.commit().await;
    let mut relation = fixture.table("__rel_0", &location);
    if let Some(relation::Relation::Table(scan)) = &mut relation.relation {
        scan.numbered = true;
    }
    let all =
        "SELECT s, __target_row, __target_origin_row, __target_added, __target_updated FROM \"__rel_0\"";
    assert_eq!(fixture.rows(all, vec![relation]).await, ["1|1|1|1|1", "3|3|3|1|1", "4|4|4|1|1"]);
}

fn ints_as_texts(count: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values((0..count).map(|n| n.to_string())))
}

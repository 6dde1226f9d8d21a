#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use futures::{StreamExt, TryStreamExt};
use stevedore_common::types::{EXTENSION_NAME, JSON_EXTENSION, SqlType};
use stevedore_proto::v1::{QuerySpec, Relation};

use crate::query::test_support::{Fixture, ipc, rows_relation, text_rows};

fn people() -> Relation {
    rows_relation(
        "__rel_0",
        vec![
            ("Id", "INT", Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef),
            ("name", "VARCHAR", Arc::new(StringArray::from(vec![Some("ann"), None, Some("bob")]))),
            (
                "v",
                "VARIANT",
                Arc::new(StringArray::from(vec![r#"{"a":"x","n":5}"#, r#"{"a":"7","n":12}"#, "null"])),
            ),
        ],
    )
}

#[tokio::test]
async fn names_are_case_insensitive_and_results_keep_the_columns_case() {
    let fixture = Fixture::new();
    let spec = QuerySpec {
        sql: "SELECT ID, T.Name AS N FROM \"__rel_0\" AS t WHERE id >= 2 ORDER BY iD DESC".into(),
        relations: vec![people()],
        ..QuerySpec::default()
    };
    let stream = fixture.engine.query(&spec).await.unwrap();
    let names: Vec<String> = stream.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["Id", "N"]);
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    assert_eq!(text_rows(&batches), ["3|bob", "2|∅"]);
}

#[tokio::test]
async fn an_unknown_column_is_named_with_those_that_exist() {
    let error = Fixture::new().error("SELECT nope FROM \"__rel_0\"", vec![people()]).await;
    assert_eq!(error, "column 'nope' does not exist; available columns: id, name, v");
}

#[tokio::test]
async fn only_queries_run() {
    let fixture = Fixture::new();
    for sql in [
        "CREATE TABLE t (a INT)",
        "INSERT INTO t VALUES (1)",
        "COPY (SELECT 1) TO 'x.csv'",
        "SET a = 1",
        "SELECT 1; SELECT 2",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "SELECT * INTO t FROM \"__rel_0\"",
    ] {
        fixture.error(sql, vec![people()]).await;
    }
    let error = fixture.error("SELECT * FROM '/etc/passwd'", vec![]).await;
    assert!(error.contains("passwd"), "{error}");
}

#[tokio::test]
async fn variants_compare_with_what_stands_beside_them() {
    let fixture = Fixture::new();
    let get = |path: &str| format!("__variant_get(v, '{path}')");
    let a = get("[\"a\"]");
    let n = get("[\"n\"]");
    let ids = |condition: String| {
        let sql = format!("SELECT id FROM \"__rel_0\" WHERE {condition} ORDER BY 1");
        let fixture = &fixture;
        async move { fixture.rows(&sql, vec![people()]).await }
    };
    assert_eq!(ids(format!("{a} = 'x'")).await, ["1"]);
    assert_eq!(ids(format!("{n} > 5")).await, ["2"]);
    assert_eq!(ids(format!("{a} = 7")).await, ["2"]);
    assert_eq!(ids(format!("{a} LIKE 'x%'")).await, ["1"]);
    assert_eq!(ids(format!("{n} IN (5, 6)")).await, ["1"]);
    assert_eq!(ids(format!("{n} BETWEEN 6 AND 20")).await, ["2"]);
    assert_eq!(ids(format!("upper({a}) = 'X'")).await, ["1"]);
    assert_eq!(ids(format!("{n} + 1 = 6")).await, ["1"]);
    assert_eq!(ids(format!("{n} * 2 + 1 > 20")).await, ["2"]);
    assert_eq!(
        fixture.rows(&format!("SELECT {n} - 1 FROM \"__rel_0\" WHERE id = 2"), vec![people()]).await,
        ["11.0"]
    );
    let error = fixture.error(&format!("SELECT sum({n}) FROM \"__rel_0\""), vec![people()]).await;
    assert_eq!(error, "no function takes these types: sum(Utf8); cast the arguments, as in f(x::DOUBLE)");
    assert_eq!(
        fixture
            .rows(
                &format!(
                    "SELECT {a}, __cast({n}, 'INT'), __cast({a}, 'VARCHAR') FROM \"__rel_0\" WHERE id = 1"
                ),
                vec![people()]
            )
            .await,
        ["\"x\"|5|x"]
    );
}

#[tokio::test]
async fn results_have_the_natural_types() {
    let fixture = Fixture::new();
    let spec = QuerySpec {
        sql: "SELECT v, __cast('1', 'TINYINT UNSIGNED') AS u, now() AS t, upper(name) AS s, NULL AS n, \
              __cast('[1,2]', 'VECTOR(2)') AS e, __cast('1.25', 'DECIMAL(10, 2)') AS d, \
              TIMESTAMP '2020-01-01 00:00:00' AS p, parse_json('{\"b\":1, \"a\":2}') AS j, uuid() AS id, \
              interval '1 day' AS i FROM \"__rel_0\""
            .into(),
        relations: vec![people()],
        ..QuerySpec::default()
    };
    let planned = fixture.engine.plan(&spec).await.unwrap();
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let types: Vec<DataType> = planned.schema().fields().iter().map(|f| f.data_type().clone()).collect();
    assert_eq!(
        types,
        [
            DataType::Utf8,
            DataType::UInt8,
            utc.clone(),
            DataType::Utf8,
            DataType::Utf8,
            SqlType::Vector(2).to_arrow(),
            DataType::Decimal128(10, 2),
            utc,
            DataType::Utf8,
            DataType::Utf8,
            DataType::Utf8,
        ]
    );
    for variant in ["v", "j"] {
        let field = planned.schema().field_with_name(variant).unwrap();
        assert_eq!(field.metadata().get(EXTENSION_NAME).map(String::as_str), Some(JSON_EXTENSION));
    }
    let schema = planned.schema().clone();
    let batches: Vec<RecordBatch> =
        fixture.engine.execute(planned).await.unwrap().try_collect().await.unwrap();
    assert!(batches.iter().all(|batch| batch.schema() == schema));
    let text = text_rows(&batches);
    assert_eq!(text.len(), 3);
    assert!(text[0].contains("|2020-01-01T00:00:00Z|{\"a\":2,\"b\":1}|"), "{}", text[0]);
    let ids: std::collections::BTreeSet<&str> =
        text.iter().map(|row| row.rsplit('|').nth(1).unwrap()).collect();
    assert_eq!(ids.len(), 3, "uuid() varies by row");
}

#[tokio::test]
async fn casts_fail_with_the_value_or_give_null() {
    let fixture = Fixture::new();
    let error = fixture.error("SELECT __cast(name, 'INT') FROM \"__rel_0\"", vec![people()]).await;
    assert_eq!(error, "invalid value 'ann' for INT: invalid digit");
    assert_eq!(
        fixture.rows("SELECT __try_cast(name, 'INT') FROM \"__rel_0\"", vec![people()]).await,
        ["∅", "∅", "∅"]
    );
    assert_eq!(fixture.rows("SELECT __cast('2.5', 'INT')", vec![]).await, ["3"]);
    assert_eq!(
        fixture.rows("SELECT to_timestamp('2024-05-01 10:00:00')", vec![]).await,
        ["2024-05-01T10:00:00Z"]
    );
    let settings = [("timezone".to_owned(), "Europe/Berlin".to_owned())].into();
    let spec = QuerySpec {
        sql: "SELECT __cast('2024-05-01 10:00:00', 'TIMESTAMP')".into(),
        settings,
        ..QuerySpec::default()
    };
    let batches: Vec<RecordBatch> = fixture.engine.query(&spec).await.unwrap().try_collect().await.unwrap();
    assert_eq!(text_rows(&batches), ["2024-05-01T08:00:00Z"]);
}

#[tokio::test]
async fn parameters_are_bound_in_order() {
    let fixture = Fixture::new();
    let schema = Arc::new(Schema::new(vec![
        Field::new("1", DataType::Utf8, true),
        Field::new("2", DataType::Int32, true),
    ]));
    let row = RecordBatch::try_new(
        schema,
        vec![Arc::new(StringArray::from(vec!["bob"])), Arc::new(Int32Array::from(vec![1]))],
    )
    .unwrap();
    let mut spec = QuerySpec {
        sql: "SELECT id, __cast($2, 'BIGINT') AS p FROM \"__rel_0\" WHERE name = $1 OR id = $2 ORDER BY 1"
            .into(),
        relations: vec![people()],
        ..QuerySpec::default()
    };
    let described = fixture.engine.plan(&spec).await.unwrap();
    assert_eq!(described.schema().field(1).data_type(), &DataType::Int64);
    spec.parameters = vec![ipc(&row)];
    let batches: Vec<RecordBatch> = fixture.engine.query(&spec).await.unwrap().try_collect().await.unwrap();
    assert_eq!(text_rows(&batches), ["1|1", "3|1"]);
}

#[tokio::test]
async fn a_statement_has_one_time_which_its_parts_are_told() {
    let fixture = Fixture::new();
    let mut spec = QuerySpec {
        sql: "SELECT now(), current_timestamp(), current_date(), __cast(now(), 'DATE')".into(),
        started_on_ms: 1_714_557_600_123,
        ..QuerySpec::default()
    };
    for _ in 0..2 {
        let batches: Vec<RecordBatch> =
            fixture.engine.query(&spec).await.unwrap().try_collect().await.unwrap();
        let time = "2024-05-01T10:00:00.123Z";
        assert_eq!(text_rows(&batches), [format!("{time}|{time}|2024-05-01|2024-05-01")]);
    }
    // Whoever is not told takes one for all of the query.
    spec.started_on_ms = 0;
    spec.sql = "SELECT count(DISTINCT t), min(t) > '2024-05-02'::TIMESTAMP FROM \
                (SELECT __cast(now(), 'TIMESTAMP') AS t UNION ALL SELECT now() UNION ALL SELECT now())"
        .into();
    let batches: Vec<RecordBatch> = fixture.engine.query(&spec).await.unwrap().try_collect().await.unwrap();
    assert_eq!(text_rows(&batches), ["1|true"]);
}

#[tokio::test]
async fn little_memory_is_enough_to_sort_few_rows() {
    let fixture = Fixture::with_memory(1 << 20);
    let sql = "SELECT value % 3 AS k, count(*) FROM range(1000) GROUP BY 1 ORDER BY 2 DESC, 1";
    assert_eq!(fixture.rows(sql, vec![]).await, ["0|334", "1|333", "2|333"]);
}

#[tokio::test]
async fn distances_take_vectors_and_text() {
    let fixture = Fixture::new();
    let sql = "SELECT l2_distance(__cast('[3,4]', 'VECTOR(2)'), '[0,0]'), l1_distance([1.0, 2.0], '[2,4]')";
    assert_eq!(fixture.rows(sql, vec![]).await, ["5.0|3.0"]);
}

#[tokio::test]
async fn a_dropped_stream_stops_its_query() {
    let fixture = Fixture::new();
    let spec = QuerySpec {
        sql: "SELECT a.value FROM generate_series(1, 100000000000) a".into(),
        ..QuerySpec::default()
    };
    let mut stream = fixture.engine.query(&spec).await.unwrap();
    assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
    drop(stream);
    // The threads are free again for the next one.
    assert_eq!(fixture.rows("SELECT 1", vec![]).await, ["1"]);
}

#[tokio::test]
async fn paths_reach_into_tuples_maps_and_arrays() {
    let fixture = Fixture::new();
    let get = |value: &str, ty: &str, path: &str| {
        let sql = format!("SELECT __variant_get(__cast(parse_json('{value}'), '{ty}'), '{path}')");
        let fixture = &fixture;
        async move { fixture.rows(&sql, vec![]).await.remove(0) }
    };
    assert_eq!(get("{\"a\":1,\"b\":[5,6]}", "TUPLE(a INT, B ARRAY(INT))", "[\"b\",1]").await, "6");
    assert_eq!(get("{\"x\":1.5,\"y\":2}", "MAP(VARCHAR, DOUBLE)", "[\"y\"]").await, "2.0");
    assert_eq!(get("{\"x\":1.5}", "MAP(VARCHAR, DOUBLE)", "[\"no\"]").await, "∅");
    assert_eq!(get("[{\"k\":[7]}]", "ARRAY(VARIANT)", "[0,\"k\",0]").await, "7");
    let sql = "SELECT __variant_get(__cast(parse_json('{\"a\":1}'), 'TUPLE(a INT)'), '[\"z\"]')";
    let error = fixture.error(sql, vec![]).await;
    assert_eq!(error, "a value of type TUPLE(a INT) has no element 'z'");
}

#[tokio::test]
async fn subqueries_and_aliases_keep_their_spelling() {
    let fixture = Fixture::new();
    let spec = QuerySpec {
        sql: "SELECT \"s\".\"id\", \"s\".\"n\" AS \"Name\", \"id\" + 1 AS \"id + 1\" FROM \
              (SELECT \"t\".\"id\", \"name\" AS \"n\" FROM \"__rel_0\" AS \"t\") AS \"s\" ORDER BY \"Name\""
            .into(),
        relations: vec![people()],
        ..QuerySpec::default()
    };
    let planned = fixture.engine.plan(&spec).await.unwrap();
    let names: Vec<&str> = planned.schema().fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["Id", "Name", "id + 1"]);
}

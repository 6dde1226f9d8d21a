#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch, StringArray};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use stevedore_common::file_format::FormatKind;
use stevedore_proto::v1::QuerySpec;

use crate::query::test_support::{Fixture, stage, text, text_rows};

#[tokio::test]
async fn csv_columns_are_numbered() {
    let fixture = Fixture::new();
    let files = [text("a.csv", "1,x\n2,y\n"), text("b.csv", "3,z\n")];
    let relation = stage(&fixture, FormatKind::Csv, &files).await;
    let sql = "SELECT \"$2\", __cast(\"$1\", 'INT') * 10 AS \"n\", \"metadata$filename\", \
               \"metadata$file_row_number\" FROM \"__rel_0\" WHERE \"$1\" <> '1' ORDER BY \"n\"";
    assert_eq!(fixture.rows(sql, vec![relation.clone()]).await, ["y|20|a.csv|1", "z|30|b.csv|0"]);
    assert_eq!(fixture.rows("SELECT count(*) FROM \"__rel_0\"", vec![relation.clone()]).await, ["3"]);
    assert_eq!(fixture.rows("SELECT \"$1\" FROM \"__rel_0\" LIMIT 1", vec![relation.clone()]).await.len(), 1);
    let error = fixture.error("SELECT * FROM \"__rel_0\"", vec![relation]).await;
    assert!(error.contains("name the columns"), "{error}");
}

#[tokio::test]
async fn ndjson_columns_come_from_a_sample() {
    let fixture = Fixture::new();
    let files = [text("a.ndjson", "{\"Id\":1,\"v\":{\"k\":[1]}}\n{\"Id\":2.5}\n")];
    let relation = stage(&fixture, FormatKind::Ndjson, &files).await;
    let spec = QuerySpec {
        sql: "SELECT * FROM \"__rel_0\" ORDER BY \"id\"".into(),
        relations: vec![relation.clone()],
        ..QuerySpec::default()
    };
    let planned = fixture.engine.plan(&spec).await.unwrap();
    let names: Vec<&str> = planned.schema().fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["Id", "v"]);
    let batches: Vec<RecordBatch> =
        fixture.engine.execute(planned).await.unwrap().try_collect().await.unwrap();
    assert_eq!(text_rows(&batches), ["1.0|{\"k\":[1]}", "2.5|∅"]);
    let sql = "SELECT __variant_get(\"$1\", '[\"Id\"]'), \"$1\" FROM \"__rel_0\" WHERE \"id\" > 2";
    assert_eq!(fixture.rows(sql, vec![relation]).await, ["2.5|{\"Id\":2.5}"]);
}

#[tokio::test]
async fn parquet_columns_come_from_the_footer() {
    let fixture = Fixture::new();
    let batch = RecordBatch::try_from_iter([
        ("A", Arc::new(Int32Array::from(vec![1, 2])) as _),
        ("b", Arc::new(StringArray::from(vec!["x", "y"])) as _),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let relation = stage(&fixture, FormatKind::Parquet, &[("a.parquet", writer.into_inner().unwrap())]).await;
    let sql = "SELECT *, \"metadata$file_row_number\" FROM \"__rel_0\" WHERE \"a\" > 1";
    assert_eq!(fixture.rows(sql, vec![relation.clone()]).await, ["2|y|1"]);
    assert_eq!(
        fixture.rows("SELECT \"$1\" FROM \"__rel_0\" LIMIT 1", vec![relation]).await,
        ["{\"A\":1,\"b\":\"x\"}"]
    );
}

#[tokio::test]
async fn a_bad_row_is_named_by_file_and_line() {
    let fixture = Fixture::new();
    let relation = stage(&fixture, FormatKind::Ndjson, &[text("dir/a.ndjson", "{\"a\":1}\n{oops\n")]).await;
    let error = fixture.error("SELECT \"$1\" FROM \"__rel_0\"", vec![relation]).await;
    assert!(error.starts_with("file 'dir/a.ndjson', line 2: "), "{error}");
}

#[tokio::test]
async fn an_empty_match_has_no_rows_and_no_columns() {
    let fixture = Fixture::new();
    let relation = stage(&fixture, FormatKind::Parquet, &[]).await;
    let error = fixture.error("SELECT \"a\" FROM \"__rel_0\"", vec![relation.clone()]).await;
    assert!(error.starts_with("column 'a' does not exist"), "{error}");
    assert!(fixture.rows("SELECT * FROM \"__rel_0\"", vec![relation]).await.is_empty());
}

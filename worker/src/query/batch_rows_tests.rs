#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use stevedore_common::file_format::FormatKind;
use stevedore_decode::spec::DecodeSpec;
use stevedore_proto::v1::Relation;

use crate::query::test_support::{Fixture, TestTable, column, stage, text};

const ROWS: usize = 100;
const DOCUMENT: usize = 256 << 10;

/// Texts that are all different, which no dictionary holds.
fn documents() -> Vec<String> {
    (0..ROWS).map(|row| format!("{row:08}").repeat(DOCUMENT / 8)).collect()
}

async fn documents_in_table(fixture: &Fixture) -> Relation {
    let columns = vec![column("id", "INT"), column("document", "STRING")];
    let mut table = TestTable::create(fixture, "documents", columns);
    let ids: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS as i32));
    let texts: ArrayRef = Arc::new(StringArray::from(documents()));
    table.add(vec![(1, "id", ids), (2, "document", texts)], vec![]).await;
    fixture.table("__rel_0", &table.commit().await)
}

/// The rows of the largest batch; all rows must come.
async fn largest(fixture: &Fixture, sql: &str, relation: Relation, rows: usize) -> usize {
    let batches = fixture.run(sql, vec![relation]).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{sql}");
    batches.iter().map(RecordBatch::num_rows).max().unwrap_or(0)
}

#[tokio::test]
async fn batches_of_documents_have_few_rows() {
    let fixture = Fixture::new();
    let lines = documents().join("\n");
    let files = [text("documents.csv", &lines)];
    let stage = stage(&fixture, FormatKind::Csv, &files).await;
    let table = documents_in_table(&fixture).await;
    let most = DecodeSpec::BATCH_BYTES / DOCUMENT;
    for (document, relation) in [("$1", stage), ("document", table)] {
        for rest in [
            String::new(),
            format!(" WHERE length(\"{document}\") > 0"),
            format!(" ORDER BY reverse(\"{document}\")"),
        ] {
            let sql = format!("SELECT \"{document}\" FROM \"__rel_0\"{rest}");
            let rows = largest(&fixture, &sql, relation.clone(), ROWS).await;
            assert!(rows <= most, "{rows} rows in a batch of {sql}, {most} may be");
        }
    }
}

#[tokio::test]
async fn what_is_not_read_does_not_count() {
    let fixture = Fixture::new();
    let table = documents_in_table(&fixture).await;
    let sql = "SELECT id FROM \"__rel_0\" ORDER BY id";
    assert_eq!(largest(&fixture, sql, table, ROWS).await, ROWS);
}

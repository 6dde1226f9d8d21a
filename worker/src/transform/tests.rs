#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::types::SqlType;
use stevedore_decode::spec::{ColumnSource, DecodeSpec, DecodedBatch, OutputColumn};

use super::{LoadedBatch, Transform, TransformRequest};
use crate::query::stage_scan::StageFile;
use crate::query::test_support::{Fixture, column, text_rows};

fn table(columns: Vec<Column>) -> TableSchema {
    let columns =
        columns.into_iter().enumerate().map(|(i, column)| Column { id: i as i32 + 1, ..column }).collect();
    TableSchema { columns }
}

async fn compile(
    fixture: &Fixture,
    kind: FormatKind,
    sql: &str,
    table: &TableSchema,
    field_ids: &[i32],
) -> stevedore_common::Result<Transform> {
    let format = FileFormat::defaults(kind);
    let settings = HashMap::new();
    let request = TransformRequest {
        format: &format,
        case_sensitive: false,
        sql,
        relation: "__rel_0",
        source_columns: &[("A".to_owned(), SqlType::Int64), ("b".to_owned(), SqlType::String)],
        table,
        field_ids,
        settings: &settings,
        disable_variant_check: false,
        evolves: false,
    };
    Transform::compile(&fixture.engine, request).await
}

/// What a decoder would give for columns of text, cast as the spec says.
fn decoded(spec: &DecodeSpec, columns: Vec<Vec<Option<&str>>>) -> DecodedBatch {
    let arrays: Vec<ArrayRef> = spec
        .columns
        .iter()
        .zip(&columns)
        .map(|(column, values)| {
            let text: ArrayRef = Arc::new(StringArray::from(values.clone()));
            let from = SqlType::String.to_field("", true);
            stevedore_decode::cast::try_cast(&text, &from, column.ty.as_ref().unwrap(), &spec.cast).unwrap()
        })
        .collect();
    let fields: Vec<Field> =
        spec.columns.iter().map(|c| c.ty.as_ref().unwrap().to_field(&c.name, true)).collect();
    let rows = columns.first().map_or(0, Vec::len);
    DecodedBatch {
        batch: RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap(),
        row_numbers: (0..rows as u64).collect(),
        lines: (0..rows as u64).map(|row| row * 2 + 1).collect(),
        defaulted: vec![None; spec.columns.len()],
        errors: Vec::new(),
        input_bytes: 1,
    }
}

fn apply(transform: &Transform, batch: DecodedBatch) -> (Vec<String>, Vec<(u64, String)>) {
    let file = StageFile { name: "dir/f.csv".into(), last_modified_ms: 1_600_000_000_000 };
    let LoadedBatch { batch, errors, .. } = transform.apply(batch, &file).unwrap();
    assert_eq!(&batch.schema(), transform.schema());
    (text_rows(&[batch]), errors.into_iter().map(|error| (error.line, error.message)).collect())
}

#[tokio::test]
async fn without_a_select_columns_are_decoded_in_their_types() {
    let fixture = Fixture::new();
    let table = table(vec![
        column("a", "INT"),
        Column { default: Some("'x' || 'y'".into()), ..column("b", "VARCHAR") },
    ]);
    let transform = compile(&fixture, FormatKind::Csv, "", &table, &[]).await.unwrap();
    assert_eq!(transform.spec().record_fields, Some(2));
    assert_eq!(
        transform.spec().columns[0],
        OutputColumn {
            name: "a".into(),
            ty: Some(SqlType::Int32),
            source: ColumnSource::Position(0),
            nullable: true,
            has_default: false
        }
    );
    let mut batch = decoded(transform.spec(), vec![vec![Some("1"), Some("2")], vec![None, Some("b")]]);
    batch.defaulted[1] = Some(BooleanArray::from(vec![true, false]));
    assert_eq!(apply(&transform, batch), (vec!["1|xy".to_owned(), "2|b".to_owned()], vec![]));
}

#[tokio::test]
async fn columns_that_are_not_loaded_get_their_default_for_each_row() {
    let fixture = Fixture::new();
    let table = table(vec![
        Column { default: Some("uuid()".into()), ..column("id", "VARCHAR") },
        column("a", "INT"),
        column("c", "DOUBLE"),
        Column { default: Some("now()".into()), ..column("t", "TIMESTAMP") },
    ]);
    let transform = compile(&fixture, FormatKind::Csv, "", &table, &[2]).await.unwrap();
    let (rows, errors) = apply(&transform, decoded(transform.spec(), vec![vec![Some("1"), Some("2")]]));
    assert!(errors.is_empty());
    let cells: Vec<Vec<&str>> = rows.iter().map(|row| row.split('|').collect()).collect();
    assert_ne!(cells[0][0], cells[1][0]);
    assert_eq!((cells[0][1], cells[0][2]), ("1", "∅"));
    assert_eq!(cells[0][3], cells[1][3]);
}

#[tokio::test]
async fn a_column_that_is_only_cast_is_decoded_in_that_type() {
    let fixture = Fixture::new();
    let table = table(vec![column("a", "BIGINT"), column("b", "VARCHAR"), column("c", "DATE")]);
    let sql = "SELECT __cast(\"$3\", 'INT'), \"$1\", __cast(upper(\"$2\"), 'DATE') FROM \"__rel_0\"";
    let transform = compile(&fixture, FormatKind::Csv, sql, &table, &[]).await.unwrap();
    let wanted: Vec<(ColumnSource, Option<SqlType>)> =
        transform.spec().columns.iter().map(|c| (c.source.clone(), c.ty.clone())).collect();
    assert_eq!(
        wanted,
        [
            (ColumnSource::Position(0), Some(SqlType::String)),
            (ColumnSource::Position(1), Some(SqlType::String)),
            (ColumnSource::Position(2), Some(SqlType::Int32)),
        ]
    );
    let batch = decoded(
        transform.spec(),
        vec![vec![Some("x"), Some("y")], vec![Some("2024-01-02"), Some("no")], vec![Some("5"), Some("6")]],
    );
    let (rows, errors) = apply(&transform, batch);
    assert_eq!(rows, ["5|x|2024-01-02"]);
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].0, 3);
    assert!(errors[0].1.starts_with("invalid value 'NO' for column 3 (c DATE)"), "{errors:?}");
}

#[tokio::test]
async fn bad_rows_are_found_and_the_others_load() {
    let fixture = Fixture::new();
    let table = table(vec![column("a", "INT"), Column { nullable: false, ..column("b", "TINYINT") }]);
    let sql = "SELECT __cast(\"$1\", 'INT') + 1, __cast(\"$1\", 'INT') * 10 FROM \"__rel_0\"";
    let transform = compile(&fixture, FormatKind::Csv, sql, &table, &[]).await.unwrap();
    let values = vec![Some("1"), Some("bad"), None, Some("2"), Some("50"), Some("worse"), Some("3")];
    let (rows, errors) = apply(&transform, decoded(transform.spec(), vec![values]));
    assert_eq!(rows, ["2|10", "3|20", "4|30"]);
    let lines: Vec<u64> = errors.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 5, 9, 11]);
    assert_eq!(errors[0].1, "invalid value 'bad' for column 1 (a INT): invalid digit");
    assert_eq!(errors[1].1, "NULL is not allowed for column 2 (b TINYINT NOT NULL)");
    assert!(errors[2].1.starts_with("invalid value '500' for column 2 (b TINYINT)"), "{}", errors[2].1);
}

#[tokio::test]
async fn what_an_expression_cannot_compute_is_an_error_of_its_row_and_column() {
    let fixture = Fixture::new();
    let table = table(vec![column("a", "BIGINT"), column("b", "VARCHAR"), column("c", "BIGINT")]);
    let sql = "SELECT __cast(\"$1\", 'BIGINT') + 1, regexp_replace('abc', \"$2\", ''), \
        length(lpad('a', __cast(\"$3\", 'BIGINT'), 'x')) FROM \"__rel_0\" WHERE __cast(\"$1\", 'BIGINT') > 0";
    let transform = compile(&fixture, FormatKind::Csv, sql, &table, &[]).await.unwrap();
    let columns = vec![
        vec![Some("1"), Some("9223372036854775807"), Some("3"), Some("4"), Some("x"), Some("6"), Some("7")],
        vec![Some("a"), Some("a"), Some("x("), Some("a"), Some("a"), Some("b"), None],
        // Together the last take more than may be, each of them does not.
        vec![
            Some("3"),
            Some("3"),
            Some("3"),
            Some("1000000000"),
            Some("3"),
            Some("40000000"),
            Some("40000000"),
        ],
    ];
    let (rows, errors) = apply(&transform, decoded(transform.spec(), columns));
    assert_eq!(rows, ["2|bc|3", "7|ac|40000000", "8|∅|40000000"]);
    let messages: Vec<&str> = errors.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "column 1 (a BIGINT): 9223372036854775807 + 1 is out of the range of BIGINT",
            "column 2 (b VARCHAR): invalid regular expression 'x(': unclosed group",
            "column 3 (c BIGINT): the result of lpad would take more than 64 MiB",
            "invalid value 'x' for BIGINT: invalid digit, in the WHERE",
        ]
    );
}

#[tokio::test]
async fn where_comes_first_and_metadata_is_there() {
    let fixture = Fixture::new();
    let table = table(vec![column("a", "INT"), column("f", "VARCHAR"), column("n", "BIGINT")]);
    let sql = "SELECT \"$1\", metadata$filename, METADATA$FILE_ROW_NUMBER FROM \"__rel_0\" AS s WHERE s.\"$2\" = 'ok'";
    let transform = compile(&fixture, FormatKind::Csv, sql, &table, &[]).await.unwrap();
    let batch = decoded(
        transform.spec(),
        vec![vec![Some("bad"), Some("1"), Some("x")], vec![Some("no"), Some("ok"), Some("ok")]],
    );
    let (rows, errors) = apply(&transform, batch);
    assert_eq!(rows, ["1|dir/f.csv|1"]);
    assert_eq!(errors, [(5, "invalid value 'x' for column 1 (a INT): invalid digit".to_owned())]);
}

#[tokio::test]
async fn named_formats_go_by_name_in_any_case() {
    let fixture = Fixture::new();
    let table = table(vec![column("x", "INT"), column("y", "VARCHAR")]);
    let sql = "SELECT a, __variant_get(\"$1\", '[\"k\"]') FROM \"__rel_0\"";
    let transform = compile(&fixture, FormatKind::Parquet, sql, &table, &[]).await.unwrap();
    let sources: Vec<ColumnSource> = transform.spec().columns.iter().map(|c| c.source.clone()).collect();
    assert_eq!(sources, [ColumnSource::Name("A".into()), ColumnSource::WholeRow]);
    let batch = decoded(transform.spec(), vec![vec![Some("7")], vec![Some("{\"k\":\"v\"}")]]);
    assert_eq!(apply(&transform, batch), (vec!["7|v".to_owned()], vec![]));

    let transform = compile(&fixture, FormatKind::Ndjson, "SELECT p, upper(q) FROM \"__rel_0\"", &table, &[])
        .await
        .unwrap();
    let types: Vec<Option<SqlType>> = transform.spec().columns.iter().map(|c| c.ty.clone()).collect();
    assert_eq!(types, [Some(SqlType::Int32), Some(SqlType::Variant)]);
    let batch = decoded(transform.spec(), vec![vec![Some("7")], vec![Some("\"abc\"")]]);
    assert_eq!(apply(&transform, batch), (vec!["7|ABC".to_owned()], vec![]));
}

#[tokio::test]
async fn what_a_transform_may_not_hold_is_refused_by_name() {
    let fixture = Fixture::new();
    let table = table(vec![column("a", "BIGINT")]);
    for (sql, what) in [
        ("SELECT count(\"$1\") FROM \"__rel_0\"", "an aggregate"),
        ("SELECT DISTINCT \"$1\" FROM \"__rel_0\"", "DISTINCT"),
        ("SELECT \"$1\" FROM \"__rel_0\" ORDER BY 1", "ORDER BY"),
        ("SELECT \"$1\" FROM \"__rel_0\" LIMIT 1", "LIMIT"),
        ("SELECT \"$1\" FROM \"__rel_0\" UNION ALL SELECT \"$1\" FROM \"__rel_0\"", "a set operation"),
        ("SELECT row_number() OVER () FROM \"__rel_0\"", "a window function"),
        ("SELECT \"$1\", \"$2\" FROM \"__rel_0\"", "gives 2 columns where 1 are expected"),
        ("SELECT * FROM \"__rel_0\"", "SELECT * is not possible here"),
        ("SELECT __cast(__cast(\"$1\", 'DATE'), 'BOOLEAN') FROM \"__rel_0\"", "cannot cast DATE to BOOLEAN"),
        ("SELECT nope FROM \"__rel_0\"", "column 'nope' does not exist"),
    ] {
        let error = compile(&fixture, FormatKind::Csv, sql, &table, &[]).await.unwrap_err().to_string();
        assert!(error.contains(what), "{sql}: {error}");
    }
}

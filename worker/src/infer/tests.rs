//! Files in a store, and what is found out about them.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use stevedore_common::storage::Warehouse;

use super::*;
use crate::query::test_support::put;

struct Files {
    warehouse: Warehouse,
    resources: WorkerResources,
    _dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let warehouse =
            Warehouse::open(dir.path().to_str().unwrap(), Default::default(), Default::default()).unwrap();
        Self { warehouse, resources: WorkerResources::new(2, 64 << 20).unwrap(), _dir: dir }
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> FileTask {
        put(self.warehouse.store(), 0, name, bytes).await
    }

    async fn infer(&self, files: &[FileTask], format: &FileFormat, records: usize) -> Result<Vec<String>> {
        let columns =
            infer_columns(files, self.warehouse.store(), format, false, records, &self.resources).await?;
        let shown = |c: &InferredColumn| {
            let null = if c.nullable { "" } else { " NOT NULL" };
            format!("{} {}{null} [{}]", c.name, c.ty, c.filenames)
        };
        Ok(columns.iter().map(shown).collect())
    }
}

fn parquet(columns: Vec<(&str, ArrayRef, bool)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn csv_has_the_names_of_its_header_or_numbers() {
    let files = Files::new();
    let task = files.put("a.csv", b"id,at,note\n1,2024-05-01 10:00:00,x\n2.5,,\"1,2\"\n".to_vec()).await;
    let mut format = FileFormat::defaults(FormatKind::Csv);
    format.skip_header = 1;
    let found = files.infer(std::slice::from_ref(&task), &format, 1000).await.unwrap();
    assert_eq!(found, ["id DOUBLE [a.csv]", "at TIMESTAMP [a.csv]", "note VARCHAR [a.csv]"]);
    format.skip_header = 0;
    let found = files.infer(std::slice::from_ref(&task), &format, 1000).await.unwrap();
    assert_eq!(found, ["c1 VARCHAR [a.csv]", "c2 VARCHAR [a.csv]", "c3 VARCHAR [a.csv]"]);
    format.skip_header = 2;
    assert_eq!(files.infer(&[task], &format, 1000).await.unwrap()[0], "c1 DOUBLE [a.csv]");
}

#[tokio::test]
async fn only_the_first_records_of_a_file_count() {
    let files = Files::new();
    let text: String = (0..3000).map(|n| format!("{n}\n")).chain(["x\n".to_owned()]).collect();
    let task = files.put("a.csv", text.into_bytes()).await;
    let format = FileFormat::defaults(FormatKind::Csv);
    assert_eq!(files.infer(std::slice::from_ref(&task), &format, 3000).await.unwrap(), ["c1 BIGINT [a.csv]"]);
    assert_eq!(files.infer(&[task], &format, 3001).await.unwrap(), ["c1 VARCHAR [a.csv]"]);
}

#[tokio::test]
async fn compressed_ndjson_merges_over_files() {
    let files = Files::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"{\"z\":1,\"a\":{\"b\":[1]}}\n\n{\"z\":null,\"k\":true}\n").unwrap();
    let a = files.put("a.ndjson.gz", gzip.finish().unwrap()).await;
    let b = files.put("b.ndjson", b"{\"z\":1.5,\"k\":\"x\"}\nbroken\n".to_vec()).await;
    let format = FileFormat::defaults(FormatKind::Ndjson);
    let found = files.infer(&[a, b], &format, 1000).await.unwrap();
    let expected =
        ["z DOUBLE [a.ndjson.gz, b.ndjson]", "a VARIANT [a.ndjson.gz]", "k VARCHAR [a.ndjson.gz, b.ndjson]"];
    assert_eq!(found, expected);
    let c = files.put("c.ndjson", b"broken\n".to_vec()).await;
    let error = files.infer(&[c], &format, 1000).await.unwrap_err().to_string();
    assert!(error.contains("c.ndjson") && error.contains("invalid JSON"), "{error}");
}

#[tokio::test]
async fn a_sample_counts_records_over_all_files_and_passes_over_what_cannot_be_read() {
    let files = Files::new();
    let mut tasks = Vec::new();
    for n in 0..12 {
        let text = format!("{{\"a\":1}}\n{{\"b{n}\":null}}\n{{\"c{n}\":\"x\"}}\n");
        tasks.push(files.put(&format!("{n:02}.ndjson"), text.into_bytes()).await);
    }
    tasks.insert(1, files.put("broken.ndjson", b"no JSON\n".to_vec()).await);
    let format = FileFormat::defaults(FormatKind::Ndjson);
    let found = async |records_per_file, records| {
        let sample = Sample { records_per_file, records };
        let store = files.warehouse.store();
        let found = columns_in_order(&tasks, store, &format, false, sample, &files.resources).await.unwrap();
        let shown = |(name, ty): &(String, Option<SqlType>)| match ty {
            Some(ty) => format!("{name} {ty}"),
            None => name.clone(),
        };
        found.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(found(1, 100).await, ["a BIGINT"]);
    assert_eq!(found(2, 5).await, ["a BIGINT", "b0", "b1"]);
    assert_eq!(found(3, 4).await, ["a BIGINT", "b0", "c0 VARCHAR"]);
    assert_eq!(found(2, 24).await.len(), 13);
    assert_eq!(found(10, 1_000).await.len(), 25);
}

#[tokio::test]
async fn columns_of_unlike_types_in_files_have_one_for_all() {
    let files = Files::new();
    let ints: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let longs: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let a = parquet(vec![("x", ints.clone(), false), ("y", ints, false)]);
    let b = parquet(vec![("z", longs.clone(), false), ("y", texts, false), ("x", longs, false)]);
    let tasks = [
        files.put("a.parquet", a).await,
        files.put("bad.parquet", b"no parquet".to_vec()).await,
        files.put("b.parquet", b).await,
    ];
    let format = FileFormat::defaults(FormatKind::Parquet);
    let sample = Sample { records_per_file: 1, records: 1 };
    let store = files.warehouse.store();
    let found = columns_in_order(&tasks, store, &format, false, sample, &files.resources).await.unwrap();
    let expected = [("x", SqlType::Int64), ("y", SqlType::String), ("z", SqlType::Int64)];
    assert_eq!(found, expected.map(|(name, ty)| (name.to_owned(), Some(ty))));
}

#[tokio::test]
async fn parquet_is_told_by_footers() {
    let files = Files::new();
    let ids: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let first = parquet(vec![("id", ids, false), ("name", names, false)]);
    let size = first.len() as u64;
    let a = files.put("a.parquet", first).await;
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![4]));
    let b = files.put("b.parquet", parquet(vec![("id", ids, false)])).await;
    let format = FileFormat::defaults(FormatKind::Parquet);
    let found = files.infer(&[a.clone(), b], &format, 1).await.unwrap();
    assert_eq!(found, ["id BIGINT NOT NULL [a.parquet, b.parquet]", "name VARCHAR [a.parquet]"]);

    let facts = inspect_parquet(&a, files.warehouse.store(), &files.resources).await.unwrap();
    assert_eq!((facts.num_columns, facts.num_rows, facts.num_row_groups), (2, 3, 1));
    assert!(facts.created_by.unwrap().contains("parquet"));
    assert!(facts.serialized_size > 0 && facts.serialized_size < size);
    assert!(facts.max_row_groups_size_compressed > 0 && facts.max_row_groups_size_uncompressed > 0);
    let text = files.put("t.parquet", b"no parquet at all".to_vec()).await;
    let error = inspect_parquet(&text, files.warehouse.store(), &files.resources).await.unwrap_err();
    assert!(error.to_string().contains("file 't.parquet'"), "{error}");
}

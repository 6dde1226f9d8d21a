//! Files to load: written where a test wants them, also broken ones.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_iterator;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;

/// Writes a file, and the folders above it.
pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// The bytes, compressed by gzip.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// JSON objects, one a line, as a Parquet file. A field's type is the one that its values have (BIGINT,
/// DOUBLE, BOOLEAN, VARCHAR, lists and structs of them).
pub fn parquet_of_json(lines: &str) -> Vec<u8> {
    let values: Vec<serde_json::Value> = lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let schema = Arc::new(infer_json_schema_from_iterator(values.iter().map(Ok)).unwrap());
    let mut decoder = ReaderBuilder::new(schema).build_decoder().unwrap();
    decoder.serialize(&values).unwrap();
    parquet_of(&decoder.flush().unwrap().unwrap())
}

/// A batch as a Parquet file.
pub fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

/// Where an `oracle` row comes from: `file` and `row` are unique together.
pub fn numbered_csv(file: usize, rows: usize) -> String {
    let mut text = String::with_capacity(rows * 32);
    for row in 0..rows {
        text.push_str(&format!("{file},{row},payload of row {row}\n"));
    }
    text
}

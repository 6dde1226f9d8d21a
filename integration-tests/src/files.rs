//! Files to load: written where a test wants them, also broken ones.

use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_iterator;
use arrow_avro::writer::AvroWriter;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use orc_rust::ArrowWriterBuilder;
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

/// The bytes, compressed by the codec of this name; `None`: there is no such codec.
pub fn compress(codec: &str, content: &[u8]) -> Option<Vec<u8>> {
    let level = Compression::default();
    Some(match codec {
        "gzip" => gzip(content),
        "zlib" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        "raw-deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        "bzip2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        "brotli" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
            encoder.write_all(content).unwrap();
            encoder.into_inner()
        }
        "zstd" => zstd::encode_all(content, 3).unwrap(),
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 3);
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        "zip" => zip(&[("inside.txt", content)]),
        // Two members, cut at the end of the first line.
        "gzip-members" | "bzip2-members" | "zstd-members" | "xz-members" => {
            let codec = codec.trim_end_matches("-members");
            let cut = content.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let (first, second) = content.split_at(cut);
            [compress(codec, first).unwrap(), compress(codec, second).unwrap()].concat()
        }
        "zip-of-two" => zip(&[("one.txt", content), ("two.txt", content)]),
        _ => return None,
    })
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// JSON objects, one a line, as a batch. A field's type is the one that its values have (BIGINT, DOUBLE,
/// BOOLEAN, VARCHAR, lists and structs of them).
fn batch_of_json(lines: &str) -> RecordBatch {
    let values: Vec<serde_json::Value> = lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let schema = Arc::new(infer_json_schema_from_iterator(values.iter().map(Ok)).unwrap());
    let mut decoder = ReaderBuilder::new(schema).build_decoder().unwrap();
    decoder.serialize(&values).unwrap();
    decoder.flush().unwrap().unwrap()
}

/// JSON objects, one a line, as a Parquet file.
pub fn parquet_of_json(lines: &str) -> Vec<u8> {
    parquet_of(&batch_of_json(lines))
}

/// JSON objects, one a line, as an Avro file.
pub fn avro_of_json(lines: &str) -> Vec<u8> {
    let batch = batch_of_json(lines);
    let mut writer = AvroWriter::new(Vec::new(), batch.schema().as_ref().clone()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner()
}

/// JSON objects of scalars, one a line, as an ORC file. Columns without a value are VARCHAR.
pub fn orc_of_json(lines: &str) -> Vec<u8> {
    let batch = batch_of_json(lines);
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let known = if field.data_type().is_null() { &DataType::Utf8 } else { field.data_type() };
        (field.name(), arrow::compute::cast(column, known).unwrap(), true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriterBuilder::new(&mut bytes, batch.schema()).try_build().unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// JSON objects, one a line, as an Arrow IPC file or stream. Strings have dictionaries.
pub fn arrow_of_json(lines: &str, stream: bool) -> Vec<u8> {
    let batch = batch_of_json(lines);
    let schema = batch.schema();
    let words = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let ty = if *field.data_type() == DataType::Utf8 { &words } else { field.data_type() };
        (field.name(), arrow::compute::cast(column, ty).unwrap(), true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    if stream {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        return writer.into_inner().unwrap();
    }
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
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

#![allow(clippy::unwrap_used)]

use std::io::Read as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int32Array, StringArray};
use stevedore_common::file_format::{BinaryFormat, Compression, QuoteStyle};

use super::compress::Compressor;
use super::text::TextEncoder;
use super::*;

fn batch() -> RecordBatch {
    let text = StringArray::from(vec![Some("plain"), Some("a,\"b\"\n"), Some(""), Some("\\N"), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int32Array::from(vec![Some(1), Some(-2), None, Some(4), Some(5)]))),
        ("t", Arc::new(text)),
        ("f", Arc::new(Float64Array::from(vec![1.5, f64::NAN, f64::INFINITY, 0.0, -1e300]))),
        ("b", Arc::new(BinaryArray::from_vec(vec![b"\x00\xff", b"", b"a", b"b", b"c"]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

fn encoded(format: &FileFormat) -> Result<String> {
    let batch = batch();
    let mut encoder = TextEncoder::new(format, &batch.schema(), &CastOptions::default())?;
    encoder.write(&batch)?;
    Ok(String::from_utf8(encoder.finish()?).unwrap())
}

fn csv() -> FileFormat {
    FileFormat::defaults(FormatKind::Csv)
}

#[test]
fn csv_quotes_what_would_be_read_as_something_else() {
    let lines = "1,plain,1.5,00ff\n-2,\"a,\"\"b\"\"\n\",NaN,\"\"\n\\N,\"\",inf,61\n4,\"\\N\",0.0,62\n5,\\N,-1e300,63\n";
    assert_eq!(encoded(&csv()).unwrap(), lines);
}

#[test]
fn csv_is_written_as_its_options_say() {
    let format = FileFormat {
        output_header: true,
        quote_style: QuoteStyle::NonNumeric,
        field_delimiter: "|".into(),
        record_delimiter: "\r\n".into(),
        null_display: "none".into(),
        nan_display: "nan!".into(),
        binary_format: BinaryFormat::Base64,
        quote: '\'',
        ..csv()
    };
    let text = encoded(&format).unwrap();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[0], "'n'|'t'|'f'|'b'");
    assert_eq!(lines[1], "1|'plain'|1.5|'AP8='");
    assert_eq!(lines[2], "-2|'a,\"b\"\n'|nan!|''");
    assert_eq!(lines[5], "5|none|-1e300|'Yw=='");
    let always = encoded(&FileFormat { quote_style: QuoteStyle::Always, ..csv() }).unwrap();
    assert!(always.starts_with("\"1\",\"plain\",\"1.5\",\"00ff\"\n"), "{always}");
    assert!(always.ends_with("\"5\",\\N,\"-1e300\",\"63\"\n"), "{always}");
}

#[test]
fn never_quoted_values_that_need_it_are_refused() {
    let error = encoded(&FileFormat { quote_style: QuoteStyle::Never, ..csv() }).unwrap_err();
    assert!(error.to_string().contains("column 't'"), "{error}");
}

#[test]
fn an_escape_in_quotes_is_escaped() {
    let text = StringArray::from(vec!["a\\,\"b"]);
    let batch = RecordBatch::try_from_iter([("t", Arc::new(text) as ArrayRef)]).unwrap();
    let format = FileFormat { escape: Some('\\'), ..csv() };
    let mut encoder = TextEncoder::new(&format, &batch.schema(), &CastOptions::default()).unwrap();
    encoder.write(&batch).unwrap();
    assert_eq!(encoder.finish().unwrap(), b"\"a\\\\,\"\"b\"\n");
}

#[test]
fn tsv_escapes_and_ndjson_keeps_the_order_of_the_columns() {
    let tsv = encoded(&FileFormat::defaults(FormatKind::Tsv)).unwrap();
    assert_eq!(tsv.lines().nth(1).unwrap(), "-2\ta,\"b\"\\n\tNaN\t");
    assert_eq!(tsv.lines().nth(3).unwrap(), "4\t\\\\N\t0.0\t62");
    let json = encoded(&FileFormat::defaults(FormatKind::Ndjson)).unwrap();
    assert_eq!(json.lines().next().unwrap(), r#"{"n":1,"t":"plain","f":1.5,"b":"00ff"}"#);
    assert!(json.lines().nth(4).unwrap().starts_with(r#"{"n":5,"t":null,"#), "{json}");
}

#[test]
fn every_codec_is_read_back_by_the_decoder() {
    use stevedore_decode::decompress::Decompressor;
    use stevedore_decode::limits::DecompressLimits;
    let data: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
    for codec in [
        Compression::Gzip,
        Compression::Bz2,
        Compression::Brotli,
        Compression::Zstd,
        Compression::Deflate,
        Compression::RawDeflate,
        Compression::Xz,
    ] {
        let mut compressor = Compressor::new(codec).unwrap();
        let mut packed = Vec::new();
        for piece in data.chunks(100_000) {
            compressor.write(piece).unwrap();
            packed.extend(compressor.take());
        }
        packed.extend(compressor.finish().unwrap());
        assert!(packed.len() < data.len(), "{codec}");
        let mut back = Vec::new();
        let mut each = |piece: &[u8]| {
            back.extend_from_slice(piece);
            Ok(())
        };
        let mut decompressor = Decompressor::new(codec, DecompressLimits::default()).unwrap();
        decompressor.push(&packed, &mut each).unwrap();
        decompressor.finish(&mut each).unwrap();
        assert!(back == data, "{codec}");
    }
    let mut gzip = Vec::new();
    let mut compressor = Compressor::new(Compression::Gzip).unwrap();
    compressor.write(b"x").unwrap();
    flate2::read::GzDecoder::new(compressor.finish().unwrap().as_slice()).read_to_end(&mut gzip).unwrap();
    assert_eq!(gzip, b"x");
}

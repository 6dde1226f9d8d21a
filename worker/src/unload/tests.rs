#![allow(clippy::unwrap_used)]

use std::io::Read as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BinaryArray, Float64Array, Int32Array, StringArray};
use stevedore_common::file_format::{BinaryFormat, Compression, EmptyFieldAs, QuoteStyle};
use stevedore_common::types::SqlType;

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

/// Columns of text, as a file.
fn written(format: &FileFormat, columns: &[&[Option<&str>]]) -> Result<Vec<u8>> {
    let column = |values: &&[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let named = columns.iter().enumerate().map(|(n, values)| (format!("c{n}"), column(values), true));
    let batch = RecordBatch::try_from_iter_with_nullable(named).unwrap();
    let mut encoder = TextEncoder::new(format, &batch.schema(), &CastOptions::default())?;
    encoder.write(&batch)?;
    encoder.finish()
}

/// What a file with so many columns of text is read as, column by column.
fn read(format: &FileFormat, file: &[u8], columns: usize) -> Vec<Vec<Option<String>>> {
    use stevedore_decode::limits::{DecompressLimits, TextLimits};
    use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};
    use stevedore_decode::text::{TextInput, text_decoder};
    let output = |n| OutputColumn {
        name: format!("c{n}"),
        ty: Some(SqlType::String),
        source: ColumnSource::Position(n),
        nullable: true,
        has_default: false,
    };
    let mut spec = DecodeSpec::new(format.clone(), (0..columns).map(output).collect());
    spec.record_fields = Some(columns);
    let decoder = text_decoder(Arc::new(spec)).unwrap();
    let limits = (DecompressLimits::default(), TextLimits::default());
    let mut input = TextInput::new(format, Compression::None, limits.0, limits.1).unwrap();
    let mut values = vec![Vec::new(); columns];
    let mut each = |block| {
        for batch in decoder.decode(block).unwrap() {
            assert!(batch.errors.is_empty(), "{:?}", batch.errors);
            for (column, values) in batch.batch.columns().iter().zip(&mut values) {
                values.extend(column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)));
            }
        }
        Ok(())
    };
    input.finish_with(&bytes::Bytes::copy_from_slice(file), &mut each).unwrap();
    values
}

/// Formats of all kinds, among them those that make some value hard to write.
fn formats() -> Vec<FileFormat> {
    let mut formats = Vec::new();
    for base in
        [csv(), FileFormat { empty_field_as: EmptyFieldAs::String, ..FileFormat::defaults(FormatKind::Tsv) }]
    {
        let styles = [QuoteStyle::Necessary, QuoteStyle::Always, QuoteStyle::NonNumeric, QuoteStyle::Never];
        for (null, delimiter) in
            [("\\N", "||"), ("NULL", "-=>"), ("", "ab"), ("a|", "||"), ("x", "n"), ("N\"A", ";")]
        {
            for (n, quote_style) in styles.into_iter().enumerate() {
                for (trim_space, allow_quoted_nulls) in [(false, false), (true, false), (false, true)] {
                    for quoted_empty_field_as in [EmptyFieldAs::String, EmptyFieldAs::Null] {
                        formats.push(FileFormat {
                            null_display: null.into(),
                            field_delimiter: delimiter.into(),
                            escape: base.escape.or((n == 1).then_some('\\')),
                            empty_field_as: if n == 0 { EmptyFieldAs::String } else { base.empty_field_as },
                            quote_style,
                            trim_space,
                            allow_quoted_nulls,
                            quoted_empty_field_as,
                            ..base.clone()
                        });
                    }
                }
            }
        }
    }
    formats
}

#[test]
fn each_text_is_read_back_as_it_was_or_refused() {
    let texts = [
        None,
        Some(""),
        Some("\\N"),
        Some("NULL"),
        Some("a|"),
        Some("|"),
        Some("a"),
        Some("b"),
        Some("ab"),
        Some("-="),
        Some("->"),
        Some(" x "),
        Some("x"),
        Some("n"),
        Some("\n"),
        Some("\r"),
        Some("\""),
        Some("N\"A"),
        Some("\"q\""),
        Some("\\"),
        Some("\\n"),
        Some("a\tb"),
        Some("\u{feff}"),
        Some("\u{feff}x"),
        Some(";"),
        Some("'"),
        Some("0"),
    ];
    let (mut refused, mut back) = (0, 0);
    for format in formats() {
        for text in texts {
            for columns in [&[&[text][..]][..], &[&[text], &[Some("y")]], &[&[Some("y")], &[text]]] {
                let file = match written(&format, columns) {
                    Ok(file) => file,
                    Err(error) => {
                        let error = error.to_string();
                        assert!(
                            error.contains("column 'c") && error.contains("could not be read back"),
                            "{error}"
                        );
                        refused += 1;
                        continue;
                    }
                };
                let expected: Vec<Vec<_>> = columns
                    .iter()
                    .map(|values| values.iter().map(|text| text.map(str::to_owned)).collect())
                    .collect();
                assert_eq!(
                    read(&format, &file, columns.len()),
                    expected,
                    "{:?} in {format:?}",
                    String::from_utf8_lossy(&file)
                );
                back += 1;
            }
        }
    }
    assert!(refused > 1000 && back > 10_000, "{refused} {back}");
}

#[test]
fn only_what_cannot_be_written_is_refused() {
    let refusal = |format: &FileFormat, text| written(format, &[&[text]]).unwrap_err().to_string();
    let never = FileFormat { quote_style: QuoteStyle::Never, ..csv() };
    let error = refusal(&never, Some("\\N"));
    assert_eq!(
        error.split(';').next().unwrap(),
        "value '\\N' of column 'c0' could not be read back: it is the text of NULL_DISPLAY, and QUOTE_STYLE is NEVER"
    );
    assert!(
        refusal(&never, Some(""))
            .contains("a line with nothing in it is no record, and QUOTE_STYLE is NEVER")
    );
    let quoted_nulls = FileFormat { allow_quoted_nulls: true, ..csv() };
    assert!(refusal(&quoted_nulls, Some("\\N")).contains("ALLOW_QUOTED_NULLS is true"));
    let no_null = FileFormat { null_display: String::new(), ..csv() };
    assert!(
        refusal(&no_null, None).starts_with("NULL in column 'c0' could not be read back: NULL_DISPLAY is ''")
    );
    let trim = FileFormat { trim_space: true, ..csv() };
    assert!(refusal(&trim, Some(" a")).contains("TRIM_SPACE"));
    let empty = FileFormat { quoted_empty_field_as: EmptyFieldAs::Null, ..csv() };
    assert!(refusal(&empty, Some("")).contains("QUOTED_EMPTY_FIELD_AS is NULL"));
    let tsv = FileFormat { null_display: "NULL".into(), ..FileFormat::defaults(FormatKind::Tsv) };
    assert!(refusal(&tsv, Some("NULL")).contains("TSV has no quotes"));
    let bare = FileFormat { empty_field_as: EmptyFieldAs::String, ..empty };
    assert_eq!(written(&bare, &[&[Some("")], &[Some("")]]).unwrap(), b",\n");
    let quoted = FileFormat { null_display: "a,b".into(), ..quoted_nulls };
    assert_eq!(written(&quoted, &[&[None]]).unwrap(), b"\"a,b\"\n");
    assert_eq!(written(&csv(), &[&[Some("\u{feff}a")]]).unwrap(), "\u{feff}\u{feff}a\n".as_bytes());
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

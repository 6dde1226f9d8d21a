//! The text decoders from bytes to batches, as a caller sees them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use proptest::prelude::*;
use stevedore_common::file_format::{
    BinaryFormat, Compression, EmptyFieldAs, EncodingErrorMode, FileFormat, FormatKind, MissingFieldAs,
    NullFieldAs,
};
use stevedore_common::types::SqlType;

use super::*;
use crate::spec::{ColumnSource, OutputColumn};

mod json;

/// What came out of a file: rows as text (`~` for NULL, `?` for a default to come), and the rest.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    rows: Vec<String>,
    numbers: Vec<u64>,
    lines: Vec<u64>,
    errors: Vec<String>,
    input_bytes: u64,
}

/// `a INT`, `b INT NOT NULL`, `c VARCHAR DEFAULT`.
fn column(i: usize, text: &str, kind: FormatKind) -> OutputColumn {
    let (name, rest) = text.split_once(' ').unwrap();
    let (rest, has_default) = match rest.strip_suffix(" DEFAULT") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let (ty, nullable) = match rest.strip_suffix(" NOT NULL") {
        Some(ty) => (ty, false),
        None => (rest, true),
    };
    OutputColumn {
        name: name.to_owned(),
        ty: Some(SqlType::parse(ty).unwrap()),
        source: match kind {
            kind if kind.is_json() && name == "$1" => ColumnSource::WholeRow,
            kind if kind.is_json() => ColumnSource::Name(name.to_owned()),
            _ => ColumnSource::Position(i),
        },
        nullable,
        has_default,
    }
}

fn spec(kind: FormatKind, columns: &[&str]) -> DecodeSpec {
    let columns: Vec<_> = columns.iter().enumerate().map(|(i, text)| column(i, text, kind)).collect();
    let fields = columns.len();
    let mut spec = DecodeSpec::new(FileFormat::defaults(kind), columns);
    spec.record_fields = Some(fields);
    spec
}

fn csv(columns: &[&str]) -> DecodeSpec {
    spec(FormatKind::Csv, columns)
}

fn tsv(columns: &[&str]) -> DecodeSpec {
    spec(FormatKind::Tsv, columns)
}

fn ndjson(columns: &[&str]) -> DecodeSpec {
    spec(FormatKind::Ndjson, columns)
}

fn rows_of(batch: &RecordBatch, defaulted: &[Option<arrow::array::BooleanArray>]) -> Vec<String> {
    let options = FormatOptions::default().with_null("~");
    // arrow prints zones only with a feature that nothing else needs.
    let shown: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(|array| match array.as_primitive_opt::<TimestampMicrosecondType>() {
            Some(array) => Arc::new(array.clone().with_timezone("+00:00")),
            None => array.clone(),
        })
        .collect();
    let columns: Vec<_> =
        shown.iter().map(|array| ArrayFormatter::try_new(array, &options).unwrap()).collect();
    (0..batch.num_rows())
        .map(|row| {
            let cells: Vec<String> = columns
                .iter()
                .zip(defaulted)
                .zip(batch.columns())
                .map(|((column, defaulted), array)| {
                    if defaulted.as_ref().is_some_and(|defaulted| defaulted.value(row)) {
                        assert!(array.is_null(row));
                        "?".to_owned()
                    } else {
                        column.value(row).to_string()
                    }
                })
                .collect();
            cells.join("|")
        })
        .collect()
}

fn decode_with(spec: &DecodeSpec, input: &[u8], block_bytes: usize, piece: usize) -> Result<Decoded> {
    decode_within(spec, input, TextLimits { block_bytes, ..TextLimits::default() }, piece)
}

fn decode_within(spec: &DecodeSpec, input: &[u8], limits: TextLimits, piece: usize) -> Result<Decoded> {
    let blocks = blocks_within(spec, input, limits, piece)?;
    collect(&*text_decoder(Arc::new(spec.clone()))?, blocks, usize::MAX)
}

fn blocks_within(
    spec: &DecodeSpec,
    input: &[u8],
    limits: TextLimits,
    piece: usize,
) -> Result<Vec<TextBlock>> {
    let mut source = TextInput::new(
        &spec.format,
        spec.format.compression.resolve("data.txt"),
        DecompressLimits::default(),
        limits,
    )?;
    let mut blocks = Vec::new();
    let mut each = |block| {
        blocks.push(block);
        Ok(())
    };
    let mut pieces = input.chunks(piece).map(Bytes::copy_from_slice);
    // With the last piece as every reader of small files, or without as one of large files does.
    let last = if input.len().is_multiple_of(2) { pieces.next_back() } else { None };
    for piece in pieces {
        source.push(&piece, &mut each)?;
    }
    match last {
        Some(last) => source.finish_with(&last, &mut each)?,
        None => source.finish(&mut each)?,
    }
    Ok(blocks)
}

/// Decodes blocks, each in parts that hold so many bytes or so.
fn collect(decoder: &dyn BlockDecoder, blocks: Vec<TextBlock>, most_bytes: usize) -> Result<Decoded> {
    let mut numbering = RowNumbering::default();
    let mut decoded = Decoded::default();
    let mut blocks: VecDeque<TextBlock> = blocks.into();
    while let Some(block) = blocks.pop_front() {
        let (mut batches, rest) = decoder.decode_some(block, most_bytes)?;
        rest.into_iter().for_each(|rest| blocks.push_front(rest));
        numbering.number_block(&mut batches);
        for batch in batches {
            assert_eq!(batch.batch.num_rows(), batch.row_numbers.len());
            assert_eq!(batch.batch.num_rows(), batch.lines.len());
            decoded.rows.extend(rows_of(&batch.batch, &batch.defaulted));
            decoded.numbers.extend(batch.row_numbers);
            decoded.lines.extend(batch.lines);
            decoded
                .errors
                .extend(batch.errors.iter().map(|e| format!("line {} row {}: {}", e.line, e.row, e.message)));
            decoded.input_bytes += batch.input_bytes;
        }
    }
    assert_eq!(numbering.rows() as usize, decoded.rows.len() + decoded.errors.len());
    Ok(decoded)
}

/// Decodes at once, cut to pieces of several sizes and batch by batch, and checks that all are the same.
fn decode(spec: &DecodeSpec, input: &str) -> Decoded {
    let whole = decode_with(spec, input.as_bytes(), 1 << 20, 1 << 20).unwrap();
    for (block_bytes, piece) in [(8, 3), (8, 64), (16, 1 << 20), (1 << 20, 5)] {
        let cut = decode_with(spec, input.as_bytes(), block_bytes, piece).unwrap();
        assert_eq!(cut, whole, "cut to blocks of {block_bytes} from pieces of {piece}");
    }
    let few = DecodeSpec { batch_rows: 2, ..spec.clone() };
    let blocks = blocks_within(&few, input.as_bytes(), TextLimits::default(), 1 << 20).unwrap();
    let broken_off = collect(&*text_decoder(Arc::new(few)).unwrap(), blocks, 1).unwrap();
    assert_eq!(broken_off, whole, "broken off after each batch");
    assert_eq!(whole.input_bytes, input.len() as u64);
    whole
}

fn rows(spec: &DecodeSpec, input: &str) -> Vec<String> {
    let decoded = decode(spec, input);
    assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    decoded.rows
}

fn errors(spec: &DecodeSpec, input: &str) -> Vec<String> {
    decode(spec, input).errors
}

#[test]
fn csv_values_of_every_type() {
    let spec = csv(&[
        "i BIGINT",
        "u TINYINT UNSIGNED",
        "f FLOAT",
        "d DOUBLE",
        "n DECIMAL(10, 2)",
        "t DATE",
        "ts TIMESTAMP",
        "b BOOLEAN",
        "s VARCHAR",
        "x BINARY",
        "v VARIANT",
        "a ARRAY(INT)",
        "m MAP(VARCHAR, INT)",
        "o TUPLE(x INT, y VARCHAR)",
        "e VECTOR(2)",
    ]);
    let row = "-5,255,1.5,2.25,3.145,2024-02-29,2024-02-29 12:00:00,true,hé,00ff,\"{\"\"a\"\": [1]}\",\"[1,null]\",\
               \"{\"\"k\"\":1}\",\"{\"\"Y\"\":\"\"z\"\",\"\"x\"\":7}\",\"[1,2.5]\"\n";
    assert_eq!(
        rows(&spec, row),
        [
            "-5|255|1.5|2.25|3.15|2024-02-29|2024-02-29T12:00:00Z|true|hé|00ff|{\"a\": [1]}|[1, ~]|{k: 1}|{x: 7, y: z}|[1.0, 2.5]"
        ]
    );
    let nulls = ",".repeat(14);
    assert_eq!(rows(&spec, &format!("{nulls}\n")), ["~|".repeat(14) + "~"]);
}

#[test]
fn csv_quotes_line_ends_and_empty_lines() {
    let spec = csv(&["a VARCHAR", "b VARCHAR"]);
    for (input, expected) in [
        ("a,b\nc,d\n", vec!["a|b", "c|d"]),
        ("a,b\r\nc,d", vec!["a|b", "c|d"]),
        ("\n\r\na,b\n\n\nc,d\n\n", vec!["a|b", "c|d"]),
        ("\"a,\nb\",\"\"\"\"\n", vec!["a,\nb|\""]),
        ("\"\",\n", vec!["|~"]),
        ("\"x\"\"y\",\"\"\"\"\"\"\r\n", vec!["x\"y|\"\""]),
        ("5\" pipe,b\"\n", vec!["5\" pipe|b\""]),
        ("\"a\"b,\"c\"\"d\"e\n", vec!["ab|c\"de"]),
        (" \"a\",b\n", vec![" \"a\"|b"]),
        ("\\N,\"\\N\"\n", vec!["~|\\N"]),
        ("a,b\r", vec!["a|b\r"]),
        ("", vec![]),
    ] {
        assert_eq!(rows(&spec, input), expected, "{input:?}");
    }
}

#[test]
fn csv_options() {
    let one = |change: &dyn Fn(&mut FileFormat), input: &str, expected: &[&str]| {
        let mut spec = csv(&["a VARCHAR", "b INT"]);
        change(&mut spec.format);
        assert_eq!(rows(&spec, input), expected, "{input:?}");
    };
    one(&|f| f.field_delimiter = "||".into(), "x||1\n\"a||b\"||2\na|b||3\n", &["x|1", "a||b|2", "a|b|3"]);
    one(&|f| f.field_delimiter = "→".into(), "x→1\r\n", &["x|1"]);
    one(&|f| f.record_delimiter = ";".into(), "x,1;\"a;b\",2;y\n,3", &["x|1", "a;b|2", "y\n|3"]);
    one(&|f| f.record_delimiter = "\r\n".into(), "x\ny,1\r\n\"\r\n\",2\r\n", &["x\ny|1", "\r\n|2"]);
    one(&|f| f.record_delimiter = "\r".into(), "x,1\ry,2\r", &["x|1", "y|2"]);
    one(&|f| f.quote = '\'', "'a,''b',1\n\"c,2\n", &["a,'b|1", "\"c|2"]);
    one(
        &|f| f.escape = Some('\\'),
        "\"a\\\"b\\\\\",1\nc\\d,2\n\"x\"\"\\\n\",3\n",
        &["a\"b\\|1", "c\\d|2", "x\"\n|3"],
    );
    one(&|f| f.skip_header = 2, "h,h\n\"multi\nline\",x\na,1\n", &["a|1"]);
    one(&|f| f.skip_header = 5, "h,h\n", &[]);
    one(&|f| f.trim_space = true, " a , 1 \n \" b \" ,2\n\\N ,\t3\n", &["a|1", "b|2", "~|3"]);
    one(&|f| f.null_display = "NA".into(), "NA,NA\n\\N,1\n\"NA\",2\n", &["~|~", "\\N|1", "NA|2"]);
    one(
        &|f| {
            f.null_display = "NA".into();
            f.allow_quoted_nulls = true;
        },
        "\"NA\",\"NA\"\n",
        &["~|~"],
    );
    one(&|f| f.empty_field_as = EmptyFieldAs::String, ",\n\"\",\"\"\n", &["|~", "|~"]);
    one(&|f| f.quoted_empty_field_as = EmptyFieldAs::Null, "\"\",\"\"\n", &["~|~"]);
    one(&|f| f.error_on_column_count_mismatch = false, "a\nb,1,x,y\n", &["a|~", "b|1"]);
}

#[test]
fn csv_defaults_are_marked_where_the_column_has_one() {
    let mut spec = csv(&["a VARCHAR DEFAULT", "b INT NOT NULL DEFAULT", "c INT"]);
    spec.format.empty_field_as = EmptyFieldAs::FieldDefault;
    spec.format.quoted_empty_field_as = EmptyFieldAs::FieldDefault;
    spec.format.error_on_column_count_mismatch = false;
    assert_eq!(rows(&spec, ",,\n\"\",\"\",\"\"\nx\ny,1,2\n"), ["?|?|~", "?|?|~", "x|?|~", "y|1|2"]);
    // Rejected rows do not shift the marks.
    let decoded = decode(&spec, ",1,x\n,2,3\n");
    assert_eq!(decoded.rows, ["?|2|3"]);
    assert_eq!(decoded.numbers, [1]);
}

#[test]
fn csv_nan_and_binary_follow_the_format() {
    let mut spec = csv(&["d DOUBLE", "x BINARY"]);
    spec.format.nan_display = "nix".into();
    spec.format.binary_format = BinaryFormat::Base64;
    assert_eq!(rows(&spec, "nix,aGk=\n"), ["NaN|6869"]);
}

#[test]
fn csv_row_errors_name_line_row_column_value_and_reason() {
    let spec = csv(&["a INT", "b INT", "c VARCHAR NOT NULL"]);
    let decoded = decode(&spec, "1,b,x\n\n1,2,\"y\nz\"\n1,2\n1,2,3,4\n99999999999,x,\n1,2,\n3,4,w\n");
    assert_eq!(
        decoded.errors,
        [
            "line 1 row 0: invalid value 'b' for column 2 (b INT): invalid digit",
            "line 5 row 2: expected 3 columns, found 2",
            "line 6 row 3: expected 3 columns, found 4",
            "line 7 row 4: invalid value '99999999999' for column 1 (a INT): out of range",
            "line 8 row 5: NULL is not allowed for column 3 (c VARCHAR NOT NULL)",
        ]
    );
    assert_eq!(decoded.rows, ["1|2|y\nz", "3|4|w"]);
    assert_eq!(decoded.numbers, [1, 6]);
    assert_eq!(decoded.lines, [3, 9]);
}

#[test]
fn a_header_counts_as_lines_but_not_as_rows() {
    let mut spec = csv(&["a INT"]);
    spec.format.skip_header = 1;
    assert_eq!(
        errors(&spec, "\"head\ner\"\n1\nx\n"),
        ["line 4 row 1: invalid value 'x' for column 1 (a INT): invalid digit"]
    );
}

#[test]
fn an_unclosed_quote_costs_the_row_up_to_the_end_and_names_its_line() {
    let decoded = decode(&csv(&["a INT", "b VARCHAR"]), "1,x\n2,\"open\n3,y\n4,z\n");
    assert_eq!(decoded.rows, ["1|x"]);
    assert_eq!(
        decoded.errors,
        [
            "line 2 row 1: unclosed quote: the quoted field that begins in line 2 does not end before the file does"
        ]
    );
}

#[test]
fn a_record_that_is_too_large_is_an_error_of_the_file() {
    let limits = TextLimits { block_bytes: 1000, max_record_bytes: 100_000 };
    let spec = csv(&["a INT", "b VARCHAR"]);
    let input = format!("1,x\n2,\"{}", "open\n".repeat(50_000));
    let error = decode_within(&spec, input.as_bytes(), limits, 7000).unwrap_err().to_string();
    assert!(error.contains("line 2 is larger than 100000 bytes (limit max_record_bytes)"), "{error}");
    assert!(error.contains("lack its closing quote"), "{error}");
    let input = format!("{{\"a\":\"{}", "x".repeat(300_000));
    let spec = ndjson(&["a VARCHAR"]);
    let error = decode_within(&spec, input.as_bytes(), limits, 7000).unwrap_err().to_string();
    assert!(error.contains("max_record_bytes"), "{error}");
}

#[test]
fn records_below_the_limit_pass_whatever_their_neighbours() {
    let limits = TextLimits { block_bytes: 1000, max_record_bytes: 100_000 };
    let mut spec = csv(&["a VARCHAR", "b VARCHAR"]);
    spec.format.field_delimiter = "||".into();
    let long = format!("\"x{}\"||b\n", "long\n".repeat(15_000));
    let input = format!("{long}{}{long}{}", "s||t\n".repeat(10_000), "u\"v||w\n".repeat(10_000));
    for delimiter in ["||", ","] {
        spec.format.field_delimiter = delimiter.into();
        let decoded = decode_within(&spec, input.replace("||", delimiter).as_bytes(), limits, 7000).unwrap();
        assert_eq!((decoded.rows.len(), decoded.errors.len()), (20_002, 0));
    }
}

#[test]
fn invalid_utf8_costs_a_row_where_the_field_is_used() {
    let input = b"1,ok\n2,b\xffd\n\xff,x\n3,\xe2\x82\n4,\xacx\n";
    let decoded = decode_with(&csv(&["a INT", "b VARCHAR"]), input, 1 << 20, 5).unwrap();
    assert_eq!(decoded.rows, ["1|ok"]);
    assert_eq!(
        decoded.errors[0],
        "line 2 row 1: invalid value 'b\u{fffd}d' for column 2 (b VARCHAR): invalid UTF-8"
    );
    assert_eq!(decoded.errors.len(), 4);
    let mut replacing = csv(&["a INT", "b VARCHAR"]);
    replacing.format.encoding_error_mode = EncodingErrorMode::Replace;
    let decoded = decode_with(&replacing, b"2,b\xffd\n", 1 << 20, 5).unwrap();
    assert_eq!(decoded.rows, ["2|b\u{fffd}d"]);
}

#[test]
fn columns_that_are_not_wanted_are_not_parsed() {
    let mut spec = csv(&["a INT", "b INT", "c INT"]);
    spec.columns.swap(0, 2);
    spec.columns.truncate(1);
    assert_eq!(rows(&spec, "x,y,3\n"), ["3"]);
    spec.columns.clear();
    let decoded = decode(&spec, "x,y,3\nbad\n");
    assert_eq!((decoded.rows.len(), decoded.errors.len()), (1, 1));
}

#[test]
fn tsv_escapes_and_has_no_quotes() {
    let spec = tsv(&["a VARCHAR", "b VARCHAR"]);
    for (input, expected) in [
        ("a\tb\n\"c\t\"d\"\n", vec!["a|b", "\"c|\"d\""]),
        ("\\\\\t\\t\\n\\r\\b\\f\\'\n", vec!["\\|\t\n\r\u{8}\u{c}'"]),
        ("a\\\tb\tc\\\nd\n", vec!["a\tb|c\nd"]),
        ("\\N\tx\\Ny\\q\n", vec!["~|x\\Ny\\q"]),
        ("a\\\\\tb\r\n", vec!["a\\|b"]),
    ] {
        assert_eq!(rows(&spec, input), expected, "{input:?}");
    }
    // EMPTY_FIELD_AS is FIELD_DEFAULT; an empty line is a record.
    let spec = tsv(&["a INT DEFAULT"]);
    assert_eq!(rows(&spec, "1\n\n2\n"), ["1", "?", "2"]);
    assert_eq!(
        errors(&tsv(&["a INT", "b INT"]), "1\\\n\t2\n1\tx\n"),
        ["line 3 row 1: invalid value 'x' for column 2 (b INT): invalid digit"]
    );
}

#[test]
fn variant_text_is_checked_and_kept() {
    let mut spec = csv(&["v VARIANT NOT NULL"]);
    assert_eq!(rows(&spec, "\" {\"\"b\"\": 1.50,  \"\"a\"\":2} \"\n7\n"), ["{\"b\": 1.50,  \"a\":2}", "7"]);
    assert_eq!(
        errors(&spec, "abc\n"),
        ["line 1 row 0: invalid value 'abc' for column 1 (v VARIANT): invalid JSON: expected a value"]
    );
    spec.columns[0].nullable = true;
    spec.cast.invalid_json_as_null = true;
    assert_eq!(rows(&spec, "abc\n1\n"), ["~", "1"]);
}

#[test]
fn casts_follow_the_settings() {
    let mut spec = csv(&["a INT", "t TIMESTAMP"]);
    spec.cast.truncate = true;
    spec.cast.timezone = "Europe/Berlin".into();
    assert_eq!(rows(&spec, "1.9,2024-07-01 12:00:00\n"), ["1|2024-07-01T10:00:00Z"]);
    spec.cast.timezone = "Mars".into();
    assert!(text_decoder(Arc::new(spec)).is_err());
}

#[test]
fn ndjson_values_of_every_type() {
    let spec = ndjson(&[
        "i BIGINT",
        "f FLOAT",
        "d DOUBLE",
        "n DECIMAL(38, 10)",
        "t DATE",
        "ts TIMESTAMP",
        "b BOOLEAN",
        "s VARCHAR",
        "x BINARY",
        "v VARIANT",
        "a ARRAY(VARCHAR)",
        "m MAP(INT, DOUBLE)",
        "o TUPLE(x INT, y ARRAY(INT))",
        "e VECTOR(2)",
    ]);
    let row = r#"{"i":1, "f" :1.5,"d":-2e3,"n":12345678901234567890.0123456789,"t":"2024-02-29","ts":1700000000,"b":true,
        "s":"a\u00e9\ud83d\ude00\n","x":"00FF","v":{"k" : [1, "\u00e9"]},"a":["x",null,1],"m":{"1":2,"3":4.5},"o":{"y":[1,2]},"e":[1,2e0]}"#
        .replace("\n        ", "");
    assert_eq!(
        rows(&spec, &(row + "\n")),
        [
            "1|1.5|-2000.0|12345678901234567890.0123456789|2024-02-29|2023-11-14T22:13:20Z|true|aé😀\n|00ff|{\"k\" : [1, \"\\u00e9\"]}|[x, ~, 1]|{1: 2.0, 3: 4.5}|{x: ~, y: [1, 2]}|[1.0, 2.0]"
        ]
    );
}

#[test]
fn ndjson_scalars_convert() {
    let spec = ndjson(&["i INT", "s VARCHAR", "b BOOLEAN", "d DOUBLE"]);
    assert_eq!(
        rows(
            &spec,
            "{\"i\":\"12\",\"s\":1.50,\"b\":1,\"d\":\"NaN\"}\n{\"i\":1.5,\"s\":{\"a\": 1},\"b\":\"f\",\"d\":3}\n"
        ),
        ["12|1.50|true|NaN", "2|{\"a\": 1}|false|3.0"]
    );
    assert_eq!(
        errors(&spec, "{\"i\":[1],\"s\":true,\"b\":2,\"d\":1}\n"),
        ["line 1 row 0: invalid value '[1]' for column 1 (i INT): invalid digit"]
    );
}

#[test]
fn ndjson_names_match_exactly_then_in_any_case_and_the_last_counts() {
    let spec = ndjson(&["id INT"]);
    for (input, expected) in [
        (r#"{"id":1,"id":2}"#, "2"),
        (r#"{"ID":1}"#, "1"),
        (r#"{"ID":1,"Id":3}"#, "3"),
        (r#"{"id":1,"ID":2}"#, "1"),
        (r#"{"ID":2,"id":1}"#, "1"),
        (r#"{"\u0069d":5}"#, "5"),
        (r#"{"x":{"id":7},"id":4,"y":[{"id":9}]}"#, "4"),
        (r#"{"id" : 6 , "z" : "}" }"#, "6"),
    ] {
        // Twice, so that the second record meets the remembered names.
        assert_eq!(rows(&spec, &format!("{input}\n{input}\n")), [expected, expected], "{input}");
    }
    let mut strict = ndjson(&["id INT"]);
    strict.case_sensitive = true;
    assert_eq!(errors(&strict, "{\"ID\":1}\n"), ["line 1 row 0: missing field 'id' for column 1 (id INT)"]);
    let both = ndjson(&["id INT", "ID INT"]);
    assert_eq!(rows(&both, "{\"ID\":1,\"id\":2}\n"), ["2|1"]);
}

#[test]
fn ndjson_fields_may_come_in_any_order_and_be_left_out() {
    let mut spec = ndjson(&["a INT", "b INT", "c INT"]);
    spec.format.missing_field_as = MissingFieldAs::Null;
    let input = "{\"a\":1,\"b\":2,\"c\":3}\n{\"c\":6,\"a\":4,\"b\":5}\n{\"b\":8}\n{}\n{\"a\":1,\"x\":0,\"c\":3}\n{\"a\":1,\"b\":2,\"c\":3}\n";
    assert_eq!(rows(&spec, input), ["1|2|3", "4|5|6", "~|8|~", "~|~|~", "1|~|3", "1|2|3"]);
}

#[test]
fn where_the_table_takes_new_columns_nullable_fields_may_be_missing_and_unknown_ones_end_the_file() {
    let mut spec = ndjson(&["id INT NOT NULL", "a INT", "b INT DEFAULT"]);
    spec.evolves = true;
    let text = "{\"id\":1,\"A\":2}\n\n{\"b\":null,\"id\":2}\n{\"a\":3}\n";
    for (block, piece) in [(1, 1), (1 << 20, 1 << 20)] {
        let decoded = decode_with(&spec, text.as_bytes(), block, piece).unwrap();
        assert_eq!(decoded.rows, ["1|2|?", "2|~|~"]);
        assert_eq!(decoded.errors, ["line 4 row 2: missing field 'id' for column 1 (id INT)"]);
    }
    for (text, told) in [
        ("{\"id\":1}\n\n{\"id\":2,\"l\\u0061te\":1}\n{\"other\":1}\n", "line 3: field 'late'"),
        ("{\"id\":1,\"x\":null}\n", "line 1: field 'x'"),
        // What is no record has no fields.
        ("{\"x\":1,}\n{\"id\":1,\"late\":{\"id\":2}}\n", "line 2: field 'late'"),
    ] {
        for (block, piece) in [(1, 1), (1 << 20, 1 << 20)] {
            let error = decode_with(&spec, text.as_bytes(), block, piece).unwrap_err();
            assert!(error.message().starts_with(told), "{error}");
            assert_eq!(error.kind(), stevedore_common::ErrorKind::InvalidInput);
        }
    }
    // More names than are remembered.
    let many: String = (0..5_000).map(|n| format!("\"f{n}\":1,")).collect();
    let names: Vec<String> = (0..5_000).map(|n| format!("f{n} INT")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut wide = ndjson(&names);
    wide.evolves = true;
    assert_eq!(
        decode_with(&wide, format!("{{{many}\"F0\":1}}").as_bytes(), 1 << 20, 1 << 20).unwrap().rows.len(),
        1
    );
    let error = decode_with(&wide, format!("{{{many}\"late\":1}}").as_bytes(), 1 << 20, 1 << 20).unwrap_err();
    assert!(error.message().starts_with("line 1: field 'late'"), "{error}");
    spec.evolves = false;
    assert!(decode_with(&spec, b"{\"id\":1,\"a\":1,\"b\":1,\"x\":1}", 1 << 20, 9).unwrap().errors.is_empty());
}

#[test]
fn a_value_that_does_not_fit_what_a_sample_showed_is_no_value_of_the_column() {
    let mut spec = ndjson(&["n BIGINT", "d DOUBLE", "b BOOLEAN", "s VARCHAR", "v VARIANT"]);
    spec.format.missing_field_as = MissingFieldAs::Null;
    spec.format.null_if = vec!["N/A".into()];
    spec.sampled = true;
    let fits = "{\"n\":2,\"d\":1,\"b\":true,\"s\":1.5,\"v\":[1]}\n{\"n\":3.0,\"d\":-2.5,\"s\":\"x\"}\n{\"n\":2e1,\"d\":null}\n\
                {\"n\":\"N/A\"}\n";
    assert_eq!(rows(&spec, fits), ["2|1.0|true|1.5|[1]", "3|-2.5|~|x|~", "20|~|~|~|~", "~|~|~|~|~"]);
    for (field, value, told) in [
        (
            "n",
            "2.5",
            "invalid value '2.5' for column 1 (n BIGINT): the records that its type was taken from have whole",
        ),
        ("n", "2.5e0", "invalid value '2.5e0' for column 1 (n BIGINT)"),
        ("n", "\"12\"", "invalid value '\"12\"' for column 1 (n BIGINT)"),
        ("n", "true", "invalid value 'true' for column 1 (n BIGINT)"),
        ("n", "1e30", "invalid value '1e30' for column 1 (n BIGINT): out of range"),
        (
            "d",
            "\"1.5\"",
            "invalid value '\"1.5\"' for column 2 (d DOUBLE): the records that its type was taken from have num",
        ),
        ("d", "[1]", "invalid value '[1]' for column 2 (d DOUBLE)"),
        (
            "b",
            "1",
            "invalid value '1' for column 3 (b BOOLEAN): the records that its type was taken from have boo",
        ),
    ] {
        let found = errors(&spec, &format!("{{\"{field}\":{value}}}\n"));
        assert!(found.len() == 1 && found[0].contains(told), "{found:?}");
    }
    // Where somebody asked for the type, it is a cast.
    spec.sampled = false;
    assert_eq!(rows(&spec, "{\"n\":2.5,\"d\":\"1.5\",\"b\":1}\n"), ["3|1.5|true|~|~"]);
}

#[test]
fn ndjson_null_and_missing_fields_follow_the_options() {
    let mut spec = ndjson(&["a INT DEFAULT", "b VARCHAR"]);
    assert_eq!(
        errors(&spec, "{\"a\":1}\n{\"b\":null,\"a\":null}\n"),
        ["line 1 row 0: missing field 'b' for column 2 (b VARCHAR)"]
    );
    spec.format.missing_field_as = MissingFieldAs::FieldDefault;
    assert_eq!(rows(&spec, "{}\n{\"a\":null}\n"), ["?|~", "~|~"]);
    spec.format.null_field_as = NullFieldAs::FieldDefault;
    assert_eq!(rows(&spec, "{\"a\":null,\"b\":null}\n"), ["?|~"]);
    spec.format.null_if = vec!["N/A".into(), "".into()];
    assert_eq!(
        rows(&spec, "{\"a\":\"N/A\",\"b\":\"\"}\n{\"a\":\"1\",\"b\":\"N\\u002fA\"}\n"),
        ["~|~", "1|~"]
    );
    let mut whole = ndjson(&["$1 VARIANT"]);
    whole.format.null_if = vec!["N/A".into()];
    assert_eq!(rows(&whole, "{\"b\":\"N/A\",\"a\":[\"N/A\"]}\n"), ["{\"a\":[\"N/A\"],\"b\":null}"]);
}

#[test]
fn ndjson_bad_lines_cost_their_row_only() {
    let decoded = decode(
        &ndjson(&["a INT"]),
        "{\"a\":1}\n{\"a\":\n\n  \r\n[1]\nnull\n{\"a\":2} x\n{\"a\" 3}\n{\"a\":\"x\n{\"a\":01}\n{\"a\":4,}\n{a:1}\n{\"a\":5}",
    );
    assert_eq!(decoded.rows, ["1", "5"]);
    assert_eq!(decoded.numbers, [0, 10]);
    assert_eq!(decoded.lines, [1, 13]);
    assert_eq!(
        decoded.errors,
        [
            "line 2 row 1: invalid JSON at byte 6 of the line: unexpected end of JSON",
            "line 5 row 2: expected an object, one a line",
            "line 6 row 3: expected an object, one a line",
            "line 7 row 4: invalid JSON at byte 9 of the line: unexpected text after the value",
            "line 8 row 5: invalid JSON at byte 6 of the line: expected ':'",
            "line 9 row 6: invalid JSON at byte 8 of the line: unclosed string",
            "line 10 row 7: invalid JSON at byte 6 of the line: invalid number",
            "line 11 row 8: invalid JSON at byte 8 of the line: expected a field name in quotes",
            "line 12 row 9: invalid JSON at byte 2 of the line: expected a field name in quotes",
        ]
    );
}

#[test]
fn ndjson_nesting_and_surrogates() {
    let spec = ndjson(&["v VARIANT"]);
    let deep = format!("{{\"v\":{}{}}}\n", "[".repeat(200), "]".repeat(200));
    assert_eq!(
        errors(&spec, &deep),
        ["line 1 row 0: invalid JSON at byte 134 of the line: nested too deeply"]
    );
    assert_eq!(
        errors(&ndjson(&["s VARCHAR"]), "{\"s\":\"\\ud800\"}\n"),
        [
            "line 1 row 0: invalid value '\\ud800' for column 1 (s VARCHAR): half of a surrogate pair in a \\u escape"
        ]
    );
}

#[test]
fn ndjson_whole_rows_have_sorted_keys() {
    assert_eq!(
        rows(&ndjson(&["$1 VARIANT", "b INT"]), "{\"b\" : 1, \"a\":{\"z\":1,\"y\":[ 2 ]}, \"b\":3}\n"),
        ["{\"a\":{\"y\":[2],\"z\":1},\"b\":3}|3"]
    );
}

#[test]
fn composite_errors_cost_the_row_and_keep_the_arrays_whole() {
    let spec = ndjson(&["a ARRAY(INT)", "m MAP(INT, INT)", "o TUPLE(x INT, y INT)", "e VECTOR(2)"]);
    let good = r#"{"a":[1],"m":{"1":2},"o":{"x":1,"y":2},"e":[1,2]}"#;
    let input = [
        good,
        r#"{"a":[1,"x"],"m":{},"o":{},"e":[1,2]}"#,
        r#"{"a":[],"m":{"k":1},"o":{},"e":[1,2]}"#,
        r#"{"a":[],"m":{"1":"v"},"o":{"x":"q","y":1},"e":[1,2]}"#,
        r#"{"a":[],"m":{},"o":{"x":"q","y":1},"e":[1,2]}"#,
        r#"{"a":[],"m":{},"o":[1,2],"e":[1]}"#,
        r#"{"a":[],"m":{},"o":[1,2],"e":[1,null]}"#,
        r#"{"a":5,"m":null,"o":[1,2],"e":"[1,2]"}"#,
        r#"{"a":"[5]","m":"{\"1\":1}","o":[1,2],"e":"[1,2]"}"#,
        good,
    ]
    .join("\n");
    let decoded = decode(&spec, &input);
    let whole = "[1]|{1: 2}|{x: 1, y: 2}|[1.0, 2.0]";
    assert_eq!(decoded.rows, [whole, "[5]|{1: 1}|{x: 1, y: 2}|[1.0, 2.0]", whole]);
    assert_eq!(decoded.errors.len(), 7, "{:?}", decoded.errors);
    assert!(decoded.errors[4].contains("the number of elements is not the dimension of the vector"));
}

#[test]
fn untyped_columns_and_wrong_sources() {
    let mut spec = csv(&["a INT"]);
    spec.columns[0].ty = None;
    assert_eq!(rows(&spec, "x\n"), ["x"]);
    spec.columns[0].source = ColumnSource::Name("a".into());
    assert!(text_decoder(Arc::new(spec)).is_err());
    let mut spec = ndjson(&["a INT"]);
    spec.columns[0].ty = None;
    assert_eq!(rows(&spec, "{\"a\":\"x\"}\n"), ["\"x\""]);
    spec.columns[0].source = ColumnSource::Position(0);
    assert!(text_decoder(Arc::new(spec)).is_err());
    assert!(text_decoder(Arc::new(self::spec(FormatKind::Parquet, &["a INT"]))).is_err());
}

#[test]
fn batches_are_of_the_types_asked_for_and_no_larger() {
    let mut spec = csv(&["n DECIMAL(5, 1)", "e VECTOR(1)", "v VARIANT"]);
    spec.batch_rows = 2;
    let decoder = text_decoder(Arc::new(spec.clone())).unwrap();
    let bytes = b"1.25,[1],1\n2,[2],2\nx,[3],3\n4,[4],4\n5,[5],5\n"[..].into();
    let batches = decoder
        .decode(TextBlock { bytes, first_line: 10, last_line: 14, input_bytes: 100, elements: None })
        .unwrap();
    assert_eq!(batches.iter().map(|b| b.batch.num_rows()).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(batches.iter().map(|b| b.input_bytes).sum::<u64>(), 100);
    assert_eq!(batches[1].row_numbers, [3]);
    assert_eq!(batches[1].lines, [13]);
    assert_eq!(batches[0].batch.schema(), spec.text_schema());
    assert_eq!(*batches[0].batch.column(0).data_type(), DataType::Decimal128(5, 1));
    assert_eq!(batches[0].batch.column(0).as_primitive::<Decimal128Type>().value(0), 13);
    let vectors = batches[2].batch.column(1).as_fixed_size_list();
    assert_eq!(vectors.value(0).as_primitive::<Float32Type>().value(0), 5.0);
}

#[test]
fn compressed_and_transcoded_input() {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"1,caf\xe9\n2,x\n").unwrap();
    let packed = encoder.finish().unwrap();
    let mut spec = csv(&["a INT", "b VARCHAR"]);
    spec.format.compression = Compression::Gzip;
    spec.format.encoding = "latin1".into();
    for piece in [1, 1000] {
        let decoded = decode_with(&spec, &packed, 4, piece).unwrap();
        assert_eq!(decoded.rows, ["1|café", "2|x"]);
        assert_eq!(decoded.input_bytes, packed.len() as u64);
    }
    assert_eq!(rows(&csv(&["a INT"]), "\u{feff}1\n"), ["1"]);
}

#[test]
fn bytes_that_are_no_text_cost_their_row_in_every_encoding() {
    let mut text = "1,\u{4f60}\n".repeat(1000).into_bytes();
    let (mut gbk, bad) =
        (encoding_rs::GBK.encode(&String::from_utf8(text.clone()).unwrap()).0.into_owned(), b"2,\xff\xff\n");
    gbk.extend_from_slice(bad);
    gbk.extend_from_slice(b"3,x\n");
    text.extend_from_slice(bad);
    text.extend_from_slice(b"3,x\n");
    let (mut rows, mut errors) = (vec!["1|\u{4f60}"; 1000], Vec::new());
    rows.push("3|x");
    for (encoding, text) in [("UTF-8", text), ("GBK", gbk)] {
        let mut spec = csv(&["a INT", "b VARCHAR"]);
        spec.format.encoding = encoding.into();
        let decoded = decode_with(&spec, &text, 4000, 777).unwrap();
        assert_eq!(decoded.rows, rows, "{encoding}");
        errors.extend(decoded.errors);
    }
    let error = "line 1001 row 1000: invalid value '\u{fffd}\u{fffd}' for column 2 (b VARCHAR): invalid";
    assert_eq!(errors, [format!("{error} UTF-8"), format!("{error} GBK")]);
    let mut nested = ndjson(&["a ARRAY(VARCHAR)", "b INT"]);
    nested.format.encoding = "big5".into();
    let decoded =
        decode_with(&nested, b"{\"a\":[\"\x81\"],\"b\":1}\n{\"a\":[],\"b\":2}\n", 100, 100).unwrap();
    assert_eq!(decoded.rows, ["[]|2"]);
    assert!(decoded.errors[0].ends_with("invalid Big5"), "{:?}", decoded.errors);
}

/// Decodes a file in parts and puts the rows together.
fn decode_parts(spec: &DecodeSpec, input: &[u8], cuts: &[u64], piece: usize) -> Vec<String> {
    let decoder = text_decoder(Arc::new(spec.clone())).unwrap();
    let mut bounds = vec![0];
    bounds.extend(cuts.iter().map(|cut| cut % (input.len() as u64 + 1)));
    bounds.push(input.len() as u64);
    bounds.sort_unstable();
    let mut rows = Vec::new();
    for part in bounds.windows(2) {
        let limits = TextLimits { block_bytes: 16, ..TextLimits::default() };
        let mut cutter = BlockCutter::for_range(&spec.format, limits, part[0], part[1]).unwrap();
        let mut blocks = Vec::new();
        let mut each = |block| {
            blocks.push(block);
            Ok(())
        };
        for piece in input[cutter.read_from() as usize..].chunks(piece) {
            if cutter.is_done() {
                break;
            }
            cutter.push(piece, &mut each).unwrap();
        }
        cutter.finish(&mut each).unwrap();
        let decoded = collect(&*decoder, blocks, usize::MAX).unwrap();
        rows.extend(decoded.rows);
        rows.extend(decoded.errors.into_iter().map(|e| e.split_once(": ").unwrap().1.to_owned()));
    }
    rows
}

fn csv_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        proptest::sample::select(vec![
            "1",
            "-22",
            "x",
            ",",
            ",",
            "\n",
            "\n",
            "\r\n",
            "\"",
            "\"\"",
            "\\",
            " ",
            "\\N",
            "é",
            "some longer text",
            "{\"a\":1}",
            "\"q\"",
            "\"q,\nq\"",
        ]),
        0..120,
    )
    .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn csv_cut_anywhere_gives_the_same(
        text in csv_text(), block in 1usize..200, piece in 1usize..100,
        escape: bool, trim: bool, wide: bool, header in 0u64..3,
    ) {
        let mut spec = csv(&["a VARCHAR", "b INT"]);
        spec.format.escape = escape.then_some('\\');
        spec.format.trim_space = trim;
        spec.format.skip_header = header;
        if wide { spec.format.field_delimiter = ",,".into(); }
        let whole = decode_with(&spec, text.as_bytes(), 1 << 20, 1 << 20).unwrap();
        prop_assert_eq!(decode_with(&spec, text.as_bytes(), block, piece).unwrap(), whole);
    }

    #[test]
    fn tsv_cut_anywhere_gives_the_same(text in csv_text(), block in 1usize..200, piece in 1usize..100, cuts in proptest::collection::vec(any::<u64>(), 0..4)) {
        let mut spec = tsv(&["a VARCHAR", "b INT"]);
        spec.format.field_delimiter = ",".into();
        spec.format.error_on_column_count_mismatch = false;
        spec.columns[1].ty = Some(SqlType::String);
        let whole = decode_with(&spec, text.as_bytes(), 1 << 20, 1 << 20).unwrap();
        prop_assert_eq!(&decode_with(&spec, text.as_bytes(), block, piece).unwrap(), &whole);
        prop_assert_eq!(decode_parts(&spec, text.as_bytes(), &cuts, piece), whole.rows);
    }

    #[test]
    fn ndjson_parts_are_the_whole(
        values in proptest::collection::vec(proptest::option::of(any::<u32>()), 0..30),
        cuts in proptest::collection::vec(any::<u64>(), 0..5), piece in 1usize..100, bom: bool,
    ) {
        let lines = values.iter().map(|v| v.map_or("\n".to_owned(), |v| format!("{{\"a\":{v}}}\n")));
        let text: String = bom.then(|| "\u{feff}".to_owned()).into_iter().chain(lines).collect();
        let expected: Vec<String> = values.iter().flatten().map(u32::to_string).collect();
        prop_assert_eq!(decode_parts(&ndjson(&["a BIGINT"]), text.as_bytes(), &cuts, piece), expected);
    }

    #[test]
    fn csv_written_plainly_reads_back(
        table in proptest::collection::vec((any::<Option<i64>>(), "[a-c,\"\n\r é]{0,12}", any::<Option<bool>>()), 0..40),
        quote_all: bool, block in 1usize..300,
    ) {
        let mut text = String::new();
        for (a, b, c) in &table {
            let quoted = quote_all || b.is_empty() || b.contains(['"', ',', '\n', '\r']);
            let b = if quoted { format!("\"{}\"", b.replace('"', "\"\"")) } else { b.clone() };
            let a = a.map_or(String::new(), |a| a.to_string());
            let c = c.map_or(String::new(), |c| c.to_string());
            text.push_str(&format!("{a},{b},{c}\r\n"));
        }
        let decoded = decode_with(&csv(&["a BIGINT", "b VARCHAR", "c BOOLEAN"]), text.as_bytes(), block, 50).unwrap();
        let show = |value: Option<String>| value.unwrap_or("~".into());
        let expected: Vec<String> = table
            .iter()
            .map(|(a, b, c)| format!("{}|{b}|{}", show(a.map(|a| a.to_string())), show(c.map(|c| c.to_string()))))
            .collect();
        prop_assert_eq!(decoded.errors, Vec::<String>::new());
        prop_assert_eq!(decoded.rows, expected);
    }

    #[test]
    fn ndjson_written_by_serde_reads_back(
        table in proptest::collection::vec((any::<i64>(), ".{0,20}", any::<Option<bool>>(), any::<u8>()), 0..30), block in 1usize..300,
    ) {
        let mut text = String::new();
        for (a, b, c, order) in &table {
            let fields = [
                format!("\"a\":{a}"),
                format!("\"b\": {}", serde_json::to_string(b).unwrap()),
                format!("\"c\" :{}", serde_json::to_string(c).unwrap()),
                "\"unknown\":{\"x\":[1,{}]}".to_owned(),
            ];
            let shift = usize::from(*order) % 4;
            let fields: Vec<_> = fields[shift..].iter().chain(&fields[..shift]).cloned().collect();
            text.push_str(&format!("{{{}}}\n", fields.join(" , ")));
        }
        let decoded = decode_with(&ndjson(&["a BIGINT", "b VARCHAR", "c BOOLEAN"]), text.as_bytes(), block, 50).unwrap();
        let expected: Vec<String> =
            table.iter().map(|(a, b, c, _)| format!("{a}|{b}|{}", c.map_or("~".into(), |c| c.to_string()))).collect();
        prop_assert_eq!(decoded.errors, Vec::<String>::new());
        prop_assert_eq!(decoded.rows, expected);
    }

    #[test]
    fn any_bytes_are_rows_or_errors(text in proptest::collection::vec(any::<u8>(), 0..300), block in 1usize..200, compressed: bool) {
        for mut spec in [csv(&["a INT", "v VARIANT"]), tsv(&["a VARCHAR"]), ndjson(&["a ARRAY(INT)"])] {
            let _ = decode_with(&spec, &text, block, 7).unwrap();
            spec.format.encoding = "gbk".into();
            let _ = decode_with(&spec, &text, block, 7);
            if compressed {
                for codec in [Compression::Gzip, Compression::Bz2, Compression::Brotli, Compression::Zstd, Compression::Deflate, Compression::RawDeflate, Compression::Xz, Compression::Zip] {
                    spec.format.compression = codec;
                    let _ = decode_with(&spec, &text, block, 7);
                }
            }
        }
    }

    #[test]
    fn broken_json_is_never_more_than_a_row(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "{", "}", "[", "]", ":", ",", "\"a\"", "\"b\"", "\"", "\\", "1", "-", "null", "true", "\n", " ", "\\u12", "e5",
    ]), 0..60)) {
        let spec = ndjson(&["a VARIANT", "b TUPLE(a INT)", "$1 VARIANT"]);
        let _ = decode_with(&spec, pieces.concat().as_bytes(), 30, 11).unwrap();
    }
}

#[test]
fn records_before_a_damaged_place_are_given() {
    let mut packed = Vec::new();
    for text in ["1,a\n2,\"b\n,\"\n", "3,"] {
        let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    packed.extend_from_slice(b"no gzip");
    let mut spec = csv(&["a INT", "b VARCHAR"]);
    spec.format.compression = Compression::Gzip;
    for piece in [1, 1000] {
        let limits = TextLimits { block_bytes: 1 << 20, max_record_bytes: 1 << 20 };
        let mut input =
            TextInput::new(&spec.format, Compression::Gzip, DecompressLimits::default(), limits).unwrap();
        let mut blocks = Vec::new();
        let mut each = |block| {
            blocks.push(block);
            Ok(())
        };
        let pushed =
            packed.chunks(piece).try_for_each(|piece| input.push(&Bytes::copy_from_slice(piece), &mut each));
        assert!(pushed.unwrap_err().to_string().contains("damaged"));
        let decoder = text_decoder(Arc::new(spec.clone())).unwrap();
        assert_eq!(collect(&*decoder, blocks, usize::MAX).unwrap().rows, ["1|a", "2|b\n,"]);
    }
}

#[test]
fn what_is_held_of_a_block_has_a_limit_however_much_its_text_becomes() {
    const MIB: usize = 1 << 20;
    let names: Vec<String> = (0..1000).map(|n| format!("c{n} BIGINT")).collect();
    let wide: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut nulls = ndjson(&wide);
    nulls.format.missing_field_as = MissingFieldAs::Null;
    let errors = tsv(&["a INT", "b INT"]);
    for (spec, text, rows) in [(nulls, "{}\n".repeat(6000), 6000), (errors, "\n".repeat(400_000), 400_000)] {
        let blocks = blocks_within(&spec, text.as_bytes(), TextLimits::default(), MIB).unwrap();
        let decoder = text_decoder(Arc::new(spec)).unwrap();
        let (mut blocks, mut seen, mut all): (VecDeque<TextBlock>, _, _) = (blocks.into(), 0, 0);
        while let Some(block) = blocks.pop_front() {
            let (batches, rest) = decoder.decode_some(block, 4 * MIB).unwrap();
            let bytes: usize = batches.iter().map(DecodedBatch::memory_bytes).sum();
            assert!(bytes < 16 * MIB, "{bytes} bytes are held");
            all += bytes;
            seen += batches.iter().map(|batch| batch.lines.len() + batch.errors.len()).sum::<usize>();
            rest.into_iter().for_each(|rest| blocks.push_front(rest));
        }
        assert_eq!(seen, rows);
        assert!(all > 24 * MIB, "{all} bytes in all: that much is never held at once");
    }
}

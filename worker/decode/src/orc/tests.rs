#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::Field;
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use orc_rust::ArrowWriterBuilder;
use proptest::prelude::*;
use stevedore_common::error::{ErrorKind, Result};
use stevedore_common::file_format::{FileFormat, FormatKind, MissingFieldAs};
use stevedore_common::types::SqlType;

use super::*;
use crate::spec::{ColumnSource, DecodeSpec, DecodedBatch, OutputColumn};

fn column(name: &str, ty: Option<&str>) -> OutputColumn {
    OutputColumn {
        name: name.into(),
        ty: ty.map(|ty| SqlType::parse(ty).unwrap()),
        source: ColumnSource::Name(name.into()),
        nullable: true,
        has_default: false,
    }
}

fn whole_row() -> OutputColumn {
    OutputColumn { source: ColumnSource::WholeRow, ..column("$1", None) }
}

fn spec(columns: Vec<OutputColumn>) -> DecodeSpec {
    DecodeSpec::new(FileFormat::defaults(FormatKind::Orc), columns)
}

/// Files that another implementation wrote: see `testdata/write.py`.
macro_rules! testdata {
    ($name:literal) => {
        Bytes::from_static(include_bytes!(concat!("testdata/", $name)))
    };
}

fn people() -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 300, 4, 5]));
    let name: ArrayRef = Arc::new(StringArray::from(vec![Some("10"), None, Some("x"), Some(""), Some("7")]));
    RecordBatch::try_from_iter_with_nullable([("Id", id, false), ("name", name, true)]).unwrap()
}

fn write(batch: &RecordBatch, stripe_bytes: usize) -> Bytes {
    let mut bytes = Vec::new();
    let builder = ArrowWriterBuilder::new(&mut bytes, batch.schema()).with_stripe_byte_size(stripe_bytes);
    let mut writer = builder.try_build().unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

fn metadata(file: &Bytes) -> Result<OrcMetadata> {
    let size = file.len() as u64;
    let mut wanted = TAIL_BYTES.min(size);
    loop {
        match read_tail(size, &file.slice((size - wanted) as usize..))? {
            Tail::Ready(metadata) => return Ok(metadata),
            Tail::Need(more) => {
                assert!(more > wanted && more <= size);
                wanted = more;
            }
        }
    }
}

/// Decodes a stripe, and says how many bytes of the file were fetched.
fn decode_stripe(file: &Bytes, orc: &Arc<OrcFile>, task: &StripeTask) -> Result<(Vec<DecodedBatch>, u64)> {
    let fetch = |range: &std::ops::Range<u64>| file.slice(range.start as usize..range.end as usize);
    let mut fetched = Vec::new();
    if let Some(first) = &task.first_range {
        let bytes = fetch(first);
        let streams = orc.streams(task, &bytes)?;
        fetched.push((first.clone(), bytes));
        fetched.extend(streams.into_iter().map(|range| (range.clone(), fetch(&range))));
    }
    let bytes = fetched.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    Ok((orc.decode_stripe(task, fetched)?.collect::<Result<_>>()?, bytes))
}

fn decode(file: &Bytes, spec: &DecodeSpec) -> Result<Vec<DecodedBatch>> {
    let orc = Arc::new(OrcFile::open(metadata(file)?, spec)?);
    let mut batches = Vec::new();
    for task in orc.plan(None) {
        batches.extend(decode_stripe(file, &orc, &task)?.0);
    }
    Ok(batches)
}

/// The good rows as text, and the errors as `line: message`.
fn shown(batches: &[DecodedBatch]) -> (Vec<Vec<String>>, Vec<String>) {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for decoded in batches {
        for row in 0..decoded.batch.num_rows() {
            let show = |array: &ArrayRef| {
                if array.is_null(row) {
                    return "NULL".into();
                }
                let field = Field::new("", array.data_type().clone(), true);
                let one = array.slice(row, 1);
                let text = crate::cast::try_cast(&one, &field, &SqlType::String, &Default::default());
                array_value_to_string(&text.unwrap(), 0).unwrap()
            };
            rows.push(decoded.batch.columns().iter().map(show).collect());
        }
        errors.extend(decoded.errors.iter().map(|e| format!("{}: {}", e.line, e.message)));
    }
    (rows, errors)
}

fn read(file: &Bytes, spec: &DecodeSpec) -> (Vec<Vec<String>>, Vec<String>) {
    shown(&decode(file, spec).unwrap())
}

#[test]
fn every_codec_is_read() {
    for file in [
        testdata!("people_uncompressed.orc"),
        testdata!("people_zlib.orc"),
        testdata!("people_snappy.orc"),
        testdata!("people_lz4.orc"),
        testdata!("people_zstd.orc"),
        write(&people(), 1 << 20),
    ] {
        let (rows, errors) = read(&file, &spec(vec![column("ID", Some("INT")), column("name", None)]));
        assert_eq!(rows, [["1", "10"], ["2", "NULL"], ["300", "x"], ["4", ""], ["5", "7"]]);
        assert!(errors.is_empty());
        assert_eq!(read(&file, &spec(vec![column("name", None)])).0.concat(), ["10", "NULL", "x", "", "7"]);
    }
}

#[test]
fn a_value_that_does_not_fit_costs_its_row() {
    let mut wanted = spec(vec![column("id", Some("TINYINT")), column("name", Some("INT"))]);
    wanted.columns[1].nullable = false;
    wanted.batch_rows = 2;
    let batches = decode(&testdata!("people_zlib.orc"), &wanted).unwrap();
    assert_eq!(batches.len(), 3);
    let (rows, errors) = shown(&batches);
    assert_eq!(rows, [["1", "10"], ["5", "7"]]);
    assert_eq!(
        errors,
        [
            "2: NULL is not allowed for column 2 (name INT NOT NULL)",
            "3: invalid value '300' for column 1 (id TINYINT): out of range",
            "4: invalid value '' for column 2 (name INT): invalid digit",
        ]
    );
    assert_eq!(batches[2].row_numbers, [4]);
}

#[test]
fn columns_are_found_by_name_and_missing_ones_as_the_format_says() {
    let file = testdata!("people_zlib.orc");
    let error = decode(&file, &spec(vec![column("nope", None)])).unwrap_err().to_string();
    assert!(error.contains("column 'nope' is not in the file, which has: Id, name"), "{error}");
    let mut wanted = spec(vec![column("nope", Some("INT")), column("Id", None)]);
    wanted.format.missing_field_as = MissingFieldAs::FieldDefault;
    wanted.columns[0].has_default = true;
    let batches = decode(&file, &wanted).unwrap();
    assert_eq!(shown(&batches).0[0], ["NULL", "1"]);
    assert!(batches[0].defaulted[0].is_some());
    let counted = decode(&file, &spec(vec![])).unwrap();
    assert_eq!(counted.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), 5);
}

#[test]
fn every_type_has_a_natural_one_and_its_values() {
    let file = testdata!("types.orc");
    let schema = file_schema(&metadata(&file).unwrap()).unwrap();
    let types: Vec<String> = schema.iter().map(|(name, ty, _)| format!("{name} {ty}")).collect();
    assert_eq!(
        types,
        [
            "flag BOOLEAN",
            "tiny TINYINT",
            "small SMALLINT",
            "int INT",
            "big BIGINT",
            "real FLOAT",
            "double DOUBLE",
            "text VARCHAR",
            "bytes BINARY",
            "dec DECIMAL(7, 2)",
            "wide DECIMAL(38, 0)",
            "day DATE",
            "local TIMESTAMP",
            "instant TIMESTAMP",
            "list ARRAY(INT)",
            "map MAP(VARCHAR, BIGINT)",
            "point TUPLE(x DOUBLE, y FLOAT)",
            "deep ARRAY(TUPLE(at TIMESTAMP, tags ARRAY(VARCHAR)))"
        ]
    );
    let mut wanted = spec(schema.iter().map(|(name, ..)| column(name, None)).collect());
    wanted.cast.timezone = "Asia/Tokyo".into();
    let (rows, errors) = read(&file, &wanted);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(rows[0][..8], ["true", "1", "1", "1", "1", "1.5", "1.5", "a"]);
    assert_eq!(
        rows[0][9..],
        [
            "-1.25",
            "10000000000000000000000000000000000000",
            "2022-01-08",
            "2023-11-14 13:13:20.123456",
            "2023-11-14 22:13:20.000001",
            "[1,null,3]",
            r#"{"k":1,"l":null}"#,
            r#"{"x":1.5,"y":2.5}"#,
            r#"[{"at":"2019-12-31 15:00:00.000000","tags":["a"]}]"#
        ]
    );
    assert_eq!(rows[1][1..5], ["-128", "-32768", "-2147483648", "-9223372036854775808"]);
    assert_eq!(rows[1][11..14], ["1900-02-28", "1969-12-30 15:00:00.000000", "9999-12-31 23:59:59.000000"]);
    assert_eq!(rows[2][1..], vec!["NULL"; 17]);
    let (whole, _) = read(&file, &spec(vec![whole_row()]));
    let whole: serde_json::Value = serde_json::from_str(&whole[1][0]).unwrap();
    assert_eq!(whole["point"]["y"], 0.5);
    assert_eq!(whole["deep"], serde_json::json!([]));
    assert_eq!(whole.as_object().unwrap().len(), 18);
}

#[test]
fn unions_are_variants() {
    let file = testdata!("union.orc");
    let (rows, _) = read(&file, &spec(vec![column("u", None), column("n", None)]));
    assert_eq!(rows, [["7", "1"], [r#""t""#, "2"], ["NULL", "3"], [r#""u""#, "4"]]);
    let (rows, _) = read(&file, &spec(vec![column("u", Some("VARCHAR"))]));
    assert_eq!(rows.concat(), ["7", "t", "NULL", "u"]);
}

#[test]
fn lists_of_every_length_are_read() {
    let file = testdata!("lists.orc");
    let batches = decode(&file, &spec(vec![column("l", None)])).unwrap();
    let lengths: Vec<usize> = batches
        .iter()
        .flat_map(|batch| batch.batch.column(0).as_list::<i32>().iter().map(|list| list.unwrap().len()))
        .collect();
    let expected = std::iter::repeat_n(3, 50)
        .chain(0..100)
        .chain((0..300).map(|i| i * 7919 % 13))
        .chain((0..300).map(|i| if i % 60 == 7 { 2000 } else { i % 5 }));
    assert!(lengths.into_iter().eq(expected));
}

/// Arrow C++ writes -1 ns as second 0 and nanosecond -1.
#[test]
fn nanoseconds_below_zero_are_refused_rather_than_taken_for_another_instant() {
    let file = testdata!("before_1970.orc");
    let error = decode(&file, &spec(vec![column("at", None)])).unwrap_err().to_string();
    assert!(error.contains("column 'at' has timestamps with nanoseconds below 0"), "{error}");
    assert_eq!(decode(&file, &spec(vec![column("id", None)])).unwrap()[0].batch.num_rows(), 2);
}

/// Stripes of about 1.7 MB.
fn striped() -> Bytes {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..60_000));
    let text = (0..60_000u64).map(|n| format!("{:064x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(text));
    write(&RecordBatch::try_from_iter([("n", n), ("text", text)]).unwrap(), 1_700_000)
}

#[test]
fn stripes_are_read_apart_and_only_the_streams_of_wanted_columns_are_fetched() {
    let file = striped();
    let size = file.len() as u64;
    let orc = Arc::new(OrcFile::open(metadata(&file).unwrap(), &spec(vec![column("n", None)])).unwrap());
    let all = orc.plan(None);
    assert!(all.len() >= 2, "{}", all.len());
    let mut numbers = Vec::new();
    let mut fetched = 0;
    for task in &all {
        let (batches, bytes) = decode_stripe(&file, &orc, task).unwrap();
        let (rows, _) = shown(&batches);
        assert_eq!(rows[0], [task.first_row.to_string()]);
        assert_eq!(rows.len() as u64, task.rows);
        numbers.extend(batches.iter().flat_map(|batch| batch.row_numbers.clone()));
        let counted: u64 = batches.iter().map(|batch| batch.input_bytes).sum();
        assert_eq!(counted, task.input_bytes);
        fetched += bytes;
    }
    assert!(numbers.into_iter().eq(0..60_000));
    assert!(fetched < size / 4, "{fetched} of {size}");
    let halves: Vec<StripeTask> =
        [0..size / 2, size / 2..size].into_iter().flat_map(|range| orc.plan(Some(range))).collect();
    assert_eq!(halves, all);
    let (rows, _) = read(&file, &spec(vec![column("text", None), column("n", None)]));
    assert_eq!(
        rows[59_999],
        [format!("{:064x}", 59_999u64.wrapping_mul(0x9E37_79B9_7F4A_7C15)), "59999".into()]
    );
}

#[test]
fn files_that_are_none_are_told() {
    for bytes in [b"PAR1....PAR1".as_slice(), b"id,name\n", b"O", b"ORC", &[0; 600]] {
        let error = metadata(&Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData);
        assert!(error.to_string().contains("not an ORC file"), "{error}");
    }
    for whole in [testdata!("people_zlib.orc"), testdata!("types.orc")] {
        for length in 0..whole.len() {
            assert!(decode(&whole.slice(..length), &spec(vec![whole_row()])).is_err(), "{length}");
        }
    }
    // A beginning that is cut off moves the stripes out of the file.
    let late = testdata!("types.orc").slice(200..);
    let error = decode(&late, &spec(vec![whole_row()])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadData);
    assert!(error.to_string().contains("of the ORC file is damaged"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Bytes changed in the tail or in what is compressed: rows or an error, never a panic that leaves
    /// the decoder.
    #[test]
    fn damage_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), which in 0..3) {
        let whole = match which {
            0 => testdata!("people_zlib.orc"),
            1 => testdata!("types.orc"),
            // Not compressed, so that damage reaches the numbers.
            _ => testdata!("lists.orc"),
        };
        let mut bytes = whole.to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = decode(&bytes.into(), &spec(vec![whole_row()])).map(|batches| shown(&batches));
    }
}

#[test]
fn long_texts_come_in_short_batches_and_larger_ones_than_are_read_are_refused() {
    const MIB: usize = 1 << 20;
    let shorts = (0..5000).map(|n| n.to_string());
    let texts = StringArray::from_iter_values(shorts.chain((0..150).map(|_| "x".repeat(MIB))));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5150));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", Arc::new(texts) as ArrayRef)]).unwrap();
    let file = write(&batch, 1 << 30);
    let mut spec = spec(vec![column("id", Some("BIGINT")), column("text", Some("VARCHAR"))]);
    let batches = decode(&file, &spec).unwrap();
    let mut next = 0;
    for batch in &batches {
        let taken = batch.memory_bytes();
        // A builder may have twice the room that it needs.
        assert!(taken < 70 * MIB, "a batch of {taken} bytes");
        for id in batch.batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values() {
            assert_eq!(*id, next);
            next += 1;
        }
    }
    assert_eq!(next, 5150);
    spec.max_block_bytes = MIB - 1;
    let error = decode(&file, &spec).unwrap_err().to_string();
    assert!(
        error.contains("column 'text' has a value of 1048576 bytes, at most 1048575 are read"),
        "{error}"
    );
}

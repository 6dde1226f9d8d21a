#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::Field;
use arrow::util::display::array_value_to_string;
use arrow_avro::writer::AvroWriter;
use proptest::prelude::*;
use serde_json::{Value, json};
use stevedore_common::error::{ErrorKind, Result};
use stevedore_common::file_format::{FileFormat, FormatKind, OptionValue};
use stevedore_common::types::SqlType;

use super::header::write_long;
use super::*;
use crate::spec::{ColumnSource, DecodeSpec, DecodedBatch, OutputColumn};

fn format(options: &[(&str, &str)]) -> FileFormat {
    let mut all = vec![("TYPE".to_owned(), OptionValue::Text("AVRO".into()))];
    all.extend(options.iter().map(|(k, v)| ((*k).to_owned(), OptionValue::Text((*v).to_owned()))));
    FileFormat::from_options(&all).unwrap()
}

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
    DecodeSpec::new(FileFormat::defaults(FormatKind::Avro), columns)
}

/// A record as Avro writes it.
#[derive(Default)]
struct Rec(Vec<u8>);

impl Rec {
    fn long(mut self, value: i64) -> Self {
        write_long(value, &mut self.0);
        self
    }
    fn text(self, text: impl AsRef<[u8]>) -> Self {
        let mut next = self.long(text.as_ref().len() as i64);
        next.0.extend_from_slice(text.as_ref());
        next
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

const SYNC: [u8; 16] = *b"0123456789abcdef";

fn compress(codec: &str, data: &[u8]) -> Vec<u8> {
    match codec {
        "null" => data.to_vec(),
        "deflate" => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "snappy" => {
            let mut packed = snap::raw::Encoder::new().compress_vec(data).unwrap();
            packed.extend_from_slice(&crc32fast::hash(data).to_be_bytes());
            packed
        }
        "zstandard" => zstd::encode_all(data, 3).unwrap(),
        "bzip2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 3);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        other => panic!("{other}"),
    }
}

/// A file of blocks of records.
fn file(schema: &Value, codec: &str, blocks: &[Vec<Rec>]) -> Vec<u8> {
    let mut out = Rec(b"Obj\x01".to_vec())
        .long(2)
        .text("avro.schema")
        .text(schema.to_string())
        .text("avro.codec")
        .text(codec)
        .long(0)
        .raw(&SYNC);
    for block in blocks {
        let data: Vec<u8> = block.iter().flat_map(|record| record.0.clone()).collect();
        out = out.long(block.len() as i64).text(compress(codec, &data)).raw(&SYNC);
    }
    out.0
}

fn record(fields: Value) -> Value {
    json!({"type": "record", "name": "r", "namespace": "x.y", "fields": fields})
}

/// Decodes a file given in chunks of some bytes.
fn decode_in(file: &[u8], spec: &DecodeSpec, chunk: usize) -> Result<Vec<DecodedBatch>> {
    let header = read_header(file, true)?.unwrap();
    let avro = Arc::new(AvroFile::open(&header, spec)?);
    let mut cutter = BlockCutter::new(&header, spec);
    let mut groups = Vec::new();
    for chunk in file.chunks(chunk) {
        cutter.push(chunk, &mut groups)?;
    }
    cutter.finish(&mut groups)?;
    let mut batches = Vec::new();
    for group in groups {
        for batch in avro.decode(group) {
            batches.push(batch?);
        }
    }
    Ok(batches)
}

fn decode(file: &[u8], spec: &DecodeSpec) -> Result<Vec<DecodedBatch>> {
    decode_in(file, spec, 1 << 20)
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

fn read(file: &[u8], spec: &DecodeSpec) -> (Vec<Vec<String>>, Vec<String>) {
    shown(&decode(file, spec).unwrap())
}

fn people_schema() -> Value {
    record(json!([
        {"name": "Id", "type": "long"},
        {"name": "name", "type": ["null", "string"], "default": null},
    ]))
}

fn person(id: i64, name: Option<&str>) -> Rec {
    match name {
        None => Rec::default().long(id).long(0),
        Some(name) => Rec::default().long(id).long(1).text(name),
    }
}

fn people(codec: &str) -> Vec<u8> {
    let blocks = [
        vec![person(1, Some("10")), person(2, None)],
        vec![person(300, Some("x")), person(4, Some("")), person(5, Some("7"))],
    ];
    file(&people_schema(), codec, &blocks)
}

#[test]
fn every_codec_is_read_in_chunks_of_any_size() {
    let wanted = spec(vec![column("ID", Some("INT")), column("name", None)]);
    for codec in ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"] {
        let file = people(codec);
        for chunk in [1, 7, 100_000] {
            let (rows, errors) = shown(&decode_in(&file, &wanted, chunk).unwrap());
            assert_eq!(rows, [["1", "10"], ["2", "NULL"], ["300", "x"], ["4", ""], ["5", "7"]], "{codec}");
            assert!(errors.is_empty());
        }
    }
    let error = decode(&people("null").replace(b"null", b"lzma"), &wanted).unwrap_err();
    assert_eq!(error.to_string(), "not supported: Avro blocks compressed by 'lzma'");
}

trait Replace {
    fn replace(&self, from: &[u8; 4], to: &[u8; 4]) -> Vec<u8>;
}

impl Replace for Vec<u8> {
    /// With the codec's name replaced, which stands last in the header.
    fn replace(&self, from: &[u8; 4], to: &[u8; 4]) -> Vec<u8> {
        let sync = self.windows(16).position(|window| window == SYNC).unwrap();
        let place = self[..sync].windows(4).rposition(|window| window == from).unwrap();
        let mut changed = self.clone();
        changed[place..place + 4].copy_from_slice(to);
        changed
    }
}

#[test]
fn a_value_that_does_not_fit_costs_its_row() {
    let mut wanted = spec(vec![column("id", Some("TINYINT")), column("name", Some("INT"))]);
    wanted.columns[1].nullable = false;
    wanted.batch_rows = 1;
    let batches = decode(&people("deflate"), &wanted).unwrap();
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
    assert_eq!(batches.last().unwrap().row_numbers, [4]);
    assert_eq!(batches.last().unwrap().lines, [5]);
    let bytes: u64 = batches.iter().map(|batch| batch.input_bytes).sum();
    let file = people("deflate");
    let header = read_header(&file, true).unwrap().unwrap();
    assert_eq!(bytes, (file.len() - header.length) as u64);
}

#[test]
fn columns_are_found_by_name_and_missing_ones_as_the_format_says() {
    let file = people("null");
    let error = decode(&file, &spec(vec![column("nope", None)])).unwrap_err().to_string();
    assert!(error.contains("column 'nope' is not in the file, which has: Id, name"), "{error}");
    let mut wanted = spec(vec![column("nope", Some("INT")), column("Id", None)]);
    wanted.format = format(&[("MISSING_FIELD_AS", "FIELD_DEFAULT")]);
    wanted.columns[0].has_default = true;
    let batches = decode(&file, &wanted).unwrap();
    assert_eq!(shown(&batches).0[0], ["NULL", "1"]);
    assert!(batches[0].defaulted[0].is_some());
    let mut exact = spec(vec![column("id", None)]);
    exact.case_sensitive = true;
    assert!(decode(&file, &exact).is_err());
    // No column at all: rows are counted.
    let counted = decode(&file, &spec(vec![])).unwrap();
    assert_eq!(counted.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), 5);
}

#[test]
fn null_if_and_the_whole_row() {
    let mut wanted = spec(vec![whole_row()]);
    wanted.format = format(&[("NULL_IF", "x")]);
    let (rows, _) = read(&people("null"), &wanted);
    assert_eq!(rows[0], [r#"{"Id":1,"name":"10"}"#]);
    assert_eq!(rows[2], [r#"{"Id":300,"name":null}"#]);
}

fn logical_schema() -> Value {
    record(json!([
        {"name": "d", "type": {"type": "int", "logicalType": "date"}},
        {"name": "tm", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "ms", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "us", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
        {"name": "dec", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
        {"name": "fix", "type": {"type": "fixed", "name": "f", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 1}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "raw", "type": {"type": "fixed", "name": "u", "size": 16, "logicalType": "uuid"}},
        {"name": "e", "type": {"type": "enum", "name": "suit", "symbols": ["A", "B"]}},
        {"name": "odd", "type": {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 5}},
    ]))
}

fn logical_record() -> Rec {
    let uuid: Vec<u8> = (0..16).collect();
    Rec::default()
        .long(19_000)
        .long(3_723_004)
        .long(1_700_000_000_000)
        .long(1)
        .long(1_700_000_000_000_001)
        .long(3_600_000_000)
        .text([0xff, 0x38])
        .raw(&[0, 0, 0, 15])
        .text("not a uuid")
        .raw(&uuid)
        .long(1)
        .text("ab")
}

#[test]
fn logical_types_become_sql_types_unless_only_physical_ones_are_wanted() {
    let file = file(&logical_schema(), "null", &[vec![logical_record()]]);
    let header = read_header(&file, true).unwrap().unwrap();
    let types = |format: &FileFormat| -> Vec<String> {
        file_schema(&header, format).unwrap().into_iter().map(|(_, ty, _)| ty.to_string()).collect()
    };
    let names = ["d", "tm", "ms", "us", "local", "dec", "fix", "id", "raw", "e", "odd"];
    assert_eq!(
        types(&format(&[])),
        [
            "DATE",
            "VARCHAR",
            "TIMESTAMP",
            "TIMESTAMP",
            "TIMESTAMP",
            "DECIMAL(6, 2)",
            "DECIMAL(9, 1)",
            "VARCHAR",
            "VARCHAR",
            "VARCHAR",
            "BINARY"
        ]
    );
    let mut wanted = spec(names.iter().map(|name| column(name, None)).collect());
    wanted.cast.timezone = "Asia/Tokyo".into();
    let (rows, errors) = read(&file, &wanted);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        rows[0],
        [
            "2022-01-08",
            "01:02:03.004",
            "2023-11-14 22:13:20.000000",
            "2023-11-14 22:13:20.000001",
            "1969-12-31 16:00:00.000000",
            "-2.00",
            "1.5",
            "not a uuid",
            "00010203-0405-0607-0809-0a0b0c0d0e0f",
            "B",
            "ab"
        ]
    );
    let physical = format(&[("USE_LOGIC_TYPE", "false")]);
    assert_eq!(types(&physical)[..7], ["INT", "INT", "BIGINT", "BIGINT", "BIGINT", "BINARY", "BINARY"]);
    wanted.format = physical;
    let (rows, _) = read(&file, &wanted);
    assert_eq!(rows[0][..4], ["19000", "3723004", "1700000000000", "1700000000000001"]);
}

/// Nested and named types, in the ways in which a schema can say them.
fn nested_schema() -> Value {
    record(json!([
        {"name": "a", "type": {"type": "array", "items": ["null", "int"]}},
        {"name": "point", "type": {"type": "record", "name": "Point", "fields": [
            {"name": "x", "type": "double"}, {"name": "y", "type": ["float", "null"]}]}},
        {"name": "more", "type": {"type": "map", "values": "Point"}},
        {"name": "other", "type": ["null", "x.y.Point"]},
        {"name": "u", "type": ["null", "long", "string", "Point"]},
        {"name": "us", "type": {"type": "array", "items": ["null", "int", "string"]}},
        {"name": "last", "type": {"type": {"type": "boolean"}}},
    ]))
}

fn nested_record(n: i64) -> Rec {
    let point = |rec: Rec| rec.raw(&1.5f64.to_le_bytes()).long(0).raw(&2.5f32.to_le_bytes());
    let rec = Rec::default().long(2).long(1).long(n).long(0).long(0);
    let rec = point(rec);
    // A map in a block that says its size.
    let entry = point(Rec::default().text("k"));
    let rec = rec.long(-1).long(entry.0.len() as i64).raw(&entry.0).long(0);
    let rec = if n % 2 == 0 { rec.long(0) } else { point(rec.long(1)) };
    let rec = match n % 4 {
        0 => rec.long(0),
        1 => rec.long(1).long(n),
        2 => rec.long(2).text("t"),
        _ => point(rec.long(3)),
    };
    let rec = rec.long(3).long(0).long(1).long(7).long(2).text("s").long(0);
    rec.raw(&[1])
}

#[test]
fn nested_types_unions_and_references_are_read_whole_and_one_by_one() {
    let blocks = [(0..3).map(nested_record).collect(), vec![nested_record(3)]];
    let file = file(&nested_schema(), "snappy", &blocks);
    let (rows, errors) = read(&file, &spec(vec![whole_row()]));
    assert!(errors.is_empty(), "{errors:?}");
    let point = r#"{"x":1.5,"y":2.5}"#;
    let row = |n: i64, other: &str, union: &str| {
        format!(
            r#"{{"a":[{n},null],"last":true,"more":{{"k":{point}}},"other":{other},"point":{point},"u":{union},"us":[null,7,"s"]}}"#
        )
    };
    let expected =
        [row(0, "null", "null"), row(1, point, "1"), row(2, "null", r#""t""#), row(3, point, point)];
    for (row, expected) in rows.iter().zip(&expected) {
        let parsed: [Value; 2] = [&row[0], expected].map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(parsed[0], parsed[1]);
    }
    let (all, _) = read(
        &file,
        &spec(["a", "point", "more", "other", "u", "us", "last"].map(|name| column(name, None)).to_vec()),
    );
    for (place, name) in ["a", "point", "more", "other", "u", "us", "last"].iter().enumerate() {
        let (one, _) = read(&file, &spec(vec![column(name, None)]));
        assert!(all.iter().zip(&one).all(|(all, one)| all[place] == one[0]), "{name}");
    }
    let header = read_header(&file, true).unwrap().unwrap();
    let types: Vec<String> = file_schema(&header, &format(&[]))
        .unwrap()
        .into_iter()
        .map(|(_, ty, nullable)| format!("{ty} {nullable}"))
        .collect();
    assert_eq!(types[0], "ARRAY(INT) false");
    assert_eq!(types[4], "VARIANT true");
    let (text, _) = read(&file, &spec(vec![column("u", Some("VARCHAR"))]));
    assert_eq!(text.concat()[..3], ["NULL", "1", "t"]);
}

#[test]
fn what_the_library_writes_is_read() {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
    let name: ArrayRef =
        Arc::new(StringArray::from_iter((0..20_000).map(|n| (n % 3 > 0).then(|| n.to_string()))));
    let batch = RecordBatch::try_from_iter_with_nullable([("id", id, false), ("name", name, true)]).unwrap();
    let mut writer = AvroWriter::new(Vec::new(), batch.schema().as_ref().clone()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch.slice(0, 10)).unwrap();
    writer.finish().unwrap();
    let file = writer.into_inner();
    let batches = decode(&file, &spec(vec![column("name", Some("INT")), column("id", None)])).unwrap();
    assert!(batches.iter().all(|batch| batch.batch.num_rows() <= 8192 && batch.errors.is_empty()));
    let numbers: Vec<u64> = batches.iter().flat_map(|batch| batch.row_numbers.clone()).collect();
    assert!(numbers.into_iter().eq(0..20_010));
    let (rows, _) = shown(&batches);
    assert_eq!(rows[7], ["7", "7"]);
    assert_eq!(rows[20_001], ["1", "1"]);
}

#[test]
fn records_without_bytes_are_rows_of_nulls() {
    let schema = record(
        json!([{"name": "n", "type": "null"}, {"name": "e", "type": {"type": "record", "name": "q", "fields": []}}]),
    );
    let blocks = [vec![Rec::default(), Rec::default()], vec![], vec![Rec::default()]];
    let (rows, _) = read(&file(&schema, "null", &blocks), &spec(vec![column("n", None)]));
    assert_eq!(rows, [["NULL"], ["NULL"], ["NULL"]]);
    let bomb = Rec(file(&schema, "null", &[])).long(1 << 30).text("").raw(&SYNC).0;
    let error = decode(&bomb, &spec(vec![column("n", None)])).unwrap_err().to_string();
    assert!(error.contains("block 1 of the Avro file is damaged (it claims 1073741824 records"), "{error}");
}

#[test]
fn schemas_that_cannot_be_read_are_told() {
    let wanted = spec(vec![column("a", None)]);
    let told = |schema: Value| decode(&file(&schema, "null", &[]), &wanted).unwrap_err().to_string();
    assert!(told(json!("string")).contains("are no records"));
    let list = json!([{"name": "v", "type": "long"}, {"name": "next", "type": ["null", "x.y.r"]}]);
    assert!(told(record(list)).contains("records that contain themselves (type 'x.y.r')"));
    let nulls = record(json!([{"name": "a", "type": {"type": "array", "items": "null"}}]));
    assert!(told(nulls).contains("not supported: Avro arrays whose items hold nothing"));
    assert!(told(record(json!([{"name": "a", "type": "strin"}]))).contains("there is no type 'strin'"));
    assert!(told(json!({"type": "record", "name": "r"})).contains("lacks its fields"));
    let deep = (0..200).fold(json!("int"), |inner, _| json!({"type": "array", "items": inner}));
    let deep = file(&record(json!([{"name": "a", "type": deep}])), "null", &[]);
    assert!(decode(&deep, &wanted).is_err());
}

#[test]
fn files_that_are_none_are_told() {
    let wanted = spec(vec![column("id", None)]);
    for bytes in [b"PAR1....PAR1".as_slice(), b"id,name\n", b"O", b""] {
        let error = decode(bytes, &wanted).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData);
        assert!(error.to_string().contains("not an Avro file"), "{error}");
    }
    let whole = people("deflate");
    let header = read_header(&whole, true).unwrap().unwrap().length;
    for length in 4..header {
        assert!(read_header(&whole[..length], false).unwrap().is_none(), "{length}");
        let error = decode(&whole[..length], &wanted).unwrap_err().to_string();
        assert!(error.contains("its header is cut off"), "{error}");
    }
    // Without its blocks a file has no rows.
    assert!(decode(&whole[..header], &wanted).unwrap().is_empty());
    for length in header + 1..whole.len() {
        let Err(error) = decode(&whole[..length], &wanted) else {
            // Between two blocks nothing tells that one is missing.
            assert!(whole[..length].ends_with(&SYNC));
            continue;
        };
        assert!(error.to_string().contains("the Avro file is cut off within block"), "{error}");
    }
}

#[test]
fn a_block_larger_than_the_limit_is_refused_whatever_its_codec() {
    let blocks = vec![vec![person(1, Some("Ada"))], vec![person(2, Some(&"x".repeat(2000)))]];
    let mut wanted = spec(vec![column("id", None)]);
    wanted.max_block_bytes = 1000;
    wanted.batch_rows = 1;
    for codec in ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"] {
        let whole = file(&people_schema(), codec, &blocks);
        let error = decode(&whole, &wanted).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{codec}");
        let error = error.to_string();
        assert!(
            error.contains("block 2 of the Avro file") && error.contains("limit max_block_bytes"),
            "{error}"
        );
        let roomy = DecodeSpec { max_block_bytes: 3000, ..wanted.clone() };
        assert_eq!(decode(&whole, &roomy).unwrap().len(), 2);
    }
}

#[test]
fn damaged_blocks_are_told_and_rows_before_them_are_given() {
    let blocks: Vec<Vec<Rec>> = (0..3).map(|n| vec![person(n, Some("name"))]).collect();
    let whole = file(&people_schema(), "null", &blocks);
    let mut wanted = spec(vec![column("id", None)]);
    wanted.batch_rows = 1;
    // The last marker.
    let mut marker = whole.clone();
    *marker.last_mut().unwrap() ^= 1;
    let header = read_header(&marker, true).unwrap().unwrap();
    let mut groups = Vec::new();
    let error = BlockCutter::new(&header, &wanted).push(&marker, &mut groups).unwrap_err().to_string();
    assert!(error.contains("block 3 of the Avro file is damaged"), "{error}");
    assert_eq!(groups.len(), 2);
    // A record more, and a record fewer, than the block holds.
    let two = |claimed: i64| {
        let data: Vec<u8> = [person(1, None).0, person(2, None).0].concat();
        Rec(file(&people_schema(), "null", &[])).long(claimed).text(data).raw(&SYNC).0
    };
    assert_eq!(decode(&two(2), &wanted).unwrap().len(), 2);
    let error = decode(&two(3), &wanted).unwrap_err().to_string();
    assert!(error.contains("block 1 of the Avro file is damaged"), "{error}");
    let error = decode(&two(1), &wanted).unwrap_err().to_string();
    assert!(error.contains("bytes are left after its records"), "{error}");
    // What is compressed, and has a checksum.
    for codec in ["snappy", "bzip2", "xz"] {
        let mut packed = people(codec);
        let header = read_header(&packed, true).unwrap().unwrap().length;
        packed[header + 6] ^= 0x55;
        packed[header + 7] ^= 0x55;
        let error = decode(&packed, &wanted).unwrap_err();
        assert!(error.to_string().contains("of the Avro file"), "{codec}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes changed anywhere: rows or an error, never a panic that leaves the decoder, never no end.
    #[test]
    fn damage_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), nested in any::<bool>()) {
        let mut bytes = if nested {
            file(&nested_schema(), "null", &[(0..20).map(nested_record).collect(), vec![nested_record(3)]])
        } else {
            file(&logical_schema(), "deflate", &[(0..20).map(|_| logical_record()).collect()])
        };
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = decode(&bytes, &spec(vec![whole_row()])).map(|batches| shown(&batches));
    }
}

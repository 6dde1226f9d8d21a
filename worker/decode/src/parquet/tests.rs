#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression, Encoding};
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use arrow::array::*;
use arrow::datatypes::*;
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use proptest::prelude::*;
use stevedore_common::error::{ErrorKind, Result};
use stevedore_common::file_format::{FileFormat, FormatKind, OptionValue};

use super::*;
use crate::spec::{ColumnSource, DecodeSpec, DecodedBatch, OutputColumn};
use stevedore_common::types::SqlType;

mod batch_memory;
mod filter;
mod types;

fn format(options: &[(&str, &str)]) -> FileFormat {
    let mut all = vec![("TYPE".to_owned(), OptionValue::Text("PARQUET".into()))];
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
    DecodeSpec::new(FileFormat::defaults(FormatKind::Parquet), columns)
}

fn write(batch: &RecordBatch, rows_per_group: usize) -> Bytes {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows_per_group))
        .set_compression(Compression::SNAPPY)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

fn metadata(file: &Bytes) -> Result<Arc<::parquet::file::metadata::ParquetMetaData>> {
    let size = file.len() as u64;
    let mut wanted = TAIL_BYTES.min(size);
    loop {
        match read_footer(size, &file.slice((size - wanted) as usize..))? {
            Footer::Ready(metadata) => return Ok(metadata),
            Footer::Need(more) => {
                assert!(more > wanted && more <= size);
                wanted = more;
            }
        }
    }
}

fn fetch(file: &Bytes, task: &RowGroupTask) -> Vec<Bytes> {
    task.byte_ranges.iter().map(|range| file.slice(range.start as usize..range.end as usize)).collect()
}

fn decode(file: &Bytes, spec: &DecodeSpec) -> Result<Vec<DecodedBatch>> {
    let parquet = Arc::new(ParquetFile::open(metadata(file)?, spec)?);
    let mut batches = Vec::new();
    for task in parquet.plan(None) {
        for batch in parquet.decode_row_group(&task, fetch(file, &task))? {
            batches.push(batch?);
        }
    }
    Ok(batches)
}

/// The good rows as text, and the errors as `line: message`.
fn read(file: &Bytes, spec: &DecodeSpec) -> (Vec<Vec<String>>, Vec<String>) {
    let batches = decode(file, spec).unwrap();
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for decoded in &batches {
        assert!(decoded.batch.num_rows() <= spec.batch_rows);
        for row in 0..decoded.batch.num_rows() {
            let show = |array: &ArrayRef| {
                if array.is_null(row) {
                    return "NULL".into();
                }
                let text = crate::cast::try_cast(
                    array,
                    &Field::new("", array.data_type().clone(), true),
                    &SqlType::String,
                    &Default::default(),
                );
                array_value_to_string(&text.unwrap(), row).unwrap()
            };
            rows.push(decoded.batch.columns().iter().map(show).collect());
        }
        errors.extend(decoded.errors.iter().map(|e| format!("{}: {}", e.line, e.message)));
    }
    (rows, errors)
}

fn people() -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 300, 4, 5]));
    let name: ArrayRef = Arc::new(StringArray::from(vec![Some("10"), None, Some("x"), Some(""), Some("7")]));
    RecordBatch::try_from_iter_with_nullable([("Id", id, false), ("name", name, true)]).unwrap()
}

#[test]
fn columns_are_matched_by_name_and_cast() {
    let file = write(&people(), 2);
    let (rows, errors) = read(&file, &spec(vec![column("name", None), column("id", Some("INT"))]));
    assert_eq!(rows, [["10", "1"], ["NULL", "2"], ["x", "300"], ["", "4"], ["7", "5"]]);
    assert!(errors.is_empty());
    let (rows, errors) = read(&file, &spec(vec![column("ID", Some("TINYINT")), column("NAME", Some("INT"))]));
    assert_eq!(rows, [["1", "10"], ["2", "NULL"], ["5", "7"]]);
    assert_eq!(
        errors,
        [
            "3: invalid value '300' for column 1 (ID TINYINT): out of range",
            "4: invalid value '' for column 2 (NAME INT): invalid digit"
        ]
    );
}

#[test]
fn row_numbers_count_rejected_rows_and_bytes_add_up() {
    let file = write(&people(), 3);
    let mut spec = spec(vec![column("name", Some("INT"))]);
    spec.batch_rows = 2;
    let batches = decode(&file, &spec).unwrap();
    let numbers: Vec<u64> = batches.iter().flat_map(|b| b.row_numbers.clone()).collect();
    let lines: Vec<u64> = batches.iter().flat_map(|b| b.lines.clone()).collect();
    assert_eq!((numbers, lines), (vec![0, 1, 4], vec![1, 2, 5]));
    assert_eq!(batches.iter().flat_map(|b| &b.errors).map(|e| e.row).collect::<Vec<_>>(), [2, 3]);
    let parquet = ParquetFile::open(metadata(&file).unwrap(), &spec).unwrap();
    let planned: u64 = parquet.plan(None).iter().map(RowGroupTask::input_bytes).sum();
    assert!(planned > 0 && planned < file.len() as u64);
    assert_eq!(batches.iter().map(|b| b.input_bytes).sum::<u64>(), planned);
}

#[test]
fn not_null_columns_refuse_null() {
    let file = write(&people(), 10);
    let strict = OutputColumn { nullable: false, ..column("name", Some("INT")) };
    let (rows, errors) = read(&file, &spec(vec![strict]));
    assert_eq!(rows, [["10"], ["7"]]);
    assert_eq!(errors[0], "2: NULL is not allowed for column 1 (name INT NOT NULL)");
    assert_eq!(errors[1], "3: invalid value 'x' for column 1 (name INT): invalid digit");
}

#[test]
fn missing_columns_are_an_error_or_a_default() {
    let file = write(&people(), 10);
    let wanted =
        |default| OutputColumn { has_default: default, nullable: !default, ..column("age", Some("INT")) };
    let error = decode(&file, &spec(vec![wanted(false)])).unwrap_err();
    assert_eq!(error.message(), "column 'age' is not in the file, which has: Id, name");
    let mut lenient = spec(vec![wanted(true), wanted(false), column("id", None)]);
    lenient.format = format(&[("MISSING_FIELD_AS", "FIELD_DEFAULT")]);
    let batches = decode(&file, &lenient).unwrap();
    assert_eq!(batches[0].batch.column(0).null_count(), 5);
    assert_eq!(batches[0].defaulted[0], Some(BooleanArray::from(vec![true; 5])));
    assert_eq!(batches[0].defaulted[1..], [None, None]);
    // Nothing of the file is needed, its rows still count.
    lenient.columns = vec![wanted(false)];
    lenient.batch_rows = 2;
    assert_eq!(read(&file, &lenient).0.len(), 5);
}

#[test]
fn where_the_table_takes_new_columns_nullable_ones_may_be_missing() {
    let file = write(&people(), 10);
    let needed = OutputColumn { nullable: false, ..column("age", Some("INT")) };
    let with_default = OutputColumn { has_default: true, ..column("size", Some("INT")) };
    let mut evolving = spec(vec![column("id", None), column("age", Some("INT")), with_default]);
    evolving.evolves = true;
    let batches = decode(&file, &evolving).unwrap();
    assert_eq!(batches[0].batch.column(1).null_count(), 5);
    assert_eq!(batches[0].defaulted[1..], [None, Some(BooleanArray::from(vec![true; 5]))]);
    evolving.columns[1] = needed;
    let error = decode(&file, &evolving).unwrap_err();
    assert_eq!(error.message(), "column 'age' is not in the file, which has: Id, name");
}

#[test]
fn names_that_differ_by_case_are_told_apart() {
    let one: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let two: ArrayRef = Arc::new(Int32Array::from(vec![2]));
    let file = write(&RecordBatch::try_from_iter([("a", one), ("A", two)]).unwrap(), 10);
    assert_eq!(read(&file, &spec(vec![column("A", None), column("a", None)])).0, [["2", "1"]]);
    let mut upper = spec(vec![column("B", None)]);
    upper.columns[0].source = ColumnSource::Name("Ä".into());
    assert!(decode(&file, &upper).is_err());
    let three: ArrayRef = Arc::new(Int32Array::from(vec![3]));
    let more = RecordBatch::try_from_iter([("aB", three.clone()), ("Ab", three)]).unwrap();
    let error = decode(&write(&more, 10), &spec(vec![column("AB", None)])).unwrap_err();
    assert_eq!(error.message(), "column 'AB' is ambiguous in the file, which has: aB, Ab");
    let mut sensitive = spec(vec![column("AB", None)]);
    sensitive.case_sensitive = true;
    assert!(decode(&write(&people(), 10), &sensitive).unwrap_err().message().contains("is not in the file"));
}

#[test]
fn pairs_that_never_cast_fail_the_file_at_once() {
    let date: ArrayRef = Arc::new(Date32Array::from(vec![1]));
    let file = write(&RecordBatch::try_from_iter([("d", date)]).unwrap(), 10);
    let error = decode(&file, &spec(vec![column("d", Some("BOOLEAN"))])).unwrap_err();
    assert_eq!(error.to_string(), "column 'd': cannot cast DATE to BOOLEAN");
    // The statement may be good for other files.
    assert_eq!(error.kind(), ErrorKind::BadData);
}

#[test]
fn the_whole_row_is_json_with_sorted_keys() {
    let tags: ArrayRef = {
        let mut builder = ListBuilder::new(Int32Builder::new());
        builder.append_value([Some(1), None]);
        Arc::new(builder.finish())
    };
    let b: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let time: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![0]));
    let price: ArrayRef = Arc::new(Decimal128Array::from(vec![150]).with_precision_and_scale(10, 2).unwrap());
    let batch = RecordBatch::try_from_iter([("t", tags), ("b", b), ("a", time), ("price", price)]).unwrap();
    let (rows, _) = read(&write(&batch, 10), &spec(vec![whole_row(), column("b", None)]));
    assert_eq!(rows, [[r#"{"a":"1970-01-01 00:00:00.000000","b":"x","price":1.50,"t":[1,null]}"#, "x"]]);
}

#[test]
fn null_if_lists_strings() {
    let mut lenient = spec(vec![column("name", Some("INT")), whole_row()]);
    lenient.format.null_if = vec!["".into(), "x".into()];
    let (rows, errors) = read(&write(&people(), 10), &lenient);
    assert!(errors.is_empty());
    assert_eq!(rows[2], ["NULL", r#"{"Id":300,"name":null}"#]);
    assert_eq!(rows[3][0], "NULL");
}

/// A file from a Parquet schema in text, for what Arrow does not write.
fn raw_file(schema: &str, write: impl FnOnce(&mut ColumnWriter<'_>)) -> Bytes {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    write(column.untyped());
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes.into()
}

#[test]
fn int96_uuid_and_json_have_types_of_their_own() {
    let file = raw_file("message m { required int96 t; }", |column| {
        let ColumnWriter::Int96ColumnWriter(column) = column else { unreachable!() };
        // 3000-01-01 12:00:00 is beyond what nanoseconds can say; Julian day 2816788.
        let nanos = 12 * 3600 * 1_000_000_000u64;
        let value = Int96::from(vec![nanos as u32, (nanos >> 32) as u32, 2_816_788]);
        column.write_batch(&[value], None, None).unwrap();
    });
    let mut tokyo = spec(vec![column("t", None)]);
    tokyo.cast.timezone = "Asia/Tokyo".into();
    assert_eq!(read(&file, &tokyo).0, [["3000-01-01 12:00:00.000000"]]);

    let file = raw_file("message m { required fixed_len_byte_array(16) u (UUID); }", |column| {
        let ColumnWriter::FixedLenByteArrayColumnWriter(column) = column else { unreachable!() };
        let value = FixedLenByteArray::from(vec![0xabu8; 16]);
        column.write_batch(&[value], None, None).unwrap();
    });
    let uuid = "abababab-abab-abab-abab-abababababab";
    assert_eq!(read(&file, &spec(vec![column("u", None)])).0, [[uuid]]);
    let schema = file_schema(&metadata(&file).unwrap(), &format(&[])).unwrap();
    assert_eq!(schema, [("u".to_owned(), SqlType::String, false)]);

    let file = raw_file("message m { optional binary j (JSON); }", |column| {
        let ColumnWriter::ByteArrayColumnWriter(column) = column else { unreachable!() };
        let values = [ByteArray::from(r#"{"b":1, "a":2}"#), ByteArray::from("oops")];
        column.write_batch(&values, Some(&[1, 0, 1]), None).unwrap();
    });
    let schema = file_schema(&metadata(&file).unwrap(), &format(&[])).unwrap();
    assert_eq!(schema, [("j".to_owned(), SqlType::Variant, true)]);
    let (rows, errors) = read(&file, &spec(vec![column("j", None)]));
    assert_eq!(rows, [[r#"{"a":2,"b":1}"#], ["NULL"]]);
    assert_eq!(
        errors,
        ["3: invalid value 'oops' for column 1 (j VARIANT): invalid JSON: expected a value at byte 1"]
    );
    let (rows, errors) = read(&file, &spec(vec![column("j", Some("VARCHAR"))]));
    assert_eq!((rows.len(), errors.len()), (3, 0));
}

#[test]
fn logical_types_can_be_ignored() {
    let date: ArrayRef = Arc::new(Date32Array::from(vec![5]));
    let time: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![7]).with_timezone("UTC"));
    let file = write(&RecordBatch::try_from_iter([("d", date), ("t", time)]).unwrap(), 10);
    let metadata = metadata(&file).unwrap();
    let types = |format: &FileFormat| -> Vec<SqlType> {
        file_schema(&metadata, format).unwrap().into_iter().map(|(_, ty, _)| ty).collect()
    };
    assert_eq!(types(&format(&[])), [SqlType::Date, SqlType::Timestamp]);
    let physical = format(&[("USE_LOGIC_TYPE", "false")]);
    assert_eq!(types(&physical), [SqlType::Int32, SqlType::Int64]);
    let mut spec = spec(vec![column("d", None), column("t", None)]);
    spec.format = physical;
    assert_eq!(read(&file, &spec).0, [["5", "7"]]);
}

#[test]
fn nested_and_encoded_columns_have_natural_types() {
    let dictionary: DictionaryArray<Int32Type> = vec!["a", "b", "a"].into_iter().collect();
    let views = StringViewArray::from(vec!["x", "y", "z"]);
    let inner: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let fields = Fields::from(vec![Field::new("k", DataType::Int32, true)]);
    let tuple = StructArray::new(fields, vec![inner], None);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), 2);
    for i in 0..3 {
        map.keys().append_value("k");
        map.values().append_value(i);
        map.append(true).unwrap();
        vectors.values().append_slice(&[i as f32, 0.5]);
        vectors.append(true);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("dictionary", Arc::new(dictionary)),
        ("view", Arc::new(views)),
        ("tuple", Arc::new(tuple)),
        ("map", Arc::new(map.finish())),
        ("vector", Arc::new(vectors.finish())),
        ("small", Arc::new(UInt8Array::from(vec![1, 2, 255]))),
    ];
    let file = write(&RecordBatch::try_from_iter(columns).unwrap(), 10);
    let schema = file_schema(&metadata(&file).unwrap(), &format(&[])).unwrap();
    let types: Vec<String> = schema.iter().map(|(_, ty, _)| ty.to_string()).collect();
    assert_eq!(
        types,
        ["VARCHAR", "VARCHAR", "TUPLE(k INT)", "MAP(VARCHAR, BIGINT)", "VECTOR(2)", "TINYINT UNSIGNED"]
    );
    let names: Vec<OutputColumn> = schema.iter().map(|(name, ..)| column(name, None)).collect();
    assert_eq!(read(&file, &spec(names)).0[1], ["b", "y", r#"{"k":2}"#, r#"{"k":1}"#, "[1.0,0.5]", "2"]);
    let wanted = vec![
        column("vector", Some("VECTOR(3)")),
        column("tuple", Some("TUPLE(K VARCHAR)")),
        column("map", Some("VARIANT")),
    ];
    let (rows, errors) = read(&file, &spec(wanted));
    assert!(rows.is_empty());
    assert_eq!(
        errors[0],
        "1: invalid value '[0.0,0.5]' for column 1 (vector VECTOR(3)): the number of elements is not the dimension of the vector"
    );
}

#[test]
fn ranges_that_cover_a_file_cover_each_row_group_once() {
    let rows: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let file = write(&RecordBatch::try_from_iter([("n", rows)]).unwrap(), 100);
    let parquet = ParquetFile::open(metadata(&file).unwrap(), &spec(vec![column("n", None)])).unwrap();
    let all = parquet.plan(None);
    assert_eq!(
        all.iter().map(|task| task.first_row).collect::<Vec<_>>(),
        (0..10).map(|i| i * 100).collect::<Vec<_>>()
    );
    let size = file.len() as u64;
    for part in [1, 7, 100, 1000, size] {
        let mut found = Vec::new();
        for start in (0..size).step_by(part as usize) {
            found.extend(parquet.plan(Some(start..(start + part).min(size))));
        }
        assert_eq!(found, all);
    }
}

#[test]
fn a_large_footer_is_asked_for() {
    let one: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let names: Vec<String> = (0..3000).map(|i| format!("a_rather_long_column_name_{i}")).collect();
    let batch = RecordBatch::try_from_iter(names.iter().map(|name| (name, one.clone()))).unwrap();
    let file = write(&batch, 10);
    let size = file.len() as u64;
    let tail = file.slice((size - TAIL_BYTES) as usize..);
    assert!(matches!(read_footer(size, &tail).unwrap(), Footer::Need(more) if more > TAIL_BYTES));
    assert_eq!(read(&file, &spec(vec![column(&names[2999], None)])).0, [["1"]]);
}

#[test]
fn what_is_no_parquet_file_is_told_why() {
    let good = write(&people(), 2);
    let with_end = |end: &[u8]| {
        let mut bytes = good[..good.len() - end.len()].to_vec();
        bytes.extend_from_slice(end);
        Bytes::from(bytes)
    };
    for (file, expected) in [
        (Bytes::from_static(b""), "it has 0 bytes"),
        (Bytes::from_static(b"id,name\n1,a\n2,b\n"), "does not end with PAR1"),
        (good.slice(..good.len() - 100), "does not end with PAR1"),
        (with_end(b"PARE"), "encrypted"),
        (with_end(b"\xff\xff\xff\x7fPAR1"), "claims 2147483647 bytes"),
        (with_end(b"\x03\x00\x00\x00PAR1"), "the footer"),
    ] {
        let error = metadata(&file).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    }
}

#[test]
fn a_page_larger_than_the_limit_is_refused() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(3000)]));
    let file = write(&RecordBatch::try_from_iter([("name", texts)]).unwrap(), 10);
    let mut wanted = spec(vec![column("name", None)]);
    wanted.max_block_bytes = 1000;
    let error = decode(&file, &wanted).unwrap_err().to_string();
    assert!(error.contains("limit max_block_bytes"), "{error}");
    wanted.max_block_bytes = 4000;
    assert_eq!(decode(&file, &wanted).unwrap().len(), 1);
}

#[test]
fn a_damaged_page_names_its_row_group() {
    let rows: ArrayRef = Arc::new(Int64Array::from_iter_values((0..2000).map(|i| i * 7919 % 1009)));
    let file = write(&RecordBatch::try_from_iter([("n", rows)]).unwrap(), 1000);
    let spec = spec(vec![column("n", None)]);
    let parquet = Arc::new(ParquetFile::open(metadata(&file).unwrap(), &spec).unwrap());
    let task = &parquet.plan(None)[1];
    let mut bytes = file.to_vec();
    let range = &task.byte_ranges[0];
    bytes[range.start as usize..range.start as usize + 40].fill(0xff);
    let result: Result<Vec<_>> =
        parquet.decode_row_group(task, fetch(&bytes.into(), task)).and_then(|decoder| decoder.collect());
    let error = result.unwrap_err();
    assert!(error.message().contains("row group 2 of the Parquet file is damaged"), "{error}");
    let short = fetch(&file, task).into_iter().map(|bytes| bytes.slice(1..)).collect();
    let error = parquet.decode_row_group(task, short).err().unwrap();
    assert!(error.message().contains("cut off"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..Default::default() })]

    /// Bytes changed anywhere: rows or an error, never a panic that leaves the decoder.
    #[test]
    fn damage_is_an_error(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = write(&people(), 2).to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let file = Bytes::from(bytes);
        let _ = decode(&file, &spec(vec![column("id", Some("INT")), column("name", None), whole_row()]));
    }
}

#[test]
fn lengths_that_a_page_only_claims_take_no_memory() {
    for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..300).map(|n| format!("text {n}"))));
        let batch = RecordBatch::try_from_iter([("c", texts)]).unwrap();
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_column_encoding("c".into(), encoding);
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let wanted = spec(vec![column("c", None)]);
        assert_eq!(read(&file.clone().into(), &wanted).0.len(), 300);
        // Blocks of 128 in 4 mini-blocks, 300 lengths: now as many as fit the same two bytes. The last list counts.
        let header = [0x80, 1, 4, 0xAC, 2];
        let at = file.windows(5).rposition(|bytes| bytes == header).unwrap();
        file[at + 3..at + 5].copy_from_slice(&[0xFF, 0x7F]);
        let error = decode(&file.into(), &wanted).unwrap_err();
        assert!(error.message().contains("claims the lengths of 16383"), "{error}");
    }
}

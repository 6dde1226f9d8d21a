//! Arrow IPC from bytes to batches, as a caller sees it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::*;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use proptest::prelude::*;
use stevedore_common::error::Result;
use stevedore_common::file_format::{FileFormat, FormatKind, MissingFieldAs};
use stevedore_common::types::SqlType;

use super::*;
use crate::spec::{ColumnSource, DecodeSpec, OutputColumn};

const LIMIT: u64 = 64 << 20;

fn options(compression: Option<CompressionType>) -> IpcWriteOptions {
    IpcWriteOptions::default().try_with_compression(compression).unwrap()
}

fn file_of(batches: &[RecordBatch], compression: Option<CompressionType>) -> Bytes {
    let mut writer =
        FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options(compression)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap().into()
}

fn stream_of(batches: &[RecordBatch], compression: Option<CompressionType>) -> Bytes {
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options(compression)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap().into()
}

/// `a INT`, `b INT NOT NULL`, `a` for the file's type, `$1` for the whole row.
fn spec(kind: FormatKind, columns: &[&str]) -> DecodeSpec {
    let columns = columns.iter().map(|text| {
        let (name, ty) = text.split_once(' ').map_or((*text, None), |(name, ty)| (name, Some(ty)));
        let nullable = ty.is_none_or(|ty| !ty.ends_with(" NOT NULL"));
        OutputColumn {
            name: name.to_owned(),
            ty: ty.map(|ty| SqlType::parse(ty.trim_end_matches(" NOT NULL")).unwrap()),
            source: if name == "$1" { ColumnSource::WholeRow } else { ColumnSource::Name(name.to_owned()) },
            nullable,
            has_default: false,
        }
    });
    DecodeSpec::new(FileFormat::defaults(kind), columns.collect())
}

/// Rows as text, `~` for NULL; then the errors.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    rows: Vec<String>,
    numbers: Vec<u64>,
    errors: Vec<String>,
    bytes: u64,
    largest_batch: usize,
}

fn collect(
    batches: impl Iterator<Item = Result<crate::spec::DecodedBatch>>,
    decoded: &mut Decoded,
) -> Result<()> {
    let options = FormatOptions::default().with_null("~");
    for batch in batches {
        let batch = batch?;
        let shown: Vec<ArrayRef> = batch
            .batch
            .columns()
            .iter()
            .map(|array| match array.as_primitive_opt::<TimestampMicrosecondType>() {
                Some(array) => Arc::new(array.clone().with_timezone("+00:00")),
                None => array.clone(),
            })
            .collect();
        let columns: Vec<_> =
            shown.iter().map(|array| ArrayFormatter::try_new(array, &options).unwrap()).collect();
        for row in 0..batch.batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            decoded.rows.push(cells.join("|"));
        }
        decoded.largest_batch = decoded.largest_batch.max(batch.batch.num_rows());
        decoded.numbers.extend(batch.row_numbers);
        decoded.errors.extend(batch.errors.iter().map(|error| format!("{}: {}", error.line, error.message)));
        decoded.bytes += batch.input_bytes;
    }
    Ok(())
}

fn decode_file(bytes: &Bytes, spec: &DecodeSpec) -> Result<Decoded> {
    let size = bytes.len() as u64;
    let layout = match read_tail(size, &bytes[bytes.len().saturating_sub(100)..])? {
        Tail::Ready(layout) => layout,
        Tail::Need(length) => match read_tail(size, &bytes[bytes.len() - length as usize..])? {
            Tail::Ready(layout) => layout,
            Tail::Need(_) => panic!("the second time it is there"),
        },
    };
    let at = |range: std::ops::Range<u64>| bytes.slice(range.start as usize..range.end as usize);
    let mut dictionaries = Dictionaries::default();
    for place in layout.dictionaries() {
        layout.add_dictionary(place, &at(place.range.clone()), &mut dictionaries, LIMIT)?;
    }
    let dictionaries = Arc::new(dictionaries);
    let file = Arc::new(ArrowFile::open(layout.schema(), spec, LIMIT)?);
    let mut decoded = Decoded::default();
    let mut first_row = 0;
    for place in layout.plan(None) {
        assert_eq!(
            layout.head(&place, &at(place.metadata_range()))?,
            layout.head(&place, &at(place.range.clone()))?
        );
        let message = layout.message(&place, &at(place.range.clone()), &dictionaries, first_row)?;
        first_row += message.rows;
        collect(file.decode(message), &mut decoded)?;
    }
    Ok(decoded)
}

fn decode_stream(bytes: &Bytes, spec: &DecodeSpec, piece: usize) -> Result<Decoded> {
    let mut cutter = StreamCutter::new(bytes.len() as u64, LIMIT);
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece) {
        cutter.push(piece, &mut messages)?;
    }
    cutter.finish()?;
    let file = Arc::new(ArrowFile::open(cutter.schema().unwrap(), spec, LIMIT)?);
    let mut decoded = Decoded::default();
    for message in messages {
        collect(file.decode(message), &mut decoded)?;
    }
    Ok(decoded)
}

/// Both forms, all codecs, must give the same.
fn decode(batches: &[RecordBatch], columns: &[&str]) -> Decoded {
    let mut all = Vec::new();
    for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let file = decode_file(&file_of(batches, codec), &spec(FormatKind::Arrow, columns)).unwrap();
        all.push(Decoded { bytes: 0, ..file });
        for piece in [7, 100_000] {
            let stream = stream_of(batches, codec);
            let stream = decode_stream(&stream, &spec(FormatKind::ArrowStream, columns), piece).unwrap();
            all.push(Decoded { bytes: 0, ..stream });
        }
    }
    for other in &all[1..] {
        assert_eq!(*other, all[0]);
    }
    all.swap_remove(0)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

#[test]
fn every_layout_has_its_place_in_sql() {
    let words = ["x", "yy", "a string that is not inlined in a view"];
    let dictionary: DictionaryArray<Int8Type> = vec![Some("x"), None, Some("yy")].into_iter().collect();
    let runs =
        RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3]), &StringArray::from(vec!["r", "s"]))
            .unwrap();
    let unions = {
        let fields = UnionFields::from_fields(vec![
            Field::new("i", DataType::Int32, true),
            Field::new("s", DataType::Utf8, true),
        ]);
        let children: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![1, 2])), Arc::new(StringArray::from(vec!["q\""]))];
        let (ids, offsets) = (ScalarBuffer::from(vec![0i8, 1, 0]), ScalarBuffer::from(vec![0i32, 0, 1]));
        UnionArray::try_new(fields, ids, Some(offsets), children).unwrap()
    };
    let list = {
        let mut list = ListBuilder::new(StringDictionaryBuilder::<Int32Type>::new());
        list.append_value([Some("l"), None]);
        list.append_null();
        list.append_value(Vec::<Option<&str>>::new());
        list.finish()
    };
    let views = ListViewArray::new(
        Arc::new(Field::new_list_field(DataType::Int32, true)),
        ScalarBuffer::from(vec![1, 0, 0]),
        ScalarBuffer::from(vec![1, 2, 0]),
        Arc::new(Int32Array::from(vec![5, 6])),
        None,
    );
    let rows = batch(vec![
        ("i8", Arc::new(Int8Array::from(vec![Some(1), None, Some(-3)]))),
        ("u64", Arc::new(UInt64Array::from(vec![1, u64::MAX, 3]))),
        ("f16", Arc::new(Float16Array::from(vec![half(1.5), half(0.0), half(-2.0)]))),
        ("t", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("s", Arc::new(StringArray::from(words.to_vec()))),
        ("large", Arc::new(LargeStringArray::from(words.to_vec()))),
        ("view", Arc::new(StringViewArray::from(words.to_vec()))),
        ("bytes", Arc::new(BinaryViewArray::from(vec![&b"\x01"[..], b"", b"\xff"]))),
        ("dict", Arc::new(dictionary)),
        ("runs", Arc::new(runs)),
        ("union", Arc::new(unions)),
        ("list", Arc::new(list)),
        ("views", Arc::new(views)),
        (
            "d",
            Arc::new(
                Decimal256Array::from(vec![Some(i256::from(125)), None, Some(i256::from(-5))])
                    .with_precision_and_scale(20, 2)
                    .unwrap(),
            ),
        ),
        (
            "ts",
            Arc::new(
                TimestampNanosecondArray::from(vec![1_500_000_000_000_000_001, 0, -1]).with_timezone("UTC"),
            ),
        ),
        ("day", Arc::new(Date64Array::from(vec![Some(86_400_000), None, Some(0)]))),
        ("time", Arc::new(Time32SecondArray::from(vec![1, 2, 3]))),
        ("nothing", Arc::new(NullArray::new(3))),
    ]);
    let names: Vec<String> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let decoded = decode(std::slice::from_ref(&rows), &names);
    assert_eq!(
        decoded.rows,
        [
            "1|1|1.5|true|x|x|x|01|x|r|1|[l, ~]|[6]|1.25|2017-07-14T02:40:00Z|1970-01-02|00:00:01|~",
            "~|18446744073709551615|0.0|~|yy|yy|yy||~|r|\"q\\\"\"|~|[5, 6]|~|1970-01-01T00:00:00Z|~|00:00:02|~",
            &format!(
                "-3|3|-2.0|false|{0}|{0}|{0}|ff|yy|s|2|[]|[]|-0.05|1969-12-31T23:59:59.999999Z|1970-01-01|00:00:03|~",
                words[2]
            ),
        ]
    );
    assert_eq!(decoded.numbers, [0, 1, 2]);
    // The whole row, with sorted keys.
    let whole = decode(&[rows.project(&[3, 0, 8, 10]).unwrap()], &["$1"]);
    assert_eq!(whole.rows[0], r#"{"dict":"x","i8":1,"t":true,"union":1}"#);
    assert_eq!(whole.rows[1], r#"{"dict":null,"i8":null,"t":null,"union":"q\""}"#);
    let columns = schema_columns(&rows.schema()).unwrap();
    let types: Vec<String> = columns.iter().map(|(name, ty, _)| format!("{name} {ty}")).collect();
    assert_eq!(
        types[5..],
        [
            "large VARCHAR",
            "view VARCHAR",
            "bytes BINARY",
            "dict VARCHAR",
            "runs VARCHAR",
            "union VARIANT",
            "list ARRAY(VARCHAR)",
            "views ARRAY(INT)",
            "d DECIMAL(20, 2)",
            "ts TIMESTAMP",
            "day DATE",
            "time VARCHAR",
            "nothing VARCHAR",
        ]
    );
}

fn half(value: f32) -> <Float16Type as ArrowPrimitiveType>::Native {
    <Float16Type as ArrowPrimitiveType>::Native::from_f32(value)
}

#[test]
fn some_columns_cast_and_bad_rows_are_told() {
    let first = batch(vec![
        ("Name", Arc::new(StringViewArray::from(vec!["1", "x", "NA"]))),
        (
            "other",
            Arc::new(BinaryViewArray::from(vec![&b"a long value that stands in a buffer"[..], b"", b""])),
        ),
        ("n", Arc::new(Int32Array::from(vec![Some(1), Some(300), None]))),
    ]);
    let second = first.slice(1, 2);
    let mut wanted = spec(FormatKind::Arrow, &["n TINYINT NOT NULL", "name INT"]);
    wanted.format.null_if = vec!["NA".into()];
    for codec in [None, Some(CompressionType::ZSTD)] {
        let decoded = decode_file(&file_of(&[first.clone(), second.clone()], codec), &wanted).unwrap();
        assert_eq!(decoded.rows, ["1|1"]);
        assert_eq!(decoded.errors.len(), 4, "{:?}", decoded.errors);
        assert!(
            decoded.errors[0].starts_with("2: invalid value '300' for column 1 (n TINYINT)"),
            "{:?}",
            decoded.errors
        );
        assert_eq!(decoded.errors[1], "3: NULL is not allowed for column 1 (n TINYINT NOT NULL)");
        assert!(decoded.errors[2].starts_with("4: "));
    }
    let missing = spec(FormatKind::Arrow, &["gone INT", "n"]);
    let error = decode_file(&file_of(std::slice::from_ref(&first), None), &missing).unwrap_err().to_string();
    assert!(error.contains("column 'gone' is not in the file, which has: Name, other, n"), "{error}");
    let mut defaults = missing;
    defaults.format.missing_field_as = MissingFieldAs::FieldDefault;
    assert_eq!(decode_file(&file_of(&[first], None), &defaults).unwrap().rows[0], "~|1");
}

#[test]
fn dictionaries_of_a_stream_may_be_replaced_and_go_on() {
    let rows = |words: Vec<&str>| {
        let words: DictionaryArray<Int32Type> = words.into_iter().collect();
        batch(vec![("w", Arc::new(words) as ArrayRef)])
    };
    let (first, second) = (rows(vec!["a", "b", "a"]), rows(vec!["c", "d"]));
    let stream = stream_of(&[first, second], None);
    let decoded = decode_stream(&stream, &spec(FormatKind::ArrowStream, &["w"]), 10).unwrap();
    assert_eq!(decoded.rows, ["a", "b", "a", "c", "d"]);
    assert_eq!(decoded.numbers, [0, 1, 2, 3, 4]);
}

#[test]
fn rows_without_wanted_columns_are_counted() {
    let rows = batch(vec![("n", Arc::new(Int32Array::from_iter_values(0..20_000)))]);
    let decoded = decode(&[rows], &[]);
    assert_eq!((decoded.rows.len(), decoded.largest_batch), (20_000, 8192));
}

#[test]
fn a_value_that_stands_in_many_rows_does_not_fill_memory() {
    let long = "x".repeat(1 << 20);
    let keys = Int32Array::from_iter_values(std::iter::repeat_n(0, 5000));
    let dictionary = DictionaryArray::new(keys, Arc::new(StringArray::from(vec![long.as_str()])));
    let decoded = {
        let bytes = file_of(&[batch(vec![("w", Arc::new(dictionary) as ArrayRef)])], None);
        assert!(bytes.len() < 2 << 20);
        let layout = match read_tail(bytes.len() as u64, &bytes).unwrap() {
            Tail::Ready(layout) => layout,
            Tail::Need(_) => panic!("all of it is there"),
        };
        let mut dictionaries = Dictionaries::default();
        let at = |place: &BatchPlace| bytes.slice(place.range.start as usize..place.range.end as usize);
        layout
            .add_dictionary(
                &layout.dictionaries()[0],
                &at(&layout.dictionaries()[0]),
                &mut dictionaries,
                LIMIT,
            )
            .unwrap();
        let file =
            Arc::new(ArrowFile::open(layout.schema(), &spec(FormatKind::Arrow, &["w"]), LIMIT).unwrap());
        let place = &layout.plan(None)[0];
        let message = layout.message(place, &at(place), &Arc::new(dictionaries), 0).unwrap();
        file.decode(message).map(|batch| batch.unwrap().batch.num_rows()).collect::<Vec<_>>()
    };
    assert_eq!(decoded.iter().sum::<usize>(), 5000);
    assert!(decoded.iter().all(|rows| (1..=64).contains(rows)), "{decoded:?}");
}

fn small() -> RecordBatch {
    let words: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("b")].into_iter().collect();
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let lists = ListArray::new(
        item,
        OffsetBuffer::from_lengths([2, 0, 1]),
        Arc::new(Int64Array::from(vec![1, 2, 3])),
        None,
    );
    batch(vec![
        ("n", Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]))),
        ("s", Arc::new(StringViewArray::from(vec!["one", "a value of more than twelve bytes", "three"]))),
        ("w", Arc::new(words)),
        ("l", Arc::new(lists)),
    ])
}

#[test]
fn what_is_no_arrow_data_is_told() {
    let (arrow, stream) = (spec(FormatKind::Arrow, &["n"]), spec(FormatKind::ArrowStream, &["n"]));
    let (a_file, a_stream) = (file_of(&[small()], None), stream_of(&[small()], None));
    let file_error =
        |bytes: &[u8]| decode_file(&Bytes::copy_from_slice(bytes), &arrow).unwrap_err().to_string();
    let stream_error =
        |bytes: &[u8]| decode_stream(&Bytes::copy_from_slice(bytes), &stream, 16).unwrap_err().to_string();
    assert!(file_error(&a_stream).contains("TYPE = ARROW_STREAM"));
    assert!(file_error(b"a,b\n1,2\n").contains("not an Arrow file: it does not end with ARROW1"));
    assert!(file_error(&a_file[..a_file.len() - 1]).contains("cut off"));
    assert!(file_error(b"FEA1....FEA1").contains("version 1"));
    assert!(stream_error(&a_file).contains("TYPE = ARROW"));
    assert!(stream_error(b"a,b\n1,2\n3,4\n5,6\n").contains("not an Arrow stream"));
    assert!(stream_error(b"").contains("it has no schema"));
    let cut_off = stream_error(&a_stream[..a_stream.len() - 40]);
    assert!(
        cut_off.contains("message 3 of the Arrow stream") || cut_off.contains("within message 3"),
        "{cut_off}"
    );
    let mut longer = a_stream.to_vec();
    longer.extend_from_slice(&a_stream);
    assert!(stream_error(&longer).contains("bytes follow the end"));
}

#[test]
fn lying_sizes_are_told_before_memory_is_taken() {
    let spec = spec(FormatKind::ArrowStream, &["n", "s"]);
    let numbers = batch(vec![
        ("n", Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(7, 4000))) as ArrayRef),
        ("s", Arc::new(StringArray::from_iter_values(std::iter::repeat_n("abc", 4000)))),
    ]);
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let bytes = stream_of(std::slice::from_ref(&numbers), Some(codec)).to_vec();
        // The size that the first buffer of data claims to have.
        let at = bytes.windows(8).position(|window| window == 32_000i64.to_le_bytes()).unwrap();
        for (claim, told) in [
            (i64::MAX, "in memory"),
            (1 << 40, "in memory"),
            (32_001, "that it claims"),
            (8, "it claims"),
            (-7, "a compressed buffer"),
        ] {
            let mut lying = bytes.clone();
            lying[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            let error = decode_stream(&lying.into(), &spec, 1000).unwrap_err().to_string();
            assert!(error.contains(told) || error.contains("is damaged"), "{claim}: {error}");
        }
    }
    // A message that says it is larger than the file, after a good one.
    let mut bytes = stream_of(&[numbers], None).to_vec();
    bytes.truncate(bytes.len() - 8);
    let mut cutter = StreamCutter::new(bytes.len() as u64 + 100, LIMIT);
    let mut found = Vec::new();
    cutter.push(&bytes, &mut found).unwrap();
    let mut frame = vec![0xff; 4];
    frame.extend_from_slice(&(200i32 << 20).to_le_bytes());
    let error = cutter.push(&frame, &mut found).unwrap_err().to_string();
    assert_eq!(
        error,
        "message 3 of the Arrow stream is damaged (it claims 209715208 bytes, and 100 are left)"
    );
    assert_eq!(found.len(), 1);
}

#[test]
fn rows_that_a_batch_only_claims_are_not_counted() {
    let rows = batch(vec![(
        "n",
        Arc::new(Int16Array::from_iter_values(std::iter::repeat_n(7, 12_345))) as ArrayRef,
    )]);
    for codec in [None, Some(CompressionType::LZ4_FRAME)] {
        let truth = stream_of(std::slice::from_ref(&rows), codec).to_vec();
        for columns in [&[][..], &["n"]] {
            let spec = spec(FormatKind::ArrowStream, columns);
            for (claim, told) in [(1i64 << 62, "rows"), (1 << 39, "entries"), (-1, "below 0")] {
                let mut lying = truth.clone();
                for at in 0..lying.len() - 8 {
                    if lying[at..at + 8] == 12_345i64.to_le_bytes() {
                        lying[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                    }
                }
                let mut cutter = StreamCutter::new(lying.len() as u64, LIMIT);
                let mut found = Vec::new();
                let first = match cutter.push(&lying, &mut found) {
                    Err(error) => error,
                    Ok(()) => {
                        let file = Arc::new(ArrowFile::open(cutter.schema().unwrap(), &spec, LIMIT).unwrap());
                        file.decode(found.remove(0)).next().unwrap().unwrap_err()
                    }
                };
                assert!(first.to_string().contains(told), "{claim}, {columns:?}, {codec:?}: {first}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_data_is_an_error_or_rows_never_a_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        codec in 0..3,
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let codec = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)][codec as usize];
        let columns = ["n", "s", "w", "l", "$1"];
        for is_file in [true, false] {
            let mut bytes =
                if is_file { file_of(&[small(), small()], codec) } else { stream_of(&[small(), small()], codec) }.to_vec();
            for (place, byte) in &flips {
                let place = place.index(bytes.len());
                bytes[place] ^= byte;
            }
            if truncate {
                bytes.truncate(cut.index(bytes.len()));
            }
            let bytes = Bytes::from(bytes);
            let _ = if is_file {
                decode_file(&bytes, &spec(FormatKind::Arrow, &columns))
            } else {
                decode_stream(&bytes, &spec(FormatKind::ArrowStream, &columns), 64)
            };
        }
    }
}

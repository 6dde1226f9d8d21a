//! Every type of the format, as files hold it and as SQL sees it.

use ::parquet::data_type::{
    ByteArrayType, DataType as _, FixedLenByteArrayType, Int32Type as Int32, Int64Type as Int64,
};
use ::parquet::encryption::encrypt::FileEncryptionProperties;

use super::*;

/// One column as a file describes it, its values, and what SQL sees: the type, the values as text.
struct Case {
    schema: &'static str,
    write: Box<dyn FnOnce(&mut ColumnWriter<'_>)>,
    ty: &'static str,
    values: &'static [&'static str],
}

fn of<T: ::parquet::data_type::DataType>(
    schema: &'static str,
    values: Vec<T::T>,
    ty: &'static str,
    expected: &'static [&'static str],
) -> Case {
    Case {
        schema,
        write: Box::new(move |column| {
            let column = T::get_column_writer_mut(column).unwrap();
            column.write_batch(&values, None, None).unwrap();
        }),
        ty,
        values: expected,
    }
}

fn bytes(values: &[&[u8]]) -> Vec<ByteArray> {
    values.iter().map(|value| ByteArray::from(value.to_vec())).collect()
}

fn fixed(values: &[&[u8]]) -> Vec<FixedLenByteArray> {
    values.iter().map(|value| FixedLenByteArray::from(value.to_vec())).collect()
}

/// Twelve bytes of months, days and milliseconds.
fn interval(months: u32, days: u32, milliseconds: u32) -> Vec<u8> {
    [months, days, milliseconds].iter().flat_map(|part| part.to_le_bytes()).collect()
}

#[test]
fn each_physical_and_logical_type_has_its_type_in_sql() {
    let half = 0x3E00u16.to_le_bytes();
    let wide = [&[0xFF; 16][..], &[0x01; 16][..]];
    let intervals = [interval(14, 3, 4_005), interval(0, 0, 0)];
    let cases = [
        of::<Int32>("required int32 c (INTEGER(8,true))", vec![-128], "TINYINT", &["-128"]),
        of::<Int32>("required int32 c (INT_16)", vec![-300], "SMALLINT", &["-300"]),
        of::<Int32>("required int32 c (INTEGER(8,false))", vec![255], "TINYINT UNSIGNED", &["255"]),
        of::<Int32>("required int32 c (UINT_16)", vec![65_535], "SMALLINT UNSIGNED", &["65535"]),
        of::<Int32>("required int32 c (UINT_32)", vec![-1], "INT UNSIGNED", &["4294967295"]),
        of::<Int64>(
            "required int64 c (INTEGER(64,false))",
            vec![-1],
            "BIGINT UNSIGNED",
            &["18446744073709551615"],
        ),
        of::<Int32>("required int32 c (DATE)", vec![-1], "DATE", &["1969-12-31"]),
        of::<Int32>("required int32 c (TIME_MILLIS)", vec![3_723_004], "VARCHAR", &["01:02:03.004"]),
        of::<Int64>(
            "required int64 c (TIME(MICROS,true))",
            vec![3_723_000_004],
            "VARCHAR",
            &["01:02:03.000004"],
        ),
        of::<Int64>("required int64 c (TIME(NANOS,false))", vec![1], "VARCHAR", &["00:00:00.000000001"]),
        of::<Int64>(
            "required int64 c (TIMESTAMP_MILLIS)",
            vec![-1],
            "TIMESTAMP",
            &["1969-12-31 23:59:59.999000"],
        ),
        of::<Int64>(
            "required int64 c (TIMESTAMP(MILLIS,false))",
            vec![1],
            "TIMESTAMP",
            &["1970-01-01 00:00:00.001000"],
        ),
        of::<Int64>(
            "required int64 c (TIMESTAMP_MICROS)",
            vec![1],
            "TIMESTAMP",
            &["1970-01-01 00:00:00.000001"],
        ),
        of::<Int64>(
            "required int64 c (TIMESTAMP(MICROS,false))",
            vec![1],
            "TIMESTAMP",
            &["1970-01-01 00:00:00.000001"],
        ),
        of::<Int64>(
            "required int64 c (TIMESTAMP(NANOS,true))",
            vec![-1],
            "TIMESTAMP",
            &["1969-12-31 23:59:59.999999"],
        ),
        of::<Int64>(
            "required int64 c (TIMESTAMP(NANOS,false))",
            vec![1999],
            "TIMESTAMP",
            &["1970-01-01 00:00:00.000001"],
        ),
        of::<Int32>("required int32 c (DECIMAL(7,2))", vec![-12_345], "DECIMAL(7, 2)", &["-123.45"]),
        of::<Int64>("required int64 c (DECIMAL(18,3))", vec![1_234_567], "DECIMAL(18, 3)", &["1234.567"]),
        of::<FixedLenByteArrayType>(
            "required fixed_len_byte_array(3) c (DECIMAL(6,1))",
            fixed(&[&[0xFF, 0xFF, 0xFE], &[0, 1, 0]]),
            "DECIMAL(6, 1)",
            &["-0.2", "25.6"],
        ),
        of::<FixedLenByteArrayType>(
            "required fixed_len_byte_array(16) c (DECIMAL(38,0))",
            fixed(&wide),
            "DECIMAL(38, 0)",
            &["-1", "1334440654591915542993625911497130241"],
        ),
        of::<ByteArrayType>(
            "required binary c (DECIMAL(12,2))",
            bytes(&[&[0xFF], &[0x01, 0x00], &[0x00]]),
            "DECIMAL(12, 2)",
            &["-0.01", "2.56", "0.00"],
        ),
        of::<FixedLenByteArrayType>(
            "required fixed_len_byte_array(17) c (DECIMAL(39,0))",
            fixed(&[&[0xFF; 17]]),
            "VARCHAR",
            &["-1"],
        ),
        of::<FixedLenByteArrayType>(
            "required fixed_len_byte_array(2) c (FLOAT16)",
            fixed(&[&half]),
            "FLOAT",
            &["1.5"],
        ),
        of::<FixedLenByteArrayType>("required fixed_len_byte_array(2) c", fixed(&[b"ab"]), "BINARY", &["ab"]),
        of::<FixedLenByteArrayType>(
            "required fixed_len_byte_array(12) c (INTERVAL)",
            fixed(&[&intervals[0], &intervals[1]]),
            "VARCHAR",
            &["14 mons 3 days 4.005000000 secs", "0 secs"],
        ),
        of::<ByteArrayType>("required binary c (STRING)", bytes(&["ü".as_bytes()]), "VARCHAR", &["ü"]),
        of::<ByteArrayType>("required binary c (ENUM)", bytes(&[b"RED"]), "VARCHAR", &["RED"]),
        of::<ByteArrayType>("required binary c (JSON)", bytes(&[b"{\"b\": 1}"]), "VARIANT", &["{\"b\":1}"]),
        of::<ByteArrayType>("required binary c (BSON)", bytes(&[b"x"]), "BINARY", &["x"]),
        of::<ByteArrayType>("required binary c", bytes(&[b"x"]), "BINARY", &["x"]),
    ];
    for case in cases {
        let schema = format!("message m {{ {}; }}", case.schema);
        let file = raw_file(&schema, case.write);
        let found = file_schema(&metadata(&file).unwrap(), &format(&[])).unwrap();
        assert_eq!(found, [("c".to_owned(), SqlType::parse(case.ty).unwrap(), false)], "{}", case.schema);
        let (rows, errors) = read(&file, &spec(vec![column("c", None)]));
        assert_eq!(
            (rows.concat(), errors.len()),
            (case.values.iter().map(|v| (*v).to_owned()).collect(), 0),
            "{}",
            case.schema
        );
        // The whole row knows the same types.
        let (rows, errors) = read(&file, &spec(vec![whole_row()]));
        assert_eq!((rows.len(), errors.len()), (case.values.len(), 0), "{}", case.schema);
    }
}

#[test]
fn values_that_do_not_fit_reject_their_rows() {
    // A timestamp in milliseconds may lie beyond what microseconds can say.
    let file = raw_file("message m { required int64 c (TIMESTAMP_MILLIS); }", |column| {
        Int64::get_column_writer_mut(column).unwrap().write_batch(&[i64::MAX, 0], None, None).unwrap();
    });
    let (rows, errors) = read(&file, &spec(vec![column("c", None)]));
    assert_eq!(rows, [["1970-01-01 00:00:00.000000"]]);
    assert_eq!(errors, ["1: invalid value '9223372036854775807' for column 1 (c TIMESTAMP): out of range"]);
    // An interval of more months than a signed number holds.
    let file = raw_file("message m { required fixed_len_byte_array(12) c (INTERVAL); }", |column| {
        let values = fixed(&[&interval(u32::MAX, 0, 0), &interval(1, 0, 0)]);
        FixedLenByteArrayType::get_column_writer_mut(column)
            .unwrap()
            .write_batch(&values, None, None)
            .unwrap();
    });
    let (rows, errors) = read(&file, &spec(vec![column("c", None)]));
    assert_eq!((rows, errors.len()), (vec![vec!["1 mons".to_owned()]], 1));
}

#[test]
fn lists_of_every_age_are_arrays() {
    // Three levels; two levels, as older writers have it; a repeated field without any list; a list of tuples
    // whose repeated group is the element.
    let three = "message m { optional group c (LIST) { repeated group list { optional int32 element; } } }";
    let two = "message m { optional group c (LIST) { repeated int32 element; } }";
    let bare = "message m { repeated int32 c; }";
    let tuples = "message m { optional group c (LIST) { repeated group array { required int32 x; } } }";
    for (schema, greatest, ty, expected) in [
        (three, 3, "ARRAY(INT)", ["[1,2]", "[3]"]),
        (two, 2, "ARRAY(INT)", ["[1,2]", "[3]"]),
        (bare, 1, "ARRAY(INT)", ["[1,2]", "[3]"]),
        (tuples, 2, "ARRAY(TUPLE(x INT))", [r#"[{"x":1},{"x":2}]"#, r#"[{"x":3}]"#]),
    ] {
        let file = raw_file(schema, |column| {
            let levels = vec![greatest; 3];
            let column = Int32::get_column_writer_mut(column).unwrap();
            column.write_batch(&[1, 2, 3], Some(&levels), Some(&[0, 1, 0])).unwrap();
        });
        let found = file_schema(&metadata(&file).unwrap(), &format(&[])).unwrap();
        assert_eq!(found[0].1, SqlType::parse(ty).unwrap(), "{schema}");
        assert_eq!(read(&file, &spec(vec![column("c", None)])).0.concat(), expected, "{schema}");
        let variant = read(&file, &spec(vec![column("c", Some("VARIANT"))])).0.concat();
        assert_eq!(variant, expected, "{schema}");
    }
}

#[test]
fn intervals_below_tuples_and_lists_keep_their_neighbours() {
    let schema = "message m { optional group c { optional fixed_len_byte_array(12) i (INTERVAL); } }";
    let file = raw_file(schema, |column| {
        let column = FixedLenByteArrayType::get_column_writer_mut(column).unwrap();
        column.write_batch(&fixed(&[&interval(1, 2, 0)]), Some(&[2, 1, 0]), None).unwrap();
    });
    let (rows, errors) = read(&file, &spec(vec![column("c", None)]));
    assert!(errors.is_empty());
    assert_eq!(rows.concat(), [r#"{"i":"1 mons 2 days"}"#, r#"{"i":null}"#, "NULL"]);
}

#[test]
fn files_differ_in_their_columns_and_each_row_is_cast_by_itself() {
    let number: ArrayRef = Arc::new(Int32Array::from(vec![1, 300]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["2", "x"]));
    let time: ArrayRef = Arc::new(Int64Array::from(vec![5, 6]));
    let mut wanted = spec(vec![column("a", Some("TINYINT")), column("b", Some("VARCHAR"))]);
    wanted.format = format(&[("MISSING_FIELD_AS", "FIELD_DEFAULT")]);
    for (columns, rows, bad) in [
        (
            vec![("a", number)],
            vec![["1", "NULL"]],
            "2: invalid value '300' for column 1 (a TINYINT): out of range",
        ),
        (
            vec![("b", time), ("A", text)],
            vec![["2", "5"]],
            "2: invalid value 'x' for column 1 (a TINYINT): invalid digit",
        ),
    ] {
        let file = write(&RecordBatch::try_from_iter(columns).unwrap(), 10);
        let (found, errors) = read(&file, &wanted);
        assert_eq!(found, rows);
        assert_eq!(errors, [bad]);
    }
}

#[test]
fn encrypted_files_are_refused_by_name() {
    let batch = people();
    for (plaintext, expected) in [(false, "encrypted Parquet files"), (true, "encrypted")] {
        let keys = FileEncryptionProperties::builder(b"0123456789012345".to_vec())
            .with_plaintext_footer(plaintext)
            .with_column_key("name", b"1234567890123450".to_vec())
            .build()
            .unwrap();
        let properties = WriterProperties::builder().with_file_encryption_properties(keys).build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let error = metadata(&bytes.into()).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(error.kind(), stevedore_common::ErrorKind::Unsupported, "{error}");
    }
}

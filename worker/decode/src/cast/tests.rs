#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::*;
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::*;

fn context() -> CastContext {
    CastContext { column_number: 2, column_name: "b".into() }
}

fn field_of(array: &ArrayRef) -> Field {
    Field::new("b", array.data_type().clone(), true)
}

/// Each row as text: the value, `NULL`, or `!` and the reason of the reject.
fn rows_with(array: &ArrayRef, from: &Field, to: &str, options: &CastOptions) -> Vec<String> {
    let to = SqlType::parse(to).unwrap();
    let result = cast(array, from, &to, options, &context()).unwrap();
    assert_eq!(*result.values.data_type(), to.to_arrow());
    assert_eq!(result.values.len(), array.len());
    let mut rejects = result.rejects.map(|r| r.messages).unwrap_or_default().into_iter().peekable();
    let logical = result.values.logical_nulls();
    (0..array.len())
        .map(|row| {
            let null = logical.as_ref().is_some_and(|n| n.is_null(row));
            if let Some((_, message)) = rejects.next_if(|(rejected, _)| *rejected == row) {
                assert!(null, "rejected rows are NULL");
                format!("!{}", message.split_once("): ").unwrap().1)
            } else if null {
                "NULL".into()
            } else {
                display(&result.values, row)
            }
        })
        .collect()
}

fn display(array: &ArrayRef, row: usize) -> String {
    if !matches!(array.data_type(), DataType::Timestamp(..)) {
        return array_value_to_string(array, row).unwrap();
    }
    let text = show(array, row).replace(' ', "T");
    format!("{}Z", text.strip_suffix(".000000").unwrap_or(&text))
}

fn rows(array: impl Array + 'static, to: &str) -> Vec<String> {
    let array = make_array(array.to_data());
    rows_with(&array, &field_of(&array), to, &CastOptions::default())
}

fn in_zone(array: impl Array + 'static, to: &str, zone: &str) -> Vec<String> {
    let array = make_array(array.to_data());
    rows_with(&array, &field_of(&array), to, &CastOptions { timezone: zone.into(), ..Default::default() })
}

fn json(rows: &[&str]) -> (ArrayRef, Field) {
    (Arc::new(StringArray::from(rows.to_vec())), SqlType::Variant.to_field("v", true))
}

fn variant_rows(values: &[&str], to: &str) -> Vec<String> {
    let (array, field) = json(values);
    rows_with(&array, &field, to, &CastOptions::default())
}

#[test]
fn a_message_names_value_and_column() {
    let array: ArrayRef = Arc::new(StringArray::from(vec!["1", "b"]));
    let result =
        cast(&array, &field_of(&array), &SqlType::Int32, &CastOptions::default(), &context()).unwrap();
    let rejects = result.rejects.unwrap();
    assert_eq!(rejects.mask, BooleanArray::from(vec![false, true]));
    assert_eq!(rejects.messages, [(1, "invalid value 'b' for column 2 (b INT): invalid digit".to_owned())]);
}

#[test]
fn what_is_already_right_is_not_copied() {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let same = try_cast(&array, &field_of(&array), &SqlType::Int64, &CastOptions::default()).unwrap();
    assert!(Arc::ptr_eq(&array, &same));
    let (array, field) = json(&["{}"]);
    let same = try_cast(&array, &field, &SqlType::Variant, &CastOptions::default()).unwrap();
    assert!(Arc::ptr_eq(&array, &same));
}

#[test]
fn pairs_that_never_cast_are_errors() {
    let array: ArrayRef = Arc::new(Date32Array::from(vec![1]));
    let error =
        cast(&array, &field_of(&array), &SqlType::Boolean, &CastOptions::default(), &context()).unwrap_err();
    assert_eq!(error.message(), "cannot cast DATE to BOOLEAN");
    let options = CastOptions { timezone: "Mars/Base".into(), ..Default::default() };
    assert!(try_cast(&array, &field_of(&array), &SqlType::String, &options).is_err());
}

#[test]
fn text_to_scalars() {
    let text = |values: &[&str]| StringArray::from(values.to_vec());
    let mut with_null = vec![Some("7"), None];
    with_null.push(Some("x"));
    assert_eq!(rows(StringArray::from(with_null), "INT"), ["7", "NULL", "!invalid digit"]);
    assert_eq!(
        rows(text(&["1.5", "-2.5", "127", "128", " 3 "]), "TINYINT"),
        ["2", "-3", "127", "!out of range", "3"]
    );
    assert_eq!(
        rows(text(&["18446744073709551615", "-1"]), "UINT64"),
        ["18446744073709551615", "!out of range"]
    );
    assert_eq!(rows(text(&["1.5", "NaN", "abc"]), "DOUBLE"), ["1.5", "NaN", "!invalid number"]);
    assert_eq!(rows(text(&["1.005", "-1.005", "1000"]), "DECIMAL(5,2)"), ["1.01", "-1.01", "!out of range"]);
    assert_eq!(rows(text(&["true", "0", "maybe"]), "BOOLEAN"), ["true", "false", "!invalid boolean"]);
    assert_eq!(rows(text(&["2024-02-29"]), "DATE"), ["2024-02-29"]);
    assert!(rows(text(&["2023-02-29"]), "DATE")[0].starts_with("!invalid date"));
    assert_eq!(
        rows(text(&["2024-01-01 12:00:00", "1700000000"]), "TIMESTAMP"),
        ["2024-01-01T12:00:00Z", "2023-11-14T22:13:20Z"]
    );
    assert_eq!(in_zone(text(&["2024-01-01 12:00:00"]), "TIMESTAMP", "Asia/Tokyo"), ["2024-01-01T03:00:00Z"]);
    assert_eq!(rows(text(&["aé"]), "BINARY"), ["61c3a9"]);
}

#[test]
fn truncation_is_an_option() {
    let options = CastOptions { truncate: true, ..Default::default() };
    for array in [
        Arc::new(StringArray::from(vec!["1.9", "-1.9"])) as ArrayRef,
        Arc::new(Float64Array::from(vec![1.9, -1.9])),
        Arc::new(Decimal128Array::from(vec![19, -19]).with_precision_and_scale(3, 1).unwrap()),
    ] {
        assert_eq!(rows_with(&array, &field_of(&array), "INT", &options), ["1", "-1"]);
        assert_eq!(rows_with(&array, &field_of(&array), "INT", &CastOptions::default()), ["2", "-2"]);
    }
}

#[test]
fn numbers_to_numbers() {
    assert_eq!(
        rows(Int32Array::from(vec![Some(127), Some(-129), None]), "TINYINT"),
        ["127", "!out of range", "NULL"]
    );
    assert_eq!(rows(UInt64Array::from(vec![u64::MAX]), "BIGINT"), ["!out of range"]);
    assert_eq!(rows(Int64Array::from(vec![-1]), "UINT64"), ["!out of range"]);
    assert_eq!(
        rows(Float64Array::from(vec![0.5, -0.5, 2.4999, 1e10, f64::NAN, f64::INFINITY]), "INT"),
        ["1", "-1", "2", "!out of range", "!not a number", "!out of range"]
    );
    assert_eq!(
        rows(Float64Array::from(vec![9.3e18, -9_223_372_036_854_775_808.0, 1.8446744073709552e19]), "BIGINT"),
        ["!out of range", "-9223372036854775808", "!out of range"]
    );
    assert_eq!(
        rows(Float64Array::from(vec![1e39, f64::INFINITY, 0.1]), "FLOAT"),
        ["!out of range", "inf", "0.1"]
    );
    assert_eq!(
        rows(Float64Array::from(vec![1.25, 99.995, f64::NAN, 1e300]), "DECIMAL(4,2)"),
        ["1.25", "!out of range", "!not a finite number", "!out of range"]
    );
    assert_eq!(
        rows(Float32Array::from(vec![0.1, 16777216.0]), "DECIMAL(20,10)"),
        ["0.1000000000", "16777216.0000000000"]
    );
    assert_eq!(
        rows(Int32Array::from(vec![99, 100, -100]), "DECIMAL(4,2)"),
        ["99.00", "!out of range", "!out of range"]
    );
    assert_eq!(
        rows(UInt64Array::from(vec![u64::MAX]), "DECIMAL(38,18)"),
        ["18446744073709551615.000000000000000000"]
    );
    assert_eq!(rows(BooleanArray::from(vec![true, false]), "DECIMAL(2,1)"), ["1.0", "0.0"]);
    assert_eq!(rows(BooleanArray::from(vec![true, false]), "DECIMAL(1,1)"), ["!out of range", "0.0"]);
    assert_eq!(rows(BooleanArray::from(vec![true]), "DOUBLE"), ["1.0"]);
    assert_eq!(rows(Int8Array::from(vec![0, -3]), "BOOLEAN"), ["false", "true"]);
    assert_eq!(rows(Float32Array::from(vec![0.0, 0.5]), "BOOLEAN"), ["false", "true"]);
}

#[test]
fn decimals_round_half_away_from_zero_and_know_their_precision() {
    let decimals =
        |values: Vec<i128>, p, s| Decimal128Array::from(values).with_precision_and_scale(p, s).unwrap();
    assert_eq!(
        rows(decimals(vec![125, -125, 124, 99995], 10, 3), "DECIMAL(4,2)"),
        ["0.13", "-0.13", "0.12", "!out of range"]
    );
    assert_eq!(rows(decimals(vec![1], 38, 0), "DECIMAL(38,38)"), ["!out of range"]);
    assert_eq!(rows(decimals(vec![10i128.pow(38) - 1], 38, 0), "DECIMAL(38,1)"), ["!out of range"]);
    assert_eq!(rows(decimals(vec![10i128.pow(38) - 1, 4], 38, 38), "DECIMAL(3,0)"), ["1", "0"]);
    assert_eq!(rows(decimals(vec![25, -25, 12750], 5, 1), "TINYINT"), ["3", "-3", "!out of range"]);
    assert_eq!(
        rows(decimals(vec![1, 12345678901234567890123], 38, 20), "DOUBLE"),
        ["1e-20", "123.45678901234568"]
    );
    assert_eq!(rows(decimals(vec![0, -1], 5, 2), "BOOLEAN"), ["false", "true"]);
    assert_eq!(rows(decimals(vec![-5], 5, 2), "VARCHAR"), ["-0.05"]);
    let wide =
        Decimal256Array::from(vec![i256::from_i128(15), i256::MAX]).with_precision_and_scale(76, 1).unwrap();
    assert_eq!(rows(wide, "DECIMAL(10,0)"), ["2", "!out of range"]);
    let small = Decimal64Array::from(vec![15]).with_precision_and_scale(5, 1).unwrap();
    assert_eq!(rows(small, "INT"), ["2"]);
}

#[test]
fn times() {
    assert_eq!(
        rows(
            Int64Array::from(vec![1_700_000_000, 1_700_000_000_000, 1_700_000_000_000_000, i64::MAX]),
            "TIMESTAMP"
        ),
        ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z", "!out of range"]
    );
    assert_eq!(rows(UInt64Array::from(vec![u64::MAX]), "TIMESTAMP"), ["!out of range"]);
    assert_eq!(
        rows(TimestampNanosecondArray::from(vec![-1, 1999]).with_timezone("+02:00"), "TIMESTAMP"),
        ["1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00.000001Z"]
    );
    assert_eq!(
        rows(TimestampSecondArray::from(vec![i64::MAX, 1]), "TIMESTAMP"),
        ["!out of range", "1970-01-01T00:00:01Z"]
    );
    assert_eq!(
        in_zone(TimestampMillisecondArray::from(vec![0]), "TIMESTAMP", "Asia/Tokyo"),
        ["1969-12-31T15:00:00Z"]
    );
    let instant = || TimestampMicrosecondArray::from(vec![1_704_034_800_000_000]).with_timezone("UTC");
    assert_eq!(in_zone(instant(), "DATE", "UTC"), ["2023-12-31"]);
    assert_eq!(in_zone(instant(), "DATE", "Asia/Tokyo"), ["2024-01-01"]);
    assert_eq!(in_zone(instant(), "VARCHAR", "Asia/Tokyo"), ["2024-01-01 00:00:00.000000"]);
    assert_eq!(rows(instant(), "BIGINT"), ["1704034800000000"]);
    assert_eq!(rows(instant(), "INT"), ["!out of range"]);
    assert_eq!(
        in_zone(Date32Array::from(vec![0, i32::MAX]), "TIMESTAMP", "Asia/Tokyo"),
        ["1969-12-31T15:00:00Z", "!out of range"]
    );
    assert_eq!(rows(Date32Array::from(vec![19782, -1]), "VARCHAR"), ["2024-02-29", "1969-12-31"]);
    assert_eq!(rows(Date32Array::from(vec![19782]), "INT"), ["19782"]);
    assert_eq!(rows(Int32Array::from(vec![19782]), "DATE"), ["2024-02-29"]);
    assert_eq!(rows(Date64Array::from(vec![-1, i64::MAX]), "DATE"), ["1969-12-31", "!out of range"]);
    assert_eq!(rows(Time64MicrosecondArray::from(vec![1_500_000]), "VARCHAR"), ["00:00:01.500"]);
}

#[test]
fn other_layouts_are_unpacked() {
    let dictionary: DictionaryArray<Int8Type> =
        vec![Some("1"), None, Some("x"), Some("1")].into_iter().collect();
    assert_eq!(rows(dictionary.clone(), "INT"), ["1", "NULL", "!invalid digit", "1"]);
    assert_eq!(rows(dictionary, "VARCHAR"), ["1", "NULL", "x", "1"]);
    assert_eq!(rows(StringViewArray::from(vec!["a string that is long enough", "5"]), "INT")[1], "5");
    assert_eq!(rows(LargeStringArray::from(vec!["5"]), "VARCHAR"), ["5"]);
    assert_eq!(rows(NullArray::new(2), "INT"), ["NULL", "NULL"]);
    assert_eq!(rows(NullArray::new(1), "MAP(VARCHAR, INT)"), ["NULL"]);
    let float16 = arrow::compute::cast(&Float32Array::from(vec![1.5f32]), &DataType::Float16).unwrap();
    assert_eq!(rows(float16, "INT"), ["2"]);
    assert_eq!(
        rows(BinaryViewArray::from(vec![&b"ok"[..], b"\xff\xfe"]), "VARCHAR"),
        ["ok", "!the bytes are not UTF-8"]
    );
    let uuid: ArrayRef = Arc::new(FixedSizeBinaryArray::try_from_iter([[0x11u8; 16]].iter()).unwrap());
    let field = field_of(&uuid).with_metadata([("ARROW:extension:name".into(), "arrow.uuid".into())].into());
    assert_eq!(
        rows_with(&uuid, &field, "VARCHAR", &CastOptions::default()),
        ["11111111-1111-1111-1111-111111111111"]
    );
    assert_eq!(rows(uuid, "BINARY"), ["11".repeat(16)]);
}

#[test]
fn text_to_variant_is_json() {
    assert_eq!(
        rows(StringArray::from(vec![r#" {"b":1, "a":[ ]} "#, "x", "null"]), "VARIANT"),
        [r#"{"a":[],"b":1}"#, "!invalid JSON: expected a value at byte 1", "null"]
    );
    let array: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let options = CastOptions { invalid_json_as_null: true, ..Default::default() };
    assert_eq!(rows_with(&array, &field_of(&array), "VARIANT", &options), ["NULL"]);
    let dictionary: DictionaryArray<Int8Type> = vec!["[1, 2]"].into_iter().collect();
    assert_eq!(rows(dictionary, "VARIANT"), ["[1,2]"]);
}

#[test]
fn variant_to_scalars() {
    assert_eq!(
        variant_rows(&["1", "\"2\"", "true", "null", "1.5", "{}", "\"x\""], "INT"),
        ["1", "2", "1", "NULL", "2", "!invalid digit", "!invalid digit"]
    );
    assert_eq!(
        variant_rows(&["\"a\\n\"", "1.50", "null", r#"{"a":1}"#], "VARCHAR"),
        ["a\n", "1.50", "NULL", r#"{"a":1}"#]
    );
    assert_eq!(variant_rows(&["true", "\"false\"", "1"], "BOOLEAN"), ["true", "false", "true"]);
    assert_eq!(variant_rows(&["\"2024-01-02\""], "DATE"), ["2024-01-02"]);
    assert_eq!(
        variant_rows(&["1700000000", "\"2024-01-01T00:00:00Z\""], "TIMESTAMP"),
        ["2023-11-14T22:13:20Z", "2024-01-01T00:00:00Z"]
    );
    assert_eq!(variant_rows(&["12345678901234567890.123"], "DECIMAL(38,3)"), ["12345678901234567890.123"]);
    assert_eq!(variant_rows(&["\"NaN\"", "\"Infinity\""], "DOUBLE"), ["NaN", "inf"]);
    assert_eq!(variant_rows(&["\"01ff\"", "\"zz\"", "null"], "BINARY")[0], "01ff");
}

#[test]
fn variant_and_text_to_nested() {
    assert_eq!(
        variant_rows(&["[1,\"2\",null]", "null", "[]", "5", "[1,\"x\"]", "\"[7]\""], "ARRAY(INT)"),
        ["[1, 2, ]", "NULL", "[]", "!an array is expected", "!element 2: invalid digit", "[7]"]
    );
    assert_eq!(
        rows(StringArray::from(vec!["[1,2]", "[1", "[1]", "[1,null]"]), "VECTOR(2)"),
        [
            "[1.0, 2.0]",
            "!invalid JSON: an array is not closed at byte 3",
            "!the number of elements is not the dimension of the vector",
            "!element 2 is NULL"
        ]
    );
    assert_eq!(
        variant_rows(&[r#"{"b":1,"a":null}"#, "[]", r#"{"a":"x"}"#], "MAP(VARCHAR, INT)"),
        ["{b: 1, a: }", "!an object is expected", "!value 1: invalid digit"]
    );
    assert_eq!(
        variant_rows(&[r#"{"1":2,"x":3}"#, r#"{"4":5}"#], "MAP(INT, INT)"),
        ["!key 2: invalid digit", "{4: 5}"]
    );
    assert_eq!(
        variant_rows(
            &[r#"{"A":1,"b":"x"}"#, "[2,\"y\"]", "[3]", r#"{"a":"z"}"#, "{}"],
            "TUPLE(a INT, b VARCHAR)"
        ),
        [
            "{a: 1, b: x}",
            "{a: 2, b: y}",
            "!the array has not as many elements as the tuple has fields",
            "!field a: invalid digit",
            "{a: , b: }"
        ]
    );
    assert_eq!(
        variant_rows(&[r#"[{"k":[1]},{"k":["x"]}]"#], "ARRAY(TUPLE(k ARRAY(INT)))"),
        ["!element 2: field k: element 1: invalid digit"]
    );
    assert_eq!(variant_rows(&["[1,[2],null]"], "ARRAY(VARIANT)"), ["[1, [2], ]"]);
}

fn lists(rows: Vec<Option<Vec<Option<&str>>>>) -> ListArray {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for row in rows {
        match row {
            Some(row) => {
                row.into_iter().for_each(|v| builder.values().append_option(v));
                builder.append(true);
            }
            None => builder.append(false),
        }
    }
    builder.finish()
}

#[test]
fn arrays_cast_by_element() {
    let list = lists(vec![
        Some(vec![Some("1"), None]),
        None,
        Some(vec![Some("2"), Some("x"), Some("y")]),
        Some(vec![]),
        Some(vec![Some("z")]),
        Some(vec![Some("3")]),
    ]);
    let expected = ["[1, ]", "NULL", "!element 2: invalid digit", "[]", "!element 1: invalid digit", "[3]"];
    assert_eq!(rows(list.clone(), "ARRAY(BIGINT)"), expected);
    assert_eq!(rows(list.slice(2, 4), "ARRAY(BIGINT)"), expected[2..]);
    let large = arrow::compute::cast(&list, &DataType::new_large_list(DataType::Utf8, true)).unwrap();
    assert_eq!(rows(large, "ARRAY(BIGINT)"), expected);
    assert_eq!(rows(list.slice(5, 1), "VECTOR(1)"), ["[3.0]"]);
    assert_eq!(
        rows(list.clone(), "VECTOR(1)"),
        [
            "!the number of elements is not the dimension of the vector",
            "NULL",
            "!element 2: invalid number",
            "!the number of elements is not the dimension of the vector",
            "!element 1: invalid number",
            "[3.0]"
        ]
    );
    assert_eq!(rows(list, "VARIANT")[..3], [r#"["1",null]"#, "NULL", r#"["2","x","y"]"#]);
}

#[test]
fn what_lies_under_a_null_row_is_no_error() {
    let strings = StringArray::from(vec!["x", "1"]);
    let field = Arc::new(Field::new("item", DataType::Utf8, true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1]);
    let nulls = arrow::buffer::NullBuffer::from(vec![false, true]);
    let list = ListArray::new(field, offsets, Arc::new(strings.clone()), Some(nulls.clone()));
    assert_eq!(rows(list, "ARRAY(INT)"), ["NULL", "[1]"]);
    let fields = Fields::from(vec![Field::new("a", DataType::Utf8, true)]);
    let tuple = StructArray::new(fields, vec![Arc::new(strings)], Some(nulls));
    assert_eq!(rows(tuple, "TUPLE(a INT)"), ["NULL", "{a: 1}"]);
}

#[test]
fn vectors_and_arrays() {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), 2);
    for row in [Some([1.0, 2.0]), None] {
        row.unwrap_or_default().iter().for_each(|v| builder.values().append_value(*v));
        builder.append(row.is_some());
    }
    let vectors = builder.finish();
    assert_eq!(rows(vectors.clone(), "VECTOR(2)"), ["[1.0, 2.0]", "NULL"]);
    assert_eq!(
        rows(vectors.clone(), "VECTOR(3)"),
        ["!the number of elements is not the dimension of the vector", "NULL"]
    );
    assert_eq!(rows(vectors.clone(), "ARRAY(INT)"), ["[1, 2]", "NULL"]);
    assert_eq!(rows(vectors.clone(), "VARCHAR"), ["[1.0,2.0]", "NULL"]);
    assert_eq!(rows(vectors.slice(1, 1), "VARIANT"), ["NULL"]);
    let fixed = arrow::compute::cast(
        &vectors,
        &DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float64, true)), 2),
    )
    .unwrap();
    assert_eq!(rows(fixed, "VECTOR(2)"), ["[1.0, 2.0]", "NULL"]);
}

#[test]
fn tuples_go_by_name_or_by_position() {
    let fields =
        Fields::from(vec![Field::new("A", DataType::Int32, true), Field::new("b", DataType::Utf8, true)]);
    let tuple = StructArray::new(
        fields,
        vec![Arc::new(Int32Array::from(vec![1, 300])), Arc::new(StringArray::from(vec!["x", "y"]))],
        None,
    );
    assert_eq!(
        rows(tuple.clone(), "TUPLE(b VARCHAR, a BIGINT, c DATE)"),
        ["{b: x, a: 1, c: }", "{b: y, a: 300, c: }"]
    );
    assert_eq!(
        rows(tuple.clone(), "TUPLE(x TINYINT, y VARCHAR)"),
        ["{x: 1, y: x}", "!field x: out of range"]
    );
    assert_eq!(rows(tuple, "VARIANT"), [r#"{"A":1,"b":"x"}"#, r#"{"A":300,"b":"y"}"#]);
}

#[test]
fn maps_cast_by_key_and_value() {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for (key, value) in [("2", 300), ("1", 5)] {
        builder.keys().append_value(key);
        builder.values().append_value(value);
        builder.append(true).unwrap();
    }
    let map = builder.finish();
    assert_eq!(rows(map.clone(), "MAP(INT, TINYINT)"), ["!value 1: out of range", "{1: 5}"]);
    assert_eq!(rows(map.slice(1, 1), "MAP(INT, VARCHAR)"), ["{1: 5}"]);
    assert_eq!(rows(map, "VARIANT"), [r#"{"2":300}"#, r#"{"1":5}"#]);
}

fn any_type() -> impl Strategy<Value = SqlType> {
    let scalar = prop_oneof![
        Just(SqlType::Boolean),
        Just(SqlType::Int8),
        Just(SqlType::Int64),
        Just(SqlType::UInt64),
        Just(SqlType::Float32),
        Just(SqlType::Float64),
        (1u8..=38).prop_flat_map(|p| (Just(p), 0..=p)).prop_map(|(p, s)| SqlType::Decimal(p, s)),
        Just(SqlType::Date),
        Just(SqlType::Timestamp),
        Just(SqlType::String),
        Just(SqlType::Binary),
        Just(SqlType::Variant),
        (1u16..4).prop_map(SqlType::Vector),
    ];
    scalar.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|t| SqlType::Array(Box::new(t))),
            inner.clone().prop_map(|t| SqlType::Map(Box::new(SqlType::String), Box::new(t))),
            prop::collection::vec(inner, 1..3).prop_map(|types| {
                SqlType::Tuple(types.into_iter().enumerate().map(|(i, t)| (format!("f{i}"), t)).collect())
            }),
        ]
    })
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|v| v.to_string()),
        any::<f64>().prop_map(|v| v.to_string()),
        Just("true".to_owned()),
        Just("2024-02-29".to_owned()),
        Just("2024-02-29 12:00:00.5".to_owned()),
        Just("[1,2]".to_owned()),
        Just(r#"[[1],["x",null]]"#.to_owned()),
        Just(r#"{"f0":1,"f1":"y"}"#.to_owned()),
        Just(r#"{"f0":[1,2,3],"f1":{"a":true}}"#.to_owned()),
        Just("null".to_owned()),
        ".{0,12}",
        r#"[\[\]{}",:0-9a-z\\ ]{0,16}"#,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..Default::default() })]

    /// Text to a type, that to another: no panic, and every row is a value, a NULL from a NULL (or a
    /// JSON null), or a reject.
    #[test]
    fn rejects_and_values_partition_the_rows(
        texts in prop::collection::vec(prop::option::of(any_text()), 0..12),
        first in any_type(),
        second in any_type(),
        zone in prop_oneof![Just("UTC"), Just("America/New_York"), Just("+05:30")],
        start in 0usize..4,
    ) {
        let options = CastOptions { timezone: zone.into(), ..Default::default() };
        let array: ArrayRef = Arc::new(StringArray::from(texts));
        let array = array.slice(start.min(array.len()), array.len() - start.min(array.len()));
        let mut source = (array.clone(), field_of(&array));
        for ty in [first, second] {
            let result = match cast(&source.0, &source.1, &ty, &options, &context()) {
                Ok(result) => result,
                Err(error) => {
                    prop_assert!(error.message().starts_with("cannot cast"), "{error}");
                    prop_assert!(check_field(&source.1, &ty).is_err());
                    break;
                }
            };
            prop_assert!(check_field(&source.1, &ty).is_ok());
            prop_assert_eq!(result.values.data_type(), &ty.to_arrow());
            prop_assert_eq!(result.values.len(), source.0.len());
            result.values.to_data().validate_full().unwrap();
            let rejects = result.rejects.clone();
            let from_variant = natural_type(&source.1).unwrap() == SqlType::Variant;
            for row in 0..source.0.len() {
                let rejected = rejects.as_ref().is_some_and(|r| r.mask.value(row));
                if source.0.is_null(row) {
                    prop_assert!(result.values.is_null(row) && !rejected);
                } else if rejected {
                    prop_assert!(result.values.is_null(row));
                } else if !from_variant {
                    let json_null = show(&source.0, row).contains("null");
                    prop_assert!(result.values.is_valid(row) || json_null, "row {row} is lost");
                }
            }
            if let Some(rejects) = rejects {
                prop_assert_eq!(rejects.mask.true_count(), rejects.messages.len());
                for (row, message) in rejects.messages {
                    prop_assert!(rejects.mask.value(row));
                    prop_assert!(!message.contains('\n'));
                }
            }
            source = (result.values, ty.to_field("b", true));
        }
    }

    /// Whatever is valid JSON survives, canonical text is a fixed point, and damage is no panic.
    #[test]
    fn json_text_never_panics(text in any_text(), cut in 0usize..40) {
        let mut out = String::new();
        if crate::variant::canonical_into(&text, 16, &mut out).is_ok() {
            let mut again = String::new();
            crate::variant::canonical_into(&out, 16, &mut again).unwrap();
            prop_assert_eq!(&out, &again);
            let (a, b): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(&text).unwrap(), serde_json::from_str(&out).unwrap());
            prop_assert_eq!(a, b);
        } else {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_err());
        }
        let head: String = text.chars().take(cut).collect();
        let path = [crate::variant::PathStep::Field("f0".into()), crate::variant::PathStep::Index(1)];
        let _ = crate::variant::path_of(&head, &path);
        let _ = crate::variant::compare(&head, &text);
    }
}

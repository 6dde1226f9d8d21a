//! Any Arrow value as canonical JSON: numbers as they are (decimals digit for digit), NaN and the
//! infinities as strings, dates and timestamps as text, BINARY as hexadecimal digits, structs and maps
//! as objects with sorted keys, VARIANT as it stands.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, Int64Array, RecordBatch,
    StringArray, StringBuilder, StructArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute;
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Float64Type, Int64Type, UInt64Type};
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

use super::canonical::push_escaped;
use crate::cast;
use crate::spec::CastOptions;

/// Writes the values of one array as JSON.
pub struct JsonWriter {
    node: Node,
}

impl JsonWriter {
    /// Prepares an array; `field` describes it.
    ///
    /// # Errors
    /// Where the dialect has no type for it.
    pub fn new(array: &ArrayRef, field: &Field, options: &CastOptions) -> Result<Self> {
        Ok(Self { node: Node::new(array, field, options)? })
    }

    /// Appends the value of a row; NULL and rows that are not there are `null`.
    pub fn write(&self, row: usize, out: &mut String) {
        self.node.write(row, out);
    }
}

/// An array as VARIANT; NULL stays NULL.
///
/// # Errors
/// Where the dialect has no type for it.
pub fn to_json(array: &ArrayRef, field: &Field, options: &CastOptions) -> Result<StringArray> {
    let writer = JsonWriter::new(array, field, options)?;
    let nulls = array.logical_nulls();
    let mut builder = StringBuilder::with_capacity(array.len(), array.len() * 8);
    let mut buffer = String::new();
    for row in 0..array.len() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            builder.append_null();
        } else {
            buffer.clear();
            writer.write(row, &mut buffer);
            builder.append_value(&buffer);
        }
    }
    Ok(builder.finish())
}

/// Each row of a batch as an object with a member per column.
///
/// # Errors
/// As [`to_json`].
pub fn rows_to_json(batch: &RecordBatch, options: &CastOptions) -> Result<StringArray> {
    let node = Node::object(batch.schema().fields(), batch.columns(), None, options)?;
    let mut builder = StringBuilder::with_capacity(batch.num_rows(), batch.num_rows() * 64);
    let mut buffer = String::new();
    for row in 0..batch.num_rows() {
        buffer.clear();
        node.write(row, &mut buffer);
        builder.append_value(&buffer);
    }
    Ok(builder.finish())
}

enum Node {
    Bool(BooleanArray),
    Int(Int64Array),
    UInt(UInt64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    /// Text that is JSON already: decimals, VARIANT.
    Raw(StringArray),
    Text(StringArray),
    Binary(BinaryArray),
    List {
        nulls: Option<NullBuffer>,
        offsets: Vec<i32>,
        items: Box<Node>,
    },
    Map {
        nulls: Option<NullBuffer>,
        offsets: Vec<i32>,
        keys: StringArray,
        values: Box<Node>,
    },
    /// Members with their written `"key":`, in order.
    Object {
        nulls: Option<NullBuffer>,
        members: Vec<(String, Node)>,
    },
}

impl Node {
    fn new(array: &ArrayRef, field: &Field, options: &CastOptions) -> Result<Self> {
        let ty = cast::natural_type(field)?;
        let wrong = || Error::internal(format!("{} is no layout of {ty}", array.data_type()));
        // Lists, maps and structs keep their children as they are: only this layer is brought into
        // the layout of its type. A value that does not fit its own type (a date in the year
        // 900000) is NULL.
        let plain = cast::plain_or_null(array, field, options)?;
        let (array, field) = (&plain.0, &plain.1);
        Ok(match &ty {
            SqlType::Boolean => Self::Bool(array.as_boolean_opt().ok_or_else(wrong)?.clone()),
            SqlType::Int8 | SqlType::Int16 | SqlType::Int32 | SqlType::Int64 => {
                Self::Int(converted(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            SqlType::UInt8 | SqlType::UInt16 | SqlType::UInt32 | SqlType::UInt64 => {
                Self::UInt(converted(array, &DataType::UInt64)?.as_primitive::<UInt64Type>().clone())
            }
            SqlType::Float32 => {
                Self::Float32(array.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?.clone())
            }
            SqlType::Float64 => {
                Self::Float64(array.as_primitive_opt::<Float64Type>().ok_or_else(wrong)?.clone())
            }
            SqlType::Decimal(..) => Self::Raw(converted(array, &DataType::Utf8)?.as_string::<i32>().clone()),
            SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz => {
                let text = cast::try_cast(array, field, &SqlType::String, options)?;
                Self::Text(text.as_string::<i32>().clone())
            }
            SqlType::Variant => Self::Raw(array.as_string_opt::<i32>().ok_or_else(wrong)?.clone()),
            SqlType::String => Self::Text(array.as_string_opt::<i32>().ok_or_else(wrong)?.clone()),
            SqlType::Binary => Self::Binary(array.as_binary_opt::<i32>().ok_or_else(wrong)?.clone()),
            SqlType::Vector(n) => {
                let list = array.as_fixed_size_list_opt().ok_or_else(wrong)?;
                let width = i32::from(*n);
                let rows = i32::try_from(list.len()).map_err(|_| wrong())?;
                let offsets = (0..=rows).map(|row| row.checked_mul(width)).collect::<Option<Vec<i32>>>();
                let values = list.values().as_primitive_opt::<Float32Type>().ok_or_else(wrong)?.clone();
                Self::List {
                    nulls: list.nulls().cloned(),
                    offsets: offsets.ok_or_else(wrong)?,
                    items: Box::new(Self::Float32(values)),
                }
            }
            SqlType::Array(_) => {
                let list = array.as_list_opt::<i32>().ok_or_else(wrong)?;
                let DataType::List(item) = field.data_type() else { return Err(wrong()) };
                Self::List {
                    nulls: list.nulls().cloned(),
                    offsets: list.value_offsets().to_vec(),
                    items: Box::new(Self::new(list.values(), item, options)?),
                }
            }
            SqlType::Map(..) => {
                let map = array.as_map_opt().ok_or_else(wrong)?;
                let DataType::Map(entries, _) = field.data_type() else { return Err(wrong()) };
                let DataType::Struct(fields) = entries.data_type() else { return Err(wrong()) };
                let [key, value] = fields.as_ref() else { return Err(wrong()) };
                let keys = cast::try_cast(map.keys(), key, &SqlType::String, options)?;
                Self::Map {
                    nulls: map.nulls().cloned(),
                    offsets: map.value_offsets().to_vec(),
                    keys: keys.as_string::<i32>().clone(),
                    values: Box::new(Self::new(map.values(), value, options)?),
                }
            }
            SqlType::Tuple(_) => {
                let array: &StructArray = array.as_struct_opt().ok_or_else(wrong)?;
                let DataType::Struct(fields) = field.data_type() else { return Err(wrong()) };
                Self::object(fields, array.columns(), array.nulls().cloned(), options)?
            }
        })
    }

    fn object(
        fields: &Fields,
        columns: &[ArrayRef],
        nulls: Option<NullBuffer>,
        options: &CastOptions,
    ) -> Result<Self> {
        let mut members = Vec::with_capacity(fields.len());
        for (field, column) in fields.iter().zip(columns) {
            let mut key = String::new();
            push_escaped(field.name(), &mut key);
            key.push(':');
            members.push((key, Self::new(column, field, options)?));
        }
        members.sort_by(|a, b| compare_keys(&a.0, &b.0));
        // An object has a key once; of columns with one name the first stands.
        members.dedup_by(|b, a| a.0 == b.0);
        Ok(Self::Object { nulls, members })
    }

    fn is_null(&self, row: usize) -> bool {
        let null = |array: &dyn Array| row >= array.len() || array.is_null(row);
        match self {
            Self::Bool(array) => null(array),
            Self::Int(array) => null(array),
            Self::UInt(array) => null(array),
            Self::Float32(array) => null(array),
            Self::Float64(array) => null(array),
            Self::Raw(array) | Self::Text(array) => null(array),
            Self::Binary(array) => null(array),
            Self::List { nulls, offsets, .. } | Self::Map { nulls, offsets, .. } => {
                row + 1 >= offsets.len() || nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
            }
            Self::Object { nulls, .. } => nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)),
        }
    }

    fn write(&self, row: usize, out: &mut String) {
        if self.is_null(row) {
            out.push_str("null");
            return;
        }
        match self {
            Self::Bool(array) => out.push_str(if array.value(row) { "true" } else { "false" }),
            Self::Int(array) => out.push_str(itoa::Buffer::new().format(array.value(row))),
            Self::UInt(array) => out.push_str(itoa::Buffer::new().format(array.value(row))),
            Self::Float32(array) => push_float(array.value(row), array.value(row).into(), out),
            Self::Float64(array) => push_float(array.value(row), array.value(row), out),
            Self::Raw(array) => out.push_str(array.value(row)),
            Self::Text(array) => push_escaped(array.value(row), out),
            Self::Binary(array) => {
                out.push('"');
                out.push_str(&hex::encode(array.value(row)));
                out.push('"');
            }
            Self::List { offsets, items, .. } => {
                out.push('[');
                for (n, item) in range(offsets, row).enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    items.write(item, out);
                }
                out.push(']');
            }
            Self::Map { offsets, keys, values, .. } => {
                let mut entries: Vec<usize> = range(offsets, row).filter(|i| keys.is_valid(*i)).collect();
                entries.sort_by_key(|i| keys.value(*i));
                out.push('{');
                for (n, entry) in entries.iter().enumerate() {
                    // Of equal keys the last one stands; the sort is stable.
                    if entries.get(n + 1).is_some_and(|next| keys.value(*next) == keys.value(*entry)) {
                        continue;
                    }
                    if !out.ends_with('{') {
                        out.push(',');
                    }
                    push_escaped(keys.value(*entry), out);
                    out.push(':');
                    values.write(*entry, out);
                }
                out.push('}');
            }
            Self::Object { members, .. } => {
                out.push('{');
                for (n, (key, member)) in members.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    out.push_str(key);
                    member.write(row, out);
                }
                out.push('}');
            }
        }
    }
}

/// Compares written keys by what stands between the quotes, as canonical text does.
fn compare_keys(a: &str, b: &str) -> std::cmp::Ordering {
    let inner = |key: &str| key.len().saturating_sub(2);
    a[1..inner(a)].cmp(&b[1..inner(b)])
}

fn range(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    offsets[row] as usize..offsets[row + 1] as usize
}

fn converted(array: &ArrayRef, to: &DataType) -> Result<Arc<dyn Array>> {
    compute::cast(array, to).map_err(|error| Error::internal(format!("values as JSON: {error}")))
}

/// The shortest digits that read back as the same float, always with a point or an exponent.
fn push_float<T: lexical_core::ToLexical>(value: T, wide: f64, out: &mut String) {
    if wide.is_nan() {
        out.push_str("\"NaN\"");
    } else if wide.is_infinite() {
        out.push_str(if wide > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else {
        let mut buffer = [0u8; 64];
        let written = lexical_core::write(value, &mut buffer);
        out.push_str(std::str::from_utf8(written).unwrap_or("null"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use arrow::array::{Decimal128Array, Int32Array, MapBuilder, StringBuilder as Keys};
    use arrow::datatypes::Schema;

    use super::*;

    fn json(array: ArrayRef) -> Vec<Option<String>> {
        let field = Field::new("c", array.data_type().clone(), true);
        let json = to_json(&array, &field, &CastOptions::default()).unwrap();
        json.iter().map(|v| v.map(str::to_owned)).collect()
    }

    #[test]
    fn scalars() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(json(Arc::new(Int32Array::from(vec![Some(-1), None]))), [some("-1"), None]);
        assert_eq!(
            json(Arc::new(Float64Array::from(vec![1.0, 0.1, 1e300, f64::NAN, f64::NEG_INFINITY]))),
            [some("1.0"), some("0.1"), some("1.0e300"), some("\"NaN\""), some("\"-Infinity\"")]
        );
        assert_eq!(json(Arc::new(Float32Array::from(vec![0.1f32]))), [some("0.1")]);
        let decimals = Decimal128Array::from(vec![12345, -5]).with_precision_and_scale(38, 3).unwrap();
        assert_eq!(json(Arc::new(decimals)), [some("12.345"), some("-0.005")]);
        assert_eq!(json(Arc::new(StringArray::from(vec!["a\"\n"]))), [some(r#""a\"\n""#)]);
        assert_eq!(json(Arc::new(BinaryArray::from(vec![&b"\x01\xff"[..]]))), [some("\"01ff\"")]);
        let time = arrow::array::TimestampMillisecondArray::from(vec![1]);
        assert_eq!(json(Arc::new(time)), [some("\"1970-01-01 00:00:00.001000\"")]);
    }

    #[test]
    fn rows_are_objects_with_sorted_keys() {
        let mut map = MapBuilder::new(None, Keys::new(), arrow::array::Int32Builder::new());
        map.keys().append_value("z");
        map.values().append_value(1);
        map.keys().append_value("a");
        map.values().append_null();
        map.append(true).unwrap();
        let map = map.finish();
        let schema = Schema::new(vec![
            Field::new("b", DataType::Int32, true),
            Field::new("a", map.data_type().clone(), true),
            SqlType::Variant.to_field("v", true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![None::<i32>])),
            Arc::new(map),
            Arc::new(StringArray::from(vec![r#"{"x":[1]}"#])),
        ];
        let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
        let rows = rows_to_json(&batch, &CastOptions::default()).unwrap();
        assert_eq!(rows.value(0), r#"{"a":{"a":null,"z":1},"b":null,"v":{"x":[1]}}"#);
    }
}

//! Text to everything and everything to text.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, PrimitiveArray, StringArray,
    StringBuilder,
};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use stevedore_common::error::Result;
use stevedore_common::types::SqlType;

use super::{Env, Reject, arrow_error, as_strings, nulls_with, temporal, variant};
use crate::errors::cut;
use crate::parse::datetime::{parse_date, parse_timestamp};
use crate::parse::decimal::parse_decimal;
use crate::parse::number::{parse_float, parse_integer};
use crate::parse::parse_boolean;
use crate::variant::{MAX_NESTING, canonical_into};

/// Parses each string that is not NULL.
fn parse<T: ArrowPrimitiveType>(
    strings: &StringArray,
    rejects: &mut Vec<Reject>,
    parse: impl Fn(&[u8]) -> Result<T::Native, &'static str>,
) -> PrimitiveArray<T> {
    let first = rejects.len();
    let mut values = vec![T::Native::default(); strings.len()];
    for (row, slot) in values.iter_mut().enumerate() {
        if strings.is_null(row) {
            continue;
        }
        let text = strings.value(row);
        match parse(text.as_bytes()) {
            Ok(value) => *slot = value,
            Err(reason) => rejects.push(Reject { row, value: cut(text).into_owned(), reason: reason.into() }),
        }
    }
    PrimitiveArray::new(values.into(), nulls_with(strings.nulls(), strings.len(), &rejects[first..]))
}

pub(super) fn from_text(
    array: &ArrayRef,
    to: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let strings = as_strings(array)?;
    let truncate = env.options.truncate;
    macro_rules! integers {
        ($ty:ty) => {
            Arc::new(parse::<$ty>(strings, rejects, |text| parse_integer(text, truncate)))
        };
    }
    Ok(match to {
        SqlType::Boolean => booleans(strings, rejects),
        SqlType::Int8 => integers!(Int8Type),
        SqlType::Int16 => integers!(Int16Type),
        SqlType::Int32 => integers!(Int32Type),
        SqlType::Int64 => integers!(Int64Type),
        SqlType::UInt8 => integers!(UInt8Type),
        SqlType::UInt16 => integers!(UInt16Type),
        SqlType::UInt32 => integers!(UInt32Type),
        SqlType::UInt64 => integers!(UInt64Type),
        SqlType::Float32 => Arc::new(parse::<Float32Type>(strings, rejects, |t| parse_float(t, b"NaN"))),
        SqlType::Float64 => Arc::new(parse::<Float64Type>(strings, rejects, |t| parse_float(t, b"NaN"))),
        SqlType::Decimal(precision, scale) => {
            let values =
                parse::<Decimal128Type>(strings, rejects, |text| parse_decimal(text, *precision, *scale));
            Arc::new(values.with_data_type(to.to_arrow()))
        }
        SqlType::Date => Arc::new(parse::<Date32Type>(strings, rejects, parse_date)),
        SqlType::Timestamp | SqlType::TimestampTz => {
            let zone = env.zone;
            let values =
                parse::<TimestampMicrosecondType>(strings, rejects, |text| parse_timestamp(text, zone));
            Arc::new(values.with_timezone("UTC"))
        }
        // Other layouts of text are text by now.
        SqlType::String => array.clone(),
        SqlType::Binary => {
            let (offsets, values, nulls) = strings.clone().into_parts();
            Arc::new(BinaryArray::new(offsets, values, nulls))
        }
        SqlType::Variant => to_variant(array, env, rejects)?,
        SqlType::Array(_) | SqlType::Map(..) | SqlType::Tuple(_) | SqlType::Vector(_) => {
            let json = json_or_reject(strings, false, rejects);
            variant::from_variant(&json, to, env, rejects)?
        }
    })
}

fn booleans(strings: &StringArray, rejects: &mut Vec<Reject>) -> ArrayRef {
    let first = rejects.len();
    let mut values = vec![false; strings.len()];
    for (row, slot) in values.iter_mut().enumerate() {
        if strings.is_null(row) {
            continue;
        }
        match parse_boolean(strings.value(row).as_bytes()) {
            Ok(value) => *slot = value,
            Err(reason) => {
                let value = cut(strings.value(row)).into_owned();
                rejects.push(Reject { row, value, reason: reason.into() });
            }
        }
    }
    let nulls = nulls_with(strings.nulls(), strings.len(), &rejects[first..]);
    Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls))
}

/// Text to VARIANT: the text is JSON.
pub(super) fn to_variant(array: &ArrayRef, env: &Env<'_>, rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    Ok(json_or_reject(as_strings(array)?, env.options.invalid_json_as_null, rejects))
}

fn json_or_reject(strings: &StringArray, invalid_as_null: bool, rejects: &mut Vec<Reject>) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(strings.len(), strings.value_data().len());
    let mut buffer = String::new();
    for row in 0..strings.len() {
        if strings.is_null(row) {
            builder.append_null();
            continue;
        }
        buffer.clear();
        let text = strings.value(row);
        match canonical_into(text, MAX_NESTING, &mut buffer) {
            Ok(()) => builder.append_value(&buffer),
            Err(error) => {
                builder.append_null();
                if !invalid_as_null {
                    let (value, reason) = (cut(text).into_owned(), error.to_string().into());
                    rejects.push(Reject { row, value, reason });
                }
            }
        }
    }
    Arc::new(builder.finish())
}

/// Everything but VARIANT to text: numbers and dates as they print, timestamps in the session's time
/// zone, nested values as JSON, BINARY as the UTF-8 that it must be.
pub(super) fn to_text(
    array: &ArrayRef,
    field: &Field,
    from: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    match from {
        SqlType::String => Ok(array.clone()),
        SqlType::Timestamp | SqlType::TimestampTz => {
            let instants = array.as_primitive::<TimestampMicrosecondType>();
            Ok(print(instants, 26, |micros, out| temporal::push_timestamp(micros, env.zone, out)))
        }
        SqlType::Date => {
            let dates = array.as_primitive::<Date32Type>();
            Ok(print(dates, 10, |days, out| temporal::push_date(days.into(), out)))
        }
        SqlType::Binary => binary_to_text(array.as_binary::<i32>(), rejects),
        SqlType::Array(_) | SqlType::Map(..) | SqlType::Tuple(_) | SqlType::Vector(_) => {
            Ok(Arc::new(crate::variant::to_json(array, field, env.options)?))
        }
        // Arrow prints numbers and booleans the way the dialect does.
        _ => arrow::compute::cast(array, &DataType::Utf8).map_err(arrow_error),
    }
}

fn print<S: ArrowPrimitiveType>(
    array: &PrimitiveArray<S>,
    width: usize,
    push: impl Fn(S::Native, &mut String),
) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(array.len(), array.len() * width);
    let mut buffer = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            builder.append_null();
        } else {
            buffer.clear();
            push(array.value(row), &mut buffer);
            builder.append_value(&buffer);
        }
    }
    Arc::new(builder.finish())
}

fn binary_to_text(array: &BinaryArray, rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    // All at once where all are text, which is the rule.
    let (offsets, values, nulls) = array.clone().into_parts();
    if let Ok(strings) = StringArray::try_new(offsets, values, nulls) {
        return Ok(Arc::new(strings));
    }
    let mut builder = StringBuilder::with_capacity(array.len(), array.value_data().len());
    for row in 0..array.len() {
        if array.is_null(row) {
            builder.append_null();
            continue;
        }
        match std::str::from_utf8(array.value(row)) {
            Ok(text) => builder.append_value(text),
            Err(_) => {
                builder.append_null();
                let bytes = array.value(row);
                let value = hex::encode(&bytes[..bytes.len().min(64)]);
                rejects.push(Reject { row, value, reason: "the bytes are not UTF-8".into() });
            }
        }
    }
    Ok(Arc::new(builder.finish()))
}

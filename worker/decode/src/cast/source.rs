//! One layout per SQL type: the outermost layer of an array is brought to the layout that the kernels
//! expect. Inner layers are done when the kernels reach them.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, IntervalMonthDayNanoArray, StringBuilder, new_null_array,
};
use arrow::compute;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Field, IntervalMonthDayNano, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use stevedore_common::error::Result;
use stevedore_common::types::{EXTENSION_NAME, SqlType};

use super::{Env, Reject, arrow_error, numeric, reject_new_nulls, temporal};
use crate::parse::datetime::Zone;

/// The canonical extension of UUIDs; they are VARCHAR in SQL.
pub(crate) const UUID_EXTENSION: &str = "arrow.uuid";

pub(crate) fn is_uuid(field: &Field) -> bool {
    *field.data_type() == DataType::FixedSizeBinary(16)
        && field.metadata().get(EXTENSION_NAME).is_some_and(|name| name == UUID_EXTENSION)
}

/// Marks the months, days and milliseconds of Parquet's INTERVAL; they are VARCHAR in SQL.
pub(crate) const INTERVAL_EXTENSION: &str = "parquet.interval";

fn is_interval(field: &Field) -> bool {
    *field.data_type() == DataType::FixedSizeBinary(12)
        && field.metadata().get(EXTENSION_NAME).is_some_and(|name| name == INTERVAL_EXTENSION)
}

/// Types that have no SQL type but a faithful text.
fn reads_as_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Decimal256(p, s) => *p > 38 || *s < 0,
        DataType::Decimal32(_, s) | DataType::Decimal64(_, s) | DataType::Decimal128(_, s) => *s < 0,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) | DataType::Interval(_) => true,
        _ => false,
    }
}

/// The SQL type of a field of a file or query: [`SqlType::from_arrow_field`], and VARCHAR for UUIDs,
/// durations, intervals and decimals that DECIMAL cannot hold.
///
/// # Errors
/// Where the dialect has nothing for it.
pub fn natural_type(field: &Field) -> Result<SqlType> {
    if is_uuid(field) || is_interval(field) || reads_as_text(field.data_type()) {
        return Ok(SqlType::String);
    }
    match field.data_type() {
        DataType::Dictionary(_, value) => natural_type(&with_type(field, value)),
        DataType::RunEndEncoded(_, value) => natural_type(&with_type(field, value.data_type())),
        DataType::FixedSizeList(item, _)
        | DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => match SqlType::from_arrow_field(field) {
            Ok(SqlType::Vector(n)) => Ok(SqlType::Vector(n)),
            Ok(SqlType::Variant) => Ok(SqlType::Variant),
            _ => Ok(SqlType::Array(Box::new(natural_type(item)?))),
        },
        DataType::Struct(fields) => Ok(SqlType::Tuple(
            fields.iter().map(|f| Ok((f.name().clone(), natural_type(f)?))).collect::<Result<_>>()?,
        )),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(kv) if kv.len() == 2 => {
                Ok(SqlType::Map(Box::new(natural_type(&kv[0])?), Box::new(natural_type(&kv[1])?)))
            }
            _ => SqlType::from_arrow_field(field),
        },
        _ => SqlType::from_arrow_field(field),
    }
}

fn with_type(field: &Field, data_type: &DataType) -> Field {
    field.clone().with_data_type(data_type.clone())
}

/// The array with the outermost layer in one of the layouts Boolean, (U)Int*, Float32/64, Decimal128,
/// Date32, Timestamp(µs, UTC), Utf8, Binary, List, Map, Struct, FixedSizeList<Float32>, and its field.
/// Values that the layout cannot hold (a DATE in the year 900000) are rejected.
pub(super) fn plain<'a>(
    array: &ArrayRef,
    from: &'a Field,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<(ArrayRef, Cow<'a, Field>)> {
    let to = match from.data_type() {
        DataType::Dictionary(_, value) => {
            let unpacked = compute::cast(array, value).map_err(arrow_error)?;
            let field = with_type(from, value);
            let (array, field) = plain(&unpacked, &field, env, rejects)?;
            return Ok((array, Cow::Owned(field.into_owned())));
        }
        DataType::RunEndEncoded(_, value) => {
            let unpacked = compute::cast(array, value.data_type()).map_err(arrow_error)?;
            let field = with_type(from, value.data_type());
            let (array, field) = plain(&unpacked, &field, env, rejects)?;
            return Ok((array, Cow::Owned(field.into_owned())));
        }
        DataType::Null => {
            let field = with_type(from, &DataType::Utf8);
            return Ok((new_null_array(&DataType::Utf8, array.len()), Cow::Owned(field)));
        }
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone))
            if zone.as_ref() == "UTC" && array.data_type() == from.data_type() =>
        {
            return Ok((array.clone(), Cow::Borrowed(from)));
        }
        DataType::Timestamp(..) => {
            let values = timestamps(array, env, rejects)?;
            let field = with_type(from, values.data_type());
            return Ok((values, Cow::Owned(field)));
        }
        DataType::Date64 => {
            let dates = array.as_primitive::<Date64Type>();
            let days = numeric::map::<Date64Type, Date32Type>(dates, rejects, |ms| {
                i32::try_from(ms.div_euclid(86_400_000)).map_err(|_| "out of range")
            });
            return Ok((Arc::new(days), Cow::Owned(with_type(from, &DataType::Date32))));
        }
        DataType::FixedSizeBinary(16) if is_uuid(from) => {
            let text = uuids(array.as_fixed_size_binary());
            return Ok((text, Cow::Owned(Field::new(from.name(), DataType::Utf8, true))));
        }
        DataType::FixedSizeBinary(12) if is_interval(from) => {
            let text = intervals(array, rejects)?;
            return Ok((text, Cow::Owned(Field::new(from.name(), DataType::Utf8, true))));
        }
        other if reads_as_text(other) => DataType::Utf8,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal256(p, s) => {
            DataType::Decimal128(*p, *s)
        }
        DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(item.clone())
        }
        DataType::FixedSizeList(item, _) if !matches!(natural_type(from)?, SqlType::Vector(_)) => {
            DataType::List(item.clone())
        }
        _ => return Ok((array.clone(), Cow::Borrowed(from))),
    };
    // The field may describe its children with more (extension names) than the array does; the layout
    // change is the array's business alone.
    let target = match (&to, array.data_type()) {
        (
            DataType::List(_),
            DataType::LargeList(item)
            | DataType::ListView(item)
            | DataType::LargeListView(item)
            | DataType::FixedSizeList(item, _),
        ) => DataType::List(item.clone()),
        _ => to.clone(),
    };
    let values = compute::cast(array, &target).map_err(arrow_error)?;
    reject_new_nulls(array, &values, "out of range", rejects);
    Ok((values, Cow::Owned(with_type(from, &to))))
}

/// Timestamps of any unit as microseconds in UTC; those without a zone are read in the session's.
fn timestamps(array: &ArrayRef, env: &Env<'_>, rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, zone) = array.data_type() else {
        return Err(super::wrong_layout(array, "Timestamp"));
    };
    let zone = if zone.is_some() { Zone::Utc } else { env.zone };
    let instant = |micros: Option<i64>| {
        micros.and_then(|micros| temporal::local_to_utc(micros, zone)).ok_or("out of range")
    };
    type Micros = TimestampMicrosecondType;
    let values = match unit {
        TimeUnit::Second => numeric::map::<TimestampSecondType, Micros>(array.as_primitive(), rejects, |v| {
            instant(v.checked_mul(1_000_000))
        }),
        TimeUnit::Millisecond => {
            numeric::map::<TimestampMillisecondType, Micros>(array.as_primitive(), rejects, |v| {
                instant(v.checked_mul(1_000))
            })
        }
        TimeUnit::Microsecond => {
            numeric::map::<Micros, Micros>(array.as_primitive(), rejects, |v| instant(Some(v)))
        }
        TimeUnit::Nanosecond => {
            numeric::map::<TimestampNanosecondType, Micros>(array.as_primitive(), rejects, |v| {
                instant(Some(v.div_euclid(1_000)))
            })
        }
    };
    Ok(Arc::new(values.with_timezone("UTC")))
}

/// Three unsigned little-endian numbers each.
fn intervals(array: &ArrayRef, rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    let bytes = array.as_fixed_size_binary();
    let interval = |value: &[u8]| {
        let (parts, _) = value.as_chunks::<4>();
        let [months, days, milliseconds] = parts else { return None };
        let number = |part: &[u8; 4]| i32::try_from(u32::from_le_bytes(*part)).ok();
        let nanoseconds = i64::from(u32::from_le_bytes(*milliseconds)) * 1_000_000;
        Some(IntervalMonthDayNano::new(number(months)?, number(days)?, nanoseconds))
    };
    let values: IntervalMonthDayNanoArray = bytes.iter().map(|value| interval(value?)).collect();
    reject_new_nulls(array, &values, "out of range", rejects);
    compute::cast(&values, &DataType::Utf8).map_err(arrow_error)
}

fn uuids(array: &FixedSizeBinaryArray) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(array.len(), array.len() * 36);
    for row in 0..array.len() {
        if array.is_null(row) {
            builder.append_null();
            continue;
        }
        let digits = hex::encode(array.value(row));
        let parts: Vec<&str> = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
            .iter()
            .filter_map(|(from, to)| digits.get(*from..*to))
            .collect();
        builder.append_value(parts.join("-"));
    }
    Arc::new(builder.finish())
}

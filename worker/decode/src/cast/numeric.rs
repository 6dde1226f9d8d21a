//! Numbers and booleans.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use stevedore_common::error::Result;
use stevedore_common::types::SqlType;

use super::{Env, Reject, arrow_cast, show, wrong_layout};

/// Ten to the power of `exponent`, 0…38.
pub(super) fn power_of_ten(exponent: u8) -> i128 {
    10i128.pow(u32::from(exponent.min(38)))
}

/// Applies a function that may refuse a value to each value that is not NULL.
pub(super) fn map<S: ArrowPrimitiveType, T: ArrowPrimitiveType>(
    array: &PrimitiveArray<S>,
    rejects: &mut Vec<Reject>,
    convert: impl Fn(S::Native) -> Result<T::Native, &'static str>,
) -> PrimitiveArray<T> {
    let mut values = vec![T::Native::default(); array.len()];
    let mut refused = Vec::new();
    let source = array.values();
    for (row, slot) in values.iter_mut().enumerate() {
        match convert(source[row]) {
            Ok(value) => *slot = value,
            // What lies below a NULL is arbitrary and no error.
            Err(reason) if array.is_valid(row) => refused.push((row, reason)),
            Err(_) => {}
        }
    }
    let nulls = if refused.is_empty() {
        array.nulls().cloned()
    } else {
        let mut valid = vec![true; array.len()];
        for (row, reason) in refused {
            valid[row] = false;
            rejects.push(Reject { row, value: show(array, row), reason: reason.into() });
        }
        NullBuffer::union(array.nulls(), Some(&NullBuffer::new(BooleanBuffer::from(valid))))
    };
    PrimitiveArray::new(values.into(), nulls)
}

pub(super) fn convert_number(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let target = to.to_arrow();
    let truncate = env.options.truncate;
    match (from, to) {
        (SqlType::Decimal(..), SqlType::Boolean) => {
            let decimals = array.as_primitive::<Decimal128Type>();
            let values = BooleanBuffer::from_iter(decimals.values().iter().map(|v| *v != 0));
            Ok(Arc::new(BooleanArray::new(values, decimals.nulls().cloned())))
        }
        (SqlType::Boolean, SqlType::Decimal(..)) => {
            let digits = arrow_cast(array, &DataType::Int8, "out of range", rejects)?;
            integer_to_decimal(array, &digits, to, rejects)
        }
        (SqlType::Float64, SqlType::Float32) => {
            let doubles = array.as_primitive::<Float64Type>();
            Ok(Arc::new(map::<Float64Type, Float32Type>(doubles, rejects, |v| {
                let narrow = v as f32;
                if narrow.is_infinite() && v.is_finite() { Err("out of range") } else { Ok(narrow) }
            })))
        }
        (SqlType::Float32 | SqlType::Float64, to) if to.is_integer() => {
            let doubles = arrow_cast(array, &DataType::Float64, "out of range", rejects)?;
            float_to_integer(doubles.as_primitive(), to, truncate, rejects)
        }
        (SqlType::Float32 | SqlType::Float64, SqlType::Decimal(precision, scale)) => {
            // By way of the shortest text of a FLOAT, so that 0.1 stays 0.1.
            let limit = power_of_ten(*precision);
            let scaled = move |v: f64| float_to_decimal(v, *scale, limit);
            let values = if *from == SqlType::Float32 {
                map::<Float32Type, Decimal128Type>(array.as_primitive(), rejects, |v| {
                    scaled(if v.is_finite() {
                        v.to_string().parse().unwrap_or(f64::from(v))
                    } else {
                        v.into()
                    })
                })
            } else {
                map::<Float64Type, Decimal128Type>(array.as_primitive(), rejects, scaled)
            };
            Ok(Arc::new(values.with_data_type(target)))
        }
        (SqlType::Decimal(_, scale), to) if to.is_integer() => {
            decimal_to_integer(array.as_primitive(), *scale, to, truncate, rejects)
        }
        (SqlType::Decimal(_, scale), SqlType::Float32) => {
            Ok(Arc::new(map::<Decimal128Type, Float32Type>(array.as_primitive(), rejects, |v| {
                Ok(decimal_to_float(v, *scale) as f32)
            })))
        }
        (SqlType::Decimal(_, scale), SqlType::Float64) => {
            Ok(Arc::new(map::<Decimal128Type, Float64Type>(array.as_primitive(), rejects, |v| {
                Ok(decimal_to_float(v, *scale))
            })))
        }
        (SqlType::Decimal(_, from_scale), SqlType::Decimal(precision, scale)) => {
            let limit = power_of_ten(*precision);
            let values = map::<Decimal128Type, Decimal128Type>(array.as_primitive(), rejects, |v| {
                rescale(v, *from_scale, *scale, limit)
            });
            Ok(Arc::new(values.with_data_type(target)))
        }
        (from, SqlType::Decimal(..)) if from.is_integer() => integer_to_decimal(array, array, to, rejects),
        // Booleans and integers to each other, integers to floats, floats to booleans and wider.
        _ => arrow_cast(array, &target, "out of range", rejects),
    }
}

/// Divides by ten to the power of `digits`, rounding half away from zero.
fn divide_rounding(value: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (value / divisor, value % divisor);
    // |rest| < divisor ≤ 10³⁸, so twice of it may not fit; compare with what is missing instead.
    if rest.abs() >= divisor - rest.abs() { quotient + value.signum() } else { quotient }
}

/// A decimal's digits at another scale; `limit` is ten to the power of the precision.
pub(super) fn rescale(value: i128, from: u8, to: u8, limit: i128) -> Result<i128, &'static str> {
    let scaled = if to >= from {
        value.checked_mul(power_of_ten(to - from))
    } else {
        Some(divide_rounding(value, power_of_ten(from - to)))
    };
    scaled.filter(|v| -limit < *v && *v < limit).ok_or("out of range")
}

fn float_to_decimal(value: f64, scale: u8, limit: i128) -> Result<i128, &'static str> {
    if !value.is_finite() {
        return Err("not a finite number");
    }
    let scaled = (value * power_of_ten(scale) as f64).round();
    // `limit` as a float may round up; the exact check follows on the integer.
    if scaled.abs() > limit as f64 {
        return Err("out of range");
    }
    let digits = scaled as i128;
    if -limit < digits && digits < limit { Ok(digits) } else { Err("out of range") }
}

fn decimal_to_float(value: i128, scale: u8) -> f64 {
    // Both exact in a double: one rounding, so the result is the nearest.
    if value.unsigned_abs() <= 1 << 53 && scale <= 22 {
        return value as f64 / power_of_ten(scale) as f64;
    }
    let text = format!("{value}e-{scale}");
    fast_float2::parse(&text).unwrap_or(value as f64 / power_of_ten(scale) as f64)
}

fn integer_to_decimal(
    original: &ArrayRef,
    integers: &ArrayRef,
    to: &SqlType,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let SqlType::Decimal(precision, scale) = to else {
        return Err(wrong_layout(original, "DECIMAL"));
    };
    let (factor, limit) = (power_of_ten(*scale), power_of_ten(*precision));
    let fits = |v: i128| v.checked_mul(factor).filter(|v| -limit < *v && *v < limit).ok_or("out of range");
    macro_rules! by_type {
        ($($data_type:ident => $ty:ty),*) => {
            match integers.data_type() {
                $(DataType::$data_type => map::<$ty, Decimal128Type>(integers.as_primitive(), rejects, |v| fits(v.into())),)*
                _ => return Err(wrong_layout(integers, "integers")),
            }
        };
    }
    let values = by_type!(
        Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type,
        UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type, UInt64 => UInt64Type
    );
    Ok(Arc::new(values.with_data_type(to.to_arrow())))
}

macro_rules! to_integer {
    ($array:expr, $source:ty, $to:expr, $rejects:expr, $convert:expr) => {
        match $to {
            SqlType::Int8 => to_integer!(@ $array, $source, Int8Type, $rejects, $convert),
            SqlType::Int16 => to_integer!(@ $array, $source, Int16Type, $rejects, $convert),
            SqlType::Int32 => to_integer!(@ $array, $source, Int32Type, $rejects, $convert),
            SqlType::Int64 => to_integer!(@ $array, $source, Int64Type, $rejects, $convert),
            SqlType::UInt8 => to_integer!(@ $array, $source, UInt8Type, $rejects, $convert),
            SqlType::UInt16 => to_integer!(@ $array, $source, UInt16Type, $rejects, $convert),
            SqlType::UInt32 => to_integer!(@ $array, $source, UInt32Type, $rejects, $convert),
            SqlType::UInt64 => to_integer!(@ $array, $source, UInt64Type, $rejects, $convert),
            other => {
                return Err(stevedore_common::Error::internal(format!("{other} is no integer type")));
            }
        }
    };
    (@ $array:expr, $source:ty, $target:ty, $rejects:expr, $convert:expr) => {
        Ok(Arc::new(map::<$source, $target>($array, $rejects, |v| {
            let whole: i128 = $convert(v)?;
            whole.try_into().map_err(|_| "out of range")
        })))
    };
}

fn float_to_integer(
    array: &PrimitiveArray<Float64Type>,
    to: &SqlType,
    truncate: bool,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let whole = move |v: f64| {
        let whole = if truncate { v.trunc() } else { v.round() };
        if v.is_nan() {
            Err("not a number")
        } else if whole.abs() < 1e20 {
            Ok(whole as i128)
        } else {
            Err("out of range")
        }
    };
    to_integer!(array, Float64Type, to, rejects, whole)
}

fn decimal_to_integer(
    array: &PrimitiveArray<Decimal128Type>,
    scale: u8,
    to: &SqlType,
    truncate: bool,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let divisor = power_of_ten(scale);
    let whole = move |v: i128| -> Result<i128, &'static str> {
        Ok(if truncate { v / divisor } else { divide_rounding(v, divisor) })
    };
    to_integer!(array, Decimal128Type, to, rejects, whole)
}

//! Casts between the types of the dialect, row by row safe: a value that cannot be cast is NULL in the
//! result and its row is reported with a sentence; only a pair of types that can never be cast is an
//! error, and [`check`] tells that before any data is there.
//!
//! Comes in: an Arrow array of any layout (dictionaries, views, large offsets, other time units) with
//! its field, and the SQL type wanted. Goes out: an array of exactly [`SqlType::to_arrow`], the same
//! array where nothing is to do, and the rejected rows. One kernel runs per pair of types over the
//! whole array. Nothing here panics on data.

mod matrix;
mod nested;
mod numeric;
mod source;
pub mod temporal;
mod text;
mod variant;

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

pub use matrix::check;
pub use source::natural_type;
pub(crate) use source::{INTERVAL_EXTENSION, UUID_EXTENSION};

use crate::errors;
use crate::parse::datetime::Zone;
use crate::spec::CastOptions;

/// The column that the values are for; messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CastContext {
    /// Its number, from 1.
    pub column_number: usize,
    /// Its name.
    pub column_name: String,
}

/// What a cast gives.
#[derive(Debug, Clone)]
pub struct CastResult {
    /// The values, of the type's Arrow type; NULL in rejected rows.
    pub values: ArrayRef,
    /// The rejected rows, where there are any.
    pub rejects: Option<Rejects>,
}

/// Rows whose value could not be cast.
#[derive(Debug, Clone)]
pub struct Rejects {
    /// True for each rejected row.
    pub mask: BooleanArray,
    /// A message for each rejected row, in order.
    pub messages: Vec<(usize, String)>,
}

/// Casts an array. `from` is the field that describes it (it tells a VARIANT from a VARCHAR).
///
/// # Errors
/// `cannot cast DATE to BOOLEAN` and the like; see [`check`]. Never for a value.
pub fn cast(
    array: &ArrayRef,
    from: &Field,
    to: &SqlType,
    options: &CastOptions,
    context: &CastContext,
) -> Result<CastResult> {
    let mut rejects = Vec::new();
    let values = convert(array, from, to, &Env::new(options)?, &mut rejects)?;
    if rejects.is_empty() {
        return Ok(CastResult { values, rejects: None });
    }
    settle(&mut rejects);
    let mask = mask_of(array.len(), &rejects);
    let messages = rejects
        .into_iter()
        .map(|reject| {
            let message = errors::invalid_value(
                &reject.value,
                context.column_number,
                &context.column_name,
                to,
                &reject.reason,
            );
            (reject.row, message)
        })
        .collect();
    Ok(CastResult { values, rejects: Some(Rejects { mask: BooleanArray::new(mask, None), messages }) })
}

/// As [`cast`], but what cannot be cast is just NULL (`TRY_CAST`).
///
/// # Errors
/// As [`cast`].
pub fn try_cast(array: &ArrayRef, from: &Field, to: &SqlType, options: &CastOptions) -> Result<ArrayRef> {
    convert(array, from, to, &Env::new(options)?, &mut Vec::new())
}

/// As [`check`], for the field of an array.
///
/// # Errors
/// As there, and where the dialect has no type for the field.
pub fn check_field(from: &Field, to: &SqlType) -> Result<()> {
    check(&natural_type(from)?, to)
}

/// A value that could not be cast.
#[derive(Debug)]
struct Reject {
    row: usize,
    value: String,
    reason: Cow<'static, str>,
}

/// What every kernel may need.
struct Env<'a> {
    options: &'a CastOptions,
    zone: Zone,
}

impl<'a> Env<'a> {
    fn new(options: &'a CastOptions) -> Result<Self> {
        Ok(Self { options, zone: Zone::parse(&options.timezone)? })
    }
}

/// The recursive heart. Rejects may come unordered and several a row; [`settle`] puts that right.
fn convert(
    array: &ArrayRef,
    from: &Field,
    to: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let wanted = to.to_arrow();
    let from_type = natural_type(from)?;
    if from_type == *to && *array.data_type() == wanted && *from.data_type() == wanted {
        return Ok(array.clone());
    }
    check(&from_type, to)?;
    let (array, from) = source::plain(array, from, env, rejects)?;
    let array = &array;
    match (&from_type, to) {
        (SqlType::Variant, SqlType::Variant) => Ok(array.clone()),
        (SqlType::String, SqlType::Variant) => text::to_variant(array, env, rejects),
        (_, SqlType::Variant) => Ok(std::sync::Arc::new(crate::variant::to_json(array, &from, env.options)?)),
        (SqlType::Variant, _) => variant::from_variant(array, to, env, rejects),
        (SqlType::String, _) => text::from_text(array, to, env, rejects),
        (_, SqlType::String) => text::to_text(array, &from, &from_type, env, rejects),
        (SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz, _)
        | (_, SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz) => {
            temporal::convert(array, &from_type, to, env, rejects)
        }
        (SqlType::Array(_) | SqlType::Vector(_) | SqlType::Map(..) | SqlType::Tuple(_), _) => {
            nested::convert_nested(array, &from, to, env, rejects)
        }
        (SqlType::Binary, SqlType::Binary) => Ok(array.clone()),
        _ => numeric::convert_number(array, &from_type, to, env, rejects),
    }
}

/// The outermost layer of an array in the layout of its own type (see [`source`]); what that cannot
/// hold is NULL.
pub(crate) fn plain_or_null(
    array: &ArrayRef,
    from: &Field,
    options: &CastOptions,
) -> Result<(ArrayRef, Field)> {
    let (array, field) = source::plain(array, from, &Env::new(options)?, &mut Vec::new())?;
    Ok((array, field.into_owned()))
}

/// Orders rejects by row and keeps the first of each row.
fn settle(rejects: &mut Vec<Reject>) {
    rejects.sort_by_key(|reject| reject.row);
    rejects.dedup_by_key(|reject| reject.row);
}

fn mask_of(rows: usize, rejects: &[Reject]) -> BooleanBuffer {
    let mut mask = vec![false; rows];
    for reject in rejects {
        if let Some(slot) = mask.get_mut(reject.row) {
            *slot = true;
        }
    }
    BooleanBuffer::from(mask)
}

/// The NULLs of an array with the rejected rows added.
fn nulls_with(nulls: Option<&NullBuffer>, rows: usize, rejects: &[Reject]) -> Option<NullBuffer> {
    if rejects.is_empty() {
        return nulls.cloned();
    }
    NullBuffer::union(nulls, Some(&NullBuffer::new(!&mask_of(rows, rejects))))
}

/// A value for a message: timestamps in UTC (as integers where TIMESTAMP cannot hold them), nested values
/// as JSON. Scalars never go through a cast here, so that a reject in it cannot come back.
fn show(array: &dyn Array, row: usize) -> String {
    let one = array.slice(row, 1);
    let text = match one.data_type() {
        DataType::Timestamp(unit, _) => {
            let number = arrow::compute::cast(&one, &DataType::Int64);
            let Some(value) = number.ok().and_then(|n| n.as_primitive_opt::<Int64Type>().map(|n| n.value(0)))
            else {
                return String::new();
            };
            let micros = match unit {
                TimeUnit::Second => value.checked_mul(1_000_000),
                TimeUnit::Millisecond => value.checked_mul(1_000),
                TimeUnit::Microsecond => Some(value),
                TimeUnit::Nanosecond => Some(value.div_euclid(1_000)),
            };
            let mut text = String::new();
            match micros {
                Some(micros) => temporal::push_timestamp(micros, Zone::Utc, &mut text),
                None => text = value.to_string(),
            }
            Some(text)
        }
        nested if nested.is_nested() => {
            let field = Field::new("", nested.clone(), true);
            let mut text = String::new();
            crate::variant::JsonWriter::new(&one, &field, &CastOptions::default()).ok().map(|writer| {
                writer.write(0, &mut text);
                text
            })
        }
        DataType::Date64 => arrow::compute::cast(&one, &DataType::Int64).ok().map(|one| plain_text(&one)),
        _ => Some(plain_text(&one)),
    };
    text.unwrap_or_default()
}

/// The first value of an array as Arrow shows it.
fn plain_text(array: &dyn Array) -> String {
    match ArrayFormatter::try_new(array, &FormatOptions::default()) {
        Ok(formatter) => formatter.value(0).try_to_string().unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// Reports each row that is NULL in `after` and was not in `before`.
fn reject_new_nulls(before: &dyn Array, after: &dyn Array, reason: &'static str, rejects: &mut Vec<Reject>) {
    if after.null_count() == before.null_count() {
        return;
    }
    for row in 0..before.len() {
        if after.is_null(row) && before.is_valid(row) {
            rejects.push(Reject { row, value: show(before, row), reason: reason.into() });
        }
    }
}

/// Casts with a kernel of Arrow that answers NULL for what does not fit.
fn arrow_cast(
    array: &ArrayRef,
    to: &DataType,
    reason: &'static str,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let options = arrow::compute::CastOptions { safe: true, ..Default::default() };
    let values = arrow::compute::cast_with_options(array, to, &options).map_err(arrow_error)?;
    reject_new_nulls(array, &values, reason, rejects);
    Ok(values)
}

fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::bad_data(format!("values cannot be converted: {error}"))
}

fn as_strings(array: &ArrayRef) -> Result<&StringArray> {
    array.as_any().downcast_ref().ok_or_else(|| wrong_layout(array, "Utf8"))
}

fn wrong_layout(array: &ArrayRef, expected: &str) -> Error {
    Error::internal(format!("an array of {} stands where {expected} is expected", array.data_type()))
}

#[cfg(test)]
mod tests;

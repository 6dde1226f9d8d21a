//! `typeof`, what looks into an ARRAY, and what is known of the session: `version()`, `timezone()`.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, UInt32Array};
use arrow::compute::kernels::cmp;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::call::Call;
use super::definition::{Definition, Inputs, Kind};

pub(super) fn definitions() -> Vec<Definition> {
    let text = |_: &Inputs<'_>| Ok(SqlType::String);
    let same = |inputs: &Inputs<'_>| Ok(inputs.ty(0).clone());
    let mut all = vec![
        Definition::new("version", &[], text, |call| {
            call.texts(|_, out| {
                out.push_str(concat!("Stevedore ", env!("CARGO_PKG_VERSION")));
                Ok(true)
            })
        }),
        Definition::new("timezone", &[], text, |call| {
            call.texts(|_, out| {
                out.push_str(&call.options.timezone);
                Ok(true)
            })
        }),
        Definition::new("typeof", &[Kind::Any], text, |call| {
            let field = call.raw(0)?.1;
            let name = match field.data_type() {
                DataType::Null => "NULL".to_owned(),
                _ => SqlType::from_arrow_field(&crate::query::normalize::natural_field(field))?.to_string(),
            };
            call.texts(|_, out| {
                out.push_str(&name);
                Ok(true)
            })
        })
        .sees_nulls(),
        Definition::new("contains", &[Kind::Any, Kind::Any], |_| Ok(SqlType::Boolean), contains),
        Definition::new("array_sum", &[Kind::Any], sum_type, array_sum),
        Definition::new(
            "array_avg",
            &[Kind::Any],
            |inputs| sum_type(inputs).map(|_| SqlType::Float64),
            array_avg,
        ),
    ];
    for name in ["assume_not_null", "to_nullable"] {
        all.push(
            Definition::new(name, &[Kind::Any], same, |call| call.read_as(0, SqlType::clone)?.full(0))
                .sees_nulls(),
        );
    }
    all
}

/// Whether a list has an element, or text a part.
fn contains(call: &Call<'_>) -> Result<ArrayRef> {
    let item = match SqlType::from_arrow_field(call.raw(0)?.1)? {
        SqlType::Array(item) => *item,
        _ => {
            let call = &call.read_as(0, |_| SqlType::String)?.read_as(1, |_| SqlType::String)?;
            let (source, part) = (call.text(0)?, call.text(1)?);
            return call.booleans(|row| Ok(Some(source.at(row).contains(part.at(row)))));
        }
    };
    let wanted = SqlType::from_arrow_field(call.raw(1)?.1)?;
    // Neither side is rounded to the other's type.
    let common = if item.is_numeric() && wanted.is_numeric() && item != wanted {
        if item.is_integer() && wanted.is_integer() { SqlType::Decimal(38, 0) } else { SqlType::Float64 }
    } else {
        item
    };
    let list_type = SqlType::Array(Box::new(common.clone()));
    let call = &call.read_as(0, |_| list_type.clone())?.read_as(1, |_| common.clone())?;
    let (lists, wanted) = (call.full(0)?, call.full(1)?);
    let lists = lists.as_list::<i32>();
    let rows =
        (0..lists.len()).flat_map(|row| std::iter::repeat_n(row as u32, lists.value_length(row) as usize));
    let wanted = take(&wanted, &rows.collect::<UInt32Array>(), None)?;
    let found: BooleanArray = cmp::eq(&elements(lists)?, &wanted)?;
    let mut start = 0;
    let mut places = Vec::with_capacity(lists.len());
    for row in 0..lists.len() {
        let end = start + lists.value_length(row) as usize;
        places.push(start..end);
        start = end;
    }
    call.booleans(|row| {
        Ok(places.get(row).map(|place| place.clone().any(|at| found.is_valid(at) && found.value(at))))
    })
}

/// The elements of the lists, from the first one's to the last one's.
fn elements(lists: &ListArray) -> Result<ArrayRef> {
    let offsets = lists.value_offsets();
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    Ok(lists.values().slice(first as usize, (last - first) as usize))
}

/// BIGINT of integers, DOUBLE of all else.
fn sum_type(inputs: &Inputs<'_>) -> Result<SqlType> {
    match inputs.ty(0) {
        SqlType::Array(item) if item.is_integer() => Ok(SqlType::Int64),
        SqlType::Array(_) | SqlType::Variant | SqlType::Vector(_) => Ok(SqlType::Float64),
        other => Err(Error::invalid(format!("{} takes an ARRAY, not {other}", inputs.name()))),
    }
}

fn array_sum(call: &Call<'_>) -> Result<ArrayRef> {
    if *call.returns == SqlType::Int64 {
        let (lists, constant) = lists(call, &SqlType::Int64)?;
        return call.integers(|row| {
            let row = if constant { 0 } else { row };
            if lists.is_null(row) {
                return Ok(None);
            }
            let mut sum: Option<i64> = None;
            for value in lists.value(row).as_primitive::<Int64Type>().iter().flatten() {
                let total = sum.unwrap_or(0).checked_add(value);
                sum = Some(total.ok_or_else(|| Error::invalid("array_sum: out of range of BIGINT"))?);
            }
            Ok(sum)
        });
    }
    aggregate(call, |sum, _| sum)
}

fn array_avg(call: &Call<'_>) -> Result<ArrayRef> {
    aggregate(call, |sum, count| sum / count)
}

fn aggregate(call: &Call<'_>, finish: fn(f64, f64) -> f64) -> Result<ArrayRef> {
    let (lists, constant) = lists(call, &SqlType::Float64)?;
    call.values::<Float64Type>(|row| {
        let row = if constant { 0 } else { row };
        if lists.is_null(row) {
            return Ok(None);
        }
        let values = lists.value(row);
        let (mut sum, mut count) = (0.0, 0u32);
        for value in values.as_primitive::<Float64Type>().iter().flatten() {
            sum += value;
            count += 1;
        }
        Ok((count > 0).then(|| finish(sum, count.into())))
    })
}

fn lists(call: &Call<'_>, item: &SqlType) -> Result<(ListArray, bool)> {
    let call = call.read_as(0, |_| SqlType::Array(Box::new(item.clone())))?;
    let (array, _, constant) = call.raw(0)?;
    let lists = cast(array, &SqlType::Array(Box::new(item.clone())).to_arrow())?;
    Ok((lists.as_list::<i32>().clone(), constant))
}

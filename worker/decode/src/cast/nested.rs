//! Arrays, vectors, maps and tuples: the children are cast as columns, and a child that is rejected
//! rejects the row that holds it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, ListArray, MapArray, StructArray, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type};
use stevedore_common::error::Result;
use stevedore_common::types::SqlType;

use super::matrix::tuple_plan;
use super::{Env, Reject, arrow_error, convert, natural_type, nulls_with, settle, show, wrong_layout};
use crate::parse::WRONG_SIZE;

pub(super) fn convert_nested(
    array: &ArrayRef,
    from: &Field,
    to: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    match (from.data_type(), to) {
        (DataType::List(item), SqlType::Array(element)) => {
            list_to_array(array.as_list(), item, element, env, rejects)
        }
        (DataType::List(item), SqlType::Vector(n)) => list_to_vector(array.as_list(), item, *n, env, rejects),
        (DataType::FixedSizeList(item, _), SqlType::Array(_) | SqlType::Vector(_)) => {
            let item = child_field(array, item);
            let lists = compute::cast(array, &DataType::List(item.clone())).map_err(arrow_error)?;
            let field = Field::new(from.name(), DataType::List(item), true);
            convert_nested(&lists, &field, to, env, rejects)
        }
        (DataType::Map(entries, _), SqlType::Map(key, value)) => {
            map_to_map(array.as_map(), entries, key, value, env, rejects)
        }
        (DataType::Struct(fields), SqlType::Tuple(wanted)) => {
            struct_to_tuple(array.as_struct(), fields, wanted, to, env, rejects)
        }
        _ => Err(wrong_layout(array, &to.to_string())),
    }
}

/// The item field that the array itself has: a cast of the layout must not touch it.
fn child_field(array: &ArrayRef, declared: &FieldRef) -> FieldRef {
    match array.data_type() {
        DataType::FixedSizeList(item, _) => item.clone(),
        _ => declared.clone(),
    }
}

/// Turns rejects of children into rejects of the rows that hold them; what lies in no row, or in a row
/// that is NULL, does not count.
fn lift(
    mut inner: Vec<Reject>,
    offsets: &[i32],
    base: i32,
    nulls: Option<&NullBuffer>,
    what: &str,
    rejects: &mut Vec<Reject>,
) {
    settle(&mut inner);
    let mut row = 0;
    let rows = offsets.len().saturating_sub(1);
    for reject in inner {
        let Ok(position) = i32::try_from(reject.row).map(|i| i + base) else { continue };
        while row < rows && offsets[row + 1] <= position {
            row += 1;
        }
        if row == rows || position < offsets[row] || nulls.is_some_and(|nulls| nulls.is_null(row)) {
            continue;
        }
        let number = position - offsets[row] + 1;
        let reason = format!("{what} {number}: {}", reject.reason).into();
        rejects.push(Reject { row, value: reject.value, reason });
    }
}

/// The children that a list's rows reach, and where the first of them stands.
fn reached(values: &ArrayRef, offsets: &[i32]) -> (ArrayRef, i32) {
    let first = offsets.first().copied().unwrap_or(0);
    let last = offsets.last().copied().unwrap_or(0);
    (values.slice(first as usize, (last - first) as usize), first)
}

fn shifted(offsets: &OffsetBuffer<i32>, base: i32) -> OffsetBuffer<i32> {
    if base == 0 {
        return offsets.clone();
    }
    OffsetBuffer::new(offsets.iter().map(|offset| offset - base).collect())
}

fn list_to_array(
    list: &ListArray,
    item: &FieldRef,
    element: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let (children, base) = reached(list.values(), list.offsets());
    let mut inner = Vec::new();
    let children = convert(&children, item, element, env, &mut inner)?;
    let first = rejects.len();
    lift(inner, list.offsets(), base, list.nulls(), "element", rejects);
    let nulls = nulls_with(list.nulls(), list.len(), &rejects[first..]);
    let field = Arc::new(element.to_field("element", true));
    let list = ListArray::try_new(field, shifted(list.offsets(), base), children, nulls);
    Ok(Arc::new(list.map_err(arrow_error)?))
}

fn list_to_vector(
    list: &ListArray,
    item: &FieldRef,
    dimension: u16,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let width = usize::from(dimension);
    let (children, base) = reached(list.values(), list.offsets());
    let mut inner = Vec::new();
    let children = convert(&children, item, &SqlType::Float32, env, &mut inner)?;
    let children = children.as_primitive::<Float32Type>();
    let mut lifted = Vec::new();
    lift(inner, list.offsets(), base, list.nulls(), "element", &mut lifted);
    settle(&mut lifted);
    let bad: Vec<usize> = lifted.iter().map(|reject| reject.row).collect();
    rejects.append(&mut lifted);

    let mut values = Vec::with_capacity(list.len() * width);
    let mut valid = Vec::with_capacity(list.len());
    let mut bad = bad.into_iter().peekable();
    for row in 0..list.len() {
        let mut good = list.is_valid(row);
        if bad.next_if_eq(&row).is_some() {
            good = false;
        } else if good {
            let start = (list.offsets()[row] - base) as usize;
            let end = (list.offsets()[row + 1] - base) as usize;
            let missing = (start..end).find(|i| children.is_null(*i));
            let reason = if end - start != width {
                Some(WRONG_SIZE.to_owned())
            } else {
                missing.map(|i| format!("element {} is NULL", i - start + 1))
            };
            match reason {
                None => values.extend_from_slice(&children.values()[start..end]),
                Some(reason) => {
                    rejects.push(Reject { row, value: show(list, row), reason: reason.into() });
                    good = false;
                }
            }
        }
        if !good {
            values.resize(values.len() + width, 0.0);
        }
        valid.push(good);
    }
    vectors(values, valid, dimension)
}

fn vectors(values: Vec<f32>, valid: Vec<bool>, dimension: u16) -> Result<ArrayRef> {
    let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
    let item = Arc::new(Field::new("element", DataType::Float32, false));
    let values = Arc::new(Float32Array::from(values));
    let array = FixedSizeListArray::try_new(item, i32::from(dimension), values, nulls);
    Ok(Arc::new(array.map_err(arrow_error)?))
}

fn map_to_map(
    map: &MapArray,
    entries: &FieldRef,
    key: &SqlType,
    value: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(wrong_layout(map.keys(), "map entries"));
    };
    let [key_field, value_field] = fields.as_ref() else {
        return Err(wrong_layout(map.keys(), "map entries"));
    };
    let (keys, base) = reached(map.keys(), map.offsets());
    let (values, _) = reached(map.values(), map.offsets());
    let first = rejects.len();
    let mut inner = Vec::new();
    let keys = convert(&keys, key_field, key, env, &mut inner)?;
    for row in (0..keys.len()).filter(|row| keys.is_null(*row)) {
        // Behind the reason why it became NULL, if there is one: `settle` keeps the first.
        inner.push(Reject { row, value: String::new(), reason: "it is NULL".into() });
    }
    lift(inner, map.offsets(), base, map.nulls(), "key", rejects);
    let mut inner = Vec::new();
    let values = convert(&values, value_field, value, env, &mut inner)?;
    lift(inner, map.offsets(), base, map.nulls(), "value", rejects);

    let nulls = nulls_with(map.nulls(), map.len(), &rejects[first..]);
    let mut offsets = shifted(map.offsets(), base);
    let (mut keys, mut values) = (keys, values);
    if keys.null_count() > 0 {
        // A key may be NULL only in a row that is NULL now; such rows give up their entries.
        let mut kept = Vec::with_capacity(keys.len());
        let mut lengths = Vec::with_capacity(map.len());
        for row in 0..map.len() {
            let (start, end) = (offsets[row] as u64, offsets[row + 1] as u64);
            let range =
                if nulls.as_ref().is_some_and(|n| n.is_null(row)) { start..start } else { start..end };
            lengths.push((range.end - range.start) as usize);
            kept.extend(range);
        }
        let kept = UInt64Array::from(kept);
        keys = compute::take(&keys, &kept, None).map_err(arrow_error)?;
        values = compute::take(&values, &kept, None).map_err(arrow_error)?;
        offsets = OffsetBuffer::from_lengths(lengths);
    }
    let fields = Fields::from(vec![key.to_field("key", false), value.to_field("value", true)]);
    let entries = StructArray::try_new(fields, vec![keys, values], None).map_err(arrow_error)?;
    let field = Arc::new(Field::new("key_value", entries.data_type().clone(), false));
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, false).map_err(arrow_error)?))
}

fn struct_to_tuple(
    array: &StructArray,
    fields: &Fields,
    wanted: &[(String, SqlType)],
    to: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let from: Vec<(String, SqlType)> =
        fields.iter().map(|field| Ok((field.name().clone(), natural_type(field)?))).collect::<Result<_>>()?;
    let Some(plan) = tuple_plan(&from, wanted) else {
        return Err(wrong_layout(&(Arc::new(array.clone()) as ArrayRef), &to.to_string()));
    };
    let first = rejects.len();
    let mut columns = Vec::with_capacity(wanted.len());
    for (source, (name, ty)) in plan.iter().zip(wanted) {
        let Some(source) = *source else {
            columns.push(arrow::array::new_null_array(&ty.to_arrow(), array.len()));
            continue;
        };
        let mut inner = Vec::new();
        columns.push(convert(array.column(source), &fields[source], ty, env, &mut inner)?);
        settle(&mut inner);
        for reject in inner.into_iter().filter(|reject| array.is_valid(reject.row)) {
            let reason = format!("field {name}: {}", reject.reason).into();
            rejects.push(Reject { reason, ..reject });
        }
    }
    let nulls = nulls_with(array.nulls(), array.len(), &rejects[first..]);
    let fields = wanted.iter().map(|(name, ty)| ty.to_field(name, true)).collect::<Fields>();
    if fields.is_empty() {
        return Ok(Arc::new(StructArray::new_empty_fields(array.len(), nulls)));
    }
    Ok(Arc::new(StructArray::try_new(fields, columns, nulls).map_err(arrow_error)?))
}

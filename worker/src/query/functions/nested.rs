//! Elements of TUPLE, MAP and ARRAY values by the path that VARIANTs have too: `t.field`, `m['key']`, `a[0]`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array, make_array};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::variant::{self, PathStep};

/// The field that a path leads to.
///
/// # Errors
/// Invalid input, where a value of the type has no such element.
pub(super) fn field_at(field: &Field, path: &[PathStep]) -> Result<Field> {
    let [step, rest @ ..] = path else { return Ok(field.clone().with_nullable(true)) };
    if SqlType::from_arrow_field(field).is_ok_and(|ty| matches!(ty, SqlType::Variant | SqlType::String)) {
        return Ok(SqlType::Variant.to_field(field.name(), true));
    }
    let wrong =
        || Error::invalid(format!("a value of type {} has no element {}", type_name(field), step_text(step)));
    let child = match (field.data_type(), step) {
        (DataType::Struct(fields), PathStep::Field(name)) => {
            fields.get(child_index(fields, name).ok_or_else(wrong)?).ok_or_else(wrong)?
        }
        (DataType::Map(entries, _), _) => match entries.data_type() {
            DataType::Struct(fields) => fields.get(1).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        },
        (
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _),
            PathStep::Index(_),
        ) => item,
        _ => return Err(wrong()),
    };
    field_at(child, rest)
}

/// The values that a path leads to; NULL where there is none.
///
/// # Errors
/// As [`field_at`].
pub(super) fn get(array: &ArrayRef, field: &Field, path: &[PathStep]) -> Result<ArrayRef> {
    let [step, rest @ ..] = path else { return Ok(Arc::clone(array)) };
    let child_field = field_at(field, std::slice::from_ref(step))?;
    match (array.data_type(), step) {
        (DataType::Struct(fields), PathStep::Field(name)) => {
            let source = array.as_struct();
            let index = child_index(fields, name)
                .ok_or_else(|| Error::internal(format!("the field '{name}' has gone")))?;
            let child = source.column(index);
            let nulls = NullBuffer::union(source.nulls(), child.nulls());
            let masked = make_array(child.to_data().into_builder().nulls(nulls).build()?);
            get(&masked, &child_field, rest)
        }
        (DataType::Map(..), _) => {
            let source = array.as_map();
            let keys = cast(source.keys(), &DataType::Utf8)?;
            let keys = keys.as_string::<i32>();
            let wanted = match step {
                PathStep::Field(name) => name.clone(),
                PathStep::Index(index) => index.to_string(),
            };
            let places = (0..source.len()).map(|row| {
                let (start, end) = (source.value_offsets()[row], source.value_offsets()[row + 1]);
                let mut entries = (start..end).filter(|_| source.is_valid(row));
                // Of equal keys the last one counts.
                entries.rfind(|entry| keys.value(*entry as usize) == wanted).map(|entry| entry as u64)
            });
            let values = take(source.values(), &places.collect::<UInt64Array>(), None)?;
            get(&values, &child_field, rest)
        }
        (
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..),
            PathStep::Index(index),
        ) => {
            let list = cast(array, &DataType::List(Arc::new(child_field.clone().with_nullable(true))))?;
            let source = list.as_list::<i32>();
            let places = (0..source.len()).map(|row| {
                let (start, end) =
                    (source.value_offsets()[row] as u64, source.value_offsets()[row + 1] as u64);
                let place = start.checked_add(*index as u64)?;
                (source.is_valid(row) && place < end).then_some(place)
            });
            let values = take(source.values(), &places.collect::<UInt64Array>(), None)?;
            get(&values, &child_field, rest)
        }
        (DataType::Utf8, _) => Ok(Arc::new(variant::get_path(array.as_string::<i32>(), path))),
        (other, _) => Err(Error::internal(format!("{other} has no elements"))),
    }
}

fn child_index(fields: &arrow::datatypes::Fields, name: &str) -> Option<usize> {
    fields
        .iter()
        .position(|field| field.name() == name)
        .or_else(|| fields.iter().position(|field| field.name().to_lowercase() == name.to_lowercase()))
}

fn type_name(field: &Field) -> String {
    SqlType::from_arrow_field(field).map_or_else(|_| field.data_type().to_string(), |ty| ty.to_string())
}

fn step_text(step: &PathStep) -> String {
    match step {
        PathStep::Field(name) => format!("'{name}'"),
        PathStep::Index(index) => format!("[{index}]"),
    }
}

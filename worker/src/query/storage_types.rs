//! Arrays as files hold them → arrays as SQL sees them.
//!
//! A table's storage type is often wider than its SQL type (int → TINYINT, decimal(20,0) → BIGINT
//! UNSIGNED, `list<float>` → VECTOR(n)); other engines write what they like within Iceberg's rules.
//! Values that do not fit are bad data of the file, never silently changed.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, LargeListArray, ListArray, MapArray, StructArray,
    new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, FieldRef};
use stevedore_common::{Error, Result};

/// Whether a plain Arrow cast does it (so that pruning can see through it).
pub(crate) fn is_plain_cast(from: &DataType, to: &DataType) -> bool {
    !from.is_nested() && !to.is_nested() && !matches!(from, DataType::FixedSizeBinary(_))
}

/// Converts an array to a type of the same family.
///
/// # Errors
/// Bad data where a value does not fit, or the types have nothing in common.
pub(crate) fn convert(array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), target) {
        (DataType::Dictionary(_, value), _) => {
            let values = plain_cast(array, value)?;
            convert(&values, target)
        }
        (DataType::FixedSizeBinary(16), DataType::Utf8) => uuid_text(array),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let source = array.as_struct();
            let columns = fields
                .iter()
                .map(|field| match struct_child(source, field.name()) {
                    Some(child) => convert(child, field.data_type()),
                    None => Ok(new_null_array(field.data_type(), source.len())),
                })
                .collect::<Result<Vec<_>>>()?;
            let array = if columns.is_empty() {
                StructArray::new_empty_fields(source.len(), source.nulls().cloned())
            } else {
                StructArray::try_new(fields.clone(), columns, source.nulls().cloned()).map_err(misfit)?
            };
            Ok(Arc::new(array))
        }
        (DataType::List(_), DataType::List(item)) => {
            let source = array.as_list::<i32>();
            let values = convert(source.values(), item.data_type())?;
            Ok(Arc::new(
                ListArray::try_new(
                    Arc::clone(item),
                    source.offsets().clone(),
                    values,
                    source.nulls().cloned(),
                )
                .map_err(misfit)?,
            ))
        }
        (DataType::LargeList(_), DataType::LargeList(item)) => {
            let source = array.as_list::<i64>();
            let values = convert(source.values(), item.data_type())?;
            Ok(Arc::new(
                LargeListArray::try_new(
                    Arc::clone(item),
                    source.offsets().clone(),
                    values,
                    source.nulls().cloned(),
                )
                .map_err(misfit)?,
            ))
        }
        (DataType::Map(..), DataType::Map(entries, ordered)) => {
            let source = array.as_map();
            let values: ArrayRef = Arc::new(source.entries().clone());
            let values = rename_entries(&values, entries)?;
            Ok(Arc::new(
                MapArray::try_new(
                    Arc::clone(entries),
                    source.offsets().clone(),
                    values,
                    source.nulls().cloned(),
                    *ordered,
                )
                .map_err(misfit)?,
            ))
        }
        (DataType::FixedSizeList(_, n), DataType::FixedSizeList(item, m)) if n == m => {
            let source = array.as_fixed_size_list();
            let values = convert(source.values(), item.data_type())?;
            fixed_size(item, *m, values, source.nulls().cloned())
        }
        (DataType::List(_), DataType::FixedSizeList(item, n)) => vector(array.as_list::<i32>(), item, *n),
        (
            DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(..),
            DataType::List(item) | DataType::FixedSizeList(item, _),
        ) => {
            let list = match array.data_type() {
                DataType::LargeList(f)
                | DataType::ListView(f)
                | DataType::LargeListView(f)
                | DataType::FixedSizeList(f, _) => DataType::List(Arc::clone(f)),
                other => return Err(Error::internal(format!("{other} is not a list of {item}"))),
            };
            convert(&plain_cast(array, &list)?, target)
        }
        _ => plain_cast(array, target),
    }
}

fn plain_cast(array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, target, &options).map_err(misfit)
}

fn misfit(error: arrow::error::ArrowError) -> Error {
    Error::bad_data(format!("a stored value does not fit its column's type: {error}"))
}

fn struct_child<'a>(source: &'a StructArray, name: &str) -> Option<&'a ArrayRef> {
    source.column_by_name(name).or_else(|| {
        let index = source.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name))?;
        source.columns().get(index)
    })
}

/// Keys and values go by place: writers do not agree on what to call them.
fn rename_entries(entries: &ArrayRef, target: &FieldRef) -> Result<StructArray> {
    let source = entries.as_struct();
    let DataType::Struct(fields) = target.data_type() else {
        return Err(Error::internal("map entries must be a struct"));
    };
    let columns = source
        .columns()
        .iter()
        .zip(fields)
        .map(|(column, field)| convert(column, field.data_type()))
        .collect::<Result<Vec<_>>>()?;
    StructArray::try_new(fields.clone(), columns, source.nulls().cloned()).map_err(misfit)
}

fn vector(source: &ListArray, item: &FieldRef, n: i32) -> Result<ArrayRef> {
    let values = convert(source.values(), item.data_type())?;
    let width = n as usize;
    let mut indices: Vec<Option<u64>> = Vec::with_capacity(source.len() * width);
    for row in 0..source.len() {
        if source.is_null(row) {
            indices.extend(std::iter::repeat_n(None, width));
            continue;
        }
        let (start, end) = (source.value_offsets()[row] as u64, source.value_offsets()[row + 1] as u64);
        if end - start != width as u64 {
            return Err(Error::bad_data(format!(
                "a stored vector has {} elements where VECTOR({n}) is declared",
                end - start
            )));
        }
        indices.extend((start..end).map(Some));
    }
    let values = take(&values, &arrow::array::UInt64Array::from(indices), None).map_err(misfit)?;
    fixed_size(item, n, values, source.nulls().cloned())
}

fn fixed_size(
    item: &FieldRef,
    n: i32,
    values: ArrayRef,
    nulls: Option<arrow::buffer::NullBuffer>,
) -> Result<ArrayRef> {
    Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(item), n, values, nulls).map_err(misfit)?))
}

fn uuid_text(array: &ArrayRef) -> Result<ArrayRef> {
    let source = array.as_fixed_size_binary();
    let texts: arrow::array::StringArray = (0..source.len())
        .map(|row| {
            if source.is_null(row) {
                return Ok(None);
            }
            uuid::Uuid::from_slice(source.value(row))
                .map(|id| Some(id.to_string()))
                .map_err(|e| Error::bad_data(format!("a stored uuid is not one: {e}")))
        })
        .collect::<Result<_>>()?;
    Ok(Arc::new(texts))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use arrow::array::{Decimal128Array, Int32Array, UInt64Array};
    use arrow::datatypes::Float32Type;
    use stevedore_common::types::SqlType;

    #[test]
    fn storage_types_become_the_sql_types() {
        let tiny = convert(&(Arc::new(Int32Array::from(vec![Some(7), None])) as _), &DataType::Int8).unwrap();
        assert_eq!(tiny.data_type(), &DataType::Int8);
        let decimals = Decimal128Array::from(vec![u64::MAX as i128]).with_precision_and_scale(20, 0).unwrap();
        let big = convert(&(Arc::new(decimals) as _), &DataType::UInt64).unwrap();
        assert_eq!(big.as_ref(), &UInt64Array::from(vec![u64::MAX]) as &dyn Array);
        assert!(convert(&(Arc::new(Int32Array::from(vec![300])) as _), &DataType::Int8).is_err());
    }

    #[test]
    fn a_list_of_float_is_a_vector_of_its_length_only() {
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
            Some(vec![Some(1.0), Some(2.0)]),
            None,
        ]));
        let vector = convert(&list, &SqlType::Vector(2).to_arrow()).unwrap();
        assert_eq!(vector.len(), 2);
        assert!(vector.is_null(1));
        let error = convert(&list, &SqlType::Vector(3).to_arrow()).unwrap_err();
        assert!(error.to_string().contains("VECTOR(3)"), "{error}");
    }

    #[test]
    fn struct_fields_go_by_name_and_new_ones_are_null() {
        let source: ArrayRef = Arc::new(StructArray::from(vec![(
            Arc::new(arrow::datatypes::Field::new("B", DataType::Int32, true)),
            Arc::new(Int32Array::from(vec![1])) as ArrayRef,
        )]));
        let ty = SqlType::parse("TUPLE(a VARCHAR, b BIGINT)").unwrap().to_arrow();
        let out = convert(&source, &ty).unwrap();
        assert!(out.as_struct().column(0).is_null(0));
        assert_eq!(out.as_struct().column(1).as_primitive::<arrow::datatypes::Int64Type>().value(0), 1);
    }
}

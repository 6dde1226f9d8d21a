//! Arrays as SQL sees them → arrays as files hold them: TINYINT → int, BIGINT UNSIGNED →
//! decimal(20,0), VECTOR(n) → list of float, the inner fields named and numbered as Iceberg wants.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, ListArray, MapArray, StructArray, UInt64Array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, FieldRef, TimestampMicrosecondType};
use stevedore_common::{Error, Result};

/// Converts an array to its storage type.
pub(super) fn to_storage(array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    if array.data_type() == target {
        return Ok(array.clone());
    }
    match (array.data_type(), target) {
        (DataType::Timestamp(unit, Some(_)), DataType::Timestamp(to, Some(zone)))
            if unit == to && *to == arrow::datatypes::TimeUnit::Microsecond =>
        {
            // Both are UTC instants under two names of UTC: only the type changes.
            Ok(Arc::new(
                array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone(zone.as_ref()),
            ))
        }
        (DataType::FixedSizeList(..), DataType::List(item)) => vector(array.as_fixed_size_list(), item),
        (DataType::List(_), DataType::List(item)) => {
            let list = array.as_list::<i32>();
            let values = to_storage(list.values(), item.data_type())?;
            let list =
                ListArray::try_new(item.clone(), list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(list.map_err(|e| misfit(&e))?))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => map(array.as_map(), entries, *sorted),
        (DataType::Struct(from), DataType::Struct(to)) if from.len() == to.len() => {
            let tuple = array.as_struct();
            let columns = tuple
                .columns()
                .iter()
                .zip(to)
                .map(|(column, field)| to_storage(column, field.data_type()))
                .collect::<Result<Vec<_>>>()?;
            let tuple = StructArray::try_new(to.clone(), columns, tuple.nulls().cloned());
            Ok(Arc::new(tuple.map_err(|e| misfit(&e))?))
        }
        _ => {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(array, target, &options).map_err(|e| misfit(&e))
        }
    }
}

fn misfit(error: &arrow::error::ArrowError) -> Error {
    Error::bad_data(format!("a value does not fit the stored type: {error}"))
}

fn map(map: &MapArray, entries: &FieldRef, sorted: bool) -> Result<ArrayRef> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(Error::internal("map entries must be a struct"));
    };
    let columns = map
        .entries()
        .columns()
        .iter()
        .zip(fields)
        .map(|(column, field)| to_storage(column, field.data_type()))
        .collect::<Result<Vec<_>>>()?;
    let converted = StructArray::try_new(fields.clone(), columns, None).map_err(|e| misfit(&e))?;
    let map =
        MapArray::try_new(entries.clone(), map.offsets().clone(), converted, map.nulls().cloned(), sorted);
    Ok(Arc::new(map.map_err(|e| misfit(&e))?))
}

/// A vector's elements are never NULL, but a NULL vector still has slots for them in Arrow: they go.
fn vector(list: &FixedSizeListArray, item: &FieldRef) -> Result<ArrayRef> {
    let width = list.value_length() as usize;
    let (values, lengths): (ArrayRef, Vec<usize>) = match list.nulls() {
        Some(nulls) if nulls.null_count() > 0 => {
            let slots =
                nulls.valid_indices().flat_map(|row| (row * width) as u64..((row + 1) * width) as u64);
            let values = take(list.values(), &UInt64Array::from_iter_values(slots), None);
            let lengths = nulls.iter().map(|valid| if valid { width } else { 0 }).collect();
            (values.map_err(|e| misfit(&e))?, lengths)
        }
        _ => (list.values().clone(), vec![width; list.len()]),
    };
    let total: usize = lengths.iter().sum();
    if i32::try_from(total).is_err() {
        return Err(Error::exhausted(format!("a batch holds {total} vector elements, more than fit in one")));
    }
    let values = to_storage(&values, item.data_type())?;
    if values.null_count() > 0 {
        return Err(Error::bad_data("an element of a vector is NULL"));
    }
    let mut end = 0;
    let offsets: Vec<i32> = std::iter::once(0)
        .chain(lengths.iter().map(|length| {
            end += *length as i32;
            end
        }))
        .collect();
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let list = ListArray::try_new(item.clone(), offsets, values, list.nulls().cloned());
    Ok(Arc::new(list.map_err(|e| misfit(&e))?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use arrow::array::{Float32Array, Int8Array, Int32Array, UInt64Array};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{Decimal128Type, Field, Float32Type, Int32Type};

    use super::*;

    #[test]
    fn small_and_unsigned_integers_widen() {
        let tiny: ArrayRef = Arc::new(Int8Array::from(vec![Some(-128), None]));
        let stored = to_storage(&tiny, &DataType::Int32).unwrap();
        assert_eq!(stored.as_primitive::<Int32Type>(), &Int32Array::from(vec![Some(-128), None]));
        let big: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let stored = to_storage(&big, &DataType::Decimal128(20, 0)).unwrap();
        assert_eq!(stored.as_primitive::<Decimal128Type>().value(0), i128::from(u64::MAX));
    }

    #[test]
    fn a_null_vector_leaves_no_elements() {
        let item = Arc::new(Field::new("element", DataType::Float32, false));
        let values = Arc::new(Float32Array::from(vec![1.0, 2.0, 9.0, 9.0, 3.0, 4.0]));
        let nulls = NullBuffer::from(vec![true, false, true]);
        let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(item.clone(), 2, values, Some(nulls)));
        // A slice too, whose values do not start at the first.
        for (array, expected) in [
            (vectors.clone(), vec![Some(vec![1.0, 2.0]), None, Some(vec![3.0, 4.0])]),
            (vectors.slice(1, 2), vec![None, Some(vec![3.0, 4.0])]),
            (vectors.slice(2, 1), vec![Some(vec![3.0, 4.0])]),
        ] {
            let stored = to_storage(&array, &DataType::List(item.clone())).unwrap();
            let lists: Vec<Option<Vec<f32>>> = stored
                .as_list::<i32>()
                .iter()
                .map(|list| list.map(|l| l.as_primitive::<Float32Type>().values().to_vec()))
                .collect();
            assert_eq!(lists, expected);
            assert_eq!(
                stored.as_list::<i32>().values().len(),
                expected.iter().flatten().map(Vec::len).sum::<usize>()
            );
        }
    }
}

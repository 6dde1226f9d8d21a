//! How large rows become when values that are stored once and stand in many rows are written out:
//! dictionaries, views, runs. A file of a few bytes may hold a billion bytes of rows that way.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// What a value takes besides its own bytes.
const ENTRY_BYTES: u64 = 16;

/// Whether values of a type may stand in many rows and be stored once.
pub(super) fn may_grow(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(..)
        | DataType::RunEndEncoded(..)
        | DataType::Utf8View
        | DataType::BinaryView
        | DataType::ListView(_)
        | DataType::LargeListView(_) => true,
        DataType::FixedSizeList(item, _) => {
            // Items without bytes of their own.
            item.data_type().is_null() || may_grow(item.data_type())
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            may_grow(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| may_grow(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| may_grow(field.data_type())),
        _ => false,
    }
}

/// How many of the rows from `first`, `rows` at most and one at least, take `bytes` or less.
pub(super) fn rows_within(batch: &RecordBatch, first: usize, rows: usize, bytes: u64) -> usize {
    let columns: Vec<&dyn Array> =
        batch.columns().iter().map(AsRef::as_ref).filter(|array| may_grow(array.data_type())).collect();
    let mut sum = 0u64;
    for taken in 0..rows {
        let mut left = bytes.saturating_sub(sum);
        for column in &columns {
            let weight = weigh(*column, first + taken, left);
            sum = sum.saturating_add(weight);
            left = left.saturating_sub(weight);
        }
        if sum > bytes {
            return taken.max(1);
        }
    }
    rows
}

/// What a value takes; nothing is looked at beyond `enough` bytes.
fn weigh(array: &dyn Array, row: usize, enough: u64) -> u64 {
    if array.is_null(row) {
        return ENTRY_BYTES;
    }
    let items = |values: &dyn Array, range: std::ops::Range<usize>| {
        let mut sum = ENTRY_BYTES;
        for item in range {
            if sum > enough {
                break;
            }
            sum = sum.saturating_add(weigh(values, item, enough - sum));
        }
        sum
    };
    match array.data_type() {
        DataType::Utf8View => ENTRY_BYTES + array.as_string_view().value(row).len() as u64,
        DataType::BinaryView => ENTRY_BYTES + array.as_binary_view().value(row).len() as u64,
        DataType::Utf8 => ENTRY_BYTES + array.as_string::<i32>().value_length(row).unsigned_abs() as u64,
        DataType::LargeUtf8 => ENTRY_BYTES + array.as_string::<i64>().value_length(row).unsigned_abs(),
        DataType::Binary => ENTRY_BYTES + array.as_binary::<i32>().value_length(row).unsigned_abs() as u64,
        DataType::LargeBinary => ENTRY_BYTES + array.as_binary::<i64>().value_length(row).unsigned_abs(),
        DataType::FixedSizeBinary(width) => ENTRY_BYTES + u64::from(width.unsigned_abs()),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            match key(dictionary.keys(), row) {
                Some(key) if key < dictionary.values().len() => {
                    weigh(dictionary.values().as_ref(), key, enough)
                }
                _ => ENTRY_BYTES,
            }
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            items(list.values().as_ref(), offsets[row] as usize..offsets[row + 1] as usize)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            items(list.values().as_ref(), offsets[row] as usize..offsets[row + 1] as usize)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            items(map.entries(), offsets[row] as usize..offsets[row + 1] as usize)
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            let start = list.value_offset(row) as usize;
            items(list.values().as_ref(), start..start + list.value_size(row) as usize)
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            let start = list.value_offset(row) as usize;
            items(list.values().as_ref(), start..start + list.value_size(row) as usize)
        }
        DataType::FixedSizeList(_, length) => {
            let list = array.as_fixed_size_list();
            let start = list.value_offset(row) as usize;
            items(list.values().as_ref(), start..start + length.unsigned_abs() as usize)
        }
        DataType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .fold(ENTRY_BYTES, |sum, column| sum.saturating_add(weigh(column.as_ref(), row, enough))),
        DataType::RunEndEncoded(..) => {
            let Some((values, place)) = run(array, row) else { return ENTRY_BYTES };
            weigh(values.as_ref(), place, enough)
        }
        DataType::Union(..) => {
            let Some(union) = array.as_any().downcast_ref::<arrow::array::UnionArray>() else {
                return ENTRY_BYTES;
            };
            weigh(union.child(union.type_id(row)).as_ref(), union.value_offset(row), enough)
        }
        _ => ENTRY_BYTES,
    }
}

fn key(keys: &dyn Array, row: usize) -> Option<usize> {
    use arrow::datatypes::{
        Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    };
    match keys.data_type() {
        DataType::Int8 => usize::try_from(keys.as_primitive::<Int8Type>().value(row)).ok(),
        DataType::Int16 => usize::try_from(keys.as_primitive::<Int16Type>().value(row)).ok(),
        DataType::Int32 => usize::try_from(keys.as_primitive::<Int32Type>().value(row)).ok(),
        DataType::Int64 => usize::try_from(keys.as_primitive::<Int64Type>().value(row)).ok(),
        DataType::UInt8 => Some(usize::from(keys.as_primitive::<UInt8Type>().value(row))),
        DataType::UInt16 => Some(usize::from(keys.as_primitive::<UInt16Type>().value(row))),
        DataType::UInt32 => usize::try_from(keys.as_primitive::<UInt32Type>().value(row)).ok(),
        DataType::UInt64 => usize::try_from(keys.as_primitive::<UInt64Type>().value(row)).ok(),
        _ => None,
    }
}

/// The values of runs, and which of them stands in a row.
fn run(array: &dyn Array, row: usize) -> Option<(&arrow::array::ArrayRef, usize)> {
    use arrow::datatypes::{Int16Type, Int32Type, Int64Type};
    if let Some(runs) = array.as_run_opt::<Int32Type>() {
        return Some((runs.values(), runs.get_physical_index(row)));
    }
    if let Some(runs) = array.as_run_opt::<Int64Type>() {
        return Some((runs.values(), runs.get_physical_index(row)));
    }
    let runs = array.as_run_opt::<Int16Type>()?;
    Some((runs.values(), runs.get_physical_index(row)))
}

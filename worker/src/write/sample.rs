//! Whether a dictionary pays for a column, judged by a sample of the first rows of a file.
//!
//! A dictionary of values that hardly repeat costs a hash for each value, and then falls back to plain
//! pages anyway.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Values looked at.
const SAMPLE: usize = 4096;
/// At most so many of a hundred values may differ: strings are long, so a dictionary pays earlier (and
/// Parquet gives it up by itself when it grows large); numbers are as short as its indexes.
const DISTINCT_STRINGS: usize = 80;
const DISTINCT_NUMBERS: usize = 25;

/// For each leaf of column `index`, in order: whether a dictionary pays.
pub(super) fn dictionaries_pay(batches: &[RecordBatch], index: usize) -> Vec<bool> {
    let mut samples: Vec<Leaf> = Vec::new();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    // Blocks from all over the rows: neighbours say how values repeat, distance that they do not drift.
    let share = SAMPLE.div_ceil(batches.len().max(1));
    let hasher = RandomState::new();
    for batch in batches {
        let take = (batch.num_rows() * share).div_ceil(rows.div_ceil(batches.len().max(1)).max(1));
        let column = batch.column(index).slice(0, take.min(batch.num_rows()));
        let mut at = 0;
        sample(&column, &mut samples, &mut at, &hasher);
    }
    samples.iter().map(Leaf::pays).collect()
}

#[derive(Default)]
struct Leaf {
    distinct: HashSet<u64>,
    values: usize,
    limit: usize,
}

impl Leaf {
    fn pays(&self) -> bool {
        self.limit > 0 && self.distinct.len() * 100 <= self.values * self.limit
    }
}

/// Visits the leaves in the order in which Parquet numbers them.
fn sample(array: &ArrayRef, leaves: &mut Vec<Leaf>, at: &mut usize, hasher: &RandomState) {
    match array.data_type() {
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                sample(column, leaves, at, hasher);
            }
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (start, end) = (list.value_offsets()[0] as usize, list.value_offsets()[list.len()] as usize);
            sample(&list.values().slice(start, end - start), leaves, at, hasher);
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (start, end) = (map.value_offsets()[0] as usize, map.value_offsets()[map.len()] as usize);
            for column in map.entries().columns() {
                sample(&column.slice(start, end - start), leaves, at, hasher);
            }
        }
        DataType::FixedSizeList(..) => leaf(leaves, at),
        _ => {
            leaf(leaves, at);
            let leaf = &mut leaves[*at - 1];
            count(array, leaf, hasher);
        }
    }
}

/// Makes room for the next leaf and steps over it.
fn leaf(leaves: &mut Vec<Leaf>, at: &mut usize) {
    if leaves.len() == *at {
        leaves.push(Leaf::default());
    }
    *at += 1;
}

fn count(array: &ArrayRef, leaf: &mut Leaf, hasher: &RandomState) {
    let step = array.len().div_ceil(SAMPLE).max(1);
    let rows = (0..array.len()).step_by(step).filter(|row| array.is_valid(*row));
    match array.data_type() {
        DataType::Utf8 => {
            leaf.limit = DISTINCT_STRINGS;
            let strings = array.as_string::<i32>();
            rows.for_each(|row| leaf.add(hasher.hash_one(strings.value(row))));
        }
        DataType::Binary => {
            leaf.limit = DISTINCT_STRINGS;
            let bytes = array.as_binary::<i32>();
            rows.for_each(|row| leaf.add(hasher.hash_one(bytes.value(row))));
        }
        other => {
            // Every other leaf of ours has values of a fixed width, side by side in one buffer.
            let Some(width) = other.primitive_width() else { return };
            leaf.limit = DISTINCT_NUMBERS;
            let data = array.to_data();
            let Some(buffer) = data.buffers().first() else { return };
            let first = data.offset() * width;
            rows.for_each(|row| {
                let start = first + row * width;
                if let Some(value) = buffer.as_slice().get(start..start + width) {
                    leaf.add(hasher.hash_one(value));
                }
            });
        }
    }
}

impl Leaf {
    fn add(&mut self, hash: u64) {
        self.values += 1;
        self.distinct.insert(hash);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn dictionaries_are_for_values_that_repeat() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(0..20_000))),
            ("kind", Arc::new(Int64Array::from_iter_values((0..20_000).map(|n| n % 100)))),
            ("name", Arc::new(StringArray::from_iter_values((0..20_000).map(|n| format!("n{}", n % 999))))),
            ("uuid", Arc::new(StringArray::from_iter_values((0..20_000).map(|n| format!("u{n}"))))),
            ("x", Arc::new(Float64Array::from_iter_values((0..20_000).map(f64::from)))),
            (
                "tags",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
                    (0..20_000).map(|n| Some(vec![Some(n % 3)])),
                )),
            ),
            ("nothing", Arc::new(Int64Array::new_null(20_000))),
        ];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let batches: Vec<RecordBatch> = (0..4).map(|n| batch.slice(n * 5000, 5000)).collect();
        let pays: Vec<bool> = (0..7).flat_map(|index| dictionaries_pay(&batches, index)).collect();
        assert_eq!(pays, [false, true, true, false, false, true, true]);
    }
}

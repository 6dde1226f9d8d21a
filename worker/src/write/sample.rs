//! Which encoding suits a column, judged by a sample of the first rows of a file.
//!
//! A dictionary of values that hardly repeat costs a hash for each value, and then falls back to plain
//! pages anyway. Integers that lie near their neighbours (keys, times) are smaller as differences
//! (DELTA_BINARY_PACKED of the Parquet specification), and cheaper than plain pages through a compressor.
//! Floats compress better when their first bytes stand together, then their second bytes, and so on
//! (BYTE_STREAM_SPLIT), unless many of them are alike: both are tried.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

use super::file_writer::ZSTD_LEVEL;

/// Values looked at.
const SAMPLE: usize = 4096;
/// At most so many of a hundred values may differ: strings are long, so a dictionary pays earlier (and
/// Parquet gives it up by itself when it grows large); numbers are as short as its indexes.
const DISTINCT_STRINGS: usize = 80;
const DISTINCT_NUMBERS: usize = 25;

/// Differences in this many of a hundred bits of the plain value are worth it.
const DELTA_BITS: u64 = 75;
/// Splitting floats is worth it at this many of a hundred bytes of what they are compressed to otherwise.
const SPLIT_BYTES: usize = 95;
/// Values that the delta encoding packs with one width.
const DELTA_BLOCK: usize = 32;

/// How the values of a leaf column are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafEncoding {
    Plain,
    /// Until it grows large, then plain.
    Dictionary,
    /// Differences of neighbours, bit-packed.
    Delta,
    /// The first bytes of all values, then their second bytes, and so on.
    Split,
}

/// For each leaf of column `index`, in order, what suits it.
pub(super) fn leaf_encodings(batches: &[RecordBatch], index: usize) -> Vec<LeafEncoding> {
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
    samples.iter().map(Leaf::encoding).collect()
}

#[derive(Default)]
struct Leaf {
    distinct: HashSet<u64>,
    values: usize,
    limit: usize,
    /// Bits of values seen, plain, and as differences.
    plain_bits: u64,
    delta_bits: u64,
    /// Bytes of values seen after compression, plain, and split.
    plain_bytes: usize,
    split_bytes: usize,
}

impl Leaf {
    fn encoding(&self) -> LeafEncoding {
        if self.limit > 0 && self.distinct.len() * 100 <= self.values * self.limit {
            LeafEncoding::Dictionary
        } else if self.plain_bits > 0 && self.delta_bits * 100 <= self.plain_bits * DELTA_BITS {
            LeafEncoding::Delta
        } else if self.plain_bytes > 0 && self.split_bytes * 100 <= self.plain_bytes * SPLIT_BYTES {
            LeafEncoding::Split
        } else {
            LeafEncoding::Plain
        }
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
            if other.is_integer() || matches!(other, DataType::Date32 | DataType::Timestamp(..)) {
                leaf.add_differences(array, &buffer.as_slice()[first..], width);
            } else if other.is_floating() {
                leaf.add_floats(array, &buffer.as_slice()[first..], width);
            }
        }
    }
}

impl Leaf {
    /// Compresses an array of floats of `width` bytes both ways.
    fn add_floats(&mut self, array: &ArrayRef, bytes: &[u8], width: usize) {
        let rows = (0..array.len().min(SAMPLE)).filter(|row| array.is_valid(*row));
        let plain: Vec<u8> =
            rows.filter_map(|row| bytes.get(row * width..(row + 1) * width)).flatten().copied().collect();
        let split: Vec<u8> =
            (0..width).flat_map(|at| plain.iter().skip(at).step_by(width)).copied().collect();
        let (plain, split) =
            (zstd::bulk::compress(&plain, ZSTD_LEVEL), zstd::bulk::compress(&split, ZSTD_LEVEL));
        if let (Ok(plain), Ok(split)) = (plain, split) {
            self.plain_bytes += plain.len();
            self.split_bytes += split.len();
        }
    }

    /// Measures neighbours of an array of integers of `width` bytes.
    fn add_differences(&mut self, array: &ArrayRef, bytes: &[u8], width: usize) {
        let value = |row: usize| {
            let bytes = bytes.get(row * width..(row + 1) * width)?;
            match width {
                4 => Some(i64::from(i32::from_le_bytes(bytes.try_into().ok()?))),
                8 => Some(i64::from_le_bytes(bytes.try_into().ok()?)),
                _ => None,
            }
        };
        let values: Vec<i64> =
            (0..array.len().min(SAMPLE)).filter(|row| array.is_valid(*row)).filter_map(value).collect();
        let differences: Vec<i64> = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        for block in differences.chunks_exact(DELTA_BLOCK) {
            let (least, most) =
                block.iter().fold((i64::MAX, i64::MIN), |(least, most), d| (least.min(*d), most.max(*d)));
            let bits = 64 - most.wrapping_sub(least).cast_unsigned().leading_zeros();
            self.delta_bits += u64::from(bits) * DELTA_BLOCK as u64;
            self.plain_bits += (8 * width * DELTA_BLOCK) as u64;
        }
    }

    fn add(&mut self, hash: u64) {
        self.values += 1;
        self.distinct.insert(hash);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, Float64Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn every_column_gets_the_encoding_that_its_values_ask_for() {
        use LeafEncoding::{Delta, Dictionary, Plain, Split};

        let hash = |n: i64| {
            let mixed = n.wrapping_mul(-7_046_029_254_386_353_131);
            (mixed ^ (mixed >> 29)).wrapping_mul(-4_658_895_280_553_007_687)
        };
        let rows = 0..20_000_i64;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(rows.clone()))),
            ("kind", Arc::new(Int64Array::from_iter_values(rows.clone().map(|n| n % 100)))),
            ("hash", Arc::new(Int64Array::from_iter_values(rows.clone().map(hash)))),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from_iter(
                    rows.clone().map(|n| (n % 7 > 0).then_some(1_700_000_000_000_000 + n * 999_983)),
                )),
            ),
            ("day", Arc::new(Date32Array::from_iter_values((0..20_000).map(|n| n / 2)))),
            ("name", Arc::new(StringArray::from_iter_values(rows.clone().map(|n| format!("n{}", n % 999))))),
            ("uuid", Arc::new(StringArray::from_iter_values(rows.clone().map(|n| format!("u{n}"))))),
            (
                "latitude",
                Arc::new(Float64Array::from_iter_values(
                    rows.clone().map(|n| 30.0 + (hash(n).cast_unsigned() % 10_000_000) as f64 / 1e6),
                )),
            ),
            (
                "noise",
                Arc::new(Float64Array::from_iter_values(
                    rows.clone().map(|n| f64::from_bits(hash(n).cast_unsigned())),
                )),
            ),
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
        let encodings: Vec<LeafEncoding> =
            (0..11).flat_map(|index| leaf_encodings(&batches, index)).collect();
        assert_eq!(
            encodings,
            [Delta, Dictionary, Plain, Delta, Delta, Dictionary, Plain, Split, Plain, Dictionary, Dictionary]
        );
    }
}

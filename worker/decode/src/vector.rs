//! Distances between VECTOR values.
//!
//! Comes in: two arrays of vectors (fixed-size lists, or lists as literals give them) of 32- or 64-bit
//! floats; one of them may have a single row, which is then compared with every row of the other. Goes
//! out: a FLOAT per row, NULL where a vector or one of its elements is NULL. Vectors of different
//! dimensions are an error of the query.

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, GenericListArray, OffsetSizeTrait,
};
use arrow::compute;
use arrow::datatypes::{DataType, Float32Type};
use stevedore_common::error::{Error, Result};

/// 1 − the cosine of the angle; NaN where a vector is all zeros.
///
/// # Errors
/// Where dimensions, row counts or types do not fit.
pub fn cosine_distance(left: &ArrayRef, right: &ArrayRef) -> Result<Float32Array> {
    distance("cosine_distance", left, right, |a, b| {
        let mut dot = [0f32; LANES];
        let mut aa = [0f32; LANES];
        let mut bb = [0f32; LANES];
        fold(a, b, |lane, x, y| {
            dot[lane] += x * y;
            aa[lane] += x * x;
            bb[lane] += y * y;
        });
        // Rounding may lead out of the range; NaN stays.
        (1.0 - sum(&dot) / (sum(&aa).sqrt() * sum(&bb).sqrt())).clamp(0.0, 2.0)
    })
}

/// The sum of the absolute differences.
///
/// # Errors
/// As [`cosine_distance`].
pub fn l1_distance(left: &ArrayRef, right: &ArrayRef) -> Result<Float32Array> {
    distance("l1_distance", left, right, |a, b| {
        let mut total = [0f32; LANES];
        fold(a, b, |lane, x, y| total[lane] += (x - y).abs());
        sum(&total)
    })
}

/// The Euclidean distance.
///
/// # Errors
/// As [`cosine_distance`].
pub fn l2_distance(left: &ArrayRef, right: &ArrayRef) -> Result<Float32Array> {
    distance("l2_distance", left, right, |a, b| {
        let mut total = [0f32; LANES];
        fold(a, b, |lane, x, y| total[lane] += (x - y) * (x - y));
        sum(&total).sqrt()
    })
}

/// Independent sums, so that the compiler may use vector registers.
const LANES: usize = 16;

#[inline(always)]
fn fold(a: &[f32], b: &[f32], mut add: impl FnMut(usize, f32, f32)) {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            add(lane, x[lane], y[lane]);
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        add(lane, *x, *y);
    }
}

fn sum(lanes: &[f32; LANES]) -> f32 {
    lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>() as f32
}

fn distance(
    name: &str,
    left: &ArrayRef,
    right: &ArrayRef,
    kernel: impl Fn(&[f32], &[f32]) -> f32,
) -> Result<Float32Array> {
    let (left, right) = (Vectors::new(name, left)?, Vectors::new(name, right)?);
    let rows = match (left.rows(), right.rows()) {
        (a, b) if a == b => a,
        (1, b) => b,
        (a, 1) => a,
        (a, b) => return Err(Error::internal(format!("{name} got {a} and {b} rows"))),
    };
    let mut values = Vec::with_capacity(rows);
    for row in 0..rows {
        let at = |side: &Vectors| if side.rows() == 1 { 0 } else { row };
        values.push(match (left.get(at(&left)), right.get(at(&right))) {
            (Some(a), Some(b)) if a.len() == b.len() => Some(kernel(a, b)),
            (Some(a), Some(b)) => {
                return Err(Error::invalid(format!(
                    "{name} needs vectors of the same dimension; these have {} and {}",
                    a.len(),
                    b.len()
                )));
            }
            _ => None,
        });
    }
    Ok(Float32Array::from(values))
}

/// An array of vectors seen as one run of floats.
struct Vectors {
    array: ArrayRef,
    values: Float32Array,
    /// Where each row starts; one more than rows.
    offsets: Vec<usize>,
}

impl Vectors {
    fn new(name: &str, array: &ArrayRef) -> Result<Self> {
        let (values, offsets) = match array.data_type() {
            DataType::FixedSizeList(..) => fixed(array.as_fixed_size_list()),
            DataType::List(_) => variable(array.as_list::<i32>()),
            DataType::LargeList(_) => variable(array.as_list::<i64>()),
            other => {
                return Err(Error::invalid(format!(
                    "{name} needs vectors or arrays of numbers, not {other}"
                )));
            }
        };
        if !values.data_type().is_numeric() && *values.data_type() != DataType::Null {
            return Err(Error::invalid(format!(
                "{name} needs vectors or arrays of numbers, not arrays of {}",
                values.data_type()
            )));
        }
        let values = compute::cast(&values, &DataType::Float32)
            .map_err(|error| Error::invalid(format!("{name}: {error}")))?;
        let values = values.as_primitive::<Float32Type>().clone();
        Ok(Self { array: array.clone(), values, offsets })
    }

    fn rows(&self) -> usize {
        self.array.len()
    }

    fn get(&self, row: usize) -> Option<&[f32]> {
        if self.array.is_null(row) {
            return None;
        }
        let range = self.offsets[row]..self.offsets[row + 1];
        if self.values.null_count() > 0 && range.clone().any(|i| self.values.is_null(i)) {
            return None;
        }
        Some(&self.values.values()[range])
    }
}

fn fixed(list: &FixedSizeListArray) -> (ArrayRef, Vec<usize>) {
    let width = list.value_length() as usize;
    (list.values().clone(), (0..=list.len()).map(|row| row * width).collect())
}

fn variable<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> (ArrayRef, Vec<usize>) {
    (list.values().clone(), list.value_offsets().iter().map(|offset| offset.as_usize()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::Arc;

    use arrow::array::{FixedSizeListBuilder, Float32Builder, Float64Builder, ListBuilder};

    use super::*;

    fn vectors(rows: &[Option<&[f32]>], width: i32) -> ArrayRef {
        let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), width);
        for row in rows {
            match row {
                Some(row) => row.iter().for_each(|v| builder.values().append_value(*v)),
                None => (0..width).for_each(|_| builder.values().append_value(0.0)),
            }
            builder.append(row.is_some());
        }
        Arc::new(builder.finish())
    }

    fn literal(row: &[Option<f64>]) -> ArrayRef {
        let mut builder = ListBuilder::new(Float64Builder::new());
        row.iter().for_each(|v| builder.values().append_option(*v));
        builder.append(true);
        Arc::new(builder.finish())
    }

    #[test]
    fn distances_by_hand() {
        let column = vectors(&[Some(&[1.0, 0.0]), Some(&[0.0, 2.0]), None, Some(&[-3.0, 0.0])], 2);
        let query = literal(&[Some(1.0), Some(0.0)]);
        let values = |array: Float32Array| array.iter().collect::<Vec<_>>();
        assert_eq!(
            values(cosine_distance(&column, &query).unwrap()),
            [Some(0.0), Some(1.0), None, Some(2.0)]
        );
        assert_eq!(values(l1_distance(&column, &query).unwrap()), [Some(0.0), Some(3.0), None, Some(4.0)]);
        assert_eq!(
            values(l2_distance(&query, &column).unwrap()),
            [Some(0.0), Some(5f32.sqrt()), None, Some(4.0)]
        );
    }

    #[test]
    fn equal_vectors_are_not_nearer_than_nothing() {
        let column = vectors(&[Some(&[0.1, 0.2, 0.3, 0.7]), Some(&[1.1, 2.3, 3.7, 0.9])], 4);
        for value in cosine_distance(&column, &column).unwrap().iter().flatten() {
            assert!((0.0..1e-6).contains(&value), "{value}");
        }
    }

    #[test]
    fn long_vectors_use_every_element() {
        let a: Vec<f32> = (0..1031).map(|i| i as f32 / 100.0).collect();
        let b: Vec<f32> = a.iter().map(|v| v + 1.0).collect();
        let (a, b) = (vectors(&[Some(&a)], 1031), vectors(&[Some(&b)], 1031));
        assert!((l1_distance(&a, &b).unwrap().value(0) - 1031.0).abs() < 0.01);
        assert!((l2_distance(&a, &b).unwrap().value(0) - 1031f32.sqrt()).abs() < 0.001);
    }

    #[test]
    fn sliced_columns_compare_their_own_rows() {
        let column = vectors(&[Some(&[1.0, 0.0]), Some(&[0.0, 2.0])], 2).slice(1, 1);
        assert_eq!(l1_distance(&column, &literal(&[Some(0.0), Some(0.0)])).unwrap().value(0), 2.0);
    }

    #[test]
    fn misfits_are_named() {
        let two = vectors(&[Some(&[1.0, 0.0])], 2);
        let error = l2_distance(&two, &literal(&[Some(1.0)])).unwrap_err();
        assert_eq!(error.message(), "l2_distance needs vectors of the same dimension; these have 2 and 1");
        let text: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["a"]));
        assert!(l2_distance(&two, &text).unwrap_err().message().contains("not Utf8"));
        assert!(l1_distance(&two, &literal(&[Some(1.0), None])).unwrap().is_null(0));
    }
}

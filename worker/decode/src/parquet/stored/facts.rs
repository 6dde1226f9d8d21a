//! What was seen of a column: its NULLs, its NaNs, its least and greatest value, as the statistics of a
//! chunk have them. What a source file claims of its values plays no part.

use ::parquet::basic::{LogicalType, Type as PhysicalType};
use ::parquet::data_type::{ByteArray, FixedLenByteArray};
use ::parquet::file::statistics::{Statistics, ValueStatistics};
use ::parquet::schema::types::ColumnDescriptor;
use arrow::array::{Array, ArrayRef, AsArray, GenericByteArray, PrimitiveArray};
use arrow::compute;
use arrow::datatypes::{
    ArrowNativeType, ArrowNumericType, ByteArrayType, DataType, Date32Type, Decimal128Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt8Type,
    UInt16Type, UInt32Type,
};
use stevedore_common::error::{Error, Result};

/// Longer bounds are cut.
const LONGEST_BOUND: usize = 64;

/// What was seen of a column.
#[derive(Debug, Default, PartialEq)]
pub struct Facts {
    pub(super) nulls: u64,
    pub(super) nans: u64,
    pub(super) bounds: Option<Bounds>,
}

/// The least and the greatest value.
#[derive(Debug, PartialEq)]
pub(super) enum Bounds {
    Boolean(bool, bool),
    Integer(i128, i128),
    Float(f32, f32),
    Double(f64, f64),
    Bytes(Vec<u8>, Vec<u8>),
}

impl Facts {
    /// Whether [`Facts::add`] takes arrays of a type.
    pub fn covers(ty: &DataType) -> bool {
        matches!(
            ty,
            DataType::Boolean
                | DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::UInt8
                | DataType::UInt16
                | DataType::UInt32
                | DataType::Date32
                | DataType::Timestamp(TimeUnit::Microsecond, _)
                | DataType::Decimal128(..)
                | DataType::Float32
                | DataType::Float64
                | DataType::Utf8
                | DataType::Binary
                | DataType::LargeBinary
        )
    }

    /// How many values are NaN.
    pub fn nans(&self) -> u64 {
        self.nans
    }

    /// Adds the values of an array.
    ///
    /// # Errors
    /// Internal for a type that is not covered.
    pub fn add(&mut self, array: &ArrayRef) -> Result<()> {
        self.nulls += array.null_count() as u64;
        match array.data_type() {
            DataType::Boolean => {
                let values = array.as_boolean();
                self.booleans(compute::min_boolean(values).zip(compute::max_boolean(values)));
            }
            DataType::Int8 => self.numbers(array.as_primitive::<Int8Type>()),
            DataType::Int16 => self.numbers(array.as_primitive::<Int16Type>()),
            DataType::Int32 => self.numbers(array.as_primitive::<Int32Type>()),
            DataType::Int64 => self.numbers(array.as_primitive::<Int64Type>()),
            DataType::UInt8 => self.numbers(array.as_primitive::<UInt8Type>()),
            DataType::UInt16 => self.numbers(array.as_primitive::<UInt16Type>()),
            DataType::UInt32 => self.numbers(array.as_primitive::<UInt32Type>()),
            DataType::Date32 => self.numbers(array.as_primitive::<Date32Type>()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                self.numbers(array.as_primitive::<TimestampMicrosecondType>());
            }
            DataType::Decimal128(..) => self.numbers(array.as_primitive::<Decimal128Type>()),
            DataType::Float32 => {
                self.floats(array.as_primitive::<Float32Type>().iter().flatten());
            }
            DataType::Float64 => {
                self.doubles(array.as_primitive::<Float64Type>().iter().flatten());
            }
            DataType::Utf8 => self.bytes(bytes_range(array.as_string::<i32>())),
            DataType::Binary => self.bytes(bytes_range(array.as_binary::<i32>())),
            DataType::LargeBinary => self.bytes(bytes_range(array.as_binary::<i64>())),
            other => return Err(Error::internal(format!("{other} is not stored as it is"))),
        }
        Ok(())
    }

    fn numbers<T: ArrowNumericType>(&mut self, values: &PrimitiveArray<T>)
    where
        T::Native: Into<i128>,
    {
        let range = compute::min(values).zip(compute::max(values));
        self.integers(range.map(|(least, greatest)| (least.into(), greatest.into())));
    }

    /// Widens the bounds of integers, and of what is stored as integers.
    pub(super) fn integers(&mut self, range: Option<(i128, i128)>) {
        let Some((least, greatest)) = range else { return };
        self.bounds = Some(match self.bounds.take() {
            Some(Bounds::Integer(a, b)) => Bounds::Integer(a.min(least), b.max(greatest)),
            // A column keeps its type from page to page.
            _ => Bounds::Integer(least, greatest),
        });
    }

    /// Widens the bounds of booleans.
    pub(super) fn booleans(&mut self, range: Option<(bool, bool)>) {
        let Some((least, greatest)) = range else { return };
        self.bounds = Some(match self.bounds.take() {
            Some(Bounds::Boolean(a, b)) => Bounds::Boolean(a & least, b | greatest),
            _ => Bounds::Boolean(least, greatest),
        });
    }

    /// Adds numbers; NaN lies outside of all bounds.
    pub(super) fn floats(&mut self, values: impl Iterator<Item = f32>) {
        let (nans, range) = range_of_numbers(values, f32::is_nan, (f32::INFINITY, f32::NEG_INFINITY));
        self.nans += nans;
        let Some((least, greatest)) = range else { return };
        let (low, high) = match self.bounds.take() {
            Some(Bounds::Float(a, b)) => (a.min(least), b.max(greatest)),
            _ => (least, greatest),
        };
        let (low, high) = with_both_zeros((low, high), (-0.0, 0.0));
        self.bounds = Some(Bounds::Float(low, high));
    }

    /// As [`Facts::floats`].
    pub(super) fn doubles(&mut self, values: impl Iterator<Item = f64>) {
        let (nans, range) = range_of_numbers(values, f64::is_nan, (f64::INFINITY, f64::NEG_INFINITY));
        self.nans += nans;
        let Some((least, greatest)) = range else { return };
        let (low, high) = match self.bounds.take() {
            Some(Bounds::Double(a, b)) => (a.min(least), b.max(greatest)),
            _ => (least, greatest),
        };
        let (low, high) = with_both_zeros((low, high), (-0.0, 0.0));
        self.bounds = Some(Bounds::Double(low, high));
    }

    /// Widens the bounds of texts and bytes.
    pub(super) fn bytes(&mut self, range: Option<(&[u8], &[u8])>) {
        if let (Some((least, greatest)), Some(Bounds::Bytes(low, high))) = (range, &mut self.bounds) {
            if least < low.as_slice() {
                *low = least.to_vec();
            }
            if greatest > high.as_slice() {
                *high = greatest.to_vec();
            }
        } else if let Some((least, greatest)) = range {
            self.bounds = Some(Bounds::Bytes(least.to_vec(), greatest.to_vec()));
        }
    }

    /// Whether all integers lie within a range; true of what has none.
    pub(super) fn lie_within(&self, allowed: Option<(i128, i128)>) -> bool {
        match (&self.bounds, allowed) {
            (Some(Bounds::Integer(least, greatest)), Some((low, high))) => {
                (low..=high).contains(least) && (low..=high).contains(greatest)
            }
            _ => true,
        }
    }

    /// The statistics of a chunk on a descriptor of the table; `None` where they do not go together.
    pub fn statistics(self, target: &ColumnDescriptor) -> Option<Statistics> {
        let nulls = Some(self.nulls);
        let Some(bounds) = self.bounds else {
            return Some(empty_statistics(target, nulls));
        };
        Some(match (bounds, target.physical_type()) {
            (Bounds::Boolean(a, b), PhysicalType::BOOLEAN) => {
                Statistics::boolean(Some(a), Some(b), None, nulls, false)
            }
            (Bounds::Integer(a, b), PhysicalType::INT32) => Statistics::int32(
                Some(i32::try_from(a).ok()?),
                Some(i32::try_from(b).ok()?),
                None,
                nulls,
                false,
            ),
            (Bounds::Integer(a, b), PhysicalType::INT64) => Statistics::int64(
                Some(i64::try_from(a).ok()?),
                Some(i64::try_from(b).ok()?),
                None,
                nulls,
                false,
            ),
            (Bounds::Integer(a, b), PhysicalType::FIXED_LEN_BYTE_ARRAY) => {
                let length = usize::try_from(target.type_length()).ok().filter(|length| *length <= 16)?;
                let bytes = |value: i128| {
                    FixedLenByteArray::from(ByteArray::from(value.to_be_bytes()[16 - length..].to_vec()))
                };
                Statistics::fixed_len_byte_array(Some(bytes(a)), Some(bytes(b)), None, nulls, false)
            }
            (Bounds::Float(a, b), PhysicalType::FLOAT) => {
                Statistics::float(Some(a), Some(b), None, nulls, false)
            }
            (Bounds::Double(a, b), PhysicalType::DOUBLE) => {
                Statistics::double(Some(a), Some(b), None, nulls, false)
            }
            (Bounds::Bytes(a, b), PhysicalType::BYTE_ARRAY) => {
                let text = target.logical_type_ref() == Some(&LogicalType::String);
                let (least, greatest) = (cut(&a, text), next_above(&b, text));
                let exact = |bound: Option<&[u8]>, value: &[u8]| bound == Some(value);
                let (least_exact, greatest_exact) = (exact(Some(least), &a), exact(greatest.as_deref(), &b));
                let bytes = |bound: &[u8]| ByteArray::from(bound.to_vec());
                let bounds = ValueStatistics::new(
                    Some(bytes(least)),
                    greatest.as_deref().map(bytes),
                    None,
                    nulls,
                    false,
                );
                Statistics::ByteArray(bounds.with_min_is_exact(least_exact).with_max_is_exact(greatest_exact))
            }
            _ => return None,
        })
    }
}

/// How many numbers are NaN, and the least and the greatest of the others; `ends` are those that all lie between.
fn range_of_numbers<T: PartialOrd + Copy>(
    values: impl Iterator<Item = T>,
    is_nan: impl Fn(T) -> bool,
    ends: (T, T),
) -> (u64, Option<(T, T)>) {
    let ((mut least, mut greatest), mut nans) = (ends, 0);
    for value in values {
        nans += u64::from(is_nan(value));
        least = if value < least { value } else { least };
        greatest = if value > greatest { value } else { greatest };
    }
    // Nothing but NaN leaves the ends where they were, apart from each other.
    (nans, (least <= greatest).then_some((least, greatest)))
}

/// Readers must find either zero between the bounds (Parquet's own rule).
fn with_both_zeros<T: PartialEq>((low, high): (T, T), (negative, positive): (T, T)) -> (T, T) {
    (if low == negative { negative } else { low }, if high == positive { positive } else { high })
}

/// The least and the greatest value.
fn bytes_range<T: ByteArrayType>(array: &GenericByteArray<T>) -> Option<(&[u8], &[u8])> {
    match array.nulls() {
        Some(nulls) => range_of_rows(array, nulls.valid_indices()),
        None => range_of_rows(array, 0..array.len()),
    }
}

/// Most values differ in their first bytes, which are compared as one number: a call for each value would
/// take several times as long.
fn range_of_rows<T: ByteArrayType>(
    array: &GenericByteArray<T>,
    mut rows: impl Iterator<Item = usize>,
) -> Option<(&[u8], &[u8])> {
    let (data, offsets) = (array.value_data(), array.value_offsets());
    let value = |row: usize| -> &[u8] { &data[offsets[row].as_usize()..offsets[row + 1].as_usize()] };
    let first = rows.next()?;
    let start = prefix(data, offsets[first].as_usize(), offsets[first + 1].as_usize());
    let ((mut low, mut least), (mut high, mut greatest)) = ((start, value(first)), (start, value(first)));
    for row in rows {
        let start = prefix(data, offsets[row].as_usize(), offsets[row + 1].as_usize());
        if start < low || (start == low && value(row) < least) {
            (low, least) = (start, value(row));
        }
        if start > high || (start == high && value(row) > greatest) {
            (high, greatest) = (start, value(row));
        }
    }
    Some((least, greatest))
}

/// The first bytes of `data[start..end]` as a number that orders as they do; those that are missing are zeros.
fn prefix(data: &[u8], start: usize, end: usize) -> u128 {
    const BYTES: usize = size_of::<u128>();
    let len = end - start;
    match data.get(start..start + BYTES).and_then(|bytes| <[u8; BYTES]>::try_from(bytes).ok()) {
        Some(bytes) if len >= BYTES => u128::from_be_bytes(bytes),
        Some(_) if len == 0 => 0,
        // What follows belongs to other values.
        Some(bytes) => u128::from_be_bytes(bytes) & (u128::MAX << (8 * (BYTES - len))),
        None => {
            let mut bytes = [0; BYTES];
            let len = len.min(BYTES);
            bytes[..len].copy_from_slice(&data[start..start + len]);
            u128::from_be_bytes(bytes)
        }
    }
}

/// The beginning of a value, short enough for a bound.
fn cut(value: &[u8], text: bool) -> &[u8] {
    let mut end = value.len().min(LONGEST_BOUND);
    // Not between the bytes of a character.
    while text && end < value.len() && end > 0 && value[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    &value[..end]
}

/// The value, or a shorter one above all that begin as it does; `None` where there is none.
fn next_above(value: &[u8], text: bool) -> Option<Vec<u8>> {
    let cut = cut(value, text);
    if cut.len() == value.len() {
        return Some(cut.to_vec());
    }
    if !text {
        let end = cut.iter().rposition(|byte| *byte < u8::MAX)?;
        let mut above = cut[..=end].to_vec();
        above[end] += 1;
        return Some(above);
    }
    let mut characters: Vec<char> = std::str::from_utf8(cut).ok()?.chars().collect();
    while let Some(last) = characters.pop() {
        // Surrogates are no characters: step over them.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect::<String>().into_bytes());
        }
    }
    None
}

fn empty_statistics(target: &ColumnDescriptor, nulls: Option<u64>) -> Statistics {
    match target.physical_type() {
        PhysicalType::BOOLEAN => Statistics::boolean(None, None, None, nulls, false),
        PhysicalType::INT32 => Statistics::int32(None, None, None, nulls, false),
        PhysicalType::INT64 => Statistics::int64(None, None, None, nulls, false),
        PhysicalType::INT96 => Statistics::int96(None, None, None, nulls, false),
        PhysicalType::FLOAT => Statistics::float(None, None, None, nulls, false),
        PhysicalType::DOUBLE => Statistics::double(None, None, None, nulls, false),
        PhysicalType::BYTE_ARRAY => Statistics::byte_array(None, None, None, nulls, false),
        PhysicalType::FIXED_LEN_BYTE_ARRAY => {
            Statistics::fixed_len_byte_array(None, None, None, nulls, false)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn texts_are_ordered_by_their_bytes_whatever_their_length() {
        let long = "a prefix of more than sixteen bytes ".to_owned();
        let texts: Vec<Option<String>> = ["", "\0", "b", "b\0", "b\0\0", "ä", "a", "\u{10FFFF}"]
            .into_iter()
            .map(str::to_owned)
            .chain((0..40).map(|n| format!("{long}{n}")))
            .chain((0..20).map(|n| "x".repeat(n)))
            .map(Some)
            .collect();
        // Every run of them, with NULLs between, so that any value is first, last, least and greatest.
        for from in 0..texts.len() {
            for to in from..texts.len() {
                let mut run = texts[from..=to].to_vec();
                let expected = (run.iter().flatten().min().cloned(), run.iter().flatten().max().cloned());
                for with_nulls in [false, true] {
                    if with_nulls {
                        run.insert(run.len() / 2, None);
                        run.insert(0, None);
                    }
                    let array = StringArray::from(run.clone());
                    let (least, greatest) = bytes_range(&array).unwrap();
                    assert_eq!(Some(least), expected.0.as_deref().map(str::as_bytes));
                    assert_eq!(Some(greatest), expected.1.as_deref().map(str::as_bytes));
                }
            }
        }
        assert_eq!(bytes_range(&StringArray::from(vec![None::<&str>; 3])), None);
    }

    #[test]
    fn cut_bounds_still_hold_the_value() {
        let texts =
            ["short".to_owned(), "ä".repeat(40), "z".repeat(64), "\u{10FFFF}".repeat(40), "a".repeat(65)];
        for value in &texts {
            let least = cut(value.as_bytes(), true);
            assert!(least <= value.as_bytes() && std::str::from_utf8(least).is_ok() && least.len() <= 64);
            if let Some(greatest) = next_above(value.as_bytes(), true) {
                assert!(greatest.as_slice() >= value.as_bytes() && greatest.len() <= 64, "{value}");
                assert!(String::from_utf8(greatest).is_ok());
            }
        }
        assert_eq!(next_above(texts[3].as_bytes(), true), None);
        assert_eq!(
            next_above(texts[4].as_bytes(), true).unwrap(),
            format!("{}b", "a".repeat(63)).into_bytes()
        );
        assert_eq!(next_above(&[0xFF; 65], false), None);
        let mut bytes = [0xFF; 65];
        bytes[3] = 7;
        assert_eq!(next_above(&bytes, false).unwrap(), [0xFF, 0xFF, 0xFF, 8]);
    }
}

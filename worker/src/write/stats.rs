//! The statistics of a data file: from the footer of the Parquet file that was just written, and the
//! NaNs that were counted on the way in (Parquet does not).

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, PrimitiveType, Schema,
    Struct, StructType, serialize_data_file_to_json,
};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescriptor;
use stevedore_common::row_lineage::is_reserved;
use stevedore_common::schema::FIELD_ID;
use stevedore_common::{Error, Result};

/// Columns with statistics beyond their size, as Iceberg's own default has it: a row of manifests with
/// thousands of columns would cost more to plan than it saves.
const COLUMNS_WITH_STATISTICS: usize = 100;
/// Characters (or bytes) of a bound.
const BOUND_LENGTH: usize = 16;
/// A data file's JSON must fit into one chunk of a report.
const JSON_BYTES: usize = 40 << 10;

/// NaNs by field id.
#[derive(Debug, Default)]
pub(super) struct NanCounts(HashMap<i32, u64>);

impl NanCounts {
    /// Adds to the count of a column.
    pub(super) fn add_to(&mut self, field: &FieldRef, nans: u64) {
        let floats = matches!(field.data_type(), DataType::Float32 | DataType::Float64);
        if floats && let Some(id) = field_id(field) {
            *self.0.entry(id).or_default() += nans;
        }
    }

    /// Adds those of a chunk as it was stored; below lists they are not counted.
    pub(super) fn add_chunk(&mut self, column: &ColumnDescriptor, nans: u64) {
        let floats = matches!(column.physical_type(), PhysicalType::FLOAT | PhysicalType::DOUBLE);
        let info = column.self_type().get_basic_info();
        if floats && column.max_rep_level() == 0 && info.has_id() {
            *self.0.entry(info.id()).or_default() += nans;
        }
    }

    /// Adds counts by field id.
    pub(super) fn add_counts(&mut self, counts: &HashMap<i32, u64>) {
        for (id, count) in counts {
            *self.0.entry(*id).or_default() += count;
        }
    }

    /// The counts by field id.
    pub(super) fn into_counts(self) -> HashMap<i32, u64> {
        self.0
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.add_counts(&other.0);
    }
}

fn field_id(field: &FieldRef) -> Option<i32> {
    field.metadata().get(FIELD_ID).and_then(|id| id.parse().ok())
}

/// Counts the NaNs of a column, and of the fields of a tuple; lists and maps have no statistics.
pub(super) fn count_nans(field: &FieldRef, array: &ArrayRef, counts: &mut NanCounts) {
    let nans = match array.data_type() {
        DataType::Float32 => {
            array.as_primitive::<Float32Type>().iter().flatten().filter(|v| v.is_nan()).count()
        }
        DataType::Float64 => {
            array.as_primitive::<Float64Type>().iter().flatten().filter(|v| v.is_nan()).count()
        }
        DataType::Struct(fields) => {
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                count_nans(field, column, counts);
            }
            return;
        }
        _ => return,
    };
    counts.add_to(field, nans as u64);
}

/// What is known of a file that was written.
pub(super) struct Finished<'a> {
    pub(super) location: &'a str,
    pub(super) bytes: u64,
    pub(super) metadata: &'a ParquetMetaData,
    pub(super) nans: &'a NanCounts,
    pub(super) partition: Struct,
    pub(super) spec_id: i32,
}

/// The data file as JSON, small enough for a report: bounds of the last columns give way if need be.
pub(super) fn data_file_json(
    file: &Finished<'_>,
    schema: &Schema,
    partition_type: &StructType,
) -> Result<String> {
    let mut columns = COLUMNS_WITH_STATISTICS;
    loop {
        let data_file = data_file(file, schema, columns)?;
        let json = serialize_data_file_to_json(data_file, partition_type, FormatVersion::V2)?;
        if json.len() <= JSON_BYTES || columns == 0 {
            return Ok(json);
        }
        columns /= 2;
    }
}

fn data_file(file: &Finished<'_>, schema: &Schema, columns: usize) -> Result<DataFile> {
    let mut sizes: HashMap<i32, u64> = HashMap::new();
    let mut values: HashMap<i32, u64> = HashMap::new();
    let mut nulls: HashMap<i32, u64> = HashMap::new();
    let mut bounds = Bounds::default();
    // Sizes have no use without the rest, and are what is left when there are thousands of columns.
    for group in file.metadata.row_groups() {
        for chunk in group.columns().iter().take(columns) {
            let descriptor = chunk.column_descr();
            let info = descriptor.self_type().get_basic_info();
            if !info.has_id() || is_reserved(info.id()) {
                continue;
            }
            let id = info.id();
            *sizes.entry(id).or_default() += u64::try_from(chunk.compressed_size()).unwrap_or(0);
            if descriptor.max_rep_level() > 0 {
                continue;
            }
            *values.entry(id).or_default() += u64::try_from(chunk.num_values()).unwrap_or(0);
            if let Some(count) = chunk.statistics().and_then(Statistics::null_count_opt) {
                *nulls.entry(id).or_default() += count;
            }
            if let Some(ty) = schema.field_by_id(id).and_then(|field| field.field_type.as_primitive_type()) {
                bounds.include(id, ty, chunk);
            }
        }
    }
    let nans =
        file.nans.0.iter().filter(|(id, _)| values.contains_key(id)).map(|(id, n)| (*id, *n)).collect();
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(file.location.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(file.partition.clone())
        .partition_spec_id(file.spec_id)
        .record_count(u64::try_from(file.metadata.file_metadata().num_rows()).unwrap_or(0))
        .file_size_in_bytes(file.bytes)
        .column_sizes(sizes)
        .value_counts(values)
        .null_value_counts(nulls)
        .nan_value_counts(nans)
        .lower_bounds(bounds.lower)
        .upper_bounds(bounds.upper)
        .split_offsets(Some(
            file.metadata.row_groups().iter().filter_map(|group| group.file_offset()).collect(),
        ));
    builder.build().map_err(|e| Error::internal(format!("building a data file: {e}")))
}

/// Bounds over row groups. A column loses its bounds for good when one row group has values and no bound
/// for them.
#[derive(Default)]
struct Bounds {
    lower: HashMap<i32, Datum>,
    upper: HashMap<i32, Datum>,
    unbounded: std::collections::HashSet<i32>,
}

impl Bounds {
    fn include(&mut self, id: i32, ty: &PrimitiveType, chunk: &ColumnChunkMetaData) {
        if self.unbounded.contains(&id) {
            return;
        }
        let statistics = chunk.statistics();
        let min = statistics.and_then(Statistics::min_bytes_opt);
        let max = statistics.and_then(Statistics::max_bytes_opt);
        if min.is_none() && max.is_none() {
            let nulls = statistics.and_then(Statistics::null_count_opt);
            let only_nulls = nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(chunk.num_values()));
            // Bounds leave out NULLs and NaNs, and Parquet does too.
            if only_nulls || matches!(ty, PrimitiveType::Float | PrimitiveType::Double) {
                return;
            }
        }
        let min = min.and_then(|bytes| lower_bound(ty, bytes));
        let max = max.and_then(|bytes| upper_bound(ty, bytes));
        let (Some(min), Some(max)) = (min, max) else {
            self.unbounded.insert(id);
            self.lower.remove(&id);
            self.upper.remove(&id);
            return;
        };
        let lower = self.lower.entry(id).or_insert_with(|| min.clone());
        if min < *lower {
            *lower = min;
        }
        let upper = self.upper.entry(id).or_insert_with(|| max.clone());
        if max > *upper {
            *upper = max;
        }
    }
}

fn lower_bound(ty: &PrimitiveType, bytes: &[u8]) -> Option<Datum> {
    match ty {
        PrimitiveType::String => {
            let text = std::str::from_utf8(bytes).ok()?;
            Some(Datum::string(prefix(text)))
        }
        PrimitiveType::Binary => Some(Datum::binary(bytes[..bytes.len().min(BOUND_LENGTH)].to_vec())),
        _ => exact(ty, bytes),
    }
}

fn upper_bound(ty: &PrimitiveType, bytes: &[u8]) -> Option<Datum> {
    match ty {
        PrimitiveType::String => {
            let text = std::str::from_utf8(bytes).ok()?;
            let cut = prefix(text);
            if cut.len() == text.len() {
                Some(Datum::string(text))
            } else {
                next_text(cut).map(Datum::string)
            }
        }
        PrimitiveType::Binary if bytes.len() > BOUND_LENGTH => {
            let mut cut = bytes[..BOUND_LENGTH].to_vec();
            while let Some(last) = cut.pop() {
                if last < u8::MAX {
                    cut.push(last + 1);
                    return Some(Datum::binary(cut));
                }
            }
            None
        }
        PrimitiveType::Binary => Some(Datum::binary(bytes.to_vec())),
        _ => exact(ty, bytes),
    }
}

/// The first characters of a text.
fn prefix(text: &str) -> &str {
    text.char_indices().nth(BOUND_LENGTH).map_or(text, |(end, _)| &text[..end])
}

/// The smallest text of at most this many characters that is greater than every text with this prefix.
fn next_text(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Surrogates are no characters: step over them.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Parquet's plain bytes of a fixed-width value as a datum. Decimals are little-endian integers in
/// Parquet's narrow types and big-endian bytes in its wide one; Iceberg wants big-endian.
fn exact(ty: &PrimitiveType, bytes: &[u8]) -> Option<Datum> {
    match ty {
        PrimitiveType::Decimal { precision, .. } => {
            let big_endian = match (precision, bytes.len()) {
                (0..=9, 4) | (10..=18, 8) => bytes.iter().rev().copied().collect(),
                _ => bytes.to_vec(),
            };
            Datum::try_from_bytes(&big_endian, ty.clone()).ok()
        }
        PrimitiveType::Boolean
        | PrimitiveType::Int
        | PrimitiveType::Long
        | PrimitiveType::Float
        | PrimitiveType::Double
        | PrimitiveType::Date
        | PrimitiveType::Timestamp
        | PrimitiveType::Timestamptz => Datum::try_from_bytes(bytes, ty.clone()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_cut_upper_bound_is_above_every_text_with_that_beginning() {
        for text in ["short", "exactly 16 chars", "longer than sixteen characters", "ääääääääääääääääää"]
        {
            let Some(bound) = upper_bound(&PrimitiveType::String, text.as_bytes()) else { panic!("{text}") };
            assert!(bound >= Datum::string(text), "{text}");
            assert!(
                lower_bound(&PrimitiveType::String, text.as_bytes()).unwrap() <= Datum::string(text),
                "{text}"
            );
        }
        let highest = "\u{10FFFF}".repeat(20);
        assert_eq!(upper_bound(&PrimitiveType::String, highest.as_bytes()), None);
        assert_eq!(next_text("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(next_text("\u{D7FF}").as_deref(), Some("\u{E000}"));
        assert_eq!(upper_bound(&PrimitiveType::Binary, &[0xFF; 20]), None);
    }
}

//! Row groups that a table can take as they are stored: decoded to verify every value, then copied column
//! chunk by column chunk, never encoded again.
//!
//! Comes in: the leaf columns of the table's own Parquet files, a row group's bytes. Goes out: the chunks
//! with metadata on the table's descriptors, and statistics of what was decoded. What a source file claims
//! of its values is never handed on. Anything that stands in the way (another type, a reject, damage) only
//! means that the row group is loaded the usual way, which says what is wrong.

use std::io::Read;
use std::sync::Arc;

use ::parquet::basic::{Compression, Type as PhysicalType};
use ::parquet::data_type::{ByteArray, FixedLenByteArray};
use ::parquet::errors::Result as ParquetResult;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use ::parquet::file::statistics::Statistics;
use ::parquet::schema::types::{ColumnDescPtr, ColumnDescriptor, SchemaDescriptor};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute;
use arrow::datatypes::{
    ArrowNumericType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType,
};
use bytes::Bytes;
use stevedore_common::error::{Error, Result};

use super::chunks::Chunks;
use super::file::{ParquetFile, RowGroupTask};
use crate::columnar::Source;

/// A row group below both of these is merged with others by encoding it again.
const LEAST_ROWS: u64 = 64 * 1024;
const LEAST_BYTES: u64 = 8 << 20;
/// Longer bounds are left out of the statistics.
const LONGEST_BOUND: usize = 64;

/// The leaf columns of a table's Parquet files, one for each column of the table.
#[derive(Debug)]
pub struct StoredLayout {
    columns: Vec<ColumnDescPtr>,
}

impl StoredLayout {
    /// The layout of a table; `None` where a column is nested.
    pub fn new(schema: &SchemaDescriptor) -> Option<Self> {
        let flat = schema.root_schema().get_fields().iter().all(|field| field.is_primitive());
        let columns = schema.columns().to_vec();
        (flat && columns.iter().all(|column| column.max_rep_level() == 0)).then_some(Self { columns })
    }
}

/// A verified row group as it is stored.
#[derive(Debug)]
pub struct StoredGroup {
    /// Its rows, all of them good.
    pub rows: u64,
    /// Its columns, in the table's order.
    pub columns: Vec<StoredChunk>,
    /// The bytes that were read for it.
    pub input_bytes: u64,
}

/// One column chunk.
#[derive(Debug)]
pub struct StoredChunk {
    /// On the table's descriptor; offsets are those of the source file.
    pub metadata: ColumnChunkMetaData,
    /// NaNs among its values.
    pub nans: u64,
    bytes: Chunks,
}

impl Length for StoredChunk {
    fn len(&self) -> u64 {
        self.bytes.len()
    }
}

impl ChunkReader for StoredChunk {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(Box::new(self.bytes.get_read(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.bytes.get_bytes(start, length)
    }
}

impl ParquetFile {
    /// Whether a row group may go into a table of this layout as it is stored, as far as metadata tell:
    /// the outputs are the table's columns, of the same types, and well encoded.
    pub fn may_store(&self, row_group: usize, layout: &StoredLayout) -> bool {
        let Some(group) = self.metadata.row_groups().get(row_group) else { return false };
        let bytes = group.compressed_size().unsigned_abs();
        if self.columns.outputs.len() != layout.columns.len()
            || !self.columns.spec.format.null_if.is_empty()
            || (group.num_rows().unsigned_abs() < LEAST_ROWS && bytes < LEAST_BYTES)
        {
            return false;
        }
        self.columns.outputs.iter().zip(&layout.columns).all(|(output, target)| {
            let Source::Column(index) = output.source else { return false };
            let (column, leaves) = (&self.columns.columns[index], &self.leaves[index]);
            leaves.len() == 1
                && column.physical.is_none()
                && column.raw.is_none()
                && column.natural_type().is_ok_and(|ty| ty == output.ty)
                && group.columns().get(leaves.start).is_some_and(|chunk| is_stored_alike(chunk, target))
        })
    }

    /// Decodes a row group to its end; `None` unless all of its rows may be stored as they are. CPU work.
    pub fn verify_row_group(
        self: &Arc<Self>,
        task: &RowGroupTask,
        fetched: &[Bytes],
        layout: &StoredLayout,
    ) -> Option<StoredGroup> {
        let mut facts: Vec<Facts> = self.columns.outputs.iter().map(|_| Facts::default()).collect();
        let mut rows = 0;
        for batch in self.decode_row_group(task, fetched.to_vec()).ok()? {
            let batch = batch.ok()?;
            if !batch.errors.is_empty() {
                return None;
            }
            rows += batch.batch.num_rows() as u64;
            for (facts, array) in facts.iter_mut().zip(batch.batch.columns()) {
                facts.add(array).ok()?;
            }
        }
        if rows != task.rows {
            return None;
        }
        let group = self.metadata.row_groups().get(task.row_group)?;
        let bytes = Chunks::new(task.byte_ranges.iter().cloned().zip(fetched.iter().cloned()).collect());
        let mut columns = Vec::with_capacity(self.columns.outputs.len());
        for ((output, target), facts) in self.columns.outputs.iter().zip(&layout.columns).zip(facts) {
            let Source::Column(index) = output.source else { return None };
            let chunk = group.columns().get(self.leaves.get(index)?.start)?;
            let mut metadata = ColumnChunkMetaData::builder(target.clone())
                .set_compression(chunk.compression())
                .set_encodings_mask(*chunk.encodings_mask())
                .set_total_compressed_size(chunk.compressed_size())
                .set_total_uncompressed_size(chunk.uncompressed_size())
                .set_num_values(chunk.num_values())
                .set_data_page_offset(chunk.data_page_offset())
                .set_dictionary_page_offset(chunk.dictionary_page_offset());
            let nans = facts.nans;
            if let Some(statistics) = facts.statistics(target) {
                metadata = metadata.set_statistics(statistics);
            }
            columns.push(StoredChunk { metadata: metadata.build().ok()?, nans, bytes: bytes.clone() });
        }
        Some(StoredGroup { rows, columns, input_bytes: task.input_bytes() })
    }
}

/// Whether the pages of a chunk mean the same in a column of the table, and are compressed well enough.
fn is_stored_alike(chunk: &ColumnChunkMetaData, target: &ColumnDescriptor) -> bool {
    let source = chunk.column_descr();
    let same_meaning = match (source.logical_type_ref(), target.logical_type_ref()) {
        (Some(source), Some(target)) => source == target,
        _ => source.converted_type() == target.converted_type(),
    };
    let compressed = matches!(
        chunk.compression(),
        Compression::ZSTD(_)
            | Compression::SNAPPY
            | Compression::LZ4_RAW
            | Compression::GZIP(_)
            | Compression::BROTLI(_)
    );
    let first_page = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    same_meaning
        && compressed
        && chunk.crypto_metadata().is_none()
        && source.physical_type() == target.physical_type()
        && source.type_length() == target.type_length()
        && source.max_rep_level() == 0
        && source.max_def_level() == target.max_def_level()
        && u64::try_from(first_page).is_ok_and(|first| first == chunk.byte_range().0)
}

/// What was seen of a column.
#[derive(Debug, Default)]
struct Facts {
    nulls: u64,
    nans: u64,
    bounds: Option<Bounds>,
}

/// The least and the greatest value.
#[derive(Debug)]
enum Bounds {
    Boolean(bool, bool),
    Integer(i128, i128),
    Float(f32, f32),
    Double(f64, f64),
    Bytes(Vec<u8>, Vec<u8>),
}

impl Facts {
    fn add(&mut self, array: &ArrayRef) -> Result<()> {
        self.nulls += array.null_count() as u64;
        match array.data_type() {
            DataType::Boolean => {
                let values = array.as_boolean();
                self.include(compute::min_boolean(values).zip(compute::max_boolean(values)), Bounds::Boolean);
            }
            DataType::Int32 => self.integers(array.as_primitive::<Int32Type>()),
            DataType::Int64 => self.integers(array.as_primitive::<Int64Type>()),
            DataType::Date32 => self.integers(array.as_primitive::<Date32Type>()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                self.integers(array.as_primitive::<TimestampMicrosecondType>());
            }
            DataType::Decimal128(..) => self.integers(array.as_primitive::<Decimal128Type>()),
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                let range = range_of(values, f32::is_nan, &mut self.nans);
                // Readers must find either zero between the bounds (Parquet's own rule).
                self.include(range, |least, greatest| {
                    Bounds::Float(
                        if least == 0.0 { -0.0 } else { least },
                        if greatest == 0.0 { 0.0 } else { greatest },
                    )
                });
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                let range = range_of(values, f64::is_nan, &mut self.nans);
                self.include(range, |least, greatest| {
                    Bounds::Double(
                        if least == 0.0 { -0.0 } else { least },
                        if greatest == 0.0 { 0.0 } else { greatest },
                    )
                });
            }
            DataType::Utf8 => {
                let values = array.as_string::<i32>();
                let range = compute::min_string(values).zip(compute::max_string(values));
                self.bytes(range.map(|(least, greatest)| (least.as_bytes(), greatest.as_bytes())));
            }
            DataType::Binary => {
                let values = array.as_binary::<i32>();
                self.bytes(compute::min_binary(values).zip(compute::max_binary(values)));
            }
            other => return Err(Error::internal(format!("{other} is not stored as it is"))),
        }
        Ok(())
    }

    fn integers<T: ArrowNumericType>(&mut self, values: &PrimitiveArray<T>)
    where
        T::Native: Into<i128>,
    {
        let range = compute::min(values).zip(compute::max(values));
        self.include(range, |least, greatest| Bounds::Integer(least.into(), greatest.into()));
    }

    fn bytes(&mut self, range: Option<(&[u8], &[u8])>) {
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

    fn include<V>(&mut self, range: Option<(V, V)>, bounds: impl Fn(V, V) -> Bounds) {
        let Some((least, greatest)) = range else { return };
        let new = bounds(least, greatest);
        self.bounds = Some(match (self.bounds.take(), new) {
            (Some(Bounds::Boolean(a, b)), Bounds::Boolean(c, d)) => Bounds::Boolean(a & c, b | d),
            (Some(Bounds::Integer(a, b)), Bounds::Integer(c, d)) => Bounds::Integer(a.min(c), b.max(d)),
            (Some(Bounds::Float(a, b)), Bounds::Float(c, d)) => Bounds::Float(a.min(c), b.max(d)),
            (Some(Bounds::Double(a, b)), Bounds::Double(c, d)) => Bounds::Double(a.min(c), b.max(d)),
            // A column keeps its type from batch to batch.
            (_, new) => new,
        });
    }

    fn statistics(self, target: &ColumnDescriptor) -> Option<Statistics> {
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
                if a.len() > LONGEST_BOUND || b.len() > LONGEST_BOUND {
                    return Some(empty_statistics(target, nulls));
                }
                Statistics::byte_array(Some(ByteArray::from(a)), Some(ByteArray::from(b)), None, nulls, false)
            }
            _ => return None,
        })
    }
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

/// The range of the values that are numbers; counts those that are not.
fn range_of<T: ArrowNumericType>(
    values: &PrimitiveArray<T>,
    is_nan: impl Fn(T::Native) -> bool,
    nans: &mut u64,
) -> Option<(T::Native, T::Native)>
where
    T::Native: PartialOrd,
{
    let mut range: Option<(T::Native, T::Native)> = None;
    for value in values.iter().flatten() {
        if is_nan(value) {
            *nans += 1;
            continue;
        }
        range = Some(match range {
            Some((least, greatest)) => {
                (if value < least { value } else { least }, if value > greatest { value } else { greatest })
            }
            None => (value, value),
        });
    }
    range
}

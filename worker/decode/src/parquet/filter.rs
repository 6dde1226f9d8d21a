//! Rows that nobody wants: row groups that statistics rule out, and rows that a filter drops before the
//! other columns are decoded.
//!
//! Comes in: a [`RowFilter`], the footer, the bytes of the filter's columns. Goes out: bounds of columns by
//! row group, and the rows that pass. Must never change what a statement answers: a file is filtered only
//! where none of its rows can be rejected ([`ParquetFile::can_filter`]), since a bad row counts whether or
//! not the filter drops it; and bounds that could lie (NaN, orders that the format does not define) are
//! not given.

use std::fmt;
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use ::parquet::basic::{ColumnOrder, Type as PhysicalType};
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::statistics::Statistics;
use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

use super::file::{ParquetFile, RowGroupTask};
use super::row_group::RowGroupDecoder;
use crate::cast;
use crate::columnar::{Source, guarded, is_text};
use crate::parse::datetime::Zone;

/// What a statement's WHERE asks of the wanted columns.
pub trait RowFilter: Send + Sync + fmt::Debug {
    /// The wanted columns that it looks at.
    fn columns(&self) -> &[usize];

    /// Which rows pass, given the values of its columns, in their order. What is NULL does not.
    ///
    /// # Errors
    /// Where the batch is not what was asked for; never for a value.
    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray>;

    /// For each row group, whether a row of it may pass.
    fn may_pass(&self, bounds: &dyn RowGroupBounds) -> Vec<bool>;
}

/// What is known of the values in row groups.
pub trait RowGroupBounds {
    /// How many row groups there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bounds of a wanted column; `None` where nothing is known.
    fn of(&self, column: usize) -> Option<ColumnBounds>;

    /// The rows of each.
    fn rows(&self) -> UInt64Array;
}

/// What is known of a column, for each row group; NULL where it is not. Bounds need not be tight.
#[derive(Debug, Clone)]
pub struct ColumnBounds {
    /// No value is less.
    pub least: ArrayRef,
    /// No value is greater.
    pub greatest: ArrayRef,
    /// How many are NULL.
    pub nulls: UInt64Array,
}

/// The rows of a row group that pass.
#[derive(Debug, Clone)]
pub struct SelectedRows {
    selection: RowSelection,
    /// How many they are.
    pub count: u64,
}

impl ParquetFile {
    /// Whether no row of this file can be rejected, whatever it holds.
    pub fn can_filter(&self) -> bool {
        let zone = Zone::parse(&self.columns.spec.cast.timezone);
        let utc = zone.is_ok_and(|zone| zone == Zone::Utc);
        self.columns.outputs.iter().all(|output| {
            output.may_be_null()
                && match output.source {
                    Source::Missing => true,
                    Source::WholeRow => self.columns.columns.iter().all(|column| {
                        let natural = column.natural_type();
                        natural.is_ok_and(|ty| always_casts(&column.source, &ty, utc))
                    }),
                    Source::Column(column) => self
                        .columns
                        .columns
                        .get(column)
                        .is_some_and(|column| always_casts(&column.source, &output.ty, utc)),
                }
        })
    }

    /// The tasks of which a row may pass.
    pub fn without_hopeless(&self, tasks: Vec<RowGroupTask>, filter: &dyn RowFilter) -> Vec<RowGroupTask> {
        let groups = self.metadata.row_groups();
        let groups: Option<Vec<&RowGroupMetaData>> =
            tasks.iter().map(|task| groups.get(task.row_group)).collect();
        let Some(groups) = groups else { return tasks };
        let keep = filter.may_pass(&Footers { file: self, groups });
        if keep.len() != tasks.len() {
            return tasks;
        }
        tasks.into_iter().zip(keep).filter_map(|(task, keep)| keep.then_some(task)).collect()
    }

    /// The parts of a task: what the filter looks at, and the rest. `None` where the filter has to see all of
    /// the columns that are read, or a whole row.
    pub fn split_task(
        &self,
        task: &RowGroupTask,
        filter: &dyn RowFilter,
    ) -> Option<(RowGroupTask, RowGroupTask)> {
        let looked_at = self.filter_columns(filter)?;
        let (first, rest): (Vec<usize>, Vec<usize>) =
            self.columns.read.iter().partition(|column| looked_at.contains(column));
        if rest.is_empty() || first.is_empty() {
            return None;
        }
        let part = |columns: &[usize]| {
            let byte_ranges = self.byte_ranges(task.row_group, columns);
            RowGroupTask { byte_ranges, ..task.clone() }
        };
        Some((part(&first), part(&rest)))
    }

    /// The columns of the file that the filter looks at.
    fn filter_columns(&self, filter: &dyn RowFilter) -> Option<Vec<usize>> {
        let mut columns = Vec::new();
        for output in filter.columns() {
            match self.columns.outputs.get(*output)?.source {
                Source::Column(column) => columns.push(column),
                Source::Missing => {}
                Source::WholeRow => return None,
            }
        }
        columns.sort_unstable();
        columns.dedup();
        Some(columns)
    }

    /// Finds the rows that pass. `fetched` is what the first part of a task asks for. CPU work.
    ///
    /// # Errors
    /// Where the row group is damaged.
    pub fn select_rows(
        &self,
        task: &RowGroupTask,
        fetched: &[Bytes],
        filter: &dyn RowFilter,
    ) -> Result<SelectedRows> {
        let part = || format!("row group {} of the Parquet file", task.row_group + 1);
        let damaged = |error: &dyn fmt::Display| Error::bad_data(format!("{} is damaged: {error}", part()));
        let columns = self.filter_columns(filter).unwrap_or_default();
        let leaves = columns.iter().filter_map(|column| self.leaves.get(*column)).cloned().flatten();
        let mask = ProjectionMask::leaves(self.reader.parquet_schema(), leaves);
        let bytes = task.fetched(fetched.to_vec())?;
        guarded(part, || {
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, self.reader.clone())
                .with_row_groups(vec![task.row_group])
                .with_projection(mask)
                .with_batch_size(self.columns.spec.batch_rows.max(1))
                .build()
                .map_err(|error| damaged(&error))?;
            let mut selectors: Vec<RowSelector> = Vec::new();
            let (mut seen, mut count) = (0, 0);
            for batch in reader {
                let batch = batch.map_err(|error| damaged(&error))?;
                let passed = filter.passes(&self.filter_batch(&batch, &columns, filter)?)?;
                let passed = match passed.nulls() {
                    Some(nulls) => passed.values() & nulls.inner(),
                    None => passed.values().clone(),
                };
                seen += passed.len() as u64;
                count += passed.count_set_bits() as u64;
                push_selectors(&passed, &mut selectors);
            }
            if seen != task.rows {
                return Err(damaged(&format!("it has {seen} rows, its footer claims {}", task.rows)));
            }
            Ok(SelectedRows { selection: selectors.into(), count })
        })
    }

    /// The values that the filter looks at, of the types wanted.
    fn filter_batch(
        &self,
        batch: &RecordBatch,
        columns: &[usize],
        filter: &dyn RowFilter,
    ) -> Result<RecordBatch> {
        let lost = || Error::internal("a filter looks at a column that is not read");
        let mut fields = Vec::with_capacity(filter.columns().len());
        let mut arrays = Vec::with_capacity(filter.columns().len());
        for index in filter.columns() {
            let output = self.columns.outputs.get(*index).ok_or_else(lost)?;
            arrays.push(match output.source {
                Source::Column(column) => {
                    let position = columns.binary_search(&column).map_err(|_| lost())?;
                    let array = batch.columns().get(position).ok_or_else(lost)?;
                    let values = self.columns.good_values(array, column, *index)?;
                    values.ok_or_else(|| Error::internal("a row was rejected where none can be"))?
                }
                _ => new_null_array(&output.ty.to_arrow(), batch.num_rows()),
            });
            fields.push(output.ty.to_field(&format!("f{index}"), true));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .map_err(|error| Error::internal(format!("columns do not fit their schema: {error}")))
    }

    /// As [`ParquetFile::decode_row_group`], only the rows that were selected, if any were. `first` and `rest` are the parts
    /// of the task, each with what was fetched for it.
    ///
    /// # Errors
    /// As there.
    pub fn decode_parts(
        self: &Arc<Self>,
        first: (&RowGroupTask, Vec<Bytes>),
        rest: (&RowGroupTask, Vec<Bytes>),
        selected: Option<SelectedRows>,
    ) -> Result<RowGroupDecoder> {
        let task = RowGroupTask {
            byte_ranges: first.0.byte_ranges.iter().chain(&rest.0.byte_ranges).cloned().collect(),
            ..first.0.clone()
        };
        let fetched = first.1.into_iter().chain(rest.1).collect();
        let bytes = task.fetched(fetched)?;
        RowGroupDecoder::new(self.clone(), task, bytes, selected)
    }
}

impl SelectedRows {
    /// The numbers of the rows within the row group, in order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + Send + use<> {
        let mut start = 0;
        let selectors: Vec<RowSelector> = self.selection.clone().into();
        selectors.into_iter().flat_map(move |selector| {
            let first = start;
            start += selector.row_count as u64;
            if selector.skip { first..first } else { first..start }
        })
    }

    pub(super) fn selection(&self) -> RowSelection {
        self.selection.clone()
    }
}

/// Adds the runs of rows that pass, and of those that do not.
fn push_selectors(passed: &BooleanBuffer, selectors: &mut Vec<RowSelector>) {
    let mut push = |skip: bool, rows: usize| match selectors.last_mut() {
        _ if rows == 0 => {}
        Some(last) if last.skip == skip => last.row_count += rows,
        _ => selectors.push(RowSelector { row_count: rows, skip }),
    };
    let mut at = 0;
    for (start, end) in passed.set_slices() {
        push(true, start - at);
        push(false, end - start);
        at = end;
    }
    push(true, passed.len() - at);
}

/// Whether a cast from a field to a type takes every value.
fn always_casts(from: &Field, to: &SqlType, utc: bool) -> bool {
    let same = cast::natural_type(from).is_ok_and(|natural| natural == *to);
    same && always_settles(from.data_type(), utc)
}

/// Whether every value of an Arrow type fits its own SQL type.
fn always_settles(data_type: &DataType, utc: bool) -> bool {
    match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(_, 0..)
        | DataType::Date32
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        // Nanoseconds end long before microseconds do.
        DataType::Timestamp(TimeUnit::Nanosecond, _) => true,
        DataType::Timestamp(TimeUnit::Microsecond, zone) => zone.is_some() || utc,
        DataType::Dictionary(_, values) => always_settles(values, utc),
        DataType::List(item) | DataType::Map(item, _) => always_settles(item.data_type(), utc),
        DataType::Struct(fields) => fields.iter().all(|field| always_settles(field.data_type(), utc)),
        _ => false,
    }
}

/// The footer's statistics of some row groups.
struct Footers<'a> {
    file: &'a ParquetFile,
    groups: Vec<&'a RowGroupMetaData>,
}

impl Footers<'_> {
    fn bounds(&self, column: usize) -> Option<ColumnBounds> {
        let file = self.file;
        let output = file.columns.outputs.get(column)?;
        let Source::Column(column) = output.source else { return None };
        let leaves = file.leaves.get(column)?.clone();
        let source = file.columns.columns.get(column)?;
        let leaf = leaves.start;
        if leaves.len() != 1
            || source.physical.is_some()
            || source.raw.is_some()
            || cast::natural_type(&source.source).ok()? != output.ty
            || !is_ordered(file.metadata.file_metadata().column_order(leaf))
            || !may_be_compared(
                source.source.data_type(),
                file.reader.parquet_schema().column(leaf).physical_type(),
            )
        {
            return None;
        }
        let schema = file.reader.schema();
        let converter =
            StatisticsConverter::try_new(&source.name, schema, file.reader.parquet_schema()).ok()?;
        if converter.parquet_column_index() != Some(leaf) {
            return None;
        }
        let converter = converter.with_missing_null_counts_as_zero(false);
        // The fields without an order in the format must not be taken for those with one.
        let known: Vec<bool> = self
            .groups
            .iter()
            .map(|group| {
                let statistics = group.columns().get(leaf).and_then(|chunk| chunk.statistics());
                statistics.is_some_and(|statistics| !statistics.is_min_max_deprecated())
            })
            .collect();
        let unknown = BooleanArray::from(known.iter().map(|known| !known).collect::<Vec<bool>>());
        let settle = |array: ArrayRef| -> Option<ArrayRef> {
            let array = compute::nullif(&array, &unknown).ok()?;
            let from = Field::new(&source.name, array.data_type().clone(), true);
            cast::try_cast(&array, &from, &output.ty, &file.columns.spec.cast).ok()
        };
        let least = settle(converter.row_group_mins(self.groups.iter().copied()).ok()?)?;
        let greatest = settle(converter.row_group_maxes(self.groups.iter().copied()).ok()?)?;
        let null_if = !file.columns.spec.format.null_if.is_empty() && is_text(source.source.data_type());
        let nulls = match null_if {
            // More may be NULL than the file says.
            true => UInt64Array::new_null(self.groups.len()),
            false => self
                .groups
                .iter()
                .map(|group| group.columns().get(leaf)?.statistics().and_then(Statistics::null_count_opt))
                .collect(),
        };
        Some(ColumnBounds { least, greatest, nulls })
    }
}

impl RowGroupBounds for Footers<'_> {
    fn len(&self) -> usize {
        self.groups.len()
    }

    fn of(&self, column: usize) -> Option<ColumnBounds> {
        let part = || "the statistics of the Parquet file".to_owned();
        guarded(part, || Ok(self.bounds(column))).ok().flatten()
    }

    fn rows(&self) -> UInt64Array {
        self.groups.iter().map(|group| Some(group.num_rows().unsigned_abs())).collect()
    }
}

fn is_ordered(order: ColumnOrder) -> bool {
    matches!(order, ColumnOrder::TYPE_DEFINED_ORDER(_))
}

/// Whether the order of the statistics is that of SQL: not for floating point numbers (NaN lies outside of
/// the bounds), INT96, nor for what is cast to text.
fn may_be_compared(data_type: &DataType, physical: PhysicalType) -> bool {
    match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Date32
        | DataType::Timestamp(..) => {
            matches!(physical, PhysicalType::BOOLEAN | PhysicalType::INT32 | PhysicalType::INT64)
        }
        DataType::Decimal128(..) => physical != PhysicalType::BYTE_ARRAY,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => physical == PhysicalType::BYTE_ARRAY,
        DataType::Dictionary(_, values) => may_be_compared(values, physical),
        _ => false,
    }
}

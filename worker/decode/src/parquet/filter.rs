//! Rows that nobody wants: row groups and pages that statistics rule out, and rows that a filter drops before the
//! other columns are decoded.
//!
//! Comes in: a [`RowFilter`], the footer, the indexes of the pages where there are any, the bytes of the filter's
//! columns. Goes out: bounds of columns by part of the file, and the rows that pass. Must never change what a
//! statement answers: a file is filtered only where none of its rows can be rejected
//! ([`ParquetFile::can_filter`]), since a bad row counts whether or not the filter drops it.
//!
//! ```text
//! without_hopeless ──▶ index_ranges, fetched ──▶ pruned_pages ──▶ first_part, fetched ──▶ select_rows
//!                                                                                            │
//! RowGroupDecoder ◀── decode_parts ◀──────────────────────────── rest_part, fetched ◀────────┘
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use ::parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use ::parquet::file::reader::ChunkReader;
use arrow::array::{
    Array, BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

use super::batch_memory::GroupReader;
use super::bounds::{Comparable, Footers, PartBounds, Segments};
use super::chunks::GroupBytes;
use super::file::{ParquetFile, RowGroupTask, join};
use super::page_index::{LeafPages, PageBounds, PageIndex};
use super::reader::Reading;
use super::row_group::RowGroupDecoder;
use crate::cast;
use crate::columnar::{Source, guarded};
use crate::parse::datetime::Zone;

/// Rows that are not wanted, between others that are, and are decoded all the same where pages are skipped: the
/// library reads through gaps that are short in the mean, and the pages in them must be there then.
const READ_THROUGH: usize = 256;
/// The indexes of a row group take less than this part of what they are about.
const INDEX_PART: u64 = 16;

/// What a statement's WHERE asks of the wanted columns.
pub trait RowFilter: Send + Sync + fmt::Debug {
    /// The wanted columns that it looks at.
    fn columns(&self) -> &[usize];

    /// Which rows pass, given the values of its columns, in their order. What is NULL does not.
    ///
    /// # Errors
    /// Where the batch is not what was asked for; never for a value.
    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray>;

    /// For each part of a file, whether a row of it may pass.
    fn may_pass(&self, bounds: &dyn PartBounds) -> Vec<bool>;
}

/// The rows of a row group that may pass as far as the indexes of its pages tell, and where its pages are.
#[derive(Debug, Clone)]
pub struct PrunedPages {
    index: PageIndex,
    rows: RowSelection,
    /// How many rows may pass.
    pub count: u64,
}

/// The rows of a row group that pass.
#[derive(Debug, Clone)]
pub struct SelectedRows {
    selection: RowSelection,
    read: Option<ReadThrough>,
    /// How many they are.
    pub count: u64,
}

/// Rows that are decoded, and which of them are wanted.
#[derive(Debug, Clone)]
pub(super) struct ReadThrough {
    pub(super) rows: RowSelection,
    pub(super) wanted: BooleanBuffer,
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

    /// Where the indexes stand that may tell which pages of a row group can hold a row that passes; `None` where
    /// there are none for the filter's columns, or they are larger than such indexes are.
    pub fn index_ranges(
        &self,
        task: &RowGroupTask,
        filter: &dyn RowFilter,
        file_size: u64,
    ) -> Option<Vec<Range<u64>>> {
        let group = self.metadata.row_groups().get(task.row_group)?;
        let inside = |range: &Range<u64>| range.end <= file_size;
        let mut ranges: Vec<Range<u64>> = self
            .comparable(filter)
            .filter_map(|(_, column)| {
                let chunk = group.columns().get(column.leaf)?;
                offset_index(chunk).filter(inside)?;
                column_index(chunk).filter(inside)
            })
            .collect();
        if ranges.is_empty() {
            return None;
        }
        ranges.extend(
            self.leaves_read().filter_map(|leaf| offset_index(group.columns().get(leaf)?).filter(inside)),
        );
        join(&mut ranges);
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        (bytes <= task.input_bytes() / INDEX_PART).then_some(ranges)
    }

    /// Which pages of a row group can hold a row that passes. `fetched` is what
    /// [`ParquetFile::index_ranges`] asks for. `None` where nothing is known, also where the indexes do not fit the
    /// row group. CPU work.
    pub fn pruned_pages(
        &self,
        task: &RowGroupTask,
        filter: &dyn RowFilter,
        fetched: &GroupBytes,
    ) -> Option<PrunedPages> {
        let group = self.metadata.row_groups().get(task.row_group)?;
        let part = |range: Range<u64>| {
            fetched.get_bytes(range.start, usize::try_from(range.end - range.start).ok()?).ok()
        };
        let mut index = PageIndex::default();
        for leaf in self.leaves_read() {
            let Some(chunk) = group.columns().get(leaf) else { continue };
            let pages = offset_index(chunk).and_then(part);
            let pages = pages.and_then(|bytes| LeafPages::read(&bytes, chunk, task.rows));
            if let Some(pages) = pages {
                index.insert(leaf, pages);
            }
        }
        let read: Vec<(usize, Comparable<'_>, Bytes)> = self
            .comparable(filter)
            .filter_map(|(output, column)| {
                let bytes = column_index(group.columns().get(column.leaf)?).and_then(part)?;
                Some((output, column, bytes))
            })
            .collect();
        let known = read.iter().filter_map(|(output, column, bytes)| {
            let pages = index.of(column.leaf)?.as_ref();
            let bounds = PageBounds::read(bytes, group.columns().get(column.leaf)?, pages)?;
            Some((*output, column, pages, bounds))
        });
        let segments = Segments::new(group, known)?;
        let keep = filter.may_pass(&segments);
        if keep.len() != segments.len() {
            return None;
        }
        let rows = read_through(&segments.select(&keep)).0;
        let count = rows.row_count() as u64;
        Some(PrunedPages { index, rows, count })
    }

    /// The filter's columns whose bounds can be compared.
    fn comparable(&self, filter: &dyn RowFilter) -> impl Iterator<Item = (usize, Comparable<'_>)> {
        let columns = filter.columns().to_vec();
        columns.into_iter().filter_map(|output| Some((output, Comparable::of(self, output)?)))
    }

    /// The part of a task that the filter looks at. `None` where it has to see all of the columns that are read,
    /// or a whole row.
    pub fn first_part(
        &self,
        task: &RowGroupTask,
        filter: &dyn RowFilter,
        pages: Option<&PrunedPages>,
    ) -> Option<RowGroupTask> {
        let first = self.filter_columns(filter)?;
        let is_first = |column: &&usize| first.contains(column);
        if first.is_empty() || self.columns.read.iter().all(|column| is_first(&column)) {
            return None;
        }
        Some(self.part(task, &first, pages.map(|pages| (&pages.index, &pages.rows))))
    }

    /// The rest of a task, once it is known which rows pass; `None`: as many as may.
    pub fn rest_part(
        &self,
        task: &RowGroupTask,
        filter: &dyn RowFilter,
        pages: Option<&PrunedPages>,
        selected: Option<&SelectedRows>,
    ) -> RowGroupTask {
        let first = self.filter_columns(filter).unwrap_or_default();
        let rest: Vec<usize> =
            self.columns.read.iter().filter(|column| !first.contains(column)).copied().collect();
        self.part(
            task,
            &rest,
            pages.map(|pages| (&pages.index, selected.map_or(&pages.rows, SelectedRows::read))),
        )
    }

    /// All columns of a task, the pages that may hold a row that passes.
    pub fn pruned_task(&self, task: &RowGroupTask, pages: &PrunedPages) -> RowGroupTask {
        self.part(task, &self.columns.read, Some((&pages.index, &pages.rows)))
    }

    fn part(
        &self,
        task: &RowGroupTask,
        columns: &[usize],
        pages: Option<(&PageIndex, &RowSelection)>,
    ) -> RowGroupTask {
        let byte_ranges = match (pages, self.metadata.row_groups().get(task.row_group)) {
            (Some((index, rows)), Some(group)) => {
                let leaves = columns.iter().filter_map(|column| self.leaves.get(*column)).cloned().flatten();
                let mut ranges: Vec<Range<u64>> = leaves
                    .filter_map(|leaf| Some((leaf, group.columns().get(leaf)?)))
                    .flat_map(|(leaf, chunk)| match index.of(leaf) {
                        Some(pages) => pages.ranges(chunk, rows),
                        None => {
                            let (start, length) = chunk.byte_range();
                            std::iter::once(start..start + length).collect()
                        }
                    })
                    .collect();
                join(&mut ranges);
                ranges
            }
            _ => self.byte_ranges(task.row_group, columns),
        };
        RowGroupTask { byte_ranges, ..task.clone() }
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
    /// Where the row group is damaged, or the index of its pages is wrong.
    pub fn select_rows(
        &self,
        first: &RowGroupTask,
        fetched: &[Bytes],
        filter: &dyn RowFilter,
        pages: Option<&PrunedPages>,
    ) -> Result<SelectedRows> {
        let part = || format!("row group {} of the Parquet file", first.row_group + 1);
        let damaged = |error: &dyn fmt::Display| Error::bad_data(format!("{} is damaged: {error}", part()));
        let columns = self.filter_columns(filter).unwrap_or_default();
        let bytes = first.fetched(fetched.to_vec())?;
        guarded(part, || {
            let reading = Reading {
                row_group: first.row_group,
                bytes: &bytes,
                rows: pages.map(|pages| pages.rows.clone()),
                index: pages.map(|pages| &pages.index),
            };
            let mut reader = GroupReader::new(self, &reading, &columns).map_err(|error| damaged(&error))?;
            let mut selectors: Vec<RowSelector> = Vec::new();
            let (mut seen, mut count) = (0, 0);
            while let Some(batch) = reader.next(self) {
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
            let wanted = pages.map_or(first.rows, |pages| pages.count);
            if seen != wanted {
                return Err(damaged(&format!("it has {seen} rows, its footer claims {wanted}")));
            }
            let selection = RowSelection::from(selectors);
            Ok(match pages {
                None => SelectedRows { selection, read: None, count },
                Some(pages) => SelectedRows::read_through(pages.rows.and_then(&selection), count),
            })
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

    /// As [`ParquetFile::decode_row_group`], only the rows that were selected, or else those that may pass. `parts`
    /// are those of the task, each with what was fetched for it.
    ///
    /// # Errors
    /// As there; where the index of the pages is wrong.
    pub fn decode_parts(
        self: &Arc<Self>,
        parts: Vec<(RowGroupTask, Vec<Bytes>)>,
        pages: Option<&PrunedPages>,
        selected: Option<SelectedRows>,
    ) -> Result<RowGroupDecoder> {
        let Some((task, _)) = parts.first() else { return Err(Error::internal("a row group without parts")) };
        let ranges = parts.iter().flat_map(|(part, _)| part.byte_ranges.clone());
        let task = RowGroupTask { byte_ranges: ranges.collect(), ..task.clone() };
        let bytes = task.fetched(parts.into_iter().flat_map(|(_, fetched)| fetched).collect())?;
        let all = |pages: &PrunedPages| SelectedRows::read_through(pages.rows.clone(), pages.count);
        let selected = selected.or_else(|| pages.map(all));
        RowGroupDecoder::new(self.clone(), task, bytes, selected, pages.map(|pages| &pages.index))
    }
}

impl PrunedPages {
    /// Whether any rows of a row group are ruled out.
    pub fn skips(&self, task: &RowGroupTask) -> bool {
        self.count < task.rows
    }
}

impl SelectedRows {
    /// Rows whose neighbours are decoded with them.
    fn read_through(selection: RowSelection, count: u64) -> Self {
        let (rows, wanted) = read_through(&selection);
        let read = (wanted.count_set_bits() < wanted.len()).then_some(ReadThrough { rows, wanted });
        Self { selection, read, count }
    }

    /// The rows that are decoded.
    fn read(&self) -> &RowSelection {
        self.read.as_ref().map_or(&self.selection, |read| &read.rows)
    }

    /// The rows that are decoded, and which of them are wanted, where not all are.
    pub(super) fn into_read(self) -> (RowSelection, Option<BooleanBuffer>) {
        match self.read {
            Some(ReadThrough { rows, wanted }) => (rows, Some(wanted)),
            None => (self.selection, None),
        }
    }

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
}

/// The rows with those in the gaps between them that are short, and which of these are wanted.
fn read_through(selection: &RowSelection) -> (RowSelection, BooleanBuffer) {
    let selectors: Vec<RowSelector> = selection.iter().copied().collect();
    let mut wanted = BooleanBufferBuilder::new(0);
    let last = selectors.len().saturating_sub(1);
    let rows = selectors.iter().enumerate().map(|(place, selector)| {
        let is_between = (1..last).contains(&place);
        let skip = selector.skip && !(is_between && selector.row_count < READ_THROUGH);
        if !skip {
            wanted.append_n(selector.row_count, !selector.skip);
        }
        RowSelector { skip, ..*selector }
    });
    let rows: RowSelection = rows.collect();
    (rows, wanted.finish())
}

/// Where the index of a chunk's pages stands.
fn offset_index(chunk: &ColumnChunkMetaData) -> Option<Range<u64>> {
    index_range(chunk.offset_index_offset(), chunk.offset_index_length())
}

/// Where the index of their bounds stands.
fn column_index(chunk: &ColumnChunkMetaData) -> Option<Range<u64>> {
    index_range(chunk.column_index_offset(), chunk.column_index_length())
}

fn index_range(offset: Option<i64>, length: Option<i32>) -> Option<Range<u64>> {
    let start = u64::try_from(offset?).ok()?;
    let length = u64::try_from(length?).ok().filter(|length| *length > 0)?;
    Some(start..start.checked_add(length)?)
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
        integer if integer.is_integer() => true,
        DataType::Boolean
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

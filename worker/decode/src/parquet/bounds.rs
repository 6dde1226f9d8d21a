//! What is known of the values in parts of a file before they are read: in row groups, from the footer's statistics,
//! and in runs of rows within one, from the index of its pages.
//!
//! Bounds that could lie (NaN, orders that the format does not define) are not given.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use ::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use ::parquet::basic::{ColumnOrder, Type as PhysicalType};
use ::parquet::file::metadata::{ColumnIndexBuilder, OffsetIndexBuilder, RowGroupMetaData};
use ::parquet::schema::types::{SchemaDescriptor, Type};
use arrow::array::{Array, ArrayRef, BooleanArray, Scalar, UInt32Array, UInt64Array};
use arrow::compute;
use arrow::compute::kernels::cmp;
use arrow::datatypes::{DataType, Field, Schema};

use super::file::ParquetFile;
use super::page_index::{LeafPages, PageBounds};
use crate::cast;
use crate::columnar::{FileColumn, Output, Source, guarded, is_text};

/// What is known of the values in parts of a file.
pub trait PartBounds {
    /// How many parts there are.
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

/// What is known of a column, for each part; NULL where it is not. Bounds need not be tight.
#[derive(Debug, Clone)]
pub struct ColumnBounds {
    /// No value is less.
    pub least: ArrayRef,
    /// No value is greater.
    pub greatest: ArrayRef,
    /// How many are NULL.
    pub nulls: UInt64Array,
}

/// A wanted column whose bounds are in the order of SQL.
pub(super) struct Comparable<'a> {
    file: &'a ParquetFile,
    column: &'a FileColumn,
    output: &'a Output,
    /// Its place among the columns of the file.
    place: usize,
    pub(super) leaf: usize,
}

impl<'a> Comparable<'a> {
    pub(super) fn of(file: &'a ParquetFile, column: usize) -> Option<Self> {
        let output = file.columns.outputs.get(column)?;
        let Source::Column(place) = output.source else { return None };
        let leaves = file.leaves.get(place)?.clone();
        let column = file.columns.columns.get(place)?;
        let leaf = leaves.start;
        let physical = || file.reader.parquet_schema().column(leaf).physical_type();
        (leaves.len() == 1
            && column.physical.is_none()
            && column.raw.is_none()
            && cast::natural_type(&column.source).ok()? == output.ty
            && is_ordered(file.metadata.file_metadata().column_order(leaf))
            && may_be_compared(column.source.data_type(), physical()))
        .then_some(Self { file, column, output, place, leaf })
    }

    /// More may be NULL than the file says.
    fn has_null_if(&self) -> bool {
        !self.file.columns.spec.format.null_if.is_empty() && is_text(self.column.source.data_type())
    }

    /// Bounds as they are stored, as values are cast.
    fn settle(&self, array: &ArrayRef) -> Option<ArrayRef> {
        let from = Field::new(&self.column.name, array.data_type().clone(), true);
        cast::try_cast(array, &from, &self.output.ty, &self.file.columns.spec.cast).ok()
    }

    fn of_groups(&self, groups: &[&RowGroupMetaData]) -> Option<ColumnBounds> {
        let schema = self.file.reader.schema();
        let converter =
            StatisticsConverter::try_new(&self.column.name, schema, self.file.reader.parquet_schema())
                .ok()?;
        if converter.parquet_column_index() != Some(self.leaf) {
            return None;
        }
        let converter = converter.with_missing_null_counts_as_zero(false);
        let statistics = |group: &RowGroupMetaData| group.columns().get(self.leaf)?.statistics().cloned();
        // The fields without an order in the format must not be taken for those with one.
        let unknown: BooleanArray = groups
            .iter()
            .map(|group| Some(statistics(group).is_none_or(|statistics| statistics.is_min_max_deprecated())))
            .collect();
        let settle = |array: ArrayRef| self.settle(&compute::nullif(&array, &unknown).ok()?);
        let least = settle(converter.row_group_mins(groups.iter().copied()).ok()?)?;
        let greatest = settle(converter.row_group_maxes(groups.iter().copied()).ok()?)?;
        let nulls = match self.has_null_if() {
            true => UInt64Array::new_null(groups.len()),
            false => groups.iter().map(|group| statistics(group)?.null_count_opt()).collect(),
        };
        Some(ColumnBounds { least, greatest, nulls })
    }

    /// The bounds of each page; `None` where they do not go together with those of the row group.
    fn of_pages(
        &self,
        group: &RowGroupMetaData,
        pages: &LeafPages,
        bounds: &PageBounds<'_>,
    ) -> Option<ColumnBounds> {
        // The library converts what it reads of a file; a file of this column alone is the least of one.
        let parquet = self.file.reader.parquet_schema().root_schema();
        let field = parquet.get_fields().get(self.place)?.clone();
        let parquet = Type::group_type_builder(parquet.name()).with_fields(vec![field]).build().ok()?;
        let parquet = SchemaDescriptor::new(Arc::new(parquet));
        let schema = Schema::new(vec![self.file.reader.schema().fields().get(self.place)?.clone()]);
        let name = schema.field(0).name();
        let converter = StatisticsConverter::try_new(name, &schema, &parquet).ok()?;
        let mut index = ColumnIndexBuilder::new(parquet.column(0).physical_type());
        let mut offsets = OffsetIndexBuilder::new();
        for (page, only_nulls) in bounds.only_nulls.iter().enumerate() {
            let nulls = bounds.nulls.as_ref().map_or(0, |nulls| nulls[page]);
            index.append(*only_nulls, bounds.least[page].to_vec(), bounds.greatest[page].to_vec(), nulls);
            offsets.append_row_count(i64::try_from(pages.rows(page)?).ok()?);
            offsets.append_offset_and_size(0, 0);
        }
        let (index, offsets) = (vec![vec![index.build().ok()?]], vec![vec![offsets.build()]]);
        let least = self.settle(&converter.data_page_mins(&index, &offsets, &[0]).ok()?)?;
        let greatest = self.settle(&converter.data_page_maxes(&index, &offsets, &[0]).ok()?)?;
        let nulls: UInt64Array = (0..bounds.only_nulls.len())
            .map(|page| match &bounds.nulls {
                _ if self.has_null_if() => None,
                Some(nulls) => u64::try_from(nulls[page]).ok(),
                None if bounds.only_nulls[page] => pages.rows(page),
                None => None,
            })
            .collect();
        let found = ColumnBounds { least, greatest, nulls };
        (found.least.len() == found.nulls.len() && self.lie_within(group, &found)?).then_some(found)
    }

    /// Whether the bounds of pages are in order, and within those of their row group.
    fn lie_within(&self, group: &RowGroupMetaData, pages: &ColumnBounds) -> Option<bool> {
        if cmp::gt(&pages.least, &pages.greatest).ok()?.true_count() > 0 {
            return Some(false);
        }
        let of_group = self.of_groups(&[group])?;
        // Those of texts and bytes may be cut at another length.
        let is_cut = matches!(
            pages.least.data_type(),
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
        );
        if is_cut || of_group.least.null_count() > 0 || of_group.greatest.null_count() > 0 {
            return Some(true);
        }
        let (floor, ceiling) = (Scalar::new(of_group.least), Scalar::new(of_group.greatest));
        Some(
            cmp::lt(&pages.least, &floor).ok()?.true_count() == 0
                && cmp::gt(&pages.greatest, &ceiling).ok()?.true_count() == 0,
        )
    }
}

/// The footer's statistics of some row groups.
pub(super) struct Footers<'a> {
    pub(super) file: &'a ParquetFile,
    pub(super) groups: Vec<&'a RowGroupMetaData>,
}

impl PartBounds for Footers<'_> {
    fn len(&self) -> usize {
        self.groups.len()
    }

    fn of(&self, column: usize) -> Option<ColumnBounds> {
        let part = || "the statistics of the Parquet file".to_owned();
        let bounds = || Comparable::of(self.file, column)?.of_groups(&self.groups);
        guarded(part, || Ok(bounds())).ok().flatten()
    }

    fn rows(&self) -> UInt64Array {
        self.groups.iter().map(|group| Some(group.num_rows().unsigned_abs())).collect()
    }
}

/// What the bounds of all runs of a row group may take; columns for which there is no room are not pruned by.
const MOST_BYTES: usize = 16 << 20;
/// What bounds take beside the values of texts and bytes.
const FIXED_BYTES: usize = 40;

/// Runs of rows between the borders of the pages of all columns whose index is known.
pub(super) struct Segments {
    /// The first row of each, and behind the last one their number.
    borders: Vec<u64>,
    /// By wanted column.
    columns: Vec<(usize, ColumnBounds)>,
}

impl Segments {
    /// The runs that the pages of some wanted columns cut a row group into; `None` where nothing is known of any.
    pub(super) fn new<'a>(
        group: &RowGroupMetaData,
        columns: impl Iterator<Item = (usize, &'a Comparable<'a>, &'a LeafPages, PageBounds<'a>)>,
    ) -> Option<Self> {
        let part = || "the page index of the Parquet file".to_owned();
        let known: Vec<(usize, &LeafPages, ColumnBounds, Vec<usize>)> = columns
            .filter_map(|(output, column, pages, bounds)| {
                let lengths = bounds.least.iter().zip(&bounds.greatest);
                let sizes =
                    lengths.map(|(least, greatest)| FIXED_BYTES + least.len() + greatest.len()).collect();
                let bounds = guarded(part, || Ok(column.of_pages(group, pages, &bounds))).ok().flatten()?;
                Some((output, pages, bounds, sizes))
            })
            .collect();
        let firsts = |pages: &LeafPages| {
            pages.locations().iter().map(|page| page.first_row_index.unsigned_abs()).collect::<Vec<u64>>()
        };
        let mut borders: BTreeSet<u64> = known.iter().flat_map(|(_, pages, ..)| firsts(pages)).collect();
        borders.insert(group.num_rows().unsigned_abs());
        let borders: Vec<u64> = borders.into_iter().collect();
        let mut columns = Vec::with_capacity(known.len());
        let mut room = MOST_BYTES;
        for (output, pages, bounds, sizes) in known {
            let firsts = firsts(pages);
            let starts = borders.get(..borders.len() - 1)?;
            let page_of = |start: &u64| firsts.partition_point(|first| first <= start).checked_sub(1);
            let places = starts.iter().map(page_of).collect::<Option<Vec<usize>>>()?;
            // A long bound stands once in the index, and in each run of its page here.
            let bytes = places.iter().try_fold(0usize, |sum, page| sum.checked_add(*sizes.get(*page)?));
            let Some(left) = bytes.and_then(|bytes| room.checked_sub(bytes)) else { continue };
            room = left;
            let take = |array: &ArrayRef| {
                let places: UInt32Array =
                    places.iter().map(|page| u32::try_from(*page).ok()).collect::<UInt32Array>();
                compute::take(array, &places, None).ok()
            };
            let nulls = places.iter().zip(borders.windows(2)).map(|(page, border)| {
                let nulls = bounds.nulls.is_valid(*page).then(|| bounds.nulls.value(*page))?;
                match pages.rows(*page)? {
                    _ if nulls == 0 => Some(0),
                    // Only of whole pages is it known how many.
                    rows if rows == nulls => Some(border[1] - border[0]),
                    rows if rows == border[1] - border[0] => Some(nulls),
                    _ => None,
                }
            });
            let nulls = nulls.collect();
            let bounds =
                ColumnBounds { least: take(&bounds.least)?, greatest: take(&bounds.greatest)?, nulls };
            columns.push((output, bounds));
        }
        (!columns.is_empty()).then_some(Self { borders, columns })
    }

    /// The rows of the runs that are kept.
    pub(super) fn select(&self, keep: &[bool]) -> RowSelection {
        let runs = self.borders.windows(2).zip(keep).map(|(border, keep)| RowSelector {
            row_count: usize::try_from(border[1] - border[0]).unwrap_or(usize::MAX),
            skip: !keep,
        });
        // Neighbours that are alike are joined.
        runs.collect::<Vec<RowSelector>>().into()
    }
}

impl PartBounds for Segments {
    fn len(&self) -> usize {
        self.borders.len() - 1
    }

    fn of(&self, column: usize) -> Option<ColumnBounds> {
        self.columns.iter().find(|(output, _)| *output == column).map(|(_, bounds)| bounds.clone())
    }

    fn rows(&self) -> UInt64Array {
        self.borders.windows(2).map(|border| Some(border[1] - border[0])).collect()
    }
}

fn is_ordered(order: ColumnOrder) -> bool {
    matches!(order, ColumnOrder::TYPE_DEFINED_ORDER(_))
}

/// Whether the order of the statistics is that of SQL: not for floating point numbers (NaN lies outside of
/// the bounds), INT96, nor for what is cast to text.
fn may_be_compared(data_type: &DataType, physical: PhysicalType) -> bool {
    let is_integer = matches!(physical, PhysicalType::INT32 | PhysicalType::INT64);
    match data_type {
        DataType::Boolean => physical == PhysicalType::BOOLEAN,
        integer if integer.is_integer() => is_integer,
        DataType::Date32 | DataType::Timestamp(..) => is_integer,
        DataType::Decimal128(..) => physical != PhysicalType::BYTE_ARRAY,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => physical == PhysicalType::BYTE_ARRAY,
        DataType::Dictionary(_, values) => may_be_compared(values, physical),
        _ => false,
    }
}

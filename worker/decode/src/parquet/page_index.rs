//! Where the pages of a row group are, and what their values lie between, as an index says it.
//!
//! Comes in: the bytes of offset indexes and column indexes, which stand anywhere in a file. Goes out: [`PageIndex`]
//! for those that fit their chunks, and bounds by page. An index is a claim: memory is taken for no more than its
//! bytes hold, and whatever does not fit what the footer says of the chunk is as if it were not there. Of pages
//! that are read, the index is checked against their own headers ([`LeafPages::check`]) and levels
//! (`CheckedPages`). What is not read cannot be checked: bounds are believed as those of row groups are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::RowSelection;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::page_index::offset_index::PageLocation;
use ::parquet::file::reader::ChunkReader;
use ::parquet::file::statistics::Statistics;

use super::chunks::GroupBytes;
use super::footer_shape::{Walk, Walked, kind};
use super::page_headers::{PageHeader, PageKind, PageLimits};

/// Where the pages of some leaves of a row group are.
#[derive(Debug, Clone, Default)]
pub(super) struct PageIndex(HashMap<usize, Arc<LeafPages>>);

impl PageIndex {
    pub(super) fn of(&self, leaf: usize) -> Option<&Arc<LeafPages>> {
        self.0.get(&leaf)
    }

    pub(super) fn insert(&mut self, leaf: usize, pages: LeafPages) {
        self.0.insert(leaf, Arc::new(pages));
    }
}

/// Where the data pages of a chunk are: one behind the other, up to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafPages {
    locations: Vec<PageLocation>,
    rows: u64,
}

impl LeafPages {
    /// The pages of a chunk of so many rows; `None` where the index does not fit it.
    pub(super) fn read(index: &[u8], chunk: &ColumnChunkMetaData, rows: u64) -> Option<Self> {
        let locations = read_locations(index).ok()?;
        let (start, length) = chunk.byte_range();
        let (first, end) = (locations.first()?, start.checked_add(length)?);
        if first.first_row_index != 0 || u64::try_from(first.offset).ok()? < start {
            return None;
        }
        let mut at = u64::try_from(first.offset).ok()?;
        let mut row = None;
        for location in &locations {
            let size = u64::try_from(location.compressed_page_size).ok().filter(|size| *size > 0)?;
            let first_row = u64::try_from(location.first_row_index).ok()?;
            if u64::try_from(location.offset).ok()? != at || row.is_some_and(|row| row >= first_row) {
                return None;
            }
            at = at.checked_add(size).filter(|at| *at <= end)?;
            row = Some(first_row);
        }
        (at == end && row? < rows).then_some(Self { locations, rows })
    }

    pub(super) fn locations(&self) -> &[PageLocation] {
        &self.locations
    }

    /// How many rows a page has.
    pub(super) fn rows(&self, page: usize) -> Option<u64> {
        let first = self.locations.get(page)?.first_row_index.unsigned_abs();
        let next = self.locations.get(page + 1).map_or(self.rows, |next| next.first_row_index.unsigned_abs());
        Some(next - first)
    }

    /// Where the dictionary is: before the first data page.
    pub(super) fn dictionary(&self, chunk: &ColumnChunkMetaData) -> Option<Range<u64>> {
        let (start, _) = chunk.byte_range();
        let first = self.locations.first()?.offset.unsigned_abs();
        (first > start).then_some(start..first)
    }

    /// What has to be fetched for some rows.
    pub(super) fn ranges(&self, chunk: &ColumnChunkMetaData, rows: &RowSelection) -> Vec<Range<u64>> {
        let pages = rows.scan_ranges(&self.locations);
        match self.dictionary(chunk) {
            Some(dictionary) if !pages.is_empty() => std::iter::once(dictionary).chain(pages).collect(),
            _ => pages,
        }
    }

    /// Whether the pages that hold some rows (`None`: all pages) are what the index says, and can become as large
    /// as they claim.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(
        &self,
        chunk: &ColumnChunkMetaData,
        bytes: &GroupBytes,
        rows: Option<&RowSelection>,
        largest: usize,
    ) -> Result<(), String> {
        let lies = |at: u64, what: &str| format!("its page index is wrong: at byte {at} {what}");
        let limits = PageLimits::of(chunk, largest);
        let header = |range: &Range<u64>| {
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let page = bytes.get_bytes(range.start, length).map_err(|error| error.to_string())?;
            let header = PageHeader::read(&page).ok_or_else(|| lies(range.start, "is no page"))?;
            header.check(limits)?;
            let body = i64::try_from(length - header.length).unwrap_or(i64::MAX);
            if header.compressed == body {
                Ok(header)
            } else {
                Err(lies(range.start, "a page has another size"))
            }
        };
        if let Some(dictionary) = self.dictionary(chunk)
            && header(&dictionary)?.kind != PageKind::Dictionary
        {
            return Err(lies(dictionary.start, "is no dictionary"));
        }
        let whole = |location: &PageLocation| {
            let start = location.offset.unsigned_abs();
            start..start + u64::from(location.compressed_page_size.unsigned_abs())
        };
        let pages: Vec<Range<u64>> = match rows {
            Some(rows) => rows.scan_ranges(&self.locations),
            None => self.locations.iter().map(whole).collect(),
        };
        let is_flat = chunk.column_descr().max_rep_level() == 0;
        for range in pages {
            let page =
                self.locations.partition_point(|location| location.offset.unsigned_abs() < range.start);
            let header = header(&range)?;
            if !matches!(header.kind, PageKind::Data | PageKind::DataV2) {
                return Err(lies(range.start, "is no data page"));
            }
            // Those of lists are counted when they are read.
            if is_flat && u64::try_from(header.values).ok() != self.rows(page) {
                return Err(lies(range.start, "a page has another number of rows"));
            }
        }
        Ok(())
    }
}

fn read_locations(index: &[u8]) -> Walked<Vec<PageLocation>> {
    let mut walk = Walk::new(index);
    let mut locations = Vec::new();
    let mut last = 0;
    while let Some((id, kind)) = walk.field(last)? {
        last = id;
        if id != 1 {
            walk.skip_field(kind)?;
            continue;
        }
        let size = list_of(&mut walk, kind, kind::STRUCT)?;
        locations = Vec::with_capacity(size);
        for _ in 0..size {
            locations.push(read_location(&mut walk)?);
        }
    }
    Ok(locations)
}

fn read_location(walk: &mut Walk<'_>) -> Walked<PageLocation> {
    let mut location = PageLocation { offset: -1, compressed_page_size: -1, first_row_index: -1 };
    let mut last = 0;
    while let Some((id, kind)) = walk.field(last)? {
        last = id;
        match (id, kind) {
            (1, kind::I64) => location.offset = walk.zigzag()?,
            (2, kind::I32) => {
                location.compressed_page_size =
                    i32::try_from(walk.zigzag()?).map_err(|_| "a size is too large")?;
            }
            (3, kind::I64) => location.first_row_index = walk.zigzag()?,
            (1..=3, _) => return Err("a field is not of its type"),
            _ => walk.skip_field(kind)?,
        }
    }
    Ok(location)
}

/// The size of a list whose items have to be of a type.
fn list_of(walk: &mut Walk<'_>, kind: u8, item: u8) -> Walked<usize> {
    if kind != kind::LIST {
        return Err("a field is not of its type");
    }
    let (of, size) = walk.list()?;
    // Writers call booleans by either of their values.
    let same = of == item || (item == kind::TRUE && of == kind::FALSE);
    if size > 0 && !same {
        return Err("a list is of another type");
    }
    usize::try_from(size).map_err(|_| "a list is too long")
}

/// What the values of each page of a chunk lie between.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PageBounds<'a> {
    /// Whether a page has nothing but NULLs; it has no bounds then.
    pub(super) only_nulls: Vec<bool>,
    pub(super) least: Vec<&'a [u8]>,
    pub(super) greatest: Vec<&'a [u8]>,
    pub(super) nulls: Option<Vec<i64>>,
}

impl<'a> PageBounds<'a> {
    /// The bounds of the pages of a chunk; `None` where the index does not fit them.
    pub(super) fn read(index: &'a [u8], chunk: &ColumnChunkMetaData, pages: &LeafPages) -> Option<Self> {
        let bounds = Self::walk(index).ok()?;
        let count = pages.locations.len();
        let fits = bounds.only_nulls.len() == count
            && bounds.least.len() == count
            && bounds.greatest.len() == count
            && bounds.nulls.as_ref().is_none_or(|nulls| nulls.len() == count);
        (fits && bounds.nulls_fit(chunk, pages)?).then_some(bounds)
    }

    /// Whether the NULLs of the pages can be, and are together those of the chunk.
    fn nulls_fit(&self, chunk: &ColumnChunkMetaData, pages: &LeafPages) -> Option<bool> {
        let of_chunk = chunk.statistics().and_then(Statistics::null_count_opt);
        let mut sum = 0u64;
        for (page, only_nulls) in self.only_nulls.iter().enumerate() {
            let rows = pages.rows(page)?;
            let nulls = match &self.nulls {
                Some(nulls) => u64::try_from(*nulls.get(page)?).ok()?,
                None if *only_nulls => rows,
                None => 0,
            };
            if nulls > rows || (*only_nulls != (nulls == rows)) {
                return Some(false);
            }
            sum = sum.checked_add(nulls)?;
        }
        Some(match (of_chunk, &self.nulls) {
            (Some(of_chunk), Some(_)) => of_chunk == sum,
            (Some(of_chunk), None) => of_chunk >= sum,
            (None, _) => true,
        })
    }

    fn walk(index: &'a [u8]) -> Walked<Self> {
        let mut walk = Walk::new(index);
        let mut bounds = Self::default();
        let mut last = 0;
        while let Some((id, kind)) = walk.field(last)? {
            last = id;
            match id {
                1 => {
                    let size = list_of(&mut walk, kind, kind::TRUE)?;
                    bounds.only_nulls =
                        (0..size).map(|_| Ok(walk.byte()? == kind::TRUE)).collect::<Walked<_>>()?;
                }
                2 | 3 => {
                    let size = list_of(&mut walk, kind, kind::BINARY)?;
                    let values = (0..size).map(|_| walk.binary()).collect::<Walked<_>>()?;
                    if id == 2 { bounds.least = values } else { bounds.greatest = values }
                }
                5 => {
                    let size = list_of(&mut walk, kind, kind::I64)?;
                    bounds.nulls = Some((0..size).map(|_| walk.zigzag()).collect::<Walked<_>>()?);
                }
                _ => walk.skip_field(kind)?,
            }
        }
        Ok(bounds)
    }
}

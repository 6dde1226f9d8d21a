//! The library's reader of a row group, over pages that are looked at before it does.
//!
//! Comes in: the bytes of a row group, which leaves and rows of it to read, and where its pages are, if an index
//! said so. Goes out: batches. Of every page it is known that it cannot become larger than its codec allows, that
//! it has the values that it claims, and, where an index led to it, that it is the page and has the rows that the
//! index says.

use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowGroups, RowSelection};
use ::parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};
use ::parquet::basic::Encoding;
use ::parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use ::parquet::file::serialized_reader::SerializedPageReader;
use ::parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type};
use arrow::datatypes::Fields;

use super::batch_memory::{BatchMeter, LeafWeight};
use super::chunks::GroupBytes;
use super::file::ParquetFile;
use super::page_index::{LeafPages, PageIndex};
use super::runs::count_zeros;
use super::value_counts::{self, split_levels};

/// What to read of a row group.
pub(super) struct Reading<'a> {
    pub(super) row_group: usize,
    pub(super) bytes: &'a GroupBytes,
    /// The rows; `None`: all of them.
    pub(super) rows: Option<RowSelection>,
    /// Where its pages are; the bytes of those that hold none of the rows may be missing then.
    pub(super) index: Option<&'a PageIndex>,
}

impl ParquetFile {
    /// A reader of some columns, in the order of the file, with so many rows in a batch. What they take is told to
    /// the meter.
    pub(super) fn reader(
        &self,
        reading: &Reading<'_>,
        columns: &[usize],
        batch_rows: usize,
        meter: &Arc<BatchMeter>,
    ) -> Result<ParquetRecordBatchReader> {
        let metadata = self.reader.metadata();
        let group = metadata.row_groups().get(reading.row_group).ok_or_else(|| gone("row group"))?;
        let (mut fields, mut parquet, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
        let root = self.reader.parquet_schema().root_schema();
        for column in columns {
            let field = self.reader.schema().fields().get(*column).ok_or_else(|| gone("column"))?;
            fields.push(field.clone());
            parquet.push(root.get_fields().get(*column).ok_or_else(|| gone("column"))?.clone());
            leaves.extend(self.leaves.get(*column).cloned().ok_or_else(|| gone("column"))?);
        }
        let largest = self.columns.spec.max_block_bytes;
        for leaf in &leaves {
            let chunk = group.columns().get(*leaf).ok_or_else(|| gone("column"))?;
            match reading.index.and_then(|index| index.of(*leaf)) {
                Some(pages) => pages.check(chunk, reading.bytes, reading.rows.as_ref(), largest),
                None => reading.bytes.check_pages(chunk, largest),
            }
            .map_err(ParquetError::General)?;
        }
        // A schema of these columns alone: one of all would be walked for each column that is read by itself.
        let parquet = Type::group_type_builder(root.name()).with_fields(parquet).build()?;
        let parquet = SchemaDescriptor::new(Arc::new(parquet));
        let levels =
            parquet_to_arrow_field_levels(&parquet, ProjectionMask::all(), Some(&Fields::from(fields)))?;
        let (bytes, index) = (reading.bytes, reading.index);
        let group = Group { metadata, group, leaves: &leaves, bytes, index, meter };
        ParquetRecordBatchReader::try_new_with_row_groups(&levels, &group, batch_rows, reading.rows.clone())
    }
}

fn gone(what: &str) -> ParquetError {
    ParquetError::General(format!("the {what} is not in the footer"))
}

/// Some columns of one row group, for the library.
struct Group<'a> {
    metadata: &'a ParquetMetaData,
    group: &'a RowGroupMetaData,
    /// Those of the columns, in their order.
    leaves: &'a [usize],
    bytes: &'a GroupBytes,
    index: Option<&'a PageIndex>,
    meter: &'a Arc<BatchMeter>,
}

impl RowGroups for Group<'_> {
    fn num_rows(&self) -> usize {
        usize::try_from(self.group.num_rows()).unwrap_or_default()
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>> {
        let leaf = self.leaves.get(leaf).ok_or_else(|| gone("column"))?;
        let chunk = self.group.columns().get(*leaf).ok_or_else(|| gone("column"))?;
        let located = self.index.and_then(|index| index.of(*leaf));
        let weight = LeafWeight::new(Arc::clone(self.meter), chunk.column_descr());
        let pages = CheckedPages::new(chunk, self.bytes, self.num_rows(), located, weight)?;
        Ok(Box::new(OneChunk(Some(pages))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.group))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.metadata
    }
}

/// The only chunk that there is of a column.
struct OneChunk(Option<CheckedPages>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(|pages| Ok(Box::new(pages) as Box<dyn PageReader>))
    }
}

impl PageIterator for OneChunk {}

/// The pages of a chunk, each of them checked and weighed.
struct CheckedPages {
    pages: SerializedPageReader<GroupBytes>,
    column: ColumnDescPtr,
    located: Option<Located>,
    weight: LeafWeight,
}

/// Pages that an index led to.
struct Located {
    pages: Arc<LeafPages>,
    /// The next page is the dictionary.
    dictionary: bool,
    /// The next data page.
    next: usize,
}

impl CheckedPages {
    fn new(
        chunk: &ColumnChunkMetaData,
        bytes: &GroupBytes,
        rows: usize,
        located: Option<&Arc<LeafPages>>,
        weight: LeafWeight,
    ) -> Result<Self> {
        let locations = located.map(|pages| pages.locations().to_vec());
        let pages = SerializedPageReader::new(Arc::new(bytes.clone()), chunk, rows, locations)?;
        let located = located.map(|pages| Located {
            dictionary: pages.dictionary(chunk).is_some(),
            pages: Arc::clone(pages),
            next: 0,
        });
        Ok(Self { pages, column: chunk.column_descr_ptr(), located, weight })
    }

    /// Whether the page is the one that the index says.
    fn check_located(&mut self, page: &Page) -> Result<()> {
        let Some(located) = &mut self.located else { return Ok(()) };
        let lies = |what: String| Err(ParquetError::General(format!("its page index is wrong: {what}")));
        let is_dictionary = page.is_dictionary_page();
        if is_dictionary != located.dictionary {
            return lies("a dictionary stands in another place".into());
        }
        if is_dictionary {
            located.dictionary = false;
            return Ok(());
        }
        let claimed = located.pages.rows(located.next);
        located.next += 1;
        let rows = rows_of(page, self.column.max_rep_level());
        if rows == claimed && rows.is_some() {
            return Ok(());
        }
        lies(format!("page {} has {} rows, not {}", located.next, show(rows), show(claimed)))
    }
}

fn show(rows: Option<u64>) -> String {
    rows.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string())
}

/// How many rows begin in a data page.
pub(super) fn rows_of(page: &Page, greatest: i16) -> Option<u64> {
    if greatest == 0 {
        return Some(u64::from(page.num_values()));
    }
    let count = page.num_values();
    let width = i16::BITS - greatest.leading_zeros();
    let levels = match page {
        Page::DataPage { buf, rep_level_encoding: Encoding::RLE, .. } => {
            split_levels(&mut &buf[..], greatest, Encoding::RLE, count)?
        }
        Page::DataPageV2 { buf, rep_levels_byte_len, .. } => buf.get(..*rep_levels_byte_len as usize)?,
        _ => return None,
    };
    count_zeros(levels, width, count as usize).map(|rows| rows as u64)
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.pages.get_next_page()? else { return Ok(None) };
        self.check_located(&page)?;
        value_counts::check(&page, &self.column).map_err(ParquetError::General)?;
        self.weight.add(&page, &self.column)?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        if let Some(located) = &mut self.located {
            match located.dictionary {
                true => located.dictionary = false,
                false => located.next += 1,
            }
        }
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

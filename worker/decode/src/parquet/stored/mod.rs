//! Row groups that a table can take column by column: what means the same there is verified and copied as
//! it is stored, the other columns are cast and encoded again, and both stand in one row group.
//!
//! Comes in: how the table stores its columns ([`StoredLayout`]), a row group's bytes. Goes out: chunks on
//! the table's descriptors, with statistics of what was seen; what a source file claims of its values is
//! never handed on. Every value of a copied column is decoded and looked at before. Anything that stands in
//! the way (a rejected row, damage) only means that the row group is loaded the usual way, which says what
//! is wrong. Held are the fetched bytes, one batch or page for each column under way, and the encoded chunks.

mod alike;
mod facts;
mod levels;
mod pages;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ::parquet::arrow::arrow_writer::ArrowColumnChunk;
use ::parquet::basic::Encoding;
use ::parquet::column::page::PageReader;
use ::parquet::errors::Result as ParquetResult;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use ::parquet::file::serialized_reader::SerializedPageReader;
use ::parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, TypePtr};
use arrow::array::{Array, ArrayRef, AsArray, make_array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use bytes::Bytes;
use stevedore_common::error::Result;

use self::alike::{Alike, Described, Verified, alike};
pub use self::facts::Facts;
use super::batch_memory::GroupReader;
use super::chunks::{ChunkRead, GroupBytes};
use super::file::{ParquetFile, RowGroupTask};
use super::reader::Reading;
use crate::columnar::{Source, guarded};

/// Row groups of fewer rows and bytes are merged with others by encoding them again: the table's readers pay
/// for each, and this many are what the common writers make on purpose (DuckDB 122,880, Polars 250,000).
pub const LEAST_ROWS: u64 = 64 * 1024;
const LEAST_BYTES: u64 = 8 << 20;
/// Batches that an encoder sees before it chooses its encodings; fewer where they take this much memory.
const SAMPLE_BATCHES: usize = 8;
const SAMPLE_BYTES: usize = 32 << 20;

/// How a table stores its columns in Parquet.
pub struct StoredLayout {
    columns: Vec<TableColumn>,
    encoders: Arc<dyn ColumnEncoders>,
}

impl fmt::Debug for StoredLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredLayout({} columns)", self.columns.len())
    }
}

/// A column of a table.
struct TableColumn {
    field: TypePtr,
    leaves: Vec<ColumnDescPtr>,
}

impl StoredLayout {
    /// The layout of a table, and what encodes columns for it.
    pub fn new(schema: &SchemaDescriptor, encoders: Arc<dyn ColumnEncoders>) -> Self {
        let fields = schema.root_schema().get_fields();
        let mut columns: Vec<TableColumn> =
            fields.iter().map(|field| TableColumn { field: field.clone(), leaves: Vec::new() }).collect();
        for (leaf, descriptor) in schema.columns().iter().enumerate() {
            if let Some(column) = columns.get_mut(schema.get_column_root_idx(leaf)) {
                column.leaves.push(descriptor.clone());
            }
        }
        Self { columns, encoders }
    }
}

/// Encodes columns as a table stores them.
pub trait ColumnEncoders: Send + Sync {
    /// Whether the table's files may have pages in an encoding.
    fn allow(&self, encoding: Encoding) -> bool;

    /// Whether pages may be made pages of version 2.
    fn allow_version_2(&self) -> bool;

    /// Begins a chunk of a column of the table; `sample` are its first values.
    ///
    /// # Errors
    /// Where the column cannot be encoded.
    fn begin(&self, column: usize, sample: &[ArrayRef]) -> Result<Box<dyn ColumnEncoder>>;
}

/// Encodes the values of one column of one row group. CPU work.
pub trait ColumnEncoder: Send {
    /// Takes the next values, of the column's type in SQL.
    ///
    /// # Errors
    /// Where a value cannot be stored.
    fn encode(&mut self, values: &ArrayRef) -> Result<()>;

    /// Ends the chunk.
    ///
    /// # Errors
    /// As [`ColumnEncoder::encode`].
    fn finish(self: Box<Self>) -> Result<EncodedColumn>;
}

/// What the columns of a table are made of.
#[derive(Clone)]
pub struct StoredTarget {
    /// How the table stores them.
    pub layout: Arc<StoredLayout>,
    /// For each of them the wanted column that it is; `None`: its default.
    pub columns: Vec<Option<usize>>,
    /// The defaults.
    pub defaults: Arc<dyn ColumnDefaults>,
    /// Row groups of fewer rows go row by row, unless they are large.
    pub least_rows: u64,
}

impl fmt::Debug for StoredTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredTarget").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// The defaults of a table's columns.
pub trait ColumnDefaults: Send + Sync {
    /// The default of a column for so many rows, of its type in SQL.
    ///
    /// # Errors
    /// Where the default fails.
    fn values(&self, column: usize, rows: usize) -> Result<ArrayRef>;
}

/// A row group for a table.
#[derive(Debug)]
pub struct StoredGroup {
    /// Its rows, all of them good.
    pub rows: u64,
    /// Its columns, in the table's order.
    pub columns: Vec<StoredColumn>,
    /// The bytes that were read for it.
    pub input_bytes: u64,
}

/// A column of a row group for a table.
#[derive(Debug)]
pub enum StoredColumn {
    /// As it was stored in the source, leaf by leaf.
    Copied(Vec<StoredChunk>),
    /// Encoded again.
    Encoded(EncodedColumn),
}

/// A column that was encoded.
#[derive(Debug)]
pub struct EncodedColumn {
    /// The chunks of its leaves.
    pub chunks: Vec<ArrowColumnChunk>,
    /// NaNs by field id.
    pub nans: HashMap<i32, u64>,
}

/// One column chunk of a source.
#[derive(Debug)]
pub struct StoredChunk {
    /// On the table's descriptor; offsets are those of the source file, or within a chunk that was made anew.
    pub metadata: ColumnChunkMetaData,
    /// NaNs among its values, where they are counted.
    pub nans: u64,
    bytes: GroupBytes,
}

impl Length for StoredChunk {
    fn len(&self) -> u64 {
        self.bytes.len()
    }
}

impl ChunkReader for StoredChunk {
    type T = ChunkRead;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        self.bytes.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.bytes.get_bytes(start, length)
    }
}

/// How the columns of a row group come to stand in the table.
#[derive(Debug)]
pub struct StoredPlan {
    columns: Vec<Way>,
    /// Bytes of the columns that are made anew, about: decompressed where they are encoded again, as they are stored
    /// where they are given levels.
    encoded_bytes: u64,
}

impl StoredPlan {
    /// How many columns the table has.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Bytes of the columns that are made anew, about, which are held beside those that were read.
    pub fn encoded_bytes(&self) -> u64 {
        self.encoded_bytes
    }
}

/// How a column comes to stand in the table. Columns are those of the file, outputs those wanted of it.
#[derive(Debug)]
enum Way {
    Copy {
        column: usize,
        output: usize,
        alike: Alike,
    },
    Encode {
        column: usize,
        output: usize,
    },
    /// The file lacks it.
    Null {
        output: usize,
    },
    Default,
}

impl ParquetFile {
    /// How a row group may go into a table column by column, as far as metadata tell; `None` where it had
    /// better go row by row: no column can be copied, or it is too small.
    pub fn stored_plan(&self, row_group: usize, target: &StoredTarget) -> Option<StoredPlan> {
        let group = self.metadata.row_groups().get(row_group)?;
        let rows = group.num_rows().unsigned_abs();
        if target.columns.len() != target.layout.columns.len()
            || (rows < target.least_rows && group.compressed_size().unsigned_abs() < LEAST_BYTES)
        {
            return None;
        }
        let fields = self.metadata.file_metadata().schema_descr().root_schema().get_fields();
        let mut encoded_bytes = 0;
        let mut columns = Vec::with_capacity(target.columns.len());
        for (wanted, table) in target.columns.iter().zip(&target.layout.columns) {
            let Some(output) = *wanted else {
                columns.push(Way::Default);
                continue;
            };
            let wanted = self.columns.outputs.get(output)?;
            columns.push(match wanted.source {
                Source::WholeRow => return None,
                Source::Missing if wanted.has_default() => Way::Default,
                Source::Missing => Way::Null { output },
                Source::Column(column) => {
                    let described = Described {
                        column: self.columns.columns.get(column)?,
                        field: fields.get(column)?,
                        leaves: self.leaves.get(column)?.clone(),
                    };
                    let chunks = group.columns().get(described.leaves.clone()).unwrap_or_default();
                    let mut encodings = chunks.iter().flat_map(ColumnChunkMetaData::encodings);
                    let allowed = encodings.all(|encoding| target.layout.encoders.allow(encoding));
                    match alike(&described, group, table, &wanted.ty, &self.columns.spec) {
                        Some(alike) if allowed && !alike.adds_levels => Way::Copy { column, output, alike },
                        Some(alike) if allowed && target.layout.encoders.allow_version_2() => {
                            let size = |chunk: &ColumnChunkMetaData| chunk.compressed_size().unsigned_abs();
                            encoded_bytes += chunks.iter().map(size).sum::<u64>();
                            Way::Copy { column, output, alike }
                        }
                        _ => {
                            let size = |chunk: &ColumnChunkMetaData| chunk.uncompressed_size().unsigned_abs();
                            encoded_bytes += chunks.iter().map(size).sum::<u64>();
                            Way::Encode { column, output }
                        }
                    }
                }
            });
        }
        let copies = columns.iter().any(|way| matches!(way, Way::Copy { .. }));
        copies.then_some(StoredPlan { columns, encoded_bytes })
    }

    /// Makes one column of a row group for the table. `None`: a row is bad, or the column damaged; then the
    /// row group has to go row by row. CPU work; columns can be made at the same time.
    pub fn stored_column(
        &self,
        task: &RowGroupTask,
        bytes: &GroupBytes,
        plan: &StoredPlan,
        target: &StoredTarget,
        index: usize,
    ) -> Option<StoredColumn> {
        let what = || format!("row group {} of the Parquet file", task.row_group + 1);
        let make = || match plan.columns.get(index) {
            Some(Way::Copy { column, output, alike }) => {
                let table = target.layout.columns.get(index)?;
                match self.copied(task, bytes, table, *column, *output, alike) {
                    Some(chunks) => Some(StoredColumn::Copied(chunks)),
                    // Where a row is to blame, its cast tells now.
                    None => encoded(target, index, &mut self.values(task, bytes, *column, *output)?),
                }
            }
            Some(Way::Encode { column, output }) => {
                let mut values = self.values(task, bytes, *column, *output)?;
                encoded(target, index, &mut values)
            }
            Some(Way::Null { output }) => {
                let output = self.columns.outputs.get(*output).filter(|output| output.may_be_null())?;
                let ty = output.ty.to_arrow();
                let mut values = self.pieces(task.rows).map(|rows| Some(new_null_array(&ty, rows)));
                encoded(target, index, &mut values)
            }
            Some(Way::Default) => {
                let values = |rows| target.defaults.values(index, rows).ok();
                encoded(target, index, &mut self.pieces(task.rows).map(values))
            }
            None => None,
        };
        guarded(what, || Ok(make())).ok().flatten()
    }

    /// Verifies a column and copies it.
    fn copied(
        &self,
        task: &RowGroupTask,
        bytes: &GroupBytes,
        table: &TableColumn,
        column: usize,
        output: usize,
        alike: &Alike,
    ) -> Option<Vec<StoredChunk>> {
        let group = self.metadata.row_groups().get(task.row_group)?;
        let chunks = group.columns().get(self.leaves.get(column)?.clone())?;
        let seen = match (chunks, table.leaves.as_slice()) {
            ([chunk], [leaf]) if alike.by != Verified::Library => {
                let largest = self.columns.spec.max_block_bytes;
                pages::look(chunk, bytes, leaf, task.rows, largest).map(|facts| vec![Some(facts)])
            }
            _ => None,
        };
        let facts = match seen {
            Some(facts) => facts,
            None if alike.by == Verified::Pages => return None,
            None => self.facts(task, bytes, column, output, table.leaves.len())?,
        };
        let mut copied = Vec::with_capacity(facts.len());
        for ((facts, chunk), leaf) in facts.into_iter().zip(chunks).zip(&table.leaves) {
            if facts.as_ref().is_some_and(|facts| !facts.lie_within(alike.allowed)) {
                return None;
            }
            let levels = match facts {
                Some(_) => task.rows,
                None => levels_of(chunk, bytes)?,
            };
            if u64::try_from(chunk.num_values()) != Ok(levels) {
                return None;
            }
            let nans = facts.as_ref().map_or(0, |facts| facts.nans);
            let mut metadata = ColumnChunkMetaData::builder(leaf.clone())
                .set_compression(chunk.compression())
                .set_num_values(chunk.num_values());
            let bytes = if alike.adds_levels {
                let leveled = levels::with_levels(chunk, bytes)?;
                let length = leveled.bytes.len() as u64;
                metadata = metadata
                    .set_encodings(leveled.encodings)
                    .set_total_compressed_size(i64::try_from(length).ok()?)
                    .set_total_uncompressed_size(leveled.uncompressed_size)
                    .set_data_page_offset(leveled.data_page_offset)
                    .set_dictionary_page_offset(leveled.dictionary_page_offset);
                GroupBytes::fetched(vec![(0..length, leveled.bytes)])
            } else {
                metadata = metadata
                    .set_encodings_mask(*chunk.encodings_mask())
                    .set_total_compressed_size(chunk.compressed_size())
                    .set_total_uncompressed_size(chunk.uncompressed_size())
                    .set_data_page_offset(chunk.data_page_offset())
                    .set_dictionary_page_offset(chunk.dictionary_page_offset());
                bytes.clone()
            };
            if let Some(statistics) = facts.and_then(|facts| facts.statistics(leaf)) {
                metadata = metadata.set_statistics(statistics);
            }
            let metadata = metadata.build().ok()?;
            copied.push(StoredChunk { metadata, nans, bytes });
        }
        (copied.len() == table.leaves.len()).then_some(copied)
    }

    /// What the library sees of each leaf; of those below lists nothing.
    fn facts(
        &self,
        task: &RowGroupTask,
        bytes: &GroupBytes,
        column: usize,
        output: usize,
        leaves: usize,
    ) -> Option<Vec<Option<Facts>>> {
        let mut facts: Vec<Option<Facts>> = (0..leaves).map(|_| Some(Facts::default())).collect();
        for values in self.values(task, bytes, column, output)? {
            let mut rest = facts.as_mut_slice();
            add_leaves(&values?, None, &mut rest)?;
            if !rest.is_empty() {
                return None;
            }
        }
        Some(facts)
    }

    /// The values of an output, batch by batch; `None` for a batch with a bad row, or where damage shows.
    fn values(
        &self,
        task: &RowGroupTask,
        bytes: &GroupBytes,
        column: usize,
        output: usize,
    ) -> Option<impl Iterator<Item = Option<ArrayRef>>> {
        let reading = Reading { row_group: task.row_group, bytes, rows: None, index: None };
        let reader = GroupReader::new(self, &reading, &[column]).ok()?;
        Some(Values { file: self, reader, output, column, left: task.rows })
    }

    /// Rows in pieces of a batch.
    fn pieces(&self, rows: u64) -> impl Iterator<Item = usize> {
        let batch = self.columns.spec.batch_rows.max(1) as u64;
        (0..rows.div_ceil(batch)).map(move |piece| batch.min(rows - piece * batch) as usize)
    }
}

/// The values of a column, cast.
struct Values<'a> {
    file: &'a ParquetFile,
    reader: GroupReader,
    column: usize,
    output: usize,
    left: u64,
}

impl Iterator for Values<'_> {
    type Item = Option<ArrayRef>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.reader.next(self.file) {
            // A row group that ends early is damaged.
            None => return (self.left > 0).then_some(None),
            Some(Ok(batch)) => batch,
            Some(Err(_)) => return Some(None),
        };
        let Some(left) = self.left.checked_sub(batch.num_rows() as u64) else { return Some(None) };
        self.left = left;
        Some(match batch.columns() {
            [array] => self.file.columns.good_values(array, self.column, self.output).ok().flatten(),
            _ => None,
        })
    }
}

/// Encodes the values of a column.
fn encoded(
    target: &StoredTarget,
    column: usize,
    values: &mut dyn Iterator<Item = Option<ArrayRef>>,
) -> Option<StoredColumn> {
    let (mut sample, mut bytes) = (Vec::new(), 0);
    while sample.len() < SAMPLE_BATCHES
        && bytes < SAMPLE_BYTES
        && let Some(array) = values.next()
    {
        let array = array?;
        bytes += array.get_array_memory_size();
        sample.push(array);
    }
    let mut encoder = target.layout.encoders.begin(column, &sample).ok()?;
    for array in &sample {
        encoder.encode(array).ok()?;
    }
    drop(sample);
    for array in values {
        encoder.encode(&array?).ok()?;
    }
    encoder.finish().ok().map(StoredColumn::Encoded)
}

/// Adds the values of an array to the facts of its leaves, which it takes off `facts`. Leaves below lists
/// have none.
fn add_leaves(array: &ArrayRef, above: Option<&NullBuffer>, facts: &mut &mut [Option<Facts>]) -> Option<()> {
    let nulls = NullBuffer::union(above, array.nulls());
    match array.data_type() {
        DataType::Struct(_) => {
            for child in array.as_struct().columns() {
                add_leaves(child, nulls.as_ref(), facts)?;
            }
        }
        DataType::List(item) | DataType::FixedSizeList(item, _) | DataType::Map(item, _) => {
            let (below, rest) = std::mem::take(facts).split_at_mut_checked(leaves_below(item.data_type()))?;
            below.iter_mut().for_each(|leaf| *leaf = None);
            *facts = rest;
        }
        _ => {
            let (leaf, rest) = std::mem::take(facts).split_first_mut()?;
            *facts = rest;
            let values = match above {
                Some(_) => make_array(array.to_data().into_builder().nulls(nulls).build().ok()?),
                None => array.clone(),
            };
            leaf.as_mut()?.add(&values).ok()?;
        }
    }
    Some(())
}

fn leaves_below(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| leaves_below(field.data_type())).sum(),
        DataType::List(item) | DataType::FixedSizeList(item, _) | DataType::Map(item, _) => {
            leaves_below(item.data_type())
        }
        _ => 1,
    }
}

/// How many levels the pages of a chunk hold.
fn levels_of(chunk: &ColumnChunkMetaData, bytes: &GroupBytes) -> Option<u64> {
    let mut pages = SerializedPageReader::new(Arc::new(bytes.clone()), chunk, 0, None).ok()?;
    let mut levels = 0;
    while let Some(page) = pages.peek_next_page().ok()? {
        if !page.is_dict {
            levels += page.num_levels? as u64;
        }
        pages.skip_next_page().ok()?;
    }
    Some(levels)
}

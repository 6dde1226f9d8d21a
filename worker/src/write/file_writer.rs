//! One Parquet file: chunks of batches in, a durable file with statistics out.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use iceberg::spec::Struct;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriterOptions};
use parquet::basic::{Compression, Encoding as ParquetEncoding, Type as PhysicalType, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::ColumnDescPtr;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{StoredChunk, StoredColumn, StoredGroup};

use super::WrittenFile;
use super::encode::{Encoders, Encoding, RowGroup, gathers_statistics};
use super::memory::Account;
use super::sample::{LeafEncoding, leaf_encodings};
use super::stats::{Finished, NanCounts, data_file_json};
use super::table_writer::WriteContext;
use super::upload::{self, PartSink, Upload};

/// Batches of fewer rows are put together before they are encoded.
const FEW_ROWS: usize = 1024;
/// A row group that has reached this part of its size ends where memory is short.
const LEAST_PART: usize = 16;
/// Higher levels cost more time than the space is worth.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// A file that is being written. Dropping it gives the file up.
pub(super) struct FileWriter {
    context: Arc<WriteContext>,
    location: String,
    path: Path,
    partition: Struct,
    chunk: Vec<RecordBatch>,
    chunk_rows: usize,
    chunk_bytes: usize,
    open: Option<OpenFile>,
    rows: u64,
    held: Held,
}

/// What a file holds beside the rows that it gathers.
struct Held {
    account: Account,
    /// The chunk that is being encoded.
    chunk: usize,
    /// The row group under way, before that chunk.
    group: usize,
    /// Parts of the upload.
    parts: usize,
}

impl Held {
    /// Counts what the file holds, `gathered` bytes of rows among it.
    fn count(&mut self, gathered: usize) {
        self.account.set(gathered + self.chunk + self.group + self.parts);
    }
}

/// What exists from the first chunk on.
struct OpenFile {
    parquet: SerializedFileWriter<PartSink>,
    row_groups: ArrowRowGroupWriterFactory,
    upload: Upload,
    group: Option<RowGroup>,
    encoding: Option<Encoding>,
    nans: NanCounts,
}

impl FileWriter {
    pub(super) fn new(context: Arc<WriteContext>, name: &str, partition: Struct) -> Self {
        let location = format!("{}/{name}", context.data_location);
        let path = context.folder.clone().join(name);
        let held = Held { account: context.encoders.memory().account(), chunk: 0, group: 0, parts: 0 };
        Self {
            context,
            location,
            path,
            partition,
            chunk: Vec::new(),
            chunk_rows: 0,
            chunk_bytes: 0,
            open: None,
            rows: 0,
            held,
        }
    }

    /// The memory that the file takes.
    pub(super) fn held(&self) -> u64 {
        self.held.account.held()
    }

    /// Takes rows. Says whether the file has reached its target size and should be finished.
    pub(super) async fn write(&mut self, batch: RecordBatch) -> Result<bool> {
        self.rows += batch.num_rows() as u64;
        self.chunk_rows += batch.num_rows();
        self.chunk_bytes += batch.get_array_memory_size();
        self.chunk.push(batch);
        self.held.count(self.chunk_bytes);
        let WriteContext { chunk_rows, chunk_bytes, .. } = *self.context;
        if self.chunk_rows < chunk_rows && self.chunk_bytes < chunk_bytes {
            return Ok(false);
        }
        self.encode_chunk().await
    }

    /// Hands the chunk to the encoders, after they are done with the one before. A full file still
    /// takes it: that beats a last row group of one chunk.
    async fn encode_chunk(&mut self) -> Result<bool> {
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.is_empty() {
            return Ok(false);
        }
        let chunk_bytes = self.chunk_bytes;
        (self.chunk_rows, self.chunk_bytes) = (0, 0);
        let context = self.context.clone();
        let chunk = coalesced(chunk, &context.encoders).await?;
        if self.open.is_none() {
            self.open = Some(self.start(&chunk).await?);
        }
        let Some(open) = self.open.as_mut() else {
            return Err(Error::internal("a data file was not opened"));
        };
        open.encoded().await?;
        let rows = open.group.as_ref().map_or(0, |group| group.rows);
        let (encoded, held) = open.group.as_ref().map_or((0, 0), RowGroup::bytes);
        let file_full = open.parquet.bytes_written() + encoded >= context.target_file_bytes;
        // The chunk before is encoded, and this one is not gathered any more.
        (self.held.chunk, self.held.group) = (chunk_bytes, held);
        self.held.count(0);
        let too_much =
            context.encoders.memory().is_exceeded() && encoded >= context.row_group_bytes / LEAST_PART;
        if !file_full && (rows >= context.row_group_rows || encoded >= context.row_group_bytes || too_much) {
            self.open = Some(self.open.take().ok_or_else(closed)?.end_row_group(&context).await?);
            self.held.group = 0;
        }
        let open = self.open.as_mut().ok_or_else(closed)?;
        self.held.parts = upload::held_by(open.parquet.bytes_written(), context.part_buffers.buffer_bytes());
        self.held.count(0);
        let group = match open.group.take() {
            Some(group) => group,
            None => {
                let index = open.parquet.flushed_row_groups().len();
                let writers = open.row_groups.create_column_writers(index).map_err(|e| parquet_failed(&e))?;
                RowGroup::new(&context.storage_schema, writers, &context.leaves_per_column)
            }
        };
        let group = open.group.insert(group);
        open.encoding = Some(group.encode(chunk, &context.encoders));
        Ok(file_full)
    }

    /// Takes a row group whose columns are ready: the rows before it become a row group of their own. Says whether
    /// the file has reached its target size.
    pub(super) async fn write_stored(&mut self, group: StoredGroup) -> Result<bool> {
        self.encode_chunk().await?;
        self.rows += group.rows;
        let context = self.context.clone();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.start(&[]).await?,
        };
        open.encoded().await?;
        let mut open = open.end_row_group(&context).await?;
        for column in &group.columns {
            match column {
                StoredColumn::Copied(chunks) => {
                    chunks
                        .iter()
                        .for_each(|chunk| open.nans.add_chunk(chunk.metadata.column_descr(), chunk.nans));
                }
                StoredColumn::Encoded(column) => open.nans.add_counts(&column.nans),
            }
        }
        let open = self.open.insert(open.append(group).await?);
        (self.held.chunk, self.held.group) = (0, 0);
        self.held.parts = upload::held_by(open.parquet.bytes_written(), context.part_buffers.buffer_bytes());
        self.held.count(0);
        Ok(open.parquet.bytes_written() >= context.target_file_bytes)
    }

    /// Opens the file; without a sample of its rows dictionaries are tried for every column.
    async fn start(&self, chunk: &[RecordBatch]) -> Result<OpenFile> {
        let context = self.context.clone();
        let sample = chunk.to_vec();
        let encodings: Vec<LeafEncoding> = context
            .encoders
            .run(move || {
                let columns = sample.first().map_or(0, RecordBatch::num_columns);
                Ok((0..columns).flat_map(|index| leaf_encodings(&sample, index)).collect())
            })
            .await?;
        let leaves = self.context.leaves.iter().zip(encodings);
        let properties = properties(&self.context.storage_schema, leaves, self.context.compatible_encodings)?;
        let (sink, upload) =
            upload::start(context.store.clone(), self.path.clone(), context.local, &context.part_buffers);
        // The files carry Iceberg's field ids; a copy of the Arrow schema would only be one more thing
        // for readers to disagree with.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, self.context.storage_schema.clone(), options)
            .map_err(|e| parquet_failed(&e))?;
        let (parquet, row_groups) = writer.into_serialized_writer().map_err(|e| parquet_failed(&e))?;
        Ok(OpenFile { parquet, row_groups, upload, group: None, encoding: None, nans: NanCounts::default() })
    }

    /// Ends the file and waits until it is durable. `None`: it had no rows, and there is no file.
    pub(super) async fn finish(mut self) -> Result<Option<WrittenFile>> {
        self.encode_chunk().await?;
        let Some(mut open) = self.open.take() else {
            return Ok(None);
        };
        let context = self.context.clone();
        open.encoded().await?;
        let OpenFile { parquet, upload, nans, .. } = open.end_row_group(&context).await?;
        // Not one of the encoders' threads: it waits for the upload.
        let finished = tokio::task::spawn_blocking(move || finish_parquet(parquet))
            .await
            .map_err(|e| Error::internal(format!("writing a footer failed: {e}")))?;
        let (metadata, bytes) = match finished {
            Ok(finished) => finished,
            // The upload knows better why its end of the pipe is closed.
            Err(error) => return Err(upload.finished().await.err().unwrap_or(error)),
        };
        upload.finished().await?;
        let file = Finished {
            location: &self.location,
            bytes,
            metadata: &metadata,
            nans: &nans,
            partition: self.partition,
            spec_id: context.spec.spec_id(),
        };
        let json = data_file_json(&file, &context.schema, &context.partition_type)?;
        Ok(Some(WrittenFile { json, rows: self.rows, bytes, location: self.location }))
    }
}

/// One batch instead of many small ones, as small files give: encoders and samples cost by the batch.
async fn coalesced(chunk: Vec<RecordBatch>, encoders: &Encoders) -> Result<Vec<RecordBatch>> {
    let rows: usize = chunk.iter().map(RecordBatch::num_rows).sum();
    match chunk.first().map(RecordBatch::schema) {
        Some(schema) if chunk.len() > 1 && rows / chunk.len() < FEW_ROWS => {
            encoders.run(move || Ok(vec![concat_batches(&schema, &chunk)?])).await
        }
        _ => Ok(chunk),
    }
}

impl OpenFile {
    async fn encoded(&mut self) -> Result<()> {
        match self.encoding.take() {
            Some(encoding) => encoding.done().await,
            None => Ok(()),
        }
    }

    /// Writes the row group out. Off the core threads: writing waits for the upload.
    async fn end_row_group(mut self, context: &WriteContext) -> Result<Self> {
        let Some(group) = self.group.take() else {
            return Ok(self);
        };
        let (chunks, nans) = group.close(&context.encoders).await?;
        self.nans.add(&nans);
        self.write_row_group(move |group| {
            chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(group))
        })
        .await
    }

    /// Appends a row group whose columns are ready.
    async fn append(self, stored: StoredGroup) -> Result<Self> {
        self.write_row_group(move |group| {
            stored.columns.into_iter().try_for_each(|column| match column {
                StoredColumn::Copied(chunks) => {
                    chunks.into_iter().try_for_each(|chunk| copy_chunk(group, &chunk, stored.rows))
                }
                StoredColumn::Encoded(column) => {
                    column.chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(group))
                }
            })
        })
        .await
    }

    async fn write_row_group(
        self,
        columns: impl FnOnce(&mut SerializedRowGroupWriter<'_, PartSink>) -> Result<(), ParquetError>
        + Send
        + 'static,
    ) -> Result<Self> {
        let Self { mut parquet, upload, row_groups, encoding, nans, .. } = self;
        // Not one of the encoders' threads: it mostly waits.
        let written = tokio::task::spawn_blocking(move || {
            let write = || {
                let mut group = parquet.next_row_group()?;
                columns(&mut group)?;
                group.close()
            };
            let result = write().map(|_| ());
            (parquet, result)
        })
        .await
        .map_err(|e| Error::internal(format!("writing a row group failed: {e}")))?;
        match written {
            (parquet, Ok(())) => Ok(Self { parquet, upload, row_groups, group: None, encoding, nans }),
            (parquet, Err(error)) => {
                drop(parquet);
                Err(upload.finished().await.err().unwrap_or_else(|| parquet_failed(&error)))
            }
        }
    }
}

fn finish_parquet(mut parquet: SerializedFileWriter<PartSink>) -> Result<(ParquetMetaData, u64)> {
    let metadata = parquet.finish().map_err(|e| parquet_failed(&e))?;
    let bytes = parquet.bytes_written() as u64;
    parquet.inner_mut().complete()?;
    Ok((metadata, bytes))
}

/// Copies a chunk as it is stored.
fn copy_chunk(
    group: &mut SerializedRowGroupWriter<'_, PartSink>,
    chunk: &StoredChunk,
    rows: u64,
) -> Result<(), ParquetError> {
    let close = ColumnCloseResult {
        bytes_written: chunk.metadata.compressed_size().unsigned_abs(),
        rows_written: rows,
        metadata: chunk.metadata.clone(),
        bloom_filter: None,
        column_index: None,
        offset_index: None,
    };
    group.append_column(chunk, close)
}

/// Whether every reader knows an encoding: those of the first Parquet writers.
pub(super) fn is_compatible(encoding: ParquetEncoding) -> bool {
    #[expect(deprecated, reason = "old writers name it for their levels")]
    let levels = encoding == ParquetEncoding::BIT_PACKED;
    levels
        || matches!(
            encoding,
            ParquetEncoding::PLAIN
                | ParquetEncoding::RLE
                | ParquetEncoding::PLAIN_DICTIONARY
                | ParquetEncoding::RLE_DICTIONARY
        )
}

/// How leaf columns are encoded; those of which nothing was seen have a dictionary while it stays small.
/// `compatible`: plain and dictionary encoding only.
pub(super) fn properties<'a>(
    schema: &Schema,
    leaves: impl Iterator<Item = (&'a ColumnDescPtr, LeafEncoding)>,
    compatible: bool,
) -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(|e| parquet_failed(&e))?;
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // Row groups taken as they are stored come without; all of a file's have one, or none has.
        .set_offset_index_disabled(true)
        .set_created_by(concat!("stevedore version ", env!("CARGO_PKG_VERSION")).to_owned());
    for (leaf, encoding) in leaves {
        let path = leaf.path().clone();
        if let [name] = path.parts()
            && schema.field_with_name(name).is_ok_and(gathers_statistics)
        {
            properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
        let encoding = match (encoding, leaf.physical_type()) {
            (LeafEncoding::Dictionary, _) => continue,
            // Some integers are stored as decimals, which have no such encoding.
            (LeafEncoding::Delta, PhysicalType::INT32 | PhysicalType::INT64) if !compatible => {
                ParquetEncoding::DELTA_BINARY_PACKED
            }
            (LeafEncoding::Split, _) if !compatible => ParquetEncoding::BYTE_STREAM_SPLIT,
            (LeafEncoding::Plain | LeafEncoding::Delta | LeafEncoding::Split, _) => ParquetEncoding::PLAIN,
        };
        properties =
            properties.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, encoding);
    }
    Ok(properties.build())
}

fn closed() -> Error {
    Error::internal("a data file was written to after it was closed")
}

fn parquet_failed(error: &ParquetError) -> Error {
    Error::internal(format!("writing Parquet: {error}"))
}

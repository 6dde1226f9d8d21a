//! One Parquet file: chunks of batches in, a durable file with statistics out.
//!
//! Nothing waits for what can be done beside it: a chunk is gathered while those before are encoded, and a row group
//! is encoded while the one before is written.

use std::collections::VecDeque;
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
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::ColumnDescPtr;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{StoredChunk, StoredColumn, StoredGroup};
use tokio_util::task::AbortOnDropHandle;

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
    account: Account,
}

/// What exists from the first chunk on.
struct OpenFile {
    writer: Writer,
    row_groups: ArrowRowGroupWriterFactory,
    upload: Upload,
    /// The row group under way, and its chunks that are being encoded, each with the memory that its rows take.
    group: Option<RowGroup>,
    encoding: VecDeque<(Encoding, usize)>,
    /// Row groups that were written or are on their way.
    ended_groups: usize,
    /// Bytes of those that were written, and of the one on its way; the memory that this one takes.
    written_bytes: usize,
    leaving_bytes: usize,
    leaving_held: usize,
    nans: NanCounts,
}

/// Boxed: it is large and moves between tasks.
type ParquetFile = Box<SerializedFileWriter<PartSink>>;

/// The row groups of a file leave it one after the other, while the next one is encoded.
enum Writer {
    Idle(ParquetFile),
    Writing(AbortOnDropHandle<Result<(ParquetFile, NanCounts), NotWritten>>),
    /// Writing failed.
    Gone,
}

/// Why a row group did not leave.
enum NotWritten {
    /// Its rows could not be encoded.
    Rows(Error),
    /// The upload knows better why.
    File(Error),
}

impl FileWriter {
    pub(super) fn new(context: Arc<WriteContext>, name: &str, partition: Struct) -> Self {
        let location = format!("{}/{name}", context.data_location);
        let path = context.folder.clone().join(name);
        let account = context.encoders.memory().account();
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
            account,
        }
    }

    /// The memory that the file takes.
    pub(super) fn held(&self) -> u64 {
        self.account.held()
    }

    /// Takes rows. Says whether the file has reached its target size and should be finished.
    pub(super) async fn write(&mut self, batch: RecordBatch) -> Result<bool> {
        self.rows += batch.num_rows() as u64;
        self.chunk_rows += batch.num_rows();
        self.chunk_bytes += batch.get_array_memory_size();
        self.chunk.push(batch);
        self.count_held();
        let WriteContext { chunk_rows, chunk_bytes, .. } = *self.context;
        if self.chunk_rows < chunk_rows && self.chunk_bytes < chunk_bytes {
            return Ok(false);
        }
        self.encode_chunk().await
    }

    /// Counts the memory that the file takes.
    fn count_held(&mut self) {
        let buffers = self.context.part_buffers.buffer_bytes();
        self.account.set(self.chunk_bytes + self.open.as_ref().map_or(0, |open| open.held(buffers)));
    }

    /// Hands the chunk to the encoders, which may still be at the one before. A full file still takes it: that
    /// beats a last row group of one chunk.
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
        let open = self.open.as_mut().ok_or_else(closed)?;
        open.encoded(context.chunks_encoded - 1).await?;
        let rows = open.group.as_ref().map_or(0, |group| group.rows);
        let (encoded, _) = open.group.as_ref().map_or((0, 0), RowGroup::bytes);
        let file_full = open.bytes() + encoded >= context.target_file_bytes;
        let too_much =
            context.encoders.memory().is_exceeded() && encoded >= context.row_group_bytes / LEAST_PART;
        if !file_full && (rows >= context.row_group_rows || encoded >= context.row_group_bytes || too_much) {
            open.end_row_group(&context).await?;
        }
        if open.group.is_none() {
            let writers =
                open.row_groups.create_column_writers(open.ended_groups).map_err(|e| parquet_failed(&e))?;
            open.group = Some(RowGroup::new(&context.storage_schema, writers, &context.leaves_per_column));
        }
        let group = open.group.as_mut().ok_or_else(closed)?;
        open.encoding.push_back((group.encode(chunk, &context.encoders), chunk_bytes));
        self.count_held();
        Ok(file_full)
    }

    /// Takes a row group whose columns are ready: the rows before it become a row group of their own. Says whether
    /// the file has reached its target size.
    pub(super) async fn write_stored(&mut self, group: StoredGroup) -> Result<bool> {
        self.encode_chunk().await?;
        self.rows += group.rows;
        let context = self.context.clone();
        if self.open.is_none() {
            self.open = Some(self.start(&[]).await?);
        }
        let open = self.open.as_mut().ok_or_else(closed)?;
        open.end_row_group(&context).await?;
        open.append(group).await?;
        let full = open.bytes() >= context.target_file_bytes;
        self.count_held();
        Ok(full)
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
        Ok(OpenFile {
            writer: Writer::Idle(Box::new(parquet)),
            row_groups,
            upload,
            group: None,
            encoding: VecDeque::new(),
            ended_groups: 0,
            written_bytes: 0,
            leaving_bytes: 0,
            leaving_held: 0,
            nans: NanCounts::default(),
        })
    }

    /// Ends the file and waits until it is durable. `None`: it had no rows, and there is no file.
    pub(super) async fn finish(mut self) -> Result<Option<WrittenFile>> {
        self.encode_chunk().await?;
        let Some(mut open) = self.open.take() else {
            return Ok(None);
        };
        let context = self.context.clone();
        open.end_row_group(&context).await?;
        let parquet = open.idle_writer().await?;
        let OpenFile { upload, nans, .. } = open;
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
    /// Bytes of the file, without the row group under way.
    fn bytes(&self) -> usize {
        self.written_bytes + self.leaving_bytes
    }

    /// The memory that rows, row groups and the upload take, whose parts have `part_bytes`.
    fn held(&self, part_bytes: usize) -> usize {
        let chunks: usize = self.encoding.iter().map(|(_, bytes)| bytes).sum();
        let group = self.group.as_ref().map_or(0, |group| group.bytes().1);
        chunks + group + self.leaving_held + upload::held_by(self.bytes(), part_bytes)
    }

    /// Waits until no more than `rest` chunks are being encoded.
    async fn encoded(&mut self, rest: usize) -> Result<()> {
        while self.encoding.len() > rest {
            let Some((encoding, _)) = self.encoding.pop_front() else { break };
            encoding.done().await?;
        }
        Ok(())
    }

    /// Waits until the row group before has left.
    async fn idle_writer(&mut self) -> Result<ParquetFile> {
        let left = match std::mem::replace(&mut self.writer, Writer::Gone) {
            Writer::Idle(writer) => return Ok(writer),
            Writer::Writing(task) => {
                task.await.map_err(|e| Error::internal(format!("writing a row group failed: {e}")))?
            }
            Writer::Gone => return Err(closed()),
        };
        match left {
            Ok((writer, nans)) => {
                self.nans.add(&nans);
                self.written_bytes = writer.bytes_written();
                (self.leaving_bytes, self.leaving_held) = (0, 0);
                Ok(writer)
            }
            Err(NotWritten::Rows(error)) => Err(error),
            Err(NotWritten::File(error)) => Err(self.upload.failure().await.unwrap_or(error)),
        }
    }

    /// Lets the row group under way leave, once the one before it has.
    async fn end_row_group(&mut self, context: &WriteContext) -> Result<()> {
        let Some(group) = self.group.take() else {
            return Ok(());
        };
        let writer = self.idle_writer().await?;
        let chunks = std::mem::take(&mut self.encoding);
        self.ended_groups += 1;
        (self.leaving_bytes, self.leaving_held) = group.bytes();
        let encoders = context.encoders.clone();
        let task = async move {
            let closed = async {
                for (chunk, _) in chunks {
                    chunk.done().await?;
                }
                group.close(&encoders).await
            };
            let (chunks, nans) = closed.await.map_err(NotWritten::Rows)?;
            let append = |group: &mut SerializedRowGroupWriter<'_, PartSink>| {
                chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(group))
            };
            Ok((write_row_group(writer, append).await?, nans))
        };
        self.writer = Writer::Writing(AbortOnDropHandle::new(tokio::spawn(task)));
        Ok(())
    }

    /// Lets a row group whose columns are ready leave, once the one before it has.
    async fn append(&mut self, stored: StoredGroup) -> Result<()> {
        let writer = self.idle_writer().await?;
        let mut nans = NanCounts::default();
        for column in &stored.columns {
            match column {
                StoredColumn::Copied(chunks) => {
                    chunks.iter().for_each(|chunk| nans.add_chunk(chunk.metadata.column_descr(), chunk.nans));
                }
                StoredColumn::Encoded(column) => nans.add_counts(&column.nans),
            }
        }
        self.ended_groups += 1;
        // Its memory is the reader's until it is dropped.
        self.leaving_bytes = stored_bytes(&stored);
        let task = async move {
            let rows = stored.rows;
            let append = move |group: &mut SerializedRowGroupWriter<'_, PartSink>| {
                stored.columns.into_iter().try_for_each(|column| match column {
                    StoredColumn::Copied(chunks) => {
                        chunks.into_iter().try_for_each(|chunk| copy_chunk(group, &chunk, rows))
                    }
                    StoredColumn::Encoded(column) => {
                        column.chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(group))
                    }
                })
            };
            Ok((write_row_group(writer, append).await?, nans))
        };
        self.writer = Writer::Writing(AbortOnDropHandle::new(tokio::spawn(task)));
        Ok(())
    }
}

/// Writes one row group out. Not on one of the encoders' threads: it mostly waits for the upload.
async fn write_row_group(
    mut writer: ParquetFile,
    columns: impl FnOnce(&mut SerializedRowGroupWriter<'_, PartSink>) -> Result<(), ParquetError> + Send + 'static,
) -> Result<ParquetFile, NotWritten> {
    tokio::task::spawn_blocking(move || {
        let write = || {
            let mut group = writer.next_row_group()?;
            columns(&mut group)?;
            group.close()
        };
        let written = write().map(|_| ());
        written.map(|()| writer)
    })
    .await
    .map_err(|e| NotWritten::File(Error::internal(format!("writing a row group failed: {e}"))))?
    .map_err(|e| NotWritten::File(parquet_failed(&e)))
}

fn finish_parquet(mut parquet: ParquetFile) -> Result<(ParquetMetaData, u64)> {
    let metadata = parquet.finish().map_err(|e| parquet_failed(&e))?;
    let bytes = parquet.bytes_written() as u64;
    parquet.inner_mut().complete()?;
    Ok((metadata, bytes))
}

/// The bytes of a row group whose columns are ready.
fn stored_bytes(group: &StoredGroup) -> usize {
    let of = |metadata: &ColumnChunkMetaData| usize::try_from(metadata.compressed_size()).unwrap_or_default();
    let columns = group.columns.iter();
    columns
        .map(|column| match column {
            StoredColumn::Copied(chunks) => chunks.iter().map(|chunk| of(&chunk.metadata)).sum::<usize>(),
            StoredColumn::Encoded(column) => {
                column.chunks.iter().map(|chunk| of(&chunk.close().metadata)).sum()
            }
        })
        .sum()
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

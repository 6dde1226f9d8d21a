//! The files of one slice for one table: opens, fills and finishes them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use async_trait::async_trait;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{PartitionSpec, PartitionSpecRef, Schema, SchemaRef, Struct, StructType};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowSchemaConverter;
use parquet::schema::types::ColumnDescPtr;
use stevedore_common::buffers::BufferPool;
use stevedore_common::ids::AttemptKey;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{StoredGroup, StoredLayout};
use tokio_util::task::AbortOnDropHandle;

use super::file_writer::FileWriter;
use super::partition::PartitionedFiles;
use super::stored::TableEncoders;
use super::upload;
use super::{BatchSink, Encoders, FileNames, WrittenFile};

/// Small enough that most of a file is written while the rest is still encoded.
const ROW_GROUP_ROWS: usize = 512 << 10;
const ROW_GROUP_BYTES: usize = 128 << 20;
const TARGET_FILE_BYTES: usize = 256 << 20;
/// Rows and bytes (in memory) of a chunk: enough that handing it to threads costs nothing beside
/// encoding it.
const CHUNK_ROWS: usize = 64 << 10;
const CHUNK_BYTES: usize = 8 << 20;
/// By how much all of these are smaller where many files are open at a time, one for each partition.
const PARTITIONED: usize = 8;

/// The table to write for.
#[derive(Debug, Clone)]
pub struct WriteTarget {
    /// The table's schema.
    pub schema: Schema,
    /// Its default partition spec.
    pub spec: PartitionSpec,
    /// The data folder as an absolute URI, without a trailing slash.
    pub data_location: String,
    /// The store that holds it.
    pub store: Arc<dyn ObjectStore>,
    /// The data folder within the store.
    pub folder: Path,
    /// Bytes at which a file is finished and the next one begun; 0: the default.
    pub target_file_bytes: u64,
    /// Plain and dictionary encoding only, which every reader knows.
    pub compatible_encodings: bool,
}

/// What all files of a writer share.
pub(super) struct WriteContext {
    pub(super) schema: SchemaRef,
    pub(super) spec: PartitionSpecRef,
    pub(super) partition_type: StructType,
    pub(super) storage_schema: ArrowSchemaRef,
    /// Parquet's leaves under each top-level column.
    pub(super) leaves_per_column: Vec<usize>,
    /// Where row groups can be taken as they are stored.
    pub(super) layout: Option<Arc<StoredLayout>>,
    /// Parquet's leaves.
    pub(super) leaves: Vec<ColumnDescPtr>,
    pub(super) data_location: String,
    pub(super) store: Arc<dyn ObjectStore>,
    /// The store is this machine's file system.
    pub(super) local: bool,
    pub(super) part_buffers: BufferPool,
    pub(super) folder: Path,
    pub(super) encoders: Encoders,
    pub(super) target_file_bytes: usize,
    pub(super) compatible_encodings: bool,
    pub(super) row_group_rows: usize,
    pub(super) row_group_bytes: usize,
    pub(super) chunk_rows: usize,
    pub(super) chunk_bytes: usize,
    /// Chunks of a file that are encoded at a time.
    pub(super) chunks_encoded: usize,
}

impl WriteContext {
    fn new(target: WriteTarget, encoders: Encoders) -> Result<Self> {
        let schema: SchemaRef = Arc::new(target.schema);
        let storage_schema = Arc::new(schema_to_arrow_schema(&schema)?);
        let parquet_schema = ArrowSchemaConverter::new()
            .convert(&storage_schema)
            .map_err(|e| Error::not_supported(format!("the table's columns in Parquet: {e}")))?;
        let mut leaves_per_column = vec![0; storage_schema.fields().len()];
        for leaf in 0..parquet_schema.num_columns() {
            leaves_per_column[parquet_schema.get_column_root_idx(leaf)] += 1;
        }
        let target_file_bytes = match usize::try_from(target.target_file_bytes) {
            Ok(0) | Err(_) => TARGET_FILE_BYTES,
            Ok(bytes) => bytes,
        };
        let partitions = !target.spec.is_unpartitioned();
        let layout = (!partitions).then(|| {
            let encoders = TableEncoders {
                storage_schema: storage_schema.clone(),
                parquet_schema: parquet_schema.clone(),
                leaves_per_column: leaves_per_column.clone(),
                compatible_encodings: target.compatible_encodings,
            };
            Arc::new(StoredLayout::new(&parquet_schema, Arc::new(encoders)))
        });
        let divided_by = if partitions { PARTITIONED } else { 1 };
        let local = target.data_location.starts_with("file:");
        Ok(Self {
            partition_type: target.spec.partition_type(&schema)?,
            spec: Arc::new(target.spec),
            schema,
            storage_schema,
            leaves_per_column,
            layout,
            leaves: parquet_schema.columns().to_vec(),
            local,
            part_buffers: upload::part_buffers(local),
            data_location: target.data_location.trim_end_matches('/').to_owned(),
            store: target.store,
            folder: target.folder,
            encoders,
            target_file_bytes,
            compatible_encodings: target.compatible_encodings,
            row_group_rows: ROW_GROUP_ROWS,
            row_group_bytes: (ROW_GROUP_BYTES / divided_by).min(target_file_bytes),
            chunk_rows: CHUNK_ROWS / divided_by,
            chunk_bytes: CHUNK_BYTES / divided_by,
            chunks_encoded: if partitions { 1 } else { 2 },
        })
    }
}

/// A [`BatchSink`] that writes files of its own.
pub struct TableWriter {
    context: Arc<WriteContext>,
    names: FileNames,
    files: Files,
    written: Vec<WrittenFile>,
}

enum Files {
    One(OneFile),
    Partitioned(PartitionedFiles),
}

/// One file at a time; a full one becomes durable while the next one is filled.
#[derive(Default)]
struct OneFile {
    open: Option<Box<FileWriter>>,
    finishing: Option<AbortOnDropHandle<Result<Option<WrittenFile>>>>,
}

impl OneFile {
    /// The file under way, begun if there is none.
    fn open(&mut self, context: &Arc<WriteContext>, names: &mut FileNames) -> &mut FileWriter {
        self.open.get_or_insert_with(|| {
            Box::new(FileWriter::new(context.clone(), &names.next_name(), Struct::empty()))
        })
    }

    /// Begins to finish the file under way, once the one before is finished.
    async fn finish_open(&mut self, written: &mut Vec<WrittenFile>) -> Result<()> {
        self.finished(written).await?;
        if let Some(file) = self.open.take() {
            self.finishing = Some(AbortOnDropHandle::new(tokio::spawn(file.finish())));
        }
        Ok(())
    }

    /// Waits for the file that is being finished.
    async fn finished(&mut self, written: &mut Vec<WrittenFile>) -> Result<()> {
        if let Some(finishing) = self.finishing.take() {
            let file =
                finishing.await.map_err(|e| Error::internal(format!("finishing a file failed: {e}")))?;
            written.extend(file?);
        }
        Ok(())
    }
}

impl TableWriter {
    /// A writer for one attempt at a slice.
    ///
    /// # Errors
    /// Unsupported for a table that cannot be written.
    pub fn new(target: WriteTarget, attempt: AttemptKey, encoders: Encoders) -> Result<Self> {
        let context = Arc::new(WriteContext::new(target, encoders)?);
        let files = if context.spec.is_unpartitioned() {
            Files::One(OneFile::default())
        } else {
            Files::Partitioned(PartitionedFiles::new(context.clone())?)
        };
        Ok(Self { context, names: FileNames::new(attempt), files, written: Vec::new() })
    }
}

#[async_trait]
impl BatchSink for TableWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if batch.num_columns() != self.context.storage_schema.fields().len() {
            return Err(Error::internal(format!(
                "a batch with {} columns for a table with {}",
                batch.num_columns(),
                self.context.storage_schema.fields().len()
            )));
        }
        match &mut self.files {
            Files::One(file) => {
                if file.open(&self.context, &mut self.names).write(batch).await? {
                    file.finish_open(&mut self.written).await?;
                }
                Ok(())
            }
            Files::Partitioned(files) => files.write(batch, &mut self.names, &mut self.written).await,
        }
    }

    fn stored_layout(&self) -> Option<Arc<StoredLayout>> {
        self.context.layout.clone()
    }

    async fn write_stored(&mut self, group: StoredGroup) -> Result<()> {
        match &mut self.files {
            Files::One(file) => {
                if file.open(&self.context, &mut self.names).write_stored(group).await? {
                    file.finish_open(&mut self.written).await?;
                }
                Ok(())
            }
            Files::Partitioned(_) => Err(Error::internal("a partitioned table takes no stored row groups")),
        }
    }

    async fn finish(&mut self) -> Result<Vec<WrittenFile>> {
        match &mut self.files {
            Files::One(file) => {
                file.finish_open(&mut self.written).await?;
                file.finished(&mut self.written).await?;
            }
            Files::Partitioned(files) => files.finish(&mut self.written).await?,
        }
        Ok(std::mem::take(&mut self.written))
    }

    async fn abort(&mut self) {
        match &mut self.files {
            Files::One(file) => {
                // Dropping an unfinished file aborts its upload.
                drop(file.open.take());
                if let Err(error) = file.finished(&mut self.written).await {
                    tracing::debug!(%error, "a data file of an ended attempt was not finished");
                }
            }
            Files::Partitioned(files) => files.abandon(),
        }
        for file in std::mem::take(&mut self.written) {
            let Some(name) = file.location.rsplit('/').next() else { continue };
            let path = self.context.folder.clone().join(name);
            if let Err(error) = self.context.store.delete(&path).await {
                tracing::debug!(%path, %error, "a data file of an ended attempt was left behind");
            }
        }
    }
}

//! Rows of a partitioned table: each partition has a file of its own.
//!
//! The number of files open at a time is bounded; when rows of one more partition come, the file that
//! was written to least recently is finished. Input that is not clustered by partition makes small files
//! then, never an unbounded amount of memory; and so does memory that is short.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use iceberg::arrow::RecordBatchPartitionSplitter;
use iceberg::spec::Struct;
use stevedore_common::Result;

use super::file_writer::FileWriter;
use super::storage_arrays::to_storage;
use super::table_writer::WriteContext;
use super::{FileNames, WrittenFile};

/// Files open at a time.
const OPEN_FILES: usize = 32;

pub(super) struct PartitionedFiles {
    context: Arc<WriteContext>,
    splitter: Arc<RecordBatchPartitionSplitter>,
    open: HashMap<Struct, OpenPartition>,
    clock: u64,
}

struct OpenPartition {
    file: FileWriter,
    last_written: u64,
}

impl PartitionedFiles {
    pub(super) fn new(context: Arc<WriteContext>) -> Result<Self> {
        let splitter = RecordBatchPartitionSplitter::try_new_with_computed_values(
            context.schema.clone(),
            context.spec.clone(),
        )?;
        Ok(Self { context, splitter: Arc::new(splitter), open: HashMap::new(), clock: 0 })
    }

    pub(super) async fn write(
        &mut self,
        batch: RecordBatch,
        names: &mut FileNames,
        written: &mut Vec<WrittenFile>,
    ) -> Result<()> {
        let (splitter, schema) = (self.splitter.clone(), self.context.storage_schema.clone());
        let parts = self
            .context
            .encoders
            .run(move || {
                let columns = batch
                    .columns()
                    .iter()
                    .zip(schema.fields())
                    .map(|(column, field)| {
                        to_storage(column, field.data_type())
                            .map_err(|e| e.context(format!("column '{}'", field.name())))
                    })
                    .collect::<Result<Vec<_>>>()?;
                let stored = RecordBatch::try_new(schema, columns).map_err(|e| {
                    stevedore_common::Error::bad_data(format!("rows do not fit the table: {e}"))
                })?;
                Ok(splitter.split(&stored)?)
            })
            .await?;
        for (key, rows) in parts {
            self.write_part(key.data().clone(), rows, names, written).await?;
        }
        Ok(())
    }

    async fn write_part(
        &mut self,
        partition: Struct,
        rows: RecordBatch,
        names: &mut FileNames,
        written: &mut Vec<WrittenFile>,
    ) -> Result<()> {
        self.clock += 1;
        if !self.open.contains_key(&partition) && self.open.len() >= OPEN_FILES {
            let oldest =
                self.open.iter().min_by_key(|(_, open)| open.last_written).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.and_then(|key| self.open.remove(&key)) {
                written.extend(oldest.file.finish().await?);
            }
        }
        let context = &self.context;
        let open = self.open.entry(partition.clone()).or_insert_with(|| OpenPartition {
            file: FileWriter::new(context.clone(), &names.next_name(), partition.clone()),
            last_written: 0,
        });
        open.last_written = self.clock;
        if open.file.write(rows).await?
            && let Some(full) = self.open.remove(&partition)
        {
            written.extend(full.file.finish().await?);
        }
        self.free_memory(written).await
    }

    /// Where all files of the process hold too much, the one that holds the most is finished. Those that hold little
    /// are left: together they are half of what may be held at most, and files would become ever smaller.
    async fn free_memory(&mut self, written: &mut Vec<WrittenFile>) -> Result<()> {
        let memory = self.context.encoders.memory();
        if !memory.is_exceeded() {
            return Ok(());
        }
        let little = memory.bytes() / (2 * OPEN_FILES as u64);
        let largest = self.open.iter().max_by_key(|(_, open)| open.file.held());
        let largest = largest.filter(|(_, open)| open.file.held() > little).map(|(key, _)| key.clone());
        if let Some(largest) = largest.and_then(|key| self.open.remove(&key)) {
            written.extend(largest.file.finish().await?);
        }
        Ok(())
    }

    pub(super) async fn finish(&mut self, written: &mut Vec<WrittenFile>) -> Result<()> {
        for (_, open) in self.open.drain() {
            written.extend(open.file.finish().await?);
        }
        Ok(())
    }

    pub(super) fn abandon(&mut self) {
        self.open.clear();
    }
}

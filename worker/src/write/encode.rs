//! The columns of one row group, encoded in parallel.
//!
//! A chunk of batches is given to as many blocking threads as the process lets encode at a time; each
//! takes the next column that nobody has, so that one expensive column does not hold up the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use parking_lot::Mutex;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, compute_leaves};
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::Facts;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::memory::WriteMemory;
use super::stats::{NanCounts, count_nans};
use super::storage_arrays::to_storage;

/// What all writers of this process share: the threads that may encode at a time, and memory. Cheap to clone;
/// share one.
#[derive(Debug, Clone)]
pub struct Encoders {
    permits: Arc<Semaphore>,
    threads: usize,
    memory: WriteMemory,
}

impl Encoders {
    /// At most `threads` at a time (at least one); files that hold more than `memory_bytes` together end their
    /// row groups sooner.
    pub fn new(threads: usize, memory_bytes: u64) -> Self {
        let threads = threads.max(1);
        let memory = WriteMemory::new(memory_bytes);
        Self { permits: Arc::new(Semaphore::new(threads)), threads, memory }
    }

    /// The memory of the files that are being written.
    pub(super) fn memory(&self) -> &WriteMemory {
        &self.memory
    }

    /// Runs CPU work off the core threads once a thread is free.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(|e| Error::internal(format!("encoding rows failed: {e}")))?
    }
}

/// One top-level column of a row group, with a writer for each of its leaves.
pub(super) struct ColumnEncoder {
    field: FieldRef,
    leaves: Vec<ArrowColumnWriter>,
    /// Of a column for which [`gathers_statistics`].
    facts: Option<Facts>,
    nans: NanCounts,
    /// Bytes as encoded, about, and those of the memory that it takes.
    bytes: usize,
    held: usize,
}

/// Whether the statistics of a column are gathered here, in a fraction of the time that the Parquet library
/// takes. Those of nested columns, which have a writer for each leaf, are left to the library.
pub(super) fn gathers_statistics(field: &Field) -> bool {
    Facts::covers(field.data_type())
}

impl ColumnEncoder {
    pub(super) fn new(field: FieldRef, leaves: Vec<ArrowColumnWriter>) -> Self {
        let facts = gathers_statistics(&field).then(Facts::default);
        Self { field, leaves, facts, nans: NanCounts::default(), bytes: 0, held: 0 }
    }

    pub(super) fn encode(&mut self, array: &ArrayRef) -> Result<()> {
        let array = to_storage(array, self.field.data_type())
            .map_err(|e| e.context(format!("column '{}'", self.field.name())))?;
        if !self.field.is_nullable() && array.null_count() > 0 {
            return Err(Error::bad_data(format!(
                "column '{}' is NOT NULL and a row has NULL",
                self.field.name()
            )));
        }
        match &mut self.facts {
            Some(facts) => facts.add(&array)?,
            None => count_nans(&self.field, &array, &mut self.nans),
        }
        let levels = compute_leaves(&self.field, &array).map_err(|e| encoding_failed(&self.field, &e))?;
        for (writer, leaf) in self.leaves.iter_mut().zip(&levels) {
            writer.write(leaf).map_err(|e| encoding_failed(&self.field, &e))?;
        }
        Ok(())
    }

    /// Ends the column; its chunks come in the order of the leaves.
    pub(super) fn finish(self) -> Result<(Vec<ArrowColumnChunk>, NanCounts)> {
        let Self { field, leaves, facts, mut nans, .. } = self;
        let close = |leaf: ArrowColumnWriter| leaf.close().map_err(|e| encoding_failed(&field, &e));
        let mut chunks: Vec<ArrowColumnChunk> = leaves.into_iter().map(close).collect::<Result<_>>()?;
        if let (Some(facts), Some(chunk)) = (facts, chunks.first_mut()) {
            nans.add_to(&field, facts.nans());
            let metadata = &mut chunk.close_mut().metadata;
            if let Some(statistics) = facts.statistics(metadata.column_descr()) {
                let with_statistics = metadata.clone().into_builder().set_statistics(statistics).build();
                *metadata = with_statistics.map_err(|e| encoding_failed(&field, &e))?;
            }
        }
        Ok((chunks, nans))
    }
}

fn encoding_failed(field: &FieldRef, error: &parquet::errors::ParquetError) -> Error {
    Error::internal(format!("encoding column '{}' as Parquet: {error}", field.name()))
}

/// A row group that is being encoded.
pub(super) struct RowGroup {
    columns: Arc<Vec<Mutex<Option<ColumnEncoder>>>>,
    pub(super) rows: usize,
}

/// A chunk on its way through the encoders.
pub(super) struct Encoding(JoinSet<Result<()>>);

impl Encoding {
    /// Waits for the chunk.
    pub(super) async fn done(mut self) -> Result<()> {
        while let Some(result) = self.0.join_next().await {
            result.map_err(|e| Error::internal(format!("encoding rows failed: {e}")))??;
        }
        Ok(())
    }
}

impl RowGroup {
    /// `writers` are those of all leaves, in the order of `leaves_per_column`.
    pub(super) fn new(
        schema: &SchemaRef,
        writers: Vec<ArrowColumnWriter>,
        leaves_per_column: &[usize],
    ) -> Self {
        let mut writers = writers.into_iter();
        let columns = schema
            .fields()
            .iter()
            .zip(leaves_per_column)
            .map(|(field, leaves)| {
                let leaves = writers.by_ref().take(*leaves).collect();
                Mutex::new(Some(ColumnEncoder::new(field.clone(), leaves)))
            })
            .collect();
        Self { columns: Arc::new(columns), rows: 0 }
    }

    /// Starts encoding a chunk. The next one may start when this one is done.
    pub(super) fn encode(&mut self, batches: Vec<RecordBatch>, encoders: &Encoders) -> Encoding {
        self.rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let batches = Arc::new(batches);
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..encoders.threads.min(self.columns.len()) {
            let (columns, batches, next) = (self.columns.clone(), batches.clone(), next.clone());
            let encoders = encoders.clone();
            tasks.spawn(async move {
                encoders
                    .run(move || {
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            let Some(column) = columns.get(index) else {
                                return Ok(());
                            };
                            encode_column(column, index, &batches)?;
                        }
                    })
                    .await
            });
        }
        Encoding(tasks)
    }

    /// Bytes of the row group as encoded so far, and those of the memory that it takes.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let of = |column: &Mutex<Option<ColumnEncoder>>| {
            column.lock().as_ref().map_or((0, 0), |c| (c.bytes, c.held))
        };
        self.columns.iter().map(of).fold((0, 0), |sum, column| (sum.0 + column.0, sum.1 + column.1))
    }

    /// Ends all columns; their chunks come in the order of the leaves.
    pub(super) async fn close(self, encoders: &Encoders) -> Result<(Vec<ArrowColumnChunk>, NanCounts)> {
        let mut tasks = Vec::with_capacity(self.columns.len());
        for column in self.columns.iter() {
            let encoder = column.lock().take().ok_or_else(|| Error::internal("a column was closed twice"))?;
            let encoders = encoders.clone();
            tasks.push(async move { encoders.run(move || encoder.finish()).await });
        }
        let mut chunks = Vec::new();
        let mut nans = NanCounts::default();
        for (column_chunks, column_nans) in futures::future::try_join_all(tasks).await? {
            chunks.extend(column_chunks);
            nans.add(&column_nans);
        }
        Ok((chunks, nans))
    }
}

fn encode_column(column: &Mutex<Option<ColumnEncoder>>, index: usize, batches: &[RecordBatch]) -> Result<()> {
    let mut guard = column.lock();
    let Some(encoder) = guard.as_mut() else {
        return Err(Error::internal("a column was closed before its last rows"));
    };
    for batch in batches {
        encoder.encode(batch.column(index))?;
    }
    encoder.bytes = encoder.leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum();
    encoder.held = encoder.leaves.iter().map(ArrowColumnWriter::memory_size).sum();
    Ok(())
}

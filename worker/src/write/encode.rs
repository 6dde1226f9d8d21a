//! The columns of one row group, encoded in parallel.
//!
//! A chunk of batches is given to as many blocking threads as the process lets encode at a time; each
//! takes the next column that nobody has, so that one expensive column does not hold up the others. Nor does it
//! hold up the next chunk: that one waits column by column, and no thread is idle at a chunk's end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use parking_lot::Mutex;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, compute_leaves};
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::Facts;
use tokio::sync::{Semaphore, oneshot};
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
}

/// Whether the statistics of a column are gathered here, in a fraction of the time that the Parquet library
/// takes. Those of nested columns, which have a writer for each leaf, are left to the library.
pub(super) fn gathers_statistics(field: &Field) -> bool {
    Facts::covers(field.data_type())
}

impl ColumnEncoder {
    pub(super) fn new(field: FieldRef, leaves: Vec<ArrowColumnWriter>) -> Self {
        let facts = gathers_statistics(&field).then(Facts::default);
        Self { field, leaves, facts, nans: NanCounts::default() }
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

    /// Bytes as encoded, about, and those of the memory that it takes.
    fn sizes(&self) -> (usize, usize) {
        let bytes = self.leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum();
        (bytes, self.leaves.iter().map(ArrowColumnWriter::memory_size).sum())
    }

    /// Ends the column; its chunks come in the order of the leaves.
    pub(super) fn finish(self) -> Result<(Vec<ArrowColumnChunk>, NanCounts)> {
        let Self { field, leaves, facts, mut nans } = self;
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
    columns: Arc<Vec<Mutex<Column>>>,
    pub(super) rows: usize,
}

/// A column of it, with the chunks that were not encoded yet.
struct Column {
    /// `None` while a thread encodes it, and for good once that failed.
    encoder: Option<Box<ColumnEncoder>>,
    waiting: VecDeque<Arc<Chunk>>,
    bytes: usize,
    held: usize,
}

impl Column {
    /// The next chunk to encode, unless there is none or another thread encodes.
    fn begin(&mut self) -> Option<(Box<ColumnEncoder>, Arc<Chunk>)> {
        let encoder = self.encoder.take()?;
        match self.waiting.pop_front() {
            Some(chunk) => Some((encoder, chunk)),
            None => {
                self.encoder = Some(encoder);
                None
            }
        }
    }

    /// The same after a chunk.
    fn go_on(&mut self, encoder: Box<ColumnEncoder>) -> Option<(Box<ColumnEncoder>, Arc<Chunk>)> {
        (self.bytes, self.held) = encoder.sizes();
        self.encoder = Some(encoder);
        self.begin()
    }
}

/// Rows for all columns.
struct Chunk {
    batches: Vec<RecordBatch>,
    /// Columns that are not done with it.
    left: AtomicUsize,
    /// Taken by the last column that is done, or by the first that fails.
    answer: Mutex<Option<oneshot::Sender<Result<()>>>>,
}

impl Chunk {
    fn column_done(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.answer(Ok(()));
        }
    }

    fn answer(&self, result: Result<()>) {
        if let Some(answer) = self.answer.lock().take() {
            // Nobody waits for a file that was given up.
            let _ = answer.send(result);
        }
    }
}

/// A chunk on its way through the encoders. Dropping it gives up what no thread has begun.
pub(super) struct Encoding {
    _tasks: JoinSet<()>,
    done: oneshot::Receiver<Result<()>>,
}

impl Encoding {
    /// Waits for the chunk.
    pub(super) async fn done(self) -> Result<()> {
        self.done.await.map_err(|_| Error::internal("encoding rows ended early"))?
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
                let encoder = Some(Box::new(ColumnEncoder::new(field.clone(), leaves)));
                Mutex::new(Column { encoder, waiting: VecDeque::new(), bytes: 0, held: 0 })
            })
            .collect();
        Self { columns: Arc::new(columns), rows: 0 }
    }

    /// Starts encoding a chunk, which need not wait for the one before: each column takes its chunks in turn.
    pub(super) fn encode(&mut self, batches: Vec<RecordBatch>, encoders: &Encoders) -> Encoding {
        self.rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let (answer, done) = oneshot::channel();
        let left = AtomicUsize::new(self.columns.len());
        let chunk = Arc::new(Chunk { batches, left, answer: Mutex::new(Some(answer)) });
        for column in self.columns.iter() {
            column.lock().waiting.push_back(chunk.clone());
        }
        drop(chunk);
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..encoders.threads.min(self.columns.len()) {
            let (columns, next, encoders) = (self.columns.clone(), next.clone(), encoders.clone());
            tasks.spawn(async move {
                let work = move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(column) = columns.get(index) else {
                            return Ok(());
                        };
                        encode_waiting(column, index);
                    }
                };
                // A chunk answers for itself.
                let _ = encoders.run(work).await;
            });
        }
        Encoding { _tasks: tasks, done }
    }

    /// Bytes of the row group as encoded so far, and those of the memory that it takes.
    pub(super) fn bytes(&self) -> (usize, usize) {
        self.columns.iter().fold((0, 0), |(bytes, held), column| {
            let column = column.lock();
            (bytes + column.bytes, held + column.held)
        })
    }

    /// Ends all columns, whose chunks are all encoded; theirs come in the order of the leaves.
    pub(super) async fn close(self, encoders: &Encoders) -> Result<(Vec<ArrowColumnChunk>, NanCounts)> {
        let mut tasks = Vec::with_capacity(self.columns.len());
        for column in self.columns.iter() {
            let encoder = column.lock().encoder.take();
            let encoder =
                encoder.ok_or_else(|| Error::internal("a column was closed before its last rows"))?;
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

/// Encodes what waits for a column, unless another thread does: that one takes what came meanwhile too.
fn encode_waiting(column: &Mutex<Column>, index: usize) {
    let Some((mut encoder, mut chunk)) = column.lock().begin() else {
        return;
    };
    loop {
        // A panic must not leave those waiting who wait for the chunk.
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            chunk.batches.iter().try_for_each(|batch| encoder.encode(batch.column(index)))
        }))
        .unwrap_or_else(|_| Err(Error::internal("encoding a column panicked")));
        if let Err(error) = encoded {
            // The chunks behind it will not be encoded either; whoever waits for one learns of this one first.
            column.lock().waiting.clear();
            chunk.answer(Err(error));
            return;
        }
        let next = column.lock().go_on(encoder);
        // Only now: the row group may end when its last chunk is done, and then the column must be there.
        chunk.column_done();
        match next {
            Some(next) => (encoder, chunk) = next,
            None => return,
        }
    }
}

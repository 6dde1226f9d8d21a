//! Reading the files of a slice or a query: opening, fetching, decompressing, decoding, in order.
//!
//! Comes in: file tasks, the store they are in, what to decode. Goes out: [`FileEvent`]s, in the order of
//! the tasks, each file between its start and its end or failure; a file that fails does not disturb the
//! others. Many files are opened ahead of the one that is consumed, since latency is what small files
//! cost; a large one is fetched ahead in pieces and decoded on all threads. Everything is bounded: files
//! ahead, blocks in flight, memory. Dropping the stream stops all of it.
//!
//! Must never: yield rows of two versions of a file, hold more than a block, a row group or a stripe of a
//! file per thread, decode on tokio's threads. Fails per file; what kinds of failure are the file's own fault is
//! told by [`is_fault_of_file`].

mod arrow_ipc;
mod avro;
mod columnar;
mod filtered;
mod open;
mod orc;
mod pieces;
mod resources;
mod small;
#[cfg(test)]
mod tests;
mod text;

use std::collections::VecDeque;
use std::iter::{Enumerate, Peekable};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{BoxStream, StreamExt};
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::storage::Store;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_decode::parquet::{RowFilter, StoredGroup, StoredTarget};
use stevedore_decode::spec::{DecodeSpec, DecodedBatch};
use stevedore_proto::v1::FileTask;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

pub use columnar::{parquet_columns, parquet_footer};
pub use open::version_of;
pub use resources::{CpuPool, MemoryBudget, ReadLimits, ReadSettings, WorkerResources};

pub(crate) use resources::Reservation;
use resources::{Turn, Waiting, WaitingRoom};

/// Batches of a file that may wait for the consumer, and the memory that they may take.
const BATCHES_READY: usize = 16;
const READY_BYTES: u64 = 16 << 20;

/// The columns of a file whose format says them (all but text): name, type, whether they may be NULL.
///
/// # Errors
/// The file cannot be read, or is not of the format, or has a column that SQL has no type for.
pub async fn file_columns(
    task: &FileTask,
    store: &Store,
    format: &FileFormat,
    resources: &WorkerResources,
) -> Result<Vec<(String, SqlType, bool)>> {
    match format.kind {
        FormatKind::Parquet => parquet_columns(task, store, format, resources).await,
        FormatKind::Orc => orc::columns(task, store, resources).await,
        FormatKind::Avro => avro::columns(task, store, format, resources).await,
        FormatKind::Arrow => arrow_ipc::file_columns(task, store, resources).await,
        FormatKind::ArrowStream => arrow_ipc::stream_columns(task, store, resources).await,
        FormatKind::Csv | FormatKind::Tsv | FormatKind::Ndjson | FormatKind::Json => {
            Err(Error::internal(format!("{} files do not say their columns", format.kind)))
        }
    }
}

/// Something about one file.
#[derive(Debug)]
pub struct FileRead {
    /// The place of the file's task among the tasks given.
    pub index: usize,
    /// What happened.
    pub event: FileEvent,
}

/// What happens to a file, in this order: it is started, gives batches, and is finished or has failed.
#[derive(Debug)]
pub enum FileEvent {
    /// Its batches follow.
    Started,
    /// Its next rows.
    Batch(DecodedBatch),
    /// Its next rows, all of them good, as their table stores them. Only where a target was given.
    Stored(Box<StoredGroup>, Held),
    /// It was read to its end.
    Finished(FileTotals),
    /// It cannot be read on. Batches that it gave before stand as they are.
    Failed(Error),
}

/// Memory that is in use until this is dropped.
#[derive(Debug)]
pub struct Held {
    _memory: Arc<Reservation>,
}

/// What a file (or part) held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileTotals {
    /// Physical lines (text formats), else rows.
    pub lines: u64,
    /// Rows, rejected ones too.
    pub rows: u64,
    /// Bytes as stored.
    pub bytes: u64,
}

/// Whether a failure lies in the file itself (its bytes, its absence, its change), so that ON_ERROR
/// decides about it; anything else fails the attempt, and another one may succeed.
pub fn is_fault_of_file(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BadData
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::ResourceExhausted
            | ErrorKind::Unsupported
    ) && !error.is_retryable()
}

/// All that reading one file needs.
#[derive(Debug, Clone)]
struct FileJob {
    task: FileTask,
    store: Store,
    spec: Arc<DecodeSpec>,
    stored: Option<StoredTarget>,
    filter: Option<Arc<dyn RowFilter>>,
    resources: WorkerResources,
    turn: Arc<Turn>,
    out: mpsc::Sender<Item>,
    room: WaitingRoom,
}

/// What a file's task sends. The memory of a batch is given back when the consumer takes it.
#[derive(Debug)]
enum Item {
    Batch(DecodedBatch, Arc<Reservation>, Waiting),
    Stored(Box<StoredGroup>, Arc<Reservation>),
    Finished(FileTotals),
    Failed(Error),
}

impl FileJob {
    async fn run(self) {
        let last = match self.read().await {
            Ok(totals) => Item::Finished(totals),
            Err(e) => Item::Failed(e),
        };
        // A consumer that has gone wants no end.
        let _ = self.out.send(last).await;
    }

    async fn read(&self) -> Result<FileTotals> {
        if self.task.size == 0 {
            return Ok(FileTotals::default());
        }
        match self.spec.format.kind {
            FormatKind::Csv | FormatKind::Tsv | FormatKind::Ndjson | FormatKind::Json => {
                text::read(self).await
            }
            FormatKind::Parquet => columnar::read(self).await,
            FormatKind::Orc => orc::read(self).await,
            FormatKind::Avro => avro::read(self).await,
            FormatKind::Arrow => arrow_ipc::read_file(self).await,
            FormatKind::ArrowStream => arrow_ipc::read_stream(self).await,
        }
    }

    async fn emit(&self, batch: DecodedBatch, held: &Arc<Reservation>) -> Result<()> {
        let waiting = self.room.take(&batch).await;
        self.send(Item::Batch(batch, Arc::clone(held), waiting)).await
    }

    async fn send(&self, item: Item) -> Result<()> {
        self.out.send(item).await.map_err(|_| Error::cancelled("nobody reads this file any more"))
    }
}

/// Files that are being read ahead or consumed: one, or a group of small ones that follow each other.
struct InFlight {
    /// The places of those that have not ended.
    files: Range<usize>,
    /// What the files give, one after the other.
    items: mpsc::Receiver<Item>,
    turn: Arc<Turn>,
    /// Whether the consumer was told of the first of them.
    started: bool,
    _task: AbortOnDropHandle<()>,
}

struct Reader {
    waiting: Peekable<Enumerate<std::vec::IntoIter<FileTask>>>,
    in_flight: VecDeque<InFlight>,
    /// Most files of the next group: few at first, since the consumer may want few rows only.
    group_files: usize,
    store: Store,
    spec: Arc<DecodeSpec>,
    resources: WorkerResources,
    consumer: Consumer,
}

/// Lets the consumer of [`read_files_for`] give up the file that it is at: what was read of it ahead is
/// thrown away, and the next file follows. Batches that are on their way may still come, or the file's end.
#[derive(Debug, Clone, Default)]
pub struct GivenUp(Arc<AtomicUsize>);

impl GivenUp {
    /// Gives up the file at this place. Those before it have come already.
    pub fn give_up(&self, index: usize) {
        self.0.fetch_max(index + 1, Ordering::SeqCst);
    }

    fn has(&self, index: usize) -> bool {
        index < self.0.load(Ordering::SeqCst)
    }
}

impl Reader {
    /// Starts files until as many are ahead as may be.
    fn fill(&mut self) {
        while self.in_flight.len() < self.most_in_flight() {
            let Some((index, task)) = self.waiting.next() else { return };
            let mut tasks = vec![task];
            self.gather_small(&mut tasks);
            let files = index..index + tasks.len();
            let (out, items) = mpsc::channel(if tasks.len() > 1 { 3 * tasks.len() } else { BATCHES_READY });
            let (turn, room) = (Arc::new(Turn::default()), WaitingRoom::new(READY_BYTES));
            let job = |task| FileJob {
                task,
                store: self.store.clone(),
                spec: Arc::clone(&self.spec),
                stored: self.consumer.stored.clone(),
                filter: self.consumer.filter.clone(),
                resources: self.resources.clone(),
                turn: Arc::clone(&turn),
                out: out.clone(),
                room: room.clone(),
            };
            let jobs = tasks.into_iter().map(job).collect();
            let task = AbortOnDropHandle::new(tokio::spawn(read_jobs(jobs)));
            self.in_flight.push_back(InFlight { files, items, turn, started: false, _task: task });
        }
    }

    /// Groups keep a thread busy for a while each, so that fewer are needed ahead.
    fn most_in_flight(&self) -> usize {
        let ahead = self.resources.settings.files_ahead.max(1);
        match self.in_flight.back() {
            Some(last) if last.files.len() > 1 => ahead.min(2 * self.resources.cpu.threads() + 2),
            _ => ahead,
        }
    }

    /// Adds the small files that follow a small one.
    fn gather_small(&mut self, tasks: &mut Vec<FileTask>) {
        let Some(first) = tasks.first().filter(|task| small::is_small(task, &self.spec)) else { return };
        let mut bytes = first.size;
        while tasks.len() < self.group_files
            && bytes < small::GROUP_BYTES
            && let Some((_, task)) = self.waiting.next_if(|(_, task)| small::is_small(task, &self.spec))
        {
            bytes += task.size;
            tasks.push(task);
        }
        self.group_files = (2 * self.group_files).min(small::GROUP_FILES);
    }

    async fn next(&mut self) -> Option<FileRead> {
        loop {
            self.fill();
            let front = self.in_flight.front_mut()?;
            let index = front.files.start;
            let is_given_up = self.consumer.given_up.has(index);
            if is_given_up && front.files.len() == 1 {
                self.in_flight.pop_front();
                continue;
            }
            if !front.started {
                front.started = true;
                front.turn.come();
                if !is_given_up {
                    return Some(FileRead { index, event: FileEvent::Started });
                }
            }
            let event = match front.items.recv().await {
                Some(Item::Batch(batch, _held, _waiting)) => FileEvent::Batch(batch),
                Some(Item::Stored(group, held)) => FileEvent::Stored(group, Held { _memory: held }),
                Some(Item::Finished(totals)) => FileEvent::Finished(totals),
                Some(Item::Failed(e)) => FileEvent::Failed(e),
                None => FileEvent::Failed(Error::internal("the task that reads a file ended early")),
            };
            if matches!(event, FileEvent::Finished(_) | FileEvent::Failed(_)) {
                (front.files.start, front.started) = (index + 1, false);
                if front.files.is_empty() {
                    self.in_flight.pop_front();
                }
            }
            if !is_given_up {
                return Some(FileRead { index, event });
            }
        }
    }
}

/// Only small files come in groups.
async fn read_jobs(jobs: Vec<FileJob>) {
    if jobs.first().is_some_and(|job| small::is_small(&job.task, &job.spec)) {
        small::read_group(jobs).await;
        return;
    }
    for job in jobs {
        job.run().await;
    }
}

/// Reads files, in the order of their tasks, several ahead. Must be polled within a tokio runtime;
/// dropping the stream stops all reads.
pub fn read_files(
    tasks: Vec<FileTask>,
    store: Store,
    spec: Arc<DecodeSpec>,
    resources: WorkerResources,
) -> BoxStream<'static, FileRead> {
    read_files_for(tasks, store, spec, resources, Consumer::default())
}

/// What the consumer of files has to say of them.
#[derive(Debug, Clone, Default)]
pub struct Consumer {
    /// How its table stores rows: some may come as [`FileEvent::Stored`] then.
    pub stored: Option<StoredTarget>,
    /// Which rows it wants; of Parquet files others are left out where that saves work.
    pub filter: Option<Arc<dyn RowFilter>>,
    /// Files that it wants no more of.
    pub given_up: GivenUp,
}

/// As [`read_files`], for a consumer with wishes of its own.
pub fn read_files_for(
    tasks: Vec<FileTask>,
    store: Store,
    spec: Arc<DecodeSpec>,
    resources: WorkerResources,
    consumer: Consumer,
) -> BoxStream<'static, FileRead> {
    let mut spec = spec;
    // Whoever asks, the limit is the worker's.
    Arc::make_mut(&mut spec).max_block_bytes = resources.settings.limits.max_block_bytes;
    let waiting = tasks.into_iter().enumerate().peekable();
    let in_flight = VecDeque::new();
    let reader = Reader { waiting, in_flight, group_files: 1, store, spec, resources, consumer };
    futures::stream::unfold(reader, |mut reader| async move {
        let read = reader.next().await?;
        Some((read, reader))
    })
    .boxed()
}

/// Reads one file (or part). The stream ends after its first error.
pub fn read_file(
    task: FileTask,
    store: Store,
    spec: Arc<DecodeSpec>,
    resources: WorkerResources,
) -> BoxStream<'static, Result<DecodedBatch>> {
    read_files(vec![task], store, spec, resources)
        .filter_map(|read| {
            std::future::ready(match read.event {
                FileEvent::Batch(batch) => Some(Ok(batch)),
                FileEvent::Failed(e) => Some(Err(e)),
                FileEvent::Started | FileEvent::Stored(..) | FileEvent::Finished(_) => None,
            })
        })
        .boxed()
}

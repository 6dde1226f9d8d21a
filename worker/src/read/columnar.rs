//! Parquet: the footer, then row groups fetched ahead and decoded at the same time, given in order.
//!
//! Column chunks are fetched as ranges of one pinned version, near ones together. How many row groups are
//! under way is bounded by the threads and by the budget of memory; one that alone would take half of the
//! budget is read window by window while it is decoded. A store without etags is read whole.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use parquet::file::metadata::ParquetMetaData;
use stevedore_common::file_format::FileFormat;
use stevedore_common::storage::{PinnedFile, Store};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{
    BlockingRanges, Footer, GroupBytes, ParquetFile, RowGroupTask, StoredColumn, StoredGroup, StoredPlan,
    StoredTarget, TAIL_BYTES, file_schema, read_footer,
};
use stevedore_proto::v1::FileTask;
use tokio::runtime::Handle;

use super::filtered::Filtering;
use super::open::{open, part_of, version_of};
use super::pieces::{Content, Piece, batches_of, run_pieces};
use super::resources::CpuPool;
use super::{FileJob, FileTotals, WorkerResources};

/// The largest file that is held in memory because its store cannot pin ranges.
const MAX_WHOLE: u64 = 1 << 30;
/// Row groups of a file that may turn out to go row by row before no other is tried column by column.
const ROW_BY_ROW: usize = 2;

/// Where ranges come from.
#[derive(Debug, Clone)]
pub(super) enum Ranges {
    Pinned(PinnedFile),
    Memory(Bytes),
}

impl Ranges {
    /// Ranges of a file; all of it is read now where its store cannot pin them.
    pub(super) async fn of(file: PinnedFile) -> Result<Self> {
        if file.can_split() {
            Ok(Self::Pinned(file))
        } else {
            Ok(Self::Memory(file.read_all(MAX_WHOLE).await?))
        }
    }

    pub(super) async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self {
            Self::Pinned(file) => file.read_ranges(ranges).await,
            Self::Memory(whole) => ranges
                .iter()
                .map(|range| {
                    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(whole.len());
                    if range.end > whole.len() as u64 {
                        return Err(Error::bad_data(format!("the file ends before byte {}", range.end)));
                    }
                    Ok(whole.slice(at(range.start)..at(range.end)))
                })
                .collect(),
        }
    }

    /// The metadata at the end of a file of `size` bytes.
    async fn footer(&self, size: u64, cpu: &CpuPool) -> Result<Arc<ParquetMetaData>> {
        let mut tail = TAIL_BYTES.min(size);
        // At most two steps: the second fetches what the first asked for.
        for _ in 0..3 {
            let end = size - tail..size;
            let bytes = self.read(std::slice::from_ref(&end)).await?.pop().unwrap_or_default();
            match cpu.run(move || read_footer(size, &bytes)).await? {
                Footer::Ready(metadata) => return Ok(metadata),
                Footer::Need(bytes) => tail = bytes.min(size),
            }
        }
        Err(Error::bad_data("not a Parquet file: the footer's size cannot be told"))
    }
}

/// The columns of a Parquet file: name, type, whether they may be NULL.
///
/// # Errors
/// The file cannot be read, or is no Parquet file, or has a column that SQL has no type for.
pub async fn parquet_columns(
    task: &FileTask,
    store: &Store,
    format: &FileFormat,
    resources: &WorkerResources,
) -> Result<Vec<(String, SqlType, bool)>> {
    let file = store.open(&task.path, &version_of(task)).await?;
    let metadata = Ranges::of(file).await?.footer(task.size, &resources.cpu).await?;
    let format = format.clone();
    resources.cpu.run(move || file_schema(&metadata, &format)).await
}

/// The metadata of a Parquet file, and the bytes that it takes in the file.
///
/// # Errors
/// The file cannot be read, or is no Parquet file.
pub async fn parquet_footer(
    task: &FileTask,
    store: &Store,
    resources: &WorkerResources,
) -> Result<(Arc<ParquetMetaData>, u64)> {
    let file = store.open(&task.path, &version_of(task)).await?;
    let ranges = Ranges::of(file).await?;
    let metadata = ranges.footer(task.size, &resources.cpu).await?;
    // The file ends with the footer's length and the magic.
    let end = task.size.saturating_sub(8)..task.size.saturating_sub(4);
    let length = ranges.read(std::slice::from_ref(&end)).await?.pop().unwrap_or_default();
    let length = <[u8; 4]>::try_from(length.as_ref())
        .map_err(|_| Error::bad_data("not a Parquet file: the footer's size cannot be told"))?;
    Ok((metadata, u64::from(u32::from_le_bytes(length))))
}

pub(super) async fn read(job: &FileJob) -> Result<FileTotals> {
    let cpu = job.resources.cpu.clone();
    let _base = job.resources.memory.reserve_base(2 * TAIL_BYTES.min(job.task.size), &job.turn).await;
    let ranges = Ranges::of(open(job).await?).await?;
    let metadata = ranges.footer(job.task.size, &cpu).await?;
    let spec = Arc::clone(&job.spec);
    let file = cpu.run(move || ParquetFile::open(metadata, &spec).map(Arc::new)).await?;
    let plan = file.plan(part_of(&job.task).map(|(start, end)| start..end));
    let filter = job.filter.clone().filter(|_| file.can_filter());
    let all_rows = filter.is_some().then(|| plan.iter().map(|task| task.rows).sum::<u64>());
    let plan = match filter.clone() {
        Some(filter) => {
            let file = Arc::clone(&file);
            cpu.run(move || Ok(file.without_hopeless(plan, filter.as_ref()))).await?
        }
        None => plan,
    };
    let filtering = filter.map(|filter| Arc::new(Filtering::new(filter, job.task.size)));
    let row_by_row = Arc::new(AtomicUsize::new(0));
    // A row group that would take more is read as it is decoded.
    let most = job.resources.memory.bytes() / 2;
    let (spec, target) = (Arc::clone(&job.spec), job.stored.clone().map(Arc::new));
    let pieces = plan.into_iter().map(move |task| {
        let (file, ranges, cpu) = (Arc::clone(&file), ranges.clone(), cpu.clone());
        let all = memory_of(&file, &task);
        if let Some(filtering) = filtering.clone().filter(|filtering| all <= most && filtering.helps()) {
            return Ok(Piece {
                memory: all,
                batches: batches_of(task.rows, &spec),
                content: Box::pin(async move {
                    Ok(Content::Batches(filtering.read(&file, &task, &ranges, &cpu).await?))
                }),
            });
        }
        let row_by_row = Arc::clone(&row_by_row);
        let target = target.clone().filter(|_| row_by_row.load(Ordering::Relaxed) < ROW_BY_ROW);
        let stored = target.and_then(|target| {
            let plan = file.stored_plan(task.row_group, &target)?;
            Some((plan, target))
        });
        let usual = match &stored {
            // Nothing is decoded for longer than a page or a batch.
            Some((plan, _)) => task.input_bytes().saturating_add(plan.encoded_bytes()),
            None => all,
        };
        let held = usual <= most;
        // What is encoded again is held until the whole row group is.
        let stored = stored.filter(|(plan, _)| held || plan.encoded_bytes() <= most);
        // What is copied is held once more on its way to the table's store.
        let copies = if stored.is_some() { 2 } else { 1 };
        Ok(Piece {
            memory: if held { usual.saturating_mul(copies) } else { most },
            batches: if held { batches_of(task.rows, &spec) } else { 1 },
            content: Box::pin(async move {
                let bytes = if held {
                    task.fetched(ranges.read(&task.byte_ranges).await?)?
                } else {
                    file.in_store(&task, Arc::new(InStore { ranges, runtime: Handle::current() }))
                };
                let (file, task) = (file, Arc::new(task));
                if let Some((plan, target)) = stored {
                    if let Some(group) = stored_group(&file, &task, bytes.clone(), plan, target, &cpu).await?
                    {
                        return Ok(Content::Stored(Box::new(group)));
                    }
                    row_by_row.fetch_add(1, Ordering::Relaxed);
                }
                cpu.run(move || Ok(Content::Batches(Box::new(file.decode_group(&task, bytes)?)))).await
            }),
        })
    });
    let mut totals = run_pieces(job, stream::iter(pieces).boxed()).await?;
    if let Some(rows) = all_rows {
        // Those that nobody wanted are rows of the file too.
        (totals.rows, totals.lines) = (rows, rows);
    }
    Ok(totals)
}

/// A file for who has to wait for its ranges: a thread of the CPU pool, or one that writes.
struct InStore {
    ranges: Ranges,
    runtime: Handle,
}

impl BlockingRanges for InStore {
    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let mut bytes = self.runtime.block_on(self.ranges.read(std::slice::from_ref(&range)))?;
        bytes.pop().ok_or_else(|| Error::internal("a range was not read"))
    }
}

/// Makes the columns of a row group for the table, several at a time; `None` where it has to go row by row.
async fn stored_group(
    file: &Arc<ParquetFile>,
    task: &Arc<RowGroupTask>,
    bytes: GroupBytes,
    plan: StoredPlan,
    target: Arc<StoredTarget>,
    cpu: &CpuPool,
) -> Result<Option<StoredGroup>> {
    let (plan, next) = (Arc::new(plan), Arc::new(AtomicUsize::new(0)));
    let columns: Arc<Mutex<Vec<(usize, StoredColumn)>>> = Arc::default();
    let jobs = (0..cpu.threads().min(plan.len())).map(|_| {
        let (file, task, bytes, target) =
            (Arc::clone(file), Arc::clone(task), bytes.clone(), Arc::clone(&target));
        let (plan, next, columns) = (Arc::clone(&plan), Arc::clone(&next), Arc::clone(&columns));
        // Each takes the next column that nobody has, so that a long one does not hold up the others.
        cpu.run(move || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= plan.len() {
                    return Ok(());
                }
                match file.stored_column(&task, &bytes, &plan, &target, index) {
                    Some(column) => columns.lock().push((index, column)),
                    // The others need not begin.
                    None => next.store(plan.len(), Ordering::Relaxed),
                }
            }
        })
    });
    futures::future::try_join_all(jobs).await?;
    let mut columns = std::mem::take(&mut *columns.lock());
    if columns.len() != plan.len() {
        return Ok(None);
    }
    columns.sort_by_key(|(index, _)| *index);
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Ok(Some(StoredGroup { rows: task.rows, columns, input_bytes: task.input_bytes() }))
}

/// What a row group takes while it is under way: its bytes, and they decoded.
fn memory_of(file: &ParquetFile, task: &RowGroupTask) -> u64 {
    let Some(group) = file.metadata().row_groups().get(task.row_group) else { return task.input_bytes() };
    let stored = group.compressed_size().unsigned_abs().max(1);
    let grows = group.total_byte_size().unsigned_abs().div_ceil(stored).clamp(1, 20);
    task.input_bytes().saturating_mul(grows + 1)
}

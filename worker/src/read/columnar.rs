//! Parquet: the footer, then row groups fetched ahead and decoded at the same time, given in order.
//!
//! Column chunks are fetched as ranges of one pinned version, near ones together. How many row groups are
//! under way is bounded by the threads and by the budget of memory. A store without etags is read whole.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use parquet::file::metadata::ParquetMetaData;
use stevedore_common::file_format::FileFormat;
use stevedore_common::storage::{PinnedFile, Store};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{Footer, ParquetFile, RowGroupTask, TAIL_BYTES, file_schema, read_footer};
use stevedore_proto::v1::FileTask;

use super::open::{open, part_of, version_of};
use super::pieces::{Content, Piece, batches_of, run_pieces};
use super::resources::CpuPool;
use super::{FileJob, FileTotals, WorkerResources};

/// The largest file that is held in memory because its store cannot pin ranges.
const MAX_WHOLE: u64 = 1 << 30;
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
    let (spec, layout) = (Arc::clone(&job.spec), job.layout.clone());
    let pieces = plan.into_iter().map(move |task| {
        let (file, ranges, cpu) = (Arc::clone(&file), ranges.clone(), cpu.clone());
        let layout = layout.clone().filter(|layout| file.may_store(task.row_group, layout));
        Ok(Piece {
            memory: memory_of(&file, &task),
            batches: batches_of(task.rows, &spec),
            content: Box::pin(async move {
                let fetched = ranges.read(&task.byte_ranges).await?;
                cpu.run(move || {
                    let stored = layout.and_then(|layout| file.verify_row_group(&task, &fetched, &layout));
                    Ok(match stored {
                        Some(group) => Content::Stored(Box::new(group)),
                        None => Content::Batches(Box::new(file.decode_row_group(&task, fetched)?)),
                    })
                })
                .await
            }),
        })
    });
    run_pieces(job, stream::iter(pieces).boxed()).await
}

/// What a row group takes while it is under way: its bytes, and they decoded.
fn memory_of(file: &ParquetFile, task: &RowGroupTask) -> u64 {
    let Some(group) = file.metadata().row_groups().get(task.row_group) else { return task.input_bytes() };
    let stored = group.compressed_size().unsigned_abs().max(1);
    let grows = group.total_byte_size().unsigned_abs().div_ceil(stored).clamp(1, 20);
    task.input_bytes().saturating_mul(grows + 1)
}

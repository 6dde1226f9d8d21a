//! ORC: the tail, then stripes. A small stripe is fetched whole; of a large one the footer, which tells
//! where the streams of the wanted columns are, then these.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use stevedore_common::storage::Store;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::orc::{
    OrcFile, OrcMetadata, StripeDecoder, StripeTask, TAIL_BYTES, Tail, file_schema, read_tail,
};
use stevedore_proto::v1::FileTask;

use super::columnar::Ranges;
use super::open::{open, part_of, version_of};
use super::pieces::{Content, Piece, batches_of, run_pieces};
use super::resources::CpuPool;
use super::{FileJob, FileTotals, WorkerResources};

/// The metadata at the end of a file of `size` bytes.
async fn metadata(ranges: &Ranges, size: u64, cpu: &CpuPool) -> Result<OrcMetadata> {
    let mut length = TAIL_BYTES.min(size);
    // At most two steps: the second fetches what the first asked for.
    for _ in 0..3 {
        let end = size - length..size;
        let bytes = ranges.read(std::slice::from_ref(&end)).await?.pop().unwrap_or_default();
        match cpu.run(move || read_tail(size, &bytes)).await? {
            Tail::Ready(metadata) => return Ok(metadata),
            Tail::Need(bytes) => length = bytes.min(size),
        }
    }
    Err(Error::bad_data("not an ORC file: the size of its tail cannot be told"))
}

/// The columns of an ORC file: name, type, whether they may be NULL.
pub(super) async fn columns(
    task: &FileTask,
    store: &Store,
    resources: &WorkerResources,
) -> Result<Vec<(String, SqlType, bool)>> {
    let file = store.open(&task.path, &version_of(task)).await?;
    let metadata = metadata(&Ranges::of(file).await?, task.size, &resources.cpu).await?;
    resources.cpu.run(move || file_schema(&metadata)).await
}

pub(super) async fn read(job: &FileJob) -> Result<FileTotals> {
    let cpu = job.resources.cpu.clone();
    let _base = job.resources.memory.reserve_base(2 * TAIL_BYTES.min(job.task.size), &job.turn).await;
    let ranges = Ranges::of(open(job).await?).await?;
    let metadata = metadata(&ranges, job.task.size, &cpu).await?;
    let spec = Arc::clone(&job.spec);
    let file = cpu.run(move || OrcFile::open(metadata, &spec).map(Arc::new)).await?;
    let plan = file.plan(part_of(&job.task).map(|(start, end)| start..end));
    let spec = Arc::clone(&job.spec);
    let pieces = plan.into_iter().map(move |task| {
        let (file, ranges, cpu) = (Arc::clone(&file), ranges.clone(), cpu.clone());
        let stored = if task.first_range.is_some() { task.input_bytes } else { 0 };
        Ok(Piece {
            memory: stored.saturating_mul(file.growth()),
            batches: batches_of(task.rows, &spec),
            content: Box::pin(async move {
                Ok(Content::Batches(Box::new(stripe(file, ranges, task, &cpu).await?)))
            }),
        })
    });
    run_pieces(job, stream::iter(pieces).boxed()).await
}

async fn stripe(
    file: Arc<OrcFile>,
    ranges: Ranges,
    task: StripeTask,
    cpu: &CpuPool,
) -> Result<StripeDecoder> {
    let mut fetched = Vec::new();
    if let Some(first) = task.first_range.clone() {
        let bytes = ranges.read(std::slice::from_ref(&first)).await?.pop().unwrap_or_default();
        let (noted, part, footer) = (Arc::clone(&file), task.clone(), bytes.clone());
        let streams = cpu.run(move || noted.streams(&part, &footer)).await?;
        fetched.push((first, bytes));
        if !streams.is_empty() {
            let bytes = ranges.read(&streams).await?;
            fetched.extend(streams.into_iter().zip(bytes));
        }
    }
    cpu.run(move || file.decode_stripe(&task, fetched)).await
}

//! Arrow IPC. A file: its footer, its dictionaries, then record batches fetched and decoded at the same
//! time, given in order. A stream: read from its beginning to its end, cut into record batches.
//!
//! A record batch is one piece, and is refused where it takes more than half of the worker's memory, a
//! quarter in a stream.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use stevedore_common::storage::{ReadAhead, Store};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::arrow_ipc::{
    ArrowFile, BatchHead, BatchMessage, BatchPlace, Dictionaries, FileLayout, StreamCutter, TAIL_BYTES, Tail,
    read_tail, schema_columns,
};
use stevedore_proto::v1::FileTask;

use super::columnar::Ranges;
use super::open::{open, part_of, version_of};
use super::pieces::{Content, Piece, batches_of, run_pieces};
use super::resources::CpuPool;
use super::{FileJob, FileTotals, WorkerResources};

type Columns = Vec<(String, SqlType, bool)>;
type Chunks = BoxStream<'static, Result<Bytes>>;

/// Files up to this size are read in one piece.
const SMALL_FILE: u64 = 1 << 20;
/// Messages whose metadata is fetched at once.
const HEADS_AT_ONCE: usize = 64;
/// Bytes that are fetched at once to find the schema of a stream.
const SCHEMA_BYTES: u64 = 64 << 10;

/// The footer at the end of a file of `size` bytes.
async fn layout(ranges: &Ranges, size: u64, cpu: &CpuPool) -> Result<FileLayout> {
    let mut length = TAIL_BYTES.min(size);
    // At most two steps: the second fetches what the first asked for.
    for _ in 0..3 {
        let bytes = fetch(ranges, size - length..size).await?;
        match cpu.run(move || read_tail(size, &bytes)).await? {
            Tail::Ready(layout) => return Ok(layout),
            Tail::Need(bytes) => length = bytes.min(size),
        }
    }
    Err(Error::bad_data("not an Arrow file: the size of its footer cannot be told"))
}

async fn fetch(ranges: &Ranges, range: Range<u64>) -> Result<Bytes> {
    Ok(ranges.read(std::slice::from_ref(&range)).await?.pop().unwrap_or_default())
}

/// The columns of an Arrow file: name, type, whether they may be NULL.
pub(super) async fn file_columns(
    task: &FileTask,
    store: &Store,
    resources: &WorkerResources,
) -> Result<Columns> {
    let file = store.open(&task.path, &version_of(task)).await?;
    let layout = layout(&Ranges::of(file).await?, task.size, &resources.cpu).await?;
    schema_columns(layout.schema())
}

pub(super) async fn read_file(job: &FileJob) -> Result<FileTotals> {
    let (cpu, memory) = (job.resources.cpu.clone(), &job.resources.memory);
    // Files are read with a quarter of the worker's budget; one record batch may have more, when it runs alone.
    let (limit, size) = (memory.bytes() * 2, job.task.size);
    let _whole;
    let pinned = open(job).await?;
    let ranges = if size <= SMALL_FILE {
        _whole = memory.reserve_base(size, &job.turn).await;
        Ranges::Memory(pinned.read_all(SMALL_FILE).await?)
    } else {
        Ranges::of(pinned).await?
    };
    let layout = layout(&ranges, size, &cpu).await?;
    let part = part_of(&job.task).map(|(start, end)| start..end);
    let spec = Arc::clone(&job.spec);
    let file = Arc::new(ArrowFile::open(layout.schema(), &spec, limit)?);
    let plan = layout.plan(part.clone());
    let stored: u64 = layout.dictionaries().iter().map(BatchPlace::bytes).sum();
    let _base = memory.reserve_base(TAIL_BYTES.min(size) + stored.saturating_mul(2), &job.turn).await;
    let layout = Arc::new(layout);
    let dictionaries = dictionaries(&layout, &ranges, limit, &cpu).await?;
    // Of a whole file the rows are counted as they come.
    let firsts = match part {
        Some(_) => first_rows(&layout, &ranges, layout.before(&plan)).await?,
        None => Vec::new(),
    };
    let mut counted = 0u64;
    let pieces = heads(Arc::clone(&layout), ranges.clone(), plan).map(move |found| {
        let (place, head) = found?;
        if place.bytes() > limit {
            return Err(Error::exhausted(format!(
                "record batch {} of the Arrow file has {} bytes; half of the worker's memory_budget, {limit}, is \
                 the most",
                place.index() + 1,
                place.bytes()
            ))
            .hint("write the file in smaller record batches"));
        }
        let first_row = firsts.get(place.index()).copied().unwrap_or(counted);
        counted = counted.saturating_add(head.rows);
        let (file, layout, ranges) = (Arc::clone(&file), Arc::clone(&layout), ranges.clone());
        let (dictionaries, cpu) = (Arc::clone(&dictionaries), cpu.clone());
        Ok(Piece {
            memory: head.memory,
            batches: batches_of(head.rows, &spec),
            content: Box::pin(async move {
                let bytes = fetch(&ranges, place.range.clone()).await?;
                cpu.run(move || {
                    let message = layout.message(&place, &bytes, &dictionaries, first_row)?;
                    Ok(Content::Batches(Box::new(file.decode(message))))
                })
                .await
            }),
        })
    });
    run_pieces(job, pieces.boxed()).await
}

/// The record batches of a plan with what their metadata says, that of some of them fetched at once.
fn heads(
    layout: Arc<FileLayout>,
    ranges: Ranges,
    plan: Vec<BatchPlace>,
) -> BoxStream<'static, Result<(BatchPlace, BatchHead)>> {
    let some: Vec<Vec<BatchPlace>> = plan.chunks(HEADS_AT_ONCE).map(<[BatchPlace]>::to_vec).collect();
    stream::iter(some)
        .then(move |places| {
            let (layout, ranges) = (Arc::clone(&layout), ranges.clone());
            async move {
                let wanted: Vec<Range<u64>> = places.iter().map(BatchPlace::metadata_range).collect();
                let read = match ranges.read(&wanted).await {
                    Ok(read) => read,
                    Err(error) => return stream::iter(vec![Err(error)]),
                };
                let found = places.into_iter().zip(read);
                stream::iter(
                    found
                        .map(|(place, bytes)| {
                            let head = layout.head(&place, &bytes)?;
                            Ok((place, head))
                        })
                        .collect::<Vec<_>>(),
                )
            }
        })
        .flatten()
        .boxed()
}

/// The dictionaries of a file: any batch may refer to any of them.
async fn dictionaries(
    layout: &Arc<FileLayout>,
    ranges: &Ranges,
    limit: u64,
    cpu: &CpuPool,
) -> Result<Arc<Dictionaries>> {
    let mut dictionaries = Dictionaries::default();
    for place in layout.dictionaries() {
        if place.bytes() > limit {
            return Err(Error::exhausted(format!(
                "a dictionary of the Arrow file has {} bytes; half of the worker's memory_budget, {limit}, is the \
                 most",
                place.bytes()
            )));
        }
        let bytes = fetch(ranges, place.range.clone()).await?;
        let (layout, place) = (Arc::clone(layout), place.clone());
        dictionaries = cpu
            .run(move || {
                layout.add_dictionary(&place, &bytes, &mut dictionaries, limit)?;
                Ok(dictionaries)
            })
            .await?;
    }
    Ok(Arc::new(dictionaries))
}

/// The numbers of the first rows of some batches, from the first of the file on, and of the one after them.
async fn first_rows(layout: &FileLayout, ranges: &Ranges, places: &[BatchPlace]) -> Result<Vec<u64>> {
    let mut firsts = Vec::with_capacity(places.len() + 1);
    let mut rows = 0u64;
    firsts.push(rows);
    for some in places.chunks(HEADS_AT_ONCE) {
        let heads: Vec<Range<u64>> = some.iter().map(BatchPlace::metadata_range).collect();
        for (place, head) in some.iter().zip(ranges.read(&heads).await?) {
            rows = rows.saturating_add(layout.head(place, &head)?.rows);
            firsts.push(rows);
        }
    }
    Ok(firsts)
}

/// The columns of an Arrow stream: name, type, whether they may be NULL.
pub(super) async fn stream_columns(
    task: &FileTask,
    store: &Store,
    resources: &WorkerResources,
) -> Result<Columns> {
    let file = store.open(&task.path, &version_of(task)).await?;
    let mut chunks = file.chunks(0..task.size, ReadAhead { chunk_bytes: SCHEMA_BYTES, ahead: 1 });
    let cutter = StreamCutter::new(task.size, resources.memory.bytes());
    let (cutter, _) = begin(cutter, &mut chunks, &resources.cpu).await?;
    let schema = cutter.schema().ok_or_else(no_schema)?;
    schema_columns(schema)
}

fn no_schema() -> Error {
    Error::internal("the schema of an Arrow stream was read and is not there")
}

/// Reads a stream until its schema is known, and the batches that came with it.
async fn begin(
    mut cutter: StreamCutter,
    chunks: &mut Chunks,
    cpu: &CpuPool,
) -> Result<(StreamCutter, Vec<Result<BatchMessage>>)> {
    loop {
        let chunk = chunks.next().await.transpose()?;
        let (back, found, goes_on) = cut(cutter, chunk, cpu).await?;
        cutter = back;
        let failed = found.iter().any(Result::is_err);
        if cutter.schema().is_some() {
            return Ok((cutter, found));
        }
        if failed || !goes_on {
            let error = found.into_iter().find_map(Result::err);
            return Err(error.unwrap_or_else(no_schema));
        }
    }
}

/// Gives a cutter the next chunk, or the end: the batches found, then the failure; whether it goes on.
async fn cut(
    mut cutter: StreamCutter,
    chunk: Option<Bytes>,
    cpu: &CpuPool,
) -> Result<(StreamCutter, Vec<Result<BatchMessage>>, bool)> {
    cpu.run(move || {
        let mut found = Vec::new();
        let result = match &chunk {
            Some(bytes) => cutter.push(bytes, &mut found),
            None => cutter.finish(),
        };
        let goes_on = chunk.is_some() && result.is_ok();
        let found = found.into_iter().map(Ok).chain(result.err().map(Err)).collect();
        Ok((cutter, found, goes_on))
    })
    .await
}

pub(super) async fn read_stream(job: &FileJob) -> Result<FileTotals> {
    if part_of(&job.task).is_some() {
        return Err(Error::internal(format!("'{}' is an Arrow stream and was split", job.task.name)));
    }
    let settings = &job.resources.settings;
    let size = job.task.size;
    // The next message is put together while others are decoded.
    let limit = job.resources.memory.bytes();
    let window = settings.chunk_bytes * (settings.chunks_ahead as u64 + 3);
    let _base = job.resources.memory.reserve_base(size.min(window), &job.turn).await;
    let ahead = ReadAhead { chunk_bytes: settings.chunk_bytes, ahead: settings.chunks_ahead };
    let mut chunks = open(job).await?.chunks(0..size, ahead);
    let cpu = job.resources.cpu.clone();
    let (cutter, first) = begin(StreamCutter::new(size, limit), &mut chunks, &cpu).await?;
    let spec = Arc::clone(&job.spec);
    let file = Arc::new(ArrowFile::open(cutter.schema().ok_or_else(no_schema)?, &spec, limit)?);
    let goes_on = first.iter().all(Result::is_ok);
    let rest = stream::unfold(goes_on.then_some((cutter, chunks, cpu)), |state| async move {
        let (cutter, mut chunks, cpu) = state?;
        let cut = match chunks.next().await.transpose() {
            Ok(chunk) => cut(cutter, chunk, &cpu).await,
            Err(error) => Err(error),
        };
        Some(match cut {
            Ok((cutter, found, goes_on)) => (found, goes_on.then_some((cutter, chunks, cpu))),
            Err(error) => (vec![Err(error)], None),
        })
    });
    let found = stream::iter([first]).chain(rest).flat_map(stream::iter);
    let pieces = found.map(move |message| {
        let message = message?;
        Ok(Piece {
            memory: message.memory(),
            batches: batches_of(message.rows, &spec),
            content: Box::pin(std::future::ready(Ok(Content::Batches(Box::new(file.decode(message)))))),
        })
    });
    run_pieces(job, pieces.boxed()).await
}

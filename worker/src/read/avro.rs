//! Avro: read from its beginning to its end, cut into blocks, groups of which are decoded at the same
//! time. The sizes of blocks stand before them and nowhere else, so a file is never read in parts.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use stevedore_common::file_format::FileFormat;
use stevedore_common::storage::{ReadAhead, Store};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::avro::{
    AvroFile, AvroHeader, BlockCutter, BlockGroup, HEADER_BYTES, file_schema, read_header,
};
use stevedore_proto::v1::FileTask;

use super::open::{open, part_of, version_of};
use super::pieces::{Content, Piece, batches_of, run_pieces};
use super::resources::CpuPool;
use super::{FileJob, FileTotals, WorkerResources};

type Chunks = BoxStream<'static, Result<Bytes>>;

/// The header at the beginning of a file, and the bytes that were read for it.
async fn header(chunks: &mut Chunks, size: u64, cpu: &CpuPool) -> Result<(AvroHeader, Bytes)> {
    let mut read = BytesMut::new();
    // A header is parsed from its beginning each time: not for every small chunk.
    let mut enough = HEADER_BYTES;
    loop {
        let is_all = match chunks.next().await {
            Some(chunk) => {
                read.extend_from_slice(&chunk?);
                read.len() as u64 >= size
            }
            None => true,
        };
        if read.len() < enough && !is_all {
            continue;
        }
        enough = read.len() * 2;
        let bytes = read.split().freeze();
        let look = bytes.clone();
        match cpu.run(move || read_header(&look, is_all)).await? {
            Some(header) => return Ok((header, bytes)),
            None if is_all => return Err(Error::bad_data("not an Avro file: its header is cut off")),
            None => read = BytesMut::from(bytes),
        }
    }
}

/// The columns of an Avro file: name, type, whether they may be NULL.
pub(super) async fn columns(
    task: &FileTask,
    store: &Store,
    format: &FileFormat,
    resources: &WorkerResources,
) -> Result<Vec<(String, SqlType, bool)>> {
    let file = store.open(&task.path, &version_of(task)).await?;
    let ahead = ReadAhead { chunk_bytes: HEADER_BYTES as u64, ahead: 1 };
    let (header, _) = header(&mut file.chunks(0..task.size, ahead), task.size, &resources.cpu).await?;
    let format = format.clone();
    resources.cpu.run(move || file_schema(&header, &format)).await
}

pub(super) async fn read(job: &FileJob) -> Result<FileTotals> {
    if part_of(&job.task).is_some() {
        return Err(Error::internal(format!("'{}' is an Avro file and was split", job.task.name)));
    }
    let settings = &job.resources.settings;
    let size = job.task.size;
    let window = settings.chunk_bytes * (settings.chunks_ahead as u64 + 3);
    let _base = job.resources.memory.reserve_base(size.min(window), &job.turn).await;
    let ahead = ReadAhead { chunk_bytes: settings.chunk_bytes, ahead: settings.chunks_ahead };
    let mut chunks = open(job).await?.chunks(0..size, ahead);
    let cpu = job.resources.cpu.clone();
    let (header, first) = header(&mut chunks, size, &cpu).await?;
    let spec = Arc::clone(&job.spec);
    let (file, cutter) = cpu
        .run(move || {
            let file = AvroFile::open(&header, &spec)?;
            Ok((Arc::new(file), BlockCutter::new(&header, &spec)))
        })
        .await?;
    let chunks = stream::iter([Ok(first)]).chain(chunks).boxed();
    let spec = Arc::clone(&job.spec);
    let pieces = groups(cutter, chunks, cpu.clone()).map(move |group| {
        let group = group?;
        let file = Arc::clone(&file);
        Ok(Piece {
            memory: group.input_bytes.saturating_mul(file.growth()),
            batches: batches_of(group.rows, &spec),
            content: Box::pin(std::future::ready(Ok(Content::Batches(Box::new(file.decode(group)))))),
        })
    });
    run_pieces(job, pieces.boxed()).await
}

/// What the cutting of a file is at.
struct Cutting {
    /// `None` once the file has ended or failed.
    cutter: Option<BlockCutter>,
    chunks: Chunks,
    cpu: CpuPool,
}

/// The groups of blocks of a file; after those that were found before it, its failure.
fn groups(
    cutter: BlockCutter,
    chunks: Chunks,
    cpu: CpuPool,
) -> impl futures::Stream<Item = Result<BlockGroup>> + Send {
    let cutting = Cutting { cutter: Some(cutter), chunks, cpu };
    stream::unfold(cutting, |mut cutting| async move {
        let mut cutter = cutting.cutter.take()?;
        let chunk = cutting.chunks.next().await.transpose();
        let cut = match chunk {
            Err(error) => Err(error),
            Ok(chunk) => {
                cutting
                    .cpu
                    .run(move || {
                        let mut groups = Vec::new();
                        let result = match &chunk {
                            Some(bytes) => cutter.push(bytes, &mut groups),
                            None => cutter.finish(&mut groups),
                        };
                        let goes_on = chunk.is_some() && result.is_ok();
                        Ok((goes_on.then_some(cutter), groups, result))
                    })
                    .await
            }
        };
        let found: Vec<Result<BlockGroup>> = match cut {
            Err(error) => vec![Err(error)],
            Ok((cutter, groups, result)) => {
                cutting.cutter = cutter;
                groups.into_iter().map(Ok).chain(result.err().map(Err)).collect()
            }
        };
        Some((stream::iter(found), cutting))
    })
    .flatten()
}

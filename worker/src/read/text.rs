//! CSV, TSV, NDJSON and JSON: chunks fetched ahead, one thread that decompresses and cuts, blocks decoded on
//! all threads and put back in order.
//!
//! Small files go another way ([`super::small`]).

use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use stevedore_common::file_format::Compression;
use stevedore_common::storage::ReadAhead;
use stevedore_common::{Error, Result};
use stevedore_decode::blocks::{BlockCutter, TextBlock};
use stevedore_decode::limits::TextLimits;
use stevedore_decode::spec::DecodedBatch;
use stevedore_decode::text::{BlockDecoder, RowNumbering, TextInput, text_decoder};
use tokio::sync::mpsc;

use super::open::{open, part_of};
use super::resources::{CpuPool, Reservation, WorkerResources};
use super::{FileJob, FileTotals};

/// Memory that a block takes while it is decoded, in multiples of its text.
pub(super) const DECODED_FACTOR: u64 = 3;

/// Memory that the rows of a block take at the most before those of it that were decoded are taken: a byte of text
/// may be a row of many columns, or an error.
const DECODED_BYTES: usize = 8 << 20;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// What stored bytes go through on their way to blocks.
pub(super) enum Front {
    Whole(Box<TextInput>),
    /// A part of an uncompressed UTF-8 file.
    Part {
        cutter: Box<BlockCutter>,
        at_start: bool,
    },
}

impl Front {
    pub(super) fn new(job: &FileJob) -> Result<Self> {
        let format = &job.spec.format;
        let settings = &job.resources.settings;
        let limits = TextLimits {
            block_bytes: settings.block_bytes,
            max_record_bytes: settings.limits.max_record_bytes,
        };
        let codec = format.compression.resolve(&job.task.path);
        Ok(match part_of(&job.task) {
            None => {
                Self::Whole(Box::new(TextInput::new(format, codec, settings.limits.decompress(), limits)?))
            }
            Some(_) if codec != Compression::None => {
                return Err(Error::internal(format!("'{}' is compressed and was split", job.task.name)));
            }
            Some((start, end)) => Self::Part {
                cutter: Box::new(BlockCutter::for_range(format, limits, start, end)?),
                at_start: start == 0,
            },
        })
    }

    fn read_from(&self) -> u64 {
        match self {
            Self::Whole(_) => 0,
            Self::Part { cutter, .. } => cutter.read_from(),
        }
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Part { cutter, .. } if cutter.is_done())
    }

    fn push(&mut self, bytes: &Bytes, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        match self {
            Self::Whole(input) => input.push(bytes, each),
            Self::Part { cutter, at_start } => {
                cutter.count_input(bytes.len() as u64);
                cutter.push_shared(bytes, &mut |block| each(without_mark(block, at_start)))
            }
        }
    }

    /// Ends the file with its last bytes.
    pub(super) fn finish_with(
        &mut self,
        bytes: &Bytes,
        each: &mut dyn FnMut(TextBlock) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Whole(input) => input.finish_with(bytes, each),
            Self::Part { .. } => self.push(bytes, each).and_then(|()| self.finish(each)),
        }
    }

    fn finish(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        match self {
            Self::Whole(input) => input.finish(each),
            Self::Part { cutter, at_start } => {
                cutter.finish(&mut |block| each(without_mark(block, at_start)))
            }
        }
    }
}

/// Drops the byte order mark of a file's first block. It cannot be dropped earlier: parts count bytes.
fn without_mark(mut block: TextBlock, at_start: &mut bool) -> TextBlock {
    if std::mem::take(at_start) && block.bytes.starts_with(BOM) {
        block.bytes.advance(BOM.len());
    }
    block
}

pub(super) async fn read(job: &FileJob) -> Result<FileTotals> {
    let settings = &job.resources.settings;
    // The decoder is made first: a specification that cannot be served needs no file.
    let decoder: Arc<dyn BlockDecoder> = Arc::from(text_decoder(Arc::clone(&job.spec))?);
    let front = Front::new(job)?;
    // A part's last record may go on beyond it; how far is not known, and the cutter says when to stop.
    let end = job.task.size;
    let start = front.read_from().min(end);
    let window = settings.chunk_bytes * (settings.chunks_ahead as u64 + 3);
    let base = (end - start).min(window) + (end - start).min(2 * settings.block_bytes as u64);
    let _base = job.resources.memory.reserve_base(base, &job.turn).await;
    let file = open(job).await?;
    let ahead = ReadAhead { chunk_bytes: settings.chunk_bytes, ahead: settings.chunks_ahead };
    let mut totals = large(job, front, decoder, file.chunks(start..end, ahead)).await?;
    totals.bytes = match part_of(&job.task) {
        Some((start, end)) => end.min(job.task.size).saturating_sub(start),
        None => job.task.size,
    };
    Ok(totals)
}

/// What the cutting thread is given.
enum Feed {
    Chunk(Bytes),
    End,
}

async fn large(
    job: &FileJob,
    front: Front,
    decoder: Arc<dyn BlockDecoder>,
    mut chunks: BoxStream<'static, Result<Bytes>>,
) -> Result<FileTotals> {
    let (feed, fed) = mpsc::channel::<Feed>(2);
    let (cut, blocks) = mpsc::channel::<TextBlock>(1);
    let cutting = tokio::task::spawn_blocking(move || cut_blocks(front, fed, &cut));
    let feeding = async move {
        while let Some(chunk) = chunks.try_next().await? {
            if feed.send(Feed::Chunk(chunk)).await.is_err() {
                // Done with, or failed: the thread says which.
                return Ok(());
            }
        }
        let _ = feed.send(Feed::End).await;
        Ok::<(), Error>(())
    };
    let ((), totals) = tokio::try_join!(feeding, decode_blocks(job, decoder, blocks))?;
    cutting.await.map_err(|e| Error::internal(format!("cutting the file failed: {e}")))??;
    Ok(totals)
}

fn cut_blocks(mut front: Front, mut fed: mpsc::Receiver<Feed>, cut: &mpsc::Sender<TextBlock>) -> Result<()> {
    let gone = || Error::cancelled("nobody reads this file any more");
    let mut each = |block: TextBlock| cut.blocking_send(block).map_err(|_| gone());
    let guarded = std::panic::AssertUnwindSafe(|| {
        while !front.is_done() {
            match fed.blocking_recv() {
                Some(Feed::Chunk(bytes)) => front.push(&bytes, &mut each)?,
                Some(Feed::End) => break,
                // The feeder failed; its error is the one to tell.
                None => return Err(gone()),
            }
        }
        front.finish(&mut each)
    });
    std::panic::catch_unwind(guarded)
        .unwrap_or_else(|_| Err(Error::bad_data("the file cannot be decompressed: the decompressor failed")))
}

/// Rows of a block.
struct Decoded {
    batches: Vec<DecodedBatch>,
    /// Its records that were not decoded yet.
    rest: Option<TextBlock>,
    /// The line that the block ends in.
    lines: u64,
}

/// Decodes as much of a block as may be held.
fn decode_some(
    cpu: &CpuPool,
    decoder: &Arc<dyn BlockDecoder>,
    block: TextBlock,
) -> impl Future<Output = Result<Decoded>> + use<> {
    let (cpu, decoder) = (cpu.clone(), Arc::clone(decoder));
    let work = move || {
        let lines = block.last_line;
        let most = DECODED_BYTES.max(block.bytes.len().saturating_mul(DECODED_FACTOR as usize));
        let (batches, rest) = decoder.decode_some(block, most)?;
        Ok(Decoded { batches, rest, lines })
    };
    async move { cpu.run(work).await }
}

async fn decode_blocks(
    job: &FileJob,
    decoder: Arc<dyn BlockDecoder>,
    blocks: mpsc::Receiver<TextBlock>,
) -> Result<FileTotals> {
    let WorkerResources { cpu, memory, .. } = job.resources.clone();
    let again = Arc::clone(&decoder);
    let (cpu_jobs, turn) = (cpu.jobs_ahead(), Arc::clone(&job.turn));
    let reserved = futures::stream::unfold((blocks, memory, turn), |(mut blocks, memory, turn)| async move {
        let block: TextBlock = blocks.recv().await?;
        // In order, so that a block never waits for memory that a later one holds.
        let held = memory.reserve(block.bytes.len() as u64 * DECODED_FACTOR, &turn).await;
        Some(((block, held), (blocks, memory, turn)))
    });
    let decoded = reserved
        .map(move |(block, held)| {
            let decoding = decode_some(&cpu, &decoder, block);
            async move { Ok::<(Decoded, Reservation), Error>((decoding.await?, held)) }
        })
        .buffered(cpu_jobs);
    let mut decoded = std::pin::pin!(decoded);
    let mut numbering = RowNumbering::default();
    let mut totals = FileTotals::default();
    while let Some((mut decoded, held)) = decoded.try_next().await? {
        let held = Arc::new(held);
        loop {
            numbering.number_block(&mut decoded.batches);
            totals.lines = decoded.lines;
            for batch in decoded.batches {
                job.emit(batch, &held).await?;
            }
            let Some(rest) = decoded.rest else { break };
            decoded = decode_some(&job.resources.cpu, &again, rest).await?;
        }
    }
    totals.rows = numbering.rows();
    Ok(totals)
}

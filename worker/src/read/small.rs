//! Small text files, many at a time: read together, decoded in one piece of CPU work, given in order.
//!
//! Opening, reading and decoding a small file costs less than the hops between threads that each step takes,
//! so that a group of files shares them. Comes in: the jobs of files that follow each other. Goes out: what
//! each of them would have given by itself. Memory is reserved once, for the whole group, by its first
//! file: no file of a group waits for another one. A file that is not what it seems (larger once it is
//! decompressed, changed, damaged storage) is read by itself after all, and so are those after it.

use std::sync::Arc;

use bytes::Bytes;
use stevedore_common::{Error, Result};
use stevedore_decode::blocks::TextBlock;
use stevedore_decode::spec::{DecodeSpec, DecodedBatch};
use stevedore_decode::text::{BlockDecoder, RowNumbering, text_decoder};
use stevedore_proto::v1::FileTask;

use super::open::{part_of, version_of};
use super::text::{DECODED_FACTOR, Front};
use super::{FileJob, FileTotals, Item};

/// The largest file (as stored) that is small.
const SMALL_BYTES: u64 = 256 << 10;
/// Most files of a group.
pub(super) const GROUP_FILES: usize = 32;
/// A group ends with the file that reaches this.
pub(super) const GROUP_BYTES: u64 = 512 << 10;
/// Memory that the text and the rows of a group may take; files beyond are read by themselves.
const GROUP_MEMORY: usize = 16 << 20;

/// Whether a file may be one of a group.
pub(super) fn is_small(task: &FileTask, spec: &DecodeSpec) -> bool {
    spec.format.kind.is_text() && task.size > 0 && task.size <= SMALL_BYTES && part_of(task).is_none()
}

/// What a file gave.
struct Decoded {
    batches: Vec<DecodedBatch>,
    /// Rows before the damage are given, as they are when a large file is damaged.
    end: Result<FileTotals>,
}

/// Reads the files of a group, in order, to their channel.
pub(super) async fn read_group(jobs: Vec<FileJob>) {
    let mut jobs = jobs.into_iter();
    if let Some((held, decoded)) = decode_group(jobs.as_slice()).await {
        let held = Arc::new(held);
        for decoded in decoded {
            let Some(job) = jobs.next() else { return };
            if give(&job, decoded, &held).await.is_err() {
                // The consumer has gone.
                return;
            }
        }
    }
    for job in jobs {
        job.run().await;
    }
}

async fn give(job: &FileJob, decoded: Decoded, held: &Arc<super::Reservation>) -> Result<()> {
    for batch in decoded.batches {
        job.emit(batch, held).await?;
    }
    job.send(match decoded.end {
        Ok(totals) => Item::Finished(totals),
        Err(error) => Item::Failed(error),
    })
    .await
}

/// What the first files of a group gave; the others are to be read by themselves. `None`: all of them.
async fn decode_group(jobs: &[FileJob]) -> Option<(super::Reservation, Vec<Decoded>)> {
    let first = jobs.first()?;
    let decoder: Arc<dyn BlockDecoder> = Arc::from(text_decoder(Arc::clone(&first.spec)).ok()?);
    let bytes: u64 = jobs.iter().map(|job| job.task.size).sum();
    let held = first.resources.memory.reserve(bytes * (1 + DECODED_FACTOR), &first.turn).await;
    let files = jobs.iter().map(|job| (job.task.path.clone(), version_of(&job.task))).collect();
    let texts = first.store.read_small(files).await;
    let mut inputs = Vec::with_capacity(jobs.len());
    for (job, text) in jobs.iter().zip(texts) {
        match (Front::new(job), text) {
            (Ok(front), Ok(text)) if text.len() as u64 == job.task.size => inputs.push((front, text)),
            _ => break,
        }
    }
    let decode = move || {
        let mut room = GROUP_MEMORY;
        Ok(inputs
            .into_iter()
            .map_while(|(front, bytes)| decode(front, &bytes, &*decoder, &mut room))
            .collect())
    };
    // A decoder that fails on a file is that file's fault: which one is seen when each is read by itself.
    let decoded = first.resources.cpu.run(decode).await.ok()?;
    Some((held, decoded))
}

/// Decodes a whole file; `None` where it becomes larger than what is left of `room`.
fn decode(mut front: Front, bytes: &Bytes, decoder: &dyn BlockDecoder, room: &mut usize) -> Option<Decoded> {
    let (mut batches, mut lines, mut is_too_large) = (Vec::new(), 0, false);
    let mut numbering = RowNumbering::default();
    let mut each = |block: TextBlock| {
        let left = room.checked_sub(block.bytes.len());
        lines = block.last_line;
        let decoded = left.map(|left| decoder.decode_some(block, left)).transpose()?;
        let decoded = decoded.filter(|(_, rest)| rest.is_none());
        let bytes: usize =
            decoded.iter().flat_map(|(batches, _)| batches).map(DecodedBatch::memory_bytes).sum();
        match (decoded, left.and_then(|left| left.checked_sub(bytes))) {
            (Some((mut decoded, _)), Some(left)) => {
                *room = left;
                numbering.number_block(&mut decoded);
                batches.append(&mut decoded);
                Ok(())
            }
            _ => {
                is_too_large = true;
                Err(Error::cancelled("the file is larger than it looked"))
            }
        }
    };
    let read = front.finish_with(bytes, &mut each);
    let totals = FileTotals { lines, rows: numbering.rows(), bytes: bytes.len() as u64 };
    (!is_too_large).then_some(Decoded { batches, end: read.map(|()| totals) })
}

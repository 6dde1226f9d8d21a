//! Columnar files in pieces (row groups, stripes, groups of blocks): fetched ahead and decoded at the same
//! time, given in order.
//!
//! How many pieces are under way is bounded by the threads and by the budget of memory, which is reserved
//! in their order; how many of their batches wait, by a channel each.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::StoredGroup;
use stevedore_decode::spec::{DecodeSpec, DecodedBatch};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::open::part_of;
use super::resources::{CpuPool, Reservation, WaitingRoom};
use super::{FileJob, FileTotals, Item, READY_BYTES};

/// Batches decoded in one go on a thread; fewer where they take this much memory.
const BATCHES_AT_ONCE: usize = 4;
const BYTES_AT_ONCE: usize = 8 << 20;
/// Decoded batches of a piece that may wait.
const BATCHES_AHEAD: u64 = 256;

/// The batches of a piece; CPU work.
pub(super) type Decoder = Box<dyn Iterator<Item = Result<DecodedBatch>> + Send>;

/// A part of a file that can be decoded by itself.
pub(super) struct Piece {
    /// What it takes while it is under way.
    pub(super) memory: u64,
    /// How many batches it gives, about.
    pub(super) batches: u64,
    /// Fetches what it needs.
    pub(super) content: BoxFuture<'static, Result<Content>>,
}

/// What a piece holds.
pub(super) enum Content {
    /// Rows to decode.
    Batches(Decoder),
    /// Good rows as their table stores them.
    Stored(Box<StoredGroup>),
}

/// The batches that so many rows make, about.
pub(super) fn batches_of(rows: u64, spec: &DecodeSpec) -> u64 {
    rows / spec.batch_rows.max(1) as u64 + 2
}

/// A piece under way.
struct UnderWay {
    items: mpsc::Receiver<Result<Item>>,
    _task: AbortOnDropHandle<()>,
}

/// Reads the pieces of a file. A piece that fails ends the file; those before it were given.
pub(super) async fn run_pieces(
    job: &FileJob,
    pieces: BoxStream<'static, Result<Piece>>,
) -> Result<FileTotals> {
    let (sender, mut under_way) = mpsc::channel::<UnderWay>(job.resources.cpu.threads().max(1));
    let starting = AbortOnDropHandle::new(tokio::spawn(start_pieces(job.clone(), pieces, sender)));
    let mut totals = FileTotals::default();
    while let Some(mut piece) = under_way.recv().await {
        while let Some(item) = piece.items.recv().await {
            let item = item?;
            totals.rows += match &item {
                Item::Batch(batch, ..) => (batch.batch.num_rows() + batch.errors.len()) as u64,
                Item::Stored(group, _) => group.rows,
                Item::Finished(_) | Item::Failed(_) => 0,
            };
            job.send(item).await?;
        }
    }
    starting.await.map_err(|e| Error::internal(format!("reading a file in pieces failed: {e}")))??;
    totals.lines = totals.rows;
    totals.bytes = match part_of(&job.task) {
        Some((start, end)) => end.min(job.task.size).saturating_sub(start),
        None => job.task.size,
    };
    Ok(totals)
}

/// Starts pieces in order, as many ahead as threads and memory allow.
async fn start_pieces(
    job: FileJob,
    mut pieces: BoxStream<'static, Result<Piece>>,
    sender: mpsc::Sender<UnderWay>,
) -> Result<()> {
    while let Some(piece) = pieces.next().await {
        let Piece { memory, batches, content } = piece?;
        let held = job.resources.memory.reserve(memory, &job.turn).await;
        let (out, items) = mpsc::channel(usize::try_from(batches.min(BATCHES_AHEAD)).unwrap_or(1));
        let cpu = job.resources.cpu.clone();
        // All that was reserved for it may be its batches.
        let room = WaitingRoom::new(memory.clamp(READY_BYTES, job.resources.memory.bytes().max(READY_BYTES)));
        let run = async move {
            if let Err(e) = run_piece(content, &cpu, Arc::new(held), &room, &out).await {
                let _ = out.send(Err(e)).await;
            }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        if sender.send(UnderWay { items, _task: task }).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn run_piece(
    content: BoxFuture<'static, Result<Content>>,
    cpu: &CpuPool,
    held: Arc<Reservation>,
    room: &WaitingRoom,
    out: &mpsc::Sender<Result<Item>>,
) -> Result<()> {
    let mut decoder = match content.await? {
        Content::Batches(decoder) => decoder,
        Content::Stored(group) => {
            // A reader that has gone wants nothing more.
            let _ = out.send(Ok(Item::Stored(group, held))).await;
            return Ok(());
        }
    };
    loop {
        let (back, batches, ended) = cpu
            .run(move || {
                let mut batches = Vec::with_capacity(BATCHES_AT_ONCE);
                let (mut bytes, mut ended) = (0, false);
                while batches.len() < BATCHES_AT_ONCE && bytes < BYTES_AT_ONCE && !ended {
                    match decoder.next() {
                        Some(batch) => {
                            bytes += batch.as_ref().map_or(0, DecodedBatch::memory_bytes);
                            batches.push(batch);
                        }
                        None => ended = true,
                    }
                }
                Ok((decoder, batches, ended))
            })
            .await?;
        decoder = back;
        for batch in batches {
            let batch = batch?;
            let waiting = room.take(&batch).await;
            if out.send(Ok(Item::Batch(batch, Arc::clone(&held), waiting))).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
    }
}

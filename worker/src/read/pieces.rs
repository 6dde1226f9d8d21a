//! Columnar files in pieces (row groups, stripes, groups of blocks): fetched ahead and decoded at the same
//! time, given in order.
//!
//! How many pieces are under way is bounded by the threads and by the budget of memory, which is reserved
//! in their order; how many of their batches wait, by a channel each.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use stevedore_common::{Error, Result};
use stevedore_decode::spec::{DecodeSpec, DecodedBatch};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::open::part_of;
use super::resources::{CpuPool, Reservation};
use super::{FileJob, FileTotals};

/// Batches decoded in one go on a thread.
const BATCHES_AT_ONCE: usize = 4;
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
    pub(super) decoder: BoxFuture<'static, Result<Decoder>>,
}

/// The batches that so many rows make, about.
pub(super) fn batches_of(rows: u64, spec: &DecodeSpec) -> u64 {
    rows / spec.batch_rows.max(1) as u64 + 2
}

/// A piece under way.
struct UnderWay {
    batches: mpsc::Receiver<Result<(DecodedBatch, Arc<Reservation>)>>,
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
        while let Some(batch) = piece.batches.recv().await {
            let (batch, held) = batch?;
            totals.rows += (batch.batch.num_rows() + batch.errors.len()) as u64;
            job.emit(batch, &held).await?;
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
        let Piece { memory, batches, decoder } = piece?;
        let held = job.resources.memory.reserve(memory, &job.turn).await;
        let (out, batches) = mpsc::channel(usize::try_from(batches.min(BATCHES_AHEAD)).unwrap_or(1));
        let cpu = job.resources.cpu.clone();
        let run = async move {
            if let Err(e) = run_piece(decoder, &cpu, Arc::new(held), &out).await {
                let _ = out.send(Err(e)).await;
            }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        if sender.send(UnderWay { batches, _task: task }).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn run_piece(
    decoder: BoxFuture<'static, Result<Decoder>>,
    cpu: &CpuPool,
    held: Arc<Reservation>,
    out: &mpsc::Sender<Result<(DecodedBatch, Arc<Reservation>)>>,
) -> Result<()> {
    let mut decoder = decoder.await?;
    loop {
        let (back, batches, ended) = cpu
            .run(move || {
                let mut batches = Vec::with_capacity(BATCHES_AT_ONCE);
                let mut ended = false;
                while batches.len() < BATCHES_AT_ONCE && !ended {
                    match decoder.next() {
                        Some(batch) => batches.push(batch),
                        None => ended = true,
                    }
                }
                Ok((decoder, batches, ended))
            })
            .await?;
        decoder = back;
        for batch in batches {
            if out.send(Ok((batch?, Arc::clone(&held)))).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
    }
}

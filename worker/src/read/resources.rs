//! What the slices of a worker share: threads for CPU work and a budget of memory.
//!
//! Threads are our own, one a core, so that decoding never sits on tokio's. Work waits in a queue whose
//! length its callers bound (each awaits what it submitted); work whose caller has gone is not begun.
//! A panic of a decoder is an error of the file, never of the process.
//!
//! Memory is a semaphore in KiB. Reading ahead waits for it; the file that a consumer is waiting for
//! never waits while it holds nothing, so that slices cannot block each other for ever: each may
//! overdraw by the little that one file holds at a time.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use stevedore_common::{Error, Result};
use stevedore_decode::limits::{DecompressLimits, TextLimits};
use stevedore_decode::spec::{DecodeSpec, DecodedBatch};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    state: Mutex<(VecDeque<Job>, bool)>,
    ready: Condvar,
}

/// Closes the queue when the last handle goes; the threads end after the jobs they have.
struct Closer(Arc<Queue>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.state.lock().1 = true;
        self.0.ready.notify_all();
    }
}

/// Threads for CPU work. Cheap to clone.
#[derive(Clone)]
pub struct CpuPool {
    queue: Arc<Closer>,
    threads: usize,
}

impl fmt::Debug for CpuPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuPool({} threads)", self.threads)
    }
}

impl CpuPool {
    /// Starts threads (at least one).
    ///
    /// # Errors
    /// Resource exhausted, if the system gives no thread.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = threads.max(1);
        let queue = Arc::new(Queue::default());
        let closer = Arc::new(Closer(Arc::clone(&queue)));
        for n in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("decode-{n}"))
                .spawn(move || work(&queue))
                .map_err(|e| Error::exhausted(format!("cannot start a thread for decoding: {e}")))?;
        }
        Ok(Self { queue: closer, threads })
    }

    /// How many jobs run at a time.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How many jobs of one stream of work to have under way: the threads still find some while their answers
    /// wait in order, or the consumer is busy handing on what it has.
    pub fn jobs_ahead(&self) -> usize {
        2 * self.threads + 2
    }

    /// Runs a job on one of the threads.
    ///
    /// # Errors
    /// The job's; bad data, if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            if answer.is_closed() {
                return;
            }
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| {
                let reason = panic
                    .downcast_ref::<&str>()
                    .map(ToString::to_string)
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                tracing::error!(reason, "a decoder panicked");
                Err(Error::bad_data(format!("the decoder cannot read this file: {reason}")))
            });
            let _ = answer.send(outcome);
        });
        let queue = &self.queue.0;
        queue.state.lock().0.push_back(job);
        queue.ready.notify_one();
        result.await.unwrap_or_else(|_| Err(Error::cancelled("the worker is shutting down")))
    }
}

fn work(queue: &Queue) {
    loop {
        let job = {
            let mut state = queue.state.lock();
            loop {
                if let Some(job) = state.0.pop_front() {
                    break job;
                }
                if state.1 {
                    return;
                }
                queue.ready.wait(&mut state);
            }
        };
        job();
    }
}

/// A budget of memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    permits: Arc<Semaphore>,
    kib: u32,
    /// Told of every reservation.
    reserved: Arc<Notify>,
}

impl MemoryBudget {
    /// A budget of so many bytes (at least 1 MiB).
    pub fn new(bytes: u64) -> Self {
        let most = u64::from(u32::MAX).min(Semaphore::MAX_PERMITS as u64);
        let kib = u32::try_from((bytes >> 10).clamp(1024, most)).unwrap_or(u32::MAX);
        Self { permits: Arc::new(Semaphore::new(kib as usize)), kib, reserved: Arc::default() }
    }

    /// Waits until some was reserved, unless that has happened since this was asked last.
    pub(crate) async fn reserved(&self) {
        self.reserved.notified().await;
    }

    /// The bytes of the whole budget.
    pub fn bytes(&self) -> u64 {
        u64::from(self.kib) << 10
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        (u64::from(self.kib) - (self.permits.available_permits() as u64).min(u64::from(self.kib))) << 10
    }

    /// Takes `bytes` if they are free now. For who holds memory already and must not wait for more.
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(kib).ok()?;
        Some(Reservation { _permit: Some(permit), turn: None })
    }

    /// Waits for `bytes` that a file holds until it ends. They do not count as held: a file in front must
    /// not wait for what it will never give back before it goes on.
    pub(crate) async fn reserve_base(&self, bytes: u64, turn: &Arc<Turn>) -> Reservation {
        let mut reservation = self.reserve(bytes, turn).await;
        if let Some(turn) = reservation.turn.take() {
            turn.give_back();
        }
        reservation
    }

    /// Waits for `bytes` on behalf of a file; what is larger than the budget counts as all of it. A file
    /// must reserve in the order in which it gives its rows.
    pub(crate) async fn reserve(&self, bytes: u64, turn: &Arc<Turn>) -> Reservation {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, self.kib);
        let permit = loop {
            let changed = turn.changed.notified();
            tokio::pin!(changed);
            // From here on a change is not missed.
            changed.as_mut().enable();
            if turn.must_progress() {
                break Arc::clone(&self.permits).try_acquire_many_owned(kib).ok();
            }
            tokio::select! {
                permit = Arc::clone(&self.permits).acquire_many_owned(kib) => break permit.ok(),
                () = &mut changed => {}
            }
        };
        turn.held.fetch_add(1, Ordering::SeqCst);
        self.reserved.notify_one();
        Reservation { _permit: permit, turn: Some(Arc::clone(turn)) }
    }
}

/// Whether a file is the one that its consumer waits for, and what it holds.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    is_first: AtomicBool,
    held: AtomicUsize,
    changed: Notify,
}

impl Turn {
    /// The consumer waits for this file now.
    pub(crate) fn come(&self) {
        self.is_first.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    fn give_back(&self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    fn must_progress(&self) -> bool {
        self.is_first.load(Ordering::SeqCst) && self.held.load(Ordering::SeqCst) == 0
    }
}

/// Bounds what decoded batches take while they wait for the consumer, whatever was reserved for them: a few bytes of
/// a file may be rows of any size. A batch that is larger than the room waits alone.
#[derive(Debug, Clone)]
pub(super) struct WaitingRoom {
    free: Arc<Semaphore>,
    kib: u32,
}

/// A place in a waiting room; free again when dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    _permit: Option<OwnedSemaphorePermit>,
}

impl WaitingRoom {
    pub(super) fn new(bytes: u64) -> Self {
        let kib = u32::try_from((bytes >> 10).max(1)).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(kib as usize)), kib }
    }

    /// Waits for room for a batch. They get it in the order in which they come.
    pub(super) async fn take(&self, batch: &DecodedBatch) -> Waiting {
        let kib = u32::try_from(batch.memory_bytes() >> 10).unwrap_or(u32::MAX).min(self.kib);
        Waiting { _permit: Arc::clone(&self.free).acquire_many_owned(kib).await.ok() }
    }
}

/// Memory in use; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    _permit: Option<OwnedSemaphorePermit>,
    turn: Option<Arc<Turn>>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(turn) = &self.turn {
            turn.give_back();
        }
    }
}

/// What the slices of a worker share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerResources {
    /// Threads for CPU work.
    pub cpu: CpuPool,
    /// The budget of memory.
    pub memory: MemoryBudget,
    /// Limits and read-ahead.
    pub settings: ReadSettings,
}

/// What one text file may ask for, as operators set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// The largest record: a line, an element.
    pub max_record_bytes: usize,
    /// The largest page of a Parquet file or block of an Avro file, decompressed.
    pub max_block_bytes: usize,
    /// Bytes that a compressed file may become.
    pub max_decompressed_bytes: u64,
    /// Bytes that it may become for each of its own, once it is large.
    pub max_decompression_ratio: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        let DecompressLimits { max_output_bytes, max_ratio } = DecompressLimits::default();
        Self {
            max_record_bytes: TextLimits::default().max_record_bytes,
            max_block_bytes: DecodeSpec::MAX_BLOCK_BYTES,
            max_decompressed_bytes: max_output_bytes,
            max_decompression_ratio: max_ratio,
        }
    }
}

impl ReadLimits {
    pub(super) fn decompress(&self) -> DecompressLimits {
        DecompressLimits {
            max_output_bytes: self.max_decompressed_bytes,
            max_ratio: self.max_decompression_ratio,
        }
    }
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSettings {
    /// Files opened ahead of the one that is consumed.
    pub files_ahead: usize,
    /// Bytes a request of a sequential read.
    pub chunk_bytes: u64,
    /// Requests in flight of a sequential read.
    pub chunks_ahead: usize,
    /// What one file may ask for.
    pub limits: ReadLimits,
    /// Bytes of a block of text, about.
    pub block_bytes: usize,
    /// Decoded bytes of a file that may be held until it is known to be good (ON_ERROR = skip_file); one
    /// that takes more is read twice.
    pub held_bytes: u64,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self {
            files_ahead: 16,
            chunk_bytes: 1 << 20,
            chunks_ahead: 4,
            limits: ReadLimits::default(),
            block_bytes: 1 << 20,
            held_bytes: 64 << 20,
        }
    }
}

impl WorkerResources {
    /// Threads and a budget, with default settings.
    ///
    /// # Errors
    /// As [`CpuPool::new`].
    pub fn new(threads: usize, memory_bytes: u64) -> Result<Self> {
        Ok(Self {
            cpu: CpuPool::new(threads)?,
            memory: MemoryBudget::new(memory_bytes),
            settings: ReadSettings::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_lives_on() {
        let pool = CpuPool::new(1).unwrap();
        let error = pool.run(|| -> Result<()> { panic!("bad page") }).await.unwrap_err();
        assert_eq!(error.kind(), stevedore_common::ErrorKind::BadData);
        assert!(error.to_string().contains("bad page"));
        assert_eq!(pool.run(|| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_gone_is_not_begun() {
        let pool = CpuPool::new(1).unwrap();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            let job = move || {
                let _ = begin.send(());
                Ok(gate.recv().is_ok())
            };
            async move { pool.run(job).await }
        });
        begun.await.unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&ran);
        let abandoned = pool.run(move || {
            mark.store(true, Ordering::SeqCst);
            Ok(())
        });
        // One poll submits the job; then its caller goes.
        tokio::select! {
            biased;
            _ = abandoned => panic!("the only thread is busy"),
            () = tokio::task::yield_now() => {}
        }
        release.send(()).unwrap();
        assert!(first.await.unwrap().unwrap());
        assert_eq!(pool.run(|| Ok(1)).await.unwrap(), 1);
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn the_file_in_front_goes_on_without_budget_and_others_wait() {
        let budget = MemoryBudget::new(1 << 20);
        let (front, behind) = (Arc::new(Turn::default()), Arc::new(Turn::default()));
        let all = budget.reserve(u64::MAX, &behind).await;
        assert_eq!(budget.used(), 1 << 20);
        front.come();
        let overdrawn = budget.reserve(1 << 20, &front).await;
        let waiting = tokio::spawn({
            let (budget, front) = (budget.clone(), Arc::clone(&front));
            async move { drop(budget.reserve(1 << 10, &front).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(overdrawn);
        waiting.await.unwrap();
        drop(all);
        assert_eq!(budget.used(), 0);
    }

    fn batch_of(bytes: usize) -> DecodedBatch {
        let values = Int64Array::from(vec![7; bytes / size_of::<i64>()]);
        let batch = RecordBatch::try_from_iter([("a", Arc::new(values) as ArrayRef)]).unwrap();
        let (row_numbers, lines, errors) = (Vec::new(), Vec::new(), Vec::new());
        DecodedBatch { batch, row_numbers, lines, defaulted: vec![None], errors, input_bytes: 0 }
    }

    #[test]
    fn batches_wait_where_there_is_room_and_one_that_is_larger_waits_alone() {
        let room = WaitingRoom::new(1 << 20);
        let first = room.take(&batch_of(400 << 10)).now_or_never().unwrap();
        let second = room.take(&batch_of(400 << 10)).now_or_never().unwrap();
        assert!(room.take(&batch_of(400 << 10)).now_or_never().is_none());
        drop(first);
        let third = room.take(&batch_of(400 << 10)).now_or_never().unwrap();
        assert!(room.take(&batch_of(3 << 20)).now_or_never().is_none());
        drop((second, third));
        let large = room.take(&batch_of(3 << 20)).now_or_never().unwrap();
        assert!(room.take(&batch_of(1 << 10)).now_or_never().is_none());
        drop(large);
        assert!(room.take(&batch_of(1 << 10)).now_or_never().is_some());
    }

    #[test]
    fn who_must_not_wait_gets_what_is_free_or_nothing() {
        let budget = MemoryBudget::new(2 << 20);
        assert!(budget.try_reserve(3 << 20).is_none());
        let held = budget.try_reserve(1 << 20).unwrap();
        assert!(budget.try_reserve((1 << 20) + 1).is_none());
        assert_eq!(budget.used(), 1 << 20);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}

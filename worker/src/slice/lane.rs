//! Lanes: one worker writes the files of a slice that several workers read.
//!
//! A slice of very many small files is leased to one worker, which writes its data files; so ten thousand small files
//! become a few of a good size. Where other workers have nothing to do the spec names them as helpers. The files are
//! then cut into portions; the holder of the slice takes portions from the front, as its helpers do, until none is
//! left. A helper reads, decodes and casts a portion as the holder would, and streams its rows here by Flight.
//!
//! Exactly once: the rows of a helper's portion are held until all of them and their end have come; only then do they
//! go to the writer, and the portion is done. A portion that failed, for whatever reason, goes back, its rows are
//! dropped, its helper is not asked again, and somebody else reads it from its beginning. All files of the lane are
//! reported under the one attempt that the holder has; they hold rows of no other one. Where the holder is lost, the
//! attempt is lost with it, and the slice runs again.
//!
//! Must never: let a failure of a helper fail the slice. What is wrong with a file is found again by the holder.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket};
use async_trait::async_trait;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use prost::Message;
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{StoredGroup, StoredLayout};
use stevedore_proto::v1::{
    CopySource, FileReport, FileTask, Portion, PortionEnd, QuerySpec, SliceSpec, StageScan, TableTarget,
};
use stevedore_status::{ShownToken, error_of_status, status_of};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::held_rows::HeldRows;
use super::{SliceCounters, SliceFailure, SliceRunner, missing, parse_target};
use crate::flight::{MAX_MESSAGE_BYTES, TARGET_MESSAGE_BYTES};
use crate::messages::{batches, end_message, failure, owned};
use crate::write::{BatchSink, WrittenFile};

/// Most files of a portion.
const PORTION_FILES: usize = 256;
/// Portions that a worker reads at a time, so that one is read while the end of another is awaited.
const PORTIONS_AT_A_TIME: usize = 2;
/// Batches that wait for the writer.
const ROWS_READY: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a worker has for lanes.
#[derive(Debug)]
pub struct LaneResources {
    /// Portions of others that are read here at a time.
    pub helping: Arc<Semaphore>,
    /// Where held rows are spilled.
    pub spill_dir: PathBuf,
}

impl LaneResources {
    /// For a worker with so many threads, that spills to a folder.
    pub fn new(threads: usize, spill_dir: PathBuf) -> Self {
        Self { helping: Arc::new(Semaphore::new(threads.max(1) + 1)), spill_dir }
    }
}

/// The portions of a slice and what became of them.
struct Portions {
    files: Vec<Range<usize>>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    waiting: VecDeque<usize>,
    done: Vec<Option<Vec<FileReport>>>,
    left: usize,
}

impl Portions {
    fn new(tasks: &[FileTask], portion_bytes: u64) -> Self {
        let files = portions_of(tasks, portion_bytes);
        let state =
            State { waiting: (0..files.len()).collect(), done: vec![None; files.len()], left: files.len() };
        Self { files, state: Mutex::new(state), changed: Notify::new() }
    }

    fn files(&self, portion: usize) -> Range<usize> {
        self.files.get(portion).cloned().unwrap_or_default()
    }

    /// The next portion to read, once there is one; `None`: all are done.
    async fn next(&self) -> Option<usize> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on a change is not missed.
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(portion) = state.waiting.pop_front() {
                    return Some(portion);
                }
                if state.left == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    fn finish(&self, portion: usize, reports: Vec<FileReport>) {
        let mut state = self.state.lock();
        if let Some(done) = state.done.get_mut(portion) {
            *done = Some(reports);
            state.left -= 1;
        }
        self.changed.notify_waiters();
    }

    fn give_back(&self, portion: usize) {
        self.state.lock().waiting.push_front(portion);
        self.changed.notify_waiters();
    }

    /// The reports of all files, in their order.
    fn reports(self) -> Vec<FileReport> {
        self.state.into_inner().done.into_iter().flatten().flatten().collect()
    }
}

fn portions_of(tasks: &[FileTask], portion_bytes: u64) -> Vec<Range<usize>> {
    let mut portions = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, task) in tasks.iter().enumerate() {
        let full = bytes + task.size > portion_bytes || index - start >= PORTION_FILES;
        if index > start && full {
            portions.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += task.size;
    }
    if start < tasks.len() {
        portions.push(start..tasks.len());
    }
    portions
}

/// Rows on their way to the writer of a lane.
enum Rows {
    Batch(RecordBatch),
    Stored(Box<StoredGroup>),
}

/// The end of a lane that the reader of a portion writes to.
struct LaneEnd {
    rows: mpsc::Sender<Rows>,
    layout: Option<Arc<StoredLayout>>,
}

impl LaneEnd {
    async fn send(&self, rows: Rows) -> Result<()> {
        self.rows.send(rows).await.map_err(|_| Error::cancelled("nobody takes these rows any more"))
    }
}

#[async_trait]
impl BatchSink for LaneEnd {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.send(Rows::Batch(batch)).await
    }

    fn stored_layout(&self) -> Option<Arc<StoredLayout>> {
        self.layout.clone()
    }

    async fn write_stored(&mut self, group: StoredGroup) -> Result<()> {
        self.send(Rows::Stored(Box::new(group))).await
    }

    /// The files are the writer's.
    async fn finish(&mut self) -> Result<Vec<WrittenFile>> {
        Ok(Vec::new())
    }

    async fn abort(&mut self) {}
}

/// A slice whose files are read in portions.
struct Lane<'a> {
    runner: &'a SliceRunner,
    spec: &'a SliceSpec,
    source: &'a CopySource,
    target: &'a TableTarget,
    table: &'a TableSchema,
    counters: &'a SliceCounters,
    portions: Portions,
}

impl SliceRunner {
    /// Loads the files of a slice into the sink, with the help of other workers; what became of each comes back, in
    /// their order.
    pub(super) async fn copy_with_helpers(
        &self,
        spec: &SliceSpec,
        source: &CopySource,
        target: &TableTarget,
        table: &TableSchema,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<Vec<FileReport>, SliceFailure> {
        let scan = source.scan.as_ref().ok_or_else(|| missing("its files"))?;
        let portions = Portions::new(&scan.files, spec.portion_bytes);
        if portions.files.len() < 2 {
            return self.copy(source, target, table, &spec.settings, sink, counters).await;
        }
        let lane = Lane { runner: self, spec, source, target, table, counters, portions };
        let (rows, mut coming) = mpsc::channel(ROWS_READY);
        let layout = sink.stored_layout();
        let write = async {
            while let Some(rows) = coming.recv().await {
                match rows {
                    Rows::Batch(batch) => sink.write(batch).await?,
                    Rows::Stored(group) => sink.write_stored(*group).await?,
                }
            }
            Ok::<_, SliceFailure>(())
        };
        let read = async {
            let mut readers: Vec<BoxFuture<'_, Result<(), SliceFailure>>> = Vec::new();
            for _ in 0..PORTIONS_AT_A_TIME {
                readers.push(lane.read_here(LaneEnd { rows: rows.clone(), layout: layout.clone() }).boxed());
                for helper in &spec.helpers {
                    readers.push(lane.read_there(helper, rows.clone()).boxed());
                }
            }
            drop(rows);
            try_join_all(readers).await
        };
        tokio::try_join!(read, write)?;
        Ok(lane.portions.reports())
    }

    /// Reads a portion for the holder of its slice: its rows, then what became of its files.
    ///
    /// # Errors
    /// Where the message names no table. Later failures are items of the stream.
    pub(crate) fn portion(
        self: Arc<Self>,
        portion: Portion,
        settings: HashMap<String, String>,
    ) -> Result<BoxStream<'static, Result<FlightData, tonic::Status>>> {
        let target = portion.target.ok_or_else(|| missing("the target table"))?;
        let source = portion.copy.ok_or_else(|| missing("its files"))?;
        let table = parse_target(&target)?.table;
        let schema: SchemaRef = table.to_arrow();
        let (rows, coming) = mpsc::channel(ROWS_READY);
        let helping = self.lanes.helping.clone();
        if let (Some(slice), Some(scan)) = (&portion.slice, &source.scan) {
            let (job, files) = (&slice.job_id, scan.files.len());
            tracing::info!(job, slice = slice.slice, files, "reading a portion for another worker");
        }
        let read = tokio::spawn(async move {
            // The semaphore is never closed.
            let _slot = helping.acquire().await;
            let mut sink = LaneEnd { rows, layout: None };
            let counters = SliceCounters::default();
            let files = self.copy(&source, &target, &table, &settings, &mut sink, &counters).await;
            let files = files.map_err(|failure| failure.error)?;
            Ok::<_, Error>(PortionEnd { files, bytes: counters.bytes.load(Ordering::Relaxed) })
        });
        let read = AbortOnDropHandle::new(read);
        let batches = ReceiverStream::new(coming).map(|rows| match rows {
            Rows::Batch(batch) => Ok(batch),
            Rows::Stored(_) => Err(FlightError::from_external_error(Box::new(Error::internal(
                "a portion of a lane has no layout to store rows by",
            )))),
        });
        let data = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .with_max_flight_data_size(TARGET_MESSAGE_BYTES)
            .build(batches)
            .map_err(|e| status_of(Error::internal(format!("a portion could not be encoded: {e}"))));
        let end = async move {
            match read.await {
                Ok(Ok(end)) => Ok(end_message(end.encode_to_vec())),
                Ok(Err(error)) => Err(status_of(error)),
                Err(e) => Err(status_of(Error::internal(format!("reading a portion failed: {e}")))),
            }
        };
        Ok(data.chain(futures::stream::once(end)).boxed())
    }
}

impl Lane<'_> {
    /// The source of a portion.
    fn source(&self, portion: usize) -> CopySource {
        let scan = self.source.scan.as_ref();
        let files = scan.and_then(|scan| scan.files.get(self.portions.files(portion)));
        let scan = scan.map(|scan| StageScan {
            storage: scan.storage.clone(),
            file_format: scan.file_format.clone(),
            files: files.unwrap_or_default().to_vec(),
            case_sensitive: scan.case_sensitive,
        });
        CopySource {
            scan,
            transform: self.source.transform.clone(),
            relation: self.source.relation.clone(),
            on_error: self.source.on_error,
            disable_variant_check: self.source.disable_variant_check,
            evolves: self.source.evolves,
        }
    }

    /// Reads portions on this worker until all are done.
    async fn read_here(&self, mut end: LaneEnd) -> Result<(), SliceFailure> {
        while let Some(portion) = self.portions.next().await {
            let source = self.source(portion);
            let settings = &self.spec.settings;
            let reports =
                self.runner.copy(&source, self.target, self.table, settings, &mut end, self.counters).await?;
            self.portions.finish(portion, reports);
        }
        Ok(())
    }

    /// Has a helper read portions until all are done, or it fails.
    async fn read_there(&self, helper: &str, rows: mpsc::Sender<Rows>) -> Result<(), SliceFailure> {
        let mut client = match self.client(helper) {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(helper, %error, "a helper cannot be asked");
                return Ok(());
            }
        };
        while let Some(portion) = self.portions.next().await {
            let (held, end) = match self.fetch(&mut client, portion).await {
                Ok(fetched) => fetched,
                Err(error) => {
                    tracing::info!(helper, portion, %error, "a helper failed; its portion is read again");
                    self.portions.give_back(portion);
                    return Ok(());
                }
            };
            let mut held = held.release().await?;
            while let Some(batch) = held.next().await? {
                SliceCounters::add(&self.counters.rows, batch.num_rows() as u64);
                // The writer failed, and says so itself.
                if rows.send(Rows::Batch(batch)).await.is_err() {
                    return Ok(());
                }
            }
            SliceCounters::add(&self.counters.bytes, end.bytes);
            SliceCounters::add(&self.counters.files_done, end.files.len() as u64);
            SliceCounters::add(&self.counters.errors, end.files.iter().map(|file| file.errors).sum());
            self.portions.finish(portion, end.files);
        }
        Ok(())
    }

    /// All rows of a portion, from a helper.
    async fn fetch(
        &self,
        client: &mut FlightServiceClient<InterceptedService<Channel, ShownToken>>,
        portion: usize,
    ) -> Result<(HeldRows, PortionEnd)> {
        let target = TableTarget { warehouse: None, ..self.target.clone() };
        let wanted = Portion {
            slice: self.spec.slice.clone(),
            copy: Some(self.source(portion)),
            target: Some(target),
        };
        let spec = QuerySpec {
            settings: self.spec.settings.clone(),
            traceparent: self.spec.traceparent.clone(),
            portion: Some(wanted),
            ..QuerySpec::default()
        };
        let answer = client.do_get(Ticket::new(spec.encode_to_vec())).await;
        let messages = answer.map_err(|status| error_of_status(&status))?.into_inner();
        let messages = messages.map_err(|status| error_of_status(&status)).boxed();
        let (mut rows, completion) = batches(messages);
        let mut held = HeldRows::new(self.runner.resources.memory.clone(), &self.runner.lanes.spill_dir);
        while let Some(batch) = rows.try_next().await.map_err(|e| failure(e, "a portion's rows"))? {
            held.push(self.runner.resources.cpu.run(move || owned(&batch)).await?).await?;
        }
        let end = completion.metadata().ok_or_else(|| Error::unavailable("the helper was cut off"))?;
        let end = PortionEnd::decode(end)
            .map_err(|e| Error::internal(format!("the end of a portion is not readable: {e}")))?;
        let files = self.portions.files(portion);
        if end.files.len() != files.len() {
            return Err(Error::internal(format!(
                "a helper reports on {} files of {}",
                end.files.len(),
                files.len()
            )));
        }
        Ok((held, end))
    }

    fn client(&self, helper: &str) -> Result<FlightServiceClient<InterceptedService<Channel, ShownToken>>> {
        // A helper that stands still must not hold the slice up for longer than it would on its own.
        let silence = Duration::from_millis((self.spec.lease_ms / 2).max(500));
        let channel = Endpoint::from_shared(helper.to_owned())
            .map_err(|e| Error::invalid(format!("the address '{helper}' is no URL: {e}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(silence)
            .keep_alive_timeout(silence)
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(FlightServiceClient::with_interceptor(channel, self.runner.token.shown()?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tasks(sizes: &[u64]) -> Vec<FileTask> {
        sizes.iter().map(|size| FileTask { size: *size, ..FileTask::default() }).collect()
    }

    #[test]
    fn portions_hold_every_file_once_within_bytes_and_number() {
        assert_eq!(portions_of(&tasks(&[4, 4, 4, 9, 1, 1]), 8), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(portions_of(&tasks(&[1; 300]), 1 << 20), [0..256, 256..300]);
        assert!(portions_of(&[], 8).is_empty());
    }

    #[tokio::test]
    async fn a_portion_that_was_given_back_is_read_by_somebody_else() {
        let portions = Portions::new(&tasks(&[9, 9]), 8);
        assert_eq!(portions.next().await, Some(0));
        assert_eq!(portions.next().await, Some(1));
        let report = |file| vec![FileReport { file, ..FileReport::default() }];
        let waiting = async {
            // Nothing is left to take, but not all is done.
            let again = portions.next().await;
            assert_eq!(again, Some(0));
            portions.finish(0, report(0));
            portions.next().await
        };
        let failing = async {
            portions.finish(1, report(1));
            tokio::task::yield_now().await;
            portions.give_back(0);
        };
        let (end, ()) = tokio::join!(waiting, failing);
        assert_eq!(end, None);
        let files: Vec<u32> = portions.reports().iter().map(|report| report.file).collect();
        assert_eq!(files, [0, 1]);
    }
}

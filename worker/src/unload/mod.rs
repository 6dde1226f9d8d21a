//! COPY INTO a location: the rows of a query into files of a store.
//!
//! Comes in: a query, a format, a folder. Goes out: files under hidden names, durable, and for each the name
//! that it is to get when the job commits; nobody sees them before. The rows are dealt to lanes, as many as have
//! enough to do, each of which encodes and writes its own files, so that all cores take part; memory is a few
//! batches and open files a lane.
//!
//! Must never: write under a name that users see, leave files of an attempt that failed (they are removed, best
//! effort; the sweep finds the rest), write a value that could not be read back as it was without saying so.

mod compress;
mod delimited;
mod file;
mod lane;
mod parquet;
mod partition;
mod text;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt};
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::ids::AttemptKey;
use stevedore_common::storage::{ListOptions, Store, Stores, UNFINISHED};
use stevedore_common::unloaded_file::UnloadedFile;
use stevedore_common::{Error, Result};
use stevedore_decode::spec::CastOptions;
use stevedore_proto::v1::UnloadSource;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::query::QueryEngine;
use crate::query::functions;
use crate::read::WorkerResources;
use crate::storage_access::storage_spec;

use file::extension;

/// A further lane begins for each so many bytes of rows.
const LANE_BYTES: u64 = 32 << 20;
/// The most lanes.
const MOST_LANES: usize = 8;
/// Batches that wait for a lane.
const WAITING_BATCHES: usize = 2;

/// What an unload has written.
#[derive(Debug, Default)]
pub(crate) struct Unloaded {
    /// The files.
    pub files: Vec<UnloadedFile>,
    /// Bytes of the rows, in memory.
    pub input_bytes: u64,
}

/// What all lanes of an unload share.
#[derive(Debug)]
struct Target {
    store: Store,
    folder: String,
    hidden_prefix: String,
    format: FileFormat,
    cast: CastOptions,
    /// The columns of the files.
    schema: SchemaRef,
    partitioned: bool,
    single: bool,
    max_file_bytes: u64,
    query_id: String,
    raw_name: String,
    /// Lanes are numbered over all slices.
    first_lane: usize,
    resources: WorkerResources,
}

impl Target {
    /// The name of the n-th file of a lane.
    fn name(&self, partition: &str, lane: usize, n: u32) -> String {
        if !self.raw_name.is_empty() {
            return self.raw_name.clone();
        }
        let id = if self.query_id.is_empty() { String::new() } else { format!("{}_", self.query_id) };
        let folder = if partition.is_empty() { String::new() } else { format!("{partition}/") };
        let lane = self.first_lane + lane;
        format!("{folder}data_{id}{lane:04}_{n:08}.{}", extension(&self.format))
    }

    fn hidden(&self, lane: usize, n: u32) -> String {
        format!("{}{lane}-{n}", self.hidden_prefix)
    }

    /// Removes what an attempt has written, best effort.
    async fn clean(&self) {
        let prefix = format!("{}{}", self.folder, self.hidden_prefix);
        let removed = self.store.list(&prefix, ListOptions::default()).try_for_each(|file| {
            let store = &self.store;
            async move { store.delete(&file.path).await }
        });
        if let Err(error) = removed.await {
            tracing::debug!(%error, "files of an unload that failed are left to the sweep");
        }
    }
}

/// Runs an unload. `progress` is told the rows and bytes of each batch.
///
/// # Errors
/// Those of the query; storage; bad data for a value that the format cannot hold.
pub(crate) async fn run(
    engine: &QueryEngine,
    stores: &Stores,
    resources: &WorkerResources,
    attempt: AttemptKey,
    source: &UnloadSource,
    progress: impl Fn(u64, u64),
) -> Result<Unloaded> {
    let missing = |what: &str| Error::internal(format!("an unload came without {what}"));
    let query = source.query.as_ref().ok_or_else(|| missing("its query"))?;
    let store = stores.get(&storage_spec(source.storage.as_ref().ok_or_else(|| missing("its store"))?)?)?;
    let format: FileFormat = serde_json::from_str(&source.file_format)
        .map_err(|e| Error::internal(format!("the file format of an unload is not readable: {e}")))?;
    let planned = engine.plan(query).await?;
    let columns = planned.schema().fields().len() - usize::from(source.partitioned);
    let target = Arc::new(Target {
        store,
        folder: source.folder.clone(),
        hidden_prefix: format!(
            "{UNFINISHED}unload-{}-{}-{}-",
            attempt.slice.job, attempt.slice.slice, attempt.attempt
        ),
        schema: schema_of_files(planned.schema(), columns, format.kind),
        format,
        cast: functions::cast_options(&query.settings)?,
        partitioned: source.partitioned,
        single: source.single,
        max_file_bytes: source.max_file_bytes.max(1),
        query_id: source.query_id.clone(),
        raw_name: source.raw_name.clone(),
        first_lane: attempt.slice.slice.0 as usize * MOST_LANES,
        resources: resources.clone(),
    });
    let rows = engine.execute(planned).await?;
    let unloaded = deal(&target, rows, progress).await;
    if unloaded.is_err() {
        target.clean().await;
    }
    unloaded
}

/// The columns of the files: a column of nothing but NULL has no type that Parquet readers agree on.
fn schema_of_files(schema: &Schema, columns: usize, kind: FormatKind) -> SchemaRef {
    let fields = schema.fields().iter().take(columns).map(|field| {
        if field.data_type().is_null() && kind == FormatKind::Parquet {
            Arc::new(Field::new(field.name(), DataType::Utf8, true))
        } else {
            field.clone()
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

async fn deal(
    target: &Arc<Target>,
    mut rows: impl futures::Stream<Item = Result<RecordBatch>> + Unpin,
    progress: impl Fn(u64, u64),
) -> Result<Unloaded> {
    let most = if target.single { 1 } else { target.resources.cpu.threads().clamp(1, MOST_LANES) };
    let mut lanes: Vec<mpsc::Sender<RecordBatch>> = Vec::new();
    let mut running: JoinSet<Result<Vec<UnloadedFile>>> = JoinSet::new();
    let mut unloaded = Unloaded::default();
    let mut turn = 0usize;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        let bytes = weight(&batch);
        unloaded.input_bytes += bytes;
        progress(batch.num_rows() as u64, bytes);
        let wanted = unloaded.input_bytes / LANE_BYTES;
        if lanes.len() < most && lanes.len() as u64 <= wanted {
            let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
            running.spawn(lane::run(target.clone(), lanes.len(), receiver));
            lanes.push(sender);
        }
        turn = (turn + 1) % lanes.len().max(1);
        let Some(lane) = lanes.get(turn) else { return Err(Error::internal("an unload has no lane")) };
        if lane.send(batch).await.is_err() {
            // The lane has failed, and says why.
            break;
        }
    }
    drop(lanes);
    while let Some(lane) = running.join_next().await {
        let files = lane.map_err(|e| Error::internal(format!("unloading failed: {e}")))??;
        unloaded.files.extend(files);
    }
    unloaded.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(unloaded)
}

/// Bytes of the rows of a batch, of shared buffers only their part.
fn weight(batch: &RecordBatch) -> u64 {
    let bytes = |column: &arrow::array::ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(bytes).sum::<usize>() as u64
}

#[cfg(test)]
mod tests;

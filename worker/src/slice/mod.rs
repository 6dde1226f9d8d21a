//! Runs one slice from its spec to its report.
//!
//! Comes in: a [`SliceSpec`] (files to load, a query whose rows go into a table or a location, changes of rows that a
//! table has, or a table that a client's rows go into) and a token that cancels. Goes out: a [`SliceReport`] whose data
//! files are durable and uncommitted, or a
//! [`SliceFailure`] that says whether another attempt can help. Counters say how far it is.
//!
//! Must never: answer with a report while a file of it is not durable, keep files of a slice that failed
//! or was cancelled (they are removed, best effort; the sweep finds the rest), load a row of a file that
//! it reports as left out. A bad row is counted or fails the slice, as ON_ERROR has it.

mod check;
mod copy;
mod errors;
mod held_rows;
mod ingest;
mod insert;
mod lane;
mod lineage;
mod mutate;
mod report;
mod stage_files;
#[cfg(test)]
mod tests;
mod whole_files;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use iceberg::spec::{PartitionSpec, Schema};
use stevedore_common::ids::{Attempt, AttemptKey, SliceIndex, SliceKey};
use stevedore_common::schema::TableSchema;
use stevedore_common::storage::Stores;
use stevedore_common::{Error, ErrorKind, Result, row_lineage};
use stevedore_proto::v1::slice_spec::Source;
use stevedore_proto::v1::{FileReport, SliceRef, SliceSpec, SliceTotals, TableTarget, UnloadSource};
use tokio_util::sync::CancellationToken;

use mutate::Mutated;

pub use check::Checked;
pub use lane::LaneResources;
pub use report::SliceReport;
pub use stage_files::StageFiles;

use crate::flight_token::FlightToken;
use crate::inbox::Inbox;
use crate::query::QueryEngine;
use crate::query::stage_scan::StageReader;
use crate::read::WorkerResources;
use crate::storage_access::storage_spec;
use crate::unload;
use crate::write::{BatchSink, Encoders, TableWriter, WriteTarget, WrittenFile};

/// How far an attempt is; sums since it began.
#[derive(Debug, Default)]
pub struct SliceCounters {
    /// Files read to their end.
    pub files_done: AtomicU64,
    /// Rows handed to the writer.
    pub rows: AtomicU64,
    /// Input bytes read.
    pub bytes: AtomicU64,
    /// Rejected rows, tolerated ones too.
    pub errors: AtomicU64,
}

impl SliceCounters {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Why an attempt ended without a report.
#[derive(Debug, Clone)]
pub struct SliceFailure {
    /// What happened.
    pub error: Error,
    /// Another attempt cannot succeed.
    pub permanent: bool,
    /// The file at fault, if one is.
    pub file: Option<FileReport>,
}

impl From<Error> for SliceFailure {
    fn from(error: Error) -> Self {
        Self { permanent: is_permanent(&error), error, file: None }
    }
}

/// Whether only another statement, table or file would help.
fn is_permanent(error: &Error) -> bool {
    !error.is_retryable()
        && matches!(
            error.kind(),
            ErrorKind::InvalidInput
                | ErrorKind::NotFound
                | ErrorKind::AlreadyExists
                | ErrorKind::PermissionDenied
                | ErrorKind::Unsupported
                | ErrorKind::BadData
        )
}

/// Runs slices. The seam between the session with the coordinators and the work itself.
#[async_trait]
pub trait SliceExecutor: Send + Sync + 'static {
    /// Runs an attempt to its end.
    async fn run(
        &self,
        spec: SliceSpec,
        counters: Arc<SliceCounters>,
        cancel: CancellationToken,
    ) -> Result<SliceReport, SliceFailure>;

    /// Bytes of memory in use, for the heartbeat.
    fn memory_used(&self) -> u64;
}

/// The executor of a worker.
pub struct SliceRunner {
    /// Plans queries and compiles transforms.
    pub engine: Arc<QueryEngine>,
    /// Stores already opened.
    pub stores: Arc<Stores>,
    /// Threads and memory for reading.
    pub resources: WorkerResources,
    /// Threads for writing.
    pub encoders: Encoders,
    /// Infers the columns of files.
    pub stages: Arc<dyn StageReader>,
    /// Where rows are put that clients send.
    pub inbox: Arc<Inbox>,
    /// What it takes to share the reading of a slice with other workers.
    pub lanes: LaneResources,
    /// What other workers are shown, and show this one.
    pub token: FlightToken,
}

impl std::fmt::Debug for SliceRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SliceRunner").field("resources", &self.resources).finish_non_exhaustive()
    }
}

/// A target as the runner uses it.
struct Target {
    table: TableSchema,
    schema: Schema,
    spec: PartitionSpec,
}

impl SliceRunner {
    async fn work(
        &self,
        spec: SliceSpec,
        counters: &SliceCounters,
        cancel: &CancellationToken,
    ) -> Result<SliceReport, SliceFailure> {
        if let Some(Source::Unload(source)) = &spec.source {
            return self.unload(&spec, source, counters, cancel).await;
        }
        let target = spec.target.as_ref().ok_or_else(|| missing("the target table"))?;
        let parsed = parse_target(target)?;
        let mut sink = self.sink(&spec, target, &parsed)?;
        let filled = {
            let fill = async {
                let mut mutated = Mutated::default();
                let files = match &spec.source {
                    Some(Source::Mutation(source)) => {
                        mutated = self.mutate(source, target, &parsed.table, &mut sink, counters).await?;
                        Vec::new()
                    }
                    Some(Source::Copy(source)) if !spec.helpers.is_empty() => {
                        self.copy_with_helpers(&spec, source, target, &parsed.table, &mut sink, counters)
                            .await?
                    }
                    Some(Source::Copy(source)) => {
                        self.copy(source, target, &parsed.table, &spec.settings, &mut sink, counters).await?
                    }
                    Some(Source::Query(query)) => {
                        let mut query = query.clone();
                        for (name, value) in &spec.settings {
                            query.settings.entry(name.clone()).or_insert_with(|| value.clone());
                        }
                        self.insert(&query, target, &parsed.table, &mut sink, counters).await?;
                        Vec::new()
                    }
                    Some(Source::Ingest(_)) => {
                        let slice = spec.slice.as_ref().ok_or_else(|| missing("its number"))?;
                        let attempt = attempt_key(slice)?;
                        self.ingest(attempt, &spec.settings, target, &parsed.table, &mut sink, counters)
                            .await?;
                        Vec::new()
                    }
                    Some(Source::Unload(_)) | None => return Err(missing("its source").into()),
                };
                Ok::<_, SliceFailure>((files, sink.finish().await?, mutated))
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Error::cancelled("the slice was cancelled").into()),
                filled = fill => filled,
            }
        };
        // The rows of an ingest come once: another attempt would wait for them in vain.
        let only_once = matches!(spec.source, Some(Source::Ingest(_))) && !cancel.is_cancelled();
        let filled =
            filled.map_err(|failure| SliceFailure { permanent: failure.permanent || only_once, ..failure });
        match filled {
            Ok((files, written, mutated)) => {
                let report = self.report(files, written, counters);
                let is_mutation = matches!(spec.source, Some(Source::Mutation(_)));
                Ok(if is_mutation { with_changes(report, mutated) } else { report })
            }
            Err(failure) => {
                sink.abort().await;
                Err(failure)
            }
        }
    }

    /// The rows of a query into files of a location; there is no table.
    async fn unload(
        &self,
        spec: &SliceSpec,
        source: &UnloadSource,
        counters: &SliceCounters,
        cancel: &CancellationToken,
    ) -> Result<SliceReport, SliceFailure> {
        let attempt = attempt_key(spec.slice.as_ref().ok_or_else(|| missing("its number"))?)?;
        let progress = |rows, bytes| {
            SliceCounters::add(&counters.rows, rows);
            SliceCounters::add(&counters.bytes, bytes);
        };
        let unloading = unload::run(&self.engine, &self.stores, &self.resources, attempt, source, progress);
        let unloaded = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::cancelled("the slice was cancelled").into()),
            unloaded = unloading => unloaded?,
        };
        let totals = SliceTotals {
            files: 0,
            rows: unloaded.files.iter().map(|file| file.rows).sum(),
            data_files: unloaded.files.len() as u64,
            input_bytes: unloaded.input_bytes,
            output_bytes: unloaded.files.iter().map(|file| file.bytes).sum(),
            ..SliceTotals::default()
        };
        let data_files = unloaded.files.iter().map(serde_json::to_string).collect::<Result<_, _>>();
        let data_files =
            data_files.map_err(|e| Error::internal(format!("a report cannot be encoded: {e}")))?;
        Ok(SliceReport { files: Vec::new(), data_files, totals })
    }

    fn sink(&self, spec: &SliceSpec, target: &TableTarget, parsed: &Target) -> Result<TableWriter> {
        let access = target.warehouse.as_ref().ok_or_else(|| missing("the warehouse"))?;
        let store = self.stores.get(&storage_spec(access)?)?;
        let path = store.path_of_uri(&target.data_location)?;
        let objects = store
            .object_store()
            .ok_or_else(|| Error::not_supported(format!("writing tables to '{}'", store.root_uri())))?;
        // Rows that are taken over from other files say which they are.
        let schema = match &spec.source {
            Some(Source::Mutation(_)) => row_lineage::with_lineage(&parsed.schema)?,
            _ => parsed.schema.clone(),
        };
        let write = WriteTarget {
            schema,
            spec: parsed.spec.clone(),
            data_location: target.data_location.clone(),
            folder: store.object_path(&path)?,
            store: objects,
            target_file_bytes: spec.target_file_bytes,
            compatible_encodings: spec.compatible_encodings,
        };
        let slice = spec.slice.as_ref().ok_or_else(|| missing("its number"))?;
        TableWriter::new(write, attempt_key(slice)?, self.encoders.clone())
    }

    fn report(
        &self,
        files: Vec<FileReport>,
        written: Vec<WrittenFile>,
        counters: &SliceCounters,
    ) -> SliceReport {
        let totals = SliceTotals {
            files: files.len() as u64,
            rows: written.iter().map(|file| file.rows).sum(),
            data_files: written.len() as u64,
            input_bytes: counters.bytes.load(Ordering::Relaxed),
            output_bytes: written.iter().map(|file| file.bytes).sum(),
            errors: files.iter().map(|file| file.errors).sum(),
            ..SliceTotals::default()
        };
        SliceReport { files, data_files: written.into_iter().map(|file| file.json).collect(), totals }
    }
}

#[async_trait]
impl SliceExecutor for SliceRunner {
    async fn run(
        &self,
        spec: SliceSpec,
        counters: Arc<SliceCounters>,
        cancel: CancellationToken,
    ) -> Result<SliceReport, SliceFailure> {
        self.work(spec, &counters, &cancel).await
    }

    fn memory_used(&self) -> u64 {
        self.resources.memory.used()
    }
}

/// The report of a slice that changed rows: what it counts are the changes.
fn with_changes(mut report: SliceReport, mutated: Mutated) -> SliceReport {
    let removed = mutated.removed.iter();
    report.data_files.extend(removed.map(|location| serde_json::json!({ "removed": location }).to_string()));
    report.totals.data_files = report.data_files.len() as u64;
    report.totals.rows = mutated.inserted;
    report.totals.rows_updated = mutated.updated;
    report.totals.rows_deleted = mutated.deleted;
    report
}

/// The attempt that a message names.
///
/// # Errors
/// Invalid input for a job id that is none.
pub fn attempt_key(slice: &SliceRef) -> Result<AttemptKey> {
    Ok(AttemptKey {
        slice: SliceKey { job: slice.job_id.parse()?, slice: SliceIndex(slice.slice) },
        attempt: Attempt(slice.attempt),
    })
}

fn parse_target(target: &TableTarget) -> Result<Target> {
    let schema: Schema = serde_json::from_str(&target.iceberg_schema).map_err(|e| {
        Error::internal(format!("the schema of table '{}' is not readable: {e}", target.name))
    })?;
    let spec: PartitionSpec = serde_json::from_str(&target.partition_spec).map_err(|e| {
        Error::internal(format!("the partitioning of table '{}' is not readable: {e}", target.name))
    })?;
    let table = TableSchema::from_iceberg(&schema, &target.properties)?;
    Ok(Target { table, schema, spec })
}

fn missing(what: &str) -> Error {
    Error::internal(format!("a slice came without {what}"))
}

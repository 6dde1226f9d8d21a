//! The phases of a job that the leader itself carries out: claiming, committing, purging.
//!
//! Each can be run again from its start: what was done before is found in the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use stevedore_common::ids::JobId;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_state::catalog;
use stevedore_state::command::{
    Command, JobCommit, JobEnding, NewSlice, NewTable, TableCommit, TableContents,
};
use stevedore_state::jobs::{self, Job, JobColumns, JobKind, JobPhase, JobSpec, PurgeOutcome};
use stevedore_state::result::{CommandResult, CommitOutcome};
use stevedore_state::view::ReadView;
use uuid::Uuid;

use super::{columns, transactions, unload};
use crate::committer::{Append, Committer, Evolution, INSERTED_ROWS, Prepared};
use crate::config::Scheduling;
use crate::engine::contents_of;
use crate::planner::copy;
use crate::planner::plan::{JobPlan, NewTablePlan};
use crate::planner::planning::{self, Fleet};
use crate::planner::spec::SpecContext;
use crate::replica::Replica;
use crate::stores::Stores;
use crate::worker_directory::WorkerDirectory;

/// Data files read from the state at a time.
const PAGE: usize = 1_000;
/// Files deleted between two records of it.
const PURGE_CHUNK: usize = 100;
/// Files deleted at a time.
const PURGED_AT_ONCE: usize = 16;

/// What the phases need.
#[derive(Clone)]
pub struct Context {
    /// The state.
    pub replica: Replica,
    /// Stages and the warehouse.
    pub stores: Arc<Stores>,
    /// Who looks into files.
    pub directory: Arc<WorkerDirectory>,
    /// Tables.
    pub committer: Committer,
    /// Sizes and times.
    pub scheduling: Scheduling,
}

impl Context {
    /// What specs are built from.
    pub fn spec_context(&self) -> SpecContext<'_> {
        SpecContext { stores: &self.stores, committer: &self.committer, scheduling: &self.scheduling }
    }

    pub(super) fn spec(&self, job: JobId) -> Result<JobSpec> {
        jobs::job_spec(&*self.replica.local(), job)?
            .ok_or_else(|| Error::internal(format!("job {job} has no specification")))
    }

    async fn plan(&self, spec: &JobSpec) -> Result<JobPlan> {
        JobPlan::load(&spec.plan, self.stores.warehouse().store()).await
    }
}

/// Claiming: lists, claims, plans slices, seals.
///
/// # Errors
/// What listing says; refusals.
pub async fn claim(context: &Context, job: JobId, fleet: Fleet) -> Result<()> {
    let spec = context.spec(job)?;
    match context.plan(&spec).await? {
        JobPlan::Copy(plan) => {
            let source = context.stores.resolve(&*context.replica.local(), &plan.source)?;
            let claimed = copy::list_and_claim(&context.replica, &source, job).await?;
            if let Some(evolution) = plan.evolution.as_ref().filter(|_| !claimed.is_empty()) {
                columns::reserve(context, job, &source, &plan, evolution).await?;
            }
            planning::plan_and_seal(&context.replica, &context.scheduling, fleet, job, &plan, claimed).await
        }
        plan @ (JobPlan::Query(_) | JobPlan::Unload(_) | JobPlan::Mutation(_) | JobPlan::Ingest(_)) => {
            let parts = match &plan {
                JobPlan::Unload(unload) => unload.parts,
                JobPlan::Mutation(mutation) => mutation.slices(),
                _ => 1,
            };
            let slices = (0..parts).map(|_| NewSlice { files: Vec::new(), bytes: 0 }).collect();
            let slices = planning::plan_slices(&context.replica, job, slices).await?;
            context.replica.propose(Command::SealJob { job, files: 0, slices }).await.map(|_| ())
        }
    }
}

/// The data files of the job's accepted slices, as Iceberg JSON.
pub(super) fn data_files(view: &dyn ReadView, job: &Job) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut after = None;
    loop {
        let (page, next) = jobs::data_files(view, job, after, PAGE)?;
        files.extend(page);
        match next {
            Some(next) => after = Some(next),
            None => return Ok(files),
        }
    }
}

/// Committing: new table metadata under a fresh name, then the one command that flips the table and ends
/// the job; again on newer metadata as long as others come first.
///
/// # Errors
/// Conflict where the rows no longer fit the table; storage; refusals.
pub async fn commit(context: &Context, job: &Job) -> Result<()> {
    let id = job.id;
    if job.reopening.is_some() {
        return columns::reopen(context, id).await;
    }
    let brought = jobs::job_columns(&*context.replica.local(), id)?;
    if job.phase == JobPhase::Running && brought.is_none() {
        context.replica.propose(Command::BeginCommit { job: id }).await?;
    }
    let spec = context.spec(id)?;
    if job.kind == JobKind::Unload {
        return match context.plan(&spec).await? {
            JobPlan::Unload(plan) => unload::commit(context, job, &plan).await,
            _ => Err(Error::internal("an unload without its plan")),
        };
    }
    let (append, how) = change_of(context, job, &spec, brought).await?;
    match (job.table, spec.transaction) {
        (Some(table), Some(transaction)) => {
            transactions::prepare(context, job, transaction, table, append, how).await
        }
        (Some(table), None) => commit_to_table(context, id, &spec, table, append, how).await,
        (None, _) => match context.plan(&spec).await?.new_table() {
            Some(new) => commit_new_table(context, id, &spec, new.clone(), append).await,
            None => Err(Error::internal("a job without a table creates none")),
        },
    }
}

/// The rows of a job whose slices are accepted, and how they come into its table.
pub(super) async fn change_of(
    context: &Context,
    job: &Job,
    spec: &JobSpec,
    brought: Option<JobColumns>,
) -> Result<(Append, Added)> {
    let (removed, added) = split(data_files(&*context.replica.local(), job)?);
    let append = Append {
        data_files: added,
        schema_id: brought.as_ref().map_or(spec.schema_id, |brought| brought.schema_id),
        spec_id: spec.spec_id,
        job_id: job.id.to_string(),
        commit_id: Uuid::new_v4().to_string(),
        now_ms: context.replica.now_ms(),
        summary: match spec.kind {
            JobKind::Delete | JobKind::Update | JobKind::Merge => {
                BTreeMap::from([(INSERTED_ROWS.to_owned(), job.rows.to_string())])
            }
            _ => BTreeMap::new(),
        },
        evolution: brought.map(|brought| Evolution { columns: brought.reserved() }),
    };
    let how = match spec.kind {
        JobKind::Copy | JobKind::CreateTableAs => Added::Appended,
        _ => match context.plan(spec).await? {
            JobPlan::Query(plan) if plan.overwrite => Added::InPlaceOfAll,
            JobPlan::Mutation(plan) => Added::InPlaceOf(removed, plan.base_snapshot),
            _ => Added::Appended,
        },
    };
    Ok((append, how))
}

/// The location of a data file that a job replaces, if this is what the report says of it.
pub(super) fn removed_file(reported: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Removed {
        removed: String,
    }
    // Data files are described at length; the others in a few words.
    let short = reported.starts_with("{\"removed\":");
    short.then(|| serde_json::from_str::<Removed>(reported).ok()).flatten().map(|file| file.removed)
}

/// Removed and added data files.
fn split(reported: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for file in reported {
        match removed_file(&file) {
            Some(location) => removed.push(location),
            None => added.push(file),
        }
    }
    (removed, added)
}

/// How a job's data files come into its table.
pub(super) enum Added {
    /// Beside those that are there.
    Appended,
    /// INSERT OVERWRITE.
    InPlaceOfAll,
    /// DELETE, UPDATE, MERGE INTO: in the place of these files, which had these rows in that snapshot.
    InPlaceOf(Vec<String>, Option<i64>),
}

impl Added {
    /// The version of the table after this one, with the job's rows.
    pub(super) async fn prepare(
        &self,
        committer: &Committer,
        location: &str,
        append: &Append,
    ) -> Result<Prepared> {
        match self {
            Self::Appended => committer.append(location, append).await,
            Self::InPlaceOfAll => committer.overwrite(location, append).await,
            Self::InPlaceOf(removed, base) => committer.rewrite(location, append, removed, *base).await,
        }
    }
}

/// The schema of a version whose rows brought columns.
pub(super) fn new_schema_of(prepared: &Prepared) -> Option<i32> {
    (prepared.schema_id != prepared.base_schema_id).then_some(prepared.schema_id)
}

async fn commit_to_table(
    context: &Context,
    job: JobId,
    spec: &JobSpec,
    table: stevedore_common::ids::TableId,
    append: Append,
    how: Added,
) -> Result<()> {
    let overwrite = matches!(how, Added::InPlaceOfAll);
    let record = catalog::table_by_id(&*context.replica.read().await?, table)?
        .ok_or_else(|| Error::not_found(format!("table '{}' is gone", spec.table_name)))?;
    let mut location = record.metadata_location;
    loop {
        let prepared = match how.prepare(&context.committer, &location, &append).await {
            // The table's columns are others than those that the slices wrote: they run again.
            Err(error) if append.evolution.is_some() && error.kind() == ErrorKind::Conflict => {
                return columns::reserve_again(context, job, error).await;
            }
            // Another try would find the same: the statement has to look at the rows again.
            Err(error) if matches!(how, Added::InPlaceOf(..)) && error.kind() == ErrorKind::Conflict => {
                let end = JobEnding::Aborted(error.retryable(true));
                return context.replica.propose(Command::EndJob { job, end }).await.map(|_| ());
            }
            prepared => prepared?,
        };
        let commit = TableCommit {
            table,
            uuid: record.uuid,
            epoch: spec.epoch,
            expected_location: location.clone(),
            new_location: prepared.metadata_location.clone(),
            schema_id: prepared.base_schema_id,
            spec_id: prepared.spec_id,
            new_schema_id: new_schema_of(&prepared),
            overwrite,
            contents: contents_of(&prepared),
        };
        let command = Command::CommitJob(JobCommit { job, tables: vec![commit], new_table: None });
        match context.replica.propose(command).await {
            Ok(CommandResult::Commit(CommitOutcome::Committed(summary))) => {
                if summary.snapshot_id != prepared.snapshot_id {
                    // An earlier try had committed; this version was never needed.
                    context.committer.discard(&prepared).await;
                }
                tracing::info!(%job, rows = summary.rows, table = spec.table_name, "committed");
                metrics::counter!("stevedore_rows_loaded_total").increment(summary.rows);
                return Ok(());
            }
            Ok(CommandResult::Commit(CommitOutcome::Moved { current_location, .. })) => {
                context.committer.discard(&prepared).await;
                location = current_location;
            }
            Ok(CommandResult::Commit(CommitOutcome::Aborted(_))) => {
                context.committer.discard(&prepared).await;
                return Ok(());
            }
            Ok(other) => return Err(Error::internal(format!("unexpected answer to a commit: {other:?}"))),
            Err(error) => {
                // While the outcome is not known, the version may be the current one.
                if error.kind() != ErrorKind::OutcomeUnknown {
                    context.committer.discard(&prepared).await;
                }
                return Err(error);
            }
        }
    }
}

async fn commit_new_table(
    context: &Context,
    job: JobId,
    spec: &JobSpec,
    new: NewTablePlan,
    append: Append,
) -> Result<()> {
    let prepared = context.committer.append(&new.metadata_location, &append).await?;
    let uuid = Uuid::parse_str(&prepared.table_uuid)
        .map_err(|_| Error::internal(format!("'{}' is no table UUID", prepared.table_uuid)))?;
    let contents: TableContents = contents_of(&prepared);
    let table = NewTable {
        database: new.database,
        name: new.name,
        uuid,
        metadata_location: prepared.metadata_location.clone(),
        schema_id: prepared.schema_id,
        spec_id: prepared.spec_id,
        comment: new.comment,
        transient: new.transient,
        options: new.options,
        if_not_exists: new.if_not_exists,
        or_replace: new.or_replace,
        contents,
    };
    let command = Command::CommitJob(JobCommit { job, tables: Vec::new(), new_table: Some(table) });
    match context.replica.propose(command).await? {
        CommandResult::Commit(_) => {
            tracing::info!(%job, table = spec.table_name, "created with rows");
            Ok(())
        }
        other => Err(Error::internal(format!("unexpected answer to a commit: {other:?}"))),
    }
}

/// Purging: deletes what was fully loaded and is unchanged, records it chunk by chunk.
///
/// # Errors
/// Storage; refusals.
pub async fn purge(context: &Context, job: &Job) -> Result<()> {
    let spec = context.spec(job.id)?;
    let JobPlan::Copy(plan) = context.plan(&spec).await? else {
        return context.replica.propose(Command::EndPurge { job: job.id }).await.map(|_| ());
    };
    let source = context.stores.resolve(&*context.replica.local(), &plan.source)?;
    let mut after = None;
    loop {
        let (page, next) = jobs::purgeable_files(&*context.replica.local(), job, after, PURGE_CHUNK)?;
        let store = &source.store;
        let purged: Vec<_> = futures::stream::iter(page)
            .map(|file| async move {
                if store.delete_if_unchanged(&file.path, &file.version).await? {
                    return Ok::<_, Error>((file.file, PurgeOutcome::Deleted));
                }
                tracing::warn!(job = %job.id, file = file.name, "not purged: the file changed after it was loaded");
                Ok((file.file, PurgeOutcome::Changed))
            })
            .buffer_unordered(PURGED_AT_ONCE)
            .try_collect()
            .await?;
        if !purged.is_empty() {
            context.replica.propose(Command::RecordPurged { job: job.id, files: purged }).await?;
        }
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    context.replica.propose(Command::EndPurge { job: job.id }).await.map(|_| ())
}

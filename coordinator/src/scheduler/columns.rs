//! Columns that a load brings: found and reserved after its files are claimed, and again when the table's columns have
//! changed so that what was written no longer fits.
//!
//! Each step can be run again from its start. What is found is compared with the table's schema, and reserved only
//! if the table still has that schema.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::TableMetadataRef;
use stevedore_common::file_identity::FileEntry;
use stevedore_common::ids::{FileIndex, JobId};
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_state::command::{Command, WantedColumn};
use stevedore_state::jobs::{self, JobColumns, JobPhase};
use stevedore_state::result::{ColumnsOutcome, CommandResult};
use stevedore_state::transactions;

use super::phases::Context;
use crate::planner::evolution::{FileColumns, columns_of_files};
use crate::planner::plan::{CopyPlan, EvolutionPlan};
use crate::replica::Replica;
use crate::stores::ResolvedSource;

/// Claimed files read from the state at a time.
const PAGE: usize = 1_000;
/// Slices reopened by one command.
const SLICES_AT_ONCE: u32 = 200;
/// Rounds of slices after which a load gives up: somebody changes the table's columns all the time.
const MOST_ROUNDS: u32 = 10;
/// Questions that workers may leave unanswered before the step is given back.
const MOST_TRIES: u32 = 5;
/// Between two looks for a worker.
const LOOK_FOR_WORKER_EVERY: Duration = Duration::from_millis(500);

/// Finds the columns that the claimed files have and the table lacks, and reserves field ids for them.
///
/// # Errors
/// What is wrong with the columns; refusals.
pub(super) async fn reserve(
    context: &Context,
    job: JobId,
    source: &ResolvedSource,
    plan: &CopyPlan,
    evolution: &EvolutionPlan,
) -> Result<()> {
    let Some(found) = find(context, job, source, plan, evolution).await? else { return Ok(()) };
    loop {
        let metadata = metadata_of(context, job).await?;
        let table = TableSchema::from_metadata(&metadata)?;
        let wanted = found
            .new_to(&table)?
            .into_iter()
            .map(|column| WantedColumn { name: column.name, ty: column.ty, exists: false })
            .collect();
        if let Some(columns) = propose(context, job, &metadata, wanted).await? {
            let names: Vec<&str> = columns.columns.iter().map(|column| column.name.as_str()).collect();
            tracing::info!(%job, columns = names.join(", "), "looked for columns that the table lacks");
            return Ok(());
        }
    }
}

/// As long as there is no worker, the load waits, as its slices would; one that goes away while it is asked is asked
/// for by another question. `None`: the load has ended meanwhile.
async fn find(
    context: &Context,
    job: JobId,
    source: &ResolvedSource,
    plan: &CopyPlan,
    evolution: &EvolutionPlan,
) -> Result<Option<FileColumns>> {
    let Some(group) = jobs::job(&*context.replica.local(), job)?.map(|job| job.group) else {
        return Ok(None);
    };
    let mut tries = 0;
    loop {
        let files = claimed_files(context.replica.clone(), job);
        let error = match columns_of_files(&context.directory, &group, source, plan, evolution, files).await {
            Ok(found) => return Ok(Some(found)),
            Err(error) => error,
        };
        let nobody_there = context.directory.size(&group).await.is_ok_and(|(workers, _)| workers == 0);
        tries += u32::from(!nobody_there);
        if !may_be_asked_again(&error) || tries >= MOST_TRIES {
            return Err(error);
        }
        tracing::warn!(%job, %error, tries, "no worker told the columns of the files, trying again");
        let phase = jobs::job(&*context.replica.local(), job)?.map(|job| job.phase);
        if phase != Some(JobPhase::Claiming) {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_FOR_WORKER_EVERY).await;
    }
}

/// Whether the question was lost rather than answered: its worker, or the store, was not there.
fn may_be_asked_again(error: &Error) -> bool {
    let is_lost = matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::OutcomeUnknown | ErrorKind::Cancelled | ErrorKind::Internal
    );
    is_lost || error.is_retryable()
}

fn claimed_files(replica: Replica, job: JobId) -> BoxStream<'static, Result<FileEntry>> {
    let pages = move |after: Option<Option<FileIndex>>| {
        let page = after.map(|after| jobs::job_files(&*replica.local(), job, after, PAGE));
        std::future::ready(page.map(|page| {
            let last = page.as_ref().ok().and_then(|page| page.last()).map(|(index, _)| Some(*index));
            (page, last)
        }))
    };
    stream::unfold(Some(None), pages)
        .map_ok(|page| {
            let entry = |(_, file): (FileIndex, jobs::JobFile)| {
                Ok(FileEntry { path: file.path, version: file.version })
            };
            stream::iter(page.into_iter().map(entry))
        })
        .try_flatten()
        .boxed()
}

/// The metadata of the table that a job loads into: the current one, or its transaction's.
async fn metadata_of(context: &Context, job: JobId) -> Result<TableMetadataRef> {
    let view = context.replica.read().await?;
    let record = jobs::job(&*view, job)?;
    let table = match record.and_then(|job| Some((job.transaction, job.table?))) {
        Some((transaction, table)) => transactions::table_of_job(&*view, transaction, table)?,
        None => None,
    };
    let table = table.ok_or_else(|| Error::not_found(format!("the table of job {job} is gone")))?;
    context.committer.load(&table.metadata_location).await
}

/// `None`: the table has another schema than the metadata.
async fn propose(
    context: &Context,
    job: JobId,
    metadata: &TableMetadataRef,
    columns: Vec<WantedColumn>,
) -> Result<Option<JobColumns>> {
    let command = Command::ReserveColumns {
        job,
        schema_id: metadata.current_schema_id(),
        last_column_id: metadata.last_column_id(),
        columns,
    };
    match context.replica.propose(command).await? {
        CommandResult::Columns(ColumnsOutcome::Reserved(columns)) => Ok(Some(columns)),
        CommandResult::Columns(ColumnsOutcome::Moved) => Ok(None),
        other => Err(Error::internal(format!("unexpected answer to columns of a load: {other:?}"))),
    }
}

/// The slices of a load wrote columns that do not fit the table any more: reserves what the table lacks now, and has
/// them run again.
///
/// # Errors
/// `conflict`, why they do not fit, after too many rounds; refusals.
pub(super) async fn reserve_again(context: &Context, job: JobId, conflict: Error) -> Result<()> {
    let known = jobs::job_columns(&*context.replica.local(), job)?;
    let Some(known) = known.filter(|known| known.rounds < MOST_ROUNDS) else { return Err(conflict) };
    tracing::info!(%job, %conflict, "the table's columns changed: the slices run again");
    loop {
        let metadata = metadata_of(context, job).await?;
        let table = TableSchema::from_metadata(&metadata)?;
        let wanted = known.columns.iter().map(|column| WantedColumn {
            name: column.name.clone(),
            ty: column.ty.clone(),
            exists: table.columns.iter().any(|other| other.name.to_lowercase() == column.name.to_lowercase()),
        });
        if propose(context, job, &metadata, wanted.collect()).await?.is_some() {
            return reopen(context, job).await;
        }
    }
}

/// Makes the accepted slices of a job pending again.
///
/// # Errors
/// Refusals.
pub(super) async fn reopen(context: &Context, job: JobId) -> Result<()> {
    let command = Command::ReopenSlices { job, limit: SLICES_AT_ONCE };
    while context.replica.propose(command.clone()).await? == (CommandResult::Progress { done: false }) {}
    Ok(())
}

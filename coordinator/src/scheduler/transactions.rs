//! Versions of tables that only a transaction knows, their commit, and what is done when nobody waits.
//!
//! Comes in: a job of a transaction whose slices are accepted; COMMIT, from whichever coordinator has the client;
//! time. Goes out: metadata under fresh names, and the commands that make it the transaction's or the table's. Where
//! others have committed since, appended rows are added again to the newer version; rows that were changed are not:
//! the transaction fails, and nothing of it was done. Must never delete a file that a table could refer to: only
//! versions of transactions that have ended, and that the record says the table was not flipped to.

use std::collections::HashSet;

use iceberg::spec::TableMetadata;
use stevedore_common::ids::{TableId, TransactionId};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_state::catalog;
use stevedore_state::command::{Command, JobEnding, TableCommit};
use stevedore_state::jobs::{self, Job};
use stevedore_state::result::{CommandResult, TransactionOutcome};
use stevedore_state::transactions::{
    self, ClientTransaction, JobPreparation, TableChangeShape, TransactionCommand, TransactionPhase,
    TransactionTable,
};
use stevedore_state::view::ReadView;

use super::columns;
use super::housekeeping::DAY_MS;
use super::phases::{Added, Context, change_of, new_schema_of};
use crate::committer::{Append, Prepared};
use crate::engine::contents_of;
use crate::replica::Replica;

/// How often a commit is built anew because others came first.
const MOST_REBASES: usize = 50;
/// Names of written files that the record of a prepared job keeps, bytes. Beyond them, what a rolled-back
/// transaction wrote stays behind.
const MOST_WRITTEN: usize = 24 * 1024;
/// Ended transactions that one round looks after.
const SWEPT_AT_ONCE: usize = 16;

/// Proposes a command on a transaction.
pub(crate) async fn propose(replica: &Replica, command: TransactionCommand) -> Result<TransactionOutcome> {
    match replica.propose(Command::Transaction(command)).await? {
        CommandResult::Transaction(outcome) => Ok(outcome),
        other => Err(Error::internal(format!("unexpected answer about a transaction: {other:?}"))),
    }
}

fn unexpected(outcome: &TransactionOutcome) -> Error {
    Error::internal(format!("unexpected answer about a transaction: {outcome:?}"))
}

fn shape_of(how: &Added) -> TableChangeShape {
    match how {
        Added::Appended => TableChangeShape::Appended,
        Added::InPlaceOf(..) => TableChangeShape::Rewritten,
        Added::InPlaceOfAll => TableChangeShape::Overwritten,
    }
}

/// The names of the files of a version, as far as they are worth remembering: the metadata file first.
fn remembered(prepared: &Prepared) -> Vec<String> {
    let mut left = MOST_WRITTEN;
    let fits = |location: &&String| {
        let fits = location.len() <= left;
        left = left.saturating_sub(location.len());
        fits
    };
    prepared.written.iter().rev().take_while(fits).cloned().collect()
}

/// Puts the rows of a job into its transaction's version of the table.
///
/// # Errors
/// Storage; refusals.
pub(super) async fn prepare(
    context: &Context,
    job: &Job,
    transaction: TransactionId,
    table: TableId,
    append: Append,
    how: Added,
) -> Result<()> {
    let view = context.replica.read().await?;
    let record = transactions::transaction(&*view, transaction)?
        .ok_or_else(|| Error::not_found(format!("transaction {transaction} is gone")))?;
    let current = catalog::table_by_id(&*view, table)?
        .ok_or_else(|| Error::not_found("the table of a statement is gone"))?;
    let mut location = transactions::version_in(&*view, &record, current)?.metadata_location;
    drop(view);
    loop {
        let prepared = match how.prepare(&context.committer, &location, &append).await {
            // Another statement of the transaction, at the same time, has added columns.
            Err(error) if append.evolution.is_some() && error.kind() == ErrorKind::Conflict => {
                return columns::reserve_again(context, job.id, error).await;
            }
            Err(error) if matches!(how, Added::InPlaceOf(..)) && error.kind() == ErrorKind::Conflict => {
                let end = JobEnding::Aborted(error.retryable(true));
                return context.replica.propose(Command::EndJob { job: job.id, end }).await.map(|_| ());
            }
            prepared => prepared?,
        };
        let command = TransactionCommand::Prepare(JobPreparation {
            job: job.id,
            table,
            expected_location: location.clone(),
            new_location: prepared.metadata_location.clone(),
            new_schema_id: new_schema_of(&prepared),
            contents: contents_of(&prepared),
            shape: shape_of(&how),
            written: remembered(&prepared),
        });
        match propose(&context.replica, command).await {
            Ok(TransactionOutcome::Prepared { snapshot_id }) => {
                if snapshot_id != prepared.snapshot_id {
                    // An earlier try was the one.
                    context.committer.discard(&prepared).await;
                }
                return Ok(());
            }
            Ok(TransactionOutcome::Moved { current_location, .. }) => {
                context.committer.discard(&prepared).await;
                location = current_location;
            }
            Ok(TransactionOutcome::RolledBack(_)) => {
                context.committer.discard(&prepared).await;
                return Ok(());
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => {
                if error.kind() != ErrorKind::OutcomeUnknown {
                    context.committer.discard(&prepared).await;
                }
                return Err(error);
            }
        }
    }
}

/// Why a transaction's changes are not in the tables.
pub(crate) fn rolled_back(reason: Error) -> Error {
    let retryable = reason.is_retryable();
    reason.context("the transaction was rolled back").retryable(retryable)
}

fn conflict(own: &TransactionTable) -> Error {
    Error::conflict(format!(
        "table '{}' was changed by another commit while the transaction was open",
        own.name
    ))
    .hint("nothing was changed; run the transaction again")
    .retryable(true)
}

/// COMMIT. A transaction that cannot commit is rolled back.
///
/// # Errors
/// Conflict where others changed the same tables; why it was rolled back before; storage; outcome unknown.
pub(crate) async fn commit(context: &Context, id: TransactionId) -> Result<()> {
    for _ in 0..MOST_REBASES {
        let view = context.replica.read().await?;
        let record = transactions::transaction(&*view, id)?
            .ok_or_else(|| Error::not_found(format!("transaction {id} is not known")))?;
        match record.phase {
            TransactionPhase::Open => {}
            TransactionPhase::Committed => return Ok(()),
            TransactionPhase::Failed | TransactionPhase::RolledBack => {
                return Err(rolled_back(record.reason()));
            }
        }
        let mut rebased = Vec::new();
        let tables = match commits_of(context, &*view, id, &mut rebased).await {
            Ok(tables) => tables,
            Err(error) => {
                discard(context, &rebased).await;
                if error.kind() == ErrorKind::Conflict {
                    fail(context, id, error.clone()).await?;
                    return Err(rolled_back(error));
                }
                return Err(error);
            }
        };
        drop(view);
        match propose(&context.replica, TransactionCommand::Commit { id, tables: tables.clone() }).await {
            Ok(TransactionOutcome::Committed) => {
                if !rebased.is_empty() {
                    discard_unused(context, id, &rebased).await?;
                }
                tracing::info!(transaction = %id, tables = tables.len(), "committed");
                return Ok(());
            }
            Ok(TransactionOutcome::Moved { .. }) => discard(context, &rebased).await,
            Ok(TransactionOutcome::RolledBack(reason)) => {
                discard(context, &rebased).await;
                return Err(rolled_back(reason));
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => {
                if error.kind() != ErrorKind::OutcomeUnknown {
                    discard(context, &rebased).await;
                }
                return Err(error);
            }
        }
    }
    let error = Error::conflict("the tables of the transaction change too often")
        .hint("nothing was changed; run the transaction again")
        .retryable(true);
    fail(context, id, error.clone()).await?;
    Err(rolled_back(error))
}

/// Rolls a transaction back for a reason of ours that its client hears now, and leaves its session.
async fn fail(context: &Context, id: TransactionId, error: Error) -> Result<()> {
    propose(&context.replica, TransactionCommand::Fail { id, error, told: false, idle_since_ms: None })
        .await?;
    propose(&context.replica, TransactionCommand::RollBack { id }).await.map(|_| ())
}

async fn discard(context: &Context, versions: &[Prepared]) {
    for version in versions {
        context.committer.discard(version).await;
    }
}

/// Where somebody else's COMMIT of the same transaction was the one, the versions made for this one are nobody's.
async fn discard_unused(context: &Context, id: TransactionId, rebased: &[Prepared]) -> Result<()> {
    let view = context.replica.read().await?;
    let own = transactions::transaction_tables(&*view, id)?;
    let used: HashSet<&String> = own.iter().filter_map(|own| own.committed_location.as_ref()).collect();
    // One flipped version rests on those made before it for the same table.
    let uuids: HashSet<&String> = rebased
        .iter()
        .filter(|version| used.contains(&version.metadata_location))
        .map(|version| &version.table_uuid)
        .collect();
    for version in rebased.iter().filter(|version| !uuids.contains(&version.table_uuid)) {
        context.committer.discard(version).await;
    }
    Ok(())
}

/// The flips of a transaction, on the tables as they are now; `rebased` gets what was written for them.
async fn commits_of(
    context: &Context,
    view: &dyn ReadView,
    id: TransactionId,
    rebased: &mut Vec<Prepared>,
) -> Result<Vec<TableCommit>> {
    let mut commits = Vec::new();
    for own in transactions::transaction_tables(view, id)? {
        let table = catalog::table_by_id(view, own.table)?;
        let Some(table) = table.filter(|table| table.dropped_on_ms.is_none()) else {
            return Err(conflict(&own));
        };
        let as_built = TableCommit {
            table: own.table,
            uuid: own.uuid,
            epoch: own.version.epoch,
            expected_location: own.base_location.clone(),
            new_location: own.version.location.clone(),
            schema_id: own.evolved_from.unwrap_or(own.version.schema_id),
            spec_id: own.version.spec_id,
            new_schema_id: own.evolved_from.map(|_| own.version.schema_id),
            overwrite: own.overwritten,
            contents: own.version.contents,
        };
        if table.metadata_location == own.base_location {
            commits.push(as_built);
            continue;
        }
        if own.rewritten || own.overwritten {
            return Err(conflict(&own));
        }
        if own.evolved_from.is_some() {
            check_same_columns(context, &own, &table.metadata_location).await?;
        }
        let mut location = table.metadata_location.clone();
        let mut newest = None;
        for (job, spec) in appends_to(view, id, own.table)? {
            let brought = jobs::job_columns(view, job.id)?;
            let (append, how) = change_of(context, &job, &spec, brought).await?;
            let prepared = how.prepare(&context.committer, &location, &append).await.map_err(|error| {
                // What does not fit any more would not fit the next time either; the transaction has to be run again.
                let retryable = error.kind() == ErrorKind::Conflict || error.is_retryable();
                error.context(format!("table '{}'", own.name)).retryable(retryable)
            })?;
            location.clone_from(&prepared.metadata_location);
            rebased.push(prepared.clone());
            newest = Some(prepared);
        }
        let newest =
            newest.ok_or_else(|| Error::internal(format!("nothing was added to table '{}'", own.name)))?;
        commits.push(TableCommit {
            expected_location: table.metadata_location,
            new_location: newest.metadata_location.clone(),
            schema_id: own.evolved_from.unwrap_or(newest.schema_id),
            spec_id: newest.spec_id,
            new_schema_id: own.evolved_from.map(|_| newest.schema_id),
            contents: contents_of(&newest),
            ..as_built
        });
    }
    Ok(commits)
}

/// A transaction that has added columns to a table is not brought onto one with other columns: those that its
/// statements saw are not those that they would see there, nor need its schemas and field ids mean the same.
async fn check_same_columns(context: &Context, own: &TransactionTable, location: &str) -> Result<()> {
    let base = context.committer.load(&own.base_location).await?;
    let current = context.committer.load(location).await?;
    let ids = |metadata: &TableMetadata| {
        let mut ids: Vec<i32> = metadata.schemas_iter().map(|schema| schema.schema_id()).collect();
        ids.sort_unstable();
        (ids, metadata.current_schema_id(), metadata.last_column_id(), metadata.default_partition_spec_id())
    };
    if ids(&base) == ids(&current) {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "the transaction added columns to table '{}', whose columns were changed by another commit while it was open",
        own.name
    ))
    .hint("nothing was changed; run the transaction again")
    .retryable(true))
}

/// The prepared jobs of a transaction that add rows to a table, in the order in which they did.
fn appends_to(
    view: &dyn ReadView,
    id: TransactionId,
    table: TableId,
) -> Result<Vec<(Job, stevedore_state::jobs::JobSpec)>> {
    let mut prepared: Vec<_> = transactions::transaction_jobs(view, id)?
        .into_iter()
        .filter_map(|entry| {
            Some((entry.prepared.filter(|prepared| prepared.table == table)?.order, entry.job))
        })
        .collect();
    prepared.sort_unstable();
    prepared
        .into_iter()
        .map(|(_, job)| match (jobs::job(view, job)?, jobs::job_spec(view, job)?) {
            (Some(job), Some(spec)) => Ok((job, spec)),
            _ => Err(Error::internal(format!("job {job} of a transaction is missing"))),
        })
        .collect()
}

/// One round of the leader: rolls back what no client comes back to, deletes what ended transactions left behind,
/// forgets the old ones.
pub(super) async fn keep_house(context: &Context) -> Result<()> {
    let view = context.replica.local();
    let now = context.replica.now_ms();
    for record in transactions::open_transactions(&*view)? {
        let idle = now - record.active_on_ms;
        if idle <= record.idle_limit_ms || transactions::running_job(&*view, record.id)?.is_some() {
            continue;
        }
        // Drivers hold transactions that nobody asked for: one that only read has nothing to lose, and begins anew.
        if record.session.is_none() && !record.has_changes() {
            propose(&context.replica, TransactionCommand::Renew { id: record.id }).await?;
            continue;
        }
        let error = Error::cancelled(format!("the transaction was idle for {} s", idle / 1_000))
            .hint("nothing was changed; SET transaction_idle_timeout allows more");
        let idle_since_ms = Some(record.active_on_ms);
        tracing::info!(transaction = %record.id, "rolled back: its client has not been heard of");
        propose(
            &context.replica,
            TransactionCommand::Fail { id: record.id, error, told: false, idle_since_ms },
        )
        .await?;
    }
    let old = |record: &ClientTransaction| {
        record.ended_on_ms.is_some_and(|ended| ended + context.scheduling.lease_ms <= now)
    };
    if transactions::unswept_transactions(&*view, SWEPT_AT_ONCE)?.iter().any(old) {
        let view = context.replica.read().await?;
        for record in transactions::unswept_transactions(&*view, SWEPT_AT_ONCE)?.iter().filter(|r| old(r)) {
            sweep(context, &*view, record).await?;
            context
                .replica
                .propose(Command::Transaction(TransactionCommand::Swept { id: record.id }))
                .await?;
        }
    }
    let before_ms = now - context.scheduling.job_history_days * DAY_MS;
    if transactions::has_old_transactions(&*view, before_ms)? {
        let command = TransactionCommand::Trim { before_ms, limit: 100 };
        context.replica.propose(Command::Transaction(command)).await?;
    }
    Ok(())
}

/// Deletes the versions of an ended transaction that no table was flipped to.
async fn sweep(context: &Context, view: &dyn ReadView, record: &ClientTransaction) -> Result<()> {
    let kept: HashSet<TableId> = transactions::transaction_tables(view, record.id)?
        .into_iter()
        .filter(|own| own.committed_location.as_ref() == Some(&own.version.location))
        .map(|own| own.table)
        .collect();
    for entry in transactions::transaction_jobs(view, record.id)? {
        if let Some(prepared) = entry.prepared.filter(|prepared| !kept.contains(&prepared.table)) {
            context.committer.discard_files(&prepared.written).await;
        }
    }
    Ok(())
}

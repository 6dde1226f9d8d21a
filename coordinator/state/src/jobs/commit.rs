//! Commit: the one command before which nothing happened and after which everything did.
//!
//! It checks again all that it rests on. Somebody else's commit to the same table is no obstacle:
//! the answer is [`CommitOutcome::Moved`], and the committer rebases. A table that was truncated,
//! replaced, overwritten or dropped is one: the job is aborted.

use std::collections::BTreeSet;

use stevedore_common::Error;
use stevedore_common::ids::JobId;

use crate::apply::{Outcome, Transaction, next, refuse};
use crate::catalog::{self, Table, tables};
use crate::command::{JobCommit, TableCommit};
use crate::jobs::create::{put, require, require_spec, wrong_phase};
use crate::jobs::end::{abort, leave_loading};
use crate::jobs::{self, Job, JobKind, JobPhase, JobSpec};
use crate::result::{CommandResult, CommitOutcome, CommitSummary};
use crate::streams;

/// Running → Committing. A load that brings columns commits without this step: until then its slices may have to run
/// again.
pub(crate) fn begin(txn: &mut Transaction<'_>, id: JobId) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    if job.phase == JobPhase::Committing || job.phase.is_committed() {
        return Ok(CommandResult::Job { phase: job.phase });
    }
    if job.phase != JobPhase::Running {
        return refuse(wrong_phase(&job, "it cannot commit"));
    }
    if jobs::job_columns(txn.view(), id)?.is_some() {
        return refuse(Error::conflict(format!("job {id} brings columns: it is running until it commits")));
    }
    if !job.all_accepted() {
        return refuse(Error::conflict(format!(
            "job {id} has {} of {} slices accepted",
            job.accepted_slices,
            job.slices - job.cut_slices
        )));
    }
    job.phase = JobPhase::Committing;
    put(txn, &job)?;
    Ok(CommandResult::Job { phase: job.phase })
}

pub(crate) fn commit(txn: &mut Transaction<'_>, commit: &JobCommit) -> Outcome<CommandResult> {
    let mut job = require(txn, commit.job)?;
    match (job.phase, &job.committed) {
        (JobPhase::Purging | JobPhase::Committed, Some(summary)) => {
            return Ok(CommandResult::Commit(CommitOutcome::Committed(summary.clone())));
        }
        (JobPhase::Aborted | JobPhase::Cancelled, _) => {
            let error = job.error.unwrap_or_else(|| Error::cancelled(format!("job {} has ended", job.id)));
            return Ok(CommandResult::Commit(CommitOutcome::Aborted(error)));
        }
        (JobPhase::Committing, _) if job.all_accepted() => {}
        (JobPhase::Running, _) if job.all_accepted() && jobs::job_columns(txn.view(), job.id)?.is_some() => {}
        _ => return refuse(wrong_phase(&job, "it cannot commit yet")),
    }
    if let Some(transaction) = job.transaction {
        return refuse(Error::conflict(format!("job {} commits with its transaction {transaction}", job.id)));
    }
    let spec = require_spec(txn, job.id)?;
    check_targets(&spec, commit)?;

    let mut flips: Vec<(Table, &TableCommit)> = Vec::with_capacity(commit.tables.len());
    for target in &commit.tables {
        match check_table(txn, &spec, target)? {
            Ok(table) => flips.push((table, target)),
            Err(gone) => {
                abort(txn, &mut job, gone.clone())?;
                return Ok(CommandResult::Commit(CommitOutcome::Aborted(gone)));
            }
        }
    }
    let streams = match streams::unmoved(txn.view(), &spec.consumes)? {
        Ok(streams) => streams,
        Err(lost) => {
            abort(txn, &mut job, lost.clone())?;
            return Ok(CommandResult::Commit(CommitOutcome::Aborted(lost)));
        }
    };
    for (table, target) in &flips {
        if table.metadata_location != target.expected_location {
            return Ok(CommandResult::Commit(CommitOutcome::Moved {
                table: table.id,
                current_location: table.metadata_location.clone(),
            }));
        }
        if (table.schema_id, table.spec_id) != (target.schema_id, target.spec_id) {
            return refuse(Error::conflict(format!(
                "the data files of job {} were written with schema {} and partition spec {} of table '{}', \
                 which has {} and {}",
                job.id, target.schema_id, target.spec_id, table.name, table.schema_id, table.spec_id
            )));
        }
    }

    let mut snapshot_id = None;
    for (table, target) in flips {
        if Some(table.id) == job.table {
            snapshot_id = target.contents.snapshot_id;
        }
        flip(txn, job.id, table, target)?;
    }
    if let Some(new_table) = &commit.new_table {
        let (table, created) = tables::create_table(txn, new_table)?;
        if !created {
            let error = Error::already_exists(format!(
                "table '{}.{}' was created meanwhile",
                new_table.database, new_table.name
            ));
            abort(txn, &mut job, error.clone())?;
            return Ok(CommandResult::Commit(CommitOutcome::Aborted(error)));
        }
        job.table = Some(table);
        snapshot_id = new_table.contents.snapshot_id;
    }
    streams::define::advance(txn, streams, &spec.consumes)?;
    let summary = finish(txn, &mut job, &spec, snapshot_id)?;
    Ok(CommandResult::Commit(CommitOutcome::Committed(summary)))
}

/// Checks that the commit is the one of this job.
fn check_targets(spec: &JobSpec, commit: &JobCommit) -> Outcome<()> {
    let unique: BTreeSet<_> = commit.tables.iter().map(|target| target.table).collect();
    if unique.len() != commit.tables.len() {
        return refuse(Error::invalid(format!("the commit of job {} names a table twice", commit.job)));
    }
    let complete = match (spec.kind, spec.table) {
        (JobKind::CreateTableAs, _) => commit.new_table.is_some(),
        (JobKind::Unload, _) => commit.new_table.is_none() && unique.is_empty(),
        (_, Some(table)) => commit.new_table.is_none() && unique.contains(&table),
        (_, None) => false,
    };
    if !complete {
        return refuse(Error::invalid(format!(
            "the commit of job {} does not name its table '{}'",
            commit.job, spec.table_name
        )));
    }
    Ok(())
}

/// The table as it stands; the inner error: what the job rests on is gone for good.
fn check_table(txn: &Transaction<'_>, spec: &JobSpec, target: &TableCommit) -> Outcome<Result<Table, Error>> {
    let gone = |how: &str| {
        Error::conflict(format!("table '{}' {how} while it was being loaded", spec.table_name))
            .hint("nothing was loaded; run the statement again")
    };
    let Some(table) = catalog::table_by_id(txn.view(), target.table)? else {
        return Ok(Err(gone("was dropped")));
    };
    if table.dropped_on_ms.is_some() || table.uuid != target.uuid {
        return Ok(Err(gone("was dropped")));
    }
    let planned = if Some(table.id) == spec.table { spec.epoch } else { target.epoch };
    if table.epoch != target.epoch || table.epoch != planned {
        return Ok(Err(gone("was truncated or overwritten")));
    }
    Ok(Ok(table))
}

fn flip(txn: &mut Transaction<'_>, job: JobId, mut table: Table, target: &TableCommit) -> Outcome<()> {
    if target.overwrite {
        tables::abort_loads(txn, &table, Some(job), "was overwritten")?;
        table.epoch += 1;
    }
    table.metadata_location.clone_from(&target.new_location);
    table.schema_id = target.new_schema_id.unwrap_or(table.schema_id);
    table.set_contents(target.contents);
    table.updated_on_ms = txn.now_ms;
    tables::put(txn, &table)
}

/// Ends the loading: from here on the job's claims count as `loaded_by`.
pub(crate) fn finish(
    txn: &mut Transaction<'_>,
    job: &mut Job,
    spec: &JobSpec,
    snapshot_id: Option<i64>,
) -> Outcome<CommitSummary> {
    let summary =
        CommitSummary { table: job.table, snapshot_id, rows: job.rows, committed_on_ms: txn.now_ms };
    job.committed = Some(summary.clone());
    job.commit_number = txn.count(|counters| next(&mut counters.commits))?;
    let phase = if spec.purge && job.files > 0 { JobPhase::Purging } else { JobPhase::Committed };
    leave_loading(txn, job, phase)?;
    Ok(summary)
}

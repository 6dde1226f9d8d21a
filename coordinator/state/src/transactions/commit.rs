//! Preparing the jobs of a transaction, and the one command that commits all of them.

use std::collections::BTreeSet;

use stevedore_common::Error;
use stevedore_common::ids::TransactionId;

use super::command::{JobPreparation, entry_of};
use super::end::{close, leave_session, undo};
use super::{
    ClientTransaction, MOST_TABLES, PreparedJob, TableChangeShape, TableVersion, TransactionJob,
    TransactionPhase, TransactionTable, put, require, running_job, transaction_jobs, transaction_tables,
};
use crate::apply::{Outcome, Transaction, refuse};
use crate::catalog::{self, Table, tables};
use crate::command::TableCommit;
use crate::jobs::commit::finish;
use crate::jobs::create::{self, require_spec, wrong_phase};
use crate::jobs::{self, JobPhase};
use crate::keys;
use crate::result::TransactionOutcome;
use crate::streams;

/// Puts a job's rows into its transaction's version of the table.
pub(crate) fn prepare(
    txn: &mut Transaction<'_>,
    preparation: &JobPreparation,
) -> Outcome<TransactionOutcome> {
    let mut job = create::require(txn, preparation.job)?;
    let Some(id) = job.transaction else {
        return refuse(Error::invalid(format!("job {} belongs to no transaction", job.id)));
    };
    if job.prepared || job.phase.is_committed() {
        let entry = entry_of(txn, &require(txn, id)?, job.id)?.1;
        let snapshot_id = entry.prepared.and_then(|prepared| prepared.snapshot_id);
        return Ok(TransactionOutcome::Prepared { snapshot_id });
    }
    if job.phase.is_ended() {
        let error = job.error.unwrap_or_else(|| Error::cancelled(format!("job {} has ended", job.id)));
        return Ok(TransactionOutcome::RolledBack(error));
    }
    // One that brings columns is running until then, since its slices may have to run again.
    let brings_columns = jobs::job_columns(txn.view(), job.id)?.is_some();
    let is_ready = job.phase == JobPhase::Committing || (job.phase == JobPhase::Running && brings_columns);
    if !is_ready || !job.all_accepted() {
        return refuse(wrong_phase(&job, "it cannot be prepared yet"));
    }
    if preparation.new_schema_id.is_some() && !brings_columns {
        return refuse(Error::invalid(format!("job {} brings no columns", job.id)));
    }
    if job.table != Some(preparation.table) {
        return refuse(Error::invalid(format!("the preparation of job {} does not name its table", job.id)));
    }
    // A live job's transaction is open: rolling back ends its jobs.
    let mut record = super::require_open(txn, id)?;
    let own: Option<TransactionTable> = txn.read(&keys::transaction_table(id, preparation.table))?;
    let spec = require_spec(txn, job.id)?;
    let mut own = match own {
        Some(own) => own,
        None => {
            if record.tables >= MOST_TABLES {
                return refuse(Error::exhausted(format!(
                    "a transaction changes at most {MOST_TABLES} tables"
                )));
            }
            record.tables += 1;
            let Some(table) = catalog::table_by_id(txn.view(), preparation.table)? else {
                return refuse(Error::not_found(format!(
                    "table '{}' does not exist any more",
                    spec.table_name
                )));
            };
            let kept = txn.read(&keys::kept_version(id, table.id))?;
            let version = kept.unwrap_or_else(|| TableVersion::of(&table));
            TransactionTable {
                table: table.id,
                uuid: table.uuid,
                name: spec.table_name.clone(),
                base_location: version.location.clone(),
                evolved_from: None,
                version,
                rewritten: false,
                overwritten: false,
                committed_location: None,
            }
        }
    };
    if own.version.location != preparation.expected_location {
        return Ok(TransactionOutcome::Moved { table: own.table, current_location: own.version.location });
    }
    if let Some(schema_id) = preparation.new_schema_id {
        own.evolved_from.get_or_insert(own.version.schema_id);
        own.version.schema_id = schema_id;
    }
    own.version.location.clone_from(&preparation.new_location);
    own.version.contents = preparation.contents;
    own.rewritten |= preparation.shape == TableChangeShape::Rewritten;
    own.overwritten |= preparation.shape == TableChangeShape::Overwritten;
    txn.put(keys::transaction_table(id, own.table), &own)?;

    let (index, entry) = entry_of(txn, &record, job.id)?;
    let prepared = PreparedJob {
        table: own.table,
        order: record.prepared,
        shape: preparation.shape,
        snapshot_id: preparation.contents.snapshot_id,
        written: preparation.written.clone(),
    };
    txn.put(keys::transaction_job(id, index), &TransactionJob { prepared: Some(prepared), ..entry })?;
    record.consume(&spec.consumes)?;
    record.prepared += 1;
    record.active_on_ms = record.active_on_ms.max(txn.now_ms);
    put(txn, &record)?;
    job.phase = JobPhase::Committing;
    job.prepared = true;
    create::put(txn, &job)?;
    Ok(TransactionOutcome::Prepared { snapshot_id: preparation.contents.snapshot_id })
}

/// The one command of COMMIT.
pub(crate) fn commit(
    txn: &mut Transaction<'_>,
    id: TransactionId,
    targets: &[TableCommit],
) -> Outcome<TransactionOutcome> {
    let record = require(txn, id)?;
    match record.phase {
        TransactionPhase::Committed => return Ok(TransactionOutcome::Committed),
        TransactionPhase::Failed | TransactionPhase::RolledBack => {
            return Ok(TransactionOutcome::RolledBack(record.reason()));
        }
        TransactionPhase::Open => {}
    }
    if let Some(job) = running_job(txn.view(), id)? {
        return refuse(
            Error::conflict(format!("a statement of the transaction still runs (job {job})"))
                .hint("wait for it, or ROLLBACK"),
        );
    }
    let mut own = transaction_tables(txn.view(), id)?;
    let named: BTreeSet<_> = targets.iter().map(|target| target.table).collect();
    if named.len() != targets.len() || named != own.iter().map(|own| own.table).collect() {
        return refuse(
            Error::conflict(format!(
                "the commit of transaction {id} does not name the tables that it changed"
            ))
            .retryable(true),
        );
    }
    let mut flips: Vec<(Table, &TableCommit)> = Vec::with_capacity(targets.len());
    for own in &own {
        let target = targets.iter().find(|target| target.table == own.table);
        let Some(target) = target else { return refuse(Error::internal("a table without its commit")) };
        match check_table(txn, own, target)? {
            Ok(table) => flips.push((table, target)),
            Err(gone) => {
                undo(txn, record, TransactionPhase::RolledBack, Some(gone.clone()))?;
                return Ok(TransactionOutcome::RolledBack(gone));
            }
        }
    }
    let streams = match streams::unmoved(txn.view(), &record.consumes)? {
        Ok(streams) => streams,
        Err(lost) => {
            undo(txn, record, TransactionPhase::RolledBack, Some(lost.clone()))?;
            return Ok(TransactionOutcome::RolledBack(lost));
        }
    };
    for (table, target) in &flips {
        if table.metadata_location != target.expected_location {
            return Ok(TransactionOutcome::Moved {
                table: table.id,
                current_location: table.metadata_location.clone(),
            });
        }
        if (table.schema_id, table.spec_id) != (target.schema_id, target.spec_id) {
            return refuse(Error::conflict(format!(
                "the rows of transaction {id} were written with schema {} and partition spec {} of table '{}', \
                 which has {} and {}",
                target.schema_id, target.spec_id, table.name, table.schema_id, table.spec_id
            )));
        }
    }

    // Out of what is open first: its own commit is nothing to keep an older version for.
    close(txn, &record)?;
    leave_session(txn, &record)?;
    let ended =
        ClientTransaction { phase: TransactionPhase::Committed, ended_on_ms: Some(txn.now_ms), ..record };
    put(txn, &ended)?;
    txn.put(keys::unswept_transaction(ended.number), &id)?;
    for own in &mut own {
        let target = targets.iter().find(|target| target.table == own.table);
        own.committed_location = target.map(|target| target.new_location.clone());
        txn.put(keys::transaction_table(id, own.table), own)?;
    }
    streams::define::advance(txn, streams, &ended.consumes)?;
    commit_jobs(txn, id, &own, &flips)?;
    for (mut table, target) in flips {
        if target.overwrite {
            tables::abort_loads(txn, &table, None, "was overwritten")?;
            table.epoch += 1;
        }
        table.metadata_location.clone_from(&target.new_location);
        table.schema_id = target.new_schema_id.unwrap_or(table.schema_id);
        table.set_contents(target.contents);
        table.updated_on_ms = txn.now_ms;
        tables::put(txn, &table)?;
    }
    Ok(TransactionOutcome::Committed)
}

/// Ends the prepared jobs as committed, in the order in which their rows came.
fn commit_jobs(
    txn: &mut Transaction<'_>,
    id: TransactionId,
    own: &[TransactionTable],
    flips: &[(Table, &TableCommit)],
) -> Outcome<()> {
    let mut prepared: Vec<(PreparedJob, _)> = transaction_jobs(txn.view(), id)?
        .into_iter()
        .filter_map(|entry| Some((entry.prepared?, entry.job)))
        .collect();
    prepared.sort_by_key(|(prepared, _)| prepared.order);
    for (prepared, job) in prepared {
        let Some(mut job) = jobs::job(txn.view(), job)? else {
            return Err(Error::internal(format!("a job of transaction {id} is missing")).into());
        };
        let spec = require_spec(txn, job.id)?;
        let as_built = own.iter().any(|own| {
            own.table == prepared.table && own.committed_location.as_ref() == Some(&own.version.location)
        });
        let snapshot_id = if as_built {
            prepared.snapshot_id
        } else {
            let flip = flips.iter().find(|(table, _)| table.id == prepared.table);
            flip.and_then(|(_, target)| target.contents.snapshot_id)
        };
        // It waits for nothing any more: whoever drives jobs has its PURGE to do.
        job.prepared = false;
        finish(txn, &mut job, &spec, snapshot_id)?;
    }
    Ok(())
}

/// The table as it stands; the inner error: what the transaction rests on is gone for good.
fn check_table(
    txn: &Transaction<'_>,
    own: &TransactionTable,
    target: &TableCommit,
) -> Outcome<Result<Table, Error>> {
    let gone = |how: &str| {
        Error::conflict(format!("table '{}' {how} while the transaction was open", own.name))
            .hint("nothing was changed; run the transaction again")
            .retryable(true)
    };
    let table = catalog::table_by_id(txn.view(), own.table)?.filter(|table| table.dropped_on_ms.is_none());
    let Some(table) = table.filter(|table| table.uuid == own.uuid && table.uuid == target.uuid) else {
        return Ok(Err(gone("was dropped")));
    };
    if table.epoch != own.version.epoch || table.epoch != target.epoch {
        return Ok(Err(gone("was truncated or overwritten")));
    }
    // A conflict that whoever proposes overlooked: rows that were changed are not those of a newer version.
    if (own.rewritten || own.overwritten) && target.expected_location != own.base_location {
        return Ok(Err(gone("was changed by another commit")));
    }
    let evolves = own.evolved_from.is_some();
    if evolves && (own.evolved_from != Some(table.schema_id) || target.new_schema_id.is_none()) {
        return Ok(Err(gone("got other columns by another commit")));
    }
    Ok(Ok(table))
}

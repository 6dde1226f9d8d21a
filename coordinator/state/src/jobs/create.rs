//! Creating a job, and what the other steps share: reading and writing its record.

use stevedore_common::Error;
use stevedore_common::ids::JobId;

use crate::apply::{Outcome, Transaction, next, refuse};
use crate::catalog;
use crate::event::Event;
use crate::jobs::{self, Job, JobKind, JobPhase, JobSpec};
use crate::keys;
use crate::ledger;
use crate::result::CommandResult;
use crate::transactions;
use crate::worker_groups;

const MAX_SPEC_BYTES: usize = 60 * 1024;
const MAX_KEY_BYTES: usize = 512;

/// The job, or a refusal.
pub(crate) fn require(txn: &Transaction<'_>, id: JobId) -> Outcome<Job> {
    match jobs::job(txn.view(), id)? {
        Some(job) => Ok(job),
        None => refuse(Error::not_found(format!("job {id} does not exist"))),
    }
}

/// The job's specification.
pub(crate) fn require_spec(txn: &Transaction<'_>, id: JobId) -> Outcome<JobSpec> {
    match jobs::job_spec(txn.view(), id)? {
        Some(spec) => Ok(spec),
        None => Err(Error::internal(format!("the specification of job {id} is missing")).into()),
    }
}

/// The refusal of a step that the job's phase does not allow.
pub(crate) fn wrong_phase(job: &Job, step: &str) -> Error {
    let error = Error::conflict(format!("job {} is {}: {step}", job.id, job.phase.as_str()));
    match &job.error {
        Some(cause) => error.hint(format!("it ended with: {cause}")),
        None => error,
    }
}

/// Writes the job's record.
pub(crate) fn put(txn: &mut Transaction<'_>, job: &Job) -> Outcome<()> {
    txn.put(keys::job(job.id), job)?;
    txn.event(Event::JobChanged { job: job.id, phase: job.phase });
    Ok(())
}

pub(crate) fn create(txn: &mut Transaction<'_>, id: JobId, spec: &JobSpec) -> Outcome<CommandResult> {
    if jobs::job(txn.view(), id)?.is_some() {
        return Ok(CommandResult::JobCreated { job: id, existing: false });
    }
    if let Some(key) = &spec.idempotency_key {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return refuse(Error::invalid(format!("an idempotency key has 1 to {MAX_KEY_BYTES} bytes")));
        }
        if let Some(job) = jobs::job_by_key(txn.view(), key)? {
            // A job whose specification is gone was trimmed, and its key with it.
            if jobs::job_spec(txn.view(), job)?.is_some_and(|known| known.request != spec.request) {
                return refuse(
                    Error::conflict(format!(
                        "the idempotency key '{key}' belongs to job {job}, which runs another statement"
                    ))
                    .hint("use a key of its own for each load"),
                );
            }
            return Ok(CommandResult::JobCreated { job, existing: true });
        }
    }
    worker_groups::check(txn, &spec.group)?;
    let ledger_generation = check_target(txn, spec)?;
    let key = keys::job_spec(id);
    let encoded = keys::encode(&key, spec)?;
    if encoded.len() > MAX_SPEC_BYTES {
        return refuse(Error::exhausted(format!(
            "the statement and its plan have {} bytes, the limit is {MAX_SPEC_BYTES}",
            encoded.len()
        )));
    }
    let store = match &spec.store {
        Some(store) => match ledger::store_number(txn.view(), store)? {
            Some(number) => number,
            None => {
                let number = txn.count(|counters| {
                    counters.stores += 1;
                    counters.stores
                })?;
                txn.put(ledger::store_key(store), &number)?;
                number
            }
        },
        None => 0,
    };
    if let Some(transaction) = spec.transaction {
        transactions::add_job(txn, transaction, id, spec)?;
    }
    let number = txn.count(|counters| next(&mut counters.jobs))?;
    let job = Job {
        id,
        number,
        kind: spec.kind,
        table: spec.table,
        ledger_generation,
        store,
        phase: JobPhase::Claiming,
        transaction: spec.transaction,
        group: spec.group.clone(),
        prepared: false,
        created_on_ms: txn.now_ms,
        ended_on_ms: None,
        error: None,
        committed: None,
        commit_number: 0,
        files: 0,
        bytes: 0,
        chunks: 0,
        skipped: std::collections::BTreeMap::new(),
        planned_files: 0,
        expected_parts: 0,
        planned_parts: 0,
        slices: 0,
        cut_slices: 0,
        reopening: None,
        accepted_slices: 0,
        accepted_parts: 0,
        accepted_bytes: 0,
        rows: 0,
        rows_updated: 0,
        rows_deleted: 0,
        errors: 0,
        data_files: 0,
        output_bytes: 0,
        purged: 0,
        settled_files: 0,
        settled: false,
    };
    txn.put_bytes(key, encoded);
    txn.put(keys::live_job(number), &id)?;
    txn.put(keys::job_by_number(number), &id)?;
    if let Some(table) = spec.table {
        txn.put(keys::load(table, number), &id)?;
    }
    if let Some(key) = &spec.idempotency_key {
        txn.put(keys::job_key(key), &id)?;
    }
    put(txn, &job)?;
    Ok(CommandResult::JobCreated { job: id, existing: false })
}

/// Checks that what the plan rests on still stands; answers the table's ledger generation.
fn check_target(txn: &Transaction<'_>, spec: &JobSpec) -> Outcome<u64> {
    if spec.kind == JobKind::Copy && spec.store.is_none() {
        return refuse(Error::invalid("a COPY names the store of its files"));
    }
    let id = match (spec.kind, spec.table) {
        (JobKind::CreateTableAs | JobKind::Unload, None) => return Ok(0),
        (JobKind::Unload, Some(_)) => return refuse(Error::invalid("an unload changes no table")),
        (JobKind::CreateTableAs, Some(_)) => {
            return refuse(Error::invalid("CREATE TABLE AS has no table before its commit"));
        }
        (_, None) => return refuse(Error::invalid("the job names no table")),
        (_, Some(id)) => id,
    };
    let table = catalog::table_by_id(txn.view(), id)?.filter(|table| table.dropped_on_ms.is_none());
    let Some(table) = table else {
        return refuse(Error::not_found(format!("table '{}' does not exist any more", spec.table_name)));
    };
    if table.epoch != spec.epoch {
        let error = Error::conflict(format!(
            "table '{}' was truncated or overwritten while the statement was planned",
            spec.table_name
        ));
        return refuse(error.hint("run the statement again").retryable(true));
    }
    Ok(table.ledger_generation)
}

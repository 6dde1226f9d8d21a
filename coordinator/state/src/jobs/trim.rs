//! Trimming: the records of jobs that ended long ago go, a bounded number at a time. What the ledger
//! needs of them is explicit by then: only settled jobs are trimmed.

use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::JobId;

use crate::apply::{Outcome, Transaction};
use crate::jobs::{self, Job};
use crate::keys;
use crate::result::CommandResult;

const MAX_LIMIT: usize = 10_000;

pub(crate) fn trim(txn: &mut Transaction<'_>, before_ms: UnixMillis, limit: u32) -> Outcome<CommandResult> {
    let limit = usize::try_from(limit).unwrap_or(MAX_LIMIT).clamp(1, MAX_LIMIT);
    let mut deleted = 0;
    let mut passed: Option<Vec<u8>> = None;
    while deleted < limit {
        // A job's record and indexes go first, so that nobody sees half a job; its details follow.
        let begun = txn.view().scan(&keys::trimmed_jobs(), None, 1)?.pop();
        if let Some((key, value)) = begun {
            let id: JobId = keys::decode(&key, &value)?;
            let details = txn.view().scan(&keys::job_details(id), None, limit - deleted)?;
            deleted += details.len() + 1;
            let finished = deleted <= limit;
            for (key, _) in details {
                txn.delete(key);
            }
            if finished {
                txn.delete(key);
            }
            continue;
        }
        let oldest = txn.view().scan(&keys::ended_jobs(), passed.as_deref(), 1)?.pop();
        let Some((key, value)) = oldest else { return Ok(CommandResult::Progress { done: true }) };
        passed = Some(key.to_vec());
        let id: JobId = keys::decode(&key, &value)?;
        let Some(job) = jobs::job(txn.view(), id)? else {
            txn.delete(key);
            deleted += 1;
            continue;
        };
        if job.ended_on_ms.is_none_or(|ended| ended >= before_ms) {
            return Ok(CommandResult::Progress { done: true });
        }
        txn.delete(key);
        forget(txn, &job)?;
        deleted += 6;
    }
    Ok(CommandResult::Progress { done: false })
}

fn forget(txn: &mut Transaction<'_>, job: &Job) -> Outcome<()> {
    if let Some(key) = jobs::job_spec(txn.view(), job.id)?.and_then(|spec| spec.idempotency_key)
        && jobs::job_by_key(txn.view(), &key)? == Some(job.id)
    {
        txn.delete(keys::job_key(&key));
    }
    txn.delete(keys::job(job.id));
    txn.delete(keys::job_spec(job.id));
    txn.delete(keys::job_by_number(job.number));
    if let Some(table) = job.table {
        txn.delete(keys::history(table, job.ledger_generation, job.number));
    }
    txn.put(keys::trimmed_job(job.id), &job.id)?;
    Ok(())
}

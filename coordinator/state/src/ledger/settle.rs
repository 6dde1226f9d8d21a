//! Making ledger entries explicit, and clearing away what TRUNCATE left behind. Both change nothing
//! that a reader could tell.

use stevedore_common::ids::{FileIndex, JobId, TableId};

use crate::apply::{Outcome, Transaction, refuse};
use crate::catalog;
use crate::jobs;
use crate::jobs::create::{require, wrong_phase};
use crate::keys;
use crate::ledger::{KnownJobs, LedgerEntry, resolve};
use crate::result::CommandResult;

const MAX_LIMIT: u32 = 5000;

pub(crate) fn settle(txn: &mut Transaction<'_>, id: JobId, limit: u32) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    if job.phase.is_loading() {
        return refuse(wrong_phase(&job, "its claims still hold"));
    }
    if job.settled {
        return Ok(CommandResult::Progress { done: true });
    }
    let mut known = KnownJobs::default();
    let end = job.settled_files.saturating_add(limit.clamp(1, MAX_LIMIT)).min(job.files);
    for index in job.settled_files..end {
        let Some(file) = jobs::job_file(txn.view(), id, FileIndex(index))? else { continue };
        let Some(table) = job.table else { continue };
        let key = keys::ledger_entry(table, job.ledger_generation, job.store, &file.path);
        // No entry: its generation has been swept.
        let Some(stored) = txn.read::<LedgerEntry>(&key)? else { continue };
        let entry = resolve(txn.view(), stored, &mut |other| known.job(txn.view(), other))?;
        if entry.is_empty() {
            txn.delete(key);
        } else {
            txn.put(key, &entry)?;
        }
    }
    job.settled_files = end;
    job.settled = end == job.files;
    if job.settled {
        txn.delete(keys::unsettled_job(job.number));
    }
    jobs::end::finish(txn, &job)?;
    Ok(CommandResult::Progress { done: job.settled })
}

pub(crate) fn sweep(txn: &mut Transaction<'_>, id: TableId, limit: u32) -> Outcome<CommandResult> {
    let Some(table) = catalog::table_by_id(txn.view(), id)? else {
        txn.delete(keys::sweepable_ledger(id));
        return Ok(CommandResult::Progress { done: true });
    };
    let limit = usize::try_from(limit.clamp(1, MAX_LIMIT)).unwrap_or(1);
    let current = keys::ledger_of_generation(id, table.ledger_generation).bytes();
    let mut swept = 0;
    for (key, _) in txn.view().scan(&keys::ledger_of_table(id), None, limit)? {
        if key[..] >= current[..] {
            break;
        }
        txn.delete(key);
        swept += 1;
    }
    let done = swept < limit;
    if done {
        txn.delete(keys::sweepable_ledger(id));
    }
    Ok(CommandResult::Progress { done })
}

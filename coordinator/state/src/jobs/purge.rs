//! PURGE: what became of the files of a committed job, recorded file by file, so that whoever takes
//! over goes on where the other stopped.

use stevedore_common::Error;
use stevedore_common::ids::{FileIndex, JobId};

use crate::apply::{Outcome, Transaction, refuse};
use crate::jobs::create::{put, require, wrong_phase};
use crate::jobs::end::finish;
use crate::jobs::{self, FileStatusKind, JobPhase, PurgeOutcome};
use crate::keys;
use crate::ledger::{LedgerEntry, resolve};
use crate::result::CommandResult;

pub(crate) fn record(
    txn: &mut Transaction<'_>,
    id: JobId,
    files: &[(FileIndex, PurgeOutcome)],
) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    if job.phase != JobPhase::Purging {
        return refuse(wrong_phase(&job, "it purges nothing"));
    }
    let Some(table) = job.table else {
        return refuse(Error::invalid(format!("job {id} has no table")));
    };
    for (index, outcome) in files {
        let Some(status) = jobs::committed_file_status(txn.view(), &job, *index)? else {
            return refuse(Error::not_found(format!("job {id} has no file {index}")));
        };
        if status.status != FileStatusKind::Loaded {
            return refuse(Error::conflict(format!(
                "file '{}' of job {id} is not fully loaded: it is not to be purged",
                status.name
            )));
        }
        if status.purge.is_some() {
            continue;
        }
        txn.put(keys::purged_file(id, *index), outcome)?;
        job.purged += 1;
        let key = keys::ledger_entry(table, job.ledger_generation, job.store, &status.path);
        if outcome.is_gone()
            && let Some(stored) = txn.read::<LedgerEntry>(&key)?
        {
            let mut entry = resolve(txn.view(), stored, &mut |job| jobs::job(txn.view(), job))?;
            // Another load under FORCE may be the one that counts: it read the same file.
            if let Some(loaded) = &mut entry.loaded_by {
                loaded.purged |= loaded.version.same_content(&status.version);
            }
            txn.put(key, &entry)?;
        }
    }
    put(txn, &job)?;
    Ok(CommandResult::Done)
}

pub(crate) fn end(txn: &mut Transaction<'_>, id: JobId) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    if job.phase != JobPhase::Committed {
        if job.phase != JobPhase::Purging {
            return refuse(wrong_phase(&job, "it purges nothing"));
        }
        job.phase = JobPhase::Committed;
        finish(txn, &job)?;
    }
    Ok(CommandResult::Job { phase: job.phase })
}

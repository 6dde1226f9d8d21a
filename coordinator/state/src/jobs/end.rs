//! How jobs end. Ending is one small command whatever the number of files: the claims of an ended
//! job mean nothing from then on, or «loaded», and are made explicit later.

use stevedore_common::Error;
use stevedore_common::ids::JobId;

use crate::apply::{Outcome, Transaction};
use crate::command::JobEnding;
use crate::jobs::create::{put, require};
use crate::jobs::{self, Job, JobKind, JobPhase};
use crate::keys;
use crate::result::CommandResult;
use crate::transactions;

const MAX_ERROR_CHARS: usize = 4000;

pub(crate) fn end(txn: &mut Transaction<'_>, id: JobId, ending: &JobEnding) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    // The first end in the log wins, and a commit is one: the answer says what it was.
    if job.phase.is_loading() {
        match ending {
            JobEnding::Aborted(error) => abort(txn, &mut job, error.clone())?,
            // Its files are getting their names: that is gone through with, so that all of them are there.
            JobEnding::Cancelled if job.kind == JobKind::Unload && job.phase == JobPhase::Committing => {}
            JobEnding::Cancelled => {
                job.error = Some(Error::cancelled("the job was cancelled; nothing was loaded"));
                leave_loading(txn, &mut job, JobPhase::Cancelled)?;
            }
        }
    }
    Ok(CommandResult::Job { phase: job.phase })
}

/// Aborts a job that can still load.
pub(crate) fn abort(txn: &mut Transaction<'_>, job: &mut Job, error: Error) -> Outcome<()> {
    job.error = Some(clipped(error));
    leave_loading(txn, job, JobPhase::Aborted)
}

/// Aborts a job, if it can still load.
pub(crate) fn abort_by_id(txn: &mut Transaction<'_>, id: JobId, error: Error) -> Outcome<()> {
    match jobs::job(txn.view(), id)? {
        Some(mut job) if job.phase.is_loading() => abort(txn, &mut job, error),
        _ => Ok(()),
    }
}

/// Moves a job out of the phases in which it can load, and writes it.
pub(crate) fn leave_loading(txn: &mut Transaction<'_>, job: &mut Job, phase: JobPhase) -> Outcome<()> {
    job.phase = phase;
    job.ended_on_ms = Some(txn.now_ms);
    if let Some(table) = job.table {
        txn.delete(keys::load(table, job.number));
        // Also a load that took nothing has listed files and can say why it left them.
        if job.kind == JobKind::Copy {
            txn.put(keys::history(table, job.ledger_generation, job.number), &job.id)?;
        }
    }
    if job.files == 0 {
        job.settled = true;
    } else {
        txn.put(keys::unsettled_job(job.number), &job.id)?;
    }
    finish(txn, job)?;
    if phase.is_committed() { Ok(()) } else { transactions::lost_job(txn, job) }
}

/// Writes a job that may have become ended or settled, and keeps the indexes of both.
pub(crate) fn finish(txn: &mut Transaction<'_>, job: &Job) -> Outcome<()> {
    if job.phase.is_ended() {
        txn.delete(keys::live_job(job.number));
        if job.settled {
            txn.put(keys::ended_job(job.ended_on_ms.unwrap_or(0), job.number), &job.id)?;
        }
    }
    put(txn, job)
}

/// The error, short enough for the job's record.
pub(crate) fn clipped(error: Error) -> Error {
    let text = error.to_string();
    if text.len() <= MAX_ERROR_CHARS {
        return error;
    }
    let short: String = text.chars().take(MAX_ERROR_CHARS / 4).collect();
    Error::new(error.kind(), format!("{short}…")).retryable(error.is_retryable())
}

//! How transactions end without a commit.

use stevedore_common::Error;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::TransactionId;

use super::{ClientTransaction, TransactionPhase, put, require, running_job, transaction, transaction_jobs};
use crate::apply::{Outcome, Transaction};
use crate::jobs::Job;
use crate::jobs::end::{abort_by_id, clipped};
use crate::keys;
use crate::result::TransactionOutcome;

/// A job has ended without a commit: so has its transaction, unless its statement runs again.
pub(crate) fn lost_job(txn: &mut Transaction<'_>, job: &Job) -> Outcome<()> {
    let Some(id) = job.transaction else { return Ok(()) };
    let error = job.error.clone().unwrap_or_else(|| Error::cancelled("a statement was cancelled"));
    // A statement that met others' changes looks at the rows again, in a job of its own.
    if !job.prepared && error.is_lost_race() {
        return Ok(());
    }
    match transaction(txn.view(), id)? {
        Some(record) if record.phase == TransactionPhase::Open => {
            undo(txn, record, TransactionPhase::Failed, Some(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn fail(
    txn: &mut Transaction<'_>,
    id: TransactionId,
    error: &Error,
    told: bool,
    idle_since_ms: Option<UnixMillis>,
) -> Outcome<TransactionOutcome> {
    let mut record = require(txn, id)?;
    if let Some(since) = idle_since_ms
        && record.phase == TransactionPhase::Open
        && (record.active_on_ms > since || running_job(txn.view(), id)?.is_some())
    {
        return Ok(TransactionOutcome::Open(id));
    }
    match record.phase {
        TransactionPhase::Committed => return Ok(TransactionOutcome::Committed),
        TransactionPhase::Open => {
            record.told = told;
            undo(txn, record.clone(), TransactionPhase::Failed, Some(error.clone()))?;
        }
        TransactionPhase::Failed if told && !record.told => {
            record.told = true;
            put(txn, &record)?;
        }
        TransactionPhase::Failed | TransactionPhase::RolledBack => {}
    }
    Ok(TransactionOutcome::RolledBack(record.error.unwrap_or_else(|| error.clone())))
}

/// The answer has the reason, if it was not the client's wish.
pub(crate) fn roll_back(txn: &mut Transaction<'_>, id: TransactionId) -> Outcome<TransactionOutcome> {
    let record = require(txn, id)?;
    match record.phase {
        TransactionPhase::Committed => return Ok(TransactionOutcome::Committed),
        TransactionPhase::Open => undo(txn, record.clone(), TransactionPhase::RolledBack, None)?,
        TransactionPhase::Failed => {
            leave_session(txn, &record)?;
            put(txn, &ClientTransaction { phase: TransactionPhase::RolledBack, ..record.clone() })?;
        }
        TransactionPhase::RolledBack => {}
    }
    Ok(TransactionOutcome::RolledBack(record.reason()))
}

/// Takes an open transaction out of what is open, and forgets what it read.
pub(super) fn close(txn: &mut Transaction<'_>, record: &ClientTransaction) -> Outcome<()> {
    txn.delete(keys::open_transaction(record.number));
    for (key, _) in keys::scan_all(txn.view(), &keys::kept_versions(record.id))? {
        txn.delete(key);
    }
    Ok(())
}

/// The session is in no transaction any more.
pub(super) fn leave_session(txn: &mut Transaction<'_>, record: &ClientTransaction) -> Outcome<()> {
    if let Some(session) = &record.session {
        let key = keys::session_transaction(session);
        if txn.read::<TransactionId>(&key)? == Some(record.id) {
            txn.delete(key);
        }
    }
    Ok(())
}

/// Rolls back an open transaction: all its jobs end, and their claims with them.
pub(super) fn undo(
    txn: &mut Transaction<'_>,
    mut record: ClientTransaction,
    phase: TransactionPhase,
    error: Option<Error>,
) -> Outcome<()> {
    close(txn, &record)?;
    if phase == TransactionPhase::RolledBack {
        leave_session(txn, &record)?;
    }
    record.phase = phase;
    record.ended_on_ms = Some(txn.now_ms);
    record.error = error.map(clipped);
    // Written before its jobs end: they find it ended, and leave it alone.
    put(txn, &record)?;
    txn.put(keys::unswept_transaction(record.number), &record.id)?;
    let ended =
        Error::cancelled(format!("its transaction {} was rolled back", record.id)).hint("nothing was loaded");
    for entry in transaction_jobs(txn.view(), record.id)? {
        abort_by_id(txn, entry.job, ended.clone())?;
    }
    Ok(())
}

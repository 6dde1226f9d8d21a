//! Reads of transactions.

use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{JobId, TableId, TransactionId};
use stevedore_common::{Error, Result};

use super::{
    ClientTransaction, TableVersion, TransactionJob, TransactionPhase, TransactionTable, aborted, over,
    unknown,
};
use crate::catalog::{self, Table};
use crate::jobs;
use crate::keys;
use crate::view::ReadView;

/// A transaction.
///
/// # Errors
/// Storage.
pub fn transaction(view: &dyn ReadView, id: TransactionId) -> Result<Option<ClientTransaction>> {
    keys::read(view, &keys::transaction(id))
}

/// The transactions that are remembered, oldest first, at most `limit`.
///
/// # Errors
/// Storage.
pub fn transactions(view: &dyn ReadView, limit: usize) -> Result<Vec<ClientTransaction>> {
    view.scan(&keys::transactions(), None, limit)?
        .iter()
        .map(|(key, value)| keys::decode(key, value))
        .collect()
}

/// The transaction that a session is in: an open one, or one that failed and was not left yet.
///
/// # Errors
/// Storage.
pub fn transaction_of_session(view: &dyn ReadView, session: &str) -> Result<Option<ClientTransaction>> {
    match keys::read(view, &keys::session_transaction(session))? {
        Some(id) => transaction(view, id),
        None => Ok(None),
    }
}

/// Transactions that are open, oldest first.
///
/// # Errors
/// Storage.
pub fn open_transactions(view: &dyn ReadView) -> Result<Vec<ClientTransaction>> {
    by_index(view, &keys::open_transactions(), usize::MAX)
}

/// Transactions that ended and whose own files were not looked after yet, oldest first.
///
/// # Errors
/// Storage.
pub fn unswept_transactions(view: &dyn ReadView, limit: usize) -> Result<Vec<ClientTransaction>> {
    by_index(view, &keys::unswept_transactions(), limit)
}

/// Whether a transaction that was looked after ended before this time: `Trim` would forget it.
///
/// # Errors
/// Storage.
pub fn has_old_transactions(view: &dyn ReadView, before_ms: UnixMillis) -> Result<bool> {
    let oldest = by_index(view, &keys::ended_transactions(), 1)?.pop();
    Ok(oldest.and_then(|record| record.ended_on_ms).is_some_and(|ended| ended < before_ms))
}

fn by_index(view: &dyn ReadView, prefix: &[u8], limit: usize) -> Result<Vec<ClientTransaction>> {
    let mut records = Vec::new();
    for (key, value) in view.scan(prefix, None, limit)? {
        records.extend(transaction(view, keys::decode(&key, &value)?)?);
    }
    Ok(records)
}

/// The jobs of a transaction, in the order in which they were created.
///
/// # Errors
/// Storage.
pub fn transaction_jobs(view: &dyn ReadView, id: TransactionId) -> Result<Vec<TransactionJob>> {
    keys::read_all(view, &keys::transaction_jobs(id))
}

/// The tables that a transaction has changed.
///
/// # Errors
/// Storage.
pub fn transaction_tables(view: &dyn ReadView, id: TransactionId) -> Result<Vec<TransactionTable>> {
    keys::read_all(view, &keys::transaction_tables(id))
}

/// A job of the transaction that still runs.
///
/// # Errors
/// Storage.
pub fn running_job(view: &dyn ReadView, id: TransactionId) -> Result<Option<JobId>> {
    for entry in transaction_jobs(view, id)?.into_iter().rev() {
        if entry.prepared.is_none() && jobs::job(view, entry.job)?.is_some_and(|job| job.phase.is_loading()) {
            return Ok(Some(entry.job));
        }
    }
    Ok(None)
}

/// A table as a transaction sees it: with its own changes, else as the table was when it began.
///
/// # Errors
/// Conflict, where the table came to be after that; storage.
pub fn version_in(view: &dyn ReadView, record: &ClientTransaction, table: Table) -> Result<Table> {
    let own: Option<TransactionTable> = keys::read(view, &keys::transaction_table(record.id, table.id))?;
    match own {
        Some(own) => Ok(own.version.apply(table)),
        None => version_at_begin(view, record, table),
    }
}

/// A table as a job knows it: as the transaction that it belongs to sees it, else as it is; `None`: it was dropped.
///
/// # Errors
/// As [`version_in`].
pub fn table_of_job(
    view: &dyn ReadView,
    transaction: Option<TransactionId>,
    table: TableId,
) -> Result<Option<Table>> {
    let table = catalog::table_by_id(view, table)?.filter(|table| table.dropped_on_ms.is_none());
    let (Some(table), Some(id)) = (&table, transaction) else { return Ok(table) };
    match self::transaction(view, id)? {
        Some(record) => version_in(view, &record, table.clone()).map(Some),
        None => Err(unknown(id)),
    }
}

/// A table as it was when a transaction began, without its changes.
///
/// # Errors
/// As [`version_in`].
pub fn version_at_begin(view: &dyn ReadView, record: &ClientTransaction, table: Table) -> Result<Table> {
    if table.id.0 > record.last_table {
        return Err(Error::conflict(format!(
            "table '{}' was created or replaced after the transaction began",
            table.name
        ))
        .about(&table.name)
        .hint("COMMIT or ROLLBACK, and begin again")
        .retryable(true));
    }
    let version: Option<TableVersion> = keys::read(view, &keys::kept_version(record.id, table.id))?;
    Ok(match version {
        Some(version) => version.apply(table),
        None => table,
    })
}

impl ClientTransaction {
    /// Whether statements may run in it.
    ///
    /// # Errors
    /// Conflict, where it has ended or failed.
    pub fn check_open(&self) -> Result<()> {
        match self.phase {
            TransactionPhase::Open => Ok(()),
            TransactionPhase::Failed => Err(aborted(self)),
            TransactionPhase::Committed | TransactionPhase::RolledBack => Err(over(self)),
        }
    }
}

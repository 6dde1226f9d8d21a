//! The commands on transactions.

use serde::{Deserialize, Serialize};
use stevedore_common::Error;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{JobId, TableId, TransactionId};

use super::{ClientTransaction, MOST_OPEN, TableChangeShape, TransactionPhase, commit, end, put, require};
use crate::apply::{Counters, Outcome, Transaction, next, refuse};
use crate::command::{TableCommit, TableContents};
use crate::keys;
use crate::result::{CommandResult, TransactionOutcome};
use crate::streams::StreamMove;
use crate::transactions::{TransactionJob, require_open, transaction, transaction_of_session};

/// A change of transactions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionCommand {
    /// BEGIN. Changes nothing where the transaction is there already, or its session is in another one.
    Begin {
        /// Its id.
        id: TransactionId,
        /// The session whose statements belong to it.
        session: Option<String>,
        /// Who begins it.
        user: String,
        /// See [`ClientTransaction::idle_limit_ms`].
        idle_limit_ms: i64,
    },
    /// A sign of its client.
    Touch {
        /// The transaction.
        id: TransactionId,
    },
    /// Moves offsets of streams with its commit.
    Consume {
        /// The transaction.
        id: TransactionId,
        /// The moves.
        moves: Vec<StreamMove>,
    },
    /// Puts a job's rows into the transaction's version of their table.
    Prepare(JobPreparation),
    /// COMMIT: flips every table that it has changed and ends all its jobs, together.
    Commit {
        /// The transaction.
        id: TransactionId,
        /// The tables that it has changed, all of them.
        tables: Vec<TableCommit>,
    },
    /// Rolls it back for a reason of our own. Its session stays in it until the client leaves.
    Fail {
        /// The transaction.
        id: TransactionId,
        /// Why.
        error: Error,
        /// The client is told.
        told: bool,
        /// Only if this was the last sign of its client, and no statement runs.
        idle_since_ms: Option<UnixMillis>,
    },
    /// ROLLBACK: also of one that failed.
    RollBack {
        /// The transaction.
        id: TransactionId,
    },
    /// Forgets one that changed nothing; whoever names it next begins it anew.
    Renew {
        /// The transaction.
        id: TransactionId,
    },
    /// The files of versions that did not come to be are gone.
    Swept {
        /// The transaction.
        id: TransactionId,
    },
    /// Forgets transactions that ended before a time, oldest first.
    Trim {
        /// Ended before this.
        before_ms: UnixMillis,
        /// At most.
        limit: u32,
    },
}

/// A version of a table with the rows of a job of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPreparation {
    /// The job.
    pub job: JobId,
    /// Its table.
    pub table: TableId,
    /// The metadata that `new_location` was built on.
    pub expected_location: String,
    /// The metadata file written for it, under a name of its own.
    pub new_location: String,
    /// Its schema, where the job brings columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_schema_id: Option<i32>,
    /// What the version holds.
    pub contents: TableContents,
    /// What the job does to the table.
    pub shape: TableChangeShape,
    /// The files written for the version, as far as they are worth remembering.
    pub written: Vec<String>,
}

impl TransactionCommand {
    /// The name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin_transaction",
            Self::Touch { .. } => "touch_transaction",
            Self::Consume { .. } => "consume_in_transaction",
            Self::Prepare(_) => "prepare_job",
            Self::Commit { .. } => "commit_transaction",
            Self::Fail { .. } => "fail_transaction",
            Self::RollBack { .. } => "roll_back_transaction",
            Self::Renew { .. } => "renew_transaction",
            Self::Swept { .. } => "swept_transaction",
            Self::Trim { .. } => "trim_transactions",
        }
    }
}

pub(crate) fn run(txn: &mut Transaction<'_>, command: &TransactionCommand) -> Outcome<CommandResult> {
    let outcome = match command {
        TransactionCommand::Begin { id, session, user, idle_limit_ms } => {
            begin(txn, *id, session.as_deref(), user, *idle_limit_ms)?
        }
        TransactionCommand::Touch { id } => {
            let mut record = require_open(txn, *id)?;
            record.active_on_ms = record.active_on_ms.max(txn.now_ms);
            put(txn, &record)?;
            TransactionOutcome::Open(*id)
        }
        TransactionCommand::Consume { id, moves } => {
            let mut record = require_open(txn, *id)?;
            record.consume(moves)?;
            record.active_on_ms = record.active_on_ms.max(txn.now_ms);
            put(txn, &record)?;
            TransactionOutcome::Open(*id)
        }
        TransactionCommand::Prepare(preparation) => commit::prepare(txn, preparation)?,
        TransactionCommand::Commit { id, tables } => commit::commit(txn, *id, tables)?,
        TransactionCommand::Fail { id, error, told, idle_since_ms } => {
            end::fail(txn, *id, error, *told, *idle_since_ms)?
        }
        TransactionCommand::RollBack { id } => end::roll_back(txn, *id)?,
        TransactionCommand::Renew { id } => renew(txn, *id)?,
        TransactionCommand::Swept { id } => {
            swept(txn, *id)?;
            return Ok(CommandResult::Done);
        }
        TransactionCommand::Trim { before_ms, limit } => return trim(txn, *before_ms, *limit),
    };
    Ok(CommandResult::Transaction(outcome))
}

fn begin(
    txn: &mut Transaction<'_>,
    id: TransactionId,
    session: Option<&str>,
    user: &str,
    idle_limit_ms: i64,
) -> Outcome<TransactionOutcome> {
    if transaction(txn.view(), id)?.is_some() {
        return Ok(TransactionOutcome::Open(id));
    }
    if let Some(session) = session
        && let Some(current) = transaction_of_session(txn.view(), session)?
    {
        return match current.check_open() {
            Ok(()) => Ok(TransactionOutcome::Open(current.id)),
            Err(error) => refuse(error),
        };
    }
    if txn.view().scan(&keys::open_transactions(), None, MOST_OPEN)?.len() >= MOST_OPEN {
        return refuse(
            Error::exhausted(format!("{MOST_OPEN} transactions are open, which is the limit"))
                .hint("SELECT * FROM system.transactions says whose they are")
                .retryable(true),
        );
    }
    let number = txn.count(|counters| next(&mut counters.transactions))?;
    let counters: Counters = txn.read(&keys::counters())?.unwrap_or_default();
    let record = ClientTransaction {
        id,
        number,
        session: session.map(str::to_owned),
        user: user.to_owned(),
        phase: TransactionPhase::Open,
        begun_on_ms: txn.now_ms,
        active_on_ms: txn.now_ms,
        idle_limit_ms,
        last_table: counters.tables,
        jobs: 0,
        prepared: 0,
        consumes: Vec::new(),
        tables: 0,
        ended_on_ms: None,
        error: None,
        told: false,
    };
    put(txn, &record)?;
    txn.put(keys::open_transaction(number), &id)?;
    if let Some(session) = session {
        txn.put(keys::session_transaction(session), &id)?;
    }
    Ok(TransactionOutcome::Open(id))
}

fn renew(txn: &mut Transaction<'_>, id: TransactionId) -> Outcome<TransactionOutcome> {
    let Some(record) = transaction(txn.view(), id)? else { return Ok(TransactionOutcome::Open(id)) };
    if record.phase != TransactionPhase::Open || record.has_changes() || record.session.is_some() {
        return refuse(Error::conflict(format!("transaction {id} has begun to change tables")));
    }
    end::close(txn, &record)?;
    txn.delete(keys::transaction(id));
    Ok(TransactionOutcome::Open(id))
}

fn swept(txn: &mut Transaction<'_>, id: TransactionId) -> Outcome<()> {
    let record = require(txn, id)?;
    let Some(ended) = record.ended_on_ms else {
        return refuse(Error::conflict(format!("transaction {id} has not ended")));
    };
    for index in 0..record.jobs {
        txn.delete(keys::transaction_job(id, index));
    }
    for (key, _) in keys::scan_all(txn.view(), &keys::transaction_tables(id))? {
        txn.delete(key);
    }
    txn.delete(keys::unswept_transaction(record.number));
    Ok(txn.put(keys::ended_transaction(ended, record.number), &id)?)
}

fn trim(txn: &mut Transaction<'_>, before_ms: UnixMillis, limit: u32) -> Outcome<CommandResult> {
    let limit = usize::try_from(limit).unwrap_or(1).max(1);
    let oldest = txn.view().scan(&keys::ended_transactions(), None, limit)?;
    let full = oldest.len() == limit;
    for (key, value) in oldest {
        let id: TransactionId = keys::decode(&key, &value)?;
        if let Some(record) = transaction(txn.view(), id)? {
            if record.ended_on_ms.is_none_or(|ended| ended >= before_ms) {
                return Ok(CommandResult::Progress { done: true });
            }
            end::leave_session(txn, &record)?;
        }
        txn.delete(keys::transaction(id));
        txn.delete(key);
    }
    Ok(CommandResult::Progress { done: !full })
}

/// Finds the entry of a job in its transaction.
pub(super) fn entry_of(
    txn: &Transaction<'_>,
    record: &ClientTransaction,
    job: JobId,
) -> Outcome<(u32, TransactionJob)> {
    // The newest first: it is nearly always the one.
    for index in (0..record.jobs).rev() {
        if let Some(entry) = txn.read::<TransactionJob>(&keys::transaction_job(record.id, index))?
            && entry.job == job
        {
            return Ok((index, entry));
        }
    }
    Err(Error::internal(format!("job {job} is missing in transaction {}", record.id)).into())
}

//! Multi-statement transactions: several jobs, perhaps on several tables, that commit in one command.
//!
//! Owns: the record of a transaction, its jobs in order, its own versions of the tables that it changes, and the
//! versions that it still reads of tables that others have changed since it began. A job of a transaction goes
//! through its phases as any other, but it is *prepared* where another one commits: its rows are then in metadata
//! that only the transaction knows. Until the transaction ends, such a job is Committing and holds its claims.
//!
//! Must never let a job of a transaction commit by itself, nor a table flip for a transaction without all others
//! that belong to it. Whoever ends one of its jobs otherwise (TRUNCATE, DROP, a cancellation) has failed the whole.

pub(crate) mod command;
pub(crate) mod commit;
mod end;
mod read;

use serde::{Deserialize, Serialize};
use stevedore_common::Error;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{JobId, TableId, TransactionId};
use uuid::Uuid;

use crate::apply::{Outcome, Transaction, refuse};
use crate::catalog::{self, Table};
use crate::command::TableContents;
use crate::jobs::JobSpec;
use crate::keys;
use crate::streams::StreamMove;

pub use command::{JobPreparation, TransactionCommand};
pub(crate) use end::lost_job;
pub use read::*;

/// Transactions that may be open at a time: each of them costs a look whenever a table changes.
pub const MOST_OPEN: usize = 1_000;
/// Statements of one transaction that change something. All of them end in one command.
pub const MOST_STATEMENTS: u32 = 1_000;
/// Tables that one transaction may change: their commit is one command.
pub const MOST_TABLES: u32 = 40;

/// Streams that one transaction may consume.
pub const MOST_STREAMS: usize = 100;

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionPhase {
    /// Statements may join it.
    Open,
    /// It is rolled back, and its client's session is in it until the client says so as well.
    Failed,
    /// Its changes are in the tables.
    Committed,
    /// Nothing of it was changed.
    RolledBack,
}

impl TransactionPhase {
    /// The name that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Failed => "failed",
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
        }
    }
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientTransaction {
    /// Its id.
    pub id: TransactionId,
    /// Counts transactions.
    pub number: u64,
    /// The session whose statements belong to it; none: its statements name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Who began it.
    pub user: String,
    /// Where it stands.
    pub phase: TransactionPhase,
    /// When it began: what it sees of tables is of this moment.
    pub begun_on_ms: UnixMillis,
    /// The last sign of its client.
    pub active_on_ms: UnixMillis,
    /// It is rolled back without such a sign for so long, while no statement of it runs.
    pub idle_limit_ms: i64,
    /// The newest table when it began.
    pub last_table: u64,
    /// Jobs so far.
    pub jobs: u32,
    /// Those of them that are prepared.
    #[serde(default)]
    pub prepared: u32,
    /// Tables that it has changed so far.
    pub tables: u32,
    /// The streams whose offsets its commit moves; each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consumes: Vec<StreamMove>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_on_ms: Option<UnixMillis>,
    /// Why it was rolled back, where its client did not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// The client knows of that: a statement of it answered with an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
}

impl ClientTransaction {
    /// Whether its commit would do anything.
    pub fn has_changes(&self) -> bool {
        self.jobs > 0 || !self.consumes.is_empty()
    }

    /// Adds what a statement consumes. Statements that read one stream read it alike.
    fn consume(&mut self, moves: &[StreamMove]) -> Outcome<()> {
        for wanted in moves {
            match self.consumes.iter().find(|known| known.stream == wanted.stream) {
                Some(known) if known == wanted => {}
                Some(_) => {
                    return refuse(
                        Error::conflict(
                            "statements of a transaction consume a stream up to different places",
                        )
                        .hint("read it with the same MAX_BATCH_SIZE, or in transactions of their own"),
                    );
                }
                None => self.consumes.push(*wanted),
            }
        }
        if self.consumes.len() > MOST_STREAMS {
            return refuse(Error::exhausted(format!(
                "a transaction consumes at most {MOST_STREAMS} streams"
            )));
        }
        Ok(())
    }

    /// Why a transaction that failed or was rolled back did not commit.
    pub fn reason(&self) -> Error {
        self.error.clone().unwrap_or_else(|| Error::conflict("the client rolled it back"))
    }
}

/// A version of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableVersion {
    /// The epoch.
    pub epoch: u64,
    /// The metadata file.
    pub location: String,
    /// Its current schema.
    pub schema_id: i32,
    /// Its default partition spec.
    pub spec_id: i32,
    /// What it holds.
    pub contents: TableContents,
}

impl TableVersion {
    fn of(table: &Table) -> Self {
        Self {
            epoch: table.epoch,
            location: table.metadata_location.clone(),
            schema_id: table.schema_id,
            spec_id: table.spec_id,
            contents: TableContents {
                snapshot_id: table.snapshot_id,
                num_rows: table.num_rows,
                data_size: table.data_size,
            },
        }
    }

    fn apply(self, table: Table) -> Table {
        let mut table = Table {
            epoch: self.epoch,
            metadata_location: self.location,
            schema_id: self.schema_id,
            spec_id: self.spec_id,
            ..table
        };
        table.set_contents(self.contents);
        table
    }
}

/// How a job changes its table: what a commit after other commits has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableChangeShape {
    /// Its rows come beside those that are there.
    Appended,
    /// Rows that were there have changed or are gone.
    Rewritten,
    /// Its rows are the only ones.
    Overwritten,
}

/// A table as a transaction has changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionTable {
    /// The table.
    pub table: TableId,
    /// Its UUID.
    pub uuid: Uuid,
    /// `database.table`, for messages.
    pub name: String,
    /// The metadata that the first change was built on.
    pub base_location: String,
    /// The schema of that metadata, where the transaction has added columns to it: they are its own until it
    /// commits, so others may have added columns under the same ids and names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evolved_from: Option<i32>,
    /// The table with all changes so far.
    pub version: TableVersion,
    /// Rows that were there have changed or are gone.
    pub rewritten: bool,
    /// INSERT OVERWRITE.
    pub overwritten: bool,
    /// Where the commit put the table, once it has: elsewhere than `version` after a rebase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_location: Option<String>,
}

/// A job of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionJob {
    /// The job.
    pub job: JobId,
    /// The version with its rows, once it is prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<PreparedJob>,
}

/// What was written for a job of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedJob {
    /// The table.
    pub table: TableId,
    /// Counts the prepared jobs of the transaction.
    pub order: u32,
    /// What it does to it.
    pub shape: TableChangeShape,
    /// The snapshot that it made.
    pub snapshot_id: Option<i64>,
    /// The files of this version: they are nobody's if the transaction does not commit with it.
    pub written: Vec<String>,
}

/// The error of what names a transaction that is not known, or not any more.
pub(crate) fn unknown(id: TransactionId) -> Error {
    Error::not_found(format!("transaction {id} is not known"))
}

/// The error of what an ended transaction does not allow.
fn over(record: &ClientTransaction) -> Error {
    match record.phase {
        TransactionPhase::Committed => {
            Error::conflict(format!("transaction {} has committed: begin another one", record.id))
        }
        _ => aborted(record),
    }
}

/// The error of statements in a transaction that has failed.
fn aborted(record: &ClientTransaction) -> Error {
    let reason = record.reason();
    Error::conflict("current transaction is aborted, commands ignored until end of transaction block")
        .hint(format!("ROLLBACK, and begin again; it failed with: {reason}"))
}

pub(crate) fn require(txn: &Transaction<'_>, id: TransactionId) -> Outcome<ClientTransaction> {
    match transaction(txn.view(), id)? {
        Some(record) => Ok(record),
        None => refuse(unknown(id)),
    }
}

/// The transaction, if statements may still join it.
pub(crate) fn require_open(txn: &Transaction<'_>, id: TransactionId) -> Outcome<ClientTransaction> {
    let record = require(txn, id)?;
    if record.phase == TransactionPhase::Open { Ok(record) } else { refuse(over(&record)) }
}

pub(crate) fn put(txn: &mut Transaction<'_>, record: &ClientTransaction) -> Outcome<()> {
    Ok(txn.put(keys::transaction(record.id), record)?)
}

/// A job joins its transaction when it is created.
pub(crate) fn add_job(
    txn: &mut Transaction<'_>,
    id: TransactionId,
    job: JobId,
    spec: &JobSpec,
) -> Outcome<()> {
    let mut record = require_open(txn, id)?;
    if spec.table.is_none() {
        return refuse(Error::invalid("a statement of a transaction changes a table that is there already"));
    }
    if record.jobs >= MOST_STATEMENTS {
        return refuse(
            Error::exhausted(format!(
                "a transaction has at most {MOST_STATEMENTS} statements that change rows"
            ))
            .hint("COMMIT now and then, or load the rows by COPY INTO or one INSERT of many"),
        );
    }
    txn.put(keys::transaction_job(id, record.jobs), &TransactionJob { job, prepared: None })?;
    record.jobs += 1;
    record.active_on_ms = record.active_on_ms.max(txn.now_ms);
    put(txn, &record)
}

/// Before a table's record changes: open transactions keep the version that they began with.
pub(crate) fn keep_version(txn: &mut Transaction<'_>, table: &Table) -> Outcome<()> {
    let open: Vec<TransactionId> = keys::read_all(txn.view(), &keys::open_transactions())?;
    if open.is_empty() {
        return Ok(());
    }
    let Some(before) = catalog::table_by_id(txn.view(), table.id)? else { return Ok(()) };
    if (before.epoch, &before.metadata_location) == (table.epoch, &table.metadata_location) {
        return Ok(());
    }
    for id in open {
        let key = keys::kept_version(id, table.id);
        if txn.read::<TableVersion>(&key)?.is_none() {
            txn.put(key, &TableVersion::of(&before))?;
        }
    }
    Ok(())
}

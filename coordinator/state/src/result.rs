//! What commands answer. A refused command is an answer too: it changed nothing.

use serde::{Deserialize, Serialize};
use stevedore_common::ids::{
    Attempt, FileIndex, JobId, SliceIndex, StageId, TableId, TaskRun, TransactionId,
};
use stevedore_common::{Error, Result};

use crate::jobs::{JobColumns, JobPhase};

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandResult {
    /// Done; nothing to say.
    Done,
    /// Refused: nothing changed.
    Refused(Error),
    /// CREATE of anything but a table.
    Created {
        /// The id of the object, new or existing.
        id: u64,
        /// False: it existed, under IF NOT EXISTS.
        created: bool,
    },
    /// CREATE, UNDROP or RENAME TABLE.
    Table {
        /// The table.
        table: TableId,
        /// False: it existed, under IF NOT EXISTS.
        created: bool,
    },
    /// DROP of anything but a stage.
    Dropped {
        /// False: there was none, under IF EXISTS.
        existed: bool,
    },
    /// DROP STAGE.
    StageDropped {
        /// The stage that went; none: there was none, under IF EXISTS.
        stage: Option<StageId>,
        /// Whether its files are now to be deleted.
        internal: bool,
    },
    /// CommitTable.
    TableCommit(TableCommitOutcome),
    /// CreateJob.
    JobCreated {
        /// The job.
        job: JobId,
        /// The idempotency key was known: this is the earlier job.
        existing: bool,
    },
    /// ClaimFiles: one outcome a file, in the command's order.
    Claims(Vec<ClaimOutcome>),
    /// PlanSlices.
    Planned {
        /// Slices planned so far.
        slices: u32,
    },
    /// ReserveColumns.
    Columns(ColumnsOutcome),
    /// LeaseSlice.
    Leased {
        /// The attempt to run under.
        attempt: Attempt,
    },
    /// StageReport.
    Staged {
        /// The slice is accepted.
        accepted: bool,
        /// The job's phase afterwards: too many errors abort it.
        phase: JobPhase,
    },
    /// SealJob, ReleaseSlice, FailSlice, BeginCommit, EndPurge, EndJob: where the job stands now.
    /// EndJob on a committed job answers that it is committed.
    Job {
        /// The phase.
        phase: JobPhase,
    },
    /// FailSlice and ReleaseSlice, when they cut the slice into its files.
    SliceCut {
        /// The first slice that replaces it.
        first: SliceIndex,
        /// How many do.
        count: u32,
    },
    /// CommitJob.
    Commit(CommitOutcome),
    /// The commands on transactions.
    Transaction(TransactionOutcome),
    /// Execute and TakeTick of a task.
    TaskRun {
        /// The run that begins; none: it was skipped.
        run: Option<TaskRun>,
    },
    /// ReopenSlices, SettleLedger, SweepLedger, TrimJobs: whether all is done; else propose it again.
    Progress {
        /// Nothing is left.
        done: bool,
    },
}

impl CommandResult {
    /// The result, with a refusal as an error.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_result(self) -> Result<Self> {
        match self {
            Self::Refused(error) => Err(error),
            other => Ok(other),
        }
    }

    /// The bytes that the window of results keeps.
    ///
    /// # Errors
    /// Internal, if it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("a result cannot be encoded: {e}")))
    }

    /// Reads what [`CommandResult::encode`] wrote.
    ///
    /// # Errors
    /// Internal, if the bytes are no result.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::internal(format!("a result cannot be read: {e}")))
    }
}

/// What became of a listed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimOutcome {
    /// The job holds it, under this index. The same path always answers the same index.
    Claimed(FileIndex),
    /// Loaded before, unchanged.
    AlreadyLoaded,
    /// Loaded before, with other content: skipped.
    Changed,
    /// A live job holds it.
    ClaimedBy(JobId),
    /// It has no bytes: recorded, not claimed.
    Empty,
    /// MAX_FILES are claimed already.
    OverMaxFiles,
}

/// The outcome of a CommitTable that was not refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableCommitOutcome {
    /// The table is at the new metadata.
    Committed {
        /// The table's epoch now.
        epoch: u64,
    },
    /// Somebody else committed first: rebase on this and propose again.
    Moved {
        /// The table's metadata now.
        current_location: String,
    },
}

/// The outcome of a ReserveColumns that was not refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnsOutcome {
    /// The job's slices are to write these columns.
    Reserved(JobColumns),
    /// The table has another schema by now: compare with that one and propose again.
    Moved,
}

/// The outcome of a CommitJob that was not refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitOutcome {
    /// The job is committed, now or before.
    Committed(CommitSummary),
    /// Somebody else committed to the table first: rebase on this and propose again.
    Moved {
        /// The table.
        table: TableId,
        /// Its metadata now.
        current_location: String,
    },
    /// The job is aborted or cancelled, now or before.
    Aborted(Error),
}

/// The outcome of a command on a transaction that was not refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionOutcome {
    /// It is open. Of Begin: the one that the session is in, which may have begun before.
    Open(TransactionId),
    /// Prepare: the job's rows are in the transaction's version of the table, now or before.
    Prepared {
        /// The snapshot that brought them.
        snapshot_id: Option<i64>,
    },
    /// Prepare, Commit: the table is elsewhere: build on this and propose again.
    Moved {
        /// The table.
        table: TableId,
        /// The metadata to build on.
        current_location: String,
    },
    /// It is committed, now or before.
    Committed,
    /// It is rolled back, or will be: nothing of it was changed.
    RolledBack(Error),
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitSummary {
    /// The table; none for a job that had nothing to load.
    pub table: Option<TableId>,
    /// The snapshot that holds the rows.
    pub snapshot_id: Option<i64>,
    /// Rows loaded.
    pub rows: u64,
    /// The time of the commit.
    pub committed_on_ms: i64,
}

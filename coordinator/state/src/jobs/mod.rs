//! Jobs: one COPY, INSERT, CREATE TABLE AS or unload from its submission to its end.
//!
//! Owns: their records (job, files, slices, reports, data files), the commands that move them
//! through their phases, the reads. A phase only moves forward; ending is one way.
//!
//! The records of a job are split by how often they change: the specification never does, the job's
//! own record holds counters and is small, a file's record is written when it is claimed, a slice's
//! file list when it is planned, its state at every lease and report.

pub(crate) mod claim;
pub(crate) mod columns;
pub(crate) mod commit;
pub(crate) mod create;
pub(crate) mod end;
pub(crate) mod file_runs;
mod history;
pub(crate) mod lease;
pub(crate) mod plan;
pub(crate) mod purge;
mod read;
pub(crate) mod report;
pub(crate) mod trim;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stevedore_common::Error;
use stevedore_common::clock::UnixMillis;
use stevedore_common::file_identity::{FileVersion, StoreIdentity};
use stevedore_common::ids::{Attempt, FileIndex, JobId, SliceIndex, TableId, TransactionId, WorkerId};
use stevedore_common::schema::Column;
use stevedore_common::worker_group::WorkerGroup;

use crate::result::CommitSummary;
use crate::streams::StreamMove;

pub use claim::{ClaimRule, preview_claim};
pub use history::*;
pub use read::*;

/// Failures of a slice after which it is cut into its files, or its only file aborts the job.
pub const MAX_SLICE_FAILURES: u32 = 5;

/// New columns of one load at most.
pub const MAX_NEW_COLUMNS: usize = 1_000;

/// Names of files that one job records as already loaded, and as over MAX_FILES; beyond it they are counted only.
pub const MAX_SKIPPED_NAMES: u64 = 1000;

/// What kind of statement a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// COPY INTO a table.
    Copy,
    /// INSERT.
    Insert,
    /// CREATE TABLE AS.
    CreateTableAs,
    /// COPY INTO a location.
    Unload,
    /// DELETE.
    Delete,
    /// UPDATE.
    Update,
    /// MERGE INTO.
    Merge,
}

impl JobKind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Insert => "insert",
            Self::CreateTableAs => "create_table_as",
            Self::Unload => "unload",
            Self::Delete => "delete",
            Self::Update => "update",
            Self::Merge => "merge",
        }
    }
}

/// ON_ERROR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorMode {
    /// The first bad row fails the statement.
    #[default]
    Abort,
    /// The N-th does.
    AbortN,
    /// Bad rows are dropped and counted.
    Continue,
    /// A file with a bad row is left out.
    SkipFile,
    /// A file with N is.
    SkipFileN,
    /// A file with N % is.
    SkipFilePercent,
}

impl ErrorMode {
    /// Whether a file is loaded whole or left out whole, so that all of it must be seen before any of it
    /// is loaded.
    pub fn takes_whole_files(self) -> bool {
        matches!(self, Self::SkipFile | Self::SkipFileN | Self::SkipFilePercent)
    }
}

/// ON_ERROR with its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnError {
    /// The mode.
    pub mode: ErrorMode,
    /// N, where the mode has one.
    pub limit: u64,
}

/// What a job is; never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The kind.
    pub kind: JobKind,
    /// The statement, secrets masked.
    pub statement: String,
    /// The target; none for CREATE TABLE AS and for what is unloaded.
    pub table: Option<TableId>,
    /// `database.table`, for messages.
    pub table_name: String,
    /// The table's epoch that the plan rests on.
    pub epoch: u64,
    /// The schema that the plan rests on.
    pub schema_id: i32,
    /// The partition spec that the plan rests on.
    pub spec_id: i32,
    /// Where the files are; none for a query.
    pub store: Option<StoreIdentity>,
    /// ON_ERROR.
    pub on_error: OnError,
    /// FORCE.
    pub force: bool,
    /// PURGE.
    pub purge: bool,
    /// MAX_FILES.
    pub max_files: Option<u32>,
    /// The client's key, unique while the job is remembered.
    pub idempotency_key: Option<String>,
    /// A digest of what the client asked for under the key: statement, database, settings.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// The streams that it reads, whose offsets its commit moves; each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consumes: Vec<StreamMove>,
    /// The planner's own, opaque here: JSON under 32 KiB, without secrets in the clear.
    pub plan: String,
    /// The transaction whose statement it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TransactionId>,
    /// The workers that it runs on.
    #[serde(default, skip_serializing_if = "WorkerGroup::is_default")]
    pub group: WorkerGroup,
}

/// Where a job stands. Declared in order: a phase never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// Files are listed and claimed, slices planned.
    Claiming,
    /// Slices run.
    Running,
    /// Every slice is accepted; the committer is at work.
    Committing,
    /// Committed; loaded files are being deleted.
    Purging,
    /// Ended: the rows are in the table.
    Committed,
    /// Ended: it failed, nothing was loaded.
    Aborted,
    /// Ended: a client cancelled it, nothing was loaded.
    Cancelled,
}

impl JobPhase {
    /// Whether nothing more will happen.
    pub fn is_ended(self) -> bool {
        self >= Self::Committed
    }

    /// Whether its rows are in the table.
    pub fn is_committed(self) -> bool {
        matches!(self, Self::Purging | Self::Committed)
    }

    /// Whether it can still load something: its claims hold.
    pub fn is_loading(self) -> bool {
        self < Self::Purging
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claiming => "claiming",
            Self::Running => "running",
            Self::Committing => "committing",
            Self::Purging => "purging",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a listed file was not claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Loaded before.
    AlreadyLoaded,
    /// Loaded before, with other content.
    Changed,
    /// A live job holds it.
    Claimed,
    /// It has no bytes.
    Empty,
    /// MAX_FILES are claimed already.
    OverMaxFiles,
}

impl SkipReason {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyLoaded => "already_loaded",
            Self::Changed => "changed",
            Self::Claimed => "claimed",
            Self::Empty => "empty",
            Self::OverMaxFiles => "over_max_files",
        }
    }
}

/// A job's counters and standing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Counts jobs: newer ones have greater numbers.
    pub number: u64,
    /// The kind.
    pub kind: JobKind,
    /// The target; after its commit also that of CREATE TABLE AS.
    pub table: Option<TableId>,
    /// The ledger generation that its claims are in.
    pub ledger_generation: u64,
    /// The interned store identity of its files.
    pub store: u32,
    /// Where it stands.
    pub phase: JobPhase,
    /// The transaction whose statement it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TransactionId>,
    /// The workers that it runs on.
    #[serde(default, skip_serializing_if = "WorkerGroup::is_default")]
    pub group: WorkerGroup,
    /// Its rows are in its transaction's own version of the table: it waits, Committing, for the transaction's commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prepared: bool,
    /// When it was created.
    pub created_on_ms: UnixMillis,
    /// When it ended; when it committed, if it is purging.
    pub ended_on_ms: Option<UnixMillis>,
    /// Why it was aborted.
    pub error: Option<Error>,
    /// What its commit did.
    pub committed: Option<CommitSummary>,
    /// Counts commits in log order, whatever the clocks said.
    pub commit_number: u64,
    /// Files claimed.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks of the listing so far.
    pub chunks: u32,
    /// Files not claimed, by reason.
    pub skipped: BTreeMap<SkipReason, u64>,
    /// Files that have a slice for their first part.
    pub planned_files: u32,
    /// Parts that those files should have.
    pub expected_parts: u32,
    /// Parts that have a slice.
    pub planned_parts: u32,
    /// Slices, those that were cut included.
    pub slices: u32,
    /// Slices that were cut into their files.
    pub cut_slices: u32,
    /// The slice from which on accepted ones are to run again, while there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopening: Option<SliceIndex>,
    /// Slices accepted.
    pub accepted_slices: u32,
    /// Parts of files in accepted slices.
    pub accepted_parts: u32,
    /// Input bytes of accepted slices.
    pub accepted_bytes: u64,
    /// Rows of accepted slices: loaded, inserted or unloaded.
    pub rows: u64,
    /// Rows that accepted slices update.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_updated: u64,
    /// Rows that accepted slices delete.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_deleted: u64,
    /// Errors of accepted slices.
    pub errors: u64,
    /// Data files of accepted slices.
    pub data_files: u64,
    /// Bytes of those.
    pub output_bytes: u64,
    /// Files purged.
    pub purged: u32,
    /// Files whose ledger entries are explicit.
    pub settled_files: u32,
    /// Whether all are: the job can be trimmed.
    pub settled: bool,
}

impl Job {
    /// Whether every slice is accepted.
    pub fn all_accepted(&self) -> bool {
        self.reopening.is_none() && self.accepted_slices + self.cut_slices == self.slices
    }

    /// Counts a slice that is accepted.
    pub(crate) fn count_accepted(&mut self, slice: &Slice) {
        let totals = &slice.staged;
        self.accepted_slices += 1;
        self.accepted_parts = self.accepted_parts.saturating_add(slice.tasks);
        self.accepted_bytes = self.accepted_bytes.saturating_add(totals.input_bytes);
        self.rows = self.rows.saturating_add(totals.rows);
        self.rows_updated = self.rows_updated.saturating_add(totals.rows_updated);
        self.rows_deleted = self.rows_deleted.saturating_add(totals.rows_deleted);
        self.errors = self.errors.saturating_add(totals.errors);
        self.data_files = self.data_files.saturating_add(totals.data_files);
        self.output_bytes = self.output_bytes.saturating_add(totals.output_bytes);
    }

    /// Takes back what [`Job::count_accepted`] counted.
    pub(crate) fn uncount_accepted(&mut self, slice: &Slice) {
        let totals = &slice.staged;
        self.accepted_slices = self.accepted_slices.saturating_sub(1);
        self.accepted_parts = self.accepted_parts.saturating_sub(slice.tasks);
        self.accepted_bytes = self.accepted_bytes.saturating_sub(totals.input_bytes);
        self.rows = self.rows.saturating_sub(totals.rows);
        self.rows_updated = self.rows_updated.saturating_sub(totals.rows_updated);
        self.rows_deleted = self.rows_deleted.saturating_sub(totals.rows_deleted);
        self.errors = self.errors.saturating_sub(totals.errors);
        self.data_files = self.data_files.saturating_sub(totals.data_files);
        self.output_bytes = self.output_bytes.saturating_sub(totals.output_bytes);
    }
}

/// The columns that the files of a load have and its table had not when they were looked at. A load with this
/// record stays Running until its commit, since its slices may have to run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobColumns {
    /// The table's schema that they are added to: slices write its columns and these.
    pub schema_id: i32,
    /// In order. Those with the id 0 the table has by now.
    pub columns: Vec<Column>,
    /// How often they were reserved anew after slices had run.
    #[serde(default)]
    pub rounds: u32,
}

impl JobColumns {
    /// The columns that the load adds to the schema.
    pub fn reserved(&self) -> Vec<Column> {
        self.columns.iter().filter(|column| column.id != 0).cloned().collect()
    }
}

/// A claimed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFile {
    /// The path within the store.
    pub path: String,
    /// What users see.
    pub name: String,
    /// The version that reads are pinned to.
    pub version: FileVersion,
}

/// Files of one chunk of the listing that were skipped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFiles {
    /// Why.
    pub reason: SkipReason,
    /// The job that holds them, for [`SkipReason::Claimed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<JobId>,
    /// How many.
    pub count: u64,
    /// Their names, perhaps not all (see [`MAX_SKIPPED_NAMES`]).
    pub names: Vec<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_first(part: &u32) -> bool {
    *part == 0
}

fn is_whole(parts: &u32) -> bool {
    *parts == 1
}

fn whole() -> u32 {
    1
}

/// A file task of a slice: a file, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceFile {
    /// The file.
    #[serde(rename = "f")]
    pub file: FileIndex,
    /// Where the part begins. Both 0: the whole file.
    #[serde(rename = "s", default, skip_serializing_if = "is_zero")]
    pub range_start: u64,
    /// Where it ends.
    #[serde(rename = "e", default, skip_serializing_if = "is_zero")]
    pub range_end: u64,
    /// The part, from 0.
    #[serde(rename = "p", default, skip_serializing_if = "is_first")]
    pub part: u32,
    /// Of how many. A file's part 0 is planned first.
    #[serde(rename = "n", default = "whole", skip_serializing_if = "is_whole")]
    pub parts: u32,
}

impl SliceFile {
    /// A whole file.
    pub fn whole(file: FileIndex) -> Self {
        Self { file, range_start: 0, range_end: 0, part: 0, parts: 1 }
    }
}

/// Where a slice stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceState {
    /// Waits for a worker.
    Pending,
    /// A worker holds it.
    Leased {
        /// The worker.
        worker: WorkerId,
        /// The incarnation of its process.
        incarnation: String,
        /// Since when.
        since_ms: UnixMillis,
    },
    /// Done: the report of the current attempt counts.
    Accepted,
    /// Cut into its files.
    Cut {
        /// The first slice that replaces it.
        first: SliceIndex,
        /// How many do.
        count: u32,
    },
}

/// A slice's standing. Its files are read by [`slice_files`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Where it stands.
    pub state: SliceState,
    /// The last attempt handed out; 0: none yet.
    pub attempt: Attempt,
    /// Attempts that failed.
    pub failures: u32,
    /// How the last one did.
    pub last_error: Option<Error>,
    /// File tasks in it.
    pub tasks: u32,
    /// Input bytes.
    pub bytes: u64,
    /// Chunks of the current attempt's report so far.
    pub staged_chunks: u32,
    /// Sums over them.
    pub staged: SliceTotals,
}

/// Sums over a slice's report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceTotals {
    /// File reports.
    pub files: u64,
    /// Rows in the data files.
    pub rows: u64,
    /// Data files.
    pub data_files: u64,
    /// Bytes read.
    pub input_bytes: u64,
    /// Bytes of data files.
    pub output_bytes: u64,
    /// Rejected rows.
    pub errors: u64,
    /// Rows that were in the table and have other values now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_updated: u64,
    /// Rows that were in the table.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_deleted: u64,
}

/// What became of a file, or of a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileOutcome {
    /// All or some rows are in the data files.
    Loaded,
    /// No row is in the data files: skip_file, or undecodable under continue.
    LeftOut,
    /// No bytes, or no record.
    Empty,
    /// It ended its job.
    Failed,
}

/// A worker's report on a file task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The file.
    pub file: FileIndex,
    /// The part.
    #[serde(default, skip_serializing_if = "is_first")]
    pub part: u32,
    /// What became of it.
    pub outcome: FileOutcome,
    /// Rows in the data files.
    pub rows: u64,
    /// Rejected rows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub errors: u64,
    /// The first error; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub first_error: String,
    /// Its line within the part, from 1; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_error_line: u64,
    /// Physical lines of the part, so that parts add up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lines: u64,
}

/// A file task as planned, with the last report staged for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilePart {
    /// Its slice.
    pub slice: SliceIndex,
    /// Of how many parts.
    pub parts: u32,
    /// The attempt that reported; the report counts once the slice is accepted under it.
    pub attempt: Attempt,
    /// The report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<FileReport>,
}

/// A file of a job as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileStatusKind {
    /// Not reported yet, or its job ended before.
    Pending,
    /// All its rows.
    Loaded,
    /// All but the rejected ones.
    PartiallyLoaded,
    /// Left out, or it ended its job.
    Failed,
    /// It had no record.
    Empty,
}

impl FileStatusKind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Loaded => "loaded",
            Self::PartiallyLoaded => "partially_loaded",
            Self::Failed => "failed",
            Self::Empty => "empty",
        }
    }
}

/// A file of a job with its parts' accepted reports merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// The file.
    pub file: FileIndex,
    /// The path within the store.
    pub path: String,
    /// What users see.
    pub name: String,
    /// The version read.
    pub version: FileVersion,
    /// What became of it.
    pub status: FileStatusKind,
    /// Rows loaded.
    pub rows: u64,
    /// Rejected rows.
    pub errors: u64,
    /// The first error in file order; empty: none.
    pub first_error: String,
    /// Its line in the file, from 1; 0: none.
    pub first_error_line: u64,
    /// What PURGE did with it, once it has.
    pub purge: Option<PurgeOutcome>,
}

/// What PURGE found when it came to delete a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PurgeOutcome {
    /// The version loaded was there, and was deleted.
    Deleted,
    /// It was gone already.
    Gone,
    /// There was another version, which stays.
    Changed,
}

impl PurgeOutcome {
    /// Whether the path was free afterwards.
    pub fn is_gone(self) -> bool {
        self != Self::Changed
    }
}

//! Commands: everything that can happen to the replicated state, and the envelope they travel in.
//!
//! A command carries all that its outcome depends on besides the state: times, UUIDs, locations of
//! metadata files that were written before. It stays under [`MAX_COMMAND_BYTES`]; lists that can be
//! long (files, slices, reports) travel in chunks. Secrets in it are sealed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stevedore_common::clock::UnixMillis;
use stevedore_common::file_format::{FileFormat, OptionValue};
use stevedore_common::file_identity::FileVersion;
use stevedore_common::ids::{AttemptKey, FileIndex, JobId, SliceIndex, TableId, WorkerId};
use stevedore_common::secret::Sealed;
use stevedore_common::types::SqlType;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use uuid::Uuid;

use crate::catalog::{StageFormat, StageKind, StageSource};
use crate::jobs::{FileReport, JobSpec, PurgeOutcome, SkippedFiles, SliceFile, SliceTotals};
use crate::streams::StreamCommand;
use crate::tasks::TaskCommand;
use crate::transactions::TransactionCommand;

/// The upper limit of an encoded command.
pub const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// What a chunk of files, slices or reports should stay under, so that its command (where strings
/// are escaped once more) and the records it becomes stay under their limits.
pub const CHUNK_BYTES: usize = 32 * 1024;

/// A command with who proposed it and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The incarnation of the proposing coordinator.
    pub proposer: String,
    /// Counts the proposer's commands; the same number is the same command.
    pub sequence: u64,
    /// The leader's clock when it proposed.
    pub time_ms: UnixMillis,
    /// The command.
    pub command: Command,
}

impl Envelope {
    /// The bytes that are replicated.
    ///
    /// # Errors
    /// Resource exhausted, if the command is longer than [`MAX_COMMAND_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self).map_err(|e| {
            Error::internal(format!("command {} cannot be encoded: {e}", self.command.name()))
        })?;
        if bytes.len() > MAX_COMMAND_BYTES {
            return Err(Error::exhausted(format!(
                "command {} has {} bytes, the limit is {MAX_COMMAND_BYTES}",
                self.command.name(),
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// Reads what [`Envelope::encode`] wrote.
    ///
    /// # Errors
    /// Internal, if the bytes are not a command that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::internal(format!("a replicated command cannot be read: {e}")))
    }
}

/// A change of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Does nothing: a barrier.
    Noop,
    /// Gives the cluster its id and the database `default`. Once.
    Bootstrap {
        /// The cluster's id.
        cluster_id: String,
    },

    /// CREATE DATABASE.
    CreateDatabase {
        /// The name.
        name: String,
        /// An existing one is no error.
        if_not_exists: bool,
        /// An existing one is dropped with its tables.
        or_replace: bool,
        /// The comment.
        comment: String,
    },
    /// DROP DATABASE, with its tables.
    DropDatabase {
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },
    /// CREATE TABLE.
    CreateTable(NewTable),
    /// DROP TABLE: aborts its live loads, keeps the record and the ledger for UNDROP.
    DropTable {
        /// The database.
        database: String,
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },
    /// UNDROP TABLE: brings back the one dropped last under this name.
    UndropTable {
        /// The database.
        database: String,
        /// The name.
        name: String,
    },
    /// RENAME TABLE.
    RenameTable {
        /// The database.
        database: String,
        /// The name.
        name: String,
        /// The database afterwards.
        new_database: String,
        /// The name afterwards.
        new_name: String,
    },
    /// Flips a table to new metadata outside of a job: ALTER, TRUNCATE, SET OPTIONS, maintenance.
    CommitTable(TableChange),

    /// CREATE CONNECTION.
    CreateConnection {
        /// The name.
        name: String,
        /// STORAGE_TYPE.
        storage_type: String,
        /// Keys that are not secret.
        params: BTreeMap<String, String>,
        /// Keys that are.
        secrets: BTreeMap<String, Sealed>,
        /// An existing one is no error.
        if_not_exists: bool,
        /// An existing one is changed.
        or_replace: bool,
    },
    /// DROP CONNECTION; refused while a stage names it.
    DropConnection {
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },
    /// CREATE STAGE.
    CreateStage {
        /// The name.
        name: String,
        /// Where its files are.
        kind: StageKind,
        /// FILE_FORMAT.
        file_format: Option<StageFormat>,
        /// COPY_OPTIONS, as written.
        copy_options: Vec<(String, OptionValue)>,
        /// The comment.
        comment: String,
        /// Who creates it.
        creator: String,
        /// An existing one is no error.
        if_not_exists: bool,
        /// An existing one is dropped; the new one has another id.
        or_replace: bool,
    },
    /// ALTER STAGE.
    AlterStage {
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
        /// What changes, in order.
        changes: Vec<StageChange>,
    },
    /// DROP STAGE. The files of an internal one are the caller's to delete, by the id in the result.
    DropStage {
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },
    /// CREATE FILE FORMAT.
    CreateFileFormat {
        /// The name.
        name: String,
        /// The format.
        format: FileFormat,
        /// An existing one is no error.
        if_not_exists: bool,
        /// An existing one is replaced.
        or_replace: bool,
    },
    /// DROP FILE FORMAT.
    DropFileFormat {
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },

    /// Creates a job in phase Claiming, or finds the one with the same idempotency key.
    CreateJob {
        /// Its id, made by the proposer.
        job: JobId,
        /// What it is.
        spec: JobSpec,
    },
    /// Claims listed files in the ledger. A chunk can be proposed again (by a new leader, with a new
    /// listing): a path that the job holds already keeps its index, the chunk's skipped files are
    /// recorded anew. A new listing that has fewer chunks sends the others empty.
    ClaimFiles {
        /// The job.
        job: JobId,
        /// The number of the chunk, from 0 without gaps.
        chunk: u32,
        /// The files, in listing order.
        files: Vec<ListedFile>,
    },
    /// Records files of the listing that were found loaded already, or beyond MAX_FILES, and so were not sent to be
    /// claimed. It is a chunk of the listing as [`Command::ClaimFiles`] has them, and can be proposed again.
    SkipFiles {
        /// The job.
        job: JobId,
        /// The number of the chunk.
        chunk: u32,
        /// How many, with the names of the first ones.
        skipped: Vec<SkippedFiles>,
    },
    /// Adds slices `first..`. Proposed again with the same content it changes nothing.
    PlanSlices {
        /// The job.
        job: JobId,
        /// The index of the first slice of this chunk.
        first: SliceIndex,
        /// The slices.
        slices: Vec<NewSlice>,
    },
    /// Says which columns the files of a load have that its table lacks, and reserves field ids for them.
    /// While files are claimed it replaces what was said before. Once every slice is accepted it means that
    /// the table's columns have changed so that the data files do not fit: the slices are to run again.
    ReserveColumns {
        /// The job.
        job: JobId,
        /// The table's schema that the columns were compared with.
        schema_id: i32,
        /// The last field id that the metadata of that schema knows.
        last_column_id: i32,
        /// The columns, in the order in which they are to be added.
        columns: Vec<WantedColumn>,
    },
    /// Makes accepted slices pending again, some at a time, from where the last such command stopped.
    ReopenSlices {
        /// The job.
        job: JobId,
        /// Slices at most.
        limit: u32,
    },
    /// Ends Claiming, if exactly so many files are claimed and planned.
    SealJob {
        /// The job.
        job: JobId,
        /// Claimed files.
        files: u32,
        /// Planned slices.
        slices: u32,
    },
    /// Hands a slice to a worker under a new attempt.
    LeaseSlice {
        /// The job.
        job: JobId,
        /// The slice.
        slice: SliceIndex,
        /// The worker.
        worker: WorkerId,
        /// The incarnation of its process.
        incarnation: String,
        /// Takes it from whoever holds it.
        steal: bool,
    },
    /// Takes a lease back: the worker is lost, drains, or refused the slice.
    ReleaseSlice {
        /// The attempt that ends.
        attempt: AttemptKey,
        /// Why.
        reason: String,
        /// Whether it counts as a failure of the slice.
        failure: bool,
    },
    /// A chunk of an attempt's report; the last one accepts the slice.
    StageReport {
        /// The attempt.
        attempt: AttemptKey,
        /// The number of the chunk, from 0.
        sequence: u32,
        /// What became of files.
        files: Vec<FileReport>,
        /// Iceberg data files as JSON.
        data_files: Vec<String>,
        /// Whether it is the last chunk.
        last: bool,
        /// The sums over all chunks, with the last one.
        totals: Option<SliceTotals>,
    },
    /// An attempt ended without a report.
    FailSlice {
        /// The attempt.
        attempt: AttemptKey,
        /// Why.
        error: Error,
        /// Another attempt cannot succeed: the job is aborted.
        permanent: bool,
        /// The file at fault, if one is.
        file: Option<FileReport>,
    },
    /// Running → Committing, once every slice is accepted.
    BeginCommit {
        /// The job.
        job: JobId,
    },
    /// Flips the tables and ends the job, together.
    CommitJob(JobCommit),
    /// PURGE has dealt with these files of a committed job.
    RecordPurged {
        /// The job.
        job: JobId,
        /// The files, each fully loaded, with what was found.
        files: Vec<(FileIndex, PurgeOutcome)>,
    },
    /// Purging → Committed.
    EndPurge {
        /// The job.
        job: JobId,
    },
    /// Aborts or cancels a job that has not committed. One way.
    EndJob {
        /// The job.
        job: JobId,
        /// How.
        end: JobEnding,
    },

    /// Makes the ledger entries of an ended job explicit, some files at a time, from where the last
    /// such command stopped.
    SettleLedger {
        /// The job.
        job: JobId,
        /// Files at most.
        limit: u32,
    },
    /// Deletes ledger entries of generations that a TRUNCATE left behind.
    SweepLedger {
        /// The table.
        table: TableId,
        /// Entries at most.
        limit: u32,
    },
    /// Deletes the details of settled jobs that ended before a time, oldest first.
    TrimJobs {
        /// Ended before this.
        before_ms: UnixMillis,
        /// Records deleted at most (about).
        limit: u32,
    },
    /// Streams and their offsets.
    Stream(StreamCommand),
    /// Scheduled tasks, their runs, notification integrations.
    Task(TaskCommand),
    /// Multi-statement transactions.
    Transaction(TransactionCommand),
    /// A worker of this group lives.
    NoteWorkerGroup {
        /// The group.
        group: WorkerGroup,
    },
    /// Forgets a group that nothing is left of.
    ForgetWorkerGroup {
        /// The group.
        group: WorkerGroup,
        /// Since then at the latest no worker of it lived, as the leader knows it.
        unseen_since_ms: UnixMillis,
    },
}

impl Command {
    /// The name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Bootstrap { .. } => "bootstrap",
            Self::CreateDatabase { .. } => "create_database",
            Self::DropDatabase { .. } => "drop_database",
            Self::CreateTable(_) => "create_table",
            Self::DropTable { .. } => "drop_table",
            Self::UndropTable { .. } => "undrop_table",
            Self::RenameTable { .. } => "rename_table",
            Self::CommitTable(_) => "commit_table",
            Self::CreateConnection { .. } => "create_connection",
            Self::DropConnection { .. } => "drop_connection",
            Self::CreateStage { .. } => "create_stage",
            Self::AlterStage { .. } => "alter_stage",
            Self::DropStage { .. } => "drop_stage",
            Self::CreateFileFormat { .. } => "create_file_format",
            Self::DropFileFormat { .. } => "drop_file_format",
            Self::CreateJob { .. } => "create_job",
            Self::ClaimFiles { .. } => "claim_files",
            Self::SkipFiles { .. } => "skip_files",
            Self::PlanSlices { .. } => "plan_slices",
            Self::ReserveColumns { .. } => "reserve_columns",
            Self::ReopenSlices { .. } => "reopen_slices",
            Self::SealJob { .. } => "seal_job",
            Self::LeaseSlice { .. } => "lease_slice",
            Self::ReleaseSlice { .. } => "release_slice",
            Self::StageReport { .. } => "stage_report",
            Self::FailSlice { .. } => "fail_slice",
            Self::BeginCommit { .. } => "begin_commit",
            Self::CommitJob(_) => "commit_job",
            Self::RecordPurged { .. } => "record_purged",
            Self::EndPurge { .. } => "end_purge",
            Self::EndJob { .. } => "end_job",
            Self::SettleLedger { .. } => "settle_ledger",
            Self::SweepLedger { .. } => "sweep_ledger",
            Self::TrimJobs { .. } => "trim_jobs",
            Self::Stream(command) => command.name(),
            Self::Task(command) => command.name(),
            Self::Transaction(command) => command.name(),
            Self::NoteWorkerGroup { .. } => "note_worker_group",
            Self::ForgetWorkerGroup { .. } => "forget_worker_group",
        }
    }
}

/// A table to create. Its first metadata file is written already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTable {
    /// The database.
    pub database: String,
    /// The name.
    pub name: String,
    /// The UUID in the metadata.
    pub uuid: Uuid,
    /// The metadata file.
    pub metadata_location: String,
    /// The metadata's current schema.
    pub schema_id: i32,
    /// The metadata's default partition spec.
    pub spec_id: i32,
    /// The comment.
    pub comment: String,
    /// CREATE TRANSIENT TABLE.
    pub transient: bool,
    /// Table options.
    pub options: BTreeMap<String, String>,
    /// An existing one is no error (and the metadata file is the caller's to delete).
    pub if_not_exists: bool,
    /// An existing one is dropped, its live loads aborted.
    pub or_replace: bool,
    /// What the first snapshot holds, for CREATE TABLE AS.
    #[serde(default)]
    pub contents: TableContents,
}

/// What a table holds at a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContents {
    /// The current snapshot.
    pub snapshot_id: Option<i64>,
    /// Rows in all.
    pub num_rows: u64,
    /// Bytes of data files in all.
    pub data_size: u64,
}

/// New metadata for a table outside of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChange {
    /// The table.
    pub table: TableId,
    /// Its UUID.
    pub uuid: Uuid,
    /// The epoch it rests on.
    pub epoch: u64,
    /// The metadata it rests on.
    pub expected_location: String,
    /// The metadata file written for it, under a name of its own.
    pub new_location: String,
    /// What it does.
    pub kind: TableChangeKind,
    /// The metadata's current schema afterwards.
    pub schema_id: i32,
    /// The metadata's default partition spec afterwards.
    pub spec_id: i32,
    /// What the table holds afterwards.
    pub contents: TableContents,
    /// The field ids that the new columns got, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_field_ids: Option<FieldIds>,
}

/// Field ids that a change hands out outside of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldIds {
    /// All reserved ones that the change knew of are at most this one.
    pub after: i32,
    /// The last one that it hands out.
    pub last: i32,
}

/// A column that the files of a load have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedColumn {
    /// Its name.
    pub name: String,
    /// The type that holds its values in all files.
    pub ty: SqlType,
    /// The table has a column of that name: nothing is reserved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exists: bool,
}

/// Kinds of [`TableChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableChangeKind {
    /// ALTER TABLE: the schema, the comment.
    Alter {
        /// The comment, where it changes.
        comment: Option<String>,
    },
    /// TRUNCATE: bumps the epoch, aborts live loads, clears the ledger.
    Truncate,
    /// ALTER TABLE SET OPTIONS: merged into the options.
    Options(BTreeMap<String, String>),
    /// Maintenance that leaves the rows as they are.
    Maintenance,
}

/// One change of ALTER STAGE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageChange {
    /// SET URL.
    SetUrl(String),
    /// SET CONNECTION.
    SetSource(StageSource),
    /// SET FILE_FORMAT.
    SetFileFormat(StageFormat),
    /// UNSET FILE_FORMAT.
    UnsetFileFormat,
    /// SET COPY_OPTIONS.
    SetCopyOptions(Vec<(String, OptionValue)>),
    /// SET COMMENT.
    SetComment(String),
    /// UNSET COMMENT.
    UnsetComment,
}

/// A file as the planner found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// The path within the store: what the ledger keys on.
    pub path: String,
    /// Relative to the stage or location: what users see.
    pub name: String,
    /// The version listed.
    pub version: FileVersion,
}

/// A slice to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSlice {
    /// Its file tasks; none for a query.
    #[serde(with = "crate::jobs::file_runs")]
    pub files: Vec<SliceFile>,
    /// Input bytes.
    pub bytes: u64,
}

/// The commit of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCommit {
    /// The job.
    pub job: JobId,
    /// The tables that flip. Holds the job's table, unless it creates one.
    pub tables: Vec<TableCommit>,
    /// The table that CREATE TABLE AS creates.
    pub new_table: Option<NewTable>,
}

/// New metadata for one table of a [`JobCommit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCommit {
    /// The table.
    pub table: TableId,
    /// Its UUID.
    pub uuid: Uuid,
    /// The epoch that the job rests on.
    pub epoch: u64,
    /// The metadata that `new_location` was built on.
    pub expected_location: String,
    /// The metadata file written for it, under a name of its own.
    pub new_location: String,
    /// The table's schema that the data files were written with, or compared with at the rebase.
    pub schema_id: i32,
    /// The partition spec that they were written with.
    pub spec_id: i32,
    /// The schema afterwards, where the commit evolves it.
    pub new_schema_id: Option<i32>,
    /// INSERT OVERWRITE: bumps the epoch and aborts the table's other live loads.
    pub overwrite: bool,
    /// What the table holds afterwards.
    pub contents: TableContents,
}

/// How [`Command::EndJob`] ends a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEnding {
    /// It failed.
    Aborted(Error),
    /// A client asked for it.
    Cancelled,
}

//! `apply`: from a command and the state before it to the writes, the result and the events.
//!
//! Comes in: commands in log order. Each is first looked up in its proposer's window of results, so
//! that a retried proposal answers what it answered and changes nothing. What a refused command had
//! begun to write is thrown away.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stevedore_common::clock::UnixMillis;
use stevedore_common::{Error, Result};

use crate::command::{Command, Envelope};
use crate::dedup;
use crate::event::Event;
use crate::keys::{self, Key};
use crate::overlay::Overlay;
use crate::result::CommandResult;
use crate::view::{ReadView, WriteBatch};
use crate::{catalog, jobs, ledger, streams, tasks as scheduled_tasks, transactions, worker_groups};

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The writes, to be stored with the applied index in one go.
    pub batch: WriteBatch,
    /// The answer to the proposer.
    pub result: CommandResult,
    /// What changed.
    pub events: Vec<Event>,
}

/// Applies one command.
///
/// # Errors
/// Storage, if the view cannot be read; internal, if it holds what it should not. Never for a
/// command that may not happen: that is [`CommandResult::Refused`].
pub fn apply(view: &dyn ReadView, index: u64, envelope: &Envelope) -> Result<Applied> {
    if let Some(result) = dedup::known_result(view, envelope)? {
        return Ok(Applied { batch: WriteBatch::default(), result, events: Vec::new() });
    }
    let mut txn = Transaction::new(view, envelope.time_ms);
    let result = match run(&mut txn, &envelope.command) {
        Ok(result) => result,
        Err(Stop::Refused(error)) => {
            txn = Transaction::new(view, envelope.time_ms);
            CommandResult::Refused(error)
        }
        Err(Stop::Failed(error)) => return Err(error),
    };
    dedup::remember(&mut txn, index, envelope, &result)?;
    Ok(Applied { batch: txn.overlay.into_batch(), result, events: txn.events })
}

fn run(txn: &mut Transaction<'_>, command: &Command) -> Outcome<CommandResult> {
    use catalog::{objects, tables};
    match command {
        Command::Noop => Ok(CommandResult::Done),
        Command::Bootstrap { cluster_id } => objects::bootstrap(txn, cluster_id),
        Command::CreateDatabase { name, if_not_exists, or_replace, comment } => {
            objects::create_database(txn, name, *if_not_exists, *or_replace, comment)
        }
        Command::DropDatabase { name, if_exists } => objects::drop_database(txn, name, *if_exists),
        Command::CreateTable(new) => tables::create(txn, new),
        Command::DropTable { database, name, if_exists } => tables::drop(txn, database, name, *if_exists),
        Command::UndropTable { database, name } => tables::undrop(txn, database, name),
        Command::RenameTable { database, name, new_database, new_name } => {
            tables::rename(txn, database, name, new_database, new_name)
        }
        Command::CommitTable(change) => tables::commit(txn, change),
        Command::CreateConnection { name, storage_type, params, secrets, if_not_exists, or_replace } => {
            let keys = (params.clone(), secrets.clone());
            objects::create_connection(txn, name, storage_type, keys, *if_not_exists, *or_replace)
        }
        Command::DropConnection { name, if_exists } => objects::drop_connection(txn, name, *if_exists),
        Command::CreateStage { .. } => objects::create_stage(txn, command),
        Command::AlterStage { name, if_exists, changes } => {
            objects::alter_stage(txn, name, *if_exists, changes)
        }
        Command::DropStage { name, if_exists } => objects::drop_stage(txn, name, *if_exists),
        Command::CreateFileFormat { name, format, if_not_exists, or_replace } => {
            objects::create_file_format(txn, name, format, *if_not_exists, *or_replace)
        }
        Command::DropFileFormat { name, if_exists } => objects::drop_file_format(txn, name, *if_exists),
        Command::CreateJob { job, spec } => jobs::create::create(txn, *job, spec),
        Command::ClaimFiles { job, chunk, files } => jobs::claim::claim(txn, *job, *chunk, files),
        Command::SkipFiles { job, chunk, skipped } => jobs::claim::skip_unsent(txn, *job, *chunk, skipped),
        Command::PlanSlices { job, first, slices } => jobs::plan::plan(txn, *job, *first, slices),
        Command::ReserveColumns { job, schema_id, last_column_id, columns } => {
            jobs::columns::reserve(txn, *job, *schema_id, *last_column_id, columns)
        }
        Command::ReopenSlices { job, limit } => jobs::columns::reopen(txn, *job, *limit),
        Command::SealJob { job, files, slices } => jobs::plan::seal(txn, *job, *files, *slices),
        Command::LeaseSlice { job, slice, worker, incarnation, steal } => {
            jobs::lease::lease(txn, *job, *slice, worker, incarnation, *steal)
        }
        Command::ReleaseSlice { attempt, reason, failure } => {
            jobs::lease::release(txn, *attempt, reason, *failure)
        }
        Command::StageReport { attempt, sequence, files, data_files, last, totals } => {
            let chunk = jobs::report::Chunk {
                sequence: *sequence,
                files,
                data_files,
                totals: totals.as_ref(),
                last: *last,
            };
            jobs::report::stage(txn, *attempt, &chunk)
        }
        Command::FailSlice { attempt, error, permanent, file } => {
            jobs::lease::fail(txn, *attempt, error, *permanent, file.as_ref())
        }
        Command::BeginCommit { job } => jobs::commit::begin(txn, *job),
        Command::CommitJob(commit) => jobs::commit::commit(txn, commit),
        Command::RecordPurged { job, files } => jobs::purge::record(txn, *job, files),
        Command::EndPurge { job } => jobs::purge::end(txn, *job),
        Command::EndJob { job, end } => jobs::end::end(txn, *job, end),
        Command::SettleLedger { job, limit } => ledger::settle::settle(txn, *job, *limit),
        Command::SweepLedger { table, limit } => ledger::settle::sweep(txn, *table, *limit),
        Command::TrimJobs { before_ms, limit } => jobs::trim::trim(txn, *before_ms, *limit),
        Command::Stream(command) => streams::command::run(txn, command),
        Command::Task(command) => scheduled_tasks::command::run(txn, command),
        Command::Transaction(command) => transactions::command::run(txn, command),
        Command::NoteWorkerGroup { group } => worker_groups::note(txn, group),
        Command::ForgetWorkerGroup { group, unseen_since_ms } => {
            worker_groups::forget(txn, group, *unseen_since_ms)
        }
    }
}

/// Why a step of apply stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command may not happen.
    Refused(Error),
    /// The state cannot be read.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The result of a step of apply.
pub(crate) type Outcome<T> = Result<T, Stop>;

/// Refuses the command.
pub(crate) fn refuse<T>(error: Error) -> Outcome<T> {
    Err(Stop::Refused(error))
}

/// The writes and events of one command.
pub(crate) struct Transaction<'a> {
    pub(crate) overlay: Overlay<'a>,
    pub(crate) events: Vec<Event>,
    pub(crate) now_ms: UnixMillis,
}

/// Numbers that are handed out once. All start at 1.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    pub(crate) databases: u64,
    pub(crate) tables: u64,
    pub(crate) connections: u64,
    pub(crate) stages: u64,
    pub(crate) file_formats: u64,
    pub(crate) jobs: u64,
    pub(crate) commits: u64,
    pub(crate) stores: u32,
    pub(crate) streams: u64,
    pub(crate) tasks: u64,
    pub(crate) task_runs: u64,
    pub(crate) transactions: u64,
}

impl<'a> Transaction<'a> {
    fn new(view: &'a dyn ReadView, now_ms: UnixMillis) -> Self {
        Self { overlay: Overlay::new(view), events: Vec::new(), now_ms }
    }

    pub(crate) fn view(&self) -> &dyn ReadView {
        &self.overlay
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        keys::read(&self.overlay, key)
    }

    pub(crate) fn put<T: Serialize>(&mut self, key: Key, record: &T) -> Result<()> {
        let value = keys::encode(&key, record)?;
        self.overlay.put(key, value);
        Ok(())
    }

    pub(crate) fn put_bytes(&mut self, key: Key, value: impl Into<Bytes>) {
        self.overlay.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: impl Into<Bytes>) {
        self.overlay.delete(key);
    }

    pub(crate) fn event(&mut self, event: Event) {
        if !self.events.contains(&event) {
            self.events.push(event);
        }
    }

    /// Hands out a number.
    pub(crate) fn count<T: Copy>(&mut self, next: impl FnOnce(&mut Counters) -> T) -> Result<T> {
        let mut counters: Counters = self.read(&keys::counters())?.unwrap_or_default();
        let number = next(&mut counters);
        self.put(keys::counters(), &counters)?;
        Ok(number)
    }
}

/// Increments a counter and answers its new value.
pub(crate) fn next(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}

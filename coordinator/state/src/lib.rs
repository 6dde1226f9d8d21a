//! The replicated state: commands, the pure function that applies them, and the reads.
//!
//! Owns: what the cluster knows and may not lose (catalog, jobs, ledger) and every rule by which it
//! changes. Comes in: an [`Envelope`] in log order and a [`ReadView`] of the state before it. Goes
//! out: an [`Applied`]: the writes, the result, the events. Whoever keeps the store writes the batch
//! and the applied index in one go.
//!
//! Must never look at a clock, draw a random number, iterate over a hash map or use floats: every
//! coordinator applies the same commands and must come to the same bytes. Fails only when the store
//! cannot be read or holds what it should not; a command that may not happen is *refused*, which is
//! a result, and changes nothing but the window of results that makes retries safe.

mod apply;
pub mod catalog;
pub mod command;
mod dedup;
pub mod event;
pub mod jobs;
mod keys;
pub mod ledger;
pub mod memory;
pub mod overlay;
pub mod result;
pub mod streams;
pub mod tasks;
pub mod transactions;
pub mod view;
pub mod worker_groups;

pub use apply::{Applied, apply};
pub use command::{CHUNK_BYTES, Command, Envelope, MAX_COMMAND_BYTES};
pub use event::Event;
pub use memory::MemoryState;
pub use overlay::Overlay;
pub use result::{ClaimOutcome, CommandResult, CommitOutcome, CommitSummary, TableCommitOutcome};
pub use view::{ReadView, WriteBatch};

#[cfg(test)]
mod tests;

/// Every read of the state in one place.
pub mod read {
    pub use crate::catalog::{
        cluster, connection, connections, database, databases, file_format, file_formats, stage, stages,
        table, table_by_id, tables,
    };
    pub use crate::jobs::{
        DataFileCursor, HistoryCursor, HistoryEntry, HistoryFile, data_files, file_statuses, job, job_by_key,
        job_columns, job_file, job_files, job_spec, jobs, leased_slices, live_jobs, live_jobs_of_table,
        load_history, pending_slices, planned_parts, purgeable_files, skipped_files, slice, slice_files,
        slices, unsettled_jobs,
    };
    pub use crate::ledger::{ledger_entry, sweepable_ledgers};
    pub use crate::streams::{stream, stream_by_id, streams_of};
    pub use crate::tasks::{
        has_old_task_runs, integration, integrations, live_task_runs, notifications, task, task_run,
        task_runs, tasks,
    };
    pub use crate::transactions::{
        open_transactions, table_of_job, transaction, transaction_jobs, transaction_of_session,
        transaction_tables, transactions, unswept_transactions, version_in,
    };
    pub use crate::worker_groups::{require_worker_group, worker_group, worker_groups};
}

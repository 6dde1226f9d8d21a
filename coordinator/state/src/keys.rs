//! The keys of every record: a tag, then big-endian numbers and names, so that a prefix is a range
//! in the order in which it is read.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stevedore_common::ids::{
    DatabaseId, FileIndex, JobId, SliceIndex, StreamId, TableId, TaskId, TaskRun, TransactionId,
};
use stevedore_common::{Error, Result};
use uuid::Uuid;

use crate::view::{KeyValue, ReadView};

/// A key under construction.
#[derive(Debug, Clone)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn new(tag: &'static [u8]) -> Self {
        Self(tag.to_vec())
    }

    pub(crate) fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    pub(crate) fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Newest first.
    pub(crate) fn descending(self, number: u64) -> Self {
        self.u64(u64::MAX - number)
    }

    pub(crate) fn job(self, job: JobId) -> Self {
        self.uuid(job.0)
    }

    pub(crate) fn uuid(mut self, id: Uuid) -> Self {
        self.0.extend_from_slice(id.as_bytes());
        self
    }

    /// A name; nothing may follow it, unless it is ended by [`Key::end`].
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Ends a name that something follows. Names hold no NUL.
    pub(crate) fn end(self) -> Self {
        self.u8(0)
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

impl std::ops::Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Key> for Bytes {
    fn from(key: Key) -> Self {
        Self::from(key.0)
    }
}

// Cluster.
pub(crate) fn cluster() -> Key {
    Key::new(b"Mc")
}
pub(crate) fn counters() -> Key {
    Key::new(b"Mn")
}

/// Worker groups by name.
pub(crate) fn worker_groups() -> Key {
    Key::new(b"Mw")
}
pub(crate) fn worker_group(name: &str) -> Key {
    worker_groups().text(name)
}

// Proposal dedup.
pub(crate) fn proposers() -> Key {
    Key::new(b"Pm")
}
pub(crate) fn proposer(name: &str) -> Key {
    proposers().text(name)
}
pub(crate) fn proposal_results(proposer: &str) -> Key {
    Key::new(b"Pr").text(proposer).end()
}
pub(crate) fn proposal_result(proposer: &str, sequence: u64) -> Key {
    proposal_results(proposer).u64(sequence)
}

// Catalog.
pub(crate) fn databases() -> Key {
    Key::new(b"Cd")
}
pub(crate) fn database(name: &str) -> Key {
    databases().text(name)
}
pub(crate) fn table(id: TableId) -> Key {
    Key::new(b"Ct").u64(id.0)
}
pub(crate) fn table_names(database: DatabaseId) -> Key {
    Key::new(b"Cn").u64(database.0)
}
pub(crate) fn table_name(database: DatabaseId, name: &str) -> Key {
    table_names(database).text(name)
}
/// Dropped tables of a name, the one created last first.
pub(crate) fn dropped_tables(database: DatabaseId, name: &str) -> Key {
    Key::new(b"Cx").u64(database.0).text(name).end()
}
pub(crate) fn connections() -> Key {
    Key::new(b"Cc")
}
pub(crate) fn connection(name: &str) -> Key {
    connections().text(name)
}
pub(crate) fn stages() -> Key {
    Key::new(b"Cs")
}
pub(crate) fn stage(name: &str) -> Key {
    stages().text(name)
}
pub(crate) fn file_formats() -> Key {
    Key::new(b"Cf")
}
pub(crate) fn file_format(name: &str) -> Key {
    file_formats().text(name)
}

// Jobs: the record, the indexes.
pub(crate) fn job(job: JobId) -> Key {
    Key::new(b"Ji").job(job)
}
pub(crate) fn job_spec(job: JobId) -> Key {
    Key::new(b"Js").job(job)
}
pub(crate) fn job_key(idempotency_key: &str) -> Key {
    Key::new(b"Jk").text(idempotency_key)
}
pub(crate) fn live_jobs() -> Key {
    Key::new(b"Jl")
}
pub(crate) fn live_job(number: u64) -> Key {
    live_jobs().u64(number)
}
pub(crate) fn jobs_by_number() -> Key {
    Key::new(b"Jn")
}
pub(crate) fn job_by_number(number: u64) -> Key {
    jobs_by_number().descending(number)
}
/// Live loads of a table.
pub(crate) fn loads(table: TableId) -> Key {
    Key::new(b"Jt").u64(table.0)
}
pub(crate) fn load(table: TableId, number: u64) -> Key {
    loads(table).u64(number)
}
/// Ended loads of a generation of a table, newest first.
pub(crate) fn histories(table: TableId, generation: u64) -> Key {
    Key::new(b"Jh").u64(table.0).u64(generation)
}
pub(crate) fn history(table: TableId, generation: u64, number: u64) -> Key {
    histories(table, generation).descending(number)
}
/// Ended jobs whose ledger entries are not explicit yet.
pub(crate) fn unsettled_jobs() -> Key {
    Key::new(b"Ju")
}
pub(crate) fn unsettled_job(number: u64) -> Key {
    unsettled_jobs().u64(number)
}
/// Settled jobs by the time of their end.
pub(crate) fn ended_jobs() -> Key {
    Key::new(b"Je")
}
pub(crate) fn ended_job(ended_on_ms: i64, number: u64) -> Key {
    ended_jobs().u64(ended_on_ms.max(0).unsigned_abs()).u64(number)
}
/// Jobs whose records are gone and whose details are going.
pub(crate) fn trimmed_jobs() -> Key {
    Key::new(b"Jx")
}
pub(crate) fn trimmed_job(job: JobId) -> Key {
    trimmed_jobs().job(job)
}

// Jobs: the details, all under one prefix.
pub(crate) fn job_details(job: JobId) -> Key {
    Key::new(b"j").job(job)
}
pub(crate) fn job_files(job: JobId) -> Key {
    job_details(job).u8(b'f')
}
pub(crate) fn job_file(job: JobId, file: FileIndex) -> Key {
    job_files(job).u32(file.0)
}
pub(crate) fn file_parts(job: JobId, file: FileIndex) -> Key {
    job_details(job).u8(b'o').u32(file.0)
}
pub(crate) fn file_part(job: JobId, file: FileIndex, part: u32) -> Key {
    file_parts(job, file).u32(part)
}
pub(crate) fn purged_file(job: JobId, file: FileIndex) -> Key {
    job_details(job).u8(b'w').u32(file.0)
}
pub(crate) fn skipped_chunks(job: JobId) -> Key {
    job_details(job).u8(b'x')
}
pub(crate) fn skipped_chunk(job: JobId, chunk: u32) -> Key {
    skipped_chunks(job).u32(chunk)
}
/// The columns that a load brings.
pub(crate) fn job_columns(job: JobId) -> Key {
    job_details(job).u8(b'c')
}
pub(crate) fn slices(job: JobId) -> Key {
    job_details(job).u8(b's')
}
pub(crate) fn slice(job: JobId, slice: SliceIndex) -> Key {
    slices(job).u32(slice.0)
}
pub(crate) fn slice_files(job: JobId, slice: SliceIndex) -> Key {
    job_details(job).u8(b'd').u32(slice.0)
}
pub(crate) fn pending_slices(job: JobId) -> Key {
    job_details(job).u8(b'p')
}
pub(crate) fn pending_slice(job: JobId, slice: SliceIndex) -> Key {
    pending_slices(job).u32(slice.0)
}
pub(crate) fn leased_slices(job: JobId) -> Key {
    job_details(job).u8(b'l')
}
pub(crate) fn leased_slice(job: JobId, slice: SliceIndex) -> Key {
    leased_slices(job).u32(slice.0)
}
/// Data files by slice; only those of accepted slices count.
pub(crate) fn data_files(job: JobId) -> Key {
    job_details(job).u8(b'a')
}
pub(crate) fn data_file(job: JobId, slice: SliceIndex, number: u32) -> Key {
    data_files(job).u32(slice.0).u32(number)
}

// Ledger.
pub(crate) fn stores() -> Key {
    Key::new(b"Ls")
}
pub(crate) fn ledger_of_table(table: TableId) -> Key {
    Key::new(b"Le").u64(table.0)
}
pub(crate) fn ledger_of_generation(table: TableId, generation: u64) -> Key {
    ledger_of_table(table).u64(generation)
}
pub(crate) fn ledger_entry(table: TableId, generation: u64, store: u32, path: &str) -> Key {
    ledger_of_generation(table, generation).u32(store).text(path)
}
/// Tables with entries of generations that are over.
pub(crate) fn sweepable_ledgers() -> Key {
    Key::new(b"Lw")
}
pub(crate) fn sweepable_ledger(table: TableId) -> Key {
    sweepable_ledgers().u64(table.0)
}

// Streams.
pub(crate) fn stream(id: StreamId) -> Key {
    Key::new(b"Sr").u64(id.0)
}
pub(crate) fn stream_names(database: DatabaseId) -> Key {
    Key::new(b"Sn").u64(database.0)
}
pub(crate) fn stream_name(database: DatabaseId, name: &str) -> Key {
    stream_names(database).text(name)
}

// Scheduled tasks.
pub(crate) fn tasks() -> Key {
    Key::new(b"Tt")
}
pub(crate) fn task(name: &str) -> Key {
    tasks().text(name)
}
/// Runs, newest first.
pub(crate) fn task_runs() -> Key {
    Key::new(b"Tr")
}
pub(crate) fn task_run(run: TaskRun) -> Key {
    task_runs().descending(run.0)
}
pub(crate) fn live_task_runs() -> Key {
    Key::new(b"Tl")
}
pub(crate) fn live_task_run(run: TaskRun) -> Key {
    live_task_runs().u64(run.0)
}
/// Runs of the tasks of a name, newest first.
pub(crate) fn runs_of_name(name: &str) -> Key {
    Key::new(b"Th").text(name).end()
}
pub(crate) fn run_of_name(name: &str, run: TaskRun) -> Key {
    runs_of_name(name).descending(run.0)
}
/// Runs by the time of their end.
pub(crate) fn ended_task_runs() -> Key {
    Key::new(b"Te")
}
pub(crate) fn ended_task_run(ended_on_ms: i64, run: TaskRun) -> Key {
    ended_task_runs().u64(ended_on_ms.max(0).unsigned_abs()).u64(run.0)
}
/// A graph that has not ended, by the run that began it.
pub(crate) fn task_graph(graph: TaskRun) -> Key {
    Key::new(b"Tg").u64(graph.0)
}
/// The run of a task within a graph.
pub(crate) fn graph_member(graph: TaskRun, task: TaskId) -> Key {
    Key::new(b"Tm").u64(graph.0).u64(task.0)
}
pub(crate) fn notifications() -> Key {
    Key::new(b"To")
}
pub(crate) fn notification(run: TaskRun) -> Key {
    notifications().u64(run.0)
}
pub(crate) fn integrations() -> Key {
    Key::new(b"Ti")
}
pub(crate) fn integration(name: &str) -> Key {
    integrations().text(name)
}

// Transactions.
pub(crate) fn transactions() -> Key {
    Key::new(b"Xi")
}
pub(crate) fn transaction(id: TransactionId) -> Key {
    transactions().uuid(id.0)
}
pub(crate) fn open_transactions() -> Key {
    Key::new(b"Xo")
}
pub(crate) fn open_transaction(number: u64) -> Key {
    open_transactions().u64(number)
}
/// The transaction that a client's session is in.
pub(crate) fn session_transaction(session: &str) -> Key {
    Key::new(b"Xs").text(session)
}
/// Ended transactions whose own files were not looked after yet.
pub(crate) fn unswept_transactions() -> Key {
    Key::new(b"Xu")
}
pub(crate) fn unswept_transaction(number: u64) -> Key {
    unswept_transactions().u64(number)
}
/// Swept transactions by the time of their end.
pub(crate) fn ended_transactions() -> Key {
    Key::new(b"Xe")
}
pub(crate) fn ended_transaction(ended_on_ms: i64, number: u64) -> Key {
    ended_transactions().u64(ended_on_ms.max(0).unsigned_abs()).u64(number)
}
/// Its jobs, in the order in which they were created.
pub(crate) fn transaction_jobs(id: TransactionId) -> Key {
    Key::new(b"Xj").uuid(id.0)
}
pub(crate) fn transaction_job(id: TransactionId, index: u32) -> Key {
    transaction_jobs(id).u32(index)
}
/// Its own versions of tables.
pub(crate) fn transaction_tables(id: TransactionId) -> Key {
    Key::new(b"Xt").uuid(id.0)
}
pub(crate) fn transaction_table(id: TransactionId, table: TableId) -> Key {
    transaction_tables(id).u64(table.0)
}
/// Tables as they were when it began, of those that others have changed since.
pub(crate) fn kept_versions(id: TransactionId) -> Key {
    Key::new(b"Xp").uuid(id.0)
}
pub(crate) fn kept_version(id: TransactionId, table: TableId) -> Key {
    kept_versions(id).u64(table.0)
}

/// The last four bytes of a key, as the number they are.
pub(crate) fn last_u32(key: &[u8]) -> Result<u32> {
    key.last_chunk::<4>()
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or_else(|| Error::internal("a key of the state is too short"))
}

/// The last eight bytes of a key, as the number they are.
pub(crate) fn last_u64(key: &[u8]) -> Result<u64> {
    key.last_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(|| Error::internal("a key of the state is too short"))
}

/// Reads a record.
pub(crate) fn read<T: DeserializeOwned>(view: &dyn ReadView, key: &[u8]) -> Result<Option<T>> {
    view.get(key)?.map(|value| decode(key, &value)).transpose()
}

/// Decodes a record.
pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|e| {
        Error::internal(format!("the record at '{}' of the state cannot be read: {e}", key.escape_ascii()))
    })
}

/// Encodes a record.
pub(crate) fn encode<T: Serialize>(key: &[u8], record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| {
        Error::internal(format!("the record at '{}' of the state cannot be encoded: {e}", key.escape_ascii()))
    })
}

/// All pairs under a prefix, read in pages. For ranges that are known to be short.
pub(crate) fn scan_all(view: &dyn ReadView, prefix: &[u8]) -> Result<Vec<KeyValue>> {
    const PAGE: usize = 1000;
    let mut pairs: Vec<KeyValue> = Vec::new();
    loop {
        let after = pairs.last().map(|(key, _)| key.clone());
        let page = view.scan(prefix, after.as_deref(), PAGE)?;
        let end = page.len() < PAGE;
        pairs.extend(page);
        if end {
            return Ok(pairs);
        }
    }
}

/// All records under a prefix. For ranges that are known to be short.
pub(crate) fn read_all<T: DeserializeOwned>(view: &dyn ReadView, prefix: &[u8]) -> Result<Vec<T>> {
    scan_all(view, prefix)?.iter().map(|(key, value)| decode(key, value)).collect()
}

//! The load history as rows: `copy_history('t')` and `system.load_history`.
//!
//! Comes in: the state, read page by page. Goes out: Arrow batches of a bounded number of rows, newest
//! job first. A history that is longer is refused, and never cut in silence, so that no history can take a
//! coordinator's memory.

use arrow::array::RecordBatch;
use stevedore_common::file_identity::FileVersion;
use stevedore_common::{Error, Result};
use stevedore_state::catalog::{self, Table};
use stevedore_state::jobs::{self, FileStatus, HistoryEntry, HistoryFile, SkipReason};
use stevedore_state::view::ReadView;

use crate::results::ColumnKind::{BigInt, Text, Timestamp, UnsignedBigInt};
use crate::results::{Columns, Value, batch_of};

/// The columns of `copy_history`.
const COPY_HISTORY: Columns = &[
    ("file_name", Text),
    ("content_length", UnsignedBigInt),
    ("last_modified", Timestamp),
    ("etag", Text),
    ("rows_loaded", UnsignedBigInt),
    ("errors_seen", UnsignedBigInt),
    ("first_error", Text),
    ("first_error_line", UnsignedBigInt),
    ("status", Text),
    ("job_id", Text),
    ("loaded_on", Timestamp),
];

/// The columns of `system.load_history`.
pub(super) const LOAD_HISTORY: Columns = &[
    ("database", Text),
    ("table_name", Text),
    ("file_name", Text),
    ("status", Text),
    ("rows_loaded", UnsignedBigInt),
    ("errors_seen", UnsignedBigInt),
    ("first_error", Text),
    ("first_error_line", UnsignedBigInt),
    ("job_id", Text),
    ("etag", Text),
    ("content_length", UnsignedBigInt),
    ("last_modified", Timestamp),
    ("loaded_on", Timestamp),
    ("snapshot_id", BigInt),
];

/// Rows that one statement may read, and their text in bytes: the answer travels in one message.
pub(super) const MOST_ROWS: usize = 100_000;
const MOST_BYTES: usize = 24 << 20;
/// Rows of a batch, and entries read from the state at a time.
const PAGE: usize = 1_000;

/// Rows on their way into batches, within a limit.
pub(super) struct Rows {
    columns: Columns,
    batches: Vec<RecordBatch>,
    rows: Vec<Vec<Value>>,
    count: usize,
    bytes: usize,
    most: usize,
}

impl Rows {
    pub(super) fn new(columns: Columns, most: usize) -> Self {
        Self { columns, batches: Vec::new(), rows: Vec::new(), count: 0, bytes: 0, most }
    }

    /// False: there is no more room.
    pub(super) fn push(&mut self, row: Vec<Value>) -> Result<bool> {
        let text = |value: &Value| if let Value::Text(text) = value { text.len() } else { 8 };
        self.bytes += row.iter().map(text).sum::<usize>();
        if self.count >= self.most || self.bytes > MOST_BYTES {
            return Ok(false);
        }
        self.count += 1;
        self.rows.push(row);
        if self.rows.len() == PAGE {
            self.batches.push(batch_of(self.columns, &std::mem::take(&mut self.rows))?);
        }
        Ok(true)
    }

    pub(super) fn finish(mut self) -> Result<Vec<RecordBatch>> {
        if !self.rows.is_empty() || self.batches.is_empty() {
            self.batches.push(batch_of(self.columns, &self.rows)?);
        }
        Ok(self.batches)
    }
}

/// What is told of a file, whatever the columns.
struct Told {
    name: String,
    status: &'static str,
    version: Option<FileVersion>,
    rows: Option<u64>,
    errors: Option<u64>,
    first_error: Option<String>,
    first_error_line: Option<u64>,
}

fn told(file: HistoryFile) -> Told {
    match file {
        HistoryFile::Taken(file) => {
            let FileStatus { name, version, status, rows, errors, first_error, first_error_line, .. } = *file;
            Told {
                name,
                status: status.as_str(),
                version: Some(version),
                rows: Some(rows),
                errors: Some(errors),
                first_error: (!first_error.is_empty()).then_some(first_error),
                first_error_line: (first_error_line > 0).then_some(first_error_line),
            }
        }
        HistoryFile::Skipped { name, reason, by } => Told {
            name,
            status: reason.as_str(),
            version: None,
            rows: Some(0),
            errors: None,
            first_error: Some(match (reason, by) {
                (SkipReason::Claimed, Some(job)) => format!("not loaded: job {job} was loading it"),
                (SkipReason::Claimed, None) => "not loaded: another job was loading it".to_owned(),
                (SkipReason::AlreadyLoaded, _) => "not loaded: it was loaded before".to_owned(),
                (SkipReason::Changed, _) => {
                    "not loaded: it was loaded before, and has changed since".to_owned()
                }
                (SkipReason::Empty, _) => "not loaded: it is empty".to_owned(),
                (SkipReason::OverMaxFiles, _) => "not loaded: MAX_FILES were taken already".to_owned(),
            }),
            first_error_line: None,
        },
    }
}

/// Gives the entries of a table's history to `push`, newest first, until it has no more room. Answers
/// whether all of them were given.
fn read_all(
    view: &dyn ReadView,
    table: &Table,
    push: &mut dyn FnMut(HistoryEntry) -> Result<bool>,
) -> Result<bool> {
    let mut after = None;
    loop {
        let (page, next) = jobs::load_history(view, table, after, PAGE)?;
        for entry in page {
            if !push(entry)? {
                return Ok(false);
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(true),
        }
    }
}

/// The rows of `copy_history`: all of them, or the newest `limit`.
///
/// # Errors
/// Resource exhausted for a history that is longer than one statement may read; storage.
pub(super) fn copy_history(
    view: &dyn ReadView,
    table: &Table,
    limit: Option<u64>,
) -> Result<Vec<RecordBatch>> {
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut rows = Rows::new(COPY_HISTORY, limit.unwrap_or(MOST_ROWS).min(MOST_ROWS));
    let all = read_all(view, table, &mut |entry| {
        let HistoryEntry { job, ended_on_ms, file, .. } = entry;
        let file = told(file);
        let version = file.version.as_ref();
        rows.push(vec![
            file.name.into(),
            version.map(|version| version.size).into(),
            version.map(|version| version.last_modified_ms).into(),
            version.and_then(|version| version.etag.clone()).into(),
            file.rows.into(),
            file.errors.into(),
            file.first_error.into(),
            file.first_error_line.into(),
            file.status.into(),
            job.to_string().into(),
            ended_on_ms.into(),
        ])
    })?;
    if !all && limit.is_none_or(|limit| rows.count < limit) {
        return Err(Error::exhausted(format!(
            "the load history of table '{}' is longer than the {} files that one statement may read",
            table.name, rows.count
        ))
        .hint(format!("read the newest: copy_history('{}', result_limit => {})", table.name, rows.count)));
    }
    rows.finish()
}

/// The rows of `system.load_history`: of all tables, each newest first.
///
/// # Errors
/// Resource exhausted for a history that is longer than one statement may read; storage.
pub(super) fn load_history(view: &dyn ReadView) -> Result<Vec<RecordBatch>> {
    let mut rows = Rows::new(LOAD_HISTORY, MOST_ROWS);
    for database in catalog::databases(view)? {
        for table in catalog::tables(view, database.id)? {
            let all = read_all(view, &table, &mut |entry| {
                let HistoryEntry { job, ended_on_ms, snapshot_id, file } = entry;
                let file = told(file);
                let version = file.version.as_ref();
                rows.push(vec![
                    database.name.clone().into(),
                    table.name.clone().into(),
                    file.name.into(),
                    file.status.into(),
                    file.rows.into(),
                    file.errors.into(),
                    file.first_error.into(),
                    file.first_error_line.into(),
                    job.to_string().into(),
                    version.and_then(|version| version.etag.clone()).into(),
                    version.map(|version| version.size).into(),
                    version.map(|version| version.last_modified_ms).into(),
                    ended_on_ms.into(),
                    snapshot_id.into(),
                ])
            })?;
            if !all {
                return Err(Error::exhausted(format!(
                    "the load history of all tables is longer than the {} files that one statement may read",
                    rows.count
                ))
                .hint(format!(
                    "read the newest of one table: SELECT * FROM copy_history('{}.{}', result_limit => 1000)",
                    database.name, table.name
                )));
            }
        }
    }
    rows.finish()
}

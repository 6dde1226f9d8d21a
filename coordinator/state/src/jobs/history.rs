//! The load history of a table: every file that a COPY listed for it, newest job first, with what
//! became of it.
//!
//! Comes in: a table and a place to go on from. Goes out: pages of bounded size. Files of a committed
//! job come with their reports; of one that did not commit only those that it failed at, since of the
//! others nothing is known. Files that were listed and not taken come with the reason. The history goes
//! as far back as the details of jobs are kept, and begins anew with TRUNCATE.

use stevedore_common::Result;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{FileIndex, JobId};

use crate::catalog::Table;
use crate::jobs::{self, FileStatus, FileStatusKind, Job, SkipReason};
use crate::keys;
use crate::view::ReadView;

/// Files of a job that are looked at for one page.
const FILES_A_READ: usize = 1000;

/// A file in the load history of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The job that listed it.
    pub job: JobId,
    /// When the job ended; its commit, if it committed.
    pub ended_on_ms: Option<UnixMillis>,
    /// The snapshot that the job's commit made.
    pub snapshot_id: Option<i64>,
    /// The file.
    pub file: HistoryFile,
}

/// What a job did with a file that it listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryFile {
    /// It took it.
    Taken(Box<FileStatus>),
    /// It left it alone.
    Skipped {
        /// The name that users see.
        name: String,
        /// Why.
        reason: SkipReason,
        /// The job that had it, for [`SkipReason::Claimed`].
        by: Option<JobId>,
    },
}

/// Where to go on: within a job, after a file that it took or after a chunk of those it skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryCursor {
    job_number: u64,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Taken(Option<FileIndex>),
    Skipped(Option<u32>),
    End,
}

/// A page of the load history of a table, newest job first, and where to go on; none: that was all. A
/// page may be empty, and exceed its limit by the skipped files of one command.
///
/// # Errors
/// Storage.
pub fn load_history(
    view: &dyn ReadView,
    table: &Table,
    after: Option<HistoryCursor>,
    limit: usize,
) -> Result<(Vec<HistoryEntry>, Option<HistoryCursor>)> {
    let prefix = keys::histories(table.id, table.ledger_generation);
    let key = |number: u64| keys::history(table.id, table.ledger_generation, number);
    let (after_job, place) = match after {
        None => (None, Place::Taken(None)),
        Some(HistoryCursor { job_number, place: Place::End }) => (Some(key(job_number)), Place::Taken(None)),
        // Newer jobs come first, so the job itself comes after the next newer number.
        Some(cursor) => (Some(key(cursor.job_number.saturating_add(1))), cursor.place),
    };
    let Some((key, value)) = view.scan(&prefix, after_job.as_deref(), 1)?.pop() else {
        return Ok((Vec::new(), None));
    };
    let number = u64::MAX - keys::last_u64(&key)?;
    let cursor = |place| Some(HistoryCursor { job_number: number, place });
    // A cursor into a job that was trimmed meanwhile goes on with the next one from its start.
    let place = match after {
        Some(cursor) if cursor.place != Place::End && cursor.job_number != number => Place::Taken(None),
        _ => place,
    };
    let Some(job) = jobs::job(view, keys::decode(&key, &value)?)? else {
        return Ok((Vec::new(), cursor(Place::End)));
    };
    match place {
        Place::Taken(after) => {
            let limit = limit.clamp(1, FILES_A_READ);
            let page = jobs::file_statuses(view, &job, after, limit)?;
            let next = match page.last() {
                Some(last) if page.len() == limit => Place::Taken(Some(last.file)),
                _ => Place::Skipped(None),
            };
            let is_told =
                |file: &FileStatus| job.phase.is_committed() || file.status == FileStatusKind::Failed;
            let entries = page.into_iter().filter(is_told);
            Ok((entries.map(|file| entry(&job, HistoryFile::Taken(Box::new(file)))).collect(), cursor(next)))
        }
        Place::Skipped(after) => {
            let (groups, next) = jobs::skipped_files(view, job.id, after, 1)?;
            let entries = groups
                .into_iter()
                .flat_map(|group| {
                    let (reason, by) = (group.reason, group.by);
                    group.names.into_iter().map(move |name| HistoryFile::Skipped { name, reason, by })
                })
                .map(|file| entry(&job, file))
                .collect();
            Ok((entries, cursor(next.map_or(Place::End, |chunk| Place::Skipped(Some(chunk))))))
        }
        Place::End => Ok((Vec::new(), None)),
    }
}

fn entry(job: &Job, file: HistoryFile) -> HistoryEntry {
    let committed = job.committed.as_ref();
    HistoryEntry {
        job: job.id,
        ended_on_ms: committed.map(|summary| summary.committed_on_ms).or(job.ended_on_ms),
        snapshot_id: committed.and_then(|summary| summary.snapshot_id),
        file,
    }
}

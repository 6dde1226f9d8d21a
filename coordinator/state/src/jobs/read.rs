//! Reads of jobs, their files, slices and data files. Lists are read in pages: pass the last item
//! of a page to get the next; a page shorter than its limit is the last.

use std::collections::BTreeMap;

use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{FileIndex, JobId, SliceIndex, SliceKey, TableId};
use stevedore_common::{Error, Result};

use crate::jobs::file_runs::FileRuns;
use crate::jobs::{
    FileOutcome, FilePart, FileReport, FileStatus, FileStatusKind, Job, JobColumns, JobFile, JobSpec,
    SkippedFiles, Slice, SliceFile, SliceState,
};
use crate::keys;
use crate::view::ReadView;

/// A job's standing.
///
/// # Errors
/// Storage.
pub fn job(view: &dyn ReadView, id: JobId) -> Result<Option<Job>> {
    keys::read(view, &keys::job(id))
}

/// What a job is.
///
/// # Errors
/// Storage.
pub fn job_spec(view: &dyn ReadView, id: JobId) -> Result<Option<JobSpec>> {
    keys::read(view, &keys::job_spec(id))
}

/// The job of an idempotency key.
///
/// # Errors
/// Storage.
pub fn job_by_key(view: &dyn ReadView, idempotency_key: &str) -> Result<Option<JobId>> {
    keys::read(view, &keys::job_key(idempotency_key))
}

/// The jobs that have not ended, oldest first (purging ones among them).
///
/// # Errors
/// Storage.
pub fn live_jobs(view: &dyn ReadView) -> Result<Vec<JobId>> {
    keys::read_all(view, &keys::live_jobs())
}

/// The jobs that may still load into a table, oldest first.
///
/// # Errors
/// Storage.
pub fn live_jobs_of_table(view: &dyn ReadView, table: TableId) -> Result<Vec<JobId>> {
    keys::read_all(view, &keys::loads(table))
}

/// Ended jobs that want `SettleLedger`, oldest first.
///
/// # Errors
/// Storage.
pub fn unsettled_jobs(view: &dyn ReadView, limit: usize) -> Result<Vec<JobId>> {
    view.scan(&keys::unsettled_jobs(), None, limit)?
        .iter()
        .map(|(key, value)| keys::decode(key, value))
        .collect()
}

/// Jobs that ended before a time, oldest first: those that `TrimJobs` would forget.
///
/// # Errors
/// Storage.
pub fn ended_before(view: &dyn ReadView, before_ms: UnixMillis, limit: usize) -> Result<Vec<Job>> {
    let mut ended = Vec::new();
    for (key, value) in view.scan(&keys::ended_jobs(), None, limit)? {
        let Some(job) = job(view, keys::decode(&key, &value)?)? else { continue };
        if job.ended_on_ms.is_none_or(|at| at >= before_ms) {
            break;
        }
        ended.push(job);
    }
    Ok(ended)
}

/// All jobs, newest first; `before`: the number of the last job of the page before.
///
/// # Errors
/// Storage.
pub fn jobs(view: &dyn ReadView, before: Option<u64>, limit: usize) -> Result<Vec<Job>> {
    let after = before.map(keys::job_by_number);
    let mut jobs = Vec::new();
    for (key, value) in view.scan(&keys::jobs_by_number(), after.as_deref(), limit)? {
        jobs.extend(job(view, keys::decode(&key, &value)?)?);
    }
    Ok(jobs)
}

/// A claimed file.
///
/// # Errors
/// Storage.
pub fn job_file(view: &dyn ReadView, job: JobId, file: FileIndex) -> Result<Option<JobFile>> {
    keys::read(view, &keys::job_file(job, file))
}

/// How many parts of a file have slices, and of how many parts it is; `None`: it is not planned yet. They are
/// planned in order.
///
/// # Errors
/// Storage.
pub fn planned_parts(view: &dyn ReadView, job: JobId, file: FileIndex) -> Result<Option<(u32, u32)>> {
    let Some(first) = keys::read::<FilePart>(view, &keys::file_part(job, file, 0))? else { return Ok(None) };
    let (mut planned, mut after) = (1, 0);
    while planned < first.parts {
        let last = keys::file_part(job, file, after);
        let page = view.scan(&keys::file_parts(job, file), Some(&last), 256)?;
        let Some((key, _)) = page.last() else { break };
        after = keys::last_u32(key)?;
        planned += page.len() as u32;
    }
    Ok(Some((planned, first.parts)))
}

/// The columns that a load brings; `None` for one that takes the table as it is.
///
/// # Errors
/// Storage.
pub fn job_columns(view: &dyn ReadView, job: JobId) -> Result<Option<JobColumns>> {
    keys::read(view, &keys::job_columns(job))
}

/// The claimed files of a job as they were listed, in claiming order.
///
/// # Errors
/// Storage.
pub fn job_files(
    view: &dyn ReadView,
    job: JobId,
    after: Option<FileIndex>,
    limit: usize,
) -> Result<Vec<(FileIndex, JobFile)>> {
    let after = after.map(|file| keys::job_file(job, file));
    view.scan(&keys::job_files(job), after.as_deref(), limit)?
        .iter()
        .map(|(key, value)| Ok((FileIndex(keys::last_u32(key)?), keys::decode(key, value)?)))
        .collect()
}

/// The claimed files of a job with what became of them, in claiming order.
///
/// # Errors
/// Storage.
pub fn file_statuses(
    view: &dyn ReadView,
    job: &Job,
    after: Option<FileIndex>,
    limit: usize,
) -> Result<Vec<FileStatus>> {
    let mut slices = SliceLookup { view, job, known: BTreeMap::new() };
    job_files(view, job.id, after, limit)?
        .into_iter()
        .map(|(index, file)| slices.status(index, file))
        .collect()
}

/// What became of a file of a committed job.
pub(crate) fn committed_file_status(
    view: &dyn ReadView,
    job: &Job,
    index: FileIndex,
) -> Result<Option<FileStatus>> {
    let Some(file) = job_file(view, job.id, index)? else { return Ok(None) };
    SliceLookup { view, job, known: BTreeMap::new() }.status(index, file).map(Some)
}

/// Looks up whether a part's report counts, each slice once.
struct SliceLookup<'a> {
    view: &'a dyn ReadView,
    job: &'a Job,
    known: BTreeMap<SliceIndex, Option<Slice>>,
}

impl SliceLookup<'_> {
    fn counts(&mut self, part: &FilePart) -> Result<bool> {
        // Every report of a committed job is of the attempt that was accepted: its slice could not
        // have been accepted before that attempt had reported on each of its parts anew.
        if self.job.phase.is_committed() {
            return Ok(true);
        }
        if !self.known.contains_key(&part.slice) {
            self.known.insert(part.slice, slice(self.view, self.job.id, part.slice)?);
        }
        Ok(self.known.get(&part.slice).is_some_and(|slice| {
            slice
                .as_ref()
                .is_some_and(|slice| slice.state == SliceState::Accepted && slice.attempt == part.attempt)
        }))
    }

    fn status(&mut self, index: FileIndex, file: JobFile) -> Result<FileStatus> {
        let mut merged = Merged::default();
        let prefix = keys::file_parts(self.job.id, index);
        for (key, value) in keys::scan_all(self.view, &prefix)? {
            let part: FilePart = keys::decode(&key, &value)?;
            match &part.report {
                Some(report) if report.outcome == FileOutcome::Failed || self.counts(&part)? => {
                    merged.add(report);
                }
                _ => merged.pending = true,
            }
        }
        // Only a committed job purges: spare the others the look.
        let purge = match self.job.phase.is_committed() {
            true => keys::read(self.view, &keys::purged_file(self.job.id, index))?,
            false => None,
        };
        Ok(FileStatus {
            file: index,
            status: merged.status(),
            path: file.path,
            name: file.name,
            version: file.version,
            rows: merged.rows,
            errors: merged.errors,
            first_error: merged.first_error,
            first_error_line: merged.first_error_line,
            purge,
        })
    }
}

/// The reports of a file's parts, in order, as one.
#[derive(Debug, Default)]
struct Merged {
    pending: bool,
    loaded: bool,
    left_out: bool,
    failed: bool,
    reported: bool,
    rows: u64,
    errors: u64,
    first_error: String,
    first_error_line: u64,
    lines_before: u64,
}

impl Merged {
    fn add(&mut self, report: &FileReport) {
        self.reported = true;
        match report.outcome {
            FileOutcome::Loaded => self.loaded = true,
            FileOutcome::LeftOut => self.left_out = true,
            FileOutcome::Failed => self.failed = true,
            FileOutcome::Empty => {}
        }
        self.rows = self.rows.saturating_add(report.rows);
        self.errors = self.errors.saturating_add(report.errors);
        if self.first_error.is_empty() && !report.first_error.is_empty() {
            self.first_error.clone_from(&report.first_error);
            if report.first_error_line > 0 {
                self.first_error_line = self.lines_before.saturating_add(report.first_error_line);
            }
        }
        self.lines_before = self.lines_before.saturating_add(report.lines);
    }

    fn status(&self) -> FileStatusKind {
        if self.failed {
            FileStatusKind::Failed
        } else if self.pending || !self.reported {
            FileStatusKind::Pending
        } else if self.loaded && self.errors == 0 && !self.left_out {
            FileStatusKind::Loaded
        } else if self.loaded {
            FileStatusKind::PartiallyLoaded
        } else if self.left_out {
            FileStatusKind::Failed
        } else {
            FileStatusKind::Empty
        }
    }
}

/// The skipped files of a job, a few chunks of its listing at a time: the groups, and the chunk to
/// pass as `after` for more.
///
/// # Errors
/// Storage.
pub fn skipped_files(
    view: &dyn ReadView,
    job: JobId,
    after: Option<u32>,
    limit: usize,
) -> Result<(Vec<SkippedFiles>, Option<u32>)> {
    let after = after.map(|chunk| keys::skipped_chunk(job, chunk));
    let page = view.scan(&keys::skipped_chunks(job), after.as_deref(), limit)?;
    let mut groups: Vec<SkippedFiles> = Vec::new();
    let mut next = None;
    for (key, value) in &page {
        groups.extend(keys::decode::<Vec<SkippedFiles>>(key, value)?);
        next = Some(keys::last_u32(key)?);
    }
    Ok((groups, if page.len() < limit { None } else { next }))
}

/// A slice's standing.
///
/// # Errors
/// Storage.
pub fn slice(view: &dyn ReadView, job: JobId, slice: SliceIndex) -> Result<Option<Slice>> {
    keys::read(view, &keys::slice(job, slice))
}

/// The file tasks of a slice.
///
/// # Errors
/// Storage; not found, if there is no such slice.
pub fn slice_files(view: &dyn ReadView, key: SliceKey) -> Result<Vec<SliceFile>> {
    let files: Option<FileRuns> = keys::read(view, &keys::slice_files(key.job, key.slice))?;
    files.map(|files| files.0).ok_or_else(|| Error::not_found(format!("slice {key} does not exist")))
}

/// The slices of a job, in order.
///
/// # Errors
/// Storage.
pub fn slices(
    view: &dyn ReadView,
    job: JobId,
    after: Option<SliceIndex>,
    limit: usize,
) -> Result<Vec<(SliceIndex, Slice)>> {
    let after = after.map(|slice| keys::slice(job, slice));
    view.scan(&keys::slices(job), after.as_deref(), limit)?
        .iter()
        .map(|(key, value)| Ok((SliceIndex(keys::last_u32(key)?), keys::decode(key, value)?)))
        .collect()
}

/// The slices of a job that wait for a worker, in order.
///
/// # Errors
/// Storage.
pub fn pending_slices(
    view: &dyn ReadView,
    job: JobId,
    after: Option<SliceIndex>,
    limit: usize,
) -> Result<Vec<SliceIndex>> {
    let after = after.map(|slice| keys::pending_slice(job, slice));
    view.scan(&keys::pending_slices(job), after.as_deref(), limit)?
        .iter()
        .map(|(key, _)| keys::last_u32(key).map(SliceIndex))
        .collect()
}

/// The slices of a job that a worker holds, in order.
///
/// # Errors
/// Storage.
pub fn leased_slices(
    view: &dyn ReadView,
    job: JobId,
    after: Option<SliceIndex>,
    limit: usize,
) -> Result<Vec<(SliceIndex, Slice)>> {
    let after = after.map(|slice| keys::leased_slice(job, slice));
    let mut leased = Vec::new();
    for (key, _) in view.scan(&keys::leased_slices(job), after.as_deref(), limit)? {
        let index = SliceIndex(keys::last_u32(&key)?);
        leased.extend(slice(view, job, index)?.map(|slice| (index, slice)));
    }
    Ok(leased)
}

/// A place in the data files of a job: the slice, and the number within it.
pub type DataFileCursor = (SliceIndex, u32);

/// The data files of a job's accepted slices, as the workers reported them (Iceberg JSON), and
/// where to go on; none: that was all.
///
/// # Errors
/// Storage.
pub fn data_files(
    view: &dyn ReadView,
    job: &Job,
    after: Option<DataFileCursor>,
    limit: usize,
) -> Result<(Vec<String>, Option<DataFileCursor>)> {
    let after = after.map(|(slice, number)| keys::data_file(job.id, slice, number));
    let page = view.scan(&keys::data_files(job.id), after.as_deref(), limit)?;
    let mut files = Vec::new();
    let mut last = None;
    let mut accepted: BTreeMap<SliceIndex, bool> = BTreeMap::new();
    for (key, value) in &page {
        let number = keys::last_u32(key)?;
        let index = SliceIndex(keys::last_u32(&key[..key.len().saturating_sub(4)])?);
        last = Some((index, number));
        let counts = match accepted.get(&index) {
            Some(counts) => *counts,
            None => {
                let counts = slice(view, job.id, index)?.is_some_and(|s| s.state == SliceState::Accepted);
                accepted.insert(index, counts);
                counts
            }
        };
        if counts {
            let json = std::str::from_utf8(value)
                .map_err(|_| Error::internal(format!("a data file of job {} is no text", job.id)))?;
            files.push(json.to_owned());
        }
    }
    Ok((files, if page.len() < limit { None } else { last }))
}

/// The files of a purging job that PURGE may delete and has not dealt with: those fully loaded.
/// With where to go on; none: that was all.
///
/// # Errors
/// Storage.
pub fn purgeable_files(
    view: &dyn ReadView,
    job: &Job,
    after: Option<FileIndex>,
    limit: usize,
) -> Result<(Vec<FileStatus>, Option<FileIndex>)> {
    let page = file_statuses(view, job, after, limit)?;
    let next = if page.len() < limit { None } else { page.last().map(|status| status.file) };
    let files = page
        .into_iter()
        .filter(|status| status.status == FileStatusKind::Loaded && status.purge.is_none())
        .collect();
    Ok((files, next))
}

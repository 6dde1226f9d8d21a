//! Reports: chunks staged under the current attempt of a slice; the last one accepts the slice,
//! if its sums agree with what was staged.

use stevedore_common::Error;
use stevedore_common::ids::AttemptKey;

use crate::apply::{Outcome, Transaction, refuse};
use crate::jobs::create::{put, require, require_spec, wrong_phase};
use crate::jobs::end::abort;
use crate::jobs::lease::{require_slice, stale};
use crate::jobs::plan::put_slice;
use crate::jobs::{
    self, ErrorMode, FileOutcome, FilePart, FileReport, Job, JobPhase, Slice, SliceState, SliceTotals,
};
use crate::keys;
use crate::result::CommandResult;

const MAX_DATA_FILE_BYTES: usize = 60 * 1024;

/// A chunk of a report.
pub(crate) struct Chunk<'a> {
    pub(crate) sequence: u32,
    pub(crate) files: &'a [FileReport],
    pub(crate) data_files: &'a [String],
    pub(crate) last: bool,
    pub(crate) totals: Option<&'a SliceTotals>,
}

pub(crate) fn stage(
    txn: &mut Transaction<'_>,
    attempt: AttemptKey,
    chunk: &Chunk<'_>,
) -> Outcome<CommandResult> {
    let key = attempt.slice;
    let mut job = require(txn, key.job)?;
    let mut slice = require_slice(txn, key)?;
    let accepted = slice.state == SliceState::Accepted;
    if slice.attempt != attempt.attempt || !(accepted || matches!(slice.state, SliceState::Leased { .. })) {
        return refuse(stale(attempt, &slice));
    }
    if chunk.sequence < slice.staged_chunks {
        return Ok(CommandResult::Staged { accepted, phase: job.phase });
    }
    if accepted {
        return refuse(stale(attempt, &slice));
    }
    if job.phase != JobPhase::Running {
        return refuse(wrong_phase(&job, "it takes no reports"));
    }
    if chunk.sequence > slice.staged_chunks {
        return refuse(Error::conflict(format!(
            "chunk {} of the report of attempt {attempt} comes before chunk {}",
            chunk.sequence, slice.staged_chunks
        )));
    }
    for report in chunk.files {
        stage_file(txn, attempt, &mut slice, report)?;
    }
    for json in chunk.data_files {
        if json.len() > MAX_DATA_FILE_BYTES {
            return refuse(Error::exhausted(format!(
                "a data file of attempt {attempt} is described in {} bytes, the limit is {MAX_DATA_FILE_BYTES}",
                json.len()
            )));
        }
        let number = u32::try_from(slice.staged.data_files)
            .map_err(|_| Error::internal(format!("attempt {attempt} has too many data files")))?;
        txn.put_bytes(keys::data_file(key.job, key.slice, number), json.clone());
        slice.staged.data_files += 1;
    }
    slice.staged_chunks += 1;
    if chunk.last {
        accept(txn, attempt, &mut job, &mut slice, chunk.totals)?;
    }
    put_slice(txn, key, &slice)?;
    Ok(CommandResult::Staged { accepted: chunk.last, phase: job.phase })
}

fn stage_file(
    txn: &mut Transaction<'_>,
    attempt: AttemptKey,
    slice: &mut Slice,
    report: &FileReport,
) -> Outcome<()> {
    let key = keys::file_part(attempt.slice.job, report.file, report.part);
    let part: Option<FilePart> = txn.read(&key)?;
    let Some(mut part) = part.filter(|part| part.slice == attempt.slice.slice) else {
        return refuse(Error::invalid(format!(
            "attempt {attempt} reports on file {} part {}, which is not in its slice",
            report.file, report.part
        )));
    };
    if part.attempt == attempt.attempt && part.report.is_some() {
        return refuse(Error::invalid(format!(
            "attempt {attempt} reports twice on file {} part {}",
            report.file, report.part
        )));
    }
    if report.outcome == FileOutcome::Failed {
        return refuse(Error::invalid(format!(
            "attempt {attempt} reports file {} as failed: that ends the attempt, not its report",
            report.file
        )));
    }
    if report.outcome != FileOutcome::Loaded && report.rows > 0 {
        return refuse(Error::invalid(format!(
            "attempt {attempt} reports {} rows of file {}, which is not loaded",
            report.rows, report.file
        )));
    }
    part.attempt = attempt.attempt;
    part.report = Some(report.clone());
    txn.put(key, &part)?;
    slice.staged.files += 1;
    slice.staged.rows = slice.staged.rows.saturating_add(report.rows);
    slice.staged.errors = slice.staged.errors.saturating_add(report.errors);
    Ok(())
}

fn accept(
    txn: &mut Transaction<'_>,
    attempt: AttemptKey,
    job: &mut Job,
    slice: &mut Slice,
    totals: Option<&SliceTotals>,
) -> Outcome<()> {
    let Some(totals) = totals else {
        return refuse(Error::invalid(format!("the last chunk of attempt {attempt} has no totals")));
    };
    let tasks = u64::from(slice.tasks);
    if slice.staged.files != tasks {
        return refuse(Error::invalid(format!(
            "attempt {attempt} reports on {} of the {tasks} file tasks of its slice",
            slice.staged.files
        )));
    }
    // A query has no files to count rows by.
    let rows_agree = tasks == 0 || (totals.rows == slice.staged.rows && totals.errors == slice.staged.errors);
    if totals.files != slice.staged.files || totals.data_files != slice.staged.data_files || !rows_agree {
        return refuse(Error::invalid(format!(
            "the totals of attempt {attempt} (files {}, data files {}, rows {}, errors {}) are not the sums \
             of its report (files {}, data files {}, rows {}, errors {})",
            totals.files,
            totals.data_files,
            totals.rows,
            totals.errors,
            slice.staged.files,
            slice.staged.data_files,
            slice.staged.rows,
            slice.staged.errors
        )));
    }
    slice.staged = *totals;
    slice.state = SliceState::Accepted;
    job.count_accepted(slice);
    if job.errors > 0 {
        let on_error = require_spec(txn, job.id)?.on_error;
        let limit = match on_error.mode {
            ErrorMode::Abort => 1,
            ErrorMode::AbortN => on_error.limit.max(1),
            _ => u64::MAX,
        };
        if job.errors >= limit {
            let error = too_many_errors(txn, attempt, job, limit)?;
            return abort(txn, job, error);
        }
    }
    put(txn, job)
}

fn too_many_errors(txn: &Transaction<'_>, attempt: AttemptKey, job: &Job, limit: u64) -> Outcome<Error> {
    let mut error = Error::bad_data(format!(
        "{} {} rejected, and ON_ERROR fails the load at {limit}",
        job.errors,
        if job.errors == 1 { "row was" } else { "rows were" }
    ))
    .hint("nothing was loaded");
    for file in jobs::slice_files(txn.view(), attempt.slice)? {
        let part: Option<FilePart> = txn.read(&keys::file_part(job.id, file.file, file.part))?;
        if let Some(report) = part.and_then(|part| part.report).filter(|r| !r.first_error.is_empty())
            && let Some(record) = jobs::job_file(txn.view(), job.id, file.file)?
        {
            let line = match report.first_error_line {
                // Lines of a later part count from its own beginning.
                line if line > 0 && file.part == 0 => format!(", line {line}"),
                _ => String::new(),
            };
            error = error.context(report.first_error).context(format!("file '{}'{line}", record.name));
            break;
        }
    }
    Ok(error)
}

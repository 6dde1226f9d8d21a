//! Leases: attempts are handed out, taken back, and fail.
//!
//! Only the current attempt of a slice may report. Whatever ends it without acceptance (release,
//! failure, steal) throws away in the same command what it had staged.

use stevedore_common::Error;
use stevedore_common::ids::{Attempt, AttemptKey, JobId, SliceIndex, SliceKey, WorkerId};

use crate::apply::{Outcome, Transaction, refuse};
use crate::jobs::create::{put, require, wrong_phase};
use crate::jobs::end::{abort, clipped};
use crate::jobs::plan::{add_slice, put_slice};
use crate::jobs::{
    self, FileOutcome, FilePart, FileReport, Job, JobPhase, MAX_SLICE_FAILURES, Slice, SliceFile, SliceState,
    SliceTotals,
};
use crate::keys;
use crate::result::CommandResult;

/// Slices that one is cut into at most: one of very many files is cut again, until a single file is at fault.
const MOST_PIECES: usize = 1_000;

pub(crate) fn require_slice(txn: &Transaction<'_>, key: SliceKey) -> Outcome<Slice> {
    match jobs::slice(txn.view(), key.job, key.slice)? {
        Some(slice) => Ok(slice),
        None => refuse(Error::not_found(format!("slice {key} does not exist"))),
    }
}

pub(crate) fn lease(
    txn: &mut Transaction<'_>,
    id: JobId,
    index: SliceIndex,
    worker: &WorkerId,
    incarnation: &str,
    steal: bool,
) -> Outcome<CommandResult> {
    let job = require(txn, id)?;
    if job.phase != JobPhase::Running || job.reopening.is_some() {
        return refuse(wrong_phase(&job, "its slices do not run"));
    }
    let key = SliceKey { job: id, slice: index };
    let mut slice = require_slice(txn, key)?;
    match &slice.state {
        SliceState::Pending => {}
        SliceState::Leased { worker: holder, incarnation: process, .. } if !steal => {
            if holder == worker && process == incarnation {
                return Ok(CommandResult::Leased { attempt: slice.attempt });
            }
            return refuse(Error::conflict(format!("slice {key} is leased by worker '{holder}'")));
        }
        SliceState::Leased { .. } => discard(txn, key, &mut slice),
        SliceState::Accepted => return refuse(Error::conflict(format!("slice {key} is accepted"))),
        SliceState::Cut { .. } => {
            return refuse(Error::conflict(format!("slice {key} was cut into its files")));
        }
    }
    slice.attempt = Attempt(slice.attempt.0 + 1);
    slice.state = SliceState::Leased {
        worker: worker.clone(),
        incarnation: incarnation.to_owned(),
        since_ms: txn.now_ms,
    };
    put_slice(txn, key, &slice)?;
    Ok(CommandResult::Leased { attempt: slice.attempt })
}

/// Throws away what the current attempt staged. (Reports on files are overwritten by the next
/// attempt, and do not count before their own attempt is accepted.)
pub(crate) fn discard(txn: &mut Transaction<'_>, key: SliceKey, slice: &mut Slice) {
    for number in 0..u32::try_from(slice.staged.data_files).unwrap_or(u32::MAX) {
        txn.delete(keys::data_file(key.job, key.slice, number));
    }
    slice.staged_chunks = 0;
    slice.staged = SliceTotals::default();
}

/// The job and slice of an attempt that holds its lease, or a refusal.
fn require_current(txn: &Transaction<'_>, attempt: AttemptKey) -> Outcome<(Job, Slice)> {
    let job = require(txn, attempt.slice.job)?;
    if job.phase != JobPhase::Running {
        return refuse(wrong_phase(&job, "its slices do not run"));
    }
    let slice = require_slice(txn, attempt.slice)?;
    if slice.attempt != attempt.attempt || !matches!(slice.state, SliceState::Leased { .. }) {
        return refuse(stale(attempt, &slice));
    }
    Ok((job, slice))
}

/// The refusal of an attempt that is not the current one.
pub(crate) fn stale(attempt: AttemptKey, slice: &Slice) -> Error {
    let state = match &slice.state {
        SliceState::Pending => "waits for a worker".to_owned(),
        SliceState::Leased { worker, .. } => format!("is leased by worker '{worker}'"),
        SliceState::Accepted => "is accepted".to_owned(),
        SliceState::Cut { .. } => "was cut into its files".to_owned(),
    };
    Error::conflict(format!(
        "attempt {attempt} holds no lease: the slice {state}, its last attempt is {}",
        slice.attempt
    ))
}

pub(crate) fn release(
    txn: &mut Transaction<'_>,
    attempt: AttemptKey,
    reason: &str,
    failure: bool,
) -> Outcome<CommandResult> {
    let (job, slice) = require_current(txn, attempt)?;
    let error = Error::unavailable(reason);
    put_back(txn, job, attempt.slice, slice, error, failure)
}

pub(crate) fn fail(
    txn: &mut Transaction<'_>,
    attempt: AttemptKey,
    error: &Error,
    permanent: bool,
    file: Option<&FileReport>,
) -> Outcome<CommandResult> {
    let (mut job, mut slice) = require_current(txn, attempt)?;
    if !permanent {
        return put_back(txn, job, attempt.slice, slice, error.clone(), true);
    }
    if let Some(report) = file {
        let key = keys::file_part(job.id, report.file, report.part);
        if let Some(mut part) = txn.read::<FilePart>(&key)?.filter(|part| part.slice == attempt.slice.slice) {
            part.attempt = attempt.attempt;
            part.report = Some(FileReport { outcome: FileOutcome::Failed, ..report.clone() });
            txn.put(key, &part)?;
        }
    }
    discard(txn, attempt.slice, &mut slice);
    slice.failures += 1;
    slice.last_error = Some(clipped(error.clone()));
    slice.state = SliceState::Pending;
    put_slice(txn, attempt.slice, &slice)?;
    abort(txn, &mut job, error.clone())?;
    Ok(CommandResult::Job { phase: job.phase })
}

/// Makes the slice pending again, or, once it has failed too often, cuts it into its files to find
/// the poisonous one, or, if it is a single file, aborts the job.
fn put_back(
    txn: &mut Transaction<'_>,
    mut job: Job,
    key: SliceKey,
    mut slice: Slice,
    error: Error,
    failure: bool,
) -> Outcome<CommandResult> {
    discard(txn, key, &mut slice);
    slice.state = SliceState::Pending;
    slice.failures += u32::from(failure);
    slice.last_error = Some(clipped(error.clone()));
    if slice.failures < MAX_SLICE_FAILURES {
        put_slice(txn, key, &slice)?;
        return Ok(CommandResult::Job { phase: job.phase });
    }
    let files = jobs::slice_files(txn.view(), key)?;
    if files.len() > 1 {
        return cut(txn, job, key, slice, &files);
    }
    put_slice(txn, key, &slice)?;
    let what = match files.first() {
        Some(file) => match jobs::job_file(txn.view(), job.id, file.file)? {
            Some(record) => format!("loading file '{}' failed {} times", record.name, slice.failures),
            None => format!("loading file {} failed {} times", file.file, slice.failures),
        },
        None => format!("slice {} failed {} times", key.slice, slice.failures),
    };
    abort(txn, &mut job, error.context(what))?;
    Ok(CommandResult::Job { phase: job.phase })
}

fn cut(
    txn: &mut Transaction<'_>,
    mut job: Job,
    key: SliceKey,
    mut slice: Slice,
    files: &[SliceFile],
) -> Outcome<CommandResult> {
    let first = SliceIndex(job.slices);
    for piece in files.chunks(files.len().div_ceil(MOST_PIECES).max(1)) {
        let mut bytes = 0u64;
        for file in piece {
            bytes = bytes.saturating_add(match jobs::job_file(txn.view(), job.id, file.file)? {
                Some(record) if file.parts == 1 => record.version.size,
                _ => file.range_end.saturating_sub(file.range_start),
            });
            let slice = SliceIndex(job.slices);
            let part = FilePart { slice, parts: file.parts, attempt: Attempt(0), report: None };
            txn.put(keys::file_part(job.id, file.file, file.part), &part)?;
        }
        add_slice(txn, &mut job, piece, bytes)?;
    }
    let count = job.slices - first.0;
    slice.state = SliceState::Cut { first, count };
    put_slice(txn, key, &slice)?;
    job.cut_slices += 1;
    put(txn, &job)?;
    Ok(CommandResult::SliceCut { first, count })
}

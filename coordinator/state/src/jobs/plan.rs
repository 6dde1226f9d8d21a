//! Planning: slices are added in chunks, and sealing checks that every file of the listing has its
//! place before anything runs.
//!
//! What a leader had on its way when it lost its leadership may arrive between the commands of the next one, which may
//! plan for other workers. Each part of a file goes into one slice in any case; whoever finds that slices came between
//! is refused, and plans what is left then.

use stevedore_common::Error;
use stevedore_common::ids::{Attempt, JobId, SliceIndex, SliceKey};

use crate::apply::{Outcome, Transaction, next, refuse};
use crate::command::NewSlice;
use crate::event::Event;
use crate::jobs::create::{put, require, wrong_phase};
use crate::jobs::file_runs::FileRuns;
use crate::jobs::{self, FilePart, Job, JobKind, JobPhase, Slice, SliceFile, SliceState, SliceTotals};
use crate::keys;
use crate::result::{CommandResult, CommitSummary};

pub(crate) fn plan(
    txn: &mut Transaction<'_>,
    id: JobId,
    first: SliceIndex,
    slices: &[NewSlice],
) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    if job.phase != JobPhase::Claiming {
        return refuse(wrong_phase(&job, "it plans no more slices"));
    }
    if first.0 < job.slices {
        return planned_before(txn, &job, first, slices);
    }
    if first.0 > job.slices {
        // Several commands are on their way at a time, and one before it was lost.
        let error = format!("slices from {first} of job {id} come before slice {}", job.slices);
        return refuse(came_between(error));
    }
    for new in slices {
        let index = SliceIndex(job.slices);
        for file in &new.files {
            place(txn, &mut job, index, file)?;
        }
        if new.files.is_empty() && job.kind == JobKind::Copy {
            return refuse(Error::invalid(format!("slice {index} of job {id} has no files")));
        }
        add_slice(txn, &mut job, &new.files, new.bytes)?;
    }
    put(txn, &job)?;
    Ok(CommandResult::Planned { slices: job.slices })
}

/// A refusal of what rests on a state that is not there any more: looking at it again sets it right.
fn came_between(what: String) -> Error {
    Error::conflict(what).retryable(true)
}

fn planned_before(
    txn: &Transaction<'_>,
    job: &Job,
    first: SliceIndex,
    slices: &[NewSlice],
) -> Outcome<CommandResult> {
    for (index, new) in (first.0..).zip(slices) {
        let key = SliceKey { job: job.id, slice: SliceIndex(index) };
        if index >= job.slices || jobs::slice_files(txn.view(), key)? != new.files {
            return refuse(came_between(format!("slice {key} was planned otherwise")));
        }
    }
    Ok(CommandResult::Planned { slices: job.slices })
}

/// Gives a file task its slice: each part of each file exactly once.
fn place(txn: &mut Transaction<'_>, job: &mut Job, slice: SliceIndex, file: &SliceFile) -> Outcome<()> {
    let bad = |what: &str| {
        let error = format!("part {} of file {} of job {} {what}", file.part, file.file, job.id);
        refuse(Error::invalid(error))
    };
    if file.file.0 >= job.files {
        return bad("belongs to no claimed file");
    }
    if file.part >= file.parts || (file.parts > 1 && file.range_start >= file.range_end) {
        return bad("is no part of it");
    }
    let key = keys::file_part(job.id, file.file, file.part);
    if txn.read::<FilePart>(&key)?.is_some() {
        let error = format!("part {} of file {} of job {} is planned twice", file.part, file.file, job.id);
        return refuse(came_between(error));
    }
    if file.part > 0 {
        let first: Option<FilePart> = txn.read(&keys::file_part(job.id, file.file, 0))?;
        if first.is_none_or(|first| first.parts != file.parts) {
            return bad("does not follow its part 0");
        }
    } else {
        job.planned_files += 1;
        job.expected_parts = job.expected_parts.saturating_add(file.parts);
    }
    job.planned_parts += 1;
    txn.put(key, &FilePart { slice, parts: file.parts, attempt: Attempt(0), report: None })?;
    Ok(())
}

/// Appends a slice, pending.
pub(crate) fn add_slice(
    txn: &mut Transaction<'_>,
    job: &mut Job,
    files: &[SliceFile],
    bytes: u64,
) -> Outcome<()> {
    let index = SliceIndex(job.slices);
    let slice = Slice {
        state: SliceState::Pending,
        attempt: Attempt(0),
        failures: 0,
        last_error: None,
        tasks: u32::try_from(files.len()).unwrap_or(u32::MAX),
        bytes,
        staged_chunks: 0,
        staged: SliceTotals::default(),
    };
    txn.put(keys::slice_files(job.id, index), &FileRuns(files.to_vec()))?;
    put_slice(txn, SliceKey { job: job.id, slice: index }, &slice)?;
    job.slices += 1;
    Ok(())
}

/// Writes a slice's standing and keeps the indexes of pending and leased slices with it.
pub(crate) fn put_slice(txn: &mut Transaction<'_>, key: SliceKey, slice: &Slice) -> Outcome<()> {
    let SliceKey { job, slice: index } = key;
    let pending = keys::pending_slice(job, index);
    let leased = keys::leased_slice(job, index);
    match slice.state {
        SliceState::Pending => {
            txn.put(pending, &())?;
            txn.delete(leased);
        }
        SliceState::Leased { .. } => {
            txn.delete(pending);
            txn.put(leased, &())?;
        }
        SliceState::Accepted | SliceState::Cut { .. } => {
            txn.delete(pending);
            txn.delete(leased);
        }
    }
    txn.put(keys::slice(job, index), slice)?;
    txn.event(Event::SliceChanged { job, slice: index });
    Ok(())
}

pub(crate) fn seal(txn: &mut Transaction<'_>, id: JobId, files: u32, slices: u32) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    // Slices that were cut since are among the job's, so only files can be compared.
    let sealed_before = job.phase > JobPhase::Claiming
        && !matches!(job.phase, JobPhase::Aborted | JobPhase::Cancelled)
        && job.files == files;
    if sealed_before {
        return Ok(CommandResult::Job { phase: job.phase });
    }
    if job.phase != JobPhase::Claiming {
        return refuse(wrong_phase(&job, "it cannot be sealed"));
    }
    if job.files != files || job.slices != slices {
        return refuse(came_between(format!(
            "job {id} has {} files claimed and {} slices planned, not {files} and {slices}",
            job.files, job.slices
        )));
    }
    if job.planned_files != job.files || job.planned_parts != job.expected_parts {
        return refuse(came_between(format!(
            "job {id} has {} files claimed and {} planned, {} of {} parts",
            job.files, job.planned_files, job.planned_parts, job.expected_parts
        )));
    }
    if job.kind == JobKind::Copy && slices == 0 {
        job.committed =
            Some(CommitSummary { table: job.table, snapshot_id: None, rows: 0, committed_on_ms: txn.now_ms });
        job.commit_number = txn.count(|counters| next(&mut counters.commits))?;
        jobs::end::leave_loading(txn, &mut job, JobPhase::Committed)?;
    } else {
        job.phase = JobPhase::Running;
        put(txn, &job)?;
    }
    Ok(CommandResult::Job { phase: job.phase })
}
